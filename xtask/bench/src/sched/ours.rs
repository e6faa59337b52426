//! The workloads as a user of antiphon-sched would write them.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use antiphon_sched::{
    Actor, Addr, AskError, Cx, Event, Failure, Loop, LoopConfig, ReplyTo, SendError, Timer, actor, receive,
    secs, stop,
};

use super::{
    ASKS, BATCH, COUNT, COUNT_EACH, IDLE, PING_PONG, PRODUCERS, RING_ACTORS, RING_HOPS, SKYNET_LEAVES,
    TIMER_ACTORS, TIMERS, TIMERS_EACH, timer_span_us,
};
use crate::gauge::{Stopwatch, resident_bytes};

fn new_loop() -> Loop {
    Loop::new(LoopConfig::default()).expect("the system has an event queue")
}

fn run(events: &mut Loop) {
    events.run().expect("the event queue works");
}

/// Runs until no actor is runnable; timers stay.
fn settle(events: &mut Loop) {
    while events.is_runnable() {
        events.run_once(Some(events.now())).expect("the event queue works");
    }
}

pub(super) fn ping_pong() -> Vec<f64> {
    let mut events = new_loop();
    let mut pong = None;
    events.spawn(move |cx: &mut Cx<u64>, event| match event {
        Event::Start => {
            let ping = cx.addr();
            let to = cx.spawn(move |cx, event| match event {
                Event::Message(n) => {
                    cx.send(ping, n)?;
                    if n == 0 { stop() } else { receive() }
                }
                _ => receive(),
            });
            pong = Some(to);
            cx.send(to, PING_PONG - 1)?;
            receive()
        }
        Event::Message(0) => stop(),
        Event::Message(n) => {
            if let Some(pong) = pong {
                cx.send(pong, n - 1)?;
            }
            receive()
        }
        _ => receive(),
    });
    let watch = Stopwatch::start();
    run(&mut events);
    vec![watch.rate(PING_PONG)]
}

/// A message of the ring.
enum Token {
    Next(Addr<Token>),
    Hops(u64),
}

pub(super) fn ring() -> Vec<f64> {
    let mut events = new_loop();
    let member = || {
        let mut next: Option<Addr<Token>> = None;
        actor(move |cx: &mut Cx<Token>, event| match event {
            Event::Message(Token::Next(to)) => {
                next = Some(to);
                receive()
            }
            Event::Message(Token::Hops(n)) => {
                if n > 0
                    && let Some(to) = next
                {
                    cx.send(to, Token::Hops(n - 1))?;
                }
                // The last round stops each member.
                if n <= RING_ACTORS { stop() } else { receive() }
            }
            _ => receive(),
        })
    };
    let first = events.spawn_actor(member());
    let mut last = first;
    for _ in 1..RING_ACTORS {
        let next = events.spawn_actor(member());
        events.send(last, Token::Next(next)).expect("the actor is running");
        last = next;
    }
    events.send(last, Token::Next(first)).expect("the actor is running");
    settle(&mut events);
    events.send(first, Token::Hops(RING_HOPS)).expect("the actor is running");
    let watch = Stopwatch::start();
    settle(&mut events);
    vec![watch.rate(RING_HOPS)]
}

/// Sends `left` messages, one batch in each step. A message that the full mailbox refuses is sent in the next step.
fn producer(to: Addr<u64>, mut left: u64) -> impl Actor<()> {
    let mut kept = None;
    actor(move |cx: &mut Cx<()>, event| {
        if !matches!(event, Event::Start | Event::Message(())) {
            return receive();
        }
        for _ in 0..BATCH.min(left) {
            match cx.send(to, kept.take().unwrap_or(1)) {
                Ok(()) => left -= 1,
                Err(SendError::Full(message)) => {
                    kept = Some(message);
                    break;
                }
                Err(error) => return Err(Failure::from(error)),
            }
        }
        if left == 0 {
            return stop();
        }
        cx.send(cx.addr(), ())?;
        receive()
    })
}

fn count(producers: u64, each: u64) -> Vec<f64> {
    let mut events = new_loop();
    let mut total = 0;
    let sink = events.spawn(move |_: &mut Cx<u64>, event| {
        if let Event::Message(n) = event {
            total += n;
        }
        if total == producers * each { stop() } else { receive() }
    });
    for _ in 0..producers {
        events.spawn_actor(producer(sink, each));
    }
    let watch = Stopwatch::start();
    run(&mut events);
    vec![watch.rate(producers * each)]
}

pub(super) fn counting() -> Vec<f64> {
    count(1, COUNT)
}

pub(super) fn fan_in() -> Vec<f64> {
    count(PRODUCERS, COUNT_EACH)
}

/// Spawns a node of the tree with `size` leaves below it, numbered from `first`.
fn branch<M: 'static>(cx: &mut Cx<M>, parent: Addr<u64>, first: u64, size: u64) {
    let (mut sum, mut missing) = (0, 10);
    cx.spawn(move |cx, event| match event {
        Event::Start if size == 1 => {
            cx.send(parent, first)?;
            stop()
        }
        Event::Start => {
            let size = size / 10;
            for child in 0..10 {
                branch(cx, cx.addr(), first + child * size, size);
            }
            receive()
        }
        Event::Message(n) => {
            sum += n;
            missing -= 1;
            if missing > 0 {
                return receive();
            }
            cx.send(parent, sum)?;
            stop()
        }
        _ => receive(),
    });
}

