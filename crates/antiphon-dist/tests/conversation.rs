//! Two processes in conversation: all that actors say and do to each other, across.

mod common;

use std::sync::mpsc::channel;

use antiphon_dist::{DeliverError, LocateError, Location, NetCx, Node};
use antiphon_sched::{
    Addr, AskError, Cx, Event, ReplyTo, Step, Undelivered, exit, fail, receive, secs, stop, suspend,
};
use common::process::{self, Process};
use common::{End, Net, TestNode, heard, heard_until, tell_test};
use serde::{Deserialize, Serialize};

/// What the server takes.
#[derive(Serialize, Deserialize)]
enum Order {
    Echo(String, ReplyTo<String>),
    Swallow(ReplyTo<String>),
    /// Start an actor that does as it is told.
    Hire(ReplyTo<Addr<Task>>),
    /// Tell this actor so many numbers, then end.
    Count(u64, Addr<Heard>),
    /// Give the reply to another server.
    PassOn(Addr<Order>, String, ReplyTo<String>),
    /// Look for another server by its name.
    Find(String, ReplyTo<Addr<Order>>),
    /// Watch this actor, have it fail, and tell how it ended.
    Watch(Addr<Task>, Addr<Heard>),
}
antiphon_sched::wire!(Order, "test.order/1");

/// What a hired actor takes.
#[derive(Serialize, Deserialize)]
enum Task {
    Stop,
    Exit(String),
    Fail(String),
    Panic(String),
    /// Have this actor told when you end.
    Notify(Addr<Heard>),
    /// Wait to be resumed, then tell with what.
    Suspend(Addr<Heard>),
    /// Take the next exception, and tell it.
    Catch(Addr<Heard>),
    /// Tell when you are terminated.
    Mourn(Addr<Heard>),
}
antiphon_sched::wire!(Task, "test.task/1");

#[derive(Serialize, Deserialize, Debug, PartialEq)]
enum Heard {
    Number(u64),
    Text(String),
}
antiphon_sched::wire!(Heard, "test.heard/1");

fn serve(name: &str, cx: &mut Cx<'_, Order>, event: Event<Order>) -> Step<Order> {
    match event {
        Event::Start => cx.register(name)?,
        Event::Message(Order::Echo(text, reply)) => cx.reply(reply, text),
        Event::Message(Order::Swallow(reply)) => drop(reply),
        Event::Message(Order::Hire(reply)) => {
            let hired = cx.spawn(work());
            cx.reply(reply, hired);
        }
        Event::Message(Order::Count(count, to)) => {
            cx.spawn(move |cx: &mut Cx<()>, _| {
                cx.notify(to);
                for number in 0..count {
                    cx.send(to, Heard::Number(number))?;
                }
                stop()
            });
        }
        Event::Message(Order::PassOn(to, text, reply)) => cx.send(to, Order::Echo(text, reply))?,
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
        Event::Message(Order::Watch(task, to)) => {
            cx.spawn(move |cx: &mut Cx<()>, event| match event {
                Event::Down(down) => {
                    cx.send(to, Heard::Text(down.reason.to_string()))?;
                    stop()
                }
                _ => {
                    cx.monitor(task);
                    cx.send(task, Task::Fail("as told".into()))?;
                    receive()
                }
            });
        }
        _ => {}
    }
    receive()
}

fn work() -> impl FnMut(&mut Cx<'_, Task>, Event<Task>) -> Step<Task> {
    let mut tell: Option<Addr<Heard>> = None;
    move |cx, event| match event {
        Event::Message(Task::Stop) => stop(),
        Event::Message(Task::Exit(text)) => exit(text),
        Event::Message(Task::Fail(text)) => fail(text),
        // Without the hook's lines in the output of the test.
        Event::Message(Task::Panic(text)) => std::panic::resume_unwind(Box::new(text)),
        Event::Message(Task::Notify(whom)) => {
            cx.notify(whom);
            receive()
        }
        Event::Message(Task::Suspend(to)) => {
            tell = Some(to);
            cx.send(to, Heard::Text("suspended".into()))?;
            suspend()
        }
        Event::Message(Task::Catch(to) | Task::Mourn(to)) => {
            tell = Some(to);
            receive()
        }
        Event::Resumed(value) => {
            let to = tell.ok_or("nobody to tell")?;
            cx.send(to, Heard::Text(value.get()?))?;
            receive()
        }
        Event::Thrown(thrown) => {
            if let Some(to) = tell {
                cx.send(to, Heard::Text(thrown.take().get()?))?;
            }
            receive()
        }
        Event::Terminate => {
            if let Some(to) = tell {
                cx.send(to, Heard::Text("terminated".into()))?;
            }
            receive()
        }
        _ => receive(),
    }
}

