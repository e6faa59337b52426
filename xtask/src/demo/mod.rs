//! `cargo xtask demo`: the programs under examples/, as real processes that talk over loopback.
//!
//! A scenario starts them, feeds them, shows what they print under their names, and checks it. Each run has
//! a UDP port and a secret of its own.

mod cast;
mod certificate;
mod chat_chan;
mod chat_sock;
mod files;
mod rci_monitor;
mod remote_channel;
mod remote_coro;
mod tour;
mod tut;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use cast::Cast;
use certificate::Certificate;

/// Which demos to run.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// One demo; all of them without it.
    name: Option<String>,
    /// Lists the demos.
    #[arg(long)]
    list: bool,
    /// Makes a throw-away certificate, and has all programs talk by TLS.
    #[arg(long)]
    tls: bool,
}

struct Demo {
    name: &'static str,
    about: &'static str,
    /// The programs under examples/ that it starts.
    programs: &'static [&'static str],
    play: fn(&mut Cast) -> Result<String, String>,
}

const DEMOS: &[Demo] = &[
    Demo {
        name: "tut",
        about: "ten clients find a server by name, and send it three messages each",
        programs: &["tut_server", "tut_client"],
        play: tut::play,
    },
    Demo {
        name: "remote_coro",
        about: "a server that only those find who know its secret",
        programs: &["remote_coro_server", "remote_coro_client"],
        play: remote_coro::play,
    },
    Demo {
        name: "remote_channel",
        about: "a channel between two processes; each delivery waits for both subscribers",
        programs: &["remote_channel_server", "remote_channel_client"],
        play: remote_channel::play,
    },
    Demo {
        name: "chat_chan",
        about: "a chat over a channel that edits what is said",
        programs: &["chat_chan_server", "chat_chan_client"],
        play: chat_chan::play,
    },
    Demo {
        name: "rci_monitor",
        about: "actors that are started on another node, and whose ends are told here",
        programs: &["rci_monitor_server", "rci_monitor_client"],
        play: rci_monitor::play,
    },
    Demo {
        name: "files",
        about: "a file is sent, sent again, replaced, interrupted, resumed and deleted",
        programs: &["files_receiver", "files_sender"],
        play: files::play,
    },
    Demo {
        name: "chat_sock",
        about: "a chat room over sockets, whose clients type",
        programs: &["chat_sock_server", "chat_sock_client"],
        play: chat_sock::play,
    },
    Demo {
        name: "tour",
        about: "a walk through everything, by three nodes, one of which is killed and comes back",
        programs: &["tour_hub", "tour_guest"],
        play: tour::play,
    },
];

/// Runs what was asked for; the exit code tells whether all passed.
pub(crate) fn run(options: &Options) -> ExitCode {
    if options.list {
        DEMOS.iter().for_each(|demo| println!("{:<16} {}", demo.name, demo.about));
        return ExitCode::SUCCESS;
    }
    let named = |demo: &&Demo| options.name.as_ref().is_none_or(|name| demo.name == name);
    let wanted: Vec<&Demo> = DEMOS.iter().filter(named).collect();
    if wanted.is_empty() {
        println!("there is no such demo; `cargo xtask demo --list` names them all");
        return ExitCode::FAILURE;
    }
    let certificate = match options.tls.then(Certificate::make).transpose() {
        Ok(certificate) => certificate,
        Err(reason) => {
            println!("no certificate could be made: {reason}");
            return ExitCode::FAILURE;
        }
    };
    if let Err(reason) = build(&wanted) {
        println!("the examples could not be built: {reason}");
        return ExitCode::FAILURE;
    }
    let file = certificate.as_ref().map(Certificate::file);
    let outcomes: Vec<Outcome> = wanted.iter().map(|demo| play(demo, file)).collect();
    if options.name.is_none() {
        summarise(&outcomes, options.tls);
    }
    match outcomes.iter().all(|outcome| outcome.verdict.is_ok()) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
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
        Ok(status) => Err(format!("cargo ended with {status}")),
        Err(reason) => Err(reason.to_string()),
    }
}

fn play(demo: &Demo, certificate: Option<&Path>) -> Outcome {
    let by = by(certificate.is_some());
    println!("demo {}{by}: {}", demo.name, demo.about);
    let begun = Instant::now();
    let verdict = Cast::new(certificate).and_then(|mut cast| (demo.play)(&mut cast));
    let seconds = begun.elapsed().as_secs_f64();
    match &verdict {
        Ok(seen) => println!("demo {}{by}: passed ({seen}, {seconds:.1} s)", demo.name),
        Err(reason) => println!("demo {}{by}: failed: {reason}", demo.name),
    }
    Outcome { name: demo.name, seconds, verdict }
}

/// What is told of how the programs talk.
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
