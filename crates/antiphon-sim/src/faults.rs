//! The faults of a world: how often they are to occur, and how often they did.

use std::time::Duration;

/// Latency and fault rates of a world. `Default` is a network without faults.
#[derive(Debug, Clone)]
pub struct Faults {
    /// The shortest time that bytes and datagrams take to arrive.
    pub latency: Duration,
    /// The most that is added to `latency`, at random, for each piece.
    pub jitter: Duration,
    /// The largest piece in which a stream arrives, in bytes.
    pub piece_bytes_max: u64,
    /// The mean time between two cuts. A cut ends a random connection at a random byte. Zero for never.
    pub cut_every: Duration,
    /// One in this many cuts leaves one end open, which does not notice the cut; 0 for none.
    pub half_open_once_in: u64,
    /// One in this many dials fails; 0 for none.
    pub dial_fails_once_in: u64,
    /// The mean time between two crashes of a random machine; zero for never.
    pub crash_every: Duration,
    /// The longest time until a crashed machine starts again.
    pub restart_within: Duration,
    /// One in this many datagrams is lost, and one in as many is duplicated; 0 for none.
    pub datagram_lost_once_in: u64,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults {
            latency: Duration::from_micros(50),
            jitter: Duration::from_micros(50),
            piece_bytes_max: 64 * 1024,
            cut_every: Duration::ZERO,
            half_open_once_in: 0,
            dial_fails_once_in: 0,
            crash_every: Duration::ZERO,
            restart_within: Duration::from_millis(500),
            datagram_lost_once_in: 0,
        }
    }
}

/// How often a world drew each fault so far. [`World::fault_counts`](crate::World::fault_counts) returns them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FaultCounts {
    /// Connections that were cut. The crash of a machine cuts its connections.
    pub cuts: u64,
    /// Cuts that one end did not notice.
    pub half_open_cuts: u64,
    /// Dials that failed by chance.
    pub failed_dials: u64,
    /// Machines that crashed.
    pub crashes: u64,
    /// Machines that a test stalled.
    pub stalls: u64,
    /// Partitions, in one direction each.
    pub partitions: u64,
    /// Datagrams that were lost.
    pub lost_datagrams: u64,
    /// Datagrams that were duplicated.
    pub duplicated_datagrams: u64,
    /// Writes that arrive in more than one piece.
    pub split_writes: u64,
    /// Latencies, each of one piece, datagram, dial or close.
    pub latencies: u64,
}

impl FaultCounts {
    /// Each count with the name of its field.
    pub(crate) fn named(&self) -> [(&'static str, u64); 10] {
        let FaultCounts {
            cuts,
            half_open_cuts,
            failed_dials,
            crashes,
            stalls,
            partitions,
            lost_datagrams,
            duplicated_datagrams,
            split_writes,
            latencies,
        } = *self;
        [
            ("cuts", cuts),
            ("half_open_cuts", half_open_cuts),
            ("failed_dials", failed_dials),
            ("crashes", crashes),
            ("stalls", stalls),
            ("partitions", partitions),
            ("lost_datagrams", lost_datagrams),
            ("duplicated_datagrams", duplicated_datagrams),
            ("split_writes", split_writes),
            ("latencies", latencies),
        ]
    }
}
