//! Handling of the frames of peers.
//!
//! A peer has proven that it knows the secret, and nothing else. Its frames affect only its own session and the actors
//! that are exposed to it.

use std::time::Duration;

use antiphon_sched::{
    ActorId, AskError, DeadLetter, Destination, EncodedValue, ExitReason, Key, Lag, MonitorId, NodeId,
    PayloadError, RequestId, SignalPolicy, Undelivered,
};
use antiphon_wire::frame::{Answer, Down, DownReason, PayloadRefused, ReplyDroppedReason};
use antiphon_wire::{Frame, Session};

use super::NodeCore;
use super::driver::Driver;
use super::mailbox_budget::OverBudget;
use super::payload_faults::{check_inbound, error_of, send_refusal};
use super::peer_session::{FrameEffect, PeerSession};

/// The bit in the number of a monitor in a frame that marks it as numbered by the node of the target, not of the watcher.
pub(super) const BY_TARGET: u64 = 1 << 63;

/// A signal of a peer. It may have to wait behind messages for the same actor.
#[derive(Debug)]
pub(super) enum InboundSignal {
    Monitor { watcher: Key, target: Key, id: MonitorId },
    Demonitor { target: Key, id: MonitorId },
    Notify { watcher: Key, id: MonitorId, actor: ActorId },
    Down { watcher: Key, id: MonitorId, actor: ActorId, reason: ExitReason<EncodedValue> },
    Lagged { subscriber: Key, channel: ActorId, missed: u64, ended: bool },
    Terminate { target: Key, grace: Option<Duration> },
    Throw { target: Key, value: EncodedValue },
    Resume { target: Key, value: EncodedValue },
}

impl InboundSignal {
    /// The size in bytes of its value or text.
    pub(super) fn body_bytes(&self) -> usize {
        match self {
            Self::Throw { value, .. } | Self::Resume { value, .. } => bytes_of(value),
            Self::Down { reason, .. } => bytes_of_reason(reason),
            Self::Monitor { .. }
            | Self::Demonitor { .. }
            | Self::Notify { .. }
            | Self::Lagged { .. }
            | Self::Terminate { .. } => 0,
        }
    }

    /// Whether it overtakes messages that wait for the mailbox of its receiver.
    fn is_urgent(&self) -> bool {
        match self {
            Self::Terminate { .. } | Self::Throw { .. } | Self::Resume { .. } => true,
            Self::Monitor { .. }
            | Self::Demonitor { .. }
            | Self::Notify { .. }
            | Self::Down { .. }
            | Self::Lagged { .. } => false,
        }
    }

    /// Whether it waits while the mailbox of its receiver holds twice its maximum.
    pub(super) fn needs_room(&self) -> bool {
        matches!(self, Self::Lagged { .. })
    }

    /// Whether it belongs to a monitor that was admitted before. Such a signal needs no further permission.
    fn is_always_admitted(&self) -> bool {
        match self {
            Self::Down { .. } | Self::Demonitor { .. } => true,
            Self::Monitor { .. }
            | Self::Notify { .. }
            | Self::Lagged { .. }
            | Self::Terminate { .. }
            | Self::Throw { .. }
            | Self::Resume { .. } => false,
        }
    }

    /// The receiving actor of this node.
    pub(super) fn receiver(&self) -> Key {
        match self {
            Self::Monitor { target, .. }
            | Self::Demonitor { target, .. }
            | Self::Terminate { target, .. }
            | Self::Throw { target, .. }
            | Self::Resume { target, .. } => *target,
            Self::Notify { watcher, .. } | Self::Down { watcher, .. } => *watcher,
            Self::Lagged { subscriber, .. } => *subscriber,
        }
    }
}

