//! The errors of nodes and of the methods of `NetCx`.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use antiphon_sched::{LoopError, PayloadError, SettingError};
use thiserror::Error;

use crate::location::{Location, PeerAt};

/// Why a node could not start, or stopped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The scheduler could not start, or failed.
    #[error(transparent)]
    Loop(#[from] LoopError),
    /// A setting is outside of its range.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The TCP port could not be opened.
    #[error("cannot listen on {at} ({source}); is another node running there? Port 0 picks a free port")]
    Listen {
        /// The address and port.
        at: SocketAddr,
        /// The error of the system.
        source: io::Error,
    },
    /// The UDP port could not be opened.
    #[error(
        "cannot use UDP port {port} for discovery ({source}); set `udp_port`, or `discover_peers: false`"
    )]
    Udp {
        /// The port.
        port: u16,
        /// The error of the system.
        source: io::Error,
    },
    /// Peers cannot dial the configured address.
    #[error(
        "peers cannot dial {ip}; set `ip` to an address of this machine, and `ext_ip_addr` to the address of its \
         gateway, or leave it out"
    )]
    UndialableIp {
        /// The address in the configuration.
        ip: std::net::IpAddr,
    },
    /// The address is not loopback, and there is neither a secret nor a certificate.
    #[error(
        "other machines can reach {ip}, and there is neither a secret nor a certificate; set `secret` \
         (`antiphon::secret::generate()` creates one), or `certfile` for TLS, or `open: true` to accept all nodes; or stay on \
         loopback"
    )]
    NoSecret {
        /// The address in the configuration.
        ip: std::net::IpAddr,
    },
    /// The address is not loopback, and the secret can be guessed.
    #[error(
        "other machines can reach {ip}, and the secret is weak; create one with `cargo xtask keygen` or \
         `antiphon::secret::generate()`, or set `weak_secret: true`"
    )]
    WeakSecret {
        /// The address in the configuration.
        ip: std::net::IpAddr,
    },
    /// `other_secrets` is set, and `secret` is not.
    #[error("`other_secrets` is set, and `secret` is not; set `secret` too")]
    OnlyOtherSecrets,
    /// Two secrets have the same number.
    #[error("two secrets have the key id {id}; give each its own, here and on all other nodes")]
    SameKeyId {
        /// The key id.
        id: u32,
    },
    /// The suites do not fit the rest of the configuration.
    #[error(transparent)]
    Suites(#[from] SuitesFault),
    /// The file with the secrets cannot be used.
    #[error(transparent)]
    SecretFile(#[from] crate::secret::SecretError),
    /// `secret_file` is set beside `secret` or `other_secrets`.
    #[error("`secret_file` is set beside `secret` or `other_secrets`; set only one of them")]
    TwoSecretSources,
    /// A certificate or its key cannot be used.
    #[error(transparent)]
    Tls(#[from] crate::certificates::TlsError),
    /// An access policy in the configuration can allow no peer.
    #[error("an access policy in the configuration allows no peer: {0}")]
    AccessPolicy(#[from] crate::access::AccessError),
    /// The folder for files cannot be used.
    #[error("cannot store files in {} ({source}); make it a folder that this user owns, or set another `dest_path`", path.display())]
    DestPath {
        /// The folder.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// A field of the configuration has a value that is not possible.
    #[error(transparent)]
    Profile(#[from] antiphon_wire::ProfileError),
    /// The system provided no random numbers.
    #[error(transparent)]
    Random(#[from] crate::net::NoRandomness),
    /// This process is confined to loopback, and the configuration is not.
    #[error(transparent)]
    Egress(#[from] antiphon_sched::egress::EgressError),
    /// `run_with` could not start its thread, or the thread panicked.
    #[error("the thread of `run_with` failed: {0}")]
    Thread(String),
}

/// Why the suites of a configuration cannot be used.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SuitesFault {
    /// `tls` is set, and there is no certificate.
    #[error("the suite `tls` needs a certificate; set `certfile`, or remove `tls` from `suites`")]
    NoCertificate,
    /// There is a certificate, and a suite other than `tls`.
    #[error("with a certificate all connections use TLS; leave `suites` as `None`, or remove `certfile`")]
    BesidesTls,
    /// There is a secret, and the suite `plain`, which does not check it.
    #[error(
        "the suite `plain` accepts all nodes without the secret; remove `plain` from `suites`, or the secret"
    )]
    PlainWithSecret,
}

/// Why the node at a location was not reached.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DialError {
    /// The port has refused the last attempt that was answered: no program listened there.
    #[error("no program listens at that location; start the node, or check the address and the port")]
    ConnectionRefused,
    /// One of the two nodes refuses the other.
    #[error("the peer refused: {0}")]
    Refused(antiphon_wire::Refusal),
    /// The program at the location does not speak the protocol.
    #[error("the program at that location is not an Antiphon node, or is faulty: {0}")]
    NotAntiphon(antiphon_wire::HandshakeFault),
}

/// Why a lookup found nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LocateError {
    /// The name was not registered in time.
    #[error("the name was not registered in time; is its node running, with the same secret and UDP port?")]
    TimedOut,
    /// The node at the location of [`NetCx::locate_at`](crate::NetCx::locate_at) was not reached.
    #[error(transparent)]
    Unreachable(DialError),
    /// The name is registered for another type.
    #[error("the name is registered for type {found}, not {expected}; check the types on both sides")]
    WrongType {
        /// The type that the lookup asked for.
        expected: String,
        /// The type that the name is registered for.
        found: String,
    },
    /// The actor has as many open requests as `requests_max` allows, or the node 65,536 open lookups.
    #[error("too many open requests; wait for replies first")]
    TooManyOpen,
    /// Another node keeps no more lookups of this node. The nodes that accepted the lookup do not have the name.
    #[error(
        "this node has as many open lookups as another node allows; wait for replies, or raise \
         `peer_limits.lookups_max` on that node"
    )]
    Refused,
    /// The name is empty, or longer than 255 bytes.
    #[error("a name has 1 to 255 bytes")]
    BadName,
    /// The name of the type is longer than 255 bytes. This happens to types that are composed of many others.
    #[error(
        "the name of the type has {bytes} bytes, more than 255; wrap it in a type with a name of its own"
    )]
    TypeNameTooLong {
        /// The length of the type's name in bytes.
        bytes: usize,
    },
    /// This actor is not part of a node.
    #[error("this actor's loop is not part of a node; spawn the actor in a `Node` to use names")]
    NoNode,
}

