//! A file that is being received, until it is whole and in its place.
//!
//! Invariants: one transfer at a time has a path's partial file, in whatever process; the file at the target
//! stays as it was until the new one, whole and on disk, takes its place in one step.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use antiphon_sched::Bytes;
use blake3::Hasher;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use super::provenance::Provenance;
use super::quota::of_use;
use super::{Dest, Placed, look, refuse, refuse_io, rename_new, sandbox, sync_dir};
use crate::files::outcome::{FileRefused, FileStat};
use crate::files::path::TargetPath;
use crate::files::source::{HASHED_AT_ONCE, hash_some};

/// A file that is not whole yet. It is locked as long as this lives.
pub(crate) struct Partial {
    /// Before the file, and so closed before the lock is given up: the next transfer has its own.
    account: QuotaEntry,
    dest: Arc<Dest>,
    path: TargetPath,
    key: String,
    stat: FileStat,
    overwrite: bool,
    file: File,
    hasher: Box<Hasher>,
    /// Bytes from the beginning that the hash covers: where the file is written next, once all is hashed.
    at: u64,
    /// Bytes that an earlier transfer had brought.
    have: u64,
}

/// A file's place in the ledger, until its transfer ends.
struct QuotaEntry {
    dest: Arc<Dest>,
    key: String,
    /// What it leaves.
    left: u64,
    /// What has come, whatever became of it.
    came: u64,
}

impl Drop for QuotaEntry {
    fn drop(&mut self) {
        self.dest.quota().end(&self.key, (self.left, self.came));
    }
}

impl Partial {
    /// Opens what an earlier transfer left, or begins.
    pub(super) fn open(
        dest: Arc<Dest>,
        path: &TargetPath,
        stat: FileStat,
        (overwrite, whom): (bool, &str),
    ) -> Result<Self, FileRefused> {
        let key = path.key();
        let file = open_locked(&dest, &key)?;
        let there = file.metadata().map_err(|reason| refuse_io(&reason))?.len();
        let room = dest.check_room(stat.size.saturating_sub(there));
        if let Err(reason) = room.and_then(|()| dest.charge(&key, whom, (stat.size, there))) {
            // What an earlier transfer left stays: the next offer may be of that file again.
            if there == 0 {
                remove(&dest, &key);
            }
            return Err(reason);
        }
        let mut account = QuotaEntry { dest: dest.clone(), key: key.clone(), left: there, came: 0 };
        let have = of_use(there, stat.size);
        if have < there {
            file.set_len(have).map_err(|reason| refuse_io(&reason))?;
            account.left = have;
        }
        let path = path.clone();
        Ok(Self { dest, path, key, stat, overwrite, file, hasher: Box::default(), at: 0, have, account })
    }

    /// Bytes that are there.
    pub(crate) fn have(&self) -> u64 {
        self.have
    }

    /// Bytes that are written and hashed.
    pub(crate) fn written(&self) -> u64 {
        self.at
    }

    /// Hashes some of what is there; true when all is hashed.
    pub(crate) fn hash_some(&mut self) -> Result<bool, FileRefused> {
        let count = (self.have - self.at).min(HASHED_AT_ONCE);
        let hashed =
            hash_some(&mut self.file, &mut self.hasher, count).map_err(|reason| refuse_io(&reason))?;
        self.at += hashed;
        if hashed < count {
            return Err(FileRefused::Disk("an unfinished file was cut short by somebody".to_owned()));
        }
        Ok(self.at == self.have)
    }

    /// The hash of what is written.
    pub(crate) fn hash(&self) -> [u8; 32] {
        self.hasher.finalize().into()
    }

    /// What is there is of no use: begins again.
    pub(crate) fn restart(&mut self) -> Result<(), FileRefused> {
        self.hasher.reset();
        self.at = 0;
        self.have = 0;
        self.account.left = 0;
        self.file.set_len(0).map_err(|reason| refuse_io(&reason))
    }

    /// Whether there is nothing to go on with.
    pub(crate) fn is_empty(&self) -> bool {
        self.have == 0 && self.at == 0
    }

    /// Writes what came. A file for which there is no room makes room.
    pub(crate) fn write(mut self: Box<Self>, chunks: &[Bytes]) -> Result<Box<Self>, FileRefused> {
        match self.append(chunks) {
            Ok(()) => Ok(self),
            Err(reason) => Err(self.give_up(&reason)),
        }
    }

