//! The public types of file transfers: options, progress, results and errors.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use antiphon_sched::{Addr, AskError, TooManyAdapters, TooManyOpen, Undelivered};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::path::PathError;
use super::sender::SenderMessage;
use crate::error::DialError;

/// The options of a file transfer.
///
/// ```
/// use antiphon_dist::FileOptions;
///
/// let options = FileOptions { dir: "reports/2026".into(), overwrite: true, ..FileOptions::default() };
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileOptions {
    /// The target folder, relative to the receiver's `dest_path`; empty for `dest_path` itself. The receiver creates it if it
    /// is missing.
    pub dir: PathBuf,
    /// The name under which the receiver stores the file. `None`: the file's own name.
    pub name: Option<String>,
    /// Whether to replace a different file of that name. The old file stays intact until the new one is complete.
    pub overwrite: bool,
}

/// Identifies the transfer of one file, whether it runs or is over.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Transfer(pub(super) Option<Addr<SenderMessage>>);

/// The progress of a transfer.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that the receiver has written.
    pub done: u64,
    /// The size of the file in bytes.
    pub total: u64,
    /// The part of `done` that an earlier, interrupted transfer had written.
    pub resumed: u64,
}

/// The result of a successful transfer.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stored {
    /// The file was sent; the receiver has it complete and on disk.
    New,
    /// The receiver had a file with the same size, time and permissions already. Nothing was sent.
    AlreadyThere,
}

/// The metadata of a file.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStat {
    /// The size in bytes.
    pub size: u64,
    /// The modification time: seconds since 1970.
    pub seconds: i64,
    /// The nanoseconds within that second.
    pub nanos: u32,
    /// The nine permission bits of Unix: read, write and execute for user, group and others.
    pub permissions: u32,
}

impl FileStat {
    /// Returns the modification time, or 1970 if this system cannot represent it.
    pub fn modified(&self) -> SystemTime {
        let (zero, seconds) = (SystemTime::UNIX_EPOCH, Duration::from_secs(self.seconds.unsigned_abs()));
        let second = if self.seconds < 0 { zero.checked_sub(seconds) } else { zero.checked_add(seconds) };
        let whole = second.and_then(|second| second.checked_add(Duration::from_nanos(self.nanos.into())));
        whole.unwrap_or(zero)
    }
}

/// Why a file was not stored. A file that was at the target before is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FileError {
    /// The target is a different file, and `overwrite` was not set.
    #[error("a different file is there ({} bytes); set `overwrite`, or use another name", there.size)]
    Different {
        /// The file that is there.
        there: FileStat,
    },
    /// The receiver refused. After [`FileRefused::DiskFull`] and [`FileRefused::Corrupt`] it has discarded the bytes that it
    /// received, so the file is sent from its beginning again.
    #[error("the receiver refused: {0}")]
    Refused(#[from] FileRefused),
    /// The file cannot be read here.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The target path is invalid.
    #[error(transparent)]
    BadPath(#[from] PathError),
    /// No node answered at the location before the timeout.
    #[error("no node answered at that location in time; check that it runs and has the same secret")]
    NoAnswer,
    /// The node at the location was not reached.
    #[error(transparent)]
    Unreachable(DialError),
    /// The transfer timed out. The receiver keeps the bytes for a while: send the file again to resume.
    #[error("the transfer timed out; send the file again to resume it")]
    TimedOut,
    /// A chunk of the file (128 KiB) could not be sent. The receiver keeps the bytes before it for a while.
    #[error("a chunk of the file could not be sent: {0}")]
    Unsent(Undelivered),
    /// A chunk of the file (128 KiB) exceeds the size limit of a message.
    #[error("a chunk of the file is too large for a message; raise `limits.message_bytes_max` on both nodes")]
    PieceTooLarge,
    /// The receiver's node was lost. It may have kept the bytes: send the file again to resume.
    #[error("the receiver was lost; send the file again when its node is back, to resume the transfer")]
    NodeLost,
    /// The transfer was cancelled by `cancel_transfer`, or because the actor that started it ended. The receiver keeps the
    /// bytes for a while: send the file again to resume.
    #[error("the transfer was cancelled; send the file again to resume it")]
    Cancelled,
    /// This node sends as many files as `transfers_max` allows.
    #[error("this node already sends {max} files; wait for one to end, or raise `transfers_max`")]
    TooManyTransfers {
        /// The limit.
        max: usize,
    },
    /// The actor has as many open requests as `requests_max` allows, or the other node accepts no more requests from this one.
    #[error(
        "too many open requests here, or of this node there; wait for replies before you send more files"
    )]
    TooManyOpen,
    /// The loop of this actor does not belong to a node.
    #[error("this actor's loop does not belong to a node; spawn the actor in a `Node` to send files")]
    NoNode,
    /// The two nodes use different versions of the file protocol.
    #[error("the receiver uses another version of the file protocol; run the same version on both nodes")]
    Version,
}

