//! Reads secrets from a file or the environment, so that they need not appear in programs and command lines.
//!
//! Invariant: the bytes that were read are wiped from memory, even if they are refused, and no error shows them.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::Secret;

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
    /// The file is larger than a secret may be.
    #[error("it has more than {SECRET_BYTES_MAX} bytes; a secret is one short line")]
    TooLong,
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

impl Secret {
    /// Reads a secret from a file. One line end after the secret is removed.
    ///
    /// On Unix, a file that users other than its owner may access is refused.
    ///
    /// # Errors
    /// [`SecretError::File`], which names the file, the fault and the remedy.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Secret, SecretError> {
        let path = path.as_ref();
        read(path).map_err(|fault| SecretError::File { file: path.to_owned(), fault })
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
}

fn read(path: &Path) -> Result<Secret, FileFault> {
    let file = File::open(path)?;
    // Check the opened file, not the path: another file may be at that path by now.
    check_mode(&file)?;
    // The capacity suffices for the whole read. If the vector grew, its old buffer would be freed without being
    // wiped.
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX + 1));
    file.take(SECRET_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > SECRET_BYTES_MAX {
        return Err(FileFault::TooLong);
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| FileFault::NotText)?;
    match trimmed(text) {
        "" => Err(FileFault::Empty),
        text => Ok(Secret::from(text)),
    }
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

/// The largest file that is read. A secret needs far less.
const SECRET_BYTES_MAX: usize = 4096;
