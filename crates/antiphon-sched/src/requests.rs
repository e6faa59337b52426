//! Open requests: a one-shot slot for each, which holds what makes a message of the answer.
//!
//! Whoever answers needs a port's number, never its closure or type. A reply is the right to answer once,
//! from anywhere; dropped, it answers so.
//!
//! Invariant: a port is answered once; its number is not used again at once. The ports of one actor form a list,
//! begun by its mailbox, so that they end with it.
//!
//! Whoever has a reply may answer from anywhere, so half of a port's number is drawn by lot: it cannot be counted up from
//! others. The lot is no cryptographic one.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use crate::codec_context::RequestPermit;
use crate::core::Core;
use crate::dropped_replies;
use crate::error::{AskError, Undelivered};
use crate::id::{Key, NodeId};
use crate::loop_ref::LoopRef;
use crate::mailbox::NO_REQUEST;
use crate::timers::TimerKey;

/// The number of an open request. No other open request of its loop has it.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(u64);

impl RequestId {
    /// The port with this number, as it crossed the wire. Any number is a port; most are nobody's.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The number of the port, as it crosses the wire.
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

/// Decodes an answer that came over the wire, and gives it to the port.
pub(crate) type AnswerDecoder = fn(&mut Core, RequestId, &[u8]) -> Result<(), Undelivered>;

/// Who answered with bytes must have meant this type.
#[derive(Copy, Clone)]
pub(crate) struct ExpectedReply {
    pub(crate) tag: &'static str,
    pub(crate) decode: AnswerDecoder,
}

/// What waits in a port: turns an answer into a message of its owner.
pub(crate) trait ReplyHandler {
    /// `value` holds an `Option<R>`.
    fn answer(self: Box<Self>, core: &mut Core, owner: Key, value: &mut dyn Any);
    fn refuse(self: Box<Self>, core: &mut Core, owner: Key, reason: AskError);
    fn fits(&self, value: &dyn Any) -> bool;
}

struct RequestSlot {
    owner: Option<Key>,
    waiting: Option<Box<dyn ReplyHandler>>,
    expected: Option<ExpectedReply>,
    timer: Option<TimerKey>,
    next: u32,
    previous: u32,
    generation: u32,
}

/// All open requests of a loop.
pub(crate) struct PendingRequests {
    request_ids: Vec<RequestSlot>,
    free: u32,
    open: usize,
    rng: fastrand::Rng,
}

/// A port that was closed.
pub(crate) struct ClosedRequest {
    pub(crate) owner: Option<Key>,
    pub(crate) waiting: Box<dyn ReplyHandler>,
    pub(crate) timer: Option<TimerKey>,
    /// Its reply was sent to another node.
    pub(crate) is_remote: bool,
}

impl PendingRequests {
    pub(crate) fn new(seed: u64) -> Self {
        Self { request_ids: Vec::new(), free: NO_REQUEST, open: 0, rng: fastrand::Rng::with_seed(seed) }
    }

    pub(crate) fn len(&self) -> usize {
        self.open
    }

    /// Opens a port, at the head of the list that begins with `head`.
    pub(crate) fn open(
        &mut self,
        owner: Option<Key>,
        waiting: Box<dyn ReplyHandler>,
        head: u32,
    ) -> RequestId {
        let index = match self.free {
            NO_REQUEST => {
                self.request_ids.push(RequestSlot {
                    owner: None,
                    waiting: None,
                    expected: None,
                    timer: None,
                    next: NO_REQUEST,
                    previous: NO_REQUEST,
                    generation: self.rng.u32(..),
                });
                u32::try_from(self.request_ids.len() - 1).expect("fewer open requests than 2^32")
            }
            index => {
                self.free = self.request_ids[index as usize].next;
                index
            }
        };
        if head != NO_REQUEST {
            self.request_ids[head as usize].previous = index;
        }
        let request_id = &mut self.request_ids[index as usize];
        request_id.owner = owner;
        request_id.waiting = Some(waiting);
        request_id.next = head;
        request_id.previous = NO_REQUEST;
        self.open += 1;
        RequestId::new(request_id.generation, index)
    }

    fn get(&mut self, id: RequestId) -> Option<&mut RequestSlot> {
        let request_id = self.request_ids.get_mut(id.index() as usize)?;
        (request_id.generation == id.generation() && request_id.waiting.is_some()).then_some(request_id)
    }

