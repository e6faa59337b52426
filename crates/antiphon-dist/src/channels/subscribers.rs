//! The subscribers of a topic actor.
//!
//! A subscriber without room misses messages; see [`subscriber_lag`](super::subscriber_lag).
//!
//! Invariant: `total` is the number of actors in the table and behind its topics. The topic actor monitors each entry
//! once.

use std::any::type_name;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use antiphon_sched::{
    ActorId, Addr, AskError, Cx, DeadLetter, Monitor, NodeId, PayloadError, RequestId, SendMode, Target,
    Undelivered, Wire,
};

use super::message::{ChannelMessage, DeliveryResult, SelfMessage, TopicAddr, self_message};
use super::subscriber_lag::{LaggingSubscribers, SubscriberLag, Subscription, SubscriptionIds};
use crate::cx::{may_log, node_mut};
use crate::error::{DeliverError, SubscribeError};
use crate::from_node::FromNode;
use crate::node::complete_if_open;
use crate::panic_guard::{catch_panic, log_panic};
use crate::quota_usage::QuotaUsage;

/// The entries of one topic. Each costs a monitor.
pub(super) const ENTRIES_MAX: usize = 32_768;
/// The entries that all other nodes together may add. Each costs an answer of a delivery, so the limit leaves answers
/// for the deliveries of the channel's own node.
const ENTRIES_OF_PEERS_MAX: usize = 12_288;
/// The largest count that a downstream topic can report: more than there can be subscribers, and small enough that sums
/// do not overflow.
const COUNT_MAX: u64 = 1 << 40;

type ChannelCx<'c, T> = Cx<'c, FromNode<ChannelMessage<T>>>;

/// The subscribers of one topic.
pub(super) struct Subscribers<T> {
    entries: BTreeMap<ActorId, SubscriberEntry<T>>,
    total: u64,
    /// The number of entries that each peer has added.
    by_peer: QuotaUsage<NodeId>,
    awaited_room: LaggingSubscribers,
}

struct SubscriberEntry<T> {
    recipient: Recipient<T>,
    monitor: Monitor,
    /// The quota that the entry uses; `None` if this node added it.
    quota: Option<SubscriberQuota>,
    lag: SubscriberLag,
}

/// The quota that one subscriber uses: of its peer at this topic, and of its peer at all topics of this node.
pub(super) struct SubscriberQuota {
    peer: NodeId,
    /// The number of clones is the usage at all topics.
    _of_node: Arc<()>,
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

    fn id(&self) -> ActorId {
        match self {
            Self::Actor(addr) => addr.id(),
            Self::Topic(addr, _) => addr.id(),
        }
    }
}

impl<T: Wire + Clone> Subscribers<T> {
    pub(super) fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            total: 0,
            by_peer: QuotaUsage::default(),
            awaited_room: LaggingSubscribers::default(),
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Reserves quota for one more entry, for a peer or for this node (`None`). The entries of this node have no quota.
    pub(super) fn take_quota(
        &mut self,
        cx: &mut ChannelCx<'_, T>,
        peer: Option<NodeId>,
    ) -> Result<Option<SubscriberQuota>, SubscribeError> {
        let core = node_mut(cx.loop_ref()).ok_or(SubscribeError::NoNode)?;
        let quota = match peer {
            _ if self.entries.len() >= ENTRIES_MAX => Err(SubscribeError::TooMany),
            Some(_) if self.by_peer.all() >= ENTRIES_OF_PEERS_MAX => Err(SubscribeError::TooMany),
            None => return Ok(None),
            Some(peer) => {
                let of_node = core.take_subscription(peer, self.by_peer.of(&peer));
                of_node
                    .map(|of_node| SubscriberQuota { peer, _of_node: of_node })
                    .ok_or(SubscribeError::OverQuota)
            }
        };
        match &quota {
            Ok(quota) => self.by_peer.add(quota.peer, 1),
            Err(_) => {
                if let Some(peer) = peer {
                    core.refusals().subscriptions += 1;
                    core.log_refused(peer, "subscriptions", "has more subscribers than it may");
                }
            }
        }
        quota.map(Some)
    }

