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
    ActorId, AskError, DeadLetter, Destination, Key, NodeId, OutboundMessage, PayloadError, PayloadRules,
    QueueRoom, RequestId, SendMode, Signal, Time, Transport, Undelivered,
};
use antiphon_wire::frame::{Answer, Message};
use antiphon_wire::{Frame, Route, SendMark, SendRefused, Session};

use super::context::NodeCx;
use super::driver::Driver;
use super::frames::destination_node;
use super::payload_faults::{TOO_MANY_TYPES, check_body, check_size, encode_error};
use super::peer::Peer;
use super::room_waiters::{NeededRoom, RoomWaiter};
use super::timers::NodeTimer;
use super::waiting_outbound::{QueuedOutbound, WaitingBudget, message_bytes};
use super::{LoopAction, NO_ACTOR, NodeCore};

/// How long messages to a node wait for a session.
const UNREACHED_AFTER: Duration = Duration::from_secs(15);
/// The nodes of a route that is made without a look at the room for its message.
const SHORT_ROUTE_NODES: usize = 16;
/// The number of bytes in all queues together above which only queues below their high mark grow.
const ALL_QUEUES_MAX: u64 = 256 * 1024 * 1024;

impl Transport for NodeCore {
    fn send(&mut self, now: Time, outbound: &OutboundMessage<'_>) -> Result<(), Undelivered> {
        self.cx.now = self.cx.now.max(now);
        let node = destination_node(outbound.to);
        let peer = self.peers.get_mut(node).ok_or(Undelivered::NoNode)?;
        peer.check_outbound(&self.cx, outbound)?;
        let sent = if peer.open_session().is_none() {
            self.queue_outbound(node, outbound)
        } else if outbound.nodes.is_empty() {
            peer.send(&mut self.cx, outbound, &[])
        } else if let Err(refusal) = peer.check_room_for_route(outbound) {
            Err(refusal)
        } else {
            let route = self.route_of(node, outbound.nodes);
            let peer = self.peers.get_mut(node).ok_or(Undelivered::NoNode)?;
            peer.send(&mut self.cx, outbound, &route)
        };
        sent.map_err(|refusal| match refusal {
            OutboundRefusal::NoRoom { bytes, by_total } => {
                if let (Destination::Actor(to), Some(peer)) = (outbound.to, self.peers.get_mut(node)) {
                    let needed = NeededRoom { bytes, mark: mark_of(outbound.mode), by_total };
                    peer.await_room(&mut self.cx, outbound.from, to, outbound.mode, needed);
                }
                Undelivered::Busy
            }
            OutboundRefusal::Other(reason) => reason,
        })
    }

    fn check_room(
        &mut self,
        now: Time,
        from: Key,
        (to, room): (ActorId, QueueRoom),
        mode: SendMode,
    ) -> Result<(), Undelivered> {
        self.cx.now = self.cx.now.max(now);
        let peer = self.peers.get_mut(to.node()).ok_or(Undelivered::NoNode)?;
        peer.check_room(&mut self.cx, from, (to, room), mode)
    }

    fn payload_rules(&self) -> PayloadRules {
        let bytes_max = self.cx.settings.profile.limits.message_bytes_max as usize;
        PayloadRules { bytes_max, check: check_body }
    }

    fn withdraw(&mut self, now: Time, request_id: RequestId) -> AskError {
        self.cx.now = self.cx.now.max(now);
        self.withdraw_request(request_id)
    }

