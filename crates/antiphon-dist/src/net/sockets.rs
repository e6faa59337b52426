//! TCP: the listener, and a socket for each connection, with TLS on it if the node has a certificate.
//!
//! Readiness is edge-triggered: a socket is read until it is empty, or noted as unfinished.
//!
//! Invariant: without descriptors the listener pauses; a backlog that cannot be accepted never keeps the loop busy.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use antiphon_sched::{ExternalReadiness, Loop, Time, egress, is_exhausted};
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use slab::Slab;

use super::tls::{Opening, Stream, Tls};
use super::{FIRST_SOCKET, LISTENER};
use crate::error::NodeError;
use crate::node::ConnId;

/// Reads of one socket before the others have their turn.
pub(super) const READS_A_ROUND: usize = 16;
/// Strangers taken in one round.
const ACCEPTS_A_ROUND: usize = 64;
/// Steps of TLS handshakes in one round: each may take the 3.5 ms of an RSA signature.
const OPENINGS_A_ROUND: usize = 2;
/// How long to wait for descriptors when there are none.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) struct NodeSockets {
    listener: TcpListener,
    local: SocketAddr,
    tls: Option<Tls>,
    accepts_left: usize,
    openings_left: usize,
    table: Slab<NodeSocket>,
    places: BTreeMap<ConnId, usize>,
    unfinished: Vec<ConnId>,
    accept_again: bool,
    /// There were no descriptors: when to try again.
    accept_at: Option<Time>,
    /// How often there were no descriptors left.
    exhausted: u64,
}

