//! The messages and signals for one node that wait for a session.
//!
//! Invariant: their bytes are within the same limits as those that wait in a session, so a new session accepts them all.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use antiphon_sched::{AskError, Destination, Key, NodeId, RequestId, Signal, Time};
use antiphon_wire::{Limits, SendMark};

use super::signals::{SignalBudget, SignalRules, body_bytes};

/// The number of bytes that one entry counts in addition to its body: more than its frame adds without a route.
const WAITING_OVERHEAD: u64 = 128;
/// The number of bytes that one node of the route counts: more than its id and its locations take.
const ROUTE_NODE_BYTES: u64 = 192;

/// The bytes that a message counts: at least those of its frame.
pub(in crate::node) fn message_bytes(body: usize, nodes: usize) -> u64 {
    body as u64 + WAITING_OVERHEAD + nodes as u64 * ROUTE_NODE_BYTES
}

/// The bytes that a signal counts.
pub(in crate::node) fn signal_bytes(signal: &Signal) -> u64 {
    message_bytes(body_bytes(&signal.kind), 0)
}

/// The messages and signals for one node that wait for a session.
#[derive(Debug, Default)]
pub(in crate::node) struct WaitingOutbound {
    /// `None`: the message was withdrawn.
    queue: VecDeque<Option<QueuedOutbound>>,
    /// The number of the first entry; the others follow.
    first_number: u64,
    /// The numbers of the messages that await a receipt.
    by_receipt: BTreeMap<u64, u64>,
    /// The bytes that count for each receiving actor.
    by_actor: BTreeMap<Key, u64>,
    /// The sum of these.
    actors_bytes: u64,
    /// The bytes of replies and urgent signals.
    reserved_bytes: u64,
    bytes: u64,
    /// The number of dials that the node's location has refused while entries waited.
    refused_dials: u32,
    /// The time at which all entries fail.
    pub(in crate::node) until: Time,
}

#[derive(Debug)]
pub(in crate::node) enum QueuedOutbound {
    Message {
        from: Option<Key>,
        to: Destination,
        tag: &'static str,
        body: Box<[u8]>,
        receipt_number: Option<u64>,
        nodes: Box<[NodeId]>,
        replies: Box<[RequestId]>,
    },
    Signal(Signal),
    /// No reply to this request of the node will follow.
    ReplyDropped {
        request_id: RequestId,
        reason: AskError,
    },
}

/// The limit against which an entry counts.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(in crate::node) enum WaitingBudget {
    /// The share of the receiving actor.
    Actor(Key),
    /// The reserve for replies and urgent signals.
    Reserve,
    /// None: it completes an operation of the peer, and the number of those is limited.
    Unlimited,
}

impl WaitingBudget {
    pub(in crate::node) fn of_message(to: Destination) -> Self {
        match to {
            Destination::Actor(to) => Self::Actor(to.key().actor()),
            Destination::Request(..) => Self::Reserve,
        }
    }

    pub(in crate::node) fn of_signal(signal: &Signal) -> Self {
        match SignalRules::of(&signal.kind).budget {
            SignalBudget::Actor => Self::Actor(signal.to.key().actor()),
            SignalBudget::Reserve => Self::Reserve,
            SignalBudget::Unlimited => Self::Unlimited,
        }
    }
}

impl QueuedOutbound {
    fn bytes(&self) -> u64 {
        match self {
            Self::Message { body, nodes, .. } => message_bytes(body.len(), nodes.len()),
            Self::Signal(signal) => signal_bytes(signal),
            Self::ReplyDropped { .. } => message_bytes(0, 0),
        }
    }

    fn budget(&self) -> WaitingBudget {
        match self {
            Self::Message { to, .. } => WaitingBudget::of_message(*to),
            Self::Signal(signal) => WaitingBudget::of_signal(signal),
            Self::ReplyDropped { .. } => WaitingBudget::Unlimited,
        }
    }

    fn receipt_number(&self) -> Option<u64> {
        match self {
            Self::Message { receipt_number, .. } => *receipt_number,
            Self::Signal(_) | Self::ReplyDropped { .. } => None,
        }
    }
}

