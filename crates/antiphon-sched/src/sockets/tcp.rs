//! One TCP connection: dialled or accepted, agreed on, open, closed in good order.
//!
//! What lies over it, TLS perhaps, is agreed on before anybody is told that it is open. Of one that was dialled the end is
//! told in any case; of one that was accepted only what comes after.
//!
//! Closing takes both sides. Where the peer ends first, the actor may still answer what it was sent, until it has
//! taken `Closed`. Where the actor ends first, what it wrote goes out, and what the peer sends meanwhile is read
//! and dropped: a socket that is closed with unread bytes would be reset, and the peer lose the actor's last words.

mod negotiation;

use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::time::Duration;

use super::event_sink::EventSink;
use super::frame_reader::{FrameReader, Pulled};
use super::framing::Framing;
use super::layer::Layer;
use super::send_buffer::{Flushed, SendBuffer};
use super::stream::Stream;
use super::table::{FdReadiness, FdRole, Served, SocketGuard, SocketId, SocketKind};
use super::{Conn, Host, SocketError, SocketEvent};
use crate::core::Core;
use crate::egress;
use crate::error::JobError;
use crate::event::SystemEvent;
use crate::id::Key;

/// How long a peer may take nothing of what is left to write.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);
/// How long a peer may go on sending after this side has closed.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);
/// Reads of what nobody wants, before the others have their turn.
const DRAINS_A_ROUND: usize = 16;

type Connected = Rc<dyn EventSink<(Conn, SocketEvent)>>;

pub(crate) struct Tcp {
    framing: Framing,
    sink: Connected,
    state: TcpState,
    stream: Option<Stream>,
    frame_reader: FrameReader,
    send_buffer: SendBuffer,
    /// What is to lie over the stream once that has connected.
    layer: Option<Rc<dyn Layer>>,
    /// Where it leads, once that is known.
    peer: Option<SocketAddr>,
    /// The listener that counts it among its strangers.
    pending_of: Option<SocketId>,
    /// Whether it was a listener's: then nobody has been told of it before it is open.
    accepted: bool,
    /// So many reads more of what nobody wants.
    drains_max: usize,
    /// Addresses not yet tried.
    addrs: std::vec::IntoIter<SocketAddr>,
    /// Why the last address failed; or why nothing can be written any more.
    failure: Option<io::Error>,
}

#[derive(Copy, Clone, PartialEq, Eq)]
enum TcpState {
    /// A name is looked up, or an address is dialled.
    Dialling,
    /// The stream is there; what lies over it is not agreed on, or the actor has no room to be told so.
    Negotiating,
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

impl Core {
    pub(crate) fn connect(
        &mut self,
        owner: Key,
        to: io::Result<Host>,
        layer: Option<Rc<dyn Layer>>,
        framing: Framing,
        timeout: Duration,
        sink: Connected,
    ) -> Conn {
        let id = self.sockets.next_conn();
        let tcp = Tcp { layer, ..Tcp::new(framing, sink, TcpState::Dialling, None) };
        self.insert_socket(id, owner, SocketKind::Tcp(Box::new(tcp)));
        self.with_own_tcp(id, owner, |tcp, hold| {
            hold.time(timeout);
            tcp.start(hold, to)
        });
        Conn(id.0)
    }

    /// A name was looked up for a connection.
    fn looked_up(&mut self, id: SocketId, owner: Key, found: Result<io::Result<Vec<SocketAddr>>, JobError>) {
        let found = found.unwrap_or_else(|reason| Err(io::Error::other(reason)));
        self.with_own_tcp(id, owner, |tcp, hold| match found {
            Ok(addrs) => {
                tcp.addrs = addrs.into_iter();
                tcp.dial(hold)
            }
            Err(reason) => tcp.end(hold, Some(reason)),
        });
    }
}

impl Tcp {
    fn new(framing: Framing, sink: Connected, state: TcpState, stream: Option<Stream>) -> Self {
        let send_buffer = SendBuffer::new(stream.is_some());
        let frame_reader = FrameReader::new(framing);
        Self {
            framing,
            sink,
            state,
            stream,
            frame_reader,
            send_buffer,
            layer: None,
            peer: None,
            pending_of: None,
            accepted: false,
            drains_max: usize::MAX,
            addrs: Vec::new().into_iter(),
            failure: None,
        }
    }

