//! The disk quota: how many bytes all peers together store on this node, and how many each peer has sent.
//!
//! Invariants: a file that is being received counts with its whole size. When its transfer ends, the bytes that it leaves
//! count. The sum may be too large after files are replaced or removed by hand; a new count of the disk corrects it. Counts
//! do not overlap, and there is a pause between them. Nothing here waits for a disk, since the thread of the loop uses the
//! quota too.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::FileRules;
use super::outcome::FileRefused;

/// The most accounts. Further peers share [`OVERFLOW_ACCOUNT`].
const ACCOUNTS_MAX: usize = 4_096;
/// The shortest pause after a count.
const COUNT_PAUSE_MIN: Duration = Duration::from_secs(1);
/// The pause after a count, as a multiple of its duration. So the disk is free most of the time, however many offers are
/// refused.
const COUNT_PAUSE_FACTOR: u32 = 20;
/// The account of the peers beyond [`ACCOUNTS_MAX`]. (The account of this node is the empty string; it has no limit.)
const OVERFLOW_ACCOUNT: &str = "the rest";

/// The bytes that peers store here, and have sent.
#[derive(Debug, Default)]
pub(super) struct DiskQuota {
    /// Bytes of complete files, and of partial files without a transfer.
    stored: u64,
    /// The running transfers, by the keys of their paths.
    active: BTreeMap<String, ActiveTransfer>,
    /// Bytes that each account has sent since the node started, in transfers that have ended.
    sent_by: BTreeMap<String, u64>,
    count: CountState,
}

/// Whether a count of the disk runs, or may begin.
#[derive(Debug, Default)]
enum CountState {
    #[default]
    Never,
    /// When the count began, and the bytes of the transfers that have ended since. The count may have missed these.
    Running(Instant, u64),
    /// No count may begin before this time.
    NotBefore(Instant),
}

#[derive(Debug)]
struct ActiveTransfer {
    account: String,
    size: u64,
    /// Bytes that an earlier transfer had written.
    have: u64,
}

impl DiskQuota {
    /// The quota of a folder that holds `stored` bytes of peers.
    pub(super) fn with_stored(stored: u64) -> Self {
        Self { stored, ..Self::default() }
    }

    /// Begins the transfer of a file of `size` bytes, which replaces a partial file of `existing` bytes.
    ///
    /// # Errors
    /// If a limit of `rules` would be exceeded. The quota is unchanged then.
    pub(super) fn begin(
        &mut self,
        key: &str,
        account: &str,
        (size, existing): (u64, u64),
        rules: &FileRules,
    ) -> Result<(), FileRefused> {
        let receiving: u64 = self.active.values().map(|transfer| transfer.size).sum();
        let total = self.stored.saturating_sub(existing).saturating_add(receiving).saturating_add(size);
        if let Some(max) = rules.dest_bytes_max.filter(|max| total > *max) {
            return Err(FileRefused::DestFull { max });
        }
        let have = usable_bytes(existing, size);
        let account = self.account_of(account);
        let active = self.active.values().filter(|transfer| transfer.account == account);
        let in_flight: u64 = active.map(|transfer| transfer.size - transfer.have).sum();
        let sent = self.sent_by.get(account).copied().unwrap_or(0);
        let sent = sent.saturating_add(in_flight).saturating_add(size - have);
        if let Some(max) = rules.peer_bytes_max.filter(|max| sent > *max && !account.is_empty()) {
            return Err(FileRefused::OverQuota { max });
        }
        self.stored = self.stored.saturating_sub(existing);
        let account = account.to_owned();
        self.sent_by.entry(account.clone()).or_default();
        self.active.insert(key.to_owned(), ActiveTransfer { account, size, have });
        Ok(())
    }

    /// Returns the account that is charged: the given one, or the overflow account if there are too many.
    fn account_of<'a>(&self, account: &'a str) -> &'a str {
        let has_own =
            account.is_empty() || self.sent_by.contains_key(account) || self.sent_by.len() < ACCOUNTS_MAX;
        if has_own { account } else { OVERFLOW_ACCOUNT }
    }

    /// Ends a transfer: `left` bytes of it stay on the disk, and `sent` bytes were received, discarded ones included.
    pub(super) fn end(&mut self, key: &str, (left, sent): (u64, u64)) {
        let Some(transfer) = self.active.remove(key) else { return };
        self.stored = self.stored.saturating_add(left);
        if let CountState::Running(_, ended) = &mut self.count {
            *ended = ended.saturating_add(left);
        }
        let total = self.sent_by.entry(transfer.account).or_default();
        *total = total.saturating_add(sent);
    }

    /// Subtracts the bytes of a file that was removed.
    pub(super) fn subtract(&mut self, bytes: u64) {
        self.stored = self.stored.saturating_sub(bytes);
    }

    /// Whether the caller may count the disk now. If so, it must call [`Self::end_count`] afterwards.
    pub(super) fn begin_count(&mut self, now: Instant) -> bool {
        let may_count = match self.count {
            CountState::Never => true,
            CountState::Running(..) => false,
            CountState::NotBefore(then) => now >= then,
        };
        if may_count {
            self.count = CountState::Running(now, 0);
        }
        may_count
    }

    /// Ends a count, with the bytes that no running transfer writes. `None`: they could not be counted.
    pub(super) fn end_count(&mut self, now: Instant, stored: Option<u64>) {
        let CountState::Running(start, ended) = self.count else { return };
        if let Some(stored) = stored {
            self.stored = stored.saturating_add(ended);
        }
        let pause = now.duration_since(start).saturating_mul(COUNT_PAUSE_FACTOR).max(COUNT_PAUSE_MIN);
        self.count = CountState::NotBefore(now.checked_add(pause).unwrap_or(now));
    }

    /// Returns the stored bytes, without those of running transfers.
    #[cfg(test)]
    pub(super) fn stored(&self) -> u64 {
        self.stored
    }

    /// Whether a transfer of the path with this key is running.
    pub(super) fn is_active(&self, key: &str) -> bool {
        self.active.contains_key(key)
    }
}

