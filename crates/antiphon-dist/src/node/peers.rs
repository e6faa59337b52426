//! Whom this node knows, and where each can be found.
//!
//! Invariant: the table holds [`PEERS_MAX`] nodes at most; one on which nothing is open makes room for another.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use antiphon_sched::{Budget, NodeId, Origin};
use antiphon_wire::Route;

use super::monitors::Monitors;
use super::outbound::WaitingOutbound;
use super::peer_session::PeerSession;
use super::{NodeCore, sched_node};
use crate::certificates::Fingerprint;
use crate::error::Status;
use crate::location::Location;

/// What is known of another node.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) name: String,
    /// Where it may be dialled.
    pub(super) locations: Vec<SocketAddr>,
    /// Where it says that it is, best first: to show, and not to be dialled for that alone.
    pub(super) told: Option<SocketAddr>,
    /// All that it says of that, for others; not to be told where it takes no part in discovery.
    pub(super) said: Vec<SocketAddr>,
    pub(super) undiscovered: bool,
    /// What it has presented, where there is TLS; of no meaning while the node was never reached.
    pub(super) certificate: Option<Fingerprint>,
    /// The address that its last connection came from, or went to.
    pub(super) remote: Option<IpAddr>,
    /// Where what it sends comes from, with its open requests.
    pub(super) origin: Option<Origin>,
    /// Of its messages and values, what waits in mailboxes here.
    pub(super) mailbox_budget: Option<Budget>,
    /// Receivers that it has put into channels here: each holds one more.
    pub(super) subscriptions: Arc<()>,
    /// `None` while the node was never reached.
    pub(super) status: Option<Status>,
    pub(super) peer_session: Option<Box<PeerSession>>,
    /// What is to be sent when there is a session.
    pub(super) waiting: WaitingOutbound,
    /// Another incarnation answers at its location: it will never come back.
    pub(super) gone: bool,
    /// Whether its connection is kept while nothing needs it; `None`: as this node keeps all.
    pub(super) streams: Option<bool>,
    /// One of the two has ended their session, and neither has contacted the other since.
    pub(super) apart: bool,
    pub(super) monitors: Monitors,
}

impl Peer {
    pub(super) fn new(node: NodeId, name: &str, locations: Vec<SocketAddr>) -> Self {
        Self {
            name: name.to_owned(),
            told: locations.first().copied(),
            said: locations.clone(),
            undiscovered: false,
            locations,
            certificate: None,
            remote: None,
            origin: None,
            mailbox_budget: None,
            subscriptions: Arc::new(()),
            status: None,
            peer_session: None,
            waiting: WaitingOutbound::default(),
            gone: false,
            streams: None,
            apart: false,
            monitors: Monitors::new(node),
        }
    }

    pub(super) fn location(&self) -> Option<Location> {
        self.told.map(Location::new)
    }

    pub(super) fn is_online(&self) -> bool {
        matches!(self.status, Some(Status::Online | Status::Suspect))
    }

    /// Whether the node says that it is at this location, or may be dialled there.
    pub(super) fn is_at(&self, at: SocketAddr) -> bool {
        self.told == Some(at) || self.locations.contains(&at)
    }

    /// Whether there is a session, and the node is at this location.
    pub(super) fn is_connected_to(&self, at: SocketAddr) -> bool {
        let peer_session = self.peer_session.as_ref();
        peer_session.is_some_and(|peer_session| peer_session.dialled == Some(at) || self.is_at(at))
    }

    pub(super) fn monitors_len(&self) -> usize {
        self.monitors.len()
    }

    /// Whether no monitor crosses to this node, or back, and nothing waits for it.
    pub(super) fn has_nothing_open(&self) -> bool {
        self.monitors_len() == 0 && self.waiting.is_empty()
    }

    pub(super) fn backlog_bytes(&self) -> u64 {
        self.peer_session.as_ref().map_or(0, |peer_session| peer_session.backlog.bytes())
    }

