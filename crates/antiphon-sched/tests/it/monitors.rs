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
                Event::Start => _ = cx.monitor(victim),
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
                Event::Start => _ = cx.monitor(victim),
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
    assert!(matches!(Value::from(EncodedValue::Opaque).get::<String>(), Err(ValueError::Opaque)));
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

/// The most monitors of ended actors that one round completes.
const MONITORS_A_ROUND: usize = 256;

/// Starts an actor that sets `count` monitors on `target`, and counts its `Down`s.
fn spawn_counter(events: &mut Loop, target: impl Into<ActorId>, count: usize) -> Rc<Cell<usize>> {
    let (target, downs) = (target.into(), Rc::new(Cell::new(0)));
    let counted = downs.clone();
    events.spawn(move |cx: &mut Cx<()>, event| {
        match event {
            Event::Start => (0..count).for_each(|_| _ = cx.monitor(target)),
            Event::Down(down) => {
                assert_eq!(down.actor, target);
                counted.set(counted.get() + 1);
            }
            _ => {}
        }
        receive()
    });
    downs
}

/// Starts an actor that takes a step in each round, and counts them.
fn spawn_ticker(events: &mut Loop) -> (Addr<()>, Rc<Cell<usize>>) {
    let steps = Rc::new(Cell::new(0));
    let counted = steps.clone();
    let ticker = events.spawn(move |cx: &mut Cx<()>, _| {
        counted.set(counted.get() + 1);
        cx.tell(cx.addr(), ());
        receive()
    });
    (ticker, steps)
}

#[test]
fn many_downs_leave_others_their_turns() {
    let mut events = virtual_loop();
    let victim = spawn_logger::<u32>(&mut events, &Log::default());
    let counters: Vec<_> = (0..100).map(|_| spawn_counter(&mut events, victim, 650)).collect();
    settle(&mut events);
    let (ticker, steps) = spawn_ticker(&mut events);
    events.local_actors().signals().kill(victim);
    let received = || counters.iter().map(|downs| downs.get()).sum::<usize>();
    let (mut last, mut rounds) = (0, 0);
    while received() < 65_000 {
        let before = steps.get();
        events.work();
        assert!(steps.get() > before, "the other actor had no turn after {last} Downs");
        assert!(received() - last <= MONITORS_A_ROUND, "a round had {} Downs", received() - last);
        (last, rounds) = (received(), rounds + 1);
    }
    assert!((65_000 / MONITORS_A_ROUND..600).contains(&rounds), "it took {rounds} rounds");
    events.local_actors().signals().kill(ticker);
    settle(&mut events);
    assert!(counters.iter().all(|downs| downs.get() == 650), "each monitor gets one Down");
    assert_eq!(events.stats().extras, 0);
    pass(&mut events, secs(1));
    assert_eq!(received(), 65_000);
}

#[test]
fn few_downs_are_sent_at_once() {
    let mut events = virtual_loop();
    let victim = spawn_logger::<u32>(&mut events, &Log::default());
    let counters: Vec<_> = (0..100).map(|_| spawn_counter(&mut events, victim, 1)).collect();
    settle(&mut events);
    events.local_actors().signals().kill(victim);
    events.work();
    assert!(counters.iter().all(|downs| downs.get() == 1));
    assert!(!events.is_runnable());
}

#[test]
fn ended_actors_take_turns() {
    let mut events = virtual_loop();
    let many = spawn_logger::<u32>(&mut events, &Log::default());
    let few = spawn_logger::<u32>(&mut events, &Log::default());
    let of_many = spawn_counter(&mut events, many, 10_000);
    let of_few = spawn_counter(&mut events, few, 300);
    settle(&mut events);
    events.local_actors().signals().kill(many);
    events.local_actors().signals().kill(few);
    while of_few.get() < 300 {
        events.work();
    }
    assert!(of_many.get() < 1000, "{} others came before", of_many.get());
    settle(&mut events);
    assert_eq!((of_many.get(), of_few.get()), (10_000, 300));
}

