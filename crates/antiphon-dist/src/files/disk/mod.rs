//! The folder that takes files: everything that touches a receiver's disk. Jobs for helper threads.
//!
//! Invariant: nothing outside of `dest_path` is read, written or removed, whatever names a peer sends and
//! whatever symlinks appear meanwhile: everything is done by descriptors of folders beneath it.
//!
//! What a node must remember stands in `.antiphon` beneath `dest_path`, which only its own user may enter:
//! `partial/`, files that are not whole yet, each locked while a transfer writes to it; `received/`, one record for each
//! file that came from a peer, which tells its inode, size, time and path. A file of that name which has others is not that file.

mod partial;
mod provenance;
mod quota;
mod sandbox;

#[cfg(test)]
mod tests;

pub(crate) use partial::Partial;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::FileRules;
use super::outcome::{FileRefused, FileStat};
use super::path::{STATE_DIR, TargetPath};
use provenance::Provenance;
use quota::DiskQuota;

/// Unfinished files that are kept to be resumed; beyond it the oldest go.
const PARTIALS_MAX: usize = 256;
/// Records that one sweep looks at.
const RECORDS_A_SWEEP: usize = 4096;
/// Room that is left on the disk when a file has been taken.
const ROOM_LEFT_BYTES: u64 = 64 * 1024;

/// The folder of a node's `dest_path`.
#[derive(Debug)]
pub(crate) struct Dest {
    root: OwnedFd,
    partials: OwnedFd,
    records: OwnedFd,
    rules: FileRules,
    quota: Mutex<DiskQuota>,
    /// How many records the last sweeps have looked at, since they began anew.
    pruned: AtomicUsize,
}

/// What a file that is offered meets.
pub(crate) enum Prepared {
    AlreadyThere,
    Different(FileStat),
    /// It may come.
    Open(Box<Partial>),
}

/// What became of a file that is whole.
pub(crate) enum Placed {
    Stored,
    /// Somebody else put another there meanwhile.
    Different(FileStat),
}

