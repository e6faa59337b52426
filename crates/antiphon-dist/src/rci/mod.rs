//! RCI, the remote construction of actors: a function that is registered on one node starts actors on that node for
//! callers on all nodes.
//!
//! Callers can start only registered functions. A call is a request to the spawn service, a service actor. The new actor
//! is an ordinary one: it keeps its node running, and does not end with its caller or with the RCI.

mod message;
mod monitor_proxy;
mod spawn_service;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use antiphon_sched::{
    Actor, ActorId, Addr, AskError, Cx, DecodeError, EncodeError, Key, LoopRef, NodeId, Wire,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::cx::{Named, allow, node_mut, register, sealed};
use crate::error::{CallError, RegisterError};
use crate::from_node::FromNode;
use crate::node::Space;
use message::{CallResult, CallWatcher, RciCall, SpawnOutcome};
use monitor_proxy::MonitorProxy;
use spawn_service::SpawnService;

#[cfg(test)]
pub(crate) use message::tests::add_vectors;

#[cfg(test)]
pub(crate) fn at<A: Wire, T: Wire>(id: ActorId) -> Rci<A, T> {
    Rci(Addr::of(id))
}

/// A registered function that takes an `A` and starts an actor that receives messages of type `T`.
///
/// It has 24 bytes and is `Copy`. Messages can contain it, and it can be located by its name.
pub struct Rci<A, T>(Addr<FromNode<RciCall<A, T>>>);

impl<A, T> Rci<A, T> {
    /// The id of the spawn service. A monitor on it reports when the function is unregistered.
    pub const fn id(self) -> ActorId {
        self.0.id()
    }

    /// The node that registered the function. Its actors run there.
    pub const fn node(self) -> NodeId {
        self.0.node()
    }
}

/// Registers a function under a name. `None` as `owner` is the node itself.
pub(crate) fn open<A: Wire, T: Wire, W: Actor<T>>(
    loop_ref: &mut LoopRef<'_>,
    name: &str,
    owner: Option<Key>,
    make: impl FnMut(A) -> W + 'static,
) -> Result<Rci<A, T>, RegisterError> {
    node_mut(loop_ref).ok_or(RegisterError::NoNode)?.check_free(Space::Rci, name)?;
    let tag = Rci::<A, T>::tag(loop_ref);
    let service = loop_ref.spawn_service(SpawnService::new(name, make));
    let access = node_mut(loop_ref).ok_or(RegisterError::NoNode)?.rci_access();
    if allow(loop_ref, service.id(), access).is_err() {
        // The policy was checked with the configuration, so the error means that the actor has exited.
        return Err(RegisterError::NoNode);
    }
    if let Err(reason) = register(loop_ref, (Space::Rci, name), service, tag, owner) {
        loop_ref.terminate(service);
        return Err(reason);
    }
    Ok(Rci(Addr::of(service.id())))
}

/// Unregisters a function of `owner`. The actors that it started continue.
pub(crate) fn unregister(
    loop_ref: &mut LoopRef<'_>,
    name: &str,
    owner: Option<Key>,
) -> Result<(), RegisterError> {
    let core = node_mut(loop_ref).ok_or(RegisterError::NoNode)?;
    let service = core.unregister(Space::Rci, name, owner)?;
    let node_id = loop_ref.node_id();
    loop_ref.terminate(ActorId::new(node_id, service));
    Ok(())
}

pub(crate) fn call<M: 'static, A: Wire, T: Wire>(
    cx: &mut Cx<'_, M>,
    rci: Rci<A, T>,
    arguments: A,
    watcher: Option<ActorId>,
    timeout: Duration,
    answer: impl FnOnce(Result<Addr<T>, CallError>) -> M + 'static,
) {
    let node_id = cx.id().node();
    match watcher {
        Some(watcher) if watcher.node() == node_id && rci.node() != node_id => {
            let request_id = match cx.open_request(answer) {
                Ok(request_id) => request_id,
                Err(answer) => return cx.push_self(answer(Err(CallError::TooManyOpen))),
            };
            let arguments = Some(arguments);
            cx.spawn_service(MonitorProxy {
                rci: rci.0,
                arguments,
                timeout,
                watcher,
                request_id,
                spawned: None,
                early_down: None,
            });
        }
        other => {
            let watcher = other.map(CallWatcher::Known);
            let request = move |reply| RciCall { arguments, watcher, reply }.into();
            cx.ask(rci.0, timeout, request, move |result| answer(result_of(result)));
        }
    }
}

