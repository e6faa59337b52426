//! A partial file: a file that is being received, until it is complete and moved to its target.
//!
//! Invariants: one transfer at a time has the partial file of a path, also among several processes. The file at the target
//! is unchanged until the new one, complete and on disk, replaces it in one step.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use blake3::Hasher;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use super::provenance::Provenance;
use super::quota::usable_bytes;
use super::{Dest, Placed, plain_file_at, refused, refused_io, rename_new, sandbox, sync_dir};
use crate::files::outcome::{FileRefused, FileStat};
use crate::files::path::TargetPath;
use crate::files::source::{HASH_JOB_BYTES_MAX, hash_some};

/// A file that is not complete yet. It is locked as long as this value lives.
pub(crate) struct Partial {
    /// Declared before `file`, and so dropped before the lock is released: the next transfer begins its own entry.
    quota_entry: QuotaEntry,
    dest: Arc<Dest>,
    path: TargetPath,
    key: String,
    stat: FileStat,
    overwrite: bool,
    file: File,
    hasher: Box<Hasher>,
    /// The bytes from the beginning of the file that the hash covers. Once all are hashed, the next chunk is written here.
    offset: u64,
    /// The bytes that an earlier transfer had written.
    have: u64,
}

/// The entry of a transfer in the disk quota. Dropping it ends the entry.
struct QuotaEntry {
    dest: Arc<Dest>,
    key: String,
    /// The bytes that the transfer leaves on the disk.
    left: u64,
    /// The bytes that were received, discarded ones included.
    received: u64,
}

impl Drop for QuotaEntry {
    fn drop(&mut self) {
        self.dest.quota().end(&self.key, (self.left, self.received));
    }
}

impl Partial {
    /// Opens the partial file that an earlier transfer left, or creates one.
    pub(super) fn open(
        dest: Arc<Dest>,
        path: &TargetPath,
        stat: FileStat,
        (overwrite, account): (bool, &str),
    ) -> Result<Self, FileRefused> {
        let key = path.key();
        let file = open_locked(&dest, &key)?;
        let existing = file.metadata().map_err(|reason| refused_io(&reason))?.len();
        let room = dest.check_room(stat.size.saturating_sub(existing));
        if let Err(reason) = room.and_then(|()| dest.charge(&key, account, (stat.size, existing))) {
            // The bytes of an earlier transfer stay: the next offer may be of that file again.
            if existing == 0 {
                remove(&dest, &key);
            }
            return Err(reason);
        }
        let mut quota_entry =
            QuotaEntry { dest: dest.clone(), key: key.clone(), left: existing, received: 0 };
        let have = usable_bytes(existing, stat.size);
        if have < existing {
            file.set_len(have).map_err(|reason| refused_io(&reason))?;
            quota_entry.left = have;
        }
        let path = path.clone();
        Ok(Self {
            dest,
            path,
            key,
            stat,
            overwrite,
            file,
            hasher: Box::default(),
            offset: 0,
            have,
            quota_entry,
        })
    }

    /// Returns the bytes that an earlier transfer left.
    pub(crate) fn have(&self) -> u64 {
        self.have
    }

    /// Returns the bytes that are written and hashed.
    pub(crate) fn written(&self) -> u64 {
        self.offset
    }

    /// Hashes some of the bytes that an earlier transfer left; returns true when all are hashed.
    pub(crate) fn hash_some(&mut self) -> Result<bool, FileRefused> {
        let count = (self.have - self.offset).min(HASH_JOB_BYTES_MAX);
        let hashed =
            hash_some(&mut self.file, &mut self.hasher, count).map_err(|reason| refused_io(&reason))?;
        self.offset += hashed;
        if hashed < count {
            return Err(FileRefused::Disk("the partial file was truncated by another program".to_owned()));
        }
        Ok(self.offset == self.have)
    }

    /// Returns the hash of the written bytes.
    pub(crate) fn hash(&self) -> [u8; 32] {
        self.hasher.finalize().into()
    }

    /// Truncates the file, because its bytes belong to another file.
    pub(crate) fn restart(&mut self) -> Result<(), FileRefused> {
        self.hasher.reset();
        self.offset = 0;
        self.have = 0;
        self.quota_entry.left = 0;
        self.file.set_len(0).map_err(|reason| refused_io(&reason))
    }

    /// Whether the file has no bytes with which a transfer could resume.
    pub(crate) fn is_empty(&self) -> bool {
        self.have == 0 && self.offset == 0
    }

    /// Appends chunks. If the disk is full, the file is removed.
    pub(crate) fn write(mut self: Box<Self>, chunks: &[Vec<u8>]) -> Result<Box<Self>, FileRefused> {
        match self.append(chunks) {
            Ok(()) => Ok(self),
            Err(reason) => Err(self.give_up(&reason)),
        }
    }