    pub(crate) fn set_timer(&mut self, id: RequestId, timer: TimerKey) {
        if let Some(request_id) = self.get(id) {
            request_id.timer = Some(timer);
        }
    }

    /// The reply went abroad: what comes back is to be decoded so.
    pub(crate) fn expect(&mut self, id: RequestId, expected: ExpectedReply) -> bool {
        self.get(id).map(|request_id| request_id.expected = Some(expected)).is_some()
    }

    pub(crate) fn expected(&mut self, id: RequestId) -> Option<ExpectedReply> {
        self.get(id)?.expected
    }

    pub(crate) fn fits(&mut self, id: RequestId, value: &dyn Any) -> Option<bool> {
        let request_id = self.get(id)?;
        request_id.waiting.as_ref().map(|waiting| waiting.fits(value))
    }

    pub(crate) fn is_open(&mut self, id: RequestId) -> bool {
        self.get(id).is_some()
    }

    /// Closes a port. Answers the new head of its owner's list, if that changed.
    pub(crate) fn close(&mut self, id: RequestId) -> Option<(ClosedRequest, Option<u32>)> {
        let (free, drawn) = (self.free, self.rng.u32(1..));
        let request_id = self.get(id)?;
        let closed = ClosedRequest {
            owner: request_id.owner.take(),
            waiting: request_id.waiting.take()?,
            timer: request_id.timer.take(),
            is_remote: request_id.expected.take().is_some(),
        };
        let (next, previous) = (request_id.next, request_id.previous);
        request_id.generation = request_id.generation.wrapping_add(drawn);
        request_id.next = free;
        self.free = id.index();
        self.open -= 1;
        if next != NO_REQUEST {
            self.request_ids[next as usize].previous = previous;
        }
        let head = match previous {
            NO_REQUEST => Some(next),
            _ => {
                self.request_ids[previous as usize].next = next;
                None
            }
        };
        Some((closed, head))
    }

    /// Drops what waits in all ports, one by one.
    pub(crate) fn drop_all(&mut self) {
        for request_id in &mut self.request_ids {
            let waiting = request_id.waiting.take();
            crate::panic_guard::log_panic(|| drop(waiting));
        }
    }

    /// The port at the head of a list.
    pub(crate) fn at(&self, head: u32) -> Option<RequestId> {
        let request_id = self.request_ids.get(head as usize)?;
        Some(RequestId::new(request_id.generation, head))
    }
}

/// The right to answer a request, once; from this node or from another.
///
/// `cx.reply(reply, value)` uses it up. Dropped without an answer, it tells the asker at once.
#[must_use = "dropped, it tells the asker that there is no answer"]
pub struct ReplyTo<R> {
    pub(crate) node: NodeId,
    pub(crate) request_id: RequestId,
    /// The loop that is to be told when this copy is dropped; `None` once another copy took its place.
    pub(crate) node_id: Cell<Option<NodeId>>,
    /// That it is held here, if it came from another node.
    #[expect(dead_code, reason = "it counts as long as it is here")]
    pub(crate) place: Option<RequestPermit>,
    pub(crate) reach: ReplyFn<R>,
}

pub(crate) type ReplyFn<R> = fn(&mut LoopRef<'_>, NodeId, RequestId, R) -> Result<(), Undelivered>;

impl<R: 'static> ReplyTo<R> {
    pub(crate) fn new(node: NodeId, request_id: RequestId) -> Self {
        Self { node, request_id, node_id: Cell::new(Some(node)), place: None, reach: reach_local::<R> }
    }
}

impl<R> ReplyTo<R> {
    /// The node that asked.
    pub fn node(&self) -> NodeId {
        self.node
    }

    pub(crate) fn use_up(self) -> (NodeId, RequestId, ReplyFn<R>) {
        self.node_id.set(None);
        (self.node, self.request_id, self.reach)
    }
}

fn reach_local<R: 'static>(
    loop_ref: &mut LoopRef<'_>,
    node: NodeId,
    request_id: RequestId,
    value: R,
) -> Result<(), Undelivered> {
    if node != loop_ref.core.node_id {
        return Err(Undelivered::NoNode);
    }
    loop_ref.core.complete_request(request_id, value)
}

impl<R> Drop for ReplyTo<R> {
    fn drop(&mut self) {
        if let Some(node_id) = self.node_id.get() {
            dropped_replies::note(node_id, self.node, self.request_id);
        }
    }
}

