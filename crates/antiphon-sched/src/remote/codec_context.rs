//! The context in which messages are encoded and decoded: it collects each address and `ReplyTo` inside a message.
//!
//! serde passes no context to a serializer. So the loop sets a context on its thread around each encoding and decoding. Without
//! a context an address does not serialize, because the loop could not make its actor reachable from the network.
//!
//! This context and the notes in `request/dropped.rs` are the only thread-local values.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::error::DecodeError;
use crate::id::{Key, NodeId};
use crate::remote::local_actors::Delivery;
use crate::request::{ExpectedReply, RequestId, dropped};
#[cfg(feature = "serde")]
use crate::scheduler::catch_panic;
use crate::scheduler::{Budget, Core, Permit, log_panic};

/// Decodes a message from the network, and pushes it into the mailbox.
pub(crate) type MessageDecoder = fn(&mut Core, Key, &[u8]) -> Delivery;

/// The type of messages that an actor accepts from the network.
#[derive(Copy, Clone)]
pub(crate) struct ExposedType {
    pub(crate) type_name: &'static str,
    pub(crate) decode: MessageDecoder,
    /// Whether the mailbox of an actor holds messages of this type.
    pub(crate) fits: fn(&mut Core, Key) -> bool,
}

/// Each address and `ReplyTo` inside one encoded message.
#[derive(Default)]
pub(crate) struct EncodedRefs {
    /// The local actors whose addresses are in the message.
    pub(crate) exposed: SmallVec<[(Key, ExposedType); 1]>,
    /// The requests of this loop whose `ReplyTo` is in the message.
    pub(crate) requests: SmallVec<[(RequestId, ExpectedReply); 1]>,
    /// The node of each address and `ReplyTo`.
    pub(crate) nodes: SmallVec<[NodeId; 2]>,
    /// The message contains a `ReplyTo`, of any node. Dropping the local copies no longer reports them as dropped.
    pub(crate) has_reply_to: bool,
}

#[derive(Copy, Clone, PartialEq, Eq)]
pub(crate) enum EncodeMode {
    /// The message is sent: the encoded copy takes over its replies.
    Send,
    /// The message could not be sent: its replies belong to the local copy again.
    Revoke,
    /// A value that several readers share: it must not contain a `ReplyTo`.
    Value,
}

/// The context of a thread.
struct CodecContext {
    /// The most bytes of a message of the loop that is encoding.
    bytes_max: Cell<usize>,
    encoding: RefCell<Option<EncodeContext>>,
    /// The loop that is decoding.
    decoding: Cell<Option<NodeId>>,
    decoded: RefCell<Decoded>,
    /// The node that sent the bytes being decoded.
    origin: RefCell<Option<Origin>>,
}

thread_local! {
    static CONTEXT: CodecContext = const {
        CodecContext {
            bytes_max: Cell::new(MESSAGE_BYTES_MAX),
            encoding: RefCell::new(None),
            decoding: Cell::new(None),
            decoded: RefCell::new(Decoded::EMPTY),
            origin: RefCell::new(None),
        }
    };
}

impl CodecContext {
    fn set_bytes_max(bytes_max: usize) {
        CONTEXT.with(|context| context.bytes_max.set(bytes_max));
    }

    fn with_encoding<R>(act: impl FnOnce(&mut Option<EncodeContext>) -> R) -> R {
        CONTEXT.with(|context| act(&mut context.encoding.borrow_mut()))
    }

    fn decoding() -> Option<NodeId> {
        CONTEXT.with(|context| context.decoding.get())
    }

    fn set_decoding(node_id: Option<NodeId>) -> Option<NodeId> {
        CONTEXT.with(|context| context.decoding.replace(node_id))
    }

    fn with_decoded<R>(act: impl FnOnce(&mut Decoded) -> R) -> R {
        CONTEXT.with(|context| act(&mut context.decoded.borrow_mut()))
    }

    fn with_origin<R>(act: impl FnOnce(&mut Option<Origin>) -> R) -> R {
        CONTEXT.with(|context| act(&mut context.origin.borrow_mut()))
    }
}

/// The names that [`intern`] has returned.
static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

