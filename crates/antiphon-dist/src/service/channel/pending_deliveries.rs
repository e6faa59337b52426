//! The deliveries of a topic that wait for subscribers, and those that wait for acknowledgements.
//!
//! Invariant: each delivery is answered once. There are at most `DELIVERIES_MAX` deliveries, and at most `ANSWERS_MAX`
//! answers are open. All other nodes together may use a part of both, and each of them a smaller part. So one peer
//! leaves room for the other peers, and all peers leave room for the node of the channel. `usage` is the sum over the
//! tables.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{AddAssign, SubAssign};

use antiphon_sched::{NodeId, ReplyTo, Time, Timer};

use super::fanout::OpenAnswer;
use super::message::{DeliveryResult, SubscribeResult, TopicAddr};
use super::tally::Tally;
use crate::error::SubscribeError;

/// Deliveries that wait for subscribers or for acknowledgements.
const DELIVERIES_MAX: usize = 1024;
/// The part of these that all peers may use together, and that one peer may use.
const DELIVERIES_OF_PEERS_MAX: usize = 768;
const DELIVERIES_OF_PEER_MAX: usize = 512;
/// Deliveries of one peer that wait for subscribers, and their bytes. A single delivery may exceed the bytes.
const WAITING_OF_PEER_MAX: usize = 64;
const WAITING_BYTES_OF_PEER_MAX: usize = 4 << 20;
/// Bytes of all deliveries of peers that wait for subscribers.
const WAITING_BYTES_OF_PEERS_MAX: usize = 64 << 20;
/// Open answers. Together with the monitors of the subscribers they are fewer than the requests that an actor may have.
const ANSWERS_MAX: usize = 16_384;
/// The part of these for deliveries of all peers together, and of one peer. A single delivery may exceed the latter.
const ANSWERS_OF_PEERS_MAX: usize = 12_288;
const ANSWERS_OF_PEER_MAX: usize = 4096;

/// A delivery as it was requested.
pub(super) struct DeliveryRequest<T> {
    pub(super) message: T,
    /// The number of subscribers to wait for.
    pub(super) n: u64,
    pub(super) until: Time,
    pub(super) hops: u8,
    pub(super) reply: ReplyTo<DeliveryResult>,
    /// The peer that requested it; `None`: this node.
    pub(super) peer: Option<NodeId>,
    /// The length of the request on the wire; 0 if no peer has sent it.
    pub(super) bytes: usize,
}

/// The action at the end of a pending delivery.
pub(super) enum DeliveryEnd<T> {
    /// Send the reply.
    Answer(Option<ReplyTo<DeliveryResult>>),
    /// The topic has answered to its upstreams: grant its subscription, unless it refused.
    Attached { topic: TopicAddr<T>, reply: Option<ReplyTo<SubscribeResult>> },
}

/// A delivery without open answers.
pub(super) struct FinishedDelivery<T> {
    /// The number of actors that received the message.
    pub(super) received: u64,
    pub(super) refused: Option<SubscribeError>,
    /// The timer at which its open answers time out.
    pub(super) timer: Option<Timer>,
    pub(super) end: DeliveryEnd<T>,
}

/// The requests of a topic that the answers to one delivery complete, and the timer at which they time out.
pub(super) struct OpenAnswers {
    pub(super) requests: Vec<OpenAnswer>,
    pub(super) timer: Timer,
}

struct PendingDelivery<T> {
    /// The number of open answers.
    open: usize,
    peer: Option<NodeId>,
    /// Empty if the requests have timeouts of their own.
    requests: Vec<OpenAnswer>,
    result: FinishedDelivery<T>,
}

/// The usage of the limits by one node.
#[derive(Copy, Clone, Default, PartialEq, Eq)]
struct DeliveryUsage {
    /// Deliveries of both kinds.
    deliveries: usize,
    /// The part of these that waits for subscribers, and its bytes.
    waiting: usize,
    bytes: usize,
    /// Open answers.
    answers: usize,
}

impl DeliveryUsage {
    fn waiting(bytes: usize) -> Self {
        Self { deliveries: 1, waiting: 1, bytes, answers: 0 }
    }

    fn pending(deliveries: usize, answers: usize) -> Self {
        Self { deliveries, answers, ..Self::default() }
    }
}

impl AddAssign for DeliveryUsage {
    fn add_assign(&mut self, more: Self) {
        self.deliveries += more.deliveries;
        self.waiting += more.waiting;
        self.bytes += more.bytes;
        self.answers += more.answers;
    }
}

impl SubAssign for DeliveryUsage {
    fn sub_assign(&mut self, less: Self) {
        self.deliveries -= less.deliveries;
        self.waiting -= less.waiting;
        self.bytes -= less.bytes;
        self.answers -= less.answers;
    }
}

/// The deliveries of one topic. The update of the upstreams of downstream topics is a pending delivery too: its answers
/// are counted in the same way.
pub(super) struct PendingDeliveries<T> {
    /// Deliveries that wait for subscribers, each with the timer of its timeout.
    waiting: BTreeMap<u64, (DeliveryRequest<T>, Timer)>,
    /// The same by the numbers of subscribers that they wait for.
    by_need: BTreeSet<(u64, u64)>,
    /// Deliveries that wait for acknowledgements.
    pending: BTreeMap<u64, PendingDelivery<T>>,
    /// The usage of each peer, and of this node (`None`).
    usage: Tally<Option<NodeId>, DeliveryUsage>,
    last_number: u64,
}

