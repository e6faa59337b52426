//! The budget of bytes for peers' messages at this node: in backlogs and in mailboxes.
//!
//! A mailbox is bounded in messages, not in bytes, and 65,536 messages of 16 MiB each would exhaust any memory. So messages
//! also count by their bytes. Each message over 1 KiB has a permit. Smaller ones share one for a group of about 4 KiB, which
//! lies beside the last of the group, and is dropped with it; what does not fill a group yet is counted in advance. The share of one actor is as many bytes as are still free in its peer's budget (a
//! dynamic threshold: Choudhury and Hahne 1998, alpha 1). So one actor that takes no messages leaves half of the budget to
//! others, and n such actors leave 1/(n+1). The peer is asked to hold back the frames for an actor that uses half of its
//! share; an actor that waits for a message that is not there may use its whole share. What arrives all the same is
//! accepted. Above twice the budget, frames for the actors that use much hold the peer's credit, and above four times all.
//!
//! Replies and the values of signals have budgets of their own, so messages that wait leave them their room.
//!
//! Invariant: each entry of a backlog, each large message or reply, each value of a signal and each group of small messages
//! in a mailbox has a permit until it is taken or dropped. That of messages or an entry counts against the budgets of its
//! actor, its peer and all peers. That of a reply or a value counts against `replies` of its peer and `all_replies_budget`,
//! and against no other.

use std::collections::BTreeMap;
use std::time::Duration;

use antiphon_sched::{Budget, Delivery, Key, LocalActors, MailboxLoad, OverBudget, Permit, Time};

use antiphon_wire::Limits;

use crate::node::driver::Driver;

/// The size up to which a body is small. Small messages count in groups. Small replies do not count: their number is limited
/// by the open requests of this node.
const SMALL_BYTES_MAX: usize = 1024;
/// The bytes that a small message counts in addition to its body.
const SMALL_OVERHEAD: u64 = 64;
/// The bytes of a group of small messages.
const GROUP_BYTES: u64 = 4 * 1024;
/// The steps in which bytes of small messages are counted in advance.
const GROUP_STEP: u64 = 1024;
/// The bytes that the value of a signal counts in addition to its body.
const SIGNAL_OVERHEAD: u64 = 128;
/// The number of bytes of one peer's messages that may wait in backlogs and mailboxes.
pub(in crate::node) const PEER_BYTES_MAX: u64 = 64 * 1024 * 1024;
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
/// The time between two sweeps of all budgets, while peers use too much.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);
/// The number of actors up to which their unused budgets are kept.
const ACTORS_KEPT_MIN: usize = 16;

/// The bytes of one peer's messages that wait at this node.
#[derive(Debug)]
pub(in crate::node) struct PeerBudget {
    all: Budget,
    actors: BTreeMap<Key, ActorBudget>,
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

    fn bytes(&self) -> u64 {
        self.all.used() + self.replies.used()
    }

    /// The most bytes of messages, replies and values of a peer with these limits. Above four times the budget, each frame
    /// holds its credit, of which there is one window; and large messages may be under way.
    pub(in crate::node) fn bytes_max(limits: &Limits) -> u64 {
        let under_way = u64::from(limits.reassembly_bytes_max.max(limits.message_bytes_max));
        // A small message may occupy more bytes than its frame.
        let window = 4 * u64::from(limits.window_bytes);
        HOLD_ALL_FACTOR * PEER_BYTES_MAX + window + under_way + PEER_BYTES_MAX
    }

    fn bytes_of(&self, actor: Key) -> u64 {
        self.actors.get(&actor).map_or(0, |actor| actor.budget.used())
    }

    /// The budget of an actor. Before a new one is added, those that are not in use are removed, if there are many.
    fn actor(&mut self, actor: Key, local: &mut LocalActors<'_>) -> &mut ActorBudget {
        if self.actors.len() >= self.sweep_at && !self.actors.contains_key(&actor) {
            self.sweep(local);
        }
        self.actors
            .entry(actor)
            .or_insert_with(|| ActorBudget { budget: Budget::child_of(&self.all), group: None })
    }

    /// Removes the budgets that are not in use, and the groups of actors with an empty mailbox.
    fn sweep(&mut self, local: &mut LocalActors<'_>) {
        self.actors.retain(|key, actor| actor.is_used(*key, local));
        self.sweep_at = (2 * self.actors.len()).max(ACTORS_KEPT_MIN);
    }

