//! Messages and signals between actors in two processes, and in three.

mod common;

use std::process::ExitCode;
use std::sync::mpsc::{Receiver, channel};

use antiphon_dist::{DeliverError, LocateError, Location, NetCx, Node};
use antiphon_sched::{
    Addr, AskError, Cx, Event, PayloadError, ReplyTo, Step, Undelivered, Wire, exit, fail, receive, secs,
    stop, suspend,
};
use common::harness::{self, tests};
use common::process::{self, Process, Role};
use common::{Exit, Net, TestNode, recv, recv_until, report};
use serde::{Deserialize, Serialize};

fn main() -> ExitCode {
    harness::run(
        run_server,
        tests![
            ask_returns_remote_reply,
            reply_dropped_remotely_fails_ask_at_once,
            ask_without_receiver_or_type_fails_at_once,
            deliver_to_ended_or_mistyped_actor_is_refused,
            monitor_receives_each_exit_reason_with_value,
            notify_sends_exit_value_to_remote_actor,
            kill_and_grace_reach_remote_actor,
            terminate_throw_and_resume_reach_remote_actor,
            messages_arrive_in_order_before_the_down,
            remote_actor_monitors_local_actor,
            address_received_is_dialled_at_first_use,
            forwarded_reply_is_sent_by_third_node,
            monitor_of_unknown_node_dials_it,
            replies_arrive_once_and_in_order,
        ],
    )
}

/// A message to the server.
#[derive(Serialize, Deserialize)]
enum Order {
    Echo(String, ReplyTo<String>),
    /// Drop the reply.
    Discard(ReplyTo<String>),
    /// Start a worker, and reply with its address.
    StartWorker(ReplyTo<Addr<Task>>),
    /// Start an actor that sends numbers from 0 up to this one to an address, and exits.
    Count(u64, Addr<Report>),
    /// Forward the request to another server.
    Forward(Addr<Order>, String, ReplyTo<String>),
    /// Locate another server by its name.
    Find(String, ReplyTo<Addr<Order>>),
    /// Monitor this worker, make it fail, and send its exit reason.
    Monitor(Addr<Task>, Addr<Report>),
}
antiphon_sched::wire!(Order, "test.order/1");

/// A message to a worker.
#[derive(Serialize, Deserialize)]
enum Task {
    Stop,
    Exit(String),
    Fail(String),
    Panic(String),
    /// Send a `Down` to this actor at the exit.
    Notify(Addr<Report>),
    /// Wait for a resume, then send its value.
    Suspend(Addr<Report>),
    /// Send the next exception, and the termination, to this actor.
    Report(Addr<Report>),
}
antiphon_sched::wire!(Task, "test.task/1");

/// A message that the test receives.
#[derive(Serialize, Deserialize, Debug, PartialEq)]
enum Report {
    Number(u64),
    Text(String),
}
antiphon_sched::wire!(Report, "test.heard/1");

fn serve(name: &str, cx: &mut Cx<'_, Order>, event: Event<Order>) -> Step<Order> {
    match event {
        Event::Start => cx.register(name)?,
        Event::Message(Order::Echo(text, reply)) => cx.reply(reply, text),
        Event::Message(Order::Discard(reply)) => drop(reply),
        Event::Message(Order::StartWorker(reply)) => {
            let worker = cx.spawn(work());
            cx.reply(reply, worker);
        }
        Event::Message(Order::Count(count, to)) => {
            cx.spawn(move |cx: &mut Cx<()>, _| {
                cx.notify(to);
                for number in 0..count {
                    cx.send(to, Report::Number(number))?;
                }
                stop()
            });
        }
        Event::Message(Order::Forward(to, text, reply)) => cx.send(to, Order::Echo(text, reply))?,
        Event::Message(Order::Find(name, reply)) => {
            let mut reply = Some(reply);
            cx.spawn(move |cx: &mut Cx<Result<Addr<Order>, LocateError>>, event| match event {
                Event::Message(found) => {
                    if let Some(reply) = reply.take() {
                        cx.reply(reply, found?);
                    }
                    stop()
                }
                _ => {
                    cx.locate(&name, secs(10), |found| found);
                    receive()
                }
            });
        }
        Event::Message(Order::Monitor(task, to)) => {
            cx.spawn(move |cx: &mut Cx<()>, event| match event {
                Event::Down(down) => {
                    cx.send(to, Report::Text(down.reason.to_string()))?;
                    stop()
                }
                _ => {
                    cx.monitor(task);
                    cx.send(task, Task::Fail("as requested".into()))?;
                    receive()
                }
            });
        }
        _ => {}
    }
    receive()
}

