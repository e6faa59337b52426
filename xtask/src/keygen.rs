//! `cargo xtask keygen`: prints a strong secret.

use std::process::ExitCode;

use antiphon_wire::Secret;

/// Prints a new secret, and nothing else.
pub(crate) fn run() -> ExitCode {
    match Secret::generate() {
        Ok(secret) => {
            println!("{}", secret.reveal());
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}
