//! The folder for files by itself.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use antiphon_sched::Bytes;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn folder() -> (tempfile::TempDir, Arc<Dest>) {
    let folder = tempfile::tempdir().expect("a folder");
    let dest =
        Dest::open(folder.path(), FileRules { keep: DAY, ..FileRules::default() }).expect("it is ours");
    (folder, Arc::new(dest))
}

fn path(names: &[&str]) -> TargetPath {
    TargetPath::checked(names.iter().map(|name| (*name).to_owned()).collect()).expect("plain names")
}

fn stat(size: u64) -> FileStat {
    FileStat { size, seconds: 1_000_000, nanos: 7, permissions: 0o640 }
}

fn open(dest: &Arc<Dest>, path: &TargetPath, size: u64) -> Result<Box<Partial>, FileRefused> {
    match dest.prepare(path, stat(size), false, "somebody")? {
        Prepared::Open(partial) => Ok(partial),
        Prepared::AlreadyThere | Prepared::Different(_) => panic!("nothing is there"),
    }
}

fn store(dest: &Arc<Dest>, path: &TargetPath, content: &[u8]) -> Result<(), FileRefused> {
    let partial = open(dest, path, content.len() as u64)?;
    let partial = partial.write(&[Bytes(content.to_vec())])?;
    match partial.place(blake3::hash(content).as_bytes())? {
        Placed::Stored => Ok(()),
        Placed::Different(there) => panic!("{there:?} is there"),
    }
}

#[test]
fn what_a_node_remembers_is_for_its_user_alone() {
    let (folder, _dest) = folder();
    for dir in ["", "partial", "received"] {
        let meta = fs::metadata(folder.path().join(".antiphon").join(dir)).expect("it was made");
        assert_eq!(meta.permissions().mode() & 0o777, 0o700, "{dir}");
    }
}