fn result_of<T>(result: CallResult<T>) -> Result<Addr<T>, CallError> {
    Err(match result {
        Ok(SpawnOutcome::At(addr)) => return Ok(addr),
        Ok(SpawnOutcome::OverQuota(max)) => {
            CallError::OverQuota { max: usize::try_from(max).unwrap_or(usize::MAX) }
        }
        Ok(SpawnOutcome::Panicked(text)) => CallError::Panicked(text),
        Ok(SpawnOutcome::Stopping) => CallError::Stopping,
        Err(AskError::NoActor | AskError::Dropped) => CallError::NotRegistered,
        Err(AskError::Request(reason)) => CallError::Arguments(reason),
        Err(AskError::Reply(reason)) => CallError::Answer(reason),
        Err(AskError::TimedOut) => CallError::TimedOut,
        Err(AskError::TooManyOpen) => CallError::TooManyOpen,
        Err(AskError::Full | AskError::Busy) => CallError::Busy,
        Err(AskError::NodeRefused(reason)) => CallError::NodeRefused(reason),
        Err(_) => CallError::NodeLost,
    })
}

/// The type of a function. Its name shows whether caller and owner agree on the type.
struct Function<A, T>(std::marker::PhantomData<fn(A) -> T>);

impl<A: Wire, T: Wire> Wire for Function<A, T> {
    fn name() -> std::borrow::Cow<'static, str> {
        format!("{} -> {}", A::name(), T::name()).into()
    }

    fn encode(&self, _: &mut Vec<u8>) -> Result<(), EncodeError> {
        Err(EncodeError::new("a function has no encoding"))
    }

    fn decode(_: &mut &[u8]) -> Result<Self, DecodeError> {
        Err(DecodeError::new("a function has no encoding"))
    }
}

impl<A: Wire, T: Wire> Named for Rci<A, T> {
    const SPACE: Space = Space::Rci;

    fn tag(loop_ref: &mut LoopRef<'_>) -> &'static str {
        loop_ref.service().type_name_of::<Function<A, T>>()
    }

    fn from_id(id: ActorId) -> Self {
        Self(Addr::of(id))
    }
}

impl<A, T> sealed::SealedName for Rci<A, T> {}

impl<A: Wire, T: Wire> Wire for Rci<A, T> {
    fn name() -> std::borrow::Cow<'static, str> {
        format!("rci<{},{}>", A::name(), T::name()).into()
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.0.encode(out)
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        Addr::decode(from).map(Self)
    }
}

impl<A: Wire, T: Wire> Serialize for Rci<A, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, A: Wire, T: Wire> Deserialize<'de> for Rci<A, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Addr::deserialize(deserializer).map(Self)
    }
}

impl<A, T> Copy for Rci<A, T> {}

impl<A, T> Clone for Rci<A, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A, T> PartialEq for Rci<A, T> {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl<A, T> Eq for Rci<A, T> {}

impl<A, T> Hash for Rci<A, T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id().hash(state);
    }
}

impl<A, T> From<Rci<A, T>> for ActorId {
    fn from(rci: Rci<A, T>) -> Self {
        rci.id()
    }
}

impl<A, T> fmt::Display for Rci<A, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id().fmt(f)
    }
}

impl<A, T> fmt::Debug for Rci<A, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (arguments, messages) = (std::any::type_name::<A>(), std::any::type_name::<T>());
        write!(f, "Rci<{arguments}, {messages}>({})", self.id())
    }
}
