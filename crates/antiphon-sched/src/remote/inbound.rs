//! Messages and replies from other nodes.

use crate::error::{AskError, DecodeError, PayloadError, SendError, Undelivered};
use crate::id::Key;
use crate::remote::codec_context::{self, Decoded, ExposedType};
use crate::remote::local_actors::Delivery;
use crate::remote::wire::Wire;
use crate::request::{ExpectedReply, RequestId};
use crate::scheduler::{Core, catch_panic};

/// Decodes a message from the network, and pushes it into the mailbox of an actor that the network can reach.
pub(super) fn deliver(core: &mut Core, to: Key, type_name: &str, body: &[u8]) -> Delivery {
    // The network cannot reach an address that was never sent to another node.
    let Some(exposed) = core.exposed(to) else { return Delivery::NoActor };
    if exposed.type_name != type_name {
        return Delivery::Refused(PayloadError::wrong_type(exposed.type_name, type_name));
    }
    // Checked before decoding: the sender may repeat the message, so the replies inside it must not be dropped.
    let owner = to.actor();
    if !core.has_place(owner) {
        return Delivery::Full;
    }
    // An actor in `receive_if` gets more until its mailbox is full: it may wait for the next message.
    let is_idle = core.is_idle(owner) && core.any_mailbox(owner).is_some_and(|mailbox| mailbox.waiting() > 0);
    let (delivery, has_discarded) = core.noting_discards(|core| (exposed.decode)(core, to, body));
    if core.drops_when_full(owner) {
        let is_discarded = delivery == Delivery::Delivered && has_discarded;
        return if is_discarded { Delivery::Discarded } else { delivery };
    }
    let capacity = core.capacity_of(owner);
    let half = if is_idle { capacity - 1 } else { capacity / 2 };
    match delivery {
        Delivery::Delivered if core.any_mailbox(owner).is_some_and(|mailbox| mailbox.waiting() > half) => {
            Delivery::DeliveredOverHalf
        }
        delivery => delivery,
    }
}

/// Whether bytes from the network name an actor or an open request of this loop that was never sent to another
/// node: then the peer guessed it. Ended actors and closed requests do not count.
fn is_forged(core: &mut Core, decoded: &Decoded) -> bool {
    decoded.actors.iter().any(|key| core.actor_of(*key).is_some() && !core.is_exposed(*key))
        || decoded.replies.iter().any(|(node, request_id)| {
            *node == core.node_id()
                && core.requests().is_open(*request_id)
                && core.requests().expected(*request_id).is_none()
        })
}

/// Decodes a message or a reply from another node. The caller must accept or refuse what was decoded; after an error
/// that is done. `has_receipt` says whether the requests of its sender fail by a receipt.
fn decode_payload<T: Wire>(
    core: &mut Core,
    body: &[u8],
    has_receipt: bool,
) -> Result<(T, Decoded), PayloadRefusal> {
    let (result, decoded) =
        codec_context::decode_with_context(core.node_id(), || catch_panic(|| T::decode_sound(body)));
    let node_id = core.node_id();
    if !decoded.is_empty() && is_forged(core, &decoded) {
        // The peer must not end the requests that it guessed.
        decoded.refuse(node_id, result, |node, _| node != node_id);
        return Err(PayloadRefusal::Payload(PayloadError::decode(FORGED)));
    }
    // Also if it was decoded: serde may have taken another variant, in place of the one with the `ReplyTo`.
    if decoded.is_over_quota {
        refuse_payload(core, decoded, result, has_receipt);
        return Err(PayloadRefusal::OverQuota);
    }
    let error = match result {
        Ok(Ok(value)) => return Ok((value, decoded)),
        Ok(Err(error)) => error,
        Err(panic_text) => codec_context::decoder_panicked(&panic_text),
    };
    refuse_payload(core, decoded, (), has_receipt);
    let error = DecodeError::new(format_args!("`{}`: {}", T::name(), error.reason()));
    Err(PayloadRefusal::Payload(PayloadError::Decode(error)))
}

/// Drops what was decoded from a payload that was refused. The requests of its sender fail by the receipt, if it has one,
/// and all others here.
fn refuse_payload<T>(core: &mut Core, decoded: Decoded, payload: T, has_receipt: bool) {
    let sender = codec_context::sending_node().filter(|_| has_receipt);
    decoded.refuse(core.node_id(), payload, |node, _| Some(node) != sender);
}

/// Why a payload from another node was refused.
enum PayloadRefusal {
    Payload(PayloadError),
    /// It holds a `ReplyTo`, and its sender has too many open requests in this loop.
    OverQuota,
}

/// Decodes a message of type `M` into the mailbox of `to`.
pub(crate) fn deliver_as<M: Wire>(core: &mut Core, to: Key, body: &[u8]) -> Delivery {
    let id = core.id(to);
    let (message, decoded) = match decode_payload::<M>(core, body, true) {
        Ok(payload) => payload,
        Err(PayloadRefusal::Payload(reason)) => return Delivery::Refused(reason),
        Err(PayloadRefusal::OverQuota) => return Delivery::OverQuota,
    };
    let node_id = core.node_id();
    match core.push_metered(id, message) {
        Ok(()) => {
            decoded.accept(node_id);
            Delivery::Delivered
        }
        Err(SendError::Full(message)) => {
            // It is decoded once more, when there is room.
            decoded.refuse(node_id, message, |_, _| false);
            Delivery::Full
        }
        Err(SendError::Payload(message, reason)) => {
            refuse_payload(core, decoded, message, true);
            Delivery::Refused(reason)
        }
        Err(error) => {
            refuse_payload(core, decoded, error.into_message(), true);
            Delivery::NoActor
        }
    }
}

/// Decodes a reply of type `R`, and completes the request with it.
pub(crate) fn complete_as<R: Wire>(
    core: &mut Core,
    request_id: RequestId,
    body: &[u8],
) -> Result<(), Undelivered> {
    let (value, decoded) = match decode_payload::<R>(core, body, false) {
        Ok(payload) => payload,
        Err(PayloadRefusal::Payload(reason)) => {
            core.fail_request(request_id, AskError::Reply(reason.clone()));
            return Err(reason.into());
        }
        Err(PayloadRefusal::OverQuota) => {
            core.fail_request(request_id, AskError::Busy);
            return Err(Undelivered::Busy);
        }
    };
    // From here on, a reply in `value` that is dropped fails its request, also if this request is closed.
    decoded.accept(core.node_id());
    core.complete_request(request_id, value)
}

/// The type and decoder of messages `M` for an actor that the network may reach.
pub(crate) fn exposed_as<M: Wire>(core: &mut Core) -> ExposedType {
    ExposedType { type_name: core.type_name_of::<M>(), decode: deliver_as::<M>, fits: takes::<M> }
}

/// Whether an actor or an adapter takes messages of type `M`.
pub(crate) fn takes<M: 'static>(core: &mut Core, key: Key) -> bool {
    core.mailbox::<M>(key).is_some() || core.adapter(key).is_some_and(|slot| slot.takes::<M>())
}

const FORGED: &str = "it names an actor or a request of this node that was never sent to another node";

/// The type and decoder of a reply of type `R` from another node.
#[cfg_attr(
    not(feature = "serde"),
    expect(dead_code, reason = "only serde's impls let replies cross the wire")
)]
pub(crate) fn expected_as<R: Wire>(type_name: &'static str) -> ExpectedReply {
    ExpectedReply { type_name, decode: complete_as::<R> }
}
