//! A message on its way to the subscribers of a topic, or the number of those that the topic has missed.
//!
//! Or the upstreams of a topic, on their way to its downstream topics.
//!
//! A message is encoded once for all actors of other nodes, and once for all topics of other nodes. Its subscribers may be so many
//! that the topic lets others run in between; it takes no other message and no event meanwhile.

use std::any::type_name;
use std::time::Duration;

use antiphon_sched::{
    ActorId, Addr, AskError, Budget, Cx, EncodedMessage, LoopRef, NodeId, Permit, QueueRoom, ReplyTo,
    RequestId, SendMode, Target, Timer, Undelivered, Wire, printable,
};

use super::message::{ChannelMessage, DeliveryResult, SelfMessage, TopicAddr, self_message};
use super::subscriber_lag::LaggingSubscribers;
use super::subscribers::Recipient;
use crate::error::DeliverError;
use crate::service::panic_guard::{catch_panic, log_panic};
use crate::service::{FromNode, NodeRef, complete_if_open};

/// The most entries between two readings of the clock.
const ENTRIES_PER_READING: usize = 32;
/// The most bytes of the id of an upstream in its message.
const UPSTREAM_BYTES_MAX: u64 = 19;
/// The most that a `Deliver` is longer than its message on the wire.
const DELIVER_FIELDS_BYTES_MAX: u64 = 128;
/// The size up to which the copies of a peer's message do not count: mailboxes are limited by the number of messages.
const SMALL_BYTES_MAX: u64 = 1024;
/// The bytes of copies of peers' messages, by their length on the wire, that may wait in mailboxes for the subscribers of one
/// topic. See `fits`.
const COPIES_BYTES_MAX: u64 = 64 << 20;

type ChannelCx<'c, T> = Cx<'c, FromNode<ChannelMessage<T>>>;

/// What a topic passes on to its subscribers at present.
pub(super) struct Fanout<T> {
    pub(super) content: Content<T>,
    /// The last subscriber to which it has gone.
    pub(super) last: Option<ActorId>,
    /// A subscription has ended.
    pub(super) has_ended: bool,
}

pub(super) enum Content<T> {
    Message(Box<OutgoingMessage<T>>),
    /// So many messages that the topic itself has missed.
    Missed(u64),
    Upstreams(Box<UpstreamsUpdate>),
}

/// The ids of all upstreams of a topic, for its downstream topics, which answer as to a delivery.
pub(super) struct UpstreamsUpdate {
    ids: Vec<ActorId>,
    delivery: SentDelivery,
}

/// A part of work on very many entries: as many as fit into one step.
///
/// The first readings of the clock follow each other sooner, so one part takes at most about twice the time that the round has left.
pub(super) struct Part {
    entries: usize,
    next_reading: usize,
}

impl Part {
    pub(super) fn new() -> Self {
        Self { entries: 0, next_reading: 1 }
    }

    /// Whether the work is to go on in a later step, asked before each entry.
    pub(super) fn is_over(&mut self, loop_ref: &mut LoopRef<'_>) -> bool {
        if self.entries == self.next_reading {
            self.next_reading = self.entries + self.entries.min(ENTRIES_PER_READING);
            if loop_ref.service().ends_round() {
                return true;
            }
        }
        self.entries += 1;
        false
    }
}

/// A message to all subscribers.
pub(super) struct OutgoingMessage<T> {
    message: T,
    hops: u8,
    /// The length on the wire if a peer has sent it, else 0. A copy of it counts as much in a mailbox of this node.
    bytes: usize,
    /// If subscribers are to acknowledge the message.
    delivery: Option<SentDelivery>,
    /// The user's `Clone` has panicked.
    is_uncopyable: bool,
    for_actors: Option<Result<EncodedMessage<T>, Undelivered>>,
    for_topics: Option<Result<EncodedMessage<FromNode<ChannelMessage<T>>>, Undelivered>>,
}

/// A delivery whose message is on its way, and its acknowledgements.
pub(super) struct SentDelivery {
    /// The number of the pending delivery.
    pub(super) number: u64,
    /// The node that has requested it; `None`: this node.
    pub(super) peer: Option<NodeId>,
    pub(super) reply: Option<ReplyTo<DeliveryResult>>,
    /// The time that the subscribers have, and the timer at which their open answers time out.
    pub(super) within: Duration,
    pub(super) timer: Timer,
    /// The number of actors that have the message already.
    pub(super) received: u64,
    /// The acknowledgements that are still to come.
    pub(super) open: Vec<OpenAnswer>,
}

