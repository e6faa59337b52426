//! Waking a loop only when it sleeps.
//!
//! Who pushes: push, fence, look whether the loop is armed; only then wake it. The loop: arm, fence, look
//! into the queue once more, sleep. With both fences at least one of the two sees the other, so no push is
//! slept over; without them each may miss the other's write (Dekker's problem). `tests/loom.rs` checks it.

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Whether the loop sleeps, or is about to.
#[derive(Debug)]
pub struct WakeFlag(AtomicBool);

impl WakeFlag {
    /// Awake.
    #[expect(clippy::new_without_default, reason = "loom's atomics have no const or default")]
    pub fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// The loop is about to sleep; it must look into its queue after this.
    pub fn arm(&self) {
        self.arm_with(|| fence(Ordering::SeqCst));
    }

    /// The loop is awake.
    pub fn disarm(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// After a push: whether the loop must be woken. Of many who push, one is told so.
    pub fn take(&self) -> bool {
        self.take_with(|| fence(Ordering::SeqCst))
    }

    /// As [`WakeFlag::arm`], with another fence: for the model only.
    #[doc(hidden)]
    pub fn arm_with(&self, fence: impl FnOnce()) {
        self.0.store(true, Ordering::Relaxed);
        fence();
    }

    /// As [`WakeFlag::take`], with another fence: for the model only.
    #[doc(hidden)]
    pub fn take_with(&self, fence: impl FnOnce()) -> bool {
        fence();
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}
