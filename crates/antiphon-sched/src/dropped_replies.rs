//! Replies that were dropped unanswered, on whichever thread, on their way to their loop.
//!
//! A drop has no `Cx`. On the loop's own thread it leaves a note, which the loop reads in each round; on
//! another thread it posts the note through the loop's urgent inbox.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::handle::Shared;
use crate::id::NodeId;
use crate::requests::RequestId;

/// A reply that was dropped: the node that asked, and the request.
pub(crate) type DroppedReply = (NodeId, RequestId);

thread_local! {
    static NOTES: RefCell<Vec<(NodeId, Vec<DroppedReply>)>> = const { RefCell::new(Vec::new()) };
}

static LOOPS: Mutex<BTreeMap<NodeId, Weak<Shared>>> = Mutex::new(BTreeMap::new());

/// From now on the loop `node_id`, on this thread, reads notes.
pub(crate) fn open(node_id: NodeId, shared: &Arc<Shared>) {
    NOTES.with_borrow_mut(|notes| notes.push((node_id, Vec::new())));
    LOOPS.lock().insert(node_id, Arc::downgrade(shared));
}

pub(crate) fn close(node_id: NodeId) {
    // At the end of a thread its notes may be gone before the loop is.
    if NOTES.try_with(|notes| notes.borrow_mut().retain(|(id, _)| *id != node_id)).is_err() {
        tracing::debug!("a loop outlived its thread's notes");
    }
    LOOPS.lock().remove(&node_id);
}

/// A reply of `node`'s was dropped within the loop `node_id`.
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
        shared.post_urgent(Box::new((node, request_id)));
    }
}

/// Whether there are notes for the loop `node_id`.
pub(crate) fn any(node_id: NodeId) -> bool {
    NOTES.with_borrow(|notes| notes.iter().any(|(id, of_loop)| *id == node_id && !of_loop.is_empty()))
}

/// Takes back the notes of the loop `node_id`, on this thread, whose requests `is_meant` picks.
pub(crate) fn retract(node_id: NodeId, is_meant: impl Fn(RequestId) -> bool) {
    NOTES.with_borrow_mut(|notes| {
        if let Some((_, of_loop)) = notes.iter_mut().find(|(id, _)| *id == node_id) {
            of_loop.retain(|(node, request_id)| *node != node_id || !is_meant(*request_id));
        }
    });
}

/// Takes the notes of the loop `node_id`; `into` is empty, and keeps its memory.
pub(crate) fn take(node_id: NodeId, into: &mut Vec<DroppedReply>) {
    NOTES.with_borrow_mut(|notes| {
        if let Some((_, of_loop)) = notes.iter_mut().find(|(id, _)| *id == node_id) {
            std::mem::swap(of_loop, into);
        }
    });
}