#[test]
fn a_symlink_in_the_place_of_its_own_folder_is_not_followed() {
    let (folder, elsewhere) =
        (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    symlink(elsewhere.path(), folder.path().join(".antiphon")).expect("a symlink");
    assert!(Dest::open(folder.path(), FileRules { keep: DAY, ..FileRules::default() }).is_err());
    assert_eq!(fs::read_dir(elsewhere.path()).expect("a folder").count(), 0);
}

#[test]
fn an_unfinished_file_belongs_to_one_transfer_at_a_time_and_is_found_again() {
    let (_folder, dest) = folder();
    let place = path(&["a", "f"]);
    let first = open(&dest, &place, 10).expect("nobody has it");
    assert_eq!(open(&dest, &place, 10).err(), Some(FileRefused::Busy));
    drop(open(&dest, &path(&["a", "g"]), 10).expect("nobody has it"));
    let first = first.write(&[Bytes(b"12".to_vec()), Bytes(b"345".to_vec())]).expect("there is room");
    assert_eq!(first.written(), 5);
    drop(first);
    let mut again = open(&dest, &place, 10).expect("nobody has it any more");
    assert_eq!((again.have(), again.hash_some()), (5, Ok(true)));
    assert_eq!(again.hash(), *blake3::hash(b"12345").as_bytes());
}

/// Its permissions do not keep the superuser out: for that one, this tests less.
#[test]
fn an_unfinished_file_that_keeps_its_owner_out_is_taken_again_and_swept() {
    let (folder, dest) = folder();
    let place = path(&["f"]);
    let file = folder.path().join(".antiphon/partial").join(place.key());
    for mode in [0o444, 0o000] {
        let partial = open(&dest, &place, 10).expect("nobody has it");
        drop(partial.write(&[Bytes(b"12345".to_vec())]).expect("there is room"));
        let shut = || fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("it is ours");
        shut();
        let again = open(&dest, &place, 10).expect("nobody has it any more");
        assert!([0, 5].contains(&again.have()), "{mode:o}");
        drop(again);
        shut();
        dest.remove_unfinished(&place.key());
        assert!(!file.exists(), "{mode:o}");
    }
}

#[test]
fn a_file_that_nobody_may_write_has_its_permissions_in_its_place_only() {
    let (folder, dest) = folder();
    let place = path(&["f"]);
    let offered = FileStat { permissions: 0o444, ..stat(3) };
    for _ in 0..2 {
        let Ok(Prepared::Open(partial)) = dest.prepare(&place, offered, false, "somebody") else {
            panic!("nothing is there")
        };
        let partial = partial.write(&[Bytes(b"abc".to_vec())]).expect("there is room");
        assert!(matches!(partial.place(blake3::hash(b"abc").as_bytes()), Ok(Placed::Stored)));
        let there = fs::metadata(folder.path().join("f")).expect("it is there");
        assert_eq!(there.permissions().mode() & 0o777, 0o444);
        assert_eq!(dest.delete(&place), Ok(true));
    }
}

#[test]
fn what_does_not_have_its_hash_is_not_stored_and_not_kept() {
    let (folder, dest) = folder();
    let place = path(&["f"]);
    let partial = open(&dest, &place, 3).expect("nobody has it");
    let partial = partial.write(&[Bytes(b"abc".to_vec())]).expect("there is room");
    assert_eq!(partial.place(blake3::hash(b"abd").as_bytes()).err(), Some(FileRefused::Corrupt));
    assert!(!folder.path().join("f").exists());
    assert_eq!(open(&dest, &place, 3).map(|partial| partial.have()), Ok(0));
}

#[test]
fn a_file_that_somebody_put_there_meanwhile_stays() {
    let (folder, dest) = folder();
    let partial = open(&dest, &path(&["f"]), 3).expect("nobody has it");
    let partial = partial.write(&[Bytes(b"abc".to_vec())]).expect("there is room");
    fs::write(folder.path().join("f"), "the user's").expect("it is ours");
    match partial.place(blake3::hash(b"abc").as_bytes()) {
        Ok(Placed::Different(there)) => assert_eq!(there.size, 10),
        _ => panic!("it was to stay"),
    }
    for dir in ["partial", "received"] {
        let left = fs::read_dir(folder.path().join(".antiphon").join(dir)).expect("a folder").count();
        assert_eq!(left, 0, "{dir}");
    }
    assert_eq!(fs::read(folder.path().join("f")).expect("it is there"), b"the user's");
}

#[test]
fn a_disk_without_room_is_told_before_anything_is_sent() {
    let (folder, dest) = folder();
    assert_eq!(open(&dest, &path(&["f"]), u64::MAX / 2).err(), Some(FileRefused::DiskFull));
    assert_eq!(fs::read_dir(folder.path().join(".antiphon/partial")).expect("a folder").count(), 0);
}

/// A folder that takes no more than so many bytes, of all peers and of one.
fn narrow(dest_bytes_max: u64, peer_bytes_max: u64) -> (tempfile::TempDir, Arc<Dest>) {
    let folder = tempfile::tempdir().expect("a folder");
    let (dest_bytes_max, peer_bytes_max) = (Some(dest_bytes_max), Some(peer_bytes_max));
    let rules = FileRules { keep: DAY, dest_bytes_max, peer_bytes_max, ..FileRules::default() };
    let dest = Dest::open(folder.path(), rules).expect("it is ours");
    (folder, Arc::new(dest))
}

/// Leaves an unfinished file, as a transfer that is interrupted does.
fn leave_some(dest: &Arc<Dest>, path: &TargetPath, bytes: u8) {
    let partial = open(dest, path, 90).expect("there is room");
    let content = (0..bytes).collect();
    drop(partial.write(&[Bytes(content)]).expect("there is room"));
}

#[test]
fn an_offer_that_is_refused_for_its_bytes_leaves_what_an_earlier_transfer_left() {
    let (folder, dest) = narrow(1000, 100);
    let place = path(&["f"]);
    leave_some(&dest, &place, 40);
    let left =
        || fs::metadata(folder.path().join(".antiphon/partial").join(place.key())).map(|meta| meta.len());
    // Shorter than what is there, and so another file; and one that could go on with it.
    for size in [30, 200] {
        let other = open(&dest, &path(&["other"]), 50).expect("there is room");
        assert_eq!(open(&dest, &place, size).err(), Some(FileRefused::OverQuota { max: 100 }));
        drop(other);
        assert_eq!(left().ok(), Some(40), "{size}");
    }
    let (dest_bytes_max, keep) = (Some(20), DAY);
    let smaller = Dest::open(folder.path(), FileRules { dest_bytes_max, keep, ..FileRules::default() });
    let smaller = Arc::new(smaller.expect("it is ours"));
    assert_eq!(open(&smaller, &place, 30).err(), Some(FileRefused::DestFull { max: 20 }));
    assert_eq!(left().ok(), Some(40));
    assert_eq!(open(&dest, &place, 50).map(|partial| partial.have()), Ok(40), "it goes on");
    assert_eq!(
        open(&dest, &place, 30).map(|partial| partial.have()),
        Ok(0),
        "what is of no use goes when one is taken"
    );
    assert!(left().is_ok_and(|left| left == 0));
}

#[test]
fn a_transfer_settles_its_account_before_another_has_the_file() {
    let (folder, dest) = narrow(1000, 1000);
    let place = path(&["f"]);
    leave_some(&dest, &place, 40);
    let partial = open(&dest, &place, 90).expect("nobody has it");
    let key = place.key();
    std::thread::scope(|scope| {
        // Who ends waits for the ledger, as long as this looks.
        let quota = dest.quota();
        scope.spawn(move || drop(partial));
        for _ in 0..2000 {
            assert!(quota.is_live(&key));
            let file = File::open(folder.path().join(".antiphon/partial").join(&key)).expect("it is there");
            let lock = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
            assert_eq!(lock, Err(Errno::WOULDBLOCK), "the file is free, and its bytes are not accounted for");
            std::thread::yield_now();
        }
        drop(quota);
    });
    assert!(!dest.quota().is_live(&key));
    assert_eq!(open(&dest, &place, 90).map(|partial| partial.have()), Ok(40));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "some time")]
