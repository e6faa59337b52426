//! Messages and replies to other nodes, and those that arrive from other nodes as bytes.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;

use crate::actor::SendMode;
use crate::actor::Value;
use crate::error::{AskError, DecodeError, EncodeError, PayloadError, SendError, Undelivered};
use crate::id::{ActorId, Key, NodeId};
use crate::remote::codec_context::{self, Decoded, EncodeMode, EncodedRefs, ExposedType, MESSAGE_BYTES_MAX};
use crate::remote::loop_ref::{Delivery, LoopRef};
use crate::remote::transport::{Destination, OutboundMessage, Signal};
use crate::remote::wire::{Wire, check_type_name};
use crate::request::{ExpectedReply, ReplyHandler, RequestId};
use crate::scheduler::{Core, TransportSlot};
use crate::scheduler::{DueTimer, TimerKey};

/// A message in its form for the wire. It can be sent to many actors of other nodes, and is encoded and checked once.
pub struct EncodedMessage<M> {
    type_name: &'static str,
    body: Vec<u8>,
    refs: EncodedRefs,
    of_type: PhantomData<fn(M)>,
}

impl<M> fmt::Debug for EncodedMessage<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncodedMessage")
            .field("type_name", &self.type_name)
            .field("bytes", &self.body.len())
            .finish()
    }
}

impl<M> EncodedMessage<M> {
    /// The number of bytes.
    pub fn bytes(&self) -> usize {
        self.body.len()
    }
}

/// Sends to an address that can cross the wire: to an actor of this loop or of another node.
pub(crate) fn reach_wire<M: Wire>(
    loop_ref: &mut LoopRef<'_>,
    to: ActorId,
    message: M,
    mode: SendMode,
) -> Result<(), SendError<M>> {
    if to.node() == loop_ref.core.node_id {
        return loop_ref.core.push_local(to, message, mode);
    }
    match loop_ref.core.send_encoded(Destination::Actor(to), &message, mode) {
        Ok(()) => Ok(()),
        Err(reason) => {
            if reason == Undelivered::Busy {
                loop_ref.core.after_refusal(to, mode);
            }
            Err(SendError::new(message, reason))
        }
    }
}

/// Replies by a `ReplyTo` that can cross the wire: to a request of this loop or of another node.
#[cfg_attr(
    not(feature = "serde"),
    expect(dead_code, reason = "only serde's impls let replies cross the wire")
)]
pub(crate) fn reply_wire<R: Wire>(
    loop_ref: &mut LoopRef<'_>,
    node: NodeId,
    request_id: RequestId,
    value: R,
) -> Result<(), Undelivered> {
    if node == loop_ref.core.node_id {
        return loop_ref.core.complete_request(request_id, value);
    }
    match loop_ref.core.send_encoded(Destination::Request(node, request_id), &value, SendMode::Once) {
        Ok(()) => Ok(()),
        Err(reason) => {
            // The request fails at once, instead of by its timeout.
            let failure = AskError::from_reply(&reason);
            loop_ref.core.signal(Signal::ReplyDropped { node, request_id, reason: failure });
            Err(reason)
        }
    }
}

/// Runs an encoder of user code; its panic becomes an error.
fn encode_with<R>(encode: impl FnOnce() -> Result<R, EncodeError>) -> Result<R, EncodeError> {
    crate::scheduler::catch_panic(encode)
        .unwrap_or_else(|text| Err(EncodeError::new(format_args!("its encoder panicked: {text}"))))
}

impl Core {
    /// Encodes `message`, and passes it to the transport.
    pub(crate) fn send_encoded<M: Wire>(
        &mut self,
        to: Destination,
        message: &M,
        mode: SendMode,
    ) -> Result<(), Undelivered> {
        let TransportSlot::Present(transport) = &self.transport else { return Err(Undelivered::NoNode) };
        let bytes_max = transport.message_bytes_max();
        let type_name = self.type_name_of::<M>();
        check_type_name(type_name)?;
        let mut body = std::mem::take(&mut self.scratch);
        body.clear();
        let (encoded, refs) =
            codec_context::encode_with_context(self.node_id, bytes_max, EncodeMode::Send, || {
                encode_with(|| message.encode(&mut body))
            });
        let sent = match encoded {
            Ok(()) => self.pass_to_transport(to, (type_name, M::IS_CHECKED), &body, mode, &refs),
            Err(reason) => Err(reason.into()),
        };
        if sent.is_err() && refs.has_reply_to {
            body.clear();
            let revoke = || encode_with(|| message.encode(&mut body));
            let (revoked, _) =
                codec_context::encode_with_context(self.node_id, bytes_max, EncodeMode::Revoke, revoke);
            debug_assert!(revoked.is_ok() || matches!(sent, Err(Undelivered::Payload(_))));
        }
        self.scratch = body;
        sent
    }

