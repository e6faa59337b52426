//! The limits of one actor refuse what exceeds them, and the actor goes on.

use antiphon_sched::*;

use crate::common::*;

fn limited_loop() -> Loop {
    Loop::new(LoopConfig { requests_max: 3, ..virtual_config() }).unwrap()
}

#[test]
fn timers_over_limit_are_refused() {
    let mut events = limited_loop();
    let log = Log::default();
    let seen = log.clone();
    events.spawn(move |cx: &mut Cx<u32>, event| {
        note_event(&seen, &event);
        if let Event::Start = event {
            let first = cx.after(secs(1), 1)?;
            cx.after(secs(2), 2)?;
            cx.every(secs(3), || 3)?;
            seen.note(cx.after(secs(4), 4).unwrap_err().max);
            assert_eq!(cx.every(secs(5), || 5), Err(TooManyOpen { max: 3 }));
            assert!(cx.cancel(first));
            cx.after(secs(1), 6)?;
        }
        receive()
    });
    pass(&mut events, millis(3500));
    assert_eq!(log.take(), "start 3 6 2 3");
}

#[test]
fn monitor_over_limit_reports_down_refused() {
    let mut events = limited_loop();
    let log = Log::default();
    let targets: Vec<_> = (0..5).map(|_| events.spawn(|_: &mut Cx<u32>, _| receive())).collect();
    let (seen, all) = (log.clone(), targets.clone());
    events.spawn(move |cx: &mut Cx<u32>, event| {
        note_event(&seen, &event);
        if let Event::Start = event {
            all.iter().for_each(|target| _ = cx.monitor(*target));
        }
        receive()
    });
    settle(&mut events);
    assert_eq!(log.take(), "start down:no more monitors are admitted down:no more monitors are admitted");
    targets.iter().for_each(|target| events.loop_ref().terminate(*target));
    settle(&mut events);
    assert_eq!(log.take(), "down:terminated down:terminated down:terminated");
}

#[test]
fn asks_over_limit_fail() {
    let mut events = limited_loop();
    let log = Log::default();
    let silent = events.spawn(|_: &mut Cx<ReplyTo<u32>>, _| suspend());
    let seen = log.clone();
    events.spawn(move |cx: &mut Cx<Result<u32, AskError>>, event| {
        match event {
            Event::Start => (0..4).for_each(|_| cx.ask(silent, secs(1), |reply| reply, |answer| answer)),
            Event::Message(answer) => seen.note(format!("{answer:?}")),
            _ => {}
        }
        receive()
    });
    settle(&mut events);
    assert_eq!(log.take(), "Err(TooManyOpen)");
}

#[test]
fn manager_monitors_many_children() {
    const CHILDREN: u32 = 200_000;
    let mut events = virtual_loop();
    let ended = std::rc::Rc::new(std::cell::Cell::new(0));
    let seen = ended.clone();
    events.spawn(move |cx: &mut Cx<()>, event| {
        match event {
            Event::Start => {
                for _ in 0..CHILDREN {
                    let child = cx.spawn(|_: &mut Cx<()>, _| receive());
                    cx.monitor(child);
                }
            }
            Event::Down(_) => seen.set(seen.get() + 1),
            _ => {}
        }
        receive()
    });
    settle(&mut events);
    assert_eq!(events.stats().actors, CHILDREN as usize + 1);
    events.handle().stop();
    settle(&mut events);
    assert_eq!(ended.get(), CHILDREN, "the children are newer, so the manager receives each `Down`");
    assert!(events.has_stopped());
}