/// Returns how many bytes of a partial file can be used for a file of `size` bytes, if their hash matches. A partial file
/// that is longer belongs to another file: none of its bytes can be used.
pub(super) fn usable_bytes(existing: u64, size: u64) -> u64 {
    if existing > size { 0 } else { existing }
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
    fn transfer_counts_size_then_remaining_bytes() {
        let (rules, mut quota) = (rules(100, 150), DiskQuota::default());
        assert_eq!(quota.begin("a", "peer", (60, 0), &rules), Ok(()));
        assert_eq!(quota.begin("b", "peer", (60, 0), &rules), Err(FileRefused::OverQuota { max: 100 }));
        assert_eq!(quota.begin("b", "other", (60, 0), &rules), Ok(()));
        assert_eq!(quota.begin("c", "third", (60, 0), &rules), Err(FileRefused::DestFull { max: 150 }));
        // The transfer was interrupted and is resumed: the bytes that it has do not count twice.
        quota.end("a", (50, 50));
        assert_eq!(quota.begin("a", "peer", (90, 50), &rules), Ok(()));
        quota.end("a", (90, 40));
        assert_eq!(quota.begin("c", "peer", (10, 0), &rules), Err(FileRefused::DestFull { max: 150 }));
        quota.end("b", (0, 7));
        assert_eq!(quota.begin("c", "peer", (10, 0), &rules), Ok(()));
        quota.end("c", (10, 10));
        assert_eq!(quota.begin("d", "peer", (1, 0), &rules), Err(FileRefused::OverQuota { max: 100 }));
        // Deleting files frees their bytes on the disk. The bytes that a peer has sent still count.
        quota.subtract(100);
        assert_eq!(quota.begin("d", "peer", (1, 0), &rules), Err(FileRefused::OverQuota { max: 100 }));
        assert_eq!(quota.begin("d", "other", (94, 0), &rules), Err(FileRefused::OverQuota { max: 100 }));
        assert_eq!(quota.begin("d", "other", (93, 0), &rules), Ok(()), "7 bytes were received and discarded");
    }

    #[test]
    fn longer_partial_file_frees_bytes_for_replacement() {
        let (rules, mut quota) = (rules(100, 100), DiskQuota::default());
        assert_eq!(quota.begin("a", "peer", (90, 0), &rules), Ok(()));
        quota.end("a", (80, 80));
        assert_eq!(quota.begin("b", "other", (60, 0), &rules), Err(FileRefused::DestFull { max: 100 }));
        assert_eq!(quota.begin("a", "other", (60, 80), &rules), Ok(()), "80 bytes are replaced by 60");
        quota.end("a", (60, 60));
        assert_eq!(quota.begin("b", "other", (41, 0), &rules), Err(FileRefused::DestFull { max: 100 }));
        assert_eq!(
            quota.begin("b", "other", (40, 0), &rules),
            Ok(()),
            "the 60 bytes of the first file count once"
        );
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test needs an instant to add to")]
    fn count_is_exclusive_and_pauses_twentyfold() {
        let (mut quota, start) = (DiskQuota::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(quota.begin_count(start));
        assert!(!quota.begin_count(at(1000)), "a count is running");
        quota.end_count(at(3), Some(100));
        assert!(!quota.begin_count(at(62)));
        assert!(quota.begin_count(at(63)));
        // A count that takes no time, and fails.
        quota.end_count(at(63), None);
        assert!(!quota.begin_count(at(63)));
        assert!(quota.begin_count(at(64)));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test needs an instant")]
    fn transfer_ended_during_count_is_added() {
        let (rules, mut quota, now) = (rules(1000, 100), DiskQuota::default(), Instant::now());
        assert_eq!(quota.begin("a", "peer", (60, 0), &rules), Ok(()));
        assert!(quota.begin_count(now));
        quota.end("a", (60, 60));
        quota.end_count(now, Some(0));
        assert_eq!(quota.begin("b", "peer", (60, 0), &rules), Err(FileRefused::DestFull { max: 100 }));
    }

    #[test]
    fn peers_beyond_limit_share_one_account() {
        let (rules, mut quota) = (rules(100, 1_000_000), DiskQuota::default());
        for peer in 0..ACCOUNTS_MAX + 2 {
            let account = format!("peer {peer}");
            let offered = quota.begin(&account, &account, (60, 0), &rules);
            // Of the two peers that share the overflow account, the first one uses it up.
            let expected =
                if peer <= ACCOUNTS_MAX { Ok(()) } else { Err(FileRefused::OverQuota { max: 100 }) };
            assert_eq!(offered, expected, "{account}");
            quota.end(&account, (60, 60));
        }
        assert_eq!(
            quota.begin("own", "", (1000, 0), &rules),
            Ok(()),
            "the account of this node has no limit"
        );
    }
}
