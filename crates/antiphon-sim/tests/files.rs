//! Files between simulated nodes, on disks in memory: crashes in the middle, slow, full and failing disks; and jobs that take
//! virtual time.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use antiphon_dist::{
    Config, DeleteError, FileError, FileOptions, FileRefused, Location, NetCx, Progress, Stored,
};
use antiphon_sched::{Cx, Event, Loop, millis, receive, receive_within, secs};
use antiphon_sim::{Faults, MemoryDisk, Replay, SimNode, World, assert_covered, seeds};

const SIZE: usize = 3_000_000;

fn at(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], 9705))
}

/// What the sender has seen, with the virtual times in milliseconds.
#[derive(Default)]
struct Seen {
    results: Vec<(u64, Result<Stored, FileError>)>,
    deletions: Vec<Result<(), DeleteError>>,
    resumed: u64,
    ticks: u64,
}

enum Message {
    Sent(Result<Stored, FileError>),
    Progress(Progress),
    Deleted(Result<(), DeleteError>),
}

/// Sends `/out/report` until the receiver has it. After a refusal it waits for two seconds. If it is asked to, it deletes
/// the file then.
fn start_sender(sched: &mut Loop, deletes: bool, seen: &Rc<RefCell<Seen>>) {
    let (seen, ticks) = (seen.clone(), seen.clone());
    sched.spawn(move |cx: &mut Cx<()>, event| {
        match event {
            Event::Start => drop(cx.every(millis(10), || ())?),
            Event::Message(()) => ticks.borrow_mut().ticks += 1,
            _ => {}
        }
        receive()
    });
    sched.spawn(move |cx: &mut Cx<Message>, event| {
        let mut seen = seen.borrow_mut();
        match event {
            Event::Start | Event::Timeout => {
                let options = FileOptions { dir: "in".into(), ..FileOptions::default() };
                let to = Location::new(at(1));
                let transfer = cx.send_file(to, "/out/report", options, secs(120), Message::Sent);
                cx.progress(transfer, millis(50), Message::Progress)?;
            }
            Event::Message(Message::Progress(progress)) => seen.resumed = seen.resumed.max(progress.resumed),
            Event::Message(Message::Sent(result)) => {
                let is_stored = result.is_ok();
                seen.results.push((cx.now().as_nanos() / 1_000_000, result));
                if !is_stored {
                    return receive_within(secs(2));
                }
                if deletes {
                    cx.del_file(Location::new(at(1)), "report", "in", secs(10), Message::Deleted);
                }
            }
            Event::Message(Message::Deleted(result)) => seen.deletions.push(result),
            _ => {}
        }
        receive()
    });
}

fn report() -> Vec<u8> {
    (0..SIZE).map(|at| (at * at / 7) as u8).collect()
}

/// A receiver at host 1 with this disk, and a sender at host 2.
fn world(seed: u64, disk: &MemoryDisk, deletes: bool) -> (World<SimNode>, Rc<RefCell<Seen>>) {
    let seen = Rc::<RefCell<Seen>>::default();
    let mut world = World::new(seed, Faults { latency: millis(1), ..Faults::default() });
    let config = Config {
        secret: Some("key".into()),
        dest_path: Some("/received".into()),
        peer_timeout: secs(5),
        ..Config::default()
    };
    let (of_receiver, disk) = (config.clone(), disk.clone());
    world.add(at(1), move |seed| SimNode::on_disk(&of_receiver, at(1), seed, &disk, |_| {}));
    let out = MemoryDisk::new();
    out.write("/out/report", report());
    let for_sender = seen.clone();
    world.add(at(2), move |seed| {
        SimNode::on_disk(&config, at(2), seed, &out, |sched| start_sender(sched, deletes, &for_sender))
    });
    (world, seen)
}

fn last_result(seen: &Rc<RefCell<Seen>>) -> Option<Result<Stored, FileError>> {
    seen.borrow().results.last().map(|(_, result)| result.clone())
}

/// The receiver crashes at any moment of the transfer: the file arrives whole, and what was written is not sent again.
#[test]
fn transfer_resumes_after_crash_of_receiver() {
    let (mut is_resumed, mut is_repeated) = (false, false);
    for seed in seeds(30) {
        let _replay = Replay::new("transfer_resumes_after_crash_of_receiver", seed);
        let disk = MemoryDisk::new();
        disk.set_speed(millis(2), Some(4_000_000));
        let (mut world, seen) = world(seed, &disk, false);
        if seed % 4 == 0 {
            // Just when the file is in its place, and the sender does not know it yet.
            assert!(world.run_until(secs(60), |_| !disk.paths().is_empty()));
        } else {
            world.run_for(millis(30) * (seed as u32 % 40 + 1));
        }
        world.crash(at(1));
        assert!(
            disk.read("/received/in/report").is_none_or(|there| there == report()),
            "whole or not at all"
        );
        let is_stored =
            world.run_until(secs(60), |_| seen.borrow().results.iter().any(|(_, done)| done.is_ok()));
        assert!(is_stored, "{:?}", seen.borrow().results);
        assert_eq!(disk.read("/received/in/report"), Some(report()));
        assert_eq!(disk.partial_bytes(), 0);
        is_resumed |= seen.borrow().resumed > 0;
        is_repeated |= last_result(&seen) == Some(Ok(Stored::AlreadyThere));
    }
    assert_covered(is_resumed, "a transfer that is resumed");
    assert_covered(is_repeated, "a file that is stored before its sender learns of it");
}

