//! The topic actor: the service actor of a channel, or of a *relay*, which holds the subscriptions of its node to a
//! channel of another node.
//!
//! Both forward messages to their subscribers. A channel has a name and an optional transform. A relay subscribes to one
//! channel, and exists from its first subscriber to its last.
//!
//! A topic that subscribes to this one is *downstream*; a topic that this one subscribes to is its *upstream*.
//!
//! Invariant: no topic is both upstream and downstream of another, except for a short time, in which `hops`
//! bounds how often a message is forwarded. The messages of one sender reach each subscriber in order. A panic of user
//! code does not end the topic actor.

use std::any::type_name;
use std::time::Duration;

use antiphon_sched::{
    Actor, ActorId, Addr, Cx, DeadLetter, Down, Event, ExitReason, NodeId, ReplyTo, SendError, SignalPolicy,
    Step, Time, Undelivered, Wire, finishing, printable, receive, secs, sleep, stop,
};

use super::fanout::{Content, Fanout, OutgoingMessage, Part, SentDelivery, UpstreamsUpdate, acked};
use super::message::{ChannelMessage, DeliveryResult, SelfMessage, SubscribeResult, TopicAddr, self_message};
use super::pending_deliveries::{
    DeliveryEnd, DeliveryRequest, FinishedDelivery, OpenAnswers, PendingDeliveries,
};
use super::state;
use super::subscribers::{ENTRIES_MAX, Recipient, Subscribers};
use super::upstreams::{UPSTREAMS_MAX, Upstreams};
use crate::error::SubscribeError;
use crate::service::panic_guard::{catch_panic, log_panic};
use crate::service::{FromNode, NodeRef};

/// The direct upstreams of one channel that are on one other node.
const UPSTREAMS_OF_PEER_MAX: usize = UPSTREAMS_MAX / 2;
/// The most topics that a message may come through: two for each level.
const HOPS_MAX: u8 = 2 * UPSTREAMS_MAX as u8 + 2;
/// How long a downstream topic may take to answer to its upstreams.
const ANSWER_WITHIN: Duration = secs(5);
/// How long a relay waits for the answer of its channel: longer than a node takes to detect that a peer is lost.
const ATTACH_WITHIN: Duration = secs(60);
/// How long a delivery of a peer may wait for subscribers.
const WAIT_OF_PEERS_MAX: Duration = secs(24 * 3600);
/// The fraction of the remaining time that a delivery gives to its subscribers, so that their answers arrive in time.
const TIME_FOR_SUBSCRIBERS: (u32, u32) = (7, 8);
/// The pause before the next attempt to send the upstreams to the downstream topics, when there was no room for the
/// answers.
const UPDATE_DOWNSTREAM_AGAIN_AFTER: Duration = secs(1);

/// The downstream topics from which on their updates are limited in time, and the pause for each of them. So the upstreams that
/// peers state take a small part of a processor.
const MANY_TOPICS: usize = 256;
const UPDATE_PAUSE_FOR_TOPIC: Duration = Duration::from_micros(20);
/// How long a topic that is terminated may take to complete what it has begun, within its grace time.
const ENDING_WITHIN: Duration = secs(3600);

type Message<T> = ChannelMessage<T>;
type TopicCx<'c, T> = Cx<'c, FromNode<Message<T>>>;

/// Changes or drops the messages of a channel. Its first argument is the name of the channel.
pub(super) type Transform<T> = dyn FnMut(&str, T) -> Option<T>;

pub(super) struct Topic<T> {
    role: TopicRole<T>,
    subscribers: Subscribers<T>,
    upstreams: Upstreams<T>,
    deliveries: PendingDeliveries<T>,
    /// What goes to the subscribers at present. Until it has gone to all, the topic sleeps between its parts.
    fanout: Option<Fanout<T>>,
    /// A `ReportCount` is queued, or waits for room at an upstream.
    is_report_queued: bool,
    /// An `UpdateDownstream` is queued.
    is_update_queued: bool,
    /// When the upstreams go to very many downstream topics again at the soonest.
    next_update: Time,
    /// It is terminated: it passes on what it has begun, and takes no message any more.
    is_ending: bool,
    is_over: bool,
}

enum TopicRole<T> {
    Channel { name: Box<str>, transform: Option<Box<Transform<T>>> },
    Relay { of: TopicAddr<T>, tag: &'static str, phase: UpstreamPhase<T> },
}

enum UpstreamPhase<T> {
    /// The channel has not answered yet. The subscription messages wait here.
    Attaching(Vec<Message<T>>),
    Open,
    /// The relay has left the relay table. It forwards late subscriptions to its successor.
    Closing,
}

impl<T: Wire + Clone> Topic<T> {
    pub(super) fn channel(name: &str, transform: Option<Box<Transform<T>>>) -> Self {
        Self::new(TopicRole::Channel { name: name.into(), transform })
    }

