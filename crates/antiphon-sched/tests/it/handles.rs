//! Handles: a loop as other threads use it.

use std::sync::mpsc;
use std::thread;

use antiphon_sched::*;

use crate::common::*;

#[test]
fn handle_sends_of_threads_arrive_in_order() {
    const THREADS: u32 = 4;
    const EACH: u32 = 20_000;
    let mut events =
        Loop::new(LoopConfig { inbox_max: 100, watchdog: None, ..LoopConfig::default() }).unwrap();
    let log = Log::default();
    let seen = log.clone();
    let mut next = [0; THREADS as usize];
    let sink = events.spawn(move |_, event: Event<(u32, u32)>| {
        if let Event::Message((thread, n)) = event {
            let expected = &mut next[thread as usize];
            assert_eq!(n, *expected, "from thread {thread}");
            *expected += 1;
            if next == [EACH; THREADS as usize] {
                seen.note("all");
                return stop();
            }
        }
        receive()
    });
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let handle = events.handle();
            thread::spawn(move || {
                for n in 0..EACH {
                    let mut message = (thread, n);
                    loop {
                        match handle.send(sink, message) {
                            Ok(()) => break,
                            Err(SendError::Full(back)) => message = back,
                            Err(reason) => panic!("{reason}"),
                        }
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();
    events.run().unwrap();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(log.take(), "all");
}

#[test]
fn parked_loop_wakes_for_each_message() {
    let mut events = real_loop();
    let handle = events.handle();
    let (report, reports) = mpsc::channel();
    let sink = events.spawn(move |_, event: Event<u32>| match event {
        Event::Message(n) => {
            report.send(n)?;
            if n == 999 { stop() } else { receive() }
        }
        _ => receive(),
    });
    let thread = thread::spawn(move || {
        for n in 0..1000 {
            handle.send(sink, n).unwrap();
            // The loop sleeps again after each message.
            assert_eq!(reports.recv_timeout(secs(20)), Ok(n));
        }
    });
    events.run().unwrap();
    thread.join().unwrap();
}

#[test]
fn inbox_full_returns_message_and_refuses_request() {
    let mut events = Loop::new(LoopConfig { inbox_max: 2, ..virtual_config() }).unwrap();
    let log = Log::default();
    let sink = spawn_logger::<u32>(&mut events, &log);
    let handle = events.handle();
    handle.send(sink, 1).unwrap();
    handle.send(sink, 2).unwrap();
    assert!(matches!(handle.send(sink, 3), Err(SendError::Full(3))));
    let refused = thread::spawn({
        let handle = handle.clone();
        move || handle.ask(sink, secs(1), |_: ReplyTo<()>| 4)
    });
    assert_eq!(refused.join().unwrap(), Err(AskError::Full));
    settle(&mut events);
    assert_eq!(log.take(), "start 1 2");
    handle.send(sink, 5).unwrap();
    settle(&mut events);
    assert_eq!(log.take(), "5");
}

#[test]
fn jobs_over_limit_are_refused() {
    let mut events = Loop::new(LoopConfig { inbox_max: 2, ..virtual_config() }).unwrap();
    let sink = spawn_logger::<u32>(&mut events, &Log::default());
    let handle = events.handle();
    // The loop does not run: two jobs are queued, and stay so after their calls have timed out.
    let refused = thread::spawn(move || {
        let outcomes = [(); 3].map(|()| handle.join::<()>(sink, millis(1)).unwrap_err());
        let spawned = handle.spawn(|_: &mut Cx<()>, _| stop()).map(|_| ());
        (outcomes.map(|reason| matches!(reason, JoinError::Full)), spawned)
    });
    assert_eq!(refused.join().unwrap(), ([false, false, true], Err(AskError::Full)));
    settle(&mut events);
    assert_eq!(events.stats().extras, 0);
}

#[test]
fn handle_blocking_calls_on_loop_thread_are_refused() {
    let mut events = virtual_loop();
    let handle = events.handle();
    let sink = spawn_logger::<u32>(&mut events, &Log::default());
    let assert_refused = |handle: &Handle| {
        assert_eq!(handle.ask(sink, secs(1), |_: ReplyTo<()>| 4), Err(AskError::NoLoop));
        assert_eq!(handle.spawn(|_: &mut Cx<()>, _| stop()), Err(AskError::NoLoop));
        assert!(matches!(handle.join::<()>(sink, secs(1)), Err(JoinError::NoLoop)));
    };
    // Before the loop has run, and after.
    assert_refused(&handle);
    settle(&mut events);
    assert_refused(&handle);
    let (inner, log) = (handle.clone(), Log::default());
    let seen = log.clone();
    with_cx(&mut events, move |_| {
        assert_eq!(inner.ask(sink, secs(1), |_: ReplyTo<()>| 4), Err(AskError::NoLoop));
        seen.note("refused");
    });
    assert_eq!(log.take(), "refused");
}

#[test]
fn ask_from_thread_gets_each_outcome() {
    let mut events =
        Loop::new(LoopConfig { mailbox_max: 1, watchdog: None, ..LoopConfig::default() }).unwrap();
    let handle = events.handle();
    let echo = events.spawn(|cx, event: Event<Option<ReplyTo<u32>>>| match event {
        Event::Message(Some(reply)) => {
            cx.reply(reply, 6);
            receive()
        }
        Event::Message(None) => stop(),
        _ => receive(),
    });
    let dropper = events.spawn(|cx: &mut Cx<ReplyTo<u32>>, _| {
        cx.set_daemon(true);
        receive()
    });
    let full = events.spawn(|cx: &mut Cx<Option<ReplyTo<u32>>>, _| {
        cx.set_daemon(true);
        suspend()
    });
    let dead = events.spawn(|_: &mut Cx<ReplyTo<u32>>, _| stop());
    let thread = thread::spawn(move || {
        let answered = handle.ask(echo, secs(20), Some);
        let dropped = handle.ask(dropper, secs(20), |reply| reply);
        let timed_out = handle.ask(full, millis(20), Some);
        let refused = handle.ask(full, millis(200), Some);
        let gone = handle.ask(dead, secs(20), |reply| reply);
        handle.send(echo, None).unwrap();
        [answered, dropped, timed_out, refused, gone]
    });
    events.run().unwrap();
    assert_eq!(
        thread.join().unwrap(),
        [Ok(6), Err(AskError::Dropped), Err(AskError::TimedOut), Err(AskError::Full), Err(AskError::NoActor)]
    );
    // The thread's call and the loop's timer of the request time out at about the same time.
    while events.stats().requests > 0 {
        let soon = events.now() + millis(5);
        events.run_once(Some(soon)).unwrap();
    }
}

#[test]
fn loop_dropped_ends_waiting_calls() {
    let mut events = virtual_loop();
    let handle = events.handle();
    let sink = events.spawn(|_: &mut Cx<ReplyTo<u32>>, _| suspend());
    settle(&mut events);
    let (report, begun) = mpsc::channel();
    // The end of the loop's tables ends the calls that the loop has taken; the end of the inbox ends the others.
    for taken in [true, false] {
        let threads = {
            let (asks, joins, spawns) = (handle.clone(), handle.clone(), handle.clone());
            let (one, two, three) = (report.clone(), report.clone(), report.clone());
            [
                thread::spawn(move || {
                    one.send(()).unwrap();
                    asks.ask(sink, secs(60), |reply| reply).unwrap_err().to_string()
                }),
                thread::spawn(move || {
                    two.send(()).unwrap();
                    joins.join::<()>(sink, secs(60)).unwrap_err().to_string()
                }),
                thread::spawn(move || {
                    three.send(()).unwrap();
                    spawns
                        .spawn(|_: &mut Cx<()>, _| stop())
                        .map_or_else(|reason| reason.to_string(), |_| "spawned".into())
                }),
            ]
        };
        for _ in 0..3 {
            begun.recv_timeout(secs(20)).unwrap();
        }
        if taken {
            // The loop has taken two requests, which wait, and has spawned the actor.
            while !(events.stats().requests == 1 && events.stats().extras == 1 && threads[2].is_finished()) {
                events.work();
                thread::yield_now();
            }
            events = {
                drop(events);
                virtual_loop()
            };
        }
        let results = threads.map(|thread| thread.join().unwrap());
        let no_loop = AskError::NoLoop.to_string();
        assert_eq!(results[0], no_loop);
        assert_eq!(results[1], JoinError::NoLoop.to_string());
        assert_eq!(results[2], if taken { "spawned".into() } else { no_loop });
    }
    assert!(matches!(handle.send(sink_of(&mut events), 1), Err(SendError::NoNode(1))));
}

fn sink_of(events: &mut Loop) -> Addr<u32> {
    events.spawn(|_: &mut Cx<u32>, _| receive())
}

#[test]
fn loop_dropped_ends_calls_in_inbox() {
    let events = virtual_loop();
    let handle = events.handle();
    let waiting = thread::spawn(move || handle.spawn(|_: &mut Cx<()>, _| stop()));
    while !events.is_runnable() {
        thread::yield_now();
    }
    drop(events);
    assert_eq!(waiting.join().unwrap(), Err(AskError::NoLoop));
}

#[test]
fn loop_dropped_during_calls_ends_them() {
    for round in 0..300 {
        let mut events = virtual_loop();
        let callers: Vec<_> = (0..2)
            .map(|_| {
                let handle = events.handle();
                thread::spawn(move || while handle.spawn(|_: &mut Cx<()>, _| stop()).is_ok() {})
            })
            .collect();
        for _ in 0..round % 7 {
            events.work();
            thread::yield_now();
        }
        drop(events);
        callers.into_iter().for_each(|caller| caller.join().unwrap());
    }
}

#[test]
fn join_timed_out_leaves_no_monitor() {
    // With a loop that runs meanwhile, and with one that takes the request only after it has timed out.
    for runs_meanwhile in [true, false] {
        let mut events = virtual_loop();
        let handle = events.handle();
        let sink = sink_of(&mut events);
        settle(&mut events);
        let join_handle = thread::spawn(move || {
            for _ in 0..20 {
                let reason = handle.join::<()>(sink, millis(2)).unwrap_err();
                assert!(matches!(reason, JoinError::TimedOut), "{reason}");
            }
        });
        while !join_handle.is_finished() {
            if runs_meanwhile {
                events.work();
            }
            thread::yield_now();
        }
        join_handle.join().unwrap();
        settle(&mut events);
        assert_eq!(events.stats().extras, 0, "runs meanwhile: {runs_meanwhile}");
    }
}

#[test]
fn join_after_exit_gets_exit_value() {
    let mut sched = Loop::new(LoopConfig::default()).expect("a loop");
    let early = sched.spawn(|_: &mut Cx<()>, _| stop());
    let failing = sched.spawn(|_: &mut Cx<()>, _| fail("on purpose"));
    let (early, failing) = (sched.join_handle::<()>(early), sched.join_handle::<()>(failing));
    let endless = sched.spawn(|cx: &mut Cx<()>, _| {
        cx.set_daemon(true);
        receive()
    });
    let endless = sched.join_handle::<()>(endless);
    sched.run().expect("the loop runs");
    drop(sched);
    early.join(secs(0)).expect("it has ended");
    let reason = failing.join(secs(0)).expect_err("it failed").to_string();
    assert!(reason.contains("on purpose"), "{reason}");
    assert!(matches!(endless.join(secs(5)), Err(JoinError::NoLoop)));
}
