//! The rarely used state of actors: monitors, adapters, readiness sources, sockets, access from the network.
//!
//! Invariant: a monitor between two actors of this loop is in the tables of both, or of neither; the monitors of an actor that has
//! ended are in [`EndedMonitors`](crate::scheduler::ended_monitors::EndedMonitors) instead of its table. The `Down` of a monitor is pushed only
//! when the monitor leaves the watcher's table, so at most once.

use std::collections::{BTreeMap, BTreeSet};

use crate::actor::{Down, ExitReason};
use crate::error::Undelivered;
use crate::id::{ActorId, Key, NodeId};
use crate::remote::{EncodedValue, ExposedType, MonitorId, Notice, Signal, SignalKind};
use crate::scheduler::actor_table::Flag;
use crate::scheduler::adapter::AdapterTable;
use crate::scheduler::cell::ActorType;
use crate::scheduler::core::Core;
use crate::scheduler::dead_letter::DeadLetter;
use crate::scheduler::ended_monitors::EndedAddress;
use crate::scheduler::log_panic;
use crate::scheduler::mailbox_limit::MailboxLimit;
use crate::scheduler::system_event::SystemEvent;
use crate::socket::{SocketId, Sockets};

#[derive(Default)]
pub(super) struct ActorExtras {
    /// The state of the actor's own address.
    pub(super) address: AddressExtras,
    watching: BTreeMap<MonitorId, ActorId>,
    pub(super) adapters: AdapterTable,
    sources: Vec<u32>,
    sockets: BTreeSet<SocketId>,
    signal_policy: SignalPolicy,
    /// How many entries of `watching` were set by `notify`: by actors of this loop, and by actors of other nodes.
    notified: [u32; 2],
    /// The addresses for which this actor awaits `Writable`. For actors of this loop with its ticket.
    pub(super) awaited_room: BTreeMap<ActorId, u64>,
    named: bool,
    pub(super) mailbox_limit: Option<MailboxLimit>,
}

/// The rarely used state of one address: the actor's own, or that of an adapter.
#[derive(Default)]
pub(super) struct AddressExtras {
    watchers: BTreeMap<MonitorId, ActorId>,
    exit_callbacks: BTreeMap<MonitorId, ExitCallback>,
    /// Messages from the network may reach the address.
    pub(super) exposed: Option<ExposedType>,
    /// The transport keeps state about this address, and needs a signal when it ends.
    pub(super) is_known_to_transport: bool,
}

impl AddressExtras {
    fn is_idle(&self) -> bool {
        self.watchers.is_empty() && self.exit_callbacks.is_empty() && !self.is_known_elsewhere()
    }

    /// Removes the monitors of threads that wait in `join`.
    fn take_joins(&mut self, waiting: &mut Vec<ExitCallback>) {
        let is_join = |_: &MonitorId, callback: &mut ExitCallback| callback.is_join;
        waiting.extend(self.exit_callbacks.extract_if(.., is_join).map(|(_, callback)| callback));
    }

    /// Whether the transport or other nodes may know the address.
    pub(crate) fn is_known_elsewhere(&self) -> bool {
        self.exposed.is_some() || self.is_known_to_transport
    }
}

/// Which signals an actor accepts from actors of other nodes that know its address. Messages and monitors are
/// always accepted.
#[derive(Copy, Clone, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub enum SignalPolicy {
    /// All signals that actors of one node may send to each other.
    #[default]
    All,
    /// `terminate` only: `throw`, `resume` and `notify` are refused.
    TerminateOnly,
    /// No signals: `terminate` is refused too.
    None,
}

/// The share of an actor's open requests that other actors may use by `notify`: actors of this loop, and actors of other
/// nodes. The rest is left to the actor itself.
const NOTIFY_SHARE: [usize; 2] = [4, 2];
/// How many `Down` events each of the two groups may reserve at most.
const NOTIFY_MAX: [usize; 2] = [16_383, 32_767];
/// The bit in a monitor's number that marks a monitor set by `notify`, where both actors are in this loop.
const NOTIFY: u64 = 1 << 62;

