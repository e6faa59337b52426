//! What can go wrong between nodes.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

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
    #[error(
        "{ip} is no address that peers could dial: set `ip` to one of this machine's own, and `ext_ip_addr`, if at \
         all, to that of its gateway"
    )]
    UndialledIp {
        /// The address in the configuration.
        ip: std::net::IpAddr,
    },
    /// A network in `dial_allow` that there cannot be.
    #[error("{network}/{bits} in `dial_allow` is no network: the length is at most 32, or 128 in IPv6")]
    Network {
        /// Its address.
        network: std::net::IpAddr,
        /// The length of its prefix.
        bits: u8,
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
    /// An audience cannot be meant.
    #[error("an audience in the configuration admits nobody: {0}")]
    AccessPolicy(#[from] crate::access::AccessError),
    /// The folder for files cannot be used.
    #[error("files cannot be taken in {} ({source}); make it a folder of this user's own, or set another `dest_path`", path.display())]
    DestPath {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
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
    /// A node that was asked keeps no more questions of this node's; who else was asked does not have the name.
    #[error(
        "this node has as many names to find as another node admits; wait for answers, or raise \
         `peer_limits.lookups_max` over there"
    )]
    Refused,
    /// The name is empty, or longer than 255 bytes.
    #[error("a name has 1 to 255 bytes")]
    BadName,
    /// The type that goes with the name is composed of so many that its own name is too long for the wire.
    #[error(
        "its type's name has {bytes} bytes, where 255 are possible; wrap it in a type with a name of its own"
    )]
    TypeNameTooLong {
        /// The bytes that the type's name has.
        bytes: usize,
    },
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
    /// The type that goes with the name is composed of so many that its own name is too long for the wire.
    #[error(
        "its type's name has {bytes} bytes, where 255 are possible; wrap it in a type with a name of its own"
    )]
    TypeNameTooLong {
        /// The bytes that the type's name has.
        bytes: usize,
    },
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
    /// Of a channel: so many subscribers were wanted, and have not come in time; nothing was delivered.
    #[error(
        "the channel has {subscribers} subscribers, fewer than wanted, and no more came in time; \
             nothing was delivered"
    )]
    TooFew {
        /// How many it has.
        subscribers: usize,
    },
    /// Of a channel: as many deliveries are under way as it may have; nothing was delivered.
    #[error("the channel has too many deliveries under way; wait for their answers before delivering more")]
    TooManyDeliveries,
}

/// Why an actor or a channel is not subscribed to a channel.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The channel is closed, or never was.
    #[error("there is no such channel, or it was closed; locate it again")]
    NoChannel,
    /// The subscriber is that very channel, or is above it.
    #[error(
        "the subscriber passes its messages on to that channel already, so they would never end; \
             subscribe in one direction only"
    )]
    Cycle,
    /// The channel has as many subscribers as it may, or too many channels above it.
    #[error(
        "the channel has as many subscribers or levels as it may; unsubscribe some, or add a channel below it"
    )]
    TooMany,
    /// The asker's node has put as many receivers into that channel, or all of its node, as it may.
    #[error(
        "this node has as many receivers in that channel, or on its node, as it may; subscribe by a channel of this \
         node's own, or raise `peer_limits` over there"
    )]
    OverQuota,
    /// The subscriber, a channel, is gone or does not answer.
    #[error("the channel that should subscribe is closed or cannot be reached; locate it again")]
    NoSubscriber,
    /// A channel is put below another by an actor of either's node, and by nobody else.
    #[error(
        "neither of the two channels is this node's; have an actor on the node of either subscribe one to the other"
    )]
    NotYours,
    /// The channel's node was lost, or cannot be reached.
    #[error("the channel's node cannot be reached; wait until it is Online, and locate the channel again")]
    NodeLost,
    /// No answer in time; the subscription may still come about.
    #[error("no answer in time; unsubscribe if it is no longer wanted, for it may still come about")]
    TimedOut,
    /// The channel, or the way to its node, has more to do than it may hold.
    #[error("the channel or the way to its node is overloaded; try again later")]
    Busy,
    /// The channel carries another type.
    #[error("the channel carries another type; check the types on both sides")]
    WrongType,
    /// The asker has 65,535 open requests already.
    #[error("too many open requests; wait for answers before asking more")]
    TooManyOpen,
    /// This actor is not part of a node.
    #[error("this actor runs in a loop by itself; spawn it in a `Node` to use channels")]
    NoNode,
}

/// Why a call started no actor, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CallError {
    /// The function is not registered any more.
    #[error("the function is not registered any more; locate it again")]
    NotRegistered,
    /// The function takes other arguments, or they could not be encoded or decoded.
    #[error("the function does not take {arguments}, or they do not encode; check the types on both sides")]
    WrongArguments {
        /// The name of the type of the arguments that were given.
        arguments: String,
    },
    /// The calling node has as many actors alive by that function as the other node admits.
    #[error(
        "this node has {max} actors alive by that function, as many as it may; wait until some have ended, or \
             raise `rci_actors_max` over there"
    )]
    OverQuota {
        /// How many it may have.
        max: usize,
    },
    /// The function panicked, with this text; it stays registered.
    #[error("the function panicked: {0}; see the log of its node")]
    Panicked(String),
    /// No answer in time; an actor may still be started.
    #[error("no answer in time; an actor may still be started")]
    TimedOut,
    /// The function has more calls to answer than it may hold, or too many bytes wait for its node.
    #[error("the function or the way to its node is overloaded; call less at once")]
    Busy,
    /// The function's node cannot be reached, or was lost before it answered; an actor may have been started.
    #[error("the function's node was lost; wait until it is Online again, and locate the function there")]
    NodeLost,
    /// The caller has 65,535 open requests already.
    #[error("too many open requests; wait for answers before calling more")]
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
    #[error("{at} cannot be looked up: {reason}; check the name, or give its IP address")]
    UnknownHost {
        /// What was to be looked up.
        at: PeerAt,
        /// What the resolver said.
        reason: String,
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

/// A location at which no peer is known.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Error)]
#[error("no peer at {at} is known here; contact it first, with `peer`")]
pub struct UnknownPeer {
    /// The location.
    pub at: Location,
}

/// Why it is not known that a peer is closed in good order.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CloseError {
    /// No peer is known there.
    #[error(transparent)]
    Unknown(#[from] UnknownPeer),
    /// What was sent to it has not arrived in time. The session has ended all the same.
    #[error("the peer is closed, and did not acknowledge in time what was sent to it before")]
    TimedOut,
    /// The asker has 65,535 open requests already; nothing was closed.
    #[error("too many open requests; wait for answers before asking more")]
    TooManyOpen,
    /// This actor is not part of a node.
    #[error("this actor runs in a loop by itself; spawn it in a `Node` to have peers")]
    NoNode,
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
