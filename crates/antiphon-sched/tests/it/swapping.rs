//! Hot swap: an actor's own, and offered by another.

use antiphon_sched::*;

use crate::common::*;

#[test]
fn a_swap_keeps_mailbox_address_timers_monitors_and_ports() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    let victim = scribe::<u32>(&mut events, &Log::default());
    let sink = events.spawn(|_: &mut Cx<ReplyTo<u32>>, _| suspend());
    let actor = events.spawn(move |cx, event: Event<u32>| {
        let next = seen.clone();
        match event {
            Event::Start => {
                cx.monitor(victim);
                cx.after(millis(10), 100);
                cx.every(millis(30), || 200);
                cx.ask(sink, millis(20), |reply| reply, |answer| if answer.is_err() { 300 } else { 0 });
                receive()
            }
            Event::Message(1) => swap(move |_, event| {
                tell(&next, &event);
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
    within(&mut events, move |cx| cx.terminate(victim));
    assert_eq!(log.take(), "5 down:terminated");
    within(&mut events, move |cx| cx.terminate(actor));
    within(&mut events, move |cx| cx.terminate(sink));
    let stats = events.stats();
    assert_eq!((stats.actors, stats.timers, stats.requests, stats.extras), (0, 0, 0, 0));
}

#[test]
fn the_old_behaviour_is_dropped_at_the_swap() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    let dropped = OnDrop(move || seen.note("dropped"));
    let seen = log.clone();
    events.spawn(move |_: &mut Cx<()>, _| {
        let (_, next) = (&dropped, seen.clone());
        seen.note("old");
        swap_actor(actor(move |_, event| {
            tell(&next, &event.discard());
            stop()
        }))
    });
    settle(&mut events);
    assert_eq!(log.take(), "old dropped", "the new behaviour gets the next event, not a start");
}

trait Discard {
    fn discard(self) -> Event<u8>;
}

impl Discard for Event<()> {
    fn discard(self) -> Event<u8> {
        match self {
            Self::Message(()) => Event::Message(0),
            Self::Start => Event::Start,
            _ => Event::Timeout,
        }
    }
}

#[test]
fn an_offer_is_taken_by_swap_actor() {
    let mut events = virtual_loop();
    let log = Log::default();
    let taker = events.spawn(|_, event: Event<u32>| match event {
        Event::Swap(offer) => swap_actor(offer),
        _ => receive(),
    });
    let seen = log.clone();
    within(&mut events, move |cx| {
        cx.send(taker, 1).unwrap();
        cx.swap(taker, move |_, event| {
            tell(&seen, &event);
            receive()
        });
        cx.send(taker, 2).unwrap();
    });
    assert_eq!(log.take(), "2");
}

#[test]
fn an_offer_that_is_not_taken_is_dropped() {
    let mut events = virtual_loop();
    let log = Log::default();
    let refuser = scribe::<u32>(&mut events, &log);
    let seen = log.clone();
    within(&mut events, move |cx| {
        let dropped = OnDrop(move || seen.note("dropped"));
        cx.swap(refuser, move |_, _| {
            let _ = &dropped;
            panic!("it was not taken")
        });
    });
    events.send(refuser, 1).unwrap();
    settle(&mut events);
    assert_eq!(log.take(), "start swap dropped 1");
}

#[test]
fn a_swap_to_itself_many_times_leaks_nothing_and_lets_others_run() {
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
    settle(&mut events);
    assert_eq!(log.take(), "end");
    assert_eq!(events.stats().actors, 0);
}

#[test]
fn an_actor_that_was_killed_in_its_step_and_answers_with_a_swap_is_dead() {
    // Its slot is free by then: whatever the answer does to it hits the next tenant.
    let mut events = virtual_loop();
    let log = Log::default();
    for _ in 0..3 {
        events.spawn(|cx: &mut Cx<u32>, _| {
            let adapter = cx.adapter(|_: u8| panic!("no ear for that"));
            cx.send(adapter, 1)?;
            swap(|_, _| panic!("the dead do not run"))
        });
    }
    settle(&mut events);
    let tenants: Vec<_> = (0..6).map(|_| scribe::<u32>(&mut events, &log)).collect();
    settle(&mut events);
    assert_eq!(log.take(), "start start start start start start");
    for (n, tenant) in (0..).zip(tenants) {
        events.send(tenant, n).unwrap();
    }
    settle(&mut events);
    assert_eq!(log.take(), "0 1 2 3 4 5");
    assert_eq!(events.stats().actors, 6);
}

#[test]
fn an_actor_that_was_killed_in_the_last_step_of_its_turn_is_dead() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = events.spawn(|cx: &mut Cx<u32>, event| {
        if let Event::Message(62) = event {
            let adapter = cx.adapter(|_: u8| panic!("no ear for that"));
            cx.send(adapter, 1)?;
        }
        receive()
    });
    for n in 0..200 {
        events.send(actor, n).unwrap();
    }
    settle(&mut events);
    assert_eq!(events.stats().actors, 0);
    let tenants: Vec<_> = (0..4).map(|_| scribe::<u32>(&mut events, &log)).collect();
    settle(&mut events);
    for (n, tenant) in (0..).zip(tenants) {
        events.send(tenant, n).unwrap();
    }
    settle(&mut events);
    assert_eq!(log.take(), "start start start start 0 1 2 3");
}
