//! Monitors: each results in exactly one `Down`.

use std::cell::Cell;
use std::rc::Rc;

use antiphon_sched::*;

use crate::common::*;

#[test]
fn each_monitor_gets_exactly_one_down() {
    let mut events = virtual_loop();
    let log = Log::default();
    let victim = spawn_logger::<u32>(&mut events, &Log::default());
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
    with_cx(&mut events, move |cx| {
        cx.terminate(victim);
        cx.terminate(victim);
    });
    assert_eq!(log.take(), "1:terminated 2:terminated 2:terminated");
    pass(&mut events, secs(1));
    assert_eq!(log.take(), "");
}

#[test]
fn monitor_of_exited_actor_fires_at_once() {
    let mut events = virtual_loop();
    let log = Log::default();
    let dead = events.spawn(|_: &mut Cx<()>, _| stop());
    settle(&mut events);
    log_exit(&mut events, &log, dead);
    settle(&mut events);
    assert_eq!(log.take(), "[no such actor]");
}

#[test]
fn foreign_monitor_without_transport_is_node_lost() {
    let mut events = virtual_loop();
    let log = Log::default();
    let foreign = virtual_loop().spawn(|_: &mut Cx<()>, _| receive());
    log_exit(&mut events, &log, foreign);
    settle(&mut events);
    assert_eq!(log.take(), "[its node was lost]");
}

#[test]
fn demonitor_cancels_only_its_monitor() {
    let mut events = virtual_loop();
    let log = Log::default();
    let victim = spawn_logger::<u32>(&mut events, &Log::default());
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
    with_cx(&mut events, move |cx| cx.terminate(victim));
    assert_eq!(log.take(), "down");
}

#[test]
fn down_arrives_after_last_message() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    events.spawn(move |cx, event: Event<u32>| {
        note_event(&seen, &event);
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
fn notify_sends_down_to_watcher() {
    let mut events = virtual_loop();
    let log = Log::default();
    let watcher = spawn_logger::<String>(&mut events, &log);
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
    assert_eq!(events.stats().extras, 0, "no extras are left");
}

#[test]
fn notify_of_exited_watcher_is_dead_letter() {
    let mut events = virtual_loop();
    let dead = events.spawn(|_: &mut Cx<()>, _| stop());
    settle(&mut events);
    with_cx(&mut events, move |cx| cx.notify(dead));
    assert_eq!((events.stats().actors, events.stats().extras), (0, 0));
    assert_eq!(events.stats().dead_letters, 1);
}

#[test]
fn monitors_in_cycle_leave_no_state() {
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
fn exited_watchers_leave_no_extras() {
    let mut events = virtual_loop();
    let victim = spawn_logger::<u32>(&mut events, &Log::default());
    for _ in 0..100 {
        with_cx(&mut events, move |cx| {
            cx.monitor(victim);
        });
    }
    assert_eq!((events.stats().actors, events.stats().extras), (1, 0));
    with_cx(&mut events, move |cx| cx.terminate(victim));
    assert_eq!((events.stats().actors, events.stats().extras), (0, 0));
}

#[test]
fn watchers_share_one_local_exit_value() {
    let mut events = virtual_loop();
    let value = Rc::new(Cell::new(0_u32));
    let exit_value = value.clone();
    let victim = events.spawn(move |_: &mut Cx<u32>, event| match event {
        Event::Message(_) => exit_local(exit_value.clone()),
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
fn watchers_each_decode_exit_value_with_address() {
    let mut events = virtual_loop();
    let log = Log::default();
    let sink = spawn_logger::<String>(&mut events, &log);
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
fn value_of_other_type_error_names_both() {
    let error = Value::new(7_u32).get::<String>().unwrap_err();
    assert_eq!(error.to_string(), "the value is u32, not str; read it as u32");
    assert!(matches!(Value::local(7_u32).get::<String>(), Err(ValueError::WrongType { .. })));
    assert!(matches!(Value::opaque().get::<String>(), Err(ValueError::Opaque)));
    assert_eq!(Value::new(7_u32).get::<u32>().unwrap(), 7);
}

#[test]
fn join_returns_each_exit_reason() {
    let exits: [fn() -> Step<()>; 4] = [|| exit(()), stop, || exit_local(5_u8), || fail("bad")];
    let mut results = Vec::new();
    for exit_step in exits {
        let mut events = virtual_loop();
        let handle = events.handle();
        let actor = events.spawn(move |_: &mut Cx<()>, event| match event {
            Event::Message(()) => exit_step(),
            _ => receive(),
        });
        let joins = std::thread::spawn(move || {
            handle.join::<()>(actor, secs(60)).map_err(|reason| reason.to_string())
        });
        // The actor has extras once the join is registered.
        while events.stats().extras == 0 {
            events.work();
            std::thread::yield_now();
        }
        events.send(actor, ()).unwrap();
        settle(&mut events);
        results.push(joins.join().unwrap());
    }
    assert_eq!(results[..2], [Ok(()), Ok(())]);
    assert_eq!(results[2], Err(Value::local(5_u8).get::<()>().unwrap_err().to_string()));
    assert_eq!(results[3], Err("the actor exited without a value: failed: bad".into()));
}

#[test]
fn join_times_out_or_reports_missing_actor() {
    let mut events = real_loop();
    let handle = events.handle();
    let dead = events.spawn(|_: &mut Cx<()>, _| stop());
    let running = events.spawn(|_: &mut Cx<()>, event| match event {
        Event::Message(()) => stop(),
        _ => receive(),
    });
    let thread = std::thread::spawn(move || {
        let timed_out = handle.join::<()>(running, millis(1));
        let ended = handle.join::<()>(dead, secs(20));
        handle.send(running, ()).unwrap();
        (timed_out, ended)
    });
    events.run().unwrap();
    let (timed_out, ended) = thread.join().unwrap();
    assert!(matches!(timed_out, Err(JoinError::TimedOut)), "{timed_out:?}");
    assert!(matches!(&ended, Err(JoinError::NoValue(reason)) if reason == "no such actor"), "{ended:?}");
}

#[test]
fn send_down_reaches_only_live_actor() {
    let mut events = virtual_loop();
    let log = Log::default();
    let watcher = spawn_logger::<u32>(&mut events, &log);
    let channel = spawn_logger::<u32>(&mut events, &Log::default()).id();
    settle(&mut events);
    assert!(events.loop_ref().service().push_down(
        watcher.id().key(),
        channel,
        ExitReason::Failed("closed".into())
    ));
    with_cx(&mut events, move |cx| cx.terminate(watcher));
    assert_eq!(log.take(), "start down:failed: closed terminate");
    assert!(!events.loop_ref().service().push_down(watcher.id().key(), channel, ExitReason::NoActor));
}

#[test]
fn demonitor_leaves_no_extras() {
    let mut events = virtual_loop();
    let target = spawn_logger::<u32>(&mut events, &Log::default());
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
