//! The budget of bytes for peers' messages at this node: in backlogs and in mailboxes.
//!
//! A mailbox is bounded in messages, not in bytes, and 65,536 messages of 16 MiB each would exhaust any memory. So large
//! messages also count by their bytes. The share of one actor is as many bytes as are still free in its peer's budget (a
//! dynamic threshold: Choudhury and Hahne 1998, alpha 1). So one actor that takes no messages leaves half of the budget to
//! others, and n such actors leave 1/(n+1). The peer is asked to hold back the frames for an actor that uses half of its
//! share; an actor that waits for a message that is not there may use its whole share. What arrives all the same is
//! accepted. Above twice the budget, frames for the actors that use much hold the peer's credit, and above four times all.
//!
//! Replies and the values of signals have budgets of their own, so messages that wait leave them their room.
//!
//! Invariant: each entry of a backlog, and each large message, reply or value in a mailbox, has a permit until it is taken
//! or dropped. That of a message or an entry counts against the budgets of its actor, its peer and all peers. That of a
//! reply or a value counts against `replies` of its peer and `all_replies_budget`, and against no other.

use std::collections::BTreeMap;

use antiphon_sched::{Budget, Delivery, Key, NodeId, Permit};

use super::NodeCore;
use super::driver::Driver;

/// The size up to which bodies in mailboxes do not count: the limit on the number of messages is enough.
pub(super) const UNCOUNTED_BYTES_MAX: usize = 1024;
/// The number of bytes of one peer's messages that may wait in backlogs and mailboxes.
pub(super) const PEER_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The number of bytes that each peer may use, however many bytes of other peers wait.
const PEER_BYTES_MIN: u64 = 1024 * 1024;
/// The factor on the budgets above which frames for actors that use more than `ACTOR_BYTES_FREE` hold the peer's credit.
const HOLD_FACTOR: u64 = 2;
/// The factor above which all frames do.
const HOLD_ALL_FACTOR: u64 = 4;
/// The number of bytes that an actor may use without a pause, whatever its share is: so that an actor that takes its
/// messages is never held up by others.
const ACTOR_BYTES_FREE: u64 = 256 * 1024;
/// The number of bytes for all peers together, including peers that are not connected any more.
const ALL_PEERS_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The number of actors up to which their unused budgets are kept.
const ACTORS_KEPT_MIN: usize = 16;

/// The bytes of one peer's messages that wait at this node.
#[derive(Debug)]
pub(super) struct PeerBudget {
    all: Budget,
    actors: BTreeMap<Key, Budget>,
    /// The number of actors at which unused budgets are removed.
    sweep_at: usize,
    /// The replies of the peer, and the values of its signals, that wait in mailboxes.
    replies: Budget,
}

impl PeerBudget {
    fn new(all_peers: &Budget, all_replies: &Budget) -> Self {
        Self {
            all: Budget::child_of(all_peers),
            actors: BTreeMap::new(),
            sweep_at: ACTORS_KEPT_MIN,
            replies: Budget::child_of(all_replies),
        }
    }

    /// The bytes of messages, replies and values.
    pub(super) fn bytes(&self) -> u64 {
        self.all.bytes() + self.replies.bytes()
    }

    fn bytes_of(&self, actor: Key) -> u64 {
        self.actors.get(&actor).map_or(0, Budget::bytes)
    }

    fn acquire(&mut self, actor: Key, bytes: u64) -> Permit {
        if self.actors.len() >= self.sweep_at {
            self.actors.retain(|_, budget| budget.bytes() > 0);
            self.sweep_at = (2 * self.actors.len()).max(ACTORS_KEPT_MIN);
        }
        self.actors.entry(actor).or_insert_with(|| Budget::child_of(&self.all)).acquire(bytes)
    }
}

impl NodeCore {
    /// Delivers a peer's message to a mailbox. `Full` if the mailbox has no room, or others wait for room in it.
    pub(super) fn deliver_here(
        &mut self,
        node: NodeId,
        to: Key,
        (tag, body): (&str, &[u8]),
        driver: &mut impl Driver,
    ) -> Delivery {
        let permit = self.acquire_for_mailbox(node, to.actor(), body.len());
        driver.loop_ref().with_permit(permit, |loop_ref| loop_ref.deliver(to, tag, body))
    }

    /// As [`Self::deliver_here`], for a message whose turn it is.
    pub(super) fn deliver_in_turn(
        &mut self,
        node: NodeId,
        to: Key,
        (tag, body): (&str, &[u8]),
        driver: &mut impl Driver,
    ) -> Delivery {
        let permit = self.acquire_for_mailbox(node, to.actor(), body.len());
        driver.loop_ref().with_permit(permit, |loop_ref| {
            loop_ref.deliver_in_turn(to, |loop_ref| loop_ref.deliver(to, tag, body))
        })
    }

