//! The provenance of a received file: the proof that a file came from a peer. Peers can delete only such files.
//!
//! Each provenance is a small file in `.antiphon/received`, named by the key of the path. Its text is the format, the inode,
//! the size, the modification time (seconds and nanoseconds) and the path of the received file.
//!
//! Invariant: a provenance matches a file only while it is the one that was received: the same inode, size and time.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, Stat};

use super::{FileRefused, TargetPath, file_stat, refused, rename_new, sync_dir};

/// The format, at the beginning of the text. The path is last, since it may contain spaces.
const FORMAT: &str = "antiphon-received/2";
/// The first format, which has no path.
const FORMAT_1: &str = "antiphon-received/1";
/// More bytes than any provenance has.
const BYTES_MAX: u64 = 2048;

/// Identifies a received file.
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
        let file = file_stat(stat);
        Self { inode: stat.st_ino as u64, size: file.size, seconds: file.seconds, nanos: file.nanos }
    }

    pub(super) fn matches(&self, stat: &Stat) -> bool {
        *self == Self::of(stat)
    }

    /// The size of the file in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Reads the provenance under a key. Returns `None` if there is none or it is damaged.
    pub(super) fn read(provenance_dir: &OwnedFd, key: &str) -> Option<Self> {
        Self::read_text(provenance_dir, key).map(|(provenance, _)| provenance)
    }

    /// Reads the provenance under a key, and the path of its file.
    pub(super) fn read_with_path(provenance_dir: &OwnedFd, key: &str) -> Option<(Self, TargetPath)> {
        let (provenance, path) = Self::read_text(provenance_dir, key)?;
        let names = path?.split('/').map(str::to_owned).collect();
        Some((provenance, TargetPath::checked(names).ok()?))
    }

    fn read_text(provenance_dir: &OwnedFd, key: &str) -> Option<(Self, Option<String>)> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(provenance_dir, key, flags, Mode::empty()).ok()?;
        let mut text = String::new();
        File::from(file).take(BYTES_MAX).read_to_string(&mut text).ok()?;
        let fields: Vec<&str> = text.strip_suffix('\n')?.splitn(6, ' ').collect();
        let (inode, size, seconds, nanos, path) = match fields[..] {
            [FORMAT, inode, size, seconds, nanos, path] => {
                (inode, size, seconds, nanos, Some(path.to_owned()))
            }
            [FORMAT_1, inode, size, seconds, nanos] => (inode, size, seconds, nanos, None),
            _ => return None,
        };
        let provenance = Self {
            inode: inode.parse().ok()?,
            size: size.parse().ok()?,
            seconds: seconds.parse().ok()?,
            nanos: nanos.parse().ok()?,
        };
        Some((provenance, path))
    }

    /// Writes a pending provenance. An existing one stays valid until [`Self::commit_pending`].
    pub(super) fn write_pending(
        &self,
        provenance_dir: &OwnedFd,
        path: &TargetPath,
    ) -> Result<(), FileRefused> {
        let Self { inode, size, seconds, nanos } = self;
        let (key, path) = (&path.key(), path.text());
        let text = format!("{FORMAT} {inode} {size} {seconds} {nanos} {path}\n");
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(provenance_dir, pending_name(key), flags, Mode::from_raw_mode(0o600))
            .map_err(refused)?;
        let mut file = File::from(file);
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(|reason| FileRefused::from_io(&reason))
    }

    /// Removes a pending provenance, because its file could not be moved to its place.
    pub(super) fn discard_pending(provenance_dir: &OwnedFd, key: &str) {
        if let Err(reason) = rustix::fs::unlinkat(provenance_dir, pending_name(key), AtFlags::empty()) {
            tracing::debug!(key, %reason, "pending provenance not removed; it has no effect");
        }
    }

    /// Replaces the provenance by the pending one, because the file is in its place. This needs no more space on the disk.
    pub(super) fn commit_pending(provenance_dir: &OwnedFd, key: &str) {
        let renamed =
            rustix::fs::renameat(provenance_dir, pending_name(key), provenance_dir, key).map_err(refused);
        if let Err(reason) = renamed.and_then(|()| sync_dir(provenance_dir)) {
            tracing::warn!(key, %reason, "provenance not saved; peers cannot delete the received file");
        }
    }

    /// Removes the provenance of a file that is gone, unless another file has arrived under the same path meanwhile.
    pub(super) fn forget(&self, provenance_dir: &OwnedFd, key: &str) {
        let gone = format!("{key}.gone");
        if rustix::fs::renameat(provenance_dir, key, provenance_dir, &gone).is_err() {
            return;
        }
        if Self::read(provenance_dir, &gone) != Some(*self)
            && rename_new(provenance_dir, &gone, provenance_dir, key).is_ok()
        {
            return;
        }
        Self::remove(provenance_dir, &gone);
    }

    /// Removes the provenance under a key.
    pub(super) fn remove(provenance_dir: &OwnedFd, key: &str) {
        if let Err(reason) = rustix::fs::unlinkat(provenance_dir, key, AtFlags::empty()) {
            // The remaining provenance has no effect: it matches no file.
            tracing::debug!(key, %reason, "provenance of a deleted file not removed");
        }
    }
}

fn pending_name(key: &str) -> String {
    format!("{key}.new")
}
