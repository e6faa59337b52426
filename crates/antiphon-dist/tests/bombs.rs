//! Malformed bodies that the encoder of a message type writes: its node refuses to send them. The tests of `attacks`
//! send the same bodies from a peer that is no node.

#![expect(unsafe_code, reason = "a global allocator is unsafe to write")]

mod common;
#[path = "common/counting.rs"]
#[allow(dead_code, reason = "each test file uses a part of this module")]
mod counting;

use std::borrow::Cow;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};

use antiphon_dist::{CallError, Channel, DeliverError, NetCx, Rci};
use antiphon_sched::{
    ActorId, Addr, AskError, Bytes, Cx, DeadLetter, DecodeError, EncodeError, Event, ExitReason,
    PayloadError, ReplyTo, SendError, Undelivered, ValueError, Wire, exit, receive, secs, stop,
};
use common::bombs::{Bomb, Tree, bombs};
use common::{Net, PATIENCE, TestNode, recv, report};
use serde::{Deserialize, Serialize};

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

/// The tests run one after another, since one of them measures the memory of the process.
static TURN: Mutex<()> = Mutex::new(());

/// Arbitrary bytes that are sent under the type name of [`Tree`].
#[derive(Clone)]
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
        Err(DecodeError::new("these bodies are only encoded"))
    }
}

/// A request that holds arbitrary bytes.
struct RawOrder(RawBody, ReplyTo<u64>);

impl Wire for RawOrder {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("test.order/1")
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        // An array of two items.
        out.push(0x92);
        self.1.encode(out)?;
        self.0.encode(out)
    }

    fn decode(_: &mut &[u8]) -> Result<Self, DecodeError> {
        Err(DecodeError::new("these bodies are only encoded"))
    }
}

