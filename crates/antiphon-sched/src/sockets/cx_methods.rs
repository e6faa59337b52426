//! What actors do with sockets and child processes.

use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use super::event_sink::event_sink;
use super::table::{Served, SocketId, SocketKind};
use super::{Conn, Endpoint, Framing, ProcessEvent, SocketEvent, Udp};
use crate::core::Core;
use crate::cx::Cx;
use crate::id::Key;

/// Sockets and child processes. What happens to one arrives as messages that `event` makes, usually a constructor of
/// the actor's own; reading pauses while the actor's mailbox is full, so nothing is lost.
///
/// All end with the actor; what it wrote before is given to the system once more, and a connection that it had
/// closed writes on to its end. A virtual loop has none, and answers with an error.
///
/// ```
/// use antiphon_sched::{Conn, Event, Framing, Loop, LoopConfig, SocketEvent, receive, secs, stop};
///
/// struct Heard(Conn, SocketEvent);
///
/// let mut events = Loop::new(LoopConfig::default())?;
/// events.spawn(|cx, event| match event {
///     Event::Start => {
///         let at = cx.listen("127.0.0.1:0", Framing::Lines { max: 1000 }, Heard)?;
///         cx.connect(at, Framing::Lines { max: 1000 }, secs(5), Heard);
///         receive()
///     }
///     Event::Message(Heard(conn, SocketEvent::Opened(_))) => {
///         cx.write(conn, "hello");
///         receive()
///     }
///     Event::Message(Heard(_, SocketEvent::Data(line))) => {
///         assert_eq!(line, b"hello");
///         stop()
///     }
///     _ => receive(),
/// });
/// events.run()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl<M: 'static> Cx<'_, M> {
    /// Listens for TCP connections, and answers where: port 0 picks a free one. Each connection is told as
    /// [`SocketEvent::Opened`], and goes on with the same constructor. Wants an address or `localhost`.
    ///
    /// Where the endpoint brings a [layer](Endpoint::layer) such as TLS, a connection is told of when that is agreed on.
    /// Those that do not get so far are not told of, but logged (`debug`): they are closed after five seconds, or when there are 64 of
    /// them and one more comes, the oldest of the address that has most.
    ///
    /// # Errors
    /// The system refuses, or [`egress`](crate::egress) does; a host's name; a virtual loop.
    pub fn listen(
        &mut self,
        at: impl Endpoint,
        framing: Framing,
        mut event: impl FnMut(Conn, SocketEvent) -> M + 'static,
    ) -> io::Result<SocketAddr> {
        let (core, me) = self.parts();
        core.listen(me, &at, framing, event_sink(move |(conn, what)| event(conn, what)))
    }

    /// Listens no more at an address that [`Cx::listen`] answered; its connections stay, but for those of which nothing was told yet. False when this actor did
    /// not listen there.
    pub fn unlisten(&mut self, at: SocketAddr) -> bool {
        let (core, me) = self.parts();
        core.unlisten(me, at)
    }

    /// Makes a TCP connection; names are looked up on a helper thread, and all their addresses tried in turn, until one
    /// connects. What comes of it within `timeout`, TLS included, is told: `Opened`, or `Closed` with the reason. What is written
    /// before goes out then.
    pub fn connect(
        &mut self,
        to: impl Endpoint,
        framing: Framing,
        timeout: Duration,
        mut event: impl FnMut(Conn, SocketEvent) -> M + 'static,
    ) -> Conn {
        let (core, me) = self.parts();
        let (host, layer) = (to.host(), to.layer());
        core.connect(me, host, layer, framing, timeout, event_sink(move |(conn, what)| event(conn, what)))
    }

    /// Writes one frame to a connection, or to a child's standard input. It goes out at the end of this round; what
    /// fails is told by [`SocketEvent::Closed`], and what is written to a connection that has ended is dropped.
    ///
    /// With [`Framing::Lines`], data with `\n` inside is several lines to who reads it: text that comes from others is
    /// to be checked for it before.
    ///
    /// At most 64 MiB wait for a peer, then the connection ends with
    /// [`SocketError::QueueFull`](super::SocketError::QueueFull). Who writes much pauses when [`Cx::unwritten`] is
    /// over 1 MiB, and goes on at [`SocketEvent::Writable`].
    pub fn write(&mut self, conn: Conn, data: impl AsRef<[u8]>) {
        let (core, me) = self.parts();
        core.write_conn(me, conn, data.as_ref());
    }

    /// How many bytes of a connection, or for a child, wait to be written.
    pub fn unwritten(&mut self, conn: Conn) -> usize {
        let (core, me) = self.parts();
        match core.sockets.kind(SocketId(conn.0), me) {
            Some(SocketKind::Tcp(tcp)) => tcp.unwritten(),
            #[cfg(unix)]
            Some(SocketKind::Child(child)) => child.unwritten(),
            Some(SocketKind::Listener(_) | SocketKind::Udp(_)) | None => 0,
        }
    }

    /// Closes a connection in good order: nothing more is read, all that was written goes out, and then
    /// `Closed(None)` is told; with an error, where the peer takes nothing for ten seconds. Of a child process,
    /// closes the standard input.
    pub fn close(&mut self, conn: Conn) {
        let (core, me) = self.parts();
        core.close_conn(me, conn);
    }

    /// Opens a UDP socket; each datagram is told with its sender. Those that come while the actor's mailbox is full
    /// may be lost, as any datagram may. Wants an address or `localhost`.
    ///
    /// # Errors
    /// As [`Cx::listen`].
    pub fn udp(
        &mut self,
        at: impl Endpoint,
        mut event: impl FnMut(SocketAddr, Vec<u8>) -> M + 'static,
    ) -> io::Result<Udp> {
        let (core, me) = self.parts();
        core.open_udp(me, &at, event_sink(move |(from, data)| event(from, data)))
    }

    /// Sends a datagram, now; nothing waits.
    ///
    /// # Errors
    /// The system does not take it (`WouldBlock`: its own queue is full), or [`egress`](crate::egress) refuses.
    pub fn send_to(&mut self, udp: Udp, to: SocketAddr, data: impl AsRef<[u8]>) -> io::Result<()> {
        let (core, me) = self.parts();
        core.send_udp(me, udp, to, data.as_ref())
    }

    /// Closes a UDP socket.
    pub fn close_udp(&mut self, udp: Udp) {
        let (core, me) = self.parts();
        core.close_udp(me, udp);
    }

    /// Starts a child process. What it prints is told in frames, and standard error as well if the command pipes
    /// it; [`Cx::write`] writes to its standard input, and [`Cx::close`] ends that. [`ProcessEvent::Ended`] comes last.
    ///
    /// A child does not outlive its actor: it is killed then, for whoever would read and wait is gone. To end it
    /// in its own way, close its input, and go on until `Ended`.
    ///
    /// The loop stands still while the system starts the program: most often for about a millisecond, longer when
    /// the program lies on a slow disk. Who starts many at once does so from a loop of their own.
    ///
    /// # Errors
    /// The program does not start; no descriptors; a virtual loop.
    #[cfg(unix)]
    pub fn child(
        &mut self,
        mut command: Command,
        framing: Framing,
        mut event: impl FnMut(Conn, ProcessEvent) -> M + 'static,
    ) -> io::Result<Conn> {
        let (core, me) = self.parts();
        core.spawn_child(me, &mut command, framing, event_sink(move |(conn, what)| event(conn, what)))
    }

    /// Kills a child process (SIGKILL), whose end is told as any other.
    #[cfg(unix)]
    pub fn kill(&mut self, child: Conn) {
        let (core, me) = self.parts();
        core.with_own_socket(SocketId(child.0), me, |_, kind| {
            if let SocketKind::Child(child) = kind {
                child.kill();
            }
            Served::Rest
        });
    }

    fn parts(&mut self) -> (&mut Core, Key) {
        let me = self.id().key();
        (self.loop_ref().core, me)
    }
}

impl Core {
    fn write_conn(&mut self, owner: Key, conn: Conn, data: &[u8]) {
        self.with_own_socket(SocketId(conn.0), owner, |hold, kind| match kind {
            SocketKind::Tcp(tcp) => tcp.push(hold, data),
            #[cfg(unix)]
            SocketKind::Child(child) => child.push(hold, data),
            SocketKind::Listener(_) | SocketKind::Udp(_) => Served::Rest,
        });
    }

    fn close_conn(&mut self, owner: Key, conn: Conn) {
        self.with_own_socket(SocketId(conn.0), owner, |hold, kind| match kind {
            SocketKind::Tcp(tcp) => tcp.close(hold),
            #[cfg(unix)]
            SocketKind::Child(child) => child.close(hold),
            SocketKind::Listener(_) | SocketKind::Udp(_) => Served::Rest,
        });
    }
}
