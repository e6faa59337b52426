//! The driver: performs the node's input and output with sockets and clocks. The only impure part of this crate.
//!
//! Each round has four parts. It sleeps until there is something to do. The driver reads arrived bytes straight into the core's buffers. The loop runs its actors.
//! The core seals the messages that they sent, and the driver writes them. So a request with an immediate reply costs one
//! wait, one read and one write.

mod entropy;
mod interfaces;
mod sockets;
mod tls;
mod udp;

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use antiphon_sched::{
    Addr, EXTERNAL_TOKENS, Event, ExternalReadiness, JobPool, LocalActors, Loop, Time, actor, egress, receive,
};
use antiphon_wire::Entropy;
use mio::Registry;

use crate::config::Config;
use crate::error::NodeError;
use crate::location::Location;
use crate::node::{ConnId, Driver, Input, NodeCore, Output, Settings, is_flood};
pub use entropy::{NoRandomness, system_entropy};
use interfaces::ListenInterface;
use sockets::{NodeSockets, Opening, fault_of_tls};
pub use tls::{Tls, TlsAt, TlsConfig};
use udp::UdpSockets;

/// Resolves a host name and a port; runs on a thread of the blocking pool.
pub type Resolver = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

const LISTENER: usize = EXTERNAL_TOKENS;
const UDP_FIRST: usize = EXTERNAL_TOKENS + 1;
const UDP_SOCKETS_MAX: usize = FIRST_SOCKET - UDP_FIRST;
const FIRST_SOCKET: usize = EXTERNAL_TOKENS + 16;

/// If the process does not run for longer than this, the keepalive of its peers is extended by that time.
const STALL: Duration = Duration::from_secs(1);

pub(crate) struct NetDriver {
    sockets: NodeSockets,
    udp: UdpSockets,
    resolver: Addr<ResolverMessage>,
    ready: Vec<ExternalReadiness>,
    /// The UDP sockets that the limit of the last round left unfinished.
    unfinished_udp: Vec<usize>,
    /// Empty between two rounds: its memory is used again.
    ready_sockets: Vec<ConnId>,
    outputs: Vec<Output>,
    /// When the loop was parked last, and the latest time at which it was to wake.
    parked_at: Time,
    wake_by: Option<Time>,
    /// When the core needs its next tick.
    next_timeout: Option<Time>,
}

/// The [`Driver`] of the core during one call.
struct NetDriverCx<'c, 'l> {
    local: &'c mut LocalActors<'l>,
    outputs: &'c mut Vec<Output>,
}

impl Driver for NetDriverCx<'_, '_> {
    fn local(&mut self) -> LocalActors<'_> {
        self.local.reborrow()
    }

    fn output(&mut self, output: Output) {
        self.outputs.push(output);
    }

    fn entropy(&mut self) -> Option<Entropy> {
        system_entropy()
            .inspect_err(
                |reason| tracing::error!(%reason, "the system returned no random numbers for a handshake"),
            )
            .ok()
    }
}

impl NetDriver {
    /// Opens the sockets of a node, and puts its core into the loop.
    pub(crate) fn open(
        config: &Config,
        sched: &mut Loop,
        resolve: Resolver,
    ) -> Result<(Self, Location), NodeError> {
        Settings::check(config)?;
        let registry = registry_of(sched)?;
        let tls = Tls::of(config)?;
        let shared_certificate = tls.as_ref().and_then(Tls::shared);
        let interface = ListenInterface::of(config.ip, config.scope_id);
        let sockets = NodeSockets::listen(interface.at(config.tcp_port), tls, &registry)?;
        let location = Location::new(sockets.local());
        let udp = UdpSockets::open(&interface, config.discovery_port(), config.discover_peers, &registry)?;
        let networks = interfaces::own_networks(config.ip);
        let settings = Settings::new(config, sched.node_id().to_bits(), location, networks)?;
        let settings = Settings { shared_certificate, may_contact: egress::allowed, ..settings };
        sched.set_transport(Box::new(NodeCore::new(sched.node_id(), settings)));
        let resolver = spawn_resolver(sched, resolve);
        let driver = Self {
            sockets,
            udp,
            resolver,
            ready: Vec::new(),
            unfinished_udp: Vec::new(),
            ready_sockets: Vec::new(),
            outputs: Vec::new(),
            parked_at: Time::ZERO,
            wake_by: None,
            next_timeout: None,
        };
        Ok((driver, location))
    }

