//! Random actions in one loop: spawns, terminations from inside and outside of a step, swaps, sends to itself,
//! panics, and drops that send. It is meant to run under a tool that detects misuse of memory:
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
//! `ANTIPHON_STRESS_STEPS` sets the number of steps of each run. A failure shows the seed of its run.
#![expect(clippy::unwrap_used, reason = "a test that cannot continue fails")]

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use antiphon_sched::*;

/// The state that all actors of one run share.
struct StressState {
    actors: RefCell<Vec<Addr<StressMessage>>>,
    adapters: RefCell<Vec<Addr<u64>>>,
    replies: RefCell<Vec<ReplyTo<StressMessage>>>,
    handle: Handle,
    /// The number of messages that exist; 0 at the end.
    messages: Cell<i64>,
    steps: Cell<u64>,
    ended: Cell<u64>,
}

/// A message that owns memory, and sometimes does something when it is dropped.
struct StressMessage {
    state: Rc<StressState>,
    kind: u64,
    padding: Vec<u8>,
}

impl StressMessage {
    fn new(state: &Rc<StressState>, kind: u64) -> Self {
        state.messages.set(state.messages.get() + 1);
        Self { state: state.clone(), kind, padding: vec![kind as u8; (kind % 70) as usize] }
    }
}

impl Drop for StressMessage {
    fn drop(&mut self) {
        self.state.messages.set(self.state.messages.get() - 1);
        assert!(
            self.padding.iter().all(|byte| *byte == self.kind as u8),
            "the memory of a message is intact"
        );
        if self.kind % 61 == 1 && !std::thread::panicking() {
            panic!("the drop of a message panics");
        }
    }
}

/// Sends a number through the handle, as another thread does; an adapter converts it to a message.
fn send_by_handle(state: &StressState, n: u64) {
    let adapters = state.adapters.borrow();
    if let Some(adapter) = adapters.get(n as usize % adapters.len().max(1)) {
        // The inbox may be full.
        drop(state.handle.send(*adapter, n));
    }
}

/// The payload of a panic; its drop panics again.
struct PanicPayload;

impl Drop for PanicPayload {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("the drop of a payload panics");
        }
    }
}

struct StressActor {
    state: Rc<StressState>,
    memory: Box<[u64]>,
    /// Sends a message when it is dropped.
    on_drop: SendOnDrop,
}

struct SendOnDrop(Rc<StressState>, u64);

impl Drop for SendOnDrop {
    fn drop(&mut self) {
        self.0.ended.set(self.0.ended.get() + 1);
        send_by_handle(&self.0, self.1);
    }
}

fn stress_actor(state: &Rc<StressState>, seed: u64) -> StressActor {
    let memory = vec![seed; 1 + (seed % 5) as usize].into();
    StressActor { state: state.clone(), memory, on_drop: SendOnDrop(state.clone(), seed) }
}