fn while_somebody_counts_offers_are_refused_without_another_look() {
    let (folder, dest) = narrow(100, 1000);
    assert_eq!(store(&dest, &path(&["f"]), &[7; 60]), Ok(()));
    fs::remove_file(folder.path().join("f")).expect("it is there");
    let now = Instant::now() + DAY;
    assert!(dest.quota().begin_count(now));
    for _ in 0..10 {
        assert_eq!(open(&dest, &path(&["g"]), 60).err(), Some(FileRefused::DestFull { max: 100 }));
    }
    // The count is over, and just now: still nobody looks.
    dest.quota().end_count(now, None);
    assert_eq!(open(&dest, &path(&["g"]), 60).err(), Some(FileRefused::DestFull { max: 100 }));
    // Two days later.
    assert!(dest.quota().begin_count(now + DAY));
    dest.quota().end_count(now, dest.count().ok());
    open(&dest, &path(&["g"]), 60).expect("what was removed has made room");
}

#[test]
fn what_is_replaced_or_swept_makes_room_without_a_count() {
    let (_folder, dest) = narrow(200, 1000);
    let place = path(&["f"]);
    assert_eq!(store(&dest, &place, &[7; 90]), Ok(()));
    for bytes in [91, 92] {
        let Ok(Prepared::Open(partial)) = dest.prepare(&place, stat(bytes), true, "somebody") else {
            panic!("it may be replaced")
        };
        let content = vec![7; bytes as usize];
        let partial = partial.write(&[Bytes(content.clone())]).expect("there is room");
        assert!(matches!(partial.place(blake3::hash(&content).as_bytes()), Ok(Placed::Stored)));
    }
    let key = path(&["g"]).key();
    leave_some(&dest, &path(&["g"]), 18);
    assert_eq!(dest.quota().kept(), 92 + 18);
    dest.remove_unfinished(&key);
    assert_eq!(dest.quota().kept(), 92);
    assert_eq!(dest.count(), Ok(92));
}

