//! Decides which connection belongs to which session: the contents of hellos and proofs, and the admission of proven
//! connections.
//!
//! Two nodes may dial each other at the same moment, a connection may fail between the two proofs, and one side may have
//! lost the session that the other still holds. In each of these cases the rules here lead both sides to the same
//! decision. PROTOCOL.md, "Sessions", explains them.

use std::cmp::Ordering;

use crate::handshake::{
    Handshake, HandshakeRole, HeldSession, Hello, Hold, ProvenConnection, RESUME_KEYS_MAX, Refusal,
    ResumeKey, ResumeState,
};
use crate::ids::NodeId;
use crate::session::epochs::EPOCH_STEP_MAX;
use crate::session::{Epochs, Session};
use smallvec::SmallVec;

/// The epochs and resume keys of a session, and the connection that it uses.
#[derive(Debug)]
pub(crate) struct SessionIdentity {
    pub(crate) me: NodeId,
    pub(crate) peer: NodeId,
    /// The epoch of this side's half.
    pub(crate) epoch: u64,
    /// The epoch of the peer's half; `known` in a hello.
    pub(crate) peer_epoch: u64,
    /// The resume keys of all connections on which the session began: more than one if proofs were lost.
    pub(crate) keys: SmallVec<[ResumeKey; RESUME_KEYS_MAX]>,
    /// Whether a record was ever received. Before that, the session may begin again on a new connection.
    pub(crate) is_firm: bool,
    /// The ordinal of the last proven connection.
    pub(crate) ordinal: u32,
    /// The ordinal of the last dial.
    pub(crate) dialled: u32,
    /// The node that dialled the present connection, if there is one.
    pub(crate) live_dialler: Option<NodeId>,
}

/// What to do with a proven connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Continue the session with it: call `Session::connected`.
    Continues,
    /// Begin a new session with it: call `Session::begin`. An existing session is lost.
    Begins,
    /// Close it, preferably after sending this refusal.
    Refused(Refusal),
}

impl SessionIdentity {
    pub(crate) fn new(me: NodeId, connection: &ProvenConnection) -> SessionIdentity {
        SessionIdentity {
            me,
            peer: connection.peer.node,
            epoch: connection.mine.epoch,
            peer_epoch: connection.peer.resume_state.epoch,
            keys: SmallVec::new(),
            is_firm: false,
            ordinal: 0,
            dialled: 0,
            live_dialler: None,
        }
    }

    fn resume_state(&self, ordinal: u32) -> ResumeState {
        ResumeState { epoch: self.epoch, known: self.peer_epoch, ordinal }
    }

    /// Checks whether a connection with this ordinal replaces the present one. Of two connections with the same ordinal,
    /// the one dialled by the node with the smaller id stays. Exception: if the session is not firm, a repeated dial by
    /// the same node replaces the present connection, which that node has given up.
    pub(super) fn yields_to(&self, ordinal: u32, dialler: NodeId) -> Result<(), Refusal> {
        let Some(present) = self.live_dialler else {
            return if ordinal >= self.ordinal { Ok(()) } else { Err(Refusal::Superseded) };
        };
        let wins_tie = if present == dialler { !self.is_firm } else { dialler == self.me.min(self.peer) };
        match ordinal.cmp(&self.ordinal) {
            Ordering::Greater => Ok(()),
            Ordering::Equal if wins_tie => Ok(()),
            Ordering::Equal => Err(Refusal::Duplicate),
            Ordering::Less => Err(Refusal::Superseded),
        }
    }

    /// Checks that the epoch in a hello of the peer is not below the known one, nor far above it: then no later one would be
    /// possible.
    fn check_epoch(&self, hello: &Hello) -> Result<(), Refusal> {
        let (node, known, epoch) = (self.me, self.peer_epoch, hello.resume_state.epoch);
        if epoch < known {
            return Err(Refusal::OldEpoch { node, known });
        }
        if epoch - known > EPOCH_STEP_MAX {
            return Err(Refusal::EpochTooHigh { node, known });
        }
        Ok(())
    }

    fn held_session(&self, next: u64) -> HeldSession {
        let hold = if self.is_firm { Hold::Firm } else { Hold::Loose };
        HeldSession { next, keys: self.keys.clone(), hold }
    }

    pub(super) fn admit(&self, connection: &ProvenConnection) -> Admission {
        let theirs = connection.peer.resume_state.epoch;
        let is_same = connection.mine.epoch == self.epoch && theirs == self.peer_epoch;
        let is_newer = theirs > self.peer_epoch;
        if !is_same {
            let begins = is_newer && !connection.resumes && connection.mine.epoch >= self.epoch;
            return if begins { Admission::Begins } else { Admission::Refused(Refusal::Superseded) };
        }
        if !connection.resumes && self.is_firm {
            return Admission::Refused(Refusal::Superseded);
        }
        let dialler = match connection.role {
            HandshakeRole::Dialler => self.me,
            HandshakeRole::Acceptor => self.peer,
        };
        match self.yields_to(connection.ordinal(), dialler) {
            Ok(()) => Admission::Continues,
            Err(refusal) => Admission::Refused(refusal),
        }
    }

