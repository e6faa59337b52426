//! The monitors of actors and adapters that have ended. There may be a million of them, so they are completed over several rounds
//! of the loop, between which other actors run. The first part is completed at once.
//!
//! Invariants:
//! - A monitor of a live address is in the table of that address, and one of an ended address is here, until it is completed
//!   or removed. So the limits of monitors also bound what waits here.
//! - One round completes at most [`MONITORS_A_ROUND`] monitors. The ended addresses take turns.
//! - Of one address, the monitors that actors of this loop have set come first: those of peers do not delay a supervisor.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::actor::ExitReason;
use crate::id::{ActorId, Key, NodeId};
use crate::remote::{EncodedValue, MonitorId, Signal, SignalKind};
use crate::scheduler::core::Core;
use crate::scheduler::panic_guard::{TableInUse, log_panic};
use antiphon_types::Time;

/// The most monitors of ended actors that are completed in one round.
const MONITORS_A_ROUND: usize = 256;
/// How many of them may be those of actors that end meanwhile. The others are for those that wait.
const AT_ONCE_A_ROUND: usize = 128;
/// The most monitors of one address that are completed before it is the turn of another one.
const MONITORS_A_TURN: usize = 64;

/// An ended address. The serial number tells apart two adapters that had the same key.
type EndedKey = (Key, u64);

/// The ended addresses of which monitors wait.
#[derive(Default)]
pub(crate) struct EndedMonitors {
    waiting: BTreeMap<EndedKey, EndedAddress>,
    /// The address that had the last turn. The next one is behind it.
    last_turn: Option<EndedKey>,
    last_serial: u64,
    /// The monitors that were completed in this round.
    completed: usize,
}

/// What is left to complete after the end of an address.
pub(crate) struct EndedAddress {
    reason: ExitReason,
    /// The reason for watchers on other nodes: its value is encoded once for all of them.
    exported: Option<ExitReason<EncodedValue>>,
    /// The watchers that have not received their `Down`.
    watchers: BTreeMap<MonitorId, ActorId>,
    /// The actors that the ended actor has monitored.
    watching: BTreeMap<MonitorId, ActorId>,
}

impl EndedMonitors {
    /// Whether monitors wait to be completed.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Removes the monitor of a watcher that has not received its `Down`. Returns the address if nothing is left to complete.
    fn remove_watcher(&mut self, target: Key, id: MonitorId) -> Option<EndedAddress> {
        if !self.is_waiting() {
            return None;
        }
        let _in_use = TableInUse::begin();
        let of_target = self.waiting.range_mut((target, 0)..=(target, u64::MAX));
        let mut emptied = None;
        for (key, ended) in of_target {
            if ended.watchers.remove(&id).is_some() {
                emptied = ended.is_complete().then_some(*key);
                break;
            }
        }
        self.waiting.remove(&emptied?)
    }

    fn add(&mut self, key: Key, ended: EndedAddress) {
        self.last_serial += 1;
        self.waiting.insert((key, self.last_serial), ended);
    }

    /// Takes out the address that has the next turn.
    fn take_next(&mut self) -> Option<(EndedKey, EndedAddress)> {
        let after = self.last_turn.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.waiting.range((after, Bound::Unbounded)).next();
        let (next, _) = behind.or_else(|| self.waiting.first_key_value())?;
        let key = *next;
        self.last_turn = Some(key);
        self.waiting.remove(&key).map(|ended| (key, ended))
    }
}

impl EndedAddress {
    pub(crate) fn new(
        reason: &ExitReason,
        watchers: BTreeMap<MonitorId, ActorId>,
        watching: BTreeMap<MonitorId, ActorId>,
    ) -> Self {
        Self { reason: reason.clone(), exported: None, watchers, watching }
    }

    fn is_complete(&self) -> bool {
        self.watchers.is_empty() && self.watching.is_empty()
    }

