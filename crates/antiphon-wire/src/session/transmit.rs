//! The sending half of a session: frames become segments, and segments become sealed records.

use std::collections::BTreeSet;

use crate::frame::{
    Ack, Begin, Credit, Frame, FrameTooLarge, HEADER_BYTES, NUMBERED_FROM, Pause, Ping, Pong, RawFrame, Tag,
    Unpause,
};
use crate::ids::{Key, Pair, TagId};
use crate::limits::{FRAGMENT_BYTES_MAX, LARGE_FRAME_FIELDS_BYTES_MAX};
use crate::record::Sealer;
use crate::session::Session;
use crate::session::interner::InternError;
use crate::time::Time;

/// Why a frame was not accepted. The session is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendRefused {
    /// The send queue of this peer has reached its cap.
    #[error("the send queue of this peer is full with {queued} bytes; wait for `SessionEvent::Writable`")]
    Busy {
        /// Bytes in the queue.
        queued: u64,
    },
    /// The body exceeds the limit that both sides agreed on.
    #[error("the message has {bytes} bytes, but this session allows {limit}; split it, or send a file")]
    TooLarge {
        /// Bytes of the frame's payload.
        bytes: u64,
        /// Bytes that a body may have.
        limit: u64,
    },
    /// A text or a route is too long for its length field.
    #[error("a text or a route in the frame exceeds 65,535 bytes; shorten it")]
    FieldTooLong,
    /// The frame belongs to the other method, or only the session itself sends it.
    #[error("this method does not send such a frame; see `send` and `send_control`")]
    WrongMethod,
}

impl From<FrameTooLarge> for SendRefused {
    fn from(error: FrameTooLarge) -> SendRefused {
        SendRefused::TooLarge { bytes: error.size as u64, limit: u64::from(u16::MAX) }
    }
}

/// The control frames that wait to be sent.
#[derive(Debug, Default)]
pub(super) struct Control {
    pub(super) ack_now: bool,
    pub(super) ping: Option<u64>,
    pub(super) pong: Option<u64>,
    /// The number of the first numbered frame, if the connection is new.
    begin: Option<u64>,
    /// Whether to send the present credit, because the connection is new.
    credit_now: bool,
    /// All other control frames, encoded.
    others: Vec<u8>,
    /// The actors that this side has paused.
    paused: BTreeSet<Key>,
}

impl Control {
    /// Prepares the control frames with which a new connection begins.
    pub(super) fn begin_connection(&mut self, begin: u64) {
        let paused = std::mem::take(&mut self.paused);
        *self = Control { begin: Some(begin), credit_now: true, paused, ..Control::default() };
        for actor in &self.paused {
            push_control(&Frame::Pause(Pause { actor: *actor }), &mut self.others);
        }
    }

    pub(super) fn paused(&self) -> impl Iterator<Item = Key> {
        self.paused.iter().copied()
    }
}

/// Whether a frame completes something that is open at the peer, which would stay open for ever if the cap refused the
/// frame. The number of such frames is bounded by the open monitors, replies and requests, so the cap does not apply to
/// them.
fn is_completion(frame: &Frame<'_>) -> bool {
    use crate::frame;
    let kinds = [
        frame::Down::KIND,
        frame::Demonitor::KIND,
        frame::ReplyDropped::KIND,
        frame::Receipt::KIND,
        frame::CancelLookup::KIND,
        frame::Goodbye::KIND,
        frame::Lagged::KIND,
    ];
    kinds.contains(&frame.kind())
}

impl Session {
    /// Returns the number of a type tag for frames of this session. The first call for a tag also sends the number to the
    /// peer.
    ///
    /// # Errors
    /// [`InternError`]; nothing changed.
    #[inline]
    pub fn intern(&mut self, name: &str) -> Result<TagId, InternError> {
        match self.interner.find(name) {
            Some(id) => Ok(id),
            None => self.intern_new(name),
        }
    }

    #[cold]
    fn intern_new(&mut self, name: &str) -> Result<TagId, InternError> {
        let id = self.interner.add(name, self.limits.tags_max)?;
        let frame = Frame::Tag(Tag { id, name });
        self.outbound.append(&frame, frame.payload_size());
        Ok(id)
    }