    fn signal(&mut self, now: Time, signal: Signal) {
        self.cx.now = self.cx.now.max(now);
        match signal {
            Signal::Exited { actor } => {
                self.names.unregister_all(actor);
                self.cx.access.forget(actor);
                self.forget_room_waiter(actor);
            }
            Signal::RequestClosed { request_id } => self.on_request_closed(request_id),
            Signal::RoomNotAwaited { sender, address } => {
                if let Some(peer) = self.peers.get_mut(address.node()) {
                    peer.end_room_wait(&mut self.cx, sender, address.key());
                }
            }
            Signal::Monitor { .. }
            | Signal::Demonitor { .. }
            | Signal::Notify { .. }
            | Signal::Down { .. }
            | Signal::Terminate { .. }
            | Signal::Throw { .. }
            | Signal::Resume { .. }
            | Signal::Lagged { .. }
            | Signal::ReplyDropped { .. } => self.signal_peer(signal),
        }
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
fn mark_of(mode: SendMode) -> SendMark {
    if mode == SendMode::Try { SendMark::High } else { SendMark::Cap }
}

impl Peer {
    /// The session to which messages go now: not one that is being ended.
    pub(super) fn open_session(&mut self) -> Option<&mut Session> {
        let peer_session =
            self.peer_session.as_mut().filter(|peer_session| peer_session.disconnect.is_none())?;
        Some(&mut peer_session.session)
    }

    /// Checks that a message may be sent to this node, and its body.
    fn check_outbound(&self, cx: &NodeCx, outbound: &OutboundMessage<'_>) -> Result<(), Undelivered> {
        if self.replaced_by_restart {
            return Err(Undelivered::NoActor);
        }
        if self.has_left {
            return Err(Undelivered::NoNode);
        }
        tracing::trace!(
            target: "antiphon::messages", node = %self.node, tag = outbound.type_name, bytes = outbound.body.len(), "a message to a peer"
        );
        let bytes_max = cx.settings.profile.limits.message_bytes_max.into();
        if outbound.is_checked {
            check_size(outbound.body, bytes_max)?;
        } else {
            check_body(outbound.type_name, outbound.body, bytes_max)?;
        }
        Ok(())
    }

    /// Refuses a message with a long route that would be refused most likely, so that the route need not be made: one that is queued
    /// would not fit.
    fn check_room_for_route(&mut self, outbound: &OutboundMessage<'_>) -> Result<(), OutboundRefusal> {
        if let Destination::Actor(to) = outbound.to
            && outbound.nodes.len() > SHORT_ROUTE_NODES
            && let Some(session) = self.open_session()
            && !session.fits(to.key(), outbound.body.len() as u64, mark_of(outbound.mode))
        {
            let bytes = message_bytes(outbound.body.len(), outbound.nodes.len());
            return Err(OutboundRefusal::NoRoom { bytes, by_total: false });
        }
        Ok(())
    }

    /// Sends a message over the session.
    fn send(
        &mut self,
        cx: &mut NodeCx,
        outbound: &OutboundMessage<'_>,
        route: &[(NodeId, Vec<SocketAddr>)],
    ) -> Result<(), OutboundRefusal> {
        let sent = self.send_on_session(cx, outbound, route);
        self.mark_dirty(cx);
        sent
    }

    fn send_on_session(
        &mut self,
        cx: &mut NodeCx,
        outbound: &OutboundMessage<'_>,
        route: &[(NodeId, Vec<SocketAddr>)],
    ) -> Result<(), OutboundRefusal> {
        let Some(session) = self.open_session() else { return Err(Undelivered::NoNode.into()) };
        if matches!(outbound.to, Destination::Actor(_))
            && session.queued_bytes() > cx.settings.profile.limits.queue_bytes_high
            && cx.queues.bytes > ALL_QUEUES_MAX
        {
            cx.queues.has_refused = true;
            let bytes = message_bytes(outbound.body.len(), outbound.nodes.len());
            return Err(OutboundRefusal::NoRoom { bytes, by_total: true });
        }
        let receipt_number = wants_receipt(outbound).then(|| cx.next_number());
        send_message(session, outbound, receipt_number, route)?;
        cx.await_outcome(self.node, outbound, receipt_number);
        Ok(())
    }

    fn check_room(
        &mut self,
        cx: &mut NodeCx,
        from: Key,
        (to, QueueRoom { bytes, waiting_max }): (ActorId, QueueRoom),
        mode: SendMode,
    ) -> Result<(), Undelivered> {
        let session = self.open_session().ok_or(Undelivered::NoNode)?;
        let (key, mark) = (to.key(), mark_of(mode));
        let needed = if session.queued_for(key) > waiting_max {
            // At the high mark, so many bytes fit when no more than these wait.
            let high = cx.settings.profile.limits.queue_bytes_high;
            NeededRoom { bytes: high.saturating_sub(waiting_max), mark: SendMark::High, by_total: false }
        } else if session.fits(key, bytes, mark) {
            return Ok(());
        } else {
            NeededRoom { bytes, mark, by_total: false }
        };
        self.await_room(cx, Some(from), to, mode, needed);
        Err(Undelivered::Busy)
    }

    /// Registers the sender of a refused message for `Writable`, if it may send the message again.
    fn await_room(
        &mut self,
        cx: &mut NodeCx,
        sender: Option<Key>,
        to: ActorId,
        mode: SendMode,
        needed: NeededRoom,
    ) {
        let (SendMode::Send | SendMode::Try) = mode else { return };
        let waiter = RoomWaiter { sender, address: to.key() };
        self.room_waiters.add(waiter, needed);
        cx.work.with_room_waiters.insert(self.node);
        self.await_least_room(to.key().actor());
    }

    /// Lets the session await the least room that a sender needs for an actor.
    fn await_least_room(&mut self, actor: Key) {
        let Some(peer_session) =
            self.peer_session.as_mut().filter(|peer_session| peer_session.disconnect.is_none())
        else {
            return;
        };
        peer_session.session.stop_awaiting_room(actor);
        for mark in [SendMark::Cap, SendMark::High] {
            if let Some(bytes) = self.room_waiters.least_room(actor, mark) {
                peer_session.session.await_room(actor, bytes, mark);
            }
        }
    }

    /// Forgets that a sender awaits room for messages to an address.
    fn end_room_wait(&mut self, cx: &mut NodeCx, sender: Key, address: Key) {
        self.room_waiters.remove(RoomWaiter { sender: Some(sender), address });
        self.await_least_room(address.actor());
        if self.room_waiters.is_empty() {
            cx.work.with_room_waiters.remove(&self.node);
        }
    }

    /// Sends `Writable` to the senders for whose refused messages the queue to an actor has room again.
    pub(super) fn report_room(&mut self, actor: Key, driver: &mut impl Driver) {
        let Some(peer_session) =
            self.peer_session.as_mut().filter(|peer_session| peer_session.disconnect.is_none())
        else {
            return;
        };
        let session = &mut peer_session.session;
        let has_room = |room: NeededRoom| !room.by_total && session.fits(actor, room.bytes, room.mark);
        let ready = self.room_waiters.take_ready(actor, has_room);
        self.await_least_room(actor);
        for waiter in ready {
            driver.local().mailboxes().writable(waiter.sender, ActorId::new(self.node, waiter.address));
        }
    }

    /// Sends `Writable` to all senders that wait for room, since the queues are gone or have become shorter.
    pub(super) fn release_room_waiters(&mut self, cx: &mut NodeCx) {
        let waiters = self.room_waiters.take_all();
        self.release(cx, waiters);
    }

    fn release(&self, cx: &mut NodeCx, waiters: Vec<RoomWaiter>) {
        let node = self.node;
        let to_action =
            |waiter: RoomWaiter| LoopAction::Writable(waiter.sender, ActorId::new(node, waiter.address));
        cx.loop_actions.extend(waiters.into_iter().map(to_action));
    }

    /// Releases the senders that the total of all queues held up, when the queue to this peer is short: then it may grow in
    /// any case.
    pub(super) fn report_short_queue(&mut self, cx: &mut NodeCx, driver: &mut impl Driver) {
        if !cx.queues.has_refused {
            return;
        }
        let low = cx.settings.profile.limits.queue_bytes_low;
        if self.open_session().is_some_and(|session| session.queued_bytes() <= low) {
            let waiters = self.room_waiters.take_by_total();
            self.release(cx, waiters);
            cx.run_loop_actions(driver);
        }
    }

    pub(super) fn check_waiting_room(
        &self,
        cx: &mut NodeCx,
        budget: WaitingBudget,
        bytes: u64,
    ) -> Result<(), OutboundRefusal> {
        let limits = &cx.settings.profile.limits;
        if !self.waiting.fits(budget, bytes, limits) {
            return Err(OutboundRefusal::NoRoom { bytes, by_total: false });
        }
        let is_low = self.waiting.bytes() + bytes <= limits.queue_bytes_high;
        if matches!(budget, WaitingBudget::Actor(_)) && !is_low && cx.queues.bytes > ALL_QUEUES_MAX {
            cx.queues.has_refused = true;
            return Err(OutboundRefusal::NoRoom { bytes, by_total: true });
        }
        Ok(())
    }

    /// Sends a message that has waited for a session.
    fn send_waiting_message(
        &mut self,
        outbound: &OutboundMessage<'_>,
        receipt_number: Option<u64>,
        route: &[(NodeId, Vec<SocketAddr>)],
    ) -> Result<(), Undelivered> {
        let Some(peer_session) = &mut self.peer_session else { return Err(Undelivered::NoNode) };
        send_message(&mut peer_session.session, outbound, receipt_number, route).map_err(
            |reason| match reason {
                OutboundRefusal::NoRoom { .. } => Undelivered::Busy,
                OutboundRefusal::Other(reason) => reason,
            },
        )
    }

    /// Fails all messages and signals that wait for a session. Whether it has no session.
    pub(super) fn drop_waiting(&mut self, cx: &mut NodeCx, reason: &Undelivered) -> bool {
        if self.peer_session.is_some() {
            return false;
        }
        let waiting = self.waiting.take();
        self.count_queue(&mut cx.queues.bytes);
        let replies = cx.replies.take(self.node);
        self.release_room_waiters(cx);
        for queued in waiting {
            match queued {
                QueuedOutbound::Message { from, to, tag, receipt_number, .. } => {
                    cx.fail_message((from, to), tag, receipt_number, reason.clone());
                }
                QueuedOutbound::Signal(signal) => self.fail_signal(cx, signal, reason.clone()),
            }
        }
        cx.loop_actions.extend(
            replies.into_iter().map(|request_id| LoopAction::FailRequest(request_id, reason.clone().into())),
        );
        true
    }
}

impl NodeCx {
    /// Records what an accepted message leaves open: its receipt, and the requests whose `ReplyTo` it holds.
    fn await_outcome(&mut self, node: NodeId, outbound: &OutboundMessage<'_>, receipt_number: Option<u64>) {
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
    fn fail_message(
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

impl NodeCore {
    /// Forgets a sender that has exited.
    fn forget_room_waiter(&mut self, sender: Key) {
        let peers = &mut self.peers;
        self.cx.work.with_room_waiters.retain(|node| {
            let Some(peer) = peers.get_mut(*node) else { return false };
            peer.room_waiters.remove_sender(sender);
            !peer.room_waiters.is_empty()
        });
    }

    /// After messages were refused because of the total of all queues: releases their senders when it has decreased.
    pub(super) fn report_room_to_all(&mut self, driver: &mut impl Driver) {
        if !self.cx.queues.has_refused || self.cx.queues.bytes > ALL_QUEUES_MAX / 8 * 7 {
            return;
        }
        self.cx.queues.has_refused = false;
        for node in self.cx.work.with_room_waiters.iter().copied().collect::<Vec<_>>() {
            let Some(peer) = self.peers.get_mut(node) else { continue };
            let waiters = peer.room_waiters.take_by_total();
            peer.release(&mut self.cx, waiters);
        }
        self.cx.run_loop_actions(driver);
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
        peer.check_waiting_room(&mut self.cx, WaitingBudget::of_message(outbound.to), bytes)?;
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
    pub(super) fn push_waiting(&mut self, node: NodeId, queued: QueuedOutbound) -> Result<(), Undelivered> {
        let until = self.cx.now + UNREACHED_AFTER;
        let Some(peer) = self.peers.get_mut(node) else { return Err(Undelivered::NoNode) };
        let Some(at) = peer.locations.first().copied() else { return Err(Undelivered::NoNode) };
        let first = peer.waiting.is_empty();
        if first {
            let is_dialled = self.discovery.dialer.dial_node(&mut self.cx, &mut self.peers, node, at, until);
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
        self.peers.note_use(&mut self.cx, node);
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
        self.discovery.dialer.dial_node(&mut self.cx, &mut self.peers, node, at, until);
    }

    /// Sends all waiting messages and signals, in order, after a session has started.
    pub(super) fn send_waiting(&mut self, node: NodeId) {
        let Some(peer) = self.peers.get_mut(node) else { return };
        let queue = peer.waiting.take();
        peer.count_queue(&mut self.cx.queues.bytes);
        for queued in queue {
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
                        is_checked: true,
                        nodes: &nodes,
                        requests: &[],
                    };
                    let Some(peer) = self.peers.get_mut(node) else { return };
                    if let Err(reason) = peer.send_waiting_message(&outbound, receipt_number, &route) {
                        if let Destination::Request(node, request_id) = to {
                            let reason = AskError::from_reply(&reason);
                            self.signal_peer(Signal::ReplyDropped { node, request_id, reason });
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

    /// Fails the waiting messages of a node that was not reached in time.
    pub(super) fn on_unreached(&mut self, node: NodeId, driver: &mut impl Driver) {
        // The timer may be that of earlier messages: there may have been a session since.
        if self.peers.get(node).is_some_and(|peer| self.cx.now >= peer.waiting.until) {
            self.peers.drop_waiting(&mut self.cx, node, &Undelivered::NoNode);
            self.cx.run_loop_actions(driver);
        }
    }

    /// The locations of the nodes that the addresses in a message name. The peer may not know these nodes.
    fn route_of(&self, peer: NodeId, nodes: &[NodeId]) -> Vec<(NodeId, Vec<SocketAddr>)> {
        let third_nodes = nodes.iter().filter(|node| **node != peer && **node != self.cx.me);
        third_nodes.map(|node| (*node, self.peers.locations_of(&self.cx, *node))).collect()
    }
}

fn send_message(
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

const TOO_MANY_ADDRESSES: &str =
    "the locations of the nodes whose addresses it holds are too long; send fewer addresses at once";

/// Whether a message needs a receipt: its sender asked for one, or requests wait for replies from its receiver.
fn wants_receipt(outbound: &OutboundMessage<'_>) -> bool {
    let is_message = matches!(outbound.to, Destination::Actor(_));
    matches!(outbound.mode, SendMode::Receipt(_)) || (is_message && !outbound.requests.is_empty())
}
