//! Addresses that are stale, of the wrong type, full; and further addresses of one actor.

use antiphon_sched::*;

use crate::common::*;

#[test]
fn a_stale_address_gives_the_message_back_also_when_the_slot_is_taken_again() {
    let mut events = virtual_loop();
    let log = Log::default();
    let old = events.spawn(|_: &mut Cx<String>, _| stop());
    settle(&mut events);
    let new = scribe::<String>(&mut events, &log);
    settle(&mut events);
    let error = events.send(old, "hello".to_owned()).unwrap_err();
    assert!(matches!(&error, SendError::NoActor(text) if text == "hello"), "{error:?}");
    assert_eq!(error.into_message(), "hello");
    assert_ne!(old, new);
    assert_eq!(log.take(), "start", "the new tenant heard nothing");
}

#[test]
fn an_address_of_a_foreign_node_is_no_node_without_a_world_outside() {
    let (mut here, mut there) = (virtual_loop(), virtual_loop());
    let foreign = there.spawn(|_: &mut Cx<u32>, _| receive());
    assert!(matches!(here.send(foreign, 4), Err(SendError::NoNode(4))));
}

#[test]
fn a_mailbox_takes_exactly_its_limit_and_then_gives_messages_back() {
    for limit in [1, 2, 3, 64, 1000] {
        let mut events = Loop::new(LoopConfig { mailbox_max: limit, ..virtual_config() }).unwrap();
        let log = Log::default();
        let actor = scribe(&mut events, &log);
        for n in 0..limit {
            events.send(actor, n).unwrap_or_else(|reason| panic!("{n} of {limit}: {reason}"));
        }
        assert!(matches!(events.send(actor, 77), Err(SendError::Full(77))), "limit {limit}");
        settle(&mut events);
        assert_eq!(log.take().split(' ').count(), limit + 1, "all that were taken arrive");
        events.send(actor, 1).expect("there is room again");
    }
}

#[test]
fn answers_timers_and_downs_never_meet_a_full_mailbox() {
    let mut events = Loop::new(LoopConfig { mailbox_max: 4, ..virtual_config() }).unwrap();
    let log = Log::default();
    let seen = log.clone();
    let dead = events.spawn(|_: &mut Cx<()>, _| stop());
    let actor = events.spawn(move |cx, event: Event<u32>| {
        tell(&seen, &event);
        match event {
            Event::Start => {
                cx.monitor(dead);
                cx.after(millis(1), 10);
                cx.ask(cx.addr(), millis(1), |_: ReplyTo<()>| 11, |_| 12);
                sleep(millis(50))
            }
            _ => receive(),
        }
    });
    settle(&mut events);
    while events.send(actor, 1).is_ok() {}
    pass(&mut events, millis(60));
    let log = log.take();
    for what in ["1", "10", "11", "12", "down:no such actor", "timeout"] {
        assert!(log.contains(what), "{what} is missing in {log}");
    }
}

#[test]
fn further_addresses_keep_the_order_of_one_sender() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    let (out, node_id) = (std::rc::Rc::new(std::cell::Cell::new(None)), Log::default());
    let place = out.clone();
    let actor = events.spawn(move |cx, event: Event<String>| {
        match event {
            Event::Start => {
                let number = cx.adapter(|n: u32| format!("n{n}"));
                let flag = cx.adapter(|b: bool| format!("b{b}"));
                place.set(Some((number, flag)));
            }
            event => tell(&seen, &event),
        }
        receive()
    });
    settle(&mut events);
    let (number, flag) = out.get().unwrap();
    within(&mut events, move |cx| {
        for n in 0..3 {
            cx.send(number, n).unwrap();
            cx.send(actor, format!("own{n}")).unwrap();
            cx.send(flag, n == 1).unwrap();
        }
    });
    assert_eq!(log.take(), "n0 own0 bfalse n1 own1 btrue n2 own2 bfalse");
    assert_eq!(node_id.take(), "");
}

/// An actor with an ear for numbers: both addresses, and its log.
fn with_ear(events: &mut Loop, log: &Log) -> (Addr<String>, Addr<u32>) {
    let place = std::rc::Rc::new(std::cell::Cell::new(None));
    let (told, seen) = (place.clone(), log.clone());
    let actor = events.spawn(move |cx, event: Event<String>| {
        tell(&seen, &event);
        if let Event::Start = event {
            told.set(Some(cx.adapter(|n: u32| format!("n{n}"))));
        }
        receive()
    });
    settle(events);
    (actor, place.get().unwrap())
}

