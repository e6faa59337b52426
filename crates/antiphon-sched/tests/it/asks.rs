//! Requests: each has exactly one answer, a value or why there is none.

use std::cell::Cell;
use std::rc::Rc;

use antiphon_sched::*;

use crate::common::*;

type Answer = Result<u32, AskError>;
/// Where a request that is not answered yet is kept.
type Kept = Rc<Cell<Option<ReplyTo<u32>>>>;

/// An actor that asks `to`, and logs what it is answered.
fn asker<T: 'static>(
    events: &mut Loop,
    log: &Log,
    to: Addr<T>,
    request: impl FnOnce(ReplyTo<u32>) -> T + 'static,
) -> Addr<Answer> {
    let (log, mut request) = (log.clone(), Some(request));
    events.spawn(move |cx, event: Event<Answer>| {
        match event {
            Event::Start => cx.ask(to, secs(1), request.take().unwrap(), |answer| answer),
            Event::Message(answer) => log.note(format!("{answer:?}")),
            _ => {}
        }
        receive()
    })
}

/// An actor that keeps the last request that it was sent.
fn keeper(events: &mut Loop) -> (Addr<ReplyTo<u32>>, Kept) {
    let kept = Rc::new(Cell::new(None));
    let place = kept.clone();
    let addr = events.spawn(move |_, event: Event<ReplyTo<u32>>| {
        if let Event::Message(reply) = event {
            place.set(Some(reply));
        }
        receive()
    });
    (addr, kept)
}

fn tables(events: &Loop) -> (usize, usize) {
    (events.stats().requests, events.stats().timers)
}

#[test]
fn an_answer_arrives_once_and_closes_the_request() {
    let mut events = virtual_loop();
    let log = Log::default();
    let echo = events.spawn(|cx, event: Event<(u32, ReplyTo<u32>)>| {
        if let Event::Message((n, reply)) = event {
            cx.reply(reply, n + 1);
        }
        receive()
    });
    asker(&mut events, &log, echo, |reply| (41, reply));
    pass(&mut events, secs(3));
    assert_eq!(log.take(), "Ok(42)");
    assert_eq!(tables(&events), (0, 0));
}

#[test]
fn a_reply_dropped_in_the_loop_answers_at_once() {
    let mut events = virtual_loop();
    let log = Log::default();
    let dropper = events.spawn(|_: &mut Cx<ReplyTo<u32>>, _| receive());
    asker(&mut events, &log, dropper, |reply| reply);
    settle(&mut events);
    assert_eq!(log.take(), "Err(Dropped)");
    assert_eq!(tables(&events), (0, 0));
}

#[test]
fn a_reply_dropped_between_two_rounds_keeps_the_loop_from_sleeping() {
    let mut events = virtual_loop();
    let log = Log::default();
    let (addr, kept) = keeper(&mut events);
    asker(&mut events, &log, addr, |reply| reply);
    settle(&mut events);
    assert!(!events.is_runnable());
    drop(kept.take());
    assert!(events.is_runnable(), "somebody is to be told");
    settle(&mut events);
    assert_eq!(log.take(), "Err(Dropped)");
}

#[test]
fn a_reply_dropped_on_another_thread_answers() {
    let mut events = real_loop();
    let log = Log::default();
    let seen = log.clone();
    let sender = events.spawn(|_, event: Event<ReplyTo<u32>>| {
        if let Event::Message(reply) = event {
            std::thread::spawn(move || drop(reply));
        }
        receive()
    });
    events.spawn(move |cx, event: Event<Answer>| match event {
        Event::Start => {
            cx.ask(sender, secs(60), |reply| reply, |answer| answer);
            receive()
        }
        Event::Message(answer) => {
            seen.note(format!("{answer:?}"));
            cx.terminate(sender);
            stop()
        }
        _ => receive(),
    });
    events.run().unwrap();
    assert_eq!(log.take(), "Err(Dropped)");
}

#[test]
fn the_end_and_the_panic_of_the_asked_answer_dropped() {
    for panics in [false, true] {
        let mut events = virtual_loop();
        let log = Log::default();
        let (addr, kept) = keeper(&mut events);
        let holder = events.spawn(move |_, event: Event<ReplyTo<u32>>| match event {
            Event::Message(_reply) if panics => panic!("with a reply in hand"),
            _ => receive_if(|_| false),
        });
        let target = if panics { holder } else { addr };
        asker(&mut events, &log, target, |reply| reply);
        asker(&mut events, &log, holder, |reply| reply);
        settle(&mut events);
        drop(kept.take());
        within(&mut events, move |cx| cx.terminate(holder));
        settle(&mut events);
        assert_eq!(log.take(), "Err(Dropped) Err(Dropped)", "panics: {panics}");
        assert_eq!(tables(&events), (0, 0));
    }
}

