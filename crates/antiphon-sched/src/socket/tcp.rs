//! One TCP connection: dialled or accepted, negotiated, open, closed gracefully.
//!
//! The layer, such as TLS, is negotiated before the actor receives `Opened`. The actor always receives the `Closed` of
//! a connection that it dialled. It receives the `Closed` of an accepted connection only after `Opened`.
//!
//! Each side closes its half. If the peer ends first, the actor may still write until it has handled `Closed`. If the
//! actor closes first, its data is sent, and the data that the peer sends meanwhile is read and dropped. Otherwise the
//! system would reset a socket that is closed with unread bytes, and the peer would lose the end of the actor's data.

mod negotiation;

use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::time::Duration;

use mio::Interest;
use mio::net::TcpStream;

use super::edge_triggered::FdReadiness;
use super::event_sink::EventSink;
use super::frame_reader::{FrameReader, Pulled};
use super::framing::Framing;
use super::layer::Layer;
use super::send_buffer::{Flushed, SendBuffer};
use super::stream::ByteStream;
use super::table::{FdEvents, FdRole, Served, SocketCx, SocketId, SocketKind, Sockets, watch_fd};
use super::{Conn, Host, SocketError, SocketEvent};
use crate::error::JobError;
use crate::event_loop::Source;
use crate::id::Key;
use crate::scheduler::{Core, SystemEvent};
use crate::socket::egress;
use crate::thread;
use crate::thread::JobPool;

/// How long a peer may take none of the remaining bytes of a closed connection.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);
/// How long a peer may go on sending after this side has ended.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);
/// Reads of unwanted data of one socket a round.
const DRAINS_PER_ROUND: usize = 16;

type ConnSink = Rc<dyn EventSink<(Conn, SocketEvent)>>;

/// A stream that is registered for readiness.
pub(super) struct WatchedStream {
    bytes: ByteStream,
    source: Source,
}

impl WatchedStream {
    fn dial(cx: &mut SocketCx<'_>, to: SocketAddr, layer: Option<&dyn Layer>) -> io::Result<Self> {
        let layered = layer.map(|layer| layer.dialled(to.ip())).transpose()?;
        Self::watch(cx.core, cx.id, ByteStream::dial(to, layered)?)
    }

    pub(super) fn accepted(
        core: &mut Core,
        id: SocketId,
        tcp: TcpStream,
        layer: Option<&dyn Layer>,
    ) -> io::Result<Self> {
        let layered = layer.map(Layer::accepted).transpose()?;
        Self::watch(core, id, ByteStream::accepted(tcp, layered)?)
    }

    fn watch(core: &mut Core, id: SocketId, mut bytes: ByteStream) -> io::Result<Self> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        let source = watch_fd(core, (id, FdRole::Main), bytes.tcp(), interest)?;
        Ok(Self { bytes, source })
    }
}

pub(crate) struct Tcp {
    framing: Framing,
    sink: ConnSink,
    state: TcpState,
    stream: Option<WatchedStream>,
    frame_reader: FrameReader,
    send_buffer: SendBuffer,
    /// Makes the layer of each stream that is dialled.
    layer: Option<Rc<dyn Layer>>,
    /// The address of the peer, once it is known.
    peer_addr: Option<SocketAddr>,
    /// The listener of which this is a pending connection.
    pending_of: Option<SocketId>,
    /// A listener accepted the connection: the actor does not know of it before it is open.
    is_accepted: bool,
    /// The number of reads of unwanted data that are left.
    drains_left: usize,
    /// The addresses that are not tried yet.
    addrs: std::vec::IntoIter<SocketAddr>,
    /// Why the last address failed, or why writing failed.
    failure: Option<io::Error>,
}

#[derive(Copy, Clone, PartialEq, Eq)]
enum TcpState {
    /// A name is being looked up, or an address is being dialled.
    Dialling,
    /// TCP has connected; the layer is not negotiated, or the actor's mailbox has no room for `Opened`.
    Negotiating,
    Open,
    /// The peer has ended; `Closed` is in the actor's mailbox, and may not be handled yet.
    PeerEnded,
    /// The actor has closed the connection; `Closed` is sent when all is written.
    Closing,
    /// `Closed` was delivered; the remaining data of the actor is being written.
    Finishing,
    /// All is written, and this side's half is shut down; incoming data is dropped until the peer ends.
    Draining,
}

