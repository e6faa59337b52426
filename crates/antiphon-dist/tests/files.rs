//! Files between two nodes: every outcome, what is refused, and that a transfer goes on where it stopped.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, SystemTime};

use antiphon_dist::{
    Config, DeleteError, FileError, FileOptions, FileRefused, Limits, Location, NetCx, PathError, Progress,
    SourceError, Stored, Transfer,
};
use antiphon_sched::{Cx, Event, millis, receive, secs, stop};
use common::{Net, PATIENCE, TestNode, heard, tell_test, wait_for};
use tempfile::TempDir;

/// A node that sends, and one that takes.
struct Pair {
    here: TestNode,
    there: TestNode,
    /// Where files are sent from.
    own: TempDir,
    dest: TempDir,
}

impl Pair {
    fn new() -> Self {
        Self::with(|config| config)
    }

    fn with(adjust: impl FnOnce(Config) -> Config) -> Self {
        let net = Net::new();
        let dest = tempfile::tempdir().expect("a folder");
        let config = Config { dest_path: Some(dest.path().to_owned()), ..net.quiet("there", &[]) };
        let there = TestNode::start(adjust(config));
        let here = net.quiet_node("here", &[]);
        Self { here, there, own: tempfile::tempdir().expect("a folder"), dest }
    }

    /// A file of its own, which differs by `seed`.
    fn file(&self, name: &str, bytes: usize, seed: u8) -> PathBuf {
        let path = self.own.path().join(name);
        fs::write(&path, content(bytes, seed)).expect("it is writable");
        path
    }

    #[track_caller]
    fn send(&self, file: &Path, options: &FileOptions) -> Result<Stored, FileError> {
        heard(&send(&self.here, self.there.location, file, options, PATIENCE))
    }

    #[track_caller]
    fn delete(&self, file: &str, dir: &str) -> Result<(), DeleteError> {
        heard(&delete(&self.here, self.there.location, file, dir))
    }

    /// What is at a place beneath the `dest_path`.
    #[track_caller]
    fn stored(&self, path: &str) -> Vec<u8> {
        fs::read(self.dest.path().join(path)).expect("it is there")
    }

    /// Unfinished files.
    fn partials(&self) -> Vec<u64> {
        partials(self.dest.path())
    }
}

fn partials(dest: &Path) -> Vec<u64> {
    let found = fs::read_dir(dest.join(".antiphon/partial")).expect("it was made at the start");
    found.map(|entry| entry.and_then(|entry| entry.metadata()).map_or(0, |meta| meta.len())).collect()
}

fn content(bytes: usize, seed: u8) -> Vec<u8> {
    (0..bytes).map(|n| (n / 251) as u8 ^ (n as u8).wrapping_mul(seed)).collect()
}

fn into(dir: &str) -> FileOptions {
    FileOptions { dir: dir.into(), ..FileOptions::default() }
}

fn over(dir: &str) -> FileOptions {
    FileOptions { overwrite: true, ..into(dir) }
}

/// Sends a file; what it comes to is told.
fn send(
    node: &TestNode,
    to: Location,
    file: &Path,
    options: &FileOptions,
    timeout: Duration,
) -> Receiver<Result<Stored, FileError>> {
    let (tell, told) = channel();
    let (file, options) = (file.to_owned(), options.clone());
    node.spawn(move |cx, event| match event {
        Event::Start => {
            cx.send_file(to, &file, options.clone(), timeout, |done| done);
            receive()
        }
        Event::Message(done) => {
            tell_test(&tell, done);
            stop()
        }
        _ => receive(),
    });
    told
}

fn delete(node: &TestNode, at: Location, file: &str, dir: &str) -> Receiver<Result<(), DeleteError>> {
    let (tell, told) = channel();
    let (file, dir) = (file.to_owned(), dir.to_owned());
    node.spawn(move |cx, event| match event {
        Event::Start => {
            cx.del_file(at, &file, &dir, PATIENCE, |done| done);
            receive()
        }
        Event::Message(done) => {
            tell_test(&tell, done);
            stop()
        }
        _ => receive(),
    });
    told
}

const REFUSED_PATH: FileError = FileError::BadPath(PathError::Parent);

