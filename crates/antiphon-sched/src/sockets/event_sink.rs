//! How a socket tells its actor: by the actor's own constructor of messages.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;

use crate::core::Core;
use crate::id::Key;

/// Makes messages of `what` happens, and puts them into the actor's mailbox, also where that is full: whoever
/// reads looks for room first.
pub(crate) trait EventSink<E> {
    fn tell(&self, core: &mut Core, owner: Key, what: E);
}

/// A constructor. A listener shares it with its connections; it is borrowed only while it runs, and nothing that
/// it could call leads back here.
struct Maker<F, M> {
    make: RefCell<F>,
    messages: PhantomData<fn() -> M>,
}

pub(crate) fn event_sink<E, M: 'static>(make: impl FnMut(E) -> M + 'static) -> Rc<dyn EventSink<E>>
where
    E: 'static,
{
    Rc::new(Maker { make: RefCell::new(make), messages: PhantomData })
}

impl<E, M: 'static, F: FnMut(E) -> M> EventSink<E> for Maker<F, M> {
    fn tell(&self, core: &mut Core, owner: Key, what: E) {
        core.push_reply(owner, || (self.make.borrow_mut())(what));
    }
}