#[test]
fn a_folder_that_becomes_a_symlink_while_a_file_arrives_leads_nowhere() {
    let (folder, dest) = folder();
    let elsewhere = tempfile::tempdir().expect("a folder");
    let partial = open(&dest, &path(&["d", "f"]), 3).expect("nobody has it");
    let partial = partial.write(&[Bytes(b"abc".to_vec())]).expect("there is room");
    assert!(!folder.path().join("d").exists(), "it is made when the file is whole");
    symlink(elsewhere.path(), folder.path().join("d")).expect("a symlink");
    assert_eq!(partial.place(blake3::hash(b"abc").as_bytes()).err(), Some(FileRefused::NotAFile));
    assert_eq!(fs::read_dir(elsewhere.path()).expect("a folder").count(), 0);
}

#[cfg(target_os = "linux")]
#[test]
fn nothing_leaves_the_folder_while_a_folder_and_a_symlink_swap_places() {
    let folder = tempfile::tempdir().expect("a folder");
    let dest = Dest::open(&folder.path().join("dest"), FileRules { keep: DAY, ..FileRules::default() })
        .map(Arc::new)
        .expect("it is ours");
    let (way, other) = (folder.path().join("dest/d"), folder.path().join("dest/other"));
    let beyond = folder.path().join("elsewhere/e");
    fs::create_dir_all(way.join("e")).and_then(|()| fs::create_dir_all(&beyond)).expect("it is ours");
    symlink("../elsewhere", &other).expect("a symlink");
    let is_over = AtomicBool::new(false);
    let stored = std::thread::scope(|scope| {
        scope.spawn(|| {
            let at = rustix::fs::CWD;
            while !is_over.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(at, &way, at, &other, RenameFlags::EXCHANGE)
                    .expect("both are there");
            }
        });
        let tries = (0..300).map(|n| store(&dest, &path(&["d", "e", &format!("f{n}")]), b"abc"));
        let stored = tries.filter(Result::is_ok).count();
        is_over.store(true, Ordering::Relaxed);
        stored
    });
    assert_eq!(fs::read_dir(&beyond).expect("a folder").count(), 0, "{stored} were stored");
}