/// The index in [`ActorExtras::notified`] that counts this monitor; `None` if the watcher set it itself.
fn notified_by(id: MonitorId, node_id: NodeId) -> Option<usize> {
    if id.origin == node_id { (id.number & NOTIFY != 0).then_some(0) } else { Some(1) }
}

impl ActorExtras {
    fn is_idle(&self) -> bool {
        let Self {
            address,
            watching,
            adapters,
            sources,
            sockets,
            signal_policy,
            awaited_room,
            notified: _,
            named,
            mailbox_limit,
        } = self;
        address.is_idle()
            && watching.is_empty()
            && adapters.is_unused()
            && sources.is_empty()
            && sockets.is_empty()
            && *signal_policy == SignalPolicy::All
            && awaited_room.is_empty()
            && !named
            && mailbox_limit.is_none()
    }
}

/// A monitor that is not of an actor. Only code of this process sets them, so they are completed at once.
struct ExitCallback {
    run: Box<dyn FnOnce(ExitReason)>,
    /// Whether a thread waits in [`Handle::join`](crate::Handle::join). Else it is a [`JoinHandle`](crate::JoinHandle), which keeps the
    /// exit value.
    is_join: bool,
}

impl ExitCallback {
    fn run(self, reason: &ExitReason) {
        log_panic(|| (self.run)(reason.clone()));
    }
}

/// The most failures that a test loop keeps.
const FAILURES_MAX: usize = 64;

impl Core {
    /// The extras of an actor that has not exited; created if absent.
    pub(super) fn extras(&mut self, key: Key) -> Option<&mut ActorExtras> {
        if !self.actors.is_alive(key) {
            return None;
        }
        self.actors.set(key.index(), Flag::EXTRAS, true);
        Some(self.extras.entry(key.index()).or_default())
    }

    /// The extras of an address that has not ended: of an actor, created if absent, or of an open adapter.
    pub(super) fn address_extras(&mut self, key: Key) -> Option<&mut AddressExtras> {
        if key.is_adapter() {
            self.adapter_mut(key).map(|slot| &mut slot.address)
        } else {
            self.extras(key).map(|extras| &mut extras.address)
        }
    }

    /// Lists a readiness source with its actor; false if the actor has exited.
    pub(crate) fn add_source(&mut self, owner: Key, source: u32) -> bool {
        self.extras(owner).map(|extras| extras.sources.push(source)).is_some()
    }

    pub(crate) fn remove_source(&mut self, owner: Key, source: u32) {
        if let Some(extras) = self.extras(owner) {
            extras.sources.retain(|known| *known != source);
            self.drop_idle_extras(owner);
        }
    }

    /// Lists a socket with its actor; false if the actor has exited.
    pub(crate) fn add_socket(&mut self, owner: Key, id: SocketId) -> bool {
        self.extras(owner).map(|extras| extras.sockets.insert(id)).is_some()
    }

    pub(crate) fn remove_socket(&mut self, owner: Key, id: SocketId) {
        if self.actors.is_alive(owner)
            && let Some(extras) = self.extras.get_mut(&owner.index())
        {
            extras.sockets.remove(&id);
            self.drop_idle_extras(owner);
        }
    }

    /// The sockets of an actor.
    pub(crate) fn sockets_of(&self, owner: Key) -> BTreeSet<SocketId> {
        let extras = self.extras.get(&owner.index()).filter(|_| self.actors.is_alive(owner));
        extras.map(|extras| extras.sockets.clone()).unwrap_or_default()
    }

    /// Makes the loop report the end of an address to the transport; false if the address has ended.
    pub(crate) fn report_exit(&mut self, key: Key) -> bool {
        self.address_extras(key).map(|address| address.is_known_to_transport = true).is_some()
    }

    /// From now on keeps the failures of actors that nobody monitors, for a test loop.
    pub(crate) fn keep_failures(&mut self) {
        self.failures.get_or_insert_default();
    }

    pub(crate) fn failures(&self) -> &[String] {
        self.failures.as_deref().unwrap_or_default()
    }

