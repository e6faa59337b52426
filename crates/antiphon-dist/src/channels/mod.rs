//! Channels: each message that is sent to a channel reaches all its subscribers, on all nodes.
//!
//! A channel is a service actor of the node that opened it. A node with subscribers to a channel of another node has one
//! *relay* for them, so only one copy of each message crosses the network. Order, lost connections and exits work as for
//! messages between ordinary actors. A subscriber without room holds nobody back: it misses messages, and is informed of
//! their number.

mod fanout;
mod message;
mod pending_deliveries;
mod queue_share;
mod subscriber_lag;
mod subscribers;
mod topic;
mod upstreams;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use antiphon_sched::{
    ActorId, Addr, AskError, Cx, DecodeError, EncodeError, ExitReason, Key, LoopRef, NodeId, ReplyTo,
    SendError, SendMode, Target, Undelivered, Wire, secs,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::cx::{Named, node_mut, register, sealed};
use crate::error::{DeliverError, RegisterError, SubscribeError};
use crate::node::Space;
use message::{ChannelMessage, DeliveryResult, SubscribeResult, TopicAddr};
use topic::Topic;

#[cfg(test)]
pub(crate) use message::tests::add_vectors;

#[cfg(test)]
pub(crate) fn at<T: Wire>(id: ActorId) -> Channel<T> {
    Channel(Addr::of(id))
}

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

/// Opens a channel under a name. `None` as `owner` is the node itself.
pub(crate) fn open<T: Wire + Clone>(
    loop_ref: &mut LoopRef<'_>,
    name: &str,
    owner: Option<Key>,
    transform: Option<Box<topic::Transform<T>>>,
) -> Result<Channel<T>, RegisterError> {
    node_mut(loop_ref).ok_or(RegisterError::NoNode)?.check_free(Space::Channel, name)?;
    let tag = loop_ref.service().type_name_of::<T>();
    let topic = loop_ref.spawn_service(Topic::channel(name, transform));
    if let Err(reason) = register(loop_ref, (Space::Channel, name), topic, tag, owner) {
        loop_ref.terminate(topic);
        return Err(reason);
    }
    Ok(Channel(Addr::of(topic.id())))
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
    let known = node_mut(loop_ref).and_then(|core| core.relay_of(channel.id(), tag));
    if let Some(relay) = known.filter(|relay| loop_ref.is_alive(*relay)) {
        return Addr::of(ActorId::new(node_id, relay));
    }
    let relay = loop_ref.spawn_service(Topic::relay(channel, tag));
    if let Some(core) = node_mut(loop_ref) {
        core.add_relay(channel.id(), tag, relay.id().key());
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
        let Some(relay) = node_mut(loop_ref).and_then(|core| core.relay_of(channel.id(), tag)) else {
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

impl<T: Wire> Named for Channel<T> {
    const SPACE: Space = Space::Channel;

    fn tag(loop_ref: &mut LoopRef<'_>) -> &'static str {
        loop_ref.service().type_name_of::<T>()
    }

    fn from_id(id: ActorId) -> Self {
        Self(Addr::of(id))
    }
}

impl<T> sealed::SealedName for Channel<T> {}

impl<T: Wire> Wire for Channel<T> {
    fn name() -> std::borrow::Cow<'static, str> {
        format!("channel<{}>", T::name()).into()
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.0.encode(out)
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        Addr::decode(from).map(Self)
    }
}

impl<T: Wire> Serialize for Channel<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Wire> Deserialize<'de> for Channel<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Addr::deserialize(deserializer).map(Self)
    }
}

impl<T> Copy for Channel<T> {}

impl<T> Clone for Channel<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> PartialEq for Channel<T> {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl<T> Eq for Channel<T> {}

impl<T> Hash for Channel<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id().hash(state);
    }
}

impl<T> From<Channel<T>> for ActorId {
    fn from(channel: Channel<T>) -> Self {
        channel.id()
    }
}

impl<T> fmt::Display for Channel<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id().fmt(f)
    }
}

impl<T> fmt::Debug for Channel<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channel<{}>({})", std::any::type_name::<T>(), self.id())
    }
}
