//! The epochs that a node gives to its halves of sessions.
//!
//! Invariant: all handshakes with one peer in which this node proves itself carry the same epoch, unless a session with
//! that peer ended between them. After such an end, handshakes carry a higher epoch. Therefore a handshake that is older
//! than the end of a session with its peer begins no session, and the end of a session with another peer does not affect
//! it.

use std::collections::BTreeMap;

use crate::ids::NodeId;

/// The epochs of one incarnation of a node.
///
/// A peer without a settled epoch is sent the value of a counter, which rises whenever a session ends. The epoch for a
/// peer is settled when this node first proves itself to that peer.
#[derive(Debug)]
pub struct Epochs {
    /// The counter: higher than the epoch of every half that has ended.
    next: u64,
    /// The lowest epoch that can still be settled; older ones were sent before the table was cleared.
    floor: u64,
    settled: BTreeMap<NodeId, u64>,
}

impl Default for Epochs {
    fn default() -> Epochs {
        Epochs { next: 1, floor: 1, settled: BTreeMap::new() }
    }
}

impl Epochs {
    /// The epoch for the hello of a dial to an unknown node.
    pub fn of_strangers(&self) -> u64 {
        self.next
    }

    /// The epoch for a hello to this node.
    pub fn of(&self, node: NodeId) -> u64 {
        self.settled.get(&node).copied().unwrap_or(self.next)
    }

    /// Records that the session with this node has ended, or will be replaced by another.
    pub fn ended(&mut self, node: NodeId) {
        self.next += 1;
        self.settle(node, self.next);
    }

    /// Settles the epoch for a node to which this side is about to prove itself, after it sent `epoch` in its hello.
    /// Returns the settled epoch: `epoch`, unless another one was settled before.
    pub(crate) fn settle_for(&mut self, node: NodeId, epoch: u64) -> u64 {
        if epoch >= self.floor && !self.settled.contains_key(&node) {
            self.settle(node, epoch);
        }
        self.of(node)
    }

    /// The table of settled epochs is bounded. When it is full it is cleared, and every unfinished handshake is refused
    /// once.
    fn settle(&mut self, node: NodeId, epoch: u64) {
        if self.settled.len() >= SETTLED_MAX {
            self.settled.clear();
            self.next += 1;
            self.floor = self.next;
        }
        self.settled.insert(node, epoch.max(self.floor));
    }
}

/// The maximum number of peers with a settled epoch.
const SETTLED_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(1);
    const OTHER: NodeId = NodeId(2);

    #[test]
    fn epoch_changes_only_when_own_session_ends() {
        let mut epochs = Epochs::default();
        assert_eq!(epochs.settle_for(PEER, 1), 1);
        epochs.ended(OTHER);
        assert_eq!((epochs.of(PEER), epochs.of(OTHER), epochs.of_strangers()), (1, 2, 2));
        epochs.ended(PEER);
        assert_eq!((epochs.of(PEER), epochs.of(OTHER)), (3, 2));
    }

    /// The first proven epoch counts, whatever the counter did meanwhile.
    #[test]
    fn epoch_first_proven_stays_settled() {
        let mut epochs = Epochs::default();
        let (first, _) = (epochs.of(PEER), epochs.ended(OTHER));
        let second = epochs.of(PEER);
        assert_ne!(first, second);
        assert_eq!(epochs.settle_for(PEER, first), first);
        assert_eq!(epochs.settle_for(PEER, second), first);
    }

    #[test]
    fn epochs_cleared_table_refuses_older_epochs() {
        let mut epochs = Epochs::default();
        let old = epochs.of(PEER);
        epochs.settle_for(PEER, old);
        epochs.ended(PEER);
        (10..10 + SETTLED_MAX as u64).for_each(|node| epochs.ended(NodeId(node)));
        assert!(epochs.settled.len() < SETTLED_MAX);
        assert!(epochs.settle_for(PEER, old) > old, "a session with the peer ended after this epoch");
        let (stale, current) = (epochs.floor - 1, epochs.next);
        assert_eq!(epochs.settle_for(NodeId(3), stale), current, "an unknown node must also dial again");
        assert_eq!(epochs.settle_for(NodeId(3), current), current);
    }
}
