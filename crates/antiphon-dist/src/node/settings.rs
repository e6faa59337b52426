//! The configuration, checked, in the form that the core uses.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use antiphon_wire::{DatagramKey, Limits, Profile, Suite};

use crate::config::Config;
use crate::error::{NodeError, SuitesFault};
use crate::location::{Location, PeerAt};

#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) profile: Profile,
    pub(crate) location: Location,
    pub(crate) name: String,
    pub(crate) datagram_key: Option<DatagramKey>,
    pub(crate) discover: bool,
    pub(crate) ignore: Vec<IpAddr>,
    pub(crate) peers: Vec<PeerAt>,
    pub(crate) dial_allow: Vec<(IpAddr, u8)>,
}

impl Settings {
    /// What can be said against a configuration before anything is opened.
    pub(crate) fn check(config: &Config) -> Result<(), NodeError> {
        let ip = config.ip;
        if ip.is_unspecified() {
            return Err(NodeError::UnspecifiedIp { ip });
        }
        check_secrets(config)?;
        suites(config)?;
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
            locations: vec![location.addr()],
            suites: suites(config)?,
            keyring: config.keyring(),
            flags: 0,
            limits: config.timed_limits(),
        };
        profile.check()?;
        Ok(Self {
            profile,
            location,
            name,
            datagram_key: config.keyring().datagram_key(),
            discover: config.discover_peers,
            ignore: config.ignore_peers.clone(),
            peers: config.peers.clone(),
            dial_allow: config.dial_allow.clone().unwrap_or(own_networks),
        })
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.profile.limits
    }

    pub(crate) fn ignores(&self, ip: IpAddr) -> bool {
        self.ignore.iter().any(|other| other.to_canonical() == ip.to_canonical())
    }

    /// Whether a location that another node told of may be dialled.
    pub(crate) fn may_dial(&self, at: SocketAddr) -> bool {
        at.port() != 0
            && !self.ignores(at.ip())
            && self.dial_allow.iter().any(|(network, bits)| contains(*network, *bits, at.ip().to_canonical()))
    }
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
        for (network, bits, inside, outside) in [
            ("127.0.0.0", 8, "127.255.0.1", "128.0.0.1"),
            ("10.1.2.0", 24, "10.1.2.255", "10.1.3.0"),
            ("10.1.2.3", 32, "10.1.2.3", "10.1.2.2"),
            ("fe80::", 10, "febf::1", "fec0::1"),
            ("::1", 128, "::1", "127.0.0.1"),
        ] {
            assert!(contains(ip(network), bits, ip(inside)), "{network}/{bits} has {inside}");
            assert!(!contains(ip(network), bits, ip(outside)), "{network}/{bits} lacks {outside}");
        }
        assert!(contains(ip("0.0.0.0"), 0, ip("9.9.9.9")));
    }
}
