//! The budget of bytes for peers' messages in mailboxes.
//!
//! A mailbox is bounded in messages, not in bytes, and 65,536 messages of 16 MiB each would exhaust any memory. So large
//! messages also count by their bytes. A message over the budget waits as for a full mailbox, in the end at the peer.
//!
//! Invariant: each large message or value in a mailbox has a permit. It counts against the budget of its peer, and against
//! that of all peers, until it is taken or dropped.

use antiphon_sched::{Budget, Delivery, Key, LoopRef, NodeId, Permit};

use super::NodeCore;
use super::driver::Driver;

/// The size up to which bodies do not count: the limit on the number of messages is enough.
const UNCOUNTED_BYTES_MAX: usize = 1024;
/// The number of bytes of one peer's large messages that may wait in mailboxes.
const PEER_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The number of bytes that each peer may have in mailboxes, however many bytes of other peers wait.
const PEER_BYTES_MIN: u64 = 1024 * 1024;
/// The number of bytes for all peers together, including peers that are not connected any more.
const ALL_PEERS_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The factor on these limits for messages to actors with an empty mailbox, so that one slow actor does not block the
/// messages of others.
const EMPTY_MAILBOX_FACTOR: u64 = 2;

impl NodeCore {
    /// Delivers a peer's message to a mailbox. `Full` if the mailbox has no room, or the budget has none.
    pub(super) fn deliver_here(
        &mut self,
        node: NodeId,
        to: Key,
        (tag, body): (&str, &[u8]),
        driver: &mut impl Driver,
    ) -> Delivery {
        if !self.fits_mailbox_budget(node, body.len()) {
            let fits_empty_mailbox = self.fits_mailbox_budget_times(node, body.len(), EMPTY_MAILBOX_FACTOR);
            if driver.loop_ref().mailbox_len(to).is_some_and(|waiting| waiting > 0 || !fits_empty_mailbox) {
                return Delivery::Full;
            }
        }
        let permit = self.acquire_permit(node, body.len());
        driver.loop_ref().with_permit(permit, |loop_ref| loop_ref.deliver(to, tag, body))
    }

    /// Runs `put`, which puts a value of a peer into a mailbox, with a permit for its bytes.
    pub(super) fn deliver_value<R>(
        &mut self,
        node: NodeId,
        bytes: usize,
        driver: &mut impl Driver,
        put: impl FnOnce(&mut LoopRef<'_>) -> R,
    ) -> R {
        let permit = self.acquire_permit(node, bytes);
        driver.loop_ref().with_permit(permit, put)
    }

    /// Whether the budget has room for another message or value of `bytes` bytes.
    pub(super) fn fits_mailbox_budget(&self, node: NodeId, bytes: usize) -> bool {
        bytes <= UNCOUNTED_BYTES_MAX || self.fits_mailbox_budget_times(node, bytes, 1)
    }

    /// As [`Self::fits_mailbox_budget`], with the limits multiplied by `times`.
    fn fits_mailbox_budget_times(&self, node: NodeId, bytes: usize, times: u64) -> bool {
        let bytes = bytes as u64;
        let of_peer =
            self.peers.get(&node).and_then(|peer| peer.mailbox_budget.as_ref()).map_or(0, Budget::bytes);
        let is_within_minimum = of_peer + bytes <= PEER_BYTES_MIN;
        let fits_total =
            is_within_minimum || self.mailbox_budget.bytes() + bytes <= times * ALL_PEERS_BYTES_MAX;
        of_peer + bytes <= times * PEER_BYTES_MAX && fits_total
    }

    /// Acquires a permit from a peer's budget. `None` if so few bytes do not count.
    fn acquire_permit(&mut self, node: NodeId, bytes: usize) -> Option<Permit> {
        if bytes <= UNCOUNTED_BYTES_MAX {
            return None;
        }
        let mailbox_budget = &mut self.peers.get_mut(&node)?.mailbox_budget;
        let mailbox_budget = mailbox_budget.get_or_insert_with(|| Budget::child_of(&self.mailbox_budget));
        Some(mailbox_budget.acquire(bytes as u64))
    }

    pub(super) fn check_mailbox_budget(&self) {
        let of_peers = self.peers.values().filter_map(|peer| peer.mailbox_budget.as_ref());
        let sum: u64 = of_peers.map(Budget::bytes).sum();
        assert!(sum <= self.mailbox_budget.bytes(), "the budget of all peers includes that of each");
    }
}

#[cfg(test)]
#[expect(clippy::wildcard_enum_match_arm, reason = "the actors of these tests ignore most events")]
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

