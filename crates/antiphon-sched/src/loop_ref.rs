//! What holds the loop for a moment: the way in for whoever embeds it, and what every `Cx` stands on.

use crate::actor::Actor;
use crate::actor_extras::SignalPolicy;
use crate::addr::{Addr, SendMode, Target};
use crate::budget::Permit;
use crate::codec_context;
use crate::core::{Core, TransportSlot};
use crate::error::{AskError, SendError, Undelivered};
use crate::event::{Down, ExitReason, SystemEvent};
use crate::id::{ActorId, Key, NodeId};
use crate::outgoing::exposed_as;
use crate::requests::{ReplyTo, RequestId};
use crate::time::Time;
use crate::transport::{MonitorId, Transport};
use crate::value::Value;
use crate::wire::Wire;

/// A loop, held for a moment.
pub struct LoopRef<'a> {
    pub(crate) core: &'a mut Core,
}

/// What became of an encoded message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery {
    /// It is in the mailbox.
    Delivered,
    /// The mailbox is full: try again when the actor has run.
    Full,
    /// There is no such actor, or its address never left this loop.
    NoActor,
    /// The actor takes messages of another type.
    WrongType,
    /// The bytes are no such message, for this reason.
    Undecodable(String),
    /// A reply is in it, and its node has as many open requests in this loop as it may.
    OverQuota,
}

