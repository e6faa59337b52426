//! Random life in one loop: spawns, kills from within and without, swaps, sends to oneself, panics, drops
//! that send. Its purpose is to be watched by a tool that sees misuse of memory:
//!
//! ```text
//! cargo test -p antiphon-sched --test stress --no-run
//! ANTIPHON_STRESS_STEPS=4000 valgrind --error-exitcode=1 --leak-check=full --errors-for-leak-kinds=definite \
//!     target/debug/deps/stress-<hash>
//!
//! RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address \
//!     cargo test -p antiphon-sched --test stress --target x86_64-unknown-linux-gnu --target-dir target/asan
//! ```
//!
//! `ANTIPHON_STRESS_STEPS` sets how long it goes on; the seed of each world is told when it fails.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use antiphon_sched::*;

/// What all actors of a world know.
struct World {
    actors: RefCell<Vec<Addr<Note>>>,
    adapters: RefCell<Vec<Addr<u64>>>,
    replies: RefCell<Vec<ReplyTo<Note>>>,
    handle: Handle,
    /// Messages alive; at the end there must be none.
    notes: Cell<i64>,
    steps: Cell<u64>,
    ended: Cell<u64>,
}

/// A message that owns memory, and sometimes does something when it is dropped.
struct Note {
    world: Rc<World>,
    kind: u64,
    padding: Vec<u8>,
}

impl Note {
    fn new(world: &Rc<World>, kind: u64) -> Self {
        world.notes.set(world.notes.get() + 1);
        Self { world: world.clone(), kind, padding: vec![kind as u8; (kind % 70) as usize] }
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        self.world.notes.set(self.world.notes.get() - 1);
        assert!(self.padding.iter().all(|byte| *byte == self.kind as u8), "its memory is its own");
        if self.kind % 61 == 1 && !std::thread::panicking() {
            panic!("a note was torn");
        }
    }
}

/// What crosses threads: only a number, to be turned into a note by an ear.
fn poke(world: &World, n: u64) {
    let adapters = world.adapters.borrow();
    if let Some(adapter) = adapters.get(n as usize % adapters.len().max(1)) {
        // A full inbox is as good.
        drop(world.handle.send(*adapter, n));
    }
}

/// What a step throws, and what throws again.
struct Payload;

impl Drop for Payload {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("a payload was dropped");
        }
    }
}

struct Actress {
    world: Rc<World>,
    memory: Box<[u64]>,
    /// Pokes somebody when it is dropped.
    _last: LastWord,
}

struct LastWord(Rc<World>, u64);

impl Drop for LastWord {
    fn drop(&mut self) {
        self.0.ended.set(self.0.ended.get() + 1);
        poke(&self.0, self.1);
    }
}

fn actress(world: &Rc<World>, seed: u64) -> Actress {
    let memory = vec![seed; 1 + (seed % 5) as usize].into();
    Actress { world: world.clone(), memory, _last: LastWord(world.clone(), seed) }
}