    /// Accepts a numbered frame for sending and copies its bytes. It arrives once, after every frame that was sent before
    /// within its [`pair`](Frame::pair), unless the session ends first.
    ///
    /// # Errors
    /// [`SendRefused`]; the frame was not accepted.
    #[inline]
    pub fn send(&mut self, frame: &Frame<'_>) -> Result<(), SendRefused> {
        self.send_in(frame.pair(), frame)
    }

    /// As [`send`](Session::send), for a frame that names no pair but must keep its order within `pair`.
    ///
    /// # Errors
    /// As [`send`](Session::send).
    #[inline]
    pub fn send_in_order(&mut self, pair: Pair, frame: &Frame<'_>) -> Result<(), SendRefused> {
        let next = self.outbound.next();
        self.send_in(Some(pair), frame)?;
        if self.outbound.next() > next && frame.pair() != Some(pair) {
            self.outbound.label(Some(pair), false);
        }
        Ok(())
    }

    #[inline]
    fn send_in(&mut self, pair: Option<Pair>, frame: &Frame<'_>) -> Result<(), SendRefused> {
        let size = frame.payload_size();
        let queued = self.queued_bytes() + size as u64;
        if queued > self.limits.queue_bytes_high {
            if queued > self.limits.queue_bytes_cap && !is_completion(frame) {
                return Err(SendRefused::Busy { queued: self.queued_bytes() });
            }
            self.events.was_high = true;
        }
        if size > FRAGMENT_BYTES_MAX {
            return self.send_large(pair, frame, size);
        }
        debug_assert!(frame.kind() >= NUMBERED_FROM, "{} is for send_control", frame.name());
        match pair {
            Some(pair) if !self.send_queue.is_idle() && self.send_queue.must_wait(pair) => {
                self.send_queue.push_small(pair, frame, size);
            }
            Some(_) | None => self.outbound.append(frame, size),
        }
        Ok(())
    }

    #[cold]
    fn send_large(&mut self, pair: Option<Pair>, frame: &Frame<'_>, size: usize) -> Result<(), SendRefused> {
        let limit = u64::from(self.agreed.message_bytes_max);
        if size as u64 > limit + u64::from(LARGE_FRAME_FIELDS_BYTES_MAX) {
            return Err(SendRefused::TooLarge { bytes: size as u64, limit });
        }
        if !frame.fits() {
            return Err(SendRefused::FieldTooLong);
        }
        if frame.kind() < NUMBERED_FROM || matches!(frame, Frame::Tag(_) | Frame::Fragment(_)) {
            return Err(SendRefused::WrongMethod);
        }
        self.send_queue.push_large(pair, frame, size);
        Ok(())
    }

    /// Accepts a control frame for the present connection: `Close`, `IdleProposed` or `IdleAgreed`. It overtakes queued
    /// frames, and is dropped if the connection is lost.
    ///
    /// # Errors
    /// [`SendRefused::WrongMethod`] for any other frame, or without a connection.
    pub fn send_control(&mut self, frame: &Frame<'_>) -> Result<(), SendRefused> {
        let is_ours = matches!(frame, Frame::Close(_) | Frame::IdleProposed(_) | Frame::IdleAgreed(_));
        if !is_ours || !self.is_connected() {
            return Err(SendRefused::WrongMethod);
        }
        push_control(frame, &mut self.control.others);
        Ok(())
    }

    /// Asks the peer to keep its frames for `actor` and its adapters, because they have to wait here. New connections
    /// repeat the request. Returns false, and sends nothing, if this side has paused as many actors as the peer allows.
    #[must_use = "without a pause the peer continues to send"]
    pub fn pause(&mut self, actor: Key) -> bool {
        let actor = actor.actor();
        let is_full = self.control.paused.len() >= self.agreed.paused_actors_max as usize;
        if is_full && !self.control.paused.contains(&actor) {
            return false;
        }
        if self.control.paused.insert(actor) && self.is_connected() {
            push_control(&Frame::Pause(Pause { actor }), &mut self.control.others);
        }
        true
    }

    /// Asks the peer to send its frames for `actor` again.
    pub fn unpause(&mut self, actor: Key) {
        let actor = actor.actor();
        if self.control.paused.remove(&actor) && self.is_connected() {
            push_control(&Frame::Unpause(Unpause { actor }), &mut self.control.others);
        }
    }

