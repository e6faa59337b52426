//! One turn of one actor: a batch of steps, for what waits in its mailbox, within a share.

use std::cell::Cell as Flag;
use std::ops::ControlFlow;
use std::rc::Rc;

use crate::actor::Actor;
use crate::cell::Running;
use crate::core::Core;
use crate::cx::Cx;
use crate::event::{Event, ExitReason, SwapOffer, SystemEvent, Thrown};
use crate::id::Key;
use crate::mailbox::{Mailbox, Pending, Taken, Wait};
use crate::step::{Next, Step, Then};

/// A turn has at least so many steps, if so much waits.
const STEPS_MIN: usize = 64;

/// How a turn left its actor. Two words, which return in registers.
pub(crate) enum BatchOutcome {
    /// Nothing waits for it.
    Idle,
    /// Nothing waits for it, and a burst left memory behind.
    IdleAfterBurst,
    /// It has more to do.
    More,
    /// It ended itself during its step, or could not be run.
    Dead,
    /// It answered that it ends, with no value.
    Stopped,
    /// It answered with its end, or panicked.
    Ended(Box<ExitReason>),
}

/// [`BatchOutcome`], or another behaviour, which only the cell can put in place.
pub(crate) enum AfterBatch<M> {
    Outcome(BatchOutcome),
    Swapped(Box<Box<dyn Actor<M>>>),
}

/// What an event does to an actor besides being told.
enum StepEffect {
    /// Ends it after the step.
    Terminated,
    /// Fails it after the step, unless it was handled.
    Thrown(Rc<Flag<bool>>),
}

/// Something to tell an actor, and what it does to it besides.
type Delivered<M> = (Event<M>, Option<StepEffect>);

/// Runs one turn of `actor`, whose key is `me`: what waits for it now, within its share.
///
/// What it sends to itself waits for its next turn, when all others had theirs. Messages have a call of `step`
/// of their own, so that an `Event::Message` is written where the step reads it, and nowhere else: an event
/// that is copied, once written by words, is read by vectors before the words have settled, and that wait was
/// half the time of a turn.
#[inline]
pub(crate) fn run<M: 'static, A: Actor<M>>(
    actor: &mut A,
    core: &mut Core,
    me: Key,
    running: Running<M>,
) -> AfterBatch<M> {
    let Some(mailbox) = running.mailbox(core) else { return AfterBatch::Outcome(BatchOutcome::Dead) };
    let share = share_of(mailbox.due());
    let mut done = 0;
    loop {
        let Some(mailbox) = running.mailbox(core) else { return AfterBatch::Outcome(BatchOutcome::Dead) };
        let step = match mailbox.take_message() {
            Some(message) => {
                core.begin_step();
                actor.step(&mut Cx::new(core, me), Event::Message(message))
            }
            None => match unusual_step(actor, core, me, &running) {
                ControlFlow::Continue(step) => step,
                ControlFlow::Break(turned) => return AfterBatch::Outcome(turned),
            },
        };
        if matches!(step, Ok(Next(Then::Receive))) {
            // Nothing in it is to be dropped, which the compiler does not see.
            std::mem::forget(step);
        } else if let Some(after) = settle(core, me, step) {
            return after;
        }
        match running.mailbox(core) {
            Some(mailbox) if mailbox.waiting() > 0 => {}
            Some(_) | None => return AfterBatch::Outcome(nothing(core, &running)),
        }
        done += 1;
        // A look at the clock each time that the steps have doubled: a turn of even steps takes no more than
        // twice the time that the round has left.
        if done >= share || (done >= STEPS_MIN && done.is_power_of_two() && core.is_round_over()) {
            return AfterBatch::Outcome(BatchOutcome::More);
        }
    }
}

/// How many steps a turn may have when so many things wait: all of a few, a part of many, so that a long
/// mailbox shrinks as long as its actor keeps up at all.
#[inline]
fn share_of(waiting: usize) -> usize {
    if waiting <= STEPS_MIN { waiting } else { STEPS_MIN.max(waiting / 8) }
}

/// How a turn ends when nothing is left that the actor takes.
#[inline]
fn nothing<M: 'static>(core: &mut Core, running: &Running<M>) -> BatchOutcome {
    match running.mailbox(core) {
        None => BatchOutcome::Dead,
        Some(mailbox) if mailbox.wants_trim() => BatchOutcome::IdleAfterBurst,
        Some(_) => BatchOutcome::Idle,
    }
}

