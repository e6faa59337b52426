//! Termination of one actor: when it receives the event, how much time it has, and how it ends.

use std::time::Duration;

use antiphon_sched::*;

use crate::common::*;

/// Starts an actor that logs its events, and its exit in brackets. `step` returns what it waits for.
fn logged(
    events: &mut Loop,
    log: &Log,
    mut step: impl FnMut(&Event<u32>) -> Step<u32> + 'static,
) -> Addr<u32> {
    let seen = log.clone();
    let actor = events.spawn(move |_: &mut Cx<u32>, event| {
        note_event(&seen, &event);
        step(&event)
    });
    log_exit(events, log, actor);
    settle(events);
    actor
}

fn terminate_within(events: &mut Loop, actor: Addr<u32>, grace: Duration) {
    events.local_actors().signals().terminate_within(actor, grace);
    settle(events);
}

#[test]
fn terminate_waits_behind_mailbox() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = logged(&mut events, &log, |_| receive());
    (0..3).for_each(|n| events.send(actor, n).unwrap());
    events.loop_ref().terminate(actor);
    events.send(actor, 3).unwrap();
    settle(&mut events);
    assert_eq!(log.take(), "start 0 1 2 terminate [terminated]");
    assert_eq!(events.stats().dead_letters, 1, "the message behind the event is a dead letter");
    assert_eq!(events.stats().timers, 0);
}

#[test]
fn terminate_reaches_waiting_actor_at_once() {
    let waits: [fn() -> Step<u32>; 4] =
        [suspend, || sleep(secs(1000)), || receive_if(|n| *n == 7), || receive_within(secs(1000))];
    for (index, wait) in waits.into_iter().enumerate() {
        let mut events = virtual_loop();
        let log = Log::default();
        let actor = logged(&mut events, &log, move |_| wait());
        settle(&mut events);
        if index < 3 {
            (0..3).for_each(|n| events.send(actor, n).unwrap());
        }
        terminate_within(&mut events, actor, secs(5));
        assert_eq!(log.take(), "start terminate [terminated]", "wait {index}");
        assert_eq!((events.now(), events.stats().timers), (Time::ZERO, 0));
    }
}

#[test]
fn terminate_overtakes_mailbox_at_half_of_grace() {
    let mut events = virtual_loop();
    let log = Log::default();
    // They take nearly all batches of each round.
    for _ in 0..4000 {
        events.spawn(|cx: &mut Cx<()>, _| {
            let me = cx.addr();
            cx.send(me, ())?;
            receive()
        });
    }
    let seen = log.clone();
    let mut handled = 0;
    let actor = events.spawn(move |_: &mut Cx<u32>, event| {
        match event {
            Event::Message(_) => handled += 1,
            Event::Terminate => seen.note(handled),
            _ => {}
        }
        receive()
    });
    (0..1000).for_each(|n| events.send(actor, n).unwrap());
    events.local_actors().signals().terminate_within(actor, secs(2));
    (0..5).for_each(|_| events.work());
    events.advance_to(events.now() + millis(990));
    (0..5).for_each(|_| events.work());
    assert_eq!(log.take(), "", "half of the grace time is not over");
    events.advance_to(events.now() + millis(20));
    (0..5).for_each(|_| events.work());
    let handled: u64 = log.take().parse().expect("the actor has noted how many messages it has handled");
    assert!((1..1000).contains(&handled), "{handled}");
    assert_eq!(events.stats().dead_letters, 1000 - handled);
}

#[test]
fn terminate_with_zero_grace_overtakes_at_once() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = logged(&mut events, &log, |_| receive());
    settle(&mut events);
    (0..3).for_each(|n| events.send(actor, n).unwrap());
    terminate_within(&mut events, actor, Duration::ZERO);
    assert_eq!(log.take(), "start terminate [terminated]");
}

#[test]
fn terminate_at_half_of_grace_ends_selective_receive() {
    let mut events = virtual_loop();
    let log = Log::default();
    // It admits all even numbers, so the event waits behind those.
    let actor = logged(&mut events, &log, |event| match event {
        Event::Message(_) => sleep(secs(1)),
        _ => receive_if(|n| n % 2 == 0),
    });
    settle(&mut events);
    [1, 3, 2, 4].into_iter().for_each(|n| events.send(actor, n).unwrap());
    events.local_actors().signals().terminate_within(actor, secs(4));
    pass(&mut events, secs(4));
    assert_eq!(log.take(), "start 2 terminate [terminated]", "`sleep` ends at once");
}

#[test]
fn finishing_actor_goes_on_until_it_stops() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = logged(&mut events, &log, |event| match event {
        Event::Message(0) => exit(()),
        Event::Terminate => finishing(secs(3)),
        _ => receive(),
    });
    settle(&mut events);
    events.send(actor, 5).unwrap();
    terminate_within(&mut events, actor, secs(5));
    assert_eq!(log.take(), "start 5 terminate");
    terminate_within(&mut events, actor, secs(5));
    events.send(actor, 4).unwrap();
    pass(&mut events, millis(2999));
    assert_eq!(log.take(), "4", "a repeated termination does nothing");
    events.send(actor, 0).unwrap();
    settle(&mut events);
    assert_eq!(log.take(), "0 [done]");
    assert_eq!(events.stats().timers, 0);
}

