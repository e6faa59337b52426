//! The session: the authenticated relation of two incarnations, which outlives connections.
//!
//! A session owns the state that must survive a connection: frame numbers, unacknowledged frames, type names, fragments,
//! credit. Frames arrive in order, once, over any number of connections, until the session is lost or closed. Time is an argument;
//! no call blocks.

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
pub use receive::{CONTROL_FRAMES_AT_ONCE, Frames, HeldCredit, Incoming};
pub use resume::Admission;
pub use send_queue::SendMark;
pub use transmit::{SendRefused, Withdrawn};

use std::time::Duration;

use crate::bytes::Malformed;
use crate::frame::{Frame, RawFrame};
use crate::handshake::{HelloLimits, ProvenConnection};
use crate::ids::{Key, NodeId, TagId};
use crate::limits::{LARGE_FRAME_FIELDS_BYTES_MAX, Limits, TAG_BYTES_MAX};
use crate::record::{Opener, RecordError, Sealer};
use crate::session::inbound::Inbound;
use crate::session::interner::Interner;
use crate::session::keepalive::Keepalive;
use crate::session::outbound::{Outbound, SEGMENT_BYTES};
use crate::session::resume::SessionIdentity;
use crate::session::send_queue::{SendQueue, SendUntil};
use crate::session::transmit::Control;
use crate::suite::Suite;
use antiphon_types::Time;

/// One session with one peer. See the crate's documentation for the order of calls.
#[derive(Debug)]
pub struct Session {
    limits: Limits,
    /// The limits for frames that this side sends.
    agreed: Agreed,
    identity: SessionIdentity,
    connection: Option<SessionConnection>,
    outbound: Outbound,
    send_queue: SendQueue,
    interner: Interner,
    inbound: Inbound,
    control: Control,
    keepalive: Keepalive,
    /// The position up to which the peer lets this side send. Never falls.
    credit: u64,
    /// The positions up to which frames may be handed over: within the credit, and the bytes that this side keeps for a peer
    /// that has not acknowledged them.
    send_until: SendUntil,
    /// Since when so many answers have waited, without an acknowledgement, that no credit is returned for their causes.
    unresponsive_since: Option<Time>,
    /// When the last ping was sent, until its reply arrives.
    pinged_at: Option<Time>,
    /// The round-trip time of the last ping.
    round_trip: Option<Duration>,
    ack_due: Option<Time>,
    /// The number of frames without numbers that have arrived.
    control_frames: u64,
    /// The kind of the last numbered frame that arrived.
    last_kind: u8,
    events: SessionEvents,
}

/// The suite and the keys of the present connection.
#[derive(Debug)]
struct SessionConnection {
    suite: Suite,
    sealer: Sealer,
    opener: Opener,
}

/// The limits for frames that this side sends, agreed in the handshake.
#[derive(Debug, Clone, Copy)]
struct Agreed {
    /// The smaller of both sides' limits.
    message_bytes_max: u32,
    /// The peer's limit.
    reassembly_bytes_max: u32,
    /// The actors that this side may have paused at one time: the peer's limit.
    paused_actors_max: u32,
}

/// An event that a session reports to its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEvent {
    /// The peer's liveness changed.
    Liveness(Liveness),
    /// A message for which the node awaits room ([`Session::await_room`]) fits now.
    Writable {
        /// The receiving actor.
        actor: Key,
    },
    /// The connection's keys are nearly used up: dial another connection.
    Renew,
    /// Four MiB of answers wait, and the peer has acknowledged nothing for `lost_after`. End the session.
    Unresponsive,
}

/// The events that wait for [`Session::poll_event`].
#[derive(Debug, Default)]
struct SessionEvents {
    liveness: Option<Liveness>,
    renew: bool,
    unresponsive: bool,
    /// Whether `Renew` was reported for this connection.
    renew_reported: bool,
}

/// Why a call of a session failed. The variant names the side at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// A record fails authentication or is malformed. Close the connection; the session continues over another one.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The authenticated peer broke the protocol. Close the connection and end the session.
    #[error("the peer broke the protocol: {0}; close the connection and end the session")]
    PeerMisbehaved(#[from] PeerFault),
    /// The session has no connection that these bytes could belong to. Nothing changed.
    #[error("the session has no connection; call `Session::connected` first")]
    NotConnected,
    /// The connection is not admitted to this session. Nothing changed.
    #[error("the connection does not belong to this session; check it with `Session::admit` first")]
    NotAdmitted,
}

