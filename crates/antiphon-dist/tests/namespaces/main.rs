//! Node processes in several networks of one machine: broadcast, multicast, routers and gateways.
//!
//! All networks are inside `unshare -Urnm`, so the tests need no root, and nothing is left of them. The program has three
//! roles: outside, it checks that namespaces work, and starts itself inside; inside, it builds networks and runs the cases,
//! and starts itself as the nodes of those networks. `cargo xtask netns` runs it.
//!
//! Invariant: no node sends beyond loopback unless its network namespace differs from the starter's and from that of
//! process 1.

mod cases;
mod lab;
mod player;

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use cases::CASES;

/// The variable that is set inside: the network namespace of the starter.
const INSIDE: &str = "ANTIPHON_TEST_INSIDE";

fn main() -> ExitCode {
    if let Some(outside) = std::env::var_os(INSIDE) {
        return inside(&PathBuf::from(outside));
    }
    match std::env::args().nth(1).as_deref() {
        Some("node") => player::run(),
        Some("--list") => ExitCode::SUCCESS,
        Some(_) | None => outside(),
    }
}

/// Starts the program again inside new namespaces, if the system allows them.
fn outside() -> ExitCode {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net", "--mount"]);
        command
    };
    let tried = unshare().arg("true").stdout(Stdio::null()).stderr(Stdio::piped()).output();
    let reason = match tried {
        Ok(tried) if tried.status.success() => None,
        Ok(tried) => Some(String::from_utf8_lossy(&tried.stderr).trim().to_owned()),
        Err(reason) => Some(format!("unshare cannot be started: {reason}")),
    };
    if let Some(reason) = reason {
        println!("no namespaces are available: {reason}");
        println!("namespaces: 0 ran, {} skipped", CASES.len());
        return ExitCode::SUCCESS;
    }
    let program = std::env::current_exe().expect("the system knows the program of this process");
    let own = std::fs::read_link("/proc/self/ns/net").expect("namespaces have names");
    match unshare().arg(program).args(std::env::args().skip(1)).env(INSIDE, own).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(reason) => {
            println!("namespaces work, but the program could not be started inside: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Runs all cases, each in networks of its own.
fn inside(outside: &PathBuf) -> ExitCode {
    let own = std::fs::read_link("/proc/self/ns/net").expect("namespaces have names");
    // The namespace of process 1 is often hidden in here; then it differs from this one.
    let first = std::fs::read_link("/proc/1/ns/net").ok();
    assert!(
        own != *outside && Some(&own) != first.as_ref(),
        "this must run in a network namespace of its own"
    );
    let (mut ran, mut skipped) = (0, 0);
    // The arguments select the cases whose names contain all of them.
    let filters: Vec<String> = std::env::args().skip(1).filter(|filter| !filter.starts_with('-')).collect();
    let is_selected = |case: &&cases::Case| filters.iter().all(|filter| case.name.contains(filter.as_str()));
    for case in CASES.iter().filter(is_selected) {
        if let Some(missing) = case.needs.iter().find(|tool| !lab::has(tool)) {
            println!("{} ... skipped: the system has no `{missing}`", case.name);
            skipped += 1;
            continue;
        }
        let begun = Instant::now();
        (case.run)();
        println!("{} ... ok ({:.1} s)", case.name, begun.elapsed().as_secs_f64());
        ran += 1;
    }
    println!("namespaces: {ran} ran, {skipped} skipped");
    ExitCode::SUCCESS
}
