//! Helpers of the tests: loops, a log that actors write to, and processes of their own for tests.

use std::cell::RefCell;
use std::fmt::Display;
use std::rc::Rc;
use std::time::Duration;

use antiphon_sched::{ActorId, Addr, Cx, Event, Loop, LoopConfig, Platform, Step, receive};

/// The events that actors have logged, in order.
#[derive(Clone, Default)]
pub(crate) struct Log(pub(crate) Rc<RefCell<Vec<String>>>);

impl Log {
    pub(crate) fn note(&self, entry: impl Display) {
        self.0.borrow_mut().push(entry.to_string());
    }

    /// Removes all entries, and returns them joined by spaces.
    pub(crate) fn take(&self) -> String {
        std::mem::take(&mut *self.0.borrow_mut()).join(" ")
    }
}

pub(crate) fn virtual_config() -> LoopConfig {
    LoopConfig { platform: Platform::Virtual, ..LoopConfig::default() }
}

pub(crate) fn virtual_loop() -> Loop {
    Loop::new(virtual_config()).unwrap()
}

/// A real loop, without the watchdog's thread.
pub(crate) fn real_loop() -> Loop {
    Loop::new(LoopConfig { watchdog: None, ..LoopConfig::default() }).unwrap()
}

/// The environment variable that names the test that runs in a process of its own.
const PROCESS_OF_TEST: &str = "ANTIPHON_PROCESS_OF_TEST";

/// Returns a command that runs only the test `name`, in a new process. Returns `None` inside that process.
pub(crate) fn own_process(name: &str) -> Option<std::process::Command> {
    if std::env::var_os(PROCESS_OF_TEST).is_some_and(|test| test == name) {
        return None;
    }
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(PROCESS_OF_TEST, name);
    Some(command)
}

/// Runs a command of [`own_process`]. Panics unless its one test passes.
pub(crate) fn expect_pass(mut command: std::process::Command) {
    let output = command.output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{text}{errors}");
}

/// Runs a loop until nothing is runnable. Panics if the loop is still busy after a million rounds.
pub(crate) fn settle(events: &mut Loop) {
    for _ in 0..1_000_000 {
        events.work();
        if !events.is_runnable() {
            return;
        }
    }
    panic!("the loop is still runnable after 1,000,000 rounds");
}

/// Advances a virtual loop by `span`, from deadline to deadline.
pub(crate) fn pass(events: &mut Loop, span: Duration) {
    let end = events.now() + span;
    settle(events);
    while let Some(next) = events.next_deadline().filter(|next| *next <= end) {
        assert!(next > events.now(), "a loop at rest has no deadline in the past");
        events.advance_to(next);
        settle(events);
    }
    events.advance_to(end);
    settle(events);
}

/// Starts a daemon that monitors `actor` and logs its exit reason in brackets.
pub(crate) fn log_exit(events: &mut Loop, log: &Log, actor: impl Into<ActorId>) {
    let (log, actor) = (log.clone(), actor.into());
    events.spawn(move |cx: &mut Cx<()>, event| {
        match event {
            Event::Start => {
                cx.set_daemon(true);
                cx.monitor(actor);
            }
            Event::Down(down) => log.note(format!("[{}]", down.reason)),
            _ => {}
        }
        receive()
    });
}

/// Starts an actor that writes each event to `log`.
pub(crate) fn spawn_logger<M: Display + 'static>(events: &mut Loop, log: &Log) -> Addr<M> {
    let log = log.clone();
    events.spawn(move |_: &mut Cx<M>, event| -> Step<M> {
        note_event(&log, &event);
        receive()
    })
}

/// Writes a short form of an event to a log.
pub(crate) fn note_event<M: Display>(log: &Log, event: &Event<M>) {
    match event {
        Event::Start => log.note("start"),
        Event::Message(message) => log.note(message),
        Event::Timeout => log.note("timeout"),
        Event::Down(down) => log.note(format!("down:{}", down.reason)),
        Event::Terminate => log.note("terminate"),
        Event::Resumed(_) => log.note("resumed"),
        Event::Thrown(_) => log.note("thrown"),
        Event::Swap(_) => log.note("swap"),
        Event::Writable { .. } => log.note("writable"),
        Event::Ready(_) => log.note("ready"),
        _ => log.note("?"),
    }
}

/// Runs `act` with the `Cx` of a new actor, which then stops.
pub(crate) fn with_cx(events: &mut Loop, act: impl FnOnce(&mut Cx<'_, ()>) + 'static) {
    let mut act = Some(act);
    events.spawn(move |cx: &mut Cx<()>, _| {
        if let Some(act) = act.take() {
            act(cx);
        }
        antiphon_sched::stop()
    });
    settle(events);
}

/// Calls a closure when it is dropped.
pub(crate) struct OnDrop<F: FnMut()>(pub(crate) F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// The id of the request that a reply belongs to. Only the debug output of `ReplyTo` shows it.
#[cfg(feature = "serde")]
pub(crate) fn request_id_of<R>(reply: &antiphon_sched::ReplyTo<R>) -> antiphon_sched::RequestId {
    let shown = format!("{reply:?}");
    let number = shown.split(['(', ' ']).nth(1).and_then(|number| number.parse().ok());
    antiphon_sched::RequestId::from_bits(number.unwrap_or_else(|| panic!("no request id in {shown}")))
}

/// Panics when it is dropped.
pub(crate) struct PanicOnDrop;

impl Drop for PanicOnDrop {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("panic on drop");
        }
    }
}
