//! Messages and replies to other nodes.

use std::fmt;
use std::marker::PhantomData;

use crate::actor::{SendMode, Value};
use crate::error::{AskError, EncodeError, PayloadError, SendError, Undelivered};
use crate::id::{ActorId, NodeId};
use crate::remote::codec_context::{self, EncodeMode, EncodedRefs};
use crate::remote::encoded_value::EncodedValue;
use crate::remote::loop_ref::LoopRef;
use crate::remote::transport::{Destination, Notice, OutboundMessage, PayloadRules, QueueRoom};
use crate::remote::wire::{Wire, check_type_name};
use crate::request::RequestId;
use crate::scheduler::{Core, Scheduler, catch_panic};

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
    if to.node() == loop_ref.scheduler.core.node_id() {
        return loop_ref.scheduler.core.push_local(to, message, mode);
    }
    match loop_ref.scheduler.send_encoded(Destination::Actor(to), &message, mode) {
        Ok(()) => Ok(()),
        Err(reason) => {
            if reason == Undelivered::Busy {
                loop_ref.scheduler.core.after_refusal(to, mode);
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
    if node == loop_ref.scheduler.core.node_id() {
        return loop_ref.scheduler.core.complete_request(request_id, value);
    }
    match loop_ref.scheduler.send_encoded(Destination::Request(node, request_id), &value, SendMode::Once) {
        Ok(()) => Ok(()),
        Err(reason) => {
            // The request fails at once, instead of by its timeout.
            let failure = AskError::from_reply(&reason);
            loop_ref.scheduler.core.notice(Notice::ReplyDropped { node, request_id, reason: failure });
            Err(reason)
        }
    }
}

/// Runs an encoder of user code; its panic becomes an error.
fn encode_with<R>(encode: impl FnOnce() -> Result<R, EncodeError>) -> Result<R, EncodeError> {
    catch_panic(encode)
        .unwrap_or_else(|text| Err(EncodeError::new(format_args!("its encoder panicked: {text}"))))
}

impl Scheduler {
    /// Encodes `message`, and passes it to the transport.
    pub(crate) fn send_encoded<M: Wire>(
        &mut self,
        to: Destination,
        message: &M,
        mode: SendMode,
    ) -> Result<(), Undelivered> {
        let core = &mut self.core;
        let Some(rules) = core.payload_rules() else { return Err(Undelivered::NoNode) };
        let type_name = core.type_name_of::<M>();
        check_type_name(type_name)?;
        let mut body = core.take_scratch();
        body.clear();
        let (encoded, refs) =
            codec_context::encode_with_context(core.node_id(), rules.bytes_max, EncodeMode::Send, || {
                encode_with(|| message.encode(&mut body))
            });
        let sent = match encoded {
            Ok(()) => self.pass_to_transport(to, (type_name, M::IS_CHECKED), &body, mode, &refs),
            Err(reason) => Err(reason.into()),
        };
        if sent.is_err() && refs.has_reply_to {
            body.clear();
            let revoke = || encode_with(|| message.encode(&mut body));
            let node_id = self.core.node_id();
            let (revoked, _) =
                codec_context::encode_with_context(node_id, rules.bytes_max, EncodeMode::Revoke, revoke);
            debug_assert!(revoked.is_ok() || matches!(sent, Err(Undelivered::Payload(_))));
        }
        self.core.give_back_scratch(body);
        sent
    }

    /// Encodes a message for several receivers. So it must not contain a `ReplyTo`.
    pub(crate) fn encode_shared<M: Wire>(&mut self, message: &M) -> Result<EncodedMessage<M>, Undelivered> {
        let core = &mut self.core;
        let Some(rules) = core.payload_rules() else { return Err(Undelivered::NoNode) };
        let type_name = core.type_name_of::<M>();
        check_type_name(type_name)?;
        let (body, _, refs) = encode_value(core.node_id(), rules, M::IS_CHECKED, |body| {
            message.encode(body)?;
            Ok(Some(type_name))
        })?;
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
            self.core.after_refusal(to, mode);
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
        let Some((core, transport)) = self.parts() else { return Err(Undelivered::NoNode) };
        core.note_outbound();
        let requests: smallvec::SmallVec<[RequestId; 1]> =
            refs.requests.iter().map(|(request_id, _)| *request_id).collect();
        let outbound = OutboundMessage {
            from: core.current(),
            to,
            type_name,
            body,
            mode,
            is_checked,
            nodes: &refs.nodes,
            requests: &requests,
        };
        transport.send(core.now(), &outbound)?;
        // Only now: no other node knows the addresses in a message that was not sent.
        core.make_reachable(refs);
        Ok(())
    }

    /// Whether the queue to an actor of another node has this room for the current actor, which is registered for `Writable` if
    /// not. Without the node, nothing holds it back.
    pub(crate) fn has_queue_room(&mut self, to: ActorId, room: QueueRoom, mode: SendMode) -> bool {
        let Some((core, transport)) = self.parts() else { return true };
        let Some(from) = core.current() else { return true };
        let is_busy = transport.check_room(core.now(), from, (to, room), mode) == Err(Undelivered::Busy);
        if is_busy {
            core.after_refusal(to, mode);
        }
        !is_busy
    }

    /// Fails a request that has reached its timeout. Its message is withdrawn if it still waits for another node.
    pub(crate) fn time_out(&mut self, request_id: RequestId) {
        let is_remote = self.core.requests().expected(request_id).is_some();
        let reason = match self.parts().filter(|_| is_remote) {
            Some((core, transport)) => transport.withdraw(core.now(), request_id),
            None => AskError::TimedOut,
        };
        self.core.fail_request(request_id, reason);
    }
}

/// Encodes a value by `encode`, which returns the name of its type, if it has one for the wire. Checks its bytes unless
/// they are known to be sound.
fn encode_value<N: AsRef<str>>(
    node_id: NodeId,
    rules: PayloadRules,
    is_checked: bool,
    encode: impl FnOnce(&mut Vec<u8>) -> Result<Option<N>, EncodeError>,
) -> Result<(Vec<u8>, Option<N>, EncodedRefs), PayloadError> {
    let mut body = Vec::new();
    let encode = || encode_with(|| encode(&mut body));
    let (encoded, refs) =
        codec_context::encode_with_context(node_id, rules.bytes_max, EncodeMode::Value, encode);
    let type_name = encoded?;
    if let Some(type_name) = &type_name
        && !is_checked
    {
        (rules.check)(type_name.as_ref(), &body, rules.bytes_max as u64)?;
    }
    Ok((body, type_name, refs))
}

/// Converts a value to its form for the wire. A value of [`Value::local`] becomes opaque.
///
/// # Errors
/// The value cannot be encoded.
pub(crate) fn export(core: &mut Core, value: Value) -> Result<EncodedValue, PayloadError> {
    let rules = core.payload_rules().unwrap_or_default();
    let (body, type_name, refs) = encode_value(core.node_id(), rules, value.is_checked(), |body| {
        let type_name = value.encode(body)?;
        type_name.iter().try_for_each(|type_name| check_type_name(type_name))?;
        Ok(type_name)
    })?;
    let Some(type_name) = type_name else { return Ok(EncodedValue::Opaque) };
    core.make_reachable(&refs);
    Ok(EncodedValue::with_nodes(&type_name, &body, &refs.nodes))
}
