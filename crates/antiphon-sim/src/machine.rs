//! The interface between a world and its machines: inputs, outputs, and the trait that connects them.

use std::net::SocketAddr;
use std::time::Duration;

use antiphon_wire::Time;

/// One end of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SimConn(pub u64);

/// An event that a machine handles.
#[derive(Debug)]
pub enum MachineInput<'a> {
    /// The machine starts.
    Start,
    /// The time of the last [`MachineOutput::Wake`] has come.
    Timer,
    /// A connection from another machine was accepted.
    Accepted {
        /// The new connection.
        conn: SimConn,
        /// The location of the dialling machine.
        from: SocketAddr,
    },
    /// A dial succeeded.
    Connected(SimConn),
    /// A dial failed.
    DialFailed(SimConn),
    /// Bytes arrived.
    Bytes {
        /// The connection.
        conn: SimConn,
        /// The bytes; at least one.
        bytes: &'a [u8],
    },
    /// All bytes that were written have left this machine.
    Writable(SimConn),
    /// The connection was closed by the other end, or cut.
    Closed(SimConn),
    /// A datagram arrived.
    Datagram {
        /// The location of the sender.
        from: SocketAddr,
        /// The whole datagram.
        bytes: &'a [u8],
    },
}

/// An effect that a machine asks of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineOutput {
    /// Dial a location. [`Outputs::dial`] makes this output.
    Dial {
        /// The new connection.
        conn: SimConn,
        /// The location to dial.
        to: SocketAddr,
    },
    /// Write to a connection.
    Write {
        /// The connection.
        conn: SimConn,
        /// The bytes to write.
        bytes: Vec<u8>,
    },
    /// Close a connection. Bytes written before still arrive.
    Close(SimConn),
    /// Send a datagram.
    Datagram {
        /// The location of the receiver.
        to: SocketAddr,
        /// The whole datagram.
        bytes: Vec<u8>,
    },
    /// Set the time of the next [`MachineInput::Timer`]; it replaces the time set before.
    Wake(Time),
}

/// The list to which a machine adds its outputs.
#[derive(Debug)]
pub struct Outputs {
    pub(crate) list: Vec<MachineOutput>,
    pub(crate) next_conn: u64,
}

impl Outputs {
    /// An empty list for a machine that runs without a [`World`](crate::World). Its dials get the numbers `first`,
    /// `first + 2` and so on; the caller may use the numbers between them.
    pub fn new(first: u64) -> Outputs {
        Outputs { list: Vec::new(), next_conn: first }
    }

    /// Takes the outputs since the last call.
    pub fn take(&mut self) -> Vec<MachineOutput> {
        std::mem::take(&mut self.list)
    }

    /// Dials `to`, and returns the connection that [`MachineInput::Connected`] or [`MachineInput::DialFailed`] will name.
    pub fn dial(&mut self, to: SocketAddr) -> SimConn {
        let conn = SimConn(self.next_conn);
        self.next_conn += 2;
        self.list.push(MachineOutput::Dial { conn, to });
        conn
    }

    /// Adds any other output.
    pub fn push(&mut self, output: MachineOutput) {
        self.list.push(output);
    }
}

/// A program that runs in a world: a session endpoint, or a whole node.
pub trait Machine {
    /// Handles one event, and adds its effects to `out`.
    fn handle(&mut self, now: Time, input: MachineInput<'_>, out: &mut Outputs);

    /// Called after a stall of `span`, as of a stopped process, and before the events that arrived during it.
    fn on_stall(&mut self, now: Time, span: Duration, out: &mut Outputs);

    /// Checks promises and invariants; the world calls it after each event.
    ///
    /// # Panics
    /// If one does not hold.
    fn check(&self);
}
