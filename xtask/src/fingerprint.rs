//! `cargo xtask fingerprint`: compares this checkout's behaviour and cost with what is recorded under xtask/fingerprint.
//!
//! Two figures guard a change that must not change anything. The trace hash of each seed of each simulator test covers every
//! byte that the nodes exchange, and when. The instruction counts, taken by callgrind, cover what the hot paths cost. They
//! depend on the compiler and the C library, so record them before a change, on the machine that compares them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use crate::simulator::{TestOptions, run_tests};

/// The figures to compare or to record.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Records the figures instead of comparing them.
    #[arg(long)]
    record: bool,
    /// How many seeds of each simulator test to run.
    #[arg(long, value_name = "N", default_value_t = SEEDS)]
    seeds: u64,
    /// Compares only the trace hashes.
    #[arg(long = "traces", conflicts_with = "only_counts")]
    only_traces: bool,
    /// Compares only the instruction counts.
    #[arg(long = "counts")]
    only_counts: bool,
}

/// The workloads whose instructions are counted: the name in the record, and the group and workload of the benchmarks.
const COUNTED: [(&str, &str, &str); 7] = [
    ("ping-pong", "sched", "ping-pong"),
    ("ring", "sched", "ring"),
    ("ask", "sched", "ask"),
    ("counting", "sched", "counting"),
    ("spawn", "sched", "idle"),
    ("remote-64-b", "simulated", "round-trip"),
    ("one-way-small", "simulated", "one-way-small"),
];

/// How many seeds of each test are recorded.
const SEEDS: u64 = 20;
/// The largest accepted change of a count, as a fraction of the recorded one.
const TOLERANCE: f64 = 0.02;

/// Runs the comparison; fails when a figure differs.
pub(crate) fn run(options: &Options) -> ExitCode {
    match compare(options) {
        Ok(true) => {
            println!("fingerprint: passed");
            ExitCode::SUCCESS
        }
        Ok(false) => {
            println!("fingerprint: failed");
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("fingerprint: failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &Options) -> Result<bool, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fingerprint");
    let mut is_equal = true;
    if options.record && options.seeds < SEEDS {
        return Err(format!("a record needs at least {SEEDS} seeds; leave out --seeds"));
    }
    if !options.only_counts {
        let found = traces(options.seeds)?;
        let file = folder.join("traces.txt");
        is_equal &= if options.record {
            write(&file, &found.to_text())?
        } else {
            Traces::from_text(&read(&file)?)?.matches(&found, options.seeds)
        };
    }
    if !options.only_traces {
        let valgrind = Command::new("valgrind").arg("--version").stdout(Stdio::null()).status();
        if !valgrind.is_ok_and(|status| status.success()) {
            if options.only_counts {
                return Err("valgrind is not installed; install it, or use --traces".into());
            }
            println!("fingerprint: instruction counts skipped: valgrind is not installed");
            return Ok(is_equal);
        }
        let found = counts()?;
        let file = folder.join("counts.txt");
        is_equal &= if options.record {
            let lines = found.iter().map(|(name, count)| format!("{name} {count}\n"));
            write(&file, &lines.collect::<String>())?
        } else {
            counts_match(&read(&file)?, &found)?
        };
    }
    Ok(is_equal)
}

fn read(file: &Path) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!("{} does not exist; make it with --record", file.display()),
        _ => format!("{}: {error}", file.display()),
    })
}

fn write(file: &Path, text: &str) -> Result<bool, String> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    println!("fingerprint: recorded {}", file.display());
    Ok(true)
}

/// The hash of each seed of each test.
struct Traces(BTreeMap<String, BTreeMap<u64, u64>>);

