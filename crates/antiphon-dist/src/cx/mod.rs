//! What an actor of a node can do besides what any actor can.

mod node_ref;
mod verbs;

use std::path::Path;
use std::time::Duration;

use antiphon_sched::{Actor, ActorId, Addr, Cx, Event, LoopRef, NodeId, Step, Wire};

use crate::access::{AccessError, AccessPolicy};
use crate::channels::{Channel, Subscriber};
use crate::error::{
    CallError, CloseError, DeliverError, LocateError, PeerError, PeerStatus, RegisterError, SubscribeError,
    UnknownNode, UnknownPeer,
};
use crate::files::{DeleteError, FileError, FileOptions, Progress, Stored, Transfer};
use crate::location::{Ignored, Location, PeerAt, PeerOptions};
use crate::node::Space;
use crate::rci::Rci;

pub(crate) use node_ref::{allow, may_log, node_mut, register};

/// What a name can stand for: an address, a channel or an RCI. The constructor's type picks it, and with it one of
/// three spaces of names, which never meet.
pub trait Named: Copy + sealed::SealedName + 'static {
    #[doc(hidden)]
    const SPACE: Space;

    /// The name of the type that the users of it agree on.
    #[doc(hidden)]
    fn tag(loop_ref: &mut LoopRef<'_>) -> &'static str;

    #[doc(hidden)]
    fn from_found(id: ActorId) -> Self;
}

impl<M: Wire> Named for Addr<M> {
    const SPACE: Space = Space::Actor;

    fn tag(loop_ref: &mut LoopRef<'_>) -> &'static str {
        loop_ref.tag_of::<M>()
    }

    fn from_found(id: ActorId) -> Self {
        Self::of(id)
    }
}

pub(crate) mod sealed {
    pub trait SealedName {}
    impl<M> SealedName for antiphon_sched::Addr<M> {}
}

/// A watch over peers that was set.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Watch(Addr<PeerStatus>);

/// The verbs of a node, for its actors. In a loop by itself each answers that there is no node.
pub trait NetCx<M: 'static> {
    /// Where this node takes connections; `None` in a loop by itself.
    fn location(&mut self) -> Option<Location>;

    /// Where a node is.
    ///
    /// # Errors
    /// It is not known here.
    fn location_of(&mut self, node: NodeId) -> Result<Location, UnknownNode>;

    /// Registers this actor under a name, for actors here and at peers. It is freed when the actor ends.
    ///
    /// # Errors
    /// Another actor of this node has the name, it is no name, or there are too many.
    fn register(&mut self, name: &str) -> Result<(), RegisterError>
    where
        M: Wire;

    /// Takes a name of this actor's back.
    ///
    /// # Errors
    /// The name is not registered, or by another actor.
    fn unregister(&mut self, name: &str) -> Result<(), RegisterError>;

    /// Opens an actor of this node (by its address), a channel or an RCI to these peers, and to no others: for those it is from now on
    /// as if there were no such actor, and its name is not told to them. The audience is the actor's, so it holds for all of
    /// its addresses; what it says in the step in which a name is registered holds before anybody hears of the name.
    ///
    /// Actors that an RCI starts are open to whom it was open then. Who has subscribed to a channel before stays
    /// subscribed. The end of an actor is told to those who monitored it before.
    ///
    /// # Errors
    /// It lives elsewhere or has ended, or the audience is by certificates where there is no TLS.
    fn allow(&mut self, what: impl Into<ActorId>, access: AccessPolicy) -> Result<(), AccessError>;

    /// Looks for a name: here first, then at all peers, also those that come later, until the time is over.
    fn locate<T: Named>(
        &mut self,
        name: &str,
        timeout: Duration,
        answer: impl FnOnce(Result<T, LocateError>) -> M + 'static,
    );

    /// Looks for a name at one location, which is dialled if need be.
    fn locate_at<T: Named>(
        &mut self,
        name: &str,
        location: Location,
        timeout: Duration,
        answer: impl FnOnce(Result<T, LocateError>) -> M + 'static,
    );

    /// Collects all that bear the name, here and at peers, until the time is over.
    fn locate_all<T: Named>(
        &mut self,
        name: &str,
        timeout: Duration,
        answer: impl FnOnce(Result<Vec<T>, LocateError>) -> M + 'static,
    );

    /// Looks for a node by its name, and waits for it.
    fn locate_node(
        &mut self,
        name: &str,
        timeout: Duration,
        answer: impl FnOnce(Result<Location, LocateError>) -> M + 'static,
    );

