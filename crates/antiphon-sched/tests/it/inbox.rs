//! The inbox: what a handle's `send` accepted reaches the mailbox in order, or becomes a dead letter.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use antiphon_sched::*;

use crate::common::*;

fn loop_of(mailbox_max: usize, inbox_max: usize) -> Loop {
    Loop::new(LoopConfig { mailbox_max, inbox_max, ..virtual_config() }).unwrap()
}

/// Sends by a handle of the loop's own thread; runs the loop after each `Full`. Returns the number of refusals.
fn send_until_accepted<M: Send + Copy + 'static>(events: &mut Loop, to: Addr<M>, message: M) -> usize {
    let handle = events.handle();
    for refusals in 0..10_000 {
        match handle.send(to, message) {
            Ok(()) => return refusals,
            Err(SendError::Full(_)) => events.work(),
            Err(reason) => panic!("{reason}"),
        }
    }
    panic!("the loop never accepts the message");
}

/// Starts a thread that asks `to`, and waits until its request is in the inbox, behind `before` messages.
fn ask_behind(
    events: &Loop,
    to: Addr<GatedMessage>,
    timeout: std::time::Duration,
    before: usize,
) -> thread::JoinHandle<Result<u32, AskError>> {
    let handle = events.handle();
    let asking = thread::spawn(move || handle.ask(to, timeout, GatedMessage::Ask));
    while events.stats().inbox == before && !asking.is_finished() {
        thread::yield_now();
    }
    asking
}

fn finish<R>(events: &mut Loop, thread: thread::JoinHandle<R>) -> R {
    while !thread.is_finished() {
        events.work();
        thread::yield_now();
    }
    thread.join().unwrap()
}

fn resume(events: &mut Loop, actor: impl Into<ActorId>) {
    let actor = actor.into();
    with_cx(events, move |cx| cx.resume(actor, ()));
}

enum GatedMessage {
    Note(u32),
    Ask(ReplyTo<u32>),
}

/// Starts an actor that takes nothing until it is resumed, and everything after that.
fn spawn_gated(events: &mut Loop, log: &Log) -> Addr<GatedMessage> {
    let log = log.clone();
    let gated = events.spawn(move |cx: &mut Cx<GatedMessage>, event| match event {
        Event::Start => suspend(),
        Event::Message(GatedMessage::Note(n)) => {
            log.note(n);
            receive()
        }
        Event::Message(GatedMessage::Ask(reply)) => {
            log.note("ask");
            cx.reply(reply, 7);
            receive()
        }
        _ => receive(),
    });
    settle(events);
    gated
}

#[test]
fn handle_messages_all_reach_slow_actor() {
    let mut events = loop_of(2, 8);
    let next = Rc::new(Cell::new(0));
    let seen = next.clone();
    let sink = events.spawn(move |_: &mut Cx<u32>, event| {
        if let Event::Message(n) = event {
            assert_eq!(n, seen.get(), "in order");
            seen.set(n + 1);
        }
        receive()
    });
    let refusals: usize = (0..5_000).map(|n| send_until_accepted(&mut events, sink, n)).sum();
    settle(&mut events);
    assert_eq!((next.get(), events.stats().dead_letters, events.stats().inbox), (5_000, 0, 0));
    assert!(refusals > 100, "the mailbox and the inbox were full {refusals} times");
}

#[test]
fn handle_threads_and_targets_lose_nothing() {
    const THREADS: u32 = 3;
    const EACH: u32 = 5_000;
    let mut events =
        Loop::new(LoopConfig { mailbox_max: 3, inbox_max: 20, watchdog: None, ..LoopConfig::default() })
            .unwrap();
    let sinks = [(); 2].map(|()| {
        let mut next = [0; THREADS as usize];
        events.spawn(move |_, event: Event<(u32, u32)>| {
            if let Event::Message((thread, n)) = event {
                let expected = &mut next[thread as usize];
                assert_eq!(n, *expected, "from thread {thread}");
                *expected += 1;
                if next == [EACH; THREADS as usize] {
                    return stop();
                }
            }
            receive()
        })
    });
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let handle = events.handle();
            thread::spawn(move || {
                for n in 0..EACH {
                    for sink in sinks {
                        while let Err(error) = handle.send(sink, (thread, n)) {
                            assert!(matches!(error, SendError::Full(_)), "{error}");
                            thread::yield_now();
                        }
                    }
                }
            })
        })
        .collect();
    events.run().unwrap();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(events.stats().dead_letters, 0);
}