/// Why a subscriber misses a message.
pub(super) enum Missed {
    /// The message could not be copied for it, which is logged.
    NotCopied,
    Undelivered(Undelivered),
}

impl From<Undelivered> for Missed {
    fn from(reason: Undelivered) -> Self {
        Self::Undelivered(reason)
    }
}

/// The request of the topic that an acknowledgement completes.
#[derive(Copy, Clone, Debug)]
pub(super) enum OpenAnswer {
    /// With the number of the receipt: a peer that never sends it must not leave a trace.
    Receipt(RequestId, Option<u64>),
    Reply(RequestId),
}

impl OpenAnswer {
    /// Completes the request, if it is open, as not received in time. The message itself stays on its way, so it is not a
    /// missed one.
    pub(super) fn time_out<T: Wire>(self, cx: &mut ChannelCx<'_, T>) {
        match self {
            Self::Receipt(request_id, receipt) => {
                complete_if_open(cx.loop_ref().requests(), request_id, Err::<(), _>(DeliverError::TimedOut));
                if let Some(receipt) = receipt {
                    NodeRef::of(cx.loop_ref()).forget_receipt(receipt);
                }
            }
            Self::Reply(request_id) => cx.loop_ref().requests().fail(request_id, AskError::TimedOut),
        }
    }
}

impl<T> Fanout<T> {
    pub(super) fn new(content: Content<T>) -> Self {
        Self { content, last: None, has_ended: false }
    }

    /// Ends the fan-out, and returns its delivery.
    pub(super) fn end(self) -> Option<SentDelivery> {
        match self.content {
            Content::Message(outgoing) => {
                let OutgoingMessage { message, delivery, .. } = *outgoing;
                log_panic(|| drop(message));
                delivery
            }
            Content::Upstreams(update) => Some(update.delivery),
            Content::Missed(_) => None,
        }
    }
}

impl UpstreamsUpdate {
    pub(super) fn new(ids: Vec<ActorId>, delivery: SentDelivery) -> Self {
        Self { ids, delivery }
    }

    /// Asks one downstream topic. One without room is not asked: it learns of the upstreams at the next change.
    pub(super) fn send_to<T: Wire>(&mut self, cx: &mut ChannelCx<'_, T>, to: TopicAddr<T>) {
        let bytes = self.ids.len() as u64 * UPSTREAM_BYTES_MAX + DELIVER_FIELDS_BYTES_MAX;
        let is_local = to.node() == cx.id().node();
        if !is_local
            && !cx.loop_ref().service().has_queue_room(to.id(), QueueRoom::for_bytes(bytes), SendMode::Once)
        {
            return;
        }
        let (from, ids, number) = (cx.addr(), self.ids.clone(), self.delivery.number);
        let request = move |reply| ChannelMessage::Upstreams { from, ids, reply: Some(reply) }.into();
        let answer =
            move |answer: Result<DeliveryResult, _>| acked(number, answer.unwrap_or(DeliveryResult::To(0)));
        if let Ok(request_id) = cx.ask_with_mode(to, SendMode::Once, request, answer) {
            self.delivery.open.push(OpenAnswer::Reply(request_id));
        }
    }
}

impl<T: Wire + Clone> OutgoingMessage<T> {
    /// `hops` counts the topics that the message has come through, with this one; `bytes` is its length on the wire if a peer has
    /// sent it, else 0.
    pub(super) fn new(message: T, hops: u8, bytes: usize, delivery: Option<SentDelivery>) -> Self {
        Self { message, hops, bytes, delivery, is_uncopyable: false, for_actors: None, for_topics: None }
    }

    /// Its bytes in the form for the wire; 0 if it was not made.
    pub(super) fn encoded_bytes(&self) -> usize {
        let of_actors = self.for_actors.as_ref().and_then(|encoded| encoded.as_ref().ok());
        let of_topics = self.for_topics.as_ref().and_then(|encoded| encoded.as_ref().ok());
        let of_topics = of_topics.map_or(0, EncodedMessage::bytes);
        of_actors.map_or(0, EncodedMessage::bytes).max(of_topics)
    }

