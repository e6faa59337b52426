//! What users of files see: options, progress, and what became of a transfer or a deletion.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use antiphon_sched::{Addr, AskError, Undelivered};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::path::PathError;
use super::sender::SenderMessage;

/// How a file is to be sent.
///
/// ```
/// use antiphon_dist::FileOptions;
///
/// let options = FileOptions { dir: "reports/2026".into(), overwrite: true, ..FileOptions::default() };
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileOptions {
    /// The folder beneath the receiver's `dest_path`, made if need be; `dest_path` itself when empty.
    pub dir: PathBuf,
    /// The name there; the file's own when `None`.
    pub name: Option<String>,
    /// Whether a different file of that name is to be replaced. It stays whole until the new one is.
    pub overwrite: bool,
}

/// A file's transfer, under way or over.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Transfer(pub(super) Option<Addr<SenderMessage>>);

/// How far a transfer is.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that the receiver has written.
    pub done: u64,
    /// Bytes of the file.
    pub total: u64,
    /// Bytes of `done` that an earlier, interrupted transfer had brought.
    pub resumed: u64,
}

/// What a file that was sent came to.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stored {
    /// It is there now, whole, and on disk.
    New,
    /// It was there already: the same size, time and permissions. Nothing was sent.
    AlreadyThere,
}

/// What is known of a file without reading it.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStat {
    /// Its bytes.
    pub size: u64,
    /// When it was changed: seconds since 1970.
    pub seconds: i64,
    /// And nanoseconds.
    pub nanos: u32,
    /// Who may read, write and execute it: the nine bits of Unix.
    pub permissions: u32,
}

impl FileStat {
    /// When the file was changed; 1970 where this system's clock does not reach.
    pub fn modified(&self) -> SystemTime {
        let (zero, seconds) = (SystemTime::UNIX_EPOCH, Duration::from_secs(self.seconds.unsigned_abs()));
        let second = if self.seconds < 0 { zero.checked_sub(seconds) } else { zero.checked_add(seconds) };
        let whole = second.and_then(|second| second.checked_add(Duration::from_nanos(self.nanos.into())));
        whole.unwrap_or(zero)
    }
}