/// Why a name could not be registered. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The name is registered on this node already, for another actor, channel, RCI or service.
    #[error(
        "this node has registered {name:?} already, for an actor, a channel, an RCI or a service of the same kind; use another name, or unregister that one"
    )]
    Taken {
        /// The name.
        name: String,
    },
    /// The name is empty, or longer than 255 bytes.
    #[error("a name has 1 to 255 bytes")]
    BadName,
    /// The name of the type is longer than 255 bytes. This happens to types that are composed of many others.
    #[error(
        "the name of the type has {bytes} bytes, more than 255; wrap it in a type with a name of its own"
    )]
    TypeNameTooLong {
        /// The length of the type's name in bytes.
        bytes: usize,
    },
    /// The node has 65,536 names already.
    #[error("this node has 65,536 names already; unregister some")]
    TooMany,
    /// The name is not registered, or another actor registered it.
    #[error("{name:?} is not registered by this actor; only the owner can unregister it")]
    NotOwner {
        /// The name.
        name: String,
    },
    /// This actor is not part of a node.
    #[error("this actor's loop is not part of a node; spawn the actor in a `Node` to use names")]
    NoNode,
    /// The actor to register has ended, is on another node, or takes messages of another type.
    #[error("the actor to register has ended, or is on another node; register an actor of this node")]
    NotHere,
}

