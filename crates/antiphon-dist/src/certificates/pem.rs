//! Reads certificates and keys from PEM files. Their order in a file does not matter.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustls_pki_types::pem::{PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::TlsError;

/// The certificate of a node, the CA certificates between it and a root, and its key.
pub(crate) struct CertificateIdentity {
    /// The certificate of the node is the first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

/// Reads the certificate and the key of a node, from one file or two.
pub(crate) fn identity(certfile: &Path, keyfile: Option<&Path>) -> Result<CertificateIdentity, TlsError> {
    let chain = certificates(certfile)?;
    let keyfile = keyfile.unwrap_or(certfile);
    Ok(CertificateIdentity { chain, key: private_key(keyfile)? })
}

/// Reads all certificates of a file. There must be at least one.
pub(crate) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    certificates_in(file, &read_whole(file)?)
}

/// As [`certificates`], for a file of trusted certificates, which `field` of the configuration names. Such a file must not
/// contain a key, since only the peer itself may have its key. The exception is the `certfile` that all nodes share.
pub(crate) fn trusted(
    file: &Path,
    field: &'static str,
    certfile: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read_whole(file)?;
    if holds(&text, b" PRIVATE KEY-----") && !is_same(certfile, file) {
        return Err(TlsError::StrayKey { file: file.to_owned(), field });
    }
    certificates_in(file, &text)
}

fn is_same(one: &Path, other: &Path) -> bool {
    one == other || matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

fn certificates_in(file: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let mut certificates = Vec::new();
    for section in sections(text) {
        let (kind, der) = section.map_err(|reason| not_pem(file, reason))?;
        if kind == SectionKind::Certificate {
            certificates.push(CertificateDer::from(der));
        }
    }
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate { file: file.to_owned() });
    }
    Ok(certificates)
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let failed = |source| TlsError::Unreadable { file: file.to_owned(), source };
    let opened = File::open(file).map_err(failed)?;
    let text = read(file, &opened)?;
    // The parser does not know the newer format of encrypted keys. The older one has a header where the parser expects
    // base64.
    if holds(&text, b"BEGIN ENCRYPTED PRIVATE KEY") || holds(&text, b"Proc-Type: 4,ENCRYPTED") {
        return Err(TlsError::EncryptedKey { file: file.to_owned() });
    }
    for section in sections(&text) {
        let (kind, der) = section.map_err(|reason| not_pem(file, reason))?;
        if let Some(key) = PrivateKeyDer::from_pem(kind, der) {
            check_mode(file, &opened)?;
            return Ok(key);
        }
    }
    Err(TlsError::NoKey { file: file.to_owned() })
}

type Section = Result<(SectionKind, Vec<u8>), rustls_pki_types::pem::Error>;

fn sections(text: &[u8]) -> impl Iterator<Item = Section> {
    <(SectionKind, Vec<u8>)>::pem_slice_iter(text)
}

fn not_pem(file: &Path, reason: rustls_pki_types::pem::Error) -> TlsError {
    TlsError::NotPem { file: file.to_owned(), reason: reason.to_string() }
}

fn holds(text: &[u8], marker: &[u8]) -> bool {
    text.windows(marker.len()).any(|window| window == marker)
}

fn read_whole(file: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let opened = File::open(file).map_err(|source| TlsError::Unreadable { file: file.to_owned(), source })?;
    read(file, &opened)
}

/// Reads a file that may contain a key. The buffer is wiped when it is dropped.
fn read(file: &Path, opened: &File) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let failed = |source| TlsError::Unreadable { file: file.to_owned(), source };
    let mut text = Zeroizing::new(Vec::new());
    // The whole size is reserved at once: a buffer that grows would leave its old memory unwiped.
    let bytes = opened.metadata().map_err(failed)?.len();
    text.reserve_exact(usize::try_from(bytes.min(FILE_BYTES_MAX)).unwrap_or_default() + 1);
    opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, "the file is larger than 4 MiB")));
    }
    Ok(text)
}

/// Refuses a key that other users of this machine may read or write. Checks the open file, since the path may name another
/// file by now.
#[cfg(unix)]
fn check_mode(file: &Path, opened: &File) -> Result<(), TlsError> {
    use std::os::unix::fs::PermissionsExt;

    let failed = |source| TlsError::Unreadable { file: file.to_owned(), source };
    let mode = opened.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 { Err(TlsError::ExposedKey { file: file.to_owned(), mode }) } else { Ok(()) }
}

#[cfg(not(unix))]
fn check_mode(_: &Path, _: &File) -> Result<(), TlsError> {
    Ok(())
}

const FILE_BYTES_MAX: u64 = 4 << 20;
