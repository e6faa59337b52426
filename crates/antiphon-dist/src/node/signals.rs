//! Signals that leave this node: what passes between actors besides messages, in the same order.
//!
//! Invariant: a signal that cannot go is answered, or told as a dead letter; what a peer is owed (that an actor has
//! ended, that nobody will answer) is bounded by what the peer asked for, and never refused.

use antiphon_sched::{ActorId, ExitReason, Key, MonitorId, NodeId, Signal, Undelivered, Value};
use antiphon_wire::frame::{
    Demonitor, Down, DownReason, Monitor, NodeAt, Notify, ReplyDropped, Resume, Terminate, Throw,
};
use antiphon_wire::{Frame, Locations, SendRefused, Session, TagId};

use super::frames::BY_TARGET;
use super::outbound::QueuedOutbound;
use super::peer_session::PeerSession;
use super::peers::Peer;
use super::{LoopAction, NOBODY, NodeCore, wire_key, wire_node};

impl NodeCore {
    /// A signal for a peer: over its session, or later, or never.
    pub(super) fn signal_peer(&mut self, signal: Signal) {
        let Some(node) = node_of_signal(&signal) else { return };
        let Some(peer) = self.peers.get_mut(&node) else {
            return self.answer_signal(signal, Undelivered::NoNode);
        };
        if peer.gone {
            return self.answer_signal(signal, Undelivered::NoActor);
        }
        let waits = !peer.waiting.is_empty();
        let Some(mut peer_session) =
            peer.peer_session.take_if(|peer_session| peer_session.disconnect.is_none())
        else {
            let is_met = peer.status.is_some();
            if waits || !ends_with_session(&signal, is_met) {
                self.keep_signal(node, signal);
            }
            return;
        };
        note_signal(peer, &signal);
        self.tell_places(node, &mut peer_session, &signal);
        let sent = send_signal(&mut peer_session.session, &signal);
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.peer_session = Some(peer_session);
        }
        self.mark_dirty(node);
        if let Err(reason) = sent {
            tracing::debug!(%node, %reason, "a signal was not sent");
            self.answer_signal(signal, Undelivered::Busy);
        }
    }

    /// Keeps a signal until there is a session, within the bound of messages.
    fn keep_signal(&mut self, node: NodeId, signal: Signal) {
        let is_owed =
            matches!(signal, Signal::Down { .. } | Signal::Demonitor { .. } | Signal::ReplyDropped { .. });
        let kept = match is_owed || self.has_room_for(node, body_bytes(&signal)) {
            true => self.keep(node, QueuedOutbound::Signal(signal.clone())),
            false => Err(Undelivered::Busy),
        };
        if let Err(reason) = kept {
            self.answer_signal(signal, reason);
        }
    }

    /// Tells a peer where the nodes are that addresses in a value name; a message tells so by its route.
    fn tell_places(&self, peer: NodeId, peer_session: &mut PeerSession, signal: &Signal) {
        let Some((_, nodes)) = value_of(signal) else { return };
        for node in nodes.iter().filter(|node| **node != peer && **node != self.me) {
            let locations = self.locations_of(*node);
            if locations.is_empty() {
                continue;
            }
            let name = self.peers.get(node).map_or("", |peer| peer.name.as_str());
            let hint =
                NodeAt { request: 0, node: wire_node(*node), name, locations: Locations::Plain(&locations) };
            if let Err(reason) = peer_session.session.send(&hint.into()) {
                tracing::debug!(%peer, %node, %reason, "a peer is not told where a node is");
            }
        }
    }

    /// What a signal that goes nowhere means for who sent it.
    pub(super) fn answer_signal(&mut self, signal: Signal, reason: Undelivered) {
        match signal {
            Signal::Monitor { target, id, watcher } => {
                let gone =
                    if reason == Undelivered::NoActor { ExitReason::NoActor } else { ExitReason::NodeLost };
                if let Some(peer) = self.peers.get_mut(&target.node()) {
                    peer.monitors.unwatch(id);
                }
                self.notes.push(LoopAction::Down { watcher, id, actor: target, reason: gone });
            }
            Signal::Notify { watcher, id, actor } => {
                if let Some(peer) = self.peers.get_mut(&watcher.node()) {
                    peer.monitors.be_unwatched(actor, id);
                }
                self.notes.push(LoopAction::DeadLetter(watcher, "a notify", reason));
            }
            Signal::Terminate { target, .. } => {
                self.notes.push(LoopAction::DeadLetter(target, "a terminate", reason));
            }
            Signal::Throw { target, .. } => {
                self.notes.push(LoopAction::DeadLetter(target, "a throw", reason))
            }
            Signal::Resume { target, .. } => {
                self.notes.push(LoopAction::DeadLetter(target, "a resume", reason))
            }
            // Whom the others would tell is gone with its node.
            Signal::Demonitor { .. }
            | Signal::Down { .. }
            | Signal::ReplyDropped { .. }
            | Signal::RequestClosed { .. }
            | Signal::Exited { .. } => {}
        }
    }
}

