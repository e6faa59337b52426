//! Connections: their buffers and their handshakes.
//!
//! Invariant: an established connection is the only one of its session. An accepted connection that is not proven yet has
//! a deadline of a few seconds; the number of such connections and the memory of each are bounded.

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
    /// The number of bytes of `out` that are written.
    written: usize,
    /// The address of the other end.
    pub(super) remote: SocketAddr,
    /// The location that this side dialled. `None` if it accepted the connection.
    pub(super) dialled: Option<SocketAddr>,
    /// The certificate that the other end presented, if the connection uses TLS.
    pub(super) certificate: Option<Fingerprint>,
    opened_at: Time,
    /// When the credentials were replaced with which it was opened.
    outdated_since: Option<Time>,
    /// The time of the `Connection` timer, which closes the connection unless it is established, or has written its last
    /// bytes, by then.
    deadline: Option<Time>,
    /// No bytes have arrived since the last call of `release_buffers`.
    is_idle: bool,
}

#[derive(Debug)]
pub(super) enum ConnectionState {
    /// A dial that has not connected yet.
    Dialling,
    Handshaking(Box<Handshake>),
    Established(NodeId),
    /// Closed as soon as the rest of `out` is written.
    Closing,
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
            ConnectionState::Handshaking(Box::new(Handshake::accept(None)))
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
            opened_at: now,
            outdated_since: None,
            deadline: None,
            is_idle: false,
        });
        id
    }

    pub(super) fn remove(&mut self, id: ConnId) -> Option<Connection> {
        self.get(id)?;
        self.table.try_remove((id.0 & ((1 << INDEX_BITS) - 1)) as usize)
    }

    /// The connections whose handshakes have begun, and are not complete.
    pub(super) fn in_handshake(&self) -> Vec<ConnId> {
        let has_begun = |conn: &Connection| match &conn.state {
            ConnectionState::Handshaking(handshake) => {
                handshake.peer().is_some() || handshake.resume_state().is_some()
            }
            ConnectionState::Dialling | ConnectionState::Established(_) | ConnectionState::Closing => false,
        };
        self.table.iter().filter(|(_, conn)| has_begun(conn)).map(|(_, conn)| conn.id).collect()
    }

    /// Whether a connection is being dialled, or its handshake is not complete.
    pub(super) fn is_unproven(&mut self, id: ConnId) -> bool {
        self.get(id).is_some_and(|conn| {
            matches!(conn.state, ConnectionState::Dialling | ConnectionState::Handshaking(_))
        })
    }

    /// The credentials of this node are replaced: all present connections were opened with those of before.
    pub(super) fn set_outdated(&mut self, now: Time) {
        for (_, conn) in &mut self.table {
            conn.outdated_since.get_or_insert(now);
        }
    }

    /// The established connections whose credentials were replaced at least this long ago.
    pub(super) fn outdated_for(&self, span: Duration, now: Time) -> Vec<ConnId> {
        let is_outdated = |conn: &Connection| {
            matches!(conn.state, ConnectionState::Established(_))
                && conn.outdated_since.is_some_and(|since| now.since(since) >= span)
        };
        self.table.iter().filter(|(_, conn)| is_outdated(conn)).map(|(_, conn)| conn.id).collect()
    }

    /// The unproven connection to close when there are too many: the oldest from the address with the most of them.
    fn unproven_to_evict(&self, unproven_max: u32) -> Option<ConnId> {
        let unproven = || {
            let all = self.table.iter().map(|(_, conn)| conn);
            all.filter(|conn| conn.dialled.is_none() && matches!(conn.state, ConnectionState::Handshaking(_)))
        };
        if unproven().count() < unproven_max as usize {
            return None;
        }
        let mut of_address = std::collections::BTreeMap::new();
        for conn in unproven() {
            *of_address.entry(site_of(conn.remote.ip())).or_insert(0u32) += 1;
        }
        unproven()
            .min_by_key(|conn| {
                (std::cmp::Reverse(of_address[&site_of(conn.remote.ip())]), conn.opened_at, conn.id)
            })
            .map(|conn| conn.id)
    }

    pub(super) fn check(&self, timers: &TimerQueue) {
        for (_, conn) in &self.table {
            let is_established = matches!(conn.state, ConnectionState::Established(_));
            let is_timed = conn.deadline.is_some_and(|at| timers.has(at, NodeTimer::Connection(conn.id)));
            assert!(is_timed != is_established, "a connection is established or has a deadline, not both");
            assert!(conn.written <= conn.out.len(), "no more bytes are written than the buffer holds");
        }
    }
}

