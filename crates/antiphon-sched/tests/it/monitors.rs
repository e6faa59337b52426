//! Monitors: exactly one `Down` each, whatever happens.

use std::cell::Cell;
use std::rc::Rc;

use antiphon_sched::*;

use crate::common::*;

#[test]
fn each_of_many_monitors_gets_exactly_one_down() {
    let mut events = virtual_loop();
    let log = Log::default();
    let victim = scribe::<u32>(&mut events, &Log::default());
    for n in 0..3 {
        let seen = log.clone();
        events.spawn(move |cx: &mut Cx<()>, event| {
            match event {
                Event::Start => {
                    for _ in 0..n {
                        cx.monitor(victim);
                    }
                }
                Event::Down(down) => {
                    assert_eq!(down.actor, victim);
                    seen.note(format!("{n}:{}", down.reason));
                }
                _ => {}
            }
            receive()
        });
    }
    settle(&mut events);
    within(&mut events, move |cx| {
        cx.terminate(victim);
        cx.terminate(victim);
    });
    assert_eq!(log.take(), "1:terminated 2:terminated 2:terminated");
    pass(&mut events, secs(1));
    assert_eq!(log.take(), "");
}

#[test]
fn monitoring_the_dead_answers_at_once() {
    let mut events = virtual_loop();
    let log = Log::default();
    let dead = events.spawn(|_: &mut Cx<()>, _| stop());
    settle(&mut events);
    log_end(&mut events, &log, dead);
    settle(&mut events);
    assert_eq!(log.take(), "[no such actor]");
}

#[test]
fn monitoring_another_node_without_a_way_there_answers_that_it_is_lost() {
    let mut events = virtual_loop();
    let log = Log::default();
    let foreign = virtual_loop().spawn(|_: &mut Cx<()>, _| receive());
    log_end(&mut events, &log, foreign);
    settle(&mut events);
    assert_eq!(log.take(), "[its node was lost]");
}

#[test]
fn a_monitor_taken_back_tells_nothing() {
    let mut events = virtual_loop();
    let log = Log::default();
    let victim = scribe::<u32>(&mut events, &Log::default());
    let seen = log.clone();
    events.spawn(move |cx: &mut Cx<()>, event| {
        match event {
            Event::Start => {
                let first = cx.monitor(victim);
                cx.monitor(victim);
                cx.demonitor(first);
                cx.demonitor(first);
            }
            Event::Down(_) => seen.note("down"),
            _ => {}
        }
        receive()
    });
    settle(&mut events);
    within(&mut events, move |cx| cx.terminate(victim));
    assert_eq!(log.take(), "down");
}

#[test]
fn a_down_does_not_overtake_the_last_message() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    events.spawn(move |cx, event: Event<u32>| {
        tell(&seen, &event);
        if let Event::Start = event {
            let me = cx.addr();
            let child = cx.spawn(move |cx: &mut Cx<()>, _| {
                cx.send(me, 1)?;
                cx.send(me, 2)?;
                stop()
            });
            cx.monitor(child);
        }
        receive()
    });
    settle(&mut events);
    assert_eq!(log.take(), "start 1 2 down:done");
}

#[test]
fn notify_tells_a_third_party_of_any_message_type() {
    let mut events = virtual_loop();
    let log = Log::default();
    let watcher = scribe::<String>(&mut events, &log);
    let actor = events.spawn(move |cx: &mut Cx<u32>, event| match event {
        Event::Start => {
            cx.notify(watcher);
            receive()
        }
        _ => fail("bad"),
    });
    settle(&mut events);
    events.send(actor, 1).unwrap();
    settle(&mut events);
    assert_eq!(log.take(), "start down:failed: bad");
    assert_eq!(events.stats().extras, 0, "no entry is left");
}

#[test]
fn a_notice_for_a_dead_watcher_is_nothing() {
    let mut events = virtual_loop();
    let dead = events.spawn(|_: &mut Cx<()>, _| stop());
    settle(&mut events);
    within(&mut events, move |cx| cx.notify(dead));
    assert_eq!((events.stats().actors, events.stats().extras), (0, 0));
}

#[test]
fn actors_that_watch_each_other_and_themselves_end_cleanly() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actors: Vec<Addr<Option<ActorId>>> = (0..3)
        .map(|n| {
            let log = log.clone();
            events.spawn(move |cx, event| match event {
                Event::Message(Some(actor)) => {
                    cx.monitor(actor);
                    receive()
                }
                Event::Message(None) => stop(),
                Event::Down(_) => {
                    log.note(n);
                    stop()
                }
                _ => receive(),
            })
        })
        .collect();
    for (n, actor) in actors.iter().enumerate() {
        events.send(*actor, Some(actor.id())).unwrap();
        events.send(*actor, Some(actors[(n + 1) % 3].id())).unwrap();
    }
    settle(&mut events);
    events.send(actors[0], None).unwrap();
    settle(&mut events);
    assert_eq!(log.take(), "2 1");
    assert_eq!((events.stats().actors, events.stats().extras), (0, 0));
}

#[test]
fn watchers_that_end_leave_nothing_behind_with_the_watched() {
    let mut events = virtual_loop();
    let victim = scribe::<u32>(&mut events, &Log::default());
    for _ in 0..100 {
        within(&mut events, move |cx| {
            cx.monitor(victim);
        });
    }
    within(&mut events, move |cx| cx.terminate(victim));
    assert_eq!((events.stats().actors, events.stats().extras), (0, 0));
}

