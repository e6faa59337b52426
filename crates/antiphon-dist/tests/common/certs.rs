//! Certificates in a temporary folder, which is deleted with the test.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;

/// A folder with certificates.
pub(crate) struct Certs(TempDir);

/// The files of one certificate.
#[derive(Clone)]
pub(crate) struct Files {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    /// The key and the certificate in one file.
    pub(crate) both: PathBuf,
}

/// Signs certificates.
pub(crate) struct Ca {
    pub(crate) cert: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Certs {
    pub(crate) fn new() -> Self {
        Self(TempDir::new().expect("a temporary folder can be made"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, text).expect("a temporary file can be written");
        set_mode(&path, 0o600);
        path
    }

    /// A self-signed certificate.
    pub(crate) fn node(&self, name: &str) -> Files {
        self.node_with(name, |_| {})
    }

    pub(crate) fn node_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Files {
        let mut params = params(name);
        change(&mut params);
        let key = new_key();
        let cert = params.self_signed(&key).expect("the parameters are valid");
        self.files(name, &cert.pem(), &key)
    }

    fn files(&self, name: &str, cert: &str, key: &KeyPair) -> Files {
        let key = key.serialize_pem();
        Files {
            cert: self.write(&format!("{name}.crt"), cert),
            key: self.write(&format!("{name}.key"), &key),
            both: self.write(&format!("{name}.pem"), format!("{key}{cert}")),
        }
    }

    pub(crate) fn ca(&self, name: &str) -> Ca {
        let mut params = params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, new_key()).expect("the parameters are valid");
        Ca { cert: self.write(&format!("{name}.crt"), issuer.pem()), issuer }
    }

    /// A certificate that a CA has signed.
    pub(crate) fn signed(&self, name: &str, ca: &Ca) -> Files {
        let key = new_key();
        let cert = params(name).signed_by(&key, &ca.issuer).expect("the parameters are valid");
        self.files(name, &cert.pem(), &key)
    }
}

/// Sets the permissions of a file, on systems that have them.
pub(crate) fn set_mode(path: &Path, mode: u32) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, mode).expect("the test owns the file");
    }
    #[cfg(not(unix))]
    drop((path, mode));
}

impl Files {
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from_pem_file(&self.cert).expect("the test has written a valid file")]
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_file(&self.key).expect("the test has written a valid file")
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("an empty list of names is valid");
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("the system has random numbers")
}