    /// Encodes a message for several receivers. So it must not contain a `ReplyTo`.
    pub(crate) fn encode_shared<M: Wire>(&mut self, message: &M) -> Result<EncodedMessage<M>, Undelivered> {
        let TransportSlot::Present(transport) = &self.transport else { return Err(Undelivered::NoNode) };
        let bytes_max = transport.message_bytes_max();
        let type_name = self.type_name_of::<M>();
        check_type_name(type_name)?;
        let mut body = Vec::new();
        let encode = || encode_with(|| message.encode(&mut body));
        let (encoded, refs) =
            codec_context::encode_with_context(self.node_id, bytes_max, EncodeMode::Value, encode);
        encoded?;
        if !M::IS_CHECKED
            && let TransportSlot::Present(transport) = &self.transport
        {
            transport.check_body(type_name, &body)?;
        }
        Ok(EncodedMessage { type_name, body, refs, of_type: PhantomData })
    }

    /// Passes an encoded message to the transport, for one of its receivers.
    pub(crate) fn send_shared<M>(
        &mut self,
        to: ActorId,
        message: &EncodedMessage<M>,
        mode: SendMode,
    ) -> Result<(), Undelivered> {
        let EncodedMessage { type_name, body, refs, .. } = message;
        let sent = self.pass_to_transport(Destination::Actor(to), (type_name, true), body, mode, refs);
        if sent == Err(Undelivered::Busy) {
            self.after_refusal(to, mode);
        }
        sent
    }