#[test]
fn several_watchers_share_one_local_value() {
    let mut events = virtual_loop();
    let value = Rc::new(Cell::new(0_u32));
    let given = value.clone();
    let victim = events.spawn(move |_: &mut Cx<u32>, event| match event {
        Event::Message(_) => exit_local(given.clone()),
        _ => receive(),
    });
    for _ in 0..3 {
        events.spawn(move |cx: &mut Cx<()>, event| {
            match event {
                Event::Start => drop(cx.monitor(victim)),
                Event::Down(Down { reason: ExitReason::Done(shared), .. }) => {
                    let shared = shared.get_local::<Rc<Cell<u32>>>().unwrap();
                    shared.set(shared.get() + 1);
                }
                _ => {}
            }
            receive()
        });
    }
    settle(&mut events);
    events.send(victim, 1).unwrap();
    settle(&mut events);
    assert_eq!(value.get(), 3);
}

#[cfg(feature = "serde")]
#[test]
fn several_watchers_each_get_the_value_also_when_it_holds_an_address() {
    let mut events = virtual_loop();
    let log = Log::default();
    let sink = scribe::<String>(&mut events, &log);
    let victim = events.spawn(move |_: &mut Cx<u32>, event| match event {
        Event::Message(_) => exit(("text".to_owned(), sink)),
        _ => receive(),
    });
    for _ in 0..3 {
        events.spawn(move |cx: &mut Cx<()>, event| {
            match event {
                Event::Start => drop(cx.monitor(victim)),
                Event::Down(Down { reason: ExitReason::Done(value), .. }) => {
                    let (text, sink) = value.get::<(String, Addr<String>)>()?;
                    cx.send(sink, text)?;
                }
                _ => {}
            }
            receive()
        });
    }
    settle(&mut events);
    events.send(victim, 1).unwrap();
    settle(&mut events);
    assert_eq!(log.take(), "start text text text");
}

#[cfg(feature = "serde")]
#[test]
fn a_value_read_as_another_type_names_both() {
    let error = Value::new(7_u32).get::<String>().unwrap_err();
    assert_eq!(error.to_string(), "the value is u32, not str; read it as u32");
    assert!(matches!(Value::local(7_u32).get::<String>(), Err(ValueError::WrongType { .. })));
    assert!(matches!(Value::opaque().get::<String>(), Err(ValueError::Opaque)));
    assert_eq!(Value::new(7_u32).get::<u32>().unwrap(), 7);
}

#[test]
fn a_thread_joins_an_actor_whatever_its_end() {
    let ends: [fn() -> Step<()>; 4] = [|| exit(()), stop, || exit_local(5_u8), || fail("bad")];
    let mut told = Vec::new();
    for end in ends {
        let mut events = virtual_loop();
        let handle = events.handle();
        let actor = events.spawn(move |_: &mut Cx<()>, event| match event {
            Event::Message(()) => end(),
            _ => receive(),
        });
        let joining = std::thread::spawn(move || {
            handle.join::<()>(actor, secs(60)).map_err(|reason| reason.to_string())
        });
        // The join is there when the actor has an entry for its watchers.
        while events.stats().extras == 0 {
            events.work();
            std::thread::yield_now();
        }
        events.send(actor, ()).unwrap();
        settle(&mut events);
        told.push(joining.join().unwrap());
    }
    assert_eq!(told[..2], [Ok(()), Ok(())]);
    assert_eq!(told[2], Err(Value::local(5_u8).get::<()>().unwrap_err().to_string()));
    assert_eq!(told[3], Err("the actor ended without a value: failed: bad".into()));
}

#[test]
fn a_join_of_the_dead_or_of_one_who_lives_on_is_told_so() {
    let mut events = real_loop();
    let handle = events.handle();
    let dead = events.spawn(|_: &mut Cx<()>, _| stop());
    let lives = events.spawn(|_: &mut Cx<()>, event| match event {
        Event::Message(()) => stop(),
        _ => receive(),
    });
    let thread = std::thread::spawn(move || {
        let early = handle.join::<()>(lives, millis(1));
        let never = handle.join::<()>(dead, secs(20));
        handle.send(lives, ()).unwrap();
        (early, never)
    });
    events.run().unwrap();
    let (early, never) = thread.join().unwrap();
    assert!(matches!(early, Err(JoinError::TimedOut)), "{early:?}");
    assert!(matches!(&never, Err(JoinError::Ended(how)) if how == "no such actor"), "{never:?}");
}

#[test]
fn a_down_can_be_told_without_a_monitor_and_not_to_the_dead() {
    let mut events = virtual_loop();
    let log = Log::default();
    let listener = scribe::<u32>(&mut events, &log);
    let channel = scribe::<u32>(&mut events, &Log::default()).id();
    settle(&mut events);
    assert!(events.loop_ref().tell_down(listener.id().key(), channel, ExitReason::Failed("closed".into())));
    within(&mut events, move |cx| cx.terminate(listener));
    assert_eq!(log.take(), "start down:failed: closed terminate");
    assert!(!events.loop_ref().tell_down(listener.id().key(), channel, ExitReason::NoActor));
}

#[test]
fn monitors_that_were_taken_back_leave_no_entry() {
    let mut events = virtual_loop();
    let target = scribe::<u32>(&mut events, &Log::default());
    events.spawn(move |cx: &mut Cx<()>, _| {
        for _ in 0..10 {
            let monitor = cx.monitor(target);
            cx.demonitor(monitor);
        }
        receive()
    });
    settle(&mut events);
    assert_eq!(events.stats().extras, 0);
}
