//! How actors are terminated: one by a request, or all of them in order when the loop stops.
//!
//! A termination has three times. It begins: the event waits behind what is in the mailbox. At half of its grace time the
//! event overtakes the mailbox. At its end the actor ends, whatever it does.
//!
//! When the loop stops, an actor is terminated when all newer actors have ended, and services when all others have. At half
//! of the time for the stop all that remain are terminated at once.
//!
//! Invariant: the table has an entry for exactly the actors with [`Flag::TERMINATING`].

use std::collections::VecDeque;
use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::actor::ExitReason;
use crate::error::Undelivered;
use crate::id::{ActorId, Key};
use crate::remote::{Signal, SignalKind};
use crate::scheduler::actor_table::Flag;
use crate::scheduler::core::Core;
use crate::scheduler::system_event::SystemEvent;
use crate::scheduler::timers::{TimerKey, TimerPurpose};
use antiphon_types::Time;

/// How long a terminated actor may take by default until it has ended.
pub(crate) const GRACE: Duration = Duration::from_secs(5);
/// After this many actors that had to be ended, the log has a line at powers of two.
const CUT_OFF_LOGGED: u64 = 32;

/// The terminations that have begun, and the stop of the loop.
#[derive(Default)]
pub(crate) struct Terminations {
    /// By the index of the actor's slot.
    by_index: FxHashMap<u32, Termination>,
    stop: Option<LoopStop>,
    /// The number of actors that had to be ended.
    cut_off: u64,
}

/// The termination of one actor.
struct Termination {
    /// When the actor ends at the latest; `Time::MAX` if the end of the loop's stop is the bound.
    until: Time,
    /// Whether the actor has received its event.
    is_received: bool,
    timer: TimerKey,
    /// When the timer is due.
    due: Time,
}

/// The stop of a loop.
struct LoopStop {
    /// When the loop has stopped at the latest.
    end: Time,
    /// The actors that are alive, the next to be terminated last. May hold actors that have ended.
    order: VecDeque<Key>,
    /// All actors are terminated, not only the newest.
    is_all_at_once: bool,
    timer: TimerKey,
    /// When the timer is due.
    due: Time,
}

impl LoopStop {
    fn is_over(&self, now: Time) -> bool {
        now >= self.end
    }
}

impl Core {
    /// Whether a requested stop is complete: all actors have ended, or its time is over.
    pub(crate) fn has_stopped(&self) -> bool {
        let stop = self.terminations.stop.as_ref();
        stop.is_some_and(|stop| self.actors.len() == 0 || stop.is_over(self.now))
    }

    /// Terminates an actor, on any node: it has `grace` to end.
    pub(crate) fn terminate(&mut self, target: ActorId, grace: Duration) {
        self.end_or_signal(target, Some(grace));
    }

    /// Ends an actor, on any node, without a further step.
    pub(crate) fn kill(&mut self, target: ActorId) {
        self.end_or_signal(target, None);
    }

    fn end_or_signal(&mut self, target: ActorId, grace: Option<Duration>) {
        if target.node() != self.node_id {
            let from = self.current.map(|key| self.id(key));
            return self.signal(Signal { from, to: target, kind: SignalKind::Terminate { grace } });
        }
        match (self.actor_of(target.key()), grace) {
            (None, _) => self.dead_signal(target, "terminate", Undelivered::NoActor),
            (Some(key), Some(grace)) => self.begin_termination(key, grace, self.now + grace),
            (Some(key), None) => self.end_actor(key, ExitReason::Terminated),
        }
    }

    /// Begins the termination of an actor. If it has begun before, the shorter of the two grace times holds.
    fn begin_termination(&mut self, key: Key, grace: Duration, until: Time) {
        let index = key.index();
        if !self.actors.is_alive(key) {
            return;
        }
        let due = self.now + grace / 2;
        if let Some(termination) = self.terminations.by_index.get_mut(&index) {
            termination.until = termination.until.min(until);
            let due = if termination.is_received { termination.until } else { due };
            if due < termination.due {
                self.wheel.cancel(termination.timer);
                termination.due = due;
                termination.timer = self.wheel.insert(due, TimerPurpose::Termination(key));
            }
            return;
        }
        let timer = self.wheel.insert(due, TimerPurpose::Termination(key));
        self.actors.set(index, Flag::TERMINATING, true);
        let termination = Termination { until, is_received: false, timer, due };
        self.terminations.by_index.insert(index, termination);
        if grace.is_zero() {
            self.overtake(key);
        } else {
            self.push_system(key, SystemEvent::Terminate);
        }
    }

    /// Puts the event before all that is in the mailbox. The one that waits there is ignored later.
    fn overtake(&mut self, key: Key) {
        if let Some(mailbox) = self.any_mailbox(key) {
            mailbox.push_system_first(SystemEvent::Terminate);
            self.actors.enqueue(key.index());
        }
    }

