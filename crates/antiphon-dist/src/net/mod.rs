//! The driver: sockets and clocks, in the service of the core. The only impure part of this crate.
//!
//! Each round: what has arrived is read straight into the core's buffers; the loop runs its actors; what
//! they sent is sealed by the core and written. So a message that is answered at once costs one wait, one
//! read and one write.

mod interfaces;
mod sockets;
mod tls;
mod udp;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use antiphon_sched::{Addr, EXTERNAL_TOKENS, Event, ExternalReadiness, Loop, LoopRef, Time, receive};
use antiphon_wire::{Entropy, TlsFault};
use mio::Registry;

use crate::config::Config;
use crate::error::NodeError;
use crate::location::Location;
use crate::node::{ConnId, Driver, Input, NodeCore, Output, Settings};
use interfaces::ListenInterface;
use sockets::NodeSockets;
use tls::Opening;
pub use tls::{Tls, TlsAt, TlsConfig};
use udp::UdpSockets;

/// Looks a host up; runs on a helper thread.
pub type Resolver = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

const LISTENER: usize = EXTERNAL_TOKENS;
const UDP_FIRST: usize = EXTERNAL_TOKENS + 1;
const UDP_SOCKETS_MAX: usize = FIRST_SOCKET - UDP_FIRST;
const FIRST_SOCKET: usize = EXTERNAL_TOKENS + 16;

/// A pause of the whole process over which nobody's silence is suspicious.
const STALL: Duration = Duration::from_secs(1);

pub(crate) struct NetDriver {
    sockets: NodeSockets,
    udp: UdpSockets,
    resolver: Addr<ResolverMessage>,
    ready: Vec<ExternalReadiness>,
    /// Discovery's sockets that were cut off by their share of the last round.
    unheard: Vec<ExternalReadiness>,
    outputs: Vec<Output>,
    /// When the last round ended, and when the next was to begin at the latest.
    rested: Time,
    planned: Option<Time>,
    next_timeout: Option<Time>,
}

/// What the core stands on, for the length of one call.
struct NetDriverCx<'a> {
    sched: &'a mut Loop,
    outputs: &'a mut Vec<Output>,
}

impl Driver for NetDriverCx<'_> {
    fn loop_ref(&mut self) -> LoopRef<'_> {
        self.sched.loop_ref()
    }

    fn output(&mut self, output: Output) {
        self.outputs.push(output);
    }

    fn entropy(&mut self) -> Option<Entropy> {
        Entropy::system().inspect_err(|reason| tracing::error!(%reason, "no handshake is possible")).ok()
    }
}

impl NetDriver {
    /// Opens the ports of a node, and puts its core into the loop.
    pub(crate) fn open(
        config: &Config,
        sched: &mut Loop,
        resolve: Resolver,
    ) -> Result<(Self, Location), NodeError> {
        Settings::check(config)?;
        let registry = registry_of(sched)?;
        let tls = Tls::of(config)?;
        let shared_certificate = tls.as_ref().and_then(Tls::shared);
        let near = ListenInterface::of(config.ip, config.scope_id);
        let sockets = NodeSockets::listen(near.at(config.tcp_port), tls, &registry)?;
        let location = Location::new(sockets.local());
        let udp = UdpSockets::open(&near, config.discovery_port(), config.discover_peers, &registry)?;
        let networks = interfaces::own_networks(config.ip);
        let settings = Settings::new(config, sched.node_id().to_bits(), location, networks)?;
        let settings = Settings { shared_certificate, ..settings };
        sched.set_transport(Box::new(NodeCore::new(sched.node_id(), settings)));
        let resolver = spawn_resolver(sched, resolve);
        let driver = Self {
            sockets,
            udp,
            resolver,
            ready: Vec::new(),
            unheard: Vec::new(),
            outputs: Vec::new(),
            rested: Time::ZERO,
            planned: None,
            next_timeout: None,
        };
        Ok((driver, location))
    }

