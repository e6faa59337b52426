//! The messages that a subscriber of a topic misses, because there is no room for them.
//!
//! A missed message is counted and not sent again. The count is reported behind the messages that the subscriber got, and
//! before the next one: to a subscriber of this node at once, to one of another node when its queue has room again. So a
//! subscriber that is full for ever costs its count and nothing else, and a publisher never waits for it.
//!
//! Invariant: while messages of a subscriber are unreported, the topic sends nothing to it and waits for room there; it is
//! then in one of the sets of [`LaggingSubscribers`]. It misses each message that the topic forwards meanwhile, so these
//! cost it nothing: they are the difference of two counts.

use std::collections::BTreeSet;
use std::ops::Bound;

use antiphon_sched::{ActorId, Cx, ExitReason, Lag, QueueRoom, SendMode};

use crate::service::NodeRef;

/// The subscribers whose room one topic awaits at once. Each is an open request of the topic; the limit leaves requests
/// for its monitors and answers.
const AWAITED_MAX: usize = 8192;
/// The size of a report on the wire, at most.
const REPORT_BYTES_MAX: u64 = 64;

/// The messages that one subscriber has missed.
#[derive(Debug, Default)]
pub(super) struct SubscriberLag {
    /// Missed messages that are not reported yet, without those that the topic has forwarded since.
    unreported: u64,
    /// The messages that the topic had forwarded when the first of these was missed.
    since: u64,
    /// All missed messages that were counted, for the log.
    total: u64,
    /// The event that waits in the mailbox of a subscriber of this node.
    queued: Lag,
    /// The subscription ends at its first missed message.
    ends: bool,
}

/// A subscription as its missed messages are counted and reported.
#[derive(Copy, Clone, Debug)]
pub(super) struct LaggingAt {
    pub(super) subscriber: ActorId,
    /// The channel, as the subscriber knows it.
    pub(super) channel: ActorId,
    /// The messages that the topic has forwarded, with the present one.
    pub(super) forwarded: u64,
    /// The bytes that may wait for a subscriber of another node when it gets one more message. `None` if the topic need not look.
    pub(super) waiting_max: Option<u64>,
}

impl LaggingAt {
    /// The room that the next message or report of a subscriber of another node needs at least.
    pub(super) fn needed_room(self) -> QueueRoom {
        QueueRoom { bytes: REPORT_BYTES_MAX, waiting_max: self.waiting_max.unwrap_or(u64::MAX) }
    }
}

/// Whether a subscription continues after missed messages.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Subscription {
    Continues,
    Ends,
}

/// The subscribers for which a topic waits until they have room.
#[derive(Debug, Default)]
pub(super) struct LaggingSubscribers {
    /// The topic receives `Writable` for these.
    registered: BTreeSet<ActorId>,
    /// These wait until the topic may register one more.
    unregistered: BTreeSet<ActorId>,
    /// The one of these that was tried last.
    tried: Option<ActorId>,
}

impl LaggingSubscribers {
    /// The mode of a message to another node: a refused one registers the topic for `Writable`, if it may.
    pub(super) fn send_mode(&self) -> SendMode {
        if self.registered.len() < AWAITED_MAX { SendMode::Send } else { SendMode::Once }
    }

    /// Notes that a message in the mode of [`LaggingSubscribers::send_mode`] was refused.
    fn add(&mut self, subscriber: ActorId) {
        match self.send_mode() {
            SendMode::Send => self.registered.insert(subscriber),
            _ => self.unregistered.insert(subscriber),
        };
    }

