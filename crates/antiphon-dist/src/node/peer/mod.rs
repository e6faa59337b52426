//! Another node, as this one knows it: its locations, its session, and what waits for it or came from it.
//!
//! A peer sees neither other peers nor the table of them. What is shared it gets as an argument.
//!
//! When the mailbox of an actor is more than half full, or the actor uses half of its share of the byte budget, the peer is
//! asked to hold back its frames for that actor. A message for a full mailbox waits in the backlog of its peer. The free
//! places of a mailbox go in turn to all that wait for them.
//!
//! Invariant: a message is never refused because time passes while its session lasts.

pub(super) mod backlog;
pub(super) mod disconnect;
pub(super) mod idle_close;
pub(super) mod mailbox_budget;
#[cfg(test)]
mod monitor_tests;
pub(super) mod monitors;
pub(super) mod outbound_signals;
pub(super) mod payload_faults;
pub(super) mod receipts;
pub(super) mod room_waiters;
pub(super) mod session;
pub(super) mod signals;
pub(super) mod state;
pub(super) mod waiting_outbound;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use antiphon_sched::{
    ActorId, AskError, DeadLetter, Delivery, Destination, EncodedValue, ExitReason, Key, MonitorId, NodeId,
    Origin, OutboundMessage, OverBudget, PayloadError, QueueRoom, RequestId, RoomMark, SendMode, Signal,
    SignalKind, SignalPolicy, Time, Undelivered, with_origin,
};
use antiphon_wire::frame::{
    Answer, Close, CloseReason, Down, DownReason, Goodbye, GoodbyeReason, IdleAgreed, IdleProposed, Message,
    NodeAt, PayloadRefused, ReplyDroppedReason,
};
use antiphon_wire::{Frame, Limits, Locations, Pair, SendMark, SendRefused, Session, SessionError};

use crate::certificates::Fingerprint;
use crate::error::{DialError, Status};
use crate::location::Location;
use crate::node::context::NodeCx;
use crate::node::driver::{Driver, Output};
use crate::node::inspection::{PeerInfo, SessionInfo};
use crate::node::outbound::{
    ALL_QUEUES_MAX, OutboundRefusal, SHORT_ROUTE_NODES, mark_of, send_message, wants_receipt,
};
use crate::node::peers::known_nodes::{Ended, Naming};
use crate::node::peers::token_bucket::TokenBucket;
use crate::node::receipts::Withdrawal;
use crate::node::timers::NodeTimer;
use crate::node::{LoopAction, NO_ACTOR};
use crate::peer_limits::PeerLimits;
use antiphon_wire as wire;
use backlog::{Backlog, BacklogEntry, BacklogItem};
use disconnect::Disconnect;
use idle_close::{CHECK_EVERY, IDLE_FOR, IdleStage, PAUSE_LAST, TAGS_AT_REST_MAX, frame_counts};
use mailbox_budget::{MailboxBudget, PeerBudget, SharePart};
use monitors::PeerMonitors;
use outbound_signals::{NodeHint, send_reply_dropped, send_signal};
use payload_faults::{
    TOO_MANY_TYPES, check_body, check_inbound, check_size, encode_error, error_of, send_refusal,
};
use receipts::{BATCHES_PAUSED, MessageInfo, send_receipt};
use room_waiters::{NeededRoom, RoomWaiter, RoomWaiters};
use session::{FrameEffect, Inquiry, InquiryEnd, NodeFrame, PeerSession, ReceivedFrames, Successor};
use signals::{BY_TARGET, SignalRules, body_bytes, bytes_of_reason, sender_of, without_value};
use state::{Gone, PeerState};
use waiting_outbound::{QueuedOutbound, WaitingBudget, WaitingOutbound, message_bytes, signal_bytes};

/// Another node, as this one knows it.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) node: NodeId,
    pub(super) name: String,
    /// The locations at which this node may dial it.
    pub(super) locations: Vec<SocketAddr>,
    /// The location that actors see. The peer states it, so this node does not dial it for that reason alone.
    pub(super) shown_location: Option<SocketAddr>,
    /// The location at which this node reached it last by a dial, which the peer need not state.
    pub(super) reached_at: Option<SocketAddr>,
    /// A location that it states, at which a dial has found it while it was connected.
    pub(super) found_at: Option<SocketAddr>,
    /// All locations that the peer states, best first. This node passes them on to other nodes.
    pub(super) stated_locations: Vec<SocketAddr>,
    /// The peer takes no part in discovery: this node does not name it there.
    pub(super) undiscovered: bool,
    /// The certificate that the peer presented, if TLS is in use. Meaningless before the first session.
    pub(super) certificate: Option<Fingerprint>,
    /// The other end of its last connection.
    pub(super) remote: Option<IpAddr>,
    /// The origin of its messages, with the count of its open requests.
    pub(super) origin: Option<Origin>,
    /// The bytes of its messages that wait at this node.
    pub(super) budget: MailboxBudget,
    /// Its messages and signals that wait for mailboxes.
    pub(super) backlog: Backlog,
    /// The actors of this node that await room for messages to it.
    pub(super) room_waiters: RoomWaiters,
    pub(super) state: PeerState,
    /// Why dials of the peer are refused, while it has no connection.
    pub(super) refusal: Option<DialError>,
    /// Messages and signals that wait for a session.
    pub(super) waiting: WaitingOutbound,
    /// What the node's total has of this peer's queues, in bytes.
    counted_queue: u64,
    /// Whether its connection stays open when nothing needs it. `None` means the setting of this node.
    pub(super) keep_open: Option<bool>,
    /// One of the two nodes has ended their session, and neither has connected again since.
    pub(super) no_auto_dial: bool,
    pub(super) monitors: PeerMonitors,
    /// How it has become known, if it was never met.
    pub(super) naming: Option<Naming>,
    /// How many nodes it may name.
    pub(super) namings: TokenBucket,
    /// Its place among the incarnations whose sessions have ended.
    pub(super) ended: Option<Ended>,
}

impl Peer {
    /// The bytes that wait to be transmitted to it, or for a session.
    pub(super) fn queued_bytes(&self) -> u64 {
        let session = self.state.session().map_or(0, |peer_session| peer_session.session.queued_bytes());
        session + self.waiting.bytes()
    }

    /// Counts its queues in the total of all peers.
    pub(super) fn count_queue(&mut self, total: &mut u64) {
        let queued = self.queued_bytes();
        *total = *total - self.counted_queue + queued;
        self.counted_queue = queued;
    }

    /// Notes that its session has, or may have, something to transmit.
    pub(super) fn mark_dirty(&mut self, cx: &mut NodeCx) {
        self.count_queue(&mut cx.queues.bytes);
        if let Some(peer_session) = self.state.session_mut()
            && !peer_session.dirty
        {
            peer_session.dirty = true;
            cx.work.dirty.push(self.node);
        }
    }

    /// Sets the timer of its session to the next deadline.
    pub(super) fn arm_session(&mut self, cx: &mut NodeCx) {
        let Some(peer_session) = self.state.session_mut() else { return };
        let due = peer_session.session.poll_timeout();
        match (due, peer_session.timer) {
            (Some(at), None) => {
                peer_session.timer = Some(at);
                cx.timers.add(at, NodeTimer::Session(self.node));
            }
            (Some(at), Some(timer)) if at < timer => {
                cx.timers.remove(timer, NodeTimer::Session(self.node));
                peer_session.timer = Some(at);
                cx.timers.add(at, NodeTimer::Session(self.node));
            }
            // The timer fires before the deadline, and is set again then.
            (Some(_) | None, _) => {}
        }
    }

    /// Logs that it exceeds one of its limits. `what` is the predicate of the line's sentence.
    pub(super) fn log_refused(&self, cx: &mut NodeCx, kind: &'static str, what: &'static str) {
        let node = self.node;
        if cx.log.may_about_node(cx.now, kind, node) {
            tracing::warn!(%node, name = self.name, "a peer {what}, and is refused (logged at most once an hour)");
        }
    }