#[test]
fn full_target_is_refused_while_others_pass() {
    let mut events = loop_of(1, 100);
    let log = Log::default();
    let full = spawn_gated(&mut events, &log);
    let other = spawn_logger::<u32>(&mut events, &log);
    let handle = events.handle();
    (0..3).for_each(|n| handle.send(full, GatedMessage::Note(n)).unwrap());
    handle.send(other, 10).unwrap();
    settle(&mut events);
    assert_eq!((log.take().as_str(), events.stats().inbox), ("start 10", 2));
    assert!(matches!(
        events.handle().send(full, GatedMessage::Note(3)),
        Err(SendError::Full(GatedMessage::Note(3)))
    ));
    handle.send(other, 11).unwrap();
    resume(&mut events, full);
    assert_eq!(log.take(), "11 0 1 2");
    handle.send(full, GatedMessage::Note(4)).unwrap();
    settle(&mut events);
    assert_eq!((log.take().as_str(), events.stats().inbox), ("4", 0));
}

#[test]
fn adapter_messages_wait_with_their_actor() {
    let mut events = loop_of(2, 8);
    let log = Log::default();
    let adapter: Rc<Cell<Option<Addr<u64>>>> = Rc::default();
    let (seen, made) = (log.clone(), adapter.clone());
    let sink = events.spawn(move |cx: &mut Cx<u32>, event| {
        match event {
            Event::Start => made.set(Some(cx.adapter(|n: u64| n as u32).unwrap())),
            Event::Message(n) => seen.note(n),
            _ => {}
        }
        receive()
    });
    settle(&mut events);
    let adapter = adapter.get().unwrap();
    let mut refusals = 0;
    for n in 0..200 {
        refusals += match n % 3 {
            0 => send_until_accepted(&mut events, adapter, u64::from(n)),
            _ => send_until_accepted(&mut events, sink, n),
        };
    }
    settle(&mut events);
    let numbers: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    assert_eq!(log.take(), numbers.join(" "));
    assert!(refusals > 0);
}

#[test]
fn ask_keeps_its_place_behind_messages() {
    let mut events = loop_of(1, 100);
    let log = Log::default();
    let gated = spawn_gated(&mut events, &log);
    let handle = events.handle();
    (0..3).for_each(|n| handle.send(gated, GatedMessage::Note(n)).unwrap());
    let asking = ask_behind(&events, gated, secs(60), 3);
    handle.send(gated, GatedMessage::Note(3)).unwrap();
    settle(&mut events);
    assert_eq!((log.take().as_str(), events.stats().requests), ("", 0));
    resume(&mut events, gated);
    assert_eq!(finish(&mut events, asking), Ok(7));
    settle(&mut events);
    assert_eq!(log.take(), "0 1 2 ask 3");
}

#[test]
fn ask_in_inbox_is_withdrawn_at_timeout() {
    let mut events = loop_of(1, 100);
    let log = Log::default();
    let gated = spawn_gated(&mut events, &log);
    let asking = ask_behind(&events, gated, millis(1), 0);
    assert_eq!(asking.join().unwrap(), Err(AskError::TimedOut), "the loop does not run");
    resume(&mut events, gated);
    assert_eq!((log.take().as_str(), events.stats().inbox, events.stats().requests), ("", 0, 0));
}

#[test]
fn ask_waiting_for_room_is_withdrawn_as_full() {
    let mut events = loop_of(1, 100);
    let log = Log::default();
    let gated = spawn_gated(&mut events, &log);
    let handle = events.handle();
    (0..2).for_each(|n| handle.send(gated, GatedMessage::Note(n)).unwrap());
    let asking = ask_behind(&events, gated, secs(2), 2);
    settle(&mut events);
    assert_eq!(handle.ask(gated, secs(2), GatedMessage::Ask), Err(AskError::NoLoop), "its own thread");
    let refused = thread::spawn(move || handle.ask(gated, secs(60), GatedMessage::Ask));
    assert_eq!(refused.join().unwrap(), Err(AskError::Full), "messages wait for this target");
    assert_eq!(asking.join().unwrap(), Err(AskError::Full), "it has waited for room");
    resume(&mut events, gated);
    assert_eq!((log.take().as_str(), events.stats().inbox), ("0 1", 0));
    assert_eq!(events.stats().dead_letters, 0, "a withdrawn request is no dead letter");
}