/// The most bytes of a message where no transport has another limit, 16 MiB.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The most bytes that the current encoding may write.
#[cfg(feature = "serde")]
pub(crate) fn bytes_max() -> usize {
    CONTEXT.with(|context| context.bytes_max.get())
}

struct EncodeContext {
    #[cfg_attr(not(feature = "serde"), expect(dead_code, reason = "only serde's impls read it"))]
    node_id: NodeId,
    #[cfg_attr(not(feature = "serde"), expect(dead_code, reason = "only serde's impls read it"))]
    mode: EncodeMode,
    refs: EncodedRefs,
}

/// Clears the context, also if the encoding panics.
struct ClearContext;

impl Drop for ClearContext {
    fn drop(&mut self) {
        CodecContext::with_encoding(Option::take);
        CodecContext::set_bytes_max(MESSAGE_BYTES_MAX);
    }
}

/// Runs `encode` with a context of the loop `node_id`, whose messages have at most `bytes_max` bytes. Also returns the
/// addresses and replies that it encoded.
pub(crate) fn encode_with_context<R>(
    node_id: NodeId,
    bytes_max: usize,
    mode: EncodeMode,
    encode: impl FnOnce() -> R,
) -> (R, EncodedRefs) {
    CodecContext::set_bytes_max(bytes_max);
    CodecContext::with_encoding(|context| {
        *context = Some(EncodeContext { node_id, mode, refs: EncodedRefs::default() })
    });
    let clear = ClearContext;
    let result = encode();
    let refs = CodecContext::with_encoding(Option::take).map(|context| context.refs).unwrap_or_default();
    drop(clear);
    (result, refs)
}

/// Whether the current encoding only takes its replies back.
#[cfg(feature = "serde")]
pub(crate) fn is_revoking() -> bool {
    with_encode_context(|_, mode, _| mode == EncodeMode::Revoke).unwrap_or(false)
}

/// Removes what the current encoding has recorded twice, because a part was encoded twice.
#[cfg(feature = "serde")]
pub(crate) fn dedup_refs() {
    with_encode_context(|_, _, refs| {
        refs.exposed.sort_unstable_by_key(|(key, _)| *key);
        refs.exposed.dedup_by_key(|(key, _)| *key);
        refs.requests.sort_unstable_by_key(|(request_id, _)| *request_id);
        refs.requests.dedup_by_key(|(request_id, _)| *request_id);
    });
}

/// Runs `record` with the context of the current encoding; `None` if nothing is being encoded.
#[cfg(feature = "serde")]
pub(crate) fn with_encode_context<R>(
    record: impl FnOnce(NodeId, EncodeMode, &mut EncodedRefs) -> R,
) -> Option<R> {
    CodecContext::with_encoding(|context| {
        context.as_mut().map(|context| record(context.node_id, context.mode, &mut context.refs))
    })
}

/// The addresses and replies that a decoding has made.
///
/// A decoding has no effects: serde may decode a part, drop it, and decode the same bytes again as another type. So a
/// `ReplyTo` that is dropped during the decoding is only recorded. When the message as a whole was accepted or refused,
/// [`accept`](Self::accept) or [`refuse`](Self::refuse) reports the requests that no reply is left for.
#[derive(Default)]
pub(crate) struct Decoded {
    /// The addresses of this loop. The sender may have forged them.
    pub(super) actors: Vec<Key>,
    /// Each copy of a `ReplyTo`. The sender may have forged those of this loop.
    pub(super) replies: Vec<(NodeId, RequestId)>,
    /// Each `ReplyTo` that was dropped during the decoding.
    dropped: Vec<(NodeId, RequestId)>,
    /// A `ReplyTo` was not decoded, because the sender has too many open requests in this loop.
    pub(super) is_over_quota: bool,
}

/// Records an address that names the loop for which a message is being decoded.
#[cfg(feature = "serde")]
pub(crate) fn record_address(node: NodeId, key: Key) {
    if CodecContext::decoding() == Some(node) {
        CodecContext::with_decoded(|decoded| decoded.actors.push(key));
    }
}

/// Records a `ReplyTo` that is being decoded.
#[cfg(feature = "serde")]
pub(crate) fn record_reply(node: NodeId, request_id: RequestId) {
    CodecContext::with_decoded(|decoded| decoded.replies.push((node, request_id)));
}

