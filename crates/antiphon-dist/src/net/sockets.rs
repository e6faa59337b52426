//! TCP: the acceptor and the byte streams of connections, with TLS if the node has a certificate.
//!
//! Readiness is edge-triggered: the driver reads a stream until it would block, or queues it for the next round.
//!
//! Invariants: a socket is in the queue of ready ones at most once, so that each gets one share of a round, however often the
//! system reports it. Dials leave some descriptors for connections that are accepted.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use antiphon_sched::{Acceptor, ByteStream, ExternalReadiness, Time};
use antiphon_wire::{Refusal, TlsFault};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use super::tls::{Tls, TlsConnection};
use super::{FIRST_SOCKET, LISTENER};
use crate::error::NodeError;
use crate::node::{ConnId, OverTls};

/// Reads of one socket in one round.
pub(super) const READS_A_ROUND: usize = 16;
/// The time after which a socket with more to read waits for its turn in the next rounds: frames differ in what they cost.
pub(super) const READ_TIME: Duration = Duration::from_millis(1);
/// Connections accepted in one round: a small part of the unproven ones that a node holds, so that the hello of each can be read before
/// others replace it.
pub(super) const ACCEPTS_A_ROUND: usize = 16;
/// Steps of TLS handshakes in one round: each may take the 3.5 ms of an RSA signature.
const HANDSHAKE_STEPS_A_ROUND: usize = 2;
/// Bytes that one write with TLS accepts: more than the core's buffer for one connection holds, so that TLS accepts it whole.
const WRITE_BYTES_MAX: usize = 512 * 1024;

pub(super) struct NodeSockets {
    acceptor: Acceptor,
    tls: Option<Tls>,
    handshake_steps_left: usize,
    table: BTreeMap<ConnId, NodeSocket>,
    /// The sockets that are to be served, in turn.
    ready: Vec<ConnId>,
}

struct NodeSocket {
    stream: ByteStream<TlsConnection>,
    state: SocketState,
    /// Whether it is in the queue of ready ones.
    is_queued: bool,
    /// Whether the last round had more to read than the share of one socket: of its time, or of control frames.
    is_over_share: bool,
}

#[derive(Copy, Clone, PartialEq, Eq)]
enum SocketState {
    Connecting,
    Negotiating,
    Open,
}

/// What has become of a connection that is not open.
pub(super) enum Opening {
    /// It waits for the peer, or for the next round.
    Pending,
    /// It is open.
    Open(Option<OverTls>),
    /// No connection was made.
    DialFailed {
        /// The host answered that no process listens on the port.
        refused: bool,
    },
    /// TLS has failed, and the alert was sent to the peer.
    TlsFailed(TlsFault),
    /// The peer has closed it.
    Closed,
}

impl NodeSockets {
    pub(super) fn listen(at: SocketAddr, tls: Option<Tls>, registry: &Registry) -> Result<Self, NodeError> {
        let failed = |source| NodeError::Listen { at, source };
        let mut acceptor = Acceptor::bind(at).map_err(failed)?;
        registry.register(acceptor.tcp(), Token(LISTENER), Interest::READABLE).map_err(failed)?;
        let (table, ready) = (BTreeMap::new(), Vec::new());
        Ok(Self { acceptor, tls, handshake_steps_left: HANDSHAKE_STEPS_A_ROUND, table, ready })
    }

    /// Uses another TLS for new connections.
    pub(super) fn set_tls(&mut self, tls: Tls) {
        self.tls = Some(tls);
    }

    pub(super) fn local(&self) -> SocketAddr {
        self.acceptor.local_addr()
    }

    /// Accepts the next connection; `None` if there is none now.
    pub(super) fn accept(&mut self, now: Time) -> Option<(TcpStream, SocketAddr)> {
        self.acceptor.accept(now)
    }

    /// The end of the acceptor's pause, if it pauses.
    pub(super) fn accept_at(&self) -> Option<Time> {
        self.acceptor.paused_until()
    }

    pub(super) fn add(
        &mut self,
        conn: ConnId,
        tcp: TcpStream,
        registry: Option<&Registry>,
    ) -> io::Result<()> {
        let tls = self.tls.as_ref().map(|tls| tls.accepted(WRITE_BYTES_MAX)).transpose()?;
        self.insert(conn, ByteStream::accepted(tcp, tls)?, SocketState::Negotiating, registry)
    }

