//! Bodies that would bring a decoder down, from a peer that knows the secret.

#![expect(unsafe_code, reason = "a global allocator is unsafe to write")]

mod common;
#[path = "common/counting.rs"]
#[allow(dead_code, reason = "each test file uses its part of this")]
mod counting;

use std::borrow::Cow;
use std::sync::mpsc::channel;

use antiphon_dist::{Config, DeliverError, NetCx};
use antiphon_sched::{
    Addr, AskError, Cx, DecodeError, EncodeError, Event, LoopConfig, ReplyTo, Wire, exit, millis, receive,
    secs, sleep, stop,
};
use common::bombs::bombs;
use common::{Net, TestNode, heard, tell_test};
use serde::{Deserialize, Serialize};

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

/// What the good side takes: it may be nested as deep as somebody likes.
#[derive(Serialize, Deserialize, Debug, PartialEq)]
enum Tree {
    Leaf(u64),
    Nodes(Vec<Tree>),
}
antiphon_sched::wire!(Tree, "test.tree/1", compact);

/// What the other side sends under that name.
struct Bomb(Vec<u8>);

impl Wire for Bomb {
    fn name() -> Cow<'static, str> {
        Tree::name()
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(&self.0);
        Ok(())
    }

    fn decode(_: &mut &[u8]) -> Result<Self, DecodeError> {
        Err(DecodeError::new("bombs go one way"))
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

impl Wire for Ask<Bomb> {
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

fn listener(node: &TestNode) -> std::sync::mpsc::Receiver<Tree> {
    node.listener::<Tree>("tree")
}

#[test]
fn bombs_are_refused_wherever_they_arrive_and_the_node_goes_on() {
    let net = Net::new();
    let (good, bad) = net.pair();
    let told = listener(&good);
    let tree: Addr<Tree> = bad.find("tree");
    let bomb: Addr<Bomb> = Addr::of(tree.id());
    assert_eq!(bad.deliver(tree, Tree::Nodes(vec![Tree::Leaf(1)])), Ok(()));
    assert_eq!(heard(&told), Tree::Nodes(vec![Tree::Leaf(1)]));
    let before = counting::reset_peak();

    for (what, bytes) in bombs() {
        let refused = bad.deliver(bomb, Bomb(bytes.clone()));
        assert!(matches!(refused, Err(DeliverError::Refused(_))), "{what} as a message: {refused:?}");
        let (exception, value) = (Bomb(bytes.clone()), Bomb(bytes.clone()));
        bad.step(move |cx| {
            cx.throw(tree, exception);
            cx.resume(tree, value);
        });
        assert_eq!(as_answer(&good, &bad, bytes.clone()), Err(AskError::WrongType), "{what} as an answer");
        as_value(&good, &bad, bytes);
        assert_eq!(bad.deliver(tree, Tree::Leaf(2)), Ok(()), "the actor lives on after {what}");
        assert_eq!(heard(&told), Tree::Leaf(2));
    }
    let used = counting::peak() - before;
    println!("{used} bytes at most");
    assert!(used < 32 << 20, "{used} bytes were allocated at a time");
    assert_eq!(good.counts().misbehaved, 0, "its session goes on");
}

/// Has the bad side answer a question of the good one's.
fn as_answer(good: &TestNode, bad: &TestNode, bytes: Vec<u8>) -> Result<Tree, AskError> {
    let mut bytes = Some(bytes);
    let (ready, registered) = channel();
    bad.spawn(move |cx: &mut Cx<Ask<Bomb>>, event| match event {
        Event::Start => {
            cx.register("ask")?;
            tell_test(&ready, ());
            receive()
        }
        Event::Message(Ask(reply)) => {
            cx.reply(reply, Bomb(bytes.take().unwrap_or_default()));
            stop()
        }
        _ => receive(),
    });
    heard(&registered);
    let ask: Addr<Ask<Tree>> = good.find("ask");
    good.handle.ask(ask, secs(10), Ask::<Tree>)
}

/// Has an actor of the bad side end with it, while the good side watches.
fn as_value(good: &TestNode, bad: &TestNode, bytes: Vec<u8>) {
    let mut bytes = Some(bytes);
    let (ready, registered) = channel();
    let (told, ended) = channel();
    let doomed = bad.spawn(move |cx: &mut Cx<String>, event| match event {
        Event::Start => {
            cx.register("doomed")?;
            tell_test(&ready, ());
            receive()
        }
        Event::Message(_) => exit(Bomb(bytes.take().unwrap_or_default())),
        _ => receive(),
    });
    heard(&registered);
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
                other => panic!("it ended otherwise: {other}"),
            };
            tell_test(&told, value);
            stop()
        }
        _ => receive(),
    });
    assert_eq!(heard(&ended), Err(()));
}

#[test]
fn a_bomb_is_refused_also_where_it_waits_for_a_full_mailbox() {
    let net = Net::new();
    let scheduler = LoopConfig { mailbox_max: 4, ..LoopConfig::default() };
    let good = TestNode::start(Config { scheduler, ..net.quiet("good", &[]) });
    let bad = net.quiet_node("bad", &[good.location]);
    let (go, gone) = channel::<()>();
    let (tell, told) = channel();
    let mut is_free = false;
    good.spawn(move |cx: &mut Cx<Tree>, event| {
        match event {
            Event::Start => cx.register("tree")?,
            Event::Message(tree) => tell_test(&tell, tree),
            _ => {}
        }
        is_free |= gone.try_recv().is_ok();
        if is_free { receive() } else { sleep(millis(5)) }
    });
    let tree: Addr<Tree> = bad.find("tree");
    let bomb: Addr<Bomb> = Addr::of(tree.id());
    bad.step(move |cx| (0..100).for_each(|n| cx.tell(tree, Tree::Leaf(n))));
    good.wait_for_counts("messages to be parked", |counts| counts.backlog_bytes > 0);
    for (what, bytes) in bombs() {
        let refused = bad.deliver(bomb, Bomb(bytes));
        assert!(matches!(refused, Err(DeliverError::Refused(_))), "{what}: {refused:?}");
    }
    go.send(()).expect("the actor lives");
    for n in 0..100 {
        assert_eq!(heard(&told), Tree::Leaf(n));
    }
}
