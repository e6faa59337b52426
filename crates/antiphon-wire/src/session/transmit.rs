//! The sending half of a session: frames become segments, and segments become sealed records.

use std::collections::BTreeSet;

use crate::frame::{
    Ack, Begin, Close, Credit, Frame, FrameTooLarge, Goodbye, HEADER_BYTES, IdleAgreed, IdleProposed,
    NUMBERED_FROM, Pause, Ping, Pong, Tag, Unpause,
};
use crate::ids::{FrameTarget, Key, Pair, TagId};
use crate::limits::{FRAGMENT_BYTES_MAX, LARGE_FRAME_FIELDS_BYTES_MAX};
use crate::record::Sealer;
use crate::session::Session;
use crate::session::interner::InternError;
use crate::session::send_queue::{FrameClass, PART_BYTES_MAX, SendMark, is_answer};
use antiphon_types::Time;

/// Why a frame was not accepted. The session is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendRefused {
    /// Too many bytes wait. [`Session::await_room`] reports room for a message, `Monitor` or `Notify`. Nothing reports it for
    /// a frame that counts in the reserve.
    #[error(
        "{queued} bytes wait already, so a frame of {bytes} bytes does not fit; send it when fewer bytes wait"
    )]
    Busy {
        /// Bytes that wait for the actor, or in the reserve.
        queued: u64,
        /// Bytes of the frame, header included.
        bytes: u64,
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
    /// The last of each kind that waits; it replaces one that the peer has not got yet.
    idle_proposed: Option<IdleProposed>,
    idle_agreed: Option<IdleAgreed>,
    close: Option<Close>,
    /// A `Close` was sent: nothing follows it on this connection.
    is_closed: bool,
    /// The actors that this side has paused.
    paused: BTreeSet<Key>,
    /// The actors of which the peer does not know yet that they are paused.
    new_pauses: BTreeSet<Key>,
    /// The actors of which the peer does not know yet that they no longer are. These are sent first, so that the paused ones
    /// keep to the peer's limit at any time.
    ended_pauses: BTreeSet<Key>,
}

impl Control {
    /// Prepares the control frames with which a new connection begins.
    pub(super) fn begin_connection(&mut self, begin: u64) {
        let paused = std::mem::take(&mut self.paused);
        let new_pauses = paused.clone();
        *self = Control { begin: Some(begin), credit_now: true, paused, new_pauses, ..Control::default() };
    }

    /// Notes that an actor is paused, or no longer is. Two changes that the peer has not got yet cancel each other out.
    fn note_pause(&mut self, actor: Key, is_paused: bool) {
        let (changed, reversed) = if is_paused {
            (&mut self.new_pauses, &mut self.ended_pauses)
        } else {
            (&mut self.ended_pauses, &mut self.new_pauses)
        };
        if !reversed.remove(&actor) {
            changed.insert(actor);
        }
    }

    /// Whether a frame waits that [`Control::put_rare`] appends.
    fn has_rare(&self) -> bool {
        !self.new_pauses.is_empty()
            || !self.ended_pauses.is_empty()
            || self.idle_proposed.is_some()
            || self.idle_agreed.is_some()
            || self.close.is_some()
    }

    /// Appends the frames that few records have: in the order of this function, as many as fit.
    fn put_rare(&mut self, out: &mut Vec<u8>, room: usize) {
        let last = out.len() + room;
        while out.len() + CONTROL_FRAME_BYTES_MAX <= last {
            let ended = self.ended_pauses.pop_first().map(|actor| Frame::Unpause(Unpause { actor }));
            let new = || self.new_pauses.pop_first().map(|actor| Frame::Pause(Pause { actor }));
            let Some(frame) = ended.or_else(new) else { break };
            push_control(&frame, out);
        }
        let proposed = self.idle_proposed.take().map(Frame::IdleProposed);
        let agreed = self.idle_agreed.take().map(Frame::IdleAgreed);
        // It is the last frame.
        let has_pauses = !self.new_pauses.is_empty() || !self.ended_pauses.is_empty();
        let close = self.close.take_if(|_| !has_pauses).map(Frame::Close);
        self.is_closed |= close.is_some();
        for frame in [proposed, agreed, close].into_iter().flatten() {
            push_control(&frame, out);
        }
    }

