//! Antiphon's benchmarks: rows of one value each, compared with other libraries and hand-written bounds.
//!
//! Each measurement runs in a new process of this program, so that it does not inherit memory or caches. The contestants of
//! a workload take turns, so that a machine that slows down slows all of them.

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
/// Groups of which only `cargo xtask fingerprint` counts the instructions.
const COUNTED: &[Group] = &[remote::SIMULATED];

/// Antiphon's benchmarks.
#[derive(Parser)]
#[command(name = "antiphon-bench")]
struct Options {
    /// The group to measure; all groups if it is left out.
    group: Option<String>,
    /// Also measures other libraries and hand-written bounds, in turns with ours.
    #[arg(long)]
    peers: bool,
    /// Also writes the rows to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measures only workloads with names that begin with NAME.
    #[arg(long, value_name = "NAME", default_value = "")]
    only: String,
    /// The number of runs of each contestant; the median is reported.
    #[arg(long, value_name = "N", default_value_t = 7)]
    rounds: usize,
    /// The size of the file in the group `files`, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    mib: u64,
    /// Runs one measurement and prints its values. The program starts itself with this option.
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
        Err(error) => {
            eprintln!("{error}");
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
        return Err("no workload of this group and name exists".into());
    }
    table::print(&rows);
    if let Some(file) = &options.json {
        std::fs::write(file, table::json(&rows))?;
    }
    Ok(())
}
