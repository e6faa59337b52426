//! A loop embedded in another loop: `run_once`, `next_deadline`, `AsRawFd`, external readiness.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::thread;

use antiphon_sched::*;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::common::*;

/// Runs a loop only by its descriptor and its deadlines, as an embedder does.
fn drive(events: &mut Loop, mut done: impl FnMut() -> bool) {
    let mut poll = Poll::new().unwrap();
    let fd = events.as_raw_fd();
    poll.registry().register(&mut SourceFd(&fd), Token(1), Interest::READABLE).unwrap();
    let mut ready = Events::with_capacity(4);
    let begun = std::time::Instant::now();
    while !done() {
        assert!(begun.elapsed() < secs(20), "the embedder sleeps although the loop has work");
        let now = events.now();
        events.run_once(Some(now)).unwrap();
        let wait = match events.next_deadline() {
            Some(next) => next.since(events.now()),
            None => secs(30),
        };
        if !done() {
            poll.poll(&mut ready, Some(wait)).unwrap();
        }
    }
}

#[test]
fn embedded_loop_wakes_for_messages_of_threads() {
    let mut events = real_loop();
    let handle = events.handle();
    let (report, reports) = std::sync::mpsc::channel();
    let count = std::rc::Rc::new(std::cell::Cell::new(0));
    let counted = count.clone();
    let sink = events.spawn(move |_, event: Event<u32>| {
        if let Event::Message(n) = event {
            counted.set(counted.get() + 1);
            report.send(n)?;
        }
        receive()
    });
    let thread = thread::spawn(move || {
        for n in 0..200 {
            handle.send(sink, n).unwrap();
            assert_eq!(reports.recv_timeout(secs(10)), Ok(n));
        }
    });
    drive(&mut events, || count.get() == 200);
    thread.join().unwrap();
}

#[test]
fn embedded_loop_wakes_for_sources_and_timers() {
    let mut events = real_loop();
    let log = Log::default();
    let seen = log.clone();
    let done = std::rc::Rc::new(std::cell::Cell::new(false));
    let flag = done.clone();
    let (mut near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    far.set_nonblocking(true).unwrap();
    let mut far = mio::net::UnixStream::from_std(far);
    events.spawn(move |cx: &mut Cx<u32>, event| {
        note_event(&seen, &event);
        match event {
            Event::Start => {
                cx.register_source(&mut far, Interest::READABLE)?;
                receive_within(millis(10))
            }
            Event::Timeout => {
                near.write_all(b"x")?;
                receive()
            }
            Event::Ready(_) => {
                flag.set(true);
                stop()
            }
            _ => receive(),
        }
    });
    drive(&mut events, || done.get());
    assert_eq!(log.take(), "start timeout ready");
}

#[test]
fn embedded_loop_wakes_for_stop() {
    let mut events = real_loop();
    let handle = events.handle();
    let ended = std::rc::Rc::new(std::cell::Cell::new(false));
    let flag = ended.clone();
    let (report, started) = std::sync::mpsc::channel();
    events.spawn(move |_: &mut Cx<u32>, event| {
        match event {
            Event::Start => report.send(())?,
            Event::Terminate => flag.set(true),
            _ => {}
        }
        receive()
    });
    let thread = thread::spawn(move || {
        started.recv().unwrap();
        thread::sleep(millis(20));
        handle.stop();
    });
    drive(&mut events, || ended.get());
    thread.join().unwrap();
}

#[test]
fn next_deadline_is_now_while_work_waits() {
    let mut events = virtual_loop();
    assert_eq!(events.next_deadline(), None);
    let actor = events.spawn(|_: &mut Cx<u32>, _| receive_within(secs(3)));
    assert_eq!(events.next_deadline(), Some(events.now()));
    settle(&mut events);
    let next = events.next_deadline().unwrap();
    assert!(next > events.now() && next <= events.now() + secs(3) + millis(2));
    events.handle().send(actor, 1).unwrap();
    assert_eq!(events.next_deadline(), Some(events.now()), "a message waits in the inbox");
}

#[test]
fn external_readiness_reaches_embedder() {
    let mut events = real_loop();
    let (mut near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    far.set_nonblocking(true).unwrap();
    let mut far = mio::net::UnixStream::from_std(far);
    let token = Token(EXTERNAL_TOKENS + 3);
    events.registry().unwrap().register(&mut far, token, Interest::READABLE).unwrap();
    near.write_all(b"x").unwrap();
    let mut external = Vec::new();
    events.work();
    events.park(None, &mut external).unwrap();
    let readiness = FdReadiness { readable: true, ..FdReadiness::default() };
    assert_eq!(external, [ExternalReadiness { token, readiness }]);
    external.clear();
    let soon = events.now();
    events.park(Some(soon), &mut external).unwrap();
    assert_eq!(external, []);
}

#[test]
fn run_once_waits_until_its_deadline() {
    let mut events = real_loop();
    events.spawn(|_: &mut Cx<()>, _| receive());
    let now = events.now();
    events.run_once(Some(now)).unwrap();
    let begun = std::time::Instant::now();
    let deadline = events.now() + millis(30);
    events.run_once(Some(deadline)).unwrap();
    let waited = begun.elapsed();
    assert!(waited >= millis(5), "it waited {waited:?}");
    assert!(waited < secs(10), "it waited {waited:?}");
}