#[test]
fn target_ended_makes_waiting_messages_dead_letters() {
    let mut events = loop_of(1, 100);
    let gated = spawn_gated(&mut events, &Log::default());
    let handle = events.handle();
    (0..5).for_each(|n| handle.send(gated, GatedMessage::Note(n)).unwrap());
    let asking = ask_behind(&events, gated, secs(60), 5);
    settle(&mut events);
    assert_eq!(events.stats().inbox, 5, "one message is in the mailbox");
    events.loop_ref().terminate(gated);
    settle(&mut events);
    assert_eq!(finish(&mut events, asking), Err(AskError::NoActor));
    assert_eq!(events.stats().dead_letters_by_reason.no_actor, 5);
    assert_eq!((events.stats().dead_letters, events.stats().inbox), (5, 0));
    handle.send(gated, GatedMessage::Note(6)).unwrap();
    settle(&mut events);
    assert_eq!(events.stats().dead_letters, 6);
}

/// The actor is ended by the panic of its own code in a timer of the loop, when no actor runs.
#[test]
fn target_ended_outside_batch_ends_waits() {
    let mut events = loop_of(1, 100);
    let log = Log::default();
    let mute = events.spawn(|_: &mut Cx<ReplyTo<()>>, _| suspend());
    let full = events.spawn(move |cx: &mut Cx<u32>, event| {
        if let Event::Start = event {
            cx.ask(mute, secs(5), |reply| reply, |_: Result<(), AskError>| panic!("on purpose"));
        }
        suspend()
    });
    settle(&mut events);
    let seen = log.clone();
    events.spawn(move |cx: &mut Cx<()>, event| {
        match event {
            Event::Start => (0..2).for_each(|n| seen.note(format!("{:?}", cx.send(full, n)))),
            Event::Writable { target } => seen.note(target == full),
            _ => {}
        }
        receive()
    });
    let handle = events.handle();
    settle(&mut events);
    (0..3).for_each(|n| handle.send(full, n).unwrap());
    settle(&mut events);
    assert_eq!((log.take().as_str(), events.stats().inbox), ("Ok(()) Err(Full)", 3));
    pass(&mut events, secs(6));
    assert_eq!((log.take().as_str(), events.stats().inbox), ("true", 0));
    assert_eq!(events.stats().dead_letters_by_reason.no_actor, 4);
}

#[test]
fn inbox_bound_counts_waiting_messages() {
    let mut events = loop_of(1, 10);
    let log = Log::default();
    let targets: Vec<_> = (0..4).map(|_| spawn_gated(&mut events, &log)).collect();
    let idle = spawn_logger::<u32>(&mut events, &log);
    settle(&mut events);
    log.take();
    let handle = events.handle();
    let accepted: Vec<usize> = targets
        .iter()
        .map(|target| {
            let accepted = (0..20).filter(|n| handle.send(*target, GatedMessage::Note(*n)).is_ok()).count();
            settle(&mut events);
            accepted
        })
        .collect();
    // One message of each burst is in a mailbox. The others wait; the next burst gets half of the places that are left.
    assert_eq!(accepted, [10, 6, 3, 2]);
    assert_eq!(events.stats().inbox, 17);
    handle.send(idle, 1).unwrap();
    settle(&mut events);
    assert_eq!(log.take(), "1", "an actor that takes its messages is reached in any case");
    for target in targets {
        resume(&mut events, target);
    }
    assert_eq!(events.stats().inbox, 0);
    assert_eq!(log.take().split(' ').count(), 21);
    let accepted = (0..20).filter(|n| handle.send(idle, *n).is_ok()).count();
    assert_eq!(accepted, 10, "the channel takes a whole inbox again");
}

#[test]
fn jobs_pass_inbox_full_of_messages() {
    let mut events = loop_of(1, 2);
    let gated = [(); 3].map(|()| spawn_gated(&mut events, &Log::default()));
    let handle = events.handle();
    for gated in gated {
        handle.send(gated, GatedMessage::Note(0)).unwrap();
        settle(&mut events);
        while handle.send(gated, GatedMessage::Note(1)).is_ok() {}
        settle(&mut events);
    }
    assert_eq!(events.stats().inbox, 4, "no place is left");
    let calls = thread::spawn(move || {
        let actor = handle.spawn(|_: &mut Cx<()>, event| match event {
            Event::Message(()) | Event::Terminate => stop(),
            _ => receive(),
        });
        let actor = actor.unwrap();
        assert!(matches!(handle.send(actor, ()), Err(SendError::Full(()))));
        let joined = handle.join::<()>(actor, millis(1));
        assert!(matches!(joined, Err(JoinError::TimedOut)), "{joined:?}");
        handle.stop();
    });
    finish(&mut events, calls);
    settle(&mut events);
    assert_eq!(events.stats().actors, 0, "`stop` was not held back either");
}

