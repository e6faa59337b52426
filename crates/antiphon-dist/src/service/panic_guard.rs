//! Runs user code inside a service actor, so that a panic ends that code and nothing else.
//!
//! The drop of a panic payload may panic too, so it is guarded as well.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

/// Runs `code`. If it panics, the error is the text of the panic.
pub(crate) fn catch_panic<R>(code: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(code)).map_err(|payload| {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let text = text.unwrap_or("a panic that carried no text").to_owned();
        log_panic(|| drop(payload));
        text
    })
}

/// Runs `code`. If it panics, logs that.
pub(crate) fn log_panic(code: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(code)) {
        // The drop of the payload may panic as well, so the payload is leaked.
        std::mem::forget(payload);
        let times = PANICKED_DROPS.fetch_add(1, Ordering::Relaxed) + 1;
        // Peers can send such values, so only the 1st, 2nd, 4th, 8th .. time is logged.
        if times.is_power_of_two() {
            tracing::error!(times, "a value panicked while it was dropped; nothing else is affected");
        }
    }
}

/// The number of values that panicked while they were dropped.
static PANICKED_DROPS: AtomicU64 = AtomicU64::new(0);
