//! The monitor proxy: monitors the actor that an RCI call starts on another node, for a watcher on this node.
//!
//! A node accepts a `Down` from another node only for actors whose address it has sent to that node. The address of
//! the watcher was not sent. So a service actor makes the call, sends its own address with it, and forwards the `Down`
//! of the new actor to the watcher. It exits with the new actor.
//!
//! Invariant: the caller gets one answer. If the answer is an address, the watcher receives one `Down`, also if that arrived
//! before the answer: they have different receivers, so nothing keeps their order.

use std::borrow::Cow;
use std::time::Duration;

use antiphon_sched::{
    Actor, ActorId, Addr, Cx, DecodeError, Down, EncodeError, Event, RequestId, Step, Wire, receive, stop,
};

use super::message::{CallResult, CallWatcher, RciCall, SpawnOutcome};
use crate::error::CallError;
use crate::service::FromNode;
use crate::service::complete_if_open;
use crate::service::panic_guard::log_panic;

/// The result of the call: a message of the proxy to itself.
pub(super) struct ProxyMessage<T>(CallResult<T>);

impl<T: Wire> Wire for ProxyMessage<T> {
    fn name() -> Cow<'static, str> {
        Cow::Owned(format!("antiphon.monitor_proxy<{}>", T::name()))
    }

    fn encode(&self, _: &mut Vec<u8>) -> Result<(), EncodeError> {
        Err(EncodeError::new("a monitor proxy's message to itself never leaves its node"))
    }

    fn decode(_: &mut &[u8]) -> Result<Self, DecodeError> {
        Err(DecodeError::new("a monitor proxy accepts no messages from other nodes"))
    }
}

/// The actor that makes the call, and then waits for the `Down` of the new actor.
pub(super) struct MonitorProxy<A, T> {
    pub(super) rci: Addr<FromNode<RciCall<A, T>>>,
    /// `None` once they are sent.
    pub(super) arguments: Option<A>,
    pub(super) timeout: Duration,
    pub(super) watcher: ActorId,
    /// The caller's request.
    pub(super) request_id: RequestId,
    /// The new actor, once the call is answered.
    pub(super) spawned: Option<ActorId>,
    /// The last `Down` of an actor of the function's node that arrived before the answer.
    pub(super) early_down: Option<Down>,
}

impl<A: Wire, T: Wire> MonitorProxy<A, T> {
    fn call(&mut self, cx: &mut Cx<'_, ProxyMessage<T>>) {
        cx.set_name("monitor proxy of a call");
        let Some(arguments) = self.arguments.take() else { return };
        let watcher = Some(CallWatcher::Proxy(cx.addr()));
        cx.ask(self.rci, self.timeout, |reply| RciCall { arguments, watcher, reply }.into(), ProxyMessage);
    }

    fn on_result(&mut self, cx: &mut Cx<'_, ProxyMessage<T>>, result: CallResult<T>) {
        self.spawned = match &result {
            Ok(SpawnOutcome::At(addr)) => Some(addr.id()),
            Ok(SpawnOutcome::OverQuota(_) | SpawnOutcome::Panicked(_) | SpawnOutcome::Stopping) | Err(_) => {
                None
            }
        };
        let result: Result<Addr<T>, CallError> = super::result_of(result);
        complete_if_open(cx.loop_ref().requests(), self.request_id, result);
    }

    /// Sends the `Down` of the new actor to the watcher.
    fn forward(&self, cx: &mut Cx<'_, ProxyMessage<T>>, down: Down) -> Step<ProxyMessage<T>> {
        cx.loop_ref().service().push_down(self.watcher.key(), down.actor, down.reason);
        stop()
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
            Event::Message(ProxyMessage(result)) => {
                self.on_result(cx, result);
                return match self.early_down.take() {
                    Some(down) if self.spawned == Some(down.actor) => self.forward(cx, down),
                    Some(_) | None if self.spawned.is_some() => receive(),
                    Some(_) | None => stop(),
                };
            }
            Event::Down(down) if self.spawned == Some(down.actor) => return self.forward(cx, down),
            // Any node may request a `Down` for the proxy.
            Event::Down(down) if self.spawned.is_none() && down.actor.node() == self.rci.node() => {
                self.early_down = Some(down);
            }
            Event::Thrown(thrown) => log_panic(|| drop(thrown.take())),
            _ => {}
        }
        receive()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use antiphon_sched::testing::{Stepped, SteppedActor, TestLoop};
    use antiphon_sched::{ExitReason, Key, NodeId, RequestId};

    use super::*;

    #[test]
    fn proxy_forwards_down_that_precedes_its_answer() {
        let mut test = TestLoop::new(1);
        let server = |key| ActorId::new(NodeId::from_bits(2), Key::from_bits(key));
        let downs = Rc::new(RefCell::new(Vec::new()));
        let received = downs.clone();
        let watcher = test.spawn(move |_: &mut Cx<'_, ()>, event| {
            if let Event::Down(down) = event {
                received.borrow_mut().push(down.actor);
            }
            receive()
        });
        let proxy = MonitorProxy {
            rci: Addr::of(server(8)),
            arguments: Some(7_u64),
            timeout: antiphon_sched::secs(5),
            watcher: watcher.id(),
            request_id: RequestId::from_bits(0),
            spawned: None,
            early_down: None,
        };
        let mut proxy = SteppedActor::new(&mut test, proxy);
        let down = |key| Event::Down(Down { actor: server(key), reason: ExitReason::Terminated });
        assert_eq!(proxy.step(&mut test, down(20)), Stepped::Receive);
        let elsewhere = ActorId::new(NodeId::from_bits(3), Key::from_bits(20));
        let down = Event::Down(Down { actor: elsewhere, reason: ExitReason::Terminated });
        assert_eq!(proxy.step(&mut test, down), Stepped::Receive);
        test.settle();
        assert!(downs.borrow().is_empty());
        let answer = ProxyMessage(Ok(SpawnOutcome::At(Addr::<String>::of(server(20)))));
        assert_eq!(proxy.step(&mut test, Event::Message(answer)), Stepped::Stopped);
        test.settle();
        assert_eq!(*downs.borrow(), [server(20)]);
    }
}
