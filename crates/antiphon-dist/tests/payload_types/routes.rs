//! The paths on which a value travels between the actors of two nodes.

use std::any::type_name;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use antiphon_dist::{CallError, Channel, DeliverError, NetCx, Rci, SubscribeError};
use antiphon_sched::{
    Actor, Addr, AskError, Cx, Event, ExitReason, PayloadError, ReplyTo, SendError, Step, Undelivered, Value,
    ValueError, Wire, exit, receive, stop,
};

use crate::carried::{self, Carried, Decoders};
use crate::common::{Net, PATIENCE, TestNode, recv, report};

/// One way from an actor to another. Except for `Local` and `Channel`, the sender is an actor of the node `here`, and the
/// receiver one of the node `there`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// To an actor of the same node.
    Local,
    Send,
    Deliver,
    /// As a part of a request; the actor `there` replies with the value.
    Ask,
    /// As the reply of an actor `there`.
    Reply,
    /// As the exit value of an actor `there`, which an actor `here` monitors.
    Exit,
    Throw,
    Resume,
    /// As the argument of an RCI of the node `there`.
    Rci,
    /// To a channel `there`, which sends it to a subscriber `here`.
    Publish,
    /// From the node `there` through its channel to a subscriber `here`.
    Channel,
}

impl Path {
    pub(crate) const ALL: [Self; 11] = [
        Self::Local,
        Self::Send,
        Self::Deliver,
        Self::Ask,
        Self::Reply,
        Self::Exit,
        Self::Throw,
        Self::Resume,
        Self::Rci,
        Self::Publish,
        Self::Channel,
    ];
}

/// What became of a value.
#[derive(PartialEq)]
pub(crate) enum Outcome<T> {
    Arrived(T),
    /// The sender, or the reader of an exit value, got this error.
    Refused(PayloadError),
    /// One of the nodes counted a dead letter.
    DeadLetter(PayloadError),
    Other(String),
}

impl<T: Debug> Outcome<T> {
    /// The outcome as a short text.
    pub(crate) fn summary(&self) -> String {
        let text = match self {
            Self::Arrived(value) => format!("arrived as {value:?}"),
            Self::Refused(reason) => format!("refused: {reason}"),
            Self::DeadLetter(reason) => format!("dead letter: {reason}"),
            Self::Other(text) => text.clone(),
        };
        shortened(&text)
    }
}

/// The first characters of a text.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(300).collect()
}

impl<T> Outcome<T> {
    fn undelivered(reason: Undelivered) -> Self {
        match reason {
            Undelivered::Payload(reason) => Self::Refused(reason),
            other => Self::Other(other.to_string()),
        }
    }
}

impl<T: Wire> Outcome<T> {
    fn of_value(value: Value) -> Self {
        match value.get::<T>() {
            Ok(value) => Self::Arrived(value),
            Err(ValueError::NotSent(reason)) => Self::Refused(reason),
            Err(ValueError::Decode(reason)) => Self::Refused(PayloadError::Decode(reason)),
            Err(other) => Self::Other(other.to_string()),
        }
    }
}

/// The types of the tables.
pub(crate) trait Payload: Wire + Clone + PartialEq + Debug + Send {}

impl<T: Wire + Clone + PartialEq + Debug + Send> Payload for T {}

type OnDeadLetter = Arc<Mutex<Box<dyn Fn(PayloadError) + Send>>>;

/// Two connected nodes.
pub(crate) struct Nodes {
    there: TestNode,
    here: TestNode,
    on_dead_letter: OnDeadLetter,
}

impl Nodes {
    pub(crate) fn start() -> Self {
        let (there, here) = Net::new().pair();
        let on_dead_letter: OnDeadLetter = Arc::new(Mutex::new(Box::new(drop)));
        for node in [&there, &here] {
            let on_dead_letter = on_dead_letter.clone();
            node.with(move |node| {
                node.on_dead_letter(move |dead_letter| {
                    if let Undelivered::Payload(reason) = &dead_letter.reason {
                        on_dead_letter.lock().expect("no hook panics")(reason.clone());
                    }
                });
            });
        }
        Self { there, here, on_dead_letter }
    }
}

