//! Files between nodes.
//!
//! A file travels as messages between two service actors: a `sender` on one node and a `receiver` on the other. The file
//! service of the receiving node (`service`) brings them together; every node registers one under a service name. Order,
//! sessions that outlive their connections, limits and the detection of a lost node therefore come from the layer below.
//! Only the threads of the blocking pool touch disks.
//!
//! Invariants: at most one window of bytes of a file is in flight, and neither end holds more in memory. Every transfer
//! is answered once. A file appears at its target whole or not at all.
//!
//! Must not import: `node`, `net`, `runtime`.

mod deleter;
mod disk;
#[cfg(all(fuzzing, unix))]
pub mod fuzzing;
mod memory_disk;
mod messages;
mod outcome;
mod partial;
mod path;
mod quota;
mod receiver;
mod sender;
mod service;
mod source;
mod system_disk;

pub use memory_disk::MemoryDisk;
pub use outcome::{
    DeleteError, FileError, FileOptions, FileRefused, FileStat, Progress, SourceError, Stored, Transfer,
};
pub use path::PathError;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use antiphon_sched::{
    Addr, AskError, Budget, Cx, Loop, LoopRef, NodeId, OverBudget, Permit, TooManyAdapters,
};

pub(super) use messages::FILE_SERVICE;

use super::{NodeRef, ServiceState};
use crate::Counts;
use crate::config::Config;
use crate::error::NodeError;
use crate::location::Location;
use deleter::Deleter;
pub(super) use disk::Disk;
use path::TargetPath;
use sender::{FileSender, SendOrder, SenderMessage};
pub(super) use system_disk::SystemDisk;

#[cfg(test)]
pub(crate) use messages::tests::add_vectors;

/// The limits for files that peers send to this node.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileRules {
    /// The largest size of one file.
    file_bytes_max: Option<u64>,
    /// The bytes that one peer may send since the node started.
    peer_bytes_max: Option<u64>,
    /// The bytes of all files that came from peers, partial files included.
    dest_bytes_max: Option<u64>,
    /// How long partial files are kept.
    keep: Duration,
}

impl FileRules {
    fn check_size(&self, size: u64) -> Result<(), FileRefused> {
        match self.file_bytes_max {
            Some(max) if size > max => Err(FileRefused::TooLarge { max }),
            Some(_) | None => Ok(()),
        }
    }
}

/// What the file actors of a node share.
#[derive(Default)]
struct FileState {
    outgoing: OutgoingFiles,
    /// Files of peers over a limit.
    refused_files: u64,
    /// Paths that no peer may name.
    refused_paths: u64,
}

impl ServiceState for FileState {
    fn add_counts(&self, counts: &mut Counts) {
        counts.refusals.files += self.refused_files;
        counts.refusals.file_paths += self.refused_paths;
    }
}

fn state<'c>(loop_ref: &'c mut LoopRef<'_>) -> Option<&'c mut FileState> {
    NodeRef::of(loop_ref).state()
}

/// What a node keeps for the files that it sends.
#[derive(Debug, Default)]
struct OutgoingFiles {
    /// `None` until the file service starts.
    disk: Option<Arc<dyn Disk>>,
    /// Each sender holds a permit.
    transfers: Budget,
    /// Watchers in `Watch` messages that the sender has not handled yet. The sender may end before it does.
    pending_watchers: Vec<(Addr<SenderMessage>, Addr<Progress>)>,
}

impl OutgoingFiles {
    /// A permit for one more transfer.
    fn acquire(&self) -> Result<Permit, FileError> {
        let permit = self.transfers.try_acquire(1);
        permit.map_err(|OverBudget { max }| FileError::TooManyTransfers { max: max as usize })
    }

    /// Removes a watcher that its sender has handled.
    fn remove_pending_watcher(&mut self, watcher: Addr<Progress>) {
        self.pending_watchers.retain(|(_, pending)| *pending != watcher);
    }

    /// Removes and returns the watchers that an ending sender has not handled.
    fn take_pending_watchers(&mut self, sender: Addr<SenderMessage>) -> Vec<Addr<Progress>> {
        self.pending_watchers.extract_if(.., |(of, _)| *of == sender).map(|(_, watcher)| watcher).collect()
    }
}

/// Opens the folder for received files on a disk, and starts the file service.
pub(super) fn start(disk: Arc<dyn Disk>, config: &Config, sched: &mut Loop) -> Result<(), NodeError> {
    let open = |path: &Path| {
        let rules = FileRules {
            file_bytes_max: config.max_file_size,
            peer_bytes_max: config.peer_limits.file_bytes_max,
            dest_bytes_max: config.dest_bytes_max,
            keep: config.partial_files_keep,
        };
        disk.open_dest(path, rules).map_err(|source| NodeError::DestPath { path: path.to_owned(), source })
    };
    let dest = config.dest_path.as_deref().map(open).transpose()?;
    if let Some(state) = state(&mut sched.loop_ref()) {
        state.outgoing.disk = Some(disk);
        state.outgoing.transfers = Budget::with_max(config.transfers_max as u64);
    }
    service::spawn(sched, dest, config.transfers_max, config.files_access.clone());
    Ok(())
}

