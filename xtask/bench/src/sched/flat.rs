//! The workloads on a bare loop: one queue with messages of 16 bytes, boxed closures in a vector.
//!
//! No mailboxes, limits, types, names, monitors or isolation; what it costs is what any scheduler of closures
//! must pay.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{
    ASKS, BATCH, COUNT, COUNT_EACH, IDLE, PING_PONG, PRODUCERS, RING_ACTORS, RING_HOPS, SKYNET_LEAVES,
    TIMER_ACTORS, TIMERS, TIMERS_EACH, timer_span_us,
};
use crate::gauge::{Watch, resident_bytes};

struct Letter {
    to: u32,
    from: u32,
    value: u64,
}

/// Goes on while it answers `true`.
type Actor = Box<dyn FnMut(&mut World, Letter) -> bool>;

#[derive(Default)]
struct World {
    queue: VecDeque<Letter>,
    actors: Vec<Option<Actor>>,
    free: Vec<u32>,
}

/// The first letter of an actor, where it needs one.
const START: u64 = u64::MAX;

impl World {
    fn spawn(&mut self, actor: impl FnMut(&mut World, Letter) -> bool + 'static) -> u32 {
        let actor: Option<Actor> = Some(Box::new(actor));
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
        self.queue.push_back(Letter { to, from, value });
    }

    fn run(&mut self) {
        while let Some(letter) = self.queue.pop_front() {
            let to = letter.to as usize;
            let Some(mut actor) = self.actors[to].take() else { continue };
            if actor(self, letter) {
                self.actors[to] = Some(actor);
            } else {
                self.free.push(to as u32);
            }
        }
    }
}

pub(super) fn ping_pong() -> Vec<f64> {
    let mut world = World::default();
    let pong = world.spawn(|world, letter| {
        world.send(letter.to, letter.from, letter.value);
        letter.value > 0
    });
    let ping = world.spawn(|world, letter| {
        if letter.value > 0 {
            world.send(letter.to, letter.from, letter.value - 1);
        }
        letter.value > 0
    });
    world.send(ping, pong, PING_PONG - 1);
    let watch = Watch::start();
    world.run();
    vec![watch.rate(PING_PONG)]
}

pub(super) fn ring() -> Vec<f64> {
    let mut world = World::default();
    for at in 0..RING_ACTORS {
        let next = ((at + 1) % RING_ACTORS) as u32;
        world.spawn(move |world, letter| {
            if letter.value > 0 {
                world.send(letter.to, next, letter.value - 1);
            }
            letter.value > RING_ACTORS
        });
    }
    world.send(0, 0, RING_HOPS);
    let watch = Watch::start();
    world.run();
    vec![watch.rate(RING_HOPS)]
}

fn count(producers: u64, each: u64) -> Vec<f64> {
    let mut world = World::default();
    let out = Rc::new(Cell::new(0));
    let (total, mut sum) = (out.clone(), 0);
    let sink = world.spawn(move |_, letter| {
        sum += letter.value;
        total.set(sum);
        true
    });
    for _ in 0..producers {
        let mut left = each;
        let producer = world.spawn(move |world, letter| {
            let batch = BATCH.min(left);
            for _ in 0..batch {
                world.send(letter.to, sink, 1);
            }
            left -= batch;
            if left > 0 {
                world.send(letter.to, letter.to, START);
            }
            left > 0
        });
        world.send(producer, producer, START);
    }
    let watch = Watch::start();
    world.run();
    assert_eq!(out.get(), producers * each);
    vec![watch.rate(producers * each)]
}

pub(super) fn counting() -> Vec<f64> {
    count(1, COUNT)
}

pub(super) fn fan_in() -> Vec<f64> {
    count(PRODUCERS, COUNT_EACH)
}

fn branch(world: &mut World, parent: u32, first: u64, size: u64) {
    let (mut sum, mut missing) = (0, 10);
    let me = world.spawn(move |world, letter| match letter.value {
        START if size == 1 => {
            world.send(letter.to, parent, first);
            false
        }
        START => {
            for child in 0..10 {
                branch(world, letter.to, first + child * (size / 10), size / 10);
            }
            true
        }
        n => {
            sum += n;
            missing -= 1;
            if missing == 0 {
                world.send(letter.to, parent, sum);
            }
            missing > 0
        }
    });
    world.send(parent, me, START);
}

