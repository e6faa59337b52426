//! Open requests of local actors with a `ReplyTo` that was sent to another node. They fail when the session with it ends.
//!
//! Invariant: both tables hold the same pairs.

use std::collections::{BTreeMap, BTreeSet};

use antiphon_sched::{NodeId, RequestId};

#[derive(Debug, Default)]
pub(super) struct AwaitedReplies {
    by_node: BTreeSet<(NodeId, RequestId)>,
    by_request: BTreeMap<(RequestId, NodeId), SentReplyTo>,
}

/// The message that holds a `ReplyTo`.
#[derive(Copy, Clone, Debug)]
struct SentReplyTo {
    receipt_number: Option<u64>,
    /// The message is withdrawn at the timeout of the request, if it still waits.
    is_withdrawable: bool,
}

impl AwaitedReplies {
    pub(super) fn len(&self) -> usize {
        self.by_request.len()
    }

    /// Adds requests after their `ReplyTo`s were sent to a node in a message with this receipt. `is_withdrawable` if the message
    /// ends with its request.
    pub(super) fn add(
        &mut self,
        node: NodeId,
        request_ids: &[RequestId],
        receipt_number: Option<u64>,
        is_withdrawable: bool,
    ) {
        let sent = SentReplyTo { receipt_number, is_withdrawable };
        self.by_node.extend(request_ids.iter().map(|request_id| (node, *request_id)));
        self.by_request.extend(request_ids.iter().map(|request_id| ((*request_id, node), sent)));
    }

    fn sent(&self, request_id: RequestId) -> impl Iterator<Item = SentReplyTo> {
        let pairs = self.by_request.range((request_id, NodeId::from_bits(0))..);
        pairs.take_while(move |((other, _), _)| *other == request_id).map(|(_, sent)| *sent)
    }

    /// The receipts of the messages that are withdrawn with a request.
    pub(super) fn receipts_of(&self, request_id: RequestId) -> impl Iterator<Item = u64> {
        self.sent(request_id).filter(|sent| sent.is_withdrawable).filter_map(|sent| sent.receipt_number)
    }

    /// The receipts of all messages that hold a `ReplyTo` of a request.
    pub(super) fn all_receipts_of(&self, request_id: RequestId) -> impl Iterator<Item = u64> {
        self.sent(request_id).filter_map(|sent| sent.receipt_number)
    }

    /// Removes a request that is closed.
    pub(super) fn forget(&mut self, request_id: RequestId) {
        let nodes = self
            .by_request
            .range((request_id, NodeId::from_bits(0))..)
            .map(|(pair, _)| pair)
            .take_while(|(other, _)| *other == request_id);
        for pair in nodes.copied().collect::<Vec<_>>() {
            self.by_request.remove(&pair);
            self.by_node.remove(&(pair.1, pair.0));
        }
    }

    /// Whether a request awaits a reply from a node.
    pub(super) fn awaits(&self, node: NodeId) -> bool {
        self.by_node.range((node, RequestId::from_bits(0))..).next().is_some_and(|(other, _)| *other == node)
    }

    /// Removes and returns the requests that await a reply from a node.
    pub(super) fn take(&mut self, node: NodeId) -> Vec<RequestId> {
        self.take_except(node, &BTreeSet::new())
    }

    /// As [`Self::take`], but keeps those in `spared`.
    pub(super) fn take_except(&mut self, node: NodeId, spared: &BTreeSet<RequestId>) -> Vec<RequestId> {
        let request_ids =
            self.by_node.range((node, RequestId::from_bits(0))..).take_while(|(other, _)| *other == node);
        let request_ids = request_ids.map(|(_, request_id)| *request_id);
        let request_ids: Vec<RequestId> =
            request_ids.filter(|request_id| !spared.contains(request_id)).collect();
        for request_id in &request_ids {
            self.by_node.remove(&(node, *request_id));
            self.by_request.remove(&(*request_id, node));
        }
        request_ids
    }

    pub(super) fn check(&self) {
        let is_mirrored =
            self.by_request.keys().all(|(request_id, node)| self.by_node.contains(&(*node, *request_id)));
        assert!(
            is_mirrored && self.by_node.len() == self.by_request.len(),
            "both tables hold the same pairs"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_at_two_nodes_are_taken_per_node() {
        let (one, other) = (NodeId::from_bits(1), NodeId::from_bits(2));
        let request_ids: Vec<RequestId> = (1..4).map(RequestId::from_bits).collect();
        let mut replies = AwaitedReplies::default();
        replies.add(one, &request_ids, Some(7), true);
        replies.add(other, &request_ids[..2], Some(8), false);
        assert_eq!(replies.receipts_of(request_ids[0]).collect::<Vec<_>>(), [7]);
        assert_eq!(replies.all_receipts_of(request_ids[0]).collect::<Vec<_>>(), [7, 8]);
        replies.forget(request_ids[0]);
        replies.check();
        assert_eq!(replies.take(one), request_ids[1..]);
        assert_eq!(replies.take(one), []);
        assert_eq!([one, other].map(|node| replies.awaits(node)), [false, true]);
        assert_eq!(replies.take(other), request_ids[1..2]);
        replies.check();
        assert_eq!(replies.len(), 0);
    }
}
