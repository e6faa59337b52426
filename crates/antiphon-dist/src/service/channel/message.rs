//! The messages between topic actors and their users.
//!
//! Invariant: a `SelfMessage` never leaves its node, and is never accepted from another node.

use std::borrow::Cow;
use std::time::Duration;

use antiphon_sched::{ActorId, Addr, DecodeError, EncodeError, Key, NodeId, ReplyTo, Wire};

use crate::error::SubscribeError;
use crate::service::FromNode;
use crate::service::encoding;

/// The address of a topic actor: of a channel, or of a relay.
pub(super) type TopicAddr<T> = Addr<FromNode<ChannelMessage<T>>>;

/// A message to a topic actor that forwards messages of type `T`.
///
/// A topic that subscribes to another one is *downstream* of it; the other one is its *upstream*.
pub enum ChannelMessage<T> {
    /// Forward `message` to all subscribers. `hops` counts the topics that it came through.
    Send { message: T, hops: u8 },
    /// Forward `message` once there are `n` subscribers. The answer is the number of actors that received it.
    Deliver { message: T, n: u64, within: Duration, hops: u8, reply: ReplyTo<DeliveryResult> },
    /// Subscribe an actor. If `ends_on_lag`, the subscription ends at the first message that the actor misses.
    Subscribe { actor: Addr<T>, ends_on_lag: bool, reply: Option<ReplyTo<SubscribeResult>> },
    /// Subscribe a downstream topic: another channel, or a relay that subscribes itself.
    Attach { topic: TopicAddr<T>, is_relay: bool, reply: Option<ReplyTo<SubscribeResult>> },
    /// Remove an actor or a topic from the subscribers.
    Unsubscribe { actor: ActorId },
    /// The downstream topic `topic` has this number of subscribers.
    Count { topic: ActorId, subscribers: u64 },
    /// Sent by `from` to its downstream topic: `from` is its upstream, and `ids` are `from` and all upstreams of `from`.
    Upstreams { from: TopicAddr<T>, ids: Vec<ActorId>, reply: Option<ReplyTo<DeliveryResult>> },
    /// Sent to a downstream topic: `from` is no longer its upstream.
    Detach { from: ActorId },
    /// A message of the topic actor to itself.
    SelfMessage(SelfMessage),
}

/// A message of a topic actor to itself.
pub enum SelfMessage {
    /// One subscriber has answered a pending delivery.
    Acked { delivery: u64, outcome: DeliveryResult },
    /// One subscriber has refused the message of a pending delivery, because it has no room.
    Refused { delivery: u64, subscriber: ActorId },
    /// The time of a pending delivery is over.
    Overdue(u64),
    /// The time of a delivery that waits for subscribers is over.
    Due(u64),
    /// Report the changed number of subscribers to the upstreams.
    ReportCount,
    /// Send the changed upstreams to the downstream topics, for which there was no room before.
    UpdateDownstream,
    /// The answer of the channel to its relay.
    Attached(Result<SubscribeResult, SubscribeError>),
    /// The relay has handled all messages that were in its mailbox when it lost its last subscriber.
    End,
    /// Go on with the fan-out: the topic is terminated.
    GoOn,
}

/// Wraps a message of a topic actor to itself.
pub(super) fn self_message<T>(message: SelfMessage) -> FromNode<ChannelMessage<T>> {
    ChannelMessage::SelfMessage(message).into()
}

/// The answer to a `Deliver` or an `Upstreams` message.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum DeliveryResult {
    /// This number of actors received the message.
    To(u64),
    /// There were only this many subscribers in time.
    TooFew(u64),
    /// There are too many pending deliveries.
    TooMany,
    /// The channel was closed before.
    Closed,
    /// The upstreams are refused.
    Refused(SubscribeError),
}

/// The answer to a subscription.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SubscribeResult {
    /// The actor or topic is subscribed. A relay receives the ids of its upstreams.
    Done(Vec<ActorId>),
    Refused(SubscribeError),
}

