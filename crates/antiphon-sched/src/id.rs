//! The ids of nodes, and of the actors on them.
//!
//! Invariant: a key is used for one actor only. Its slot in the actor table may be used again with another generation.

use std::fmt;

/// The random id of one incarnation of a node.
///
/// A node that restarts gets another id, even if it uses the same port.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u64);

impl NodeId {
    /// The node id with the number `bits`.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The node id as a number, as it crosses the wire.
    pub const fn to_bits(self) -> u64 {
        self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

const INDEX_BITS: u32 = 28;
const MASK: u64 = (1 << INDEX_BITS) - 1;

/// An actor within its node: loop (8 bits), generation (28), index (28).
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(u64);

impl Key {
    /// The most actors that a loop holds at once.
    pub(crate) const INDEX_MAX: u32 = MASK as u32 - 1;
    /// The last generation of a slot; after it the slot is retired.
    pub(crate) const GENERATION_MAX: u32 = MASK as u32;

    pub(crate) const fn new(generation: u32, index: u32) -> Self {
        Self(((generation as u64 & MASK) << INDEX_BITS) | (index as u64 & MASK))
    }

    /// The key with the number `bits`, as it crossed the wire. Every number is a valid key; most refer to no actor.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The key as a number, as it crosses the wire.
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The key of the actor itself, for the key of one of its adapters.
    pub const fn actor(self) -> Self {
        self
    }

    #[inline]
    pub(crate) const fn index(self) -> u32 {
        (self.0 & MASK) as u32
    }

    /// Loop and generation: the part of the key besides the index.
    #[inline]
    pub(crate) const fn generation(self) -> u64 {
        self.0 >> INDEX_BITS
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index(), self.generation())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

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
