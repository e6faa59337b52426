//! The ways in which an actor waits: `receive`, `receive_within`, `receive_if`, `sleep`, `suspend`.

use antiphon_sched::*;

use crate::common::*;

/// Starts an actor that logs each event and returns the step that `next` returns for it.
fn waiter(
    events: &mut Loop,
    log: &Log,
    mut next: impl FnMut(&Event<u32>) -> Step<u32> + 'static,
) -> Addr<u32> {
    let log = log.clone();
    events.spawn(move |_, event| {
        note_event(&log, &event);
        next(&event)
    })
}

fn send_all(events: &mut Loop, to: Addr<u32>, messages: impl IntoIterator<Item = u32>) {
    for message in messages {
        events.send(to, message).unwrap();
    }
    settle(events);
}

#[test]
fn messages_sent_before_start_follow_it() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = spawn_logger(&mut events, &log);
    send_all(&mut events, actor, [1, 2, 3]);
    assert_eq!(log.take(), "start 1 2 3");
}

#[test]
fn receive_within_idle_times_out_once() {
    let mut events = virtual_loop();
    let log = Log::default();
    let mut first = true;
    let actor = waiter(&mut events, &log, move |_| {
        if std::mem::take(&mut first) { receive_within(millis(100)) } else { receive() }
    });
    pass(&mut events, millis(99));
    assert_eq!(log.take(), "start");
    pass(&mut events, millis(3));
    assert_eq!(log.take(), "timeout");
    pass(&mut events, secs(10));
    send_all(&mut events, actor, [1]);
    assert_eq!(log.take(), "1", "the timeout fires once");
    assert_eq!(events.stats().timers, 0);
}

#[test]
fn messages_before_timeout_postpone_one_timer() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = waiter(&mut events, &log, |_| receive_within(millis(100)));
    for n in 0..1000 {
        send_all(&mut events, actor, [n]);
        pass(&mut events, millis(90));
        assert_eq!(events.stats().timers, 1);
    }
    let entries = log.take();
    assert!(!entries.contains("timeout"));
    assert_eq!(entries.split(' ').count(), 1001, "the start and 1000 messages");
    pass(&mut events, millis(12));
    assert_eq!(log.take(), "timeout");
}

#[test]
fn waiting_message_precedes_due_timeout() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = waiter(&mut events, &log, |event| match event {
        Event::Start => receive_within(millis(10)),
        _ => receive(),
    });
    settle(&mut events);
    let late = events.now() + secs(1);
    events.advance_to(late);
    send_all(&mut events, actor, [1]);
    pass(&mut events, secs(1));
    assert_eq!(log.take(), "start 1", "a message that arrived before the timeout fires cancels it");
}

#[test]
fn shorter_timeout_replaces_longer_one() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = waiter(&mut events, &log, |event| match event {
        Event::Start => receive_within(secs(100)),
        Event::Message(_) => receive_within(millis(10)),
        _ => stop(),
    });
    send_all(&mut events, actor, [1]);
    pass(&mut events, millis(12));
    assert_eq!(log.take(), "start 1 timeout");
    assert_eq!((events.stats().timers, events.stats().actors), (0, 0));
}

#[test]
fn receive_if_keeps_order_of_refused_messages() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = waiter(&mut events, &log, |event| match event {
        Event::Start => receive_if(|n| *n >= 10),
        Event::Message(10) => receive_if(|n| *n == 20),
        _ => receive(),
    });
    send_all(&mut events, actor, [1, 2]);
    assert_eq!(log.take(), "start");
    send_all(&mut events, actor, [3, 10, 4, 11, 5]);
    assert_eq!(log.take(), "10");
    send_all(&mut events, actor, [6]);
    assert_eq!(log.take(), "");
    send_all(&mut events, actor, [20, 7]);
    assert_eq!(log.take(), "20 1 2 3 4 11 5 6 7");
}

#[test]
fn predicate_tests_each_waiting_message_once() {
    let mut events = virtual_loop();
    let log = Log::default();
    let asked = log.clone();
    let actor = events.spawn(move |_, event| {
        let asked = asked.clone();
        match event {
            Event::Start => receive_if(move |n: &u32| {
                asked.note(n);
                *n == 9
            }),
            _ => receive(),
        }
    });
    for n in [1, 2, 3, 9] {
        send_all(&mut events, actor, [n]);
    }
    assert_eq!(log.take(), "1 2 3 9");
}

