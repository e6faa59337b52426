//! Connections: their buffers and their handshakes.
//!
//! Invariant: an established connection is the only one of its session. An accepted connection that is not proven yet has
//! a deadline of a few seconds; the number of such connections and the memory of each are bounded.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use antiphon_sched::{NodeId, Time, site_of};
use antiphon_wire::{
    Admission, Deframer, Handshake, HandshakeError, HandshakeStep, Hello, ProvenConnection, Refusal,
    ResumeState, Session, TlsFault,
};
use slab::Slab;

use super::NodeCore;
use super::context::NodeCx;
use super::driver::{ConnId, Driver, Output, OverTls};
use super::peer::Peer;
use super::timers::{NodeTimer, TimerQueue};
use crate::certificates::Fingerprint;

/// The most nodes with a session that are tried in turn for a location that they state.
const GUESSES_MAX: usize = 8;
const INDEX_BITS: u32 = 24;
/// The most addresses that are remembered as proven.
const PROVEN_SITES_MAX: usize = 1_024;
/// The unproven connections of such an address that count as one.
const KNOWN_SITE_SHARE: u32 = 8;

/// The most connections that wait for the answer of the present connection of one node.
const CONTENDERS_MAX: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Connections {
    table: Slab<Connection>,
    generation: u64,
    /// The accepted connections that are not proven, the oldest first. Some may be proven or closed by now.
    unproven: Vec<ConnId>,
    proven_sites: ProvenSites,
    /// The connections whose handshakes wait for the answer of the present connection of the same node: each would end its session.
    contenders: BTreeMap<NodeId, Vec<ConnId>>,
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
    /// It would end the session of the same node, which was therefore asked whether it is still there.
    contention: Option<Contention>,
    /// The time of the `Connection` timer, which closes the connection unless it is established, or has written its last
    /// bytes, by then.
    deadline: Option<Time>,
    /// No bytes have arrived since the last call of `release_buffers`.
    is_idle: bool,
    /// Received frames wait in the deframer until the next round.
    pub(super) has_unread: bool,
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
        if !dialled {
            self.unproven.push(id);
        }
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
            contention: None,
            deadline: None,
            is_idle: false,
            has_unread: false,
        });
        id
    }

    pub(super) fn remove(&mut self, id: ConnId) -> Option<Connection> {
        self.get(id)?;
        self.table.try_remove((id.0 & ((1 << INDEX_BITS) - 1)) as usize)
    }

    /// Adds a connection that would end the session with `node`, unless it waits already. `false` if too many wait.
    fn add_contender(&mut self, node: NodeId, id: ConnId) -> bool {
        let waiting = self.contenders.entry(node).or_default();
        if waiting.contains(&id) {
            return true;
        }
        let has_room = waiting.len() < CONTENDERS_MAX;
        if has_room {
            waiting.push(id);
        }
        has_room
    }

    pub(super) fn has_contenders(&self, node: NodeId) -> bool {
        self.contenders.contains_key(&node)
    }

    /// The connections that would end the session with `node`. Some may be closed by now.
    pub(super) fn take_contenders(&mut self, node: NodeId) -> Vec<ConnId> {
        self.contenders.remove(&node).unwrap_or_default()
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

    /// A connection from this address is proven.
    pub(super) fn note_proven(&mut self, ip: IpAddr, now: Time) {
        self.proven_sites.note(site_of(ip), now);
    }

    /// The unproven connection to close when there are too many: the oldest from the address with the most of them. If no address has
    /// more than one, that is the oldest of its [`UnprovenClass`]. An address that has proven itself before may have a few that count
    /// as one.
    fn unproven_to_evict(&mut self, unproven_max: u32) -> Option<ConnId> {
        let mut ids = std::mem::take(&mut self.unproven);
        ids.retain(|id| {
            self.get(*id).is_some_and(|conn| matches!(conn.state, ConnectionState::Handshaking(_)))
        });
        self.unproven = ids;
        if self.unproven.len() < unproven_max as usize {
            return None;
        }
        let mut of_site = BTreeMap::new();
        let mut unproven = Vec::with_capacity(self.unproven.len());
        for id in self.unproven.clone() {
            let Some(conn) = self.get(id) else { continue };
            let (site, class) = (site_of(conn.remote.ip()), conn.unproven_class());
            let class = if self.proven_sites.has(site) { UnprovenClass::KnownSite } else { class };
            *of_site.entry(site).or_insert(0u32) += 1;
            unproven.push((id, site, class));
        }
        let weight = |site: &IpAddr, class: UnprovenClass| match class {
            UnprovenClass::KnownSite => of_site[site].saturating_sub(KNOWN_SITE_SHARE).max(1),
            UnprovenClass::Introduced | UnprovenClass::Silent => of_site[site],
        };
        let heaviest = unproven.iter().map(|(_, site, class)| weight(site, *class)).max()?;
        let surplus = UnprovenClass::with_surplus(unproven.iter().map(|(_, _, class)| *class));
        let is_candidate = |site: &IpAddr, class: UnprovenClass| {
            weight(site, class) == heaviest && (heaviest > 1 || class == surplus)
        };
        unproven.iter().find(|(_, site, class)| is_candidate(site, *class)).map(|(id, _, _)| *id)
    }

    pub(super) fn check(&self, timers: &TimerQueue) {
        for node in self.contenders.keys() {
            assert!(timers.has_any(NodeTimer::Predecessor(*node)), "contenders wait for a timer");
        }
        for (_, conn) in &self.table {
            let is_established = matches!(conn.state, ConnectionState::Established(_));
            let is_timed = conn.deadline.is_some_and(|at| timers.has(at, NodeTimer::Connection(conn.id)));
            assert!(is_timed != is_established, "a connection is established or has a deadline, not both");
            assert!(conn.written <= conn.out.len(), "no more bytes are written than the buffer holds");
        }
    }
}