fn work() -> impl FnMut(&mut Cx<'_, Task>, Event<Task>) -> Step<Task> {
    let mut collector: Option<Addr<Report>> = None;
    move |cx, event| match event {
        Event::Message(Task::Stop) => stop(),
        Event::Message(Task::Exit(text)) => exit(text),
        Event::Message(Task::Fail(text)) => fail(text),
        // Without a call of the panic hook, which would print the panic.
        Event::Message(Task::Panic(text)) => std::panic::resume_unwind(Box::new(text)),
        Event::Message(Task::Notify(to)) => {
            cx.notify(to);
            receive()
        }
        Event::Message(Task::Suspend(to)) => {
            collector = Some(to);
            cx.send(to, Report::Text("suspended".into()))?;
            suspend()
        }
        Event::Message(Task::Report(to)) => {
            collector = Some(to);
            receive()
        }
        Event::Resumed(value) => {
            let to = collector.ok_or("no address for the report")?;
            cx.send(to, Report::Text(value.get()?))?;
            receive()
        }
        Event::Thrown(thrown) => {
            if let Some(to) = collector {
                cx.send(to, Report::Text(thrown.take().get()?))?;
            }
            receive()
        }
        Event::Terminate => {
            if let Some(to) = collector {
                cx.send(to, Report::Text("terminated".into()))?;
            }
            receive()
        }
        _ => receive(),
    }
}

/// The child process: a server that registers the name of its role.
fn run_server(role: &Role) {
    let mut node = Node::new(role.config()).expect("a node can start");
    process::send_line(node.location());
    let name = role.name.clone();
    node.spawn(move |cx: &mut Cx<Order>, event| serve(&name, cx, event));
    let ran = node.run_with(|handle| {
        process::commands().iter().for_each(drop);
        handle.stop();
    });
    ran.expect("the node runs");
}

/// A server in another process, and a node here that has located it.
struct TwoNodes {
    _process: Process,
    here: TestNode,
    server: Addr<Order>,
}

impl TwoNodes {
    fn begin() -> Self {
        let net = Net::new();
        let process = Process::start(&net, "server");
        process.location();
        let here = net.node("client");
        let server = here.find("server");
        Self { _process: process, here, server }
    }

    fn start_worker(&self) -> Addr<Task> {
        self.here.handle.ask(self.server, secs(10), Order::StartWorker).expect("the server starts a worker")
    }

    /// Starts an actor here that reports each message, and each `Down` as an error.
    fn collector(&self) -> (Addr<Report>, Receiver<Result<Report, Exit>>) {
        let (sender, events) = channel();
        let collector = self.here.spawn(move |_cx, event| {
            match event {
                Event::Message(message) => report(&sender, Ok(message)),
                Event::Down(down) => report(&sender, Err(Exit::of(down))),
                _ => {}
            }
            receive()
        });
        (collector, events)
    }

    fn send(&self, worker: Addr<Task>, task: Task) {
        self.here.handle.send(worker, task).expect("the node runs");
    }
}

fn ask_returns_remote_reply() {
    let nodes = TwoNodes::begin();
    let echo = |reply| Order::Echo("hello".into(), reply);
    assert_eq!(nodes.here.handle.ask(nodes.server, secs(10), echo), Ok("hello".to_owned()));
}

fn reply_dropped_remotely_fails_ask_at_once() {
    let nodes = TwoNodes::begin();
    let dropped = nodes.here.handle.ask(nodes.server, secs(1000), Order::Discard);
    assert_eq!(dropped, Err(AskError::Dropped));
}

/// The ask fails at once where the actor has ended or does not handle the type.
fn ask_without_receiver_or_type_fails_at_once() {
    let nodes = TwoNodes::begin();
    let worker = nodes.start_worker();
    assert_eq!(nodes.here.deliver(worker, Task::Stop), Ok(()));
    assert_eq!(recv(&nodes.here.monitor(worker)), Exit::NoActor);
    let ended: Addr<Order> = Addr::of(worker.id());
    let reply = nodes.here.handle.ask(ended, secs(1000), Order::StartWorker);
    assert_eq!(reply.map(|_| ()), Err(AskError::NoActor));
    let wrong: Addr<ReplyTo<String>> = Addr::of(nodes.server.id());
    let reply = nodes.here.handle.ask(wrong, secs(1000), |reply| reply);
    let wrong_type = |found: &str| PayloadError::WrongType {
        expected: Order::name().into_owned().into(),
        found: found.into(),
    };
    assert_eq!(reply, Err(AskError::Request(wrong_type("reply<str>"))));
}

