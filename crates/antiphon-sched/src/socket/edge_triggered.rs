//! A non-blocking descriptor whose readiness the system reports only when it changes (edge-triggered).
//!
//! Invariant: a call is answered with `WouldBlock`, without the system, only while a further report is certain: after a
//! call that would have blocked, or after a short read of a stream whose short reads are trusted.

use std::io::{self, Read, Write};

use mio::net::TcpStream;

/// The readiness that the system has reported of a descriptor. It is a hint: a call may still return `WouldBlock`.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct FdReadiness {
    /// Reading will not block.
    pub readable: bool,
    /// Writing will not block.
    pub writable: bool,
    /// The other side has closed its half of the stream, or there was an error: reading reaches the end.
    pub closed: bool,
}

impl FdReadiness {
    /// The stream is to be read to its end, whatever the system reports.
    pub(super) const READ_TO_END: Self = Self { readable: true, writable: false, closed: true };

    pub(super) fn add(&mut self, more: Self) {
        self.readable |= more.readable;
        self.writable |= more.writable;
        self.closed |= more.closed;
    }
}

pub(super) struct EdgeTriggered<T> {
    io: T,
    readable: bool,
    writable: bool,
    /// Only `WouldBlock` shows that nothing is left to read. So it is after the last report, also of TCP.
    reads_to_end: bool,
}

impl<T> EdgeTriggered<T> {
    pub(super) fn new(io: T) -> Self {
        Self { io, readable: false, writable: true, reads_to_end: true }
    }

    /// Notes what the system has reported.
    pub(super) fn note(&mut self, readiness: FdReadiness) {
        self.readable |= readiness.readable;
        self.writable |= readiness.writable;
        self.reads_to_end |= readiness.closed;
    }

    /// Whether a read may succeed.
    pub(super) fn is_readable(&self) -> bool {
        self.readable
    }

    /// The descriptor, for calls that are not to be noted.
    pub(super) fn io(&self) -> &T {
        &self.io
    }

    pub(super) fn io_mut(&mut self) -> &mut T {
        &mut self.io
    }

    /// Calls `read`, unless it would block.
    pub(super) fn try_read<R>(&mut self, read: impl FnOnce(&mut T) -> io::Result<R>) -> io::Result<R> {
        unless_blocked(&mut self.readable, || read(&mut self.io))
    }
}

impl EdgeTriggered<TcpStream> {
    /// A TCP stream. One that is still connecting is not writable before the system reports it.
    pub(super) fn tcp(io: TcpStream, is_connected: bool) -> Self {
        Self { io, readable: false, writable: is_connected, reads_to_end: true }
    }

    /// From now on a read that does not fill its buffer shows that nothing is left, until the next report. That saves a call of the
    /// system, and is not so if the other side sends urgent data: a read ends at its mark.
    pub(super) fn trust_short_reads(&mut self) {
        self.reads_to_end = !REPORTS_AFTER_SHORT_READ;
    }
}

impl<T: Read> Read for EdgeTriggered<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.try_read(|io| io.read(buffer))?;
        let is_drained = 0 < count && count < buffer.len();
        self.readable &= self.reads_to_end || !is_drained;
        Ok(count)
    }
}

impl<T: Write> Write for EdgeTriggered<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        unless_blocked(&mut self.writable, || self.io.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.io.flush()
    }
}

fn unless_blocked<R>(is_ready: &mut bool, call: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
    if !*is_ready {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    let result = call();
    if let Err(reason) = &result {
        *is_ready = reason.kind() != io::ErrorKind::WouldBlock;
    }
    result
}

/// Whether the system reports what arrives after a short read. Others do so only after `WouldBlock`.
const REPORTS_AFTER_SHORT_READ: bool = cfg!(any(
    target_os = "linux",
    target_os = "android",
    target_os = "macos",
    target_os = "ios",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly",
));

#[cfg(all(test, unix))]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream as StdStream};

    use super::*;

    fn pair() -> (StdStream, EdgeTriggered<TcpStream>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let far = StdStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, _) = listener.accept().unwrap();
        near.set_nonblocking(true).unwrap();
        let mut near = EdgeTriggered::tcp(TcpStream::from_std(near), true);
        near.trust_short_reads();
        (far, near)
    }

    fn is_blocked<R>(result: &io::Result<R>) -> bool {
        matches!(result, Err(reason) if reason.kind() == io::ErrorKind::WouldBlock)
    }

    /// Bytes that arrive after a partial read are not read before the system reports them. A read that fills its buffer
    /// is followed by another.
    #[test]
    fn tcp_partial_read_waits_for_next_report() {
        let (mut far, mut near) = pair();
        let readable = FdReadiness { readable: true, ..FdReadiness::default() };
        let mut buffer = [0; 4];
        far.write_all(b"abcdef").unwrap();
        assert!(is_blocked(&near.read(&mut buffer)), "nothing was reported");
        near.note(readable);
        assert_eq!((near.read(&mut buffer).unwrap(), near.is_readable()), (4, true));
        assert_eq!((near.read(&mut buffer).unwrap(), near.is_readable()), (2, false));
        far.write_all(b"g").unwrap();
        assert!(is_blocked(&near.read(&mut buffer)));
        near.note(readable);
        assert_eq!(near.read(&mut buffer).unwrap(), 1);
    }

    /// The end of a stream that the system reports together with its last bytes has no further report.
    #[test]
    fn tcp_closed_is_read_to_end() {
        let (mut far, mut near) = pair();
        far.write_all(b"ab").unwrap();
        drop(far);
        near.note(FdReadiness::READ_TO_END);
        let mut buffer = [0; 4];
        assert_eq!(near.read(&mut buffer).unwrap(), 2);
        assert_eq!((near.read(&mut buffer).unwrap(), near.read(&mut buffer).unwrap()), (0, 0));
    }

    #[test]
    fn tcp_blocked_write_waits_for_report() {
        let (mut far, mut near) = pair();
        let bytes = vec![0; 1 << 20];
        let written: usize = std::iter::from_fn(|| near.write(&bytes).ok()).sum();
        far.read_exact(&mut vec![0; written]).unwrap();
        assert!(is_blocked(&near.write(&bytes)), "the system has room, and did not report it yet");
        near.note(FdReadiness { writable: true, ..FdReadiness::default() });
        assert!(near.write(&bytes).unwrap() > 0);
    }
}
