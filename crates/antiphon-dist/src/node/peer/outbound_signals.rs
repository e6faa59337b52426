//! Outbound signals. They keep their order with the messages between the same actors.
//!
//! Invariant: a signal that cannot be sent is answered by a `Down`, reported as a dead letter, or has no meaning any more.
//! What completes an operation (`Down`, `Demonitor`, and the frame for a dropped reply) is never refused. The session bounds those that
//! the peer causes; a `Demonitor` follows a `Monitor`, which may be refused. `Lagged` is never refused either: a channel checks by `check_room` that
//! there is room for it.

use std::net::SocketAddr;

use antiphon_sched::{
    ActorId, AskError, EncodedValue, ExitReason, Key, MonitorId, NodeId, RequestId, Signal, SignalKind,
};
use antiphon_wire::frame::{
    Demonitor, Down, DownReason, Lagged, Monitor, Notify, PayloadFault, ReplyDropped, ReplyDroppedReason,
    Resume, Terminate, Throw,
};
use antiphon_wire::{Frame, SendRefused, Session, TagId};

use super::payload_faults::{TOO_MANY_TYPES, fault_of};
use super::signals::{BY_TARGET, sender_of};

/// A node that an address names, which the receiver of the address may not know.
pub(in crate::node) struct NodeHint {
    pub(in crate::node) node: NodeId,
    pub(in crate::node) name: String,
    pub(in crate::node) locations: Vec<SocketAddr>,
}

pub(in crate::node) fn send_signal(session: &mut Session, signal: &Signal) -> Result<(), SendRefused> {
    let number = |id: &MonitorId, by_target: bool| if by_target { id.number | BY_TARGET } else { id.number };
    let (from, to) = (sender_of(signal), signal.to.key());
    match &signal.kind {
        SignalKind::Monitor(id) => {
            session.send(&Monitor { watcher: from, target: to, id: number(id, false) }.into())
        }
        SignalKind::Demonitor(id) => {
            let by_target = id.origin == signal.to.node();
            if !by_target && session.withdraw_monitor(from, to, id.number) {
                return Ok(());
            }
            session.send(&Demonitor { watcher: from, target: to, id: number(id, by_target) }.into())
        }
        SignalKind::Notify(id) => {
            session.send(&Notify { watcher: to, target: from, id: number(id, true) }.into())
        }
        SignalKind::Down(id, reason) => {
            let Some(actor) = signal.from else { return Ok(()) };
            send_down(session, to, actor, number(id, id.origin == actor.node()), reason)
        }
        SignalKind::Terminate { grace } => {
            let grace =
                grace.map(|grace| u64::try_from(grace.as_micros().div_ceil(1000)).unwrap_or(u64::MAX));
            session.send(&Terminate { from, target: to, grace }.into())
        }
        SignalKind::Throw(value) => {
            with_value(session, value, |tag, body| Throw { from, target: to, tag, body }.into())
        }
        SignalKind::Resume(value) => {
            with_value(session, value, |tag, body| Resume { from, target: to, tag, body }.into())
        }
        SignalKind::Lagged { missed, ended } => {
            session.send(&Lagged { to, from, missed: *missed, ended: *ended }.into())
        }
    }
}

/// Informs the peer that no reply to one of its requests will follow.
pub(in crate::node) fn send_reply_dropped(
    session: &mut Session,
    request_id: RequestId,
    reason: &AskError,
) -> Result<(), SendRefused> {
    let request_id = Key::from_bits(request_id.to_bits());
    let reason = match reason {
        AskError::Busy => ReplyDroppedReason::Busy,
        AskError::Reply(reason) => ReplyDroppedReason::Payload(fault_of(reason, session)),
        AskError::TimedOut
        | AskError::Dropped
        | AskError::NoActor
        | AskError::Full
        | AskError::Request(_)
        | AskError::NodeLost
        | AskError::NodeRefused(_)
        | AskError::TooManyOpen
        | AskError::NoLoop
        | _ => ReplyDroppedReason::Dropped,
    };
    session.send(&ReplyDropped { request_id, reason }.into())
}

