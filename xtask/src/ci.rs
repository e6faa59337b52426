//! `cargo xtask ci`: runs all checks; the quick ones first.

use std::process::ExitCode;
use std::time::Instant;

/// The checks to leave out.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leaves out the tests and demos, which the README's two commands run.
    #[arg(long)]
    rest: bool,
}

/// The tests to run.
#[derive(clap::Args)]
pub(crate) struct Picks {
    /// Runs only tests whose names contain one of these words.
    names: Vec<String>,
}

struct Step {
    name: &'static str,
    arguments: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
    /// Also run by the README's two commands.
    common: bool,
}

/// The tests that run in network namespaces.
const NETNS: &[&str] = &["test", "-p", "antiphon-dist", "--test", "namespaces", "--quiet"];

const STEPS: &[Step] = &[
    Step { name: "tidy", arguments: &["xtask", "tidy"], environment: &[], common: false },
    Step { name: "fmt", arguments: &["fmt", "--all", "--check"], environment: &[], common: false },
    Step {
        name: "clippy",
        arguments: &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"],
        environment: &[],
        common: false,
    },
    Step {
        name: "clippy, scheduler by itself",
        arguments: &["clippy", "-p", "antiphon-sched", "--all-targets", "--quiet", "--", "-D", "warnings"],
        environment: &[],
        common: false,
    },
    // Without libFuzzer itself, which only a C++ compiler builds.
    Step {
        name: "fuzz targets compile",
        arguments: &[
            "check",
            "--manifest-path",
            "fuzz/Cargo.toml",
            "--bins",
            "--locked",
            "--no-default-features",
            "--quiet",
            "--target-dir",
            "target/fuzz",
        ],
        environment: &[("RUSTFLAGS", "--cfg fuzzing -D warnings")],
        common: false,
    },
    Step { name: "test", arguments: &["test", "--quiet"], environment: &[], common: true },
    Step {
        name: "test, safe twin of the scheduler",
        arguments: &["test", "-p", "antiphon-sched", "--features", "safe,serde", "--quiet"],
        environment: &[],
        common: false,
    },
    Step {
        name: "model of the wake flag",
        arguments: &[
            "test",
            "-p",
            "antiphon-sched",
            "--test",
            "loom",
            "--release",
            "--quiet",
            "--target-dir",
            "target/loom",
        ],
        environment: &[("RUSTFLAGS", "--cfg loom")],
        common: false,
    },
    Step {
        name: "fingerprint, ten seeds",
        arguments: &["xtask", "fingerprint", "--traces", "--seeds", "10"],
        environment: &[],
        common: false,
    },
    // Prints how many tests ran and how many were skipped.
    Step { name: "nodes in several networks", arguments: NETNS, environment: &[], common: false },
    Step {
        name: "doc",
        arguments: &["doc", "--workspace", "--no-deps", "--quiet"],
        environment: &[("RUSTDOCFLAGS", "-D warnings")],
        common: false,
    },
    Step { name: "demos", arguments: &["xtask", "demo"], environment: &[], common: true },
    Step { name: "demos by TLS", arguments: &["xtask", "demo", "--tls"], environment: &[], common: false },
];

/// Runs the tests in network namespaces, or those whose names contain a word.
pub(crate) fn netns(options: &Picks) -> ExitCode {
    let mut cargo = crate::cargo();
    match cargo.args(NETNS).arg("--").args(&options.names).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(reason) => {
            println!("cargo could not be started: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the steps; stops at the first that fails.
pub(crate) fn run(options: &Options) -> ExitCode {
    let selected = STEPS.iter().filter(|step| !(options.rest && step.common));
    for step in selected {
        let begun = Instant::now();
        println!("ci: {}", step.name);
        let mut cargo = crate::cargo();
        cargo.args(step.arguments).envs(step.environment.iter().copied());
        match cargo.status() {
            Ok(status) if status.success() => {
                println!("ci: {}: passed ({:.1} s)", step.name, begun.elapsed().as_secs_f64());
            }
            Ok(_) => {
                println!("ci: {}: failed", step.name);
                return ExitCode::FAILURE;
            }
            Err(reason) => {
                println!("ci: {}: cargo could not be started: {reason}", step.name);
                return ExitCode::FAILURE;
            }
        }
    }
    println!("ci: passed");
    ExitCode::SUCCESS
}
