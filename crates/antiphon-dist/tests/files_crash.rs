//! File transfers between processes that are killed, over connections that are cut, and to disks that refuse.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::mpsc::channel;

use antiphon_dist::{Config, FileError, FileOptions, FileRefused, Location, NetCx, Node, Stored};
use antiphon_sched::{Cx, Event, millis, receive};
use common::harness::{self, tests};
use common::process::{self, Process, Role};
use common::proxy::Proxy;
use common::{Net, PATIENCE, TestNode, recv, report, wait_for};
use tempfile::TempDir;

fn main() -> ExitCode {
    harness::run(
        run_role,
        tests![
            transfer_resumes_after_sender_was_killed,
            transfer_resumes_after_receiver_was_killed,
            transfer_survives_repeated_cuts_of_its_connection,
            disk_full_keeps_old_file_and_no_partial,
            folder_not_writable_is_refused_before_transfer,
            #[cfg(target_os = "linux")]
            folder_read_only_is_refused_and_keeps_files,
        ],
    )
}

/// So large that the transfer is not complete when it is interrupted.
const LARGE: u64 = 256 << 20;

/// The child process.
fn run_role(role: &Role) {
    match role.name.as_str() {
        "receiver" => run_receiver(role.config()),
        "sender" => run_sender(role.config()),
        other => panic!("unknown role {other}"),
    }
}

/// Accepts files; its first input line is its `dest_path`. It reports its location, or the error at its start.
fn run_receiver(config: Config) {
    let commands = process::commands();
    let dest = PathBuf::from(recv(&commands));
    let mut node = match Node::new(Config { dest_path: Some(dest), ..config }) {
        Ok(node) => node,
        Err(reason) => return process::send_line(reason),
    };
    process::send_line(node.location());
    let ran = node.run_with(move |handle| {
        commands.iter().for_each(drop);
        handle.stop();
    });
    ran.expect("the node runs");
}

/// Sends the file that its second input line names to the location in its first, and reports the progress.
fn run_sender(config: Config) {
    let commands = process::commands();
    let to: Location = recv(&commands).parse().expect("the location is valid");
    let file = recv(&commands);
    let mut node = Node::new(config).expect("a node can start");
    node.spawn(move |cx: &mut Cx<()>, event| {
        if matches!(event, Event::Start) {
            let transfer = cx.send_file(to, &file, FileOptions::default(), PATIENCE, |done| {
                process::send_line(done.is_ok())
            });
            cx.progress(transfer, millis(10), |progress| {
                process::send_line(format_args!("{} {}", progress.done, progress.resumed));
            })
            .expect("the limit is not reached");
        }
        receive()
    });
    let ran = node.run_with(move |handle| {
        commands.iter().for_each(drop);
        handle.stop();
    });
    ran.expect("the node runs");
}

/// Starts a receiver in a child process.
fn start_receiver(wrapper: &[&str], net: &Net, dest: &Path, tcp_port: u16) -> (Process, Location) {
    let mut there = Process::start_under(wrapper, net, "receiver", tcp_port, None);
    there.send_line(&dest.display().to_string());
    let location = there.location();
    (there, location)
}

fn net_without_discovery() -> Net {
    Net { udp_port: 0, ..Net::new() }
}

/// A file whose content does not repeat.
fn large_file(own: &TempDir, bytes: u64) -> PathBuf {
    let path = own.path().join("f");
    let content: Vec<u8> = (0..bytes / 8).flat_map(|n| (n * 0x9E37_79B9).to_le_bytes()).collect();
    fs::write(&path, content).expect("the test owns the folder");
    path
}

/// Sends a file again while another transfer of it is open. Returns the outcome, and the bytes that the receiver had.
fn send_until_free(here: &TestNode, to: Location, file: &Path) -> (Result<Stored, FileError>, u64) {
    wait_for("the end of the previous transfer", || match send(here, to, file) {
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
    let (sender, results) = channel();
    let (file, options) = (file.to_owned(), options.clone());
    let mut resumed = 0;
    here.spawn(move |cx, event| match event {
        Event::Start => {
            let transfer = cx.send_file(to, &file, options.clone(), PATIENCE, Ok);
            cx.progress(transfer, millis(10), Err).expect("the limit is not reached");
            receive()
        }
        Event::Message(Err(progress)) => {
            let progress: antiphon_dist::Progress = progress;
            resumed = progress.resumed;
            receive()
        }
        Event::Message(Ok(done)) => {
            report(&sender, (done, resumed));
            antiphon_sched::stop()
        }
        _ => receive(),
    });
    recv(&results)
}

#[track_caller]
fn assert_same_content(sent: &Path, stored: &Path) {
    let hash = |path: &Path| blake3::hash(&fs::read(path).expect("the file exists"));
    assert_eq!(hash(sent), hash(stored));
}

/// Waits until the receiver has a part of the file.
fn wait_for_partial(dest: &Path) {
    wait_for("a partial file", || {
        let found = fs::read_dir(dest.join(".antiphon/partial")).expect("the receiver has made the folder");
        let mut sizes = found.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()));
        sizes.any(|bytes| bytes > 8 << 20).then_some(())
    });
}

