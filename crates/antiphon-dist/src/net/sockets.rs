//! TCP: the listener and the sockets of connections, with TLS if the node has a certificate.
//!
//! Readiness is edge-triggered: the driver reads a socket until it is empty, or notes that it goes on in the next round.
//!
//! Invariants: a socket is in the list of ready ones at most once, so that each gets one share of a round, however often the
//! system reports it. When the process has no descriptors left, the listener pauses. So pending connections that cannot be
//! accepted never keep the loop busy. Dials leave some descriptors for connections that are accepted.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use antiphon_sched::{AcceptBackoff, ExternalReadiness, Time, egress};
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use slab::Slab;

use super::tls::{NodeStream, Tls, TlsProgress};
use super::{FIRST_SOCKET, LISTENER};
use crate::error::NodeError;
use crate::node::ConnId;

/// Reads of one socket in one round.
pub(super) const READS_A_ROUND: usize = 16;
/// Connections accepted in one round: a small part of the unproven ones that a node holds, so that the hello of each can be read before
/// others replace it.
const ACCEPTS_A_ROUND: usize = 16;
/// Steps of TLS handshakes in one round: each may take the 3.5 ms of an RSA signature.
const HANDSHAKE_STEPS_A_ROUND: usize = 2;

/// The fewest and the most descriptors that dials leave.
#[cfg(unix)]
const RESERVE_MIN: u64 = 16;
#[cfg(unix)]
const RESERVE_MAX: u64 = 128;

pub(super) struct NodeSockets {
    listener: TcpListener,
    local: SocketAddr,
    tls: Option<Tls>,
    accepts_left: usize,
    handshake_steps_left: usize,
    table: Slab<NodeSocket>,
    /// The index of each connection in `table`.
    indices: BTreeMap<ConnId, usize>,
    /// The sockets with readiness that the driver has not taken yet.
    ready: Vec<ConnId>,
    accept_again: bool,
    /// The end of the listener's pause, if it pauses.
    accept_at: Option<Time>,
    backoff: AcceptBackoff,
}

struct NodeSocket {
    conn: ConnId,
    stream: NodeStream,
    connecting: bool,
    /// `Some`: the socket is in the list of ready ones.
    readiness: Option<SocketReadiness>,
    /// Whether the last round exceeded the share of control frames.
    is_flooded: bool,
}

/// What a socket is ready for.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SocketReadiness {
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The driver reads until the socket has nothing more: it has no further events, or the last round left it unfinished.
    pub(super) reads_to_end: bool,
}

impl NodeSockets {
    pub(super) fn listen(at: SocketAddr, tls: Option<Tls>, registry: &Registry) -> Result<Self, NodeError> {
        let failed = |source| NodeError::Listen { at, source };
        let mut listener = TcpListener::bind(at).map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        registry.register(&mut listener, Token(LISTENER), Interest::READABLE).map_err(failed)?;
        Ok(Self {
            listener,
            local,
            tls,
            accepts_left: ACCEPTS_A_ROUND,
            handshake_steps_left: HANDSHAKE_STEPS_A_ROUND,
            table: Slab::new(),
            indices: BTreeMap::new(),
            ready: Vec::new(),
            accept_again: false,
            accept_at: None,
            backoff: AcceptBackoff::default(),
        })
    }

    /// Uses another TLS for new connections.
    pub(super) fn set_tls(&mut self, tls: Tls) {
        self.tls = Some(tls);
    }

    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Accepts the next connection; `None` when there is none, the limit of this round is reached, or the listener pauses.
    pub(super) fn accept(&mut self, now: Time) -> Option<(TcpStream, SocketAddr)> {
        while self.accept_at.is_none() {
            if self.accepts_left == 0 {
                self.accepts_left = ACCEPTS_A_ROUND;
                self.accept_again = true;
                return None;
            }
            self.accepts_left -= 1;
            match self.listener.accept() {
                Ok(accepted) => {
                    self.backoff.accepted();
                    return Some(accepted);
                }
                Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => {
                    self.accepts_left = ACCEPTS_A_ROUND;
                    return None;
                }
                Err(reason) => match self.backoff.pause_after(&reason, self.local) {
                    Some(pause) => {
                        self.accepts_left = ACCEPTS_A_ROUND;
                        self.accept_at = Some(now + pause);
                    }
                    // This connection is already closed; further ones may follow.
                    None => tracing::debug!(%reason, "a connection was not accepted"),
                },
            }
        }
        None
    }