impl Sockets<'_> {
    pub(crate) fn connect(
        &mut self,
        owner: Key,
        to: io::Result<Host>,
        layer: Option<Rc<dyn Layer>>,
        framing: Framing,
        timeout: Duration,
        sink: ConnSink,
    ) -> Conn {
        let id = self.core.sockets_mut().next_conn();
        let tcp = Tcp { layer, ..Tcp::new(framing, sink, TcpState::Dialling, None) };
        self.insert_socket(id, owner, SocketKind::Tcp(Box::new(tcp)));
        self.with_own_tcp(id, owner, |tcp, cx| {
            cx.set_timer(timeout);
            tcp.start(cx, to)
        });
        Conn(id.0)
    }

    /// Takes the result of a look-up for a connection.
    fn on_resolved(
        &mut self,
        id: SocketId,
        owner: Key,
        found: Result<io::Result<Vec<SocketAddr>>, JobError>,
    ) {
        let found = found.unwrap_or_else(|reason| Err(io::Error::other(reason)));
        self.with_own_tcp(id, owner, |tcp, cx| match found {
            Ok(addrs) => {
                tcp.addrs = addrs.into_iter();
                tcp.dial(cx)
            }
            Err(reason) => tcp.end(cx, Some(reason)),
        });
    }
}

impl Tcp {
    fn new(framing: Framing, sink: ConnSink, state: TcpState, stream: Option<WatchedStream>) -> Self {
        Self {
            framing,
            sink,
            state,
            stream,
            frame_reader: FrameReader::new(framing),
            send_buffer: SendBuffer::default(),
            layer: None,
            peer_addr: None,
            pending_of: None,
            is_accepted: false,
            drains_left: usize::MAX,
            addrs: Vec::new().into_iter(),
            failure: None,
        }
    }

    fn emit_opened(&self, cx: &mut SocketCx<'_>) {
        if let Some(peer) = self.peer_addr {
            self.emit(cx, SocketEvent::Opened(peer));
        }
    }

    fn emit(&self, cx: &mut SocketCx<'_>, event: SocketEvent) {
        if let Some(owner) = cx.owner {
            self.sink.emit(cx.core, owner, (Conn(cx.id.0), event));
        }
    }

    fn end(&self, cx: &mut SocketCx<'_>, reason: Option<io::Error>) -> Served {
        self.emit(cx, SocketEvent::Closed(reason));
        Served::Ended
    }

    fn start(&mut self, cx: &mut SocketCx<'_>, to: io::Result<Host>) -> Served {
        match cx.core.readiness_mut().check().and(to) {
            Err(reason) => self.end(cx, Some(reason)),
            Ok(Host::Addrs(addrs)) => {
                self.addrs = addrs.into_iter();
                self.dial(cx)
            }
            Ok(Host::Name(host, port)) => {
                if let Err(reason) = egress::allowed_name(&host) {
                    return self.end(cx, Some(io::Error::new(io::ErrorKind::PermissionDenied, reason)));
                }
                let (id, owner) = (cx.id, cx.owner);
                let look_up = move || (host.as_str(), port).to_socket_addrs().map(Vec::from_iter);
                thread::run_then(cx.core, JobPool::Names, look_up, move |core, found| {
                    if let Some(owner) = owner {
                        Sockets::of(core).on_resolved(id, owner, found);
                    }
                });
                Served::Idle
            }
        }
    }

    /// Dials the next address for which dialling can begin.
    fn dial(&mut self, cx: &mut SocketCx<'_>) -> Served {
        for addr in self.addrs.by_ref() {
            match WatchedStream::dial(cx, addr, self.layer.as_deref()) {
                Ok(stream) => {
                    self.stream = Some(stream);
                    return Served::Idle;
                }
                Err(reason) => self.failure = Some(reason),
            }
        }
        let no_address =
            || io::Error::new(io::ErrorKind::NotFound, "the endpoint has no address to connect to");
        let reason = self.failure.take().unwrap_or_else(no_address);
        self.end(cx, Some(reason))
    }

    pub(crate) fn serve(&mut self, cx: &mut SocketCx<'_>, events: FdEvents, buffer: &mut [u8]) -> Served {
        if let Some(stream) = &mut self.stream {
            stream.bytes.note(events.of(FdRole::Main));
        }
        match self.state {
            TcpState::Dialling => self.on_dialled(cx, buffer),
            TcpState::Negotiating => self.negotiate(cx, buffer),
            TcpState::Open => self.run(cx, buffer),
            TcpState::PeerEnded | TcpState::Closing | TcpState::Finishing => self.flush(cx),
            TcpState::Draining => self.drain(buffer),
        }
    }

    fn on_dialled(&mut self, cx: &mut SocketCx<'_>, buffer: &mut [u8]) -> Served {
        let Some(stream) = &mut self.stream else { return Served::Idle };
        match stream.bytes.connected() {
            None => Served::Idle,
            Some(Ok(peer)) => {
                self.failure = None;
                self.peer_addr = Some(peer);
                self.state = TcpState::Negotiating;
                self.negotiate(cx, buffer)
            }
            Some(Err(reason)) => {
                self.failure = Some(reason);
                self.release(cx.core, cx.id);
                self.dial(cx)
            }
        }
    }

