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

use crate::node::context::NodeCx;
use crate::node::driver::Driver;
use crate::node::peer::Peer;
use crate::node::peers::Peers;

/// The shortest time between two requests of one peer that are served.
const SERVE_INTERVAL: Duration = Duration::from_secs(1);
/// Nodes that are listed in response to one request.
const NODES_MAX_A_REQUEST: u32 = 256;
/// How long a request accepts responses.
const REQUEST_LIFETIME: Duration = Duration::from_secs(10);
/// The pause between dials to the nodes that responses list.
const DIAL_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(in crate::node) struct AnnounceRelays {
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

impl AnnounceRelays {
    /// Asks the peer at a location to announce this node on the peer's network.
    pub(in crate::node) fn request_announce_relay(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        at: SocketAddr,
    ) {
        // The counter of numbers begins with 1.
        let Some(request) = NonZeroU64::new(cx.next_number()) else { return };
        // A member may state the location of another node: the one that was reached there comes first.
        let there = peers.at(at).filter(|peer| peer.has_session_at(at));
        let Some(node) = there.max_by_key(|peer| peer.was_reached_at(at)).map(|peer| peer.node) else {
            return;
        };
        let Some(peer_session) = peers.session_mut(node) else {
            return;
        };
        if let Err(reason) = peer_session.session.send(&AnnounceRelay { request }.into()) {
            return tracing::warn!(%at, %reason, "a request to a peer to announce this node was not sent");
        }
        let now = cx.now;
        self.requests.retain(|_, open| now < open.until);
        self.requests
            .insert(request.get(), RelayRequest { peer: node, until: now + REQUEST_LIFETIME, listed: 0 });
        if let Some(peer) = peers.get_mut(node) {
            peer.mark_dirty(cx);
        }
    }

    /// A peer requests to be announced on this network, and to receive the locations of the nodes on it.
    pub(in crate::node) fn on_announce_relay(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        node: NodeId,
        request: NonZeroU64,
        driver: &mut impl Driver,
    ) {
        let now = cx.now;
        self.served.retain(|_, at| now.since(*at) < SERVE_INTERVAL);
        if !cx.settings.discover || self.served.contains_key(&node) {
            cx.counts.refused_messages += 1;
            return;
        }
        self.served.insert(node, now);
        let Some(requester) = peers.get(node) else { return };
        let locations = Locations::Plain(&requester.stated_locations);
        let announced = Datagram::Announce(Presence { node, name: &requester.name, locations });
        cx.broadcast(&announced, driver);
        let is_listed = |peer: &Peer| peer.node != node && peer.is_online() && !peer.undiscovered;
        let listed = peers.iter().filter(|peer| is_listed(peer));
        let listed = listed.take(NODES_MAX_A_REQUEST as usize);
        let listed: Vec<(NodeId, String, Vec<SocketAddr>)> =
            listed.map(|peer| (peer.node, peer.name.clone(), peer.stated_locations.clone())).collect();
        let Some(peer_session) = peers.session_mut(node) else {
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

    /// A peer has listed a node for a request of this node. Returns after which pause to dial it, if that is still wanted.
    pub(in crate::node) fn note_listed(
        &mut self,
        cx: &NodeCx,
        node: NodeId,
        request: u64,
    ) -> Option<Duration> {
        let request = self.requests.get_mut(&request).filter(|request| {
            request.peer == node && cx.now < request.until && request.listed < NODES_MAX_A_REQUEST
        })?;
        request.listed += 1;
        Some(DIAL_INTERVAL * (request.listed - 1))
    }
}
