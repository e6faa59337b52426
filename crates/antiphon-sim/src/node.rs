//! A whole node as a machine: the real scheduler on virtual time, and the real core of the node.
//!
//! Users test their own actors so: the world cuts, delays and crashes, and the same seed does it again.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use antiphon_dist::node::{self as dist, ConnId, NodeCore};
use antiphon_dist::{Config, Location};
use antiphon_sched::{Loop, LoopConfig, LoopRef, LoopStats, NodeId, Park, Time as LoopTime};
use antiphon_wire::{Entropy, Time};

use crate::machine::{Machine, MachineInput, MachineOutput, Outputs, SimConn};
use crate::rng::SimRng;

/// A node of actors in a simulated world.
pub struct SimNode {
    sched: Loop,
    rng: SimRng,
    location: SocketAddr,
    /// Who hears what this node broadcasts.
    neighbours: Vec<SocketAddr>,
    wishes: Vec<dist::Output>,
    conns: BTreeMap<ConnId, SimConn>,
    ids: BTreeMap<SimConn, ConnId>,
    /// Bytes on their way out, which the world has taken.
    leaving: BTreeMap<ConnId, usize>,
    hosts: BTreeMap<String, SocketAddr>,
}

/// What the core stands on, for the length of one call.
struct SimDriver<'a> {
    sched: &'a mut Loop,
    rng: &'a mut SimRng,
    wishes: &'a mut Vec<dist::Output>,
}

impl dist::Driver for SimDriver<'_> {
    fn loop_ref(&mut self) -> LoopRef<'_> {
        self.sched.loop_ref()
    }

    fn output(&mut self, output: dist::Output) {
        self.wishes.push(output);
    }

    fn entropy(&mut self) -> Option<Entropy> {
        Some(self.rng.entropy())
    }
}

impl SimNode {
    /// A node at `location`; `set_up` spawns its actors. Its incarnation and all its chance come from `seed`.
    ///
    /// # Panics
    /// When the configuration is one that no node can have.
    pub fn new(config: &Config, location: SocketAddr, seed: u64, set_up: impl FnOnce(&mut Loop)) -> Self {
        let mut rng = SimRng::new(seed);
        let node_id = NodeId::from_bits(rng.number());
        let scheduler = LoopConfig {
            park: Park::Virtual,
            node_id: Some(node_id),
            seed: Some(rng.number()),
            watchdog: None,
            ..config.scheduler.clone()
        };
        let mut sched = Loop::new(scheduler).expect("a virtual loop needs nothing of the system");
        let everywhere = vec![(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)];
        let core = NodeCore::simulated(config, node_id, Location::new(location), everywhere);
        sched.set_transport(Box::new(core.expect("a sound configuration")));
        set_up(&mut sched);
        Self {
            sched,
            rng,
            location,
            neighbours: Vec::new(),
            wishes: Vec::new(),
            conns: BTreeMap::new(),
            ids: BTreeMap::new(),
            leaving: BTreeMap::new(),
            hosts: BTreeMap::new(),
        }
    }

    /// Who hears what this node broadcasts.
    pub fn set_neighbours(&mut self, neighbours: Vec<SocketAddr>) {
        self.neighbours = neighbours;
    }

    /// A host that can be looked up.
    pub fn set_host(&mut self, name: &str, location: SocketAddr) {
        self.hosts.insert(name.to_owned(), location);
    }

    /// The loop, to look at it or to spawn more.
    pub fn sched(&mut self) -> &mut Loop {
        &mut self.sched
    }

    /// How the scheduler is doing.
    pub fn stats(&self) -> LoopStats {
        self.sched.stats()
    }

    /// How the node is doing.
    pub fn counts(&mut self) -> antiphon_dist::Counts {
        self.sched.loop_ref().transport::<NodeCore>().map(|core| core.counts()).unwrap_or_default()
    }

