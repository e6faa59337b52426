//! Malformed and hostile message bodies from an authenticated peer.

#![expect(unsafe_code, reason = "a global allocator is unsafe to write")]

mod common;
#[path = "common/counting.rs"]
#[allow(dead_code, reason = "each test file uses a part of this module")]
mod counting;

use std::borrow::Cow;
use std::sync::mpsc::channel;

use antiphon_dist::{Config, DeliverError, NetCx};
use antiphon_sched::{
    Addr, AskError, Cx, DecodeError, EncodeError, Event, LoopConfig, ReplyTo, Undelivered, Wire, exit,
    millis, receive, secs, sleep, stop,
};
use common::bombs::bombs;
use common::{Net, PATIENCE, TestNode, recv, report};
use serde::{Deserialize, Serialize};

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

/// The message type of the node under test. The type permits unlimited nesting.
#[derive(Serialize, Deserialize, Debug, PartialEq)]
enum Tree {
    Leaf(u64),
    Nodes(Vec<Tree>),
}
antiphon_sched::wire!(Tree, "test.tree/1", compact);

/// Arbitrary bytes that the hostile node sends under the type name of [`Tree`].
struct RawBody(Vec<u8>);

impl Wire for RawBody {
    fn name() -> Cow<'static, str> {
        Tree::name()
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(&self.0);
        Ok(())
    }

    fn decode(_: &mut &[u8]) -> Result<Self, DecodeError> {
        Err(DecodeError::new("the hostile node only encodes bodies"))
    }
}

#[derive(Serialize, Deserialize)]
struct Ask<T>(#[serde(bound = "T: Wire")] ReplyTo<T>)
where
    T: Wire;

impl Wire for Ask<Tree> {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("test.ask/1")
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        antiphon_sched::__private::encode_compact(self, out)
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        antiphon_sched::__private::decode(from)
    }
}

impl Wire for Ask<RawBody> {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("test.ask/1")
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        antiphon_sched::__private::encode_compact(self, out)
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        antiphon_sched::__private::decode(from)
    }
}

fn is_refused(receipt: &Result<(), DeliverError>) -> bool {
    matches!(receipt, Err(DeliverError::Refused(Undelivered::Payload(_))))
}

fn listener(node: &TestNode) -> std::sync::mpsc::Receiver<Tree> {
    node.listener::<Tree>("tree")
}

#[test]
fn malformed_bodies_are_refused_and_node_continues() {
    let net = Net::new();
    let (good, bad) = net.pair();
    let received = listener(&good);
    let tree: Addr<Tree> = bad.find("tree");
    let raw: Addr<RawBody> = Addr::of(tree.id());
    assert_eq!(bad.deliver(tree, Tree::Nodes(vec![Tree::Leaf(1)])), Ok(()));
    assert_eq!(recv(&received), Tree::Nodes(vec![Tree::Leaf(1)]));
    let before = counting::reset_peak();

    for (body, bytes) in bombs() {
        let refused = bad.deliver(raw, RawBody(bytes.clone()));
        assert!(is_refused(&refused), "{body} as a message: {refused:?}");
        let (exception, value) = (RawBody(bytes.clone()), RawBody(bytes.clone()));
        bad.step(move |cx| {
            cx.throw(tree, exception);
            cx.resume(tree, value);
        });
        let reply = send_as_reply(&good, &bad, bytes.clone());
        assert!(matches!(reply, Err(AskError::Reply(_))), "{body} as a reply: {reply:?}");
        send_as_exit_value(&good, &bad, bytes);
        assert_eq!(bad.deliver(tree, Tree::Leaf(2)), Ok(()), "the actor still runs after {body}");
        assert_eq!(recv(&received), Tree::Leaf(2));
    }
    let used = counting::peak() - before;
    println!("peak={used} bytes");
    assert!(used < 32 << 20, "the peak is {used} bytes");
    assert_eq!(good.counts().misbehaved, 0, "the session continues");
}

/// Sends the bytes as the reply to a request of the node under test.
fn send_as_reply(good: &TestNode, bad: &TestNode, bytes: Vec<u8>) -> Result<Tree, AskError> {
    let mut bytes = Some(bytes);
    let (ready, registered) = channel();
    bad.spawn(move |cx: &mut Cx<Ask<RawBody>>, event| match event {
        Event::Start => {
            cx.register("ask")?;
            report(&ready, ());
            receive()
        }
        Event::Message(Ask(reply)) => {
            cx.reply(reply, RawBody(bytes.take().unwrap_or_default()));
            stop()
        }
        _ => receive(),
    });
    recv(&registered);
    let ask: Addr<Ask<Tree>> = good.find("ask");
    good.handle.ask(ask, secs(10), Ask::<Tree>)
}

/// Sends the bytes as the exit value of an actor that the node under test monitors.
fn send_as_exit_value(good: &TestNode, bad: &TestNode, bytes: Vec<u8>) {
    let mut bytes = Some(bytes);
    let (ready, registered) = channel();
    let (sender, decoded) = channel();
    let doomed = bad.spawn(move |cx: &mut Cx<String>, event| match event {
        Event::Start => {
            cx.register("doomed")?;
            report(&ready, ());
            receive()
        }
        Event::Message(_) => exit(RawBody(bytes.take().unwrap_or_default())),
        _ => receive(),
    });
    recv(&registered);
    let there: Addr<String> = good.find("doomed");
    assert!(there == doomed);
    good.spawn(move |cx: &mut Cx<()>, event| match event {
        Event::Start => {
            cx.monitor(there);
            cx.send(there, "end".into())?;
            receive()
        }
        Event::Down(down) => {
            let value = match down.reason {
                antiphon_sched::ExitReason::Done(value) => value.get::<Tree>().map_err(drop),
                other => panic!("the actor exited without a value: {other}"),
            };
            report(&sender, value);
            stop()
        }
        _ => receive(),
    });
    assert_eq!(recv(&decoded), Err(()));
}

#[test]
fn malformed_body_for_full_mailbox_is_refused() {
    let net = Net::new();
    let scheduler = LoopConfig { mailbox_max: 4, ..LoopConfig::default() };
    let good = TestNode::start(Config { scheduler, ..net.static_config("good", &[]) });
    let bad = net.static_node("bad", &[good.location]);
    let (start, started) = channel::<()>();
    let (sender, received) = channel();
    let mut is_started = false;
    good.spawn(move |cx: &mut Cx<Tree>, event| {
        match event {
            Event::Start => cx.register("tree")?,
            Event::Message(tree) => report(&sender, tree),
            _ => {}
        }
        is_started |= started.try_recv().is_ok();
        if is_started { receive() } else { sleep(millis(5)) }
    });
    let tree: Addr<Tree> = bad.find("tree");
    let raw: Addr<RawBody> = Addr::of(tree.id());
    bad.step(move |cx| (0..100).for_each(|n| cx.tell(tree, Tree::Leaf(n))));
    good.wait_for_counts("a backlog", |counts| counts.backlog_bytes > 0);
    let receipts: Vec<_> = bombs()
        .into_iter()
        .map(|(body, bytes)| (body, bad.delivering(raw, RawBody(bytes), PATIENCE)))
        .collect();
    start.send(()).expect("the actor runs");
    for (body, receipt) in receipts {
        let refused = recv(&receipt);
        assert!(is_refused(&refused), "{body}: {refused:?}");
    }
    for n in 0..100 {
        assert_eq!(recv(&received), Tree::Leaf(n));
    }
}