impl NodeCore {
    pub(super) fn on_frame(
        &mut self,
        node: NodeId,
        peer_session: &mut PeerSession,
        frame: &Frame<'_>,
        driver: &mut impl Driver,
    ) -> FrameEffect {
        match frame {
            Frame::Message(message) => self.on_message(node, peer_session, message, driver),
            Frame::Answer(answer) => self.on_answer(node, peer_session, answer, driver),
            Frame::ReplyDropped(dropped) => {
                let request_id = RequestId::from_bits(dropped.request_id.to_bits());
                let error = match dropped.reason {
                    ReplyDroppedReason::Dropped => AskError::Dropped,
                    ReplyDroppedReason::Busy => AskError::Busy,
                    ReplyDroppedReason::Payload(fault) => AskError::Reply(error_of(fault)),
                };
                driver.local().requests().fail_from_peer(request_id, error);
            }
            Frame::Receipt(receipt) => self.on_receipt(node, receipt, driver),
            Frame::Monitor(monitor) => {
                let id = MonitorId { origin: node, number: monitor.id & !BY_TARGET };
                let watcher = monitor.watcher;
                let signal = InboundSignal::Monitor { watcher, target: monitor.target, id };
                self.on_signal(node, peer_session, signal, driver);
            }
            Frame::Demonitor(demonitor) => {
                let id = self.monitor_id(node, demonitor.id, true);
                let signal = InboundSignal::Demonitor { target: demonitor.target, id };
                self.on_signal(node, peer_session, signal, driver);
            }
            Frame::Down(down) => self.on_down(node, peer_session, down, driver),
            Frame::Notify(notify) => {
                let id = MonitorId { origin: node, number: notify.id & !BY_TARGET };
                let actor = ActorId::new(node, notify.target);
                let signal = InboundSignal::Notify { watcher: notify.watcher, id, actor };
                self.on_signal(node, peer_session, signal, driver);
            }
            Frame::Terminate(terminate) => {
                let grace = terminate.grace.map(Duration::from_millis);
                let signal = InboundSignal::Terminate { target: terminate.target, grace };
                self.on_signal(node, peer_session, signal, driver);
            }
            Frame::Throw(throw) => {
                let (from, target) = (throw.from, throw.target);
                match value_of(&peer_session.session, throw.tag, throw.body) {
                    Ok(value) => {
                        let signal = InboundSignal::Throw { target, value };
                        self.on_signal(node, peer_session, signal, driver);
                    }
                    Err(reason) => self.refuse_value(node, peer_session, (from, target), &reason),
                }
            }
            Frame::Resume(resume) => {
                let (from, target) = (resume.from, resume.target);
                match value_of(&peer_session.session, resume.tag, resume.body) {
                    Ok(value) => {
                        let signal = InboundSignal::Resume { target, value };
                        self.on_signal(node, peer_session, signal, driver);
                    }
                    Err(reason) => self.refuse_value(node, peer_session, (from, target), &reason),
                }
            }
            Frame::PayloadRefused(refused) => self.on_payload_refused(node, refused),
            Frame::Lookup(lookup) => self.on_lookup(node, peer_session, lookup),
            Frame::CancelLookup(cancel_lookup) => self.names.forget_lookup_of(node, cancel_lookup.request),
            Frame::Found(found) => self.on_found(node, peer_session, found, driver),
            Frame::NodeAt(hint) => self.on_node_at(node, peer_session, hint),
            Frame::AnnounceRelay(relay) => self.on_announce_relay(node, peer_session, relay.request, driver),
            Frame::Goodbye(goodbye) => return FrameEffect::Goodbye(goodbye.reason),
            Frame::Lagged(lagged) => {
                let channel = ActorId::new(node, lagged.from);
                let (subscriber, missed, ended) = (lagged.to, lagged.missed, lagged.ended);
                let signal = InboundSignal::Lagged { subscriber, channel, missed, ended };
                self.on_signal(node, peer_session, signal, driver);
            }
            // The session itself has handled these.
            Frame::Tag(_)
            | Frame::Begin(_)
            | Frame::Ack(_)
            | Frame::Credit(_)
            | Frame::Ping(_)
            | Frame::Pong(_)
            | Frame::Pause(_)
            | Frame::Unpause(_)
            | Frame::Fragment(_) => {}
            Frame::IdleProposed(proposed) => self.on_idle_proposed(node, peer_session, *proposed, driver),
            Frame::IdleAgreed(agreed) => Self::on_idle_agreed(peer_session, *agreed),
            Frame::Close(close) => return Self::on_close(peer_session, *close),
        }
        FrameEffect::Continue
    }

