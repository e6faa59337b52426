//! The world: hosts with their machines, links, a queue of events in virtual time, faults, and the trace.
//!
//! Invariants: events happen in the order of their time, and of their making within one time; every random choice is drawn
//! from the one seed; a machine that crashed gets nothing any more, and what it had open ends at its peers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use antiphon_wire::Time;

use crate::faults::Faults;
use crate::link::{Link, LinkEnd};
use crate::machine::{Machine, MachineInput, MachineOutput, Outputs, SimConn};
use crate::rng::SimRng;
use crate::trace::Trace;

/// A world of machines.
pub struct World<M> {
    seed: u64,
    now: Time,
    rng: SimRng,
    faults: Faults,
    trace: Trace,
    hosts: BTreeMap<SocketAddr, SimHost<M>>,
    links: BTreeMap<u64, Link>,
    next_link: u64,
    queue: BTreeMap<(Time, u64), WorldEvent>,
    next_event: u64,
    cuts: u64,
    crashes: u64,
}

struct SimHost<M> {
    machine: Option<M>,
    make: Box<dyn FnMut(u64) -> M>,
    /// How often it was started.
    incarnation: u32,
    wake: Option<Time>,
    /// It stands still until then.
    held_until: Time,
}

#[derive(Debug)]
enum WorldEvent {
    /// A machine that stood still goes on.
    GoesOn {
        host: SocketAddr,
        incarnation: u32,
        span: Duration,
    },
    Start(SocketAddr),
    Timer {
        host: SocketAddr,
        incarnation: u32,
    },
    Dial {
        link: u64,
        to: SocketAddr,
    },
    DialFailed(u64),
    Connected(u64),
    /// Bytes reach the end `side` of `link`.
    Arrive {
        link: u64,
        side: usize,
        bytes: Vec<u8>,
    },
    Writable {
        link: u64,
        side: usize,
    },
    Closed {
        link: u64,
        side: usize,
    },
    Datagram {
        to: SocketAddr,
        from: SocketAddr,
        bytes: Vec<u8>,
    },
    Cut,
    Crash,
}

impl<M: Machine> World<M> {
    /// An empty world.
    pub fn new(seed: u64, faults: Faults) -> World<M> {
        let mut world = World {
            seed,
            now: Time::START,
            rng: SimRng::new(seed),
            faults,
            trace: Trace::new(),
            hosts: BTreeMap::new(),
            links: BTreeMap::new(),
            next_link: 0,
            queue: BTreeMap::new(),
            next_event: 0,
            cuts: 0,
            crashes: 0,
        };
        world.schedule_faults();
        world
    }

    /// Adds a host. `make` builds its machine at each start, from a seed.
    pub fn add(&mut self, location: SocketAddr, make: impl FnMut(u64) -> M + 'static) {
        let host = SimHost {
            machine: None,
            make: Box::new(make),
            incarnation: 0,
            wake: None,
            held_until: Time::START,
        };
        self.hosts.insert(location, host);
        let delay = self.rng.span(Duration::from_millis(1));
        self.schedule(delay, WorldEvent::Start(location));
    }

