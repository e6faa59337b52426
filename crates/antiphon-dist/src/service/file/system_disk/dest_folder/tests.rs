//! Tests of the folder for received files, without nodes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::service::file::partial::Placed;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn folder() -> (tempfile::TempDir, Arc<DestFolder>) {
    let folder = tempfile::tempdir().expect("a temporary folder is created");
    let dest = DestFolder::open(folder.path(), FileRules { keep: DAY, ..FileRules::default() })
        .expect("the folder is writable");
    (folder, Arc::new(dest))
}

fn path(names: &[&str]) -> TargetPath {
    TargetPath::checked(names.iter().map(|name| (*name).to_owned()).collect()).expect("plain names")
}

fn stat(size: u64) -> FileStat {
    FileStat { size, seconds: 1_000_000, nanos: 7, permissions: 0o640 }
}

fn open(dest: &Arc<DestFolder>, path: &TargetPath, size: u64) -> Result<Box<Partial>, FileRefused> {
    match dest.clone().prepare(path, stat(size), false, "peer")? {
        Prepared::Open(partial) => Ok(partial),
        Prepared::AlreadyThere | Prepared::Different(_) => panic!("the target exists"),
    }
}

fn store(dest: &Arc<DestFolder>, path: &TargetPath, content: &[u8]) -> Result<(), FileRefused> {
    let partial = open(dest, path, content.len() as u64)?;
    let partial = partial.write(&[content.to_vec()])?;
    match partial.place(blake3::hash(content).as_bytes())? {
        Placed::Stored => Ok(()),
        Placed::Different(there) => panic!("{there:?} is there"),
    }
}

#[test]
fn state_folders_are_private_to_user() {
    let (folder, _dest) = folder();
    for dir in ["", "partial", "received"] {
        let meta = fs::metadata(folder.path().join(".antiphon").join(dir)).expect("the folder exists");
        assert_eq!(meta.permissions().mode() & 0o777, 0o700, "{dir}");
    }
}

#[test]
fn state_folder_symlink_is_not_followed() {
    let (folder, elsewhere) = (
        tempfile::tempdir().expect("a temporary folder is created"),
        tempfile::tempdir().expect("a temporary folder is created"),
    );
    symlink(elsewhere.path(), folder.path().join(".antiphon")).expect("the symlink is created");
    let opened = DestFolder::open(folder.path(), FileRules { keep: DAY, ..FileRules::default() });
    let reason = opened.expect_err("a symlink is refused");
    // The error number differs between systems.
    assert!(matches!(Errno::from_io_error(&reason), Some(Errno::NOTDIR | Errno::LOOP)), "{reason}");
    assert_eq!(fs::read_dir(elsewhere.path()).expect("the folder is readable").count(), 0);
}

#[test]
fn partial_file_is_exclusive_and_resumed() {
    let (_folder, dest) = folder();
    let target = path(&["a", "f"]);
    let first = open(&dest, &target, 10).expect("no other transfer has it");
    assert_eq!(open(&dest, &target, 10).err(), Some(FileRefused::Busy));
    drop(open(&dest, &path(&["a", "g"]), 10).expect("no other transfer has it"));
    let first = first.write(&[b"12".to_vec(), b"345".to_vec()]).expect("the disk has room");
    assert_eq!(first.written(), 5);
    drop(first);
    let mut again = open(&dest, &target, 10).expect("the first transfer has ended");
    assert_eq!((again.have(), again.hash_some()), (5, Ok(true)));
    assert_eq!(again.hash(), *blake3::hash(b"12345").as_bytes());
}

/// Permissions do not restrict the superuser. Run as superuser, this test checks less.
#[test]
fn partial_file_without_permissions_is_resumed_and_removed() {
    let (folder, dest) = folder();
    let target = path(&["f"]);
    let file = folder.path().join(".antiphon/partial").join(target.key());
    for mode in [0o444, 0o000] {
        let partial = open(&dest, &target, 10).expect("no other transfer has it");
        drop(partial.write(&[b"12345".to_vec()]).expect("the disk has room"));
        let restrict =
            || fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("the folder is writable");
        restrict();
        let again = open(&dest, &target, 10).expect("the first transfer has ended");
        assert!([0, 5].contains(&again.have()), "{mode:o}");
        drop(again);
        restrict();
        dest.remove_partial(&target.key());
        assert!(!file.exists(), "{mode:o}");
    }
}

