//! The folder for received files: everything that touches a receiver's disk. All functions here block: they run in the
//! blocking pool.
//!
//! Invariant: nothing outside of `dest_path` is read, written or removed, whatever names a peer sends and
//! whatever symlinks appear meanwhile. All operations are relative to descriptors of folders beneath it.
//!
//! The state of a node is in `.antiphon` beneath `dest_path`, which only its own user may enter:
//!
//! - `partial/` holds the partial files. Each is locked while a transfer writes to it.
//! - `received/` holds one provenance for each file that came from a peer: its inode, size, time and path. A file whose
//!   inode, size or time differs is not the received file.

mod partial;
mod provenance;
mod sandbox;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Mutex, MutexGuard};
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use crate::service::file::FileRules;
use crate::service::file::disk::{Dest, PartialFile, Prepared};
use crate::service::file::outcome::{FileRefused, FileStat};
use crate::service::file::partial::{Partial, QuotaEntry};
use crate::service::file::path::{STATE_DIR, TargetPath};
use crate::service::file::quota::DiskQuota;
use partial::LockedFile;
use provenance::Provenance;

/// The most partial files that are kept to be resumed. A sweep removes the oldest ones beyond that.
const PARTIALS_MAX: usize = 256;
/// The most provenance files that one sweep examines.
const PROVENANCES_PER_SWEEP: usize = 4096;
/// The bytes that an accepted file must leave free on the disk.
const FREE_BYTES_MIN: u64 = 64 * 1024;

/// The folder of a node's `dest_path`.
#[derive(Debug)]
pub(crate) struct DestFolder {
    root: OwnedFd,
    partial_dir: OwnedFd,
    provenance_dir: OwnedFd,
    rules: FileRules,
    quota: Arc<Mutex<DiskQuota>>,
    /// The position in `provenance_dir` at which the next sweep continues.
    prune_position: AtomicUsize,
}