/// The next sender continues where the killed one stopped.
fn transfer_resumes_after_sender_was_killed() {
    let net = net_without_discovery();
    let (own, dest) = (
        tempfile::tempdir().expect("a temporary folder can be made"),
        tempfile::tempdir().expect("a temporary folder can be made"),
    );
    let file = large_file(&own, LARGE);
    let config = Config { dest_path: Some(dest.path().to_owned()), ..net.static_config("there", &[]) };
    let there = TestNode::start(config);
    let mut here = Process::start(&net, "sender");
    here.send_line(&there.location.to_string());
    here.send_line(&file.display().to_string());
    wait_for_partial(dest.path());
    here.kill();
    assert!(!dest.path().join("f").exists(), "the transfer was not complete");

    let again = net.static_node("again", &[]);
    let (done, resumed) = send_until_free(&again, there.location, &file);
    assert_eq!(done, Ok(Stored::New));
    assert!((8 << 20..LARGE).contains(&resumed), "the receiver had {resumed} bytes");
    assert_same_content(&file, &dest.path().join("f"));
}

/// The receiver continues at its next start.
fn transfer_resumes_after_receiver_was_killed() {
    let net = net_without_discovery();
    let (own, dest) = (
        tempfile::tempdir().expect("a temporary folder can be made"),
        tempfile::tempdir().expect("a temporary folder can be made"),
    );
    let file = large_file(&own, LARGE);
    let (mut there, location) = start_receiver(&[], &net, dest.path(), 0);
    let here = net.static_node("here", &[]);
    let (sender, results) = channel();
    let sent = file.clone();
    here.spawn(move |cx: &mut Cx<()>, event| {
        if matches!(event, Event::Start) {
            let sender = sender.clone();
            cx.send_file(location, &sent, FileOptions::default(), PATIENCE, move |done| {
                report(&sender, done)
            });
        }
        receive()
    });
    wait_for_partial(dest.path());
    there.kill();
    assert_eq!(recv(&results), Err(FileError::NodeLost));
    assert!(!dest.path().join("f").exists(), "the transfer was not complete");

    let (_there, location) = start_receiver(&[], &net, dest.path(), location.addr().port());
    let (done, resumed) = send(&here, location, &file);
    assert_eq!(done, Ok(Stored::New));
    assert!((8 << 20..LARGE).contains(&resumed), "the receiver had {resumed} bytes");
    assert_same_content(&file, &dest.path().join("f"));
}

fn transfer_survives_repeated_cuts_of_its_connection() {
    let net = net_without_discovery();
    let (own, dest) = (
        tempfile::tempdir().expect("a temporary folder can be made"),
        tempfile::tempdir().expect("a temporary folder can be made"),
    );
    let file = large_file(&own, LARGE / 4);
    let (_there, location) = start_receiver(&[], &net, dest.path(), 0);
    let proxy = Proxy::start(location.addr());
    let here = net.static_node("here", &[proxy.at.into()]);
    let (done, resumed) = send(&here, proxy.at.into(), &file);
    assert_eq!((done, resumed), (Ok(Stored::New), 0));
    assert_same_content(&file, &dest.path().join("f"));
    assert!(proxy.connections() > 1, "the connection was cut");
    proxy.close();
}

fn disk_full_keeps_old_file_and_no_partial() {
    let net = net_without_discovery();
    let (own, dest) = (
        tempfile::tempdir().expect("a temporary folder can be made"),
        tempfile::tempdir().expect("a temporary folder can be made"),
    );
    let file = large_file(&own, 32 << 20);
    fs::write(dest.path().join("f"), "old").expect("the test owns the folder");
    // No file of that process may exceed 16 MiB; the write fails, and no signal kills the process.
    let limited = ["sh", "-c", "trap '' XFSZ; ulimit -f 32768; exec \"$@\"", "sh"];
    let (_there, location) = start_receiver(&limited, &net, dest.path(), 0);
    let here = net.static_node("here", &[]);
    let options = FileOptions { overwrite: true, ..FileOptions::default() };
    let (done, _) = send_into(&here, location, &file, &options);
    assert_eq!(done, Err(FileRefused::DiskFull.into()));
    assert_eq!(fs::read(dest.path().join("f")).expect("the file exists"), b"old");
    assert_eq!(
        fs::read_dir(dest.path().join(".antiphon/partial"))
            .expect("the receiver has made the folder")
            .count(),
        0
    );
}

