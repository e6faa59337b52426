//! Full mailboxes: refused local senders get `Writable` in turn, with a place that others cannot take.

use std::cell::Cell;
use std::rc::Rc;

use antiphon_sched::*;

use crate::common::*;

fn loop_of(mailbox_max: usize) -> Loop {
    Loop::new(LoopConfig { mailbox_max, ..virtual_config() }).unwrap()
}

/// Starts an actor that takes one message each time that it is resumed.
fn spawn_gated(events: &mut Loop, log: &Log) -> Addr<u32> {
    let log = log.clone();
    let gated = events.spawn(move |_: &mut Cx<u32>, event| match event {
        Event::Resumed(_) => receive(),
        Event::Message(n) => {
            log.note(n);
            suspend()
        }
        Event::Terminate => stop(),
        _ => suspend(),
    });
    settle(events);
    gated
}

fn resume(events: &mut Loop, actor: impl Into<ActorId>) {
    let actor = actor.into();
    with_cx(events, move |cx| cx.resume(actor, ()));
}

/// Starts an actor that sends `n` to `target` for each message `n` that it gets, and logs the outcome. At `Writable` it
/// sends `at_writable`, unless that is 0.
fn spawn_sender(
    events: &mut Loop,
    log: &Log,
    target: Addr<u32>,
    name: &'static str,
    at_writable: u32,
) -> Addr<u32> {
    let log = log.clone();
    let sender = events.spawn(move |cx: &mut Cx<u32>, event| {
        match event {
            Event::Message(n) => match cx.send(target, n) {
                Ok(()) => log.note(format!("{name}:ok")),
                Err(error) => log.note(format!("{name}:{:?}", error.reason())),
            },
            Event::Writable { target: awaited } => {
                assert_eq!(awaited, target.id());
                log.note(format!("{name}:writable"));
                if at_writable > 0 {
                    log.note(format!("{name}:{:?}", cx.send(target, at_writable).map_err(|e| e.reason())));
                }
            }
            _ => {}
        }
        receive()
    });
    settle(events);
    sender
}

#[test]
fn refused_senders_get_one_writable_each() {
    let mut events = loop_of(1);
    let log = Log::default();
    let full = spawn_gated(&mut events, &Log::default());
    events.send(full, 1).unwrap();
    for tries in [false, true] {
        let log = log.clone();
        events.spawn(move |cx: &mut Cx<()>, event| {
            match event {
                Event::Start => (0..3).for_each(|n| {
                    let sent = if tries { cx.try_send(full, n) } else { cx.send(full, n) };
                    assert!(matches!(sent, Err(SendError::Full(back)) if back == n));
                }),
                Event::Writable { target } => {
                    assert_eq!(target, full.id());
                    log.note(if tries { "try" } else { "send" });
                }
                _ => {}
            }
            receive()
        });
    }
    settle(&mut events);
    assert_eq!(log.take(), "");
    resume(&mut events, full);
    assert_eq!(log.take(), "send try", "the first did not use its place, so the second got it");
    events.send(full, 2).unwrap();
    resume(&mut events, full);
    assert_eq!(log.take(), "", "a refusal causes one event");
    assert_eq!(events.stats().extras, 0);
}

#[test]
fn tell_awaits_no_room() {
    let mut events = loop_of(1);
    let log = Log::default();
    let full = spawn_gated(&mut events, &Log::default());
    let seen = log.clone();
    events.send(full, 1).unwrap();
    events.spawn(move |cx: &mut Cx<()>, event| {
        match event {
            Event::Start => cx.tell(full, 2),
            Event::Writable { .. } => seen.note("writable"),
            _ => {}
        }
        receive()
    });
    settle(&mut events);
    resume(&mut events, full);
    assert_eq!((log.take().as_str(), events.stats().dead_letters), ("", 1));
}