/// Records that a `ReplyTo` was dropped during a decoding. False if nothing is being decoded.
pub(crate) fn record_drop(node: NodeId, request_id: RequestId) -> bool {
    // At the end of a thread its thread-local values may be destroyed before a reply.
    let is_decoding = CONTEXT.try_with(|context| context.decoding.get().is_some()).unwrap_or(false);
    if is_decoding {
        CodecContext::with_decoded(|decoded| decoded.dropped.push((node, request_id)));
    }
    is_decoding
}

impl Decoded {
    const EMPTY: Self =
        Self { actors: Vec::new(), replies: Vec::new(), dropped: Vec::new(), is_over_quota: false };

    /// Whether the message held neither an address of this loop nor a reply.
    pub(crate) fn is_empty(&self) -> bool {
        self.actors.is_empty() && self.replies.is_empty() && self.dropped.is_empty()
    }

    /// The message was accepted: reports the requests of which no copy is left.
    pub(crate) fn accept(mut self, node_id: NodeId) {
        if self.dropped.is_empty() {
            return;
        }
        self.replies.sort_unstable();
        self.dropped.sort_unstable();
        for dropped in self.dropped.chunk_by(|one, other| one == other) {
            let (node, request_id) = dropped[0];
            let from = self.replies.partition_point(|reply| *reply < dropped[0]);
            let copies = self.replies[from..].iter().take_while(|reply| **reply == dropped[0]).count();
            if dropped.len() >= copies {
                dropped::note(node_id, node, request_id);
            }
        }
    }

    /// The message was refused, and is dropped as `payload`. Reports the requests in it for which `is_reported` is true.
    /// A `ReplyTo` that the message did not hold, and that was dropped meanwhile, is reported in any case.
    pub(crate) fn refuse<T>(
        mut self,
        node_id: NodeId,
        payload: T,
        is_reported: impl Fn(NodeId, RequestId) -> bool,
    ) {
        let (_, late) = decode_with_context(node_id, || log_panic(|| drop(payload)));
        self.dropped.extend(late.dropped);
        self.replies.sort_unstable();
        self.replies.dedup();
        for (node, request_id) in &self.dropped {
            if self.replies.binary_search(&(*node, *request_id)).is_err() {
                dropped::note(node_id, *node, *request_id);
            }
        }
        for (node, request_id) in self.replies {
            if is_reported(node, request_id) {
                dropped::note(node_id, node, request_id);
            }
        }
    }
}

/// Runs `decode` for the loop `node_id`: replies that it makes belong to that loop. Also returns the addresses and
/// replies that it decoded. The caller must check those of its loop, since a sender can forge them; and it must
/// accept or refuse them.
pub(crate) fn decode_with_context<R>(node_id: NodeId, decode: impl FnOnce() -> R) -> (R, Decoded) {
    /// Puts back what an outer decoding has recorded; also after a panic.
    struct Restore(Option<NodeId>, Decoded);
    impl Drop for Restore {
        fn drop(&mut self) {
            CodecContext::set_decoding(self.0);
            CodecContext::with_decoded(|decoded| std::mem::swap(decoded, &mut self.1));
        }
    }
    let outer = CodecContext::set_decoding(Some(node_id));
    // Only within another decoding is there anything to set aside.
    let restore = Restore(
        outer,
        if outer.is_some() { CodecContext::with_decoded(std::mem::take) } else { Decoded::default() },
    );
    let value = decode();
    let decoded = CodecContext::with_decoded(std::mem::take);
    drop(restore);
    (value, decoded)
}

