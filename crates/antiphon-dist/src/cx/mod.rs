//! The methods that a node adds to the context of its actors.

mod verbs;

use std::path::Path;
use std::time::Duration;

use antiphon_sched::{Actor, ActorId, Addr, Cx, Event, LoopRef, NodeId, Step, TooManyAdapters, Wire};

use crate::access::{AccessError, AccessPolicy};
use crate::error::{
    CallError, CloseError, DeliverError, LocateError, PeerError, PeerStatus, RegisterError, SubscribeError,
    UnknownNode, UnknownPeer,
};
use crate::location::{Ignored, Location, PeerAt, PeerOptions};
use crate::node::{Counts, NameCursor, NamePage, PeerCursor, PeerPage, Space};
use crate::service::channel::{Channel, Subscriber};
use crate::service::file::{DeleteError, FileError, FileOptions, Progress, Stored, Transfer};
use crate::service::rci::Rci;

/// A type that can be located by a name: an address, a channel, an RCI or a service.
///
/// Each of the four has a namespace of its own. In a lookup, the argument type of `answer` chooses the namespace.
pub trait Named: Copy + sealed::SealedName + 'static {
    #[doc(hidden)]
    const SPACE: Space;

    /// The type name on which both sides of a lookup must agree.
    #[doc(hidden)]
    fn tag(loop_ref: &mut LoopRef<'_>) -> &'static str;

    #[doc(hidden)]
    fn from_id(id: ActorId) -> Self;
}

impl<M: Wire> Named for Addr<M> {
    const SPACE: Space = Space::Actor;

    fn tag(loop_ref: &mut LoopRef<'_>) -> &'static str {
        loop_ref.service().type_name_of::<M>()
    }

    fn from_id(id: ActorId) -> Self {
        Self::of(id)
    }
}

pub(crate) mod sealed {
    pub trait SealedName {}
    impl<M> SealedName for antiphon_sched::Addr<M> {}
}

/// A subscription to the statuses of peers.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Watch(Addr<PeerStatus>);

/// The methods of a node for its actors. In a loop without a node, each returns or answers an error, or does nothing.
pub trait NetCx<M: 'static> {
    /// The location at which this node accepts connections; `None` in a loop without a node.
    fn location(&mut self) -> Option<Location>;

    /// The location of a node.
    ///
    /// # Errors
    /// No location of the node is known here.
    fn location_of(&mut self, node: NodeId) -> Result<Location, UnknownNode>;

    /// Registers this actor under a name, so that actors of this node and of peers can locate it. The name is
    /// unregistered when the actor exits.
    ///
    /// A name is unique on its node only. If several nodes register it, a lookup finds that of its own node, or else the first
    /// that answers; a node that notices logs a warning with both. [`NetCx::locate_all`] finds all of them.
    ///
    /// # Errors
    /// Another actor of this node has the name, the name is not valid, or there are too many names.
    fn register(&mut self, name: &str) -> Result<(), RegisterError>
    where
        M: Wire;

    /// Unregisters a name of this actor.
    ///
    /// # Errors
    /// The name is not registered, or another actor registered it.
    fn unregister(&mut self, name: &str) -> Result<(), RegisterError>;

    /// Sets which peers may reach an actor of this node (by its address), a channel or an RCI. To all other peers the actor
    /// does not exist from then on, and lookups do not find its name. The policy belongs to the actor, so it applies to
    /// all its addresses. A policy that is set in the same step in which a name is registered applies before any peer
    /// can find the name.
    ///
    /// The actors that an RCI starts begin with the policy that the RCI has at that time. Existing subscriptions to a
    /// channel and existing monitors of an actor stay.
    ///
    /// # Errors
    /// The actor is on another node or has exited, or the policy is by certificates and the node has no TLS.
    fn allow(&mut self, target: impl Into<ActorId>, access: AccessPolicy) -> Result<(), AccessError>;

    /// Locates a name: on this node first, then at all peers, including peers that connect later, until the timeout.
    fn locate<T: Named>(
        &mut self,
        name: &str,
        timeout: Duration,
        answer: impl FnOnce(Result<T, LocateError>) -> M + 'static,
    );

