//! Every limit of the protocol, in one place, with its default.

use std::time::Duration;

/// What a node allows itself and its peers. `Default` is what PROTOCOL.md recommends.
///
/// The first four are told to the peer in the hello; each side keeps to the smaller of its own and the told one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A whole record: header, body and tag. Between 32 KiB and 64 KiB.
    pub record_bytes_max: u32,
    /// The body of one message, 16 MiB.
    pub message_bytes_max: u32,
    /// Messages being put together from fragments, of one session together, 64 MiB.
    pub reassembly_bytes_max: u32,
    /// Numbered frames that a peer may have under way before the receiver grants more, 1 MiB.
    pub window_bytes: u32,
    /// What waits to be sent to one peer: beyond it `SendRefused::Busy`, 64 MiB.
    pub queue_bytes_cap: u64,
    /// The mark above which a sender that cares stops, 1 MiB.
    pub queue_bytes_high: u64,
    /// The mark below which it may go on (`SessionEvent::Writable`), 256 KiB.
    pub queue_bytes_low: u64,
    /// Type tags of one direction of a session, 65,536.
    pub tags_max: u32,
    /// Actors that a peer may pause at a time, 4,096.
    pub paused_actors_max: u32,
    /// Records under one connection's keys, 2^32; then `SessionEvent::Renew`.
    pub connection_records_max: u64,
    /// Bytes of records under one connection's keys, 2^38; then `SessionEvent::Renew`.
    pub connection_bytes_max: u64,
    /// The time that a connection has to prove itself, 5 s. Kept by the node, like the next one.
    pub handshake_timeout: Duration,
    /// Connections that have not proven themselves, of one node, 64.
    pub unproven_connections_max: u32,
    /// An acknowledgement is sent at the latest after this many bytes of frames, 128 KiB.
    pub ack_bytes: u64,
    /// An acknowledgement is sent at the latest after this time, 5 ms.
    pub ack_delay: Duration,
    /// Silence after which a ping is sent, 1 s; as often again until something is heard.
    pub ping_after: Duration,
    /// Silence after which the peer is suspected, 3 s.
    pub suspect_after: Duration,
    /// Silence after which the peer is lost and the session over, 15 s.
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
            paused_actors_max: 4_096,
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

/// The unauthenticated bytes that a peer may send before its proof, per connection.
pub const HELLO_BYTES_MAX: usize = 4096;
/// Bytes of a node's name.
pub const NAME_BYTES_MAX: usize = 255;
/// Locations of one node.
pub const LOCATIONS_MAX: usize = 8;
/// Bytes of a type tag.
pub const TAG_BYTES_MAX: usize = 255;
/// Bytes of one datagram.
pub const DATAGRAM_BYTES_MAX: usize = 1200;
/// A frame with a longer payload is sent in fragments of at most this many bytes.
pub const FRAGMENT_BYTES_MAX: usize = 16 * 1024;
/// What the fields of a large frame may add to its body.
pub(crate) const LARGE_FRAME_FIELDS_BYTES_MAX: u32 = 64 * 1024 + 1024;
/// The smallest `window_bytes`: any one frame must fit.
pub(crate) const WINDOW_BYTES_LEAST: u32 = 64 * 1024;
/// The smallest `record_bytes_max` that a peer may ask for.
pub(crate) const RECORD_BYTES_MAX_LEAST: u32 = 32 * 1024;
/// The largest record that its length field can express.
pub(crate) const RECORD_BYTES_MAX_MOST: u32 = 64 * 1024;
