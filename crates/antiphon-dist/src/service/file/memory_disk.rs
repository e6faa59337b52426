//! The disk of a simulated node: in memory, with a capacity and a speed, and with errors on demand.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use antiphon_sched::{Loop, Time};
use parking_lot::Mutex;

use super::FileRules;
use super::disk::{Dest, Disk, Moved, OpenFile, PartialFile, Prepared};
use super::outcome::{FileRefused, FileStat, SourceError};
use super::partial::{Partial, QuotaEntry};
use super::path::TargetPath;
use super::quota::DiskQuota;
use crate::config::Config;
use crate::error::NodeError;

/// A disk in memory, for simulated nodes: the file service of a node works on it as on a real disk.
///
/// A clone is the same disk. What is on it survives the crash of its node; files that were being received stay as partial
/// files, and are resumed. All files are plain files, each folder exists, and permissions restrict nobody.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<DiskState>>,
}

#[derive(Debug, Default)]
struct DiskState {
    files: BTreeMap<PathBuf, MemoryFile>,
    /// The partial files of each `dest_path`, by the keys of their paths.
    partials: BTreeMap<(PathBuf, String), PartialData>,
    /// The files that came from peers, by their paths: the numbers of their contents.
    received: BTreeMap<PathBuf, u64>,
    capacity: Option<u64>,
    error: Option<io::ErrorKind>,
    latency: Duration,
    bytes_per_second: Option<u64>,
    now: Time,
    /// The time that the running job has taken so far.
    spent: Duration,
    /// When the disk has done all that it was given so far.
    idle_at: Time,
    /// The number of the last content that was written.
    contents: u64,
}

#[derive(Clone, Debug)]
struct MemoryFile {
    bytes: Arc<Vec<u8>>,
    stat: FileStat,
    /// Tells this content from others with the same size and time.
    content: u64,
}

#[derive(Debug, Default)]
struct PartialData {
    bytes: Vec<u8>,
    is_locked: bool,
    changed: Time,
}

impl MemoryDisk {
    /// An empty disk without limits, whose operations take no time.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes a file, and replaces one of that path. This takes no time, and no limit applies.
    pub fn write(&self, path: impl AsRef<Path>, bytes: impl Into<Vec<u8>>) {
        let mut state = self.state.lock();
        state.contents += 1;
        let (bytes, content) = (bytes.into(), state.contents);
        let stat = FileStat {
            size: bytes.len() as u64,
            seconds: i64::try_from(state.now.as_nanos() / 1_000_000_000).unwrap_or(i64::MAX),
            // Two writes in one second have different times, as on a real disk.
            nanos: (content % 1_000_000_000) as u32,
            permissions: 0o644,
        };
        state.files.insert(plain(path.as_ref()), MemoryFile { bytes: Arc::new(bytes), stat, content });
    }

    /// Returns the bytes of a file, if there is one.
    pub fn read(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        self.state.lock().files.get(&plain(path.as_ref())).map(|file| file.bytes.to_vec())
    }

    /// Removes a file; returns whether there was one.
    pub fn remove(&self, path: impl AsRef<Path>) -> bool {
        self.state.lock().files.remove(&plain(path.as_ref())).is_some()
    }

