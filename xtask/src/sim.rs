//! `cargo xtask sim`: runs all tests of the simulator in release mode over many seeds, and prints what they covered.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use crate::simulator::{RunRecord, TestOptions, run_tests};

/// The tests to run.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Runs only tests whose names contain this text.
    name: Option<String>,
    /// How many seeds of each test to run. A test with one fixed run ignores it.
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    seeds: u64,
}

/// Runs the tests; fails if one of them fails.
pub(crate) fn run(options: &Options) -> ExitCode {
    let tests = TestOptions { seeds: options.seeds, is_release: true, filter: options.name.clone() };
    match run_tests(&tests) {
        Ok(tests) => {
            let coverage = Coverage::by_test(&tests.runs);
            print!("{}", to_text(&coverage));
            let has_passed = tests.passed && !coverage.is_empty();
            println!("sim: {}", if has_passed { "passed" } else { "failed" });
            if has_passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            println!("sim: failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What the worlds of one test covered, or those of all tests.
#[derive(Debug, Default, PartialEq, Eq)]
struct Coverage {
    /// The seeds; for all tests, the sum over the tests.
    seeds: usize,
    /// The worlds. Some tests build several from one seed.
    worlds: usize,
    virtual_nanos: u128,
    /// How often each fault was drawn, by its name.
    faults: BTreeMap<String, u64>,
    /// The seeds of runs that failed.
    failed: BTreeSet<u64>,
}

impl Coverage {
    fn by_test(runs: &[RunRecord]) -> BTreeMap<&str, Coverage> {
        let mut seeds: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
        let mut tests: BTreeMap<&str, Coverage> = BTreeMap::new();
        for run in runs {
            seeds.entry(&run.test).or_default().insert(run.seed);
            let test = tests.entry(&run.test).or_default();
            test.worlds += 1;
            for (name, count) in &run.counts {
                if name == "virtual_nanos" {
                    test.virtual_nanos += u128::from(*count);
                } else {
                    *test.faults.entry(name.clone()).or_default() += count;
                }
            }
            test.failed.extend(run.has_failed.then_some(run.seed));
        }
        for (name, test) in &mut tests {
            test.seeds = seeds[name].len();
        }
        tests
    }

    fn add(&mut self, other: &Coverage) {
        self.seeds += other.seeds;
        self.worlds += other.worlds;
        self.virtual_nanos += other.virtual_nanos;
        for (name, count) in &other.faults {
            *self.faults.entry(name.clone()).or_default() += count;
        }
    }

    /// A line about the runs, and a line about the faults that were drawn.
    fn to_text(&self) -> String {
        let hours = self.virtual_nanos as f64 / 3.6e12;
        let drawn = self.faults.iter().filter(|(_, count)| **count > 0);
        let drawn: Vec<String> =
            drawn.map(|(name, count)| format!("{} {count}", name.replace('_', " "))).collect();
        format!(
            "{} seeds, {} worlds, {hours:.2} virtual hours\n    {}\n",
            self.seeds,
            self.worlds,
            drawn.join(", ")
        )
    }
}

/// The coverage of each test, the total, and a command for each failed run.
fn to_text(tests: &BTreeMap<&str, Coverage>) -> String {
    let mut text = String::new();
    let mut total = Coverage::default();
    for (name, test) in tests {
        text.push_str(&format!("{name}: {}", test.to_text()));
        total.add(test);
    }
    text.push_str(&format!("total of {} tests: {}", tests.len(), total.to_text()));
    for (name, test) in tests {
        for seed in &test.failed {
            text.push_str(&format!(
                "{name} failed with seed {seed}; replay it with: ANTIPHON_SEED={seed} cargo test --release -p antiphon-sim {name}\n"
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(test: &str, seed: u64, has_failed: bool) -> RunRecord {
        let counts = [("virtual_nanos".to_owned(), 1_800_000_000_000), ("cuts".to_owned(), seed)].into();
        RunRecord { test: test.to_owned(), seed, hash: 0, has_failed, counts }
    }

    #[test]
    fn summary_sums_worlds_and_lists_failed_seeds() {
        let runs = [run("one", 3, false), run("one", 3, false), run("one", 4, true), run("two", 0, false)];
        let text = to_text(&Coverage::by_test(&runs));
        let expected = "one: 2 seeds, 3 worlds, 1.50 virtual hours\n    cuts 10\n\
                        two: 1 seeds, 1 worlds, 0.50 virtual hours\n    \n\
                        total of 2 tests: 3 seeds, 4 worlds, 2.00 virtual hours\n    cuts 10\n\
                        one failed with seed 4; replay it with: \
                        ANTIPHON_SEED=4 cargo test --release -p antiphon-sim one\n";
        assert_eq!(text, expected);
    }
}