#[test]
fn demonitor_removes_waiting_down() {
    let mut events = virtual_loop();
    let victim = spawn_logger::<u32>(&mut events, &Log::default());
    let downs = Rc::new(Cell::new(0));
    let (counted, mut monitors) = (downs.clone(), Vec::new());
    events.spawn(move |cx: &mut Cx<()>, event| {
        match event {
            Event::Start => monitors = (0..2000).map(|_| cx.monitor(victim)).collect(),
            Event::Down(_) => {
                counted.set(counted.get() + 1);
                // The Downs of these wait.
                monitors.drain(1000.min(monitors.len())..).for_each(|monitor| cx.demonitor(monitor));
            }
            _ => {}
        }
        receive()
    });
    settle(&mut events);
    events.local_actors().signals().kill(victim);
    let mut rounds = 0;
    while events.is_runnable() {
        events.work();
        rounds += 1;
    }
    assert_eq!((downs.get(), events.stats().extras), (1000, 0));
    assert!(rounds < 8, "removed Downs need no turn, but there were {rounds} rounds");
}

#[test]
fn exited_watcher_leaves_no_waiting_down() {
    let mut events = virtual_loop();
    let victim = spawn_logger::<u32>(&mut events, &Log::default());
    let watcher = events.spawn(move |cx: &mut Cx<()>, event| {
        if let Event::Start = event {
            (0..10_000).for_each(|_| _ = cx.monitor(victim));
        }
        receive()
    });
    settle(&mut events);
    events.local_actors().signals().kill(victim);
    events.local_actors().signals().kill(watcher);
    settle(&mut events);
    assert_eq!((events.stats().actors, events.stats().extras, events.stats().dead_letters), (0, 0, 0));
}

#[test]
fn exit_of_busy_watcher_takes_several_rounds() {
    let mut events = virtual_loop();
    let targets: Vec<_> = (0..2000).map(|_| spawn_logger::<u32>(&mut events, &Log::default())).collect();
    let watched = targets.clone();
    let watcher = events.spawn(move |cx: &mut Cx<()>, event| {
        if let Event::Start = event {
            watched.iter().for_each(|target| _ = cx.monitor(*target));
        }
        receive()
    });
    settle(&mut events);
    assert_eq!(events.stats().extras, 2001);
    events.local_actors().signals().kill(watcher);
    // A target that ends meanwhile is watched by nobody.
    events.local_actors().signals().kill(targets[1999]);
    let mut left = events.stats().extras;
    assert!(left >= 2001 - MONITORS_A_ROUND, "{left} are left at once");
    while events.is_runnable() {
        events.work();
        assert!(left - events.stats().extras <= MONITORS_A_ROUND);
        left = events.stats().extras;
    }
    assert_eq!((left, events.stats().actors, events.stats().dead_letters), (0, 1999, 0));
}

#[test]
fn orphan_of_ended_supervisor_fails_as_unmonitored() {
    let mut test = testing::TestLoop::new(1);
    let children: Vec<Addr<u32>> = (0..1000)
        .map(|_| {
            test.spawn(|_: &mut Cx<u32>, event| match event {
                Event::Message(_) => fail("orphan"),
                _ => receive(),
            })
        })
        .collect();
    let watched = children.clone();
    let supervisor = test.spawn(move |cx: &mut Cx<()>, event| {
        if let Event::Start = event {
            watched.iter().for_each(|child| _ = cx.monitor(*child));
        }
        receive()
    });
    test.settle();
    test.local_actors().signals().kill(supervisor);
    test.send(children[999], 1).unwrap();
    test.settle();
    assert_eq!(test.failures().len(), 1, "{:?}", test.failures());
}

