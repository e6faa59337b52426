//! What is remembered of a file that came from a peer, so that peers can have it deleted, and nothing else.
//!
//! Invariant: a record fits a file only while it is the very one that was received: the same inode, size and time.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, Stat};

use super::{FileRefused, TargetPath, of_stat, refuse, refuse_io, rename_new, sync_dir};

/// The first word of a record: its form. After its numbers comes the path, which may hold anything.
const FORM: &str = "antiphon-received/2";
/// The form without a path.
const FORM_1: &str = "antiphon-received/1";
/// Longer than any record.
const BYTES_MAX: u64 = 2048;

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct Provenance {
    inode: u64,
    size: u64,
    seconds: i64,
    nanos: u32,
}

impl Provenance {
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
        Self::read_text(records, key).map(|(record, _)| record)
    }

    /// The record, and of which file it is.
    pub(super) fn read_with_path(records: &OwnedFd, key: &str) -> Option<(Self, TargetPath)> {
        let (record, path) = Self::read_text(records, key)?;
        let names = path?.split('/').map(str::to_owned).collect();
        Some((record, TargetPath::checked(names).ok()?))
    }

    fn read_text(records: &OwnedFd, key: &str) -> Option<(Self, Option<String>)> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(records, key, flags, Mode::empty()).ok()?;
        let mut text = String::new();
        File::from(file).take(BYTES_MAX).read_to_string(&mut text).ok()?;
        let words: Vec<&str> = text.strip_suffix('\n')?.splitn(6, ' ').collect();
        let (inode, size, seconds, nanos, path) = match words[..] {
            [FORM, inode, size, seconds, nanos, path] => (inode, size, seconds, nanos, Some(path.to_owned())),
            [FORM_1, inode, size, seconds, nanos] => (inode, size, seconds, nanos, None),
            _ => return None,
        };
        let record = Self {
            inode: inode.parse().ok()?,
            size: size.parse().ok()?,
            seconds: seconds.parse().ok()?,
            nanos: nanos.parse().ok()?,
        };
        Some((record, path))
    }

    /// Writes it beside the one that is there.
    pub(super) fn write_aside(&self, records: &OwnedFd, path: &TargetPath) -> Result<(), FileRefused> {
        let Self { inode, size, seconds, nanos } = self;
        let (key, path) = (&path.key(), path.text());
        let text = format!("{FORM} {inode} {size} {seconds} {nanos} {path}\n");
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(records, aside(key), flags, Mode::from_raw_mode(0o600)).map_err(refuse)?;
        let mut file = File::from(file);
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|reason| refuse_io(&reason))
    }

    /// The file did not come to its place: forgets what was written aside.
    pub(super) fn drop_aside(records: &OwnedFd, key: &str) {
        if let Err(reason) = rustix::fs::unlinkat(records, aside(key), AtFlags::empty()) {
            tracing::debug!(key, %reason, "the record of a file that was not placed stays, and counts for nothing");
        }
    }

    /// The file is in its place: what was written aside takes the place of the old record. It needs no more room.
    pub(super) fn settle(records: &OwnedFd, key: &str) {
        let settled = rustix::fs::renameat(records, aside(key), records, key).map_err(refuse);
        if let Err(reason) = settled.and_then(|()| sync_dir(records)) {
            tracing::warn!(%reason, "a file was received, and peers cannot delete it: that was not recorded");
        }
    }

    /// Forgets a file that is gone; unless another has come meanwhile, and this record is of that one.
    pub(super) fn forget(&self, records: &OwnedFd, key: &str) {
        let gone = format!("{key}.gone");
        if rustix::fs::renameat(records, key, records, &gone).is_err() {
            return;
        }
        if Self::read(records, &gone) != Some(*self) && rename_new(records, &gone, records, key).is_ok() {
            return;
        }
        Self::remove(records, &gone);
    }

    /// Forgets it.
    pub(super) fn remove(records: &OwnedFd, key: &str) {
        if let Err(reason) = rustix::fs::unlinkat(records, key, AtFlags::empty()) {
            // It fits no file any more.
            tracing::debug!(key, %reason, "the record of a deleted file stays");
        }
    }
}

fn aside(key: &str) -> String {
    format!("{key}.new")
}
