//! One TCP connection: dialled or accepted, open, closed in good order.
//!
//! Closing takes both sides. Where the peer ends first, the actor may still answer what it was sent, until it has
//! taken `Closed`. Where the actor ends first, what it wrote goes out, and what the peer sends meanwhile is read
//! and dropped: a socket that is closed with unread bytes would be reset, and the peer lose the actor's last words.

use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::time::Duration;

use mio::Interest;
use mio::net::TcpStream;

use super::framing::Framing;
use super::inlet::{Inlet, Pulled};
use super::outlet::{Flushed, Outlet};
use super::table::{Events, Fate, Hold, Kind, Part, SocketId};
use super::tells::Tells;
use super::{Conn, Host, Socket, SocketError};
use crate::core::Core;
use crate::egress;
use crate::error::JobError;
use crate::event::System;
use crate::id::Key;
use crate::io::Source;

/// How long a peer may take nothing of what is left to write.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);
/// How long a peer may go on sending after this side has closed.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);
/// Reads of what nobody wants, before the others have their turn.
const DRAINS_A_ROUND: usize = 16;

const READ_WRITE: Interest = Interest::READABLE.add(Interest::WRITABLE);

type Connected = Rc<dyn Tells<(Conn, Socket)>>;

pub(crate) struct Tcp {
    framing: Framing,
    tells: Connected,
    state: State,
    stream: Option<Stream>,
    inlet: Inlet,
    outlet: Outlet,
    /// Addresses not yet tried.
    addrs: std::vec::IntoIter<SocketAddr>,
    /// Why the last address failed; or why nothing can be written any more.
    failure: Option<io::Error>,
}

#[derive(Copy, Clone, PartialEq, Eq)]
enum State {
    /// A name is looked up, or an address is dialled.
    Dialling,
    Open,
    /// The peer has ended; the actor has been told, and may not have taken it yet.
    PeerDone,
    /// The actor has closed it, and is told when all is written.
    Closing,
    /// The actor has been told; the rest of what it wrote goes out.
    Finishing,
    /// All is written, and the peer was told.
    Draining,
}

struct Stream {
    socket: TcpStream,
    source: Source,
}

impl Core {
    pub(crate) fn connect(
        &mut self,
        owner: Key,
        to: io::Result<Host>,
        framing: Framing,
        timeout: Duration,
        tells: Connected,
    ) -> Conn {
        let id = self.sockets.next_conn();
        let tcp = Tcp::new(framing, tells, State::Dialling, None);
        self.insert_socket(id, owner, Kind::Tcp(Box::new(tcp)));
        self.with_own_tcp(id, owner, |tcp, hold| {
            hold.time(timeout);
            tcp.start(hold, to)
        });
        Conn(id.0)
    }

    /// A name was looked up for a connection.
    fn looked_up(&mut self, id: SocketId, owner: Key, found: Result<io::Result<Vec<SocketAddr>>, JobError>) {
        let found = found.unwrap_or_else(|why| Err(io::Error::other(why)));
        self.with_own_tcp(id, owner, |tcp, hold| match found {
            Ok(addrs) => {
                tcp.addrs = addrs.into_iter();
                tcp.dial(hold)
            }
            Err(why) => tcp.end(hold, Some(why)),
        });
    }
}

impl Tcp {
    fn new(framing: Framing, tells: Connected, state: State, stream: Option<Stream>) -> Self {
        let outlet = Outlet::new(state == State::Open);
        let inlet = Inlet::new(framing);
        Self { framing, tells, state, stream, inlet, outlet, addrs: Vec::new().into_iter(), failure: None }
    }