#[test]
#[ignore = "a role of the other tests, not one by itself"]
fn the_other_process() {
    let Some(role) = process::role() else { return };
    let mut node = Node::new(role.config()).expect("a node can start");
    process::say(node.location());
    let name = role.name;
    node.spawn(move |cx: &mut Cx<Order>, event| serve(&name, cx, event));
    let ran = node.run_with(|handle| {
        process::commands().iter().for_each(drop);
        handle.stop();
    });
    ran.expect("the node runs");
}

/// A server in another process, and a node here that has found it.
struct Talk {
    _server: Process,
    here: TestNode,
    server: Addr<Order>,
}

impl Talk {
    fn begin() -> Self {
        let net = Net::new();
        let server = Process::start(&net, "server");
        server.location();
        let here = net.node("client");
        let addr = here.find("server");
        Self { _server: server, here, server: addr }
    }

    fn hire(&self) -> Addr<Task> {
        self.here.handle.ask(self.server, secs(10), Order::Hire).expect("the server hires")
    }

    /// An actor here that tells the test what it hears, with an address for others.
    fn adapter(&self) -> (Addr<Heard>, std::sync::mpsc::Receiver<Result<Heard, End>>) {
        let (tell, told) = channel();
        let adapter = self.here.spawn(move |_cx, event| {
            match event {
                Event::Message(heard) => tell_test(&tell, Ok(heard)),
                Event::Down(down) => tell_test(&tell, Err(End::of(down))),
                _ => {}
            }
            receive()
        });
        (adapter, told)
    }

    fn tell(&self, task: Addr<Task>, what: Task) {
        self.here.handle.send(task, what).expect("the node runs");
    }
}

#[test]
fn an_answer_comes_back_through_the_reply_in_the_message() {
    let talk = Talk::begin();
    let echo = |reply| Order::Echo("hello".into(), reply);
    assert_eq!(talk.here.handle.ask(talk.server, secs(10), echo), Ok("hello".to_owned()));
}

#[test]
fn a_reply_that_is_dropped_elsewhere_answers_at_once() {
    let talk = Talk::begin();
    let swallowed = talk.here.handle.ask(talk.server, secs(1000), Order::Swallow);
    assert_eq!(swallowed, Err(AskError::Dropped));
}

#[test]
fn an_ask_that_nobody_can_answer_is_told_why_at_once() {
    let talk = Talk::begin();
    let task = talk.hire();
    assert_eq!(talk.here.deliver(task, Task::Stop), Ok(()));
    assert_eq!(heard(&talk.here.watch(task)), End::NoActor);
    let ended: Addr<Order> = Addr::of(task.id());
    let told = talk.here.handle.ask(ended, secs(1000), Order::Hire);
    assert_eq!(told.map(|_| ()), Err(AskError::NoActor));
    let wrong: Addr<ReplyTo<String>> = Addr::of(talk.server.id());
    let told = talk.here.handle.ask(wrong, secs(1000), |reply| reply);
    assert_eq!(told, Err(AskError::WrongType));
}

#[test]
fn a_message_with_receipt_is_delivered_or_refused() {
    let talk = Talk::begin();
    let task = talk.hire();
    assert_eq!(talk.here.deliver(task, Task::Stop), Ok(()));
    assert_eq!(heard(&talk.here.watch(task)), End::NoActor);
    let refused = talk.here.deliver(task, Task::Stop);
    assert_eq!(refused, Err(DeliverError::Refused(Undelivered::NoActor)));
    let wrong: Addr<String> = Addr::of(talk.server.id());
    let refused = talk.here.deliver(wrong, "no order".to_owned());
    assert_eq!(refused, Err(DeliverError::Refused(Undelivered::WrongType)));
}

#[test]
fn a_monitor_is_told_each_reason_with_its_value() {
    let talk = Talk::begin();
    for (task, end) in [
        (Task::Stop, End::Done),
        (Task::Exit("42".into()), End::Value("42".into())),
        (Task::Fail("no luck".into()), End::Failed("no luck".into())),
        (Task::Panic("help".into()), End::Panicked("help".into())),
    ] {
        let hired = talk.hire();
        let told = talk.here.watch(hired);
        talk.tell(hired, task);
        assert_eq!(heard(&told), end);
        assert_eq!(heard(&talk.here.watch(hired)), End::NoActor);
    }
    let hired = talk.hire();
    let told = talk.here.watch(hired);
    talk.here.step(move |cx| cx.terminate(hired));
    assert_eq!(heard(&told), End::Terminated);
}

#[test]
fn an_actor_that_was_told_to_notify_does() {
    let talk = Talk::begin();
    let (adapter, told) = talk.adapter();
    let hired = talk.hire();
    talk.tell(hired, Task::Notify(adapter));
    talk.tell(hired, Task::Exit("done".into()));
    assert_eq!(heard(&told), Err(End::Value("done".into())));
}