/// Unproven connections, by what speaks for them. Each class has places of its own, so that a flood of one leaves those of the
/// others.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum UnprovenClass {
    /// A connection from this address was proven before.
    KnownSite,
    /// Its hello has arrived.
    Introduced,
    Silent,
}

impl UnprovenClass {
    /// The class of which one is closed: known addresses have half of all places, introduced connections half of the rest.
    fn with_surplus(all: impl Iterator<Item = UnprovenClass> + Clone) -> UnprovenClass {
        let count = |wanted| all.clone().filter(|class| *class == wanted).count();
        let (total, known) = (all.clone().count(), count(UnprovenClass::KnownSite));
        if known * 2 > total {
            UnprovenClass::KnownSite
        } else if count(UnprovenClass::Introduced) * 2 > total - known {
            UnprovenClass::Introduced
        } else {
            UnprovenClass::Silent
        }
    }
}

/// The addresses from which connections were proven lately.
#[derive(Debug, Default)]
struct ProvenSites {
    last_proven: BTreeMap<IpAddr, Time>,
}

impl ProvenSites {
    fn note(&mut self, site: IpAddr, now: Time) {
        let is_new = self.last_proven.insert(site, now).is_none();
        if is_new && self.last_proven.len() > PROVEN_SITES_MAX {
            let oldest = self.last_proven.iter().min_by_key(|(_, at)| **at).map(|(site, _)| *site);
            oldest.and_then(|site| self.last_proven.remove(&site));
        }
    }

    fn has(&self, site: IpAddr) -> bool {
        self.last_proven.contains_key(&site)
    }
}

impl Connection {
    fn unproven_class(&self) -> UnprovenClass {
        match &self.state {
            ConnectionState::Handshaking(handshake) if handshake.peer().is_some() => {
                UnprovenClass::Introduced
            }
            ConnectionState::Handshaking(_)
            | ConnectionState::Dialling
            | ConnectionState::Established(_)
            | ConnectionState::Closing => UnprovenClass::Silent,
        }
    }

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

impl NodeCx {
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

    /// Logs that a connection was closed before its proof and without a refusal.
    fn log_closed_before_proof(&mut self, remote: SocketAddr, reason: &str) {
        if self.may_log("no proof", format_args!("{} {reason}", remote.ip())) {
            tracing::warn!(%remote, reason, "a connection was closed before its proof (logged at most once an hour)");
        }
    }

