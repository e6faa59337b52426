//! Antiphon's chores.

mod bench;
mod ci;
mod demo;
mod fingerprint;
mod fuzz;
mod keygen;
mod tidy;

use std::process::ExitCode;

use clap::Parser;

/// Antiphon's chores.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Chore {
    /// Runs the programs under examples/ as real processes, and checks what they print.
    Demo(demo::Options),
    /// Runs all that must pass: formatting, lints, tests, the model of the waker, documentation, demos.
    Ci(ci::Options),
    /// Runs nodes in several networks of this machine: broadcast, multicast, routers, gateways (needs `ip` and `nft`).
    Netns(ci::Picks),
    /// Measures speed and size, beside peers if asked.
    Bench(bench::Options),
    /// Feeds hostile input to all that reads what others send, and reports what it finds.
    Fuzz(fuzz::Options),
    /// Compares trace hashes and instruction counts with the recorded ones.
    Fingerprint(fingerprint::Options),
    /// Prints a new strong secret.
    Keygen,
    /// Checks the names in the code against docs/glossary.md.
    Tidy,
}

fn main() -> ExitCode {
    match Chore::parse() {
        Chore::Demo(options) => demo::run(&options),
        Chore::Ci(options) => ci::run(&options),
        Chore::Netns(picks) => ci::netns(&picks),
        Chore::Bench(options) => bench::run(&options),
        Chore::Fuzz(options) => fuzz::run(&options),
        Chore::Fingerprint(options) => fingerprint::run(&options),
        Chore::Keygen => keygen::run(),
        Chore::Tidy => tidy::run(),
    }
}

/// Cargo, as from a shell. What it told this program about itself would otherwise pass for a change to build scripts that look at
/// it (ring's does), and half of the workspace would be built anew each time.
fn cargo() -> std::process::Command {
    let mut cargo = std::process::Command::new(env!("CARGO"));
    let told = std::env::vars_os().map(|(name, _)| name);
    for name in told.filter(|name| name.to_string_lossy().starts_with("CARGO_PKG_")) {
        cargo.env_remove(name);
    }
    cargo.env_remove("CARGO_MANIFEST_DIR").env_remove("CARGO_MANIFEST_PATH");
    cargo
}
