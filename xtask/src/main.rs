//! The commands of `cargo xtask`.

mod bench;
mod ci;
mod demo;
mod fingerprint;
mod fuzz;
mod keygen;
mod sim;
mod simulator;
mod structure;
mod tidy;

use std::process::ExitCode;

use clap::Parser;

/// The tasks of Antiphon's developers.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Task {
    /// Runs the programs under examples/ as real processes, and checks what they print.
    Demo(demo::Options),
    /// Runs all checks: names, formatting, lints, tests, trace hashes, documentation, demos.
    Ci(ci::Options),
    /// Runs nodes in network namespaces: broadcast, multicast, routers, gateways (needs `ip` and `nft`).
    Netns(ci::Picks),
    /// Measures speed and size, with `--peers` beside other frameworks.
    Bench(bench::Options),
    /// Feeds hostile input to everything that decodes input of peers.
    Fuzz(fuzz::Options),
    /// Compares trace hashes and instruction counts with the recorded ones.
    Fingerprint(fingerprint::Options),
    /// Runs all tests of the simulator in release mode over many seeds; prints virtual hours and drawn faults.
    Sim(sim::Options),
    /// Prints a new strong secret.
    Keygen,
    /// Checks names, imports and purity of the code; docs/glossary.md lists the words.
    Tidy,
    /// Prints figures about the structure of a crate: large types, circles of files, lines.
    Structure(structure::Options),
}

fn main() -> ExitCode {
    match Task::parse() {
        Task::Demo(options) => demo::run(&options),
        Task::Ci(options) => ci::run(&options),
        Task::Netns(picks) => ci::netns(&picks),
        Task::Bench(options) => bench::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Fingerprint(options) => fingerprint::run(&options),
        Task::Sim(options) => sim::run(&options),
        Task::Keygen => keygen::run(),
        Task::Tidy => tidy::run(),
        Task::Structure(options) => structure::run(&options),
    }
}

/// Cargo, as from a shell. Build scripts such as ring's watch the variables that cargo sets for this program; without their removal
/// half of the workspace would be built anew each time.
fn cargo() -> std::process::Command {
    let mut cargo = std::process::Command::new(env!("CARGO"));
    let names = std::env::vars_os().map(|(name, _)| name);
    for name in names.filter(|name| name.to_string_lossy().starts_with("CARGO_PKG_")) {
        cargo.env_remove(name);
    }
    cargo.env_remove("CARGO_MANIFEST_DIR").env_remove("CARGO_MANIFEST_PATH");
    cargo
}