impl LoopRef<'_> {
    /// The incarnation of this loop.
    pub fn node_id(&self) -> NodeId {
        self.core.node_id
    }

    /// The loop's time.
    pub fn now(&self) -> Time {
        self.core.now
    }

    /// A random number, from the loop's seed.
    pub fn random(&mut self) -> u64 {
        self.core.rng.u64(..)
    }

    /// The world outside, if it is a `T`.
    pub fn transport<T: Transport>(&mut self) -> Option<&mut T> {
        match &mut self.core.transport {
            TransportSlot::Present(transport) => {
                let transport: &mut dyn std::any::Any = &mut **transport;
                transport.downcast_mut()
            }
            TransportSlot::Taken | TransportSlot::Absent => None,
        }
    }

    /// Sends, in the name of nobody.
    ///
    /// # Errors
    /// The message comes back, with the reason.
    pub fn send<T: Target>(&mut self, to: T, message: T::Message) -> Result<(), SendError<T::Message>> {
        to.put(self, message, SendMode::Send)
    }

    /// Starts an actor.
    pub fn spawn_actor<M: 'static>(&mut self, actor: impl Actor<M>) -> Addr<M> {
        self.core.spawn(actor)
    }

    /// Answers a request.
    pub fn reply<R>(&mut self, reply: ReplyTo<R>, value: R) {
        let (node, request_id, reach) = reply.use_up();
        if let Err(reason) = reach(self, node, request_id, value)
            && reason != Undelivered::NoActor
        {
            // An asker that is gone, or was answered by its timeout, is no news; the rest is. A node that asks and takes no
            // answers, or names one that nobody knows, can bring it about: it is said ever more seldom.
            self.core.lost_answers += 1;
            let times = self.core.lost_answers;
            if times.is_power_of_two() {
                tracing::warn!(%node, %reason, times, "an answer was lost");
            }
        }
    }

    /// Ends an address that [`Cx::adapter`](crate::Cx::adapter) made, before its actor ends; does nothing to any other.
    pub fn close_adapter(&mut self, adapter: impl Into<ActorId>) {
        let adapter = adapter.into();
        if adapter.node() == self.core.node_id {
            self.core.close_adapter(adapter.key());
        }
    }

    /// Lets messages from the network reach an actor; false when it is not one of this loop, or has ended.
    pub fn expose<M: Wire>(&mut self, addr: Addr<M>) -> bool {
        let exposed = exposed_as::<M>(self.core);
        addr.node() == self.core.node_id && self.core.expose(addr.id().key(), exposed)
    }

    /// Whether an actor of this loop lives, and messages from the network may reach it.
    pub fn is_exposed(&self, key: Key) -> bool {
        self.core.is_exposed(key)
    }

    /// The name of a type; the same pointer each time.
    pub fn tag_of<M: Wire>(&mut self) -> &'static str {
        self.core.tag_of::<M>()
    }

    /// Puts an encoded message into a mailbox. `body` is one MessagePack value: whoever takes bytes from a network checks that
    /// before, by `antiphon_wire::msgpack::check` for example. Where it came from is said by [`with_origin`](crate::with_origin).
    pub fn deliver(&mut self, to: Key, tag: &str, body: &[u8]) -> Delivery {
        match self.core.deliver(to, tag, body) {
            Delivery::Undecodable(_) if codec_context::was_over_quota() => Delivery::OverQuota,
            delivery => delivery,
        }
    }

    /// Puts one thing into a mailbox by `put`: an encoded message, a value, the end of an actor. It is charged until it is
    /// taken, or dropped.
    pub fn with_permit<R>(&mut self, permit: Option<Permit>, put: impl FnOnce(&mut Self) -> R) -> R {
        if permit.is_none() {
            return put(self);
        }
        self.core.permit = permit;
        let put = put(self);
        // Where nothing was put there, nothing waits.
        self.core.permit = None;
        put
    }

    /// The actor that a key means: its own, or that of which it is a further address.
    pub fn owner_of(&self, key: Key) -> Key {
        self.core.owner_of(key)
    }

    /// Has the world outside told of an actor's end ([`Signal::Exited`](crate::Signal::Exited)) also if no address of it
    /// leaves this loop; false when it has ended.
    pub fn report_exit(&mut self, key: Key) -> bool {
        self.core.extras(key).map(|extras| extras.is_known_to_transport = true).is_some()
    }

    /// What actors of other nodes may do to an actor of this loop, by its own word.
    pub fn signal_policy_of(&self, key: Key) -> SignalPolicy {
        self.core.signal_policy_of(key)
    }

    /// Whether an actor of this loop lives.
    pub fn is_alive(&self, key: Key) -> bool {
        self.core.actors.is_alive(key)
    }

    /// Whether the mailbox of an actor has room for messages; `None` when the actor has ended.
    pub fn has_room(&mut self, key: Key) -> Option<bool> {
        let (key, max) = (self.core.owner_of(key), self.core.mailbox_max);
        self.core.any_mailbox(key).map(|mailbox| !mailbox.is_full_of(max))
    }

    /// How many messages and events wait for an actor of this loop; `None` when it has ended.
    pub fn backlog(&mut self, key: Key) -> Option<usize> {
        let owner = self.core.owner_of(key);
        self.core.any_mailbox(owner).map(|mailbox| mailbox.waiting_in_all())
    }

    /// Answers a request of this loop with a value.
    ///
    /// # Errors
    /// The request is closed, or expects another type.
    pub fn complete_request<R: 'static>(
        &mut self,
        request_id: RequestId,
        value: R,
    ) -> Result<(), Undelivered> {
        self.core.complete_request(request_id, value)
    }

    /// Answers a request of this loop with bytes from the network; `body` is as for [`LoopRef::deliver`]. Where they came from is said by
    /// [`with_origin`](crate::with_origin).
    ///
    /// # Errors
    /// The request is closed, its reply never left this loop, or the bytes are of another type; [`Undelivered::Busy`] when
    /// there was a reply in them, and their node has as many open requests in this loop as it may.
    pub fn complete_request_encoded(
        &mut self,
        request_id: RequestId,
        tag: &str,
        body: &[u8],
    ) -> Result<(), Undelivered> {
        match self.core.complete_request_encoded(request_id, tag, body) {
            Err(Undelivered::Encode) if codec_context::was_over_quota() => Err(Undelivered::Busy),
            result => result,
        }
    }

    /// Closes a request of this loop without an answer; does nothing when it is closed already.
    pub fn fail_request(&mut self, request_id: RequestId, reason: AskError) {
        self.core.fail_request(request_id, reason);
    }

    /// As [`LoopRef::fail_request`], by the word of another node: closes only a request whose reply left this loop.
    pub fn fail_request_from_peer(&mut self, request_id: RequestId, reason: AskError) {
        if self.core.request_ids.expected(request_id).is_some() {
            self.core.fail_request(request_id, reason);
        }
    }

    /// Whether a request is open.
    pub fn is_open(&mut self, request_id: RequestId) -> bool {
        self.core.request_ids.is_open(request_id)
    }

    /// `watcher`, elsewhere, is to be told when `target`, here, ends.
    pub fn watch(&mut self, target: Key, id: MonitorId, watcher: ActorId) {
        self.core.watch_local(target, id, watcher);
    }

    /// `watcher`, elsewhere, is told that its monitor is not admitted.
    pub fn refuse_watch(&mut self, target: Key, id: MonitorId, watcher: ActorId) {
        let actor = self.core.id(target);
        self.core.tell_down(watcher, id, actor, ExitReason::Refused);
    }

    /// That is no longer wanted.
    pub fn unwatch(&mut self, target: Key, id: MonitorId) {
        self.core.unwatch_local(target, id);
    }

    /// `watcher`, here, will be told under this number when `actor`, elsewhere, ends. False when it will not, because it has
    /// ended, or is to be told of as many ends as it may by the wish of others: then it is told so, as by
    /// [`LoopRef::refuse_notify`].
    pub fn expect_down(&mut self, watcher: Key, id: MonitorId, actor: ActorId) -> bool {
        self.core.expect_down(watcher, id, actor)
    }

    /// `watcher`, here, is told by a [`Down`] that it will not hear of the end of `actor`, although `actor` wanted it to: as a
    /// message, if it has room for one. Else there is a dead letter.
    pub fn refuse_notify(&mut self, watcher: Key, actor: ActorId) {
        self.core.refuse_notify(watcher, actor);
    }

    /// `actor`, elsewhere, has ended. A watcher that was told already is not told again.
    pub fn down(&mut self, watcher: Key, id: MonitorId, actor: ActorId, reason: ExitReason) {
        self.core.down(watcher, id, actor, reason);
    }

    /// Has `watcher`, wherever it is, told by one [`Down`] when `actor`, here, ends: as if `actor` had called
    /// [`Cx::notify`](crate::Cx::notify) itself, before its first step if need be.
    pub fn notify(&mut self, actor: Key, watcher: ActorId) {
        self.core.notify(watcher, actor);
    }

    /// Tells an actor of this loop, by one [`Event::Down`](crate::Event::Down), that `actor` has ended, although
    /// it set no monitor: a subscription that was refused ends so. False when the actor itself has ended, or its
    /// mailbox holds twice as much as it takes of messages.
    pub fn tell_down(&mut self, watcher: Key, actor: ActorId, reason: ExitReason) -> bool {
        !self.is_flooded(watcher) && self.core.push_system(watcher, SystemEvent::Down(Down { actor, reason }))
    }

    /// Asks an actor to end, wherever it is.
    pub fn terminate(&mut self, target: impl Into<ActorId>) {
        self.core.terminate(target.into());
    }

    /// Throws an exception into an actor of this loop; false when it has ended, or its mailbox holds twice as much as
    /// it takes of messages.
    pub fn throw_here(&mut self, target: Key, value: Value) -> bool {
        !self.is_flooded(target) && {
            let thrown = self.core.metered(SystemEvent::Thrown(value));
            self.core.push_system(target, thrown)
        }
    }

    /// Wakes an actor of this loop; false when it has ended, or its mailbox holds twice as much as it takes of
    /// messages.
    pub fn resume_here(&mut self, target: Key, value: Value) -> bool {
        !self.is_flooded(target) && {
            let resumed = self.core.metered(SystemEvent::Resumed(value));
            self.core.push_system(target, resumed)
        }
    }

    /// Values come also where messages do not, so that who sleeps on a full mailbox can be woken; but not for ever.
    fn is_flooded(&mut self, key: Key) -> bool {
        let key = self.core.owner_of(key);
        let max = self.core.mailbox_max.saturating_mul(2);
        self.core.any_mailbox(key).is_some_and(|mailbox| mailbox.is_full_of(max))
    }

    /// Tells an actor of this loop that it may send to `node` again.
    pub fn writable(&mut self, actor: Key, node: NodeId) {
        self.core.push_system(actor, SystemEvent::Writable(node));
    }

    /// Counts a message or signal that could not be delivered.
    pub fn dead_letter(&mut self, to: ActorId, what: &'static str, reason: Undelivered) {
        self.core.dead_letters.note(to, what, reason);
    }
}
