//! The world: hosts with their machines, connections, a queue of events in virtual time, faults, and the trace.
//!
//! Invariants:
//! - Events are handled in the order of their times; those of one time in the order in which they were scheduled.
//! - Every random choice is drawn from the one seed.
//! - A machine that crashed gets no more events, and its connections end at the other side.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use antiphon_wire::Time;

use crate::faults::{FaultCounts, Faults};
use crate::machine::{Machine, MachineInput, MachineOutput, Outputs, SimConn};
use crate::rng::SimRng;
use crate::run_record;
use crate::shortened_trace::{FaultEvent, Seconds, ShortenedTrace, TracedEvent};
use crate::stream_pair::{StreamEnd, StreamPair};
use crate::trace::Trace;

/// The machines that receive each other's broadcasts.
pub(crate) type Neighbours = Rc<RefCell<Vec<SocketAddr>>>;

/// A simulated network of machines.
pub struct World<M> {
    seed: u64,
    now: Time,
    rng: SimRng,
    faults: Faults,
    trace: Trace,
    shortened_trace: ShortenedTrace,
    hosts: BTreeMap<SocketAddr, SimHost<M>>,
    connections: BTreeMap<u64, StreamPair>,
    next_connection: u64,
    queue: BTreeMap<(Time, u64), WorldEvent>,
    next_event: u64,
    fault_counts: FaultCounts,
    /// The pairs of hosts of which the second receives nothing from the first.
    blocked: BTreeSet<(SocketAddr, SocketAddr)>,
    /// The events of streams that wait for the end of a partition, in order.
    held: Vec<WorldEvent>,
    /// The machines that are added as neighbours of each other.
    neighbours: Neighbours,
}

struct SimHost<M> {
    machine: Option<M>,
    /// Builds the machine at each start, from a seed.
    make: Box<dyn FnMut(u64) -> M>,
    /// The number of starts.
    incarnation: u32,
    /// The time of the next timer event.
    wake: Option<Time>,
    /// No event reaches the machine before this time.
    stalled_until: Time,
}

#[derive(Debug)]
enum WorldEvent {
    /// The stall of a machine ends.
    StallEnds {
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
        number: u64,
        to: SocketAddr,
    },
    DialFailed(u64),
    Connected(u64),
    /// Bytes reach the end `side` of a connection.
    Arrive {
        number: u64,
        side: usize,
        bytes: Vec<u8>,
    },
    Writable {
        number: u64,
        side: usize,
    },
    Closed {
        number: u64,
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
    /// Makes a world without machines.
    pub fn new(seed: u64, faults: Faults) -> World<M> {
        let mut world = World {
            seed,
            now: Time::ZERO,
            rng: SimRng::new(seed),
            faults,
            trace: Trace::new(),
            shortened_trace: ShortenedTrace::new(),
            hosts: BTreeMap::new(),
            connections: BTreeMap::new(),
            next_connection: 0,
            queue: BTreeMap::new(),
            next_event: 0,
            fault_counts: FaultCounts::default(),
            blocked: BTreeSet::new(),
            held: Vec::new(),
            neighbours: Neighbours::default(),
        };
        world.schedule_faults();
        world
    }

    /// The machines that are added as neighbours of each other.
    pub(crate) fn neighbours(&self) -> &Neighbours {
        &self.neighbours
    }

    /// Adds a host, which starts within a millisecond. `make` builds its machine at each start, from a seed.
    pub fn add(&mut self, location: SocketAddr, make: impl FnMut(u64) -> M + 'static) {
        let host = SimHost {
            machine: None,
            make: Box::new(make),
            incarnation: 0,
            wake: None,
            stalled_until: Time::ZERO,
        };
        self.hosts.insert(location, host);
        let delay = self.rng.span(Duration::from_millis(1));
        self.schedule(delay, WorldEvent::Start(location));
    }

    /// Advances the time by `span`, and handles all events that are due by then.
    pub fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        while self.process_next(end) {}
        self.now = end;
    }