    fn append(&mut self, chunks: &[Vec<u8>]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.offset))?;
        for chunk in chunks {
            self.file.write_all(chunk)?;
            self.hasher.update(chunk);
            self.offset += chunk.len() as u64;
            self.quota_entry.left = self.quota_entry.left.max(self.offset);
            self.quota_entry.received += chunk.len() as u64;
        }
        Ok(())
    }

    fn give_up(self, reason: &io::Error) -> FileRefused {
        let reason = refused_io(reason);
        if reason == FileRefused::DiskFull {
            self.discard();
        }
        reason
    }

    /// Moves the complete file to its target. A file with the wrong size or hash is removed.
    pub(crate) fn place(self, hash: &[u8]) -> Result<Placed, FileRefused> {
        if self.offset != self.stat.size || hash != self.hash() {
            self.discard();
            return Err(FileRefused::Corrupt);
        }
        if let Err(reason) = self.set_time_and_sync() {
            return Err(self.give_up(&reason));
        }
        let dir = sandbox::open_dir(&self.dest.root, self.path.dirs(), sandbox::MissingDir::Create)?;
        let name = self.path.name();
        // A folder or a symlink is not replaced.
        plain_file_at(&dir, name)?;
        let stat = rustix::fs::fstat(&self.file).map_err(refused)?;
        Provenance::of(&stat).write_pending(&self.dest.provenance_dir, &self.path)?;
        let replaced = self.overwrite.then(|| self.dest.bytes_of(&self.key)).flatten().unwrap_or(0);
        if let Err(reason) = self.move_to(&dir, name) {
            Provenance::discard_pending(&self.dest.provenance_dir, &self.key);
            if Errno::from_io_error(&reason) == Some(Errno::EXIST) {
                let existing = plain_file_at(&dir, name)?;
                return self.conflict(existing);
            }
            return Err(refused_io(&reason));
        }
        self.dest.quota().subtract(replaced);
        Provenance::commit_pending(&self.dest.provenance_dir, &self.key);
        sync_dir(&dir)?;
        Ok(Placed::Stored)
    }

    /// Sets the modification time, and flushes the file to the disk.
    fn set_time_and_sync(&self) -> io::Result<()> {
        let modified =
            Timespec { tv_sec: self.stat.seconds, tv_nsec: self.stat.nanos.min(999_999_999).into() };
        let unchanged = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        rustix::fs::futimens(
            &self.file,
            &Timestamps { last_access: unchanged, last_modification: modified },
        )?;
        self.file.sync_all()
    }

    /// Sets the permissions, without special bits, and moves the file. The permissions are set last: a transfer that is
    /// interrupted before leaves a file that can be opened and written.
    fn move_to(&self, dir: &OwnedFd, name: &str) -> io::Result<()> {
        let permissions = Mode::from_raw_mode((self.stat.permissions & 0o777) as rustix::fs::RawMode);
        rustix::fs::fchmod(&self.file, permissions)?;
        // The contents are on the disk already, so this is fast.
        self.file.sync_all()?;
        if self.overwrite {
            rustix::fs::renameat(&self.dest.partial_dir, &self.key, dir, name)?;
        } else {
            rename_new(&self.dest.partial_dir, &self.key, dir, name)?;
        }
        Ok(())
    }

    /// Discards the file, because another one appeared at the target.
    fn conflict(self, existing: Option<FileStat>) -> Result<Placed, FileRefused> {
        self.discard();
        existing.map(Placed::Different).ok_or(FileRefused::Busy)
    }

    /// Removes the partial file.
    pub(crate) fn discard(mut self) {
        self.quota_entry.left = 0;
        remove(&self.dest, &self.key);
    }
}

fn remove(dest: &Dest, key: &str) {
    if let Err(reason) = rustix::fs::unlinkat(&dest.partial_dir, key, AtFlags::empty()) {
        tracing::debug!(key, %reason, "partial file not removed; a later sweep removes it");
    }
}

/// Opens and locks the partial file of a key. Fails if another transfer has it.
fn open_locked(dest: &Dest, key: &str) -> Result<File, FileRefused> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for _ in 0..OPEN_ATTEMPTS_MAX {
        let file = match rustix::fs::openat(&dest.partial_dir, key, flags, OWNER_READ_WRITE) {
            Err(Errno::ACCESS) => {
                make_writable(dest, key)?;
                continue;
            }
            opened => opened.map_err(refused)?,
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(FileRefused::Busy),
            done => done.map_err(refused)?,
        }
        // Before this lock, another transfer may have moved the file to its target: then this is not the partial file.
        if is_named(dest, key, &file)? {
            return Ok(file.into());
        }
    }
    Err(FileRefused::Busy)
}

/// Makes a partial file writable. If its transfer stopped just before the move to the target, the file already has its final
/// permissions, which may not let its owner open it. Only this user may enter the folder, so changing them is safe.
fn make_writable(dest: &Dest, key: &str) -> Result<(), FileRefused> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(&dest.partial_dir, key, flags, Mode::empty()) {
        Ok(file) => match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Err(FileRefused::Busy),
            Err(reason) => Err(refused(reason)),
            // A file that was moved to its target meanwhile is left unchanged.
            Ok(()) if is_named(dest, key, &file)? => {
                rustix::fs::fchmod(&file, OWNER_READ_WRITE).map_err(refused)
            }
            Ok(()) => Ok(()),
        },
        // The file is not even readable: it is removed, and the transfer starts from the beginning.
        Err(Errno::ACCESS) => match rustix::fs::unlinkat(&dest.partial_dir, key, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            done => done.map_err(refused),
        },
        Err(Errno::NOENT) => Ok(()),
        Err(reason) => Err(refused(reason)),
    }
}

/// Whether an opened file is still the partial file of a key.
fn is_named(dest: &Dest, key: &str, file: impl AsFd) -> Result<bool, FileRefused> {
    let opened = rustix::fs::fstat(file).map_err(refused)?;
    match rustix::fs::statat(&dest.partial_dir, key, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(named) => Ok((named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(reason) => Err(refused(reason)),
    }
}

/// The permissions of a partial file.
const OWNER_READ_WRITE: Mode = Mode::RUSR.union(Mode::WUSR);

/// The most attempts to open a partial file. An attempt fails if another transfer of the path began and ended meanwhile.
const OPEN_ATTEMPTS_MAX: usize = 8;

impl std::fmt::Debug for Partial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partial")
            .field("path", &self.path)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}