#[test]
fn a_reply_that_nobody_gives_times_out_and_a_late_answer_is_nothing() {
    let mut events = virtual_loop();
    let log = Log::default();
    let (addr, kept) = keeper(&mut events);
    asker(&mut events, &log, addr, |reply| reply);
    pass(&mut events, millis(990));
    assert_eq!(log.take(), "");
    pass(&mut events, millis(12));
    assert_eq!(log.take(), "Err(TimedOut)");
    events.loop_ref().reply(kept.take().unwrap(), 7);
    settle(&mut events);
    assert_eq!(log.take(), "");
    assert_eq!(tables(&events), (0, 0));
}

#[test]
fn a_request_that_does_not_go_is_answered_why() {
    let mut events = Loop::new(LoopConfig { mailbox_max: 1, ..virtual_config() }).unwrap();
    let log = Log::default();
    let dead = events.spawn(|_: &mut Cx<ReplyTo<u32>>, _| stop());
    let full = events.spawn(|_: &mut Cx<(Option<ReplyTo<u32>>,)>, _| suspend());
    settle(&mut events);
    events.send(full, (None,)).unwrap();
    let elsewhere = virtual_loop().spawn(|_: &mut Cx<ReplyTo<u32>>, _| receive());
    asker(&mut events, &log, dead, |reply| reply);
    asker(&mut events, &log, full, |reply| (Some(reply),));
    asker(&mut events, &log, elsewhere, |reply| reply);
    settle(&mut events);
    assert_eq!(log.take(), "Err(NoActor) Err(Full) Err(NodeLost)");
    assert_eq!(tables(&events), (0, 0));
}

#[test]
fn the_request_after_65_535_open_ones_is_refused_and_then_it_goes_on() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    let kept = Rc::new(std::cell::RefCell::new(Vec::new()));
    let place = kept.clone();
    let keeper = events.spawn(move |_, event: Event<ReplyTo<u32>>| {
        if let Event::Message(reply) = event {
            place.borrow_mut().push(reply);
        }
        receive()
    });
    let asker = events.spawn(move |cx, event: Event<Option<Answer>>| {
        match event {
            Event::Start => {
                for _ in 0..65_536 {
                    cx.ask(keeper, secs(1), |reply| reply, Some);
                }
            }
            Event::Message(None) => cx.ask(keeper, secs(1), |reply| reply, Some),
            Event::Message(Some(answer)) => seen.note(format!("{answer:?}")),
            _ => {}
        }
        receive()
    });
    settle(&mut events);
    assert_eq!(log.take(), "Err(TooManyOpen)");
    assert_eq!(events.stats().requests, 65_535);
    let reply = kept.borrow_mut().pop().unwrap();
    events.loop_ref().reply(reply, 1);
    settle(&mut events);
    events.send(asker, None).unwrap();
    settle(&mut events);
    assert_eq!(log.take(), "Ok(1)", "the next request went");
    assert_eq!(kept.borrow().len(), 65_535);
    pass(&mut events, secs(2));
    assert_eq!(log.take().matches("TimedOut").count(), 65_535);
    assert_eq!(tables(&events), (0, 0));
    kept.borrow_mut().clear();
}

#[test]
fn requests_end_with_their_asker() {
    let mut events = virtual_loop();
    let log = Log::default();
    let (addr, kept) = keeper(&mut events);
    let asker = asker(&mut events, &log, addr, |reply| reply);
    settle(&mut events);
    assert_eq!(tables(&events), (1, 1));
    within(&mut events, move |cx| cx.terminate(asker));
    assert_eq!(tables(&events), (0, 0));
    events.loop_ref().reply(kept.take().unwrap(), 3);
    settle(&mut events);
    assert_eq!(log.take(), "");
}

#[test]
fn an_actor_may_ask_itself() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    enum Own {
        Question(ReplyTo<u32>),
        Answer(Answer),
    }
    events.spawn(move |cx, event: Event<Own>| {
        match event {
            Event::Start => cx.ask(cx.addr(), secs(1), Own::Question, Own::Answer),
            Event::Message(Own::Question(reply)) => cx.reply(reply, 5),
            Event::Message(Own::Answer(answer)) => seen.note(format!("{answer:?}")),
            _ => {}
        }
        receive()
    });
    settle(&mut events);
    assert_eq!(log.take(), "Ok(5)");
}

#[test]
fn a_reply_dropped_while_an_answer_is_made_is_told_in_the_same_rest() {
    // The constructor of one answer drops another reply, after the round has looked for dropped ones.
    let mut events = virtual_loop();
    let log = Log::default();
    let (outer, kept) = keeper(&mut events);
    asker(&mut events, &log, outer, |reply| reply);
    settle(&mut events);
    let inner = kept.take().unwrap();
    let dropper = events.spawn(|_: &mut Cx<ReplyTo<u32>>, _| receive());
    let mut inner = Some(inner);
    events.spawn(move |cx, event: Event<()>| {
        if let Event::Start = event {
            let inner = inner.take();
            cx.ask(
                dropper,
                secs(1),
                |reply| reply,
                move |_: Answer| {
                    drop(inner);
                    panic!("so nothing becomes runnable by this answer")
                },
            );
        }
        receive()
    });
    settle(&mut events);
    assert_eq!(log.take(), "Err(Dropped)");
}
