//! Workloads between two processes on loopback.
//!
//! Contestants: ours, under the suite `aead`; and by hand, over one TCP connection and without actors, names
//! or sessions: an echo on mio, and batches sealed by AES-128-GCM.
//!
//! A contestant runs twice: as the one that measures, and, in a process that this one starts, as its partner.

mod ours;
mod raw;

use crate::group::{Better, Group, Metric, Workload};

/// Round trips, after as many to warm up as a tenth of them.
pub(super) const ROUND_TRIPS: usize = 20_000;
/// Messages one way.
pub(super) const ONE_WAY: u64 = 2_000_000;
/// Bytes of the message that goes round.
pub(super) const ECHO_BYTES: usize = 64;

const fn micros(row: &'static str) -> Metric {
    Metric { row, unit: "us", better: Better::Less }
}

const fn rate(row: &'static str) -> Metric {
    Metric { row, unit: "messages/s", better: Better::More }
}

/// All workloads between processes.
pub(crate) const GROUP: Group = Group {
    name: "remote",
    workloads: &[
        Workload {
            name: "round-trip",
            metrics: &[micros("64 B p50"), micros("64 B p99")],
            contestants: &[("ours", ours::round_trip), ("raw-mio", raw::round_trip)],
        },
        Workload {
            name: "one-way-small",
            metrics: &[rate("one way Small")],
            contestants: &[("ours", ours::one_way_small), ("raw-aead", raw::one_way_small)],
        },
        Workload {
            name: "one-way-body",
            metrics: &[rate("one way Body")],
            contestants: &[("ours", ours::one_way_body), ("raw-aead", raw::one_way_body)],
        },
    ],
};
