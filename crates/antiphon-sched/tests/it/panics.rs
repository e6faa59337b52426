//! A panic ends the code that panicked, and nothing else.

use antiphon_sched::*;

use crate::common::*;

/// Runs `harm` in a loop with a bystander; afterwards the bystander must be well, and the tables empty.
fn others_go_on(harm: impl FnOnce(&mut Loop, &Log)) -> String {
    let mut events = virtual_loop();
    let log = Log::default();
    let bystander = scribe::<&str>(&mut events, &Log::default());
    settle(&mut events);
    harm(&mut events, &log);
    pass(&mut events, secs(2));
    let told = log.take();
    let seen = Log::default();
    log_end(&mut events, &seen, bystander);
    settle(&mut events);
    events.send(bystander, "well").unwrap();
    within(&mut events, move |cx| cx.terminate(bystander));
    assert_eq!(seen.take(), "[terminated]");
    told
}

fn assert_empty(events: &Loop) {
    let stats = events.stats();
    let tables = (stats.requests, stats.timers, stats.runnable, stats.sources);
    assert_eq!(tables, (0, 0, 0, 0), "{stats:?}");
}

#[test]
fn in_a_step() {
    let told = others_go_on(|events, log| {
        let bad = events.spawn(|cx: &mut Cx<u32>, event| {
            cx.after(secs(100), 1);
            match event {
                Event::Message(_) => panic!("in {}", "a step"),
                _ => receive(),
            }
        });
        log_end(events, log, bad);
        settle(events);
        events.send(bad, 1).unwrap();
        settle(events);
        assert_empty(events);
    });
    assert_eq!(told, "[panicked: in a step]");
}

#[test]
fn in_a_predicate() {
    let told = others_go_on(|events, log| {
        let bad =
            events.spawn(|_: &mut Cx<u32>, _| receive_if(|n| if *n == 2 { panic!("choosy") } else { false }));
        log_end(events, log, bad);
        settle(events);
        for n in [1, 2, 3] {
            events.send(bad, n).unwrap();
        }
        settle(events);
        assert_empty(events);
    });
    assert_eq!(told, "[panicked: choosy]");
}

#[test]
fn in_the_constructor_of_an_answer_wherever_the_answer_comes_from() {
    let told = others_go_on(|events, log| {
        let echo = events.spawn(|cx: &mut Cx<ReplyTo<u32>>, event| {
            if let Event::Message(reply) = event {
                cx.reply(reply, 1);
            }
            receive()
        });
        let dropper = events.spawn(|_: &mut Cx<ReplyTo<u32>>, _| receive());
        let sleeper = events.spawn(|_: &mut Cx<ReplyTo<u32>>, _| suspend());
        let dead = events.spawn(|_: &mut Cx<ReplyTo<u32>>, _| stop());
        settle(events);
        for target in [echo, dropper, sleeper, dead] {
            let bad = events.spawn(move |cx: &mut Cx<()>, event| {
                if let Event::Message(()) = event {
                    cx.ask(target, secs(1), |reply| reply, |_| panic!("no words"));
                    cx.after(secs(100), ());
                }
                receive()
            });
            log_end(events, log, bad);
            settle(events);
            events.send(bad, ()).unwrap();
            pass(events, secs(2));
        }
        assert_empty(events);
    });
    assert_eq!(told, ["[panicked: no words]"; 4].join(" "));
}

#[test]
fn in_the_function_of_a_further_address_it_ends_the_owner_not_the_sender() {
    let told = others_go_on(|events, log| {
        let place = std::rc::Rc::new(std::cell::Cell::new(None));
        let told = place.clone();
        let owner = events.spawn(move |cx: &mut Cx<u32>, event| {
            if let Event::Start = event {
                told.set(Some(cx.adapter(|_: &str| panic!("deaf"))));
            }
            receive()
        });
        log_end(events, log, owner);
        settle(events);
        let adapter = place.get().unwrap();
        let seen = log.clone();
        within(events, move |cx| {
            seen.note(cx.send(adapter, "hello").is_ok());
            seen.note(cx.send(adapter, "hello").is_ok());
        });
        assert_empty(events);
    });
    assert_eq!(told, "true false [panicked: deaf]");
}