    fn tell_opened(&self, hold: &mut SocketGuard<'_>) {
        if let Some(peer) = self.peer {
            self.tell(hold, SocketEvent::Opened(peer));
        }
    }

    fn tell(&self, hold: &mut SocketGuard<'_>, what: SocketEvent) {
        if let Some(owner) = hold.owner {
            self.sink.tell(hold.core, owner, (Conn(hold.id.0), what));
        }
    }

    fn end(&self, hold: &mut SocketGuard<'_>, reason: Option<io::Error>) -> Served {
        self.tell(hold, SocketEvent::Closed(reason));
        Served::Gone
    }

    fn start(&mut self, hold: &mut SocketGuard<'_>, to: io::Result<Host>) -> Served {
        match hold.core.readiness.check().and(to) {
            Err(reason) => self.end(hold, Some(reason)),
            Ok(Host::Addrs(addrs)) => {
                self.addrs = addrs.into_iter();
                self.dial(hold)
            }
            Ok(Host::Name(host, port)) => {
                if let Err(reason) = egress::allowed_name(&host) {
                    return self.end(hold, Some(io::Error::new(io::ErrorKind::PermissionDenied, reason)));
                }
                let (id, owner) = (hold.id, hold.owner);
                let look_up = move || (host.as_str(), port).to_socket_addrs().map(Vec::from_iter);
                hold.core.run_then(look_up, move |core, found| {
                    if let Some(owner) = owner {
                        core.looked_up(id, owner, found);
                    }
                });
                Served::Rest
            }
        }
    }

    /// Dials the next address that can be dialled at all.
    fn dial(&mut self, hold: &mut SocketGuard<'_>) -> Served {
        for addr in self.addrs.by_ref() {
            match Stream::dial(hold, addr) {
                Ok(stream) => {
                    self.stream = Some(stream);
                    return Served::Rest;
                }
                Err(reason) => self.failure = Some(reason),
            }
        }
        let nowhere = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let reason = self.failure.take().unwrap_or_else(nowhere);
        self.end(hold, Some(reason))
    }

    pub(crate) fn serve(
        &mut self,
        hold: &mut SocketGuard<'_>,
        events: FdReadiness,
        space: &mut [u8],
    ) -> Served {
        self.frame_reader.readable |= events.is_readable(FdRole::Main);
        self.send_buffer.writable |= events.is_writable(FdRole::Main);
        match self.state {
            TcpState::Dialling => self.on_dialled(hold, space),
            TcpState::Negotiating => self.negotiate(hold, space),
            TcpState::Open => self.run(hold, space),
            TcpState::PeerDone | TcpState::Closing | TcpState::Finishing => self.flush(hold),
            TcpState::Draining => self.drain(space),
        }
    }

    fn on_dialled(&mut self, hold: &mut SocketGuard<'_>, space: &mut [u8]) -> Served {
        let Some(stream) = &mut self.stream else { return Served::Rest };
        match stream.connected() {
            None => Served::Rest,
            Some(Ok(peer)) => {
                self.failure = None;
                self.peer = Some(peer);
                let layer = self.layer.take();
                if let Some(Err(reason)) = layer.map(|layer| stream.lay(&*layer, peer)) {
                    return self.end(hold, Some(reason));
                }
                self.state = TcpState::Negotiating;
                self.negotiate(hold, space)
            }
            Some(Err(reason)) => {
                self.failure = Some(reason);
                self.leave(hold.core, hold.id);
                self.dial(hold)
            }
        }
    }

