//! Who is on that host? Asked by datagrams, so that a host can be contacted without its nodes' TCP ports.
//!
//! Several nodes of a host share the port of discovery, and a datagram reaches one of them. It repeats the question to
//! its siblings within the host, and each answers where the question came from, with the siblings that it knows.
//!
//! Invariant: an answer is no larger than its question and goes where that came from; so many a second at most; what
//! is told in answers that nobody asked for is not even looked at.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use antiphon_sched::{NodeId, Time};
use antiphon_wire::{Datagram, Locations, Probe, ProbeReply, Route};

use super::driver::{Driver, Output};
use super::timers::NodeTimer;
use super::{NodeCore, sched_node, wire_node};
use crate::location::seen_from;

/// The pauses between questions to one host: they double.
const ASK_AGAIN_FIRST: Duration = Duration::from_millis(100);
const ASK_AGAIN_LAST: Duration = Duration::from_secs(10);
/// How long a node of a host that is asked for ever is dialled, before the host tells of it again.
const DIALLED_FOR: Duration = Duration::from_secs(5);
/// Addresses that are answered within a second, and how soon one of them is answered again.
const ANSWERS_A_SECOND: usize = 64;
const ANSWER_AGAIN: Duration = Duration::from_millis(50);
/// Nodes that are dialled in answer to one question.
const TOLD_MAX: u32 = 256;
/// Siblings that an answer names.
const SIBLINGS_MAX: usize = 32;

#[derive(Debug, Default)]
pub(super) struct HostProbes {
    /// Hosts that are asked: the address and port where their nodes hear it.
    asked: BTreeMap<SocketAddr, ProbedHost>,
    /// Who was answered within the last second.
    answered: BTreeMap<SocketAddr, Time>,
}

#[derive(Debug)]
struct ProbedHost {
    /// Asked, and answers heeded, until then.
    until: Time,
    attempts: u32,
    /// Nodes that it told of since it was asked last, and that were not being dialled.
    told: u32,
    /// When it is on the agenda.
    due: Time,
}

impl HostProbes {
    /// Whether an address is to be answered now: each only so often, and not too many.
    fn may_answer(&mut self, to: SocketAddr, now: Time) -> bool {
        self.answered.retain(|_, at| now.since(*at) < Duration::from_secs(1));
        let is_late = self.answered.get(&to).is_none_or(|at| now.since(*at) >= ANSWER_AGAIN);
        let has_room = self.answered.len() < ANSWERS_A_SECOND || self.answered.contains_key(&to);
        if is_late && has_room {
            self.answered.insert(to, now);
        }
        is_late && has_room
    }
}

impl NodeCore {
    /// Asks a host who is there, now and again until then.
    pub(super) fn probe_host(&mut self, host: SocketAddr, until: Time) {
        let now = self.now;
        let asked =
            self.probes.asked.entry(host).or_insert(ProbedHost { until, attempts: 0, told: 0, due: now });
        self.timers.remove(asked.due, NodeTimer::Probe(host));
        (asked.until, asked.attempts, asked.due) = (asked.until.max(until), 0, now);
        self.timers.add(now, NodeTimer::Probe(host));
    }

    /// No call of `peer` waits for a host any longer: it is asked further only if the configuration says so.
    pub(super) fn forget_host(&mut self, host: SocketAddr) {
        if let Some(asked) = self.probes.asked.get(&host).filter(|asked| asked.until < Time::MAX) {
            self.timers.remove(asked.due, NodeTimer::Probe(host));
            self.probes.asked.remove(&host);
        }
    }

    pub(super) fn on_probe_due(&mut self, host: SocketAddr, driver: &mut impl Driver) {
        let now = self.now;
        let Some(asked) = self.probes.asked.get_mut(&host) else { return };
        if now >= asked.until || self.leaving {
            self.probes.asked.remove(&host);
            return;
        }
        let pause = ASK_AGAIN_FIRST.saturating_mul(1 << asked.attempts.min(16)).min(ASK_AGAIN_LAST);
        asked.attempts += 1;
        asked.told = 0;
        asked.due = asked.until.min(now + pause);
        self.timers.add(asked.due, NodeTimer::Probe(host));
        let probe = Probe { from: self.presence(), reply_to: None };
        if let Some(bytes) = self.sealed(&Datagram::Probe(probe)) {
            driver.output(Output::Ask(host, bytes));
        }
    }

