//! Blocking jobs on helper threads, and inline on a virtual loop.

use std::sync::mpsc;
use std::thread;

use antiphon_sched::*;

use crate::common::*;

#[test]
fn a_job_runs_elsewhere_and_answers_with_its_result() {
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
fn a_panic_in_a_job_is_its_result_and_the_helper_lives() {
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
fn a_full_queue_refuses_the_job_with_an_answer() {
    let config = LoopConfig {
        blocking_threads_max: 1,
        blocking_queue_max: 1,
        watchdog: None,
        ..LoopConfig::default()
    };
    let mut events = Loop::new(config).unwrap();
    let log = Log::default();
    let seen = log.clone();
    let (free, held) = mpsc::channel::<()>();
    let (told, begun) = mpsc::channel();
    let mut held = Some(held);
    let mut left = 3;
    events.spawn(move |cx, event: Event<Result<u32, JobError>>| match event {
        Event::Start => {
            let (held, told) = (held.take().unwrap(), told.clone());
            cx.blocking(
                move || {
                    told.send(()).unwrap();
                    held.recv().unwrap();
                    1
                },
                |result| result,
            );
            // The helper has taken the first; the queue has room for one more.
            begun.recv().unwrap();
            cx.blocking(|| 2, |result| result);
            cx.blocking(|| 3, |result| result);
            receive()
        }
        Event::Message(result) => {
            seen.note(format!("{result:?}"));
            left -= 1;
            if left == 2 {
                free.send(())?;
            }
            if left == 0 { stop() } else { receive() }
        }
        _ => receive(),
    });
    events.run().unwrap();
    assert_eq!(log.take(), "Err(Full) Ok(1) Ok(2)");
}

#[test]
fn a_virtual_loop_runs_jobs_inline_and_in_order() {
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
fn the_result_for_an_actor_that_has_ended_is_dropped() {
    let mut events = virtual_loop();
    let log = Log::default();
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = sent.clone();
    events.spawn(move |cx: &mut Cx<()>, _| {
        let flag = flag.clone();
        cx.blocking(move || OnDrop(move || flag.store(true, std::sync::atomic::Ordering::SeqCst)), |_| ());
        stop()
    });
    settle(&mut events);
    assert!(sent.load(std::sync::atomic::Ordering::SeqCst));
    assert_eq!((events.stats().requests, log.take()), (0, String::new()));
}
