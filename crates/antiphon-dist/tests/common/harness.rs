//! The harness of test programs that start themselves again as a child process.
//!
//! Such a program is a target with `harness = false`, and calls [`run`] in its `main`. Its tests are plain functions
//! without `#[test]`: outside of the standard harness the compiler removes each function that has this attribute.

#![allow(unused_imports, unused_macros, reason = "most test programs use the standard harness")]

use std::panic::resume_unwind;
use std::process::ExitCode;
use std::thread;

use libtest_mimic::{Arguments, Failed, Trial};

use super::process::{Role, role};

/// A test with its name, as [`tests`] makes it.
pub(crate) type NamedTest = (&'static str, fn());

/// Lists the tests of a program by their paths. A test that is in no list is reported as dead code.
macro_rules! tests {
    ($($(#[$attribute:meta])* $test:path),* $(,)?) => {
        &[$($(#[$attribute])* (stringify!($test), $test as fn())),*]
    };
}
pub(crate) use tests;

/// In a child process, plays its role. Otherwise runs the tests in parallel, with the arguments of the standard harness.
///
/// The output of tests is not captured.
pub(crate) fn run(play: fn(&Role), tests: &[NamedTest]) -> ExitCode {
    if let Some(role) = role() {
        play(&role);
        return ExitCode::SUCCESS;
    }
    let trials = tests.iter().map(|&test| Trial::test(test.0, move || run_on_thread(test))).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Runs a test on a thread with its name, so that the message of a panic names the test.
fn run_on_thread((name, test): NamedTest) -> Result<(), Failed> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(test)?;
    thread.join().unwrap_or_else(|panic| resume_unwind(panic));
    Ok(())
}