/// Why a file was not deleted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DeleteError {
    /// The node has no such file.
    #[error("there is no such file")]
    NotFound,
    /// The node refused.
    #[error("the node refused: {0}")]
    Refused(#[from] FileRefused),
    /// The path is invalid.
    #[error(transparent)]
    BadPath(#[from] PathError),
    /// No node answered at the location before the timeout.
    #[error("no node answered at that location in time; check that it runs and has the same secret")]
    NoAnswer,
    /// The node at the location was not reached.
    #[error(transparent)]
    Unreachable(DialError),
    /// The request timed out. The node may have deleted the file, or may still delete it.
    #[error("the node did not answer in time; the file may have been deleted")]
    TimedOut,
    /// The node was lost. It may have deleted the file.
    #[error("the node was lost; the file may have been deleted")]
    NodeLost,
    /// The actor has as many open requests as `requests_max` allows, or the other node accepts no more requests from this one.
    #[error(
        "too many open requests here, or of this node there; wait for replies before you delete more files"
    )]
    TooManyOpen,
    /// The loop of this actor does not belong to a node.
    #[error(
        "this actor's loop does not belong to a node; spawn the actor in a `Node` to delete files on other nodes"
    )]
    NoNode,
    /// The two nodes use different versions of the file protocol.
    #[error("that node uses another version of the file protocol; run the same version on both nodes")]
    Version,
}

/// Why a node refuses to store or delete a file.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FileRefused {
    /// The node accepts no files.
    #[error("that node accepts no files; set its `dest_path`")]
    NoDestPath,
    /// The node is stopping.
    #[error("that node is stopping; send the file again when it is back, or to another node")]
    Stopping,
    /// The path is invalid.
    #[error(transparent)]
    BadPath(PathError),
    /// The file is larger than the node accepts, or the sender sent more bytes than it offered.
    #[error("the file is too large; that node accepts at most {max} bytes (`max_file_size`)")]
    TooLarge {
        /// The largest size in bytes.
        max: u64,
    },
    /// The node receives or deletes as many files as it may: `transfers_max` in all, three quarters of that for one peer.
    #[error(
        "that node already handles {max} files or deletions; try again later, or raise its `transfers_max`"
    )]
    TooManyTransfers {
        /// The limit.
        max: u64,
    },
    /// The node has received as many bytes as it accepts from this node and the nodes that share its certificate or address.
    #[error(
        "that node accepts {max} bytes from this one until it restarts; raise its `peer_limits.file_bytes_max`"
    )]
    OverQuota {
        /// How many it takes.
        max: u64,
    },
    /// The node stores as many bytes of files from peers as it may.
    #[error(
        "that node may store {max} bytes of files and has no room for this one; delete some, or raise its `dest_bytes_max`"
    )]
    DestFull {
        /// How many it takes.
        max: u64,
    },
    /// Another transfer writes to the same target.
    #[error("another transfer to the same file is running; wait for its end")]
    Busy,
    /// The target is not a plain file but a folder or a symlink, or a part of the path to it is not a folder.
    #[error("the target is not a plain file, or a part of its path is not a folder; use another name")]
    NotAFile,
    /// The disk of the node is full. The node discards the bytes that it received of the file, so a later transfer resumes
    /// nothing.
    #[error("the disk of that node is full; free some space there, or send the file to another node")]
    DiskFull,
    /// The node has no permission to write there.
    #[error("that node has no permission to write there; check the permissions of its `dest_path`")]
    ReadOnly,
    /// The path crosses a mount point.
    #[error("the folder is on another file system than `dest_path`; use a folder on the same file system")]
    OtherFileSystem,
    /// The node did not receive that file from a peer, or the file was changed since.
    #[error(
        "that node did not receive the file from a peer, or the file was changed since; delete it by hand"
    )]
    NotReceived,
    /// The hash of the received bytes differs from the hash of the sent file.
    #[error("the received bytes differ from the sent file (by their hash); send it again")]
    Corrupt,
    /// The sender violated the protocol, or sent less than a chunk in ten minutes.
    #[error(
        "the sender violated the file protocol, or sent nothing for too long; send the file again to resume"
    )]
    Disorder,
    /// The disk reported another error; holds its text.
    #[error("the disk of that node failed: {0}")]
    Disk(String),
}

