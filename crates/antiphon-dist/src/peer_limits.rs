//! The share of this node's resources that one peer may use. A peer has proven its membership, but must still not
//! exhaust the node.
//!
//! The sizes of records and messages, and credit, are in [`Limits`](crate::Limits), which the two nodes of a session
//! exchange. The limits in this module are not exchanged: a peer that exceeds one is refused.

/// How much of this node's resources one peer may use at a time.
///
/// Two more bounds apply. Messages over 1 KiB in mailboxes are limited to 64 MiB for each peer, and to 256 MiB for all
/// peers together; both are twice as large for a message to an actor whose mailbox is empty. [`Limits`](crate::Limits)
/// bounds the session. Each refusal is counted in [`Refusals`], and logged at a limited rate.
///
/// A peer is one incarnation of a node. For files, the peers with the same certificate count as one peer; without TLS,
/// all nodes at one IP address do.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct PeerLimits {
    /// Lookups of the peer that are open here because the name is not registered: 16,384. Beyond that, its actors
    /// receive [`LocateError::Refused`](crate::LocateError::Refused).
    pub lookups_max: usize,
    /// Monitors that actors of the peer have set on actors here, and separately the `notify` requests of the peer for
    /// actors here: 65,536 of each. Beyond that, a monitor is answered with
    /// [`ExitReason::Refused`](antiphon_sched::ExitReason::Refused). A peer that exceeds its `notify` limit receives no
    /// error; the actor here receives a `Down` with [`ExitReason::Refused`](antiphon_sched::ExitReason::Refused), if its
    /// mailbox has room.
    pub monitors_max: usize,
    /// Requests of the peer that are open here, whether they wait in a mailbox or an actor keeps their `ReplyTo`: 65,536.
    /// Beyond that, requests are answered with [`AskError::Busy`](antiphon_sched::AskError::Busy).
    pub requests_max: usize,
    /// Subscribers that the peer has added to one channel of this node: 4,096 of the 32,768 that a channel can have. (A
    /// node needs one, for all its own subscribers.) Beyond that, the peer receives
    /// [`SubscribeError::OverQuota`](crate::SubscribeError::OverQuota).
    pub channel_subscriptions_max: usize,
    /// Subscribers that the peer has added to all channels of this node together: 16,384.
    pub subscriptions_max: usize,
    /// Bytes of files from the peer since this node started, including files that the peer has begun to send. `None`,
    /// the default: only the disk is the bound. This is a total, so deleting a file frees nothing; for the bytes on the
    /// disk at a time see [`Config::dest_bytes_max`](crate::Config::dest_bytes_max). Beyond it, a file is refused with
    /// [`FileRefused::OverQuota`](crate::FileRefused::OverQuota).
    pub file_bytes_max: Option<u64>,
}

impl Default for PeerLimits {
    fn default() -> Self {
        Self {
            lookups_max: 16_384,
            monitors_max: 65_536,
            requests_max: 65_536,
            channel_subscriptions_max: 4_096,
            subscriptions_max: 16_384,
            file_bytes_max: None,
        }
    }
}

/// How often peers were refused since the node started, by kind.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Refusals {
    /// Messages, signals and lookups for actors that are not open to the peer.
    pub access: u64,
    /// Connections of a node that is known by another certificate.
    pub certificates: u64,
    /// Lookups over `lookups_max`.
    pub lookups: u64,
    /// Monitors over `monitors_max`.
    pub monitors: u64,
    /// Requests over `requests_max`.
    pub requests: u64,
    /// Nodes that peers have named over the 1,024 of each peer, or more often than each may: each replaces an older one, or is not
    /// remembered.
    pub routes: u64,
    /// Dials that peers and datagrams have caused, and that are not made because too many wait for their turn.
    pub dials: u64,
    /// Subscriptions over the quota of the peer, or over the limit of the channel.
    pub subscriptions: u64,
    /// Calls of RCIs over `rci_actors_max`, or over the limit of the RCI.
    pub rci_actors: u64,
    /// Files over `file_bytes_max`, `dest_bytes_max`, `max_file_size` or the peer's share of `transfers_max`. Also
    /// transfers in which the sender sent more than was offered or granted, sent out of order, or sent nothing for ten
    /// minutes.
    pub files: u64,
    /// Offers and deletions that no peer may request: paths that leave the folder, objects that are no plain files,
    /// files that did not come from a peer.
    pub file_paths: u64,
}
