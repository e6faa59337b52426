//! A partial file: a file that is being received, until it is complete and moved to its target.
//!
//! Invariants: one transfer at a time has the partial file of a path. The file at the target is unchanged until the new one,
//! complete and on disk, replaces it in one step.

use std::io::{self, SeekFrom};
use std::sync::Arc;

use blake3::Hasher;
use parking_lot::Mutex;

use super::disk::{Moved, PartialFile};
use super::outcome::{FileRefused, FileStat};
use super::quota::{DiskQuota, usable_bytes};
use super::source::{HASH_JOB_BYTES_MAX, hash_some};

/// A file that is not complete yet.
pub(crate) struct Partial {
    /// Declared before `file`, and so dropped before the lock is released: the next transfer begins its own entry.
    quota_entry: QuotaEntry,
    stat: FileStat,
    overwrite: bool,
    file: Box<dyn PartialFile>,
    hasher: Box<Hasher>,
    /// The bytes from the beginning of the file that the hash covers. Once all are hashed, the next chunk is written here.
    offset: u64,
    /// The bytes that an earlier transfer had written.
    have: u64,
}

/// The entry of a transfer in the disk quota. Dropping it ends the entry.
pub(super) struct QuotaEntry {
    quota: Arc<Mutex<DiskQuota>>,
    key: String,
    /// The bytes that the transfer leaves on the disk.
    left: u64,
    /// The bytes that were received, discarded ones included.
    received: u64,
}

impl QuotaEntry {
    /// The entry of a transfer that has begun in the quota, and whose partial file has `existing` bytes.
    pub(super) fn new(quota: Arc<Mutex<DiskQuota>>, key: String, existing: u64) -> Self {
        Self { quota, key, left: existing, received: 0 }
    }
}

impl Drop for QuotaEntry {
    fn drop(&mut self) {
        self.quota.lock().end(&self.key, (self.left, self.received));
    }
}

impl Partial {
    /// Begins a transfer with its opened partial file. Its bytes that cannot be of the offered file are cut off.
    pub(super) fn new(
        file: Box<dyn PartialFile>,
        quota_entry: QuotaEntry,
        stat: FileStat,
        overwrite: bool,
    ) -> Result<Self, FileRefused> {
        let have = usable_bytes(quota_entry.left, stat.size);
        let mut partial =
            Self { quota_entry, stat, overwrite, file, hasher: Box::default(), offset: 0, have };
        if have < partial.quota_entry.left {
            partial.file.set_len(have).map_err(|reason| FileRefused::from_io(&reason))?;
            partial.quota_entry.left = have;
        }
        Ok(partial)
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
        let hashed = hash_some(&mut self.file, &mut self.hasher, count)
            .map_err(|reason| FileRefused::from_io(&reason))?;
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
        self.file.set_len(0).map_err(|reason| FileRefused::from_io(&reason))
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
        let reason = FileRefused::from_io(reason);
        if reason == FileRefused::DiskFull {
            self.discard();
        }
        reason
    }

    /// Moves the complete file to its target. A file with the wrong size or hash is removed.
    pub(crate) fn place(mut self, hash: &[u8]) -> Result<Placed, FileRefused> {
        if self.offset != self.stat.size || hash != self.hash() {
            self.discard();
            return Err(FileRefused::Corrupt);
        }
        if let Err(reason) = self.file.finish(&self.stat) {
            return Err(self.give_up(&reason));
        }
        match self.file.move_to_target(&self.stat, self.overwrite)? {
            Moved::Stored { replaced, flushed } => {
                self.quota_entry.quota.lock().subtract(replaced);
                flushed.map(|()| Placed::Stored)
            }
            Moved::Occupied(existing) => {
                self.discard();
                existing.map(Placed::Different).ok_or(FileRefused::Busy)
            }
        }
    }

    /// Removes the partial file.
    pub(crate) fn discard(mut self) {
        self.quota_entry.left = 0;
        self.file.remove();
    }
}

/// What became of a complete file.
pub(crate) enum Placed {
    Stored,
    /// A different file appeared at the target during the transfer.
    Different(FileStat),
}

impl std::fmt::Debug for Partial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partial")
            .field("key", &self.quota_entry.key)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}
