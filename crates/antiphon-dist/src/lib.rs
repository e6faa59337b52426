//! The node: actors that find each other by name, and exchange messages across processes as within one.
//!
//! A [`Node`] is a loop of actors that listens on one TCP port. It finds its peers by announcements over UDP, or connects
//! to configured locations. Two nodes prove to each other that they know the shared secret, and keep one session, which
//! outlives its connections. Actors use the methods of [`NetCx`] and ordinary addresses.
//!
//! The module `node` does no input or output: it takes bytes, times and random numbers, and returns bytes and actions.
//! The module `net` is its driver, with the sockets.

#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

mod access;
pub use access::{AccessError, AccessPolicy};

mod certificates;
pub use certificates::{Fingerprint, FingerprintError, TlsError};

mod config;
pub use config::{Config, UDP_PORT};

mod credentials;
pub use credentials::ReloadError;

mod cx;
pub use cx::{Named, NetCx, Watch};

mod error;
pub use error::{
    CallError, CloseError, DeliverError, DialError, LocateError, NodeError, PeerError, PeerStatus,
    RegisterError, Status, SubscribeError, SuitesFault, UnknownNode, UnknownPeer,
};

mod location;
pub use location::{Ignored, Location, PeerAt, PeerAtError, PeerOptions};

mod net;
pub use net::{NoRandomness, Resolver, Tls, TlsAt, TlsConfig, system_entropy};

mod net_handle;
pub use net_handle::NetHandle;

pub mod node;
pub use node::{Counts, NameCursor, NameInfo, NamePage, PeerCursor, PeerInfo, PeerPage, SessionInfo, Space};

mod peer_limits;
pub use peer_limits::{PeerLimits, Refusals};

mod runtime;
pub use runtime::Node;

pub mod secret;
pub use secret::{EnvironmentFault, FileFault, SecretError};

pub mod service;
pub use service::channel::{Channel, EndOnLag, Subscriber};
#[cfg(all(fuzzing, unix))]
#[doc(hidden)]
pub use service::file::fuzzing;
pub use service::file::{
    DeleteError, FileError, FileOptions, FileRefused, FileStat, PathError, Progress, SourceError, Stored,
    Transfer,
};
pub use service::rci::Rci;

/// A network: an address and the length of its prefix. In text: `10.0.0.0/8`.
pub use ipnet::IpNet;

pub use antiphon_wire::{HandshakeFault, Limits, Refusal, Secret, Suite, TlsFault};

pub mod testing;
