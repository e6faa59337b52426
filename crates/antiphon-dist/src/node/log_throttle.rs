//! What the log was told of peers. Whatever a peer can bring about again and again is said seldom; counters tell the rest.
//!
//! Invariant: the table is bounded; of one kind, [`AT_ONCE`] lines are said at a time, and then one in [`ONE_MORE_IN`].

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use antiphon_sched::{NodeId, Time};

use super::NodeCore;

/// How long the same is not said again of the same peer.
const AGAIN_AFTER: Duration = Duration::from_secs(3600);
/// Lines of one kind, of whomever.
const AT_ONCE: u32 = 256;
const ONE_MORE_IN: Duration = Duration::from_secs(10);
/// Lines that are remembered; when there are so many that are not old, nothing more is said.
const BUDGETS_MAX: usize = 16_384;

#[derive(Debug, Default)]
pub(super) struct LogThrottle {
    lines: BTreeMap<(&'static str, String), Time>,
    budgets: BTreeMap<&'static str, LogBudget>,
}

#[derive(Debug)]
struct LogBudget {
    left: u32,
    since: Time,
}

impl LogThrottle {
    /// Whether a line of this kind about this peer, or whatever tells lines apart, is to be said now.
    pub(super) fn may(&mut self, now: Time, kind: &'static str, about: impl Display) -> bool {
        let line = (kind, about.to_string());
        if self.lines.get(&line).is_some_and(|at| now.since(*at) < AGAIN_AFTER) {
            return false;
        }
        if self.lines.len() >= BUDGETS_MAX {
            self.lines.retain(|_, at| now.since(*at) < AGAIN_AFTER);
        }
        if self.lines.len() >= BUDGETS_MAX || !self.take(now, kind) {
            return false;
        }
        self.lines.insert(line, now);
        true
    }

    fn take(&mut self, now: Time, kind: &'static str) -> bool {
        let budget = self.budgets.entry(kind).or_insert(LogBudget { left: AT_ONCE, since: now });
        let more = now.since(budget.since).as_nanos() / ONE_MORE_IN.as_nanos();
        if more > 0 {
            budget.left = AT_ONCE.min(budget.left.saturating_add(u32::try_from(more).unwrap_or(AT_ONCE)));
            budget.since = now;
        }
        let is_left = budget.left > 0;
        budget.left -= u32::from(is_left);
        is_left
    }
}

impl NodeCore {
    /// Whether the log is to be told of this now; see [`LogThrottle::may`].
    pub(crate) fn may_log(&mut self, kind: &'static str, about: impl Display) -> bool {
        self.log_throttle.may(self.now, kind, about)
    }

    /// Logs that a peer goes over one of its limits.
    pub(crate) fn log_refused(&mut self, node: NodeId, kind: &'static str, what: &'static str) {
        if self.may_log(kind, node) {
            let name = self.peers.get(&node).map_or("", |peer| peer.name.as_str());
            tracing::warn!(%node, name, "a peer {what}, and is refused (said once an hour)");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn the_same_of_the_same_peer_is_said_once_an_hour() {
        let mut said = LogThrottle::default();
        let told: Vec<bool> = [0, 1, 3599, 3600].map(|seconds| said.may(at(seconds), "lost", 1)).into();
        assert_eq!(told, [true, false, false, true]);
        assert!(said.may(at(1), "lost", 2) && said.may(at(1), "found", 1));
    }

    #[test]
    fn one_kind_of_line_does_not_flood_the_log_whoever_brings_it_about() {
        let mut said = LogThrottle::default();
        let told = (0..1000).filter(|peer| said.may(at(0), "lost", peer)).count();
        assert_eq!(told, AT_ONCE as usize);
        assert!(said.may(at(0), "found", 0), "another kind is not silenced by it");
        let later = (0..36_000).filter(|tenth| said.may(at(*tenth / 10), "lost", 1000 + tenth)).count();
        assert!((355..=361).contains(&later), "one in ten seconds: {later} in an hour");
        assert!(said.lines.len() <= BUDGETS_MAX);
    }
}