    /// Lets `span` pass.
    pub fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(entry) = self.queue.first_entry() {
            let (at, _) = *entry.key();
            if at > end {
                break;
            }
            let event = entry.remove();
            self.now = at;
            self.happen(event);
        }
        self.now = end;
    }

    /// From now on, other things go wrong.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
        self.queue.retain(|_, event| !matches!(event, WorldEvent::Cut | WorldEvent::Crash));
        self.schedule_faults();
    }

    /// The machine at a location, if it runs.
    pub fn machine(&mut self, location: SocketAddr) -> Option<&mut M> {
        self.hosts.get_mut(&location)?.machine.as_mut()
    }

    /// What happened so far.
    pub fn trace(&self) -> Trace {
        self.trace
    }

    /// The time.
    pub fn now(&self) -> Time {
        self.now
    }

    /// How many connections were cut, and how many machines crashed.
    pub fn faults_so_far(&self) -> (u64, u64) {
        (self.cuts, self.crashes)
    }

    /// Crashes a machine now; it starts again later.
    pub fn crash(&mut self, location: SocketAddr) {
        let Some(host) = self.hosts.get_mut(&location) else { return };
        host.machine = None;
        host.wake = None;
        self.crashes += 1;
        self.trace.note("crash", &[self.now.as_nanos(), location.port().into()], &[]);
        let hit: Vec<u64> = self
            .links
            .iter()
            .filter(|(_, link)| link.ends.iter().any(|end| end.host == location))
            .map(|(n, _)| *n)
            .collect();
        for link in hit {
            self.cut(link);
        }
        let delay = self.rng.span(self.faults.restart_within);
        self.schedule(delay, WorldEvent::Start(location));
    }

    /// A machine stands still for `span`, as a process does that was stopped; what arrives meanwhile waits.
    pub fn hold(&mut self, location: SocketAddr, span: Duration) {
        let until = self.now + span;
        let Some(host) = self.hosts.get_mut(&location) else { return };
        host.held_until = until;
        let incarnation = host.incarnation;
        self.schedule_at(until, WorldEvent::GoesOn { host: location, incarnation, span });
    }

    /// Whose turn an event is.
    fn host_of(&self, event: &WorldEvent) -> Option<SocketAddr> {
        let end = |link: &u64, side: usize| self.links.get(link).map(|link| link.ends[side].host);
        match event {
            WorldEvent::Timer { host, .. } => Some(*host),
            WorldEvent::Dial { to, .. } | WorldEvent::Datagram { to, .. } => Some(*to),
            WorldEvent::DialFailed(link) | WorldEvent::Connected(link) => end(link, 0),
            WorldEvent::Arrive { link, side, .. }
            | WorldEvent::Writable { link, side }
            | WorldEvent::Closed { link, side } => end(link, *side),
            WorldEvent::Start(_) | WorldEvent::GoesOn { .. } | WorldEvent::Cut | WorldEvent::Crash => None,
        }
    }

    fn schedule_faults(&mut self) {
        for (every, event) in
            [(self.faults.cut_every, WorldEvent::Cut), (self.faults.crash_every, WorldEvent::Crash)]
        {
            if !every.is_zero() {
                let delay = self.rng.span(every * 2);
                self.schedule(delay, event);
            }
        }
    }

    fn schedule(&mut self, delay: Duration, event: WorldEvent) {
        self.schedule_at(self.now + delay, event);
    }

    fn schedule_at(&mut self, at: Time, event: WorldEvent) {
        self.queue.insert((at.max(self.now), self.next_event), event);
        self.next_event += 1;
    }

    fn happen(&mut self, event: WorldEvent) {
        let host = self.host_of(&event).and_then(|host| self.hosts.get(&host));
        if let Some(until) = host.map(|host| host.held_until).filter(|until| *until > self.now) {
            return self.schedule_at(until, event);
        }
        match event {
            WorldEvent::GoesOn { host, incarnation, span } => self.go_on(host, incarnation, span),
            WorldEvent::Start(host) => self.start(host),
            WorldEvent::Timer { host, incarnation } => self.on_timer(host, incarnation),
            WorldEvent::Dial { link, to } => self.on_dial(link, to),
            WorldEvent::DialFailed(link) => {
                self.input(link, 0, MachineInput::DialFailed(Link::conn(link, 0)))
            }
            WorldEvent::Connected(link) => self.input(link, 0, MachineInput::Connected(Link::conn(link, 0))),
            WorldEvent::Arrive { link, side, bytes } => self.on_arrival(link, side, &bytes),
            WorldEvent::Writable { link, side } => {
                self.input(link, side, MachineInput::Writable(Link::conn(link, side)))
            }
            WorldEvent::Closed { link, side } => self.on_closed(link, side),
            WorldEvent::Datagram { to, from, bytes } => {
                self.handle(to, MachineInput::Datagram { from, bytes: &bytes })
            }
            WorldEvent::Cut => self.on_cut(),
            WorldEvent::Crash => self.on_crash(),
        }
    }

    fn start(&mut self, location: SocketAddr) {
        let seed = self.rng.number();
        let Some(host) = self.hosts.get_mut(&location) else { return };
        host.incarnation += 1;
        host.machine = Some((host.make)(seed));
        self.handle(location, MachineInput::Start);
    }

    fn on_timer(&mut self, location: SocketAddr, incarnation: u32) {
        let Some(host) = self.hosts.get_mut(&location) else { return };
        if host.incarnation == incarnation && host.wake.is_some_and(|wake| wake <= self.now) {
            host.wake = None;
            self.handle(location, MachineInput::Timer);
        }
    }

    fn go_on(&mut self, location: SocketAddr, incarnation: u32, span: Duration) {
        let Some(host) = self.hosts.get_mut(&location).filter(|host| host.incarnation == incarnation) else {
            return;
        };
        let Some(machine) = &mut host.machine else { return };
        self.trace.note("goes on", &[self.now.as_nanos(), location.port().into()], &[]);
        let mut outputs = Outputs::new(self.next_link);
        machine.stood_still(self.now, span, &mut outputs);
        machine.check();
        self.next_link = outputs.next_conn;
        for output in outputs.list {
            self.perform(location, incarnation, output);
        }
    }

    /// A dial reaches its host, or nothing.
    fn on_dial(&mut self, number: u64, to: SocketAddr) {
        let fails = self.rng.once_in(self.faults.dial_fails_once_in);
        let host = self.hosts.get(&to).filter(|host| host.machine.is_some() && !fails);
        let Some(incarnation) = host.map(|host| host.incarnation) else {
            let delay = self.latency();
            self.schedule(delay, WorldEvent::DialFailed(number));
            return;
        };
        let Some(link) = self.links.get_mut(&number) else { return };
        link.ends[1] = LinkEnd::new(to, incarnation);
        let from = link.ends[0].host;
        let delay = self.latency();
        self.schedule(delay, WorldEvent::Connected(number));
        self.input(number, 1, MachineInput::Accepted { conn: Link::conn(number, 1), from });
    }

    fn on_arrival(&mut self, number: u64, side: usize, bytes: &[u8]) {
        let Some(link) = self.links.get_mut(&number) else { return };
        let arriving = link.ends[1 - side].arrive(bytes.len() as u64);
        let arriving = usize::try_from(arriving).unwrap_or(usize::MAX);
        if arriving > 0 {
            self.input(
                number,
                side,
                MachineInput::Bytes { conn: Link::conn(number, side), bytes: &bytes[..arriving] },
            );
        }
    }

    fn on_closed(&mut self, number: u64, side: usize) {
        self.input(number, side, MachineInput::Closed(Link::conn(number, side)));
        let Some(link) = self.links.get_mut(&number) else { return };
        link.ends[side].is_open = false;
        if link.ends.iter().all(|end| !end.is_open) {
            self.links.remove(&number);
        }
    }

    fn on_cut(&mut self) {
        let count = self.links.len() as u64;
        if count > 0 {
            let nth = usize::try_from(self.rng.below(count)).unwrap_or(0);
            if let Some(number) = self.links.keys().copied().nth(nth) {
                self.cut(number);
            }
        }
        let delay = self.rng.span(self.faults.cut_every * 2);
        self.schedule(delay, WorldEvent::Cut);
    }

    /// Cuts both streams of a link, each at some byte. One end may not notice.
    fn cut(&mut self, number: u64) {
        self.cuts += 1;
        let Some(link) = self.links.get_mut(&number) else { return };
        link.ends.iter_mut().for_each(|end| end.cut(&mut self.rng));
        let unnoticed = self.rng.once_in(self.faults.half_open_once_in).then(|| self.rng.below(2));
        self.trace.note("cut", &[self.now.as_nanos(), number], &[]);
        for side in 0..2 {
            if unnoticed != Some(side as u64) {
                let delay = self.latency();
                self.schedule(delay, WorldEvent::Closed { link: number, side });
            }
        }
    }

    fn on_crash(&mut self) {
        let running: Vec<SocketAddr> =
            self.hosts.iter().filter(|(_, host)| host.machine.is_some()).map(|(at, _)| *at).collect();
        if !running.is_empty() {
            let nth = usize::try_from(self.rng.below(running.len() as u64)).unwrap_or(0);
            self.crash(running[nth]);
        }
        let delay = self.rng.span(self.faults.crash_every * 2);
        self.schedule(delay, WorldEvent::Crash);
    }

    /// An input that concerns one end of a link, if the machine that has it still lives.
    fn input(&mut self, number: u64, side: usize, input: MachineInput<'_>) {
        let Some(link) = self.links.get(&number) else { return };
        let end = &link.ends[side];
        let host = end.host;
        let lives = self
            .hosts
            .get(&host)
            .is_some_and(|host| host.machine.is_some() && host.incarnation == end.incarnation);
        if end.is_open && lives {
            self.handle(host, input);
        }
    }

    fn handle(&mut self, location: SocketAddr, input: MachineInput<'_>) {
        let Some(host) = self.hosts.get_mut(&location) else { return };
        let Some(machine) = &mut host.machine else { return };
        note(&mut self.trace, self.now, location, &input);
        let mut outputs = Outputs::new(self.next_link);
        machine.handle(self.now, input, &mut outputs);
        machine.check();
        self.next_link = outputs.next_conn;
        let incarnation = host.incarnation;
        for output in outputs.list {
            self.perform(location, incarnation, output);
        }
    }

    fn perform(&mut self, from: SocketAddr, incarnation: u32, output: MachineOutput) {
        match output {
            MachineOutput::Dial { conn, to } => {
                let (number, _) = Link::of(conn);
                // Until the dial arrives, nobody has the other end.
                let ends = [LinkEnd::new(from, incarnation), LinkEnd::new(to, 0)];
                self.links.insert(number, Link { ends });
                let delay = self.latency();
                self.schedule(delay, WorldEvent::Dial { link: number, to });
            }
            MachineOutput::Write { conn, bytes } => self.write(conn, &bytes),
            MachineOutput::Close(conn) => self.close(conn),
            MachineOutput::Datagram { to, bytes } => self.send_datagram(from, to, &bytes),
            MachineOutput::Wake(at) => {
                let Some(host) = self.hosts.get_mut(&from) else { return };
                let at = at.max(self.now + Duration::from_nanos(1));
                if host.wake != Some(at) {
                    host.wake = Some(at);
                    self.schedule_at(at, WorldEvent::Timer { host: from, incarnation });
                }
            }
        }
    }

    /// Sends bytes on their way, in pieces.
    fn write(&mut self, conn: SimConn, mut bytes: &[u8]) {
        let (number, side) = Link::of(conn);
        let Some(link) = self.links.get_mut(&number) else { return };
        link.ends[side].written += bytes.len() as u64;
        let mut leaves = self.now;
        while !bytes.is_empty() {
            let most = self.faults.piece_bytes_max.max(1).min(bytes.len() as u64);
            let count = usize::try_from(1 + self.rng.below(most)).unwrap_or(bytes.len());
            let (piece, rest) = bytes.split_at(count);
            bytes = rest;
            let at = self.now + self.latency();
            let Some(link) = self.links.get_mut(&number) else { return };
            let end = &mut link.ends[side];
            end.last_arrival = end.last_arrival.max(at);
            leaves = end.last_arrival;
            self.schedule_at(
                leaves,
                WorldEvent::Arrive { link: number, side: 1 - side, bytes: piece.to_vec() },
            );
        }
        self.schedule_at(leaves, WorldEvent::Writable { link: number, side });
    }

    fn close(&mut self, conn: SimConn) {
        let (number, side) = Link::of(conn);
        let delay = self.latency();
        let Some(link) = self.links.get_mut(&number) else { return };
        link.ends[side].is_open = false;
        let at = link.ends[side].last_arrival.max(self.now + delay);
        self.schedule_at(at, WorldEvent::Closed { link: number, side: 1 - side });
    }

    fn send_datagram(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let is_lost = self.rng.once_in(self.faults.datagram_lost_once_in);
        let is_doubled = self.rng.once_in(self.faults.datagram_lost_once_in);
        for _ in 0..usize::from(!is_lost) + usize::from(is_doubled) {
            let delay = self.latency();
            self.schedule(delay, WorldEvent::Datagram { to, from, bytes: bytes.to_vec() });
        }
    }

    fn latency(&mut self) -> Duration {
        self.faults.latency + self.rng.span(self.faults.jitter)
    }
}