    fn log_refusal(&mut self, remote: SocketAddr, error: &HandshakeError) {
        if self.may_log("no connection", format_args!("{} {error}", remote.ip())) {
            tracing::warn!(%remote, reason = %error, "a handshake failed (logged at most once an hour)");
        }
    }
}

impl NodeCore {
    /// Takes a connection that was accepted from `remote`. Returns its id, or `None` if the driver must close it at once.
    /// If there are too many unproven connections, one of them is closed.
    pub fn accept(&mut self, now: Time, remote: SocketAddr, driver: &mut impl Driver) -> Option<ConnId> {
        self.cx.now = self.cx.now.max(now);
        if self.cx.leaving || self.cx.settings.ignores(remote.ip()) {
            return None;
        }
        if let Some(oldest) =
            self.cx.connections.unproven_to_evict(self.cx.settings.limits().unproven_connections_max)
        {
            self.cx.counts.refused_handshakes += 1;
            let from = self.cx.connections.get(oldest).map_or(remote, |conn| conn.remote);
            self.cx.log_closed_before_proof(from, "there were too many connections without a proof");
            self.close_conn(oldest, driver);
        }
        let id = self.cx.connections.add(remote, false, self.cx.now);
        // The time includes that of TLS, which has no timeout of its own.
        self.cx.set_deadline(id, self.cx.settings.limits().handshake_timeout);
        Some(id)
    }

    pub(super) fn on_accepted(&mut self, id: ConnId, tls: Option<OverTls>) {
        if let Some(conn) = self.cx.connections.get(id)
            && matches!(conn.state, ConnectionState::Handshaking(_))
        {
            conn.certificate = tls.map(|tls| tls.certificate);
            conn.state =
                ConnectionState::Handshaking(Box::new(Handshake::accept(tls.map(|tls| tls.exporter))));
        }
    }

    /// Whether this node dialled the connection.
    pub fn is_dialled(&mut self, conn: ConnId) -> bool {
        self.cx.connections.get(conn).is_some_and(|conn| conn.dialled.is_some())
    }

