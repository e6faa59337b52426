//! The peer watch: actors that receive the status changes of peers.

use antiphon_sched::Addr;

use super::peer::Peer;
use crate::error::PeerStatus;

/// The actors that receive every status change.
#[derive(Debug, Default)]
pub(super) struct PeerWatches {
    pub(super) actors: Vec<Addr<PeerStatus>>,
}

pub(super) fn status_of(peer: &Peer) -> Option<PeerStatus> {
    let (location, status) = (peer.location()?, peer.status()?);
    Some(PeerStatus { location, name: peer.name.clone(), node: peer.node, status, refusal: peer.refusal })
}