    /// Locates a name at the node at one location. Connects to the node if it is not connected.
    fn locate_at<T: Named>(
        &mut self,
        name: &str,
        location: Location,
        timeout: Duration,
        answer: impl FnOnce(Result<T, LocateError>) -> M + 'static,
    );

    /// Collects all registrations of a name, on this node and at peers, until the timeout.
    fn locate_all<T: Named>(
        &mut self,
        name: &str,
        timeout: Duration,
        answer: impl FnOnce(Result<Vec<T>, LocateError>) -> M + 'static,
    );

    /// Locates a node by its name. Waits until the timeout for it to connect.
    fn locate_node(
        &mut self,
        name: &str,
        timeout: Duration,
        answer: impl FnOnce(Result<Location, LocateError>) -> M + 'static,
    );

    /// Sends a message and asks for a receipt. The answer is whether the message is in the mailbox, was refused, or may
    /// have been lost.
    fn deliver<T: 'static>(
        &mut self,
        to: Addr<T>,
        message: T,
        timeout: Duration,
        answer: impl FnOnce(Result<(), DeliverError>) -> M + 'static,
    );

    /// Opens a channel under a name. It stays open until it is closed or the node ends.
    ///
    /// Messages from one sender to one receiver keep their order. A channel is a receiver and a sender of its own. So a
    /// message that is sent through a channel can reach a subscriber after later messages that the same sender sent to
    /// the subscriber directly, and after the sender's `Down`.
    ///
    /// # Errors
    /// The node has a channel of that name, the name is not valid, or there are too many names.
    fn channel<T: Wire + Clone>(&mut self, name: &str) -> Result<Channel<T>, RegisterError>;

    /// As [`NetCx::channel`], with a transform: the channel sends what `transform` returns for each message, or drops the
    /// message if it returns `None`. The first argument of `transform` is the name of the channel. If it panics, the
    /// message is dropped; the channel continues.
    ///
    /// # Errors
    /// As [`NetCx::channel`].
    fn channel_with<T: Wire + Clone>(
        &mut self,
        name: &str,
        transform: impl FnMut(&str, T) -> Option<T> + 'static,
    ) -> Result<Channel<T>, RegisterError>;

    /// Unregisters the name of a channel that this actor opened. The channel stays open.
    ///
    /// # Errors
    /// There is no channel of that name, or another actor opened it.
    fn unregister_channel(&mut self, name: &str) -> Result<(), RegisterError>;

    /// Closes a channel. Each subscribed actor receives one `Event::Down` with the channel's id. Messages that are sent to
    /// the channel from then on are dead letters.
    fn close_channel<T>(&mut self, channel: Channel<T>);

    /// Subscribes an actor or another channel to a channel. An actor can also be given by the address of an adapter; a
    /// channel forwards the messages to its own subscribers. A second subscription of the same subscriber has no effect.
    /// When an actor exits, its subscriptions end. One channel can be subscribed to another only by an actor on the node
    /// of one of them.
    ///
    /// If the subscription is refused or the channel is closed, the subscribed actor receives one `Event::Down` with the
    /// channel's id (`down.actor == channel.id()`), in addition to any `Down` of its monitors. An actor that is neither
    /// on this node nor on the node of the channel receives no such `Down`, and each message crosses the network once
    /// more for it. For the order of messages see [`NetCx::channel`].
    ///
    /// A subscriber without room in its mailbox, or in the queue to it, misses messages. It receives their exact number as
    /// [`Event::Lagged`], before the next message of the channel that it gets. By [`EndOnLag`](crate::EndOnLag) its
    /// subscription ends instead. The latest subscription of the same subscriber decides which.
    fn subscribe<T: Wire + Clone>(&mut self, channel: Channel<T>, subscriber: impl Subscriber<T>);

    /// As [`NetCx::subscribe`], with an answer. After the answer `Ok`, the subscriber receives, or counts as missed, all
    /// messages that are sent to the channel. If the subscription is refused, the answer is the error, and no `Down` follows.
    fn subscribe_within<T: Wire + Clone>(
        &mut self,
        channel: Channel<T>,
        subscriber: impl Subscriber<T>,
        timeout: Duration,
        answer: impl FnOnce(Result<(), SubscribeError>) -> M + 'static,
    );

    /// Ends a subscription. Only the node that made it can end it. Messages that were sent before may still arrive.
    fn unsubscribe<T: Wire + Clone>(&mut self, channel: Channel<T>, subscriber: impl Subscriber<T>);

    /// Sends a message to a channel once it has `n` subscribers; with 0, at once. The answer is the number of actors that
    /// have the message in their mailboxes, including the subscribers of subscribed channels. A subscriber without room misses
    /// the message, as one of `send`. Messages that are sent later
    /// can overtake a message that waits for subscribers. The answer comes within `timeout` and one second. At a channel of
    /// another node, up to 64 deliveries of this node can wait for subscribers, each for up to a day.
    fn deliver_all<T: Wire>(
        &mut self,
        channel: Channel<T>,
        message: T,
        n: usize,
        timeout: Duration,
        answer: impl FnOnce(Result<usize, DeliverError>) -> M + 'static,
    );

    /// Sends a file to the node at a location. Connects to the node if it is not connected. The node needs a
    /// [`dest_path`](crate::Config::dest_path). The answer comes when the complete file is on the disk of that node, or the
    /// transfer has failed. An existing file is replaced only by the complete new one. The transfer ends when this actor
    /// exits.
    ///
    /// If a transfer was interrupted, on either side, it resumes where it stopped when the same file is sent again.
    fn send_file(
        &mut self,
        to: Location,
        file: impl AsRef<Path>,
        options: FileOptions,
        timeout: Duration,
        answer: impl FnOnce(Result<Stored, FileError>) -> M + 'static,
    ) -> Transfer;

    /// Sends the progress of a transfer of this node to this actor, each time `every` has passed (at least 10 ms), and at
    /// the end of the transfer.
    ///
    /// # Errors
    /// This actor has as many adapters as it may.
    fn progress(
        &mut self,
        transfer: Transfer,
        every: Duration,
        each: impl FnMut(Progress) -> M + 'static,
    ) -> Result<(), TooManyAdapters>;

    /// Ends a transfer of this node. Its answer is [`FileError::Cancelled`], unless it was answered already.
    fn cancel_transfer(&mut self, transfer: Transfer);

    /// Deletes a file below the `dest_path` of the node at a location. The file must have come there from a peer, and must
    /// not have changed since.
    fn del_file(
        &mut self,
        at: Location,
        file: impl AsRef<Path>,
        dir: impl AsRef<Path>,
        timeout: Duration,
        answer: impl FnOnce(Result<(), DeleteError>) -> M + 'static,
    );

    /// Registers an RCI: a function that makes an actor (a closure) from arguments. Actors on all nodes can call it; the
    /// new actor starts on this node. The RCI stays registered until it is unregistered or the node ends. The actors that
    /// it starts are ordinary ones: they keep the node running until they exit.
    ///
    /// # Errors
    /// The node has an RCI of that name, the name is not valid, or there are too many names.
    fn rci<A: Wire, T: Wire, F>(
        &mut self,
        name: &str,
        function: impl FnMut(A) -> F + 'static,
    ) -> Result<Rci<A, T>, RegisterError>
    where
        F: FnMut(&mut Cx<'_, T>, Event<T>) -> Step<T> + 'static;

    /// As [`NetCx::rci`], for all types that implement [`Actor`]: structs, boxes.
    ///
    /// # Errors
    /// As [`NetCx::rci`].
    fn rci_actor<A: Wire, T: Wire, W: Actor<T>>(
        &mut self,
        name: &str,
        function: impl FnMut(A) -> W + 'static,
    ) -> Result<Rci<A, T>, RegisterError>;

    /// Unregisters an RCI that this actor registered, so that it can no longer be called. The actors that it started
    /// continue.
    ///
    /// # Errors
    /// There is no RCI of that name, or another actor registered it.
    fn unregister_rci(&mut self, name: &str) -> Result<(), RegisterError>;

    /// Calls an RCI: starts an actor on the node of the RCI. The answer is the address of the new actor.
    fn call<A: Wire, T: Wire>(
        &mut self,
        rci: Rci<A, T>,
        arguments: A,
        timeout: Duration,
        answer: impl FnOnce(Result<Addr<T>, CallError>) -> M + 'static,
    );

    /// As [`NetCx::call`], with a monitor that is set before the first step of the new actor: `watcher` receives one
    /// `Event::Down` when the new actor exits, however soon. If the call is refused, `watcher` receives nothing. A watcher
    /// on another node must be known to the node of the RCI.
    fn call_monitored<A: Wire, T: Wire>(
        &mut self,
        rci: Rci<A, T>,
        arguments: A,
        watcher: impl Into<ActorId>,
        timeout: Duration,
        answer: impl FnOnce(Result<Addr<T>, CallError>) -> M + 'static,
    );

    /// The locations of the peers that are reachable.
    fn peers(&mut self) -> Vec<Location>;

    /// The counters of the node; all 0 in a loop without a node.
    fn counts(&mut self) -> Counts;

    /// Some of the nodes that this one knows, from `from` on; see [`NetHandle::peer_infos`](crate::NetHandle::peer_infos).
    fn peer_infos(&mut self, from: Option<PeerCursor>) -> PeerPage;

    /// Some of the names of this node, from `from` on; see [`NetHandle::name_infos`](crate::NetHandle::name_infos).
    fn name_infos(&mut self, from: Option<NameCursor>) -> NamePage;

    /// Connects to the node at a location, or to all nodes on a host if the port is 0. It is enough if one of two nodes
    /// does this. The answer is the locations of the connected nodes; for a host, of the nodes that were found within some
    /// hundred milliseconds.
    fn peer(
        &mut self,
        at: impl Into<PeerAt>,
        timeout: Duration,
        answer: impl FnOnce(Result<Vec<Location>, PeerError>) -> M + 'static,
    );

    /// As [`NetCx::peer`], with options.
    fn peer_with(
        &mut self,
        at: impl Into<PeerAt>,
        options: PeerOptions,
        timeout: Duration,
        answer: impl FnOnce(Result<Vec<Location>, PeerError>) -> M + 'static,
    );

    /// Sets whether the connections with the peers at a location stay open while nothing is sent; see
    /// [`Config::stream_send`](crate::Config::stream_send). Port 0 stands for all known peers on the host.
    ///
    /// # Errors
    /// No peer is known at the location, or this loop has no node.
    fn stream_send(&mut self, at: Location, streams: bool) -> Result<(), UnknownPeer>;

    /// Ends the session with the peer at a location by a goodbye. First waits until the peer has acknowledged all that was
    /// sent to it, or until the timeout. Everything that is open with the peer is answered as for a lost node. Afterwards
    /// neither node dials the other by itself, even if its configuration names it, and each ignores the other's
    /// announcements, until an actor of either node uses the other by `peer`, `locate_at` or a message. For a peer that is
    /// closed already, the answer is `Ok`.
    fn close_peer(
        &mut self,
        at: Location,
        timeout: Duration,
        answer: impl FnOnce(Result<(), CloseError>) -> M + 'static,
    );

    /// Sets which nodes this node ignores, in addition to those of the configuration; see [`Ignored`]. Sessions with nodes
    /// at ignored addresses end with a goodbye.
    fn ignore_peers(&mut self, ignored: impl Into<Ignored>);

    /// Sends each change of a peer's status to this actor, beginning with the status of each reachable peer.
    ///
    /// # Errors
    /// This actor has as many adapters as it may.
    fn peer_status(&mut self, each: impl FnMut(PeerStatus) -> M + 'static) -> Result<Watch, TooManyAdapters>;

    /// Ends a subscription to the statuses of peers.
    fn unwatch(&mut self, watch: Watch);
}