    /// Writes and reads, each within its share.
    fn run(&mut self, cx: &mut SocketCx<'_>, buffer: &mut [u8]) -> Served {
        self.write(cx);
        let (Some(stream), Some(owner)) = (&mut self.stream, cx.owner) else { return Served::Ended };
        let (sink, conn) = (&self.sink, Conn(cx.id.0));
        let deliver = |core: &mut Core, frame| sink.emit(core, owner, (conn, SocketEvent::Data(frame)));
        match self.frame_reader.pull(cx.core, owner, &mut stream.bytes, buffer, deliver) {
            Pulled::ShareUsed => Served::Again,
            Pulled::Full { delivered } => Served::Full { delivered },
            Pulled::Empty if self.failure.is_none() => Served::Idle,
            Pulled::Ended(Ok(())) if self.failure.is_none() => {
                self.emit(cx, SocketEvent::Closed(None));
                self.state = TcpState::PeerEnded;
                // This event follows `Closed`: data that the actor writes until then is still sent.
                cx.core.push_system(owner, SystemEvent::SocketCloseHandled(cx.id));
                Served::Idle
            }
            Pulled::Empty | Pulled::Ended(Ok(())) => {
                let reason = self.failure.take();
                self.end(cx, reason)
            }
            Pulled::Ended(Err(reason)) => self.end(cx, Some(reason)),
        }
    }

    fn write(&mut self, cx: &mut SocketCx<'_>) {
        let Some(stream) = &mut self.stream else { return };
        match self.send_buffer.flush(&mut stream.bytes) {
            Flushed::All | Flushed::Blocked => {}
            Flushed::ShareUsed => cx.has_output = true,
            Flushed::Failed(reason) => {
                // The data that the peer sent before is read first.
                self.failure.get_or_insert(reason);
                stream.bytes.note(FdReadiness::READ_TO_END);
            }
        }
        if self.state == TcpState::Open && self.send_buffer.take_writable_event() {
            self.emit(cx, SocketEvent::Writable);
        }
    }

    /// Writes the waiting bytes.
    pub(crate) fn flush(&mut self, cx: &mut SocketCx<'_>) -> Served {
        match self.state {
            TcpState::Open | TcpState::PeerEnded => {
                self.write(cx);
                if self.failure.is_some() && self.state == TcpState::Open {
                    Served::Again
                } else {
                    Served::Idle
                }
            }
            TcpState::Closing | TcpState::Finishing => self.write_rest(cx),
            TcpState::Dialling | TcpState::Negotiating | TcpState::Draining => Served::Idle,
        }
    }

    fn write_rest(&mut self, cx: &mut SocketCx<'_>) -> Served {
        let Some(stream) = &mut self.stream else { return Served::Ended };
        let before = self.send_buffer.len();
        let flushed = match self.send_buffer.flush(&mut stream.bytes) {
            Flushed::All => self.send_buffer.on_stream_flushed(stream.bytes.finish()),
            flushed => flushed,
        };
        match flushed {
            Flushed::All => self.on_rest_written(cx),
            Flushed::Failed(reason) => self.end_closing(cx, Some(reason)),
            Flushed::Blocked => {
                if self.send_buffer.len() < before || !cx.has_timer() {
                    cx.set_timer(CLOSE_WITHIN);
                }
                Served::Idle
            }
            Flushed::ShareUsed => {
                cx.set_timer(CLOSE_WITHIN);
                cx.has_output = true;
                Served::Idle
            }
        }
    }

    fn on_rest_written(&mut self, cx: &mut SocketCx<'_>) -> Served {
        if self.state == TcpState::Finishing {
            // The peer has ended already.
            return Served::Ended;
        }
        self.emit(cx, SocketEvent::Closed(None));
        self.shutdown_write(cx)
    }

    /// Shuts this side's half down, and waits up to `DRAIN_WITHIN` for the peer to end its half.
    fn shutdown_write(&mut self, cx: &mut SocketCx<'_>) -> Served {
        let Some(stream) = &mut self.stream else { return Served::Ended };
        if stream.bytes.tcp().shutdown(Shutdown::Write).is_err() {
            return Served::Ended;
        }
        self.state = TcpState::Draining;
        stream.bytes.note(FdReadiness::READ_TO_END);
        cx.set_timer(DRAIN_WITHIN);
        Served::Orphan
    }

    fn end_closing(&self, cx: &mut SocketCx<'_>, reason: Option<io::Error>) -> Served {
        if self.state == TcpState::Closing { self.end(cx, reason) } else { Served::Ended }
    }

