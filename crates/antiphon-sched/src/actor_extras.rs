//! What few actors have: watchers, further addresses, sources, a way in from the network.
//!
//! Invariant: a monitor between two actors of this loop stands in the tables of both, or of neither; a `Down`
//! is pushed exactly when it leaves the watcher's table.

use std::collections::{BTreeMap, BTreeSet};

use crate::actor_table::Flag;
use crate::codec_context::ExposedType;
use crate::core::Core;
use crate::error::Undelivered;
use crate::event::{Down, ExitReason, SystemEvent};
use crate::id::{ActorId, Key, NodeId};
use crate::mailbox::OPEN_MAX;
use crate::sockets::SocketId;
use crate::transport::{MonitorId, Signal};

#[derive(Default)]
pub(crate) struct ActorExtras {
    watchers: BTreeMap<MonitorId, Watcher>,
    watching: BTreeMap<MonitorId, ActorId>,
    pub(crate) adapters: Vec<Key>,
    /// Whose further address this is, if it is one.
    pub(crate) owner: Option<Key>,
    pub(crate) sources: Vec<u32>,
    pub(crate) sockets: BTreeSet<SocketId>,
    pub(crate) exposed: Option<ExposedType>,
    pub(crate) signal_policy: SignalPolicy,
    /// How many of `watching` others have had put there: of this loop, and of others.
    notified: [u16; 2],
    /// The world outside keeps something about it, and wants to know of its end.
    pub(crate) is_known_to_transport: bool,
    named: bool,
}

/// What actors of other nodes may do to one of this loop that they can send to; they may always send and monitor.
#[derive(Copy, Clone, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub enum SignalPolicy {
    /// Whatever actors may do to each other.
    #[default]
    All,
    /// They may end it; but neither throw at it, nor resume it, nor name it as one who is told of an end.
    TerminateOnly,
    /// Not even end it.
    None,
}

/// How many ends an actor may be told of because others want it to be, of this loop, and of others: neither leaves the other
/// without, and the rest of its requests is its own.
const NOTIFY_MAX: [u16; 2] = [OPEN_MAX / 4, OPEN_MAX / 2];
/// The bit in a monitor's number that says that its watcher, of the same loop, has not set it.
const NOTIFY: u64 = 1 << 62;

/// Who else wants an actor of `node_id` to be told: somebody there, or elsewhere, by the places in [`ActorExtras::notified`].
fn notified_by(id: MonitorId, node_id: NodeId) -> Option<usize> {
    match id.origin == node_id {
        true => (id.number & NOTIFY != 0).then_some(0),
        false => Some(1),
    }
}

impl ActorExtras {
    fn is_idle(&self) -> bool {
        let Self {
            watchers,
            watching,
            adapters,
            owner,
            sources,
            sockets,
            exposed,
            signal_policy,
            is_known_to_transport,
            notified: _,
            named,
        } = self;
        watchers.is_empty()
            && watching.is_empty()
            && adapters.is_empty()
            && sources.is_empty()
            && sockets.is_empty()
            && owner.is_none()
            && exposed.is_none()
            && *signal_policy == SignalPolicy::All
            && !is_known_to_transport
            && !named
    }
}

enum Watcher {
    Actor(ActorId),
    /// A thread, or other code outside of all actors.
    Callback(Box<dyn FnOnce(ExitReason)>),
}

impl Core {
    /// The side entry of a living actor, made if need be.
    pub(crate) fn extras(&mut self, key: Key) -> Option<&mut ActorExtras> {
        if !self.actors.is_alive(key) {
            return None;
        }
        self.actors.set(key.index(), Flag::EXTRAS, true);
        Some(self.extras.entry(key.index()).or_default())
    }

    /// The actor that a key means: its own, or that of which it is a further address.
    pub(crate) fn owner_of(&self, key: Key) -> Key {
        if self.actors.is_alive(key) && self.actors.has(key.index(), Flag::ADAPTER) {
            self.extras.get(&key.index()).and_then(|extras| extras.owner).unwrap_or(key)
        } else {
            key
        }
    }

    /// What actors of other nodes may do to an actor, besides sending to it.
    pub(crate) fn signal_policy_of(&self, key: Key) -> SignalPolicy {
        let key = self.owner_of(key);
        self.extras
            .get(&key.index())
            .filter(|_| self.actors.is_alive(key))
            .map_or(SignalPolicy::All, |extras| extras.signal_policy)
    }

    pub(crate) fn set_signal_policy(&mut self, key: Key, signal_policy: SignalPolicy) {
        if let Some(extras) = self.extras(key) {
            extras.signal_policy = signal_policy;
            self.drop_idle_extras(key);
        }
    }

    pub(crate) fn set_name(&mut self, key: Key, name: &str) {
        if let Some(extras) = self.extras(key) {
            extras.named = true;
            self.shared.names.lock().insert(key, name.into());
        }
    }

