//! A temporary certificate that all nodes of a run share.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A certificate and its key in one PEM file, which is deleted with this value.
pub(super) struct Certificate {
    _folder: TempDir,
    file: PathBuf,
}

impl Certificate {
    pub(super) fn make() -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|reason| reason.to_string())?;
        let file = folder.path().join("demo.pem");
        let pem = pem().map_err(|reason| reason.to_string())?;
        write(&file, &pem).map_err(|reason| format!("{}: {reason}", file.display()))?;
        Ok(Self { _folder: folder, file })
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }
}

fn pem() -> Result<String, rcgen::Error> {
    let key = rcgen::KeyPair::generate()?;
    // It needs no names: nodes compare the certificate, not the address that was dialled.
    let certificate = rcgen::CertificateParams::new(Vec::new())?.self_signed(&key)?;
    Ok(key.serialize_pem() + &certificate.pem())
}

/// Writes a file that only this user can read.
fn write(file: &Path, text: &str) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(file)?.write_all(text.as_bytes())
}
