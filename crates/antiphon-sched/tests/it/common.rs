//! What the tests share: virtual loops, and a log that actors write to.

use std::cell::RefCell;
use std::fmt::Display;
use std::rc::Rc;
use std::time::Duration;

use antiphon_sched::{ActorId, Addr, Cx, Event, Loop, LoopConfig, Park, Step, receive};

/// What happened, in order.
#[derive(Clone, Default)]
pub(crate) struct Log(Rc<RefCell<Vec<String>>>);

impl Log {
    pub(crate) fn note(&self, what: impl Display) {
        self.0.borrow_mut().push(what.to_string());
    }

    /// What happened since the last look, joined by spaces.
    pub(crate) fn take(&self) -> String {
        std::mem::take(&mut *self.0.borrow_mut()).join(" ")
    }
}

pub(crate) fn virtual_config() -> LoopConfig {
    LoopConfig { park: Park::Virtual, ..LoopConfig::default() }
}

pub(crate) fn virtual_loop() -> Loop {
    Loop::new(virtual_config()).unwrap()
}

/// A real loop, without the watchdog's thread.
pub(crate) fn real_loop() -> Loop {
    Loop::new(LoopConfig { watchdog: None, ..LoopConfig::default() }).unwrap()
}

/// The environment variable that names the test for which a process was started.
const PROCESS_OF_TEST: &str = "ANTIPHON_PROCESS_OF_TEST";

/// Returns a command that starts the test `name` again, alone in a process of its own; `None` in that process.
pub(crate) fn own_process(name: &str) -> Option<std::process::Command> {
    if std::env::var_os(PROCESS_OF_TEST).is_some_and(|test| test == name) {
        return None;
    }
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(PROCESS_OF_TEST, name);
    Some(command)
}

/// Runs a command of [`own_process`], and fails unless its one test passes.
pub(crate) fn expect_pass(mut command: std::process::Command) {
    let output = command.output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{text}{errors}");
}

/// Runs a loop until nothing is runnable. A test that keeps it busy for ever fails.
pub(crate) fn settle(events: &mut Loop) {
    for _ in 0..1_000_000 {
        events.work();
        if !events.is_runnable() {
            return;
        }
    }
    panic!("the loop does not come to rest");
}

/// Lets `span` pass on a virtual loop, from deadline to deadline.
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

/// Has `log` told how `actor` ends, by a daemon.
pub(crate) fn log_end(events: &mut Loop, log: &Log, actor: impl Into<ActorId>) {
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

/// An actor that writes each event to `log`, and waits for the next.
pub(crate) fn scribe<M: Display + 'static>(events: &mut Loop, log: &Log) -> Addr<M> {
    let log = log.clone();
    events.spawn(move |_: &mut Cx<M>, event| -> Step<M> {
        tell(&log, &event);
        receive()
    })
}

/// Writes an event to a log.
pub(crate) fn tell<M: Display>(log: &Log, event: &Event<M>) {
    match event {
        Event::Start => log.note("start"),
        Event::Message(message) => log.note(message),
        Event::Timeout => log.note("timeout"),
        Event::Down(down) => log.note(format!("down:{}", down.reason)),
        Event::Terminate => log.note("terminate"),
        Event::Resumed(_) => log.note("resumed"),
        Event::Thrown(_) => log.note("thrown"),
        Event::Swap(_) => log.note("swap"),
        Event::Writable(_) => log.note("writable"),
        Event::Ready(_) => log.note("ready"),
        _ => log.note("?"),
    }
}

/// Runs a step of an actor of its own, once: what only a `Cx` can do.
pub(crate) fn within(events: &mut Loop, act: impl FnOnce(&mut Cx<'_, ()>) + 'static) {
    let mut act = Some(act);
    events.spawn(move |cx: &mut Cx<()>, _| {
        if let Some(act) = act.take() {
            act(cx);
        }
        antiphon_sched::stop()
    });
    settle(events);
}

/// A value whose drop does something.
pub(crate) struct OnDrop<F: FnMut()>(pub(crate) F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// A value whose drop panics.
pub(crate) struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("a bomb went off");
        }
    }
}