    /// The id of a monitor by its number in a frame. The peer is the node of the watcher or that of the target.
    fn monitor_id(&self, peer: NodeId, number: u64, peer_is_watcher: bool) -> MonitorId {
        let by_target = number & BY_TARGET != 0;
        let origin = if by_target == peer_is_watcher { self.me } else { peer };
        MonitorId { origin, number: number & !BY_TARGET }
    }

    fn on_answer(
        &mut self,
        node: NodeId,
        peer_session: &mut PeerSession,
        answer: &Answer<'_>,
        driver: &mut impl Driver,
    ) {
        let request_id = RequestId::from_bits(answer.to.to_bits());
        self.learn_route(node, answer.route);
        let result = match check_inbound(peer_session.session.tag_name(answer.tag), answer.body) {
            Ok(tag) => match self.acquire_for_reply(node, answer.body.len()) {
                Ok(permit) => driver.local().with_permit(permit, |local| {
                    local.requests().complete_encoded(request_id, tag, answer.body)
                }),
                Err(OverBudget) => {
                    driver.local().requests().fail_from_peer(request_id, AskError::Busy);
                    Err(Undelivered::Full)
                }
            },
            Err(reason) => {
                driver.local().requests().fail_from_peer(request_id, AskError::Reply(reason.clone()));
                Err(Undelivered::Payload(reason))
            }
        };
        if result == Err(Undelivered::Busy) {
            self.refuse_request(node);
        }
        if let Err(reason) = result {
            // Most of these replies are late: the request has failed with `TimedOut` before. Others have no room in the
            // budget, or do not decode.
            if let Undelivered::Payload(error) = &reason
                && self.may_log("reply refused", format_args!("{node}"))
            {
                tracing::warn!(%node, reason = %error, "a reply from a peer was refused (logged at most once an hour for each peer)");
                let ends = (answer.from, answer.to);
                send_refusal(&mut peer_session.session, node, ends, error);
            }
            tracing::debug!(%reason, "a reply was dropped");
            self.counts.refused_messages += 1;
        }
    }

    /// Counts and logs a `throw` or `resume` whose value cannot be read.
    fn refuse_value(
        &mut self,
        node: NodeId,
        peer_session: &mut PeerSession,
        ends: (Key, Key),
        reason: &PayloadError,
    ) {
        self.counts.refused_messages += 1;
        if self.may_log("value refused", format_args!("{node}")) {
            tracing::warn!(%node, %reason, "a `throw` or `resume` of a peer was refused (logged at most once an hour for each peer)");
            send_refusal(&mut peer_session.session, node, ends, reason);
        }
    }

    /// A peer has refused a payload of this node.
    fn on_payload_refused(&mut self, node: NodeId, refused: &PayloadRefused<'_>) {
        let from = ActorId::new(self.me, refused.from);
        if self.may_log("refused by peer", format_args!("{node} {from}")) {
            let (to, reason) = (refused.to, error_of(refused.fault));
            tracing::warn!(%node, %from, %to, %reason, "a peer has refused a message or reply of this actor (logged at most once an hour for each actor)");
        }
    }