#[test]
fn handle_and_local_sender_take_turns() {
    let mut events = loop_of(2, 1_000);
    let log = Log::default();
    let seen = log.clone();
    let sink = events.spawn(move |_: &mut Cx<char>, event| {
        if let Event::Message(from) = event {
            seen.note(from);
        }
        receive()
    });
    events.spawn({
        let mut left = 100;
        move |cx: &mut Cx<()>, event| {
            if let Event::Start | Event::Writable { .. } = event {
                while left > 0 && cx.send(sink, 'a').is_ok() {
                    left -= 1;
                }
            }
            receive()
        }
    });
    let handle = events.handle();
    (0..100).for_each(|_| handle.send(sink, 'h').unwrap());
    settle(&mut events);
    let taken: String = log.take().split(' ').collect();
    assert_eq!((taken.matches('a').count(), taken.matches('h').count()), (100, 100));
    assert_eq!(events.stats().dead_letters, 0);
    // A local sender uses its place in its next batch; meanwhile the messages of the handle may have another turn.
    let shared = &taken[10..140];
    assert!(!shared.contains("aaa") && !shared.contains("hhhh"), "{taken}");
}

#[test]
fn loop_dropped_drops_waiting_messages_one_by_one() {
    let mut events = loop_of(1, 100);
    let dropped = Arc::new(AtomicUsize::new(0));
    let full = events.spawn(|_: &mut Cx<PanickingDrop>, _| suspend());
    let gated = spawn_gated(&mut events, &Log::default());
    let handle = events.handle();
    (0..2).for_each(|n| handle.send(gated, GatedMessage::Note(n)).unwrap());
    let asking = ask_behind(&events, gated, secs(60), 2);
    (0..4).for_each(|_| drop(handle.send(full, PanickingDrop(dropped.clone()))));
    settle(&mut events);
    assert_eq!(events.stats().inbox, 5);
    let other = events.spawn(|_: &mut Cx<PanickingDrop>, _| receive());
    (0..4).for_each(|_| drop(handle.send(other, PanickingDrop(dropped.clone()))));
    drop(events);
    assert_eq!(dropped.load(Ordering::Relaxed), 8);
    assert_eq!(asking.join().unwrap(), Err(AskError::NoLoop));
}

/// Counts its drop, and panics then.
struct PanickingDrop(Arc<AtomicUsize>);

impl Drop for PanickingDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
        panic!("panic on drop");
    }
}

#[test]
fn ask_panicking_stalls_no_later_message() {
    let mut events = loop_of(1, 100);
    let log = Log::default();
    let gated = spawn_gated(&mut events, &log);
    let handle = events.handle();
    (0..2).for_each(|n| handle.send(gated, GatedMessage::Note(n)).unwrap());
    let asking = thread::spawn({
        let handle = events.handle();
        move || {
            handle.ask(gated, secs(60), |reply: ReplyTo<u32>| {
                assert_eq!(reply.node(), NodeId::from_bits(0), "on purpose");
                GatedMessage::Ask(reply)
            })
        }
    });
    while events.stats().inbox == 2 {
        thread::yield_now();
    }
    handle.send(gated, GatedMessage::Note(2)).unwrap();
    settle(&mut events);
    resume(&mut events, gated);
    assert_eq!(finish(&mut events, asking), Err(AskError::Dropped));
    assert_eq!((log.take().as_str(), events.stats().inbox), ("0 1 2", 0));
    assert_eq!(events.stats().requests, 0);
}

/// Sends 100 messages to an actor that takes none, and counts the dead letters.
fn accepted_and_dead(end: impl FnOnce(&mut Loop, &Handle)) -> (usize, usize, usize) {
    let mut events = loop_of(4, 1000);
    let dead = Rc::new(Cell::new(0));
    let count = dead.clone();
    events.on_dead_letter(move |_| count.set(count.get() + 1));
    let deaf = events.spawn(|cx: &mut Cx<u32>, event| {
        cx.set_daemon(true);
        if matches!(event, Event::Terminate) { stop() } else { suspend() }
    });
    settle(&mut events);
    let handle = events.handle();
    let accepted = (0..100).filter(|n| handle.send(deaf, *n).is_ok()).count();
    end(&mut events, &handle);
    let at_end = dead.get();
    drop(events);
    (accepted, at_end, dead.get())
}

#[test]
fn accepted_messages_are_dead_letters_at_end() {
    let at_stop = accepted_and_dead(|events, handle| {
        handle.stop();
        events.run().unwrap();
    });
    assert_eq!(at_stop, (100, 100, 100));
    assert_eq!(accepted_and_dead(|events, _| settle(events)), (100, 0, 100), "in the mailbox, or waiting");
    assert_eq!(accepted_and_dead(|_, _| ()), (100, 0, 100), "in the inbox");
}
