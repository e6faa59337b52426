//! `cargo xtask fingerprint`: compares this checkout's behaviour and cost with what is recorded under xtask/fingerprint.
//!
//! Two figures guard a change that must not change anything. The trace hash of each seed of each simulator test covers every
//! byte that the nodes exchange, and when. The instruction counts, taken by callgrind, cover what the hot paths cost.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// What to compare.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Writes the figures down instead of comparing them.
    #[arg(long)]
    record: bool,
    /// How many seeds of each simulator test to run.
    #[arg(long, value_name = "N", default_value_t = 200)]
    seeds: u64,
    /// Leaves out the instruction counts.
    #[arg(long, conflicts_with = "counts")]
    traces: bool,
    /// Leaves out the trace hashes.
    #[arg(long)]
    counts: bool,
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

/// How far a count may be from the recorded one.
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
    if !options.counts {
        let found = traces(options.seeds)?;
        let file = folder.join("traces.txt");
        is_equal &= if options.record {
            write(&file, &found.to_text())?
        } else {
            Traces::from_text(&read(&file)?)?.are_met_by(&found)
        };
    }
    if !options.traces {
        if Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_err() {
            println!("fingerprint: instruction counts skipped: valgrind is not installed");
            return Ok(is_equal);
        }
        let found = counts()?;
        let file = folder.join("counts.txt");
        is_equal &= if options.record {
            let lines = found.iter().map(|(name, count)| format!("{name} {count}\n"));
            write(&file, &lines.collect::<String>())?
        } else {
            counts_are_met(&read(&file)?, &found)?
        };
    }
    Ok(is_equal)
}

fn read(file: &Path) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| format!("{}: {error}; record it with --record", file.display()))
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
                    write!(text, " {hash:016x}").expect("a string takes everything");
                } else {
                    write!(text, "\n{seed:4}: {hash:016x}").expect("a string takes everything");
                }
                expected = Some(seed + 1);
            }
            text.push('\n');
        }
        text
    }

    /// Whether each hash of `found` is the recorded one, and no recorded test is missing.
    fn are_met_by(&self, found: &Self) -> bool {
        let (mut compared, mut wrong) = (0, 0);
        for (test, seeds) in &found.0 {
            let Some(recorded) = self.0.get(test) else {
                println!("fingerprint: {test} is not recorded; if it was renamed, rename it in the record");
                wrong += 1;
                continue;
            };
            for (seed, hash) in seeds {
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

/// Runs the simulator's tests with `seeds` seeds each.
fn traces(seeds: u64) -> Result<Traces, String> {
    let folder = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
    let file = folder.path().join("traces");
    let mut cargo = crate::cargo();
    cargo.args(["test", "--quiet", "--package", "antiphon-sim", "--tests"]);
    cargo.env("ANTIPHON_SEEDS", seeds.to_string()).env("ANTIPHON_TRACE_FILE", &file).stdout(Stdio::null());
    let status = cargo.status().map_err(|error| format!("cargo could not be started: {error}"))?;
    if !status.success() {
        return Err("a simulator test failed; run `cargo test -p antiphon-sim` to see which".into());
    }
    let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut tests: BTreeMap<String, BTreeMap<u64, u64>> = BTreeMap::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [test, seed, hash] = fields[..] else { return Err(format!("malformed trace: {line}")) };
        let malformed = |error| format!("malformed trace: {line}: {error}");
        let seed = seed.parse().map_err(malformed)?;
        let hash = u64::from_str_radix(hash, 16).map_err(malformed)?;
        // A test that builds several worlds from one seed has one hash of them all.
        let all = tests.entry(test.to_owned()).or_default().entry(seed).or_default();
        *all = all.rotate_left(5) ^ hash;
    }
    Ok(Traces(tests))
}

/// Counts the instructions of each workload.
fn counts() -> Result<Vec<(&'static str, u64)>, String> {
    let mut cargo = crate::cargo();
    cargo.args(["build", "--quiet", "--release", "--package", "antiphon-bench"]);
    if !cargo.status().is_ok_and(|status| status.success()) {
        return Err("the benchmarks do not build".into());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("the workspace has no folder")?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
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
fn counts_are_met(recorded: &str, found: &[(&str, u64)]) -> Result<bool, String> {
    let mut is_met = true;
    for (name, count) in found {
        let line = recorded.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let Some(before) = line else { return Err(format!("{name} is not recorded")) };
        let before: u64 = before.parse().map_err(|error| format!("the count of {name}: {error}"))?;
        let change = *count as f64 / before as f64 - 1.0;
        let verdict = if change.abs() <= TOLERANCE { "ok" } else { "differs" };
        is_met &= change.abs() <= TOLERANCE;
        println!("fingerprint: {name}: {:+.2} % ({verdict})", change * 100.0);
    }
    Ok(is_met)
}

#[cfg(test)]
mod tests {
    use super::{Traces, counts_are_met};

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
    fn changed_new_and_missing_traces_differ() {
        let recorded = Traces::from_text(RECORD).expect("well formed");
        assert!(recorded.are_met_by(&Traces::from_text(RECORD).expect("well formed")));
        let fewer = RECORD.replace(" 00000000000000ff", "");
        assert!(recorded.are_met_by(&Traces::from_text(&fewer).expect("well formed")));
        for (from, to) in [("ff", "fe"), ("two", "three"), ("  10:", "  11:")] {
            let other = Traces::from_text(&RECORD.replace(from, to)).expect("well formed");
            assert!(!recorded.are_met_by(&other), "{from} became {to}");
        }
        let without = RECORD.split("two").next().expect("a first part");
        assert!(!recorded.are_met_by(&Traces::from_text(without).expect("well formed")));
    }

    #[test]
    fn counts_beyond_the_tolerance_differ() {
        assert_eq!(counts_are_met("ring 1000\nask 500\n", &[("ring", 1019), ("ask", 491)]), Ok(true));
        assert_eq!(counts_are_met("ring 1000\n", &[("ring", 1021)]), Ok(false));
        assert!(counts_are_met("ring 1000\n", &[("ping", 1)]).is_err());
    }
}
