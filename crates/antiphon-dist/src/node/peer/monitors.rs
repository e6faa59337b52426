//! The monitors between this node and one peer.
//!
//! Invariant: monitors that the peer has set are counted separately from those that local actors have set, so neither use
//! up the limit of the other.

use std::collections::{BTreeMap, BTreeSet};

use antiphon_sched::{ActorId, Key, MonitorId, NodeId};

/// Local watchers and the remote actors that they monitor, by the id of the monitor.
pub(in crate::node) type LocalWatchers = BTreeMap<MonitorId, (Key, ActorId)>;
/// Local actors that remote actors monitor, with the ids of the monitors.
type RemoteWatchers = BTreeSet<(Key, MonitorId)>;

/// The monitors between local actors and the actors of one peer, in both directions.
#[derive(Debug)]
pub(in crate::node) struct PeerMonitors {
    peer: NodeId,
    local_watchers: LocalWatchers,
    remote_watchers: RemoteWatchers,
    /// How many monitors of each kind the peer has set, and so numbered: by a notify, and by a monitor.
    set_by_peer: (usize, usize),
}

impl PeerMonitors {
    pub(in crate::node) fn new(peer: NodeId) -> Self {
        Self {
            peer,
            local_watchers: LocalWatchers::new(),
            remote_watchers: RemoteWatchers::new(),
            set_by_peer: (0, 0),
        }
    }

    pub(in crate::node) fn len(&self) -> usize {
        self.local_watchers.len() + self.remote_watchers.len()
    }

    /// The numbers of local and of remote watchers that the peer has set.
    pub(in crate::node) fn set_by_peer(&self) -> (usize, usize) {
        self.set_by_peer
    }

    fn count_if_set_by_peer(&self, id: MonitorId) -> usize {
        usize::from(id.origin == self.peer)
    }

    /// Adds a monitor of the local `watcher` on the remote `actor`.
    pub(in crate::node) fn add_local_watcher(&mut self, watcher: Key, id: MonitorId, actor: ActorId) {
        if self.local_watchers.insert(id, (watcher, actor)).is_none() {
            self.set_by_peer.0 += self.count_if_set_by_peer(id);
        }
    }

    /// The local watcher of a monitor, and the remote actor.
    pub(in crate::node) fn local_watcher(&self, id: MonitorId) -> Option<(Key, ActorId)> {
        self.local_watchers.get(&id).copied()
    }

    pub(in crate::node) fn remove_local_watcher(&mut self, id: MonitorId) -> Option<(Key, ActorId)> {
        let removed = self.local_watchers.remove(&id)?;
        self.set_by_peer.0 -= self.count_if_set_by_peer(id);
        Some(removed)
    }

    /// Adds a monitor of a remote actor on the local `target`.
    pub(in crate::node) fn add_remote_watcher(&mut self, target: Key, id: MonitorId) {
        if self.remote_watchers.insert((target, id)) {
            self.set_by_peer.1 += self.count_if_set_by_peer(id);
        }
    }

    pub(in crate::node) fn has_remote_watcher(&self, target: Key, id: MonitorId) -> bool {
        self.remote_watchers.contains(&(target, id))
    }

    /// Removes a monitor of a remote actor. False if there is none.
    pub(in crate::node) fn remove_remote_watcher(&mut self, target: Key, id: MonitorId) -> bool {
        let removed = self.remote_watchers.remove(&(target, id));
        if removed {
            self.set_by_peer.1 -= self.count_if_set_by_peer(id);
        }
        removed
    }

    /// Removes and returns all monitors, at the end of the session.
    pub(in crate::node) fn take(&mut self) -> (LocalWatchers, RemoteWatchers) {
        let all = std::mem::replace(self, Self::new(self.peer));
        (all.local_watchers, all.remote_watchers)
    }

    pub(in crate::node) fn check(&self) {
        let local_watchers = self.local_watchers.keys().filter(|id| id.origin == self.peer).count();
        let remote_watchers = self.remote_watchers.iter().filter(|(_, id)| id.origin == self.peer).count();
        assert_eq!(
            self.set_by_peer,
            (local_watchers, remote_watchers),
            "the monitors that the peer has set are counted"
        );
    }
}
