//! The subscribers of a topic actor.
//!
//! A subscriber without room misses messages; see [`subscriber_lag`](super::subscriber_lag).
//!
//! Invariant: `total` is the number of actors in the tables and behind the topics in them. `lagging` has the entries with
//! unreported missed messages, and `receiving` all others. The topic actor monitors each entry once. A message costs the
//! topic work for each entry of `receiving` alone.

use std::any::type_name;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use antiphon_sched::{
    ActorId, Addr, Budget, Cx, DeadLetter, Monitor, NodeId, PayloadError, Permit, Time, Undelivered, Wire,
    millis,
};

use super::fanout::{Content, Fanout, Missed, Part, UpstreamsUpdate};
use super::message::{ChannelMessage, TopicAddr};
use super::queue_share::{QueueShares, SentCopies};
use super::state;
use super::subscriber_lag::{LaggingAt, LaggingSubscribers, SubscriberLag, Subscription};
use crate::error::SubscribeError;
use crate::service::{FromNode, NodeRef, PeerQuota};

/// The entries of one topic. Each costs a monitor.
pub(super) const ENTRIES_MAX: usize = 32_768;
/// The entries that all other nodes together may add. Each costs an answer of a delivery, so the limit leaves answers
/// for the deliveries of the channel's own node.
const ENTRIES_OF_PEERS_MAX: usize = 12_288;
/// The largest count that a downstream topic can report: more than there can be subscribers, and small enough that sums
/// do not overflow.
const COUNT_MAX: u64 = 1 << 40;
/// The subscribers without a registration for room that are tried again at a message, and how long none is tried after it. So a
/// fast channel spends little on those that take nothing.
const UNREGISTERED_TRIED: usize = 16;
const TRIED_AGAIN_AFTER: Duration = millis(10);

type ChannelCx<'c, T> = Cx<'c, FromNode<ChannelMessage<T>>>;

/// The subscribers of one topic.
pub(super) struct Subscribers<T> {
    receiving: BTreeMap<ActorId, SubscriberEntry<T>>,
    lagging: BTreeMap<ActorId, SubscriberEntry<T>>,
    /// The entries that are topics.
    topics: BTreeMap<ActorId, TopicAddr<T>>,
    /// The entries that answer to a delivery: topics, and actors of other nodes.
    answering: usize,
    total: u64,
    /// The messages that the topic has forwarded, and those that it has missed itself.
    forwarded: u64,
    /// The entries that peers have added; made with the first entry.
    by_peer: Option<PeerQuota>,
    awaited_room: LaggingSubscribers,
    /// When subscribers without a registration for room are tried again at the soonest.
    next_try: Time,
    queue_shares: QueueShares,
    /// The large messages of peers that wait in the mailboxes of this node's subscribers.
    copies: Budget,
}

struct SubscriberEntry<T> {
    recipient: Recipient<T>,
    monitor: Monitor,
    /// `None` if this node added the entry.
    quota: Option<SubscriberQuota>,
    lag: SubscriberLag,
    sent: SentCopies,
    /// Its part of the topic's `copies`, if it has had one.
    copies: Option<Budget>,
}

/// The part of its quotas that an entry of a peer uses.
pub(super) struct SubscriberQuota {
    peer: NodeId,
    _of_channel: Permit,
    _of_node: Permit,
}

/// The actor behind an entry.
pub(super) enum Recipient<T> {
    Actor(Addr<T>),
    /// A downstream topic, and the number of subscribers that it reported.
    Topic(TopicAddr<T>, u64),
}

impl<T> Recipient<T> {
    fn weight(&self) -> u64 {
        match self {
            Self::Actor(_) => 1,
            Self::Topic(_, subscribers) => *subscribers,
        }
    }

    pub(super) fn id(&self) -> ActorId {
        match self {
            Self::Actor(addr) => addr.id(),
            Self::Topic(addr, _) => addr.id(),
        }
    }

    /// Whether it answers to a delivery of a topic of this node.
    fn answers(&self, node_id: NodeId) -> bool {
        match self {
            Self::Actor(addr) => addr.node() != node_id,
            Self::Topic(..) => true,
        }
    }
}