    pub(super) fn paused(&self) -> impl Iterator<Item = Key> {
        self.paused.iter().copied()
    }
}

/// A message that was withdrawn before it was transmitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Withdrawn {
    /// Whether the peer has paused the receiving actor, because its mailbox is full.
    pub is_paused: bool,
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

    /// The name of a type tag that this side has numbered, for reports at the end of a session. Takes time in the number of
    /// tags.
    pub fn sent_tag_name(&self, id: TagId) -> Option<&str> {
        self.interner.name(id)
    }

    #[cold]
    fn intern_new(&mut self, name: &str) -> Result<TagId, InternError> {
        let id = self.interner.add(name, self.limits.tags_max)?;
        let frame = Frame::Tag(Tag { id, name });
        self.outbound.append(&frame, frame.payload_size());
        Ok(id)
    }

    /// Accepts a numbered frame for sending and copies its bytes. It arrives once, after every frame that was sent before
    /// within its [`pair`](Frame::pair), unless the session ends first. Only `Terminate`, `Throw` and `Resume` overtake, and
    /// only what waits because the peer has paused their target.
    ///
    /// The bytes that may wait are bounded:
    /// - For one actor, as many may wait as are still free of `queue_bytes_cap`. An actor for which nothing waits may queue
    ///   one frame, within twice that. Messages, `Monitor` and `Notify` count.
    /// - Answers, each `Down` with a value or a text, frames that pass a pause, and frames that name no pair count in a reserve
    ///   of their own: at most `queue_bytes_cap`.
    /// - Frames that complete something at the peer (other `Down`s, `Demonitor`, `Receipt`, `ReplyDropped`, `Found`,
    ///   `CancelLookup`, `Lagged` and `Goodbye`) are never refused. While 4 MiB of those wait that the peer causes, or 16 MiB of
    ///   `Down`s behind messages, the session returns no credit for what may cause further ones. A peer that acknowledges nothing for `lost_after` meanwhile is reported as
    ///   [`Unresponsive`](crate::SessionEvent::Unresponsive).
    ///
    /// # Errors
    /// [`SendRefused`]; the frame was not accepted.
    #[inline]
    pub fn send(&mut self, frame: &Frame<'_>) -> Result<(), SendRefused> {
        let size = frame.payload_size();
        let Some(pair) = frame.pair() else { return self.send_behind_others(None, frame, size) };
        let is_near = self.outbound.unsent_bytes() <= self.limits.queue_bytes_low;
        let has_credit = self.outbound.end() + (HEADER_BYTES + size) as u64 <= self.send_until.others;
        if size <= FRAGMENT_BYTES_MAX && is_near && has_credit && self.send_queue.is_idle() {
            debug_assert!(frame.kind() >= NUMBERED_FROM, "{} is for send_control", frame.name());
            self.outbound.append(frame, size);
            return Ok(());
        }
        self.send_behind_others(Some(pair), frame, size)
    }

    /// As [`send`](Session::send), for a frame that names no pair: it arrives before all frames of `pair` that are sent later.
    ///
    /// # Errors
    /// As [`send`](Session::send).
    pub fn send_in_order(&mut self, pair: Pair, frame: &Frame<'_>) -> Result<(), SendRefused> {
        self.send_behind_others(Some(pair), frame, frame.payload_size())
    }

    /// Sends a frame while others wait, or one that names no pair.
    #[inline(never)]
    fn send_behind_others(
        &mut self,
        pair: Option<Pair>,
        frame: &Frame<'_>,
        size: usize,
    ) -> Result<(), SendRefused> {
        let class = FrameClass::of(frame.kind(), size);
        let bytes = (HEADER_BYTES + size) as u64;
        if size > FRAGMENT_BYTES_MAX {
            self.check_large(frame, size)?;
        } else {
            debug_assert!(frame.kind() >= NUMBERED_FROM, "{} is for send_control", frame.name());
            if frame.kind() == Goodbye::KIND {
                self.send_queue.close(&mut self.outbound);
                self.outbound.append(frame, size);
                return Ok(());
            }
            let pushed = pair.and_then(|pair| self.send_queue.push_behind(pair, frame, size));
            if let Some(pushed) = pushed {
                return pushed.map_err(|queued| SendRefused::Busy { queued, bytes });
            }
            let until = if is_answer(frame) { self.send_until.answers } else { self.send_until.others };
            // While others wait, it leaves them the credit of a part, for which a large frame may wait.
            let left = if self.send_queue.is_idle() { 0 } else { PART_BYTES_MAX as u64 };
            let has_credit = self.outbound.end() + bytes + left <= until;
            let is_near = self.outbound.unsent_bytes() <= self.limits.queue_bytes_low;
            if is_near && has_credit && !self.send_queue.must_wait(pair, frame) {
                self.outbound.append(frame, size);
                return Ok(());
            }
        }
        let admitted = self.send_queue.admit(pair.map(Pair::to), class, bytes);
        admitted.map_err(|queued| SendRefused::Busy { queued, bytes })?;
        self.send_queue.push(pair, frame, size);
        Ok(())
    }

    #[cold]
    fn check_large(&self, frame: &Frame<'_>, size: usize) -> Result<(), SendRefused> {
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
        Ok(())
    }

    /// Whether a message of `bytes` bytes ([`Frame::encoded_size`]) for this actor of the peer keeps to the mark. `Cap` is
    /// what [`send`](Session::send) checks; a node checks `High` for senders that stop early.
    pub fn fits(&self, actor: Key, bytes: u64, mark: SendMark) -> bool {
        self.send_queue.fits(actor.actor(), bytes, mark)
    }

    /// Reports [`SessionEvent::Writable`](crate::SessionEvent::Writable) once, when a message of `bytes` bytes for this actor
    /// [fits](Session::fits) the mark. Of several calls for one actor and mark the least counts; an event ends them all. Each
    /// awaited actor occupies memory until it is reported.
    pub fn await_room(&mut self, actor: Key, bytes: u64, mark: SendMark) {
        self.send_queue.await_room(actor.actor(), bytes, mark);
    }

    /// Ends [`await_room`](Session::await_room) for this actor. An event that was not polled is dropped.
    pub fn stop_awaiting_room(&mut self, actor: Key) {
        self.send_queue.stop_awaiting_room(actor.actor());
    }

    /// Bytes that wait for this actor of the peer: its messages, `Monitor` and `Notify`, but not those that are on their
    /// way.
    pub fn queued_for(&self, actor: Key) -> u64 {
        self.send_queue.counted(FrameTarget::Actor(actor.actor()))
    }

    /// Bytes that wait for all actors of the peer, as [`queued_for`](Session::queued_for) counts them: at most twice
    /// `queue_bytes_cap`.
    pub fn queued_for_actors(&self) -> u64 {
        self.send_queue.waiting().counted
    }

    /// Bytes that wait in the reserve: answers, each `Down` with a value or a text, frames that pass a pause, and frames that
    /// name no pair. At most `queue_bytes_cap`.
    pub fn queued_in_reserve(&self) -> u64 {
        self.send_queue.waiting().reserved
    }

    /// Whether the peer has paused this actor of its own.
    pub fn is_paused(&self, actor: Key) -> bool {
        self.send_queue.is_paused(actor.actor())
    }

    /// Removes the message that asks for this receipt, if it still waits for `actor`. It is never transmitted. `None` if there
    /// is no such message, or if it is on its way or a part of it is.
    ///
    /// It finds the message's buffer in time in the logarithm of what waits, and searches that buffer, about 16 KiB, frame by
    /// frame. If the buffer or a large frame is removed, those behind it in the list of its sender move up.
    pub fn withdraw(&mut self, actor: Key, receipt: u64) -> Option<Withdrawn> {
        let is_withdrawn = self.send_queue.withdraw(actor.actor(), receipt);
        is_withdrawn.then(|| Withdrawn { is_paused: self.is_paused(actor) })
    }

    /// Removes a `Monitor`, if it waits and is among the first frames of its pair. It is never transmitted, so no `Demonitor` needs
    /// to follow. Returns whether it was removed.
    pub fn withdraw_monitor(&mut self, watcher: Key, target: Key, id: u64) -> bool {
        self.send_queue.withdraw_monitor(Pair::new(watcher, target), id)
    }

    /// Accepts a control frame for the present connection: `Close`, `IdleProposed` or `IdleAgreed`. It overtakes queued
    /// frames, replaces one of its kind that waits, and is dropped if the connection is lost.
    ///
    /// # Errors
    /// [`SendRefused::WrongMethod`] for any other frame, or without a connection.
    pub fn send_control(&mut self, frame: &Frame<'_>) -> Result<(), SendRefused> {
        let control =
            self.connection.is_some().then_some(&mut self.control).ok_or(SendRefused::WrongMethod)?;
        if let Frame::Close(close) = frame {
            control.close = Some(*close);
        } else if let Frame::IdleProposed(proposed) = frame {
            control.idle_proposed = Some(*proposed);
        } else if let Frame::IdleAgreed(agreed) = frame {
            control.idle_agreed = Some(*agreed);
        } else {
            return Err(SendRefused::WrongMethod);
        }
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
            self.control.note_pause(actor, true);
        }
        true
    }

    /// Asks the peer to send its frames for `actor` again.
    pub fn unpause(&mut self, actor: Key) {
        let actor = actor.actor();
        if self.control.paused.remove(&actor) && self.is_connected() {
            self.control.note_pause(actor, false);
        }
    }

    /// Bytes that wait to be transmitted to this peer.
    #[inline]
    pub fn queued_bytes(&self) -> u64 {
        self.outbound.unsent_bytes() + self.send_queue.waiting().total()
    }

    /// Whether [`poll_transmit`](Session::poll_transmit) has something to send now.
    pub fn wants_transmit(&self) -> bool {
        let Some(connection) = &self.connection else { return false };
        let control = &self.control;
        let has_control = control.ack_now
            || control.ping.is_some()
            || control.pong.is_some()
            || control.credit_now
            || control.has_rare()
            || self.inbound.unacked_bytes() >= self.limits.ack_bytes
            || self.inbound.credit_due();
        !control.is_closed
            && !connection.sealer.is_exhausted()
            && (has_control || self.outbound.can_send(self.send_until.answers) || self.can_pump())
    }

    fn can_pump(&self) -> bool {
        !self.send_queue.is_idle()
            && self.send_queue.can_pump(
                &self.outbound,
                self.send_until,
                self.agreed.reassembly_bytes_max.into(),
            )
    }

    /// Appends one sealed record with as many frames as fit to `out`. Returns false if there is nothing to send now.
    ///
    /// Call it until it returns false, or until `out` holds enough for one write to the socket.
    pub fn poll_transmit(&mut self, now: Time, out: &mut Vec<u8>) -> bool {
        if self.connection.is_none() {
            return false;
        }
        if !self.send_queue.is_idle() {
            let reassembly_bytes_max = u64::from(self.agreed.reassembly_bytes_max);
            self.send_queue.pump(&mut self.outbound, self.send_until, reassembly_bytes_max);
        }
        self.update_withheld(now);
        if !self.wants_transmit() {
            return false;
        }
        let Some(connection) = &mut self.connection else { return false };
        let room = connection.sealer.body_bytes_max();
        let start = Sealer::begin(out);
        let body = out.len();
        self.put_control(out, room);
        if !self.control.is_closed {
            self.outbound.copy_to(out, room - (out.len() - body), self.send_until.answers);
        }
        let Some(connection) = &mut self.connection else { return false };
        if out.len() == body {
            out.truncate(start);
            return false;
        }
        connection.sealer.seal(out, start);
        if connection.sealer.needs_renewal() && !self.events.renew_reported {
            (self.events.renew, self.events.renew_reported) = (true, true);
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
        if self.control.has_rare() {
            self.control.put_rare(out, room - CONTROL_BYTES_MAX);
        }
    }
}

fn push_control(frame: &Frame<'_>, out: &mut Vec<u8>) {
    let length = u16::try_from(frame.payload_size()).expect("a control frame has a few bytes");
    frame.put_with_header(length, out);
}

/// The most bytes of a control frame.
const CONTROL_FRAME_BYTES_MAX: usize = HEADER_BYTES + 8;
/// The bytes of all control frames but `Pause` and `Unpause`: each record has room for one of a kind.
const CONTROL_BYTES_MAX: usize = 8 * CONTROL_FRAME_BYTES_MAX;