    /// Counts a small message for an actor, before it is delivered.
    fn add_small(&mut self, actor: Key, bytes: u64, local: &mut LocalActors<'_>) -> Option<Group> {
        let budget = self.actor(actor, local);
        let group = budget.group.get_or_insert_with(|| Group::new(&budget.budget));
        group.add(bytes);
        if group.used < GROUP_BYTES {
            return None;
        }
        let group = budget.group.take();
        let load = local.mailboxes().mailbox_load(actor);
        if let Some(MailboxLoad { item_bytes, .. }) = load.filter(|load| load.waiting > 0) {
            return group.map(|group| group.closed(item_bytes));
        }
        // The actor has taken all earlier ones.
        budget.group.insert(Group::new(&budget.budget)).add(bytes);
        None
    }

    /// Takes back that a small message was counted, because it was not delivered. `group` is the group that it closed.
    fn undo_small(&mut self, actor: Key, bytes: u64, group: Option<(u64, u32)>) {
        let Some(budget) = self.actors.get_mut(&actor) else { return };
        if let Some((used, messages)) = group {
            let reopened = budget.group.insert(Group::new(&budget.budget));
            reopened.add(used);
            reopened.messages = messages;
        }
        if let Some(group) = &mut budget.group {
            group.used = group.used.saturating_sub(bytes);
            group.messages = group.messages.saturating_sub(1);
        }
    }

    /// Whether the peer uses so much that each of its messages is checked.
    fn is_over(&self, all_peers: &Budget, times: u64) -> bool {
        let of_peer = self.all.used();
        of_peer > times * PEER_BYTES_MAX
            || (of_peer > PEER_BYTES_MIN && all_peers.used() > times * ALL_PEERS_BYTES_MAX)
    }
}

/// The bytes of one peer's messages that wait for one actor.
#[derive(Debug)]
struct ActorBudget {
    budget: Budget,
    /// The small messages that do not fill a group yet.
    group: Option<Group>,
}

impl ActorBudget {
    /// Whether something of it waits. A group is not in use any more when the mailbox is empty.
    fn is_used(&mut self, actor: Key, local: &mut LocalActors<'_>) -> bool {
        if self.group.is_some() && local.mailboxes().mailbox_load(actor).is_none_or(|load| load.waiting == 0)
        {
            self.group = None;
        }
        self.budget.used() > 0
    }
}

/// A group of small messages for one actor.
#[derive(Debug)]
struct Group {
    /// Covers at least `used`.
    permit: Permit,
    used: u64,
    messages: u32,
}

impl Group {
    fn new(budget: &Budget) -> Group {
        Group { permit: budget.acquire(GROUP_STEP), used: 0, messages: 0 }
    }

    fn add(&mut self, bytes: u64) {
        self.used += bytes;
        self.messages += 1;
        if let Some(missing) = self.used.checked_sub(self.permit.amount() + 1) {
            self.permit.grow((missing + 1).next_multiple_of(GROUP_STEP));
        }
    }

    /// The group, with the bytes that its items occupy in the mailbox.
    fn closed(mut self, item_bytes: usize) -> Group {
        let beyond = (item_bytes as u64).saturating_sub(SMALL_OVERHEAD);
        self.permit.grow(beyond * u64::from(self.messages));
        self
    }
}

/// The budget of one peer, which is made when it is first used.
#[derive(Debug, Default)]
pub(in crate::node) struct MailboxBudget {
    used: Option<Box<PeerBudget>>,
    /// When it was swept last because the peer used too much.
    swept_at: Option<Time>,
}

impl MailboxBudget {
    /// The bytes of messages, replies and values.
    pub(in crate::node) fn bytes(&self) -> u64 {
        self.used.as_ref().map_or(0, |budget| budget.bytes())
    }

    /// Frees it if nothing counts against it.
    pub(in crate::node) fn release_unused(&mut self) {
        self.used.take_if(|budget| budget.bytes() == 0);
    }

    fn get(&mut self, all: &AllBudgets) -> &mut PeerBudget {
        self.used.get_or_insert_with(|| Box::new(PeerBudget::new(&all.messages, &all.replies)))
    }

    /// Delivers a message of the peer to a mailbox. `Full` if the mailbox has no room, or others wait for room in it. Also returns
    /// whether to check now how much the peer and the actor use.
    pub(in crate::node) fn deliver(
        &mut self,
        all: &AllBudgets,
        to: Key,
        (tag, body): (&str, &[u8]),
        driver: &mut impl Driver,
    ) -> (Delivery, bool) {
        let deliver = |local: &mut LocalActors<'_>| local.mailboxes().deliver(to, tag, body);
        self.deliver_counted(all, to, body.len(), deliver, driver)
    }

