//! A batch: the steps that one actor runs in a row. Their number is bounded by the length of its mailbox.

use std::cell::Cell as Flag;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::time::Duration;

use crate::actor::{Actor, Admit, Cx, Event, ExitReason, Next, Step, SwapOffer, Then, Thrown};
use crate::id::Key;
use crate::scheduler::cell::Running;
use crate::scheduler::core::Core;
use crate::scheduler::mailbox::{Mailbox, PendingTimer, Question, Scanned, Taken, Wait};
use crate::scheduler::panic_guard::debug_assert_no_table_in_use;
use crate::scheduler::system_event::SystemEvent;
use crate::scheduler::{Scheduler, log_panic};
use crate::socket::Sockets;

/// A batch has at least this many steps, if as many events are in the mailbox.
const STEPS_MIN: usize = 64;

/// The state of an actor after its batch. It is two machine words, and returns in registers.
pub(crate) enum BatchOutcome {
    /// Its mailbox has nothing that it can handle now.
    Idle,
    /// As `Idle`; and its mailbox holds spare memory after a burst.
    IdleAfterBurst,
    /// Its mailbox has more to handle.
    More,
    /// It was ended during its step, or could not be run.
    Dead,
    /// Its step returned `stop`.
    Stopped,
    /// Its step returned an exit value or a failure, or panicked.
    Ended(Box<ExitReason>),
}

/// A [`BatchOutcome`], or the actor's next behaviour, which only the cell can put in place.
pub(crate) enum AfterBatch<M> {
    Outcome(BatchOutcome),
    Swapped(Box<Box<dyn Actor<M>>>),
}

/// The effect that an event has on the actor after its step.
pub(crate) enum StepEffect {
    /// The actor exits, unless it needs time to finish.
    Terminated,
    /// The actor fails, unless the flag says that it handled the exception.
    Thrown(Rc<Flag<bool>>),
}

/// An event for a step, and its effect after the step.
type StepInput<M> = (Event<M>, Option<StepEffect>);

/// Runs one batch of `actor`, whose key is `me`.
///
/// Messages that the actor sends to itself wait for its next batch, after the other runnable actors. Messages
/// have their own call of `step`, so that an `Event::Message` is written only where the step reads it. A copied
/// event is written word by word and read by vector loads, which stalls store forwarding. That stall took half
/// the time of a batch.
#[inline]
pub(crate) fn run<M: 'static, A: Actor<M>>(
    actor: &mut A,
    scheduler: &mut Scheduler,
    me: Key,
    running: Running<M>,
) -> AfterBatch<M> {
    let Some(mailbox) = running.mailbox(&mut scheduler.core) else {
        return AfterBatch::Outcome(BatchOutcome::Dead);
    };
    let steps_max = steps_max_for(mailbox.due());
    scheduler.core.batch_end = steps_max.min(STEPS_MIN);
    let mut steps = 0;
    loop {
        let Some(mailbox) = running.mailbox(&mut scheduler.core) else {
            return AfterBatch::Outcome(BatchOutcome::Dead);
        };
        let step = match mailbox.take_message() {
            Some(message) => {
                scheduler.core.begin_step();
                actor.step(&mut Cx::new(scheduler, me), Event::Message(message))
            }
            None => match step_event(actor, scheduler, me, &running) {
                ControlFlow::Continue(step) => step,
                ControlFlow::Break(outcome) => return AfterBatch::Outcome(outcome),
            },
        };
        if matches!(step, Ok(Next(Then::Receive))) {
            // This value needs no drop, which the compiler does not see.
            std::mem::forget(step);
        } else if let Some(after) = apply_next(&mut scheduler.core, me, step) {
            return after;
        }
        match running.mailbox(&mut scheduler.core) {
            Some(mailbox) if mailbox.waiting() > 0 => {}
            Some(_) | None => return AfterBatch::Outcome(idle_outcome(&mut scheduler.core, &running)),
        }
        steps += 1;
        // The clock is read each time that the number of steps has doubled, and after many messages to other nodes. So a
        // batch of equally long steps takes at most twice the time that the round has left.
        if steps >= scheduler.core.batch_end {
            if steps >= steps_max || scheduler.core.is_round_over() {
                return AfterBatch::Outcome(BatchOutcome::More);
            }
            scheduler.core.batch_end = steps_max.min(2 * steps.max(STEPS_MIN));
        }
    }
}

/// The most steps of a batch when `waiting` events and messages are in the mailbox. Up to `STEPS_MIN` all are
/// handled, beyond that an eighth of them, so that a long mailbox shrinks if its actor can keep up.
#[inline]
fn steps_max_for(waiting: usize) -> usize {
    if waiting <= STEPS_MIN { waiting } else { STEPS_MIN.max(waiting / 8) }
}