pub(super) fn skynet() -> Vec<f64> {
    let mut events = new_loop();
    events.spawn(|cx, event| match event {
        Event::Start => {
            branch(cx, cx.addr(), 0, SKYNET_LEAVES);
            receive()
        }
        Event::Message(sum) => {
            assert_eq!(sum, SKYNET_LEAVES * (SKYNET_LEAVES - 1) / 2);
            stop()
        }
        _ => receive(),
    });
    let watch = Stopwatch::start();
    run(&mut events);
    vec![watch.rate(SKYNET_LEAVES)]
}

pub(super) fn idle() -> Vec<f64> {
    let mut events = new_loop();
    let seen = Rc::new(Cell::new(0));
    let addresses = Rc::new(Cell::new(Vec::with_capacity(IDLE as usize)));
    let (count, out) = (seen.clone(), addresses.clone());
    let memory = resident_bytes();
    let watch = Stopwatch::start();
    events.spawn(move |cx: &mut Cx<()>, _| {
        let mut made = out.take();
        for _ in 0..BATCH {
            // 16 captured bytes.
            let (count, mut own) = (count.clone(), 0);
            made.push(cx.spawn(move |_, event: Event<[u64; 3]>| {
                if let Event::Message([n, _, _]) = event {
                    own += n;
                    count.set(count.get() + own);
                }
                receive()
            }));
        }
        let missing = (made.len() as u64) < IDLE;
        out.set(made);
        if !missing {
            return stop();
        }
        cx.send(cx.addr(), ())?;
        receive()
    });
    settle(&mut events);
    let spawn = watch.nanos(IDLE);
    let addresses = addresses.take();
    let memory = resident_bytes() - memory - size_of_val(&*addresses) as f64;

    let mut sent = 0;
    let watch = Stopwatch::start();
    events.spawn(move |cx: &mut Cx<()>, _| {
        for &to in &addresses[sent..sent + BATCH as usize] {
            cx.send(to, [1, 2, 3])?;
        }
        sent += BATCH as usize;
        if sent == addresses.len() {
            return stop();
        }
        cx.send(cx.addr(), ())?;
        receive()
    });
    settle(&mut events);
    let sweep = watch.rate(IDLE);
    assert_eq!(seen.get(), IDLE);
    vec![memory / IDLE as f64, spawn, sweep]
}

pub(super) fn ask() -> Vec<f64> {
    let mut events = new_loop();
    let server = events.spawn(|cx: &mut Cx<(u64, ReplyTo<u64>)>, event| match event {
        Event::Start => {
            cx.set_daemon(true);
            receive()
        }
        Event::Message((n, reply)) => {
            cx.reply(reply, n + 1);
            receive()
        }
        _ => receive(),
    });
    events.spawn(move |cx: &mut Cx<Result<u64, AskError>>, event| {
        let next = match event {
            Event::Start => 0,
            Event::Message(answer) => answer?,
            _ => return receive(),
        };
        if next == ASKS {
            return stop();
        }
        cx.ask(server, secs(5), |reply| (next, reply), |answer| answer);
        receive()
    });
    let watch = Stopwatch::start();
    run(&mut events);
    vec![watch.rate(ASKS)]
}

pub(super) fn timers() -> Vec<f64> {
    let mut events = new_loop();
    let fired = Rc::new(Cell::new(0));
    let watch = Stopwatch::start();
    for actor in 0..TIMER_ACTORS {
        let (count, mut missing) = (fired.clone(), TIMERS_EACH);
        events.spawn(move |cx: &mut Cx<u64>, event| {
            match event {
                Event::Start => {
                    for n in 0..TIMERS_EACH {
                        let span = Duration::from_micros(timer_span_us(actor * TIMERS_EACH + n));
                        cx.after(span, n).expect("the limit is not reached");
                    }
                }
                Event::Message(_) => {
                    count.set(count.get() + 1);
                    missing -= 1;
                }
                _ => {}
            }
            if missing == 0 { stop() } else { receive() }
        });
    }
    settle(&mut events);
    let create = watch.nanos(TIMERS);
    assert_eq!(fired.get(), 0, "the first timer is due after a second");
    let watch = Stopwatch::start();
    run(&mut events);
    assert_eq!(fired.get(), TIMERS);
    vec![create, watch.nanos(TIMERS)]
}

pub(super) fn cancel() -> Vec<f64> {
    let mut events = new_loop();
    let mut actors = Vec::new();
    for actor in 0..TIMER_ACTORS {
        let mut running: Vec<Timer> = Vec::new();
        actors.push(events.spawn(move |cx: &mut Cx<u64>, event| match event {
            Event::Start => {
                for n in 0..TIMERS_EACH {
                    let span = Duration::from_micros(timer_span_us(actor * TIMERS_EACH + n));
                    running.push(cx.after(span, n).expect("the limit is not reached"));
                }
                receive()
            }
            Event::Message(_) => {
                for timer in running.drain(..) {
                    assert!(cx.cancel(timer));
                }
                receive()
            }
            _ => receive(),
        }));
    }
    settle(&mut events);
    assert_eq!(events.stats().timers as u64, TIMERS);
    let watch = Stopwatch::start();
    for actor in actors {
        events.send(actor, 0).expect("the actor is running");
    }
    settle(&mut events);
    assert_eq!(events.stats().timers, 0);
    vec![watch.nanos(TIMERS)]
}
