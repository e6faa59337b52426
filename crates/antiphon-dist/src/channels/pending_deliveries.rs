//! What a channel waits for: receivers for a delivery, and answers from those below.
//!
//! Invariant: each order and each wave is answered once; there are at most `ORDERS_MAX` orders, and `ASKS_MAX`
//! answers are waited for. Of both, other nodes have a share, and each of them a smaller one: so that none keeps the
//! others from theirs, nor all of them the channel's own node. `loads` counts what stands in the tables.

use std::collections::BTreeMap;
use std::ops::{AddAssign, SubAssign};

use antiphon_sched::{NodeId, ReplyTo, Time, Timer};

use super::message::{Delivered, Subscribed, TopicAddr};
use crate::error::SubscribeError;
use crate::quota::QuotaUsage;

/// Deliveries that wait for receivers, and those under way.
pub(super) const ORDERS_MAX: usize = 1024;
/// Of these, those that other nodes may have together, and one of them.
const ORDERS_OF_PEERS_MAX: usize = 768;
const ORDERS_OF_PEER_MAX: usize = 512;
/// Of those that wait for receivers, how many another node may have, and of how many bytes; one may always wait.
const WAITING_OF_PEER_MAX: usize = 64;
const WAITING_BYTES_OF_PEER_MAX: usize = 4 << 20;
/// Bytes of all that other nodes have waiting.
const WAITING_BYTES_OF_PEERS_MAX: usize = 64 << 20;
/// Answers that are waited for: less than the requests that an actor may have, with what its receivers cost.
pub(super) const ASKS_MAX: usize = 16_384;
/// Of these, those for other nodes together, and for one of them; one delivery may be larger.
const ASKS_OF_PEERS_MAX: usize = 12_288;
const ASKS_OF_PEER_MAX: usize = 4096;

/// A delivery that was ordered.
pub(super) struct OrderedDelivery<T> {
    pub(super) message: T,
    pub(super) n: u64,
    pub(super) until: Time,
    pub(super) hops: u8,
    pub(super) reply: ReplyTo<Delivered>,
    /// The other node that ordered it.
    pub(super) by: Option<NodeId>,
    /// Bytes that came from there.
    pub(super) bytes: usize,
}

/// Who is told when a wave is over.
pub(super) enum DeliveryEnd<T> {
    Answer(Option<ReplyTo<Delivered>>),
    /// The branch stays, unless it refused.
    Attached {
        relay: TopicAddr<T>,
        reply: Option<ReplyTo<Subscribed>>,
    },
}

/// A wave that is over.
pub(super) struct FinishedDelivery<T> {
    pub(super) have: u64,
    pub(super) refused: Option<SubscribeError>,
    pub(super) end: DeliveryEnd<T>,
}

struct PendingDelivery<T> {
    open: usize,
    by: Option<NodeId>,
    over: FinishedDelivery<T>,
}

/// What somebody has under way.
#[derive(Copy, Clone, Default, PartialEq, Eq)]
struct DeliveryUsage {
    /// Orders and waves.
    orders: usize,
    /// Of these, the orders that wait, and their bytes.
    waiting: usize,
    bytes: usize,
    asks: usize,
}

impl DeliveryUsage {
    fn waiting(bytes: usize) -> Self {
        Self { orders: 1, waiting: 1, bytes, asks: 0 }
    }

    fn delivery(orders: usize, asks: usize) -> Self {
        Self { orders, asks, ..Self::default() }
    }
}

impl AddAssign for DeliveryUsage {
    fn add_assign(&mut self, more: Self) {
        self.orders += more.orders;
        self.waiting += more.waiting;
        self.bytes += more.bytes;
        self.asks += more.asks;
    }
}

impl SubAssign for DeliveryUsage {
    fn sub_assign(&mut self, less: Self) {
        self.orders -= less.orders;
        self.waiting -= less.waiting;
        self.bytes -= less.bytes;
        self.asks -= less.asks;
    }
}

pub(super) struct PendingDeliveries<T> {
    waiting: BTreeMap<u64, (OrderedDelivery<T>, Timer)>,
    deliveries: BTreeMap<u64, PendingDelivery<T>>,
    /// What each node has under way; `None` is the channel's own.
    loads: QuotaUsage<Option<NodeId>, DeliveryUsage>,
    last: u64,
}

