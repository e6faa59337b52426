//! What a caller and the hidden actor behind an RCI tell each other.
//!
//! Invariant: the watcher of a call travels as an address, so that its node is known where it arrives; whoever reads
//! it takes it for an id.

use std::borrow::Cow;

use antiphon_sched::{ActorId, Addr, AskError, DecodeError, EncodeError, Key, NodeId, ReplyTo, Wire};

use super::monitor_proxy::ProxyMessage;
use crate::encoding;

/// One call: start an actor with these arguments.
pub(super) struct RciCall<A, T> {
    pub(super) arguments: A,
    pub(super) watcher: Option<CallWatcher<T>>,
    pub(super) reply: ReplyTo<SpawnOutcome<T>>,
}

/// Who is told when the new actor ends.
pub(super) enum CallWatcher<T> {
    Known(ActorId),
    /// Of the caller's node; being named in the call, it can be told from elsewhere.
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

/// What became of a call.
pub(super) enum SpawnOutcome<T> {
    At(Addr<T>),
    /// The calling node has as many actors alive as it may have.
    OverQuota(u64),
    /// The function panicked, with this text.
    Panicked(String),
}

impl<A: Wire, T: Wire> Wire for RciCall<A, T> {
    fn name() -> Cow<'static, str> {
        Cow::Owned(format!("antiphon.call<{},{}>", A::name(), T::name()))
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        encoding::begin(out, 4, 0)?;
        match &self.watcher {
            None => ().encode(out)?,
            // As an address of no type: nobody is made reachable by it, but its node's location travels.
            Some(CallWatcher::Known(id)) => Addr::<Nobody>::of(*id).encode(out)?,
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
        Cow::Owned(format!("antiphon.born<{}>", T::name()))
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
        }
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(match encoding::open(from)? {
            (2, 0) => Self::At(Wire::decode(from)?),
            (2, 1) => Self::OverQuota(Wire::decode(from)?),
            (2, 2) => Self::Panicked(Wire::decode(from)?),
            other => return encoding::unknown("answer to a call", other),
        })
    }
}

/// A type that no actor takes.
enum Nobody {}

impl Wire for Nobody {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("antiphon.nobody")
    }

    fn encode(&self, _: &mut Vec<u8>) -> Result<(), EncodeError> {
        match *self {}
    }

    fn decode(_: &mut &[u8]) -> Result<Self, DecodeError> {
        Err(DecodeError::new("nobody takes anything"))
    }
}

/// What the witness of a call hears from itself; it never crosses nodes.
pub(super) type Answered<T> = Result<SpawnOutcome<T>, AskError>;

fn id_of((node, key): (u64, u64)) -> ActorId {
    ActorId::new(NodeId::from_bits(node), Key::from_bits(key))
}

/// MessagePack's nil.
const NIL: u8 = 0xc0;
