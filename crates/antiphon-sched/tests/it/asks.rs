//! Requests: each completes exactly once, with a value or an error.

use std::cell::Cell;
use std::rc::Rc;

use antiphon_sched::*;

use crate::common::*;

type AskResult = Result<u32, AskError>;
/// Shares the last reply permission of an actor with its test.
type StoredReply = Rc<Cell<Option<ReplyTo<u32>>>>;

/// Starts an actor that asks `to` and logs the result.
fn asker<T: 'static>(
    events: &mut Loop,
    log: &Log,
    to: Addr<T>,
    request: impl FnOnce(ReplyTo<u32>) -> T + 'static,
) -> Addr<AskResult> {
    let (log, mut request) = (log.clone(), Some(request));
    events.spawn(move |cx, event: Event<AskResult>| {
        match event {
            Event::Start => cx.ask(to, secs(1), request.take().unwrap(), |result| result),
            Event::Message(result) => log.note(format!("{result:?}")),
            _ => {}
        }
        receive()
    })
}

/// Starts an actor that stores the last `ReplyTo` that it receives.
fn reply_store(events: &mut Loop) -> (Addr<ReplyTo<u32>>, StoredReply) {
    let stored = Rc::new(Cell::new(None));
    let slot = stored.clone();
    let addr = events.spawn(move |_, event: Event<ReplyTo<u32>>| {
        if let Event::Message(reply) = event {
            slot.set(Some(reply));
        }
        receive()
    });
    (addr, stored)
}

/// The numbers of open requests and of timers.
fn requests_and_timers(events: &Loop) -> (usize, usize) {
    (events.stats().requests, events.stats().timers)
}

#[test]
fn reply_arrives_once_and_closes_request() {
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
    assert_eq!(requests_and_timers(&events), (0, 0));
}

#[test]
fn reply_dropped_in_loop_fails_request_at_once() {
    let mut events = virtual_loop();
    let log = Log::default();
    let dropper = events.spawn(|_: &mut Cx<ReplyTo<u32>>, _| receive());
    asker(&mut events, &log, dropper, |reply| reply);
    settle(&mut events);
    assert_eq!(log.take(), "Err(Dropped)");
    assert_eq!(requests_and_timers(&events), (0, 0));
}

#[test]
fn reply_dropped_between_rounds_makes_loop_runnable() {
    let mut events = virtual_loop();
    let log = Log::default();
    let (addr, stored) = reply_store(&mut events);
    asker(&mut events, &log, addr, |reply| reply);
    settle(&mut events);
    assert!(!events.is_runnable());
    drop(stored.take());
    assert!(events.is_runnable(), "the dropped reply makes the loop runnable");
    settle(&mut events);
    assert_eq!(log.take(), "Err(Dropped)");
}

#[test]
fn reply_dropped_on_other_thread_fails_request() {
    let mut events = real_loop();
    let log = Log::default();
    let seen = log.clone();
    let sender = events.spawn(|_, event: Event<ReplyTo<u32>>| {
        if let Event::Message(reply) = event {
            std::thread::spawn(move || drop(reply));
        }
        receive()
    });
    events.spawn(move |cx, event: Event<AskResult>| match event {
        Event::Start => {
            cx.ask(sender, secs(60), |reply| reply, |result| result);
            receive()
        }
        Event::Message(result) => {
            seen.note(format!("{result:?}"));
            cx.terminate(sender);
            stop()
        }
        _ => receive(),
    });
    events.run().unwrap();
    assert_eq!(log.take(), "Err(Dropped)");
}

#[test]
fn actor_exit_or_panic_drops_held_replies() {
    for panics in [false, true] {
        let mut events = virtual_loop();
        let log = Log::default();
        let (addr, stored) = reply_store(&mut events);
        let holder = events.spawn(move |_, event: Event<ReplyTo<u32>>| match event {
            // The panic unwinds while the step holds the reply.
            Event::Message(_reply) if panics => panic!("the step panics"),
            _ => receive_if(|_| false),
        });
        let target = if panics { holder } else { addr };
        asker(&mut events, &log, target, |reply| reply);
        asker(&mut events, &log, holder, |reply| reply);
        settle(&mut events);
        drop(stored.take());
        with_cx(&mut events, move |cx| cx.terminate(holder));
        settle(&mut events);
        assert_eq!(log.take(), "Err(Dropped) Err(Dropped)", "panics: {panics}");
        assert_eq!(requests_and_timers(&events), (0, 0));
    }
}

#[test]
fn request_timed_out_ignores_late_reply() {
    let mut events = virtual_loop();
    let log = Log::default();
    let (addr, stored) = reply_store(&mut events);
    asker(&mut events, &log, addr, |reply| reply);
    pass(&mut events, millis(990));
    assert_eq!(log.take(), "");
    pass(&mut events, millis(12));
    assert_eq!(log.take(), "Err(TimedOut)");
    events.loop_ref().reply(stored.take().unwrap(), 7);
    settle(&mut events);
    assert_eq!(log.take(), "");
    assert_eq!(requests_and_timers(&events), (0, 0));
}