    pub(super) fn relay(of: TopicAddr<T>, tag: &'static str) -> Self {
        Self::new(TopicRole::Relay { of, tag, phase: UpstreamPhase::Attaching(Vec::new()) })
    }

    fn new(role: TopicRole<T>) -> Self {
        Self {
            role,
            subscribers: Subscribers::new(),
            upstreams: Upstreams::new(),
            deliveries: PendingDeliveries::new(),
            fanout: None,
            is_report_queued: false,
            is_update_queued: false,
            next_update: Time::ZERO,
            is_ending: false,
            is_over: false,
        }
    }

    fn start(&mut self, cx: &mut TopicCx<'_, T>) {
        match &self.role {
            TopicRole::Channel { name, .. } => {
                cx.set_name(&format!("channel {name}"));
                cx.set_signal_policy(SignalPolicy::TerminateOnly);
            }
            TopicRole::Relay { of, .. } => {
                let of = *of;
                cx.set_name("relay of a channel");
                cx.set_signal_policy(SignalPolicy::None);
                let monitor = cx.monitor(of);
                self.upstreams.insert(of, vec![of.id()], monitor);
                let topic = cx.addr();
                let attach =
                    move |reply| Message::Attach { topic, is_relay: true, reply: Some(reply) }.into();
                cx.ask(of, ATTACH_WITHIN, attach, |answer: Result<SubscribeResult, _>| {
                    self_message(SelfMessage::Attached(answer.map_err(super::refusal)))
                });
            }
        }
    }

    fn on_message(&mut self, cx: &mut TopicCx<'_, T>, message: FromNode<Message<T>>) {
        let FromNode { message, from: peer, wire_len } = message;
        if !self.admits(peer, &message) {
            tracing::debug!(
                peer = peer.map(tracing::field::display),
                "a node sent a message that this topic does not accept from it"
            );
            return log_panic(|| drop(message));
        }
        match message {
            Message::Send { message, hops } => self.forward(cx, message, hops, wire_len),
            Message::Deliver { message, n, within, hops, reply } => {
                let within = if peer.is_none() { within } else { within.min(WAIT_OF_PEERS_MAX) };
                let until = cx.now() + within;
                let request = DeliveryRequest { message, n, until, hops, reply, peer, bytes: wire_len };
                self.on_deliver(cx, request);
            }
            Message::Subscribe { .. } | Message::Attach { .. } | Message::Unsubscribe { .. } => {
                self.on_subscription(cx, peer, message);
            }
            Message::Count { topic, subscribers } => {
                self.subscribers.set_count(topic, subscribers);
                self.on_count_changed(cx);
            }
            Message::Upstreams { from, ids, reply } => self.on_upstreams(cx, peer, from, ids, reply),
            Message::Detach { from } => self.detach(cx, from),
            Message::SelfMessage(own) => self.on_self_message(cx, own),
        }
    }

    /// Whether a peer, or this node (`None`), may send this message. The ids inside a message prove nothing: a peer can
    /// guess them.
    fn admits(&self, peer: Option<NodeId>, message: &Message<T>) -> bool {
        let Some(peer) = peer else { return true };
        match (message, &self.role) {
            (Message::SelfMessage(_), _) => false,
            (Message::Count { topic, .. }, _) => peer == topic.node(),
            // A relay accepts messages only from its own node and from its channel.
            (Message::Send { .. } | Message::Deliver { .. }, TopicRole::Relay { of, .. }) => {
                peer == of.node()
            }
            (Message::Upstreams { from, .. }, TopicRole::Relay { of, .. }) => from == of && peer == of.node(),
            (
                Message::Subscribe { .. } | Message::Attach { .. } | Message::Unsubscribe { .. },
                TopicRole::Relay { .. },
            ) => false,
            (Message::Send { .. } | Message::Deliver { .. } | Message::Subscribe { .. }, _) => true,
            (Message::Attach { topic, is_relay, .. }, _) => peer == topic.node() || !is_relay,
            (Message::Unsubscribe { actor }, _) => {
                peer == actor.node() || self.subscribers.is_added_by(*actor, peer)
            }
            (Message::Upstreams { from, .. }, _) => peer == from.node(),
            (Message::Detach { from }, _) => peer == from.node(),
        }
    }

