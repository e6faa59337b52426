//! Where user code runs, a panic ends that code and nothing else.
//!
//! A panic while another is under way aborts the process: that is Rust's rule, and beyond our power. Hence
//! values are dropped one by one, each in a catch of its own.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::mailbox::AnyMailbox;

/// Runs `code`; its panic is its value.
pub(crate) fn catch_panic<R>(code: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(code)).map_err(panic_text)
}

/// Runs `code`; its panic is logged.
pub(crate) fn log_panic(code: impl FnOnce()) {
    if let Err(text) = catch_panic(code) {
        tracing::error!(%text, "a value panicked while it was dropped; nothing else is affected");
    }
}

/// What a panic said; dropping what it threw may panic as well.
pub(crate) fn panic_text(payload: Box<dyn Any + Send>) -> String {
    let text = match payload.downcast::<&'static str>() {
        Ok(text) => return (*text).to_owned(),
        Err(payload) => match payload.downcast::<String>() {
            Ok(text) => return *text,
            Err(other) => {
                log_panic(|| drop(other));
                "a panic that carried no text"
            }
        },
    };
    text.to_owned()
}

/// Drops a mailbox and its actor, each value in a catch of its own.
#[cfg_attr(feature = "safe", expect(dead_code, reason = "the unsafe cell's"))]
pub(crate) fn dispose<A>(mut mailbox: impl AnyMailbox, actor: A) {
    dispose_boxed(&mut mailbox, actor);
}

/// As [`dispose`], for a mailbox that stays behind, empty.
pub(crate) fn dispose_boxed<A>(mailbox: &mut dyn AnyMailbox, actor: A) {
    if std::mem::needs_drop::<A>() {
        log_panic(|| drop(actor));
    }
    while !mailbox.is_vacant() {
        match catch_panic(|| mailbox.drop_one()) {
            Ok(true) => {}
            Ok(false) => return,
            Err(text) => {
                tracing::error!(%text, "a message panicked while it was dropped; nothing else is affected")
            }
        }
    }
}
