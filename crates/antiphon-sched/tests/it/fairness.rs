//! Fairness: a busy actor starves no other actor, socket, timer or inbox.

use std::cell::Cell;
use std::io::{Read, Write};
use std::rc::Rc;

use antiphon_sched::*;

use crate::common::*;

/// Starts an actor that sends to itself without end. It sends two messages for each of the first ones, so its mailbox
/// fills.
fn self_sender(events: &mut Loop) -> Addr<u32> {
    events.spawn(|cx: &mut Cx<u32>, event| {
        match event {
            Event::Start => cx.send(cx.addr(), 0)?,
            Event::Message(n) => {
                cx.send(cx.addr(), n + 1)?;
                if n < 1000 {
                    cx.send(cx.addr(), n + 1)?;
                }
            }
            _ => {}
        }
        receive()
    })
}

#[test]
fn self_sender_starves_no_actor_inbox_or_timer() {
    let mut events = Loop::new(LoopConfig { mailbox_max: 1_000_000, ..virtual_config() }).unwrap();
    let log = Log::default();
    events.spawn(|cx: &mut Cx<u32>, _| {
        cx.send(cx.addr(), 0)?;
        receive()
    });
    let seen = log.clone();
    let neighbour = events.spawn(move |cx: &mut Cx<u32>, event| {
        note_event(&seen, &event);
        if let Event::Start = event {
            cx.after(millis(5), 50).unwrap();
        }
        receive()
    });
    events.work();
    events.send(neighbour, 1).unwrap();
    events.handle().send(neighbour, 2).unwrap();
    let later = events.now() + millis(7);
    events.advance_to(later);
    events.work();
    assert_eq!(log.take(), "start 1 2 50", "all within one round");
    assert!(events.is_runnable(), "the self-sender is still runnable");
}

#[test]
fn self_sender_starves_no_socket() {
    let mut events =
        Loop::new(LoopConfig { mailbox_max: 1_000_000, watchdog: None, ..LoopConfig::default() }).unwrap();
    let self_sender = self_sender(&mut events);
    let (mut near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    far.set_nonblocking(true).unwrap();
    let mut far = mio::net::UnixStream::from_std(far);
    let received = Rc::new(Cell::new(0));
    let count = received.clone();
    events.spawn(move |cx: &mut Cx<u32>, event| {
        match event {
            Event::Start => drop(cx.register_source(&mut far, mio::Interest::READABLE)?),
            Event::Ready(_) => {
                let mut bytes = [0; 64];
                while let Ok(n @ 1..) = far.read(&mut bytes) {
                    count.set(count.get() + n);
                }
                if count.get() == 10 {
                    cx.terminate(self_sender);
                    return stop();
                }
            }
            _ => {}
        }
        receive()
    });
    for _ in 0..10 {
        near.write_all(b"x").unwrap();
        let before = received.get();
        // The byte is in the socket, so three rounds suffice, however busy the loop is.
        for _ in 0..3 {
            events.run_once(None).unwrap();
        }
        assert_eq!(received.get(), before + 1);
    }
    events.run().unwrap();
    assert_eq!(received.get(), 10);
}

#[test]
fn inbox_flood_starves_no_actor() {
    let mut events = virtual_loop();
    let log = Log::default();
    let sink = events.spawn(|_: &mut Cx<u32>, _| receive());
    let handle = events.handle();
    for n in 0..60_000 {
        handle.send(sink, n).unwrap();
    }
    let other = spawn_logger::<u32>(&mut events, &log);
    events.send(other, 1).unwrap();
    events.work();
    assert_eq!(log.take(), "start 1");
    assert!(events.is_runnable(), "most messages are still in the inbox");
}

#[test]
fn message_to_self_waits_for_next_batch() {
    let mut events = Loop::new(virtual_config()).unwrap();
    let log = Rc::new(std::cell::RefCell::new(String::new()));
    for name in ["a", "b"] {
        let log = log.clone();
        events.spawn(move |cx: &mut Cx<u32>, event| {
            log.borrow_mut().push_str(name);
            match event {
                Event::Message(4) => stop(),
                Event::Message(n) => {
                    cx.send(cx.addr(), n + 1)?;
                    receive()
                }
                _ => {
                    cx.send(cx.addr(), 1)?;
                    receive()
                }
            }
        });
    }
    events.run().unwrap();
    assert_eq!(*log.borrow(), "ababababab");
}

#[test]
fn batch_is_64_steps_or_eighth_of_mailbox() {
    for (queued, batch) in [(65, 64), (512, 64), (4_096, 512), (60_000, 7_500)] {
        let mut events = Loop::new(virtual_config()).unwrap();
        let steps = Rc::new(Cell::new(0));
        // The steps of the busy actor before the first step of the other.
        let seen = Rc::new(Cell::new(0));
        let count = steps.clone();
        let busy = events.spawn(move |_: &mut Cx<u32>, event| {
            if let Event::Message(_) = event {
                count.set(count.get() + 1);
            }
            receive()
        });
        events.work();
        for n in 0..queued {
            events.send(busy, n).unwrap();
        }
        let (copy, count) = (seen.clone(), steps.clone());
        events.spawn(move |_: &mut Cx<()>, _| {
            copy.set(count.get());
            stop()
        });
        events.work();
        assert_eq!(seen.get(), batch, "of {queued} messages");
    }
}

/// Work in parts, each as long as a round: sockets, timers and the inbox come between two of them.
#[test]
fn part_that_ends_round_is_its_last() {
    let mut events = real_loop();
    let parts = Rc::new(Cell::new(0));
    let done = parts.clone();
    events.spawn(move |cx: &mut Cx<()>, _| {
        while !cx.loop_ref().service().ends_round() {}
        done.set(done.get() + 1);
        if done.get() < 20 { sleep(std::time::Duration::ZERO) } else { stop() }
    });
    for round in 1..=20 {
        events.work();
        assert_eq!(parts.get(), round);
    }
}
