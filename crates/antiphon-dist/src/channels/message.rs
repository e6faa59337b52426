//! What channels, relays and their users tell each other.
//!
//! Invariant: `SelfMessage` never leaves its node, and never comes from another.

use std::borrow::Cow;
use std::time::Duration;

use antiphon_sched::{ActorId, Addr, DecodeError, EncodeError, Key, NodeId, ReplyTo, Wire};

use crate::encoding;
use crate::error::SubscribeError;
use crate::from_node::FromNode;

/// The address of a channel or relay.
pub(super) type TopicAddr<T> = Addr<FromNode<ChannelMessage<T>>>;

/// A message to a hidden actor that passes messages of type `T` on.
pub enum ChannelMessage<T> {
    /// To be passed on. `hops` counts the channels that it came through.
    Send { message: T, hops: u8 },
    /// To be passed on once there are `n` receivers; the answer tells how many have it.
    Deliver { message: T, n: u64, within: Duration, hops: u8, reply: ReplyTo<Delivered> },
    /// An actor is to receive all that is passed on.
    Subscribe { actor: Addr<T>, reply: Option<ReplyTo<Subscribed>> },
    /// Another channel, or a relay on its own behalf, is to receive it, and to pass it on.
    Attach { relay: TopicAddr<T>, is_relay: bool, reply: Option<ReplyTo<Subscribed>> },
    /// That is over.
    Unsubscribe { actor: ActorId },
    /// So many receivers are behind a branch.
    Count { relay: ActorId, below: u64 },
    /// To a branch: these are above it, if it comes to stand below `from`.
    Above { from: TopicAddr<T>, ids: Vec<ActorId>, reply: Option<ReplyTo<Delivered>> },
    /// To a branch: `from` is no longer above it.
    Detach { from: ActorId },
    /// From the actor to itself.
    SelfMessage(SelfMessage),
}

/// What a channel or relay tells itself.
pub enum SelfMessage {
    /// A branch or receiver has acknowledged a wave, for so many.
    Acked { delivery: u64, outcome: Delivered },
    /// A delivery has waited for receivers as long as it may.
    Due(u64),
    /// The number of receivers has changed, and is to be told above.
    Recount,
    /// What is above has changed, and there was no room to tell those below.
    Retell,
    /// What the channel answered to its relay.
    Joined(Result<Subscribed, SubscribeError>),
    /// All that was in the mailbox when the relay became idle has been taken.
    End,
}

/// What an actor tells itself.
pub(super) fn own<T>(own: SelfMessage) -> FromNode<ChannelMessage<T>> {
    ChannelMessage::SelfMessage(own).into()
}

/// The answer to a delivery, or to word of what is above.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Delivered {
    /// So many have it.
    To(u64),
    /// So few receivers were there in time.
    TooFew(u64),
    /// Too many deliveries are under way.
    TooMany,
    /// The channel was closed first.
    Closed,
    /// Of what is above: it cannot be above.
    Refused(SubscribeError),
}

/// The answer to a subscription.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Subscribed {
    /// It is subscribed; a relay is told what is above it.
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
            Self::Subscribe { actor, reply } => {
                encoding::begin(out, 3, 2)?;
                actor.encode(out)?;
                reply.encode(out)
            }
            Self::Attach { relay, is_relay, reply } => {
                encoding::begin(out, 4, 3)?;
                relay.encode(out)?;
                is_relay.encode(out)?;
                reply.encode(out)
            }
            Self::Unsubscribe { actor } => {
                encoding::begin(out, 2, 4)?;
                bits(*actor).encode(out)
            }
            Self::Count { relay, below } => {
                encoding::begin(out, 3, 5)?;
                bits(*relay).encode(out)?;
                below.encode(out)
            }
            Self::Above { from, ids, reply } => {
                encoding::begin(out, 4, 6)?;
                from.encode(out)?;
                all_bits(ids).encode(out)?;
                reply.encode(out)
            }
            Self::Detach { from } => {
                encoding::begin(out, 2, 7)?;
                bits(*from).encode(out)
            }
            Self::SelfMessage(_) => Err(EncodeError::new("what an actor tells itself never leaves its node")),
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
            (3, 2) => Self::Subscribe { actor: Wire::decode(from)?, reply: Wire::decode(from)? },
            (4, 3) => Self::Attach {
                relay: Wire::decode(from)?,
                is_relay: Wire::decode(from)?,
                reply: Wire::decode(from)?,
            },
            (2, 4) => Self::Unsubscribe { actor: id_of(Wire::decode(from)?) },
            (3, 5) => Self::Count { relay: id_of(Wire::decode(from)?), below: Wire::decode(from)? },
            (4, 6) => {
                let (from_whom, ids) = (Wire::decode(from)?, Vec::<Bits>::decode(from)?);
                let ids = ids.into_iter().map(id_of).collect();
                Self::Above { from: from_whom, ids, reply: Wire::decode(from)? }
            }
            (2, 7) => Self::Detach { from: id_of(Wire::decode(from)?) },
            other => return encoding::unknown("message of channels", other),
        })
    }
}

impl Wire for Delivered {
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

impl Wire for Subscribed {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("antiphon.subscribed")
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Self::Done(above) => {
                encoding::begin(out, 2, 0)?;
                all_bits(above).encode(out)
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

/// An actor's id as it is written: node and key.
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

/// The refusals that cross nodes; the others are the asker's own.
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

/// A refusal that this version does not know is one that may pass.
fn error_of(code: u64) -> SubscribeError {
    let known = usize::try_from(code).ok().and_then(|code| CODES.get(code));
    known.copied().unwrap_or(SubscribeError::Busy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again<T: Wire>(value: &T) -> T {
        let mut bytes = Vec::new();
        value.encode(&mut bytes).expect("it has an encoding");
        T::decode_all(&bytes).expect("it is what was encoded")
    }

    #[test]
    fn answers_and_refusals_come_back_as_they_were() {
        for reason in CODES {
            assert_eq!(again(&Subscribed::Refused(reason)), Subscribed::Refused(reason));
            assert_eq!(again(&Delivered::Refused(reason)), Delivered::Refused(reason));
        }
        let above = vec![id_of((1, 2)), id_of((u64::MAX, 3))];
        assert_eq!(again(&Subscribed::Done(above.clone())), Subscribed::Done(above));
        for delivered in
            [Delivered::To(7), Delivered::TooFew(u64::MAX), Delivered::TooMany, Delivered::Closed]
        {
            assert_eq!(again(&delivered), delivered);
        }
    }

    #[test]
    fn what_is_no_message_of_channels_does_not_decode() {
        for bytes in [&[][..], &[0xc0], &[0x90], &[0x91, 9], &[0x93, 0], &[0x92, 0, 0xc0], &[0x92, 7, 0xc0]] {
            assert!(ChannelMessage::<()>::decode_all(bytes).is_err(), "{bytes:x?}");
        }
        let message = again(&ChannelMessage::Send { message: "text".to_owned(), hops: 3 });
        assert!(matches!(message, ChannelMessage::Send { message, hops: 3 } if message == "text"));
    }
}
