//! Connections: their bytes in both directions, and their handshakes.
//!
//! Invariant: a connection is its session's only one, or still a stranger; strangers are few, are heard for
//! a few seconds, and cannot make anything grow.

use std::net::SocketAddr;
use std::time::Duration;

use antiphon_sched::{NodeId, Time, site_of};
use antiphon_wire::{
    Admission, Deframer, Handshake, HandshakeError, HandshakeStep, ProvenConnection, Refusal, ResumeState,
    Session, TlsFault,
};
use slab::Slab;

use super::driver::{ConnId, Driver, Output, OverTls};
use super::peers::Peer;
use super::timers::{NodeTimer, TimerQueue};
use super::{NodeCore, sched_node, wire_node};
use crate::certificates::Fingerprint;

const INDEX_BITS: u32 = 24;

#[derive(Debug, Default)]
pub(super) struct Connections {
    table: Slab<Connection>,
    generation: u64,
}

#[derive(Debug)]
pub(super) struct Connection {
    id: ConnId,
    pub(super) state: ConnectionState,
    pub(super) deframer: Deframer,
    pub(super) out: Vec<u8>,
    /// How much of `out` is written.
    written: usize,
    /// Who is at the other end; where this side dialled, if it did.
    pub(super) remote: SocketAddr,
    pub(super) dialled: Option<SocketAddr>,
    /// What the other end has presented, where there is TLS.
    pub(super) certificate: Option<Fingerprint>,
    since: Time,
    /// Closed then, unless it is live: on the agenda.
    until: Option<Time>,
    /// Nothing has arrived since the last look.
    quiet: bool,
}

#[derive(Debug)]
pub(super) enum ConnectionState {
    /// A dial that has not connected.
    Dialling,
    Shaking(Box<Handshake>),
    Live(NodeId),
    /// Written out, then closed.
    Ending,
}

impl Connections {
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn get(&mut self, id: ConnId) -> Option<&mut Connection> {
        let conn = self.table.get_mut((id.0 & ((1 << INDEX_BITS) - 1)) as usize)?;
        (conn.id == id).then_some(conn)
    }

    pub(super) fn add(&mut self, remote: SocketAddr, dialled: bool, now: Time) -> ConnId {
        self.generation += 1;
        let entry = self.table.vacant_entry();
        let id = ConnId(self.generation << INDEX_BITS | entry.key() as u64);
        let state = if dialled {
            ConnectionState::Dialling
        } else {
            ConnectionState::Shaking(Box::new(Handshake::accept(None)))
        };
        entry.insert(Connection {
            id,
            state,
            deframer: Deframer::new(),
            out: Vec::new(),
            written: 0,
            remote,
            dialled: dialled.then_some(remote),
            certificate: None,
            since: now,
            until: None,
            quiet: false,
        });
        id
    }

    pub(super) fn remove(&mut self, id: ConnId) -> Option<Connection> {
        self.get(id)?;
        self.table.try_remove((id.0 & ((1 << INDEX_BITS) - 1)) as usize)
    }

    /// The stranger that gives way when there are too many: the oldest of the address that has most.
    fn evicted(&self, strangers_max: u32) -> Option<ConnId> {
        let strangers = || {
            let all = self.table.iter().map(|(_, conn)| conn);
            all.filter(|conn| conn.dialled.is_none() && matches!(conn.state, ConnectionState::Shaking(_)))
        };
        if strangers().count() < strangers_max as usize {
            return None;
        }
        let mut of_address = std::collections::BTreeMap::new();
        for conn in strangers() {
            *of_address.entry(site_of(conn.remote.ip())).or_insert(0u32) += 1;
        }
        strangers()
            .min_by_key(|conn| {
                (std::cmp::Reverse(of_address[&site_of(conn.remote.ip())]), conn.since, conn.id)
            })
            .map(|conn| conn.id)
    }

    pub(super) fn check(&self, timers: &TimerQueue) {
        for (_, conn) in &self.table {
            let is_live = matches!(conn.state, ConnectionState::Live(_));
            let is_timed = conn.until.is_some_and(|at| timers.has(at, NodeTimer::HalfOpen(conn.id)));
            assert!(is_timed != is_live, "a connection is live, or its time is on the agenda");
            assert!(conn.written <= conn.out.len(), "what is written was there");
        }
    }
}