impl<T> PendingDeliveries<T> {
    pub(super) fn new() -> Self {
        Self {
            waiting: BTreeMap::new(),
            by_need: BTreeSet::new(),
            pending: BTreeMap::new(),
            usage: Tally::default(),
            last_number: 0,
        }
    }

    /// The usage of all peers together.
    fn usage_of_peers(&self) -> DeliveryUsage {
        let mut peers = self.usage.all();
        peers -= self.usage.of(&None);
        peers
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Whether there is room for one more delivery of a node with this number of answers.
    pub(super) fn has_room(&self, peer: Option<NodeId>, answers: usize) -> bool {
        let all = self.usage.all();
        if all.deliveries >= DELIVERIES_MAX || all.answers + answers > ANSWERS_MAX {
            return false;
        }
        let (own, peers) = (self.usage.of(&peer), self.usage_of_peers());
        peer.is_none()
            || own.deliveries < DELIVERIES_OF_PEER_MAX
                && peers.deliveries < DELIVERIES_OF_PEERS_MAX
                && (own.answers == 0 || own.answers + answers <= ANSWERS_OF_PEER_MAX)
                && peers.answers + answers <= ANSWERS_OF_PEERS_MAX
    }

    /// Whether one more delivery of a node, of this number of bytes, may wait for subscribers.
    pub(super) fn may_wait(&self, peer: Option<NodeId>, bytes: usize) -> bool {
        let own = self.usage.of(&peer);
        peer.is_none()
            || own.waiting < WAITING_OF_PEER_MAX
                && (own.waiting == 0 || own.bytes + bytes <= WAITING_BYTES_OF_PEER_MAX)
                && self.usage_of_peers().bytes + bytes <= WAITING_BYTES_OF_PEERS_MAX
    }

    /// Keeps a delivery until there are enough subscribers.
    pub(super) fn add_waiting(&mut self, number: u64, request: DeliveryRequest<T>, timer: Timer) {
        self.usage.add(request.peer, DeliveryUsage::waiting(request.bytes));
        self.by_need.insert((request.n, number));
        self.waiting.insert(number, (request, timer));
    }

    /// Removes the first waiting delivery for which this number of subscribers is enough.
    pub(super) fn take_satisfied(&mut self, subscribers: u64) -> Option<(DeliveryRequest<T>, Timer)> {
        // Most changes of the number of subscribers satisfy none.
        self.by_need.first().filter(|(n, _)| *n <= subscribers)?;
        let satisfied = self.waiting.iter().find(|(_, (request, _))| request.n <= subscribers);
        let number = satisfied.map(|(number, _)| *number)?;
        self.take(number)
    }

    /// Removes a waiting delivery whose time is over.
    pub(super) fn take_due(&mut self, number: u64) -> Option<DeliveryRequest<T>> {
        self.take(number).map(|(request, _)| request)
    }

    fn take(&mut self, number: u64) -> Option<(DeliveryRequest<T>, Timer)> {
        let (request, timer) = self.waiting.remove(&number)?;
        self.by_need.remove(&(request.n, number));
        self.usage.take(&request.peer, DeliveryUsage::waiting(request.bytes));
        Some((request, timer))
    }

    pub(super) fn take_all_waiting(&mut self) -> Vec<DeliveryRequest<T>> {
        std::iter::from_fn(|| self.take_satisfied(u64::MAX)).map(|(request, _)| request).collect()
    }

    /// Begins a delivery with `open` answers to come, which `received` actors have received already. If there are no
    /// open answers, returns it as finished. `answers` are the requests, unless these have timeouts of their own.
    #[must_use]
    pub(super) fn begin(
        &mut self,
        number: u64,
        peer: Option<NodeId>,
        (open, received): (usize, u64),
        answers: Option<OpenAnswers>,
        end: DeliveryEnd<T>,
    ) -> Option<FinishedDelivery<T>> {
        let (requests, timer) = answers.map(|answers| (answers.requests, answers.timer)).unzip();
        let result = FinishedDelivery { received, refused: None, timer, end };
        if open == 0 {
            return Some(result);
        }
        self.usage.add(peer, DeliveryUsage::pending(1, open));
        self.pending
            .insert(number, PendingDelivery { open, peer, requests: requests.unwrap_or_default(), result });
        None
    }

    /// Takes the next request of a pending delivery whose time is over. It is still to be answered.
    pub(super) fn take_request(&mut self, number: u64) -> Option<OpenAnswer> {
        self.pending.get_mut(&number)?.requests.pop()
    }

    /// Adds an answer to a pending delivery. The last answer finishes it.
    pub(super) fn acknowledge(
        &mut self,
        number: u64,
        outcome: DeliveryResult,
    ) -> Option<FinishedDelivery<T>> {
        let delivery = self.pending.get_mut(&number)?;
        delivery.open -= 1;
        match outcome {
            DeliveryResult::To(count) => {
                delivery.result.received = delivery.result.received.saturating_add(count)
            }
            DeliveryResult::Refused(reason) => delivery.result.refused = Some(reason),
            DeliveryResult::TooFew(_) | DeliveryResult::TooMany | DeliveryResult::Closed => {}
        }
        let (peer, is_finished) = (delivery.peer, delivery.open == 0);
        self.usage.take(&peer, DeliveryUsage::pending(usize::from(is_finished), 1));
        if !is_finished {
            return None;
        }
        self.pending.remove(&number).map(|delivery| delivery.result)
    }
}
