//! The log throttle: limits how often the log repeats lines that peers can cause. Counters record the rest.
//!
//! Invariant: the table is bounded. The log receives lines of one kind at [`RATE`]. A line about a peer that is suppressed costs one look
//! into the table: peers can cause very many.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use antiphon_sched::{NodeId, Time};

use super::peers::token_bucket::{Rate, TokenBucket};

/// How long a line is suppressed after it was logged.
pub(super) const REPEAT_AFTER: Duration = Duration::from_secs(3600);
/// Lines of one kind, about all peers, that may be logged.
pub(super) const RATE: Rate = Rate { burst: 256, refill_every: Duration::from_secs(10) };
/// Lines that the table holds. While it is full of lines younger than [`REPEAT_AFTER`], nothing more is logged.
pub(super) const LINES_MAX: usize = 16_384;

#[derive(Debug, Default)]
pub(super) struct LogThrottle {
    /// When each line was logged last, by kind and subject.
    pub(super) lines: BTreeMap<(&'static str, Subject), Time>,
    pub(super) buckets: BTreeMap<&'static str, TokenBucket>,
}

/// What distinguishes lines of one kind.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Subject {
    Node(NodeId),
    Text(String),
}

impl LogThrottle {
    /// Whether a line of this kind may be logged now. Records it if so. `about` is the subject that distinguishes lines of
    /// one kind, such as a peer.
    pub(super) fn may(&mut self, now: Time, kind: &'static str, about: impl Display) -> bool {
        self.may_about(now, kind, Subject::Text(about.to_string()))
    }

    /// As [`Self::may`], about a peer.
    pub(super) fn may_about_node(&mut self, now: Time, kind: &'static str, node: NodeId) -> bool {
        self.may_about(now, kind, Subject::Node(node))
    }

    pub(super) fn may_about(&mut self, now: Time, kind: &'static str, about: Subject) -> bool {
        let line = (kind, about);
        if self.lines.get(&line).is_some_and(|at| now.since(*at) < REPEAT_AFTER) {
            return false;
        }
        if self.lines.len() >= LINES_MAX {
            self.lines.retain(|_, at| now.since(*at) < REPEAT_AFTER);
        }
        if self.lines.len() >= LINES_MAX || !self.buckets.entry(kind).or_default().take(now, RATE) {
            return false;
        }
        self.lines.insert(line, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn log_line_repeated_is_logged_once_an_hour() {
        let mut throttle = LogThrottle::default();
        let logged = [0, 1, 3599, 3600].map(|seconds| throttle.may(at(seconds), "lost", 1));
        assert_eq!(logged, [true, false, false, true]);
        assert!(throttle.may(at(3601), "lost", 2), "a line about another peer is not suppressed");
        assert!(throttle.may(at(3601), "found", 1), "a line of another kind is not suppressed");
    }

    #[test]
    fn log_kind_about_many_peers_is_limited() {
        let mut throttle = LogThrottle::default();
        let logged = (0..1000).filter(|peer| throttle.may(at(0), "lost", peer)).count();
        assert_eq!(logged, RATE.burst as usize);
        assert!(throttle.may(at(0), "found", 0), "another kind has a limit of its own");
        let later = (0..36_000).filter(|tenth| throttle.may(at(*tenth / 10), "lost", 1000 + tenth)).count();
        assert!((355..=361).contains(&later), "one in ten seconds: {later} in an hour");
    }

    #[test]
    fn log_table_full_suppresses_new_lines() {
        let mut throttle = LogThrottle::default();
        let kinds: Vec<&'static str> = (0..LINES_MAX / RATE.burst as usize)
            .map(|kind| -> &'static str { kind.to_string().leak() })
            .collect();
        for kind in &kinds {
            assert!((0..RATE.burst).all(|peer| throttle.may(at(0), kind, peer)), "the table has room");
        }
        assert_eq!(throttle.lines.len(), LINES_MAX);
        assert!(!throttle.may(at(1), "one more", 0), "the table is full of young lines");
        assert!(throttle.may(at(3600), "one more", 0), "old lines make room");
        assert_eq!(throttle.lines.len(), 1);
    }
}
