//! `SteppedActor`: a test steps an actor alone, with the events that it chooses.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use antiphon_sched::testing::{ProbeActor, Stepped, SteppedActor, TestLoop};
use antiphon_sched::*;

/// Does in each step what the message asks for.
fn obedient() -> impl Actor<&'static str> {
    actor(|_, event: Event<&'static str>| match event {
        Event::Message("within") => receive_within(secs(1)),
        Event::Message("if") => receive_if(|message: &&str| message.len() == 1),
        Event::Message("if within") => receive_if_within(secs(2), |message: &&str| message.len() == 2),
        Event::Message("again") => receive_again(),
        Event::Message("sleep") => sleep(secs(3)),
        Event::Message("suspend") => suspend(),
        Event::Message("swap") => swap(|_, _| fail("swapped")),
        Event::Message("stop") => stop(),
        Event::Message("exit") => exit_local("a value"),
        Event::Message("fail") => fail("no paper"),
        Event::Message("panic") => panic!("no ink"),
        Event::Terminate => finishing(secs(4)),
        _ => receive(),
    })
}

#[test]
fn step_returns_each_kind_of_wait() {
    let mut test = TestLoop::new(1);
    let mut worker = SteppedActor::new(&mut test, obedient());
    for (message, expected) in [
        ("any", Stepped::Receive),
        ("within", Stepped::ReceiveWithin(secs(1))),
        ("if", Stepped::ReceiveIf),
        ("if within", Stepped::ReceiveIfWithin(secs(2))),
        ("again", Stepped::ReceiveAgain),
        ("sleep", Stepped::Sleep(secs(3))),
        ("suspend", Stepped::Suspend),
    ] {
        assert_eq!(worker.step(&mut test, Event::Message(message)), expected);
    }
    assert_eq!(worker.step(&mut test, Event::Terminate), Stepped::Finishing(secs(4)));
    assert!(worker.exit_reason().is_none(), "it finishes its work");
}

#[test]
fn admits_asks_predicate_of_last_wait() {
    let mut test = TestLoop::new(1);
    let mut worker = SteppedActor::new(&mut test, obedient());
    let mut admitted_after = |message| {
        worker.step(&mut test, Event::Message(message));
        ["x", "xy"].map(|message| worker.admits(&message))
    };
    assert_eq!(admitted_after("any"), [true, true]);
    assert_eq!(admitted_after("again"), [true, true]);
    assert_eq!(admitted_after("if"), [true, false]);
    assert_eq!(admitted_after("again"), [true, false]);
    assert_eq!(admitted_after("if within"), [false, true]);
    assert_eq!(admitted_after("suspend"), [false, false]);
    assert_eq!(admitted_after("again"), [true, true], "it is the same as receive");
}

#[test]
fn swapped_behaviour_takes_next_step() {
    let mut test = TestLoop::new(1);
    let mut worker = SteppedActor::new(&mut test, obedient());
    assert_eq!(worker.step(&mut test, Event::Message("swap")), Stepped::Swapped);
    assert_eq!(worker.step(&mut test, Event::Message("any")), Stepped::Failed("swapped".into()));
}

/// What happens to an actor that does everything with its `Cx`.
#[derive(Debug, PartialEq)]
enum Client {
    Answer(Result<u32, AskError>),
    Later,
    Adapted(u8),
}

#[test]
fn cx_of_stepped_actor_works_in_loop() {
    let mut test = TestLoop::new(1);
    let probe = ProbeActor::start(&mut test);
    let adder = test.spawn(|cx: &mut Cx<(u32, ReplyTo<u32>)>, event| match event {
        Event::Message((number, reply)) => {
            cx.reply(reply, number + 1);
            stop()
        }
        _ => receive(),
    });
    let sink = probe.addr();
    let mut client = SteppedActor::new(
        &mut test,
        actor(move |cx: &mut Cx<Client>, event| {
            if let Event::Start = event {
                cx.ask(adder, secs(1), |reply| (6, reply), Client::Answer);
                cx.after(secs(9), Client::Later)?;
                cx.monitor(adder);
                let adapter = cx.adapter(Client::Adapted)?;
                cx.send(sink, (cx.addr(), adapter))?;
            }
            receive()
        }),
    );
    assert_eq!(client.step(&mut test, Event::Start), Stepped::Receive);
    let (own, adapter) = probe.expect(&mut test, secs(0));
    assert_eq!(own, client.addr());
    test.send(adapter, 8).unwrap();

    let received = client.take_received(&mut test);
    let [Event::Message(answer), Event::Down(down), Event::Message(adapted)] = &received[..] else {
        panic!("an answer, the end of the adder, and an adapted message: {received:?}")
    };
    assert_eq!((answer, adapted), (&Client::Answer(Ok(7)), &Client::Adapted(8)));
    assert_eq!(down.actor, adder.id());
    test.pass(secs(9));
    assert!(matches!(&client.take_received(&mut test)[..], [Event::Message(Client::Later)]));
}