#[test]
fn read_only_file_gets_permissions_when_placed() {
    let (folder, dest) = folder();
    let target = path(&["f"]);
    let offered = FileStat { permissions: 0o444, ..stat(3) };
    for _ in 0..2 {
        let Ok(Prepared::Open(partial)) = dest.clone().prepare(&target, offered, false, "peer") else {
            panic!("the target exists")
        };
        let partial = partial.write(&[b"abc".to_vec()]).expect("the disk has room");
        assert!(matches!(partial.place(blake3::hash(b"abc").as_bytes()), Ok(Placed::Stored)));
        let there = fs::metadata(folder.path().join("f")).expect("the file exists");
        assert_eq!(there.permissions().mode() & 0o777, 0o444);
        assert_eq!(dest.delete(&target), Ok(true));
    }
}

#[test]
fn file_with_wrong_hash_is_refused_and_discarded() {
    let (folder, dest) = folder();
    let target = path(&["f"]);
    let partial = open(&dest, &target, 3).expect("no other transfer has it");
    let partial = partial.write(&[b"abc".to_vec()]).expect("the disk has room");
    assert_eq!(partial.place(blake3::hash(b"abd").as_bytes()).err(), Some(FileRefused::Corrupt));
    assert!(!folder.path().join("f").exists());
    assert_eq!(open(&dest, &target, 3).map(|partial| partial.have()), Ok(0));
}

#[test]
fn file_created_during_transfer_is_not_replaced() {
    let (folder, dest) = folder();
    let partial = open(&dest, &path(&["f"]), 3).expect("no other transfer has it");
    let partial = partial.write(&[b"abc".to_vec()]).expect("the disk has room");
    fs::write(folder.path().join("f"), "the user's").expect("the folder is writable");
    match partial.place(blake3::hash(b"abc").as_bytes()) {
        Ok(Placed::Different(there)) => assert_eq!(there.size, 10),
        _ => panic!("the file was replaced"),
    }
    for dir in ["partial", "received"] {
        let left =
            fs::read_dir(folder.path().join(".antiphon").join(dir)).expect("the folder is readable").count();
        assert_eq!(left, 0, "{dir}");
    }
    assert_eq!(fs::read(folder.path().join("f")).expect("the file exists"), b"the user's");
}

#[test]
fn offer_larger_than_disk_is_refused() {
    let (folder, dest) = folder();
    assert_eq!(open(&dest, &path(&["f"]), u64::MAX / 2).err(), Some(FileRefused::DiskFull));
    assert_eq!(
        fs::read_dir(folder.path().join(".antiphon/partial")).expect("the folder is readable").count(),
        0
    );
}

/// Opens a folder with limits for the bytes of all peers and of one peer.
fn folder_with_limits(dest_bytes_max: u64, peer_bytes_max: u64) -> (tempfile::TempDir, Arc<DestFolder>) {
    let folder = tempfile::tempdir().expect("a temporary folder is created");
    let (dest_bytes_max, peer_bytes_max) = (Some(dest_bytes_max), Some(peer_bytes_max));
    let rules = FileRules { keep: DAY, dest_bytes_max, peer_bytes_max, ..FileRules::default() };
    let dest = DestFolder::open(folder.path(), rules).expect("the folder is writable");
    (folder, Arc::new(dest))
}

/// Leaves a partial file, as an interrupted transfer does.
fn leave_partial(dest: &Arc<DestFolder>, path: &TargetPath, bytes: u8) {
    let partial = open(dest, path, 90).expect("the disk has room");
    let content = (0..bytes).collect();
    drop(partial.write(&[content]).expect("the disk has room"));
}

