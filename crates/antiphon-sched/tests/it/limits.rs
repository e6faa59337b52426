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
