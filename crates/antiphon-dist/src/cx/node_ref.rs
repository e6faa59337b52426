//! Access to the node of a loop, for service actors and the methods of `NetCx`.

use std::fmt::Display;

use antiphon_sched::{ActorId, Addr, Key, LoopRef, Wire};

use crate::access::{AccessError, AccessPolicy};
use crate::error::{LocateError, RegisterError};
use crate::node::{FoundName, NodeCore, Space, complete_if_open};

/// The node that a loop is part of.
pub(crate) fn node_mut<'c>(loop_ref: &'c mut LoopRef<'_>) -> Option<&'c mut NodeCore> {
    let now = loop_ref.now();
    let core = loop_ref.transport::<NodeCore>()?;
    core.advance(now);
    Some(core)
}

/// Whether an event that peers can cause may be logged now; see the log throttle.
pub(crate) fn may_log(loop_ref: &mut LoopRef<'_>, kind: &'static str, about: impl Display) -> bool {
    node_mut(loop_ref).is_some_and(|core| core.may_log(kind, about))
}

/// Registers an actor of this loop under a name, exposes it to peers, and completes the lookups of this node for the name.
pub(crate) fn register<M: Wire>(
    loop_ref: &mut LoopRef<'_>,
    (space, name): (Space, &str),
    actor: Addr<M>,
    tag: &'static str,
    owner: Option<Key>,
) -> Result<(), RegisterError> {
    let core = node_mut(loop_ref).ok_or(RegisterError::NoNode)?;
    let lookups = core.register((space, name), actor.id().key(), tag, owner)?;
    if !loop_ref.service().expose(actor) {
        // The actor was terminated in this same step, so its exit would not unregister the name.
        node_mut(loop_ref).ok_or(RegisterError::NoNode)?.unregister(space, name, owner)?;
    }
    for request_id in lookups {
        let found: Result<FoundName, LocateError> = Ok(FoundName { id: actor.id() });
        complete_if_open(loop_ref.requests(), request_id, found);
    }
    Ok(())
}

/// Sets the access policy of an actor of this loop.
pub(crate) fn allow(
    loop_ref: &mut LoopRef<'_>,
    target: ActorId,
    access: AccessPolicy,
) -> Result<(), AccessError> {
    let is_here = target.node() == loop_ref.node_id();
    node_mut(loop_ref).ok_or(AccessError::NoNode)?.check_access(&access)?;
    if !is_here {
        return Err(AccessError::Elsewhere);
    }
    if !loop_ref.is_alive(target.key()) {
        return Err(AccessError::Ended);
    }
    let actor = target.key().actor();
    if !access.allows_all() {
        loop_ref.service().report_exit(actor);
    }
    node_mut(loop_ref).ok_or(AccessError::NoNode)?.set_access(actor, access);
    Ok(())
}
