//! The hidden actor behind a channel, and behind a node's subscriptions to a channel elsewhere (a *relay*).
//!
//! Both pass messages on to those below. A channel has a name, and a transform if its maker wants one; a relay stands
//! below one channel, from its first subscriber to its last.
//!
//! Invariant: whoever is above a channel is not below it, but for moments that `hops` bounds. What one actor sends
//! reaches each receiver in order; code of users that panics in here ends nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use antiphon_sched::{
    Actor, ActorId, Addr, Cx, Down, Event, ExitReason, Monitor, NodeId, ReplyTo, SendError, SignalPolicy,
    Step, Undelivered, Wire, millis, receive, secs, stop,
};

use super::message::{ChannelMessage, Delivered, SelfMessage, Subscribed, TopicAddr, own};
use super::pending_deliveries::{DeliveryEnd, FinishedDelivery, OrderedDelivery, PendingDeliveries};
use super::subscribers::{ENTRIES_MAX, Recipient, Subscribers, acked};
use crate::cx::{may_log, node_mut};
use crate::error::SubscribeError;
use crate::from_node::FromNode;
use crate::panic_guard::{catch_panic, log_panic};

/// Channels above one channel, all levels together.
const ABOVE_MAX: usize = 64;
/// Channels that are directly above one channel, of one other node.
const UPSTREAMS_OF_PEER_MAX: usize = ABOVE_MAX / 2;
/// Channels and relays that a message may come through: two for each level.
const HOPS_MAX: u8 = 2 * ABOVE_MAX as u8 + 2;
/// How long a branch may take to say what it thinks of what is above it.
const ANSWER_WITHIN: Duration = secs(5);
/// How long a relay waits for its channel: longer than a node needs to notice that another is lost.
const JOIN_WITHIN: Duration = secs(60);
/// How long a delivery that another node ordered may wait for receivers.
const WAIT_OF_PEERS_MAX: Duration = secs(24 * 3600);
/// When to try again to tell a full mailbox how many receivers there are.
const TELL_AGAIN: Duration = millis(20);
/// When to try again to tell those below what is above them, after there was no room for that.
const RETELL_AFTER: Duration = secs(1);

type Message<T> = ChannelMessage<T>;
type TopicCx<'c, T> = Cx<'c, FromNode<Message<T>>>;

/// Changes or drops what a channel passes on; it is told the channel's name.
pub(super) type Transform<T> = dyn FnMut(&str, T) -> Option<T>;

pub(super) struct Topic<T> {
    role: TopicRole<T>,
    subscribers: Subscribers<T>,
    upstreams: BTreeMap<ActorId, Upstream<T>>,
    deliveries: PendingDeliveries<T>,
    recounting: bool,
    retelling: bool,
    is_over: bool,
}

enum TopicRole<T> {
    Channel { name: Box<str>, transform: Option<Box<Transform<T>>> },
    Relay { of: TopicAddr<T>, tag: &'static str, phase: UpstreamPhase<T> },
}

enum UpstreamPhase<T> {
    /// The channel has not answered yet: who wants something meanwhile waits.
    Joining(Vec<Message<T>>),
    Open,
    /// It is nobody's relay any more; who still comes is sent on.
    Closing,
}

/// What this one is a branch of.
struct Upstream<T> {
    addr: TopicAddr<T>,
    /// All that is above, through this one, and this one.
    ids: Vec<ActorId>,
    /// How many receivers it was told of.
    told: u64,
    monitor: Monitor,
}

impl<T: Wire + Clone> Topic<T> {
    pub(super) fn channel(name: &str, transform: Option<Box<Transform<T>>>) -> Self {
        Self::new(TopicRole::Channel { name: name.into(), transform })
    }

    pub(super) fn relay(of: TopicAddr<T>, tag: &'static str) -> Self {
        Self::new(TopicRole::Relay { of, tag, phase: UpstreamPhase::Joining(Vec::new()) })
    }

