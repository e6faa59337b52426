//! A listening socket, which brings connections.
//!
//! Invariant: without descriptors it pauses; a backlog that cannot be accepted never keeps the loop busy.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use mio::Interest;
use mio::net::{TcpListener, TcpStream};

use super::framing::Framing;
use super::layer::Layer;
use super::strangers::Strangers;
use super::stream::Stream;
use super::table::{Events, Fate, Hold, Kind, Part, SocketId};
use super::tcp::Tcp;
use super::tells::Tells;
use super::{Conn, Endpoint, Host, Socket, SocketError};
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
    tells: Rc<dyn Tells<(Conn, Socket)>>,
    layer: Option<Rc<dyn Layer>>,
    strangers: Strangers,
    readable: bool,
}

impl Core {
    pub(crate) fn listen(
        &mut self,
        owner: Key,
        at: &impl Endpoint,
        framing: Framing,
        tells: Rc<dyn Tells<(Conn, Socket)>>,
    ) -> io::Result<SocketAddr> {
        self.readiness.check()?;
        let mut socket = bind(at, TcpListener::bind)?;
        let local = socket.local_addr()?;
        let id = self.sockets.next_unshown();
        let source = self.watch_part(id, Part::Main, &mut socket, Interest::READABLE)?;
        let listener = Listener {
            socket,
            source,
            local,
            framing,
            tells,
            layer: at.layer(),
            strangers: Strangers::default(),
            readable: false,
        };
        self.insert_socket(id, owner, Kind::Listener(listener));
        Ok(local)
    }

    /// Ends the listener of an actor at `at`; false when it has none there.
    pub(crate) fn unlisten(&mut self, owner: Key, at: SocketAddr) -> bool {
        let mine = self.extras(owner).map(|extras| extras.sockets.clone()).unwrap_or_default();
        let is_there = |id: &SocketId| matches!(self.sockets.kind(*id, owner), Some(Kind::Listener(known)) if known.local == at);
        let found = mine.into_iter().find(is_there);
        if let Some(id) = found {
            self.with_own_socket(id, owner, |_, _| Fate::Gone);
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
    pub(crate) fn serve(&mut self, hold: &mut Hold<'_>, events: Events) -> Fate {
        let Some(owner) = hold.owner else { return Fate::Gone };
        self.readable |= events.is_readable(Part::Main);
        for accepted in 0..ACCEPTS_A_ROUND {
            if !self.readable || hold.is_timed() {
                return Fate::Rest;
            }
            if !hold.core.has_room(owner) {
                return Fate::Full { fed: accepted > 0 };
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
        Fate::Again
    }

    fn accepted(&mut self, hold: &mut Hold<'_>, owner: Key, socket: TcpStream, peer: SocketAddr) {
        let (core, listener) = (&mut *hold.core, hold.id);
        let id = core.sockets.next_conn();
        let made = Stream::accepted(core, id, socket, self.layer.as_deref());
        let stranger_of = self.layer.as_ref().map(|_| listener);
        let tells = self.tells.clone();
        match made.map(|stream| Tcp::accepted(stream, peer, self.framing, tells, stranger_of)) {
            Ok(tcp) => {
                if core.insert_socket(id, owner, Kind::Tcp(Box::new(tcp))) {
                    self.count_stranger(core, id, peer);
                    core.with_own_tcp(id, owner, Tcp::begin);
                }
            }
            Err(reason) => tracing::debug!(%reason, %peer, "a connection could not be opened"),
        }
    }

    fn count_stranger(&mut self, core: &mut Core, id: SocketId, peer: SocketAddr) {
        if self.layer.is_none() {
            return;
        }
        self.strangers.insert(id, peer.ip());
        if let Some(oldest) = self.strangers.take_surplus() {
            tracing::debug!(at = %self.local, "a connection gives way to another before it was opened");
            core.drop_untold(oldest);
        }
    }

    /// A connection is no stranger any more.
    pub(super) fn forget(&mut self, stranger: SocketId) {
        self.strangers.remove(stranger);
    }

    pub(crate) fn leave(&mut self, core: &mut Core) {
        core.readiness.part_with(self.source, &mut self.socket);
        for stranger in self.strangers.take_all() {
            core.drop_untold(stranger);
        }
    }
}