impl Actor<Note> for Actress {
    fn step(&mut self, cx: &mut Cx<'_, Note>, event: Event<Note>) -> Step<Note> {
        let world = self.world.clone();
        world.steps.set(world.steps.get() + 1);
        for cell in &mut self.memory {
            assert_eq!(*cell, self._last.1, "its memory is its own");
        }
        let dice = cx.random();
        let pick = |cx: &mut Cx<'_, Note>| {
            let actors = world.actors.borrow();
            actors[cx.random() as usize % actors.len()]
        };
        match event {
            Event::Start => {
                let of = world.clone();
                let adapter = cx.adapter(move |n: u64| {
                    assert!(n % 97 != 5, "an ear hurts");
                    Note::new(&of, n)
                });
                let mut adapters = world.adapters.borrow_mut();
                if adapters.len() > 64 {
                    adapters.swap_remove((dice % 64) as usize);
                }
                adapters.push(adapter);
                world.actors.borrow_mut().push(cx.addr());
            }
            Event::Swap(offer) if dice.is_multiple_of(2) => return swap_actor(offer),
            Event::Thrown(thrown) if dice.is_multiple_of(2) => drop(thrown.take()),
            // Not at the end of the step: rustc leaks a return value when a local's drop panics behind it
            // (rust-lang/rust#47949).
            other => drop(other),
        }
        for shift in [8, 16, 24] {
            self.act(cx, &world, (dice >> shift) % 24, pick);
        }
        // Whatever else it did, whoever acts may be dead by now.
        match (dice >> 40) % 32 {
            0 => stop(),
            1 => exit_local(Note::new(&world, dice)),
            2 => fail("on purpose"),
            3 => panic!("on purpose"),
            4 => std::panic::panic_any(Payload),
            5 => swap_actor(actress(&world, dice)),
            6 => swap({
                let mut inner = actress(&world, dice);
                move |cx: &mut Cx<'_, Note>, event| inner.step(cx, event)
            }),
            7 => sleep(millis(dice % 20)),
            8 => receive_within(millis(dice % 20)),
            9 | 10 => {
                let held = Note::new(&world, dice);
                receive_if(move |note: &Note| {
                    // The whole of it: a note that stayed behind would be dropped after the step's answer is made.
                    let held = &held;
                    assert!(note.kind % 211 != 3, "a predicate chokes");
                    let held: &Note = held;
                    note.kind % 2 == held.kind % 2
                })
            }
            11 => suspend(),
            _ => receive(),
        }
    }
}

impl Actress {
    fn act(
        &mut self,
        cx: &mut Cx<'_, Note>,
        world: &Rc<World>,
        what: u64,
        pick: impl Fn(&mut Cx<'_, Note>) -> Addr<Note>,
    ) {
        let dice = cx.random();
        let actor = pick(cx);
        match what {
            0..=3 => drop(cx.send(cx.addr(), Note::new(world, dice))),
            4..=7 => drop(cx.send(actor, Note::new(world, dice))),
            8 => cx.tell(actor, Note::new(world, dice)),
            9 | 10 => _ = cx.spawn_actor(actress(world, dice)),
            11 => cx.terminate(actor),
            12 => {
                // Death by one's own ear, in the middle of a step.
                let me = cx.adapter(|_: ()| panic!("an ear that kills"));
                drop(cx.send(me, ()));
            }
            13 => {
                let adapter = world.adapters.borrow().first().copied();
                if let Some(adapter) = adapter {
                    drop(cx.send(adapter, dice));
                }
            }
            14 => {
                let offered = actress(world, dice);
                let mut offered = Some(offered);
                cx.swap(actor, move |cx: &mut Cx<'_, Note>, event| match &mut offered {
                    Some(actress) => actress.step(cx, event),
                    None => stop(),
                });
            }
            15 => {
                cx.monitor(actor);
                cx.notify(actor);
            }
            16 => {
                let timer = cx.after(millis(dice % 30), Note::new(world, dice));
                if dice.is_multiple_of(3) {
                    cx.cancel(timer);
                }
            }
            17 => {
                let of = world.clone();
                let timer = cx.every(millis(1 + dice % 30), move || {
                    assert!(!dice.is_multiple_of(13), "out of sync");
                    Note::new(&of, dice)
                });
                if dice.is_multiple_of(3) {
                    cx.cancel(timer);
                }
            }
            18 | 19 => {
                // A request whose answer comes later, or never, by a reply that anybody may hold.
                let of = world.clone();
                let keep = world.clone();
                let to = cx.adapter(move |reply: ReplyTo<Note>| {
                    let mut replies = keep.replies.borrow_mut();
                    if replies.len() < 50 {
                        replies.push(reply);
                    }
                    Note::new(&keep, 2)
                });
                cx.ask(
                    to,
                    millis(dice % 50),
                    |reply| reply,
                    move |answer| {
                        assert!(!dice.is_multiple_of(17), "a constructor chokes");
                        answer.unwrap_or_else(|_| Note::new(&of, dice))
                    },
                );
            }
            20 => {
                let reply = world.replies.borrow_mut().pop();
                if let Some(reply) = reply {
                    cx.reply(reply, Note::new(world, dice));
                }
            }
            21 => drop(world.replies.borrow_mut().pop()),
            22 => {
                let of = world.clone();
                cx.blocking(
                    move || if dice.is_multiple_of(3) { panic!("a job fails") } else { dice },
                    move |_| Note::new(&of, dice),
                );
            }
            _ if dice.is_multiple_of(2) => cx.resume(actor, ()),
            _ => cx.throw(actor, ()),
        }
    }
}