    /// The paths of all files, without partial files.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.state.lock().files.keys().cloned().collect()
    }

    /// The bytes of the partial files: of transfers that run, or were interrupted.
    pub fn partial_bytes(&self) -> u64 {
        self.state.lock().partials.values().map(|partial| partial.bytes.len() as u64).sum()
    }

    /// Sets the capacity in bytes; `None`: no limit. A file that exceeds it is refused with [`FileRefused::DiskFull`].
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity = bytes;
    }

    /// Sets the time of each operation, and the bytes that are read or written in a second (`None`: without limit). An
    /// operation has its effect when it starts: up to 1 MiB of a received file appears at once, and the receiver goes on when the
    /// time for it has passed.
    pub fn set_speed(&self, latency: Duration, bytes_per_second: Option<u64>) {
        let mut state = self.state.lock();
        (state.latency, state.bytes_per_second) = (latency, bytes_per_second);
    }

    /// Lets all operations of the node fail with this error, until `None` is set.
    pub fn set_error(&self, error: Option<io::ErrorKind>) {
        self.state.lock().error = error;
    }

    /// Starts the services of a simulated node, with files on this disk.
    ///
    /// # Errors
    /// The folder for received files cannot be opened: an error is set.
    #[doc(hidden)]
    pub fn start_services(&self, config: &Config, sched: &mut Loop) -> Result<(), NodeError> {
        crate::service::start_on(Arc::new(self.clone()), config, sched)
    }

    /// Sets the time, from which ages and modification times count.
    #[doc(hidden)]
    pub fn set_now(&self, now: Time) {
        self.state.lock().now = now;
    }

    /// Ends a job that has just used the disk, and returns how long it takes. Jobs take their turns.
    #[doc(hidden)]
    pub fn end_job(&self, now: Time) -> Duration {
        let mut state = self.state.lock();
        let spent = std::mem::take(&mut state.spent);
        if spent.is_zero() {
            return Duration::ZERO;
        }
        state.idle_at = state.idle_at.max(now) + spent;
        state.idle_at.since(now)
    }
}

impl DiskState {
    /// Spends the time of one operation on `bytes` bytes.
    fn spend(&mut self, bytes: usize) -> io::Result<()> {
        self.spent += self.latency;
        self.transfer(bytes);
        self.error.map_or(Ok(()), |kind| Err(kind.into()))
    }

    /// Spends the time in which `bytes` bytes are read or written.
    fn transfer(&mut self, bytes: usize) {
        if let Some(rate) = self.bytes_per_second {
            self.spent += Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        }
    }

    fn used(&self) -> u64 {
        let files = self.files.values().map(|file| file.bytes.len());
        files.chain(self.partials.values().map(|partial| partial.bytes.len())).sum::<usize>() as u64
    }

    /// The free bytes; `None`: no limit.
    fn free(&self) -> Option<u64> {
        self.capacity.map(|capacity| capacity.saturating_sub(self.used()))
    }

    /// The size of the file at a path, if it is there as it was received.
    fn received_bytes(&self, path: &Path) -> Option<u64> {
        let file = self.files.get(path)?;
        (self.received.get(path) == Some(&file.content)).then_some(file.stat.size)
    }
}

impl Disk for MemoryDisk {
    fn open_file(&self, path: &Path) -> Result<Box<dyn OpenFile>, SourceError> {
        let path = plain(path);
        let mut state = self.state.lock();
        state.spend(0).map_err(|reason| SourceError::from_io(&reason))?;
        let file = state.files.get(&path).ok_or(SourceError::NotFound)?.clone();
        Ok(Box::new(MemorySource { disk: self.clone(), path, file, at: 0 }))
    }

    fn open_dest(&self, path: &Path, rules: FileRules) -> io::Result<Arc<dyn Dest>> {
        let root = plain(path);
        let mut state = self.state.lock();
        state.spend(0)?;
        // The node is only being made: no time passes.
        state.spent = Duration::ZERO;
        // The transfers of an earlier run of the node are over.
        let partials = state.partials.iter_mut().filter(|((of, _), _)| *of == root);
        let partial_bytes: u64 = partials
            .map(|(_, partial)| {
                partial.is_locked = false;
                partial.bytes.len() as u64
            })
            .sum();
        let received = state.received.keys().filter(|path| path.starts_with(&root));
        let stored = received.filter_map(|path| state.received_bytes(path)).sum::<u64>() + partial_bytes;
        let quota = Arc::new(Mutex::new(DiskQuota::with_stored(stored)));
        Ok(Arc::new(MemoryDest { disk: self.clone(), root, rules, quota }))
    }
}

/// An open file. As on a real disk, it keeps its contents when another file takes its path, and sees when it is rewritten.
struct MemorySource {
    disk: MemoryDisk,
    path: PathBuf,
    file: MemoryFile,
    at: u64,
}

