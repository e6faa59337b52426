//! What a running node shows of itself: its peers and its names, in pages.

use std::fmt::Display;
use std::ops::Bound;
use std::time::Duration;

use antiphon_sched::{ActorId, NodeId};
use antiphon_wire::Suite;
use serde::{Serialize, Serializer};

use super::NodeCore;
use super::names::Space;
use super::peer::Peer;
use crate::certificates::Fingerprint;
use crate::error::{DialError, Status};
use crate::location::Location;

/// The most entries of one page.
const PAGE_MAX: usize = 1000;

/// Some of the nodes that a node knows: at most 1,000.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PeerPage {
    /// The peers, in the order of their numbers.
    pub peers: Vec<PeerInfo>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<PeerCursor>,
}

/// The beginning of a page of peers.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerCursor(#[serde(serialize_with = "as_text")] NodeId);

/// Another node, as this one knows it at the moment of the call.
///
/// Of the nodes that are offline, those are listed whose sessions ended last: 256 that have left or were replaced by a restart, 256
/// that were lost, and those to which something refers. Nodes that others have named are listed while they are remembered. A node knows
/// at most 16,384 others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PeerInfo {
    /// Its incarnation.
    #[serde(serialize_with = "as_text")]
    pub node: NodeId,
    /// Its name; empty if another node has named it, and it was never connected.
    pub name: String,
    /// The location that actors see.
    pub location: Option<Location>,
    /// Whether it is reachable; `None` if it was never connected.
    pub status: Option<Status>,
    /// Why dials of it are refused, while it has no connection.
    #[serde(serialize_with = "as_optional_text")]
    pub refusal: Option<DialError>,
    /// The certificate that it has presented, with TLS.
    #[serde(serialize_with = "as_optional_text")]
    pub certificate: Option<Fingerprint>,
    /// Its session with this node, if there is one.
    pub session: Option<SessionInfo>,
    /// The bytes of messages and signals for it that wait at this node, and those that it has not acknowledged.
    pub queued_bytes: u64,
    /// The bytes of its messages that wait at this node for mailboxes and in them. Messages of up to 1 KiB in mailboxes do not
    /// count.
    pub inbound_bytes: u64,
    /// The monitors between it and this node, in both directions.
    pub monitors: usize,
}

/// A session with a peer, which outlives its connections.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SessionInfo {
    /// The time since it began.
    pub age: Duration,
    /// How its present connection is protected; `None` without a connection.
    #[serde(serialize_with = "as_optional_text")]
    pub suite: Option<Suite>,
    /// Whether its connection was closed because nothing needed it.
    pub is_idle: bool,
    /// The round-trip time of the last ping. This call sends one to each peer, so a later call has a new value. It includes the
    /// time that both loops take to notice, so a busy loop makes it longer.
    pub round_trip: Option<Duration>,
    /// The frames that were sent: messages, replies, signals, receipts, fragments.
    pub frames_sent: u64,
    /// The frames that were received, of the same kinds.
    pub frames_received: u64,
}

/// Some of the names that are registered on a node: at most 1,000.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NamePage {
    /// The names, in the order of their spaces and letters.
    pub names: Vec<NameInfo>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<NameCursor>,
}

/// The beginning of a page of names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NameCursor(Space, Box<str>);

/// A name that is registered on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NameInfo {
    /// What the name stands for.
    pub space: Space,
    /// The name.
    pub name: String,
    /// The wire name of the type of its messages.
    pub type_name: String,
    /// The actor that has it.
    #[serde(serialize_with = "as_text")]
    pub actor: ActorId,
}

fn as_text<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn as_optional_text<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(ToString::to_string).serialize(serializer)
}

impl NodeCore {
    /// The peers from `from` on. Sends a ping to each, so that a later call shows its round-trip time.
    pub(crate) fn peers_from(&mut self, from: Option<PeerCursor>) -> PeerPage {
        let from = self.peers.from(from.map(|cursor| cursor.0));
        let mut peers: Vec<PeerInfo> =
            from.take(PAGE_MAX + 1).map(|peer| self.peer_info(peer.node, peer)).collect();
        let next = peers.get(PAGE_MAX).map(|peer| PeerCursor(peer.node));
        peers.truncate(PAGE_MAX);
        for peer in &peers {
            self.ping(peer.node);
        }
        PeerPage { peers, next }
    }

    fn peer_info(&self, node: NodeId, peer: &Peer) -> PeerInfo {
        let session = peer.peer_session.as_deref().map(|peer_session| SessionInfo {
            age: self.cx.now.since(peer_session.started),
            suite: peer_session.session.suite(),
            is_idle: peer_session.idle.is_closed(),
            round_trip: peer_session.session.round_trip(),
            frames_sent: peer_session.session.frames_sent(),
            frames_received: peer_session.session.frames_received(),
        });
        let queued = peer.peer_session.as_ref().map_or(0, |peer_session| peer_session.session.queued_bytes());
        PeerInfo {
            node,
            name: peer.name.clone(),
            location: peer.location(),
            status: peer.status,
            refusal: peer.refusal,
            certificate: peer.certificate,
            session,
            queued_bytes: queued + peer.waiting.bytes(),
            inbound_bytes: peer.budget.bytes(),
            monitors: peer.monitors_len(),
        }
    }

    /// Measures the round-trip time to a peer, if it is connected.
    fn ping(&mut self, node: NodeId) {
        let now = self.cx.now;
        if let Some(peer_session) = self.peers.get_mut(node).and_then(|peer| peer.peer_session.as_mut())
            && peer_session.conn.is_some()
        {
            peer_session.session.ping(now);
            self.mark_dirty(node);
        }
    }

    /// The names of this node from `from` on.
    pub(crate) fn names_from(&self, from: Option<NameCursor>) -> NamePage {
        let first = from.map_or(Bound::Unbounded, |NameCursor(space, name)| Bound::Included((space, name)));
        let mut names: Vec<NameInfo> =
            self.names.registered_from(first, self.cx.me).take(PAGE_MAX + 1).collect();
        let next = names.get(PAGE_MAX).map(|name| NameCursor(name.space, name.name.as_str().into()));
        names.truncate(PAGE_MAX);
        NamePage { names, next }
    }
}