/// Why a message that asked for a receipt was not delivered, or may not have been.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DeliverError {
    /// The message was refused; it is in no mailbox.
    #[error(transparent)]
    Refused(antiphon_sched::Undelivered),
    /// No receipt came in time; the message may still be delivered.
    #[error("no receipt came in time; the message may still be delivered")]
    TimedOut,
    /// The session with the node ended before the receipt came; the message may have been delivered.
    #[error("the actor's node was lost before the receipt came; the message may have been delivered")]
    Unknown,
    /// The actor has as many open requests as `requests_max` allows; nothing was sent.
    #[error("too many open requests; wait for replies first")]
    TooManyOpen,
    /// A channel did not have the requested number of subscribers in time; nothing was delivered.
    #[error(
        "the channel has {subscribers} subscribers, fewer than requested; nothing was delivered; wait for more \
         subscribers, or request fewer"
    )]
    TooFew {
        /// The number of subscribers at the timeout.
        subscribers: usize,
    },
    /// A channel has as many pending deliveries as it may; nothing was delivered.
    #[error("the channel has too many pending deliveries; wait for their answers first")]
    TooManyDeliveries,
}

/// Why an actor or a channel is not subscribed to a channel.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The channel is closed, or does not exist.
    #[error("the channel is closed or does not exist; locate it again")]
    NoChannel,
    /// The subscriber is the channel itself, or a channel that forwards to it.
    #[error(
        "the subscriber forwards its messages to that channel already, so messages would circulate without end; \
         subscribe in one direction only"
    )]
    Cycle,
    /// The channel has as many subscribers as it may, or too many upstream channels.
    #[error(
        "the channel has as many subscribers or upstream channels as it may; unsubscribe some, or subscribe by another \
         channel"
    )]
    TooMany,
    /// The subscribing node has as many subscribers at the channel, or at all channels of its node, as it may.
    #[error(
        "this node has as many subscribers at the channel, or at all channels of its node, as it may; subscribe by a \
         channel of this node, or raise `peer_limits` on that node"
    )]
    OverQuota,
    /// The subscriber is a channel, and is closed or does not answer.
    #[error("the channel that should subscribe is closed or cannot be reached; locate it again")]
    NoSubscriber,
    /// Neither channel is on this node. Only an actor on the node of one of them may subscribe one to the other.
    #[error(
        "neither of the two channels is on this node; subscribe from an actor on the node of one of them"
    )]
    NotYours,
    /// The channel's node was lost, or cannot be reached.
    #[error("the channel's node cannot be reached; wait until it is Online, and locate the channel again")]
    NodeLost,
    /// No answer came in time; the subscription may still be made.
    #[error("no answer came in time; the subscription may still be made, so unsubscribe if it is not needed")]
    TimedOut,
    /// The mailbox of the channel, or the send queue to its node, is full.
    #[error("the channel or the send queue to its node is full; try again later")]
    Busy,
    /// The channel carries messages of another type.
    #[error("the channel carries messages of another type; check the types on both sides")]
    WrongType,
    /// The actor has as many open requests as `requests_max` allows.
    #[error("too many open requests; wait for replies first")]
    TooManyOpen,
    /// This actor is not part of a node.
    #[error("this actor's loop is not part of a node; spawn the actor in a `Node` to use channels")]
    NoNode,
}