impl Dest {
    /// Opens the folder, and makes it if need be.
    pub(crate) fn open(path: &Path, rules: FileRules) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        let root =
            rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY, Mode::empty())?;
        let state = private_dir(&root, STATE_DIR)?;
        let dest = Self {
            partials: private_dir(&state, "partial")?,
            records: private_dir(&state, "received")?,
            root,
            rules,
            quota: Mutex::default(),
            pruned: AtomicUsize::new(0),
        };
        if dest.rules.dest_bytes_max.is_some() {
            dest.recount();
        }
        Ok(dest)
    }

    /// Looks at what is there, and makes room for a file that is offered.
    pub(crate) fn prepare(
        self: &Arc<Self>,
        path: &TargetPath,
        stat: FileStat,
        overwrite: bool,
        whom: &str,
    ) -> Result<Prepared, FileRefused> {
        self.check_size(stat.size)?;
        // Missing folders are made when the file is whole: an offer that comes to nothing leaves none.
        let (dir, is_whole) = sandbox::open_deepest(&self.root, path.dirs())?;
        match if is_whole { look(&dir, path.name())? } else { None } {
            Some(there) if same(&there, &stat) => return Ok(Prepared::AlreadyThere),
            Some(there) if !overwrite => return Ok(Prepared::Different(there)),
            Some(_) | None => {}
        }
        rustix::fs::accessat(&dir, ".", rustix::fs::Access::WRITE_OK, AtFlags::empty()).map_err(refuse)?;
        let partial = Partial::open(self.clone(), path, stat, (overwrite, whom))?;
        Ok(Prepared::Open(Box::new(partial)))
    }

    fn check_size(&self, size: u64) -> Result<(), FileRefused> {
        match self.rules.file_bytes_max {
            Some(max) if size > max => Err(FileRefused::TooLarge { max }),
            Some(_) | None => Ok(()),
        }
    }

    fn quota(&self) -> MutexGuard<'_, DiskQuota> {
        // Sums are whole after each step.
        self.quota.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place in the ledger for a file of somebody's; when all is full, what is here is counted anew first, if that was not
    /// done just now.
    fn charge(&self, key: &str, whom: &str, sizes: (u64, u64)) -> Result<(), FileRefused> {
        let charged = self.quota().begin(key, whom, sizes, &self.rules);
        if !matches!(charged, Err(FileRefused::DestFull { .. })) {
            return charged;
        }
        if self.recount() { self.quota().begin(key, whom, sizes, &self.rules) } else { charged }
    }

    /// Counts what is here: files that are still as they came, and unfinished ones that nobody writes. False if it is too soon
    /// for that.
    #[expect(clippy::disallowed_methods, reason = "disks are looked at in the time of the system")]
    fn recount(&self) -> bool {
        if !self.quota().begin_count(Instant::now()) {
            return false;
        }
        let counted = self.count();
        if let Err(reason) = &counted {
            tracing::warn!(%reason, "the files that came from peers cannot be counted");
        }
        self.quota().end_count(Instant::now(), counted.ok());
        true
    }

    fn count(&self) -> Result<u64, Errno> {
        let received = || {
            let of = |key: &String| self.bytes_of(key);
            Ok::<u64, Errno>(names_in(&self.records)?.iter().filter_map(of).sum())
        };
        let unfinished = || {
            let mut sum = 0;
            for name in names_in(&self.partials)? {
                // By itself: nobody waits for the ledger while a disk is looked at.
                let is_live = self.quota().is_live(&name);
                if !is_live
                    && let Ok(stat) = rustix::fs::statat(&self.partials, &name, AtFlags::SYMLINK_NOFOLLOW)
                {
                    sum += of_stat(&stat).size;
                }
            }
            Ok::<u64, Errno>(sum)
        };
        Ok(received()? + unfinished()?)
    }

    /// The bytes of a file that came from a peer, if it is still there as it came.
    fn bytes_of(&self, key: &str) -> Option<u64> {
        let (record, path) = Provenance::read_with_path(&self.records, key)?;
        let dir = sandbox::open_dir(&self.root, path.dirs(), sandbox::Missing::Refuse).ok()?;
        record.is_of(&stat_at(&dir, path.name()).ok()?).then(|| record.size())
    }

    fn check_room(&self, bytes: u64) -> Result<(), FileRefused> {
        let disk = rustix::fs::fstatvfs(&self.root).map_err(refuse)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if bytes > 0 && bytes.saturating_add(ROOM_LEFT_BYTES) > free {
            return Err(FileRefused::DiskFull);
        }
        Ok(())
    }

    /// Deletes a file that this node received; false when there is none.
    pub(crate) fn delete(&self, path: &TargetPath) -> Result<bool, FileRefused> {
        let dir = match sandbox::open_dir(&self.root, path.dirs(), sandbox::Missing::Refuse) {
            Ok(dir) => dir,
            Err(sandbox::NoDir::Missing) => return Ok(false),
            Err(reason) => return Err(reason.into()),
        };
        if look(&dir, path.name())?.is_none() {
            return Ok(false);
        }
        let key = path.key();
        let record = Provenance::read(&self.records, &key).ok_or(FileRefused::NotReceived)?;
        if !record.is_of(&stat_at(&dir, path.name())?) {
            return Err(FileRefused::NotReceived);
        }
        // Out of the others' sight first: what is looked at then is what is deleted, and nothing that came meanwhile.
        let hidden = format!("{key}.deleted");
        match rustix::fs::renameat(&dir, path.name(), &self.partials, &hidden) {
            Err(Errno::NOENT) => return Ok(false),
            done => done.map_err(refuse)?,
        }
        if !record.is_of(&stat_at(&self.partials, &hidden)?) {
            rename_new(&self.partials, &hidden, &dir, path.name()).map_err(refuse)?;
            return Err(FileRefused::NotReceived);
        }
        rustix::fs::unlinkat(&self.partials, &hidden, AtFlags::empty()).map_err(refuse)?;
        Provenance::remove(&self.records, &key);
        self.quota().gone(record.size());
        sync_dir(&dir)?;
        Ok(true)
    }

    /// Removes unfinished files that are too old or too many, and that nobody writes to; and records of files that are
    /// gone, some each time.
    pub(crate) fn sweep(&self) {
        if let Err(reason) = self.prune_records() {
            tracing::warn!(%reason, "records of received files cannot be listed; all are kept");
        }
        match self.unfinished() {
            Ok(found) => {
                for (place, (age, name)) in found.iter().enumerate() {
                    if *age > self.rules.keep || place >= PARTIALS_MAX {
                        self.remove_unfinished(name);
                    }
                }
            }
            Err(reason) => tracing::warn!(%reason, "unfinished files cannot be listed; old ones are kept"),
        }
    }

    /// Forgets some files that are gone, or are not what was received any more; goes on from there the next time.
    fn prune_records(&self) -> Result<(), Errno> {
        let from = self.pruned.load(Ordering::Relaxed);
        let mut seen = 0;
        for entry in rustix::fs::Dir::read_from(&self.records)?.skip(from).take(RECORDS_A_SWEEP) {
            seen += 1;
            if let Ok(name) = entry?.file_name().to_str() {
                self.prune_record(name);
            }
        }
        let next = if seen < RECORDS_A_SWEEP { 0 } else { from + seen };
        self.pruned.store(next, Ordering::Relaxed);
        Ok(())
    }

    fn prune_record(&self, name: &str) {
        if name.contains('.') {
            // Written aside, and left by a crash; or the folder itself and the one above.
            if rustix::fs::statat(&self.records, name, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| is_plain(&stat) && age_of(&stat) > self.rules.keep)
            {
                Provenance::remove(&self.records, name);
            }
        } else if let Some((record, path)) = Provenance::read_with_path(&self.records, name)
            && path.key() == name
            && !self.has(&path, &record)
        {
            record.forget(&self.records, name);
        }
    }

    /// Whether a file is there that was received; also when that cannot be told.
    fn has(&self, path: &TargetPath, record: &Provenance) -> bool {
        let dir = match sandbox::open_dir(&self.root, path.dirs(), sandbox::Missing::Refuse) {
            Ok(dir) => dir,
            Err(reason) => return !matches!(reason, sandbox::NoDir::Missing),
        };
        match rustix::fs::statat(&dir, path.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => record.is_of(&stat),
            Err(reason) => reason != Errno::NOENT,
        }
    }

    /// Unfinished files and their ages, the youngest first.
    fn unfinished(&self) -> Result<Vec<(Duration, String)>, Errno> {
        let mut found = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.partials)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if let Ok(stat) = rustix::fs::statat(&self.partials, name, AtFlags::SYMLINK_NOFOLLOW)
                && is_plain(&stat)
            {
                found.push((age_of(&stat), name.to_owned()));
            }
        }
        found.sort();
        Ok(found)
    }

    fn remove_unfinished(&self, name: &str) {
        let open = |access| {
            let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(&self.partials, name, flags, Mode::empty())
        };
        // Its permissions may keep its owner from writing, or out, if it was about to be moved to its place. What nobody
        // can open, nobody goes on with: no lock is needed.
        let is_free = match open(OFlags::RDWR).or_else(|_| open(OFlags::RDONLY)) {
            Ok(file) => {
                rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map(|()| Some(file))
            }
            Err(Errno::ACCESS) => Ok(None),
            Err(reason) => Err(reason),
        };
        let Ok(file) = is_free else { return };
        match rustix::fs::unlinkat(&self.partials, name, AtFlags::empty()) {
            Ok(()) => {
                let bytes =
                    file.and_then(|file| rustix::fs::fstat(file).ok()).map_or(0, |stat| of_stat(&stat).size);
                self.quota().gone(bytes);
            }
            Err(reason) => tracing::debug!(name, %reason, "an old unfinished file stays"),
        }
    }
}

