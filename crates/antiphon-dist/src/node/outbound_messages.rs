//! Outbound messages: from actors straight into the sessions.
//!
//! Flow control is per receiving actor. The bytes that wait for one actor are at most as many as are still free in the
//! queue to its peer; a message beyond that is refused with `Busy`, and its sender receives `Writable` when there is room.
//!
//! Invariant: the messages and signals of an actor to another node keep their order. While there is no session, all those
//! for the node wait in one queue, which is bounded in bytes and in time.

use std::net::SocketAddr;
use std::time::Duration;

use antiphon_sched::{
    ActorId, DeadLetter, Destination, Key, NodeId, OutboundMessage, PayloadError, SendMode, Undelivered,
};
use antiphon_wire::frame::{Answer, Message};
use antiphon_wire::{Frame, Route, SendMark, SendRefused, Session};

use super::context::NodeCx;
use super::payload_faults::{TOO_MANY_TYPES, check_size, encode_error};
use super::{LoopAction, NO_ACTOR};

/// How long messages to a node wait for a session.
pub(super) const UNREACHED_AFTER: Duration = Duration::from_secs(15);
/// The nodes of a route that is made without a look at the room for its message.
pub(super) const SHORT_ROUTE_NODES: usize = 16;
/// The number of bytes in all queues together above which only queues below their high mark grow.
pub(super) const ALL_QUEUES_MAX: u64 = 256 * 1024 * 1024;

/// Why a message was not accepted.
pub(super) enum OutboundRefusal {
    /// There is no room for a message of this many bytes, in the queue to its actor or in all queues together.
    NoRoom {
        bytes: u64,
        by_total: bool,
    },
    Other(Undelivered),
}

impl From<PayloadError> for OutboundRefusal {
    fn from(reason: PayloadError) -> Self {
        Self::Other(reason.into())
    }
}

impl From<Undelivered> for OutboundRefusal {
    fn from(reason: Undelivered) -> Self {
        Self::Other(reason)
    }
}

/// The mark up to which a message may be queued.
pub(super) fn mark_of(mode: SendMode) -> SendMark {
    if mode == SendMode::Try { SendMark::High } else { SendMark::Cap }
}

impl NodeCx {
    /// Records what an accepted message leaves open: its receipt, and the requests whose `ReplyTo` it holds.
    pub(super) fn await_outcome(
        &mut self,
        node: NodeId,
        outbound: &OutboundMessage<'_>,
        receipt_number: Option<u64>,
    ) {
        if let (Some(receipt_number), Destination::Actor(to)) = (receipt_number, outbound.to) {
            let receiver = (node, to.key());
            let request = match outbound.mode {
                SendMode::Receipt(request_id) => Some(request_id),
                SendMode::Send | SendMode::Try | SendMode::Ask | SendMode::Once | _ => None,
            };
            self.receipts.add(receipt_number, request, outbound.requests, receiver);
        }
        let is_withdrawable = outbound.mode == SendMode::Ask;
        self.replies.add(node, outbound.requests, receipt_number, is_withdrawable);
    }

    /// Reports a waiting message that will not be sent: to its receipt, or as a dead letter.
    pub(super) fn fail_message(
        &mut self,
        (from, to): (Option<Key>, Destination),
        tag: &'static str,
        receipt_number: Option<u64>,
        reason: Undelivered,
    ) {
        match (to, receipt_number) {
            (Destination::Request(..), _) => {}
            (Destination::Actor(_), Some(receipt_number)) => {
                self.loop_actions.push(LoopAction::FailReceipt(receipt_number, reason))
            }
            (Destination::Actor(to), None) => {
                let from = from.map(|key| ActorId::new(self.me, key));
                self.loop_actions
                    .push(LoopAction::DeadLetter(DeadLetter::new(to, tag, reason).sent_by(from)));
            }
        }
    }
}

pub(super) fn send_message(
    session: &mut Session,
    outbound: &OutboundMessage<'_>,
    receipt_number: Option<u64>,
    route: &[(NodeId, Vec<SocketAddr>)],
) -> Result<(), OutboundRefusal> {
    check_size(outbound.body, session.message_bytes_max().into())?;
    let tag = session.intern(outbound.type_name).map_err(|_| encode_error(TOO_MANY_TYPES))?;
    let route = if route.is_empty() { Route::NONE } else { Route::Plain(route) };
    let from = outbound.from.unwrap_or(NO_ACTOR);
    let frame: Frame<'_> = match outbound.to {
        Destination::Actor(to) => {
            Message { to: to.key(), from, tag, receipt: receipt_number, route, body: outbound.body }.into()
        }
        Destination::Request(_, request_id) => {
            Answer { to: Key::from_bits(request_id.to_bits()), from, tag, route, body: outbound.body }.into()
        }
    };
    if outbound.mode == SendMode::Try
        && let Destination::Actor(to) = outbound.to
    {
        let bytes = frame.encoded_size();
        if !session.fits(to.key(), bytes, SendMark::High) {
            return Err(OutboundRefusal::NoRoom { bytes, by_total: false });
        }
    }
    session.send(&frame).map_err(|reason| match reason {
        SendRefused::Busy { bytes, .. } => OutboundRefusal::NoRoom { bytes, by_total: false },
        SendRefused::TooLarge { bytes, limit } => PayloadError::TooLarge { bytes, max: limit }.into(),
        SendRefused::FieldTooLong => encode_error(TOO_MANY_ADDRESSES).into(),
        SendRefused::WrongMethod | _ => Undelivered::NoNode.into(),
    })
}

pub(super) const TOO_MANY_ADDRESSES: &str =
    "the locations of the nodes whose addresses it holds are too long; send fewer addresses at once";

/// Whether a message needs a receipt: its sender asked for one, or requests wait for replies from its receiver.
pub(super) fn wants_receipt(outbound: &OutboundMessage<'_>) -> bool {
    let is_message = matches!(outbound.to, Destination::Actor(_));
    matches!(outbound.mode, SendMode::Receipt(_)) || (is_message && !outbound.requests.is_empty())
}