impl DestFolder {
    /// Opens the folder, and creates it if it is missing.
    pub(crate) fn open(path: &Path, rules: FileRules) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        let root =
            rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY, Mode::empty())?;
        let state = private_dir(&root, STATE_DIR)?;
        let dest = Self {
            partial_dir: private_dir(&state, "partial")?,
            provenance_dir: private_dir(&state, "received")?,
            root,
            rules,
            quota: Arc::default(),
            prune_position: AtomicUsize::new(0),
        };
        if dest.rules.dest_bytes_max.is_some() {
            dest.recount();
        }
        Ok(dest)
    }

    fn quota(&self) -> MutexGuard<'_, DiskQuota> {
        self.quota.lock()
    }

    /// Charges a file to an account. If the folder seems to be full, its files are counted again first, unless that was done
    /// just before.
    fn charge(&self, key: &str, account: &str, sizes: (u64, u64)) -> Result<(), FileRefused> {
        let charged = self.quota().begin(key, account, sizes, &self.rules);
        if !matches!(charged, Err(FileRefused::DestFull { .. })) {
            return charged;
        }
        if self.recount() { self.quota().begin(key, account, sizes, &self.rules) } else { charged }
    }

    /// Counts the bytes of the folder: received files that are unchanged, and partial files without a transfer. Returns false
    /// if it is too early to count again.
    #[expect(clippy::disallowed_methods, reason = "the pauses between counts are in real time")]
    fn recount(&self) -> bool {
        if !self.quota().begin_count(Instant::now()) {
            return false;
        }
        let counted = self.count();
        if let Err(reason) = &counted {
            tracing::warn!(%reason, "received files not counted; the quota keeps its last sum");
        }
        self.quota().end_count(Instant::now(), counted.ok());
        true
    }

    fn count(&self) -> Result<u64, Errno> {
        let received = || {
            let of = |key: &String| self.bytes_of(key);
            Ok::<u64, Errno>(names_in(&self.provenance_dir)?.iter().filter_map(of).sum())
        };
        let partial = || {
            let mut sum = 0;
            for name in names_in(&self.partial_dir)? {
                // A statement of its own, which unlocks the quota before the disk is accessed.
                let is_active = self.quota().is_active(&name);
                if !is_active
                    && let Ok(stat) = rustix::fs::statat(&self.partial_dir, &name, AtFlags::SYMLINK_NOFOLLOW)
                {
                    sum += file_stat(&stat).size;
                }
            }
            Ok::<u64, Errno>(sum)
        };
        Ok(received()? + partial()?)
    }

    /// Returns the size of a received file, if it is unchanged.
    fn bytes_of(&self, key: &str) -> Option<u64> {
        let (provenance, path) = Provenance::read_with_path(&self.provenance_dir, key)?;
        let dir = sandbox::open_dir(&self.root, path.dirs(), sandbox::MissingDir::Refuse).ok()?;
        provenance.matches(&stat_at(&dir, path.name()).ok()?).then(|| provenance.size())
    }

    fn check_room(&self, bytes: u64) -> Result<(), FileRefused> {
        let disk = rustix::fs::fstatvfs(&self.root).map_err(refused)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if bytes > 0 && bytes.saturating_add(FREE_BYTES_MIN) > free {
            return Err(FileRefused::DiskFull);
        }
        Ok(())
    }

    /// Removes the provenance of some files that are gone or changed. The next call continues at the next file.
    fn prune_provenances(&self) -> Result<(), Errno> {
        let from = self.prune_position.load(Ordering::Relaxed);
        let mut seen = 0;
        for entry in rustix::fs::Dir::read_from(&self.provenance_dir)?.skip(from).take(PROVENANCES_PER_SWEEP)
        {
            seen += 1;
            if let Ok(name) = entry?.file_name().to_str() {
                self.prune_provenance(name);
            }
        }
        let next = if seen < PROVENANCES_PER_SWEEP { 0 } else { from + seen };
        self.prune_position.store(next, Ordering::Relaxed);
        Ok(())
    }

    fn prune_provenance(&self, name: &str) {
        if name.contains('.') {
            // A pending provenance that a crash has left; or the folder itself, or its parent.
            if rustix::fs::statat(&self.provenance_dir, name, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| is_plain_file(&stat) && age_of(&stat) > self.rules.keep)
            {
                Provenance::remove(&self.provenance_dir, name);
            }
        } else if let Some((provenance, path)) = Provenance::read_with_path(&self.provenance_dir, name)
            && path.key() == name
            && !self.may_have(&path, &provenance)
        {
            provenance.forget(&self.provenance_dir, name);
        }
    }

    /// Whether a received file still exists unchanged. Also true if that cannot be determined.
    fn may_have(&self, path: &TargetPath, provenance: &Provenance) -> bool {
        let dir = match sandbox::open_dir(&self.root, path.dirs(), sandbox::MissingDir::Refuse) {
            Ok(dir) => dir,
            Err(reason) => return !matches!(reason, sandbox::OpenDirError::Missing),
        };
        match rustix::fs::statat(&dir, path.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => provenance.matches(&stat),
            Err(reason) => reason != Errno::NOENT,
        }
    }

    /// Returns the ages and names of the partial files, the youngest first.
    fn partials_by_age(&self) -> Result<Vec<(Duration, String)>, Errno> {
        let mut found = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.partial_dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if let Ok(stat) = rustix::fs::statat(&self.partial_dir, name, AtFlags::SYMLINK_NOFOLLOW)
                && is_plain_file(&stat)
            {
                found.push((age_of(&stat), name.to_owned()));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Removes a partial file, unless a transfer has it locked.
    fn remove_partial(&self, name: &str) {
        let open = |access| {
            let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(&self.partial_dir, name, flags, Mode::empty())
        };
        // If its transfer stopped just before the move to the target, the permissions may not let the owner write or open
        // the file. No transfer can have locked a file that cannot be opened, so no lock is needed.
        let locked = match open(OFlags::RDWR).or_else(|_| open(OFlags::RDONLY)) {
            Ok(file) => {
                rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map(|()| Some(file))
            }
            Err(Errno::ACCESS) => Ok(None),
            Err(reason) => Err(reason),
        };
        let Ok(file) = locked else { return };
        match rustix::fs::unlinkat(&self.partial_dir, name, AtFlags::empty()) {
            Ok(()) => {
                let bytes = file
                    .and_then(|file| rustix::fs::fstat(file).ok())
                    .map_or(0, |stat| file_stat(&stat).size);
                self.quota().subtract(bytes);
            }
            Err(reason) => tracing::debug!(name, %reason, "partial file not removed"),
        }
    }
}

impl Dest for DestFolder {
    fn prepare(
        self: Arc<Self>,
        path: &TargetPath,
        stat: FileStat,
        overwrite: bool,
        account: &str,
    ) -> Result<Prepared, FileRefused> {
        self.rules.check_size(stat.size)?;
        // Missing folders are created when the file is complete: an offer without a transfer leaves none.
        let (dir, has_parent) = sandbox::open_deepest(&self.root, path.dirs())?;
        if has_parent
            && let Some(existing) = plain_file_at(&dir, path.name())?
            && let Some(prepared) = Prepared::of_existing(existing, &stat, overwrite)
        {
            return Ok(prepared);
        }
        rustix::fs::accessat(&dir, ".", rustix::fs::Access::WRITE_OK, AtFlags::empty()).map_err(refused)?;
        let (mut file, existing) = LockedFile::open(self.clone(), path)?;
        let room = self.check_room(stat.size.saturating_sub(existing));
        if let Err(reason) = room.and_then(|()| self.charge(file.key(), account, (stat.size, existing))) {
            // The bytes of an earlier transfer stay: the next offer may be of that file again.
            if existing == 0 {
                file.remove();
            }
            return Err(reason);
        }
        let quota_entry = QuotaEntry::new(self.quota.clone(), file.key().to_owned(), existing);
        Ok(Prepared::Open(Box::new(Partial::new(Box::new(file), quota_entry, stat, overwrite)?)))
    }

    fn delete(&self, path: &TargetPath) -> Result<bool, FileRefused> {
        let dir = match sandbox::open_dir(&self.root, path.dirs(), sandbox::MissingDir::Refuse) {
            Ok(dir) => dir,
            Err(sandbox::OpenDirError::Missing) => return Ok(false),
            Err(reason) => return Err(reason.into()),
        };
        if plain_file_at(&dir, path.name())?.is_none() {
            return Ok(false);
        }
        let key = path.key();
        let provenance = Provenance::read(&self.provenance_dir, &key).ok_or(FileRefused::NotReceived)?;
        if !provenance.matches(&stat_at(&dir, path.name())?) {
            return Err(FileRefused::NotReceived);
        }
        // The file is first moved out of its folder. So the file that is checked below is the file that is deleted, even if
        // another one gets its name meanwhile.
        let hidden = format!("{key}.deleted");
        match rustix::fs::renameat(&dir, path.name(), &self.partial_dir, &hidden) {
            Err(Errno::NOENT) => return Ok(false),
            done => done.map_err(refused)?,
        }
        if !provenance.matches(&stat_at(&self.partial_dir, &hidden)?) {
            rename_new(&self.partial_dir, &hidden, &dir, path.name()).map_err(refused)?;
            return Err(FileRefused::NotReceived);
        }
        rustix::fs::unlinkat(&self.partial_dir, &hidden, AtFlags::empty()).map_err(refused)?;
        Provenance::remove(&self.provenance_dir, &key);
        self.quota().subtract(provenance.size());
        sync_dir(&dir)?;
        Ok(true)
    }

    /// Also removes the provenance of files that are gone. One sweep examines at most [`PROVENANCES_PER_SWEEP`].
    fn sweep(&self) {
        if let Err(reason) = self.prune_provenances() {
            tracing::warn!(%reason, "provenance of received files not listed; all is kept");
        }
        match self.partials_by_age() {
            Ok(found) => {
                for (position, (age, name)) in found.iter().enumerate() {
                    if *age > self.rules.keep || position >= PARTIALS_MAX {
                        self.remove_partial(name);
                    }
                }
            }
            Err(reason) => tracing::warn!(%reason, "partial files not listed; all are kept"),
        }
    }
}

/// Returns the names of the entries of a folder.
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

/// Opens a folder that only this user may enter, and creates it if it is missing.
fn private_dir(parent: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let mode = Mode::from_raw_mode(0o700);
    match rustix::fs::mkdirat(parent, name, mode) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(reason) => return Err(reason.into()),
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let dir = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    if rustix::fs::fstat(&dir)?.st_uid != rustix::process::geteuid().as_raw() {
        let text =
            format!("the folder {name} in it belongs to another user; remove it, or use another folder");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    rustix::fs::fchmod(&dir, mode)?;
    Ok(dir)
}

/// Returns the metadata of the plain file with a name, if there is one. Fails for anything but a plain file.
fn plain_file_at(dir: &OwnedFd, name: &str) -> Result<Option<FileStat>, FileRefused> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if is_plain_file(&stat) => Ok(Some(file_stat(&stat))),
        Ok(_) => Err(FileRefused::NotAFile),
        Err(Errno::NOENT) => Ok(None),
        Err(reason) => Err(refused(reason)),
    }
}