/// The names of what is in a folder of this node's own.
fn names_in(dir: &OwnedFd) -> Result<Vec<String>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        if let Ok(name) = entry?.file_name().to_str()
            && !matches!(name, "." | "..")
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// A folder that only this user may enter.
fn private_dir(parent: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let mode = Mode::from_raw_mode(0o700);
    match rustix::fs::mkdirat(parent, name, mode) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(reason) => return Err(reason.into()),
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let dir = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    if rustix::fs::fstat(&dir)?.st_uid != rustix::process::geteuid().as_raw() {
        let text = format!("{name} in it belongs to another user; remove it, or take another folder");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    rustix::fs::fchmod(&dir, mode)?;
    Ok(dir)
}

/// The plain file of a name, if there is one.
fn look(dir: &OwnedFd, name: &str) -> Result<Option<FileStat>, FileRefused> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if is_plain(&stat) => Ok(Some(of_stat(&stat))),
        Ok(_) => Err(FileRefused::NotAFile),
        Err(Errno::NOENT) => Ok(None),
        Err(reason) => Err(refuse(reason)),
    }
}

fn stat_at(dir: &OwnedFd, name: &str) -> Result<Stat, FileRefused> {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(refuse)
}

fn is_plain(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// How long nothing was done to a file. By the time that the system keeps for itself: the other is the sender's to choose,
/// and whole files have that already.
#[expect(clippy::disallowed_methods, reason = "the ages of files are told in the system's time")]
#[expect(clippy::unnecessary_cast, reason = "the types of these fields differ between systems")]
fn age_of(stat: &Stat) -> Duration {
    let nanos = u32::try_from(stat.st_ctime_nsec).unwrap_or(0);
    let touched = FileStat { seconds: stat.st_ctime as i64, nanos, ..of_stat(stat) }.modified();
    SystemTime::now().duration_since(touched).unwrap_or_default()
}

fn same(there: &FileStat, offered: &FileStat) -> bool {
    *there == FileStat { permissions: offered.permissions & 0o777, ..*offered }
}

#[expect(clippy::unnecessary_cast, reason = "the types of these fields differ between systems")]
fn of_stat(stat: &Stat) -> FileStat {
    FileStat {
        size: u64::try_from(stat.st_size).unwrap_or(0),
        seconds: stat.st_mtime as i64,
        nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        permissions: stat.st_mode as u32 & 0o777,
    }
}

/// Moves a file to a name that nothing has.
fn rename_new(from: &OwnedFd, name: &str, to: &OwnedFd, new: &str) -> Result<(), Errno> {
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    match rustix::fs::renameat_with(from, name, to, new, RenameFlags::NOREPLACE) {
        // Not every file system can; then a link, which replaces nothing either.
        Err(Errno::INVAL | Errno::NOSYS) => {}
        done => return done,
    }
    rustix::fs::linkat(from, name, to, new, AtFlags::empty())?;
    rustix::fs::unlinkat(from, name, AtFlags::empty())
}

/// What was done in a folder outlives a power cut.
fn sync_dir(dir: &OwnedFd) -> Result<(), FileRefused> {
    let dir = dir.as_fd().try_clone_to_owned().map_err(|reason| refuse_io(&reason))?;
    File::from(dir).sync_all().map_err(|reason| refuse_io(&reason))
}

fn refuse_io(reason: &io::Error) -> FileRefused {
    Errno::from_io_error(reason).map_or_else(|| FileRefused::Disk(reason.to_string()), refuse)
}

fn refuse(reason: Errno) -> FileRefused {
    match reason {
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => FileRefused::DiskFull,
        Errno::ROFS | Errno::ACCESS | Errno::PERM => FileRefused::ReadOnly,
        Errno::LOOP | Errno::NOTDIR | Errno::ISDIR => FileRefused::NotAFile,
        Errno::XDEV => FileRefused::OtherFileSystem,
        other => FileRefused::Disk(other.to_string()),
    }
}