/// Why a file was not stored. What was there before is there still, whole.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FileError {
    /// A different file of that name is there, and `overwrite` was not set.
    #[error("a different file is there ({} bytes); set `overwrite`, or take another name", there.size)]
    Different {
        /// The file that is there.
        there: FileStat,
    },
    /// The receiver refused.
    #[error("the receiver refused: {0}")]
    Refused(#[from] FileRefused),
    /// The file cannot be read here.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The place that it should go to is none.
    #[error(transparent)]
    BadPath(#[from] PathError),
    /// Nobody answered at the location in time.
    #[error("no node answers at that location; is it running, with the same secret?")]
    NoAnswer,
    /// The time was over. What was sent is kept for a while: send again to go on.
    #[error("the time was over; send again to go on where it stopped")]
    TimedOut,
    /// A piece of the file, 128 KiB, could not be sent. What was sent is kept for a while.
    #[error("a piece of the file could not be sent: {0}")]
    Unsent(Undelivered),
    /// A piece of the file, 128 KiB, is over the limit of a message.
    #[error("a piece of the file is too large for a message; raise `limits.message_bytes_max` on both nodes")]
    PieceTooLarge,
    /// The receiver's node was lost. What was sent may be kept: send again to go on.
    #[error("the receiver was lost; send again, when it is back, to go on where it stopped")]
    NodeLost,
    /// `cancel_transfer` was called. What was sent is kept for a while: send again to go on.
    #[error("the transfer was cancelled; send again to go on where it stopped")]
    Cancelled,
    /// This node sends as many files as it may.
    #[error("this node sends {max} files already; wait for some, or raise `transfers_max`")]
    TooManyTransfers {
        /// How many it may.
        max: usize,
    },
    /// The asker has 65,535 open requests already; or that node takes no more questions of this one.
    #[error("too many open requests here, or of this node there; wait for answers before sending more")]
    TooManyOpen,
    /// This actor is not part of a node.
    #[error("this actor runs in a loop by itself; spawn it in a `Node` to send files")]
    NoNode,
    /// The two nodes do not understand each other.
    #[error("the receiver speaks another version of file transfers; run the same version on both nodes")]
    Version,
}

/// Why a file was not deleted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DeleteError {
    /// There is no such file.
    #[error("there is no such file")]
    NotFound,
    /// That node refused.
    #[error("refused: {0}")]
    Refused(#[from] FileRefused),
    /// The place is none.
    #[error(transparent)]
    BadPath(#[from] PathError),
    /// Nobody answered at the location in time.
    #[error("no node answers at that location; is it running, with the same secret?")]
    NoAnswer,
    /// The time was over; the file may be deleted.
    #[error("no answer in time; the file may be deleted")]
    TimedOut,
    /// The node was lost; the file may be deleted.
    #[error("the node was lost; the file may be deleted")]
    NodeLost,
    /// The asker has 65,535 open requests already; or that node takes no more questions of this one.
    #[error("too many open requests here, or of this node there; wait for answers before asking more")]
    TooManyOpen,
    /// This actor is not part of a node.
    #[error("this actor runs in a loop by itself; spawn it in a `Node` to delete files of others")]
    NoNode,
    /// The two nodes do not understand each other.
    #[error("that node speaks another version of file transfers; run the same version on both nodes")]
    Version,
}

/// Why a node stores or deletes no such file.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FileRefused {
    /// It takes no files.
    #[error("that node takes no files; set its `dest_path`")]
    NoDestPath,
    /// The path is none.
    #[error(transparent)]
    BadPath(PathError),
    /// The file is larger than that node takes.
    #[error("the file is too large; that node takes {max} bytes at most (`max_file_size`)")]
    TooLarge {
        /// The largest size.
        max: u64,
    },
    /// That node receives, or deletes, as many files as it may, or as it may for one node: three quarters of these.
    #[error(
        "that node has {max} files or deletions under way; try again later, or raise its `transfers_max`"
    )]
    TooManyTransfers {
        /// How many it may.
        max: u64,
    },
    /// So many bytes have come from this node, or others of its certificate or address, as that node takes.
    #[error(
        "that node takes {max} bytes from this one until it starts anew; raise its `peer_limits.file_bytes_max`"
    )]
    OverQuota {
        /// How many it takes.
        max: u64,
    },
    /// That node has as many bytes of peers' files as it takes.
    #[error(
        "that node has as many bytes of files as it takes ({max}); have some deleted, or raise its `dest_bytes_max`"
    )]
    DestFull {
        /// How many it takes.
        max: u64,
    },
    /// Another transfer to the same place is under way.
    #[error("another transfer to the same file is under way; wait for its end")]
    Busy,
    /// Something that is no file is in the way: a folder or a symlink; or a file where a folder should be.
    #[error("what is there is no file, or the way there is no folder; take another name")]
    NotAFile,
    /// No room is left.
    #[error("the disk there is full; make room, or send elsewhere")]
    DiskFull,
    /// That node may not write there.
    #[error("that node may not write there; check the permissions of its `dest_path`")]
    ReadOnly,
    /// A mount point is in the way.
    #[error(
        "the folder is on another file system than `dest_path`; files must be moved into place within one"
    )]
    OtherFileSystem,
    /// It is not a file that the node received, or it was changed since.
    #[error("that file was not received by the node, or was changed since; delete it by hand")]
    NotReceived,
    /// What arrived is not what was sent.
    #[error("what arrived is not what was sent (its hash differs); send it again")]
    Corrupt,
    /// The sender sent what the receiver had not granted, or said nothing for ten minutes.
    #[error("the sender kept no order, or was silent for too long; send again to go on where it stopped")]
    Disorder,
    /// The system's own words.
    #[error("its disk failed: {0}")]
    Disk(String),
}

/// Why a file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SourceError {
    /// There is none.
    #[error("there is no such file to send")]
    NotFound,
    /// It is a folder, or something else that has no end.
    #[error("only plain files can be sent; pack a folder first")]
    NotAFile,
    /// Somebody wrote to it while it was being sent.
    #[error("the file was changed while it was being sent; send it again when nobody writes to it")]
    Changed,
    /// The system's own words.
    #[error("the file cannot be read: {0}")]
    Unreadable(String),
}

impl From<AskError> for FileError {
    fn from(reason: AskError) -> Self {
        match reason {
            AskError::TimedOut => Self::TimedOut,
            AskError::TooManyOpen => Self::TooManyOpen,
            AskError::WrongType => Self::Version,
            AskError::Full | AskError::Busy => Self::Refused(FileRefused::Busy),
            _ => Self::NodeLost,
        }
    }
}

impl From<AskError> for DeleteError {
    fn from(reason: AskError) -> Self {
        match reason {
            AskError::TimedOut => Self::TimedOut,
            AskError::TooManyOpen => Self::TooManyOpen,
            AskError::WrongType => Self::Version,
            AskError::Full | AskError::Busy => Self::Refused(FileRefused::Busy),
            _ => Self::NodeLost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_and_after_1970_are_told_as_the_system_tells_them() {
        let at = |seconds, nanos| FileStat { size: 0, seconds, nanos, permissions: 0 }.modified();
        assert_eq!(at(1, 5), SystemTime::UNIX_EPOCH + Duration::new(1, 5));
        assert_eq!(at(-1, 250_000_000), SystemTime::UNIX_EPOCH - Duration::from_millis(750));
        assert_eq!(at(i64::MAX, u32::MAX), SystemTime::UNIX_EPOCH);
    }
}
