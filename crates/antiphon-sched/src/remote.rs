//! Messages and replies to other nodes, and those that arrive from other nodes as bytes.

use std::any::Any;

use crate::addr::SendMode;
use crate::codec_context::{self, EncodeMode, EncodedRefs, ExposedType, LocalRef};
use crate::core::{Core, TransportSlot};
use crate::error::{AskError, EncodeError, SendError, Undelivered};
use crate::id::{ActorId, Key, NodeId};
use crate::loop_ref::{Delivery, LoopRef};
use crate::requests::{ExpectedReply, ReplyHandler, RequestId};
use crate::timers::{DueTimer, TimerKey};
use crate::transport::{Destination, OutboundMessage, Signal};
use crate::value::Value;
use crate::wire::{Wire, check_type_name};

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
        Err(SendFailure::Transport(Undelivered::Busy)) => {
            loop_ref.core.after_refusal(to, mode);
            Err(SendError::Busy(message))
        }
        Err(SendFailure::Transport(Undelivered::TooLarge)) => Err(SendError::TooLarge(message)),
        Err(SendFailure::Transport(Undelivered::NoActor)) => Err(SendError::NoActor(message)),
        Err(SendFailure::Transport(Undelivered::Encode)) => Err(SendError::Encode(
            message,
            EncodeError::new(
                "its type has no number in the session with that node: too many types were sent",
            ),
        )),
        Err(SendFailure::Transport(_)) => Err(SendError::NoNode(message)),
        Err(SendFailure::Encode(reason)) => Err(SendError::Encode(message, reason)),
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
            let reason = match reason {
                SendFailure::Transport(reason) => reason,
                SendFailure::Encode(_) => Undelivered::Encode,
            };
            // The request fails at once, instead of by its timeout.
            let is_busy = reason == Undelivered::Busy;
            loop_ref.core.signal(Signal::ReplyDropped { node, request_id, is_busy });
            Err(reason)
        }
    }
}

/// Why a message was not sent.
pub(crate) enum SendFailure {
    Transport(Undelivered),
    Encode(EncodeError),
}

/// Runs an encoder of user code; its panic becomes an error.
fn encode_with<R>(encode: impl FnOnce() -> Result<R, EncodeError>) -> Result<R, EncodeError> {
    crate::panic_guard::catch_panic(encode)
        .unwrap_or_else(|text| Err(EncodeError::new(format_args!("its encoder panicked: {text}"))))
}

impl Core {
    /// Encodes `message`, and passes it to the transport.
    pub(crate) fn send_encoded<M: Wire>(
        &mut self,
        to: Destination,
        message: &M,
        mode: SendMode,
    ) -> Result<(), SendFailure> {
        if !matches!(self.transport, TransportSlot::Present(_)) {
            return Err(SendFailure::Transport(Undelivered::NoNode));
        }
        let type_name = self.type_name_of::<M>();
        check_type_name(type_name).map_err(SendFailure::Encode)?;
        let mut body = std::mem::take(&mut self.scratch);
        body.clear();
        let (encoded, refs) = codec_context::encode_with_context(self.node_id, EncodeMode::Send, || {
            encode_with(|| message.encode(&mut body))
        });
        let sent = match encoded {
            Ok(()) => {
                self.pass_to_transport(to, type_name, &body, mode, &refs).map_err(SendFailure::Transport)
            }
            Err(reason) => Err(SendFailure::Encode(reason)),
        };
        if sent.is_err() && refs.has_reply_to {
            body.clear();
            let (revoked, _) = codec_context::encode_with_context(self.node_id, EncodeMode::Revoke, || {
                encode_with(|| message.encode(&mut body))
            });
            debug_assert!(revoked.is_ok() || matches!(sent, Err(SendFailure::Encode(_))));
        }
        self.scratch = body;
        sent
    }