/// The node goes on while its disk is slow.
#[test]
fn slow_disk_takes_virtual_time() {
    let disk = MemoryDisk::new();
    disk.set_speed(millis(5), Some(1_000_000));
    let (mut world, seen) = world(1, &disk, true);
    assert!(world.run_until(secs(60), |_| !seen.borrow().deletions.is_empty()));
    let seen = seen.borrow();
    let (took, result) = &seen.results[0];
    assert_eq!(*result, Ok(Stored::New));
    assert!((3_000..4_500).contains(took), "3 MB at 1 MB/s: {took} ms");
    assert!(seen.ticks >= took / 10 - 1, "the actors have not waited for the disk");
    assert_eq!((&seen.deletions[..], disk.paths().len()), (&[Ok(())][..], 0));
}

#[test]
fn full_disk_refuses_until_it_has_room() {
    let disk = MemoryDisk::new();
    disk.write("/other", vec![0; 1000]);
    disk.set_capacity(Some(SIZE as u64 + 999));
    disk.set_speed(millis(1), Some(2_000_000));
    let (mut world, seen) = world(2, &disk, false);
    assert!(world.run_until(secs(60), |_| !seen.borrow().results.is_empty()));
    assert_eq!(last_result(&seen), Some(Err(FileError::Refused(FileRefused::DiskFull))));
    // There is room for the offer, but the disk fills up meanwhile.
    disk.remove("/other");
    let count = seen.borrow().results.len();
    assert!(world.run_until(secs(60), |_| disk.partial_bytes() > 1_000_000));
    disk.write("/other", vec![0; 1000]);
    assert!(world.run_until(secs(60), |_| seen.borrow().results.len() > count));
    assert_eq!(last_result(&seen), Some(Err(FileError::Refused(FileRefused::DiskFull))));
    assert_eq!((disk.partial_bytes(), disk.paths().len()), (0, 1), "nothing is left of it");
    disk.set_capacity(None);
    assert!(world.run_until(secs(60), |_| last_result(&seen) == Some(Ok(Stored::New))));
    assert_eq!(disk.read("/received/in/report"), Some(report()));
}

#[test]
fn failing_disk_fails_transfer_with_its_error() {
    let disk = MemoryDisk::new();
    disk.set_speed(millis(1), Some(2_000_000));
    let (mut world, seen) = world(3, &disk, false);
    assert!(world.run_until(secs(60), |_| disk.partial_bytes() > 1_000_000));
    disk.set_error(Some(ErrorKind::ReadOnlyFilesystem));
    assert!(world.run_until(secs(60), |_| !seen.borrow().results.is_empty()));
    assert_eq!(last_result(&seen), Some(Err(FileError::Refused(FileRefused::ReadOnly))));
    disk.set_error(None);
    assert!(world.run_until(secs(60), |_| last_result(&seen) == Some(Ok(Stored::New))));
    assert!(seen.borrow().resumed > 1_000_000, "the bytes before the error are kept");
}

#[test]
fn jobs_of_users_take_virtual_time() {
    let run = |seed| {
        let times = Rc::new(RefCell::new(Vec::new()));
        let mut world = World::new(seed, Faults::default());
        let (config, seen) = (Config { secret: Some("key".into()), ..Config::default() }, times.clone());
        world.add(at(1), move |seed| {
            let seen = seen.clone();
            let mut node = SimNode::new(&config, at(1), seed, |sched| {
                sched.spawn(move |cx: &mut Cx<u32>, event| {
                    match event {
                        Event::Start => {
                            (0..50).for_each(|job| cx.blocking(move || job, |done| done.unwrap_or(0)))
                        }
                        Event::Message(_) => {
                            seen.borrow_mut().push(cx.now().since(antiphon_sched::Time::ZERO))
                        }
                        _ => {}
                    }
                    receive()
                });
            });
            node.set_job_times(millis(20), millis(80));
            node
        });
        world.run_for(secs(1));
        Rc::try_unwrap(times).map_or_else(|times| times.borrow().clone(), RefCell::into_inner)
    };
    let times: Vec<Duration> = run(1);
    assert_eq!(times.len(), 50);
    assert!(times.iter().all(|time| (millis(20)..=millis(80)).contains(time)), "{times:?}");
    assert!(times.last() > times.first());
    assert_eq!(times, run(1));
    assert_ne!(times, run(2));
}