#[test]
fn adapters_with_many_monitors_end_in_parts() {
    let mut events = virtual_loop();
    let (to_adapter, addresses) = std::sync::mpsc::channel();
    let victim = events.spawn(move |cx: &mut Cx<u32>, event| match event {
        Event::Start => {
            for _ in 0..3 {
                to_adapter.send(cx.adapter(|n: u8| u32::from(n))?.id()).unwrap();
            }
            receive()
        }
        Event::Message(_) => fail("bad"),
        _ => receive(),
    });
    settle(&mut events);
    let counters: Vec<_> = addresses
        .try_iter()
        .chain([victim.id()])
        .map(|address| spawn_counter(&mut events, address, 500))
        .collect();
    settle(&mut events);
    events.send(victim, 1).unwrap();
    let mut rounds = 0;
    while events.is_runnable() {
        events.work();
        rounds += 1;
    }
    assert!(counters.iter().all(|downs| downs.get() == 500));
    assert!(rounds >= 2000 / MONITORS_A_ROUND, "all ended in {rounds} rounds");
    assert_eq!((events.stats().adapters, events.stats().extras), (0, 0));
}

#[test]
fn messages_arrive_before_waiting_downs() {
    let mut events = virtual_loop();
    let received = Rc::new(Cell::new((0, 0)));
    let victim = events.spawn(|cx: &mut Cx<Vec<Addr<u32>>>, event| match event {
        Event::Message(watchers) => {
            watchers.iter().for_each(|watcher| cx.tell(*watcher, 7));
            stop()
        }
        _ => receive(),
    });
    let watchers: Vec<Addr<u32>> = (0..1000)
        .map(|_| {
            let (received, mut has_message) = (received.clone(), false);
            events.spawn(move |cx: &mut Cx<u32>, event| {
                let (messages, downs) = received.get();
                match event {
                    Event::Start => _ = cx.monitor(victim),
                    Event::Message(7) => {
                        has_message = true;
                        received.set((messages + 1, downs));
                    }
                    Event::Down(_) => {
                        assert!(has_message, "the Down overtook the message");
                        received.set((messages, downs + 1));
                    }
                    _ => {}
                }
                receive()
            })
        })
        .collect();
    settle(&mut events);
    events.send(victim, watchers).unwrap();
    settle(&mut events);
    assert_eq!(received.get(), (1000, 1000));
}

#[test]
fn exit_value_with_bad_drop_survives_many_downs() {
    let mut events = virtual_loop();
    let victim = events.spawn(|_: &mut Cx<u32>, event| match event {
        Event::Message(_) => exit_local(PanicOnDrop),
        _ => receive(),
    });
    let watcher = events.spawn(move |cx: &mut Cx<()>, event| {
        if let Event::Start = event {
            (0..1000).for_each(|_| _ = cx.monitor(victim));
        }
        receive()
    });
    settle(&mut events);
    events.send(victim, 1).unwrap();
    events.work();
    // The value is dropped with what waits.
    events.local_actors().signals().kill(watcher);
    settle(&mut events);
    assert_eq!(events.stats().actors, 0);
}

#[test]
fn many_dropped_replies_leave_others_their_turns() {
    let mut events = virtual_loop();
    let mut kept = Vec::new();
    let server = events.spawn(move |_: &mut Cx<ReplyTo<u32>>, event| {
        if let Event::Message(reply) = event {
            kept.push(reply);
        }
        receive()
    });
    let dropped = Rc::new(Cell::new(0_usize));
    let counted = dropped.clone();
    events.spawn(move |cx: &mut Cx<Result<u32, AskError>>, event| {
        match event {
            Event::Start => {
                (0..10_000).for_each(|_| cx.ask(server, secs(60), |reply| reply, |result| result))
            }
            Event::Message(result) => {
                assert_eq!(result, Err(AskError::Dropped));
                counted.set(counted.get() + 1);
            }
            _ => {}
        }
        receive()
    });
    settle(&mut events);
    let (ticker, steps) = spawn_ticker(&mut events);
    events.local_actors().signals().kill(server);
    let mut last = 0;
    while dropped.get() < 10_000 {
        let before = steps.get();
        events.work();
        assert!(steps.get() > before && dropped.get() - last <= 1024, "{} at once", dropped.get() - last);
        last = dropped.get();
    }
    events.local_actors().signals().kill(ticker);
    settle(&mut events);
}