    /// Handles a failure of TLS: it fails the handshake. An established session continues without the connection.
    pub(super) fn on_tls_failed(&mut self, id: ConnId, fault: TlsFault, driver: &mut impl Driver) {
        let Some(conn) = self.cx.connections.get(id) else { return };
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

    /// The buffer into which the driver reads the bytes of a connection. Empty if the core needs no more of them.
    pub fn space(&mut self, conn: ConnId) -> &mut [u8] {
        match self.cx.connections.get(conn) {
            Some(conn) if !matches!(conn.state, ConnectionState::Closing) => conn.deframer.space(),
            Some(_) | None => &mut [],
        }
    }

    /// The number of frames that need no credit among those of the last [`Input::Received`](super::Input::Received). A driver
    /// limits their number in a round.
    pub fn control_frames(&self) -> u64 {
        self.control_frames
    }

    /// Whether a connection has received frames that the core has not taken: a peer has sent very many that need no credit. Then the
    /// driver calls with [`Input::Received`](super::Input::Received) of no bytes in the next round, before it reads more.
    pub fn has_unread(&mut self, conn: ConnId) -> bool {
        let is_unread =
            |conn: &mut Connection| conn.has_unread && matches!(conn.state, ConnectionState::Established(_));
        self.cx.connections.get(conn).is_some_and(is_unread)
    }

    /// The bytes that the driver must write to a connection.
    pub fn outgoing(&mut self, conn: ConnId) -> &[u8] {
        self.cx.connections.get(conn).map_or(&[], |conn| &conn.out[conn.written..])
    }

    /// The number of bytes that wait in the buffer of a connection.
    pub(super) fn unwritten(&mut self, conn: ConnId) -> usize {
        self.outgoing(conn).len()
    }

    pub(super) fn on_written(&mut self, id: ConnId, count: usize, driver: &mut impl Driver) {
        let Some(conn) = self.cx.connections.get(id) else { return };
        conn.written += count;
        self.cx.counts.bytes_sent += count as u64;
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
        let Some(at) = self.cx.connections.get(id).and_then(|conn| conn.dialled) else { return };
        let Some(entropy) = driver.entropy() else { return self.fail_conn(id, driver) };
        let resume_state = self.resume_state_for(at);
        let Some(conn) = self.cx.connections.get(id) else { return };
        conn.certificate = tls.map(|tls| tls.certificate);
        let exporter = tls.map(|tls| tls.exporter);
        let handshake =
            Handshake::dial(&self.cx.settings.profile, entropy, resume_state, exporter, &mut conn.out);
        conn.state = ConnectionState::Handshaking(Box::new(handshake));
        conn.opened_at = self.cx.now;
        self.cx.set_deadline(id, self.cx.settings.limits().handshake_timeout);
        driver.output(Output::Write(id));
    }

    /// The resume state for the hello to a location. The node there is known for certain only after its hello, so this is a guess. A
    /// wrong one costs a second dial: a refusal names no node, so the next attempt is for another one.
    fn resume_state_for(&mut self, at: SocketAddr) -> ResumeState {
        let is_there = |peer: &Peer| !peer.replaced_by_restart && peer.is_at(at);
        let there = || self.peers.at(at).filter(|peer| is_there(peer));
        let with_session = there().filter(|peer| peer.peer_session.is_some()).take(GUESSES_MAX);
        let without_session = there().find(|peer| peer.peer_session.is_none());
        let mut guesses: Vec<NodeId> =
            [self.discovery.dialer.answered_at(at), self.discovery.dialer.node_at(at)]
                .into_iter()
                .flatten()
                .collect();
        guesses.extend(with_session.chain(without_session).map(|peer| peer.node));
        let refused = self.discovery.dialer.refused_guesses(at) as usize % (guesses.len() + 1);
        let Some(node) = guesses.get(refused).copied() else {
            return ResumeState::unknown(self.cx.epochs.of_unknown_node());
        };
        let session = self.peers.get_mut(node).and_then(|peer| peer.peer_session.as_mut());
        session.map_or_else(
            || ResumeState::unknown(self.cx.epochs.of(node)),
            |peer_session| peer_session.session.next_resume_state(),
        )
    }

    pub(super) fn on_connection_due(&mut self, id: ConnId, driver: &mut impl Driver) {
        let Some(conn) = self.cx.connections.get(id) else { return };
        conn.deadline = None;
        match conn.state {
            ConnectionState::Dialling => {
                tracing::debug!(remote = %conn.remote, "a dial timed out");
                self.cx.counts.refused_handshakes += 1;
                self.fail_conn(id, driver);
            }
            ConnectionState::Handshaking(_) => {
                let remote = conn.remote;
                self.cx.counts.refused_handshakes += 1;
                self.cx.log_closed_before_proof(remote, "its handshake timed out");
                self.fail_conn(id, driver);
            }
            // The other side does not read the last bytes.
            ConnectionState::Closing => self.close_conn(id, driver),
            ConnectionState::Established(_) => {}
        }
    }

    pub(super) fn on_received(&mut self, id: ConnId, count: usize, driver: &mut impl Driver) {
        self.control_frames = 0;
        let Some(conn) = self.cx.connections.get(id) else { return };
        conn.deframer.filled(count);
        self.cx.counts.bytes_received += count as u64;
        conn.is_idle = false;
        self.advance_connection(id, driver);
    }

    /// Continues the handshake of a connection, or handles the records that have arrived on it.
    fn advance_connection(&mut self, id: ConnId, driver: &mut impl Driver) {
        loop {
            let Some(conn) = self.cx.connections.get(id) else { return };
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
        let Some(conn) = self.cx.connections.get(id) else { return false };
        let ConnectionState::Handshaking(mut handshake) =
            std::mem::replace(&mut conn.state, ConnectionState::Closing)
        else {
            return false;
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
        let Some(conn) = self.cx.connections.get(id) else { return false };
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
            self.discovery.dialer.answered(at, hello.node);
            if self.is_found(at, hello) {
                handshake.refuse(Refusal::Duplicate, out);
                return Err(HandshakeError::Refused(Refusal::Duplicate));
            }
        }
        let session = self.peers.get(hello.node).and_then(|peer| peer.peer_session.as_ref());
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
        handshake.refuse(refusal, out);
        Err(HandshakeError::Refused(refusal))
    }

    /// Whether a dial has found a node with which no further connection is needed.
    fn is_found(&mut self, at: SocketAddr, hello: &Hello) -> bool {
        let dialer = &self.discovery.dialer;
        dialer.is_found_connected(&mut self.peers, at, hello)
            || dialer.is_found_disconnected(&self.cx, &self.peers, at, hello)
    }

    /// Whether a node has connected before with another certificate. Unless the other side proves that it holds the session, it
    /// may be a different node that uses this node's id.
    fn has_other_certificate(&self, node: NodeId, certificate: Option<Fingerprint>) -> bool {
        self.peers.get(node).is_some_and(|peer| peer.status.is_some() && peer.certificate != certificate)
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
        let session = self.peers.get(hello.node).and_then(|peer| peer.peer_session.as_ref());
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
    fn contest(&mut self, id: ConnId, hello: &Hello) -> Contest {
        let (node, now) = (hello.node, self.cx.now);
        let Some(peer_session) = self.peers.get(node).and_then(|peer| peer.peer_session.as_ref()) else {
            return Contest::Won;
        };
        if !peer_session.session.would_be_replaced_by(hello) {
            return Contest::Won;
        }
        let (is_connected, is_resting) = (peer_session.conn.is_some(), peer_session.idle.is_closed());
        let (last_received, answer_within) = (peer_session.session.last_received(), self.answer_within());
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
                    self.reopen(node);
                }
                let contention = self.ask(node, None).map(|since| Contention { since, reopens: is_resting });
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

    /// The present connection of a node has had its time to answer, or is lost: the handshakes that waited for that continue.
    pub(super) fn decide_contests(&mut self, node: NodeId, driver: &mut impl Driver) {
        for id in self.cx.connections.take_contenders(node) {
            self.advance_connection(id, driver);
        }
        // Some may wait for a session to be reopened. A timer for that is set.
    }

    /// The connection of a session has closed, or the session has ended: nothing needs to wait for its answer.
    pub(super) fn decide_contests_soon(&mut self, node: NodeId) {
        if self.cx.connections.has_contenders(node) {
            self.cx.timers.add(self.cx.now, NodeTimer::Predecessor(node));
        }
    }

    /// Handles a completed handshake. False if the connection is not used.
    fn on_proven(&mut self, id: ConnId, connection: Box<ProvenConnection>, driver: &mut impl Driver) -> bool {
        let node = connection.peer().node;
        let certificate = self.cx.connections.get(id).and_then(|conn| conn.certificate);
        if !connection.resumes() && self.has_other_certificate(node, certificate) {
            self.cx.counts.refusals.certificates += 1;
            self.on_handshake_error(id, HandshakeError::Refused(Refusal::Certificate), driver);
            return false;
        }
        let session = self
            .peers
            .get(node)
            .and_then(|peer| peer.peer_session.as_ref())
            .map(|peer_session| &peer_session.session);
        match Session::admit(session, &self.cx.epochs, &connection) {
            Admission::Continues => {}
            // The session has changed since the hello of the other side arrived.
            Admission::Begins if self.contest(id, connection.peer()) != Contest::Won => {
                tracing::debug!(%node, "a proven connection would end a session that answers");
                self.fail_conn(id, driver);
                return false;
            }
            Admission::Begins => {
                if self.peers.get(node).is_some_and(|peer| peer.peer_session.is_some()) {
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
        if let Some(conn) = self.cx.connections.get(id).filter(|_| is_attached)
            && let Some(deadline) = conn.deadline.take()
        {
            self.cx.timers.remove(deadline, NodeTimer::Connection(id));
        }
        is_attached
    }

    fn on_handshake_error(&mut self, id: ConnId, error: HandshakeError, driver: &mut impl Driver) {
        let Some(conn) = self.cx.connections.get(id) else { return };
        let (remote, dialled) = (conn.remote, conn.dialled);
        let refusal = match error {
            HandshakeError::Refused(refusal) | HandshakeError::RefusedByPeer(refusal) => Some(refusal),
            HandshakeError::PeerMisbehaved(_) | HandshakeError::CallerMisused | _ => None,
        };
        let is_expected = matches!(
            refusal,
            Some(
                Refusal::Duplicate | Refusal::Superseded | Refusal::SelfConnection | Refusal::OldEpoch { .. }
            )
        );
        if !is_expected {
            self.cx.counts.refused_handshakes += 1;
            self.cx.log_refusal(remote, &error);
        }
        if let (Some(at), HandshakeError::RefusedByPeer(reason)) = (dialled, error) {
            if let Refusal::OldEpoch { node, known } = reason {
                self.on_old_epoch(at, node, known, driver);
            } else if let Refusal::EpochTooHigh { node, .. } = reason {
                // The hello had the epoch for another node.
                self.discovery.dialer.answered(at, node);
            } else if matches!(reason, Refusal::Duplicate | Refusal::Superseded) {
                self.discovery.dialer.guess_refused(at);
            }
        }
        if let (Some(at), HandshakeError::Refused(reason) | HandshakeError::RefusedByPeer(reason)) =
            (dialled, error)
        {
            self.on_dial_refused(at, reason, matches!(error, HandshakeError::Refused(_)), driver);
        }
        if let (Some(at), HandshakeError::PeerMisbehaved(fault)) = (dialled, error) {
            self.on_dialled_no_node(at, fault, driver);
        }
        match self.cx.connections.get(id) {
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
        if let Some(at) = self.cx.connections.get(id).and_then(|conn| conn.dialled) {
            self.retry_dial(at, id);
        }
        self.close_conn(id, driver);
    }

    /// Closes a connection in any state. The caller has detached it from its session, if it had one.
    pub(super) fn close_conn(&mut self, id: ConnId, driver: &mut impl Driver) {
        if self.cx.remove_conn(id).is_some() {
            driver.output(Output::Close(id));
        }
    }

    pub(super) fn on_closed(&mut self, id: ConnId, driver: &mut impl Driver) {
        let Some(conn) = self.cx.remove_conn(id) else { return };
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

/// A connection that would end a session waits for the answer to a ping.
#[derive(Copy, Clone, Debug)]
struct Contention {
    since: Time,
    /// The session had been closed while idle, and is opened again.
    reopens: bool,
}

/// Whether a connection may end a session that has another one.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Contest {
    /// There is no such session, or its connection does not answer.
    Won,
    /// Its connection answers.
    Lost,
    /// Its connection was asked.
    Undecided,
}

enum HandshakeProgress {
    Wait,
    Continue,
    Proven(Box<ProvenConnection>),
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u32 = 16;

    fn accept(connections: &mut Connections, ip: [u8; 4]) -> ConnId {
        connections.add((ip, 7).into(), false, Time::ZERO)
    }

    /// Opens a connection as `accept` does, after it has closed another one.
    fn evict_and_accept(connections: &mut Connections, ip: [u8; 4]) -> Option<ConnId> {
        let evicted = connections.unproven_to_evict(MAX);
        if let Some(evicted) = evicted {
            connections.remove(evicted);
        }
        accept(connections, ip);
        evicted
    }

    #[test]
    fn flood_evicts_oldest_of_busiest_address() {
        let mut connections = Connections::default();
        let one = accept(&mut connections, [10, 0, 0, 1]);
        let many: Vec<ConnId> = (1..MAX).map(|_| accept(&mut connections, [10, 0, 0, 2])).collect();
        assert_eq!(evict_and_accept(&mut connections, [10, 0, 0, 3]), Some(many[0]));
        assert_eq!(evict_and_accept(&mut connections, [10, 0, 0, 4]), Some(many[1]));
        assert!(connections.get(one).is_some());
    }

    /// A flood from a new address each closes the connections of unknown ones, and not those of known ones; nor can many connections of
    /// known addresses take all places.
    #[test]
    fn flood_from_many_addresses_spares_known_ones() {
        let mut connections = Connections::default();
        let known = |number: u8| [10, 1, 0, number];
        (0..MAX as u8).for_each(|number| connections.note_proven(known(number).into(), Time::ZERO));
        let unknown = accept(&mut connections, [10, 2, 0, 0]);
        let of_known = [known(0), known(0), known(1)].map(|ip| accept(&mut connections, ip));
        for number in 0..200 {
            evict_and_accept(&mut connections, [10, 3, 0, number]);
        }
        assert!(connections.get(unknown).is_none());
        assert!(of_known.iter().all(|id| connections.get(*id).is_some()));
        for number in 0..MAX as u8 {
            evict_and_accept(&mut connections, known(number));
        }
        let left =
            connections.table.iter().filter(|(_, conn)| conn.remote.ip().to_string().starts_with("10.3."));
        assert!(left.count() as u32 >= MAX / 2 - 1);
    }

    #[test]
    fn proven_sites_full_forget_oldest() {
        let mut sites = ProvenSites::default();
        let site = |number: usize| IpAddr::from((number as u128).to_be_bytes());
        for number in 0..=PROVEN_SITES_MAX {
            sites.note(site(number), Time::from_nanos(number as u64));
            sites.note(site(1), Time::from_nanos(number as u64));
        }
        assert_eq!(sites.last_proven.len(), PROVEN_SITES_MAX);
        assert!(!sites.has(site(0)) && sites.has(site(1)) && sites.has(site(2)));
    }
}
