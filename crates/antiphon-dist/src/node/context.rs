//! What the parts of a node share beside the table of peers: settings, time, timers, log, counters, and what counts for all peers
//! together. A peer gets it as an argument, and so never sees another peer.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::Duration;

use antiphon_sched::{NodeId, Time};
use antiphon_wire as wire;
use antiphon_wire::{Datagram, Locations, Presence};

use super::awaited_replies::AwaitedReplies;
use super::connections::Connections;
use super::driver::{Driver, Output};
use super::ended_sessions::EndedSessions;
use super::log_throttle::LogThrottle;
use super::peer::mailbox_budget::AllBudgets;
use super::peer::session::PREDECESSOR_WITHIN;
use super::receipts::PendingReceipts;
use super::registry::access_table::AccessTable;
use super::settings::Settings;
use super::timers::TimerQueue;
use super::{Counts, LoopAction};
use crate::error::DeliverError;

#[derive(Debug)]
pub(super) struct NodeCx {
    pub(super) me: NodeId,
    pub(super) now: Time,
    pub(super) settings: Settings,
    pub(super) timers: TimerQueue,
    pub(super) log: LogThrottle,
    pub(super) counts: Counts,
    /// See [`NodeCore::steps`](super::NodeCore::steps).
    pub(super) steps: u64,
    /// The last number given to a host query, receipt or lookup.
    pub(super) last_number: u64,
    pub(super) leaving: bool,
    /// Actions that wait for the next call with access to the loop.
    pub(super) loop_actions: Vec<LoopAction>,
    pub(super) access: AccessTable,
    pub(super) receipts: PendingReceipts,
    pub(super) replies: AwaitedReplies,
    pub(super) ended_sessions: EndedSessions,
    /// The source of the epochs of this node's sessions.
    pub(super) epochs: wire::Epochs,
    pub(super) connections: Connections,
    pub(super) budgets: AllBudgets,
    pub(super) queues: AllQueues,
    pub(super) work: PeersWithWork,
}

/// The queues to all peers together.
#[derive(Debug, Default)]
pub(super) struct AllQueues {
    /// Bytes that wait to be transmitted, or for a session. Each peer counts its own by `Peer::count_queue`.
    pub(super) bytes: u64,
    /// Messages were refused because of `bytes`.
    pub(super) has_refused: bool,
}

/// The peers for which the node has something to do.
#[derive(Debug, Default)]
pub(super) struct PeersWithWork {
    /// Those with a session that may have frames to transmit, each once.
    pub(super) dirty: Vec<NodeId>,
    /// Those whose credit is held because they use too many bytes.
    pub(super) holding_credit: BTreeSet<NodeId>,
    /// Those at which senders wait for room; perhaps some more.
    pub(super) with_room_waiters: BTreeSet<NodeId>,
}

impl NodeCx {
    pub(super) fn new(me: NodeId, settings: Settings) -> Self {
        Self {
            me,
            now: Time::ZERO,
            settings,
            timers: TimerQueue::default(),
            log: LogThrottle::default(),
            counts: Counts::default(),
            steps: 0,
            last_number: 0,
            leaving: false,
            loop_actions: Vec::new(),
            access: AccessTable::default(),
            receipts: PendingReceipts::default(),
            replies: AwaitedReplies::default(),
            ended_sessions: EndedSessions::default(),
            epochs: wire::Epochs::default(),
            connections: Connections::default(),
            budgets: AllBudgets::default(),
            queues: AllQueues::default(),
            work: PeersWithWork::default(),
        }
    }

    /// A number for a host query, receipt or lookup.
    pub(super) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Whether a line may be logged now; see [`LogThrottle::may`].
    pub(super) fn may_log(&mut self, kind: &'static str, about: impl Display) -> bool {
        self.log.may(self.now, kind, about)
    }

    /// How long a peer may take to answer [`Peer::inquire`](super::peer::Peer::inquire): connections that wait for it must not time out before.
    pub(super) fn answer_within(&self) -> Duration {
        PREDECESSOR_WITHIN.min(self.settings.limits().handshake_timeout / 2)
    }

    /// Makes the changes to the loop that have waited for access to it.
    pub(super) fn run_loop_actions(&mut self, driver: &mut impl Driver) {
        for action in std::mem::take(&mut self.loop_actions) {
            self.steps += 1;
            match action {
                LoopAction::Down { watcher, id, actor, reason } => {
                    driver.local().signals().down(watcher, id, actor, reason)
                }
                LoopAction::FailRequest(request_id, reason) => {
                    driver.local().requests().fail(request_id, reason)
                }
                LoopAction::DeadLetter(dead_letter) => driver.local().dead_letter(dead_letter),
                LoopAction::FailReceipt(receipt_number, reason) => {
                    let result = Err(DeliverError::Refused(reason));
                    self.receipts.complete(receipt_number, result, &mut self.timers, driver);
                }
                LoopAction::Writable(writer, target) => driver.local().mailboxes().writable(writer, target),
            }
        }
    }

    /// The id, name and locations of this node.
    pub(super) fn presence(&self) -> Presence<'_> {
        Presence {
            node: self.me,
            name: &self.settings.name,
            locations: Locations::Plain(&self.settings.profile.locations),
        }
    }

    /// The bytes of a datagram, with the tag that proves the secret.
    pub(super) fn sealed(&self, datagram: &Datagram<'_>) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        match datagram.encode(self.settings.datagram_key.as_ref(), &mut bytes) {
            Ok(()) => Some(bytes),
            Err(reason) => {
                tracing::warn!(%reason, "a datagram cannot be sent");
                None
            }
        }
    }

    pub(super) fn broadcast(&self, datagram: &Datagram<'_>, driver: &mut impl Driver) {
        if let Some(bytes) = self.sealed(datagram) {
            driver.output(Output::Broadcast(bytes));
        }
    }
}
