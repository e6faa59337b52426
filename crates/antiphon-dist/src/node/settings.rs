//! The settings: the checked configuration, in the form that the core uses.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use antiphon_sched::egress::EgressError;
use antiphon_sched::{SettingError, millis, secs};
use antiphon_wire::{CLOSES_WHEN_IDLE, DatagramKey, Limits, Profile, Suite, UNDISCOVERED};

use crate::certificates::Fingerprint;
use crate::config::Config;
use crate::credentials::Credentials;
use crate::error::{NodeError, SuitesFault};
use crate::location::{Location, PeerAt};
use crate::net::Tls;
use crate::peer_limits::PeerLimits;
use ipnet::IpNet;

#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) profile: Profile,
    pub(crate) location: Location,
    pub(crate) name: String,
    pub(crate) datagram_key: Option<DatagramKey>,
    pub(crate) discover: bool,
    /// Whether connections stay open that nothing needs.
    pub(crate) stream_send: bool,
    /// The UDP port of host probes, unless a request names another one.
    pub(crate) udp_port: u16,
    /// Addresses that the configuration ignores.
    pub(crate) ignored_by_config: Vec<IpAddr>,
    /// Addresses that actors ignore.
    pub(crate) ignored_by_actors: Vec<IpAddr>,
    /// Whether unknown nodes are ignored, unless this node connects to them by itself.
    pub(crate) ignores_unknown_nodes: bool,
    pub(crate) peers: Vec<PeerAt>,
    pub(crate) dial_allow: Vec<IpNet>,
    /// Whether `dial_allow` is from the configuration; otherwise it is the node's own networks.
    pub(crate) has_dial_allow: bool,
    pub(crate) peer_limits: PeerLimits,
    /// Whether this process may contact an address. The driver of a real node decides; a simulated network has no such limit.
    pub(crate) may_contact: fn(&SocketAddr) -> Result<(), EgressError>,
    /// The certificate that this node and all its peers share, if they do.
    pub(crate) shared_certificate: Option<Fingerprint>,
}

impl Settings {
    /// Checks a configuration before any socket is opened.
    pub(crate) fn check(config: &Config) -> Result<(), NodeError> {
        check_ranges(config)?;
        let ip = config.ip;
        for ip in [Some(ip), config.ext_ip_addr].into_iter().flatten() {
            if !is_unicast(ip) {
                return Err(NodeError::UndialableIp { ip });
            }
        }
        check_secrets(config)?;
        Self::suites(config)?;
        if ip.is_loopback() {
            return Ok(());
        }
        if Self::has_weak_secret(config) {
            return Err(NodeError::WeakSecret { ip });
        }
        if config.certfile.is_none() && config.secret.is_none() && !config.open {
            return Err(NodeError::NoSecret { ip });
        }
        Ok(antiphon_sched::egress::allowed(&SocketAddr::new(ip, 0))?)
    }

    /// Whether a secret can be guessed, and the configuration does not permit that. With certificates, a peer without one is
    /// refused, however weak the secrets are.
    pub(crate) fn has_weak_secret(config: &Config) -> bool {
        let mut secrets = config.secret.iter().chain(config.other_secrets.iter().map(|(_, secret)| secret));
        config.certfile.is_none() && !config.weak_secret && secrets.any(|secret| !secret.is_strong())
    }

