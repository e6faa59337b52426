//! What a node calls its half of the next session with each peer.
//!
//! Invariant: all handshakes with one peer in which this node proves itself bear the same epoch, unless a session with that
//! peer ended between them; then the later ones bear a higher one. So a handshake that is older than the end of a session
//! with its peer begins nothing, and the end of any other session does not matter to it.

use std::collections::BTreeMap;

use crate::ids::NodeId;

/// The epochs of one start of a node.
///
/// Who is not known yet is told a counter that rises whenever a session ends; which epoch a peer was told is settled when this
/// node first proves itself to it.
#[derive(Debug)]
pub struct Epochs {
    /// Higher than the epoch of every half that has ended.
    next: u64,
    /// What was told before it counts no more where it is not settled.
    floor: u64,
    settled: BTreeMap<NodeId, u64>,
}

impl Default for Epochs {
    fn default() -> Epochs {
        Epochs { next: 1, floor: 1, settled: BTreeMap::new() }
    }
}

impl Epochs {
    /// What to tell in a dialler's hello to whoever answers.
    pub fn of_strangers(&self) -> u64 {
        self.next
    }

    /// What to tell this node.
    pub fn of(&self, node: NodeId) -> u64 {
        self.settled.get(&node).copied().unwrap_or(self.next)
    }

    /// The session with this node has ended, or will be replaced by another.
    pub fn ended(&mut self, node: NodeId) {
        self.next += 1;
        self.settle(node, self.next);
    }

    /// This side is about to prove itself to a node that it told `told`: what counts for that node from now on, which is
    /// that, unless it was settled before.
    pub(crate) fn settle_for(&mut self, node: NodeId, told: u64) -> u64 {
        if told >= self.floor && !self.settled.contains_key(&node) {
            self.settle(node, told);
        }
        self.of(node)
    }

    /// What is settled has a bound. Beyond it all is forgotten, and every handshake that is under way is refused once.
    fn settle(&mut self, node: NodeId, epoch: u64) {
        if self.settled.len() >= SETTLED_MAX {
            self.settled.clear();
            self.next += 1;
            self.floor = self.next;
        }
        self.settled.insert(node, epoch.max(self.floor));
    }
}

/// Peers whose epoch is settled, at a time.
const SETTLED_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(1);
    const OTHER: NodeId = NodeId(2);

    #[test]
    fn only_the_ends_of_its_own_sessions_change_what_a_peer_is_told() {
        let mut epochs = Epochs::default();
        assert_eq!(epochs.settle_for(PEER, 1), 1);
        epochs.ended(OTHER);
        assert_eq!((epochs.of(PEER), epochs.of(OTHER), epochs.of_strangers()), (1, 2, 2));
        epochs.ended(PEER);
        assert_eq!((epochs.of(PEER), epochs.of(OTHER)), (3, 2));
    }

    #[test]
    fn what_is_told_first_and_proven_counts_whatever_others_were_told_meanwhile() {
        let mut epochs = Epochs::default();
        let (first, _) = (epochs.of(PEER), epochs.ended(OTHER));
        let second = epochs.of(PEER);
        assert_ne!(first, second);
        assert_eq!(epochs.settle_for(PEER, first), first);
        assert_eq!(epochs.settle_for(PEER, second), first);
    }

    #[test]
    fn what_was_told_before_all_was_forgotten_counts_no_more() {
        let mut epochs = Epochs::default();
        let told = epochs.of(PEER);
        epochs.settle_for(PEER, told);
        epochs.ended(PEER);
        (10..10 + SETTLED_MAX as u64).for_each(|node| epochs.ended(NodeId(node)));
        assert!(epochs.settled.len() < SETTLED_MAX);
        assert!(epochs.settle_for(PEER, told) > told, "it was told before a session with it ended");
        let (stale, entropy) = (epochs.floor - 1, epochs.next);
        assert_eq!(epochs.settle_for(NodeId(3), stale), entropy, "a stranger, too, is asked to come again");
        assert_eq!(epochs.settle_for(NodeId(3), entropy), entropy);
    }
}
