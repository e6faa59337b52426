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
use crate::remote::{LoopRef, RequestPermit, codec_context};
use crate::request::dropped;
use crate::scheduler::{Core, NO_REQUEST, TimerKey, log_panic};

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

    const fn new(generation: u32, index: u32) -> Self {
        Self(((generation as u64) << 32) | index as u64)
    }

    const fn index(self) -> u32 {
        self.0 as u32
    }

    const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
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

/// An open request, or a free slot without a handler.
struct RequestSlot {
    owner: Option<Key>,
    handler: Option<Box<dyn ReplyHandler>>,
    expected: Option<ExpectedReply>,
    timer: Option<TimerKey>,
    next: u32,
    previous: u32,
    generation: u32,
}

/// All open requests of a loop.
pub(crate) struct PendingRequests {
    slots: Vec<RequestSlot>,
    free: u32,
    open: usize,
    rng: fastrand::Rng,
}

/// A request that was closed.
pub(crate) struct ClosedRequest {
    pub(crate) owner: Option<Key>,
    pub(crate) handler: Box<dyn ReplyHandler>,
    pub(crate) timer: Option<TimerKey>,
    /// Its `ReplyTo` was sent to another node.
    pub(crate) is_remote: bool,
}

impl PendingRequests {
    pub(crate) fn new(seed: u64) -> Self {
        Self { slots: Vec::new(), free: NO_REQUEST, open: 0, rng: fastrand::Rng::with_seed(seed) }
    }

    pub(crate) fn len(&self) -> usize {
        self.open
    }

    /// Opens a request, at the head of the list that begins with `head`.
    pub(crate) fn open(
        &mut self,
        owner: Option<Key>,
        handler: Box<dyn ReplyHandler>,
        head: u32,
    ) -> RequestId {
        let index = match self.free {
            NO_REQUEST => {
                self.slots.push(RequestSlot {
                    owner: None,
                    handler: None,
                    expected: None,
                    timer: None,
                    next: NO_REQUEST,
                    previous: NO_REQUEST,
                    generation: self.rng.u32(..),
                });
                u32::try_from(self.slots.len() - 1).expect("fewer open requests than 2^32")
            }
            index => {
                self.free = self.slots[index as usize].next;
                index
            }
        };
        if head != NO_REQUEST {
            self.slots[head as usize].previous = index;
        }
        let slot = &mut self.slots[index as usize];
        slot.owner = owner;
        slot.handler = Some(handler);
        slot.next = head;
        slot.previous = NO_REQUEST;
        self.open += 1;
        RequestId::new(slot.generation, index)
    }

    fn get(&mut self, id: RequestId) -> Option<&mut RequestSlot> {
        let slot = self.slots.get_mut(id.index() as usize)?;
        (slot.generation == id.generation() && slot.handler.is_some()).then_some(slot)
    }

    pub(crate) fn set_timer(&mut self, id: RequestId, timer: TimerKey) {
        if let Some(slot) = self.get(id) {
            slot.timer = Some(timer);
        }
    }

    /// Records that the `ReplyTo` was sent to another node, and how the reply is decoded.
    pub(crate) fn expect_remote_reply(&mut self, id: RequestId, expected: ExpectedReply) -> bool {
        self.get(id).map(|slot| slot.expected = Some(expected)).is_some()
    }

    pub(crate) fn expected(&mut self, id: RequestId) -> Option<ExpectedReply> {
        self.get(id)?.expected
    }

    /// Whether `value` is of the type that the request expects, whose name is the error; `None` if the request is closed.
    pub(crate) fn fits(&mut self, id: RequestId, value: &dyn Any) -> Option<Result<(), &'static str>> {
        let handler = self.get(id)?.handler.as_ref()?;
        Some(if handler.fits(value) { Ok(()) } else { Err(handler.type_name()) })
    }

    /// The actor that waits for an open request.
    pub(crate) fn owner(&mut self, id: RequestId) -> Option<Key> {
        self.get(id)?.owner
    }

    pub(crate) fn is_open(&mut self, id: RequestId) -> bool {
        self.get(id).is_some()
    }

    /// Closes a request. Returns also the new head of its owner's list, if that changed.
    pub(crate) fn close(&mut self, id: RequestId) -> Option<(ClosedRequest, Option<u32>)> {
        let (free, random) = (self.free, self.rng.u32(1..));
        let slot = self.get(id)?;
        let closed = ClosedRequest {
            owner: slot.owner.take(),
            handler: slot.handler.take()?,
            timer: slot.timer.take(),
            is_remote: slot.expected.take().is_some(),
        };
        let (next, previous) = (slot.next, slot.previous);
        slot.generation = slot.generation.wrapping_add(random);
        slot.next = free;
        self.free = id.index();
        self.open -= 1;
        if next != NO_REQUEST {
            self.slots[next as usize].previous = previous;
        }
        let head = match previous {
            NO_REQUEST => Some(next),
            _ => {
                self.slots[previous as usize].next = next;
                None
            }
        };
        Some((closed, head))
    }

    /// The open requests of threads.
    pub(crate) fn of_threads(&self) -> Vec<RequestId> {
        let open =
            self.slots.iter().zip(0..).filter(|(slot, _)| slot.handler.is_some() && slot.owner.is_none());
        open.map(|(slot, index)| RequestId::new(slot.generation, index)).collect()
    }

    /// Drops the handlers of all open requests, one by one.
    pub(crate) fn drop_all(&mut self) {
        for slot in &mut self.slots {
            let handler = slot.handler.take();
            log_panic(|| drop(handler));
        }
    }

    /// The request at the head of a list.
    pub(crate) fn first(&self, head: u32) -> Option<RequestId> {
        let slot = self.slots.get(head as usize)?;
        Some(RequestId::new(slot.generation, head))
    }
}

/// The permission to reply to one request, once; from this node or from another.
///
/// `cx.reply(to, value)` consumes it. When it is dropped without a reply, the request fails at once with
/// [`AskError::Dropped`].
#[must_use = "if it is dropped, the request fails with `AskError::Dropped`"]
pub struct ReplyTo<R> {
    pub(crate) node: NodeId,
    pub(crate) request_id: RequestId,
    /// The loop that holds this copy, and fails the request when it is dropped. `None` once another copy took over.
    pub(crate) holder: Cell<Option<NodeId>>,
    /// The part of the quota that this copy uses, if it came from another node.
    #[expect(dead_code, reason = "its drop frees the part of the quota")]
    pub(crate) permit: Option<RequestPermit>,
    pub(crate) reach: ReplyFn<R>,
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
    if node != loop_ref.scheduler.core.node_id {
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
    pub(crate) sender: crossbeam_channel::Sender<Result<R, AskError>>,
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
            let id = requests.open(None, Box::new(NoReply), NO_REQUEST);
            assert!(requests.close(id).is_some() && requests.close(id).is_none(), "a request closes once");
            id
        };
        (0..1000).map(open_and_close).collect()
    }

    #[test]
    fn request_ids_are_unpredictable_and_differ_by_loop() {
        let (first, second) = (ids(1), ids(2));
        assert!(first.iter().all(|id| id.index() == 0), "one slot is used for every request");
        let steps = first.windows(2).map(|two| two[1].generation().wrapping_sub(two[0].generation()));
        let steps: std::collections::BTreeSet<u32> = steps.collect();
        assert!(
            steps.len() > 990,
            "the differences between ids are random, but only {} are distinct",
            steps.len()
        );
        assert!(!first.iter().any(|id| second.contains(id)), "each loop has random numbers of its own");
    }
}
