//! Addresses: stale, foreign, forged and full ones; and adapters.

use antiphon_sched::*;

use crate::common::*;

#[test]
fn stale_address_returns_message_after_slot_reuse() {
    let mut events = virtual_loop();
    let log = Log::default();
    let old = events.spawn(|_: &mut Cx<String>, _| stop());
    settle(&mut events);
    let new = spawn_logger::<String>(&mut events, &log);
    settle(&mut events);
    let error = events.send(old, "hello".to_owned()).unwrap_err();
    assert!(matches!(&error, SendError::NoActor(text) if text == "hello"), "{error:?}");
    assert_eq!(error.into_message(), "hello");
    assert_ne!(old, new);
    assert_eq!(log.take(), "start", "the new actor in the slot receives nothing");
}

#[test]
fn foreign_address_without_transport_is_no_node() {
    let (mut here, mut there) = (virtual_loop(), virtual_loop());
    let foreign = there.spawn(|_: &mut Cx<u32>, _| receive());
    assert!(matches!(here.send(foreign, 4), Err(SendError::NoNode(4))));
}

#[test]
fn mailbox_full_returns_message() {
    for limit in [1, 2, 3, 64, 1000] {
        let mut events = Loop::new(LoopConfig { mailbox_max: limit, ..virtual_config() }).unwrap();
        let log = Log::default();
        let actor = spawn_logger(&mut events, &log);
        for n in 0..limit {
            events.send(actor, n).unwrap_or_else(|reason| panic!("{n} of {limit}: {reason}"));
        }
        assert!(matches!(events.send(actor, 77), Err(SendError::Full(77))), "limit {limit}");
        settle(&mut events);
        assert_eq!(log.take().split(' ').count(), limit + 1, "every accepted message arrives");
        events.send(actor, 1).expect("there is room again");
    }
}

#[test]
fn mailbox_full_admits_replies_timers_and_downs() {
    let mut events = Loop::new(LoopConfig { mailbox_max: 4, ..virtual_config() }).unwrap();
    let log = Log::default();
    let seen = log.clone();
    let dead = events.spawn(|_: &mut Cx<()>, _| stop());
    let actor = events.spawn(move |cx, event: Event<u32>| {
        note_event(&seen, &event);
        match event {
            Event::Start => {
                cx.monitor(dead);
                cx.after(millis(1), 10).unwrap();
                cx.ask(cx.addr(), millis(1), |_: ReplyTo<()>| 11, |_| 12);
                sleep(millis(50))
            }
            _ => receive(),
        }
    });
    settle(&mut events);
    let refused = (0..).find_map(|_| events.send(actor, 1).err());
    assert!(matches!(refused, Some(SendError::Full(1))), "{refused:?}");
    pass(&mut events, millis(60));
    let log = log.take();
    let entries: Vec<_> = log.split(' ').collect();
    for entry in ["1", "10", "11", "12", "down:no", "timeout"] {
        assert!(entries.contains(&entry), "{entry} is missing in {log}");
    }
}

#[test]
fn adapters_keep_order_of_one_sender() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    let adapters = std::rc::Rc::new(std::cell::Cell::new(None));
    let slot = adapters.clone();
    let actor = events.spawn(move |cx, event: Event<String>| {
        match event {
            Event::Start => {
                let number = cx.adapter(|n: u32| format!("n{n}")).unwrap();
                let flag = cx.adapter(|b: bool| format!("b{b}")).unwrap();
                slot.set(Some((number, flag)));
            }
            event => note_event(&seen, &event),
        }
        receive()
    });
    settle(&mut events);
    let (number, flag) = adapters.get().unwrap();
    with_cx(&mut events, move |cx| {
        for n in 0..3 {
            cx.send(number, n).unwrap();
            cx.send(actor, format!("own{n}")).unwrap();
            cx.send(flag, n == 1).unwrap();
        }
    });
    assert_eq!(log.take(), "n0 own0 bfalse n1 own1 btrue n2 own2 bfalse");
}

/// Starts an actor that logs its events. Returns its address and that of its adapter for numbers.
fn with_adapter(events: &mut Loop, log: &Log) -> (Addr<String>, Addr<u32>) {
    let adapter = std::rc::Rc::new(std::cell::Cell::new(None));
    let (slot, seen) = (adapter.clone(), log.clone());
    let actor = events.spawn(move |cx, event: Event<String>| {
        note_event(&seen, &event);
        if let Event::Start = event {
            slot.set(Some(cx.adapter(|n: u32| format!("n{n}")).unwrap()));
        }
        receive()
    });
    settle(events);
    (actor, adapter.get().unwrap())
}

