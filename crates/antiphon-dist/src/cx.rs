//! What an actor of a node can do besides what any actor can.

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use antiphon_sched::{
    Actor, ActorId, Addr, Cx, Door, Event, Key, Manner, NodeId, PortId, Step, Target, Wire,
};

use crate::audience::{Audience, AudienceError};
use crate::channels::{self, Channel, Subscriber};
use crate::error::{
    CallError, CloseError, DeliverError, LocateError, PeerError, PeerStatus, RegisterError, SubscribeError,
    UnknownNode, UnknownPeer,
};
use crate::files::{self, DeleteError, FileError, FileOptions, Progress, Stored, Transfer};
use crate::location::{Ignored, Location, PeerAt, PeerOptions};
use crate::node::{FoundName, Looked, NodeCore, Space, settle};
use crate::rci::{self, Rci};

/// What a name can stand for: an address, a channel or an RCI. The constructor's type picks it, and with it one of
/// three spaces of names, which never meet.
pub trait Named: Copy + sealed::Sealed + 'static {
    #[doc(hidden)]
    const SPACE: Space;

    /// The name of the type that the users of it agree on.
    #[doc(hidden)]
    fn tag(door: &mut Door<'_>) -> &'static str;

    #[doc(hidden)]
    fn from_found(id: ActorId) -> Self;
}

impl<M: Wire> Named for Addr<M> {
    const SPACE: Space = Space::Actor;

    fn tag(door: &mut Door<'_>) -> &'static str {
        door.tag_of::<M>()
    }

    fn from_found(id: ActorId) -> Self {
        Self::of(id)
    }
}

pub(crate) mod sealed {
    pub trait Sealed {}
    impl<M> Sealed for antiphon_sched::Addr<M> {}
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
    fn open_to(&mut self, what: impl Into<ActorId>, audience: Audience) -> Result<(), AudienceError>;

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

    /// Has `subscriber` receive what is sent to a channel: an actor (also by an address that `me_as` made), or
    /// another channel, which passes it on. Doing so twice is doing it once; an actor's end ends its subscriptions. One
    /// channel is subscribed to another by an actor on the node of either.
    ///
    /// An actor is told of a refusal, or of the channel's end, by one `Event::Down` with the channel's id. (One that
    /// lives neither on this node nor on the channel's is told of nothing, and costs a copy of its own.) That `Down` is
    /// the subscription's own (`down.who == channel.id()`), besides those of monitors. On order, see
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

impl<M: 'static> NetCx<M> for Cx<'_, M> {
    fn location(&mut self) -> Option<Location> {
        node(self).map(|node| node.location())
    }

    fn location_of(&mut self, node_id: NodeId) -> Result<Location, UnknownNode> {
        node(self).ok_or(UnknownNode { node: node_id })?.location_of(node_id)
    }

    fn register(&mut self, name: &str) -> Result<(), RegisterError>
    where
        M: Wire,
    {
        let (me, tag) = (self.me(), self.door().tag_of::<M>());
        register(self.door(), (Space::Actor, name), me, tag, Some(me.id().key()))
    }

    fn unregister(&mut self, name: &str) -> Result<(), RegisterError> {
        let me: Key = self.id().key();
        node(self).ok_or(RegisterError::NoNode)?.unregister(Space::Actor, name, Some(me))?;
        Ok(())
    }

    fn open_to(&mut self, what: impl Into<ActorId>, audience: Audience) -> Result<(), AudienceError> {
        open_to(self.door(), what.into(), audience)
    }

    fn locate<T: Named>(
        &mut self,
        name: &str,
        timeout: Duration,
        answer: impl FnOnce(Result<T, LocateError>) -> M + 'static,
    ) {
        locate(self, name, None, timeout, answer);
    }

    fn locate_at<T: Named>(
        &mut self,
        name: &str,
        location: Location,
        timeout: Duration,
        answer: impl FnOnce(Result<T, LocateError>) -> M + 'static,
    ) {
        locate(self, name, Some(location), timeout, answer);
    }