/// Nodes and all paths between them, for values of all types in turn.
pub(crate) struct Table {
    routes: Routes<Carried>,
    names: RefCell<BTreeSet<String>>,
    faults: RefCell<Vec<String>>,
    /// The number of checks.
    count: Cell<usize>,
}

impl Table {
    pub(crate) fn start() -> Self {
        Self {
            routes: Routes::open(Nodes::start()),
            names: RefCell::default(),
            faults: RefCell::default(),
            count: Cell::new(0),
        }
    }

    /// Records a fault; [`Table::finish`] reports all of them.
    pub(crate) fn fault(&self, text: String) {
        self.faults.borrow_mut().push(text);
    }

    /// Fails if there were faults.
    pub(crate) fn finish(self) {
        let (types, checks) = (self.names.borrow().len(), self.count.get());
        println!("{types} types, {checks} values and paths");
        let faults = self.faults.take();
        assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    }

    /// Checks that values arrive unchanged on all paths.
    pub(crate) fn arrive<T: Payload>(&self, values: impl IntoIterator<Item = T>) {
        self.arrive_by(&Path::ALL, values);
    }

    /// Checks that values arrive unchanged on these paths.
    pub(crate) fn arrive_by<T: Payload>(&self, paths: &[Path], values: impl IntoIterator<Item = T>) {
        self.expect::<T>();
        for value in values {
            let value = Carried::new(value);
            for path in paths {
                self.check::<T>(*path, &value, |outcome| *outcome == Outcome::Arrived(value.clone()));
            }
        }
        self.expect_nothing_more::<T>();
    }

    /// Carries a value on one path, and records a fault if the outcome is not as wanted.
    pub(crate) fn check<T: Payload>(
        &self,
        path: Path,
        value: &Carried,
        is_wanted: impl FnOnce(&Outcome<Carried>) -> bool,
    ) {
        self.count.set(self.count.get() + 1);
        let outcome = self.routes.carry(path, value.clone());
        if !is_wanted(&outcome) {
            let name = type_name::<T>();
            let sent = shortened(&format!("{value:?}"));
            self.fault(format!("{name} by {path:?}: {sent}\n    {}", outcome.summary()));
        }
    }

    /// Prepares both nodes for values of a type.
    pub(crate) fn expect<T: Payload>(&self) {
        self.names.borrow_mut().insert(T::name().into_owned());
        let decoders = Decoders::of::<T>();
        for node in [&self.routes.nodes.here, &self.routes.nodes.there] {
            node.with(move |_| carried::expect(decoders));
        }
    }

    /// Records a fault for each outcome that is left.
    pub(crate) fn expect_nothing_more<T>(&self) {
        for outcome in self.routes.outcomes.try_iter() {
            self.fault(format!("{}: one more outcome: {}", type_name::<T>(), outcome.summary()));
        }
    }
}

/// A message of the actor that sends the values.
enum Order<T> {
    Carry(Path, T),
    /// Make this actor exit.
    Dismiss(Addr<()>),
    Receipt(Result<(), DeliverError>),
    Replied(Path, Result<T, AskError>),
    Called(Result<Addr<()>, CallError>),
    Subscribed(Result<(), SubscribeError>),
}

/// A request for a reply: the value of the request, or else the value in the slot.
type Request<T> = (Option<T>, ReplyTo<T>);

/// All paths for the values of one type.
pub(crate) struct Routes<T> {
    nodes: Nodes,
    outcome_sender: Sender<Outcome<T>>,
    outcomes: Receiver<Outcome<T>>,
    driver: Addr<Order<T>>,
    channel: Channel<T>,
    /// What the actor `there` replies to a request without a value.
    slot: Arc<Mutex<Option<T>>>,
}

