//! The configuration, checked, in the form that the core uses.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use antiphon_wire::{CLOSES_WHEN_IDLE, DatagramKey, Limits, Profile, Suite, UNDISCOVERED};

use crate::access::{AccessError, AccessPolicy};
use crate::certificates::Fingerprint;
use crate::config::Config;
use crate::error::{NodeError, SuitesFault};
use crate::location::{Location, PeerAt};
use crate::peer_limits::PeerLimits;

#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) profile: Profile,
    pub(crate) location: Location,
    pub(crate) name: String,
    pub(crate) datagram_key: Option<DatagramKey>,
    pub(crate) discover: bool,
    /// Whether connections are kept that nothing needs.
    pub(crate) stream_send: bool,
    /// Where hosts are asked who is there, unless another port is named.
    pub(crate) udp_port: u16,
    /// Of the configuration, and of actors.
    pub(crate) ignore: Vec<IpAddr>,
    pub(crate) ignored: Vec<IpAddr>,
    /// Whether nobody is met who is not met already, but by this node's own will.
    pub(crate) ignores_strangers: bool,
    pub(crate) peers: Vec<PeerAt>,
    pub(crate) dial_allow: Vec<(IpAddr, u8)>,
    pub(crate) transfers_max: usize,
    pub(crate) rci_actors_max: usize,
    pub(crate) rci_access: AccessPolicy,
    pub(crate) peer_limits: PeerLimits,
    /// The certificate that this node and all peers present, where there is one for all.
    pub(crate) shared_certificate: Option<Fingerprint>,
}

impl Settings {
    /// What can be said against a configuration before anything is opened.
    pub(crate) fn check(config: &Config) -> Result<(), NodeError> {
        let ip = config.ip;
        for ip in [Some(ip), config.ext_ip_addr].into_iter().flatten() {
            if !is_dialled(ip) {
                return Err(NodeError::UndialledIp { ip });
            }
        }
        let too_long = |(network, bits): &&(IpAddr, u8)| *bits > if network.is_ipv4() { 32 } else { 128 };
        if let Some((network, bits)) = config.dial_allow.iter().flatten().find(too_long) {
            return Err(NodeError::Network { network: *network, bits: *bits });
        }
        check_secrets(config)?;
        suites(config)?;
        let access = [&config.rci_access, &config.files_access];
        if config.certfile.is_none() && access.into_iter().any(AccessPolicy::needs_tls) {
            return Err(AccessError::NoTls.into());
        }
        if ip.is_loopback() {
            return Ok(());
        }
        let mut secrets = config.secret.iter().chain(config.other_secrets.iter().map(|(_, secret)| secret));
        // Certificates let nobody in who has none, whatever becomes of a secret beside them.
        if config.certfile.is_none() && !config.weak_secret && secrets.any(|secret| !secret.is_strong()) {
            return Err(NodeError::WeakSecret { ip });
        }
        if config.certfile.is_none() && config.secret.is_none() && !config.open {
            return Err(NodeError::NoSecret { ip });
        }
        Ok(antiphon_sched::egress::allowed(&SocketAddr::new(ip, 0))?)
    }

