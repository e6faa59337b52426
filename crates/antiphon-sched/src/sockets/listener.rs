//! A listening socket, which brings connections.
//!
//! Invariant: without descriptors it pauses; a backlog that cannot be accepted never keeps the loop busy.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use mio::Interest;
use mio::net::{TcpListener, TcpStream};

use super::event_sink::EventSink;
use super::framing::Framing;
use super::layer::Layer;
use super::pending::PendingConns;
use super::stream::Stream;
use super::table::{FdReadiness, FdRole, Served, SocketGuard, SocketId, SocketKind};
use super::tcp::Tcp;
use super::{Conn, Endpoint, Host, SocketError, SocketEvent};
use crate::core::Core;
use crate::egress;
use crate::id::Key;
use crate::readiness::Source;

/// Accepted at once, before the others have their turn.
const ACCEPTS_A_ROUND: usize = 64;
/// How long to wait for descriptors when there are none.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) struct Listener {
    socket: TcpListener,
    source: Source,
    local: SocketAddr,
    framing: Framing,
    sink: Rc<dyn EventSink<(Conn, SocketEvent)>>,
    layer: Option<Rc<dyn Layer>>,
    pending: PendingConns,
    readable: bool,
}

impl Core {
    pub(crate) fn listen(
        &mut self,
        owner: Key,
        at: &impl Endpoint,
        framing: Framing,
        sink: Rc<dyn EventSink<(Conn, SocketEvent)>>,
    ) -> io::Result<SocketAddr> {
        self.readiness.check()?;
        let mut socket = bind(at, TcpListener::bind)?;
        let local = socket.local_addr()?;
        let id = self.sockets.next_unshown();
        let source = self.watch_part(id, FdRole::Main, &mut socket, Interest::READABLE)?;
        let listener = Listener {
            socket,
            source,
            local,
            framing,
            sink,
            layer: at.layer(),
            pending: PendingConns::default(),
            readable: false,
        };
        self.insert_socket(id, owner, SocketKind::Listener(listener));
        Ok(local)
    }

    /// Ends the listener of an actor at `at`; false when it has none there.
    pub(crate) fn unlisten(&mut self, owner: Key, at: SocketAddr) -> bool {
        let mine = self.extras(owner).map(|extras| extras.sockets.clone()).unwrap_or_default();
        let is_there = |id: &SocketId| matches!(self.sockets.kind(*id, owner), Some(SocketKind::Listener(known)) if known.local == at);
        let found = mine.into_iter().find(is_there);
        if let Some(id) = found {
            self.with_own_socket(id, owner, |_, _| Served::Gone);
        }
        found.is_some()
    }
}

/// Binds to the first address of an endpoint where that works.
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

/// Whether an error of `accept` says that no connection can be accepted until something is closed: the process, or
/// the system, has no descriptor left, or no memory. Whoever tries again at once keeps a processor busy with it.
pub fn is_exhausted(reason: &io::Error) -> bool {
    // ENFILE, EMFILE, ENOBUFS and ENOMEM; no two systems number the last ones alike.
    reason.kind() == io::ErrorKind::OutOfMemory
        || matches!(reason.raw_os_error(), Some(23 | 24 | 55 | 105 | 10024 | 10055))
}

impl Listener {
    pub(crate) fn serve(&mut self, hold: &mut SocketGuard<'_>, events: FdReadiness) -> Served {
        let Some(owner) = hold.owner else { return Served::Gone };
        self.readable |= events.is_readable(FdRole::Main);
        for accepted in 0..ACCEPTS_A_ROUND {
            if !self.readable || hold.is_timed() {
                return Served::Rest;
            }
            if !hold.core.has_room(owner) {
                return Served::Full { fed: accepted > 0 };
            }
            match self.socket.accept() {
                Ok((socket, peer)) => self.accepted(hold, owner, socket, peer),
                Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(reason) if is_exhausted(&reason) => {
                    tracing::warn!(%reason, at = %self.local, "connections wait; close some, or raise the limit");
                    hold.time(PAUSE);
                }
                // The stranger has gone again; others may follow.
                Err(reason) => tracing::debug!(%reason, "a connection was not accepted"),
            }
        }
        Served::Again
    }

    fn accepted(&mut self, hold: &mut SocketGuard<'_>, owner: Key, socket: TcpStream, peer: SocketAddr) {
        let (core, listener) = (&mut *hold.core, hold.id);
        let id = core.sockets.next_conn();
        let made = Stream::accepted(core, id, socket, self.layer.as_deref());
        let pending_of = self.layer.as_ref().map(|_| listener);
        let sink = self.sink.clone();
        match made.map(|stream| Tcp::accepted(stream, peer, self.framing, sink, pending_of)) {
            Ok(tcp) => {
                if core.insert_socket(id, owner, SocketKind::Tcp(Box::new(tcp))) {
                    self.count_pending(core, id, peer);
                    core.with_own_tcp(id, owner, Tcp::begin);
                }
            }
            Err(reason) => tracing::debug!(%reason, %peer, "a connection could not be opened"),
        }
    }

    fn count_pending(&mut self, core: &mut Core, id: SocketId, peer: SocketAddr) {
        if self.layer.is_none() {
            return;
        }
        self.pending.insert(id, peer.ip());
        if let Some(oldest) = self.pending.take_surplus() {
            tracing::debug!(at = %self.local, "a connection gives way to another before it was opened");
            core.drop_untold(oldest);
        }
    }

    /// A connection is no stranger any more.
    pub(super) fn forget(&mut self, stranger: SocketId) {
        self.pending.remove(stranger);
    }

    pub(crate) fn leave(&mut self, core: &mut Core) {
        core.readiness.part_with(self.source, &mut self.socket);
        for stranger in self.pending.take_all() {
            core.drop_untold(stranger);
        }
    }
}
