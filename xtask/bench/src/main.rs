//! Antiphon's benchmarks: rows of one value each, beside peers and hand-written bounds.
//!
//! Each measurement runs in a fresh process of this same program, so that none finds another's memory or
//! caches; the contestants of a workload take turns, so that a machine that slows down slows all of them.

mod files;
mod gauge;
mod group;
mod pair;
mod remote;
mod run;
mod sched;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::group::Group;

const GROUPS: &[Group] = &[sched::GROUP, remote::GROUP, files::GROUP, remote::SECURE];
/// What `cargo xtask fingerprint` counts the instructions of, beside the groups above.
const COUNTED: &[Group] = &[remote::SIMULATED];

/// Antiphon's benchmarks.
#[derive(Parser)]
#[command(name = "antiphon-bench")]
struct Options {
    /// Which group of rows; all without it.
    group: Option<String>,
    /// Also measures peers and hand-written bounds, interleaved with ours.
    #[arg(long)]
    peers: bool,
    /// Writes the rows to this file too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measures only workloads whose name begins so.
    #[arg(long, value_name = "NAME", default_value = "")]
    only: String,
    /// How often each contestant runs; the middle value counts.
    #[arg(long, value_name = "N", default_value_t = 7)]
    rounds: usize,
    /// How large the file of the group `files` is.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    mib: u64,
    /// Runs one measurement, and prints it: what this program starts itself for.
    #[arg(long, hide = true, num_args = 3, value_names = ["GROUP", "WORKLOAD", "CONTESTANT"])]
    one: Vec<String>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let done = if options.one.is_empty() {
        measure(&options)
    } else {
        run::one(&[GROUPS, COUNTED].concat(), &options.one)
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let mut rows = Vec::new();
    for group in GROUPS {
        if options.group.as_ref().is_none_or(|name| name == group.name) {
            rows.extend(run::group(group, options)?);
        }
    }
    if rows.is_empty() {
        return Err("no such group or workload".into());
    }
    table::print(&rows);
    if let Some(file) = &options.json {
        std::fs::write(file, table::json(&rows))?;
    }
    Ok(())
}
