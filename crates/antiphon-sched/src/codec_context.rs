//! The context in which messages are encoded and decoded: it collects each address and `ReplyTo` inside a message.
//!
//! serde passes no context to a serializer. So the loop sets a context on its thread around each encoding. Without
//! a context an address does not serialize, because the loop could not make its actor reachable from the network.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use smallvec::SmallVec;

use crate::core::Core;
use crate::id::{Key, NodeId};
use crate::loop_ref::Delivery;
use crate::requests::{ExpectedReply, RequestId};

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

struct EncodeContext {
    #[cfg_attr(not(feature = "serde"), expect(dead_code, reason = "only serde's impls read it"))]
    node_id: NodeId,
    #[cfg_attr(not(feature = "serde"), expect(dead_code, reason = "only serde's impls read it"))]
    mode: EncodeMode,
    refs: EncodedRefs,
}

thread_local! {
    static ENCODING: RefCell<Option<EncodeContext>> = const { RefCell::new(None) };
}

/// Clears the context, also if the encoding panics.
struct ClearContext;

impl Drop for ClearContext {
    fn drop(&mut self) {
        ENCODING.with_borrow_mut(Option::take);
    }
}

/// Runs `encode` with a context of the loop `node_id`. Also returns the addresses and replies that it encoded.
pub(crate) fn encode_with_context<R>(
    node_id: NodeId,
    mode: EncodeMode,
    encode: impl FnOnce() -> R,
) -> (R, EncodedRefs) {
    ENCODING.with_borrow_mut(|context| {
        *context = Some(EncodeContext { node_id, mode, refs: EncodedRefs::default() })
    });
    let clear = ClearContext;
    let result = encode();
    let refs = ENCODING.with_borrow_mut(Option::take).map(|context| context.refs).unwrap_or_default();
    drop(clear);
    (result, refs)
}

/// Runs `record` with the context of the current encoding; `None` if nothing is being encoded.
#[cfg(feature = "serde")]
pub(crate) fn with_encode_context<R>(
    record: impl FnOnce(NodeId, EncodeMode, &mut EncodedRefs) -> R,
) -> Option<R> {
    ENCODING.with_borrow_mut(|context| {
        context.as_mut().map(|context| record(context.node_id, context.mode, &mut context.refs))
    })
}

thread_local! {
    static DECODING: std::cell::Cell<Option<NodeId>> = const { std::cell::Cell::new(None) };
    static NAMES: RefCell<std::collections::BTreeSet<&'static str>> =
        const { RefCell::new(std::collections::BTreeSet::new()) };
}

/// An address or `ReplyTo` of this loop inside a message from another node. The sender may have forged it.
#[cfg_attr(not(feature = "serde"), expect(dead_code, reason = "only serde's impls decode references"))]
pub(crate) enum LocalRef {
    Actor(Key),
    Request(RequestId),
}

thread_local! {
    static LOCAL_REFS: RefCell<Vec<LocalRef>> = const { RefCell::new(Vec::new()) };
}

/// Records an address or `ReplyTo` that names the loop for which a message is being decoded.
#[cfg(feature = "serde")]
pub(crate) fn record_local_ref(node: NodeId, reference: LocalRef) {
    if DECODING.get() == Some(node) {
        LOCAL_REFS.with_borrow_mut(|references| references.push(reference));
    }
}

/// Runs `decode` for the loop `node_id`: replies that it makes belong to that loop. Also returns the addresses and
/// replies of that loop that it decoded. The caller must check them, since a sender can forge them.
pub(crate) fn decode_with_context<R>(node_id: NodeId, decode: impl FnOnce() -> R) -> (R, Vec<LocalRef>) {
    struct RestoreNode(Option<NodeId>);
    impl Drop for RestoreNode {
        fn drop(&mut self) {
            DECODING.set(self.0);
        }
    }
    let restore = RestoreNode(DECODING.replace(Some(node_id)));
    IS_OVER_QUOTA.set(false);
    let decoded = decode();
    drop(restore);
    (decoded, LOCAL_REFS.with_borrow_mut(std::mem::take))
}

/// The node id of the loop for which a message is being decoded.
#[cfg(feature = "serde")]
pub(crate) fn decoding_node() -> Option<NodeId> {
    DECODING.get()
}

/// The node that sent the bytes being decoded, and how many requests it may have open in this loop.
#[derive(Debug)]
pub struct Origin {
    node: NodeId,
    requests_max: usize,
    /// The number of open requests. Shared with their permits, which may be dropped on other threads.
    requests: Arc<AtomicUsize>,
}

impl Origin {
    /// An origin without open requests; it may have at most `requests_max`.
    pub fn new(node: NodeId, requests_max: usize) -> Self {
        Self { node, requests_max, requests: Arc::default() }
    }

    /// The number of its open requests: actors of this loop hold their replies.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// A permit for one more request; `None` at the limit.
    fn request_permit(&self) -> Option<RequestPermit> {
        if self.requests() >= self.requests_max {
            return None;
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        Some(RequestPermit(self.requests.clone()))
    }
}

/// Counts one `ReplyTo` of another node that is held here, until it is used, forwarded or dropped.
pub(crate) struct RequestPermit(Arc<AtomicUsize>);

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

thread_local! {
    /// The node that sent the bytes being decoded.
    static ORIGIN: RefCell<Option<Origin>> = const { RefCell::new(None) };
    /// Whether the last decoding failed because its origin had too many open requests.
    static IS_OVER_QUOTA: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// The node that sent the bytes being decoded on this thread; `None` if this loop encoded them itself, or if the
/// transport did not set an origin.
///
/// For [`Wire::decode`](crate::Wire::decode). Addresses and replies inside a message can be forged by its sender; the
/// origin cannot.
pub fn origin() -> Option<NodeId> {
    DECODING.get()?;
    ORIGIN.with_borrow(|origin| origin.as_ref().map(|origin| origin.node))
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
            ORIGIN.set(self.0.take());
        }
    }
    let restore = Restore(ORIGIN.replace(Some(origin)));
    let result = deliver();
    let origin = ORIGIN.take();
    drop(restore);
    (result, origin)
}

/// Whether the last [decoding](decode_with_context) failed because its origin had too many open requests.
pub(crate) fn was_over_quota() -> bool {
    IS_OVER_QUOTA.get()
}

/// The permit of a `ReplyTo` that is being decoded; an error if its node has too many open requests.
/// `Ok(None)` if no origin is set.
#[cfg_attr(not(feature = "serde"), expect(dead_code, reason = "only serde's impls let replies travel"))]
pub(crate) fn request_permit() -> Result<Option<RequestPermit>, &'static str> {
    ORIGIN.with_borrow(|origin| {
        let Some(origin) = origin.as_ref().filter(|_| DECODING.get().is_some()) else { return Ok(None) };
        let permit = origin.request_permit();
        if permit.is_none() {
            IS_OVER_QUOTA.set(true);
        }
        permit
            .map(Some)
            .ok_or("the sending node has too many open requests in this loop; it must wait for replies")
    })
}

/// Returns one pointer for equal names. The name is leaked: the number of types in a program is bounded.
pub(crate) fn intern(name: String) -> &'static str {
    NAMES.with_borrow_mut(|names| match names.get(name.as_str()) {
        Some(known) => known,
        None => {
            let leaked: &'static str = name.leak();
            names.insert(leaked);
            leaked
        }
    })
}
