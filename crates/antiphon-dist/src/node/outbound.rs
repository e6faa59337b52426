//! Outbound messages and signals: from actors straight into the sessions, or into the queue for one.
//!
//! Flow control is per receiving actor. The bytes that wait for one actor are at most as many as are still free in the
//! queue to its peer; a message beyond that is refused with `Busy`, and its sender receives `Writable` when there is room.
//!
//! Invariant: the messages and signals of an actor to another node keep their order. While there is no session, all those
//! for the node wait in one queue, which is bounded in bytes and in time.

use std::net::SocketAddr;
use std::time::Duration;

use antiphon_sched::{
    AskError, Destination, Key, NodeId, OutboundMessage, PayloadError, RequestId, SendMode, Signal,
    SignalKind, Undelivered,
};
use antiphon_wire::frame::{Answer, Message};
use antiphon_wire::{Frame, Route, SendMark, SendRefused, Session};

use super::NO_ACTOR;
use super::context::NodeCx;
use super::discovery::dialer::Dialer;
use super::peer::outbound_signals::{NodeHint, nodes_in};
use super::peer::payload_faults::{TOO_MANY_TYPES, check_size, encode_error};
use super::peer::room_waiters::NeededRoom;
use super::peer::waiting_outbound::{QueuedOutbound, WaitingBudget, message_bytes};
use super::peers::Peers;
use super::receipts::Withdrawal;
use super::timers::NodeTimer;
use smallvec::SmallVec;

/// How long messages to a node wait for a session.
pub(super) const UNREACHED_AFTER: Duration = Duration::from_secs(15);
/// The nodes of a route that is made without a look at the room for its message.
pub(super) const SHORT_ROUTE_NODES: usize = 16;
/// The number of bytes in all queues together above which only queues below their high mark grow.
pub(super) const ALL_QUEUES_MAX: u64 = 256 * 1024 * 1024;

/// The parts of a node that messages and signals of its actors need.
pub(super) struct OutboundRouter<'n> {
    pub(super) cx: &'n mut NodeCx,
    pub(super) peers: &'n mut Peers,
    pub(super) dialer: &'n mut Dialer,
}