    pub(super) fn new(node: NodeId, name: &str, locations: Vec<SocketAddr>) -> Self {
        Self {
            node,
            name: name.to_owned(),
            shown_location: locations.first().copied(),
            stated_locations: locations.clone(),
            reached_at: None,
            found_at: None,
            undiscovered: false,
            locations,
            certificate: None,
            remote: None,
            origin: None,
            budget: MailboxBudget::default(),
            backlog: Backlog::default(),
            room_waiters: RoomWaiters::default(),
            state: PeerState::Unmet,
            refusal: None,
            waiting: WaitingOutbound::default(),
            counted_queue: 0,
            keep_open: None,
            no_auto_dial: false,
            monitors: PeerMonitors::new(node),
            naming: None,
            namings: TokenBucket::default(),
            ended: None,
        }
    }

    /// After the end of its session: frees what nothing refers to.
    pub(super) fn release_unused(&mut self) {
        self.budget.release_unused();
        self.origin.take_if(|origin| origin.requests() == 0);
    }

    pub(super) fn location(&self) -> Option<Location> {
        self.shown_location.map(Location::new)
    }

    /// The reason for what cannot be sent to the peer, which has no session.
    pub(super) fn undelivered(&self) -> Undelivered {
        self.refusal
            .map_or(Undelivered::NoNode, |refusal| Undelivered::NodeRefused(refusal.to_string().into()))
    }

    pub(super) fn session(&self) -> Option<&PeerSession> {
        self.state.session()
    }

    pub(super) fn session_mut(&mut self) -> Option<&mut PeerSession> {
        self.state.session_mut()
    }

    /// Its status for actors; `None` before the first session.
    pub(super) fn status(&self) -> Option<Status> {
        self.state.status()
    }

    /// Whether there is a session with it.
    pub(super) fn is_online(&self) -> bool {
        self.state.session().is_some()
    }

    /// Whether another incarnation runs at its location.
    pub(super) fn is_replaced(&self) -> bool {
        self.state.gone() == Some(Gone::Replaced)
    }

    /// The locations at which it is shown, may be dialled, or was reached.
    pub(super) fn all_locations(&self) -> impl Iterator<Item = SocketAddr> {
        let found = self.reached_at.iter().chain(&self.found_at);
        self.locations.iter().chain(&self.shown_location).chain(found).copied()
    }

    /// Whether the peer is shown at this location, or may be dialled there.
    pub(super) fn is_at(&self, at: SocketAddr) -> bool {
        self.shown_location == Some(at) || self.locations.contains(&at)
    }

    /// Whether dials of this location concern the peer.
    pub(super) fn is_dialled_at(&self, at: SocketAddr) -> bool {
        self.is_at(at) || self.was_found_at(at)
    }

    /// Whether there is a session with the peer, and this node has found it at this location. What the peer states is not enough: a
    /// member may state the location of another node.
    pub(super) fn was_reached_at(&self, at: SocketAddr) -> bool {
        let peer_session = self.state.session();
        peer_session.is_some_and(|peer_session| peer_session.dialled == Some(at) || self.was_found_at(at))
    }

    /// Whether a dial of this node has found the peer at this location.
    pub(super) fn was_found_at(&self, at: SocketAddr) -> bool {
        self.reached_at == Some(at) || self.found_at == Some(at)
    }

    /// Whether there is a session with the peer, and it is at this location, or states it.
    pub(super) fn has_session_at(&self, at: SocketAddr) -> bool {
        let peer_session = self.state.session();
        peer_session.is_some_and(|peer_session| peer_session.dialled == Some(at) || self.is_at(at))
    }

    /// Whether it has a connection, or a session that needs none.
    pub(super) fn needs_no_dial(&self) -> bool {
        let peer_session = self.state.session();
        peer_session.is_some_and(|peer_session| peer_session.is_connected() || peer_session.is_resting())
    }

    pub(super) fn monitors_len(&self) -> usize {
        self.monitors.len()
    }

    /// Whether there are no monitors between the two nodes, and nothing waits for the peer or came from it and waits.
    pub(super) fn has_nothing_open(&self) -> bool {
        self.monitors_len() == 0 && self.is_forgettable()
    }

    /// Whether nothing waits for the node or came from it.
    fn is_forgettable(&self) -> bool {
        self.waiting.is_empty() && !self.backlog.has_entries() && self.room_waiters.is_empty()
    }

    pub(super) fn backlog_bytes(&self) -> u64 {
        self.backlog.bytes()
    }

    /// The bytes that this node holds for the peer, whatever the node's own actors have sent to it.
    pub(super) fn held_bytes(&self) -> u64 {
        let session = self.state.session().map_or(0, |peer_session| peer_session.session.held_bytes());
        session + self.budget.bytes() + self.waiting.bytes() + self.monitors_len() as u64 * MONITOR_BYTES
    }

    /// The most bytes that a node with these limits holds for a peer.
    fn held_bytes_max(limits: &Limits, peer_limits: &PeerLimits) -> u64 {
        let waiting = 3 * limits.queue_bytes_cap;
        let monitors = 2 * peer_limits.monitors_max as u64 * MONITOR_BYTES;
        Session::held_bytes_max(limits) + PeerBudget::bytes_max(limits) + waiting + monitors
    }

    pub(super) fn check(&self, limits: &Limits, peer_limits: &PeerLimits) {
        let (held, most) = (self.held_bytes(), Peer::held_bytes_max(limits, peer_limits));
        assert!(held <= most, "{held} bytes are held for {}, and the limits allow {most}", self.name);
        self.waiting.check();
        self.backlog.check();
        self.monitors.check();
        if let Some(peer_session) = self.state.session() {
            peer_session.session.check();
            assert!(
                self.waiting.is_empty() || peer_session.disconnect.is_some(),
                "messages wait for a session only while there is none, or while it is being ended"
            );
            assert_eq!(
                peer_session.is_connected(),
                peer_session.session.is_connected(),
                "the session and its entry agree on the connection"
            );
        }
    }

    /// What [`NetHandle::peer_infos`](crate::NetHandle::peer_infos) shows of it.
    pub(super) fn info(&self, now: Time) -> PeerInfo {
        let session = self.state.session().map(|peer_session| SessionInfo {
            age: now.since(peer_session.started),
            suite: peer_session.session.suite(),
            is_idle: peer_session.is_resting(),
            round_trip: peer_session.session.round_trip(),
            frames_sent: peer_session.session.frames_sent(),
            frames_received: peer_session.session.frames_received(),
        });
        PeerInfo {
            node: self.node,
            name: self.name.clone(),
            location: self.location(),
            status: self.status(),
            refusal: self.refusal,
            certificate: self.certificate,
            session,
            queued_bytes: self.queued_bytes(),
            inbound_bytes: self.budget.bytes(),
            monitors: self.monitors_len(),
        }
    }

    /// Measures the round-trip time, if it is connected.
    pub(super) fn ping(&mut self, cx: &mut NodeCx) {
        if let Some(peer_session) = self.state.session_mut()
            && peer_session.is_connected()
        {
            peer_session.session.ping(cx.now);
            self.mark_dirty(cx);
        }
    }

    // Access.

    /// Whether the peer may reach an actor; `to` is any of the actor's keys.
    pub(super) fn may_reach(&self, cx: &NodeCx, to: Key) -> bool {
        cx.access.allows(to, &self.name, self.certificate)
    }

    /// As [`Self::may_reach`]; also counts a refusal, and logs it at a limited rate.
    pub(super) fn check_reach(&self, cx: &mut NodeCx, to: Key) -> bool {
        let is_open = self.may_reach(cx, to);
        if !is_open {
            let node = self.node;
            cx.counts.refusals.access += 1;
            if cx.may_log("access", node) {
                tracing::warn!(%node, name = self.name, %to, "the access policy of an actor refuses a peer (logged at most once an hour)");
            }
        }
        is_open
    }

    /// Sends it a ping, which it must answer within [`NodeCx::answer_within`]. Returns when the ping was sent that it has to answer;
    /// `None` without a session.
    pub(super) fn inquire(&mut self, cx: &mut NodeCx, successor: Option<Successor>) -> Option<Time> {
        let peer_session = self.state.session_mut()?;
        if let Some(inquiry) = &mut peer_session.inquiry {
            inquiry.successor = successor.or(inquiry.successor);
            return Some(inquiry.since);
        }
        peer_session.inquiry = Some(Inquiry { since: cx.now, successor });
        peer_session.session.ping(cx.now);
        self.mark_dirty(cx);
        cx.timers.add(cx.now + cx.answer_within(), NodeTimer::Predecessor(self.node));
        Some(cx.now)
    }

