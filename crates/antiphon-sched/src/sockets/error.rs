//! What ends a connection besides the system's own errors.

use std::io;

use thiserror::Error;

/// Why a connection was closed from this side; found inside the [`io::Error`] that is told.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SocketError {
    /// The peer sent, or this actor wrote, a frame over the limit of the framing. The connection is gone.
    #[error("a frame of more than {max} bytes; raise `max` of the framing, on both sides")]
    FrameTooLong {
        /// The limit.
        max: usize,
    },
    /// The peer ended within a frame, which is lost.
    #[error("the peer ended within a frame; does it use the same framing?")]
    Truncated,
    /// More was written than the peer takes. The connection is gone, and what waited with it.
    #[error("more than {max} bytes wait for a slow peer; pause at 1 MiB until `Writable`")]
    QueueFull {
        /// The limit.
        max: usize,
    },
    /// The connection could not be made in time.
    #[error("no connection in time; is anybody listening there?")]
    ConnectTimedOut,
    /// TCP connected, and what lies over it could not be agreed on in time.
    #[error(
        "somebody listens there, and did not agree on TLS (or another layer) in time; does the peer speak it?"
    )]
    LayerTimedOut,
    /// A socket for datagrams was to have a layer.
    #[error("TLS, as any layer, lies over TCP: use `cx.connect` and `cx.listen`, or datagrams without it")]
    LayerOverUdp,
    /// The connection was being closed, and the peer took nothing of the rest for ten seconds.
    #[error("the peer did not take the rest in time; it is lost")]
    CloseTimedOut,
    /// The place to listen at is a host's name.
    #[error("listening wants an address or `localhost`; look names up first, with `cx.blocking`")]
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