    /// As [`Self::deliver`], for a message whose turn it is.
    pub(in crate::node) fn deliver_in_turn(
        &mut self,
        all: &AllBudgets,
        to: Key,
        (tag, body): (&str, &[u8]),
        driver: &mut impl Driver,
    ) -> Delivery {
        let deliver = |local: &mut LocalActors<'_>| {
            local.mailboxes().deliver_in_turn(to, |mailboxes| mailboxes.deliver(to, tag, body))
        };
        self.deliver_counted(all, to, body.len(), deliver, driver).0
    }

    fn deliver_counted(
        &mut self,
        all: &AllBudgets,
        to: Key,
        body_bytes: usize,
        deliver: impl FnOnce(&mut LocalActors<'_>) -> Delivery,
        driver: &mut impl Driver,
    ) -> (Delivery, bool) {
        let (actor, bytes) = (to.actor(), body_bytes as u64);
        if body_bytes > SMALL_BYTES_MAX {
            let permit = self.acquire_for(all, actor, bytes, driver);
            return (driver.local().with_permit(Some(permit), deliver), true);
        }
        let bytes = bytes + SMALL_OVERHEAD;
        let budget = self.get(all);
        let mut local = driver.local();
        let group = budget.add_small(actor, bytes, &mut local);
        let closed = group.as_ref().map(|group| (group.used, group.messages));
        let is_due = closed.is_some() || budget.is_over(&all.messages, HOLD_FACTOR);
        let delivery = local.with_permit(group.map(|group| group.permit), deliver);
        if !matches!(delivery, Delivery::Delivered | Delivery::DeliveredOverHalf) {
            budget.undo_small(actor, bytes, closed);
        }
        (delivery, is_due)
    }

    /// Whether an actor uses more than this part of its share of the budget.
    pub(in crate::node) fn uses_more_than(&self, actor: Key, part: SharePart) -> bool {
        let Some(budget) = &self.used else { return false };
        let of_actor = budget.bytes_of(actor);
        // As many bytes as would be free beside them.
        let share = PEER_BYTES_MAX.saturating_sub(budget.all.used() - of_actor) / 2;
        let share = share.max(4 * ACTOR_BYTES_FREE);
        match part {
            SharePart::All => of_actor > share,
            SharePart::Half => of_actor > share / 2,
            SharePart::Quarter => of_actor > share / 4,
        }
    }

    /// Whether the peer uses so many bytes that a frame for an actor holds its credit: one for an actor that uses more than
    /// its part above twice the budget, each above four times.
    pub(in crate::node) fn must_hold_credit(&self, all: &AllBudgets, actor: Option<Key>) -> bool {
        let Some(budget) = &self.used else { return false };
        let is_over = |times| budget.is_over(&all.messages, times);
        let is_large_user = actor.is_none_or(|actor| budget.bytes_of(actor) > ACTOR_BYTES_FREE);
        is_over(HOLD_ALL_FACTOR) || (is_large_user && is_over(HOLD_FACTOR))
    }

    /// Removes what is counted for actors that have taken all.
    fn sweep(&mut self, driver: &mut impl Driver) {
        if let Some(budget) = &mut self.used {
            budget.sweep(&mut driver.local());
        }
    }

    /// As a sweep, if that was not done in the last moments.
    pub(in crate::node) fn sweep_at_times(&mut self, now: Time, driver: &mut impl Driver) {
        if self.swept_at.is_none_or(|at| now.since(at) >= SWEEP_INTERVAL) {
            self.swept_at = Some(now);
            self.sweep(driver);
        }
    }

    /// Acquires a permit for a message to an actor, in a backlog or in a mailbox.
    pub(in crate::node) fn acquire_for(
        &mut self,
        all: &AllBudgets,
        actor: Key,
        bytes: u64,
        driver: &mut impl Driver,
    ) -> Permit {
        self.get(all).actor(actor, &mut driver.local()).budget.acquire(bytes)
    }

    /// Acquires a permit for a reply: replies have a budget of their own. `Err` if there is no room, `Ok(None)` if so few
    /// bytes do not count.
    pub(in crate::node) fn acquire_for_reply(
        &mut self,
        all: &AllBudgets,
        bytes: usize,
    ) -> Result<Option<Permit>, OverBudget> {
        if bytes <= SMALL_BYTES_MAX {
            return Ok(None);
        }
        self.acquire_from_replies(all, bytes as u64).map(Some)
    }

    /// Acquires a permit for the value of a signal, of any size, from the budget of replies. `Err` if there is no room.
    pub(in crate::node) fn acquire_for_value(
        &mut self,
        all: &AllBudgets,
        bytes: usize,
    ) -> Result<Permit, OverBudget> {
        self.acquire_from_replies(all, bytes as u64 + SIGNAL_OVERHEAD)
    }

    fn acquire_from_replies(&mut self, all: &AllBudgets, bytes: u64) -> Result<Permit, OverBudget> {
        let of_all = all.replies.used();
        let PeerBudget { replies, .. } = self.get(all);
        let of_peer = replies.used();
        let fits_all = of_peer + bytes <= PEER_BYTES_MIN || of_all + bytes <= ALL_PEERS_BYTES_MAX;
        let fits = of_peer + bytes <= PEER_BYTES_MAX && fits_all;
        let max = if fits_all { PEER_BYTES_MAX } else { ALL_PEERS_BYTES_MAX };
        fits.then(|| replies.acquire(bytes)).ok_or(OverBudget { max })
    }

    /// The bytes of its messages, after a check.
    pub(in crate::node) fn check(&self) -> u64 {
        let Some(budget) = &self.used else { return 0 };
        let actors: u64 = budget.actors.values().map(|actor| actor.budget.used()).sum();
        assert_eq!(actors, budget.all.used(), "the budget of a peer is the sum over its actors");
        budget.all.used()
    }
}