#[test]
fn adapter_shares_mailbox_limit_and_lifetime_of_owner() {
    let mut events = Loop::new(LoopConfig { mailbox_max: 3, ..virtual_config() }).unwrap();
    let log = Log::default();
    let (actor, adapter) = with_adapter(&mut events, &log);
    for n in 0..3 {
        events.send(adapter, n).unwrap();
    }
    assert!(matches!(events.send(adapter, 9), Err(SendError::Full(9))));
    settle(&mut events);
    assert_eq!(log.take(), "start n0 n1 n2");
    with_cx(&mut events, move |cx| cx.terminate(actor));
    assert!(matches!(events.send(adapter, 9), Err(SendError::NoActor(9))));
    assert_eq!((events.stats().actors, events.stats().adapters), (0, 0), "adapters end with their owner");
}

#[test]
fn adapter_address_monitors_resumes_and_terminates_owner() {
    let mut events = virtual_loop();
    let log = Log::default();
    let (_, adapter) = with_adapter(&mut events, &log);
    log_exit(&mut events, &log, adapter);
    with_cx(&mut events, move |cx| cx.resume(adapter, ()));
    assert_eq!(log.take(), "start resumed");
    events.send(adapter, 5).unwrap();
    with_cx(&mut events, move |cx| cx.terminate(adapter));
    assert_eq!(log.take(), "n5 terminate [terminated]");
    assert_eq!(events.stats().actors, 1, "only the monitoring actor is left");
}