    /// One round: wait, read, run, write. Waits at most until `deadline`.
    pub(crate) fn round(&mut self, sched: &mut Loop, deadline: Option<Time>) -> Result<(), NodeError> {
        let until = [deadline, self.next_timeout, self.sockets.accept_at()].into_iter().flatten().min();
        self.ready.clear();
        let busy = self.sockets.has_unfinished() || !self.unheard.is_empty();
        let until = if busy { Some(sched.now()) } else { until };
        self.rested = sched.now();
        self.planned = [until, sched.next_deadline()].into_iter().flatten().min();
        sched.park(until, &mut self.ready)?;
        self.with_core(sched, |driver, core, sched| {
            driver.notice_stall(core, sched);
            driver.read(core, sched);
        });
        let woken = sched.now();
        sched.work();
        let worked = sched.now().since(woken);
        if worked > STALL {
            // Nobody was listened to meanwhile, so nobody was silent.
            self.input(sched, Input::Stalled(worked));
        }
        self.flush(sched);
        Ok(())
    }

    /// Has the core do what is due, and writes what it has.
    pub(crate) fn flush(&mut self, sched: &mut Loop) {
        self.with_core(sched, |driver, core, sched| driver.give(core, sched, Input::Tick));
    }

    /// Gives the core an input from outside of the round: start, leave.
    pub(crate) fn input(&mut self, sched: &mut Loop, input: Input<'_>) {
        self.with_core(sched, |driver, core, sched| driver.give(core, sched, input));
    }

    /// Takes the core out of the loop for a moment.
    fn with_core(&mut self, sched: &mut Loop, act: impl FnOnce(&mut Self, &mut NodeCore, &mut Loop)) {
        let Some(mut core) = sched.take_transport::<NodeCore>() else { return };
        act(self, &mut core, sched);
        // Signals that arose meanwhile reach the core now.
        sched.set_transport(core);
        let now = sched.now();
        let mut loop_ref = sched.loop_ref();
        let core = loop_ref.transport::<NodeCore>();
        self.next_timeout =
            core.and_then(|core| if core.is_dirty() { Some(now) } else { core.next_timeout() });
    }

    /// Gives the core an input, and does what it wants, until it wants nothing more.
    fn give(&mut self, core: &mut NodeCore, sched: &mut Loop, input: Input<'_>) {
        handle(core, sched, &mut self.outputs, input);
        let mut next = 0;
        while next < self.outputs.len() {
            let output = std::mem::replace(&mut self.outputs[next], Output::Write(ConnId(0)));
            next += 1;
            self.perform(core, sched, output);
        }
        self.outputs.clear();
    }

    fn perform(&mut self, core: &mut NodeCore, sched: &mut Loop, output: Output) {
        match output {
            Output::Write(conn) => self.write(core, sched, conn),
            Output::Dial(conn, to) => {
                if let Err(reason) = self.sockets.dial(conn, to, sched) {
                    let refused = reason.kind() == io::ErrorKind::ConnectionRefused;
                    handle(core, sched, &mut self.outputs, Input::DialFailed { conn, refused });
                }
            }
            Output::Close(conn) => self.sockets.close(conn, sched),
            Output::Datagram(to, bytes) => self.udp.send(to, &bytes),
            Output::Broadcast(bytes) => self.udp.broadcast(&bytes),
            Output::Siblings(bytes) => self.udp.tell_siblings(&bytes),
            Output::Ask(to, bytes) => self.udp.ask(to, &bytes),
            Output::Resolve { query, host, port } => {
                if let Err(error) = sched.send(self.resolver, ResolverMessage::Ask(query, host, port)) {
                    core.resolved(query, Err(error.to_string()));
                }
            }
        }
    }

    fn write(&mut self, core: &mut NodeCore, sched: &mut Loop, conn: ConnId) {
        loop {
            let bytes = core.outgoing(conn);
            if bytes.is_empty() {
                return;
            }
            match self.sockets.write(conn, bytes) {
                Ok(0) => return,
                Ok(count) => handle(core, sched, &mut self.outputs, Input::Written(conn, count)),
                Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return handle(core, sched, &mut self.outputs, Input::Closed(conn)),
            }
        }
    }

