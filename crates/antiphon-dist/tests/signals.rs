//! SIGINT and SIGTERM at processes with a node.

mod common;

use std::os::unix::process::ExitStatusExt;
use std::process::ExitCode;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use antiphon_dist::Node;
use antiphon_sched::{Cx, Event, JobError, LoopConfig, finishing, receive, secs, stop};
use common::Net;
use common::harness::{self, tests};
use common::process::{self, Process, Role};
use rustix::process::Signal;

fn main() -> ExitCode {
    harness::run(
        play,
        tests![
            worker_finishes_its_jobs_after_sigterm,
            second_signal_ends_process_with_hung_step,
            run_with_ends_in_order_after_sigint,
            signal_after_run_has_its_default_action,
            embedder_keeps_its_own_handling,
        ],
    )
}

fn play(role: &Role) {
    let mut config = role.config();
    config.stop_on_signals = role.name != "embedded";
    config.scheduler = LoopConfig { stop_within: secs(30), watchdog: None, ..config.scheduler };
    let mut node = Node::new(config).expect("a node can start");
    match &*role.name {
        "worker" => work(&mut node),
        "hung" => {
            node.spawn(|_: &mut Cx<()>, event| {
                if matches!(event, Event::Start) {
                    process::send_line("hangs");
                    std::thread::sleep(Duration::from_secs(60));
                }
                receive()
            });
            node.serve().expect("the node runs");
        }
        "main" => {
            let actor = node.spawn(|_: &mut Cx<()>, event| {
                match event {
                    Event::Start => process::send_line("started"),
                    Event::Terminate => process::send_line("terminated"),
                    _ => {}
                }
                receive()
            });
            // Made before the run, so that the signal cannot come before it.
            let actor = node.join_handle::<()>(actor);
            let joined = node.run_with(move |_| actor.join(secs(30)));
            process::send_line(format_args!("joined {:?}", joined.expect("the node runs")));
        }
        "after" => {
            node.spawn(|_: &mut Cx<()>, _| stop());
            node.run().expect("the node runs");
            process::send_line("ran");
            std::thread::sleep(Duration::from_secs(60));
        }
        "embedded" => {
            node.spawn(|_: &mut Cx<()>, event| {
                if matches!(event, Event::Start) {
                    process::send_line("started");
                }
                receive()
            });
            node.serve().expect("the node runs");
        }
        other => panic!("no role {other}"),
    }
    process::send_line("end");
}

/// A worker with two jobs, each of which ends with a line from the parent.
fn work(node: &mut Node) {
    enum WorkerEvent {
        Done(Result<String, JobError>),
    }
    let commands = std::sync::Arc::new(std::sync::Mutex::new(process::commands()));
    let mut unfinished = 2;
    let worker = node.spawn(move |cx, event| match event {
        Event::Start => {
            for _ in 0..unfinished {
                let commands = commands.clone();
                cx.blocking(move || next(&commands.lock().expect("no holder panics")), WorkerEvent::Done);
            }
            process::send_line("started");
            receive()
        }
        Event::Terminate => {
            process::send_line("finishing");
            finishing(secs(20))
        }
        Event::Message(WorkerEvent::Done(job)) => {
            process::send_line(job.expect("the job ran"));
            unfinished -= 1;
            if unfinished == 0 { stop() } else { receive() }
        }
        _ => receive(),
    });
    let ended = node.serve_until(worker).expect("the node runs");
    process::send_line(format_args!("worker: {ended}"));
}

fn next(commands: &Receiver<String>) -> String {
    commands.recv().expect("the parent sends a line")
}

fn worker_finishes_its_jobs_after_sigterm() {
    let mut worker = Process::start(&Net::new(), "worker");
    assert_eq!(worker.line(), "started");
    worker.signal(Signal::TERM);
    assert_eq!(worker.line(), "finishing");
    for job in ["one", "two"] {
        worker.send_line(job);
        assert_eq!(worker.line(), job);
    }
    assert_eq!([worker.line(), worker.line()], ["worker: done", "end"]);
    assert_eq!(worker.wait().code(), Some(0));
}

fn second_signal_ends_process_with_hung_step() {
    let mut hung = Process::start(&Net::new(), "hung");
    assert_eq!(hung.line(), "hangs");
    // Two signals of one kind could become one.
    hung.signal(Signal::INT);
    hung.signal(Signal::TERM);
    let by = hung.wait().signal();
    assert!([Some(2), Some(15)].contains(&by), "ended by {by:?}");
}

fn run_with_ends_in_order_after_sigint() {
    let mut main = Process::start(&Net::new(), "main");
    assert_eq!(main.line(), "started");
    main.signal(Signal::INT);
    assert_eq!(main.line(), "terminated");
    assert_eq!([main.line(), main.line()], ["joined Err(NoValue(\"terminated\"))", "end"]);
    assert_eq!(main.wait().code(), Some(0));
}

fn signal_after_run_has_its_default_action() {
    let mut after = Process::start(&Net::new(), "after");
    assert_eq!(after.line(), "ran");
    after.signal(Signal::TERM);
    assert_eq!(after.wait().signal(), Some(15));
}

fn embedder_keeps_its_own_handling() {
    let mut embedded = Process::start(&Net::new(), "embedded");
    assert_eq!(embedded.line(), "started");
    embedded.signal(Signal::TERM);
    assert_eq!(embedded.wait().signal(), Some(15));
}