/// How an authenticated peer broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerFault {
    /// A frame is malformed.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The peer sent more bytes than its credit allows.
    #[error("it sent {by} bytes more than its credit allows")]
    CreditExceeded {
        /// Bytes beyond the credit.
        by: u64,
    },
    /// The peer acknowledged, expects, or begins with an impossible frame number.
    #[error("it sent the frame number {frame}, which is out of range")]
    FrameNumber {
        /// The frame number.
        frame: u64,
    },
    /// The first frame of the peer on a connection is not [`Begin`](crate::frame::Begin).
    #[error("its first frame on the connection is not `Begin`")]
    NotBegun,
    /// The peer gave a type tag a number that is not the next one, or exceeds the limit.
    #[error("it numbered a type tag {id:?}; the next number is {expected}, if the limit allows it")]
    TagNumber {
        /// The number that the peer sent.
        id: TagId,
        /// The next number.
        expected: u64,
    },
    /// A frame refers to a type tag that the peer has not numbered.
    #[error("it used the type tag {id:?} before it numbered it")]
    UnknownTag {
        /// The number of the tag.
        id: TagId,
    },
    /// A fragment has no first part, a bad size or a bad kind.
    #[error("it sent an invalid fragment of stream {stream}")]
    Fragment {
        /// The stream of the fragment.
        stream: u32,
    },
    /// The incomplete large frames of the peer exceed the reassembly limit.
    #[error("its incomplete large frames have {declared} bytes in total, which exceeds the limit")]
    Reassembly {
        /// Their declared bytes in total.
        declared: u64,
    },
    /// The peer paused more actors than the limit.
    #[error("it paused more than {limit} actors")]
    Paused {
        /// The limit.
        limit: u32,
    },
}

impl Session {
    /// The most bytes of the body of a message, which both sides agreed on.
    pub fn message_bytes_max(&self) -> u32 {
        self.agreed.message_bytes_max
    }

    /// Creates a session for a connection that [`Session::admit`] answered with [`Admission::Begins`]. Then call
    /// [`connected`](Session::connected) with that connection.
    pub fn begin(now: Time, limits: &Limits, me: NodeId, connection: &ProvenConnection) -> Session {
        let peer_limits = connection.peer.limits;
        Session {
            limits: Limits { paused_actors_max: HelloLimits::from(limits).paused_actors_max, ..*limits },
            agreed: Agreed {
                message_bytes_max: limits.message_bytes_max.min(peer_limits.message_bytes_max),
                reassembly_bytes_max: peer_limits.reassembly_bytes_max,
                paused_actors_max: peer_limits.paused_actors_max,
            },
            identity: SessionIdentity::new(me, connection),
            connection: None,
            outbound: Outbound::default(),
            send_queue: SendQueue::new(limits),
            interner: Interner::default(),
            inbound: Inbound::new(u64::from(limits.window_bytes.max(crate::limits::WINDOW_BYTES_LEAST))),
            control: Control::default(),
            keepalive: Keepalive::new(now),
            credit: u64::from(peer_limits.window_bytes),
            send_until: SendUntil::new(u64::from(peer_limits.window_bytes)),
            unresponsive_since: None,
            pinged_at: None,
            round_trip: None,
            ack_due: None,
            control_frames: 0,
            last_kind: 0,
            events: SessionEvents::default(),
        }
    }

    /// Continues the session over this connection, which replaces any other. Frames that the peer has not received are sent
    /// again.
    ///
    /// # Errors
    /// - [`SessionError::NotAdmitted`] unless [`Session::admit`] answers [`Admission::Continues`], or the session was begun
    ///   with this connection.
    /// - [`SessionError::PeerMisbehaved`] if the peer expects frames that were never sent.
    ///
    /// After an error nothing has changed.
    pub fn connected(&mut self, now: Time, connection: Box<ProvenConnection>) -> Result<(), SessionError> {
        if self.identity.admit(&connection) != Admission::Continues {
            return Err(SessionError::NotAdmitted);
        }
        // The peer may have acknowledged more over an older connection since it sent its proof.
        let begin = connection.peer_expects.max(self.outbound.acked());
        self.outbound.rewind(begin).map_err(|_| PeerFault::FrameNumber { frame: begin })?;
        self.outbound.acknowledge(begin).expect("`rewind` checked that these frames were transmitted");
        self.inbound.begin_connection();
        self.identity.adopt(&connection);
        let ProvenConnection { suite, sealer, opener, .. } = *connection;
        self.connection = Some(SessionConnection { suite, sealer, opener });
        self.control.begin_connection(begin);
        self.events.renew_reported = false;
        self.ack_due = None;
        self.update_send_until();
        self.on_received(now);
        Ok(())
    }

    /// Reports that the connection is lost. The session waits for another one; the peer's silence continues to count.
    pub fn connection_lost(&mut self) {
        self.connection = None;
        self.identity.live_dialler = None;
        self.ack_due = None;
        self.unresponsive_since = None;
    }

