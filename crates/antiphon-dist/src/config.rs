//! The configuration of a node. `Node::new` checks it once.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use antiphon_sched::LoopConfig;
use antiphon_wire::{Keyring, Limits, Secret, Suite};

use crate::access::AccessPolicy;
use crate::location::{Location, PeerAt};
use crate::peer_limits::PeerLimits;
use ipnet::IpNet;

/// The settings of a node. All fields are public: set the fields that you need, and add `..Config::default()`.
///
/// The default node stays on loopback, with or without a secret.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name; `None`: its location, `ip:port`.
    pub name: Option<String>,
    /// The secret that all nodes share that may connect to each other.
    pub secret: Option<Secret>,
    /// The number of the secret. It is the same on all nodes, except while the secret is being changed.
    pub key_id: u32,
    /// Further secrets, with their numbers, that are accepted from peers. They allow nodes to change the secret one after
    /// another without losing their peers; see [`NetHandle::reload`](crate::NetHandle::reload).
    pub other_secrets: Vec<(u32, Secret)>,
    /// A file with the secrets, in place of `secret`, `key_id` and `other_secrets`. Each line is a number and a secret, with
    /// a space between them; empty lines and lines that begin with `#` are ignored. The first secret is the own one, the
    /// others are accepted from peers. On Unix, the file is refused if users other than its owner may open it.
    pub secret_file: Option<PathBuf>,
    /// The file with this node's certificate, as PEM. If it is set, all connections use TLS 1.3, and peers must present a
    /// certificate too. The file may also contain the key and, after the certificate, the CA certificates between it and
    /// a root.
    pub certfile: Option<PathBuf>,
    /// The file with the key of the certificate, as PEM without a passphrase; `None`: the key is in `certfile`. On Unix, a
    /// file with a key is refused if users other than its owner may open it.
    pub keyfile: Option<PathBuf>,
    /// Files with the certificates of all nodes that may be peers, as PEM, any number in each file. A peer is accepted if
    /// its certificate equals one of them, byte for byte, and is valid at the time. A file that contains a key is refused,
    /// unless it is the `certfile` that all nodes share. If `pinned` and `ca_files` are both empty, all nodes must share
    /// the certificate of this node.
    pub pinned: Vec<PathBuf>,
    /// Files with the certificates of private CAs, as PEM, without their keys. A peer is accepted if one of the CAs has
    /// signed its certificate. The names in the certificate are not checked: any certificate of the CA proves membership,
    /// at whatever address the node is dialled.
    pub ca_files: Vec<PathBuf>,
    /// How connections are protected, best first. `None` follows the rest of the configuration: TLS with a certificate,
    /// else [`Suite::aead`] with a secret, else `plain`. With a secret and no certificate, `[Suite::Hmac]` makes records
    /// authentic but not encrypted.
    pub suites: Option<Vec<Suite>>,
    /// Accept a secret that can be guessed, beyond loopback and without a certificate.
    pub weak_secret: bool,
    /// Accept all nodes beyond loopback, without a secret or a certificate.
    pub open: bool,
    /// The address to listen on and to announce; 127.0.0.1 by default. The node uses the interface of this address to
    /// find other nodes by broadcast and multicast.
    pub ip: IpAddr,
    /// The number of the interface, if several interfaces have the same `ip`. Link-local IPv6 addresses (fe80::..) can
    /// repeat in this way. 0, the default: the first interface with that address.
    pub scope_id: u32,
    /// The TCP port to listen on; 0 picks a free one.
    pub tcp_port: u16,
    /// The UDP port for discovery; `None` and 0 are [`UDP_PORT`].
    pub udp_port: Option<u16>,
    /// The address of the gateway in front of this node. Peers receive it in addition to the node's own address, and dial
    /// it from other networks. The gateway must forward the TCP port of the same number to this node, so set `tcp_port`.
    /// It must also forward the UDP port, if peers probe the gateway for nodes.
    pub ext_ip_addr: Option<IpAddr>,
    /// Whether this node announces itself, handles announcements, and answers probes for the nodes on its host. If
    /// `false`, the node has as peers only the nodes that one of the two connects to by location.
    pub discover_peers: bool,
    /// Addresses of nodes that this node neither dials nor accepts.
    pub ignore_peers: Vec<IpAddr>,
    /// Peers to connect to; failed attempts are repeated without end. An entry without a port stands for all nodes on the
    /// host.
    pub peers: Vec<PeerAt>,
    /// Whether connections with peers stay open while nothing is sent. If `false`, both nodes agree to close a connection
    /// when nothing has been sent for 2 s and nothing on either side depends on it (a monitor, a peer watch, a lookup, a
    /// request). The next message of either side dials again; only then does the node learn whether the peer is still
    /// there. It is enough to set this on one side, if each node can dial the other.
    /// [`NetCx::stream_send`](crate::NetCx::stream_send) sets it for one peer.
    pub stream_send: bool,
    /// Networks, such as `"10.0.0.0/8".parse()`. The node dials locations that it learns from other nodes (by announcements, or
    /// with the addresses of actors in their messages) only if they are in one of these networks; a message to an actor
    /// elsewhere fails with `NoNode`, unless the node was met before. `None`: the networks of the interfaces that the node listens on. Locations that this node
    /// has asked for are always dialled: the nodes found by a host probe, and the nodes that an announce relay reports.
    pub dial_allow: Option<Vec<IpNet>>,
    /// The silence after which a peer is lost; 15 s by default. It matters for machines and processes that hang: the exit
    /// of a process is detected within about a second, since its port then refuses connections. A peer becomes `Suspect` after a fifth
    /// of this time; a ping is sent after a fifteenth.
    pub peer_timeout: Duration,
    /// The folder in which files from peers are stored; it is created if it does not exist. `None`: files are refused.
    /// The folder `.antiphon` in it records which files came from peers, and keeps unfinished files so that they can be
    /// resumed. Receiving files does not keep [`Node::run`](crate::Node::run) running; use
    /// [`Node::serve`](crate::Node::serve) for a node that only receives files.
    pub dest_path: Option<PathBuf>,
    /// The size of the largest file that is accepted, in bytes; `None`: the disk is the bound.
    pub max_file_size: Option<u64>,
    /// The bytes of all files together that came from peers and were not changed since, and of unfinished files; `None`:
    /// the disk is the bound. A file that would exceed it is refused with
    /// [`FileRefused::DestFull`](crate::FileRefused::DestFull).
    pub dest_bytes_max: Option<u64>,
    /// The number of files that are sent at a time, and separately of files that are received at a time: 64 by default.
    /// Each takes up to about 2 MiB of memory. One peer may use at most three quarters (48) of the received ones, so that
    /// some remain for other peers.
    pub transfers_max: usize,
    /// How long an unfinished file is kept so that it can be resumed: a day by default. At most 256 are kept.
    pub partial_files_keep: Duration,
    /// How many running actors one calling node may have from each RCI of this node; 1,024 by default.
    pub rci_actors_max: usize,
    /// Which peers may call the RCIs of this node, unless [`NetCx::allow`](crate::NetCx::allow) sets another policy for an
    /// RCI; all peers by default. The actors that an RCI starts begin with the policy of the RCI.
    pub rci_access: AccessPolicy,
    /// Which peers may send files to this node, and delete them; all peers by default.
    pub files_access: AccessPolicy,
    /// Whether SIGINT and SIGTERM stop the node while it runs: the default. The first signal stops it in order, a second one ends
    /// the process at once. When the node has stopped, the handlers of before are back. Set it to `false` to handle
    /// signals yourself. It has no effect on [`Node::run_once`](crate::Node::run_once).
    pub stop_on_signals: bool,
    /// Whether the node, while it runs, reads the files with its secrets and certificates again at SIGHUP, as
    /// [`NetHandle::reload`](crate::NetHandle::reload) does. If a file cannot be used, it logs an error and keeps what it has.
    /// `false`, the default: SIGHUP has the effect that it had before, which is to end the process. It has no effect on
    /// [`Node::run_once`](crate::Node::run_once).
    pub reload_on_hangup: bool,
    /// The limits of each peer.
    pub peer_limits: PeerLimits,
    /// The limits of the protocol; their times are overwritten from `peer_timeout`.
    pub limits: Limits,
    /// The configuration of the scheduler.
    pub scheduler: LoopConfig,
}

