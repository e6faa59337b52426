//! Delivers the events of a socket to its actor, as messages that the actor's own constructor makes.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;

use crate::id::Key;
use crate::scheduler::Core;

/// Turns each event into a message, and puts that into the actor's mailbox even when the mailbox is full. The code
/// that reads from a socket checks for room first.
pub(crate) trait EventSink<E> {
    fn emit(&self, core: &mut Core, owner: Key, event: E);
}

/// A sink that calls a constructor of the actor's messages. A listener shares it with its connections. It is borrowed
/// only while the constructor runs, and the constructor has no way to call the sink again.
struct ConstructorSink<F, M> {
    to_message: RefCell<F>,
    messages: PhantomData<fn() -> M>,
}

pub(crate) fn event_sink<E, M: 'static>(to_message: impl FnMut(E) -> M + 'static) -> Rc<dyn EventSink<E>>
where
    E: 'static,
{
    Rc::new(ConstructorSink { to_message: RefCell::new(to_message), messages: PhantomData })
}

impl<E, M: 'static, F: FnMut(E) -> M> EventSink<E> for ConstructorSink<F, M> {
    fn emit(&self, core: &mut Core, owner: Key, event: E) {
        core.push_reply(owner, || (self.to_message.borrow_mut())(event));
    }
}
