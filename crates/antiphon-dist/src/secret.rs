//! Secrets from the random numbers of the system, a file or the environment. Those of a file or the environment need not
//! appear in programs and command lines.
//!
//! Invariant: the bytes that were read are wiped from memory, even if they are refused, and no error shows them.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use antiphon_wire::Secret;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::net::NoRandomness;

/// Why no secret could be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The file cannot be used.
    #[error("no secret can be read from {}: {fault}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// The reason.
        #[source]
        fault: FileFault,
    },
    /// The variable cannot be used.
    #[error("no secret can be read from the environment variable {variable}: {fault}")]
    Environment {
        /// The name of the variable.
        variable: String,
        /// The reason.
        #[source]
        fault: EnvironmentFault,
    },
}

/// Why a file holds no usable secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileFault {
    /// The file cannot be opened or read.
    #[error("{0}; check the path, and that this user may read it")]
    Unreadable(#[from] io::Error),
    /// Users other than the owner may access the file.
    #[error("users other than its owner may access it (mode {mode:o}); restrict it with `chmod 600`")]
    Exposed {
        /// The permission bits of the file.
        mode: u32,
    },
    /// The file is empty, or holds only a line end.
    #[error("it is empty; write a secret into it, for example from `cargo xtask keygen`")]
    Empty,
    /// The content is not UTF-8.
    #[error("it is not UTF-8; write a secret into it, for example from `cargo xtask keygen`")]
    NotText,
    /// The file is larger than secrets may be.
    #[error("it has more than {FILE_BYTES_MAX} bytes; a secret is one short line")]
    TooLong,
    /// A generated secret has lost or gained characters.
    #[error("a secret in it begins as a generated one does, and its checksum is wrong; copy it again, whole")]
    Damaged,
    /// A line is not a key id and a secret.
    #[error("line {line} is not a key id and a secret with a space between them, as in `1 antiphon-..`")]
    BadLine {
        /// The number of the line.
        line: usize,
    },
}

/// Why an environment variable holds no usable secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvironmentFault {
    /// The variable is not set.
    #[error("it is not set; set it, or name another variable")]
    Unset,
    /// The variable is empty, or holds only a line end.
    #[error("it is empty; set it to a secret, for example from `cargo xtask keygen`")]
    Empty,
    /// The value is not UTF-8.
    #[error("it is not UTF-8; set it to a secret, for example from `cargo xtask keygen`")]
    NotText,
}

/// Generates a strong secret from the random numbers of the system.
///
/// # Errors
/// [`NoRandomness`] if the system supplies no random bytes.
pub fn generate() -> Result<Secret, NoRandomness> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(Secret::from_random(bytes))
}

/// Reads a secret from a file. One line end after the secret is removed.
///
/// On Unix, a file that users other than its owner may access is refused.
///
/// # Errors
/// [`SecretError::File`], which names the file, the fault and the remedy.
pub fn from_file(path: impl AsRef<Path>) -> Result<Secret, SecretError> {
    read(path.as_ref(), |text| secret_of(trimmed(text)))
}

/// Reads secrets with their key ids from a file, at least one. Each line is a key id and a secret, with a space between
/// them. Empty lines and lines that begin with `#` are ignored.
///
/// On Unix, a file that users other than its owner may access is refused.
///
/// # Errors
/// [`SecretError::File`], which names the file, the fault and the remedy.
pub fn all_from_file(path: impl AsRef<Path>) -> Result<Vec<(u32, Secret)>, SecretError> {
    read(path.as_ref(), secrets_of)
}

/// Reads a secret from an environment variable. One line end after the secret is removed.
///
/// # Errors
/// [`SecretError::Environment`], which names the variable, the fault and the remedy.
pub fn from_env(variable: &str) -> Result<Secret, SecretError> {
    let failed = |fault| SecretError::Environment { variable: variable.to_owned(), fault };
    let value = std::env::var_os(variable).ok_or(failed(EnvironmentFault::Unset))?;
    let value = Zeroizing::new(value.into_string().map_err(|_| failed(EnvironmentFault::NotText))?);
    match trimmed(&value) {
        "" => Err(failed(EnvironmentFault::Empty)),
        text => Ok(Secret::from(text)),
    }
}

/// Reads a file, and takes from its text what `parse` finds.
fn read<T>(path: &Path, parse: impl FnOnce(&str) -> Result<T, FileFault>) -> Result<T, SecretError> {
    read_text(path)
        .and_then(|bytes| match std::str::from_utf8(&bytes) {
            Err(_) => Err(FileFault::NotText),
            Ok(text) if trimmed(text).is_empty() => Err(FileFault::Empty),
            Ok(text) => parse(text),
        })
        .map_err(|fault| SecretError::File { file: path.to_owned(), fault })
}

/// A secret. A generated one with a wrong checksum has lost or gained characters.
fn secret_of(text: &str) -> Result<Secret, FileFault> {
    let secret = Secret::from(text);
    if secret.is_damaged() { Err(FileFault::Damaged) } else { Ok(secret) }
}

fn secrets_of(text: &str) -> Result<Vec<(u32, Secret)>, FileFault> {
    let mut secrets = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let parts = line.split_once(char::is_whitespace);
        let parsed = parts.and_then(|(id, secret)| Some((id.parse().ok()?, secret.trim_start())));
        let is_one_word = |(_, secret): &(u32, &str)| !secret.contains(char::is_whitespace);
        let (id, secret) = parsed.filter(is_one_word).ok_or(FileFault::BadLine { line: index + 1 })?;
        secrets.push((id, secret_of(secret)?));
    }
    if secrets.is_empty() { Err(FileFault::Empty) } else { Ok(secrets) }
}

fn read_text(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileFault> {
    let file = File::open(path)?;
    // Check the opened file, not the path: another file may be at that path by now.
    check_mode(&file)?;
    // The capacity suffices for the whole read. If the vector grew, its old buffer would be freed without being
    // wiped.
    let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX + 1));
    file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > FILE_BYTES_MAX { Err(FileFault::TooLong) } else { Ok(bytes) }
}

#[cfg(unix)]
fn check_mode(file: &File) -> Result<(), FileFault> {
    use std::os::unix::fs::PermissionsExt;

    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 { Err(FileFault::Exposed { mode }) } else { Ok(()) }
}

#[cfg(not(unix))]
fn check_mode(_: &File) -> Result<(), FileFault> {
    Ok(())
}

fn trimmed(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

/// The largest file that is read. Secrets need far less.
const FILE_BYTES_MAX: usize = 4096;
