//! Who stands at a birth elsewhere for an actor of this node.
//!
//! Only an actor that was named to a node can be told by it when another ends. The watcher of a call was not; so a
//! hidden actor makes the call, names itself, and hands on how the new actor ends. It lives as long.
//!
//! Invariant: the caller is answered once; if the answer is an address, the watcher is told once.

use std::borrow::Cow;
use std::time::Duration;

use antiphon_sched::{
    Actor, ActorId, Addr, Cx, DecodeError, EncodeError, Event, RequestId, Step, Wire, receive, stop,
};

use super::message::{Answered, CallWatcher, RciCall, SpawnOutcome};
use crate::error::CallError;
use crate::from_node::FromNode;
use crate::node::settle;
use crate::panic_guard::log_panic;

/// A message to the witness: from itself only.
pub(super) struct ProxyMessage<T>(Answered<T>);

impl<T: Wire> Wire for ProxyMessage<T> {
    fn name() -> Cow<'static, str> {
        Cow::Owned(format!("antiphon.witness<{}>", T::name()))
    }

    fn encode(&self, _: &mut Vec<u8>) -> Result<(), EncodeError> {
        Err(EncodeError::new("what a witness tells itself never leaves its node"))
    }

    fn decode(_: &mut &[u8]) -> Result<Self, DecodeError> {
        Err(DecodeError::new("a witness takes nothing from elsewhere"))
    }
}

/// The actor that calls, and then watches.
pub(super) struct MonitorProxy<A, T> {
    pub(super) rci: Addr<FromNode<RciCall<A, T>>>,
    /// Until they are sent.
    pub(super) arguments: Option<A>,
    pub(super) timeout: Duration,
    pub(super) watcher: ActorId,
    /// The caller's request.
    pub(super) request_id: RequestId,
    pub(super) spawned: Option<ActorId>,
}

impl<A: Wire, T: Wire> MonitorProxy<A, T> {
    fn call(&mut self, cx: &mut Cx<'_, ProxyMessage<T>>) {
        cx.set_daemon(true);
        cx.set_name("witness of a call");
        let Some(arguments) = self.arguments.take() else { return };
        let watcher = Some(CallWatcher::Proxy(cx.addr()));
        cx.ask(self.rci, self.timeout, |reply| RciCall { arguments, watcher, reply }.into(), ProxyMessage);
    }

    fn answered(&mut self, cx: &mut Cx<'_, ProxyMessage<T>>, answered: Answered<T>) {
        self.spawned = match &answered {
            Ok(SpawnOutcome::At(addr)) => Some(addr.id()),
            Ok(SpawnOutcome::OverQuota(_) | SpawnOutcome::Panicked(_)) | Err(_) => None,
        };
        let result: Result<Addr<T>, CallError> = super::result_of::<A, T>(answered);
        settle(cx.loop_ref(), self.request_id, result);
    }
}

impl<A: Wire, T: Wire> Actor<ProxyMessage<T>> for MonitorProxy<A, T> {
    fn step(
        &mut self,
        cx: &mut Cx<'_, ProxyMessage<T>>,
        event: Event<ProxyMessage<T>>,
    ) -> Step<ProxyMessage<T>> {
        match event {
            Event::Start => self.call(cx),
            Event::Message(ProxyMessage(answered)) => {
                self.answered(cx, answered);
                return if self.spawned.is_some() { receive() } else { stop() };
            }
            Event::Down(down) if self.spawned == Some(down.actor) => {
                cx.loop_ref().tell_down(self.watcher.key(), down.actor, down.reason);
                return stop();
            }
            Event::Thrown(thrown) => log_panic(|| drop(thrown.take())),
            _ => {}
        }
        receive()
    }
}
