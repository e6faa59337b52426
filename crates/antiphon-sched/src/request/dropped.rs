//! Reports that a `ReplyTo` was dropped without a reply, from any thread to its loop.
//!
//! A drop has no `Cx`. On the loop's own thread it adds a note to a thread-local list, which the loop reads in each
//! round. On another thread it sends the note through the loop's urgent inbox.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::id::NodeId;
use crate::request::pending::RequestId;
use crate::thread::Shared;

/// A dropped reply: the node that opened the request, and the request.
pub(crate) type DroppedReply = (NodeId, RequestId);

thread_local! {
    static NOTES: RefCell<Vec<(NodeId, Vec<DroppedReply>)>> = const { RefCell::new(Vec::new()) };
}

static LOOPS: Mutex<BTreeMap<NodeId, Weak<Shared>>> = Mutex::new(BTreeMap::new());

/// Starts collecting notes for the loop `node_id` of this thread.
pub(crate) fn open(node_id: NodeId, shared: &Arc<Shared>) {
    NOTES.with_borrow_mut(|notes| notes.push((node_id, Vec::new())));
    LOOPS.lock().insert(node_id, Arc::downgrade(shared));
}

/// Stops collecting notes for the loop `node_id`, and drops those that it has.
pub(crate) fn close(node_id: NodeId) {
    // At the end of a thread, its thread-local notes may be destroyed before the loop.
    if NOTES.try_with(|notes| notes.borrow_mut().retain(|(id, _)| *id != node_id)).is_err() {
        tracing::debug!("dropped replies discarded: the thread ended before its loop");
    }
    LOOPS.lock().remove(&node_id);
}

/// Notes that the loop `node_id` has dropped the reply to a request of `node`.
pub(crate) fn note(node_id: NodeId, node: NodeId, request_id: RequestId) {
    let noted = NOTES.try_with(|notes| {
        let mut notes = notes.borrow_mut();
        notes
            .iter_mut()
            .find(|(id, _)| *id == node_id)
            .map(|(_, of_loop)| of_loop.push((node, request_id)))
            .is_some()
    });
    if noted.unwrap_or(false) {
        return;
    }
    let shared = LOOPS.lock().get(&node_id).and_then(Weak::upgrade);
    if let Some(shared) = shared {
        shared.push_urgent(Box::new((node, request_id)));
    }
}

/// Whether the loop `node_id` has unread notes.
pub(crate) fn any(node_id: NodeId) -> bool {
    NOTES.with_borrow(|notes| notes.iter().any(|(id, of_loop)| *id == node_id && !of_loop.is_empty()))
}

/// Swaps the notes of the loop `node_id` with `into`, which must be empty: its memory is used again.
pub(crate) fn take(node_id: NodeId, into: &mut Vec<DroppedReply>) {
    NOTES.with_borrow_mut(|notes| {
        if let Some((_, of_loop)) = notes.iter_mut().find(|(id, _)| *id == node_id) {
            std::mem::swap(of_loop, into);
        }
    });
}