    /// Sends the message to one subscriber. `copies` counts the bytes of large messages of peers that wait in its mailbox, and
    /// `all_copies` those of all subscribers of the topic.
    pub(super) fn send_to(
        &mut self,
        cx: &mut ChannelCx<'_, T>,
        room: &LaggingSubscribers,
        recipient: &Recipient<T>,
        copies: &mut Option<Budget>,
        all_copies: &Budget,
    ) -> Result<(), Missed> {
        if recipient.id().node() != cx.id().node() {
            return self.send_to_node(cx, room, recipient);
        }
        let permit = self.permit(copies, all_copies)?;
        match *recipient {
            Recipient::Actor(to) => {
                let copy = self.copy(cx)?;
                put(cx, to, copy, permit)?;
                if let Some(delivery) = &mut self.delivery {
                    delivery.received += 1;
                }
                Ok(())
            }
            Recipient::Topic(to, _) if self.delivery.is_some() => {
                self.ask_topic(cx, to, SendMode::Once, permit)
            }
            Recipient::Topic(to, _) => {
                let message = ChannelMessage::Send { message: self.copy(cx)?, hops: self.hops };
                let message = FromNode { message, from: None, wire_len: self.bytes };
                Ok(put(cx, to, message, permit)?)
            }
        }
    }

    /// Sends the message to a subscriber of another node.
    fn send_to_node(
        &mut self,
        cx: &mut ChannelCx<'_, T>,
        room: &LaggingSubscribers,
        recipient: &Recipient<T>,
    ) -> Result<(), Missed> {
        match *recipient {
            Recipient::Actor(to) => self.send_encoded(cx, room, to),
            Recipient::Topic(to, _) if self.delivery.is_some() => {
                // Each request is encoded anew, so the room is checked before.
                let bytes = encoded(cx, &mut self.for_actors, &self.message)?.bytes() as u64;
                let mode = room.send_mode();
                let room = QueueRoom::for_bytes(bytes + DELIVER_FIELDS_BYTES_MAX);
                if !cx.loop_ref().service().has_queue_room(to.id(), room, mode) {
                    return Err(Undelivered::Busy.into());
                }
                self.ask_topic(cx, to, mode, None)
            }
            Recipient::Topic(to, _) => {
                let encoded = match self.for_topics.take() {
                    Some(encoded) => encoded,
                    None => {
                        let message = ChannelMessage::Send { message: self.copy(cx)?, hops: self.hops };
                        let message = FromNode::from(message);
                        let encoded = cx.loop_ref().service().encode(&message);
                        log_panic(|| drop(message));
                        encoded
                    }
                };
                let sent = match &encoded {
                    Ok(encoded) => cx.loop_ref().service().send_encoded(to, encoded, room.send_mode()),
                    Err(reason) => Err(reason.clone()),
                };
                self.for_topics = Some(encoded);
                Ok(sent?)
            }
        }
    }

    /// Sends the message to an actor of another node, with a request for a receipt if it is to be acknowledged.
    fn send_encoded(
        &mut self,
        cx: &mut ChannelCx<'_, T>,
        room: &LaggingSubscribers,
        to: Addr<T>,
    ) -> Result<(), Missed> {
        let encoded = encoded(cx, &mut self.for_actors, &self.message)?;
        let mode = room.send_mode();
        let Some(delivery) = &mut self.delivery else {
            return Ok(cx.loop_ref().service().send_encoded(to, encoded, mode)?);
        };
        let number = delivery.number;
        let answer = move |sent: Result<(), DeliverError>| match sent {
            Err(DeliverError::Refused(Undelivered::Full | Undelivered::Busy)) => {
                self_message(SelfMessage::Refused { delivery: number, subscriber: to.id() })
            }
            sent => acked(number, DeliveryResult::To(u64::from(sent.is_ok()))),
        };
        // If the topic has too many requests, the message is sent without one.
        let Ok(request_id) = cx.open_request(answer) else {
            return Ok(cx.loop_ref().service().send_encoded(to, encoded, mode)?);
        };
        match cx.loop_ref().service().send_encoded(to, encoded, SendMode::Receipt(request_id)) {
            Ok(()) => {
                let receipt = NodeRef::of(cx.loop_ref()).newest_receipt(request_id);
                delivery.open.push(OpenAnswer::Receipt(request_id, receipt));
                Ok(())
            }
            Err(reason) => {
                cx.loop_ref().requests().fail(request_id, AskError::Dropped);
                match reason {
                    // A message with a receipt does not register its sender, so it is sent again as another one is.
                    Undelivered::Full | Undelivered::Busy => {
                        Ok(cx.loop_ref().service().send_encoded(to, encoded, mode)?)
                    }
                    reason => Err(reason.into()),
                }
            }
        }
    }

