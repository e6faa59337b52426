//! Messages that arrive, and what became of those that were sent with a receipt.
//!
//! A message for a full mailbox is parked: it keeps its place and its credit, and whatever follows it to the
//! same actor waits behind it. Over a limit of bytes the peer is asked to keep that actor's frames itself. An
//! actor that took nothing for a while is refused.
//!
//! Invariant: a receipt is answered once; the bytes that are parked are at most `BACKLOG_FREE`, and the peer's window
//! of credit; what is parked is sound.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use antiphon_sched::{ActorId, Delivery, Key, NodeId, Origin, RequestId, Time, Undelivered, with_origin};
use antiphon_wire::frame::{Message, Outcome, Receipt};
use antiphon_wire::{HeldCredit, Session};
use smallvec::SmallVec;

use super::driver::Driver;
use super::frames::{InboundSignal, is_sound};
use super::peer_session::PeerSession;
use super::timers::{NodeTimer, TimerQueue};
use super::{NodeCore, sched_key, settle, wire_key};
use crate::error::DeliverError;

/// Bytes for one actor over which its frames stay with the peer.
const PAUSE_OVER: u64 = 256 * 1024;
/// Bytes that are parked, of one session, before more of them hold the peer's credit.
const BACKLOG_FREE: u64 = 8 * 1024 * 1024;
/// What one thing that is parked counts for besides its body.
const BACKLOG_OVERHEAD: u64 = 64;
/// How long an actor may take nothing before what waits for it is refused.
const BACKLOG_TIMEOUT: Duration = Duration::from_secs(15);
/// How often parked messages are looked at, besides whenever the loop has run.
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// What waits for full mailboxes, of one session.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    queues: BTreeMap<Key, BacklogQueue>,
    scheduled: bool,
}

#[derive(Debug)]
struct BacklogQueue {
    queue: VecDeque<BacklogEntry>,
    bytes: u64,
    /// When the actor last took something, or the first one came to wait.
    moved: Time,
    paused: bool,
}

#[derive(Debug)]
struct BacklogEntry {
    what: BacklogItem,
    bytes: u64,
    credit: Option<HeldCredit>,
}

#[derive(Debug)]
enum BacklogItem {
    Message {
        tag: Box<str>,
        body: Box<[u8]>,
        receipt: Option<u64>,
    },
    /// It keeps its place among the messages.
    Signal(InboundSignal),
}