    /// Whether an actor uses more than this part of its share of the budget.
    pub(super) fn uses_more_than(&self, node: NodeId, actor: Key, part: SharePart) -> bool {
        let Some(budget) = self.peers.get(&node).and_then(|peer| peer.budget.as_ref()) else { return false };
        let of_actor = budget.bytes_of(actor);
        // As many bytes as would be free beside them.
        let share = PEER_BYTES_MAX.saturating_sub(budget.all.bytes() - of_actor) / 2;
        let share = share.max(4 * ACTOR_BYTES_FREE);
        match part {
            SharePart::All => of_actor > share,
            SharePart::Half => of_actor > share / 2,
            SharePart::Quarter => of_actor > share / 4,
        }
    }

    /// Whether a peer uses so many bytes that a frame for an actor holds its credit: one for an actor that uses more than
    /// its part above twice the budget, each above four times.
    pub(super) fn must_hold_credit(&self, node: NodeId, actor: Option<Key>) -> bool {
        let Some(budget) = self.peers.get(&node).and_then(|peer| peer.budget.as_ref()) else { return false };
        let (of_peer, all) = (budget.all.bytes(), self.all_peers_budget.bytes());
        let is_over = |times: u64| {
            of_peer > times * PEER_BYTES_MAX
                || (of_peer > PEER_BYTES_MIN && all > times * ALL_PEERS_BYTES_MAX)
        };
        let is_large_user = actor.is_none_or(|actor| budget.bytes_of(actor) > ACTOR_BYTES_FREE);
        is_over(HOLD_ALL_FACTOR) || (is_large_user && is_over(HOLD_FACTOR))
    }

    fn budget_of(&mut self, node: NodeId) -> Option<&mut PeerBudget> {
        let budget = &mut self.peers.get_mut(&node)?.budget;
        Some(budget.get_or_insert_with(|| {
            Box::new(PeerBudget::new(&self.all_peers_budget, &self.all_replies_budget))
        }))
    }

    /// Acquires a permit for a message in a backlog.
    pub(super) fn acquire_for_backlog(&mut self, node: NodeId, actor: Key, bytes: u64) -> Option<Permit> {
        self.budget_of(node).map(|budget| budget.acquire(actor, bytes))
    }

    /// Acquires a permit for a message in a mailbox. `None` if so few bytes do not count.
    fn acquire_for_mailbox(&mut self, node: NodeId, actor: Key, bytes: usize) -> Option<Permit> {
        if bytes <= UNCOUNTED_BYTES_MAX {
            return None;
        }
        self.budget_of(node).map(|budget| budget.acquire(actor, bytes as u64))
    }

    /// Acquires a permit for a reply, or for the value of a signal: they have a budget of their own. `Err` if there is no
    /// room, `Ok(None)` if so few bytes do not count.
    pub(super) fn acquire_for_reply(
        &mut self,
        node: NodeId,
        bytes: usize,
    ) -> Result<Option<Permit>, OverBudget> {
        if bytes <= UNCOUNTED_BYTES_MAX {
            return Ok(None);
        }
        let bytes = bytes as u64;
        let all = self.all_replies_budget.bytes();
        let Some(PeerBudget { replies, .. }) = self.budget_of(node) else { return Err(OverBudget) };
        let of_peer = replies.bytes();
        let fits_all = of_peer + bytes <= PEER_BYTES_MIN || all + bytes <= ALL_PEERS_BYTES_MAX;
        let fits = of_peer + bytes <= PEER_BYTES_MAX && fits_all;
        fits.then(|| Some(replies.acquire(bytes))).ok_or(OverBudget)
    }

    pub(super) fn check_budgets(&self) {
        let of_peers = self.peers.values().filter_map(|peer| peer.budget.as_ref());
        let sum: u64 = of_peers.clone().map(|budget| budget.all.bytes()).sum();
        assert!(sum <= self.all_peers_budget.bytes(), "the budget of all peers includes that of each");
        for budget in of_peers {
            let actors: u64 = budget.actors.values().map(Budget::bytes).sum();
            assert_eq!(actors, budget.all.bytes(), "the budget of a peer is the sum over its actors");
        }
    }
}

/// A part of an actor's share of the budget.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum SharePart {
    All,
    Half,
    Quarter,
}

