//! Timers send messages to their own actor, once or repeatedly. They can be cancelled and pushed back. They end
//! with their actor.

use std::cell::Cell;
use std::rc::Rc;

use antiphon_sched::*;

use crate::common::*;

/// A message that calls a closure when it is dropped.
type DropMessage = OnDrop<Box<dyn FnMut()>>;

/// Starts an actor that calls `begin` at its start, and logs each message and passes it to `each`.
fn timed(
    events: &mut Loop,
    log: &Log,
    begin: impl FnOnce(&mut Cx<'_, u32>) + 'static,
    mut each: impl FnMut(&mut Cx<'_, u32>, u32) + 'static,
) -> Addr<u32> {
    let (log, mut begin) = (log.clone(), Some(begin));
    let actor = events.spawn(move |cx, event: Event<u32>| {
        match event {
            Event::Start => begin.take().unwrap()(cx),
            Event::Message(n) => {
                log.note(n);
                each(cx, n);
            }
            _ => {}
        }
        receive()
    });
    settle(events);
    actor
}

#[test]
fn timers_fire_by_deadline_then_creation_order() {
    let mut events = virtual_loop();
    let log = Log::default();
    timed(
        &mut events,
        &log,
        |cx| {
            for (span, n) in [(500, 5), (20, 2), (500, 6), (10, 1), (100_000, 7), (20, 3)] {
                cx.after(millis(span), n).unwrap();
            }
        },
        |_, _| {},
    );
    pass(&mut events, millis(30));
    assert_eq!(log.take(), "1 2 3");
    pass(&mut events, secs(101));
    assert_eq!(log.take(), "5 6 7");
    assert_eq!(events.stats().timers, 0);
}

#[test]
fn timer_fires_within_two_milliseconds_of_deadline() {
    let mut events = virtual_loop();
    let fired = Rc::new(Cell::new(Time::ZERO));
    let place = fired.clone();
    let spans = [0, 1, 3, 255, 256, 257, 4_000, 65_535, 65_537, 20_000_000];
    let mut now = events.now();
    for span in spans {
        let place = place.clone();
        timed(
            &mut events,
            &Log::default(),
            move |cx| _ = cx.after(millis(span), 0).unwrap(),
            move |cx, _| place.set(cx.now()),
        );
        pass(&mut events, millis(span + 3));
        let took = fired.get().since(now);
        assert!(took >= millis(span) && took < millis(span + 2), "{span} ms took {took:?}");
        now = events.now();
    }
}

#[test]
fn cancelled_timer_is_freed_with_its_message() {
    let mut events = virtual_loop();
    let log = Log::default();
    let (results, messages) = (log.clone(), log.clone());
    events.spawn(move |cx, event: Event<Option<DropMessage>>| {
        match event {
            Event::Start => {
                let drops = results.clone();
                let timer =
                    cx.after(millis(10), Some(OnDrop(Box::new(move || drops.note("dropped")) as _))).unwrap();
                results.note(cx.cancel(timer));
                results.note(cx.cancel(timer));
                results.note(cx.reset_timer(timer, secs(1)));
            }
            Event::Message(_) => messages.note("fired"),
            _ => {}
        }
        receive()
    });
    pass(&mut events, secs(1));
    assert_eq!(log.take(), "dropped true false false");
    assert_eq!(events.stats().timers, 0);
}

#[test]
fn fired_timer_cannot_be_cancelled_or_pushed_back() {
    let mut events = virtual_loop();
    let log = Log::default();
    let (timer, seen) = (Rc::new(Cell::new(None)), log.clone());
    let place = timer.clone();
    timed(
        &mut events,
        &log,
        move |cx| place.set(Some(cx.after(millis(1), 1).unwrap())),
        move |cx, _| {
            let timer = timer.get().unwrap();
            seen.note(format!("{} {}", cx.cancel(timer), cx.reset_timer(timer, secs(1))));
        },
    );
    pass(&mut events, millis(5));
    assert_eq!(log.take(), "1 false false");
}

#[test]
fn timer_pushed_back_fires_at_new_deadline() {
    let mut events = virtual_loop();
    let log = Log::default();
    timed(
        &mut events,
        &log,
        |cx| {
            let early = cx.after(millis(10), 1).unwrap();
            let late = cx.after(secs(1000), 2).unwrap();
            assert!(cx.reset_timer(early, millis(100)), "the timer is active");
            assert!(cx.reset_timer(late, millis(20)), "the timer is active");
        },
        |_, _| {},
    );
    pass(&mut events, millis(90));
    assert_eq!(log.take(), "2");
    pass(&mut events, millis(12));
    assert_eq!(log.take(), "1");
}

#[test]
fn repeated_timer_fires_until_cancelled() {
    let mut events = virtual_loop();
    let log = Log::default();
    let timer = Rc::new(Cell::new(None));
    let (place, seen) = (timer.clone(), log.clone());
    timed(
        &mut events,
        &log,
        move |cx| {
            let mut n = 0;
            place.set(Some(
                cx.every(millis(10), move || {
                    n += 1;
                    n
                })
                .unwrap(),
            ));
        },
        move |cx, n| {
            if n == 3 {
                seen.note(cx.cancel(timer.get().unwrap()));
            }
        },
    );
    pass(&mut events, millis(100));
    assert_eq!(log.take(), "1 2 3 true");
    assert_eq!(events.stats().timers, 0);
}

#[test]
fn repeated_timer_can_be_pushed_back_after_tick() {
    let mut events = virtual_loop();
    let log = Log::default();
    let timer = Rc::new(Cell::new(None));
    let (place, seen) = (timer.clone(), log.clone());
    timed(
        &mut events,
        &log,
        move |cx| place.set(Some(cx.every(millis(10), || 7).unwrap())),
        move |cx, _| seen.note(cx.reset_timer(timer.get().unwrap(), millis(50))),
    );
    pass(&mut events, millis(12));
    assert_eq!(log.take(), "7 true");
    pass(&mut events, millis(45));
    assert_eq!(log.take(), "");
    pass(&mut events, millis(10));
    assert_eq!(log.take(), "7 true");
}

#[test]
fn waiting_ticks_are_not_duplicated() {
    let mut events = virtual_loop();
    let log = Log::default();
    let made = Rc::new(Cell::new(0));
    let count = made.clone();
    let actor = events.spawn({
        let log = log.clone();
        move |cx, event: Event<u32>| {
            note_event(&log, &event);
            let count = count.clone();
            match event {
                Event::Start => {
                    cx.every(millis(10), move || {
                        count.set(count.get() + 1);
                        count.get()
                    })
                    .unwrap();
                    sleep(millis(105))
                }
                _ => receive(),
            }
        }
    });
    pass(&mut events, millis(106));
    assert_eq!(log.take(), "start timeout 1");
    assert_eq!(made.get(), 1, "the message is made when the actor receives it, not when the timer is due");
    with_cx(&mut events, move |cx| cx.terminate(actor));
    assert_eq!(events.stats().timers, 0);
}

#[test]
fn tick_of_cancelled_timer_is_not_its_successors() {
    let mut events = virtual_loop();
    let log = Log::default();
    let mut timer = None;
    let seen = log.clone();
    let actor = events.spawn(move |cx, event: Event<u32>| {
        note_event(&seen, &event);
        match event {
            Event::Start => {
                timer = Some(cx.every(millis(10), || 1).unwrap());
                suspend()
            }
            Event::Resumed(_) => {
                assert!(cx.cancel(timer.take().unwrap()), "the timer is active, and its tick waits");
                cx.every(secs(1), || 2).unwrap();
                cx.after(secs(2), 3).unwrap();
                receive()
            }
            _ => receive(),
        }
    });
    pass(&mut events, millis(15));
    with_cx(&mut events, move |cx| cx.resume(actor, ()));
    pass(&mut events, millis(900));
    assert_eq!(log.take(), "start resumed");
    pass(&mut events, millis(200));
    assert_eq!(log.take(), "2");
}

#[test]
fn timer_of_another_actor_cannot_be_changed() {
    let mut events = virtual_loop();
    let log = Log::default();
    let timer = Rc::new(Cell::new(None));
    let (place, results) = (timer.clone(), log.clone());
    timed(
        &mut events,
        &log,
        move |cx| place.set(Some((cx.after(millis(10), 1).unwrap(), cx.every(millis(10), || 2).unwrap()))),
        |_, _| {},
    );
    timed(
        &mut events,
        &log,
        move |cx| {
            cx.after(secs(5), 9).unwrap();
            cx.every(secs(5), || 9).unwrap();
            let (once, repeated) = timer.get().unwrap();
            results.note(format!("{} {}", cx.cancel(once), cx.reset_timer(once, secs(1))));
            results.note(format!("{} {}", cx.cancel(repeated), cx.reset_timer(repeated, secs(1))));
        },
        |_, _| {},
    );
    pass(&mut events, millis(12));
    assert_eq!(log.take(), "false false false false 1 2");
}

#[test]
fn timers_end_with_their_actor_dropping_messages() {
    let mut events = virtual_loop();
    let before = events.stats();
    let log = Log::default();
    let seen = log.clone();
    let actor = events.spawn(move |cx, event: Event<DropMessage>| {
        if let Event::Start = event {
            for _ in 0..3 {
                let seen = seen.clone();
                cx.after(secs(1), OnDrop(Box::new(move || seen.note("x")) as _)).unwrap();
            }
            let held = OnDrop({
                let seen = seen.clone();
                move || seen.note("every")
            });
            cx.every(secs(1), move || {
                let _ = &held;
                OnDrop(Box::new(|| {}) as _)
            })
            .unwrap();
        }
        receive_within(secs(3))
    });
    settle(&mut events);
    assert_eq!(events.stats().timers, 5);
    with_cx(&mut events, move |cx| cx.terminate(actor));
    assert_eq!(log.take(), "x x x every");
    let after = events.stats();
    assert_eq!((after.timers, after.actors, after.extras), (before.timers, before.actors, before.extras));
    pass(&mut events, secs(10));
    assert_eq!(log.take(), "");
}

/// More timers are due at once than one round fires. The actor cancels the last of them between two rounds.
#[test]
fn due_timer_not_yet_fired_can_be_cancelled() {
    let mut events = virtual_loop();
    let fired = Rc::new(Cell::new(0));
    let count = fired.clone();
    let mut timers = Vec::new();
    events.spawn(move |cx, event: Event<u32>| {
        match event {
            Event::Start => {
                cx.after(millis(1), 0).unwrap();
                timers.extend((1..10_000).map(|n| cx.after(millis(10), n).unwrap()));
            }
            Event::Message(1) => {
                let cancelled = timers.drain(9_000..).filter(|timer| cx.cancel(*timer)).count();
                assert_eq!(cancelled, 999);
                cx.after(secs(5), 100_000).unwrap();
                cx.after(secs(5), 100_000).unwrap();
            }
            Event::Message(0) => {}
            Event::Message(100_000) => panic!("a new timer fired at the deadline of a cancelled one"),
            Event::Message(_) => count.set(count.get() + 1),
            _ => {}
        }
        receive()
    });
    pass(&mut events, secs(1));
    assert_eq!(fired.get(), 8_999);
    assert_eq!(events.stats().timers, 2);
}

#[test]
fn message_while_timeout_is_due_leaves_one_timer() {
    let mut events = virtual_loop();
    let actors: Vec<_> = (0..6_000)
        .map(|_| {
            events.spawn(|_: &mut Cx<u32>, event| match event {
                Event::Start => receive_within(millis(10)),
                _ => receive_within(secs(10)),
            })
        })
        .collect();
    settle(&mut events);
    for actor in &actors {
        events.send(*actor, 1).unwrap();
    }
    let later = events.now() + millis(12);
    events.advance_to(later);
    settle(&mut events);
    assert_eq!(events.stats().timers, 6_000);
    pass(&mut events, secs(9));
    assert_eq!(events.stats().timers, 6_000);
}

#[test]
fn many_timers_of_one_actor_leave_nothing() {
    let mut events = virtual_loop();
    let actor = events.spawn(|cx: &mut Cx<u32>, event| {
        if let Event::Message(_) = event {
            let timers: Vec<_> = (0..70_000).map(|n| cx.after(secs(1), n).unwrap()).collect();
            timers.into_iter().step_by(2).for_each(|timer| assert!(cx.cancel(timer)));
            (0..35_000).for_each(|n| _ = cx.after(secs(1), n).unwrap());
        }
        receive()
    });
    settle(&mut events);
    events.send(actor, 1).unwrap();
    settle(&mut events);
    assert_eq!(events.stats().timers, 70_000);
    events.loop_ref().terminate(actor);
    settle(&mut events);
    assert_eq!((events.stats().timers, events.stats().actors), (0, 0));
}

#[test]
fn time_is_constant_during_a_step() {
    let mut events = real_loop();
    let seen = Log::default();
    let log = seen.clone();
    events.spawn(move |cx: &mut Cx<u32>, _| {
        let before = cx.now();
        let begun = std::time::Instant::now();
        while begun.elapsed() < millis(3) {}
        log.note(cx.now() == before);
        stop()
    });
    events.run().unwrap();
    assert_eq!(seen.take(), "true");
}