impl Read for MemorySource {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = read_at(&self.file.bytes, &mut self.at, buffer);
        self.disk.state.lock().spend(count)?;
        Ok(count)
    }
}

impl Seek for MemorySource {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        seek_to(&mut self.at, self.file.bytes.len(), to)
    }
}

impl OpenFile for MemorySource {
    fn stat(&self) -> Result<FileStat, SourceError> {
        let mut state = self.disk.state.lock();
        state.spend(0).map_err(|reason| SourceError::from_io(&reason))?;
        Ok(state.files.get(&self.path).map_or(self.file.stat, |file| file.stat))
    }
}

#[derive(Debug)]
struct MemoryDest {
    disk: MemoryDisk,
    root: PathBuf,
    rules: FileRules,
    quota: Arc<Mutex<DiskQuota>>,
}

impl MemoryDest {
    fn target(&self, path: &TargetPath) -> PathBuf {
        self.root.join(path.text())
    }
}

impl Dest for MemoryDest {
    fn prepare(
        self: Arc<Self>,
        path: &TargetPath,
        stat: FileStat,
        overwrite: bool,
        account: &str,
    ) -> Result<Prepared, FileRefused> {
        self.rules.check_size(stat.size)?;
        let (target, key) = (self.target(path), path.key());
        let mut state = self.disk.state.lock();
        state.spend(0).map_err(|reason| FileRefused::from_io(&reason))?;
        if let Some(existing) = state.files.get(&target)
            && let Some(prepared) = Prepared::of_existing(existing.stat, &stat, overwrite)
        {
            return Ok(prepared);
        }
        let partial = state.partials.get(&(self.root.clone(), key.clone()));
        if partial.is_some_and(|partial| partial.is_locked) {
            return Err(FileRefused::Busy);
        }
        let existing = partial.map_or(0, |partial| partial.bytes.len() as u64);
        if state.free().is_some_and(|free| stat.size.saturating_sub(existing) > free) {
            return Err(FileRefused::DiskFull);
        }
        self.quota.lock().begin(&key, account, (stat.size, existing), &self.rules)?;
        let partial = state.partials.entry((self.root.clone(), key.clone())).or_default();
        partial.is_locked = true;
        drop(state);
        let file = MemoryPartial { dest: self.clone(), target, key: key.clone(), at: 0 };
        let quota_entry = QuotaEntry::new(self.quota.clone(), key, existing);
        Ok(Prepared::Open(Box::new(Partial::new(Box::new(file), quota_entry, stat, overwrite)?)))
    }

    fn delete(&self, path: &TargetPath) -> Result<bool, FileRefused> {
        let target = self.target(path);
        let mut state = self.disk.state.lock();
        state.spend(0).map_err(|reason| FileRefused::from_io(&reason))?;
        if !state.files.contains_key(&target) {
            return Ok(false);
        }
        let bytes = state.received_bytes(&target).ok_or(FileRefused::NotReceived)?;
        state.files.remove(&target);
        state.received.remove(&target);
        self.quota.lock().subtract(bytes);
        Ok(true)
    }

    fn sweep(&self) {
        let mut state = self.disk.state.lock();
        if state.spend(0).is_err() {
            return;
        }
        let (now, keep) = (state.now, self.rules.keep);
        let old = state.partials.extract_if(.., |(root, _), partial| {
            *root == self.root && !partial.is_locked && now.since(partial.changed) > keep
        });
        let removed: u64 = old.map(|(_, partial)| partial.bytes.len() as u64).sum();
        self.quota.lock().subtract(removed);
    }
}

/// A partial file on a disk in memory.
struct MemoryPartial {
    dest: Arc<MemoryDest>,
    target: PathBuf,
    key: String,
    at: u64,
}