    /// A timer of [`Self::inquire`] is due, or its connection is lost.
    pub(super) fn end_inquiry(&mut self, cx: &NodeCx) -> InquiryEnd {
        let Some(peer_session) = self.state.session_mut() else {
            return InquiryEnd::Over { unanswered: None };
        };
        let Some(inquiry) = &peer_session.inquiry else { return InquiryEnd::Over { unanswered: None } };
        let is_connected = peer_session.is_connected();
        if is_connected && cx.now < inquiry.since + cx.answer_within() {
            return InquiryEnd::Pending;
        }
        let has_answered = is_connected && peer_session.session.last_received() >= inquiry.since;
        let unanswered = inquiry.successor.filter(|_| !has_answered);
        peer_session.silent_since = (!has_answered).then_some(inquiry.since);
        peer_session.inquiry = None;
        InquiryEnd::Over { unanswered }
    }

    // Received frames.

    pub(super) fn frames_received(&self) -> ReceivedFrames {
        self.state.session().map_or_else(ReceivedFrames::default, |peer_session| ReceivedFrames {
            numbered: peer_session.session.frames_received(),
            control: peer_session.session.control_frames_received(),
        })
    }

    pub(super) fn next_record<'d>(
        &mut self,
        now: Time,
        deframer: &'d mut wire::Deframer,
    ) -> Result<Option<wire::Frames<'d>>, SessionError> {
        let Some(peer_session) = self.state.session_mut() else { return Ok(None) };
        peer_session.session.next_record(now, deframer)
    }

    pub(super) fn next_frame<'d>(
        &mut self,
        now: Time,
        frames: &mut wire::Frames<'d>,
    ) -> Result<Option<wire::Incoming<'d>>, SessionError> {
        let Some(peer_session) = self.state.session_mut() else { return Ok(None) };
        peer_session.session.next_frame(now, frames)
    }

    /// Seals the frames of its session into the buffer of its connection. Whether it rests, and needs a connection now.
    pub(super) fn transmit(&mut self, cx: &mut NodeCx, driver: &mut impl Driver) -> bool {
        let Some(peer_session) = self.state.session_mut() else { return false };
        peer_session.dirty = false;
        if let Some(id) = peer_session.conn()
            && let Some(conn) = cx.connections.get(id)
        {
            let (before, frames) = (conn.out.len(), peer_session.session.frames_sent());
            peer_session.seal_into(cx.now, &mut conn.out);
            cx.steps += peer_session.session.frames_sent() - frames;
            if conn.out.len() > before {
                driver.output(Output::Write(id));
            }
        }
        let is_needed = peer_session.is_resting() && !peer_session.session.is_idle();
        self.count_queue(&mut cx.queues.bytes);
        is_needed
    }

    /// Appends a `Close` for the log of a peer that broke the protocol. The end of the session writes it.
    pub(super) fn send_misbehaved(&mut self, cx: &mut NodeCx) {
        let close = Close { reason: CloseReason::Misbehaved };
        if let Some(peer_session) = self.state.session_mut()
            && let Some(conn) = peer_session.conn().and_then(|id| cx.connections.get(id))
            && peer_session.session.send_control(&close.into()).is_ok()
        {
            peer_session.seal_into(cx.now, &mut conn.out);
        }
    }

    // The end of its session.

    /// Sends it a goodbye, behind the frames that were sent before.
    pub(super) fn say_goodbye(&mut self, cx: &mut NodeCx, reason: GoodbyeReason) {
        let Some(peer_session) = self.state.session_mut() else { return };
        if let Err(reason) = peer_session.session.send(&Goodbye { reason }.into()) {
            tracing::debug!(node = %self.node, %reason, "the goodbye to a peer was not sent");
        }
        self.mark_dirty(cx);
    }

    /// The disconnect of its session, if there is one.
    pub(super) fn disconnect(&mut self) -> Option<&mut Disconnect> {
        self.state.session_mut()?.disconnect.as_mut()
    }

    /// Begins to end its session. `false` if there is none.
    pub(super) fn start_disconnect(
        &mut self,
        cx: &mut NodeCx,
        reason: GoodbyeReason,
        within: Duration,
    ) -> bool {
        let Some(peer_session) = self.state.session_mut() else { return false };
        if peer_session.disconnect.is_none() {
            let until = cx.now + within;
            peer_session.disconnect = Some(Disconnect {
                reason,
                goodbye_sent: false,
                until,
                request_ids: Vec::new(),
                outcome: Ok(()),
            });
            cx.timers.add(until, NodeTimer::Disconnect(self.node));
            // Also now: without unacknowledged frames, no acknowledgement would advance the disconnect.
            cx.timers.add(cx.now, NodeTimer::Disconnect(self.node));
        }
        true
    }

    /// Sends the goodbye of a disconnect, once.
    pub(super) fn send_goodbye(&mut self, cx: &mut NodeCx) {
        let Some(disconnect) = self.disconnect() else { return };
        if !std::mem::replace(&mut disconnect.goodbye_sent, true) {
            let reason = disconnect.reason;
            self.say_goodbye(cx, reason);
        }
    }

    /// At the end of its session: its backlog stays until it expires.
    pub(super) fn end_backlog_session(&mut self, cx: &mut NodeCx, expires: Time, driver: &mut impl Driver) {
        for (actor, ticket) in self.backlog.end_session(expires) {
            driver.local().mailboxes().cancel_wait(actor, ticket);
        }
        if self.backlog.has_entries() {
            cx.timers.add(expires, NodeTimer::Backlog(self.node));
        }
    }

    /// After the end of its session: sends a `Down` to a local watcher, behind what waits for its mailbox.
    pub(super) fn report_node_lost(
        &mut self,
        cx: &mut NodeCx,
        expires: Time,
        (watcher, id, actor): (Key, MonitorId, ActorId),
        driver: &mut impl Driver,
    ) {
        if !self.backlog.has_entries_for(watcher.actor()) {
            return driver.local().signals().down(watcher, id, actor, ExitReason::NodeLost);
        }
        let item = BacklogItem::NodeLost { watcher, id, actor };
        self.add_entry(cx, watcher.actor(), item, Some(expires), driver);
        cx.timers.add(expires, NodeTimer::Backlog(self.node));
    }

    // Frames and signals of the peer.

    /// Handles a frame. What concerns more than this peer and the actors of this node is returned.
    pub(super) fn on_frame<'f>(
        &mut self,
        cx: &mut NodeCx,
        frame: Frame<'f>,
        driver: &mut impl Driver,
    ) -> FrameEffect<'f> {
        let peer = self.node;
        let from = |key| (key != NO_ACTOR).then(|| ActorId::new(peer, key));
        let me = cx.me;
        let to = |key| ActorId::new(me, key);
        let signal = match frame {
            Frame::Message(message) => return self.on_message(cx, &message, driver),
            Frame::Answer(answer) => {
                self.on_answer(cx, &answer, driver);
                return FrameEffect::of_route(answer.route);
            }
            Frame::ReplyDropped(dropped) => {
                let request_id = RequestId::from_bits(dropped.request_id.to_bits());
                let error = match dropped.reason {
                    ReplyDroppedReason::Dropped => AskError::Dropped,
                    ReplyDroppedReason::Busy => AskError::Busy,
                    ReplyDroppedReason::Payload(fault) => AskError::Reply(error_of(fault)),
                };
                driver.local().requests().fail_from_peer(request_id, error);
                return FrameEffect::Continue;
            }
            Frame::Receipt(receipt) => {
                cx.receipts.on_receipt(peer, &receipt, &mut cx.timers, driver);
                return FrameEffect::Continue;
            }
            Frame::PayloadRefused(refused) => {
                self.on_payload_refused(cx, &refused);
                return FrameEffect::Continue;
            }
            Frame::Monitor(monitor) => {
                let kind = SignalKind::Monitor(self.monitor_id(cx, monitor.id & !BY_TARGET, true));
                Signal { from: from(monitor.watcher), to: to(monitor.target), kind }
            }
            Frame::Demonitor(demonitor) => {
                let kind = SignalKind::Demonitor(self.monitor_id(cx, demonitor.id, true));
                Signal { from: from(demonitor.watcher), to: to(demonitor.target), kind }
            }
            Frame::Notify(notify) => {
                let kind = SignalKind::Notify(self.monitor_id(cx, notify.id | BY_TARGET, false));
                Signal { from: from(notify.target), to: to(notify.watcher), kind }
            }
            Frame::Down(down) => {
                let id = self.monitor_id(cx, down.id, false);
                let reason = self.reason_of(&down);
                match self.end_monitor(cx, id, reason) {
                    Some(signal) => signal,
                    None => return FrameEffect::Continue,
                }
            }
            Frame::Terminate(terminate) => {
                let kind = SignalKind::Terminate { grace: terminate.grace.map(Duration::from_millis) };
                Signal { from: from(terminate.from), to: to(terminate.target), kind }
            }
            Frame::Throw(throw) => match self.value_of(throw.tag, throw.body) {
                Ok(value) => {
                    Signal { from: from(throw.from), to: to(throw.target), kind: SignalKind::Throw(value) }
                }
                Err(reason) => return self.refuse_value(cx, (throw.from, throw.target), &reason),
            },
            Frame::Resume(resume) => match self.value_of(resume.tag, resume.body) {
                Ok(value) => {
                    Signal { from: from(resume.from), to: to(resume.target), kind: SignalKind::Resume(value) }
                }
                Err(reason) => return self.refuse_value(cx, (resume.from, resume.target), &reason),
            },
            Frame::Lagged(lagged) => {
                let kind = SignalKind::Lagged { missed: lagged.missed, ended: lagged.ended };
                Signal { from: from(lagged.from), to: to(lagged.to), kind }
            }
            Frame::Goodbye(goodbye) => return FrameEffect::Goodbye(goodbye.reason),
            Frame::Close(close) => return self.on_close(close),
            Frame::IdleAgreed(agreed) => {
                self.on_idle_agreed(agreed);
                return FrameEffect::Continue;
            }
            Frame::Lookup(lookup) => return FrameEffect::Node(NodeFrame::Lookup(lookup)),
            Frame::CancelLookup(cancel) => return FrameEffect::Node(NodeFrame::CancelLookup(cancel)),
            Frame::Found(found) => return FrameEffect::Node(NodeFrame::Found(found)),
            Frame::NodeAt(hint) => return FrameEffect::Node(NodeFrame::NodeAt(hint)),
            Frame::AnnounceRelay(relay) => return FrameEffect::Node(NodeFrame::AnnounceRelay(relay)),
            Frame::IdleProposed(proposed) => return FrameEffect::Node(NodeFrame::IdleProposed(proposed)),
            // The session itself has handled these.
            Frame::Tag(_)
            | Frame::Begin(_)
            | Frame::Ack(_)
            | Frame::Credit(_)
            | Frame::Ping(_)
            | Frame::Pong(_)
            | Frame::Pause(_)
            | Frame::Unpause(_)
            | Frame::Fragment(_) => return FrameEffect::Continue,
        };
        self.on_signal(cx, signal, driver);
        FrameEffect::Continue
    }

    /// The id of a monitor by its number in a frame. The peer is the node of the watcher or that of the target.
    fn monitor_id(&self, cx: &NodeCx, number: u64, peer_is_watcher: bool) -> MonitorId {
        let by_target = number & BY_TARGET != 0;
        let origin = if by_target == peer_is_watcher { cx.me } else { self.node };
        MonitorId { origin, number: number & !BY_TARGET }
    }

    fn on_answer(&mut self, cx: &mut NodeCx, answer: &Answer<'_>, driver: &mut impl Driver) {
        let request_id = RequestId::from_bits(answer.to.to_bits());
        let Some(peer_session) = self.state.session_mut() else { return };
        let result = match check_inbound(peer_session.session.tag_name(answer.tag), answer.body) {
            Ok(tag) => match self.budget.acquire_for_reply(&cx.budgets, answer.body.len()) {
                Ok(permit) => driver.local().with_permit(permit, |local| {
                    local.requests().complete_encoded(request_id, tag, answer.body)
                }),
                Err(OverBudget { .. }) => {
                    driver.local().requests().fail_from_peer(request_id, AskError::Busy);
                    Err(Undelivered::Full)
                }
            },
            Err(reason) => {
                driver.local().requests().fail_from_peer(request_id, AskError::Reply(reason.clone()));
                Err(Undelivered::Payload(reason))
            }
        };
        let Err(reason) = result else { return };
        if reason == Undelivered::Busy {
            self.refuse_request(cx);
        }
        // Most of these replies are late: the request has failed with `TimedOut` before. Others have no room in the
        // budget, or do not decode.
        let node = self.node;
        if let Undelivered::Payload(error) = &reason
            && cx.may_log("reply refused", format_args!("{node}"))
        {
            tracing::warn!(%node, reason = %error, "a reply from a peer was refused (logged at most once an hour for each peer)");
            self.send_refusal((answer.from, answer.to), error);
        }
        tracing::debug!(%reason, "a reply was dropped");
        cx.counts.refused_messages += 1;
    }

    /// Informs the peer that a payload was refused.
    pub(super) fn send_refusal(&mut self, ends: (Key, Key), reason: &PayloadError) {
        if let Some(peer_session) = self.state.session_mut() {
            send_refusal(&mut peer_session.session, self.node, ends, reason);
        }
    }

    fn value_of(&self, tag: antiphon_wire::TagId, body: &[u8]) -> Result<EncodedValue, PayloadError> {
        let tag_name = self.state.session().and_then(|peer_session| peer_session.session.tag_name(tag));
        Ok(EncodedValue::new(check_inbound(tag_name, body)?, body))
    }

    /// Counts and logs a `throw` or `resume` whose value cannot be read.
    fn refuse_value<'f>(
        &mut self,
        cx: &mut NodeCx,
        ends: (Key, Key),
        reason: &PayloadError,
    ) -> FrameEffect<'f> {
        let node = self.node;
        cx.counts.refused_messages += 1;
        if cx.may_log("value refused", format_args!("{node}")) {
            tracing::warn!(%node, %reason, "a `throw` or `resume` of a peer was refused (logged at most once an hour for each peer)");
            self.send_refusal(ends, reason);
        }
        FrameEffect::Continue
    }

    /// The peer has refused a payload of this node.
    fn on_payload_refused(&self, cx: &mut NodeCx, refused: &PayloadRefused<'_>) {
        let (node, from) = (self.node, ActorId::new(cx.me, refused.from));
        if cx.log.may_about_node(cx.now, "refused by peer", node) {
            let (to, reason) = (refused.to, error_of(refused.fault));
            tracing::warn!(%node, %from, %to, %reason, "a peer has refused a message or reply of this actor (logged at most once an hour for each peer)");
        }
    }

    /// Applies a signal, or queues it behind earlier messages for the same actor. An urgent signal overtakes them.
    fn on_signal(&mut self, cx: &mut NodeCx, signal: Signal, driver: &mut impl Driver) {
        let (actor, rules) = (signal.to.key().actor(), SignalRules::of(&signal.kind));
        let must_wait = self.backlog.has_entries_for(actor)
            || (rules.needs_room && driver.local().mailboxes().is_flooded(actor));
        if must_wait && !rules.is_urgent {
            self.push_to_backlog(cx, actor, BacklogItem::Signal(signal), driver);
        } else {
            self.apply_signal(cx, signal, driver);
        }
    }

    /// Applies a signal. For the peer, an actor that is not exposed to it does not exist.
    pub(super) fn apply_signal(&mut self, cx: &mut NodeCx, signal: Signal, driver: &mut impl Driver) {
        let (bytes, rules) = (body_bytes(&signal.kind), SignalRules::of(&signal.kind));
        let Signal { from, to, kind } = signal;
        let from = from.unwrap_or(ActorId::new(self.node, NO_ACTOR));
        let target = to.key();
        let is_exposed =
            driver.local().is_exposed(target) && (rules.is_always_admitted || self.check_reach(cx, target));
        let policy = driver.local().signals().signal_policy_of(target);
        let (is_open, may_terminate) = (policy == SignalPolicy::All, policy != SignalPolicy::None);
        let monitors_max = cx.settings.peer_limits.monitors_max;
        let (local_watchers, remote_watchers) = self.monitors.set_by_peer();
        match kind {
            // The monitor is set already.
            SignalKind::Monitor(id) if self.monitors.has_remote_watcher(target, id) => {}
            SignalKind::Monitor(id) if remote_watchers >= monitors_max => {
                self.refuse_monitor(cx);
                driver.local().signals().refuse_monitor(target, id, from, ExitReason::Refused);
            }
            SignalKind::Monitor(id) if !is_exposed => {
                driver.local().signals().refuse_monitor(target, id, from, ExitReason::NoActor);
            }
            SignalKind::Monitor(id) => {
                self.monitors.add_remote_watcher(target, id);
                cx.ended_sessions.keep_watcher(self.node, target, id);
                driver.local().signals().add_watcher(target, id, from);
            }
            SignalKind::Demonitor(id) => {
                // A peer can cancel only its own monitors.
                if self.monitors.remove_remote_watcher(target, id) {
                    driver.local().signals().remove_watcher(target, id);
                }
            }
            // A number that is in use is refused: the new monitor would replace the earlier one.
            SignalKind::Notify(id) if is_exposed && is_open && self.monitors.local_watcher(id).is_none() => {
                let (mut local, is_admitted) = (driver.local(), local_watchers < monitors_max);
                let watcher = target.actor();
                if !is_admitted {
                    local.signals().refuse_notify(watcher, from);
                } else if local.signals().expect_down(watcher, id, from) {
                    return self.monitors.add_local_watcher(watcher, id, from);
                }
                self.refuse_monitor(cx);
            }
            SignalKind::Down(id, reason) => self.deliver_down(cx, (target, id, from), reason, driver),
            SignalKind::Lagged { missed, ended } if is_exposed => {
                cx.deliver_lagged(target, (from, missed, ended), driver);
            }
            SignalKind::Terminate { grace } if is_exposed && may_terminate => match grace {
                Some(grace) => driver.local().signals().terminate_within(to, grace),
                None => driver.local().signals().kill(to),
            },
            SignalKind::Throw(value) if is_exposed && is_open => {
                let is_taken = self.budget.acquire_for_value(&cx.budgets, bytes).is_ok_and(|permit| {
                    driver.local().with_permit(Some(permit), |local| local.signals().throw(target, value))
                });
                cx.report_signal(is_taken, to, "throw", driver);
            }
            SignalKind::Resume(value) if is_exposed && is_open => {
                let is_taken = self.budget.acquire_for_value(&cx.budgets, bytes).is_ok_and(|permit| {
                    driver.local().with_permit(Some(permit), |local| local.signals().resume(target, value))
                });
                cx.report_signal(is_taken, to, "resume", driver);
            }
            SignalKind::Notify(_)
            | SignalKind::Lagged { .. }
            | SignalKind::Terminate { .. }
            | SignalKind::Throw(_)
            | SignalKind::Resume(_) => cx.counts.refused_messages += 1,
        }
    }

    /// Whether an address leads to an actor that is exposed, and that the peer may reach.
    fn is_open_to(&self, cx: &mut NodeCx, to: Key, driver: &mut impl Driver) -> bool {
        driver.local().is_exposed(to) && self.check_reach(cx, to)
    }

    /// Delivers a `Down` in any case, but without its value or text if there is no room for it.
    fn deliver_down(
        &mut self,
        cx: &mut NodeCx,
        (watcher, id, actor): (Key, MonitorId, ActorId),
        reason: ExitReason<EncodedValue>,
        driver: &mut impl Driver,
    ) {
        let (permit, reason) = match self.budget.acquire_for_value(&cx.budgets, bytes_of_reason(&reason)) {
            Ok(permit) => (Some(permit), reason),
            Err(OverBudget { .. }) => (None, without_value(reason)),
        };
        driver.local().with_permit(permit, |local| local.signals().down(watcher, id, actor, reason));
    }

    /// Applies a signal that waited when the session that brought it ended.
    pub(super) fn apply_late_signal(&mut self, cx: &mut NodeCx, signal: Signal, driver: &mut impl Driver) {
        let Signal { from, to, kind } = signal;
        let from = from.unwrap_or(ActorId::new(self.node, NO_ACTOR));
        let target = to.key();
        match kind {
            SignalKind::Down(id, reason) => self.deliver_down(cx, (target, id, from), reason, driver),
            // The session that it depends on has ended.
            SignalKind::Notify(id) if self.is_open_to(cx, target, driver) => {
                let mut local = driver.local();
                if local.signals().signal_policy_of(target) == SignalPolicy::All
                    && local.signals().expect_down(target, id, from)
                {
                    local.signals().down(target, id, from, ExitReason::NodeLost);
                }
            }
            SignalKind::Lagged { missed, ended } if self.is_open_to(cx, target, driver) => {
                cx.deliver_lagged(target, (from, missed, ended), driver);
            }
            SignalKind::Notify(_) | SignalKind::Lagged { .. } => cx.counts.refused_messages += 1,
            // The watcher has received its `Down` at the end of the session.
            SignalKind::Monitor(_) | SignalKind::Demonitor(_) => {}
            // Urgent signals never wait.
            SignalKind::Terminate { .. } | SignalKind::Throw(_) | SignalKind::Resume(_) => {}
        }
    }

    /// Counts and logs a message that holds a reply for a peer with too many open requests.
    pub(super) fn refuse_request(&self, cx: &mut NodeCx) {
        cx.counts.refusals.requests += 1;
        self.log_refused(cx, "requests", "has reached its limit of open requests");
    }

    fn refuse_monitor(&self, cx: &mut NodeCx) {
        cx.counts.refusals.monitors += 1;
        self.log_refused(cx, "monitors", "has reached its limit of monitors");
    }

    fn reason_of(&self, down: &Down<'_>) -> ExitReason<EncodedValue> {
        match down.reason {
            DownReason::Done(None) => ExitReason::Done(EncodedValue::Opaque),
            DownReason::DoneNotSent(fault) => ExitReason::Done(EncodedValue::NotSent(error_of(fault))),
            DownReason::Done(Some((tag, body))) => {
                ExitReason::Done(self.value_of(tag, body).unwrap_or_else(EncodedValue::NotSent))
            }
            DownReason::Failed(text) => ExitReason::Failed(text.to_owned()),
            DownReason::Panicked(text) => ExitReason::Panicked(text.to_owned()),
            DownReason::Terminated => ExitReason::Terminated,
            DownReason::NodeLost => ExitReason::NodeLost,
            DownReason::NoActor => ExitReason::NoActor,
            DownReason::Refused => ExitReason::Refused,
            DownReason::Lagged => ExitReason::Lagged,
        }
    }

    /// Removes the monitor of a local watcher, whose `Down` has arrived; `None` if there is no such monitor. A peer can report only
    /// the exits of its own actors.
    pub(super) fn end_monitor(
        &mut self,
        cx: &NodeCx,
        id: MonitorId,
        reason: ExitReason<EncodedValue>,
    ) -> Option<Signal> {
        let (watcher, actor) = self.monitors.remove_local_watcher(id)?;
        let (from, to) = (Some(actor), ActorId::new(cx.me, watcher));
        Some(Signal { from, to, kind: SignalKind::Down(id, reason) })
    }

    // Messages of the peer.

    /// Delivers a message. Returns its route, if the peer may reach the actor.
    fn on_message<'f>(
        &mut self,
        cx: &mut NodeCx,
        message: &Message<'f>,
        driver: &mut impl Driver,
    ) -> FrameEffect<'f> {
        let is_open = self.check_reach(cx, message.to);
        self.deliver_message(cx, message, is_open, driver);
        if is_open { FrameEffect::of_route(message.route) } else { FrameEffect::Continue }
    }

    fn deliver_message(
        &mut self,
        cx: &mut NodeCx,
        message: &Message<'_>,
        is_open: bool,
        driver: &mut impl Driver,
    ) {
        let (node, to, from, receipt) = (self.node, message.to, message.from, message.receipt);
        let Some(peer_session) = self.state.session() else { return };
        let tag = peer_session.session.tag_name(message.tag);
        tracing::trace!(
            target: "antiphon::messages", %node, actor = %to, tag, bytes = message.body.len(), "a message from a peer"
        );
        let (delivery, is_check_due) = match check_inbound(tag, message.body) {
            _ if !is_open => (Delivery::NoActor, false),
            Ok(_) if self.backlog.has_entries_for(to.actor()) => (Delivery::Full, false),
            Ok(tag) => self.budget.deliver(&cx.budgets, to, (tag, message.body), driver),
            Err(reason) => (Delivery::Refused(reason), false),
        };
        if delivery == Delivery::Delivered && !is_check_due && receipt.is_none() {
            return;
        }
        if delivery == Delivery::Full {
            let Some(tag) = tag.map(Box::from) else { return };
            let item = BacklogItem::Message { to, from, tag, body: message.body.into(), receipt };
            return self.push_to_backlog(cx, to.actor(), item, driver);
        }
        let info = MessageInfo { from, to, tag: tag.unwrap_or("a message of an unknown type") };
        let is_logged = self.report_delivery(cx, info, receipt.is_some(), &delivery, driver);
        self.send_outcome((from, to), receipt, &delivery, is_logged);
        if delivery == Delivery::DeliveredOverHalf
            || (is_check_due && self.uses_too_much(to.actor(), SharePart::Half, driver))
        {
            self.pause(to.actor(), driver);
        }
        if is_check_due {
            self.hold_credit(cx, to.actor(), driver);
        }
    }

    /// Takes the origin of its data, with which requests in it count against the peer's limit. The caller puts it back.
    pub(super) fn take_origin(&mut self, cx: &NodeCx) -> Origin {
        let new = || Origin::new(self.node, cx.settings.peer_limits.requests_max);
        self.origin.take().unwrap_or_else(new)
    }

    fn push_to_backlog(&mut self, cx: &mut NodeCx, actor: Key, item: BacklogItem, driver: &mut impl Driver) {
        // The credit of a `Down` is returned at once, as that of all answers: PROTOCOL.md requires it.
        let is_answer = matches!(item, BacklogItem::Signal(Signal { kind: SignalKind::Down(..), .. }));
        self.add_entry(cx, actor, item, None, driver);
        self.pause(actor, driver);
        if !is_answer {
            self.hold_credit(cx, actor, driver);
        }
    }

    /// Adds an entry to the backlog, and registers the actor for room in its mailbox.
    pub(super) fn add_entry(
        &mut self,
        cx: &mut NodeCx,
        actor: Key,
        item: BacklogItem,
        expires: Option<Time>,
        driver: &mut impl Driver,
    ) {
        let bytes = item.bytes();
        let permit = Some(self.budget.acquire_for(&cx.budgets, actor, bytes, driver));
        let is_first = !self.backlog.has_entries_for(actor);
        self.backlog.push(actor, BacklogEntry { item, bytes, permit, expires });
        if is_first {
            self.wait_for_room(actor, RoomMark::One, driver);
        }
    }

    /// Registers an actor for room in its mailbox, in the place of an earlier registration.
    fn wait_for_room(&mut self, actor: Key, mark: RoomMark, driver: &mut impl Driver) {
        let ticket = self.backlog.ticket(actor);
        let ticket = driver.local().mailboxes().wait_for_room(actor, self.node, mark, ticket);
        self.backlog.set_ticket(actor, ticket);
    }

    /// Asks the peer to hold back its frames for an actor, within its limit.
    fn pause(&mut self, actor: Key, driver: &mut impl Driver) {
        let Some(peer_session) = self.state.session_mut() else { return };
        if self.backlog.is_paused(actor) || !peer_session.session.pause(actor) {
            return;
        }
        self.backlog.set_paused(actor, true);
        if !self.backlog.has_entries_for(actor) {
            self.wait_for_room(actor, RoomMark::ThreeQuarters { batches: BATCHES_PAUSED }, driver);
        }
    }

    /// Whether an actor uses more than this part of its share of bytes; if it waits for a message that is not there, more
    /// than its whole share.
    fn uses_too_much(&self, actor: Key, part: SharePart, driver: &mut impl Driver) -> bool {
        let part = if driver.local().mailboxes().is_idle(actor) { SharePart::All } else { part };
        self.budget.uses_more_than(actor, part)
    }

    /// Holds the credit of the present frame if the peer uses too many bytes.
    fn hold_credit(&mut self, cx: &mut NodeCx, actor: Key, driver: &mut impl Driver) {
        if self.budget.must_hold_credit(&cx.budgets, Some(actor)) {
            // What is counted for actors that have taken all is removed first.
            self.budget.sweep_at_times(cx.now, driver);
        }
        if let Some(peer_session) = self.state.session_mut()
            && self.budget.must_hold_credit(&cx.budgets, Some(actor))
        {
            let credit = peer_session.session.hold();
            peer_session.held_credit.push(credit);
            cx.work.holding_credit.insert(self.node);
        }
    }

    /// Returns the credit that was held.
    pub(super) fn release_credit(&mut self, cx: &mut NodeCx) {
        let Some(peer_session) = self.state.session_mut() else { return };
        for credit in std::mem::take(&mut peer_session.held_credit) {
            peer_session.session.release(credit);
        }
        self.mark_dirty(cx);
    }

    /// Gives the free place of a mailbox to the first message that waits for it.
    pub(super) fn take_turn(&mut self, cx: &mut NodeCx, target: Key, driver: &mut impl Driver) {
        if !self.backlog.is_registered(target) {
            return;
        }
        if !self.backlog.has_entries_for(target) {
            return self.end_pause(cx, target, driver);
        }
        let origin = self.take_origin(cx);
        ((), self.origin) = with_origin(origin, || self.deliver_first(cx, target, driver));
        let mark = if self.backlog.has_entries_for(target) {
            RoomMark::One
        } else if self.backlog.is_paused(target) {
            RoomMark::ThreeQuarters { batches: BATCHES_PAUSED }
        } else {
            return self.leave_backlog(cx, target);
        };
        self.wait_for_room(target, mark, driver);
        self.mark_dirty(cx);
    }

    fn leave_backlog(&mut self, cx: &mut NodeCx, actor: Key) {
        self.backlog.remove_if_idle(actor);
        self.mark_dirty(cx);
    }

    /// Lets the peer send to an actor again, for which nothing waits any more at this node.
    fn end_pause(&mut self, cx: &mut NodeCx, actor: Key, driver: &mut impl Driver) {
        if driver.local().is_alive(actor) && self.uses_too_much(actor, SharePart::Quarter, driver) {
            return self.wait_for_room(actor, RoomMark::NextBatch, driver);
        }
        self.backlog.set_paused(actor, false);
        if let Some(peer_session) = self.state.session_mut() {
            peer_session.session.unpause(actor);
        }
        self.leave_backlog(cx, actor);
    }

    /// Delivers the first message that waits for an actor, and the signals before and behind it.
    fn deliver_first(&mut self, cx: &mut NodeCx, actor: Key, driver: &mut impl Driver) {
        let mut is_delivered = false;
        while let Some(mut entry) = self.backlog.pop(actor) {
            if let BacklogItem::Signal(signal) = &entry.item
                && SignalRules::of(&signal.kind).needs_room
                && driver.local().mailboxes().is_flooded(actor)
            {
                return self.backlog.put_back(actor, entry);
            }
            let BacklogItem::Message { to, from, tag, body, receipt } = &entry.item else {
                self.apply_entry(cx, entry, driver);
                continue;
            };
            let (to, receipt) = (*to, receipt.filter(|_| entry.expires.is_none()));
            if is_delivered {
                return self.backlog.put_back(actor, entry);
            }
            // The message counts once: in the mailbox from now on.
            entry.permit = None;
            // The access policy may have changed since the message arrived.
            let delivery = if self.may_reach(cx, to) {
                self.budget.deliver_in_turn(&cx.budgets, to, (tag, body), driver)
            } else {
                Delivery::NoActor
            };
            if delivery == Delivery::Full {
                entry.permit = Some(self.budget.acquire_for(&cx.budgets, actor, entry.bytes, driver));
                return self.backlog.put_back(actor, entry);
            }
            is_delivered = matches!(delivery, Delivery::Delivered | Delivery::DeliveredOverHalf);
            let info = MessageInfo { from: *from, to, tag };
            let is_logged = self.report_delivery(cx, info, receipt.is_some(), &delivery, driver);
            self.send_outcome((*from, to), receipt, &delivery, is_logged);
        }
    }

    /// Applies an entry that is not a message.
    fn apply_entry(&mut self, cx: &mut NodeCx, entry: BacklogEntry, driver: &mut impl Driver) {
        let is_session_over = entry.expires.is_some();
        match entry.item {
            BacklogItem::NodeLost { watcher, id, actor } => {
                driver.local().signals().down(watcher, id, actor, ExitReason::NodeLost);
            }
            BacklogItem::Signal(signal) if is_session_over => self.apply_late_signal(cx, signal, driver),
            BacklogItem::Signal(signal) => self.apply_signal(cx, signal, driver),
            BacklogItem::Message { .. } => {}
        }
    }

    /// Turns the entries of ended sessions that have expired into dead letters.
    pub(super) fn on_backlog_due(&mut self, cx: &mut NodeCx, driver: &mut impl Driver) {
        for actor in self.backlog.expired_actors(cx.now) {
            while let Some(entry) = self.backlog.pop_expired(actor, cx.now) {
                if let BacklogItem::Message { to, from, tag, .. } = &entry.item {
                    let info = MessageInfo { from: *from, to: *to, tag };
                    self.report_delivery(cx, info, false, &Delivery::Full, driver);
                } else {
                    self.apply_entry(cx, entry, driver);
                }
            }
            if !self.backlog.has_entries_for(actor) && !self.backlog.is_paused(actor) {
                driver.local().mailboxes().cancel_wait(actor, self.backlog.ticket(actor));
                self.leave_backlog(cx, actor);
            }
        }
    }

    /// Counts and logs an inbound message that was not delivered; without a receipt it becomes a dead letter. Returns whether
    /// the log has a line about its fault.
    fn report_delivery(
        &self,
        cx: &mut NodeCx,
        MessageInfo { from, to, tag }: MessageInfo<'_>,
        has_receipt: bool,
        delivery: &Delivery,
        driver: &mut impl Driver,
    ) -> bool {
        let (mut is_logged, node) = (false, self.node);
        let reason = match delivery {
            // The scheduler has recorded a dead letter for a discarded message.
            Delivery::Delivered | Delivery::DeliveredOverHalf | Delivery::Discarded => return false,
            Delivery::Full => Undelivered::Full,
            Delivery::Refused(reason) => {
                is_logged = cx.may_log("refused", format_args!("{node} {to}"));
                if is_logged {
                    tracing::warn!(%node, %to, tag, %reason, "a message from a peer was refused (logged at most once an hour for each actor)");
                }
                Undelivered::Payload(reason.clone())
            }
            Delivery::OverQuota => {
                self.refuse_request(cx);
                Undelivered::Busy
            }
            Delivery::NoActor | _ => Undelivered::NoActor,
        };
        cx.counts.refused_messages += 1;
        if !has_receipt {
            let dead_letter = DeadLetter::new(ActorId::new(cx.me, to), tag.to_owned(), reason);
            driver.local().dead_letter(dead_letter.sent_by(Some(ActorId::new(node, from))));
        }
        is_logged
    }

    /// Sends the receipt of a message. Without a receipt the peer is informed of a fault that this node has logged.
    fn send_outcome(&mut self, ends: (Key, Key), receipt: Option<u64>, delivery: &Delivery, is_logged: bool) {
        let (node, Some(peer_session)) = (self.node, self.state.session_mut()) else { return };
        let session = &mut peer_session.session;
        match (receipt, delivery) {
            (Some(receipt_number), _) => send_receipt(session, node, receipt_number, delivery),
            (None, Delivery::Refused(reason)) if is_logged => send_refusal(session, node, ends, reason),
            (None, _) => {}
        }
    }

    // Messages to the peer.

    /// The session to which messages go now: not one that is being ended.
    pub(super) fn open_session(&mut self) -> Option<&mut Session> {
        let peer_session =
            self.state.session_mut().filter(|peer_session| peer_session.disconnect.is_none())?;
        Some(&mut peer_session.session)
    }

    /// Why nothing can be sent to it any more; `None` if its incarnation may return.
    fn undeliverable(&self) -> Option<Undelivered> {
        if self.state.session().is_some_and(|peer_session| peer_session.peer_leaves) {
            return Some(Undelivered::NoNode);
        }
        self.state.gone().map(|gone| match gone {
            Gone::Left => Undelivered::NoNode,
            Gone::Replaced => Undelivered::NoActor,
        })
    }

    /// Checks that a message may be sent to this node, and its body.
    pub(super) fn check_outbound(
        &self,
        cx: &NodeCx,
        outbound: &OutboundMessage<'_>,
    ) -> Result<(), Undelivered> {
        if let Some(reason) = self.undeliverable() {
            return Err(reason);
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
    pub(super) fn check_room_for_route(
        &mut self,
        outbound: &OutboundMessage<'_>,
    ) -> Result<(), OutboundRefusal> {
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
    pub(super) fn send(
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

    pub(super) fn check_room(
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
    pub(super) fn await_room(
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
    pub(super) fn await_least_room(&mut self, actor: Key) {
        let Some(peer_session) =
            self.state.session_mut().filter(|peer_session| peer_session.disconnect.is_none())
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
    pub(super) fn end_room_wait(&mut self, cx: &mut NodeCx, sender: Key, address: Key) {
        self.room_waiters.remove(RoomWaiter { sender: Some(sender), address });
        self.await_least_room(address.actor());
        if self.room_waiters.is_empty() {
            cx.work.with_room_waiters.remove(&self.node);
        }
    }

    /// Sends `Writable` to the senders for whose refused messages the queue to an actor has room again.
    pub(super) fn report_room(&mut self, actor: Key, driver: &mut impl Driver) {
        let Some(peer_session) =
            self.state.session_mut().filter(|peer_session| peer_session.disconnect.is_none())
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

    pub(super) fn release(&self, cx: &mut NodeCx, waiters: Vec<RoomWaiter>) {
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
    pub(super) fn send_waiting_message(
        &mut self,
        outbound: &OutboundMessage<'_>,
        receipt_number: Option<u64>,
        route: &[(NodeId, Vec<SocketAddr>)],
    ) -> Result<(), Undelivered> {
        let Some(peer_session) = self.state.session_mut() else { return Err(Undelivered::NoNode) };
        send_message(&mut peer_session.session, outbound, receipt_number, route).map_err(
            |reason| match reason {
                OutboundRefusal::NoRoom { .. } => Undelivered::Busy,
                OutboundRefusal::Other(reason) => reason,
            },
        )
    }

    /// Fails all messages and signals that wait for a session. Whether it has no session.
    pub(super) fn drop_waiting(&mut self, cx: &mut NodeCx, reason: &Undelivered) -> bool {
        if self.state.session().is_some() {
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
                QueuedOutbound::ReplyDropped { .. } => {}
            }
        }
        cx.loop_actions.extend(
            replies.into_iter().map(|request_id| LoopAction::FailRequest(request_id, reason.clone().into())),
        );
        true
    }

    // Signals to the peer.

    /// Sends a signal over the session. Returns it if it has to wait for a session.
    pub(super) fn signal(&mut self, cx: &mut NodeCx, signal: Signal, hints: &[NodeHint]) -> Option<Signal> {
        if let Some(reason) = self.undeliverable() {
            self.fail_signal(cx, signal, reason);
            return None;
        }
        if self.open_session().is_none() {
            let must_wait = !self.waiting.is_empty() || !SignalRules::of(&signal.kind).ends_with_session;
            return must_wait.then_some(signal);
        }
        let sent = if self.is_of_ended_monitor(&signal) {
            Ok(())
        } else {
            self.record_monitor(&signal);
            self.send_signal(&signal, hints)
        };
        self.mark_dirty(cx);
        if let Err(reason) = sent {
            tracing::debug!(node = %self.node, %reason, "a signal was not sent");
            let reason = match reason {
                SendRefused::TooLarge { bytes, limit } => PayloadError::TooLarge { bytes, max: limit }.into(),
                SendRefused::FieldTooLong => encode_error(TOO_MANY_TYPES).into(),
                SendRefused::Busy { .. } | SendRefused::WrongMethod | _ => Undelivered::Busy,
            };
            self.fail_signal(cx, signal, reason);
        }
        None
    }

    fn send_signal(&mut self, signal: &Signal, hints: &[NodeHint]) -> Result<(), SendRefused> {
        let node = self.node;
        let Some(session) = self.open_session() else { return Ok(()) };
        let pair = Pair::new(sender_of(signal), signal.to.key());
        for NodeHint { node: other, name, locations } in hints {
            let hint = NodeAt { request: 0, node: *other, name, locations: Locations::Plain(locations) };
            if let Err(reason) = session.send_in_order(pair, &hint.into()) {
                tracing::debug!(peer = %node, node = %other, %reason, "the location of a node was not sent to a peer");
            }
        }
        send_signal(session, signal)
    }

    /// Informs the peer that no reply to one of its requests will follow. Returns whether that has to wait for a session.
    pub(super) fn drop_reply(&mut self, cx: &mut NodeCx, request_id: RequestId, reason: &AskError) -> bool {
        if self.undeliverable().is_some() {
            return false;
        }
        let was_met = self.state.was_met();
        let Some(session) = self.open_session() else {
            // The `ReplyTo` may have come by way of a third node. If there was a session, its end has failed the request.
            return !self.waiting.is_empty() || !was_met;
        };
        if let Err(reason) = send_reply_dropped(session, request_id, reason) {
            tracing::debug!(node = %self.node, %reason, "the end of a request was not sent");
        }
        self.mark_dirty(cx);
        false
    }

    /// Whether a signal may wait for a session.
    pub(super) fn fits_waiting_queue(&self, cx: &mut NodeCx, signal: &Signal) -> bool {
        self.check_waiting_room(cx, WaitingBudget::of_signal(signal), signal_bytes(signal)).is_ok()
    }

    /// Reports a signal that cannot be sent to its sender: by a `Down`, or as a dead letter.
    pub(super) fn fail_signal(&mut self, cx: &mut NodeCx, signal: Signal, reason: Undelivered) {
        if let SignalKind::Monitor(id) = signal.kind {
            self.monitors.remove_local_watcher(id);
        } else if let SignalKind::Notify(id) = signal.kind {
            self.monitors.remove_remote_watcher(sender_of(&signal), id);
        }
        cx.report_failed_signal(signal, reason);
    }

    /// Whether a signal removes a monitor that has ended meanwhile, with its target or an earlier session: an actor that ends removes its
    /// monitors over several rounds of the loop. The peer may have used its number again.
    fn is_of_ended_monitor(&self, signal: &Signal) -> bool {
        let SignalKind::Demonitor(id) = signal.kind else { return false };
        self.monitors.local_watcher(id).is_none_or(|(known, _)| known != sender_of(signal))
    }

    /// Records a monitor between this node and the peer, or its end.
    fn record_monitor(&mut self, signal: &Signal) {
        let from = sender_of(signal);
        match &signal.kind {
            SignalKind::Monitor(id) => self.monitors.add_local_watcher(from, *id, signal.to),
            SignalKind::Demonitor(id) => _ = self.monitors.remove_local_watcher(*id),
            SignalKind::Notify(id) => self.monitors.add_remote_watcher(from, *id),
            SignalKind::Down(id, _) => _ = self.monitors.remove_remote_watcher(from, *id),
            SignalKind::Terminate { .. }
            | SignalKind::Throw(_)
            | SignalKind::Resume(_)
            | SignalKind::Lagged { .. } => {}
        }
    }

    // Withdrawn messages.

    /// Withdraws a message to an actor from the queue in which it waits for transmission; `None` if it waits in none.
    pub(super) fn withdraw(
        &mut self,
        cx: &mut NodeCx,
        actor: Key,
        receipt_number: u64,
    ) -> Option<Withdrawal> {
        if self.waiting.withdraw(receipt_number) {
            self.count_queue(&mut cx.queues.bytes);
            self.release_room_waiters(cx);
            return Some(Withdrawal::NotSent);
        }
        let withdrawn = self.state.session_mut()?.session.withdraw(actor, receipt_number);
        // Others may have room now.
        self.mark_dirty(cx);
        let withdrawn = withdrawn?;
        Some(if withdrawn.is_paused { Withdrawal::ActorFull } else { Withdrawal::NotSent })
    }

    // Idle close.

    /// Whether nothing of the peer at this side needs the connection, and this node can dial another one.
    pub(super) fn needs_no_connection(&self, cx: &NodeCx) -> bool {
        let Some(peer_session) = self.state.session() else { return false };
        let can_dial = peer_session.dialled.is_some() || !self.locations.is_empty();
        can_dial
            && peer_session.is_idle()
            && peer_session.session.tags_received() <= TAGS_AT_REST_MAX
            && self.has_nothing_open()
            && !cx.receipts.awaits(self.node)
            && !cx.replies.awaits(self.node)
    }

    /// Proposes to close the connection, if nothing has needed it for a while.
    pub(super) fn propose_idle_close(&mut self, cx: &mut NodeCx, is_needed: bool) {
        let keep_open = self.keep_open.unwrap_or(cx.settings.stream_send);
        let needs_no_connection = !is_needed && self.needs_no_connection(cx);
        let Some(peer_session) = self.state.session_mut() else { return };
        peer_session.idle.has_timer = false;
        let frames = frame_counts(peer_session);
        let idle = &mut peer_session.idle;
        if frames != idle.frames {
            (idle.frames, idle.since, idle.pause) = (frames, cx.now, IDLE_FOR);
        }
        let quiet_for = cx.now.since(idle.since);
        if !keep_open && quiet_for >= idle.pause && needs_no_connection {
            let sent = peer_session.session.frames_sent();
            if peer_session.session.send_control(&IdleProposed { sent }.into()).is_ok() {
                idle.stage = IdleStage::Proposed;
                idle.pause = quiet_for + (idle.pause * 2).min(PAUSE_LAST);
            }
        }
    }

    pub(super) fn on_idle_proposed(&mut self, cx: &NodeCx, proposed: IdleProposed, is_needed: bool) {
        let needs_no_connection = !is_needed && self.needs_no_connection(cx);
        let Some(peer_session) = self.state.session_mut() else { return };
        if proposed.sent != peer_session.session.frames_received() || !needs_no_connection {
            return;
        }
        let agreed = IdleAgreed { sent: peer_session.session.frames_sent() };
        if let Err(reason) = peer_session.session.send_control(&agreed.into()) {
            tracing::debug!(node = %self.node, %reason, "the agreement to close an idle connection was not sent");
        }
    }

    /// The peer agrees. `NodeCore::close_idle` follows when the frames that arrived with the agreement are handled.
    fn on_idle_agreed(&mut self, agreed: IdleAgreed) {
        if let Some(peer_session) = self.state.session_mut()
            && peer_session.idle.stage == IdleStage::Proposed
            && agreed.sent == peer_session.session.frames_received()
        {
            peer_session.idle.stage = IdleStage::Agreed;
        }
    }

    /// The peer has sent its last frame on this connection.
    fn on_close<'f>(&mut self, close: Close) -> FrameEffect<'f> {
        match (close.reason, self.state.session_mut()) {
            (CloseReason::Idle, Some(peer_session)) => {
                peer_session.idle.stage = IdleStage::ClosedByPeer;
                FrameEffect::Continue
            }
            (CloseReason::Idle, None) => FrameEffect::Continue,
            (CloseReason::Misbehaved, _) => FrameEffect::Rejected,
        }
    }

    /// Sets the timer of the next idle check, unless the connection is to stay open.
    pub(super) fn schedule_idle_check(&mut self, cx: &mut NodeCx) {
        let keep_open = self.keep_open.unwrap_or(cx.settings.stream_send);
        let Some(peer_session) = self.state.session_mut() else { return };
        if !keep_open
            && peer_session.is_connected()
            && !std::mem::replace(&mut peer_session.idle.has_timer, true)
        {
            cx.timers.add(cx.now + CHECK_EVERY, NodeTimer::Idle(self.node));
        }
    }

    /// The session is needed again that was closed while idle. `None` if it was not.
    pub(super) fn leave_idle(&mut self, cx: &mut NodeCx) -> Option<LeftIdle> {
        let peer_session = self.state.session_mut().filter(|peer_session| peer_session.is_resting())?;
        peer_session.leave_rest(cx.now);
        let at = peer_session.dialled.or(self.locations.first().copied());
        self.arm_session(cx);
        Some(LeftIdle { at })
    }
}

/// A session needs a connection again.
pub(super) struct LeftIdle {
    /// The location to dial.
    pub(super) at: Option<SocketAddr>,
}

/// What a monitor occupies.
const MONITOR_BYTES: u64 = 256;