impl OutboundRouter<'_> {
    /// Sends a message of an actor to another node.
    pub(super) fn send(&mut self, outbound: &OutboundMessage<'_>) -> Result<(), Undelivered> {
        let node = destination_node(outbound.to);
        let peer = self.peers.get_mut(node).ok_or(Undelivered::NoNode)?;
        peer.check_outbound(self.cx, outbound)?;
        let sent = if peer.open_session().is_none() {
            self.queue_outbound(node, outbound)
        } else if outbound.nodes.is_empty() {
            peer.send(self.cx, outbound, &[])
        } else if let Err(refusal) = peer.check_room_for_route(outbound) {
            Err(refusal)
        } else {
            let route = self.route_of(node, outbound.nodes);
            let peer = self.peers.get_mut(node).ok_or(Undelivered::NoNode)?;
            peer.send(self.cx, outbound, &route)
        };
        sent.map_err(|refusal| match refusal {
            OutboundRefusal::NoRoom { bytes, by_total } => {
                if let (Destination::Actor(to), Some(peer)) = (outbound.to, self.peers.get_mut(node)) {
                    let needed = NeededRoom { bytes, mark: mark_of(outbound.mode), by_total };
                    peer.await_room(self.cx, outbound.from, to, outbound.mode, needed);
                }
                Undelivered::Busy
            }
            OutboundRefusal::Other(reason) => reason,
        })
    }

    /// Queues a message until there is a session.
    fn queue_outbound(
        &mut self,
        node: NodeId,
        outbound: &OutboundMessage<'_>,
    ) -> Result<(), OutboundRefusal> {
        let Some(peer) = self.peers.get(node) else { return Err(Undelivered::NoNode.into()) };
        let bytes = message_bytes(outbound.body.len(), outbound.nodes.len());
        if outbound.mode == SendMode::Try
            && let Destination::Actor(to) = outbound.to
        {
            let (of_actor, of_all) = peer.waiting.bytes_for(to.key().actor());
            if !self.cx.settings.profile.limits.admits(of_actor, of_all, bytes, SendMark::High) {
                return Err(OutboundRefusal::NoRoom { bytes, by_total: false });
            }
        }
        peer.check_waiting_room(self.cx, WaitingBudget::of_message(outbound.to), bytes)?;
        let receipt_number = wants_receipt(outbound).then(|| self.cx.next_number());
        let queued = QueuedOutbound::Message {
            from: outbound.from,
            to: outbound.to,
            tag: outbound.type_name,
            body: outbound.body.into(),
            receipt_number,
            nodes: outbound.nodes.into(),
            replies: outbound.requests.into(),
        };
        self.push_waiting(node, queued)?;
        self.cx.await_outcome(node, outbound, receipt_number);
        Ok(())
    }

    /// Adds an entry to the waiting queue of a node. The first entry dials the node.
    fn push_waiting(&mut self, node: NodeId, queued: QueuedOutbound) -> Result<(), Undelivered> {
        let until = self.cx.now + UNREACHED_AFTER;
        let Some(peer) = self.peers.get_mut(node) else { return Err(Undelivered::NoNode) };
        let Some(at) = peer.locations.first().copied() else { return Err(Undelivered::NoNode) };
        let first = peer.waiting.is_empty();
        if first {
            let is_dialled = self.dialer.dial_node(self.cx, self.peers, node, at, until);
            if !is_dialled {
                return Err(Undelivered::NoNode);
            }
            self.cx.timers.add(until, NodeTimer::Unreached(node));
        }
        let Some(peer) = self.peers.get_mut(node) else { return Err(Undelivered::NoNode) };
        if first {
            peer.waiting.until = until;
        }
        peer.waiting.push(queued);
        peer.count_queue(&mut self.cx.queues.bytes);
        self.peers.note_use(self.cx, node);
        Ok(())
    }

    /// Dials a node for which messages wait, and gives them their full time again.
    pub(super) fn dial_for_waiting(&mut self, node: NodeId) {
        let until = self.cx.now + UNREACHED_AFTER;
        let Some(peer) = self.peers.get_mut(node).filter(|peer| !peer.waiting.is_empty()) else { return };
        let Some(at) = peer.locations.first().copied() else { return };
        peer.waiting.until = until;
        self.cx.timers.add(until, NodeTimer::Unreached(node));
        // If too many locations wait, the messages fail when their time is over.
        self.dialer.dial_node(self.cx, self.peers, node, at, until);
    }

    /// Sends all waiting messages and signals, in order, after a session has started.
    pub(super) fn send_waiting(&mut self, node: NodeId) {
        let Some(peer) = self.peers.get_mut(node) else { return };
        let queue = peer.waiting.take();
        peer.count_queue(&mut self.cx.queues.bytes);
        for queued in queue {
            match queued {
                QueuedOutbound::Signal(signal) => self.signal_peer(signal),
                QueuedOutbound::ReplyDropped { request_id, reason } => {
                    self.drop_reply(node, request_id, reason)
                }
                QueuedOutbound::Message { from, to, tag, body, receipt_number, nodes, .. } => {
                    let route = self.route_of(node, &nodes);
                    let outbound = OutboundMessage {
                        from,
                        to,
                        type_name: tag,
                        body: &body,
                        mode: SendMode::Send,
                        is_checked: true,
                        nodes: &nodes,
                        requests: &[],
                    };
                    let Some(peer) = self.peers.get_mut(node) else { return };
                    if let Err(reason) = peer.send_waiting_message(&outbound, receipt_number, &route) {
                        if let Destination::Request(node, request_id) = to {
                            self.drop_reply(node, request_id, AskError::from_reply(&reason));
                        }
                        self.cx.fail_message((from, to), tag, receipt_number, reason);
                    }
                }
            }
        }
        let Some(peer) = self.peers.get_mut(node) else { return };
        for actor in peer.room_waiters.actors() {
            peer.await_least_room(actor);
        }
    }

    /// The locations of the nodes that the addresses in a message name. The peer may not know these nodes.
    fn route_of(&self, peer: NodeId, nodes: &[NodeId]) -> Vec<(NodeId, Vec<SocketAddr>)> {
        let third_nodes = nodes.iter().filter(|node| **node != peer && **node != self.cx.me);
        third_nodes.map(|node| (*node, self.peers.locations_of(self.cx, *node))).collect()
    }

    /// Sends a signal to its peer. Without a session, the signal waits for one or fails.
    pub(super) fn signal_peer(&mut self, signal: Signal) {
        let node = signal.to.node();
        let hints = self.hints_for(node, &signal.kind);
        let Some(peer) = self.peers.get_mut(node) else {
            return self.cx.report_failed_signal(signal, Undelivered::NoNode);
        };
        if let Some(signal) = peer.signal(self.cx, signal, &hints) {
            self.queue_signal(node, signal);
        }
    }

    /// Queues a signal until there is a session, within the limits for messages.
    fn queue_signal(&mut self, node: NodeId, signal: Signal) {
        let Some(peer) = self.peers.get_mut(node) else {
            return self.cx.report_failed_signal(signal, Undelivered::NoNode);
        };
        let fits = peer.fits_waiting_queue(self.cx, &signal);
        let pushed = if fits {
            self.push_waiting(node, QueuedOutbound::Signal(signal.clone()))
        } else {
            Err(Undelivered::Busy)
        };
        if let (Err(reason), Some(peer)) = (pushed, self.peers.get_mut(node)) {
            peer.fail_signal(self.cx, signal, reason);
        }
    }

    /// The nodes that the addresses in a signal's value name, with their locations. A message has a route instead.
    fn hints_for(&self, peer: NodeId, kind: &SignalKind) -> Vec<NodeHint> {
        let third_nodes = nodes_in(kind).iter().filter(|node| **node != peer && **node != self.cx.me);
        let hints = third_nodes.map(|node| NodeHint {
            node: *node,
            name: self.peers.get(*node).map(|peer| peer.name.clone()).unwrap_or_default(),
            locations: self.peers.locations_of(self.cx, *node),
        });
        hints.filter(|hint| !hint.locations.is_empty()).collect()
    }

    /// Informs a node that no reply to one of its requests will follow.
    pub(super) fn drop_reply(&mut self, node: NodeId, request_id: RequestId, reason: AskError) {
        let Some(peer) = self.peers.get_mut(node) else { return };
        if peer.drop_reply(self.cx, request_id, &reason)
            && let Err(reason) = self.push_waiting(node, QueuedOutbound::ReplyDropped { request_id, reason })
        {
            tracing::debug!(%node, %reason, "the end of a request was not sent");
        }
    }

    /// Withdraws the message of a receipt from the queue in which it waits for transmission; `None` if it waits in none.
    pub(super) fn withdraw_message(&mut self, receipt_number: u64) -> Option<Withdrawal> {
        let receiver = self.cx.receipts.receiver(receipt_number)?;
        let peer = self.peers.get_mut(receiver.node())?;
        let withdrawal = peer.withdraw(self.cx, receiver.key(), receipt_number);
        self.peers.note_use(self.cx, receiver.node());
        withdrawal
    }

    /// Withdraws the message that holds the only `ReplyTo` of a request, at the timeout of the request. Returns the error
    /// with which the request fails.
    pub(super) fn withdraw_request(&mut self, request_id: RequestId) -> AskError {
        let receipts: SmallVec<[u64; 1]> = self.cx.replies.receipts_of(request_id).collect();
        let mut reason = AskError::TimedOut;
        for receipt_number in receipts {
            if self.cx.receipts.serves_only(receipt_number, request_id)
                && let Some(withdrawal) = self.withdraw_message(receipt_number)
            {
                self.cx.receipts.forget(receipt_number);
                if withdrawal == Withdrawal::ActorFull {
                    reason = AskError::Full;
                }
            }
        }
        reason
    }
}

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

/// The node of a destination.
fn destination_node(to: Destination) -> NodeId {
    match to {
        Destination::Actor(id) => id.node(),
        Destination::Request(node, _) => node,
    }
}
