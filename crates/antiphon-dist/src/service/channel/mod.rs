//! Channels: each message that is sent to a channel reaches all its subscribers, on all nodes.
//!
//! A channel is a service actor of the node that opened it. A node with subscribers to a channel of another node has one
//! *relay* for them, so only one copy of each message crosses the network. Order, lost connections and exits work as for
//! messages between ordinary actors. A subscriber without room holds nobody back: it misses messages, and is informed of
//! their number.
//!
//! Must not import: `node`, `net`, `runtime`.

mod fanout;
mod message;
mod pending_deliveries;
mod queue_share;
mod relay_table;
mod subscriber_lag;
mod subscribers;
mod tally;
mod topic;
mod upstreams;

use std::fmt;
use std::time::Duration;

use antiphon_sched::{
    ActorId, Addr, AskError, Cx, ExitReason, Key, LoopRef, NodeId, ReplyTo, SendError, SendMode, Target,
    Undelivered, Wire, secs,
};

use super::address::service_address;
use super::{NodeRef, PeerQuota, ServiceState};
use crate::access::AccessPolicy;
use crate::config::Config;
use crate::cx::sealed;
use crate::error::{DeliverError, RegisterError, SubscribeError};
use crate::peer_limits::PeerLimits;
use crate::{Counts, Space};
use message::{ChannelMessage, DeliveryResult, SubscribeResult, TopicAddr};
use relay_table::RelayTable;
use topic::Topic;

#[cfg(test)]
pub(crate) use message::tests::add_vectors;

/// The extra time that the caller of a delivery waits for the answer. The channel applies the timeout itself, and may be
/// on another node.
const GRACE: Duration = secs(1);

/// A channel of messages of type `T`. A message is sent to it as to an address; all its subscribers receive it.
///
/// It has 24 bytes and is `Copy`. Messages can contain it, and it can be located by its name.
pub struct Channel<T>(TopicAddr<T>);

impl<T> Channel<T> {
    /// The id of the channel. A [`Down`](antiphon_sched::Down) contains it when the channel is closed.
    pub const fn id(self) -> ActorId {
        self.0.id()
    }

    /// The node that opened the channel.
    pub const fn node(self) -> NodeId {
        self.0.node()
    }
}

/// An actor as a subscriber whose subscription ends at the first message that it misses because it has no room. Instead of
/// [`Event::Lagged`](antiphon_sched::Event::Lagged) it receives one [`Down`](antiphon_sched::Down) of the channel with
/// [`ExitReason::Lagged`], behind the messages that it got.
///
/// For subscribers that cannot use an incomplete sequence: they can request the current state and subscribe again. If an
/// actor of neither this node nor the channel's node subscribes so, it receives this `Down` too.
pub struct EndOnLag<T>(pub Addr<T>);

impl<T> Copy for EndOnLag<T> {}

impl<T> Clone for EndOnLag<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> fmt::Debug for EndOnLag<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EndOnLag").field(&self.0).finish()
    }
}

impl<T> sealed::SealedName for EndOnLag<T> {}

/// What can subscribe to a channel: an actor, by its address or as [`EndOnLag`], or another channel.
pub trait Subscriber<T>: Copy + sealed::SealedName {
    #[doc(hidden)]
    fn request(self, reply: Option<ReplyTo<SubscribeResult>>) -> ChannelMessage<T>;

    #[doc(hidden)]
    fn subscriber_id(self) -> ActorId;
}

impl<T> Subscriber<T> for Addr<T> {
    fn request(self, reply: Option<ReplyTo<SubscribeResult>>) -> ChannelMessage<T> {
        ChannelMessage::Subscribe { actor: self, ends_on_lag: false, reply }
    }

    fn subscriber_id(self) -> ActorId {
        self.id()
    }
}

impl<T> Subscriber<T> for EndOnLag<T> {
    fn request(self, reply: Option<ReplyTo<SubscribeResult>>) -> ChannelMessage<T> {
        ChannelMessage::Subscribe { actor: self.0, ends_on_lag: true, reply }
    }

    fn subscriber_id(self) -> ActorId {
        self.0.id()
    }
}

impl<T> Subscriber<T> for Channel<T> {
    fn request(self, reply: Option<ReplyTo<SubscribeResult>>) -> ChannelMessage<T> {
        ChannelMessage::Attach { topic: self.0, is_relay: false, reply }
    }

    fn subscriber_id(self) -> ActorId {
        self.id()
    }
}

/// What all channels and relays of a node share.
struct ChannelState {
    relays: RelayTable,
    /// The subscribers that each peer has added, in all channels.
    subscriptions: PeerQuota,
    /// The subscribers that a peer may add to one channel.
    channel_subscriptions_max: usize,
    /// Subscriptions over a limit.
    refused: u64,
}

