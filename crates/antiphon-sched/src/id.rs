//! The ids of actors on any node.

use std::fmt;

pub use antiphon_types::{Key, NodeId};

/// The id of an actor on any node, without the type of its messages. Monitors, dead letters and logs use it.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActorId {
    node: NodeId,
    key: Key,
}

impl ActorId {
    /// The actor `key` of `node`.
    pub const fn new(node: NodeId, key: Key) -> Self {
        Self { node, key }
    }

    /// The node of the actor.
    pub const fn node(self) -> NodeId {
        self.node
    }

    /// The key of the actor within its node.
    pub const fn key(self) -> Key {
        self.key
    }

    /// The id of the actor itself: for the id of an adapter, the id of its actor.
    pub const fn actor(self) -> Self {
        Self { node: self.node, key: self.key.actor() }
    }
}

impl fmt::Display for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.key, self.node)
    }
}

impl fmt::Debug for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ActorId({self})")
    }
}