    fn pass_to_transport(
        &mut self,
        to: Destination,
        (type_name, is_checked): (&'static str, bool),
        body: &[u8],
        mode: SendMode,
        refs: &EncodedRefs,
    ) -> Result<(), Undelivered> {
        self.note_outbound();
        let requests: smallvec::SmallVec<[RequestId; 1]> =
            refs.requests.iter().map(|(request_id, _)| *request_id).collect();
        let outbound = OutboundMessage {
            from: self.current,
            to,
            type_name,
            body,
            mode,
            is_checked,
            nodes: &refs.nodes,
            requests: &requests,
        };
        match &mut self.transport {
            TransportSlot::Present(transport) => transport.send(self.now, &outbound)?,
            TransportSlot::Taken | TransportSlot::Absent => return Err(Undelivered::NoNode),
        }
        // Only now: no other node knows the addresses in a message that was not sent.
        self.make_reachable(refs);
        Ok(())
    }

    /// Whether the queue to an actor of another node has room for `bytes` bytes of the current actor, which is registered for
    /// `Writable` if not. Without the node, nothing holds them back.
    pub(crate) fn has_queue_room(&mut self, to: ActorId, bytes: u64, mode: SendMode) -> bool {
        let (Some(from), TransportSlot::Present(transport)) = (self.current, &mut self.transport) else {
            return true;
        };
        let is_busy = transport.check_room(self.now, from, (to, bytes), mode) == Err(Undelivered::Busy);
        if is_busy {
            self.after_refusal(to, mode);
        }
        !is_busy
    }

    /// Makes the addresses and replies in a sent message usable from other nodes.
    fn make_reachable(&mut self, refs: &EncodedRefs) {
        for (key, exposed) in &refs.exposed {
            self.expose(*key, *exposed);
        }
        for (request_id, expected) in &refs.requests {
            self.requests.expect_remote_reply(*request_id, *expected);
        }
    }

    /// Lets messages from the network reach an address; false when there is no such address.
    pub(crate) fn expose(&mut self, key: Key, exposed: ExposedType) -> bool {
        if !(exposed.fits)(self, key) {
            return false;
        }
        self.address_extras(key).map(|address| address.exposed.get_or_insert(exposed)).is_some()
    }

    /// The type of messages that an address accepts from the network; `None` if the network cannot reach it.
    pub(crate) fn exposed(&self, key: Key) -> Option<ExposedType> {
        let address = if key.is_adapter() {
            &self.adapter(key)?.address
        } else if self.actors.is_alive(key) {
            &self.extras.get(&key.index())?.address
        } else {
            return None;
        };
        address.exposed
    }

    /// Whether messages from the network may reach an address.
    pub(crate) fn is_exposed(&self, key: Key) -> bool {
        self.exposed(key).is_some()
    }

    /// Whether bytes from the network name an actor or an open request of this loop that was never sent to another
    /// node: then the peer guessed it. Ended actors and closed requests do not count.
    fn is_forged(&mut self, decoded: &Decoded) -> bool {
        decoded.actors.iter().any(|key| self.actor_of(*key).is_some() && !self.is_exposed(*key))
            || decoded.replies.iter().any(|(node, request_id)| {
                *node == self.node_id
                    && self.requests.is_open(*request_id)
                    && self.requests.expected(*request_id).is_none()
            })
    }

    /// Decodes a message or a reply from another node. The caller must accept or refuse what was decoded; after an error
    /// that is done. `has_receipt` says whether the requests of its sender fail by a receipt.
    fn decode_payload<T: Wire>(
        &mut self,
        body: &[u8],
        has_receipt: bool,
    ) -> Result<(T, Decoded), PayloadRefusal> {
        let (result, decoded) = codec_context::decode_with_context(self.node_id, || {
            crate::scheduler::catch_panic(|| T::decode_sound(body))
        });
        let node_id = self.node_id;
        if !decoded.is_empty() && self.is_forged(&decoded) {
            // The peer must not end the requests that it guessed.
            decoded.refuse(node_id, result, |node, _| node != node_id);
            return Err(PayloadRefusal::Payload(PayloadError::decode(FORGED)));
        }
        // Also if it was decoded: serde may have taken another variant, in place of the one with the `ReplyTo`.
        if decoded.is_over_quota {
            self.refuse_payload(decoded, result, has_receipt);
            return Err(PayloadRefusal::OverQuota);
        }
        let error = match result {
            Ok(Ok(value)) => return Ok((value, decoded)),
            Ok(Err(error)) => error,
            Err(panic_text) => codec_context::decoder_panicked(&panic_text),
        };
        self.refuse_payload(decoded, (), has_receipt);
        let error = DecodeError::new(format_args!("`{}`: {}", T::name(), error.reason()));
        Err(PayloadRefusal::Payload(PayloadError::Decode(error)))
    }

    /// Drops what was decoded from a payload that was refused. The requests of its sender fail by the receipt, if it has one,
    /// and all others here.
    fn refuse_payload<T>(&mut self, decoded: Decoded, payload: T, has_receipt: bool) {
        let sender = codec_context::sending_node().filter(|_| has_receipt);
        decoded.refuse(self.node_id, payload, |node, _| Some(node) != sender);
    }

    /// Converts a value to its form for the wire. A value of [`Value::local`] becomes opaque.
    ///
    /// # Errors
    /// The value cannot be encoded.
    pub(crate) fn export(&mut self, value: Value) -> Result<Value, PayloadError> {
        let mut body = Vec::new();
        let bytes_max = match &self.transport {
            TransportSlot::Present(transport) => transport.message_bytes_max(),
            TransportSlot::Taken | TransportSlot::Absent => MESSAGE_BYTES_MAX,
        };
        let encode = || {
            encode_with(|| {
                let type_name = value.encode(&mut body)?;
                type_name.iter().try_for_each(|type_name| check_type_name(type_name))?;
                Ok(type_name.map(|type_name| type_name.into_owned()))
            })
        };
        let (encoded, refs) =
            codec_context::encode_with_context(self.node_id, bytes_max, EncodeMode::Value, encode);
        let Some(type_name) = encoded? else { return Ok(Value::opaque()) };
        if !value.is_checked()
            && let TransportSlot::Present(transport) = &self.transport
        {
            transport.check_body(&type_name, &body)?;
        }
        self.make_reachable(&refs);
        Ok(Value::encoded_with_nodes(&type_name, &body, &refs.nodes))
    }

    /// Opens a request of `owner`, which `handler` makes from `answer`. `answer` comes back when the owner has as many open
    /// requests as it may.
    pub(crate) fn open_request<M: 'static, A>(
        &mut self,
        owner: Key,
        answer: A,
        handler: impl FnOnce(A) -> Box<dyn ReplyHandler>,
    ) -> Result<RequestId, A> {
        let max = self.requests_max;
        let mailbox = self.actors.cell_mut(owner).and_then(|cell| cell.mailbox::<M>());
        let Some(mailbox) = mailbox else { return Err(answer) };
        if !mailbox.open_one(max) {
            return Err(answer);
        }
        let request_id = self.requests.open(Some(owner), handler(answer), mailbox.newest_request);
        mailbox.newest_request = request_id.to_bits() as u32;
        Ok(request_id)
    }

    /// Opens a request that no actor owns.
    pub(crate) fn open_ownerless_request(&mut self, handler: Box<dyn ReplyHandler>) -> RequestId {
        self.requests.open(None, handler, crate::scheduler::NO_REQUEST)
    }

