//! The span `actor` around each batch: log lines of a step name the actor.

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex};

use antiphon_sched::*;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Level, Metadata, Subscriber};

use crate::common::*;

/// Collects the log lines of these tests, each behind the spans that are entered.
#[derive(Clone)]
struct SpanCollector {
    level: Level,
    collected: Arc<Mutex<Collected>>,
}

#[derive(Default)]
struct Collected {
    /// The text of each span. Its id is its index, plus one.
    spans: Vec<String>,
    entered: Vec<usize>,
    lines: Vec<String>,
}

/// The fields of a span or an event, without those that tests do not compare.
#[derive(Default)]
struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() != "id" {
            write!(self.0, " {field}={value:?}").unwrap();
        }
    }
}

impl SpanCollector {
    fn new(level: Level) -> Self {
        Self { level, collected: Arc::default() }
    }

    /// Runs `run` with this subscriber, and returns the lines.
    fn lines_of(&self, run: impl FnOnce()) -> Vec<String> {
        tracing::subscriber::with_default(self.clone(), run);
        let collected = self.collected.lock().unwrap();
        assert!(collected.entered.is_empty(), "each span that was entered is left");
        collected.lines.clone()
    }
}

impl Subscriber for SpanCollector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Fields::default();
        span.record(&mut fields);
        let mut collected = self.collected.lock().unwrap();
        let metadata = span.metadata();
        collected.spans.push(format!("{} {}{}: ", metadata.target(), metadata.name(), fields.0));
        Id::from_u64(collected.spans.len() as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        if event.metadata().target() != module_path!() {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut collected = self.collected.lock().unwrap();
        let spans = collected.entered.iter().map(|index| collected.spans[*index].as_str());
        let line = spans.collect::<String>() + fields.0.trim_start();
        collected.lines.push(line);
    }

    fn enter(&self, id: &Id) {
        self.collected.lock().unwrap().entered.push(id.into_u64() as usize - 1);
    }

    fn exit(&self, id: &Id) {
        let left = self.collected.lock().unwrap().entered.pop();
        assert_eq!(left, Some(id.into_u64() as usize - 1), "spans are left in the opposite order");
    }
}

/// Logs each message. The message 3 is fatal.
struct Announcer;

impl Actor<u32> for Announcer {
    fn step(&mut self, _: &mut Cx<'_, u32>, event: Event<u32>) -> Step<u32> {
        if let Event::Message(number) = event {
            tracing::info!(number);
            assert!(number < 3, "no such number");
        }
        receive()
    }
}

/// Runs two actors that log lines, of which one gets a name in its first step.
fn run_announcers() {
    let mut events = virtual_loop();
    let announcer = events.spawn_actor(Announcer);
    events.spawn(move |cx: &mut Cx<()>, event| match event {
        Event::Start => {
            cx.set_name("counter");
            cx.after(millis(1), ())?;
            receive()
        }
        _ => {
            cx.send(announcer, 1)?;
            tracing::info!("one is sent");
            cx.send(announcer, 2)?;
            stop()
        }
    });
    pass(&mut events, millis(1));
    tracing::info!("outside of all steps");
    events.send(announcer, 3).unwrap();
    settle(&mut events);
    assert!(events.send(announcer, 4).is_err(), "the actor has panicked");
}

#[test]
fn log_lines_of_step_are_in_actor_span() {
    let lines = SpanCollector::new(Level::TRACE).lines_of(run_announcers);
    let announcer = "antiphon::actors actor name=\"it::log_spans::Announcer\": ";
    assert_eq!(
        lines,
        [
            "antiphon::actors actor name=\"counter\": message=one is sent".to_owned(),
            format!("{announcer}number=1"),
            format!("{announcer}number=2"),
            "message=outside of all steps".to_owned(),
            format!("{announcer}number=3"),
        ]
    );
}

#[test]
fn actor_span_is_absent_above_trace() {
    let lines = SpanCollector::new(Level::INFO).lines_of(run_announcers);
    assert_eq!(
        lines,
        ["message=one is sent", "number=1", "number=2", "message=outside of all steps", "number=3"]
    );
}