/// The bytes of messages that peers have sent and that wait at this node.
#[derive(Debug, Default)]
pub(in crate::node) struct AllBudgets {
    /// Messages in backlogs and mailboxes.
    messages: Budget,
    /// Replies and values in mailboxes.
    replies: Budget,
    /// When the budgets of all peers were swept last.
    swept_at: Option<Time>,
}

impl AllBudgets {
    /// Removes what is counted in these budgets for actors that have taken all, if that was not done in the last moments. Returns
    /// whether it was done now.
    pub(in crate::node) fn sweep<'a>(
        &mut self,
        now: Time,
        budgets: impl Iterator<Item = &'a mut MailboxBudget>,
        driver: &mut impl Driver,
    ) -> bool {
        if self.swept_at.is_some_and(|at| now.since(at) < SWEEP_INTERVAL) {
            return false;
        }
        self.swept_at = Some(now);
        budgets.for_each(|budget| budget.sweep(driver));
        true
    }

    pub(in crate::node) fn check<'a>(&self, budgets: impl Iterator<Item = &'a MailboxBudget>) {
        let sum: u64 = budgets.map(MailboxBudget::check).sum();
        assert!(sum <= self.messages.used(), "the budget of all peers includes that of each");
    }
}

/// A part of an actor's share of the budget.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(in crate::node) enum SharePart {
    All,
    Half,
    Quarter,
}