fn node_of_signal(signal: &Signal) -> Option<NodeId> {
    match signal {
        Signal::Monitor { target, .. }
        | Signal::Demonitor { target, .. }
        | Signal::Terminate { target, .. }
        | Signal::Throw { target, .. }
        | Signal::Resume { target, .. } => Some(target.node()),
        Signal::Notify { watcher, .. } | Signal::Down { watcher, .. } => Some(watcher.node()),
        Signal::ReplyDropped { node, .. } => Some(*node),
        Signal::RequestClosed { .. } | Signal::Exited { .. } => None,
    }
}

/// Whether a signal means nothing any more when the session with its peer, that was met or not, has ended.
fn ends_with_session(signal: &Signal, is_met: bool) -> bool {
    match signal {
        Signal::Monitor { .. }
        | Signal::Notify { .. }
        | Signal::Terminate { .. }
        | Signal::Throw { .. }
        | Signal::Resume { .. } => false,
        // The reply came by way of another node. Of a peer that is lost, the asker was told so.
        Signal::ReplyDropped { .. } => is_met,
        Signal::Demonitor { .. }
        | Signal::Down { .. }
        | Signal::RequestClosed { .. }
        | Signal::Exited { .. } => true,
    }
}

/// Keeps account of monitors that cross to this peer, and back.
fn note_signal(peer: &mut Peer, signal: &Signal) {
    match signal {
        Signal::Monitor { target, id, watcher } => {
            peer.monitors.watch(*watcher, *id, *target);
        }
        Signal::Demonitor { id, .. } => {
            peer.monitors.unwatch(*id);
        }
        Signal::Notify { id, actor, .. } => {
            peer.monitors.be_watched(*actor, *id);
        }
        Signal::Down { id, actor, .. } => {
            peer.monitors.be_unwatched(actor.key(), *id);
        }
        Signal::Terminate { .. }
        | Signal::Throw { .. }
        | Signal::Resume { .. }
        | Signal::ReplyDropped { .. }
        | Signal::RequestClosed { .. }
        | Signal::Exited { .. } => {}
    }
}

