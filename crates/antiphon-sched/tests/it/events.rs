//! Events that others cause: terminate, throw, resume; and the ways to end.

use antiphon_sched::*;

use crate::common::*;

#[test]
fn a_terminated_actor_is_told_first_and_ends_whatever_it_answers() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = scribe::<u32>(&mut events, &log);
    log_end(&mut events, &log, actor);
    settle(&mut events);
    events.send(actor, 1).unwrap();
    within(&mut events, move |cx| cx.terminate(actor));
    assert_eq!(log.take(), "start 1 terminate [terminated]");
    assert!(matches!(events.send(actor, 2), Err(SendError::NoActor(2))));
}

#[test]
fn terminate_reaches_an_actor_that_waits_for_something_else() {
    let mut events = virtual_loop();
    let log = Log::default();
    let admits = events.spawn(|_: &mut Cx<u32>, _| receive_if(|_| false));
    let sleeps = events.spawn(|_: &mut Cx<u32>, _| sleep(secs(1000)));
    let swaps = events.spawn(|_: &mut Cx<u32>, event| match event {
        Event::Terminate => swap(|_, _| panic!("it ends before it swaps")),
        _ => receive_within(secs(1000)),
    });
    for actor in [admits, sleeps, swaps] {
        log_end(&mut events, &log, actor);
        settle(&mut events);
        events.send(actor, 1).unwrap();
        within(&mut events, move |cx| cx.terminate(actor));
    }
    assert_eq!(log.take(), "[terminated] [terminated] [terminated]");
    assert_eq!(events.stats().timers, 0);
}

#[test]
fn an_exception_that_is_not_handled_fails_the_actor() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = scribe::<u32>(&mut events, &log);
    log_end(&mut events, &log, actor);
    settle(&mut events);
    within(&mut events, move |cx| cx.throw(actor, ()));
    assert_eq!(log.take(), "start thrown [failed: an exception was thrown into it, and not handled]");
}

#[test]
fn an_exception_that_is_handled_leaves_the_actor_alive() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    let actor = events.spawn(move |_, event: Event<u32>| {
        tell(&seen, &event);
        if let Event::Thrown(thrown) = event {
            seen.note(format!("{:?}", thrown.take().get::<()>()));
        }
        receive()
    });
    settle(&mut events);
    within(&mut events, move |cx| cx.throw(actor, ()));
    events.send(actor, 1).unwrap();
    settle(&mut events);
    assert_eq!(log.take(), "start thrown Ok(()) 1");
}

#[test]
fn an_exception_kept_for_later_is_not_handled_in_time() {
    let mut events = virtual_loop();
    let log = Log::default();
    let mut kept = None;
    let actor = events.spawn(move |_, event: Event<u32>| {
        if let Event::Thrown(thrown) = event {
            kept = Some(thrown);
        }
        let _ = &kept;
        receive()
    });
    log_end(&mut events, &log, actor);
    settle(&mut events);
    within(&mut events, move |cx| cx.throw(actor, ()));
    assert!(log.take().starts_with("[failed:"));
}

#[test]
fn a_resume_carries_its_value_also_to_one_who_does_not_sleep() {
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
    within(&mut events, move |cx| cx.resume(actor, ()));
    assert_eq!(log.take(), "Ok(())");
}

#[test]
fn signals_to_the_dead_are_dead_letters() {
    let mut events = virtual_loop();
    let dead = events.spawn(|_: &mut Cx<u32>, _| stop());
    settle(&mut events);
    within(&mut events, move |cx| {
        cx.terminate(dead);
        cx.throw(dead, ());
        cx.resume(dead, ());
        cx.swap(dead, |_, _| receive());
    });
    assert_eq!(events.stats().dead_letters, 4);
}

#[test]
fn each_way_to_end_tells_its_reason() {
    let mut events = virtual_loop();
    let log = Log::default();
    #[derive(Clone, Copy)]
    enum How {
        Stop,
        Exit,
        ExitLocal,
        Fail,
        Question,
        Panic,
    }
    for how in [How::Stop, How::Exit, How::ExitLocal, How::Fail, How::Question, How::Panic] {
        let actor = events.spawn(move |_: &mut Cx<()>, event| {
            if !matches!(event, Event::Message(())) {
                return receive();
            }
            match how {
                How::Stop => stop(),
                How::Exit => exit(()),
                How::ExitLocal => exit_local("value"),
                How::Fail => fail("failed"),
                How::Question => {
                    "x".parse::<u32>()?;
                    receive()
                }
                How::Panic => panic!("{}", "out of range"),
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
fn a_message_behind_the_end_is_dropped() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    let actor = events.spawn(|_, event| match event {
        Event::Message((1, _)) => stop(),
        _ => receive(),
    });
    for n in 0..4 {
        let seen = seen.clone();
        events.send(actor, (n, OnDrop(Box::new(move || seen.note(n)) as Box<dyn FnMut()>))).unwrap();
    }
    settle(&mut events);
    assert_eq!(log.take(), "0 1 2 3");
}
