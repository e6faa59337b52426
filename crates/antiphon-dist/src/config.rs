//! What a node is told at its start. Checked once, by `Node::new`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use antiphon_sched::LoopConfig;
use antiphon_wire::{Keyring, Limits, Secret, Suite};

use crate::access::AccessPolicy;
use crate::location::{Location, PeerAt};
use crate::peer_limits::PeerLimits;

/// The settings of a node. Every field is public: write those that matter, and `..Config::default()`.
///
/// The default stays on loopback, with or without a secret.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name; `None` is its location, `ip:port`.
    pub name: Option<String>,
    /// What all nodes that may talk to each other share.
    pub secret: Option<Secret>,
    /// The number of the secret: the same on all nodes, but while they change it.
    pub key_id: u32,
    /// Further secrets, by their numbers, under which peers are let in too. So all nodes can change their secret one
    /// after another, none of them without peers: first each is restarted with the new one in here; then each with the
    /// new one as `secret` and the old one in here; then each without the old one.
    pub other_secrets: Vec<(u32, Secret)>,
    /// This node's certificate, as PEM; with it, all connections are TLS 1.3, and peers must present one too. The file may
    /// hold the CA certificates between it and a root behind it, and the key.
    pub certfile: Option<PathBuf>,
    /// The key of the certificate, as PEM without a passphrase; `None`: it stands in `certfile`. On Unix, a file with a key
    /// that others than its owner may open is refused.
    pub keyfile: Option<PathBuf>,
    /// Files with the certificates of all nodes that may be peers, any number in each, as PEM. A peer is let in if its
    /// certificate is one of them, byte for byte, and its dates hold. A file that holds a key is refused here, unless it is
    /// the `certfile` that all nodes share. If there is neither this nor `ca_files`, the
    /// certificate of this node is the one that all nodes share.
    pub pinned: Vec<PathBuf>,
    /// Files with the certificates of private CAs, as PEM, and without their keys. A peer is let in if one of them has signed its certificate. Its
    /// names are not looked at: membership counts, wherever the node is dialled.
    pub ca_files: Vec<PathBuf>,
    /// How connections are protected, best first. `None` is what the rest of the configuration asks for: TLS with a
    /// certificate, else [`Suite::aead`] with a secret, else `plain`. With a secret alone, `[Suite::Hmac]` makes records
    /// authentic but readable.
    pub suites: Option<Vec<Suite>>,
    /// Beyond loopback, and without a certificate: take a secret that could be guessed.
    pub weak_secret: bool,
    /// Beyond loopback: let everybody in, without a secret or a certificate.
    pub open: bool,
    /// The address to listen on, and to announce; 127.0.0.1 by default. Its interface is the one on which this node
    /// finds others by broadcast and multicast.
    pub ip: IpAddr,
    /// Which interface is meant, by its number, where several bear the same `ip`, as IPv6 addresses of the link
    /// (fe80::..) may; 0 by default: the first that bears it.
    pub scope_id: u32,
    /// The TCP port to listen on; 0 picks a free one.
    pub tcp_port: u16,
    /// The UDP port for discovery; `None` and 0 are [`UDP_PORT`].
    pub udp_port: Option<u16>,
    /// The address of the gateway behind which this node is, told to peers beside its own: those in other networks
    /// dial it. The gateway forwards the TCP port of the same number to this node, so set `tcp_port`; and the UDP port,
    /// if peers ask the gateway who is there.
    pub ext_ip_addr: Option<IpAddr>,
    /// Whether to announce this node, to heed announcements, and to answer who asks for the nodes on this host. Without
    /// it, this node meets those that it contacts, and those that contact it by location.
    pub discover_peers: bool,
    /// Nodes at these addresses are neither dialled nor let in.
    pub ignore_peers: Vec<IpAddr>,
    /// Peers to connect to, tried again for ever. Those without a port stand for all nodes on the host.
    pub peers: Vec<PeerAt>,
    /// Whether connections with peers are kept while nothing is sent. Without it a connection is closed, by agreement,
    /// when nothing has been sent for 2 s and nothing depends on it at either side (a monitor, a watcher of peers, a
    /// question, an answer); whatever is sent next, by either side, dials again, and only then is it known whether the
    /// peer is still there. One side is enough, if each can dial the other; [`NetCx::stream_send`](crate::NetCx::stream_send)
    /// decides of one peer.
    pub stream_send: bool,
    /// Networks, as address and prefix length, whose locations are dialled when other nodes tell of them;
    /// `None`: the networks of the own interfaces that the node listens on. What this node has asked for is dialled
    /// anyway: the nodes of a host that was contacted, and those that a peer tells of to be announced there.
    pub dial_allow: Option<Vec<(IpAddr, u8)>>,
    /// Silence after which a peer is lost; 15 s by default. (A process that dies is noticed at once, when its port
    /// refuses; this is for machines and processes that hang.) Suspect comes at a fifth of it, a ping at a
    /// fifteenth.
    pub peer_timeout: Duration,
    /// The folder beneath which files from peers are stored, made if need be; `None`: none are taken. A folder
    /// `.antiphon` in it remembers which files came from peers, and keeps unfinished ones to be resumed. It does not
    /// keep the node running: a node that has no more to do than to take files is run by
    /// [`Node::serve`](crate::Node::serve).
    pub dest_path: Option<PathBuf>,
    /// The largest file that is taken, in bytes; `None`: any that the disk has room for.
    pub max_file_size: Option<u64>,
    /// Bytes of all files together that came from peers and are still as they came, and of unfinished ones; `None`: the disk
    /// is the bound. A file that would go over it is refused with [`FileRefused::DestFull`](crate::FileRefused::DestFull).
    pub dest_bytes_max: Option<u64>,
    /// Files that are sent, and received, at a time: 64 by default. Each takes up to about 2 MiB of memory. Of those that are
    /// received, one peer has at most three quarters (48), so that there are places for others.
    pub transfers_max: usize,
    /// How long an unfinished file is kept to be resumed: a day by default. At most 256 are.
    pub partial_files_keep: Duration,
    /// How many actors each function that is registered here (an RCI) keeps alive for one calling node; 1,024 by
    /// default.
    pub rci_actors_max: usize,
    /// Who may call a function that is registered here, unless [`NetCx::allow`](crate::NetCx::allow) says otherwise of
    /// it; everybody by default. The actors that it starts are open to the same peers at first.
    pub rci_access: AccessPolicy,
    /// Who may send files here, and have them deleted; everybody by default.
    pub files_access: AccessPolicy,
    /// What one peer may have of this node.
    pub peer_limits: PeerLimits,
    /// Limits of the protocol; its times are set from `peer_timeout`.
    pub limits: Limits,
    /// The scheduler below.
    pub scheduler: LoopConfig,
}

