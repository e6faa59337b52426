//! Outbound signals. They keep their order with the messages between the same actors.
//!
//! Invariant: a signal that cannot be sent is answered by a `Down`, reported as a dead letter, or has no meaning any more.
//! Signals that complete an operation (`Down`, `Demonitor`, `ReplyDropped`) are never refused. The session bounds those that
//! the peer causes; a `Demonitor` follows a `Monitor`, which may be refused. `Lagged` is never refused either: a channel checks by `check_room` that
//! there is room for it.

use std::net::SocketAddr;

use antiphon_sched::{
    ActorId, AskError, DeadLetter, EncodedValue, ExitReason, Key, MonitorId, NodeId, Signal, Undelivered,
};
use antiphon_wire::frame::{
    Demonitor, Down, DownReason, Lagged, Monitor, Notify, PayloadFault, ReplyDropped, ReplyDroppedReason,
    Resume, Terminate, Throw,
};
use antiphon_wire::{Frame, Pair, SendRefused, Session, TagId};

use super::context::NodeCx;
use super::frames::BY_TARGET;
use super::payload_faults::{TOO_MANY_TYPES, fault_of};
use super::{LoopAction, NO_ACTOR};

/// A node that an address names, which the receiver of the address may not know.
pub(super) struct NodeHint {
    pub(super) node: NodeId,
    pub(super) name: String,
    pub(super) locations: Vec<SocketAddr>,
}

impl NodeCx {
    /// Reports a signal that cannot be sent to its sender: by a `Down`, or as a dead letter.
    pub(super) fn report_failed_signal(&mut self, signal: Signal, reason: Undelivered) {
        match signal {
            Signal::Monitor { target, id, watcher } => {
                let exit_reason =
                    if reason == Undelivered::NoActor { ExitReason::NoActor } else { ExitReason::NodeLost };
                self.loop_actions.push(LoopAction::Down { watcher, id, actor: target, reason: exit_reason });
            }
            Signal::Notify { watcher, actor, .. } => {
                self.dead_signal((Some(actor), watcher), "notify", reason);
            }
            Signal::Terminate { from, target, .. } => self.dead_signal((from, target), "terminate", reason),
            Signal::Throw { from, target, .. } => self.dead_signal((from, target), "throw", reason),
            Signal::Resume { from, target, .. } => self.dead_signal((from, target), "resume", reason),
            // The receivers of these have exited with their node, or the signals concern this node alone.
            Signal::Demonitor { .. }
            | Signal::Down { .. }
            | Signal::ReplyDropped { .. }
            | Signal::Lagged { .. }
            | Signal::RequestClosed { .. }
            | Signal::RoomNotAwaited { .. }
            | Signal::Exited { .. } => {}
        }
    }

    pub(super) fn dead_signal(
        &mut self,
        (from, to): (Option<Key>, ActorId),
        what: &'static str,
        reason: Undelivered,
    ) {
        let from = from.map(|key| ActorId::new(self.me, key));
        self.loop_actions.push(LoopAction::DeadLetter(DeadLetter::new(to, what, reason).sent_by(from)));
    }
}

/// The limit against which the bytes of a signal count while it waits.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum SignalBudget {
    /// The share of the receiving actor.
    Actor(Key),
    /// The reserve for replies and urgent signals.
    Reserve,
    /// None: the number of such signals is limited by the open operations of the peer.
    Unlimited,
}

pub(super) fn budget_of(signal: &Signal) -> SignalBudget {
    match signal {
        Signal::Monitor { target, .. } => SignalBudget::Actor(target.key()),
        Signal::Notify { watcher, .. } => SignalBudget::Actor(watcher.key()),
        Signal::Terminate { .. } | Signal::Throw { .. } | Signal::Resume { .. } => SignalBudget::Reserve,
        Signal::Demonitor { .. }
        | Signal::Down { .. }
        | Signal::Lagged { .. }
        | Signal::ReplyDropped { .. }
        | Signal::RequestClosed { .. }
        | Signal::RoomNotAwaited { .. }
        | Signal::Exited { .. } => SignalBudget::Unlimited,
    }
}

pub(super) fn node_of_signal(signal: &Signal) -> Option<NodeId> {
    match signal {
        Signal::Monitor { target, .. }
        | Signal::Demonitor { target, .. }
        | Signal::Terminate { target, .. }
        | Signal::Throw { target, .. }
        | Signal::Resume { target, .. } => Some(target.node()),
        Signal::Notify { watcher, .. } | Signal::Down { watcher, .. } => Some(watcher.node()),
        Signal::Lagged { subscriber, .. } => Some(subscriber.node()),
        Signal::ReplyDropped { node, .. } => Some(*node),
        Signal::RequestClosed { .. } | Signal::RoomNotAwaited { .. } | Signal::Exited { .. } => None,
    }
}