    fn on_self_message(&mut self, cx: &mut TopicCx<'_, T>, own: SelfMessage) {
        match own {
            SelfMessage::Acked { delivery, outcome } => {
                if let Some(finished) = self.deliveries.acknowledge(delivery, outcome) {
                    self.end_delivery(cx, finished);
                }
            }
            SelfMessage::Refused { delivery, subscriber } => {
                let channel = self.channel_id(cx.id());
                if self.subscribers.miss(cx, channel, subscriber) {
                    self.on_count_fallen(cx);
                }
                let outcome = DeliveryResult::To(0);
                self.on_self_message(cx, SelfMessage::Acked { delivery, outcome });
            }
            SelfMessage::Overdue(number) => self.time_out_answers(cx, number),
            SelfMessage::Due(number) => {
                if let Some(request) = self.deliveries.take_due(number) {
                    cx.reply(request.reply, DeliveryResult::TooFew(self.subscribers.total()));
                    log_panic(|| drop(request.message));
                }
            }
            SelfMessage::ReportCount => self.report_count(cx),
            SelfMessage::UpdateDownstream => {
                self.is_update_queued = false;
                self.update_downstream_when_possible(cx);
            }
            SelfMessage::Attached(Ok(SubscribeResult::Done(upstreams))) => {
                self.attached(cx, truncated(upstreams))
            }
            SelfMessage::Attached(Ok(SubscribeResult::Refused(reason)) | Err(reason)) => {
                self.fail(cx, &super::reason_of(reason), reason)
            }
            SelfMessage::End => self.is_over = true,
            // It is sent only at the end.
            SelfMessage::GoOn => {}
        }
    }

    /// Times out the open answers of a delivery, until the time of the round is over.
    fn time_out_answers(&mut self, cx: &mut TopicCx<'_, T>, delivery: u64) {
        let mut part = Part::new();
        while let Some(answer) = self.deliveries.take_request(delivery) {
            answer.time_out(cx);
            if part.is_over(cx.loop_ref()) {
                cx.push_self(self_message(SelfMessage::Overdue(delivery)));
                return;
            }
        }
    }

    // Messages and deliveries.

    fn forward(&mut self, cx: &mut TopicCx<'_, T>, message: T, hops: u8, bytes: usize) {
        if let Some(message) = self.transform(cx, message, hops) {
            let outgoing = OutgoingMessage::new(message, hops + 1, bytes, None);
            self.begin_fanout(cx, Content::Message(Box::new(outgoing)));
        }
    }

    fn begin_fanout(&mut self, cx: &mut TopicCx<'_, T>, content: Content<T>) {
        debug_assert!(self.fanout.is_none(), "a topic takes no message and no event during a fan-out");
        let channel = self.channel_id(cx.id());
        let has_ended = self.subscribers.begin(cx, channel, &content);
        self.fanout = Some(Fanout { has_ended, ..Fanout::new(content) });
        self.go_on_with_fanout(cx);
    }

    /// Passes the present message on to the next subscribers.
    fn go_on_with_fanout(&mut self, cx: &mut TopicCx<'_, T>) {
        let channel = self.channel_id(cx.id());
        let Some(mut fanout) = self.fanout.take() else { return };
        if !self.subscribers.send(cx, channel, &mut fanout) {
            self.fanout = Some(fanout);
            return;
        }
        let has_ended = fanout.has_ended;
        if let Some(delivery) = fanout.end() {
            self.await_answers(cx, delivery);
        }
        if has_ended {
            self.on_count_fallen(cx);
        }
    }

    /// Waits for the answers to a delivery whose message has gone to all subscribers.
    fn await_answers(&mut self, cx: &mut TopicCx<'_, T>, delivery: SentDelivery) {
        let SentDelivery { number, peer, reply, timer, received, open: requests, .. } = delivery;
        let count = requests.len();
        let answers = if count > 0 {
            Some(OpenAnswers { requests, timer })
        } else {
            cx.cancel(timer);
            None
        };
        self.begin_delivery(cx, peer, (number, count, received), answers, DeliveryEnd::Answer(reply));
    }

    /// Handles messages that this topic has missed: its subscribers miss them too. A transform might have dropped some of
    /// them.
    fn on_lagged(&mut self, cx: &mut TopicCx<'_, T>, upstream: ActorId, missed: u64) {
        // A peer can name any of its actors.
        if self.upstreams.has(upstream) {
            self.begin_fanout(cx, Content::Missed(missed));
        }
    }

    fn on_writable(&mut self, cx: &mut TopicCx<'_, T>, target: ActorId) {
        let channel = self.channel_id(cx.id());
        if self.subscribers.on_writable(cx, channel, target) {
            self.on_count_fallen(cx);
        }
        self.report_count_if_queued(cx);
    }

    /// Applies the transform; `None` if the message is dropped.
    fn transform(&mut self, cx: &mut TopicCx<'_, T>, message: T, hops: u8) -> Option<T> {
        if hops >= HOPS_MAX {
            let me = cx.id();
            cx.loop_ref().dead_letter(DeadLetter::new(
                me,
                "a message that came through too many channels",
                Undelivered::Dropped,
            ));
            log_panic(|| drop(message));
            return None;
        }
        let TopicRole::Channel { name, transform: Some(transform) } = &mut self.role else {
            return Some(message);
        };
        match catch_panic(|| transform(name, message)) {
            Ok(message) => message,
            Err(text) => {
                let me = cx.id();
                if NodeRef::of(cx.loop_ref()).may_log("transform", &*name) {
                    tracing::error!(channel = %name, text = printable(text), "the transform of a channel panicked; the message is dropped (logged at most once an hour)");
                }
                cx.loop_ref().dead_letter(DeadLetter::new(
                    me,
                    "a message whose transform panicked",
                    Undelivered::Dropped,
                ));
                None
            }
        }
    }