    /// Writes and reads, within a share.
    fn run(&mut self, hold: &mut SocketGuard<'_>, space: &mut [u8]) -> Served {
        self.write(hold);
        let (Some(stream), Some(owner)) = (&mut self.stream, hold.owner) else { return Served::Gone };
        let (sink, conn) = (&self.sink, Conn(hold.id.0));
        let tell = |core: &mut Core, frame| sink.tell(core, owner, (conn, SocketEvent::Data(frame)));
        match self.frame_reader.pull(hold.core, owner, stream, space, tell) {
            Pulled::Cut => Served::Again,
            Pulled::Full { fed } => Served::Full { fed },
            Pulled::Dry if self.failure.is_none() => Served::Rest,
            Pulled::Ended(Ok(())) if self.failure.is_none() => {
                self.tell(hold, SocketEvent::Closed(None));
                self.state = TcpState::PeerDone;
                // Behind `Closed`: what the actor writes before it takes that still goes out.
                hold.core.push_system(owner, SystemEvent::SocketSeen(hold.id));
                Served::Rest
            }
            Pulled::Dry | Pulled::Ended(Ok(())) => {
                let reason = self.failure.take();
                self.end(hold, reason)
            }
            Pulled::Ended(Err(reason)) => self.end(hold, Some(reason)),
        }
    }

    fn write(&mut self, hold: &mut SocketGuard<'_>) {
        let Some(stream) = &mut self.stream else { return };
        match self.send_buffer.flush(stream) {
            Flushed::All | Flushed::Blocked => {}
            Flushed::Cut => hold.writes_on = true,
            Flushed::Failed(reason) => {
                // What the peer sent before it went is read first.
                self.failure.get_or_insert(reason);
                self.frame_reader.readable = true;
            }
        }
        if self.state == TcpState::Open && self.send_buffer.take_relief() {
            self.tell(hold, SocketEvent::Writable);
        }
    }

    /// Writes what waits.
    pub(crate) fn flush(&mut self, hold: &mut SocketGuard<'_>) -> Served {
        match self.state {
            TcpState::Open | TcpState::PeerDone => {
                self.write(hold);
                if self.failure.is_some() && self.state == TcpState::Open {
                    Served::Again
                } else {
                    Served::Rest
                }
            }
            TcpState::Closing | TcpState::Finishing => self.write_rest(hold),
            TcpState::Dialling | TcpState::Negotiating | TcpState::Draining => Served::Rest,
        }
    }

    fn write_rest(&mut self, hold: &mut SocketGuard<'_>) -> Served {
        let Some(stream) = &mut self.stream else { return Served::Gone };
        let before = self.send_buffer.len();
        let flushed = match self.send_buffer.flush(stream) {
            Flushed::All => self.send_buffer.after(stream.finish()),
            flushed => flushed,
        };
        match flushed {
            Flushed::All => self.on_rest_written(hold),
            Flushed::Failed(reason) => self.end_closing(hold, Some(reason)),
            Flushed::Blocked => {
                if self.send_buffer.len() < before || !hold.is_timed() {
                    hold.time(CLOSE_WITHIN);
                }
                Served::Rest
            }
            Flushed::Cut => {
                hold.time(CLOSE_WITHIN);
                hold.writes_on = true;
                Served::Rest
            }
        }
    }

    fn on_rest_written(&mut self, hold: &mut SocketGuard<'_>) -> Served {
        if self.state == TcpState::Finishing {
            // The peer has ended already: there is nothing to wait for.
            return Served::Gone;
        }
        self.tell(hold, SocketEvent::Closed(None));
        self.end_half(hold)
    }

    /// Ends this side's half, and waits a while for the peer to end the other.
    fn end_half(&mut self, hold: &mut SocketGuard<'_>) -> Served {
        let ended = self.stream.as_ref().map(|stream| stream.socket.shutdown(Shutdown::Write));
        if !matches!(ended, Some(Ok(()))) {
            return Served::Gone;
        }
        self.state = TcpState::Draining;
        self.frame_reader.readable = true;
        hold.time(DRAIN_WITHIN);
        Served::Orphan
    }

    fn end_closing(&self, hold: &mut SocketGuard<'_>, reason: Option<io::Error>) -> Served {
        if self.state == TcpState::Closing { self.end(hold, reason) } else { Served::Gone }
    }

