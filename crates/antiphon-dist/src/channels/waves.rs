//! What a channel waits for: receivers for a delivery, and answers from those below.
//!
//! Invariant: each order and each wave is answered once; there are at most `ORDERS_MAX` orders, few of each
//! peer wait for receivers, and `ASKS_MAX` answers are waited for.

use std::collections::BTreeMap;

use antiphon_sched::{Addr, Reply, Time, Timer};

use super::message::{By, ChannelMessage, Delivered, Subscribed};
use crate::error::SubscribeError;

/// Deliveries that wait for receivers, and those under way.
pub(super) const ORDERS_MAX: usize = 1024;
/// Of those that wait for receivers, how many another node may have: their messages are as large as it likes.
const WAITING_OF_PEER_MAX: usize = 64;
/// Answers that are waited for: less than the requests that an actor may have, with what its receivers cost.
pub(super) const ASKS_MAX: usize = 16_384;

/// A delivery that was ordered.
pub(super) struct Order<T> {
    pub(super) message: T,
    pub(super) n: u64,
    pub(super) until: Time,
    pub(super) hops: u8,
    pub(super) reply: Reply<Delivered>,
    pub(super) by: By,
}

/// Who is told when a wave is over.
pub(super) enum WaveEnd<T> {
    Answer(Option<Reply<Delivered>>),
    /// The branch stays, unless it refused.
    Attached {
        branch: Addr<ChannelMessage<T>>,
        reply: Option<Reply<Subscribed>>,
    },
}

/// A wave that is over.
pub(super) struct Over<T> {
    pub(super) have: u64,
    pub(super) refused: Option<SubscribeError>,
    pub(super) end: WaveEnd<T>,
}

struct Wave<T> {
    open: usize,
    over: Over<T>,
}

pub(super) struct Waves<T> {
    waiting: BTreeMap<u64, (Order<T>, Timer)>,
    waves: BTreeMap<u64, Wave<T>>,
    asks: usize,
    last: u64,
}

impl<T> Waves<T> {
    pub(super) fn new() -> Self {
        Self { waiting: BTreeMap::new(), waves: BTreeMap::new(), asks: 0, last: 0 }
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Whether there is room for one more, of so many answers.
    pub(super) fn has_room(&self, asks: usize) -> bool {
        self.waiting.len() + self.waves.len() < ORDERS_MAX && self.asks + asks <= ASKS_MAX
    }

    /// Whether one more order of a node may wait.
    pub(super) fn may_wait(&self, by: By) -> bool {
        let of_asker = || self.waiting.values().filter(|(order, _)| order.by == by).count();
        by.is_none() || of_asker() < WAITING_OF_PEER_MAX
    }

    /// Keeps an order until there are enough receivers.
    pub(super) fn keep(&mut self, number: u64, order: Order<T>, timer: Timer) {
        self.waiting.insert(number, (order, timer));
    }

    /// The first order for which so many receivers are enough.
    pub(super) fn take_served(&mut self, total: u64) -> Option<(Order<T>, Timer)> {
        let served = self.waiting.iter().find(|(_, (order, _))| order.n <= total);
        let number = served.map(|(number, _)| *number)?;
        self.waiting.remove(&number)
    }

    pub(super) fn take_due(&mut self, number: u64) -> Option<Order<T>> {
        self.waiting.remove(&number).map(|(order, _)| order)
    }

    pub(super) fn take_all_waiting(&mut self) -> impl Iterator<Item = Order<T>> {
        std::mem::take(&mut self.waiting).into_values().map(|(order, _)| order)
    }

    /// A wave of so many answers has begun; it is over at once if there are none.
    #[must_use]
    pub(super) fn begin(&mut self, number: u64, open: usize, have: u64, end: WaveEnd<T>) -> Option<Over<T>> {
        let over = Over { have, refused: None, end };
        if open == 0 {
            return Some(over);
        }
        self.asks += open;
        self.waves.insert(number, Wave { open, over });
        None
    }

    /// An answer to a wave; the last one ends it.
    pub(super) fn acknowledge(&mut self, number: u64, outcome: Delivered) -> Option<Over<T>> {
        self.asks = self.asks.saturating_sub(1);
        let wave = self.waves.get_mut(&number)?;
        wave.open -= 1;
        match outcome {
            Delivered::To(count) => wave.over.have = wave.over.have.saturating_add(count),
            Delivered::Refused(why) => wave.over.refused = Some(why),
            Delivered::TooFew(_) | Delivered::TooMany | Delivered::Closed => {}
        }
        if wave.open > 0 {
            return None;
        }
        self.waves.remove(&number).map(|wave| wave.over)
    }
}
