//! What a running loop shows of itself: its counters, and its actors in pages.
//!
//! Invariant: a page looks at a bounded number of actors and of waiting items, so it never holds up the loop for long.
//! Nothing here costs a message anything, unless [`LoopConfig::actor_activity`](crate::LoopConfig::actor_activity) is set.

use std::time::Duration;

use tracing::Span;
use tracing::level_filters::LevelFilter;
use tracing::span::EnteredSpan;

use crate::id::{ActorId, Key};
use crate::scheduler::actor_table::Flag;
use crate::scheduler::core::Core;
use crate::scheduler::dead_letter::DeadLetterCounts;
use crate::scheduler::mailbox::Wait;
use antiphon_types::Time;

/// The sizes of a loop's tables, and counters since its start.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LoopStats {
    /// Actors.
    pub actors: usize,
    /// Open adapters of all actors.
    pub adapters: usize,
    /// Actors with something to do.
    pub runnable: usize,
    /// Open requests.
    pub requests: usize,
    /// Running timers.
    pub timers: usize,
    /// Threads for blocking jobs, name look-ups and files.
    pub threads: usize,
    /// Registered readiness sources, including those of sockets.
    pub sources: usize,
    /// Listeners, connections, UDP sockets, child processes.
    pub sockets: usize,
    /// Messages and requests that handles have sent and that are not delivered yet; at most twice
    /// [`LoopConfig::inbox_max`](crate::LoopConfig::inbox_max).
    pub inbox: usize,
    /// Actors with rarely used state: monitors, adapters, names, sockets, exposure to the network.
    pub extras: usize,
    /// Steps taken.
    pub steps: u64,
    /// Steps that took longer than [`LoopConfig::watchdog`](crate::LoopConfig::watchdog).
    pub slow_steps: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Dead letters by their reasons.
    pub dead_letters_by_reason: DeadLetterCounts,
}

/// The most actors in one page.
const PAGE_MAX: usize = 1000;
/// The most places of the table of actors that one page looks at.
const PLACES_MAX: usize = 65_536;
/// A page ends at the actor with which it has looked at this many waiting messages and events.
const ITEMS_MAX: usize = 1 << 20;

/// Some of the actors of a loop: at most 1,000.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ActorPage {
    /// The actors, in the order of their places in the loop's table, which has nothing to do with their age.
    pub actors: Vec<ActorInfo>,
    /// Where the next page begins; `None` after the last one. A page may be empty and still have a next one.
    pub next: Option<ActorCursor>,
}

/// The beginning of a page. Actors that start and end between two pages may be in neither.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ActorCursor(u32);

/// One actor, at the moment of the call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ActorInfo {
    /// Its id.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_text"))]
    pub id: ActorId,
    /// The name from [`Cx::set_name`](crate::Cx::set_name); without one, the name of its type.
    pub name: String,
    /// Whether the actor has set its name.
    pub is_named: bool,
    /// The Rust type of the actor. The type of a closure contains the function that spawned it.
    pub actor_type: String,
    /// The Rust type of its messages.
    pub message_type: String,
    /// What it does now.
    pub state: ActorState,
    /// The messages and events that wait in its mailbox.
    pub mailbox: usize,
    /// The most messages in its mailbox.
    pub mailbox_max: usize,
    /// The bytes of messages from other nodes in its mailbox. Those of up to 1 KiB are bounded by number, and do not count.
    pub peer_bytes: u64,
    /// Its open requests, timers and monitors.
    pub open_requests: usize,
    /// Whether it does not keep the loop running.
    pub is_daemon: bool,
    /// Whether it ends after all actors that are no services, when the loop stops.
    pub is_service: bool,
    /// What it has done; `None` unless [`LoopConfig::actor_activity`](crate::LoopConfig::actor_activity) is set.
    pub activity: Option<ActorActivity>,
}

/// What an actor does.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum ActorState {
    /// Its step is running.
    Running,
    /// It has something to handle, and waits for its turn.
    Runnable,
    /// It waits for messages and events.
    Waiting,
    /// It waits for a message that its predicate admits (`receive_if`).
    Selecting,
    /// It sleeps.
    Sleeping,
    /// It waits to be resumed.
    Suspended,
}

/// What an actor has done since its start.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ActorActivity {
    /// The time since its start.
    pub age: Duration,
    /// Its steps.
    pub steps: u64,
    /// The time of its steps, as sampled by the watchdog's thread once in half of
    /// [`LoopConfig::watchdog`](crate::LoopConfig::watchdog). Steps that are much shorter than that are seen by chance only.
    pub busy: Duration,
}

