//! A panic ends the code that panicked, and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use antiphon_sched::*;

use crate::common::*;

/// Runs `scenario` in a loop with a bystander, and returns the log. Panics unless the bystander still runs
/// afterwards.
fn run_beside_bystander(scenario: impl FnOnce(&mut Loop, &Log)) -> String {
    let mut events = virtual_loop();
    let log = Log::default();
    let bystander = spawn_logger::<&str>(&mut events, &Log::default());
    settle(&mut events);
    scenario(&mut events, &log);
    pass(&mut events, secs(2));
    let entries = log.take();
    let end = Log::default();
    log_exit(&mut events, &end, bystander);
    settle(&mut events);
    events.send(bystander, "still running").unwrap();
    with_cx(&mut events, move |cx| cx.terminate(bystander));
    assert_eq!(end.take(), "[terminated]");
    entries
}

/// Counts its drops. Each drop panics, unless a panic is already under way.
struct CountedBomb(Arc<AtomicU32>);

impl Drop for CountedBomb {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
        drop(PanicOnDrop);
    }
}

/// Returns a counter, and a function that makes bombs which count their drops there.
fn counted_bombs() -> (Arc<AtomicU32>, impl Fn() -> CountedBomb + Clone) {
    let drops = Arc::new(AtomicU32::new(0));
    let count = drops.clone();
    (drops, move || CountedBomb(count.clone()))
}

fn assert_empty(events: &Loop) {
    let stats = events.stats();
    let tables = (stats.requests, stats.timers, stats.runnable, stats.sources);
    assert_eq!(tables, (0, 0, 0, 0), "{stats:?}");
}

#[test]
fn step_panic_ends_only_its_actor() {
    let entries = run_beside_bystander(|events, log| {
        let bad = events.spawn(|cx: &mut Cx<u32>, event| {
            cx.after(secs(100), 1).unwrap();
            match event {
                Event::Message(_) => panic!("in {}", "a step"),
                _ => receive(),
            }
        });
        log_exit(events, log, bad);
        settle(events);
        events.send(bad, 1).unwrap();
        settle(events);
        assert_empty(events);
    });
    assert_eq!(entries, "[panicked: in a step]");
}

#[test]
fn predicate_panic_ends_only_its_actor() {
    let entries = run_beside_bystander(|events, log| {
        let bad = events.spawn(|_: &mut Cx<u32>, _| {
            receive_if(|n| if *n == 2 { panic!("in a predicate") } else { false })
        });
        log_exit(events, log, bad);
        settle(events);
        for n in [1, 2, 3] {
            events.send(bad, n).unwrap();
        }
        settle(events);
        assert_empty(events);
    });
    assert_eq!(entries, "[panicked: in a predicate]");
}

#[test]
fn reply_handler_panic_ends_only_asking_actor() {
    let entries = run_beside_bystander(|events, log| {
        let echo = events.spawn(|cx: &mut Cx<ReplyTo<u32>>, event| {
            if let Event::Message(reply) = event {
                cx.reply(reply, 1);
            }
            receive()
        });
        let dropper = events.spawn(|_: &mut Cx<ReplyTo<u32>>, _| receive());
        let sleeper = events.spawn(|_: &mut Cx<ReplyTo<u32>>, _| suspend());
        let stopped = events.spawn(|_: &mut Cx<ReplyTo<u32>>, _| stop());
        settle(events);
        for target in [echo, dropper, sleeper, stopped] {
            let bad = events.spawn(move |cx: &mut Cx<()>, event| {
                if let Event::Message(()) = event {
                    cx.ask(target, secs(1), |reply| reply, |_| panic!("in a reply handler"));
                    cx.after(secs(100), ()).unwrap();
                }
                receive()
            });
            log_exit(events, log, bad);
            settle(events);
            events.send(bad, ()).unwrap();
            pass(events, secs(2));
        }
        assert_empty(events);
    });
    assert_eq!(entries, ["[panicked: in a reply handler]"; 4].join(" "));
}

#[test]
fn adapter_panic_ends_owner_not_sender() {
    let entries = run_beside_bystander(|events, log| {
        let place = std::rc::Rc::new(std::cell::Cell::new(None));
        let returned = place.clone();
        let owner = events.spawn(move |cx: &mut Cx<u32>, event| {
            if let Event::Start = event {
                returned.set(Some(cx.adapter(|_: &str| panic!("in an adapter")).unwrap()));
            }
            receive()
        });
        log_exit(events, log, owner);
        settle(events);
        let adapter = place.get().unwrap();
        let results = log.clone();
        with_cx(events, move |cx| {
            results.note(cx.send(adapter, "hello").is_ok());
            results.note(cx.send(adapter, "hello").is_ok());
        });
        assert_empty(events);
    });
    assert_eq!(entries, "true false [panicked: in an adapter]");
}

