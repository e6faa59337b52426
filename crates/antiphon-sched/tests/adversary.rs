//! Findings of an adversary. Each test asserts what should hold; a failing test is a finding.
#![allow(missing_docs, clippy::all, clippy::pedantic, clippy::wildcard_enum_match_arm)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use antiphon_sched::*;

fn config() -> LoopConfig {
    LoopConfig { platform: Platform::Virtual, watchdog: None, ..LoopConfig::default() }
}

fn settle(events: &mut Loop) {
    for _ in 0..1_000_000 {
        events.work();
        if !events.is_runnable() {
            return;
        }
    }
    panic!("the loop is still runnable after 1,000,000 rounds");
}

/// A burst to one stuck actor takes all places of the inbox for ever: handles reach no other actor any more.
#[test]
fn stuck_target_leaves_inbox_to_others() {
    let mut events = Loop::new(LoopConfig { mailbox_max: 8, inbox_max: 1000, ..config() }).unwrap();
    let stuck: Addr<u32> = events.spawn(|_: &mut Cx<u32>, _| suspend());
    let got = Rc::new(Cell::new(0));
    let count = got.clone();
    let idle: Addr<u32> = events.spawn(move |_: &mut Cx<u32>, event| {
        if matches!(event, Event::Message(_)) {
            count.set(count.get() + 1);
        }
        receive()
    });
    settle(&mut events);
    (0..8).for_each(|n| events.send(stuck, n).unwrap());
    let handle = events.handle();
    let accepted = (0..2000).filter(|n| handle.send(stuck, *n).is_ok()).count();
    println!("accepted for the stuck actor: {accepted}");
    let mut refused = 0;
    for _ in 0..1000 {
        settle(&mut events);
        match handle.send(idle, 1) {
            Ok(()) => break,
            Err(error) => {
                refused += 1;
                println!("{:?}", error.reason());
            }
        }
        if refused == 3 {
            break;
        }
    }
    settle(&mut events);
    assert_eq!(got.get(), 1, "a handle's message to an idle actor is accepted; inbox: {}", events.stats().inbox);
}

/// Messages that a handle's `send` accepted and that are not delivered when the loop ends.
#[test]
fn accepted_messages_are_dead_letters_when_loop_is_dropped() {
    let dead = Rc::new(RefCell::new(0));
    let mut events = Loop::new(LoopConfig { mailbox_max: 4, ..config() }).unwrap();
    let count = dead.clone();
    events.on_dead_letter(move |_| *count.borrow_mut() += 1);
    let stuck: Addr<u32> = events.spawn(|cx: &mut Cx<u32>, _| {
        cx.set_daemon(true);
        suspend()
    });
    settle(&mut events);
    let handle = events.handle();
    let accepted = (0..20).filter(|n| handle.send(stuck, *n).is_ok()).count();
    settle(&mut events);
    events.run().unwrap();
    drop(events);
    assert_eq!((accepted, *dead.borrow()), (20, 20));
}

/// As before, by a graceful stop: messages in the inbox when the last actor ends.
#[test]
fn accepted_messages_are_dead_letters_at_stop() {
    let dead = Rc::new(RefCell::new(0));
    let mut events = Loop::new(LoopConfig { mailbox_max: 4, inbox_max: 2000, ..config() }).unwrap();
    let count = dead.clone();
    events.on_dead_letter(move |_| *count.borrow_mut() += 1);
    let stuck: Addr<u32> = events.spawn(|_: &mut Cx<u32>, event| match event {
        Event::Terminate => stop(),
        _ => suspend(),
    });
    settle(&mut events);
    let handle = events.handle();
    let accepted = (0..1000).filter(|n| handle.send(stuck, *n).is_ok()).count();
    handle.stop();
    events.run().unwrap();
    let at_end = *dead.borrow();
    let counted = events.stats().dead_letters;
    drop(events);
    assert_eq!((accepted, at_end, counted, *dead.borrow()), (1000, 1000, 1000, 1000));
}