    /// # Errors
    /// The system refuses the connection, or only the descriptors in reserve are left ([`io::ErrorKind::QuotaExceeded`]).
    pub(super) fn dial(
        &mut self,
        conn: ConnId,
        to: SocketAddr,
        registry: Option<&Registry>,
    ) -> io::Result<()> {
        if !self.acceptor.has_reserve() {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let tls = self.tls.as_ref().map(|tls| tls.dialled(to.ip(), WRITE_BYTES_MAX)).transpose()?;
        self.insert(conn, ByteStream::dial(to, tls)?, SocketState::Connecting, registry)
    }

    fn insert(
        &mut self,
        conn: ConnId,
        mut stream: ByteStream<TlsConnection>,
        state: SocketState,
        registry: Option<&Registry>,
    ) -> io::Result<()> {
        let registry = registry.ok_or_else(|| io::Error::other("the loop has no poller for sockets"))?;
        // A peer of the node sends no urgent data.
        stream.trust_short_reads();
        let token = Token(FIRST_SOCKET + conn.0 as usize);
        registry.register(stream.tcp(), token, Interest::READABLE | Interest::WRITABLE)?;
        self.table.insert(conn, NodeSocket { stream, state, is_queued: false, is_over_share: false });
        Ok(())
    }

    /// Notes what the system has reported of the acceptor or a socket.
    pub(super) fn note_event(&mut self, event: &ExternalReadiness) {
        let Some(number) = event.token.0.checked_sub(FIRST_SOCKET) else {
            return self.acceptor.note(event.readiness);
        };
        let conn = ConnId(number as u64);
        if let Some(socket) = self.table.get_mut(&conn) {
            socket.stream.note(event.readiness);
            self.queue(conn);
        }
    }

    /// Queues a socket that is to be served in the next round.
    pub(super) fn queue(&mut self, conn: ConnId) {
        if let Some(socket) = self.table.get_mut(&conn)
            && !std::mem::replace(&mut socket.is_queued, true)
        {
            self.ready.push(conn);
        }
    }

    pub(super) fn is_open(&self, conn: ConnId) -> bool {
        self.table.get(&conn).is_some_and(|socket| socket.state == SocketState::Open)
    }

    /// Whether the node's connections begin with TLS.
    pub(super) fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Continues to connect, and then the TLS handshake, as far as data has arrived. After [`HANDSHAKE_STEPS_A_ROUND`], a
    /// connection waits for the next round.
    pub(super) fn open(&mut self, conn: ConnId) -> Opening {
        let Some(socket) = self.table.get_mut(&conn) else { return Opening::Pending };
        if socket.state == SocketState::Connecting {
            match socket.stream.connected() {
                None => return Opening::Pending,
                Some(Ok(_)) => socket.state = SocketState::Negotiating,
                Some(Err(reason)) => {
                    let refused = reason.kind() == io::ErrorKind::ConnectionRefused;
                    return Opening::DialFailed { refused };
                }
            }
        }
        if socket.stream.layer().is_some() {
            let Some(left) = self.handshake_steps_left.checked_sub(1) else {
                self.queue(conn);
                return Opening::Pending;
            };
            self.handshake_steps_left = left;
        }
        match negotiate(&mut socket.stream) {
            Ok(tls) => {
                socket.state = SocketState::Open;
                Opening::Open(tls)
            }
            Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => Opening::Pending,
            Err(reason) => fault_of_tls(&reason).map_or(Opening::Closed, Opening::TlsFailed),
        }
    }

    /// Reads into `space`. The flag tells whether the next read may return more.
    pub(super) fn read(&mut self, conn: ConnId, space: &mut [u8]) -> io::Result<(usize, bool)> {
        let Some(socket) = self.table.get_mut(&conn) else { return Err(io::ErrorKind::WouldBlock.into()) };
        let count = socket.stream.read(space)?;
        Ok((count, socket.stream.may_read()))
    }

    pub(super) fn write(&mut self, conn: ConnId, bytes: &[u8]) -> io::Result<usize> {
        match self.table.get_mut(&conn) {
            Some(socket) if socket.state == SocketState::Open => socket.stream.write(bytes),
            Some(_) | None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Writes the TLS records that could not be written before.
    pub(super) fn flush(&mut self, conn: ConnId) -> io::Result<()> {
        self.table.get_mut(&conn).map_or(Ok(()), |socket| socket.stream.flush())
    }

    pub(super) fn close(&mut self, conn: ConnId, registry: Option<&Registry>) {
        let Some(mut socket) = self.table.remove(&conn) else { return };
        // On an error, the peer notices the end of the TCP stream.
        drop(socket.stream.finish());
        if let Some(registry) = registry
            && let Err(reason) = registry.deregister(socket.stream.tcp())
        {
            tracing::debug!(%reason, "a closed socket was not deregistered");
        }
    }

    /// Notes whether a socket has more to read than its share of this round.
    pub(super) fn set_over_share(&mut self, conn: ConnId, is_over_share: bool) {
        if let Some(socket) = self.table.get_mut(&conn) {
            socket.is_over_share = is_over_share;
        }
    }

    /// Whether a socket or the acceptor goes on in the next round.
    pub(super) fn is_busy(&self, now: Time) -> bool {
        !self.ready.is_empty() || self.acceptor.is_ready(now)
    }

    /// Begins a round: moves the sockets that are ready to `ready`. Of those beyond their share it is the one that has waited longest,
    /// for reading and for writing: so very many of them take no more of a round than one.
    pub(super) fn begin_round(&mut self, ready: &mut Vec<ConnId>) {
        self.handshake_steps_left = HANDSHAKE_STEPS_A_ROUND;
        let mut has_one_over_share = false;
        let table = &mut self.table;
        self.ready.retain(|conn| {
            let Some(socket) = table.get_mut(conn) else { return false };
            if socket.is_over_share && std::mem::replace(&mut has_one_over_share, true) {
                return true;
            }
            socket.is_queued = false;
            ready.push(*conn);
            false
        });
    }
}

/// The fault that TLS itself has found; `None` if the connection has ended below it. An end without a close of TLS is like any
/// other, since the session sends missing frames again.
pub(super) fn fault_of_tls(reason: &io::Error) -> Option<TlsFault> {
    TlsFault::of(reason).filter(|_| reason.kind() == io::ErrorKind::Other)
}

fn negotiate(stream: &mut ByteStream<TlsConnection>) -> io::Result<Option<OverTls>> {
    refuse_plain(stream)?;
    stream.open()?;
    stream.layer().map(TlsConnection::over_tls).transpose()
}

/// Fails if the peer is a node without TLS, which its first byte shows. A server first sends it a refusal without TLS.
fn refuse_plain(stream: &mut ByteStream<TlsConnection>) -> io::Result<()> {
    let Some(is_server) = stream.layer().filter(|tls| tls.is_untouched()).map(TlsConnection::is_server)
    else {
        return Ok(());
    };
    let (tcp, mut first) = (stream.tcp(), [0]);
    if !matches!(tcp.peek(&mut first), Ok(1)) || first != *b"A" {
        return Ok(());
    }
    if is_server {
        // Unread bytes would make the system reset the connection before the peer has received the refusal. Both calls may
        // fail.
        drop(tcp.read(&mut [0; 4096]));
        drop(tcp.write(&Refusal::Tls(TlsFault::OneSided).message()));
    }
    Err(io::Error::other(TlsFault::OneSided))
}

#[cfg(all(test, unix))]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use std::net::{Ipv4Addr, TcpStream as StdStream};
    use std::process::Command;

    use antiphon_sched::{FdReadiness, Loop};

    use super::*;

    /// Set in the process that the test starts.
    const HAS_FEW_DESCRIPTORS: &str = "ANTIPHON_TEST_HAS_FEW_DESCRIPTORS";

    /// Starts this test again in a process with few descriptors, so that the tests beside it keep theirs.
    #[test]
    fn listener_without_descriptors_pauses_and_accepts_later() {
        if std::env::var_os(HAS_FEW_DESCRIPTORS).is_some() {
            return accept_without_descriptors();
        }
        run_with_few_descriptors("listener_without_descriptors_pauses_and_accepts_later");
    }

    fn run_with_few_descriptors(test: &str) {
        let program = std::env::current_exe().unwrap();
        let name = format!("net::sockets::tests::{test}");
        let script = format!("ulimit -n 64; exec \"$0\" --exact {name} --nocapture");
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg(program).env(HAS_FEW_DESCRIPTORS, "1");
        let output = command.output().unwrap();
        let (text, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && text.contains("1 passed"), "{text}{errors}");
    }

    /// Sockets that listen, and whose acceptor is reported as ready.
    fn listening(registry: Option<&Registry>) -> NodeSockets {
        let mut sockets =
            NodeSockets::listen((Ipv4Addr::LOCALHOST, 0).into(), None, registry.unwrap()).unwrap();
        sockets.note_event(&readable(LISTENER));
        sockets
    }

    fn readable(token: usize) -> ExternalReadiness {
        let readiness = FdReadiness { readable: true, ..FdReadiness::default() };
        ExternalReadiness { token: Token(token), readiness }
    }

    fn add_peer(sockets: &mut NodeSockets, number: u64, registry: Option<&Registry>) -> StdStream {
        let peer = StdStream::connect(sockets.local()).unwrap();
        let (tcp, _) = sockets.accept(Time::ZERO).unwrap();
        sockets.add(ConnId(number), tcp, registry).unwrap();
        peer
    }

    fn begin_round(sockets: &mut NodeSockets) -> Vec<u64> {
        let mut ready = Vec::new();
        sockets.begin_round(&mut ready);
        ready.iter().map(|conn| conn.0).collect()
    }

    /// A socket gets one share of a round, however often the system reports it.
    #[test]
    fn socket_is_ready_once_a_round() {
        let sched = Loop::new(antiphon_sched::LoopConfig::default()).unwrap();
        let mut sockets = listening(sched.registry());
        let _peer = add_peer(&mut sockets, 7, sched.registry());
        assert!(sockets.accept(Time::ZERO).is_none() && !sockets.is_busy(Time::ZERO));
        for _ in 0..3 {
            sockets.note_event(&readable(FIRST_SOCKET + 7));
            sockets.queue(ConnId(7));
        }
        assert_eq!(begin_round(&mut sockets), [7]);
        // What is noted while the socket is served counts for the next round.
        sockets.queue(ConnId(7));
        assert!(sockets.is_busy(Time::ZERO));
        sockets.close(ConnId(7), sched.registry());
        assert!(begin_round(&mut sockets).is_empty() && !sockets.is_busy(Time::ZERO));
    }

    /// Of the sockets beyond their share, one is ready in each round, in turn.
    #[test]
    fn sockets_over_share_take_turns() {
        let sched = Loop::new(antiphon_sched::LoopConfig::default()).unwrap();
        let mut sockets = listening(sched.registry());
        let peers: Vec<StdStream> =
            (1..=4).map(|number| add_peer(&mut sockets, number, sched.registry())).collect();
        // The last one keeps to its share.
        for number in 1..=3 {
            sockets.set_over_share(ConnId(number), true);
        }
        (1..=4).for_each(|number| sockets.queue(ConnId(number)));
        let mut rounds = Vec::new();
        for _ in 0..4 {
            let ready = begin_round(&mut sockets);
            ready.iter().for_each(|number| sockets.queue(ConnId(*number)));
            rounds.push(ready);
        }
        assert_eq!(rounds, [vec![1, 4], vec![2, 4], vec![3, 4], vec![1, 4]]);
        drop(peers);
    }

    /// Dials leave 16 of 64 descriptors, which the listener can use.
    #[test]
    fn dials_leave_descriptors_for_accepting() {
        if std::env::var_os(HAS_FEW_DESCRIPTORS).is_some() {
            return dial_without_descriptors();
        }
        run_with_few_descriptors("dials_leave_descriptors_for_accepting");
    }

    fn dial_without_descriptors() {
        let sched = Loop::new(antiphon_sched::LoopConfig::default()).unwrap();
        let mut sockets = listening(sched.registry());
        let to = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let refused = (1..).find_map(|number| {
            sockets
                .dial(ConnId(number), to.local_addr().unwrap(), sched.registry())
                .err()
                .map(|reason| (number, reason))
        });
        let (number, reason) = refused.unwrap();
        assert_eq!(reason.kind(), io::ErrorKind::QuotaExceeded, "{reason}");
        assert!(number > 16, "it has dialled {number} times");
        let local = sockets.local();
        let peers: Vec<_> = (0..7).map(|_| StdStream::connect(local).unwrap()).collect();
        let accepted: Vec<_> = std::iter::from_fn(|| sockets.accept(Time::ZERO)).collect();
        assert_eq!(accepted.len(), peers.len());
        sockets.close(ConnId(1), sched.registry());
        drop((peers, accepted));
        assert!(sockets.dial(ConnId(number), to.local_addr().unwrap(), sched.registry()).is_ok());
    }

    fn accept_without_descriptors() {
        let poll = mio::Poll::new().unwrap();
        let mut sockets = listening(Some(poll.registry()));
        let peers: Vec<StdStream> = (0..10).map(|_| StdStream::connect(sockets.local()).unwrap()).collect();
        let mut files = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            files.push(file);
        }
        assert!(files.len() < 64, "the process has few descriptors");
        let now = Time::ZERO;
        assert!(sockets.is_busy(now) && sockets.accept(now).is_none());
        assert!(!sockets.is_busy(now), "the loop would spin");
        drop(files);
        let later = sockets.accept_at().unwrap();
        assert!(later > now && sockets.accept(now).is_none());
        assert!(sockets.is_busy(later));
        let accepted: Vec<_> = std::iter::from_fn(|| sockets.accept(later)).collect();
        assert_eq!(accepted.len(), peers.len());
    }
}
