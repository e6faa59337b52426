//! Where code of users runs inside a hidden actor, its panic ends that code and nothing else.
//!
//! What was thrown is dropped in a catch of its own: it may panic as well.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

/// Runs `code`; the text of its panic is the error.
pub(crate) fn catch_panic<R>(code: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(code)).map_err(|thrown| {
        let text = thrown.downcast_ref::<&str>().copied();
        let text = text.or_else(|| thrown.downcast_ref::<String>().map(String::as_str));
        let text = text.unwrap_or("a panic that carried no text").to_owned();
        log_panic(|| drop(thrown));
        text
    })
}

/// Runs `code`; that it panicked is logged.
pub(crate) fn log_panic(code: impl FnOnce()) {
    if let Err(thrown) = catch_unwind(AssertUnwindSafe(code)) {
        // Its own drop may panic as well: there is nothing left to do but to forget it.
        std::mem::forget(thrown);
        let times = DROPS.fetch_add(1, Ordering::Relaxed) + 1;
        // Peers may send such values: it is said ever more seldom.
        if times.is_power_of_two() {
            tracing::error!(times, "a value panicked while it was dropped; nothing else is affected");
        }
    }
}

/// Values whose drop has panicked.
static DROPS: AtomicU64 = AtomicU64::new(0);
