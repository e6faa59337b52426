//! Files between two nodes: results, refusals, and resumed transfers.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, SystemTime};

use antiphon_dist::{
    Config, DeleteError, DialError, FileError, FileOptions, FileRefused, Limits, Location, NetCx, PathError,
    Progress, SourceError, Stored, Transfer,
};
use antiphon_sched::{Cx, Event, millis, receive, secs, stop};
use common::{Net, PATIENCE, TestNode, recv, report, wait_for};
use tempfile::TempDir;

/// A node that sends files, and one that receives them.
struct TransferNodes {
    sender: TestNode,
    receiver: TestNode,
    /// The folder of the files to send.
    source: TempDir,
    /// The `dest_path` of the receiver.
    dest: TempDir,
}

impl TransferNodes {
    fn new() -> Self {
        Self::with(|config| config)
    }

    fn with(adjust: impl FnOnce(Config) -> Config) -> Self {
        let net = Net::new();
        let dest = tempfile::tempdir().expect("a temporary folder is created");
        let config = Config { dest_path: Some(dest.path().to_owned()), ..net.static_config("receiver", &[]) };
        let receiver = TestNode::start(adjust(config));
        let sender = net.static_node("sender", &[]);
        Self { sender, receiver, source: tempfile::tempdir().expect("a temporary folder is created"), dest }
    }

    /// Writes a file to send. Its content depends on `seed`.
    fn file(&self, name: &str, bytes: usize, seed: u8) -> PathBuf {
        let path = self.source.path().join(name);
        fs::write(&path, content(bytes, seed)).expect("the file is writable");
        path
    }

    #[track_caller]
    fn send(&self, file: &Path, options: &FileOptions) -> Result<Stored, FileError> {
        recv(&send(&self.sender, self.receiver.location, file, options, PATIENCE))
    }

    #[track_caller]
    fn delete(&self, file: &str, dir: &str) -> Result<(), DeleteError> {
        recv(&delete(&self.sender, self.receiver.location, file, dir))
    }

    /// Reads a file beneath the `dest_path`.
    #[track_caller]
    fn stored(&self, path: &str) -> Vec<u8> {
        fs::read(self.dest.path().join(path)).expect("the file exists")
    }

    /// Returns the sizes of the partial files.
    fn partials(&self) -> Vec<u64> {
        partials(self.dest.path())
    }
}

fn partials(dest: &Path) -> Vec<u64> {
    let found = fs::read_dir(dest.join(".antiphon/partial")).expect("the node created the folder");
    found.map(|entry| entry.and_then(|entry| entry.metadata()).map_or(0, |meta| meta.len())).collect()
}

fn content(bytes: usize, seed: u8) -> Vec<u8> {
    (0..bytes).map(|n| (n / 251) as u8 ^ (n as u8).wrapping_mul(seed)).collect()
}

fn into(dir: &str) -> FileOptions {
    FileOptions { dir: dir.into(), ..FileOptions::default() }
}

fn overwrite(dir: &str) -> FileOptions {
    FileOptions { overwrite: true, ..into(dir) }
}

/// Sends a file; its result is received.
fn send(
    node: &TestNode,
    to: Location,
    file: &Path,
    options: &FileOptions,
    timeout: Duration,
) -> Receiver<Result<Stored, FileError>> {
    let (sender, results) = channel();
    let (file, options) = (file.to_owned(), options.clone());
    node.spawn(move |cx, event| match event {
        Event::Start => {
            cx.send_file(to, &file, options.clone(), timeout, |done| done);
            receive()
        }
        Event::Message(done) => {
            report(&sender, done);
            stop()
        }
        _ => receive(),
    });
    results
}

fn delete(node: &TestNode, at: Location, file: &str, dir: &str) -> Receiver<Result<(), DeleteError>> {
    let (sender, results) = channel();
    let (file, dir) = (file.to_owned(), dir.to_owned());
    node.spawn(move |cx, event| match event {
        Event::Start => {
            cx.del_file(at, &file, &dir, PATIENCE, |done| done);
            receive()
        }
        Event::Message(done) => {
            report(&sender, done);
            stop()
        }
        _ => receive(),
    });
    results
}

const REFUSED_PATH: FileError = FileError::BadPath(PathError::Parent);

