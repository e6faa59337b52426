//! The upstreams of a topic.
//!
//! Invariant: `ids` counts each id once for each upstream that states it. So a look for one id does not walk through all, which
//! peers may make some thousands.

use std::collections::BTreeMap;

use antiphon_sched::{ActorId, Monitor, NodeId};

use super::message::TopicAddr;
use super::tally::Tally;

/// The most upstreams of one channel, of all levels together.
pub(super) const UPSTREAMS_MAX: usize = 64;

/// A topic that this one subscribes to.
pub(super) struct Upstream<T> {
    pub(super) addr: TopicAddr<T>,
    /// The upstream itself, and all upstreams of it.
    ids: Vec<ActorId>,
    /// The number of subscribers that was last reported to it.
    pub(super) reported: u64,
    pub(super) monitor: Monitor,
}

pub(super) struct Upstreams<T> {
    direct: BTreeMap<ActorId, Upstream<T>>,
    ids: Tally<ActorId>,
}

impl<T> Upstreams<T> {
    pub(super) fn new() -> Self {
        Self { direct: BTreeMap::new(), ids: Tally::default() }
    }

    /// Adds a direct upstream, with itself and its upstreams as `ids`.
    pub(super) fn insert(&mut self, addr: TopicAddr<T>, ids: Vec<ActorId>, monitor: Monitor) {
        self.remove(addr.id());
        ids.iter().for_each(|id| self.ids.add(*id, 1));
        self.direct.insert(addr.id(), Upstream { addr, ids, reported: 0, monitor });
    }

    /// Replaces the ids of a direct upstream.
    pub(super) fn set_ids(&mut self, upstream: ActorId, ids: Vec<ActorId>) {
        let Some(upstream) = self.direct.get_mut(&upstream) else { return };
        ids.iter().for_each(|id| self.ids.add(*id, 1));
        let before = std::mem::replace(&mut upstream.ids, ids);
        before.iter().for_each(|id| self.ids.take(id, 1));
    }

    /// Removes a direct upstream.
    pub(super) fn remove(&mut self, upstream: ActorId) -> Option<Upstream<T>> {
        let removed = self.direct.remove(&upstream)?;
        removed.ids.iter().for_each(|id| self.ids.take(id, 1));
        Some(removed)
    }

    /// Whether it is a direct upstream.
    pub(super) fn has(&self, upstream: ActorId) -> bool {
        self.direct.contains_key(&upstream)
    }

    /// The number of direct upstreams.
    pub(super) fn len(&self) -> usize {
        self.direct.len()
    }

    /// The number of direct upstreams that are on one node.
    pub(super) fn len_of(&self, node: NodeId) -> usize {
        self.direct.values().filter(|upstream| upstream.addr.node() == node).count()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Upstream<T>> {
        self.direct.values()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Upstream<T>> {
        self.direct.values_mut()
    }

    /// Whether it is an upstream, on any level.
    pub(super) fn includes(&self, id: ActorId) -> bool {
        self.ids.of(&id) > 0
    }

    /// The number of upstreams on all levels.
    pub(super) fn len_all(&self) -> usize {
        self.ids.keys()
    }

    /// The ids of the upstreams on all levels.
    pub(super) fn ids(&self) -> impl Iterator<Item = ActorId> {
        self.ids.iter_keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use antiphon_sched::{Addr, Cx, Key, Loop, LoopConfig, stop};

    use super::*;

    fn id(number: u64) -> ActorId {
        ActorId::new(NodeId::from_bits(1), Key::from_bits(number))
    }

    #[test]
    fn upstream_ids_are_counted_for_each_upstream() {
        let mut events = Loop::new(LoopConfig::default()).expect("a loop starts");
        events.spawn(|cx: &mut Cx<'_, ()>, _| {
            let mut upstreams = Upstreams::<()>::new();
            for (number, ids) in [(1, vec![id(1), id(3), id(3)]), (2, vec![id(2), id(3)])] {
                let monitor = cx.monitor(cx.id());
                upstreams.insert(Addr::of(id(number)), ids, monitor);
            }
            assert_eq!(upstreams.ids().collect::<Vec<_>>(), [1, 2, 3].map(id));
            upstreams.set_ids(id(1), vec![id(1), id(4)]);
            let includes = [1, 2, 3, 4, 5].map(|number| upstreams.includes(id(number)));
            assert_eq!((upstreams.len_all(), includes), (4, [true, true, true, true, false]));
            assert!(upstreams.remove(id(2)).is_some());
            assert_eq!(upstreams.ids().collect::<Vec<_>>(), [1, 4].map(id));
            assert_eq!((upstreams.len(), upstreams.len_of(NodeId::from_bits(1))), (1, 1));
            stop()
        });
        events.run().expect("the loop ends");
    }
}
