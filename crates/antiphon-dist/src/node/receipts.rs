//! Receipts: the outcomes of outbound messages whose senders asked for them.
//!
//! Invariant: a receipt completes once. It is forgotten when its request is closed: a peer that sends none leaves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use antiphon_sched::{ActorId, AskError, Key, NodeId, RequestId, Time, Undelivered};
use antiphon_wire::frame::{Outcome, Receipt};
use smallvec::SmallVec;

use super::driver::Driver;
use super::payload_faults::error_of;
use super::timers::{NodeTimer, TimerQueue};
use super::{NodeCore, complete_if_open};
use crate::error::DeliverError;

/// The outbound messages that await a receipt.
#[derive(Debug, Default)]
pub(super) struct PendingReceipts {
    open: BTreeMap<u64, PendingReceipt>,
    /// The same by node.
    by_node: BTreeSet<(NodeId, u64)>,
}

#[derive(Debug)]
struct PendingReceipt {
    owner: ReceiptOwner,
    node: NodeId,
    /// The receiving actor.
    actor: Key,
    until: Option<Time>,
}

/// The requests that a receipt completes.
#[derive(Debug)]
struct ReceiptOwner {
    /// The request of an actor that asked for the receipt.
    request: Option<RequestId>,
    /// The requests with a `ReplyTo` in the message. They fail if the message was refused.
    awaited_replies: SmallVec<[RequestId; 1]>,
}

impl PendingReceipts {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether a message to a node awaits its receipt.
    pub(super) fn awaits(&self, node: NodeId) -> bool {
        self.numbers_of(node).next().is_some()
    }

    /// Adds a message to `actor`. An actor asked for its receipt by `request`, or nobody; it holds the `awaited_replies`.
    pub(super) fn add(
        &mut self,
        receipt_number: u64,
        request: Option<RequestId>,
        awaited_replies: &[RequestId],
        (node, actor): (NodeId, Key),
    ) {
        let owner = ReceiptOwner { request, awaited_replies: awaited_replies.into() };
        self.open.insert(receipt_number, PendingReceipt { owner, node, actor, until: None });
        self.by_node.insert((node, receipt_number));
    }

    fn remove(&mut self, receipt_number: u64) -> Option<PendingReceipt> {
        let open = self.open.remove(&receipt_number)?;
        self.by_node.remove(&(open.node, receipt_number));
        Some(open)
    }

    /// Whether nothing else waits for a receipt than the reply to this request.
    fn serves_only(&self, receipt_number: u64, request_id: RequestId) -> bool {
        self.open.get(&receipt_number).is_some_and(|open| {
            open.owner.request.is_none() && open.owner.awaited_replies.as_slice() == [request_id]
        })
    }

    fn numbers_of(&self, node: NodeId) -> impl Iterator<Item = u64> {
        self.by_node.range((node, 0)..=(node, u64::MAX)).map(|(_, number)| *number)
    }

    /// The receipts that are awaited from a node, except those in `spared`: their messages still wait for a session.
    pub(super) fn awaited_from(&self, node: NodeId, spared: &BTreeSet<u64>) -> Vec<u64> {
        self.numbers_of(node).filter(|number| !spared.contains(number)).collect()
    }

    pub(super) fn check(&self, timers: &TimerQueue) {
        let is_mirrored = self.open.iter().all(|(number, open)| self.by_node.contains(&(open.node, *number)));
        assert!(is_mirrored && self.by_node.len() == self.open.len(), "each receipt is known by its node");
        for (receipt_number, open) in &self.open {
            let due = NodeTimer::Receipt(*receipt_number);
            assert!(open.until.is_none_or(|at| timers.has(at, due)), "the timer of a receipt is set");
        }
    }
}

impl NodeCore {
    /// Handles a receipt. A peer can complete only the receipts of messages that were sent to it.
    pub(super) fn on_receipt(&mut self, node: NodeId, receipt: &Receipt<'_>, driver: &mut impl Driver) {
        let is_from_receiver =
            self.cx.receipts.open.get(&receipt.request).is_some_and(|open| open.node == node);
        if !is_from_receiver {
            return;
        }
        let result = match receipt.outcome {
            Outcome::Delivered => Ok(()),
            Outcome::NoActor => Err(DeliverError::Refused(Undelivered::NoActor)),
            Outcome::Full => Err(DeliverError::Refused(Undelivered::Full)),
            Outcome::Payload(fault) => Err(DeliverError::Refused(Undelivered::Payload(error_of(fault)))),
            Outcome::Busy => Err(DeliverError::Refused(Undelivered::Busy)),
        };
        self.complete_receipt(receipt.request, result, driver);
    }

