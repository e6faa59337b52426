//! How many copies of a topic's messages may wait in the queues to other nodes.
//!
//! These queues are bounded by their bytes, which are millions of small messages. A topic would be busy for seconds until the
//! queues of nodes that take none are full. So their copies are bounded as well. The topic does not learn when a copy leaves a queue, so it
//! looks at the queue after half of the subscriber's share. If more bytes wait there than it has sent since the last look, the subscriber has to wait.
//! After that it gets one copy until the next look, then two, and so on, as TCP begins slowly: otherwise a node that takes almost as many
//! copies as the topic can send would get all of them, and the topic would never be done with the messages in its mailbox.
//!
//! Invariant: of the copies for one subscriber, at most its share waits. The shares of all nodes are equal, and so are those of the
//! subscribers of one node. Their sum is [`COPIES_MAX`], unless they are very many: then each has [`SHARE_MIN`].

use antiphon_sched::NodeId;

use super::tally::Tally;

/// The copies of one topic's messages that may wait in all queues to other nodes.
const COPIES_MAX: usize = 1 << 19;
/// The copies that may wait for each subscriber in any case.
const SHARE_MIN: usize = 32;
/// What a copy has in a queue besides its message: more than most, less than those with the locations of many nodes.
const COPY_FIELDS_BYTES: u64 = 64;

/// The subscribers of other nodes, which share the copies.
#[derive(Debug, Default)]
pub(super) struct QueueShares {
    by_node: Tally<NodeId>,
}

/// The copies that were sent to one subscriber of another node since the topic looked at the queue to it.
#[derive(Debug)]
pub(super) struct SentCopies {
    copies: usize,
    bytes: u64,
    /// The copies until the next look, if that is less than half of its share.
    copies_max: usize,
}

impl Default for SentCopies {
    fn default() -> Self {
        Self { copies: 0, bytes: 0, copies_max: usize::MAX }
    }
}

impl SentCopies {
    /// Adds a copy of a message of so many bytes.
    pub(super) fn add(&mut self, bytes: usize) {
        self.copies += 1;
        self.bytes += bytes as u64 + COPY_FIELDS_BYTES;
    }

    /// Notes that the subscriber has to wait.
    pub(super) fn slow_down(&mut self) {
        self.copies_max = 1;
    }

    /// Notes that a subscriber that had to wait gets copies again.
    pub(super) fn restart(&mut self) {
        (self.copies, self.bytes) = (0, 0);
    }

    /// Notes that no more waits than these copies: others may follow.
    pub(super) fn speed_up(&mut self) {
        self.copies_max = self.copies_max.saturating_mul(2);
        self.restart();
    }
}

impl QueueShares {
    /// Adds a subscriber of another node.
    pub(super) fn add(&mut self, node: NodeId) {
        self.by_node.add(node, 1);
    }

    /// Removes a subscriber that was added.
    pub(super) fn remove(&mut self, node: NodeId) {
        self.by_node.take(&node, 1);
    }

    /// The bytes that may wait for a subscriber when it gets one more copy. `None` if the topic need not look.
    pub(super) fn waiting_max(&self, node: NodeId, sent: &SentCopies) -> Option<u64> {
        // Most subscribers need no look at the shares.
        let is_due = sent.copies >= sent.copies_max
            || sent.copies >= SHARE_MIN / 2 && sent.copies >= self.share(node) / 2;
        is_due.then_some(sent.bytes)
    }

    fn share(&self, node: NodeId) -> usize {
        let (nodes, of_node) = (self.by_node.keys().max(1), self.by_node.of(&node).max(1));
        (COPIES_MAX / nodes / of_node).max(SHARE_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u64) -> NodeId {
        NodeId::from_bits(number)
    }

    #[test]
    fn shares_of_nodes_and_their_subscribers_are_equal() {
        let mut shares = QueueShares::default();
        shares.add(node(1));
        assert_eq!(shares.share(node(1)), COPIES_MAX);
        (0..4096).for_each(|_| shares.add(node(2)));
        assert_eq!(shares.share(node(1)), COPIES_MAX / 2, "the many subscribers of another node take half");
        assert_eq!(shares.share(node(2)), COPIES_MAX / 2 / 4096);
        (3..3000).for_each(|number| shares.add(node(number)));
        assert_eq!(shares.share(node(2)), SHARE_MIN);
        (3..3000).for_each(|number| shares.remove(node(number)));
        (0..4096).for_each(|_| shares.remove(node(2)));
        assert_eq!(shares.share(node(1)), COPIES_MAX);
    }

    #[test]
    fn queue_is_looked_at_after_half_of_share() {
        let mut shares = QueueShares::default();
        (0..8192).for_each(|_| shares.add(node(1)));
        let mut sent = SentCopies::default();
        let half = COPIES_MAX / 8192 / 2;
        for _ in 0..half {
            assert_eq!(shares.waiting_max(node(1), &sent), None);
            sent.add(10);
        }
        let bytes = half as u64 * (10 + COPY_FIELDS_BYTES);
        assert_eq!(shares.waiting_max(node(1), &sent), Some(bytes), "as many as were sent since");
        sent.speed_up();
        assert_eq!(shares.waiting_max(node(1), &sent), None);
    }

    #[test]
    fn copies_after_wait_begin_slowly() {
        let mut shares = QueueShares::default();
        (0..8192).for_each(|_| shares.add(node(1)));
        let mut sent = SentCopies::default();
        sent.slow_down();
        sent.restart();
        for copies in [1, 2, 4, 8, 16, 32, 32] {
            for _ in 0..copies {
                assert_eq!(shares.waiting_max(node(1), &sent), None);
                sent.add(0);
            }
            assert_eq!(shares.waiting_max(node(1), &sent), Some(copies * COPY_FIELDS_BYTES));
            sent.speed_up();
        }
    }
}