/// The UDP port for discovery, unless another is configured.
pub const UDP_PORT: u16 = 51_350;

impl Default for Config {
    fn default() -> Self {
        Self {
            name: None,
            secret: None,
            key_id: 0,
            other_secrets: Vec::new(),
            certfile: None,
            keyfile: None,
            pinned: Vec::new(),
            ca_files: Vec::new(),
            suites: None,
            weak_secret: false,
            open: false,
            ip: Ipv4Addr::LOCALHOST.into(),
            scope_id: 0,
            tcp_port: 0,
            udp_port: None,
            ext_ip_addr: None,
            discover_peers: true,
            ignore_peers: Vec::new(),
            peers: Vec::new(),
            stream_send: true,
            dial_allow: None,
            peer_timeout: Duration::from_secs(15),
            dest_path: None,
            max_file_size: None,
            dest_bytes_max: None,
            transfers_max: 64,
            partial_files_keep: Duration::from_secs(24 * 3600),
            rci_actors_max: 1024,
            rci_access: AccessPolicy::everybody(),
            files_access: AccessPolicy::everybody(),
            peer_limits: PeerLimits::default(),
            limits: Limits::default(),
            scheduler: LoopConfig::default(),
        }
    }
}

impl Config {
    /// The UDP port that is meant.
    pub(crate) fn discovery_port(&self) -> u16 {
        match self.udp_port {
            None | Some(0) => UDP_PORT,
            Some(port) => port,
        }
    }

    /// The secrets, as the protocol takes them.
    pub(crate) fn keyring(&self) -> Keyring {
        let Some(secret) = &self.secret else { return Keyring::none() };
        let used = Keyring::new(self.key_id, secret.clone());
        self.other_secrets.iter().fold(used, |ring, (id, secret)| ring.accepting(*id, secret.clone()))
    }

    pub(crate) fn timed_limits(&self) -> Limits {
        Limits {
            ping_after: self.peer_timeout / 15,
            suspect_after: self.peer_timeout / 5,
            lost_after: self.peer_timeout,
            ..self.limits
        }
    }

    pub(crate) fn name_at(&self, at: Location) -> String {
        self.name.clone().unwrap_or_else(|| at.to_string())
    }
}