    /// Bytes that wait to be transmitted to this peer.
    #[inline]
    pub fn queued_bytes(&self) -> u64 {
        self.outbound.unsent_bytes() + self.send_queue.bytes()
    }

    /// Whether [`poll_transmit`](Session::poll_transmit) has something to send now.
    pub fn wants_transmit(&self) -> bool {
        let Some(connection) = &self.connection else { return false };
        let control = &self.control;
        let has_control = control.ack_now
            || control.ping.is_some()
            || control.pong.is_some()
            || control.credit_now
            || !control.others.is_empty()
            || self.inbound.unacked_bytes() >= self.limits.ack_bytes
            || self.inbound.credit_due();
        !connection.sealer.is_exhausted()
            && (has_control || self.outbound.can_send(self.credit) || self.can_pump())
    }

    fn can_pump(&self) -> bool {
        !self.send_queue.is_idle()
            && self.send_queue.can_pump(&self.outbound, self.agreed.reassembly_bytes_max.into())
    }

    /// Appends one sealed record with as many frames as fit to `out`. Returns false if there is nothing to send now.
    ///
    /// Call it until it returns false, or until `out` holds enough for one write to the socket.
    pub fn poll_transmit(&mut self, _now: Time, out: &mut Vec<u8>) -> bool {
        if self.connection.is_none() {
            return false;
        }
        if !self.send_queue.is_idle() {
            self.send_queue.recall(&mut self.outbound);
            self.send_queue.pump(&mut self.outbound, u64::from(self.agreed.reassembly_bytes_max));
        }
        if !self.wants_transmit() {
            return false;
        }
        let Some(connection) = &mut self.connection else { return false };
        let room = connection.sealer.body_bytes_max();
        let start = Sealer::begin(out);
        let body = out.len();
        self.put_control(out, room);
        self.outbound.copy_to(out, room - (out.len() - body), self.credit);
        let Some(connection) = &mut self.connection else { return false };
        if out.len() == body {
            out.truncate(start);
            return false;
        }
        connection.sealer.seal(out, start);
        if connection.sealer.needs_renewal() && !self.events.renew_reported {
            (self.events.renew, self.events.renew_reported) = (true, true);
        }
        if self.events.was_high && self.queued_bytes() < self.limits.queue_bytes_low {
            (self.events.was_high, self.events.is_writable) = (false, true);
        }
        true
    }

    /// Appends the pending control frames. Acknowledgements and credit are sent along with any record.
    fn put_control(&mut self, out: &mut Vec<u8>, room: usize) {
        if let Some(frame) = self.control.begin.take() {
            push_control(&Frame::Begin(Begin { frame }), out);
        }
        if self.inbound.has_unacked() || self.control.ack_now {
            push_control(&Frame::Ack(Ack { next: self.inbound.take_ack() }), out);
            self.control.ack_now = false;
            self.ack_due = None;
        }
        if self.control.credit_now || self.inbound.credit_due() {
            push_control(&Frame::Credit(Credit { until: self.inbound.take_credit() }), out);
            self.control.credit_now = false;
        }
        if let Some(token) = self.control.ping.take() {
            push_control(&Frame::Ping(Ping { token }), out);
        }
        if let Some(token) = self.control.pong.take() {
            push_control(&Frame::Pong(Pong { token }), out);
        }
        if !self.control.others.is_empty() {
            put_others(&mut self.control.others, out, room - CONTROL_BYTES_MAX);
        }
    }
}

/// Moves as many whole frames as fit into `room` bytes.
fn put_others(others: &mut Vec<u8>, out: &mut Vec<u8>, room: usize) {
    let mut rest = others.as_slice();
    let mut moved = 0;
    while let Ok(Some(raw)) = RawFrame::take_from(&mut rest) {
        if moved + raw.bytes_len() > room {
            break;
        }
        moved += raw.bytes_len();
    }
    out.extend_from_slice(&others[..moved]);
    others.drain(..moved);
    if others.is_empty() {
        *others = Vec::new();
    }
}

fn push_control(frame: &Frame<'_>, out: &mut Vec<u8>) {
    let length = u16::try_from(frame.payload_size()).expect("a control frame has a few bytes");
    frame.put_with_header(length, out);
}

/// The bytes of `Begin`, `Ack`, `Credit`, `Ping` and `Pong`, which each record has room for.
const CONTROL_BYTES_MAX: usize = 5 * (HEADER_BYTES + 8);
