//! Adapters: second addresses of an actor, for messages of other types.
//!
//! A message is converted when it is sent, by a function of the owner, and pushed into the owner's mailbox.
//! So messages of one sender keep their order, whichever of the addresses it uses. An adapter exists until
//! it is closed, or its owner exits.
//!
//! An adapter has no slot in the actor table. It lives in the extras of its owner, under a number that its key contains.
//!
//! Invariant: no open adapter has the number of another one of its actor. A number whose address another node may know is
//! used only once; every other one is used again only when its actor has used all numbers.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};

use crate::actor::{ExitReason, SendMode, Value};
use crate::error::{SendError, TooManyAdapters};
use crate::id::Key;
use crate::scheduler::core::Core;
use crate::scheduler::extras::AddressExtras;
use crate::scheduler::mailbox::AnyMailbox;
use crate::scheduler::mailbox_limit::MailboxAdmission;
use crate::scheduler::panic_guard::{TableInUse, catch_panic, log_panic};

/// The adapters of one actor.
#[derive(Default)]
pub(crate) struct AdapterTable {
    /// By adapter number.
    open: BTreeMap<u32, Box<AdapterSlot>>,
    /// The highest number that was used; 0 if there was no adapter yet.
    last: u32,
    /// Numbers of closed adapters that no other node knows, the longest closed first. At most 1 MiB.
    free: VecDeque<u32>,
}

pub(crate) struct AdapterSlot {
    /// An `Adapter<T>`.
    adapter: Box<dyn Any>,
    /// The name of `T`, for errors.
    type_name: &'static str,
    pub(super) address: AddressExtras,
}

/// The function that converts the messages of an adapter; `None` while it runs.
struct Adapter<T>(Option<Box<dyn Convert<T>>>);

trait Convert<T> {
    fn convert(&mut self, core: &mut Core, owner: Key, message: T) -> Result<(), SendError<T>>;
}

struct Conversion<F, M> {
    convert: F,
    owner_type: std::marker::PhantomData<fn() -> M>,
}

impl AdapterTable {
    /// The rarely used state of the addresses of all open adapters.
    pub(super) fn addresses_mut(&mut self) -> impl Iterator<Item = &mut AddressExtras> {
        self.open.values_mut().map(|slot| &mut slot.address)
    }

    /// Whether the table has never held an adapter. Else its numbers must be kept until its actor exits.
    pub(crate) fn is_unused(&self) -> bool {
        self.last == 0
    }

    /// Adds an adapter, and returns its number; `None` if no number is left.
    fn insert(&mut self, slot: AdapterSlot) -> Result<u32, AdapterSlot> {
        let _in_use = TableInUse::begin();
        let number = if self.last < Key::ADAPTER_MAX {
            self.last += 1;
            self.last
        } else {
            match self.free.pop_front() {
                Some(number) => number,
                None => return Err(slot),
            }
        };
        self.open.insert(number, Box::new(slot));
        Ok(number)
    }

    fn remove(&mut self, number: u32) -> Option<AdapterSlot> {
        let _in_use = TableInUse::begin();
        let slot = self.open.remove(&number)?;
        if !slot.address.is_known_elsewhere() {
            self.free.push_back(number);
        }
        Some(*slot)
    }
}

impl AdapterSlot {
    fn new<T: 'static>(convert: impl Convert<T> + 'static) -> Self {
        let convert: Box<dyn Convert<T>> = Box::new(convert);
        Self {
            adapter: Box::new(Adapter(Some(convert))),
            type_name: std::any::type_name::<T>(),
            address: AddressExtras::default(),
        }
    }

    /// Whether the adapter takes messages of type `T`.
    pub(crate) fn takes<T: 'static>(&self) -> bool {
        self.adapter.is::<Adapter<T>>()
    }
}