impl Connection {
    /// Whether the credentials with which it was opened were replaced since.
    pub(super) fn is_outdated(&self) -> bool {
        self.outdated_since.is_some()
    }

    /// Frees the buffers if no bytes have arrived since the last call. An idle connection holds no buffers.
    pub(super) fn release_buffers(&mut self) {
        if std::mem::replace(&mut self.is_idle, true) {
            self.deframer.release();
            if self.out.is_empty() {
                self.out = Vec::new();
            }
        }
    }
}

impl NodeCore {
    /// Takes a connection that was accepted from `remote`. Returns its id, or `None` if the driver must close it at once.
    /// If there are too many unproven connections, the oldest of the address with the most of them is closed.
    pub fn accept(&mut self, now: Time, remote: SocketAddr, driver: &mut impl Driver) -> Option<ConnId> {
        self.now = self.now.max(now);
        if self.leaving || self.settings.ignores(remote.ip()) {
            return None;
        }
        if let Some(oldest) =
            self.connections.unproven_to_evict(self.settings.limits().unproven_connections_max)
        {
            self.counts.refused_handshakes += 1;
            let from = self.connections.get(oldest).map_or(remote, |conn| conn.remote);
            self.log_closed_before_proof(from, "there were too many connections without a proof");
            self.close_conn(oldest, driver);
        }
        let id = self.connections.add(remote, false, self.now);
        // The time includes that of TLS, which has no timeout of its own.
        self.set_deadline(id, self.settings.limits().handshake_timeout);
        Some(id)
    }

    pub(super) fn on_accepted(&mut self, id: ConnId, tls: Option<OverTls>) {
        if let Some(conn) = self.connections.get(id)
            && matches!(conn.state, ConnectionState::Handshaking(_))
        {
            conn.certificate = tls.map(|tls| tls.certificate);
            conn.state =
                ConnectionState::Handshaking(Box::new(Handshake::accept(tls.map(|tls| tls.exporter))));
        }
    }

    /// Whether this node dialled the connection.
    pub fn is_dialled(&mut self, conn: ConnId) -> bool {
        self.connections.get(conn).is_some_and(|conn| conn.dialled.is_some())
    }

    /// Handles a failure of TLS: it fails the handshake. An established session continues without the connection.
    pub(super) fn on_tls_failed(&mut self, id: ConnId, fault: TlsFault, driver: &mut impl Driver) {
        let Some(conn) = self.connections.get(id) else { return };
        if matches!(conn.state, ConnectionState::Established(_)) {
            return self.on_closed(id, driver);
        }
        // The other side would not read any of it.
        conn.out.clear();
        conn.written = 0;
        let refusal = Refusal::Tls(fault);
        let error = if fault.is_rejected_by_peer() {
            HandshakeError::RefusedByPeer(refusal)
        } else {
            HandshakeError::Refused(refusal)
        };
        self.on_handshake_error(id, error, driver);
    }

    /// Sets the deadline by which a connection must be established, or have written its last bytes.
    pub(super) fn set_deadline(&mut self, id: ConnId, span: Duration) {
        let deadline = self.now + span;
        let Some(conn) = self.connections.get(id) else { return };
        if let Some(before) = conn.deadline.replace(deadline) {
            self.timers.remove(before, NodeTimer::Connection(id));
        }
        self.timers.add(deadline, NodeTimer::Connection(id));
    }

    /// Removes a connection from the table, and its timer.
    pub(super) fn remove_conn(&mut self, id: ConnId) -> Option<Connection> {
        let conn = self.connections.remove(id)?;
        if let Some(deadline) = conn.deadline {
            self.timers.remove(deadline, NodeTimer::Connection(id));
        }
        Some(conn)
    }

    /// The buffer into which the driver reads the bytes of a connection. Empty if the core needs no more of them.
    pub fn space(&mut self, conn: ConnId) -> &mut [u8] {
        match self.connections.get(conn) {
            Some(conn) if !matches!(conn.state, ConnectionState::Closing) => conn.deframer.space(),
            Some(_) | None => &mut [],
        }
    }