    /// Waits for room in the mailbox of an actor of this node.
    fn add_local<M: 'static>(&mut self, cx: &mut Cx<'_, M>, subscriber: ActorId) {
        if self.send_mode() == SendMode::Send {
            cx.loop_ref().service().await_room(subscriber);
        }
        self.add(subscriber);
    }

    /// Ends the wait for a subscriber.
    pub(super) fn remove<M: 'static>(&mut self, cx: &mut Cx<'_, M>, subscriber: ActorId) {
        self.unregistered.remove(&subscriber);
        if self.registered.remove(&subscriber) {
            let me = cx.id().key();
            cx.loop_ref().service().cancel_await_room(me, subscriber);
        }
    }

    /// The number of subscribers for which no event reports room.
    pub(super) fn unregistered(&self) -> usize {
        self.unregistered.len()
    }

    /// The next subscriber for which no event reports room, so that it is tried again: each in its turn.
    pub(super) fn next_unregistered(&mut self) -> Option<ActorId> {
        let after = self.tried.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.unregistered.range((after, Bound::Unbounded)).next();
        self.tried = next.or(self.unregistered.first()).copied();
        self.tried
    }

    /// Notes the `Writable` of an actor. Returns the subscribers to report to: the actor, and one that could not be
    /// registered before.
    pub(super) fn on_writable(&mut self, actor: ActorId) -> impl Iterator<Item = ActorId> + use<> {
        let is_awaited = self.registered.remove(&actor);
        let next = if is_awaited { self.unregistered.pop_first() } else { None };
        is_awaited.then_some(actor).into_iter().chain(next)
    }
}

impl SubscriberLag {
    pub(super) fn new(ends: bool) -> Self {
        Self { ends, ..Self::default() }
    }

    /// Sets whether the subscription ends at its first missed message.
    pub(super) fn set_ends(&mut self, ends: bool) {
        self.ends = ends;
    }

    /// Whether messages are unreported, so that no message may be sent.
    pub(super) fn is_waiting(&self) -> bool {
        self.unreported > 0
    }

    /// The subscriber got a message: messages that it misses from now on are reported by another event.
    pub(super) fn end(&mut self) {
        self.queued.end();
    }