#[test]
fn events_bypass_predicate_and_refused_messages_stay() {
    let mut events = virtual_loop();
    let log = Log::default();
    let monitored = spawn_logger::<u32>(&mut events, &Log::default());
    let seen = log.clone();
    let actor = events.spawn(move |cx, event: Event<u32>| {
        note_event(&seen, &event);
        match event {
            Event::Start => {
                cx.monitor(monitored);
                receive_if(|_| false)
            }
            Event::Down(_) => receive_if(|n| *n == 2),
            _ => receive(),
        }
    });
    send_all(&mut events, actor, [1, 2, 3]);
    assert_eq!(log.take(), "start");
    with_cx(&mut events, move |cx| cx.terminate(monitored));
    assert_eq!(log.take(), "down:terminated 2 1 3");
}

#[test]
fn predicate_tests_messages_of_repeated_timer() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    let actor = events.spawn(move |cx, event: Event<u32>| {
        note_event(&seen, &event);
        match event {
            Event::Start => {
                cx.every(millis(10), || 7).unwrap();
                receive_if(|n| *n == 1)
            }
            Event::Message(1) => stop(),
            _ => receive_if(|n| *n == 1),
        }
    });
    pass(&mut events, millis(100));
    assert_eq!(log.take(), "start", "the predicate refuses 7");
    send_all(&mut events, actor, [1]);
    assert_eq!(log.take(), "1");
    assert_eq!((events.stats().timers, events.stats().actors), (0, 0));
}

#[test]
fn refused_tick_keeps_its_place_without_duplicates() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    let actor = events.spawn(move |cx, event: Event<u32>| {
        note_event(&seen, &event);
        match event {
            Event::Start => {
                cx.every(millis(10), || 7).unwrap();
                receive_if(|n| *n == 1)
            }
            _ => receive(),
        }
    });
    send_all(&mut events, actor, [5]);
    pass(&mut events, millis(55));
    send_all(&mut events, actor, [6, 1]);
    assert_eq!(log.take(), "start 1 5 7 6");
    pass(&mut events, millis(11));
    assert_eq!(log.take(), "7", "the timer still runs");
}

#[test]
fn cancelled_waiting_tick_leaves_predicate_in_place() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    let mut tick = None;
    let actor = events.spawn(move |cx, event: Event<u32>| {
        note_event(&seen, &event);
        match event {
            Event::Start => {
                tick = Some(cx.every(millis(10), || 7).unwrap());
                suspend()
            }
            Event::Resumed(_) => {
                assert!(cx.cancel(tick.take().unwrap()), "the timer is active");
                receive_if(|n| *n == 2)
            }
            Event::Message(2) => receive_within(millis(50)),
            _ => receive(),
        }
    });
    pass(&mut events, millis(15));
    with_cx(&mut events, move |cx| cx.resume(actor, ()));
    send_all(&mut events, actor, [1]);
    assert_eq!(
        log.take(),
        "start resumed",
        "the predicate refuses 1: the cancelled tick did not remove the predicate"
    );
    send_all(&mut events, actor, [2]);
    assert_eq!(log.take(), "2 1");
}

#[test]
fn cancelled_waiting_tick_leaves_timeout_in_place() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    let mut tick = None;
    let actor = events.spawn(move |cx, event: Event<u32>| {
        note_event(&seen, &event);
        match event {
            Event::Start => {
                tick = Some(cx.every(millis(10), || 7).unwrap());
                suspend()
            }
            Event::Resumed(_) => {
                assert!(cx.cancel(tick.take().unwrap()), "the timer is active");
                receive_within(millis(50))
            }
            _ => receive(),
        }
    });
    pass(&mut events, millis(15));
    with_cx(&mut events, move |cx| cx.resume(actor, ()));
    pass(&mut events, millis(60));
    assert_eq!(log.take(), "start resumed timeout");
}

#[test]
fn sleep_times_out_before_waiting_messages() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = waiter(&mut events, &log, |event| match event {
        Event::Start => sleep(millis(100)),
        _ => receive(),
    });
    send_all(&mut events, actor, [1, 2]);
    pass(&mut events, millis(90));
    assert_eq!(log.take(), "start");
    pass(&mut events, millis(12));
    assert_eq!(log.take(), "timeout 1 2");
}