    fn locate_all<T: Named>(
        &mut self,
        name: &str,
        timeout: Duration,
        answer: impl FnOnce(Result<Vec<T>, LocateError>) -> M + 'static,
    ) {
        let all = |found: Vec<FoundName>| found.into_iter().map(|found| T::from_found(found.id)).collect();
        let tag = T::tag(self.door());
        request(
            self,
            LocateError::TooManyOpen,
            LocateError::NoNode,
            move |found: Result<Vec<FoundName>, LocateError>| answer(found.map(all)),
            |core, port| core.locate_all(port, (T::SPACE, name), tag, timeout).err().map(Err),
        );
    }

    fn locate_node(
        &mut self,
        name: &str,
        timeout: Duration,
        answer: impl FnOnce(Result<Location, LocateError>) -> M + 'static,
    ) {
        request(self, LocateError::TooManyOpen, LocateError::NoNode, answer, |core, port| {
            core.locate_node(port, name, timeout)
        });
    }

    fn deliver<T: 'static>(
        &mut self,
        to: Addr<T>,
        message: T,
        timeout: Duration,
        answer: impl FnOnce(Result<(), DeliverError>) -> M + 'static,
    ) {
        let port = match self.open(answer) {
            Ok(port) => port,
            Err(answer) => return self.hand_self(answer(Err(DeliverError::TooManyOpen))),
        };
        let here = to.node() == self.id().node();
        match to.put(self.door(), message, Manner::Receipt(port)) {
            Ok(()) if here => settle(self.door(), port, Ok::<(), DeliverError>(())),
            Ok(()) => {
                if let Some(core) = node(self) {
                    core.time_receipt(port, timeout);
                }
            }
            Err(error) => settle(self.door(), port, Err::<(), _>(DeliverError::Refused(error.why()))),
        }
    }

    fn channel<T: Wire + Clone>(&mut self, name: &str) -> Result<Channel<T>, RegisterError> {
        let me = self.id().key();
        channels::open(self.door(), name, Some(me), None)
    }

    fn channel_with<T: Wire + Clone>(
        &mut self,
        name: &str,
        transform: impl FnMut(&str, T) -> Option<T> + 'static,
    ) -> Result<Channel<T>, RegisterError> {
        let me = self.id().key();
        channels::open(self.door(), name, Some(me), Some(Box::new(transform)))
    }

    fn unregister_channel(&mut self, name: &str) -> Result<(), RegisterError> {
        let me = self.id().key();
        node(self).ok_or(RegisterError::NoNode)?.unregister(Space::Channel, name, Some(me))?;
        Ok(())
    }

    fn close_channel<T>(&mut self, channel: Channel<T>) {
        self.terminate(channel.id());
    }

    fn subscribe<T: Wire + Clone>(&mut self, channel: Channel<T>, subscriber: impl Subscriber<T>) {
        channels::subscribe(self.door(), channel, subscriber);
    }

    fn subscribe_within<T: Wire + Clone>(
        &mut self,
        channel: Channel<T>,
        subscriber: impl Subscriber<T>,
        timeout: Duration,
        answer: impl FnOnce(Result<(), SubscribeError>) -> M + 'static,
    ) {
        channels::subscribe_within(self, channel, subscriber, timeout, answer);
    }

    fn unsubscribe<T: Wire + Clone>(&mut self, channel: Channel<T>, subscriber: impl Subscriber<T>) {
        channels::unsubscribe(self.door(), channel, subscriber);
    }

    fn deliver_all<T: Wire>(
        &mut self,
        channel: Channel<T>,
        message: T,
        n: usize,
        timeout: Duration,
        answer: impl FnOnce(Result<usize, DeliverError>) -> M + 'static,
    ) {
        channels::deliver_all(self, channel, message, n, timeout, answer);
    }

    fn send_file(
        &mut self,
        to: Location,
        file: impl AsRef<Path>,
        options: FileOptions,
        timeout: Duration,
        answer: impl FnOnce(Result<Stored, FileError>) -> M + 'static,
    ) -> Transfer {
        files::send_file(self, to, file.as_ref(), &options, timeout, answer)
    }

    fn progress(&mut self, transfer: Transfer, every: Duration, each: impl FnMut(Progress) -> M + 'static) {
        files::progress(self, transfer, every, each);
    }

