//! Frames from a peer: each arm is one call.
//!
//! The peer has proven that it knows the secret, no more: what it sends touches its own session, and actors
//! whose addresses it was given.

use antiphon_sched::{
    ActorId, AskError, Destination, ExitReason, Key, MonitorId, NodeId, RequestId, SignalPolicy, Undelivered,
    Value,
};
use antiphon_wire::frame::{Answer, Down, DownReason};
use antiphon_wire::{Frame, Session, msgpack};

use super::driver::Driver;
use super::peer_session::{FrameEffect, PeerSession};
use super::{NOBODY, NodeCore, sched_key};

/// The bit that says, in the number of a monitor, that it was numbered by whom it watches.
pub(super) const BY_TARGET: u64 = 1 << 63;

/// A signal that has arrived, and may have to wait behind messages.
#[derive(Debug)]
pub(super) enum InboundSignal {
    Monitor { watcher: Key, target: Key, id: MonitorId },
    Demonitor { target: Key, id: MonitorId },
    Notify { watcher: Key, id: MonitorId, actor: ActorId },
    Down { watcher: Key, id: MonitorId, reason: ExitReason },
    Terminate { target: Key },
    Throw { target: Key, value: Value },
    Resume { target: Key, value: Value },
}

impl InboundSignal {
    /// Bytes of the value that comes with it.
    pub(super) fn body_bytes(&self) -> usize {
        match self {
            Self::Throw { value, .. } | Self::Resume { value, .. } => bytes_of(value),
            Self::Down { reason, .. } => bytes_of_reason(reason),
            Self::Monitor { .. } | Self::Demonitor { .. } | Self::Notify { .. } | Self::Terminate { .. } => 0,
        }
    }

    /// Whether it follows from what was let in before, and so is not refused any more.
    fn is_owed(&self) -> bool {
        match self {
            Self::Down { .. } | Self::Demonitor { .. } => true,
            Self::Monitor { .. }
            | Self::Notify { .. }
            | Self::Terminate { .. }
            | Self::Throw { .. }
            | Self::Resume { .. } => false,
        }
    }

