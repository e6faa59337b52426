//! Blocking jobs: on threads of the blocking pool, and inline on a virtual loop.

use std::sync::mpsc;
use std::thread;

use antiphon_sched::*;

use crate::common::*;

#[test]
fn job_runs_on_pool_and_returns_result() {
    let mut events = real_loop();
    let log = Log::default();
    let seen = log.clone();
    let own = thread::current().id();
    events.spawn(move |cx, event| match event {
        Event::Start => {
            cx.blocking(move || (6 * 7, thread::current().id() != own), |result| result);
            receive()
        }
        Event::Message(result) => {
            seen.note(format!("{result:?}"));
            stop()
        }
        _ => receive(),
    });
    events.run().unwrap();
    assert_eq!(log.take(), "Ok((42, true))");
}

#[test]
fn job_panic_is_result_and_thread_survives() {
    let mut events =
        Loop::new(LoopConfig { blocking_threads_max: 1, watchdog: None, ..LoopConfig::default() }).unwrap();
    let log = Log::default();
    let seen = log.clone();
    let mut left = 2;
    events.spawn(move |cx, event: Event<Result<u32, JobError>>| match event {
        Event::Start => {
            cx.blocking(|| panic!("no disk"), |result| result);
            cx.blocking(|| 5, |result| result);
            receive()
        }
        Event::Message(result) => {
            seen.note(format!("{result:?}"));
            left -= 1;
            if left == 0 { stop() } else { receive() }
        }
        _ => receive(),
    });
    events.run().unwrap();
    assert_eq!(log.take(), r#"Err(Panicked("no disk")) Ok(5)"#);
}

#[test]
fn job_queue_full_refuses_job() {
    let config = LoopConfig {
        blocking_threads_max: 1,
        blocking_queue_max: 1,
        watchdog: None,
        ..LoopConfig::default()
    };
    let mut events = Loop::new(config).unwrap();
    let log = Log::default();
    let seen = log.clone();
    let (release, released) = mpsc::channel::<()>();
    let (start, started) = mpsc::channel();
    let mut released = Some(released);
    let mut left = 3;
    events.spawn(move |cx, event: Event<Result<u32, JobError>>| match event {
        Event::Start => {
            let (released, start) = (released.take().unwrap(), start.clone());
            cx.blocking(
                move || {
                    start.send(()).unwrap();
                    released.recv().unwrap();
                    1
                },
                |result| result,
            );
            // The thread has taken the first job; the queue has room for one more.
            started.recv().unwrap();
            cx.blocking(|| 2, |result| result);
            cx.blocking(|| 3, |result| result);
            receive()
        }
        Event::Message(result) => {
            seen.note(format!("{result:?}"));
            left -= 1;
            if left == 2 {
                release.send(())?;
            }
            if left == 0 { stop() } else { receive() }
        }
        _ => receive(),
    });
    events.run().unwrap();
    assert_eq!(log.take(), "Err(Full) Ok(1) Ok(2)");
}

#[test]
fn virtual_loop_runs_jobs_inline_in_order() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    let own = thread::current().id();
    events.spawn(move |cx, event: Event<Result<String, JobError>>| {
        match event {
            Event::Start => {
                for n in 0..3 {
                    cx.blocking(move || format!("{n}{}", thread::current().id() == own), |result| result);
                }
                cx.blocking(|| panic!("inline"), |result| result);
            }
            Event::Message(result) => seen.note(result.unwrap_or_else(|reason| reason.to_string())),
            _ => {}
        }
        receive()
    });
    settle(&mut events);
    assert_eq!(log.take(), "0true 1true 2true the job panicked: inline");
    assert_eq!(events.stats().requests, 0);
}

#[test]
fn job_result_for_ended_actor_is_dropped() {
    let mut events = virtual_loop();
    let dropped = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = dropped.clone();
    events.spawn(move |cx: &mut Cx<()>, _| {
        let flag = flag.clone();
        cx.blocking(move || OnDrop(move || flag.store(true, std::sync::atomic::Ordering::SeqCst)), |_| ());
        stop()
    });
    settle(&mut events);
    assert!(dropped.load(std::sync::atomic::Ordering::SeqCst));
    assert_eq!(events.stats().requests, 0);
}

/// Jobs that wait for each other need a thread each.
#[test]
fn pool_grows_to_number_of_waiting_jobs() {
    const JOBS: usize = 20;
    let mut events = real_loop();
    let barrier = std::sync::Arc::new(std::sync::Barrier::new(JOBS));
    let mut left = JOBS;
    events.spawn(move |cx: &mut Cx<Result<bool, JobError>>, event| match event {
        Event::Start => {
            for _ in 0..JOBS {
                let barrier = barrier.clone();
                cx.blocking(move || barrier.wait().is_leader(), |done| done);
            }
            receive()
        }
        Event::Message(done) => {
            done?;
            left -= 1;
            if left == 0 { stop() } else { receive() }
        }
        _ => receive(),
    });
    events.run().unwrap();
    assert!(events.stats().threads >= JOBS);
    // Idle threads take later jobs.
    events.spawn(|cx: &mut Cx<Result<(), JobError>>, event| match event {
        Event::Start => {
            cx.blocking(|| (), |done| done);
            receive()
        }
        _ => stop(),
    });
    events.run().unwrap();
    assert_eq!(events.stats().threads, JOBS);
}
