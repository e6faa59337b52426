//! Receipts: the outcomes of outbound messages whose senders asked for them.
//!
//! Invariant: a receipt completes once. It is forgotten when its request is closed: a peer that sends none leaves nothing.

use std::collections::{BTreeMap, BTreeSet};

use antiphon_sched::{
    ActorId, DeadLetter, Destination, Key, NodeId, OutboundMessage, RequestId, SendMode, Time, Undelivered,
};
use antiphon_wire::frame::{Outcome, Receipt};
use smallvec::SmallVec;

use super::context::NodeCx;
use super::driver::Driver;
use super::peer::payload_faults::error_of;
use super::timers::{NodeTimer, TimerQueue};
use super::{LoopAction, complete_if_open};
use crate::error::DeliverError;

/// The outbound messages that await a receipt.
#[derive(Debug, Default)]
pub(super) struct PendingReceipts {
    pub(super) open: BTreeMap<u64, PendingReceipt>,
    /// The same by node.
    pub(super) by_node: BTreeSet<(NodeId, u64)>,
}

#[derive(Debug)]
pub(super) struct PendingReceipt {
    pub(super) owner: ReceiptOwner,
    pub(super) node: NodeId,
    /// The receiving actor.
    pub(super) actor: Key,
    pub(super) until: Option<Time>,
}

/// The requests that a receipt completes.
#[derive(Debug)]
pub(super) struct ReceiptOwner {
    /// The request of an actor that asked for the receipt.
    pub(super) request: Option<RequestId>,
    /// The requests with a `ReplyTo` in the message. They fail if the message was refused.
    pub(super) awaited_replies: SmallVec<[RequestId; 1]>,
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

    pub(super) fn remove(&mut self, receipt_number: u64) -> Option<PendingReceipt> {
        let open = self.open.remove(&receipt_number)?;
        self.by_node.remove(&(open.node, receipt_number));
        Some(open)
    }

    /// Whether nothing else waits for a receipt than the reply to this request.
    pub(super) fn serves_only(&self, receipt_number: u64, request_id: RequestId) -> bool {
        self.open.get(&receipt_number).is_some_and(|open| {
            open.owner.request.is_none() && open.owner.awaited_replies.as_slice() == [request_id]
        })
    }

    pub(super) fn numbers_of(&self, node: NodeId) -> impl Iterator<Item = u64> {
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

/// How a message was withdrawn before its transmission.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Withdrawal {
    /// The peer has asked to hold back the frames for its actor.
    ActorFull,
    /// The message waited for a session, or behind others.
    NotSent,
}

pub(crate) fn log_failed_delivery(owner: Key, to: ActorId, reason: &DeliverError) {
    tracing::debug!(target: "antiphon::requests", actor = %owner, %to, %reason, "a delivery has failed");
}

impl NodeCx {
    /// Records what an accepted message leaves open: its receipt, and the requests whose `ReplyTo` it holds.
    pub(super) fn await_outcome(
        &mut self,
        node: NodeId,
        outbound: &OutboundMessage<'_>,
        receipt_number: Option<u64>,
    ) {
        if let (Some(receipt_number), Destination::Actor(to)) = (receipt_number, outbound.to) {
            let receiver = (node, to.key());
            let request = match outbound.mode {
                SendMode::Receipt(request_id) => Some(request_id),
                SendMode::Send | SendMode::Try | SendMode::Ask | SendMode::Once | _ => None,
            };
            self.receipts.add(receipt_number, request, outbound.requests, receiver);
        }
        let is_withdrawable = outbound.mode == SendMode::Ask;
        self.replies.add(node, outbound.requests, receipt_number, is_withdrawable);
    }

    /// Reports a waiting message that will not be sent: to its receipt, or as a dead letter.
    pub(super) fn fail_message(
        &mut self,
        (from, to): (Option<Key>, Destination),
        tag: &'static str,
        receipt_number: Option<u64>,
        reason: Undelivered,
    ) {
        match (to, receipt_number) {
            (Destination::Request(..), _) => {}
            (Destination::Actor(_), Some(receipt_number)) => {
                self.loop_actions.push(LoopAction::FailReceipt(receipt_number, reason))
            }
            (Destination::Actor(to), None) => {
                let from = from.map(|key| ActorId::new(self.me, key));
                self.loop_actions
                    .push(LoopAction::DeadLetter(DeadLetter::new(to, tag, reason).sent_by(from)));
            }
        }
    }
}
