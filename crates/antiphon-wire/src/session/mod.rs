//! The session: the authenticated pair of two incarnations, which outlives connections.
//!
//! It owns what must survive a connection: frame numbers, kept frames, tags, fragments, credit. Frames arrive in order, once,
//! over any number of connections, until the session is lost or closed. Time is an argument; nothing here ever blocks.

mod epochs;
mod inbound;
mod interner;
mod keepalive;
mod outbound;
mod receive;
mod resume;
mod send_queue;
mod transmit;

pub use epochs::Epochs;
pub use inbound::Assembled;
pub use interner::InternError;
pub use keepalive::Liveness;
pub use receive::{Frames, HeldCredit, Incoming};
pub use resume::Admission;
pub use transmit::SendRefused;

use std::time::Duration;

use crate::bytes::Malformed;
use crate::frame::Frame;
use crate::handshake::ProvenConnection;
use crate::ids::{Key, NodeId, TagId};
use crate::limits::Limits;
use crate::record::{Opener, RecordError, Sealer};
use crate::session::inbound::Inbound;
use crate::session::interner::Interner;
use crate::session::keepalive::Keepalive;
use crate::session::outbound::Outbound;
use crate::session::resume::SessionIdentity;
use crate::session::send_queue::SendQueue;
use crate::session::transmit::Control;
use crate::suite::Suite;
use crate::time::Time;

/// One session with one peer. See the crate's documentation for the order of calls.
#[derive(Debug)]
pub struct Session {
    limits: Limits,
    /// What both sides take; the smaller of each.
    agreed: Agreed,
    identity: SessionIdentity,
    connection: Option<SessionConnection>,
    outbound: Outbound,
    send_queue: SendQueue,
    tags: Interner,
    inbound: Inbound,
    control: Control,
    keepalive: Keepalive,
    /// The position up to which the peer lets this side send. Never falls.
    credit: u64,
    ack_due: Option<Time>,
    events: SessionEvents,
}

/// The keys of the present connection.
#[derive(Debug)]
struct SessionConnection {
    suite: Suite,
    sealer: Sealer,
    opener: Opener,
}

/// The limits that hold for what this side sends.
#[derive(Debug, Clone, Copy)]
struct Agreed {
    message_bytes_max: u32,
    reassembly_bytes_max: u32,
}

/// What a session wants its node to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEvent {
    /// The status changed.
    Liveness(Liveness),
    /// The queue was above its high mark and has fallen below the low one.
    Writable,
    /// The connection's keys are nearly used up: dial another one.
    Renew,
}

#[derive(Debug, Default)]
struct SessionEvents {
    status: Option<Liveness>,
    is_writable: bool,
    renew: bool,
    /// Whether `Renew` was told for this connection.
    renew_told: bool,
    was_high: bool,
}

/// Why a session cannot go on, by whose fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// A record does not open. Close the connection; the session goes on over another one.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The peer proved itself, and broke the protocol. Close the connection and end the session.
    #[error("the peer broke the protocol: {0}; close the connection and end the session")]
    PeerMisbehaved(#[from] PeerFault),
    /// There is no connection that these bytes could belong to. Nothing was changed.
    #[error("the session has no connection; give it one first")]
    NotConnected,
    /// The connection was not admitted to this session. Nothing was changed.
    #[error("the connection does not belong to this session; ask `Session::admit` first")]
    NotAdmitted,
}