/// Records the trace hash, for `cargo xtask fingerprint`.
impl<M> Drop for World<M> {
    fn drop(&mut self) {
        self.trace.record(self.seed);
    }
}

impl<M> std::fmt::Debug for World<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("now", &self.now).field("trace", &self.trace).finish_non_exhaustive()
    }
}

fn note(trace: &mut Trace, now: Time, host: SocketAddr, input: &MachineInput<'_>) {
    let (what, conn, bytes): (_, u64, &[u8]) = match input {
        MachineInput::Start => ("start", 0, &[]),
        MachineInput::Timer => ("timer", 0, &[]),
        MachineInput::Accepted { conn, .. } => ("accepted", conn.0, &[]),
        MachineInput::Connected(conn) => ("connected", conn.0, &[]),
        MachineInput::DialFailed(conn) => ("dial failed", conn.0, &[]),
        MachineInput::Bytes { conn, bytes } => ("bytes", conn.0, bytes),
        MachineInput::Writable(conn) => ("writable", conn.0, &[]),
        MachineInput::Closed(conn) => ("closed", conn.0, &[]),
        MachineInput::Datagram { from, bytes } => ("datagram", from.port().into(), bytes),
    };
    trace.note(what, &[now.as_nanos(), host.port().into(), conn], bytes);
}

#[cfg(test)]
mod tests;
