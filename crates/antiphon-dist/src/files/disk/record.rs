//! What is remembered of a file that came from a peer, so that peers can have it deleted, and nothing else.
//!
//! Invariant: a record fits a file only while it is the very one that was received: the same inode, size and time.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, Stat};

use crate::files::path::TargetPath;

use super::{FileRefused, of_stat, refuse, refuse_io, sync_dir};

/// The first word of a record: its form.
const FORM: &str = "antiphon-received/1";
/// More than a path may have, and the numbers before it.
const RECORD_BYTES_MAX: u64 = 2048;

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct Record {
    inode: u64,
    size: u64,
    seconds: i64,
    nanos: u32,
}

impl Record {
    #[expect(clippy::unnecessary_cast, reason = "the types of these fields differ between systems")]
    pub(super) fn of(stat: &Stat) -> Self {
        let file = of_stat(stat);
        Self { inode: stat.st_ino as u64, size: file.size, seconds: file.seconds, nanos: file.nanos }
    }

    pub(super) fn is_of(&self, stat: &Stat) -> bool {
        *self == Self::of(stat)
    }

    /// The size that the file has.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The record under a key, if there is one that can be read.
    pub(super) fn read(records: &OwnedFd, key: &str) -> Option<Self> {
        Self::read_with_path(records, key).map(|(record, _)| record)
    }

    /// As [`Self::read`], with the file's place, which older records lack.
    pub(super) fn read_with_path(records: &OwnedFd, key: &str) -> Option<(Self, Option<TargetPath>)> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(records, key, flags, Mode::empty()).ok()?;
        let mut text = String::new();
        File::from(file).take(RECORD_BYTES_MAX).read_to_string(&mut text).ok()?;
        let (first, place) = text.split_once('\n').unwrap_or((&text, ""));
        let words: Vec<&str> = first.split_whitespace().collect();
        let [FORM, inode, size, seconds, nanos] = words[..] else { return None };
        let record = Self {
            inode: inode.parse().ok()?,
            size: size.parse().ok()?,
            seconds: seconds.parse().ok()?,
            nanos: nanos.parse().ok()?,
        };
        let place = TargetPath::checked(place.split('/').map(str::to_owned).collect());
        Some((record, place.ok()))
    }

    /// Writes it beside the one that is there.
    pub(super) fn write_aside(&self, records: &OwnedFd, path: &TargetPath) -> Result<(), FileRefused> {
        let key = path.key();
        let Self { inode, size, seconds, nanos } = self;
        let text = format!("{FORM} {inode} {size} {seconds} {nanos}\n{}", path.text());
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(records, aside(&key), flags, Mode::from_raw_mode(0o600)).map_err(refuse)?;
        let mut file = File::from(file);
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|why| refuse_io(&why))
    }

    /// The file did not come to its place: forgets what was written aside.
    pub(super) fn drop_aside(records: &OwnedFd, key: &str) {
        if let Err(why) = rustix::fs::unlinkat(records, aside(key), AtFlags::empty()) {
            tracing::debug!(key, %why, "the record of a file that was not placed stays, and counts for nothing");
        }
    }

    /// The file is in its place: what was written aside takes the place of the old record. It needs no more room.
    pub(super) fn settle(records: &OwnedFd, key: &str) {
        let settled = rustix::fs::renameat(records, aside(key), records, key).map_err(refuse);
        if let Err(why) = settled.and_then(|()| sync_dir(records)) {
            tracing::warn!(%why, "a file was received, and peers cannot delete it: that was not recorded");
        }
    }

    /// Forgets it.
    pub(super) fn remove(records: &OwnedFd, key: &str) {
        if let Err(why) = rustix::fs::unlinkat(records, key, AtFlags::empty()) {
            // It fits no file any more.
            tracing::debug!(key, %why, "the record of a deleted file stays");
        }
    }
}

fn aside(key: &str) -> String {
    format!("{key}.new")
}