    fn on_deliver(&mut self, cx: &mut TopicCx<'_, T>, request: DeliveryRequest<T>) {
        if request.n <= self.subscribers.total() {
            return self.deliver(cx, request);
        }
        let left = request.until.since(cx.now());
        let has_room = self.deliveries.has_room(request.peer, 0)
            && self.deliveries.may_wait(request.peer, request.bytes);
        if left.is_zero() || !has_room {
            let reason = if left.is_zero() {
                DeliveryResult::TooFew(self.subscribers.total())
            } else {
                DeliveryResult::TooMany
            };
            cx.reply(request.reply, reason);
            return log_panic(|| drop(request.message));
        }
        let number = self.deliveries.next_number();
        let Ok(timer) = cx.after(left, self_message(SelfMessage::Due(number))) else {
            cx.reply(request.reply, DeliveryResult::TooMany);
            return log_panic(|| drop(request.message));
        };
        self.deliveries.add_waiting(number, request, timer);
    }

    fn deliver(&mut self, cx: &mut TopicCx<'_, T>, request: DeliveryRequest<T>) {
        if !self.deliveries.has_room(request.peer, self.subscribers.answering()) {
            cx.reply(request.reply, DeliveryResult::TooMany);
            return log_panic(|| drop(request.message));
        }
        let Some(message) = self.transform(cx, request.message, request.hops) else {
            return cx.reply(request.reply, DeliveryResult::To(0));
        };
        let delivery = self.deliveries.next_number();
        let left = request.until.since(cx.now());
        let within = left * TIME_FOR_SUBSCRIBERS.0 / TIME_FOR_SUBSCRIBERS.1;
        let Ok(timer) = cx.after(within, self_message(SelfMessage::Overdue(delivery))) else {
            cx.reply(request.reply, DeliveryResult::TooMany);
            return log_panic(|| drop(message));
        };
        let sent = SentDelivery {
            number: delivery,
            peer: request.peer,
            reply: Some(request.reply),
            within,
            timer,
            received: 0,
            open: Vec::new(),
        };
        let outgoing = OutgoingMessage::new(message, request.hops + 1, request.bytes, Some(sent));
        self.begin_fanout(cx, Content::Message(Box::new(outgoing)));
    }

    fn begin_delivery(
        &mut self,
        cx: &mut TopicCx<'_, T>,
        peer: Option<NodeId>,
        (delivery, open, received): (u64, usize, u64),
        answers: Option<OpenAnswers>,
        end: DeliveryEnd<T>,
    ) {
        if let Some(finished) = self.deliveries.begin(delivery, peer, (open, received), answers, end) {
            self.end_delivery(cx, finished);
        }
    }

    fn end_delivery(&mut self, cx: &mut TopicCx<'_, T>, finished: FinishedDelivery<T>) {
        if let Some(timer) = finished.timer {
            cx.cancel(timer);
        }
        match finished.end {
            DeliveryEnd::Answer(None) => {}
            DeliveryEnd::Answer(Some(reply)) => {
                cx.reply(
                    reply,
                    finished.refused.map_or(DeliveryResult::To(finished.received), DeliveryResult::Refused),
                );
            }
            DeliveryEnd::Attached { topic, reply } => match finished.refused {
                None => grant(cx, reply),
                Some(reason) => {
                    self.unsubscribe(cx, topic.id());
                    refuse_topic(cx, topic.id(), reply, reason);
                }
            },
        }
    }

    // Subscriptions.

    /// Handles a message that adds or removes a subscriber. A relay that waits for its channel queues it.
    fn on_subscription(&mut self, cx: &mut TopicCx<'_, T>, peer: Option<NodeId>, message: Message<T>) {
        match &mut self.role {
            TopicRole::Relay { phase: UpstreamPhase::Attaching(waiting), .. } => {
                if waiting.len() >= ENTRIES_MAX {
                    return self.refuse(cx, message, SubscribeError::Busy);
                }
                return waiting.push(message);
            }
            TopicRole::Relay { phase: UpstreamPhase::Closing, of, .. } => {
                let of = *of;
                return self.send_to_successor(cx, of, message);
            }
            TopicRole::Relay { phase: UpstreamPhase::Open, .. } | TopicRole::Channel { .. } => {}
        }
        match message {
            Message::Subscribe { actor, ends_on_lag, reply } => {
                self.subscribe(cx, peer, (actor, ends_on_lag), reply);
            }
            Message::Attach { topic, is_relay, reply } => self.attach(cx, peer, topic, is_relay, reply),
            Message::Unsubscribe { actor } => self.unsubscribe(cx, actor),
            _ => {}
        }
    }