#[test]
fn in_the_maker_of_a_repeated_timer() {
    let told = others_go_on(|events, log| {
        for waits in [false, true] {
            let bad = events.spawn(move |cx: &mut Cx<u32>, event| {
                if let Event::Start = event {
                    cx.every(millis(10), || panic!("out of sync"));
                }
                if waits { receive_if(|_| false) } else { receive() }
            });
            log_end(events, log, bad);
        }
        pass(events, secs(1));
        assert_empty(events);
    });
    assert_eq!(told, "[panicked: out of sync] [panicked: out of sync]");
}

#[test]
fn in_the_drop_of_messages_each_of_them() {
    others_go_on(|events, _| {
        let bad = events.spawn(|_: &mut Cx<Bomb>, event| match event {
            Event::Message(bomb) => {
                std::mem::forget(bomb);
                stop()
            }
            _ => receive(),
        });
        for _ in 0..5 {
            events.send(bad, Bomb).unwrap();
        }
        settle(events);
        assert_empty(events);
    });
}

#[test]
fn in_the_drop_of_the_actor_and_of_all_that_it_holds() {
    let told = others_go_on(|events, log| {
        let sink = events.spawn(|_: &mut Cx<ReplyTo<u32>>, _| suspend());
        let bombs = [(); 3].map(|()| Bomb);
        let bad = events.spawn(move |cx: &mut Cx<Bomb>, event| {
            let _ = &bombs;
            if let Event::Start = event {
                cx.after(secs(9), Bomb);
                let held = Bomb;
                cx.every(secs(9), move || {
                    let _ = &held;
                    Bomb
                });
                let held = Bomb;
                cx.ask(sink, secs(9), |reply| reply, move |_| held);
                let held = Bomb;
                cx.adapter(move |_: u8| {
                    let _ = &held;
                    Bomb
                });
            }
            let held = Bomb;
            receive_if(move |_| {
                let _ = &held;
                false
            })
        });
        log_end(events, log, bad);
        settle(events);
        events.send(bad, Bomb).unwrap();
        settle(events);
        let offered = Bomb;
        within(events, move |cx| {
            cx.terminate(bad);
            cx.swap(bad, move |_, _| {
                let _ = &offered;
                receive()
            });
        });
        assert_empty(events);
    });
    assert!(told.starts_with("[panicked: a bomb went off]") || told == "[terminated]", "{told}");
}

#[test]
fn in_the_drop_of_a_behaviour_that_is_swapped_out_or_never_put_in() {
    others_go_on(|events, _| {
        let bomb = Bomb;
        let swapped = events.spawn(move |_: &mut Cx<u32>, _| {
            let _ = &bomb;
            swap(|_, _| stop())
        });
        settle(events);
        events.send(swapped, 1).unwrap();
        settle(events);
        let mut bomb = Some(Bomb);
        events.spawn(move |cx: &mut Cx<u32>, _| {
            let adapter = cx.adapter(|_: u8| panic!("it dies of this"));
            cx.send(adapter, 1)?;
            let bomb = bomb.take();
            swap(move |_, _| {
                let _ = &bomb;
                receive()
            })
        });
        settle(events);
        assert_empty(events);
    });
}

#[test]
fn with_a_payload_whose_drop_panics_too() {
    let told = others_go_on(|events, log| {
        let bad = events.spawn(|_: &mut Cx<u32>, event| match event {
            Event::Message(_) => std::panic::panic_any(Bomb),
            _ => receive(),
        });
        log_end(events, log, bad);
        settle(events);
        events.send(bad, 1).unwrap();
    });
    assert_eq!(told, "[panicked: a panic that carried no text]");
}

#[test]
fn in_the_display_of_an_error() {
    struct Rude;
    impl std::fmt::Display for Rude {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("no comment")
        }
    }
    let told = others_go_on(|events, log| {
        let bad = events.spawn(|_: &mut Cx<u32>, event| match event {
            Event::Message(_) => Err(Rude)?,
            _ => receive(),
        });
        log_end(events, log, bad);
        settle(events);
        events.send(bad, 1).unwrap();
    });
    assert_eq!(told, "[panicked: no comment]");
}