impl Backlog {
    pub(super) fn check(&self) {
        for queue_of_actor in self.queues.values() {
            let bytes: u64 = queue_of_actor.queue.iter().map(|backlog| backlog.bytes).sum();
            assert_eq!(queue_of_actor.bytes, bytes, "what waits for a full mailbox is counted");
            assert!(!queue_of_actor.queue.is_empty(), "who holds up nothing has no lot");
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Whether something waits for an actor, and whatever follows has to wait behind it.
    pub(super) fn holds(&self, to: Key) -> bool {
        !self.queues.is_empty() && self.queues.contains_key(&to)
    }

    /// Has something wait for an actor. So much may wait before it holds the peer's credit: one slow actor must
    /// not use up what the others live on.
    fn push(&mut self, now: Time, session: &mut Session, to: Key, what: BacklogItem) {
        let body = match &what {
            BacklogItem::Message { body, .. } => body.len(),
            BacklogItem::Signal(arrived) => arrived.body_bytes(),
        };
        let bytes = body as u64 + BACKLOG_OVERHEAD;
        let credit = (self.bytes() > BACKLOG_FREE).then(|| session.hold());
        let queue_of_actor = self.queues.entry(to).or_insert_with(|| BacklogQueue {
            queue: VecDeque::new(),
            bytes: 0,
            moved: now,
            paused: false,
        });
        queue_of_actor.bytes += bytes;
        queue_of_actor.queue.push_back(BacklogEntry { what, bytes, credit });
        if queue_of_actor.bytes > PAUSE_OVER && !queue_of_actor.paused {
            queue_of_actor.paused = true;
            session.pause(wire_key(to));
        }
    }

    /// The actors for whom messages wait, each with how many.
    pub(super) fn lost(&self) -> impl Iterator<Item = (Key, usize)> {
        self.queues.iter().map(|(to, queue_of_actor)| {
            let is_message = |backlog: &&BacklogEntry| matches!(backlog.what, BacklogItem::Message { .. });
            let messages = queue_of_actor.queue.iter().filter(is_message);
            (*to, messages.count())
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.queues.values().map(|queue_of_actor| queue_of_actor.bytes).sum()
    }
}

/// Messages sent from here that await a receipt.
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

/// Who is told what became of a message.
#[derive(Debug)]
enum ReceiptOwner {
    /// An actor that asked for the receipt.
    Asked(RequestId),
    /// The requests whose replies travel in the message: told if it was refused, for then nobody can answer.
    Replies(SmallVec<[RequestId; 1]>),
}

impl PendingReceipts {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether something that was sent to a node awaits its receipt.
    pub(super) fn awaits(&self, node: NodeId) -> bool {
        self.open.values().any(|open| open.node == node)
    }

    pub(super) fn add(&mut self, request: u64, request_id: RequestId, node: NodeId) {
        self.open
            .insert(request, PendingReceipt { owner: ReceiptOwner::Asked(request_id), node, until: None });
    }

    pub(super) fn add_replies(&mut self, request: u64, replies: &[RequestId], node: NodeId) {
        let owner = ReceiptOwner::Replies(replies.into());
        self.open.insert(request, PendingReceipt { owner, node, until: None });
    }

    pub(super) fn remove(&mut self, request: u64) {
        self.open.remove(&request);
    }

    pub(super) fn check(&self, timers: &TimerQueue) {
        for (request, open) in &self.open {
            let due = NodeTimer::Receipt(*request);
            assert!(open.until.is_none_or(|at| timers.has(at, due)), "a receipt's time is on the agenda");
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
        if !self.allows(node, to, driver) {
            return self.conclude(
                node,
                &mut peer_session.session,
                to,
                message.receipt,
                &Delivery::NoActor,
                driver,
            );
        }
        self.learn_route(message.route);
        let is_sound = is_sound(message.body);
        if is_sound && peer_session.backlog.holds(to) {
            return self.add_to_backlog(node, peer_session, message);
        }
        let delivery = match peer_session.session.tag_name(message.tag) {
            Some(tag) if is_sound => self.deliver_here(node, to, (tag, message.body), driver),
            Some(_) | None => Delivery::Undecodable("it is not one sound MessagePack value".into()),
        };
        if delivery == Delivery::Full {
            return self.add_to_backlog(node, peer_session, message);
        }
        self.conclude(node, &mut peer_session.session, to, message.receipt, &delivery, driver);
    }

    /// Takes what has come from a peer, on the account of its requests.
    pub(super) fn take_from<R>(&mut self, node: NodeId, take: impl FnOnce(&mut Self) -> R) -> R {
        let known = self.peers.get_mut(&node).and_then(|peer| peer.origin.take());
        let origin = known.unwrap_or_else(|| Origin::new(node, self.settings.peer_limits.requests_max));
        let (result, origin) = with_origin(origin, || take(self));
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.origin = origin;
        }
        result
    }

    fn add_to_backlog(&mut self, node: NodeId, peer_session: &mut PeerSession, message: &Message<'_>) {
        let Some(tag) = peer_session.session.tag_name(message.tag).map(Box::from) else { return };
        let what = BacklogItem::Message { tag, body: message.body.into(), receipt: message.receipt };
        self.add_behind_backlog(node, peer_session, sched_key(message.to), what);
    }

    /// A signal waits behind the messages before it.
    pub(super) fn add_signal_to_backlog(
        &mut self,
        node: NodeId,
        peer_session: &mut PeerSession,
        arrived: InboundSignal,
    ) {
        self.add_behind_backlog(node, peer_session, arrived.receiver(), BacklogItem::Signal(arrived));
    }

    fn add_behind_backlog(
        &mut self,
        node: NodeId,
        peer_session: &mut PeerSession,
        to: Key,
        what: BacklogItem,
    ) {
        let now = self.now;
        peer_session.backlog.push(now, &mut peer_session.session, to, what);
        self.backlog.insert(node);
        if !std::mem::replace(&mut peer_session.backlog.scheduled, true) {
            self.timers.add(now + RETRY_EVERY, NodeTimer::Backlog(node));
        }
    }

    /// The loop has run: mailboxes may have room.
    pub(super) fn retry_backlogs(&mut self, driver: &mut impl Driver) {
        for node in std::mem::take(&mut self.backlog) {
            self.retry_backlog(node, driver);
        }
    }

    /// An actor may have taken nothing for too long.
    pub(super) fn on_backlog_due(&mut self, node: NodeId, driver: &mut impl Driver) {
        if let Some(peer_session) = self.peers.get_mut(&node).and_then(|peer| peer.peer_session.as_mut()) {
            peer_session.backlog.scheduled = false;
        }
        self.backlog.remove(&node);
        self.retry_backlog(node, driver);
    }

    /// Tries again what waits for full mailboxes.
    fn retry_backlog(&mut self, node: NodeId, driver: &mut impl Driver) {
        let Some(mut peer_session) = self.peers.get_mut(&node).and_then(|peer| peer.peer_session.take())
        else {
            return;
        };
        let mut queues = std::mem::take(&mut peer_session.backlog.queues);
        self.take_from(node, |core| {
            queues.retain(|to, queue_of_actor| {
                core.drain_queue(node, &mut peer_session.session, *to, queue_of_actor, driver);
                if queue_of_actor.paused && queue_of_actor.bytes <= PAUSE_OVER / 2 {
                    queue_of_actor.paused = false;
                    peer_session.session.unpause(wire_key(*to));
                }
                !queue_of_actor.queue.is_empty()
            });
        });
        if !queues.is_empty() {
            self.backlog.insert(node);
            if !std::mem::replace(&mut peer_session.backlog.scheduled, true) {
                self.timers.add(self.now + RETRY_EVERY, NodeTimer::Backlog(node));
            }
        }
        peer_session.backlog.queues = queues;
        let is_over = peer_session.leaves && peer_session.backlog.is_empty();
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.peer_session = Some(peer_session);
        }
        if is_over {
            return self.lose(node, "the peer said goodbye", driver);
        }
        self.mark_dirty(node);
    }

    fn drain_queue(
        &mut self,
        node: NodeId,
        session: &mut Session,
        to: Key,
        queue_of_actor: &mut BacklogQueue,
        driver: &mut impl Driver,
    ) {
        let expired = self.now.since(queue_of_actor.moved) >= BACKLOG_TIMEOUT;
        while let Some(backlog) = queue_of_actor.queue.pop_front() {
            let delivery = match &backlog.what {
                // It may have been closed to the peer meanwhile.
                BacklogItem::Message { .. } if !self.is_open_to(node, to, driver) => Delivery::NoActor,
                BacklogItem::Message { tag, body, .. } => self.deliver_here(node, to, (tag, body), driver),
                BacklogItem::Signal(_) => Delivery::Delivered,
            };
            if delivery == Delivery::Full && !expired {
                queue_of_actor.queue.push_front(backlog);
                return;
            }
            if delivery == Delivery::Delivered {
                queue_of_actor.moved = self.now;
            }
            queue_of_actor.bytes -= backlog.bytes;
            if let Some(credit) = backlog.credit {
                session.release(credit);
            }
            match backlog.what {
                BacklogItem::Message { receipt, .. } => {
                    self.conclude(node, session, to, receipt, &delivery, driver);
                }
                BacklogItem::Signal(arrived) => self.take_effect(node, arrived, driver),
            }
        }
    }

    /// Tells what became of a message, to whom wants to know.
    fn conclude(
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
                    tracing::warn!(%node, %to, text, "a message from a peer does not decode; has its type changed under the same name? (said once an hour)");
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
                driver.loop_ref().dead_letter(
                    ActorId::new(self.me, to),
                    "a message from another node",
                    reason,
                );
            }
        }
        if let Some(request) = receipt
            && let Err(reason) = session.send(&Receipt { request, outcome }.into())
        {
            // Its sender is told `TimedOut`.
            tracing::debug!(%node, %reason, "a receipt was not sent");
        }
    }

    /// What became of a message that was sent from here.
    pub(super) fn on_receipt(&mut self, node: NodeId, receipt: &Receipt, driver: &mut impl Driver) {
        let mine = self.receipts.open.get(&receipt.request).is_some_and(|open| open.node == node);
        if !mine {
            return;
        }
        let result = match receipt.outcome {
            Outcome::Delivered => Ok(()),
            Outcome::NoActor => Err(DeliverError::Refused(Undelivered::NoActor)),
            Outcome::Full => Err(DeliverError::Refused(Undelivered::Full)),
            Outcome::WrongType => Err(DeliverError::Refused(Undelivered::WrongType)),
            Outcome::Busy => Err(DeliverError::Refused(Undelivered::Busy)),
        };
        self.answer_receipt(receipt.request, result, driver);
    }

    fn answer_receipt(&mut self, request: u64, result: Result<(), DeliverError>, driver: &mut impl Driver) {
        let Some(open) = self.receipts.open.remove(&request) else { return };
        if let Some(until) = open.until {
            self.timers.remove(until, NodeTimer::Receipt(request));
        }
        match (open.owner, result) {
            (ReceiptOwner::Asked(request_id), result) => settle(&mut driver.loop_ref(), request_id, result),
            (ReceiptOwner::Replies(replies), Err(DeliverError::Refused(reason))) => {
                replies
                    .iter()
                    .for_each(|request_id| driver.loop_ref().fail_request(*request_id, reason.into()));
            }
            // It arrived, and its receiver answers; or the session has ended, which answers them all.
            (ReceiptOwner::Replies(_), Ok(()) | Err(_)) => {}
        }
    }

    /// The receipt that `request_id` waits for is awaited for so long.
    pub(crate) fn set_receipt_timeout(&mut self, request_id: RequestId, timeout: Duration) {
        // The newest: it was sent by the same call.
        let newest = self.receipts.open.iter_mut().next_back();
        if let Some((request, open)) =
            newest.filter(|(_, open)| matches!(open.owner, ReceiptOwner::Asked(own) if own == request_id))
        {
            let until = self.now + timeout;
            open.until = Some(until);
            self.timers.add(until, NodeTimer::Receipt(*request));
        }
    }

    /// The message was never sent.
    pub(super) fn refuse_receipt(&mut self, request: u64, reason: Undelivered, driver: &mut impl Driver) {
        self.answer_receipt(request, Err(DeliverError::Refused(reason)), driver);
    }

    pub(super) fn on_receipt_due(&mut self, request: u64, driver: &mut impl Driver) {
        self.answer_receipt(request, Err(DeliverError::TimedOut), driver);
    }

    /// The session with a node has ended: what was under way to it may have arrived.
    /// What is not under way yet is spared.
    pub(super) fn fail_receipts(&mut self, node: NodeId, spared: &BTreeSet<u64>, driver: &mut impl Driver) {
        let lost: Vec<u64> = self
            .receipts
            .open
            .iter()
            .filter(|(request, open)| open.node == node && !spared.contains(request))
            .map(|(request, _)| *request)
            .collect();
        for request in lost {
            self.answer_receipt(request, Err(DeliverError::Unknown), driver);
        }
    }
}