#[test]
fn file_arrives_with_time_permissions_without_special_bits() {
    let nodes = TransferNodes::new();
    let file = nodes.file("f", 3_000_000, 1);
    fs::set_permissions(&file, PermissionsExt::from_mode(0o6751)).expect("the file is writable");
    let then = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    fs::File::open(&file).and_then(|file| file.set_modified(then)).expect("the file is writable");

    assert_eq!(nodes.send(&file, &into("a/b")), Ok(Stored::New));
    assert_eq!(nodes.stored("a/b/f"), content(3_000_000, 1));
    let meta = fs::metadata(nodes.dest.path().join("a/b/f")).expect("the file exists");
    assert_eq!(meta.mode() & 0o7777, 0o751);
    assert_eq!(meta.modified().expect("the system records the time"), then);
    assert!(nodes.partials().is_empty());
}

#[test]
fn different_file_is_replaced_only_with_overwrite() {
    let nodes = TransferNodes::new();
    let file = nodes.file("f", 100_000, 1);
    assert_eq!(nodes.send(&file, &into("")), Ok(Stored::New));
    assert_eq!(nodes.send(&file, &into("")), Ok(Stored::AlreadyThere));

    let before = fs::metadata(nodes.dest.path().join("f")).expect("the file exists");
    let file = nodes.file("f", 70_000, 2);
    match nodes.send(&file, &into("")) {
        Err(FileError::Different { there }) => {
            assert_eq!((there.size, there.permissions), (100_000, before.mode() & 0o777));
            assert_eq!(there.modified(), before.modified().expect("the system records the time"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(nodes.stored("f"), content(100_000, 1));
    assert_eq!(nodes.send(&file, &overwrite("")), Ok(Stored::New));
    assert_eq!(nodes.stored("f"), content(70_000, 2));

    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("the file is writable");
    assert!(matches!(nodes.send(&file, &into("")), Err(FileError::Different { .. })));
}

#[test]
fn files_of_boundary_sizes_arrive() {
    let nodes = TransferNodes::new();
    for (name, bytes) in [("none", 0), ("one", 1), ("chunk", 128 << 10), ("window", 512 << 10)] {
        assert_eq!(nodes.send(&nodes.file(name, bytes, 3), &into("")), Ok(Stored::New), "{name}");
        assert_eq!(nodes.stored(name), content(bytes, 3), "{name}");
    }
    assert_eq!(nodes.send(&nodes.source.path().join("none"), &into("")), Ok(Stored::AlreadyThere));
}

#[test]
fn node_sends_to_itself_under_another_name() {
    let nodes = TransferNodes::new();
    let file = nodes.file("f", 10_000, 1);
    let options = FileOptions { name: Some("g".to_owned()), ..into("d") };
    let results = send(&nodes.receiver, nodes.receiver.location, &file, &options, PATIENCE);
    assert_eq!(recv(&results), Ok(Stored::New));
    assert_eq!(nodes.stored("d/g"), content(10_000, 1));
}

#[test]
fn node_without_dest_path_refuses_files_and_deletions() {
    let net = Net::new();
    let (receiver, sender) = net.pair();
    let source = tempfile::tempdir().expect("a temporary folder is created");
    let file = source.path().join("f");
    fs::write(&file, "x").expect("the file is writable");
    let results = send(&sender, receiver.location, &file, &into(""), PATIENCE);
    assert_eq!(recv(&results), Err(FileRefused::NoDestPath.into()));
    assert_eq!(recv(&delete(&sender, receiver.location, "f", "")), Err(FileRefused::NoDestPath.into()));
}

#[test]
fn invalid_paths_are_refused_by_sender() {
    let nodes = TransferNodes::new();
    let file = nodes.file("f", 10, 1);
    assert_eq!(nodes.send(&file, &into("..")), Err(REFUSED_PATH));
    assert_eq!(nodes.send(&file, &into("a/../../b")), Err(REFUSED_PATH));
    let absolute = nodes.source.path().join("x").display().to_string();
    assert_eq!(nodes.send(&file, &into(&absolute)), Err(FileError::BadPath(PathError::Absolute)));
    let named = |name: &str| FileOptions { name: Some(name.to_owned()), ..into("") };
    assert_eq!(nodes.send(&file, &named("../f")), Err(REFUSED_PATH));
    assert_eq!(nodes.send(&file, &named("")), Err(FileError::BadPath(PathError::Empty)));
    assert_eq!(nodes.send(&file, &into(".antiphon")), Err(FileError::BadPath(PathError::Reserved)));
    assert_eq!(nodes.delete("../f", ""), Err(DeleteError::BadPath(PathError::Parent)));
    assert_eq!(nodes.delete("f", ".."), Err(DeleteError::BadPath(PathError::Parent)));
    assert_eq!(nodes.delete(".antiphon/received", ""), Err(DeleteError::BadPath(PathError::Reserved)));
}

#[test]
fn symlinks_are_not_followed_or_replaced() {
    let nodes = TransferNodes::new();
    let outside = tempfile::tempdir().expect("a temporary folder is created");
    fs::write(outside.path().join("f"), "precious").expect("the file is writable");
    symlink(outside.path(), nodes.dest.path().join("link")).expect("the symlink is created");
    symlink(outside.path().join("f"), nodes.dest.path().join("f")).expect("the symlink is created");
    let refused = Err(FileRefused::NotAFile.into());
    let file = nodes.file("f", 10, 1);
    for overwrite in [false, true] {
        for dir in ["link", "link/deeper", ""] {
            let options = FileOptions { overwrite, ..into(dir) };
            assert_eq!(nodes.send(&file, &options), refused, "{dir:?}");
        }
    }
    assert_eq!(nodes.delete("f", "link"), Err(FileRefused::NotAFile.into()));
    assert_eq!(nodes.delete("f", ""), Err(FileRefused::NotAFile.into()));
    assert_eq!(fs::read(outside.path().join("f")).expect("the file exists"), b"precious");
    assert_eq!(fs::read_dir(outside.path()).expect("the folder is readable").count(), 1);
    assert!(fs::symlink_metadata(nodes.dest.path().join("f")).expect("the file exists").is_symlink());
}

#[test]
fn target_folder_or_parent_file_is_refused() {
    let nodes = TransferNodes::new();
    fs::create_dir(nodes.dest.path().join("f")).expect("the folder is writable");
    fs::write(nodes.dest.path().join("g"), "a file").expect("the file is writable");
    let file = nodes.file("f", 10, 1);
    assert_eq!(nodes.send(&file, &overwrite("")), Err(FileRefused::NotAFile.into()));
    assert_eq!(nodes.send(&file, &overwrite("g")), Err(FileRefused::NotAFile.into()));
    assert_eq!(nodes.delete("f", ""), Err(FileRefused::NotAFile.into()));
}

#[test]
fn file_over_max_size_is_refused() {
    let nodes = TransferNodes::with(|config| Config { max_file_size: Some(1000), ..config });
    assert_eq!(nodes.send(&nodes.file("f", 1000, 1), &into("")), Ok(Stored::New));
    let large = nodes.file("g", 1001, 1);
    assert_eq!(nodes.send(&large, &into("")), Err(FileRefused::TooLarge { max: 1000 }.into()));
    assert!(nodes.partials().is_empty());
}

#[test]
fn unreadable_source_fails_with_reason() {
    let nodes = TransferNodes::new();
    let none = nodes.source.path().join("none");
    assert_eq!(nodes.send(&none, &into("")), Err(SourceError::NotFound.into()));
    assert_eq!(nodes.send(nodes.source.path(), &into("")), Err(SourceError::NotAFile.into()));
}

#[test]
fn only_unchanged_received_files_are_deleted() {
    let nodes = TransferNodes::new();
    let file = nodes.file("f", 5000, 1);
    assert_eq!(nodes.delete("f", "d"), Err(DeleteError::NotFound));
    assert_eq!(nodes.send(&file, &into("d")), Ok(Stored::New));
    assert_eq!(nodes.delete("f", "d"), Ok(()));
    assert!(!nodes.dest.path().join("d/f").exists());
    assert_eq!(nodes.delete("f", "d"), Err(DeleteError::NotFound));

    let own = nodes.dest.path().join("d/own");
    fs::write(&own, "the user's").expect("the file is writable");
    assert_eq!(nodes.delete("own", "d"), Err(FileRefused::NotReceived.into()));
    // A different file with the name, size and time of the received one.
    assert_eq!(nodes.send(&file, &into("d")), Ok(Stored::New));
    let received = nodes.dest.path().join("d/f");
    let modified = fs::metadata(&received).and_then(|meta| meta.modified()).expect("the file exists");
    fs::rename(&received, nodes.dest.path().join("d/kept")).expect("the folder is writable");
    fs::write(&received, content(5000, 9)).expect("the file is writable");
    fs::File::open(&received).and_then(|file| file.set_modified(modified)).expect("the file is writable");
    assert_eq!(nodes.delete("f", "d"), Err(FileRefused::NotReceived.into()));
    assert_eq!(nodes.stored("d/f"), content(5000, 9));
    // The received file, changed since.
    fs::rename(nodes.dest.path().join("d/kept"), &received).expect("the folder is writable");
    fs::write(&received, content(5000, 8)).expect("the file is writable");
    assert_eq!(nodes.delete("f", "d"), Err(FileRefused::NotReceived.into()));
    assert!(received.exists());
}

#[test]
fn received_file_is_deleted_after_restart() {
    let nodes = TransferNodes::new();
    let file = nodes.file("f", 5000, 1);
    assert_eq!(nodes.send(&file, &into("")), Ok(Stored::New));
    let TransferNodes { sender, receiver, source: _source, dest } = nodes;
    receiver.stop();
    let net = Net::new();
    let config = Config { dest_path: Some(dest.path().to_owned()), ..net.static_config("receiver", &[]) };
    let receiver = TestNode::start(config);
    sender.stop();
    let sender = net.static_node("sender", &[]);
    assert_eq!(recv(&delete(&sender, receiver.location, "f", "")), Ok(()));
    assert!(!dest.path().join("f").exists());
}

#[test]
fn twenty_concurrent_transfers_arrive() {
    let nodes = TransferNodes::with(|config| Config { transfers_max: 27, ..config });
    let files: Vec<PathBuf> = (0..20).map(|n| nodes.file(&format!("f{n}"), 400_000 + n, n as u8)).collect();
    let to = nodes.receiver.location;
    let results: Vec<_> =
        files.iter().map(|file| send(&nodes.sender, to, file, &into("many"), PATIENCE)).collect();
    for (n, result) in results.iter().enumerate() {
        assert_eq!(recv(result), Ok(Stored::New));
        assert_eq!(nodes.stored(&format!("many/f{n}")), content(400_000 + n, n as u8));
    }
    assert!(nodes.partials().is_empty());
}

#[test]
fn node_at_transfers_max_refuses_transfers() {
    let nodes = TransferNodes::with(|config| Config { transfers_max: 0, ..config });
    let file = nodes.file("f", 10, 1);
    assert_eq!(nodes.send(&file, &into("")), Err(FileRefused::TooManyTransfers { max: 0 }.into()));
    let results = send(&nodes.receiver, nodes.sender.location, &file, &into(""), PATIENCE);
    assert_eq!(recv(&results), Err(FileError::TooManyTransfers { max: 0 }));
}

#[test]
fn chunk_over_message_limit_ends_transfer() {
    let limits = Limits { message_bytes_max: 1024, ..Limits::default() };
    let nodes = TransferNodes::with(|config| Config { limits, ..config });
    let file = nodes.file("f", 200_000, 1);
    assert_eq!(nodes.send(&file, &into("")), Err(FileError::PieceTooLarge));
    assert_eq!(nodes.send(&nodes.file("small", 1000, 1), &into("")), Ok(Stored::New));
}

#[test]
fn send_without_node_at_location_fails() {
    let nodes = TransferNodes::new();
    let file = nodes.file("f", 10, 1);
    let location = "127.0.0.1:9".parse().expect("the location is valid");
    let results = send(&nodes.sender, location, &file, &into(""), millis(300));
    assert_eq!(recv(&results), Err(FileError::Unreachable(DialError::ConnectionRefused)));
}

/// Sends a file and watches its progress. `act` is called at each report, and may cancel the transfer.
fn send_watched(
    nodes: &TransferNodes,
    file: &Path,
    mut act: impl FnMut(&mut Cx<'_, TransferEvent>, Transfer, Progress) + Send + 'static,
) -> (Receiver<Progress>, Receiver<Result<Stored, FileError>>) {
    let ((reports, progress_of), (sender, results)) = (channel(), channel());
    let (to, file) = (nodes.receiver.location, file.to_owned());
    let mut transfer = None;
    nodes.sender.spawn(move |cx, event| match event {
        Event::Start => {
            let started = cx.send_file(to, &file, into(""), PATIENCE, TransferEvent::Done);
            cx.progress(started, millis(10), TransferEvent::Progress).expect("the limit is not reached");
            transfer = Some(started);
            receive()
        }
        Event::Message(TransferEvent::Progress(progress)) => {
            report(&reports, progress);
            if let Some(transfer) = transfer {
                act(cx, transfer, progress);
            }
            receive()
        }
        Event::Message(TransferEvent::Done(done)) => {
            report(&sender, done);
            stop()
        }
        _ => receive(),
    });
    (progress_of, results)
}

enum TransferEvent {
    Progress(Progress),
    Done(Result<Stored, FileError>),
}

const LARGE: usize = 48 << 20;

#[test]
fn progress_increases_to_whole_file() {
    let nodes = TransferNodes::new();
    let file = nodes.file("f", LARGE, 1);
    let (progress, done) = send_watched(&nodes, &file, |_, _, _| {});
    assert_eq!(recv(&done), Ok(Stored::New));
    let reports: Vec<Progress> = progress.iter().collect();
    assert!(reports.len() > 1, "{reports:?}");
    assert!(reports.is_sorted_by_key(|progress| progress.done), "{reports:?}");
    assert!(reports.iter().all(|progress| progress.resumed == 0));
    let last = reports.last().expect("the end of a transfer is reported");
    assert_eq!((last.done, last.total), (LARGE as u64, LARGE as u64));
}

#[test]
fn progress_of_ended_transfer_closes_adapter() {
    let nodes = TransferNodes::new();
    let (to, file) = (nodes.receiver.location, nodes.file("f", 10, 1));
    let (held, dropped) = channel::<()>();
    let mut held = Some(held);
    nodes.sender.spawn(move |cx, event| {
        if let Event::Start = event {
            let transfer = cx.send_file(to, &file, into(""), PATIENCE, TransferEvent::Done);
            cx.cancel_transfer(transfer);
            let held = held.take();
            cx.progress(transfer, millis(10), move |progress| {
                assert!(held.is_some(), "the sender of the channel lives as long as this closure");
                TransferEvent::Progress(progress)
            })
            .expect("the limit is not reached");
        }
        // The actor continues, so its end does not close the adapter.
        receive()
    });
    assert_eq!(dropped.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected));
}

#[test]
fn cancelled_transfer_is_resumed_by_next() {
    let nodes = TransferNodes::new();
    let file = nodes.file("f", LARGE, 1);
    let (_progress, done) = send_watched(&nodes, &file, |cx, transfer, progress| {
        if progress.done > 0 {
            cx.cancel_transfer(transfer);
        }
    });
    assert_eq!(recv(&done), Err(FileError::Cancelled));
    let (stored, last) = wait_for("the receiver to release the partial file", || {
        let (progress, done) = send_watched(&nodes, &file, |_, _, _| {});
        match recv(&done) {
            Ok(stored) => Some((stored, progress.iter().last().expect("the end of a transfer is reported"))),
            Err(FileError::Refused(FileRefused::Busy)) => None,
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(stored, Stored::New);
    assert!(last.resumed > 0, "{last:?}");
    assert_eq!(nodes.stored("f"), content(LARGE, 1));
    assert!(nodes.partials().is_empty());
}

#[test]
fn partial_of_different_file_is_not_resumed() {
    let nodes = TransferNodes::new();
    let file = nodes.file("f", 500_000, 1);
    let (_progress, done) = send_watched(&nodes, &file, |_, _, _| {});
    assert_eq!(recv(&done), Ok(Stored::New));
    fs::remove_file(nodes.dest.path().join("f")).expect("the file exists");
    // The partial file of an interrupted transfer; the second time with one changed byte.
    let key = blake3::hash(b"f").to_hex().to_string();
    let partial = nodes.dest.path().join(".antiphon/partial").join(key);
    for (change, resumed) in [(None, 300_000), (Some(299_999), 0)] {
        let mut left = content(300_000, 1);
        if let Some(at) = change {
            left[at] ^= 1;
        }
        fs::write(&partial, left).expect("the file is writable");
        let (progress, done) = send_watched(&nodes, &file, |_, _, _| {});
        assert_eq!(recv(&done), Ok(Stored::New));
        assert_eq!(progress.iter().last().expect("the end of a transfer is reported").resumed, resumed);
        assert_eq!(nodes.stored("f"), content(500_000, 1));
        fs::remove_file(nodes.dest.path().join("f")).expect("the file exists");
    }
    // A partial file that is longer than the file.
    fs::write(&partial, content(600_000, 1)).expect("the file is writable");
    assert_eq!(nodes.send(&file, &into("")), Ok(Stored::New));
    assert_eq!(nodes.stored("f"), content(500_000, 1));
}

#[test]
fn source_resized_during_transfer_is_not_stored() {
    for grows in [true, false] {
        let nodes = TransferNodes::new();
        let file = nodes.file("f", LARGE, 1);
        fs::write(nodes.dest.path().join("f"), "old").expect("the file is writable");
        let changing = file.clone();
        let mut is_changed = false;
        let ((sender, results), to) = (channel(), nodes.receiver.location);
        nodes.sender.spawn(move |cx, event| match event {
            Event::Start => {
                let started = cx.send_file(to, &changing, overwrite(""), PATIENCE, TransferEvent::Done);
                cx.progress(started, millis(10), TransferEvent::Progress).expect("the limit is not reached");
                receive()
            }
            Event::Message(TransferEvent::Progress(progress)) => {
                if progress.done > 0 && !std::mem::replace(&mut is_changed, true) {
                    let length = if grows { LARGE as u64 + 1 } else { LARGE as u64 - 1 };
                    fs::OpenOptions::new().write(true).open(&changing)?.set_len(length)?;
                }
                receive()
            }
            Event::Message(TransferEvent::Done(done)) => {
                report(&sender, done);
                stop()
            }
            _ => receive(),
        });
        assert_eq!(recv(&results), Err(SourceError::Changed.into()), "grows: {grows}");
        wait_for("the removal of the partial file", || nodes.partials().is_empty().then_some(()));
        assert_eq!(nodes.stored("f"), b"old");
    }
}

#[test]
fn second_transfer_to_same_target_is_busy() {
    let nodes = TransferNodes::new();
    let (one, other) = (nodes.file("one", LARGE, 1), nodes.file("other", LARGE, 2));
    let options = FileOptions { name: Some("f".to_owned()), ..overwrite("") };
    let to = nodes.receiver.location;
    let first = send(&nodes.sender, to, &one, &options, PATIENCE);
    let second = send(&nodes.sender, to, &other, &options, PATIENCE);
    let done = [recv(&first), recv(&second)];
    assert!(done.contains(&Ok(Stored::New)), "{done:?}");
    assert!(done.contains(&Err(FileRefused::Busy.into())), "{done:?}");
    let seed = if done[0].is_ok() { 1 } else { 2 };
    assert_eq!(nodes.stored("f"), content(LARGE, seed));
}

#[test]
fn transfer_ends_with_its_caller() {
    let nodes = TransferNodes::new();
    let file = nodes.file("f", LARGE, 1);
    // The service actors of the node have started before this step runs.
    nodes.sender.step(|_| ());
    let before = nodes.sender.stats().actors;
    let to = nodes.receiver.location;
    nodes.sender.spawn(move |cx: &mut Cx<TransferEvent>, event| match event {
        Event::Start => {
            let started = cx.send_file(to, &file, into(""), PATIENCE, TransferEvent::Done);
            cx.progress(started, millis(10), TransferEvent::Progress).expect("the limit is not reached");
            receive()
        }
        Event::Message(TransferEvent::Progress(progress)) if progress.done > 0 => stop(),
        _ => receive(),
    });
    wait_for("a partial file", || nodes.partials().iter().any(|bytes| *bytes > 0).then_some(()));
    wait_for("the sender to end", || (nodes.sender.stats().actors == before).then_some(()));
    assert!(!nodes.dest.path().join("f").exists());
}

#[test]
fn loop_without_node_refuses_to_send() {
    let mut sched =
        antiphon_sched::Loop::new(antiphon_sched::LoopConfig::default()).expect("a loop is created");
    let (sender, results) = channel();
    sched.spawn(move |cx: &mut Cx<TransferEvent>, event| match event {
        Event::Start => {
            let location = "127.0.0.1:9".parse().expect("the location is valid");
            let none = cx.send_file(location, "f", into(""), secs(1), TransferEvent::Done);
            cx.progress(none, secs(1), TransferEvent::Progress).expect("the limit is not reached");
            cx.cancel_transfer(none);
            receive()
        }
        Event::Message(TransferEvent::Done(done)) => {
            report(&sender, done);
            stop()
        }
        _ => receive(),
    });
    sched.run().expect("the loop runs");
    assert_eq!(recv(&results), Err(FileError::NoNode));
}
