//! What an attacker can make a node hold in memory, computed from the limits. SECURITY.md shows the same sums.

use antiphon_dist::{Limits, PeerLimits};
use antiphon_wire::HELLO_BYTES_MAX;

/// What an allocator keeps beside what it gave, and the first use of code and stacks: on top of each sum.
pub(crate) const SLACK: u64 = 4 << 20;

/// Of one connection before its proof: what it may read, what of it is kept for the transcript, the answer, and the
/// entries of tables.
const STRANGER: u64 = 4 * HELLO_BYTES_MAX as u64;
/// What TLS buffers of one connection before it stands; twice what it reads.
const TLS_STRANGER: u64 = 2 * 32 * 1024;

/// All that is not proven: whatever number of connections is opened.
pub(crate) fn strangers(limits: &Limits, has_tls: bool) -> u64 {
    let each = STRANGER + if has_tls { TLS_STRANGER } else { 0 };
    u64::from(limits.unproven_connections_max) * each + SLACK
}

/// Datagrams are read one by one into one buffer; nothing of them is kept but the addresses and texts of what was logged
/// (16,384), the dials of a second or two (10 a second), and addresses that were answered (64).
pub(crate) fn datagrams() -> u64 {
    16_384 * 512 + SLACK
}

/// Of one session, whatever its peer sends: the buffers of a connection, messages that are being put together, what waits
/// for full mailboxes (8 MiB, then within the window), what the peer may send ahead, type tags, and what waits to be sent
/// to it.
pub(crate) fn member(limits: &Limits) -> u64 {
    const CONNECTION: u64 = 2 * 256 * 1024;
    const PARKED: u64 = 8 << 20;
    const TAG: u64 = 255 + 64;
    // What is put together grows by doubling.
    let held = 2 * u64::from(limits.reassembly_bytes_max) + PARKED + u64::from(limits.window_bytes);
    CONNECTION + held + limits.queue_bytes_cap + u64::from(limits.tags_max) * TAG + SLACK
}

/// Messages of all peers over 1 KiB that wait in mailboxes, in all, however many actors they are for; small ones are bounded by
/// their number.
pub(crate) fn mailboxes() -> u64 {
    2 * (256 << 20)
}

/// Names that a peer looks for, and that nobody has: each of up to 255 bytes is kept twice, with its question's number, in
/// trees that are half full.
pub(crate) fn names(limits: &PeerLimits) -> u64 {
    limits.lookups_max as u64 * 4 * 256
}

/// Monitors between a node and one peer: each stands in the node's table, and in the loop's beside its actor.
pub(crate) fn monitors(limits: &PeerLimits) -> u64 {
    limits.monitors_max as u64 * 256
}

/// Actors that a peer may start by one function, each as large as the one of these tests.
pub(crate) fn called(quota: u64) -> u64 {
    quota * 4096
}
