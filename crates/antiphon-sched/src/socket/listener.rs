//! Listening sockets.
//!
//! Invariant: a listener pauses while no descriptors are left, so that a backlog it cannot accept never keeps the loop
//! busy.

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
use super::table::{FdReadiness, FdRole, Served, SocketCx, SocketId, SocketKind, Sockets, watch_fd};
use super::tcp::Tcp;
use super::{Conn, Endpoint, Host, SocketError, SocketEvent};
use crate::event_loop::Source;
use crate::id::Key;
use crate::scheduler::Core;
use crate::socket::egress;

/// Connections that one listener accepts a round.
const ACCEPTS_PER_ROUND: usize = 64;
/// How long a listener pauses when no descriptors are left: first, and at most.
const ACCEPT_PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(3_200)];

pub(crate) struct Listener {
    socket: TcpListener,
    source: Source,
    local: SocketAddr,
    framing: Framing,
    sink: Rc<dyn EventSink<(Conn, SocketEvent)>>,
    layer: Option<Rc<dyn Layer>>,
    pending: PendingConns,
    readable: bool,
    backoff: AcceptBackoff,
}

/// The pauses of a listener whose process has no descriptors left: each is twice as long as the one before, until a
/// connection is accepted. They are logged at powers of two.
#[derive(Debug, Default)]
pub struct AcceptBackoff {
    /// The number of pauses since the last accepted connection.
    pauses: u32,
    /// The number of all pauses.
    total: u64,
}

impl AcceptBackoff {
    /// A connection was accepted.
    pub fn accepted(&mut self) {
        self.pauses = 0;
    }

    /// Returns how long the listener at `at` must pause after this error of `accept`; `None` if it can accept at once.
    pub fn pause_after(&mut self, reason: &io::Error, at: SocketAddr) -> Option<Duration> {
        if !is_exhausted(reason) {
            return None;
        }
        self.total += 1;
        let [first, longest] = ACCEPT_PAUSES;
        let pause = first.saturating_mul(1 << self.pauses.min(16)).min(longest);
        self.pauses += 1;
        if self.total.is_power_of_two() {
            let total = self.total;
            tracing::warn!(%reason, %at, ?pause, total, "accepting pauses, because the process has no descriptors left; close some connections, or raise the limit of open files (logged at powers of two)");
        }
        Some(pause)
    }
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
        let mut socket = bind(at, TcpListener::bind)?;
        let local = socket.local_addr()?;
        let id = self.core.sockets_mut().next_internal();
        let source = watch_fd(self.core, (id, FdRole::Main), &mut socket, Interest::READABLE)?;
        let listener = Listener {
            socket,
            source,
            local,
            framing,
            sink,
            layer: at.layer(),
            pending: PendingConns::default(),
            readable: false,
            backoff: AcceptBackoff::default(),
        };
        self.insert_socket(id, owner, SocketKind::Listener(listener));
        Ok(local)
    }

    /// Ends the listener of an actor at `at`; false when there is none.
    pub(crate) fn unlisten(&mut self, owner: Key, at: SocketAddr) -> bool {
        let own = self.core.sockets_of(owner);
        let is_there = |id: &SocketId| matches!(self.core.sockets().kind(*id, owner), Some(SocketKind::Listener(known)) if known.local == at);
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

/// Whether an error of `accept` means that no connection can be accepted until something is closed: the process or
/// the system has no descriptors or no memory left. Wait before the next try: an immediate one fails again, and a loop
/// of tries keeps a processor busy.
fn is_exhausted(reason: &io::Error) -> bool {
    // ENFILE, EMFILE, ENOBUFS and ENOMEM. ENOBUFS has other numbers on other systems.
    reason.kind() == io::ErrorKind::OutOfMemory
        || matches!(reason.raw_os_error(), Some(23 | 24 | 55 | 105 | 10024 | 10055))
}

impl Listener {
    pub(crate) fn serve(&mut self, cx: &mut SocketCx<'_>, events: FdReadiness) -> Served {
        let Some(owner) = cx.owner else { return Served::Ended };
        self.readable |= events.is_readable(FdRole::Main);
        for accepted in 0..ACCEPTS_PER_ROUND {
            if !self.readable || cx.has_timer() {
                return Served::Idle;
            }
            if !cx.core.has_room(owner) {
                return Served::Full { delivered: accepted > 0 };
            }
            match self.socket.accept() {
                Ok((socket, peer)) => {
                    self.backoff.accepted();
                    self.accepted(cx, owner, socket, peer);
                }
                Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(reason) => match self.backoff.pause_after(&reason, self.local) {
                    Some(pause) => cx.set_timer(pause),
                    // That connection has failed already; there may be more in the backlog.
                    None => tracing::debug!(%reason, "a connection was not accepted"),
                },
            }
        }
        Served::Again
    }

    fn accepted(&mut self, cx: &mut SocketCx<'_>, owner: Key, socket: TcpStream, peer: SocketAddr) {
        let (core, listener) = (&mut *cx.core, cx.id);
        let id = core.sockets_mut().next_conn();
        let made = Stream::accepted(core, id, socket, self.layer.as_deref());
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
            tracing::debug!(at = %self.local, "a pending connection was closed in favour of a newer one");
            Sockets::of(core).drop_pending(oldest);
        }
    }

    /// A connection is open or closed, and no longer pending.
    pub(super) fn remove_pending(&mut self, id: SocketId) {
        self.pending.remove(id);
    }

    pub(crate) fn release(&mut self, core: &mut Core) {
        core.readiness_mut().deregister_socket(self.source, &mut self.socket);
        for id in self.pending.take_all() {
            Sockets::of(core).drop_pending(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_pauses_double_until_connection_is_accepted() {
        let at = ([127, 0, 0, 1], 1).into();
        let (exhausted, reset) = (io::Error::from_raw_os_error(24), io::ErrorKind::ConnectionReset.into());
        let mut backoff = AcceptBackoff::default();
        let pauses: Vec<_> = (0..8).map(|_| backoff.pause_after(&exhausted, at)).collect();
        let expected = [100, 200, 400, 800, 1600, 3200, 3200, 3200].map(|n| Some(Duration::from_millis(n)));
        assert_eq!(pauses, expected);
        assert_eq!(backoff.pause_after(&reset, at), None);
        backoff.accepted();
        assert_eq!(backoff.pause_after(&exhausted, at), expected[0]);
    }
}