    fn new(role: TopicRole<T>) -> Self {
        Self {
            role,
            subscribers: Subscribers::new(),
            upstreams: BTreeMap::new(),
            deliveries: PendingDeliveries::new(),
            recounting: false,
            retelling: false,
            is_over: false,
        }
    }

    fn start(&mut self, cx: &mut TopicCx<'_, T>) {
        cx.set_daemon(true);
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
                self.upstreams.insert(of.id(), Upstream { addr: of, ids: vec![of.id()], told: 0, monitor });
                let relay = cx.addr();
                let attach =
                    move |reply| Message::Attach { relay, is_relay: true, reply: Some(reply) }.into();
                cx.ask(of, JOIN_WITHIN, attach, |answer: Result<Subscribed, _>| {
                    own(SelfMessage::Joined(answer.map_err(super::refusal)))
                });
            }
        }
    }

    fn take(&mut self, cx: &mut TopicCx<'_, T>, told: FromNode<Message<T>>) {
        let FromNode { what: message, by, bytes } = told;
        if !self.admits(by, &message) {
            tracing::debug!(
                by = by.map(tracing::field::display),
                "a node told a channel what is not its to tell"
            );
            return log_panic(|| drop(message));
        }
        match message {
            Message::Send { message, hops } => self.pass_on(cx, message, hops),
            Message::Deliver { message, n, within, hops, reply } => {
                let within = if by.is_none() { within } else { within.min(WAIT_OF_PEERS_MAX) };
                let until = cx.now() + within;
                self.order(cx, OrderedDelivery { message, n, until, hops, reply, by, bytes });
            }
            Message::Subscribe { .. } | Message::Attach { .. } | Message::Unsubscribe { .. } => {
                self.manage(cx, by, message);
            }
            Message::Count { relay, below } => {
                self.subscribers.set_count(relay, below);
                self.counted(cx);
            }
            Message::Above { from, ids, reply } => self.on_above(cx, by, from, ids, reply),
            Message::Detach { from } => self.detach(cx, from),
            Message::SelfMessage(own) => self.on_own(cx, own),
        }
    }

    /// Whether a node, `None` for this one, may say that. Whoever is named in a message may be anybody's guess.
    fn admits(&self, by: Option<NodeId>, message: &Message<T>) -> bool {
        let Some(by) = by else { return true };
        match (message, &self.role) {
            (Message::SelfMessage(_), _) => false,
            (Message::Count { relay, .. }, _) => by == relay.node(),
            // A relay serves its own node, and hears from its channel alone.
            (Message::Send { .. } | Message::Deliver { .. }, TopicRole::Relay { of, .. }) => by == of.node(),
            (Message::Above { from, .. }, TopicRole::Relay { of, .. }) => from == of && by == of.node(),
            (
                Message::Subscribe { .. } | Message::Attach { .. } | Message::Unsubscribe { .. },
                TopicRole::Relay { .. },
            ) => false,
            (Message::Send { .. } | Message::Deliver { .. } | Message::Subscribe { .. }, _) => true,
            (Message::Attach { relay, is_relay, .. }, _) => by == relay.node() || !is_relay,
            (Message::Unsubscribe { actor }, _) => {
                by == actor.node() || self.subscribers.is_brought_by(*actor, by)
            }
            (Message::Above { from, .. }, _) => by == from.node(),
            (Message::Detach { from }, _) => by == from.node(),
        }
    }

    fn on_own(&mut self, cx: &mut TopicCx<'_, T>, own: SelfMessage) {
        match own {
            SelfMessage::Acked { delivery, outcome } => {
                if let Some(over) = self.deliveries.acknowledge(delivery, outcome) {
                    self.end_delivery(cx, over);
                }
            }
            SelfMessage::Due(number) => {
                if let Some(order) = self.deliveries.take_due(number) {
                    cx.reply(order.reply, Delivered::TooFew(self.subscribers.total()));
                    log_panic(|| drop(order.message));
                }
            }
            SelfMessage::Recount => self.recount(cx),
            SelfMessage::Retell => {
                self.retelling = false;
                self.tell_all_below(cx);
            }
            SelfMessage::Joined(Ok(Subscribed::Done(above))) => self.joined(cx, told(above)),
            SelfMessage::Joined(Ok(Subscribed::Refused(reason)) | Err(reason)) => {
                self.fail(cx, &super::reason_of(reason), reason)
            }
            SelfMessage::End => self.is_over = true,
        }
    }

    // What is passed on.

    fn pass_on(&mut self, cx: &mut TopicCx<'_, T>, message: T, hops: u8) {
        if let Some(message) = self.transformed(cx, message, hops) {
            self.subscribers.send(cx, message, hops + 1);
        }
    }

    /// The message as it is passed on, if it is.
    fn transformed(&mut self, cx: &mut TopicCx<'_, T>, message: T, hops: u8) -> Option<T> {
        if hops >= HOPS_MAX {
            let me = cx.id();
            cx.loop_ref().dead_letter(
                me,
                "a message that went in circles through channels",
                Undelivered::NoActor,
            );
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
                if may_log(cx.loop_ref(), "transform", &*name) {
                    tracing::error!(channel = %name, text, "the transform of a channel panicked; the message is dropped (said once an hour)");
                }
                cx.loop_ref().dead_letter(me, "a message whose transform panicked", Undelivered::Encode);
                None
            }
        }
    }

    fn order(&mut self, cx: &mut TopicCx<'_, T>, order: OrderedDelivery<T>) {
        if order.n <= self.subscribers.total() {
            return self.deliver(cx, order);
        }
        let left = order.until.since(cx.now());
        let has_room =
            self.deliveries.has_room(order.by, 0) && self.deliveries.may_wait(order.by, order.bytes);
        if left.is_zero() || !has_room {
            let reason =
                if left.is_zero() { Delivered::TooFew(self.subscribers.total()) } else { Delivered::TooMany };
            cx.reply(order.reply, reason);
            return log_panic(|| drop(order.message));
        }
        let number = self.deliveries.next_number();
        let timer = cx.after(left, own(SelfMessage::Due(number)));
        self.deliveries.keep(number, order, timer);
    }

    fn deliver(&mut self, cx: &mut TopicCx<'_, T>, order: OrderedDelivery<T>) {
        if !self.deliveries.has_room(order.by, self.subscribers.answers(cx.id().node())) {
            cx.reply(order.reply, Delivered::TooMany);
            return log_panic(|| drop(order.message));
        }
        let Some(message) = self.transformed(cx, order.message, order.hops) else {
            return cx.reply(order.reply, Delivered::To(0));
        };
        let delivery = self.deliveries.next_number();
        let left = order.until.since(cx.now());
        let (have, open) = self.subscribers.deliver(cx, message, (delivery, order.hops + 1, left));
        self.begin_delivery(cx, order.by, (delivery, open, have), DeliveryEnd::Answer(Some(order.reply)));
    }

    fn begin_delivery(
        &mut self,
        cx: &mut TopicCx<'_, T>,
        by: Option<NodeId>,
        (delivery, open, have): (u64, usize, u64),
        end: DeliveryEnd<T>,
    ) {
        if let Some(over) = self.deliveries.begin(delivery, by, (open, have), end) {
            self.end_delivery(cx, over);
        }
    }

    fn end_delivery(&mut self, cx: &mut TopicCx<'_, T>, over: FinishedDelivery<T>) {
        match over.end {
            DeliveryEnd::Answer(None) => {}
            DeliveryEnd::Answer(Some(reply)) => {
                cx.reply(reply, over.refused.map_or(Delivered::To(over.have), Delivered::Refused));
            }
            DeliveryEnd::Attached { relay, reply } => match over.refused {
                None => grant(cx, reply),
                Some(reason) => {
                    self.drop_receiver(cx, relay.id());
                    refuse_relay(cx, relay.id(), reply, reason);
                }
            },
        }
    }

    // Who receives it.

    /// Somebody wants to receive what is passed on, or no longer.
    fn manage(&mut self, cx: &mut TopicCx<'_, T>, by: Option<NodeId>, message: Message<T>) {
        match &mut self.role {
            TopicRole::Relay { phase: UpstreamPhase::Joining(waiting), .. } => {
                if waiting.len() >= ENTRIES_MAX {
                    return self.turn_away(cx, message, SubscribeError::Busy);
                }
                return waiting.push(message);
            }
            TopicRole::Relay { phase: UpstreamPhase::Closing, of, .. } => {
                let of = *of;
                return self.send_on(cx, of, message);
            }
            TopicRole::Relay { phase: UpstreamPhase::Open, .. } | TopicRole::Channel { .. } => {}
        }
        match message {
            Message::Subscribe { actor, reply } => self.subscribe(cx, by, actor, reply),
            Message::Attach { relay, is_relay, reply } => self.attach(cx, by, relay, is_relay, reply),
            Message::Unsubscribe { actor } => self.drop_receiver(cx, actor),
            _ => {}
        }
    }

    /// It came when this was no relay any more: there may be another, or will be.
    fn send_on(&mut self, cx: &mut TopicCx<'_, T>, of: TopicAddr<T>, message: Message<T>) {
        if !matches!(message, Message::Unsubscribe { .. }) {
            let relay = super::relay_for(cx.loop_ref(), of);
            if let Err(error) = cx.send(relay, message.into()) {
                let reason = super::refusal(error.reason().into());
                self.turn_away(cx, error.into_message().what, reason);
            }
        }
    }

    fn subscribe(
        &mut self,
        cx: &mut TopicCx<'_, T>,
        by: Option<NodeId>,
        actor: Addr<T>,
        reply: Option<ReplyTo<Subscribed>>,
    ) {
        // Others may have subscribed it before: whose it is, has the say.
        let is_own = by.is_none_or(|by| by == actor.node());
        if !self.subscribers.has(actor.id()) || (is_own && !self.subscribers.is_held(actor.id(), by, false)) {
            let share = match self.subscribers.take_share(cx, by) {
                Ok(share) => share,
                Err(reason) => return self.refuse_actor(cx, by, actor.id(), reply, reason),
            };
            self.subscribers.insert(cx, Recipient::Actor(actor), share);
            self.counted(cx);
        }
        grant(cx, reply);
    }

    fn attach(
        &mut self,
        cx: &mut TopicCx<'_, T>,
        by: Option<NodeId>,
        relay: TopicAddr<T>,
        is_relay: bool,
        reply: Option<ReplyTo<Subscribed>>,
    ) {
        let id = relay.id();
        let above = self.above(cx.id());
        let refusal = match () {
            () if id == cx.id() || above.contains(&id) => Some(SubscribeError::Cycle),
            // Or anybody could weave all channels into one net, where a message multiplies at each knot.
            () if by.is_some_and(|by| by != relay.node()) => Some(SubscribeError::NotYours),
            // A relay brings actors, which are below no channel: they are not to suffer from what is claimed to be above.
            () if !is_relay && above.len() > ABOVE_MAX => Some(SubscribeError::TooMany),
            () if !is_relay && !self.deliveries.has_room(by, 1) => Some(SubscribeError::Busy),
            () => None,
        };
        if let Some(reason) = refusal {
            return refuse_relay(cx, id, reply, reason);
        }
        if self.subscribers.is_held(id, by, true) {
            return grant(cx, reply);
        }
        let share = match self.subscribers.take_share(cx, by) {
            Ok(share) => share,
            Err(reason) => return refuse_relay(cx, id, reply, reason),
        };
        self.subscribers.insert(cx, Recipient::Relay(relay, 0), share);
        if is_relay {
            if let Some(reply) = reply {
                cx.reply(reply, Subscribed::Done(told(above)));
            }
            return;
        }
        let delivery = self.deliveries.next_number();
        tell_above(cx, relay, told(above), delivery, Delivered::Refused(SubscribeError::NoSubscriber));
        self.begin_delivery(cx, by, (delivery, 1, 0), DeliveryEnd::Attached { relay, reply });
    }

    fn drop_receiver(&mut self, cx: &mut TopicCx<'_, T>, actor: ActorId) {
        let Some(receiver) = self.subscribers.remove(cx, actor) else { return };
        if let Recipient::Relay(relay, _) = receiver {
            let from = cx.id();
            cx.tell(relay, Message::Detach { from }.into());
        }
        self.counted(cx);
    }

    /// Tells an actor that it is not subscribed: by the answer, or by one `Down`, if its own node asked.
    fn refuse_actor(
        &mut self,
        cx: &mut TopicCx<'_, T>,
        by: Option<NodeId>,
        actor: ActorId,
        reply: Option<ReplyTo<Subscribed>>,
        reason: SubscribeError,
    ) {
        match reply {
            Some(reply) => cx.reply(reply, Subscribed::Refused(reason)),
            None if by.is_none() => {
                let channel = self.channel_id(cx.id());
                super::tell_closed(cx.loop_ref(), actor, channel, super::reason_of(reason));
            }
            None => tracing::debug!(subscriber = %actor, %reason, "an actor elsewhere was not subscribed"),
        }
    }

    fn turn_away(&mut self, cx: &mut TopicCx<'_, T>, message: Message<T>, reason: SubscribeError) {
        match message {
            Message::Subscribe { actor, reply } => self.refuse_actor(cx, None, actor.id(), reply, reason),
            Message::Attach { relay, reply, .. } => refuse_relay(cx, relay.id(), reply, reason),
            _ => {}
        }
    }

    /// The channel that subscribers know: this one, or that of which this is a relay.
    fn channel_id(&self, me: ActorId) -> ActorId {
        match &self.role {
            TopicRole::Channel { .. } => me,
            TopicRole::Relay { of, .. } => of.id(),
        }
    }

    /// The number of receivers may have changed.
    fn counted(&mut self, cx: &mut TopicCx<'_, T>) {
        while let Some((order, timer)) = self.deliveries.take_served(self.subscribers.total()) {
            cx.cancel(timer);
            self.deliver(cx, order);
        }
        let total = self.subscribers.total();
        if self.upstreams.values().any(|upstream| upstream.told != total)
            && !std::mem::replace(&mut self.recounting, true)
        {
            cx.push_self(own(SelfMessage::Recount));
        }
    }

    /// Tells those above how many receivers there are; once for all that changed in a turn.
    fn recount(&mut self, cx: &mut TopicCx<'_, T>) {
        self.recounting = false;
        let (relay, below) = (cx.id(), self.subscribers.total());
        for upstream in self.upstreams.values_mut().filter(|upstream| upstream.told != below) {
            match cx.send(upstream.addr, Message::Count { relay, below }.into()) {
                Err(SendError::Full(_) | SendError::Busy(_)) => self.recounting = true,
                // Who cannot be told for any other reason is gone.
                Ok(()) | Err(_) => upstream.told = below,
            }
        }
        if self.recounting {
            cx.after(TELL_AGAIN, own(SelfMessage::Recount));
        }
    }

    // What is above.

    /// All that is above what is attached here.
    fn above(&self, me: ActorId) -> Vec<ActorId> {
        let mut above: BTreeSet<ActorId> =
            self.upstreams.values().flat_map(|upstream| upstream.ids.iter().copied()).collect();
        if matches!(self.role, TopicRole::Channel { .. }) {
            above.insert(me);
        }
        above.into_iter().collect()
    }

    fn on_above(
        &mut self,
        cx: &mut TopicCx<'_, T>,
        by: Option<NodeId>,
        from: TopicAddr<T>,
        ids: Vec<ActorId>,
        reply: Option<ReplyTo<Delivered>>,
    ) {
        let is_new = !self.upstreams.contains_key(&from.id());
        let of_peer =
            || self.upstreams.values().filter(|upstream| upstream.addr.node() == from.node()).count();
        let refusal = match () {
            () if ids.contains(&cx.id()) => Some(SubscribeError::Cycle),
            () if ids.len() > ABOVE_MAX || (is_new && self.upstreams.len() >= ABOVE_MAX) => {
                Some(SubscribeError::TooMany)
            }
            () if is_new && by.is_some() && of_peer() >= UPSTREAMS_OF_PEER_MAX => {
                Some(SubscribeError::TooMany)
            }
            () if !self.deliveries.has_room(by, self.subscribers.relays().count()) => {
                Some(SubscribeError::Busy)
            }
            () => None,
        };
        if let Some(reason) = refusal {
            if let Some(reply) = reply {
                cx.reply(reply, Delivered::Refused(reason));
            }
            return;
        }
        match self.upstreams.get_mut(&from.id()) {
            Some(upstream) => upstream.ids = ids,
            None => {
                let monitor = cx.monitor(from);
                self.upstreams.insert(from.id(), Upstream { addr: from, ids, told: 0, monitor });
                self.counted(cx);
            }
        }
        self.tell_below(cx, by, reply);
    }

    fn detach(&mut self, cx: &mut TopicCx<'_, T>, from: ActorId) {
        // A relay has one channel for all its life.
        if matches!(self.role, TopicRole::Channel { .. })
            && let Some(upstream) = self.upstreams.remove(&from)
        {
            cx.demonitor(upstream.monitor);
            self.tell_all_below(cx);
        }
    }

    /// Tells all branches what is above them, as soon as there is room to wait for their answers.
    fn tell_all_below(&mut self, cx: &mut TopicCx<'_, T>) {
        if self.deliveries.has_room(None, self.subscribers.relays().count()) {
            self.tell_below(cx, None, None);
        } else if !std::mem::replace(&mut self.retelling, true) {
            cx.after(RETELL_AFTER, own(SelfMessage::Retell));
        }
    }

    /// Tells all branches what is above them, and then `reply` what they think of it.
    fn tell_below(&mut self, cx: &mut TopicCx<'_, T>, by: Option<NodeId>, reply: Option<ReplyTo<Delivered>>) {
        let above = told(self.above(cx.id()));
        let delivery = self.deliveries.next_number();
        let relays: Vec<TopicAddr<T>> = self.subscribers.relays().collect();
        for relay in &relays {
            tell_above(cx, *relay, above.clone(), delivery, Delivered::To(0));
        }
        self.begin_delivery(cx, by, (delivery, relays.len(), 0), DeliveryEnd::Answer(reply));
    }

    // Ends.

    fn on_down(&mut self, cx: &mut TopicCx<'_, T>, down: &Down) {
        if self.subscribers.remove(cx, down.actor).is_some() {
            tracing::debug!(subscriber = %down.actor, reason = %down.reason, "a subscriber has ended");
            self.counted(cx);
        }
        if self.upstreams.remove(&down.actor).is_none() {
            return;
        }
        match &self.role {
            TopicRole::Channel { .. } => self.tell_all_below(cx),
            TopicRole::Relay { .. } => {
                let lost = matches!(down.reason, ExitReason::NodeLost);
                let reason = if lost { SubscribeError::NodeLost } else { SubscribeError::NoChannel };
                self.fail(cx, &down.reason, reason);
            }
        }
    }

    /// The channel has answered its relay.
    fn joined(&mut self, cx: &mut TopicCx<'_, T>, above: Vec<ActorId>) {
        let TopicRole::Relay { of, phase, .. } = &mut self.role else { return };
        if let Some(upstream) = self.upstreams.get_mut(&of.id()) {
            upstream.ids = above;
        }
        let UpstreamPhase::Joining(waiting) = std::mem::replace(phase, UpstreamPhase::Open) else { return };
        for message in waiting {
            self.manage(cx, None, message);
        }
    }

    /// The relay has no channel any more: its subscribers are told, once.
    fn fail(&mut self, cx: &mut TopicCx<'_, T>, reason: &ExitReason, refusal: SubscribeError) {
        let TopicRole::Relay { phase, .. } = &mut self.role else { return };
        if let UpstreamPhase::Joining(waiting) = std::mem::replace(phase, UpstreamPhase::Open) {
            for message in waiting {
                self.turn_away(cx, message, refusal);
            }
        }
        self.tell_end(cx, reason);
    }

    /// Tells all actors of this node that receive from here that nothing more comes.
    fn tell_end(&mut self, cx: &mut TopicCx<'_, T>, reason: &ExitReason) {
        let channel = self.channel_id(cx.id());
        for actor in self.subscribers.actors() {
            super::tell_closed(cx.loop_ref(), actor.id(), channel, reason.clone());
        }
        for order in self.deliveries.take_all_waiting() {
            cx.reply(order.reply, Delivered::Closed);
            log_panic(|| drop(order.message));
        }
        self.leave_table(cx);
        self.is_over = true;
    }

    fn leave_table(&mut self, cx: &mut TopicCx<'_, T>) {
        let TopicRole::Relay { of, tag, .. } = &self.role else { return };
        let me = cx.id().key();
        if let Some(core) = node_mut(cx.loop_ref()) {
            core.remove_relay(of.id(), tag, me);
        }
    }

    /// A relay without receivers ends, when it has taken what was sent to it meanwhile.
    fn rest(&mut self, cx: &mut TopicCx<'_, T>) {
        if matches!(self.role, TopicRole::Relay { phase: UpstreamPhase::Open, .. })
            && self.subscribers.is_empty()
        {
            self.leave_table(cx);
            if let TopicRole::Relay { phase, .. } = &mut self.role {
                *phase = UpstreamPhase::Closing;
            }
            cx.push_self(own(SelfMessage::End));
        }
    }
}

