//! Accepts TCP connections, for the listeners of actors and for nodes.
//!
//! Invariant: an acceptor pauses while the process has no descriptors left, so that a backlog it cannot accept never
//! keeps the loop busy.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use antiphon_types::Time;
use mio::net::{TcpListener, TcpStream};

use super::edge_triggered::{EdgeTriggered, FdReadiness};

/// How long an acceptor pauses when no descriptors are left: first, and at most.
const ACCEPT_PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(3_200)];
/// The fewest and the most descriptors in reserve.
#[cfg(unix)]
const RESERVE: [u64; 2] = [16, 128];

/// A listening TCP socket, which pauses while the process has no descriptors left.
///
/// Register [`tcp`](Self::tcp) with a poll, for reading, and [note](Self::note) each report. Accept while
/// [`is_ready`](Self::is_ready), in this round or a later one, and also after [`paused_until`](Self::paused_until).
pub struct Acceptor {
    listener: EdgeTriggered<TcpListener>,
    local: SocketAddr,
    paused_until: Option<Time>,
    backoff: AcceptBackoff,
}

/// The pauses of an acceptor: each is twice as long as the one before, until a connection is accepted. They are logged
/// at powers of two.
#[derive(Default)]
struct AcceptBackoff {
    /// The number of pauses since the last accepted connection.
    pauses: u32,
    /// The number of all pauses.
    total: u64,
}

impl Acceptor {
    /// Listens at an address; port 0 picks a free port.
    ///
    /// # Errors
    /// The system refuses.
    pub fn bind(at: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(at)?;
        let local = listener.local_addr()?;
        let backoff = AcceptBackoff::default();
        Ok(Self { listener: EdgeTriggered::new(listener), local, paused_until: None, backoff })
    }

    /// The bound address.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The listening socket, for its registration with a poll.
    pub fn tcp(&mut self) -> &mut TcpListener {
        self.listener.io_mut()
    }

    /// Notes what the system has reported.
    pub fn note(&mut self, readiness: FdReadiness) {
        self.listener.note(readiness);
    }

    /// Whether connections may wait that can be accepted.
    pub fn is_ready(&self, now: Time) -> bool {
        self.listener.is_readable() && self.paused_until.is_none_or(|until| until <= now)
    }

    /// The end of the pause, if the acceptor has paused since it last accepted a connection.
    pub fn paused_until(&self) -> Option<Time> {
        self.paused_until
    }

    /// Accepts the next connection; `None` if there is none, if it has failed already, or during a pause.
    pub fn accept(&mut self, now: Time) -> Option<(TcpStream, SocketAddr)> {
        if !self.is_ready(now) {
            return None;
        }
        self.paused_until = None;
        match self.listener.try_read(|listener| listener.accept()) {
            Ok(accepted) => {
                self.backoff.pauses = 0;
                return Some(accepted);
            }
            Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => {}
            Err(reason) if is_exhausted(&reason) => {
                self.paused_until = Some(now + self.backoff.next_pause(&reason, self.local));
            }
            // That connection has failed already; there may be more in the backlog.
            Err(reason) => tracing::debug!(%reason, "a connection was not accepted"),
        }
        None
    }

    /// Whether the process has more descriptors left than the reserve for connections that it accepts: an eighth of its
    /// limit. The system returns the lowest free number, so that of a new descriptor shows how many are in use.
    #[cfg(unix)]
    pub fn has_reserve(&self) -> bool {
        use std::os::fd::AsRawFd;
        let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current else {
            return true;
        };
        let [fewest, most] = RESERVE;
        let newest = rustix::io::dup(self.listener.io()).ok();
        let newest = newest.and_then(|newest| u64::try_from(newest.as_raw_fd()).ok());
        newest.is_some_and(|newest| newest + (limit / 8).clamp(fewest, most) < limit)
    }

    /// Whether the process has more descriptors left than a reserve. This system does not limit them.
    #[cfg(not(unix))]
    pub fn has_reserve(&self) -> bool {
        true
    }
}

impl AcceptBackoff {
    fn next_pause(&mut self, reason: &io::Error, at: SocketAddr) -> Duration {
        self.total += 1;
        let [first, longest] = ACCEPT_PAUSES;
        let pause = first.saturating_mul(1 << self.pauses.min(16)).min(longest);
        self.pauses += 1;
        if self.total.is_power_of_two() {
            let total = self.total;
            tracing::warn!(%reason, %at, ?pause, total, "accepting pauses, because the process has no descriptors left; close some connections, or raise the limit of open files (logged at powers of two)");
        }
        pause
    }
}

/// Whether an error of `accept` means that no connection can be accepted until something is closed: the process or
/// the system has no descriptors or no memory left. Wait before the next try: an immediate one fails again, and a loop
/// of tries keeps a processor busy.
fn is_exhausted(reason: &io::Error) -> bool {
    // ENFILE, EMFILE, ENOBUFS and ENOMEM. ENOBUFS has other numbers on other systems.
    reason.kind() == io::ErrorKind::OutOfMemory
        || matches!(reason.raw_os_error(), Some(23 | 24 | 55 | 105 | 10024 | 10055))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn accept_pauses_double_until_connection_is_accepted() {
        let at = ([127, 0, 0, 1], 1).into();
        let exhausted = io::Error::from_raw_os_error(24);
        assert!(is_exhausted(&exhausted) && !is_exhausted(&io::ErrorKind::ConnectionReset.into()));
        let mut backoff = AcceptBackoff::default();
        let pauses: Vec<_> = (0..8).map(|_| backoff.next_pause(&exhausted, at)).collect();
        let expected = [100, 200, 400, 800, 1600, 3200, 3200, 3200].map(Duration::from_millis);
        assert_eq!(pauses, expected);
        backoff.pauses = 0;
        assert_eq!(backoff.next_pause(&exhausted, at), expected[0]);
    }
}
