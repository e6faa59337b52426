//! What the transport may use of a loop while it works: the local actors.
//!
//! Nothing here leads back to the transport. So the code of users that runs meanwhile, such as decoders, cannot reach it either.

use std::time::Duration;

use mio::Registry;

use crate::actor::{Addr, Down, ExitReason, SendMode, Value};
use crate::error::{AskError, PayloadError, SendError, Undelivered};
use crate::id::{ActorId, Key, NodeId};
use crate::remote::encoded_value::EncodedValue;
use crate::remote::inbound;
use crate::remote::transport::MonitorId;
use crate::remote::wire::Wire;
use crate::request::RequestId;
use crate::scheduler::{
    Core, DeadLetter, Lag, Permit, RoomMark, SignalPolicy, SystemEvent, Ticket, Turn, Waiter,
};
use antiphon_types::Time;

/// The result of delivering an encoded message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery {
    /// The message is in the mailbox.
    Delivered,
    /// The message is in the mailbox, of which more than half is in use now.
    DeliveredOverHalf,
    /// The mailbox is full, or others wait for room in it. Register by [`Mailboxes::wait_for_room`], and deliver again in the
    /// turn that [`Mailboxes::next_turn`] returns.
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

/// Throw and resume have room in a mailbox that messages and reports have filled, so that a suspended actor can be resumed. But
/// they have a limit too: so many times that of the mailbox.
const URGENT_TIMES: usize = 3;

/// The actors of a loop, as the transport reaches them.
pub struct LocalActors<'a> {
    core: &'a mut Core,
    registry: Option<&'a Registry>,
}

impl<'a> LocalActors<'a> {
    pub(crate) fn new(core: &'a mut Core, registry: Option<&'a Registry>) -> Self {
        Self { core, registry }
    }
}

impl LocalActors<'_> {
    /// The incarnation of this loop.
    pub fn node_id(&self) -> NodeId {
        self.core.node_id()
    }

    /// The time of the present round.
    pub fn now(&self) -> Time {
        self.core.now()
    }

    /// The name of a type; the same pointer at each call.
    pub fn type_name_of<M: Wire>(&mut self) -> &'static str {
        self.core.type_name_of::<M>()
    }

    /// Whether an address of this loop leads to an actor that is alive: the actor has not exited, and the adapter is
    /// not closed.
    pub fn is_alive(&self, key: Key) -> bool {
        self.core.actor_of(key).is_some()
    }

    /// Whether an address of this loop leads to an actor that is alive, and messages from the network may reach it.
    pub fn is_exposed(&self, key: Key) -> bool {
        self.core.is_exposed(key)
    }

    /// Runs `put`, which puts one encoded message, value or [`Down`] into a mailbox. `permit` is kept with it until
    /// the actor takes it, or until it is dropped.
    pub fn with_permit<R>(
        &mut self,
        permit: Option<Permit>,
        put: impl FnOnce(&mut LocalActors<'_>) -> R,
    ) -> R {
        let registry = self.registry;
        self.core.with_permit(permit, |core| put(&mut LocalActors { core, registry }))
    }

    /// Records a message or signal that was accepted and will not be processed.
    pub fn dead_letter(&mut self, dead_letter: DeadLetter) {
        self.core.dead_letter(dead_letter);
    }

    /// The registry of the loop, for the sockets of the transport; `None` for a virtual loop.
    pub fn registry(&self) -> Option<&Registry> {
        self.registry
    }

    /// Sends a message to an actor of this loop, without a sender.
    ///
    /// # Errors
    /// The error returns the message, with the reason.
    pub fn send<M: 'static>(&mut self, to: Addr<M>, message: M) -> Result<(), SendError<M>> {
        self.core.push_local(to.id(), message, SendMode::Once)
    }

    /// The same, for a shorter time.
    pub fn reborrow(&mut self) -> LocalActors<'_> {
        LocalActors { core: self.core, registry: self.registry }
    }

    /// The mailboxes: deliveries, and the waiters for room.
    pub fn mailboxes(&mut self) -> Mailboxes<'_> {
        Mailboxes { core: self.core }
    }

    /// The open requests.
    pub fn requests(&mut self) -> Requests<'_> {
        Requests { core: self.core }
    }

    /// Signals to the actors.
    pub fn signals(&mut self) -> ActorSignals<'_> {
        ActorSignals { core: self.core }
    }
}

/// The mailboxes of a loop, for messages of other nodes.
pub struct Mailboxes<'a> {
    core: &'a mut Core,
}

