//! Handshakes: what a connection may become, before a session has it.
//!
//! The hello of the other side names its node. A connection that would end the session of that node waits until the session's own
//! connection was asked, and has not answered ([`Contest`]).

use std::net::SocketAddr;

use antiphon_sched::NodeId;
use antiphon_wire::{Handshake, HandshakeError, HandshakeStep, Hello, Refusal, ResumeState, Session};

use super::connections::{ConnectionState, Contention, Contest, GUESSES_MAX, HandshakeProgress};
use super::context::NodeCx;
use super::discovery::dialer::Dialer;
use super::driver::{ConnId, Driver, Output, OverTls};
use super::peer::Peer;
use super::peers::Peers;
use crate::certificates::Fingerprint;

/// The parts of a node that a handshake needs.
pub(super) struct Handshakes<'n> {
    pub(super) cx: &'n mut NodeCx,
    pub(super) peers: &'n mut Peers,
    pub(super) dialer: &'n mut Dialer,
}

impl Handshakes<'_> {
    /// A dial has connected: begins the handshake. False if there is no entropy for it.
    pub(super) fn begin(&mut self, id: ConnId, tls: Option<OverTls>, driver: &mut impl Driver) -> bool {
        let Some(at) = self.cx.connections.get(id).and_then(|conn| conn.dialled) else { return true };
        let Some(entropy) = driver.entropy() else { return false };
        let resume_state = self.resume_state_for(at);
        let Some(conn) = self.cx.connections.get(id) else { return true };
        conn.certificate = tls.map(|tls| tls.certificate);
        let exporter = tls.map(|tls| tls.exporter);
        let handshake =
            Handshake::dial(&self.cx.settings.profile, entropy, resume_state, exporter, &mut conn.out);
        conn.state = ConnectionState::Handshaking(Box::new(handshake));
        conn.opened_at = self.cx.now;
        self.cx.set_deadline(id, self.cx.settings.limits().handshake_timeout);
        driver.output(Output::Write(id));
        true
    }

    /// The resume state for the hello to a location. The node there is known for certain only after its hello, so this is a guess. A
    /// wrong one costs a second dial: a refusal names no node, so the next attempt is for another one.
    fn resume_state_for(&mut self, at: SocketAddr) -> ResumeState {
        let is_there = |peer: &Peer| !peer.is_replaced() && peer.is_at(at);
        let there = || self.peers.at(at).filter(|peer| is_there(peer));
        let with_session = there().filter(|peer| peer.session().is_some()).take(GUESSES_MAX);
        let without_session = there().find(|peer| peer.session().is_none());
        let mut guesses: Vec<NodeId> =
            [self.dialer.answered_at(at), self.dialer.node_at(at)].into_iter().flatten().collect();
        guesses.extend(with_session.chain(without_session).map(|peer| peer.node));
        let refused = self.dialer.refused_guesses(at) as usize % (guesses.len() + 1);
        let Some(node) = guesses.get(refused).copied() else {
            return ResumeState::unknown(self.cx.epochs.of_unknown_node());
        };
        let session = self.peers.session_mut(node);
        session.map_or_else(
            || ResumeState::unknown(self.cx.epochs.of(node)),
            |peer_session| peer_session.session.next_resume_state(),
        )
    }

    /// Makes one step of a handshake.
    pub(super) fn advance(
        &mut self,
        id: ConnId,
        driver: &mut impl Driver,
    ) -> Result<HandshakeProgress, HandshakeError> {
        let Some(conn) = self.cx.connections.get(id) else { return Ok(HandshakeProgress::Wait) };
        let ConnectionState::Handshaking(mut handshake) =
            std::mem::replace(&mut conn.state, ConnectionState::Closing)
        else {
            return Ok(HandshakeProgress::Wait);
        };
        let mut out = std::mem::take(&mut conn.out);
        let certificate = conn.certificate;
        let profile = &self.cx.settings.profile;
        let stepped = handshake.advance(profile, &mut conn.deframer, &mut out);
        let next = match stepped {
            Ok(HandshakeStep::Wait) => Ok(HandshakeProgress::Wait),
            Ok(HandshakeStep::Introduced) => self.introduce(id, &mut handshake, &mut out, driver),
            Ok(HandshakeStep::Proven) => self.confirm(id, &mut handshake, certificate, &mut out),
            Ok(HandshakeStep::Done(connection)) => Ok(HandshakeProgress::Proven(connection)),
            Err(error) => Err(error),
        };
        let Some(conn) = self.cx.connections.get(id) else { return Ok(HandshakeProgress::Wait) };
        conn.out = out;
        if conn.written < conn.out.len() {
            driver.output(Output::Write(id));
        }
        match next {
            Ok(progress @ (HandshakeProgress::Wait | HandshakeProgress::Continue)) => {
                conn.state = ConnectionState::Handshaking(handshake);
                Ok(progress)
            }
            other => other,
        }
    }

    /// Handles the hello of the other side: the acceptor sends its own hello, the dialling side its proof.
    fn introduce(
        &mut self,
        id: ConnId,
        handshake: &mut Handshake,
        out: &mut Vec<u8>,
        driver: &mut impl Driver,
    ) -> Result<HandshakeProgress, HandshakeError> {
        let (Some(hello), Some(conn)) = (handshake.peer(), self.cx.connections.get(id)) else {
            return Err(HandshakeError::CallerMisused);
        };
        let (dialled, certificate) = (conn.dialled, conn.certificate);
        let has_other_certificate = self.has_other_certificate(hello.node, certificate);
        if let Some(at) = dialled {
            self.dialer.answered(at, hello.node);
            if self.is_found(at, hello) {
                handshake.refuse(Refusal::Duplicate, out);
                return Err(HandshakeError::Refused(Refusal::Duplicate));
            }
        }
        let session = self.peers.session(hello.node);
        let session = session.map(|peer_session| &peer_session.session);
        // A node that has replaced its certificate claims to hold the session, and proves it next.
        let claims_session = session.is_some() && hello.resume_state.known != 0;
        let has_other_certificate = has_other_certificate && !claims_session;
        let is_ignored_as_unknown =
            dialled.is_none() && session.is_none() && self.cx.settings.ignores_unknown_nodes;
        let ignored =
            is_ignored_as_unknown || hello.locations.iter().any(|at| self.cx.settings.ignores(at.ip()));
        if ignored || self.cx.leaving || has_other_certificate {
            self.cx.counts.refusals.certificates += u64::from(has_other_certificate);
            let refusal = match () {
                () if ignored => Refusal::Ignored,
                () if self.cx.leaving => Refusal::Leaving,
                () => Refusal::Certificate,
            };
            handshake.refuse(refusal, out);
            return Err(HandshakeError::Refused(refusal));
        }
        let profile = &self.cx.settings.profile;
        let refusal = if dialled.is_some() {
            match Session::prove_to(session, &mut self.cx.epochs, handshake) {
                Ok(held) => match self.contest(id, hello) {
                    Contest::Undecided => return Ok(HandshakeProgress::Wait),
                    Contest::Lost => Refusal::NodeIdInUse,
                    Contest::Won => {
                        let profile = &self.cx.settings.profile;
                        return handshake.prove(profile, held, out).map(|()| HandshakeProgress::Continue);
                    }
                },
                Err(refusal) => refusal,
            }
        } else {
            match (Session::answer_to(session, &self.cx.epochs, hello), driver.entropy()) {
                (Ok(resume_state), Some(entropy)) => {
                    return handshake
                        .answer(profile, entropy, resume_state, out)
                        .map(|()| HandshakeProgress::Continue);
                }
                (Ok(_), None) => Refusal::Busy,
                (Err(refusal), _) => refusal,
            }
        };
        if matches!(refusal, Refusal::OldEpoch { .. }) {
            // Another program may have used the id of the node. A session that rests has no end of its own: a dial shows whether its
            // peer is still there.
            self.dialer.examine(self.cx, self.peers, hello.node);
        }
        handshake.refuse(refusal, out);
        Err(HandshakeError::Refused(refusal))
    }

    /// Whether a dial has found a node with which no further connection is needed.
    fn is_found(&mut self, at: SocketAddr, hello: &Hello) -> bool {
        let dialer = &self.dialer;
        dialer.is_found_connected(self.peers, at, hello)
            || dialer.is_found_disconnected(self.cx, self.peers, at, hello)
    }

    /// Whether a node has connected before with another certificate. Unless the other side proves that it holds the session, it
    /// may be a different node that uses this node's id.
    pub(super) fn has_other_certificate(&self, node: NodeId, certificate: Option<Fingerprint>) -> bool {
        self.peers.get(node).is_some_and(|peer| peer.state.was_met() && peer.certificate != certificate)
    }

    /// Handles the valid proof of the dialling side: this side sends its own proof.
    fn confirm(
        &mut self,
        id: ConnId,
        handshake: &mut Handshake,
        certificate: Option<Fingerprint>,
        out: &mut Vec<u8>,
    ) -> Result<HandshakeProgress, HandshakeError> {
        let Some(hello) = handshake.peer() else { return Err(HandshakeError::CallerMisused) };
        let has_other_certificate = self.has_other_certificate(hello.node, certificate);
        let session = self.peers.session(hello.node);
        let confirmed = Session::confirm_to(
            session.map(|peer_session| &peer_session.session),
            &mut self.cx.epochs,
            handshake,
        );
        match confirmed {
            Ok(held) if has_other_certificate && !handshake.is_resumed(&held) => {
                self.cx.counts.refusals.certificates += 1;
                handshake.refuse(Refusal::Certificate, out);
                Err(HandshakeError::Refused(Refusal::Certificate))
            }
            Ok(held) => match self.contest(id, hello) {
                Contest::Undecided => Ok(HandshakeProgress::Wait),
                Contest::Lost => {
                    handshake.refuse(Refusal::NodeIdInUse, out);
                    Err(HandshakeError::Refused(Refusal::NodeIdInUse))
                }
                Contest::Won => {
                    handshake.confirm(&self.cx.settings.profile, &held, out).map(HandshakeProgress::Proven)
                }
            },
            Err(refusal) => {
                handshake.refuse(refusal, out);
                Err(HandshakeError::Refused(refusal))
            }
        }
    }

    /// Whether a connection with this hello may end the session with its node. If that has a connection, it is asked: a node that has
    /// lost its half of the session has closed it, or does not answer on it. If it answers, another program uses the
    /// node's id. A session that rests without a connection is reopened first.
    pub(super) fn contest(&mut self, id: ConnId, hello: &Hello) -> Contest {
        let (node, now) = (hello.node, self.cx.now);
        let Some(peer_session) = self.peers.session(node) else {
            return Contest::Won;
        };
        if !peer_session.session.would_be_replaced_by(hello) {
            return Contest::Won;
        }
        let (is_connected, is_resting) = (peer_session.is_connected(), peer_session.is_resting());
        let (last_received, answer_within) = (peer_session.session.last_received(), self.cx.answer_within());
        let Some(conn) = self.cx.connections.get(id) else { return Contest::Lost };
        match conn.contention {
            Some(Contention { since, .. }) if is_connected && last_received >= since => Contest::Lost,
            Some(Contention { since, reopens }) if now < since + answer_within => {
                if is_connected || reopens {
                    self.contend(id, node)
                } else {
                    Contest::Won
                }
            }
            Some(_) => Contest::Won,
            None if is_connected || is_resting => {
                let contest = self.contend(id, node);
                if is_resting {
                    self.dialer.reopen(self.cx, self.peers, node);
                }
                let contention = self.peers.get_mut(node).and_then(|peer| peer.inquire(self.cx, None));
                let contention = contention.map(|since| Contention { since, reopens: is_resting });
                if let Some(conn) = self.cx.connections.get(id) {
                    conn.contention = contention;
                }
                contest
            }
            None => Contest::Won,
        }
    }

    fn contend(&mut self, id: ConnId, node: NodeId) -> Contest {
        if self.cx.connections.add_contender(node, id) { Contest::Undecided } else { Contest::Lost }
    }
}
