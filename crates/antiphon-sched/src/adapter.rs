//! Ears: further addresses of one actor, for messages of other types.
//!
//! What arrives is turned at once, by the owner's own function, so that the order of one sender's messages
//! is kept whichever address it uses. An ear lives as long as its owner.

use crate::core::Core;
use crate::error::SendError;
use crate::event::ExitReason;
use crate::id::Key;
use crate::panic_guard;

/// The only content of an ear's mailbox.
pub(crate) struct Adapter<T> {
    owner: Key,
    turn: Option<Box<dyn Convert<T>>>,
}

pub(crate) trait Convert<T> {
    fn convert(&mut self, core: &mut Core, owner: Key, heard: T) -> Result<(), SendError<T>>;
}

struct Conversion<F, M> {
    turn: F,
    owner_type: std::marker::PhantomData<fn() -> M>,
}

impl<T> Adapter<T> {
    pub(crate) fn new<M: 'static>(owner: Key, turn: impl FnMut(T) -> M + 'static) -> Self
    where
        T: 'static,
    {
        Self { owner, turn: Some(Box::new(Conversion { turn, owner_type: std::marker::PhantomData })) }
    }

    pub(crate) fn take(&mut self) -> (Key, Option<Box<dyn Convert<T>>>) {
        (self.owner, self.turn.take())
    }

    pub(crate) fn give_back(&mut self, turn: Box<dyn Convert<T>>) {
        self.turn = Some(turn);
    }
}

impl<T, M: 'static, F: FnMut(T) -> M + 'static> Convert<T> for Conversion<F, M> {
    fn convert(&mut self, core: &mut Core, owner: Key, heard: T) -> Result<(), SendError<T>> {
        let (max, permit) = (core.mailbox_max, core.permit.take());
        match core.mailbox::<M>(owner) {
            None => return Err(SendError::NoActor(heard)),
            Some(mailbox) if mailbox.is_full(max) => return Err(SendError::Full(heard)),
            Some(_) => {}
        }
        match panic_guard::catch_panic(|| (self.turn)(heard)) {
            Ok(message) => {
                if let Some(mailbox) = core.mailbox::<M>(owner) {
                    mailbox.push_with(message, permit);
                    core.actors.enqueue(owner.index());
                }
            }
            Err(text) => core.end_actor(owner, ExitReason::Panicked(text)),
        }
        Ok(())
    }
}
