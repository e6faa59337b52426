//! Open requests: one slot for each, with the handler that turns the reply into a message.
//!
//! A reply needs only the id of the request, never its handler or type. A [`ReplyTo`] is the permission to reply
//! once, from any node; when it is dropped, the request fails.
//!
//! Invariant: a request completes at most once, and the next request in its slot has another id. The requests of one actor form
//! a list that its mailbox begins, so that they end with the actor.
//!
//! Every node can send a reply, so half of a request id is random: it does not follow from other ids. The random
//! numbers are not cryptographic.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use crate::error::{AskError, Undelivered};
use crate::id::{Key, NodeId};
use crate::remote::{LoopRef, codec_context};
use crate::request::dropped;
use crate::scheduler::{Core, NO_REQUEST, Permit, TimerKey};
use crate::slots::{SlotKey, Slots};

/// The id of an open request, unique among the open requests of its loop.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(u64);

impl RequestId {
    /// Makes an id from its number on the wire. Every number is valid, but few belong to an open request.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The number of the id on the wire.
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    const fn of(key: SlotKey) -> Self {
        Self(((key.generation as u64) << 32) | key.index as u64)
    }

    const fn key(self) -> SlotKey {
        SlotKey { index: self.0 as u32, generation: (self.0 >> 32) as u32 }
    }
}

/// Decodes a reply from another node, and completes the request with it.
pub(crate) type ReplyDecoder = fn(&mut Core, RequestId, &[u8]) -> Result<(), Undelivered>;

/// The type that an encoded reply must have, and its decoder.
#[derive(Copy, Clone)]
pub(crate) struct ExpectedReply {
    pub(crate) type_name: &'static str,
    pub(crate) decode: ReplyDecoder,
}

/// Turns a reply into a message to the owner of the request.
pub(crate) trait ReplyHandler {
    /// Handles a reply; `value` holds an `Option<R>`.
    fn complete(self: Box<Self>, core: &mut Core, owner: Key, value: &mut dyn Any);
    /// Handles the failure of the request.
    fn fail(self: Box<Self>, core: &mut Core, owner: Key, reason: AskError);
    /// Whether `value` is an `Option<R>`.
    fn fits(&self, value: &dyn Any) -> bool;
    /// The name of `R`, for errors.
    fn type_name(&self) -> &'static str;
}

/// An open request.
struct OpenRequest {
    owner: Option<Key>,
    handler: Box<dyn ReplyHandler>,
    expected: Option<ExpectedReply>,
    timer: Option<TimerKey>,
    /// The next older and the next newer request of the same owner.
    next: u32,
    previous: u32,
}

/// All open requests of a loop.
pub(crate) struct PendingRequests {
    slots: Slots<OpenRequest>,
    rng: fastrand::Rng,
}

/// A request that was closed.
pub(crate) struct ClosedRequest {
    pub(super) owner: Option<Key>,
    pub(super) handler: Box<dyn ReplyHandler>,
    pub(super) timer: Option<TimerKey>,
    /// Its `ReplyTo` was sent to another node.
    pub(super) is_remote: bool,
}

impl PendingRequests {
    pub(crate) fn new(seed: u64) -> Self {
        Self { slots: Slots::new(), rng: fastrand::Rng::with_seed(seed) }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Opens a request of an actor, as the new head of the list of its requests.
    pub(crate) fn open(&mut self, owner: Key, handler: Box<dyn ReplyHandler>, head: &mut u32) -> RequestId {
        let id = self.insert(Some(owner), handler, *head);
        let index = id.key().index;
        if *head != NO_REQUEST {
            self.slots[*head].previous = index;
        }
        *head = index;
        id
    }

    /// Opens a request that no actor owns.
    pub(crate) fn open_ownerless(&mut self, handler: Box<dyn ReplyHandler>) -> RequestId {
        self.insert(None, handler, NO_REQUEST)
    }

    fn insert(&mut self, owner: Option<Key>, handler: Box<dyn ReplyHandler>, next: u32) -> RequestId {
        let Self { slots, rng } = self;
        let request = OpenRequest { owner, handler, expected: None, timer: None, next, previous: NO_REQUEST };
        RequestId::of(slots.insert(request, |generation| generation.unwrap_or_else(|| rng.u32(..))))
    }

    pub(crate) fn set_timer(&mut self, id: RequestId, timer: TimerKey) {
        if let Some(request) = self.slots.get_mut(id.key()) {
            request.timer = Some(timer);
        }
    }

    /// Records that the `ReplyTo` was sent to another node, and how the reply is decoded.
    pub(crate) fn expect_remote_reply(&mut self, id: RequestId, expected: ExpectedReply) -> bool {
        self.slots.get_mut(id.key()).map(|request| request.expected = Some(expected)).is_some()
    }

    pub(crate) fn expected(&self, id: RequestId) -> Option<ExpectedReply> {
        self.slots.get(id.key())?.expected
    }

    /// Whether `value` is of the type that the request expects, whose name is the error; `None` if the request is closed.
    pub(crate) fn fits(&self, id: RequestId, value: &dyn Any) -> Option<Result<(), &'static str>> {
        let handler = &self.slots.get(id.key())?.handler;
        Some(if handler.fits(value) { Ok(()) } else { Err(handler.type_name()) })
    }