    /// The settings of a node that listens at `location`.
    pub(crate) fn new(
        config: &Config,
        node: u64,
        location: Location,
        own_networks: Vec<IpNet>,
    ) -> Result<Self, NodeError> {
        let name = config.name_at(location);
        let profile = Profile {
            node: antiphon_sched::NodeId::from_bits(node),
            name: name.clone(),
            locations: locations(config.ext_ip_addr, location),
            suites: Self::suites(config)?,
            keyring: config.keyring(),
            flags: flags(config),
            limits: config.timed_limits(),
        };
        profile.check()?;
        Ok(Self {
            profile,
            location,
            name,
            datagram_key: config.keyring().datagram_key(),
            discover: config.discover_peers,
            stream_send: config.stream_send,
            udp_port: config.discovery_port(),
            ignored_by_config: config.ignore_peers.clone(),
            ignored_by_actors: Vec::new(),
            ignores_unknown_nodes: false,
            peers: config.peers.clone(),
            has_dial_allow: config.dial_allow.is_some(),
            dial_allow: config.dial_allow.clone().unwrap_or(own_networks),
            peer_limits: config.peer_limits,
            may_contact: |_| Ok(()),
            shared_certificate: None,
        })
    }

    /// The suites that the configuration names or implies. The suites of TLS, of secrets and of open nodes exclude each other.
    pub(crate) fn suites(config: &Config) -> Result<Vec<Suite>, SuitesFault> {
        let is_tls = config.certfile.is_some();
        let Some(suites) = &config.suites else {
            return Ok(match &config.secret {
                _ if is_tls => vec![Suite::Tls],
                Some(_) => Suite::aead().to_vec(),
                None => vec![Suite::Plain],
            });
        };
        let has = |suite| suites.contains(&suite);
        if is_tls && suites.iter().any(|suite| *suite != Suite::Tls) {
            Err(SuitesFault::BesidesTls)
        } else if !is_tls && has(Suite::Tls) {
            Err(SuitesFault::NoCertificate)
        } else if config.secret.is_some() && has(Suite::Plain) {
            Err(SuitesFault::PlainWithSecret)
        } else {
            Ok(suites.clone())
        }
    }

    /// Replaces the secrets and the certificates. The suites stay.
    pub(super) fn set_credentials(&mut self, credentials: &Credentials) {
        self.datagram_key = credentials.keyring.datagram_key();
        self.profile.keyring = credentials.keyring.clone();
        self.shared_certificate = credentials.tls.as_ref().and_then(Tls::shared);
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.profile.limits
    }

    /// Whether all connections are TLS, so that each peer presents a certificate.
    pub(crate) fn is_tls(&self) -> bool {
        self.profile.suites.contains(&Suite::Tls)
    }

    /// Sets the networks of the interface that the node listens on.
    pub(super) fn set_own_networks(&mut self, networks: Vec<IpNet>) {
        if !self.has_dial_allow {
            self.dial_allow = networks;
        }
    }

    pub(crate) fn ignores(&self, ip: IpAddr) -> bool {
        self.ignored_by_config
            .iter()
            .chain(&self.ignored_by_actors)
            .any(|other| other.to_canonical() == ip.to_canonical())
    }

    /// Whether a location is one of this node's own.
    pub(crate) fn is_own(&self, at: SocketAddr) -> bool {
        self.profile.locations.contains(&at)
    }

    /// Whether this node may dial a location that it requested from a peer. It may be any address of one node, but a node
    /// on loopback dials only loopback, and any other node never dials loopback.
    pub(crate) fn may_dial_requested(&self, at: SocketAddr) -> bool {
        let is_loopback = self.location.addr().ip().is_loopback();
        at.port() != 0
            && is_unicast(at.ip())
            && at.ip().is_loopback() == is_loopback
            && !self.ignores(at.ip())
    }

    /// The location that a peer is shown with. `stated` are its own locations, and `remote` is the peer's end of the
    /// connection. In order of preference: the stated location at the address of `remote` (which a peer behind a gateway
    /// also states), the location where it was dialled, a stated location that this node may dial, the first one.
    pub(crate) fn shown_location(
        &self,
        stated: &[SocketAddr],
        remote: SocketAddr,
        dialled: Option<SocketAddr>,
    ) -> Option<SocketAddr> {
        let best = stated.iter().find(|at| at.ip() == remote.ip()).copied();
        let other = || stated.iter().find(|at| self.may_dial(**at)).or(stated.first()).copied();
        best.or(dialled).or_else(other)
    }

