//! The waiters for room in full mailboxes.
//!
//! A mailbox is *contended* while something waits for room in it, or holds a reserved place in it. Its free places then
//! go to the waiters in turn: to local actors, to the messages of handles, and to the transport for the messages of
//! peers. A local actor's turn is a reserved place: the actor receives `Writable`, and no other sender can use the place
//! until the end of the batch in which it does.
//!
//! Replies, timers and events have places of their own and go beyond the capacity, and sockets read while there is room.
//! So a mailbox may hold more than its capacity: a reserved place is free in any case.
//!
//! Invariant: the slot of a live actor has `Flag::CONTENDED` exactly while its mailbox has an entry in `targets`. Each
//! waiter of an entry has one ticket; the lowest ticket has the next turn. `ordered` counts the waiters that others must
//! not overtake. `reserved` is the number of reservations for the mailbox.

use std::collections::{BTreeMap, VecDeque};

use rustc_hash::FxHashMap;

use crate::actor::SendMode;
use crate::id::{ActorId, Key, NodeId};
use crate::remote::Notice;
use crate::scheduler::actor_table::Flag;
use crate::scheduler::core::Core;
use crate::scheduler::system_event::SystemEvent;

/// The waiters for room in the mailboxes of one loop.
#[derive(Default)]
pub(crate) struct MailboxWaiters {
    targets: FxHashMap<Key, TargetWaiters>,
    /// Contended mailboxes that may have room, and those of actors that have ended.
    ready: VecDeque<Key>,
    /// As `ready`, where messages of handles have the next turn.
    ready_for_handles: VecDeque<Key>,
    /// As `ready`, where the transport has the next turn.
    ready_for_transport: VecDeque<Key>,
    /// The reserved places, by the actors that hold them.
    reservations: FxHashMap<Key, Vec<Reservation>>,
    last_ticket: u64,
    /// The target whose next place is free for the present delivery.
    turn: Option<Key>,
}

/// The waiters for room in one mailbox.
#[derive(Default)]
struct TargetWaiters {
    turns: BTreeMap<u64, Waiter>,
    /// The number of waiters that other senders must not overtake.
    ordered: usize,
    reserved: usize,
    /// Its key is in one of the three queues.
    is_ready: bool,
}

/// Something that waits for room in a mailbox.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Waiter {
    /// A local actor, which awaits `Writable` with this address.
    Actor { sender: Key, address: ActorId },
    /// Messages of handles.
    Handles,
    /// Messages of a peer.
    Transport { peer: NodeId, mark: RoomMark },
}

/// How much room a peer waits for.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum RoomMark {
    /// Room for one message. Later messages of other senders wait behind it.
    One,
    /// Three quarters of the mailbox; or room for one message if something else waits for that, if the actor has run this
    /// many batches meanwhile, or if it waits for a message that is not there, in `receive_if`. Messages of
    /// other senders do not wait for it.
    ThreeQuarters {
        /// The number of batches.
        batches: u8,
    },
    /// No room: the end of the next batch of the actor. Messages of other senders do not wait for it.
    NextBatch,
}

/// The registration of a peer's messages that wait for room in a mailbox.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Ticket(u64);

/// The turn of a peer's messages at a mailbox.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Turn {
    /// The actor; it may have ended.
    pub target: Key,
    /// The peer.
    pub peer: NodeId,
}

/// The turn of something else than a local actor at a mailbox, with its ticket.
#[derive(Copy, Clone)]
enum OthersTurn {
    Handles(u64),
    Transport(u64, NodeId),
}

struct Reservation {
    target: Key,
    /// The holder has received `Writable` in its present batch.
    is_received: bool,
}

impl Waiter {
    /// Whether other senders must not overtake it.
    fn is_ordered(self) -> bool {
        match self {
            Self::Actor { .. } | Self::Handles | Self::Transport { mark: RoomMark::One, .. } => true,
            Self::Transport { mark: RoomMark::ThreeQuarters { .. } | RoomMark::NextBatch, .. } => false,
        }
    }
}

impl TargetWaiters {
    fn remove(&mut self, ticket: u64) {
        if let Some(waiter) = self.turns.remove(&ticket) {
            self.ordered -= usize::from(waiter.is_ordered());
        }
    }

