//! `cargo xtask demo`: runs the programs under examples/ as real processes on loopback.
//!
//! A demo starts the programs, writes to their input, shows their output under their names, and checks it. Each run has
//! a UDP port and a secret of its own.

mod certificate;
mod chat_chan;
mod chat_sock;
mod files;
mod processes;
mod rci_monitor;
mod remote_channel;
mod remote_coro;
mod tour;
mod tut;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use certificate::Certificate;
use processes::Processes;

/// Which demos to run.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// One demo; all of them without it.
    name: Option<String>,
    /// Lists the demos.
    #[arg(long)]
    list: bool,
    /// Makes a temporary certificate, and runs all programs with TLS.
    #[arg(long)]
    tls: bool,
}

struct Demo {
    name: &'static str,
    about: &'static str,
    /// The programs under examples/ that it starts.
    programs: &'static [&'static str],
    run: fn(&mut Processes) -> Result<String, String>,
}

const DEMOS: &[Demo] = &[
    Demo {
        name: "tut",
        about: "ten clients find a server by name, and send it three messages each",
        programs: &["tut_server", "tut_client"],
        run: tut::run,
    },
    Demo {
        name: "remote_coro",
        about: "a server that only clients with its secret find",
        programs: &["remote_coro_server", "remote_coro_client"],
        run: remote_coro::run,
    },
    Demo {
        name: "remote_channel",
        about: "a channel between two processes; each delivery waits for both subscribers",
        programs: &["remote_channel_server", "remote_channel_client"],
        run: remote_channel::run,
    },
    Demo {
        name: "chat_chan",
        about: "a chat over a channel that edits the messages",
        programs: &["chat_chan_server", "chat_chan_client"],
        run: chat_chan::run,
    },
    Demo {
        name: "rci_monitor",
        about: "actors that are started on another node and monitored from here",
        programs: &["rci_monitor_server", "rci_monitor_client"],
        run: rci_monitor::run,
    },
    Demo {
        name: "files",
        about: "a file is sent, sent again, replaced, interrupted, resumed and deleted",
        programs: &["files_receiver", "files_sender"],
        run: files::run,
    },
    Demo {
        name: "chat_sock",
        about: "a chat room over sockets, whose clients type",
        programs: &["chat_sock_server", "chat_sock_client"],
        run: chat_sock::run,
    },
    Demo {
        name: "tour",
        about: "all features in turn, with three nodes, of which one is killed and started again",
        programs: &["tour_hub", "tour_guest"],
        run: tour::run,
    },
];

/// Runs the selected demos; the exit code says whether all passed.
pub(crate) fn run(options: &Options) -> ExitCode {
    if options.list {
        DEMOS.iter().for_each(|demo| println!("{:<16} {}", demo.name, demo.about));
        return ExitCode::SUCCESS;
    }
    let named = |demo: &&Demo| options.name.as_ref().is_none_or(|name| demo.name == name);
    let expected: Vec<&Demo> = DEMOS.iter().filter(named).collect();
    if expected.is_empty() {
        println!("there is no such demo; `cargo xtask demo --list` lists them");
        return ExitCode::FAILURE;
    }
    let certificate = match options.tls.then(Certificate::make).transpose() {
        Ok(certificate) => certificate,
        Err(reason) => {
            println!("no certificate could be made: {reason}");
            return ExitCode::FAILURE;
        }
    };
    if let Err(reason) = build(&expected) {
        println!("the examples could not be built: {reason}");
        return ExitCode::FAILURE;
    }
    let file = certificate.as_ref().map(Certificate::file);
    let outcomes: Vec<Outcome> = expected.iter().map(|demo| run_one(demo, file)).collect();
    if options.name.is_none() {
        summarise(&outcomes, options.tls);
    }
    if outcomes.iter().all(|outcome| outcome.verdict.is_ok()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Outcome {
    name: &'static str,
    seconds: f64,
    verdict: Result<String, String>,
}

fn build(demos: &[&Demo]) -> Result<(), String> {
    let mut cargo = crate::cargo();
    cargo.args(["build", "--quiet", "--package", "antiphon"]);
    for program in demos.iter().flat_map(|demo| demo.programs) {
        cargo.args(["--example", program]);
    }
    match cargo.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("cargo exited with {status}")),
        Err(reason) => Err(reason.to_string()),
    }
}

fn run_one(demo: &Demo, certificate: Option<&Path>) -> Outcome {
    let by = by(certificate.is_some());
    println!("demo {}{by}: {}", demo.name, demo.about);
    let begun = Instant::now();
    let verdict = Processes::new(certificate).and_then(|mut processes| (demo.run)(&mut processes));
    let seconds = begun.elapsed().as_secs_f64();
    match &verdict {
        Ok(seen) => println!("demo {}{by}: passed ({seen}, {seconds:.1} s)", demo.name),
        Err(reason) => println!("demo {}{by}: failed: {reason}", demo.name),
    }
    Outcome { name: demo.name, seconds, verdict }
}

/// How the programs are connected, for the transcript.
fn by(tls: bool) -> &'static str {
    if tls { " by TLS" } else { "" }
}

fn summarise(outcomes: &[Outcome], tls: bool) {
    let by = by(tls);
    println!();
    println!("{:<16} {:>7}  verdict", "demo", "seconds");
    for outcome in outcomes {
        let verdict = if outcome.verdict.is_ok() { "passed" } else { "failed" };
        println!("{:<16} {:>7.1}  {verdict}{by}", outcome.name, outcome.seconds);
    }
    let passed = outcomes.iter().filter(|outcome| outcome.verdict.is_ok()).count();
    match outcomes.len() - passed {
        0 => println!("demos{by}: {passed} passed"),
        failed => println!("demos{by}: {passed} passed, {failed} failed"),
    }
}
