//! Antiphon's wire protocol, pure: bytes in, frames out, and back.
//!
//! No clock, no socket, no thread and (but for two named doors) no randomness: time and chance are arguments, so that the
//! same bytes at the same times always do the same. docs/PROTOCOL.md describes the bytes; this crate is one implementation.

#![forbid(unsafe_code)]
#![deny(clippy::wildcard_enum_match_arm)]
#![cfg_attr(test, allow(clippy::wildcard_enum_match_arm, reason = "a test looks at what it is about"))]

mod address;
pub use address::{EncodedLocations, EncodedRoute, Locations, Route};

mod bytes;
pub use bytes::Malformed;

mod datagram;
pub use datagram::{Answer, Datagram, DatagramError, DatagramKey, Presence, Probe};

mod deframer;
pub use deframer::Deframer;

pub mod frame;
pub use frame::Frame;

mod fresh;
pub use fresh::{Fresh, NoRandomness};

mod handshake;
pub use handshake::{
    CLOSES_WHEN_IDLE, Connection, Handshake, HandshakeError, HandshakeFault, Hello, Holding, Offer, Profile,
    ProfileError, Refusal, Role, Standing, Step, VERSION_MAX, VERSION_MIN,
};

mod ids;
pub use ids::{Key, NodeId, Pair, TagId};

mod limits;
pub use limits::{
    DATAGRAM_BYTES_MAX, FRAGMENT_BYTES_MAX, HELLO_BYTES_MAX, LOCATIONS_MAX, Limits, NAME_BYTES_MAX,
    TAG_BYTES_MAX,
};

pub mod msgpack;

mod record;
pub use record::RecordError;

mod secret;
pub use secret::Secret;

mod session;
pub use session::{
    Admission, Assembled, Event, Frames, HeldCredit, Incoming, InternError, PeerFault, SendRefused, Session,
    SessionError, Status,
};

mod suite;
pub use suite::Suite;

mod time;
pub use time::Time;
