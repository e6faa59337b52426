//! How many bytes peers have on the disk here: all of them together, and each.
//!
//! Invariant: a file that is being received counts with its whole size, under its key; when its transfer ends, with what it
//! leaves. It may count too much, when files are replaced or removed by hand: who counts anew puts that right. Nobody counts
//! while another does, nor soon after; and nothing here waits for a disk, since the loop's thread comes here too.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::files::FileRules;
use crate::files::outcome::FileRefused;

/// Peers that are told apart; those beyond share one account.
const PEERS_MAX: usize = 4_096;
/// After a count, for how long there is no other.
const COUNT_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// And how many times as long as it took: so the disk is free most of the time, however many offers are refused.
const COUNT_REST: u32 = 20;
/// The account of the others. (That of this node is empty, and has no bound.)
const THE_REST: &str = "the rest";

#[derive(Debug, Default)]
pub(super) struct DiskQuota {
    /// Bytes of files that are whole, and of unfinished ones that nobody writes.
    kept: u64,
    live: BTreeMap<String, ActiveTransfer>,
    /// Bytes that came from each peer since the node's start, in transfers that have ended.
    of: BTreeMap<String, u64>,
    counting: Counting,
}

#[derive(Debug, Default)]
enum Counting {
    #[default]
    Never,
    /// Since when; and the bytes of transfers that have ended meanwhile, which the count may have missed.
    Now(Instant, u64),
    NotBefore(Instant),
}

#[derive(Debug)]
struct ActiveTransfer {
    whom: String,
    size: u64,
    /// What an earlier transfer had brought.
    have: u64,
}

impl DiskQuota {
    /// A file of so many bytes is to come from somebody, and an unfinished one of `there` bytes is in its place. Nothing is
    /// changed by an error.
    pub(super) fn begin(
        &mut self,
        key: &str,
        whom: &str,
        (size, there): (u64, u64),
        rules: &FileRules,
    ) -> Result<(), FileRefused> {
        let all: u64 = self.live.values().map(|live| live.size).sum();
        let all = self.kept.saturating_sub(there).saturating_add(all).saturating_add(size);
        if let Some(max) = rules.dest_bytes_max.filter(|max| all > *max) {
            return Err(FileRefused::DestFull { max });
        }
        let have = of_use(there, size);
        let whom = self.account(whom);
        let under_way = self.live.values().filter(|live| live.whom == whom);
        let under_way: u64 = under_way.map(|live| live.size - live.have).sum();
        let came = self.of.get(whom).copied().unwrap_or(0);
        let came = came.saturating_add(under_way).saturating_add(size - have);
        if let Some(max) = rules.peer_bytes_max.filter(|max| came > *max && !whom.is_empty()) {
            return Err(FileRefused::OverQuota { max });
        }
        self.kept = self.kept.saturating_sub(there);
        let whom = whom.to_owned();
        self.of.entry(whom.clone()).or_default();
        self.live.insert(key.to_owned(), ActiveTransfer { whom, size, have });
        Ok(())
    }

    /// The account to which somebody's bytes go.
    fn account<'w>(&self, whom: &'w str) -> &'w str {
        let is_known = whom.is_empty() || self.of.contains_key(whom) || self.of.len() < PEERS_MAX;
        if is_known { whom } else { THE_REST }
    }

    /// A transfer is over: it leaves so many bytes, and so many have come, which may have been of no use.
    pub(super) fn end(&mut self, key: &str, (left, came): (u64, u64)) {
        let Some(live) = self.live.remove(key) else { return };
        self.kept = self.kept.saturating_add(left);
        if let Counting::Now(_, ended) = &mut self.counting {
            *ended = ended.saturating_add(left);
        }
        let of = self.of.entry(live.whom).or_default();
        *of = of.saturating_add(came);
    }

    /// A file that was here is not any more.
    pub(super) fn gone(&mut self, bytes: u64) {
        self.kept = self.kept.saturating_sub(bytes);
    }

    /// Whether to count now what is here; whoever is told so says when it is done.
    pub(super) fn begin_count(&mut self, now: Instant) -> bool {
        let may = match self.counting {
            Counting::Never => true,
            Counting::Now(..) => false,
            Counting::NotBefore(then) => now >= then,
        };
        if may {
            self.counting = Counting::Now(now, 0);
        }
        may
    }

    /// So many bytes are here, besides what is being received; `None`: they could not be counted.
    pub(super) fn end_count(&mut self, now: Instant, kept: Option<u64>) {
        let Counting::Now(begun, ended) = self.counting else { return };
        if let Some(kept) = kept {
            self.kept = kept.saturating_add(ended);
        }
        let rest = now.duration_since(begun).saturating_mul(COUNT_REST).max(COUNT_AGAIN_AFTER);
        self.counting = Counting::NotBefore(now.checked_add(rest).unwrap_or(now));
    }

    /// Bytes that are here, besides what is being received.
    #[cfg(test)]
    pub(super) fn kept(&self) -> u64 {
        self.kept
    }

    pub(super) fn is_live(&self, key: &str) -> bool {
        self.live.contains_key(key)
    }
}