/// The nodes that the addresses in the value of a signal name.
pub(in crate::node) fn nodes_in(kind: &SignalKind) -> &[NodeId] {
    match kind.value() {
        Some(EncodedValue::Bytes { nodes, .. }) => nodes,
        Some(EncodedValue::Opaque | EncodedValue::NotSent(_)) | None => &[],
    }
}

/// The nil value. It replaces a value that has no encoding.
pub(in crate::node) const NIL: (&str, &[u8]) = ("()", &[0xc0]);

pub(in crate::node) fn with_value<'v>(
    session: &mut Session,
    value: &'v EncodedValue,
    frame: impl FnOnce(TagId, &'v [u8]) -> Frame<'v>,
) -> Result<(), SendRefused> {
    let (tag, body) = match value {
        EncodedValue::Bytes { type_name, body, .. } => (&**type_name, &**body),
        EncodedValue::Opaque | EncodedValue::NotSent(_) => NIL,
    };
    match session.intern(tag) {
        Ok(tag) => session.send(&frame(tag, body)),
        Err(_) => Err(SendRefused::FieldTooLong),
    }
}

/// The number of bytes to which the text of a failure is truncated.
pub(in crate::node) const TEXT_BYTES_MAX: usize = 8 * 1024;

pub(in crate::node) fn truncated(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

pub(in crate::node) fn send_down(
    session: &mut Session,
    watcher: Key,
    actor: ActorId,
    id: u64,
    reason: &ExitReason<EncodedValue>,
) -> Result<(), SendRefused> {
    let reason = match reason {
        ExitReason::Done(EncodedValue::Bytes { type_name, body, .. }) => match session.intern(type_name) {
            Ok(tag) => DownReason::Done(Some((tag, body))),
            Err(_) => DownReason::DoneNotSent(PayloadFault::Encode(TOO_MANY_TYPES)),
        },
        ExitReason::Done(EncodedValue::NotSent(reason)) => DownReason::DoneNotSent(fault_of(reason, session)),
        ExitReason::Done(EncodedValue::Opaque) => DownReason::Done(None),
        ExitReason::Failed(text) => DownReason::Failed(truncated(text)),
        ExitReason::Panicked(text) => DownReason::Panicked(truncated(text)),
        ExitReason::Terminated => DownReason::Terminated,
        ExitReason::NodeLost => DownReason::NodeLost,
        ExitReason::NoActor => DownReason::NoActor,
        ExitReason::Refused => DownReason::Refused,
        ExitReason::Lagged => DownReason::Lagged,
    };
    let frame = Down { watcher, actor: actor.key(), node: actor.node(), id, reason };
    let without_value = match session.send(&frame.into()) {
        Err(SendRefused::TooLarge { bytes, limit }) => {
            DownReason::DoneNotSent(PayloadFault::TooLarge { bytes, max: limit })
        }
        Err(SendRefused::Busy { .. }) => smallest_form(reason),
        result => return result,
    };
    match session.send(&Down { reason: without_value, ..frame }.into()) {
        Err(SendRefused::Busy { .. }) => {
            session.send(&Down { reason: smallest_form(reason), ..frame }.into())
        }
        result => result,
    }
}

/// The reason without its value or text. A `Down` with it is never refused.
pub(in crate::node) fn smallest_form(reason: DownReason<'_>) -> DownReason<'_> {
    match reason {
        DownReason::Done(_) | DownReason::DoneNotSent(_) => DownReason::Done(None),
        DownReason::Failed(_) => DownReason::Failed(""),
        DownReason::Panicked(_) => DownReason::Panicked(""),
        DownReason::Terminated
        | DownReason::NodeLost
        | DownReason::NoActor
        | DownReason::Refused
        | DownReason::Lagged => reason,
    }
}