#[test]
fn a_file_arrives_with_its_time_and_permissions_but_no_special_bits() {
    let pair = Pair::new();
    let file = pair.file("f", 3_000_000, 1);
    fs::set_permissions(&file, PermissionsExt::from_mode(0o6751)).expect("it is ours");
    let then = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    fs::File::open(&file).and_then(|file| file.set_modified(then)).expect("it is ours");

    assert_eq!(pair.send(&file, &into("a/b")), Ok(Stored::New));
    assert_eq!(pair.stored("a/b/f"), content(3_000_000, 1));
    let meta = fs::metadata(pair.dest.path().join("a/b/f")).expect("it is there");
    assert_eq!(meta.mode() & 0o7777, 0o751);
    assert_eq!(meta.modified().expect("this system knows"), then);
    assert_eq!(pair.partials(), []);
}

#[test]
fn the_same_file_is_already_there_and_a_different_one_is_told_and_only_replaced_by_wish() {
    let pair = Pair::new();
    let file = pair.file("f", 100_000, 1);
    assert_eq!(pair.send(&file, &into("")), Ok(Stored::New));
    assert_eq!(pair.send(&file, &into("")), Ok(Stored::AlreadyThere));

    let before = fs::metadata(pair.dest.path().join("f")).expect("it is there");
    let file = pair.file("f", 70_000, 2);
    match pair.send(&file, &into("")) {
        Err(FileError::Different { there }) => {
            assert_eq!((there.size, there.permissions), (100_000, before.mode() & 0o777));
            assert_eq!(there.modified(), before.modified().expect("this system knows"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(pair.stored("f"), content(100_000, 1));
    assert_eq!(pair.send(&file, &over("")), Ok(Stored::New));
    assert_eq!(pair.stored("f"), content(70_000, 2));

    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("it is ours");
    assert!(matches!(pair.send(&file, &into("")), Err(FileError::Different { .. })));
}

#[test]
fn an_empty_file_and_one_of_exactly_some_chunks_arrive() {
    let pair = Pair::new();
    for (name, bytes) in [("none", 0), ("one", 1), ("chunk", 128 << 10), ("window", 512 << 10)] {
        assert_eq!(pair.send(&pair.file(name, bytes, 3), &into("")), Ok(Stored::New), "{name}");
        assert_eq!(pair.stored(name), content(bytes, 3), "{name}");
    }
    assert_eq!(pair.send(&pair.own.path().join("none"), &into("")), Ok(Stored::AlreadyThere));
}

#[test]
fn a_node_can_send_to_itself_and_under_another_name() {
    let pair = Pair::new();
    let file = pair.file("f", 10_000, 1);
    let options = FileOptions { name: Some("g".to_owned()), ..into("d") };
    let told = send(&pair.there, pair.there.location, &file, &options, PATIENCE);
    assert_eq!(heard(&told), Ok(Stored::New));
    assert_eq!(pair.stored("d/g"), content(10_000, 1));
}

#[test]
fn a_node_without_a_dest_path_takes_and_deletes_nothing() {
    let net = Net::new();
    let (there, here) = net.pair();
    let own = tempfile::tempdir().expect("a folder");
    let file = own.path().join("f");
    fs::write(&file, "x").expect("it is writable");
    let told = send(&here, there.location, &file, &into(""), PATIENCE);
    assert_eq!(heard(&told), Err(FileRefused::NoDestPath.into()));
    assert_eq!(heard(&delete(&here, there.location, "f", "")), Err(FileRefused::NoDestPath.into()));
}

#[test]
fn paths_that_lead_elsewhere_are_refused_before_anything_is_sent() {
    let pair = Pair::new();
    let file = pair.file("f", 10, 1);
    assert_eq!(pair.send(&file, &into("..")), Err(REFUSED_PATH));
    assert_eq!(pair.send(&file, &into("a/../../b")), Err(REFUSED_PATH));
    let absolute = pair.own.path().join("x").display().to_string();
    assert_eq!(pair.send(&file, &into(&absolute)), Err(FileError::BadPath(PathError::Absolute)));
    let named = |name: &str| FileOptions { name: Some(name.to_owned()), ..into("") };
    assert_eq!(pair.send(&file, &named("../f")), Err(REFUSED_PATH));
    assert_eq!(pair.send(&file, &named("")), Err(FileError::BadPath(PathError::Empty)));
    assert_eq!(pair.send(&file, &into(".antiphon")), Err(FileError::BadPath(PathError::Reserved)));
    assert_eq!(pair.delete("../f", ""), Err(DeleteError::BadPath(PathError::Parent)));
    assert_eq!(pair.delete("f", ".."), Err(DeleteError::BadPath(PathError::Parent)));
    assert_eq!(pair.delete(".antiphon/received", ""), Err(DeleteError::BadPath(PathError::Reserved)));
}

#[test]
fn symlinks_are_neither_followed_nor_replaced() {
    let pair = Pair::new();
    let outside = tempfile::tempdir().expect("a folder");
    fs::write(outside.path().join("f"), "precious").expect("it is writable");
    symlink(outside.path(), pair.dest.path().join("way")).expect("a symlink");
    symlink(outside.path().join("f"), pair.dest.path().join("f")).expect("a symlink");
    let refused = Err(FileRefused::NotAFile.into());
    let file = pair.file("f", 10, 1);
    for overwrite in [false, true] {
        for dir in ["way", "way/deeper", ""] {
            let options = FileOptions { overwrite, ..into(dir) };
            assert_eq!(pair.send(&file, &options), refused, "{dir:?}");
        }
    }
    assert_eq!(pair.delete("f", "way"), Err(FileRefused::NotAFile.into()));
    assert_eq!(pair.delete("f", ""), Err(FileRefused::NotAFile.into()));
    assert_eq!(fs::read(outside.path().join("f")).expect("it is there"), b"precious");
    assert_eq!(fs::read_dir(outside.path()).expect("a folder").count(), 1);
    assert!(fs::symlink_metadata(pair.dest.path().join("f")).expect("it is there").is_symlink());
}

#[test]
fn a_folder_in_the_place_of_a_file_and_a_file_in_the_place_of_a_folder_are_refused() {
    let pair = Pair::new();
    fs::create_dir(pair.dest.path().join("f")).expect("it is ours");
    fs::write(pair.dest.path().join("g"), "a file").expect("it is ours");
    let file = pair.file("f", 10, 1);
    assert_eq!(pair.send(&file, &over("")), Err(FileRefused::NotAFile.into()));
    assert_eq!(pair.send(&file, &over("g")), Err(FileRefused::NotAFile.into()));
    assert_eq!(pair.delete("f", ""), Err(FileRefused::NotAFile.into()));
}

#[test]
fn a_file_that_is_too_large_is_refused_before_it_is_sent() {
    let pair = Pair::with(|config| Config { max_file_size: Some(1000), ..config });
    assert_eq!(pair.send(&pair.file("f", 1000, 1), &into("")), Ok(Stored::New));
    let large = pair.file("g", 1001, 1);
    assert_eq!(pair.send(&large, &into("")), Err(FileRefused::TooLarge { max: 1000 }.into()));
    assert_eq!(pair.partials(), []);
}

#[test]
fn what_cannot_be_read_is_told_with_its_reason() {
    let pair = Pair::new();
    let none = pair.own.path().join("none");
    assert_eq!(pair.send(&none, &into("")), Err(SourceError::NotFound.into()));
    assert_eq!(pair.send(pair.own.path(), &into("")), Err(SourceError::NotAFile.into()));
}

#[test]
fn only_what_came_from_a_peer_and_is_as_it_came_can_be_deleted() {
    let pair = Pair::new();
    let file = pair.file("f", 5000, 1);
    assert_eq!(pair.delete("f", "d"), Err(DeleteError::NotFound));
    assert_eq!(pair.send(&file, &into("d")), Ok(Stored::New));
    assert_eq!(pair.delete("f", "d"), Ok(()));
    assert!(!pair.dest.path().join("d/f").exists());
    assert_eq!(pair.delete("f", "d"), Err(DeleteError::NotFound));

    let own = pair.dest.path().join("d/own");
    fs::write(&own, "the user's").expect("it is ours");
    assert_eq!(pair.delete("own", "d"), Err(FileRefused::NotReceived.into()));
    // The same name, size and time as what came, but another file.
    assert_eq!(pair.send(&file, &into("d")), Ok(Stored::New));
    let came = pair.dest.path().join("d/f");
    let modified = fs::metadata(&came).and_then(|meta| meta.modified()).expect("it is there");
    fs::rename(&came, pair.dest.path().join("d/kept")).expect("it is ours");
    fs::write(&came, content(5000, 9)).expect("it is ours");
    fs::File::open(&came).and_then(|file| file.set_modified(modified)).expect("it is ours");
    assert_eq!(pair.delete("f", "d"), Err(FileRefused::NotReceived.into()));
    assert_eq!(pair.stored("d/f"), content(5000, 9));
    // What came, but was written to since.
    fs::rename(pair.dest.path().join("d/kept"), &came).expect("it is ours");
    fs::write(&came, content(5000, 8)).expect("it is ours");
    assert_eq!(pair.delete("f", "d"), Err(FileRefused::NotReceived.into()));
    assert!(came.exists());
}

#[test]
fn what_a_node_received_before_its_restart_can_be_deleted_after_it() {
    let pair = Pair::new();
    let file = pair.file("f", 5000, 1);
    assert_eq!(pair.send(&file, &into("")), Ok(Stored::New));
    let Pair { here, there, own: _own, dest } = pair;
    there.stop();
    let net = Net::new();
    let config = Config { dest_path: Some(dest.path().to_owned()), ..net.quiet("there", &[]) };
    let there = TestNode::start(config);
    here.stop();
    let here = net.quiet_node("here", &[]);
    assert_eq!(heard(&delete(&here, there.location, "f", "")), Ok(()));
    assert!(!dest.path().join("f").exists());
}

#[test]
fn twenty_transfers_at_once_arrive() {
    let pair = Pair::with(|config| Config { transfers_max: 27, ..config });
    let files: Vec<PathBuf> = (0..20).map(|n| pair.file(&format!("f{n}"), 400_000 + n, n as u8)).collect();
    let to = pair.there.location;
    let told: Vec<_> = files.iter().map(|file| send(&pair.here, to, file, &into("many"), PATIENCE)).collect();
    for (n, told) in told.iter().enumerate() {
        assert_eq!(heard(told), Ok(Stored::New));
        assert_eq!(pair.stored(&format!("many/f{n}")), content(400_000 + n, n as u8));
    }
    assert_eq!(pair.partials(), []);
}

#[test]
fn a_node_that_may_receive_no_more_says_so_as_does_one_that_may_send_no_more() {
    let pair = Pair::with(|config| Config { transfers_max: 0, ..config });
    let file = pair.file("f", 10, 1);
    assert_eq!(pair.send(&file, &into("")), Err(FileRefused::TooManyTransfers { max: 0 }.into()));
    let told = send(&pair.there, pair.here.location, &file, &into(""), PATIENCE);
    assert_eq!(heard(&told), Err(FileError::TooManyTransfers { max: 0 }));
}

#[test]
fn a_piece_that_is_over_the_limit_of_a_message_ends_the_transfer() {
    let limits = Limits { message_bytes_max: 1024, ..Limits::default() };
    let pair = Pair::with(|config| Config { limits, ..config });
    let file = pair.file("f", 200_000, 1);
    assert_eq!(pair.send(&file, &into("")), Err(FileError::PieceTooLarge));
    assert_eq!(pair.send(&pair.file("small", 1000, 1), &into("")), Ok(Stored::New));
}

#[test]
fn nobody_at_the_location_is_told_in_time() {
    let pair = Pair::new();
    let file = pair.file("f", 10, 1);
    let nobody = "127.0.0.1:9".parse().expect("a location");
    let told = send(&pair.here, nobody, &file, &into(""), millis(300));
    assert_eq!(heard(&told), Err(FileError::NoAnswer));
}

/// Sends a file and tells of its progress; `act` is called at each, and may end it.
fn watched(
    pair: &Pair,
    file: &Path,
    mut act: impl FnMut(&mut Cx<'_, Seen>, Transfer, Progress) + Send + 'static,
) -> (Receiver<Progress>, Receiver<Result<Stored, FileError>>) {
    let ((tell, told), (answer, answered)) = (channel(), channel());
    let (to, file) = (pair.there.location, file.to_owned());
    let mut transfer = None;
    pair.here.spawn(move |cx, event| match event {
        Event::Start => {
            let started = cx.send_file(to, &file, into(""), PATIENCE, Seen::Done);
            cx.progress(started, millis(10), Seen::Progress);
            transfer = Some(started);
            receive()
        }
        Event::Message(Seen::Progress(progress)) => {
            tell_test(&tell, progress);
            if let Some(transfer) = transfer {
                act(cx, transfer, progress);
            }
            receive()
        }
        Event::Message(Seen::Done(done)) => {
            tell_test(&answer, done);
            stop()
        }
        _ => receive(),
    });
    (told, answered)
}

enum Seen {
    Progress(Progress),
    Done(Result<Stored, FileError>),
}

const LARGE: usize = 48 << 20;

#[test]
fn progress_rises_to_the_whole_file() {
    let pair = Pair::new();
    let file = pair.file("f", LARGE, 1);
    let (progress, done) = watched(&pair, &file, |_, _, _| {});
    assert_eq!(heard(&done), Ok(Stored::New));
    let seen: Vec<Progress> = progress.iter().collect();
    assert!(seen.is_sorted_by_key(|progress| progress.done), "{seen:?}");
    assert!(seen.iter().all(|progress| progress.resumed == 0));
    let last = seen.last().expect("the last is told in any case");
    assert_eq!((last.done, last.total), (LARGE as u64, LARGE as u64));
}

#[test]
fn who_asks_for_progress_as_the_transfer_ends_keeps_nothing_open() {
    let pair = Pair::new();
    let (to, file) = (pair.there.location, pair.file("f", 10, 1));
    let (held, dropped) = channel::<()>();
    let mut held = Some(held);
    pair.here.spawn(move |cx, event| {
        if let Event::Start = event {
            let transfer = cx.send_file(to, &file, into(""), PATIENCE, Seen::Done);
            cx.cancel_transfer(transfer);
            let held = held.take();
            cx.progress(transfer, millis(10), move |progress| {
                assert!(held.is_some(), "it lives as long as this");
                Seen::Progress(progress)
            });
        }
        // The actor stays: what it opened does not end with it.
        receive()
    });
    assert_eq!(dropped.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected));
}

#[test]
fn a_transfer_that_is_cancelled_is_resumed_by_the_next_one() {
    let pair = Pair::new();
    let file = pair.file("f", LARGE, 1);
    let (_progress, done) = watched(&pair, &file, |cx, transfer, progress| {
        if progress.done > 0 {
            cx.cancel_transfer(transfer);
        }
    });
    assert_eq!(heard(&done), Err(FileError::Cancelled));
    let kept = wait_for("the receiver to let go", || {
        let (_, free) = (pair.partials(), watched(&pair, &file, |_, _, _| {}));
        match heard(&free.1) {
            Ok(stored) => Some((stored, free.0.iter().last().expect("the last is told"))),
            Err(FileError::Refused(FileRefused::Busy)) => None,
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(kept.0, Stored::New);
    assert!(kept.1.resumed > 0, "{kept:?}");
    assert_eq!(pair.stored("f"), content(LARGE, 1));
    assert_eq!(pair.partials(), []);
}

#[test]
fn a_partial_file_of_something_else_is_not_gone_on_with() {
    let pair = Pair::new();
    let file = pair.file("f", 500_000, 1);
    let (_progress, done) = watched(&pair, &file, |_, _, _| {});
    assert_eq!(heard(&done), Ok(Stored::New));
    fs::remove_file(pair.dest.path().join("f")).expect("it is ours");
    // As an interrupted transfer of a file with the same beginning would leave it, but for one byte.
    let key = blake3::hash(b"f").to_hex().to_string();
    let partial = pair.dest.path().join(".antiphon/partial").join(key);
    for (change, resumed) in [(None, 300_000), (Some(299_999), 0)] {
        let mut left = content(300_000, 1);
        if let Some(at) = change {
            left[at] ^= 1;
        }
        fs::write(&partial, left).expect("it is ours");
        let (progress, done) = watched(&pair, &file, |_, _, _| {});
        assert_eq!(heard(&done), Ok(Stored::New));
        assert_eq!(progress.iter().last().expect("the last is told").resumed, resumed);
        assert_eq!(pair.stored("f"), content(500_000, 1));
        fs::remove_file(pair.dest.path().join("f")).expect("it is ours");
    }
    // Longer than the file.
    fs::write(&partial, content(600_000, 1)).expect("it is ours");
    assert_eq!(pair.send(&file, &into("")), Ok(Stored::New));
    assert_eq!(pair.stored("f"), content(500_000, 1));
}

#[test]
fn a_source_that_grows_or_shrinks_meanwhile_is_not_stored_and_leaves_nothing() {
    for more in [true, false] {
        let pair = Pair::new();
        let file = pair.file("f", LARGE, 1);
        fs::write(pair.dest.path().join("f"), "old").expect("it is ours");
        let changing = file.clone();
        let mut is_changed = false;
        let ((tell, told), to) = (channel(), pair.there.location);
        pair.here.spawn(move |cx, event| match event {
            Event::Start => {
                let started = cx.send_file(to, &changing, over(""), PATIENCE, Seen::Done);
                cx.progress(started, millis(10), Seen::Progress);
                receive()
            }
            Event::Message(Seen::Progress(progress)) => {
                if progress.done > 0 && !std::mem::replace(&mut is_changed, true) {
                    let length = if more { LARGE as u64 + 1 } else { LARGE as u64 - 1 };
                    fs::OpenOptions::new().write(true).open(&changing)?.set_len(length)?;
                }
                receive()
            }
            Event::Message(Seen::Done(done)) => {
                tell_test(&tell, done);
                stop()
            }
            _ => receive(),
        });
        assert_eq!(heard(&told), Err(SourceError::Changed.into()), "more: {more}");
        wait_for("the unfinished file to go", || pair.partials().is_empty().then_some(()));
        assert_eq!(pair.stored("f"), b"old");
    }
}

#[test]
fn of_two_senders_to_one_place_one_is_refused_and_nothing_is_torn() {
    let pair = Pair::new();
    let (one, other) = (pair.file("one", LARGE, 1), pair.file("other", LARGE, 2));
    let options = FileOptions { name: Some("f".to_owned()), ..over("") };
    let to = pair.there.location;
    let first = send(&pair.here, to, &one, &options, PATIENCE);
    let second = send(&pair.here, to, &other, &options, PATIENCE);
    let done = [heard(&first), heard(&second)];
    assert!(done.contains(&Ok(Stored::New)), "{done:?}");
    assert!(done.contains(&Err(FileRefused::Busy.into())), "{done:?}");
    let seed = if done[0].is_ok() { 1 } else { 2 };
    assert_eq!(pair.stored("f"), content(LARGE, seed));
}

#[test]
fn a_transfer_ends_with_the_actor_that_wanted_it() {
    let pair = Pair::new();
    let file = pair.file("f", LARGE, 1);
    // Its own daemons have begun before any actor that comes later.
    pair.here.step(|_| ());
    let before = pair.here.stats().actors;
    let to = pair.there.location;
    pair.here.spawn(move |cx: &mut Cx<Seen>, event| match event {
        Event::Start => {
            let started = cx.send_file(to, &file, into(""), PATIENCE, Seen::Done);
            cx.progress(started, millis(10), Seen::Progress);
            receive()
        }
        Event::Message(Seen::Progress(progress)) if progress.done > 0 => stop(),
        _ => receive(),
    });
    wait_for("an unfinished file", || pair.partials().iter().any(|bytes| *bytes > 0).then_some(()));
    wait_for("the sender to end", || (pair.here.stats().actors == before).then_some(()));
    assert!(!pair.dest.path().join("f").exists());
}

#[test]
fn a_loop_without_a_node_says_so() {
    let mut events = antiphon_sched::Loop::new(antiphon_sched::LoopConfig::default()).expect("a loop");
    let (tell, told) = channel();
    events.spawn(move |cx: &mut Cx<Seen>, event| match event {
        Event::Start => {
            let nobody = "127.0.0.1:9".parse().expect("a location");
            let none = cx.send_file(nobody, "f", into(""), secs(1), Seen::Done);
            cx.progress(none, secs(1), Seen::Progress);
            cx.cancel_transfer(none);
            receive()
        }
        Event::Message(Seen::Done(done)) => {
            tell_test(&tell, done);
            stop()
        }
        _ => receive(),
    });
    events.run().expect("it runs");
    assert_eq!(heard(&told), Err(FileError::NoNode));
}
