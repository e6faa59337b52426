//! Access to a loop, for code that embeds or extends it; every `Cx` is built on it.

use std::time::Duration;

use crate::actor::Actor;
use crate::actor::Value;
use crate::actor::{Addr, SendMode, Target};
use crate::actor::{Down, ExitReason, SystemEvent};
use crate::error::{AskError, PayloadError, SendError, Undelivered};
use crate::event_loop::LoopStats;
use crate::id::{ActorId, Key, NodeId};
use crate::remote::messages::{EncodedMessage, exposed_as};
use crate::remote::transport::{MonitorId, Signal, Transport};
use crate::remote::wire::Wire;
use crate::request::{ReplyTo, RequestId};
use crate::scheduler::DeadLetter;
use crate::scheduler::GRACE;
use crate::scheduler::Lag;
use crate::scheduler::MailboxLimit;
use crate::scheduler::Permit;
use crate::scheduler::SignalPolicy;
use crate::scheduler::{ActorCursor, ActorPage};
use crate::scheduler::{Core, TransportSlot};
use crate::scheduler::{RoomMark, Ticket, Turn, Waiter};
use crate::time::Time;

/// Exclusive access to a loop, for code that embeds or extends it.
pub struct LoopRef<'a> {
    pub(crate) core: &'a mut Core,
}

/// The result of delivering an encoded message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery {
    /// The message is in the mailbox.
    Delivered,
    /// The message is in the mailbox, of which more than half is in use now.
    DeliveredOverHalf,
    /// The mailbox is full, or others wait for room in it. Register by [`LoopRef::wait_for_room`], and deliver again in the
    /// turn that [`LoopRef::next_turn`] returns.
    Full,
    /// The mailbox is full, and drops new messages.
    Discarded,
    /// The actor does not exist, or its address never left this loop.
    NoActor,
    /// The actor takes messages of another type, or the bytes do not decode to a message of the type.
    Refused(PayloadError),
    /// The message holds a `ReplyTo`, and the sending node has its maximum of open requests in this loop.
    OverQuota,
}

/// What waits in a mailbox.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct MailboxLoad {
    /// Messages and events that wait.
    pub waiting: usize,
    /// The bytes of one item.
    pub item_bytes: usize,
}

