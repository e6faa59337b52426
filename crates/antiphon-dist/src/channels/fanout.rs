//! A message on its way to the subscribers of a topic.
//!
//! It is encoded once for all actors of other nodes. Its subscribers may be so many that the topic lets other actors run in
//! between; it takes no other message and no event meanwhile.

use std::any::type_name;
use std::time::Duration;

use antiphon_sched::{
    ActorId, Addr, AskError, Cx, EncodedMessage, RequestId, SendMode, Target, Undelivered, Wire,
};

use super::message::{ChannelMessage, DeliveryResult, SelfMessage, TopicAddr, self_message};
use super::subscriber_lag::LaggingSubscribers;
use super::subscribers::Recipient;
use crate::cx::may_log;
use crate::error::DeliverError;
use crate::from_node::FromNode;
use crate::node::complete_if_open;
use crate::panic_guard::{catch_panic, log_panic};

/// The most that a `Deliver` is longer than its message on the wire.
const DELIVER_FIELDS_BYTES_MAX: u64 = 128;

type ChannelCx<'c, T> = Cx<'c, FromNode<ChannelMessage<T>>>;

/// A message on its way to the subscribers.
pub(super) struct Fanout<T> {
    message: T,
    hops: u8,
    /// If subscribers are to acknowledge the message.
    delivery: Option<SentDelivery>,
    /// The last subscriber that has had its turn.
    pub(super) last: Option<ActorId>,
    /// A subscription has ended.
    pub(super) has_ended: bool,
    /// The user's `Clone` has panicked.
    is_uncopyable: bool,
    for_actors: Option<Result<EncodedMessage<T>, Undelivered>>,
    for_topics: Option<Result<EncodedMessage<FromNode<ChannelMessage<T>>>, Undelivered>>,
}

/// The acknowledgements of a message.
pub(super) struct SentDelivery {
    /// The number of the pending delivery.
    pub(super) number: u64,
    /// The time that the subscribers have.
    within: Duration,
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
    Receipt(RequestId),
    Reply(RequestId),
}

impl OpenAnswer {
    /// Completes the request, if it is open, as not received in time. The message itself stays on its way, so it is not a
    /// missed one.
    pub(super) fn time_out<T: Wire>(self, cx: &mut ChannelCx<'_, T>) {
        match self {
            Self::Receipt(request_id) => {
                complete_if_open(cx.loop_ref(), request_id, Err::<(), _>(DeliverError::TimedOut));
            }
            Self::Reply(request_id) => cx.loop_ref().fail_request(request_id, AskError::TimedOut),
        }
    }
}

impl<T: Wire + Clone> Fanout<T> {
    /// For a message that nobody acknowledges. `hops` counts the topics that it has come through, with this one.
    pub(super) fn new(message: T, hops: u8) -> Self {
        Self {
            message,
            hops,
            delivery: None,
            last: None,
            has_ended: false,
            is_uncopyable: false,
            for_actors: None,
            for_topics: None,
        }
    }

    /// For a message that each subscriber acknowledges under the number of a pending delivery.
    pub(super) fn of_delivery(message: T, hops: u8, (number, within): (u64, Duration)) -> Self {
        let delivery = SentDelivery { number, within, received: 0, open: Vec::new() };
        Self { delivery: Some(delivery), ..Self::new(message, hops) }
    }

    /// Ends the fan-out, and returns the acknowledgements.
    pub(super) fn end(self) -> Option<SentDelivery> {
        log_panic(|| drop(self.message));
        self.delivery
    }