#[test]
fn adapter_down_has_owner_reason_and_adapter_id() {
    let mut events = virtual_loop();
    let log = Log::default();
    let adapter = std::rc::Rc::new(std::cell::Cell::new(None));
    let slot = adapter.clone();
    let actor = events.spawn(move |cx, event: Event<String>| match event {
        Event::Start => {
            slot.set(Some(cx.adapter(|n: u32| format!("n{n}")).unwrap()));
            receive()
        }
        _ => fail("enough"),
    });
    settle(&mut events);
    let adapter: Addr<u32> = adapter.get().unwrap();
    let seen = log.clone();
    events.spawn(move |cx: &mut Cx<()>, event| {
        match event {
            Event::Start => {
                cx.monitor(adapter);
                cx.notify(adapter);
            }
            Event::Down(down) => seen.note(format!("{} {}", down.reason, down.actor == adapter.id())),
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
fn actor_keys_are_never_reused() {
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
    fn forged_address_of_other_type_is_refused() {
        let mut events = virtual_loop();
        let log = Log::default();
        let actor = spawn_logger::<String>(&mut events, &log);
        settle(&mut events);
        assert!(matches!(
            events.send(forge::<u64>(actor.id()), 7),
            Err(SendError::Payload(7, PayloadError::WrongType { .. }))
        ));
        assert!(matches!(
            events.send(forge::<()>(actor.id()), ()),
            Err(SendError::Payload((), PayloadError::WrongType { .. }))
        ));
        events.send(forge::<String>(actor.id()), "right".into()).unwrap();
        settle(&mut events);
        assert_eq!(log.take(), "start right");
    }

    #[test]
    fn forged_adapter_of_other_type_is_refused() {
        let mut events = virtual_loop();
        let log = Log::default();
        let (_, adapter) = with_adapter(&mut events, &log);
        assert!(matches!(
            events.send(forge::<u64>(adapter.id()), 7),
            Err(SendError::Payload(7, PayloadError::WrongType { .. }))
        ));
        events.send(forge::<u32>(adapter.id()), 7).unwrap();
        settle(&mut events);
        assert_eq!(log.take(), "start n7");
    }

    #[test]
    fn forged_keys_reach_no_actor() {
        let mut events = virtual_loop();
        let log = Log::default();
        let actor = spawn_logger::<String>(&mut events, &log);
        settle(&mut events);
        let right = actor.id().key().to_bits();
        for bits in (0..64).map(|bit| right ^ (1 << bit)).chain([u64::MAX, u64::MAX >> 8, (1 << 28) - 1]) {
            let forged = ActorId::new(events.node_id(), Key::from_bits(bits));
            let error = events.send(forge::<String>(forged), "x".into()).unwrap_err();
            assert!(matches!(error, SendError::NoActor(_)), "{forged}: {error:?}");
            with_cx(&mut events, move |cx| {
                cx.terminate(forged);
                cx.resume(forged, ());
                let monitor = cx.monitor(forged);
                cx.demonitor(monitor);
            });
            assert!(events.local_actors().mailboxes().has_room(forged.key()).is_none());
        }
        assert_eq!(log.take(), "start");
        assert_eq!(events.stats().actors, 1);
    }

    #[test]
    fn forged_adapter_number_reaches_no_actor() {
        let mut events = virtual_loop();
        let log = Log::default();
        let (actor, adapter) = with_adapter(&mut events, &log);
        let (actor, adapter) = (actor.id(), adapter.id());
        assert_eq!((adapter.actor(), actor.actor()), (actor, actor));
        let number = |id: ActorId| id.key().to_bits() >> 46;
        assert_eq!((number(actor), number(adapter)), (0, 1));
        for forged in [2, 3, 0x1_0000, 0x3_fffe, 0x3_ffff] {
            let forged = ActorId::new(actor.node(), Key::from_bits(actor.key().to_bits() | (forged << 46)));
            assert_eq!(forged.actor(), actor);
            let error = events.send(forge::<u32>(forged), 7).unwrap_err();
            assert!(matches!(error, SendError::NoActor(7)), "{forged}: {error:?}");
            let error = events.send(forge::<String>(forged), "x".into()).unwrap_err();
            assert!(matches!(error, SendError::NoActor(_)), "{forged}: {error:?}");
            with_cx(&mut events, move |cx| {
                cx.terminate(forged);
                cx.resume(forged, ());
            });
            let mut loop_ref = events.loop_ref();
            assert!(!loop_ref.is_alive(forged.key()) && !loop_ref.service().expose(forge::<u32>(forged)));
            loop_ref.close_adapter(forged);
            let mut local = events.local_actors();
            assert!(local.mailboxes().has_room(forged.key()).is_none());
            assert!(local.mailboxes().mailbox_load(forged.key()).is_none());
        }
        events.send(forge::<u32>(adapter), 7).expect("the adapter is open");
        settle(&mut events);
        assert_eq!(log.take(), "start n7");
        assert_eq!(events.stats().dead_letters, 10);
    }

    #[test]
    fn complete_request_with_wrong_type_is_refused() {
        let mut events = virtual_loop();
        let log = Log::default();
        let seen = log.clone();
        let stored = std::rc::Rc::new(std::cell::Cell::new(None));
        let slot = stored.clone();
        let sink = events.spawn(move |_, event: Event<ReplyTo<u32>>| {
            if let Event::Message(reply) = event {
                slot.set(Some(reply));
            }
            receive()
        });
        events.spawn(move |cx, event: Event<Result<u32, AskError>>| {
            match event {
                Event::Start => cx.ask(sink, secs(1), |reply| reply, |result| result),
                Event::Message(result) => seen.note(format!("{result:?}")),
                _ => {}
            }
            receive()
        });
        settle(&mut events);
        let reply = stored.take().unwrap();
        let request_id = request_id_of(&reply);
        let refused = events.loop_ref().requests().complete(request_id, "text");
        let wrong_type = PayloadError::WrongType { expected: "u32".into(), found: "&str".into() };
        assert_eq!(refused, Err(Undelivered::Payload(wrong_type)));
        let unknown = RequestId::from_bits(request_id.to_bits() + 1);
        assert_eq!(events.loop_ref().requests().complete(unknown, 1_u32), Err(Undelivered::NoActor));
        events.loop_ref().reply(reply, 8);
        settle(&mut events);
        assert_eq!(log.take(), "Ok(8)");
    }
}

#[test]
fn closed_adapter_leaves_actor_and_other_adapters() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    let adapters = std::rc::Rc::new(std::cell::Cell::new(None));
    let slot = adapters.clone();
    let actor = events.spawn(move |cx, event: Event<u32>| {
        note_event(&seen, &event);
        if matches!(event, Event::Start) {
            slot.set(Some((
                cx.adapter(|text: String| text.len() as u32).unwrap(),
                cx.adapter(|_: char| 7).unwrap(),
            )));
        }
        receive()
    });
    settle(&mut events);
    let (closed, kept) = adapters.get().expect("the actor has started");
    assert_eq!((events.stats().actors, events.stats().adapters), (1, 2));
    log_exit(&mut events, &log, closed);
    settle(&mut events);
    events.loop_ref().close_adapter(closed);
    events.loop_ref().close_adapter(closed);
    // The actor's own address is not an adapter, so this call does nothing.
    events.loop_ref().close_adapter(actor);
    assert_eq!((events.stats().actors, events.stats().adapters), (2, 1));
    assert!(matches!(events.send(closed, "four".to_owned()), Err(SendError::NoActor(_))));
    events.send(kept, 'x').expect("this adapter is open");
    events.send(actor, 1).expect("the actor is alive");
    settle(&mut events);
    assert_eq!(log.take(), "start [done] 7 1");
}

#[test]
fn closed_adapter_address_stays_closed() {
    let mut events = virtual_loop();
    let log = Log::default();
    let adapters = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let made = adapters.clone();
    let actor = events.spawn(move |cx, event: Event<u32>| {
        if let Event::Start | Event::Message(_) = event {
            made.borrow_mut().push(cx.adapter(|n: u32| n).unwrap());
        }
        receive()
    });
    for n in 0..100 {
        settle(&mut events);
        let last = *adapters.borrow().last().expect("each step makes an adapter");
        events.loop_ref().close_adapter(last);
        events.send(actor, n).expect("the actor is alive");
    }
    settle(&mut events);
    let adapters = adapters.take();
    let (last, closed) = adapters.split_last().expect("each step makes an adapter");
    assert_eq!((closed.len(), events.stats().adapters), (100, 1));
    for adapter in closed.iter().copied() {
        assert!(matches!(events.send(adapter, 1), Err(SendError::NoActor(1))));
        assert_ne!(adapter, *last);
        log_exit(&mut events, &log, adapter);
        with_cx(&mut events, move |cx| cx.terminate(adapter));
    }
    events.send(*last, 1).expect("the newest adapter is open, and its actor is alive");
    settle(&mut events);
    assert_eq!(log.take().matches("[no such actor]").count(), 100, "each monitor ends at once");
}

/// The `Down` that an actor requests for another one by the address of an adapter.
#[test]
fn down_by_notify_arrives_after_adapter_closed() {
    let mut events = virtual_loop();
    let log = Log::default();
    let (_, adapter) = with_adapter(&mut events, &log);
    let dying = events.spawn(move |cx: &mut Cx<()>, event| match event {
        Event::Start => {
            cx.notify(adapter);
            receive()
        }
        _ => stop(),
    });
    settle(&mut events);
    events.loop_ref().close_adapter(adapter);
    events.send(dying, ()).unwrap();
    settle(&mut events);
    assert_eq!(log.take(), "start down:done");
}

#[test]
fn adapter_over_limit_is_refused() {
    const ADAPTERS_MAX: usize = 262_143;
    let mut events = virtual_loop();
    let log = Log::default();
    let adapters = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let (made, seen) = (adapters.clone(), log.clone());
    let actor = events.spawn(move |cx, event: Event<u32>| {
        let count = if let Event::Start = event { ADAPTERS_MAX } else { 1 };
        for _ in 0..count {
            match cx.adapter(|n: u32| n) {
                Ok(adapter) => made.borrow_mut().push(adapter),
                Err(refused) => seen.note(refused.max),
            }
        }
        receive()
    });
    settle(&mut events);
    assert_eq!(events.stats().adapters, ADAPTERS_MAX);
    let (first, last) = (adapters.borrow()[0], adapters.borrow()[ADAPTERS_MAX - 1]);
    events.loop_ref().close_adapter(first);
    events.send(last, 1).expect("the last adapter is open");
    settle(&mut events);
    assert_eq!(events.stats().adapters, ADAPTERS_MAX, "the number of the closed adapter is used again");
    assert_eq!(adapters.borrow()[ADAPTERS_MAX], first);
    events.send(actor, 1).expect("the actor is alive");
    settle(&mut events);
    assert_eq!(log.take(), "262143");
    assert_eq!((events.stats().actors, events.stats().adapters), (1, ADAPTERS_MAX));
}
