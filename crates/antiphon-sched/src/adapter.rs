//! Adapters: second addresses of an actor, for messages of other types.
//!
//! A message is converted when it is sent, by a function of the owner, and pushed into the owner's mailbox.
//! So messages of one sender keep their order, whichever of the addresses it uses. An adapter exists until
//! its owner exits.

use crate::actor_event::ExitReason;
use crate::core::Core;
use crate::error::SendError;
use crate::id::Key;
use crate::panic_guard;

/// The function of an adapter, with its owner. It is the only content of the adapter's mailbox.
pub(crate) struct Adapter<T> {
    owner: Key,
    /// `None` while it runs.
    convert: Option<Box<dyn Convert<T>>>,
}

pub(crate) trait Convert<T> {
    fn convert(&mut self, core: &mut Core, owner: Key, message: T) -> Result<(), SendError<T>>;
}

struct Conversion<F, M> {
    convert: F,
    owner_type: std::marker::PhantomData<fn() -> M>,
}

impl<T> Adapter<T> {
    pub(crate) fn new<M: 'static>(owner: Key, convert: impl FnMut(T) -> M + 'static) -> Self
    where
        T: 'static,
    {
        Self { owner, convert: Some(Box::new(Conversion { convert, owner_type: std::marker::PhantomData })) }
    }

    pub(crate) fn take(&mut self) -> (Key, Option<Box<dyn Convert<T>>>) {
        (self.owner, self.convert.take())
    }

    pub(crate) fn restore(&mut self, convert: Box<dyn Convert<T>>) {
        self.convert = Some(convert);
    }
}

impl<T, M: 'static, F: FnMut(T) -> M + 'static> Convert<T> for Conversion<F, M> {
    fn convert(&mut self, core: &mut Core, owner: Key, message: T) -> Result<(), SendError<T>> {
        let permit = core.permit.take();
        if core.mailbox::<M>(owner).is_none() {
            return Err(SendError::NoActor(message));
        }
        if !core.may_push_contended(owner) {
            return Err(SendError::Full(message));
        }
        match panic_guard::catch_panic(|| (self.convert)(message)) {
            Ok(converted) => {
                if let Some(mailbox) = core.mailbox::<M>(owner) {
                    mailbox.push_with(converted, permit);
                    core.actors.enqueue(owner.index());
                }
            }
            Err(text) => core.end_actor(owner, ExitReason::Panicked(text)),
        }
        Ok(())
    }
}