impl<T: Wire> Wire for ChannelMessage<T> {
    fn name() -> Cow<'static, str> {
        Cow::Owned(format!("antiphon.channel<{}>", T::name()))
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Self::Send { message, hops } => {
                encoding::begin(out, 3, 0)?;
                hops.encode(out)?;
                message.encode(out)
            }
            Self::Deliver { message, n, within, hops, reply } => {
                encoding::begin(out, 4, 1)?;
                (*n, millis_of(*within), *hops).encode(out)?;
                reply.encode(out)?;
                message.encode(out)
            }
            Self::Subscribe { actor, ends_on_lag, reply } => {
                encoding::begin(out, 4, 2)?;
                actor.encode(out)?;
                ends_on_lag.encode(out)?;
                reply.encode(out)
            }
            Self::Attach { topic, is_relay, reply } => {
                encoding::begin(out, 4, 3)?;
                topic.encode(out)?;
                is_relay.encode(out)?;
                reply.encode(out)
            }
            Self::Unsubscribe { actor } => {
                encoding::begin(out, 2, 4)?;
                bits(*actor).encode(out)
            }
            Self::Count { topic, subscribers } => {
                encoding::begin(out, 3, 5)?;
                bits(*topic).encode(out)?;
                subscribers.encode(out)
            }
            Self::Upstreams { from, ids, reply } => {
                encoding::begin(out, 4, 6)?;
                from.encode(out)?;
                all_bits(ids).encode(out)?;
                reply.encode(out)
            }
            Self::Detach { from } => {
                encoding::begin(out, 2, 7)?;
                bits(*from).encode(out)
            }
            Self::SelfMessage(_) => {
                Err(EncodeError::new("a topic actor's message to itself never leaves its node"))
            }
        }
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(match encoding::open(from)? {
            (3, 0) => {
                let hops = u8::decode(from)?;
                Self::Send { message: T::decode(from)?, hops }
            }
            (4, 1) => {
                let (n, millis, hops) = Wire::decode(from)?;
                let (reply, message) = (Wire::decode(from)?, T::decode(from)?);
                Self::Deliver { message, n, within: Duration::from_millis(millis), hops, reply }
            }
            (4, 2) => Self::Subscribe {
                actor: Wire::decode(from)?,
                ends_on_lag: Wire::decode(from)?,
                reply: Wire::decode(from)?,
            },
            (4, 3) => Self::Attach {
                topic: Wire::decode(from)?,
                is_relay: Wire::decode(from)?,
                reply: Wire::decode(from)?,
            },
            (2, 4) => Self::Unsubscribe { actor: id_of(Wire::decode(from)?) },
            (3, 5) => Self::Count { topic: id_of(Wire::decode(from)?), subscribers: Wire::decode(from)? },
            (4, 6) => {
                let (upstream, ids) = (Wire::decode(from)?, Vec::<Bits>::decode(from)?);
                let ids = ids.into_iter().map(id_of).collect();
                Self::Upstreams { from: upstream, ids, reply: Wire::decode(from)? }
            }
            (2, 7) => Self::Detach { from: id_of(Wire::decode(from)?) },
            other => return encoding::unknown("message of channels", other),
        })
    }
}

impl Wire for DeliveryResult {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("antiphon.delivered")
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let (kind, number) = match self {
            Self::To(count) => (0, *count),
            Self::TooFew(count) => (1, *count),
            Self::TooMany => (2, 0),
            Self::Closed => (3, 0),
            Self::Refused(reason) => (4, u64::from(code_of(*reason))),
        };
        encoding::begin(out, 2, kind)?;
        number.encode(out)
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        let open = encoding::open(from)?;
        let number = u64::decode(from)?;
        Ok(match open {
            (2, 0) => Self::To(number),
            (2, 1) => Self::TooFew(number),
            (2, 2) => Self::TooMany,
            (2, 3) => Self::Closed,
            (2, 4) => Self::Refused(error_of(number)),
            other => return encoding::unknown("answer to a delivery", other),
        })
    }
}

