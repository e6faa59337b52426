//! Being announced in a network that this node's own announcements do not reach, by a peer that is there.
//!
//! The peer broadcasts where the asker is, and tells the asker who is there; so either may dial, whichever way is open.
//!
//! Invariant: only a peer in session is served, once a second; only what was asked for is dialled, a few a second.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use antiphon_sched::{NodeId, Time};
use antiphon_wire::frame::{AnnounceRelay, NodeAt};
use antiphon_wire::{Datagram, Locations, Presence};

use super::driver::Driver;
use super::peer_session::PeerSession;
use super::peers::Peer;
use super::{NodeCore, sched_node, wire_node};
use crate::location::seen_from;

/// How soon the same peer may ask again.
const SERVED_EVERY: Duration = Duration::from_secs(1);
/// Peers that one answer tells of.
const TOLD_MAX: u32 = 256;
/// How long answers are heeded, and the pause between dials to those that they tell of.
const HEEDED_FOR: Duration = Duration::from_secs(10);
const DIAL_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct AnnounceRelays {
    /// What this node has asked, by request.
    asked: BTreeMap<u64, RelayRequest>,
    /// Whom it has served within the last second.
    served: BTreeMap<NodeId, Time>,
}

#[derive(Debug)]
struct RelayRequest {
    of: NodeId,
    until: Time,
    told: u32,
}

impl NodeCore {
    /// Asks the peer at a location to announce this node where it is.
    pub(super) fn ask_announce_relay(&mut self, at: SocketAddr) {
        let request = self.next_request();
        let Some((node, peer)) = self.peers.iter_mut().find(|(_, peer)| peer.is_connected_to(at)) else {
            return;
        };
        let (node, Some(peer_session)) = (*node, peer.peer_session.as_mut()) else { return };
        if let Err(reason) = peer_session.session.send(&AnnounceRelay { request }.into()) {
            return tracing::warn!(%at, %reason, "a peer cannot be asked to announce this node");
        }
        let now = self.now;
        self.announce_relays.asked.retain(|_, asked| now < asked.until);
        self.announce_relays
            .asked
            .insert(request, RelayRequest { of: node, until: now + HEEDED_FOR, told: 0 });
        self.mark_dirty(node);
    }

    /// A peer asks to be announced here, and to be told who is here.
    pub(super) fn on_announce_relay(
        &mut self,
        node: NodeId,
        peer_session: &mut PeerSession,
        request: u64,
        driver: &mut impl Driver,
    ) {
        let now = self.now;
        self.announce_relays.served.retain(|_, at| now.since(*at) < SERVED_EVERY);
        if !self.settings.discover || request == 0 || self.announce_relays.served.contains_key(&node) {
            self.counts.refused_messages += 1;
            return;
        }
        self.announce_relays.served.insert(node, now);
        let Some(asker) = self.peers.get(&node) else { return };
        let locations = Locations::Plain(&asker.said);
        let announced = Datagram::Announce(Presence { node: wire_node(node), name: &asker.name, locations });
        self.broadcast(&announced, driver);
        let is_told = |id: NodeId, peer: &Peer| id != node && peer.is_online() && !peer.undiscovered;
        let told = self.peers.iter().filter(|(id, peer)| is_told(**id, peer));
        for (id, peer) in told.take(TOLD_MAX as usize) {
            let locations = Locations::Plain(&peer.said);
            let hint = NodeAt { request, node: wire_node(*id), name: &peer.name, locations };
            if let Err(reason) = peer_session.session.send(&hint.into()) {
                return tracing::debug!(%node, %reason, "a peer is not told of all peers here");
            }
        }
    }

    /// A peer tells where another node is: remembered, and dialled if it was asked.
    pub(super) fn on_node_at(&mut self, node: NodeId, peer_session: &PeerSession, hint: &NodeAt<'_>) {
        let other = sched_node(hint.node);
        let Some(remote) =
            peer_session.conn.and_then(|conn| self.connections.get(conn)).map(|conn| conn.remote)
        else {
            return;
        };
        let locations = seen_from(hint.locations.iter(), remote);
        let is_linked = self.peers.get(&other).is_some_and(|peer| peer.peer_session.is_some());
        self.learn(other, hint.name, locations.iter().copied());
        let now = self.now;
        let asked = self.announce_relays.asked.get_mut(&hint.request);
        let Some(asked) =
            asked.filter(|asked| asked.of == node && now < asked.until && asked.told < TOLD_MAX)
        else {
            return;
        };
        asked.told += 1;
        let after = DIAL_EVERY * (asked.told - 1);
        let near = locations.iter().find(|at| self.settings.may_dial(**at));
        // Of an own address and that of a gateway, the last is meant for those outside.
        if let Some(at) = near.or(locations.last()).copied()
            && !is_linked
            && other != self.me
        {
            self.dial_told(at, after);
        }
    }
}