    /// Applies a signal, or queues it behind earlier messages for the same actor. An urgent signal overtakes them.
    fn on_signal(
        &mut self,
        node: NodeId,
        peer_session: &mut PeerSession,
        signal: InboundSignal,
        driver: &mut impl Driver,
    ) {
        let actor = signal.receiver().actor();
        let must_wait = self.has_backlog_for(node, actor)
            || (signal.needs_room() && driver.local().mailboxes().is_flooded(actor));
        if must_wait && !signal.is_urgent() {
            self.add_signal_to_backlog(node, peer_session, signal, driver);
        } else {
            self.apply_signal(node, signal, driver);
        }
    }

    /// Applies a signal. For the peer, an actor that is not exposed to it does not exist.
    pub(super) fn apply_signal(&mut self, node: NodeId, signal: InboundSignal, driver: &mut impl Driver) {
        let (to, bytes) = (signal.receiver(), signal.body_bytes());
        let is_exposed =
            driver.local().is_exposed(to) && (signal.is_always_admitted() || self.check_reach(node, to));
        let policy = driver.local().signals().signal_policy_of(to);
        let (is_open, may_terminate) = (policy == SignalPolicy::All, policy != SignalPolicy::None);
        let monitors_max = self.settings.peer_limits.monitors_max;
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let (local_watchers, remote_watchers) = peer.monitors.set_by_peer();
        match signal {
            // The monitor is set already.
            InboundSignal::Monitor { target, id, .. } if peer.monitors.has_remote_watcher(target, id) => {}
            InboundSignal::Monitor { watcher, target, id } if remote_watchers >= monitors_max => {
                self.refuse_monitor(node);
                let watcher = ActorId::new(node, watcher);
                driver.local().signals().refuse_monitor(target, id, watcher, ExitReason::Refused);
            }
            InboundSignal::Monitor { watcher, target, id } if !is_exposed => {
                let watcher = ActorId::new(node, watcher);
                driver.local().signals().refuse_monitor(target, id, watcher, ExitReason::NoActor);
            }
            InboundSignal::Monitor { watcher, target, id } => {
                peer.monitors.add_remote_watcher(target, id);
                self.ended_sessions.keep_watcher(node, target, id);
                driver.local().signals().add_watcher(target, id, ActorId::new(node, watcher));
            }
            InboundSignal::Demonitor { target, id } => {
                // A peer can cancel only its own monitors.
                if peer.monitors.remove_remote_watcher(target, id) {
                    driver.local().signals().remove_watcher(target, id);
                }
            }
            // A number that is in use is refused: the new monitor would replace the earlier one.
            InboundSignal::Notify { watcher, id, actor }
                if is_exposed && is_open && peer.monitors.local_watcher(id).is_none() =>
            {
                let (mut local, is_admitted) = (driver.local(), local_watchers < monitors_max);
                let watcher = watcher.actor();
                if !is_admitted {
                    local.signals().refuse_notify(watcher, actor);
                } else if local.signals().expect_down(watcher, id, actor) {
                    return peer.monitors.add_local_watcher(watcher, id, actor);
                }
                self.refuse_monitor(node);
            }
            InboundSignal::Down { watcher, id, actor, reason } => {
                self.deliver_down(node, (watcher, id, actor), reason, driver);
            }
            InboundSignal::Lagged { subscriber, channel, missed, ended } if is_exposed => {
                self.deliver_lagged(subscriber, (channel, missed, ended), driver);
            }
            InboundSignal::Terminate { target, grace } if is_exposed && may_terminate => {
                let target = ActorId::new(self.me, target);
                match grace {
                    Some(grace) => driver.local().signals().terminate_within(target, grace),
                    None => driver.local().signals().kill(target),
                }
            }
            InboundSignal::Throw { target, value } if is_exposed && is_open => {
                let is_taken = self.acquire_for_value(node, bytes).is_ok_and(|permit| {
                    driver.local().with_permit(Some(permit), |local| local.signals().throw(target, value))
                });
                self.report_signal(is_taken, target, "throw", driver);
            }
            InboundSignal::Resume { target, value } if is_exposed && is_open => {
                let is_taken = self.acquire_for_value(node, bytes).is_ok_and(|permit| {
                    driver.local().with_permit(Some(permit), |local| local.signals().resume(target, value))
                });
                self.report_signal(is_taken, target, "resume", driver);
            }
            InboundSignal::Notify { .. }
            | InboundSignal::Lagged { .. }
            | InboundSignal::Terminate { .. }
            | InboundSignal::Throw { .. }
            | InboundSignal::Resume { .. } => self.counts.refused_messages += 1,
        }
    }

