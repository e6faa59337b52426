//! A member by hand: it knows the secret, keeps a session with the victim, and sends what frames it likes.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use antiphon_dist::Suite;
use antiphon_sched::millis;
use antiphon_wire::frame::{Lookup, LookupResult, NameSpace};
use antiphon_wire::{Deframer, Frame, Key, Session, TagId, Time};

use crate::caller::{profile, shake};
use crate::common::{Net, PATIENCE};
use crate::victim::Victim;

/// So much is written at once.
const WRITE_BYTES: usize = 1 << 20;

pub(crate) struct Member {
    stream: TcpStream,
    pub(crate) session: Session,
    input: Deframer,
    out: Vec<u8>,
    begun: Instant,
}

impl Member {
    pub(crate) fn join(net: &Net, victim: &Victim) -> Self {
        let profile = profile(net, &Suite::aead());
        let proven = shake(victim.location.addr(), &profile, PATIENCE, |_, _| ()).expect("a member gets in");
        let mut session = Session::begin(Time::START, &profile.limits, profile.node, &proven.connection);
        session.connected(Time::START, proven.connection).expect("a first connection");
        proven.stream.set_read_timeout(Some(millis(1))).expect("a timeout can be set");
        let (stream, input) = (proven.stream, proven.input);
        Self { stream, session, input, out: Vec::new(), begun: Instant::now() }
    }

    fn now(&self) -> Time {
        Time::START + self.begun.elapsed()
    }

    /// Writes what there is to write, reads what has come, and shows it.
    pub(crate) fn run_once(&mut self, mut each: impl FnMut(&Frame<'_>)) -> io::Result<()> {
        let now = self.now();
        if self.session.poll_timeout().is_some_and(|due| due <= now) {
            self.session.on_timeout(now);
        }
        while self.session.poll_event().is_some() {}
        self.out.clear();
        while self.out.len() < WRITE_BYTES && self.session.poll_transmit(now, &mut self.out) {}
        self.stream.write_all(&self.out)?;
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
        }
        Ok(())
    }

    /// Turns until `wanted` has seen enough.
    #[track_caller]
    pub(crate) fn turn_until<R>(&mut self, mut wanted: impl FnMut(&Frame<'_>) -> Option<R>) -> R {
        let end = Instant::now() + PATIENCE;
        loop {
            let mut seen = None;
            self.run_once(|frame| seen = seen.take().or_else(|| wanted(frame))).expect("the victim stays");
            if let Some(seen) = seen {
                return seen;
            }
            assert!(Instant::now() < end, "waited {PATIENCE:?} for a frame");
        }
    }

    /// Sends a frame, as soon as there is room for it.
    pub(crate) fn send(&mut self, frame: &Frame<'_>, mut each: impl FnMut(&Frame<'_>)) {
        while self.session.queued_bytes() > WRITE_BYTES as u64 {
            self.run_once(&mut each).expect("the victim stays");
        }
        self.session.send(frame).expect("there is room");
    }

    /// Turns until all that was sent has arrived.
    pub(crate) fn settle(&mut self, mut each: impl FnMut(&Frame<'_>)) {
        let end = Instant::now() + PATIENCE;
        while !self.session.is_idle() {
            self.run_once(&mut each).expect("the victim stays");
            assert!(Instant::now() < end, "waited {PATIENCE:?} for the last acknowledgement");
        }
    }

    /// The key and the type of what has a name.
    pub(crate) fn find(&mut self, space: NameSpace, name: &str) -> (Key, TagId) {
        self.send(&Lookup { request: u64::MAX, space, all: false, name }.into(), |_| ());
        self.turn_until(|frame| match frame {
            Frame::Found(found) if found.request == u64::MAX => match found.what {
                LookupResult::Here { key, tag } => Some((key, tag)),
                LookupResult::TooMany | LookupResult::BadName => None,
            },
            _ => None,
        })
    }
}