/// The default UDP port for discovery.
pub const UDP_PORT: u16 = 51_350;

impl Default for Config {
    fn default() -> Self {
        Self {
            name: None,
            secret: None,
            key_id: 0,
            other_secrets: Vec::new(),
            secret_file: None,
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
            rci_access: AccessPolicy::all(),
            files_access: AccessPolicy::all(),
            stop_on_signals: true,
            reload_on_hangup: false,
            peer_limits: PeerLimits::default(),
            limits: Limits::default(),
            scheduler: LoopConfig::default(),
        }
    }
}

impl Config {
    /// A configuration for a test: on loopback, with a secret and a discovery port of its own. So it finds no node of another
    /// test or of a running program, even if that one has [`Config::default`]. Give a clone to each node of the test.
    ///
    /// # Panics
    /// If the system has no random numbers or no free UDP port.
    pub fn isolated() -> Self {
        let secret = crate::secret::generate().expect("the system has random numbers");
        let udp_port = Some(antiphon_sched::testing::free_udp_port());
        Self { secret: Some(secret), udp_port, ..Self::default() }
    }

    /// The UDP port for discovery.
    pub(crate) fn discovery_port(&self) -> u16 {
        match self.udp_port {
            None | Some(0) => UDP_PORT,
            Some(port) => port,
        }
    }

    /// The secrets as a keyring of the protocol.
    pub(crate) fn keyring(&self) -> Keyring {
        let Some(secret) = &self.secret else { return Keyring::none() };
        let keyring = Keyring::new(self.key_id, secret.clone());
        self.other_secrets.iter().fold(keyring, |ring, (id, secret)| ring.accepting(*id, secret.clone()))
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
