//! Stopping a loop gracefully: daemons, `stop` from another thread, signals.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;

use antiphon_sched::*;

use crate::common::*;

#[test]
fn run_with_only_daemons_returns_keeping_them() {
    let mut events = real_loop();
    let log = Log::default();
    let seen = log.clone();
    let daemon = events.spawn(move |cx: &mut Cx<u32>, event| {
        if let Event::Start = event {
            cx.set_daemon(true);
            cx.set_daemon(true);
        }
        note_event(&seen, &event);
        receive()
    });
    events.run().unwrap();
    assert!(!events.has_live_actors());
    let mut worker = Some(());
    events.spawn(move |cx: &mut Cx<u32>, _| {
        if worker.take().is_some() {
            cx.send(daemon, 1)?;
        }
        stop()
    });
    events.run().unwrap();
    assert_eq!(events.stats().actors, 1);
    settle_real(&mut events);
    assert_eq!(log.take(), "start 1");
}

fn settle_real(events: &mut Loop) {
    while events.is_runnable() {
        events.work();
    }
}

#[test]
fn former_daemon_keeps_loop_running() {
    let mut events = virtual_loop();
    let actor = events.spawn(|cx: &mut Cx<bool>, event| {
        match event {
            Event::Start => cx.set_daemon(true),
            Event::Message(daemon) => cx.set_daemon(daemon),
            _ => {}
        }
        receive()
    });
    settle(&mut events);
    assert!(!events.has_live_actors());
    events.send(actor, false).unwrap();
    settle(&mut events);
    assert!(events.has_live_actors());
    with_cx(&mut events, move |cx| cx.terminate(actor));
    assert!(!events.has_live_actors());
}

#[test]
fn stop_from_thread_terminates_every_actor() {
    let mut events = real_loop();
    let log = Log::default();
    let (report, started) = std::sync::mpsc::channel();
    let adapter = std::rc::Rc::new(std::cell::Cell::new(None));
    for n in 0..3 {
        let (seen, report, adapter) = (log.clone(), report.clone(), adapter.clone());
        events.spawn(move |cx: &mut Cx<u32>, event| {
            match event {
                Event::Start => {
                    cx.set_daemon(n == 0);
                    adapter.set(Some(cx.adapter(|n: u8| u32::from(n)).unwrap()));
                    report.send(())?;
                }
                Event::Terminate => {
                    seen.note(format!("terminated{n}"));
                    // An adapter lives as long as its actor.
                    cx.send(adapter.get().unwrap(), 1)?;
                }
                _ => {}
            }
            if n == 1 { sleep(secs(1000)) } else { receive() }
        });
    }
    let handle = events.handle();
    let thread = thread::spawn(move || {
        (0..3).for_each(|_| started.recv().unwrap());
        handle.stop();
    });
    events.run().unwrap();
    thread.join().unwrap();
    assert_eq!(log.take(), "terminated2 terminated1 terminated0", "the newest first");
    assert_eq!(events.stats().actors, 0);
}

#[test]
fn stop_is_bounded_by_stop_within() {
    let mut events = Loop::new(LoopConfig { stop_within: millis(100), ..virtual_config() }).unwrap();
    // Each actor that is terminated starts another.
    fn successor() -> impl Actor<u32> {
        actor(|cx, event: Event<u32>| {
            if let Event::Terminate = event {
                cx.spawn_actor(successor());
            }
            receive()
        })
    }
    events.spawn_actor(successor());
    settle(&mut events);
    events.handle().stop();
    (0..10).for_each(|_| events.work());
    assert!(events.is_runnable() && !events.has_stopped());
    events.advance_to(events.now() + millis(99));
    assert!(!events.has_stopped());
    events.advance_to(events.now() + millis(1));
    assert!(events.has_stopped());
    events.run().unwrap();
    assert_eq!(events.stats().actors, 0, "actors that are left are ended");
    assert_eq!(events.stats().timers, 0);
}

/// Starts an actor that logs `name` when it is terminated, and returns `next` for it.
fn terminated(events: &mut Loop, log: &Log, name: &'static str, next: fn() -> Step<u32>) -> Addr<u32> {
    let seen = log.clone();
    events.spawn(move |_: &mut Cx<u32>, event| match event {
        Event::Terminate => {
            seen.note(name);
            next()
        }
        Event::Message(n) => {
            seen.note(format!("{name}{n}"));
            receive()
        }
        _ => receive(),
    })
}

