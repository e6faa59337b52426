//! What the scheduler promises, one file a capability.
//!
//! All that concerns time runs on a virtual loop, whose clock stands still until a test moves it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod addresses;
mod asks;
mod blocking_pool;
#[cfg(unix)]
mod children;
mod common;
mod dead_letters;
mod doors;
mod embedding;
mod events;
mod fairness;
mod handles;
mod layers;
mod model;
mod monitors;
mod panics;
mod readiness;
mod reentry;
mod sockets;
mod sockets_ending;
mod station;
mod stopping;
mod swapping;
mod timers;
#[cfg(feature = "serde")]
mod transport;
mod udp;
mod virtual_time;
mod waiting;
mod watchdog;
#[cfg(feature = "serde")]
mod wire;
