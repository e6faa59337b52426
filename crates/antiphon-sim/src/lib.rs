//! A deterministic simulator for Antiphon: machines, their connections, virtual time and faults, all driven by one seed.
//!
//! The same seed gives the same run, byte for byte; equal [`Trace`] hashes show it. A [`World`] runs machines of one type:
//! a [`SessionEndpoint`] has only sessions and their connections, a [`SimNode`] is a whole node with its actors. Other
//! machines implement [`Machine`].
//!
//! # Tests over many seeds
//!
//! A test builds a world for each seed of [`seeds`], and guards each run with a [`Replay`]. It asserts promises in every run,
//! and with [`assert_covered`] that all runs together covered the case. These variables of the environment control it:
//!
//! | variable | effect |
//! |---|---|
//! | `ANTIPHON_SEEDS` | the number of seeds of each test |
//! | `ANTIPHON_SEED` | the only seed of each test, to replay one run |
//! | `ANTIPHON_RUN_FILE` | each world that is dropped appends a line to this file |
//!
//! A line of that file has the name of the thread, which is the name of the test unless the tests run on one thread; the
//! seed; the hash of the trace; and `passed`, or `failed` if the thread panicked. Fields `name=number` follow:
//! `virtual_nanos`, and each field of [`FaultCounts`].

#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

pub use antiphon_dist::testing::MemoryDisk;

mod endpoint;
pub use endpoint::{EndpointConfig, SessionEndpoint};

mod faults;
pub use faults::{FaultCounts, Faults};

mod machine;
pub use machine::{Machine, MachineInput, MachineOutput, Outputs, SimConn};

mod node;
pub use node::SimNode;

mod rng;
pub use rng::SimRng;

mod run_record;

mod shortened_trace;

mod stream_pair;

mod trace;
pub use trace::Trace;

mod workload;

mod world;
pub use world::World;

/// Prints how to repeat a run, if the thread panics before this value is dropped.
#[derive(Debug)]
pub struct Replay {
    seed: u64,
    test: &'static str,
}

impl Replay {
    /// Guards a run of the test `test` with `seed`.
    pub fn new(test: &'static str, seed: u64) -> Replay {
        Replay { seed, test }
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Replay { seed, test } = self;
            // Cargo sets the name of the package whose test runs.
            let package =
                std::env::var("CARGO_PKG_NAME").map(|name| format!(" -p {name}")).unwrap_or_default();
            eprintln!(
                "seed {seed} failed; replay it with: ANTIPHON_SEED={seed} cargo test{package} {test} -- --include-ignored"
            );
        }
    }
}

/// The seeds of a test: the single seed in `ANTIPHON_SEED`; else 0 up to the number in `ANTIPHON_SEEDS`; else 0 up to
/// `count`.
///
/// # Panics
/// If one of these variables is set and is not a number.
pub fn seeds(count: u64) -> std::ops::Range<u64> {
    let number = |name| {
        let value = std::env::var(name).ok()?;
        Some(value.parse::<u64>().unwrap_or_else(|_| panic!("{name} must be a number, not {value}")))
    };
    match number("ANTIPHON_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ANTIPHON_SEEDS").unwrap_or(count),
    }
}

/// Asserts that the runs of a test together covered a case. A replay of a single seed need not cover it.
///
/// # Panics
/// If no run covered the case, and `ANTIPHON_SEED` is not set.
#[track_caller]
pub fn assert_covered(is_covered: bool, case: &str) {
    assert!(is_covered || std::env::var_os("ANTIPHON_SEED").is_some(), "the seeds cover too little: {case}");
}
