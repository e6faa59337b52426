//! RCI, the remote construction of actors: a function that is registered on one node starts actors on that node for
//! callers on all nodes.
//!
//! Callers can start only registered functions. A call is a request to the spawn service, a service actor. The new actor
//! is an ordinary one: it keeps its node running, and does not end with its caller or with the RCI.
//!
//! Must not import: `node`, `net`, `runtime`.

mod message;
mod monitor_proxy;
mod spawn_service;

use std::time::Duration;

use antiphon_sched::{
    Actor, ActorId, Addr, AskError, Cx, DecodeError, EncodeError, Key, LoopRef, NodeId, Wire,
};

use super::address::service_address;
use super::{FromNode, NodeRef, ServiceState};
use crate::access::AccessPolicy;
use crate::config::Config;
use crate::error::{CallError, RegisterError};
use crate::{Counts, Space};
use message::{CallResult, CallWatcher, RciCall, SpawnOutcome};
use monitor_proxy::MonitorProxy;
use spawn_service::SpawnService;

#[cfg(test)]
pub(crate) use message::tests::add_vectors;

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

/// What all RCIs of a node share.
struct RciState {
    /// The access policy of an RCI that has none of its own.
    access: AccessPolicy,
    /// The number of actors that one RCI may run at a time for one calling node.
    actors_max: usize,
    /// Calls of peers over a limit.
    refused: u64,
}

/// As in the default configuration, until the services of a node start.
impl Default for RciState {
    fn default() -> Self {
        let Config { rci_access: access, rci_actors_max: actors_max, .. } = Config::default();
        Self { access, actors_max, refused: 0 }
    }
}

impl ServiceState for RciState {
    fn add_counts(&self, counts: &mut Counts) {
        counts.refusals.rci_actors += self.refused;
    }
}

fn state<'c>(loop_ref: &'c mut LoopRef<'_>) -> Option<&'c mut RciState> {
    NodeRef::of(loop_ref).state()
}

/// Sets the limits of the RCIs of a node.
pub(super) fn start(config: &Config, loop_ref: &mut LoopRef<'_>) {
    if let Some(state) = state(loop_ref) {
        state.access = config.rci_access.clone();
        state.actors_max = config.rci_actors_max;
    }
}

/// Registers a function under a name. `None` as `owner` is the node itself.
pub(crate) fn open<A: Wire, T: Wire, W: Actor<T>>(
    loop_ref: &mut LoopRef<'_>,
    name: &str,
    owner: Option<Key>,
    make: impl FnMut(A) -> W + 'static,
) -> Result<Rci<A, T>, RegisterError> {
    let (access, actors_max) =
        state(loop_ref).map(|state| (state.access.clone(), state.actors_max)).unwrap_or_default();
    NodeRef::of(loop_ref).open(name, owner, access, SpawnService::new(name, actors_max, make))
}

/// Unregisters a function of `owner`. The actors that it started continue.
pub(crate) fn unregister(
    loop_ref: &mut LoopRef<'_>,
    name: &str,
    owner: Option<Key>,
) -> Result<(), RegisterError> {
    let service = NodeRef::of(loop_ref).unregister(Space::Rci, name, owner)?;
    loop_ref.terminate(service);
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

service_address!(
    Rci<A, T>,
    space: Space::Rci,
    tag: Function<A, T>,
    wire_name: format!("rci<{},{}>", A::name(), T::name())
);
