//! The end of a run in a form for people: the last faults, and the last events.
//!
//! Noting an event allocates nothing. The text is made only when it is printed.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use antiphon_wire::Time;

/// The most lines of faults.
const FAULTS_MAX: usize = 40;
/// The most lines of events.
const EVENTS_MAX: usize = 56;

/// The last faults and events of a run. `Display` prints them, oldest first.
#[derive(Debug)]
pub(crate) struct ShortenedTrace {
    faults: VecDeque<(Time, FaultEvent)>,
    /// The number of all faults of the run, and of their ends.
    fault_count: u64,
    events: VecDeque<EventRun>,
    /// The number of all events of the run.
    event_count: u64,
}

/// An event that a machine handles, without its bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TracedEvent {
    pub(crate) label: &'static str,
    /// The machine that handles it.
    pub(crate) host: SocketAddr,
    /// The machine at the other end of the connection, or the sender of the datagram.
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) connection: Option<u64>,
    pub(crate) byte_count: u64,
}

/// Events in a row that differ in nothing but their times and bytes.
#[derive(Debug)]
struct EventRun {
    first: Time,
    last: Time,
    count: u64,
    /// The event, with the bytes of all.
    event: TracedEvent,
}

/// A fault, or its end.
#[derive(Debug)]
pub(crate) enum FaultEvent {
    /// A machine crashes, and will start again.
    Crash(SocketAddr),
    /// A machine crashes, and stays down.
    TakenDown(SocketAddr),
    /// A machine starts, not for the first time.
    StartedAgain(SocketAddr),
    Cut {
        connection: u64,
        ends: [SocketAddr; 2],
        /// The end that does not notice the cut.
        unnoticed_by: Option<SocketAddr>,
    },
    /// Nothing passes between machines.
    Partition {
        one: Vec<SocketAddr>,
        other: Vec<SocketAddr>,
    },
    /// Nothing passes from some machines to others.
    OneWayPartition {
        from: Vec<SocketAddr>,
        to: Vec<SocketAddr>,
    },
    Heal,
    Stall(SocketAddr, Duration),
    StallEnds(SocketAddr),
    /// The rates of faults by chance are replaced.
    RatesReplaced,
}

impl ShortenedTrace {
    pub(crate) fn new() -> ShortenedTrace {
        ShortenedTrace {
            faults: VecDeque::new(),
            fault_count: 0,
            events: VecDeque::with_capacity(EVENTS_MAX),
            event_count: 0,
        }
    }

    pub(crate) fn note_event(&mut self, now: Time, event: TracedEvent) {
        self.event_count += 1;
        if let Some(run) = self.events.back_mut()
            && run.event.is_alike(&event)
        {
            run.last = now;
            run.count += 1;
            run.event.byte_count += event.byte_count;
            return;
        }
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(EventRun { first: now, last: now, count: 1, event });
    }

    pub(crate) fn note_fault(&mut self, now: Time, fault: FaultEvent) {
        self.fault_count += 1;
        if self.faults.len() == FAULTS_MAX {
            self.faults.pop_front();
        }
        self.faults.push_back((now, fault));
    }
}

impl TracedEvent {
    fn is_alike(&self, other: &TracedEvent) -> bool {
        (self.label, self.host, self.peer, self.connection)
            == (other.label, other.host, other.peer, other.connection)
    }
}

impl fmt::Display for ShortenedTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "faults, the last {} of {}:", self.faults.len(), self.fault_count)?;
        for (at, fault) in &self.faults {
            writeln!(f, "{}  {fault}", Seconds(*at))?;
        }
        let shown: u64 = self.events.iter().map(|run| run.count).sum();
        writeln!(f, "events, the last {shown} of {}:", self.event_count)?;
        for run in &self.events {
            writeln!(f, "{run}")?;
        }
        Ok(())
    }
}

impl fmt::Display for EventRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  {}", Seconds(self.first), self.event)?;
        if self.count > 1 {
            write!(f, " (x {}, until {})", self.count, Seconds(self.last).to_string().trim_start())?;
        }
        Ok(())
    }
}

