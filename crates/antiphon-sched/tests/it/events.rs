//! Signals from other actors (terminate, throw, resume), and the reasons with which actors exit.

use antiphon_sched::*;

use crate::common::*;

#[test]
fn terminate_is_handled_then_ends_actor() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = spawn_logger::<u32>(&mut events, &log);
    log_exit(&mut events, &log, actor);
    settle(&mut events);
    events.send(actor, 1).unwrap();
    with_cx(&mut events, move |cx| cx.terminate(actor));
    assert_eq!(log.take(), "start 1 terminate [terminated]");
    assert!(matches!(events.send(actor, 2), Err(SendError::NoActor(2))));
}

#[test]
fn terminate_reaches_waiting_actor() {
    let mut events = virtual_loop();
    let log = Log::default();
    let selects = events.spawn(|_: &mut Cx<u32>, _| receive_if(|_| false));
    let sleeps = events.spawn(|_: &mut Cx<u32>, _| sleep(secs(1000)));
    let swaps = events.spawn(|_: &mut Cx<u32>, event| match event {
        Event::Terminate => swap(|_, _| panic!("the actor ends before it swaps")),
        _ => receive_within(secs(1000)),
    });
    for actor in [selects, sleeps, swaps] {
        log_exit(&mut events, &log, actor);
        settle(&mut events);
        events.send(actor, 1).unwrap();
        with_cx(&mut events, move |cx| cx.terminate(actor));
    }
    assert_eq!(log.take(), "[terminated] [terminated] [terminated]");
    assert_eq!(events.stats().timers, 0);
}

#[test]
fn throw_unhandled_fails_actor() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = spawn_logger::<u32>(&mut events, &log);
    log_exit(&mut events, &log, actor);
    settle(&mut events);
    with_cx(&mut events, move |cx| cx.throw(actor, ()));
    assert_eq!(log.take(), "start thrown [failed: an exception was thrown into it, and not handled]");
}

#[test]
fn throw_handled_keeps_actor() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    let actor = events.spawn(move |_, event: Event<u32>| {
        note_event(&seen, &event);
        if let Event::Thrown(thrown) = event {
            seen.note(format!("{:?}", thrown.take().get::<()>()));
        }
        receive()
    });
    settle(&mut events);
    with_cx(&mut events, move |cx| cx.throw(actor, ()));
    events.send(actor, 1).unwrap();
    settle(&mut events);
    assert_eq!(log.take(), "start thrown Ok(()) 1");
}

#[test]
fn thrown_value_kept_past_step_fails_actor() {
    let mut events = virtual_loop();
    let log = Log::default();
    let mut kept = None;
    let actor = events.spawn(move |_, event: Event<u32>| {
        if let Event::Thrown(thrown) = event {
            kept = Some(thrown);
        }
        // The closure keeps the value beyond the step.
        let _ = &kept;
        receive()
    });
    log_exit(&mut events, &log, actor);
    settle(&mut events);
    with_cx(&mut events, move |cx| cx.throw(actor, ()));
    assert_eq!(log.take(), "[failed: an exception was thrown into it, and not handled]");
}

#[test]
fn resume_value_reaches_receiving_actor() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    let actor = events.spawn(move |_, event: Event<u32>| {
        if let Event::Resumed(value) = event {
            seen.note(format!("{:?}", value.get::<()>()));
        }
        receive()
    });
    settle(&mut events);
    with_cx(&mut events, move |cx| cx.resume(actor, ()));
    assert_eq!(log.take(), "Ok(())");
}

#[test]
fn signals_to_exited_actor_are_dead_letters() {
    let mut events = virtual_loop();
    let dead = events.spawn(|_: &mut Cx<u32>, _| stop());
    settle(&mut events);
    with_cx(&mut events, move |cx| {
        cx.terminate(dead);
        cx.throw(dead, ());
        cx.resume(dead, ());
        cx.swap(dead, |_, _| receive());
    });
    assert_eq!(events.stats().dead_letters, 4);
}

#[test]
fn actor_ending_reports_its_exit_reason() {
    let mut events = virtual_loop();
    let log = Log::default();
    #[derive(Clone, Copy)]
    enum ExitKind {
        Stop,
        Exit,
        ExitLocal,
        Fail,
        QuestionMark,
        Panic,
    }
    for kind in [
        ExitKind::Stop,
        ExitKind::Exit,
        ExitKind::ExitLocal,
        ExitKind::Fail,
        ExitKind::QuestionMark,
        ExitKind::Panic,
    ] {
        let actor = events.spawn(move |_: &mut Cx<()>, event| {
            if !matches!(event, Event::Message(())) {
                return receive();
            }
            match kind {
                ExitKind::Stop => stop(),
                ExitKind::Exit => exit(()),
                ExitKind::ExitLocal => exit_local("value"),
                ExitKind::Fail => fail("failed"),
                ExitKind::QuestionMark => {
                    "x".parse::<u32>()?;
                    receive()
                }
                ExitKind::Panic => panic!("{}", "out of range"),
            }
        });
        let seen = log.clone();
        events.spawn(move |cx: &mut Cx<()>, event| match event {
            Event::Start => {
                cx.monitor(actor);
                receive()
            }
            Event::Down(down) => {
                seen.note(match down.reason {
                    ExitReason::Done(value) => match value.clone().get_local::<&str>() {
                        Ok(text) => text.to_string(),
                        Err(_) => format!("{:?}", value.get::<()>()),
                    },
                    reason => reason.to_string(),
                });
                stop()
            }
            _ => receive(),
        });
        settle(&mut events);
        events.send(actor, ()).unwrap();
        settle(&mut events);
    }
    assert_eq!(
        log.take(),
        "Ok(()) Ok(()) value failed: failed failed: invalid digit found in string panicked: out of range"
    );
    assert_eq!(events.stats().actors, 0);
}

#[test]
fn message_behind_stop_is_dropped() {
    let mut events = virtual_loop();
    let log = Log::default();
    let handled = std::rc::Rc::new(std::cell::Cell::new(0));
    let (seen, count) = (log.clone(), handled.clone());
    let actor = events.spawn(move |_, event| match event {
        Event::Message((n, _)) => {
            count.set(count.get() + 1);
            if n == 1 { stop() } else { receive() }
        }
        _ => receive(),
    });
    for n in 0..4 {
        let seen = seen.clone();
        events.send(actor, (n, OnDrop(Box::new(move || seen.note(n)) as Box<dyn FnMut()>))).unwrap();
    }
    settle(&mut events);
    assert_eq!(log.take(), "0 1 2 3", "every message is dropped");
    assert_eq!(handled.get(), 2, "the actor does not receive the messages behind its end");
}
