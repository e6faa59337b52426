//! Antiphon's chores.

mod bench;

use std::process::ExitCode;

use clap::Parser;

/// Antiphon's chores.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Chore {
    /// Measures speed and size, beside peers if asked.
    Bench(bench::Options),
}

fn main() -> ExitCode {
    match Chore::parse() {
        Chore::Bench(options) => bench::run(&options),
    }
}