fn deliver_to_ended_or_mistyped_actor_is_refused() {
    let nodes = TwoNodes::begin();
    let worker = nodes.start_worker();
    assert_eq!(nodes.here.deliver(worker, Task::Stop), Ok(()));
    assert_eq!(recv(&nodes.here.monitor(worker)), Exit::NoActor);
    let refused = nodes.here.deliver(worker, Task::Stop);
    assert_eq!(refused, Err(DeliverError::Refused(Undelivered::NoActor)));
    let wrong: Addr<String> = Addr::of(nodes.server.id());
    let refused = nodes.here.deliver(wrong, "not an order".to_owned());
    let wrong_type =
        PayloadError::WrongType { expected: Order::name().into_owned().into(), found: "str".into() };
    assert_eq!(refused, Err(DeliverError::Refused(Undelivered::Payload(wrong_type))));
}

fn monitor_receives_each_exit_reason_with_value() {
    let nodes = TwoNodes::begin();
    for (task, end) in [
        (Task::Stop, Exit::Done),
        (Task::Exit("42".into()), Exit::Value("42".into())),
        (Task::Fail("no luck".into()), Exit::Failed("no luck".into())),
        (Task::Panic("help".into()), Exit::Panicked("help".into())),
    ] {
        let worker = nodes.start_worker();
        let down = nodes.here.monitor(worker);
        nodes.send(worker, task);
        assert_eq!(recv(&down), end);
        assert_eq!(recv(&nodes.here.monitor(worker)), Exit::NoActor);
    }
    let worker = nodes.start_worker();
    let down = nodes.here.monitor(worker);
    nodes.here.step(move |cx| cx.terminate(worker));
    assert_eq!(recv(&down), Exit::Terminated);
}

fn notify_sends_exit_value_to_remote_actor() {
    let nodes = TwoNodes::begin();
    let (collector, events) = nodes.collector();
    let worker = nodes.start_worker();
    nodes.send(worker, Task::Notify(collector));
    nodes.send(worker, Task::Exit("done".into()));
    assert_eq!(recv(&events), Err(Exit::Value("done".into())));
}

fn kill_and_grace_reach_remote_actor() {
    let nodes = TwoNodes::begin();
    let (collector, events) = nodes.collector();
    let worker = nodes.start_worker();
    let ended = nodes.here.monitor(worker);
    nodes.here.step(move |cx| {
        cx.tell(worker, Task::Report(collector));
        cx.kill(worker);
    });
    assert_eq!(recv(&ended), Exit::Terminated);
    // It gets no event, and the message before the signal was handled or has become a dead letter.
    assert_eq!(events.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty));
    let worker = nodes.start_worker();
    let ended = nodes.here.monitor(worker);
    nodes.here.step(move |cx| {
        cx.tell(worker, Task::Report(collector));
        cx.terminate_within(worker, secs(60));
    });
    assert_eq!(recv(&events), Ok(Report::Text("terminated".into())));
    assert_eq!(recv(&ended), Exit::Terminated);
}

fn terminate_throw_and_resume_reach_remote_actor() {
    let nodes = TwoNodes::begin();
    let (collector, events) = nodes.collector();
    let next = || recv(&events);

    let worker = nodes.start_worker();
    nodes.send(worker, Task::Suspend(collector));
    assert_eq!(next(), Ok(Report::Text("suspended".into())));
    nodes.here.step(move |cx| cx.resume(worker, "good morning".to_owned()));
    assert_eq!(next(), Ok(Report::Text("good morning".into())));

    nodes.here.step(move |cx| {
        cx.tell(worker, Task::Report(collector));
        cx.throw(worker, "catch".to_owned());
    });
    assert_eq!(next(), Ok(Report::Text("catch".into())));

    let ended = nodes.here.monitor(worker);
    nodes.here.step(move |cx| {
        cx.tell(worker, Task::Report(collector));
        cx.terminate(worker);
    });
    assert_eq!(next(), Ok(Report::Text("terminated".into())));
    assert_eq!(recv(&ended), Exit::Terminated);

    let without_handler = nodes.start_worker();
    let ended = nodes.here.monitor(without_handler);
    nodes.here.step(move |cx| cx.throw(without_handler, "oh".to_owned()));
    assert!(matches!(recv(&ended), Exit::Failed(_)));
}