    /// The actor that waits for an open request.
    pub(crate) fn owner(&self, id: RequestId) -> Option<Key> {
        self.slots.get(id.key())?.owner
    }

    pub(crate) fn is_open(&self, id: RequestId) -> bool {
        self.slots.get(id.key()).is_some()
    }

    /// Closes a request. Returns also the new head of its owner's list, if that changed.
    pub(crate) fn close(&mut self, id: RequestId) -> Option<(ClosedRequest, Option<u32>)> {
        let step = self.rng.u32(1..);
        let OpenRequest { owner, handler, expected, timer, next, previous } =
            self.slots.remove_with_step(id.key(), step)?;
        if next != NO_REQUEST {
            self.slots[next].previous = previous;
        }
        let head = match previous {
            NO_REQUEST => Some(next),
            previous => {
                self.slots[previous].next = next;
                None
            }
        };
        Some((ClosedRequest { owner, handler, timer, is_remote: expected.is_some() }, head))
    }

    /// The open requests of threads.
    pub(crate) fn of_threads(&self) -> Vec<RequestId> {
        let open = self.slots.iter().filter(|(_, request)| request.owner.is_none());
        open.map(|(key, _)| RequestId::of(key)).collect()
    }

    /// Closes all requests, and returns their handlers.
    pub(crate) fn take_all(&mut self) -> Vec<Box<dyn ReplyHandler>> {
        self.slots.take_all().into_iter().map(|request| request.handler).collect()
    }

    /// The request at the head of a list.
    pub(crate) fn first(&self, head: u32) -> Option<RequestId> {
        self.slots.key_at(head).map(RequestId::of)
    }
}

/// The permission to reply to one request, once; from this node or from another.
///
/// `cx.reply(to, value)` consumes it. When it is dropped without a reply, the request fails at once with
/// [`AskError::Dropped`].
#[must_use = "if it is dropped, the request fails with `AskError::Dropped`"]
pub struct ReplyTo<R> {
    node: NodeId,
    request_id: RequestId,
    /// The loop that holds this copy, and fails the request when it is dropped. `None` once another copy took over.
    holder: Cell<Option<NodeId>>,
    /// The part of the quota that this copy uses, if it came from another node.
    #[expect(dead_code, reason = "its drop frees the part of the quota")]
    permit: Option<Permit>,
    reach: ReplyFn<R>,
}

pub(crate) type ReplyFn<R> = fn(&mut LoopRef<'_>, NodeId, RequestId, R) -> Result<(), Undelivered>;

impl<R: 'static> ReplyTo<R> {
    pub(crate) fn new(node: NodeId, request_id: RequestId) -> Self {
        Self { node, request_id, holder: Cell::new(Some(node)), permit: None, reach: reach_local::<R> }
    }
}

impl<R> ReplyTo<R> {
    /// The node that sent the request.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// A copy that the loop `holder` has decoded.
    #[cfg(feature = "serde")]
    pub(crate) fn received(
        node: NodeId,
        request_id: RequestId,
        holder: NodeId,
        permit: Option<Permit>,
        reach: ReplyFn<R>,
    ) -> Self {
        Self { node, request_id, holder: Cell::new(Some(holder)), permit, reach }
    }

    #[cfg(feature = "serde")]
    pub(crate) fn request_id(&self) -> RequestId {
        self.request_id
    }

    /// Sets the loop that fails the request when this copy is dropped; `None` if another copy takes over.
    #[cfg(feature = "serde")]
    pub(crate) fn set_holder(&self, holder: Option<NodeId>) {
        self.holder.set(holder);
    }

    pub(crate) fn into_parts(self) -> (NodeId, RequestId, ReplyFn<R>) {
        self.holder.set(None);
        (self.node, self.request_id, self.reach)
    }
}

fn reach_local<R: 'static>(
    loop_ref: &mut LoopRef<'_>,
    node: NodeId,
    request_id: RequestId,
    value: R,
) -> Result<(), Undelivered> {
    if node != loop_ref.scheduler.core.node_id() {
        return Err(Undelivered::NoNode);
    }
    loop_ref.scheduler.core.complete_request(request_id, value)
}

impl<R> Drop for ReplyTo<R> {
    fn drop(&mut self) {
        if let Some(holder) = self.holder.get()
            && !codec_context::record_drop(self.node, self.request_id)
        {
            dropped::note(holder, self.node, self.request_id);
        }
    }
}

impl<R> fmt::Debug for ReplyTo<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReplyTo<{}>({} of {})", std::any::type_name::<R>(), self.request_id.0, self.node)
    }
}

/// The handler of [`Cx::ask`](crate::Cx::ask): makes a message of the reply or of the error.
pub(crate) struct AskHandler<R, M, F> {
    answer: F,
    types: PhantomData<fn(R) -> M>,
}