/// How a proven peer broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerFault {
    /// A frame does not parse.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// More bytes than were granted.
    #[error("it sent {by} bytes more than it was granted")]
    CreditExceeded {
        /// How many more.
        by: u64,
    },
    /// It acknowledged, expects, or begins with a frame that cannot be.
    #[error("it speaks of frame {frame}, which is not among those under way")]
    FrameNumber {
        /// The number that it told.
        frame: u64,
    },
    /// It sent a numbered frame before it said which number the first one has.
    #[error("it sent a numbered frame before it said where it begins")]
    NotBegun,
    /// Tags are numbered densely, up to the limit.
    #[error("it numbered a type tag {told:?} where {expected} was next")]
    TagNumber {
        /// The number that it told.
        told: TagId,
        /// The next one.
        expected: u64,
    },
    /// A frame refers to a tag that was never told.
    #[error("it used the type tag {id:?} without naming it")]
    UnknownTag {
        /// The number that it used.
        id: TagId,
    },
    /// A fragment that belongs to nothing, or is too large, or too much.
    #[error("fragment stream {stream} is not what was announced")]
    Fragment {
        /// Its stream.
        stream: u32,
    },
    /// More large frames at a time than this side takes.
    #[error("it has large frames of {declared} bytes under way, more than were allowed")]
    Reassembly {
        /// Their bytes together.
        declared: u64,
    },
    /// It paused more actors than the limit.
    #[error("it paused more than {limit} actors")]
    Paused {
        /// The limit.
        limit: u32,
    },
}

impl Session {
    /// A new session, from a connection that [`Session::admit`] says begins one. Give it that connection with
    /// [`connected`](Session::connected).
    pub fn begin(now: Time, limits: &Limits, me: NodeId, connection: &ProvenConnection) -> Session {
        let offer = connection.peer.offer;
        Session {
            limits: *limits,
            agreed: Agreed {
                message_bytes_max: limits.message_bytes_max.min(offer.message_bytes_max),
                reassembly_bytes_max: offer.reassembly_bytes_max,
            },
            identity: SessionIdentity::new(me, connection),
            connection: None,
            outbound: Outbound::default(),
            send_queue: SendQueue::default(),
            tags: Interner::default(),
            inbound: Inbound::new(u64::from(limits.window_bytes.max(crate::limits::WINDOW_BYTES_LEAST))),
            control: Control::default(),
            keepalive: Keepalive::new(now),
            credit: u64::from(offer.window_bytes),
            ack_due: None,
            events: SessionEvents::default(),
        }
    }

    /// The session goes on over this connection, which takes the place of any other. What the peer has not received is sent
    /// again.
    ///
    /// # Errors
    /// [`SessionError::NotAdmitted`] unless [`Session::admit`] answers [`Admission::Takes`] (or the session was begun with this
    /// connection); [`SessionError::PeerMisbehaved`] if the peer expects frames that were never sent.
    /// Nothing was changed.
    pub fn connected(&mut self, now: Time, connection: Box<ProvenConnection>) -> Result<(), SessionError> {
        if self.identity.admit(&connection) != Admission::Takes {
            return Err(SessionError::NotAdmitted);
        }
        // What the peer expected when it proved; over an older connection it may have acknowledged more since.
        let begin = connection.peer_expects.max(self.outbound.acked());
        self.outbound.rewind(begin).map_err(|_| PeerFault::FrameNumber { frame: begin })?;
        self.outbound.acknowledge(begin).expect("what was transmitted can be acknowledged");
        self.inbound.begin_connection();
        self.identity.take(&connection);
        let ProvenConnection { suite, sealer, opener, .. } = *connection;
        self.connection = Some(SessionConnection { suite, sealer, opener });
        self.send_queue.unpause_all();
        self.control.begin_connection(begin);
        self.events.renew_told = false;
        self.ack_due = None;
        self.hear(now);
        Ok(())
    }

    /// The connection is gone; the session waits for another one. Silence goes on counting.
    pub fn disconnected(&mut self) {
        self.connection = None;
        self.identity.live = None;
        self.ack_due = None;
    }

    /// The connection is gone by agreement: nothing is open, and silence means nothing until the next one.
    pub fn rest(&mut self) {
        self.disconnected();
        self.keepalive.rest();
    }

    /// A session at rest is needed again: silence counts from now on.
    pub fn wake(&mut self, now: Time) {
        self.keepalive.wake(now);
    }

    /// What has arrived is acknowledged with the next record, and not some milliseconds later: for the end of a session, so that
    /// the peer knows what became of its frames.
    pub fn acknowledge_now(&mut self) {
        self.control.ack_now |= self.ack_due.take().is_some();
    }

    /// Whether there is a connection.
    pub fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// The suite of the present connection.
    pub fn suite(&self) -> Option<Suite> {
        self.connection.as_ref().map(|connection| connection.suite)
    }