    /// Takes the core out of the loop for a moment.
    fn with_core<R>(&mut self, act: impl FnOnce(&mut NodeCore, &mut SimDriver<'_>, LoopTime) -> R) -> R {
        let mut core = self.sched.take_transport::<NodeCore>().expect("it stands there between events");
        let now = self.sched.now();
        let mut driver = SimDriver { sched: &mut self.sched, rng: &mut self.rng, wishes: &mut self.wishes };
        let result = act(&mut core, &mut driver, now);
        self.sched.set_transport(core);
        result
    }

    /// Gives the core an input, and does what it wants, until it wants nothing more.
    fn give(&mut self, input: dist::Input<'_>, out: &mut Outputs) {
        self.with_core(|core, driver, now| core.handle(now, input, driver));
        while !self.wishes.is_empty() {
            for wish in std::mem::take(&mut self.wishes) {
                self.perform(wish, out);
            }
        }
    }

    fn perform(&mut self, wish: dist::Output, out: &mut Outputs) {
        match wish {
            dist::Output::Dial(id, to) => {
                let conn = out.dial(to);
                self.conns.insert(id, conn);
                self.ids.insert(conn, id);
            }
            dist::Output::Write(id) => self.write(id, out),
            dist::Output::Close(id) => {
                self.leaving.remove(&id);
                if let Some(conn) = self.conns.remove(&id) {
                    self.ids.remove(&conn);
                    out.push(MachineOutput::Close(conn));
                }
            }
            // Each node has a port of its own, so a datagram reaches the one that it is for.
            dist::Output::Datagram(to, bytes) | dist::Output::Ask(to, bytes) => {
                out.push(MachineOutput::Datagram { to, bytes });
            }
            dist::Output::Broadcast(bytes) => self.shout(&bytes, |_| true, out),
            dist::Output::Siblings(bytes) => {
                let here = self.location.ip();
                self.shout(&bytes, |to| to.ip() == here, out);
            }
            dist::Output::Resolve { query, host, .. } => {
                let found =
                    self.hosts.get(&host).map(|at| vec![*at]).ok_or_else(|| "no such host".to_owned());
                self.with_core(|core, _, _| core.resolved(query, found));
            }
            other => unreachable!("the simulator knows no {other:?}"),
        }
    }

    fn shout(&self, bytes: &[u8], reaches: impl Fn(&SocketAddr) -> bool, out: &mut Outputs) {
        for to in self.neighbours.iter().filter(|to| **to != self.location && reaches(to)) {
            out.push(MachineOutput::Datagram { to: *to, bytes: bytes.to_vec() });
        }
    }

    /// Puts what a connection has to say on its way, one batch at a time.
    fn write(&mut self, id: ConnId, out: &mut Outputs) {
        let Some(conn) = self.conns.get(&id).copied() else { return };
        if self.leaving.contains_key(&id) {
            return;
        }
        let bytes = self.with_core(|core, _, _| core.outgoing(id).to_vec());
        if !bytes.is_empty() {
            self.leaving.insert(id, bytes.len());
            out.push(MachineOutput::Write { conn, bytes });
        }
    }

    /// Runs actors and core until both have nothing to do now.
    fn run(&mut self, out: &mut Outputs) {
        loop {
            self.sched.work();
            self.give(dist::Input::Tick, out);
            let dirty = self.with_core(|core, _, _| core.is_dirty());
            if !dirty && !self.sched.is_runnable() {
                break;
            }
        }
        let core = self.with_core(|core, _, _| {
            core.check();
            core.next_timeout()
        });
        let next = [core, self.sched.next_deadline()].into_iter().flatten().min();
        if let Some(at) = next {
            out.push(MachineOutput::Wake(Time::from_nanos(at.as_nanos())));
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
            self.give(dist::Input::Received(id, taken), out);
        }
    }

    fn accept(&mut self, conn: SimConn, from: SocketAddr, out: &mut Outputs) {
        let accepted = self.with_core(|core, driver, now| core.accept(now, from, driver));
        match accepted {
            Some(id) => {
                self.conns.insert(id, conn);
                self.ids.insert(conn, id);
                self.give(dist::Input::Accepted { conn: id, tls: None }, out);
            }
            None => out.push(MachineOutput::Close(conn)),
        }
    }

    fn forget(&mut self, conn: SimConn) -> Option<ConnId> {
        let id = self.ids.remove(&conn)?;
        self.conns.remove(&id);
        self.leaving.remove(&id);
        Some(id)
    }
}

impl Machine for SimNode {
    fn handle(&mut self, now: Time, input: MachineInput<'_>, out: &mut Outputs) {
        self.sched.advance_to(loop_time(now));
        match input {
            MachineInput::Start => self.give(dist::Input::Start, out),
            MachineInput::Timer => {}
            MachineInput::Accepted { conn, from } => self.accept(conn, from, out),
            MachineInput::Connected(conn) => {
                if let Some(id) = self.ids.get(&conn).copied() {
                    self.give(dist::Input::Connected { conn: id, tls: None }, out);
                }
            }
            MachineInput::DialFailed(conn) => {
                if let Some(id) = self.forget(conn) {
                    // The world does not tell a host that refuses from one that is not there.
                    self.give(dist::Input::DialFailed { conn: id, refused: false }, out);
                }
            }
            MachineInput::Bytes { conn, bytes } => self.receive(conn, bytes, out),
            MachineInput::Writable(conn) => {
                if let Some(id) = self.ids.get(&conn).copied()
                    && let Some(count) = self.leaving.remove(&id)
                {
                    self.give(dist::Input::Written(id, count), out);
                    self.write(id, out);
                }
            }
            MachineInput::Closed(conn) => {
                if let Some(id) = self.forget(conn) {
                    self.give(dist::Input::Closed(id), out);
                }
            }
            MachineInput::Datagram { from, bytes } => self.give(dist::Input::Datagram(from, bytes), out),
        }
        self.run(out);
    }

    fn stood_still(&mut self, now: Time, span: Duration, out: &mut Outputs) {
        self.sched.advance_to(loop_time(now));
        self.give(dist::Input::Stalled(span), out);
    }

    /// What a node promises is checked by the actors of a test; what its core holds invariant, after each
    /// event, in `run`.
    fn check(&self) {}
}

fn loop_time(now: Time) -> LoopTime {
    LoopTime::from_nanos(now.as_nanos())
}

impl std::fmt::Debug for SimNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimNode")
            .field("location", &self.location)
            .field("sched", &self.sched)
            .finish_non_exhaustive()
    }
}