fn live(seed: u64, steps: u64) {
    let config =
        LoopConfig { park: Park::Virtual, seed: Some(seed), mailbox_max: 30, ..LoopConfig::default() };
    let mut events = Loop::new(config).unwrap();
    let world = Rc::new(World {
        actors: RefCell::default(),
        adapters: RefCell::default(),
        replies: RefCell::default(),
        handle: events.handle(),
        notes: Cell::new(0),
        steps: Cell::new(0),
        ended: Cell::new(0),
    });
    let (mut n, mut rounds) = (0, 0);
    while world.steps.get() < steps {
        // The world dies out or grows without end, were it left alone.
        while events.stats().actors < 40 {
            n += 1;
            events.spawn_actor(actress(&world, seed ^ n));
        }
        let mut actors = world.actors.borrow_mut();
        let crowd = actors.len();
        if crowd > 200 {
            for addr in actors.drain(..crowd - 150) {
                events.loop_ref().terminate(addr);
            }
        }
        // Who is suspended would stay so, and who waits for a message, too.
        let idle: Vec<_> = actors.clone();
        drop(actors);
        for addr in idle {
            let mut loop_ref = events.loop_ref();
            match loop_ref.random() % 16 {
                0..4 => drop(loop_ref.resume_here(addr.id().key(), Value::new(()))),
                4 => drop(loop_ref.send(addr, Note::new(&world, 2))),
                _ => {}
            }
        }
        for _ in 0..5 {
            events.work();
        }
        rounds += 1;
        assert!(rounds < 20 * steps, "the world has come to rest");
        let now = events.now() + millis(1);
        events.advance_to(now);
    }
    if seed.is_multiple_of(2) {
        // Half of the worlds end by their actors' ends, half by the loop's.
        for key in 0..100 {
            let all: Vec<_> = world.actors.borrow().clone();
            all.iter().for_each(|addr| events.loop_ref().terminate(*addr));
            let now = events.now() + secs(key);
            events.advance_to(now);
            events.work();
        }
    }
    assert!(world.ended.get() > 0);
    drop(events);
    // What held on to messages outside of the loop.
    world.replies.borrow_mut().clear();
    assert_eq!(world.notes.get(), 0, "each message is dropped once");
    assert_eq!(Rc::strong_count(&world), 1, "and so is each actor");
}

#[test]
fn no_life_misuses_memory_or_leaks() {
    thread_local! {
        static LAST: RefCell<String> = const { RefCell::new(String::new()) };
    }
    // Panics are daily life here: only the one that got out is shown.
    std::panic::set_hook(Box::new(|info| {
        let trace =
            std::env::var_os("ANTIPHON_STRESS_TRACE").map(|_| std::backtrace::Backtrace::force_capture());
        LAST.set(format!("{info} {}", trace.map_or(String::new(), |trace| trace.to_string())));
    }));
    let steps =
        std::env::var("ANTIPHON_STRESS_STEPS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let failed = (0..8).find(|seed| std::panic::catch_unwind(|| live(*seed, steps)).is_err());
    drop(std::panic::take_hook());
    assert!(failed.is_none(), "the world of seed {}: {}", failed.unwrap_or_default(), LAST.take());
}