impl fmt::Display for TracedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TracedEvent { label, host, peer, connection, byte_count } = self;
        write!(f, "{host}  ")?;
        if let Some(number) = connection {
            write!(f, "connection {number}")?;
            if let Some(peer) = peer {
                write!(f, " with {peer}")?;
            }
            f.write_str(": ")?;
        }
        match (connection, peer) {
            (None, Some(peer)) => write!(f, "{label} from {peer}: {byte_count} bytes"),
            _ if *byte_count > 0 => write!(f, "{byte_count} {label}"),
            _ => f.write_str(label),
        }
    }
}

impl fmt::Display for FaultEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FaultEvent::Crash(host) => write!(f, "{host} crashes"),
            FaultEvent::TakenDown(host) => write!(f, "{host} is taken down"),
            FaultEvent::StartedAgain(host) => write!(f, "{host} starts again"),
            FaultEvent::Cut { connection, ends: [dialler, acceptor], unnoticed_by } => {
                write!(f, "connection {connection} of {dialler} to {acceptor} is cut")?;
                match unnoticed_by {
                    Some(host) => write!(f, "; {host} does not notice it"),
                    None => Ok(()),
                }
            }
            FaultEvent::Partition { one, other } => {
                write!(f, "partition between {} and {}", HostList(one), HostList(other))
            }
            FaultEvent::OneWayPartition { from, to } => {
                write!(f, "partition from {} to {}", HostList(from), HostList(to))
            }
            FaultEvent::Heal => f.write_str("all partitions end"),
            FaultEvent::Stall(host, span) => write!(f, "{host} stalls for {span:?}"),
            FaultEvent::StallEnds(host) => write!(f, "the stall of {host} ends"),
            FaultEvent::RatesReplaced => f.write_str("the rates of faults are replaced"),
        }
    }
}

/// A virtual time in seconds, right-aligned.
pub(crate) struct Seconds(pub(crate) Time);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_nanos() / 1000;
        write!(f, "{:>5}.{:06} s", micros / 1_000_000, micros % 1_000_000)
    }
}

/// Hosts, separated by commas.
struct HostList<'a>(&'a [SocketAddr]);

impl fmt::Display for HostList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, host) in self.0.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { ", " })?;
            write!(f, "{host}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: SocketAddr = SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 1));

    fn bytes_of(connection: u64, byte_count: u64) -> TracedEvent {
        let peer = Some(SocketAddr::from(([127, 0, 0, 1], 2)));
        TracedEvent { label: "bytes", host: HOST, peer, connection: Some(connection), byte_count }
    }

    #[test]
    fn equal_events_in_row_are_one_line() {
        let mut trace = ShortenedTrace::new();
        let times = [1, 2, 12].map(|secs| Time::from_nanos(secs * 1_000_000_000));
        trace.note_event(times[0], bytes_of(2, 7));
        trace.note_event(times[1], bytes_of(4, 100));
        trace.note_event(times[2], bytes_of(4, 20));
        let text = trace.to_string();
        let events: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            events,
            [
                "events, the last 3 of 3:",
                "    1.000000 s  127.0.0.1:1  connection 2 with 127.0.0.1:2: 7 bytes",
                "    2.000000 s  127.0.0.1:1  connection 4 with 127.0.0.1:2: 120 bytes (x 2, until 12.000000 s)",
            ]
        );
    }

    #[test]
    fn long_run_keeps_only_last_lines() {
        let mut trace = ShortenedTrace::new();
        for number in 0..1000 {
            trace.note_event(Time::from_nanos(number), bytes_of(number, 1));
            trace
                .note_fault(Time::from_nanos(number), FaultEvent::Stall(HOST, Duration::from_millis(number)));
        }
        let text = trace.to_string();
        assert!(text.lines().count() <= 100, "{text}");
        assert!(text.contains("faults, the last 40 of 1000:") && text.contains("stalls for 999ms"), "{text}");
        assert!(text.contains("connection 999 ") && !text.contains("connection 900 "), "{text}");
    }
}