#[test]
fn repeated_timer_panic_ends_only_its_actor() {
    let entries = run_beside_bystander(|events, log| {
        for waits in [false, true] {
            let bad = events.spawn(move |cx: &mut Cx<u32>, event| {
                if let Event::Start = event {
                    cx.every(millis(10), || panic!("in a timer")).unwrap();
                }
                if waits { receive_if(|_| false) } else { receive() }
            });
            log_exit(events, log, bad);
        }
        pass(events, secs(1));
        assert_empty(events);
    });
    assert_eq!(entries, "[panicked: in a timer] [panicked: in a timer]");
}

#[test]
fn message_drop_panics_are_each_contained() {
    let (drops, bomb) = counted_bombs();
    run_beside_bystander(|events, _| {
        let bad = events.spawn(|_: &mut Cx<CountedBomb>, event| match event {
            Event::Message(bomb) => {
                std::mem::forget(bomb);
                stop()
            }
            _ => receive(),
        });
        for _ in 0..5 {
            events.send(bad, bomb()).unwrap();
        }
        settle(events);
        assert_empty(events);
    });
    assert_eq!(drops.load(Relaxed), 4, "the first of five messages was forgotten");
}

#[test]
fn actor_state_drop_panics_are_each_contained() {
    let (drops, bomb) = counted_bombs();
    let entries = run_beside_bystander(|events, log| {
        let sink = events.spawn(|_: &mut Cx<ReplyTo<u32>>, _| suspend());
        let bombs = [(); 3].map(|()| bomb());
        let new_bomb = bomb.clone();
        let bad = events.spawn(move |cx: &mut Cx<CountedBomb>, event| {
            let _ = &bombs;
            if let Event::Start = event {
                cx.after(secs(9), new_bomb()).unwrap();
                let (held, next) = (new_bomb(), new_bomb.clone());
                cx.every(secs(9), move || {
                    let _ = &held;
                    next()
                })
                .unwrap();
                let held = new_bomb();
                cx.ask(sink, secs(9), |reply| reply, move |_| held);
                let (held, next) = (new_bomb(), new_bomb.clone());
                cx.adapter(move |_: u8| {
                    let _ = &held;
                    next()
                })
                .unwrap();
            }
            let held = new_bomb();
            receive_if(move |_| {
                let _ = &held;
                false
            })
        });
        log_exit(events, log, bad);
        settle(events);
        events.send(bad, bomb()).unwrap();
        settle(events);
        let offered = bomb();
        with_cx(events, move |cx| {
            cx.terminate(bad);
            cx.swap(bad, move |_, _| {
                let _ = &offered;
                receive()
            });
        });
        assert_empty(events);
    });
    assert_eq!((entries.as_str(), drops.load(Relaxed)), ("[terminated]", 11));
}

#[test]
fn behaviour_drop_panic_at_swap_is_contained() {
    let (drops, bomb) = counted_bombs();
    run_beside_bystander(|events, _| {
        let held = bomb();
        let swapped = events.spawn(move |_: &mut Cx<u32>, _| {
            let _ = &held;
            swap(|_, _| stop())
        });
        settle(events);
        events.send(swapped, 1).unwrap();
        settle(events);
        let mut offered = Some(bomb());
        events.spawn(move |cx: &mut Cx<u32>, _| {
            let adapter = cx.adapter(|_: u8| panic!("in an adapter")).unwrap();
            cx.send(adapter, 1)?;
            let held = offered.take();
            swap(move |_, _| {
                let _ = &held;
                receive()
            })
        });
        settle(events);
        assert_empty(events);
    });
    assert_eq!(drops.load(Relaxed), 2);
}

#[test]
fn panic_payload_drop_panic_is_contained() {
    let entries = run_beside_bystander(|events, log| {
        let bad = events.spawn(|_: &mut Cx<u32>, event| match event {
            Event::Message(_) => std::panic::panic_any(PanicOnDrop),
            _ => receive(),
        });
        log_exit(events, log, bad);
        settle(events);
        events.send(bad, 1).unwrap();
    });
    assert_eq!(entries, "[panicked: a panic that carried no text]");
}

#[test]
fn error_display_panic_ends_only_its_actor() {
    struct PanickingDisplay;
    impl std::fmt::Display for PanickingDisplay {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("in a display")
        }
    }
    let entries = run_beside_bystander(|events, log| {
        let bad = events.spawn(|_: &mut Cx<u32>, event| match event {
            Event::Message(_) => Err(PanickingDisplay)?,
            _ => receive(),
        });
        log_exit(events, log, bad);
        settle(events);
        events.send(bad, 1).unwrap();
    });
    assert_eq!(entries, "[panicked: in a display]");
}