    /// Performs one round: waits, at most until `deadline`; reads; runs the actors; writes.
    pub(crate) fn round(&mut self, sched: &mut Loop, deadline: Option<Time>) -> Result<(), NodeError> {
        let until = [deadline, self.next_timeout, self.sockets.accept_at()].into_iter().flatten().min();
        self.ready.clear();
        let busy = self.sockets.is_busy(sched.now()) || !self.unfinished_udp.is_empty();
        let until = if busy { Some(sched.now()) } else { until };
        self.parked_at = sched.now();
        self.wake_by = [until, sched.next_deadline()].into_iter().flatten().min();
        sched.park(until, &mut self.ready)?;
        self.with_core(sched, |driver, core, local| {
            driver.notice_stall(core, local);
            driver.read(core, local);
        });
        let started = sched.now();
        sched.work();
        let worked = sched.now().since(started);
        if worked > STALL {
            // The driver has read nothing meanwhile: the peers were not necessarily silent.
            self.input(sched, Input::Stalled(worked));
        }
        self.flush(sched);
        Ok(())
    }

    /// Runs the due timers of the core, and writes its pending bytes.
    pub(crate) fn flush(&mut self, sched: &mut Loop) {
        self.with_core(sched, |driver, core, local| driver.process(core, local, Input::Tick));
    }

    /// Processes an input that does not come from a socket, such as the start of the node.
    pub(crate) fn input(&mut self, sched: &mut Loop, input: Input<'_>) {
        self.with_core(sched, |driver, core, local| driver.process(core, local, input));
    }

