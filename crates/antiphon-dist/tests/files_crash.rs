//! Files between processes that are killed, over ways that are cut, onto disks that refuse.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;

use antiphon_dist::{Config, FileError, FileOptions, FileRefused, Location, NetCx, Node, Stored};
use antiphon_sched::{Cx, Event, millis, receive};
use common::process::{self, Process};
use common::proxy::Proxy;
use common::{Net, PATIENCE, TestNode, heard, tell_test, wait_for};
use tempfile::TempDir;

/// Large enough that it is under way when it is interrupted.
const LARGE: u64 = 256 << 20;

#[test]
#[ignore = "a role of the other tests, not one by itself"]
fn the_other_process() {
    let Some(role) = process::role() else { return };
    match role.name.as_str() {
        "receiver" => receiver(role.config()),
        "sender" => sender(role.config()),
        other => panic!("{other} is no role here"),
    }
}

/// Takes files; the first line that it is told is its `dest_path`. It tells where it is, or why it does not start.
fn receiver(config: Config) {
    let told = process::commands();
    let dest = PathBuf::from(heard(&told));
    let mut node = match Node::new(Config { dest_path: Some(dest), ..config }) {
        Ok(node) => node,
        Err(reason) => return process::say(reason),
    };
    process::say(node.location());
    let ran = node.run_with(move |handle| {
        told.iter().for_each(drop);
        handle.stop();
    });
    ran.expect("the node runs");
}

/// Sends the file of its second line to the location of its first, and tells of each step.
fn sender(config: Config) {
    let told = process::commands();
    let to: Location = heard(&told).parse().expect("a location");
    let file = heard(&told);
    let mut node = Node::new(config).expect("a node can start");
    node.spawn(move |cx: &mut Cx<()>, event| {
        if matches!(event, Event::Start) {
            let transfer =
                cx.send_file(to, &file, FileOptions::default(), PATIENCE, |done| process::say(done.is_ok()));
            cx.progress(transfer, millis(10), |progress| {
                process::say(format_args!("{} {}", progress.done, progress.resumed));
            });
        }
        receive()
    });
    let ran = node.run_with(move |handle| {
        told.iter().for_each(drop);
        handle.stop();
    });
    ran.expect("the node runs");
}

/// Starts a receiver as another process.
fn start_receiver(wrapper: &[&str], net: &Net, dest: &Path, tcp_port: u16) -> (Process, Location) {
    let mut there = Process::start_under(wrapper, net, "receiver", tcp_port, None);
    there.say(&dest.display().to_string());
    let location = there.location();
    (there, location)
}

fn quiet() -> Net {
    Net { udp_port: 0, ..Net::new() }
}

/// A file whose content differs from place to place.
fn large_file(own: &TempDir, bytes: u64) -> PathBuf {
    let path = own.path().join("f");
    let content: Vec<u8> = (0..bytes / 8).flat_map(|n| (n * 0x9E37_79B9).to_le_bytes()).collect();
    fs::write(&path, content).expect("it is writable");
    path
}

/// Sends a file until nobody else holds its place; answers what it came to, and how much was there already.
fn send_until_free(here: &TestNode, to: Location, file: &Path) -> (Result<Stored, FileError>, u64) {
    wait_for("the last transfer to be given up", || match send(here, to, file) {
        (Err(FileError::Refused(FileRefused::Busy)), _) => None,
        done => Some(done),
    })
}

fn send(here: &TestNode, to: Location, file: &Path) -> (Result<Stored, FileError>, u64) {
    send_into(here, to, file, &FileOptions::default())
}

fn send_into(
    here: &TestNode,
    to: Location,
    file: &Path,
    options: &FileOptions,
) -> (Result<Stored, FileError>, u64) {
    let (tell, told) = channel();
    let (file, options) = (file.to_owned(), options.clone());
    let mut resumed = 0;
    here.spawn(move |cx, event| match event {
        Event::Start => {
            let transfer = cx.send_file(to, &file, options.clone(), PATIENCE, Ok);
            cx.progress(transfer, millis(10), Err);
            receive()
        }
        Event::Message(Err(progress)) => {
            let progress: antiphon_dist::Progress = progress;
            resumed = progress.resumed;
            receive()
        }
        Event::Message(Ok(done)) => {
            tell_test(&tell, (done, resumed));
            antiphon_sched::stop()
        }
        _ => receive(),
    });
    heard(&told)
}

#[track_caller]
fn assert_same(one: &Path, other: &Path) {
    let content = |path: &Path| blake3::hash(&fs::read(path).expect("it is there"));
    assert_eq!(content(one), content(other));
}