    /// The settings of a node that listens at `location`.
    pub(crate) fn new(
        config: &Config,
        node: u64,
        location: Location,
        own_networks: Vec<(IpAddr, u8)>,
    ) -> Result<Self, NodeError> {
        let name = config.name_at(location);
        let profile = Profile {
            node: antiphon_wire::NodeId(node),
            name: name.clone(),
            locations: locations(config.ext_ip_addr, location),
            suites: suites(config)?,
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
            ignore: config.ignore_peers.clone(),
            ignored: Vec::new(),
            ignores_strangers: false,
            peers: config.peers.clone(),
            dial_allow: config.dial_allow.clone().unwrap_or(own_networks),
            transfers_max: config.transfers_max,
            rci_actors_max: config.rci_actors_max,
            rci_access: config.rci_access.clone(),
            peer_limits: config.peer_limits,
            shared_certificate: None,
        })
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.profile.limits
    }

    /// Whether all connections are TLS, so that each peer presents a certificate.
    pub(crate) fn is_tls(&self) -> bool {
        self.profile.suites.contains(&Suite::Tls)
    }

    pub(crate) fn ignores(&self, ip: IpAddr) -> bool {
        self.ignore.iter().chain(&self.ignored).any(|other| other.to_canonical() == ip.to_canonical())
    }

    /// Whether a location is one of this node's own.
    pub(crate) fn is_own(&self, at: SocketAddr) -> bool {
        self.profile.locations.contains(&at)
    }

    /// Whether a location that another node told of, in answer to a question of this one, may be dialled: anything
    /// that a node can be at, but a node on loopback stays there.
    pub(crate) fn may_dial_asked(&self, at: SocketAddr) -> bool {
        let stays = self.location.addr().ip().is_loopback();
        at.port() != 0 && is_dialled(at.ip()) && at.ip().is_loopback() == stays && !self.ignores(at.ip())
    }

    /// Which of its locations a peer is shown at, of which `remote` is the other end of a connection: that address, if
    /// it names it, as it does of a gateway outside of that; else where it was dialled, or what might be dialled.
    pub(crate) fn shown(
        &self,
        said: &[SocketAddr],
        remote: SocketAddr,
        dialled: Option<SocketAddr>,
    ) -> Option<SocketAddr> {
        let best = said.iter().find(|at| at.ip() == remote.ip()).copied();
        let other = || said.iter().find(|at| self.may_dial(**at)).or(said.first()).copied();
        best.or(dialled).or_else(other)
    }

    /// Whether a location that another node told of may be dialled.
    pub(crate) fn may_dial(&self, at: SocketAddr) -> bool {
        at.port() != 0
            && !self.ignores(at.ip())
            && self.dial_allow.iter().any(|(network, bits)| contains(*network, *bits, at.ip().to_canonical()))
    }
}

/// Whether there can be one node at an address, and not none or many.
fn is_dialled(ip: IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// The node's own location first: who sees another address than that puts it first for itself.
fn locations(ext_ip_addr: Option<IpAddr>, location: Location) -> Vec<SocketAddr> {
    let ext = ext_ip_addr.map(|ip| SocketAddr::new(ip, location.addr().port()));
    let ext = ext.filter(|ext| *ext != location.addr());
    std::iter::once(location.addr()).chain(ext).collect()
}

/// What others should know of a node before they meet it.
fn flags(config: &Config) -> u32 {
    let undiscovered = if config.discover_peers { 0 } else { UNDISCOVERED };
    undiscovered | if config.stream_send { 0 } else { CLOSES_WHEN_IDLE }
}

/// Two secrets of one number could not be told apart; and who proves nothing itself can demand no proof.
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

/// The suites that are meant, or that the configuration names. TLS, secrets and neither exclude each other's.
fn suites(config: &Config) -> Result<Vec<Suite>, SuitesFault> {
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

fn contains(network: IpAddr, bits: u8, ip: IpAddr) -> bool {
    match (network, ip) {
        (IpAddr::V4(network), IpAddr::V4(ip)) => {
            let shift = 32u32.saturating_sub(bits.into());
            shift == 32 || (network.to_bits() ^ ip.to_bits()) >> shift == 0
        }
        (IpAddr::V6(network), IpAddr::V6(ip)) => {
            let shift = 128u32.saturating_sub(bits.into());
            shift == 128 || (network.to_bits() ^ ip.to_bits()) >> shift == 0
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_its_addresses_and_no_others() {
        let ip = |text: &str| -> IpAddr { text.parse().expect("an address") };
        for (network, bits, inside, transport) in [
            ("127.0.0.0", 8, "127.255.0.1", "128.0.0.1"),
            ("10.1.2.0", 24, "10.1.2.255", "10.1.3.0"),
            ("10.1.2.3", 32, "10.1.2.3", "10.1.2.2"),
            ("fe80::", 10, "febf::1", "fec0::1"),
            ("::1", 128, "::1", "127.0.0.1"),
        ] {
            assert!(contains(ip(network), bits, ip(inside)), "{network}/{bits} has {inside}");
            assert!(!contains(ip(network), bits, ip(transport)), "{network}/{bits} lacks {transport}");
        }
        assert!(contains(ip("0.0.0.0"), 0, ip("9.9.9.9")));
    }
}