/// Of the bytes of an unfinished file, how many a file of that size can go on with, if their hash fits: longer ones are of
/// another file.
pub(super) fn of_use(there: u64, size: u64) -> u64 {
    if there > size { 0 } else { there }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(peer_bytes_max: u64, dest_bytes_max: u64) -> FileRules {
        FileRules {
            peer_bytes_max: Some(peer_bytes_max),
            dest_bytes_max: Some(dest_bytes_max),
            ..FileRules::default()
        }
    }

    #[test]
    fn what_is_under_way_counts_whole_and_what_has_ended_with_what_it_left() {
        let (rules, mut quota) = (rules(100, 150), DiskQuota::default());
        assert_eq!(quota.begin("a", "peer", (60, 0), &rules), Ok(()));
        assert_eq!(quota.begin("b", "peer", (60, 0), &rules), Err(FileRefused::OverQuota { max: 100 }));
        assert_eq!(quota.begin("b", "other", (60, 0), &rules), Ok(()));
        assert_eq!(quota.begin("c", "third", (60, 0), &rules), Err(FileRefused::DestFull { max: 150 }));
        // It was interrupted, and goes on: what it has does not count twice.
        quota.end("a", (50, 50));
        assert_eq!(quota.begin("a", "peer", (90, 50), &rules), Ok(()));
        quota.end("a", (90, 40));
        assert_eq!(quota.begin("c", "peer", (10, 0), &rules), Err(FileRefused::DestFull { max: 150 }));
        quota.end("b", (0, 7));
        assert_eq!(quota.begin("c", "peer", (10, 0), &rules), Ok(()));
        quota.end("c", (10, 10));
        assert_eq!(quota.begin("d", "peer", (1, 0), &rules), Err(FileRefused::OverQuota { max: 100 }));
        // Of files that are deleted, the room is free again; what came from a peer has come.
        quota.gone(100);
        assert_eq!(quota.begin("d", "peer", (1, 0), &rules), Err(FileRefused::OverQuota { max: 100 }));
        assert_eq!(quota.begin("d", "other", (94, 0), &rules), Err(FileRefused::OverQuota { max: 100 }));
        assert_eq!(quota.begin("d", "other", (93, 0), &rules), Ok(()), "7 came that were thrown away");
    }

    #[test]
    fn a_longer_unfinished_file_makes_room_for_the_one_that_takes_its_place() {
        let (rules, mut quota) = (rules(100, 100), DiskQuota::default());
        assert_eq!(quota.begin("a", "peer", (90, 0), &rules), Ok(()));
        quota.end("a", (80, 80));
        assert_eq!(quota.begin("b", "other", (60, 0), &rules), Err(FileRefused::DestFull { max: 100 }));
        assert_eq!(quota.begin("a", "other", (60, 80), &rules), Ok(()), "80 go, 60 come");
        quota.end("a", (60, 60));
        assert_eq!(quota.begin("b", "other", (41, 0), &rules), Err(FileRefused::DestFull { max: 100 }));
        assert_eq!(quota.begin("b", "other", (40, 0), &rules), Ok(()), "all 60 were its own");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "some time, to be added to")]
    fn who_counts_is_alone_and_rests_twenty_times_as_long() {
        let (mut quota, begun) = (DiskQuota::default(), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert!(quota.begin_count(begun));
        assert!(!quota.begin_count(at(1000)), "somebody does already");
        quota.end_count(at(3), Some(100));
        assert!(!quota.begin_count(at(62)));
        assert!(quota.begin_count(at(63)));
        // A look that takes no time, and fails.
        quota.end_count(at(63), None);
        assert!(!quota.begin_count(at(63)));
        assert!(quota.begin_count(at(64)));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "some time")]
    fn what_comes_while_somebody_counts_is_not_forgotten() {
        let (rules, mut quota, now) = (rules(1000, 100), DiskQuota::default(), Instant::now());
        assert_eq!(quota.begin("a", "peer", (60, 0), &rules), Ok(()));
        assert!(quota.begin_count(now));
        quota.end("a", (60, 60));
        quota.end_count(now, Some(0));
        assert_eq!(quota.begin("b", "peer", (60, 0), &rules), Err(FileRefused::DestFull { max: 100 }));
    }

    #[test]
    fn those_beyond_the_peers_that_are_told_apart_have_one_share_together() {
        let (rules, mut quota) = (rules(100, 1_000_000), DiskQuota::default());
        for peer in 0..PEERS_MAX + 2 {
            let whom = format!("peer {peer}");
            let is_told_apart = peer < PEERS_MAX;
            let offered = quota.begin(&whom, &whom, (60, 0), &rules);
            // The first of the rest has the share, and the second finds it used up.
            assert_eq!(offered.is_ok(), is_told_apart || peer == PEERS_MAX, "{whom}: {offered:?}");
            quota.end(&whom, (60, 60));
        }
        assert_eq!(quota.begin("own", "", (1000, 0), &rules), Ok(()), "this node's own have no bound");
    }
}
