//! Throw-away certificates, in a folder that goes with the test.

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
    /// Both in one.
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

    /// A certificate that has signed itself.
    pub(crate) fn node(&self, name: &str) -> Files {
        self.node_with(name, |_| {})
    }

    pub(crate) fn node_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Files {
        let mut params = params(name);
        change(&mut params);
        let key = fresh_key();
        let cert = params.self_signed(&key).expect("sound parameters");
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
        let issuer = CertifiedIssuer::self_signed(params, fresh_key()).expect("sound parameters");
        Ca { cert: self.write(&format!("{name}.crt"), issuer.pem()), issuer }
    }

    /// A certificate that a CA has signed.
    pub(crate) fn signed(&self, name: &str, ca: &Ca) -> Files {
        let key = fresh_key();
        let cert = params(name).signed_by(&key, &ca.issuer).expect("sound parameters");
        self.files(name, &cert.pem(), &key)
    }
}

/// Who may open a file, where there is such a thing.
pub(crate) fn set_mode(path: &Path, mode: u32) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, mode).expect("the file is this test's");
    }
    #[cfg(not(unix))]
    drop((path, mode));
}

impl Files {
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from_pem_file(&self.cert).expect("it was written so")]
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_file(&self.key).expect("it was written so")
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("no names are sound ones");
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params
}

fn fresh_key() -> KeyPair {
    KeyPair::generate().expect("the system has random numbers")
}