    pub(crate) fn accepted(
        core: &mut Core,
        id: SocketId,
        mut socket: TcpStream,
        framing: Framing,
        tells: Connected,
    ) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        let source = core.watch_part(id, Part::Main, &mut socket, READ_WRITE)?;
        Ok(Self::new(framing, tells, State::Open, Some(Stream { socket, source })))
    }

    fn tell(&self, hold: &mut Hold<'_>, what: Socket) {
        if let Some(owner) = hold.owner {
            self.tells.tell(hold.core, owner, (Conn(hold.id.0), what));
        }
    }

    fn end(&self, hold: &mut Hold<'_>, why: Option<io::Error>) -> Fate {
        self.tell(hold, Socket::Closed(why));
        Fate::Gone
    }

    fn start(&mut self, hold: &mut Hold<'_>, to: io::Result<Host>) -> Fate {
        match hold.core.io.check().and(to) {
            Err(why) => self.end(hold, Some(why)),
            Ok(Host::Addrs(addrs)) => {
                self.addrs = addrs.into_iter();
                self.dial(hold)
            }
            Ok(Host::Name(host, port)) => {
                if let Err(why) = egress::allowed_name(&host) {
                    return self.end(hold, Some(io::Error::new(io::ErrorKind::PermissionDenied, why)));
                }
                let (id, owner) = (hold.id, hold.owner);
                let look_up = move || (host.as_str(), port).to_socket_addrs().map(Vec::from_iter);
                hold.core.run_then(look_up, move |core, found| {
                    if let Some(owner) = owner {
                        core.looked_up(id, owner, found);
                    }
                });
                Fate::Rest
            }
        }
    }

    /// Dials the next address that can be dialled at all.
    fn dial(&mut self, hold: &mut Hold<'_>) -> Fate {
        for addr in self.addrs.by_ref() {
            match Stream::dial(hold, addr) {
                Ok(stream) => {
                    self.stream = Some(stream);
                    return Fate::Rest;
                }
                Err(why) => self.failure = Some(why),
            }
        }
        let nowhere = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let why = self.failure.take().unwrap_or_else(nowhere);
        self.end(hold, Some(why))
    }

    pub(crate) fn serve(&mut self, hold: &mut Hold<'_>, events: Events, space: &mut [u8]) -> Fate {
        self.inlet.readable |= events.is_readable(Part::Main);
        self.outlet.writable |= events.is_writable(Part::Main);
        match self.state {
            State::Dialling => self.on_dialled(hold, space),
            State::Open => self.run(hold, space),
            State::PeerDone | State::Closing | State::Finishing => self.flush(hold),
            State::Draining => self.drain(space),
        }
    }

    fn on_dialled(&mut self, hold: &mut Hold<'_>, space: &mut [u8]) -> Fate {
        match self.stream.as_ref().and_then(Stream::connected) {
            None => Fate::Rest,
            Some(Ok(peer)) => {
                hold.untime();
                self.failure = None;
                self.state = State::Open;
                self.tell(hold, Socket::Opened(peer));
                self.run(hold, space)
            }
            Some(Err(why)) => {
                self.failure = Some(why);
                self.leave(hold.core);
                self.dial(hold)
            }
        }
    }

    /// Writes and reads, within a share.
    fn run(&mut self, hold: &mut Hold<'_>, space: &mut [u8]) -> Fate {
        self.write(hold);
        let (Some(stream), Some(owner)) = (&mut self.stream, hold.owner) else { return Fate::Gone };
        let (tells, conn) = (&self.tells, Conn(hold.id.0));
        let tell = |core: &mut Core, frame| tells.tell(core, owner, (conn, Socket::Data(frame)));
        match self.inlet.pull(hold.core, owner, &mut stream.socket, space, tell) {
            Pulled::Cut => Fate::Again,
            Pulled::Full { fed } => Fate::Full { fed },
            Pulled::Dry if self.failure.is_none() => Fate::Rest,
            Pulled::Ended(Ok(())) if self.failure.is_none() => {
                self.tell(hold, Socket::Closed(None));
                self.state = State::PeerDone;
                // Behind `Closed`: what the actor writes before it takes that still goes out.
                hold.core.push_system(owner, System::SocketSeen(hold.id));
                Fate::Rest
            }
            Pulled::Dry | Pulled::Ended(Ok(())) => {
                let why = self.failure.take();
                self.end(hold, why)
            }
            Pulled::Ended(Err(why)) => self.end(hold, Some(why)),
        }
    }

    fn write(&mut self, hold: &mut Hold<'_>) {
        let Some(stream) = &mut self.stream else { return };
        match self.outlet.flush(&mut stream.socket) {
            Flushed::All | Flushed::Blocked => {}
            Flushed::Cut => hold.writes_on = true,
            Flushed::Failed(why) => {
                // What the peer sent before it went is read first.
                self.failure.get_or_insert(why);
                self.inlet.readable = true;
            }
        }
        if self.state == State::Open && self.outlet.take_relief() {
            self.tell(hold, Socket::Writable);
        }
    }

    /// Writes what waits.
    pub(crate) fn flush(&mut self, hold: &mut Hold<'_>) -> Fate {
        match self.state {
            State::Open | State::PeerDone => {
                self.write(hold);
                if self.failure.is_some() && self.state == State::Open { Fate::Again } else { Fate::Rest }
            }
            State::Closing | State::Finishing => self.write_rest(hold),
            State::Dialling | State::Draining => Fate::Rest,
        }
    }

    fn write_rest(&mut self, hold: &mut Hold<'_>) -> Fate {
        let Some(stream) = &mut self.stream else { return Fate::Gone };
        let before = self.outlet.len();
        match self.outlet.flush(&mut stream.socket) {
            Flushed::All => self.on_rest_written(hold),
            Flushed::Failed(why) => self.end_closing(hold, Some(why)),
            Flushed::Blocked => {
                if self.outlet.len() < before || !hold.is_timed() {
                    hold.time(CLOSE_WITHIN);
                }
                Fate::Rest
            }
            Flushed::Cut => {
                hold.time(CLOSE_WITHIN);
                hold.writes_on = true;
                Fate::Rest
            }
        }
    }

    fn on_rest_written(&mut self, hold: &mut Hold<'_>) -> Fate {
        if self.state == State::Finishing {
            // The peer has ended already: there is nothing to wait for.
            return Fate::Gone;
        }
        let ended = self.stream.as_ref().map(|stream| stream.socket.shutdown(Shutdown::Write));
        self.tell(hold, Socket::Closed(None));
        if !matches!(ended, Some(Ok(()))) {
            return Fate::Gone;
        }
        self.state = State::Draining;
        self.inlet.readable = true;
        hold.time(DRAIN_WITHIN);
        Fate::Orphan
    }

    fn end_closing(&self, hold: &mut Hold<'_>, why: Option<io::Error>) -> Fate {
        if self.state == State::Closing { self.end(hold, why) } else { Fate::Gone }
    }

    /// Reads what nobody wants, until the peer ends.
    fn drain(&mut self, space: &mut [u8]) -> Fate {
        let Some(stream) = &mut self.stream else { return Fate::Gone };
        for _ in 0..DRAINS_A_ROUND {
            if !self.inlet.readable {
                return Fate::Rest;
            }
            match stream.socket.read(space) {
                Ok(0) => return Fate::Gone,
                Ok(_) => {}
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => self.inlet.readable = false,
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Fate::Gone,
            }
        }
        Fate::Again
    }

    pub(crate) fn on_timer(&mut self, hold: &mut Hold<'_>) -> Fate {
        match self.state {
            State::Dialling => self.end(hold, Some(SocketError::ConnectTimedOut.into())),
            State::Closing => self.end(hold, Some(SocketError::CloseTimedOut.into())),
            State::Finishing | State::Draining => Fate::Gone,
            State::Open | State::PeerDone => Fate::Rest,
        }
    }

    /// The actor has taken the peer's end.
    pub(crate) fn on_seen(&mut self, hold: &mut Hold<'_>) -> Fate {
        if self.state != State::PeerDone {
            return Fate::Rest;
        }
        self.state = State::Finishing;
        match self.write_rest(hold) {
            Fate::Rest => Fate::Orphan,
            fate => fate,
        }
    }

    /// The actor writes.
    pub(crate) fn push(&mut self, hold: &mut Hold<'_>, data: &[u8]) -> Fate {
        match self.state {
            State::Open if self.failure.is_some() => Fate::Rest,
            State::Dialling | State::Open | State::PeerDone => match self.outlet.push(self.framing, data) {
                Ok(()) => {
                    hold.writes_on = true;
                    Fate::Rest
                }
                Err(_) if self.state == State::PeerDone => Fate::Gone,
                Err(why) => self.end(hold, Some(why.into())),
            },
            State::Closing | State::Finishing | State::Draining => Fate::Rest,
        }
    }

    /// The actor closes.
    pub(crate) fn close(&mut self, hold: &mut Hold<'_>) -> Fate {
        match self.state {
            State::Dialling => return self.end(hold, None),
            State::Open => match self.failure.take() {
                Some(why) => return self.end(hold, Some(why)),
                None => self.state = State::Closing,
            },
            State::PeerDone => self.state = State::Finishing,
            State::Closing | State::Finishing | State::Draining => {}
        }
        hold.writes_on = true;
        Fate::Rest
    }

    /// The actor has ended: what it wrote goes out once more, and to its end if the connection was closing.
    pub(crate) fn finish(&mut self, hold: &mut Hold<'_>) -> Fate {
        match self.state {
            State::Dialling => Fate::Gone,
            State::Open => {
                self.write(hold);
                Fate::Gone
            }
            State::PeerDone => {
                self.state = State::Finishing;
                self.write_rest(hold)
            }
            State::Closing | State::Finishing => self.write_rest(hold),
            State::Draining => Fate::Rest,
        }
    }

    /// How much waits to be written.
    pub(crate) fn unwritten(&self) -> usize {
        self.outlet.len()
    }

    pub(crate) fn leave(&mut self, core: &mut Core) {
        if let Some(mut stream) = self.stream.take() {
            core.io.part_with(stream.source, &mut stream.socket);
        }
    }
}

impl Stream {
    fn dial(hold: &mut Hold<'_>, addr: SocketAddr) -> io::Result<Self> {
        egress::allowed(&addr).map_err(|why| io::Error::new(io::ErrorKind::PermissionDenied, why))?;
        let mut socket = TcpStream::connect(addr)?;
        let source = hold.core.watch_part(hold.id, Part::Main, &mut socket, READ_WRITE)?;
        Ok(Self { socket, source })
    }

    /// Where a dialled stream leads; `None` while that is open.
    fn connected(&self) -> Option<io::Result<SocketAddr>> {
        match self.socket.take_error() {
            Ok(Some(why)) | Err(why) => return Some(Err(why)),
            Ok(None) => {}
        }
        match self.socket.peer_addr() {
            Ok(peer) => Some(self.socket.set_nodelay(true).map(|()| peer)),
            Err(why) if why.kind() == io::ErrorKind::NotConnected => None,
            Err(why) => Some(Err(why)),
        }
    }
}
