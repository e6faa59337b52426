//! What leaves this node: messages and signals of its actors, straight into the sessions.
//!
//! Invariant: what an actor sends to another node keeps its order, also while there is no session: then all
//! of it waits in one queue, bounded in bytes and in time.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use antiphon_sched::{
    ActorId, Destination, Key, Manner, MonitorId, NodeId, Outside, Parcel, PortId, Signal, Time, Undelivered,
    Value, Why,
};
use antiphon_wire::frame::{
    Answer, Demonitor, Down, DownWhy, Message, Monitor, Notify, ReplyDropped, Resume, Terminate, Throw,
};
use antiphon_wire::{self as wire, Frame, Route, SendRefused, Session, TagId};

use super::agenda::Due;
use super::frames::{BY_TARGET, node_of};
use super::link::{Link, Peer};
use super::world::World;
use super::{NodeCore, Note, wire_key, wire_node};

/// How long what is sent to a node without a session waits for one.
const UNREACHED_AFTER: Duration = Duration::from_secs(15);
/// Bytes in all queues together, over which only small ones grow.
const ALL_QUEUES_MAX: u64 = 256 * 1024 * 1024;
/// What one thing that waits counts for besides its body.
const WAITING_OVERHEAD: usize = 128;

/// What waits for a session to begin.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    queue: VecDeque<Posted>,
    bytes: usize,
    /// When all of it is given up.
    until: Time,
    /// Actors that wait until there is room.
    writers: BTreeSet<Key>,
}

#[derive(Debug)]
enum Posted {
    Message {
        from: Option<Key>,
        to: Destination,
        tag: &'static str,
        body: Box<[u8]>,
        request: Option<u64>,
        nodes: Box<[NodeId]>,
    },
    Signal(Signal),
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

impl Outside for NodeCore {
    fn parcel(&mut self, now: Time, parcel: &Parcel<'_>) -> Result<(), Undelivered> {
        self.now = self.now.max(now);
        let node = node_of(parcel.to);
        let peer = self.peers.get_mut(&node).ok_or(Undelivered::NoNode)?;
        if peer.gone {
            return Err(Undelivered::NoActor);
        }
        let Some(mut link) = peer.link.take_if(|link| link.parting.is_none()) else {
            return self.post_later(node, parcel);
        };
        let sent = self.post(node, &mut link, parcel);
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.link = Some(link);
            if sent.is_ok() {
                peer.replies.extend(parcel.replies);
            }
        }
        self.mark_dirty(node);
        sent
    }

    fn signal(&mut self, now: Time, signal: Signal) {
        self.now = self.now.max(now);
        match signal {
            Signal::Gone { who } => self.unregister_all(who),
            Signal::PortClosed { port } => self.forget_reply(port),
            signal => self.signal_peer(signal),
        }
    }
}

impl NodeCore {
    /// Sends a message over a session.
    fn post(&mut self, node: NodeId, link: &mut Link, parcel: &Parcel<'_>) -> Result<(), Undelivered> {
        let limits = &self.settings.profile.limits;
        let queued = link.session.queued_bytes();
        // Below the low mark everything goes, or a large message would be told `Writable` and `Busy` in turn.
        let is_high = queued + parcel.body.len() as u64 > limits.queue_bytes_high;
        if parcel.manner == Manner::Try && is_high && queued >= limits.queue_bytes_low {
            link.writers.extend(parcel.from);
            return Err(Undelivered::Busy);
        }
        if queued > limits.queue_bytes_high && self.all_queued() > ALL_QUEUES_MAX {
            return Err(Undelivered::Busy);
        }
        let route = self.route_of(node, parcel.nodes);
        let request = wants_receipt(parcel).then(|| self.next_request());
        send_message(&mut link.session, parcel, request, &route)?;
        self.await_receipt(node, parcel, request);
        Ok(())
    }

    fn await_receipt(&mut self, node: NodeId, parcel: &Parcel<'_>, request: Option<u64>) {
        match (parcel.manner, request) {
            (Manner::Receipt(port), Some(request)) => self.receipts.add(request, port, node),
            (_, Some(request)) => self.receipts.add_replies(request, parcel.replies, node),
            (_, None) => {}
        }
    }

    fn all_queued(&self) -> u64 {
        let queued = |peer: &Peer| peer.link.as_ref().map_or(0, |link| link.session.queued_bytes());
        self.peers.values().map(|peer| queued(peer) + peer.waiting.bytes as u64).sum()
    }

