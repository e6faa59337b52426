//! Flow control per receiving actor, over many seeds: receivers take nothing for minutes, and hold back only their senders.
//!
//! The nodes of the senders find the receivers by an actor that is registered as `front`. Each sender sends numbered messages
//! to each receiver until `send` refuses one, and continues at `Event::Writable`. Each receiver checks that every stream
//! arrives without gap and without repetition. An asker on another node asks idle actors meanwhile.

mod violations;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use antiphon_dist::{Config, Limits, LocateError, NetCx};
use antiphon_sched::{
    ActorId, Addr, AskError, Cx, Event, Loop, LoopConfig, ReplyTo, SendError, Time, millis, receive, secs,
    sleep, suspend,
};
use antiphon_sim::{Faults, Replay, SimNode, World, assert_covered, seeds};
use serde::{Deserialize, Serialize};
use violations::Violations;

#[derive(Serialize, Deserialize)]
enum Item {
    /// The port of the sender's node, the number of the message in its stream, and filler.
    Number(u16, u64, String),
    Ask(ReplyTo<u64>),
}
antiphon_sched::wire!(Item, "test.flow.item/1");

#[derive(Serialize, Deserialize)]
enum FrontMessage {
    /// Requests the addresses of receivers, from this one on.
    Page(usize, ReplyTo<Vec<Addr<Item>>>),
}
antiphon_sched::wire!(FrontMessage, "test.flow.front/1");

#[derive(Serialize, Deserialize)]
enum IdleMessage {
    Echo(u64, ReplyTo<u64>),
}
antiphon_sched::wire!(IdleMessage, "test.flow.idle/1");

/// How a receiver spends its time.
#[derive(Clone, Copy)]
enum Pace {
    /// It sleeps for this time, and then handles all messages.
    StuckFor(Duration),
    /// It handles nothing until it is resumed.
    Suspended,
    /// It sleeps for this time after each message.
    Slow(Duration),
}

/// What the actors of a world do.
#[derive(Clone, Copy)]
struct Plan {
    mailbox_max: usize,
    receivers: usize,
    pace: Pace,
    /// The number of messages in each stream.
    messages: u64,
    /// The length of the filler.
    filler: usize,
    /// When the first sender resumes all receivers.
    resume_after: Option<Duration>,
    /// When the first sender terminates all receivers.
    terminate_after: Option<Duration>,
    /// Nodes with a sender. The last node has the receivers.
    senders: &'static [u16],
    nodes: u16,
}

/// One hundred receivers that take nothing for three minutes.
const HUNDRED: Plan = Plan {
    mailbox_max: 8,
    receivers: 100,
    pace: Pace::StuckFor(STUCK_FOR),
    messages: 40,
    filler: 1024,
    resume_after: None,
    terminate_after: None,
    senders: &[1],
    nodes: 2,
};
const STUCK_FOR: Duration = secs(180);
const IDLE_ACTORS: usize = 4;
const ASK_EVERY: Duration = millis(500);
/// The longest time that an ask of an idle actor may take while its nodes are connected.
const ASK_WITHIN: Duration = secs(2);
/// The time between two checks of the bounds and of the connections. The core of a node checks itself more often.
const SLICE: Duration = millis(100);
/// The bytes that may wait in the queue to one peer.
const BUDGET: u64 = 256 * 1024;
/// The bytes of one peer that wait for full mailboxes, at most: what each receiver gets before the pause reaches its senders,
/// which is less than one window. (The limit of the node is much higher: 128 MiB.)
const BACKLOG_BYTES_MAX: u64 = 4 * BUDGET;
/// The most addresses in one page.
const PAGE: usize = 250;

/// The observations of all actors.
#[derive(Default)]
struct Observed {
    /// Messages that `send` accepted, by the port of the sender and the receiver.
    accepted: BTreeMap<(u16, ActorId), u64>,
    /// Messages that were handled.
    handled: BTreeMap<(u16, ActorId), u64>,
    /// Streams whose sender waits for `Event::Writable`.
    waiting: BTreeSet<(u16, ActorId)>,
    refused: u64,
    /// Asks of idle actors that completed, and all that began.
    answered: u64,
    asked: u64,
    /// Asks of receivers that completed, and all that began.
    receivers_answered: u64,
    receivers_asked: u64,
    /// When a sender resumed or terminated the receivers, and the slices without a connection until then.
    signalled: Option<(Time, u32)>,
    /// Receivers that were resumed, or that ended.
    reached: u64,
    /// Slices in which the nodes were not connected all the time.
    disconnected: u32,
    /// Set when the senders are to send no more messages.
    stopped: bool,
    /// The most bytes that waited for full mailboxes.
    longest_backlog: u64,
    violations: Violations,
}

