//! The known nodes by their locations, so that no dial and no handshake walks the table of all.
//!
//! Invariant: a node is listed at the locations at which it is shown, may be dialled, or was reached.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use antiphon_sched::NodeId;

use super::NodeCore;
use super::peers::Peer;

#[derive(Debug, Default)]
pub(super) struct LocationIndex {
    by_location: BTreeMap<SocketAddr, BTreeSet<NodeId>>,
}

impl LocationIndex {
    /// Lists a node at its locations. The caller removes it with the same locations before it changes them.
    pub(super) fn add(&mut self, node: NodeId, peer: &Peer) {
        for at in peer.all_locations() {
            self.by_location.entry(at).or_default().insert(node);
        }
    }

    pub(super) fn remove(&mut self, node: NodeId, peer: &Peer) {
        for at in peer.all_locations() {
            if let Some(nodes) = self.by_location.get_mut(&at) {
                nodes.remove(&node);
                if nodes.is_empty() {
                    self.by_location.remove(&at);
                }
            }
        }
    }

    /// The nodes at a location.
    pub(super) fn at(&self, at: SocketAddr) -> impl Iterator<Item = NodeId> {
        self.by_location.get(&at).into_iter().flatten().copied()
    }

    /// The nodes at any of these locations, each once.
    pub(super) fn at_any(&self, all: impl Iterator<Item = SocketAddr>) -> BTreeSet<NodeId> {
        all.flat_map(|at| self.at(at)).collect()
    }

    pub(super) fn check(&self, peers: &BTreeMap<NodeId, Peer>) {
        let mut expected = Self::default();
        peers.iter().for_each(|(node, peer)| expected.add(*node, peer));
        assert_eq!(self.by_location, expected.by_location, "the index has the locations of all known nodes");
    }
}

impl NodeCore {
    /// The known nodes at a location.
    pub(super) fn peers_at(&self, at: SocketAddr) -> impl Iterator<Item = (NodeId, &Peer)> {
        self.locations.at(at).filter_map(|node| Some((node, self.peers.get(&node)?)))
    }
}
