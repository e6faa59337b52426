//! The watchdog logs the name of an actor whose step takes too long. Log lines about failures name the actor.

use std::fmt::Write as _;
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

use antiphon_sched::*;

use crate::common::*;

/// Collects the log lines of all tests in this process, from `WARN` up.
struct LogCollector;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl tracing::Subscriber for LogCollector {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct LogLine(String);
        impl tracing::field::Visit for LogLine {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                let _ = write!(self.0, "{field}={value:?} ");
            }
        }
        let mut line = LogLine(String::new());
        event.record(&mut line);
        LINES.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// Starts to collect log lines. Further calls do nothing.
fn collect_log() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| tracing::subscriber::set_global_default(LogCollector).unwrap());
}

/// The collected log lines that contain `name`.
fn logged(name: &str) -> Vec<String> {
    LINES.lock().unwrap().iter().filter(|line| line.contains(name)).cloned().collect()
}

/// Waits until another thread has made a condition true. Panics after 20 s, with `condition` as its name.
fn wait_for(condition: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < secs(20), "timed out waiting for {condition}");
        std::thread::yield_now();
    }
}

#[test]
fn slow_steps_are_logged_and_counted_once() {
    collect_log();
    let mut events = Loop::new(LoopConfig::default()).unwrap();
    let slow = |name: &'static str| {
        move |cx: &mut Cx<u32>, event: Event<u32>| match event {
            Event::Start => {
                cx.set_name(name);
                receive()
            }
            Event::Message(_) => {
                // The step lasts until the watchdog has logged it, on a machine of any speed.
                wait_for("a log line of the watchdog", || !logged(name).is_empty());
                stop()
            }
            _ => receive(),
        }
    };
    for name in ["slowpoke", "slowcoach"] {
        let actor = events.spawn_actor(slow(name));
        events.send(actor, 1).unwrap();
    }
    events.run().unwrap();
    for name in ["slowpoke", "slowcoach"] {
        assert_eq!(logged(name).len(), 1, "each slow step is logged once");
    }
    assert_eq!(events.stats().slow_steps, 2);
}

#[test]
fn slow_step_without_name_is_logged_with_type() {
    struct Sluggish;
    impl Actor<()> for Sluggish {
        fn step(&mut self, _: &mut Cx<'_, ()>, _: Event<()>) -> Step<()> {
            wait_for("a log line of the watchdog", || !logged("Sluggish").is_empty());
            stop()
        }
    }
    collect_log();
    let mut events = Loop::new(LoopConfig::default()).unwrap();
    events.spawn_actor(Sluggish);
    events.run().unwrap();
    assert!(logged("Sluggish")[0].contains("watchdog::slow_step_without_name_is_logged_with_type::Sluggish"));
}

#[test]
fn endless_step_is_logged_while_it_runs() {
    collect_log();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        let mut events = Loop::new(LoopConfig::default()).unwrap();
        events.spawn(move |cx: &mut Cx<()>, _| {
            cx.set_name("endless");
            // The step ends only after the test has found its name in the log.
            released.recv()?;
            stop()
        });
        events.run().unwrap();
    });
    wait_for("the name of the actor", || {
        logged("endless").iter().any(|line| line.contains("takes too long"))
    });
    release.send(()).unwrap();
    thread.join().unwrap();
}

#[test]
fn slow_step_without_watchdog_is_not_counted() {
    let mut events = real_loop();
    events.spawn(|_: &mut Cx<()>, _| {
        std::thread::sleep(millis(40));
        stop()
    });
    events.run().unwrap();
    assert_eq!(events.stats().slow_steps, 0);
}

#[test]
fn unmonitored_failure_is_logged_with_actor_name() {
    collect_log();
    let mut events = virtual_loop();
    let failing = |name: &'static str| {
        move |cx: &mut Cx<u32>, event: Event<u32>| match event {
            Event::Start => {
                cx.set_name(name);
                receive()
            }
            _ => fail("out of paper"),
        }
    };
    let unmonitored = events.spawn(failing("printer without monitor"));
    let monitored = events.spawn(failing("printer with monitor"));
    log_exit(&mut events, &Log::default(), monitored);
    settle(&mut events);
    events.send(unmonitored, 1).unwrap();
    events.send(monitored, 1).unwrap();
    settle(&mut events);
    let lines = logged("printer without monitor");
    assert!(lines.len() == 1 && lines[0].contains("out of paper"), "{lines:?}");
    assert!(logged("printer with monitor").is_empty(), "the monitor receives the failure");
}