fn folder_not_writable_is_refused_before_transfer() {
    let net = net_without_discovery();
    let (own, dest) = (
        tempfile::tempdir().expect("a temporary folder can be made"),
        tempfile::tempdir().expect("a temporary folder can be made"),
    );
    let file = large_file(&own, 1 << 20);
    let locked = dest.path().join("locked");
    fs::create_dir(&locked)
        .and_then(|()| fs::write(locked.join("f"), "old"))
        .expect("the test owns the folder");
    let set = |mode| {
        fs::set_permissions(&locked, PermissionsExt::from_mode(mode)).expect("the test owns the folder")
    };
    // Root may write to any folder, except as an unmapped user in a user namespace of its own.
    let wrapper: &[&str] = if !rustix::process::geteuid().is_root() {
        &[]
    } else if Command::new("unshare").args(["-U", "true"]).status().is_ok_and(|done| done.success()) {
        &["unshare", "-U"]
    } else {
        return eprintln!("skipped: this is root, and there are no user namespaces");
    };
    set(0o555);
    let (_there, location) = start_receiver(wrapper, &net, dest.path(), 0);
    let here = net.static_node("here", &[]);
    let options = FileOptions { dir: "locked".into(), overwrite: true, ..FileOptions::default() };
    let (done, _) = send_into(&here, location, &file, &options);
    let deeper = FileOptions { dir: "locked/deeper".into(), ..FileOptions::default() };
    let (done_deeper, _) = send_into(&here, location, &file, &deeper);
    set(0o755);
    assert_eq!(done, Err(FileRefused::ReadOnly.into()));
    assert_eq!(done_deeper, Err(FileRefused::ReadOnly.into()));
    assert_eq!(fs::read(locked.join("f")).expect("the file exists"), b"old");
}

/// A script that mounts a folder over itself and runs a program. Its arguments are the folder, whether it becomes read-only
/// at once, and the program. Otherwise the folder becomes read-only when a file with its name and `.close` exists. The
/// script confirms by a file with `.closed`.
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
fn folder_read_only_is_refused_and_keeps_files() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let dest = folder.path().join("dest");
    let named = dest.to_str().expect("the name is ASCII");
    fs::create_dir(&dest).expect("the test owns the folder");
    let under = |at_once| ["unshare", "-Urm", "sh", "-c", READ_ONLY, "sh", named, at_once];
    let [program, arguments @ ..] = under("yes");
    match Command::new(program).args(arguments).arg("true").output() {
        Ok(tried) if tried.status.success() => fs::remove_file(folder.path().join("dest.closed")),
        Ok(tried) => {
            let reason = String::from_utf8_lossy(&tried.stderr).into_owned();
            return println!("read-only folders: 0 ran, 1 skipped: a folder cannot be mounted: {reason}");
        }
        Err(reason) => {
            return println!("read-only folders: 0 ran, 1 skipped: `unshare` cannot be started: {reason}");
        }
    }
    .expect("the trial has made the file");
    let net = net_without_discovery();

    let mut refused = Process::start_under(&under("yes"), &net, "receiver", 0, None);
    refused.send_line(named);
    let reason = refused.line();
    assert!(reason.contains(named) && reason.contains("Read-only"), "{reason}");
    drop(refused);
    fs::remove_file(folder.path().join("dest.closed")).expect("the script has made the file");

    let file = large_file(&folder, 1 << 20);
    let here = net.static_node("here", &[]);
    let (_there, location) = start_receiver(&under("no"), &net, &dest, 0);
    assert_eq!(send(&here, location, &file).0, Ok(Stored::New));
    fs::write(folder.path().join("dest.close"), "").expect("the test owns the folder");
    wait_for("the folder to become read-only", || folder.path().join("dest.closed").exists().then_some(()));
    let read_only = || Err(FileRefused::ReadOnly.into());
    let other = folder.path().join("g");
    fs::write(&other, "another").expect("the test owns the folder");
    assert_eq!(send(&here, location, &other).0, read_only());
    let replacing = FileOptions { overwrite: true, name: Some("f".to_owned()), ..FileOptions::default() };
    assert_eq!(send_into(&here, location, &other, &replacing).0, read_only());
    let (sender, results) = channel();
    here.spawn(move |cx, event| match event {
        Event::Start => {
            cx.del_file(location, "f", "", PATIENCE, |done| done);
            receive()
        }
        Event::Message(done) => {
            report(&sender, done);
            antiphon_sched::stop()
        }
        _ => receive(),
    });
    assert_eq!(recv(&results), Err(FileRefused::ReadOnly.into()));
    assert_eq!(send(&here, location, &file).0, Ok(Stored::AlreadyThere));
    assert_same_content(&file, &dest.join("f"));
}
