//! The negotiation of the layer over TCP, before a connection is open.
//!
//! Invariant: an accepted connection in negotiation is pending at its listener, and its actor does not know of it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::{ConnSink, Tcp, TcpState, WatchedStream};
use crate::scheduler::Core;
use crate::socket::SocketError;
use crate::socket::framing::Framing;
use crate::socket::table::{Served, SocketCx, SocketId};

/// How long a pending connection may negotiate.
const NEGOTIATE_WITHIN: Duration = Duration::from_secs(5);
/// How often a refused connection is read from before it is closed.
const PENDING_DRAINS_MAX: usize = 1;

impl Tcp {
    /// An accepted connection; pending at the listener `pending_of` if it has a layer to negotiate.
    pub(in crate::socket) fn accepted(
        stream: WatchedStream,
        peer: SocketAddr,
        framing: Framing,
        sink: ConnSink,
        pending_of: Option<SocketId>,
    ) -> Self {
        let state = if pending_of.is_some() { TcpState::Negotiating } else { TcpState::Open };
        Self {
            peer_addr: Some(peer),
            pending_of,
            is_accepted: true,
            ..Self::new(framing, sink, state, Some(stream))
        }
    }

    /// Reports an accepted connection as open, or starts the time limit of its negotiation.
    pub(in crate::socket) fn begin(&mut self, cx: &mut SocketCx<'_>) -> Served {
        match self.state {
            TcpState::Open => self.emit_opened(cx),
            _ => cx.set_timer(NEGOTIATE_WITHIN),
        }
        Served::Idle
    }

    /// Whether the layer is being negotiated, which may take longer than a read.
    pub(in crate::socket) fn is_negotiating(&self) -> bool {
        self.state == TcpState::Negotiating
    }

    /// Goes on with the negotiation of the layer.
    pub(super) fn negotiate(&mut self, cx: &mut SocketCx<'_>, buffer: &mut [u8]) -> Served {
        let Some(stream) = &mut self.stream else { return Served::Ended };
        match stream.bytes.open() {
            Ok(()) => self.on_negotiated(cx, buffer),
            Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => Served::Idle,
            Err(reason) if reason.kind() == io::ErrorKind::Interrupted => Served::Again,
            Err(reason) => self.on_negotiation_failed(cx, reason),
        }
    }

    fn on_negotiated(&mut self, cx: &mut SocketCx<'_>, buffer: &mut [u8]) -> Served {
        cx.cancel_timer();
        self.forget_pending(cx.core, cx.id);
        if !cx.owner.is_some_and(|owner| cx.core.has_room(owner)) {
            return Served::Full { delivered: false };
        }
        self.state = TcpState::Open;
        // Data may have arrived together with the end of the negotiation. Its readiness is recorded already.
        self.emit_opened(cx);
        self.run(cx, buffer)
    }

    fn on_negotiation_failed(&mut self, cx: &mut SocketCx<'_>, reason: io::Error) -> Served {
        if !self.is_accepted {
            return self.end(cx, Some(reason));
        }
        let peer = self.peer_addr;
        tracing::debug!(%reason, ?peer, "the negotiation of an accepted connection failed");
        // The layer has sent the peer the reason. Unread bytes would make the system reset the connection, and the
        // reason would be lost.
        self.drains_left = PENDING_DRAINS_MAX;
        self.shutdown_write(cx)
    }

    /// The negotiation took too long.
    pub(super) fn on_negotiation_timeout(&self, cx: &mut SocketCx<'_>) -> Served {
        if !self.is_accepted {
            return self.end(cx, Some(SocketError::LayerTimedOut.into()));
        }
        let (reason, peer) = (SocketError::LayerTimedOut, self.peer_addr);
        tracing::debug!(%reason, ?peer, "the negotiation of an accepted connection timed out");
        Served::Ended
    }

    pub(super) fn forget_pending(&mut self, core: &mut Core, id: SocketId) {
        if let Some(listener) = self.pending_of.take().and_then(|id| core.sockets_mut().listener(id)) {
            listener.remove_pending(id);
        }
    }
}
