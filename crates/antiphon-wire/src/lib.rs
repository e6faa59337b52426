//! Antiphon's wire protocol without input and output: received bytes become frames, frames become bytes to send.
//!
//! The crate uses no clock, no socket, no thread, no file, no environment variable and no random numbers of the system.
//! Time and [`Entropy`] are arguments, so the same input at the same times always has the same result. `antiphon-dist`
//! draws the entropy of its nodes, and reads their secrets.
//!
//! docs/PROTOCOL.md specifies the bytes; this crate is one implementation.
//!
//! - A [`Handshake`] turns a byte stream into a [`ProvenConnection`].
//! - A [`Session`] outlives connections and carries [`Frame`]s.
//! - A [`Deframer`] is the read buffer of one stream.
//!
//! Two nodes that connect in memory:
//!
//! ```
//! use antiphon_wire::frame::Message;
//! use antiphon_wire::{
//!     Deframer, Entropy, Epochs, Frame, Handshake, HandshakeStep, Key, Keyring, Limits, NodeId, Profile, ResumeState,
//!     Route, Session, Suite, Time,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let profile = |node| Profile {
//!     node: NodeId::from_bits(node),
//!     name: format!("node {node}"),
//!     locations: Vec::new(),
//!     suites: Suite::aead().to_vec(),
//!     keyring: Keyring::new(0, "key".into()),
//!     flags: 0,
//!     limits: Limits::default(),
//! };
//! let (here, there) = (profile(1), profile(2));
//! let (mut to_us, mut to_them) = (Deframer::new(), Deframer::new());
//! let (mut ours, mut theirs) = (Vec::new(), Vec::new());
//!
//! // A driver draws this from its system, with X25519. Here the two sides agree on the sum of their public keys.
//! let entropy = |public: u8| {
//!     Entropy::new([public; 32], [public; 32], move |peer| Some([public.wrapping_add(peer[0]); 32]))
//! };
//!
//! // 1. Both hellos. `answer_to`, `prove_to` and `confirm_to` take the session with the peer, if there is one, and
//! // the epochs, which remember the sessions that have ended.
//! let (mut our_epochs, mut their_epochs) = (Epochs::default(), Epochs::default());
//! let resume_state = ResumeState::unknown(our_epochs.of_unknown_node());
//! let mut dialler = Handshake::dial(&here, entropy(1), resume_state, None, &mut ours);
//! let mut acceptor = Handshake::accept(None);
//! to_them.push(&ours);
//! assert!(matches!(acceptor.advance(&there, &mut to_them, &mut theirs)?, HandshakeStep::Introduced));
//! let resume_state = Session::answer_to(None, &their_epochs, acceptor.peer().ok_or("introduced")?)?;
//! acceptor.answer(&there, entropy(2), resume_state, &mut theirs)?;
//! to_us.push(&theirs);
//!
//! // 2. Both proofs.
//! ours.clear();
//! assert!(matches!(dialler.advance(&here, &mut to_us, &mut ours)?, HandshakeStep::Introduced));
//! dialler.prove(&here, Session::prove_to(None, &mut our_epochs, &dialler)?, &mut ours)?;
//! to_them.push(&ours);
//! theirs.clear();
//! assert!(matches!(acceptor.advance(&there, &mut to_them, &mut theirs)?, HandshakeStep::Proven));
//! let held = Session::confirm_to(None, &mut their_epochs, &acceptor)?;
//! let their_connection = acceptor.confirm(&there, &held, &mut theirs)?;
//! to_us.push(&theirs);
//! let HandshakeStep::Done(our_connection) = dialler.advance(&here, &mut to_us, &mut ours)? else { return Err("not done".into()) };
//!
//! // 3. Each side begins a session with the connection (`Session::admit` returns `Admission::Begins`).
//! let now = Time::ZERO;
//! let mut us = Session::begin(now, &here.limits, here.node, &our_connection);
//! us.connected(now, our_connection)?;
//! let mut them = Session::begin(now, &there.limits, there.node, &their_connection);
//! them.connected(now, their_connection)?;
//!
//! // 4. Frames in, records out.
//! let tag = us.intern("str")?;
//! let message = Message { to: Key::from_bits(7), from: Key::from_bits(5), tag, receipt: None, route: Route::NONE, body: b"\xa5hello" };
//! us.send(&Frame::Message(message))?;
//! ours.clear();
//! while us.poll_transmit(now, &mut ours) {}
//!
//! // 5. Records in, frames out. The frames borrow from the deframer, so the session can send meanwhile.
//! to_them.push(&ours);
//! let mut bodies = Vec::new();
//! while let Some(mut frames) = them.next_record(now, &mut to_them)? {
//!     while let Some(incoming) = them.next_frame(now, &mut frames)? {
//!         if let Frame::Message(message) = incoming.frame() {
//!             bodies.push(message.body.to_vec());
//!         }
//!     }
//! }
//! assert_eq!(bodies, [b"\xa5hello"]);
//!
//! // 6. Time: call `on_timeout` at the time that `poll_timeout` returns.
//! assert!(them.poll_timeout().is_some());
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]
#![deny(clippy::wildcard_enum_match_arm)]
#![cfg_attr(
    test,
    allow(clippy::wildcard_enum_match_arm, reason = "a test matches only the variants that it checks")
)]

mod address;
pub use address::{EncodedLocations, EncodedRoute, Locations, Route};

mod bytes;
pub use bytes::Malformed;

mod datagram;
pub use datagram::{Datagram, DatagramError, DatagramKey, Presence, Probe, ProbeReply};

mod deframer;
pub use deframer::Deframer;

mod entropy;
pub use entropy::Entropy;

pub mod frame;
pub use frame::Frame;

mod handshake;
pub use handshake::{
    CLOSES_WHEN_IDLE, EXPORTER_LABEL, Handshake, HandshakeError, HandshakeFault, HandshakeRole,
    HandshakeStep, HeldSession, Hello, HelloLimits, Profile, ProfileError, ProvenConnection, Refusal,
    ResumeState, TlsFault, UNDISCOVERED, VERSION_MAX, VERSION_MIN,
};

mod ids;
pub use ids::{FrameTarget, Key, NodeId, Pair, TagId};

mod keyring;
pub use keyring::Keyring;

mod limits;
pub use limits::{
    DATAGRAM_BYTES_MAX, FRAGMENT_BYTES_MAX, HELLO_BYTES_MAX, LOCATIONS_MAX, Limits, NAME_BYTES_MAX,
    TAG_BYTES_MAX,
};

pub mod msgpack;

mod raw_connection;
pub use raw_connection::RawConnection;

mod record;
pub use record::RecordError;

mod secret;
pub use secret::Secret;

mod session;
pub use session::{
    Admission, Assembled, CONTROL_FRAMES_AT_ONCE, Epochs, Frames, HeldCredit, Incoming, InternError,
    Liveness, PeerFault, SendMark, SendRefused, Session, SessionError, SessionEvent, Withdrawn,
};

mod suite;
pub use suite::Suite;

pub use antiphon_types::Time;