impl Actor<StressMessage> for StressActor {
    fn step(&mut self, cx: &mut Cx<'_, StressMessage>, event: Event<StressMessage>) -> Step<StressMessage> {
        let state = self.state.clone();
        state.steps.set(state.steps.get() + 1);
        for cell in &mut self.memory {
            assert_eq!(*cell, self.on_drop.1, "the memory of an actor is intact");
        }
        let random = cx.random();
        let pick = |cx: &mut Cx<'_, StressMessage>| {
            let actors = state.actors.borrow();
            actors[cx.random() as usize % actors.len()]
        };
        match event {
            Event::Start => {
                let for_message = state.clone();
                let adapter = cx
                    .adapter(move |n: u64| {
                        assert!(n % 97 != 5, "an adapter panics");
                        StressMessage::new(&for_message, n)
                    })
                    .unwrap();
                let mut adapters = state.adapters.borrow_mut();
                if adapters.len() > 64 {
                    adapters.swap_remove((random % 64) as usize);
                }
                adapters.push(adapter);
                state.actors.borrow_mut().push(cx.addr());
            }
            Event::Swap(offer) if random.is_multiple_of(2) => return swap_actor(offer),
            Event::Thrown(thrown) if random.is_multiple_of(2) => drop(thrown.take()),
            // Not at the end of the step: rustc leaks the return value when the drop of a local panics after it
            // (rust-lang/rust#47949).
            other => drop(other),
        }
        for shift in [8, 16, 24] {
            self.act(cx, &state, (random >> shift) % 24, pick);
        }
        // The actor may have been ended by its own action.
        match (random >> 40) % 32 {
            0 => stop(),
            1 => exit_local(StressMessage::new(&state, random)),
            2 => fail("on purpose"),
            3 => panic!("on purpose"),
            4 => std::panic::panic_any(PanicPayload),
            5 => swap_actor(stress_actor(&state, random)),
            6 => swap({
                let mut inner = stress_actor(&state, random);
                move |cx: &mut Cx<'_, StressMessage>, event| inner.step(cx, event)
            }),
            7 => sleep(millis(random % 20)),
            8 => receive_within(millis(random % 20)),
            9 | 10 => {
                let captured = StressMessage::new(&state, random);
                receive_if(move |message: &StressMessage| {
                    // Captures the whole message: fields left behind would be dropped after the result of the step is made.
                    let captured = &captured;
                    assert!(message.kind % 211 != 3, "a predicate panics");
                    let captured: &StressMessage = captured;
                    message.kind % 2 == captured.kind % 2
                })
            }
            11 => suspend(),
            _ => receive(),
        }
    }
}

impl StressActor {
    fn act(
        &mut self,
        cx: &mut Cx<'_, StressMessage>,
        state: &Rc<StressState>,
        action: u64,
        pick: impl Fn(&mut Cx<'_, StressMessage>) -> Addr<StressMessage>,
    ) {
        let random = cx.random();
        let actor = pick(cx);
        match action {
            0..=3 => drop(cx.send(cx.addr(), StressMessage::new(state, random))),
            4..=7 => drop(cx.send(actor, StressMessage::new(state, random))),
            8 => cx.tell(actor, StressMessage::new(state, random)),
            9 | 10 => _ = cx.spawn_actor(stress_actor(state, random)),
            11 => cx.terminate(actor),
            12 => {
                // The actor ends by a panic of its own adapter, in the middle of a step.
                let adapter = cx.adapter(|_: ()| panic!("an adapter ends its actor")).unwrap();
                drop(cx.send(adapter, ()));
            }
            13 => {
                let adapter = state.adapters.borrow().first().copied();
                if let Some(adapter) = adapter {
                    drop(cx.send(adapter, random));
                }
            }
            14 => {
                let offered = stress_actor(state, random);
                let mut offered = Some(offered);
                cx.swap(actor, move |cx: &mut Cx<'_, StressMessage>, event| match &mut offered {
                    Some(stress_actor) => stress_actor.step(cx, event),
                    None => stop(),
                });
            }
            15 => {
                cx.monitor(actor);
                cx.notify(actor);
            }
            16 => {
                let timer = cx.after(millis(random % 30), StressMessage::new(state, random)).unwrap();
                if random.is_multiple_of(3) {
                    cx.cancel(timer);
                }
            }
            17 => {
                let for_message = state.clone();
                let timer = cx
                    .every(millis(1 + random % 30), move || {
                        assert!(!random.is_multiple_of(13), "the constructor of a tick panics");
                        StressMessage::new(&for_message, random)
                    })
                    .unwrap();
                if random.is_multiple_of(3) {
                    cx.cancel(timer);
                }
            }
            18 | 19 => {
                // A request with a reply that comes later or never, from any actor.
                let for_message = state.clone();
                let keep = state.clone();
                let to = cx
                    .adapter(move |reply: ReplyTo<StressMessage>| {
                        let mut replies = keep.replies.borrow_mut();
                        if replies.len() < 50 {
                            replies.push(reply);
                        }
                        StressMessage::new(&keep, 2)
                    })
                    .unwrap();
                cx.ask(
                    to,
                    millis(random % 50),
                    |reply| reply,
                    move |answer| {
                        assert!(!random.is_multiple_of(17), "the constructor of a reply panics");
                        answer.unwrap_or_else(|_| StressMessage::new(&for_message, random))
                    },
                );
            }
            20 => {
                let reply = state.replies.borrow_mut().pop();
                if let Some(reply) = reply {
                    cx.reply(reply, StressMessage::new(state, random));
                }
            }
            21 => drop(state.replies.borrow_mut().pop()),
            22 => {
                let for_message = state.clone();
                cx.blocking(
                    move || if random.is_multiple_of(3) { panic!("a job panics") } else { random },
                    move |_| StressMessage::new(&for_message, random),
                );
            }
            _ if random.is_multiple_of(2) => cx.resume(actor, ()),
            _ => cx.throw(actor, ()),
        }
    }
}

