//! Which connection belongs to which session: what to tell in a hello, what to hold in a proof, what to do when it is proven.
//!
//! Two nodes may dial each other at the same moment, a connection may die between the two proofs, and one side may have lost
//! the session that the other still holds. The rules here let both sides come to the same answer in each of these cases;
//! PROTOCOL.md, "Sessions", explains them.

use std::cmp::Ordering;

use crate::handshake::{
    Handshake, HandshakeRole, HeldSession, Hello, Hold, ProvenConnection, RESUME_KEYS_MAX, Refusal,
    ResumeKey, ResumeState,
};
use crate::ids::NodeId;
use crate::session::{Epochs, Session};
use smallvec::SmallVec;

/// What names a session, and which connection it is on.
#[derive(Debug)]
pub(crate) struct SessionIdentity {
    pub(crate) me: NodeId,
    pub(crate) peer: NodeId,
    /// This side's half.
    pub(crate) epoch: u64,
    /// The peer's half.
    pub(crate) known: u64,
    /// Of all connections on which the session began: more than one if proofs were lost.
    pub(crate) keys: SmallVec<[ResumeKey; RESUME_KEYS_MAX]>,
    /// Whether anything was ever received. Before that the session may begin once more on a new connection.
    pub(crate) is_firm: bool,
    /// Of the last proven connection.
    pub(crate) ordinal: u32,
    /// Of the last dial.
    pub(crate) dialled: u32,
    /// Who dialled the present connection.
    pub(crate) live: Option<NodeId>,
}

/// What to do with a proven connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Give it to the session, which goes on: `Session::connected`.
    Takes,
    /// Begin a new session with it: `Session::begin`. One that is there is lost.
    Begins,
    /// Close it, best after telling why.
    Refused(Refusal),
}

impl SessionIdentity {
    pub(crate) fn new(me: NodeId, connection: &ProvenConnection) -> SessionIdentity {
        SessionIdentity {
            me,
            peer: connection.peer.node,
            epoch: connection.mine.epoch,
            known: connection.peer.resume_state.epoch,
            keys: SmallVec::new(),
            is_firm: false,
            ordinal: 0,
            dialled: 0,
            live: None,
        }
    }

    fn resume_state(&self, ordinal: u32) -> ResumeState {
        ResumeState { epoch: self.epoch, known: self.known, ordinal }
    }

    /// Whether a connection with this ordinal takes over from the present one. Of two with the same ordinal, that which the
    /// smaller node dialled stays. A node that dials again as if for the first time has given up the connection before.
    pub(super) fn yields_to(&self, ordinal: u32, dialler: NodeId) -> Result<(), Refusal> {
        let Some(present) = self.live else {
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

    fn holding(&self, next: u64) -> HeldSession {
        let grip = if self.is_firm { Hold::Firm } else { Hold::Loose };
        HeldSession { next, keys: self.keys.clone(), grip }
    }

    pub(super) fn admit(&self, connection: &ProvenConnection) -> Admission {
        let theirs = connection.peer.resume_state.epoch;
        let is_same = connection.mine.epoch == self.epoch && theirs == self.known;
        let is_newer = theirs > self.known;
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
            Ok(()) => Admission::Takes,
            Err(refusal) => Admission::Refused(refusal),
        }
    }

    /// Takes over a connection that was admitted.
    pub(crate) fn take(&mut self, connection: &ProvenConnection) {
        self.ordinal = connection.ordinal();
        self.dialled = self.dialled.max(self.ordinal);
        self.live = Some(match connection.role {
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
    /// What to tell in the hello of the next dial. Counts it.
    pub fn next_resume_state(&mut self) -> ResumeState {
        self.identity.dialled = self.identity.dialled.max(self.identity.ordinal).saturating_add(1);
        self.identity.resume_state(self.identity.dialled)
    }

    /// The acceptor, after a dialler's hello: what to tell in its own.
    ///
    /// `session` is the one with the node that the hello names, if there is one.
    ///
    /// # Errors
    /// The [`Refusal`] to answer, if the dial comes too late or too much.
    pub fn answer_to(
        session: Option<&Session>,
        epochs: &Epochs,
        hello: &Hello,
    ) -> Result<ResumeState, Refusal> {
        let anew = ResumeState { epoch: epochs.of(hello.node), known: 0, ordinal: 0 };
        let Some(session) = session else { return Ok(anew) };
        let identity = &session.identity;
        debug_assert_eq!(identity.peer, hello.node, "the session with the node that says hello");
        let theirs = hello.resume_state;
        if theirs.epoch > identity.known {
            return Ok(anew);
        }
        if theirs.epoch < identity.known {
            return Err(Refusal::Superseded);
        }
        if theirs.known != 0 && theirs.known != identity.epoch {
            // The dialler holds a session that this side has lost, and has not heard of the one that took its place.
            let again = ResumeState { known: 0, ..identity.resume_state(identity.ordinal) };
            return if identity.is_firm { Err(Refusal::Superseded) } else { Ok(again) };
        }
        identity.yields_to(theirs.ordinal, identity.peer)?;
        Ok(identity.resume_state(identity.ordinal))
    }

    /// The acceptor, after a dialler's proof: what it holds of the session. Looks again, because the session may have changed
    /// since the hello.
    ///
    /// # Errors
    /// The [`Refusal`] to answer, if it has.
    pub fn confirm_to(
        session: Option<&Session>,
        epochs: &mut Epochs,
        handshake: &Handshake,
    ) -> Result<HeldSession, Refusal> {
        let (Some(hello), Some(told)) = (handshake.peer(), handshake.resume_state()) else {
            return Err(Refusal::Superseded);
        };
        epochs.settle_for(hello.node, told.epoch);
        if Session::answer_to(session, epochs, hello)? != told {
            return Err(Refusal::Superseded);
        }
        let held = session.filter(|_| told.known != 0);
        Ok(held.map_or_else(HeldSession::nothing, |session| session.identity.holding(session.inbound.next())))
    }

    /// The dialler, after an acceptor's hello: what it holds of the session with that node.
    ///
    /// # Errors
    /// The [`Refusal`] to answer, if the two have met over another connection in the meantime.
    pub fn prove_to(
        session: Option<&Session>,
        epochs: &mut Epochs,
        handshake: &Handshake,
    ) -> Result<HeldSession, Refusal> {
        let (Some(hello), Some(told)) = (handshake.peer(), handshake.resume_state()) else {
            return Err(Refusal::Superseded);
        };
        let Some(session) = session else {
            // Else a session with that node has ended since, or it was told something else over another connection.
            let is_in_time = epochs.settle_for(hello.node, told.epoch) == told.epoch;
            return if is_in_time { Ok(HeldSession::nothing()) } else { Err(Refusal::Superseded) };
        };
        let identity = &session.identity;
        debug_assert_eq!(identity.peer, hello.node, "the session with the node that says hello");
        if told.epoch != identity.epoch {
            return Err(Refusal::Duplicate);
        }
        identity.yields_to(told.ordinal, identity.me)?;
        let theirs = hello.resume_state;
        if theirs.epoch < identity.known {
            return Err(Refusal::Superseded);
        }
        let is_held_there = theirs.epoch == identity.known && theirs.known == identity.epoch;
        Ok(if is_held_there { identity.holding(session.inbound.next()) } else { HeldSession::nothing() })
    }

    /// What to do with a proven connection. `session` is the one with its peer, if there is one.
    ///
    /// The acceptor may take `Begins` and `Takes` for granted if nothing happened since [`confirm_to`](Session::confirm_to).
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