impl<T: Wire + Clone> Subscribers<T> {
    pub(super) fn new() -> Self {
        Self {
            receiving: BTreeMap::new(),
            lagging: BTreeMap::new(),
            topics: BTreeMap::new(),
            answering: 0,
            total: 0,
            forwarded: 0,
            by_peer: None,
            awaited_room: LaggingSubscribers::default(),
            next_try: Time::ZERO,
            queue_shares: QueueShares::default(),
            copies: Budget::default(),
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn is_empty(&self) -> bool {
        self.receiving.is_empty() && self.lagging.is_empty()
    }

    fn entry(&self, id: ActorId) -> Option<&SubscriberEntry<T>> {
        self.receiving.get(&id).or_else(|| self.lagging.get(&id))
    }

    fn entry_mut(&mut self, id: ActorId) -> Option<&mut SubscriberEntry<T>> {
        self.receiving.get_mut(&id).or_else(|| self.lagging.get_mut(&id))
    }

    fn entries(&self) -> impl Iterator<Item = &SubscriberEntry<T>> {
        self.receiving.values().chain(self.lagging.values())
    }

    /// Reserves quota for one more entry, for a peer or for this node (`None`). The entries of this node have no quota.
    pub(super) fn take_quota(
        &mut self,
        cx: &mut ChannelCx<'_, T>,
        peer: Option<NodeId>,
    ) -> Result<Option<SubscriberQuota>, SubscribeError> {
        let state = state(cx.loop_ref()).ok_or(SubscribeError::NoNode)?;
        let of_peer_max = state.channel_subscriptions_max;
        let new_quota = || PeerQuota::with_total(ENTRIES_OF_PEERS_MAX, of_peer_max);
        let by_peer = self.by_peer.get_or_insert_with(new_quota);
        let quota = match peer {
            _ if self.receiving.len() + self.lagging.len() >= ENTRIES_MAX => Err(SubscribeError::TooMany),
            Some(_) if by_peer.used() >= ENTRIES_OF_PEERS_MAX as u64 => Err(SubscribeError::TooMany),
            None => return Ok(None),
            Some(peer) => match (by_peer.take(peer), state.subscriptions.take(peer)) {
                (Ok(of_channel), Ok(of_node)) => {
                    Ok(Some(SubscriberQuota { peer, _of_channel: of_channel, _of_node: of_node }))
                }
                _ => Err(SubscribeError::OverQuota),
            },
        };
        if let (Err(_), Some(peer)) = (&quota, peer) {
            state.refused += 1;
            let what = "has more subscribers than it may";
            NodeRef::of(cx.loop_ref()).log_refused(peer, "subscriptions", what);
        }
        quota
    }

    /// Whether a peer has added this entry.
    pub(super) fn is_added_by(&self, actor: ActorId, peer: NodeId) -> bool {
        let quota = self.entry(actor).and_then(|entry| entry.quota.as_ref());
        quota.is_some_and(|quota| quota.peer == peer)
    }

    /// Whether there is an entry of this kind that the peer, or this node (`None`), has added.
    pub(super) fn has_entry(&self, actor: ActorId, peer: Option<NodeId>, as_topic: bool) -> bool {
        self.entry(actor).is_some_and(|entry| {
            let is_topic = matches!(entry.recipient, Recipient::Topic(..));
            is_topic == as_topic && entry.quota.as_ref().map(|quota| quota.peer) == peer
        })
    }

    pub(super) fn has(&self, actor: ActorId) -> bool {
        self.entry(actor).is_some()
    }

    /// The most answers that one delivery waits for: from topics, and from actors on other nodes.
    pub(super) fn answering(&self) -> usize {
        self.answering
    }

    pub(super) fn topics_len(&self) -> usize {
        self.topics.len()
    }

    pub(super) fn actors(&self) -> impl Iterator<Item = Addr<T>> {
        self.entries().filter_map(|entry| match &entry.recipient {
            Recipient::Actor(addr) => Some(*addr),
            Recipient::Topic(..) => None,
        })
    }

    /// Adds an entry, or replaces the recipient and the quota of the entry with the same id.
    pub(super) fn insert(
        &mut self,
        cx: &mut ChannelCx<'_, T>,
        recipient: Recipient<T>,
        quota: Option<SubscriberQuota>,
        ends_on_lag: bool,
    ) {
        let (id, node_id) = (recipient.id(), cx.id().node());
        self.count(&recipient, node_id);
        let Some(entry) = self.entry_mut(id) else {
            let monitor = cx.monitor(id);
            let lag = SubscriberLag::new(ends_on_lag);
            let sent = SentCopies::default();
            self.receiving.insert(id, SubscriberEntry { recipient, monitor, quota, lag, sent, copies: None });
            return;
        };
        entry.lag.set_ends(ends_on_lag);
        let recipient = std::mem::replace(&mut entry.recipient, recipient);
        let quota = std::mem::replace(&mut entry.quota, quota);
        drop(quota);
        self.uncount(&recipient, node_id);
        if let Some(SubscriberEntry { recipient: Recipient::Topic(topic, _), .. }) = self.entry(id) {
            self.topics.insert(id, *topic);
        }
    }

    /// Counts a new entry.
    fn count(&mut self, recipient: &Recipient<T>, node_id: NodeId) {
        self.total += recipient.weight();
        self.answering += usize::from(recipient.answers(node_id));
        if recipient.id().node() != node_id {
            self.queue_shares.add(recipient.id().node());
        }
        if let Recipient::Topic(topic, _) = recipient {
            self.topics.insert(topic.id(), *topic);
        }
    }

    /// Takes back what [`Self::count`] has counted for an entry.
    fn uncount(&mut self, recipient: &Recipient<T>, node_id: NodeId) {
        self.total -= recipient.weight();
        self.answering -= usize::from(recipient.answers(node_id));
        if recipient.id().node() != node_id {
            self.queue_shares.remove(recipient.id().node());
        }
        self.topics.remove(&recipient.id());
    }

    /// Sets whether the subscription of an actor ends at its first missed message.
    pub(super) fn set_ends_on_lag(&mut self, actor: ActorId, ends: bool) {
        if let Some(entry) = self.entry_mut(actor) {
            entry.lag.set_ends(ends);
        }
    }

    /// Removes an entry. Its actor may have exited.
    pub(super) fn remove(&mut self, cx: &mut ChannelCx<'_, T>, actor: ActorId) -> Option<Recipient<T>> {
        let entry = self.receiving.remove(&actor).or_else(|| self.lagging.remove(&actor))?;
        let SubscriberEntry { recipient, monitor, .. } = entry;
        cx.demonitor(monitor);
        self.awaited_room.remove(cx, actor);
        self.uncount(&recipient, cx.id().node());
        Some(recipient)
    }

    /// Sets the number of subscribers behind a downstream topic.
    pub(super) fn set_count(&mut self, topic: ActorId, subscribers: u64) {
        let subscribers = subscribers.min(COUNT_MAX);
        if let Some(SubscriberEntry { recipient: Recipient::Topic(_, known), .. }) = self.entry_mut(topic) {
            let known = std::mem::replace(known, subscribers);
            self.total = self.total - known + subscribers;
        }
    }

    /// Begins to pass something on, which all that lag miss. Tries some of those again for which no event reports room. Returns
    /// true if a subscription has ended.
    pub(super) fn begin(
        &mut self,
        cx: &mut ChannelCx<'_, T>,
        channel: ActorId,
        content: &Content<T>,
    ) -> bool {
        let mut has_ended = false;
        let unregistered = self.awaited_room.unregistered();
        if unregistered > 0 && cx.now() >= self.next_try {
            self.next_try = cx.now() + TRIED_AGAIN_AFTER;
            for _ in 0..unregistered.min(UNREGISTERED_TRIED) {
                let Some(actor) = self.awaited_room.next_unregistered() else { break };
                has_ended |= self.report(cx, channel, actor);
            }
        }
        let messages = match content {
            Content::Message(_) => 1,
            Content::Missed(missed) => *missed,
            Content::Upstreams(_) => 0,
        };
        self.forwarded = self.forwarded.saturating_add(messages);
        has_ended
    }

    /// Passes something on to the next subscribers, until the time of the round is over. One without room misses it. Returns
    /// whether it has gone to all subscribers.
    pub(super) fn send(
        &mut self,
        cx: &mut ChannelCx<'_, T>,
        channel: ActorId,
        fanout: &mut Fanout<T>,
    ) -> bool {
        if let Fanout { content: Content::Upstreams(update), last, .. } = fanout {
            return self.send_upstreams(cx, update, last);
        }
        let after = fanout.last.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut moved, mut part) = (Vec::new(), Part::new());
        let mut is_complete = true;
        for (id, entry) in self.receiving.range_mut((after, Bound::Unbounded)) {
            // The clock is not read after the last one, but before the next.
            if part.is_over(cx.loop_ref()) {
                is_complete = false;
                break;
            }
            let at = entry.lagging_at(cx, channel, self.forwarded, &self.queue_shares);
            let after = match &mut fanout.content {
                Content::Message(outgoing) => {
                    let has_share = entry.has_queue_share(cx, at, &self.awaited_room);
                    let SubscriberEntry { recipient, copies, .. } = entry;
                    let sent = if has_share {
                        outgoing.send_to(cx, &self.awaited_room, recipient, copies, &self.copies)
                    } else {
                        Err(Undelivered::Busy.into())
                    };
                    if sent.is_ok() && id.node() != cx.id().node() {
                        entry.sent.add(outgoing.encoded_bytes());
                    }
                    entry.after_sending(cx, at, &mut self.awaited_room, sent)
                }
                Content::Missed(missed) => entry.lag.add(cx, at, &mut self.awaited_room, *missed),
                Content::Upstreams(_) => Subscription::Continues,
            };
            if after == Subscription::Ends || entry.lag.is_waiting() {
                entry.sent.slow_down();
                moved.push((*id, after));
            }
            fanout.last = Some(*id);
        }
        fanout.has_ended |= self.settle(cx, moved);
        is_complete
    }

    /// Sends the upstreams to the next downstream topics, until the time of the round is over. Those that lag have no room. Returns
    /// whether they have gone to all.
    fn send_upstreams(
        &self,
        cx: &mut ChannelCx<'_, T>,
        update: &mut UpstreamsUpdate,
        last: &mut Option<ActorId>,
    ) -> bool {
        let after = last.map_or(Bound::Unbounded, Bound::Excluded);
        let mut part = Part::new();
        for (id, topic) in self.topics.range((after, Bound::Unbounded)) {
            if part.is_over(cx.loop_ref()) {
                return false;
            }
            if !self.lagging.contains_key(id) {
                update.send_to(cx, *topic);
            }
            *last = Some(*id);
        }
        true
    }

    /// Counts one message that a subscriber has refused. Returns true if its subscription has ended.
    #[must_use]
    pub(super) fn miss(&mut self, cx: &mut ChannelCx<'_, T>, channel: ActorId, actor: ActorId) -> bool {
        let Some(entry) = self.receiving.get_mut(&actor).or_else(|| self.lagging.get_mut(&actor)) else {
            return false;
        };
        let at = entry.lagging_at(cx, channel, self.forwarded, &self.queue_shares);
        let after = entry.lag.add(cx, at, &mut self.awaited_room, 1);
        self.settle(cx, vec![(actor, after)])
    }

    /// Reports missed messages after the `Writable` of an actor. Returns true if a subscription has ended.
    #[must_use]
    pub(super) fn on_writable(
        &mut self,
        cx: &mut ChannelCx<'_, T>,
        channel: ActorId,
        actor: ActorId,
    ) -> bool {
        let mut has_ended = false;
        for actor in self.awaited_room.on_writable(actor) {
            has_ended |= self.report(cx, channel, actor);
        }
        has_ended
    }

    /// Reports the missed messages of a subscriber that lags, if there is room. Returns true if its subscription has ended.
    fn report(&mut self, cx: &mut ChannelCx<'_, T>, channel: ActorId, actor: ActorId) -> bool {
        let Some(entry) = self.lagging.get_mut(&actor) else { return false };
        let at = entry.lagging_at(cx, channel, self.forwarded, &self.queue_shares);
        let after = entry.lag.report(cx, at, &mut self.awaited_room);
        if !entry.lag.is_waiting() {
            entry.sent.restart();
        }
        self.settle(cx, vec![(actor, after)])
    }

    /// Moves entries into the table of their state, and removes those whose subscription ends. Returns whether there are any.
    fn settle(&mut self, cx: &mut ChannelCx<'_, T>, changed: Vec<(ActorId, Subscription)>) -> bool {
        let mut has_ended = false;
        for (id, after) in changed {
            if after == Subscription::Ends {
                has_ended |= self.remove(cx, id).is_some();
            } else if let Some(entry) = self.receiving.remove(&id).or_else(|| self.lagging.remove(&id)) {
                let table = if entry.lag.is_waiting() { &mut self.lagging } else { &mut self.receiving };
                table.insert(id, entry);
            }
        }
        has_ended
    }

    /// Reports all missed messages before the topic ends.
    pub(super) fn report_all(&mut self, cx: &mut ChannelCx<'_, T>, channel: ActorId) {
        for entry in self.receiving.values_mut().chain(self.lagging.values_mut()) {
            let at = entry.lagging_at(cx, channel, self.forwarded, &self.queue_shares);
            entry.lag.report_at_end(cx, at, &mut self.awaited_room);
        }
    }
}

impl<T: Wire> SubscriberEntry<T> {
    fn lagging_at(
        &self,
        cx: &ChannelCx<'_, T>,
        channel: ActorId,
        forwarded: u64,
        shares: &QueueShares,
    ) -> LaggingAt {
        let subscriber = self.recipient.id();
        let channel = match &self.recipient {
            Recipient::Actor(_) => channel,
            // A downstream topic knows its upstream, which may be a relay.
            Recipient::Topic(..) => cx.id(),
        };
        let waiting_max = shares.waiting_max(subscriber.node(), &self.sent);
        LaggingAt { subscriber, channel, forwarded, waiting_max }
    }