impl Mailboxes<'_> {
    /// Puts an encoded message into a mailbox.
    ///
    /// `body` must be one MessagePack value. The caller checks bytes from a network before, for example by
    /// `antiphon_wire::msgpack::check`. [`with_origin`](crate::with_origin) sets the node that sent the message.
    pub fn deliver(&mut self, to: Key, type_name: &str, body: &[u8]) -> Delivery {
        inbound::deliver(self.core, to, type_name, body)
    }

    /// Whether the mailbox of an actor has room for a message; `None` when the actor has exited, or `key` is of an
    /// adapter that is closed.
    pub fn has_room(&mut self, key: Key) -> Option<bool> {
        let actor = self.core.actor_of(key)?;
        Some(self.core.has_place(actor))
    }

    /// How many messages and events wait for an actor of this loop, and the bytes of an item of its mailbox without what the
    /// message refers to; `None` as for [`Mailboxes::has_room`].
    pub fn mailbox_load(&mut self, key: Key) -> Option<MailboxLoad> {
        let mailbox = self.core.any_mailbox_of(key)?;
        Some(MailboxLoad { waiting: mailbox.waiting(), item_bytes: mailbox.item_bytes() })
    }

    /// Whether the mailbox of an actor holds twice its maximum of messages: then it takes no reports of missed messages
    /// ([`Mailboxes::add_missed`], [`ActorSignals::push_down`]).
    pub fn is_flooded(&mut self, key: Key) -> bool {
        self.core.holds(key, 2)
    }

    /// Whether an actor of this loop waits for a message or event that is not in its mailbox, which may hold others for
    /// later. A sleeping actor waits for none.
    pub fn is_idle(&mut self, key: Key) -> bool {
        self.core.is_idle(key.actor())
    }

    /// Adds to the number of messages of a channel that `subscriber`, of this loop, has missed: it receives
    /// [`Event::Lagged`](crate::Event::Lagged) behind the messages that are in its mailbox now. `lag` is the state of the
    /// subscription. False when the subscriber has exited, or when this needs a new event and the mailbox holds twice its
    /// maximum of messages.
    pub fn add_missed(&mut self, subscriber: Key, channel: ActorId, missed: u64, lag: &mut Lag) -> bool {
        (lag.is_queued() || !self.core.holds(subscriber, 2))
            && self.core.add_missed(subscriber, channel, missed, lag)
    }

    /// Reports room at `target`, on another node, to `sender`, of this loop: if it awaits that after a refusal, it
    /// receives [`Event::Writable`](crate::Event::Writable). Without a sender, the messages of handles are sent.
    pub fn writable(&mut self, sender: Option<Key>, target: ActorId) {
        match sender {
            Some(sender) => drop(self.core.writable(sender, target)),
            None => self.core.serve_remote_handles(target),
        }
    }

    /// Registers that messages of a peer wait for room in the mailbox of `target`. [`Mailboxes::next_turn`] returns their
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

    /// The next turn of a peer at a mailbox. Ask for turns after each round of the loop: others wait behind them. Deliver one message by [`Mailboxes::deliver_in_turn`]; if more wait, call
    /// [`Mailboxes::wait_for_room`] again. Continue until there is no turn.
    pub fn next_turn(&mut self) -> Option<Turn> {
        self.core.next_turn()
    }

    /// Runs `deliver`, which delivers a message whose turn it is at the mailbox of `target`.
    pub fn deliver_in_turn<R>(&mut self, target: Key, deliver: impl FnOnce(&mut Mailboxes<'_>) -> R) -> R {
        let target = target.actor();
        self.core.in_turn(target, |core| deliver(&mut Mailboxes { core }))
    }
}

/// The open requests of a loop.
pub struct Requests<'a> {
    pub(super) core: &'a mut Core,
}

impl Requests<'_> {
    /// Completes a request of this loop with a value.
    ///
    /// # Errors
    /// The request is closed, or expects another type.
    pub fn complete<R: 'static>(&mut self, request_id: RequestId, value: R) -> Result<(), Undelivered> {
        self.core.complete_request(request_id, value)
    }

    /// Completes a request of this loop with bytes from the network.
    ///
    /// `body` is as for [`Mailboxes::deliver`]. [`with_origin`](crate::with_origin) sets the node that sent the reply.
    ///
    /// # Errors
    /// The request is closed, its `ReplyTo` never left this loop, or the bytes are of another type;
    /// [`Undelivered::Busy`] when the value holds a `ReplyTo`, and its node has the maximum of open requests in this
    /// loop.
    pub fn complete_encoded(
        &mut self,
        request_id: RequestId,
        type_name: &str,
        body: &[u8],
    ) -> Result<(), Undelivered> {
        self.core.complete_request_encoded(request_id, type_name, body)
    }

    /// Closes a request of this loop without a reply. Does nothing if the request is already closed.
    pub fn fail(&mut self, request_id: RequestId, reason: AskError) {
        self.core.fail_request(request_id, reason);
    }

    /// As [`Requests::fail`], for another node: closes a request only if its `ReplyTo` left this loop.
    pub fn fail_from_peer(&mut self, request_id: RequestId, reason: AskError) {
        if self.core.requests().expected(request_id).is_some() {
            self.core.fail_request(request_id, reason);
        }
    }

    /// The actor that waits for an open request of this loop; `None` if none does.
    pub fn owner(&mut self, request_id: RequestId) -> Option<Key> {
        self.core.requests().owner(request_id)
    }

    /// Whether a request is open.
    pub fn is_open(&mut self, request_id: RequestId) -> bool {
        self.core.requests().is_open(request_id)
    }
}