    /// Somebody asks who is here. Of a question that was repeated, only a sibling can say where it came from.
    pub(super) fn on_probe(&mut self, probe: &Probe<'_>, from: SocketAddr, driver: &mut impl Driver) {
        let here = self.settings.location.addr().ip();
        let is_sibling = from.ip().is_loopback() || from.ip() == here;
        let to = match probe.reply_to {
            Some(to) if is_sibling => to,
            Some(_) => {
                self.counts.refused_datagrams += 1;
                return;
            }
            None => from,
        };
        let is_reached = to.ip().is_loopback() || !here.is_loopback();
        if !self.settings.discover || self.settings.ignores(to.ip()) || !self.probes.may_answer(to, self.now)
        {
            return;
        }
        if probe.reply_to.is_none()
            && let Some(bytes) = self.sealed(&Datagram::Probe(Probe { reply_to: Some(to), ..*probe }))
        {
            driver.output(Output::Siblings(bytes));
        }
        if is_reached && sched_node(probe.from.node) != self.me {
            let spread = self.spread(to.port().into());
            self.timers.add(self.now + spread, NodeTimer::Answer(to));
        }
    }

    /// Tells that this node is here, with the siblings that it knows, as many as fit.
    pub(super) fn answer_probe(&mut self, to: SocketAddr, driver: &mut impl Driver) {
        let here = self.settings.location.addr().ip();
        let siblings = self.peers.iter().filter(|(_, peer)| {
            peer.is_online() && !peer.undiscovered && peer.told.is_some_and(|at| at.ip() == here)
        });
        let siblings = siblings.map(|(node, peer)| (wire_node(*node), peer.said.clone()));
        let mut siblings: Vec<_> = siblings.take(SIBLINGS_MAX).collect();
        loop {
            let answer = ProbeReply { from: self.presence(), siblings: Route::Plain(&siblings) };
            let mut bytes = Vec::new();
            match Datagram::ProbeReply(answer).encode(self.settings.datagram_key.as_ref(), &mut bytes) {
                Ok(()) => return driver.output(Output::Datagram(to, bytes)),
                Err(reason) if siblings.pop().is_none() => {
                    return tracing::warn!(%reason, "this node cannot tell where it is");
                }
                Err(_) => {}
            }
        }
    }

    /// A host that was asked answers.
    pub(super) fn on_probe_answered(&mut self, answer: &ProbeReply<'_>, from: SocketAddr) {
        if !self.probes.asked.contains_key(&from) {
            return;
        }
        self.find_at(from, sched_node(answer.from.node), answer.from.locations);
        for (node, locations) in answer.siblings.iter().take(SIBLINGS_MAX) {
            self.find_at(from, sched_node(node), locations);
        }
    }

    /// A node of a host that was asked: dialled on that host, or where the configuration allows.
    fn find_at(&mut self, host: SocketAddr, node: NodeId, locations: Locations<'_>) {
        if node == self.me {
            return;
        }
        let linked = self.peers.get(&node).filter(|peer| peer.peer_session.is_some());
        if let Some(at) = linked.and_then(|peer| peer.told) {
            self.found_on_host(host, at);
            return;
        }
        let is_there = |at: &SocketAddr| at.ip() == host.ip() && at.port() != 0;
        let best = seen_from(locations.iter(), host)
            .into_iter()
            .find(|at| is_there(at) || self.settings.may_dial(*at));
        let Some(at) = best.filter(|at| !self.settings.ignores(at.ip())) else { return };
        let Some(asked) = self.probes.asked.get_mut(&host) else { return };
        asked.told += u32::from(!self.dials.has(at));
        let until = asked.until.min(self.now + DIALLED_FOR);
        if asked.told <= TOLD_MAX {
            self.found_on_host(host, at);
            self.dial_once(at, until);
        }
    }
}
