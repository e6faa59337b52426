//! The hidden actor behind an RCI: each call starts an actor, by the registered function.
//!
//! Invariant: `alive` holds those that live and that it started, each monitored; no calling node has more than it
//! may. A panic of the function ends nothing.

use std::collections::BTreeMap;

use antiphon_sched::{
    Actor, ActorId, Addr, Cx, Event, ExitReason, LoopRef, NodeId, SignalPolicy, Step, Wire, receive,
};

use super::message::{RciCall, SpawnOutcome};
use crate::cx::{allow, may_log, node_mut};
use crate::from_node::FromNode;
use crate::panic_guard::{catch_panic, log_panic};
use crate::quota::QuotaUsage;

/// Actors alive by one RCI, of all callers: each costs a monitor, of which an actor has 65,535.
const ALIVE_MAX: usize = 60_000;

type SpawnServiceCx<'c, A, T> = Cx<'c, FromNode<RciCall<A, T>>>;

/// Makes an actor of arguments, and starts it; the error is the text of a panic.
pub(super) type Starter<A, T> = dyn FnMut(&mut SpawnServiceCx<'_, A, T>, A) -> Result<Addr<T>, String>;

pub(super) struct SpawnService<A, T> {
    name: Box<str>,
    start: Box<Starter<A, T>>,
    /// The node that called for it, and whether somebody watches it.
    alive: BTreeMap<ActorId, (NodeId, bool)>,
    by_caller: QuotaUsage<NodeId>,
}

impl<A: Wire, T: Wire> SpawnService<A, T> {
    /// `make` makes actors; it runs in a catch.
    pub(super) fn new<W: Actor<T>>(name: &str, mut make: impl FnMut(A) -> W + 'static) -> Self {
        let start = move |cx: &mut SpawnServiceCx<'_, A, T>, arguments| {
            catch_panic(|| make(arguments)).map(|actor| Addr::of(cx.spawn_actor(actor).id()))
        };
        Self {
            name: name.into(),
            start: Box::new(start),
            alive: BTreeMap::new(),
            by_caller: QuotaUsage::default(),
        }
    }

    fn call(&mut self, cx: &mut SpawnServiceCx<'_, A, T>, call: FromNode<RciCall<A, T>>) {
        let FromNode { what: RciCall { arguments, watcher, reply }, by, .. } = call;
        // Not whom the reply names: it may name anybody.
        let caller = by.unwrap_or(cx.id().node());
        let max = node_mut(cx.loop_ref()).map_or(0, |core| core.rci_actors_max());
        if self.by_caller.of(&caller) >= max || self.alive.len() >= ALIVE_MAX {
            log_panic(|| drop(arguments));
            if let (Some(_), Some(core)) = (by, node_mut(cx.loop_ref())) {
                core.refusals().rci_actors += 1;
                core.log_refused(caller, "rci actors", "calls for more actors than it may have alive");
            }
            return cx.reply(reply, SpawnOutcome::OverQuota(max as u64));
        }
        let actor = match (self.start)(cx, arguments) {
            Ok(actor) => actor,
            Err(text) => {
                if may_log(cx.loop_ref(), "rci panic", format_args!("{} {caller}", self.name)) {
                    tracing::error!(rci = %self.name, %caller, text, "the function of an RCI panicked; its caller is told (said once an hour)");
                }
                return cx.reply(reply, SpawnOutcome::Panicked(text));
            }
        };
        // All before its first step: so that no end is missed, and nobody reaches it who could not call for it.
        cx.monitor(actor);
        self.open_as_self(cx, actor.id());
        let watcher =
            watcher.map(|watcher| watcher.id()).filter(|watcher| may_watch(cx.loop_ref(), by, *watcher));
        if let Some(watcher) = watcher {
            cx.loop_ref().notify(actor.id().key(), watcher);
        }
        self.alive.insert(actor.id(), (caller, watcher.is_some()));
        self.by_caller.add(caller, 1);
        cx.reply(reply, SpawnOutcome::At(actor));
    }

    /// A new actor is open to whom this one is.
    fn open_as_self(&self, cx: &mut SpawnServiceCx<'_, A, T>, actor: ActorId) {
        let me = cx.id().key();
        let access = node_mut(cx.loop_ref()).map(|core| core.access_of(me)).unwrap_or_default();
        if !access.is_everybody()
            && let Err(reason) = allow(cx.loop_ref(), actor, access)
        {
            tracing::debug!(%actor, %reason, "an actor ended before it began");
        }
    }

    fn ended(&mut self, cx: &mut SpawnServiceCx<'_, A, T>, actor: ActorId, reason: &ExitReason) {
        let Some((caller, watched)) = self.alive.remove(&actor) else { return };
        self.by_caller.take(&caller, 1);
        // This monitor keeps the scheduler from saying so.
        let failed = matches!(reason, ExitReason::Failed(_) | ExitReason::Panicked(_));
        if !watched && failed && may_log(cx.loop_ref(), "rci end", format_args!("{} {caller}", self.name)) {
            tracing::warn!(rci = %self.name, actor = %actor, %reason, "an actor ended that its caller did not monitor (said once an hour)");
        }
    }
}

/// Whether the caller may have somebody told. Of this node's actors another node may name those whose address left it;
/// other nodes see to theirs.
fn may_watch(loop_ref: &mut LoopRef<'_>, by: Option<NodeId>, watcher: ActorId) -> bool {
    let is_here = watcher.node() == loop_ref.node_id();
    !(by.is_some() && is_here)
        || (loop_ref.is_exposed(watcher.key())
            && loop_ref.signal_policy_of(watcher.key()) == SignalPolicy::All)
}

impl<A: Wire, T: Wire> Actor<FromNode<RciCall<A, T>>> for SpawnService<A, T> {
    fn step(
        &mut self,
        cx: &mut SpawnServiceCx<'_, A, T>,
        event: Event<FromNode<RciCall<A, T>>>,
    ) -> Step<FromNode<RciCall<A, T>>> {
        match event {
            Event::Start => {
                cx.set_daemon(true);
                cx.set_signal_policy(SignalPolicy::None);
                cx.set_name(&format!("RCI {}", self.name));
            }
            Event::Message(call) => self.call(cx, call),
            Event::Down(down) => self.ended(cx, down.actor, &down.reason),
            // Nobody has anything to throw at it.
            Event::Thrown(thrown) => log_panic(|| drop(thrown.take())),
            _ => {}
        }
        receive()
    }
}
