//! Dead letters: what could not be delivered, and nobody was told by an error.

use crate::error::Undelivered;
use crate::id::ActorId;

/// A message or signal that did not arrive.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// For whom it was.
    pub to: ActorId,
    /// What it was: the Rust type of the message, or the kind of signal.
    pub what: &'static str,
    /// Why it did not arrive.
    pub reason: Undelivered,
}

pub(crate) type DeadLetterHook = Box<dyn FnMut(&DeadLetter)>;

#[derive(Default)]
pub(crate) struct DeadLetters {
    pub(crate) count: u64,
    pub(crate) watch: Option<DeadLetterHook>,
    /// Noted, and not yet shown to `watch`.
    pub(crate) unreported: Vec<DeadLetter>,
}

/// At most this many letters wait to be shown; of the others only the count tells.
const UNREPORTED_MAX: usize = 1024;

impl DeadLetters {
    pub(crate) fn note(&mut self, to: ActorId, what: &'static str, reason: Undelivered) {
        self.count += 1;
        if self.count.is_power_of_two() {
            tracing::debug!(%to, what, %reason, count = self.count, "dead letter (logged at powers of two)");
        }
        if self.watch.is_some() && self.unreported.len() < UNREPORTED_MAX {
            self.unreported.push(DeadLetter { to, what, reason });
        }
    }

    /// Shows what is fresh; called with nothing borrowed.
    pub(crate) fn show(&mut self) {
        let Some(watch) = &mut self.watch else { return };
        for letter in self.unreported.drain(..) {
            crate::panic_guard::log_panic(|| watch(&letter));
        }
    }
}