    /// The first waiter that can use a free place. `waiting` is the length of the mailbox; `None` if its actor has ended.
    /// `is_idle`: the actor waits for a message that is not in its mailbox.
    fn first_due(&self, waiting: Option<usize>, max: usize, is_idle: bool) -> Option<(u64, Waiter)> {
        let Some(waiting) = waiting else {
            return self.turns.first_key_value().map(|(ticket, waiter)| (*ticket, *waiter));
        };
        let may_reserve = self.reserved < (max / RESERVED_PART).max(1);
        let is_due = |waiter: &Waiter| match *waiter {
            Waiter::Actor { .. } => may_reserve,
            Waiter::Handles | Waiter::Transport { mark: RoomMark::One, .. } => true,
            Waiter::Transport { mark: RoomMark::ThreeQuarters { batches }, .. } => {
                self.ordered > 0 || batches == 0 || waiting <= max / 4 || is_idle
            }
            Waiter::Transport { mark: RoomMark::NextBatch, .. } => false,
        };
        self.turns.iter().find(|(_, waiter)| is_due(waiter)).map(|(ticket, waiter)| (*ticket, *waiter))
    }

    /// The actor has run a batch.
    fn count_batch(&mut self) {
        if self.turns.len() == self.ordered {
            return;
        }
        for waiter in self.turns.values_mut() {
            if let Waiter::Transport { mark, .. } = waiter {
                *mark = match *mark {
                    RoomMark::ThreeQuarters { batches } => {
                        RoomMark::ThreeQuarters { batches: batches.saturating_sub(1) }
                    }
                    RoomMark::NextBatch => RoomMark::ThreeQuarters { batches: 0 },
                    RoomMark::One => RoomMark::One,
                };
            }
        }
    }
}

impl MailboxWaiters {
    /// Whether a batch may concern a waiter.
    #[inline]
    pub(crate) fn is_active(&self) -> bool {
        !self.targets.is_empty()
    }

    /// Whether local actors or handles may have a turn.
    pub(crate) fn has_unserved(&self) -> bool {
        !self.ready.is_empty() || !self.ready_for_handles.is_empty()
    }

    fn add(&mut self, target: Key, waiter: Waiter) -> u64 {
        self.last_ticket += 1;
        let waiters = self.targets.entry(target).or_default();
        waiters.ordered += usize::from(waiter.is_ordered());
        waiters.turns.insert(self.last_ticket, waiter);
        self.last_ticket
    }

    /// Replaces a waiter that is still there; false if it is not.
    fn replace(&mut self, target: Key, ticket: u64, waiter: Waiter) -> bool {
        let Some(waiters) = self.targets.get_mut(&target) else { return false };
        let Some(known) = waiters.turns.get_mut(&ticket) else { return false };
        waiters.ordered -= usize::from(known.is_ordered());
        waiters.ordered += usize::from(waiter.is_ordered());
        *known = waiter;
        true
    }

    fn note_ready(&mut self, target: Key) {
        if let Some(waiters) = self.targets.get_mut(&target)
            && !std::mem::replace(&mut waiters.is_ready, true)
        {
            self.ready.push_back(target);
        }
    }

    /// Adds a mailbox to those where the waiter that is due has the next turn. Without one it is not ready any more.
    fn put_behind(&mut self, target: Key, due: Option<OthersTurn>) {
        match due {
            Some(OthersTurn::Handles(_)) => self.ready_for_handles.push_back(target),
            Some(OthersTurn::Transport(..)) => self.ready_for_transport.push_back(target),
            None => {
                if let Some(waiters) = self.targets.get_mut(&target) {
                    waiters.is_ready = false;
                }
            }
        }
    }

    fn remove(&mut self, target: Key, ticket: u64) {
        if let Some(waiters) = self.targets.get_mut(&target) {
            waiters.remove(ticket);
        }
    }

    /// Uses up the reservation of a sender; false if it has none.
    fn use_reservation(&mut self, sender: Key, target: Key) -> bool {
        let Some(held) = self.reservations.get_mut(&sender) else { return false };
        let Some(at) = held.iter().position(|reservation| reservation.target == target) else { return false };
        held.swap_remove(at);
        if held.is_empty() {
            self.reservations.remove(&sender);
        }
        if let Some(waiters) = self.targets.get_mut(&target) {
            waiters.reserved -= 1;
        }
        true
    }
}

/// The number of reserved places of a mailbox is at most its capacity divided by this, so that senders that never use
/// them leave room for others; but at least one.
const RESERVED_PART: usize = 2;

