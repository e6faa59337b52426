//! What a world runs: a machine with one way in and one way out.

use std::net::SocketAddr;
use std::time::Duration;

use antiphon_wire::Time;

/// One end of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SimConn(pub u64);

/// What can happen to a machine.
#[derive(Debug)]
pub enum MachineInput<'a> {
    /// It was started, at its location.
    Start,
    /// The time that it asked for has come.
    Timer,
    /// It was dialled.
    Accepted {
        /// The new connection.
        conn: SimConn,
        /// Where it comes from.
        from: SocketAddr,
    },
    /// Its dial was answered.
    Connected(SimConn),
    /// Its dial was not.
    DialFailed(SimConn),
    /// Bytes have come.
    Bytes {
        /// Over this connection.
        conn: SimConn,
        /// Any number of them.
        bytes: &'a [u8],
    },
    /// Everything that was written has left.
    Writable(SimConn),
    /// The connection is gone.
    Closed(SimConn),
    /// A datagram has come.
    Datagram {
        /// From there.
        from: SocketAddr,
        /// The whole datagram.
        bytes: &'a [u8],
    },
}

/// What a machine can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineOutput {
    /// Dial.
    Dial {
        /// The new connection.
        conn: SimConn,
        /// Whom.
        to: SocketAddr,
    },
    /// Write to a connection.
    Write {
        /// Which.
        conn: SimConn,
        /// What.
        bytes: Vec<u8>,
    },
    /// Close a connection, after what was written.
    Close(SimConn),
    /// Send a datagram.
    Datagram {
        /// To whom.
        to: SocketAddr,
        /// The whole datagram.
        bytes: Vec<u8>,
    },
    /// Ask for [`MachineInput::Timer`] at this time, instead of any time asked for before.
    Wake(Time),
}

/// Where a machine puts what it does.
#[derive(Debug)]
pub struct Outputs {
    pub(crate) list: Vec<MachineOutput>,
    pub(crate) next_conn: u64,
}

impl Outputs {
    /// For a machine that is driven by hand. Its dials are numbered from `first`, in steps of two: so the others' may lie between.
    pub fn new(first: u64) -> Outputs {
        Outputs { list: Vec::new(), next_conn: first }
    }

    /// Takes what the machine has done since this was last called.
    pub fn take(&mut self) -> Vec<MachineOutput> {
        std::mem::take(&mut self.list)
    }

    /// Dials, and answers the connection of which [`MachineInput::Connected`] or [`MachineInput::DialFailed`] will speak.
    pub fn dial(&mut self, to: SocketAddr) -> SimConn {
        let conn = SimConn(self.next_conn);
        self.next_conn += 2;
        self.list.push(MachineOutput::Dial { conn, to });
        conn
    }

    /// Does anything else.
    pub fn push(&mut self, output: MachineOutput) {
        self.list.push(output);
    }
}

/// Something that runs in a world: a session, or a whole node.
pub trait Machine {
    /// One event in; everything that follows from it out.
    fn handle(&mut self, now: Time, input: MachineInput<'_>, out: &mut Outputs);

    /// It has stood still for `span`, as a whole process does that was stopped; what arrived meanwhile follows.
    fn stood_still(&mut self, now: Time, span: Duration, out: &mut Outputs);

    /// Checks promises and invariants, after each event.
    ///
    /// # Panics
    /// If one does not hold.
    fn check(&self);
}