    /// Reads and drops data, until the peer ends.
    fn drain(&mut self, buffer: &mut [u8]) -> Served {
        let Some(stream) = &mut self.stream else { return Served::Ended };
        for _ in 0..DRAINS_PER_ROUND {
            if !stream.bytes.below().is_readable() {
                return Served::Idle;
            }
            if self.drains_left == 0 {
                return Served::Ended;
            }
            self.drains_left -= 1;
            match stream.bytes.below().read(buffer) {
                Ok(0) => return Served::Ended,
                Ok(_) => {}
                Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => return Served::Idle,
                Err(reason) if reason.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Served::Ended,
            }
        }
        Served::Again
    }

    pub(crate) fn on_timer(&mut self, cx: &mut SocketCx<'_>) -> Served {
        match self.state {
            TcpState::Dialling => self.end(cx, Some(SocketError::ConnectTimedOut.into())),
            TcpState::Negotiating => self.on_negotiation_timeout(cx),
            TcpState::Closing => self.end(cx, Some(SocketError::CloseTimedOut.into())),
            TcpState::Finishing | TcpState::Draining => Served::Ended,
            TcpState::Open | TcpState::PeerEnded => Served::Idle,
        }
    }

    /// The actor has handled the `Closed` that the peer's end caused.
    pub(crate) fn on_close_handled(&mut self, cx: &mut SocketCx<'_>) -> Served {
        if self.state != TcpState::PeerEnded {
            return Served::Idle;
        }
        self.state = TcpState::Finishing;
        match self.write_rest(cx) {
            Served::Idle => Served::Orphan,
            outcome => outcome,
        }
    }

    /// Queues a frame that the actor writes.
    pub(crate) fn push(&mut self, cx: &mut SocketCx<'_>, data: &[u8]) -> Served {
        match self.state {
            TcpState::Open if self.failure.is_some() => Served::Idle,
            TcpState::Dialling | TcpState::Negotiating | TcpState::Open | TcpState::PeerEnded => {
                match self.send_buffer.push(self.framing, data) {
                    Ok(()) => {
                        cx.has_output = true;
                        Served::Idle
                    }
                    Err(_) if self.state == TcpState::PeerEnded => Served::Ended,
                    Err(reason) => self.end(cx, Some(reason.into())),
                }
            }
            TcpState::Closing | TcpState::Finishing | TcpState::Draining => Served::Idle,
        }
    }

    /// Closes the connection for the actor.
    pub(crate) fn close(&mut self, cx: &mut SocketCx<'_>) -> Served {
        match self.state {
            TcpState::Dialling | TcpState::Negotiating => return self.end(cx, None),
            TcpState::Open => match self.failure.take() {
                Some(reason) => return self.end(cx, Some(reason)),
                None => self.state = TcpState::Closing,
            },
            TcpState::PeerEnded => self.state = TcpState::Finishing,
            TcpState::Closing | TcpState::Finishing | TcpState::Draining => {}
        }
        cx.has_output = true;
        Served::Idle
    }

    /// The actor has exited: writes what the system accepts at once; the data of a closing connection is written
    /// completely.
    pub(crate) fn finish(&mut self, cx: &mut SocketCx<'_>) -> Served {
        match self.state {
            TcpState::Dialling | TcpState::Negotiating => Served::Ended,
            TcpState::Open => {
                self.write(cx);
                self.send_layer_end();
                Served::Ended
            }
            TcpState::PeerEnded => {
                self.state = TcpState::Finishing;
                self.write_rest(cx)
            }
            TcpState::Closing | TcpState::Finishing => self.write_rest(cx),
            TcpState::Draining => Served::Idle,
        }
    }

    /// Sends the end mark of the layer, if the connection is open and all data is written.
    pub(crate) fn send_layer_end(&mut self) {
        let is_open = !matches!(self.state, TcpState::Dialling | TcpState::Negotiating | TcpState::Draining);
        if is_open
            && self.send_buffer.len() == 0
            && self.failure.is_none()
            && let Some(stream) = &mut self.stream
        {
            // The stream ends even if this fails; then the peer treats the data as truncated.
            drop(stream.bytes.finish());
        }
    }

    /// The number of bytes that wait to be written.
    pub(crate) fn unwritten(&self) -> usize {
        self.send_buffer.len() + self.stream.as_ref().map_or(0, |stream| stream.bytes.unwritten())
    }

    pub(crate) fn release(&mut self, core: &mut Core, id: SocketId) {
        self.forget_pending(core, id);
        if let Some(mut stream) = self.stream.take() {
            core.readiness_mut().deregister_socket(stream.source, stream.bytes.tcp());
        }
    }
}
