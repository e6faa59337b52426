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

use antiphon_sched::Time;
use antiphon_wire::{Datagram, Probe, ProbeReply, Route};

use super::spread;
use crate::node::context::NodeCx;
use crate::node::driver::{Driver, Output};
use crate::node::peers::Peers;
use crate::node::timers::NodeTimer;

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
pub(in crate::node) const SIBLINGS_MAX: usize = 32;

#[derive(Debug, Default)]
pub(in crate::node) struct HostProbes {
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

impl HostProbes {
    /// Probes a host now, and repeats the probe until `until`.
    pub(in crate::node) fn probe_host(&mut self, cx: &mut NodeCx, host: SocketAddr, until: Time) {
        let now = cx.now;
        let new = ProbedHost { until, attempts: 0, new_nodes: 0, due: now };
        let probed = self.probed.entry(host).or_insert(new);
        cx.timers.remove(probed.due, NodeTimer::Probe(host));
        (probed.until, probed.attempts, probed.due) = (probed.until.max(until), 0, now);
        cx.timers.add(now, NodeTimer::Probe(host));
    }

    /// No connect request waits for a host any longer: stops its probes, unless the host is configured.
    pub(in crate::node) fn forget_host(&mut self, cx: &mut NodeCx, host: SocketAddr) {
        if let Some(probed) = self.probed.get(&host).filter(|probed| probed.until < Time::MAX) {
            cx.timers.remove(probed.due, NodeTimer::Probe(host));
            self.probed.remove(&host);
        }
    }

    pub(in crate::node) fn on_probe_due(
        &mut self,
        cx: &mut NodeCx,
        host: SocketAddr,
        driver: &mut impl Driver,
    ) {
        let now = cx.now;
        let Some(probed) = self.probed.get_mut(&host) else { return };
        if now >= probed.until || cx.leaving {
            self.probed.remove(&host);
            return;
        }
        let pause = PROBE_PAUSE_FIRST.saturating_mul(1 << probed.attempts.min(16)).min(PROBE_PAUSE_LAST);
        probed.attempts += 1;
        probed.new_nodes = 0;
        probed.due = probed.until.min(now + pause);
        cx.timers.add(probed.due, NodeTimer::Probe(host));
        let probe = Probe { from: cx.presence(), reply_to: None };
        if let Some(bytes) = cx.sealed(&Datagram::Probe(probe)) {
            driver.output(Output::Ask(host, bytes));
        }
    }

    /// A node probes this host. Only a sibling may name the address that a repeated probe came from.
    pub(in crate::node) fn on_probe(
        &mut self,
        cx: &mut NodeCx,
        peers: &Peers,
        probe: &Probe<'_>,
        from: SocketAddr,
        driver: &mut impl Driver,
    ) {
        let here = cx.settings.location.addr().ip();
        let is_sibling = from.ip().is_loopback() || from.ip() == here;
        let to = match probe.reply_to {
            Some(to) if is_sibling => to,
            Some(_) => {
                cx.counts.refused_datagrams += 1;
                return;
            }
            None => from,
        };
        let is_reached = to.ip().is_loopback() || !here.is_loopback();
        if !cx.settings.discover || cx.settings.ignores(to.ip()) || !self.may_reply(to, cx.now) {
            return;
        }
        if probe.reply_to.is_none()
            && let Some(bytes) = cx.sealed(&Datagram::Probe(Probe { reply_to: Some(to), ..*probe }))
        {
            driver.output(Output::Siblings(bytes));
        }
        if is_reached && probe.from.node != cx.me {
            let spread = spread(cx, peers, to.port().into());
            cx.timers.add(cx.now + spread, NodeTimer::ProbeReply(to));
        }
    }

    /// Sends a reply to a probe, with this node and as many of the siblings that it knows as fit.
    pub(in crate::node) fn reply_to_probe(
        &self,
        cx: &NodeCx,
        peers: &Peers,
        to: SocketAddr,
        driver: &mut impl Driver,
    ) {
        let here = cx.settings.location.addr().ip();
        let siblings = peers.iter().filter(|peer| {
            peer.is_online() && !peer.undiscovered && peer.shown_location.is_some_and(|at| at.ip() == here)
        });
        let siblings = siblings.map(|peer| (peer.node, peer.stated_locations.clone()));
        let mut siblings: Vec<_> = siblings.take(SIBLINGS_MAX).collect();
        loop {
            let reply = ProbeReply { from: cx.presence(), siblings: Route::Plain(&siblings) };
            let mut bytes = Vec::new();
            match Datagram::ProbeReply(reply).encode(cx.settings.datagram_key.as_ref(), &mut bytes) {
                Ok(()) => return driver.output(Output::Datagram(to, bytes)),
                Err(reason) if siblings.pop().is_none() => {
                    return tracing::warn!(%reason, "a reply to a probe cannot be encoded");
                }
                Err(_) => {}
            }
        }
    }

    /// Whether a host is probed, so that a reply of it is expected.
    pub(in crate::node) fn is_probed(&self, host: SocketAddr) -> bool {
        self.probed.contains_key(&host)
    }

    /// A probed host has listed a node; `is_new`: its location is not dialled yet. Returns until when to dial it, if it may be
    /// dialled.
    pub(in crate::node) fn note_listed(
        &mut self,
        cx: &NodeCx,
        host: SocketAddr,
        is_new: bool,
    ) -> Option<Time> {
        let probed = self.probed.get_mut(&host)?;
        probed.new_nodes += u32::from(is_new);
        let until = probed.until.min(cx.now + DIAL_FOR);
        (probed.new_nodes <= NODES_MAX_A_PROBE).then_some(until)
    }
}