fn messages_arrive_in_order_before_the_down() {
    let nodes = TwoNodes::begin();
    let (collector, events) = nodes.collector();
    nodes.here.handle.send(nodes.server, Order::Count(20_000, collector)).expect("the node runs");
    for number in 0..20_000 {
        assert_eq!(recv(&events), Ok(Report::Number(number)));
    }
    assert_eq!(recv(&events), Err(Exit::Done));
}

fn remote_actor_monitors_local_actor() {
    let nodes = TwoNodes::begin();
    let (collector, events) = nodes.collector();
    let here = nodes.here.spawn(work());
    nodes.here.handle.send(nodes.server, Order::Monitor(here, collector)).expect("the node runs");
    assert_eq!(recv(&events), Ok(Report::Text("failed: as requested".into())));
}

/// Three nodes without discovery: the node here and the second server have only the first server as a peer.
struct ThreeNodes {
    _processes: [Process; 2],
    first: Addr<Order>,
    second_at: Location,
    here: TestNode,
}

impl ThreeNodes {
    fn begin() -> Self {
        let net = Net { udp_port: 0, ..Net::new() };
        let first_process = Process::start(&net, "first");
        let first_at = first_process.location();
        let second_process = Process::start_at(&net, "second", 0, Some(first_at));
        let second_at = second_process.location();
        let here = net.static_node("here", &[first_at]);
        let first = here.find("first");
        Self { _processes: [first_process, second_process], first, second_at, here }
    }

    /// The second server's address, by way of the first.
    fn second(&self) -> Addr<Order> {
        let find = |reply| Order::Find("second".into(), reply);
        self.here.handle.ask(self.first, secs(10), find).expect("the first server locates the second")
    }

    /// Whether the node here is connected to the second server.
    fn is_connected(&self) -> bool {
        let second_at = self.second_at;
        self.here.step(move |cx| cx.peers().contains(&second_at))
    }
}

fn address_received_is_dialled_at_first_use() {
    let nodes = ThreeNodes::begin();
    let second = nodes.second();
    assert!(!nodes.is_connected(), "an unused address causes no dial");
    let echo = |reply| Order::Echo("hello".into(), reply);
    assert_eq!(nodes.here.handle.ask(second, secs(10), echo), Ok("hello".to_owned()));
    assert!(nodes.is_connected());
}

fn forwarded_reply_is_sent_by_third_node() {
    let nodes = ThreeNodes::begin();
    let second = nodes.second();
    let forward = move |reply| Order::Forward(second, "hello".into(), reply);
    assert_eq!(nodes.here.handle.ask(nodes.first, secs(10), forward), Ok("hello".to_owned()));
    assert!(nodes.is_connected(), "the second server has dialled the node that gets its reply");
}

fn monitor_of_unknown_node_dials_it() {
    let nodes = ThreeNodes::begin();
    let second = nodes.second();
    let down = nodes.here.monitor(second);
    nodes.here.step(move |cx| cx.terminate(second));
    assert_eq!(recv(&down), Exit::Terminated);
}

/// Requests and replies cross each other.
fn replies_arrive_once_and_in_order() {
    let nodes = TwoNodes::begin();
    let (server, count) = (nodes.server, 2_000);
    let (sender, results) = channel();
    nodes.here.spawn(move |cx: &mut Cx<Result<String, AskError>>, event| {
        match event {
            Event::Start => {
                for number in 0..count {
                    let echo = move |reply| Order::Echo(format!("{number}"), reply);
                    cx.ask(server, secs(10), echo, |reply| reply);
                }
            }
            Event::Message(reply) => report(&sender, reply),
            _ => {}
        }
        receive()
    });
    let mut left = count;
    let replies = recv_until(&results, |_| {
        left -= 1;
        left == 0
    });
    let wanted: Vec<_> = (0..count).map(|number| Ok(number.to_string())).collect();
    assert_eq!(replies, wanted);
}
