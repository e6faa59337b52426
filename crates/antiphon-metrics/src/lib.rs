//! Exports the counters of an Antiphon node to the [`metrics`] facade, for any recorder: Prometheus, StatsD and others.
//!
//! [`Exporter`] is an actor. Spawn it in the node, and install a recorder of your choice:
//!
//! ```
//! use antiphon_dist::{Config, Node};
//! use antiphon_metrics::Exporter;
//! use antiphon_sched::secs;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut node = Node::new(Config { discover_peers: false, ..Config::default() })?;
//! node.spawn_actor(Exporter::new(secs(10)));
//! # Ok(())
//! # }
//! ```
//!
//! | name | kind | meaning |
//! |---|---|---|
//! | `antiphon_loop_lag_seconds` | gauge | the most that a timer of 20 ms was late since the last export: a step that blocks the loop for 100 ms shows as 80 to 100 ms |
//! | `antiphon_actors`, `antiphon_actors_runnable` | gauge | actors; those with something to do |
//! | `antiphon_requests_open`, `antiphon_timers`, `antiphon_sockets` | gauge | open requests, running timers, sockets of actors |
//! | `antiphon_inbox_messages` | gauge | messages and requests of other threads that are not delivered yet |
//! | `antiphon_steps_total`, `antiphon_slow_steps_total` | counter | steps; those over the limit of the watchdog |
//! | `antiphon_dead_letters_total` | counter | dead letters, by `reason` |
//! | `antiphon_mailboxes_long` | gauge | actors with more messages than [`Exporter::mailbox_threshold`] |
//! | `antiphon_mailbox_messages` | gauge | the messages of such an actor, by `actor`: only actors with a name from `cx.set_name` |
//! | `antiphon_actor_busy_seconds` | gauge | the sampled time of the steps of an actor since its start, by `actor`: only named actors, and only with `LoopConfig::actor_activity`; actors of one name are added up |
//! | `antiphon_peers_known`, `antiphon_peers_online` | gauge | known nodes; those that are reachable |
//! | `antiphon_connections`, `antiphon_backlog_bytes` | gauge | open connections; bytes of peers that wait for full mailboxes |
//! | `antiphon_sent_bytes_total`, `antiphon_received_bytes_total` | counter | bytes on connections with peers |
//! | `antiphon_refused_total` | counter | refusals to peers, by `kind`; `handshakes`, `datagrams` and `messages` count those of non-members too |
//! | `antiphon_sessions_misbehaved_total`, `antiphon_sessions_unresponsive_total` | counter | sessions that ended because the peer broke the protocol, or took no answers |
//! | `antiphon_connections_broken_total` | counter | connections with damaged records |
//! | `antiphon_dials_without_descriptors_total` | counter | dials that were not made, because the last descriptors are kept for accepting |

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use antiphon_dist::{Counts, NetCx};
use antiphon_sched::{
    Actor, ActorCursor, ActorInfo, ActorPage, Cx, Event, LoopStats, Step, Time, receive_within,
};
use metrics::{counter, gauge};

/// Actors with a label of their own. Further ones are only counted.
const LABELS_MAX: usize = 1000;
/// The longest time between two measurements of the lag.
const LAG_INTERVAL: Duration = Duration::from_millis(20);

/// An actor that exports the counters of its node at intervals. It is a daemon, so it does not keep the node running. In a loop
/// without a node, the figures of peers are 0.
#[derive(Debug)]
pub struct Exporter {
    interval: Duration,
    mailbox_threshold: usize,
    /// When the next export is due.
    due: Time,
    /// When the next event `Timeout` is due: at the next export, or earlier to measure the lag.
    wake: Time,
    /// The most that a `Timeout` was late since the last export.
    lag_max: Duration,
    /// The page of actors that comes next in the present export.
    next: Option<ActorCursor>,
    /// Mailboxes over the threshold that the present export has found.
    long: usize,
    /// The labels of the last export, and those of the present one.
    labels: BTreeSet<String>,
    new_labels: BTreeSet<String>,
    /// The busy times of named actors: those of the last export, and those of the present one.
    busy: BTreeMap<String, Duration>,
    new_busy: BTreeMap<String, Duration>,
}

/// The message of an [`Exporter`] to itself: there are more actors to look at.
#[derive(Debug)]
pub struct NextPage(());

impl Exporter {
    /// Exports once per `interval`, which is at least 10 ms.
    pub fn new(interval: Duration) -> Self {
        Self {
            interval: interval.max(Duration::from_millis(10)),
            mailbox_threshold: 1000,
            due: Time::ZERO,
            wake: Time::ZERO,
            lag_max: Duration::ZERO,
            next: None,
            long: 0,
            labels: BTreeSet::new(),
            new_labels: BTreeSet::new(),
            busy: BTreeMap::new(),
            new_busy: BTreeMap::new(),
        }
    }

    /// Shows the actors with more than `messages` messages and events in their mailboxes; 1,000 by default.
    #[must_use]
    pub fn mailbox_threshold(self, messages: usize) -> Self {
        Self { mailbox_threshold: messages, ..self }
    }

    fn export(&mut self, cx: &mut Cx<'_, NextPage>) {
        gauge!("antiphon_loop_lag_seconds").set(std::mem::take(&mut self.lag_max).as_secs_f64());
        export_loop(&cx.stats());
        export_node(&cx.counts());
        (self.next, self.long) = (None, 0);
        self.export_page(cx);
    }