    /// Records that an actor receives its event; false if it has received one before.
    pub(crate) fn take_termination(&mut self, key: Key) -> bool {
        let termination = self.terminations.by_index.get_mut(&key.index());
        termination.is_some_and(|termination| !std::mem::replace(&mut termination.is_received, true))
    }

    /// Gives a terminated actor `span` from now, within its grace time. Other actors need none.
    pub(crate) fn finish_within(&mut self, key: Key, span: Duration) {
        let (now, index) = (self.now, key.index());
        if !self.actors.is_alive(key) || !self.actors.has(index, Flag::TERMINATING) {
            return;
        }
        let Some(termination) = self.terminations.by_index.get_mut(&index) else { return };
        self.wheel.cancel(termination.timer);
        termination.due = termination.until.min(now + span);
        termination.timer = self.wheel.insert(termination.due, TimerPurpose::Termination(key));
    }

    /// Handles the timer of a termination.
    pub(crate) fn on_termination_due(&mut self, key: Key) {
        if !self.actors.is_alive(key) {
            return;
        }
        let now = self.now;
        let termination = self.terminations.by_index.get_mut(&key.index());
        // After this timer became due, a step of the actor may have set another one.
        let Some(termination) = termination.filter(|termination| now >= termination.due) else { return };
        if termination.is_received || now >= termination.until {
            return self.cut_off(key);
        }
        termination.due = termination.until;
        termination.timer = self.wheel.insert(termination.due, TimerPurpose::Termination(key));
        self.overtake(key);
    }

    /// Ends an actor whose time is over.
    fn cut_off(&mut self, key: Key) {
        self.terminations.cut_off += 1;
        let total = self.terminations.cut_off;
        if total <= CUT_OFF_LOGGED || total.is_power_of_two() {
            tracing::warn!(actor = %self.describe(key), total, "an actor was ended, because it had not ended within its grace time (logged at powers of two after the first 32)");
        }
        self.end_actor(key, ExitReason::Terminated);
    }

    /// Removes the termination of an actor that has ended.
    pub(crate) fn forget_termination(&mut self, index: u32) {
        if let Some(termination) = self.terminations.by_index.remove(&index) {
            self.wheel.cancel(termination.timer);
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.terminations.stop.is_some()
    }

    /// Begins the stop of the loop.
    pub(crate) fn begin_stop(&mut self, within: Duration) {
        let due = self.now + within / 2;
        let timer = self.wheel.insert(due, TimerPurpose::Stop);
        self.terminations.stop = Some(LoopStop {
            end: self.now + within,
            order: self.actors.last_to_end().into(),
            is_all_at_once: false,
            timer,
            due,
        });
        self.terminate_next();
    }

    /// Terminates an actor that was spawned while the loop stops: it is the newest.
    pub(crate) fn note_spawned(&mut self, key: Key) {
        let is_service = self.actors.has(key.index(), Flag::SERVICE);
        let Some(stop) = &mut self.terminations.stop else { return };
        match is_service {
            true => stop.order.push_front(key),
            false => stop.order.push_back(key),
        }
        if stop.is_all_at_once {
            let grace = stop.end.since(self.now);
            self.begin_termination(key, grace, Time::MAX);
        } else {
            self.terminate_next();
        }
    }

    /// Terminates the next actor of a stop: the newest that is alive.
    pub(crate) fn terminate_next(&mut self) {
        let Some(stop) = &mut self.terminations.stop else { return };
        while let Some(&key) = stop.order.back() {
            if self.actors.is_alive(key) {
                let grace = stop.end.since(self.now);
                return self.begin_termination(key, grace, Time::MAX);
            }
            stop.order.pop_back();
        }
    }

    /// Handles the timer of a stop: at half of its time, and at its end.
    pub(crate) fn on_stop_due(&mut self) {
        let now = self.now;
        // The timer may be that of an earlier stop.
        let Some(stop) = self.terminations.stop.as_mut().filter(|stop| now >= stop.due) else { return };
        let (end, is_over) = (stop.end, stop.is_over(now));
        if !is_over && !std::mem::replace(&mut stop.is_all_at_once, true) {
            stop.due = end;
            stop.timer = self.wheel.insert(end, TimerPurpose::Stop);
            let remaining: Vec<Key> = stop.order.iter().rev().copied().collect();
            let grace = end.since(self.now);
            remaining.into_iter().for_each(|key| self.begin_termination(key, grace, Time::MAX));
        }
    }

    /// Ends the stop of the loop, and all actors that are left. The loop can run again.
    pub(crate) fn end_stop(&mut self) {
        let Some(stop) = self.terminations.stop.take() else { return };
        self.wheel.cancel(stop.timer);
        let left = self.actors.last_to_end();
        left.into_iter().rev().for_each(|key| self.cut_off(key));
    }
}
