//! Random programs against a model so simple that it is right.

use std::collections::VecDeque;

use antiphon_sched::*;
use proptest::prelude::*;

use crate::common::*;

#[derive(Clone, Debug)]
enum Act {
    Send(u32),
    /// Sends by an ear of the actor.
    SendEar(u32),
    Resume,
    Notice,
    Pass(u64),
}

/// What the actor answers to the n-th event.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    Receive,
    /// Messages whose remainder by three is this.
    If(u32),
    Within(u64),
    Sleep(u64),
    Suspend,
    Swap,
}

/// The model: one queue, one state of waiting, one deadline.
struct Model {
    queue: VecDeque<String>,
    waits: Answer,
    until: Option<u64>,
    now: u64,
    answers: Vec<Answer>,
    told: usize,
    log: Vec<String>,
}

impl Model {
    fn next(&mut self) -> Option<String> {
        let message = |item: &String| item.parse::<u32>().ok();
        let at = match self.waits {
            Answer::Receive | Answer::Swap | Answer::Within(_) => (!self.queue.is_empty()).then_some(0),
            Answer::If(rest) => {
                self.queue.iter().position(|item| message(item).is_none_or(|n| n % 3 == rest))
            }
            Answer::Sleep(_) | Answer::Suspend => self.queue.iter().position(|item| item == "resumed"),
        };
        if let Some(at) = at {
            return self.queue.remove(at);
        }
        // A timer is up to a millisecond late, and so is what follows from it: the spans of this test are
        // chosen so that the sum of that never reaches the next act.
        self.until.filter(|until| *until <= self.now).map(|_| "timeout".into())
    }

    fn run(&mut self) {
        while let Some(event) = self.next() {
            self.log.push(event);
            self.waits = self.answers[self.told % self.answers.len()];
            self.told += 1;
            self.until = match self.waits {
                Answer::Within(span) | Answer::Sleep(span) => Some(self.now + span),
                _ => None,
            };
        }
    }
}

type Script = std::rc::Rc<std::cell::RefCell<(Vec<Answer>, usize)>>;

/// The real actor, which swaps itself when the script says so.
fn scripted(
    script: Script,
    log: Log,
    adapter: std::rc::Rc<std::cell::Cell<Option<Addr<u8>>>>,
) -> impl Actor<u32> {
    actor(move |cx: &mut Cx<u32>, event: Event<u32>| {
        if let Event::Start = event {
            adapter.set(Some(cx.adapter(u32::from)));
        } else if let Event::Down(_) = event {
            log.note("down");
        } else {
            tell(&log, &event);
        }
        let answer = {
            let mut script = script.borrow_mut();
            if matches!(event, Event::Start) {
                return receive();
            }
            let answer = script.0[script.1 % script.0.len()];
            script.1 += 1;
            answer
        };
        match answer {
            Answer::Receive => receive(),
            Answer::If(rest) => receive_if(move |n| n % 3 == rest),
            Answer::Within(span) => receive_within(millis(span)),
            Answer::Sleep(span) => sleep(millis(span)),
            Answer::Suspend => suspend(),
            Answer::Swap => swap_actor(scripted(script.clone(), log.clone(), adapter.clone())),
        }
    })
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (0..100_u32).prop_map(Act::Send),
        2 => (0..100_u32).prop_map(Act::SendEar),
        2 => Just(Act::Resume),
        1 => Just(Act::Notice),
        3 => (1..6_u64).prop_map(|n| Act::Pass(1_000 * n)),
    ];
    prop::collection::vec(act, 1..40)
}

fn answers() -> impl Strategy<Value = Vec<Answer>> {
    let answer = prop_oneof![
        3 => Just(Answer::Receive),
        4 => (0..3_u32).prop_map(Answer::If),
        2 => (1..8_u64).prop_map(|n| Answer::Within(1_000 * n + 3)),
        2 => (1..8_u64).prop_map(|n| Answer::Sleep(1_000 * n + 3)),
        1 => Just(Answer::Suspend),
        2 => Just(Answer::Swap),
    ];
    prop::collection::vec(answer, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_mailbox_agrees_with_a_queue_and_a_state(acts in acts(), answers in answers(), rest in 0..4_usize) {
        let mut events = virtual_loop();
        let log = Log::default();
        let script = std::rc::Rc::new(std::cell::RefCell::new((answers.clone(), 0)));
        let adapter = std::rc::Rc::new(std::cell::Cell::new(None));
        let actor = events.spawn_actor(scripted(script, log.clone(), adapter.clone()));
        let dead = events.spawn(|_: &mut Cx<()>, _| stop());
        settle(&mut events);
        let adapter: Addr<u8> = adapter.get().expect("it has started");
        let mut model = Model {
            queue: VecDeque::new(), waits: Answer::Receive, until: None, now: 0, answers, told: 0, log: Vec::new(),
        };
        for (n, act) in acts.into_iter().enumerate() {
            match act {
                Act::Send(n) => {
                    events.send(actor, n).expect("room");
                    model.queue.push_back(n.to_string());
                }
                Act::SendEar(n) => {
                    events.send(adapter, n as u8).expect("room");
                    model.queue.push_back(n.to_string());
                }
                Act::Resume => {
                    events.loop_ref().resume_here(actor.id().key(), Value::new(()));
                    model.queue.push_back("resumed".into());
                }
                Act::Notice => {
                    // A Down of somebody else, by the way in that a node uses.
                    let id = MonitorId { origin: events.node_id(), number: 1_000_000 + n as u64 };
                    events.loop_ref().expect_down(actor.id().key(), id, dead.id());
                    events.loop_ref().down(actor.id().key(), id, dead.id(), ExitReason::Terminated);
                    model.queue.push_back("down".into());
                }
                Act::Pass(span) => {
                    settle(&mut events);
                    model.run();
                    // The model's timers fire one by one, as a loop's do.
                    let end = model.now + span;
                    while let Some(until) = model.until.filter(|until| *until <= end) {
                        model.now = until.max(model.now);
                        model.run();
                    }
                    model.now = end;
                    pass(&mut events, millis(span));
                }
            }
            // Between acts the actor runs or not, as the case may be: both orders must agree.
            if rest == 0 || n % rest.max(1) == 0 {
                settle(&mut events);
                model.run();
            }
        }
        settle(&mut events);
        model.run();
        prop_assert_eq!(log.take(), model.log.join(" "));
    }
}
