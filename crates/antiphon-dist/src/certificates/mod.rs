//! The certificates and keys in the files that a configuration names.
//!
//! Invariant: each fault is found when the file is read. Its error names the file and the cure. No error contains any
//! part of a key.

mod dates;
mod fingerprint;
mod pem;

pub(crate) use dates::{Moment, Validity};
pub use fingerprint::{Fingerprint, FingerprintError};
pub(crate) use pem::{CertificateIdentity, certificates, identity, trusted};

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a certificate or its key cannot be used. The node was not started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {} ({source}); check the path, and that this user may read the file", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// A file is not a PEM file, or is damaged.
    #[error("{} is not a PEM file, or is damaged ({reason}); copy it again from its source", file.display())]
    NotPem {
        /// The file.
        file: PathBuf,
        /// The error of the parser.
        reason: String,
    },
    /// A file contains no certificate.
    #[error("{} contains no certificate; name a PEM file with `BEGIN CERTIFICATE` in it", file.display())]
    NoCertificate {
        /// The file.
        file: PathBuf,
    },
    /// A certificate cannot be used.
    #[error("a certificate in {} cannot be used ({reason}); create a new one", file.display())]
    BadCertificate {
        /// The file.
        file: PathBuf,
        /// The reason.
        reason: String,
    },
    /// This node's certificate has version 1 of X.509, which TLS 1.3 does not use.
    #[error(
        "the certificate in {} is of X.509 version 1, and version 3 is needed; add an extension when it is signed: \
         `openssl x509 -req .. -extfile v3.ext`, where v3.ext has the line `basicConstraints=CA:FALSE`", file.display()
    )]
    Version1 {
        /// The file.
        file: PathBuf,
    },
    /// This node's certificate has expired.
    #[error("the certificate in {} expired at {at}; create a new one, and copy it to the peers that pin it", file.display())]
    Expired {
        /// The file.
        file: PathBuf,
        /// The time at which it expired.
        at: String,
    },
    /// This node's certificate is not valid yet.
    #[error("the certificate in {} is not valid before {at}; check this machine's clock, or wait", file.display())]
    NotYetValid {
        /// The file.
        file: PathBuf,
        /// The time from which it is valid.
        at: String,
    },
    /// A file contains no key.
    #[error("{} contains no key; add the key, or name its file as `keyfile`", file.display())]
    NoKey {
        /// The file.
        file: PathBuf,
    },
    /// Users other than its owner may read or write the file with the key.
    #[error(
        "{} contains a key, and users other than its owner may open it (mode {mode:o}); restrict it with `chmod 600`",
        file.display()
    )]
    ExposedKey {
        /// The file.
        file: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file of trusted certificates contains a key, and is not this node's `certfile`.
    #[error(
        "{} contains a private key, and `{field}` is only for certificates; name a file without the key \
         (`openssl x509 -in OLD -out NEW`); if it is the key of a peer, no other machine should have it, so create \
         a new key and certificate for that peer", file.display()
    )]
    StrayKey {
        /// The file.
        file: PathBuf,
        /// The field of the configuration that names the file.
        field: &'static str,
    },
    /// The key has a passphrase.
    #[error(
        "the key in {} is encrypted, and a node cannot ask for the passphrase; remove the passphrase with \
         `openssl pkey -in OLD -out NEW`, and make sure that only this user can read the result", file.display()
    )]
    EncryptedKey {
        /// The file.
        file: PathBuf,
    },
    /// The key cannot be used.
    #[error("the key in {} cannot be used ({reason}); create one with RSA (2048 bits or more), P-256, P-384 or Ed25519", file.display())]
    BadKey {
        /// The file.
        file: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The key belongs to another certificate.
    #[error(
        "the key in {} does not match the first certificate in {}; name the two files that belong together",
        keyfile.display(), certfile.display()
    )]
    KeyMismatch {
        /// The certificate's file.
        certfile: PathBuf,
        /// The key's file.
        keyfile: PathBuf,
    },
    /// A key, pinned certificates or CAs are configured, and no certificate of this node.
    #[error(
        "`{field}` is set, and `certfile` is not; set `certfile` too, since both sides of TLS present a certificate"
    )]
    NoCertfile {
        /// The field of the configuration.
        field: &'static str,
    },
}
