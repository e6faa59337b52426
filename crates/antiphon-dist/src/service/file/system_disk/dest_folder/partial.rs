//! The partial file of a transfer in the state folder of a `dest_path`.
//!
//! Invariant: one transfer at a time has the partial file of a path, also among several processes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use super::provenance::Provenance;
use super::{DestFolder, plain_file_at, refused, rename_new, sandbox, sync_dir};
use crate::service::file::disk::{Moved, PartialFile};
use crate::service::file::outcome::{FileRefused, FileStat};
use crate::service::file::path::TargetPath;

/// A partial file. It is locked as long as this value lives.
pub(super) struct LockedFile {
    dest: Arc<DestFolder>,
    path: TargetPath,
    key: String,
    file: File,
}

impl LockedFile {
    /// Opens the partial file that an earlier transfer left, or creates one; returns its size too.
    pub(super) fn open(dest: Arc<DestFolder>, path: &TargetPath) -> Result<(Self, u64), FileRefused> {
        let key = path.key();
        let file = open_locked(&dest, &key)?;
        let existing = file.metadata().map_err(|reason| FileRefused::from_io(&reason))?.len();
        Ok((Self { dest, path: path.clone(), key, file }, existing))
    }

    /// The file's name.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Sets the permissions, without special bits, and moves the file. The permissions are set last: a transfer that is
    /// interrupted before leaves a file that can be opened and written.
    fn move_to(&self, dir: &OwnedFd, name: &str, stat: &FileStat, overwrite: bool) -> io::Result<()> {
        let permissions = Mode::from_raw_mode((stat.permissions & 0o777) as rustix::fs::RawMode);
        rustix::fs::fchmod(&self.file, permissions)?;
        // The contents are on the disk already, so this is fast.
        self.file.sync_all()?;
        if overwrite {
            rustix::fs::renameat(&self.dest.partial_dir, &self.key, dir, name)?;
        } else {
            rename_new(&self.dest.partial_dir, &self.key, dir, name)?;
        }
        Ok(())
    }
}

impl Read for LockedFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl Write for LockedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for LockedFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl PartialFile for LockedFile {
    fn set_len(&mut self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn finish(&mut self, stat: &FileStat) -> io::Result<()> {
        let modified = Timespec { tv_sec: stat.seconds, tv_nsec: stat.nanos.min(999_999_999).into() };
        let unchanged = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        rustix::fs::futimens(
            &self.file,
            &Timestamps { last_access: unchanged, last_modification: modified },
        )?;
        self.file.sync_all()
    }

    fn move_to_target(&mut self, stat: &FileStat, overwrite: bool) -> Result<Moved, FileRefused> {
        let dest = &self.dest;
        let dir = sandbox::open_dir(&dest.root, self.path.dirs(), sandbox::MissingDir::Create)?;
        let name = self.path.name();
        // A folder or a symlink is not replaced.
        plain_file_at(&dir, name)?;
        let own = rustix::fs::fstat(&self.file).map_err(refused)?;
        Provenance::of(&own).write_pending(&dest.provenance_dir, &self.path)?;
        let replaced = overwrite.then(|| dest.bytes_of(&self.key)).flatten().unwrap_or(0);
        if let Err(reason) = self.move_to(&dir, name, stat, overwrite) {
            Provenance::discard_pending(&dest.provenance_dir, &self.key);
            if Errno::from_io_error(&reason) == Some(Errno::EXIST) {
                return Ok(Moved::Occupied(plain_file_at(&dir, name)?));
            }
            return Err(FileRefused::from_io(&reason));
        }
        Provenance::commit_pending(&dest.provenance_dir, &self.key);
        Ok(Moved::Stored { replaced, flushed: sync_dir(&dir) })
    }

    fn remove(&mut self) {
        if let Err(reason) = rustix::fs::unlinkat(&self.dest.partial_dir, &self.key, AtFlags::empty()) {
            tracing::debug!(key = self.key, %reason, "partial file not removed; a later sweep removes it");
        }
    }
}

/// Opens and locks the partial file of a key. Fails if another transfer has it.
fn open_locked(dest: &DestFolder, key: &str) -> Result<File, FileRefused> {
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
fn make_writable(dest: &DestFolder, key: &str) -> Result<(), FileRefused> {
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
fn is_named(dest: &DestFolder, key: &str, file: impl AsFd) -> Result<bool, FileRefused> {
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
