//! Dead letters: messages and signals that could not be delivered, where no error was returned to the sender.

use crate::error::Undelivered;
use crate::id::ActorId;

/// A message or signal that could not be delivered.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The actor that it was sent to.
    pub to: ActorId,
    /// The Rust type of the message, or the kind of signal.
    pub what: &'static str,
    /// Why it could not be delivered.
    pub reason: Undelivered,
}

pub(crate) type DeadLetterHook = Box<dyn FnMut(&DeadLetter)>;

#[derive(Default)]
pub(crate) struct DeadLetters {
    pub(crate) count: u64,
    pub(crate) hook: Option<DeadLetterHook>,
    /// Recorded, and not yet passed to `hook`.
    pub(crate) unreported: Vec<DeadLetter>,
}

/// At most this many dead letters wait for `hook`; further ones are only counted.
const UNREPORTED_MAX: usize = 1024;

impl DeadLetters {
    pub(crate) fn record(&mut self, to: ActorId, what: &'static str, reason: Undelivered) {
        self.count += 1;
        if self.count.is_power_of_two() {
            tracing::debug!(%to, what, %reason, count = self.count, "dead letter (logged at powers of two)");
        }
        if self.hook.is_some() && self.unreported.len() < UNREPORTED_MAX {
            self.unreported.push(DeadLetter { to, what, reason });
        }
    }

    /// Passes the unreported dead letters to `hook`. Called while nothing else of the core is borrowed.
    pub(crate) fn report(&mut self) {
        let Some(hook) = &mut self.hook else { return };
        for dead_letter in self.unreported.drain(..) {
            crate::panic_guard::log_panic(|| hook(&dead_letter));
        }
    }
}
