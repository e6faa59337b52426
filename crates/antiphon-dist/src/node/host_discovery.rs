//! The host probe: finds the nodes of one host by datagrams, without their TCP ports.
//!
//! Several nodes of a host share the discovery port, and a datagram reaches one of them. This node repeats the probe to
//! its siblings, the other nodes of the host. Each node sends a reply to the address that the probe came from, with the
//! siblings that it knows.
//!
//! Invariant: a reply is no larger than its probe and goes to the address that the probe came from. The number of
//! replies a second is bounded. A reply that this node did not request is dropped unread.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use antiphon_sched::{NodeId, Time};
use antiphon_wire::{Datagram, Locations, Probe, ProbeReply, Route};

use super::NodeCore;
use super::driver::{Driver, Output};
use super::timers::NodeTimer;
use crate::location::seen_from;

/// The pauses between probes of one host: they double from the first to the last.
const PROBE_PAUSE_FIRST: Duration = Duration::from_millis(100);
const PROBE_PAUSE_LAST: Duration = Duration::from_secs(10);
/// How long a node of a configured host is dialled, unless the host lists it again.
const DIAL_FOR: Duration = Duration::from_secs(5);
/// Addresses that receive a reply within one second.
const REPLIES_PER_SECOND: usize = 64;
/// The shortest pause between two replies to one address.
const REPLY_PAUSE: Duration = Duration::from_millis(50);
/// Nodes that are dialled because of one probe.
const NODES_MAX_A_PROBE: u32 = 256;
/// Siblings that a reply lists.
const SIBLINGS_MAX: usize = 32;

#[derive(Debug, Default)]
pub(super) struct HostProbes {
    /// The hosts that are probed, by IP address and discovery port.
    probed: BTreeMap<SocketAddr, ProbedHost>,
    /// The addresses that received a reply within the last second.
    replied: BTreeMap<SocketAddr, Time>,
}

#[derive(Debug)]
struct ProbedHost {
    /// The host is probed, and its replies are accepted, until then.
    until: Time,
    attempts: u32,
    /// Nodes that it listed since the last probe, and that were not being dialled.
    new_nodes: u32,
    /// The time of the next probe.
    due: Time,
}

impl HostProbes {
    /// Whether [`REPLY_PAUSE`] and [`REPLIES_PER_SECOND`] permit a reply to an address now. Records the reply if so.
    fn may_reply(&mut self, to: SocketAddr, now: Time) -> bool {
        self.replied.retain(|_, at| now.since(*at) < Duration::from_secs(1));
        let is_late = self.replied.get(&to).is_none_or(|at| now.since(*at) >= REPLY_PAUSE);
        let has_room = self.replied.len() < REPLIES_PER_SECOND || self.replied.contains_key(&to);
        if is_late && has_room {
            self.replied.insert(to, now);
        }
        is_late && has_room
    }
}

impl NodeCore {
    /// Probes a host now, and repeats the probe until `until`.
    pub(super) fn probe_host(&mut self, host: SocketAddr, until: Time) {
        let now = self.cx.now;
        let new = ProbedHost { until, attempts: 0, new_nodes: 0, due: now };
        let probed = self.host_probes.probed.entry(host).or_insert(new);
        self.cx.timers.remove(probed.due, NodeTimer::Probe(host));
        (probed.until, probed.attempts, probed.due) = (probed.until.max(until), 0, now);
        self.cx.timers.add(now, NodeTimer::Probe(host));
    }

    /// No connect request waits for a host any longer: stops its probes, unless the host is configured.
    pub(super) fn forget_host(&mut self, host: SocketAddr) {
        if let Some(probed) = self.host_probes.probed.get(&host).filter(|probed| probed.until < Time::MAX) {
            self.cx.timers.remove(probed.due, NodeTimer::Probe(host));
            self.host_probes.probed.remove(&host);
        }
    }

    pub(super) fn on_probe_due(&mut self, host: SocketAddr, driver: &mut impl Driver) {
        let now = self.cx.now;
        let Some(probed) = self.host_probes.probed.get_mut(&host) else { return };
        if now >= probed.until || self.cx.leaving {
            self.host_probes.probed.remove(&host);
            return;
        }
        let pause = PROBE_PAUSE_FIRST.saturating_mul(1 << probed.attempts.min(16)).min(PROBE_PAUSE_LAST);
        probed.attempts += 1;
        probed.new_nodes = 0;
        probed.due = probed.until.min(now + pause);
        self.cx.timers.add(probed.due, NodeTimer::Probe(host));
        let probe = Probe { from: self.presence(), reply_to: None };
        if let Some(bytes) = self.sealed(&Datagram::Probe(probe)) {
            driver.output(Output::Ask(host, bytes));
        }
    }

