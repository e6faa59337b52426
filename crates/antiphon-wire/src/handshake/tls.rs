//! The faults of TLS below a handshake. The caller runs TLS and reports them; this crate contains no TLS.

/// The label under which TLS exports the 32 bytes that the proofs bind (RFC 8446, 7.5). There is no context.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-antiphon";

/// Why TLS failed on a connection. Most faults are not sent to the peer, because TLS has its own alerts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsFault {
    /// One side uses TLS and the other does not.
    #[error("only one of the two sides uses TLS; give both a certificate, or neither")]
    OneSided,
    /// This side does not trust the peer's certificate.
    #[error(
        "the peer's certificate is neither pinned here nor signed by a CA of this side; add it if it is the right one"
    )]
    Untrusted,
    /// The peer's certificate has expired.
    #[error("the peer's certificate has expired; give the peer a new one")]
    Expired,
    /// The peer's certificate is not valid yet.
    #[error("the peer's certificate is not valid yet; check the clocks of both machines")]
    NotYetValid,
    /// The peer's certificate cannot be used.
    #[error("the peer's certificate is unusable or not the peer's own; give the peer a new one")]
    Unusable,
    /// The peer presents no certificate.
    #[error("the peer presents no certificate; give the peer one")]
    Missing,
    /// The peer does not trust this side's certificate.
    #[error(
        "the peer does not trust this side's certificate; pin it there, or sign it by the CA that the peer trusts"
    )]
    Rejected,
    /// For the peer, this side's certificate has expired.
    #[error(
        "the peer refuses this side's certificate as expired; make a new one, or check the clocks of both machines"
    )]
    RejectedExpired,
    /// Both sides use TLS, but the peer uses another protocol inside it.
    #[error(
        "the peer uses another protocol inside TLS; check that this is the port of a node, or of an actor's socket"
    )]
    OtherProtocol,
    /// Any other fault: another version of TLS, no common parameters, or no TLS at all.
    #[error("TLS 1.3 could not be negotiated; check that the peer supports it, and read the peer's log")]
    Broken,
    /// The peer's stream ended without a TLS close alert.
    ///
    /// Only sockets of actors report it; nodes send lost frames again.
    #[error(
        "the stream was cut short, so the last bytes of the peer may be missing; check whether the peer has crashed"
    )]
    CutShort,
}

impl TlsFault {
    /// The TLS fault inside an error of a stream; `None` for any other error.
    pub fn of(error: &std::io::Error) -> Option<TlsFault> {
        error.get_ref()?.downcast_ref().copied()
    }

    /// Whether the peer rejected this side's certificate.
    pub fn is_rejected_by_peer(self) -> bool {
        matches!(self, TlsFault::Rejected | TlsFault::RejectedExpired)
    }
}
