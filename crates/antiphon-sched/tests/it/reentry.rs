//! A `Handle` on the loop's own thread, used in each place where the scheduler runs user code.
//!
//! Most of this code has no `Cx`. Its sends succeed. Its calls that wait for a reply fail at once, because the
//! loop cannot reply while it runs this code.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use antiphon_sched::*;

use crate::common::*;

/// Sends `from` to `sink`. Asserts that calls which wait for a reply are refused on the loop's own thread.
fn use_handle(handle: &Handle, sink: Addr<&'static str>, from: &'static str) {
    handle.send(sink, from).unwrap();
    let spawned = handle.spawn(|_: &mut Cx<()>, _| stop());
    assert_eq!(spawned.unwrap_err(), AskError::NoLoop);
    let joined = handle.join::<()>(sink, secs(1));
    assert!(matches!(joined, Err(JoinError::NoLoop)), "{joined:?}");
    let asked = handle.ask(sink, secs(1), |_: ReplyTo<()>| "asked");
    assert_eq!(asked, Err(AskError::NoLoop));
}

/// Uses its handle when it is displayed and when it is dropped.
struct HandleUser {
    handle: Handle,
    sink: Addr<&'static str>,
    from: &'static str,
}

impl Drop for HandleUser {
    fn drop(&mut self) {
        use_handle(&self.handle, self.sink, self.from);
    }
}

impl std::fmt::Display for HandleUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use_handle(&self.handle, self.sink, "display");
        f.write_str("a handle user")
    }
}

fn setup() -> (Loop, Log, Addr<&'static str>, impl Fn(&'static str) -> HandleUser + Clone) {
    let mut events = virtual_loop();
    let log = Log::default();
    let sink = spawn_logger::<&'static str>(&mut events, &log);
    settle(&mut events);
    log.take();
    let handle = events.handle();
    (events, log, sink, move |from| HandleUser { handle: handle.clone(), sink, from })
}

#[test]
fn step_using_handle_does_not_block() {
    let (mut events, log, sink, _) = setup();
    with_cx(&mut events, move |cx| use_handle(&cx.handle(), sink, "step"));
    assert_eq!(log.take(), "step");
}

#[test]
fn predicate_using_handle_does_not_block() {
    let (mut events, log, sink, _) = setup();
    let actor = events.spawn(move |cx: &mut Cx<u32>, _| {
        let handle = cx.handle();
        receive_if(move |_| {
            use_handle(&handle, sink, "predicate");
            false
        })
    });
    settle(&mut events);
    events.send(actor, 1).unwrap();
    settle(&mut events);
    assert_eq!(log.take(), "predicate");
}

#[test]
fn ask_functions_using_handle_do_not_block() {
    let (mut events, log, sink, _) = setup();
    let echo = events.spawn(|cx: &mut Cx<ReplyTo<u32>>, event| {
        if let Event::Message(reply) = event {
            cx.reply(reply, 1);
        }
        receive()
    });
    events.spawn(move |cx: &mut Cx<u32>, event| {
        if let Event::Start = event {
            let (first, second) = (cx.handle(), cx.handle());
            cx.ask(
                echo,
                secs(1),
                move |reply| {
                    use_handle(&first, sink, "request");
                    reply
                },
                move |_| {
                    use_handle(&second, sink, "answer");
                    1
                },
            );
        }
        receive()
    });
    settle(&mut events);
    assert_eq!(log.take(), "request answer");
}

#[test]
fn adapter_and_timer_using_handle_do_not_block() {
    let (mut events, log, sink, _) = setup();
    events.spawn(move |cx: &mut Cx<u32>, event| {
        if let Event::Start = event {
            let (first, second) = (cx.handle(), cx.handle());
            let adapter = cx
                .adapter(move |n| {
                    use_handle(&first, sink, "adapter");
                    n
                })
                .unwrap();
            cx.send(adapter, 1)?;
            cx.every(millis(10), move || {
                use_handle(&second, sink, "tick");
                2
            })
            .unwrap();
        }
        receive()
    });
    pass(&mut events, millis(15));
    assert_eq!(log.take(), "adapter tick");
}

