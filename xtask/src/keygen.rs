//! `cargo xtask keygen`: prints a strong secret.

use std::process::ExitCode;

use antiphon_wire::Secret;
use ring::rand::{SecureRandom, SystemRandom};

/// Prints a new secret, and nothing else.
pub(crate) fn run() -> ExitCode {
    match generate() {
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

/// A strong secret from the random numbers of the system.
pub(crate) fn generate() -> Result<Secret, String> {
    let mut bytes = [0; 32];
    let drawn = SystemRandom::new().fill(&mut bytes);
    drawn.map_err(|_| "the system supplied no random bytes; check that /dev/urandom works".to_owned())?;
    Ok(Secret::from_random(bytes))
}
