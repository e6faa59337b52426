//! What this node has with another one: no session yet, a session, or one that has ended.

use super::session::PeerSession;
use crate::error::Status;

/// The relation of this node to another one.
#[derive(Debug)]
pub(in crate::node) enum PeerState {
    /// There was no session with this incarnation yet.
    Unmet,
    /// There is a session.
    Met(Box<PeerSession>),
    /// The session has ended. Another one may begin.
    Lost,
    /// The incarnation never returns, as far as is known.
    Gone {
        how: Gone,
        /// Whether there was a session.
        was_met: bool,
    },
}

/// Why an incarnation never returns.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(in crate::node) enum Gone {
    /// It has sent a goodbye because its process ends.
    Left,
    /// Another incarnation runs at its location.
    Replaced,
}

impl PeerState {
    pub(in crate::node) fn session(&self) -> Option<&PeerSession> {
        match self {
            Self::Met(peer_session) => Some(peer_session),
            Self::Unmet | Self::Lost | Self::Gone { .. } => None,
        }
    }

    pub(in crate::node) fn session_mut(&mut self) -> Option<&mut PeerSession> {
        match self {
            Self::Met(peer_session) => Some(peer_session),
            Self::Unmet | Self::Lost | Self::Gone { .. } => None,
        }
    }

    /// The session, which begins if there is none.
    pub(in crate::node) fn session_or_begin(
        &mut self,
        begin: impl FnOnce() -> PeerSession,
    ) -> &mut PeerSession {
        if self.session().is_none() {
            *self = Self::Met(Box::new(begin()));
        }
        match self {
            Self::Met(peer_session) => peer_session,
            Self::Unmet | Self::Lost | Self::Gone { .. } => unreachable!("a session has begun"),
        }
    }

    /// Ends the session, and takes it out; `None` if there is none.
    pub(in crate::node) fn end_session(&mut self) -> Option<Box<PeerSession>> {
        match std::mem::replace(self, Self::Lost) {
            Self::Met(peer_session) => {
                if peer_session.peer_leaves {
                    *self = Self::Gone { how: Gone::Left, was_met: true };
                }
                Some(peer_session)
            }
            state @ (Self::Unmet | Self::Lost | Self::Gone { .. }) => {
                *self = state;
                None
            }
        }
    }

    /// Another incarnation runs at its location. It has no session any more.
    pub(in crate::node) fn set_replaced(&mut self) {
        *self = Self::Gone { how: Gone::Replaced, was_met: self.was_met() };
    }

    /// Whether there is or was a session.
    pub(in crate::node) fn was_met(&self) -> bool {
        match self {
            Self::Unmet => false,
            Self::Met(_) | Self::Lost => true,
            Self::Gone { was_met, .. } => *was_met,
        }
    }

    /// Why the incarnation never returns; `None` if it may.
    pub(in crate::node) fn gone(&self) -> Option<Gone> {
        match self {
            Self::Gone { how, .. } => Some(*how),
            Self::Unmet | Self::Met(_) | Self::Lost => None,
        }
    }

    /// The status that actors see; `None` before the first session.
    pub(in crate::node) fn status(&self) -> Option<Status> {
        match self {
            Self::Met(peer_session) if peer_session.is_suspect => Some(Status::Suspect),
            Self::Met(_) => Some(Status::Online),
            Self::Unmet | Self::Lost | Self::Gone { .. } => self.was_met().then_some(Status::Offline),
        }
    }
}
