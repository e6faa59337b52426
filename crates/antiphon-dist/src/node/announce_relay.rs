//! The announce relay: a peer announces this node on a network that this node's own announcements do not reach.
//!
//! The peer broadcasts the locations of the requesting node, and sends it the locations of the nodes on that network.
//! So either side may dial, whichever direction is open.
//!
//! Invariant: only peers with a session are served, each at most once a second. This node dials only the locations that
//! it requested, one each [`DIAL_INTERVAL`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::time::Duration;

use antiphon_sched::{NodeId, Time};
use antiphon_wire::frame::{AnnounceRelay, NodeAt};
use antiphon_wire::{Datagram, Locations, Presence};

use super::NodeCore;
use super::driver::Driver;
use super::peer::Peer;
use crate::location::seen_from;

/// The shortest time between two requests of one peer that are served.
const SERVE_INTERVAL: Duration = Duration::from_secs(1);
/// Nodes that are listed in response to one request.
const NODES_MAX_A_REQUEST: u32 = 256;
/// How long a request accepts responses.
const REQUEST_LIFETIME: Duration = Duration::from_secs(10);
/// The pause between dials to the nodes that responses list.
const DIAL_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct AnnounceRelays {
    /// The requests of this node.
    requests: BTreeMap<u64, RelayRequest>,
    /// The peers that this node has served within the last second.
    served: BTreeMap<NodeId, Time>,
}

#[derive(Debug)]
struct RelayRequest {
    peer: NodeId,
    until: Time,
    /// Nodes that the peer has listed.
    listed: u32,
}

impl NodeCore {
    /// Asks the peer at a location to announce this node on the peer's network.
    pub(super) fn request_announce_relay(&mut self, at: SocketAddr) {
        // The counter of numbers begins with 1.
        let Some(request) = NonZeroU64::new(self.cx.next_number()) else { return };
        // A member may state the location of another node: the one that was reached there comes first.
        let there = self.peers.at(at).filter(|peer| peer.has_session_at(at));
        let Some(node) = there.max_by_key(|peer| peer.was_reached_at(at)).map(|peer| peer.node) else {
            return;
        };
        let Some(peer_session) = self.peers.get_mut(node).and_then(|peer| peer.peer_session.as_mut()) else {
            return;
        };
        if let Err(reason) = peer_session.session.send(&AnnounceRelay { request }.into()) {
            return tracing::warn!(%at, %reason, "a request to a peer to announce this node was not sent");
        }
        let now = self.cx.now;
        self.announce_relays.requests.retain(|_, open| now < open.until);
        self.announce_relays
            .requests
            .insert(request.get(), RelayRequest { peer: node, until: now + REQUEST_LIFETIME, listed: 0 });
        self.mark_dirty(node);
    }

    /// A peer requests to be announced on this network, and to receive the locations of the nodes on it.
    pub(super) fn on_announce_relay(&mut self, node: NodeId, request: NonZeroU64, driver: &mut impl Driver) {
        let now = self.cx.now;
        self.announce_relays.served.retain(|_, at| now.since(*at) < SERVE_INTERVAL);
        if !self.cx.settings.discover || self.announce_relays.served.contains_key(&node) {
            self.cx.counts.refused_messages += 1;
            return;
        }
        self.announce_relays.served.insert(node, now);
        let Some(requester) = self.peers.get(node) else { return };
        let locations = Locations::Plain(&requester.stated_locations);
        let announced = Datagram::Announce(Presence { node, name: &requester.name, locations });
        self.broadcast(&announced, driver);
        let is_listed = |peer: &Peer| peer.node != node && peer.is_online() && !peer.undiscovered;
        let listed = self.peers.iter().filter(|peer| is_listed(peer));
        let listed = listed.take(NODES_MAX_A_REQUEST as usize);
        let listed: Vec<(NodeId, String, Vec<SocketAddr>)> =
            listed.map(|peer| (peer.node, peer.name.clone(), peer.stated_locations.clone())).collect();
        let Some(peer_session) = self.peers.get_mut(node).and_then(|peer| peer.peer_session.as_mut()) else {
            return;
        };
        for (id, name, locations) in &listed {
            let locations = Locations::Plain(locations);
            let hint = NodeAt { request: request.get(), node: *id, name, locations };
            if let Err(reason) = peer_session.session.send(&hint.into()) {
                return tracing::debug!(%node, %reason, "the list of nodes on this network was not sent completely");
            }
        }
    }

    /// A peer sends the locations of another node. This node records them, and dials if it requested them.
    pub(super) fn on_node_at(&mut self, node: NodeId, hint: &NodeAt<'_>) {
        let other = hint.node;
        let peer_session = self.peers.get(node).and_then(|peer| peer.peer_session.as_ref());
        let conn = peer_session.and_then(|peer_session| peer_session.conn);
        let Some(remote) = conn.and_then(|conn| self.cx.connections.get(conn)).map(|conn| conn.remote) else {
            return;
        };
        let locations = seen_from(hint.locations.iter(), remote);
        let has_session = self.peers.get(other).is_some_and(|peer| peer.peer_session.is_some());
        self.peers.learn(&mut self.cx, node, other, hint.name, locations.iter().copied());
        let now = self.cx.now;
        let request = self.announce_relays.requests.get_mut(&hint.request);
        let Some(request) = request.filter(|request| {
            request.peer == node && now < request.until && request.listed < NODES_MAX_A_REQUEST
        }) else {
            return;
        };
        request.listed += 1;
        let after = DIAL_INTERVAL * (request.listed - 1);
        let allowed = locations.iter().find(|at| self.cx.settings.may_dial(**at));
        // A node behind a gateway lists its own address first and the gateway's last. Only the last is reachable from
        // other networks.
        if let Some(at) = allowed.or(locations.last()).copied()
            && !has_session
            && other != self.cx.me
        {
            self.dial_requested(at, after);
        }
    }
}
