//! Reports of what was open on ended sessions, over several rounds of the loop.

use std::collections::BTreeSet;

use antiphon_sched::{AskError, ExitReason, Key, MonitorId};

use super::context::NodeCx;
use super::driver::Driver;
use super::ended_sessions::{EndedSession, REPORTS_A_ROUND};
use super::peers::Peers;
use crate::error::DeliverError;

impl NodeCx {
    /// Begins to report what was open on a session.
    pub(super) fn report_ended(
        &mut self,
        peers: &mut Peers,
        ended: EndedSession,
        remote_watchers: BTreeSet<(Key, MonitorId)>,
        driver: &mut impl Driver,
    ) {
        self.ended_sessions.add_watchers(ended.node, remote_watchers);
        self.ended_sessions.sessions.push_back(ended);
        if self.ended_sessions.sessions.len() == 1 {
            self.report_ended_sessions(peers, driver);
        }
    }

    /// Reports as much of the ended sessions as one round allows.
    pub(super) fn report_ended_sessions(&mut self, peers: &mut Peers, driver: &mut impl Driver) {
        let mut reports = 0;
        while reports < REPORTS_A_ROUND
            && let Some(mut ended) = self.ended_sessions.sessions.pop_front()
        {
            let (is_over, made) = self.report_some(peers, &mut ended, REPORTS_A_ROUND - reports, driver);
            reports += made;
            self.steps += made as u64;
            if !is_over {
                self.ended_sessions.sessions.push_front(ended);
            }
        }
    }

    /// Reports everything of all ended sessions: no round of the loop may follow.
    pub(super) fn report_all_ended(&mut self, peers: &mut Peers, driver: &mut impl Driver) {
        while !self.ended_sessions.is_empty() {
            self.report_ended_sessions(peers, driver);
        }
    }

    /// Makes about `most` reports. Returns whether nothing is left, and their number.
    fn report_some(
        &mut self,
        peers: &mut Peers,
        ended: &mut EndedSession,
        most: usize,
        driver: &mut impl Driver,
    ) -> (bool, usize) {
        let mut reports = 0;
        while reports < most {
            reports += 1;
            if let Some((id, (watcher, actor))) = ended.local_watchers.pop_first() {
                match peers.get_mut(ended.node) {
                    Some(peer) => {
                        peer.report_node_lost(self, ended.expires, (watcher, id, actor), driver);
                    }
                    None => driver.local().signals().down(watcher, id, actor, ExitReason::NodeLost),
                }
            } else if let Some((target, id)) = self.ended_sessions.pop_watcher(ended.node) {
                driver.local().signals().remove_watcher(target, id);
            } else if let Some(request_id) = ended.requests.pop_front() {
                driver.local().requests().fail(request_id, AskError::from(ended.peer_lost.clone()));
            } else if let Some(receipt_number) = ended.receipts.pop_front() {
                let result = Err(DeliverError::Unknown);
                self.receipts.complete(receipt_number, result, &mut self.timers, driver);
            } else {
                let (is_over, frames) = ended.report_frames(self.me, driver);
                reports += frames;
                if is_over {
                    return (true, reports);
                }
            }
        }
        (false, reports)
    }
}
