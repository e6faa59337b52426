//! A connection between two machines: two streams of bytes, each cut where chance says.

use std::net::SocketAddr;

use antiphon_wire::Time;

use crate::machine::SimConn;
use crate::rng::SimRng;

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    /// The dialler's end, and the acceptor's.
    pub(crate) ends: [LinkEnd; 2],
}

/// One end of a connection, and the stream that it sends.
#[derive(Debug)]
pub(crate) struct LinkEnd {
    pub(crate) host: SocketAddr,
    /// Which life of that host.
    pub(crate) incarnation: u32,
    /// Whether the machine still has it.
    pub(crate) is_open: bool,
    /// Bytes written, and bytes that have arrived at the other end.
    pub(crate) written: u64,
    pub(crate) arrived: u64,
    /// Nothing beyond this byte arrives.
    pub(crate) cut_at: Option<u64>,
    /// When the last piece arrives.
    pub(crate) last_arrival: Time,
}

impl LinkEnd {
    pub(crate) fn new(host: SocketAddr, incarnation: u32) -> LinkEnd {
        let (is_open, last_arrival) = (true, Time::START);
        LinkEnd { host, incarnation, is_open, written: 0, arrived: 0, cut_at: None, last_arrival }
    }

    /// Cuts the stream at some byte that is on its way.
    pub(crate) fn cut(&mut self, rng: &mut SimRng) {
        let at = self.arrived + rng.below(self.written - self.arrived + 1);
        self.cut_at = Some(self.cut_at.map_or(at, |before| before.min(at)));
    }

    /// How many of the next `count` bytes arrive.
    pub(crate) fn arrive(&mut self, count: u64) -> u64 {
        let end = self.cut_at.unwrap_or(u64::MAX).min(self.arrived + count);
        let arriving = end.saturating_sub(self.arrived);
        self.arrived += count;
        arriving
    }
}

impl Link {
    /// Which link a connection's end belongs to, and which end it is.
    pub(crate) fn of(conn: SimConn) -> (u64, usize) {
        (conn.0 & !1, usize::from(conn.0 & 1 == 1))
    }

    /// The end `side` of the link `number`.
    pub(crate) fn conn(number: u64, side: usize) -> SimConn {
        SimConn(number | side as u64)
    }
}