#[cfg(test)]
#[expect(clippy::wildcard_enum_match_arm, reason = "the actors of these tests ignore most events")]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    use antiphon_sched::{
        ActorId, Addr, Bytes, Cx, EncodedValue, Event, ExitReason, MonitorId, NodeId, SignalKind, Wire,
        millis, receive, receive_if, sleep, suspend,
    };

    use super::*;
    use crate::node::testing::TestCore;

    /// An encoded message of `bytes` bytes.
    fn body_of(bytes: usize) -> Vec<u8> {
        let mut body = Vec::new();
        Bytes::from(vec![0; bytes]).encode(&mut body).expect("bytes have an encoding");
        body
    }

    impl TestCore {
        fn deliver(&mut self, node: NodeId, to: Key, body: &[u8]) -> Delivery {
            self.deliver_as(node, to, ("bytes", body))
        }

        fn deliver_as(&mut self, node: NodeId, to: Key, message: (&str, &[u8])) -> Delivery {
            let peer = self.core.peers.get_mut(node).expect("the peer is known");
            peer.budget.deliver(&self.core.cx.budgets, to, message, &mut self.driver).0
        }

        fn must_hold_credit(&self, node: NodeId, actor: Option<Key>) -> bool {
            self.core
                .peers
                .get(node)
                .expect("the peer is known")
                .budget
                .must_hold_credit(&self.core.cx.budgets, actor)
        }

        fn uses_more_than_half(&self, node: NodeId, actor: Key) -> bool {
            self.core
                .peers
                .get(node)
                .expect("the peer is known")
                .budget
                .uses_more_than(actor, SharePart::Half)
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
        assert!(
            test.core.cx.budgets.messages.used() > 200 * large.len() as u64,
            "its mailbox was never empty"
        );
        (0..100).for_each(|_| test.advance());
        assert_eq!(taken.get(), 2000 + 400 * 64);
        assert!(
            test.core.cx.budgets.messages.used() <= 2 * GROUP_BYTES,
            "only the last group is not freed yet"
        );
    }

    /// Small messages to many actors that take none cost the peer its credit, however many actors there are. Messages that
    /// are refused free nothing.
    #[test]
    fn small_messages_to_sleepers_hold_credit() {
        let mut test = TestCore::new();
        let node = test.add_peer(5);
        let sleepers: Vec<Key> = (0..50).map(|_| test.spawn(|_cx: &mut Cx<Bytes>, _| suspend()).1).collect();
        test.advance();
        let body = body_of(1000);
        let mut bytes = 0;
        for round in 0.. {
            for to in &sleepers {
                assert_eq!(test.deliver(node, *to, &body), Delivery::Delivered);
                bytes += body.len() as u64 + SMALL_OVERHEAD;
                let refused = test.deliver_as(node, *to, ("other", &body));
                assert!(matches!(refused, Delivery::Refused(_)));
            }
            let counted = test.core.cx.budgets.messages.used();
            assert!(counted >= bytes, "{counted} bytes are counted for {bytes}, in round {round}");
            if test.must_hold_credit(node, Some(sleepers[0])) {
                break;
            }
        }
        assert!((PEER_BYTES_MAX..3 * PEER_BYTES_MAX).contains(&bytes), "{bytes} bytes wait");
        for to in sleepers {
            test.driver.sched.loop_ref().terminate(ActorId::new(test.core.me(), to));
        }
        test.advance();
        let left = test.core.cx.budgets.messages.used();
        assert!(left <= 50 * 2 * GROUP_BYTES, "{left} bytes are counted for actors that have ended");
        // They are removed when there are many.
        for _ in 0..200 {
            let (_, key) = test.spawn(|_cx: &mut Cx<Bytes>, _| receive());
            test.deliver(node, key, &body);
            test.advance();
        }
        assert!(test.core.cx.budgets.messages.used() <= 2 * 50 * GROUP_STEP);
    }

    /// The groups of very many actors that have taken all are not counted in the end.
    #[test]
    fn groups_of_idle_actors_hold_no_credit() {
        let mut test = TestCore::new();
        let node = test.add_peer(5);
        let body = body_of(1000);
        let actors: Vec<Key> =
            (0..70_000).map(|_| test.spawn(|_cx: &mut Cx<Bytes>, _| receive()).1).collect();
        for _ in 0..3 {
            actors.iter().for_each(|to| assert_eq!(test.deliver(node, *to, &body), Delivery::Delivered));
        }
        while test.driver.sched.is_runnable() {
            test.driver.sched.work();
        }
        assert!(test.must_hold_credit(node, None), "their groups are still counted");
        let budgets = test.core.peers.iter_mut().map(|peer| &mut peer.budget);
        assert!(test.core.cx.budgets.sweep(test.core.cx.now, budgets, &mut test.driver));
        assert_eq!(test.core.cx.budgets.messages.used(), 0);
    }

    /// An actor that takes its small messages is not charged for them.
    #[test]
    fn small_messages_of_fast_actor_cost_nothing() {
        let mut test = TestCore::new();
        let node = test.add_peer(5);
        let (_, fast) = test.spawn(|_cx: &mut Cx<Bytes>, _| receive());
        let body = body_of(100);
        for _ in 0..10_000 {
            assert_eq!(test.deliver(node, fast, &body), Delivery::Delivered);
            test.advance();
            assert!(test.core.cx.budgets.messages.used() <= GROUP_BYTES);
        }
    }

    /// Messages that an actor takes, or that are dropped with it, free their bytes. An actor that takes none is over its
    /// share when it uses half of what the others leave, and a peer over twice its budget loses its credit.
    #[test]
    fn stuck_actors_share_what_is_free() {
        let mut test = TestCore::new();
        let (node, other) = (test.add_peer(5), test.add_peer(6));
        let body = body_of(15 << 20);
        let is_over = |test: &TestCore, to| test.uses_more_than_half(node, to);
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
        assert!(!test.must_hold_credit(node, None));
        assert_eq!(
            test.deliver(other, stuck[0].1, &body),
            Delivery::Delivered,
            "each peer has its own budget"
        );
        assert!(!test.uses_more_than_half(other, stuck[0].1));
        (0..5).for_each(|_| assert_eq!(test.deliver(node, stuck[0].1, &body), Delivery::Delivered));
        assert!(test.must_hold_credit(node, Some(stuck[0].1)));
        let (_, healthy) = test.spawn(|_cx: &mut Cx<Bytes>, _| receive());
        assert!(!test.must_hold_credit(node, Some(healthy)) && !test.must_hold_credit(other, None));
        (0..9).for_each(|_| assert_eq!(test.deliver(node, stuck[0].1, &body), Delivery::Delivered));
        assert!(test.must_hold_credit(node, Some(healthy)));
        // An actor that exits frees its bytes.
        test.driver.sched.loop_ref().terminate(stuck[0].0);
        test.advance();
        assert_eq!(test.core.cx.budgets.messages.used(), 2 * body.len() as u64);
        assert!(!test.must_hold_credit(node, None) && !is_over(&test, stuck[0].1));
    }

    /// Unused budgets of actors are removed.
    #[test]
    fn budgets_of_many_actors_are_removed() {
        let mut test = TestCore::new();
        let node = test.add_peer(5);
        for number in 0..10_000 {
            let peer = test.core.peers.get_mut(node).expect("the peer is known");
            let (budgets, key) = (&test.core.cx.budgets, Key::from_bits(number));
            drop(peer.budget.acquire_for(budgets, key, 100, &mut test.driver));
        }
        let budget = test.core.peers.get(node).expect("the peer is known").budget.used.as_ref();
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
                assert!(cx.loop_ref().service().expose(adapter));
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
        assert_eq!(test.core.cx.budgets.messages.used(), all as u64);
        test.advance();
        assert_eq!(
            test.core.cx.budgets.messages.used(),
            adapted.len() as u64,
            "{addr:?} has taken the small message, and then all"
        );
        let owner = adapter.actor();
        assert!(test.driver.sched.local_actors().signals().resume(owner, EncodedValue::unit()));
        test.advance();
        assert_eq!(test.core.cx.budgets.messages.used(), 0);
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
        let value = || EncodedValue::new("bytes", &body);
        let sender = ActorId::new(node, Key::from_bits(1));
        let refused = |test: &TestCore| test.core.cx.counts.refused_messages;
        let counted = 4 * (body.len() as u64 + SIGNAL_OVERHEAD);
        for _ in 0..10 {
            test.apply_signal(sender, sleeper, SignalKind::Throw(value()));
        }
        assert_eq!((refused(&test), test.core.cx.budgets.replies.used()), (6, counted));
        for _ in 0..10 {
            test.apply_signal(sender, sleeper, SignalKind::Resume(value()));
        }
        assert_eq!((refused(&test), test.core.cx.budgets.replies.used()), (16, counted));
        // The actor exits, which drops all values in its mailbox.
        test.driver.sched.loop_ref().terminate(ActorId::new(test.core.me(), sleeper));
        test.advance();
        assert_eq!(test.core.cx.budgets.replies.used(), 0);

        let downs: Rc<RefCell<Vec<bool>>> = Rc::default();
        let received = downs.clone();
        let (_, watcher) = test.spawn(move |_cx: &mut Cx<Bytes>, event| {
            if let Event::Down(down) = event {
                received.borrow_mut().push(match down.reason {
                    ExitReason::Done(value) => value.get::<Bytes>().is_ok(),
                    ExitReason::Failed(text) => !text.is_empty(),
                    _ => false,
                });
            }
            receive()
        });
        for number in 0..10 {
            let id = MonitorId { origin: node, number };
            let actor = ActorId::new(node, Key::from_bits(number));
            test.apply_signal(actor, watcher, SignalKind::Notify(id));
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
        assert_eq!(test.core.cx.budgets.replies.used(), counted);
        test.advance();
        let mut expected = vec![true; 4];
        expected.resize(10, false);
        assert_eq!(
            (&*downs.borrow(), test.core.cx.budgets.replies.used()),
            (&expected, 0),
            "each `Down` arrives once, the first four with their values and texts"
        );
    }
}