/// Waits until some of the file is there.
fn wait_for_some(dest: &Path) {
    wait_for("an unfinished file", || {
        let found = fs::read_dir(dest.join(".antiphon/partial")).expect("it was made at the start");
        let mut sizes = found.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()));
        sizes.any(|bytes| bytes > 8 << 20).then_some(())
    });
}

#[test]
fn when_the_sender_was_killed_the_next_one_goes_on_where_it_stopped() {
    let net = quiet();
    let (own, dest) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let file = large_file(&own, LARGE);
    let config = Config { dest_path: Some(dest.path().to_owned()), ..net.quiet("there", &[]) };
    let there = TestNode::start(config);
    let mut here = Process::start(&net, "sender");
    here.say(&there.location.to_string());
    here.say(&file.display().to_string());
    wait_for_some(dest.path());
    here.kill();
    assert!(!dest.path().join("f").exists(), "it was under way");

    let again = net.quiet_node("again", &[]);
    let (done, resumed) = send_until_free(&again, there.location, &file);
    assert_eq!(done, Ok(Stored::New));
    assert!((8 << 20..LARGE).contains(&resumed), "{resumed} bytes were there");
    assert_same(&file, &dest.path().join("f"));
}

#[test]
fn when_the_receiver_was_killed_its_next_start_goes_on_where_it_stopped() {
    let net = quiet();
    let (own, dest) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let file = large_file(&own, LARGE);
    let (mut there, location) = start_receiver(&[], &net, dest.path(), 0);
    let here = net.quiet_node("here", &[]);
    let (tell, told) = channel();
    let sent = file.clone();
    here.spawn(move |cx: &mut Cx<()>, event| {
        if matches!(event, Event::Start) {
            let tell = tell.clone();
            cx.send_file(location, &sent, FileOptions::default(), PATIENCE, move |done| {
                tell_test(&tell, done)
            });
        }
        receive()
    });
    wait_for_some(dest.path());
    there.kill();
    assert_eq!(heard(&told), Err(FileError::NodeLost));
    assert!(!dest.path().join("f").exists(), "it was under way");

    let (_there, location) = start_receiver(&[], &net, dest.path(), location.addr().port());
    let (done, resumed) = send(&here, location, &file);
    assert_eq!(done, Ok(Stored::New));
    assert!((8 << 20..LARGE).contains(&resumed), "{resumed} bytes were there");
    assert_same(&file, &dest.path().join("f"));
}

#[test]
fn a_connection_that_is_cut_all_the_time_costs_a_transfer_nothing_but_time() {
    let net = quiet();
    let (own, dest) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let file = large_file(&own, LARGE / 4);
    let (_there, location) = start_receiver(&[], &net, dest.path(), 0);
    let proxy = Proxy::start(location.addr());
    let here = net.quiet_node("here", &[proxy.at.into()]);
    let (done, resumed) = send(&here, proxy.at.into(), &file);
    assert_eq!((done, resumed), (Ok(Stored::New), 0));
    assert_same(&file, &dest.path().join("f"));
    assert!(proxy.connections() > 1, "it was cut");
    proxy.close();
}

#[test]
fn a_disk_that_is_full_in_the_middle_leaves_the_old_file_and_no_unfinished_one() {
    let net = quiet();
    let (own, dest) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let file = large_file(&own, 32 << 20);
    fs::write(dest.path().join("f"), "old").expect("it is ours");
    // No file of that process may grow beyond 16 MiB; and it is told, not killed.
    let limited = ["sh", "-c", "trap '' XFSZ; ulimit -f 32768; exec \"$@\"", "sh"];
    let (_there, location) = start_receiver(&limited, &net, dest.path(), 0);
    let here = net.quiet_node("here", &[]);
    let options = FileOptions { overwrite: true, ..FileOptions::default() };
    let (done, _) = send_into(&here, location, &file, &options);
    assert_eq!(done, Err(FileRefused::DiskFull.into()));
    assert_eq!(fs::read(dest.path().join("f")).expect("it is there"), b"old");
    assert_eq!(fs::read_dir(dest.path().join(".antiphon/partial")).expect("a folder").count(), 0);
}