#[test]
fn without_the_call_for_whole_ways_each_name_is_looked_at_by_itself() {
    let (folder, dest) = folder();
    let names = |of: &[&str]| of.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    fs::create_dir_all(folder.path().join("a/b")).expect("it is ours");
    symlink("b", folder.path().join("a/link")).expect("a symlink");
    fs::write(folder.path().join("a/f"), "").expect("it is ours");
    let step =
        |of: &[&str]| sandbox::step_by_step(&dest.root, &names(of)).map(drop).map_err(FileRefused::from);
    assert_eq!(step(&["a", "b"]), Ok(()));
    assert_eq!(step(&[]), Ok(()));
    for wrong in [&["a", "link"][..], &["a", "f"], &["a", "link", "b"]] {
        assert_eq!(step(wrong), Err(FileRefused::NotAFile), "{wrong:?}");
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the ages of files are told in the system's time")]
fn unfinished_files_go_when_they_are_old_or_too_many_unless_somebody_writes_to_them() {
    let (folder, dest) = folder();
    let old = Arc::new(
        Dest::open(folder.path(), FileRules { keep: Duration::ZERO, ..FileRules::default() })
            .expect("it is ours"),
    );
    let partials = folder.path().join(".antiphon/partial");
    let leave = |name: &str| fs::write(partials.join(name), "").expect("it is ours");
    let held = open(&dest, &path(&["held"]), 10).expect("nobody has it");
    let held = held.write(&[Bytes(b"12345".to_vec())]).expect("there is room");
    // Its time is the sender's to choose: that is not how old it is.
    for (name, changed) in [("past", SystemTime::UNIX_EPOCH), ("future", SystemTime::now() + DAY * 1000)] {
        leave(name);
        let file = File::options().append(true).open(partials.join(name));
        file.and_then(|file| file.set_modified(changed)).expect("it is ours");
    }
    dest.sweep();
    assert!(partials.join("past").exists() && partials.join("future").exists());
    old.sweep();
    assert!(!partials.join("past").exists() && !partials.join("future").exists());
    assert!(partials.join(path(&["held"]).key()).exists());
    drop(held);

    (0..PARTIALS_MAX).for_each(|n| leave(&format!("{n}")));
    dest.sweep();
    assert_eq!(fs::read_dir(&partials).expect("a folder").count(), PARTIALS_MAX);
}

#[test]
fn records_of_files_that_are_gone_are_forgotten_and_others_kept() {
    let (folder, dest) = folder();
    let names = [&["kept"][..], &["gone"], &["d d\n", "gone too"], &["edited"]];
    let transfer_permits = names.map(path);
    for place in &transfer_permits {
        assert_eq!(store(&dest, place, b"abc"), Ok(()));
    }
    let records = || fs::read_dir(folder.path().join(".antiphon/received")).expect("a folder").count();
    dest.sweep();
    assert_eq!(records(), 4);
    fs::remove_file(folder.path().join("gone")).expect("it is there");
    fs::remove_dir_all(folder.path().join("d d\n")).expect("it is there");
    fs::write(folder.path().join("edited"), "by its user").expect("it is there");
    dest.sweep();
    assert_eq!(records(), 1);
    assert_eq!(dest.delete(&transfer_permits[0]), Ok(true));
    assert_eq!(dest.delete(&transfer_permits[3]), Err(FileRefused::NotReceived));
}

#[test]
fn a_sweep_looks_at_some_records_and_the_next_ones_at_the_others() {
    let (folder, dest) = folder();
    let records = folder.path().join(".antiphon/received");
    for n in 0..RECORDS_A_SWEEP + 10 {
        let gone = path(&[&format!("{n}")]);
        fs::write(records.join(gone.key()), format!("antiphon-received/2 1 2 3 4 {n}\n"))
            .expect("it is ours");
    }
    let left = || fs::read_dir(&records).expect("a folder").count();
    dest.sweep();
    assert!(left() >= 10, "{} are left", left());
    for _ in 0..3 {
        dest.sweep();
    }
    assert_eq!(left(), 0);
}

#[test]
fn a_record_of_the_first_form_still_lets_its_file_be_deleted() {
    let (folder, dest) = folder();
    let place = path(&["f"]);
    assert_eq!(store(&dest, &place, b"abc"), Ok(()));
    let record = folder.path().join(".antiphon/received").join(place.key());
    let written = fs::read_to_string(&record).expect("it was written");
    let first = written.replace("received/2", "received/1").replace(" f\n", "\n");
    fs::write(&record, first).expect("it is ours");
    dest.sweep();
    assert_eq!(dest.delete(&place), Ok(true));
}

#[test]
fn an_offer_that_comes_to_nothing_leaves_no_folder() {
    let (folder, dest) = folder();
    assert_eq!(open(&dest, &path(&["a", "b", "f"]), u64::MAX / 2).err(), Some(FileRefused::DiskFull));
    open(&dest, &path(&["a", "b", "f"]), 3).expect("nobody has it").discard();
    assert!(!folder.path().join("a").exists());
    assert_eq!(store(&dest, &path(&["a", "b", "f"]), b"abc"), Ok(()));
    fs::write(folder.path().join("a/file"), "").expect("it is ours");
    assert_eq!(open(&dest, &path(&["a", "file", "b", "f"]), 3).err(), Some(FileRefused::NotAFile));
}

#[test]
fn a_record_that_is_damaged_fits_nothing() {
    let (folder, dest) = folder();
    let place = path(&["f"]);
    assert_eq!(store(&dest, &place, b"abc"), Ok(()));
    let record = folder.path().join(".antiphon/received").join(place.key());
    let written = fs::read_to_string(&record).expect("it was written");
    for damaged in ["", "antiphon-received/2 1 2 3 4\n", &written[..written.len() / 2], "\u{0}\u{0}"] {
        fs::write(&record, damaged).expect("it is ours");
        assert_eq!(dest.delete(&place), Err(FileRefused::NotReceived), "{damaged:?}");
    }
    fs::write(&record, &written).expect("it is ours");
    assert_eq!(dest.delete(&place), Ok(true));
    assert_eq!(fs::read_dir(folder.path().join(".antiphon/received")).expect("a folder").count(), 0);
}
