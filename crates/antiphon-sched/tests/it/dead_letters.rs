//! Dead letters: every one is counted, and a hook receives them.

use antiphon_sched::*;

use crate::common::*;

#[test]
fn tell_undeliverable_is_counted_and_reported() {
    let mut events = Loop::new(LoopConfig { mailbox_max: 1, ..virtual_config() }).unwrap();
    let log = Log::default();
    let seen = log.clone();
    let dead = events.spawn(|_: &mut Cx<u32>, _| stop());
    let full = events.spawn(|_: &mut Cx<u32>, _| suspend());
    settle(&mut events);
    events.on_dead_letter(move |letter| {
        let to = if letter.to == dead.id() { "dead" } else { "full" };
        seen.note(format!("{to}:{}:{:?}", letter.what, letter.reason));
    });
    with_cx(&mut events, move |cx| {
        cx.tell(dead, 1);
        cx.tell(full, 2);
        cx.tell(full, 3);
        assert!(matches!(cx.send(dead, 4), Err(SendError::NoActor(4))));
    });
    assert_eq!(log.take(), "dead:u32:NoActor full:u32:Full");
    assert_eq!(events.stats().dead_letters, 2, "a message that `send` returns is no dead letter");
}

#[test]
fn handle_send_undeliverable_is_dead_letter() {
    let mut events = virtual_loop();
    let dead = events.spawn(|_: &mut Cx<u32>, _| stop());
    settle(&mut events);
    events.handle().send(dead, 1).unwrap();
    settle(&mut events);
    assert_eq!(events.stats().dead_letters, 1);
}

#[test]
fn dead_letter_flood_is_counted_and_reported_partly() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    let dead = events.spawn(|_: &mut Cx<u32>, _| stop());
    settle(&mut events);
    events.on_dead_letter(move |_| seen.note("x"));
    with_cx(&mut events, move |cx| (0..5_000).for_each(|n| cx.tell(dead, n)));
    assert_eq!(events.stats().dead_letters, 5_000);
    assert_eq!(log.take().split(' ').count(), 1_024);
}

#[test]
fn notify_refused_is_down_or_dead_letter() {
    let config = LoopConfig { mailbox_max: 2, requests_max: 65_535, ..virtual_config() };
    let mut events = Loop::new(config).expect("a virtual loop needs nothing of the system");
    let log = Log::default();
    let (seen, downs) = (log.clone(), log.clone());
    let dead = events.spawn(|_: &mut Cx<u32>, _| stop());
    let busy = events.spawn(move |cx: &mut Cx<u32>, event| {
        match event {
            Event::Start => (0..65_535).for_each(|_| {
                cx.after(secs(1_000), 0).unwrap();
            }),
            Event::Down(down) => downs.note(format!("{:?}", down.reason)),
            _ => {}
        }
        receive()
    });
    settle(&mut events);
    events.on_dead_letter(move |letter| seen.note(format!("{}:{:?}", letter.what, letter.reason)));
    with_cx(&mut events, move |cx| cx.notify(dead));
    assert_eq!(log.take(), "notify:NoActor");
    with_cx(&mut events, move |cx| cx.notify(busy));
    assert_eq!(log.take(), "Refused");
    with_cx(&mut events, move |cx| {
        (0..2).for_each(|n| cx.tell(busy, n));
        cx.notify(busy);
    });
    assert_eq!(log.take(), "notify:Full");
}