#[test]
fn offer_over_quota_keeps_partial_file() {
    let (folder, dest) = folder_with_limits(1000, 100);
    let target = path(&["f"]);
    leave_partial(&dest, &target, 40);
    let left =
        || fs::metadata(folder.path().join(".antiphon/partial").join(target.key())).map(|meta| meta.len());
    // The first size is smaller than the partial file, and so of another file. The second one could resume it.
    for size in [30, 200] {
        let other = open(&dest, &path(&["other"]), 50).expect("the disk has room");
        assert_eq!(open(&dest, &target, size).err(), Some(FileRefused::OverQuota { max: 100 }));
        drop(other);
        assert_eq!(left().ok(), Some(40), "{size}");
    }
    let (dest_bytes_max, keep) = (Some(20), DAY);
    let smaller = DestFolder::open(folder.path(), FileRules { dest_bytes_max, keep, ..FileRules::default() });
    let smaller = Arc::new(smaller.expect("the folder is writable"));
    assert_eq!(open(&smaller, &target, 30).err(), Some(FileRefused::DestFull { max: 20 }));
    assert_eq!(left().ok(), Some(40));
    assert_eq!(
        open(&dest, &target, 50).map(|partial| partial.have()),
        Ok(40),
        "an accepted offer must resume the partial file"
    );
    assert_eq!(
        open(&dest, &target, 30).map(|partial| partial.have()),
        Ok(0),
        "an accepted offer must discard useless bytes"
    );
    assert!(left().is_ok_and(|left| left == 0));
}

#[test]
fn transfer_ends_quota_before_unlocking_file() {
    let (folder, dest) = folder_with_limits(1000, 1000);
    let target = path(&["f"]);
    leave_partial(&dest, &target, 40);
    let partial = open(&dest, &target, 90).expect("no other transfer has it");
    let key = target.key();
    std::thread::scope(|scope| {
        // The ending transfer waits for the quota, which is locked here.
        let quota = dest.quota();
        scope.spawn(move || drop(partial));
        for _ in 0..2000 {
            assert!(quota.is_active(&key));
            let file =
                File::open(folder.path().join(".antiphon/partial").join(&key)).expect("the file exists");
            let lock = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
            assert_eq!(lock, Err(Errno::WOULDBLOCK), "the file is unlocked before its bytes are counted");
            std::thread::yield_now();
        }
        drop(quota);
    });
    assert!(!dest.quota().is_active(&key));
    assert_eq!(open(&dest, &target, 90).map(|partial| partial.have()), Ok(40));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the test needs an instant")]
fn offers_during_count_do_not_recount() {
    let (folder, dest) = folder_with_limits(100, 1000);
    assert_eq!(store(&dest, &path(&["f"]), &[7; 60]), Ok(()));
    fs::remove_file(folder.path().join("f")).expect("the file exists");
    let now = Instant::now() + DAY;
    assert!(dest.quota().begin_count(now));
    for _ in 0..10 {
        assert_eq!(open(&dest, &path(&["g"]), 60).err(), Some(FileRefused::DestFull { max: 100 }));
    }
    // The count has just ended: it is too early for another one.
    dest.quota().end_count(now, None);
    assert_eq!(open(&dest, &path(&["g"]), 60).err(), Some(FileRefused::DestFull { max: 100 }));
    // A day after the end of the first count.
    assert!(dest.quota().begin_count(now + DAY));
    dest.quota().end_count(now, dest.count().ok());
    open(&dest, &path(&["g"]), 60).expect("the removed file has freed its bytes");
}

#[test]
fn replaced_or_removed_file_frees_quota_without_count() {
    let (_folder, dest) = folder_with_limits(200, 1000);
    let target = path(&["f"]);
    assert_eq!(store(&dest, &target, &[7; 90]), Ok(()));
    for bytes in [91, 92] {
        let Ok(Prepared::Open(partial)) = dest.clone().prepare(&target, stat(bytes), true, "peer") else {
            panic!("the file may be replaced")
        };
        let content = vec![7; bytes as usize];
        let partial = partial.write(std::slice::from_ref(&content)).expect("the disk has room");
        assert!(matches!(partial.place(blake3::hash(&content).as_bytes()), Ok(Placed::Stored)));
    }
    let key = path(&["g"]).key();
    leave_partial(&dest, &path(&["g"]), 18);
    assert_eq!(dest.quota().stored(), 92 + 18);
    dest.remove_partial(&key);
    assert_eq!(dest.quota().stored(), 92);
    assert_eq!(dest.count(), Ok(92));
}

#[test]
fn folder_replaced_by_symlink_is_refused() {
    let (folder, dest) = folder();
    let elsewhere = tempfile::tempdir().expect("a temporary folder is created");
    let partial = open(&dest, &path(&["d", "f"]), 3).expect("no other transfer has it");
    let partial = partial.write(&[b"abc".to_vec()]).expect("the disk has room");
    assert!(!folder.path().join("d").exists(), "the folder must not exist before the file is complete");
    symlink(elsewhere.path(), folder.path().join("d")).expect("the symlink is created");
    assert_eq!(partial.place(blake3::hash(b"abc").as_bytes()).err(), Some(FileRefused::NotAFile));
    assert_eq!(fs::read_dir(elsewhere.path()).expect("the folder is readable").count(), 0);
}

#[cfg(target_os = "linux")]
#[test]
#[expect(clippy::disallowed_methods, reason = "the pauses vary how the threads interleave")]
fn folder_swapped_with_symlink_never_leaks() {
    let folder = tempfile::tempdir().expect("a temporary folder is created");
    let dest = DestFolder::open(&folder.path().join("dest"), FileRules { keep: DAY, ..FileRules::default() })
        .map(Arc::new)
        .expect("the folder is writable");
    let (inner, link) = (folder.path().join("dest/d"), folder.path().join("dest/other"));
    let outside = folder.path().join("elsewhere/e");
    fs::create_dir_all(inner.join("e"))
        .and_then(|()| fs::create_dir_all(&outside))
        .expect("the folder is writable");
    symlink("../elsewhere", &link).expect("the symlink is created");
    let is_over = AtomicBool::new(false);
    let (stored, refused) = std::thread::scope(|scope| {
        scope.spawn(|| {
            let (at, mut swaps) = (rustix::fs::CWD, 0);
            while !is_over.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(at, &inner, at, &link, RenameFlags::EXCHANGE).expect("both exist");
                // Pauses of different lengths: some attempts find the folder, some the symlink.
                std::thread::sleep(Duration::from_micros(swaps % 8 * 50));
                swaps += 1;
            }
        });
        let (mut stored, mut refused) = (0, 0);
        while stored + refused < 100_000 && (stored + refused < 300 || stored < 10 || refused < 10) {
            let name = format!("f{}", stored + refused);
            if store(&dest, &path(&["d", "e", &name]), b"abc").is_ok() {
                stored += 1;
            } else {
                refused += 1;
            }
        }
        is_over.store(true, Ordering::Relaxed);
        (stored, refused)
    });
    assert_eq!(fs::read_dir(&outside).expect("the folder is readable").count(), 0);
    assert!(stored >= 10 && refused >= 10, "{stored} files were stored, and {refused} refused");
}