    /// Which signals from other nodes the actor accepts.
    pub(crate) fn signal_policy_of(&self, key: Key) -> SignalPolicy {
        let key = key.actor();
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
            self.shared.set_name(key, name);
        }
    }

    /// The diagnostic name of an actor: the name that it set, or else the name of its type, and its key.
    pub(crate) fn describe(&self, key: Key) -> String {
        self.describe_as(key.actor(), self.actors.actor_type(key.actor()))
    }

    pub(crate) fn describe_as(&self, key: Key, actor_type: Option<ActorType>) -> String {
        match (self.shared.name_of(key), actor_type) {
            (Some(name), _) => format!("{name} ({key})"),
            (None, Some(actor_type)) => format!("{} ({key})", actor_type()),
            (None, None) => key.to_string(),
        }
    }

    pub(crate) fn next_monitor(&mut self) -> MonitorId {
        self.last_monitor += 1;
        MonitorId { origin: self.node_id, number: self.last_monitor }
    }

    /// Adds a monitor: the local actor `watcher` receives a `Down` when `target` exits, on any node.
    pub(crate) fn monitor(&mut self, watcher: Key, target: ActorId) -> MonitorId {
        let id = self.next_monitor();
        let Some(opened) = self.open_one(watcher) else { return id };
        if opened.is_err() {
            let refused = SystemEvent::Down(Down { actor: target, reason: ExitReason::Refused });
            self.push_system(watcher, refused);
            return id;
        }
        if let Some(extras) = self.extras(watcher) {
            extras.watching.insert(id, target);
        }
        if target.node() != self.node_id {
            let from = Some(self.id(watcher));
            self.signal(Signal { from, to: target, kind: SignalKind::Monitor(id) });
        } else {
            self.add_watcher(target.key(), id, self.id(watcher));
        }
        id
    }

    /// Sends a `Down` to `watcher`, on any node, when the local actor `target` exits.
    pub(crate) fn add_watcher(&mut self, target: Key, id: MonitorId, watcher: ActorId) {
        match self.address_extras(target) {
            Some(address) => {
                address.watchers.insert(id, watcher);
            }
            None => {
                let actor = self.id(target);
                self.send_down(watcher, id, actor, ExitReason::NoActor);
            }
        }
    }

    /// Runs `callback` when the local actor `target` exits; at once if it has exited already.
    pub(crate) fn monitor_by_callback(&mut self, target: Key, callback: Box<dyn FnOnce(ExitReason)>) {
        self.watch_by(target, ExitCallback { run: callback, is_join: false });
    }

    /// As [`Core::monitor_by_callback`], for a thread that waits. [`Core::end_joins`] removes the monitor.
    pub(crate) fn join_by_callback(
        &mut self,
        target: Key,
        callback: Box<dyn FnOnce(ExitReason)>,
    ) -> MonitorId {
        self.watch_by(target, ExitCallback { run: callback, is_join: true })
    }

    fn watch_by(&mut self, target: Key, callback: ExitCallback) -> MonitorId {
        let id = self.next_monitor();
        match self.address_extras(target) {
            Some(address) => {
                address.exit_callbacks.insert(id, callback);
            }
            None => callback.run(&ExitReason::NoActor),
        }
        id
    }

    /// Drops the monitors of all threads that wait in `join`: they get `NoLoop`.
    pub(crate) fn end_joins(&mut self) {
        let mut waiting = Vec::new();
        for extras in self.extras.values_mut() {
            extras.address.take_joins(&mut waiting);
            extras.adapters.addresses_mut().for_each(|address| address.take_joins(&mut waiting));
        }
        waiting.into_iter().for_each(|callback| log_panic(|| drop(callback)));
    }

    pub(crate) fn demonitor(&mut self, watcher: Key, id: MonitorId) {
        let Some(target) = self.remove_monitor(watcher, id) else { return };
        if target.node() != self.node_id {
            let from = Some(self.id(watcher));
            self.signal(Signal { from, to: target, kind: SignalKind::Demonitor(id) });
        } else {
            self.remove_watcher(target.key(), id);
        }
    }

    /// Refuses a monitor: sends `watcher`, on another node, a `Down` of `target` with this reason.
    pub(crate) fn refuse_monitor(
        &mut self,
        target: Key,
        id: MonitorId,
        watcher: ActorId,
        reason: ExitReason<EncodedValue>,
    ) {
        // The peer may have set it before, in a session that has ended: it gets one `Down`.
        self.remove_ended_monitor(target, id);
        let from = Some(self.id(target));
        self.signal(Signal { from, to: watcher, kind: SignalKind::Down(id, reason) });
    }

    /// Removes a monitor of an address of this loop, also if the address has ended and the `Down` waits for its turn.
    pub(crate) fn remove_watcher(&mut self, target: Key, id: MonitorId) {
        if let Some(address) = self.address_extras(target) {
            let is_removed = address.watchers.remove(&id).is_some();
            let callback = address.exit_callbacks.remove(&id);
            self.drop_idle_extras(target.actor());
            if callback.is_some() {
                return log_panic(|| drop(callback));
            }
            if is_removed {
                return;
            }
        }
        self.remove_ended_monitor(target, id);
    }

    /// Removes the extras of an actor that no longer uses any of them.
    pub(crate) fn drop_idle_extras(&mut self, key: Key) {
        if self.extras.get(&key.index()).is_some_and(|extras| extras.is_idle()) {
            self.extras.remove(&key.index());
            self.actors.set(key.index(), Flag::EXTRAS, false);
        }
    }

    fn remove_monitor(&mut self, watcher: Key, id: MonitorId) -> Option<ActorId> {
        // A `Down` that was reserved by the address of an adapter arrives also when that adapter is closed.
        let watcher = watcher.actor();
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
            mailbox.close_one();
        }
        self.drop_idle_extras(watcher);
        Some(target)
    }

    /// Sends a `Down` to `watcher`, on any node, when the local actor `actor` exits.
    pub(crate) fn notify(&mut self, watcher: ActorId, actor: Key) {
        let mut id = self.next_monitor();
        let target = self.id(actor);
        if watcher.node() == self.node_id {
            id.number |= NOTIFY;
            self.expect_down(watcher.key(), id, target);
        } else {
            self.signal(Signal { from: Some(target), to: watcher, kind: SignalKind::Notify(id) });
        }
        self.add_watcher(actor, id, watcher);
    }

    /// Reserves the `Down` that a `notify` of `actor` announces to the local actor `watcher`. If a limit is reached,
    /// sends `Down` with `Refused` instead and returns false.
    pub(crate) fn expect_down(&mut self, watcher: Key, id: MonitorId, actor: ActorId) -> bool {
        let Some(watcher) = self.actor_of(watcher) else {
            self.refuse_notify(watcher, actor);
            return false;
        };
        let notified_by = notified_by(id, self.node_id);
        let max = self.requests_max;
        let Some(extras) = self.extras(watcher) else { return false };
        // A `notify` that arrives twice is one monitor.
        if extras.watching.contains_key(&id) {
            return true;
        }
        let has_share = notified_by
            .is_none_or(|by| (extras.notified[by] as usize) < NOTIFY_MAX[by].min(max / NOTIFY_SHARE[by]));
        if !has_share || !matches!(self.open_one(watcher), Some(Ok(()))) {
            self.refuse_notify(watcher, actor);
            self.drop_idle_extras(watcher);
            return false;
        }
        if let Some(extras) = self.extras(watcher) {
            extras.watching.insert(id, actor);
            if let Some(by) = notified_by {
                extras.notified[by] += 1;
            }
        }
        true
    }

    /// Sends `Down` with `Refused` to the local actor `watcher`: its limit of `notify` is reached. No room is reserved
    /// for this event, so it counts against the mailbox limit as a message does.
    pub(crate) fn refuse_notify(&mut self, watcher: Key, actor: ActorId) {
        let max = self.capacity_of(watcher.actor());
        match self.any_mailbox_of(watcher).map(|mailbox| mailbox.is_full(max)) {
            Some(false) => drop(
                self.push_system(watcher, SystemEvent::Down(Down { actor, reason: ExitReason::Refused })),
            ),
            Some(true) => self.dead_letter(
                DeadLetter::new(self.id(watcher), "notify", Undelivered::Full).sent_by(Some(actor)),
            ),
            None => self.dead_letter(
                DeadLetter::new(self.id(watcher), "notify", Undelivered::NoActor).sent_by(Some(actor)),
            ),
        }
    }

    /// Sends the `Down` of a monitor to the local actor `watcher`, if the monitor is still set.
    pub(crate) fn down(&mut self, watcher: Key, id: MonitorId, actor: ActorId, reason: ExitReason) {
        if self.remove_monitor(watcher, id).is_some() {
            let down = self.metered(SystemEvent::Down(Down { actor, reason }));
            self.push_system(watcher.actor(), down);
        }
    }

    pub(crate) fn send_down(&mut self, watcher: ActorId, id: MonitorId, actor: ActorId, reason: ExitReason) {
        if watcher.node() == self.node_id {
            self.down(watcher.key(), id, actor, reason);
        } else {
            let reason = self.exported_reason(actor, reason);
            self.signal(Signal { from: Some(actor), to: watcher, kind: SignalKind::Down(id, reason) });
        }
    }

    /// An exit reason in its form for the wire.
    pub(super) fn exported_reason(&mut self, actor: ActorId, reason: ExitReason) -> ExitReason<EncodedValue> {
        reason.map(|value| {
            crate::remote::export(self, value).unwrap_or_else(|reason| {
                tracing::warn!(%actor, %reason, "an exit value was not sent to another node");
                EncodedValue::NotSent(reason)
            })
        })
    }

    /// Undoes the extras of an adapter that is closed, or whose actor has exited.
    pub(super) fn end_address(&mut self, key: Key, address: AddressExtras, reason: &ExitReason) {
        let is_known_elsewhere = address.is_known_elsewhere();
        self.end_monitors_of(key, address, BTreeMap::new(), reason);
        if is_known_elsewhere {
            self.notice(Notice::Exited { actor: key });
        }
    }

    /// Completes the monitors of an address that has ended: of its watchers, and of the actors that it was `watching`.
    fn end_monitors_of(
        &mut self,
        key: Key,
        address: AddressExtras,
        watching: BTreeMap<MonitorId, ActorId>,
        reason: &ExitReason,
    ) {
        for callback in address.exit_callbacks.into_values() {
            callback.run(reason);
        }
        if !address.watchers.is_empty() || !watching.is_empty() {
            self.end_monitors(key, EndedAddress::new(reason, address.watchers, watching));
        }
    }

    /// Undoes the extras of an actor that has exited: ends its monitors, adapters, sources and sockets.
    pub(super) fn drop_extras(
        &mut self,
        (key, actor_type): (Key, ActorType),
        extras: ActorExtras,
        reason: &ExitReason,
    ) {
        let address = extras.address;
        let is_known_elsewhere = address.is_known_elsewhere();
        // The monitors of actors that have ended may not be removed yet.
        let watched = address
            .watchers
            .values()
            .any(|watcher| watcher.node() != self.node_id || self.actors.is_alive(watcher.key().actor()));
        self.log_exit((key, actor_type), reason, watched);
        if extras.named {
            self.shared.forget_name(key);
        }
        self.end_monitors_of(key, address, extras.watching, reason);
        self.end_adapters(key, extras.adapters, reason);
        for source in extras.sources {
            self.readiness.forget(source);
        }
        Sockets::of(self).close_all(extras.sockets);
        // `Down`s may still wait. But when a watcher receives its own, the names of the actor must be free.
        if is_known_elsewhere {
            self.notice(Notice::Exited { actor: key });
        }
    }

    /// Logs the end of an actor: as a warning, if it failed and has no monitors.
    pub(crate) fn log_exit(
        &mut self,
        (key, actor_type): (Key, ActorType),
        reason: &ExitReason,
        watched: bool,
    ) {
        if !watched && matches!(reason, ExitReason::Failed(_) | ExitReason::Panicked(_)) {
            let actor = self.describe_as(key, Some(actor_type));
            tracing::warn!(target: "antiphon::actors", %actor, %reason, "unmonitored actor failed");
            if let Some(failures) = self.failures.as_mut().filter(|failures| failures.len() < FAILURES_MAX) {
                failures.push(format!("{actor}: {reason}"));
            }
        } else {
            tracing::debug!(target: "antiphon::actors", actor = %self.describe_as(key, Some(actor_type)), %reason, "an actor has ended");
        }
    }
}
