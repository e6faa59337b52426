//! The epochs that a node gives to its halves of sessions.
//!
//! Invariant: all handshakes with one peer in which this node proves itself carry the same epoch, unless a session with
//! that peer ended between them, or a refusal of that peer raised the epoch. Afterwards handshakes carry a higher epoch. Therefore a handshake that is older
//! than the end of a session with its peer begins no session, and the end of a session with another peer does not affect
//! it. The epoch for a peer never falls.

use std::collections::{BTreeMap, VecDeque};

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
    settled: BTreeMap<NodeId, SettledEpoch>,
    /// The nodes that were forgotten last, with their epochs: those stay settled until handshakes from before are over.
    forgotten: VecDeque<(NodeId, u64)>,
    /// The nodes whose epochs refusals have raised last. Only such an epoch can be above `next`.
    raised: VecDeque<NodeId>,
}

#[derive(Copy, Clone, Debug)]
struct SettledEpoch {
    epoch: u64,
    /// The node was forgotten, and this side has not proven itself to it since.
    is_forgotten: bool,
}

impl Default for Epochs {
    fn default() -> Epochs {
        Epochs {
            next: 1,
            floor: 1,
            settled: BTreeMap::new(),
            forgotten: VecDeque::new(),
            raised: VecDeque::new(),
        }
    }
}

impl Epochs {
    /// The epoch for the hello of a dial to an unknown node.
    pub fn of_unknown_node(&self) -> u64 {
        self.next
    }

    /// The epoch for a hello to this node.
    pub fn of(&self, node: NodeId) -> u64 {
        self.settled.get(&node).map_or(self.next, |settled| settled.epoch)
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
            self.raised.retain(|raised| *raised != node);
            self.raised.push_back(node);
        }
        if self.raised.len() > RAISED_MAX
            && let Some(oldest) = self.raised.pop_front()
        {
            // Otherwise a session with it has ended since.
            if self.of(oldest) > self.next {
                self.settled.remove(&oldest);
            }
        }
        is_raised
    }

    /// Nothing refers to this node any more, which has no session. Its epoch is removed when 1,024 more nodes are
    /// forgotten. Then handshakes with an older epoch are refused once: one of them could be older than the end of a session
    /// with this node.
    pub fn forget(&mut self, node: NodeId) {
        let next = self.next;
        let settled = self.settled.get_mut(&node);
        // One that a refusal has raised is removed after others that are raised.
        let Some(settled) = settled.filter(|settled| settled.epoch <= next) else { return };
        settled.is_forgotten = true;
        self.forgotten.push_back((node, settled.epoch));
        if self.forgotten.len() > FORGOTTEN_MAX
            && let Some((node, epoch)) = self.forgotten.pop_front()
            && self.settled.get(&node).is_some_and(|settled| settled.is_forgotten && settled.epoch == epoch)
        {
            self.settled.remove(&node);
            self.floor = self.floor.max(epoch);
        }
    }

    /// Settles the epoch for a node to which this side is about to prove itself, after it sent `epoch` in its hello.
    /// Returns the settled epoch: `epoch`, unless another one was settled before.
    pub(crate) fn settle_for(&mut self, node: NodeId, epoch: u64) -> u64 {
        match self.settled.get_mut(&node) {
            Some(settled) => settled.is_forgotten = false,
            None if epoch >= self.floor => self.settle(node, epoch),
            None => {}
        }
        self.of(node)
    }

    /// The table of settled epochs is bounded. When it is full it is cleared but for raised epochs, and every unfinished
    /// handshake is refused once.
    fn settle(&mut self, node: NodeId, epoch: u64) {
        if self.settled.len() >= SETTLED_MAX {
            let next = self.next;
            self.settled.retain(|_, settled| settled.epoch > next);
            self.forgotten.clear();
            self.next += 1;
            self.floor = self.next;
        }
        self.settled.insert(node, SettledEpoch { epoch: epoch.max(self.floor), is_forgotten: false });
    }
}