type Shared = Rc<RefCell<Observed>>;

impl Observed {
    /// Checks that something that began at `since` did not take longer than `ASK_WITHIN` while the nodes were connected.
    fn check_span(&mut self, what: &str, (since, disconnected): (Time, u32), now: Time) {
        let outage = SLICE * (self.disconnected - disconnected);
        let (span, most) = (now.since(since), ASK_WITHIN + outage + SLICE);
        self.violations.check(span <= most, || {
            format!("{what} at {since:?} took {span:?}, of which {outage:?} offline")
        });
    }

    /// Messages that were handled, of one sender.
    fn handled_of(&self, port: u16) -> u64 {
        self.handled.iter().filter(|((from, _), _)| *from == port).map(|(_, count)| *count).sum()
    }
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn receiver(sched: &mut Loop, pace: Pace, observed: &Shared) -> Addr<Item> {
    let observed = observed.clone();
    sched.spawn(move |cx: &mut Cx<Item>, event| {
        match event {
            Event::Start => match pace {
                Pace::StuckFor(span) => return sleep(span),
                Pace::Suspended => return suspend(),
                Pace::Slow(_) => {}
            },
            Event::Message(Item::Number(from, number, _)) => {
                let observed = &mut *observed.borrow_mut();
                let handled = observed.handled.entry((from, cx.id())).or_default();
                let last = std::mem::replace(handled, number);
                observed
                    .violations
                    .check(number == last + 1, || format!("{number} of node {from} followed {last}"));
                if let Pace::Slow(span) = pace {
                    return sleep(span);
                }
            }
            Event::Message(Item::Ask(reply)) => cx.reply(reply, 1),
            Event::Resumed(_) | Event::Terminate => {
                let observed = &mut *observed.borrow_mut();
                observed.reached += 1;
                match observed.signalled {
                    Some(signalled) => observed.check_span("a signal", signalled, cx.now()),
                    None => observed.violations.check(false, || "a signal arrived that was not sent".into()),
                }
            }
            _ => {}
        }
        receive()
    })
}

fn front_and_idle(sched: &mut Loop, receivers: Vec<Addr<Item>>) {
    sched.spawn(move |cx: &mut Cx<FrontMessage>, event| {
        match event {
            Event::Start => cx.register("front")?,
            Event::Message(FrontMessage::Page(first, reply)) => {
                let page = receivers.iter().skip(first).take(PAGE).copied().collect();
                cx.reply(reply, page);
            }
            _ => {}
        }
        receive()
    });
    for number in 0..IDLE_ACTORS {
        sched.spawn(move |cx: &mut Cx<IdleMessage>, event| {
            match event {
                Event::Start => cx.register(&format!("idle {number}"))?,
                Event::Message(IdleMessage::Echo(value, reply)) => cx.reply(reply, value),
                _ => {}
            }
            receive()
        });
    }
}

enum SenderEvent {
    Found(Result<Addr<FrontMessage>, LocateError>),
    Page(Result<Vec<Addr<Item>>, AskError>),
    Signal,
    Answered(Result<u64, AskError>),
}

/// The streams of one node, one to each receiver.
struct Sender {
    port: u16,
    plan: Plan,
    receivers: BTreeMap<ActorId, Addr<Item>>,
    observed: Shared,
}

impl Sender {
    /// Sends to one receiver until its stream ends or a message is refused.
    fn send(&self, cx: &mut Cx<SenderEvent>, to: Addr<Item>) {
        let stream = (self.port, to.id());
        loop {
            let mut observed = self.observed.borrow_mut();
            let number = observed.accepted.get(&stream).copied().unwrap_or(0) + 1;
            if number > self.plan.messages || observed.stopped {
                return;
            }
            drop(observed);
            let sent = cx.send(to, Item::Number(self.port, number, "x".repeat(self.plan.filler)));
            observed = self.observed.borrow_mut();
            match sent {
                Ok(()) => {
                    observed.accepted.insert(stream, number);
                }
                Err(SendError::Full(_) | SendError::Busy(_)) => {
                    observed.refused += 1;
                    observed.waiting.insert(stream);
                    return;
                }
                Err(SendError::NoActor(_)) if self.plan.terminate_after.is_some() => return,
                Err(error) => return observed.violations.check(false, || format!("a send failed: {error}")),
            }
        }
    }