/// A request for a `T`. The asking node requests a [`Tree`], the other one replies with a [`RawBody`].
#[derive(Serialize, Deserialize)]
struct Ask<T>(#[serde(bound = "T: Wire")] ReplyTo<T>)
where
    T: Wire;

impl<T: Wire> Wire for Ask<T> {
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

const TREE: &str = "test.tree/1";
/// The types of the messages to a channel of trees, and to an RCI that takes one.
const CHANNEL_MESSAGE: &str = "antiphon.channel<test.tree/1>";
const CALL: &str = "antiphon.call<test.tree/1,u64>";

/// Each kind of message, request and value is refused with an error that names its type, and nothing arrives.
#[test]
fn malformed_bodies_are_refused_by_their_sender() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (there, here) = Net::new().pair();
    let targets = Targets::on(&there, &here);
    let (bombs, refused_before) = (bombs(), refused(&there));
    let before = counting::reset_peak();
    for bomb in &bombs {
        refuses_messages(&here, &targets, bomb);
        refuses_requests(&here, &targets, bomb);
        refuses_reply(&there, &here, bomb);
        refuses_exit_value(&there, &here, bomb);
        refuses_signals(&here, &targets, bomb);
        let Targets { tree, .. } = targets;
        assert_eq!(here.deliver(tree, Tree::Leaf(2)), Ok(()), "{} ends nothing", bomb.what);
        assert_eq!(recv(&targets.received), Tree::Leaf(2));
    }
    let used = counting::peak() - before;
    println!("peak={used} bytes");
    assert!(used < 32 << 20, "the peak is {used} bytes");
    assert_eq!(refused(&there), refused_before);
    for node in [&there, &here] {
        let counts = node.counts();
        assert_eq!((counts.receipts, counts.replies, counts.misbehaved), (0, 0, 0));
    }
}

/// The addresses on the receiving node, as the sending node knows them.
struct Targets {
    tree: Addr<Tree>,
    raw: Addr<RawBody>,
    order: Addr<RawOrder>,
    channel: Channel<RawBody>,
    rci: Rci<RawBody, u64>,
    /// The messages that arrive.
    received: Receiver<Tree>,
    /// The dead letters of the sending node.
    dead_letters: Receiver<DeadLetter>,
}

impl Targets {
    fn on(there: &TestNode, here: &TestNode) -> Self {
        let received = there.listener::<Tree>("tree");
        there.with(|node| {
            node.channel::<Tree>("trees").expect("the name is free");
            node.rci("grow", |_: Tree| |_: &mut Cx<u64>, _| receive()).expect("the name is free");
        });
        let tree: Addr<Tree> = here.find("tree");
        assert_eq!(here.deliver(tree, Tree::Nodes(vec![Tree::Leaf(1)])), Ok(()));
        assert_eq!(recv(&received), Tree::Nodes(vec![Tree::Leaf(1)]));
        Self {
            tree,
            raw: Addr::of(tree.id()),
            order: Addr::of(tree.id()),
            channel: answer_to(here, |cx| cx.locate("trees", PATIENCE, |found| found)).expect("it is open"),
            rci: answer_to(here, |cx| cx.locate("grow", PATIENCE, |found| found)).expect("it is open"),
            received,
            dead_letters: dead_letters(here),
        }
    }

    /// Checks that one dead letter has arrived, for this actor and reason.
    #[track_caller]
    fn has_dead_letter(&self, to: impl Into<ActorId>, what: &str, bomb: &Bomb) {
        let DeadLetter { to: receiver, what: kind, reason, .. } = recv(&self.dead_letters);
        assert_eq!((receiver, &*kind), (to.into(), what), "{}", bomb.what);
        check_refusal(bomb, what, reason, TREE);
    }
}

/// The numbers of messages that a node has refused, and of its dead letters.
fn refused(node: &TestNode) -> (u64, u64) {
    (node.counts().refused_messages, node.stats().dead_letters)
}

fn dead_letters(node: &TestNode) -> Receiver<DeadLetter> {
    let (sender, dead_letters) = channel();
    node.with(move |node| node.on_dead_letter(move |dead_letter| report(&sender, dead_letter.clone())));
    dead_letters
}

#[track_caller]
fn check_refusal(bomb: &Bomb, kind: &str, reason: Undelivered, type_name: &str) {
    let Undelivered::Payload(reason) = reason else { panic!("{} as a {kind}: {reason}", bomb.what) };
    check_reason(bomb, kind, &reason, type_name);
}

#[track_caller]
fn check_reason(bomb: &Bomb, kind: &str, reason: &PayloadError, type_name: &str) {
    let is_right = bomb.is_refused_by_sender(reason, type_name);
    assert!(is_right, "{} as a {kind} of `{type_name}`: {reason:?}", bomb.what);
}

/// Runs `start` in a new actor, and returns the first message of that actor.
#[track_caller]
fn answer_to<A: Send + 'static>(node: &TestNode, start: impl FnOnce(&mut Cx<'_, A>) + Send + 'static) -> A {
    let (sender, answers) = channel();
    let mut start = Some(start);
    node.spawn(move |cx, event| match event {
        Event::Start => {
            if let Some(start) = start.take() {
                start(cx);
            }
            receive()
        }
        Event::Message(answer) => {
            report(&sender, answer);
            stop()
        }
        _ => receive(),
    });
    recv(&answers)
}

/// Messages to an actor and to a channel. Those without a receipt come back.
fn refuses_messages(here: &TestNode, targets: &Targets, bomb: &Bomb) {
    let &Targets { raw, channel, .. } = targets;
    let body = bomb.body.clone();
    let refused = here.step(move |cx| {
        let body = || RawBody(body.clone());
        cx.tell(raw, body());
        [
            ("message", TREE, cx.send(raw, body()).map_err(returned)),
            ("message by `try_send`", TREE, cx.try_send(raw, body()).map_err(returned)),
            ("message to a channel", CHANNEL_MESSAGE, cx.send(channel, body()).map_err(returned)),
        ]
    });
    for (kind, type_name, result) in refused {
        let Err((body, reason)) = result else { panic!("{} as a {kind} was sent", bomb.what) };
        assert!(body == bomb.body, "{} as a {kind} has come back changed", bomb.what);
        check_refusal(bomb, kind, reason, type_name);
    }
    targets.has_dead_letter(raw, std::any::type_name::<RawBody>(), bomb);
    let body = RawBody(bomb.body.clone());
    let Err(DeliverError::Refused(reason)) = here.deliver(raw, body) else {
        panic!("{} as a message with a receipt was not refused", bomb.what)
    };
    check_refusal(bomb, "message with a receipt", reason, TREE);
    let body = RawBody(bomb.body.clone());
    let delivered = answer_to(here, move |cx| cx.deliver_all(channel, body, 0, PATIENCE, |result| result));
    let Err(DeliverError::Refused(reason)) = delivered else {
        panic!("{} as a delivery to a channel: {delivered:?}", bomb.what)
    };
    check_refusal(bomb, "delivery to a channel", reason, CHANNEL_MESSAGE);
}

