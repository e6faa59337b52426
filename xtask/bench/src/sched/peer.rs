//! The workloads with actors of stakker: structs with methods that are called through its queue.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use stakker::{
    Actor, ActorOwn, CX, FixedTimerKey, Ret, Stakker, StopCause, actor, after, call, ret, ret_nop,
    ret_some_to,
};

use super::{
    ASKS, BATCH, COUNT, COUNT_EACH, IDLE, PING_PONG, PRODUCERS, RING_ACTORS, RING_HOPS, SKYNET_LEAVES,
    TIMER_ACTORS, TIMERS, TIMERS_EACH, timer_span_us,
};
use crate::gauge::{Stopwatch, resident_bytes};

fn new_loop() -> Stakker {
    Stakker::new(Instant::now())
}

/// Runs until the queue is empty; timers stay.
fn settle(stakker: &mut Stakker) {
    stakker.run(Instant::now(), false);
}

struct Ping {
    pong: ActorOwn<Pong>,
}

struct Pong {
    ping: Actor<Ping>,
}

impl Ping {
    fn init(cx: CX![]) -> Option<Self> {
        let pong = actor!(cx, Pong::init(cx.this().clone()), ret_nop!());
        call!([pong], hit(PING_PONG - 1));
        Some(Self { pong })
    }

    fn hit(&mut self, cx: CX![], n: u64) {
        if n == 0 {
            return cx.stop();
        }
        call!([self.pong], hit(n - 1));
    }
}

impl Pong {
    fn init(_: CX![], ping: Actor<Ping>) -> Option<Self> {
        Some(Self { ping })
    }

    fn hit(&mut self, _: CX![], n: u64) {
        call!([self.ping], hit(n));
    }
}

pub(super) fn ping_pong() -> Vec<f64> {
    let mut stakker = new_loop();
    let _ping = actor!(&mut stakker, Ping::init(), ret_nop!());
    let watch = Stopwatch::start();
    settle(&mut stakker);
    vec![watch.rate(PING_PONG)]
}

struct Member {
    next: Option<Actor<Member>>,
}

impl Member {
    fn init(_: CX![]) -> Option<Self> {
        Some(Self { next: None })
    }

    fn follow(&mut self, _: CX![], next: Actor<Member>) {
        self.next = Some(next);
    }

    fn hop(&mut self, cx: CX![], n: u64) {
        match &self.next {
            Some(next) if n > 0 => call!([next], hop(n - 1)),
            _ => {}
        }
        if n <= RING_ACTORS {
            cx.stop();
        }
    }
}

pub(super) fn ring() -> Vec<f64> {
    let mut stakker = new_loop();
    let stakker = &mut stakker;
    let members: Vec<_> = (0..RING_ACTORS).map(|_| actor!(stakker, Member::init(), ret_nop!())).collect();
    for (at, member) in members.iter().enumerate() {
        let next = members[(at + 1) % members.len()].clone();
        call!([member], follow(next));
    }
    settle(stakker);
    call!([members[0]], hop(RING_HOPS));
    let watch = Stopwatch::start();
    settle(stakker);
    vec![watch.rate(RING_HOPS)]
}

struct Sink {
    total: u64,
    out: Rc<Cell<u64>>,
}

struct Producer {
    sink: Actor<Sink>,
    left: u64,
}

impl Sink {
    fn init(_: CX![], out: Rc<Cell<u64>>) -> Option<Self> {
        Some(Self { total: 0, out })
    }

    fn add(&mut self, _: CX![], n: u64) {
        self.total += n;
        self.out.set(self.total);
    }
}

impl Producer {
    fn init(cx: CX![], sink: Actor<Sink>, left: u64) -> Option<Self> {
        call!([cx], produce());
        Some(Self { sink, left })
    }

    fn produce(&mut self, cx: CX![]) {
        let batch = BATCH.min(self.left);
        for _ in 0..batch {
            call!([self.sink], add(1));
        }
        self.left -= batch;
        if self.left == 0 {
            return cx.stop();
        }
        call!([cx], produce());
    }
}