#[test]
fn handle_ask_constructor_panic_drops_request() {
    let mut events = real_loop();
    let handle = events.handle();
    let sink = events.spawn(|_: &mut Cx<ReplyTo<u32>>, event| match event {
        Event::Message(_) => stop(),
        _ => receive(),
    });
    let thread = std::thread::spawn(move || {
        let first = handle.ask::<_, u32>(sink, secs(20), |_| panic!("in the constructor of a request"));
        let second = handle.ask(sink, secs(20), |reply| reply);
        (first, second)
    });
    events.run().unwrap();
    assert_eq!(thread.join().unwrap(), (Err(AskError::Dropped), Err(AskError::Dropped)));
}

#[test]
fn dead_letter_handler_panic_is_contained() {
    let entries = run_beside_bystander(|events, log| {
        let dead_letters = log.clone();
        events.on_dead_letter(move |_| {
            dead_letters.note("dead letter");
            panic!("in a dead letter handler");
        });
        let stopped = events.spawn(|_: &mut Cx<u32>, _| stop());
        settle(events);
        with_cx(events, move |cx| {
            cx.tell(stopped, 1);
            cx.tell(stopped, 2);
        });
    });
    assert_eq!(entries, "dead letter dead letter");
}

#[test]
fn loop_drop_contains_panic_of_each_value() {
    let mut events = virtual_loop();
    let handle = events.handle();
    let sink = events.spawn(|_: &mut Cx<ReplyTo<u32>>, _| suspend());
    let (drops, bomb) = counted_bombs();
    let (captured, new_bomb) = (bomb(), bomb.clone());
    let holder = events.spawn(move |cx: &mut Cx<CountedBomb>, event| {
        let _ = &captured;
        if let Event::Start = event {
            for _ in 0..2 {
                let held = new_bomb();
                cx.ask(sink, secs(9), |reply| reply, move |_| held);
            }
            cx.after(secs(9), new_bomb()).unwrap();
        }
        suspend()
    });
    settle(&mut events);
    events.send(holder, bomb()).unwrap();
    handle.send(holder, bomb()).unwrap();
    handle.send(holder, bomb()).unwrap();
    let held = bomb();
    events.on_dead_letter(move |_| {
        let _ = &held;
    });
    drop(events);
    assert_eq!(drops.load(Relaxed), 8);
}

#[test]
fn terminated_actor_finishing_its_step_is_harmless() {
    let entries = run_beside_bystander(|events, log| {
        let log = log.clone();
        events.spawn(move |cx: &mut Cx<u32>, _| {
            let adapter = cx.adapter(|_: u8| panic!("in an adapter")).unwrap();
            cx.send(adapter, 1)?;
            // The panic has terminated this actor; its step goes on.
            let me = cx.addr();
            let timer = cx.after(secs(1), 1).unwrap();
            assert!(!cx.cancel(timer), "a terminated actor has no timers");
            let monitor = cx.monitor(me);
            cx.demonitor(monitor);
            cx.notify(me);
            cx.set_daemon(true);
            cx.set_name("terminated");
            cx.ask(me, secs(1), |_: ReplyTo<u32>| 1, |_| 2);
            cx.blocking(|| 3, |_| 4);
            cx.every(secs(1), || 5).unwrap();
            cx.adapter(|_: u16| 6).unwrap();
            cx.push_self(7);
            assert!(matches!(cx.send(me, 8), Err(SendError::NoActor(8))), "its address is stale");
            log.note("end of the step");
            receive_within(secs(1))
        });
        settle(events);
        assert_eq!(events.stats().actors, 1, "the bystander");
        assert_eq!(events.stats().extras, 0);
        assert_empty(events);
        assert!(events.has_live_actors());
    });
    assert_eq!(entries, "end of the step");
}

#[test]
fn exit_value_drop_panic_is_contained() {
    let (drops, bomb) = counted_bombs();
    let entries = run_beside_bystander(|events, log| {
        for monitored in [false, true] {
            let bomb = bomb.clone();
            let actor = events.spawn(move |_: &mut Cx<u32>, event| match event {
                Event::Message(_) => exit_local(bomb()),
                _ => receive(),
            });
            if monitored {
                // The first monitoring actor exits before the monitored one, so no `Down` reaches it.
                let first = events.spawn(move |cx: &mut Cx<()>, event| {
                    if let Event::Start = event {
                        cx.monitor(actor);
                    }
                    receive()
                });
                settle(events);
                with_cx(events, move |cx| cx.notify(actor));
                with_cx(events, move |cx| cx.terminate(first));
                let log = log.clone();
                events.spawn(move |cx: &mut Cx<()>, event| match event {
                    Event::Start => {
                        cx.monitor(actor);
                        receive()
                    }
                    event => {
                        log.note(format!("{event:?}").contains("Down"));
                        stop()
                    }
                });
            }
            settle(events);
            events.send(actor, 1).unwrap();
            settle(events);
        }
        assert_empty(events);
    });
    assert_eq!(entries, "true");
    assert_eq!(drops.load(Relaxed), 2);
}