#[test]
fn request_undeliverable_fails_with_reason() {
    let mut events = Loop::new(LoopConfig { mailbox_max: 1, ..virtual_config() }).unwrap();
    let log = Log::default();
    let dead = events.spawn(|_: &mut Cx<ReplyTo<u32>>, _| stop());
    let full = events.spawn(|_: &mut Cx<(Option<ReplyTo<u32>>,)>, _| suspend());
    settle(&mut events);
    events.send(full, (None,)).unwrap();
    let foreign = virtual_loop().spawn(|_: &mut Cx<ReplyTo<u32>>, _| receive());
    asker(&mut events, &log, dead, |reply| reply);
    asker(&mut events, &log, full, |reply| (Some(reply),));
    asker(&mut events, &log, foreign, |reply| reply);
    settle(&mut events);
    assert_eq!(log.take(), "Err(NoActor) Err(Full) Err(NodeLost)");
    assert_eq!(requests_and_timers(&events), (0, 0));
}

#[test]
fn request_over_limit_is_refused_until_one_closes() {
    let mut events = Loop::new(LoopConfig { requests_max: 65_535, ..virtual_config() }).unwrap();
    let log = Log::default();
    let seen = log.clone();
    let replies = Rc::new(std::cell::RefCell::new(Vec::new()));
    let collected = replies.clone();
    let collector = events.spawn(move |_, event: Event<ReplyTo<u32>>| {
        if let Event::Message(reply) = event {
            collected.borrow_mut().push(reply);
        }
        receive()
    });
    let asker = events.spawn(move |cx, event: Event<Option<AskResult>>| {
        match event {
            Event::Start => {
                for _ in 0..65_536 {
                    cx.ask(collector, secs(1), |reply| reply, Some);
                }
            }
            Event::Message(None) => cx.ask(collector, secs(1), |reply| reply, Some),
            Event::Message(Some(result)) => seen.note(format!("{result:?}")),
            _ => {}
        }
        receive()
    });
    settle(&mut events);
    assert_eq!(log.take(), "Err(TooManyOpen)");
    assert_eq!(events.stats().requests, 65_535);
    let reply = replies.borrow_mut().pop().unwrap();
    events.loop_ref().reply(reply, 1);
    settle(&mut events);
    events.send(asker, None).unwrap();
    settle(&mut events);
    assert_eq!(log.take(), "Ok(1)", "the next request is sent");
    assert_eq!(replies.borrow().len(), 65_535);
    pass(&mut events, secs(2));
    assert_eq!(log.take().matches("TimedOut").count(), 65_535);
    assert_eq!(requests_and_timers(&events), (0, 0));
    replies.borrow_mut().clear();
}

#[test]
fn requests_close_when_asker_exits() {
    let mut events = virtual_loop();
    let log = Log::default();
    let (addr, stored) = reply_store(&mut events);
    let asker = asker(&mut events, &log, addr, |reply| reply);
    settle(&mut events);
    assert_eq!(requests_and_timers(&events), (1, 1));
    with_cx(&mut events, move |cx| cx.terminate(asker));
    assert_eq!(requests_and_timers(&events), (0, 0));
    events.loop_ref().reply(stored.take().unwrap(), 3);
    settle(&mut events);
    assert_eq!(log.take(), "");
}

#[test]
fn actor_asking_itself_gets_reply() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    enum SelfAsk {
        Request(ReplyTo<u32>),
        Completed(AskResult),
    }
    events.spawn(move |cx, event: Event<SelfAsk>| {
        match event {
            Event::Start => cx.ask(cx.addr(), secs(1), SelfAsk::Request, SelfAsk::Completed),
            Event::Message(SelfAsk::Request(reply)) => cx.reply(reply, 5),
            Event::Message(SelfAsk::Completed(result)) => seen.note(format!("{result:?}")),
            _ => {}
        }
        receive()
    });
    settle(&mut events);
    assert_eq!(log.take(), "Ok(5)");
}

/// The reply handler of one request drops the reply of another, after the round has looked for dropped replies. The
/// handler panics, so its own request makes no actor runnable.
#[test]
fn reply_dropped_by_panicking_handler_fails_at_once() {
    let mut events = virtual_loop();
    let log = Log::default();
    let (outer, stored) = reply_store(&mut events);
    asker(&mut events, &log, outer, |reply| reply);
    settle(&mut events);
    let inner = stored.take().unwrap();
    let dropper = events.spawn(|_: &mut Cx<ReplyTo<u32>>, _| receive());
    let mut inner = Some(inner);
    events.spawn(move |cx, event: Event<()>| {
        if let Event::Start = event {
            let inner = inner.take();
            cx.ask(
                dropper,
                secs(1),
                |reply| reply,
                move |_: AskResult| {
                    drop(inner);
                    panic!("the reply handler panics")
                },
            );
        }
        receive()
    });
    settle(&mut events);
    assert_eq!(log.take(), "Err(Dropped)");
}
