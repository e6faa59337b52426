//! The receiving half of a session: records become frames that borrow from the read buffer.

use crate::deframer::Deframer;
use crate::frame::{Answer, Begin, Frame, RawFrame};
use crate::ids::TagId;
use crate::session::inbound::Assembled;
use crate::session::send_queue::returns_credit_at_once;
use crate::session::{PeerFault, Session, SessionError};
use antiphon_types::Time;

/// The frames of one opened record. It borrows the deframer and not the session, so the session can send while a frame is
/// in use.
#[derive(Debug)]
pub struct Frames<'d> {
    rest: &'d [u8],
    /// How many frames without numbers may still be taken.
    control_left: u16,
}

impl<'d> Frames<'d> {
    pub(super) fn of(body: &'d [u8]) -> Frames<'d> {
        Frames { rest: body, control_left: CONTROL_FRAMES_AT_ONCE }
    }

    /// The bytes of the frames that were not taken. After [`Session::next_frame`] has returned `None` there are some if the record
    /// holds very many frames without numbers: [put them back](Deframer::put_back), do other work, and go on later.
    pub fn unread(&self) -> usize {
        self.rest.len()
    }
}

/// A frame for the node. The session itself handles acknowledgements, credit, pings, pauses and fragments.
#[derive(Debug)]
pub enum Incoming<'d> {
    /// A frame with its body in the read buffer.
    Frame(Frame<'d>),
    /// A large frame that arrived in fragments.
    Assembled(Assembled),
}

impl Incoming<'_> {
    /// The frame.
    pub fn frame(&self) -> Frame<'_> {
        match self {
            Incoming::Frame(frame) => *frame,
            Incoming::Assembled(assembled) => assembled.frame(),
        }
    }
}

/// The credit for the bytes of a frame that the node keeps. [`Session::release`] returns it to the peer.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "credit that is never released stalls the peer"]
pub struct HeldCredit(u64);

impl HeldCredit {
    /// The number of bytes.
    pub fn bytes(&self) -> u64 {
        self.0
    }
}