    /// Handles the next event, if it is due by `end`.
    fn process_next(&mut self, end: Time) -> bool {
        let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= end) else { return false };
        let (at, _) = *entry.key();
        let event = entry.remove();
        self.now = at;
        self.process(event);
        true
    }

    /// Advances the time until `condition` holds, at most by `within`; it is checked after each event. Returns whether it holds.
    pub fn run_until(&mut self, within: Duration, mut condition: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + within;
        loop {
            if condition(self) {
                return true;
            }
            if !self.process_next(end) {
                self.now = end;
                return condition(self);
            }
        }
    }

    /// Replaces the faults from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
        self.note_fault(FaultEvent::RatesReplaced);
        self.queue.retain(|_, event| !matches!(event, WorldEvent::Cut | WorldEvent::Crash));
        self.schedule_faults();
    }

    /// The machine at a location, if it is running.
    pub fn machine(&mut self, location: SocketAddr) -> Option<&mut M> {
        self.hosts.get_mut(&location)?.machine.as_mut()
    }

    /// The trace of all events so far.
    pub fn trace(&self) -> Trace {
        self.trace
    }

    /// The virtual time.
    pub fn now(&self) -> Time {
        self.now
    }

    /// How often each fault was drawn so far.
    pub fn fault_counts(&self) -> FaultCounts {
        self.fault_counts
    }

    /// Crashes a machine now. It starts again within [`Faults::restart_within`].
    pub fn crash(&mut self, location: SocketAddr) {
        self.end_machine(location, FaultEvent::Crash(location));
        let delay = self.rng.span(self.faults.restart_within);
        self.schedule(delay, WorldEvent::Start(location));
    }

    /// Crashes a machine now. It stays down until [`World::start`].
    pub fn take_down(&mut self, location: SocketAddr) {
        self.end_machine(location, FaultEvent::TakenDown(location));
    }

    fn end_machine(&mut self, location: SocketAddr, fault: FaultEvent) {
        let Some(host) = self.hosts.get_mut(&location) else { return };
        host.machine = None;
        host.wake = None;
        self.fault_counts.crashes += 1;
        self.note_fault(fault);
        self.trace.note("crash", &[self.now.as_nanos(), location.port().into()], &[]);
        let hit: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, pair)| pair.ends.iter().any(|end| end.host == location))
            .map(|(n, _)| *n)
            .collect();
        for number in hit {
            self.cut(number);
        }
    }

    /// Starts a machine that is down, now.
    pub fn start(&mut self, location: SocketAddr) {
        if self.hosts.get(&location).is_some_and(|host| host.machine.is_none()) {
            self.schedule(Duration::ZERO, WorldEvent::Start(location));
        }
    }

    /// Cuts all connections between two machines.
    pub fn cut_between(&mut self, one: SocketAddr, other: SocketAddr) {
        let joins = |pair: &StreamPair| {
            let [a, b] = [pair.ends[0].host, pair.ends[1].host];
            (a, b) == (one, other) || (a, b) == (other, one)
        };
        let hit: Vec<u64> =
            self.connections.iter().filter(|(_, pair)| joins(pair)).map(|(number, _)| *number).collect();
        hit.into_iter().for_each(|number| self.cut(number));
    }

    /// From now on, until [`World::heal`], nothing passes between the machines of `one` and those of `other`. Datagrams are
    /// lost. Connections stay open, and what is written to them arrives when the partition is over, as with TCP.
    pub fn partition(&mut self, one: &[SocketAddr], other: &[SocketAddr]) {
        self.note_fault(FaultEvent::Partition { one: one.to_vec(), other: other.to_vec() });
        self.block_paths(one, other);
        self.block_paths(other, one);
    }

    /// As [`World::partition`], only from the machines of `from` to those of `to`.
    pub fn partition_one_way(&mut self, from: &[SocketAddr], to: &[SocketAddr]) {
        self.note_fault(FaultEvent::OneWayPartition { from: from.to_vec(), to: to.to_vec() });
        self.block_paths(from, to);
    }

    fn block_paths(&mut self, from: &[SocketAddr], to: &[SocketAddr]) {
        self.blocked.extend(from.iter().flat_map(|from| to.iter().map(|to| (*from, *to))));
        self.fault_counts.partitions += 1;
        self.trace.note("partition", &[self.now.as_nanos(), self.blocked.len() as u64], &[]);
    }

    /// Ends all partitions.
    pub fn heal(&mut self) {
        self.blocked.clear();
        self.note_fault(FaultEvent::Heal);
        self.trace.note("heal", &[self.now.as_nanos(), self.held.len() as u64], &[]);
        for event in std::mem::take(&mut self.held) {
            self.schedule(Duration::ZERO, event);
        }
    }

    /// The hosts between which an event passes.
    fn path_of(&self, event: &WorldEvent) -> Option<(SocketAddr, SocketAddr)> {
        let to_side = |number: &u64, side: usize| {
            let pair = self.connections.get(number)?;
            Some((pair.ends[1 - side].host, pair.ends[side].host))
        };
        match event {
            WorldEvent::Dial { number, .. } => to_side(number, 1),
            WorldEvent::DialFailed(number) | WorldEvent::Connected(number) => to_side(number, 0),
            WorldEvent::Arrive { number, side, .. } | WorldEvent::Closed { number, side } => {
                to_side(number, *side)
            }
            // The bytes of the write have reached the other side.
            WorldEvent::Writable { number, side } => to_side(number, 1 - side),
            WorldEvent::Datagram { to, from, .. } => Some((*from, *to)),
            WorldEvent::StallEnds { .. }
            | WorldEvent::Start(_)
            | WorldEvent::Timer { .. }
            | WorldEvent::Cut
            | WorldEvent::Crash => None,
        }
    }

    /// Holds an event that a partition blocks, or loses it.
    fn block(&mut self, event: WorldEvent) -> Option<WorldEvent> {
        if self.blocked.is_empty() || !self.path_of(&event).is_some_and(|path| self.blocked.contains(&path)) {
            return Some(event);
        }
        match event {
            WorldEvent::Datagram { .. } => self.fault_counts.lost_datagrams += 1,
            held => self.held.push(held),
        }
        None
    }

    /// Stalls a machine for `span`, like a process that is stopped. Events for it wait until the stall ends.
    pub fn stall(&mut self, location: SocketAddr, span: Duration) {
        let until = self.now + span;
        let Some(host) = self.hosts.get_mut(&location) else { return };
        host.stalled_until = until;
        self.fault_counts.stalls += 1;
        let incarnation = host.incarnation;
        self.note_fault(FaultEvent::Stall(location, span));
        self.schedule_at(until, WorldEvent::StallEnds { host: location, incarnation, span });
    }

    /// The host that handles an event.
    fn host_of(&self, event: &WorldEvent) -> Option<SocketAddr> {
        let end = |number: &u64, side: usize| self.connections.get(number).map(|pair| pair.ends[side].host);
        match event {
            WorldEvent::Timer { host, .. } => Some(*host),
            WorldEvent::Dial { to, .. } | WorldEvent::Datagram { to, .. } => Some(*to),
            WorldEvent::DialFailed(number) | WorldEvent::Connected(number) => end(number, 0),
            WorldEvent::Arrive { number, side, .. }
            | WorldEvent::Writable { number, side }
            | WorldEvent::Closed { number, side } => end(number, *side),
            WorldEvent::Start(_) | WorldEvent::StallEnds { .. } | WorldEvent::Cut | WorldEvent::Crash => None,
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

    fn process(&mut self, event: WorldEvent) {
        let Some(event) = self.block(event) else { return };
        let host = self.host_of(&event).and_then(|host| self.hosts.get(&host));
        if let Some(until) = host.map(|host| host.stalled_until).filter(|until| *until > self.now) {
            return self.schedule_at(until, event);
        }
        match event {
            WorldEvent::StallEnds { host, incarnation, span } => self.end_stall(host, incarnation, span),
            WorldEvent::Start(host) => self.start_machine(host),
            WorldEvent::Timer { host, incarnation } => self.on_timer(host, incarnation),
            WorldEvent::Dial { number, to } => self.on_dial(number, to),
            WorldEvent::DialFailed(number) => {
                self.input(number, 0, MachineInput::DialFailed(StreamPair::conn(number, 0)))
            }
            WorldEvent::Connected(number) => {
                self.input(number, 0, MachineInput::Connected(StreamPair::conn(number, 0)))
            }
            WorldEvent::Arrive { number, side, bytes } => self.on_arrival(number, side, &bytes),
            WorldEvent::Writable { number, side } => {
                self.input(number, side, MachineInput::Writable(StreamPair::conn(number, side)))
            }
            WorldEvent::Closed { number, side } => self.on_closed(number, side),
            WorldEvent::Datagram { to, from, bytes } => {
                self.handle(to, Some(from), MachineInput::Datagram { from, bytes: &bytes })
            }
            WorldEvent::Cut => self.on_cut(),
            WorldEvent::Crash => self.on_crash(),
        }
    }

    fn start_machine(&mut self, location: SocketAddr) {
        let seed = self.rng.number();
        let Some(host) = self.hosts.get_mut(&location) else { return };
        host.incarnation += 1;
        host.machine = Some((host.make)(seed));
        if host.incarnation > 1 {
            self.note_fault(FaultEvent::StartedAgain(location));
        }
        self.handle(location, None, MachineInput::Start);
    }

    fn on_timer(&mut self, location: SocketAddr, incarnation: u32) {
        let Some(host) = self.hosts.get_mut(&location) else { return };
        if host.incarnation == incarnation && host.wake.is_some_and(|wake| wake <= self.now) {
            host.wake = None;
            self.handle(location, None, MachineInput::Timer);
        }
    }

    fn end_stall(&mut self, location: SocketAddr, incarnation: u32, span: Duration) {
        let Some(host) = self.hosts.get_mut(&location).filter(|host| host.incarnation == incarnation) else {
            return;
        };
        let Some(machine) = &mut host.machine else { return };
        self.trace.note("goes on", &[self.now.as_nanos(), location.port().into()], &[]);
        self.shortened_trace.note_fault(self.now, FaultEvent::StallEnds(location));
        let mut outputs = Outputs::new(self.next_connection);
        machine.on_stall(self.now, span, &mut outputs);
        machine.check();
        self.next_connection = outputs.next_conn;
        for output in outputs.list {
            self.perform(location, incarnation, output);
        }
    }

    /// A dial arrives at its host. It fails if the host is absent or not running, or by chance.
    fn on_dial(&mut self, number: u64, to: SocketAddr) {
        let fails = self.rng.once_in(self.faults.dial_fails_once_in);
        self.fault_counts.failed_dials += u64::from(fails);
        let host = self.hosts.get(&to).filter(|host| host.machine.is_some() && !fails);
        let Some(incarnation) = host.map(|host| host.incarnation) else {
            let delay = self.latency();
            self.schedule(delay, WorldEvent::DialFailed(number));
            return;
        };
        let Some(pair) = self.connections.get_mut(&number) else { return };
        pair.ends[1] = StreamEnd::new(to, incarnation);
        let from = pair.ends[0].host;
        let delay = self.latency();
        self.schedule(delay, WorldEvent::Connected(number));
        self.input(number, 1, MachineInput::Accepted { conn: StreamPair::conn(number, 1), from });
    }

    fn on_arrival(&mut self, number: u64, side: usize, bytes: &[u8]) {
        let Some(pair) = self.connections.get_mut(&number) else { return };
        let arriving = pair.ends[1 - side].arrive(bytes.len() as u64);
        let arriving = usize::try_from(arriving).unwrap_or(usize::MAX);
        if arriving > 0 {
            self.input(
                number,
                side,
                MachineInput::Bytes { conn: StreamPair::conn(number, side), bytes: &bytes[..arriving] },
            );
        }
    }

    fn on_closed(&mut self, number: u64, side: usize) {
        self.input(number, side, MachineInput::Closed(StreamPair::conn(number, side)));
        let Some(pair) = self.connections.get_mut(&number) else { return };
        pair.ends[side].is_open = false;
        if pair.ends.iter().all(|end| !end.is_open) {
            self.connections.remove(&number);
        }
    }

    fn on_cut(&mut self) {
        let count = self.connections.len() as u64;
        if count > 0 {
            let nth = usize::try_from(self.rng.below(count)).unwrap_or(0);
            if let Some(number) = self.connections.keys().copied().nth(nth) {
                self.cut(number);
            }
        }
        let delay = self.rng.span(self.faults.cut_every * 2);
        self.schedule(delay, WorldEvent::Cut);
    }

    /// Cuts both streams of a connection, each at a random byte. One end may not notice.
    fn cut(&mut self, number: u64) {
        let Some(pair) = self.connections.get_mut(&number) else { return };
        self.fault_counts.cuts += 1;
        pair.ends.iter_mut().for_each(|end| end.cut(&mut self.rng));
        let unnoticed = self.rng.once_in(self.faults.half_open_once_in).then(|| self.rng.below(2));
        self.fault_counts.half_open_cuts += u64::from(unnoticed.is_some());
        let ends = [pair.ends[0].host, pair.ends[1].host];
        let unnoticed_by = unnoticed.map(|side| ends[usize::from(side == 1)]);
        self.note_fault(FaultEvent::Cut { connection: number, ends, unnoticed_by });
        self.trace.note("cut", &[self.now.as_nanos(), number], &[]);
        for side in 0..2 {
            if unnoticed != Some(side as u64) {
                let delay = self.latency();
                self.schedule(delay, WorldEvent::Closed { number, side });
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

    /// Passes an input to the machine at one end of a connection, if that end is open and its machine has not crashed.
    fn input(&mut self, number: u64, side: usize, input: MachineInput<'_>) {
        let Some(pair) = self.connections.get(&number) else { return };
        let end = &pair.ends[side];
        let host = end.host;
        let is_running = self
            .hosts
            .get(&host)
            .is_some_and(|host| host.machine.is_some() && host.incarnation == end.incarnation);
        if end.is_open && is_running {
            let peer = pair.ends[1 - side].host;
            self.handle(host, Some(peer), input);
        }
    }

    /// Passes an input to a machine. `peer` is the other end of the connection, or the sender of the datagram.
    fn handle(&mut self, location: SocketAddr, peer: Option<SocketAddr>, input: MachineInput<'_>) {
        let Some(host) = self.hosts.get_mut(&location) else { return };
        let Some(machine) = &mut host.machine else { return };
        let traced = note(&mut self.trace, self.now, location, peer, &input);
        self.shortened_trace.note_event(self.now, traced);
        let mut outputs = Outputs::new(self.next_connection);
        machine.handle(self.now, input, &mut outputs);
        machine.check();
        self.next_connection = outputs.next_conn;
        let incarnation = host.incarnation;
        for output in outputs.list {
            self.perform(location, incarnation, output);
        }
    }

    fn perform(&mut self, from: SocketAddr, incarnation: u32, output: MachineOutput) {
        match output {
            MachineOutput::Dial { conn, to } => {
                let (number, _) = StreamPair::of(conn);
                // Until the dial arrives, no machine has the other end.
                let ends = [StreamEnd::new(from, incarnation), StreamEnd::new(to, 0)];
                self.connections.insert(number, StreamPair { ends });
                let delay = self.latency();
                self.schedule(delay, WorldEvent::Dial { number, to });
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

    /// Schedules the arrival of bytes in pieces of random sizes, and of the input that all of them have left.
    fn write(&mut self, conn: SimConn, mut bytes: &[u8]) {
        let (number, side) = StreamPair::of(conn);
        let Some(pair) = self.connections.get_mut(&number) else { return };
        pair.ends[side].written += bytes.len() as u64;
        let (mut leaves, whole) = (self.now, bytes.len());
        while !bytes.is_empty() {
            let most = self.faults.piece_bytes_max.max(1).min(bytes.len() as u64);
            let count = usize::try_from(1 + self.rng.below(most)).unwrap_or(bytes.len());
            self.fault_counts.split_writes += u64::from(bytes.len() == whole && count < whole);
            let (piece, rest) = bytes.split_at(count);
            bytes = rest;
            let at = self.now + self.latency();
            let Some(pair) = self.connections.get_mut(&number) else { return };
            let end = &mut pair.ends[side];
            end.last_arrival = end.last_arrival.max(at);
            leaves = end.last_arrival;
            self.schedule_at(leaves, WorldEvent::Arrive { number, side: 1 - side, bytes: piece.to_vec() });
        }
        self.schedule_at(leaves, WorldEvent::Writable { number, side });
    }

    fn close(&mut self, conn: SimConn) {
        let (number, side) = StreamPair::of(conn);
        let delay = self.latency();
        let Some(pair) = self.connections.get_mut(&number) else { return };
        pair.ends[side].is_open = false;
        let at = pair.ends[side].last_arrival.max(self.now + delay);
        self.schedule_at(at, WorldEvent::Closed { number, side: 1 - side });
    }

    fn send_datagram(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let is_lost = self.rng.once_in(self.faults.datagram_lost_once_in);
        let is_duplicated = self.rng.once_in(self.faults.datagram_lost_once_in);
        self.fault_counts.lost_datagrams += u64::from(is_lost);
        self.fault_counts.duplicated_datagrams += u64::from(is_duplicated);
        for _ in 0..usize::from(!is_lost) + usize::from(is_duplicated) {
            let delay = self.latency();
            self.schedule(delay, WorldEvent::Datagram { to, from, bytes: bytes.to_vec() });
        }
    }

    fn note_fault(&mut self, fault: FaultEvent) {
        self.shortened_trace.note_fault(self.now, fault);
    }

    fn latency(&mut self) -> Duration {
        self.fault_counts.latencies += 1;
        self.faults.latency + self.rng.span(self.faults.jitter)
    }
}

impl<M> World<M> {
    /// The end of the run for a reader, in at most 100 lines: the seed and the virtual time, the last 40 faults, and the last
    /// events that machines handled. Events in a row that differ only in their times and bytes are one line.
    ///
    /// ```text
    /// seed 7 at 12.034710 s
    /// faults, the last 1 of 1:
    ///     9.500000 s  10.0.0.2:9705 is taken down
    /// events, the last 15 of 2380:
    ///    12.034510 s  10.0.0.1:9705  connection 6 with 10.0.0.3:9705: 1680 bytes (x 14, until 12.034650 s)
    ///    12.034710 s  10.0.0.1:9705  timer
    /// ```
    pub fn shortened_trace(&self) -> String {
        let now = Seconds(self.now).to_string();
        format!("seed {} at {}\n{}", self.seed, now.trim_start(), self.shortened_trace)
    }
}

/// Records the run, for `cargo xtask fingerprint` and `cargo xtask sim`. If the thread panics, prints the shortened trace to
/// the standard error.
impl<M> Drop for World<M> {
    fn drop(&mut self) {
        run_record::append(self.seed, self.trace, self.now, self.fault_counts);
        if std::thread::panicking() {
            eprint!("the run failed: {}", self.shortened_trace());
        }
    }
}

impl<M> std::fmt::Debug for World<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("now", &self.now).field("trace", &self.trace).finish_non_exhaustive()
    }
}

/// Adds an event to the trace, and returns it without its bytes.
fn note(
    trace: &mut Trace,
    now: Time,
    host: SocketAddr,
    peer: Option<SocketAddr>,
    input: &MachineInput<'_>,
) -> TracedEvent {
    let (label, conn, bytes): (_, Option<SimConn>, &[u8]) = match input {
        MachineInput::Start => ("start", None, &[]),
        MachineInput::Timer => ("timer", None, &[]),
        MachineInput::Accepted { conn, .. } => ("accepted", Some(*conn), &[]),
        MachineInput::Connected(conn) => ("connected", Some(*conn), &[]),
        MachineInput::DialFailed(conn) => ("dial failed", Some(*conn), &[]),
        MachineInput::Bytes { conn, bytes } => ("bytes", Some(*conn), bytes),
        MachineInput::Writable(conn) => ("writable", Some(*conn), &[]),
        MachineInput::Closed(conn) => ("closed", Some(*conn), &[]),
        MachineInput::Datagram { bytes, .. } => ("datagram", None, bytes),
    };
    let number = match input {
        MachineInput::Datagram { from, .. } => from.port().into(),
        _ => conn.map_or(0, |conn| conn.0),
    };
    trace.note(label, &[now.as_nanos(), host.port().into(), number], bytes);
    let connection = conn.map(|conn| StreamPair::of(conn).0);
    TracedEvent { label, host, peer, connection, byte_count: bytes.len() as u64 }
}

#[cfg(test)]
mod tests;
