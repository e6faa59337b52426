//! The interface between the actors that move files and the disks. All functions here block: they run in the blocking pool.
//!
//! `SystemDisk` is the disk of this machine, [`MemoryDisk`](super::memory_disk::MemoryDisk) that of a simulated node.

use std::fmt::Debug;
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;

use super::FileRules;
use super::outcome::{FileRefused, FileStat, SourceError};
use super::partial::Partial;
use super::path::TargetPath;

/// Where a node reads the files that it sends, and stores those that it receives.
pub(crate) trait Disk: Debug + Send + Sync {
    /// Opens a plain file.
    fn open_file(&self, path: &Path) -> Result<Box<dyn OpenFile>, SourceError>;

    /// Opens the folder for received files, and creates it if it is missing.
    fn open_dest(&self, path: &Path, rules: FileRules) -> io::Result<Arc<dyn Dest>>;
}

/// A plain file that is read.
pub(crate) trait OpenFile: Read + Seek + Send {
    fn stat(&self) -> Result<FileStat, SourceError>;
}

/// The folder for received files, the `dest_path` of a node.
pub(crate) trait Dest: Debug + Send + Sync {
    /// Examines the target of an offered file, and opens its partial file. The bytes are charged to `account`.
    fn prepare(
        self: Arc<Self>,
        path: &TargetPath,
        stat: FileStat,
        overwrite: bool,
        account: &str,
    ) -> Result<Prepared, FileRefused>;

    /// Deletes a file that this node received; returns false if there is no such file.
    fn delete(&self, path: &TargetPath) -> Result<bool, FileRefused>;

    /// Removes partial files that are too old and have no transfer. A disk may also limit their number.
    fn sweep(&self);
}

/// The result of an offer.
pub(crate) enum Prepared {
    AlreadyThere,
    Different(FileStat),
    /// The file is accepted.
    Open(Box<Partial>),
}

impl Prepared {
    /// The result of an offer whose target exists; `None` if the offered file replaces it.
    pub(super) fn of_existing(existing: FileStat, offered: &FileStat, overwrite: bool) -> Option<Self> {
        if existing == (FileStat { permissions: offered.permissions & 0o777, ..*offered }) {
            Some(Self::AlreadyThere)
        } else if overwrite {
            None
        } else {
            Some(Self::Different(existing))
        }
    }
}

/// The partial file of a transfer on its disk. It is locked as long as this value lives.
pub(crate) trait PartialFile: Read + Write + Seek + Send {
    fn set_len(&mut self, bytes: u64) -> io::Result<()>;

    /// Sets the modification time of the complete file, and flushes it to the disk.
    fn finish(&mut self, stat: &FileStat) -> io::Result<()>;

    /// Moves the complete file to its target, in one step.
    fn move_to_target(&mut self, stat: &FileStat, overwrite: bool) -> Result<Moved, FileRefused>;

    /// Removes the file.
    fn remove(&mut self);
}

/// The result of moving a complete file to its target.
pub(crate) enum Moved {
    /// It took the place of a received file of `replaced` bytes, or of none. `flushed`: whether that is on the disk.
    Stored { replaced: u64, flushed: Result<(), FileRefused> },
    /// A file appeared at the target during the transfer; `None`: and is gone again.
    Occupied(Option<FileStat>),
}
