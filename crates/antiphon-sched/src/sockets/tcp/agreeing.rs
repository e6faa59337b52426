//! A connection before it is open: what lies over TCP is being agreed on.
//!
//! Invariant: nobody was told of one that was accepted; its listener counts it among its strangers until it is agreed on, or
//! gone.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Connected, State, Tcp};
use crate::core::Core;
use crate::sockets::SocketError;
use crate::sockets::framing::Framing;
use crate::sockets::stream::Stream;
use crate::sockets::table::{Fate, Hold, SocketId};

/// How long a stranger may take.
const AGREE_WITHIN: Duration = Duration::from_secs(5);
/// How many reads of what is left of one that was refused.
const STRANGER_DRAINS_MAX: usize = 1;

impl Tcp {
    /// A connection that was accepted; it is its listener's stranger until its layer is agreed on.
    pub(in crate::sockets) fn accepted(
        stream: Stream,
        peer: SocketAddr,
        framing: Framing,
        tells: Connected,
        stranger_of: Option<SocketId>,
    ) -> Self {
        let state = if stranger_of.is_some() { State::Agreeing } else { State::Open };
        Self {
            peer: Some(peer),
            stranger_of,
            accepted: true,
            ..Self::new(framing, tells, state, Some(stream))
        }
    }

    /// Begins what was accepted: tells of it, or gives the stranger its time.
    pub(in crate::sockets) fn begin(&mut self, hold: &mut Hold<'_>) -> Fate {
        match self.state {
            State::Open => self.tell_opened(hold),
            _ => hold.time(AGREE_WITHIN),
        }
        Fate::Rest
    }

    /// Whether it costs more to serve it than to read: what lies over it is being agreed on.
    pub(in crate::sockets) fn is_agreeing(&self) -> bool {
        self.state == State::Agreeing
    }

    /// Agrees on what lies over the stream, as far as the peer has come.
    pub(super) fn agree(&mut self, hold: &mut Hold<'_>, space: &mut [u8]) -> Fate {
        let Some(stream) = &mut self.stream else { return Fate::Gone };
        match stream.open() {
            Ok(()) => self.on_agreed(hold, space),
            Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => Fate::Rest,
            Err(reason) if reason.kind() == io::ErrorKind::Interrupted => Fate::Again,
            Err(reason) => self.on_disagreed(hold, reason),
        }
    }

    fn on_agreed(&mut self, hold: &mut Hold<'_>, space: &mut [u8]) -> Fate {
        hold.untime();
        self.forget_stranger(hold.core, hold.id);
        if !hold.owner.is_some_and(|owner| hold.core.has_room(owner)) {
            return Fate::Full { fed: false };
        }
        self.state = State::Open;
        // What news of the socket there were meanwhile is noted: what came with the layer's last word is read now.
        self.tell_opened(hold);
        self.run(hold, space)
    }

    fn on_disagreed(&mut self, hold: &mut Hold<'_>, reason: io::Error) -> Fate {
        if !self.accepted {
            return self.end(hold, Some(reason));
        }
        let peer = self.peer;
        tracing::debug!(%reason, ?peer, "a connection came to nothing before it was opened");
        // It is to hear why, and would of a reset instead if anything were left unread.
        self.drains_max = STRANGER_DRAINS_MAX;
        self.end_half(hold)
    }

    /// The peer took too long to agree.
    pub(super) fn on_silence(&self, hold: &mut Hold<'_>) -> Fate {
        if !self.accepted {
            return self.end(hold, Some(SocketError::LayerTimedOut.into()));
        }
        let (reason, peer) = (SocketError::LayerTimedOut, self.peer);
        tracing::debug!(%reason, ?peer, "a connection was never opened");
        Fate::Gone
    }

    pub(super) fn forget_stranger(&mut self, core: &mut Core, id: SocketId) {
        if let Some(listener) = self.stranger_of.take().and_then(|id| core.sockets.listener(id)) {
            listener.forget(id);
        }
    }
}