    /// Looks at one page of actors. Each further page waits for its turn, so that other actors run between them.
    fn export_page(&mut self, cx: &mut Cx<'_, NextPage>) {
        let ActorPage { actors, next, .. } = cx.actors(self.next);
        for actor in actors {
            self.add_busy(&actor);
            if actor.mailbox <= self.mailbox_threshold {
                continue;
            }
            self.long += 1;
            if actor.is_named && self.new_labels.len() < LABELS_MAX {
                gauge!("antiphon_mailbox_messages", "actor" => actor.name.clone()).set(actor.mailbox as f64);
                self.new_labels.insert(actor.name);
            }
        }
        self.next = next;
        if next.is_some() {
            return cx.push_self(NextPage(()));
        }
        gauge!("antiphon_mailboxes_long").set(self.long as f64);
        for gone in self.labels.difference(&self.new_labels) {
            gauge!("antiphon_mailbox_messages", "actor" => gone.clone()).set(0.0);
        }
        self.labels = std::mem::take(&mut self.new_labels);
        for (actor, busy) in &self.new_busy {
            gauge!("antiphon_actor_busy_seconds", "actor" => actor.clone()).set(busy.as_secs_f64());
        }
        for gone in self.busy.keys().filter(|actor| !self.new_busy.contains_key(*actor)) {
            gauge!("antiphon_actor_busy_seconds", "actor" => gone.clone()).set(0.0);
        }
        self.busy = std::mem::take(&mut self.new_busy);
    }

    /// Adds the busy time of an actor to that of its name.
    fn add_busy(&mut self, actor: &ActorInfo) {
        let Some(activity) = actor.activity.filter(|_| actor.is_named) else { return };
        if let Some(sum) = self.new_busy.get_mut(&actor.name) {
            *sum += activity.busy;
        } else if self.new_busy.len() < LABELS_MAX {
            self.new_busy.insert(actor.name.clone(), activity.busy);
        }
    }

    /// Measures how late this `Timeout` is, and exports if that is due.
    fn timeout(&mut self, cx: &mut Cx<'_, NextPage>) {
        self.lag_max = self.lag_max.max(cx.now().since(self.wake));
        let is_due = cx.now() >= self.due;
        if is_due {
            self.due = cx.now() + self.interval;
        }
        self.wake = self.due.min(cx.now() + LAG_INTERVAL);
        // Unless the export before has not looked at all actors yet.
        if is_due && self.next.is_none() {
            self.export(cx);
        }
    }
}

impl Actor<NextPage> for Exporter {
    fn step(&mut self, cx: &mut Cx<'_, NextPage>, event: Event<NextPage>) -> Step<NextPage> {
        match event {
            Event::Start => {
                cx.set_daemon(true);
                cx.set_name("metrics exporter");
                self.due = cx.now();
                self.wake = cx.now();
                self.timeout(cx);
            }
            Event::Timeout => self.timeout(cx),
            Event::Message(NextPage(())) => self.export_page(cx),
            _ => {}
        }
        receive_within(self.wake.since(cx.now()))
    }
}

fn export_loop(stats: &LoopStats) {
    gauge!("antiphon_actors").set(stats.actors as f64);
    gauge!("antiphon_actors_runnable").set(stats.runnable as f64);
    gauge!("antiphon_requests_open").set(stats.requests as f64);
    gauge!("antiphon_timers").set(stats.timers as f64);
    gauge!("antiphon_sockets").set(stats.sockets as f64);
    gauge!("antiphon_inbox_messages").set(stats.inbox as f64);
    counter!("antiphon_steps_total").absolute(stats.steps);
    counter!("antiphon_slow_steps_total").absolute(stats.slow_steps);
    let by_reason = &stats.dead_letters_by_reason;
    for (reason, count) in [
        ("no_actor", by_reason.no_actor),
        ("full", by_reason.full),
        ("busy", by_reason.busy),
        ("wrong_type", by_reason.wrong_type),
        ("no_node", by_reason.no_node),
        ("too_large", by_reason.too_large),
        ("encode", by_reason.encode),
        ("decode", by_reason.decode),
        ("dropped", by_reason.dropped),
        ("discarded", by_reason.discarded),
    ] {
        counter!("antiphon_dead_letters_total", "reason" => reason).absolute(count);
    }
}

fn export_node(counts: &Counts) {
    gauge!("antiphon_peers_known").set(counts.peers as f64);
    gauge!("antiphon_peers_online").set(counts.online as f64);
    gauge!("antiphon_connections").set(counts.connections as f64);
    gauge!("antiphon_backlog_bytes").set(counts.backlog_bytes as f64);
    counter!("antiphon_sent_bytes_total").absolute(counts.bytes_sent);
    counter!("antiphon_received_bytes_total").absolute(counts.bytes_received);
    counter!("antiphon_sessions_misbehaved_total").absolute(counts.misbehaved);
    counter!("antiphon_sessions_unresponsive_total").absolute(counts.unresponsive);
    counter!("antiphon_connections_broken_total").absolute(counts.broken_connections);
    counter!("antiphon_dials_without_descriptors_total").absolute(counts.dials_without_descriptors);
    let refusals = &counts.refusals;
    for (kind, count) in [
        ("handshakes", counts.refused_handshakes),
        ("datagrams", counts.refused_datagrams),
        ("messages", counts.refused_messages),
        ("access", refusals.access),
        ("certificates", refusals.certificates),
        ("lookups", refusals.lookups),
        ("monitors", refusals.monitors),
        ("requests", refusals.requests),
        ("routes", refusals.routes),
        ("dials", refusals.dials),
        ("subscriptions", refusals.subscriptions),
        ("rci_actors", refusals.rci_actors),
        ("files", refusals.files),
        ("file_paths", refusals.file_paths),
    ] {
        counter!("antiphon_refused_total", "kind" => kind).absolute(count);
    }
}