#[test]
fn reserved_place_is_kept_for_its_sender() {
    let mut events = loop_of(1);
    let log = Log::default();
    let full = spawn_gated(&mut events, &log);
    let waiting = spawn_sender(&mut events, &log, full, "a", 20);
    let other = spawn_sender(&mut events, &log, full, "b", 0);
    events.send(full, 1).unwrap();
    events.send(waiting, 2).unwrap();
    settle(&mut events);
    assert_eq!(log.take(), "a:Full");
    // The run queue is the target, then `b`, then `a`, which gets `Writable` after the batch of the target.
    events.local_actors().signals().resume(full.id().key(), EncodedValue::unit());
    events.send(other, 3).unwrap();
    settle(&mut events);
    assert_eq!(log.take(), "1 b:Full a:writable a:Ok(())");
    resume(&mut events, full);
    assert_eq!(log.take(), "20 b:writable");
}

#[test]
fn unused_place_is_free_after_batch() {
    let mut events = loop_of(1);
    let log = Log::default();
    let full = spawn_gated(&mut events, &log);
    let idle = spawn_sender(&mut events, &log, full, "a", 0);
    let eager = spawn_sender(&mut events, &log, full, "b", 30);
    events.send(full, 1).unwrap();
    events.send(idle, 2).unwrap();
    events.send(eager, 3).unwrap();
    settle(&mut events);
    resume(&mut events, full);
    assert_eq!(log.take(), "a:Full b:Full 1 a:writable b:writable b:Ok(())");
    resume(&mut events, full);
    assert_eq!(log.take(), "30");
    events.send(full, 4).unwrap();
}

#[test]
fn senders_get_fair_turns() {
    let mut events = loop_of(3);
    let taken: Rc<Cell<[u32; 4]>> = Rc::default();
    let seen = taken.clone();
    let sink = events.spawn(move |_: &mut Cx<usize>, event| {
        if let Event::Message(from) = event {
            let mut counts = seen.get();
            counts[from] += 1;
            seen.set(counts);
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(most - least <= 4, "{counts:?}");
        }
        receive()
    });
    for from in 0..4 {
        let mut left = 500;
        events.spawn(move |cx: &mut Cx<()>, event| {
            if let Event::Start | Event::Writable { .. } = event {
                while left > 0 && cx.send(sink, from).is_ok() {
                    left -= 1;
                }
            }
            receive()
        });
    }
    settle(&mut events);
    assert_eq!(taken.get(), [500; 4]);
}

#[test]
fn sleeping_sender_blocks_no_others() {
    let mut events = loop_of(1);
    let log = Log::default();
    let full = spawn_gated(&mut events, &log);
    events.send(full, 1).unwrap();
    let seen = log.clone();
    events.spawn(move |cx: &mut Cx<u32>, event| match event {
        Event::Start => {
            assert!(matches!(cx.send(full, 2), Err(SendError::Full(2))));
            sleep(secs(100))
        }
        Event::Writable { .. } => {
            seen.note("sleeper:writable");
            receive()
        }
        _ => receive(),
    });
    settle(&mut events);
    let eager = spawn_sender(&mut events, &log, full, "b", 30);
    events.send(eager, 3).unwrap();
    settle(&mut events);
    resume(&mut events, full);
    assert_eq!(log.take(), "b:Full 1 b:writable b:Ok(())");
    resume(&mut events, full);
    events.send(full, 4).unwrap();
    pass(&mut events, secs(101));
    assert_eq!(log.take(), "30 sleeper:writable");
}

