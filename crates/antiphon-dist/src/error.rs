//! What can go wrong between nodes.

use std::io;
use std::net::SocketAddr;

use antiphon_sched::LoopError;
use thiserror::Error;

use crate::location::{Location, PeerAt};

/// Why a node could not start or go on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The scheduler could not be built or failed.
    #[error(transparent)]
    Loop(#[from] LoopError),
    /// The TCP port could not be opened.
    #[error("cannot listen on {at} ({source}); is another node running there? Port 0 picks a free one")]
    Listen {
        /// Where.
        at: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The UDP port could not be opened.
    #[error(
        "cannot use UDP port {port} for discovery ({source}); set `udp_port`, or `discover_peers: false`"
    )]
    Udp {
        /// The port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// The address is none that peers could dial.
    #[error("{ip} is no address that peers could dial: set `ip` to one of this machine's own")]
    UnspecifiedIp {
        /// The address in the configuration.
        ip: std::net::IpAddr,
    },
    /// The address is not loopback, and there is neither a secret nor a certificate.
    #[error(
        "{ip} can be reached from other machines, and nothing says who may come: set `secret` (`Secret::generate()` \
         makes one), or `certfile` for TLS, or `open: true` to let everybody in; or stay on loopback"
    )]
    NoSecret {
        /// The address in the configuration.
        ip: std::net::IpAddr,
    },
    /// The address is not loopback, and the secret can be guessed.
    #[error(
        "{ip} can be reached from other machines, and the secret is weak: make one with `cargo xtask keygen` \
         or `Secret::generate()`, or set `weak_secret: true`"
    )]
    WeakSecret {
        /// The address in the configuration.
        ip: std::net::IpAddr,
    },
    /// There are other secrets, and none to use.
    #[error("`other_secrets` are accepted beside the one in use: set `secret`, too")]
    OnlyOtherSecrets,
    /// Two secrets have the same number.
    #[error("two secrets have the key id {id}: give each its own, here and on all other nodes")]
    SameKeyId {
        /// The number.
        id: u32,
    },
    /// The suites do not fit the rest of the configuration.
    #[error(transparent)]
    Suites(#[from] SuitesFault),
    /// A certificate or its key cannot be used.
    #[error(transparent)]
    Tls(#[from] crate::certificates::TlsError),
    /// A field of the configuration says what no node can do.
    #[error(transparent)]
    Profile(#[from] antiphon_wire::ProfileError),
    /// The system gave no random numbers.
    #[error(transparent)]
    Random(#[from] antiphon_wire::NoRandomness),
    /// This process is confined to loopback, and the configuration is not.
    #[error(transparent)]
    Egress(#[from] antiphon_sched::egress::EgressError),
    /// `run_with` could not start its thread, or the thread panicked.
    #[error("the thread beside the loop failed: {0}")]
    Thread(String),
}

/// What is wrong with the suites that a configuration names.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SuitesFault {
    /// `tls`, and no certificate.
    #[error("the suite `tls` needs a certificate: set `certfile`, or take it out of `suites`")]
    NoCertificate,
    /// A certificate, and suites that would protect a second time, or not at all.
    #[error("with a certificate all connections are TLS: leave `suites` as `None`, or `certfile` out")]
    BesidesTls,
    /// A secret, and a suite that proves nothing.
    #[error(
        "the suite `plain` lets everybody in, secret or not: take it out of `suites`, or leave the secret out"
    )]
    PlainWithSecret,
}

/// Why nothing was found under a name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LocateError {
    /// Nobody registered the name in time.
    #[error("nobody registered that name in time; is its node running, with the same secret and UDP port?")]
    TimedOut,
    /// The name stands for something that takes another type.
    #[error("the name takes messages of type {found}, not {wanted}; check the types on both sides")]
    WrongType {
        /// The type that was asked for.
        wanted: String,
        /// The type that the name takes.
        found: String,
    },
    /// The asker has 65,535 open requests already, or the node 65,536 open questions.
    #[error("too many open requests; wait for answers before asking more")]
    TooManyOpen,
    /// The name is empty, or longer than 255 bytes.
    #[error("a name has 1 to 255 bytes")]
    BadName,
    /// This actor is not part of a node.
    #[error("this actor runs in a loop by itself; spawn it in a `Node` to use names")]
    NoNode,
}

/// Why a name could not be registered. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// Another actor has the name.
    #[error("another actor of this node has registered {name:?}; take another name, or wait until it ends")]
    Taken {
        /// The name.
        name: String,
    },
    /// The name is empty, or longer than 255 bytes.
    #[error("a name has 1 to 255 bytes")]
    BadName,
    /// The node has 65,536 names already.
    #[error("this node has registered as many names as it may; unregister some")]
    TooMany,
    /// The name is not registered, or by another actor.
    #[error("{name:?} is not registered by this actor; only the owner can unregister it")]
    NotOwner {
        /// The name.
        name: String,
    },
    /// This actor is not part of a node.
    #[error("this actor runs in a loop by itself; spawn it in a `Node` to use names")]
    NoNode,
}

/// What became of a message that asked for a receipt, if it was not delivered.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DeliverError {
    /// It was refused; the message has not arrived.
    #[error("refused: {0}")]
    Refused(antiphon_sched::Undelivered),
    /// No receipt came in time; the message may still arrive.
    #[error("no receipt in time; the message may still arrive")]
    TimedOut,
    /// The session with the node ended while the message was under way; it may have arrived.
    #[error("the actor's node was lost with the message under way; it may have arrived")]
    Unknown,
    /// The asker has 65,535 open requests already; nothing was sent.
    #[error("too many open requests; wait for answers before sending more")]
    TooManyOpen,
}

/// Why a peer could not be contacted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PeerError {
    /// It answered, and refused.
    #[error("the peer refused: {0}")]
    Refused(antiphon_wire::Refusal),
    /// Nobody answered in time. The node goes on no further with it.
    #[error("no answer in time; is a node running there?")]
    NoAnswer,
    /// The host could not be looked up.
    #[error("{at} cannot be looked up: {why}; check the name, or give its IP address")]
    UnknownHost {
        /// What was to be looked up.
        at: PeerAt,
        /// What the resolver said.
        why: String,
    },
    /// This process is confined to loopback.
    #[error(transparent)]
    Egress(#[from] antiphon_sched::egress::EgressError),
    /// The asker has 65,535 open requests already.
    #[error("too many open requests; wait for answers before asking more")]
    TooManyOpen,
    /// This actor is not part of a node.
    #[error("this actor runs in a loop by itself; spawn it in a `Node` to have peers")]
    NoNode,
}

/// A node that this one knows no location of.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Error)]
#[error("node {node} is not known here; it was never met, or is long gone")]
pub struct UnknownNode {
    /// The node.
    pub node: antiphon_sched::NodeId,
}

/// What a node thinks of a peer, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Where it takes connections; the first of its locations.
    pub location: Location,
    /// Its name.
    pub name: String,
    /// Its incarnation.
    pub node: antiphon_sched::NodeId,
    /// What is thought of it.
    pub status: Status,
}

/// Whether a peer is there.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is connected, or was heard of lately.
    Online,
    /// It has been silent for a while: 3 s by default.
    Suspect,
    /// It is lost, or has said goodbye: everything open on it was answered.
    Offline,
}