impl Traces {
    /// Reads a header line for each test, then rows of hashes, each after its first seed.
    fn from_text(text: &str) -> Result<Self, String> {
        let mut tests: BTreeMap<String, BTreeMap<u64, u64>> = BTreeMap::new();
        let mut current: Option<&mut BTreeMap<u64, u64>> = None;
        for line in text.lines() {
            let Some((seed, hashes)) = line.split_once(": ") else {
                current = Some(tests.entry(line.to_owned()).or_default());
                continue;
            };
            let malformed = |_| format!("the record of traces has a malformed line: {line}");
            let first: u64 = seed.trim().parse().map_err(malformed)?;
            let seeds = current.as_mut().ok_or("the record of traces does not begin with a test")?;
            for (seed, hash) in (first..).zip(hashes.split(' ')) {
                seeds.insert(seed, u64::from_str_radix(hash, 16).map_err(malformed)?);
            }
        }
        Ok(Self(tests))
    }

    fn to_text(&self) -> String {
        let mut text = String::new();
        for (test, seeds) in &self.0 {
            text.push_str(test);
            let mut expected = None;
            for (seed, hash) in seeds {
                if expected == Some(*seed) && seed % 10 != 0 {
                    write!(text, " {hash:016x}").expect("writing to a String never fails");
                } else {
                    write!(text, "\n{seed:4}: {hash:016x}").expect("writing to a String never fails");
                }
                expected = Some(seed + 1);
            }
            text.push('\n');
        }
        text
    }

    /// Whether each hash of `found` is the recorded one, and no recorded test, and none of its first `seeds` seeds, is missing.
    fn matches(&self, found: &Self, seeds: u64) -> bool {
        let (mut compared, mut wrong) = (0, 0);
        for (test, hashes) in &found.0 {
            let Some(recorded) = self.0.get(test) else {
                println!("fingerprint: {test} is not recorded; if it was renamed, rename it in the record");
                wrong += 1;
                continue;
            };
            for seed in
                recorded.range(..seeds).map(|(seed, _)| seed).filter(|seed| !hashes.contains_key(seed))
            {
                println!("fingerprint: {test}, seed {seed} is recorded and did not run");
                wrong += 1;
            }
            for (seed, hash) in hashes {
                compared += 1;
                match recorded.get(seed) {
                    Some(recorded) if recorded == hash => {}
                    Some(recorded) => {
                        wrong += 1;
                        println!("fingerprint: {test}, seed {seed}: {hash:016x}, recorded {recorded:016x}");
                    }
                    None => {
                        wrong += 1;
                        println!("fingerprint: {test}, seed {seed} is not recorded");
                    }
                }
            }
        }
        for test in self.0.keys().filter(|test| !found.0.contains_key(*test)) {
            println!("fingerprint: {test} is recorded and did not run");
            wrong += 1;
        }
        println!("fingerprint: {compared} trace hashes of {} tests compared, {wrong} differ", found.0.len());
        wrong == 0 && compared > 0
    }
}

fn root() -> Result<&'static Path, String> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or_else(|| "the workspace has no folder".into())
}

/// Runs the simulator's tests with `seeds` seeds each.
fn traces(seeds: u64) -> Result<Traces, String> {
    let ran = run_tests(&TestOptions { seeds, is_release: false, filter: None })?;
    if !ran.passed {
        return Err(format!(
            "a simulator test failed; repeat it with `ANTIPHON_SEEDS={seeds} cargo test -p antiphon-sim`"
        ));
    }
    let mut tests: BTreeMap<String, BTreeMap<u64, u64>> = BTreeMap::new();
    for run in ran.runs {
        // A test that builds several worlds from one seed has one hash of them all.
        let all = tests.entry(run.test).or_default().entry(run.seed).or_default();
        *all = all.rotate_left(5) ^ run.hash;
    }
    Ok(Traces(tests))
}

/// Counts the instructions of each workload.
fn counts() -> Result<Vec<(&'static str, u64)>, String> {
    let root = root()?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let mut cargo = crate::cargo();
    cargo.args(["build", "--quiet", "--release", "--package", "antiphon-bench", "--target-dir"]).arg(&target);
    let status = cargo.current_dir(root).status();
    if !status.map_err(|error| format!("cargo could not be started: {error}"))?.success() {
        return Err("the benchmarks do not compile".into());
    }
    let program = target.join("release/antiphon-bench");
    let mut found = Vec::new();
    for (name, group, workload) in COUNTED {
        let count = count(&program, group, workload)?;
        println!("fingerprint: {name}: {count} instructions");
        found.push((name, count));
    }
    Ok(found)
}