    pub(crate) fn set_request_timeout(&mut self, request_id: RequestId, timeout: std::time::Duration) {
        let timer = self.wheel.insert(self.now + timeout, DueTimer::Request(request_id));
        self.requests.set_timer(request_id, timer);
    }

    /// Withdraws the message of a request that has reached its timeout, if it still waits for another node. Returns the
    /// error with which the request fails.
    pub(crate) fn withdraw(&mut self, request_id: RequestId) -> AskError {
        if self.requests.expected(request_id).is_none() {
            return AskError::TimedOut;
        }
        match &mut self.transport {
            TransportSlot::Present(transport) => transport.withdraw(self.now, request_id),
            TransportSlot::Taken | TransportSlot::Absent => AskError::TimedOut,
        }
    }

    fn close_request(&mut self, request_id: RequestId) -> Option<(Key, Box<dyn ReplyHandler>)> {
        let (closed, head) = self.requests.close(request_id)?;
        self.after_request_closed(request_id, closed.timer, closed.is_remote);
        if let Some(owner) = closed.owner {
            let mailbox = self.any_mailbox(owner)?;
            mailbox.close_one();
            if let Some(head) = head {
                *mailbox.newest_request() = head;
            }
        }
        // The handlers of ownerless requests ignore the key.
        Some((closed.owner.unwrap_or(Key::from_bits(u64::MAX)), closed.handler))
    }

    pub(crate) fn after_request_closed(
        &mut self,
        request_id: RequestId,
        timer: Option<TimerKey>,
        is_remote: bool,
    ) {
        if let Some(timer) = timer {
            self.wheel.cancel(timer);
        }
        if is_remote {
            self.signal(Signal::RequestClosed { request_id });
        }
    }

    /// Completes a request of this loop.
    pub(crate) fn complete_request<R: 'static>(
        &mut self,
        request_id: RequestId,
        value: R,
    ) -> Result<(), Undelivered> {
        let mut value: Option<R> = Some(value);
        let value: &mut dyn Any = &mut value;
        match self.requests.fits(request_id, value) {
            None => return Err(Undelivered::NoActor),
            Some(Err(expected)) => {
                return Err(PayloadError::wrong_type(expected, std::any::type_name::<R>()).into());
            }
            Some(Ok(())) => {}
        }
        if let Some((owner, handler)) = self.close_request(request_id) {
            handler.complete(self, owner, value);
        }
        Ok(())
    }

    /// Closes a request of this loop with an error. Does nothing if the request is already closed.
    pub(crate) fn fail_request(&mut self, request_id: RequestId, reason: AskError) {
        if let Some((owner, handler)) = self.close_request(request_id) {
            tracing::debug!(target: "antiphon::requests", actor = %owner, reply = handler.type_name(), %reason, "a request has failed");
            handler.fail(self, owner, reason);
        }
    }

    /// Closes the requests of all threads: they get `NoLoop`.
    pub(crate) fn fail_thread_requests(&mut self) {
        for request_id in self.requests.of_threads() {
            self.fail_request(request_id, AskError::NoLoop);
        }
    }

    /// Closes a request of this loop without an answer.
    pub(crate) fn abandon_request(&mut self, request_id: RequestId) {
        if let Some((_, handler)) = self.close_request(request_id) {
            crate::scheduler::log_panic(|| drop(handler));
        }
    }

    /// Completes a request of this loop with bytes from another node.
    pub(crate) fn complete_request_encoded(
        &mut self,
        request_id: RequestId,
        type_name: &str,
        body: &[u8],
    ) -> Result<(), Undelivered> {
        let Some(expected) = self.requests.expected(request_id) else { return Err(Undelivered::NoActor) };
        if expected.type_name != type_name {
            let error = PayloadError::wrong_type(expected.type_name, type_name);
            self.fail_request(request_id, AskError::Reply(error.clone()));
            return Err(error.into());
        }
        (expected.decode)(self, request_id, body)
    }
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
    let (message, decoded) = match core.decode_payload::<M>(body, true) {
        Ok(payload) => payload,
        Err(PayloadRefusal::Payload(reason)) => return Delivery::Refused(reason),
        Err(PayloadRefusal::OverQuota) => return Delivery::OverQuota,
    };
    let node_id = core.node_id;
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
            core.refuse_payload(decoded, message, true);
            Delivery::Refused(reason)
        }
        Err(error) => {
            core.refuse_payload(decoded, error.into_message(), true);
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
    let (value, decoded) = match core.decode_payload::<R>(body, false) {
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
    decoded.accept(core.node_id);
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
