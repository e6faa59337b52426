//! `cargo xtask fuzz`: builds the targets under fuzz/ with libFuzzer's coverage and the address sanitizer, and runs them.
//!
//! What is found and new goes to `target/fuzz/corpus`; what fails, to `target/fuzz/failures`. The package works with
//! cargo-fuzz as well; this needs nothing but the pinned toolchain and a C++ compiler.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What to fuzz.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Which target; all of them, one after the other, without it.
    target: Option<String>,
    /// How long each target runs.
    #[arg(long, default_value_t = 30, value_name = "N")]
    seconds: u64,
    /// Runs one input, as it was written when it failed.
    #[arg(long, value_name = "FILE", requires = "target")]
    input: Option<PathBuf>,
    /// Afterwards, takes what reached new code into fuzz/corpus, to be committed.
    #[arg(long)]
    keep: bool,
}

const TARGETS: [&str; 7] = ["hello", "records", "frames", "msgpack", "datagram", "path", "node"];

/// What libFuzzer needs of the compiler; the sanitizer is the one thing for which the pinned one is told to be a nightly.
const FLAGS: [&str; 9] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "-Ccodegen-units=1",
    "-Zsanitizer=address",
];

/// Memory beyond which an input fails: nothing that a target does needs a tenth of it.
const MEMORY_MIB: u32 = 1024;
/// The longest that one input may take.
const INPUT_SECONDS: u32 = 20;

/// Fuzzes; fails if anything was found.
pub(crate) fn run(options: &Options) -> ExitCode {
    match fuzz(options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn fuzz(options: &Options) -> Result<bool, String> {
    let chosen: Vec<&str> = match &options.target {
        Some(name) => vec![
            TARGETS
                .into_iter()
                .find(|target| target == name)
                .ok_or_else(|| format!("there is no target {name}; there are {}", TARGETS.join(", ")))?,
        ],
        None => TARGETS.to_vec(),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("the workspace has no folder")?;
    let programs = build(root, &chosen)?;
    let mut failed = Vec::new();
    for target in &chosen {
        println!("fuzz {target}");
        if !run_one(options, root, &programs.join(target), target)? {
            failed.push(*target);
        }
    }
    match failed.as_slice() {
        [] => println!("fuzz: {} targets, nothing found", chosen.len()),
        failed => println!("fuzz: failed: {}; the inputs are in target/fuzz/failures", failed.join(", ")),
    }
    Ok(failed.is_empty())
}

/// Builds the targets; answers the folder of the programs.
fn build(root: &Path, targets: &[&str]) -> Result<PathBuf, String> {
    let triple = host_triple()?;
    let mut cargo = crate::cargo();
    cargo.current_dir(root.join("fuzz"));
    // A target that is named keeps the flags from build scripts and macros.
    cargo.args(["build", "--quiet", "--release", "--target", &triple]);
    for target in targets {
        cargo.args(["--bin", target]);
    }
    let target_dir = root.join("target/fuzz");
    cargo.env("CARGO_TARGET_DIR", &target_dir);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}")).env("RUSTC_BOOTSTRAP", "1");
    succeed(&mut cargo)?
        .then(|| target_dir.join(triple).join("release"))
        .ok_or("the targets do not build".into())
}

fn host_triple() -> Result<String, String> {
    let said = Command::new("rustc")
        .arg("-vV")
        .output()
        .map_err(|reason| format!("rustc could not be started: {reason}"))?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| "rustc does not say for which host it compiles".to_owned())
}

/// Runs one target; false if it has found something.
fn run_one(options: &Options, root: &Path, program: &Path, target: &str) -> Result<bool, String> {
    let fuzz_dir = root.join("target/fuzz");
    let (found, failures) = (fuzz_dir.join("corpus").join(target), fuzz_dir.join("failures"));
    let seeds = root.join("fuzz/corpus").join(target);
    for dir in [&found, &failures, &seeds] {
        std::fs::create_dir_all(dir)
            .map_err(|reason| format!("{} cannot be made: {reason}", dir.display()))?;
    }
    let mut fuzzer = Command::new(program);
    quiet_leaks(&mut fuzzer, root);
    fuzzer.arg(format!("-rss_limit_mb={MEMORY_MIB}")).arg(format!("-timeout={INPUT_SECONDS}"));
    if let Some(input) = &options.input {
        return succeed(fuzzer.arg(input));
    }
    fuzzer.arg(format!("-artifact_prefix={}/{target}-", failures.display()));
    fuzzer.env("RUST_BACKTRACE", "1").args(["-print_final_stats=1", "-verbosity=0"]);
    // Long inputs from the beginning: much of what is read is lists.
    fuzzer.args(["-max_len=4096", "-len_control=0"]);
    fuzzer.arg(format!("-max_total_time={}", options.seconds)).arg(&found).arg(&seeds);
    let is_clean = succeed(&mut fuzzer)?;
    if is_clean && options.keep {
        let mut merger = Command::new(program);
        succeed(
            quiet_leaks(&mut merger, root)
                .args(["-set_cover_merge=1", "-verbosity=0", "-use_counters=0", "-max_len=2048"])
                .arg(&seeds)
                .arg(&found),
        )?;
    }
    Ok(is_clean)
}

fn succeed(command: &mut Command) -> Result<bool, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    command
        .status()
        .map(|status| status.success())
        .map_err(|reason| format!("{program} could not be started: {reason}"))
}

/// What is kept for good on purpose is no leak.
fn quiet_leaks<'c>(fuzzer: &'c mut Command, root: &Path) -> &'c mut Command {
    let list = root.join("fuzz/leaks.txt");
    fuzzer.env("LSAN_OPTIONS", format!("print_suppressions=0:suppressions={}", list.display()))
}
