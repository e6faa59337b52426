//! Spawning actors from closures, from `Actor` implementations and from folds: on the loop, in a step, and from another
//! thread.

use antiphon_sched::*;

use crate::common::*;

struct Counter {
    log: Log,
    left: u32,
}

impl Actor<u32> for Counter {
    fn step(&mut self, _: &mut Cx<'_, u32>, event: Event<u32>) -> Step<u32> {
        if let Event::Message(n) = event {
            self.log.note(n);
            self.left -= 1;
        }
        if self.left == 0 { stop() } else { receive() }
    }
}

#[test]
fn closure_struct_box_and_fold_are_actors() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    let closure = events.spawn(move |_, event| match event {
        Event::Message(n) => {
            seen.note(n);
            stop()
        }
        _ => receive(),
    });
    let structure = events.spawn_actor(Counter { log: log.clone(), left: 2 });
    let boxed: Box<dyn Actor<u32>> = Box::new(Counter { log: log.clone(), left: 1 });
    let boxed = events.spawn_actor(boxed);
    let seen = log.clone();
    let fold = events.spawn_fsm(String::new(), move |_, text, event| match event {
        Event::Message(n) if text.len() < 2 => to(format!("{text}{n}"), receive()),
        Event::Message(_) => {
            seen.note(text);
            stop()
        }
        _ => to(text, receive()),
    });
    for (addr, n) in
        [(closure, 1), (structure, 2), (structure, 3), (boxed, 4), (fold, 7), (fold, 8), (fold, 0)]
    {
        events.send(addr, n).unwrap();
    }
    settle(&mut events);
    assert_eq!(log.take(), "1 2 3 4 78");
    assert_eq!(events.stats().actors, 0);
}

#[test]
fn actor_spawns_closure_struct_and_fold() {
    let mut events = virtual_loop();
    let log = Log::default();
    let out = log.clone();
    with_cx(&mut events, move |cx| {
        let seen = out.clone();
        let closure = cx.spawn(move |_, event: Event<u32>| {
            note_event(&seen, &event);
            receive()
        });
        let structure = cx.spawn_actor(Counter { log: out.clone(), left: 1 });
        let seen = out.clone();
        let fold = cx.spawn_fsm((), move |_, (), event: Event<u32>| {
            note_event(&seen, &event);
            to((), receive())
        });
        cx.send(closure, 1).unwrap();
        cx.send(structure, 2).unwrap();
        cx.send(fold, 3).unwrap();
    });
    assert_eq!(log.take(), "start 1 2 start 3");
}

#[test]
fn handle_spawns_closure_and_struct() {
    struct SumActor(u32);
    impl Actor<(u32, ReplyTo<u32>)> for SumActor {
        fn step(
            &mut self,
            cx: &mut Cx<'_, (u32, ReplyTo<u32>)>,
            event: Event<(u32, ReplyTo<u32>)>,
        ) -> Step<(u32, ReplyTo<u32>)> {
            match event {
                Event::Message((n, reply)) => {
                    cx.reply(reply, self.0 + n);
                    stop()
                }
                _ => receive(),
            }
        }
    }
    let mut events = real_loop();
    let handle = events.handle();
    // Keeps the loop running until the thread has finished.
    let guard = events.spawn(|_, event: Event<()>| match event {
        Event::Message(()) => stop(),
        _ => receive(),
    });
    let thread = std::thread::spawn(move || {
        let adder = handle.spawn_actor(SumActor(5)).unwrap();
        let sum = handle.ask(adder, secs(20), |reply| (2, reply)).unwrap();
        let twice = handle
            .spawn(|cx: &mut Cx<(u32, ReplyTo<u32>)>, event| match event {
                Event::Message((n, reply)) => {
                    cx.reply(reply, 2 * n);
                    stop()
                }
                _ => receive(),
            })
            .unwrap();
        let product = handle.ask(twice, secs(20), |reply| (21, reply)).unwrap();
        handle.send(guard, ()).unwrap();
        (sum, product)
    });
    events.run().unwrap();
    assert_eq!(thread.join().unwrap(), (7, 42));
}

#[test]
fn fold_ending_reports_its_exit_reason() {
    let mut events = virtual_loop();
    let log = Log::default();
    let fails = events.spawn_fsm(1, |_: &mut Cx<()>, _, _| fail("out of order"));
    let panics = events.spawn_fsm(1, |_: &mut Cx<()>, _, _| panic!("folded"));
    let exits = events.spawn_fsm(1, |_: &mut Cx<()>, n, _| exit_local(n));
    for actor in [fails.id(), panics.id(), exits.id()] {
        log_exit(&mut events, &log, actor);
    }
    settle(&mut events);
    assert_eq!(
        log.take(),
        "[no such actor] [no such actor] [no such actor]",
        "each actor ended in its first step"
    );
    let endings: [fn() -> Fold<i32, ()>; 3] =
        [|| fail("out of order"), || panic!("folded"), || exit_local(1)];
    for ending in endings {
        let late = events.spawn_fsm(1, move |_: &mut Cx<()>, n, event| match event {
            Event::Message(()) => ending(),
            _ => to(n, receive()),
        });
        log_exit(&mut events, &log, late);
        settle(&mut events);
        events.send(late, ()).unwrap();
        settle(&mut events);
    }
    assert_eq!(log.take(), "[failed: out of order] [panicked: folded] [done]");
}

#[test]
fn fold_swap_fails_actor() {
    let mut events = virtual_loop();
    let log = Log::default();
    let fold = events.spawn_fsm((), |_: &mut Cx<u8>, (), event| match event {
        Event::Message(_) => to((), swap(|_, _| receive())),
        _ => to((), receive()),
    });
    log_exit(&mut events, &log, fold);
    settle(&mut events);
    events.send(fold, 1).unwrap();
    settle(&mut events);
    assert_eq!(log.take(), "[failed: a fold keeps its behaviour; spawn a closure to use `swap`]");
}

#[test]
fn address_is_24_bytes_copy_send_and_sync() {
    struct NotSend(#[expect(dead_code, reason = "only its type is used")] std::rc::Rc<()>);
    fn size_of_shared<T: Copy + Send + Sync>() -> usize {
        size_of::<T>()
    }
    assert_eq!(size_of_shared::<Addr<NotSend>>(), 24);
    assert_eq!(size_of_shared::<Addr<u8>>(), 24);
    assert_eq!(size_of::<Option<Addr<String>>>(), 24);
}