    /// Whether a peer has added this entry.
    pub(super) fn is_added_by(&self, actor: ActorId, peer: NodeId) -> bool {
        let quota = self.entries.get(&actor).and_then(|entry| entry.quota.as_ref());
        quota.is_some_and(|quota| quota.peer == peer)
    }

    /// Whether there is an entry of this kind that the peer, or this node (`None`), has added.
    pub(super) fn has_entry(&self, actor: ActorId, peer: Option<NodeId>, as_topic: bool) -> bool {
        self.entries.get(&actor).is_some_and(|entry| {
            let is_topic = matches!(entry.recipient, Recipient::Topic(..));
            is_topic == as_topic && entry.quota.as_ref().map(|quota| quota.peer) == peer
        })
    }

    pub(super) fn has(&self, actor: ActorId) -> bool {
        self.entries.contains_key(&actor)
    }

    /// The number of answers that one delivery waits for: from topics, and from actors on other nodes than `node_id`.
    pub(super) fn answers(&self, node_id: NodeId) -> usize {
        let answers = |recipient: &Recipient<T>| match recipient {
            Recipient::Actor(addr) => addr.node() != node_id,
            Recipient::Topic(..) => true,
        };
        self.entries.values().filter(|entry| answers(&entry.recipient)).count()
    }

    pub(super) fn topics(&self) -> impl Iterator<Item = TopicAddr<T>> {
        self.entries.values().filter_map(|entry| match &entry.recipient {
            Recipient::Topic(addr, _) => Some(*addr),
            Recipient::Actor(_) => None,
        })
    }

