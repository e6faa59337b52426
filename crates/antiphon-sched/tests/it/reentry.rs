//! User code that sends, spawns and terminates while the scheduler runs it from an unusual place.
//!
//! Such code has no `Cx`; what it has is a `Handle`.

use antiphon_sched::*;

use crate::common::*;

/// From any place: sends, starts, ends. What needs an answer is refused at once on the loop's own thread.
fn meddle(handle: &Handle, sink: Addr<&'static str>, from: &'static str) {
    handle.send(sink, from).unwrap();
    let spawned = handle.spawn(|_: &mut Cx<()>, _| stop());
    assert_eq!(spawned.unwrap_err(), AskError::NoLoop, "the loop's own thread must not block");
    let joined = handle.join::<()>(sink, secs(1));
    assert!(matches!(joined, Err(JoinError::NoLoop)), "{joined:?}");
    let asked = handle.ask(sink, secs(1), |_: ReplyTo<()>| "asked");
    assert_eq!(asked, Err(AskError::NoLoop));
}

struct Meddler {
    handle: Handle,
    sink: Addr<&'static str>,
    from: &'static str,
}

impl Drop for Meddler {
    fn drop(&mut self) {
        meddle(&self.handle, self.sink, self.from);
    }
}

impl std::fmt::Display for Meddler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        meddle(&self.handle, self.sink, "display");
        f.write_str("a meddler")
    }
}

fn place() -> (Loop, Log, Addr<&'static str>, impl Fn(&'static str) -> Meddler + Clone) {
    let mut events = virtual_loop();
    let log = Log::default();
    let sink = scribe::<&'static str>(&mut events, &log);
    settle(&mut events);
    log.take();
    let handle = events.handle();
    (events, log, sink, move |from| Meddler { handle: handle.clone(), sink, from })
}

#[test]
fn from_a_step() {
    let (mut events, log, sink, _) = place();
    within(&mut events, move |cx| meddle(&cx.handle(), sink, "step"));
    assert_eq!(log.take(), "step");
}

#[test]
fn from_a_predicate() {
    let (mut events, log, sink, _) = place();
    let actor = events.spawn(move |cx: &mut Cx<u32>, _| {
        let handle = cx.handle();
        receive_if(move |_| {
            meddle(&handle, sink, "predicate");
            false
        })
    });
    settle(&mut events);
    events.send(actor, 1).unwrap();
    settle(&mut events);
    assert_eq!(log.take(), "predicate");
}