    /// Reports that the connection was closed because it was idle. The keepalive stops until the next connection.
    pub fn connection_closed_idle(&mut self) {
        self.connection_lost();
        self.keepalive.stop();
    }

    /// Restarts the keepalive after an idle close: the peer's silence counts from now on.
    pub fn restart_keepalive(&mut self, now: Time) {
        self.keepalive.restart(now);
    }

    /// Sends a pending acknowledgement with the next record, without the usual delay. For the end of a session, so that the
    /// peer learns which of its frames arrived.
    pub fn acknowledge_now(&mut self) {
        self.control.ack_now |= self.ack_due.take().is_some();
    }

    /// Whether the session has a connection.
    pub fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// The suite of the present connection.
    pub fn suite(&self) -> Option<Suite> {
        self.connection.as_ref().map(|connection| connection.suite)
    }

    /// The node id of the peer.
    pub fn peer(&self) -> NodeId {
        self.identity.peer
    }

    /// The peer's liveness.
    pub fn liveness(&self) -> Liveness {
        self.keepalive.liveness()
    }

    /// When to call [`on_timeout`](Session::on_timeout). Every other call may change it.
    pub fn poll_timeout(&self) -> Option<Time> {
        let keepalive = self.keepalive.due(&self.limits, self.is_connected());
        let unresponsive = self.unresponsive_since.map(|since| since + self.limits.lost_after);
        [self.ack_due, keepalive, unresponsive].into_iter().flatten().min()
    }

    /// Handles the due timeouts. Then call [`poll_transmit`](Session::poll_transmit) and
    /// [`poll_event`](Session::poll_event). An early or late call does no harm.
    pub fn on_timeout(&mut self, now: Time) {
        if self.ack_due.is_some_and(|due| due <= now) {
            self.ack_due = None;
            self.control.ack_now = true;
        }
        let next_action = self.keepalive.next_action(now, &self.limits, self.is_connected());
        if next_action.ping {
            self.ping(now);
            self.release_spare();
        }
        self.events.liveness = next_action.liveness.or(self.events.liveness);
        let is_unresponsive = |since: &mut Time| now.since(*since) >= self.limits.lost_after;
        self.events.unresponsive |= self.unresponsive_since.take_if(is_unresponsive).is_some();
    }

    /// Sends a ping with the next record, to measure the round-trip time.
    pub fn ping(&mut self, now: Time) {
        self.control.ping = Some(now.as_nanos());
        self.pinged_at = Some(now);
    }

    /// When the last record arrived; later, if this side did not run for a while since.
    pub fn last_received(&self) -> Time {
        self.keepalive.last_received()
    }

    /// The round-trip time of the last ping; `None` before the first reply.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// Excludes `span` from the peer's silence, because this node itself did not run (a stopped process, a long step).
    pub fn exclude_stall(&mut self, span: Duration) {
        self.keepalive.exclude_stall(span);
        self.unresponsive_since = self.unresponsive_since.map(|since| since + span);
    }

    /// Updates the positions up to which frames may be handed over, after credit or an acknowledgement.
    fn update_send_until(&mut self) {
        let kept_until = self.outbound.kept_from() + kept_bytes_max(&self.limits);
        self.send_until = SendUntil::new(self.credit.min(kept_until));
    }

    /// Handles a change of the answers that wait: returns credit that was withheld.
    fn update_withheld(&mut self, now: Time) {
        if self.send_queue.is_full_of_answers() {
            self.unresponsive_since.get_or_insert(now);
        } else {
            self.unresponsive_since = None;
        }
        if !self.send_queue.withholds_credit() {
            self.inbound.release_withheld();
        }
    }

    /// The next event for the node.
    pub fn poll_event(&mut self) -> Option<SessionEvent> {
        if let Some(liveness) = self.events.liveness.take() {
            return Some(SessionEvent::Liveness(liveness));
        }
        if std::mem::take(&mut self.events.renew) {
            return Some(SessionEvent::Renew);
        }
        if std::mem::take(&mut self.events.unresponsive) {
            return Some(SessionEvent::Unresponsive);
        }
        self.send_queue.next_writable().map(|actor| SessionEvent::Writable { actor })
    }

