//! The peer watch: actors that receive the status changes of peers.

use antiphon_sched::{Addr, DeadLetter, Undelivered};

use super::driver::Driver;
use super::peer::Peer;
use crate::error::PeerStatus;

/// The actors that receive every status change.
#[derive(Debug, Default)]
pub(super) struct PeerWatches {
    pub(super) actors: Vec<Addr<PeerStatus>>,
}

impl PeerWatches {
    pub(super) fn remove(&mut self, watcher: Addr<PeerStatus>) {
        self.actors.retain(|other| *other != watcher);
    }

    /// Removes the actors that have exited.
    pub(super) fn remove_exited(&mut self, driver: &mut impl Driver) {
        let local = driver.local();
        self.actors.retain(|watcher| local.is_alive(watcher.id().key()));
    }

    /// Sends a status to all.
    pub(super) fn send(&mut self, status: &PeerStatus, driver: &mut impl Driver) {
        let mut local = driver.local();
        self.actors.retain(|watcher| match local.send(*watcher, status.clone()) {
            Ok(()) => true,
            Err(error) if error.reason() == Undelivered::NoActor => false,
            Err(error) => {
                local.dead_letter(DeadLetter::new(watcher.id(), "a peer's status", error.reason()));
                true
            }
        });
    }
}

pub(super) fn status_of(peer: &Peer) -> Option<PeerStatus> {
    let (location, status) = (peer.location()?, peer.status()?);
    Some(PeerStatus { location, name: peer.name.clone(), node: peer.node, status, refusal: peer.refusal })
}
