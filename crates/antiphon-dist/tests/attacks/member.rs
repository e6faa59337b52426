//! A member without a node: it has the secret, keeps a session with the victim, and sends arbitrary frames.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use antiphon_dist::Suite;
use antiphon_sched::{Wire, millis};
use antiphon_wire::frame::{Begin, Lookup, LookupResult, NameSpace};
use antiphon_wire::{Deframer, Frame, Key, NodeId, Profile, RawConnection, Session, TagId, Time};

use crate::caller::{Failed, connect, handshake, handshake_on, profile};
use crate::common::{Net, PATIENCE};
use crate::victim::Victim;

/// The number of bytes to write at once.
const WRITE_BYTES: usize = 1 << 20;

pub(crate) struct Member {
    pub(crate) node: NodeId,
    stream: TcpStream,
    pub(crate) session: Session,
    input: Deframer,
    out: Vec<u8>,
    begun: Instant,
}

impl Member {
    pub(crate) fn join(net: &Net, victim: &Victim) -> Self {
        Self::join_as(victim.location.addr(), &profile(net, &Suite::aead()), 1)
            .expect("the victim accepts a member")
    }

    /// As [`Self::join`], and claims locations.
    pub(crate) fn join_from(net: &Net, victim: &Victim, locations: Vec<SocketAddr>) -> Self {
        let profile = Profile { locations, ..profile(net, &Suite::aead()) };
        Self::join_as(victim.location.addr(), &profile, 1).expect("the victim accepts a member")
    }

    /// Joins with any node id, locations and epoch.
    pub(crate) fn join_as(victim: SocketAddr, profile: &Profile, epoch: u64) -> Result<Self, Failed> {
        let proven = handshake_on(connect(victim), profile, epoch, |_, _| ())?;
        let mut session = Session::begin(Time::ZERO, &profile.limits, profile.node, &proven.connection);
        session.connected(Time::ZERO, proven.connection).expect("a new session accepts a connection");
        proven.stream.set_read_timeout(Some(millis(1))).expect("a timeout can be set");
        let (stream, input) = (proven.stream, proven.input);
        Ok(Self { node: profile.node, stream, session, input, out: Vec::new(), begun: Instant::now() })
    }

    fn now(&self) -> Time {
        Time::ZERO + self.begun.elapsed()
    }

    /// Writes queued frames.
    fn write_once(&mut self, now: Time) -> io::Result<()> {
        self.out.clear();
        while self.out.len() < WRITE_BYTES && self.session.poll_transmit(now, &mut self.out) {}
        self.stream.write_all(&self.out)
    }

    /// Writes all queued frames, and reads nothing meanwhile: a pause by the victim comes too late for them.
    #[track_caller]
    pub(crate) fn write_without_reading(&mut self) {
        self.write_once(self.now()).expect("the session continues");
        assert_eq!(self.session.queued_bytes(), 0, "the victim granted credit for all frames");
    }