impl Core {
    /// Whether the current sender may push a message into a contended mailbox of a live actor now. A reservation of the
    /// sender is used up.
    pub(crate) fn may_push_contended(&mut self, target: Key) -> bool {
        if let Some(sender) = self.current
            && self.mailbox_waiters.use_reservation(sender, target)
        {
            // The place was reserved, so it is free.
            self.drop_idle_waiters(target);
            return true;
        }
        self.has_place(target)
    }

    /// Whether a mailbox has a place for a sender without a reservation.
    pub(crate) fn has_place(&mut self, target: Key) -> bool {
        if self.drops_when_full(target) {
            return true;
        }
        let max = self.capacity_of(target);
        let Some(waiting) = self.any_mailbox(target).map(|mailbox| mailbox.waiting()) else { return true };
        if !self.actors.has(target.index(), Flag::CONTENDED) {
            return waiting < max;
        }
        let Some(waiters) = self.mailbox_waiters.targets.get(&target) else { return waiting < max };
        let is_in_turn = waiters.ordered == 0 || self.mailbox_waiters.turn == Some(target);
        is_in_turn && waiting + waiters.reserved < max
    }

    /// After a message was refused with `Full` or `Busy`: registers its sender for a `Writable`, if it may send again.
    #[cold]
    pub(crate) fn after_refusal(&mut self, address: ActorId, mode: SendMode) {
        match mode {
            SendMode::Send | SendMode::Try => self.await_writable(address),
            SendMode::Once | SendMode::Ask | SendMode::Receipt(_) => {}
        }
    }

    /// Registers the current actor for a `Writable` of an actor of any node, whose address has refused its message. Does
    /// nothing if it awaits one already. The limit of open requests does not apply: the actor would wait for ever.
    fn await_writable(&mut self, address: ActorId) {
        let Some(sender) = self.current else { return };
        let is_awaited = |core: &mut Self| {
            core.extras(sender).is_none_or(|extras| extras.awaited_room.contains_key(&address))
        };
        if is_awaited(self) {
            return;
        }
        let is_local = address.node() == self.node_id;
        let ticket = if is_local {
            self.wait_for_turn(address.key().actor(), Waiter::Actor { sender, address })
        } else {
            0
        };
        if let Some(extras) = self.extras(sender) {
            extras.awaited_room.insert(address, ticket);
            extras.address.is_known_to_transport |= !is_local;
        }
        if let Some(mailbox) = self.any_mailbox(sender) {
            mailbox.open_one(usize::MAX);
        }
    }

    /// Adds a waiter for room in the mailbox of an actor. Returns its ticket.
    pub(crate) fn wait_for_turn(&mut self, target: Key, waiter: Waiter) -> u64 {
        let ticket = self.mailbox_waiters.add(target, waiter);
        if self.actors.is_alive(target) {
            self.actors.set(target.index(), Flag::CONTENDED, true);
        }
        // The mailbox may have room already, for example when only a budget was used up.
        self.mailbox_waiters.note_ready(target);
        ticket
    }

    /// As [`Core::wait_for_turn`]; replaces an earlier waiter that is still there.
    pub(crate) fn wait_for_turn_again(&mut self, target: Key, waiter: Waiter, earlier: Ticket) -> Ticket {
        if self.mailbox_waiters.replace(target, earlier.0, waiter) {
            self.mailbox_waiters.note_ready(target);
            return earlier;
        }
        Ticket(self.wait_for_turn(target, waiter))
    }

    /// Removes a waiter, if it is still there.
    pub(crate) fn cancel_wait(&mut self, target: Key, ticket: Ticket) {
        if let Some(waiters) = self.mailbox_waiters.targets.get_mut(&target) {
            waiters.remove(ticket.0);
            self.mailbox_waiters.note_ready(target);
        }
    }

    /// Sends `Writable` to an actor that awaits it; false if it does not.
    pub(crate) fn writable(&mut self, sender: Key, address: ActorId) -> bool {
        if !self.actors.is_alive(sender) {
            return false;
        }
        let Some(extras) = self.extras.get_mut(&sender.index()) else { return false };
        if extras.awaited_room.remove(&address).is_none() {
            return false;
        }
        if let Some(mailbox) = self.any_mailbox(sender) {
            mailbox.close_one();
        }
        self.drop_idle_extras(sender);
        self.push_system(sender, SystemEvent::Writable(address))
    }

