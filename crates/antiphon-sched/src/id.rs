//! Who is meant: nodes, and actors on them.
//!
//! Invariant: a key is used once. Its slot in the table may be used again, under another generation.

use std::fmt;

/// One start of a process: its incarnation, drawn at random.
///
/// A node that starts again, also on the same port, is another node.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u64);

impl NodeId {
    /// The node whose incarnation is `bits`.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The incarnation as a number, as it crosses the wire.
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

    /// The key whose bits are `bits`, as they crossed the wire. Any number is a key; most are nobody's.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The key as a number, as it crosses the wire.
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    #[inline]
    pub(crate) const fn index(self) -> u32 {
        (self.0 & MASK) as u32
    }

    /// Loop and generation: all that must agree besides the index.
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

/// An actor anywhere, without the type of its messages: what monitors, notices and logs speak of.
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

    /// The node where the actor lives.
    pub const fn node(self) -> NodeId {
        self.node
    }

    /// The actor within its node.
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
