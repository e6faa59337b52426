//! Secrets from a file or the environment, which keep them out of programs and command lines.
//!
//! Invariant: what was read is wiped from memory, whether it became a secret or not, and no error shows any of it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::Secret;

/// Why no secret could be read. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The file cannot be used.
    #[error("no secret can be read from {}: {fault}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        fault: FileFault,
    },
    /// The variable cannot be used.
    #[error("no secret can be read from the environment variable {variable}: {fault}")]
    Environment {
        /// Which.
        variable: String,
        /// Why.
        #[source]
        fault: EnvironmentFault,
    },
}

/// What is wrong with a file that should hold a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileFault {
    /// It cannot be read.
    #[error("{0}; check the path, and that this user may read it")]
    Unreadable(#[from] io::Error),
    /// Others than its owner may read or write it.
    #[error("others than its owner may open it (mode {mode:o}); take that away with `chmod 600`")]
    Exposed {
        /// Its permission bits.
        mode: u32,
    },
    /// It holds nothing, or only an end of line.
    #[error("it is empty; write a secret into it, such as `cargo xtask keygen` makes")]
    Empty,
    /// It holds no text.
    #[error("it is no UTF-8 text; write a secret into it, such as `cargo xtask keygen` makes")]
    NotText,
    /// It is larger than a secret may be.
    #[error("it has more than {SECRET_BYTES_MAX} bytes; a secret is one short line")]
    TooLong,
}

/// What is wrong with a variable that should hold a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvironmentFault {
    /// It is not set.
    #[error("it is not set; set it, or name another one")]
    Unset,
    /// It is empty.
    #[error("it is empty; set it to a secret, such as `cargo xtask keygen` makes")]
    Empty,
    /// It holds no text.
    #[error("it is no UTF-8 text; set it to a secret, such as `cargo xtask keygen` makes")]
    NotText,
}

impl Secret {
    /// The secret that a file holds, without one end of line after it.
    ///
    /// On Unix, a file that others than its owner may open is refused.
    ///
    /// # Errors
    /// [`SecretError::File`] names the file, what is wrong with it and what to do.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Secret, SecretError> {
        let path = path.as_ref();
        read(path).map_err(|fault| SecretError::File { file: path.to_owned(), fault })
    }

    /// The secret that an environment variable holds, without one end of line after it.
    ///
    /// # Errors
    /// [`SecretError::Environment`] names the variable, what is wrong with it and what to do.
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
    // Of the file that was opened: the path may mean another one by now.
    check_mode(&file)?;
    // All of it at once, so that no smaller buffer is left behind unwiped.
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

/// Far more than a secret needs.
const SECRET_BYTES_MAX: usize = 4096;
