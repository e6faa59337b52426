//! The methods of `NetCx`. Each calls the node core, or a service actor.

use std::path::Path;
use std::time::Duration;

use antiphon_sched::{
    Actor, ActorId, Addr, Cx, Event, Key, NodeId, RequestId, SendMode, Step, Target, TooManyAdapters, Wire,
};

use super::{Named, NetCx, Watch};
use crate::access::{AccessError, AccessPolicy};
use crate::error::{
    CallError, CloseError, DeliverError, LocateError, PeerError, PeerStatus, RegisterError, SubscribeError,
    UnknownNode, UnknownPeer,
};
use crate::location::{Ignored, Location, PeerAt, PeerOptions};
use crate::node::{
    Counts, FoundName, LookupStart, NameCursor, NamePage, NodeCore, PeerCursor, PeerPage, Space, WantedName,
    complete_if_open, log_failed_delivery, node_mut,
};
use crate::service::NodeRef;
use crate::service::channel::{self, Channel, Subscriber};
use crate::service::file::{self, DeleteError, FileError, FileOptions, Progress, Stored, Transfer};
use crate::service::rci::{self, Rci};

impl<M: 'static> NetCx<M> for Cx<'_, M> {
    fn location(&mut self) -> Option<Location> {
        node(self).map(|core| core.location())
    }

    fn location_of(&mut self, node_id: NodeId) -> Result<Location, UnknownNode> {
        node(self).ok_or(UnknownNode { node: node_id })?.location_of(node_id)
    }

    fn register(&mut self, name: &str) -> Result<(), RegisterError>
    where
        M: Wire,
    {
        let (me, tag) = (self.addr(), self.loop_ref().service().type_name_of::<M>());
        NodeRef::of(self.loop_ref()).register_as((Space::Actor, name), me, tag, Some(me.id().key()))
    }

    fn unregister(&mut self, name: &str) -> Result<(), RegisterError> {
        let me: Key = self.id().key();
        NodeRef::of(self.loop_ref()).unregister(Space::Actor, name, Some(me)).map(|_| ())
    }

    fn allow(&mut self, target: impl Into<ActorId>, access: AccessPolicy) -> Result<(), AccessError> {
        NodeRef::of(self.loop_ref()).allow(target, access)
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
        let all = |found: Vec<FoundName>| found.into_iter().map(|found| T::from_id(found.id)).collect();
        let wanted = WantedName { space: T::SPACE, name, tag: T::tag(self.loop_ref()), at: None };
        request(
            self,
            LocateError::TooManyOpen,
            LocateError::NoNode,
            move |found: Result<Vec<FoundName>, LocateError>| answer(found.map(all)),
            |core, request_id| core.locate_all(request_id, wanted, timeout).err().map(Err),
        );
    }

    fn locate_node(
        &mut self,
        name: &str,
        timeout: Duration,
        answer: impl FnOnce(Result<Location, LocateError>) -> M + 'static,
    ) {
        request(self, LocateError::TooManyOpen, LocateError::NoNode, answer, |core, request_id| {
            core.locate_node(request_id, name, timeout)
        });
    }

