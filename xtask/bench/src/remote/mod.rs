//! Workloads between two processes on loopback.
//!
//! Contestants: ours, under the suite `aead`; and two hand-written programs over one TCP connection, without actors, names
//! or sessions: an echo on mio, and batches sealed by AES-128-GCM.
//!
//! A contestant runs in two processes: one measures, and starts the other as its partner.

mod ours;
mod raw;
mod simulated;

use crate::group::{Better, Group, Metric, Workload};
use ours::ConnectionSecurity;

/// Round trips; the first tenth is not counted.
pub(super) const ROUND_TRIPS: usize = 20_000;
/// Messages in one direction.
pub(super) const ONE_WAY: u64 = 2_000_000;
/// Bytes of the message of a round trip.
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
            contestants: &[
                ("ours", || ours::round_trip(ConnectionSecurity::Aead)),
                ("raw-mio", raw::round_trip),
            ],
        },
        Workload {
            name: "one-way-small",
            metrics: &[rate("one way Small")],
            contestants: &[
                ("ours", || ours::one_way_small(ConnectionSecurity::Aead)),
                ("raw-aead", raw::one_way_small),
            ],
        },
        Workload {
            name: "one-way-body",
            metrics: &[rate("one way Body")],
            contestants: &[
                ("ours", || ours::one_way_body(ConnectionSecurity::Aead)),
                ("raw-aead", raw::one_way_body),
            ],
        },
    ],
};

/// A comparison of the ways to protect a connection.
pub(crate) const SECURE: Group = Group {
    name: "secure",
    workloads: &[
        Workload {
            name: "round-trip-plain",
            metrics: &[micros("plain p50"), micros("plain p99")],
            contestants: &[("ours", || ours::round_trip(ConnectionSecurity::Plain))],
        },
        Workload {
            name: "round-trip-hmac",
            metrics: &[micros("hmac p50"), micros("hmac p99")],
            contestants: &[("ours", || ours::round_trip(ConnectionSecurity::Hmac))],
        },
        Workload {
            name: "round-trip-aead",
            metrics: &[micros("aead p50"), micros("aead p99")],
            contestants: &[("ours", || ours::round_trip(ConnectionSecurity::Aead))],
        },
        Workload {
            name: "round-trip-tls",
            metrics: &[micros("tls p50"), micros("tls p99")],
            contestants: &[("ours", || ours::round_trip(ConnectionSecurity::Tls))],
        },
        Workload {
            name: "one-way-plain",
            metrics: &[rate("plain one way")],
            contestants: &[("ours", || ours::one_way_body(ConnectionSecurity::Plain))],
        },
        Workload {
            name: "one-way-hmac",
            metrics: &[rate("hmac one way")],
            contestants: &[("ours", || ours::one_way_body(ConnectionSecurity::Hmac))],
        },
        Workload {
            name: "one-way-aead",
            metrics: &[rate("aead one way")],
            contestants: &[("ours", || ours::one_way_body(ConnectionSecurity::Aead))],
        },
        Workload {
            name: "one-way-tls",
            metrics: &[rate("tls one way")],
            contestants: &[("ours", || ours::one_way_body(ConnectionSecurity::Tls))],
        },
    ],
};

/// The same actors between two simulated nodes, without sockets and clock, so that the number of instructions is constant.
pub(crate) const SIMULATED: Group = Group {
    name: "simulated",
    workloads: &[
        Workload {
            name: "round-trip",
            metrics: &[micros("64 B p50"), micros("64 B p99")],
            contestants: &[("ours", simulated::round_trip)],
        },
        Workload {
            name: "one-way-small",
            metrics: &[rate("one way Small")],
            contestants: &[("ours", simulated::one_way_small)],
        },
    ],
};