fn stat_at(dir: &OwnedFd, name: &str) -> Result<Stat, FileRefused> {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(refused)
}

fn is_plain_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// Returns the time since the last change of a file by its status change time. The modification time is no measure: the
/// sender chooses it, and complete files have it already.
#[expect(clippy::disallowed_methods, reason = "file systems keep the times of files in system time")]
#[expect(clippy::unnecessary_cast, reason = "the types of these fields differ between systems")]
fn age_of(stat: &Stat) -> Duration {
    let nanos = u32::try_from(stat.st_ctime_nsec).unwrap_or(0);
    let changed = FileStat { seconds: stat.st_ctime as i64, nanos, ..file_stat(stat) }.modified();
    SystemTime::now().duration_since(changed).unwrap_or_default()
}

#[expect(clippy::unnecessary_cast, reason = "the types of these fields differ between systems")]
fn file_stat(stat: &Stat) -> FileStat {
    FileStat {
        size: u64::try_from(stat.st_size).unwrap_or(0),
        seconds: stat.st_mtime as i64,
        nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        permissions: stat.st_mode as u32 & 0o777,
    }
}

/// Moves a file to an unused name. Fails with `EXIST` if the name is in use.
fn rename_new(from: &OwnedFd, name: &str, to: &OwnedFd, new: &str) -> Result<(), Errno> {
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    match rustix::fs::renameat_with(from, name, to, new, RenameFlags::NOREPLACE) {
        // Not every file system supports this. Then a hard link is used, which replaces nothing either.
        Err(Errno::INVAL | Errno::NOSYS) => {}
        done => return done,
    }
    rustix::fs::linkat(from, name, to, new, AtFlags::empty())?;
    rustix::fs::unlinkat(from, name, AtFlags::empty())
}

/// Flushes a folder to the disk, so that its changes survive a power failure.
fn sync_dir(dir: &OwnedFd) -> Result<(), FileRefused> {
    let dir = dir.as_fd().try_clone_to_owned().map_err(|reason| FileRefused::from_io(&reason))?;
    File::from(dir).sync_all().map_err(|reason| FileRefused::from_io(&reason))
}

fn refused(reason: Errno) -> FileRefused {
    match reason {
        Errno::LOOP => FileRefused::NotAFile,
        other => FileRefused::from_io(&other.into()),
    }
}