    fn cancel_transfer(&mut self, transfer: Transfer) {
        files::cancel(self, transfer);
    }

    fn del_file(
        &mut self,
        at: Location,
        file: impl AsRef<Path>,
        dir: impl AsRef<Path>,
        timeout: Duration,
        answer: impl FnOnce(Result<(), DeleteError>) -> M + 'static,
    ) {
        files::del_file(self, at, file.as_ref(), dir.as_ref(), timeout, answer);
    }

    fn rci<A: Wire, T: Wire, F>(
        &mut self,
        name: &str,
        function: impl FnMut(A) -> F + 'static,
    ) -> Result<Rci<A, T>, RegisterError>
    where
        F: FnMut(&mut Cx<'_, T>, Event<T>) -> Step<T> + 'static,
    {
        self.rci_actor(name, function)
    }

    fn rci_actor<A: Wire, T: Wire, W: Actor<T>>(
        &mut self,
        name: &str,
        function: impl FnMut(A) -> W + 'static,
    ) -> Result<Rci<A, T>, RegisterError> {
        let me = self.id().key();
        rci::open(self.door(), name, Some(me), function)
    }

    fn unregister_rci(&mut self, name: &str) -> Result<(), RegisterError> {
        let me = self.id().key();
        rci::unregister(self.door(), name, Some(me))
    }

    fn call<A: Wire, T: Wire>(
        &mut self,
        rci: Rci<A, T>,
        arguments: A,
        timeout: Duration,
        answer: impl FnOnce(Result<Addr<T>, CallError>) -> M + 'static,
    ) {
        rci::call(self, rci, arguments, None, timeout, answer);
    }

    fn call_monitored<A: Wire, T: Wire>(
        &mut self,
        rci: Rci<A, T>,
        arguments: A,
        watcher: impl Into<ActorId>,
        timeout: Duration,
        answer: impl FnOnce(Result<Addr<T>, CallError>) -> M + 'static,
    ) {
        rci::call(self, rci, arguments, Some(watcher.into()), timeout, answer);
    }

    fn peers(&mut self) -> Vec<Location> {
        node(self).map(|core| core.online()).unwrap_or_default()
    }

    fn peer(
        &mut self,
        at: impl Into<PeerAt>,
        timeout: Duration,
        answer: impl FnOnce(Result<Vec<Location>, PeerError>) -> M + 'static,
    ) {
        self.peer_with(at, PeerOptions::default(), timeout, answer);
    }

    fn peer_with(
        &mut self,
        at: impl Into<PeerAt>,
        options: PeerOptions,
        timeout: Duration,
        answer: impl FnOnce(Result<Vec<Location>, PeerError>) -> M + 'static,
    ) {
        let at = at.into();
        request(self, PeerError::TooManyOpen, PeerError::NoNode, answer, |core, port| {
            core.contact(port, at, options, timeout)
        });
    }

    fn stream_send(&mut self, at: Location, streams: bool) -> Result<(), UnknownPeer> {
        node(self).ok_or(UnknownPeer { at })?.stream_send(at, streams)
    }

    fn close_peer(
        &mut self,
        at: Location,
        timeout: Duration,
        answer: impl FnOnce(Result<(), CloseError>) -> M + 'static,
    ) {
        request(self, CloseError::TooManyOpen, CloseError::NoNode, answer, |core, port| {
            core.close_peer(port, at, timeout)
        });
    }

    fn ignore_peers(&mut self, whom: impl Into<Ignored>) {
        if let Some(core) = node(self) {
            core.ignore_peers(whom.into());
        }
    }

    fn peer_status(&mut self, each: impl FnMut(PeerStatus) -> M + 'static) -> Watch {
        let ear = self.me_as(each);
        forget_dead_watchers(self);
        let present = node(self).map(|core| core.watch_peers(ear)).unwrap_or_default();
        for status in present {
            self.tell(ear, status);
        }
        Watch(ear)
    }

    fn unwatch(&mut self, watch: Watch) {
        if let Some(core) = node(self) {
            core.unwatch_peers(watch.0);
        }
    }
}

fn node<'c, M: 'static>(cx: &'c mut Cx<'_, M>) -> Option<&'c mut NodeCore> {
    node_behind(cx.door())
}

/// The node that a loop is part of.
pub(crate) fn node_behind<'c>(door: &'c mut Door<'_>) -> Option<&'c mut NodeCore> {
    let now = door.now();
    let core = door.outside::<NodeCore>()?;
    core.advance(now);
    Some(core)
}

/// Whether the log is to be told of this now: whatever peers can bring about is told seldom.
pub(crate) fn may_say(door: &mut Door<'_>, kind: &'static str, about: impl Display) -> bool {
    node_behind(door).is_some_and(|core| core.may_say(kind, about))
}

/// Registers an actor of this loop under a name, opens it to the network, and tells whoever waits for the name.
pub(crate) fn register<M: Wire>(
    door: &mut Door<'_>,
    (space, name): (Space, &str),
    who: Addr<M>,
    tag: &'static str,
    owner: Option<Key>,
) -> Result<(), RegisterError> {
    let core = node_behind(door).ok_or(RegisterError::NoNode)?;
    let waiting = core.register((space, name), who.id().key(), tag, owner)?;
    if !door.expose(who) {
        // It was ended within this very step: nobody would take the name back later.
        node_behind(door).ok_or(RegisterError::NoNode)?.unregister(space, name, owner)?;
    }
    for port in waiting {
        let found: Result<FoundName, LocateError> = Ok(FoundName { id: who.id() });
        settle(door, port, found);
    }
    Ok(())
}

/// Opens an actor of this loop to these peers, and to no others.
pub(crate) fn open_to(door: &mut Door<'_>, what: ActorId, audience: Audience) -> Result<(), AudienceError> {
    let is_here = what.node() == door.home();
    node_behind(door).ok_or(AudienceError::NoNode)?.check_audience(&audience)?;
    if !is_here {
        return Err(AudienceError::Elsewhere);
    }
    let actor = door.owner_of(what.key());
    if !door.is_alive(actor) {
        return Err(AudienceError::Ended);
    }
    if !audience.is_everybody() {
        door.tell_end(actor);
    }
    node_behind(door).ok_or(AudienceError::NoNode)?.set_audience(actor, audience);
    Ok(())
}

/// Watchers that have ended are forgotten before the table of them grows beyond a power of two.
fn forget_dead_watchers<M: 'static>(cx: &mut Cx<'_, M>) {
    let watchers = node(cx).map(|core| core.peer_watchers().to_vec()).unwrap_or_default();
    if watchers.len().is_power_of_two() {
        let dead = watchers.into_iter().filter(|watcher| !cx.door().is_alive(watcher.id().key()));
        let dead: Vec<Addr<PeerStatus>> = dead.collect();
        if let Some(core) = node(cx) {
            dead.into_iter().for_each(|watcher| core.unwatch_peers(watcher));
        }
    }
}