impl<T> PendingDeliveries<T> {
    pub(super) fn new() -> Self {
        Self { waiting: BTreeMap::new(), deliveries: BTreeMap::new(), loads: QuotaUsage::default(), last: 0 }
    }

    /// What all peers have under way.
    fn of_peers(&self) -> DeliveryUsage {
        let mut peers = self.loads.all();
        peers -= self.loads.of(&None);
        peers
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Whether there is room for one more that a node causes, of so many answers.
    pub(super) fn has_room(&self, by: Option<NodeId>, asks: usize) -> bool {
        let all = self.loads.all();
        if all.orders >= ORDERS_MAX || all.asks + asks > ASKS_MAX {
            return false;
        }
        let (own, peers) = (self.loads.of(&by), self.of_peers());
        by.is_none()
            || own.orders < ORDERS_OF_PEER_MAX
                && peers.orders < ORDERS_OF_PEERS_MAX
                && (own.asks == 0 || own.asks + asks <= ASKS_OF_PEER_MAX)
                && peers.asks + asks <= ASKS_OF_PEERS_MAX
    }

    /// Whether one more order of a node, of so many bytes, may wait.
    pub(super) fn may_wait(&self, by: Option<NodeId>, bytes: usize) -> bool {
        let own = self.loads.of(&by);
        by.is_none()
            || own.waiting < WAITING_OF_PEER_MAX
                && (own.waiting == 0 || own.bytes + bytes <= WAITING_BYTES_OF_PEER_MAX)
                && self.of_peers().bytes + bytes <= WAITING_BYTES_OF_PEERS_MAX
    }

    /// Keeps an order until there are enough receivers.
    pub(super) fn keep(&mut self, number: u64, order: OrderedDelivery<T>, timer: Timer) {
        self.loads.add(order.by, DeliveryUsage::waiting(order.bytes));
        self.waiting.insert(number, (order, timer));
    }

    /// The first order for which so many receivers are enough.
    pub(super) fn take_served(&mut self, total: u64) -> Option<(OrderedDelivery<T>, Timer)> {
        let served = self.waiting.iter().find(|(_, (order, _))| order.n <= total);
        let number = served.map(|(number, _)| *number)?;
        self.take(number)
    }

    pub(super) fn take_due(&mut self, number: u64) -> Option<OrderedDelivery<T>> {
        self.take(number).map(|(order, _)| order)
    }

    fn take(&mut self, number: u64) -> Option<(OrderedDelivery<T>, Timer)> {
        let (order, timer) = self.waiting.remove(&number)?;
        self.loads.take(&order.by, DeliveryUsage::waiting(order.bytes));
        Some((order, timer))
    }

    pub(super) fn take_all_waiting(&mut self) -> Vec<OrderedDelivery<T>> {
        std::iter::from_fn(|| self.take_served(u64::MAX)).map(|(order, _)| order).collect()
    }

    /// A wave of so many answers has begun, because of a node; it is over at once if there are none.
    #[must_use]
    pub(super) fn begin(
        &mut self,
        number: u64,
        by: Option<NodeId>,
        (open, have): (usize, u64),
        end: DeliveryEnd<T>,
    ) -> Option<FinishedDelivery<T>> {
        let over = FinishedDelivery { have, refused: None, end };
        if open == 0 {
            return Some(over);
        }
        self.loads.add(by, DeliveryUsage::delivery(1, open));
        self.deliveries.insert(number, PendingDelivery { open, by, over });
        None
    }

    /// An answer to a wave; the last one ends it.
    pub(super) fn acknowledge(&mut self, number: u64, outcome: Delivered) -> Option<FinishedDelivery<T>> {
        let delivery = self.deliveries.get_mut(&number)?;
        delivery.open -= 1;
        match outcome {
            Delivered::To(count) => delivery.over.have = delivery.over.have.saturating_add(count),
            Delivered::Refused(reason) => delivery.over.refused = Some(reason),
            Delivered::TooFew(_) | Delivered::TooMany | Delivered::Closed => {}
        }
        let (by, is_over) = (delivery.by, delivery.open == 0);
        self.loads.take(&by, DeliveryUsage::delivery(usize::from(is_over), 1));
        if !is_over {
            return None;
        }
        self.deliveries.remove(&number).map(|delivery| delivery.over)
    }
}