#[test]
fn stop_delivers_last_message_to_older_actor() {
    let mut events = virtual_loop();
    let log = Log::default();
    let store = terminated(&mut events, &log, "store", receive);
    let (seen, mut younger) = (log.clone(), None);
    events.spawn(move |cx: &mut Cx<u32>, event| {
        match event {
            Event::Start => younger = Some(cx.spawn(|_: &mut Cx<u32>, _| receive())),
            Event::Terminate => {
                cx.send(store, 1)?;
                seen.note(cx.send(younger.unwrap(), 2).unwrap_err());
            }
            _ => {}
        }
        receive()
    });
    settle(&mut events);
    events.handle().stop();
    settle(&mut events);
    let entries = log.take();
    assert!(entries.starts_with("the actor has exited") && entries.ends_with(" store1 store"), "{entries}");
    assert!(events.has_stopped());
}

#[test]
fn stop_waits_for_newer_actor_that_is_finishing() {
    let mut events = virtual_loop();
    let log = Log::default();
    terminated(&mut events, &log, "old", receive);
    let worker = terminated(&mut events, &log, "worker", || finishing(secs(3)));
    settle(&mut events);
    events.handle().stop();
    pass(&mut events, millis(2900));
    events.send(worker, 1).unwrap();
    settle(&mut events);
    assert_eq!(log.take(), "worker worker1");
    pass(&mut events, millis(200));
    assert_eq!(log.take(), "old");
    assert!(events.has_stopped());
}

#[test]
fn stop_terminates_all_at_half_of_its_time() {
    let mut events = virtual_loop();
    let log = Log::default();
    terminated(&mut events, &log, "service", || finishing(secs(100)));
    terminated(&mut events, &log, "old", receive);
    terminated(&mut events, &log, "new", || finishing(secs(100)));
    settle(&mut events);
    events.handle().stop();
    pass(&mut events, millis(4990));
    assert_eq!(log.take(), "new");
    pass(&mut events, millis(20));
    assert_eq!(log.take(), "old service", "the newer one first");
    assert_eq!(events.stats().actors, 2);
    pass(&mut events, secs(5));
    assert!(events.has_stopped());
    events.run().unwrap();
    assert_eq!((events.stats().actors, events.stats().timers), (0, 0));
}

#[test]
fn stop_ends_services_last() {
    let mut events = virtual_loop();
    let log = Log::default();
    terminated(&mut events, &log, "old", receive);
    for name in ["first service", "second service"] {
        let seen = log.clone();
        events.loop_ref().spawn_service(actor(move |cx: &mut Cx<u32>, event| {
            if let Event::Terminate = event {
                seen.note(name);
                // One that starts now is the last.
                let seen = seen.clone();
                cx.spawn_service(actor(move |_: &mut Cx<u32>, event| {
                    if let Event::Terminate = event {
                        seen.note(format!("third for {name}"));
                    }
                    receive()
                }));
            }
            receive()
        }));
    }
    terminated(&mut events, &log, "new", receive);
    settle(&mut events);
    assert!(events.has_live_actors());
    events.handle().stop();
    settle(&mut events);
    let expected = "new old second service first service third for second service third for first service";
    assert_eq!(log.take(), expected);
    assert!(events.has_stopped());
}

#[test]
fn stop_of_many_actors_loses_no_message() {
    let mut events = virtual_loop();
    let received = std::rc::Rc::new(std::cell::Cell::new(0_u64));
    let mut older: Option<Addr<u64>> = None;
    // Each actor has a backlog, passes a part of it on, and in its last step sends how much it got.
    for _ in 0..1000 {
        let (next, mut sum, received) = (older, 0, received.clone());
        let actor = events.spawn(move |cx: &mut Cx<u64>, event| {
            match event {
                Event::Message(n) => sum += n,
                Event::Terminate => match next {
                    Some(next) => cx.send(next, sum)?,
                    None => received.set(sum),
                },
                _ => {}
            }
            receive()
        });
        (0..200).for_each(|_| events.send(actor, 1).unwrap());
        older = Some(actor);
    }
    events.handle().stop();
    settle(&mut events);
    assert!(events.has_stopped());
    assert_eq!((received.get(), events.stats().dead_letters), (200_000, 0));
}

