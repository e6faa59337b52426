//! `cargo xtask bench`: builds the benchmarks in release mode, and runs them.
//!
//! They are a package of their own, so that the crates they compare with are built only here.

use std::path::PathBuf;
use std::process::ExitCode;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The group of rows to measure; all groups without it.
    group: Option<String>,
    /// Also measures peers and hand-written bounds, interleaved with ours.
    #[arg(long)]
    peers: bool,
    /// Writes the rows to this file too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measures only the rows whose name begins with NAME.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// How often each contestant runs; the median counts.
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// The size of the file in the group `files`; 1024 MiB without it.
    #[arg(long, value_name = "MIB")]
    mib: Option<u64>,
}

/// Runs the benchmarks.
pub(crate) fn run(options: &Options) -> ExitCode {
    let mut cargo = crate::cargo();
    cargo.args(["run", "--quiet", "--release", "--package", "antiphon-bench", "--"]);
    cargo.args(&options.group);
    if options.peers {
        cargo.arg("--peers");
    }
    if let Some(file) = &options.json {
        cargo.arg("--json").arg(file);
    }
    if let Some(name) = &options.only {
        cargo.args(["--only", name]);
    }
    if let Some(rounds) = options.rounds {
        cargo.args(["--rounds", &rounds.to_string()]);
    }
    if let Some(mib) = options.mib {
        cargo.args(["--mib", &mib.to_string()]);
    }
    match cargo.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(reason) => {
            eprintln!("cargo could not be started: {reason}");
            ExitCode::FAILURE
        }
    }
}
