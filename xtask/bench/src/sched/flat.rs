//! The workloads on a bare loop: one queue with messages of 16 bytes, and boxed closures in a vector.
//!
//! It has no mailboxes, limits, types, names, monitors or isolation. Its cost is the least that any scheduler of closures
//! has.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{
    ASKS, BATCH, COUNT, COUNT_EACH, IDLE, PING_PONG, PRODUCERS, RING_ACTORS, RING_HOPS, SKYNET_LEAVES,
    TIMER_ACTORS, TIMERS, TIMERS_EACH, timer_span_us,
};
use crate::gauge::{Stopwatch, resident_bytes};

struct FlatMessage {
    to: u32,
    from: u32,
    value: u64,
}

/// Keeps running while it returns `true`.
type FlatActor = Box<dyn FnMut(&mut FlatLoop, FlatMessage) -> bool>;

#[derive(Default)]
struct FlatLoop {
    queue: VecDeque<FlatMessage>,
    actors: Vec<Option<FlatActor>>,
    free: Vec<u32>,
}

/// The value of the first message to an actor that needs one.
const START: u64 = u64::MAX;

impl FlatLoop {
    fn spawn(&mut self, actor: impl FnMut(&mut FlatLoop, FlatMessage) -> bool + 'static) -> u32 {
        let actor: Option<FlatActor> = Some(Box::new(actor));
        match self.free.pop() {
            Some(index) => {
                self.actors[index as usize] = actor;
                index
            }
            None => {
                self.actors.push(actor);
                self.actors.len() as u32 - 1
            }
        }
    }

    fn send(&mut self, from: u32, to: u32, value: u64) {
        self.queue.push_back(FlatMessage { to, from, value });
    }

    fn run(&mut self) {
        while let Some(message) = self.queue.pop_front() {
            let to = message.to as usize;
            let Some(mut actor) = self.actors[to].take() else { continue };
            if actor(self, message) {
                self.actors[to] = Some(actor);
            } else {
                self.free.push(to as u32);
            }
        }
    }
}

pub(super) fn ping_pong() -> Vec<f64> {
    let mut events = FlatLoop::default();
    let pong = events.spawn(|events, message| {
        events.send(message.to, message.from, message.value);
        message.value > 0
    });
    let ping = events.spawn(|events, message| {
        if message.value > 0 {
            events.send(message.to, message.from, message.value - 1);
        }
        message.value > 0
    });
    events.send(ping, pong, PING_PONG - 1);
    let watch = Stopwatch::start();
    events.run();
    vec![watch.rate(PING_PONG)]
}

pub(super) fn ring() -> Vec<f64> {
    let mut events = FlatLoop::default();
    for at in 0..RING_ACTORS {
        let next = ((at + 1) % RING_ACTORS) as u32;
        events.spawn(move |events, message| {
            if message.value > 0 {
                events.send(message.to, next, message.value - 1);
            }
            message.value > RING_ACTORS
        });
    }
    events.send(0, 0, RING_HOPS);
    let watch = Stopwatch::start();
    events.run();
    vec![watch.rate(RING_HOPS)]
}

fn count(producers: u64, each: u64) -> Vec<f64> {
    let mut events = FlatLoop::default();
    let out = Rc::new(Cell::new(0));
    let (total, mut sum) = (out.clone(), 0);
    let sink = events.spawn(move |_, message| {
        sum += message.value;
        total.set(sum);
        true
    });
    for _ in 0..producers {
        let mut left = each;
        let producer = events.spawn(move |events, message| {
            let batch = BATCH.min(left);
            for _ in 0..batch {
                events.send(message.to, sink, 1);
            }
            left -= batch;
            if left > 0 {
                events.send(message.to, message.to, START);
            }
            left > 0
        });
        events.send(producer, producer, START);
    }
    let watch = Stopwatch::start();
    events.run();
    assert_eq!(out.get(), producers * each);
    vec![watch.rate(producers * each)]
}

pub(super) fn counting() -> Vec<f64> {
    count(1, COUNT)
}

pub(super) fn fan_in() -> Vec<f64> {
    count(PRODUCERS, COUNT_EACH)
}

fn branch(events: &mut FlatLoop, parent: u32, first: u64, size: u64) {
    let (mut sum, mut missing) = (0, 10);
    let me = events.spawn(move |events, message| match message.value {
        START if size == 1 => {
            events.send(message.to, parent, first);
            false
        }
        START => {
            for child in 0..10 {
                branch(events, message.to, first + child * (size / 10), size / 10);
            }
            true
        }
        n => {
            sum += n;
            missing -= 1;
            if missing == 0 {
                events.send(message.to, parent, sum);
            }
            missing > 0
        }
    });
    events.send(parent, me, START);
}