#[test]
fn actor_started_during_stop_is_terminated() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    events.spawn(move |cx: &mut Cx<u32>, event| {
        if let Event::Terminate = event {
            let seen = seen.clone();
            cx.spawn(move |_: &mut Cx<u32>, event| {
                note_event(&seen, &event);
                receive()
            });
        }
        receive()
    });
    settle(&mut events);
    events.handle().stop();
    settle(&mut events);
    assert_eq!(log.take(), "start terminate");
    assert!(events.has_stopped(), "the loop does not wait for `stop_within` to pass");
}

#[test]
fn stopped_loop_runs_again() {
    let mut events =
        Loop::new(LoopConfig { stop_within: millis(1), watchdog: None, ..LoopConfig::default() }).unwrap();
    let log = Log::default();
    for round in 0..3 {
        let handle = events.handle();
        // This daemon still exists when the last live actor has exited.
        events.spawn(|cx: &mut Cx<u32>, _| {
            cx.set_daemon(true);
            sleep(secs(1000))
        });
        let seen = log.clone();
        events.spawn(move |_: &mut Cx<u32>, event| {
            match event {
                Event::Start if round != 1 => return sleep(millis(20)),
                Event::Start => handle.stop(),
                Event::Timeout => {
                    seen.note(round);
                    return stop();
                }
                Event::Terminate => seen.note("stopped"),
                _ => {}
            }
            receive()
        });
        events.run().unwrap();
    }
    assert_eq!(log.take(), "0 stopped 2");
}

#[test]
fn stop_before_run_ends_it_at_once() {
    let mut events = real_loop();
    let log = Log::default();
    spawn_logger::<u32>(&mut events, &log);
    events.handle().stop();
    events.run().unwrap();
    assert_eq!(log.take(), "start terminate");
}

#[test]
fn virtual_run_ends_when_nothing_is_runnable() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = spawn_logger::<u32>(&mut events, &log);
    events.send(actor, 1).unwrap();
    events.run().unwrap();
    assert_eq!(log.take(), "start 1");
    assert!(events.has_live_actors());
}

#[test]
fn handles_between_runs_get_no_loop() {
    let mut events = real_loop();
    let (sender, addrs) = std::sync::mpsc::channel();
    // The daemon remains when `run` returns. It keeps all requests.
    let mut kept = Vec::new();
    events.spawn(move |cx: &mut Cx<ReplyTo<u32>>, event| {
        match event {
            Event::Start => {
                cx.set_daemon(true);
                sender.send(cx.addr())?;
            }
            Event::Message(reply) => kept.push(reply),
            _ => {}
        }
        receive()
    });
    let run = |events: &mut Loop| {
        events.spawn(|_: &mut Cx<()>, event| match event {
            Event::Start => sleep(millis(50)),
            _ => stop(),
        });
        events.run().unwrap();
    };
    let handle = events.handle();
    let waiting = thread::spawn(move || {
        let daemon = addrs.recv().unwrap();
        let joining = {
            let handle = handle.clone();
            thread::spawn(move || handle.join::<()>(daemon, secs(1000)))
        };
        let asked = handle.ask(daemon, secs(1000), |reply| reply);
        let joined = joining.join().unwrap();
        (asked, joined, daemon)
    });
    run(&mut events);
    let (asked, joined, daemon) = waiting.join().unwrap();
    assert_eq!(asked, Err(AskError::NoLoop));
    assert!(matches!(joined, Err(JoinError::NoLoop)), "{joined:?}");
    let handle = events.handle();
    thread::spawn(move || {
        assert_eq!(handle.ask(daemon, secs(1000), |reply| reply), Err(AskError::NoLoop));
        let spawned = handle.spawn(|_: &mut Cx<u32>, _| receive());
        assert_eq!(spawned.map(|_| ()), Err(AskError::NoLoop));
        assert!(matches!(handle.join::<()>(daemon, secs(1000)), Err(JoinError::NoLoop)));
        assert!(matches!(handle.send(Addr::<()>::of(daemon.id()), ()), Err(SendError::NoNode(()))));
    })
    .join()
    .unwrap();
    let handle = events.handle();
    let spawning = thread::spawn(move || {
        loop {
            match handle.spawn(|_: &mut Cx<u32>, _| stop()) {
                Err(AskError::NoLoop) => thread::yield_now(),
                spawned => return spawned,
            }
        }
    });
    run(&mut events);
    assert!(spawning.join().unwrap().is_ok(), "the next run serves handles again");
}