    /// Keeps a message until there is a session.
    fn post_later(&mut self, node: NodeId, parcel: &Parcel<'_>) -> Result<(), Undelivered> {
        let limits = &self.settings.profile.limits;
        let (high, cap) = (limits.queue_bytes_high, limits.queue_bytes_cap);
        let Some(peer) = self.peers.get_mut(&node) else { return Err(Undelivered::NoNode) };
        let waiting = &mut peer.waiting;
        let bytes = (waiting.bytes + parcel.body.len() + WAITING_OVERHEAD) as u64;
        if parcel.manner == Manner::Try && bytes > high && !waiting.queue.is_empty() {
            waiting.writers.extend(parcel.from);
            return Err(Undelivered::Busy);
        }
        if bytes > cap || (bytes > high && self.all_queued() > ALL_QUEUES_MAX) {
            return Err(Undelivered::Busy);
        }
        let request = wants_receipt(parcel).then(|| self.next_request());
        self.await_receipt(node, parcel, request);
        let posted = Posted::Message {
            from: parcel.from,
            to: parcel.to,
            tag: parcel.tag,
            body: parcel.body.into(),
            request,
            nodes: parcel.nodes.into(),
        };
        let kept = self.keep(node, posted, parcel.body.len());
        if kept.is_err() {
            if let Some(request) = request {
                self.receipts.remove(request);
            }
        } else if let Some(peer) = self.peers.get_mut(&node) {
            peer.replies.extend(parcel.replies);
        }
        kept
    }

    fn keep(&mut self, node: NodeId, posted: Posted, bytes: usize) -> Result<(), Undelivered> {
        let until = self.now + UNREACHED_AFTER;
        let Some(peer) = self.peers.get_mut(&node) else { return Err(Undelivered::NoNode) };
        let Some(at) = peer.locations.first().copied() else { return Err(Undelivered::NoNode) };
        let first = peer.waiting.queue.is_empty();
        peer.waiting.bytes += bytes + WAITING_OVERHEAD;
        peer.waiting.queue.push_back(posted);
        if first {
            peer.waiting.until = until;
            self.agenda.add(until, Due::Unreached(node));
            self.dial_once(at, until);
        }
        Ok(())
    }

    /// What waits for a session needs one.
    pub(super) fn dial_for_waiting(&mut self, node: NodeId) {
        let until = self.now + UNREACHED_AFTER;
        let Some(peer) = self.peers.get_mut(&node).filter(|peer| !peer.waiting.is_empty()) else { return };
        let Some(at) = peer.locations.first().copied() else { return };
        peer.waiting.until = until;
        self.agenda.add(until, Due::Unreached(node));
        self.dial_once(at, until);
    }