/// Why a call of an RCI returned no actor.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CallError {
    /// The function is not registered, or no longer.
    #[error("the function is no longer registered; locate it again")]
    NotRegistered,
    /// The arguments themselves are at fault: the function takes others, or they could not be encoded or decoded.
    #[error("the arguments were refused: {0}")]
    Arguments(PayloadError),
    /// The answer of the function's node could not be read. An actor may have been started.
    #[error("the answer was refused: {0}; run the same version of Antiphon on both nodes")]
    Answer(PayloadError),
    /// The calling node has as many running actors from this function as the other node allows.
    #[error(
        "this node has {max} running actors from this function, as many as it may; wait until some exit, or raise \
         `rci_actors_max` on that node"
    )]
    OverQuota {
        /// The limit of the other node.
        max: usize,
    },
    /// The function panicked, with this text; it stays registered.
    #[error("the function panicked: {0}; see the log of its node")]
    Panicked(String),
    /// The function's node is stopping, and starts no actors for other nodes.
    #[error("the function's node is stopping; call the function of another node")]
    Stopping,
    /// No answer came in time; an actor may still be started.
    #[error("no answer came in time; an actor may still be started")]
    TimedOut,
    /// The mailbox of the RCI, or the send queue to its node, is full.
    #[error("the mailbox of the function or the send queue to its node is full; make fewer calls at once")]
    Busy,
    /// The function's node cannot be reached, or was lost before it answered; an actor may have been started.
    #[error(
        "the function's node cannot be reached, or was lost before it answered; wait until it is Online again, and locate \
         the function there"
    )]
    NodeLost,
    /// There is no connection with the function's node, and one of the two nodes refuses another, for this reason.
    #[error("the connection with the function's node was refused: {0}")]
    NodeRefused(Arc<str>),
    /// The actor has as many open requests as `requests_max` allows.
    #[error("too many open requests; wait for replies first")]
    TooManyOpen,
}

/// Why a connect request failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The peer refused the connection.
    #[error("the peer refused: {0}")]
    Refused(antiphon_wire::Refusal),
    /// The node was not reached, for another reason than a refusal.
    #[error(transparent)]
    Unreachable(DialError),
    /// No node answered in time. The node stops trying.
    #[error("no node answered in time; is a node running there?")]
    NoAnswer,
    /// The host name could not be resolved.
    #[error("{at} cannot be resolved: {reason}; check the name, or use the IP address")]
    UnknownHost {
        /// The host.
        at: PeerAt,
        /// The error of the resolver.
        reason: String,
    },
    /// This process is confined to loopback.
    #[error(transparent)]
    Egress(#[from] antiphon_sched::egress::EgressError),
    /// The actor has as many open requests as `requests_max` allows.
    #[error("too many open requests; wait for replies first")]
    TooManyOpen,
    /// This actor is not part of a node.
    #[error("this actor's loop is not part of a node; spawn the actor in a `Node` to have peers")]
    NoNode,
}

/// The error for a node without a known location.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Error)]
#[error("node {node} is not known here; it was never a peer, or was forgotten after it left")]
pub struct UnknownNode {
    /// The node.
    pub node: antiphon_sched::NodeId,
}

/// The error for a location without a known peer.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Error)]
#[error("no peer at {at} is known here; connect to it first with `peer`")]
pub struct UnknownPeer {
    /// The location.
    pub at: Location,
}

/// Why a peer was not closed, or not with everything delivered.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CloseError {
    /// No peer is known there.
    #[error(transparent)]
    Unknown(#[from] UnknownPeer),
    /// The peer did not acknowledge in time all that was sent to it. The session has ended nevertheless.
    #[error("the peer is closed, but did not acknowledge in time all that was sent to it before")]
    TimedOut,
    /// The actor has as many open requests as `requests_max` allows; nothing was closed.
    #[error("too many open requests; wait for replies first")]
    TooManyOpen,
    /// This actor is not part of a node.
    #[error("this actor's loop is not part of a node; spawn the actor in a `Node` to have peers")]
    NoNode,
}

/// A peer, with its status and location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The first of the locations at which the peer accepts connections.
    pub location: Location,
    /// The name of the peer.
    pub name: String,
    /// The incarnation of the peer.
    pub node: antiphon_sched::NodeId,
    /// Whether the peer is reachable.
    pub status: Status,
    /// Why the last dial of the peer was refused, if it is not connected: for example, since one of the two nodes does not
    /// accept the certificate of the other. It is dialled further. The actor receives the peer's status when this changes,
    /// too.
    pub refusal: Option<DialError>,
}

/// Whether a peer is reachable.
#[derive(Copy, Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Status {
    /// The peer is connected, was connected until a moment ago, or agreed to close its idle connection.
    Online,
    /// The peer has been silent for a while: 3 s by default.
    Suspect,
    /// The peer is lost, or has sent a goodbye. Every open operation on it has completed.
    Offline,
}