#[test]
fn from_the_constructor_of_an_answer_and_the_maker_of_a_request() {
    let (mut events, log, sink, _) = place();
    let echo = events.spawn(|cx: &mut Cx<ReplyTo<u32>>, event| {
        if let Event::Message(reply) = event {
            cx.reply(reply, 1);
        }
        receive()
    });
    events.spawn(move |cx: &mut Cx<u32>, event| {
        if let Event::Start = event {
            let (one, two) = (cx.handle(), cx.handle());
            cx.ask(
                echo,
                secs(1),
                move |reply| {
                    meddle(&one, sink, "request");
                    reply
                },
                move |_| {
                    meddle(&two, sink, "answer");
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
fn from_the_function_of_a_further_address_and_the_maker_of_a_tick() {
    let (mut events, log, sink, _) = place();
    events.spawn(move |cx: &mut Cx<u32>, event| {
        if let Event::Start = event {
            let (one, two) = (cx.handle(), cx.handle());
            let adapter = cx.adapter(move |n| {
                meddle(&one, sink, "ear");
                n
            });
            cx.send(adapter, 1)?;
            cx.every(millis(10), move || {
                meddle(&two, sink, "tick");
                2
            });
        }
        receive()
    });
    pass(&mut events, millis(15));
    assert_eq!(log.take(), "ear tick");
}

#[test]
fn from_the_drop_of_a_message_taken_refused_and_left_behind() {
    let (mut events, log, _, meddler) = place();
    let actor = events.spawn(|_: &mut Cx<Meddler>, event| match event {
        Event::Message(_) => stop(),
        _ => receive(),
    });
    for from in ["taken", "left", "left"] {
        events.send(actor, meddler(from)).unwrap();
    }
    settle(&mut events);
    assert_eq!(log.take(), "taken left left");
    drop(events.send(actor, meddler("refused")));
    settle(&mut events);
    assert_eq!(log.take(), "refused");
    let gone = meddler("told");
    within(&mut events, move |cx| cx.tell(actor, gone));
    assert_eq!(log.take(), "told");
}

#[test]
fn from_the_drop_of_a_behaviour_a_predicate_a_timer_a_request_and_a_value() {
    let (mut events, log, _, meddler) = place();
    let sink = events.spawn(|_: &mut Cx<ReplyTo<u32>>, _| suspend());
    let captured = meddler("behaviour");
    let actor = events.spawn(move |cx: &mut Cx<Meddler>, event| {
        let _ = &captured;
        let meddler = |from| Meddler { handle: captured.handle.clone(), sink: captured.sink, from };
        if let Event::Start = event {
            cx.after(secs(1), meddler("timer"));
            let held = meddler("request");
            cx.ask(sink, secs(1), |reply| reply, move |_| held);
        }
        if let Event::Terminate = event {
            return receive();
        }
        let held = meddler("predicate");
        receive_if(move |_| {
            let _ = &held;
            false
        })
    });
    settle(&mut events);
    assert_eq!(log.take(), "");
    within(&mut events, move |cx| cx.terminate(actor));
    let mut all: Vec<_> = log.take().split(' ').map(str::to_owned).collect();
    all.sort();
    assert_eq!(all.join(" "), "behaviour predicate request timer");
    let value = meddler("value");
    within(&mut events, move |cx| {
        let held = Some(value);
        cx.spawn({
            let mut held = held;
            move |_: &mut Cx<()>, _| exit_local(held.take())
        });
    });
    assert_eq!(log.take(), "value");
}

#[test]
fn from_the_display_of_a_failure() {
    let (mut events, log, _, meddler) = place();
    let mut error = Some(meddler("drop"));
    events.spawn(move |_: &mut Cx<()>, _| match error.take() {
        Some(error) => Err(error)?,
        None => receive(),
    });
    settle(&mut events);
    assert_eq!(log.take(), "display drop");
}

#[test]
fn from_whoever_watches_dead_letters() {
    let (mut events, log, sink, _) = place();
    let handle = events.handle();
    events.on_dead_letter(move |letter| {
        if letter.to != sink.id() {
            meddle(&handle, sink, "dead letter");
        }
    });
    let dead = events.spawn(|_: &mut Cx<u32>, _| stop());
    settle(&mut events);
    within(&mut events, move |cx| cx.tell(dead, 1));
    assert_eq!(log.take(), "dead letter");
}

#[test]
fn from_the_end_of_the_loop() {
    let (mut events, _, sink, meddler) = place();
    let handle = events.handle();
    drop(meddler);
    struct Late(Handle, Addr<&'static str>);
    impl Drop for Late {
        fn drop(&mut self) {
            // Taken or refused: either is fine; it must neither block nor panic.
            drop(self.0.send(self.1, "late"));
            assert_eq!(self.0.spawn(|_: &mut Cx<()>, _| stop()).unwrap_err(), AskError::NoLoop);
        }
    }
    let late = Late(handle.clone(), sink);
    events.spawn(move |_: &mut Cx<Late>, _| {
        let _ = &late;
        suspend()
    });
    let holder = events.spawn(|_: &mut Cx<Late>, _| suspend());
    settle(&mut events);
    events.send(holder, Late(handle.clone(), sink)).unwrap();
    handle.send(holder, Late(handle.clone(), sink)).unwrap();
    drop(events);
    assert!(matches!(handle.send(sink, "gone"), Err(SendError::NoNode("gone"))));
}
