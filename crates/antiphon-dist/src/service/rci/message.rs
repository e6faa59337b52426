//! The messages between the callers of an RCI and its spawn service.
//!
//! Invariant: the watcher of a call is encoded as an address, so that the receiving node learns the location of the
//! watcher's node. It is decoded as an id.

use std::borrow::Cow;

use antiphon_sched::{ActorId, Addr, AskError, DecodeError, EncodeError, Key, NodeId, ReplyTo, Wire};

use super::monitor_proxy::ProxyMessage;
use crate::service::encoding;

/// A call: start an actor with these arguments.
pub(super) struct RciCall<A, T> {
    pub(super) arguments: A,
    pub(super) watcher: Option<CallWatcher<T>>,
    pub(super) reply: ReplyTo<SpawnOutcome<T>>,
}

/// The actor that receives a `Down` when the new actor exits.
pub(super) enum CallWatcher<T> {
    /// An actor that the node of the RCI knows.
    Known(ActorId),
    /// A monitor proxy on the caller's node. The call contains its address, so other nodes may send it a `Down`.
    Proxy(Addr<ProxyMessage<T>>),
}

impl<T> CallWatcher<T> {
    pub(super) fn id(&self) -> ActorId {
        match self {
            Self::Known(id) => *id,
            Self::Proxy(addr) => addr.id(),
        }
    }
}

/// The answer to a call.
pub(super) enum SpawnOutcome<T> {
    /// The actor was started at this address.
    At(Addr<T>),
    /// The calling node has as many running actors from this RCI as it may: this number.
    OverQuota(u64),
    /// The function panicked, with this text.
    Panicked(String),
    /// The node of the RCI is stopping.
    Stopping,
}

impl<A: Wire, T: Wire> Wire for RciCall<A, T> {
    fn name() -> Cow<'static, str> {
        Cow::Owned(format!("antiphon.call<{},{}>", A::name(), T::name()))
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        encoding::begin(out, 4, 0)?;
        match &self.watcher {
            None => ().encode(out)?,
            // An address without messages makes no actor reachable, but its encoding includes the node's location.
            Some(CallWatcher::Known(id)) => Addr::<NoMessages>::of(*id).encode(out)?,
            Some(CallWatcher::Proxy(addr)) => addr.encode(out)?,
        }
        self.reply.encode(out)?;
        self.arguments.encode(out)
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        match encoding::open(from)? {
            (4, 0) => {
                let watcher = match from.first() {
                    Some(&NIL) => <()>::decode(from).map(|()| None)?,
                    Some(_) | None => Some(CallWatcher::Known(id_of(Wire::decode(from)?))),
                };
                Ok(Self { watcher, reply: Wire::decode(from)?, arguments: A::decode(from)? })
            }
            other => encoding::unknown("call", other),
        }
    }
}

impl<T: Wire> Wire for SpawnOutcome<T> {
    fn name() -> Cow<'static, str> {
        Cow::Owned(format!("antiphon.spawned<{}>", T::name()))
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Self::At(addr) => {
                encoding::begin(out, 2, 0)?;
                addr.encode(out)
            }
            Self::OverQuota(max) => {
                encoding::begin(out, 2, 1)?;
                max.encode(out)
            }
            Self::Panicked(text) => {
                encoding::begin(out, 2, 2)?;
                text.encode(out)
            }
            Self::Stopping => encoding::begin(out, 1, 3),
        }
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(match encoding::open(from)? {
            (2, 0) => Self::At(Wire::decode(from)?),
            (2, 1) => Self::OverQuota(Wire::decode(from)?),
            (2, 2) => Self::Panicked(Wire::decode(from)?),
            (1, 3) => Self::Stopping,
            other => return encoding::unknown("answer to a call", other),
        })
    }
}

/// The message type of an address that only names an actor. It has no values.
enum NoMessages {}

impl Wire for NoMessages {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("antiphon.no_messages")
    }

    fn encode(&self, _: &mut Vec<u8>) -> Result<(), EncodeError> {
        match *self {}
    }

    fn decode(_: &mut &[u8]) -> Result<Self, DecodeError> {
        Err(DecodeError::new("no message has this type"))
    }
}

/// The result of a call, as the caller's node handles it.
pub(super) type CallResult<T> = Result<SpawnOutcome<T>, AskError>;

fn id_of((node, key): (u64, u64)) -> ActorId {
    ActorId::new(NodeId::from_bits(node), Key::from_bits(key))
}

/// MessagePack's nil.
const NIL: u8 = 0xc0;

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::service::vectors::{ServiceVectors, asker, reply, server};

    pub(crate) fn add_vectors(vectors: &mut ServiceVectors) {
        type Call = RciCall<(String, u64), String>;
        let arguments = || ("a".to_owned(), 4);
        vectors.add("call", &Call { arguments: arguments(), watcher: None, reply: reply() });
        let watcher = Some(CallWatcher::Known(asker(7)));
        vectors.add("call with a watcher", &Call { arguments: arguments(), watcher, reply: reply() });
        for (reason, bytes) in [
            ("an unknown kind", &[0x94, 1, 0xc0, 0x92, 1, 9, 0x92, 0xa0, 0][..]),
            ("without a watcher", &[0x93, 0, 0x92, 1, 9, 0x92, 0xa0, 0]),
            ("a watcher that is false", &[0x94, 0, 0xc2, 0x92, 1, 9, 0x92, 0xa0, 0]),
            ("a reply that is nil", &[0x94, 0, 0xc0, 0xc0, 0x92, 0xa0, 0]),
            ("one argument of two", &[0x94, 0, 0xc0, 0x92, 1, 9, 0x91, 0xa0]),
        ] {
            vectors.refuse::<Call>(reason, bytes);
        }
        type Outcome = SpawnOutcome<String>;
        vectors.add("started at an address", &Outcome::At(Addr::of(server(20))));
        vectors.add("over the quota of 1,024 actors", &Outcome::OverQuota(1024));
        vectors.add("over the largest quota", &Outcome::OverQuota(u64::MAX));
        vectors.add("the function panicked", &Outcome::Panicked("oh".to_owned()));
        vectors.add("the node is stopping", &Outcome::Stopping);
        vectors.refuse::<Outcome>("an unknown kind", &[0x92, 4, 0]);
        vectors.refuse::<Outcome>("a kind of two bytes, 256", &[0x91, 0xcd, 1, 0]);
        vectors.refuse::<Outcome>("a quota below 0", &[0x92, 1, 0xff]);
        vectors.refuse::<Outcome>("stopping with a second part", &[0x92, 3, 0]);
        vectors.refuse::<Outcome>("an address that is nil", &[0x92, 0, 0xc0]);
    }
}