#[test]
fn stepwise_open_refuses_symlinks_and_files() {
    let (folder, dest) = folder();
    let names = |of: &[&str]| of.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    fs::create_dir_all(folder.path().join("a/b")).expect("the folder is writable");
    symlink("b", folder.path().join("a/link")).expect("the symlink is created");
    fs::write(folder.path().join("a/f"), "").expect("the folder is writable");
    let open_stepwise = |of: &[&str]| {
        sandbox::open_path_stepwise(&dest.root, &names(of)).map(drop).map_err(FileRefused::from)
    };
    assert_eq!(open_stepwise(&["a", "b"]), Ok(()));
    assert_eq!(open_stepwise(&[]), Ok(()));
    for wrong in [&["a", "link"][..], &["a", "f"], &["a", "link", "b"]] {
        assert_eq!(open_stepwise(wrong), Err(FileRefused::NotAFile), "{wrong:?}");
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "file systems keep the times of files in system time")]
fn sweep_removes_old_or_surplus_unlocked_partial_files() {
    let (folder, dest) = folder();
    let old = Arc::new(
        DestFolder::open(folder.path(), FileRules { keep: Duration::ZERO, ..FileRules::default() })
            .expect("the folder is writable"),
    );
    let partials = folder.path().join(".antiphon/partial");
    let leave = |name: &str| fs::write(partials.join(name), "").expect("the folder is writable");
    let held = open(&dest, &path(&["held"]), 10).expect("no other transfer has it");
    let held = held.write(&[b"12345".to_vec()]).expect("the disk has room");
    // The sender chooses the modification time: it does not count as the age of the file.
    for (name, changed) in [("past", SystemTime::UNIX_EPOCH), ("future", SystemTime::now() + DAY * 1000)] {
        leave(name);
        let file = File::options().append(true).open(partials.join(name));
        file.and_then(|file| file.set_modified(changed)).expect("the folder is writable");
    }
    dest.sweep();
    assert!(partials.join("past").exists() && partials.join("future").exists());
    old.sweep();
    assert!(!partials.join("past").exists() && !partials.join("future").exists());
    assert!(partials.join(path(&["held"]).key()).exists());
    drop(held);

    (0..PARTIALS_MAX).for_each(|n| leave(&format!("{n}")));
    dest.sweep();
    assert_eq!(fs::read_dir(&partials).expect("the folder is readable").count(), PARTIALS_MAX);
}

