//! Inbound messages, their backlog, and the receipts of outbound messages.
//!
//! A message for a full mailbox waits in the backlog of its session, and later messages for the same actor wait behind it.
//! When the queue of an actor exceeds a limit, the peer is asked to hold back the frames for that actor. When an actor
//! takes no message for `BACKLOG_TIMEOUT`, its queue is refused.
//!
//! Invariant: a receipt completes once. The bytes in a backlog are at most `BACKLOG_FREE` plus the credit of the peer.
//! The bodies in a backlog are valid.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use antiphon_sched::{
    ActorId, DeadLetter, Delivery, Key, NodeId, Origin, RequestId, Time, Undelivered, with_origin,
};
use antiphon_wire::frame::{Message, Outcome, Receipt};
use antiphon_wire::{HeldCredit, Session};
use smallvec::SmallVec;

use super::driver::Driver;
use super::frames::{InboundSignal, is_valid_body};
use super::peer_session::PeerSession;
use super::timers::{NodeTimer, TimerQueue};
use super::{NodeCore, complete_if_open, sched_key, wire_key};
use crate::error::DeliverError;

/// The number of bytes for one actor above which the peer is asked to pause its frames.
const PAUSE_OVER: u64 = 256 * 1024;
/// The number of bytes in the backlog of one session above which its entries hold the peer's credit.
const BACKLOG_FREE: u64 = 8 * 1024 * 1024;
/// The number of bytes that one entry counts in addition to its body.
const BACKLOG_OVERHEAD: u64 = 64;
/// How long an actor may take no message before its queue is refused.
const BACKLOG_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a backlog is retried, in addition to each run of the loop.
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// The messages and signals of one session that wait for full mailboxes.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    queues: BTreeMap<Key, BacklogQueue>,
    /// Whether the `Backlog` timer of the session is set.
    scheduled: bool,
}

/// The messages and signals that wait for one actor.
#[derive(Debug)]
struct BacklogQueue {
    entries: VecDeque<BacklogEntry>,
    bytes: u64,
    /// When the actor last took a message, or when the queue began.
    last_progress: Time,
    /// Whether the peer is asked to hold back its frames for the actor.
    paused: bool,
}

#[derive(Debug)]
struct BacklogEntry {
    item: BacklogItem,
    bytes: u64,
    credit: Option<HeldCredit>,
}

#[derive(Debug)]
enum BacklogItem {
    Message { tag: Box<str>, body: Box<[u8]>, receipt: Option<u64> },
    Signal(InboundSignal),
}

