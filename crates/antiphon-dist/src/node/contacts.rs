//! Calls of `peer` that wait for their answer.
//!
//! Invariant: each is on the agenda, and is answered once: when its node is connected or refuses, when the nodes of its
//! host are gathered, or when its time is over.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use antiphon_sched::{NodeId, RequestId, Time, egress};
use antiphon_wire::Refusal;

use super::dials::Query;
use super::driver::Driver;
use super::peers::Peer;
use super::timers::NodeTimer;
use super::{NodeCore, settle};
use crate::error::PeerError;
use crate::location::{Location, PeerAt, PeerOptions};

/// How long after the last news of a host more nodes are expected there.
const GATHER: Duration = Duration::from_millis(250);
/// How long those are waited for that were found, and are not connected.
const GATHER_MOST: Duration = Duration::from_secs(1);
/// Nodes of one host.
const NODES_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Contacts {
    open: BTreeMap<RequestId, Contact>,
}

#[derive(Debug)]
struct Contact {
    /// Where the node is; of a host, where its nodes are, as far as they are found.
    at: Vec<SocketAddr>,
    /// Where it is asked who is there; empty when the node's own location is known.
    hosts: Vec<SocketAddr>,
    options: PeerOptions,
    until: Time,
    /// When it is on the agenda.
    due: Time,
    /// When something was found last.
    news: Time,
    refused: Option<Refusal>,
}

impl Contact {
    /// Whether something else may come, when so many of its nodes are connected.
    fn waits(&self, connected: usize, now: Time) -> bool {
        let patience = match (connected, self.refused) {
            (0, None) => return true,
            _ if self.hosts.is_empty() => return false,
            _ if connected < self.at.len() && self.refused.is_none() => GATHER_MOST,
            _ => GATHER,
        };
        now.since(self.news) < patience
    }
}

impl NodeCore {
    /// Contacts a peer for an actor: answered now, or by the port.
    pub(crate) fn contact(
        &mut self,
        request_id: RequestId,
        at: PeerAt,
        options: PeerOptions,
        timeout: Duration,
    ) -> Option<Result<Vec<Location>, PeerError>> {
        let (now, until) = (self.now, self.now + timeout);
        let contact = Contact {
            at: Vec::new(),
            hosts: Vec::new(),
            options,
            until,
            due: until,
            news: now,
            refused: None,
        };
        if let PeerAt::Location(location) = at
            && let Some(result) = self.contact_now(location.addr(), options)
        {
            return Some(result);
        }
        self.contacts.open.insert(request_id, contact);
        self.timers.add(until, NodeTimer::Contact(request_id));
        match at {
            PeerAt::Location(location) => self.contact_at(request_id, &[location.addr()]),
            PeerAt::Host(ref host, tcp_port) => {
                let query = self.next_request();
                self.dials.unasked.push((query, host.clone(), tcp_port));
                self.dials.queries.insert(query, Query::Contact(request_id, at));
            }
        }
        None
    }

    /// What is known of a location without asking.
    fn contact_now(
        &mut self,
        at: SocketAddr,
        options: PeerOptions,
    ) -> Option<Result<Vec<Location>, PeerError>> {
        if let Err(reason) = egress::allowed(&at) {
            return Some(Err(reason.into()));
        }
        if self.settings.ignores(at.ip()) {
            return Some(Err(PeerError::Refused(Refusal::Ignored)));
        }
        if self.settings.is_own(at) {
            return Some(Err(PeerError::Refused(Refusal::SelfConnection)));
        }
        if at.port() == 0 || !self.is_connected_to(at) {
            return None;
        }
        if let Some(streams) = options.stream_send {
            self.streams_of(at, streams);
        }
        if self.wakes_at(at) {
            // Whether it is still there shows now.
            return None;
        }
        if options.broadcast {
            self.ask_relay(at);
        }
        Some(Ok(vec![Location::new(at)]))
    }

    /// Dials the addresses at which a node may be; of port 0, asks them who is there.
    fn contact_at(&mut self, request_id: RequestId, all: &[SocketAddr]) {
        let Some(contact) = self.contacts.open.get_mut(&request_id) else { return };
        let (until, udp_port) = (contact.until, contact.options.udp_port.unwrap_or(self.settings.udp_port));
        let (hosts, at): (Vec<SocketAddr>, Vec<SocketAddr>) = all.iter().partition(|at| at.port() == 0);
        contact.at.clone_from(&at);
        contact.hosts = hosts;
        contact.hosts.iter_mut().for_each(|host| host.set_port(udp_port));
        let hosts = contact.hosts.clone();
        hosts.into_iter().for_each(|host| self.ask_host(host, until));
        at.into_iter().for_each(|at| self.dial_once(at, until));
    }

