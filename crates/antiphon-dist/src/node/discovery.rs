//! Discovery: nodes find each other by announcements on a shared UDP port.
//!
//! A datagram is a hint. It can cause one dial at most, and the dialer limits these dials per second.

use std::net::SocketAddr;
use std::time::Duration;

use antiphon_wire::{Datagram, DatagramError, Locations, Presence};

use super::NodeCore;
use super::driver::{Driver, Output};
use super::peer::Peer;
use super::timers::NodeTimer;
use crate::location::seen_from;

/// The first pauses between announcements. They are short, because other nodes may start at the same moment.
const ANNOUNCE_AFTER: [Duration; 3] =
    [Duration::from_millis(200), Duration::from_millis(800), Duration::from_secs(3)];
/// The pause between later announcements.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(10);
/// Dials of announced nodes and replies to probes wait for a random time. Its maximum is this for each known peer.
const SPREAD: Duration = Duration::from_millis(1);
/// With fewer peers than this, there is no wait.
const SPREAD_OVER: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Discovery {
    /// The number of announcements so far.
    announced: usize,
}

impl NodeCore {
    /// Broadcasts an announcement of this node, and sets the timer of the next one.
    pub(super) fn announce(&mut self, driver: &mut impl Driver) {
        if !self.cx.settings.discover || self.cx.leaving {
            return;
        }
        self.broadcast(&Datagram::Announce(self.presence()), driver);
        let pause = ANNOUNCE_AFTER.get(self.discovery.announced).copied().unwrap_or(ANNOUNCE_EVERY);
        self.discovery.announced += 1;
        self.cx.timers.add(self.cx.now + pause, NodeTimer::Announce);
    }

    pub(super) fn broadcast_bye(&mut self, driver: &mut impl Driver) {
        if self.cx.settings.discover {
            self.broadcast(&Datagram::Bye { node: self.cx.me }, driver);
        }
    }

    /// The id, name and locations of this node.
    pub(super) fn presence(&self) -> Presence<'_> {
        Presence {
            node: self.cx.me,
            name: &self.cx.settings.name,
            locations: Locations::Plain(&self.cx.settings.profile.locations),
        }
    }

    pub(super) fn broadcast(&self, datagram: &Datagram<'_>, driver: &mut impl Driver) {
        if let Some(bytes) = self.sealed(datagram) {
            driver.output(Output::Broadcast(bytes));
        }
    }

    /// The bytes of a datagram, with the tag that proves the secret.
    pub(super) fn sealed(&self, datagram: &Datagram<'_>) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        match datagram.encode(self.cx.settings.datagram_key.as_ref(), &mut bytes) {
            Ok(()) => Some(bytes),
            Err(reason) => {
                tracing::warn!(%reason, "a datagram cannot be sent");
                None
            }
        }
    }

    pub(super) fn on_datagram(&mut self, from: SocketAddr, bytes: &[u8], driver: &mut impl Driver) {
        if self.cx.settings.ignores(from.ip()) || self.cx.leaving {
            return;
        }
        match Datagram::decode(self.cx.settings.datagram_key.as_ref(), bytes) {
            Ok(Datagram::Announce(_) | Datagram::Probe(_)) if self.cx.settings.ignores_unknown_nodes => {}
            Ok(Datagram::Announce(presence)) => self.on_announce(&presence, from),
            Ok(Datagram::Probe(probe)) => self.on_probe(&probe, from, driver),
            Ok(Datagram::ProbeReply(reply)) => self.on_probe_reply(&reply, from),
            // A leaving peer sends a goodbye in its session. A datagram ends no session.
            Ok(Datagram::Bye { .. }) => {}
            Err(reason) => self.refuse_datagram(from, &reason),
        }
    }

    fn on_announce(&mut self, presence: &Presence<'_>, from: SocketAddr) {
        let node = presence.node;
        // A node that was never met may have been named at a location where another one is.
        let is_replaced = |peer: &Peer| peer.replaced_by_restart && peer.status.is_some();
        let known = self
            .peers
            .get(node)
            .is_some_and(|peer| peer.peer_session.is_some() || is_replaced(peer) || peer.no_auto_dial);
        if !self.cx.settings.discover || node == self.cx.me || known {
            return;
        }
        let spread = self.spread(node.to_bits());
        for at in seen_from(presence.locations.iter(), from) {
            if self.dial_hint(node, at, from, spread) {
                return;
            }
        }
    }

    /// The wait that spreads the nodes which react to the same datagram over time.
    pub(super) fn spread(&self, about: u64) -> Duration {
        if self.peers.len() < SPREAD_OVER {
            return Duration::ZERO;
        }
        let most = SPREAD * u32::try_from(self.peers.len()).unwrap_or(u32::MAX);
        most.mul_f64((self.cx.me.to_bits() ^ about) as f64 / u64::MAX as f64)
    }

    fn refuse_datagram(&mut self, from: SocketAddr, reason: &DatagramError) {
        self.cx.counts.refused_datagrams += 1;
        if self.cx.may_log("datagram", format_args!("{} {reason}", from.ip())) {
            tracing::warn!(%from, %reason, "a datagram was dropped (logged at most once an hour)");
        }
    }
}
