//! Receipts: the outcomes of outbound messages whose senders asked for them.
//!
//! Invariant: a receipt completes once. It is forgotten when its request is closed: a peer that sends none leaves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use antiphon_sched::{ActorId, AskError, Key, NodeId, RequestId, Time, Undelivered};
use antiphon_wire::frame::{Outcome, Receipt};
use smallvec::SmallVec;

use super::context::NodeCx;
use super::driver::Driver;
use super::payload_faults::error_of;
use super::peer::Peer;
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

impl PendingReceipts {
    /// Handles a receipt. A peer can complete only the receipts of messages that were sent to it.
    pub(super) fn on_receipt(
        &mut self,
        node: NodeId,
        receipt: &Receipt<'_>,
        timers: &mut TimerQueue,
        driver: &mut impl Driver,
    ) {
        let is_from_receiver = self.open.get(&receipt.request).is_some_and(|open| open.node == node);
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
        self.complete(receipt.request, result, timers, driver);
    }

    /// Completes a receipt, if it is still open.
    pub(super) fn complete(
        &mut self,
        receipt_number: u64,
        result: Result<(), DeliverError>,
        timers: &mut TimerQueue,
        driver: &mut impl Driver,
    ) {
        let Some(open) = self.remove(receipt_number) else { return };
        if let Some(until) = open.until {
            timers.remove(until, NodeTimer::Receipt(receipt_number));
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

    /// Sets until when `request_id` waits for its receipt.
    pub(super) fn set_timeout(&mut self, request_id: RequestId, until: Time, timers: &mut TimerQueue) {
        // It is the newest receipt, because the same call of the actor has sent the message.
        let newest = self.open.iter_mut().next_back();
        if let Some((receipt_number, open)) =
            newest.filter(|(_, open)| open.owner.request == Some(request_id))
        {
            open.until = Some(until);
            timers.add(until, NodeTimer::Receipt(*receipt_number));
        }
    }

    /// The receipt for which `request_id` waits, right after its message was sent.
    pub(super) fn newest_of(&self, request_id: RequestId) -> Option<u64> {
        let (receipt_number, open) = self.open.last_key_value()?;
        (open.owner.request == Some(request_id)).then_some(*receipt_number)
    }

    /// Forgets a receipt whose request is closed.
    pub(super) fn forget(&mut self, receipt_number: u64) {
        self.remove(receipt_number);
    }

    /// Forgets a receipt if nothing else waits for it than the reply to this request. Returns whether it has.
    pub(super) fn forget_if_only_for(&mut self, receipt_number: u64, request_id: RequestId) -> bool {
        self.serves_only(receipt_number, request_id) && self.remove(receipt_number).is_some()
    }

    /// The receiver of the message that awaits a receipt.
    pub(super) fn receiver(&self, receipt_number: u64) -> Option<ActorId> {
        self.open.get(&receipt_number).map(|open| ActorId::new(open.node, open.actor))
    }
}

impl NodeCore {
    /// Sets how long `request_id` waits for its receipt.
    pub(crate) fn set_receipt_timeout(&mut self, request_id: RequestId, timeout: Duration) {
        let until = self.cx.now + timeout;
        self.cx.receipts.set_timeout(request_id, until, &mut self.cx.timers);
    }

    /// The receipt for which `request_id` waits, right after its message was sent.
    pub(crate) fn newest_receipt(&self, request_id: RequestId) -> Option<u64> {
        self.cx.receipts.newest_of(request_id)
    }

    /// Forgets a receipt whose request is closed.
    pub(crate) fn forget_receipt(&mut self, receipt_number: u64) {
        self.cx.receipts.forget(receipt_number);
    }

    /// Forgets a request that is closed, and the receipts of messages that ended with it.
    pub(super) fn on_request_closed(&mut self, request_id: RequestId) {
        let NodeCx { receipts, replies, .. } = &mut self.cx;
        for receipt_number in replies.all_receipts_of(request_id) {
            receipts.forget_if_only_for(receipt_number, request_id);
        }
        replies.forget(request_id);
    }

    /// Withdraws a message that still waits for transmission at its timeout. A message that was transmitted may arrive
    /// later.
    pub(super) fn on_receipt_due(&mut self, receipt_number: u64, driver: &mut impl Driver) {
        let reason = match self.withdraw_message(receipt_number) {
            Some(Withdrawal::ActorFull) => DeliverError::Refused(Undelivered::Full),
            Some(Withdrawal::NotSent) | None => DeliverError::TimedOut,
        };
        self.cx.receipts.complete(receipt_number, Err(reason), &mut self.cx.timers, driver);
    }

    /// Withdraws the message of a receipt from the queue in which it waits for transmission; `None` if it waits in none.
    fn withdraw_message(&mut self, receipt_number: u64) -> Option<Withdrawal> {
        let receiver = self.cx.receipts.receiver(receipt_number)?;
        let peer = self.peers.get_mut(receiver.node())?;
        let withdrawal = peer.withdraw(&mut self.cx, receiver.key(), receipt_number);
        self.peers.note_use(&mut self.cx, receiver.node());
        withdrawal
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
                self.cx.receipts.forget(receipt_number);
                if withdrawal == Withdrawal::ActorFull {
                    reason = AskError::Full;
                }
            }
        }
        reason
    }
}

impl Peer {
    /// Withdraws a message to an actor from the queue in which it waits for transmission; `None` if it waits in none.
    fn withdraw(&mut self, cx: &mut NodeCx, actor: Key, receipt_number: u64) -> Option<Withdrawal> {
        if self.waiting.withdraw(receipt_number) {
            self.count_queue(&mut cx.queues.bytes);
            self.release_room_waiters(cx);
            return Some(Withdrawal::NotSent);
        }
        let withdrawn = self.peer_session.as_mut()?.session.withdraw(actor, receipt_number);
        // Others may have room now.
        self.mark_dirty(cx);
        let withdrawn = withdrawn?;
        Some(if withdrawn.is_paused { Withdrawal::ActorFull } else { Withdrawal::NotSent })
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