impl LoopRef<'_> {
    /// The incarnation of this loop.
    pub fn node_id(&self) -> NodeId {
        self.core.node_id
    }

    /// The sizes of the loop's tables, and its counters.
    pub fn stats(&self) -> LoopStats {
        self.core.stats()
    }

    /// Some of the loop's actors, from `from` on; see [`Handle::actors`](crate::Handle::actors).
    pub fn actors(&mut self, from: Option<ActorCursor>) -> ActorPage {
        self.core.actors_from(from)
    }

    /// The time of the present round.
    pub fn now(&self) -> Time {
        self.core.now
    }

    /// A random number from the loop's generator.
    pub fn random(&mut self) -> u64 {
        self.core.rng.u64(..)
    }

    /// The transport, if it is a `T`.
    pub fn transport<T: Transport>(&mut self) -> Option<&mut T> {
        match &mut self.core.transport {
            TransportSlot::Present(transport) => {
                let transport: &mut dyn std::any::Any = &mut **transport;
                transport.downcast_mut()
            }
            TransportSlot::Taken | TransportSlot::Absent => None,
        }
    }

    /// Sends a message without a sender.
    ///
    /// # Errors
    /// The error returns the message, with the reason.
    pub fn send<T: Target>(&mut self, to: T, message: T::Message) -> Result<(), SendError<T::Message>> {
        to.put(self, message, SendMode::Once)
    }

    /// Starts an actor.
    pub fn spawn_actor<M: 'static>(&mut self, actor: impl Actor<M>) -> Addr<M> {
        self.core.spawn(actor)
    }

    /// Starts an actor whose mailbox has a limit of its own.
    pub fn spawn_with<M: 'static>(&mut self, limit: MailboxLimit, actor: impl Actor<M>) -> Addr<M> {
        self.core.spawn_with(limit, actor)
    }

    /// Starts an actor that serves others: a daemon that ends after all other actors when the loop stops.
    pub fn spawn_service<M: 'static>(&mut self, actor: impl Actor<M>) -> Addr<M> {
        self.core.spawn_service(actor)
    }

    /// As [`LoopRef::reply`], and returns why the reply was not delivered. The request has then failed, also at its asker.
    ///
    /// # Errors
    /// [`Undelivered::NoActor`] if the request is closed, for example by its timeout; [`Undelivered::Payload`] if the reply
    /// cannot be encoded for another node, or is too large.
    pub fn try_reply<R>(&mut self, to: ReplyTo<R>, value: R) -> Result<(), Undelivered> {
        let (node, request_id, reach) = to.into_parts();
        reach(self, node, request_id, value)
    }

    /// Replies to a request. A reply that is not delivered is logged.
    pub fn reply<R>(&mut self, to: ReplyTo<R>, value: R) {
        let node = to.node();
        if let Err(reason) = self.try_reply(to, value)
            && reason != Undelivered::NoActor
        {
            // A request that is closed, by its timeout or with its actor, needs no log line. Every other reason
            // can be caused by a peer: it accepts no replies, or names an unknown node. So the log is throttled.
            self.core.undelivered_replies += 1;
            let times = self.core.undelivered_replies;
            if times.is_power_of_two() {
                tracing::warn!(%node, %reason, times, "a reply was not delivered (logged at powers of two)");
            }
        }
    }

    /// Closes an adapter, made by [`Cx::adapter`](crate::Cx::adapter), before its actor ends. Other addresses are ignored.
    pub fn close_adapter(&mut self, adapter: impl Into<ActorId>) {
        let adapter = adapter.into();
        if adapter.node() == self.core.node_id {
            self.core.close_adapter(adapter.key());
        }
    }

    /// Lets messages from the network reach an actor. False when the actor is not of this loop, or has exited.
    pub fn expose<M: Wire>(&mut self, addr: Addr<M>) -> bool {
        let exposed = exposed_as::<M>(self.core);
        addr.node() == self.core.node_id && self.core.expose(addr.id().key(), exposed)
    }

    /// Whether an address of this loop leads to an actor that is alive, and messages from the network may reach it.
    pub fn is_exposed(&self, key: Key) -> bool {
        self.core.is_exposed(key)
    }

    /// The name of a type; the same pointer at each call.
    pub fn type_name_of<M: Wire>(&mut self) -> &'static str {
        self.core.type_name_of::<M>()
    }

    /// Puts an encoded message into a mailbox.
    ///
    /// `body` must be one MessagePack value. The caller checks bytes from a network before, for example by
    /// `antiphon_wire::msgpack::check`. [`with_origin`](crate::with_origin) sets the node that sent the message.
    pub fn deliver(&mut self, to: Key, type_name: &str, body: &[u8]) -> Delivery {
        self.core.deliver(to, type_name, body)
    }

    /// Runs `put`, which puts one encoded message, value or [`Down`] into a mailbox. `permit` is kept with it until
    /// the actor takes it, or until it is dropped.
    pub fn with_permit<R>(&mut self, permit: Option<Permit>, put: impl FnOnce(&mut Self) -> R) -> R {
        if permit.is_none() {
            return put(self);
        }
        self.core.permit = permit;
        let result = put(self);
        // When `put` used no permit, it is returned to its budget here.
        self.core.permit = None;
        result
    }

    /// Makes the loop report to the transport when an actor ends, or an adapter is closed
    /// ([`Signal::Exited`](crate::Signal::Exited)), also if its address does not leave this loop. False when the actor
    /// has exited, or the adapter is closed.
    pub fn report_exit(&mut self, key: Key) -> bool {
        self.core.address_extras(key).map(|address| address.is_known_to_transport = true).is_some()
    }

    /// Which signals an actor of this loop accepts from actors of other nodes.
    pub fn signal_policy_of(&self, key: Key) -> SignalPolicy {
        self.core.signal_policy_of(key)
    }

    /// Whether an address of this loop leads to an actor that is alive: the actor has not exited, and the adapter is
    /// not closed.
    pub fn is_alive(&self, key: Key) -> bool {
        self.core.actor_of(key).is_some()
    }

    /// Whether the mailbox of an actor has room for a message; `None` when the actor has exited, or `key` is of an
    /// adapter that is closed.
    pub fn has_room(&mut self, key: Key) -> Option<bool> {
        let actor = self.core.actor_of(key)?;
        Some(self.core.has_place(actor))
    }

    /// How many messages and events wait for an actor of this loop; `None` when it has exited, or `key` is of an
    /// adapter that is closed.
    pub fn mailbox_len(&mut self, key: Key) -> Option<usize> {
        self.core.any_mailbox_of(key).map(|mailbox| mailbox.waiting())
    }

    /// How many messages and events wait for an actor of this loop, and the bytes of an item of its mailbox without what the
    /// message refers to; `None` as for [`LoopRef::mailbox_len`].
    pub fn mailbox_load(&mut self, key: Key) -> Option<MailboxLoad> {
        let mailbox = self.core.any_mailbox_of(key)?;
        Some(MailboxLoad { waiting: mailbox.waiting(), item_bytes: mailbox.item_bytes() })
    }

    /// Completes a request of this loop with a value.
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

    /// Completes a request of this loop with bytes from the network.
    ///
    /// `body` is as for [`LoopRef::deliver`]. [`with_origin`](crate::with_origin) sets the node that sent the reply.
    ///
    /// # Errors
    /// The request is closed, its `ReplyTo` never left this loop, or the bytes are of another type;
    /// [`Undelivered::Busy`] when the value holds a `ReplyTo`, and its node has the maximum of open requests in this
    /// loop.
    pub fn complete_request_encoded(
        &mut self,
        request_id: RequestId,
        type_name: &str,
        body: &[u8],
    ) -> Result<(), Undelivered> {
        self.core.complete_request_encoded(request_id, type_name, body)
    }

    /// The actor that waits for an open request of this loop; `None` if none does.
    pub fn owner_of_request(&mut self, request_id: RequestId) -> Option<Key> {
        self.core.requests.owner(request_id)
    }

    /// Closes a request of this loop without a reply. Does nothing if the request is already closed.
    pub fn fail_request(&mut self, request_id: RequestId, reason: AskError) {
        self.core.fail_request(request_id, reason);
    }

    /// As [`LoopRef::complete_request_encoded`]; the permit is kept with the message of the reply.
    ///
    /// # Errors
    /// As [`LoopRef::complete_request_encoded`].
    pub fn complete_request_with_permit(
        &mut self,
        request_id: RequestId,
        (type_name, body): (&str, &[u8]),
        permit: Option<Permit>,
    ) -> Result<(), Undelivered> {
        self.with_permit(permit, |loop_ref| loop_ref.complete_request_encoded(request_id, type_name, body))
    }

    /// As [`LoopRef::fail_request`], for another node: closes a request only if its `ReplyTo` left this loop.
    pub fn fail_request_from_peer(&mut self, request_id: RequestId, reason: AskError) {
        if self.core.requests.expected(request_id).is_some() {
            self.core.fail_request(request_id, reason);
        }
    }

    /// Whether a request is open.
    pub fn is_open(&mut self, request_id: RequestId) -> bool {
        self.core.requests.is_open(request_id)
    }

    /// Adds a monitor: `watcher`, on another node, receives a [`Down`] when `target`, of this loop, ends.
    pub fn add_watcher(&mut self, target: Key, id: MonitorId, watcher: ActorId) {
        self.core.add_watcher(target, id, watcher);
    }

    /// Refuses a monitor: sends `watcher`, on another node, a [`Down`] of `target` with this reason.
    pub fn refuse_monitor(&mut self, target: Key, id: MonitorId, watcher: ActorId, reason: ExitReason) {
        let actor = self.core.id(target);
        self.core.send_down(watcher, id, actor, reason);
    }

    /// Removes a monitor.
    pub fn remove_watcher(&mut self, target: Key, id: MonitorId) {
        self.core.remove_watcher(target, id);
    }

    /// Prepares `watcher`, of this loop, for a [`Down`] of the monitor `id` when `actor`, on another node, ends.
    ///
    /// False when `watcher` has exited, or other actors have requested the maximum of notifications for it. Then this
    /// acts as [`LoopRef::refuse_notify`].
    pub fn expect_down(&mut self, watcher: Key, id: MonitorId, actor: ActorId) -> bool {
        self.core.expect_down(watcher, id, actor)
    }

    /// Refuses a notification that `actor` requested: `watcher`, of this loop, receives a [`Down`] with
    /// [`ExitReason::Refused`] if its mailbox has room for a message. Otherwise a dead letter is counted.
    pub fn refuse_notify(&mut self, watcher: Key, actor: ActorId) {
        self.core.refuse_notify(watcher, actor);
    }

    /// Sends `watcher`, of this loop, a [`Down`]: `actor`, on another node, has exited. Each monitor causes at most one.
    pub fn down(&mut self, watcher: Key, id: MonitorId, actor: ActorId, reason: ExitReason) {
        self.core.down(watcher, id, actor, reason);
    }

    /// Sends `watcher`, on any node, one [`Down`] when `actor`, of this loop, ends. This acts as a call of
    /// [`Cx::notify`](crate::Cx::notify) by `actor`, and works also before its first step.
    pub fn notify(&mut self, actor: Key, watcher: ActorId) {
        self.core.notify(watcher, actor);
    }

    /// Sends `watcher`, of this loop, an [`Event::Down`](crate::Event::Down) for `actor` without a monitor, for
    /// example when a subscription is refused. False when `watcher` has exited, or its mailbox holds twice its maximum of messages.
    pub fn push_down(&mut self, watcher: Key, actor: ActorId, reason: ExitReason) -> bool {
        !self.is_flooded(watcher) && self.core.push_system(watcher, SystemEvent::Down(Down { actor, reason }))
    }

    /// Terminates an actor, on any node, within five seconds: see [`Cx::terminate`](crate::Cx::terminate).
    pub fn terminate(&mut self, target: impl Into<ActorId>) {
        self.terminate_within(target, GRACE);
    }

    /// As [`LoopRef::terminate`], with another grace time.
    pub fn terminate_within(&mut self, target: impl Into<ActorId>, grace: Duration) {
        self.core.terminate(target.into(), grace);
    }

    /// Ends an actor, on any node, without a further step: see [`Cx::kill`](crate::Cx::kill).
    pub fn kill(&mut self, target: impl Into<ActorId>) {
        self.core.kill(target.into());
    }

    /// Whether the loop is stopping.
    pub fn is_stopping(&self) -> bool {
        self.core.is_stopping()
    }

    /// Throws an exception into an actor of this loop. False when the actor has exited, or its mailbox holds three times
    /// its maximum of messages.
    pub fn throw_here(&mut self, target: Key, value: Value) -> bool {
        self.has_room_for_urgent(target) && {
            let thrown = self.core.metered(SystemEvent::Thrown(value));
            self.core.push_system(target, thrown)
        }
    }

    /// Resumes an actor of this loop. False when the actor has exited, or its mailbox holds three times its maximum of
    /// messages.
    pub fn resume_here(&mut self, target: Key, value: Value) -> bool {
        self.has_room_for_urgent(target) && {
            let resumed = self.core.metered(SystemEvent::Resumed(value));
            self.core.push_system(target, resumed)
        }
    }

    /// Whether the mailbox of an actor holds twice its maximum of messages: then it takes no reports of missed messages
    /// ([`LoopRef::add_missed`], [`LoopRef::push_down`]).
    pub fn is_flooded(&mut self, key: Key) -> bool {
        self.holds(key, 2)
    }

    /// Throw and resume have room in a mailbox that messages and reports have filled, so that a suspended actor can be
    /// resumed; but they have a limit too.
    fn has_room_for_urgent(&mut self, key: Key) -> bool {
        !self.holds(key, 3)
    }

    /// Whether the mailbox of an actor holds its maximum of messages so many times.
    fn holds(&mut self, key: Key, times: usize) -> bool {
        let max = self.core.capacity_of(key.actor()).saturating_mul(times);
        self.core.any_mailbox_of(key).is_some_and(|mailbox| mailbox.is_full(max))
    }

    /// Reports room at `target`, on another node, to `sender`, of this loop: if it awaits that after a refusal, it
    /// receives [`Event::Writable`](crate::Event::Writable). Without a sender, the messages of handles are sent.
    pub fn writable(&mut self, sender: Option<Key>, target: ActorId) {
        match sender {
            Some(sender) => drop(self.core.writable(sender, target)),
            None => self.core.serve_remote_handles(target),
        }
    }

    /// Adds to the number of messages of a channel that `subscriber`, of this loop, has missed: it receives
    /// [`Event::Lagged`](crate::Event::Lagged) behind the messages that are in its mailbox now. `lag` is the state of the
    /// subscription. False when the subscriber has exited, or when this needs a new event and the mailbox holds twice its
    /// maximum of messages.
    pub fn add_missed(&mut self, subscriber: Key, channel: ActorId, missed: u64, lag: &mut Lag) -> bool {
        (lag.is_queued() || !self.is_flooded(subscriber))
            && self.core.add_missed(subscriber, channel, missed, lag)
    }

    /// Reports to `subscriber`, on another node, that it has missed messages of `channel`, an actor of this loop. If
    /// `ended`, it receives a [`Down`] with [`ExitReason::Lagged`] instead of an
    /// [`Event::Lagged`](crate::Event::Lagged). The report keeps its place behind the messages of the channel that were
    /// accepted before.
    pub fn report_missed(&mut self, channel: Key, subscriber: ActorId, missed: u64, ended: bool) {
        self.core.signal(Signal::Lagged { channel, subscriber, missed, ended });
    }

    /// Whether the queue to `to`, on another node, has room for so many bytes of the actor whose step is running: of a
    /// message, or of a report by [`LoopRef::report_missed`]. If not, the actor is registered for an
    /// [`Event::Writable`](crate::Event::Writable) as after a message in this mode.
    pub fn has_queue_room(&mut self, to: ActorId, bytes: u64, mode: SendMode) -> bool {
        self.core.has_queue_room(to, bytes, mode)
    }

    /// Encodes a message once, so that [`LoopRef::send_encoded`] can send it to many actors of other nodes.
    ///
    /// # Errors
    /// The message cannot be encoded, contains a `ReplyTo`, or the loop has no transport.
    pub fn encode<M: Wire>(&mut self, message: &M) -> Result<EncodedMessage<M>, Undelivered> {
        self.core.encode_shared(message)
    }

    /// Sends an encoded message to an actor of another node, as [`Target::put`] does.
    ///
    /// # Errors
    /// As those of [`Target::put`]. The message can be sent to others.
    pub fn send_encoded<M>(
        &mut self,
        to: Addr<M>,
        message: &EncodedMessage<M>,
        mode: SendMode,
    ) -> Result<(), Undelivered> {
        self.core.send_shared(to.id, message, mode)
    }

    /// Puts a message into a mailbox of this loop. `permit` is kept with it until the actor takes it, or until it is dropped.
    ///
    /// # Errors
    /// As those of [`Target::put`], without a later [`Event::Writable`](crate::Event::Writable).
    pub fn put_with_permit<M: 'static>(
        &mut self,
        to: Addr<M>,
        message: M,
        permit: Permit,
    ) -> Result<(), SendError<M>> {
        self.with_permit(Some(permit), |loop_ref| loop_ref.core.push_metered(to.id, message))
    }

    /// Whether the work of the running step should go on in a later one, after [`sleep`](crate::sleep)`(Duration::ZERO)`: the
    /// current round of the loop has used up its time. Then the round ends with the step. In virtual time the answer is yes each
    /// second time.
    pub fn ends_round(&mut self) -> bool {
        self.core.ends_round()
    }

    /// Registers the actor whose step is running for an [`Event::Writable`](crate::Event::Writable) of `target`, of this
    /// loop, as after a refused message.
    pub fn await_room(&mut self, target: ActorId) {
        if target.node() == self.core.node_id {
            self.core.after_refusal(target, SendMode::Send);
        }
    }

    /// Undoes the registration of `sender`, of this loop, for an [`Event::Writable`](crate::Event::Writable) of `target`,
    /// on any node. An event that is in its mailbox already stays there.
    pub fn cancel_await_room(&mut self, sender: Key, target: ActorId) {
        self.core.cancel_await_room(sender, target);
    }

    /// Registers that messages of a peer wait for room in the mailbox of `target`. [`LoopRef::next_turn`] returns their
    /// turn. An earlier registration that has had no turn is replaced, and keeps its place.
    pub fn wait_for_room(&mut self, target: Key, peer: NodeId, mark: RoomMark, earlier: Ticket) -> Ticket {
        let target = target.actor();
        self.core.wait_for_turn_again(target, Waiter::Transport { peer, mark }, earlier)
    }

    /// Cancels a registration. Does nothing if it has had its turn.
    pub fn cancel_wait(&mut self, target: Key, ticket: Ticket) {
        let target = target.actor();
        self.core.cancel_wait(target, ticket);
    }

    /// The next turn of a peer at a mailbox. Deliver one message by [`LoopRef::deliver_in_turn`]; if more wait, call
    /// [`LoopRef::wait_for_room`] again. Continue until there is no turn.
    pub fn next_turn(&mut self) -> Option<Turn> {
        self.core.next_turn()
    }

    /// Whether an actor of this loop waits for a message or event that is not in its mailbox, which may hold others for
    /// later. A sleeping actor waits for none.
    pub fn is_idle(&mut self, key: Key) -> bool {
        self.core.is_idle(key.actor())
    }

    /// Runs `deliver`, which delivers a message whose turn it is at the mailbox of `target`.
    pub fn deliver_in_turn<R>(&mut self, target: Key, deliver: impl FnOnce(&mut LoopRef<'_>) -> R) -> R {
        let target = target.actor();
        self.core.in_turn(target, |core| deliver(&mut LoopRef { core }))
    }

    /// Records a message or signal that was accepted and will not be processed.
    pub fn dead_letter(&mut self, dead_letter: DeadLetter) {
        self.core.dead_letter(dead_letter);
    }
}
