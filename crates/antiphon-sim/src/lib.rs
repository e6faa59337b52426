//! A deterministic world for Antiphon: machines, the links between them, virtual time, and faults, all from one seed.
//!
//! The same seed gives the same run, to the last byte; its trace hash tells. A [`Machine`] is whatever has one way in and one
//! way out: an [`SessionEndpoint`], which is a session with its connections, or a [`SimNode`], a whole node with its actors.

#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

mod rng;
pub use rng::SimRng;

mod endpoint;
pub use endpoint::{EndpointConfig, SessionEndpoint};

mod faults;
pub use faults::Faults;

mod machine;
pub use machine::{Machine, MachineInput, MachineOutput, Outputs, SimConn};

mod link;

mod node;
pub use node::SimNode;

mod trace;
pub use trace::Trace;

mod world;
pub use world::World;

mod workload;

/// Tells how to repeat a run if the thread panics while it lives.
#[derive(Debug)]
pub struct Replay {
    seed: u64,
    test: &'static str,
}

impl Replay {
    /// For a run of `test` with `seed`.
    pub fn new(test: &'static str, seed: u64) -> Replay {
        Replay { seed, test }
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Replay { seed, test } = self;
            eprintln!(
                "seed {seed} fails; replay it with: ANTIPHON_SEED={seed} cargo test -p antiphon-sim {test}"
            );
        }
    }
}

/// The seeds of a test: the one in `ANTIPHON_SEED`; else as many as `ANTIPHON_SEEDS` says; else `count`.
///
/// # Panics
/// If a variable holds no number.
pub fn seeds(count: u64) -> std::ops::Range<u64> {
    let number = |name| {
        let value = std::env::var(name).ok()?;
        Some(value.parse::<u64>().unwrap_or_else(|_| panic!("{name} is a number, not {value}")))
    };
    match number("ANTIPHON_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ANTIPHON_SEEDS").unwrap_or(count),
    }
}