    /// Sends a subscription that came after this relay left the relay table to the next relay, which is started if there
    /// is none.
    fn send_to_successor(&mut self, cx: &mut TopicCx<'_, T>, of: TopicAddr<T>, message: Message<T>) {
        if !matches!(message, Message::Unsubscribe { .. }) {
            let relay = super::relay_for(cx.loop_ref(), of);
            if let Err(error) = cx.send(relay, message.into()) {
                let reason = super::refusal(error.reason().into());
                self.refuse(cx, error.into_message().message, reason);
            }
        }
    }

    fn subscribe(
        &mut self,
        cx: &mut TopicCx<'_, T>,
        peer: Option<NodeId>,
        (actor, ends_on_lag): (Addr<T>, bool),
        reply: Option<ReplyTo<SubscribeResult>>,
    ) {
        // Another node may have added the actor before. The entry of the actor's own node, or of this one, replaces it.
        let is_own = peer.is_none_or(|peer| peer == actor.node());
        if !self.subscribers.has(actor.id())
            || (is_own && !self.subscribers.has_entry(actor.id(), peer, false))
        {
            let quota = match self.subscribers.take_quota(cx, peer) {
                Ok(quota) => quota,
                Err(reason) => return self.refuse_actor(cx, peer, actor.id(), reply, reason),
            };
            self.subscribers.insert(cx, Recipient::Actor(actor), quota, ends_on_lag);
            self.on_count_changed(cx);
        } else if self.subscribers.has_entry(actor.id(), peer, false) {
            self.subscribers.set_ends_on_lag(actor.id(), ends_on_lag);
        }
        grant(cx, reply);
    }

    fn attach(
        &mut self,
        cx: &mut TopicCx<'_, T>,
        peer: Option<NodeId>,
        topic: TopicAddr<T>,
        is_relay: bool,
        reply: Option<ReplyTo<SubscribeResult>>,
    ) {
        let id = topic.id();
        let refusal = match () {
            () if id == cx.id() || self.upstreams.includes(id) => Some(SubscribeError::Cycle),
            // Otherwise each peer could connect all channels with each other, and a message would multiply at each one.
            () if peer.is_some_and(|peer| peer != topic.node()) => Some(SubscribeError::NotYours),
            // A relay is always admitted: its subscribers are actors, and false upstreams must not exclude them.
            () if !is_relay && self.has_too_many_upstreams() => Some(SubscribeError::TooMany),
            () if !is_relay && !self.deliveries.has_room(peer, 1) => Some(SubscribeError::Busy),
            () => None,
        };
        if let Some(reason) = refusal {
            return refuse_topic(cx, id, reply, reason);
        }
        if self.subscribers.has_entry(id, peer, true) {
            return grant(cx, reply);
        }
        let quota = match self.subscribers.take_quota(cx, peer) {
            Ok(quota) => quota,
            Err(reason) => return refuse_topic(cx, id, reply, reason),
        };
        self.subscribers.insert(cx, Recipient::Topic(topic, 0), quota, false);
        if is_relay {
            if let Some(reply) = reply {
                cx.reply(reply, SubscribeResult::Done(self.upstream_ids(cx.id())));
            }
            return;
        }
        let delivery = self.deliveries.next_number();
        let no_answer = DeliveryResult::Refused(SubscribeError::NoSubscriber);
        let upstreams = self.upstream_ids(cx.id());
        send_upstreams(cx, topic, upstreams, delivery, no_answer);
        self.begin_delivery(cx, peer, (delivery, 1, 0), None, DeliveryEnd::Attached { topic, reply });
    }

    fn unsubscribe(&mut self, cx: &mut TopicCx<'_, T>, actor: ActorId) {
        let Some(recipient) = self.subscribers.remove(cx, actor) else { return };
        if let Recipient::Topic(topic, _) = recipient {
            let from = cx.id();
            cx.tell(topic, Message::Detach { from }.into());
        }
        self.on_count_changed(cx);
    }

    /// Refuses to subscribe an actor. The refusal is the reply; without a reply, an actor of this node receives one
    /// `Down`.
    fn refuse_actor(
        &mut self,
        cx: &mut TopicCx<'_, T>,
        peer: Option<NodeId>,
        actor: ActorId,
        reply: Option<ReplyTo<SubscribeResult>>,
        reason: SubscribeError,
    ) {
        match reply {
            Some(reply) => cx.reply(reply, SubscribeResult::Refused(reason)),
            None if peer.is_none() => {
                let channel = self.channel_id(cx.id());
                super::send_closed(cx.loop_ref(), actor, channel, super::reason_of(reason));
            }
            None => {
                tracing::debug!(subscriber = %actor, %reason, "an actor of another node was not subscribed")
            }
        }
    }

    fn refuse(&mut self, cx: &mut TopicCx<'_, T>, message: Message<T>, reason: SubscribeError) {
        match message {
            Message::Subscribe { actor, reply, .. } => self.refuse_actor(cx, None, actor.id(), reply, reason),
            Message::Attach { topic, reply, .. } => refuse_topic(cx, topic.id(), reply, reason),
            _ => {}
        }
    }

