//! Files between nodes.
//!
//! A file travels as messages between two hidden actors, a `sender` here and a `receiver` there; a `keeper`, which every
//! node has under a service's name, brings them together. So order, sessions that outlive their connections, limits and the
//! end of a node come from the layer below. Disks are touched by helper threads only.
//!
//! Invariants: what is under way of one file is at most a window of bytes, and both ends hold no more in memory;
//! every transfer is answered once; a file appears at its place whole or not at all.

mod deleter;
#[cfg(unix)]
mod disk;
#[cfg(not(unix))]
#[path = "disk_absent.rs"]
mod disk;
#[cfg(all(fuzzing, unix))]
pub mod fuzzing;
mod messages;
mod outcome;
mod path;
mod receiver;
mod sender;
mod service;
mod source;

pub use outcome::{
    DeleteError, FileError, FileOptions, FileRefused, FileStat, Progress, SourceError, Stored, Transfer,
};
pub use path::PathError;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use antiphon_sched::{Addr, AskError, Cx, Loop, LoopRef, NodeId};

use crate::config::Config;
use crate::cx::node_mut;
use crate::error::NodeError;
use crate::location::Location;
use deleter::Deleter;
use disk::Dest;
use path::TargetPath;
use sender::{FileSender, SendOrder, SenderMessage};

/// What is taken.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileRules {
    /// Of one file.
    file_bytes_max: Option<u64>,
    /// From one peer since the node's start.
    peer_bytes_max: Option<u64>,
    /// Of all files that came from peers, and of unfinished ones.
    dest_bytes_max: Option<u64>,
    /// How long unfinished files are kept.
    keep: Duration,
}

/// How many files a node sends at a time.
#[derive(Debug)]
pub(crate) struct SendSlots {
    /// Each sender holds one more.
    transfer_permits: Arc<()>,
    max: usize,
    /// Who wants a sender's progress, until the sender has heard of it: it may end first.
    unheard: Vec<(Addr<SenderMessage>, Addr<Progress>)>,
}

impl SendSlots {
    pub(crate) fn new(max: usize) -> Self {
        Self { transfer_permits: Arc::new(()), max, unheard: Vec::new() }
    }

    fn take_place(&self) -> Result<Arc<()>, FileError> {
        if Arc::strong_count(&self.transfer_permits) > self.max {
            return Err(FileError::TooManyTransfers { max: self.max });
        }
        Ok(self.transfer_permits.clone())
    }

    /// A sender has heard of somebody.
    fn hear(&mut self, watcher: Addr<Progress>) {
        self.unheard.retain(|(_, unheard)| *unheard != watcher);
    }

    /// A sender ends: who wanted its progress, and it has not heard of.
    fn take_unheard(&mut self, sender: Addr<SenderMessage>) -> Vec<Addr<Progress>> {
        self.unheard.extract_if(.., |(of, _)| *of == sender).map(|(_, watcher)| watcher).collect()
    }
}

/// Opens the folder for files, and starts the keeper.
pub(crate) fn start(config: &Config, sched: &mut Loop) -> Result<(), NodeError> {
    let open = |path: &Path| {
        let rules = FileRules {
            file_bytes_max: config.max_file_size,
            peer_bytes_max: config.peer_limits.file_bytes_max,
            dest_bytes_max: config.dest_bytes_max,
            keep: config.partial_files_keep,
        };
        Dest::open(path, rules).map_err(|source| NodeError::DestPath { path: path.to_owned(), source })
    };
    let dest = config.dest_path.as_deref().map(open).transpose()?;
    service::spawn(sched, dest, config.transfers_max, config.files_access.clone());
    Ok(())
}

