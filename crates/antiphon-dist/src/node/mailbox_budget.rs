//! How many bytes of peers' messages wait in mailboxes.
//!
//! A mailbox is bounded in messages, which says nothing of their bytes: 65,536 of 16 MiB each would be any machine's end.
//! So large ones are counted by bytes as well, and what is too much waits as for a full mailbox: with the peer, in the end.
//!
//! Invariant: what is counted is what waits, of large messages and of values: each lies in its mailbox with its charge, and
//! is on the account of its peer and on that of all until it is taken or dropped.

use antiphon_sched::{Budget, Delivery, Key, LoopRef, NodeId, Permit};

use super::NodeCore;
use super::driver::Driver;

/// Bodies up to here are not counted: the bound on messages is enough.
const LIGHT_BYTES: usize = 1024;
/// Bytes of large messages of one peer that may wait in mailboxes.
const OF_PEER_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// What each has, however much of the others' waits.
const OF_PEER_BYTES_LEAST: u64 = 1024 * 1024;
/// And of all peers, those that are gone among them.
const OF_ALL_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// So many times as much may wait, where each large message goes to an actor for which nothing waits: one that is slow must not
/// keep the others from theirs.
const FOR_IDLE: u64 = 2;

impl NodeCore {
    /// Puts a peer's message into a mailbox, unless that is full, or the peer has too much in mailboxes already.
    pub(super) fn deliver_here(
        &mut self,
        node: NodeId,
        to: Key,
        (tag, body): (&str, &[u8]),
        driver: &mut impl Driver,
    ) -> Delivery {
        if !self.has_room_here(node, body.len()) {
            let may_take_one = self.has_room_within(node, body.len(), FOR_IDLE);
            if driver.loop_ref().backlog(to).is_some_and(|waiting| waiting > 0 || !may_take_one) {
                return Delivery::Full;
            }
        }
        let charge = self.charge(node, body.len());
        driver.loop_ref().with_permit(charge, |loop_ref| loop_ref.deliver(to, tag, body))
    }