/// The outcome of a batch that has nothing left to handle.
#[inline]
fn idle_outcome<M: 'static>(core: &mut Core, running: &Running<M>) -> BatchOutcome {
    match running.mailbox(core) {
        None => BatchOutcome::Dead,
        Some(mailbox) if mailbox.needs_trim() => BatchOutcome::IdleAfterBurst,
        Some(_) => BatchOutcome::Idle,
    }
}

/// Runs a step for an event that is not a message, or when the actor waits under a condition: a timeout, a
/// predicate, `sleep` or `suspend`.
#[inline(never)]
fn step_event<M: 'static, A: Actor<M>>(
    actor: &mut A,
    scheduler: &mut Scheduler,
    me: Key,
    running: &Running<M>,
) -> ControlFlow<BatchOutcome, Step<M>> {
    if running.mailbox(&mut scheduler.core).is_some_and(Mailbox::take_start) {
        scheduler.core.begin_step();
        return ControlFlow::Continue(actor.step(&mut Cx::new(scheduler, me), Event::Start));
    }
    let Some((event, effect)) = next_event(&mut scheduler.core, me, running) else {
        return ControlFlow::Break(idle_outcome(&mut scheduler.core, running));
    };
    scheduler.core.begin_step();
    let step = actor.step(&mut Cx::new(scheduler, me), event);
    match effect.and_then(|effect| effect.exit_reason(&step)) {
        Some(reason) => {
            // Dropped here and not by leaving the function: a panic of that drop would leak the returned value
            // (rust-lang/rust#47949).
            log_panic(|| drop(step));
            ControlFlow::Break(BatchOutcome::Ended(Box::new(reason)))
        }
        None => ControlFlow::Continue(step),
    }
}

impl StepEffect {
    /// The effect of an event that is passed to a step outside of a batch.
    pub(crate) fn of<M>(event: &Event<M>) -> Option<Self> {
        match event {
            Event::Terminate => Some(Self::Terminated),
            Event::Thrown(thrown) => Some(Self::Thrown(thrown.handled())),
            _ => None,
        }
    }

    /// Why the actor exits after this step; `None` if that depends on the result of the step alone.
    pub(crate) fn exit_reason<M>(self, step: &Step<M>) -> Option<ExitReason> {
        match self {
            Self::Terminated if matches!(step, Err(_) | Ok(Next(Then::Finish(_) | Then::Exit(_)))) => None,
            Self::Terminated => Some(ExitReason::Terminated),
            Self::Thrown(handled) if handled.get() => None,
            Self::Thrown(_) => {
                Some(ExitReason::Failed("an exception was thrown into it, and not handled".into()))
            }
        }
    }
}

/// The next event that the actor can handle now, with its effect.
fn next_event<M: 'static>(core: &mut Core, me: Key, running: &Running<M>) -> Option<StepInput<M>> {
    loop {
        let mailbox = running.mailbox(core)?;
        match mailbox.next_question() {
            Scanned::Question(question) => match judge(question, core, running)? {
                Some(message) => return Some((Event::Message(message), None)),
                None => continue,
            },
            Scanned::Cancelled(message) => {
                log_panic(|| drop(message));
                continue;
            }
            Scanned::Nothing => {}
        }
        let event = match mailbox.take() {
            Taken::Message(message) => Event::Message(message),
            Taken::Timeout => Event::Timeout,
            Taken::SystemEvent(system) => match system_event(core, me, *system) {
                Some(input) => return Some(input),
                None => continue,
            },
            Taken::Cancelled(message) => {
                log_panic(|| drop(message));
                continue;
            }
            Taken::EndedScan(predicate) => {
                log_panic(|| drop(predicate));
                continue;
            }
            Taken::Nothing => return None,
        };
        return Some((event, None));
    }
}

/// Lets the actor's own code judge a message, while nothing is borrowed. Returns the message if it is admitted; the outer `None` if the
/// actor has been ended.
fn judge<M: 'static>(mut question: Question<M>, core: &mut Core, running: &Running<M>) -> Option<Option<M>> {
    debug_assert_no_table_in_use();
    let verdict = catch_unwind(AssertUnwindSafe(|| question.ask()));
    let mailbox = running.mailbox(core)?;
    match verdict {
        Ok(true) => match mailbox.admit(question) {
            Taken::Message(message) => Some(Some(message)),
            Taken::Cancelled(message) => {
                log_panic(|| drop(message));
                Some(None)
            }
            Taken::SystemEvent(_) | Taken::Timeout | Taken::EndedScan(_) | Taken::Nothing => Some(None),
        },
        Ok(false) => {
            mailbox.skip(question);
            Some(None)
        }
        Err(panic) => {
            // The message is counted as a dead letter with the others.
            mailbox.put_back(question);
            resume_unwind(panic)
        }
    }
}

