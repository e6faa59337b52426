//! What one peer may have of this node. It has proven that it is a member; that is no reason to let it use up everything.
//!
//! Sizes of records and messages, and credit, are in [`Limits`](crate::Limits), and told to peers; these here are not: who goes
//! over one is refused, and told so.

/// What one peer may have of this node at a time, beside what is fixed: 64 MiB of messages over 1 KiB in mailboxes (256 MiB of
/// all peers; twice as much, where each is for an actor for which nothing waits), and what [`Limits`](crate::Limits) bounds. Each refusal is counted in [`Refusals`], and logged seldom.
///
/// A peer is one start of a node: one incarnation. Of files it is whom its certificate names, or all nodes at its IP
/// address where there is no TLS.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct PeerLimits {
    /// Names that it looks for here, and that nobody has yet: 16,384. Beyond them its actors are told
    /// [`LocateError::Refused`](crate::LocateError::Refused).
    pub lookups_max: usize,
    /// Monitors that its actors have on actors here, and as many the other way round that it has asked for: 65,536.
    /// Beyond them a monitor is answered [`ExitReason::Refused`](antiphon_sched::ExitReason::Refused); who would have one set the other way
    /// round is told nothing, and the actor here is told [`ExitReason::Refused`](antiphon_sched::ExitReason::Refused), if its mailbox has room.
    pub monitors_max: usize,
    /// Requests of it that wait here: in mailboxes, in the state of actors, anywhere. 65,536. Beyond them requests are answered
    /// [`AskError::Busy`](antiphon_sched::AskError::Busy).
    pub requests_max: usize,
    /// Receivers that it has put into one channel of this node: 4,096 of the 32,768 that there can be. (A node needs one, for all
    /// of its own subscribers.) Beyond them it is told [`SubscribeError::OverQuota`](crate::SubscribeError::OverQuota).
    pub channel_subscriptions_max: usize,
    /// Receivers that it has put into all channels of this node together: 16,384.
    pub subscriptions_max: usize,
    /// Bytes of files that came from it since this node's start, and of those that it has begun to send: none by default, so the disk
    /// is the bound. It is a total: deleting gives nothing back; for what lies on the disk at a time see
    /// [`Config::dest_bytes_max`](crate::Config::dest_bytes_max). Beyond it a file is refused with [`FileRefused::OverQuota`](crate::FileRefused::OverQuota).
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

/// What peers were refused since the node's start, by kinds.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Messages, signals and questions for a name, to actors that are not open to that peer.
    pub access: u64,
    /// Connections of a node that is known by another certificate.
    pub certificates: u64,
    /// Questions for names, over `lookups_max`.
    pub lookups: u64,
    /// Monitors, over `monitors_max`.
    pub monitors: u64,
    /// Requests, over `requests_max`.
    pub requests: u64,
    /// Subscriptions, over the peer's share or all that a channel may have.
    pub subscriptions: u64,
    /// Calls of RCIs, over `rci_actors_max` or all that an RCI may have.
    pub rci_actors: u64,
    /// Files over `file_bytes_max`, `dest_bytes_max`, `max_file_size` or the peer's share of `transfers_max`; and transfers
    /// whose sender sent more than was offered or granted, out of order, or nothing for ten minutes.
    pub files: u64,
    /// Offers and deletions of what no peer may write or delete: paths that lead elsewhere, what is no plain file, what did
    /// not come from a peer.
    pub file_paths: u64,
}