fn count(producers: u64, each: u64) -> Vec<f64> {
    let mut stakker = new_loop();
    let stakker = &mut stakker;
    let total = Rc::new(Cell::new(0));
    let sink = actor!(stakker, Sink::init(total.clone()), ret_nop!());
    let _producers: Vec<_> =
        (0..producers).map(|_| actor!(stakker, Producer::init(sink.clone(), each), ret_nop!())).collect();
    let watch = Stopwatch::start();
    settle(stakker);
    assert_eq!(total.get(), producers * each);
    vec![watch.rate(producers * each)]
}

pub(super) fn counting() -> Vec<f64> {
    count(1, COUNT)
}

pub(super) fn fan_in() -> Vec<f64> {
    count(PRODUCERS, COUNT_EACH)
}

struct Branch {
    parent: Option<Actor<Branch>>,
    children: Vec<ActorOwn<Branch>>,
    missing: u64,
    sum: u64,
}

impl Branch {
    fn init(cx: CX![], parent: Option<Actor<Branch>>, first: u64, size: u64) -> Option<Self> {
        if size == 1 {
            if let Some(parent) = &parent {
                call!([parent], add(first));
            }
            cx.stop();
            return Some(Self { parent, children: Vec::new(), missing: 0, sum: 0 });
        }
        let size = size / 10;
        let mut children = Vec::with_capacity(10);
        for child in 0..10 {
            let me = Some(cx.this().clone());
            children.push(actor!(cx, Branch::init(me, first + child * size, size), ret_nop!()));
        }
        Some(Self { parent, children, missing: 10, sum: 0 })
    }

    fn add(&mut self, cx: CX![], n: u64) {
        self.sum += n;
        self.missing -= 1;
        if self.missing > 0 {
            return;
        }
        let sum = self.sum;
        match &self.parent {
            Some(parent) => call!([parent], add(sum)),
            None => assert_eq!(sum, SKYNET_LEAVES * (SKYNET_LEAVES - 1) / 2),
        }
        self.children.clear();
        cx.stop();
    }
}

pub(super) fn skynet() -> Vec<f64> {
    let mut stakker = new_loop();
    let stakker = &mut stakker;
    let done = Rc::new(Cell::new(false));
    let stopped = done.clone();
    let notify =
        Ret::new(move |reason: Option<StopCause>| stopped.set(matches!(reason, Some(StopCause::Stopped))));
    let watch = Stopwatch::start();
    let _root = actor!(stakker, Branch::init(None, 0, SKYNET_LEAVES), notify);
    settle(stakker);
    let rate = watch.rate(SKYNET_LEAVES);
    assert!(done.get(), "the root did not stop");
    vec![rate]
}

struct Idle {
    count: Rc<Cell<u64>>,
    own: u64,
}

impl Idle {
    fn init(_: CX![], count: Rc<Cell<u64>>) -> Option<Self> {
        Some(Self { count, own: 0 })
    }

    fn add(&mut self, _: CX![], [n, _, _]: [u64; 3]) {
        self.own += n;
        self.count.set(self.count.get() + self.own);
    }
}

struct Spawner {
    count: Rc<Cell<u64>>,
    made: Rc<RefCell<Vec<ActorOwn<Idle>>>>,
}

impl Spawner {
    fn init(cx: CX![], count: Rc<Cell<u64>>, made: Rc<RefCell<Vec<ActorOwn<Idle>>>>) -> Option<Self> {
        call!([cx], spawn());
        Some(Self { count, made })
    }

    fn spawn(&mut self, cx: CX![]) {
        let mut made = self.made.borrow_mut();
        for _ in 0..BATCH {
            made.push(actor!(cx, Idle::init(self.count.clone()), ret_nop!()));
        }
        if (made.len() as u64) < IDLE {
            call!([cx], spawn());
        } else {
            cx.stop();
        }
    }
}

struct Sweeper {
    to: Rc<RefCell<Vec<ActorOwn<Idle>>>>,
    sent: usize,
}

impl Sweeper {
    fn init(cx: CX![], to: Rc<RefCell<Vec<ActorOwn<Idle>>>>) -> Option<Self> {
        call!([cx], sweep());
        Some(Self { to, sent: 0 })
    }

    fn sweep(&mut self, cx: CX![]) {
        let to = self.to.borrow();
        for idle in &to[self.sent..self.sent + BATCH as usize] {
            call!([idle], add([1, 2, 3]));
        }
        self.sent += BATCH as usize;
        if self.sent < to.len() {
            call!([cx], sweep());
        } else {
            cx.stop();
        }
    }
}