/// A step for what is not a message, or for an actor that waits for something special.
#[inline(never)]
fn unusual_step<M: 'static, A: Actor<M>>(
    actor: &mut A,
    core: &mut Core,
    me: Key,
    running: &Running<M>,
) -> ControlFlow<BatchOutcome, Step<M>> {
    if running.mailbox(core).is_some_and(Mailbox::take_start) {
        core.begin_step();
        return ControlFlow::Continue(actor.step(&mut Cx::new(core, me), Event::Start));
    }
    let Some((event, fate)) = unusual(core, me, running) else {
        return ControlFlow::Break(nothing(core, running));
    };
    core.begin_step();
    let step = actor.step(&mut Cx::new(core, me), event);
    match fate.and_then(StepEffect::ends) {
        Some(reason) => {
            // Not at the end: a drop that panics there leaks the answer (rust-lang/rust#47949).
            crate::panic_guard::log_panic(|| drop(step));
            ControlFlow::Break(BatchOutcome::Ended(Box::new(reason)))
        }
        None => ControlFlow::Continue(step),
    }
}

impl StepEffect {
    fn ends(self) -> Option<ExitReason> {
        match self {
            Self::Terminated => Some(ExitReason::Terminated),
            Self::Thrown(handled) if handled.get() => None,
            Self::Thrown(_) => {
                Some(ExitReason::Failed("an exception was thrown into it, and not handled".into()))
            }
        }
    }
}

/// What to tell when it is not a message, or the actor waits for something special.
fn unusual<M: 'static>(core: &mut Core, me: Key, running: &Running<M>) -> Option<Delivered<M>> {
    loop {
        let event = match running.mailbox(core)?.take() {
            Taken::Message(message) => Event::Message(message),
            Taken::Timeout => Event::Timeout,
            Taken::SystemEvent(system) => match system_event(core, me, *system) {
                Some(told) => return Some(told),
                None => continue,
            },
            Taken::Nothing => return None,
        };
        return Some((event, None));
    }
}

/// What to tell for a system event; `None` when it means nothing any more.
fn system_event<M: 'static>(core: &mut Core, me: Key, system: SystemEvent) -> Option<Delivered<M>> {
    let event = match system {
        SystemEvent::Down(down) => Event::Down(down),
        SystemEvent::Terminate => return Some((Event::Terminate, Some(StepEffect::Terminated))),
        SystemEvent::Resumed(value) => Event::Resumed(value),
        SystemEvent::Thrown(value) => {
            let (thrown, handled) = Thrown::new(value);
            return Some((Event::Thrown(thrown), Some(StepEffect::Thrown(handled))));
        }
        SystemEvent::Swap(offer) => Event::Swap(*offer.downcast::<SwapOffer<M>>().ok()?),
        SystemEvent::Writable(node) => Event::Writable(node),
        SystemEvent::Ready(source) => {
            let ready = core.readiness.take_ready(source, me)?;
            core.mailbox::<M>(me)?.await_any();
            Event::Ready(ready)
        }
        SystemEvent::SocketSeen(id) => {
            core.socket_seen(id, me);
            return None;
        }
        SystemEvent::Tick(token) => Event::Message(tick(core, me, token)?),
        SystemEvent::Metered(system, permit) => {
            drop(permit);
            return system_event(core, me, *system);
        }
    };
    Some((event, None))
}

/// The message of a repeated timer: made by the actor's own code, now, with nothing borrowed.
fn tick<M: 'static>(core: &mut Core, me: Key, token: u32) -> Option<M> {
    let mut make = match pending::<M>(core, me, token)? {
        Pending::Every { make, queued, .. } => {
            *queued = false;
            make.take()?
        }
        Pending::Once(..) | Pending::Cancelled(_) => return None,
    };
    let message = make();
    if let Some(Pending::Every { make: place, .. }) = pending::<M>(core, me, token) {
        *place = Some(make);
    }
    Some(message)
}

fn pending<M: 'static>(core: &mut Core, me: Key, token: u32) -> Option<&mut Pending<M>> {
    core.mailbox::<M>(me)?.pending_mut(token)
}

/// Does what a step answered; `Some` when the turn is over.
#[inline(never)]
fn settle<M: 'static>(core: &mut Core, me: Key, step: Step<M>) -> Option<AfterBatch<M>> {
    let then = match step {
        Ok(Next(then)) => then,
        Err(failure) => return Some(ended(ExitReason::Failed(failure.into_text()))),
    };
    match then {
        Then::Receive => {}
        Then::Within(span) => core.await_until::<M>(me, Wait::Within, span),
        Then::Sleep(span) => core.await_until::<M>(me, Wait::Sleep, span),
        Then::If(admit) => core.mailbox::<M>(me)?.await_admitted(admit),
        Then::Suspend => core.mailbox::<M>(me).map(Mailbox::await_resume)?,
        Then::Swap(next) => return Some(AfterBatch::Swapped(Box::new(next))),
        Then::Exit(None) => return Some(AfterBatch::Outcome(BatchOutcome::Stopped)),
        Then::Exit(Some(value)) => return Some(ended(ExitReason::Done(*value))),
    }
    None
}

fn ended<M>(reason: ExitReason) -> AfterBatch<M> {
    AfterBatch::Outcome(BatchOutcome::Ended(Box::new(reason)))
}
