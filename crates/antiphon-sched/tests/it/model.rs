//! Random programs run against the scheduler and against a simple model of one mailbox.

use std::collections::VecDeque;

use antiphon_sched::*;
use proptest::prelude::*;

use crate::common::*;

#[derive(Clone, Debug)]
enum QueueOp {
    Send(u32),
    /// Sends through an adapter of the actor.
    SendToAdapter(u32),
    Resume,
    /// Delivers a `Down`.
    Down,
    /// Advances the clock by this many milliseconds.
    Pass(u64),
}

/// The value that the actor's n-th step returns. Times are in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum StepChoice {
    Receive,
    /// Receives only messages with this remainder modulo three.
    If(u32),
    Within(u64),
    Sleep(u64),
    Suspend,
    Swap,
}

/// The model: one queue, one waiting state, one deadline.
struct Model {
    queue: VecDeque<String>,
    state: StepChoice,
    deadline: Option<u64>,
    now: u64,
    choices: Vec<StepChoice>,
    steps: usize,
    log: Vec<String>,
}

impl Model {
    fn next(&mut self) -> Option<String> {
        let message = |item: &String| item.parse::<u32>().ok();
        let at = match self.state {
            StepChoice::Receive | StepChoice::Swap | StepChoice::Within(_) => {
                (!self.queue.is_empty()).then_some(0)
            }
            StepChoice::If(remainder) => {
                self.queue.iter().position(|item| message(item).is_none_or(|n| n % 3 == remainder))
            }
            StepChoice::Sleep(_) | StepChoice::Suspend => {
                self.queue.iter().position(|item| item == "resumed")
            }
        };
        if let Some(at) = at {
            return self.queue.remove(at);
        }
        // A timer fires up to a millisecond late, and so do the timers that follow from it. The spans of this test keep
        // the sum of the delays below the time of the next operation.
        self.deadline.filter(|deadline| *deadline <= self.now).map(|_| "timeout".into())
    }

    fn run(&mut self) {
        while let Some(event) = self.next() {
            self.log.push(event);
            self.state = self.choices[self.steps % self.choices.len()];
            self.steps += 1;
            self.deadline = match self.state {
                StepChoice::Within(span) | StepChoice::Sleep(span) => Some(self.now + span),
                _ => None,
            };
        }
    }
}

/// The choices of the actor's steps, and the number of steps so far.
type Script = std::rc::Rc<std::cell::RefCell<(Vec<StepChoice>, usize)>>;

/// The real actor, which follows the script. A swap replaces it with a new actor on the same script.
fn scripted(
    script: Script,
    log: Log,
    adapter: std::rc::Rc<std::cell::Cell<Option<Addr<u8>>>>,
) -> impl Actor<u32> {
    actor(move |cx: &mut Cx<u32>, event: Event<u32>| {
        if let Event::Start = event {
            adapter.set(Some(cx.adapter(u32::from).unwrap()));
        } else if let Event::Down(_) = event {
            log.note("down");
        } else {
            note_event(&log, &event);
        }
        let choice = {
            let mut script = script.borrow_mut();
            if matches!(event, Event::Start) {
                return receive();
            }
            let choice = script.0[script.1 % script.0.len()];
            script.1 += 1;
            choice
        };
        match choice {
            StepChoice::Receive => receive(),
            StepChoice::If(remainder) => receive_if(move |n| n % 3 == remainder),
            StepChoice::Within(span) => receive_within(millis(span)),
            StepChoice::Sleep(span) => sleep(millis(span)),
            StepChoice::Suspend => suspend(),
            StepChoice::Swap => swap_actor(scripted(script.clone(), log.clone(), adapter.clone())),
        }
    })
}

fn operations() -> impl Strategy<Value = Vec<QueueOp>> {
    let operation = prop_oneof![
        4 => (0..100_u32).prop_map(QueueOp::Send),
        2 => (0..100_u32).prop_map(QueueOp::SendToAdapter),
        2 => Just(QueueOp::Resume),
        1 => Just(QueueOp::Down),
        3 => (1..6_u64).prop_map(|n| QueueOp::Pass(1_000 * n)),
    ];
    prop::collection::vec(operation, 1..40)
}

fn choices() -> impl Strategy<Value = Vec<StepChoice>> {
    let choice = prop_oneof![
        3 => Just(StepChoice::Receive),
        4 => (0..3_u32).prop_map(StepChoice::If),
        2 => (1..8_u64).prop_map(|n| StepChoice::Within(1_000 * n + 3)),
        2 => (1..8_u64).prop_map(|n| StepChoice::Sleep(1_000 * n + 3)),
        1 => Just(StepChoice::Suspend),
        2 => Just(StepChoice::Swap),
    ];
    prop::collection::vec(choice, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// `every` is the number of operations between two runs of the actor; zero counts as one.
    #[test]
    fn mailbox_agrees_with_queue_model(operations in operations(), choices in choices(), every in 0..4_usize) {
        let mut events = virtual_loop();
        let log = Log::default();
        let script = std::rc::Rc::new(std::cell::RefCell::new((choices.clone(), 0)));
        let adapter = std::rc::Rc::new(std::cell::Cell::new(None));
        let actor = events.spawn_actor(scripted(script, log.clone(), adapter.clone()));
        let dead = events.spawn(|_: &mut Cx<()>, _| stop());
        settle(&mut events);
        let adapter: Addr<u8> = adapter.get().expect("the actor has started");
        let mut model = Model {
            queue: VecDeque::new(),
            state: StepChoice::Receive,
            deadline: None,
            now: 0,
            choices,
            steps: 0,
            log: Vec::new(),
        };
        for (n, operation) in operations.into_iter().enumerate() {
            match operation {
                QueueOp::Send(n) => {
                    events.send(actor, n).expect("the mailbox has room");
                    model.queue.push_back(n.to_string());
                }
                QueueOp::SendToAdapter(n) => {
                    events.send(adapter, n as u8).expect("the mailbox has room");
                    model.queue.push_back(n.to_string());
                }
                QueueOp::Resume => {
                    events.local_actors().signals().resume(actor.id().key(), EncodedValue::unit());
                    model.queue.push_back("resumed".into());
                }
                QueueOp::Down => {
                    // A `Down` of another actor, delivered as a node delivers it.
                    let id = MonitorId { origin: events.node_id(), number: 1_000_000 + n as u64 };
                    events.local_actors().signals().expect_down(actor.id().key(), id, dead.id());
                    events.local_actors().signals().down(actor.id().key(), id, dead.id(), ExitReason::Terminated);
                    model.queue.push_back("down".into());
                }
                QueueOp::Pass(span) => {
                    settle(&mut events);
                    model.run();
                    // The model's timers fire one by one, like the timers of a loop.
                    let end = model.now + span;
                    while let Some(deadline) = model.deadline.filter(|deadline| *deadline <= end) {
                        model.now = deadline.max(model.now);
                        model.run();
                    }
                    model.now = end;
                    pass(&mut events, millis(span));
                }
            }
            if n % every.max(1) == 0 {
                settle(&mut events);
                model.run();
            }
        }
        settle(&mut events);
        model.run();
        prop_assert_eq!(log.take(), model.log.join(" "));
    }
}