    /// The id of the channel: of this topic, or of the channel that this relay subscribes to.
    fn channel_id(&self, me: ActorId) -> ActorId {
        match &self.role {
            TopicRole::Channel { .. } => me,
            TopicRole::Relay { of, .. } => of.id(),
        }
    }

    /// Begins the deliveries that have enough subscribers now, and reports a changed number to the upstreams.
    fn on_count_changed(&mut self, cx: &mut TopicCx<'_, T>) {
        self.begin_deliveries(cx);
        self.on_count_fallen(cx);
    }

    /// Begins the deliveries that have enough subscribers, one after the other.
    fn begin_deliveries(&mut self, cx: &mut TopicCx<'_, T>) {
        while self.fanout.is_none()
            && let Some((request, timer)) = self.deliveries.take_satisfied(self.subscribers.total())
        {
            cx.cancel(timer);
            self.deliver(cx, request);
        }
    }

    /// As [`Topic::on_count_changed`], if there are fewer subscribers than before.
    fn on_count_fallen(&mut self, cx: &mut TopicCx<'_, T>) {
        let total = self.subscribers.total();
        if self.upstreams.iter().any(|upstream| upstream.reported != total)
            && !std::mem::replace(&mut self.is_report_queued, true)
        {
            cx.push_self(self_message(SelfMessage::ReportCount));
        }
    }

    /// Sends the number of subscribers to the upstreams: once for all changes since the report was queued.
    fn report_count(&mut self, cx: &mut TopicCx<'_, T>) {
        self.is_report_queued = false;
        let (topic, subscribers) = (cx.id(), self.subscribers.total());
        for upstream in self.upstreams.iter_mut().filter(|upstream| upstream.reported != subscribers) {
            match cx.send(upstream.addr, Message::Count { topic, subscribers }.into()) {
                // `Writable` follows.
                Err(SendError::Full(_) | SendError::Busy(_)) => self.is_report_queued = true,
                // After any other error the upstream is gone: its `Down` follows.
                Ok(()) | Err(_) => upstream.reported = subscribers,
            }
        }
    }

    /// Reports now, since an upstream that refused the number has room or is no upstream any more.
    fn report_count_if_queued(&mut self, cx: &mut TopicCx<'_, T>) {
        if self.is_report_queued {
            self.report_count(cx);
        }
    }

    // Upstreams.

    /// The ids of all upstreams of a downstream topic: this topic itself if it is a channel, and those of this topic. At most
    /// one more than allowed, so that a downstream topic still sees that there are too many.
    fn upstream_ids(&self, me: ActorId) -> Vec<ActorId> {
        let own = matches!(self.role, TopicRole::Channel { .. }).then_some(me);
        own.into_iter().chain(self.upstreams.ids()).take(UPSTREAMS_MAX + 1).collect()
    }

    /// Whether a downstream topic would have too many upstreams.
    fn has_too_many_upstreams(&self) -> bool {
        let own = usize::from(matches!(self.role, TopicRole::Channel { .. }));
        own + self.upstreams.len_all() > UPSTREAMS_MAX
    }

    fn on_upstreams(
        &mut self,
        cx: &mut TopicCx<'_, T>,
        peer: Option<NodeId>,
        from: TopicAddr<T>,
        ids: Vec<ActorId>,
        reply: Option<ReplyTo<DeliveryResult>>,
    ) {
        let is_new = !self.upstreams.has(from.id());
        let refusal = match () {
            () if ids.contains(&cx.id()) => Some(SubscribeError::Cycle),
            () if ids.len() > UPSTREAMS_MAX || (is_new && self.upstreams.len() >= UPSTREAMS_MAX) => {
                Some(SubscribeError::TooMany)
            }
            () if is_new && peer.is_some() && self.upstreams.len_of(from.node()) >= UPSTREAMS_OF_PEER_MAX => {
                Some(SubscribeError::TooMany)
            }
            () if peer.is_some() && cx.now() < self.next_update => Some(SubscribeError::Busy),
            () if !self.deliveries.has_room(peer, self.subscribers.topics_len()) => {
                Some(SubscribeError::Busy)
            }
            () => None,
        };
        if let Some(reason) = refusal {
            if let Some(reply) = reply {
                cx.reply(reply, DeliveryResult::Refused(reason));
            }
            return;
        }
        if is_new {
            let monitor = cx.monitor(from);
            self.upstreams.insert(from, ids, monitor);
        } else {
            self.upstreams.set_ids(from.id(), ids);
        }
        self.update_downstream(cx, peer, reply);
        if is_new {
            self.on_count_changed(cx);
        }
    }

    fn detach(&mut self, cx: &mut TopicCx<'_, T>, from: ActorId) {
        // A relay keeps its one channel until it ends.
        if matches!(self.role, TopicRole::Channel { .. })
            && let Some(upstream) = self.upstreams.remove(from)
        {
            cx.demonitor(upstream.monitor);
            self.report_count_if_queued(cx);
            self.update_downstream_when_possible(cx);
        }
    }