impl<R: 'static, M: 'static, F: FnOnce(Result<R, AskError>) -> M + 'static> AskHandler<R, M, F> {
    pub(crate) fn boxed(answer: F) -> Box<dyn ReplyHandler> {
        Box::new(Self { answer, types: PhantomData })
    }
}

impl<R, M, F> ReplyHandler for AskHandler<R, M, F>
where
    R: 'static,
    M: 'static,
    F: FnOnce(Result<R, AskError>) -> M,
{
    fn complete(self: Box<Self>, core: &mut Core, owner: Key, value: &mut dyn Any) {
        if let Some(value) = value.downcast_mut::<Option<R>>().and_then(Option::take) {
            core.push_reply(owner, move || (self.answer)(Ok(value)));
        }
    }

    fn fail(self: Box<Self>, core: &mut Core, owner: Key, reason: AskError) {
        core.push_reply(owner, move || (self.answer)(Err(reason)));
    }

    fn fits(&self, value: &dyn Any) -> bool {
        value.is::<Option<R>>()
    }

    fn type_name(&self) -> &'static str {
        std::any::type_name::<R>()
    }
}

/// The handler of [`Cx::open_request`](crate::Cx::open_request). The reply has errors of its own; other failures are ignored.
pub(crate) struct RequestHandler<R, M, F> {
    answer: F,
    types: PhantomData<fn(R) -> M>,
}

impl<R: 'static, M: 'static, F: FnOnce(R) -> M + 'static> RequestHandler<R, M, F> {
    pub(crate) fn boxed(answer: F) -> Box<dyn ReplyHandler> {
        Box::new(Self { answer, types: PhantomData })
    }
}

impl<R, M, F> ReplyHandler for RequestHandler<R, M, F>
where
    R: 'static,
    M: 'static,
    F: FnOnce(R) -> M,
{
    fn complete(self: Box<Self>, core: &mut Core, owner: Key, value: &mut dyn Any) {
        if let Some(value) = value.downcast_mut::<Option<R>>().and_then(Option::take) {
            core.push_reply(owner, move || (self.answer)(value));
        }
    }

    fn fail(self: Box<Self>, _: &mut Core, _: Key, _: AskError) {}

    fn fits(&self, value: &dyn Any) -> bool {
        value.is::<Option<R>>()
    }

    fn type_name(&self) -> &'static str {
        std::any::type_name::<R>()
    }
}

/// The handler of [`Handle::ask`](crate::Handle::ask): sends the result to the thread that waits for it.
pub(crate) struct ThreadHandler<R> {
    sender: crossbeam_channel::Sender<Result<R, AskError>>,
}

impl<R: Send + 'static> ThreadHandler<R> {
    pub(crate) fn boxed(sender: crossbeam_channel::Sender<Result<R, AskError>>) -> Box<dyn ReplyHandler> {
        Box::new(Self { sender })
    }
}

impl<R: Send + 'static> ReplyHandler for ThreadHandler<R> {
    fn complete(self: Box<Self>, _: &mut Core, _: Key, value: &mut dyn Any) {
        if let Some(value) = value.downcast_mut::<Option<R>>().and_then(Option::take) {
            // It fails only when `ask` has already returned `TimedOut`.
            drop(self.sender.try_send(Ok(value)));
        }
    }

    fn fail(self: Box<Self>, _: &mut Core, _: Key, reason: AskError) {
        drop(self.sender.try_send(Err(reason)));
    }

    fn fits(&self, value: &dyn Any) -> bool {
        value.is::<Option<R>>()
    }

    fn type_name(&self) -> &'static str {
        std::any::type_name::<R>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct NoReply;

    impl ReplyHandler for NoReply {
        fn complete(self: Box<Self>, _: &mut Core, _: Key, _: &mut dyn Any) {}
        fn fail(self: Box<Self>, _: &mut Core, _: Key, _: AskError) {}
        fn fits(&self, _: &dyn Any) -> bool {
            true
        }
        fn type_name(&self) -> &'static str {
            "()"
        }
    }

    /// The ids of 1,000 requests, each opened after the one before was closed.
    fn ids(seed: u64) -> Vec<RequestId> {
        let mut requests = PendingRequests::new(seed);
        let open_and_close = |_| {
            let id = requests.open_ownerless(Box::new(NoReply));
            assert!(requests.close(id).is_some() && requests.close(id).is_none(), "a request closes once");
            id
        };
        (0..1000).map(open_and_close).collect()
    }

    #[test]
    fn request_ids_are_unpredictable_and_differ_by_loop() {
        let (first, second) = (ids(1), ids(2));
        assert!(first.iter().all(|id| id.key().index == 0), "one slot is used for every request");
        let steps = first.windows(2).map(|two| two[1].key().generation.wrapping_sub(two[0].key().generation));
        let steps: std::collections::BTreeSet<u32> = steps.collect();
        assert!(
            steps.len() > 990,
            "the differences between ids are random, but only {} are distinct",
            steps.len()
        );
        assert!(!first.iter().any(|id| second.contains(id)), "each loop has random numbers of its own");
    }
}