    /// Undoes that an actor awaits `Writable` with this address.
    pub(crate) fn cancel_await_room(&mut self, sender: Key, address: ActorId) {
        let Some(extras) = self.extras.get_mut(&sender.index()).filter(|_| self.actors.is_alive(sender))
        else {
            return;
        };
        let Some(ticket) = extras.awaited_room.remove(&address) else { return };
        if let Some(mailbox) = self.any_mailbox(sender) {
            mailbox.close_one();
        }
        self.drop_idle_extras(sender);
        if address.node() == self.node_id {
            self.remove_waiter(address, ticket);
        } else {
            self.notice(Notice::RoomNotAwaited { sender, address });
        }
    }

    /// Removes an actor from the waiters for room in the mailbox of an address, if that is of this loop.
    fn remove_waiter(&mut self, address: ActorId, ticket: u64) {
        let target = address.key().actor();
        if address.node() == self.node_id
            && let Some(waiters) = self.mailbox_waiters.targets.get_mut(&target)
        {
            waiters.remove(ticket);
            self.mailbox_waiters.note_ready(target);
        }
    }

    /// Sends `Writable` to the actors that await it with the address of an adapter that is closed.
    pub(crate) fn release_waiters_of(&mut self, adapter: Key) {
        let closed = self.id(adapter);
        let Some(waiters) = self.mailbox_waiters.targets.get(&adapter.actor()) else { return };
        let senders: Vec<Key> = waiters
            .turns
            .values()
            .filter_map(|waiter| match waiter {
                Waiter::Actor { sender, address } if *address == closed => Some(*sender),
                Waiter::Actor { .. } | Waiter::Handles | Waiter::Transport { .. } => None,
            })
            .collect();
        for sender in senders {
            // The waiter that stays has no effect: its sender does not await anything then.
            self.writable(sender, closed);
        }
    }

    /// Notes that an actor has received `Writable`: its reserved place is free again when its batch ends.
    pub(crate) fn note_writable_received(&mut self, sender: Key, address: ActorId) {
        let target = address.key().actor();
        if address.node() == self.node_id
            && let Some(held) = self.mailbox_waiters.reservations.get_mut(&sender)
        {
            held.iter_mut()
                .filter(|reservation| reservation.target == target)
                .for_each(|reservation| reservation.is_received = true);
        }
    }

    /// After a batch of an actor: frees the reserved places that it did not use. The waiters for room in its mailbox may have
    /// turns now.
    pub(super) fn note_batch_end(&mut self, key: Key) {
        self.current = None;
        if self.mailbox_waiters.reservations.contains_key(&key) {
            // A sleeping actor would keep its reserved places for as long as it sleeps.
            let is_asleep = self.any_mailbox(key).is_none_or(|mailbox| mailbox.ignores_events());
            self.free_reservations(key, |reservation| is_asleep || reservation.is_received);
        }
        if self.actors.is_alive(key) && self.actors.has(key.index(), Flag::CONTENDED) {
            if let Some(waiters) = self.mailbox_waiters.targets.get_mut(&key) {
                waiters.count_batch();
            }
            self.mailbox_waiters.note_ready(key);
        }
    }

    fn free_reservations(&mut self, holder: Key, is_freed: impl Fn(&Reservation) -> bool) {
        let Some(held) = self.mailbox_waiters.reservations.remove(&holder) else { return };
        let (freed, kept): (Vec<_>, Vec<_>) = held.into_iter().partition(is_freed);
        if !kept.is_empty() {
            self.mailbox_waiters.reservations.insert(holder, kept);
        }
        for Reservation { target, .. } in freed {
            if let Some(waiters) = self.mailbox_waiters.targets.get_mut(&target) {
                waiters.reserved -= 1;
                self.mailbox_waiters.note_ready(target);
            }
        }
    }

    /// Undoes what an ended actor waited for, and serves what waited for room in its mailbox.
    pub(crate) fn end_waits(&mut self, key: Key, awaited_room: BTreeMap<ActorId, u64>) {
        self.free_reservations(key, |_| true);
        for (address, ticket) in awaited_room {
            self.remove_waiter(address, ticket);
        }
        self.mailbox_waiters.note_ready(key);
    }

    /// Gives turns to local actors, as long as none of others is due before.
    fn serve_actors(&mut self) {
        while let Some(target) = self.mailbox_waiters.ready.pop_front() {
            let due = self.serve_target(target);
            self.mailbox_waiters.put_behind(target, due);
        }
    }

