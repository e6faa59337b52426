//! The methods of [`Cx`] for sockets and child processes.

use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use super::event_sink::event_sink;
use super::table::{Served, SocketId, SocketKind, Sockets};
use super::{Conn, Endpoint, Framing, ProcessEvent, SocketEvent, Udp};
use crate::actor::Cx;
use crate::id::Key;

/// Sockets and child processes. Their events arrive as messages that `to_message` makes, usually a constructor of the
/// actor's own message type. Reading pauses while the actor's mailbox is full, so nothing is lost.
///
/// All sockets end with the actor. Bytes that wait are offered to the system once more; a connection that the actor
/// has closed goes on until all its bytes are written. A virtual loop has no sockets and returns an error.
///
/// ```
/// use antiphon_sched::{Conn, Event, Framing, Loop, LoopConfig, SocketEvent, receive, secs, stop};
///
/// struct Net(Conn, SocketEvent);
///
/// let mut events = Loop::new(LoopConfig::default())?;
/// events.spawn(|cx, event| match event {
///     Event::Start => {
///         let at = cx.listen("127.0.0.1:0", Framing::Lines { max: 1000 }, Net)?;
///         cx.connect(at, Framing::Lines { max: 1000 }, secs(5), Net);
///         receive()
///     }
///     Event::Message(Net(conn, SocketEvent::Opened(_))) => {
///         cx.write(conn, "hello");
///         receive()
///     }
///     Event::Message(Net(_, SocketEvent::Data(line))) => {
///         assert_eq!(line, b"hello");
///         stop()
///     }
///     _ => receive(),
/// });
/// events.run()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl<M: 'static> Cx<'_, M> {
    /// Listens for TCP connections, and returns the bound address; port 0 picks a free port. Each connection begins
    /// with [`SocketEvent::Opened`], and its later events use the same constructor. The endpoint must be an address
    /// or `localhost`.
    ///
    /// Where the endpoint has a [layer](Endpoint::layer) such as TLS, `Opened` follows the negotiation of the layer.
    /// A connection whose negotiation fails is only logged (`debug`). A pending connection is closed after five
    /// seconds. At most 64 are pending: one more closes the oldest of the address that has the most.
    ///
    /// # Errors
    /// The system or [`egress`](crate::egress) refuses; the endpoint is a host name; the loop is virtual.
    pub fn listen(
        &mut self,
        at: impl Endpoint,
        framing: Framing,
        mut to_message: impl FnMut(Conn, SocketEvent) -> M + 'static,
    ) -> io::Result<SocketAddr> {
        let (mut sockets, me) = self.parts();
        sockets.listen(me, &at, framing, event_sink(move |(conn, event)| to_message(conn, event)))
    }

    /// Stops listening at an address that [`Cx::listen`] returned. Open connections stay; pending ones are closed.
    /// Returns false when this actor does not listen there.
    pub fn unlisten(&mut self, at: SocketAddr) -> bool {
        let (mut sockets, me) = self.parts();
        sockets.unlisten(me, at)
    }

    /// Opens a TCP connection. A thread of the blocking pool looks names up; all their addresses are tried in turn,
    /// until one connects. Within `timeout`, which includes TLS, the result arrives: `Opened`, or `Closed` with the
    /// reason. Data that is written earlier is sent once the connection is open.
    pub fn connect(
        &mut self,
        to: impl Endpoint,
        framing: Framing,
        timeout: Duration,
        mut to_message: impl FnMut(Conn, SocketEvent) -> M + 'static,
    ) -> Conn {
        let (mut sockets, me) = self.parts();
        let (host, layer) = (to.host(), to.layer());
        sockets.connect(
            me,
            host,
            layer,
            framing,
            timeout,
            event_sink(move |(conn, event)| to_message(conn, event)),
        )
    }

    /// Writes one frame to a connection, or to a child's standard input. It is sent at the end of this round. A
    /// failure arrives as [`SocketEvent::Closed`]; data for a connection that has ended is dropped.
    ///
    /// With [`Framing::Lines`], the reader takes data with `\n` inside for several lines. Check text from untrusted
    /// sources for `\n` before it is written.
    ///
    /// At most 64 MiB wait for a peer; then the connection ends with
    /// [`SocketError::QueueFull`](super::SocketError::QueueFull). An actor that writes much pauses while
    /// [`Cx::unwritten`] is over 1 MiB, and goes on at [`SocketEvent::Writable`].
    pub fn write(&mut self, conn: Conn, data: impl AsRef<[u8]>) {
        let (mut sockets, me) = self.parts();
        sockets.write_conn(me, conn, data.as_ref());
    }

    /// The number of bytes that wait to be written to a connection, or to a child.
    pub fn unwritten(&mut self, conn: Conn) -> usize {
        let (sockets, me) = self.parts();
        match sockets.core.sockets().kind(SocketId(conn.0), me) {
            Some(SocketKind::Tcp(tcp)) => tcp.unwritten(),
            #[cfg(unix)]
            Some(SocketKind::Child(child)) => child.unwritten(),
            Some(SocketKind::Listener(_) | SocketKind::Udp(_)) | None => 0,
        }
    }

    /// Closes a connection gracefully: nothing more is read, all written data is sent, and then `Closed(None)`
    /// arrives, or `Closed` with an error if the peer takes nothing for ten seconds. For a child process, closes
    /// the standard input.
    pub fn close(&mut self, conn: Conn) {
        let (mut sockets, me) = self.parts();
        sockets.close_conn(me, conn);
    }

    /// Opens a UDP socket; each datagram arrives with the address of its sender. Datagrams that arrive while the
    /// actor's mailbox is full may be lost, as any datagram may. The endpoint must be an address or `localhost`.
    ///
    /// # Errors
    /// As [`Cx::listen`]; also an endpoint with a layer.
    pub fn udp(
        &mut self,
        at: impl Endpoint,
        mut to_message: impl FnMut(SocketAddr, Vec<u8>) -> M + 'static,
    ) -> io::Result<Udp> {
        let (mut sockets, me) = self.parts();
        sockets.open_udp(me, &at, event_sink(move |(from, data)| to_message(from, data)))
    }

    /// Sends a datagram at once; datagrams are not queued.
    ///
    /// # Errors
    /// The system does not take the datagram (`WouldBlock`: its own queue is full); [`egress`](crate::egress) refuses
    /// the address; this actor has no such socket.
    pub fn send_to(&mut self, udp: Udp, to: SocketAddr, data: impl AsRef<[u8]>) -> io::Result<()> {
        let (mut sockets, me) = self.parts();
        sockets.send_udp(me, udp, to, data.as_ref())
    }

    /// Closes a UDP socket.
    pub fn close_udp(&mut self, udp: Udp) {
        let (mut sockets, me) = self.parts();
        sockets.close_udp(me, udp);
    }

    /// Starts a child process. Its standard output arrives in frames, and its standard error as well if the command
    /// pipes it. [`Cx::write`] writes to its standard input, and [`Cx::close`] closes that. [`ProcessEvent::Ended`]
    /// comes last.
    ///
    /// A child does not outlive its actor: it is killed when the actor ends, because nothing would read its output
    /// and wait for it. To let it exit by itself, close its input, and keep the actor until `Ended`.
    ///
    /// The loop blocks while the system starts the program: usually for about a millisecond, longer when the program
    /// lies on a slow disk. A program that starts many children at once uses a separate loop for them.
    ///
    /// # Errors
    /// The program does not start; no descriptors are left; the loop is virtual.
    #[cfg(unix)]
    pub fn child(
        &mut self,
        command: Command,
        framing: Framing,
        to_message: impl FnMut(Conn, ProcessEvent) -> M + 'static,
    ) -> io::Result<Conn> {
        self.start_child((command, false), framing, to_message)
    }

    /// As [`Cx::child`], in a process group of its own: the processes that the child starts are in it too, unless they leave it.
    /// When the child ends or is killed, all that are left in the group are killed.
    ///
    /// # Errors
    /// As [`Cx::child`].
    #[cfg(unix)]
    pub fn child_group(
        &mut self,
        command: Command,
        framing: Framing,
        to_message: impl FnMut(Conn, ProcessEvent) -> M + 'static,
    ) -> io::Result<Conn> {
        self.start_child((command, true), framing, to_message)
    }

    #[cfg(unix)]
    fn start_child(
        &mut self,
        (mut command, has_group): (Command, bool),
        framing: Framing,
        mut to_message: impl FnMut(Conn, ProcessEvent) -> M + 'static,
    ) -> io::Result<Conn> {
        let (mut sockets, me) = self.parts();
        let sink = event_sink(move |(conn, event)| to_message(conn, event));
        sockets.spawn_child(me, (&mut command, has_group), framing, sink)
    }

    /// Kills a child process (SIGKILL). Its end arrives as [`ProcessEvent::Ended`].
    #[cfg(unix)]
    pub fn kill_child(&mut self, child: Conn) {
        let (mut sockets, me) = self.parts();
        sockets.with_own_socket(SocketId(child.0), me, |_, kind| {
            if let SocketKind::Child(child) = kind {
                child.kill();
            }
            Served::Idle
        });
    }

    fn parts(&mut self) -> (Sockets<'_>, Key) {
        let me = self.id().key();
        (Sockets::of(&mut self.loop_ref().scheduler.core), me)
    }
}

impl Sockets<'_> {
    fn write_conn(&mut self, owner: Key, conn: Conn, data: &[u8]) {
        self.with_own_socket(SocketId(conn.0), owner, |cx, kind| match kind {
            SocketKind::Tcp(tcp) => tcp.push(cx, data),
            #[cfg(unix)]
            SocketKind::Child(child) => child.push(cx, data),
            SocketKind::Listener(_) | SocketKind::Udp(_) => Served::Idle,
        });
    }

    fn close_conn(&mut self, owner: Key, conn: Conn) {
        self.with_own_socket(SocketId(conn.0), owner, |cx, kind| match kind {
            SocketKind::Tcp(tcp) => tcp.close(cx),
            #[cfg(unix)]
            SocketKind::Child(child) => child.close(cx),
            SocketKind::Listener(_) | SocketKind::Udp(_) => Served::Idle,
        });
    }
}