/// The bytes and the reason of a message that has come back.
fn returned(error: SendError<RawBody>) -> (Vec<u8>, Undelivered) {
    let reason = error.reason();
    (error.into_message().0, reason)
}

/// Requests to an actor, from a thread and from an actor; and calls of an RCI.
fn refuses_requests(here: &TestNode, targets: &Targets, bomb: &Bomb) {
    let &Targets { order, rci, .. } = targets;
    let body = || RawBody(bomb.body.clone());
    let from_thread = body();
    let asked = here.handle.ask(order, PATIENCE, |reply| RawOrder(from_thread, reply));
    let from_actor = body();
    let asked_by_actor = answer_to(here, move |cx| {
        cx.ask(order, PATIENCE, |reply| RawOrder(from_actor, reply), |result| result);
    });
    for result in [asked, asked_by_actor] {
        let Err(AskError::Request(reason)) = result else { panic!("{} in a request: {result:?}", bomb.what) };
        check_reason(bomb, "request", &reason, "test.order/1");
    }
    let arguments = body();
    let called = answer_to(here, move |cx| cx.call(rci, arguments, PATIENCE, |result| result));
    let arguments = body();
    let called_monitored = answer_to(here, move |cx| {
        let watcher = cx.id();
        cx.call_monitored(rci, arguments, watcher, PATIENCE, |result| result);
    });
    for result in [called, called_monitored] {
        let Err(CallError::Arguments(reason)) = result else {
            panic!("{} as arguments: {result:?}", bomb.what)
        };
        check_reason(bomb, "call", &reason, CALL);
    }
}

/// A reply: the request fails with the error of the replying node.
fn refuses_reply(there: &TestNode, here: &TestNode, bomb: &Bomb) {
    let mut reply_body = Some(RawBody(bomb.body.clone()));
    let (ready, registered) = channel();
    here.spawn(move |cx: &mut Cx<Ask<RawBody>>, event| match event {
        Event::Start => {
            cx.register("ask")?;
            report(&ready, ());
            receive()
        }
        Event::Message(Ask(reply)) => {
            if let Some(body) = reply_body.take() {
                cx.reply(reply, body);
            }
            stop()
        }
        _ => receive(),
    });
    recv(&registered);
    let ask: Addr<Ask<Tree>> = there.find("ask");
    let replied = there.handle.ask(ask, secs(10), Ask::<Tree>);
    let Err(AskError::Reply(reason)) = replied else { panic!("{} as a reply: {replied:?}", bomb.what) };
    check_reason(bomb, "reply", &reason, TREE);
}

/// An exit value of an actor that the other node monitors: the `Down` tells why it has no value.
fn refuses_exit_value(there: &TestNode, here: &TestNode, bomb: &Bomb) {
    let mut exit_value = Some(RawBody(bomb.body.clone()));
    let (ready, registered) = channel();
    here.spawn(move |cx: &mut Cx<String>, event| match event {
        Event::Start => {
            cx.register("doomed")?;
            report(&ready, ());
            receive()
        }
        Event::Message(_) => exit_value.take().map_or_else(stop, exit),
        _ => receive(),
    });
    recv(&registered);
    let doomed: Addr<String> = there.find("doomed");
    let (sender, values) = channel();
    there.spawn(move |cx: &mut Cx<()>, event| match event {
        Event::Start => {
            cx.monitor(doomed);
            cx.send(doomed, "end".into())?;
            receive()
        }
        Event::Down(down) => {
            report(
                &sender,
                match down.reason {
                    ExitReason::Done(value) => value.get::<Tree>(),
                    other => panic!("the actor exited without a value: {other}"),
                },
            );
            stop()
        }
        _ => receive(),
    });
    let value = recv(&values);
    let Err(ValueError::NotSent(reason)) = value else { panic!("{} as an exit value: {value:?}", bomb.what) };
    check_reason(bomb, "exit value", &reason, TREE);
}

