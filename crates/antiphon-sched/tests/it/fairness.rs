//! An actor that never rests starves nobody.

use std::cell::Cell;
use std::io::{Read, Write};
use std::rc::Rc;

use antiphon_sched::*;

use crate::common::*;

/// An actor that sends to itself for ever, twice for each message.
fn glutton(events: &mut Loop) -> Addr<u32> {
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
fn a_self_sender_starves_neither_neighbours_nor_the_inbox_nor_timers() {
    let mut events = Loop::new(LoopConfig { mailbox_max: 1_000_000, ..virtual_config() }).unwrap();
    let log = Log::default();
    events.spawn(|cx: &mut Cx<u32>, _| {
        cx.send(cx.addr(), 0)?;
        receive()
    });
    let seen = log.clone();
    let neighbour = events.spawn(move |cx: &mut Cx<u32>, event| {
        tell(&seen, &event);
        if let Event::Start = event {
            cx.after(millis(5), 50);
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
    assert!(events.is_runnable(), "the glutton goes on");
}

#[test]
fn a_self_sender_starves_no_socket() {
    let mut events =
        Loop::new(LoopConfig { mailbox_max: 1_000_000, watchdog: None, ..LoopConfig::default() }).unwrap();
    let glutton = glutton(&mut events);
    let (mut near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    far.set_nonblocking(true).unwrap();
    let mut far = mio::net::UnixStream::from_std(far);
    let heard = Rc::new(Cell::new(0));
    let count = heard.clone();
    events.spawn(move |cx: &mut Cx<u32>, event| {
        match event {
            Event::Start => drop(cx.register_source(&mut far, mio::Interest::READABLE)?),
            Event::Ready(_) => {
                let mut bytes = [0; 64];
                while let Ok(n @ 1..) = far.read(&mut bytes) {
                    count.set(count.get() + n);
                }
                if count.get() == 10 {
                    cx.terminate(glutton);
                    return stop();
                }
            }
            _ => {}
        }
        receive()
    });
    for _ in 0..10 {
        near.write_all(b"x").unwrap();
        let before = heard.get();
        // The byte is in the socket: a few rounds suffice, however busy the loop is.
        for _ in 0..3 {
            events.run_once(None).unwrap();
        }
        assert_eq!(heard.get(), before + 1);
    }
    events.run().unwrap();
    assert_eq!(heard.get(), 10);
}

#[test]
fn a_flood_of_mail_starves_no_actor() {
    let mut events = virtual_loop();
    let log = Log::default();
    let sink = events.spawn(|_: &mut Cx<u32>, _| receive());
    let handle = events.handle();
    for n in 0..60_000 {
        handle.send(sink, n).unwrap();
    }
    let other = scribe::<u32>(&mut events, &log);
    events.send(other, 1).unwrap();
    events.work();
    assert_eq!(log.take(), "start 1");
    assert!(events.is_runnable(), "most of the mail still waits");
}

#[test]
fn what_an_actor_sends_to_itself_waits_for_its_next_turn() {
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
fn a_long_mailbox_gets_an_eighth_of_it_a_turn_and_a_short_one_64_steps() {
    for (waiting, share) in [(65, 64), (512, 64), (4_096, 512), (60_000, 7_500)] {
        let mut events = Loop::new(virtual_config()).unwrap();
        let steps = Rc::new(Cell::new(0));
        let seen = Rc::new(Cell::new(0));
        let count = steps.clone();
        let busy = events.spawn(move |_: &mut Cx<u32>, event| {
            if let Event::Message(_) = event {
                count.set(count.get() + 1);
            }
            receive()
        });
        events.work();
        for n in 0..waiting {
            events.send(busy, n).unwrap();
        }
        let (at, of) = (seen.clone(), steps.clone());
        events.spawn(move |_: &mut Cx<()>, _| {
            at.set(of.get());
            stop()
        });
        events.work();
        assert_eq!(seen.get(), share, "of {waiting}");
    }
}
