//! Whom this side trusts: peers whose certificate is pinned, or signed by one of its CAs.
//!
//! Invariant: whatever is trusted, its dates hold, and rustls verifies that the peer has the certificate's key.

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

/// Judges the certificates of peers, whoever has dialled.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    pinned: Vec<CertificateDer<'static>>,
    cas: Option<Authorities>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// The CAs, in the forms for peers that were dialled and for those that have.
#[derive(Debug)]
struct Authorities {
    roots: Arc<RootCertStore>,
    of_diallers: Arc<dyn ClientCertVerifier>,
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
            found.iter().for_each(|certificate| warn_of_dates(file, certificate));
            pinned.extend(found);
        }
        if pinned.is_empty() && config.ca_files.is_empty() {
            // One certificate for all.
            pinned.extend(identity.chain.first().cloned());
        }
        let algorithms = provider.signature_verification_algorithms;
        Ok(Self { pinned, cas: Authorities::new(config, provider)?, algorithms })
    }

    /// Whether all peers that are let in present this certificate.
    pub(super) fn admits_only(&self, certificate: &CertificateDer<'_>) -> bool {
        self.cas.is_none() && self.pinned.iter().all(|pinned| pinned.as_ref() == certificate.as_ref())
    }

    /// What is to be said of a certificate without its chain; `None`: that its chain decides.
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
        let of_diallers = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
        let of_diallers = of_diallers.build().map_err(|reason| bad(first, reason.to_string()))?;
        Ok(Some(Self { roots, of_diallers }))
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
            (Some(judged), _) => judged?,
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
            (Some(judged), _) => judged.map(|()| ClientCertVerified::assertion()),
            (None, Some(cas)) => cas.of_diallers.verify_client_cert(end_entity, intermediates, now),
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

/// One peer's old certificate keeps that peer away, and no others.
fn warn_of_dates(file: &Path, certificate: &[u8]) {
    if let Some(validity) = Validity::of(certificate)
        && super::now() > validity.not_after
    {
        let at = validity.not_after;
        tracing::warn!(file = %file.display(), %at, "a pinned certificate has expired; pin the peer's new one");
    }
}

/// What an error of TLS means to whoever runs this side.
pub(super) fn fault_of(error: &Error) -> TlsFault {
    match error {
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            TlsFault::Expired
        }
        Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => TlsFault::NotYetValid,
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => TlsFault::Stranger,
        Error::InvalidCertificate(_) => TlsFault::Unusable,
        Error::NoCertificatesPresented => TlsFault::Missing,
        Error::NoApplicationProtocol => TlsFault::OtherProtocol,
        Error::AlertReceived(alert) => fault_told(*alert),
        _ => TlsFault::Broken,
    }
}

fn fault_told(alert: AlertDescription) -> TlsFault {
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
