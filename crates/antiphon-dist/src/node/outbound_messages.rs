//! Outbound messages: from actors straight into the sessions.
//!
//! Invariant: the messages and signals of an actor to another node keep their order. While there is no session, all those
//! for the node wait in one queue, which is bounded in bytes and in time.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use antiphon_sched::{
    ActorId, Destination, Key, NodeId, OutboundMessage, RequestId, SendMode, Signal, Time, Transport,
    Undelivered,
};
use antiphon_wire::frame::{Answer, Message};
use antiphon_wire::{self as wire, Frame, Route, SendRefused, Session};

use super::driver::Driver;
use super::frames::destination_node;
use super::outbound_signals::body_bytes;
use super::peer_session::PeerSession;
use super::peers::Peer;
use super::timers::NodeTimer;
use super::{LoopAction, NO_ACTOR, NodeCore, wire_key, wire_node};

/// How long messages to a node wait for a session.
const UNREACHED_AFTER: Duration = Duration::from_secs(15);
/// The number of bytes in all queues together above which only queues below their high mark grow.
const ALL_QUEUES_MAX: u64 = 256 * 1024 * 1024;
/// The number of bytes that one waiting entry counts in addition to its body.
const WAITING_OVERHEAD: usize = 128;

/// The messages and signals for one node that wait for a session.
#[derive(Debug, Default)]
pub(super) struct WaitingOutbound {
    queue: VecDeque<QueuedOutbound>,
    bytes: usize,
    /// The time at which all entries fail.
    until: Time,
    /// Actors that receive `Writable` when there is room again.
    writers: BTreeSet<(Option<Key>, ActorId)>,
}

#[derive(Debug)]
pub(super) enum QueuedOutbound {
    Message {
        from: Option<Key>,
        to: Destination,
        tag: &'static str,
        body: Box<[u8]>,
        receipt_number: Option<u64>,
        nodes: Box<[NodeId]>,
        replies: Box<[RequestId]>,
    },
    Signal(Signal),
}

impl WaitingOutbound {
    /// The open receipts and requests of the waiting messages.
    pub(super) fn open(&self) -> (BTreeSet<u64>, Vec<RequestId>) {
        let (mut receipts, mut request_ids) = (BTreeSet::new(), Vec::new());
        for queued in &self.queue {
            if let QueuedOutbound::Message { receipt_number, replies, .. } = queued {
                receipts.extend(receipt_number);
                request_ids.extend(replies);
            }
        }
        (receipts, request_ids)
    }
}

impl QueuedOutbound {
    fn bytes(&self) -> usize {
        let body = match self {
            Self::Message { body, .. } => body.len(),
            Self::Signal(signal) => body_bytes(signal),
        };
        body + WAITING_OVERHEAD
    }
}

impl WaitingOutbound {
    pub(super) fn check(&self) {
        let bytes: usize = self.queue.iter().map(QueuedOutbound::bytes).sum();
        assert_eq!(self.bytes, bytes, "the waiting queue counts the bytes of its entries");
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

impl Transport for NodeCore {
    fn send(&mut self, now: Time, outbound: &OutboundMessage<'_>) -> Result<(), Undelivered> {
        self.now = self.now.max(now);
        let node = destination_node(outbound.to);
        let peer = self.peers.get_mut(&node).ok_or(Undelivered::NoNode)?;
        if peer.replaced_by_restart {
            return Err(Undelivered::NoActor);
        }
        let Some(mut peer_session) =
            peer.peer_session.take_if(|peer_session| peer_session.disconnect.is_none())
        else {
            return self.queue_outbound(node, outbound);
        };
        let sent = self.send_on_session(node, &mut peer_session, outbound);
        if sent == Err(Undelivered::Busy) {
            peer_session.writers.extend(writer_of(outbound));
        }
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.peer_session = Some(peer_session);
        }
        if sent.is_ok() {
            self.replies.add(node, outbound.requests);
        }
        self.mark_dirty(node);
        sent
    }

    fn signal(&mut self, now: Time, signal: Signal) {
        self.now = self.now.max(now);
        match signal {
            Signal::Exited { actor } => {
                self.unregister_all(actor);
                self.access.forget(actor);
            }
            Signal::RequestClosed { request_id } => self.replies.forget(request_id),
            Signal::Monitor { .. }
            | Signal::Demonitor { .. }
            | Signal::Notify { .. }
            | Signal::Down { .. }
            | Signal::Terminate { .. }
            | Signal::Throw { .. }
            | Signal::Resume { .. }
            | Signal::ReplyDropped { .. }
            | Signal::Lagged { .. } => self.signal_peer(signal),
        }
    }
}

impl NodeCore {
    /// Sends a message over a session.
    fn send_on_session(
        &mut self,
        node: NodeId,
        peer_session: &mut PeerSession,
        outbound: &OutboundMessage<'_>,
    ) -> Result<(), Undelivered> {
        let limits = &self.settings.profile.limits;
        let queued = peer_session.session.queued_bytes();
        // Below the low mark any size is accepted. Else the sender of a large message would get `Writable` and `Busy` in turn.
        let is_high = queued + outbound.body.len() as u64 > limits.queue_bytes_high;
        if outbound.mode == SendMode::Try && is_high && queued >= limits.queue_bytes_low {
            peer_session.writers.extend(writer_of(outbound));
            return Err(Undelivered::Busy);
        }
        if queued > limits.queue_bytes_high && self.all_queued() > ALL_QUEUES_MAX {
            return Err(Undelivered::Busy);
        }
        let route = self.route_of(node, outbound.nodes);
        let receipt_number = wants_receipt(outbound).then(|| self.next_number());
        send_message(&mut peer_session.session, outbound, receipt_number, &route)?;
        self.await_receipt(node, outbound, receipt_number);
        Ok(())
    }