/// Implements `NetCx::send_file`.
pub(crate) fn send_file<M: 'static>(
    cx: &mut Cx<'_, M>,
    to: Location,
    file: &Path,
    options: &FileOptions,
    timeout: Duration,
    answer: impl FnOnce(Result<Stored, FileError>) -> M + 'static,
) -> Transfer {
    let sender = match order(cx, to, file, options, timeout) {
        Ok(order) => cx.spawn_service(FileSender::new(order)),
        Err(reason) => {
            cx.push_self(answer(Err(reason)));
            return Transfer(None);
        }
    };
    let answer = move |done: Result<Result<Stored, FileError>, AskError>| {
        answer(done.unwrap_or_else(|reason| Err(sender_request_error(reason))))
    };
    // The sender answers within the timeout. The longer timeout here applies if it cannot.
    cx.ask(sender, timeout.saturating_add(GRACE), SenderMessage::Begin, answer);
    Transfer(Some(sender))
}

fn order<M: 'static>(
    cx: &mut Cx<'_, M>,
    to: Location,
    file: &Path,
    options: &FileOptions,
    timeout: Duration,
) -> Result<SendOrder, FileError> {
    let outgoing = &state(cx.loop_ref()).ok_or(FileError::NoNode)?.outgoing;
    let disk = outgoing.disk.clone().ok_or(FileError::NoNode)?;
    let permit = outgoing.acquire()?;
    let name = options.name.as_ref().map_or_else(|| sender::default_name(file), PathBuf::from);
    let target = TargetPath::new(&options.dir, &name)?;
    let caller = cx.id();
    let overwrite = options.overwrite;
    Ok(SendOrder { disk, file: file.to_owned(), target, overwrite, to, timeout, caller, permit })
}

/// Counts and logs a refusal of a peer, if its reason is an exceeded limit, a forbidden path or a violation of the protocol.
fn count_refusal(loop_ref: &mut LoopRef<'_>, by: Option<NodeId>, reason: &FileRefused) {
    let Some(by) = by else { return };
    match reason {
        FileRefused::OverQuota { .. }
        | FileRefused::DestFull { .. }
        | FileRefused::TooLarge { .. }
        | FileRefused::TooManyTransfers { .. }
        | FileRefused::Disorder => {
            if let Some(state) = state(loop_ref) {
                state.refused_files += 1;
            }
            let what = "sends files out of order, or more of them than it may";
            NodeRef::of(loop_ref).log_refused(by, "files", what);
        }
        FileRefused::BadPath(_)
        | FileRefused::NotAFile
        | FileRefused::OtherFileSystem
        | FileRefused::NotReceived => {
            if let Some(state) = state(loop_ref) {
                state.refused_paths += 1;
            }
            let what = "names files that no peer may write or delete";
            NodeRef::of(loop_ref).log_refused(by, "file paths", what);
        }
        FileRefused::NoDestPath
        | FileRefused::Stopping
        | FileRefused::Busy
        | FileRefused::DiskFull
        | FileRefused::ReadOnly
        | FileRefused::Corrupt
        | FileRefused::Disk(_) => {}
    }
}

/// Converts the error of a request to this node's own sender.
fn sender_request_error(reason: AskError) -> FileError {
    match reason {
        AskError::TooManyOpen => FileError::TooManyOpen,
        AskError::TimedOut => FileError::TimedOut,
        _ => FileError::Cancelled,
    }
}

/// Implements `NetCx::progress`.
pub(crate) fn progress<M: 'static>(
    cx: &mut Cx<'_, M>,
    transfer: Transfer,
    every: Duration,
    each: impl FnMut(Progress) -> M + 'static,
) -> Result<(), TooManyAdapters> {
    let Some(sender) = transfer.0 else { return Ok(()) };
    let watcher = cx.adapter(each)?;
    if cx.send(sender, SenderMessage::Watch(watcher, every)).is_err() {
        // The sender has ended.
        cx.loop_ref().close_adapter(watcher);
    } else if let Some(state) = state(cx.loop_ref()) {
        state.outgoing.pending_watchers.push((sender, watcher));
    }
    Ok(())
}

/// Implements `NetCx::cancel_transfer`.
pub(crate) fn cancel<M: 'static>(cx: &mut Cx<'_, M>, transfer: Transfer) {
    if let Some(sender) = transfer.0
        && let Err(reason) = cx.send(sender, SenderMessage::Cancel)
    {
        tracing::debug!(%reason, "cancel not sent: the transfer is over");
    }
}

/// Implements `NetCx::del_file`.
pub(crate) fn del_file<M: 'static>(
    cx: &mut Cx<'_, M>,
    at: Location,
    file: &Path,
    dir: &Path,
    timeout: Duration,
    answer: impl FnOnce(Result<(), DeleteError>) -> M + 'static,
) {
    let path = match TargetPath::new(dir, file) {
        Ok(path) => path,
        Err(reason) => return cx.push_self(answer(Err(reason.into()))),
    };
    let deleter = cx.spawn_service(Deleter::new(at, path, timeout, cx.id()));
    let answer = move |done: Result<Result<(), DeleteError>, AskError>| {
        answer(done.unwrap_or_else(|reason| Err(reason.into())))
    };
    cx.ask(deleter, timeout.saturating_add(GRACE), deleter::DeleterMessage::Begin, answer);
}

/// The time that a sender or deleter has beyond the caller's timeout, before its caller gets an error instead of its answer.
const GRACE: Duration = Duration::from_secs(5);