pub(super) fn skynet() -> Vec<f64> {
    let mut world = World::default();
    let out = Rc::new(Cell::new(0));
    let sum = out.clone();
    let root = world.spawn(move |_, letter| {
        sum.set(letter.value);
        false
    });
    let watch = Watch::start();
    branch(&mut world, root, 0, SKYNET_LEAVES);
    world.run();
    let rate = watch.rate(SKYNET_LEAVES);
    assert_eq!(out.get(), SKYNET_LEAVES * (SKYNET_LEAVES - 1) / 2);
    vec![rate]
}

pub(super) fn idle() -> Vec<f64> {
    let mut world = World::default();
    let seen = Rc::new(Cell::new(0));
    let count = seen.clone();
    let memory = resident_bytes();
    let watch = Watch::start();
    let spawner = world.spawn(move |world, letter| {
        for _ in 0..BATCH {
            let (count, mut own) = (count.clone(), 0);
            world.spawn(move |_, letter| {
                own += letter.value;
                count.set(count.get() + own);
                true
            });
        }
        let missing = (world.actors.len() as u64) < IDLE;
        if missing {
            world.send(letter.to, letter.to, START);
        }
        missing
    });
    world.send(spawner, spawner, START);
    world.run();
    let spawn = watch.nanos(IDLE);
    let memory = resident_bytes() - memory;
    let mut next = 1;
    let watch = Watch::start();
    let sweeper = world.spawn(move |world, letter| {
        for to in next..next + BATCH {
            world.send(letter.to, to as u32, 1);
        }
        next += BATCH;
        if next <= IDLE {
            world.send(letter.to, letter.to, START);
        }
        next <= IDLE
    });
    // It took the place that the spawner left, before all others.
    assert_eq!(sweeper, spawner);
    world.send(sweeper, sweeper, START);
    world.run();
    let sweep = watch.rate(IDLE);
    assert_eq!(seen.get(), IDLE);
    vec![memory / IDLE as f64, spawn, sweep]
}

pub(super) fn ask() -> Vec<f64> {
    let mut world = World::default();
    let server = world.spawn(|world, letter| {
        world.send(letter.to, letter.from, letter.value + 1);
        true
    });
    let asker = world.spawn(move |world, letter| {
        if letter.value < ASKS {
            world.send(letter.to, server, letter.value);
        }
        letter.value < ASKS
    });
    world.send(asker, asker, 0);
    let watch = Watch::start();
    world.run();
    vec![watch.rate(ASKS)]
}

/// Timers in lists of one millisecond; a cancelled one stays in its list.
#[derive(Default)]
struct Timers {
    ticks: Vec<Vec<(u32, u32)>>,
    running: Vec<bool>,
}

impl Timers {
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
    let (mut world, mut timers) = (World::default(), Timers::default());
    let fired = Rc::new(Cell::new(0));
    let start = Instant::now();
    let watch = Watch::start();
    for _ in 0..TIMER_ACTORS {
        let count = fired.clone();
        world.spawn(move |_, _| {
            count.set(count.get() + 1);
            true
        });
    }
    timers.create_all();
    let create = watch.nanos(TIMERS);
    let watch = Watch::start();
    for (tick, due) in timers.ticks.iter().enumerate() {
        if due.is_empty() {
            continue;
        }
        let at = start + Duration::from_millis(tick as u64);
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        for &(actor, timer) in due {
            if timers.running[timer as usize] {
                world.send(actor, actor, u64::from(timer));
            }
        }
        world.run();
    }
    assert_eq!(fired.get(), TIMERS);
    vec![create, watch.nanos(TIMERS)]
}

pub(super) fn cancel() -> Vec<f64> {
    let mut timers = Timers::default();
    timers.create_all();
    let mut world = World::default();
    let timers = Rc::new(std::cell::RefCell::new(timers));
    for actor in 0..TIMER_ACTORS {
        let timers = timers.clone();
        world.spawn(move |_, _| {
            let running = &mut timers.borrow_mut().running;
            let mine = actor * TIMERS_EACH..(actor + 1) * TIMERS_EACH;
            for timer in mine {
                assert!(std::mem::replace(&mut running[timer as usize], false));
            }
            true
        });
    }
    let watch = Watch::start();
    for actor in 0..TIMER_ACTORS {
        world.send(actor as u32, actor as u32, START);
    }
    world.run();
    vec![watch.nanos(TIMERS)]
}
