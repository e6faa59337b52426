//! Runs the tests of `antiphon-sim`, and reads the records of their runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;

/// How to run the tests.
pub(crate) struct TestOptions {
    /// How many seeds of each test to run.
    pub(crate) seeds: u64,
    /// Whether to compile with optimizations, and to show the output of the tests and go on after a failure.
    pub(crate) is_release: bool,
    /// Runs only tests whose names contain this text.
    pub(crate) filter: Option<String>,
}

/// The runs of all tests.
pub(crate) struct TestRuns {
    /// Whether all tests passed.
    pub(crate) passed: bool,
    /// The runs, in the order in which they ended.
    pub(crate) runs: Vec<RunRecord>,
}

/// One world of one test: a line of the file in `ANTIPHON_RUN_FILE`, which `antiphon-sim` documents.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RunRecord {
    pub(crate) test: String,
    pub(crate) seed: u64,
    /// The hash of the trace.
    pub(crate) hash: u64,
    pub(crate) has_failed: bool,
    /// The virtual time and the counts of faults, by name.
    pub(crate) counts: BTreeMap<String, u64>,
}

impl RunRecord {
    fn from_line(line: &str) -> Result<RunRecord, String> {
        let malformed = || format!("malformed record of a run: {line}");
        let mut fields = line.split(' ');
        let mut next = || fields.next().ok_or_else(malformed);
        let (test, seed, hash, outcome) = (next()?.to_owned(), next()?, next()?, next()?);
        let has_failed = match outcome {
            "passed" => false,
            "failed" => true,
            _ => return Err(malformed()),
        };
        let seed = seed.parse().map_err(|_| malformed())?;
        let hash = u64::from_str_radix(hash, 16).map_err(|_| malformed())?;
        let mut counts = BTreeMap::new();
        for field in fields {
            let (name, count) = field.split_once('=').ok_or_else(malformed)?;
            counts.insert(name.to_owned(), count.parse().map_err(|_| malformed())?);
        }
        Ok(RunRecord { test, seed, hash, has_failed, counts })
    }
}

/// Compiles and runs the tests.
pub(crate) fn run_tests(options: &TestOptions) -> Result<TestRuns, String> {
    let folder = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
    let file = folder.path().join("runs");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("the workspace has no folder")?;
    let mut cargo = crate::cargo();
    cargo.args(["test", "--package", "antiphon-sim", "--tests"]).current_dir(root);
    if options.is_release {
        cargo.args(["--release", "--no-fail-fast"]);
    } else {
        cargo.arg("--quiet").stdout(Stdio::null());
    }
    cargo.args(&options.filter);
    // With one test thread, the tests run on the main thread, whose name is not the name of a test.
    cargo.env_remove("RUST_TEST_THREADS");
    cargo.env_remove("ANTIPHON_SEED").env("ANTIPHON_SEEDS", options.seeds.to_string());
    cargo.env("ANTIPHON_RUN_FILE", &file);
    let status = cargo.status().map_err(|error| format!("cargo could not be started: {error}"))?;
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        // The tests did not compile, or the filter selects none with a world.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(format!("{}: {error}", file.display())),
    };
    let runs = text.lines().map(RunRecord::from_line).collect::<Result<_, _>>()?;
    Ok(TestRuns { passed: status.success(), runs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_record_line_is_read() {
        let record = RunRecord::from_line("a_test 7 00000000000000ff failed virtual_nanos=5 cuts=3");
        let counts = [("virtual_nanos".to_owned(), 5), ("cuts".to_owned(), 3)].into();
        let test = "a_test".to_owned();
        assert_eq!(record, Ok(RunRecord { test, seed: 7, hash: 0xff, has_failed: true, counts }));
    }

    #[test]
    fn run_record_malformed_line_is_refused() {
        for line in ["", "a_test 7 ff", "a_test x ff passed", "a_test 7 ff done", "a_test 7 ff passed cuts"] {
            assert!(RunRecord::from_line(line).is_err_and(|error| error.contains(line)), "{line}");
        }
    }
}