impl Connection {
    /// Gives the buffers back when nothing has come since the last call: an idle connection owns no memory.
    pub(super) fn rest(&mut self) {
        if std::mem::replace(&mut self.quiet, true) {
            self.deframer.release();
            if self.out.is_empty() {
                self.out = Vec::new();
            }
        }
    }
}

impl NodeCore {
    /// A stranger connects from `remote`: the connection's number, or `None` when it is to be closed at once.
    /// When it takes the place of another stranger, that one is to be closed.
    pub fn accept(&mut self, now: Time, remote: SocketAddr, driver: &mut impl Driver) -> Option<ConnId> {
        self.now = self.now.max(now);
        if self.leaving || self.settings.ignores(remote.ip()) {
            return None;
        }
        if let Some(oldest) = self.connections.evicted(self.settings.limits().unproven_connections_max) {
            self.counts.refused_handshakes += 1;
            let from = self.connections.get(oldest).map_or(remote, |conn| conn.remote);
            self.log_refusal_of(from, "there were too many at a time, and the oldest gave way");
            self.drop_conn(oldest, driver);
        }
        let id = self.connections.add(remote, false, self.now);
        // From now on, whatever is below the handshake: TLS has no time of its own.
        self.limit(id, self.settings.limits().handshake_timeout);
        Some(id)
    }

    pub(super) fn on_accepted(&mut self, id: ConnId, tls: Option<OverTls>) {
        if let Some(conn) = self.connections.get(id)
            && matches!(conn.state, ConnectionState::Shaking(_))
        {
            conn.certificate = tls.map(|tls| tls.certificate);
            conn.state = ConnectionState::Shaking(Box::new(Handshake::accept(tls.map(|tls| tls.exporter))));
        }
    }

    /// Whether this node has dialled the connection.
    pub fn is_dialled(&mut self, conn: ConnId) -> bool {
        self.connections.get(conn).is_some_and(|conn| conn.dialled.is_some())
    }

    /// A connection without TLS where TLS is due is a handshake that failed; a session goes on without it.
    pub(super) fn on_tls_failed(&mut self, id: ConnId, fault: TlsFault, driver: &mut impl Driver) {
        let Some(conn) = self.connections.get(id) else { return };
        if matches!(conn.state, ConnectionState::Live(_)) {
            return self.on_closed(id, driver);
        }
        // Nothing of it would be read.
        conn.out.clear();
        conn.written = 0;
        let refusal = Refusal::Tls(fault);
        let error = match fault.is_told_by_peer() {
            true => HandshakeError::RefusedByPeer(refusal),
            false => HandshakeError::Refused(refusal),
        };
        self.on_handshake_error(id, error, driver);
    }

    /// Gives a connection so long to become live, or to be written out.
    pub(super) fn limit(&mut self, id: ConnId, span: Duration) {
        let until = self.now + span;
        let Some(conn) = self.connections.get(id) else { return };
        if let Some(before) = conn.until.replace(until) {
            self.timers.remove(before, NodeTimer::HalfOpen(id));
        }
        self.timers.add(until, NodeTimer::HalfOpen(id));
    }

    /// Takes a connection out of the table, and its time off the agenda.
    pub(super) fn remove_conn(&mut self, id: ConnId) -> Option<Connection> {
        let conn = self.connections.remove(id)?;
        if let Some(until) = conn.until {
            self.timers.remove(until, NodeTimer::HalfOpen(id));
        }
        Some(conn)
    }

    /// Where the driver reads into.
    pub fn space(&mut self, conn: ConnId) -> &mut [u8] {
        match self.connections.get(conn) {
            Some(conn) if !matches!(conn.state, ConnectionState::Ending) => conn.deframer.space(),
            Some(_) | None => &mut [],
        }
    }

    /// What the driver has to write.
    pub fn outgoing(&mut self, conn: ConnId) -> &[u8] {
        self.connections.get(conn).map_or(&[], |conn| &conn.out[conn.written..])
    }

    /// Bytes that wait in the connection's buffer.
    pub(super) fn unwritten(&mut self, conn: ConnId) -> usize {
        self.outgoing(conn).len()
    }