impl MemoryPartial {
    /// Calls `act` with the disk, the contents of this file and the position, after an operation on `bytes` bytes.
    fn with<R>(
        &mut self,
        bytes: usize,
        act: impl FnOnce(&mut PartialData, &mut u64, Option<u64>) -> io::Result<R>,
    ) -> io::Result<R> {
        let mut state = self.dest.disk.state.lock();
        state.spend(bytes)?;
        let (free, now) = (state.free(), state.now);
        let partial = state.partials.get_mut(&(self.dest.root.clone(), self.key.clone()));
        let partial = partial.ok_or(io::ErrorKind::NotFound)?;
        partial.changed = now;
        act(partial, &mut self.at, free)
    }
}

impl Read for MemoryPartial {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.with(0, |partial, at, _| Ok(read_at(&partial.bytes, at, buffer)))?;
        self.dest.disk.state.lock().transfer(count);
        Ok(count)
    }
}

impl Write for MemoryPartial {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.with(bytes.len(), |partial, at, free| {
            let start = usize::try_from(*at).unwrap_or(usize::MAX).min(partial.bytes.len());
            let end = start + bytes.len();
            if free.is_some_and(|free| end.saturating_sub(partial.bytes.len()) as u64 > free) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            partial.bytes.resize(end.max(partial.bytes.len()), 0);
            partial.bytes[start..end].copy_from_slice(bytes);
            *at = end as u64;
            Ok(bytes.len())
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for MemoryPartial {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.with(0, |partial, at, _| seek_to(at, partial.bytes.len(), to))
    }
}

impl PartialFile for MemoryPartial {
    fn set_len(&mut self, bytes: u64) -> io::Result<()> {
        let len = usize::try_from(bytes).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.with(0, |partial, _, _| {
            partial.bytes.resize(len, 0);
            Ok(())
        })
    }

    fn finish(&mut self, _: &FileStat) -> io::Result<()> {
        self.with(0, |_, _, _| Ok(()))
    }

    fn move_to_target(&mut self, stat: &FileStat, overwrite: bool) -> Result<Moved, FileRefused> {
        let mut state = self.dest.disk.state.lock();
        state.spend(0).map_err(|reason| FileRefused::from_io(&reason))?;
        if !overwrite && let Some(existing) = state.files.get(&self.target) {
            return Ok(Moved::Occupied(Some(existing.stat)));
        }
        let partial = state.partials.remove(&(self.dest.root.clone(), self.key.clone()));
        let bytes = partial.map(|partial| partial.bytes).ok_or(FileRefused::Busy)?;
        let replaced = state.received_bytes(&self.target).unwrap_or(0);
        state.contents += 1;
        let content = state.contents;
        let stat = FileStat { permissions: stat.permissions & 0o777, ..*stat };
        state.files.insert(self.target.clone(), MemoryFile { bytes: Arc::new(bytes), stat, content });
        state.received.insert(self.target.clone(), content);
        Ok(Moved::Stored { replaced, flushed: Ok(()) })
    }

    fn remove(&mut self) {
        self.dest.disk.state.lock().partials.remove(&(self.dest.root.clone(), self.key.clone()));
    }
}

impl Drop for MemoryPartial {
    fn drop(&mut self) {
        let mut state = self.dest.disk.state.lock();
        if let Some(partial) = state.partials.get_mut(&(self.dest.root.clone(), self.key.clone())) {
            partial.is_locked = false;
        }
    }
}

/// The path without `.`: equal paths are written in one way.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|part| !matches!(part, Component::CurDir)).collect()
}

/// Copies the bytes from `at` on into `buffer`, and moves `at`.
fn read_at(bytes: &[u8], at: &mut u64, buffer: &mut [u8]) -> usize {
    let rest = usize::try_from(*at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
    let count = rest.len().min(buffer.len());
    buffer[..count].copy_from_slice(&rest[..count]);
    *at += count as u64;
    count
}

fn seek_to(at: &mut u64, len: usize, to: SeekFrom) -> io::Result<u64> {
    let target = match to {
        SeekFrom::Start(to) => Some(to),
        SeekFrom::End(by) => (len as u64).checked_add_signed(by),
        SeekFrom::Current(by) => at.checked_add_signed(by),
    };
    *at = target.ok_or(io::ErrorKind::InvalidInput)?;
    Ok(*at)
}
