//! The ids that frames use for nodes, actors and type tags.

use std::fmt;

/// The id of one incarnation of a node: a random number drawn at each start. A restarted node has another id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// The id of an actor, channel or RCI within one node. This crate does not interpret it. In some fields of frames,
/// 0 means "none".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u64);

/// The number of a type tag in one direction of one session. Numbers are assigned from 0 without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TagId(pub u32);

/// A receiving and a sending actor. The frames of one pair arrive in the order in which they are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    /// The receiver. The first field, so that an ordered map keeps all pairs of one receiver together.
    pub to: Key,
    /// The sender.
    pub from: Key,
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}