    fn await_receipt(&mut self, node: NodeId, outbound: &OutboundMessage<'_>, receipt_number: Option<u64>) {
        match (outbound.mode, receipt_number) {
            (SendMode::Receipt(request_id), Some(receipt_number)) => {
                self.receipts.add(receipt_number, request_id, node)
            }
            (_, Some(receipt_number)) => self.receipts.add_replies(receipt_number, outbound.requests, node),
            (_, None) => {}
        }
    }

    fn all_queued(&self) -> u64 {
        let queued = |peer: &Peer| {
            peer.peer_session.as_ref().map_or(0, |peer_session| peer_session.session.queued_bytes())
        };
        self.peers.values().map(|peer| queued(peer) + peer.waiting.bytes as u64).sum()
    }

    /// Queues a message until there is a session.
    fn queue_outbound(&mut self, node: NodeId, outbound: &OutboundMessage<'_>) -> Result<(), Undelivered> {
        let high = self.settings.profile.limits.queue_bytes_high;
        let Some(peer) = self.peers.get_mut(&node) else { return Err(Undelivered::NoNode) };
        let waiting = &mut peer.waiting;
        let bytes = (waiting.bytes + outbound.body.len() + WAITING_OVERHEAD) as u64;
        if outbound.mode == SendMode::Try && bytes > high && !waiting.queue.is_empty() {
            waiting.writers.extend(writer_of(outbound));
            return Err(Undelivered::Busy);
        }
        if !self.fits_waiting_queue(node, outbound.body.len()) {
            return Err(Undelivered::Busy);
        }
        let receipt_number = wants_receipt(outbound).then(|| self.next_number());
        self.await_receipt(node, outbound, receipt_number);
        let queued = QueuedOutbound::Message {
            from: outbound.from,
            to: outbound.to,
            tag: outbound.type_name,
            body: outbound.body.into(),
            receipt_number,
            nodes: outbound.nodes.into(),
            replies: outbound.requests.into(),
        };
        let pushed = self.push_waiting(node, queued);
        if pushed.is_err() {
            if let Some(receipt_number) = receipt_number {
                self.receipts.remove(receipt_number);
            }
        } else {
            self.replies.add(node, outbound.requests);
        }
        pushed
    }

    /// Whether a body of `bytes` bytes may wait for a session with the node.
    pub(super) fn fits_waiting_queue(&self, node: NodeId, bytes: usize) -> bool {
        let limits = &self.settings.profile.limits;
        let waiting = self.peers.get(&node).map_or(0, |peer| peer.waiting.bytes);
        let bytes = (waiting + bytes + WAITING_OVERHEAD) as u64;
        bytes <= limits.queue_bytes_cap
            && (bytes <= limits.queue_bytes_high || self.all_queued() <= ALL_QUEUES_MAX)
    }

    /// Adds an entry to the waiting queue of a node. The first entry dials the node.
    pub(super) fn push_waiting(&mut self, node: NodeId, queued: QueuedOutbound) -> Result<(), Undelivered> {
        let until = self.now + UNREACHED_AFTER;
        let Some(peer) = self.peers.get_mut(&node) else { return Err(Undelivered::NoNode) };
        let Some(at) = peer.locations.first().copied() else { return Err(Undelivered::NoNode) };
        let first = peer.waiting.queue.is_empty();
        peer.waiting.bytes += queued.bytes();
        peer.waiting.queue.push_back(queued);
        if first {
            peer.waiting.until = until;
            self.timers.add(until, NodeTimer::Unreached(node));
            self.dial_until(at, until);
        }
        Ok(())
    }

    /// Dials a node for which messages wait, and gives them their full time again.
    pub(super) fn dial_for_waiting(&mut self, node: NodeId) {
        let until = self.now + UNREACHED_AFTER;
        let Some(peer) = self.peers.get_mut(&node).filter(|peer| !peer.waiting.is_empty()) else { return };
        let Some(at) = peer.locations.first().copied() else { return };
        peer.waiting.until = until;
        self.timers.add(until, NodeTimer::Unreached(node));
        self.dial_until(at, until);
    }

