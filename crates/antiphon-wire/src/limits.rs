//! All limits of the protocol, with their defaults.

use std::time::Duration;

/// The limits that a node sets for itself and its peers. The defaults are those that PROTOCOL.md recommends.
///
/// The hello carries the first four and `paused_actors_max` to the peer. Records and message bodies keep to the smaller of both
/// sides' values. For `reassembly_bytes_max`, `window_bytes` and `paused_actors_max`, each side keeps to the peer's value, even
/// if its own is smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a whole record (header, body and tag), 64 KiB. At least 32 KiB, at most 64 KiB.
    pub record_bytes_max: u32,
    /// Bytes of the body of one message, 16 MiB.
    pub message_bytes_max: u32,
    /// Bytes of all messages of one session that are being reassembled from fragments, 64 MiB.
    pub reassembly_bytes_max: u32,
    /// Bytes of numbered frames that a peer may send before the receiver grants more credit, 1 MiB.
    pub window_bytes: u32,
    /// Bytes that may wait for the actors of one peer, 64 MiB. As many may wait for one actor as are still free; beyond that
    /// sends fail with `SendRefused::Busy`. An actor for which nothing waits may queue one message, within twice this. As many
    /// bytes again are reserved for answers and for frames that pass a pause.
    pub queue_bytes_cap: u64,
    /// Bytes that wait for one actor above which a sender that respects backpressure stops, 1 MiB (`SendMark::High`).
    pub queue_bytes_high: u64,
    /// Bytes that wait for the socket, above which no further small frame with a pair is handed over for transmission, 256 KiB.
    /// Such frames, and all large ones, wait in the queue, which hands over four parts of at most 16 KiB ahead of the socket.
    /// Small frames that name no pair are handed over up to `queue_bytes_cap`. Type tags, and frames without a pair that
    /// complete something at the peer, are handed over in any case.
    pub queue_bytes_low: u64,
    /// Type tags in one direction of a session, 65,536.
    pub tags_max: u32,
    /// Actors that a peer may have paused at one time, 65,536. At least 65,536.
    pub paused_actors_max: u32,
    /// Records that the keys of one connection protect, 2^32; then `SessionEvent::Renew`.
    pub connection_records_max: u64,
    /// Bytes of records that the keys of one connection protect, 2^38; then `SessionEvent::Renew`.
    pub connection_bytes_max: u64,
    /// Time within which a connection must prove itself, 5 s. The node enforces this limit and the next one.
    pub handshake_timeout: Duration,
    /// Connections of one node that have not proven themselves, 64.
    pub unproven_connections_max: u32,
    /// Bytes of frames after which an acknowledgement is sent at the latest, 128 KiB.
    pub ack_bytes: u64,
    /// Time after which an acknowledgement is sent at the latest, 5 ms.
    pub ack_delay: Duration,
    /// Silence after which a ping is sent, 1 s. It is repeated at this interval until bytes arrive.
    pub ping_after: Duration,
    /// Silence after which the peer is suspected, 3 s.
    pub suspect_after: Duration,
    /// Silence after which the peer is lost and the session ends, 15 s.
    pub lost_after: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            record_bytes_max: 64 * 1024,
            message_bytes_max: 16 * 1024 * 1024,
            reassembly_bytes_max: 64 * 1024 * 1024,
            window_bytes: 1024 * 1024,
            queue_bytes_cap: 64 * 1024 * 1024,
            queue_bytes_high: 1024 * 1024,
            queue_bytes_low: 256 * 1024,
            tags_max: 65_536,
            paused_actors_max: PAUSED_ACTORS_MAX_LEAST,
            connection_records_max: 1 << 32,
            connection_bytes_max: 1 << 38,
            handshake_timeout: Duration::from_secs(5),
            unproven_connections_max: 64,
            ack_bytes: 128 * 1024,
            ack_delay: Duration::from_millis(5),
            ping_after: Duration::from_secs(1),
            suspect_after: Duration::from_secs(3),
            lost_after: Duration::from_secs(15),
        }
    }
}

/// Bytes of all handshake messages that a peer may send on one connection.
pub const HELLO_BYTES_MAX: usize = 4096;
/// Bytes of the name of a node.
pub const NAME_BYTES_MAX: usize = 255;
/// The highest epoch in a hello.
pub(crate) const EPOCH_MAX: u64 = (1 << 63) - 1;
/// Locations of one node.
pub const LOCATIONS_MAX: usize = 8;
/// Bytes of a type tag.
pub const TAG_BYTES_MAX: usize = 255;
/// Bytes of one datagram.
pub const DATAGRAM_BYTES_MAX: usize = 1200;
/// Payload bytes of one fragment. A frame with a longer payload is sent in fragments.
pub const FRAGMENT_BYTES_MAX: usize = 16 * 1024;
/// Bytes that the fields of a large frame may add to its body.
pub(crate) const LARGE_FRAME_FIELDS_BYTES_MAX: u32 = 64 * 1024 + 1024;
/// The smallest `window_bytes`: each single frame must fit.
pub(crate) const WINDOW_BYTES_LEAST: u32 = 64 * 1024;
/// The smallest `paused_actors_max` that a peer may ask for.
pub(crate) const PAUSED_ACTORS_MAX_LEAST: u32 = 65_536;
/// The smallest `record_bytes_max` that a peer may ask for.
pub(crate) const RECORD_BYTES_MAX_LEAST: u32 = 32 * 1024;
/// The largest record that its length field can express.
pub(crate) const RECORD_BYTES_MAX_MOST: u32 = 64 * 1024;