impl ChannelState {
    fn new(limits: &PeerLimits) -> Self {
        Self {
            relays: RelayTable::default(),
            subscriptions: PeerQuota::new(limits.subscriptions_max),
            channel_subscriptions_max: limits.channel_subscriptions_max,
            refused: 0,
        }
    }
}

impl Default for ChannelState {
    fn default() -> Self {
        Self::new(&PeerLimits::default())
    }
}

impl ServiceState for ChannelState {
    fn add_counts(&self, counts: &mut Counts) {
        counts.channel_relays += self.relays.len();
        counts.refusals.subscriptions += self.refused;
    }
}

fn state<'c>(loop_ref: &'c mut LoopRef<'_>) -> Option<&'c mut ChannelState> {
    NodeRef::of(loop_ref).state()
}

/// Sets the limits of the channels of a node.
pub(super) fn start(config: &Config, loop_ref: &mut LoopRef<'_>) {
    if let Some(state) = state(loop_ref) {
        *state = ChannelState::new(&config.peer_limits);
    }
}

/// Opens a channel under a name. `None` as `owner` is the node itself.
pub(crate) fn open<T: Wire + Clone>(
    loop_ref: &mut LoopRef<'_>,
    name: &str,
    owner: Option<Key>,
    transform: Option<Box<topic::Transform<T>>>,
) -> Result<Channel<T>, RegisterError> {
    NodeRef::of(loop_ref).open(name, owner, AccessPolicy::all(), Topic::channel(name, transform))
}

/// The topic that holds the subscription of `subscriber`: the channel, or its relay if the subscriber is on this node and
/// the channel is not.
fn topic_for<T: Wire + Clone>(
    loop_ref: &mut LoopRef<'_>,
    channel: Channel<T>,
    subscriber: ActorId,
) -> TopicAddr<T> {
    let node_id = loop_ref.node_id();
    if channel.node() != node_id && subscriber.node() == node_id {
        relay_for(loop_ref, channel.0)
    } else {
        channel.0
    }
}

/// The relay of a channel of another node; started if there is none.
fn relay_for<T: Wire + Clone>(loop_ref: &mut LoopRef<'_>, channel: TopicAddr<T>) -> TopicAddr<T> {
    let (node_id, tag) = (loop_ref.node_id(), loop_ref.service().type_name_of::<T>());
    let known = state(loop_ref).and_then(|state| state.relays.of(channel.id(), tag));
    if let Some(relay) = known.filter(|relay| loop_ref.is_alive(*relay)) {
        return Addr::of(ActorId::new(node_id, relay));
    }
    let relay = loop_ref.spawn_service(Topic::relay(channel, tag));
    if let Some(state) = state(loop_ref) {
        state.relays.add(channel.id(), tag, relay.id().key());
    }
    relay
}

pub(crate) fn subscribe<T: Wire + Clone>(
    loop_ref: &mut LoopRef<'_>,
    channel: Channel<T>,
    subscriber: impl Subscriber<T>,
) {
    let actor = subscriber.subscriber_id();
    let topic = topic_for(loop_ref, channel, actor);
    if let Err(error) = loop_ref.send(topic, subscriber.request(None).into()) {
        let reason = refusal(error.reason().into());
        match error.into_message().message {
            ChannelMessage::Subscribe { .. } => send_closed(loop_ref, actor, channel.id(), reason_of(reason)),
            _ => tracing::warn!(subscriber = %actor, %reason, "a channel was not subscribed to another one"),
        }
    }
}

pub(crate) fn subscribe_within<M: 'static, T: Wire + Clone>(
    cx: &mut Cx<'_, M>,
    channel: Channel<T>,
    subscriber: impl Subscriber<T>,
    timeout: Duration,
    answer: impl FnOnce(Result<(), SubscribeError>) -> M + 'static,
) {
    let topic = topic_for(cx.loop_ref(), channel, subscriber.subscriber_id());
    let request = move |reply| subscriber.request(Some(reply)).into();
    cx.ask(topic, timeout, request, move |result: Result<SubscribeResult, AskError>| {
        answer(match result {
            Ok(SubscribeResult::Done(_)) => Ok(()),
            Ok(SubscribeResult::Refused(reason)) => Err(reason),
            Err(reason) => Err(refusal(reason)),
        })
    });
}