    /// Sends all waiting messages and signals, in order, after a session has started.
    pub(super) fn send_waiting(&mut self, node: NodeId) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let waiting = std::mem::take(&mut peer.waiting);
        if let Some(peer_session) = peer.peer_session.as_mut() {
            peer_session.writers.extend(waiting.writers);
        }
        for queued in waiting.queue {
            match queued {
                QueuedOutbound::Signal(signal) => self.signal_peer(signal),
                QueuedOutbound::Message { from, to, tag, body, receipt_number, nodes, .. } => {
                    let route = self.route_of(node, &nodes);
                    let outbound = OutboundMessage {
                        from,
                        to,
                        type_name: tag,
                        body: &body,
                        mode: SendMode::Send,
                        nodes: &nodes,
                        requests: &[],
                    };
                    let Some(peer_session) =
                        self.peers.get_mut(&node).and_then(|peer| peer.peer_session.as_mut())
                    else {
                        return;
                    };
                    if let Err(reason) =
                        send_message(&mut peer_session.session, &outbound, receipt_number, &route)
                    {
                        self.fail_message(to, receipt_number, reason);
                    }
                }
            }
        }
    }

    /// Fails the waiting messages of a node that was not reached in time.
    pub(super) fn on_unreached(&mut self, node: NodeId, driver: &mut impl Driver) {
        // The timer may be that of earlier messages: there may have been a session since.
        if self.peers.get(&node).is_some_and(|peer| self.now >= peer.waiting.until) {
            self.drop_waiting(node, Undelivered::NoNode);
            self.run_loop_actions(driver);
        }
    }

    /// Fails all waiting messages and signals of a node.
    pub(super) fn drop_waiting(&mut self, node: NodeId, reason: Undelivered) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.peer_session.is_some() {
            return;
        }
        let waiting = std::mem::take(&mut peer.waiting);
        let replies = self.replies.take(node);
        self.loop_actions
            .extend(waiting.writers.into_iter().map(|(writer, target)| LoopAction::Writable(writer, target)));
        for queued in waiting.queue {
            match queued {
                QueuedOutbound::Message { to, receipt_number, .. } => {
                    self.fail_message(to, receipt_number, reason)
                }
                QueuedOutbound::Signal(signal) => self.fail_signal(signal, reason),
            }
        }
        self.loop_actions
            .extend(replies.into_iter().map(|request_id| LoopAction::FailRequest(request_id, reason.into())));
    }

    /// Reports a waiting message that will not be sent: to its receipt, or as a dead letter.
    fn fail_message(&mut self, to: Destination, receipt_number: Option<u64>, reason: Undelivered) {
        match (to, receipt_number) {
            (Destination::Request(..), _) => {}
            (Destination::Actor(_), Some(receipt_number)) => {
                self.loop_actions.push(LoopAction::FailReceipt(receipt_number, reason))
            }
            (Destination::Actor(to), None) => self.loop_actions.push(LoopAction::DeadLetter(
                to,
                "a message that waited for a session",
                reason,
            )),
        }
    }

    /// The locations of the nodes that the addresses in a message name. The peer may not know these nodes.
    fn route_of(&self, peer: NodeId, nodes: &[NodeId]) -> Vec<(wire::NodeId, Vec<SocketAddr>)> {
        let third_nodes = nodes.iter().filter(|node| **node != peer && **node != self.me);
        third_nodes.map(|node| (wire_node(*node), self.locations_of(*node))).collect()
    }
}

fn send_message(
    session: &mut Session,
    outbound: &OutboundMessage<'_>,
    receipt_number: Option<u64>,
    route: &[(wire::NodeId, Vec<SocketAddr>)],
) -> Result<(), Undelivered> {
    let tag = session.intern(outbound.type_name).map_err(|_| Undelivered::Encode)?;
    let route = if route.is_empty() { Route::NONE } else { Route::Plain(route) };
    let from = wire_key(outbound.from.unwrap_or(NO_ACTOR));
    let frame: Frame<'_> = match outbound.to {
        Destination::Actor(to) => {
            Message { to: wire_key(to.key()), from, tag, receipt: receipt_number, route, body: outbound.body }
                .into()
        }
        Destination::Request(_, request_id) => {
            Answer { to: wire::Key(request_id.to_bits()), from, tag, route, body: outbound.body }.into()
        }
    };
    session.send(&frame).map_err(|reason| match reason {
        SendRefused::Busy { .. } => Undelivered::Busy,
        SendRefused::TooLarge { .. } | SendRefused::FieldTooLong => Undelivered::TooLarge,
        SendRefused::WrongMethod | _ => Undelivered::NoNode,
    })
}

/// Whether a message needs a receipt: its sender asked for one, or requests wait for replies from its receiver.
fn wants_receipt(outbound: &OutboundMessage<'_>) -> bool {
    let is_message = matches!(outbound.to, Destination::Actor(_));
    matches!(outbound.mode, SendMode::Receipt(_)) || (is_message && !outbound.requests.is_empty())
}

/// The sender that awaits room after a refusal, with its target.
fn writer_of(outbound: &OutboundMessage<'_>) -> Option<(Option<Key>, ActorId)> {
    match (outbound.mode, outbound.to) {
        (SendMode::Send | SendMode::Try, Destination::Actor(to)) => Some((outbound.from, to)),
        (_, _) => None,
    }
}