/// Opens a request, and puts it to the node: which answers now, or later by the port.
fn request<M: 'static, R: 'static, E: 'static>(
    cx: &mut Cx<'_, M>,
    too_many: E,
    no_node: E,
    answer: impl FnOnce(Result<R, E>) -> M + 'static,
    put: impl FnOnce(&mut NodeCore, PortId) -> Option<Result<R, E>>,
) {
    let port = match cx.open(answer) {
        Ok(port) => port,
        Err(answer) => return cx.hand_self(answer(Err(too_many))),
    };
    let now = match node(cx) {
        Some(core) => put(core, port),
        None => Some(Err(no_node)),
    };
    if let Some(result) = now {
        settle(cx.door(), port, result);
    }
}

fn locate<M: 'static, T: Named>(
    cx: &mut Cx<'_, M>,
    name: &str,
    at: Option<Location>,
    timeout: Duration,
    answer: impl FnOnce(Result<T, LocateError>) -> M + 'static,
) {
    let tag = T::tag(cx.door());
    request(
        cx,
        LocateError::TooManyOpen,
        LocateError::NoNode,
        move |found: Result<FoundName, LocateError>| answer(found.map(|found| T::from_found(found.id))),
        |core, port| match core.locate(port, (T::SPACE, name), tag, at, timeout) {
            Looked::Now(result) => Some(result),
            Looked::Later => None,
        },
    );
}