    /// Reads what nobody wants, until the peer ends.
    fn drain(&mut self, space: &mut [u8]) -> Served {
        let Some(stream) = &mut self.stream else { return Served::Gone };
        for _ in 0..DRAINS_A_ROUND {
            if !self.frame_reader.readable {
                return Served::Rest;
            }
            if self.drains_max == 0 {
                return Served::Gone;
            }
            self.drains_max -= 1;
            match stream.socket.read(space) {
                Ok(0) => return Served::Gone,
                Ok(_) => {}
                Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => {
                    self.frame_reader.readable = false
                }
                Err(reason) if reason.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Served::Gone,
            }
        }
        Served::Again
    }

    pub(crate) fn on_timer(&mut self, hold: &mut SocketGuard<'_>) -> Served {
        match self.state {
            TcpState::Dialling => self.end(hold, Some(SocketError::ConnectTimedOut.into())),
            TcpState::Negotiating => self.on_silence(hold),
            TcpState::Closing => self.end(hold, Some(SocketError::CloseTimedOut.into())),
            TcpState::Finishing | TcpState::Draining => Served::Gone,
            TcpState::Open | TcpState::PeerDone => Served::Rest,
        }
    }

    /// The actor has taken the peer's end.
    pub(crate) fn on_seen(&mut self, hold: &mut SocketGuard<'_>) -> Served {
        if self.state != TcpState::PeerDone {
            return Served::Rest;
        }
        self.state = TcpState::Finishing;
        match self.write_rest(hold) {
            Served::Rest => Served::Orphan,
            fate => fate,
        }
    }

    /// The actor writes.
    pub(crate) fn push(&mut self, hold: &mut SocketGuard<'_>, data: &[u8]) -> Served {
        match self.state {
            TcpState::Open if self.failure.is_some() => Served::Rest,
            TcpState::Dialling | TcpState::Negotiating | TcpState::Open | TcpState::PeerDone => {
                match self.send_buffer.push(self.framing, data) {
                    Ok(()) => {
                        hold.writes_on = true;
                        Served::Rest
                    }
                    Err(_) if self.state == TcpState::PeerDone => Served::Gone,
                    Err(reason) => self.end(hold, Some(reason.into())),
                }
            }
            TcpState::Closing | TcpState::Finishing | TcpState::Draining => Served::Rest,
        }
    }

    /// The actor closes.
    pub(crate) fn close(&mut self, hold: &mut SocketGuard<'_>) -> Served {
        match self.state {
            TcpState::Dialling | TcpState::Negotiating => return self.end(hold, None),
            TcpState::Open => match self.failure.take() {
                Some(reason) => return self.end(hold, Some(reason)),
                None => self.state = TcpState::Closing,
            },
            TcpState::PeerDone => self.state = TcpState::Finishing,
            TcpState::Closing | TcpState::Finishing | TcpState::Draining => {}
        }
        hold.writes_on = true;
        Served::Rest
    }

    /// The actor has ended: what it wrote goes out once more, and to its end if the connection was closing.
    pub(crate) fn finish(&mut self, hold: &mut SocketGuard<'_>) -> Served {
        match self.state {
            TcpState::Dialling | TcpState::Negotiating => Served::Gone,
            TcpState::Open => {
                self.write(hold);
                self.say_end();
                Served::Gone
            }
            TcpState::PeerDone => {
                self.state = TcpState::Finishing;
                self.write_rest(hold)
            }
            TcpState::Closing | TcpState::Finishing => self.write_rest(hold),
            TcpState::Draining => Served::Rest,
        }
    }

    /// Where all was written, the end is no accident, and a layer has a word for that.
    pub(crate) fn say_end(&mut self) {
        let is_open = !matches!(self.state, TcpState::Dialling | TcpState::Negotiating | TcpState::Draining);
        if is_open
            && self.send_buffer.len() == 0
            && self.failure.is_none()
            && let Some(stream) = &mut self.stream
        {
            // The stream ends in any case; a peer that is not told takes it for cut short.
            drop(stream.finish());
        }
    }

    /// How much waits to be written.
    pub(crate) fn unwritten(&self) -> usize {
        self.send_buffer.len() + self.stream.as_ref().map_or(0, Stream::unwritten)
    }

    pub(crate) fn leave(&mut self, core: &mut Core, id: SocketId) {
        self.forget_pending(core, id);
        if let Some(stream) = self.stream.take() {
            stream.leave(core);
        }
    }
}