    /// Counts a message that was refused in the mode of [`LaggingSubscribers::send_mode`] by a queue to another node.
    pub(super) fn add_refused<M: 'static>(
        &mut self,
        cx: &mut Cx<'_, M>,
        at: LaggingAt,
        room: &mut LaggingSubscribers,
    ) -> Subscription {
        self.count(cx, at, 1);
        room.add(at.subscriber);
        if self.ends { self.report(cx, at, room) } else { Subscription::Continues }
    }

    /// Counts messages that the subscriber misses, and reports them at once, unless earlier ones are unreported.
    pub(super) fn add<M: 'static>(
        &mut self,
        cx: &mut Cx<'_, M>,
        at: LaggingAt,
        room: &mut LaggingSubscribers,
        missed: u64,
    ) -> Subscription {
        let is_waiting = self.is_waiting();
        self.count(cx, at, missed);
        if is_waiting { Subscription::Continues } else { self.report(cx, at, room) }
    }

    fn count<M: 'static>(&mut self, cx: &mut Cx<'_, M>, at: LaggingAt, missed: u64) {
        let LaggingAt { subscriber, channel, forwarded, .. } = at;
        if self.unreported == 0 {
            self.since = forwarded;
        }
        self.unreported = self.unreported.saturating_add(missed);
        let before = self.total;
        self.total = before.saturating_add(missed);
        // The throttle of the node compares texts, so a fast channel asks it seldom.
        if (before.checked_ilog2() != self.total.checked_ilog2() || before / 4096 != self.total / 4096)
            && NodeRef::of(cx.loop_ref()).may_log("lagged", format_args!("{channel} {subscriber}"))
        {
            tracing::warn!(%channel, %subscriber, missed = self.total, "a subscriber has no room and misses messages of its channel; it receives `Event::Lagged` (logged at most once an hour; `missed` counts all since it subscribed)");
        }
    }

    /// Takes the number of unreported messages, with those that the topic has forwarded meanwhile.
    fn take_unreported<M: 'static>(&mut self, cx: &mut Cx<'_, M>, at: LaggingAt) -> u64 {
        if self.is_waiting() {
            self.count(cx, at, at.forwarded - self.since);
        }
        std::mem::take(&mut self.unreported)
    }

    /// Reports the missed messages before the topic ends, if there are any. It cannot wait for room then.
    pub(super) fn report_at_end<M: 'static>(
        &mut self,
        cx: &mut Cx<'_, M>,
        at: LaggingAt,
        room: &mut LaggingSubscribers,
    ) {
        let (me, subscriber) = (cx.id(), at.subscriber);
        if subscriber.node() == me.node() || !self.is_waiting() {
            self.report(cx, at, room);
            return;
        }
        room.remove(cx, subscriber);
        let missed = self.take_unreported(cx, at);
        cx.loop_ref().service().report_missed(me.key(), subscriber, missed, self.ends);
    }

    /// Reports the missed messages, if there are any, or waits for room in the queue to the subscriber.
    pub(super) fn report<M: 'static>(
        &mut self,
        cx: &mut Cx<'_, M>,
        at: LaggingAt,
        room: &mut LaggingSubscribers,
    ) -> Subscription {
        let LaggingAt { subscriber, channel, forwarded, .. } = at;
        let missed = self.take_unreported(cx, at);
        room.remove(cx, subscriber);
        if missed == 0 {
            return Subscription::Continues;
        }
        let me = cx.id();
        let loop_ref = cx.loop_ref();
        let after = if self.ends { Subscription::Ends } else { Subscription::Continues };
        if subscriber.node() != me.node() {
            if !loop_ref.service().has_queue_room(subscriber, at.needed_room(), room.send_mode()) {
                (self.unreported, self.since) = (missed, forwarded);
                room.add(subscriber);
                return Subscription::Continues;
            }
            loop_ref.service().report_missed(me.key(), subscriber, missed, self.ends);
            return after;
        }
        let key = subscriber.key();
        let is_reported = match after {
            Subscription::Ends => loop_ref.service().push_down(key, channel, ExitReason::Lagged),
            Subscription::Continues => loop_ref.service().add_missed(key, channel, missed, &mut self.queued),
        };
        if !is_reported && loop_ref.is_alive(key) {
            // Events fill its mailbox up to twice its limit.
            (self.unreported, self.since) = (missed, forwarded);
            room.add_local(cx, subscriber);
            return Subscription::Continues;
        }
        after
    }
}

#[cfg(test)]
mod tests {
    use antiphon_sched::{Key, NodeId};

    use super::*;

    fn subscriber(number: usize) -> ActorId {
        ActorId::new(NodeId::from_bits(1), Key::from_bits(number as u64))
    }

    #[test]
    fn awaited_room_is_bounded_and_taken_over() {
        let mut room = LaggingSubscribers::default();
        for number in 0..AWAITED_MAX {
            assert_eq!(room.send_mode(), SendMode::Send);
            room.add(subscriber(number));
        }
        assert_eq!(room.send_mode(), SendMode::Once, "one more is not registered");
        let late = subscriber(AWAITED_MAX);
        room.add(late);
        let reported: Vec<_> = room.on_writable(subscriber(7)).collect();
        assert_eq!(reported, [subscriber(7), late], "one that was not registered is reported to as well");
        assert_eq!(room.on_writable(subscriber(7)).count(), 0, "nothing is awaited twice");
        assert_eq!(room.send_mode(), SendMode::Send);
    }

    #[test]
    fn subscribers_not_registered_are_tried_in_turn() {
        let mut room = LaggingSubscribers::default();
        (0..AWAITED_MAX + 3).for_each(|number| room.add(subscriber(number)));
        let tried: Vec<_> = (0..5).filter_map(|_| room.next_unregistered()).collect();
        assert_eq!(tried, [0, 1, 2, 0, 1].map(|number| subscriber(AWAITED_MAX + number)));
    }
}