impl<T: Payload> Routes<T> {
    pub(crate) fn open(nodes: Nodes) -> Self {
        let (outcome_sender, outcomes) = channel();
        let for_dead_letters = outcome_sender.clone();
        *nodes.on_dead_letter.lock().expect("no hook panics") =
            Box::new(move |reason| report(&for_dead_letters, Outcome::DeadLetter(reason)));
        let slot = Arc::new(Mutex::new(None));
        let worker = spawn_worker(&nodes.there, outcome_sender.clone());
        let answerer = spawn_answerer(&nodes.there, slot.clone());
        let listener = nodes.here.spawn(listener(outcome_sender.clone()));
        let at_call = outcome_sender.clone();
        let (channel, rci) = nodes.there.with(move |node| {
            let function = move |value| {
                report(&at_call, Outcome::Arrived(value));
                |_cx: &mut Cx<()>, _| stop()
            };
            let rci = node.rci("payloads", function).expect("the name is free");
            (node.channel("payloads").expect("the name is free"), rci)
        });
        let (ready, subscribed) = std::sync::mpsc::channel();
        let driver =
            Driver { worker, answerer, listener, channel, rci, ready, outcomes: outcome_sender.clone() };
        let driver = nodes.here.handle.spawn_actor(driver).expect("the node runs");
        recv(&subscribed);
        Self { nodes, outcome_sender, outcomes, driver, channel, slot }
    }

    /// Carries a value on one path, and returns what becomes of it.
    pub(crate) fn carry(&self, path: Path, value: T) -> Outcome<T> {
        match path {
            Path::Channel => {
                let (channel, outcomes) = (self.channel, self.outcome_sender.clone());
                self.nodes.there.step(move |cx| {
                    report_refusal(&outcomes, cx.send(channel, value));
                });
            }
            Path::Exit => {
                let mut value = Some(value);
                let (ready, started) = channel();
                let leaver =
                    self.nodes.there.spawn(move |cx: &mut Cx<()>, event| match (event, value.take()) {
                        (Event::Message(()), Some(value)) => exit(value),
                        (_, unused) => {
                            value = unused;
                            expose(cx);
                            report(&ready, ());
                            receive()
                        }
                    });
                recv(&started);
                self.order(Order::Dismiss(Addr::of(leaver.id())));
            }
            Path::Reply => {
                *self.slot.lock().expect("no holder panics") = Some(value.clone());
                self.order(Order::Carry(path, value));
            }
            _ => self.order(Order::Carry(path, value)),
        }
        self.next()
    }

    /// The next outcome.
    fn next(&self) -> Outcome<T> {
        let outcome = self.outcomes.recv_timeout(PATIENCE);
        outcome.unwrap_or_else(|_| Outcome::Other("nothing arrived".to_owned()))
    }

    fn order(&self, order: Order<T>) {
        self.nodes.here.handle.send(self.driver, order).expect("the node runs");
    }
}

fn report_refusal<T, M>(to: &Sender<Outcome<T>>, sent: Result<(), SendError<M>>) {
    if let Err(error) = sent {
        report(to, Outcome::undelivered(error.reason()));
    }
}

/// Makes an actor reachable from the other node.
fn expose<M: Wire>(cx: &mut Cx<'_, M>) {
    let me = Addr::<M>::of(cx.id());
    assert!(cx.loop_ref().service().expose(me), "the actor takes such messages");
}

/// An actor that reports its messages, exceptions and resumptions.
fn spawn_worker<T: Payload>(node: &TestNode, outcomes: Sender<Outcome<T>>) -> Addr<T> {
    let (ready, started) = channel();
    let worker = node.spawn(move |cx: &mut Cx<T>, event| {
        match event {
            Event::Start => {
                expose(cx);
                report(&ready, ());
            }
            Event::Message(value) => report(&outcomes, Outcome::Arrived(value)),
            Event::Thrown(thrown) => report(&outcomes, Outcome::of_value(thrown.take())),
            Event::Resumed(value) => report(&outcomes, Outcome::of_value(value)),
            _ => {}
        }
        receive()
    });
    recv(&started);
    Addr::of(worker.id())
}

fn spawn_answerer<T: Payload>(node: &TestNode, slot: Arc<Mutex<Option<T>>>) -> Addr<Request<T>> {
    let (ready, started) = channel();
    let answerer = node.spawn(move |cx: &mut Cx<Request<T>>, event| {
        match event {
            Event::Start => {
                expose(cx);
                report(&ready, ());
            }
            Event::Message((value, reply)) => {
                let value = value.or_else(|| slot.lock().expect("no holder panics").take());
                cx.reply(reply, value.expect("the slot is filled"));
            }
            _ => {}
        }
        receive()
    });
    recv(&started);
    Addr::of(answerer.id())
}