    /// The peer.
    pub fn peer(&self) -> NodeId {
        self.identity.peer
    }

    /// What the session thinks of the peer.
    pub fn status(&self) -> Liveness {
        self.keepalive.status()
    }

    /// When [`on_timeout`](Session::on_timeout) should be called. Changes with every other call.
    pub fn poll_timeout(&self) -> Option<Time> {
        let keepalive = self.keepalive.due(&self.limits, self.is_connected());
        match (self.ack_due, keepalive) {
            (Some(ack), Some(keepalive)) => Some(ack.min(keepalive)),
            (ack, keepalive) => ack.or(keepalive),
        }
    }

    /// Does what is due; then transmit, and look for events. Calling it early or late does no harm.
    pub fn on_timeout(&mut self, now: Time) {
        if self.ack_due.is_some_and(|due| due <= now) {
            self.ack_due = None;
            self.control.ack_now = true;
        }
        let next_action = self.keepalive.next_action(now, &self.limits, self.is_connected());
        if next_action.ping {
            self.control.ping = Some(now.as_nanos());
            self.outbound.release_spare();
        }
        self.events.status = next_action.status.or(self.events.status);
    }

    /// This node itself stood still for `span` (stopped, or a long turn): that silence is not the peer's.
    pub fn forgive(&mut self, span: Duration) {
        self.keepalive.forgive(span);
    }

    /// The next thing that the node should know.
    pub fn poll_event(&mut self) -> Option<SessionEvent> {
        if let Some(status) = self.events.status.take() {
            return Some(SessionEvent::Liveness(status));
        }
        if std::mem::take(&mut self.events.is_writable) {
            return Some(SessionEvent::Writable);
        }
        std::mem::take(&mut self.events.renew).then_some(SessionEvent::Renew)
    }

    /// Numbered frames that were not acknowledged, with whether they may have arrived: for the end of a session, when each is
    /// a dead letter or an unknown. The body of a large one may be cut short.
    pub fn undelivered(&self, mut each: impl FnMut(&Frame<'_>, bool)) {
        for (raw, perhaps_arrived) in self.outbound.unacknowledged() {
            match raw.decode() {
                // Told once, with the large frame that they are parts of.
                Ok(Some(Frame::Fragment(_) | Frame::Tag(_))) | Ok(None) | Err(_) => {}
                Ok(Some(frame)) => each(&frame, perhaps_arrived),
            }
        }
        let acked = self.outbound.acked();
        self.send_queue.undelivered(acked).for_each(|(frame, perhaps_arrived)| each(&frame, perhaps_arrived));
    }

    /// Whether everything that was sent has arrived, and nothing waits: the session may end or rest without loss.
    pub fn is_idle(&self) -> bool {
        self.outbound.acked() == self.outbound.next() && self.send_queue.bytes() == 0
    }

    /// Numbered frames that were sent or wait in segments, since the session began.
    pub fn frames_sent(&self) -> u64 {
        self.outbound.next()
    }

    /// Numbered frames that were received.
    pub fn frames_received(&self) -> u64 {
        self.inbound.next()
    }

    /// Re-checks every invariant: for a simulator, after each event.
    ///
    /// # Panics
    /// If one does not hold: a bug of this crate.
    pub fn check(&self) {
        self.outbound.check();
        self.send_queue.check();
        self.inbound.check();
        assert!(self.outbound.sent() <= self.credit, "only what was granted is sent");
        assert_eq!(self.connection.is_some(), self.identity.live.is_some(), "a live connection has keys");
        assert!(
            self.inbound.next() == 0 || self.identity.is_firm,
            "a session that received something is firm"
        );
    }

    fn hear(&mut self, now: Time) {
        if let Some(status) = self.keepalive.hear(now) {
            self.events.status = Some(status);
        }
    }

    /// The actors that this side has paused, for the node's own account.
    pub fn paused(&self) -> impl Iterator<Item = Key> {
        self.control.paused()
    }
}

#[cfg(test)]
mod tests;