/// The sender takes a message before its `Writable`, and sleeps or suspends then: its place is free again.
#[test]
fn sender_that_falls_asleep_gives_place_back() {
    let mut events = loop_of(1);
    let log = Log::default();
    let full = spawn_gated(&mut events, &log);
    events.send(full, 1).unwrap();
    let sleeper = events.spawn(move |cx: &mut Cx<u32>, event| match event {
        Event::Start => {
            assert!(matches!(cx.send(full, 2), Err(SendError::Full(2))));
            receive()
        }
        Event::Message(_) => sleep(secs(100)),
        _ => receive(),
    });
    settle(&mut events);
    let eager = spawn_sender(&mut events, &log, full, "b", 30);
    events.send(eager, 3).unwrap();
    settle(&mut events);
    // In the mailbox of the sender, the message is before `Writable`.
    events.local_actors().signals().resume(full.id().key(), EncodedValue::unit());
    events.send(sleeper, 0).unwrap();
    settle(&mut events);
    assert_eq!(log.take(), "b:Full 1 b:writable b:Ok(())");
}

#[test]
fn ended_sender_gives_turn_and_place_back() {
    let mut events = loop_of(1);
    let log = Log::default();
    let full = spawn_gated(&mut events, &log);
    let senders = ["a", "b", "c"].map(|name| spawn_sender(&mut events, &log, full, name, 9));
    events.send(full, 1).unwrap();
    for sender in senders {
        events.send(sender, 2).unwrap();
    }
    settle(&mut events);
    // The first ends while it waits, the second while a place is reserved for it.
    events.loop_ref().terminate(senders[0]);
    settle(&mut events);
    events.local_actors().signals().resume(full.id().key(), EncodedValue::unit());
    events.loop_ref().terminate(senders[1]);
    settle(&mut events);
    assert_eq!(log.take(), "a:Full b:Full c:Full 1 c:writable c:Ok(())");
    resume(&mut events, full);
    events.send(full, 3).unwrap();
}

#[test]
fn ended_target_reports_writable_to_all() {
    let mut events = loop_of(1);
    let log = Log::default();
    let full = spawn_gated(&mut events, &log);
    let senders = ["a", "b"].map(|name| spawn_sender(&mut events, &log, full, name, 9));
    events.send(full, 1).unwrap();
    for sender in senders {
        events.send(sender, 2).unwrap();
    }
    settle(&mut events);
    events.loop_ref().terminate(full);
    settle(&mut events);
    assert_eq!(log.take(), "a:Full b:Full a:writable a:Err(NoActor) b:writable b:Err(NoActor)");
    assert_eq!((events.stats().extras, events.stats().dead_letters), (0, 1));
}

#[test]
fn awaited_room_counts_as_open_request() {
    let config = LoopConfig { mailbox_max: 1, requests_max: 65_535, ..virtual_config() };
    let mut events = Loop::new(config).unwrap();
    let log = Log::default();
    let full = spawn_gated(&mut events, &log);
    events.send(full, 1).unwrap();
    for timers in [65_534, 65_535] {
        let seen = log.clone();
        events.spawn(move |cx: &mut Cx<u32>, event| {
            match event {
                Event::Start => {
                    (0..timers).for_each(|_| _ = cx.after(secs(1_000), 0).unwrap());
                    assert!(matches!(cx.send(full, 2), Err(SendError::Full(2))));
                    cx.ask(
                        full,
                        secs(1),
                        |_: ReplyTo<()>| 3,
                        |reply| match reply {
                            Err(AskError::TooManyOpen) => 1,
                            _ => 2,
                        },
                    );
                }
                Event::Message(n) => seen.note(format!("{timers}:{n}")),
                Event::Writable { .. } => seen.note(format!("{timers}:writable")),
                _ => {}
            }
            receive()
        });
    }
    settle(&mut events);
    assert_eq!(log.take(), "65534:1 65535:1");
    resume(&mut events, full);
    assert_eq!(
        log.take(),
        "1 65534:writable 65535:writable",
        "the limit does not apply: it would wait for ever"
    );
}