    /// Whether an address leads to an actor that is exposed, and that the peer may reach.
    fn is_open_to(&mut self, node: NodeId, to: Key, driver: &mut impl Driver) -> bool {
        driver.local().is_exposed(to) && self.check_reach(node, to)
    }

    /// Delivers the number of messages that a subscriber has missed, or the end of its subscription.
    fn deliver_lagged(
        &mut self,
        subscriber: Key,
        (channel, missed, ended): (ActorId, u64, bool),
        driver: &mut impl Driver,
    ) {
        let mut local = driver.local();
        let is_taken = if ended {
            local.signals().push_down(subscriber, channel, ExitReason::Lagged)
        } else {
            local.mailboxes().add_missed(subscriber, channel, missed, &mut Lag::default())
        };
        self.counts.refused_messages += u64::from(!is_taken);
    }

    /// Records a dead letter for a signal that had no room.
    fn report_signal(&mut self, is_taken: bool, target: Key, what: &'static str, driver: &mut impl Driver) {
        if !is_taken {
            self.counts.refused_messages += 1;
            let is_alive = driver.local().is_alive(target.actor());
            let reason = if is_alive { Undelivered::Full } else { Undelivered::NoActor };
            driver.local().dead_letter(DeadLetter::new(ActorId::new(self.me, target), what, reason));
        }
    }

    /// Delivers a `Down` in any case, but without its value or text if there is no room for it.
    fn deliver_down(
        &mut self,
        node: NodeId,
        (watcher, id, actor): (Key, MonitorId, ActorId),
        reason: ExitReason<EncodedValue>,
        driver: &mut impl Driver,
    ) {
        let (permit, reason) = match self.acquire_for_value(node, bytes_of_reason(&reason)) {
            Ok(permit) => (Some(permit), reason),
            Err(OverBudget) => (None, without_value(reason)),
        };
        driver.local().with_permit(permit, |local| local.signals().down(watcher, id, actor, reason));
    }

    /// Applies a signal that waited when the session that brought it ended.
    pub(super) fn apply_late_signal(
        &mut self,
        node: NodeId,
        signal: InboundSignal,
        driver: &mut impl Driver,
    ) {
        match signal {
            InboundSignal::Down { watcher, id, actor, reason } => {
                self.deliver_down(node, (watcher, id, actor), reason, driver);
            }
            // The session that it depends on has ended.
            InboundSignal::Notify { watcher, id, actor } if self.is_open_to(node, watcher, driver) => {
                let mut local = driver.local();
                if local.signals().signal_policy_of(watcher) == SignalPolicy::All
                    && local.signals().expect_down(watcher, id, actor)
                {
                    local.signals().down(watcher, id, actor, ExitReason::NodeLost);
                }
            }
            InboundSignal::Lagged { subscriber, channel, missed, ended }
                if self.is_open_to(node, subscriber, driver) =>
            {
                self.deliver_lagged(subscriber, (channel, missed, ended), driver);
            }
            InboundSignal::Notify { .. } | InboundSignal::Lagged { .. } => self.counts.refused_messages += 1,
            // The watcher has received its `Down` at the end of the session.
            InboundSignal::Monitor { .. } | InboundSignal::Demonitor { .. } => {}
            // Urgent signals never wait.
            InboundSignal::Terminate { .. } | InboundSignal::Throw { .. } | InboundSignal::Resume { .. } => {}
        }
    }