    pub(super) fn complete_receipt(
        &mut self,
        receipt_number: u64,
        result: Result<(), DeliverError>,
        driver: &mut impl Driver,
    ) {
        let Some(open) = self.cx.receipts.remove(receipt_number) else { return };
        if let Some(until) = open.until {
            self.cx.timers.remove(until, NodeTimer::Receipt(receipt_number));
        }
        // Otherwise the message was delivered, and its receiver replies; or the session has ended, which fails all its requests.
        if let Err(DeliverError::Refused(reason)) = &result {
            for request_id in open.owner.awaited_replies {
                driver.local().requests().fail(request_id, reason.clone().into());
            }
        }
        if let Some(request_id) = open.owner.request {
            if let (Err(reason), Some(owner)) = (&result, driver.local().requests().owner(request_id)) {
                log_failed_delivery(owner, ActorId::new(open.node, open.actor), reason);
            }
            complete_if_open(driver.local().requests(), request_id, result);
        }
    }

    /// Sets how long `request_id` waits for its receipt.
    pub(crate) fn set_receipt_timeout(&mut self, request_id: RequestId, timeout: Duration) {
        // It is the newest receipt, because the same call of the actor has sent the message.
        let newest = self.cx.receipts.open.iter_mut().next_back();
        if let Some((receipt_number, open)) =
            newest.filter(|(_, open)| open.owner.request == Some(request_id))
        {
            let until = self.cx.now + timeout;
            open.until = Some(until);
            self.cx.timers.add(until, NodeTimer::Receipt(*receipt_number));
        }
    }

    /// The receipt for which `request_id` waits, right after its message was sent.
    pub(crate) fn newest_receipt(&self, request_id: RequestId) -> Option<u64> {
        let (receipt_number, open) = self.cx.receipts.open.last_key_value()?;
        (open.owner.request == Some(request_id)).then_some(*receipt_number)
    }

    /// Forgets a receipt whose request is closed.
    pub(crate) fn forget_receipt(&mut self, receipt_number: u64) {
        self.cx.receipts.remove(receipt_number);
    }

    /// Forgets a request that is closed, and the receipts of messages that ended with it.
    pub(super) fn on_request_closed(&mut self, request_id: RequestId) {
        let receipts: SmallVec<[u64; 1]> = self.cx.replies.all_receipts_of(request_id).collect();
        for receipt_number in receipts {
            if self.cx.receipts.serves_only(receipt_number, request_id) {
                self.cx.receipts.remove(receipt_number);
            }
        }
        self.cx.replies.forget(request_id);
    }

    /// Completes the receipt of a message that was never sent.
    pub(super) fn refuse_receipt(
        &mut self,
        receipt_number: u64,
        reason: Undelivered,
        driver: &mut impl Driver,
    ) {
        self.complete_receipt(receipt_number, Err(DeliverError::Refused(reason)), driver);
    }

    /// Withdraws a message that still waits for transmission at its timeout. A message that was transmitted may arrive
    /// later.
    pub(super) fn on_receipt_due(&mut self, receipt_number: u64, driver: &mut impl Driver) {
        let reason = match self.withdraw_message(receipt_number) {
            Some(Withdrawal::ActorFull) => DeliverError::Refused(Undelivered::Full),
            Some(Withdrawal::NotSent) | None => DeliverError::TimedOut,
        };
        self.complete_receipt(receipt_number, Err(reason), driver);
    }

    /// Withdraws the message of a receipt from the queue in which it waits for transmission; `None` if it waits in none.
    fn withdraw_message(&mut self, receipt_number: u64) -> Option<Withdrawal> {
        let PendingReceipt { node, actor, .. } = *self.cx.receipts.open.get(&receipt_number)?;
        let peer = self.peers.get_mut(&node)?;
        if peer.waiting.withdraw(receipt_number) {
            peer.count_queue(&mut self.cx.queues.bytes);
            self.release_room_waiters(node);
            self.note_use(node);
            return Some(Withdrawal::NotSent);
        }
        let session = &mut peer.peer_session.as_mut()?.session;
        let withdrawn = session.withdraw(actor, receipt_number);
        // Others may have room now.
        self.mark_dirty(node);
        let withdrawn = withdrawn?;
        Some(if withdrawn.is_paused { Withdrawal::ActorFull } else { Withdrawal::NotSent })
    }

    /// Withdraws the message that holds the only `ReplyTo` of a request, at the timeout of the request. Returns the error
    /// with which the request fails.
    pub(super) fn withdraw_request(&mut self, request_id: RequestId) -> AskError {
        let receipts: SmallVec<[u64; 1]> = self.cx.replies.receipts_of(request_id).collect();
        let mut reason = AskError::TimedOut;
        for receipt_number in receipts {
            if self.cx.receipts.serves_only(receipt_number, request_id)
                && let Some(withdrawal) = self.withdraw_message(receipt_number)
            {
                self.cx.receipts.remove(receipt_number);
                if withdrawal == Withdrawal::ActorFull {
                    reason = AskError::Full;
                }
            }
        }
        reason
    }
}

/// How a message was withdrawn before its transmission.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Withdrawal {
    /// The peer has asked to hold back the frames for its actor.
    ActorFull,
    /// The message waited for a session, or behind others.
    NotSent,
}

pub(crate) fn log_failed_delivery(owner: Key, to: ActorId, reason: &DeliverError) {
    tracing::debug!(target: "antiphon::requests", actor = %owner, %to, %reason, "a delivery has failed");
}
