//! Connections: their buffers and their handshakes.
//!
//! Invariant: an established connection is the only one of its session. An accepted connection that is not proven yet has
//! a deadline of a few seconds; the number of such connections and the memory of each are bounded.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use antiphon_sched::{NodeId, Time, site_of};
use antiphon_wire::{Deframer, Handshake, HandshakeError, ProvenConnection};
use slab::Slab;

use super::context::NodeCx;
use super::driver::ConnId;
use super::timers::{NodeTimer, TimerQueue};
use crate::certificates::Fingerprint;

/// The most nodes with a session that are tried in turn for a location that they state.
pub(super) const GUESSES_MAX: usize = 8;
pub(super) const INDEX_BITS: u32 = 24;
/// The most addresses that are remembered as proven.
pub(super) const PROVEN_SITES_MAX: usize = 1_024;
/// The unproven connections of such an address that count as one.
pub(super) const KNOWN_SITE_SHARE: u32 = 8;

/// The most connections that wait for the answer of the present connection of one node.
pub(super) const CONTENDERS_MAX: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Connections {
    pub(super) table: Slab<Connection>,
    pub(super) generation: u64,
    /// The accepted connections that are not proven, the oldest first. Some may be proven or closed by now.
    pub(super) unproven: Vec<ConnId>,
    pub(super) proven_sites: ProvenSites,
    /// The connections whose handshakes wait for the answer of the present connection of the same node: each would end its session.
    pub(super) contenders: BTreeMap<NodeId, Vec<ConnId>>,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: ConnId,
    pub(super) state: ConnectionState,
    pub(super) deframer: Deframer,
    pub(super) out: Vec<u8>,
    /// The number of bytes of `out` that are written.
    pub(super) written: usize,
    /// The address of the other end.
    pub(super) remote: SocketAddr,
    /// The location that this side dialled. `None` if it accepted the connection.
    pub(super) dialled: Option<SocketAddr>,
    /// The certificate that the other end presented, if the connection uses TLS.
    pub(super) certificate: Option<Fingerprint>,
    pub(super) opened_at: Time,
    /// When the credentials were replaced with which it was opened.
    pub(super) outdated_since: Option<Time>,
    /// It would end the session of the same node, which was therefore asked whether it is still there.
    pub(super) contention: Option<Contention>,
    /// The time of the `Connection` timer, which closes the connection unless it is established, or has written its last
    /// bytes, by then.
    pub(super) deadline: Option<Time>,
    /// No bytes have arrived since the last call of `release_buffers`.
    pub(super) is_idle: bool,
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
    pub(super) fn add_contender(&mut self, node: NodeId, id: ConnId) -> bool {
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
    pub(super) fn unproven_to_evict(&mut self, unproven_max: u32) -> Option<ConnId> {
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
pub(super) enum UnprovenClass {
    /// A connection from this address was proven before.
    KnownSite,
    /// Its hello has arrived.
    Introduced,
    Silent,
}

impl UnprovenClass {
    /// The class of which one is closed: known addresses have half of all places, introduced connections half of the rest.
    pub(super) fn with_surplus(all: impl Iterator<Item = UnprovenClass> + Clone) -> UnprovenClass {
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
pub(super) struct ProvenSites {
    pub(super) last_proven: BTreeMap<IpAddr, Time>,
}

impl ProvenSites {
    pub(super) fn note(&mut self, site: IpAddr, now: Time) {
        let is_new = self.last_proven.insert(site, now).is_none();
        if is_new && self.last_proven.len() > PROVEN_SITES_MAX {
            let oldest = self.last_proven.iter().min_by_key(|(_, at)| **at).map(|(site, _)| *site);
            oldest.and_then(|site| self.last_proven.remove(&site));
        }
    }

    pub(super) fn has(&self, site: IpAddr) -> bool {
        self.last_proven.contains_key(&site)
    }
}

impl Connection {
    pub(super) fn unproven_class(&self) -> UnprovenClass {
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
    pub(super) fn log_closed_before_proof(&mut self, remote: SocketAddr, reason: &str) {
        if self.may_log("no proof", format_args!("{} {reason}", remote.ip())) {
            tracing::warn!(%remote, reason, "a connection was closed before its proof (logged at most once an hour)");
        }
    }

    pub(super) fn log_refusal(&mut self, remote: SocketAddr, error: &HandshakeError) {
        if self.may_log("no connection", format_args!("{} {error}", remote.ip())) {
            tracing::warn!(%remote, reason = %error, "a handshake failed (logged at most once an hour)");
        }
    }
}

/// A connection that would end a session waits for the answer to a ping.
#[derive(Copy, Clone, Debug)]
pub(super) struct Contention {
    pub(super) since: Time,
    /// The session had been closed while idle, and is opened again.
    pub(super) reopens: bool,
}

/// Whether a connection may end a session that has another one.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Contest {
    /// There is no such session, or its connection does not answer.
    Won,
    /// Its connection answers.
    Lost,
    /// Its connection was asked.
    Undecided,
}

pub(super) enum HandshakeProgress {
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
