//! A whole node as a machine: the real scheduler on virtual time, and the real core of the node.
//!
//! Users can test their own actors with it: the world cuts connections, delays bytes and crashes nodes, and the same seed
//! repeats all of that.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use antiphon_dist::node::{self as dist, ConnId, NodeCore};
use antiphon_dist::testing::MemoryDisk;
use antiphon_dist::{Config, IpNet, Location};
use antiphon_sched::{JobPool, LocalActors, Loop, LoopConfig, LoopStats, NodeId, Platform};
use antiphon_wire::{Entropy, Time};
use tracing::span::EnteredSpan;

use crate::machine::{Machine, MachineInput, MachineOutput, Outputs, SimConn};
use crate::rng::SimRng;
use crate::world::{Neighbours, World};

/// A node of actors in a simulated world.
pub struct SimNode {
    sched: Loop,
    rng: SimRng,
    location: SocketAddr,
    /// The nodes that receive the broadcasts of this one.
    neighbours: Neighbours,
    /// Outputs of the core that are not performed yet.
    pending: Vec<dist::Output>,
    conns: BTreeMap<ConnId, SimConn>,
    ids: BTreeMap<SimConn, ConnId>,
    /// The size of the batch that each connection is writing.
    writing: BTreeMap<ConnId, usize>,
    /// The names that can be resolved.
    hosts: BTreeMap<String, SocketAddr>,
    disk: MemoryDisk,
    /// All actors have ended after a stop, and the node says goodbye when its peers have acknowledged all that was sent.
    has_stopped: bool,
    /// The events since the last check of the core.
    unchecked: u32,
}

/// The events after which the core checks itself. A check walks all that waits.
const EVENTS_PER_CHECK: u32 = 8;

/// The driver of the node's core during one call.
struct SimDriver<'a> {
    local: LocalActors<'a>,
    rng: &'a mut SimRng,
    pending: &'a mut Vec<dist::Output>,
}

impl dist::Driver for SimDriver<'_> {
    fn local(&mut self) -> LocalActors<'_> {
        self.local.reborrow()
    }

    fn output(&mut self, output: dist::Output) {
        self.pending.push(output);
    }

    fn entropy(&mut self) -> Option<Entropy> {
        Some(self.rng.entropy())
    }
}

impl SimNode {
    /// Makes a node at `location`; `set_up` spawns its actors. Its incarnation and all its random choices come from `seed`.
    /// It has an empty disk of its own.
    ///
    /// # Panics
    /// If the configuration is invalid.
    pub fn new<R>(
        config: &Config,
        location: SocketAddr,
        seed: u64,
        set_up: impl FnOnce(&mut Loop) -> R,
    ) -> Self {
        Self::on_disk(config, location, seed, &MemoryDisk::new(), set_up)
    }