    /// The actor here that it is for.
    pub(super) fn receiver(&self) -> Key {
        match self {
            Self::Monitor { target, .. }
            | Self::Demonitor { target, .. }
            | Self::Terminate { target }
            | Self::Throw { target, .. }
            | Self::Resume { target, .. } => *target,
            Self::Notify { watcher, .. } | Self::Down { watcher, .. } => *watcher,
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
                let request_id = RequestId::from_bits(dropped.request_id.0);
                driver.loop_ref().fail_request_from_peer(request_id, AskError::Dropped);
            }
            Frame::Receipt(receipt) => self.on_receipt(node, receipt, driver),
            Frame::Monitor(monitor) => {
                let id = MonitorId { origin: node, number: monitor.id & !BY_TARGET };
                let watcher = sched_key(monitor.watcher);
                let arrived = InboundSignal::Monitor { watcher, target: sched_key(monitor.target), id };
                self.on_signal(node, peer_session, arrived, driver);
            }
            Frame::Demonitor(gone) => {
                let id = self.monitor_id(node, gone.id, true);
                let arrived = InboundSignal::Demonitor { target: sched_key(gone.target), id };
                self.on_signal(node, peer_session, arrived, driver);
            }
            Frame::Down(down) => self.on_down(node, peer_session, down, driver),
            Frame::Notify(notify) => {
                let id = MonitorId { origin: node, number: notify.id & !BY_TARGET };
                let actor = ActorId::new(node, sched_key(notify.target));
                let arrived = InboundSignal::Notify { watcher: sched_key(notify.watcher), id, actor };
                self.on_signal(node, peer_session, arrived, driver);
            }
            Frame::Terminate(terminate) => {
                let arrived = InboundSignal::Terminate { target: sched_key(terminate.target) };
                self.on_signal(node, peer_session, arrived, driver);
            }
            Frame::Throw(throw) => {
                let value = value_of(&peer_session.session, throw.tag, throw.body);
                let arrived =
                    value.map(|value| InboundSignal::Throw { target: sched_key(throw.target), value });
                self.on_sound_signal(node, peer_session, arrived, driver);
            }
            Frame::Resume(resume) => {
                let value = value_of(&peer_session.session, resume.tag, resume.body);
                let arrived =
                    value.map(|value| InboundSignal::Resume { target: sched_key(resume.target), value });
                self.on_sound_signal(node, peer_session, arrived, driver);
            }
            Frame::Lookup(lookup) => self.on_lookup(node, peer_session, lookup, driver),
            Frame::CancelLookup(cancel_lookup) => self.names.forget_lookup_of(node, cancel_lookup.request),
            Frame::Found(found) => self.on_found(node, peer_session, found, driver),
            Frame::NodeAt(hint) => self.on_node_at(node, peer_session, hint),
            Frame::AnnounceRelay(relay) => self.on_announce_relay(node, peer_session, relay.request, driver),
            Frame::Goodbye(goodbye) => return FrameEffect::Leaves(goodbye.reason),
            // The session's own, and the connection's: acted upon by the session, or by its closing.
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
            Frame::Close(close) => Self::on_close(peer_session, *close),
        }
        FrameEffect::GoesOn
    }

    /// A monitor by its number in a frame: numbered by the peer, or here.
    fn monitor_id(&self, peer: NodeId, number: u64, by_watcher_there: bool) -> MonitorId {
        let by_target = number & BY_TARGET != 0;
        let origin = if by_target == by_watcher_there { self.me } else { peer };
        MonitorId { origin, number: number & !BY_TARGET }
    }

    fn on_answer(
        &mut self,
        node: NodeId,
        peer_session: &mut PeerSession,
        answer: &Answer<'_>,
        driver: &mut impl Driver,
    ) {
        let request_id = RequestId::from_bits(answer.to.0);
        self.learn_route(answer.route);
        let result = match (peer_session.session.tag_name(answer.tag), is_sound(answer.body)) {
            (Some(tag), true) => driver.loop_ref().complete_request_encoded(request_id, tag, answer.body),
            (_, _) => {
                driver.loop_ref().fail_request_from_peer(request_id, AskError::WrongType);
                Err(Undelivered::Encode)
            }
        };
        if result == Err(Undelivered::Busy) {
            self.refuse_request(node);
        }
        if let Err(reason) = result {
            // Most are late: the asker was told `TimedOut` before.
            tracing::debug!(%reason, "an answer reached nobody");
            self.counts.refused_messages += 1;
        }
    }

    fn on_sound_signal(
        &mut self,
        node: NodeId,
        peer_session: &mut PeerSession,
        arrived: Option<InboundSignal>,
        driver: &mut impl Driver,
    ) {
        match arrived {
            Some(arrived) => self.on_signal(node, peer_session, arrived, driver),
            None => self.counts.refused_messages += 1,
        }
    }

    /// A signal has arrived: it takes effect after the messages before it.
    fn on_signal(
        &mut self,
        node: NodeId,
        peer_session: &mut PeerSession,
        arrived: InboundSignal,
        driver: &mut impl Driver,
    ) {
        if peer_session.backlog.holds(arrived.receiver()) {
            self.add_signal_to_backlog(node, peer_session, arrived);
        } else {
            self.take_effect(node, arrived, driver);
        }
    }

    /// Does what a signal says. Actors that no address was given of are nobody for the peer.
    pub(super) fn take_effect(&mut self, node: NodeId, arrived: InboundSignal, driver: &mut impl Driver) {
        let (to, bytes) = (arrived.receiver(), arrived.body_bytes());
        let is_exposed =
            driver.loop_ref().is_exposed(to) && (arrived.is_owed() || self.allows(node, to, driver));
        let guard = driver.loop_ref().signal_policy_of(to);
        let (is_open, may_end) = (guard == SignalPolicy::All, guard != SignalPolicy::None);
        let monitors_max = self.settings.peer_limits.monitors_max;
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let (watching, watched) = peer.monitors.asked_by_peer();
        match arrived {
            // Setting one twice is setting it once.
            InboundSignal::Monitor { target, id, .. } if peer.monitors.is_watched(target, id) => {}
            InboundSignal::Monitor { watcher, target, id } if watched >= monitors_max => {
                self.refuse_monitor(node);
                driver.loop_ref().refuse_watch(target, id, ActorId::new(node, watcher));
            }
            InboundSignal::Monitor { watcher, target, id } => {
                let target = if is_exposed { target } else { NOBODY };
                peer.monitors.be_watched(target, id);
                driver.loop_ref().watch(target, id, ActorId::new(node, watcher));
            }
            InboundSignal::Demonitor { target, id } => {
                // Only what this peer has set can it take back.
                if peer.monitors.be_unwatched(target, id) {
                    driver.loop_ref().unwatch(target, id);
                }
            }
            // A number that stands for one already would lose that one.
            InboundSignal::Notify { watcher, id, actor }
                if is_exposed && is_open && peer.monitors.watcher(id).is_none() =>
            {
                let (mut loop_ref, is_admitted) = (driver.loop_ref(), watching < monitors_max);
                let watcher = loop_ref.owner_of(watcher);
                if !is_admitted {
                    loop_ref.refuse_notify(watcher, actor);
                } else if loop_ref.expect_down(watcher, id, actor) {
                    return peer.monitors.watch(watcher, id, actor);
                }
                self.refuse_monitor(node);
            }
            InboundSignal::Down { watcher, id, reason } => {
                if let Some((_, actor)) = peer.monitors.unwatch(id) {
                    // The end is told in any case; what it came to, if there is room for it.
                    let reason =
                        if self.has_room_here(node, bytes) { reason } else { without_its_value(reason) };
                    let bytes = bytes_of_reason(&reason);
                    self.put_value(node, bytes, driver, |loop_ref| loop_ref.down(watcher, id, actor, reason));
                }
            }
            InboundSignal::Terminate { target } if is_exposed && may_end => {
                driver.loop_ref().terminate(ActorId::new(self.me, target));
            }
            InboundSignal::Throw { target, value } if is_exposed && is_open => {
                let is_taken = self.has_room_here(node, bytes)
                    && self.put_value(node, bytes, driver, |loop_ref| loop_ref.throw_here(target, value));
                self.counts.refused_messages += u64::from(!is_taken);
            }
            InboundSignal::Resume { target, value } if is_exposed && is_open => {
                let is_taken = self.has_room_here(node, bytes)
                    && self.put_value(node, bytes, driver, |loop_ref| loop_ref.resume_here(target, value));
                self.counts.refused_messages += u64::from(!is_taken);
            }
            InboundSignal::Notify { .. }
            | InboundSignal::Terminate { .. }
            | InboundSignal::Throw { .. }
            | InboundSignal::Resume { .. } => self.counts.refused_messages += 1,
        }
    }

    /// A reply in what a peer sent finds no place.
    pub(super) fn refuse_request(&mut self, node: NodeId) {
        self.counts.refusals.requests += 1;
        self.log_refused(node, "requests", "has more requests open than it may");
    }

    fn refuse_monitor(&mut self, node: NodeId) {
        self.counts.refusals.monitors += 1;
        self.log_refused(node, "monitors", "sets more monitors than it may");
    }

    fn on_down(
        &mut self,
        node: NodeId,
        peer_session: &mut PeerSession,
        down: &Down<'_>,
        driver: &mut impl Driver,
    ) {
        let id = self.monitor_id(node, down.id, false);
        // Only whom it was set on may end it.
        let watching = self.peers.get(&node).and_then(|peer| peer.monitors.watcher(id));
        let Some((watcher, _)) = watching else { return };
        let reason = match down.reason {
            DownReason::Done(None) => ExitReason::Done(Value::opaque()),
            DownReason::Done(Some((tag, body))) => {
                ExitReason::Done(value_of(&peer_session.session, tag, body).unwrap_or_else(Value::opaque))
            }
            DownReason::Failed(text) => ExitReason::Failed(text.to_owned()),
            DownReason::Panicked(text) => ExitReason::Panicked(text.to_owned()),
            DownReason::Terminated => ExitReason::Terminated,
            DownReason::NodeLost => ExitReason::NodeLost,
            DownReason::NoActor => ExitReason::NoActor,
            DownReason::Refused => ExitReason::Refused,
        };
        self.on_signal(node, peer_session, InboundSignal::Down { watcher, id, reason }, driver);
    }
}