fn listener<T: Payload>(outcomes: Sender<Outcome<T>>) -> impl FnMut(&mut Cx<'_, T>, Event<T>) -> Step<T> {
    move |_cx, event| {
        if let Event::Message(value) = event {
            report(&outcomes, Outcome::Arrived(value));
        }
        receive()
    }
}

/// The actor `here` that sends the values, and reports every error.
struct Driver<T> {
    worker: Addr<T>,
    answerer: Addr<Request<T>>,
    listener: Addr<T>,
    channel: Channel<T>,
    rci: Rci<T, ()>,
    ready: Sender<()>,
    outcomes: Sender<Outcome<T>>,
}

impl<T: Payload> Actor<Order<T>> for Driver<T> {
    fn step(&mut self, cx: &mut Cx<'_, Order<T>>, event: Event<Order<T>>) -> Step<Order<T>> {
        match event {
            Event::Start => cx.subscribe_within(self.channel, self.listener, PATIENCE, Order::Subscribed),
            Event::Message(order) => self.carry_out(cx, order),
            Event::Down(down) => self.report(match down.reason {
                ExitReason::Done(value) => Outcome::of_value(value),
                other => Outcome::Other(other.to_string()),
            }),
            _ => {}
        }
        receive()
    }
}

impl<T: Payload> Driver<T> {
    fn report(&self, outcome: Outcome<T>) {
        report(&self.outcomes, outcome);
    }

    fn carry_out(&self, cx: &mut Cx<'_, Order<T>>, order: Order<T>) {
        match order {
            Order::Carry(path, value) => self.carry(cx, path, value),
            Order::Dismiss(leaver) => {
                cx.monitor(leaver);
                report_refusal(&self.outcomes, cx.send(leaver, ()));
            }
            Order::Receipt(Ok(())) | Order::Called(Ok(_)) => {}
            Order::Receipt(Err(DeliverError::Refused(reason))) => self.report(Outcome::undelivered(reason)),
            Order::Receipt(Err(other)) => self.report(Outcome::Other(other.to_string())),
            Order::Replied(_, Ok(value)) => self.report(Outcome::Arrived(value)),
            Order::Replied(Path::Ask, Err(AskError::Request(reason)))
            | Order::Replied(Path::Reply, Err(AskError::Reply(reason))) => {
                self.report(Outcome::Refused(reason));
            }
            Order::Replied(_, Err(other)) => self.report(Outcome::Other(other.to_string())),
            Order::Called(Err(CallError::Arguments(reason))) => self.report(Outcome::Refused(reason)),
            Order::Called(Err(other)) => self.report(Outcome::Other(other.to_string())),
            Order::Subscribed(Ok(())) => report(&self.ready, ()),
            Order::Subscribed(Err(reason)) => self.report(Outcome::Other(reason.to_string())),
        }
    }

    fn carry(&self, cx: &mut Cx<'_, Order<T>>, path: Path, value: T) {
        let replied = move |reply| Order::Replied(path, reply);
        match path {
            Path::Local => report_refusal(&self.outcomes, cx.send(self.listener, value)),
            Path::Send => report_refusal(&self.outcomes, cx.send(self.worker, value)),
            Path::Deliver => cx.deliver(self.worker, value, PATIENCE, Order::Receipt),
            Path::Ask => cx.ask(self.answerer, PATIENCE, |reply| (Some(value), reply), replied),
            Path::Reply => cx.ask(self.answerer, PATIENCE, |reply| (None, reply), replied),
            Path::Throw => cx.throw(self.worker, value),
            Path::Resume => cx.resume(self.worker, value),
            Path::Rci => cx.call(self.rci, value, PATIENCE, Order::Called),
            Path::Publish => report_refusal(&self.outcomes, cx.send(self.channel, value)),
            Path::Exit | Path::Channel => self.report(Outcome::Other("the test does this".to_owned())),
        }
    }
}