    /// Sends each downstream topic the ids of its upstreams, as soon as there is room for their answers.
    fn update_downstream_when_possible(&mut self, cx: &mut TopicCx<'_, T>) {
        let has_paused = cx.now() >= self.next_update;
        if has_paused && self.deliveries.has_room(None, self.subscribers.topics_len()) {
            self.update_downstream(cx, None, None);
        } else if !std::mem::replace(&mut self.is_update_queued, true) {
            let again = self_message(SelfMessage::UpdateDownstream);
            if cx.after(UPDATE_DOWNSTREAM_AGAIN_AFTER, again).is_err() {
                self.is_update_queued = false;
                self.update_downstream(cx, None, None);
            }
        }
    }

    /// Sends each downstream topic the ids of its upstreams. Their answers together become the `reply`.
    fn update_downstream(
        &mut self,
        cx: &mut TopicCx<'_, T>,
        peer: Option<NodeId>,
        reply: Option<ReplyTo<DeliveryResult>>,
    ) {
        let number = self.deliveries.next_number();
        let Ok(timer) = cx.after(ANSWER_WITHIN, self_message(SelfMessage::Overdue(number))) else {
            if let Some(reply) = reply {
                cx.reply(reply, DeliveryResult::Refused(SubscribeError::Busy));
            }
            return;
        };
        let topics = self.subscribers.topics_len();
        if topics >= MANY_TOPICS {
            let topics = u32::try_from(topics).unwrap_or(u32::MAX);
            self.next_update = cx.now() + UPDATE_PAUSE_FOR_TOPIC.saturating_mul(topics);
        }
        let (within, received, open) = (ANSWER_WITHIN, 0, Vec::new());
        let delivery = SentDelivery { number, peer, reply, within, timer, received, open };
        let update = UpstreamsUpdate::new(self.upstream_ids(cx.id()), delivery);
        self.begin_fanout(cx, Content::Upstreams(Box::new(update)));
    }

    // Exits.

    fn on_down(&mut self, cx: &mut TopicCx<'_, T>, down: &Down) {
        let is_subscriber = self.subscribers.remove(cx, down.actor).is_some();
        if self.upstreams.remove(down.actor).is_some() {
            self.report_count_if_queued(cx);
            match &self.role {
                TopicRole::Channel { .. } => self.update_downstream_when_possible(cx),
                TopicRole::Relay { .. } => {
                    let lost = matches!(down.reason, ExitReason::NodeLost);
                    let reason = if lost { SubscribeError::NodeLost } else { SubscribeError::NoChannel };
                    self.fail(cx, &down.reason, reason);
                }
            }
        }
        if is_subscriber {
            tracing::debug!(subscriber = %down.actor, reason = %down.reason, "a subscriber has exited");
            self.on_count_changed(cx);
        }
    }

    /// Handles the answer of the channel to its relay: the queued subscriptions follow.
    fn attached(&mut self, cx: &mut TopicCx<'_, T>, upstreams: Vec<ActorId>) {
        let TopicRole::Relay { of, phase, .. } = &mut self.role else { return };
        self.upstreams.set_ids(of.id(), upstreams);
        let UpstreamPhase::Attaching(waiting) = std::mem::replace(phase, UpstreamPhase::Open) else { return };
        for message in waiting {
            self.on_subscription(cx, None, message);
        }
    }

    /// Ends a relay that lost its channel, or could not subscribe to it.
    fn fail(&mut self, cx: &mut TopicCx<'_, T>, reason: &ExitReason, refusal: SubscribeError) {
        let TopicRole::Relay { phase, .. } = &mut self.role else { return };
        if let UpstreamPhase::Attaching(waiting) = std::mem::replace(phase, UpstreamPhase::Open) {
            for message in waiting {
                self.refuse(cx, message, refusal);
            }
        }
        self.close(cx, reason);
    }

    /// Closes the topic. Each actor of this node that subscribes to it receives one `Down`.
    fn close(&mut self, cx: &mut TopicCx<'_, T>, reason: &ExitReason) {
        let channel = self.channel_id(cx.id());
        self.subscribers.report_all(cx, channel);
        for actor in self.subscribers.actors() {
            super::send_closed(cx.loop_ref(), actor.id(), channel, reason.clone());
        }
        for request in self.deliveries.take_all_waiting() {
            cx.reply(request.reply, DeliveryResult::Closed);
            log_panic(|| drop(request.message));
        }
        self.leave_relay_table(cx);
        self.is_over = true;
    }