#[test]
fn terminate_throw_and_resume_reach_an_actor_elsewhere() {
    let talk = Talk::begin();
    let (adapter, told) = talk.adapter();
    let next = || heard(&told);

    let hired = talk.hire();
    talk.tell(hired, Task::Suspend(adapter));
    assert_eq!(next(), Ok(Heard::Text("suspended".into())));
    talk.here.step(move |cx| cx.resume(hired, "good morning".to_owned()));
    assert_eq!(next(), Ok(Heard::Text("good morning".into())));

    talk.here.step(move |cx| {
        cx.tell(hired, Task::Catch(adapter));
        cx.throw(hired, "catch".to_owned());
    });
    assert_eq!(next(), Ok(Heard::Text("catch".into())));

    let ended = talk.here.watch(hired);
    talk.here.step(move |cx| {
        cx.tell(hired, Task::Mourn(adapter));
        cx.terminate(hired);
    });
    assert_eq!(next(), Ok(Heard::Text("terminated".into())));
    assert_eq!(heard(&ended), End::Terminated);

    let careless = talk.hire();
    let ended = talk.here.watch(careless);
    talk.here.step(move |cx| cx.throw(careless, "oh".to_owned()));
    assert!(matches!(heard(&ended), End::Failed(_)));
}

#[test]
fn messages_come_in_order_and_down_after_the_last() {
    let talk = Talk::begin();
    let (adapter, told) = talk.adapter();
    talk.here.handle.send(talk.server, Order::Count(20_000, adapter)).expect("the node runs");
    for number in 0..20_000 {
        assert_eq!(heard(&told), Ok(Heard::Number(number)));
    }
    assert_eq!(heard(&told), Err(End::Done));
}

#[test]
fn an_actor_elsewhere_watches_one_here() {
    let talk = Talk::begin();
    let (adapter, told) = talk.adapter();
    let here = talk.here.spawn(work());
    talk.here.handle.send(talk.server, Order::Watch(here, adapter)).expect("the node runs");
    assert_eq!(heard(&told), Ok(Heard::Text("failed: as told".into())));
}

/// Three nodes without announcements: two know the first, and nothing of each other.
struct Three {
    _hub: Process,
    _leaf: Process,
    leaf_at: Location,
    here: TestNode,
    hub: Addr<Order>,
}

impl Three {
    fn begin() -> Self {
        let net = Net { udp_port: 0, ..Net::new() };
        let hub = Process::start(&net, "server");
        let hub_at = hub.location();
        let leaf = Process::start_at(&net, "leaf", 0, Some(hub_at));
        let leaf_at = leaf.location();
        let here = net.quiet_node("here", &[hub_at]);
        let addr = here.find("server");
        Self { _hub: hub, _leaf: leaf, leaf_at, here, hub: addr }
    }

    fn leaf(&self) -> Addr<Order> {
        let find = |reply| Order::Find("leaf".into(), reply);
        self.here.handle.ask(self.hub, secs(10), find).expect("the hub finds the leaf")
    }

    fn is_met(&self) -> bool {
        let leaf_at = self.leaf_at;
        self.here.step(move |cx| cx.peers().contains(&leaf_at))
    }
}

#[test]
fn an_address_in_an_answer_is_dialled_when_it_is_used() {
    let three = Three::begin();
    let leaf = three.leaf();
    assert!(!three.is_met(), "nobody dials for an address alone");
    let echo = |reply| Order::Echo("hello".into(), reply);
    assert_eq!(three.here.handle.ask(leaf, secs(10), echo), Ok("hello".to_owned()));
    assert!(three.is_met());
}

#[test]
fn a_reply_in_a_message_to_a_third_node_is_answered_from_there() {
    let three = Three::begin();
    let leaf = three.leaf();
    let around = move |reply| Order::PassOn(leaf, "around".into(), reply);
    assert_eq!(three.here.handle.ask(three.hub, secs(10), around), Ok("around".to_owned()));
    assert!(three.is_met(), "the leaf has dialled whom it answered");
}

#[test]
fn a_node_that_was_never_met_is_dialled_for_a_monitor() {
    let three = Three::begin();
    let leaf = three.leaf();
    let told = three.here.watch(leaf);
    three.here.step(move |cx| cx.terminate(leaf));
    assert_eq!(heard(&told), End::Terminated);
}

#[test]
fn each_message_arrives_once_also_when_answers_cross() {
    let talk = Talk::begin();
    let (server, count) = (talk.server, 2_000);
    let (tell, told) = channel();
    talk.here.spawn(move |cx: &mut Cx<Result<String, AskError>>, event| {
        match event {
            Event::Start => {
                for number in 0..count {
                    let echo = move |reply| Order::Echo(format!("{number}"), reply);
                    cx.ask(server, secs(10), echo, |answer| answer);
                }
            }
            Event::Message(answer) => tell_test(&tell, answer),
            _ => {}
        }
        receive()
    });
    let mut left = count;
    let answers = heard_until(&told, |_| {
        left -= 1;
        left == 0
    });
    let wanted: Vec<_> = (0..count).map(|number| Ok(number.to_string())).collect();
    assert_eq!(answers, wanted);
}