fn count(program: &Path, group: &str, workload: &str) -> Result<u64, String> {
    let folder = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
    let file = folder.path().join("callgrind");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(program)
        .args(["--one", group, workload, "ours"])
        .output()
        .map_err(|error| format!("valgrind could not be started: {error}"))?;
    if !output.status.success() {
        return Err(format!("{workload} failed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let total = text.lines().find_map(|line| line.strip_prefix("summary: "));
    total
        .and_then(|total| total.trim().parse().ok())
        .ok_or_else(|| format!("callgrind reports no total for {workload}"))
}

/// Whether each count lies within the tolerance of the recorded one.
fn counts_match(recorded: &str, found: &[(&str, u64)]) -> Result<bool, String> {
    let mut is_equal = true;
    let names = recorded.lines().filter_map(|line| line.split(' ').next());
    for name in names.filter(|name| !found.iter().any(|(counted, _)| counted == name)) {
        println!("fingerprint: {name} is recorded and was not counted");
        is_equal = false;
    }
    for (name, count) in found {
        let line = recorded.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let Some(before) = line else {
            println!("fingerprint: {name} is not recorded");
            is_equal = false;
            continue;
        };
        let before: u64 = before.parse().map_err(|error| format!("the count of {name}: {error}"))?;
        let change = *count as f64 / before as f64 - 1.0;
        let verdict = if change.abs() <= TOLERANCE { "ok" } else { "differs" };
        is_equal &= change.abs() <= TOLERANCE;
        println!("fingerprint: {name}: {:+.2} % ({verdict})", change * 100.0);
    }
    Ok(is_equal)
}

#[cfg(test)]
mod tests {
    use super::{Traces, counts_match};

    const RECORD: &str =
        "one\n   0: 0000000000000001 00000000000000ff\n  10: 0000000000000003\ntwo\n   7: 0000000000000004\n";

    #[test]
    fn record_of_traces_survives_writing_and_reading() {
        let traces = Traces::from_text(RECORD).expect("well formed");
        assert_eq!(traces.0["one"][&1], 0xff);
        assert_eq!(traces.0["two"][&7], 4);
        assert_eq!(traces.to_text(), RECORD);
    }

    #[test]
    fn equal_traces_of_fewer_seeds_match() {
        let recorded = Traces::from_text(RECORD).expect("well formed");
        assert!(recorded.matches(&recorded, 200));
        let fewer = Traces::from_text(&RECORD.replace(" 00000000000000ff", "")).expect("well formed");
        assert!(recorded.matches(&fewer, 1));
        assert!(!recorded.matches(&fewer, 2), "seed 1 did not run");
    }

    #[test]
    fn changed_new_and_missing_traces_differ() {
        let recorded = Traces::from_text(RECORD).expect("well formed");
        for (from, to) in [("ff", "fe"), ("two", "three"), ("  10:", "  11:")] {
            let other = Traces::from_text(&RECORD.replace(from, to)).expect("well formed");
            assert!(!recorded.matches(&other, 1), "{from} became {to}");
        }
        let without = RECORD.split("two").next().expect("a first part");
        assert!(!recorded.matches(&Traces::from_text(without).expect("well formed"), 1));
    }

    #[test]
    fn counts_beyond_the_tolerance_differ() {
        assert_eq!(counts_match("ring 1000\nask 500\n", &[("ring", 1019), ("ask", 491)]), Ok(true));
        assert_eq!(counts_match("ring 1000\nask 500\n", &[("ring", 1000)]), Ok(false));
        assert_eq!(counts_match("ring 1000\n", &[("ring", 1021)]), Ok(false));
        assert_eq!(counts_match("ring 1000\n", &[("ring", 1000), ("ping", 1)]), Ok(false));
        assert!(counts_match("ring many\n", &[("ring", 1)]).is_err_and(|error| error.contains("ring")));
    }
}
