//! Runs user code so that its panic ends that code and nothing else.
//!
//! A panic during another panic aborts the process; Rust does not allow otherwise. Therefore values are dropped
//! one by one, each under a guard of its own.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::scheduler::mailbox::AnyMailbox;

/// Runs `code`; a panic becomes an error with the text of the panic.
pub(crate) fn catch_panic<R>(code: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(code)).map_err(panic_text)
}

/// Runs `code`; a panic is logged.
pub(crate) fn log_panic(code: impl FnOnce()) {
    if let Err(text) = catch_panic(code) {
        tracing::error!(%text, "a value panicked while it was dropped; nothing else is affected");
    }
}

/// The text of a panic. Dropping another kind of payload may panic as well, which is logged.
pub(crate) fn panic_text(payload: Box<dyn Any + Send>) -> String {
    let text = match payload.downcast::<&'static str>() {
        Ok(text) => return (*text).to_owned(),
        Err(payload) => match payload.downcast::<String>() {
            Ok(text) => return *text,
            Err(payload) => {
                log_panic(|| drop(payload));
                "a panic that carried no text"
            }
        },
    };
    text.to_owned()
}

/// Drops an actor and its mailbox, each value under a guard of its own.
#[cfg_attr(feature = "safe", expect(dead_code, reason = "only the unsafe cell uses it"))]
pub(crate) fn dispose<A>(mut mailbox: impl AnyMailbox, actor: A) {
    dispose_boxed(&mut mailbox, actor);
}

/// As [`dispose`], for a mailbox that is kept; it is empty afterwards.
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