#[test]
fn sleep_of_zero_times_out() {
    let mut events = virtual_loop();
    let log = Log::default();
    waiter(&mut events, &log, |event| match event {
        Event::Start => sleep(millis(0)),
        _ => stop(),
    });
    pass(&mut events, millis(2));
    assert_eq!(log.take(), "start timeout");
}

/// Messages wait, others run, and no timer is needed.
#[test]
fn sleep_of_zero_lets_others_run_first() {
    let mut events = virtual_loop();
    let log = Log::default();
    let mut parts = 0;
    let worker = waiter(&mut events, &log, move |event| match event {
        Event::Message(1) | Event::Timeout if parts < 3 => {
            parts += 1;
            sleep(millis(0))
        }
        _ => receive(),
    });
    settle(&mut events);
    log.take();
    let other = waiter(&mut events, &log, |_| receive());
    settle(&mut events);
    log.take();
    events.send(worker, 1).unwrap();
    events.send(worker, 2).unwrap();
    events.send(other, 7).unwrap();
    settle(&mut events);
    assert_eq!(log.take(), "1 7 timeout timeout timeout 2");
    assert_eq!(events.stats().timers, 0);
}

/// An actor sleeps for zero while a timer of an earlier wait is running.
#[test]
fn sleep_of_zero_replaces_timed_wait() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = waiter(&mut events, &log, |event| match event {
        Event::Start => receive_within(millis(10)),
        Event::Message(_) => sleep(millis(0)),
        _ => receive(),
    });
    send_all(&mut events, actor, [1]);
    assert_eq!(log.take(), "start 1 timeout");
    pass(&mut events, secs(1));
    assert_eq!(log.take(), "");
    assert_eq!(events.stats().timers, 0);
}

#[test]
fn sleep_of_maximum_does_not_overflow() {
    let mut events = virtual_loop();
    let log = Log::default();
    waiter(&mut events, &log, |event| match event {
        Event::Start => sleep(std::time::Duration::MAX),
        _ => receive(),
    });
    pass(&mut events, secs(1 << 30));
    assert_eq!(log.take(), "start");
}

#[test]
fn resume_ends_sleep_and_cancels_timeout() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = waiter(&mut events, &log, |event| match event {
        Event::Start => sleep(millis(100)),
        _ => receive(),
    });
    send_all(&mut events, actor, [1]);
    with_cx(&mut events, move |cx| cx.resume(actor, ()));
    assert_eq!(log.take(), "start resumed 1");
    pass(&mut events, secs(1));
    assert_eq!(log.take(), "");
    assert_eq!(events.stats().timers, 0);
}

#[test]
fn suspended_actor_handles_only_resume_throw_terminate() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    let monitored = spawn_logger::<u32>(&mut events, &Log::default());
    let actor = events.spawn(move |cx, event: Event<u32>| {
        note_event(&seen, &event);
        match event {
            Event::Start => {
                cx.monitor(monitored);
                cx.after(millis(5), 50).unwrap();
                suspend()
            }
            Event::Thrown(thrown) => {
                thrown.take();
                suspend()
            }
            _ => suspend(),
        }
    });
    send_all(&mut events, actor, [1, 2]);
    with_cx(&mut events, move |cx| cx.terminate(monitored));
    pass(&mut events, secs(100));
    assert_eq!(log.take(), "start", "neither messages nor a `Down` nor a timer runs a suspended actor");
    with_cx(&mut events, move |cx| cx.resume(actor, ()));
    with_cx(&mut events, move |cx| cx.throw(actor, ()));
    assert_eq!(log.take(), "resumed thrown");
    with_cx(&mut events, move |cx| cx.terminate(actor));
    assert_eq!(log.take(), "terminate");
    assert_eq!(events.stats().actors, 0);
}

#[test]
fn messages_during_suspension_follow_in_order() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = waiter(&mut events, &log, |event| match event {
        Event::Start => suspend(),
        _ => receive(),
    });
    send_all(&mut events, actor, 0..5);
    with_cx(&mut events, move |cx| cx.resume(actor, ()));
    assert_eq!(log.take(), "start resumed 0 1 2 3 4");
}