impl Wire for SubscribeResult {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("antiphon.subscribed")
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Self::Done(upstreams) => {
                encoding::begin(out, 2, 0)?;
                all_bits(upstreams).encode(out)
            }
            Self::Refused(reason) => {
                encoding::begin(out, 2, 1)?;
                code_of(*reason).encode(out)
            }
        }
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(match encoding::open(from)? {
            (2, 0) => Self::Done(Vec::<Bits>::decode(from)?.into_iter().map(id_of).collect()),
            (2, 1) => Self::Refused(error_of(u64::from(u8::decode(from)?))),
            other => return encoding::unknown("answer to a subscription", other),
        })
    }
}

/// The encoding of an actor's id: node and key.
type Bits = (u64, u64);

fn bits(id: ActorId) -> Bits {
    (id.node().to_bits(), id.key().to_bits())
}

fn id_of((node, key): Bits) -> ActorId {
    ActorId::new(NodeId::from_bits(node), Key::from_bits(key))
}

fn all_bits(ids: &[ActorId]) -> Vec<Bits> {
    ids.iter().copied().map(bits).collect()
}

fn millis_of(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// The refusals that are sent to other nodes, by their codes. The other variants arise only on the subscribing node.
const CODES: [SubscribeError; 9] = [
    SubscribeError::NoChannel,
    SubscribeError::Cycle,
    SubscribeError::TooMany,
    SubscribeError::NoSubscriber,
    SubscribeError::NodeLost,
    SubscribeError::Busy,
    SubscribeError::WrongType,
    SubscribeError::NotYours,
    SubscribeError::OverQuota,
];

fn code_of(reason: SubscribeError) -> u8 {
    let code = CODES.iter().position(|known| *known == reason);
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// A code that this version does not know is decoded as `Busy`: the subscriber may try again.
fn error_of(code: u64) -> SubscribeError {
    let known = usize::try_from(code).ok().and_then(|code| CODES.get(code));
    known.copied().unwrap_or(SubscribeError::Busy)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::service::vectors::{ServiceVectors, asker, reply, server};

    pub(crate) fn add_vectors(vectors: &mut ServiceVectors) {
        type Message = ChannelMessage<String>;
        let message = || "hi".to_owned();
        vectors.add("send", &Message::Send { message: message(), hops: 0 });
        vectors.add("send, through 129 topics", &Message::Send { message: message(), hops: 129 });
        let within = Duration::from_secs(5);
        vectors.add(
            "deliver to 2 within 5 s",
            &Message::Deliver { message: message(), n: 2, within, hops: 0, reply: reply() },
        );
        let within = Duration::from_millis(u64::MAX);
        vectors.add(
            "deliver to 2^64-1 within 2^64-1 ms",
            &Message::Deliver { message: message(), n: u64::MAX, within, hops: 0, reply: reply() },
        );
        let actor = Addr::of(asker(7));
        vectors.add("subscribe", &Message::Subscribe { actor, ends_on_lag: false, reply: Some(reply()) });
        vectors.add(
            "subscribe until it lags, without a reply",
            &Message::Subscribe { actor, ends_on_lag: true, reply: None },
        );
        let topic = TopicAddr::of(asker(6));
        vectors.add("attach a relay", &Message::Attach { topic, is_relay: true, reply: Some(reply()) });
        vectors.add("attach a channel", &Message::Attach { topic, is_relay: false, reply: Some(reply()) });
        vectors.add("unsubscribe", &Message::Unsubscribe { actor: asker(7) });
        vectors.add("count", &Message::Count { topic: asker(6), subscribers: 3 });
        vectors.add("count of 2^64-1", &Message::Count { topic: asker(6), subscribers: u64::MAX });
        let from = TopicAddr::of(server(8));
        let ids = vec![server(8), asker(5)];
        vectors.add("upstreams", &Message::Upstreams { from, ids, reply: Some(reply()) });
        vectors.add("detach", &Message::Detach { from: server(8) });
        for (reason, bytes) in [
            ("an unknown kind", &[0x92, 9, 1][..]),
            ("a send of two parts", &[0x92, 0, 0]),
            ("a send through 256 topics", &[0x93, 0, 0xcd, 1, 0, 0xa0]),
            ("a send of a number", &[0x93, 0, 0, 7]),
            ("a deliver without a reply", &[0x93, 1, 0x93, 0, 5, 0, 0xa0]),
            ("a subscribe that ends on 2", &[0x94, 2, 0x92, 1, 7, 2, 0x90]),
            ("a subscribe whose reply is nil", &[0x94, 2, 0x92, 1, 7, 0xc2, 0xc0]),
            ("a subscribe whose reply is not in an array", &[0x94, 2, 0x92, 1, 7, 0xc2, 0x92, 1, 9]),
            ("a detach of an array header of three bytes", &[0xdc, 0, 2, 7, 0x92, 2, 8]),
            ("a map", &[0x81, 0, 0]),
        ] {
            vectors.refuse::<Message>(reason, bytes);
        }
        vectors.add("subscribed", &SubscribeResult::Done(Vec::new()));
        vectors.add("attached, with the upstreams", &SubscribeResult::Done(vec![server(8)]));
        for (code, reason) in CODES.into_iter().enumerate() {
            vectors.add(&format!("refused with code {code}: {reason:?}"), &SubscribeResult::Refused(reason));
        }
        vectors.refuse::<SubscribeResult>("an unknown kind", &[0x92, 2, 0]);
        vectors.refuse::<SubscribeResult>("a code of two bytes", &[0x92, 1, 0xcd, 1, 0]);
        vectors.add("to 3", &DeliveryResult::To(3));
        vectors.add("too few: 1", &DeliveryResult::TooFew(1));
        vectors.add("too many deliveries", &DeliveryResult::TooMany);
        vectors.add("closed", &DeliveryResult::Closed);
        vectors.add("upstreams refused with code 1", &DeliveryResult::Refused(SubscribeError::Cycle));
        vectors.refuse::<DeliveryResult>("an unknown kind", &[0x92, 5, 0]);
        vectors.refuse::<DeliveryResult>("without a number", &[0x91, 2]);
    }

    fn round_trip<T: Wire>(value: &T) -> T {
        let mut bytes = Vec::new();
        value.encode(&mut bytes).expect("the value has an encoding");
        T::decode_all(&bytes).expect("the bytes are an encoded value")
    }

    #[test]
    fn channel_answers_round_trip() {
        for reason in CODES {
            assert_eq!(round_trip(&SubscribeResult::Refused(reason)), SubscribeResult::Refused(reason));
            assert_eq!(round_trip(&DeliveryResult::Refused(reason)), DeliveryResult::Refused(reason));
        }
        let upstreams = vec![id_of((1, 2)), id_of((u64::MAX, 3))];
        assert_eq!(round_trip(&SubscribeResult::Done(upstreams.clone())), SubscribeResult::Done(upstreams));
        for delivered in [
            DeliveryResult::To(7),
            DeliveryResult::TooFew(u64::MAX),
            DeliveryResult::TooMany,
            DeliveryResult::Closed,
        ] {
            assert_eq!(round_trip(&delivered), delivered);
        }
    }

    #[test]
    fn channel_message_malformed_is_refused() {
        for (bytes, reason) in [
            (&[][..], "expected an array of at most 15 items"),
            (&[0xc0], "expected an array of at most 15 items"),
            (&[0x90], "the bytes end within a value"),
            (&[0x91, 9], "there is no message of channels of kind 9 with 1 parts"),
            (&[0x93, 0], "the bytes end within a value"),
            (&[0x92, 0, 0xc0], "there is no message of channels of kind 0 with 2 parts"),
        ] {
            let error = ChannelMessage::<()>::decode_all(bytes).err().map(|error| error.to_string());
            let expected = format!("cannot be decoded: {reason}");
            assert_eq!(error, Some(expected), "{bytes:x?}");
        }
        // The text of this error is not ours: nil is not an id.
        assert!(ChannelMessage::<()>::decode_all(&[0x92, 7, 0xc0]).is_err());
        let message = round_trip(&ChannelMessage::Send { message: "text".to_owned(), hops: 3 });
        assert!(matches!(message, ChannelMessage::Send { message, hops: 3 } if message == "text"));
    }
}
