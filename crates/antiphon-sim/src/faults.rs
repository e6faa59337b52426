//! What goes wrong in a world, and how often.

use std::time::Duration;

/// What goes wrong. `Default` is a sound network.
#[derive(Debug, Clone)]
pub struct Faults {
    /// The least time from one end to the other.
    pub latency: Duration,
    /// What is added to it, at random, for each piece.
    pub jitter: Duration,
    /// Bytes of the largest piece in which a stream arrives.
    pub piece_bytes_max: u64,
    /// A connection is cut, at any byte, about this often; zero for never.
    pub cut_every: Duration,
    /// Of so many cuts, one leaves an end that does not notice; 0 for none.
    pub half_open_once_in: u64,
    /// Of so many dials, one is not answered; 0 for none.
    pub dial_fails_once_in: u64,
    /// A machine crashes about this often; zero for never.
    pub crash_every: Duration,
    /// It is started again after up to this time.
    pub restart_within: Duration,
    /// Of so many datagrams, one is lost; 0 for none. As many are doubled.
    pub datagram_lost_once_in: u64,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults {
            latency: Duration::from_micros(50),
            jitter: Duration::from_micros(50),
            piece_bytes_max: 64 * 1024,
            cut_every: Duration::ZERO,
            half_open_once_in: 0,
            dial_fails_once_in: 0,
            crash_every: Duration::ZERO,
            restart_within: Duration::from_millis(500),
            datagram_lost_once_in: 0,
        }
    }
}
