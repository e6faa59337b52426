//! What an actor can wait for: receive, receive_within, receive_if, sleep, suspend.

use antiphon_sched::*;

use crate::common::*;

/// An actor that does what `answer` says to each event, and writes it down.
fn waiter(
    events: &mut Loop,
    log: &Log,
    mut answer: impl FnMut(&Event<u32>) -> Step<u32> + 'static,
) -> Addr<u32> {
    let log = log.clone();
    events.spawn(move |_, event| {
        tell(&log, &event);
        answer(&event)
    })
}

fn send_all(events: &mut Loop, to: Addr<u32>, messages: impl IntoIterator<Item = u32>) {
    for message in messages {
        events.send(to, message).unwrap();
    }
    settle(events);
}

#[test]
fn messages_sent_before_the_start_come_after_it() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = scribe(&mut events, &log);
    send_all(&mut events, actor, [1, 2, 3]);
    assert_eq!(log.take(), "start 1 2 3");
}

#[test]
fn receive_within_times_out_once_after_silence() {
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
    assert_eq!(log.take(), "1", "a timeout is told once");
    assert_eq!(events.stats().timers, 0);
}

#[test]
fn a_message_in_time_pushes_the_timeout_back_with_one_timer_for_all() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = waiter(&mut events, &log, |_| receive_within(millis(100)));
    for n in 0..1000 {
        send_all(&mut events, actor, [n]);
        pass(&mut events, millis(90));
        assert_eq!(events.stats().timers, 1);
    }
    assert!(!log.take().contains("timeout"));
    pass(&mut events, millis(12));
    assert_eq!(log.take(), "timeout");
}

#[test]
fn a_message_that_waits_comes_before_a_timeout_that_is_due() {
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
    assert_eq!(log.take(), "start 1", "whoever was heard in time is not timed out");
}