    /// The number of frames that need no credit among those of the last [`Input::Received`](super::Input::Received). A driver
    /// limits their number in a round.
    pub fn control_frames(&self) -> u64 {
        self.control_frames
    }

    /// The bytes that the driver must write to a connection.
    pub fn outgoing(&mut self, conn: ConnId) -> &[u8] {
        self.connections.get(conn).map_or(&[], |conn| &conn.out[conn.written..])
    }

    /// The number of bytes that wait in the buffer of a connection.
    pub(super) fn unwritten(&mut self, conn: ConnId) -> usize {
        self.outgoing(conn).len()
    }

    pub(super) fn on_written(&mut self, id: ConnId, count: usize, driver: &mut impl Driver) {
        let Some(conn) = self.connections.get(id) else { return };
        conn.written += count;
        self.counts.bytes_sent += count as u64;
        if conn.written < conn.out.len() {
            return;
        }
        conn.out.clear();
        conn.written = 0;
        match conn.state {
            ConnectionState::Established(node) => self.mark_dirty(node),
            ConnectionState::Closing => self.close_conn(id, driver),
            ConnectionState::Dialling | ConnectionState::Handshaking(_) => {}
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
        conn.state = ConnectionState::Handshaking(Box::new(handshake));
        conn.opened_at = self.now;
        self.set_deadline(id, self.settings.limits().handshake_timeout);
        driver.output(Output::Write(id));
    }

    /// The resume state for the hello to a location: that of the session with the node there, if that node is known.
    fn resume_state_for(&mut self, at: SocketAddr) -> ResumeState {
        let session = self
            .dialer
            .node_at(at)
            .and_then(|node| self.peers.get_mut(&node))
            .and_then(|peer| peer.peer_session.as_mut())
            .map(|peer_session| peer_session.session.next_resume_state());
        session.unwrap_or_else(|| ResumeState::unknown(self.epoch_for(at)))
    }

    /// The epoch for the hello to a location, if there is no session with its node. The node is known for certain only
    /// after its hello, so this is a guess. A wrong epoch costs a second dial.
    fn epoch_for(&self, at: SocketAddr) -> u64 {
        let node = self.dialer.answered_at(at);
        let is_there = |peer: &Peer| !peer.replaced_by_restart && peer.is_at(at);
        let known = || self.peers_at(at).find(|(_, peer)| is_there(peer)).map(|(node, _)| node);
        let node = node.or_else(known);
        node.map_or(self.epochs.of_unknown_node(), |node| self.epochs.of(wire_node(node)))
    }

    pub(super) fn on_connection_due(&mut self, id: ConnId, driver: &mut impl Driver) {
        let Some(conn) = self.connections.get(id) else { return };
        conn.deadline = None;
        match conn.state {
            ConnectionState::Dialling => {
                tracing::debug!(remote = %conn.remote, "a dial timed out");
                self.counts.refused_handshakes += 1;
                self.fail_conn(id, driver);
            }
            ConnectionState::Handshaking(_) => {
                let remote = conn.remote;
                self.counts.refused_handshakes += 1;
                self.log_closed_before_proof(remote, "its handshake timed out");
                self.fail_conn(id, driver);
            }
            // The other side does not read the last bytes.
            ConnectionState::Closing => self.close_conn(id, driver),
            ConnectionState::Established(_) => {}
        }
    }

    pub(super) fn on_received(&mut self, id: ConnId, count: usize, driver: &mut impl Driver) {
        self.control_frames = 0;
        let Some(conn) = self.connections.get(id) else { return };
        conn.deframer.filled(count);
        self.counts.bytes_received += count as u64;
        conn.is_idle = false;
        loop {
            let Some(conn) = self.connections.get(id) else { return };
            match conn.state {
                ConnectionState::Handshaking(_) => {
                    if !self.handshake(id, driver) {
                        return;
                    }
                }
                ConnectionState::Established(node) => return self.receive(node, id, driver),
                ConnectionState::Dialling | ConnectionState::Closing => return,
            }
        }
    }

    /// Makes one step of a handshake. False if the handshake waits for bytes, or has failed.
    fn handshake(&mut self, id: ConnId, driver: &mut impl Driver) -> bool {
        let Some(conn) = self.connections.get(id) else { return false };
        let ConnectionState::Handshaking(mut handshake) =
            std::mem::replace(&mut conn.state, ConnectionState::Closing)
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
            Ok(HandshakeStep::Proven) => self.confirm(&mut handshake, certificate, &mut out),
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
                conn.state = ConnectionState::Handshaking(handshake);
                false
            }
            Ok(HandshakeProgress::Continue) => {
                conn.state = ConnectionState::Handshaking(handshake);
                true
            }
            Ok(HandshakeProgress::Proven(connection)) => self.on_proven(id, connection, driver),
            Err(error) => {
                self.on_handshake_error(id, error, driver);
                false
            }
        }
    }

    /// Handles the hello of the other side: the acceptor sends its own hello, the dialling side its proof.
    fn introduce(
        &mut self,
        handshake: &mut Handshake,
        dialled: Option<SocketAddr>,
        certificate: Option<Fingerprint>,
        out: &mut Vec<u8>,
        driver: &mut impl Driver,
    ) -> Result<HandshakeProgress, HandshakeError> {
        let Some(hello) = handshake.peer() else { return Err(HandshakeError::CallerMisused) };
        let has_other_certificate = self.has_other_certificate(sched_node(hello.node), certificate);
        if let Some(at) = dialled {
            self.dialer.answered(at, sched_node(hello.node));
        }
        let session = self.peers.get(&sched_node(hello.node)).and_then(|peer| peer.peer_session.as_ref());
        let session = session.map(|peer_session| &peer_session.session);
        // A node that has replaced its certificate claims to hold the session, and proves it next.
        let claims_session = session.is_some() && hello.resume_state.known != 0;
        let has_other_certificate = has_other_certificate && !claims_session;
        let is_ignored_as_unknown =
            dialled.is_none() && session.is_none() && self.settings.ignores_unknown_nodes;
        let ignored =
            is_ignored_as_unknown || hello.locations.iter().any(|at| self.settings.ignores(at.ip()));
        if ignored || self.leaving || has_other_certificate {
            self.counts.refusals.certificates += u64::from(has_other_certificate);
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
                Ok(held) => {
                    return handshake.prove(profile, held, out).map(|()| HandshakeProgress::Continue);
                }
                Err(refusal) => refusal,
            }
        } else {
            match (Session::answer_to(session, &self.epochs, hello), driver.entropy()) {
                (Ok(resume_state), Some(entropy)) => {
                    return handshake
                        .answer(profile, entropy, resume_state, out)
                        .map(|()| HandshakeProgress::Continue);
                }
                (Ok(_), None) => Refusal::Busy,
                (Err(refusal), _) => refusal,
            }
        };
        handshake.refuse(refusal, out);
        Err(HandshakeError::Refused(refusal))
    }

    /// Whether a node has connected before with another certificate. Unless the other side proves that it holds the session, it
    /// may be a different node that uses this node's id.
    fn has_other_certificate(&self, node: NodeId, certificate: Option<Fingerprint>) -> bool {
        self.peers.get(&node).is_some_and(|peer| peer.status.is_some() && peer.certificate != certificate)
    }

    /// Handles the valid proof of the dialling side: this side sends its own proof.
    fn confirm(
        &mut self,
        handshake: &mut Handshake,
        certificate: Option<Fingerprint>,
        out: &mut Vec<u8>,
    ) -> Result<HandshakeProgress, HandshakeError> {
        let Some(hello) = handshake.peer() else { return Err(HandshakeError::CallerMisused) };
        let has_other_certificate = self.has_other_certificate(sched_node(hello.node), certificate);
        let session = self.peers.get(&sched_node(hello.node)).and_then(|peer| peer.peer_session.as_ref());
        match Session::confirm_to(
            session.map(|peer_session| &peer_session.session),
            &mut self.epochs,
            handshake,
        ) {
            Ok(held) if has_other_certificate && !handshake.is_resumed(&held) => {
                self.counts.refusals.certificates += 1;
                handshake.refuse(Refusal::Certificate, out);
                Err(HandshakeError::Refused(Refusal::Certificate))
            }
            Ok(held) => handshake.confirm(&self.settings.profile, &held, out).map(HandshakeProgress::Proven),
            Err(refusal) => {
                handshake.refuse(refusal, out);
                Err(HandshakeError::Refused(refusal))
            }
        }
    }

    /// Handles a completed handshake. False if the connection is not used.
    fn on_proven(&mut self, id: ConnId, connection: Box<ProvenConnection>, driver: &mut impl Driver) -> bool {
        let node = sched_node(connection.peer().node);
        let certificate = self.connections.get(id).and_then(|conn| conn.certificate);
        if !connection.resumes() && self.has_other_certificate(node, certificate) {
            self.counts.refusals.certificates += 1;
            self.on_handshake_error(id, HandshakeError::Refused(Refusal::Certificate), driver);
            return false;
        }
        let session = self
            .peers
            .get(&node)
            .and_then(|peer| peer.peer_session.as_ref())
            .map(|peer_session| &peer_session.session);
        match Session::admit(session, &self.epochs, &connection) {
            Admission::Continues => {}
            Admission::Begins => {
                if self.peers.get(&node).is_some_and(|peer| peer.peer_session.is_some()) {
                    self.end_session(node, "the peer has started a new session", driver);
                }
            }
            Admission::Refused(refusal) => {
                tracing::debug!(%node, %refusal, "a proven connection was refused");
                self.fail_conn(id, driver);
                return false;
            }
        }
        let is_attached = self.attach_connection(id, node, connection, driver);
        if let Some(conn) = self.connections.get(id).filter(|_| is_attached)
            && let Some(deadline) = conn.deadline.take()
        {
            self.timers.remove(deadline, NodeTimer::Connection(id));
        }
        is_attached
    }

    fn on_handshake_error(&mut self, id: ConnId, error: HandshakeError, driver: &mut impl Driver) {
        let Some(conn) = self.connections.get(id) else { return };
        let (remote, dialled) = (conn.remote, conn.dialled);
        let is_expected = matches!(
            error,
            HandshakeError::Refused(Refusal::Duplicate | Refusal::Superseded | Refusal::SelfConnection)
                | HandshakeError::RefusedByPeer(
                    Refusal::Duplicate | Refusal::Superseded | Refusal::SelfConnection
                )
        );
        if !is_expected {
            self.counts.refused_handshakes += 1;
            self.log_refusal(remote, &error);
        }
        if let (Some(at), HandshakeError::Refused(reason) | HandshakeError::RefusedByPeer(reason)) =
            (dialled, error)
        {
            self.on_dial_refused(at, reason, matches!(error, HandshakeError::Refused(_)), driver);
        }
        if let (Some(at), HandshakeError::PeerMisbehaved(fault)) = (dialled, error) {
            self.on_dialled_no_node(at, fault, driver);
        }
        match self.connections.get(id) {
            Some(conn) if conn.out.len() > conn.written => {
                conn.state = ConnectionState::Closing;
                driver.output(Output::Write(id));
                if let Some(at) = dialled {
                    self.retry_dial(at, id);
                }
            }
            Some(_) => self.fail_conn(id, driver),
            None => {}
        }
    }

    /// Closes a connection after a failed handshake.
    pub(super) fn fail_conn(&mut self, id: ConnId, driver: &mut impl Driver) {
        if let Some(at) = self.connections.get(id).and_then(|conn| conn.dialled) {
            self.retry_dial(at, id);
        }
        self.close_conn(id, driver);
    }

    /// Closes a connection in any state. The caller has detached it from its session, if it had one.
    pub(super) fn close_conn(&mut self, id: ConnId, driver: &mut impl Driver) {
        if self.remove_conn(id).is_some() {
            driver.output(Output::Close(id));
        }
    }

    pub(super) fn on_closed(&mut self, id: ConnId, driver: &mut impl Driver) {
        let Some(conn) = self.remove_conn(id) else { return };
        driver.output(Output::Close(id));
        match conn.state {
            ConnectionState::Established(node) => self.on_connection_lost(node, id, conn.dialled, driver),
            ConnectionState::Dialling | ConnectionState::Handshaking(_) | ConnectionState::Closing => {
                if let Some(at) = conn.dialled {
                    self.retry_dial(at, id);
                }
            }
        }
    }
}

enum HandshakeProgress {
    Wait,
    Continue,
    Proven(Box<ProvenConnection>),
}