    /// Calls `act` with the core and the local actors. Notes afterwards when the core has to run again.
    fn with_core(
        &mut self,
        sched: &mut Loop,
        act: impl FnOnce(&mut Self, &mut NodeCore, &mut LocalActors<'_>),
    ) {
        sched.with_transport(|core, local| act(self, core, local));
        // The core has received the signals that the call has caused.
        let now = sched.now();
        let mut loop_ref = sched.loop_ref();
        let core = loop_ref.transport::<NodeCore>();
        self.next_timeout =
            core.and_then(|core| if core.is_dirty() { Some(now) } else { core.next_timeout() });
    }

    /// Passes an input to the core, and performs its outputs and those that they cause.
    fn process(&mut self, core: &mut NodeCore, local: &mut LocalActors<'_>, input: Input<'_>) {
        handle(core, local, &mut self.outputs, input);
        let mut next = 0;
        while next < self.outputs.len() {
            let output = std::mem::replace(&mut self.outputs[next], Output::Write(ConnId(0)));
            next += 1;
            self.perform(core, local, output);
        }
        self.outputs.clear();
    }

    fn perform(&mut self, core: &mut NodeCore, local: &mut LocalActors<'_>, output: Output) {
        match output {
            Output::Write(conn) => self.write(core, local, conn),
            Output::Dial(conn, to) => {
                if let Err(reason) = self.sockets.dial(conn, to, local.registry()) {
                    if reason.kind() == io::ErrorKind::QuotaExceeded {
                        core.note_few_descriptors(to);
                    }
                    let refused = reason.kind() == io::ErrorKind::ConnectionRefused;
                    handle(core, local, &mut self.outputs, Input::DialFailed { conn, refused });
                }
            }
            Output::Close(conn) => self.sockets.close(conn, local.registry()),
            Output::Datagram(to, bytes) => self.udp.send(to, &bytes),
            Output::Broadcast(bytes) => {
                self.follow_interface(core, local);
                self.udp.broadcast(&bytes);
            }
            Output::Siblings(bytes) => self.udp.send_to_siblings(&bytes),
            Output::Ask(to, bytes) => self.udp.send_probe(to, &bytes),
            Output::UseTls(tls) => self.sockets.set_tls(tls),
            Output::Resolve { query, host, port } => {
                if let Err(error) = local.send(self.resolver, ResolverMessage::Resolve(query, host, port)) {
                    core.resolved(query, Err(error.to_string()));
                }
            }
        }
    }

    /// Before an announcement: opens the sockets of discovery again if the interface has changed.
    fn follow_interface(&mut self, core: &mut NodeCore, local: &mut LocalActors<'_>) {
        let Some(registry) = local.registry() else { return };
        if self.udp.follow_interface(registry) {
            let networks = interfaces::own_networks(self.sockets.local().ip());
            handle(core, local, &mut self.outputs, Input::Networks(networks));
        }
    }

    fn write(&mut self, core: &mut NodeCore, local: &mut LocalActors<'_>, conn: ConnId) {
        loop {
            let bytes = core.outgoing(conn);
            if bytes.is_empty() {
                return;
            }
            match self.sockets.write(conn, bytes) {
                Ok(0) => return,
                Ok(count) => handle(core, local, &mut self.outputs, Input::Written(conn, count)),
                Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return handle(core, local, &mut self.outputs, Input::Closed(conn)),
            }
        }
    }

    /// Reports a stall to the core if the process has not run for long: the peers were not necessarily silent.
    fn notice_stall(&mut self, core: &mut NodeCore, local: &mut LocalActors<'_>) {
        let now = local.now();
        let due = self.wake_by.map_or(now, |wake_by| wake_by.max(self.parked_at));
        let stalled = now.since(due);
        if self.wake_by.is_some() && stalled > STALL {
            self.process(core, local, Input::Stalled(stalled));
        }
    }

    fn read(&mut self, core: &mut NodeCore, local: &mut LocalActors<'_>) {
        let mut udp = std::mem::take(&mut self.unfinished_udp);
        for event in self.ready.drain(..) {
            match event.token.0 {
                token if (UDP_FIRST..FIRST_SOCKET).contains(&token) => udp.push(token),
                _ => self.sockets.note_event(&event),
            }
        }
        udp.sort_unstable();
        udp.dedup();
        let mut ready = std::mem::take(&mut self.ready_sockets);
        self.sockets.begin_round(&mut ready);
        for token in udp {
            self.read_datagrams(core, local, token);
        }
        for conn in ready.drain(..) {
            self.on_socket(core, local, conn);
        }
        self.ready_sockets = ready;
        // Last, because new connections may replace some whose hellos were read just now.
        self.accept(core, local);
    }

    fn accept(&mut self, core: &mut NodeCore, local: &mut LocalActors<'_>) {
        for _ in 0..sockets::ACCEPTS_A_ROUND {
            let now = local.now();
            let Some((tcp, remote)) = self.sockets.accept(now) else { return };
            let conn = core.accept(now, remote, &mut NetDriverCx { local, outputs: &mut self.outputs });
            let Some(conn) = conn else { continue };
            match self.sockets.add(conn, tcp, local.registry()) {
                // The TLS handshake starts when the first byte arrives.
                Ok(()) if self.sockets.has_tls() => {}
                Ok(()) => {
                    self.open_conn(core, local, conn);
                }
                Err(reason) => {
                    if core.may_log("not set up", remote.ip()) {
                        tracing::warn!(
                            %remote, %reason,
                            "an accepted connection cannot be set up; it is closed (logged at most once an hour)"
                        );
                    }
                    self.process(core, local, Input::Closed(conn));
                }
            }
        }
    }

    fn on_socket(&mut self, core: &mut NodeCore, local: &mut LocalActors<'_>, conn: ConnId) {
        // TLS may have read data together with the last message of the handshake.
        if self.sockets.is_open(conn) || self.open_conn(core, local, conn) {
            self.resume_writing(core, local, conn);
            self.read_socket(core, local, conn);
        }
    }

    /// Continues to open a connection. Returns whether it is open.
    fn open_conn(&mut self, core: &mut NodeCore, local: &mut LocalActors<'_>, conn: ConnId) -> bool {
        let (input, is_open) = match self.sockets.open(conn) {
            Opening::Pending => return false,
            Opening::Open(tls) if core.is_dialled(conn) => (Input::Connected { conn, tls }, true),
            Opening::Open(tls) => (Input::Accepted { conn, tls }, true),
            Opening::DialFailed { refused } => {
                self.sockets.close(conn, local.registry());
                (Input::DialFailed { conn, refused }, false)
            }
            Opening::TlsFailed(fault) => (Input::TlsFailed { conn, fault }, false),
            Opening::Closed => (Input::Closed(conn), false),
        };
        self.process(core, local, input);
        is_open
    }

    fn resume_writing(&mut self, core: &mut NodeCore, local: &mut LocalActors<'_>, conn: ConnId) {
        match self.sockets.flush(conn) {
            Ok(()) => self.write(core, local, conn),
            Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => {}
            // The next read returns the error and closes the connection.
            Err(reason) => tracing::debug!(%reason, "sealed records cannot be written"),
        }
    }

    /// Reads one share of a connection into the core.
    #[expect(clippy::disallowed_methods, reason = "the time of the loop stands still during a round")]
    fn read_socket(&mut self, core: &mut NodeCore, local: &mut LocalActors<'_>, conn: ConnId) {
        let (begun, mut control_frames, mut has_more) = (Instant::now(), 0, true);
        for _ in 0..sockets::READS_A_ROUND {
            // What is left of the reads before comes first.
            let count = if core.has_unread(conn) {
                0
            } else {
                let space = core.space(conn);
                if space.is_empty() {
                    return;
                }
                match self.sockets.read(conn, space) {
                    Ok((0, _)) => return self.process(core, local, Input::Closed(conn)),
                    Ok((count, more)) => {
                        has_more = more;
                        count
                    }
                    Err(reason) => match reason.kind() {
                        io::ErrorKind::WouldBlock => {
                            has_more = false;
                            break;
                        }
                        io::ErrorKind::Interrupted => break,
                        _ => {
                            let failed = fault_of_tls(&reason).map(|fault| Input::TlsFailed { conn, fault });
                            return self.process(core, local, failed.unwrap_or(Input::Closed(conn)));
                        }
                    },
                }
            };
            handle(core, local, &mut self.outputs, Input::Received(conn, count));
            control_frames += core.control_frames();
            if !has_more || is_flood(control_frames) || begun.elapsed() >= sockets::READ_TIME {
                break;
            }
        }
        let is_over_time = has_more && begun.elapsed() >= sockets::READ_TIME;
        self.sockets.set_over_share(conn, is_flood(control_frames) || is_over_time);
        if has_more || core.has_unread(conn) {
            self.sockets.queue(conn);
        }
        self.drain_outputs(core, local);
    }

    fn drain_outputs(&mut self, core: &mut NodeCore, local: &mut LocalActors<'_>) {
        if !self.outputs.is_empty() {
            self.process(core, local, Input::Tick);
        }
    }

    fn read_datagrams(&mut self, core: &mut NodeCore, local: &mut LocalActors<'_>, token: usize) {
        let mut bytes = [0; 2048];
        for _ in 0..udp::READS_A_ROUND {
            let Some(received) = self.udp.receive(token - UDP_FIRST, &mut bytes) else { return };
            self.process(core, local, Input::Datagram(received.1, &bytes[..received.0]));
        }
        // Readiness is edge-triggered, and further datagrams may wait in the socket.
        self.unfinished_udp.push(token);
    }
}

fn handle(core: &mut NodeCore, local: &mut LocalActors<'_>, outputs: &mut Vec<Output>, input: Input<'_>) {
    let now = local.now();
    core.handle(now, input, &mut NetDriverCx { local, outputs });
}

fn registry_of(sched: &Loop) -> Result<Registry, NodeError> {
    let cloned = sched.registry().map(Registry::try_clone);
    match cloned {
        Some(Ok(registry)) => Ok(registry),
        Some(Err(reason)) => Err(antiphon_sched::LoopError::Poll(reason).into()),
        None => Err(antiphon_sched::LoopError::Poll(io::Error::new(
            io::ErrorKind::Unsupported,
            "a node needs a loop on `Platform::System`; simulate it with antiphon-sim",
        ))
        .into()),
    }
}

/// A message of the resolver, a daemon in the loop.
enum ResolverMessage {
    Resolve(u64, String, u16),
    Resolved(u64, Result<Vec<SocketAddr>, String>),
}

/// Starts the resolver, which resolves hosts on the blocking pool and passes the results to the core.
fn spawn_resolver(sched: &mut Loop, resolve: Resolver) -> Addr<ResolverMessage> {
    sched.loop_ref().spawn_service(actor(move |cx, event| {
        match event {
            Event::Start => {
                cx.set_name("resolver");
            }
            Event::Message(ResolverMessage::Resolve(query, host, port)) => cx.blocking_on(
                JobPool::Names,
                move || resolve(&host, port).map_err(|reason| reason.to_string()),
                move |done| {
                    ResolverMessage::Resolved(query, done.unwrap_or_else(|reason| Err(reason.to_string())))
                },
            ),
            Event::Message(ResolverMessage::Resolved(query, found)) => {
                if let Some(core) = cx.loop_ref().transport::<NodeCore>() {
                    core.resolved(query, found);
                }
            }
            _ => {}
        }
        receive()
    }))
}
