//! The spawn service: the service actor of an RCI. Each call starts an actor by the registered function.
//!
//! Invariant: `alive` contains the running actors that the service started, and the service monitors each of them. No
//! calling node has more of them than `rci_actors_max`. A panic of the function does not end the service.

use std::collections::BTreeMap;

use antiphon_sched::{
    Actor, ActorId, Addr, Cx, Event, ExitReason, LoopRef, NodeId, OverBudget, Permit, SignalPolicy, Step,
    Wire, printable, receive,
};

use super::message::{RciCall, SpawnOutcome};
use super::state;
use crate::service::panic_guard::{catch_panic, log_panic};
use crate::service::{FromNode, NodeRef, PeerQuota};

/// The running actors of one RCI, for all callers. Each costs a monitor.
const ALIVE_MAX: usize = 60_000;

type SpawnServiceCx<'c, A, T> = Cx<'c, FromNode<RciCall<A, T>>>;

/// Makes an actor from arguments, and starts it. The error is the text of a panic.
pub(super) type Starter<A, T> = dyn FnMut(&mut SpawnServiceCx<'_, A, T>, A) -> Result<Addr<T>, String>;

pub(super) struct SpawnService<A, T> {
    name: Box<str>,
    start: Box<Starter<A, T>>,
    alive: BTreeMap<ActorId, RunningActor>,
    /// The running actors of each calling node.
    quota: PeerQuota,
    /// The most of one calling node.
    actors_max: usize,
}

/// An actor that a call has started.
struct RunningActor {
    /// The calling node.
    caller: NodeId,
    /// Whether the call named a watcher.
    is_watched: bool,
    _permit: Permit,
}

impl<A: Wire, T: Wire> SpawnService<A, T> {
    /// `make` makes the actors. The service catches its panics.
    /// A calling node may have `actors_max` actors at a time.
    pub(super) fn new<W: Actor<T>>(
        name: &str,
        actors_max: usize,
        mut make: impl FnMut(A) -> W + 'static,
    ) -> Self {
        let start = move |cx: &mut SpawnServiceCx<'_, A, T>, arguments| {
            catch_panic(|| make(arguments)).map(|actor| Addr::of(cx.spawn_actor(actor).id()))
        };
        Self {
            name: name.into(),
            start: Box::new(start),
            alive: BTreeMap::new(),
            quota: PeerQuota::with_total(ALIVE_MAX, actors_max),
            actors_max,
        }
    }

    fn call(&mut self, cx: &mut SpawnServiceCx<'_, A, T>, call: FromNode<RciCall<A, T>>) {
        let FromNode { message: RciCall { arguments, watcher, reply }, from: peer, .. } = call;
        // The caller is not taken from the reply, which can name any node.
        let caller = peer.unwrap_or(cx.id().node());
        if peer.is_some() && cx.loop_ref().is_stopping() {
            log_panic(|| drop(arguments));
            return cx.reply(reply, SpawnOutcome::Stopping);
        }
        let permit = match self.quota.take(caller) {
            Ok(permit) => permit,
            Err(OverBudget { .. }) => {
                log_panic(|| drop(arguments));
                if let Some(peer) = peer {
                    count_refusal(cx.loop_ref(), peer);
                }
                return cx.reply(reply, SpawnOutcome::OverQuota(self.actors_max as u64));
            }
        };
        let actor = match (self.start)(cx, arguments) {
            Ok(actor) => actor,
            Err(text) => {
                if NodeRef::of(cx.loop_ref()).may_log("rci panic", format_args!("{} {caller}", self.name)) {
                    tracing::error!(rci = %self.name, %caller, text = printable(&text), "the function of an RCI panicked; the call fails (logged at most once an hour)");
                }
                return cx.reply(reply, SpawnOutcome::Panicked(text));
            }
        };
        // All of this happens before the first step of the actor. So no exit is missed, and no peer reaches the actor that
        // may not call the RCI.
        cx.monitor(actor);
        self.copy_access_to(cx, actor.id());
        let watcher =
            watcher.map(|watcher| watcher.id()).filter(|watcher| may_watch(cx.loop_ref(), peer, *watcher));
        if let Some(watcher) = watcher {
            cx.loop_ref().notify(actor.id().key(), watcher);
        }
        let running = RunningActor { caller, is_watched: watcher.is_some(), _permit: permit };
        self.alive.insert(actor.id(), running);
        cx.reply(reply, SpawnOutcome::At(actor));
    }

    /// Gives a new actor the access policy of this service.
    fn copy_access_to(&self, cx: &mut SpawnServiceCx<'_, A, T>, actor: ActorId) {
        let me = cx.id().key();
        let access = NodeRef::of(cx.loop_ref()).access_of(me);
        if !access.allows_all()
            && let Err(reason) = NodeRef::of(cx.loop_ref()).allow(actor, access)
        {
            tracing::debug!(%actor, %reason, "an actor of an RCI exited before its start");
        }
    }

    fn on_down(&mut self, cx: &mut SpawnServiceCx<'_, A, T>, actor: ActorId, reason: &ExitReason) {
        let Some(RunningActor { caller, is_watched, _permit }) = self.alive.remove(&actor) else { return };
        // The scheduler does not log the failure of a monitored actor, and the service monitors this one.
        let failed = matches!(reason, ExitReason::Failed(_) | ExitReason::Panicked(_));
        if !is_watched
            && failed
            && NodeRef::of(cx.loop_ref()).may_log("rci end", format_args!("{} {caller}", self.name))
        {
            tracing::warn!(rci = %self.name, actor = %actor, %reason, "an actor of an RCI failed, and its caller does not monitor it (logged at most once an hour)");
        }
    }
}

/// Counts and logs a call of a peer over a limit.
fn count_refusal(loop_ref: &mut LoopRef<'_>, peer: NodeId) {
    if let Some(state) = state(loop_ref) {
        state.refused += 1;
    }
    let what = "calls for more actors than it may have alive";
    NodeRef::of(loop_ref).log_refused(peer, "rci actors", what);
}

/// Whether a call may name this watcher. A peer may name an actor of this node only if the actor is exposed and accepts
/// all signals. The node of any other watcher checks it itself.
fn may_watch(loop_ref: &mut LoopRef<'_>, peer: Option<NodeId>, watcher: ActorId) -> bool {
    let is_here = watcher.node() == loop_ref.node_id();
    !(peer.is_some() && is_here) || loop_ref.service().takes_remote_signals(watcher.key())
}

impl<A: Wire, T: Wire> Actor<FromNode<RciCall<A, T>>> for SpawnService<A, T> {
    fn step(
        &mut self,
        cx: &mut SpawnServiceCx<'_, A, T>,
        event: Event<FromNode<RciCall<A, T>>>,
    ) -> Step<FromNode<RciCall<A, T>>> {
        match event {
            Event::Start => {
                cx.set_signal_policy(SignalPolicy::None);
                cx.set_name(&format!("RCI {}", self.name));
            }
            Event::Message(call) => self.call(cx, call),
            Event::Down(down) => self.on_down(cx, down.actor, &down.reason),
            // A spawn service handles no thrown values.
            Event::Thrown(thrown) => log_panic(|| drop(thrown.take())),
            _ => {}
        }
        receive()
    }
}