    /// Whether this process stood still: silence meanwhile is nobody's fault.
    fn notice_stall(&mut self, core: &mut NodeCore, sched: &mut Loop) {
        let now = sched.now();
        let begin = self.planned.map_or(now, |planned| planned.max(self.rested));
        let stalled = now.since(begin);
        if self.planned.is_some() && stalled > STALL {
            self.give(core, sched, Input::Stalled(stalled));
        }
    }

    fn read(&mut self, core: &mut NodeCore, sched: &mut Loop) {
        let mut ready = std::mem::take(&mut self.ready);
        ready.extend(self.sockets.take_unfinished(sched.now()));
        ready.append(&mut self.unheard);
        for foreign in &ready {
            match foreign.token.0 {
                LISTENER => self.accept(core, sched),
                token if token < FIRST_SOCKET => self.read_datagrams(core, sched, token),
                _ => self.on_socket(core, sched, foreign),
            }
        }
        self.ready = ready;
    }

    fn accept(&mut self, core: &mut NodeCore, sched: &mut Loop) {
        while let Some((stream, remote)) = self.sockets.accept(sched.now()) {
            let now = sched.now();
            let conn = core.accept(now, remote, &mut NetDriverCx { sched, outputs: &mut self.outputs });
            let Some(conn) = conn else { continue };
            match self.sockets.add(conn, stream, sched) {
                // Its first byte begins TLS.
                Ok(()) if self.sockets.is_opening(conn) => {}
                Ok(()) => self.give(core, sched, Input::Accepted { conn, tls: None }),
                Err(reason) => {
                    if core.may_log("unwatched", remote.ip()) {
                        tracing::warn!(%remote, %reason, "a connection cannot be watched (said once an hour)");
                    }
                    self.give(core, sched, Input::Closed(conn));
                }
            }
        }
    }

    fn on_socket(&mut self, core: &mut NodeCore, sched: &mut Loop, foreign: &ExternalReadiness) {
        let Some(conn) = self.sockets.conn_of(foreign.token) else { return };
        if foreign.writable {
            match self.sockets.finish_dial(conn) {
                Some(Ok(())) if self.sockets.is_opening(conn) => {}
                Some(Ok(())) => self.give(core, sched, Input::Connected { conn, tls: None }),
                Some(Err(reason)) => {
                    let refused = reason.kind() == io::ErrorKind::ConnectionRefused;
                    self.sockets.close(conn, sched);
                    return self.give(core, sched, Input::DialFailed { conn, refused });
                }
                None => self.go_on_writing(core, sched, conn),
            }
        }
        if self.sockets.is_opening(conn) {
            // What follows the last message of TLS was perhaps read with it.
            if self.open_tls(core, sched, conn) {
                self.read_socket(core, sched, conn, foreign.closed);
            }
        } else if foreign.readable {
            self.read_socket(core, sched, conn, foreign.closed);
        }
    }

    /// Whether TLS is now agreed on.
    fn open_tls(&mut self, core: &mut NodeCore, sched: &mut Loop, conn: ConnId) -> bool {
        let tls = match self.sockets.open(conn) {
            Opening::Done(told) => Some(told),
            Opening::Pending => return false,
            Opening::Failed(fault) => {
                self.give(core, sched, Input::TlsFailed { conn, fault });
                return false;
            }
            Opening::Gone => {
                self.give(core, sched, Input::Closed(conn));
                return false;
            }
        };
        let input = match core.is_dialled(conn) {
            true => Input::Connected { conn, tls },
            false => Input::Accepted { conn, tls },
        };
        self.give(core, sched, input);
        true
    }

    fn go_on_writing(&mut self, core: &mut NodeCore, sched: &mut Loop, conn: ConnId) {
        match self.sockets.flush(conn) {
            Ok(()) => self.write(core, sched, conn),
            Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => {}
            // Whoever reads next hears why.
            Err(reason) => tracing::debug!(%reason, "what was sealed cannot be written"),
        }
    }

