//! The record of a run: one line of text in the file that `ANTIPHON_RUN_FILE` names.

use std::fmt::Write as _;
use std::io::Write as _;

use antiphon_wire::Time;

use crate::faults::FaultCounts;
use crate::trace::Trace;

/// What is recorded of a world when it is dropped.
pub(crate) struct RunRecord<'a> {
    /// The name of the running test. It contains no space.
    pub(crate) test: &'a str,
    pub(crate) seed: u64,
    pub(crate) trace: Trace,
    /// Whether the test panicked while the world existed.
    pub(crate) has_failed: bool,
    /// The virtual time at the end.
    pub(crate) ended: Time,
    pub(crate) faults: FaultCounts,
}

impl RunRecord<'_> {
    /// The line of this record: test, seed, trace hash, `passed` or `failed`; then fields `name=number`.
    fn line(&self) -> String {
        let outcome = if self.has_failed { "failed" } else { "passed" };
        let mut line = format!("{} {} {:016x} {outcome}", self.test, self.seed, self.trace.hash());
        let nanos = [("virtual_nanos", self.ended.as_nanos())];
        for (name, count) in nanos.into_iter().chain(self.faults.named()) {
            write!(line, " {name}={count}").expect("writing to a String never fails");
        }
        line.push('\n');
        line
    }
}

/// Appends a record of the calling thread's test to the file in `ANTIPHON_RUN_FILE`, if that is set.
pub(crate) fn append(seed: u64, trace: Trace, ended: Time, faults: FaultCounts) {
    let Some(path) = std::env::var_os("ANTIPHON_RUN_FILE") else { return };
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("unnamed").replace(char::is_whitespace, "_");
    let record = RunRecord { test: &test, seed, trace, has_failed: std::thread::panicking(), ended, faults };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    if let Err(error) = file.and_then(|mut file| file.write_all(record.line().as_bytes())) {
        eprintln!("the run could not be recorded: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_line_holds_outcome_time_and_counts() {
        let faults = FaultCounts { cuts: 3, latencies: 12, ..FaultCounts::default() };
        let (trace, ended) = (Trace::new(), Time::from_nanos(5));
        let mut record = RunRecord { test: "a_test", seed: 7, trace, has_failed: false, ended, faults };
        let line = record.line();
        assert!(line.starts_with("a_test 7 cbf29ce484222325 passed virtual_nanos=5 cuts=3 "), "{line}");
        assert!(line.ends_with(" latencies=12\n"), "{line}");
        record.has_failed = true;
        assert!(record.line().starts_with("a_test 7 cbf29ce484222325 failed "));
    }
}
