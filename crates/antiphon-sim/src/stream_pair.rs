//! A connection between two machines: two byte streams, each of which can be cut at a random byte.

use std::net::SocketAddr;

use antiphon_wire::Time;

use crate::machine::SimConn;
use crate::rng::SimRng;

/// One connection: both its ends and their streams.
#[derive(Debug)]
pub(crate) struct StreamPair {
    /// The dialler's end, then the acceptor's.
    pub(crate) ends: [StreamEnd; 2],
}

/// One end of a connection, and the byte stream that it sends.
#[derive(Debug)]
pub(crate) struct StreamEnd {
    pub(crate) host: SocketAddr,
    /// The start of that host to which this end belongs.
    pub(crate) incarnation: u32,
    /// Whether the machine has not closed this end.
    pub(crate) is_open: bool,
    /// Bytes written.
    pub(crate) written: u64,
    /// Bytes that arrived at the other end, or would have without the cut.
    pub(crate) arrived: u64,
    /// No byte from this offset on arrives.
    pub(crate) cut_at: Option<u64>,
    /// When the last piece arrives.
    pub(crate) last_arrival: Time,
}

impl StreamEnd {
    pub(crate) fn new(host: SocketAddr, incarnation: u32) -> StreamEnd {
        let (is_open, last_arrival) = (true, Time::ZERO);
        StreamEnd { host, incarnation, is_open, written: 0, arrived: 0, cut_at: None, last_arrival }
    }

    /// Cuts the stream at a random byte of those that have not arrived.
    pub(crate) fn cut(&mut self, rng: &mut SimRng) {
        let at = self.arrived + rng.below(self.written - self.arrived + 1);
        self.cut_at = Some(self.cut_at.map_or(at, |before| before.min(at)));
    }

    /// Moves `count` bytes to the other end, and returns how many of them lie before the cut.
    pub(crate) fn arrive(&mut self, count: u64) -> u64 {
        let end = self.cut_at.unwrap_or(u64::MAX).min(self.arrived + count);
        let arriving = end.saturating_sub(self.arrived);
        self.arrived += count;
        arriving
    }
}

impl StreamPair {
    /// The number of the connection that an end belongs to, and the side of that end.
    pub(crate) fn of(conn: SimConn) -> (u64, usize) {
        (conn.0 & !1, usize::from(conn.0 & 1 == 1))
    }

    /// The end `side` of the connection `number`.
    pub(crate) fn conn(number: u64, side: usize) -> SimConn {
        SimConn(number | side as u64)
    }
}