/// Decodes what this loop has encoded itself, and returns what `inspect` finds in the value. The value is then dropped; it
/// has no effects, and no request in it counts.
#[cfg(feature = "serde")]
pub(crate) fn try_decoding<T, R>(
    decode: impl FnOnce() -> Result<T, DecodeError>,
    inspect: impl FnOnce(&T) -> R,
) -> Result<R, DecodeError> {
    let node_id = CodecContext::with_encoding(|context| context.as_ref().map(|context| context.node_id));
    let node_id = node_id.unwrap_or(NodeId::from_bits(0));
    // Without an origin there is no limit of requests.
    let origin = CodecContext::with_origin(Option::take);
    let (result, decoded) = decode_with_context(node_id, || catch_panic(decode));
    CodecContext::with_origin(|slot| *slot = origin);
    let result = result.unwrap_or_else(|panic_text| Err(decoder_panicked(&panic_text)));
    let inspected = result.as_ref().map_err(Clone::clone).and_then(|value| {
        catch_panic(|| inspect(value))
            .map_err(|panic_text| DecodeError::new(format_args!("its encoder panicked: {panic_text}")))
    });
    decoded.refuse(node_id, result, |_, _| false);
    inspected
}

/// The error of a decoder that panicked with this text.
pub(crate) fn decoder_panicked(panic_text: &str) -> DecodeError {
    DecodeError::new(format_args!("its decoder panicked: {panic_text}"))
}

/// The node id of the loop for which a message is being decoded.
#[cfg(feature = "serde")]
pub(crate) fn decoding_node() -> Option<NodeId> {
    CodecContext::decoding()
}

/// The node that sent the bytes being decoded, and how many requests it may have open in this loop.
#[derive(Debug)]
pub struct Origin {
    node: NodeId,
    /// The open requests. Their permits may be dropped on other threads.
    requests: Budget,
}

impl Origin {
    /// An origin without open requests; it may have at most `requests_max`.
    pub fn new(node: NodeId, requests_max: usize) -> Self {
        Self { node, requests: Budget::with_max(requests_max as u64) }
    }

    /// The number of its open requests: actors of this loop hold their replies.
    pub fn requests(&self) -> u64 {
        self.requests.used()
    }
}

/// The node that sent the messages that are being delivered on this thread.
pub(crate) fn sending_node() -> Option<NodeId> {
    CodecContext::with_origin(|origin| origin.as_ref().map(|origin| origin.node))
}

/// The node that sent the bytes being decoded on this thread; `None` if this loop encoded them itself, or if the
/// transport did not set an origin.
///
/// For [`Wire::decode`](crate::Wire::decode). Addresses and replies inside a message can be forged by its sender; the
/// origin cannot.
pub fn origin() -> Option<NodeId> {
    CodecContext::decoding()?;
    sending_node()
}

/// Runs `deliver`, which delivers messages and replies from another node, with that node as the [`origin`]. Requests
/// that it decodes count against the limit of the origin. Also returns the origin; `None` if `deliver` has removed it.
///
/// Call it once for all messages that arrived together: for a single message it may cost more than the delivery.
pub fn with_origin<R>(origin: Origin, deliver: impl FnOnce() -> R) -> (R, Option<Origin>) {
    /// The previous origin.
    struct Restore(Option<Origin>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CodecContext::with_origin(|slot| *slot = self.0.take());
        }
    }
    let restore = Restore(CodecContext::with_origin(|slot| slot.replace(origin)));
    let result = deliver();
    let origin = CodecContext::with_origin(Option::take);
    drop(restore);
    (result, origin)
}

/// The permit of a `ReplyTo` that is being decoded; an error if its node has too many open requests.
/// `Ok(None)` if no origin is set.
#[cfg_attr(not(feature = "serde"), expect(dead_code, reason = "only serde's impls let replies travel"))]
pub(crate) fn request_permit() -> Result<Option<Permit>, &'static str> {
    CodecContext::with_origin(|origin| {
        let Some(origin) = origin.as_ref().filter(|_| CodecContext::decoding().is_some()) else {
            return Ok(None);
        };
        let permit = origin.requests.try_acquire(1).ok();
        if permit.is_none() {
            CodecContext::with_decoded(|decoded| decoded.is_over_quota = true);
        }
        permit
            .map(Some)
            .ok_or("the sending node has too many open requests in this loop; it must wait for replies")
    })
}

/// Returns one pointer for equal names. The name is leaked: the number of types in a program is bounded.
pub(crate) fn intern(name: String) -> &'static str {
    let mut names = NAMES.lock();
    if let Some(known) = names.get(name.as_str()) {
        return known;
    }
    let leaked: &'static str = name.leak();
    names.insert(leaked);
    leaked
}