#[test]
fn receive_if_lets_writable_pass() {
    let mut events = loop_of(1);
    let log = Log::default();
    let full = spawn_gated(&mut events, &log);
    events.send(full, 1).unwrap();
    let seen = log.clone();
    let picky = events.spawn(move |cx: &mut Cx<u32>, event| {
        match event {
            Event::Start => assert!(matches!(cx.send(full, 2), Err(SendError::Full(2)))),
            Event::Writable { .. } => seen.note(format!("{:?}", cx.send(full, 3))),
            Event::Message(n) => seen.note(format!("picky:{n}")),
            _ => {}
        }
        receive_if(|n| *n > 10)
    });
    events.send(picky, 5).unwrap();
    settle(&mut events);
    resume(&mut events, full);
    assert_eq!(log.take(), "1 Ok(())");
    resume(&mut events, full);
    assert_eq!(log.take(), "3");
}

#[test]
fn receive_if_target_frees_places_out_of_order() {
    let mut events = loop_of(2);
    let log = Log::default();
    let seen = log.clone();
    let limit = Rc::new(Cell::new(100));
    let admitted = limit.clone();
    let picky = events.spawn(move |_: &mut Cx<u32>, event| {
        if let Event::Message(n) = event {
            seen.note(n);
        }
        let admitted = admitted.clone();
        receive_if(move |n| *n >= admitted.get())
    });
    settle(&mut events);
    let sender = spawn_sender(&mut events, &log, picky, "a", 200);
    for n in [1, 2, 3] {
        events.send(sender, n).unwrap();
        settle(&mut events);
    }
    assert_eq!(log.take(), "a:ok a:ok a:Full");
    limit.set(2);
    // An event makes the actor look at its messages again.
    resume(&mut events, picky);
    assert_eq!(log.take(), "2 a:writable a:Ok(()) 200");
}

#[test]
fn adapter_address_is_awaited_as_itself() {
    let mut events = loop_of(1);
    let log = Log::default();
    let made: Rc<Cell<Option<Addr<u64>>>> = Rc::default();
    let (slot, seen) = (made.clone(), log.clone());
    let owner = events.spawn(move |cx: &mut Cx<u32>, event| match event {
        Event::Start => {
            slot.set(Some(cx.adapter(|n: u64| n as u32).unwrap()));
            suspend()
        }
        Event::Message(n) => {
            seen.note(n);
            receive()
        }
        _ => receive(),
    });
    settle(&mut events);
    let adapter = made.get().unwrap();
    events.send(owner, 1).unwrap();
    let seen = log.clone();
    events.spawn(move |cx: &mut Cx<()>, event| {
        match event {
            Event::Start => assert!(matches!(cx.send(adapter, 2), Err(SendError::Full(2)))),
            Event::Writable { target } => {
                seen.note(format!("{} {:?}", target == adapter, cx.send(adapter, 3)));
            }
            _ => {}
        }
        receive()
    });
    settle(&mut events);
    resume(&mut events, owner);
    assert_eq!(log.take(), "1 true Ok(()) 3");
}

/// The awaited address is that of an adapter, which is closed; its actor stays full.
#[test]
fn closed_adapter_releases_its_waiters() {
    let mut events = loop_of(1);
    let log = Log::default();
    let adapter: Rc<Cell<Option<Addr<u8>>>> = Rc::default();
    let shared = adapter.clone();
    let owner = events.spawn(move |cx: &mut Cx<u32>, event| {
        match event {
            Event::Start => shared.set(Some(cx.adapter(|n: u8| u32::from(n)).unwrap())),
            Event::Resumed(_) => cx.loop_ref().close_adapter(shared.get().unwrap()),
            _ => {}
        }
        suspend()
    });
    settle(&mut events);
    events.send(owner, 1).unwrap();
    let (out, to) = (log.clone(), adapter.get().unwrap());
    events.spawn(move |cx: &mut Cx<()>, event| {
        match event {
            Event::Start => out.note(format!("{:?}", cx.send(to, 1))),
            Event::Writable { target } => out.note(target == to.id()),
            _ => {}
        }
        receive()
    });
    settle(&mut events);
    assert_eq!(log.take(), "Err(Full)");
    resume(&mut events, owner);
    settle(&mut events);
    assert_eq!(log.take(), "true");
}
