//! The verifier: trusts certificates that are pinned, or that one of the configured CAs has signed.
//!
//! Invariant: the dates of a trusted certificate are valid, and rustls verifies that the peer has its key.

use std::path::Path;
use std::sync::Arc;

use antiphon_wire::TlsFault;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::TlsConfig;
use crate::certificates::{self, CertificateIdentity, Moment, TlsError, Validity};

/// Verifies the certificates of peers, both dialled and accepted ones.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    pinned: Vec<CertificateDer<'static>>,
    cas: Option<Authorities>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// The CAs: as roots for dialled peers, and as a verifier for accepted peers.
#[derive(Debug)]
struct Authorities {
    roots: Arc<RootCertStore>,
    client_verifier: Arc<dyn ClientCertVerifier>,
}

impl PeerVerifier {
    pub(super) fn new(
        config: &TlsConfig,
        identity: &CertificateIdentity,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let mut pinned = Vec::new();
        for file in &config.pinned {
            let found = certificates::trusted(file, "pinned", &config.certfile)?;
            found.iter().for_each(|certificate| warn_if_expired(file, certificate));
            pinned.extend(found);
        }
        if pinned.is_empty() && config.ca_files.is_empty() {
            // All peers share one certificate.
            pinned.extend(identity.chain.first().cloned());
        }
        let algorithms = provider.signature_verification_algorithms;
        Ok(Self { pinned, cas: Authorities::new(config, provider)?, algorithms })
    }

    /// Whether this certificate is the only one that is trusted.
    pub(super) fn admits_only(&self, certificate: &CertificateDer<'_>) -> bool {
        self.cas.is_none() && self.pinned.iter().all(|pinned| pinned.as_ref() == certificate.as_ref())
    }

    /// The result for a certificate if its chain does not matter; `None` if the CAs decide.
    fn verify_pinned(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> Option<Result<(), Error>> {
        let is_pinned = self.pinned.iter().any(|pinned| pinned.as_ref() == certificate.as_ref());
        if is_pinned {
            return Some(within_dates(certificate, now).map_err(Error::InvalidCertificate));
        }
        self.cas.is_none().then_some(Err(CertificateError::UnknownIssuer.into()))
    }
}

impl Authorities {
    fn new(config: &TlsConfig, provider: &Arc<CryptoProvider>) -> Result<Option<Self>, TlsError> {
        let Some(first) = config.ca_files.first() else { return Ok(None) };
        let bad = |file: &Path, reason: String| TlsError::BadCertificate { file: file.to_owned(), reason };
        let mut roots = RootCertStore::empty();
        for file in &config.ca_files {
            for certificate in certificates::trusted(file, "ca_files", &config.certfile)? {
                roots.add(certificate).map_err(|reason| bad(file, reason.to_string()))?;
            }
        }
        let roots = Arc::new(roots);
        let client_verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
        let client_verifier = client_verifier.build().map_err(|reason| bad(first, reason.to_string()))?;
        Ok(Some(Self { roots, client_verifier }))
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match (self.verify_pinned(end_entity, now), &self.cas) {
            (Some(result), _) => result?,
            (None, Some(cas)) => {
                let parsed = ParsedCertificate::try_from(end_entity)?;
                let algorithms = self.algorithms.all;
                verify_server_cert_signed_by_trust_anchor(
                    &parsed,
                    &cas.roots,
                    intermediates,
                    now,
                    algorithms,
                )?;
            }
            (None, None) => return Err(CertificateError::UnknownIssuer.into()),
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match (self.verify_pinned(end_entity, now), &self.cas) {
            (Some(result), _) => result.map(|()| ClientCertVerified::assertion()),
            (None, Some(cas)) => cas.client_verifier.verify_client_cert(end_entity, intermediates, now),
            (None, None) => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn within_dates(certificate: &[u8], now: UnixTime) -> Result<(), CertificateError> {
    let validity = Validity::of(certificate).ok_or(CertificateError::BadEncoding)?;
    let now = Moment::from_unix(now.as_secs());
    if now > validity.not_after {
        Err(CertificateError::Expired)
    } else if now < validity.not_before {
        Err(CertificateError::NotValidYet)
    } else {
        Ok(())
    }
}

/// Logs a warning if a pinned certificate has expired. It is no error: only the peer with this certificate is refused.
fn warn_if_expired(file: &Path, certificate: &[u8]) {
    if let Some(validity) = Validity::of(certificate)
        && super::now() > validity.not_after
    {
        let at = validity.not_after;
        tracing::warn!(file = %file.display(), %at, "a pinned certificate has expired; pin the peer's new one");
    }
}

/// The fault that describes an error of rustls.
pub(super) fn fault_of(error: &Error) -> TlsFault {
    match error {
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            TlsFault::Expired
        }
        Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => TlsFault::NotYetValid,
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => TlsFault::Untrusted,
        Error::InvalidCertificate(_) => TlsFault::Unusable,
        Error::NoCertificatesPresented => TlsFault::Missing,
        Error::NoApplicationProtocol => TlsFault::OtherProtocol,
        Error::AlertReceived(alert) => fault_of_alert(*alert),
        _ => TlsFault::Broken,
    }
}

/// The fault that describes an alert of the peer.
fn fault_of_alert(alert: AlertDescription) -> TlsFault {
    match alert {
        AlertDescription::CertificateExpired => TlsFault::RejectedExpired,
        AlertDescription::NoApplicationProtocol => TlsFault::OtherProtocol,
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateRequired
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => TlsFault::Rejected,
        _ => TlsFault::Broken,
    }
}