#[test]
fn in_what_another_thread_wants_done() {
    let mut events = real_loop();
    let handle = events.handle();
    let sink = events.spawn(|_: &mut Cx<ReplyTo<u32>>, event| match event {
        Event::Message(_) => stop(),
        _ => receive(),
    });
    let thread = std::thread::spawn(move || {
        let first = handle.ask::<_, u32>(sink, secs(20), |_| panic!("no question"));
        let second = handle.ask(sink, secs(20), |reply| reply);
        (first, second)
    });
    events.run().unwrap();
    assert_eq!(thread.join().unwrap(), (Err(AskError::Dropped), Err(AskError::Dropped)));
}

#[test]
fn in_whoever_watches_dead_letters() {
    let told = others_go_on(|events, log| {
        let seen = log.clone();
        events.on_dead_letter(move |_| {
            seen.note("seen");
            panic!("a bad omen");
        });
        let dead = events.spawn(|_: &mut Cx<u32>, _| stop());
        settle(events);
        within(events, move |cx| {
            cx.tell(dead, 1);
            cx.tell(dead, 2);
        });
    });
    assert_eq!(told, "seen seen");
}

#[test]
fn in_all_that_is_dropped_with_the_loop() {
    let mut events = virtual_loop();
    let handle = events.handle();
    let sink = events.spawn(|_: &mut Cx<ReplyTo<u32>>, _| suspend());
    let bomb = Bomb;
    let holder = events.spawn(move |cx: &mut Cx<Bomb>, event| {
        let _ = &bomb;
        if let Event::Start = event {
            for _ in 0..2 {
                let held = Bomb;
                cx.ask(sink, secs(9), |reply| reply, move |_| held);
            }
            cx.after(secs(9), Bomb);
        }
        suspend()
    });
    settle(&mut events);
    events.send(holder, Bomb).unwrap();
    handle.send(holder, Bomb).unwrap();
    handle.send(holder, Bomb).unwrap();
    let watch = Bomb;
    events.on_dead_letter(move |_| {
        let _ = &watch;
    });
    drop(events);
}

#[test]
fn an_actor_that_was_overdrawn_in_its_step_and_goes_on_harms_nobody() {
    others_go_on(|events, _| {
        events.spawn(|cx: &mut Cx<u32>, _| {
            let adapter = cx.adapter(|_: u8| panic!("it dies of this"));
            cx.send(adapter, 1)?;
            // All of this is done by the dead.
            let me = cx.addr();
            let timer = cx.after(secs(1), 1);
            assert!(!cx.cancel(timer), "the dead have no timers");
            let monitor = cx.monitor(me);
            cx.demonitor(monitor);
            cx.notify(me);
            cx.set_daemon(true);
            cx.set_name("ghost");
            cx.ask(me, secs(1), |_: ReplyTo<u32>| 1, |_| 2);
            cx.blocking(|| 3, |_| 4);
            cx.every(secs(1), || 5);
            cx.adapter(|_: u16| 6);
            cx.push_self(7);
            assert!(cx.send(me, 8).is_err(), "its address is stale");
            receive_within(secs(1))
        });
        settle(events);
        assert_eq!(events.stats().actors, 1, "the bystander");
        assert_eq!(events.stats().extras, 0);
        assert_empty(events);
        assert!(events.has_live_actors());
    });
}

#[test]
fn in_the_drop_of_an_exit_value_that_nobody_holds() {
    others_go_on(|events, log| {
        for watched in [false, true] {
            let actor = events.spawn(|_: &mut Cx<u32>, event| match event {
                Event::Message(_) => exit_local(Bomb),
                _ => receive(),
            });
            if watched {
                // Its watcher ends first: an entry is left, and nobody is told.
                let watcher = scribe::<u32>(events, log);
                within(events, move |cx| cx.notify(actor));
                within(events, move |cx| cx.terminate(watcher));
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
}