#[test]
fn receive_again_goes_on_behind_admitted_message() {
    let mut events = virtual_loop();
    let log = Log::default();
    let asked = log.clone();
    let seen = log.clone();
    let actor = events.spawn(move |_, event: Event<u32>| {
        let asked = asked.clone();
        match event {
            Event::Start => receive_if(move |n: &u32| {
                asked.note(format!("?{n}"));
                n.is_multiple_of(2)
            }),
            Event::Message(n) => {
                seen.note(n);
                if n == 6 { receive() } else { receive_again() }
            }
            _ => receive(),
        }
    });
    send_all(&mut events, actor, [1, 2, 3, 4]);
    assert_eq!(log.take(), "?1 ?2 2 ?3 ?4 4");
    send_all(&mut events, actor, [5, 6, 7]);
    assert_eq!(log.take(), "?5 ?6 6 1 3 5 7", "the refused ones keep their order");
}

#[test]
fn receive_again_after_event_goes_on() {
    let mut events = virtual_loop();
    let log = Log::default();
    let monitored = spawn_logger::<u32>(&mut events, &Log::default());
    let seen = log.clone();
    let actor = events.spawn(move |cx, event: Event<u32>| {
        note_event(&seen, &event);
        match event {
            Event::Start => {
                cx.monitor(monitored);
                receive_if(|n| *n == 9)
            }
            Event::Message(_) => receive(),
            _ => receive_again(),
        }
    });
    send_all(&mut events, actor, [1, 2]);
    with_cx(&mut events, move |cx| cx.terminate(monitored));
    send_all(&mut events, actor, [3, 9]);
    assert_eq!(log.take(), "start down:terminated 9 1 2 3");
}

#[test]
fn receive_again_without_scan_receives() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = waiter(&mut events, &log, |_| receive_again());
    send_all(&mut events, actor, [1, 2]);
    assert_eq!(log.take(), "start 1 2");
}

#[test]
fn receive_again_tests_each_message_once() {
    let mut events = Loop::new(LoopConfig { mailbox_max: 500_000, ..virtual_config() }).unwrap();
    let tests = std::rc::Rc::new(std::cell::Cell::new(0_u32));
    let received = std::rc::Rc::new(std::cell::Cell::new(0_u32));
    let (count, seen) = (tests.clone(), received.clone());
    let actor = events.spawn(move |_, event: Event<u32>| match event {
        Event::Start => {
            let count = count.clone();
            receive_if(move |n: &u32| {
                count.set(count.get() + 1);
                *n >= 200_000
            })
        }
        Event::Message(_) => {
            seen.set(seen.get() + 1);
            receive_again()
        }
        _ => receive(),
    });
    send_all(&mut events, actor, 0..400_000);
    assert_eq!((received.get(), tests.get()), (200_000, 400_000));
}

#[test]
fn receive_if_within_times_out_and_keeps_messages() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = waiter(&mut events, &log, |event| match event {
        Event::Start => receive_if_within(millis(100), |n| *n == 9),
        _ => receive(),
    });
    pass(&mut events, millis(90));
    send_all(&mut events, actor, [1, 2]);
    assert_eq!(log.take(), "start");
    pass(&mut events, millis(20));
    assert_eq!(log.take(), "timeout 1 2");
    assert_eq!(events.stats().timers, 0);
}

#[test]
fn receive_again_keeps_deadline_until_timeout() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = waiter(&mut events, &log, |event| match event {
        Event::Start => receive_if_within(millis(100), |n| *n > 9),
        _ => receive_again(),
    });
    for n in [10, 11] {
        pass(&mut events, millis(40));
        send_all(&mut events, actor, [1, n]);
    }
    assert_eq!(log.take(), "start 10 11");
    pass(&mut events, millis(40));
    assert_eq!(log.take(), "timeout");
    pass(&mut events, secs(10));
    send_all(&mut events, actor, [2, 12]);
    assert_eq!(log.take(), "12", "after the timeout it has no deadline");
}

#[test]
fn sleep_after_scan_keeps_order_of_messages() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = waiter(&mut events, &log, |event| match event {
        Event::Start => receive_if(|n| *n == 9),
        Event::Message(9) => sleep(millis(10)),
        _ => receive(),
    });
    send_all(&mut events, actor, [1, 2, 9, 3]);
    assert_eq!(log.take(), "start 9");
    pass(&mut events, millis(20));
    assert_eq!(log.take(), "timeout 1 2 3");
}
