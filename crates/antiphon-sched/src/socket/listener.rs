//! The listeners of actors.
//!
//! Invariant: nothing is accepted while the actor's mailbox is full.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use mio::Interest;
use mio::net::TcpStream;

use super::acceptor::Acceptor;
use super::event_sink::EventSink;
use super::framing::Framing;
use super::layer::Layer;
use super::pending::PendingConns;
use super::table::{FdEvents, FdRole, Served, SocketCx, SocketId, SocketKind, Sockets, watch_fd};
use super::tcp::{Tcp, WatchedStream};
use super::{Conn, Endpoint, Host, SocketError, SocketEvent};
use crate::event_loop::Source;
use crate::id::Key;
use crate::scheduler::Core;
use crate::socket::egress;

/// Connections that one listener accepts a round.
const ACCEPTS_PER_ROUND: usize = 64;

pub(crate) struct Listener {
    acceptor: Acceptor,
    source: Source,
    framing: Framing,
    sink: Rc<dyn EventSink<(Conn, SocketEvent)>>,
    layer: Option<Rc<dyn Layer>>,
    pending: PendingConns,
}

impl Sockets<'_> {
    pub(crate) fn listen(
        &mut self,
        owner: Key,
        at: &impl Endpoint,
        framing: Framing,
        sink: Rc<dyn EventSink<(Conn, SocketEvent)>>,
    ) -> io::Result<SocketAddr> {
        self.core.readiness_mut().check()?;
        let mut acceptor = bind(at, Acceptor::bind)?;
        let local = acceptor.local_addr();
        let id = self.core.sockets_mut().next_internal();
        let source = watch_fd(self.core, (id, FdRole::Main), acceptor.tcp(), Interest::READABLE)?;
        let (layer, pending) = (at.layer(), PendingConns::default());
        let listener = Listener { acceptor, source, framing, sink, layer, pending };
        self.insert_socket(id, owner, SocketKind::Listener(listener));
        Ok(local)
    }

    /// Ends the listener of an actor at `at`; false when there is none.
    pub(crate) fn unlisten(&mut self, owner: Key, at: SocketAddr) -> bool {
        let own = self.core.sockets_of(owner);
        let is_there = |id: &SocketId| matches!(self.core.sockets().kind(*id, owner), Some(SocketKind::Listener(known)) if known.acceptor.local_addr() == at);
        let found = own.into_iter().find(is_there);
        if let Some(id) = found {
            self.with_own_socket(id, owner, |_, _| Served::Ended);
        }
        found.is_some()
    }
}

/// Binds to the first address of an endpoint that can be bound.
pub(super) fn bind<T>(at: &impl Endpoint, bind: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    let Host::Addrs(addrs) = at.host()? else { return Err(SocketError::ListenName.into()) };
    let mut failure = io::ErrorKind::InvalidInput.into();
    for addr in addrs {
        egress::allowed(&addr).map_err(|reason| io::Error::new(io::ErrorKind::PermissionDenied, reason))?;
        match bind(addr) {
            Ok(socket) => return Ok(socket),
            Err(reason) => failure = reason,
        }
    }
    Err(failure)
}

impl Listener {
    pub(crate) fn serve(&mut self, cx: &mut SocketCx<'_>, events: FdEvents) -> Served {
        let Some(owner) = cx.owner else { return Served::Ended };
        self.acceptor.note(events.of(FdRole::Main));
        let now = cx.core.now();
        for accepted in 0..ACCEPTS_PER_ROUND {
            if !self.acceptor.is_ready(now) {
                break;
            }
            if !cx.core.has_room(owner) {
                return Served::Full { delivered: accepted > 0 };
            }
            if let Some((socket, peer)) = self.acceptor.accept(now) {
                self.accepted(cx, owner, socket, peer);
            }
        }
        if self.acceptor.is_ready(now) {
            return Served::Again;
        }
        if let Some(until) = self.acceptor.paused_until() {
            cx.set_timer(until.since(now));
        }
        Served::Idle
    }

    fn accepted(&mut self, cx: &mut SocketCx<'_>, owner: Key, socket: TcpStream, peer: SocketAddr) {
        let (core, listener) = (&mut *cx.core, cx.id);
        let id = core.sockets_mut().next_conn();
        let made = WatchedStream::accepted(core, id, socket, self.layer.as_deref());
        let pending_of = self.layer.as_ref().map(|_| listener);
        let sink = self.sink.clone();
        match made.map(|stream| Tcp::accepted(stream, peer, self.framing, sink, pending_of)) {
            Ok(tcp) => {
                if Sockets::of(core).insert_socket(id, owner, SocketKind::Tcp(Box::new(tcp))) {
                    self.count_pending(core, id, peer);
                    Sockets::of(core).with_own_tcp(id, owner, Tcp::begin);
                }
            }
            Err(reason) => tracing::debug!(%reason, %peer, "an accepted connection could not be set up"),
        }
    }

    fn count_pending(&mut self, core: &mut Core, id: SocketId, peer: SocketAddr) {
        if self.layer.is_none() {
            return;
        }
        self.pending.insert(id, peer.ip());
        if let Some(oldest) = self.pending.take_surplus() {
            tracing::debug!(at = %self.acceptor.local_addr(), "a pending connection was closed in favour of a newer one");
            Sockets::of(core).drop_pending(oldest);
        }
    }

    /// A connection is open or closed, and no longer pending.
    pub(super) fn remove_pending(&mut self, id: SocketId) {
        self.pending.remove(id);
    }

    pub(crate) fn release(&mut self, core: &mut Core) {
        core.readiness_mut().deregister_socket(self.source, self.acceptor.tcp());
        for id in self.pending.take_all() {
            Sockets::of(core).drop_pending(id);
        }
    }
}
