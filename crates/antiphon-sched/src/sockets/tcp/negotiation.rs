//! A connection before it is open: what lies over TCP is being agreed on.
//!
//! Invariant: nobody was told of one that was accepted; its listener counts it among its strangers until it is agreed on, or
//! gone.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Connected, Tcp, TcpState};
use crate::core::Core;
use crate::sockets::SocketError;
use crate::sockets::framing::Framing;
use crate::sockets::stream::Stream;
use crate::sockets::table::{Served, SocketGuard, SocketId};

/// How long a stranger may take.
const NEGOTIATE_WITHIN: Duration = Duration::from_secs(5);
/// How many reads of what is left of one that was refused.
const PENDING_DRAINS_MAX: usize = 1;

impl Tcp {
    /// A connection that was accepted; it is its listener's stranger until its layer is agreed on.
    pub(in crate::sockets) fn accepted(
        stream: Stream,
        peer: SocketAddr,
        framing: Framing,
        sink: Connected,
        pending_of: Option<SocketId>,
    ) -> Self {
        let state = if pending_of.is_some() { TcpState::Negotiating } else { TcpState::Open };
        Self { peer: Some(peer), pending_of, accepted: true, ..Self::new(framing, sink, state, Some(stream)) }
    }

    /// Begins what was accepted: tells of it, or gives the stranger its time.
    pub(in crate::sockets) fn begin(&mut self, hold: &mut SocketGuard<'_>) -> Served {
        match self.state {
            TcpState::Open => self.tell_opened(hold),
            _ => hold.time(NEGOTIATE_WITHIN),
        }
        Served::Rest
    }

    /// Whether it costs more to serve it than to read: what lies over it is being agreed on.
    pub(in crate::sockets) fn is_negotiating(&self) -> bool {
        self.state == TcpState::Negotiating
    }

    /// Agrees on what lies over the stream, as far as the peer has come.
    pub(super) fn negotiate(&mut self, hold: &mut SocketGuard<'_>, space: &mut [u8]) -> Served {
        let Some(stream) = &mut self.stream else { return Served::Gone };
        match stream.open() {
            Ok(()) => self.on_negotiated(hold, space),
            Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => Served::Rest,
            Err(reason) if reason.kind() == io::ErrorKind::Interrupted => Served::Again,
            Err(reason) => self.on_negotiation_failed(hold, reason),
        }
    }

    fn on_negotiated(&mut self, hold: &mut SocketGuard<'_>, space: &mut [u8]) -> Served {
        hold.untime();
        self.forget_pending(hold.core, hold.id);
        if !hold.owner.is_some_and(|owner| hold.core.has_room(owner)) {
            return Served::Full { fed: false };
        }
        self.state = TcpState::Open;
        // What news of the socket there were meanwhile is noted: what came with the layer's last word is read now.
        self.tell_opened(hold);
        self.run(hold, space)
    }

    fn on_negotiation_failed(&mut self, hold: &mut SocketGuard<'_>, reason: io::Error) -> Served {
        if !self.accepted {
            return self.end(hold, Some(reason));
        }
        let peer = self.peer;
        tracing::debug!(%reason, ?peer, "a connection came to nothing before it was opened");
        // It is to hear why, and would of a reset instead if anything were left unread.
        self.drains_max = PENDING_DRAINS_MAX;
        self.end_half(hold)
    }

    /// The peer took too long to agree.
    pub(super) fn on_silence(&self, hold: &mut SocketGuard<'_>) -> Served {
        if !self.accepted {
            return self.end(hold, Some(SocketError::LayerTimedOut.into()));
        }
        let (reason, peer) = (SocketError::LayerTimedOut, self.peer);
        tracing::debug!(%reason, ?peer, "a connection was never opened");
        Served::Gone
    }

    pub(super) fn forget_pending(&mut self, core: &mut Core, id: SocketId) {
        if let Some(listener) = self.pending_of.take().and_then(|id| core.sockets.listener(id)) {
            listener.forget(id);
        }
    }
}
