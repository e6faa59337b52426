//! The epochs that a node gives to its halves of sessions.
//!
//! Invariant: all handshakes with one peer in which this node proves itself carry the same epoch, unless a session with
//! that peer ended between them, or a refusal of that peer raised the epoch. Afterwards handshakes carry a higher epoch. Therefore a handshake that is older
//! than the end of a session with its peer begins no session, and the end of a session with another peer does not affect
//! it. The epoch for a peer never falls.

use std::collections::BTreeMap;

use crate::ids::NodeId;
#[cfg(test)]
use crate::limits::EPOCH_MAX;

/// How far above the known epoch of a node the next one may be.
pub(crate) const EPOCH_STEP_MAX: u64 = 1 << 32;
/// The highest epoch that is taken from a refusal, which is not authenticated. It leaves half of all epochs to the counter, which rises
/// by one for each session that ends.
const REFUSAL_EPOCH_MAX: u64 = 1 << 62;

/// The epochs of one incarnation of a node.
///
/// A peer without a settled epoch is sent the value of a counter, which rises whenever a session ends. The epoch for a
/// peer is settled when this node first proves itself to that peer.
#[derive(Debug)]
pub struct Epochs {
    /// The counter: higher than the epoch of every half that has ended with a node without a settled epoch.
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
    pub fn of_unknown_node(&self) -> u64 {
        self.next
    }

    /// The epoch for a hello to this node.
    pub fn of(&self, node: NodeId) -> u64 {
        self.settled.get(&node).copied().unwrap_or(self.next)
    }

    /// Records that the session with this node has ended, or will be replaced by another.
    pub fn ended(&mut self, node: NodeId) {
        let last = self.of(node);
        self.next += 1;
        self.settle(node, self.next.max(last + 1));
    }

    /// A refusal of this node states the epoch that it knows of this side. The next epoch for it is higher, unless the stated one
    /// is over a bound: a refusal is not authenticated. Returns whether the epoch was raised. The epochs for other nodes stay.
    pub fn raise(&mut self, node: NodeId, known: u64) -> bool {
        let is_raised = known >= self.of(node) && known <= REFUSAL_EPOCH_MAX;
        if is_raised {
            self.settle(node, known + 1);
        }
        is_raised
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
            let highest = self.settled.values().copied().max().unwrap_or(0);
            self.settled.clear();
            self.next = self.next.max(highest) + 1;
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
        assert_eq!((epochs.of(PEER), epochs.of(OTHER), epochs.of_unknown_node()), (1, 2, 2));
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

    /// A refusal raises the epoch for its node alone, within its bound, and never lowers it.
    #[test]
    fn epoch_rises_above_that_of_refusal() {
        let mut epochs = Epochs::default();
        assert!(epochs.raise(PEER, 7));
        assert_eq!((epochs.of(PEER), epochs.of(OTHER), epochs.of_unknown_node()), (8, 1, 1));
        assert!(!epochs.raise(PEER, 7) && !epochs.raise(PEER, 3));
        assert!(!epochs.raise(PEER, u64::MAX) && !epochs.raise(PEER, REFUSAL_EPOCH_MAX + 1));
        assert_eq!(epochs.of(PEER), 8);
        epochs.ended(PEER);
        assert_eq!((epochs.of(PEER), epochs.of(OTHER)), (9, 2));
        // However often a refusal is forged, the epoch stays below the highest one.
        assert!(epochs.raise(PEER, REFUSAL_EPOCH_MAX));
        (0..1_000).for_each(|_| epochs.ended(PEER));
        assert!(!epochs.raise(PEER, epochs.of(PEER)));
        assert!(epochs.of(PEER) < EPOCH_MAX / 2 + 2_000);
    }

    #[test]
    fn epochs_cleared_table_stays_above_raised() {
        let mut epochs = Epochs::default();
        assert!(epochs.raise(PEER, 1 << 40));
        (10..10 + SETTLED_MAX as u64).for_each(|node| epochs.ended(NodeId(node)));
        assert!(epochs.settled.len() < SETTLED_MAX);
        assert!(epochs.of(PEER) > 1 << 40, "{}", epochs.of(PEER));
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
