//! The known nodes by their locations, so that no dial and no handshake walks the table of all.
//!
//! Invariant: a node is listed at the locations at which it is shown, may be dialled, or was reached.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use antiphon_sched::NodeId;

use crate::node::peer::Peer;

#[derive(Debug, Default)]
pub(in crate::node) struct LocationIndex {
    by_location: BTreeMap<SocketAddr, BTreeSet<NodeId>>,
}

impl LocationIndex {
    /// Lists a node at its locations. The caller removes it with the same locations before it changes them.
    pub(in crate::node) fn add(&mut self, node: NodeId, peer: &Peer) {
        for at in peer.all_locations() {
            self.by_location.entry(at).or_default().insert(node);
        }
    }

    pub(in crate::node) fn remove(&mut self, node: NodeId, peer: &Peer) {
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
    pub(in crate::node) fn at(&self, at: SocketAddr) -> impl Iterator<Item = NodeId> {
        self.by_location.get(&at).into_iter().flatten().copied()
    }

    /// The nodes at any of these locations, each once.
    pub(in crate::node) fn at_any(&self, all: impl Iterator<Item = SocketAddr>) -> BTreeSet<NodeId> {
        all.flat_map(|at| self.at(at)).collect()
    }

    pub(in crate::node) fn check(&self, peers: &BTreeMap<NodeId, Peer>) {
        for (node, peer) in peers {
            for at in peer.all_locations() {
                let is_listed = self.by_location.get(&at).is_some_and(|nodes| nodes.contains(node));
                assert!(is_listed, "{node} is not listed at {at}");
            }
        }
        for (at, nodes) in &self.by_location {
            assert!(!nodes.is_empty(), "nothing is listed at {at}");
            for node in nodes {
                let is_there =
                    peers.get(node).is_some_and(|peer| peer.all_locations().any(|of_peer| of_peer == *at));
                assert!(is_there, "{node} is still listed at {at}");
            }
        }
    }
}