    pub(super) fn on_written(&mut self, id: ConnId, count: usize, driver: &mut impl Driver) {
        let Some(conn) = self.connections.get(id) else { return };
        conn.written += count;
        if conn.written < conn.out.len() {
            return;
        }
        conn.out.clear();
        conn.written = 0;
        match conn.state {
            ConnectionState::Live(node) => self.mark_dirty(node),
            ConnectionState::Ending => self.drop_conn(id, driver),
            ConnectionState::Dialling | ConnectionState::Shaking(_) => {}
        }
    }

    pub(super) fn on_connected(&mut self, id: ConnId, tls: Option<OverTls>, driver: &mut impl Driver) {
        let Some(at) = self.connections.get(id).and_then(|conn| conn.dialled) else { return };
        let Some(entropy) = driver.entropy() else { return self.fail_conn(id, driver) };
        let resume_state = self.resume_state_for(at);
        let Some(conn) = self.connections.get(id) else { return };
        conn.certificate = tls.map(|tls| tls.certificate);
        let exporter = tls.map(|tls| tls.exporter);
        let handshake =
            Handshake::dial(&self.settings.profile, entropy, resume_state, exporter, &mut conn.out);
        conn.state = ConnectionState::Shaking(Box::new(handshake));
        conn.since = self.now;
        self.limit(id, self.settings.limits().handshake_timeout);
        driver.output(Output::Write(id));
    }

    /// What to tell of the session, when the node at that location is known.
    fn resume_state_for(&mut self, at: SocketAddr) -> ResumeState {
        let session = self
            .dials
            .node_at(at)
            .and_then(|node| self.peers.get_mut(&node))
            .and_then(|peer| peer.peer_session.as_mut())
            .map(|peer_session| peer_session.session.next_resume_state());
        session.unwrap_or_else(|| ResumeState::unknown(self.epoch_for(at)))
    }

    /// What to tell a node with which there is no session. Who it is shows in its answer; told something else than before,
    /// it would be asked to come again.
    fn epoch_for(&self, at: SocketAddr) -> u64 {
        let node = self.dials.answered_at(at);
        let is_there = |peer: &Peer| !peer.gone && peer.is_at(at);
        let known = || self.peers.iter().find(|(_, peer)| is_there(peer)).map(|(node, _)| *node);
        let node = node.or_else(known);
        node.map_or(self.epochs.of_strangers(), |node| self.epochs.of(wire_node(node)))
    }

    pub(super) fn on_half_open(&mut self, id: ConnId, driver: &mut impl Driver) {
        let Some(conn) = self.connections.get(id) else { return };
        conn.until = None;
        match conn.state {
            ConnectionState::Dialling => {
                tracing::debug!(remote = %conn.remote, "a dial took too long");
                self.counts.refused_handshakes += 1;
                self.fail_conn(id, driver);
            }
            ConnectionState::Shaking(_) => {
                let remote = conn.remote;
                self.counts.refused_handshakes += 1;
                self.log_refusal_of(remote, "its handshake took too long");
                self.fail_conn(id, driver);
            }
            // The other side does not read what was left to be said.
            ConnectionState::Ending => self.drop_conn(id, driver),
            ConnectionState::Live(_) => {}
        }
    }

    pub(super) fn on_received(&mut self, id: ConnId, count: usize, driver: &mut impl Driver) {
        let Some(conn) = self.connections.get(id) else { return };
        conn.deframer.filled(count);
        conn.quiet = false;
        loop {
            let Some(conn) = self.connections.get(id) else { return };
            match conn.state {
                ConnectionState::Shaking(_) => {
                    if !self.handshake(id, driver) {
                        return;
                    }
                }
                ConnectionState::Live(node) => return self.receive(node, id, driver),
                ConnectionState::Dialling | ConnectionState::Ending => return,
            }
        }
    }