#[test]
fn a_further_address_has_the_limit_and_the_life_of_its_owner() {
    let mut events = Loop::new(LoopConfig { mailbox_max: 3, ..virtual_config() }).unwrap();
    let log = Log::default();
    let (actor, adapter) = with_ear(&mut events, &log);
    for n in 0..3 {
        events.send(adapter, n).unwrap();
    }
    assert!(matches!(events.send(adapter, 9), Err(SendError::Full(9))));
    settle(&mut events);
    assert_eq!(log.take(), "start n0 n1 n2");
    within(&mut events, move |cx| cx.terminate(actor));
    assert!(matches!(events.send(adapter, 9), Err(SendError::NoActor(9))));
    assert_eq!(events.stats().actors, 0, "ears end with their owner");
}

#[test]
fn whoever_knows_only_a_further_address_can_watch_and_end_and_wake_the_actor() {
    let mut events = virtual_loop();
    let log = Log::default();
    let (_, adapter) = with_ear(&mut events, &log);
    log_end(&mut events, &log, adapter);
    within(&mut events, move |cx| cx.resume(adapter, ()));
    assert_eq!(log.take(), "start resumed");
    events.send(adapter, 5).unwrap();
    within(&mut events, move |cx| cx.terminate(adapter));
    assert_eq!(log.take(), "n5 terminate [terminated]");
    assert_eq!(events.stats().actors, 1, "only the watcher is left");
}

#[test]
fn a_further_address_tells_its_watchers_the_owners_reason_and_their_own_name_for_it() {
    let mut events = virtual_loop();
    let log = Log::default();
    let place = std::rc::Rc::new(std::cell::Cell::new(None));
    let told = place.clone();
    let actor = events.spawn(move |cx, event: Event<String>| match event {
        Event::Start => {
            told.set(Some(cx.adapter(|n: u32| format!("n{n}"))));
            receive()
        }
        _ => fail("enough"),
    });
    settle(&mut events);
    let adapter: Addr<u32> = place.get().unwrap();
    let seen = log.clone();
    events.spawn(move |cx: &mut Cx<()>, event| {
        match event {
            Event::Start => {
                cx.monitor(adapter);
                cx.notify(adapter);
            }
            Event::Down(down) => seen.note(format!(
                "{} {}",
                down.reason,
                down.actor == adapter.id() || down.actor == actor.id()
            )),
            _ => {}
        }
        receive()
    });
    settle(&mut events);
    events.send(actor, String::new()).unwrap();
    settle(&mut events);
    assert_eq!(log.take(), "failed: enough true");
}

#[test]
fn an_actors_address_in_a_message_still_means_that_actor_after_others_came_and_went() {
    let mut events = virtual_loop();
    let mut old = Vec::new();
    for _ in 0..100 {
        old.push(events.spawn(|_: &mut Cx<u32>, _| stop()));
        settle(&mut events);
    }
    let distinct: std::collections::HashSet<_> = old.iter().map(|addr| addr.id()).collect();
    assert_eq!(distinct.len(), 100, "a key is used once");
    assert!(old.iter().all(|addr| matches!(events.send(*addr, 1), Err(SendError::NoActor(1)))));
}

#[cfg(feature = "serde")]
mod forged {
    use super::*;

    fn forge<M: Wire>(id: ActorId) -> Addr<M> {
        let mut bytes = Vec::new();
        id.encode(&mut bytes).unwrap();
        Addr::<M>::decode(&mut &bytes[..]).unwrap()
    }

    #[test]
    fn an_address_forged_with_another_type_is_refused_at_the_send() {
        let mut events = virtual_loop();
        let log = Log::default();
        let actor = scribe::<String>(&mut events, &log);
        settle(&mut events);
        assert!(matches!(events.send(forge::<u64>(actor.id()), 7), Err(SendError::WrongType(7))));
        assert!(matches!(events.send(forge::<()>(actor.id()), ()), Err(SendError::WrongType(()))));
        events.send(forge::<String>(actor.id()), "right".into()).unwrap();
        settle(&mut events);
        assert_eq!(log.take(), "start right");
    }