pub(super) fn skynet() -> Vec<f64> {
    let mut events = FlatLoop::default();
    let out = Rc::new(Cell::new(0));
    let sum = out.clone();
    let root = events.spawn(move |_, message| {
        sum.set(message.value);
        false
    });
    let watch = Stopwatch::start();
    branch(&mut events, root, 0, SKYNET_LEAVES);
    events.run();
    let rate = watch.rate(SKYNET_LEAVES);
    assert_eq!(out.get(), SKYNET_LEAVES * (SKYNET_LEAVES - 1) / 2);
    vec![rate]
}

pub(super) fn idle() -> Vec<f64> {
    let mut events = FlatLoop::default();
    let seen = Rc::new(Cell::new(0));
    let count = seen.clone();
    let memory = resident_bytes();
    let watch = Stopwatch::start();
    let spawner = events.spawn(move |events, message| {
        for _ in 0..BATCH {
            let (count, mut own) = (count.clone(), 0);
            events.spawn(move |_, message| {
                own += message.value;
                count.set(count.get() + own);
                true
            });
        }
        let missing = (events.actors.len() as u64) < IDLE;
        if missing {
            events.send(message.to, message.to, START);
        }
        missing
    });
    events.send(spawner, spawner, START);
    events.run();
    let spawn = watch.nanos(IDLE);
    let memory = resident_bytes() - memory;
    let mut next = 1;
    let watch = Stopwatch::start();
    let sweeper = events.spawn(move |events, message| {
        for to in next..next + BATCH {
            events.send(message.to, to as u32, 1);
        }
        next += BATCH;
        if next <= IDLE {
            events.send(message.to, message.to, START);
        }
        next <= IDLE
    });
    // The sweeper reuses the index of the spawner, so it is not among the idle actors.
    assert_eq!(sweeper, spawner);
    events.send(sweeper, sweeper, START);
    events.run();
    let sweep = watch.rate(IDLE);
    assert_eq!(seen.get(), IDLE);
    vec![memory / IDLE as f64, spawn, sweep]
}

pub(super) fn ask() -> Vec<f64> {
    let mut events = FlatLoop::default();
    let server = events.spawn(|events, message| {
        events.send(message.to, message.from, message.value + 1);
        true
    });
    let asker = events.spawn(move |events, message| {
        if message.value < ASKS {
            events.send(message.to, server, message.value);
        }
        message.value < ASKS
    });
    events.send(asker, asker, 0);
    let watch = Stopwatch::start();
    events.run();
    vec![watch.rate(ASKS)]
}

/// Timers in lists of one millisecond; a cancelled one stays in its list.
#[derive(Default)]
struct FlatTimers {
    ticks: Vec<Vec<(u32, u32)>>,
    running: Vec<bool>,
}

impl FlatTimers {
    fn create(&mut self, actor: u32, span_us: u64) -> u32 {
        let tick = span_us.div_ceil(1000) as usize;
        if tick >= self.ticks.len() {
            self.ticks.resize_with(tick + 1, Vec::new);
        }
        let timer = self.running.len() as u32;
        self.running.push(true);
        self.ticks[tick].push((actor, timer));
        timer
    }

    fn create_all(&mut self) {
        for timer in 0..TIMERS {
            self.create((timer / TIMERS_EACH) as u32, timer_span_us(timer));
        }
    }
}

pub(super) fn timers() -> Vec<f64> {
    let (mut events, mut timers) = (FlatLoop::default(), FlatTimers::default());
    let fired = Rc::new(Cell::new(0));
    let start = Instant::now();
    let watch = Stopwatch::start();
    for _ in 0..TIMER_ACTORS {
        let count = fired.clone();
        events.spawn(move |_, _| {
            count.set(count.get() + 1);
            true
        });
    }
    timers.create_all();
    let create = watch.nanos(TIMERS);
    let watch = Stopwatch::start();
    for (tick, due) in timers.ticks.iter().enumerate() {
        if due.is_empty() {
            continue;
        }
        let at = start + Duration::from_millis(tick as u64);
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        for &(actor, timer) in due {
            if timers.running[timer as usize] {
                events.send(actor, actor, u64::from(timer));
            }
        }
        events.run();
    }
    assert_eq!(fired.get(), TIMERS);
    vec![create, watch.nanos(TIMERS)]
}

pub(super) fn cancel() -> Vec<f64> {
    let mut timers = FlatTimers::default();
    timers.create_all();
    let mut events = FlatLoop::default();
    let timers = Rc::new(std::cell::RefCell::new(timers));
    for actor in 0..TIMER_ACTORS {
        let timers = timers.clone();
        events.spawn(move |_, _| {
            let running = &mut timers.borrow_mut().running;
            let mine = actor * TIMERS_EACH..(actor + 1) * TIMERS_EACH;
            for timer in mine {
                assert!(std::mem::replace(&mut running[timer as usize], false));
            }
            true
        });
    }
    let watch = Stopwatch::start();
    for actor in 0..TIMER_ACTORS {
        events.send(actor as u32, actor as u32, START);
    }
    events.run();
    vec![watch.nanos(TIMERS)]
}