#[test]
fn message_drop_using_handle_does_not_block() {
    let (mut events, log, _, handle_user) = setup();
    let actor = events.spawn(|_: &mut Cx<HandleUser>, event| match event {
        Event::Message(_) => stop(),
        _ => receive(),
    });
    for from in ["taken", "left", "left"] {
        events.send(actor, handle_user(from)).unwrap();
    }
    settle(&mut events);
    assert_eq!(log.take(), "taken left left");
    assert!(matches!(events.send(actor, handle_user("refused")), Err(SendError::NoActor(_))));
    settle(&mut events);
    assert_eq!(log.take(), "refused");
    let message = handle_user("dead letter");
    with_cx(&mut events, move |cx| cx.tell(actor, message));
    assert_eq!(log.take(), "dead letter");
}

#[test]
fn actor_state_drop_using_handle_does_not_block() {
    let (mut events, log, _, handle_user) = setup();
    let sink = events.spawn(|_: &mut Cx<ReplyTo<u32>>, _| suspend());
    let captured = handle_user("behaviour");
    let actor = events.spawn(move |cx: &mut Cx<HandleUser>, event| {
        let _ = &captured;
        let handle_user = |from| HandleUser { handle: captured.handle.clone(), sink: captured.sink, from };
        if let Event::Start = event {
            cx.after(secs(1), handle_user("timer")).unwrap();
            let held = handle_user("request");
            cx.ask(sink, secs(1), |reply| reply, move |_| held);
        }
        if let Event::Terminate = event {
            return receive();
        }
        let held = handle_user("predicate");
        receive_if(move |_| {
            let _ = &held;
            false
        })
    });
    settle(&mut events);
    assert_eq!(log.take(), "");
    with_cx(&mut events, move |cx| cx.terminate(actor));
    let mut drops: Vec<_> = log.take().split(' ').map(str::to_owned).collect();
    drops.sort();
    assert_eq!(drops.join(" "), "behaviour predicate request timer");
    let value = handle_user("value");
    with_cx(&mut events, move |cx| {
        let held = Some(value);
        cx.spawn({
            let mut held = held;
            move |_: &mut Cx<()>, _| exit_local(held.take())
        });
    });
    assert_eq!(log.take(), "value");
}

#[test]
fn error_display_using_handle_does_not_block() {
    let (mut events, log, _, handle_user) = setup();
    let mut error = Some(handle_user("drop"));
    events.spawn(move |_: &mut Cx<()>, _| match error.take() {
        Some(error) => Err(error)?,
        None => receive(),
    });
    settle(&mut events);
    assert_eq!(log.take(), "display drop");
}

#[test]
fn dead_letter_handler_using_handle_does_not_block() {
    let (mut events, log, sink, _) = setup();
    let handle = events.handle();
    events.on_dead_letter(move |letter| {
        if letter.to != sink.id() {
            use_handle(&handle, sink, "dead letter");
        }
    });
    let stopped = events.spawn(|_: &mut Cx<u32>, _| stop());
    settle(&mut events);
    with_cx(&mut events, move |cx| cx.tell(stopped, 1));
    assert_eq!(log.take(), "dead letter");
}

#[test]
fn value_dropped_with_loop_does_not_block() {
    let (mut events, _, sink, handle_user) = setup();
    let handle = events.handle();
    drop(handle_user);
    static DROPS: AtomicU32 = AtomicU32::new(0);
    struct LateSender(Handle, Addr<&'static str>);
    impl Drop for LateSender {
        fn drop(&mut self) {
            DROPS.fetch_add(1, Relaxed);
            // The send may succeed or fail; it must neither block nor panic.
            drop(self.0.send(self.1, "late"));
            assert_eq!(self.0.spawn(|_: &mut Cx<()>, _| stop()).unwrap_err(), AskError::NoLoop);
        }
    }
    let late = LateSender(handle.clone(), sink);
    events.spawn(move |_: &mut Cx<LateSender>, _| {
        let _ = &late;
        suspend()
    });
    let holder = events.spawn(|_: &mut Cx<LateSender>, _| suspend());
    settle(&mut events);
    events.send(holder, LateSender(handle.clone(), sink)).unwrap();
    handle.send(holder, LateSender(handle.clone(), sink)).unwrap();
    drop(events);
    assert_eq!(DROPS.load(Relaxed), 3);
    assert!(matches!(handle.send(sink, "too late"), Err(SendError::NoNode("too late"))));
}