    fn pass_to_transport(
        &mut self,
        to: Destination,
        type_name: &'static str,
        body: &[u8],
        mode: SendMode,
        refs: &EncodedRefs,
    ) -> Result<(), Undelivered> {
        let requests: smallvec::SmallVec<[RequestId; 1]> =
            refs.requests.iter().map(|(request_id, _)| *request_id).collect();
        let outbound = OutboundMessage {
            from: self.current,
            to,
            type_name,
            body,
            mode,
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

    /// Whether the queue to an actor of another node has room for a signal of the current actor, which is registered for
    /// `Writable` if not. Without the node, nothing holds the signal back.
    pub(crate) fn has_room_for_signal(&mut self, to: ActorId, mode: SendMode) -> bool {
        let (Some(from), TransportSlot::Present(transport)) = (self.current, &mut self.transport) else {
            return true;
        };
        let is_busy = transport.check_room(self.now, from, to, mode) == Err(Undelivered::Busy);
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
    fn is_forged(&mut self, claims: &[LocalRef]) -> bool {
        claims.iter().any(|claim| match claim {
            LocalRef::Actor(key) => self.actor_of(*key).is_some() && !self.is_exposed(*key),
            LocalRef::Request(request_id) => {
                self.requests.is_open(*request_id) && self.requests.expected(*request_id).is_none()
            }
        })
    }

    /// Drops a value that was decoded from forged bytes, without failing the requests that it names.
    fn drop_forged<T>(&mut self, decoded: T, claims: &[LocalRef]) {
        crate::panic_guard::log_panic(|| drop(decoded));
        crate::dropped_replies::retract(self.node_id, |request_id| {
            claims.iter().any(|claim| matches!(claim, LocalRef::Request(claimed) if *claimed == request_id))
        });
    }

    /// Converts a value to its form for the wire; one that has none becomes opaque.
    pub(crate) fn export(&mut self, value: Value) -> Value {
        let mut body = Vec::new();
        let (encoded, refs) = codec_context::encode_with_context(self.node_id, EncodeMode::Value, || {
            encode_with(|| {
                let type_name = value.encode(&mut body)?;
                type_name.iter().try_for_each(|type_name| check_type_name(type_name))?;
                Ok(type_name.map(|type_name| type_name.into_owned()))
            })
        });
        match encoded {
            Ok(Some(type_name)) => {
                self.make_reachable(&refs);
                Value::encoded_with_nodes(&type_name, &body, &refs.nodes)
            }
            Ok(None) => Value::opaque(),
            Err(reason) => {
                tracing::warn!(%reason, "encoding a value failed; it arrives as opaque");
                Value::opaque()
            }
        }
    }

    /// Opens a request of `owner`; `None` when it has the maximum of open requests.
    pub(crate) fn open_request<M: 'static>(
        &mut self,
        owner: Key,
        handler: Box<dyn ReplyHandler>,
    ) -> Option<RequestId> {
        let mailbox = self.actors.cell_mut(owner)?.mailbox::<M>()?;
        if mailbox.open == crate::mailbox::OPEN_MAX {
            return None;
        }
        mailbox.open += 1;
        let request_id = self.requests.open(Some(owner), handler, mailbox.newest_request);
        mailbox.newest_request = request_id.to_bits() as u32;
        Some(request_id)
    }

    /// Opens a request that no actor owns.
    pub(crate) fn open_ownerless_request(&mut self, handler: Box<dyn ReplyHandler>) -> RequestId {
        self.requests.open(None, handler, crate::mailbox::NO_REQUEST)
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
            *mailbox.open_slots() -= 1;
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
            Some(false) => return Err(Undelivered::WrongType),
            Some(true) => {}
        }
        if let Some((owner, handler)) = self.close_request(request_id) {
            handler.complete(self, owner, value);
        }
        Ok(())
    }

    /// Closes a request of this loop with an error. Does nothing if the request is already closed.
    pub(crate) fn fail_request(&mut self, request_id: RequestId, reason: AskError) {
        if let Some((owner, handler)) = self.close_request(request_id) {
            handler.fail(self, owner, reason);
        }
    }

    /// Closes a request of this loop without an answer.
    pub(crate) fn abandon_request(&mut self, request_id: RequestId) {
        if let Some((_, handler)) = self.close_request(request_id) {
            crate::panic_guard::log_panic(|| drop(handler));
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
            self.fail_request(request_id, AskError::WrongType);
            return Err(Undelivered::WrongType);
        }
        (expected.decode)(self, request_id, body)
    }
}

/// Decodes a message of type `M` into the mailbox of `to`.
pub(crate) fn deliver_as<M: Wire>(core: &mut Core, to: Key, body: &[u8]) -> Delivery {
    let id = core.id(to);
    let (decoded, claims) = codec_context::decode_with_context(core.node_id, || {
        crate::panic_guard::catch_panic(|| M::decode_sound(body))
    });
    if !claims.is_empty() && core.is_forged(&claims) {
        core.drop_forged(decoded, &claims);
        return Delivery::Undecodable(FORGED.to_owned());
    }
    match decoded {
        Ok(Ok(message)) => match core.push_metered(id, message) {
            Ok(()) => Delivery::Delivered,
            Err(SendError::Full(_)) => Delivery::Full,
            Err(SendError::WrongType(_)) => Delivery::WrongType,
            Err(_) => Delivery::NoActor,
        },
        Ok(Err(reason)) => Delivery::Undecodable(reason.to_string()),
        Err(text) => Delivery::Undecodable(text),
    }
}

/// Decodes a reply of type `R`, and completes the request with it.
pub(crate) fn complete_as<R: Wire>(
    core: &mut Core,
    request_id: RequestId,
    body: &[u8],
) -> Result<(), Undelivered> {
    let (decoded, claims) = codec_context::decode_with_context(core.node_id, || {
        crate::panic_guard::catch_panic(|| R::decode_sound(body))
    });
    if !claims.is_empty() && core.is_forged(&claims) {
        core.drop_forged(decoded, &claims);
        core.fail_request(request_id, AskError::WrongType);
        return Err(Undelivered::Encode);
    }
    match decoded {
        Ok(Ok(value)) => core.complete_request(request_id, value),
        Ok(Err(_)) | Err(_) => {
            core.fail_request(request_id, AskError::WrongType);
            Err(Undelivered::Encode)
        }
    }
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