impl Session {
    /// Opens the next complete record in `input`. Take all its frames before the next record, or put the rest back.
    ///
    /// # Errors
    /// - [`SessionError::Record`] if the record fails authentication or is malformed: close the connection.
    /// - [`SessionError::NotConnected`] if the session has no connection.
    #[inline]
    pub fn next_record<'d>(
        &mut self,
        now: Time,
        input: &'d mut Deframer,
    ) -> Result<Option<Frames<'d>>, SessionError> {
        let Some(connection) = &mut self.connection else { return Err(SessionError::NotConnected) };
        let is_new = !input.has_put_back();
        let Some(body) = input.next_record(&mut connection.opener)? else { return Ok(None) };
        if is_new {
            self.identity.is_firm = true;
            // A record without frames needs no credit either.
            self.control_frames += u64::from(body.is_empty());
            self.on_received(now);
        }
        Ok(Some(Frames::of(body)))
    }

    /// Returns the next frame for the node; `None` at the end of the record, or after 1,024 of its frames without numbers. The call
    /// releases the credit of the frame before, unless the node [held](Session::hold) it.
    ///
    /// # Errors
    /// [`SessionError::PeerMisbehaved`]: close the connection and end the session.
    #[inline]
    pub fn next_frame<'d>(
        &mut self,
        now: Time,
        frames: &mut Frames<'d>,
    ) -> Result<Option<Incoming<'d>>, SessionError> {
        loop {
            self.settle_handed_out();
            let unread = frames.rest;
            let raw = RawFrame::take_from(&mut frames.rest).map_err(PeerFault::Malformed)?;
            let Some(raw) = raw else { return Ok(None) };
            if !raw.is_numbered() {
                if frames.control_left == 0 {
                    frames.rest = unread;
                    return Ok(None);
                }
                frames.control_left -= 1;
                self.control_frames += 1;
                if !self.inbound.has_begun() && raw.kind != Begin::KIND {
                    return Err(PeerFault::NotBegun.into());
                }
            } else if !self.count(now, &raw)? {
                continue;
            }
            let Some(frame) = raw.decode().map_err(PeerFault::Malformed)? else { continue };
            if let Some(incoming) = self.process(frame)? {
                return Ok(Some(incoming));
            }
        }
    }

    /// Returns the credit of the frame before, unless it may have caused a completion and too many of these wait.
    #[inline]
    fn settle_handed_out(&mut self) {
        if self.send_queue.withholds_credit() && !returns_credit_at_once(self.last_kind) {
            self.inbound.withhold_handed_out();
        } else {
            self.inbound.release_handed_out();
        }
    }

    /// Counts a numbered frame. Returns false if the frame had arrived before.
    #[inline]
    fn count(&mut self, now: Time, raw: &RawFrame<'_>) -> Result<bool, PeerFault> {
        let is_new = self.inbound.admit(raw.bytes_len())?;
        self.last_kind = raw.kind;
        if self.ack_due.is_none() && !self.control.ack_now {
            self.ack_due = Some(now + self.limits.ack_delay);
        }
        Ok(is_new)
    }

    /// Handles a frame that concerns the session itself; returns any other.
    #[inline]
    fn process<'d>(&mut self, frame: Frame<'d>) -> Result<Option<Incoming<'d>>, PeerFault> {
        match frame {
            Frame::Fragment(fragment) => {
                let assembled = self.inbound.assemble(fragment, &self.limits)?;
                self.last_kind = assembled.as_ref().map_or(ANSWER, Assembled::kind);
                Ok(assembled.map(Incoming::Assembled))
            }
            Frame::Tag(tag) => {
                self.inbound.add_tag(tag, &self.limits)?;
                Ok(Some(Incoming::Frame(frame)))
            }
            Frame::Ack(_)
            | Frame::Begin(_)
            | Frame::Credit(_)
            | Frame::Ping(_)
            | Frame::Pong(_)
            | Frame::Pause(_)
            | Frame::Unpause(_) => {
                self.process_control(frame)?;
                Ok(None)
            }
            Frame::Close(_)
            | Frame::IdleProposed(_)
            | Frame::IdleAgreed(_)
            | Frame::Message(_)
            | Frame::Answer(_)
            | Frame::ReplyDropped(_)
            | Frame::PayloadRefused(_)
            | Frame::Receipt(_)
            | Frame::Monitor(_)
            | Frame::Demonitor(_)
            | Frame::Down(_)
            | Frame::Notify(_)
            | Frame::Terminate(_)
            | Frame::Throw(_)
            | Frame::Resume(_)
            | Frame::Lagged(_)
            | Frame::Lookup(_)
            | Frame::CancelLookup(_)
            | Frame::Found(_)
            | Frame::NodeAt(_)
            | Frame::Goodbye(_)
            | Frame::AnnounceRelay(_) => self.hand_out(frame),
        }
    }

    #[inline]
    fn hand_out<'d>(&mut self, frame: Frame<'d>) -> Result<Option<Incoming<'d>>, PeerFault> {
        self.inbound.check_fields(&frame)?;
        Ok(Some(Incoming::Frame(frame)))
    }

    pub(super) fn process_control(&mut self, frame: Frame<'_>) -> Result<(), PeerFault> {
        if let Frame::Begin(begin) = frame {
            self.inbound.begin_at(begin.frame)?;
            // The peer repeats its pauses right behind it. Until then those of the connection before hold, so that their
            // frames are not sent in between.
            self.send_queue.unpause_all();
        } else if let Frame::Ack(ack) = frame {
            let acked = self.outbound.acked();
            self.outbound.acknowledge(ack.next).map_err(|_| PeerFault::FrameNumber { frame: ack.next })?;
            if self.outbound.acked() > acked {
                self.unresponsive_since = None;
                self.update_send_until();
            }
        } else if let Frame::Credit(credit) = frame {
            self.credit = self.credit.max(credit.until);
            self.update_send_until();
        } else if let Frame::Pong(pong) = frame {
            // A reply to an earlier ping, or one that was never sent, says nothing.
            if let Some(at) = self.pinged_at.take_if(|at| at.as_nanos() == pong.token) {
                self.round_trip = Some(self.keepalive.last_received().since(at));
            }
        } else if let Frame::Ping(ping) = frame {
            self.control.pong = Some(ping.token);
            // The peer received nothing for a while, so this side has nothing to send.
            self.release_spare();
        } else if let Frame::Pause(pause) = frame {
            let limit = self.limits.paused_actors_max;
            let is_within = self.send_queue.pause(pause.actor.actor(), limit);
            is_within.then_some(()).ok_or(PeerFault::Paused { limit })?;
        } else if let Frame::Unpause(unpause) = frame {
            self.send_queue.unpause(unpause.actor.actor());
        }
        Ok(())
    }

    /// Holds the credit of the frame that was returned last, because the node keeps that frame. Release the credit when the
    /// node no longer keeps the frame.
    pub fn hold(&mut self) -> HeldCredit {
        HeldCredit(self.inbound.hold_handed_out())
    }

    /// Releases the credit of a frame that the node no longer keeps.
    pub fn release(&mut self, held: HeldCredit) {
        if self.send_queue.withholds_credit() {
            self.inbound.withhold(held.0);
        } else {
            self.inbound.release(held.0);
        }
    }

    /// The name of a type tag that the peer has numbered.
    pub fn tag_name(&self, id: TagId) -> Option<&str> {
        self.inbound.tag_name(id)
    }
}

/// The most frames without numbers that are taken from one record before the node does other work: they need no credit.
pub const CONTROL_FRAMES_AT_ONCE: u16 = 1_024;

/// The kind that a fragment counts as until its large frame is complete: its credit is returned at once.
const ANSWER: u8 = Answer::KIND;
