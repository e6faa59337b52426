//! `Park::Virtual`: no descriptor, no thread, no clock; the same seed gives the same run.

use std::process::Command;

use antiphon_sched::*;

use crate::common::*;

fn descriptors() -> Option<usize> {
    std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count)
}

fn threads() -> Option<usize> {
    std::fs::read_dir("/proc/self/task").ok().map(Iterator::count)
}

/// The child of the next test: alone in its process, so that it can count.
#[test]
#[ignore = "the child of another test"]
fn child_that_counts_its_descriptors() {
    let before = (descriptors(), threads());
    let mut loops: Vec<_> = (0..50).map(|_| virtual_loop()).collect();
    for events in &mut loops {
        events.spawn(|cx: &mut Cx<Result<u32, JobError>>, event| {
            if let Event::Start = event {
                cx.blocking(|| 1, |result| result);
                cx.random();
            }
            receive_within(secs(1))
        });
        pass(events, secs(3));
        events.run_once(None).unwrap();
    }
    assert_eq!((descriptors(), threads()), before);
}

#[test]
fn virtual_loops_hold_no_descriptor_and_no_thread() {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "virtual_time::child_that_counts_its_descriptors", "--ignored", "--test-threads=1"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.status.success() && text.contains("1 passed"), "{text}");
}

/// A small world of actors that choose at random; what they did.
fn run_of(seed: u64) -> String {
    let config = LoopConfig { seed: Some(seed), node_id: Some(NodeId::from_bits(seed)), ..virtual_config() };
    let mut events = Loop::new(config).unwrap();
    let log = Log::default();
    let actors = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    for name in 0..5 {
        let (log, others) = (log.clone(), actors.clone());
        let addr = events.spawn(move |cx: &mut Cx<u64>, event| {
            if let Event::Message(n) = event {
                log.note(format!("{name}:{n}@{:?}", cx.now()));
            }
            let others = others.borrow();
            let to: Addr<u64> = others[cx.random() as usize % others.len()];
            let (what, span) = (cx.random() % 100, millis(cx.random() % 50));
            cx.send(to, what)?;
            if cx.random().is_multiple_of(2) { sleep(span) } else { receive_within(span) }
        });
        actors.borrow_mut().push(addr);
    }
    for _ in 0..200 {
        events.work();
        if let Some(next) = events.next_deadline() {
            events.advance_to(next);
        }
    }
    actors.borrow_mut().clear();
    log.take()
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_another() {
    let once = run_of(7);
    assert!(once.len() > 1000);
    assert_eq!(once, run_of(7));
    assert_ne!(once, run_of(8));
}

#[test]
fn time_goes_on_only_when_it_is_told_to_and_never_back() {
    let mut events = virtual_loop();
    assert_eq!(events.now(), Time::ZERO);
    settle(&mut events);
    assert_eq!(events.now(), Time::ZERO);
    events.advance_to(Time::from_nanos(500));
    events.advance_to(Time::from_nanos(100));
    assert_eq!(events.now(), Time::from_nanos(500));
}

#[test]
#[should_panic(expected = "only the time of a virtual loop can be set")]
fn the_time_of_a_real_loop_cannot_be_set() {
    real_loop().advance_to(Time::from_nanos(1));
}