    /// The diagnostic name of an actor: its key, and the name that it gave itself.
    pub(crate) fn describe(&self, key: Key) -> String {
        match self.shared.names.lock().get(&key) {
            Some(name) => format!("{name} ({key})"),
            None => key.to_string(),
        }
    }

    pub(crate) fn next_monitor(&mut self) -> MonitorId {
        self.monitors += 1;
        MonitorId { origin: self.node_id, number: self.monitors }
    }

    /// `watcher`, here, is told when `target` ends, wherever that is.
    pub(crate) fn monitor(&mut self, watcher: Key, target: ActorId) -> MonitorId {
        let id = self.next_monitor();
        let Some(mailbox) = self.any_mailbox(watcher) else { return id };
        if *mailbox.opened() == OPEN_MAX {
            self.end_over_limit(watcher);
            return id;
        }
        *mailbox.opened() += 1;
        if let Some(extras) = self.extras(watcher) {
            extras.watching.insert(id, target);
        }
        if target.node() != self.node_id {
            self.signal(Signal::Monitor { target, id, watcher });
        } else {
            self.watch_local(target.key(), id, self.id(watcher));
        }
        id
    }

    /// `watcher`, wherever it is, is told when `target`, here, ends.
    pub(crate) fn watch_local(&mut self, target: Key, id: MonitorId, watcher: ActorId) {
        match self.extras(target) {
            Some(extras) => {
                extras.watchers.insert(id, Watcher::Actor(watcher));
            }
            None => {
                let actor = self.id(target);
                self.tell_down(watcher, id, actor, ExitReason::NoActor);
            }
        }
    }

    /// Code outside of all actors is told when `target`, here, ends.
    pub(crate) fn watch_by_callback(&mut self, target: Key, tell: Box<dyn FnOnce(ExitReason)>) -> MonitorId {
        let id = self.next_monitor();
        match self.extras(target) {
            Some(extras) => {
                extras.watchers.insert(id, Watcher::Callback(tell));
            }
            None => crate::panic_guard::log_panic(|| tell(ExitReason::NoActor)),
        }
        id
    }

    pub(crate) fn demonitor(&mut self, watcher: Key, id: MonitorId) {
        let Some(target) = self.forget_watching(watcher, id) else { return };
        if target.node() != self.node_id {
            self.signal(Signal::Demonitor { watcher, target, id });
        } else {
            self.unwatch_local(target.key(), id);
        }
    }

    pub(crate) fn unwatch_local(&mut self, target: Key, id: MonitorId) {
        if self.actors.is_alive(target)
            && let Some(extras) = self.extras.get_mut(&target.index())
        {
            let watcher = extras.watchers.remove(&id);
            self.drop_idle_extras(target);
            crate::panic_guard::log_panic(|| drop(watcher));
        }
    }

    /// An actor that has nothing special any more costs no entry.
    pub(crate) fn drop_idle_extras(&mut self, key: Key) {
        if self.extras.get(&key.index()).is_some_and(|extras| extras.is_idle()) {
            self.extras.remove(&key.index());
            self.actors.set(key.index(), Flag::EXTRAS, false);
        }
    }

    fn forget_watching(&mut self, watcher: Key, id: MonitorId) -> Option<ActorId> {
        let watcher = self.owner_of(watcher);
        if !self.actors.is_alive(watcher) {
            return None;
        }
        let notified_by = notified_by(id, self.node_id);
        let extras = self.extras.get_mut(&watcher.index())?;
        let target = extras.watching.remove(&id)?;
        if let Some(by) = notified_by {
            extras.notified[by] -= 1;
        }
        if let Some(mailbox) = self.any_mailbox(watcher) {
            *mailbox.opened() -= 1;
        }
        self.drop_idle_extras(watcher);
        Some(target)
    }

    /// Has `watcher` told when `actor`, here, ends.
    pub(crate) fn notify(&mut self, watcher: ActorId, actor: Key) {
        let mut id = self.next_monitor();
        let target = self.id(actor);
        if watcher.node() == self.node_id {
            id.number |= NOTIFY;
            self.expect_down(watcher.key(), id, target);
        } else {
            self.signal(Signal::Notify { watcher, id, actor });
        }
        self.watch_local(actor, id, watcher);
    }

    /// `watcher`, here, will be told of `actor` under this number; false when it will not, and is told so.
    pub(crate) fn expect_down(&mut self, watcher: Key, id: MonitorId, actor: ActorId) -> bool {
        let watcher = self.owner_of(watcher);
        let notified_by = notified_by(id, self.node_id);
        let is_overdrawn = self.any_mailbox(watcher).is_none_or(|mailbox| *mailbox.opened() == OPEN_MAX);
        let extras = if is_overdrawn { None } else { self.extras(watcher) };
        let may =
            |extras: &&mut ActorExtras| notified_by.is_none_or(|by| extras.notified[by] < NOTIFY_MAX[by]);
        let Some(extras) = extras.filter(may) else {
            self.refuse_notify(watcher, actor);
            return false;
        };
        // Told twice, it is one monitor.
        if extras.watching.insert(id, actor).is_none() {
            if let Some(by) = notified_by {
                extras.notified[by] += 1;
            }
            if let Some(mailbox) = self.any_mailbox(watcher) {
                *mailbox.opened() += 1;
            }
        }
        true
    }

