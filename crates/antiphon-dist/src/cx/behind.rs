//! The node behind a loop, as hidden actors and the verbs reach it.

use std::fmt::Display;

use antiphon_sched::{ActorId, Addr, Door, Key, Wire};

use crate::audience::{Audience, AudienceError};
use crate::error::{LocateError, RegisterError};
use crate::node::{FoundName, NodeCore, Space, settle};

/// The node that a loop is part of.
pub(crate) fn node_behind<'c>(door: &'c mut Door<'_>) -> Option<&'c mut NodeCore> {
    let now = door.now();
    let core = door.outside::<NodeCore>()?;
    core.advance(now);
    Some(core)
}

/// Whether the log is to be told of this now: whatever peers can bring about is told seldom.
pub(crate) fn may_say(door: &mut Door<'_>, kind: &'static str, about: impl Display) -> bool {
    node_behind(door).is_some_and(|core| core.may_say(kind, about))
}

/// Registers an actor of this loop under a name, opens it to the network, and tells whoever waits for the name.
pub(crate) fn register<M: Wire>(
    door: &mut Door<'_>,
    (space, name): (Space, &str),
    actor: Addr<M>,
    tag: &'static str,
    owner: Option<Key>,
) -> Result<(), RegisterError> {
    let core = node_behind(door).ok_or(RegisterError::NoNode)?;
    let waiting = core.register((space, name), actor.id().key(), tag, owner)?;
    if !door.expose(actor) {
        // It was ended within this very step: nobody would take the name back later.
        node_behind(door).ok_or(RegisterError::NoNode)?.unregister(space, name, owner)?;
    }
    for port in waiting {
        let found: Result<FoundName, LocateError> = Ok(FoundName { id: actor.id() });
        settle(door, port, found);
    }
    Ok(())
}

/// Opens an actor of this loop to these peers, and to no others.
pub(crate) fn open_to(door: &mut Door<'_>, what: ActorId, audience: Audience) -> Result<(), AudienceError> {
    let is_here = what.node() == door.home();
    node_behind(door).ok_or(AudienceError::NoNode)?.check_audience(&audience)?;
    if !is_here {
        return Err(AudienceError::Elsewhere);
    }
    let actor = door.owner_of(what.key());
    if !door.is_alive(actor) {
        return Err(AudienceError::Ended);
    }
    if !audience.is_everybody() {
        door.tell_end(actor);
    }
    node_behind(door).ok_or(AudienceError::NoNode)?.set_audience(actor, audience);
    Ok(())
}
