//! Who is there, and who wants to know.

use antiphon_sched::{Addr, NodeId, Undelivered};

use super::NodeCore;
use super::driver::Driver;
use crate::error::{PeerStatus, Status, UnknownNode};
use crate::location::Location;

/// Actors that are told of every change.
#[derive(Debug, Default)]
pub(super) struct PeerWatches {
    watchers: Vec<Addr<PeerStatus>>,
}

impl NodeCore {
    /// Where the peers are that are there.
    pub(crate) fn online(&self) -> Vec<Location> {
        let online = self.peers.values().filter(|peer| peer.is_online());
        online.filter_map(|peer| peer.location()).collect()
    }

    /// Has an actor told of every change; answers the present state.
    pub(crate) fn watch_peers(&mut self, watcher: Addr<PeerStatus>) -> Vec<PeerStatus> {
        self.watchers.watchers.push(watcher);
        self.wake_all();
        let online = self.peers.iter().filter(|(_, peer)| peer.is_online());
        online.filter_map(|(node, peer)| status_of(*node, &peer.name, peer.location(), peer.status)).collect()
    }

    /// Who is told.
    pub(crate) fn peer_watchers(&self) -> &[Addr<PeerStatus>] {
        &self.watchers.watchers
    }

    /// Forgets whoever is told and has ended.
    pub(super) fn forget_ended_watchers(&mut self, driver: &mut impl Driver) {
        let loop_ref = driver.loop_ref();
        self.watchers.watchers.retain(|watcher| loop_ref.is_alive(watcher.id().key()));
    }

    /// The actor is no longer told.
    pub(crate) fn unwatch_peers(&mut self, watcher: Addr<PeerStatus>) {
        self.watchers.watchers.retain(|other| *other != watcher);
    }

    /// Where a node is, also this one.
    pub(crate) fn location_of(&self, node: NodeId) -> Result<Location, UnknownNode> {
        if node == self.me {
            return Ok(self.settings.location);
        }
        self.peers.get(&node).and_then(|peer| peer.location()).ok_or(UnknownNode { node })
    }

    pub(super) fn set_status(&mut self, node: NodeId, status: Status, driver: &mut impl Driver) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.status == Some(status) {
            return;
        }
        peer.status = Some(status);
        let Some(told) = status_of(node, &peer.name, peer.location(), peer.status) else { return };
        let mut loop_ref = driver.loop_ref();
        self.watchers.watchers.retain(|watcher| match loop_ref.send(*watcher, told.clone()) {
            Ok(()) => true,
            Err(error) if error.reason() == Undelivered::NoActor => false,
            Err(error) => {
                loop_ref.dead_letter(watcher.id(), "a peer's status", error.reason());
                true
            }
        });
    }
}

fn status_of(
    node: NodeId,
    name: &str,
    location: Option<Location>,
    status: Option<Status>,
) -> Option<PeerStatus> {
    Some(PeerStatus { location: location?, name: name.to_owned(), node, status: status? })
}