    /// `watcher`, here, is told that it will not hear of the end of `actor`. It has no place reserved for that, so it is told
    /// as by a message, which takes up room.
    pub(crate) fn refuse_notify(&mut self, watcher: Key, actor: ActorId) {
        let (watcher, max) = (self.owner_of(watcher), self.mailbox_max);
        match self.any_mailbox(watcher).map(|mailbox| mailbox.is_full_of(max)) {
            Some(false) => drop(
                self.push_system(watcher, SystemEvent::Down(Down { actor, reason: ExitReason::Refused })),
            ),
            Some(true) => self.dead_letters.note(self.id(watcher), "a notify", Undelivered::Full),
            None => self.dead_letters.note(self.id(watcher), "a notify", Undelivered::NoActor),
        }
    }

    /// Tells `watcher`, here, once.
    pub(crate) fn down(&mut self, watcher: Key, id: MonitorId, actor: ActorId, reason: ExitReason) {
        if self.forget_watching(watcher, id).is_some() {
            let down = self.metered(SystemEvent::Down(Down { actor, reason }));
            self.push_system(watcher, down);
        }
    }

    pub(crate) fn tell_down(&mut self, watcher: ActorId, id: MonitorId, actor: ActorId, reason: ExitReason) {
        if watcher.node() == self.node_id {
            self.down(watcher.key(), id, actor, reason);
        } else {
            let reason = self.export_reason(reason);
            self.signal(Signal::Down { watcher, id, actor, reason });
        }
    }

    fn export_reason(&mut self, reason: ExitReason) -> ExitReason {
        match reason {
            ExitReason::Done(value) => ExitReason::Done(self.export(value)),
            other => other,
        }
    }

    /// All that was known of an actor that has ended.
    pub(crate) fn drop_extras(&mut self, key: Key, extras: ActorExtras, reason: &ExitReason) {
        let actor = self.id(key);
        let watched = extras.watchers.values().any(|watcher| matches!(watcher, Watcher::Actor(_)));
        if !watched {
            self.log_end(key, reason, extras.owner.is_some());
        }
        if extras.named {
            self.shared.names.lock().remove(&key);
        }
        for (id, target) in extras.watching {
            if target.node() != self.node_id {
                self.signal(Signal::Demonitor { watcher: key, target, id });
            } else {
                self.unwatch_local(target.key(), id);
            }
        }
        for (id, watcher) in extras.watchers {
            match watcher {
                Watcher::Actor(watcher) => self.tell_down(watcher, id, actor, reason.clone()),
                Watcher::Callback(tell) => crate::panic_guard::log_panic(|| tell(reason.clone())),
            }
        }
        for adapter in extras.adapters {
            self.end_actor(adapter, reason.clone());
        }
        for source in extras.sources {
            self.readiness.forget(source);
        }
        self.close_sockets_of(extras.sockets);
        if extras.exposed.is_some() || extras.is_known_to_transport {
            self.signal(Signal::Exited { actor: key });
        }
    }

    /// Ends a further address of an actor, and nothing else.
    pub(crate) fn close_adapter(&mut self, key: Key) {
        let owner = self.owner_of(key);
        if owner == key {
            return;
        }
        if let Some(extras) = self.extras.get_mut(&owner.index()) {
            extras.adapters.retain(|adapter| *adapter != key);
        }
        self.end_actor(key, ExitReason::Done(crate::value::Value::unit()));
    }

    /// A failure that nobody watches is logged.
    pub(crate) fn log_end(&self, key: Key, reason: &ExitReason, quiet: bool) {
        if !quiet && matches!(reason, ExitReason::Failed(_) | ExitReason::Panicked(_)) {
            tracing::warn!(actor = %self.describe(key), %reason, "an actor ended that nobody monitors");
        }
    }

    /// An actor asked for more timers or monitors than it may have open.
    pub(crate) fn end_over_limit(&mut self, key: Key) {
        let text =
            format!("more than {OPEN_MAX} open requests; cancel timers and monitors that are not needed");
        self.end_actor(key, ExitReason::Failed(text));
    }

    /// Asks an actor to end, wherever it is.
    pub(crate) fn terminate(&mut self, target: ActorId) {
        if target.node() != self.node_id {
            self.signal(Signal::Terminate { from: self.current, target });
        } else if !self.push_system(target.key(), SystemEvent::Terminate) {
            self.dead_letters.note(target, "terminate", Undelivered::NoActor);
        }
    }
}