#[test]
fn a_shorter_wait_after_a_longer_one_ends_first() {
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
fn receive_if_keeps_the_order_of_what_it_refuses() {
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
fn a_predicate_is_asked_about_each_message_once_while_it_waits() {
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
fn events_pass_a_predicate_and_the_refused_messages_stay() {
    let mut events = virtual_loop();
    let log = Log::default();
    let victim = scribe::<u32>(&mut events, &Log::default());
    let seen = log.clone();
    let actor = events.spawn(move |cx, event: Event<u32>| {
        tell(&seen, &event);
        match event {
            Event::Start => {
                cx.monitor(victim);
                receive_if(|_| false)
            }
            Event::Down(_) => receive_if(|n| *n == 2),
            _ => receive(),
        }
    });
    send_all(&mut events, actor, [1, 2, 3]);
    assert_eq!(log.take(), "start");
    within(&mut events, move |cx| cx.terminate(victim));
    assert_eq!(log.take(), "down:terminated 2 1 3");
}

#[test]
fn a_repeated_timers_message_is_a_message_to_a_predicate() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    let actor = events.spawn(move |cx, event: Event<u32>| {
        tell(&seen, &event);
        match event {
            Event::Start => {
                cx.every(millis(10), || 7);
                receive_if(|n| *n == 1)
            }
            Event::Message(1) => stop(),
            _ => receive_if(|n| *n == 1),
        }
    });
    pass(&mut events, millis(100));
    assert_eq!(log.take(), "start", "7 is refused");
    send_all(&mut events, actor, [1]);
    assert_eq!(log.take(), "1");
    assert_eq!((events.stats().timers, events.stats().actors), (0, 0));
}

#[test]
fn a_refused_tick_keeps_its_place_and_is_not_doubled() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    let actor = events.spawn(move |cx, event: Event<u32>| {
        tell(&seen, &event);
        match event {
            Event::Start => {
                cx.every(millis(10), || 7);
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
    assert_eq!(log.take(), "7", "the timer goes on");
}

#[test]
fn a_cancelled_tick_that_still_waits_disturbs_no_waiting() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    let mut tick = None;
    let actor = events.spawn(move |cx, event: Event<u32>| {
        tell(&seen, &event);
        match event {
            Event::Start => {
                tick = Some(cx.every(millis(10), || 7));
                suspend()
            }
            Event::Resumed(_) => {
                assert!(cx.cancel(tick.take().unwrap()), "it runs");
                receive_if(|n| *n == 2)
            }
            Event::Message(2) => receive_within(millis(50)),
            _ => receive(),
        }
    });
    pass(&mut events, millis(15));
    within(&mut events, move |cx| cx.resume(actor, ()));
    send_all(&mut events, actor, [1]);
    assert_eq!(log.take(), "start resumed", "1 is refused: the dead tick did not end the waiting");
    send_all(&mut events, actor, [2]);
    assert_eq!(log.take(), "2 1");
}

#[test]
fn a_cancelled_tick_does_not_swallow_a_timeout() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    let mut tick = None;
    let actor = events.spawn(move |cx, event: Event<u32>| {
        tell(&seen, &event);
        match event {
            Event::Start => {
                tick = Some(cx.every(millis(10), || 7));
                suspend()
            }
            Event::Resumed(_) => {
                assert!(cx.cancel(tick.take().unwrap()), "it runs");
                receive_within(millis(50))
            }
            _ => receive(),
        }
    });
    pass(&mut events, millis(15));
    within(&mut events, move |cx| cx.resume(actor, ()));
    pass(&mut events, millis(60));
    assert_eq!(log.take(), "start resumed timeout");
}

#[test]
fn sleep_lets_messages_wait_and_then_times_out() {
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
fn sleep_for_no_time_still_lets_others_run_and_times_out() {
    let mut events = virtual_loop();
    let log = Log::default();
    waiter(&mut events, &log, |event| match event {
        Event::Start => sleep(millis(0)),
        _ => stop(),
    });
    pass(&mut events, millis(2));
    assert_eq!(log.take(), "start timeout");
}

#[test]
fn sleep_for_ever_is_a_sleep_and_not_an_overflow() {
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
fn a_resume_wakes_from_sleep_and_the_old_timeout_never_comes() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = waiter(&mut events, &log, |event| match event {
        Event::Start => sleep(millis(100)),
        _ => receive(),
    });
    send_all(&mut events, actor, [1]);
    within(&mut events, move |cx| cx.resume(actor, ()));
    assert_eq!(log.take(), "start resumed 1");
    pass(&mut events, secs(1));
    assert_eq!(log.take(), "");
    assert_eq!(events.stats().timers, 0);
}

#[test]
fn a_suspended_actor_wakes_by_resume_throw_and_terminate_only() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    let victim = scribe::<u32>(&mut events, &Log::default());
    let actor = events.spawn(move |cx, event: Event<u32>| {
        tell(&seen, &event);
        match event {
            Event::Start => {
                cx.monitor(victim);
                cx.after(millis(5), 50);
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
    within(&mut events, move |cx| cx.terminate(victim));
    pass(&mut events, secs(100));
    assert_eq!(log.take(), "start", "neither messages nor a Down nor time wake it");
    within(&mut events, move |cx| cx.resume(actor, ()));
    within(&mut events, move |cx| cx.throw(actor, ()));
    assert_eq!(log.take(), "resumed thrown");
    within(&mut events, move |cx| cx.terminate(actor));
    assert_eq!(log.take(), "terminate");
    assert_eq!(events.stats().actors, 0);
}

#[test]
fn what_waited_during_suspension_comes_in_order_afterwards() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = waiter(&mut events, &log, |event| match event {
        Event::Start => suspend(),
        _ => receive(),
    });
    send_all(&mut events, actor, 0..5);
    within(&mut events, move |cx| cx.resume(actor, ()));
    assert_eq!(log.take(), "start resumed 0 1 2 3 4");
}