    pub(super) fn actors(&self) -> impl Iterator<Item = Addr<T>> {
        self.entries.values().filter_map(|entry| match &entry.recipient {
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
        let id = recipient.id();
        self.total += recipient.weight();
        let Some(entry) = self.entries.get_mut(&id) else {
            let monitor = cx.monitor(id);
            let lag = SubscriberLag::new(ends_on_lag);
            self.entries.insert(id, SubscriberEntry { recipient, monitor, quota, lag });
            return;
        };
        self.total -= entry.recipient.weight();
        if let Some(quota) = &entry.quota {
            self.by_peer.take(&quota.peer, 1);
        }
        (entry.recipient, entry.quota) = (recipient, quota);
        entry.lag.set_ends(ends_on_lag);
    }

    /// Sets whether the subscription of an actor ends at its first missed message.
    pub(super) fn set_ends_on_lag(&mut self, actor: ActorId, ends: bool) {
        if let Some(entry) = self.entries.get_mut(&actor) {
            entry.lag.set_ends(ends);
        }
    }

    /// Removes an entry. Its actor may have exited.
    pub(super) fn remove(&mut self, cx: &mut ChannelCx<'_, T>, actor: ActorId) -> Option<Recipient<T>> {
        let SubscriberEntry { recipient, monitor, quota, .. } = self.entries.remove(&actor)?;
        cx.demonitor(monitor);
        self.awaited_room.remove(cx, actor);
        self.total -= recipient.weight();
        if let Some(quota) = &quota {
            self.by_peer.take(&quota.peer, 1);
        }
        Some(recipient)
    }

    /// Sets the number of subscribers behind a downstream topic.
    pub(super) fn set_count(&mut self, topic: ActorId, subscribers: u64) {
        let subscribers = subscribers.min(COUNT_MAX);
        if let Some(SubscriberEntry { recipient: Recipient::Topic(_, known), .. }) =
            self.entries.get_mut(&topic)
        {
            self.total = self.total - *known + subscribers;
            *known = subscribers;
        }
    }

    /// Sends a message to all subscribers. One without room misses it; otherwise, a message that cannot be sent becomes a
    /// dead letter. Returns true if a subscription has ended.
    #[must_use]
    pub(super) fn send(&mut self, cx: &mut ChannelCx<'_, T>, channel: ActorId, message: T, hops: u8) -> bool {
        self.send_copies(cx, channel, message, |cx, room, entry, copy| {
            let result = match entry.recipient {
                Recipient::Actor(to) => put(cx, to, copy, send_mode(cx, room, to.node())),
                Recipient::Topic(to, _) => {
                    let copy = ChannelMessage::Send { message: copy, hops }.into();
                    put(cx, to, copy, send_mode(cx, room, to.node()))
                }
            };
            entry.after_sending(cx, channel, room, result)
        })
    }

    /// Sends a message to all subscribers, and asks each for an acknowledgement under the number of a pending delivery. A
    /// subscriber without room misses the message.
    pub(super) fn deliver(
        &mut self,
        cx: &mut ChannelCx<'_, T>,
        channel: ActorId,
        message: T,
        (delivery, hops, within): (u64, u8, Duration),
    ) -> SentDelivery {
        let (mut received, mut open) = (0, Vec::new());
        let has_ended = self.send_copies(cx, channel, message, |cx, room, entry, copy| {
            let is_local = entry.recipient.id().node() == cx.id().node();
            let result = match entry.recipient {
                Recipient::Actor(to) if is_local => {
                    let result = put(cx, to, copy, SendMode::Once);
                    received += u64::from(result.is_ok());
                    result
                }
                Recipient::Actor(to) => put_with_receipt(cx, room, to, copy, delivery)
                    .map(|request_id| open.extend(request_id.map(OpenAnswer::Receipt))),
                Recipient::Topic(to, _) => {
                    let request =
                        |reply| ChannelMessage::Deliver { message: copy, n: 0, within, hops, reply }.into();
                    let answer = move |answer: Result<DeliveryResult, _>| {
                        acked(delivery, answer.unwrap_or(DeliveryResult::To(0)))
                    };
                    let mode = send_mode(cx, room, to.node());
                    cx.ask_with_mode(to, mode, request, answer)
                        .map(|request_id| open.push(OpenAnswer::Reply(request_id)))
                        .map_err(undelivered)
                }
            };
            entry.after_sending(cx, channel, room, result)
        });
        SentDelivery { received, open, has_ended }
    }

    /// Sends a copy of a message to each subscriber by `send`, which returns whether the subscription continues. A
    /// subscriber whose earlier missed messages are unreported misses this one too.
    fn send_copies(
        &mut self,
        cx: &mut ChannelCx<'_, T>,
        channel: ActorId,
        message: T,
        mut send: impl FnMut(
            &mut ChannelCx<'_, T>,
            &mut LaggingSubscribers,
            &mut SubscriberEntry<T>,
            T,
        ) -> Subscription,
    ) -> bool {
        let mut can_copy = true;
        let has_ended = self.for_each(cx, |cx, room, entry| {
            let copy = if can_copy && !entry.lag.is_waiting() { copy_of(cx, &message) } else { None };
            can_copy &= copy.is_some() || entry.lag.is_waiting();
            match copy {
                Some(copy) => send(cx, room, entry, copy),
                None => entry.miss(cx, channel, room, 1),
            }
        });
        log_panic(|| drop(message));
        has_ended
    }

    /// Counts messages that all subscribers miss, because this topic has missed them. Returns true if a subscription has
    /// ended.
    #[must_use]
    pub(super) fn miss_all(&mut self, cx: &mut ChannelCx<'_, T>, channel: ActorId, missed: u64) -> bool {
        self.for_each(cx, |cx, room, entry| entry.miss(cx, channel, room, missed))
    }

    /// Counts one message that a subscriber has refused. Returns true if its subscription has ended.
    #[must_use]
    pub(super) fn miss(&mut self, cx: &mut ChannelCx<'_, T>, channel: ActorId, actor: ActorId) -> bool {
        let Some(entry) = self.entries.get_mut(&actor) else { return false };
        let after = entry.miss(cx, channel, &mut self.awaited_room, 1);
        after == Subscription::Ends && self.remove(cx, actor).is_some()
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
            let Some(entry) = self.entries.get_mut(&actor) else { continue };
            let ids = entry.ids(cx, channel);
            if entry.lag.report(cx, ids, &mut self.awaited_room) == Subscription::Ends {
                has_ended |= self.remove(cx, actor).is_some();
            }
        }
        has_ended
    }

    /// Reports all missed messages before the topic ends.
    pub(super) fn report_all(&mut self, cx: &mut ChannelCx<'_, T>, channel: ActorId) {
        for entry in self.entries.values_mut() {
            let ids = entry.ids(cx, channel);
            entry.lag.report_at_end(cx, ids, &mut self.awaited_room);
        }
    }

    /// Calls `act` with each entry, and removes those whose subscription ends. Returns whether there are any.
    fn for_each(
        &mut self,
        cx: &mut ChannelCx<'_, T>,
        mut act: impl FnMut(
            &mut ChannelCx<'_, T>,
            &mut LaggingSubscribers,
            &mut SubscriberEntry<T>,
        ) -> Subscription,
    ) -> bool {
        let mut ended = Vec::new();
        for (id, entry) in &mut self.entries {
            if act(cx, &mut self.awaited_room, entry) == Subscription::Ends {
                ended.push(*id);
            }
        }
        for id in &ended {
            self.remove(cx, *id);
        }
        !ended.is_empty()
    }
}

/// A delivery that was sent to all subscribers.
pub(super) struct SentDelivery {
    /// The number of actors that have the message already.
    pub(super) received: u64,
    /// The acknowledgements that are still to come.
    pub(super) open: Vec<OpenAnswer>,
    /// A subscription has ended.
    pub(super) has_ended: bool,
}

/// The request of the topic that an acknowledgement completes.
#[derive(Copy, Clone, Debug)]
pub(super) enum OpenAnswer {
    Receipt(RequestId),
    Reply(RequestId),
}

impl OpenAnswer {
    /// Completes the request, if it is open, as not received in time. The message itself stays on its way, so it is not a
    /// missed one.
    pub(super) fn time_out<T: Wire>(self, cx: &mut ChannelCx<'_, T>) {
        match self {
            Self::Receipt(request_id) => {
                complete_if_open(cx.loop_ref(), request_id, Err::<(), _>(DeliverError::TimedOut));
            }
            Self::Reply(request_id) => cx.loop_ref().fail_request(request_id, AskError::TimedOut),
        }
    }
}

impl<T: Wire> SubscriberEntry<T> {
    fn ids(&self, cx: &ChannelCx<'_, T>, channel: ActorId) -> SubscriptionIds {
        match &self.recipient {
            Recipient::Actor(addr) => SubscriptionIds { subscriber: addr.id(), channel },
            // A downstream topic knows its upstream, which may be a relay.
            Recipient::Topic(addr, _) => SubscriptionIds { subscriber: addr.id(), channel: cx.id() },
        }
    }