    /// As [`SimNode::new`], with a disk that survives the node: it has the files that the node sends, and stores those that it
    /// receives in `dest_path`.
    ///
    /// # Panics
    /// As [`SimNode::new`], or if the disk is set to fail.
    pub fn on_disk<R>(
        config: &Config,
        location: SocketAddr,
        seed: u64,
        disk: &MemoryDisk,
        set_up: impl FnOnce(&mut Loop) -> R,
    ) -> Self {
        let mut rng = SimRng::new(seed);
        let node_id = NodeId::from_bits(rng.number());
        let scheduler = LoopConfig {
            platform: Platform::Virtual,
            node_id: Some(node_id),
            seed: Some(rng.number()),
            watchdog: None,
            ..config.scheduler.clone()
        };
        let mut sched = Loop::new(scheduler).expect("a virtual loop needs no resources of the system");
        let every_network = vec![IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0)];
        let core = NodeCore::simulated(config, node_id, Location::new(location), every_network);
        sched.set_transport(Box::new(core.expect("the configuration is valid")));
        disk.start_services(config, &mut sched).expect("the disk is not set to fail");
        let of_files = disk.clone();
        sched.set_job_time(
            move |pool, now| if pool == JobPool::Files { of_files.end_job(now) } else { Duration::ZERO },
        );
        set_up(&mut sched);
        Self {
            sched,
            rng,
            location,
            neighbours: Neighbours::default(),
            pending: Vec::new(),
            conns: BTreeMap::new(),
            ids: BTreeMap::new(),
            writing: BTreeMap::new(),
            hosts: BTreeMap::new(),
            disk: disk.clone(),
            has_stopped: false,
            unchecked: 0,
        }
    }

    /// Sets the nodes that receive the broadcasts of this one. This node may be among them.
    pub fn set_neighbours(&mut self, neighbours: Vec<SocketAddr>) {
        self.neighbours = Rc::new(RefCell::new(neighbours));
    }

    /// Lets this node resolve the host `name` to `location`.
    pub fn set_host(&mut self, name: &str, location: SocketAddr) {
        self.hosts.insert(name.to_owned(), location);
    }

    /// Lets the jobs of [`Cx::blocking`](antiphon_sched::Cx::blocking) take a time between `shortest` and `longest`, drawn for
    /// each. Without this call they take no time. (The disk sets the time of jobs on files.)
    pub fn set_job_times(&mut self, shortest: Duration, longest: Duration) {
        let (disk, mut rng) = (self.disk.clone(), SimRng::new(self.rng.number()));
        self.sched.set_job_time(move |pool, now| match pool {
            JobPool::Files => disk.end_job(now),
            _ => shortest + rng.span(longest.saturating_sub(shortest)),
        });
    }

    /// The event loop of this node, for example to spawn more actors. After a stop by its handle, the node leaves as a real one
    /// does.
    pub fn sched(&mut self) -> &mut Loop {
        &mut self.sched
    }

    /// The statistics of the scheduler.
    pub fn stats(&self) -> LoopStats {
        self.sched.stats()
    }

    /// The counters of the node.
    pub fn counts(&mut self) -> antiphon_dist::Counts {
        self.sched.loop_ref().transport::<NodeCore>().map(|core| core.counts()).unwrap_or_default()
    }

    /// The steps of work of the node since its start: see [`NodeCore::steps`].
    pub fn steps(&mut self) -> u64 {
        self.with_core(|core, _, _| core.steps())
    }

    /// Checks all tables and sessions of the node: see [`NodeCore::check`]. It does so itself after some events.
    ///
    /// # Panics
    /// If an invariant is broken.
    pub fn check_core(&mut self) {
        self.unchecked = 0;
        self.with_core(|core, _, _| core.check());
    }

    /// The bytes that the node holds for one peer: see [`NodeCore::held_bytes`].
    pub fn held_bytes(&mut self, peer: NodeId) -> u64 {
        self.with_core(|core, _, _| core.held_bytes(peer))
    }

    /// Calls `act` with the core.
    fn with_core<R>(&mut self, act: impl FnOnce(&mut NodeCore, &mut SimDriver<'_>, Time) -> R) -> R {
        let (rng, pending) = (&mut self.rng, &mut self.pending);
        let result = self.sched.with_transport(|core, local| {
            let now = local.now();
            act(core, &mut SimDriver { local: local.reborrow(), rng, pending }, now)
        });
        result.expect("the loop has the core as its transport")
    }

    /// Passes an input to the core, and performs its outputs until there are no more.
    fn feed(&mut self, input: dist::Input<'_>, out: &mut Outputs) {
        self.with_core(|core, driver, now| core.handle(now, input, driver));
        while !self.pending.is_empty() {
            for output in std::mem::take(&mut self.pending) {
                self.perform(output, out);
            }
        }
    }

    fn perform(&mut self, output: dist::Output, out: &mut Outputs) {
        match output {
            dist::Output::Dial(id, to) => {
                let conn = out.dial(to);
                self.conns.insert(id, conn);
                self.ids.insert(conn, id);
            }
            dist::Output::Write(id) => self.write(id, out),
            dist::Output::Close(id) => {
                self.writing.remove(&id);
                if let Some(conn) = self.conns.remove(&id) {
                    self.ids.remove(&conn);
                    out.push(MachineOutput::Close(conn));
                }
            }
            // Each node has a port of its own, so a datagram reaches exactly the node that it is addressed to.
            dist::Output::Datagram(to, bytes) | dist::Output::Ask(to, bytes) => {
                out.push(MachineOutput::Datagram { to, bytes });
            }
            dist::Output::Broadcast(bytes) => self.broadcast(&bytes, |_| true, out),
            dist::Output::Siblings(bytes) => {
                let here = self.location.ip();
                self.broadcast(&bytes, |to| to.ip() == here, out);
            }
            dist::Output::Resolve { query, host, .. } => {
                let found =
                    self.hosts.get(&host).map(|at| vec![*at]).ok_or_else(|| "no such host".to_owned());
                self.with_core(|core, _, _| core.resolved(query, found));
            }
            other => unreachable!("the simulator does not support the output {other:?}"),
        }
    }

    fn broadcast(&self, bytes: &[u8], reaches: impl Fn(&SocketAddr) -> bool, out: &mut Outputs) {
        for to in self.neighbours.borrow().iter().filter(|to| **to != self.location && reaches(to)) {
            out.push(MachineOutput::Datagram { to: *to, bytes: bytes.to_vec() });
        }
    }

    /// Writes the next batch of a connection, unless the last one has not left yet.
    fn write(&mut self, id: ConnId, out: &mut Outputs) {
        let Some(conn) = self.conns.get(&id).copied() else { return };
        if self.writing.contains_key(&id) {
            return;
        }
        let bytes = self.with_core(|core, _, _| core.outgoing(id).to_vec());
        if !bytes.is_empty() {
            self.writing.insert(id, bytes.len());
            out.push(MachineOutput::Write { conn, bytes });
        }
    }

    /// Runs the actors and the core until both have nothing to do now; then checks the core and sets the next wake-up.
    fn run(&mut self, out: &mut Outputs) {
        loop {
            self.sched.work();
            self.feed(dist::Input::Tick, out);
            let dirty = self.with_core(|core, _, _| core.is_dirty());
            self.leave_after_stop(out);
            if !dirty && !self.sched.is_runnable() {
                break;
            }
        }
        self.unchecked += 1;
        if self.unchecked >= EVENTS_PER_CHECK {
            self.check_core();
        }
        let core = self.with_core(|core, _, _| core.next_timeout());
        let next = [core, self.sched.next_deadline()].into_iter().flatten().min();
        if let Some(at) = next {
            out.push(MachineOutput::Wake(at));
        }
    }

    /// When all actors have ended after a stop, waits until everything that was sent is acknowledged; then says goodbye.
    fn leave_after_stop(&mut self, out: &mut Outputs) {
        if self.sched.has_stopped() {
            self.sched.reset_stop();
            self.has_stopped = true;
        }
        if self.has_stopped && self.with_core(|core, _, _| core.is_flushed()) {
            self.feed(dist::Input::Leave, out);
        }
    }

    fn receive(&mut self, conn: SimConn, mut bytes: &[u8], out: &mut Outputs) {
        while !bytes.is_empty() {
            let Some(id) = self.ids.get(&conn).copied() else { return };
            let taken = self.with_core(|core, _, _| {
                let space = core.space(id);
                let taken = space.len().min(bytes.len());
                space[..taken].copy_from_slice(&bytes[..taken]);
                taken
            });
            if taken == 0 {
                return;
            }
            bytes = &bytes[taken..];
            self.feed(dist::Input::Received(id, taken), out);
            while self.with_core(|core, _, _| core.has_unread(id)) {
                self.feed(dist::Input::Received(id, 0), out);
            }
        }
    }

    fn accept(&mut self, conn: SimConn, from: SocketAddr, out: &mut Outputs) {
        let accepted = self.with_core(|core, driver, now| core.accept(now, from, driver));
        match accepted {
            Some(id) => {
                self.conns.insert(id, conn);
                self.ids.insert(conn, id);
                self.feed(dist::Input::Accepted { conn: id, tls: None }, out);
            }
            None => out.push(MachineOutput::Close(conn)),
        }
    }

    /// Enters the span of the node's log lines, with the virtual time in seconds.
    fn enter_span(&self, now: Time) -> EnteredSpan {
        let seconds = Duration::from_nanos(now.as_nanos()).as_secs_f64();
        tracing::info_span!(target: "antiphon::node", "node", at = %self.location, t = seconds).entered()
    }

    fn advance_to(&mut self, now: Time) {
        self.sched.advance_to(now);
        self.disk.set_now(now);
    }

    fn remove_conn(&mut self, conn: SimConn) -> Option<ConnId> {
        let id = self.ids.remove(&conn)?;
        self.conns.remove(&id);
        self.writing.remove(&id);
        Some(id)
    }
}