/// The maximum number of peers with a settled epoch.
const SETTLED_MAX: usize = 65_536;
/// The number of nodes whose epochs stay raised.
const RAISED_MAX: usize = 256;
/// The number of forgotten nodes whose epochs stay settled.
const FORGOTTEN_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId::from_bits(1);
    const OTHER: NodeId = NodeId::from_bits(2);

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

    /// Forged refusals, each of which names another node, raise no epoch but that of the node. They fill no table.
    #[test]
    fn forged_refusals_change_no_other_epoch() {
        let mut epochs = Epochs::default();
        epochs.ended(OTHER);
        for node in 10..200_000 {
            epochs.raise(NodeId::from_bits(node), REFUSAL_EPOCH_MAX);
            epochs.forget(NodeId::from_bits(node));
        }
        assert!(epochs.settled.len() <= RAISED_MAX + 1);
        assert_eq!((epochs.of(OTHER), epochs.of_unknown_node(), epochs.floor), (2, 2, 1));
    }

    #[test]
    fn epochs_cleared_table_stays_above_raised() {
        let mut epochs = Epochs::default();
        assert!(epochs.raise(PEER, 1 << 40));
        (10..10 + SETTLED_MAX as u64).for_each(|node| epochs.ended(NodeId::from_bits(node)));
        assert!(epochs.settled.len() < SETTLED_MAX);
        assert!(epochs.of(PEER) > 1 << 40, "{}", epochs.of(PEER));
    }

    /// The table does not grow by nodes that are forgotten, and no handshake from before the end of a session begins another.
    #[test]
    fn epochs_of_forgotten_nodes_are_removed() {
        let mut epochs = Epochs::default();
        let old = epochs.of(PEER);
        epochs.settle_for(PEER, old);
        epochs.settle_for(OTHER, old);
        epochs.ended(PEER);
        let ended = epochs.of(PEER);
        epochs.forget(PEER);
        assert_eq!(epochs.of(PEER), ended, "its handshakes may be under way");
        for node in 10..10 + 2 * FORGOTTEN_MAX as u64 {
            epochs.ended(NodeId::from_bits(node));
            epochs.forget(NodeId::from_bits(node));
        }
        assert_eq!(epochs.settled.len(), FORGOTTEN_MAX + 1);
        assert!(epochs.settle_for(PEER, old) > old, "a session with the peer ended after this epoch");
        assert_eq!(epochs.of(OTHER), old, "a node that is not forgotten keeps its epoch");
    }

    /// A node that has proven itself after it was forgotten keeps its epoch.
    #[test]
    fn epoch_proven_after_forgetting_stays_settled() {
        let mut epochs = Epochs::default();
        epochs.ended(PEER);
        epochs.forget(PEER);
        let epoch = epochs.of(PEER);
        epochs.settle_for(PEER, epoch);
        for node in 10..10 + 2 * FORGOTTEN_MAX as u64 {
            epochs.ended(NodeId::from_bits(node));
            epochs.forget(NodeId::from_bits(node));
        }
        assert_eq!(epochs.of(PEER), epoch);
    }

    #[test]
    fn epochs_cleared_table_refuses_older_epochs() {
        let mut epochs = Epochs::default();
        let old = epochs.of(PEER);
        epochs.settle_for(PEER, old);
        epochs.ended(PEER);
        (10..10 + SETTLED_MAX as u64).for_each(|node| epochs.ended(NodeId::from_bits(node)));
        assert!(epochs.settled.len() < SETTLED_MAX);
        assert!(epochs.settle_for(PEER, old) > old, "a session with the peer ended after this epoch");
        let (stale, current) = (epochs.floor - 1, epochs.next);
        assert_eq!(
            epochs.settle_for(NodeId::from_bits(3), stale),
            current,
            "an unknown node must also dial again"
        );
        assert_eq!(epochs.settle_for(NodeId::from_bits(3), current), current);
    }
}