    /// Removes some of the numbered frames that are not acknowledged: about 64 KiB, or a single large one. Calls `each` with
    /// them, and whether the frame may have arrived. Returns false if none is left. For the end of a session, which is of no
    /// other use after the first call: frames that cannot have arrived are dead letters; the outcome of the rest is unknown.
    /// The body of a large frame may be truncated.
    pub fn take_undelivered(&mut self, mut each: impl FnMut(&Frame<'_>, bool)) -> bool {
        self.outbound
            .take_unacknowledged(|raw, was_transmitted| report_whole(&raw, was_transmitted, &mut each))
            || self.send_queue.take_undelivered(self.outbound.acked(), each)
    }

    /// As [`take_undelivered`](Session::take_undelivered), of all frames, which stay.
    #[cfg(test)]
    fn undelivered(&self, mut each: impl FnMut(&Frame<'_>, bool)) {
        for (raw, was_transmitted) in self.outbound.unacknowledged() {
            report_whole(&raw, was_transmitted, &mut each);
        }
        self.send_queue.undelivered(self.outbound.acked(), each);
    }

    /// Whether all sent frames are acknowledged and none waits: the session may end or become idle without loss.
    pub fn is_idle(&self) -> bool {
        self.outbound.acked() == self.outbound.next() && self.send_queue.waiting().total() == 0
    }

    /// The number of numbered frames sent since the session began, with those that wait in segments.
    pub fn frames_sent(&self) -> u64 {
        self.outbound.next()
    }

    /// The number of numbered frames received since the session began.
    pub fn frames_received(&self) -> u64 {
        self.inbound.next()
    }

    /// The number of type tags that the peer has numbered since the session began.
    pub fn tags_received(&self) -> u64 {
        self.inbound.tags_len()
    }

    /// The number of frames without numbers, and of records without frames, that have arrived since the session began. They need no
    /// credit, so a node limits their share of its time.
    pub fn control_frames_received(&self) -> u64 {
        self.control_frames
    }

    /// The bytes that this session holds: frames that wait or are not acknowledged, incomplete large frames, and the names of
    /// type tags. At most [`held_bytes_max`](Session::held_bytes_max).
    pub fn held_bytes(&self) -> u64 {
        let tags = self.interner.len() as u64 + self.inbound.tags_len();
        self.outbound.kept_bytes()
            + self.send_queue.held_bytes()
            + self.inbound.incomplete_bytes()
            + tags * TAG_BYTES
    }

    /// The most bytes that a session with these limits holds, whatever the peer does.
    pub fn held_bytes_max(limits: &Limits) -> u64 {
        let kept = kept_bytes_max(limits) + SEGMENT_BYTES as u64;
        let tags = 2 * u64::from(limits.tags_max) * TAG_BYTES;
        // A single large frame may exceed the limit for several.
        let single = limits.message_bytes_max.saturating_add(LARGE_FRAME_FIELDS_BYTES_MAX);
        let incomplete = u64::from(limits.reassembly_bytes_max.max(single));
        kept + SendQueue::held_bytes_max(limits, kept) + incomplete + tags
    }

    /// Checks every invariant. A simulator calls this after each event.
    ///
    /// # Panics
    /// If an invariant does not hold, which is a bug of this crate.
    pub fn check(&self) {
        self.outbound.check();
        self.send_queue.check();
        self.inbound.check();
        let (held, most) = (self.held_bytes(), Session::held_bytes_max(&self.limits));
        assert!(held <= most, "{held} bytes are held, and the limits allow {most}");
        assert!(self.outbound.sent() <= self.credit, "sent bytes stay within the credit");
        assert_eq!(
            self.connection.is_some(),
            self.identity.live_dialler.is_some(),
            "a connection has keys exactly while its dialler is known"
        );
        assert!(self.inbound.next() == 0 || self.identity.is_firm, "a session that received a frame is firm");
    }

    /// Frees recycled buffers, because this side has nothing to send.
    fn release_spare(&mut self) {
        self.outbound.release_spare();
        self.send_queue.release_spare();
    }

    fn on_received(&mut self, now: Time) {
        if let Some(liveness) = self.keepalive.on_received(now) {
            self.events.liveness = Some(liveness);
        }
    }

    /// The actors that this side has paused.
    pub fn paused(&self) -> impl Iterator<Item = Key> {
        self.control.paused()
    }
}

#[cfg(test)]
mod tests;

/// Calls `each` with a frame, unless it is a tag or a fragment: the send queue reports a large frame once.
fn report_whole(raw: &RawFrame<'_>, was_transmitted: bool, each: &mut impl FnMut(&Frame<'_>, bool)) {
    match raw.decode() {
        Ok(Some(Frame::Fragment(_) | Frame::Tag(_))) | Ok(None) | Err(_) => {}
        Ok(Some(frame)) => each(&frame, was_transmitted),
    }
}

/// The most bytes of frames that are handed over and kept until the peer acknowledges them.
fn kept_bytes_max(limits: &Limits) -> u64 {
    u64::from(limits.window_bytes).max(KEPT_BYTES_LEAST)
}

/// What a type tag occupies.
const TAG_BYTES: u64 = TAG_BYTES_MAX as u64 + 64;
/// The least [`kept_bytes_max`]: enough for 128 ms at 1 Gbit/s.
const KEPT_BYTES_LEAST: u64 = 16 * 1024 * 1024;
