//! The ids that frames use for nodes, actors and type tags.

use std::fmt;
use std::ops::RangeInclusive;

/// The id of one incarnation of a node: a random number drawn at each start. A restarted node has another id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// The id of an actor, channel or RCI within one node, or of an adapter. In some fields of frames, 0 means "none".
///
/// The lower 46 bits name the actor. The upper 18 bits name an adapter of that actor; they are 0 for the actor itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u64);

impl Key {
    /// The key of the actor: of an adapter, the key of its actor; else the key itself.
    #[inline]
    #[must_use]
    pub fn actor(self) -> Key {
        Key(self.0 & ACTOR_BITS)
    }
}

/// The bits of a key that name the actor.
const ACTOR_BITS: u64 = (1 << 46) - 1;

/// The number of a type tag in one direction of one session. Numbers are assigned from 0 without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TagId(pub u32);

/// The receiver of a frame at the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Recipient {
    /// An actor. Its key names no adapter.
    Actor(Key),
    /// An open request, which an [`Answer`](crate::frame::Answer) completes. A pause never concerns it, even if its id
    /// equals the key of an actor.
    Request(Key),
}

/// A receiver and a sending actor. The frames of one pair arrive in the order in which they are sent. An adapter counts as
/// its actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    /// The first field, so that an ordered map keeps all pairs of one receiver together.
    to: Recipient,
    from: Key,
}

impl Pair {
    /// The pair of two actors, or of adapters of these actors.
    #[inline]
    #[must_use]
    pub fn new(from: Key, to: Key) -> Pair {
        Pair { to: Recipient::Actor(to.actor()), from: from.actor() }
    }

    /// The pair of an actor that answers and of the request at the peer.
    #[inline]
    #[must_use]
    pub fn to_request(from: Key, request: Key) -> Pair {
        Pair { to: Recipient::Request(request), from: from.actor() }
    }

    /// The pair of this sender and this receiver.
    pub(crate) fn of(from: Key, to: Recipient) -> Pair {
        Pair { to, from: from.actor() }
    }

    /// All pairs of one receiver.
    pub(crate) fn range_to(to: Recipient) -> RangeInclusive<Pair> {
        Pair { to, from: Key(0) }..=Pair { to, from: Key(u64::MAX) }
    }

    /// The receiver.
    #[inline]
    #[must_use]
    pub fn to(self) -> Recipient {
        self.to
    }

    /// The sending actor.
    #[inline]
    #[must_use]
    pub fn from(self) -> Key {
        self.from
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const ADAPTER: u64 = 5 << 46;

    #[test]
    fn adapter_key_names_its_actor() {
        assert_eq!(Key(ADAPTER | 7).actor(), Key(7));
        assert_eq!(Key(7).actor(), Key(7));
        assert_eq!(Pair::new(Key(ADAPTER | 1), Key(ADAPTER | 2)), Pair::new(Key(1), Key(2)));
    }

    #[test]
    fn request_id_is_no_actor() {
        let request = Key(ADAPTER | 2);
        assert_eq!(Pair::to_request(Key(ADAPTER | 1), request).to(), Recipient::Request(request));
        assert_ne!(Pair::to_request(Key(1), Key(2)), Pair::new(Key(1), Key(2)));
    }
}