#[test]
fn a_folder_that_may_not_be_written_is_told_before_anything_is_sent() {
    let net = quiet();
    let (own, dest) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let file = large_file(&own, 1 << 20);
    let locked = dest.path().join("locked");
    fs::create_dir(&locked).and_then(|()| fs::write(locked.join("f"), "old")).expect("it is ours");
    let set = |mode| fs::set_permissions(&locked, PermissionsExt::from_mode(mode)).expect("it is ours");
    // Who is root may write anywhere, unless it is nobody in a user namespace of its own.
    let wrapper: &[&str] = match rustix::process::geteuid().is_root() {
        false => &[],
        true if Command::new("unshare").args(["-U", "true"]).status().is_ok_and(|done| done.success()) => {
            &["unshare", "-U"]
        }
        true => return eprintln!("skipped: this is root, and there are no user namespaces"),
    };
    set(0o555);
    let (_there, location) = start_receiver(wrapper, &net, dest.path(), 0);
    let here = net.quiet_node("here", &[]);
    let options = FileOptions { dir: "locked".into(), overwrite: true, ..FileOptions::default() };
    let (done, _) = send_into(&here, location, &file, &options);
    let deeper = FileOptions { dir: "locked/deeper".into(), ..FileOptions::default() };
    let (done_deeper, _) = send_into(&here, location, &file, &deeper);
    set(0o755);
    assert_eq!(done, Err(FileRefused::ReadOnly.into()));
    assert_eq!(done_deeper, Err(FileRefused::ReadOnly.into()));
    assert_eq!(fs::read(locked.join("f")).expect("it is there"), b"old");
}

/// Runs a program where a folder is mounted over itself: read-only at once, or as soon as a file of that name and `.close` is there,
/// which is told by one with `.closed`. The folder's name is the first argument; the second, whether at once.
#[cfg(target_os = "linux")]
const READ_ONLY: &str = r#"
dest=$1; at_once=$2; shift 2
mount --bind "$dest" "$dest" || exit 1
close() { mount -o remount,ro,bind "$dest" && : > "$dest.closed"; }
if [ "$at_once" = yes ]; then close || exit 1; else
    (for _ in $(seq 400); do [ -e "$dest.close" ] && close && exit; sleep 0.05; done) > /dev/null &
fi
exec "$@"
"#;

#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_is_or_becomes_read_only_is_told_and_keeps_what_it_has() {
    let folder = tempfile::tempdir().expect("a folder");
    let dest = folder.path().join("dest");
    let named = dest.to_str().expect("a name in ASCII");
    fs::create_dir(&dest).expect("it is ours");
    let under = |at_once| ["unshare", "-Urm", "sh", "-c", READ_ONLY, "sh", named, at_once];
    let [program, arguments @ ..] = under("yes");
    match Command::new(program).args(arguments).arg("true").output() {
        Ok(tried) if tried.status.success() => fs::remove_file(folder.path().join("dest.closed")),
        Ok(tried) => {
            let reason = String::from_utf8_lossy(&tried.stderr).into_owned();
            return println!("read-only folders: 0 ran, 1 skipped: nothing can be mounted here: {reason}");
        }
        Err(reason) => {
            return println!("read-only folders: 0 ran, 1 skipped: there is no `unshare` here: {reason}");
        }
    }
    .expect("it was made by the trial");
    let net = quiet();

    let mut refused = Process::start_under(&under("yes"), &net, "receiver", 0, None);
    refused.say(named);
    let reason = refused.line();
    assert!(reason.contains(named) && reason.contains("Read-only"), "{reason}");
    drop(refused);
    fs::remove_file(folder.path().join("dest.closed")).expect("it was made meanwhile");

    let file = large_file(&folder, 1 << 20);
    let here = net.quiet_node("here", &[]);
    let (_there, location) = start_receiver(&under("no"), &net, &dest, 0);
    assert_eq!(send(&here, location, &file).0, Ok(Stored::New));
    fs::write(folder.path().join("dest.close"), "").expect("it is ours");
    wait_for("the folder to be closed", || folder.path().join("dest.closed").exists().then_some(()));
    let read_only = || Err(FileRefused::ReadOnly.into());
    let other = folder.path().join("g");
    fs::write(&other, "another").expect("it is ours");
    assert_eq!(send(&here, location, &other).0, read_only());
    let replacing = FileOptions { overwrite: true, name: Some("f".to_owned()), ..FileOptions::default() };
    assert_eq!(send_into(&here, location, &other, &replacing).0, read_only());
    let (tell, told) = channel();
    here.spawn(move |cx, event| match event {
        Event::Start => {
            cx.del_file(location, "f", "", PATIENCE, |done| done);
            receive()
        }
        Event::Message(done) => {
            tell_test(&tell, done);
            antiphon_sched::stop()
        }
        _ => receive(),
    });
    assert_eq!(heard(&told), Err(FileRefused::ReadOnly.into()));
    assert_eq!(send(&here, location, &file).0, Ok(Stored::AlreadyThere));
    assert_same(&file, &dest.join("f"));
}