/// There is no room in the budget.
#[derive(Debug)]
pub(super) struct OverBudget;

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
        Bytes::from(vec![0; bytes]).encode(&mut body).expect("bytes have an encoding");
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
        assert!(test.core.all_peers_budget.bytes() > 200 * large.len() as u64, "its mailbox was never empty");
        (0..100).for_each(|_| test.advance());
        assert_eq!((taken.get(), test.core.all_peers_budget.bytes()), (2000 + 400 * 64, 0));
    }

    /// Messages that an actor takes, or that are dropped with it, free their bytes. An actor that takes none is over its
    /// share when it uses half of what the others leave, and a peer over twice its budget loses its credit.
    #[test]
    fn stuck_actors_share_what_is_free() {
        let mut test = TestCore::new();
        let (node, other) = (test.add_peer(5), test.add_peer(6));
        let body = body_of(15 << 20);
        let is_over = |test: &TestCore, to| test.core.uses_more_than(node, to, SharePart::Half);
        let stuck: Vec<(ActorId, Key)> = (0..3)
            .map(|_| {
                let (addr, key) = test.spawn(|_cx: &mut Cx<Bytes>, _| suspend());
                (addr.id(), key)
            })
            .collect();
        test.advance();
        let mut over = Vec::new();
        for (_, key) in &stuck {
            for nth in 1.. {
                assert_eq!(test.deliver(node, *key, &body), Delivery::Delivered);
                if is_over(&test, *key) {
                    over.push(nth);
                    break;
                }
            }
        }
        assert_eq!(over, [2, 1, 1], "of 64 MiB the first may use 16 MiB, the others less");
        assert!(!test.core.must_hold_credit(node, None));
        assert_eq!(
            test.deliver(other, stuck[0].1, &body),
            Delivery::Delivered,
            "each peer has its own budget"
        );
        assert!(!test.core.uses_more_than(other, stuck[0].1, SharePart::Half));
        (0..5).for_each(|_| assert_eq!(test.deliver(node, stuck[0].1, &body), Delivery::Delivered));
        assert!(test.core.must_hold_credit(node, Some(stuck[0].1)));
        let (_, healthy) = test.spawn(|_cx: &mut Cx<Bytes>, _| receive());
        assert!(!test.core.must_hold_credit(node, Some(healthy)) && !test.core.must_hold_credit(other, None));
        (0..9).for_each(|_| assert_eq!(test.deliver(node, stuck[0].1, &body), Delivery::Delivered));
        assert!(test.core.must_hold_credit(node, Some(healthy)));
        // An actor that exits frees its bytes.
        test.driver.sched.loop_ref().terminate(stuck[0].0);
        test.advance();
        assert_eq!(test.core.all_peers_budget.bytes(), 2 * body.len() as u64);
        assert!(!test.core.must_hold_credit(node, None) && !is_over(&test, stuck[0].1));
    }

    /// Unused budgets of actors are removed.
    #[test]
    fn budgets_of_many_actors_are_removed() {
        let mut test = TestCore::new();
        let node = test.add_peer(5);
        for number in 0..10_000 {
            drop(test.core.acquire_for_backlog(node, Key::from_bits(number), 100));
        }
        let budget = test.core.peers.get(&node).and_then(|peer| peer.budget.as_ref());
        assert!(budget.is_some_and(|budget| budget.actors.len() <= 2 * ACTORS_KEPT_MIN));
    }

    /// Messages that the predicate of `receive_if` leaves in the mailbox, and messages to an adapter, count until they are
    /// taken.
    #[test]
    fn skipped_and_adapted_messages_count_until_taken() {
        let mut test = TestCore::new();
        let node = test.add_peer(5);
        let (addr, selective) = test.spawn(|_cx: &mut Cx<Bytes>, event| match event {
            // Leaves large messages until it has received a small one.
            Event::Start => receive_if(|bytes: &Bytes| bytes.len() < 10_000),
            _ => receive(),
        });
        let adapted = body_of(2000);
        let adapter: Rc<Cell<Option<Key>>> = Rc::default();
        let adapter_key = adapter.clone();
        test.driver.sched.spawn(move |cx: &mut Cx<()>, event| {
            if matches!(event, Event::Start) {
                let adapter: Addr<Bytes> = cx.adapter(|_| ())?;
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
        assert_eq!(test.core.all_peers_budget.bytes(), all as u64);
        test.advance();
        assert_eq!(
            test.core.all_peers_budget.bytes(),
            adapted.len() as u64,
            "{addr:?} has taken the small message, and then all"
        );
        let owner = adapter.actor();
        assert!(test.driver.sched.loop_ref().resume_here(owner, Value::new(())));
        test.advance();
        assert_eq!(test.core.all_peers_budget.bytes(), 0);
    }

    /// The values of throws, resumes and exit reasons count like replies. Over the budget, throws and resumes are refused,
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
        assert_eq!((refused(&test), test.core.all_replies_budget.bytes()), (6, 4 * body.len() as u64));
        for _ in 0..10 {
            test.core.apply_signal(
                node,
                InboundSignal::Resume { target: sleeper, value: value() },
                &mut test.driver,
            );
        }
        assert_eq!((refused(&test), test.core.all_replies_budget.bytes()), (16, 4 * body.len() as u64));
        // The actor exits, which drops all values in its mailbox.
        test.driver.sched.loop_ref().terminate(ActorId::new(test.core.me(), sleeper));
        test.advance();
        assert_eq!(test.core.all_replies_budget.bytes(), 0);

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
            test.receive_down(node, id, reason);
        }
        assert_eq!(test.core.all_replies_budget.bytes(), 4 * body.len() as u64);
        test.advance();
        let mut expected = vec![body.len(); 4];
        expected.resize(10, 0);
        assert_eq!(
            (&*downs.borrow(), test.core.all_replies_budget.bytes()),
            (&expected, 0),
            "each `Down` arrives once"
        );
    }
}