    /// One step of a handshake; false when it waits for bytes, or is over.
    fn handshake(&mut self, id: ConnId, driver: &mut impl Driver) -> bool {
        let Some(conn) = self.connections.get(id) else { return false };
        let ConnectionState::Shaking(mut handshake) =
            std::mem::replace(&mut conn.state, ConnectionState::Ending)
        else {
            return false;
        };
        let mut out = std::mem::take(&mut conn.out);
        let (dialled, certificate) = (conn.dialled, conn.certificate);
        let profile = &self.settings.profile;
        let stepped = handshake.advance(profile, &mut conn.deframer, &mut out);
        let next = match stepped {
            Ok(HandshakeStep::Wait) => Ok(HandshakeProgress::Wait),
            Ok(HandshakeStep::Introduced) => {
                self.introduce(&mut handshake, dialled, certificate, &mut out, driver)
            }
            Ok(HandshakeStep::Proven) => self.confirm(&mut handshake, &mut out),
            Ok(HandshakeStep::Done(connection)) => Ok(HandshakeProgress::Proven(connection)),
            Err(error) => Err(error),
        };
        let Some(conn) = self.connections.get(id) else { return false };
        conn.out = out;
        if conn.written < conn.out.len() {
            driver.output(Output::Write(id));
        }
        match next {
            Ok(HandshakeProgress::Wait) => {
                conn.state = ConnectionState::Shaking(handshake);
                false
            }
            Ok(HandshakeProgress::Go) => {
                conn.state = ConnectionState::Shaking(handshake);
                true
            }
            Ok(HandshakeProgress::Proven(connection)) => self.on_proven(id, connection, driver),
            Err(error) => {
                self.on_handshake_error(id, error, driver);
                false
            }
        }
    }

    /// The peer has said who it is: this side answers, or proves itself.
    fn introduce(
        &mut self,
        handshake: &mut Handshake,
        dialled: Option<SocketAddr>,
        certificate: Option<Fingerprint>,
        out: &mut Vec<u8>,
        driver: &mut impl Driver,
    ) -> Result<HandshakeProgress, HandshakeError> {
        let Some(hello) = handshake.peer() else { return Err(HandshakeError::CallerMisused) };
        let is_other = self.is_known_otherwise(sched_node(hello.node), certificate);
        if let Some(at) = dialled {
            self.dials.answered(at, sched_node(hello.node));
        }
        let session = self.peers.get(&sched_node(hello.node)).and_then(|peer| peer.peer_session.as_ref());
        let session = session.map(|peer_session| &peer_session.session);
        let stranger = dialled.is_none() && session.is_none() && self.settings.ignores_strangers;
        let ignored = stranger || hello.locations.iter().any(|at| self.settings.ignores(at.ip()));
        if ignored || self.leaving || is_other {
            self.counts.refusals.certificates += u64::from(is_other);
            let refusal = match () {
                () if ignored => Refusal::Ignored,
                () if self.leaving => Refusal::Leaving,
                () => Refusal::Certificate,
            };
            handshake.refuse(refusal, out);
            return Err(HandshakeError::Refused(refusal));
        }
        let profile = &self.settings.profile;
        let refusal = if dialled.is_some() {
            match Session::prove_to(session, &mut self.epochs, handshake) {
                Ok(holding) => return handshake.prove(profile, holding, out).map(|()| HandshakeProgress::Go),
                Err(refusal) => refusal,
            }
        } else {
            match (Session::answer_to(session, &self.epochs, hello), driver.entropy()) {
                (Ok(resume_state), Some(entropy)) => {
                    return handshake
                        .answer(profile, entropy, resume_state, out)
                        .map(|()| HandshakeProgress::Go);
                }
                (Ok(_), None) => Refusal::Busy,
                (Err(refusal), _) => refusal,
            }
        };
        handshake.refuse(refusal, out);
        Err(HandshakeError::Refused(refusal))
    }

    /// Whether a node was met with another certificate than this. An incarnation has one all its life: whoever comes
    /// with another is another member, which says that it was that node.
    fn is_known_otherwise(&self, node: NodeId, certificate: Option<Fingerprint>) -> bool {
        self.peers.get(&node).is_some_and(|peer| peer.status.is_some() && peer.certificate != certificate)
    }

    /// The dialler has proven itself to this side, which proves itself in turn.
    fn confirm(
        &mut self,
        handshake: &mut Handshake,
        out: &mut Vec<u8>,
    ) -> Result<HandshakeProgress, HandshakeError> {
        let Some(hello) = handshake.peer() else { return Err(HandshakeError::CallerMisused) };
        let session = self.peers.get(&sched_node(hello.node)).and_then(|peer| peer.peer_session.as_ref());
        match Session::confirm_to(
            session.map(|peer_session| &peer_session.session),
            &mut self.epochs,
            handshake,
        ) {
            Ok(holding) => {
                handshake.confirm(&self.settings.profile, &holding, out).map(HandshakeProgress::Proven)
            }
            Err(refusal) => {
                handshake.refuse(refusal, out);
                Err(HandshakeError::Refused(refusal))
            }
        }
    }

