//! What the addresses inside a message tell while it is being encoded.
//!
//! serde gives a serializer no context, so the loop opens a scope on its thread around each encoding; outside
//! of it an address does not serialise, because nobody could then make it reachable.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use smallvec::SmallVec;

use crate::core::Core;
use crate::id::{Key, NodeId};
use crate::loop_ref::Delivery;
use crate::requests::{ExpectedReply, RequestId};

/// Decodes a message that came over the wire, and puts it into the mailbox.
pub(crate) type MessageDecoder = fn(&mut Core, Key, &[u8]) -> Delivery;

/// How an actor can be reached from the network.
#[derive(Copy, Clone)]
pub(crate) struct ExposedType {
    pub(crate) tag: &'static str,
    pub(crate) decode: MessageDecoder,
    /// Whether an actor takes such messages.
    pub(crate) fits: fn(&mut Core, Key) -> bool,
}

/// What one encoding met.
#[derive(Default)]
pub(crate) struct EncodedRefs {
    /// Local actors, whose addresses travel.
    pub(crate) exposed: SmallVec<[(Key, ExposedType); 1]>,
    /// Requests, whose replies travel.
    pub(crate) replies: SmallVec<[(RequestId, ExpectedReply); 1]>,
    /// The nodes of all addresses and replies.
    pub(crate) nodes: SmallVec<[NodeId; 2]>,
    /// Replies in it, of whichever node, are no longer this copy's.
    pub(crate) disarmed: bool,
}

#[derive(Copy, Clone, PartialEq, Eq)]
pub(crate) enum EncodeMode {
    /// The message is on its way: replies in it stop being this copy's.
    Send,
    /// The message comes back: they are this copy's again.
    Revoke,
    /// A value that several may read: no reply can be in it.
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
    static SCOPE: RefCell<Option<EncodeContext>> = const { RefCell::new(None) };
}

/// Closes the scope also when the encoding panics.
struct Closing;

impl Drop for Closing {
    fn drop(&mut self) {
        SCOPE.with_borrow_mut(Option::take);
    }
}

/// Runs `encode` inside a scope of the loop `node_id`.
pub(crate) fn encode_with_context<R>(
    node_id: NodeId,
    mode: EncodeMode,
    encode: impl FnOnce() -> R,
) -> (R, EncodedRefs) {
    SCOPE.with_borrow_mut(|scope| {
        *scope = Some(EncodeContext { node_id, mode, refs: EncodedRefs::default() })
    });
    let closing = Closing;
    let result = encode();
    let refs = SCOPE.with_borrow_mut(Option::take).map(|scope| scope.refs).unwrap_or_default();
    drop(closing);
    (result, refs)
}

/// Tells the open scope of an address or reply; `None` outside of any.
#[cfg(feature = "serde")]
pub(crate) fn with_encode_context<R>(
    tell: impl FnOnce(NodeId, EncodeMode, &mut EncodedRefs) -> R,
) -> Option<R> {
    SCOPE
        .with_borrow_mut(|scope| scope.as_mut().map(|scope| tell(scope.node_id, scope.mode, &mut scope.refs)))
}

thread_local! {
    static DECODING: std::cell::Cell<Option<NodeId>> = const { std::cell::Cell::new(None) };
    static NAMES: RefCell<std::collections::BTreeSet<&'static str>> =
        const { RefCell::new(std::collections::BTreeSet::new()) };
}

/// What a decoded message claims to have come home: addresses and replies of this very loop.
#[cfg_attr(not(feature = "serde"), expect(dead_code, reason = "only serde's impls decode such"))]
pub(crate) enum LocalRef {
    Actor(Key),
    Request(RequestId),
}

thread_local! {
    static HOMECOMING: RefCell<Vec<LocalRef>> = const { RefCell::new(Vec::new()) };
}