/// Whether a signal has no meaning after the end of a session with its peer. `was_connected` says whether there ever was one.
pub(super) fn ends_with_session(signal: &Signal, was_connected: bool) -> bool {
    match signal {
        Signal::Monitor { .. }
        | Signal::Notify { .. }
        | Signal::Terminate { .. }
        | Signal::Throw { .. }
        | Signal::Resume { .. } => false,
        // The `ReplyTo` may have come by way of a third node. If there was a session, its end has failed the request.
        Signal::ReplyDropped { .. } => was_connected,
        Signal::Demonitor { .. }
        | Signal::Down { .. }
        | Signal::Lagged { .. }
        | Signal::RequestClosed { .. }
        | Signal::RoomNotAwaited { .. }
        | Signal::Exited { .. } => true,
    }
}

pub(super) fn send_signal(session: &mut Session, signal: &Signal) -> Result<(), SendRefused> {
    let sender = |from: &Option<Key>| from.unwrap_or(NO_ACTOR);
    let number = |id: &MonitorId, by_target: bool| if by_target { id.number | BY_TARGET } else { id.number };
    match signal {
        Signal::Monitor { target, id, watcher } => {
            session.send(&Monitor { watcher: *watcher, target: target.key(), id: number(id, false) }.into())
        }
        Signal::Demonitor { watcher, target, id } => {
            let by_target = id.origin == target.node();
            if !by_target && session.withdraw_monitor(*watcher, target.key(), id.number) {
                return Ok(());
            }
            session.send(
                &Demonitor { watcher: *watcher, target: target.key(), id: number(id, by_target) }.into(),
            )
        }
        Signal::Notify { watcher, id, actor } => {
            session.send(&Notify { watcher: watcher.key(), target: *actor, id: number(id, true) }.into())
        }
        Signal::Down { watcher, id, actor, reason } => {
            let by_target = id.origin == actor.node();
            send_down(session, watcher.key(), *actor, number(id, by_target), reason)
        }
        Signal::Terminate { from, target, grace } => {
            let grace =
                grace.map(|grace| u64::try_from(grace.as_micros().div_ceil(1000)).unwrap_or(u64::MAX));
            session.send(&Terminate { from: sender(from), target: target.key(), grace }.into())
        }
        Signal::Throw { from, target, value } => with_value(session, value, |tag, body| {
            Throw { from: sender(from), target: target.key(), tag, body }.into()
        }),
        Signal::Resume { from, target, value } => with_value(session, value, |tag, body| {
            Resume { from: sender(from), target: target.key(), tag, body }.into()
        }),
        Signal::ReplyDropped { request_id, reason, .. } => {
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
        Signal::Lagged { channel, subscriber, missed, ended } => session
            .send(&Lagged { to: subscriber.key(), from: *channel, missed: *missed, ended: *ended }.into()),
        // These concern this node alone.
        Signal::RequestClosed { .. } | Signal::RoomNotAwaited { .. } | Signal::Exited { .. } => Ok(()),
    }
}

/// The size in bytes of the value of a signal.
pub(super) fn body_bytes(signal: &Signal) -> usize {
    value_of(signal).map_or(0, |(body, _)| body.len())
}

/// The encoded value of a signal, and the nodes that the addresses in it name.
pub(super) fn value_of(signal: &Signal) -> Option<(&[u8], &[NodeId])> {
    let value = match signal {
        Signal::Throw { value, .. }
        | Signal::Resume { value, .. }
        | Signal::Down { reason: ExitReason::Done(value), .. } => value,
        Signal::Monitor { .. }
        | Signal::Demonitor { .. }
        | Signal::Notify { .. }
        | Signal::Down { .. }
        | Signal::Terminate { .. }
        | Signal::Lagged { .. }
        | Signal::ReplyDropped { .. }
        | Signal::RequestClosed { .. }
        | Signal::RoomNotAwaited { .. }
        | Signal::Exited { .. } => return None,
    };
    match value {
        EncodedValue::Bytes { body, nodes, .. } => Some((body, nodes)),
        EncodedValue::Opaque | EncodedValue::NotSent(_) => None,
    }
}

/// The pair of actors of a signal with a value.
pub(super) fn pair_of(signal: &Signal) -> Option<Pair> {
    let (from, to) = match signal {
        Signal::Throw { from, target, .. } | Signal::Resume { from, target, .. } => {
            (from.unwrap_or(NO_ACTOR), target.key())
        }
        Signal::Down { watcher, actor, .. } => (actor.key(), watcher.key()),
        Signal::Monitor { .. }
        | Signal::Demonitor { .. }
        | Signal::Notify { .. }
        | Signal::Terminate { .. }
        | Signal::Lagged { .. }
        | Signal::ReplyDropped { .. }
        | Signal::RequestClosed { .. }
        | Signal::RoomNotAwaited { .. }
        | Signal::Exited { .. } => return None,
    };
    Some(Pair::new(from, to))
}

/// The nil value. It replaces a value that has no encoding.
pub(super) const NIL: (&str, &[u8]) = ("()", &[0xc0]);

pub(super) fn with_value<'v>(
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
pub(super) const TEXT_BYTES_MAX: usize = 8 * 1024;

pub(super) fn truncated(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

pub(super) fn send_down(
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
pub(super) fn smallest_form(reason: DownReason<'_>) -> DownReason<'_> {
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