/// Bytes of a value that came from a peer.
fn bytes_of(value: &Value) -> usize {
    value.as_encoded().map_or(0, |(_, body, _)| body.len())
}

/// Bytes of the value or text with which an actor has ended.
pub(super) fn bytes_of_reason(reason: &ExitReason) -> usize {
    match reason {
        ExitReason::Done(value) => bytes_of(value),
        ExitReason::Failed(text) | ExitReason::Panicked(text) => text.len(),
        ExitReason::Terminated | ExitReason::NodeLost | ExitReason::NoActor | ExitReason::Refused => 0,
    }
}

/// The same end, for whom there is no room for more.
fn without_its_value(reason: ExitReason) -> ExitReason {
    match reason {
        ExitReason::Done(_) => ExitReason::Done(Value::opaque()),
        ExitReason::Failed(_) => ExitReason::Failed(String::new()),
        ExitReason::Panicked(_) => ExitReason::Panicked(String::new()),
        ExitReason::Terminated | ExitReason::NodeLost | ExitReason::NoActor | ExitReason::Refused => reason,
    }
}

/// Whether a body is one MessagePack value within bounds.
pub(super) fn is_sound(body: &[u8]) -> bool {
    msgpack::check(body, &msgpack::BodyLimits::default()).is_ok()
}

fn value_of(session: &Session, tag: antiphon_wire::TagId, body: &[u8]) -> Option<Value> {
    let tag = session.tag_name(tag)?;
    is_sound(body).then(|| Value::encoded(tag, body))
}

/// The node that a outbound goes to.
pub(super) fn node_of(to: Destination) -> NodeId {
    match to {
        Destination::Actor(id) => id.node(),
        Destination::Request(node, _) => node,
    }
}
