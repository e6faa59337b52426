//! The workloads of the scheduler: actors of one loop, with default features and settings.
//!
//! Contestants: ours; stakker, with actors that have no mailboxes, limits, monitors or panic isolation; and limit-flat, a
//! hand-written loop with one queue and nothing else, as a bound.

mod flat;
mod ours;
mod peer;

use crate::group::{Better, Group, Metric, Workload};

/// Round trips between two actors.
pub(super) const PING_PONG: u64 = 5_000_000;
pub(super) const RING_ACTORS: u64 = 503;
pub(super) const RING_HOPS: u64 = 10_000_000;
pub(super) const COUNT: u64 = 10_000_000;
pub(super) const PRODUCERS: u64 = 64;
pub(super) const COUNT_EACH: u64 = 100_000;
/// The number of messages after which a producer lets other actors run.
pub(super) const BATCH: u64 = 1_000;
pub(super) const SKYNET_LEAVES: u64 = 1_000_000;
pub(super) const IDLE: u64 = 1_000_000;
pub(super) const ASKS: u64 = 3_000_000;
pub(super) const TIMER_ACTORS: u64 = 1_000;
pub(super) const TIMERS_EACH: u64 = 1_000;
pub(super) const TIMERS: u64 = TIMER_ACTORS * TIMERS_EACH;

/// The time until the `n`-th timer is due, in microseconds: between one and two seconds, in no order.
pub(super) fn timer_span_us(n: u64) -> u64 {
    1_000_000 + n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % 1_000_000
}

const fn rate(row: &'static str, unit: &'static str) -> Metric {
    Metric { row, unit, better: Better::More }
}

const fn cost(row: &'static str, unit: &'static str) -> Metric {
    Metric { row, unit, better: Better::Less }
}

macro_rules! workload {
    ($name:literal, $run:ident, [$($metric:expr),*]) => {
        Workload {
            name: $name,
            metrics: &[$($metric),*],
            contestants: &[("ours", ours::$run), ("stakker", peer::$run), ("limit-flat", flat::$run)],
        }
    };
}

/// All workloads of the scheduler.
pub(crate) const GROUP: Group = Group {
    name: "sched",
    workloads: &[
        workload!("ping-pong", ping_pong, [rate("ping-pong", "round trips/s")]),
        workload!("ring", ring, [rate("ring", "hops/s")]),
        workload!("counting", counting, [rate("counting", "messages/s")]),
        workload!("fan-in", fan_in, [rate("fan-in", "messages/s")]),
        workload!("skynet", skynet, [rate("skynet", "leaves/s")]),
        workload!(
            "idle",
            idle,
            [
                cost("idle size", "bytes/actor"),
                cost("idle spawn", "ns/actor"),
                rate("idle sweep", "messages/s")
            ]
        ),
        workload!("ask", ask, [rate("ask", "answers/s")]),
        workload!("timers", timers, [cost("timer create", "ns"), cost("timer fire", "ns")]),
        workload!("cancel", cancel, [cost("timer cancel", "ns")]),
    ],
};