/// Converts a system event into the event that the actor receives, with its effect; `None` if the actor gets no event for it.
fn system_event<M: 'static>(core: &mut Core, me: Key, system: SystemEvent) -> Option<StepInput<M>> {
    let event = match system {
        SystemEvent::Down(down) => Event::Down(down),
        SystemEvent::Terminate => {
            if !core.take_termination(me) {
                return None;
            }
            core.mailbox::<M>(me)?.await_any();
            return Some((Event::Terminate, Some(StepEffect::Terminated)));
        }
        SystemEvent::Resumed(value) => Event::Resumed(value),
        SystemEvent::Thrown(value) => {
            let (thrown, handled) = Thrown::new(value);
            return Some((Event::Thrown(thrown), Some(StepEffect::Thrown(handled))));
        }
        SystemEvent::Swap(offer) => Event::Swap(*offer.downcast::<SwapOffer<M>>().ok()?),
        SystemEvent::Writable(target) => {
            core.note_writable_received(me, target);
            Event::Writable { target }
        }
        SystemEvent::Lagged(channel, missed) => Event::Lagged { channel, missed: missed.get() },
        SystemEvent::Ready(source) => {
            let ready = core.readiness.take_ready(source, me)?;
            core.mailbox::<M>(me)?.await_any();
            Event::Ready(ready)
        }
        SystemEvent::SocketCloseHandled(id) => {
            Sockets::of(core).on_close_handled(id, me);
            return None;
        }
        SystemEvent::Tick(slot) => Event::Message(tick(core, me, slot)?),
        SystemEvent::Metered(system, permit) => {
            drop(permit);
            return system_event(core, me, *system);
        }
    };
    Some((event, None))
}

/// The message of a repeated timer. The actor's own code makes it now, while nothing of the core is borrowed.
fn tick<M: 'static>(core: &mut Core, me: Key, slot: u32) -> Option<M> {
    let mut make = match pending::<M>(core, me, slot)? {
        PendingTimer::Every { make, queued, .. } => {
            *queued = false;
            make.take()?
        }
        PendingTimer::Once(..) | PendingTimer::Cancelled(_) => return None,
    };
    debug_assert_no_table_in_use();
    let message = make();
    if let Some(PendingTimer::Every { make: place, .. }) = pending::<M>(core, me, slot) {
        *place = Some(make);
    }
    Some(message)
}

fn pending<M: 'static>(core: &mut Core, me: Key, slot: u32) -> Option<&mut PendingTimer<M>> {
    core.mailbox::<M>(me)?.pending_mut(slot)
}

/// Applies the result of a step; `Some` if it ends the batch.
#[inline(never)]
fn apply_next<M: 'static>(core: &mut Core, me: Key, step: Step<M>) -> Option<AfterBatch<M>> {
    let then = match step {
        Ok(Next(then)) => then,
        Err(failure) => return Some(ended(ExitReason::Failed(failure.into_text()))),
    };
    match then {
        Then::Receive => {}
        Then::Within(span) => core.await_until::<M>(me, Wait::Within, span),
        Then::Sleep(Duration::ZERO) => {
            let ended = core.mailbox::<M>(me)?.await_turn();
            drop_predicate(ended);
            return Some(AfterBatch::Outcome(BatchOutcome::More));
        }
        Then::Sleep(span) => core.await_until::<M>(me, Wait::Sleep, span),
        Then::If(admit) => {
            let ended = core.mailbox::<M>(me)?.await_admitted(admit);
            drop_predicate(ended);
        }
        Then::IfWithin(span, admit) => {
            core.await_until::<M>(me, Wait::IfWithin, span);
            let ended = core.mailbox::<M>(me)?.await_admitted(admit);
            drop_predicate(ended);
        }
        Then::Again => core.await_again::<M>(me),
        Then::Finish(span) => core.finish_within(me, span),
        Then::Suspend => {
            let ended = core.mailbox::<M>(me)?.await_resume();
            drop_predicate(ended);
        }
        Then::Swap(next) => return Some(AfterBatch::Swapped(Box::new(next))),
        Then::Exit(None) => return Some(AfterBatch::Outcome(BatchOutcome::Stopped)),
        Then::Exit(Some(value)) => return Some(ended(ExitReason::Done(*value))),
    }
    None
}

/// Drops the predicate of a scan that is over. The mailbox has returned it, so that it is not borrowed meanwhile.
pub(super) fn drop_predicate<M>(predicate: Option<Admit<M>>) {
    if predicate.is_some() {
        log_panic(|| drop(predicate));
    }
}

fn ended<M>(reason: ExitReason) -> AfterBatch<M> {
    AfterBatch::Outcome(BatchOutcome::Ended(Box::new(reason)))
}