    /// A step of a topic that was terminated during a fan-out: it completes what it has begun. Messages behind the termination are
    /// dropped, as those in the mailbox of an actor that has ended.
    fn step_at_end(&mut self, cx: &mut TopicCx<'_, T>, event: Event<FromNode<Message<T>>>) {
        match event {
            Event::Message(FromNode {
                message: Message::SelfMessage(SelfMessage::GoOn), from: None, ..
            }) => {
                self.go_on_with_fanout(cx);
                self.begin_deliveries(cx);
                if self.fanout.is_some() {
                    cx.push_self(self_message(SelfMessage::GoOn));
                    return;
                }
                self.close(cx, &ExitReason::Terminated);
                let me = cx.id();
                cx.kill(me);
            }
            Event::Message(message) => {
                let (me, type_name) = (cx.id(), type_name::<FromNode<Message<T>>>());
                cx.loop_ref().dead_letter(DeadLetter::new(me, type_name, Undelivered::NoActor));
                log_panic(|| drop(message));
            }
            Event::Thrown(thrown) => log_panic(|| drop(thrown.take())),
            _ => {}
        }
    }

    fn leave_relay_table(&mut self, cx: &mut TopicCx<'_, T>) {
        let TopicRole::Relay { of, tag, .. } = &self.role else { return };
        let me = cx.id().key();
        if let Some(state) = state(cx.loop_ref()) {
            state.relays.remove(of.id(), tag, me);
        }
    }

    /// Begins to close a relay without subscribers. It ends once it has handled the messages in its mailbox.
    fn close_if_idle(&mut self, cx: &mut TopicCx<'_, T>) {
        if matches!(self.role, TopicRole::Relay { phase: UpstreamPhase::Open, .. })
            && self.subscribers.is_empty()
        {
            self.leave_relay_table(cx);
            if let TopicRole::Relay { phase, .. } = &mut self.role {
                *phase = UpstreamPhase::Closing;
            }
            cx.push_self(self_message(SelfMessage::End));
        }
    }
}

/// Limits the upstream ids of a peer to one more than allowed.
fn truncated(mut upstreams: Vec<ActorId>) -> Vec<ActorId> {
    upstreams.truncate(UPSTREAMS_MAX + 1);
    upstreams
}

fn grant<T: Wire>(cx: &mut TopicCx<'_, T>, reply: Option<ReplyTo<SubscribeResult>>) {
    if let Some(reply) = reply {
        cx.reply(reply, SubscribeResult::Done(Vec::new()));
    }
}

fn refuse_topic<T: Wire>(
    cx: &mut TopicCx<'_, T>,
    topic: ActorId,
    reply: Option<ReplyTo<SubscribeResult>>,
    reason: SubscribeError,
) {
    match reply {
        Some(reply) => cx.reply(reply, SubscribeResult::Refused(reason)),
        None if NodeRef::of(cx.loop_ref()).may_log("not subscribed", topic) => {
            tracing::warn!(subscriber = %topic, %reason, "a channel was not subscribed to another one (logged at most once an hour)");
        }
        None => {}
    }
}

/// Sends its upstreams to a downstream topic. `no_answer` is the outcome if it does not answer.
fn send_upstreams<T: Wire>(
    cx: &mut TopicCx<'_, T>,
    topic: TopicAddr<T>,
    ids: Vec<ActorId>,
    delivery: u64,
    no_answer: DeliveryResult,
) {
    let from = cx.addr();
    let upstreams = move |reply| Message::Upstreams { from, ids, reply: Some(reply) }.into();
    cx.ask(topic, ANSWER_WITHIN, upstreams, move |answer: Result<DeliveryResult, _>| {
        acked(delivery, answer.unwrap_or(no_answer))
    });
}

impl<T: Wire + Clone> Actor<FromNode<Message<T>>> for Topic<T> {
    fn step(
        &mut self,
        cx: &mut TopicCx<'_, T>,
        event: Event<FromNode<Message<T>>>,
    ) -> Step<FromNode<Message<T>>> {
        if self.is_ending {
            self.step_at_end(cx, event);
            return receive();
        }
        match event {
            Event::Start => self.start(cx),
            Event::Message(message) => self.on_message(cx, message),
            Event::Down(down) => self.on_down(cx, &down),
            Event::Writable { target } => self.on_writable(cx, target),
            Event::Lagged { channel, missed } => self.on_lagged(cx, channel, missed),
            Event::Timeout => {
                self.go_on_with_fanout(cx);
                self.begin_deliveries(cx);
            }
            Event::Terminate if self.fanout.is_some() => {
                self.is_ending = true;
                cx.push_self(self_message(SelfMessage::GoOn));
                return finishing(ENDING_WITHIN);
            }
            Event::Terminate => {
                self.close(cx, &ExitReason::Terminated);
                return receive();
            }
            // Takes and drops the thrown value, so that it does not fail the topic actor.
            Event::Thrown(thrown) => log_panic(|| drop(thrown.take())),
            _ => {}
        }
        if self.fanout.is_some() {
            // Messages and most events wait meanwhile.
            return sleep(Duration::ZERO);
        }
        if !self.is_over {
            self.close_if_idle(cx);
        }
        if self.is_over { stop() } else { receive() }
    }
}