    /// Whether one more copy may wait for it. If not, it is registered for room.
    fn has_queue_share(
        &mut self,
        cx: &mut ChannelCx<'_, T>,
        at: LaggingAt,
        room: &LaggingSubscribers,
    ) -> bool {
        if at.waiting_max.is_none() {
            return true;
        }
        let has_room =
            cx.loop_ref().service().has_queue_room(at.subscriber, at.needed_room(), room.send_mode());
        if has_room {
            self.sent.speed_up();
        }
        has_room
    }

    /// Handles the result of sending one message.
    fn after_sending(
        &mut self,
        cx: &mut ChannelCx<'_, T>,
        at: LaggingAt,
        room: &mut LaggingSubscribers,
        sent: Result<(), Missed>,
    ) -> Subscription {
        let reason = match sent {
            Ok(()) => {
                self.lag.end();
                return Subscription::Continues;
            }
            Err(Missed::NotCopied) => return self.lag.add(cx, at, room, 1),
            Err(Missed::Undelivered(reason)) => reason,
        };
        let is_local = at.subscriber.node() == cx.id().node();
        match reason {
            Undelivered::Full | Undelivered::Busy if !is_local => self.lag.add_refused(cx, at, room),
            Undelivered::Full | Undelivered::Busy => self.lag.add(cx, at, room, 1),
            reason => {
                let is_gone = matches!(reason, Undelivered::NoActor | Undelivered::NoNode);
                let takes_none = matches!(reason, Undelivered::Payload(PayloadError::WrongType { .. }));
                let from = Some(cx.id());
                let dead_letter = DeadLetter::new(at.subscriber, type_name::<T>(), reason).sent_by(from);
                cx.loop_ref().dead_letter(dead_letter);
                if is_gone {
                    // Its `Down` may wait behind many messages.
                    Subscription::Ends
                } else if takes_none {
                    Subscription::Continues
                } else {
                    self.lag.add(cx, at, room, 1)
                }
            }
        }
    }
}