pub(crate) fn unsubscribe<T: Wire + Clone>(
    loop_ref: &mut LoopRef<'_>,
    channel: Channel<T>,
    subscriber: impl Subscriber<T>,
) {
    let actor = subscriber.subscriber_id();
    let (node_id, tag) = (loop_ref.node_id(), loop_ref.service().type_name_of::<T>());
    let topic = if channel.node() != node_id && actor.node() == node_id {
        let Some(relay) = state(loop_ref).and_then(|state| state.relays.of(channel.id(), tag)) else {
            return;
        };
        Addr::of(ActorId::new(node_id, relay))
    } else {
        channel.0
    };
    if let Err(reason) = loop_ref.send(topic, ChannelMessage::Unsubscribe { actor }.into()) {
        // The channel or its node no longer exists, so neither does the subscription.
        tracing::debug!(%reason, "an unsubscribe message was not sent");
    }
}

pub(crate) fn deliver_all<M: 'static, T: Wire>(
    cx: &mut Cx<'_, M>,
    channel: Channel<T>,
    message: T,
    n: usize,
    timeout: Duration,
    answer: impl FnOnce(Result<usize, DeliverError>) -> M + 'static,
) {
    let n = n as u64;
    let request = move |reply| ChannelMessage::Deliver { message, n, within: timeout, hops: 0, reply }.into();
    let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    cx.ask(
        channel.0,
        timeout.saturating_add(GRACE),
        request,
        move |result: Result<DeliveryResult, AskError>| {
            answer(match result {
                Ok(DeliveryResult::To(actors)) => Ok(count(actors)),
                Ok(DeliveryResult::TooFew(subscribers)) => {
                    Err(DeliverError::TooFew { subscribers: count(subscribers) })
                }
                Ok(DeliveryResult::TooMany) => Err(DeliverError::TooManyDeliveries),
                Ok(DeliveryResult::Closed) => Err(DeliverError::Refused(Undelivered::NoActor)),
                Ok(DeliveryResult::Refused(_)) => Err(DeliverError::Unknown),
                Err(reason) => Err(undelivered(reason)),
            })
        },
    );
}

/// Sends a `Down` of a channel to a subscriber, if that is on this node: it receives nothing more from the channel.
fn send_closed(loop_ref: &mut LoopRef<'_>, subscriber: ActorId, channel: ActorId, reason: ExitReason) {
    if subscriber.node() == loop_ref.node_id() {
        loop_ref.service().push_down(subscriber.key(), channel, reason);
    }
}

/// The refusal for a subscription request that failed.
fn refusal(reason: AskError) -> SubscribeError {
    match reason {
        AskError::TimedOut => SubscribeError::TimedOut,
        AskError::Full | AskError::Busy => SubscribeError::Busy,
        AskError::Request(_) | AskError::Reply(_) => SubscribeError::WrongType,
        AskError::NodeLost | AskError::NodeRefused(_) => SubscribeError::NodeLost,
        AskError::TooManyOpen => SubscribeError::TooManyOpen,
        // The topic exited before it answered, or did not exist.
        _ => SubscribeError::NoChannel,
    }
}

/// The exit reason of the `Down` that reports a refusal.
fn reason_of(reason: SubscribeError) -> ExitReason {
    match reason {
        SubscribeError::NoChannel => ExitReason::NoActor,
        SubscribeError::NodeLost | SubscribeError::TimedOut => ExitReason::NodeLost,
        other => ExitReason::Failed(other.to_string()),
    }
}

fn undelivered(reason: AskError) -> DeliverError {
    match reason {
        AskError::TimedOut => DeliverError::TimedOut,
        AskError::NoActor => DeliverError::Refused(Undelivered::NoActor),
        AskError::Full => DeliverError::Refused(Undelivered::Full),
        AskError::Busy => DeliverError::Refused(Undelivered::Busy),
        AskError::Request(reason) => DeliverError::Refused(reason.into()),
        AskError::TooManyOpen => DeliverError::TooManyOpen,
        // The channel exited, or its node was lost, before the answer.
        _ => DeliverError::Unknown,
    }
}

impl<T: Wire> Target for Channel<T> {
    type Message = T;

    fn put(self, loop_ref: &mut LoopRef<'_>, message: T, mode: SendMode) -> Result<(), SendError<T>> {
        let sent = self.0.put(loop_ref, ChannelMessage::Send { message, hops: 0 }.into(), mode);
        sent.map_err(|error| {
            error.map(|unsent| match unsent.message {
                ChannelMessage::Send { message, .. } => message,
                _ => unreachable!("a message that could not be sent is returned unchanged"),
            })
        })
    }

    fn target_id(self) -> ActorId {
        self.id()
    }
}

service_address!(
    Channel<T>,
    space: Space::Channel,
    tag: T,
    wire_name: format!("channel<{}>", T::name())
);
