//! One turn of one actor: a batch of steps, until its mailbox is empty or its share used up.

use std::cell::Cell as Flag;
use std::rc::Rc;

use crate::actor::Actor;
use crate::cell::Cell;
use crate::core::Core;
use crate::cx::Cx;
use crate::event::{Event, Offer, System, Thrown, Why};
use crate::id::Key;
use crate::mailbox::{Mailbox, Pending, Taken, Wait};
use crate::step::{Next, Step, Then};

/// The most steps of one turn.
const STEPS_MAX: usize = 64;

/// How a turn left its actor.
pub(crate) enum Turned {
    /// Nothing waits for it.
    Idle,
    /// Nothing waits for it, and a burst left memory behind.
    IdleAfterBurst,
    /// It has more to do.
    More,
    /// It ended itself during its step, or could not be run.
    Dead,
    /// It answered with its end.
    Ended(Why),
    /// Its step panicked, with this text.
    Panicked(String),
}

/// [`Turned`], or another behaviour, which only the cell can put in place.
pub(crate) enum After<M> {
    Turned(Turned),
    Swapped(Box<dyn Actor<M>>),
}

/// What an event does to an actor besides being told.
enum Fate {
    Free,
    /// Ends it after the step.
    Terminated,
    /// Fails it after the step, unless it was handled.
    Thrown(Rc<Flag<bool>>),
}

/// Runs one turn of `actor`, whose key is `me`.
#[inline]
pub(crate) fn run<M: 'static, A: Actor<M>>(actor: &mut A, core: &mut Core, me: Key) -> After<M> {
    for _ in 0..STEPS_MAX {
        let Some(mailbox) = core.slots.cell_mut(me).and_then(Cell::mailbox::<M>) else {
            return After::Turned(Turned::Dead);
        };
        let (event, fate) = match mailbox.take() {
            Taken::Message(message) => (Event::Message(message), Fate::Free),
            Taken::Nothing if mailbox.wants_trim() => return After::Turned(Turned::IdleAfterBurst),
            Taken::Nothing => return After::Turned(Turned::Idle),
            other => match unusual(core, me, other) {
                Some(found) => found,
                None => continue,
            },
        };
        core.begin_step(me);
        let step = actor.step(&mut Cx::new(core, me), event);
        if !matches!(fate, Fate::Free)
            && let Some(why) = fate.ends()
        {
            return After::Turned(Turned::Ended(why));
        }
        match step {
            Ok(Next(Then::Receive)) => {}
            step => {
                if let Some(after) = settle(core, me, step) {
                    return after;
                }
            }
        }
    }
    After::Turned(Turned::More)
}

impl Fate {
    fn ends(self) -> Option<Why> {
        match self {
            Self::Free => None,
            Self::Terminated => Some(Why::Terminated),
            Self::Thrown(handled) if handled.get() => None,
            Self::Thrown(_) => Some(Why::Failed("an exception was thrown into it, and not handled".into())),
        }
    }
}

/// Turns what is not a message into an event.
#[inline(never)]
fn unusual<M: 'static>(core: &mut Core, me: Key, taken: Taken<M>) -> Option<(Event<M>, Fate)> {
    let event = match taken {
        Taken::Message(message) => Event::Message(message),
        Taken::Start => Event::Start,
        Taken::Timeout => Event::Timeout,
        Taken::System(system) => return system_event(core, me, *system),
        Taken::Nothing => return None,
    };
    Some((event, Fate::Free))
}

fn system_event<M: 'static>(core: &mut Core, me: Key, system: System) -> Option<(Event<M>, Fate)> {
    let event = match system {
        System::Down(down) => Event::Down(down),
        System::Terminate => return Some((Event::Terminate, Fate::Terminated)),
        System::Resumed(value) => Event::Resumed(value),
        System::Thrown(value) => {
            let (thrown, handled) = Thrown::new(value);
            return Some((Event::Thrown(thrown), Fate::Thrown(handled)));
        }
        System::Offer(offer) => Event::Swap(*offer.downcast::<Offer<M>>().ok()?),
        System::Writable(node) => Event::Writable(node),
        System::Ready(source) => {
            let ready = core.io.take_ready(source, me)?;
            core.mailbox::<M>(me)?.await_any();
            Event::Ready(ready)
        }
        System::Tick(token) => Event::Message(tick(core, me, token)?),
    };
    Some((event, Fate::Free))
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
fn settle<M: 'static>(core: &mut Core, me: Key, step: Step<M>) -> Option<After<M>> {
    let then = match step {
        Ok(Next(then)) => then,
        Err(failure) => return Some(After::Turned(Turned::Ended(Why::Failed(failure.into_text())))),
    };
    match then {
        Then::Receive => {}
        Then::Within(span) => core.await_until::<M>(me, Wait::Within, span),
        Then::Sleep(span) => core.await_until::<M>(me, Wait::Sleep, span),
        Then::If(admit) => core.mailbox::<M>(me)?.await_admitted(admit),
        Then::Suspend => core.mailbox::<M>(me).map(Mailbox::await_resume)?,
        Then::Swap(next) => return Some(After::Swapped(next)),
        Then::Exit(value) => {
            let value = value.map_or_else(|| crate::value::Value::new(()), |value| *value);
            return Some(After::Turned(Turned::Ended(Why::Done(value))));
        }
    }
    None
}
