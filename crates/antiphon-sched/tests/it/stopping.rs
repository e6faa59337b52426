//! The graceful end: daemons, `stop` from another thread, signals.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;

use antiphon_sched::*;

use crate::common::*;

#[test]
fn run_returns_when_only_daemons_are_left_and_leaves_them_alive() {
    let mut events = real_loop();
    let log = Log::default();
    let seen = log.clone();
    let daemon = events.spawn(move |cx: &mut Cx<u32>, event| {
        if let Event::Start = event {
            cx.set_daemon(true);
            cx.set_daemon(true);
        }
        tell(&seen, &event);
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
fn an_actor_that_is_no_longer_a_daemon_keeps_the_loop_running() {
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
    within(&mut events, move |cx| cx.terminate(actor));
    assert!(!events.has_live_actors());
}

#[test]
fn a_stop_from_another_thread_lets_every_actor_clean_up() {
    let mut events = real_loop();
    let log = Log::default();
    let (told, started) = std::sync::mpsc::channel();
    let place = std::rc::Rc::new(std::cell::Cell::new(None));
    for n in 0..3 {
        let (seen, told, place) = (log.clone(), told.clone(), place.clone());
        events.spawn(move |cx: &mut Cx<u32>, event| {
            match event {
                Event::Start => {
                    cx.set_daemon(n == 0);
                    place.set(Some(cx.adapter(|n: u8| u32::from(n))));
                    told.send(())?;
                }
                Event::Terminate => {
                    seen.note(format!("bye{n}"));
                    // A further address lives as long as its owner.
                    cx.send(place.get().unwrap(), 1)?;
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
    assert_eq!(log.take(), "bye0 bye1 bye2");
    assert_eq!(events.stats().actors, 0);
}

#[test]
fn a_stop_is_bounded_by_stop_within() {
    let mut events = Loop::new(LoopConfig { stop_within: millis(100), ..virtual_config() }).unwrap();
    // Each one that ends starts the next.
    fn hydra() -> impl Actor<u32> {
        actor(|cx, event: Event<u32>| {
            if let Event::Terminate = event {
                cx.spawn_actor(hydra());
            }
            receive()
        })
    }
    events.spawn_actor(hydra());
    settle(&mut events);
    events.handle().stop();
    (0..10).for_each(|_| events.work());
    assert!(events.is_runnable() && !events.has_stopped());
    events.advance_to(events.now() + millis(99));
    assert!(!events.has_stopped());
    events.advance_to(events.now() + millis(1));
    assert!(events.has_stopped());
    events.run().unwrap();
    assert!(events.has_live_actors(), "run returned all the same");
}

#[test]
fn an_actor_that_starts_while_the_loop_stops_starts_and_is_told_to_end() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    events.spawn(move |cx: &mut Cx<u32>, event| {
        if let Event::Terminate = event {
            let seen = seen.clone();
            cx.spawn(move |_: &mut Cx<u32>, event| {
                tell(&seen, &event);
                receive()
            });
        }
        receive()
    });
    settle(&mut events);
    events.handle().stop();
    settle(&mut events);
    assert_eq!(log.take(), "start terminate");
    assert!(events.has_stopped(), "at once: nobody waits for the time to be over");
}

#[test]
fn a_loop_that_was_stopped_can_run_again() {
    let mut events =
        Loop::new(LoopConfig { stop_within: millis(1), watchdog: None, ..LoopConfig::default() }).unwrap();
    let log = Log::default();
    for round in 0..3 {
        let handle = events.handle();
        // A daemon that is still there when the last citizen has ended.
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
fn a_stop_before_the_run_ends_it_at_once() {
    let mut events = real_loop();
    let log = Log::default();
    scribe::<u32>(&mut events, &log);
    events.handle().stop();
    events.run().unwrap();
    assert_eq!(log.take(), "start terminate");
}

#[test]
fn a_virtual_run_ends_when_nothing_is_left_to_do_before_time_goes_on() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = scribe::<u32>(&mut events, &log);
    events.send(actor, 1).unwrap();
    events.run().unwrap();
    assert_eq!(log.take(), "start 1");
    assert!(events.has_live_actors());
}

/// The child of the next test: waits for a signal, with one actor that says goodbye.
#[test]
#[ignore = "the child of another test"]
fn child_that_waits_for_a_signal() {
    let mut events = Loop::new(LoopConfig::default()).unwrap();
    events.stop_on_signals().unwrap();
    events.spawn(|_: &mut Cx<u32>, event| {
        match event {
            Event::Start => println!("\nup"),
            Event::Terminate => println!("bye"),
            _ => {}
        }
        receive()
    });
    events.run().unwrap();
    println!("run returned");
}

#[test]
fn sigterm_and_sigint_stop_the_loop_gracefully() {
    for signal in ["TERM", "INT"] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "stopping::child_that_waits_for_a_signal", "--ignored", "--nocapture"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line == "up"), "the child is up");
        let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let rest: Vec<_> = lines.collect();
        assert!(
            rest.contains(&"bye".to_owned()) && rest.contains(&"run returned".to_owned()),
            "SIG{signal}: {rest:?}"
        );
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn a_virtual_loop_watches_no_signals() {
    assert!(matches!(virtual_loop().stop_on_signals(), Err(LoopError::Signals(_))));
}
