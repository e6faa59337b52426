//! Access to a loop, for code that embeds or extends it; every `Cx` is built on it.

use std::time::Duration;

use crate::actor::{Actor, Addr, Down, ExitReason, SendMode, Target};
use crate::error::{SendError, Undelivered};
use crate::id::{ActorId, Key, NodeId};
use crate::remote::inbound::exposed_as;
use crate::remote::local_actors::Requests;
use crate::remote::outbound::EncodedMessage;
use crate::remote::transport::{QueueRoom, Signal, SignalKind, Transport};
use crate::remote::wire::Wire;
use crate::request::ReplyTo;
use crate::scheduler::{
    ActorCursor, ActorPage, DeadLetter, GRACE, Lag, LoopStats, Permit, Scheduler, SignalPolicy, SystemEvent,
};
use antiphon_types::Time;

/// Exclusive access to a loop, for code that embeds or extends it.
pub struct LoopRef<'a> {
    pub(crate) scheduler: &'a mut Scheduler,
}

impl LoopRef<'_> {
    /// The incarnation of this loop.
    pub fn node_id(&self) -> NodeId {
        self.scheduler.core.node_id()
    }

    /// The sizes of the loop's tables, and its counters.
    pub(crate) fn stats(&self) -> LoopStats {
        self.scheduler.core.stats()
    }

    /// Some of the loop's actors, from `from` on; see [`Handle::actors`](crate::Handle::actors).
    pub(crate) fn actors(&mut self, from: Option<ActorCursor>) -> ActorPage {
        self.scheduler.core.actors_from(from)
    }

    /// The time of the present round.
    pub fn now(&self) -> Time {
        self.scheduler.core.now()
    }

    /// A random number from the loop's generator.
    pub(crate) fn random(&mut self) -> u64 {
        self.scheduler.core.random()
    }

    /// The transport, if it is a `T`.
    pub fn transport<T: Transport>(&mut self) -> Option<&mut T> {
        self.scheduler.parts()?.1.as_a()
    }

    /// Sends a message without a sender.
    ///
    /// # Errors
    /// The error returns the message, with the reason.
    pub fn send<T: Target>(&mut self, to: T, message: T::Message) -> Result<(), SendError<T::Message>> {
        to.put(self, message, SendMode::Once)
    }

    /// Starts an actor that serves others: a daemon that ends after all other actors when the loop stops.
    pub fn spawn_service<M: 'static>(&mut self, actor: impl Actor<M>) -> Addr<M> {
        self.scheduler.core.spawn_service(actor)
    }

    /// As [`LoopRef::reply`], and returns why the reply was not delivered. The request has then failed, also at its asker.
    ///
    /// # Errors
    /// [`Undelivered::NoActor`] if the request is closed, for example by its timeout; [`Undelivered::Payload`] if the reply
    /// cannot be encoded for another node, or is too large.
    pub(crate) fn try_reply<R>(&mut self, to: ReplyTo<R>, value: R) -> Result<(), Undelivered> {
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
            let times = self.scheduler.core.count_undelivered_reply();
            if times.is_power_of_two() {
                tracing::warn!(%node, %reason, times, "a reply was not delivered (logged at powers of two)");
            }
        }
    }

    /// Closes an adapter, made by [`Cx::adapter`](crate::Cx::adapter), before its actor ends. Other addresses are ignored.
    pub fn close_adapter(&mut self, adapter: impl Into<ActorId>) {
        let adapter = adapter.into();
        if adapter.node() == self.scheduler.core.node_id() {
            self.scheduler.core.close_adapter(adapter.key());
        }
    }

    /// Whether an address of this loop leads to an actor that is alive: the actor has not exited, and the adapter is
    /// not closed.
    pub fn is_alive(&self, key: Key) -> bool {
        self.scheduler.core.actor_of(key).is_some()
    }

    /// Sends `watcher`, on any node, one [`Down`] when `actor`, of this loop, ends. This acts as a call of
    /// [`Cx::notify`](crate::Cx::notify) by `actor`, and works also before its first step.
    pub fn notify(&mut self, actor: Key, watcher: ActorId) {
        self.scheduler.core.notify(watcher, actor);
    }

    /// Terminates an actor, on any node, within five seconds: see [`Cx::terminate`](crate::Cx::terminate).
    pub fn terminate(&mut self, target: impl Into<ActorId>) {
        self.terminate_within(target, GRACE);
    }

    /// As [`LoopRef::terminate`], with another grace time.
    pub(crate) fn terminate_within(&mut self, target: impl Into<ActorId>, grace: Duration) {
        self.scheduler.core.terminate(target.into(), grace);
    }

    /// Ends an actor, on any node, without a further step: see [`Cx::kill`](crate::Cx::kill).
    pub(crate) fn kill(&mut self, target: impl Into<ActorId>) {
        self.scheduler.core.kill(target.into());
    }

    /// Whether the loop is stopping.
    pub fn is_stopping(&self) -> bool {
        self.scheduler.core.is_stopping()
    }

    /// Records a message or signal that was accepted and will not be processed.
    pub fn dead_letter(&mut self, dead_letter: DeadLetter) {
        self.scheduler.core.dead_letter(dead_letter);
    }

    /// The interface of services.
    pub fn service(&mut self) -> ServiceRef<'_> {
        ServiceRef { scheduler: self.scheduler }
    }

    /// The open requests of this loop.
    pub fn requests(&mut self) -> Requests<'_> {
        Requests { core: &mut self.scheduler.core }
    }
}

