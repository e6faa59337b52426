//! The wake flag: wakes a loop only when it sleeps.
//!
//! | the pushing thread | the loop |
//! |---|---|
//! | pushes | sets the flag |
//! | fence | fence |
//! | reads the flag, and wakes the loop if it is set | looks into the queue once more, and sleeps if it is empty |
//!
//! With both fences at least one side sees the write of the other, so no wakeup is lost. Without them each side may
//! miss the other's write (Dekker's problem). `tests/loom.rs` checks this.

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Set while the loop sleeps, or is about to sleep.
#[derive(Debug)]
pub struct WakeFlag(AtomicBool);

impl WakeFlag {
    /// Makes a cleared flag.
    #[expect(clippy::new_without_default, reason = "loom's atomics have no const or default")]
    pub fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Sets the flag before the loop sleeps. The loop must look into its queue after this.
    pub fn set(&self) {
        self.set_with(|| fence(Ordering::SeqCst));
    }

    /// Clears the flag when the loop works.
    pub fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Clears the flag after a push; true if the loop must be woken. Of concurrent pushes one gets true.
    pub fn take(&self) -> bool {
        self.take_with(|| fence(Ordering::SeqCst))
    }

    /// As [`WakeFlag::set`], with another fence; only for the model.
    #[doc(hidden)]
    pub fn set_with(&self, fence: impl FnOnce()) {
        self.0.store(true, Ordering::Relaxed);
        fence();
    }

    /// As [`WakeFlag::take`], with another fence; only for the model.
    #[doc(hidden)]
    pub fn take_with(&self, fence: impl FnOnce()) -> bool {
        fence();
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}