    /// Sends a message, and has told what became of it: in the mailbox, refused, or not known.
    fn deliver<T: 'static>(
        &mut self,
        to: Addr<T>,
        message: T,
        timeout: Duration,
        answer: impl FnOnce(Result<(), DeliverError>) -> M + 'static,
    );

    /// Opens a channel under a name. It lives until it is closed, or the node ends.
    ///
    /// Order holds from one sender to one receiver, and a channel is a receiver and a sender of its own: what goes
    /// through it may reach a subscriber after messages that the sender sent there itself later, or after the sender's
    /// `Down`.
    ///
    /// # Errors
    /// The node has a channel of that name, it is no name, or there are too many.
    fn channel<T: Wire + Clone>(&mut self, name: &str) -> Result<Channel<T>, RegisterError>;

    /// As [`NetCx::channel`]; each message is passed on as `transform` makes it, or dropped if it answers `None`. It
    /// is told the channel's name. A panic in it costs the message, and nothing else.
    ///
    /// # Errors
    /// As [`NetCx::channel`].
    fn channel_with<T: Wire + Clone>(
        &mut self,
        name: &str,
        transform: impl FnMut(&str, T) -> Option<T> + 'static,
    ) -> Result<Channel<T>, RegisterError>;

    /// Takes the name of a channel back that this actor has opened; the channel stays open for who knows it.
    ///
    /// # Errors
    /// There is no channel of that name, or another actor has opened it.
    fn unregister_channel(&mut self, name: &str) -> Result<(), RegisterError>;

    /// Closes a channel: each actor that has subscribed is told by one `Event::Down` with the channel's id, and
    /// what is sent to it from now on is a dead letter.
    fn close_channel<T>(&mut self, channel: Channel<T>);

    /// Has `subscriber` receive what is sent to a channel: an actor (also by an address that `adapter` made), or
    /// another channel, which passes it on. Doing so twice is doing it once; an actor's end ends its subscriptions. One
    /// channel is subscribed to another by an actor on the node of either.
    ///
    /// An actor is told of a refusal, or of the channel's end, by one `Event::Down` with the channel's id. (One that
    /// lives neither on this node nor on the channel's is told of nothing, and costs a copy of its own.) That `Down` is
    /// the subscription's own (`down.actor == channel.id()`), besides those of monitors. On order, see
    /// [`NetCx::channel`].
    fn subscribe<T: Wire + Clone>(&mut self, channel: Channel<T>, subscriber: impl Subscriber<T>);

    /// As [`NetCx::subscribe`], with an answer: from then on everything that is sent to the channel comes. A refusal
    /// is told by the answer alone.
    fn subscribe_within<T: Wire + Clone>(
        &mut self,
        channel: Channel<T>,
        subscriber: impl Subscriber<T>,
        timeout: Duration,
        answer: impl FnOnce(Result<(), SubscribeError>) -> M + 'static,
    );

    /// Ends a subscription, from the node that made it; what is under way may still come.
    fn unsubscribe<T: Wire + Clone>(&mut self, channel: Channel<T>, subscriber: impl Subscriber<T>);

    /// Sends a message to a channel once there are `n` subscribers (0: at once, to those there are), and has told
    /// how many actors have it in their mailboxes, behind all channels below. While it waits for subscribers, what is
    /// sent later overtakes it. The answer comes a second after `timeout` at the latest. At a channel of another node,
    /// 64 deliveries of this node may wait for subscribers, each for a day.
    fn deliver_all<T: Wire>(
        &mut self,
        channel: Channel<T>,
        message: T,
        n: usize,
        timeout: Duration,
        answer: impl FnOnce(Result<usize, DeliverError>) -> M + 'static,
    );

    /// Sends a file to the node at a location, which is contacted first if need be; it needs a
    /// [`dest_path`](crate::Config::dest_path). The answer comes when the file is on its disk, whole, or is not; what was
    /// there before stays whole until then. The transfer ends with this actor.
    ///
    /// A transfer that was interrupted, at either end, goes on where it stopped when the file is sent there again.
    fn send_file(
        &mut self,
        to: Location,
        file: impl AsRef<Path>,
        options: FileOptions,
        timeout: Duration,
        answer: impl FnOnce(Result<Stored, FileError>) -> M + 'static,
    ) -> Transfer;

    /// Has this actor told, now and then and at its end, how far a transfer of this node is; not oftener than every 10 ms.
    fn progress(&mut self, transfer: Transfer, every: Duration, each: impl FnMut(Progress) -> M + 'static);

    /// Ends a transfer of this node, which then answers [`FileError::Cancelled`] unless it is over.
    fn cancel_transfer(&mut self, transfer: Transfer);

    /// Deletes a file beneath the `dest_path` of the node at a location, if it is one that came there from a peer, and was
    /// not changed since.
    fn del_file(
        &mut self,
        at: Location,
        file: impl AsRef<Path>,
        dir: impl AsRef<Path>,
        timeout: Duration,
        answer: impl FnOnce(Result<(), DeleteError>) -> M + 'static,
    );

    /// Registers a function from arguments to actors (closures), which callers on all nodes can have started here. It
    /// stays until it is unregistered, or the node ends. The actors that it starts are ordinary ones: they keep the node
    /// running until they end.
    ///
    /// # Errors
    /// The node has an RCI of that name, it is no name, or there are too many.
    fn rci<A: Wire, T: Wire, F>(
        &mut self,
        name: &str,
        function: impl FnMut(A) -> F + 'static,
    ) -> Result<Rci<A, T>, RegisterError>
    where
        F: FnMut(&mut Cx<'_, T>, Event<T>) -> Step<T> + 'static;

    /// As [`NetCx::rci`], for anything that is an actor: structs, boxes.
    ///
    /// # Errors
    /// As [`NetCx::rci`].
    fn rci_actor<A: Wire, T: Wire, W: Actor<T>>(
        &mut self,
        name: &str,
        function: impl FnMut(A) -> W + 'static,
    ) -> Result<Rci<A, T>, RegisterError>;

    /// Takes a function back that this actor has registered: it can be called no more. Actors that it started go on.
    ///
    /// # Errors
    /// There is no RCI of that name, or another actor has registered it.
    fn unregister_rci(&mut self, name: &str) -> Result<(), RegisterError>;

    /// Has an actor started by a registered function, on the function's node; its address is the answer.
    fn call<A: Wire, T: Wire>(
        &mut self,
        rci: Rci<A, T>,
        arguments: A,
        timeout: Duration,
        answer: impl FnOnce(Result<Addr<T>, CallError>) -> M + 'static,
    );

    /// As [`NetCx::call`], with a monitor from birth: `watcher` is told by one `Event::Down` how the new actor ends,
    /// however soon. If the call is refused, it is told nothing. A watcher elsewhere must be known to the function's
    /// node.
    fn call_monitored<A: Wire, T: Wire>(
        &mut self,
        rci: Rci<A, T>,
        arguments: A,
        watcher: impl Into<ActorId>,
        timeout: Duration,
        answer: impl FnOnce(Result<Addr<T>, CallError>) -> M + 'static,
    );

    /// Where the peers are that are there.
    fn peers(&mut self) -> Vec<Location>;

    /// Contacts the node at a location, or all nodes on a host when the port is 0. It is needed on one side only. The
    /// answer tells where nodes are connected; of a host, those that were found within some hundred milliseconds.
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

    /// Whether the connections with the peers at a location are kept while nothing is sent, from now on; see
    /// [`Config::stream_send`](crate::Config::stream_send). Port 0 stands for all that are known on the host.
    ///
    /// # Errors
    /// No peer is known there, or there is no node.
    fn stream_send(&mut self, at: Location, streams: bool) -> Result<(), UnknownPeer>;

    /// Ends the session with the peer at a location, with goodbye, when all that was sent to it has arrived, or the time
    /// is over. Everything open on it is answered, as when a node is lost. Afterwards neither side dials the other by
    /// itself, also if it is configured to, nor heeds its announcements, until an actor of either contacts the other:
    /// by `peer`, `locate_at`, or a message. A peer that is closed already is closed.
    fn close_peer(
        &mut self,
        at: Location,
        timeout: Duration,
        answer: impl FnOnce(Result<(), CloseError>) -> M + 'static,
    );

    /// Ignores nodes from now on, besides those of the configuration: `true`, all that are no peers yet, unless this node
    /// contacts them; addresses, all nodes there, whose sessions end with goodbye; `false`, nobody more.
    fn ignore_peers(&mut self, whom: impl Into<Ignored>);

    /// Has this actor told of every peer that comes, is suspected or goes; first of each that is there.
    fn peer_status(&mut self, each: impl FnMut(PeerStatus) -> M + 'static) -> Watch;

    /// Ends a watch.
    fn unwatch(&mut self, watch: Watch);
}
