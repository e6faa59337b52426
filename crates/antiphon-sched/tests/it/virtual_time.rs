//! `Platform::Virtual`: no descriptor, no thread, no clock; the same seed gives the same run.

use antiphon_sched::*;

use crate::common::*;

fn descriptors() -> Option<usize> {
    std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count)
}

fn threads() -> Option<usize> {
    std::fs::read_dir("/proc/self/task").ok().map(Iterator::count)
}

/// The test runs in a process of its own, because it counts the descriptors and threads of the process.
#[test]
fn virtual_loop_holds_no_descriptor_or_thread() {
    if let Some(command) = own_process("virtual_time::virtual_loop_holds_no_descriptor_or_thread") {
        return expect_pass(command);
    }
    let before = (descriptors(), threads());
    assert!(!cfg!(target_os = "linux") || matches!(before, (Some(_), Some(_))), "{before:?}");
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

/// Runs a few actors that act at random, and returns the log of their messages.
fn run_of(seed: u64) -> String {
    let config = LoopConfig { seed: Some(seed), node_id: Some(NodeId::from_bits(seed)), ..virtual_config() };
    let mut events = Loop::new(config).unwrap();
    let log = Log::default();
    let actors = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    for name in 0..5 {
        let (log, targets) = (log.clone(), actors.clone());
        let addr = events.spawn(move |cx: &mut Cx<u64>, event| {
            if let Event::Message(n) = event {
                log.note(format!("{name}:{n}@{:?}", cx.now()));
            }
            let targets = targets.borrow();
            let to: Addr<u64> = targets[cx.random() as usize % targets.len()];
            let (message, span) = (cx.random() % 100, millis(cx.random() % 50));
            cx.send(to, message)?;
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
fn virtual_run_is_determined_by_seed() {
    let first = run_of(7);
    assert!(first.len() > 1000);
    assert_eq!(first, run_of(7));
    assert_ne!(first, run_of(8));
}

#[test]
fn virtual_time_moves_only_forward_when_advanced() {
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
fn real_loop_time_cannot_be_set() {
    real_loop().advance_to(Time::from_nanos(1));
}

#[test]
fn virtual_jobs_take_their_time() {
    let config = LoopConfig { blocking_threads_max: 2, blocking_queue_max: 1, ..virtual_config() };
    let mut events = Loop::new(config).unwrap();
    events.set_job_time(|pool, _| if pool == JobPool::Users { millis(100) } else { millis(0) });
    let log = Log::default();
    let results = log.clone();
    events.spawn(move |cx: &mut Cx<(u32, Result<u32, JobError>)>, event| {
        match event {
            Event::Start => {
                for job in 0..4 {
                    cx.blocking(move || job * 10, move |done| (job, done));
                }
                cx.blocking_on(JobPool::Files, || 7, |done| (7, done));
            }
            Event::Message((job, done)) => {
                results.note(format!("{job}@{}: {done:?}", cx.now().as_nanos() / 1_000_000))
            }
            _ => {}
        }
        receive()
    });
    // Two run, one waits for them, and the fourth finds the queue full.
    settle(&mut events);
    assert_eq!(log.take(), "3@0: Err(Full) 7@0: Ok(7)");
    pass(&mut events, millis(99));
    assert_eq!(log.take(), "");
    pass(&mut events, millis(1));
    assert_eq!(log.take(), "0@100: Ok(0) 1@100: Ok(10)");
    pass(&mut events, secs(1));
    assert_eq!(log.take(), "2@200: Ok(20)");
}

#[test]
fn probe_without_message_names_failed_actors() {
    let mut test = testing::TestLoop::new(1);
    let probe = testing::ProbeActor::<u32>::start(&mut test);
    test.spawn(|cx: &mut Cx<()>, event| match event {
        Event::Start => {
            cx.set_name("worker");
            receive_within(secs(1))
        }
        _ => fail("no work"),
    });
    assert_eq!(test.failures(), [""; 0]);
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| probe.expect(&mut test, secs(2))));
    let text = panic.unwrap_err().downcast::<String>().unwrap();
    assert!(text.contains("worker") && text.contains("failed: no work"), "{text}");
    assert_eq!(test.failures().len(), 1);
}