impl World<SimNode> {
    /// Adds a node, whose actors `set_up` starts at each of its starts. Returns its disk, which survives its crashes. All nodes
    /// that are added so receive each other's announcements.
    ///
    /// # Panics
    /// At its start, if the configuration is invalid.
    pub fn add_node<R>(
        &mut self,
        location: SocketAddr,
        config: &Config,
        mut set_up: impl FnMut(&mut Loop) -> R + 'static,
    ) -> MemoryDisk {
        let (config, disk, neighbours) = (config.clone(), MemoryDisk::new(), self.neighbours().clone());
        neighbours.borrow_mut().push(location);
        let kept = disk.clone();
        self.add(location, move |seed| {
            let mut node = SimNode::on_disk(&config, location, seed, &kept, &mut set_up);
            node.neighbours = neighbours.clone();
            node
        });
        disk
    }
}

impl Machine for SimNode {
    fn handle(&mut self, now: Time, input: MachineInput<'_>, out: &mut Outputs) {
        let _span = self.enter_span(now);
        self.advance_to(now);
        match input {
            MachineInput::Start => self.feed(dist::Input::Start, out),
            MachineInput::Timer => {}
            MachineInput::Accepted { conn, from } => self.accept(conn, from, out),
            MachineInput::Connected(conn) => {
                if let Some(id) = self.ids.get(&conn).copied() {
                    self.feed(dist::Input::Connected { conn: id, tls: None }, out);
                }
            }
            MachineInput::DialFailed(conn) => {
                if let Some(id) = self.remove_conn(conn) {
                    // The world does not distinguish a host that refuses from one that is absent.
                    self.feed(dist::Input::DialFailed { conn: id, refused: false }, out);
                }
            }
            MachineInput::Bytes { conn, bytes } => self.receive(conn, bytes, out),
            MachineInput::Writable(conn) => {
                if let Some(id) = self.ids.get(&conn).copied()
                    && let Some(count) = self.writing.remove(&id)
                {
                    self.feed(dist::Input::Written(id, count), out);
                    self.write(id, out);
                }
            }
            MachineInput::Closed(conn) => {
                if let Some(id) = self.remove_conn(conn) {
                    self.feed(dist::Input::Closed(id), out);
                }
            }
            MachineInput::Datagram { from, bytes } => self.feed(dist::Input::Datagram(from, bytes), out),
        }
        self.run(out);
    }

    fn on_stall(&mut self, now: Time, span: Duration, out: &mut Outputs) {
        let _span = self.enter_span(now);
        self.advance_to(now);
        self.feed(dist::Input::Stalled(span), out);
    }

    /// Does nothing: the actors of a test check the promises of a node, and `run` checks the invariants of its core after
    /// each event.
    fn check(&self) {}
}

impl std::fmt::Debug for SimNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimNode")
            .field("location", &self.location)
            .field("sched", &self.sched)
            .finish_non_exhaustive()
    }
}
