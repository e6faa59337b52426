//! Nodes in several networks of one machine: broadcast, multicast, routers and gateways, with real processes.
//!
//! Everything happens whole inside `unshare -Urnm`, so it needs no root and leaves nothing behind. The program starts
//! itself three times: outside, where it looks whether namespaces work; inside, where it builds networks and plays the
//! cases; and as a node in one of those networks. Run by `cargo xtask netns`.
//!
//! Invariant: no node leaves loopback unless its network namespace is neither the starter's nor that of process 1.

mod cases;
mod lab;
mod player;

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use cases::CASES;

/// Says which of its parts the program plays; inside, the starter's network namespace.
const INSIDE: &str = "ANTIPHON_TEST_INSIDE";

fn main() -> ExitCode {
    if let Some(outside) = std::env::var_os(INSIDE) {
        return inside(&PathBuf::from(outside));
    }
    match std::env::args().nth(1).as_deref() {
        Some("node") => player::play(),
        Some("--list") => ExitCode::SUCCESS,
        Some(_) | None => outside(),
    }
}

/// Starts the program once more inside of new namespaces, if there can be any.
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
        println!("no namespaces here: {reason}");
        println!("namespaces: 0 ran, {} skipped", CASES.len());
        return ExitCode::SUCCESS;
    }
    let program = std::env::current_exe().expect("a test knows its program");
    let node_id = std::fs::read_link("/proc/self/ns/net").expect("where namespaces work, they have names");
    match unshare().arg(program).args(std::env::args().skip(1)).env(INSIDE, node_id).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(reason) => {
            println!("namespaces work here, and these tests did not run: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Plays all cases in networks of their own.
fn inside(outside: &PathBuf) -> ExitCode {
    let here = std::fs::read_link("/proc/self/ns/net").expect("namespaces have names");
    // That of process 1 is often hidden from in here: then it is not this one.
    let first = std::fs::read_link("/proc/1/ns/net").ok();
    assert!(here != *outside && Some(&here) != first.as_ref(), "this must run in a network of its own");
    let (mut ran, mut skipped) = (0, 0);
    // As with other tests, a word on the command line picks those whose name holds it.
    let picks: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_picked = |case: &&cases::Case| picks.iter().all(|word| case.name.contains(word.as_str()));
    for case in CASES.iter().filter(is_picked) {
        if let Some(missing) = case.needs.iter().find(|tool| !lab::has(tool)) {
            println!("{} ... skipped: there is no `{missing}` here", case.name);
            skipped += 1;
            continue;
        }
        let begun = Instant::now();
        (case.play)();
        println!("{} ... ok ({:.1} s)", case.name, begun.elapsed().as_secs_f64());
        ran += 1;
    }
    println!("namespaces: {ran} ran, {skipped} skipped");
    ExitCode::SUCCESS
}