#[test]
fn sender_at_limit_receives_writable() {
    let mut events = Loop::new(LoopConfig { requests_max: 1, mailbox_max: 1, ..virtual_config() }).unwrap();
    let log = Log::default();
    let slow = events.spawn(|_: &mut Cx<u32>, event| match event {
        Event::Start => suspend(),
        _ => receive(),
    });
    settle(&mut events);
    let seen = log.clone();
    events.spawn(move |cx: &mut Cx<u32>, event| {
        match event {
            Event::Start => {
                cx.after(secs(1000), 1)?;
                cx.send(slow, 1)?;
                seen.note(matches!(cx.send(slow, 2), Err(SendError::Full(2))));
            }
            Event::Writable { .. } => seen.note("writable"),
            _ => {}
        }
        receive()
    });
    settle(&mut events);
    with_cx(&mut events, move |cx| cx.resume(slow, ()));
    assert_eq!(log.take(), "true writable");
}

/// Starts an actor with a mailbox of two messages, and lets it sleep until it is resumed.
fn spawn_small(events: &mut Loop, log: &Log, when_full: WhenFull) -> Addr<u32> {
    let seen = log.clone();
    let small = actor(move |_: &mut Cx<u32>, event| {
        note_event(&seen, &event);
        if let Event::Start = event { suspend() } else { receive() }
    });
    let addr = events.spawn_with(MailboxLimit::new(2, when_full), small);
    settle(events);
    addr
}

#[test]
fn mailbox_policies_drop_or_refuse_messages() {
    for (when_full, accepted, rest) in [
        (WhenFull::Refuse, 2, "resumed 0 1"),
        (WhenFull::DropOldest, 5, "resumed 3 4"),
        (WhenFull::DropNewest, 5, "resumed 0 1"),
    ] {
        let mut events = virtual_loop();
        let log = Log::default();
        let small = spawn_small(&mut events, &log, when_full);
        let sent = (0..5).filter(|n| events.send(small, *n).is_ok()).count();
        assert_eq!(sent, accepted, "{when_full:?}");
        assert_eq!(events.stats().dead_letters_by_reason.discarded, sent as u64 - 2);
        with_cx(&mut events, move |cx| cx.resume(small, ()));
        assert_eq!(log.take(), format!("start {rest}"), "{when_full:?}");
    }
}

#[test]
fn dropping_mailbox_keeps_events_and_answers() {
    let mut events = virtual_loop();
    let log = Log::default();
    let server = events.spawn(|cx: &mut Cx<ReplyTo<u32>>, event| {
        if let Event::Message(reply) = event {
            cx.reply(reply, 77);
        }
        receive()
    });
    let mortal = events.spawn(|_: &mut Cx<u32>, _| receive());
    let seen = log.clone();
    let small = actor(move |cx: &mut Cx<u32>, event| {
        note_event(&seen, &event);
        if let Event::Start = event {
            cx.monitor(mortal);
            (0..3).for_each(|_| cx.ask(server, secs(9), |reply| reply, |answer| answer.unwrap_or(0)));
            return suspend();
        }
        receive()
    });
    let small = events.spawn_with(MailboxLimit::new(2, WhenFull::DropOldest), small);
    settle(&mut events);
    events.loop_ref().terminate(mortal);
    settle(&mut events);
    (0..3).for_each(|n| events.send(small, n).unwrap());
    with_cx(&mut events, move |cx| cx.resume(small, ()));
    assert_eq!(log.take(), "start resumed 77 77 77 down:terminated");
    assert_eq!(events.stats().dead_letters_by_reason.discarded, 3, "only events and answers are in it");
}

#[test]
fn discarded_request_completes_at_once() {
    let mut events = virtual_loop();
    let log = Log::default();
    let full = actor(|_: &mut Cx<ReplyTo<u32>>, _| suspend());
    let full = events.spawn_with(MailboxLimit::new(1, WhenFull::DropOldest), full);
    settle(&mut events);
    let seen = log.clone();
    events.spawn(move |cx: &mut Cx<Result<u32, AskError>>, event| {
        match event {
            Event::Start => (0..3).for_each(|_| cx.ask(full, secs(9), |reply| reply, |answer| answer)),
            Event::Message(answer) => seen.note(format!("{answer:?}")),
            _ => {}
        }
        receive()
    });
    settle(&mut events);
    assert_eq!(log.take(), "Err(Dropped) Err(Dropped)");
}