/// Of what is above, as much as says that it is too much.
fn told(mut above: Vec<ActorId>) -> Vec<ActorId> {
    above.truncate(ABOVE_MAX + 1);
    above
}

fn grant<T: Wire>(cx: &mut TopicCx<'_, T>, reply: Option<ReplyTo<Subscribed>>) {
    if let Some(reply) = reply {
        cx.reply(reply, Subscribed::Done(Vec::new()));
    }
}

fn refuse_relay<T: Wire>(
    cx: &mut TopicCx<'_, T>,
    relay: ActorId,
    reply: Option<ReplyTo<Subscribed>>,
    reason: SubscribeError,
) {
    match reply {
        Some(reply) => cx.reply(reply, Subscribed::Refused(reason)),
        None if may_log(cx.loop_ref(), "not subscribed", relay) => {
            tracing::warn!(subscriber = %relay, %reason, "a channel was not subscribed to another (said once an hour)");
        }
        None => {}
    }
}

/// Tells a branch what is above it; that it does not answer counts as `silence`.
fn tell_above<T: Wire>(
    cx: &mut TopicCx<'_, T>,
    relay: TopicAddr<T>,
    ids: Vec<ActorId>,
    delivery: u64,
    silence: Delivered,
) {
    let from = cx.addr();
    let above = move |reply| Message::Above { from, ids, reply: Some(reply) }.into();
    cx.ask(relay, ANSWER_WITHIN, above, move |answer: Result<Delivered, _>| {
        acked(delivery, answer.unwrap_or(silence))
    });
}

impl<T: Wire + Clone> Actor<FromNode<Message<T>>> for Topic<T> {
    fn step(
        &mut self,
        cx: &mut TopicCx<'_, T>,
        event: Event<FromNode<Message<T>>>,
    ) -> Step<FromNode<Message<T>>> {
        match event {
            Event::Start => self.start(cx),
            Event::Message(message) => self.take(cx, message),
            Event::Down(down) => self.on_down(cx, &down),
            Event::Terminate => self.tell_end(cx, &ExitReason::Terminated),
            // Nobody has anything to throw at it.
            Event::Thrown(thrown) => log_panic(|| drop(thrown.take())),
            _ => {}
        }
        if !self.is_over {
            self.rest(cx);
        }
        if self.is_over { stop() } else { receive() }
    }
}