    /// Sends the message to one subscriber.
    pub(super) fn send_to(
        &mut self,
        cx: &mut ChannelCx<'_, T>,
        room: &LaggingSubscribers,
        recipient: &Recipient<T>,
    ) -> Result<(), Missed> {
        let is_local = recipient.id().node() == cx.id().node();
        match *recipient {
            Recipient::Actor(to) if is_local => {
                let copy = self.copy(cx)?;
                put(cx, to, copy)?;
                if let Some(delivery) = &mut self.delivery {
                    delivery.received += 1;
                }
                Ok(())
            }
            Recipient::Actor(to) => self.send_encoded(cx, room, to),
            Recipient::Topic(to, _) if self.delivery.is_some() => self.ask_topic(cx, room, to, is_local),
            Recipient::Topic(to, _) if is_local => {
                let message = ChannelMessage::Send { message: self.copy(cx)?, hops: self.hops };
                Ok(put(cx, to, message.into())?)
            }
            Recipient::Topic(to, _) => {
                if self.for_topics.is_none() {
                    let message = ChannelMessage::Send { message: self.copy(cx)?, hops: self.hops }.into();
                    self.for_topics = Some(cx.loop_ref().encode(&message));
                    log_panic(|| drop(message));
                }
                match &self.for_topics {
                    Some(Ok(encoded)) => Ok(cx.loop_ref().send_encoded(to, encoded, room.send_mode())?),
                    Some(Err(reason)) => Err(reason.clone().into()),
                    None => Err(Missed::NotCopied),
                }
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
            return Ok(cx.loop_ref().send_encoded(to, encoded, mode)?);
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
            return Ok(cx.loop_ref().send_encoded(to, encoded, mode)?);
        };
        match cx.loop_ref().send_encoded(to, encoded, SendMode::Receipt(request_id)) {
            Ok(()) => {
                delivery.open.push(OpenAnswer::Receipt(request_id));
                Ok(())
            }
            Err(reason) => {
                cx.loop_ref().fail_request(request_id, AskError::Dropped);
                match reason {
                    // A message with a receipt does not register its sender, so it is sent again as another one is.
                    Undelivered::Full | Undelivered::Busy => {
                        Ok(cx.loop_ref().send_encoded(to, encoded, mode)?)
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
        room: &LaggingSubscribers,
        to: TopicAddr<T>,
        is_local: bool,
    ) -> Result<(), Missed> {
        let mode = if is_local { SendMode::Once } else { room.send_mode() };
        if !is_local {
            // Each request is encoded anew, so the room is checked before.
            let bytes = encoded(cx, &mut self.for_actors, &self.message)?.bytes() as u64;
            if !cx.loop_ref().has_queue_room(to.id(), bytes + DELIVER_FIELDS_BYTES_MAX, mode) {
                return Err(Undelivered::Busy.into());
            }
        }
        let message = self.copy(cx)?;
        let Some(delivery) = &mut self.delivery else { return Ok(()) };
        let (number, within, hops) = (delivery.number, delivery.within, self.hops);
        let request = |reply| ChannelMessage::Deliver { message, n: 0, within, hops, reply }.into();
        let answer =
            move |answer: Result<DeliveryResult, _>| acked(number, answer.unwrap_or(DeliveryResult::To(0)));
        let request_id = cx.ask_with_mode(to, mode, request, answer).map_err(undelivered)?;
        delivery.open.push(OpenAnswer::Reply(request_id));
        Ok(())
    }

    /// Copies the message by the user's `Clone`.
    fn copy(&mut self, cx: &mut ChannelCx<'_, T>) -> Result<T, Missed> {
        if self.is_uncopyable {
            return Err(Missed::NotCopied);
        }
        catch_panic(|| self.message.clone()).map_err(|text| {
            self.is_uncopyable = true;
            if may_log(cx.loop_ref(), "clone", type_name::<T>()) {
                tracing::error!(
                    text,
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
    let encoded = made.get_or_insert_with(|| cx.loop_ref().encode(message));
    encoded.as_ref().map_err(|reason| reason.clone().into())
}

/// Puts a message into a mailbox of this node. A subscriber of this node needs no `Writable`: its missed messages are reported
/// at once.
fn put<T: Wire, M>(cx: &mut ChannelCx<'_, T>, to: Addr<M>, message: M) -> Result<(), Undelivered> {
    to.put(cx.loop_ref(), message, SendMode::Once).map_err(|error| {
        let reason = error.reason();
        log_panic(|| drop(error));
        reason
    })
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