    /// A host that an actor wants to contact was looked up.
    pub(super) fn contact_host(
        &mut self,
        request_id: RequestId,
        at: PeerAt,
        all: Vec<SocketAddr>,
        driver: &mut impl Driver,
    ) {
        let refused = all.iter().find_map(|at| egress::allowed(at).err());
        let allowed: Vec<SocketAddr> = all.into_iter().filter(|at| egress::allowed(at).is_ok()).collect();
        if let Some(reason) = refused.filter(|_| allowed.is_empty()) {
            tracing::debug!(%at, "all its addresses are refused");
            return self.answer_contact(request_id, Err(reason.into()), driver);
        }
        if let Some(there) = allowed.iter().find(|at| at.port() != 0 && self.is_connected_to(**at)) {
            return self.answer_contact(request_id, Ok(vec![Location::new(*there)]), driver);
        }
        self.contact_at(request_id, &allowed);
    }

    /// A host that was asked has a node at this location.
    pub(super) fn found_on_host(&mut self, host: SocketAddr, at: SocketAddr) {
        let now = self.now;
        let mut found = Vec::new();
        for (request_id, contact) in
            self.contacts.open.iter_mut().filter(|(_, contact)| contact.hosts.contains(&host))
        {
            if !contact.at.contains(&at) && contact.at.len() < NODES_MAX {
                contact.at.push(at);
                contact.news = now;
                found.push(*request_id);
            }
        }
        found.into_iter().for_each(|request_id| self.arm_contact(request_id, now + GATHER));
    }

    /// Looks at a contact again then.
    fn arm_contact(&mut self, request_id: RequestId, due: Time) {
        let Some(contact) = self.contacts.open.get_mut(&request_id) else { return };
        self.timers.remove(contact.due, NodeTimer::Contact(request_id));
        contact.due = due.min(contact.until);
        self.timers.add(contact.due, NodeTimer::Contact(request_id));
    }

    /// A dial of a location was refused for a reason that stays.
    pub(super) fn refuse_contacts(&mut self, at: SocketAddr, reason: Refusal) {
        for contact in self.contacts.open.values_mut().filter(|contact| contact.at.contains(&at)) {
            contact.refused = Some(reason);
        }
    }

    /// What became of a location is told in the same tick.
    pub(super) fn hurry_contacts(&mut self, at: SocketAddr) {
        let linked = self.is_connected_to(at);
        let is_over = |contact: &Contact| contact.refused.is_some() || linked;
        let about =
            self.contacts.open.iter().filter(|(_, contact)| contact.at.contains(&at) && is_over(contact));
        let due: Vec<RequestId> = about.map(|(request_id, _)| *request_id).collect();
        due.into_iter().for_each(|request_id| self.arm_contact(request_id, self.now));
    }

    /// A session was proven: calls of `peer` for its locations are answered.
    pub(super) fn answer_contacts(&mut self, node: NodeId, dialled: Option<SocketAddr>) {
        let Some(peer) = self.peers.get(&node) else { return };
        let reached = |at: &SocketAddr| Some(*at) == dialled || peer.is_connected_to(*at);
        let about = self.contacts.open.iter().filter(|(_, contact)| contact.at.iter().any(reached));
        let due: Vec<RequestId> = about.map(|(request_id, _)| *request_id).collect();
        due.into_iter().for_each(|request_id| self.arm_contact(request_id, self.now));
    }

    pub(super) fn on_contact_due(&mut self, request_id: RequestId, driver: &mut impl Driver) {
        let now = self.now;
        let Some(contact) = self.contacts.open.get(&request_id) else { return };
        let mut there: Vec<Location> =
            contact.at.iter().filter_map(|at| self.connected_location(*at)).collect();
        there.sort_unstable();
        there.dedup();
        if now < contact.until && contact.waits(there.len(), now) {
            let again = if contact.at.is_empty() { contact.until } else { now + GATHER };
            return self.arm_contact(request_id, again);
        }
        let result = match contact.refused {
            _ if !there.is_empty() => Ok(there),
            Some(refusal) => Err(PeerError::Refused(refusal)),
            None => Err(PeerError::NoAnswer),
        };
        self.answer_contact(request_id, result, driver);
    }

    /// Where the node is shown that is connected at a location.
    fn connected_location(&self, at: SocketAddr) -> Option<Location> {
        let is_connected =
            |peer: &Peer| peer.peer_session.as_ref().is_some_and(|peer_session| peer_session.conn.is_some());
        self.peers.values().find(|peer| peer.is_connected_to(at) && is_connected(peer))?.location()
    }

    pub(super) fn answer_contact(
        &mut self,
        request_id: RequestId,
        result: Result<Vec<Location>, PeerError>,
        driver: &mut impl Driver,
    ) {
        let Some(contact) = self.contacts.open.remove(&request_id) else { return };
        self.timers.remove(contact.due, NodeTimer::Contact(request_id));
        self.dials.queries.retain(|_, query| !matches!(query, Query::Contact(of, _) if *of == request_id));
        for host in &contact.hosts {
            if !self.contacts.open.values().any(|other| other.hosts.contains(host)) {
                self.forget_host(*host);
            }
        }
        if let Some(streams) = contact.options.stream_send {
            result.iter().flatten().for_each(|at| self.streams_of(at.addr(), streams));
        }
        if let Some(first) = result.iter().flatten().next().filter(|_| contact.options.broadcast) {
            self.ask_relay(first.addr());
        }
        settle(&mut driver.loop_ref(), request_id, result);
    }
}