    /// Takes out the next watcher: first those whose monitors the node `me` has numbered.
    fn pop_watcher(&mut self, me: NodeId) -> Option<(MonitorId, ActorId)> {
        let own = |number| MonitorId { origin: me, number };
        let first_own = self.watchers.range(own(0)..=own(u64::MAX)).next().map(|(id, _)| *id);
        match first_own {
            Some(id) => self.watchers.remove_entry(&id),
            None => self.watchers.pop_first(),
        }
    }

    /// The exit value may be of a user's type, whose drop may panic.
    fn discard(self) {
        log_panic(|| drop(self));
    }
}

impl Core {
    /// Whether monitors of ended addresses wait to be completed.
    pub(crate) fn has_ended_monitors(&self) -> bool {
        self.ended_monitors.is_waiting()
    }

    /// Removes the monitor of an ended address whose watcher has not received its `Down`.
    pub(super) fn remove_ended_monitor(&mut self, target: Key, id: MonitorId) {
        if let Some(ended) = self.ended_monitors.remove_watcher(target, id) {
            ended.discard();
        }
    }

    /// Drops all monitors that wait, when the loop is dropped.
    pub(super) fn drop_ended_monitors(&mut self) {
        std::mem::take(&mut self.ended_monitors.waiting).into_values().for_each(EndedAddress::discard);
    }

    /// Completes the monitors of an address that has ended: as many as this round allows at once, and the others in later rounds.
    pub(crate) fn end_monitors(&mut self, key: Key, mut ended: EndedAddress) {
        let most = AT_ONCE_A_ROUND.saturating_sub(self.ended_monitors.completed);
        self.complete_some(key, &mut ended, most);
        if ended.is_complete() {
            return ended.discard();
        }
        self.ended_monitors.add(key, ended);
        // No further actor should end in this round.
        (self.is_clock_due, self.batch_end, self.round_end) = (true, 0, Time::ZERO);
    }

    /// Completes the monitors that this round allows, and begins the next round.
    pub(crate) fn complete_ended_monitors(&mut self) {
        self.complete_ended(MONITORS_A_ROUND.saturating_sub(self.ended_monitors.completed));
        self.ended_monitors.completed = 0;
    }

    fn complete_ended(&mut self, mut left: usize) {
        self.current = None;
        while left > 0
            && let Some((key, mut ended)) = self.ended_monitors.take_next()
        {
            left -= self.complete_some(key.0, &mut ended, left.min(MONITORS_A_TURN));
            if ended.is_complete() {
                ended.discard();
            } else {
                self.ended_monitors.waiting.insert(key, ended);
            }
        }
    }

    /// Completes at most `most` monitors of an address: first those of its watchers. Returns their number.
    fn complete_some(&mut self, key: Key, ended: &mut EndedAddress, most: usize) -> usize {
        let mut completed = 0;
        while completed < most {
            if let Some((id, watcher)) = ended.pop_watcher(self.node_id) {
                self.complete_monitor(key, ended, id, watcher);
            } else if let Some((id, target)) = ended.watching.pop_first() {
                self.end_monitor_of(key, id, target);
            } else {
                break;
            }
            completed += 1;
        }
        self.ended_monitors.completed += completed;
        completed
    }

    /// Sends a `Down` of an ended address to a watcher on any node.
    fn complete_monitor(&mut self, key: Key, ended: &mut EndedAddress, id: MonitorId, watcher: ActorId) {
        let actor = self.id(key);
        if watcher.node() == self.node_id {
            return self.down(watcher.key(), id, actor, ended.reason.clone());
        }
        let reason = match &ended.exported {
            Some(exported) => exported.clone(),
            None => {
                let exported = self.exported_reason(actor, ended.reason.clone());
                ended.exported.insert(exported).clone()
            }
        };
        self.signal(Signal { from: Some(actor), to: watcher, kind: SignalKind::Down(id, reason) });
    }

    /// Removes the monitor that an ended actor has set on a target of any node.
    fn end_monitor_of(&mut self, watcher: Key, id: MonitorId, target: ActorId) {
        if target.node() == self.node_id {
            self.remove_watcher(target.key(), id);
        } else {
            let from = Some(self.id(watcher));
            self.signal(Signal { from, to: target, kind: SignalKind::Demonitor(id) });
        }
    }
}
