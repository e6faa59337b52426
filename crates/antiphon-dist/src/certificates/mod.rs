//! Certificates and keys, as the files of a configuration hold them.
//!
//! Invariant: what is wrong with one is said when it is read, by the file's name and with the cure; and no error shows
//! anything of a key.

mod dates;
mod fingerprint;
mod pem;

pub(crate) use dates::{Moment, Validity};
pub use fingerprint::{Fingerprint, FingerprintError};
pub(crate) use pem::{CertificateIdentity, certificates, identity, trusted};

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a certificate, or the key of one, cannot be used. Nothing was started with it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{} cannot be read ({source}); check the path, and that this user may read it", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is no PEM, or damaged.
    #[error("{} is no PEM file, or a damaged one ({reason}); copy it once more from where it was made", file.display())]
    NotPem {
        /// Which.
        file: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// A file holds no certificate.
    #[error("{} holds no certificate; name a PEM file with `BEGIN CERTIFICATE` in it", file.display())]
    NoCertificate {
        /// Which.
        file: PathBuf,
    },
    /// A certificate cannot be used.
    #[error("a certificate in {} cannot be used ({reason}); make a new one", file.display())]
    BadCertificate {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The own certificate has expired.
    #[error("the certificate in {} has expired at {at}; make a new one, and give it to the peers too", file.display())]
    Expired {
        /// The file.
        file: PathBuf,
        /// When.
        at: String,
    },
    /// The own certificate is not valid yet.
    #[error("the certificate in {} is not valid before {at}; check this machine's clock, or wait", file.display())]
    NotYetValid {
        /// The file.
        file: PathBuf,
        /// From when.
        at: String,
    },
    /// There is no key.
    #[error("{} holds no key; put it there, or name its file as `keyfile`", file.display())]
    NoKey {
        /// Where it was looked for.
        file: PathBuf,
    },
    /// Others than its owner may read or write the file with the key.
    #[error(
        "others than its owner may open {}, which holds a key (mode {mode:o}); take that away with `chmod 600`",
        file.display()
    )]
    ExposedKey {
        /// The file.
        file: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file of certificates to be trusted holds a key too, and is not the own `certfile`.
    #[error(
        "{} holds a private key, and `{field}` is for certificates alone; name a file without the key \
         (`openssl x509 -in OLD -out NEW`). If it is the key of a peer, it should never have come here: make that peer \
         another key and certificate", file.display()
    )]
    StrayKey {
        /// The file.
        file: PathBuf,
        /// Which field of the configuration names it.
        field: &'static str,
    },
    /// The key has a passphrase.
    #[error(
        "the key in {} is encrypted, and nobody is here to ask for the passphrase; take that away with \
         `openssl pkey -in OLD -out NEW`, and make sure that only this user can read the result", file.display()
    )]
    EncryptedKey {
        /// The file.
        file: PathBuf,
    },
    /// The key is of a kind that cannot be used.
    #[error("the key in {} cannot be used ({reason}); make one by RSA (2048 bits or more), P-256, P-384 or Ed25519", file.display())]
    BadKey {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The key belongs to another certificate.
    #[error(
        "the key in {} is not that of the first certificate in {}; name the two that were made together",
        keyfile.display(), certfile.display()
    )]
    KeyMismatch {
        /// The certificate's file.
        certfile: PathBuf,
        /// The key's file.
        keyfile: PathBuf,
    },
    /// A key, pinned certificates or CAs, and no certificate of one's own.
    #[error(
        "`{field}` is set, and `certfile` is not: set it too, since both sides of TLS present a certificate"
    )]
    NoCertfile {
        /// Which field of the configuration.
        field: &'static str,
    },
}
