//! Tells of steps that take too long, while they still run: a step that never ends is named too.
//!
//! Each turn leaves its actor in an atomic word, each step its number in another. A thread of its own looks at the word; when
//! it sees the same step twice, a patience apart, it says whose it is. It sleeps while the loop sleeps.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, Thread};
use std::time::Duration;

use parking_lot::Mutex;

use crate::handle::Shared;
use crate::id::Key;

/// The step that runs: its number and its actor.
#[derive(Default)]
pub(crate) struct StepClock {
    /// The number of the step; 0 while no step runs. Written by the loop only.
    step: AtomicU64,
    actor: AtomicU64,
    slow: AtomicU64,
    asleep: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

impl StepClock {
    /// A turn begins, of this actor.
    #[inline]
    pub(crate) fn turn(&self, actor: Key) {
        self.actor.store(actor.to_bits(), Ordering::Relaxed);
    }

    /// A step begins.
    #[inline]
    pub(crate) fn beat(&self, step: u64) {
        self.step.store(step, Ordering::Relaxed);
    }

    /// A round begins: the watchdog must be awake.
    #[inline]
    pub(crate) fn wake(&self) {
        if self.asleep.load(Ordering::Relaxed) {
            self.asleep.store(false, Ordering::Relaxed);
            if let Some(thread) = &*self.thread.lock() {
                thread.unpark();
            }
        }
    }

    /// The round is over: no step runs.
    #[inline]
    pub(crate) fn rest(&self) {
        self.step.store(0, Ordering::Relaxed);
    }

    /// How many steps were too long.
    pub(crate) fn slow(&self) -> u64 {
        self.slow.load(Ordering::Relaxed)
    }
}

/// Looks at a loop's pulse until the loop is gone.
pub(crate) fn start(shared: &Arc<Shared>, patience: Duration) {
    let watched = Arc::downgrade(shared);
    let spawned =
        thread::Builder::new().name("antiphon-watchdog".into()).spawn(move || watch(&watched, patience));
    match spawned {
        Ok(thread) => *shared.step_clock.thread.lock() = Some(thread.thread().clone()),
        Err(reason) => tracing::warn!(%reason, "no watchdog: its thread could not be started"),
    }
}

/// Lets the watchdog see that its loop is gone.
pub(crate) fn end(shared: &Shared) {
    if let Some(thread) = shared.step_clock.thread.lock().take() {
        thread.unpark();
    }
}

fn watch(watched: &Weak<Shared>, patience: Duration) {
    // Seen three times, half a patience apart: at least one patience old.
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
                tell(&shared, patience);
            }
            last = step;
            if idle > IDLE_MAX {
                shared.step_clock.asleep.store(true, Ordering::Relaxed);
            }
        }
        if idle > IDLE_MAX {
            // Not for ever: a step may have begun just before `asleep` was seen.
            thread::park_timeout(ASLEEP_MAX);
            idle = IDLE_MAX;
        } else {
            thread::park_timeout(patience / 2);
        }
    }
}

/// After so many looks at a sleeping loop the watchdog sleeps as well.
const IDLE_MAX: u32 = 100;
/// The longest that it sleeps.
const ASLEEP_MAX: Duration = Duration::from_secs(10);

fn tell(shared: &Shared, patience: Duration) {
    let key = Key::from_bits(shared.step_clock.actor.load(Ordering::Relaxed));
    shared.step_clock.slow.fetch_add(1, Ordering::Relaxed);
    let name = shared.names.lock().get(&key).map(ToString::to_string).unwrap_or_default();
    tracing::warn!(actor = %key, name, ?patience, "a step takes longer than this; nothing else runs meanwhile: use `cx.blocking` for what takes time");
}