    /// The end of the listener's pause, if it pauses.
    pub(super) fn accept_at(&self) -> Option<Time> {
        self.accept_at
    }

    pub(super) fn add(
        &mut self,
        conn: ConnId,
        stream: TcpStream,
        registry: Option<&Registry>,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let stream = NodeStream::accepted(stream, self.tls.as_ref())?;
        self.insert(conn, stream, false, registry)
    }

    /// # Errors
    /// The system refuses the connection, or only the descriptors in reserve are left ([`io::ErrorKind::QuotaExceeded`]).
    pub(super) fn dial(
        &mut self,
        conn: ConnId,
        to: SocketAddr,
        registry: Option<&Registry>,
    ) -> io::Result<()> {
        egress::allowed(&to).map_err(io::Error::other)?;
        if !has_descriptors_for_dials(&self.listener) {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let stream = NodeStream::dialled(TcpStream::connect(to)?, self.tls.as_ref(), to.ip())?;
        self.insert(conn, stream, true, registry)
    }

    fn insert(
        &mut self,
        conn: ConnId,
        mut stream: NodeStream,
        connecting: bool,
        registry: Option<&Registry>,
    ) -> io::Result<()> {
        let registry = registry.ok_or_else(|| io::Error::other("the loop has no poller for sockets"))?;
        let entry = self.table.vacant_entry();
        let token = Token(FIRST_SOCKET + entry.key());
        registry.register(stream.tcp(), token, Interest::READABLE | Interest::WRITABLE)?;
        self.indices.insert(conn, entry.key());
        entry.insert(NodeSocket { conn, stream, connecting, readiness: None, is_flooded: false });
        Ok(())
    }

    fn get(&mut self, conn: ConnId) -> Option<&mut NodeSocket> {
        let index = *self.indices.get(&conn)?;
        self.table.get_mut(index)
    }

    /// Notes what the system has reported of the listener or a socket.
    pub(super) fn note_event(&mut self, event: &ExternalReadiness) {
        let Some(index) = event.token.0.checked_sub(FIRST_SOCKET) else {
            self.accept_again = true;
            return;
        };
        if let Some(conn) = self.table.get(index).map(|socket| socket.conn) {
            let ExternalReadiness { readable, writable, closed, .. } = *event;
            self.note_ready(conn, SocketReadiness { readable, writable, reads_to_end: closed });
        }
    }

    fn note_ready(&mut self, conn: ConnId, more: SocketReadiness) {
        let Some(socket) = self.get(conn) else { return };
        let is_new = socket.readiness.is_none();
        let readiness = socket.readiness.get_or_insert_default();
        readiness.readable |= more.readable;
        readiness.writable |= more.writable;
        readiness.reads_to_end |= more.reads_to_end;
        if is_new {
            self.ready.push(conn);
        }
    }

    /// The result of a dial; `None` if the connection is still being dialled, or was not.
    pub(super) fn finish_dial(&mut self, conn: ConnId) -> Option<io::Result<()>> {
        let socket = self.get(conn).filter(|socket| socket.connecting)?;
        let tcp = socket.stream.tcp();
        match tcp.take_error() {
            Ok(Some(reason)) | Err(reason) => return Some(Err(reason)),
            Ok(None) => {}
        }
        match tcp.peer_addr() {
            Ok(_) => {
                let done = tcp.set_nodelay(true);
                socket.connecting = false;
                Some(done)
            }
            Err(reason) if reason.kind() == io::ErrorKind::NotConnected => None,
            Err(reason) => Some(Err(reason)),
        }
    }

    /// Whether a TLS handshake is in progress on an established connection.
    pub(super) fn is_handshaking(&mut self, conn: ConnId) -> bool {
        self.get(conn).is_some_and(|socket| !socket.connecting && socket.stream.is_handshaking())
    }

    /// Continues the TLS handshake as far as data has arrived. After [`HANDSHAKE_STEPS_A_ROUND`], a connection waits for the
    /// next round.
    pub(super) fn handshake(&mut self, conn: ConnId) -> TlsProgress {
        let Some(left) = self.handshake_steps_left.checked_sub(1) else {
            self.note_unfinished(conn);
            return TlsProgress::Pending;
        };
        self.handshake_steps_left = left;
        self.get(conn).map_or(TlsProgress::Closed, |socket| socket.stream.handshake())
    }

    /// Reads into `space`. The flag tells whether the socket may have more.
    pub(super) fn read(&mut self, conn: ConnId, space: &mut [u8]) -> io::Result<(usize, bool)> {
        let Some(socket) = self.get(conn) else { return Err(io::ErrorKind::WouldBlock.into()) };
        let read = socket.stream.read(space);
        if socket.stream.take_cut() {
            self.note_unfinished(conn);
        }
        read.map(|count| (count, count == space.len()))
    }

    pub(super) fn write(&mut self, conn: ConnId, bytes: &[u8]) -> io::Result<usize> {
        match self.get(conn) {
            Some(socket) if !socket.connecting => socket.stream.write(bytes),
            Some(_) | None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Writes the TLS records that could not be written before.
    pub(super) fn flush(&mut self, conn: ConnId) -> io::Result<()> {
        match self.get(conn) {
            Some(socket) if !socket.connecting => socket.stream.flush(),
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn close(&mut self, conn: ConnId, registry: Option<&Registry>) {
        let Some(mut socket) = self.indices.remove(&conn).and_then(|index| self.table.try_remove(index))
        else {
            return;
        };
        if !socket.connecting {
            socket.stream.finish();
        }
        if let Some(registry) = registry
            && let Err(reason) = registry.deregister(socket.stream.tcp())
        {
            tracing::debug!(%reason, "a closed socket was not deregistered");
        }
    }

    /// Notes that the limits of this round leave a socket unfinished.
    pub(super) fn note_unfinished(&mut self, conn: ConnId) {
        self.note_ready(conn, SocketReadiness { readable: true, writable: false, reads_to_end: true });
    }

    /// Notes whether a socket has exceeded its share of control frames in this round.
    pub(super) fn set_flooded(&mut self, conn: ConnId, is_flooded: bool) {
        if let Some(socket) = self.get(conn) {
            socket.is_flooded = is_flooded;
        }
    }

    /// Whether a socket or the listener goes on in the next round.
    pub(super) fn is_busy(&self) -> bool {
        !self.ready.is_empty() || self.accept_again
    }

    /// Begins a round: moves the sockets that are ready to `ready`. Of those beyond their share of control frames it is the one
    /// that has waited longest, for reading and for writing: so very many of them take no more of a round than one. Returns
    /// whether to accept connections.
    pub(super) fn begin_round(&mut self, now: Time, ready: &mut Vec<(ConnId, SocketReadiness)>) -> bool {
        self.handshake_steps_left = HANDSHAKE_STEPS_A_ROUND;
        self.accept_again |= self.accept_at.take_if(|at| *at <= now).is_some();
        let Self { ready: noted, indices, table, .. } = self;
        let mut has_flooded = false;
        noted.retain(|conn| {
            let Some(socket) = indices.get(conn).and_then(|index| table.get_mut(*index)) else {
                return false;
            };
            if socket.is_flooded && std::mem::replace(&mut has_flooded, true) {
                return true;
            }
            ready.extend(socket.readiness.take().map(|readiness| (*conn, readiness)));
            false
        });
        std::mem::take(&mut self.accept_again)
    }
}

/// Whether the process has more descriptors left than it keeps in reserve for connections that it accepts: an eighth of its limit.
/// The system returns the lowest free number, so that of a new descriptor shows how many are in use.
#[cfg(unix)]
fn has_descriptors_for_dials(listener: &TcpListener) -> bool {
    use std::os::fd::AsRawFd;
    let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current else {
        return true;
    };
    let reserve = (limit / 8).clamp(RESERVE_MIN, RESERVE_MAX);
    let newest = rustix::io::dup(listener).ok().and_then(|newest| u64::try_from(newest.as_raw_fd()).ok());
    newest.is_some_and(|newest| newest + reserve < limit)
}

#[cfg(not(unix))]
fn has_descriptors_for_dials(_listener: &TcpListener) -> bool {
    true
}

#[cfg(all(test, unix))]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use std::net::{Ipv4Addr, TcpStream as StdStream};
    use std::process::Command;

    use antiphon_sched::Loop;

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

    /// A socket gets one share of a round, however often the system reports it.
    #[test]
    fn socket_is_ready_once_a_round() {
        let sched = Loop::new(antiphon_sched::LoopConfig::default()).unwrap();
        let at = (Ipv4Addr::LOCALHOST, 0).into();
        let mut sockets = NodeSockets::listen(at, None, sched.registry().unwrap()).unwrap();
        let _peer = StdStream::connect(sockets.local()).unwrap();
        let (stream, _) = std::iter::repeat_with(|| sockets.accept(Time::ZERO)).flatten().next().unwrap();
        sockets.add(ConnId(7), stream, sched.registry()).unwrap();
        let event = |readable| ExternalReadiness {
            token: Token(FIRST_SOCKET),
            readable,
            writable: !readable,
            closed: false,
        };
        for _ in 0..3 {
            sockets.note_event(&event(true));
            sockets.note_event(&event(false));
            sockets.note_unfinished(ConnId(7));
        }
        let mut ready = Vec::new();
        assert!(!sockets.begin_round(Time::ZERO, &mut ready));
        let all = SocketReadiness { readable: true, writable: true, reads_to_end: true };
        assert_eq!(ready, [(ConnId(7), all)]);
        // What is noted while the socket is served counts for the next round.
        sockets.note_unfinished(ConnId(7));
        assert!(sockets.is_busy());
        ready.clear();
        sockets.close(ConnId(7), sched.registry());
        assert!(!sockets.begin_round(Time::ZERO, &mut ready) && ready.is_empty() && !sockets.is_busy());
    }

    /// Of the sockets beyond their share of control frames, one is ready in each round, in turn.
    #[test]
    fn flooded_sockets_take_turns() {
        let sched = Loop::new(antiphon_sched::LoopConfig::default()).unwrap();
        let at = (Ipv4Addr::LOCALHOST, 0).into();
        let mut sockets = NodeSockets::listen(at, None, sched.registry().unwrap()).unwrap();
        let peers: Vec<StdStream> = (1..=4)
            .map(|number| {
                let peer = StdStream::connect(sockets.local()).unwrap();
                let accepted = std::iter::repeat_with(|| sockets.accept(Time::ZERO)).flatten().next();
                sockets.add(ConnId(number), accepted.unwrap().0, sched.registry()).unwrap();
                peer
            })
            .collect();
        // The last one keeps to its share.
        for number in 1..=3 {
            sockets.set_flooded(ConnId(number), true);
        }
        (1..=4).for_each(|number| sockets.note_unfinished(ConnId(number)));
        let mut rounds = Vec::new();
        for _ in 0..4 {
            let mut ready = Vec::new();
            sockets.begin_round(Time::ZERO, &mut ready);
            let ready: Vec<u64> = ready.iter().map(|(conn, _)| conn.0).collect();
            ready.iter().for_each(|number| sockets.note_unfinished(ConnId(*number)));
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
        let at = (Ipv4Addr::LOCALHOST, 0).into();
        let mut sockets = NodeSockets::listen(at, None, sched.registry().unwrap()).unwrap();
        let to = std::net::TcpListener::bind(at).unwrap();
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
        let at = (Ipv4Addr::LOCALHOST, 0).into();
        let mut sockets = NodeSockets::listen(at, None, poll.registry()).unwrap();
        let peers: Vec<StdStream> = (0..10).map(|_| StdStream::connect(sockets.local()).unwrap()).collect();
        let mut files = Vec::new();
        let exhausted = loop {
            match std::fs::File::open("/dev/null") {
                Ok(file) => files.push(file),
                Err(reason) => break reason,
            }
        };
        let pause = AcceptBackoff::default().pause_after(&exhausted, at);
        assert!(pause.is_some(), "{exhausted}");
        assert!(files.len() < 64, "the process has few descriptors");
        let now = Time::ZERO;
        assert!(sockets.accept(now).is_none());
        let mut ready = Vec::new();
        assert!(!sockets.is_busy() && !sockets.begin_round(now, &mut ready), "the loop would spin");
        drop(files);
        let later = sockets.accept_at().unwrap();
        assert!(later > now && sockets.accept(now).is_none());
        assert!(sockets.begin_round(later, &mut ready) && ready.is_empty());
        let accepted: Vec<_> = std::iter::from_fn(|| sockets.accept(later)).collect();
        assert_eq!(accepted.len(), peers.len());
    }
}