    /// A node probes this host. Only a sibling may name the address that a repeated probe came from.
    pub(super) fn on_probe(&mut self, probe: &Probe<'_>, from: SocketAddr, driver: &mut impl Driver) {
        let here = self.cx.settings.location.addr().ip();
        let is_sibling = from.ip().is_loopback() || from.ip() == here;
        let to = match probe.reply_to {
            Some(to) if is_sibling => to,
            Some(_) => {
                self.cx.counts.refused_datagrams += 1;
                return;
            }
            None => from,
        };
        let is_reached = to.ip().is_loopback() || !here.is_loopback();
        if !self.cx.settings.discover
            || self.cx.settings.ignores(to.ip())
            || !self.host_probes.may_reply(to, self.cx.now)
        {
            return;
        }
        if probe.reply_to.is_none()
            && let Some(bytes) = self.sealed(&Datagram::Probe(Probe { reply_to: Some(to), ..*probe }))
        {
            driver.output(Output::Siblings(bytes));
        }
        if is_reached && probe.from.node != self.cx.me {
            let spread = self.spread(to.port().into());
            self.cx.timers.add(self.cx.now + spread, NodeTimer::ProbeReply(to));
        }
    }

    /// Sends a reply to a probe, with this node and as many of the siblings that it knows as fit.
    pub(super) fn reply_to_probe(&mut self, to: SocketAddr, driver: &mut impl Driver) {
        let here = self.cx.settings.location.addr().ip();
        let siblings = self.peers.iter().filter(|peer| {
            peer.is_online() && !peer.undiscovered && peer.shown_location.is_some_and(|at| at.ip() == here)
        });
        let siblings = siblings.map(|peer| (peer.node, peer.stated_locations.clone()));
        let mut siblings: Vec<_> = siblings.take(SIBLINGS_MAX).collect();
        loop {
            let reply = ProbeReply { from: self.presence(), siblings: Route::Plain(&siblings) };
            let mut bytes = Vec::new();
            match Datagram::ProbeReply(reply).encode(self.cx.settings.datagram_key.as_ref(), &mut bytes) {
                Ok(()) => return driver.output(Output::Datagram(to, bytes)),
                Err(reason) if siblings.pop().is_none() => {
                    return tracing::warn!(%reason, "a reply to a probe cannot be encoded");
                }
                Err(_) => {}
            }
        }
    }

    /// A probed host has sent a reply.
    pub(super) fn on_probe_reply(&mut self, reply: &ProbeReply<'_>, from: SocketAddr) {
        if !self.host_probes.probed.contains_key(&from) {
            return;
        }
        self.on_node_listed(from, reply.from.node, reply.from.locations);
        for (node, locations) in reply.siblings.iter().take(SIBLINGS_MAX) {
            self.on_node_listed(from, node, locations);
        }
    }

    /// A probed host has listed a node. Dials it on that host, or at a location that the settings allow.
    fn on_node_listed(&mut self, host: SocketAddr, node: NodeId, locations: Locations<'_>) {
        if node == self.cx.me {
            return;
        }
        let with_session = self.peers.get(node).filter(|peer| peer.peer_session.is_some());
        if let Some(at) = with_session.and_then(|peer| peer.shown_location) {
            self.found_on_host(host, at);
            return;
        }
        let is_on_host = |at: &SocketAddr| at.ip() == host.ip() && at.port() != 0;
        let best = seen_from(locations.iter(), host)
            .into_iter()
            .find(|at| is_on_host(at) || self.cx.settings.may_dial(*at));
        let Some(at) = best.filter(|at| !self.cx.settings.ignores(at.ip())) else { return };
        let Some(probed) = self.host_probes.probed.get_mut(&host) else { return };
        probed.new_nodes += u32::from(!self.dialer.has(at));
        let until = probed.until.min(self.cx.now + DIAL_FOR);
        if probed.new_nodes <= NODES_MAX_A_PROBE {
            self.found_on_host(host, at);
            self.dial_until(at, until);
        }
    }
}