    /// A session has begun: all that waited goes out, in order.
    pub(super) fn send_waiting(&mut self, node: NodeId) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let waiting = std::mem::take(&mut peer.waiting);
        if let Some(link) = peer.link.as_mut() {
            link.writers.extend(waiting.writers);
        }
        for posted in waiting.queue {
            match posted {
                Posted::Signal(signal) => self.signal_peer(signal),
                Posted::Message { from, to, tag, body, request, nodes } => {
                    let route = self.route_of(node, &nodes);
                    let parcel = Parcel {
                        from,
                        to,
                        tag,
                        body: &body,
                        manner: Manner::Send,
                        nodes: &nodes,
                        replies: &[],
                    };
                    let Some(link) = self.peers.get_mut(&node).and_then(|peer| peer.link.as_mut()) else {
                        return;
                    };
                    if let Err(why) = send_message(&mut link.session, &parcel, request, &route) {
                        self.give_up(to, request, why);
                    }
                }
            }
        }
    }

    /// The node was not reached in time: what waits for it is answered.
    pub(super) fn on_unreached(&mut self, node: NodeId, world: &mut impl World) {
        // What waits now may have come after a session, and have its own time.
        if self.peers.get(&node).is_some_and(|peer| self.now >= peer.waiting.until) {
            self.drop_waiting(node, Undelivered::NoNode);
            self.tell_notes(world);
        }
    }

    /// What waits for a node will not be sent any more.
    pub(super) fn drop_waiting(&mut self, node: NodeId, why: Undelivered) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.link.is_some() {
            return;
        }
        let replies = std::mem::take(&mut peer.replies);
        let waiting = std::mem::take(&mut peer.waiting);
        self.notes.extend(waiting.writers.into_iter().map(|writer| Note::Writable(writer, node)));
        for posted in waiting.queue {
            match posted {
                Posted::Message { to, request, .. } => self.give_up(to, request, why),
                Posted::Signal(signal) => self.answer_signal(signal, why),
            }
        }
        self.notes.extend(replies.into_iter().map(|port| Note::Refuse(port, why.into())));
    }

    /// A message is not sent any more.
    fn give_up(&mut self, to: Destination, request: Option<u64>, why: Undelivered) {
        match (to, request) {
            (Destination::Port(..), _) => {}
            (Destination::Actor(_), Some(request)) => self.notes.push(Note::Receipt(request, why)),
            (Destination::Actor(to), None) => {
                self.notes.push(Note::DeadLetter(to, "a message that waited", why))
            }
        }
    }

    /// A signal for a peer: over its session, or later, or never.
    fn signal_peer(&mut self, signal: Signal) {
        let Some(node) = node_of_signal(&signal) else { return };
        let Some(peer) = self.peers.get_mut(&node) else {
            return self.answer_signal(signal, Undelivered::NoNode);
        };
        if peer.gone {
            return self.answer_signal(signal, Undelivered::NoActor);
        }
        let waits = !peer.waiting.is_empty();
        let Some(mut link) = peer.link.take_if(|link| link.parting.is_none()) else {
            let is_met = peer.status.is_some();
            if waits || !ends_with_session(&signal, is_met) {
                self.keep_signal(node, signal);
            }
            return;
        };
        note_signal(peer, &signal);
        let sent = send_signal(&mut link.session, &signal);
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.link = Some(link);
        }
        self.mark_dirty(node);
        if let Err(why) = sent {
            tracing::debug!(%node, %why, "a signal was not sent");
            self.answer_signal(signal, Undelivered::Busy);
        }
    }

    fn keep_signal(&mut self, node: NodeId, signal: Signal) {
        // Signals are bounded by the open requests of actors; a cap of the queue would lose them.
        if let Err(why) = self.keep(node, Posted::Signal(signal.clone()), 0) {
            self.answer_signal(signal, why);
        }
    }

    /// What a signal that goes nowhere means for who sent it.
    fn answer_signal(&mut self, signal: Signal, why: Undelivered) {
        match signal {
            Signal::Monitor { target, id, watcher } => {
                let gone = if why == Undelivered::NoActor { Why::NoActor } else { Why::NodeLost };
                if let Some(peer) = self.peers.get_mut(&target.node()) {
                    peer.watching.remove(&id);
                }
                self.notes.push(Note::Down { watcher, id, who: target, why: gone });
            }
            Signal::Terminate { target, .. }
            | Signal::Throw { target, .. }
            | Signal::Resume { target, .. } => {
                self.notes.push(Note::DeadLetter(target, "a signal", why));
            }
            // Whom the others would tell is gone with its node.
            _ => {}
        }
    }

    fn forget_reply(&mut self, port: PortId) {
        for peer in self.peers.values_mut() {
            peer.replies.remove(&port);
        }
    }

    /// Where the nodes are that addresses in a message name, for a peer that may not have met them.
    fn route_of(&self, peer: NodeId, nodes: &[NodeId]) -> Vec<(wire::NodeId, Vec<SocketAddr>)> {
        let others = nodes.iter().filter(|node| **node != peer && **node != self.me);
        others.map(|node| (wire_node(*node), self.locations_of(*node))).collect()
    }

    /// A peer tells where nodes are that its message names.
    pub(super) fn learn_route(&mut self, route: Route<'_>) {
        for (node, locations) in route.iter() {
            self.learn(super::sched_node(node), "", locations.iter());
        }
    }

    /// Remembers a node that others told of, so that it can be dialled when somebody sends to it.
    pub(super) fn learn(&mut self, node: NodeId, name: &str, locations: impl Iterator<Item = SocketAddr>) {
        if node == self.me || self.peers.contains_key(&node) {
            return;
        }
        let locations: Vec<SocketAddr> = locations.filter(|at| self.settings.may_dial(*at)).collect();
        if locations.is_empty() {
            return;
        }
        if self.peers.len() >= PEERS_MAX {
            self.forget_some_peer();
        }
        if self.peers.len() < PEERS_MAX {
            self.peers.insert(node, Peer::new(name, locations));
        }
    }

    /// Makes room by forgetting a peer on which nothing is open.
    pub(super) fn forget_some_peer(&mut self) {
        let idle = |peer: &Peer| peer.link.is_none() && peer.waiting.is_empty();
        let some = self.peers.iter().find(|(_, peer)| idle(peer)).map(|(node, _)| *node);
        if let Some(node) = some {
            self.peers.remove(&node);
        }
    }
}