impl<R> fmt::Debug for ReplyTo<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reply<{}>({} of {})", std::any::type_name::<R>(), self.request_id.0, self.node)
    }
}

/// A question: answered with a value, or told why there is none.
pub(crate) struct AskHandler<R, M, F> {
    pub(crate) answer: F,
    pub(crate) types: PhantomData<fn(R) -> M>,
}

impl<R, M, F> ReplyHandler for AskHandler<R, M, F>
where
    R: 'static,
    M: 'static,
    F: FnOnce(Result<R, AskError>) -> M,
{
    fn answer(self: Box<Self>, core: &mut Core, owner: Key, value: &mut dyn Any) {
        if let Some(value) = value.downcast_mut::<Option<R>>().and_then(Option::take) {
            core.push_reply(owner, move || (self.answer)(Ok(value)));
        }
    }

    fn refuse(self: Box<Self>, core: &mut Core, owner: Key, reason: AskError) {
        core.push_reply(owner, move || (self.answer)(Err(reason)));
    }

    fn fits(&self, value: &dyn Any) -> bool {
        value.is::<Option<R>>()
    }
}

/// A request whose answerer always answers: with an `R` that has its own errors.
pub(crate) struct RequestHandler<R, M, F> {
    pub(crate) answer: F,
    pub(crate) types: PhantomData<fn(R) -> M>,
}

impl<R, M, F> ReplyHandler for RequestHandler<R, M, F>
where
    R: 'static,
    M: 'static,
    F: FnOnce(R) -> M,
{
    fn answer(self: Box<Self>, core: &mut Core, owner: Key, value: &mut dyn Any) {
        if let Some(value) = value.downcast_mut::<Option<R>>().and_then(Option::take) {
            core.push_reply(owner, move || (self.answer)(value));
        }
    }

    fn refuse(self: Box<Self>, _: &mut Core, _: Key, _: AskError) {}

    fn fits(&self, value: &dyn Any) -> bool {
        value.is::<Option<R>>()
    }
}

/// A question from a thread that waits for the answer.
pub(crate) struct ThreadHandler<R> {
    pub(crate) answer: crossbeam_channel::Sender<Result<R, AskError>>,
}

impl<R: Send + 'static> ReplyHandler for ThreadHandler<R> {
    fn answer(self: Box<Self>, _: &mut Core, _: Key, value: &mut dyn Any) {
        if let Some(value) = value.downcast_mut::<Option<R>>().and_then(Option::take) {
            // A thread that waits no longer has been told `TimedOut`.
            drop(self.answer.try_send(Ok(value)));
        }
    }

    fn refuse(self: Box<Self>, _: &mut Core, _: Key, reason: AskError) {
        drop(self.answer.try_send(Err(reason)));
    }

    fn fits(&self, value: &dyn Any) -> bool {
        value.is::<Option<R>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl ReplyHandler for Nothing {
        fn answer(self: Box<Self>, _: &mut Core, _: Key, _: &mut dyn Any) {}
        fn refuse(self: Box<Self>, _: &mut Core, _: Key, _: AskError) {}
        fn fits(&self, _: &dyn Any) -> bool {
            true
        }
    }

    /// The numbers of requests that are open one after the other.
    fn numbers(seed: u64) -> Vec<RequestId> {
        let mut request_ids = PendingRequests::new(seed);
        let open_and_close = |_| {
            let id = request_ids.open(None, Box::new(Nothing), NO_REQUEST);
            assert!(
                request_ids.close(id).is_some() && request_ids.close(id).is_none(),
                "it is answered once"
            );
            id
        };
        (0..1000).map(open_and_close).collect()
    }

    #[test]
    fn numbers_of_requests_are_not_counted_up_and_differ_between_loops() {
        let (ours, theirs) = (numbers(1), numbers(2));
        assert!(ours.iter().all(|id| id.index() == 0), "one slot is used again and again");
        let steps = ours.windows(2).map(|two| two[1].generation().wrapping_sub(two[0].generation()));
        let steps: std::collections::BTreeSet<u32> = steps.collect();
        assert!(steps.len() > 990, "no step follows from those before: {} different ones", steps.len());
        assert!(!ours.iter().any(|id| theirs.contains(id)), "each loop draws its own");
    }
}