/// What `NetCx::send_file` does.
pub(crate) fn send_file<M: 'static>(
    cx: &mut Cx<'_, M>,
    to: Location,
    file: &Path,
    options: &FileOptions,
    timeout: Duration,
    answer: impl FnOnce(Result<Stored, FileError>) -> M + 'static,
) -> Transfer {
    let sender = match order(cx, to, file, options, timeout) {
        Ok(order) => cx.spawn_actor(FileSender::new(order)),
        Err(reason) => {
            cx.push_self(answer(Err(reason)));
            return Transfer(None);
        }
    };
    let answer = move |done: Result<Result<Stored, FileError>, AskError>| {
        answer(done.unwrap_or_else(|reason| Err(of_own_sender(reason))))
    };
    // The sender answers in time; this is for the case that it cannot.
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
    let place = node_mut(cx.loop_ref()).ok_or(FileError::NoNode)?.send_slots().take_place()?;
    let name = options.name.as_ref().map_or_else(|| sender::own_name(file), PathBuf::from);
    let target = TargetPath::new(&options.dir, &name)?;
    let asker = cx.id();
    let overwrite = options.overwrite;
    Ok(SendOrder { file: file.to_owned(), target, overwrite, to, timeout, asker, place })
}

/// Counts a refusal that tells of a limit or of a trick, and has the log told, if a peer is refused.
fn count_refusal(loop_ref: &mut LoopRef<'_>, by: Option<NodeId>, reason: &FileRefused) {
    let (Some(by), Some(core)) = (by, node_mut(loop_ref)) else { return };
    match reason {
        FileRefused::OverQuota { .. }
        | FileRefused::DestFull { .. }
        | FileRefused::TooLarge { .. }
        | FileRefused::TooManyTransfers { .. }
        | FileRefused::Disorder => {
            core.refusals().files += 1;
            core.log_refused(by, "files", "sends files out of order, or more of them than it may");
        }
        FileRefused::BadPath(_)
        | FileRefused::NotAFile
        | FileRefused::OtherFileSystem
        | FileRefused::NotReceived => {
            core.refusals().file_paths += 1;
            core.log_refused(by, "file paths", "names files that no peer may write or delete");
        }
        FileRefused::NoDestPath
        | FileRefused::Busy
        | FileRefused::DiskFull
        | FileRefused::ReadOnly
        | FileRefused::Corrupt
        | FileRefused::Disk(_) => {}
    }
}

fn of_own_sender(reason: AskError) -> FileError {
    match reason {
        AskError::TooManyOpen => FileError::TooManyOpen,
        AskError::TimedOut => FileError::TimedOut,
        _ => FileError::Cancelled,
    }
}

/// What `NetCx::progress` does.
pub(crate) fn progress<M: 'static>(
    cx: &mut Cx<'_, M>,
    transfer: Transfer,
    every: Duration,
    each: impl FnMut(Progress) -> M + 'static,
) {
    let Some(sender) = transfer.0 else { return };
    let watcher = cx.adapter(each);
    if cx.send(sender, SenderMessage::Watch(watcher, every)).is_err() {
        // It is over.
        cx.loop_ref().close_adapter(watcher);
    } else if let Some(core) = node_mut(cx.loop_ref()) {
        core.send_slots().unheard.push((sender, watcher));
    }
}

/// What `NetCx::cancel_transfer` does.
pub(crate) fn cancel<M: 'static>(cx: &mut Cx<'_, M>, transfer: Transfer) {
    if let Some(sender) = transfer.0
        && let Err(reason) = cx.send(sender, SenderMessage::Cancel)
    {
        tracing::debug!(%reason, "a transfer that is to be cancelled is over");
    }
}

/// What `NetCx::del_file` does.
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
    let deleter = cx.spawn_actor(Deleter::new(at, path, timeout, cx.id()));
    let answer = move |done: Result<Result<(), DeleteError>, AskError>| {
        answer(done.unwrap_or_else(|reason| Err(reason.into())))
    };
    cx.ask(deleter, timeout.saturating_add(GRACE), deleter::DeleterMessage::Begin, answer);
}

/// What a hidden actor has beyond a user's timeout, before the user is answered without it.
const GRACE: Duration = Duration::from_secs(5);
