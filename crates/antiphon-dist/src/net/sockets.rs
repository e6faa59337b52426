//! TCP: the listener and the sockets of connections, with TLS if the node has a certificate.
//!
//! Readiness is edge-triggered: the driver reads a socket until it is empty, or records it as unfinished.
//!
//! Invariant: when the process has no descriptors left, the listener pauses. So pending connections that cannot be
//! accepted never keep the loop busy.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use antiphon_sched::{AcceptBackoff, ExternalReadiness, Loop, Time, egress};
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use slab::Slab;

use super::tls::{NodeStream, Tls, TlsProgress};
use super::{FIRST_SOCKET, LISTENER};
use crate::error::NodeError;
use crate::node::ConnId;

/// Reads of one socket in one round.
pub(super) const READS_A_ROUND: usize = 16;
/// Connections accepted in one round.
const ACCEPTS_A_ROUND: usize = 64;
/// Steps of TLS handshakes in one round: each may take the 3.5 ms of an RSA signature.
const HANDSHAKE_STEPS_A_ROUND: usize = 2;

pub(super) struct NodeSockets {
    listener: TcpListener,
    local: SocketAddr,
    tls: Option<Tls>,
    accepts_left: usize,
    handshake_steps_left: usize,
    table: Slab<NodeSocket>,
    /// The index of each connection in `table`.
    indices: BTreeMap<ConnId, usize>,
    /// Sockets that this round's limits left unfinished.
    unfinished: Vec<ConnId>,
    accept_again: bool,
    /// The end of the listener's pause, if it pauses.
    accept_at: Option<Time>,
    backoff: AcceptBackoff,
}

struct NodeSocket {
    conn: ConnId,
    stream: NodeStream,
    connecting: bool,
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
            unfinished: Vec::new(),
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

    pub(super) fn add(&mut self, conn: ConnId, stream: TcpStream, sched: &Loop) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let stream = NodeStream::accepted(stream, self.tls.as_ref())?;
        self.insert(conn, stream, false, sched)
    }

    pub(super) fn dial(&mut self, conn: ConnId, to: SocketAddr, sched: &Loop) -> io::Result<()> {
        egress::allowed(&to).map_err(io::Error::other)?;
        let stream = NodeStream::dialled(TcpStream::connect(to)?, self.tls.as_ref(), to.ip())?;
        self.insert(conn, stream, true, sched)
    }

    fn insert(
        &mut self,
        conn: ConnId,
        mut stream: NodeStream,
        connecting: bool,
        sched: &Loop,
    ) -> io::Result<()> {
        let registry =
            sched.registry().ok_or_else(|| io::Error::other("the loop has no poller for sockets"))?;
        let entry = self.table.vacant_entry();
        let token = Token(FIRST_SOCKET + entry.key());
        registry.register(stream.tcp(), token, Interest::READABLE | Interest::WRITABLE)?;
        self.indices.insert(conn, entry.key());
        entry.insert(NodeSocket { conn, stream, connecting });
        Ok(())
    }

    fn get(&mut self, conn: ConnId) -> Option<&mut NodeSocket> {
        let index = *self.indices.get(&conn)?;
        self.table.get_mut(index)
    }

    pub(super) fn conn_of(&self, token: Token) -> Option<ConnId> {
        self.table.get(token.0 - FIRST_SOCKET).map(|socket| socket.conn)
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

    pub(super) fn read(&mut self, conn: ConnId, space: &mut [u8]) -> io::Result<usize> {
        let Some(socket) = self.get(conn) else { return Err(io::ErrorKind::WouldBlock.into()) };
        let read = socket.stream.read(space);
        if socket.stream.take_cut() {
            self.note_unfinished(conn);
        }
        read
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

    pub(super) fn close(&mut self, conn: ConnId, sched: &Loop) {
        let Some(mut socket) = self.indices.remove(&conn).and_then(|index| self.table.try_remove(index))
        else {
            return;
        };
        if !socket.connecting {
            socket.stream.finish();
        }
        if let Some(registry) = sched.registry()
            && let Err(reason) = registry.deregister(socket.stream.tcp())
        {
            tracing::debug!(%reason, "a closed socket was not deregistered");
        }
    }

    pub(super) fn note_unfinished(&mut self, conn: ConnId) {
        self.unfinished.push(conn);
    }

    pub(super) fn has_unfinished(&self) -> bool {
        !self.unfinished.is_empty() || self.accept_again
    }

    /// Takes the sockets that the limits of the last round left unfinished, and the listener after its pause.
    pub(super) fn take_unfinished(&mut self, now: Time) -> Vec<ExternalReadiness> {
        self.handshake_steps_left = HANDSHAKE_STEPS_A_ROUND;
        self.accept_again |= self.accept_at.take_if(|at| *at <= now).is_some();
        let listener = std::mem::take(&mut self.accept_again).then_some(Token(LISTENER));
        let indices = &self.indices;
        let sockets = self.unfinished.drain(..).filter_map(|conn| indices.get(&conn).copied());
        let tokens = sockets.map(|index| Token(FIRST_SOCKET + index)).chain(listener);
        tokens
            .map(|token| ExternalReadiness { token, readable: true, writable: false, closed: true })
            .collect()
    }
}

#[cfg(all(test, unix))]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use std::net::{Ipv4Addr, TcpStream as StdStream};
    use std::process::Command;

    use super::*;

    /// Set in the process that the test starts.
    const HAS_FEW_DESCRIPTORS: &str = "ANTIPHON_TEST_HAS_FEW_DESCRIPTORS";

    /// Starts this test again in a process with few descriptors, so that the tests beside it keep theirs.
    #[test]
    fn listener_without_descriptors_pauses_and_accepts_later() {
        if std::env::var_os(HAS_FEW_DESCRIPTORS).is_some() {
            return accept_without_descriptors();
        }
        let program = std::env::current_exe().unwrap();
        let name = "net::sockets::tests::listener_without_descriptors_pauses_and_accepts_later";
        let script = format!("ulimit -n 64; exec \"$0\" --exact {name} --nocapture");
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg(program).env(HAS_FEW_DESCRIPTORS, "1");
        let output = command.output().unwrap();
        let (text, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && text.contains("1 passed"), "{text}{errors}");
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
        assert!(!sockets.has_unfinished() && sockets.take_unfinished(now).is_empty(), "the loop would spin");
        drop(files);
        let later = sockets.accept_at().unwrap();
        assert!(later > now && sockets.accept(now).is_none());
        let ready = sockets.take_unfinished(later);
        assert_eq!(ready.iter().map(|ready| ready.token).collect::<Vec<_>>(), [Token(LISTENER)]);
        let accepted: Vec<_> = std::iter::from_fn(|| sockets.accept(later)).collect();
        assert_eq!(accepted.len(), peers.len());
    }
}