impl WaitingOutbound {
    pub(in crate::node) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    pub(in crate::node) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The bytes that wait for an actor, and for all actors.
    pub(in crate::node) fn bytes_for(&self, actor: Key) -> (u64, u64) {
        (self.by_actor.get(&actor).copied().unwrap_or(0), self.actors_bytes)
    }

    /// Counts a dial that the location has refused while entries wait. Returns their number.
    pub(in crate::node) fn note_refused_dial(&mut self) -> u32 {
        self.refused_dials = if self.is_empty() { 0 } else { self.refused_dials + 1 };
        self.refused_dials
    }

    /// Whether an entry of `bytes` bytes may wait.
    pub(in crate::node) fn fits(&self, budget: WaitingBudget, bytes: u64, limits: &Limits) -> bool {
        match budget {
            WaitingBudget::Actor(actor) => {
                let (of_actor, of_all) = self.bytes_for(actor);
                limits.admits(of_actor, of_all, bytes, SendMark::Cap)
            }
            WaitingBudget::Reserve => self.reserved_bytes + bytes <= limits.queue_bytes_cap,
            WaitingBudget::Unlimited => true,
        }
    }

    pub(in crate::node) fn push(&mut self, queued: QueuedOutbound) {
        self.count(&queued, true);
        if let Some(receipt_number) = queued.receipt_number() {
            self.by_receipt.insert(receipt_number, self.first_number + self.queue.len() as u64);
        }
        self.queue.push_back(Some(queued));
    }

    fn count(&mut self, queued: &QueuedOutbound, is_added: bool) {
        let bytes = queued.bytes();
        let change = |sum: &mut u64| if is_added { *sum += bytes } else { *sum -= bytes };
        change(&mut self.bytes);
        match queued.budget() {
            WaitingBudget::Actor(actor) => {
                let of_actor = self.by_actor.entry(actor).or_default();
                change(of_actor);
                if *of_actor == 0 {
                    self.by_actor.remove(&actor);
                }
                change(&mut self.actors_bytes);
            }
            WaitingBudget::Reserve => change(&mut self.reserved_bytes),
            WaitingBudget::Unlimited => {}
        }
    }

    /// Removes the message that awaits a receipt; false if it does not wait here.
    pub(in crate::node) fn withdraw(&mut self, receipt_number: u64) -> bool {
        let Some(number) = self.by_receipt.remove(&receipt_number) else { return false };
        let at = usize::try_from(number - self.first_number).expect("the entry is in the queue");
        let Some(queued) = self.queue.get_mut(at).and_then(Option::take) else { return false };
        self.count(&queued, false);
        true
    }

    /// Takes all entries, in order.
    pub(in crate::node) fn take(&mut self) -> impl Iterator<Item = QueuedOutbound> + use<> {
        let first_number = self.first_number + self.queue.len() as u64;
        std::mem::replace(self, Self { first_number, ..Self::default() }).queue.into_iter().flatten()
    }

    /// The open receipts and requests of the waiting messages.
    pub(in crate::node) fn open(&self) -> (BTreeSet<u64>, Vec<RequestId>) {
        let (mut receipts, mut request_ids) = (BTreeSet::new(), Vec::new());
        for queued in self.queue.iter().flatten() {
            if let QueuedOutbound::Message { receipt_number, replies, .. } = queued {
                receipts.extend(receipt_number);
                request_ids.extend(replies);
            }
        }
        (receipts, request_ids)
    }

    pub(in crate::node) fn check(&self) {
        let entries = || self.queue.iter().flatten();
        let bytes: u64 = entries().map(QueuedOutbound::bytes).sum();
        assert_eq!(self.bytes, bytes, "the waiting queue counts the bytes of its entries");
        assert_eq!(
            self.actors_bytes,
            self.by_actor.values().sum::<u64>(),
            "the sum over the actors is counted"
        );
        let receipts = entries().filter_map(QueuedOutbound::receipt_number).count();
        assert_eq!(self.by_receipt.len(), receipts, "each waiting receipt is listed");
    }
}