    /// Puts a value of so many bytes that a peer has sent into a mailbox.
    pub(super) fn put_value<R>(
        &mut self,
        node: NodeId,
        bytes: usize,
        driver: &mut impl Driver,
        put: impl FnOnce(&mut LoopRef<'_>) -> R,
    ) -> R {
        let charge = self.charge(node, bytes);
        driver.loop_ref().with_permit(charge, put)
    }

    /// Whether so many bytes of a peer's may wait in mailboxes besides what does already.
    pub(super) fn has_room_here(&self, node: NodeId, bytes: usize) -> bool {
        bytes <= LIGHT_BYTES || self.has_room_within(node, bytes, 1)
    }

    /// As [`Self::has_room_here`], of so many times what there is for each.
    fn has_room_within(&self, node: NodeId, bytes: usize, times: u64) -> bool {
        let bytes = bytes as u64;
        let of_peer =
            self.peers.get(&node).and_then(|peer| peer.mailbox_budget.as_ref()).map_or(0, Budget::bytes);
        let is_small_share = of_peer + bytes <= OF_PEER_BYTES_LEAST;
        let has_room_for_all =
            is_small_share || self.mailbox_budget.bytes() + bytes <= times * OF_ALL_BYTES_MAX;
        of_peer + bytes <= times * OF_PEER_BYTES_MAX && has_room_for_all
    }

    /// So many bytes on a peer's account, if they are counted.
    fn charge(&mut self, node: NodeId, bytes: usize) -> Option<Permit> {
        if bytes <= LIGHT_BYTES {
            return None;
        }
        let mailbox_budget = &mut self.peers.get_mut(&node)?.mailbox_budget;
        let mailbox_budget = mailbox_budget.get_or_insert_with(|| Budget::child_of(&self.mailbox_budget));
        Some(mailbox_budget.acquire(bytes as u64))
    }

    pub(super) fn check_mailbox_budget(&self) {
        let of_peers = self.peers.values().filter_map(|peer| peer.mailbox_budget.as_ref());
        let sum: u64 = of_peers.map(Budget::bytes).sum();
        assert!(sum <= self.mailbox_budget.bytes(), "what waits of peers is on the account of all");
    }
}

#[cfg(test)]
#[expect(clippy::wildcard_enum_match_arm, reason = "actors of tests let events pass")]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    use antiphon_sched::{
        ActorId, Addr, Bytes, Cx, Event, ExitReason, MonitorId, Value, Wire, millis, receive, receive_if,
        sleep, suspend,
    };

    use super::super::frames::{InboundSignal, bytes_of_reason};
    use super::super::testing::TestCore;
    use super::*;

    /// A message of so many bytes, as it is on the way.
    fn body_of(bytes: usize) -> Vec<u8> {
        let mut body = Vec::new();
        Bytes(vec![0; bytes]).encode(&mut body).expect("bytes have an encoding");
        body
    }

    impl TestCore {
        fn hear(&mut self, node: NodeId, to: Key, body: &[u8]) -> Delivery {
            self.core.deliver_here(node, to, ("bytes", body), &mut self.driver)
        }
    }

    /// An actor that takes 64 of a millisecond, however many wait, and what it has taken.
    fn busy(alone: &mut TestCore) -> (Key, Rc<Cell<usize>>) {
        let taken = Rc::new(Cell::new(0_usize));
        let count = taken.clone();
        let (_, busy) = alone.actor(move |_cx: &mut Cx<Bytes>, event| match event {
            Event::Message(_) => {
                count.set(count.get() + 1);
                if count.get().is_multiple_of(64) { sleep(millis(1)) } else { receive() }
            }
            _ => receive(),
        });
        (busy, taken)
    }

    #[test]
    fn a_busy_actor_takes_whatever_a_peer_sends_as_long_as_little_of_it_waits() {
        let mut alone = TestCore::new();
        let node = alone.peer(5);
        let (busy, taken) = busy(&mut alone);
        let (small, large) = (body_of(8), body_of(64 << 10));
        (0..2000).for_each(|_| assert_eq!(alone.hear(node, busy, &small), Delivery::Delivered));
        for round in 0..400 {
            for nth in 0..64 {
                let body = if nth < 8 { &large } else { &small };
                assert_eq!(alone.hear(node, busy, body), Delivery::Delivered, "in round {round}");
            }
            alone.pass();
        }
        assert!(alone.core.mailbox_budget.bytes() > 200 * large.len() as u64, "its mailbox was never empty");
        (0..100).for_each(|_| alone.pass());
        assert_eq!((taken.get(), alone.core.mailbox_budget.bytes()), (2000 + 400 * 64, 0));
    }

    #[test]
    fn what_waits_of_one_peer_is_bounded_and_what_is_taken_or_dropped_makes_room() {
        let mut alone = TestCore::new();
        let (node, other) = (alone.peer(5), alone.peer(6));
        let (busy, _) = busy(&mut alone);
        let (idle, idle_key) = alone.actor(|_cx: &mut Cx<Bytes>, _| suspend());
        let body = body_of(15 << 20);
        alone.pass();
        for to in [busy, idle_key, idle_key, busy] {
            assert_eq!(alone.hear(node, to, &body), Delivery::Delivered);
        }
        assert_eq!([idle_key, busy].map(|to| alone.hear(node, to, &body)), [Delivery::Full, Delivery::Full]);
        assert_eq!(alone.core.mailbox_budget.bytes(), 4 * body.len() as u64);
        let (_, empty) = alone.actor(|_cx: &mut Cx<Bytes>, _| suspend());
        assert_eq!(alone.hear(node, empty, &body), Delivery::Delivered, "for it, nothing waited");
        assert_eq!(alone.hear(node, empty, &body_of(LIGHT_BYTES / 2)), Delivery::Delivered);
        assert_eq!(alone.hear(other, busy, &body), Delivery::Delivered, "each has its own");
        // The busy one takes three, and the idle one ends with two.
        alone.pass();
        assert_eq!(alone.core.mailbox_budget.bytes(), 3 * body.len() as u64);
        alone.driver.sched.loop_ref().terminate(idle);
        alone.pass();
        assert_eq!(alone.core.mailbox_budget.bytes(), body.len() as u64);
        for _ in 0..3 {
            assert_eq!(alone.hear(node, empty, &body), Delivery::Delivered);
        }
        assert_eq!(alone.hear(node, empty, &body), Delivery::Full);
    }

    #[test]
    fn many_actors_that_sleep_take_no_more_than_twice_what_one_peer_may_have_waiting() {
        let mut alone = TestCore::new();
        let node = alone.peer(5);
        let body = body_of(15 << 20);
        let taken = (0..20).filter(|_| {
            let (_, sleeper) = alone.actor(|_cx: &mut Cx<Bytes>, _| suspend());
            alone.hear(node, sleeper, &body) == Delivery::Delivered
        });
        assert_eq!(taken.count(), 8);
    }

    #[test]
    fn what_a_predicate_leaves_or_an_ear_hears_is_counted_until_it_is_taken() {
        let mut alone = TestCore::new();
        let node = alone.peer(5);
        let (addr, picky) = alone.actor(|_cx: &mut Cx<Bytes>, event| match event {
            // Leaves what is large, until it has heard something small.
            Event::Start => receive_if(|bytes: &Bytes| bytes.0.len() < 10_000),
            _ => receive(),
        });
        let heard = body_of(2000);
        let adapter: Rc<Cell<Option<Key>>> = Rc::default();
        let place = adapter.clone();
        alone.driver.sched.spawn(move |cx: &mut Cx<()>, event| {
            if matches!(event, Event::Start) {
                let hears: Addr<Bytes> = cx.adapter(|_| ());
                assert!(cx.loop_ref().expose(hears));
                place.set(Some(hears.id().key()));
            }
            if matches!(event, Event::Resumed(_)) { receive() } else { suspend() }
        });
        alone.pass();
        let adapter = adapter.get().expect("it has started");
        for (to, bytes) in [(picky, 20_000), (picky, 5000), (picky, 30_000), (adapter, 2000)] {
            assert_eq!(alone.hear(node, to, &body_of(bytes)), Delivery::Delivered);
        }
        let all: usize = [20_000, 5000, 30_000, 2000].map(|bytes| body_of(bytes).len()).iter().sum();
        assert_eq!(alone.core.mailbox_budget.bytes(), all as u64);
        alone.pass();
        assert_eq!(
            alone.core.mailbox_budget.bytes(),
            heard.len() as u64,
            "{addr:?} has taken the small one, and then all"
        );
        let owner = alone.driver.sched.loop_ref().owner_of(adapter);
        assert!(alone.driver.sched.loop_ref().resume_here(owner, Value::new(())));
        alone.pass();
        assert_eq!(alone.core.mailbox_budget.bytes(), 0);
    }

    #[test]
    fn values_that_are_thrown_or_resumed_with_and_ends_are_counted_like_messages() {
        let mut alone = TestCore::new();
        let node = alone.peer(5);
        // Wakes for neither: it has not begun.
        let (_, sleeper) = alone.actor(|_cx: &mut Cx<Bytes>, _| receive());
        let body = body_of(15 << 20);
        let value = || Value::encoded("bytes", &body);
        let refused = |alone: &TestCore| alone.core.counts.refused_messages;
        for _ in 0..10 {
            alone.core.take_effect(
                node,
                InboundSignal::Throw { target: sleeper, value: value() },
                &mut alone.driver,
            );
        }
        assert_eq!((refused(&alone), alone.core.mailbox_budget.bytes()), (6, 4 * body.len() as u64));
        for _ in 0..10 {
            alone.core.take_effect(
                node,
                InboundSignal::Resume { target: sleeper, value: value() },
                &mut alone.driver,
            );
        }
        assert_eq!((refused(&alone), alone.core.mailbox_budget.bytes()), (16, 4 * body.len() as u64));
        // The actor ends with all that was thrown at it.
        alone.driver.sched.loop_ref().terminate(ActorId::new(alone.core.me(), sleeper));
        alone.pass();
        assert_eq!(alone.core.mailbox_budget.bytes(), 0);

        let downs: Rc<RefCell<Vec<usize>>> = Rc::default();
        let told = downs.clone();
        let (_, watcher) = alone.actor(move |_cx: &mut Cx<Bytes>, event| {
            if let Event::Down(down) = event {
                told.borrow_mut().push(bytes_of_reason(&down.reason));
            }
            receive()
        });
        for number in 0..10 {
            let id = MonitorId { origin: node, number };
            let actor = ActorId::new(node, Key::from_bits(number));
            alone.core.take_effect(node, InboundSignal::Notify { watcher, id, actor }, &mut alone.driver);
        }
        for number in 0..10 {
            let id = MonitorId { origin: node, number };
            let reason = if number % 2 == 0 {
                ExitReason::Done(value())
            } else {
                ExitReason::Failed("x".repeat(body.len()))
            };
            alone.core.take_effect(node, InboundSignal::Down { watcher, id, reason }, &mut alone.driver);
        }
        assert_eq!(alone.core.mailbox_budget.bytes(), 4 * body.len() as u64);
        alone.pass();
        let mut expected = vec![body.len(); 4];
        expected.resize(10, 0);
        assert_eq!(
            (&*downs.borrow(), alone.core.mailbox_budget.bytes()),
            (&expected, 0),
            "each is told, once"
        );
    }
}