/// Tells of an address or reply that claims to be of the loop for which something is being decoded.
#[cfg(feature = "serde")]
pub(crate) fn claim_local(node: NodeId, claim: LocalRef) {
    if DECODING.get() == Some(node) {
        HOMECOMING.with_borrow_mut(|claims| claims.push(claim));
    }
}

/// Runs `decode` for the loop `node_id`: replies that it makes belong there. Answers what claims to be of that loop,
/// which must be checked, since anybody can claim it.
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
    (decoded, HOMECOMING.with_borrow_mut(std::mem::take))
}

/// The loop for which something is being decoded.
#[cfg(feature = "serde")]
pub(crate) fn decoding_node() -> Option<NodeId> {
    DECODING.get()
}

/// The node that bytes came from, and how many requests it may have open in this loop.
#[derive(Debug)]
pub struct Origin {
    node: NodeId,
    requests_max: usize,
    /// Shared with each of them, which may be dropped on other threads.
    requests: Arc<AtomicUsize>,
}

impl Origin {
    /// A node whose requests, so many at most, are counted from now on.
    pub fn new(node: NodeId, requests_max: usize) -> Self {
        Self { node, requests_max, requests: Arc::default() }
    }

    /// Its requests that actors of this loop hold the replies of.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// The place of one more request; `None` when it has as many as it may.
    fn request_permit(&self) -> Option<RequestPermit> {
        if self.requests() >= self.requests_max {
            return None;
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        Some(RequestPermit(self.requests.clone()))
    }
}

/// That a reply of another node's is held here: counted until it is used up, sent on or dropped.
pub(crate) struct RequestPermit(Arc<AtomicUsize>);

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

thread_local! {
    /// Whose bytes are being decoded.
    static ORIGIN: RefCell<Option<Origin>> = const { RefCell::new(None) };
    /// Whether there was no place for a request in what was decoded last.
    static IS_OVER_QUOTA: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// The node that the bytes came from which are being decoded on this thread; `None`: they are of this loop's own making, or
/// the world outside did not say. To be asked by [`Wire::decode`](crate::Wire::decode): addresses and replies inside a message
/// are what its sender wrote, this is who it was.
pub fn origin() -> Option<NodeId> {
    DECODING.get()?;
    ORIGIN.with_borrow(|origin| origin.as_ref().map(|origin| origin.node))
}

/// Runs `take`, which delivers what has come from another node, and gives the origin back: until then what is decoded on
/// this thread, of messages and answers, has [come from there](origin), and its requests are counted. (It is `None`
/// for who takes it away within, which nothing here does.)
///
/// For all that came at once: one message may cost less than to say whose it is.
pub fn with_origin<R>(origin: Origin, take: impl FnOnce() -> R) -> (R, Option<Origin>) {
    /// What was there before.
    struct Restore(Option<Origin>);
    impl Drop for Restore {
        fn drop(&mut self) {
            ORIGIN.set(self.0.take());
        }
    }
    let restore = Restore(ORIGIN.replace(Some(origin)));
    let result = take();
    let origin = ORIGIN.take();
    drop(restore);
    (result, origin)
}

/// Whether there was no place for a request in what was [decoded](decoding) last.
pub(crate) fn was_over_quota() -> bool {
    IS_OVER_QUOTA.get()
}

/// The place of a reply that is being decoded; an error when its node has as many as it may.
#[cfg_attr(not(feature = "serde"), expect(dead_code, reason = "only serde's impls let replies travel"))]
pub(crate) fn request_permit() -> Result<Option<RequestPermit>, &'static str> {
    ORIGIN.with_borrow(|origin| {
        let Some(origin) = origin.as_ref().filter(|_| DECODING.get().is_some()) else { return Ok(None) };
        let place = origin.request_permit();
        if place.is_none() {
            IS_OVER_QUOTA.set(true);
        }
        place.map(Some).ok_or("its node has as many open requests here as it may")
    })
}

/// The same name, the same pointer each time. Leaked: a program has only so many types.
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
