//! Bounds on the memory that an attacker can make a node use, computed from the limits. SECURITY.md shows the same sums.

use antiphon_dist::{Limits, PeerLimits};
use antiphon_wire::HELLO_BYTES_MAX;

/// Added to each bound: the overhead of the allocator, and the first use of code and stacks.
pub(crate) const SLACK: u64 = 4 << 20;

/// For one connection before its proof: its input, the part of it in the transcript, the reply, and the entries in tables.
const PENDING_CONNECTION: u64 = 4 * HELLO_BYTES_MAX as u64;
/// For one connection before its TLS handshake is complete: twice the input that TLS buffers.
const PENDING_TLS: u64 = 2 * 32 * 1024;

/// For all connections before their proof, however many are opened.
pub(crate) fn pending_connections(limits: &Limits, has_tls: bool) -> u64 {
    let each = PENDING_CONNECTION + if has_tls { PENDING_TLS } else { 0 };
    u64::from(limits.unproven_connections_max) * each + SLACK
}

/// For datagrams, which are read one by one into one buffer. The node keeps only the addresses and texts that it has
/// logged (16,384), the dials of a second or two (10 a second), and the addresses to which it replied (64).
pub(crate) fn datagrams() -> u64 {
    16_384 * 512 + SLACK
}

/// For one session: the buffers of its connection, incomplete messages, messages in the backlog and in mailboxes (four
/// times their budget, then within the window), replies, the window, type tags, and the frames that wait for the member.
pub(crate) fn member(limits: &Limits) -> u64 {
    const CONNECTION: u64 = 2 * 256 * 1024;
    const MESSAGES: u64 = 4 * (64 << 20);
    const REPLIES: u64 = 64 << 20;
    const TAG: u64 = 255 + 64;
    // The buffer of an incomplete message grows by doubling.
    let held =
        2 * u64::from(limits.reassembly_bytes_max) + MESSAGES + REPLIES + u64::from(limits.window_bytes);
    CONNECTION + held + unread_session(limits) + u64::from(limits.tags_max) * TAG
}

/// For the frames to a member that takes none: those that were sent and are not acknowledged, the reserve for answers, and
/// completions, of which each frame of a window may cause one more.
pub(crate) fn unread_session(limits: &Limits) -> u64 {
    const UNACKNOWLEDGED: u64 = 16 << 20;
    const COMPLETIONS: u64 = (4 + 16) << 20;
    let window = u64::from(limits.window_bytes);
    UNACKNOWLEDGED.max(window) + limits.queue_bytes_cap + COMPLETIONS + 2 * window + SLACK
}

/// For a channel: the message that it sends to its subscribers at present, its two forms for the wire (for actors, and for other
/// channels), and the copies in the mailboxes of subscribers.
pub(crate) fn channel(limits: &Limits) -> u64 {
    const COPIES: u64 = 2 * (64 << 20);
    3 * u64::from(limits.message_bytes_max) + COPIES
}

/// For members whose connections have closed: their sessions stay for `peer_timeout`.
pub(crate) fn lost_sessions(members: u64) -> u64 {
    members * 8 * 1024
}

/// For messages in all mailboxes, from all peers.
pub(crate) fn mailboxes() -> u64 {
    4 * (256 << 20)
}

/// For the open lookups of one peer: each name of up to 255 bytes is kept twice, with its request id, in trees that are
/// half full.
pub(crate) fn lookups(limits: &PeerLimits) -> u64 {
    limits.lookups_max as u64 * 4 * 256
}

/// For the monitors of one peer: each has an entry in the node's table, and one in the loop's.
pub(crate) fn monitors(limits: &PeerLimits) -> u64 {
    limits.monitors_max as u64 * 256
}

/// For the actors that a peer may start by one RCI; each is as large as the one in these tests.
pub(crate) fn rci_actors(quota: u64) -> u64 {
    quota * 4096
}

/// For the nodes that all peers have named: a full table of peers, each entry with its places in the order of namings.
pub(crate) fn routes() -> u64 {
    16_384 * 2048 + SLACK
}

/// For sessions in which little is sent, and for what is remembered of them.
pub(crate) fn sessions(count: u64) -> u64 {
    count * 64 * 1024 + SLACK
}