    pub(super) fn check(&self) {
        self.waiting.check();
        self.monitors.check();
        if let Some(peer_session) = &self.peer_session {
            peer_session.session.check();
            peer_session.backlog.check();
            let waits = !self.waiting.is_empty();
            assert!(
                !waits || peer_session.disconnect.is_some(),
                "nothing waits for a session that is there and goes on"
            );
            assert_eq!(
                peer_session.conn.is_some(),
                peer_session.session.is_connected(),
                "a session knows its connection"
            );
            assert!(
                !peer_session.idle.rests() || peer_session.conn.is_none(),
                "a session at rest has no connection"
            );
        }
    }
}

impl NodeCore {
    /// Whom a peer belongs to: whoever has its certificate, or without TLS its address. Empty for this node.
    pub(crate) fn party_of(&self, node: Option<NodeId>) -> String {
        let Some(node) = node else { return String::new() };
        let unknown = || node.to_string();
        let Some(peer) = self.peers.get(&node) else { return unknown() };
        let address = || peer.remote.map(|ip| ip.to_string());
        peer.certificate.map(|certificate| certificate.to_string()).or_else(address).unwrap_or_else(unknown)
    }

    /// Where a node can be dialled, as far as this one knows; also where this one may not, for those who may.
    pub(super) fn locations_of(&self, node: NodeId) -> Vec<SocketAddr> {
        if node == self.me {
            return self.settings.profile.locations.clone();
        }
        self.peers.get(&node).map(|peer| peer.said.clone()).unwrap_or_default()
    }

    /// A peer tells where nodes are that its message names.
    pub(super) fn learn_route(&mut self, route: Route<'_>) {
        for (node, locations) in route.iter() {
            self.learn(sched_node(node), "", locations.iter());
        }
    }

    /// Remembers a node that others told of, so that it can be dialled when somebody sends to it.
    pub(super) fn learn(&mut self, node: NodeId, name: &str, locations: impl Iterator<Item = SocketAddr>) {
        if node == self.me || self.peers.contains_key(&node) {
            return;
        }
        // Hearsay takes a free place; nobody makes room for it.
        if self.peers.len() >= PEERS_MAX {
            return;
        }
        let locations: Vec<SocketAddr> = locations.filter(|at| self.settings.may_dial(*at)).collect();
        if !locations.is_empty() {
            self.peers.insert(node, Peer::new(node, name, locations));
        }
    }

    /// Whether there is a place for this node; if need be, a peer on which nothing is open makes room.
    pub(super) fn has_place_for(&mut self, node: NodeId) -> bool {
        if self.peers.contains_key(&node) || self.peers.len() < PEERS_MAX {
            return true;
        }
        // One that is there may be in the hands of whoever asks, and its link with it.
        let idle = |peer: &Peer| peer.peer_session.is_none() && peer.waiting.is_empty() && !peer.is_online();
        let gone = self.peers.iter().find(|(_, peer)| peer.gone && idle(peer));
        let some = gone.or_else(|| self.peers.iter().find(|(_, peer)| idle(peer))).map(|(node, _)| *node);
        some.is_some_and(|some| self.peers.remove(&some).is_some())
    }

    /// Names of nodes are for people: two of one name both stay.
    pub(super) fn warn_of_twins(&mut self, node: NodeId) {
        let Some(peer) = self.peers.get(&node) else { return };
        let name = peer.name.clone();
        let here = (self.settings.name == peer.name).then_some(self.settings.location);
        let others = self.peers.iter().filter(|(id, _)| **id != node).map(|(_, other)| other);
        let mut twins = others.filter(|other| other.is_online() && other.name == peer.name);
        let twin = here.or_else(|| twins.find_map(Peer::location));
        if let (Some(one), Some(other)) = (twin, peer.location())
            && self.may_log("twins", format_args!("{name} {other}"))
        {
            tracing::warn!(name, %one, %other, "two nodes have one name; both stay");
        }
    }
}

/// Peers that a node remembers.
pub(super) const PEERS_MAX: usize = 16_384;
