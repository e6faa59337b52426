//! The peer watch: actors that receive the status changes of peers.

use std::net::SocketAddr;

use antiphon_sched::{Addr, DeadLetter, NodeId, Undelivered};

use super::NodeCore;
use super::driver::Driver;
use super::peer::Peer;
use crate::error::{DialError, PeerStatus, Status, UnknownNode};
use crate::location::Location;

/// The actors that receive every status change.
#[derive(Debug, Default)]
pub(super) struct PeerWatches {
    actors: Vec<Addr<PeerStatus>>,
}

impl NodeCore {
    /// The locations of the peers that are online.
    pub(crate) fn online(&self) -> Vec<Location> {
        let online = self.peers.iter().filter(|peer| peer.is_online());
        online.filter_map(|peer| peer.location()).collect()
    }

    /// Subscribes an actor to the statuses of peers. Returns the statuses of the peers that are online now.
    pub(crate) fn watch_peers(&mut self, watcher: Addr<PeerStatus>) -> Vec<PeerStatus> {
        self.peer_watches.actors.push(watcher);
        self.reopen_all();
        let online = self.peers.iter().filter(|peer| peer.is_online());
        online.filter_map(status_of).collect()
    }

    /// The actors that receive status changes; some may have exited.
    pub(crate) fn peer_watchers(&self) -> &[Addr<PeerStatus>] {
        &self.peer_watches.actors
    }

    /// Removes the actors that have exited.
    pub(super) fn remove_exited_watchers(&mut self, driver: &mut impl Driver) {
        let local = driver.local();
        self.peer_watches.actors.retain(|watcher| local.is_alive(watcher.id().key()));
    }

    /// Cancels the subscription of an actor.
    pub(crate) fn unwatch_peers(&mut self, watcher: Addr<PeerStatus>) {
        self.peer_watches.actors.retain(|other| *other != watcher);
    }

    /// The location of a node, which may be this one.
    ///
    /// # Errors
    /// This node does not know the node, or not its location.
    pub(crate) fn location_of(&self, node: NodeId) -> Result<Location, UnknownNode> {
        if node == self.cx.me {
            return Ok(self.cx.settings.location);
        }
        self.peers.get(node).and_then(|peer| peer.location()).ok_or(UnknownNode { node })
    }

    /// Sets the status of a peer, and sends it to the subscribed actors if it has changed.
    pub(super) fn set_status(&mut self, node: NodeId, status: Status, driver: &mut impl Driver) {
        let Some(peer) = self.peers.get_mut(node) else { return };
        if peer.status == Some(status) {
            return;
        }
        peer.status = Some(status);
        self.send_status(node, driver);
    }

    /// A dial of a location was refused, and a further one would be: the peers there that are not connected have this status,
    /// and what waits for a session with them fails.
    pub(super) fn on_peers_refused(&mut self, at: SocketAddr, refusal: DialError, driver: &mut impl Driver) {
        let is_unconnected =
            |peer: &Peer| peer.peer_session.as_ref().is_none_or(|peer_session| peer_session.conn.is_none());
        let refused = self
            .peers
            .at(at)
            .filter(|peer| peer.is_dialled_at(at) && !peer.replaced_by_restart && is_unconnected(peer));
        let refused: Vec<NodeId> = refused.map(|peer| peer.node).collect();
        for node in refused {
            let Some(peer) = self.peers.get_mut(node) else { continue };
            let is_new = peer.refusal.replace(refusal) != Some(refusal);
            let undelivered = peer.undelivered();
            if is_new {
                self.send_status(node, driver);
            }
            self.peers.drop_waiting(&mut self.cx, node, &undelivered);
        }
        self.cx.run_loop_actions(driver);
    }

    /// No program listens at a location any more: what refused the peers there has gone.
    pub(super) fn clear_refusals(&mut self, at: SocketAddr, driver: &mut impl Driver) {
        let there = self.peers.at(at).filter(|peer| peer.is_dialled_at(at) && peer.refusal.is_some());
        let refused: Vec<NodeId> = there.map(|peer| peer.node).collect();
        for node in refused {
            if let Some(peer) = self.peers.get_mut(node) {
                peer.refusal = None;
            }
            self.send_status(node, driver);
        }
    }

    /// Sends the status of a peer to the subscribed actors.
    pub(super) fn send_status(&mut self, node: NodeId, driver: &mut impl Driver) {
        let Some(changed) = self.peers.get(node).and_then(status_of) else { return };
        let mut local = driver.local();
        self.peer_watches.actors.retain(|watcher| match local.send(*watcher, changed.clone()) {
            Ok(()) => true,
            Err(error) if error.reason() == Undelivered::NoActor => false,
            Err(error) => {
                local.dead_letter(DeadLetter::new(watcher.id(), "a peer's status", error.reason()));
                true
            }
        });
    }
}

fn status_of(peer: &Peer) -> Option<PeerStatus> {
    let (location, status) = (peer.location()?, peer.status?);
    Some(PeerStatus { location, name: peer.name.clone(), node: peer.node, status, refusal: peer.refusal })
}