/// Values that are thrown into an actor, or that it is resumed with.
fn refuses_signals(here: &TestNode, targets: &Targets, bomb: &Bomb) {
    let tree = targets.tree;
    let (exception, value) = (RawBody(bomb.body.clone()), RawBody(bomb.body.clone()));
    here.step(move |cx| {
        cx.throw(tree, exception);
        cx.resume(tree, value);
    });
    targets.has_dead_letter(tree, "throw", bomb);
    targets.has_dead_letter(tree, "resume", bomb);
}

/// Bytes that are encoded by an encoder of the library, and then written in another order, as encryption would do.
struct Scrambled(Bytes);

impl Wire for Scrambled {
    fn name() -> Cow<'static, str> {
        Tree::name()
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let mut plain = Vec::new();
        self.0.encode(&mut plain)?;
        out.extend(plain.iter().rev());
        Ok(())
    }

    fn decode(_: &mut &[u8]) -> Result<Self, DecodeError> {
        Err(DecodeError::new("these bodies are only encoded"))
    }
}

/// That an encoder of the library wrote as many bytes does not show that these are the bytes of the body.
#[test]
fn body_changed_after_its_encoding_is_refused() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (there, here) = Net::new().pair();
    let _received = there.listener::<Tree>("tree");
    let tree: Addr<Tree> = here.find("tree");
    let (dead_letters, refused_before) = (dead_letters(&here), refused(&there));
    let scrambled = || Scrambled(vec![7; 100].into());
    let delivered = here.deliver(Addr::of(tree.id()), scrambled());
    let is_refused = |reason: &Undelivered| matches!(reason, Undelivered::Payload(PayloadError::Encode(_)));
    assert!(matches!(&delivered, Err(DeliverError::Refused(reason)) if is_refused(reason)), "{delivered:?}");
    let (exception, value) = (scrambled(), scrambled());
    here.step(move |cx| {
        cx.throw(tree, exception);
        cx.resume(tree, value);
    });
    for _ in 0..2 {
        let DeadLetter { reason, .. } = recv(&dead_letters);
        assert!(is_refused(&reason), "{reason}");
    }
    assert_eq!(refused(&there), refused_before);
}

/// A channel of the sending node has a subscriber on another node, which learns that it has missed each message.
#[test]
fn malformed_channel_message_is_missed_by_remote_subscriber() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (there, here) = Net::new().pair();
    let channel: Channel<RawBody> = here.with(|node| node.channel("trees")).expect("the name is free");
    let to: Channel<Tree> =
        answer_to(&there, |cx| cx.locate("trees", PATIENCE, |found| found)).expect("it is open");
    let (sender, events) = std::sync::mpsc::channel();
    let subscriber = there.spawn(move |_cx: &mut Cx<Tree>, event| {
        match event {
            Event::Message(tree) => report(&sender, Ok(tree)),
            Event::Lagged { missed, .. } => report(&sender, Err(missed)),
            _ => {}
        }
        receive()
    });
    let subscribed =
        answer_to(&there, move |cx| cx.subscribe_within(to, subscriber, PATIENCE, |result| result));
    assert_eq!(subscribed, Ok(()));
    let (dead_letters, refused_before) = (dead_letters(&here), refused(&there));
    for bomb in &bombs() {
        let (body, mut good) = (RawBody(bomb.body.clone()), Vec::new());
        Tree::Leaf(2).encode(&mut good).expect("a leaf has an encoding");
        here.step(move |cx| {
            cx.tell(channel, body);
            cx.tell(channel, RawBody(good));
        });
        let Undelivered::Payload(reason) = recv(&dead_letters).reason else {
            panic!("{} is at fault itself", bomb.what)
        };
        check_reason(bomb, "message of a channel", &reason, CHANNEL_MESSAGE);
        assert_eq!((recv(&events), recv(&events)), (Err(1), Ok(Tree::Leaf(2))), "{}", bomb.what);
    }
    assert_eq!(refused(&there), refused_before);
}