#[test]
fn loop_runs_no_step_of_stepped_actor() {
    let mut test = TestLoop::new(1);
    let steps = std::rc::Rc::new(std::cell::Cell::new(0));
    let counted = steps.clone();
    let mut worker = SteppedActor::new(
        &mut test,
        actor(move |_, _: Event<u32>| {
            counted.set(counted.get() + 1);
            receive_within(secs(1))
        }),
    );
    worker.step(&mut test, Event::Start);
    test.send(worker.addr(), 5).unwrap();
    test.pass(secs(60));
    assert_eq!(steps.get(), 1);
    assert!(matches!(worker.take_received(&mut test)[..], [Event::Message(5)]));
    assert!(worker.take_received(&mut test).is_empty());
}

#[test]
fn ended_actor_reports_reason_and_value() {
    for (message, expected) in
        [("stop", Stepped::Stopped), ("exit", Stepped::Stopped), ("fail", Stepped::Failed("no paper".into()))]
    {
        let mut test = TestLoop::new(1);
        let mut worker = SteppedActor::new(&mut test, obedient());
        let ended = test.exit_of(worker.addr());
        assert_eq!(worker.step(&mut test, Event::Message(message)), expected);
        assert!(test.send(worker.addr(), "any").is_err(), "its address is stale");
        match (message, worker.exit_reason()) {
            ("stop", Some(ExitReason::Done(_))) => {}
            ("exit", Some(ExitReason::Done(value))) => {
                assert_eq!(*value.get_local::<&str>().unwrap(), "a value");
            }
            ("fail", Some(ExitReason::Failed(text))) => assert_eq!(text, "no paper"),
            (_, reason) => panic!("{message} ended the actor with {reason:?}"),
        }
        assert!(ended.borrow().is_some(), "its monitors learn of the end");
    }
}

#[track_caller]
fn panic_text_of(step: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(step)).expect_err("the step panics");
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => (*payload.downcast::<&str>().expect("a panic carries text")).to_owned(),
    }
}

#[test]
fn step_after_end_panics() {
    let mut test = TestLoop::new(1);
    let mut worker = SteppedActor::new(&mut test, obedient());
    worker.step(&mut test, Event::Message("fail"));
    let text = panic_text_of(|| drop(worker.step(&mut test, Event::Message("any"))));
    assert_eq!(text, "the stepped actor has ended (failed: no paper), so it takes no further step");

    let mut killed = SteppedActor::new(&mut test, obedient());
    let addr = killed.addr();
    test.spawn(move |cx: &mut Cx<()>, _| {
        cx.kill(addr);
        stop()
    });
    test.settle();
    let text = panic_text_of(|| drop(killed.step(&mut test, Event::Start)));
    assert!(text.contains("has ended (terminated)"), "{text}");
}

#[test]
fn panic_of_step_reaches_test() {
    let mut test = TestLoop::new(1);
    let mut worker = SteppedActor::new(&mut test, obedient());
    let text = panic_text_of(|| drop(worker.step(&mut test, Event::Message("panic"))));
    assert_eq!(text, "no ink");
}

/// Terminates an actor, and throws a value into it, from another actor.
fn terminate_and_throw(test: &mut TestLoop, target: Addr<&'static str>) {
    test.spawn(move |cx: &mut Cx<()>, _| {
        cx.throw(target, ());
        cx.terminate(target);
        stop()
    });
}

#[test]
fn termination_ends_actor_that_needs_no_time() {
    let mut test = TestLoop::new(1);
    let mut worker = SteppedActor::new(&mut test, actor(|_, _: Event<&'static str>| receive_within(secs(1))));
    terminate_and_throw(&mut test, worker.addr());
    let received = worker.take_received(&mut test);
    let Ok([Event::Thrown(_), event @ Event::Terminate]) = <[_; 2]>::try_from(received) else {
        panic!("it receives the exception and the termination");
    };
    assert!(worker.exit_reason().is_none(), "no step has handled them");
    assert_eq!(worker.step(&mut test, event), Stepped::Terminated);
    assert!(matches!(worker.exit_reason(), Some(ExitReason::Terminated)));
}

#[test]
fn exception_ends_actor_unless_handled() {
    let mut test = TestLoop::new(1);
    let mut ignoring = SteppedActor::new(&mut test, actor(|_, _: Event<&'static str>| receive()));
    let mut handling = SteppedActor::new(
        &mut test,
        actor(|_, event: Event<&'static str>| match event {
            Event::Thrown(thrown) => {
                drop(thrown.take());
                sleep(Duration::ZERO)
            }
            _ => receive(),
        }),
    );
    for (worker, expected) in [
        (&mut ignoring, Stepped::Failed("an exception was thrown into it, and not handled".into())),
        (&mut handling, Stepped::Sleep(Duration::ZERO)),
    ] {
        terminate_and_throw(&mut test, worker.addr());
        let event = worker.take_received(&mut test).swap_remove(0);
        assert_eq!(worker.step(&mut test, event), expected);
    }
}