    /// Sends the message to a downstream topic as a request, which it answers with the number of its subscribers that have it.
    fn ask_topic(
        &mut self,
        cx: &mut ChannelCx<'_, T>,
        to: TopicAddr<T>,
        mode: SendMode,
        permit: Option<Permit>,
    ) -> Result<(), Missed> {
        let message = self.copy(cx)?;
        let (hops, wire_len) = (self.hops, self.bytes);
        let Some(SentDelivery { number, within, open, .. }) = &mut self.delivery else {
            return Err(Missed::NotCopied);
        };
        let (number, within) = (*number, *within);
        let request = |reply| {
            let message = ChannelMessage::Deliver { message, n: 0, within, hops, reply };
            FromNode { message, from: None, wire_len }
        };
        let answer =
            move |answer: Result<DeliveryResult, _>| acked(number, answer.unwrap_or(DeliveryResult::To(0)));
        let asked = match permit {
            Some(permit) => cx.ask_with_permit(to, permit, request, answer),
            None => cx.ask_with_mode(to, mode, request, answer),
        };
        open.push(OpenAnswer::Reply(asked.map_err(undelivered)?));
        Ok(())
    }

    /// The permit for one copy in a mailbox of this node; `None` for a message that does not count.
    fn permit(&self, copies: &mut Option<Budget>, all_copies: &Budget) -> Result<Option<Permit>, Missed> {
        let bytes = self.bytes as u64;
        if bytes <= SMALL_BYTES_MAX {
            return Ok(None);
        }
        let copies = copies.get_or_insert_with(|| Budget::child_of(all_copies));
        if !fits(copies.used(), all_copies.used(), bytes) {
            return Err(Undelivered::Full.into());
        }
        Ok(Some(copies.acquire(bytes)))
    }

    /// Copies the message by the user's `Clone`.
    fn copy(&mut self, cx: &mut ChannelCx<'_, T>) -> Result<T, Missed> {
        if self.is_uncopyable {
            return Err(Missed::NotCopied);
        }
        catch_panic(|| self.message.clone()).map_err(|text| {
            self.is_uncopyable = true;
            if NodeRef::of(cx.loop_ref()).may_log("clone", type_name::<T>()) {
                tracing::error!(
                    text = printable(text),
                    "the `clone` of a channel's message panicked; the remaining subscribers miss it (logged at most once an hour)"
                );
            }
            Missed::NotCopied
        })
    }
}

/// The message in its form for the wire, which is made at the first call.
fn encoded<'a, T: Wire>(
    cx: &mut ChannelCx<'_, T>,
    made: &'a mut Option<Result<EncodedMessage<T>, Undelivered>>,
    message: &T,
) -> Result<&'a EncodedMessage<T>, Missed> {
    let encoded = made.get_or_insert_with(|| cx.loop_ref().service().encode(message));
    encoded.as_ref().map_err(|reason| reason.clone().into())
}

/// Puts a message into a mailbox of this node. A subscriber of this node needs no `Writable`: its missed messages are reported
/// at once.
fn put<T: Wire, M: 'static>(
    cx: &mut ChannelCx<'_, T>,
    to: Addr<M>,
    message: M,
    permit: Option<Permit>,
) -> Result<(), Undelivered> {
    let sent = match permit {
        Some(permit) => cx.loop_ref().service().put_with_permit(to, message, permit),
        None => to.put(cx.loop_ref(), message, SendMode::Once),
    };
    sent.map_err(|error| {
        let reason = error.reason();
        log_panic(|| drop(error));
        reason
    })
}

/// Whether a copy of this many bytes may wait in the mailbox of a subscriber, where `waiting` bytes of copies wait, of `all` of the
/// topic. So many bytes may wait for one subscriber as are still free; one for which none wait may use as many again.
fn fits(waiting: u64, all: u64, bytes: u64) -> bool {
    if waiting == 0 {
        all + bytes <= 2 * COPIES_BYTES_MAX
    } else {
        waiting + all + 2 * bytes <= COPIES_BYTES_MAX
    }
}

/// Why a request was not sent to a downstream topic.
fn undelivered(reason: AskError) -> Undelivered {
    match reason {
        AskError::Full => Undelivered::Full,
        AskError::Busy => Undelivered::Busy,
        AskError::NoActor => Undelivered::NoActor,
        AskError::NodeLost => Undelivered::NoNode,
        AskError::NodeRefused(reason) => Undelivered::NodeRefused(reason),
        AskError::Request(reason) => Undelivered::Payload(reason),
        // The topic has no request left.
        _ => Undelivered::Dropped,
    }
}

/// The message that a pending delivery got one acknowledgement.
pub(super) fn acked<T>(delivery: u64, outcome: DeliveryResult) -> FromNode<ChannelMessage<T>> {
    self_message(SelfMessage::Acked { delivery, outcome })
}