fn send_signal(session: &mut Session, signal: &Signal) -> Result<(), SendRefused> {
    let sender = |from: &Option<Key>| wire_key(from.unwrap_or(NOBODY));
    let number = |id: &MonitorId, by_target: bool| if by_target { id.number | BY_TARGET } else { id.number };
    match signal {
        Signal::Monitor { target, id, watcher } => session.send(
            &Monitor { watcher: wire_key(*watcher), target: wire_key(target.key()), id: number(id, false) }
                .into(),
        ),
        Signal::Demonitor { watcher, target, id } => {
            let by_target = id.origin == target.node();
            session.send(
                &Demonitor {
                    watcher: wire_key(*watcher),
                    target: wire_key(target.key()),
                    id: number(id, by_target),
                }
                .into(),
            )
        }
        Signal::Notify { watcher, id, actor } => session.send(
            &Notify { watcher: wire_key(watcher.key()), target: wire_key(*actor), id: number(id, true) }
                .into(),
        ),
        Signal::Down { watcher, id, actor, reason } => {
            let by_target = id.origin == actor.node();
            send_down(session, watcher.key(), *actor, number(id, by_target), reason)
        }
        Signal::Terminate { from, target } => {
            session.send(&Terminate { from: sender(from), target: wire_key(target.key()) }.into())
        }
        Signal::Throw { from, target, value } => with_value(session, value, |tag, body| {
            Throw { from: sender(from), target: wire_key(target.key()), tag, body }.into()
        }),
        Signal::Resume { from, target, value } => with_value(session, value, |tag, body| {
            Resume { from: sender(from), target: wire_key(target.key()), tag, body }.into()
        }),
        Signal::ReplyDropped { request_id, .. } => {
            session.send(&ReplyDropped { request_id: antiphon_wire::Key(request_id.to_bits()) }.into())
        }
        // They concern this node alone.
        Signal::RequestClosed { .. } | Signal::Exited { .. } => Ok(()),
    }
}

/// Bytes of the value that comes with a signal.
pub(super) fn body_bytes(signal: &Signal) -> usize {
    value_of(signal).map_or(0, |(body, _)| body.len())
}

/// The bytes of the value that comes with a signal, and the nodes that addresses in it name.
fn value_of(signal: &Signal) -> Option<(&[u8], &[NodeId])> {
    let value = match signal {
        Signal::Throw { value, .. }
        | Signal::Resume { value, .. }
        | Signal::Down { reason: ExitReason::Done(value), .. } => value,
        Signal::Monitor { .. }
        | Signal::Demonitor { .. }
        | Signal::Notify { .. }
        | Signal::Down { .. }
        | Signal::Terminate { .. }
        | Signal::ReplyDropped { .. }
        | Signal::RequestClosed { .. }
        | Signal::Exited { .. } => return None,
    };
    value.as_encoded().map(|(_, body, nodes)| (body, nodes))
}

/// The nil value, for what has no value that crosses the wire.
const NIL: (&str, &[u8]) = ("()", &[0xc0]);

fn with_value<'v>(
    session: &mut Session,
    value: &'v Value,
    frame: impl FnOnce(TagId, &'v [u8]) -> Frame<'v>,
) -> Result<(), SendRefused> {
    let (tag, body) = value.as_encoded().map_or(NIL, |(tag, body, _)| (tag, body));
    match session.intern(tag) {
        Ok(tag) => session.send(&frame(tag, body)),
        Err(_) => Err(SendRefused::FieldTooLong),
    }
}

/// Bytes of the text with which an actor failed; what is longer is cut.
const TEXT_BYTES_MAX: usize = 8 * 1024;

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

fn send_down(
    session: &mut Session,
    watcher: Key,
    actor: ActorId,
    id: u64,
    reason: &ExitReason,
) -> Result<(), SendRefused> {
    let reason = match reason {
        ExitReason::Done(value) => DownReason::Done(match value.as_encoded() {
            Some((tag, body, _)) => session.intern(tag).ok().map(|tag| (tag, body)),
            None => None,
        }),
        ExitReason::Failed(text) => DownReason::Failed(cut(text)),
        ExitReason::Panicked(text) => DownReason::Panicked(cut(text)),
        ExitReason::Terminated => DownReason::Terminated,
        ExitReason::NodeLost => DownReason::NodeLost,
        ExitReason::NoActor => DownReason::NoActor,
        ExitReason::Refused => DownReason::Refused,
    };
    let frame = Down {
        watcher: wire_key(watcher),
        actor: wire_key(actor.key()),
        node: wire_node(actor.node()),
        id,
        reason,
    };
    match session.send(&frame.into()) {
        // The value does not fit; that the actor has ended does.
        Err(SendRefused::TooLarge { .. }) => {
            session.send(&Down { reason: DownReason::Done(None), ..frame }.into())
        }
        sent => sent,
    }
}