#[test]
fn finishing_actor_is_ended_at_its_time() {
    for (span, grace, end) in [(3, 5, 3), (9, 5, 5)] {
        let mut events = virtual_loop();
        let log = Log::default();
        let actor = logged(&mut events, &log, move |event| match event {
            Event::Terminate => finishing(secs(span)),
            _ => receive(),
        });
        settle(&mut events);
        terminate_within(&mut events, actor, secs(grace));
        pass(&mut events, secs(end) - millis(10));
        assert_eq!(log.take(), "start terminate");
        pass(&mut events, millis(20));
        assert_eq!(log.take(), "[terminated]", "{span} s, {grace} s");
    }
}

#[test]
fn shorter_grace_of_second_termination_holds() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = logged(&mut events, &log, |event| match event {
        Event::Terminate => finishing(secs(3000)),
        _ => receive(),
    });
    terminate_within(&mut events, actor, secs(3600));
    terminate_within(&mut events, actor, secs(5));
    assert_eq!(log.take(), "start terminate", "there is no second event");
    terminate_within(&mut events, actor, secs(1000));
    pass(&mut events, millis(4990));
    assert_eq!(log.take(), "");
    pass(&mut events, millis(20));
    assert_eq!(log.take(), "[terminated]");
    assert_eq!(events.stats().timers, 0);
}

#[test]
fn finishing_again_sets_span_anew() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = logged(&mut events, &log, move |event| match event {
        Event::Terminate | Event::Message(_) => finishing(secs(1)),
        _ => receive(),
    });
    settle(&mut events);
    terminate_within(&mut events, actor, secs(5));
    for n in 0..3 {
        pass(&mut events, millis(900));
        events.send(actor, n).unwrap();
    }
    pass(&mut events, millis(900));
    assert_eq!(log.take(), "start terminate 0 1 2");
    pass(&mut events, millis(200));
    assert_eq!(log.take(), "[terminated]");
}

#[test]
fn finishing_without_termination_receives() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = logged(&mut events, &log, |_| finishing(secs(1)));
    events.send(actor, 1).unwrap();
    pass(&mut events, secs(10));
    assert_eq!(log.take(), "start 1");
}

#[test]
fn finishing_fold_keeps_its_state() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    let actor = events.spawn_fsm(0, move |_: &mut Cx<u32>, sum, event| match event {
        Event::Message(0) => {
            seen.note(sum);
            stop()
        }
        Event::Message(n) => to(sum + n, receive()),
        Event::Terminate => to(sum, finishing(secs(1))),
        _ => to(sum, receive()),
    });
    [1, 2].into_iter().for_each(|n| events.send(actor, n).unwrap());
    settle(&mut events);
    terminate_within(&mut events, actor, secs(5));
    [3, 0].into_iter().for_each(|n| events.send(actor, n).unwrap());
    settle(&mut events);
    assert_eq!(log.take(), "6");
}

#[test]
fn result_of_terminate_step_is_exit_reason() {
    type StepResult = fn() -> Step<u32>;
    let results: [(StepResult, &str); 5] = [
        (receive, "[terminated]"),
        (|| sleep(secs(1)), "[terminated]"),
        (stop, "[done]"),
        (|| exit(()), "[done]"),
        (|| fail("no luck"), "[failed: no luck]"),
    ];
    for (result, expected) in results {
        let mut events = virtual_loop();
        let log = Log::default();
        let actor = logged(&mut events, &log, move |event| match event {
            Event::Terminate => result(),
            _ => receive(),
        });
        terminate_within(&mut events, actor, secs(5));
        assert_eq!(log.take(), format!("start terminate {expected}"));
    }
}

#[test]
fn kill_ends_actor_without_step() {
    let mut events = virtual_loop();
    let log = Log::default();
    let actor = logged(&mut events, &log, |event| match event {
        Event::Terminate => finishing(secs(5)),
        _ => receive(),
    });
    settle(&mut events);
    events.send(actor, 1).unwrap();
    with_cx(&mut events, move |cx| cx.kill(actor));
    assert_eq!(log.take(), "start 1 [terminated]", "the message was handled before the actor that kills");
    // An actor that is finishing is killed too, and one may kill itself.
    let actor = logged(&mut events, &log, |_| finishing(secs(5)));
    settle(&mut events);
    terminate_within(&mut events, actor, secs(5));
    events.local_actors().signals().kill(actor);
    settle(&mut events);
    assert_eq!(log.take(), "start terminate [terminated]");
    let own = events.spawn(|cx: &mut Cx<u32>, _| {
        cx.kill(cx.addr());
        finishing(secs(5))
    });
    log_exit(&mut events, &log, own);
    settle(&mut events);
    assert_eq!(log.take(), "[no such actor]", "it has ended in its first step");
    assert_eq!(events.stats().timers, 0);
}

#[test]
fn terminate_of_adapter_terminates_its_actor() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    let (sender, adapters) = std::sync::mpsc::channel();
    events.spawn(move |cx: &mut Cx<u32>, event| {
        if let Event::Start = event {
            sender.send(cx.adapter(|n: u8| n.into()).unwrap())?;
        }
        note_event(&seen, &event);
        receive()
    });
    settle(&mut events);
    events.loop_ref().terminate(adapters.recv().unwrap());
    settle(&mut events);
    assert_eq!(log.take(), "start terminate");
}