#[cfg(feature = "serde")]
fn as_text<S: serde::Serializer>(id: &ActorId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

/// What a mailbox shows of itself.
pub(crate) struct MailboxInfo {
    pub(super) wait: Wait,
    pub(super) waiting: usize,
    pub(super) peer_bytes: u64,
    pub(super) open: usize,
}

/// The batch that is running, if batches are observed.
#[derive(Default)]
pub(crate) struct ObservedBatch {
    actor: Option<Key>,
    /// The number of steps of the loop before it.
    begun: u64,
    /// The span of its log lines, entered until the batch is over. In a box, because few programs ask for it.
    span: Option<Box<EnteredSpan>>,
}

/// The activity of all actors: one record for each place in the table of actors.
#[derive(Default)]
pub(crate) struct ActivityTable {
    records: Vec<Option<ActivityRecord>>,
}

struct ActivityRecord {
    key: Key,
    started: Time,
    steps: u64,
}

impl ActivityTable {
    pub(crate) fn begin(&mut self, key: Key, now: Time) {
        let index = key.index() as usize;
        if index >= self.records.len() {
            self.records.resize_with(index + 1, || None);
        }
        self.records[index] = Some(ActivityRecord { key, started: now, steps: 0 });
    }

    /// Adds the steps of a batch, unless another actor has taken the place meanwhile.
    pub(crate) fn add(&mut self, key: Key, steps: u64) {
        if let Some(Some(record)) = self.records.get_mut(key.index() as usize)
            && record.key == key
        {
            record.steps += steps;
        }
    }

    fn get(&self, key: Key) -> Option<&ActivityRecord> {
        self.records.get(key.index() as usize)?.as_ref().filter(|record| record.key == key)
    }
}

impl Core {
    /// The sizes of the tables and the counters.
    pub(crate) fn stats(&self) -> LoopStats {
        LoopStats {
            actors: self.actors.len(),
            adapters: self.adapters_open,
            runnable: self.actors.runnable(),
            requests: self.requests.len(),
            timers: self.wheel.len() + self.timers_due,
            threads: self.pools.threads(),
            sources: self.readiness.len(),
            sockets: self.sockets.len(),
            inbox: self.shared.inbox_len(),
            extras: self.extras.len(),
            steps: self.steps,
            slow_steps: self.shared.step_clock().slow(),
            dead_letters: self.dead_letters.counts().total(),
            dead_letters_by_reason: self.dead_letters.counts(),
        }
    }

    /// The actors from `from` on.
    pub(crate) fn actors_from(&mut self, from: Option<ActorCursor>) -> ActorPage {
        let first = from.map_or(0, |cursor| cursor.0);
        let mut page = ActorPage::default();
        let mut items = 0;
        for index in (first..).take(PLACES_MAX) {
            if page.actors.len() == PAGE_MAX || items >= ITEMS_MAX {
                page.next = Some(ActorCursor(index));
                return page;
            }
            match self.actors.key_at(index) {
                None => return page,
                Some(None) => {}
                Some(Some(key)) => {
                    let info = self.actor_info(key);
                    items += info.as_ref().map_or(0, |info| info.mailbox);
                    page.actors.extend(info);
                }
            }
        }
        page.next = Some(ActorCursor(first.saturating_add(PLACES_MAX as u32)));
        page
    }

    fn actor_info(&mut self, key: Key) -> Option<ActorInfo> {
        let actor_type = (self.actors.actor_type(key)?)();
        let is_queued = self.actors.is_queued(key.index());
        let has = |flag| self.actors.has(key.index(), flag);
        let (is_daemon, is_service) = (has(Flag::DAEMON), has(Flag::SERVICE));
        let (id, mailbox_max) = (self.id(key), self.capacity_of(key));
        let name = self.shared.name_of(key);
        let is_running = self.current == Some(key);
        let activity = self.activity.as_ref().and_then(|table| table.get(key)).map(|record| ActorActivity {
            age: self.now.since(record.started),
            steps: record.steps,
            busy: self.shared.step_clock().busy(key),
        });
        let mailbox = self.any_mailbox(key)?;
        let info = mailbox.info();
        let state = match info.wait {
            _ if is_running => ActorState::Running,
            // Messages do not wake it.
            Wait::Sleep | Wait::Turn => ActorState::Sleeping,
            Wait::Suspend => ActorState::Suspended,
            _ if is_queued => ActorState::Runnable,
            Wait::Any | Wait::Start | Wait::Within | Wait::Scanned { .. } => ActorState::Waiting,
            Wait::If | Wait::IfWithin => ActorState::Selecting,
        };
        Some(ActorInfo {
            id,
            is_named: name.is_some(),
            name: name.unwrap_or_else(|| actor_type.to_owned()),
            actor_type: actor_type.to_owned(),
            message_type: mailbox.type_name().to_owned(),
            state,
            mailbox: info.waiting,
            mailbox_max,
            peer_bytes: info.peer_bytes,
            open_requests: info.open,
            is_daemon,
            is_service,
            activity,
        })
    }

    /// Records and logs the start of an actor.
    #[cold]
    #[inline(never)]
    pub(crate) fn observe_start(&mut self, key: Key, messages: &'static str) {
        if let Some(activity) = &mut self.activity {
            activity.begin(key, self.now);
        }
        let actor_type = self.actors.actor_type(key);
        tracing::debug!(
            target: "antiphon::actors", actor = %self.describe_as(key, actor_type), messages, "an actor starts"
        );
    }

    /// Records and logs the batch that has ended, before that of `next`, if there is one. Enters the span of `next`.
    #[cold]
    #[inline(never)]
    pub(crate) fn observe_batch(&mut self, next: Option<Key>) {
        let ended = std::mem::take(&mut self.observed_batch);
        // The line about the batch is outside of the span, so that a filter can select the span without it.
        drop(ended.span);
        if let Some(key) = ended.actor {
            let steps = self.steps - ended.begun;
            if let Some(activity) = &mut self.activity {
                activity.add(key, steps);
            }
            tracing::trace!(target: "antiphon::actors", actor = %key, steps, "a batch of an actor has run");
        }
        let traces = LevelFilter::current() >= LevelFilter::TRACE;
        let span = next.filter(|_| traces).map(|key| Box::new(self.span_of(key).entered()));
        self.observed_batch = ObservedBatch { actor: next, begun: self.steps, span };
    }

    /// The span of the log lines of an actor. It costs little if no subscriber asks for it.
    fn span_of(&self, key: Key) -> Span {
        tracing::trace_span!(target: "antiphon::actors", "actor", id = %key, name = self.name_or_type(key))
    }

    /// The name of an actor that is alive, or else the name of its type.
    fn name_or_type(&self, key: Key) -> String {
        let name = self.shared.name_of(key);
        let actor_type = || self.actors.actor_type(key).map_or("", |actor_type| actor_type());
        name.unwrap_or_else(|| actor_type().to_owned())
    }
}
