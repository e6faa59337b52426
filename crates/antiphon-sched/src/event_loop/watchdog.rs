//! Logs steps that take too long while they still run, so that a step that never ends is logged too.
//!
//! Each batch stores its actor in an atomic number, each step its count in another. The watchdog's thread reads them.
//! When it sees the same step for longer than the limit, it logs the actor. It sleeps while the loop sleeps.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::id::Key;
use crate::scheduler::{ActorType, RunningType};
use crate::thread::Shared;

/// The running step: its number and its actor.
#[derive(Default)]
pub(crate) struct StepClock {
    /// The number of the step; 0 while no step runs. Written by the loop only.
    step: AtomicU64,
    actor: AtomicU64,
    actor_type: RunningType,
    slow: AtomicU64,
    /// The sampled time of the steps of the last actor in each place of the table of actors, if the configuration asks for it.
    busy: Mutex<FxHashMap<u32, (Key, Duration)>>,
    is_parked: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

impl StepClock {
    /// Records that a batch of this actor begins.
    #[inline]
    pub(crate) fn batch_started(&self, actor: Key, actor_type: ActorType) {
        self.actor.store(actor.to_bits(), Ordering::Relaxed);
        self.actor_type.set(actor_type);
    }

    /// Records that a step begins.
    #[inline]
    pub(crate) fn step_started(&self, step: u64) {
        self.step.store(step, Ordering::Relaxed);
    }

    /// Records that a round begins, and wakes the watchdog if it sleeps.
    #[inline]
    pub(crate) fn round_started(&self) {
        if self.is_parked.load(Ordering::Relaxed) {
            self.is_parked.store(false, Ordering::Relaxed);
            if let Some(thread) = &*self.thread.lock() {
                thread.unpark();
            }
        }
    }

    /// Records that the round is over: no step runs.
    #[inline]
    pub(crate) fn round_ended(&self) {
        self.step.store(0, Ordering::Relaxed);
    }

    /// The sampled time of the steps of an actor.
    pub(crate) fn busy(&self, actor: Key) -> Duration {
        let busy = self.busy.lock();
        busy.get(&actor.index()).filter(|(key, _)| *key == actor).map_or(Duration::ZERO, |(_, span)| *span)
    }

    /// Adds a sample of the running step.
    fn sample(&self, span: Duration) {
        let actor = Key::from_bits(self.actor.load(Ordering::Relaxed));
        let mut busy = self.busy.lock();
        let (key, sum) = busy.entry(actor.index()).or_insert((actor, Duration::ZERO));
        if *key != actor {
            (*key, *sum) = (actor, Duration::ZERO);
        }
        *sum += span;
    }

    /// The number of steps that took too long.
    pub(crate) fn slow(&self) -> u64 {
        self.slow.load(Ordering::Relaxed)
    }
}

/// Starts the watchdog of a loop; its thread runs until the loop is dropped.
pub(crate) fn start(shared: &Arc<Shared>, limit: Duration, samples: bool) {
    let watched = Arc::downgrade(shared);
    let spawned = thread::Builder::new()
        .name("antiphon-watchdog".into())
        .spawn(move || watch(&watched, limit, samples));
    match spawned {
        Ok(thread) => *shared.step_clock().thread.lock() = Some(thread.thread().clone()),
        Err(reason) => {
            tracing::warn!(%reason, "starting the watchdog's thread failed; slow steps are not logged")
        }
    }
}

/// Wakes the watchdog, so that it ends with its loop.
pub(crate) fn end(shared: &Shared) {
    if let Some(thread) = shared.step_clock().thread.lock().take() {
        thread.unpark();
    }
}

fn watch(watched: &Weak<Shared>, limit: Duration, samples: bool) {
    // A step seen three times, half a limit apart, runs for at least the limit.
    let mut last = 0;
    let mut seen = 0;
    let mut idle = 0;
    let mut logged = LoggedActors::default();
    loop {
        {
            let Some(shared) = watched.upgrade() else { return };
            if shared.is_closed() {
                return;
            }
            let step = shared.step_clock().step.load(Ordering::Relaxed);
            idle = if step == 0 { idle + 1 } else { 0 };
            seen = if step != 0 && step == last { seen + 1 } else { 0 };
            if samples && step != 0 {
                shared.step_clock().sample(limit / 2);
            }
            if seen == 2 {
                log_slow_step(&shared, limit, &mut logged);
            }
            last = step;
            if idle > IDLE_MAX {
                shared.step_clock().is_parked.store(true, Ordering::Relaxed);
            }
        }
        if idle > IDLE_MAX {
            // With a timeout: a step may have begun just before `is_parked` was set.
            thread::park_timeout(PARKED_MAX);
            idle = IDLE_MAX;
        } else {
            thread::park_timeout(limit / 2);
        }
    }
}

/// After this many readings without a step the watchdog sleeps.
const IDLE_MAX: u32 = 100;
/// The longest sleep of the watchdog.
const PARKED_MAX: Duration = Duration::from_secs(10);

/// An actor is logged at most once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Actors that are remembered. When there are more, those that may be logged again are forgotten.
const LOGGED_MAX: usize = 1024;

/// When actors were logged last, and the number of their slow steps since.
#[derive(Default)]
struct LoggedActors(FxHashMap<Key, (Instant, u64)>);

impl LoggedActors {
    /// Counts a slow step of an actor. Returns the number of those since its last line, if it may be logged now.
    fn count(&mut self, actor: Key, now: Instant) -> Option<u64> {
        if let Some((at, more)) = self.0.get_mut(&actor) {
            *more += 1;
            if now.duration_since(*at) < LOG_INTERVAL {
                return None;
            }
            *at = now;
            return Some(std::mem::take(more));
        }
        if self.0.len() >= LOGGED_MAX {
            self.0.retain(|_, (at, _)| now.duration_since(*at) < LOG_INTERVAL);
        }
        if self.0.len() >= LOGGED_MAX {
            return None;
        }
        self.0.insert(actor, (now, 0));
        Some(1)
    }
}

fn log_slow_step(shared: &Shared, limit: Duration, logged: &mut LoggedActors) {
    let key = Key::from_bits(shared.step_clock().actor.load(Ordering::Relaxed));
    shared.step_clock().slow.fetch_add(1, Ordering::Relaxed);
    let Some(steps) = logged.count(key, Instant::now()) else { return };
    let name = shared.name_of(key);
    let name = name.unwrap_or_else(|| shared.step_clock().actor_type.name().to_owned());
    // This thread is not in the span of a node.
    tracing::warn!(
        node = %shared.node_id(),
        actor = %key,
        name,
        ?limit,
        steps,
        "a step takes too long, and blocks all other actors; use `cx.blocking` for long work (logged at most once in 10 s for each actor; `steps` counts those since)"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_actor_is_logged_once_in_interval() {
        let mut logged = LoggedActors::default();
        let (first, second, start) = (Key::from_bits(1), Key::from_bits(2), Instant::now());
        assert_eq!(logged.count(first, start), Some(1));
        assert_eq!([logged.count(first, start), logged.count(first, start)], [None, None]);
        assert_eq!(logged.count(second, start), Some(1), "another actor has its own line");
        assert_eq!(logged.count(first, start + LOG_INTERVAL), Some(3));
        for actor in 10..10 + LOGGED_MAX as u64 {
            logged.count(Key::from_bits(actor), start + LOG_INTERVAL);
        }
        assert!(logged.0.len() <= LOGGED_MAX);
    }
}
