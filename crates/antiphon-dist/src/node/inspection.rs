//! What a running node shows of itself: its peers and its names, in pages.

use std::fmt::Display;
use std::time::Duration;

use antiphon_sched::{ActorId, NodeId};
use antiphon_wire::Suite;
use serde::{Serialize, Serializer};

use super::registry::Space;
use crate::certificates::Fingerprint;
use crate::error::{DialError, Status};
use crate::location::Location;

/// The most entries of one page.
pub(super) const PAGE_MAX: usize = 1000;

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
pub struct PeerCursor(#[serde(serialize_with = "as_text")] pub(super) NodeId);

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
pub struct NameCursor(pub(super) Space, pub(super) Box<str>);

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

pub(super) fn as_text<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

pub(super) fn as_optional_text<T: Display, S: Serializer>(
    value: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    value.as_ref().map(ToString::to_string).serialize(serializer)
}
