//! The errors of connections besides the system's own.

use std::io;

use thiserror::Error;

/// Why this side closed or refused a connection; contained in the [`io::Error`] that the actor receives.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SocketError {
    /// The peer sent, or this actor wrote, a frame over the limit of the framing. The connection is closed.
    #[error("a frame is longer than {max} bytes; raise `max` of the framing on both sides")]
    FrameTooLong {
        /// The limit.
        max: usize,
    },
    /// The peer ended the connection within a frame, which is lost.
    #[error("the peer ended the connection within a frame; check that both sides use the same framing")]
    Truncated,
    /// The actor wrote faster than the peer reads. The connection is closed, and the waiting bytes are lost.
    #[error("more than {max} bytes wait for a slow peer; pause at 1 MiB until `Writable`")]
    QueueFull {
        /// The limit.
        max: usize,
    },
    /// The connection was not established in time.
    #[error("the connection was not established in time; check that a program listens at the address")]
    ConnectTimedOut,
    /// TCP connected, but the layer was not negotiated in time.
    #[error(
        "TCP connected, but TLS (or another layer) was not negotiated in time; check that the peer speaks it"
    )]
    LayerTimedOut,
    /// The endpoint of a UDP socket has a layer.
    #[error("a layer such as TLS needs TCP; use `cx.connect` and `cx.listen`, or datagrams without a layer")]
    LayerOverUdp,
    /// The connection was being closed, and the peer took none of the remaining bytes for ten seconds.
    #[error("the peer did not take the remaining bytes in time; they are lost")]
    CloseTimedOut,
    /// The endpoint to listen at is a host name.
    #[error("listening needs an address or `localhost`; look names up first with `cx.blocking`")]
    ListenName,
}

impl From<SocketError> for io::Error {
    fn from(reason: SocketError) -> Self {
        let kind = match reason {
            SocketError::FrameTooLong { .. } => io::ErrorKind::InvalidData,
            SocketError::Truncated => io::ErrorKind::UnexpectedEof,
            SocketError::QueueFull { .. } => io::ErrorKind::OutOfMemory,
            SocketError::ConnectTimedOut | SocketError::LayerTimedOut | SocketError::CloseTimedOut => {
                io::ErrorKind::TimedOut
            }
            SocketError::LayerOverUdp | SocketError::ListenName => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, reason)
    }
}