    /// Makes an admitted connection the present one.
    pub(crate) fn adopt(&mut self, connection: &ProvenConnection) {
        self.ordinal = connection.ordinal();
        self.dialled = self.dialled.max(self.ordinal);
        self.live_dialler = Some(match connection.role {
            HandshakeRole::Dialler => self.me,
            HandshakeRole::Acceptor => self.peer,
        });
        if let Some(key) = &connection.resume_key {
            if self.keys.len() == RESUME_KEYS_MAX {
                self.keys.remove(0);
            }
            self.keys.push(key.clone());
        }
    }
}

impl Session {
    /// The epoch of this side's half.
    pub fn epoch(&self) -> u64 {
        self.identity.epoch
    }

    /// Whether a connection with this hello would end this session, of which the peer has sent records. While the present
    /// connection answers, the node should not admit another one: a node that has lost its half has closed it.
    pub fn would_be_replaced_by(&self, hello: &Hello) -> bool {
        self.identity.is_firm && hello.resume_state.epoch > self.identity.peer_epoch
    }

    /// The resume state for the hello of the next dial. Each call counts as a dial.
    pub fn next_resume_state(&mut self) -> ResumeState {
        self.identity.dialled = self.identity.dialled.max(self.identity.ordinal).saturating_add(1);
        self.identity.resume_state(self.identity.dialled)
    }

    /// For an acceptor that has received a dialler's hello: the resume state for its own hello.
    ///
    /// `session` is the session with the node that the hello names, if there is one.
    ///
    /// # Errors
    /// The [`Refusal`] to send, if the dial is older than the session or duplicates its connection.
    pub fn answer_to(
        session: Option<&Session>,
        epochs: &Epochs,
        hello: &Hello,
    ) -> Result<ResumeState, Refusal> {
        let new = ResumeState { epoch: epochs.of(hello.node), known: 0, ordinal: 0 };
        let Some(session) = session else { return Ok(new) };
        let identity = &session.identity;
        identity.check_epoch(hello)?;
        debug_assert_eq!(identity.peer, hello.node, "the session is with the node that sent the hello");
        let theirs = hello.resume_state;
        if theirs.epoch > identity.peer_epoch {
            return Ok(new);
        }
        if theirs.known != 0 && theirs.known != identity.epoch {
            // The dialler holds a session that this side has lost, and does not know the session that replaced it.
            let restarted = ResumeState { known: 0, ..identity.resume_state(identity.ordinal) };
            return if identity.is_firm { Err(Refusal::Superseded) } else { Ok(restarted) };
        }
        identity.yields_to(theirs.ordinal, identity.peer)?;
        Ok(identity.resume_state(identity.ordinal))
    }

    /// For an acceptor that has received a dialler's proof: the state that it holds of the session. Repeats the checks of
    /// [`answer_to`](Session::answer_to), because the session may have changed since the hello.
    ///
    /// # Errors
    /// The [`Refusal`] to send, if the session has changed.
    pub fn confirm_to(
        session: Option<&Session>,
        epochs: &mut Epochs,
        handshake: &Handshake,
    ) -> Result<HeldSession, Refusal> {
        let (Some(hello), Some(sent)) = (handshake.peer(), handshake.resume_state()) else {
            return Err(Refusal::Superseded);
        };
        epochs.settle_for(hello.node, sent.epoch);
        if Session::answer_to(session, epochs, hello)? != sent {
            return Err(Refusal::Superseded);
        }
        let held = session.filter(|_| sent.known != 0);
        Ok(held.map_or_else(HeldSession::nothing, |session| {
            session.identity.held_session(session.inbound.next())
        }))
    }

    /// For a dialler that has received an acceptor's hello: the state that it holds of the session with that node.
    ///
    /// # Errors
    /// The [`Refusal`] to send, if the two nodes have connected otherwise in the meantime.
    pub fn prove_to(
        session: Option<&Session>,
        epochs: &mut Epochs,
        handshake: &Handshake,
    ) -> Result<HeldSession, Refusal> {
        let (Some(hello), Some(sent)) = (handshake.peer(), handshake.resume_state()) else {
            return Err(Refusal::Superseded);
        };
        let Some(session) = session else {
            // A mismatch means that a session with that node ended since, or that another connection sent another epoch.
            let is_current = epochs.settle_for(hello.node, sent.epoch) == sent.epoch;
            return if is_current { Ok(HeldSession::nothing()) } else { Err(Refusal::Superseded) };
        };
        let identity = &session.identity;
        debug_assert_eq!(identity.peer, hello.node, "the session is with the node that sent the hello");
        if sent.epoch != identity.epoch {
            return Err(Refusal::Duplicate);
        }
        identity.yields_to(sent.ordinal, identity.me)?;
        let theirs = hello.resume_state;
        identity.check_epoch(hello)?;
        let peer_holds_it = theirs.epoch == identity.peer_epoch && theirs.known == identity.epoch;
        Ok(if peer_holds_it { identity.held_session(session.inbound.next()) } else { HeldSession::nothing() })
    }

    /// Decides what to do with a proven connection. `session` is the session with its peer, if there is one.
    ///
    /// The result for an acceptor is never a refusal if nothing happened since [`confirm_to`](Session::confirm_to).
    pub fn admit(session: Option<&Session>, epochs: &Epochs, connection: &ProvenConnection) -> Admission {
        match session {
            Some(session) => session.identity.admit(connection),
            None if connection.resumes || connection.mine.epoch != epochs.of(connection.peer.node) => {
                // A session with that node ended while the handshake was under way.
                Admission::Refused(Refusal::Superseded)
            }
            None => Admission::Begins,
        }
    }
}