    /// Whether this node may dial a location that it received from another node without a request.
    pub(crate) fn may_dial(&self, at: SocketAddr) -> bool {
        at.port() != 0
            && !self.ignores(at.ip())
            && self.dial_allow.iter().any(|network| network.contains(&at.ip().to_canonical()))
    }
}

/// Checks that all sizes and durations are within their ranges.
fn check_ranges(config: &Config) -> Result<(), SettingError> {
    let (kib, gib) = (1 << 10, 1 << 30);
    let limits = &config.limits;
    let message_bytes_max = limits.message_bytes_max;
    SettingError::check("peer_timeout", config.peer_timeout, secs(1)..=secs(24 * 3600))?;
    SettingError::check("limits.record_bytes_max", limits.record_bytes_max, 32 * kib..=64 * kib)?;
    SettingError::check("limits.message_bytes_max", message_bytes_max, kib..=gib)?;
    let reassembly = message_bytes_max..=u32::MAX;
    SettingError::check("limits.reassembly_bytes_max", limits.reassembly_bytes_max, reassembly)?;
    SettingError::check("limits.window_bytes", limits.window_bytes, 32 * kib..=gib)?;
    SettingError::check("limits.queue_bytes_cap", limits.queue_bytes_cap, 1 << 16..=1 << 40)?;
    SettingError::check("limits.queue_bytes_high", limits.queue_bytes_high, 1..=1 << 40)?;
    SettingError::check("limits.queue_bytes_low", limits.queue_bytes_low, 1..=1 << 40)?;
    SettingError::check("limits.tags_max", limits.tags_max, 256..=65_536)?;
    SettingError::check("limits.paused_actors_max", limits.paused_actors_max, 65_536..=1 << 24)?;
    SettingError::check("limits.connection_records_max", limits.connection_records_max, 1024..=1 << 32)?;
    SettingError::check("limits.connection_bytes_max", limits.connection_bytes_max, 1 << 20..=1 << 38)?;
    SettingError::check("limits.handshake_timeout", limits.handshake_timeout, millis(10)..=secs(60))?;
    SettingError::check("limits.unproven_connections_max", limits.unproven_connections_max, 1..=65_536)?;
    SettingError::check("limits.ack_bytes", limits.ack_bytes, 1..=u64::from(gib))?;
    SettingError::check("limits.ack_delay", limits.ack_delay, secs(0)..=secs(1))
}

/// Whether an address can belong to one node.
fn is_unicast(ip: IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// The node's own location, then its external one. A peer that reaches the node at its external location
/// lists that one first.
fn locations(ext_ip_addr: Option<IpAddr>, location: Location) -> Vec<SocketAddr> {
    let ext = ext_ip_addr.map(|ip| SocketAddr::new(ip, location.addr().port()));
    let ext = ext.filter(|ext| *ext != location.addr());
    std::iter::once(location.addr()).chain(ext).collect()
}

/// The flags of the profile, which peers receive in the handshake.
fn flags(config: &Config) -> u32 {
    let undiscovered = if config.discover_peers { 0 } else { UNDISCOVERED };
    undiscovered | if config.stream_send { 0 } else { CLOSES_WHEN_IDLE }
}

/// Checks the ids of the secrets. Two secrets with one id could not be distinguished. A node without a secret of its own
/// cannot demand a proof from its peers.
fn check_secrets(config: &Config) -> Result<(), NodeError> {
    if config.secret.is_none() && !config.other_secrets.is_empty() {
        return Err(NodeError::OnlyOtherSecrets);
    }
    let mut ids = BTreeSet::from([config.key_id]);
    match config.other_secrets.iter().find(|(id, _)| !ids.insert(*id)) {
        Some((id, _)) => Err(NodeError::SameKeyId { id: *id }),
        None => Ok(()),
    }
}