    /// Writes the queued frames, reads, and calls `each` for each frame that has arrived.
    pub(crate) fn run_once(&mut self, mut each: impl FnMut(&Frame<'_>)) -> io::Result<()> {
        let now = self.now();
        if self.session.poll_timeout().is_some_and(|due| due <= now) {
            self.session.on_timeout(now);
        }
        while self.session.poll_event().is_some() {}
        self.write_once(now)?;
        match self.stream.read(self.input.space()) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.input.filled(count),
            Err(reason) if matches!(reason.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(reason) => return Err(reason),
        }
        while let Some(mut frames) =
            self.session.next_record(now, &mut self.input).map_err(io::Error::other)?
        {
            while let Some(incoming) = self.session.next_frame(now, &mut frames).map_err(io::Error::other)? {
                each(&incoming.frame());
            }
            let unread = frames.unread();
            self.input.put_back(unread);
        }
        Ok(())
    }

    /// Runs until `wanted` returns a value for a frame.
    #[track_caller]
    pub(crate) fn run_until<R>(&mut self, mut wanted: impl FnMut(&Frame<'_>) -> Option<R>) -> R {
        let end = Instant::now() + PATIENCE;
        loop {
            let mut found = None;
            self.run_once(|frame| found = found.take().or_else(|| wanted(frame)))
                .expect("the session continues");
            if let Some(found) = found {
                return found;
            }
            assert!(Instant::now() < end, "waited {PATIENCE:?} for a frame");
        }
    }

    /// Sends a frame. While the send queue is long, runs first.
    pub(crate) fn send(&mut self, frame: &Frame<'_>, mut each: impl FnMut(&Frame<'_>)) {
        while self.session.queued_bytes() > WRITE_BYTES as u64 {
            self.run_once(&mut each).expect("the session continues");
        }
        self.session.send(frame).expect("the send queue has room");
    }

    /// The tag of a type.
    pub(crate) fn tag_of<T: Wire>(&mut self) -> TagId {
        self.session.intern(&T::name()).expect("the session has room for a tag")
    }

    /// Runs until the victim has acknowledged all frames.
    pub(crate) fn run_until_acknowledged(&mut self, mut each: impl FnMut(&Frame<'_>)) {
        let end = Instant::now() + PATIENCE;
        while !self.session.is_idle() {
            self.run_once(&mut each).expect("the session continues");
            assert!(Instant::now() < end, "waited {PATIENCE:?} for the last acknowledgement");
        }
    }

    /// Locates a name; returns the key and the type.
    pub(crate) fn find(&mut self, space: NameSpace, name: &str) -> (Key, TagId) {
        self.send(&Lookup { request: u64::MAX, space, all: false, name }.into(), |_| ());
        self.run_until(|frame| match frame {
            Frame::Found(found) if found.request == u64::MAX => match found.result {
                LookupResult::Found { key, tag } => Some((key, tag)),
                LookupResult::TooMany | LookupResult::BadName => None,
            },
            _ => None,
        })
    }
}

/// A member without a session: it sends any frames, and need not read.
pub(crate) struct RawMember {
    pub(crate) node: NodeId,
    stream: TcpStream,
    connection: RawConnection,
    input: Deframer,
    out: Vec<u8>,
}

impl RawMember {
    /// Joins, and sends the first frame of a session.
    pub(crate) fn join(net: &Net, victim: &Victim) -> Self {
        Self::join_from(net, victim, Vec::new())
    }

    /// As [`Self::join`], and claims locations.
    pub(crate) fn join_from(net: &Net, victim: &Victim, locations: Vec<SocketAddr>) -> Self {
        let profile = Profile { locations, ..profile(net, &Suite::aead()) };
        let proven = handshake(victim.location.addr(), &profile, PATIENCE, |_, _| ())
            .expect("the victim accepts a member");
        let connection = RawConnection::new(*proven.connection);
        let (stream, input) = (proven.stream, proven.input);
        let mut member = Self { node: profile.node, stream, connection, input, out: Vec::new() };
        member.write(&[Begin { frame: 0 }.into()]).expect("the victim reads");
        member
    }

    /// Writes frames.
    pub(crate) fn write(&mut self, frames: &[Frame<'_>]) -> io::Result<()> {
        self.out.clear();
        self.connection.seal(frames, &mut self.out).expect("each frame fits into a record");
        self.stream.write_all(&self.out)
    }

    /// Writes records without frames.
    pub(crate) fn write_empty_records(&mut self, count: usize) -> io::Result<()> {
        self.out.clear();
        (0..count).for_each(|_| self.connection.seal_empty(&mut self.out));
        self.stream.write_all(&self.out)
    }

    /// Reads what arrives within a millisecond, and calls `each` for each frame.
    pub(crate) fn read(&mut self, mut each: impl FnMut(&Frame<'_>)) -> io::Result<()> {
        self.stream.set_read_timeout(Some(millis(1)))?;
        match self.stream.read(self.input.space()) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.input.filled(count),
            Err(reason) if matches!(reason.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(reason) => return Err(reason),
        }
        while self.connection.open(&mut self.input, |frame| each(&frame)).map_err(io::Error::other)? {}
        Ok(())
    }
}