    /// Asks a receiver, whose mailbox is full or will be.
    fn ask(&self, cx: &mut Cx<SenderEvent>, to: Addr<Item>) {
        self.observed.borrow_mut().receivers_asked += 1;
        cx.ask(to, secs(600), Item::Ask, SenderEvent::Answered);
    }

    fn add_receivers(&mut self, cx: &mut Cx<SenderEvent>, page: Vec<Addr<Item>>) {
        for to in page {
            self.receivers.insert(to.id(), to);
            if self.plan.terminate_after.is_some() {
                self.ask(cx, to);
            }
            self.send(cx, to);
            if self.plan.terminate_after.is_some() {
                self.ask(cx, to);
            }
        }
    }

    fn on_writable(&self, cx: &mut Cx<SenderEvent>, target: ActorId) {
        let mut observed = self.observed.borrow_mut();
        let was_waiting = observed.waiting.remove(&(self.port, target));
        observed.violations.check(was_waiting, || format!("nothing waited for {target}"));
        drop(observed);
        if let Some(to) = self.receivers.get(&target) {
            self.send(cx, *to);
        }
    }

    /// Resumes or terminates all receivers.
    fn signal(&self, cx: &mut Cx<SenderEvent>) {
        let mut observed = self.observed.borrow_mut();
        observed.signalled = Some((cx.now(), observed.disconnected));
        drop(observed);
        for to in self.receivers.values() {
            if self.plan.resume_after.is_some() {
                cx.resume(*to, 7_u64);
            } else {
                cx.terminate(*to);
            }
        }
    }
}

fn sender(sched: &mut Loop, port: u16, plan: Plan, observed: &Shared) {
    let mut sender = Sender { port, plan, receivers: BTreeMap::new(), observed: observed.clone() };
    let mut front = None;
    sched.spawn(move |cx: &mut Cx<SenderEvent>, event| {
        match event {
            Event::Start => {
                cx.locate("front", secs(600), SenderEvent::Found);
                if let Some(span) = plan.resume_after.or(plan.terminate_after).filter(|_| port == 1) {
                    cx.after(span, SenderEvent::Signal).expect("the limit is not reached");
                }
            }
            Event::Message(SenderEvent::Found(found)) => {
                front = Some(found?);
                next_page(cx, front, 0);
            }
            Event::Message(SenderEvent::Page(page)) => {
                let page = page?;
                if !page.is_empty() {
                    sender.add_receivers(cx, page);
                    next_page(cx, front, sender.receivers.len());
                }
            }
            Event::Message(SenderEvent::Signal) => sender.signal(cx),
            Event::Message(SenderEvent::Answered(answer)) => {
                let observed = &mut *sender.observed.borrow_mut();
                observed.receivers_answered += 1;
                match (answer, observed.signalled) {
                    (Err(AskError::Busy | AskError::Full), None) => {}
                    (Err(_), Some(signalled)) => {
                        observed.check_span("an ask of an actor that ended", signalled, cx.now());
                    }
                    (answer, _) => observed
                        .violations
                        .check(false, || format!("a suspended actor answered an ask: {answer:?}")),
                }
            }
            Event::Writable { target } => sender.on_writable(cx, target),
            _ => {}
        }
        receive()
    });
}

fn next_page(cx: &mut Cx<SenderEvent>, front: Option<Addr<FrontMessage>>, first: usize) {
    if let Some(front) = front {
        cx.ask(front, secs(600), move |reply| FrontMessage::Page(first, reply), SenderEvent::Page);
    }
}

enum AskerEvent {
    Found(Result<Addr<IdleMessage>, LocateError>),
    Tick,
    Answered { began: (Time, u32), value: u64, answer: Result<u64, AskError> },
}

/// Asks an idle actor at regular intervals, one after the other.
fn asker(sched: &mut Loop, observed: &Shared) {
    let observed = observed.clone();
    let mut idle = Vec::new();
    let mut count = 0_u64;
    sched.spawn(move |cx: &mut Cx<AskerEvent>, event| {
        match event {
            Event::Start => {
                for number in 0..IDLE_ACTORS {
                    cx.locate(&format!("idle {number}"), secs(600), AskerEvent::Found);
                }
                cx.every(ASK_EVERY, || AskerEvent::Tick).expect("the limit is not reached");
            }
            Event::Message(AskerEvent::Found(found)) => idle.push(found?),
            Event::Message(AskerEvent::Tick) if idle.len() == IDLE_ACTORS => {
                count += 1;
                let value = count;
                let to = idle[usize::try_from(value).unwrap_or(0) % IDLE_ACTORS];
                let mut observed = observed.borrow_mut();
                observed.asked += 1;
                let began = (cx.now(), observed.disconnected);
                drop(observed);
                cx.ask(
                    to,
                    secs(60),
                    move |reply| IdleMessage::Echo(value, reply),
                    move |answer| AskerEvent::Answered { began, value, answer },
                );
            }
            Event::Message(AskerEvent::Answered { began, value, answer }) => {
                let observed = &mut *observed.borrow_mut();
                observed.answered += 1;
                observed.violations.check(answer == Ok(value), || format!("ask {value}: {answer:?}"));
                observed.check_span("an ask", began, cx.now());
            }
            _ => {}
        }
        receive()
    });
}

/// A world in which the last node has the receivers and the idle actors, and the first node asks the idle ones.
fn world(seed: u64, faults: Faults, plan: Plan) -> (World<SimNode>, Shared) {
    let observed = Shared::default();
    let limits = Limits {
        message_bytes_max: 64 * 1024,
        reassembly_bytes_max: 256 * 1024,
        window_bytes: 64 * 1024,
        queue_bytes_cap: BUDGET,
        queue_bytes_high: BUDGET / 8,
        queue_bytes_low: BUDGET / 16,
        ..Limits::default()
    };
    let scheduler = LoopConfig { mailbox_max: plan.mailbox_max, ..LoopConfig::default() };
    let receivers_config =
        Config { secret: Some("key".into()), limits, scheduler: scheduler.clone(), ..Config::default() };
    // Only the receivers have small mailboxes.
    let config = Config { scheduler: LoopConfig::default(), ..receivers_config.clone() };
    let mut world = World::new(seed, faults);
    for port in 1..=plan.nodes {
        let config = if port == plan.nodes { &receivers_config } else { &config }.clone();
        let observed = observed.clone();
        world.add(at(port), move |seed| {
            let mut node = SimNode::new(&config, at(port), seed, |sched| {
                if port == plan.nodes {
                    let receivers =
                        (0..plan.receivers).map(|_| receiver(sched, plan.pace, &observed)).collect();
                    front_and_idle(sched, receivers);
                }
                if plan.senders.contains(&port) {
                    sender(sched, port, plan, &observed);
                }
                if port == 1 {
                    asker(sched, &observed);
                }
            });
            node.set_neighbours((1..=plan.nodes).map(at).collect());
            node
        });
    }
    (world, observed)
}

/// Lets the world run, and checks bounds and sessions in each slice.
fn run(world: &mut World<SimNode>, observed: &Shared, plan: Plan, span: Duration) {
    let end = world.now() + span;
    while world.now() < end {
        let cuts = world.fault_counts().cuts;
        world.run_for(SLICE);
        let mut is_connected = world.fault_counts().cuts == cuts;
        for port in 1..=plan.nodes {
            let Some(node) = world.machine(at(port)) else { continue };
            let counts = node.counts();
            let most = u64::from(plan.nodes - 1) * BACKLOG_BYTES_MAX.max(plan.receivers as u64 * 1024);
            assert!(counts.backlog_bytes <= most, "{} bytes wait for mailboxes", counts.backlog_bytes);
            assert_eq!(counts.misbehaved, 0, "no peer broke the protocol");
            is_connected &= counts.connections > 0;
            let mut observed = observed.borrow_mut();
            observed.longest_backlog = observed.longest_backlog.max(counts.backlog_bytes);
        }
        observed.borrow_mut().disconnected += u32::from(!is_connected);
    }
}

/// Checks that all asks have completed, and that each accepted message was handled or is a dead letter.
fn assert_settled(world: &mut World<SimNode>, observed: &Shared, plan: Plan) {
    let mut dead_letters = 0;
    for port in 1..=plan.nodes {
        let node = world.machine(at(port)).expect("it is running");
        dead_letters += node.stats().dead_letters;
        let counts = node.counts();
        assert_eq!((counts.backlog_bytes, counts.replies), (0, 0), "nothing waits at node {port}");
        assert_eq!(counts.peers, usize::from(plan.nodes - 1), "no session of node {port} has ended");
    }
    let observed = observed.borrow();
    observed.violations.assert_none();
    assert_eq!(observed.waiting, BTreeSet::new(), "each refused sender received `Writable`");
    assert_eq!(observed.receivers_answered, observed.receivers_asked, "each ask of a receiver completes");
    assert!(observed.asked - observed.answered <= 1, "each ask of an idle actor completes");
    let (accepted, handled): (u64, u64) = (observed.accepted.values().sum(), observed.handled.values().sum());
    if plan.terminate_after.is_some() {
        // Asks that waited at the receivers are dead letters too.
        let lost = accepted - handled;
        let most = lost + observed.receivers_asked;
        assert!(
            (lost..=most).contains(&dead_letters),
            "{lost} of {accepted} lost, {dead_letters} dead letters"
        );
    } else {
        assert_eq!(observed.handled, observed.accepted, "each accepted message was handled");
        assert_eq!(dead_letters, 0);
    }
}

/// Checks that all streams were sent to their end.
fn assert_all_sent(observed: &Shared, plan: Plan) {
    let observed = observed.borrow();
    assert_eq!(observed.accepted.len(), plan.receivers * plan.senders.len());
    let ended = observed.accepted.values().filter(|count| **count == plan.messages).count();
    assert_eq!(ended, observed.accepted.len(), "each stream was sent to its end");
}

fn cuts(every: Duration) -> Faults {
    Faults {
        cut_every: every,
        dial_fails_once_in: 10,
        piece_bytes_max: 4096,
        jitter: millis(1),
        ..Faults::default()
    }
}

/// Runs a plan without faults at its end. Returns the refusals, the cuts, and the bytes of the longest backlog.
fn run_to_end(seed: u64, faults: Faults, plan: Plan, span: Duration) -> (u64, u64, u64) {
    let (mut world, observed) = world(seed, faults, plan);
    run(&mut world, &observed, plan, span);
    world.set_faults(Faults::default());
    run(&mut world, &observed, plan, secs(30));
    assert_settled(&mut world, &observed, plan);
    if plan.terminate_after.is_none() {
        assert_all_sent(&observed, plan);
    }
    if plan.terminate_after.or(plan.resume_after).is_some() {
        assert_eq!(observed.borrow().reached, plan.receivers as u64, "each signal arrived once");
    }
    assert!(observed.borrow().asked > 100, "idle actors were asked all the time");
    let observed = observed.borrow();
    (observed.refused, world.fault_counts().cuts, observed.longest_backlog)
}

#[test]
fn hundred_stuck_actors_delay_no_other_asks() {
    let mut refused = 0;
    for seed in seeds(100) {
        let _replay = Replay::new("hundred_stuck_actors_delay_no_other_asks", seed);
        refused += run_to_end(seed, Faults::default(), HUNDRED, STUCK_FOR).0;
    }
    assert_covered(refused > 100, &format!("only {refused} messages were refused"));
}

#[test]
fn hundred_stuck_actors_survive_cuts() {
    let (mut refused, mut cuts_made) = (0, 0);
    for seed in seeds(100) {
        let _replay = Replay::new("hundred_stuck_actors_survive_cuts", seed);
        let result = run_to_end(seed, cuts(secs(5)), HUNDRED, STUCK_FOR + secs(5));
        (refused, cuts_made) = (refused + result.0, cuts_made + result.1);
    }
    assert_covered(refused > 100, &format!("only {refused} messages were refused"));
    assert_covered(cuts_made > 10, &format!("only {cuts_made} connections were cut"));
}

#[test]
fn five_thousand_stuck_actors_delay_no_other_asks() {
    let plan = Plan { mailbox_max: 4, receivers: 5_000, messages: 12, filler: 40, ..HUNDRED };
    let mut longest_backlog = 0;
    // A world takes seconds, so more seeds than these are left out.
    for seed in seeds(1).take(20) {
        let _replay = Replay::new("five_thousand_stuck_actors_delay_no_other_asks", seed);
        // Every other seed with cuts.
        let faults = if seed % 2 == 0 { Faults::default() } else { cuts(secs(10)) };
        longest_backlog = longest_backlog.max(run_to_end(seed, faults, plan, STUCK_FOR).2);
    }
    assert_covered(longest_backlog > 1 << 20, &format!("only {longest_backlog} bytes waited for mailboxes"));
}

#[test]
fn suspended_full_actor_is_resumed_remotely() {
    let plan =
        Plan { receivers: 3, pace: Pace::Suspended, messages: 500, resume_after: Some(secs(70)), ..HUNDRED };
    let (mut refused, mut cuts_made) = (0, 0);
    for seed in seeds(100) {
        let _replay = Replay::new("suspended_full_actor_is_resumed_remotely", seed);
        let faults = if seed % 2 == 0 { Faults::default() } else { cuts(secs(2)) };
        let result = run_to_end(seed, faults, plan, secs(80));
        (refused, cuts_made) = (refused + result.0, cuts_made + result.1);
    }
    assert_covered(refused > 0, "no message was refused, so no receiver was full");
    assert_covered(cuts_made > 0, "no connection was cut");
}

#[test]
fn terminated_full_actors_leave_only_dead_letters() {
    let plan = Plan {
        receivers: 10,
        pace: Pace::Suspended,
        messages: 200,
        terminate_after: Some(secs(30)),
        ..HUNDRED
    };
    let (mut refused, mut cuts_made) = (0, 0);
    for seed in seeds(100) {
        let _replay = Replay::new("terminated_full_actors_leave_only_dead_letters", seed);
        let faults = if seed % 2 == 0 { Faults::default() } else { cuts(secs(2)) };
        let result = run_to_end(seed, faults, plan, secs(40));
        (refused, cuts_made) = (refused + result.0, cuts_made + result.1);
    }
    assert_covered(refused > 0, "no message was refused, so no receiver was full");
    assert_covered(cuts_made > 0, "no connection was cut");
}

/// Two nodes and an actor of the receiver's own node send to one slow actor. Returns the number of cuts.
fn share_full_actor(seed: u64, faults: Faults, least_share: u64) -> u64 {
    let plan = Plan {
        receivers: 1,
        pace: Pace::Slow(millis(20)),
        messages: u64::MAX,
        senders: &[1, 2, 3],
        nodes: 3,
        ..HUNDRED
    };
    let (mut world, observed) = world(seed, faults, plan);
    run(&mut world, &observed, plan, secs(20));
    for _ in 0..6 {
        let before = [1, 2, 3].map(|port| observed.borrow().handled_of(port));
        run(&mut world, &observed, plan, secs(10));
        let after = [1, 2, 3].map(|port| observed.borrow().handled_of(port));
        let counts: Vec<u64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
        let all: u64 = counts.iter().sum();
        assert!(all >= 400, "the receiver handles a message every 20 ms, not {counts:?} in 10 s");
        let least = counts.iter().min().copied().unwrap_or(0);
        assert!(least * least_share >= all, "a sender makes too little progress: {counts:?} in 10 s");
    }
    world.set_faults(Faults::default());
    observed.borrow_mut().stopped = true;
    run(&mut world, &observed, plan, secs(120));
    assert_settled(&mut world, &observed, plan);
    world.fault_counts().cuts
}

#[test]
fn full_actor_senders_all_make_progress() {
    for seed in seeds(100) {
        let _replay = Replay::new("full_actor_senders_all_make_progress", seed);
        share_full_actor(seed, Faults::default(), 6);
    }
}

#[test]
fn full_actor_senders_make_progress_despite_cuts() {
    let mut cuts_made = 0;
    for seed in seeds(100) {
        let _replay = Replay::new("full_actor_senders_make_progress_despite_cuts", seed);
        cuts_made += share_full_actor(seed, cuts(secs(2)), 20);
    }
    assert_covered(cuts_made > 0, "no connection was cut");
}