/// Who sends from outside of all actors.
const NOBODY: Key = Key::from_bits(u64::MAX);
/// Peers that a node remembers.
pub(super) const PEERS_MAX: usize = 16_384;

fn send_message(
    session: &mut Session,
    parcel: &Parcel<'_>,
    request: Option<u64>,
    route: &[(wire::NodeId, Vec<SocketAddr>)],
) -> Result<(), Undelivered> {
    let tag = session.intern(parcel.tag).map_err(|_| Undelivered::Encode)?;
    let route = if route.is_empty() { Route::NONE } else { Route::Plain(route) };
    let from = wire_key(parcel.from.unwrap_or(NOBODY));
    let frame: Frame<'_> = match parcel.to {
        Destination::Actor(to) => {
            Message { to: wire_key(to.key()), from, tag, receipt: request, route, body: parcel.body }.into()
        }
        Destination::Port(_, port) => {
            Answer { to: wire::Key(port.to_bits()), from, tag, route, body: parcel.body }.into()
        }
    };
    session.send(&frame).map_err(|why| match why {
        SendRefused::Busy { .. } => Undelivered::Busy,
        SendRefused::TooLarge { .. } | SendRefused::FieldTooLong => Undelivered::TooLarge,
        _ => Undelivered::NoNode,
    })
}

/// Whether somebody must know what becomes of a message: who asked to, or who waits for an answer that its
/// receiver is to give.
fn wants_receipt(parcel: &Parcel<'_>) -> bool {
    let is_message = matches!(parcel.to, Destination::Actor(_));
    matches!(parcel.manner, Manner::Receipt(_)) || (is_message && !parcel.replies.is_empty())
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
        _ => None,
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
        _ => true,
    }
}

/// Keeps account of monitors that cross to this peer, and back.
fn note_signal(peer: &mut Peer, signal: &Signal) {
    match signal {
        Signal::Monitor { target, id, watcher } => {
            peer.watching.insert(*id, (*watcher, *target));
        }
        Signal::Demonitor { id, .. } => {
            peer.watching.remove(id);
        }
        Signal::Notify { id, who, .. } => {
            peer.watched.insert((*who, *id));
        }
        Signal::Down { id, who, .. } => {
            peer.watched.remove(&(who.key(), *id));
        }
        _ => {}
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
        Signal::Notify { watcher, id, who } => session.send(
            &Notify { watcher: wire_key(watcher.key()), target: wire_key(*who), id: number(id, true) }.into(),
        ),
        Signal::Down { watcher, id, who, why } => {
            let by_target = id.origin == who.node();
            send_down(session, watcher.key(), *who, number(id, by_target), why)
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
        Signal::ReplyDropped { port, .. } => {
            session.send(&ReplyDropped { port: wire::Key(port.to_bits()) }.into())
        }
        _ => Ok(()),
    }
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
    who: ActorId,
    id: u64,
    why: &Why,
) -> Result<(), SendRefused> {
    let why = match why {
        Why::Done(value) => DownWhy::Done(match value.as_encoded() {
            Some((tag, body, _)) => session.intern(tag).ok().map(|tag| (tag, body)),
            None => None,
        }),
        Why::Failed(text) => DownWhy::Failed(cut(text)),
        Why::Panicked(text) => DownWhy::Panicked(cut(text)),
        Why::Terminated => DownWhy::Terminated,
        Why::NodeLost => DownWhy::NodeLost,
        Why::NoActor => DownWhy::NoActor,
    };
    let frame =
        Down { watcher: wire_key(watcher), who: wire_key(who.key()), node: wire_node(who.node()), id, why };
    match session.send(&frame.into()) {
        // The value does not fit; that the actor has ended does.
        Err(SendRefused::TooLarge { .. }) => session.send(&Down { why: DownWhy::Done(None), ..frame }.into()),
        sent => sent,
    }
}