    /// An encoded message of `bytes` bytes.
    fn body_of(bytes: usize) -> Vec<u8> {
        let mut body = Vec::new();
        Bytes(vec![0; bytes]).encode(&mut body).expect("bytes have an encoding");
        body
    }

    impl TestCore {
        fn deliver(&mut self, node: NodeId, to: Key, body: &[u8]) -> Delivery {
            self.core.deliver_here(node, to, ("bytes", body), &mut self.driver)
        }
    }

    /// An actor that takes 64 messages a millisecond, and the number of those it has taken.
    fn spawn_busy(test: &mut TestCore) -> (Key, Rc<Cell<usize>>) {
        let taken = Rc::new(Cell::new(0_usize));
        let count = taken.clone();
        let (_, busy) = test.spawn(move |_cx: &mut Cx<Bytes>, event| match event {
            Event::Message(_) => {
                count.set(count.get() + 1);
                if count.get().is_multiple_of(64) { sleep(millis(1)) } else { receive() }
            }
            _ => receive(),
        });
        (busy, taken)
    }

    /// An actor whose mailbox is never empty still receives all messages of a peer, while few of their bytes wait.
    #[test]
    fn busy_actor_within_budget_receives_all() {
        let mut test = TestCore::new();
        let node = test.add_peer(5);
        let (busy, taken) = spawn_busy(&mut test);
        let (small, large) = (body_of(8), body_of(64 << 10));
        (0..2000).for_each(|_| assert_eq!(test.deliver(node, busy, &small), Delivery::Delivered));
        for round in 0..400 {
            for nth in 0..64 {
                let body = if nth < 8 { &large } else { &small };
                assert_eq!(test.deliver(node, busy, body), Delivery::Delivered, "in round {round}");
            }
            test.advance();
        }
        assert!(test.core.mailbox_budget.bytes() > 200 * large.len() as u64, "its mailbox was never empty");
        (0..100).for_each(|_| test.advance());
        assert_eq!((taken.get(), test.core.mailbox_budget.bytes()), (2000 + 400 * 64, 0));
    }

    /// Messages that an actor takes, or that are dropped with it, make room for others.
    #[test]
    fn peer_over_mailbox_budget_must_wait() {
        let mut test = TestCore::new();
        let (node, other) = (test.add_peer(5), test.add_peer(6));
        let (busy, _) = spawn_busy(&mut test);
        let (idle, idle_key) = test.spawn(|_cx: &mut Cx<Bytes>, _| suspend());
        let body = body_of(15 << 20);
        test.advance();
        for to in [busy, idle_key, idle_key, busy] {
            assert_eq!(test.deliver(node, to, &body), Delivery::Delivered);
        }
        assert_eq!(
            [idle_key, busy].map(|to| test.deliver(node, to, &body)),
            [Delivery::Full, Delivery::Full]
        );
        assert_eq!(test.core.mailbox_budget.bytes(), 4 * body.len() as u64);
        let (_, empty) = test.spawn(|_cx: &mut Cx<Bytes>, _| suspend());
        assert_eq!(test.deliver(node, empty, &body), Delivery::Delivered, "its mailbox was empty");
        assert_eq!(test.deliver(node, empty, &body_of(UNCOUNTED_BYTES_MAX / 2)), Delivery::Delivered);
        assert_eq!(test.deliver(other, busy, &body), Delivery::Delivered, "each peer has its own budget");
        // The busy actor takes three messages, and the idle one exits with two.
        test.advance();
        assert_eq!(test.core.mailbox_budget.bytes(), 3 * body.len() as u64);
        test.driver.sched.loop_ref().terminate(idle);
        test.advance();
        assert_eq!(test.core.mailbox_budget.bytes(), body.len() as u64);
        for _ in 0..3 {
            assert_eq!(test.deliver(node, empty, &body), Delivery::Delivered);
        }
        assert_eq!(test.deliver(node, empty, &body), Delivery::Full);
    }

    #[test]
    fn many_empty_mailboxes_take_twice_the_budget() {
        let mut test = TestCore::new();
        let node = test.add_peer(5);
        let body = body_of(15 << 20);
        let accepted = (0..20).filter(|_| {
            let (_, sleeper) = test.spawn(|_cx: &mut Cx<Bytes>, _| suspend());
            test.deliver(node, sleeper, &body) == Delivery::Delivered
        });
        assert_eq!(accepted.count(), 8);
    }

