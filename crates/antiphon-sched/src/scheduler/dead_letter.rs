//! Dead letters: messages and signals that were accepted and will not be processed.

use std::borrow::Cow;
use std::time::Duration;

use crate::error::{PayloadError, Undelivered, printable};
use crate::id::ActorId;
use crate::scheduler::core::Core;
use crate::scheduler::log_panic;
use antiphon_types::Time;

/// A message or signal that was accepted and will not be processed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The actor that it was sent to.
    pub to: ActorId,
    /// The actor that sent it, where that is known. The mailbox of an actor does not record the senders.
    pub from: Option<ActorId>,
    /// The type of the message, or the kind of signal.
    pub what: Cow<'static, str>,
    /// Why it will not be processed.
    pub reason: Undelivered,
}

impl DeadLetter {
    /// A dead letter of an unknown sender.
    pub fn new(to: ActorId, what: impl Into<Cow<'static, str>>, reason: Undelivered) -> Self {
        Self { to, from: None, what: what.into(), reason }
    }

    /// The same dead letter with its sender.
    #[must_use]
    pub fn sent_by(self, from: Option<ActorId>) -> Self {
        Self { from, ..self }
    }
}

/// The numbers of dead letters since the start of a loop, by their reasons.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct DeadLetterCounts {
    /// [`Undelivered::NoActor`]: the actor has exited, also with messages in its mailbox.
    pub no_actor: u64,
    /// [`Undelivered::Full`].
    pub full: u64,
    /// [`Undelivered::Busy`].
    pub busy: u64,
    /// [`PayloadError::WrongType`].
    pub wrong_type: u64,
    /// [`Undelivered::NoNode`] and [`Undelivered::NodeRefused`]: among others, messages that were queued for a peer that was
    /// lost.
    pub no_node: u64,
    /// [`PayloadError::TooLarge`], [`PayloadError::TooManyValues`] and [`PayloadError::TooDeep`].
    pub too_large: u64,
    /// [`PayloadError::Encode`].
    pub encode: u64,
    /// [`PayloadError::Decode`].
    pub decode: u64,
    /// [`Undelivered::Dropped`].
    pub dropped: u64,
    /// [`Undelivered::Discarded`].
    pub discarded: u64,
}

impl DeadLetterCounts {
    /// The number of all dead letters.
    pub fn total(&self) -> u64 {
        let Self { no_actor, full, busy, wrong_type, no_node, too_large, encode, decode, dropped, discarded } =
            self;
        no_actor + full + busy + wrong_type + no_node + too_large + encode + decode + dropped + discarded
    }

    /// The count for a reason, and its index among the counts.
    fn of(&mut self, reason: &Undelivered) -> (&mut u64, usize) {
        match reason {
            Undelivered::NoActor => (&mut self.no_actor, 0),
            Undelivered::Full => (&mut self.full, 1),
            Undelivered::Busy => (&mut self.busy, 2),
            Undelivered::NoNode | Undelivered::NodeRefused(_) => (&mut self.no_node, 3),
            Undelivered::Dropped => (&mut self.dropped, 4),
            Undelivered::Discarded => (&mut self.discarded, 9),
            Undelivered::Payload(reason) => match reason {
                PayloadError::WrongType { .. } => (&mut self.wrong_type, 5),
                PayloadError::TooLarge { .. }
                | PayloadError::TooManyValues { .. }
                | PayloadError::TooDeep { .. } => (&mut self.too_large, 6),
                PayloadError::Encode(_) => (&mut self.encode, 7),
                PayloadError::Decode(_) => (&mut self.decode, 8),
            },
        }
    }
}

pub(crate) type DeadLetterHook = Box<dyn FnMut(&DeadLetter)>;

#[derive(Default)]
pub(crate) struct DeadLetters {
    counts: DeadLetterCounts,
    hook: Option<DeadLetterHook>,
    /// Recorded, and not yet passed to `hook`.
    unreported: Vec<DeadLetter>,
    /// For each reason: when it was logged last, and the number of its dead letters then.
    logged: [Option<(Time, u64)>; REASONS],
}

/// The number of the counts.
const REASONS: usize = 10;
/// At most this many dead letters wait for `hook`; further ones are only counted.
const UNREPORTED_MAX: usize = 1024;
/// Dead letters of one reason are logged at most once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

impl DeadLetters {
    fn record(&mut self, now: Time, dead_letter: DeadLetter) {
        let reason = &dead_letter.reason;
        let (count, index) = self.counts.of(reason);
        *count += 1;
        let logged = &mut self.logged[index];
        if logged.is_none_or(|(at, _)| now.since(at) >= LOG_INTERVAL) {
            let more = *count - logged.map_or(0, |(_, count)| count);
            *logged = Some((now, *count));
            let DeadLetter { to, from, what, .. } = &dead_letter;
            let (from, what) = (from.as_ref().map(tracing::field::display), printable(what));
            tracing::warn!(%to, from, what, %reason, more, "dead letter (logged at most once in 10 s for each reason; `more` counts those since)");
        }
        if self.hook.is_some() && self.unreported.len() < UNREPORTED_MAX {
            self.unreported.push(dead_letter);
        }
    }

    /// The numbers of dead letters by their reasons.
    pub(super) fn counts(&self) -> DeadLetterCounts {
        self.counts
    }
}

impl Core {
    pub(crate) fn dead_letter(&mut self, dead_letter: DeadLetter) {
        self.dead_letters.record(self.now, dead_letter);
    }

    pub(crate) fn set_dead_letter_hook(&mut self, hook: DeadLetterHook) {
        self.dead_letters.hook = Some(hook);
    }

    pub(crate) fn drop_dead_letter_hook(&mut self) {
        let hook = self.dead_letters.hook.take();
        log_panic(|| drop(hook));
    }

    /// Passes the unreported dead letters to the hook.
    pub(crate) fn report_dead_letters(&mut self) {
        if self.dead_letters.unreported.is_empty() {
            return;
        }
        // Taken out, since user code runs only while no table is borrowed.
        let Some(mut hook) = self.dead_letters.hook.take() else { return };
        for dead_letter in std::mem::take(&mut self.dead_letters.unreported) {
            log_panic(|| hook(&dead_letter));
        }
        self.dead_letters.hook = Some(hook);
    }

    /// Records a signal of the current actor that did not reach its receiver.
    pub(crate) fn dead_signal(&mut self, to: ActorId, what: &'static str, reason: Undelivered) {
        let from = self.current.map(|key| self.id(key));
        self.dead_letter(DeadLetter::new(to, what, reason).sent_by(from));
    }
}
