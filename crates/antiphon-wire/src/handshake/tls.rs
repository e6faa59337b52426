//! What can go wrong with the TLS below a handshake, told by whoever runs it. Nothing here speaks TLS.

/// The label under which TLS exports the 32 bytes that a proof binds (RFC 8446, 7.5), without a context.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-antiphon";

/// Why the TLS below a connection came to nothing. It never travels as itself: TLS has alerts of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsFault {
    /// One side speaks TLS and the other does not.
    #[error("only one of the two sides uses TLS; give both a certificate, or neither")]
    OneSided,
    /// The peer's certificate is not trusted here.
    #[error(
        "the peer's certificate is neither pinned here nor signed by a CA of this side; add it, if it is the right one"
    )]
    Stranger,
    /// The peer's certificate has expired.
    #[error("the peer's certificate has expired; give the peer a new one")]
    Expired,
    /// The peer's certificate is not valid yet.
    #[error("the peer's certificate is not valid yet; check the clocks of both machines")]
    NotYetValid,
    /// The peer's certificate cannot be used.
    #[error("the peer's certificate cannot be used, or is not the peer's; give the peer a new one")]
    Unusable,
    /// The peer presents no certificate.
    #[error("the peer presents no certificate; give the peer one")]
    Missing,
    /// The peer does not trust this side's certificate.
    #[error(
        "the peer does not trust this side's certificate; pin it there, or sign it by the CA that the peer trusts"
    )]
    Rejected,
    /// The peer finds this side's certificate expired.
    #[error(
        "the peer finds this side's certificate expired; make a new one, or check the clocks of both machines"
    )]
    RejectedExpired,
    /// Both sides speak TLS, and something else inside it.
    #[error(
        "the other side speaks something else inside TLS; check that this is the port of a node, or of an actor's socket"
    )]
    OtherProtocol,
    /// Anything else: another version of TLS, nothing in common, no TLS at all.
    #[error("TLS 1.3 could not be agreed on; does the other side speak it? Its log may say more")]
    Broken,
    /// The peer's stream ended before the peer said so, on a socket of an actor: a node sends what was lost again.
    #[error("the stream was cut short: what the peer sent last may be missing; see whether it has crashed")]
    CutShort,
}

impl TlsFault {
    /// The fault inside an error of a stream, such as a socket is closed with; `None` when it is about something else.
    pub fn of(error: &std::io::Error) -> Option<TlsFault> {
        error.get_ref()?.downcast_ref().copied()
    }

    /// Whether it was the other side that refused.
    pub fn is_told_by_peer(self) -> bool {
        matches!(self, TlsFault::Rejected | TlsFault::RejectedExpired)
    }
}