impl Backlog {
    pub(super) fn check(&self) {
        for queue in self.queues.values() {
            let bytes: u64 = queue.entries.iter().map(|entry| entry.bytes).sum();
            assert_eq!(queue.bytes, bytes, "a backlog queue counts the bytes of its entries");
            assert!(!queue.entries.is_empty(), "an empty backlog queue is removed");
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Whether entries wait for an actor, so that later ones must wait behind them.
    pub(super) fn has_queue_for(&self, to: Key) -> bool {
        !self.queues.is_empty() && self.queues.contains_key(&to)
    }

    /// Adds an entry to the queue of an actor. An entry holds the peer's credit only above `BACKLOG_FREE`: one slow actor
    /// must not use up the credit that the peer needs for others.
    fn push(&mut self, now: Time, session: &mut Session, to: Key, item: BacklogItem) {
        let body = match &item {
            BacklogItem::Message { body, .. } => body.len(),
            BacklogItem::Signal(signal) => signal.body_bytes(),
        };
        let bytes = body as u64 + BACKLOG_OVERHEAD;
        let credit = (self.bytes() > BACKLOG_FREE).then(|| session.hold());
        let queue = self.queues.entry(to).or_insert_with(|| BacklogQueue {
            entries: VecDeque::new(),
            bytes: 0,
            last_progress: now,
            paused: false,
        });
        queue.bytes += bytes;
        queue.entries.push_back(BacklogEntry { item, bytes, credit });
        if queue.bytes > PAUSE_OVER && !queue.paused {
            queue.paused = session.pause(wire_key(to));
        }
    }

    /// The actors for which messages or signals wait, each with its number of messages.
    pub(super) fn message_counts(&self) -> impl Iterator<Item = (Key, usize)> {
        self.queues.iter().map(|(to, queue)| {
            let is_message = |entry: &&BacklogEntry| matches!(entry.item, BacklogItem::Message { .. });
            let messages = queue.entries.iter().filter(is_message);
            (*to, messages.count())
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.queues.values().map(|queue| queue.bytes).sum()
    }
}

/// The outbound messages that await a receipt.
#[derive(Debug, Default)]
pub(super) struct PendingReceipts {
    open: BTreeMap<u64, PendingReceipt>,
}

#[derive(Debug)]
struct PendingReceipt {
    owner: ReceiptOwner,
    node: NodeId,
    until: Option<Time>,
}

/// The requests that a receipt completes.
#[derive(Debug)]
enum ReceiptOwner {
    /// The request of an actor that asked for the receipt.
    Request(RequestId),
    /// The requests with a `ReplyTo` in the message. They fail if the message was refused.
    AwaitedReplies(SmallVec<[RequestId; 1]>),
}

impl PendingReceipts {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether a message to a node awaits its receipt.
    pub(super) fn awaits(&self, node: NodeId) -> bool {
        self.open.values().any(|open| open.node == node)
    }

    pub(super) fn add(&mut self, receipt_number: u64, request_id: RequestId, node: NodeId) {
        self.open.insert(
            receipt_number,
            PendingReceipt { owner: ReceiptOwner::Request(request_id), node, until: None },
        );
    }

    pub(super) fn add_replies(&mut self, receipt_number: u64, replies: &[RequestId], node: NodeId) {
        let owner = ReceiptOwner::AwaitedReplies(replies.into());
        self.open.insert(receipt_number, PendingReceipt { owner, node, until: None });
    }

    pub(super) fn remove(&mut self, receipt_number: u64) {
        self.open.remove(&receipt_number);
    }

    pub(super) fn check(&self, timers: &TimerQueue) {
        for (receipt_number, open) in &self.open {
            let due = NodeTimer::Receipt(*receipt_number);
            assert!(open.until.is_none_or(|at| timers.has(at, due)), "the timer of a receipt is set");
        }
    }
}

impl NodeCore {
    pub(super) fn on_message(
        &mut self,
        node: NodeId,
        peer_session: &mut PeerSession,
        message: &Message<'_>,
        driver: &mut impl Driver,
    ) {
        let to = sched_key(message.to);
        if !self.check_reach(node, to, driver) {
            return self.report_delivery(
                node,
                &mut peer_session.session,
                to,
                message.receipt,
                &Delivery::NoActor,
                driver,
            );
        }
        self.learn_route(message.route);
        let is_valid = is_valid_body(message.body);
        if is_valid && peer_session.backlog.has_queue_for(to) {
            return self.add_to_backlog(node, peer_session, message);
        }
        let delivery = match peer_session.session.tag_name(message.tag) {
            Some(tag) if is_valid => self.deliver_here(node, to, (tag, message.body), driver),
            Some(_) | None => Delivery::Undecodable("the body is not one valid MessagePack value".into()),
        };
        if delivery == Delivery::Full {
            return self.add_to_backlog(node, peer_session, message);
        }
        self.report_delivery(node, &mut peer_session.session, to, message.receipt, &delivery, driver);
    }

    /// Runs `handle` with the peer as the origin of the data, so that requests in it count against the peer's limit.
    pub(super) fn with_peer_origin<R>(&mut self, node: NodeId, handle: impl FnOnce(&mut Self) -> R) -> R {
        let known = self.peers.get_mut(&node).and_then(|peer| peer.origin.take());
        let origin = known.unwrap_or_else(|| Origin::new(node, self.settings.peer_limits.requests_max));
        let (result, origin) = with_origin(origin, || handle(self));
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.origin = origin;
        }
        result
    }

    fn add_to_backlog(&mut self, node: NodeId, peer_session: &mut PeerSession, message: &Message<'_>) {
        let Some(tag) = peer_session.session.tag_name(message.tag).map(Box::from) else { return };
        let item = BacklogItem::Message { tag, body: message.body.into(), receipt: message.receipt };
        self.push_to_backlog(node, peer_session, sched_key(message.to), item);
    }

    /// Queues a signal behind earlier messages for the same actor.
    pub(super) fn add_signal_to_backlog(
        &mut self,
        node: NodeId,
        peer_session: &mut PeerSession,
        signal: InboundSignal,
    ) {
        self.push_to_backlog(node, peer_session, signal.receiver(), BacklogItem::Signal(signal));
    }

    fn push_to_backlog(&mut self, node: NodeId, peer_session: &mut PeerSession, to: Key, item: BacklogItem) {
        let now = self.now;
        peer_session.backlog.push(now, &mut peer_session.session, to, item);
        self.backlogged.insert(node);
        if !std::mem::replace(&mut peer_session.backlog.scheduled, true) {
            self.timers.add(now + RETRY_EVERY, NodeTimer::Backlog(node));
        }
    }

    /// Retries all backlogs after the loop has run: mailboxes may have room.
    pub(super) fn retry_backlogs(&mut self, driver: &mut impl Driver) {
        for node in std::mem::take(&mut self.backlogged) {
            self.retry_backlog(node, driver);
        }
    }

    /// Retries the backlog of one session by its timer, which also refuses the queues that timed out.
    pub(super) fn on_backlog_due(&mut self, node: NodeId, driver: &mut impl Driver) {
        if let Some(peer_session) = self.peers.get_mut(&node).and_then(|peer| peer.peer_session.as_mut()) {
            peer_session.backlog.scheduled = false;
        }
        self.backlogged.remove(&node);
        self.retry_backlog(node, driver);
    }

    /// Delivers as much of the backlog of a session as the mailboxes accept.
    fn retry_backlog(&mut self, node: NodeId, driver: &mut impl Driver) {
        let Some(mut peer_session) = self.peers.get_mut(&node).and_then(|peer| peer.peer_session.take())
        else {
            return;
        };
        let mut queues = std::mem::take(&mut peer_session.backlog.queues);
        self.with_peer_origin(node, |core| {
            queues.retain(|to, queue| {
                core.drain_queue(node, &mut peer_session.session, *to, queue, driver);
                if queue.paused && queue.bytes <= PAUSE_OVER / 2 {
                    queue.paused = false;
                    peer_session.session.unpause(wire_key(*to));
                }
                !queue.entries.is_empty()
            });
        });
        if !queues.is_empty() {
            self.backlogged.insert(node);
            if !std::mem::replace(&mut peer_session.backlog.scheduled, true) {
                self.timers.add(self.now + RETRY_EVERY, NodeTimer::Backlog(node));
            }
        }
        peer_session.backlog.queues = queues;
        let is_over = peer_session.goodbye_received && peer_session.backlog.is_empty();
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.peer_session = Some(peer_session);
        }
        if is_over {
            return self.end_session(node, "the peer sent a goodbye", driver);
        }
        self.mark_dirty(node);
    }

    fn drain_queue(
        &mut self,
        node: NodeId,
        session: &mut Session,
        to: Key,
        queue: &mut BacklogQueue,
        driver: &mut impl Driver,
    ) {
        let is_expired = self.now.since(queue.last_progress) >= BACKLOG_TIMEOUT;
        while let Some(entry) = queue.entries.pop_front() {
            let delivery = match &entry.item {
                // The access policy may have changed since the message arrived.
                BacklogItem::Message { .. } if !self.may_reach(node, to, driver) => Delivery::NoActor,
                BacklogItem::Message { tag, body, .. } => self.deliver_here(node, to, (tag, body), driver),
                BacklogItem::Signal(_) => Delivery::Delivered,
            };
            if delivery == Delivery::Full && !is_expired {
                queue.entries.push_front(entry);
                return;
            }
            if delivery == Delivery::Delivered {
                queue.last_progress = self.now;
            }
            queue.bytes -= entry.bytes;
            if let Some(credit) = entry.credit {
                session.release(credit);
            }
            match entry.item {
                BacklogItem::Message { receipt, .. } => {
                    self.report_delivery(node, session, to, receipt, &delivery, driver);
                }
                BacklogItem::Signal(signal) => self.apply_signal(node, signal, driver),
            }
        }
    }

    /// Reports the outcome of an inbound message: by a receipt if the sender asked for one, else by a dead letter if it failed.
    fn report_delivery(
        &mut self,
        node: NodeId,
        session: &mut Session,
        to: Key,
        receipt: Option<u64>,
        delivery: &Delivery,
        driver: &mut impl Driver,
    ) {
        let (outcome, reason) = match delivery {
            Delivery::Delivered => (Outcome::Delivered, None),
            Delivery::Full => (Outcome::Full, Some(Undelivered::Full)),
            Delivery::WrongType => (Outcome::WrongType, Some(Undelivered::WrongType)),
            Delivery::Undecodable(text) => {
                if self.may_log("does not decode", format_args!("{node} {to}")) {
                    tracing::warn!(%node, %to, text, "a message from a peer does not decode; check whether its type changed under the same name (logged at most once an hour)");
                }
                (Outcome::WrongType, Some(Undelivered::Encode))
            }
            Delivery::OverQuota => {
                self.refuse_request(node);
                (Outcome::Busy, Some(Undelivered::Busy))
            }
            Delivery::NoActor | _ => (Outcome::NoActor, Some(Undelivered::NoActor)),
        };
        if let Some(reason) = reason {
            self.counts.refused_messages += 1;
            if receipt.is_none() {
                driver.loop_ref().dead_letter(DeadLetter::new(
                    ActorId::new(self.me, to),
                    "a message from another node",
                    reason,
                ));
            }
        }
        if let Some(receipt_number) = receipt
            && let Err(reason) = session.send(&Receipt { request: receipt_number, outcome }.into())
        {
            // The sender's request fails with `TimedOut`.
            tracing::debug!(%node, %reason, "a receipt was not sent");
        }
    }

    /// Handles a receipt. A peer can complete only the receipts of messages that were sent to it.
    pub(super) fn on_receipt(&mut self, node: NodeId, receipt: &Receipt, driver: &mut impl Driver) {
        let is_from_receiver = self.receipts.open.get(&receipt.request).is_some_and(|open| open.node == node);
        if !is_from_receiver {
            return;
        }
        let result = match receipt.outcome {
            Outcome::Delivered => Ok(()),
            Outcome::NoActor => Err(DeliverError::Refused(Undelivered::NoActor)),
            Outcome::Full => Err(DeliverError::Refused(Undelivered::Full)),
            Outcome::WrongType => Err(DeliverError::Refused(Undelivered::WrongType)),
            Outcome::Busy => Err(DeliverError::Refused(Undelivered::Busy)),
        };
        self.complete_receipt(receipt.request, result, driver);
    }

    fn complete_receipt(
        &mut self,
        receipt_number: u64,
        result: Result<(), DeliverError>,
        driver: &mut impl Driver,
    ) {
        let Some(open) = self.receipts.open.remove(&receipt_number) else { return };
        if let Some(until) = open.until {
            self.timers.remove(until, NodeTimer::Receipt(receipt_number));
        }
        match (open.owner, result) {
            (ReceiptOwner::Request(request_id), result) => {
                complete_if_open(&mut driver.loop_ref(), request_id, result)
            }
            (ReceiptOwner::AwaitedReplies(replies), Err(DeliverError::Refused(reason))) => {
                replies
                    .iter()
                    .for_each(|request_id| driver.loop_ref().fail_request(*request_id, reason.into()));
            }
            // The message was delivered, and its receiver replies. Or the session has ended, which fails all its requests.
            (ReceiptOwner::AwaitedReplies(_), Ok(()) | Err(_)) => {}
        }
    }

    /// Sets how long `request_id` waits for its receipt.
    pub(crate) fn set_receipt_timeout(&mut self, request_id: RequestId, timeout: Duration) {
        // It is the newest receipt, because the same call of the actor has sent the message.
        let newest = self.receipts.open.iter_mut().next_back();
        if let Some((receipt_number, open)) =
            newest.filter(|(_, open)| matches!(open.owner, ReceiptOwner::Request(own) if own == request_id))
        {
            let until = self.now + timeout;
            open.until = Some(until);
            self.timers.add(until, NodeTimer::Receipt(*receipt_number));
        }
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

    pub(super) fn on_receipt_due(&mut self, receipt_number: u64, driver: &mut impl Driver) {
        self.complete_receipt(receipt_number, Err(DeliverError::TimedOut), driver);
    }

    /// Completes the receipts of a node with `Unknown` after the end of its session: the messages may have arrived.
    /// The receipts in `spared` stay open, because their messages still wait for a session.
    pub(super) fn fail_receipts(&mut self, node: NodeId, spared: &BTreeSet<u64>, driver: &mut impl Driver) {
        let lost: Vec<u64> = self
            .receipts
            .open
            .iter()
            .filter(|(receipt_number, open)| open.node == node && !spared.contains(receipt_number))
            .map(|(receipt_number, _)| *receipt_number)
            .collect();
        for receipt_number in lost {
            self.complete_receipt(receipt_number, Err(DeliverError::Unknown), driver);
        }
    }
}
