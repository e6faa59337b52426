//! The ids that frames use for nodes, actors and type tags. In some fields of frames the key 0 means "none".

use std::ops::RangeInclusive;

pub use antiphon_types::{Key, NodeId};

/// The number of a type tag in one direction of one session. Numbers are assigned from 0 without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TagId(pub u32);

/// The receiver of a frame at the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrameTarget {
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
    to: FrameTarget,
    from: Key,
}

impl Pair {
    /// The pair of two actors, or of adapters of these actors.
    #[inline]
    #[must_use]
    pub fn new(from: Key, to: Key) -> Pair {
        Pair { to: FrameTarget::Actor(to.actor()), from: from.actor() }
    }

    /// The pair of an actor that answers and of the request at the peer.
    #[inline]
    #[must_use]
    pub fn to_request(from: Key, request: Key) -> Pair {
        Pair { to: FrameTarget::Request(request), from: from.actor() }
    }

    /// The pair of this sender and this receiver.
    pub(crate) fn of(from: Key, to: FrameTarget) -> Pair {
        Pair { to, from: from.actor() }
    }

    /// All pairs of one receiver.
    pub(crate) fn range_to(to: FrameTarget) -> RangeInclusive<Pair> {
        Pair { to, from: Key::from_bits(0) }..=Pair { to, from: Key::from_bits(u64::MAX) }
    }

    /// The receiver.
    #[inline]
    #[must_use]
    pub fn to(self) -> FrameTarget {
        self.to
    }

    /// The sending actor.
    #[inline]
    #[must_use]
    pub fn from(self) -> Key {
        self.from
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADAPTER: u64 = 5 << 46;

    #[test]
    fn adapter_key_names_its_actor() {
        assert_eq!(Key::from_bits(ADAPTER | 7).actor(), Key::from_bits(7));
        assert_eq!(Key::from_bits(7).actor(), Key::from_bits(7));
        assert_eq!(
            Pair::new(Key::from_bits(ADAPTER | 1), Key::from_bits(ADAPTER | 2)),
            Pair::new(Key::from_bits(1), Key::from_bits(2))
        );
    }

    #[test]
    fn request_id_is_no_actor() {
        let request = Key::from_bits(ADAPTER | 2);
        assert_eq!(
            Pair::to_request(Key::from_bits(ADAPTER | 1), request).to(),
            FrameTarget::Request(request)
        );
        assert_ne!(
            Pair::to_request(Key::from_bits(1), Key::from_bits(2)),
            Pair::new(Key::from_bits(1), Key::from_bits(2))
        );
    }
}