    /// Counts and logs a message that holds a reply for a peer with too many open requests.
    pub(super) fn refuse_request(&mut self, node: NodeId) {
        self.counts.refusals.requests += 1;
        self.log_refused(node, "requests", "has reached its limit of open requests");
    }

    fn refuse_monitor(&mut self, node: NodeId) {
        self.counts.refusals.monitors += 1;
        self.log_refused(node, "monitors", "has reached its limit of monitors");
    }

    fn on_down(
        &mut self,
        node: NodeId,
        peer_session: &mut PeerSession,
        down: &Down<'_>,
        driver: &mut impl Driver,
    ) {
        let id = self.monitor_id(node, down.id, false);
        // A peer can report only the exits of its own actors.
        let reason = match down.reason {
            DownReason::Done(None) => ExitReason::Done(EncodedValue::Opaque),
            DownReason::DoneNotSent(fault) => ExitReason::Done(EncodedValue::NotSent(error_of(fault))),
            DownReason::Done(Some((tag, body))) => ExitReason::Done(
                value_of(&peer_session.session, tag, body).unwrap_or_else(EncodedValue::NotSent),
            ),
            DownReason::Failed(text) => ExitReason::Failed(text.to_owned()),
            DownReason::Panicked(text) => ExitReason::Panicked(text.to_owned()),
            DownReason::Terminated => ExitReason::Terminated,
            DownReason::NodeLost => ExitReason::NodeLost,
            DownReason::NoActor => ExitReason::NoActor,
            DownReason::Refused => ExitReason::Refused,
            DownReason::Lagged => ExitReason::Lagged,
        };
        if let Some(signal) = self.end_monitor(node, id, reason) {
            self.on_signal(node, peer_session, signal, driver);
        }
    }

    /// Removes the monitor of a local watcher, whose `Down` has arrived; `None` if there is no such monitor.
    pub(super) fn end_monitor(
        &mut self,
        node: NodeId,
        id: MonitorId,
        reason: ExitReason<EncodedValue>,
    ) -> Option<InboundSignal> {
        let (watcher, actor) = self.peers.get_mut(&node)?.monitors.remove_local_watcher(id)?;
        Some(InboundSignal::Down { watcher, id, actor, reason })
    }
}

/// The size in bytes of a value of a peer.
fn bytes_of(value: &EncodedValue) -> usize {
    value.body().len()
}

/// The size in bytes of the value or text of an exit reason.
fn bytes_of_reason(reason: &ExitReason<EncodedValue>) -> usize {
    match reason {
        ExitReason::Done(value) => bytes_of(value),
        ExitReason::Failed(text) | ExitReason::Panicked(text) => text.len(),
        ExitReason::Terminated
        | ExitReason::NodeLost
        | ExitReason::NoActor
        | ExitReason::Refused
        | ExitReason::Lagged => 0,
    }
}

/// The exit reason without its value or text.
fn without_value(reason: ExitReason<EncodedValue>) -> ExitReason<EncodedValue> {
    match reason {
        ExitReason::Done(_) => ExitReason::Done(EncodedValue::Opaque),
        ExitReason::Failed(_) => ExitReason::Failed(String::new()),
        ExitReason::Panicked(_) => ExitReason::Panicked(String::new()),
        ExitReason::Terminated
        | ExitReason::NodeLost
        | ExitReason::NoActor
        | ExitReason::Refused
        | ExitReason::Lagged => reason,
    }
}

fn value_of(session: &Session, tag: antiphon_wire::TagId, body: &[u8]) -> Result<EncodedValue, PayloadError> {
    let tag = check_inbound(session.tag_name(tag), body)?;
    Ok(EncodedValue::new(tag, body))
}

/// The node of a destination.
pub(super) fn destination_node(to: Destination) -> NodeId {
    match to {
        Destination::Actor(id) => id.node(),
        Destination::Request(node, _) => node,
    }
}