/// What actors that serve others use of their loop: channels, for example.
pub struct ServiceRef<'a> {
    scheduler: &'a mut Scheduler,
}

impl ServiceRef<'_> {
    /// Whether the network may reach an actor of this loop, which accepts all signals of actors of other nodes.
    pub fn takes_remote_signals(&self, key: Key) -> bool {
        let core = &self.scheduler.core;
        core.is_exposed(key) && core.signal_policy_of(key) == SignalPolicy::All
    }

    /// Lets messages from the network reach an actor. False when the actor is not of this loop, or has exited.
    pub fn expose<M: Wire>(&mut self, addr: Addr<M>) -> bool {
        let exposed = exposed_as::<M>(&mut self.scheduler.core);
        addr.node() == self.scheduler.core.node_id() && self.scheduler.core.expose(addr.id().key(), exposed)
    }

    /// Makes the loop report to the transport when an actor ends, or an adapter is closed
    /// ([`Notice::Exited`](crate::Notice::Exited)), also if its address does not leave this loop. False when the actor
    /// has exited, or the adapter is closed.
    pub fn report_exit(&mut self, key: Key) -> bool {
        self.scheduler.core.report_exit(key)
    }

    /// Adds to the number of messages of a channel that `subscriber`, of this loop, has missed: it receives
    /// [`Event::Lagged`](crate::Event::Lagged) behind the messages that are in its mailbox now. `lag` is the state of the
    /// subscription. False when the subscriber has exited, or when this needs a new event and the mailbox holds twice its
    /// maximum of messages.
    pub fn add_missed(&mut self, subscriber: Key, channel: ActorId, missed: u64, lag: &mut Lag) -> bool {
        (lag.is_queued() || !self.scheduler.core.holds(subscriber, 2))
            && self.scheduler.core.add_missed(subscriber, channel, missed, lag)
    }

    /// Reports to `subscriber`, on another node, that it has missed messages of `channel`, an actor of this loop. If
    /// `ended`, it receives a [`Down`] with [`ExitReason::Lagged`] instead of an
    /// [`Event::Lagged`](crate::Event::Lagged). The report keeps its place behind the messages of the channel that were
    /// accepted before.
    pub fn report_missed(&mut self, channel: Key, subscriber: ActorId, missed: u64, ended: bool) {
        let from = Some(self.scheduler.core.id(channel));
        let kind = SignalKind::Lagged { missed, ended };
        self.scheduler.core.signal(Signal { from, to: subscriber, kind });
    }

    /// Whether the queue to `to`, on another node, has this room for the actor whose step is running: for a message, or for a
    /// report by [`ServiceRef::report_missed`]. If not, the actor is registered for an
    /// [`Event::Writable`](crate::Event::Writable) as after a message in this mode.
    pub fn has_queue_room(&mut self, to: ActorId, room: QueueRoom, mode: SendMode) -> bool {
        self.scheduler.has_queue_room(to, room, mode)
    }

    /// Encodes a message once, so that [`ServiceRef::send_encoded`] can send it to many actors of other nodes.
    ///
    /// # Errors
    /// The message cannot be encoded, contains a `ReplyTo`, or the loop has no transport.
    pub fn encode<M: Wire>(&mut self, message: &M) -> Result<EncodedMessage<M>, Undelivered> {
        self.scheduler.encode_shared(message)
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
        self.scheduler.send_shared(to.id(), message, mode)
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
        let core = &mut self.scheduler.core;
        core.with_permit(Some(permit), |core| core.push_metered(to.id(), message))
    }

    /// Whether the work of the running step should go on in a later one, after [`sleep`](crate::sleep)`(Duration::ZERO)`: the
    /// current round of the loop has used up its time. Then the round ends with the step. In virtual time the answer is yes each
    /// second time.
    pub fn ends_round(&mut self) -> bool {
        self.scheduler.core.ends_round()
    }

    /// Registers the actor whose step is running for an [`Event::Writable`](crate::Event::Writable) of `target`, of this
    /// loop, as after a refused message.
    pub fn await_room(&mut self, target: ActorId) {
        if target.node() == self.scheduler.core.node_id() {
            self.scheduler.core.after_refusal(target, SendMode::Send);
        }
    }

    /// Undoes the registration of `sender`, of this loop, for an [`Event::Writable`](crate::Event::Writable) of `target`,
    /// on any node. An event that is in its mailbox already stays there.
    pub fn cancel_await_room(&mut self, sender: Key, target: ActorId) {
        self.scheduler.core.cancel_await_room(sender, target);
    }

    /// Sends `watcher`, of this loop, an [`Event::Down`](crate::Event::Down) for `actor` without a monitor, for
    /// example when a subscription is refused. False when `watcher` has exited, or its mailbox holds twice its maximum of messages.
    pub fn push_down(&mut self, watcher: Key, actor: ActorId, reason: ExitReason) -> bool {
        !self.scheduler.core.holds(watcher, 2)
            && self.scheduler.core.push_system(watcher, SystemEvent::Down(Down { actor, reason }))
    }

    /// The name of a type; the same pointer at each call.
    pub fn type_name_of<M: Wire>(&mut self) -> &'static str {
        self.scheduler.core.type_name_of::<M>()
    }
}
