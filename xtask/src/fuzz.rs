//! `cargo xtask fuzz`: builds the targets under fuzz/ with libFuzzer's coverage and the address sanitizer, and runs them.
//!
//! New inputs go to `target/fuzz/corpus`, failing inputs to `target/fuzz/failures`. The package works with cargo-fuzz as
//! well; this command needs only the pinned toolchain and a C++ compiler.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The targets to fuzz.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The target; without it all targets run, one after the other.
    target: Option<String>,
    /// How many seconds each target runs.
    #[arg(long, default_value_t = 30, value_name = "N")]
    seconds: u64,
    /// Runs one failing input again.
    #[arg(long, value_name = "FILE", requires = "target")]
    input: Option<PathBuf>,
    /// Then copies the inputs that reached new code to fuzz/corpus, to be committed.
    #[arg(long)]
    keep: bool,
}

const TARGETS: [&str; 7] = ["hello", "records", "frames", "msgpack", "datagram", "path", "node"];

/// The compiler flags that libFuzzer needs. The sanitizer is unstable, so RUSTC_BOOTSTRAP is set for it.
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

/// An input that needs more memory fails. The targets need less than a tenth of it.
const MEMORY_MIB: u32 = 1024;
/// An input that takes longer fails.
const INPUT_SECONDS: u32 = 20;

/// Fuzzes the targets; fails if an input failed.
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
    let chosen: Vec<&str> =
        match &options.target {
            Some(name) => vec![TARGETS.into_iter().find(|target| target == name).ok_or_else(|| {
                format!("there is no target {name}; the targets are {}", TARGETS.join(", "))
            })?],
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

/// Builds the targets; returns the folder of the programs.
fn build(root: &Path, targets: &[&str]) -> Result<PathBuf, String> {
    let triple = host_triple()?;
    let mut cargo = crate::cargo();
    cargo.current_dir(root.join("fuzz"));
    // With an explicit target triple, cargo does not pass the flags to build scripts and macros.
    cargo.args(["build", "--quiet", "--release", "--target", &triple]);
    for target in targets {
        cargo.args(["--bin", target]);
    }
    let target_dir = root.join("target/fuzz");
    cargo.env("CARGO_TARGET_DIR", &target_dir);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}")).env("RUSTC_BOOTSTRAP", "1");
    succeed(&mut cargo)?
        .then(|| target_dir.join(triple).join("release"))
        .ok_or("the targets do not compile".into())
}

fn host_triple() -> Result<String, String> {
    let output = Command::new("rustc")
        .arg("-vV")
        .output()
        .map_err(|reason| format!("rustc could not be started: {reason}"))?;
    let version = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| "`rustc -vV` prints no host".to_owned())
}

/// Runs one target; false if an input failed.
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
    // Long inputs from the beginning, since many fields are lists.
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

/// Suppresses the leaks that are intended.
fn quiet_leaks<'c>(fuzzer: &'c mut Command, root: &Path) -> &'c mut Command {
    let list = root.join("fuzz/leaks.txt");
    fuzzer.env("LSAN_OPTIONS", format!("print_suppressions=0:suppressions={}", list.display()))
}
