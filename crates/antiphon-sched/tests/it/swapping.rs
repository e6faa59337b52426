//! Hot swap: an actor replaces its own behaviour, or takes one that another actor offers.

use antiphon_sched::*;

use crate::common::*;

#[test]
fn swap_keeps_mailbox_address_timers_monitors_and_requests() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    let monitored = spawn_logger::<u32>(&mut events, &Log::default());
    let sink = events.spawn(|_: &mut Cx<ReplyTo<u32>>, _| suspend());
    let actor = events.spawn(move |cx, event: Event<u32>| {
        let next = seen.clone();
        match event {
            Event::Start => {
                cx.monitor(monitored);
                cx.after(millis(10), 100).unwrap();
                cx.every(millis(30), || 200).unwrap();
                cx.ask(sink, millis(20), |reply| reply, |answer| if answer.is_err() { 300 } else { 0 });
                receive()
            }
            Event::Message(1) => swap(move |_, event| {
                note_event(&next, &event);
                receive()
            }),
            _ => receive(),
        }
    });
    for n in 1..5 {
        events.send(actor, n).unwrap();
    }
    pass(&mut events, millis(40));
    assert_eq!(log.take(), "2 3 4 100 300 200");
    events.send(actor, 5).unwrap();
    with_cx(&mut events, move |cx| cx.terminate(monitored));
    assert_eq!(log.take(), "5 down:terminated");
    with_cx(&mut events, move |cx| cx.terminate(actor));
    with_cx(&mut events, move |cx| cx.terminate(sink));
    let stats = events.stats();
    assert_eq!((stats.actors, stats.timers, stats.requests, stats.extras), (0, 0, 0, 0));
}

#[test]
fn swap_drops_old_behaviour_at_once() {
    let mut events = virtual_loop();
    let log = Log::default();
    let drops = log.clone();
    let dropped = OnDrop(move || drops.note("dropped"));
    let seen = log.clone();
    let actor = events.spawn(move |_: &mut Cx<u8>, _| {
        let (_, next) = (&dropped, seen.clone());
        seen.note("old");
        swap_actor(actor(move |_, event| {
            note_event(&next, &event);
            stop()
        }))
    });
    settle(&mut events);
    assert_eq!(log.take(), "old dropped", "the new behaviour gets no start event");
    events.send(actor, 7).unwrap();
    settle(&mut events);
    assert_eq!(log.take(), "7");
    assert_eq!(events.stats().actors, 0);
}

#[test]
fn swap_offer_accepted_replaces_behaviour() {
    let mut events = virtual_loop();
    let log = Log::default();
    let taker = events.spawn(|_, event: Event<u32>| match event {
        Event::Swap(offer) => swap_actor(offer),
        _ => receive(),
    });
    let seen = log.clone();
    with_cx(&mut events, move |cx| {
        cx.send(taker, 1).unwrap();
        cx.swap(taker, move |_, event| {
            note_event(&seen, &event);
            receive()
        });
        cx.send(taker, 2).unwrap();
    });
    assert_eq!(log.take(), "2");
}

#[test]
fn swap_offer_not_accepted_is_dropped() {
    let mut events = virtual_loop();
    let log = Log::default();
    let refuser = spawn_logger::<u32>(&mut events, &log);
    let seen = log.clone();
    with_cx(&mut events, move |cx| {
        let dropped = OnDrop(move || seen.note("dropped"));
        cx.swap(refuser, move |_, _| {
            let _ = &dropped;
            panic!("a refused behaviour ran")
        });
    });
    events.send(refuser, 1).unwrap();
    settle(&mut events);
    assert_eq!(log.take(), "start swap dropped 1");
}

#[test]
fn repeated_swaps_leak_nothing_and_stay_fair() {
    let mut events = virtual_loop();
    let log = Log::default();
    fn next(left: u32, log: Log) -> impl Actor<u32> {
        actor(move |cx, event| match event {
            Event::Message(_) if left == 0 => {
                log.note("end");
                stop()
            }
            _ => {
                cx.send(cx.addr(), left)?;
                swap_actor(next(left - 1, log.clone()))
            }
        })
    }
    events.spawn_actor(next(1000, log.clone()));
    spawn_logger::<u32>(&mut events, &log);
    settle(&mut events);
    assert_eq!(log.take(), "start end", "the other actor runs before the last swap");
    assert_eq!(events.stats().actors, 1);
}

/// The actor's slot is already free when its step returns. The returned swap must not reach the next actor in
/// that slot.
#[test]
fn swap_by_terminated_actor_is_ignored() {
    let mut events = virtual_loop();
    let log = Log::default();
    for _ in 0..3 {
        events.spawn(|cx: &mut Cx<u32>, _| {
            let adapter = cx.adapter(|_: u8| panic!("in an adapter")).unwrap();
            cx.send(adapter, 1)?;
            swap(|_, _| panic!("a terminated actor ran"))
        });
    }
    settle(&mut events);
    let successors: Vec<_> = (0..6).map(|_| spawn_logger::<u32>(&mut events, &log)).collect();
    settle(&mut events);
    assert_eq!(log.take(), "start start start start start start");
    for (n, successor) in (0..).zip(successors) {
        events.send(successor, n).unwrap();
    }
    settle(&mut events);
    assert_eq!(log.take(), "0 1 2 3 4 5");
    assert_eq!(events.stats().actors, 6);
}

/// The start and 63 messages make up a batch of 64 steps. The panic is in the last step.
#[test]
fn actor_terminated_in_last_batch_step_stays_terminated() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = events.spawn(|cx: &mut Cx<u32>, event| {
        if let Event::Message(62) = event {
            let adapter = cx.adapter(|_: u8| panic!("in an adapter")).unwrap();
            cx.send(adapter, 1)?;
        }
        receive()
    });
    for n in 0..200 {
        events.send(actor, n).unwrap();
    }
    settle(&mut events);
    assert_eq!(events.stats().actors, 0);
    let successors: Vec<_> = (0..4).map(|_| spawn_logger::<u32>(&mut events, &log)).collect();
    settle(&mut events);
    for (n, successor) in (0..).zip(successors) {
        events.send(successor, n).unwrap();
    }
    settle(&mut events);
    assert_eq!(log.take(), "start start start start 0 1 2 3");
}
