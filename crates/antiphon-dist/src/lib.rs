//! The node: actors that find each other by name, and talk across processes as within one.
//!
//! A [`Node`] is a loop of actors, listening on one TCP port. It finds its peers by announcements on UDP, or
//! is told of them; proves to each that it knows the shared secret; and keeps one session with each, which
//! outlives its connections. To actors all of this is the verbs of [`NetCx`] and addresses as they know them.
//!
//! `node` is pure: bytes, times and chance in, bytes and wishes out. `net` is its driver, with the sockets.

#![forbid(unsafe_code)]

mod certificates;
pub use certificates::TlsError;

mod config;
pub use config::{Config, UDP_PORT};

mod cx;
pub use cx::{Named, NetCx, Watch};

mod error;
pub use error::{
    DeliverError, LocateError, NodeError, PeerError, PeerStatus, RegisterError, Status, SuitesFault,
    UnknownNode,
};

mod location;
pub use location::{Location, PeerAt, PeerAtError};

mod net;
pub use net::Resolver;

pub mod node;
pub use node::Counts;

mod runtime;
pub use runtime::Node;

pub use antiphon_wire::{EnvironmentFault, FileFault, Limits, Refusal, Secret, SecretError, Suite, TlsFault};