pub(super) fn idle() -> Vec<f64> {
    let mut stakker = new_loop();
    let stakker = &mut stakker;
    let seen = Rc::new(Cell::new(0));
    let made = Rc::new(RefCell::new(Vec::with_capacity(IDLE as usize)));
    let memory = resident_bytes();
    let watch = Stopwatch::start();
    let _spawner = actor!(stakker, Spawner::init(seen.clone(), made.clone()), ret_nop!());
    settle(stakker);
    let spawn = watch.nanos(IDLE);
    let memory = resident_bytes() - memory - size_of_val(&**made.borrow()) as f64;
    let watch = Stopwatch::start();
    let _sweeper = actor!(stakker, Sweeper::init(made), ret_nop!());
    settle(stakker);
    let sweep = watch.rate(IDLE);
    assert_eq!(seen.get(), IDLE);
    vec![memory / IDLE as f64, spawn, sweep]
}

struct Server;

impl Server {
    fn init(_: CX![]) -> Option<Self> {
        Some(Self)
    }

    fn ask(&mut self, _: CX![], n: u64, reply: Ret<u64>) {
        ret!([reply], n + 1);
    }
}

struct Asker {
    server: Actor<Server>,
}

impl Asker {
    fn init(cx: CX![], server: Actor<Server>) -> Option<Self> {
        call!([cx], answered(0));
        Some(Self { server })
    }

    fn answered(&mut self, cx: CX![], n: u64) {
        if n == ASKS {
            return cx.stop();
        }
        let reply = ret_some_to!([cx], answered() as (u64));
        call!([self.server], ask(n, reply));
    }
}

pub(super) fn ask() -> Vec<f64> {
    let mut stakker = new_loop();
    let stakker = &mut stakker;
    let server = actor!(stakker, Server::init(), ret_nop!());
    let _asker = actor!(stakker, Asker::init(server.clone()), ret_nop!());
    let watch = Stopwatch::start();
    settle(stakker);
    vec![watch.rate(ASKS)]
}

struct Timed {
    running: Vec<FixedTimerKey>,
    fired: Rc<Cell<u64>>,
}

impl Timed {
    fn init(cx: CX![], actor: u64, keep: bool, fired: Rc<Cell<u64>>) -> Option<Self> {
        let mut running = Vec::new();
        for n in 0..TIMERS_EACH {
            let span = Duration::from_micros(timer_span_us(actor * TIMERS_EACH + n));
            let timer = after!(span, [cx], fire(n));
            if keep {
                running.push(timer);
            }
        }
        Some(Self { running, fired })
    }

    fn fire(&mut self, _: CX![], _: u64) {
        self.fired.set(self.fired.get() + 1);
    }

    fn cancel(&mut self, cx: CX![]) {
        for timer in self.running.drain(..) {
            assert!(cx.timer_del(timer));
        }
    }
}

fn timed(stakker: &mut Stakker, keep: bool, fired: &Rc<Cell<u64>>) -> Vec<ActorOwn<Timed>> {
    let actors = 0..TIMER_ACTORS;
    let actors =
        actors.map(|actor| actor!(stakker, Timed::init(actor, keep, fired.clone()), ret_nop!())).collect();
    settle(stakker);
    actors
}

pub(super) fn timers() -> Vec<f64> {
    let mut stakker = new_loop();
    let fired = Rc::new(Cell::new(0));
    let watch = Stopwatch::start();
    let _actors = timed(&mut stakker, false, &fired);
    let create = watch.nanos(TIMERS);
    assert_eq!(fired.get(), 0, "the first timer is due after a second");
    let watch = Stopwatch::start();
    while fired.get() < TIMERS {
        std::thread::sleep(stakker.next_wait_max(Instant::now(), Duration::from_secs(60), false));
        settle(&mut stakker);
    }
    vec![create, watch.nanos(TIMERS)]
}

pub(super) fn cancel() -> Vec<f64> {
    let mut stakker = new_loop();
    let fired = Rc::new(Cell::new(0));
    let actors = timed(&mut stakker, true, &fired);
    let watch = Stopwatch::start();
    for actor in &actors {
        call!([actor], cancel());
    }
    settle(&mut stakker);
    let cancel = watch.nanos(TIMERS);
    assert!(stakker.next_expiry().is_none());
    vec![cancel]
}