#[cfg(feature = "serde")]
#[test]
fn spawn_joinable_keeps_value_of_each_actor() {
    let mut events = real_loop();
    let (_, own) = events.spawn_joinable::<u32, u32>(actor(|_: &mut Cx<u32>, _| exit(7_u32)));
    let handle = events.handle();
    let thread = thread::spawn(move || {
        let spawn = |n: u32| {
            let actor = actor(move |_: &mut Cx<u32>, _| exit(n));
            handle.spawn_joinable::<u32, u32>(actor).unwrap().1
        };
        let joinable: Vec<_> = (0..200).map(spawn).collect();
        handle.stop();
        let values: Vec<_> = joinable.into_iter().map(|joinable| joinable.join(secs(60)).unwrap()).collect();
        assert_eq!(values, Vec::from_iter(0..200));
    });
    // It lives until the loop is stopped.
    events.spawn(|_: &mut Cx<u32>, _| receive());
    events.run().unwrap();
    thread.join().unwrap();
    assert_eq!(own.join(secs(0)).unwrap(), 7);
}

/// Runs a loop until a signal stops it, and prints its progress.
fn run_until_signal() {
    let mut events = Loop::new(LoopConfig::default()).unwrap();
    events.stop_on_signals().unwrap();
    events.spawn(|_: &mut Cx<u32>, event| {
        match event {
            Event::Start => println!("\nstarted"),
            Event::Terminate => println!("terminated"),
            _ => {}
        }
        receive()
    });
    events.run().unwrap();
    println!("run returned");
}

#[test]
fn signal_stops_loop_gracefully() {
    for signal in ["TERM", "INT"] {
        let Some(mut command) = own_process("stopping::signal_stops_loop_gracefully") else {
            return run_until_signal();
        };
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line == "started"), "the actor has not started");
        send_signal(signal, &child);
        let rest: Vec<_> = lines.collect();
        assert!(
            rest.contains(&"terminated".to_owned()) && rest.contains(&"run returned".to_owned()),
            "SIG{signal}: {rest:?}"
        );
        assert!(child.wait().unwrap().success());
    }
}

/// Runs a loop whose actor never returns from a step, until a second signal ends the process.
fn run_hanging_step() {
    let mut events = real_loop();
    events.stop_on_signals().unwrap();
    events.spawn(|_: &mut Cx<u32>, _| {
        println!("\nhanging");
        loop {
            thread::sleep(secs(1));
        }
    });
    events.run().unwrap();
}

/// Sends a signal to a child process.
fn send_signal(signal: &str, child: &std::process::Child) {
    let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn second_signal_ends_process_with_hanging_step() {
    use std::os::unix::process::ExitStatusExt;
    for (signal, number) in [("TERM", 15), ("INT", 2)] {
        let Some(mut command) = own_process("stopping::second_signal_ends_process_with_hanging_step") else {
            return run_hanging_step();
        };
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line == "hanging"), "the step has not begun");
        send_signal(signal, &child);
        // Signals of one number are merged while one is pending, so the second is repeated until it has arrived.
        let status = loop {
            thread::sleep(millis(20));
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            send_signal(signal, &child);
        };
        assert_eq!(status.signal(), Some(number));
    }
}

/// Runs and stops loops by signals, and then waits for the signal that ends the process.
fn wait_with_restored_handlers() {
    for _ in 0..3 {
        let mut first = real_loop();
        let mut second = real_loop();
        for events in [&mut first, &mut second] {
            events.stop_on_signals().unwrap();
            events.spawn(|_: &mut Cx<u32>, _| receive());
        }
        let own = std::process::id().to_string();
        assert!(Command::new("kill").args(["-s", "TERM", &own]).status().unwrap().success());
        first.run().unwrap();
        second.run().unwrap();
        first.release_signals();
    }
    println!("\nrestored");
    loop {
        thread::sleep(secs(1));
    }
}

#[test]
fn signal_handlers_are_restored_after_run() {
    use std::os::unix::process::ExitStatusExt;
    let Some(mut command) = own_process("stopping::signal_handlers_are_restored_after_run") else {
        return wait_with_restored_handlers();
    };
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "restored"), "the loops have not stopped");
    send_signal("TERM", &child);
    assert_eq!(child.wait().unwrap().signal(), Some(15), "the default action is back");
}

#[test]
fn virtual_loop_refuses_signals() {
    assert!(matches!(virtual_loop().stop_on_signals(), Err(LoopError::Signals(_))));
}