/// Signals to the actors of a loop, and its monitors.
pub struct ActorSignals<'a> {
    core: &'a mut Core,
}

impl ActorSignals<'_> {
    /// Which signals an actor of this loop accepts from actors of other nodes.
    pub fn signal_policy_of(&self, key: Key) -> SignalPolicy {
        self.core.signal_policy_of(key)
    }

    /// Adds a monitor: `watcher`, on another node, receives a [`Down`] when `target`, of this loop, ends.
    pub fn add_watcher(&mut self, target: Key, id: MonitorId, watcher: ActorId) {
        self.core.add_watcher(target, id, watcher);
    }

    /// Refuses a monitor: sends `watcher`, on another node, a [`Down`] of `target` with this reason.
    pub fn refuse_monitor(
        &mut self,
        target: Key,
        id: MonitorId,
        watcher: ActorId,
        reason: ExitReason<EncodedValue>,
    ) {
        self.core.refuse_monitor(target, id, watcher, reason);
    }

    /// Removes a monitor.
    pub fn remove_watcher(&mut self, target: Key, id: MonitorId) {
        self.core.remove_watcher(target, id);
    }

    /// Prepares `watcher`, of this loop, for a [`Down`] of the monitor `id` when `actor`, on another node, ends.
    ///
    /// False when `watcher` has exited, or other actors have requested the maximum of notifications for it. Then this
    /// acts as [`ActorSignals::refuse_notify`].
    pub fn expect_down(&mut self, watcher: Key, id: MonitorId, actor: ActorId) -> bool {
        self.core.expect_down(watcher, id, actor)
    }

    /// Refuses a notification that `actor` requested: `watcher`, of this loop, receives a [`Down`] with
    /// [`ExitReason::Refused`] if its mailbox has room for a message. Otherwise a dead letter is counted.
    pub fn refuse_notify(&mut self, watcher: Key, actor: ActorId) {
        self.core.refuse_notify(watcher, actor);
    }

    /// Sends `watcher`, of this loop, a [`Down`]: `actor`, on another node, has exited. Each monitor causes at most one.
    pub fn down(&mut self, watcher: Key, id: MonitorId, actor: ActorId, reason: ExitReason<EncodedValue>) {
        self.core.down(watcher, id, actor, reason.map(Value::from));
    }

    /// Sends `watcher`, of this loop, an [`Event::Down`](crate::Event::Down) for `actor` without a monitor, for
    /// example when a subscription is refused. False when `watcher` has exited, or its mailbox holds twice its maximum of messages.
    pub fn push_down(&mut self, watcher: Key, actor: ActorId, reason: ExitReason<EncodedValue>) -> bool {
        let reason = reason.map(Value::from);
        !self.core.holds(watcher, 2)
            && self.core.push_system(watcher, SystemEvent::Down(Down { actor, reason }))
    }

    /// Throws an exception into an actor of this loop. False when the actor has exited, or its mailbox holds three times
    /// its maximum of messages.
    pub fn throw(&mut self, target: Key, value: EncodedValue) -> bool {
        !self.core.holds(target, URGENT_TIMES) && {
            let thrown = self.core.metered(SystemEvent::Thrown(value.into()));
            self.core.push_system(target, thrown)
        }
    }

    /// Resumes an actor of this loop. False when the actor has exited, or its mailbox holds three times its maximum of
    /// messages.
    pub fn resume(&mut self, target: Key, value: EncodedValue) -> bool {
        !self.core.holds(target, URGENT_TIMES) && {
            let resumed = self.core.metered(SystemEvent::Resumed(value.into()));
            self.core.push_system(target, resumed)
        }
    }

    /// Terminates an actor within this time: see [`Cx::terminate`](crate::Cx::terminate).
    pub fn terminate_within(&mut self, target: impl Into<ActorId>, grace: Duration) {
        self.core.terminate(target.into(), grace);
    }

    /// Ends an actor, on any node, without a further step: see [`Cx::kill`](crate::Cx::kill).
    pub fn kill(&mut self, target: impl Into<ActorId>) {
        self.core.kill(target.into());
    }
}