    fn miss(
        &mut self,
        cx: &mut ChannelCx<'_, T>,
        channel: ActorId,
        room: &mut LaggingSubscribers,
        missed: u64,
    ) -> Subscription {
        let ids = self.ids(cx, channel);
        self.lag.add(cx, ids, room, missed)
    }

    /// Handles the result of sending one message.
    fn after_sending(
        &mut self,
        cx: &mut ChannelCx<'_, T>,
        channel: ActorId,
        room: &mut LaggingSubscribers,
        result: Result<(), Undelivered>,
    ) -> Subscription {
        let ids = self.ids(cx, channel);
        let Err(reason) = result else {
            self.lag.end();
            return Subscription::Continues;
        };
        let is_local = ids.subscriber.node() == cx.id().node();
        match reason {
            Undelivered::Full | Undelivered::Busy if !is_local => self.lag.add_refused(cx, ids, room),
            Undelivered::Full | Undelivered::Busy => self.lag.add(cx, ids, room, 1),
            reason => {
                // Its `Down` follows, or it never takes messages of the channel.
                let takes_none = matches!(
                    reason,
                    Undelivered::NoActor
                        | Undelivered::NoNode
                        | Undelivered::Payload(PayloadError::WrongType { .. })
                );
                let from = Some(cx.id());
                let dead_letter = DeadLetter::new(ids.subscriber, type_name::<T>(), reason).sent_by(from);
                cx.loop_ref().dead_letter(dead_letter);
                if takes_none { Subscription::Continues } else { self.lag.add(cx, ids, room, 1) }
            }
        }
    }
}

/// The mode of a message of a topic. A subscriber of this node needs no `Writable`: its missed messages are reported at
/// once.
fn send_mode<T: Wire>(cx: &ChannelCx<'_, T>, room: &LaggingSubscribers, node: NodeId) -> SendMode {
    if node == cx.id().node() { SendMode::Once } else { room.send_mode() }
}

fn put<T: Wire, M>(
    cx: &mut ChannelCx<'_, T>,
    to: Addr<M>,
    message: M,
    mode: SendMode,
) -> Result<(), Undelivered> {
    to.put(cx.loop_ref(), message, mode).map_err(|error| {
        let reason = error.reason();
        log_panic(|| drop(error));
        reason
    })
}

/// Sends a message to an actor of another node, with a request for a receipt. Returns the request; `None` if the topic
/// cannot open one, and the message was sent without.
fn put_with_receipt<T: Wire>(
    cx: &mut ChannelCx<'_, T>,
    room: &LaggingSubscribers,
    to: Addr<T>,
    message: T,
    delivery: u64,
) -> Result<Option<RequestId>, Undelivered> {
    let answer = move |sent: Result<(), DeliverError>| match sent {
        Err(DeliverError::Refused(Undelivered::Full | Undelivered::Busy)) => {
            self_message(SelfMessage::Refused { delivery, subscriber: to.id() })
        }
        sent => acked(delivery, DeliveryResult::To(u64::from(sent.is_ok()))),
    };
    let Ok(request_id) = cx.open_request(answer) else {
        return put(cx, to, message, room.send_mode()).map(|()| None);
    };
    match to.put(cx.loop_ref(), message, SendMode::Receipt(request_id)) {
        Ok(()) => Ok(Some(request_id)),
        Err(error) => {
            cx.loop_ref().fail_request(request_id, AskError::Dropped);
            match error.reason() {
                // A message with a receipt does not register its sender, so it is sent again as another one is.
                Undelivered::Full | Undelivered::Busy => {
                    put(cx, to, error.into_message(), room.send_mode()).map(|()| None)
                }
                reason => {
                    log_panic(|| drop(error));
                    Err(reason)
                }
            }
        }
    }
}

/// Why a request was not sent to a downstream topic.
fn undelivered(reason: AskError) -> Undelivered {
    match reason {
        AskError::Full => Undelivered::Full,
        AskError::Busy => Undelivered::Busy,
        AskError::NoActor => Undelivered::NoActor,
        AskError::NodeLost => Undelivered::NoNode,
        AskError::NodeRefused(reason) => Undelivered::NodeRefused(reason),
        AskError::Request(reason) => Undelivered::Payload(reason),
        // The topic has no request left.
        _ => Undelivered::Dropped,
    }
}

/// The message that a pending delivery got one acknowledgement.
pub(super) fn acked<T>(delivery: u64, outcome: DeliveryResult) -> FromNode<ChannelMessage<T>> {
    self_message(SelfMessage::Acked { delivery, outcome })
}

/// Copies a message by the user's `Clone`; `None` if that panicked.
fn copy_of<T: Wire + Clone>(cx: &mut ChannelCx<'_, T>, message: &T) -> Option<T> {
    match catch_panic(|| message.clone()) {
        Ok(copy) => Some(copy),
        Err(text) => {
            if may_log(cx.loop_ref(), "clone", type_name::<T>()) {
                tracing::error!(
                    text,
                    "the `clone` of a channel's message panicked; the remaining subscribers miss it (logged at most once an hour)"
                );
            }
            None
        }
    }
}
