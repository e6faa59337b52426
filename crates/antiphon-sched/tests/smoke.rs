//! The first things that must hold.
#![expect(clippy::unwrap_used, reason = "a test")]
use antiphon_sched::*;
use std::cell::RefCell;
use std::rc::Rc;

fn lp() -> Loop {
    Loop::new(LoopConfig::default()).unwrap()
}

#[test]
fn an_ask_is_answered_and_a_dropped_reply_too() {
    let mut l = lp();
    let log = Rc::new(RefCell::new(Vec::new()));
    let echo = l.spawn(|cx: &mut Cx<(u32, Reply<u32>)>, event| {
        match event {
            Event::Start => cx.set_daemon(true),
            Event::Message((n, reply)) if n != 7 => cx.answer(reply, n + 1),
            _ => {}
        }
        receive()
    });
    let seen = log.clone();
    l.spawn(move |cx: &mut Cx<Result<u32, AskError>>, event| match event {
        Event::Start => {
            cx.ask(echo, secs(5), |r| (1, r), |a| a);
            cx.ask(echo, secs(5), |r| (7, r), |a| a);
            receive()
        }
        Event::Message(m) => {
            seen.borrow_mut().push(m);
            if seen.borrow().len() == 2 { stop() } else { receive() }
        }
        _ => receive(),
    });
    l.run().unwrap();
    assert_eq!(*log.borrow(), [Ok(2), Err(AskError::Dropped)]);
}

#[test]
fn timers_sleep_monitor_panics() {
    let mut l = lp();
    let log = Rc::new(RefCell::new(Vec::new()));
    let bad = l.spawn(|_: &mut Cx<()>, event| match event {
        Event::Start => sleep(millis(5)),
        Event::Timeout => panic!("boom"),
        _ => receive(),
    });
    let seen = log.clone();
    l.spawn(move |cx: &mut Cx<u8>, event| {
        match event {
            Event::Start => {
                cx.monitor(bad);
                let t = cx.after(millis(1), 9);
                cx.cancel(t);
                cx.after(millis(20), 1);
                cx.after(millis(30), 2);
                cx.after(millis(40), 3);
            }
            Event::Message(n) => seen.borrow_mut().push(format!("{n}")),
            Event::Down(d) => seen.borrow_mut().push(d.why.to_string()),
            _ => {}
        }
        if seen.borrow().len() == 4 { stop() } else { receive() }
    });
    l.run().unwrap();
    assert_eq!(log.borrow().join(","), "panicked: boom,1,2,3");
    assert_eq!(l.stats().timers, 0);
    assert_eq!(l.stats().actors, 0);
}

#[test]
fn threads_ask_and_join() {
    let mut l = lp();
    let h = l.handle();
    let adder = l.spawn(|cx: &mut Cx<(u32, Option<Reply<u32>>)>, event| match event {
        Event::Message((n, Some(reply))) => {
            cx.answer(reply, n + 1);
            receive()
        }
        Event::Message((n, None)) => exit_local(n),
        _ => receive(),
    });
    let t = std::thread::spawn(move || {
        let a = h.ask(adder, secs(5), |r| (5, Some(r)));
        let s = h.spawn(|cx: &mut Cx<()>, _| {
            cx.set_daemon(true);
            receive()
        });
        h.send(adder, (3, None)).unwrap();
        (a, s.is_ok())
    });
    l.run().unwrap();
    assert_eq!(t.join().unwrap(), (Ok(6), true));
}