    /// A connection is proven; false when it is not taken.
    fn on_proven(&mut self, id: ConnId, connection: Box<ProvenConnection>, driver: &mut impl Driver) -> bool {
        let node = sched_node(connection.peer().node);
        let certificate = self.connections.get(id).and_then(|conn| conn.certificate);
        if self.is_known_otherwise(node, certificate) {
            // It was met on another connection while this one was proven.
            self.counts.refusals.certificates += 1;
            self.fail_conn(id, driver);
            return false;
        }
        let session = self
            .peers
            .get(&node)
            .and_then(|peer| peer.peer_session.as_ref())
            .map(|peer_session| &peer_session.session);
        match Session::admit(session, &self.epochs, &connection) {
            Admission::Takes => {}
            Admission::Begins => {
                if self.peers.get(&node).is_some_and(|peer| peer.peer_session.is_some()) {
                    self.lose(node, "the peer has begun a new session", driver);
                }
            }
            Admission::Refused(refusal) => {
                tracing::debug!(%node, %refusal, "a proven connection is not taken");
                self.fail_conn(id, driver);
                return false;
            }
        }
        let is_taken = self.take_connection(id, node, connection, driver);
        if let Some(conn) = self.connections.get(id).filter(|_| is_taken)
            && let Some(until) = conn.until.take()
        {
            self.timers.remove(until, NodeTimer::HalfOpen(id));
        }
        is_taken
    }

    fn on_handshake_error(&mut self, id: ConnId, error: HandshakeError, driver: &mut impl Driver) {
        let Some(conn) = self.connections.get(id) else { return };
        let (remote, dialled) = (conn.remote, conn.dialled);
        let quiet = matches!(
            error,
            HandshakeError::Refused(Refusal::Duplicate | Refusal::Superseded | Refusal::SelfConnection)
                | HandshakeError::RefusedByPeer(
                    Refusal::Duplicate | Refusal::Superseded | Refusal::SelfConnection
                )
        );
        if !quiet {
            self.counts.refused_handshakes += 1;
            self.log_refusal(remote, &error);
        }
        if let (Some(at), HandshakeError::Refused(reason) | HandshakeError::RefusedByPeer(reason)) =
            (dialled, error)
        {
            self.on_dial_refused(at, reason, matches!(error, HandshakeError::Refused(_)));
        }
        match self.connections.get(id) {
            Some(conn) if conn.out.len() > conn.written => {
                conn.state = ConnectionState::Ending;
                driver.output(Output::Write(id));
                if let Some(at) = dialled {
                    self.dial_again(at, id);
                }
            }
            Some(_) => self.fail_conn(id, driver),
            None => {}
        }
    }

    /// Closes a connection whose handshake came to nothing.
    pub(super) fn fail_conn(&mut self, id: ConnId, driver: &mut impl Driver) {
        if let Some(at) = self.connections.get(id).and_then(|conn| conn.dialled) {
            self.dial_again(at, id);
        }
        self.drop_conn(id, driver);
    }

    /// Closes a connection, whatever its state; the session on it was told before.
    pub(super) fn drop_conn(&mut self, id: ConnId, driver: &mut impl Driver) {
        if self.remove_conn(id).is_some() {
            driver.output(Output::Close(id));
        }
    }

    pub(super) fn on_closed(&mut self, id: ConnId, driver: &mut impl Driver) {
        let Some(conn) = self.remove_conn(id) else { return };
        driver.output(Output::Close(id));
        match conn.state {
            ConnectionState::Live(node) => self.on_disconnected(node, id, conn.dialled, driver),
            ConnectionState::Dialling | ConnectionState::Shaking(_) | ConnectionState::Ending => {
                if let Some(at) = conn.dialled {
                    self.dial_again(at, id);
                }
            }
        }
    }
}

enum HandshakeProgress {
    Wait,
    Go,
    Proven(Box<ProvenConnection>),
}
