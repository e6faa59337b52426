//! Logs steps that take too long while they still run, so that a step that never ends is logged too.
//!
//! Each batch stores its actor in an atomic number, each step its count in another. The watchdog's thread reads them.
//! When it sees the same step for longer than the limit, it logs the actor. It sleeps while the loop sleeps.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, Thread};
use std::time::Duration;

use parking_lot::Mutex;

use crate::handle::Shared;
use crate::id::Key;

/// The running step: its number and its actor.
#[derive(Default)]
pub(crate) struct StepClock {
    /// The number of the step; 0 while no step runs. Written by the loop only.
    step: AtomicU64,
    actor: AtomicU64,
    slow: AtomicU64,
    is_parked: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

impl StepClock {
    /// Records that a batch of this actor begins.
    #[inline]
    pub(crate) fn batch_started(&self, actor: Key) {
        self.actor.store(actor.to_bits(), Ordering::Relaxed);
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

    /// The number of steps that took too long.
    pub(crate) fn slow(&self) -> u64 {
        self.slow.load(Ordering::Relaxed)
    }
}

/// Starts the watchdog of a loop; its thread runs until the loop is dropped.
pub(crate) fn start(shared: &Arc<Shared>, limit: Duration) {
    let watched = Arc::downgrade(shared);
    let spawned =
        thread::Builder::new().name("antiphon-watchdog".into()).spawn(move || watch(&watched, limit));
    match spawned {
        Ok(thread) => *shared.step_clock.thread.lock() = Some(thread.thread().clone()),
        Err(reason) => {
            tracing::warn!(%reason, "starting the watchdog's thread failed; slow steps are not logged")
        }
    }
}

/// Wakes the watchdog, so that it ends with its loop.
pub(crate) fn end(shared: &Shared) {
    if let Some(thread) = shared.step_clock.thread.lock().take() {
        thread.unpark();
    }
}

fn watch(watched: &Weak<Shared>, limit: Duration) {
    // A step seen three times, half a limit apart, runs for at least the limit.
    let mut last = 0;
    let mut seen = 0;
    let mut idle = 0;
    loop {
        {
            let Some(shared) = watched.upgrade() else { return };
            if shared.is_closed() {
                return;
            }
            let step = shared.step_clock.step.load(Ordering::Relaxed);
            idle = if step == 0 { idle + 1 } else { 0 };
            seen = if step != 0 && step == last { seen + 1 } else { 0 };
            if seen == 2 {
                log_slow_step(&shared, limit);
            }
            last = step;
            if idle > IDLE_MAX {
                shared.step_clock.is_parked.store(true, Ordering::Relaxed);
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

fn log_slow_step(shared: &Shared, limit: Duration) {
    let key = Key::from_bits(shared.step_clock.actor.load(Ordering::Relaxed));
    shared.step_clock.slow.fetch_add(1, Ordering::Relaxed);
    let name = shared.names.lock().get(&key).map(ToString::to_string).unwrap_or_default();
    tracing::warn!(
        actor = %key,
        name,
        ?limit,
        "a step takes too long, and blocks all other actors; use `cx.blocking` for long work"
    );
}
