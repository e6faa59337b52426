//! The lists of one receiver, by sender. Most receivers have one sender, and there may be very many receivers.
//!
//! Invariant: no list is empty, except one that [`PairLists::list_for`] has returned, until a frame is added.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::ids::Key;
use crate::session::send_queue::frame_list::{FrameList, ListItem};

#[derive(Debug, Default)]
pub(super) enum PairLists {
    #[default]
    Empty,
    One(Key, FrameList),
    Many(Box<ListsInTurn>),
}

/// The lists of several senders, which take turns.
#[derive(Debug, Default)]
pub(super) struct ListsInTurn {
    lists: BTreeMap<Key, FrameList>,
    /// The sender of the last part. The next part is of the next sender.
    last_from: Key,
}

impl PairLists {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, PairLists::Empty)
    }

    pub(super) fn get(&self, from: Key) -> Option<&FrameList> {
        match self {
            PairLists::Empty => None,
            PairLists::One(one, list) => (*one == from).then_some(list),
            PairLists::Many(many) => many.lists.get(&from),
        }
    }

    pub(super) fn get_mut(&mut self, from: Key) -> Option<&mut FrameList> {
        match self {
            PairLists::Empty => None,
            PairLists::One(one, list) => (*one == from).then_some(list),
            PairLists::Many(many) => many.lists.get_mut(&from),
        }
    }

    /// The list of a sender, for a frame that is added.
    pub(super) fn list_for(&mut self, from: Key) -> &mut FrameList {
        match self {
            PairLists::Empty => *self = PairLists::One(from, FrameList::default()),
            PairLists::One(one, list) if *one != from => {
                let lists = BTreeMap::from([(*one, std::mem::take(list))]);
                *self = PairLists::Many(Box::new(ListsInTurn { lists, last_from: Key::from_bits(0) }));
            }
            PairLists::One(..) | PairLists::Many(_) => {}
        }
        match self {
            PairLists::One(_, list) => list,
            PairLists::Many(many) => many.lists.entry(from).or_default(),
            PairLists::Empty => unreachable!("a list was added"),
        }
    }

    /// Forgets the list of a sender if it is empty.
    pub(super) fn forget_if_empty(&mut self, from: Key) {
        match self {
            PairLists::One(one, list) if *one == from && list.is_empty() => *self = PairLists::Empty,
            PairLists::Many(many) => {
                if many.lists.get(&from).is_some_and(FrameList::is_empty) {
                    many.lists.remove(&from);
                }
                if many.lists.is_empty() {
                    *self = PairLists::Empty;
                }
            }
            PairLists::Empty | PairLists::One(..) => {}
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &FrameList)> {
        let (one, many) = match self {
            PairLists::Empty => (None, None),
            PairLists::One(from, list) => (Some((*from, list)), None),
            PairLists::Many(many) => (None, Some(many.lists.iter().map(|(from, list)| (*from, list)))),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// The senders, in order.
    pub(super) fn senders(&self) -> Vec<Key> {
        self.iter().map(|(from, _)| from).collect()
    }

    /// The next sender in turn whose list `can_move`.
    pub(super) fn next_in_turn(&self, can_move: impl Fn(&FrameList) -> bool) -> Option<Key> {
        match self {
            PairLists::Empty => None,
            PairLists::One(from, list) => can_move(list).then_some(*from),
            PairLists::Many(many) => {
                let later = many.lists.range((Bound::Excluded(many.last_from), Bound::Unbounded));
                let mut in_turn = later.chain(many.lists.range(..=many.last_from));
                in_turn.find(|(_, list)| can_move(list)).map(|(from, _)| *from)
            }
        }
    }

    /// A part of this sender was moved.
    pub(super) fn note_turn(&mut self, from: Key) {
        if let PairLists::Many(many) = self {
            many.last_from = from;
        }
    }

    /// Takes the first item of the first sender.
    pub(super) fn pop_any(&mut self) -> Option<ListItem> {
        let from = self.iter().next()?.0;
        let item = self.get_mut(from)?.pop_front();
        self.forget_if_empty(from);
        item
    }
}
