//! Handling of the frames of peers.
//!
//! A peer has proven that it knows the secret, and nothing else. Its frames affect only its own session and the actors
//! that are exposed to it.

use std::time::Duration;

use antiphon_sched::{
    ActorId, AskError, DeadLetter, Destination, ExitReason, Key, Lag, MonitorId, NodeId, PayloadError,
    RequestId, SignalPolicy, Undelivered, Value,
};
use antiphon_wire::Frame;
use antiphon_wire::frame::{Answer, Down, DownReason, PayloadRefused, ReplyDroppedReason};

use super::context::NodeCx;
use super::driver::Driver;
use super::mailbox_budget::OverBudget;
use super::payload_faults::{check_inbound, error_of, send_refusal};
use super::peer::Peer;
use super::peer_session::FrameEffect;

/// The bit in the number of a monitor in a frame that marks it as numbered by the node of the target, not of the watcher.
pub(super) const BY_TARGET: u64 = 1 << 63;

/// A signal of a peer. It may have to wait behind messages for the same actor.
#[derive(Debug)]
pub(super) enum InboundSignal {
    Monitor { watcher: Key, target: Key, id: MonitorId },
    Demonitor { target: Key, id: MonitorId },
    Notify { watcher: Key, id: MonitorId, actor: ActorId },
    Down { watcher: Key, id: MonitorId, actor: ActorId, reason: ExitReason },
    Lagged { subscriber: Key, channel: ActorId, missed: u64, ended: bool },
    Terminate { target: Key, grace: Option<Duration> },
    Throw { target: Key, value: Value },
    Resume { target: Key, value: Value },
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

impl Peer {
    /// Handles a frame that concerns only this peer and the actors of this node. The node has handled the others, and has learned
    /// the route of a message.
    pub(super) fn on_frame(
        &mut self,
        cx: &mut NodeCx,
        frame: &Frame<'_>,
        driver: &mut impl Driver,
    ) -> FrameEffect {
        match frame {
            Frame::Message(message) => self.on_message(cx, message, driver),
            Frame::Answer(answer) => self.on_answer(cx, answer, driver),
            Frame::ReplyDropped(dropped) => {
                let request_id = RequestId::from_bits(dropped.request_id.to_bits());
                let error = match dropped.reason {
                    ReplyDroppedReason::Dropped => AskError::Dropped,
                    ReplyDroppedReason::Busy => AskError::Busy,
                    ReplyDroppedReason::Payload(fault) => AskError::Reply(error_of(fault)),
                };
                driver.local().requests().fail_from_peer(request_id, error);
            }
            Frame::Receipt(receipt) => cx.receipts.on_receipt(self.node, receipt, &mut cx.timers, driver),
            Frame::Monitor(monitor) => {
                let id = MonitorId { origin: self.node, number: monitor.id & !BY_TARGET };
                let watcher = monitor.watcher;
                self.on_signal(cx, InboundSignal::Monitor { watcher, target: monitor.target, id }, driver);
            }
            Frame::Demonitor(demonitor) => {
                let id = self.monitor_id(cx, demonitor.id, true);
                self.on_signal(cx, InboundSignal::Demonitor { target: demonitor.target, id }, driver);
            }
            Frame::Down(down) => self.on_down(cx, down, driver),
            Frame::Notify(notify) => {
                let id = MonitorId { origin: self.node, number: notify.id & !BY_TARGET };
                let actor = ActorId::new(self.node, notify.target);
                self.on_signal(cx, InboundSignal::Notify { watcher: notify.watcher, id, actor }, driver);
            }
            Frame::Terminate(terminate) => {
                let grace = terminate.grace.map(Duration::from_millis);
                self.on_signal(cx, InboundSignal::Terminate { target: terminate.target, grace }, driver);
            }
            Frame::Throw(throw) => {
                let target = throw.target;
                match self.value_of(throw.tag, throw.body) {
                    Ok(value) => self.on_signal(cx, InboundSignal::Throw { target, value }, driver),
                    Err(reason) => self.refuse_value(cx, (throw.from, target), &reason),
                }
            }
            Frame::Resume(resume) => {
                let target = resume.target;
                match self.value_of(resume.tag, resume.body) {
                    Ok(value) => self.on_signal(cx, InboundSignal::Resume { target, value }, driver),
                    Err(reason) => self.refuse_value(cx, (resume.from, target), &reason),
                }
            }
            Frame::PayloadRefused(refused) => self.on_payload_refused(cx, refused),
            Frame::Goodbye(goodbye) => return FrameEffect::Goodbye(goodbye.reason),
            Frame::Lagged(lagged) => {
                let channel = ActorId::new(self.node, lagged.from);
                let (subscriber, missed, ended) = (lagged.to, lagged.missed, lagged.ended);
                self.on_signal(cx, InboundSignal::Lagged { subscriber, channel, missed, ended }, driver);
            }
            Frame::IdleAgreed(agreed) => self.on_idle_agreed(*agreed),
            Frame::Close(close) => return self.on_close(*close),
            // The session itself has handled these.
            Frame::Tag(_)
            | Frame::Begin(_)
            | Frame::Ack(_)
            | Frame::Credit(_)
            | Frame::Ping(_)
            | Frame::Pong(_)
            | Frame::Pause(_)
            | Frame::Unpause(_)
            | Frame::Fragment(_)
            // The node has handled these.
            | Frame::Lookup(_)
            | Frame::CancelLookup(_)
            | Frame::Found(_)
            | Frame::NodeAt(_)
            | Frame::AnnounceRelay(_)
            | Frame::IdleProposed(_) => {}
        }
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
        let Some(peer_session) = &mut self.peer_session else { return };
        let result = match check_inbound(peer_session.session.tag_name(answer.tag), answer.body) {
            Ok(tag) => match self.budget.acquire_for_reply(&cx.budgets, answer.body.len()) {
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
        if let Some(peer_session) = &mut self.peer_session {
            send_refusal(&mut peer_session.session, self.node, ends, reason);
        }
    }

    fn value_of(&self, tag: antiphon_wire::TagId, body: &[u8]) -> Result<Value, PayloadError> {
        let tag_name = self.peer_session.as_ref().and_then(|peer_session| peer_session.session.tag_name(tag));
        Ok(Value::encoded(check_inbound(tag_name, body)?, body))
    }

    /// Counts and logs a `throw` or `resume` whose value cannot be read.
    fn refuse_value(&mut self, cx: &mut NodeCx, ends: (Key, Key), reason: &PayloadError) {
        let node = self.node;
        cx.counts.refused_messages += 1;
        if cx.may_log("value refused", format_args!("{node}")) {
            tracing::warn!(%node, %reason, "a `throw` or `resume` of a peer was refused (logged at most once an hour for each peer)");
            self.send_refusal(ends, reason);
        }
    }

    /// The peer has refused a payload of this node.
    fn on_payload_refused(&self, cx: &mut NodeCx, refused: &PayloadRefused<'_>) {
        let (node, from) = (self.node, ActorId::new(cx.me, refused.from));
        if cx.may_log("refused by peer", format_args!("{node} {from}")) {
            let (to, reason) = (refused.to, error_of(refused.fault));
            tracing::warn!(%node, %from, %to, %reason, "a peer has refused a message or reply of this actor (logged at most once an hour for each actor)");
        }
    }

    /// Applies a signal, or queues it behind earlier messages for the same actor. An urgent signal overtakes them.
    fn on_signal(&mut self, cx: &mut NodeCx, signal: InboundSignal, driver: &mut impl Driver) {
        let actor = signal.receiver().actor();
        let must_wait = self.backlog.has_entries_for(actor)
            || (signal.needs_room() && driver.local().mailboxes().is_flooded(actor));
        if must_wait && !signal.is_urgent() {
            self.add_signal_to_backlog(cx, signal, driver);
        } else {
            self.apply_signal(cx, signal, driver);
        }
    }

    /// Applies a signal. For the peer, an actor that is not exposed to it does not exist.
    pub(super) fn apply_signal(&mut self, cx: &mut NodeCx, signal: InboundSignal, driver: &mut impl Driver) {
        let (to, bytes, node) = (signal.receiver(), signal.body_bytes(), self.node);
        let is_exposed =
            driver.local().is_exposed(to) && (signal.is_always_admitted() || self.check_reach(cx, to));
        let policy = driver.local().signals().signal_policy_of(to);
        let (is_open, may_terminate) = (policy == SignalPolicy::All, policy != SignalPolicy::None);
        let monitors_max = cx.settings.peer_limits.monitors_max;
        let (local_watchers, remote_watchers) = self.monitors.set_by_peer();
        match signal {
            // The monitor is set already.
            InboundSignal::Monitor { target, id, .. } if self.monitors.has_remote_watcher(target, id) => {}
            InboundSignal::Monitor { watcher, target, id } if remote_watchers >= monitors_max => {
                self.refuse_monitor(cx);
                let watcher = ActorId::new(node, watcher);
                driver.local().signals().refuse_monitor(target, id, watcher, ExitReason::Refused);
            }
            InboundSignal::Monitor { watcher, target, id } if !is_exposed => {
                let watcher = ActorId::new(node, watcher);
                driver.local().signals().refuse_monitor(target, id, watcher, ExitReason::NoActor);
            }
            InboundSignal::Monitor { watcher, target, id } => {
                self.monitors.add_remote_watcher(target, id);
                cx.ended_sessions.keep_watcher(node, target, id);
                driver.local().signals().add_watcher(target, id, ActorId::new(node, watcher));
            }
            InboundSignal::Demonitor { target, id } => {
                // A peer can cancel only its own monitors.
                if self.monitors.remove_remote_watcher(target, id) {
                    driver.local().signals().remove_watcher(target, id);
                }
            }
            // A number that is in use is refused: the new monitor would replace the earlier one.
            InboundSignal::Notify { watcher, id, actor }
                if is_exposed && is_open && self.monitors.local_watcher(id).is_none() =>
            {
                let (mut local, is_admitted) = (driver.local(), local_watchers < monitors_max);
                let watcher = watcher.actor();
                if !is_admitted {
                    local.signals().refuse_notify(watcher, actor);
                } else if local.signals().expect_down(watcher, id, actor) {
                    return self.monitors.add_local_watcher(watcher, id, actor);
                }
                self.refuse_monitor(cx);
            }
            InboundSignal::Down { watcher, id, actor, reason } => {
                self.deliver_down(cx, (watcher, id, actor), reason, driver);
            }
            InboundSignal::Lagged { subscriber, channel, missed, ended } if is_exposed => {
                cx.deliver_lagged(subscriber, (channel, missed, ended), driver);
            }
            InboundSignal::Terminate { target, grace } if is_exposed && may_terminate => {
                let target = ActorId::new(cx.me, target);
                match grace {
                    Some(grace) => driver.local().signals().terminate_within(target, grace),
                    None => driver.local().signals().kill(target),
                }
            }
            InboundSignal::Throw { target, value } if is_exposed && is_open => {
                let is_taken = self.budget.acquire_for_value(&cx.budgets, bytes).is_ok_and(|permit| {
                    driver.local().with_permit(Some(permit), |local| local.signals().throw(target, value))
                });
                cx.report_signal(is_taken, target, "throw", driver);
            }
            InboundSignal::Resume { target, value } if is_exposed && is_open => {
                let is_taken = self.budget.acquire_for_value(&cx.budgets, bytes).is_ok_and(|permit| {
                    driver.local().with_permit(Some(permit), |local| local.signals().resume(target, value))
                });
                cx.report_signal(is_taken, target, "resume", driver);
            }
            InboundSignal::Notify { .. }
            | InboundSignal::Lagged { .. }
            | InboundSignal::Terminate { .. }
            | InboundSignal::Throw { .. }
            | InboundSignal::Resume { .. } => cx.counts.refused_messages += 1,
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
        reason: ExitReason,
        driver: &mut impl Driver,
    ) {
        let (permit, reason) = match self.budget.acquire_for_value(&cx.budgets, bytes_of_reason(&reason)) {
            Ok(permit) => (Some(permit), reason),
            Err(OverBudget) => (None, without_value(reason)),
        };
        driver.local().with_permit(permit, |local| local.signals().down(watcher, id, actor, reason));
    }

    /// Applies a signal that waited when the session that brought it ended.
    pub(super) fn apply_late_signal(
        &mut self,
        cx: &mut NodeCx,
        signal: InboundSignal,
        driver: &mut impl Driver,
    ) {
        match signal {
            InboundSignal::Down { watcher, id, actor, reason } => {
                self.deliver_down(cx, (watcher, id, actor), reason, driver);
            }
            // The session that it depends on has ended.
            InboundSignal::Notify { watcher, id, actor } if self.is_open_to(cx, watcher, driver) => {
                let mut local = driver.local();
                if local.signals().signal_policy_of(watcher) == SignalPolicy::All
                    && local.signals().expect_down(watcher, id, actor)
                {
                    local.signals().down(watcher, id, actor, ExitReason::NodeLost);
                }
            }
            InboundSignal::Lagged { subscriber, channel, missed, ended }
                if self.is_open_to(cx, subscriber, driver) =>
            {
                cx.deliver_lagged(subscriber, (channel, missed, ended), driver);
            }
            InboundSignal::Notify { .. } | InboundSignal::Lagged { .. } => cx.counts.refused_messages += 1,
            // The watcher has received its `Down` at the end of the session.
            InboundSignal::Monitor { .. } | InboundSignal::Demonitor { .. } => {}
            // Urgent signals never wait.
            InboundSignal::Terminate { .. } | InboundSignal::Throw { .. } | InboundSignal::Resume { .. } => {}
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

    fn on_down(&mut self, cx: &mut NodeCx, down: &Down<'_>, driver: &mut impl Driver) {
        let id = self.monitor_id(cx, down.id, false);
        // A peer can report only the exits of its own actors.
        let reason = match down.reason {
            DownReason::Done(None) => ExitReason::Done(Value::opaque()),
            DownReason::DoneNotSent(fault) => ExitReason::Done(Value::not_sent(error_of(fault))),
            DownReason::Done(Some((tag, body))) => {
                ExitReason::Done(self.value_of(tag, body).unwrap_or_else(Value::not_sent))
            }
            DownReason::Failed(text) => ExitReason::Failed(text.to_owned()),
            DownReason::Panicked(text) => ExitReason::Panicked(text.to_owned()),
            DownReason::Terminated => ExitReason::Terminated,
            DownReason::NodeLost => ExitReason::NodeLost,
            DownReason::NoActor => ExitReason::NoActor,
            DownReason::Refused => ExitReason::Refused,
            DownReason::Lagged => ExitReason::Lagged,
        };
        if let Some(signal) = self.end_monitor(id, reason) {
            self.on_signal(cx, signal, driver);
        }
    }

    /// Removes the monitor of a local watcher, whose `Down` has arrived; `None` if there is no such monitor.
    pub(super) fn end_monitor(&mut self, id: MonitorId, reason: ExitReason) -> Option<InboundSignal> {
        let (watcher, actor) = self.monitors.remove_local_watcher(id)?;
        Some(InboundSignal::Down { watcher, id, actor, reason })
    }
}

impl NodeCx {
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
}

/// The size in bytes of a value of a peer.
fn bytes_of(value: &Value) -> usize {
    value.as_encoded().map_or(0, |(_, body, _)| body.len())
}

/// The size in bytes of the value or text of an exit reason.
pub(super) fn bytes_of_reason(reason: &ExitReason) -> usize {
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
fn without_value(reason: ExitReason) -> ExitReason {
    match reason {
        ExitReason::Done(_) => ExitReason::Done(Value::opaque()),
        ExitReason::Failed(_) => ExitReason::Failed(String::new()),
        ExitReason::Panicked(_) => ExitReason::Panicked(String::new()),
        ExitReason::Terminated
        | ExitReason::NodeLost
        | ExitReason::NoActor
        | ExitReason::Refused
        | ExitReason::Lagged => reason,
    }
}

/// The node of a destination.
pub(super) fn destination_node(to: Destination) -> NodeId {
    match to {
        Destination::Actor(id) => id.node(),
        Destination::Request(node, _) => node,
    }
}
