//! The monitors that cross to one peer, and back.
//!
//! Invariant: what the peer has had set, and what actors here have set, are counted apart: neither uses up the other's.

use std::collections::{BTreeMap, BTreeSet};

use antiphon_sched::{ActorId, Key, MonitorId, NodeId};

/// Who here is told of whom there, by the number of the monitor.
type Watching = BTreeMap<MonitorId, (Key, ActorId)>;
/// Who here is watched from there, and under which numbers.
type Watched = BTreeSet<(Key, MonitorId)>;

/// Monitors by which actors of one node are told of the ends of the other's.
#[derive(Debug)]
pub(super) struct Monitors {
    peer: NodeId,
    /// Of actors here on actors there.
    watching: Watching,
    /// Of actors there on actors here.
    watched: Watched,
    /// How many of each the peer has had set: by a notify, and by a monitor. It has numbered them.
    asked: (usize, usize),
}

impl Monitors {
    pub(super) fn new(peer: NodeId) -> Self {
        Self { peer, watching: Watching::new(), watched: Watched::new(), asked: (0, 0) }
    }

    pub(super) fn len(&self) -> usize {
        self.watching.len() + self.watched.len()
    }

    /// How many the peer has had set: actors here that are to be told of ends there, and actors here that are watched.
    pub(super) fn asked_by_peer(&self) -> (usize, usize) {
        self.asked
    }

    fn is_asked(&self, id: MonitorId) -> usize {
        usize::from(id.origin == self.peer)
    }

    /// `watcher`, here, is to be told of `actor`.
    pub(super) fn watch(&mut self, watcher: Key, id: MonitorId, actor: ActorId) {
        if self.watching.insert(id, (watcher, actor)).is_none() {
            self.asked.0 += self.is_asked(id);
        }
    }

    /// Who is to be told under a number, and of whom.
    pub(super) fn watcher(&self, id: MonitorId) -> Option<(Key, ActorId)> {
        self.watching.get(&id).copied()
    }

    pub(super) fn unwatch(&mut self, id: MonitorId) -> Option<(Key, ActorId)> {
        let watching = self.watching.remove(&id)?;
        self.asked.0 -= self.is_asked(id);
        Some(watching)
    }

    /// Somebody there is to be told of `target`.
    pub(super) fn be_watched(&mut self, target: Key, id: MonitorId) {
        if self.watched.insert((target, id)) {
            self.asked.1 += self.is_asked(id);
        }
    }

    pub(super) fn is_watched(&self, target: Key, id: MonitorId) -> bool {
        self.watched.contains(&(target, id))
    }

    /// Whether it was.
    pub(super) fn be_unwatched(&mut self, target: Key, id: MonitorId) -> bool {
        let was = self.watched.remove(&(target, id));
        if was {
            self.asked.1 -= self.is_asked(id);
        }
        was
    }

    /// All that there is, when the session has ended.
    pub(super) fn take(&mut self) -> (Watching, Watched) {
        let all = std::mem::replace(self, Self::new(self.peer));
        (all.watching, all.watched)
    }

    pub(super) fn check(&self) {
        let watching = self.watching.keys().filter(|id| id.origin == self.peer).count();
        let watched = self.watched.iter().filter(|(_, id)| id.origin == self.peer).count();
        assert_eq!(self.asked, (watching, watched), "what the peer has had set is counted");
    }
}