fn run_actors(seed: u64, steps: u64) {
    let config = LoopConfig {
        platform: Platform::Virtual,
        seed: Some(seed),
        mailbox_max: 30,
        ..LoopConfig::default()
    };
    let mut events = Loop::new(config).unwrap();
    let state = Rc::new(StressState {
        actors: RefCell::default(),
        adapters: RefCell::default(),
        replies: RefCell::default(),
        handle: events.handle(),
        messages: Cell::new(0),
        steps: Cell::new(0),
        ended: Cell::new(0),
    });
    let (mut n, mut rounds) = (0, 0);
    let mut choices = fastrand::Rng::with_seed(seed);
    while state.steps.get() < steps {
        // Without these bounds the actors die out, or their number grows without end.
        while events.stats().actors < 40 {
            n += 1;
            events.spawn_actor(stress_actor(&state, seed ^ n));
        }
        let mut actors = state.actors.borrow_mut();
        let count = actors.len();
        if count > 200 {
            for addr in actors.drain(..count - 150) {
                events.loop_ref().terminate(addr);
            }
        }
        // Resumes suspended actors, and sends to actors that wait for a message.
        let idle: Vec<_> = actors.clone();
        drop(actors);
        for addr in idle {
            match choices.u32(0..16) {
                0..4 => drop(events.local_actors().signals().resume(addr.id().key(), EncodedValue::unit())),
                4 => drop(events.send(addr, StressMessage::new(&state, 2))),
                _ => {}
            }
        }
        for _ in 0..5 {
            events.work();
        }
        rounds += 1;
        assert!(rounds < 20 * steps, "the actors make no more steps");
        let now = events.now() + millis(1);
        events.advance_to(now);
    }
    if seed.is_multiple_of(2) {
        // In half of the runs all actors end before the loop, in half with it.
        for key in 0..100 {
            let all: Vec<_> = state.actors.borrow().clone();
            all.iter().for_each(|addr| events.loop_ref().terminate(*addr));
            let now = events.now() + secs(key);
            events.advance_to(now);
            events.work();
        }
    }
    assert!(state.ended.get() > 0, "no actor has ended");
    drop(events);
    // These keep messages outside of the loop.
    state.replies.borrow_mut().clear();
    assert_eq!(state.messages.get(), 0, "a message was leaked or dropped twice");
    assert_eq!(Rc::strong_count(&state), 1, "an actor was leaked");
}

#[test]
fn random_actions_neither_corrupt_nor_leak_memory() {
    thread_local! {
        static LAST: RefCell<String> = const { RefCell::new(String::new()) };
    }
    // Panics are expected here: only the last one is kept, and shown if the run fails.
    std::panic::set_hook(Box::new(|info| {
        let trace =
            std::env::var_os("ANTIPHON_STRESS_TRACE").map(|_| std::backtrace::Backtrace::force_capture());
        LAST.set(format!("{info} {}", trace.map_or(String::new(), |trace| trace.to_string())));
    }));
    let steps =
        std::env::var("ANTIPHON_STRESS_STEPS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let failed = (0..8).find(|seed| std::panic::catch_unwind(|| run_actors(*seed, steps)).is_err());
    drop(std::panic::take_hook());
    assert!(failed.is_none(), "the run with seed {} failed: {}", failed.unwrap_or_default(), LAST.take());
}