    #[test]
    fn an_ear_forged_with_another_type_is_refused_too() {
        let mut events = virtual_loop();
        let log = Log::default();
        let (_, adapter) = with_ear(&mut events, &log);
        assert!(matches!(events.send(forge::<u64>(adapter.id()), 7), Err(SendError::WrongType(7))));
        events.send(forge::<u32>(adapter.id()), 7).unwrap();
        settle(&mut events);
        assert_eq!(log.take(), "start n7");
    }

    #[test]
    fn no_forged_key_reaches_anybody() {
        let mut events = virtual_loop();
        let log = Log::default();
        let actor = scribe::<String>(&mut events, &log);
        settle(&mut events);
        let right = actor.id().key().to_bits();
        for bits in (0..64).map(|bit| right ^ (1 << bit)).chain([u64::MAX, u64::MAX >> 8, (1 << 28) - 1]) {
            let forged = ActorId::new(events.node_id(), Key::from_bits(bits));
            let error = events.send(forge::<String>(forged), "x".into()).unwrap_err();
            assert!(matches!(error, SendError::NoActor(_)), "{forged}: {error:?}");
            within(&mut events, move |cx| {
                cx.terminate(forged);
                cx.resume(forged, ());
                let monitor = cx.monitor(forged);
                cx.demonitor(monitor);
            });
            assert!(events.loop_ref().has_room(forged.key()).is_none());
        }
        assert_eq!(log.take(), "start");
        assert_eq!(events.stats().actors, 1);
    }

    #[test]
    fn a_reply_forged_for_another_type_does_not_answer() {
        let mut events = virtual_loop();
        let log = Log::default();
        let seen = log.clone();
        let (request_id, told) = (std::rc::Rc::new(std::cell::Cell::new(None)), Log::default());
        let place = request_id.clone();
        let sink = events.spawn(move |_, event: Event<ReplyTo<u32>>| {
            if let Event::Message(reply) = event {
                place.set(Some(reply));
            }
            receive()
        });
        events.spawn(move |cx, event: Event<Result<u32, AskError>>| {
            match event {
                Event::Start => cx.ask(sink, secs(1), |reply| reply, |answer| answer),
                Event::Message(answer) => seen.note(format!("{answer:?}")),
                _ => {}
            }
            receive()
        });
        settle(&mut events);
        let reply = request_id.take().unwrap();
        let wrong = format!("{reply:?}");
        assert!(wrong.starts_with("ReplyTo<u32>"), "{wrong}");
        let number: u64 = wrong.split(['(', ' ']).nth(1).unwrap().parse().unwrap();
        let refused = events.loop_ref().complete_request(RequestId::from_bits(number), "text");
        assert_eq!(refused, Err(Undelivered::WrongType));
        assert_eq!(
            events.loop_ref().complete_request(RequestId::from_bits(number + 1), 1_u32),
            Err(Undelivered::NoActor)
        );
        events.loop_ref().reply(reply, 8);
        settle(&mut events);
        assert_eq!((log.take(), told.take()), ("Ok(8)".into(), String::new()));
    }
}

#[test]
fn a_further_address_that_is_closed_is_gone_and_its_actor_and_the_others_stay() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    let made = std::rc::Rc::new(std::cell::Cell::new(None));
    let told = made.clone();
    let actor = events.spawn(move |cx, event: Event<u32>| {
        tell(&seen, &event);
        if matches!(event, Event::Start) {
            told.set(Some((cx.adapter(|text: String| text.len() as u32), cx.adapter(|_: char| 7))));
        }
        receive()
    });
    settle(&mut events);
    let (closed, kept) = made.get().expect("it has begun");
    let before = events.stats().actors;
    events.loop_ref().close_adapter(closed);
    events.loop_ref().close_adapter(closed);
    // No further address: nothing happens.
    events.loop_ref().close_adapter(actor);
    assert_eq!(events.stats().actors, before - 1);
    assert!(matches!(events.send(closed, "four".to_owned()), Err(SendError::NoActor(_))));
    events.send(kept, 'x').expect("it is open");
    events.send(actor, 1).expect("it lives");
    settle(&mut events);
    assert_eq!(log.take(), "start 7 1");
}