impl<T, M: 'static, F: FnMut(T) -> M + 'static> Convert<T> for Conversion<F, M> {
    fn convert(&mut self, core: &mut Core, owner: Key, message: T) -> Result<(), SendError<T>> {
        let permit = core.permit.take();
        if core.mailbox::<M>(owner).is_none() {
            return Err(SendError::NoActor(message));
        }
        match core.admit::<M>(owner) {
            MailboxAdmission::Push => {}
            MailboxAdmission::Refuse => return Err(SendError::Full(message)),
            MailboxAdmission::Discard => {
                log_panic(|| drop(message));
                return Ok(());
            }
        }
        match catch_panic(|| (self.convert)(message)) {
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

impl Core {
    /// Adds an adapter to the actor `owner`, and returns its key. The key refers to no adapter if the actor has ended.
    pub(crate) fn open_adapter<T: 'static, M: 'static>(
        &mut self,
        owner: Key,
        convert: impl FnMut(T) -> M + 'static,
    ) -> Result<Key, TooManyAdapters> {
        self.insert_adapter(owner, Conversion { convert, owner_type: std::marker::PhantomData })
    }

    fn insert_adapter<T: 'static>(
        &mut self,
        owner: Key,
        convert: impl Convert<T> + 'static,
    ) -> Result<Key, TooManyAdapters> {
        let slot = AdapterSlot::new(convert);
        // The actor may have been ended during this step.
        let Some(extras) = self.extras(owner) else {
            return Ok(owner.with_adapter_number(Key::ADAPTER_MAX));
        };
        let number = match extras.adapters.insert(slot) {
            Ok(number) => number,
            Err(slot) => {
                log_panic(|| drop(slot));
                return Err(TooManyAdapters { max: Key::ADAPTER_MAX });
            }
        };
        self.adapters_open += 1;
        Ok(owner.with_adapter_number(number))
    }

    /// The adapter of a key; `None` if it is closed, or the key is not of an adapter.
    pub(crate) fn adapter(&self, key: Key) -> Option<&AdapterSlot> {
        if !self.actors.is_alive(key.actor()) {
            return None;
        }
        self.extras.get(&key.index())?.adapters.open.get(&key.adapter_number()).map(|slot| &**slot)
    }

    pub(crate) fn adapter_mut(&mut self, key: Key) -> Option<&mut AdapterSlot> {
        if !self.actors.is_alive(key.actor()) {
            return None;
        }
        self.extras
            .get_mut(&key.index())?
            .adapters
            .open
            .get_mut(&key.adapter_number())
            .map(|slot| &mut **slot)
    }

    /// The running actor that an address leads to; `None` if the actor has exited, or the adapter is closed.
    pub(crate) fn actor_of(&self, key: Key) -> Option<Key> {
        let leads = if key.is_adapter() { self.adapter(key).is_some() } else { self.actors.is_alive(key) };
        leads.then_some(key.actor())
    }

    /// As [`Core::any_mailbox`], for any address of the actor.
    pub(crate) fn any_mailbox_of(&mut self, key: Key) -> Option<&mut dyn AnyMailbox> {
        if key.is_adapter() && self.adapter(key).is_none() {
            return None;
        }
        self.any_mailbox(key.actor())
    }

    /// As [`Core::push_local`], if the key is not of an actor: it is an adapter's, or stale, or forged.
    #[inline(never)]
    pub(crate) fn push_to_adapter<T: 'static>(
        &mut self,
        key: Key,
        message: T,
        mode: SendMode,
    ) -> Result<(), SendError<T>> {
        let Some(slot) = self.adapter_mut(key) else { return Err(SendError::NoActor(message)) };
        let Some(adapter) = slot.adapter.downcast_mut::<Adapter<T>>() else {
            return Err(SendError::refused_type(message, slot.type_name));
        };
        let Some(mut convert) = adapter.0.take() else { return Err(SendError::NoActor(message)) };
        let result = convert.convert(self, key.actor(), message);
        match self.adapter_mut(key).and_then(|slot| slot.adapter.downcast_mut::<Adapter<T>>()) {
            Some(adapter) if adapter.0.is_none() => adapter.0 = Some(convert),
            // The adapter was closed meanwhile; its number may be in use again.
            Some(_) | None => log_panic(|| drop(convert)),
        }
        if matches!(result, Err(SendError::Full(_))) {
            self.after_refusal(self.id(key), mode);
        }
        result
    }

    /// Closes an adapter; its owner goes on. Does nothing if the key is not of an open adapter.
    pub(crate) fn close_adapter(&mut self, key: Key) {
        if self.adapter(key).is_none() {
            return;
        }
        let extras = self.extras.get_mut(&key.index());
        if let Some(slot) = extras.and_then(|extras| extras.adapters.remove(key.adapter_number())) {
            self.release_waiters_of(key);
            self.end_adapter(key, slot, &ExitReason::Done(Value::unit()));
        }
    }

    /// Ends the adapters of an actor that has exited.
    pub(crate) fn end_adapters(&mut self, owner: Key, adapters: AdapterTable, reason: &ExitReason) {
        for (number, slot) in adapters.open {
            self.end_adapter(owner.with_adapter_number(number), *slot, reason);
        }
    }

    fn end_adapter(&mut self, key: Key, slot: AdapterSlot, reason: &ExitReason) {
        self.adapters_open -= 1;
        log_panic(|| drop(slot.adapter));
        self.end_address(key, slot.address, reason);
    }

    /// Drops all adapters of a loop that is being dropped.
    pub(crate) fn drop_all_adapters(&mut self) {
        let all = self.extras.values_mut().map(|extras| std::mem::take(&mut extras.adapters.open));
        for slot in all.collect::<Vec<_>>().into_iter().flat_map(BTreeMap::into_values) {
            self.adapters_open -= 1;
            let AdapterSlot { adapter, address, .. } = *slot;
            log_panic(|| drop(adapter));
            log_panic(|| drop(address));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;
    use crate::actor::Cx;
    use crate::actor::Event;
    use crate::actor::receive;
    use crate::event_loop::{Loop, LoopConfig, Platform};
    use crate::remote::Delivery;
    use crate::remote::ExposedType;

    const MAX: u32 = Key::ADAPTER_MAX;

    fn slot() -> AdapterSlot {
        AdapterSlot::new(Conversion { convert: |n: u8| n, owner_type: std::marker::PhantomData })
    }

    fn exposed_slot() -> AdapterSlot {
        let mut slot = slot();
        slot.address.exposed =
            Some(ExposedType { type_name: "u8", decode: |_, _, _| Delivery::NoActor, fits: |_, _| true });
        slot
    }

    /// A loop with an actor that counts its messages.
    fn loop_with_actor() -> (Loop, Key, Rc<Cell<u32>>) {
        let config = LoopConfig {
            platform: Platform::Virtual,
            node_id: Some(crate::id::NodeId::from_bits(1)),
            seed: Some(1),
            ..LoopConfig::default()
        };
        let mut events = Loop::new(config).expect("a virtual loop needs nothing from the system");
        let received = Rc::new(Cell::new(0));
        let count = received.clone();
        let actor = events.spawn(move |_: &mut Cx<'_, u8>, event| {
            if let Event::Message(_) = event {
                count.set(count.get() + 1);
            }
            receive()
        });
        (events, actor.id().key(), received)
    }

    /// An adapter for `u8` that runs `during` while it converts.
    struct Hooked<F>(F, #[expect(dead_code, reason = "its count shows when the adapter is dropped")] Rc<()>);

    impl<F: FnMut(&mut Core, Key)> Convert<u8> for Hooked<F> {
        fn convert(&mut self, core: &mut Core, owner: Key, _: u8) -> Result<(), SendError<u8>> {
            (self.0)(core, owner);
            Ok(())
        }
    }

    fn insert(table: &mut AdapterTable, slot: AdapterSlot) -> Option<u32> {
        table.insert(slot).ok()
    }

    #[test]
    fn adapter_numbers_are_reused_longest_closed_first() {
        let mut table = AdapterTable::default();
        assert!(table.is_unused());
        let numbers = [slot(), slot(), slot()].map(|slot| insert(&mut table, slot));
        assert_eq!(numbers, [Some(1), Some(2), Some(3)]);
        assert!(table.remove(2).is_some() && table.remove(1).is_some());
        assert!(table.remove(2).is_none(), "it is closed already");
        assert_eq!(insert(&mut table, slot()), Some(4), "numbers that were never used come first");
        table.last = MAX - 1;
        assert_eq!(insert(&mut table, slot()), Some(MAX));
        assert_eq!([insert(&mut table, slot()), insert(&mut table, slot())], [Some(2), Some(1)]);
        assert_eq!(insert(&mut table, slot()), None);
        assert!(!table.is_unused());
    }

    #[test]
    fn adapter_number_of_exposed_address_stays_used() {
        let mut table = AdapterTable { last: MAX - 3, ..AdapterTable::default() };
        let mut reported = slot();
        reported.address.is_known_to_transport = true;
        let numbers =
            [insert(&mut table, exposed_slot()), insert(&mut table, reported), insert(&mut table, slot())];
        assert_eq!(numbers, [Some(MAX - 2), Some(MAX - 1), Some(MAX)]);
        for number in numbers.into_iter().flatten() {
            assert!(table.remove(number).is_some());
        }
        assert_eq!(insert(&mut table, slot()), Some(MAX), "no other node knows this number");
        assert_eq!(insert(&mut table, slot()), None);
    }

    #[test]
    fn adapter_closed_while_converting_is_dropped() {
        let (mut events, owner, _) = loop_with_actor();
        let core = &mut events.loop_ref().scheduler.core;
        let alive = Rc::new(());
        let hook = |core: &mut Core, owner: Key| core.close_adapter(owner.with_adapter_number(1));
        let key = core.insert_adapter(owner, Hooked(hook, alive.clone())).expect("the limit is not reached");
        assert_eq!((key, core.adapters_open), (owner.with_adapter_number(1), 1));
        assert!(core.push_to_adapter(key, 7_u8, SendMode::Once).is_ok());
        assert_eq!((Rc::strong_count(&alive), core.adapters_open), (1, 0));
        assert!(matches!(core.push_to_adapter(key, 7_u8, SendMode::Once), Err(SendError::NoActor(7))));
        assert!(core.actors.is_alive(owner));
    }

    #[test]
    fn adapter_number_reused_while_converting_keeps_successor() {
        let (mut events, owner, received) = loop_with_actor();
        let core = &mut events.loop_ref().scheduler.core;
        let alive = Rc::new(());
        let hook = |core: &mut Core, owner: Key| {
            core.close_adapter(owner.with_adapter_number(MAX));
            let next = core.open_adapter(owner, |n: u8| n).expect("the limit is not reached");
            assert_eq!(next, owner.with_adapter_number(MAX));
        };
        core.extras(owner).expect("the actor is alive").adapters.last = MAX - 1;
        let key = core.insert_adapter(owner, Hooked(hook, alive.clone())).expect("the limit is not reached");
        assert!(core.push_to_adapter(key, 7_u8, SendMode::Once).is_ok());
        assert_eq!((Rc::strong_count(&alive), core.adapters_open), (1, 1));
        assert!(core.push_to_adapter(key, 7_u8, SendMode::Once).is_ok());
        events.work();
        assert_eq!(received.get(), 1, "the second adapter converts for the actor");
    }

    /// Two adapters with one key, of which `Down`s wait at the same time.
    #[test]
    fn adapter_number_reused_while_downs_wait_keeps_both() {
        const MONITORS: usize = 500;
        let (mut events, owner, _) = loop_with_actor();
        let downs = Rc::new(Cell::new((0, 0)));
        let seen = downs.clone();
        let watcher = events.spawn(move |_: &mut Cx<()>, event| {
            let (closed, ended) = seen.get();
            match event {
                Event::Down(down) if matches!(down.reason, ExitReason::Done(_)) => {
                    seen.set((closed + 1, ended))
                }
                Event::Down(_) => seen.set((closed, ended + 1)),
                _ => {}
            }
            receive()
        });
        events.work();
        let core = &mut events.loop_ref().scheduler.core;
        for _ in 0..2 {
            core.extras(owner).expect("the actor is alive").adapters.last = MAX - 1;
            let key = core.open_adapter(owner, |n: u8| n).expect("the limit is not reached");
            assert_eq!(key, owner.with_adapter_number(MAX));
            let monitors: Vec<_> =
                (0..MONITORS).map(|_| core.monitor(watcher.id().key(), core.id(key))).collect();
            if downs.get().0 == 0 && core.ended_monitors.is_waiting() {
                core.end_actor(owner, ExitReason::Terminated);
            } else {
                core.close_adapter(key);
            }
            core.demonitor(watcher.id().key(), monitors[MONITORS - 1]);
        }
        while events.is_runnable() {
            events.work();
        }
        assert_eq!(downs.get(), (MONITORS - 1, MONITORS - 1));
        assert_eq!(events.stats().extras, 0);
    }

    #[test]
    fn adapter_refuses_messages_while_it_converts() {
        let (mut events, owner, _) = loop_with_actor();
        let core = &mut events.loop_ref().scheduler.core;
        let inner = Rc::new(Cell::new(None));
        let result = inner.clone();
        let hook = move |core: &mut Core, owner: Key| {
            let key = owner.with_adapter_number(1);
            assert!(core.adapter(key).is_some_and(|slot| slot.takes::<u8>() && !slot.takes::<u16>()));
            result.set(core.push_to_adapter(key, 8_u8, SendMode::Once).err());
        };
        let key = core.insert_adapter(owner, Hooked(hook, Rc::new(()))).expect("the limit is not reached");
        assert!(core.push_to_adapter(key, 7_u8, SendMode::Once).is_ok());
        assert!(matches!(inner.take(), Some(SendError::NoActor(8))));
        assert!(matches!(
            core.push_to_adapter(key, 7_u16, SendMode::Once),
            Err(SendError::Payload(7, crate::error::PayloadError::WrongType { .. }))
        ));
    }
}