    /// Messages that the predicate of `receive_if` leaves in the mailbox, and messages to an adapter, count until they are
    /// taken.
    #[test]
    fn skipped_and_adapted_messages_count_until_taken() {
        let mut test = TestCore::new();
        let node = test.add_peer(5);
        let (addr, selective) = test.spawn(|_cx: &mut Cx<Bytes>, event| match event {
            // Leaves large messages until it has received a small one.
            Event::Start => receive_if(|bytes: &Bytes| bytes.0.len() < 10_000),
            _ => receive(),
        });
        let adapted = body_of(2000);
        let adapter: Rc<Cell<Option<Key>>> = Rc::default();
        let adapter_key = adapter.clone();
        test.driver.sched.spawn(move |cx: &mut Cx<()>, event| {
            if matches!(event, Event::Start) {
                let adapter: Addr<Bytes> = cx.adapter(|_| ());
                assert!(cx.loop_ref().expose(adapter));
                adapter_key.set(Some(adapter.id().key()));
            }
            if matches!(event, Event::Resumed(_)) { receive() } else { suspend() }
        });
        test.advance();
        let adapter = adapter.get().expect("the actor has started");
        for (to, bytes) in [(selective, 20_000), (selective, 5000), (selective, 30_000), (adapter, 2000)] {
            assert_eq!(test.deliver(node, to, &body_of(bytes)), Delivery::Delivered);
        }
        let all: usize = [20_000, 5000, 30_000, 2000].map(|bytes| body_of(bytes).len()).iter().sum();
        assert_eq!(test.core.mailbox_budget.bytes(), all as u64);
        test.advance();
        assert_eq!(
            test.core.mailbox_budget.bytes(),
            adapted.len() as u64,
            "{addr:?} has taken the small message, and then all"
        );
        let owner = adapter.actor();
        assert!(test.driver.sched.loop_ref().resume_here(owner, Value::new(())));
        test.advance();
        assert_eq!(test.core.mailbox_budget.bytes(), 0);
    }

    /// The values of throws, resumes and exit reasons count like messages. Over the budget, throws and resumes are refused,
    /// and a `Down` arrives without its value.
    #[test]
    fn signal_values_count_against_mailbox_budget() {
        let mut test = TestCore::new();
        let node = test.add_peer(5);
        // It handles no signal yet, because it has not started.
        let (_, sleeper) = test.spawn(|_cx: &mut Cx<Bytes>, _| receive());
        let body = body_of(15 << 20);
        let value = || Value::encoded("bytes", &body);
        let refused = |test: &TestCore| test.core.counts.refused_messages;
        for _ in 0..10 {
            test.core.apply_signal(
                node,
                InboundSignal::Throw { target: sleeper, value: value() },
                &mut test.driver,
            );
        }
        assert_eq!((refused(&test), test.core.mailbox_budget.bytes()), (6, 4 * body.len() as u64));
        for _ in 0..10 {
            test.core.apply_signal(
                node,
                InboundSignal::Resume { target: sleeper, value: value() },
                &mut test.driver,
            );
        }
        assert_eq!((refused(&test), test.core.mailbox_budget.bytes()), (16, 4 * body.len() as u64));
        // The actor exits, which drops all values in its mailbox.
        test.driver.sched.loop_ref().terminate(ActorId::new(test.core.me(), sleeper));
        test.advance();
        assert_eq!(test.core.mailbox_budget.bytes(), 0);

        let downs: Rc<RefCell<Vec<usize>>> = Rc::default();
        let received = downs.clone();
        let (_, watcher) = test.spawn(move |_cx: &mut Cx<Bytes>, event| {
            if let Event::Down(down) = event {
                received.borrow_mut().push(bytes_of_reason(&down.reason));
            }
            receive()
        });
        for number in 0..10 {
            let id = MonitorId { origin: node, number };
            let actor = ActorId::new(node, Key::from_bits(number));
            test.core.apply_signal(node, InboundSignal::Notify { watcher, id, actor }, &mut test.driver);
        }
        for number in 0..10 {
            let id = MonitorId { origin: node, number };
            let reason = if number % 2 == 0 {
                ExitReason::Done(value())
            } else {
                ExitReason::Failed("x".repeat(body.len()))
            };
            test.core.apply_signal(node, InboundSignal::Down { watcher, id, reason }, &mut test.driver);
        }
        assert_eq!(test.core.mailbox_budget.bytes(), 4 * body.len() as u64);
        test.advance();
        let mut expected = vec![body.len(); 4];
        expected.resize(10, 0);
        assert_eq!(
            (&*downs.borrow(), test.core.mailbox_budget.bytes()),
            (&expected, 0),
            "each `Down` arrives once"
        );
    }
}