    /// The next mailbox at which messages of handles have a turn. They are no longer registered there.
    pub(super) fn next_turn_of_handles(&mut self) -> Option<Key> {
        loop {
            self.serve_actors();
            let target = *self.mailbox_waiters.ready_for_handles.front()?;
            let due = self.serve_target(target);
            if let Some(OthersTurn::Handles(ticket)) = due {
                self.mailbox_waiters.remove(target, ticket);
                return Some(target);
            }
            self.mailbox_waiters.ready_for_handles.pop_front();
            self.mailbox_waiters.put_behind(target, due);
        }
    }

    /// The next turn of the transport.
    pub(crate) fn next_turn(&mut self) -> Option<Turn> {
        loop {
            self.serve_actors();
            let target = *self.mailbox_waiters.ready_for_transport.front()?;
            let due = self.serve_target(target);
            if let Some(OthersTurn::Transport(ticket, peer)) = due {
                self.mailbox_waiters.remove(target, ticket);
                return Some(Turn { target, peer });
            }
            self.mailbox_waiters.ready_for_transport.pop_front();
            self.mailbox_waiters.put_behind(target, due);
        }
    }

    /// Runs a delivery whose turn it is at `target`.
    pub(crate) fn in_turn<R>(&mut self, target: Key, deliver: impl FnOnce(&mut Self) -> R) -> R {
        self.begin_turn(target);
        let result = deliver(self);
        self.end_turn();
        result
    }

    /// Begins a delivery whose turn it is at `target`.
    pub(super) fn begin_turn(&mut self, target: Key) {
        self.mailbox_waiters.turn = Some(target);
    }

    /// Ends the delivery whose turn it was.
    pub(super) fn end_turn(&mut self) {
        self.mailbox_waiters.turn = None;
    }

    /// Whether an actor waits for a message or event that is not in its mailbox. A sleeping actor waits for none.
    pub(crate) fn is_idle(&mut self, key: Key) -> bool {
        self.actors.is_alive(key)
            && !self.actors.is_queued(key.index())
            && self.current != Some(key)
            && self.any_mailbox(key).is_some_and(|mailbox| !mailbox.ignores_events())
    }

    /// Gives the free places of one mailbox to the local actors that wait, until there is none, or handles or the transport have a
    /// turn. Returns that turn.
    fn serve_target(&mut self, target: Key) -> Option<OthersTurn> {
        loop {
            let (max, drops) = (self.capacity_of(target), self.drops_when_full(target));
            let waiting = self.any_mailbox(target).map(|mailbox| mailbox.waiting());
            let is_idle = self.is_idle(target);
            let waiters = self.mailbox_waiters.targets.get_mut(&target)?;
            if waiters.turns.is_empty() {
                self.drop_idle_waiters(target);
                return None;
            }
            let is_full = waiting.is_some_and(|waiting| waiting + waiters.reserved >= max);
            if is_full && !drops {
                return None;
            }
            let (ticket, waiter) = waiters.first_due(waiting, max, is_idle)?;
            match waiter {
                Waiter::Transport { peer, .. } => return Some(OthersTurn::Transport(ticket, peer)),
                Waiter::Handles => return Some(OthersTurn::Handles(ticket)),
                Waiter::Actor { sender, address } => {
                    waiters.remove(ticket);
                    self.serve_actor(sender, address, waiting.is_some());
                }
            }
        }
    }

    /// Gives a turn to a local actor: reserves a place, and sends `Writable`.
    fn serve_actor(&mut self, sender: Key, address: ActorId, is_target_alive: bool) {
        // A place that is reserved for a sleeping actor would stay free for as long as it sleeps.
        let is_asleep = self.any_mailbox(sender).is_none_or(|mailbox| mailbox.ignores_events());
        let target = address.key().actor();
        if self.writable(sender, address) && is_target_alive && !is_asleep {
            self.mailbox_waiters
                .reservations
                .entry(sender)
                .or_default()
                .push(Reservation { target, is_received: false });
            if let Some(waiters) = self.mailbox_waiters.targets.get_mut(&target) {
                waiters.reserved += 1;
            }
        }
    }

    /// Ends the contention for a mailbox without waiters and reservations.
    fn drop_idle_waiters(&mut self, target: Key) {
        let is_idle = |waiters: &TargetWaiters| waiters.turns.is_empty() && waiters.reserved == 0;
        if self.mailbox_waiters.targets.get(&target).is_some_and(is_idle) {
            // Its key may still be in one of the three queues, which does no harm.
            self.mailbox_waiters.targets.remove(&target);
            if self.actors.is_alive(target) {
                self.actors.set(target.index(), Flag::CONTENDED, false);
            }
        }
    }
}