struct NodeSocket {
    conn: ConnId,
    stream: Stream,
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
            openings_left: OPENINGS_A_ROUND,
            table: Slab::new(),
            places: BTreeMap::new(),
            unfinished: Vec::new(),
            accept_again: false,
            accept_at: None,
            exhausted: 0,
        })
    }

    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    /// The next stranger; `None` when there is none, this round's share is used up, or there are no descriptors.
    pub(super) fn accept(&mut self, now: Time) -> Option<(TcpStream, SocketAddr)> {
        while self.accept_at.is_none() {
            if self.accepts_left == 0 {
                self.accepts_left = ACCEPTS_A_ROUND;
                self.accept_again = true;
                return None;
            }
            self.accepts_left -= 1;
            match self.listener.accept() {
                Ok(accepted) => return Some(accepted),
                Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => {
                    self.accepts_left = ACCEPTS_A_ROUND;
                    return None;
                }
                Err(reason) if is_exhausted(&reason) => {
                    self.exhausted += 1;
                    if self.exhausted.is_power_of_two() {
                        let times = self.exhausted;
                        tracing::warn!(%reason, times, "connections wait; raise the limit of open files");
                    }
                    self.accepts_left = ACCEPTS_A_ROUND;
                    self.accept_at = Some(now + ACCEPT_PAUSE);
                }
                // The stranger has gone again: others may follow.
                Err(reason) => tracing::debug!(%reason, "a connection was not accepted"),
            }
        }
        None
    }

    /// When a listener that found no descriptors tries again.
    pub(super) fn accept_at(&self) -> Option<Time> {
        self.accept_at
    }

    pub(super) fn add(&mut self, conn: ConnId, stream: TcpStream, sched: &Loop) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let stream = Stream::accepted(stream, self.tls.as_ref())?;
        self.insert(conn, stream, false, sched)
    }

    pub(super) fn dial(&mut self, conn: ConnId, to: SocketAddr, sched: &Loop) -> io::Result<()> {
        egress::allowed(&to).map_err(io::Error::other)?;
        let stream = Stream::dialled(TcpStream::connect(to)?, self.tls.as_ref(), to.ip())?;
        self.insert(conn, stream, true, sched)
    }

    fn insert(&mut self, conn: ConnId, mut stream: Stream, connecting: bool, sched: &Loop) -> io::Result<()> {
        let registry = sched.registry().ok_or_else(|| io::Error::other("the loop has no sockets"))?;
        let entry = self.table.vacant_entry();
        let token = Token(FIRST_SOCKET + entry.key());
        registry.register(stream.tcp(), token, Interest::READABLE | Interest::WRITABLE)?;
        self.places.insert(conn, entry.key());
        entry.insert(NodeSocket { conn, stream, connecting });
        Ok(())
    }

    fn get(&mut self, conn: ConnId) -> Option<&mut NodeSocket> {
        let place = *self.places.get(&conn)?;
        self.table.get_mut(place)
    }

    pub(super) fn conn_of(&self, token: Token) -> Option<ConnId> {
        self.table.get(token.0 - FIRST_SOCKET).map(|socket| socket.conn)
    }

    /// Whether a dial has connected; `None` when the connection was not being dialled, or still is.
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

    /// Whether TLS is still to be agreed on, on a connection that stands.
    pub(super) fn is_opening(&mut self, conn: ConnId) -> bool {
        self.get(conn).is_some_and(|socket| !socket.connecting && socket.stream.is_opening())
    }

    /// Agrees on TLS as far as the peer has come; on few connections a round, the others come in the next.
    pub(super) fn open(&mut self, conn: ConnId) -> Opening {
        let Some(left) = self.openings_left.checked_sub(1) else {
            self.note_unfinished(conn);
            return Opening::Pending;
        };
        self.openings_left = left;
        self.get(conn).map_or(Opening::Gone, |socket| socket.stream.open())
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

    /// Writes what TLS has sealed and could not write before.
    pub(super) fn flush(&mut self, conn: ConnId) -> io::Result<()> {
        match self.get(conn) {
            Some(socket) if !socket.connecting => socket.stream.flush(),
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn close(&mut self, conn: ConnId, sched: &Loop) {
        let Some(mut socket) = self.places.remove(&conn).and_then(|place| self.table.try_remove(place))
        else {
            return;
        };
        if !socket.connecting {
            socket.stream.finish();
        }
        if let Some(registry) = sched.registry()
            && let Err(reason) = registry.deregister(socket.stream.tcp())
        {
            tracing::debug!(%reason, "a socket was not watched");
        }
    }

    pub(super) fn note_unfinished(&mut self, conn: ConnId) {
        self.unfinished.push(conn);
    }

    pub(super) fn has_unfinished(&self) -> bool {
        !self.unfinished.is_empty() || self.accept_again
    }

    /// Sockets that were cut off by their share of the last round, and the listener after its pause.
    pub(super) fn take_unfinished(&mut self, now: Time) -> Vec<ExternalReadiness> {
        self.openings_left = OPENINGS_A_ROUND;
        self.accept_again |= self.accept_at.take_if(|at| *at <= now).is_some();
        let listener = std::mem::take(&mut self.accept_again).then_some(Token(LISTENER));
        let places = &self.places;
        let sockets = self.unfinished.drain(..).filter_map(|conn| places.get(&conn).copied());
        let tokens = sockets.map(|place| Token(FIRST_SOCKET + place)).chain(listener);
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

    #[test]
    fn without_descriptors_the_listener_pauses_and_accepts_later() {
        let program = std::env::current_exe().unwrap();
        let name = "net::sockets::tests::accepting_without_descriptors";
        let script = format!("ulimit -n 64; exec \"$0\" --exact {name} --ignored --nocapture");
        let output = Command::new("sh").arg("-c").arg(script).arg(program).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }

    #[test]
    #[ignore = "started by the test above, in a process with few descriptors"]
    fn accepting_without_descriptors() {
        let poll = mio::Poll::new().unwrap();
        let at = (Ipv4Addr::LOCALHOST, 0).into();
        let mut sockets = NodeSockets::listen(at, None, poll.registry()).unwrap();
        let peers: Vec<StdStream> = (0..10).map(|_| StdStream::connect(sockets.local()).unwrap()).collect();
        let mut hoard = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            hoard.push(file);
        }
        let now = Time::ZERO;
        assert!(sockets.accept(now).is_none());
        assert!(!sockets.has_unfinished() && sockets.take_unfinished(now).is_empty(), "it would spin");
        drop(hoard);
        let later = sockets.accept_at().unwrap();
        assert!(later > now && sockets.accept(now).is_none());
        assert_eq!(sockets.take_unfinished(later).len(), 1, "the listener");
        let mut accepted = Vec::new();
        accepted.extend(std::iter::from_fn(|| sockets.accept(later)));
        assert_eq!(accepted.len(), peers.len());
    }
}