    fn deliver<T: 'static>(
        &mut self,
        to: Addr<T>,
        message: T,
        timeout: Duration,
        answer: impl FnOnce(Result<(), DeliverError>) -> M + 'static,
    ) {
        let request_id = match self.open_request(answer) {
            Ok(request_id) => request_id,
            Err(answer) => return self.push_self(answer(Err(DeliverError::TooManyOpen))),
        };
        let is_local = to.node() == self.id().node();
        match to.put(self.loop_ref(), message, SendMode::Receipt(request_id)) {
            Ok(()) if is_local => {
                complete_if_open(self.loop_ref().requests(), request_id, Ok::<(), DeliverError>(()))
            }
            Ok(()) => {
                if let Some(core) = node(self) {
                    core.set_receipt_timeout(request_id, timeout);
                }
            }
            Err(error) => {
                let reason = DeliverError::Refused(error.reason());
                log_failed_delivery(self.id().key(), to.id(), &reason);
                complete_if_open(self.loop_ref().requests(), request_id, Err::<(), _>(reason));
            }
        }
    }

    fn channel<T: Wire + Clone>(&mut self, name: &str) -> Result<Channel<T>, RegisterError> {
        let me = self.id().key();
        channel::open(self.loop_ref(), name, Some(me), None)
    }

    fn channel_with<T: Wire + Clone>(
        &mut self,
        name: &str,
        transform: impl FnMut(&str, T) -> Option<T> + 'static,
    ) -> Result<Channel<T>, RegisterError> {
        let me = self.id().key();
        channel::open(self.loop_ref(), name, Some(me), Some(Box::new(transform)))
    }

    fn unregister_channel(&mut self, name: &str) -> Result<(), RegisterError> {
        let me = self.id().key();
        NodeRef::of(self.loop_ref()).unregister(Space::Channel, name, Some(me)).map(|_| ())
    }

    fn close_channel<T>(&mut self, channel: Channel<T>) {
        self.terminate(channel.id());
    }

    fn subscribe<T: Wire + Clone>(&mut self, channel: Channel<T>, subscriber: impl Subscriber<T>) {
        channel::subscribe(self.loop_ref(), channel, subscriber);
    }

    fn subscribe_within<T: Wire + Clone>(
        &mut self,
        channel: Channel<T>,
        subscriber: impl Subscriber<T>,
        timeout: Duration,
        answer: impl FnOnce(Result<(), SubscribeError>) -> M + 'static,
    ) {
        channel::subscribe_within(self, channel, subscriber, timeout, answer);
    }

    fn unsubscribe<T: Wire + Clone>(&mut self, channel: Channel<T>, subscriber: impl Subscriber<T>) {
        channel::unsubscribe(self.loop_ref(), channel, subscriber);
    }

    fn deliver_all<T: Wire>(
        &mut self,
        channel: Channel<T>,
        message: T,
        n: usize,
        timeout: Duration,
        answer: impl FnOnce(Result<usize, DeliverError>) -> M + 'static,
    ) {
        channel::deliver_all(self, channel, message, n, timeout, answer);
    }

    fn send_file(
        &mut self,
        to: Location,
        file: impl AsRef<Path>,
        options: FileOptions,
        timeout: Duration,
        answer: impl FnOnce(Result<Stored, FileError>) -> M + 'static,
    ) -> Transfer {
        file::send_file(self, to, file.as_ref(), &options, timeout, answer)
    }

    fn progress(
        &mut self,
        transfer: Transfer,
        every: Duration,
        each: impl FnMut(Progress) -> M + 'static,
    ) -> Result<(), TooManyAdapters> {
        file::progress(self, transfer, every, each)
    }

    fn cancel_transfer(&mut self, transfer: Transfer) {
        file::cancel(self, transfer);
    }

    fn del_file(
        &mut self,
        at: Location,
        file: impl AsRef<Path>,
        dir: impl AsRef<Path>,
        timeout: Duration,
        answer: impl FnOnce(Result<(), DeleteError>) -> M + 'static,
    ) {
        file::del_file(self, at, file.as_ref(), dir.as_ref(), timeout, answer);
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
        rci::open(self.loop_ref(), name, Some(me), function)
    }

    fn unregister_rci(&mut self, name: &str) -> Result<(), RegisterError> {
        let me = self.id().key();
        rci::unregister(self.loop_ref(), name, Some(me))
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

    fn counts(&mut self) -> Counts {
        node(self).map(|core| core.counts()).unwrap_or_default()
    }

    fn peer_infos(&mut self, from: Option<PeerCursor>) -> PeerPage {
        node(self).map(|core| core.peers_from(from)).unwrap_or_default()
    }

    fn name_infos(&mut self, from: Option<NameCursor>) -> NamePage {
        node(self).map(|core| core.names_from(from)).unwrap_or_default()
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
        request(self, PeerError::TooManyOpen, PeerError::NoNode, answer, |core, request_id| {
            core.open_connect_request(request_id, at, options, timeout)
        });
    }

    fn stream_send(&mut self, at: Location, keep_open: bool) -> Result<(), UnknownPeer> {
        node(self).ok_or(UnknownPeer { at })?.stream_send(at, keep_open)
    }

    fn close_peer(
        &mut self,
        at: Location,
        timeout: Duration,
        answer: impl FnOnce(Result<(), CloseError>) -> M + 'static,
    ) {
        request(self, CloseError::TooManyOpen, CloseError::NoNode, answer, |core, request_id| {
            core.close_peer(request_id, at, timeout)
        });
    }

    fn ignore_peers(&mut self, ignored: impl Into<Ignored>) {
        if let Some(core) = node(self) {
            core.ignore_peers(ignored.into());
        }
    }

    fn peer_status(&mut self, each: impl FnMut(PeerStatus) -> M + 'static) -> Result<Watch, TooManyAdapters> {
        let adapter = self.adapter(each)?;
        remove_exited_watchers(self);
        let known = node(self).map(|core| core.watch_peers(adapter)).unwrap_or_default();
        for status in known {
            self.tell(adapter, status);
        }
        Ok(Watch(adapter))
    }

    fn unwatch(&mut self, watch: Watch) {
        if let Some(core) = node(self) {
            core.unwatch_peers(watch.0);
        }
    }
}

