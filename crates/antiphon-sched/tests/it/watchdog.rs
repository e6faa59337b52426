//! The watchdog names whoever holds the loop up, and logs name actors.

use std::fmt::Write as _;
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

use antiphon_sched::*;

use crate::common::*;

/// Collects what is logged, of all tests of this program.
struct Collector;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl tracing::Subscriber for Collector {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Line(String);
        impl tracing::field::Visit for Line {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                let _ = write!(self.0, "{field}={value:?} ");
            }
        }
        let mut line = Line(String::new());
        event.record(&mut line);
        LINES.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

fn collect() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| tracing::subscriber::set_global_default(Collector).unwrap());
}

fn logged(name: &str) -> Vec<String> {
    LINES.lock().unwrap().iter().filter(|line| line.contains(name)).cloned().collect()
}

/// Waits for a condition that another thread brings about.
fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < secs(20), "{what} never came");
        std::thread::yield_now();
    }
}

#[test]
fn a_slow_step_is_counted_and_a_quick_one_is_not() {
    collect();
    let mut events = Loop::new(LoopConfig::default()).unwrap();
    let mut slow = 0;
    let slowpoke = events.spawn(move |cx: &mut Cx<u32>, event| match event {
        Event::Start => {
            cx.set_name("slowpoke");
            receive()
        }
        Event::Message(_) => {
            // Until the watchdog has seen it: however slow this machine is.
            wait_for("the watchdog", || logged("slowpoke").len() > slow);
            slow += 1;
            if slow == 2 { stop() } else { receive() }
        }
        _ => receive(),
    });
    events.send(slowpoke, 1).unwrap();
    events.send(slowpoke, 2).unwrap();
    events.run().unwrap();
    assert_eq!(logged("slowpoke").len(), 2, "each step is told of once");
    assert_eq!(events.stats().slow_steps, 2);
}

#[test]
fn a_step_that_never_ends_is_named_while_it_runs() {
    collect();
    let (free, held) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        let mut events = Loop::new(LoopConfig::default()).unwrap();
        events.spawn(move |cx: &mut Cx<()>, _| {
            cx.set_name("endless");
            // Ends only because the test has seen its name.
            held.recv()?;
            stop()
        });
        events.run().unwrap();
    });
    wait_for("its name", || logged("endless").iter().any(|line| line.contains("takes too long")));
    free.send(()).unwrap();
    thread.join().unwrap();
}

#[test]
fn without_a_watchdog_nothing_is_counted() {
    let mut events = real_loop();
    events.spawn(|_: &mut Cx<()>, _| {
        std::thread::sleep(millis(40));
        stop()
    });
    events.run().unwrap();
    assert_eq!(events.stats().slow_steps, 0);
}

#[test]
fn an_end_in_failure_that_nobody_monitors_is_logged_by_name() {
    collect();
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
    let lonely = events.spawn(failing("lonely printer"));
    let watched = events.spawn(failing("watched printer"));
    log_end(&mut events, &Log::default(), watched);
    settle(&mut events);
    events.send(lonely, 1).unwrap();
    events.send(watched, 1).unwrap();
    settle(&mut events);
    let lines = logged("lonely printer");
    assert!(lines.len() == 1 && lines[0].contains("out of paper"), "{lines:?}");
    assert!(logged("watched printer").is_empty(), "whoever monitors knows");
}