    fn read_socket(&mut self, core: &mut NodeCore, sched: &mut Loop, conn: ConnId, closed: bool) {
        for _ in 0..sockets::READS_A_ROUND {
            let space = core.space(conn);
            let room = space.len();
            if room == 0 {
                return;
            }
            match self.sockets.read(conn, space) {
                Ok(0) => return self.give(core, sched, Input::Closed(conn)),
                Ok(count) => {
                    handle(core, sched, &mut self.outputs, Input::Received(conn, count));
                    // Less than there was room for: the socket is empty, and says when it no longer is.
                    // What is closed says nothing any more: it is read to its end.
                    if count < room && !closed {
                        return self.drain_outputs(core, sched);
                    }
                }
                Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => {
                    return self.drain_outputs(core, sched);
                }
                Err(reason) if reason.kind() == io::ErrorKind::Interrupted => {}
                Err(reason) => {
                    let failed = TlsFault::of(&reason).map(|fault| Input::TlsFailed { conn, fault });
                    return self.give(core, sched, failed.unwrap_or(Input::Closed(conn)));
                }
            }
        }
        self.sockets.note_unfinished(conn);
        self.drain_outputs(core, sched);
    }

    fn drain_outputs(&mut self, core: &mut NodeCore, sched: &mut Loop) {
        if !self.outputs.is_empty() {
            self.give(core, sched, Input::Tick);
        }
    }

    fn read_datagrams(&mut self, core: &mut NodeCore, sched: &mut Loop, token: usize) {
        let mut bytes = [0; 2048];
        for _ in 0..udp::READS_A_ROUND {
            let Some(received) = self.udp.receive(token - UDP_FIRST, &mut bytes) else { return };
            self.give(core, sched, Input::Datagram(received.1, &bytes[..received.0]));
        }
        // Readiness is told once: more may wait, behind a flood.
        let token = mio::Token(token);
        self.unheard.push(ExternalReadiness { token, readable: true, writable: false, closed: false });
    }
}

fn handle(core: &mut NodeCore, sched: &mut Loop, outputs: &mut Vec<Output>, input: Input<'_>) {
    let now = sched.now();
    core.handle(now, input, &mut NetDriverCx { sched, outputs });
}

fn registry_of(sched: &Loop) -> Result<Registry, NodeError> {
    let cloned = sched.registry().map(Registry::try_clone);
    match cloned {
        Some(Ok(registry)) => Ok(registry),
        Some(Err(reason)) => Err(antiphon_sched::LoopError::Poll(reason).into()),
        None => Err(antiphon_sched::LoopError::Poll(io::Error::new(
            io::ErrorKind::Unsupported,
            "a node needs a loop on `Park::Mio`; simulate it with antiphon-sim",
        ))
        .into()),
    }
}

/// A message of the resolver, a daemon in the loop.
enum ResolverMessage {
    Ask(u64, String, u16),
    Done(u64, Result<Vec<SocketAddr>, String>),
}

/// Looks hosts up on the loop's helper threads, and tells the core.
fn spawn_resolver(sched: &mut Loop, resolve: Resolver) -> Addr<ResolverMessage> {
    sched.spawn(move |cx, event| {
        match event {
            Event::Start => {
                cx.set_daemon(true);
                cx.set_name("resolver");
            }
            Event::Message(ResolverMessage::Ask(query, host, port)) => cx.blocking(
                move || resolve(&host, port).map_err(|reason| reason.to_string()),
                move |done| {
                    ResolverMessage::Done(query, done.unwrap_or_else(|reason| Err(reason.to_string())))
                },
            ),
            Event::Message(ResolverMessage::Done(query, found)) => {
                if let Some(core) = cx.loop_ref().transport::<NodeCore>() {
                    core.resolved(query, found);
                }
            }
            _ => {}
        }
        receive()
    })
}