impl FileRefused {
    /// The refusal for an error of the receiver's disk.
    pub(super) fn from_io(reason: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        match reason.kind() {
            Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => Self::DiskFull,
            Kind::ReadOnlyFilesystem | Kind::PermissionDenied => Self::ReadOnly,
            Kind::NotADirectory | Kind::IsADirectory => Self::NotAFile,
            Kind::CrossesDevices => Self::OtherFileSystem,
            _ => Self::Disk(reason.to_string()),
        }
    }
}

/// Why a file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SourceError {
    /// There is no such file.
    #[error("there is no such file to send; check the path")]
    NotFound,
    /// The path names a folder, a pipe or another thing that is not a plain file.
    #[error("only plain files can be sent; pack a folder first")]
    NotAFile,
    /// The file was changed while it was being sent.
    #[error("the file was changed while it was being sent; send it again when no program writes to it")]
    Changed,
    /// The file has another length than it states, as files of `/proc` have.
    #[error("the file states {stated} bytes, and has another length; copy it to a plain file, and send that")]
    UnknownLength {
        /// The length that the file states, in bytes.
        stated: u64,
    },
    /// The system reported another error; holds its text.
    #[error("the file cannot be read: {0}")]
    Unreadable(String),
}

impl SourceError {
    /// The error for a file of this node that cannot be read.
    pub(super) fn from_io(reason: &io::Error) -> Self {
        match reason.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::IsADirectory => Self::NotAFile,
            _ => Self::Unreadable(reason.to_string()),
        }
    }
}

impl From<AskError> for FileError {
    fn from(reason: AskError) -> Self {
        match reason {
            AskError::TimedOut => Self::TimedOut,
            AskError::TooManyOpen => Self::TooManyOpen,
            AskError::Request(_) | AskError::Reply(_) => Self::Version,
            AskError::Full | AskError::Busy => Self::Refused(FileRefused::Busy),
            _ => Self::NodeLost,
        }
    }
}

impl From<TooManyOpen> for FileError {
    fn from(_: TooManyOpen) -> Self {
        Self::TooManyOpen
    }
}

impl From<TooManyAdapters> for FileError {
    fn from(_: TooManyAdapters) -> Self {
        Self::TooManyOpen
    }
}

impl From<TooManyOpen> for FileRefused {
    fn from(TooManyOpen { max }: TooManyOpen) -> Self {
        Self::TooManyTransfers { max: max as u64 }
    }
}

impl From<TooManyAdapters> for FileRefused {
    fn from(TooManyAdapters { max }: TooManyAdapters) -> Self {
        Self::TooManyTransfers { max: max.into() }
    }
}

impl From<AskError> for DeleteError {
    fn from(reason: AskError) -> Self {
        match reason {
            AskError::TimedOut => Self::TimedOut,
            AskError::TooManyOpen => Self::TooManyOpen,
            AskError::Request(_) | AskError::Reply(_) => Self::Version,
            AskError::Full | AskError::Busy => Self::Refused(FileRefused::Busy),
            _ => Self::NodeLost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modified_around_1970_matches_system_time() {
        let at = |seconds, nanos| FileStat { size: 0, seconds, nanos, permissions: 0 }.modified();
        assert_eq!(at(1, 5), SystemTime::UNIX_EPOCH + Duration::new(1, 5));
        assert_eq!(at(-1, 250_000_000), SystemTime::UNIX_EPOCH - Duration::from_millis(750));
        assert_eq!(at(i64::MAX, u32::MAX), SystemTime::UNIX_EPOCH);
    }
}
