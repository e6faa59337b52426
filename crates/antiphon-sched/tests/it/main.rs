//! Integration tests of the scheduler, one file per capability.
//!
//! Tests that depend on time run on a virtual loop. Its clock stands still until a test advances it.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod addresses;
mod asks;
mod blocking_pool;
#[cfg(unix)]
mod children;
mod common;
mod dead_letters;
mod embedding;
mod events;
mod fairness;
mod handles;
mod inbox;
mod inspection;
mod layers;
mod limits;
mod log_spans;
mod mailbox_room;
mod model;
mod monitors;
mod panics;
mod readiness;
mod reentry;
mod sockets;
mod sockets_ending;
mod spawning;
mod station;
mod stepping;
mod stopping;
mod swapping;
mod termination;
mod timers;
#[cfg(feature = "serde")]
mod transport;
mod udp;
mod virtual_time;
mod waiting;
mod watchdog;
#[cfg(feature = "serde")]
mod wire;