/// The target that a sender awaits is an adapter. It is closed; its owner stays full.
#[test]
fn writable_follows_when_adapter_is_closed() {
    let mut events = Loop::new(LoopConfig { mailbox_max: 1, ..config() }).unwrap();
    let adapter: Rc<Cell<Option<(Addr<u8>, ())>>> = Rc::default();
    let shared = adapter.clone();
    let owner: Addr<u32> = events.spawn(move |cx: &mut Cx<u32>, event| {
        if matches!(event, Event::Start) {
            shared.set(Some((cx.adapter(|n: u8| u32::from(n)), ())));
        }
        if let Event::Resumed(_) = event {
            let addr = shared.get().unwrap().0;
            cx.loop_ref().close_adapter(addr);
        }
        suspend()
    });
    settle(&mut events);
    let addr = adapter.get().unwrap().0;
    events.send(owner, 1).unwrap();
    let log: Rc<RefCell<Vec<String>>> = Rc::default();
    let noted = log.clone();
    events.spawn(move |cx: &mut Cx<()>, event| {
        match event {
            Event::Start => noted.borrow_mut().push(format!("{:?}", cx.send(addr, 1).unwrap_err().reason())),
            Event::Writable { .. } => noted.borrow_mut().push("writable".into()),
            _ => {}
        }
        receive()
    });
    settle(&mut events);
    events.spawn(move |cx: &mut Cx<()>, _| {
        cx.resume(owner, ());
        stop()
    });
    settle(&mut events);
    assert_eq!(log.take(), ["Full", "writable"], "the target (the adapter) has ended");
}

/// Random operations with tiny mailboxes: everything that was accepted arrives, in order, and nothing hangs.
#[test]
fn tiny_mailboxes_ring() {
    for max in [1, 2, 3] {
        for seed in 0..300 {
            ring(max, seed);
        }
    }
}

fn ring(max: usize, seed: u64) {
    let mut rng = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        rng ^= rng << 13;
        rng ^= rng >> 7;
        rng ^= rng << 17;
        rng
    };
    let mut events = Loop::new(LoopConfig { mailbox_max: max, seed: Some(seed), ..config() }).unwrap();
    const N: usize = 4;
    const EACH: u32 = 30;
    let addrs: Rc<RefCell<Vec<Addr<(usize, u32)>>>> = Rc::default();
    let done = Rc::new(Cell::new(0_usize));
    let broken: Rc<RefCell<Vec<String>>> = Rc::default();
    for me in 0..N {
        let (peers, done, broken) = (addrs.clone(), done.clone(), broken.clone());
        let mut sent = [0_u32; N];
        let mut got = [0_u32; N + 1];
        let mut step = next();
        let addr = events.spawn(move |cx: &mut Cx<(usize, u32)>, event| {
            match event {
                Event::Message((from, n)) => {
                    if got[from] != n {
                        broken.borrow_mut().push(format!("{me} from {from}: {n}, expected {}", got[from]));
                    }
                    got[from] = n + 1;
                    done.set(done.get() + 1);
                }
                _ => {}
            }
            let peers = peers.borrow();
            if peers.len() == N {
                for to in 0..N {
                    while sent[to] < EACH && cx.send(peers[to], (me, sent[to])).is_ok() {
                        sent[to] += 1;
                    }
                }
            }
            step = step.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            match step >> 61 {
                0 => sleep(millis(1)),
                1 => receive_if(move |(from, _): &(usize, u32)| from % 2 == 0 || step >> 60 & 1 == 0),
                _ => receive(),
            }
        });
        addrs.borrow_mut().push(addr);
    }
    let handle = events.handle();
    let mut from_handle = [0_u32; N];
    for round in 0..4000 {
        for to in 0..N {
            let target = addrs.borrow()[to];
            if from_handle[to] < EACH && handle.send(target, (N, from_handle[to])).is_ok() {
                from_handle[to] += 1;
            }
        }
        events.work();
        let later = events.now() + millis(2);
        events.advance_to(later);
        if round % 16 == 0 {
            for to in 0..N {
                // Ends predicates that refuse all for ever: an event reaches the actor.
                let target = addrs.borrow()[to];
                events.spawn(move |cx: &mut Cx<()>, _| {
                    cx.resume(target, ());
                    stop()
                });
            }
        }
        if done.get() == N * (N + 1) * EACH as usize {
            break;
        }
    }
    assert!(broken.borrow().is_empty(), "{:?}", broken.borrow());
    assert_eq!(done.get(), N * (N + 1) * EACH as usize, "max {max} seed {seed}; {:?}", events.stats());
}
