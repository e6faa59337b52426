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
                    adapter.set(Some(cx.adapter(|n: u8| u32::from(n))));
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
    assert_eq!(log.take(), "terminated0 terminated1 terminated2");
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
    assert!(events.has_live_actors(), "run returned although actors are left");
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
        let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let rest: Vec<_> = lines.collect();
        assert!(
            rest.contains(&"terminated".to_owned()) && rest.contains(&"run returned".to_owned()),
            "SIG{signal}: {rest:?}"
        );
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn virtual_loop_refuses_signals() {
    assert!(matches!(virtual_loop().stop_on_signals(), Err(LoopError::Signals(_))));
}