#[test]
fn sweep_removes_provenance_of_missing_files() {
    let (folder, dest) = folder();
    let names = [&["kept"][..], &["gone"], &["d d\n", "gone too"], &["edited"]];
    let targets = names.map(path);
    for target in &targets {
        assert_eq!(store(&dest, target, b"abc"), Ok(()));
    }
    let provenances =
        || fs::read_dir(folder.path().join(".antiphon/received")).expect("the folder is readable").count();
    dest.sweep();
    assert_eq!(provenances(), 4);
    fs::remove_file(folder.path().join("gone")).expect("the file exists");
    fs::remove_dir_all(folder.path().join("d d\n")).expect("the file exists");
    fs::write(folder.path().join("edited"), "by its user").expect("the file exists");
    dest.sweep();
    assert_eq!(provenances(), 1);
    assert_eq!(dest.delete(&targets[0]), Ok(true));
    assert_eq!(dest.delete(&targets[3]), Err(FileRefused::NotReceived));
}

#[test]
fn sweeps_prune_provenance_in_portions() {
    let (folder, dest) = folder();
    let provenances = folder.path().join(".antiphon/received");
    for n in 0..PROVENANCES_PER_SWEEP + 10 {
        let missing = path(&[&format!("{n}")]);
        fs::write(provenances.join(missing.key()), format!("antiphon-received/2 1 2 3 4 {n}\n"))
            .expect("the folder is writable");
    }
    let left = || fs::read_dir(&provenances).expect("the folder is readable").count();
    dest.sweep();
    assert!((10..=12).contains(&left()), "{} are left", left());
    for _ in 0..3 {
        dest.sweep();
    }
    assert_eq!(left(), 0);
}

#[test]
fn file_with_provenance_format_1_is_deleted() {
    let (folder, dest) = folder();
    let target = path(&["f"]);
    assert_eq!(store(&dest, &target, b"abc"), Ok(()));
    let provenance = folder.path().join(".antiphon/received").join(target.key());
    let written = fs::read_to_string(&provenance).expect("the provenance exists");
    let format_1 = written.replace("received/2", "received/1").replace(" f\n", "\n");
    fs::write(&provenance, format_1).expect("the folder is writable");
    dest.sweep();
    assert_eq!(dest.delete(&target), Ok(true));
}

#[test]
fn offer_without_transfer_creates_no_folder() {
    let (folder, dest) = folder();
    assert_eq!(open(&dest, &path(&["a", "b", "f"]), u64::MAX / 2).err(), Some(FileRefused::DiskFull));
    open(&dest, &path(&["a", "b", "f"]), 3).expect("no other transfer has it").discard();
    assert!(!folder.path().join("a").exists());
    assert_eq!(store(&dest, &path(&["a", "b", "f"]), b"abc"), Ok(()));
    fs::write(folder.path().join("a/file"), "").expect("the folder is writable");
    assert_eq!(open(&dest, &path(&["a", "file", "b", "f"]), 3).err(), Some(FileRefused::NotAFile));
}

#[test]
fn file_with_damaged_provenance_is_not_deleted() {
    let (folder, dest) = folder();
    let target = path(&["f"]);
    assert_eq!(store(&dest, &target, b"abc"), Ok(()));
    let provenance = folder.path().join(".antiphon/received").join(target.key());
    let written = fs::read_to_string(&provenance).expect("the provenance exists");
    for damaged in ["", "antiphon-received/2 1 2 3 4\n", &written[..written.len() / 2], "\u{0}\u{0}"] {
        fs::write(&provenance, damaged).expect("the folder is writable");
        assert_eq!(dest.delete(&target), Err(FileRefused::NotReceived), "{damaged:?}");
    }
    fs::write(&provenance, &written).expect("the folder is writable");
    assert_eq!(dest.delete(&target), Ok(true));
    assert_eq!(
        fs::read_dir(folder.path().join(".antiphon/received")).expect("the folder is readable").count(),
        0
    );
}
