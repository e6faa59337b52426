//! What a running loop shows of itself: its actors in pages, from an actor, from the loop, and from another thread.

use std::time::Duration;

use antiphon_sched::*;

use crate::common::*;

/// All actors of a loop, page by page, and the number of pages.
fn all_actors(events: &mut Loop) -> (Vec<ActorInfo>, usize) {
    let (mut all, mut next, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = events.actors(next);
        all.extend(page.actors);
        (next, pages) = (page.next, pages + 1);
        if next.is_none() {
            return (all, pages);
        }
    }
}

fn info_of<M>(events: &mut Loop, actor: Addr<M>) -> ActorInfo {
    let (all, _) = all_actors(events);
    all.into_iter().find(|info| info.id == actor.id()).expect("the actor is listed")
}

#[test]
fn actors_are_listed_in_pages() {
    let mut events = virtual_loop();
    let mut addresses: Vec<_> =
        (0..2500).map(|_| events.spawn(|_: &mut Cx<u32>, _| receive()).id()).collect();
    settle(&mut events);
    // Free places are skipped.
    for ended in addresses.drain(500..1500) {
        events.loop_ref().terminate(ended);
    }
    settle(&mut events);
    let (all, pages) = all_actors(&mut events);
    assert_eq!(all.iter().map(|info| info.id).collect::<Vec<_>>(), addresses);
    assert_eq!(pages, 2);
    assert_eq!(events.actors(None).actors.len(), 1000);
}

#[test]
fn actor_info_shows_type_state_and_mailbox() {
    let mut events = virtual_loop();
    type Waits = [(fn() -> Step<u32>, ActorState); 5];
    let waits: Waits = [
        (receive, ActorState::Waiting),
        (|| receive_within(secs(9)), ActorState::Waiting),
        (|| receive_if(|n| *n > 5), ActorState::Selecting),
        (|| sleep(secs(9)), ActorState::Sleeping),
        (suspend, ActorState::Suspended),
    ];
    for (wait, state) in waits {
        let actor = events.spawn(move |_: &mut Cx<u32>, _| wait());
        assert_eq!(info_of(&mut events, actor).state, ActorState::Runnable, "it has not started");
        settle(&mut events);
        let info = info_of(&mut events, actor);
        assert_eq!((info.state, info.mailbox), (state, 0));
        assert_eq!((&*info.message_type, info.is_named), ("u32", false));
        assert_eq!(info.name, info.actor_type);
        assert!(info.actor_type.contains("actor_info_shows_type_state_and_mailbox"), "{}", info.actor_type);
        assert_eq!(info.activity, None);
    }
    let busy = events.spawn_with(
        MailboxLimit::new(7, WhenFull::Refuse),
        actor(|cx: &mut Cx<u32>, event| {
            if matches!(event, Event::Start) {
                cx.set_name("busy");
                cx.set_daemon(true);
                let me = cx.addr();
                cx.monitor(me);
                cx.after(secs(1), 1).unwrap();
            }
            suspend()
        }),
    );
    settle(&mut events);
    (0..3).for_each(|n| events.send(busy, n).unwrap());
    settle(&mut events);
    let info = info_of(&mut events, busy);
    assert_eq!((&*info.name, info.is_named, info.is_daemon, info.is_service), ("busy", true, true, false));
    assert_eq!((info.mailbox, info.mailbox_max, info.open_requests), (3, 7, 2));
    let service = events.loop_ref().spawn_service(actor(|_: &mut Cx<u32>, _| receive()));
    let info = info_of(&mut events, service);
    assert_eq!((info.is_daemon, info.is_service), (true, true));
}

#[test]
fn running_actor_sees_itself() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    events.spawn(move |cx: &mut Cx<u32>, _| {
        let me = cx.id();
        let page = cx.actors(None);
        let own = page.actors.iter().find(|info| info.id == me).unwrap();
        seen.note(format_args!("{:?} of {}", own.state, cx.stats().actors));
        stop()
    });
    settle(&mut events);
    assert_eq!(log.take(), "Running of 1");
}

#[test]
fn activity_counts_steps_and_age() {
    let mut events = Loop::new(LoopConfig { actor_activity: true, ..virtual_config() }).unwrap();
    let first = events.spawn(|_: &mut Cx<u32>, _| receive());
    pass(&mut events, secs(3));
    (0..200).for_each(|n| events.send(first, n).unwrap());
    settle(&mut events);
    let activity = info_of(&mut events, first).activity.unwrap();
    assert_eq!((activity.age, activity.steps), (secs(3), 201));
    // The next actor in the same place begins anew.
    events.loop_ref().terminate(first);
    settle(&mut events);
    let second = events.spawn(|_: &mut Cx<u32>, _| receive());
    settle(&mut events);
    let activity = info_of(&mut events, second).activity.unwrap();
    assert_eq!((activity.age, activity.steps), (Duration::ZERO, 1));
}

#[test]
fn handle_inspects_running_loop() {
    let config = LoopConfig { actor_activity: true, watchdog: Some(millis(4)), ..LoopConfig::default() };
    let mut events = Loop::new(config).unwrap();
    let worker = events.spawn(|cx: &mut Cx<u32>, event| {
        if matches!(event, Event::Start) {
            cx.set_name("worker");
        } else {
            std::thread::sleep(millis(50));
        }
        receive()
    });
    events.send(worker, 1).unwrap();
    let handle = events.handle();
    let watching = std::thread::spawn(move || {
        let info = loop {
            let page = handle.actors(None, secs(10)).unwrap();
            let info = page.actors.into_iter().find(|info| info.name == "worker");
            // The watchdog samples the step of 50 ms.
            if let Some(info) = info.filter(|info| info.activity.unwrap().busy >= millis(2)) {
                break info;
            }
        };
        assert_eq!(info.id, worker.id());
        assert_eq!(handle.stats(secs(10)).unwrap().actors, 1);
        handle.stop();
        // Between two runs there is nothing to see.
        while handle.stats(secs(10)).is_ok() {}
        assert_eq!(handle.stats(secs(10)), Err(AskError::NoLoop));
    });
    events.run().unwrap();
    watching.join().unwrap();
}

#[test]
fn run_returns_result_of_function() {
    let mut events = real_loop();
    let handle = events.handle();
    assert_eq!(handle.run(secs(1), |_| 1), Err(AskError::NoLoop), "this is the loop's own thread");
    let calling = std::thread::spawn(move || {
        assert_eq!(handle.run(secs(10), |loop_ref| loop_ref.node_id()), Ok(handle.node_id()));
        let (release, released) = std::sync::mpsc::channel::<()>();
        let blocked = handle.clone();
        let blocking = std::thread::spawn(move || blocked.run(secs(10), move |_| released.recv()));
        while handle.run(millis(1), |_| ()) != Err(AskError::LoopTimedOut) {}
        release.send(()).unwrap();
        assert_eq!(blocking.join().unwrap(), Ok(Ok(())));
        // A panic of the function is logged, and the loop goes on.
        assert_eq!(handle.run(secs(10), |_| panic!("on purpose")), Err::<(), _>(AskError::NoLoop));
        handle.stop();
    });
    events.spawn(|_: &mut Cx<u32>, _| receive());
    events.run().unwrap();
    calling.join().unwrap();
}