fn node<'c, M: 'static>(cx: &'c mut Cx<'_, M>) -> Option<&'c mut NodeCore> {
    node_mut(cx.loop_ref())
}

/// Removes the peer watches of actors that have exited, each time the number of watches is a power of two.
fn remove_exited_watchers<M: 'static>(cx: &mut Cx<'_, M>) {
    let watchers = node(cx).map(|core| core.peer_watchers().to_vec()).unwrap_or_default();
    if watchers.len().is_power_of_two() {
        let exited = watchers.into_iter().filter(|watcher| !cx.loop_ref().is_alive(watcher.id().key()));
        let exited: Vec<Addr<PeerStatus>> = exited.collect();
        if let Some(core) = node(cx) {
            exited.into_iter().for_each(|watcher| core.unwatch_peers(watcher));
        }
    }
}

/// Opens a request, and passes it to the node core by `start`, which answers it now or later.
fn request<M: 'static, R: 'static, E: 'static>(
    cx: &mut Cx<'_, M>,
    too_many: E,
    no_node: E,
    answer: impl FnOnce(Result<R, E>) -> M + 'static,
    start: impl FnOnce(&mut NodeCore, RequestId) -> Option<Result<R, E>>,
) {
    let request_id = match cx.open_request(answer) {
        Ok(request_id) => request_id,
        Err(answer) => return cx.push_self(answer(Err(too_many))),
    };
    let immediate = match node(cx) {
        Some(core) => start(core, request_id),
        None => Some(Err(no_node)),
    };
    if let Some(result) = immediate {
        complete_if_open(cx.loop_ref().requests(), request_id, result);
    }
}

fn locate<M: 'static, T: Named>(
    cx: &mut Cx<'_, M>,
    name: &str,
    at: Option<Location>,
    timeout: Duration,
    answer: impl FnOnce(Result<T, LocateError>) -> M + 'static,
) {
    let wanted = WantedName { space: T::SPACE, name, tag: T::tag(cx.loop_ref()), at };
    let asker = cx.id().key();
    request(
        cx,
        LocateError::TooManyOpen,
        LocateError::NoNode,
        move |found: Result<FoundName, LocateError>| answer(found.map(|found| T::from_id(found.id))),
        |core, request_id| match core.locate((request_id, asker), wanted, timeout) {
            LookupStart::Now(result) => Some(result),
            LookupStart::Later => None,
        },
    );
}