    fn append(&mut self, chunks: &[Bytes]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.at))?;
        for chunk in chunks {
            self.file.write_all(chunk.as_ref())?;
            self.hasher.update(chunk.as_ref());
            self.at += chunk.as_ref().len() as u64;
            self.account.left = self.account.left.max(self.at);
            self.account.came += chunk.as_ref().len() as u64;
        }
        Ok(())
    }

    fn give_up(self, reason: &io::Error) -> FileRefused {
        let reason = refuse_io(reason);
        if reason == FileRefused::DiskFull {
            self.discard();
        }
        reason
    }

    /// Puts the file, which is whole, in its place; what is no such file is removed.
    pub(crate) fn place(self, hash: &[u8]) -> Result<Placed, FileRefused> {
        if self.at != self.stat.size || hash != self.hash() {
            self.discard();
            return Err(FileRefused::Corrupt);
        }
        if let Err(reason) = self.dress() {
            return Err(self.give_up(&reason));
        }
        let dir = sandbox::open_dir(&self.dest.root, self.path.dirs(), sandbox::Missing::Make)?;
        let name = self.path.name();
        // A folder, or a symlink, is not replaced.
        look(&dir, name)?;
        let stat = rustix::fs::fstat(&self.file).map_err(refuse)?;
        Provenance::of(&stat).write_aside(&self.dest.records, &self.path)?;
        let replaced = self.overwrite.then(|| self.dest.bytes_of(&self.key)).flatten().unwrap_or(0);
        if let Err(reason) = self.move_to(&dir, name) {
            Provenance::drop_aside(&self.dest.records, &self.key);
            if Errno::from_io_error(&reason) == Some(Errno::EXIST) {
                let there = look(&dir, name)?;
                return self.meet(there);
            }
            return Err(refuse_io(&reason));
        }
        self.dest.quota().gone(replaced);
        Provenance::settle(&self.dest.records, &self.key);
        sync_dir(&dir)?;
        Ok(Placed::Stored)
    }

    /// Gives the file its time, and has it written to the disk.
    fn dress(&self) -> io::Result<()> {
        let changed =
            Timespec { tv_sec: self.stat.seconds, tv_nsec: self.stat.nanos.min(999_999_999).into() };
        let kept = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        rustix::fs::futimens(&self.file, &Timestamps { last_access: kept, last_modification: changed })?;
        self.file.sync_all()
    }

    /// Gives the file its permissions, without special bits, and moves it. They come last: what is interrupted
    /// before is still a file that can be opened and written.
    fn move_to(&self, dir: &OwnedFd, name: &str) -> io::Result<()> {
        let permissions = Mode::from_raw_mode((self.stat.permissions & 0o777) as rustix::fs::RawMode);
        rustix::fs::fchmod(&self.file, permissions)?;
        // Its bytes are on the disk already: this is quick.
        self.file.sync_all()?;
        match self.overwrite {
            true => rustix::fs::renameat(&self.dest.partials, &self.key, dir, name)?,
            false => rename_new(&self.dest.partials, &self.key, dir, name)?,
        }
        Ok(())
    }

    /// Another file came first.
    fn meet(self, there: Option<FileStat>) -> Result<Placed, FileRefused> {
        self.discard();
        there.map(Placed::Different).ok_or(FileRefused::Busy)
    }

    /// Removes the file.
    pub(crate) fn discard(mut self) {
        self.account.left = 0;
        remove(&self.dest, &self.key);
    }
}

fn remove(dest: &Dest, key: &str) {
    if let Err(reason) = rustix::fs::unlinkat(&dest.partials, key, AtFlags::empty()) {
        tracing::debug!(key, %reason, "an unfinished file stays until it is old");
    }
}

/// Opens a partial file that nobody else has.
fn open_locked(dest: &Dest, key: &str) -> Result<File, FileRefused> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for _ in 0..OPENED_AT_MOST {
        let file = match rustix::fs::openat(&dest.partials, key, flags, OWN) {
            Err(Errno::ACCESS) => {
                make_writable(dest, key)?;
                continue;
            }
            opened => opened.map_err(refuse)?,
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(FileRefused::Busy),
            done => done.map_err(refuse)?,
        }
        // While it was locked by somebody else it may have been moved to its place: it is another file then.
        if is_named(dest, key, &file)? {
            return Ok(file.into());
        }
    }
    Err(FileRefused::Busy)
}

/// A partial file that was about to be moved to its place may have its permissions already, and these may keep its
/// owner out. Nobody but this user gets into the folder: so it is ours to change.
fn make_writable(dest: &Dest, key: &str) -> Result<(), FileRefused> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(&dest.partials, key, flags, Mode::empty()) {
        Ok(file) => match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Err(FileRefused::Busy),
            Err(reason) => Err(refuse(reason)),
            // Unless it has been moved meanwhile: then it is not ours any more.
            Ok(()) if is_named(dest, key, &file)? => rustix::fs::fchmod(&file, OWN).map_err(refuse),
            Ok(()) => Ok(()),
        },
        // It cannot even be read: it begins anew.
        Err(Errno::ACCESS) => match rustix::fs::unlinkat(&dest.partials, key, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            done => done.map_err(refuse),
        },
        Err(Errno::NOENT) => Ok(()),
        Err(reason) => Err(refuse(reason)),
    }
}

/// Whether a file that was opened still has the name.
fn is_named(dest: &Dest, key: &str, file: impl AsFd) -> Result<bool, FileRefused> {
    let opened = rustix::fs::fstat(file).map_err(refuse)?;
    match rustix::fs::statat(&dest.partials, key, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(named) => Ok((named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(reason) => Err(refuse(reason)),
    }
}

/// The permissions of a file that is not whole.
const OWN: Mode = Mode::RUSR.union(Mode::WUSR);

/// Each time, another transfer of the same path has begun and ended meanwhile.
const OPENED_AT_MOST: usize = 8;

impl std::fmt::Debug for Partial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partial").field("path", &self.path).field("at", &self.at).finish_non_exhaustive()
    }
}
