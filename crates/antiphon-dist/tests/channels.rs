//! Channels: each message reaches all subscribers, local and remote, once and in order.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

use antiphon_dist::{
    Channel, Config, DeliverError, EndOnLag, LocateError, NetCx, NetHandle, RegisterError, SubscribeError,
    Subscriber,
};
use antiphon_sched::{
    ActorId, Addr, Cx, DecodeError, Down, EncodeError, Event, LoopConfig, SendError, Undelivered, Wire,
    millis, receive, secs, stop, suspend,
};
use common::{Exit, Net, PATIENCE, TestNode, recv, recv_until, report, wait_for};

/// An event that a subscriber reports to the test.
#[derive(Debug, PartialEq)]
enum SubscriberEvent {
    Text(String),
    Down(ActorId, Exit),
    Lagged(ActorId, u64),
}

use SubscriberEvent::Text;

fn text(text: impl ToString) -> SubscriberEvent {
    Text(text.to_string())
}

fn open(node: &TestNode, name: &'static str) -> Channel<String> {
    node.with(move |node| node.channel(name)).expect("the name is free")
}

/// An actor that reports its messages and `Down`s.
fn listener(node: &TestNode) -> (Addr<String>, Receiver<SubscriberEvent>) {
    let (sender, events) = channel();
    let actor = node.spawn(move |_cx, event| {
        match event {
            Event::Message(text) => report(&sender, Text(text)),
            Event::Down(down) => report(&sender, SubscriberEvent::Down(down.actor, Exit::of(down))),
            Event::Lagged { channel, missed } => report(&sender, SubscriberEvent::Lagged(channel, missed)),
            _ => {}
        }
        receive()
    });
    (actor, events)
}

/// As [`listener`], but it takes nothing until it is resumed.
fn suspended_listener(node: &TestNode) -> (Addr<String>, Receiver<SubscriberEvent>) {
    let (sender, events) = channel();
    let actor = node.spawn(move |_cx, event| {
        match event {
            Event::Start => return suspend(),
            Event::Message(text) => report(&sender, Text(text)),
            Event::Down(down) => report(&sender, SubscriberEvent::Down(down.actor, Exit::of(down))),
            Event::Lagged { channel, missed } => report(&sender, SubscriberEvent::Lagged(channel, missed)),
            _ => {}
        }
        receive()
    });
    (actor, events)
}

/// Two connected nodes with mailboxes of this size.
fn pair_with_mailboxes(mailbox_max: usize) -> (TestNode, TestNode) {
    let net = Net::new();
    let scheduler = LoopConfig { mailbox_max, ..LoopConfig::default() };
    let config =
        |name, peers: &[_]| Config { scheduler: scheduler.clone(), ..net.static_config(name, peers) };
    let first = TestNode::start(config("first", &[]));
    let second = TestNode::start(config("second", &[first.location]));
    second.wait_for_peers(1);
    first.wait_for_peers(1);
    (first, second)
}

fn resume(node: &TestNode, actor: Addr<String>) {
    node.step(move |cx| cx.resume(actor, ()));
}

/// Subscribes an actor and waits for the result.
fn subscribe<T: Wire + Clone>(
    node: &TestNode,
    channel: Channel<T>,
    actor: impl Subscriber<T> + Send + 'static,
) -> Result<(), SubscribeError> {
    recv(&start_subscribe(node, channel, actor, PATIENCE))
}

fn start_subscribe<T: Wire + Clone>(
    node: &TestNode,
    to: Channel<T>,
    actor: impl Subscriber<T> + Send + 'static,
    timeout: Duration,
) -> Receiver<Result<(), SubscribeError>> {
    let (sender, results) = channel();
    node.spawn(move |cx, event| match event {
        Event::Start => {
            cx.subscribe_within(to, actor, timeout, |done| done);
            receive()
        }
        Event::Message(done) => {
            report(&sender, done);
            stop()
        }
        _ => receive(),
    });
    results
}

/// A listener that has subscribed.
fn subscriber(node: &TestNode, channel: Channel<String>) -> (Addr<String>, Receiver<SubscriberEvent>) {
    let (actor, events) = listener(node);
    assert_eq!(subscribe(node, channel, actor), Ok(()));
    (actor, events)
}

type DeliverAllResult = Result<usize, DeliverError>;

fn delivering(
    node: &TestNode,
    to: Channel<String>,
    text: &'static str,
    n: usize,
    timeout: Duration,
) -> Receiver<DeliverAllResult> {
    let (sender, results) = channel();
    node.spawn(move |cx, event| match event {
        Event::Start => {
            cx.deliver_all(to, text.to_owned(), n, timeout, |done| done);
            receive()
        }
        Event::Message(done) => {
            report(&sender, done);
            stop()
        }
        _ => receive(),
    });
    results
}

fn deliver(node: &TestNode, to: Channel<String>, text: &'static str, n: usize) -> DeliverAllResult {
    recv(&delivering(node, to, text, n, PATIENCE))
}

fn send(node: &TestNode, to: Channel<String>, text: impl ToString) {
    let text = text.to_string();
    node.step(move |cx| cx.send(to, text).map_err(|reason| reason.reason())).expect("the channel is open");
}

fn locate<T: Wire>(node: &TestNode, name: &'static str) -> Result<Channel<T>, LocateError> {
    let (sender, results) = channel();
    node.spawn(move |cx, event| match event {
        Event::Start => {
            cx.locate(name, PATIENCE, |found| found);
            receive()
        }
        Event::Message(found) => {
            report(&sender, found);
            stop()
        }
        _ => receive(),
    });
    recv(&results)
}

#[test]
fn channel_sends_reach_all_subscribers_in_order() {
    let (there, here) = Net::new().pair();
    let channel = open(&there, "news");
    assert_eq!(locate(&here, "news"), Ok(channel));
    let subscribers: Vec<_> = [&here, &there, &here, &there].map(|node| subscriber(node, channel).1).into();
    for node in [&here, &there] {
        node.step(move |cx| (0..1000).try_for_each(|x| cx.send(channel, x.to_string())).is_ok());
        for events in &subscribers {
            for x in 0..1000 {
                assert_eq!(recv(events), text(x));
            }
        }
    }
    for events in subscribers {
        assert_eq!(events.try_recv(), Err(TryRecvError::Empty), "no message arrives twice");
    }
}

/// A message that counts how often it is encoded.
#[derive(Clone)]
struct Counted;

static ENCODED: AtomicU64 = AtomicU64::new(0);

impl Wire for Counted {
    fn name() -> std::borrow::Cow<'static, str> {
        "test.counted".into()
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        ENCODED.fetch_add(1, Ordering::Relaxed);
        ().encode(out)
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        <()>::decode(from).map(|()| Self)
    }
}

#[test]
fn channel_sends_one_copy_per_node() {
    let (there, here) = Net::new().pair();
    let news: Channel<Counted> = there.with(|node| node.channel("news")).expect("the name is free");
    let (sender, received) = channel();
    for _ in 0..20 {
        let sender = sender.clone();
        let actor = here.spawn(move |_cx: &mut Cx<Counted>, event| {
            if matches!(event, Event::Message(_)) {
                report(&sender, ());
            }
            receive()
        });
        assert_eq!(subscribe(&here, news, actor), Ok(()));
    }
    assert_eq!(here.counts().channel_relays, 1);
    there.step(move |cx| (0..10).try_for_each(|_| cx.send(news, Counted)).is_ok());
    (0..200).for_each(|_| recv(&received));
    assert_eq!(ENCODED.load(Ordering::Relaxed), 10, "each message is encoded once for the node");
}

#[test]
fn subscribing_twice_counts_once_until_unsubscribed() {
    let (there, here) = Net::new().pair();
    let channel = open(&there, "news");
    for node in [&here, &there] {
        let (actor, events) = subscriber(node, channel);
        assert_eq!(subscribe(node, channel, actor), Ok(()));
        node.step(move |cx| cx.subscribe(channel, actor));
        assert_eq!(deliver(node, channel, "once", 1), Ok(1));
        assert_eq!(recv(&events), text("once"));
        node.step(move |cx| cx.unsubscribe(channel, actor));
        wait_for("no subscriber to be left", || (deliver(node, channel, "late", 0) == Ok(0)).then_some(()));
        send(node, channel, "unsubscribed");
        assert_eq!(subscribe(node, channel, actor), Ok(()));
        send(node, channel, "subscribed");
        let last = recv_until(&events, |event| *event == text("subscribed"));
        assert!(
            !last.contains(&text("unsubscribed"))
                && last.iter().filter(|event| **event == text("subscribed")).count() == 1
        );
        node.step(move |cx| cx.unsubscribe(channel, actor));
        assert_eq!(
            events.recv_timeout(millis(20)),
            Err(RecvTimeoutError::Timeout),
            "unsubscribing sends no `Down`"
        );
    }
    here.wait_for_counts("no relay", |counts| counts.channel_relays == 0);
}

#[test]
fn channel_close_sends_one_down_per_subscriber() {
    let (there, here) = Net::new().pair();
    let channel = open(&there, "news");
    let subscribers: Vec<_> = [&here, &there, &here].map(|node| subscriber(node, channel).1).into();
    here.step(move |cx| cx.close_channel(channel));
    for events in &subscribers {
        assert_eq!(recv(events), SubscriberEvent::Down(channel.id(), Exit::Terminated));
    }
    for node in [&here, &there] {
        wait_for("the channel to be closed", || {
            (subscribe(node, channel, listener(node).0) == Err(SubscribeError::NoChannel)).then_some(())
        });
        assert_eq!(deliver(node, channel, "late", 0), Err(DeliverError::Refused(Undelivered::NoActor)));
        let (actor, events) = listener(node);
        node.step(move |cx| cx.subscribe(channel, actor));
        assert_eq!(recv(&events), SubscriberEvent::Down(channel.id(), Exit::NoActor));
    }
    let returned = there.step(move |cx| cx.send(channel, "mine".to_owned()));
    assert!(
        matches!(returned, Err(SendError::NoActor(text)) if text == "mine"),
        "the error returns the message"
    );
    for events in &subscribers {
        assert_eq!(events.try_recv(), Err(TryRecvError::Empty), "each subscriber gets one `Down`");
    }
    here.wait_for_counts("no relay", |counts| counts.channel_relays == 0);
    assert_eq!(there.counts().names, 0, "closing the channel frees its name");
    open(&there, "news");
}

#[test]
fn adapter_subscribed_receives_messages_and_down() {
    let (there, here) = Net::new().pair();
    let news = open(&there, "news");
    let mut subscribers = Vec::new();
    for (count, node) in [(1, &here), (2, &there)] {
        let (sender, events) = channel();
        node.spawn(move |cx: &mut Cx<usize>, event| {
            match event {
                Event::Start => {
                    let adapter = cx.adapter(|text: String| text.len()).expect("the limit is not reached");
                    cx.subscribe(news, adapter);
                }
                Event::Message(len) => report(&sender, Ok(len)),
                Event::Down(down) => report(&sender, Err(down.actor)),
                _ => {}
            }
            receive()
        });
        assert_eq!(deliver(&there, news, "seven b", count), Ok(count));
        assert_eq!(recv(&events), Ok(7));
        subscribers.push(events);
    }
    assert_eq!(recv(&subscribers[0]), Ok(7));
    there.step(move |cx| cx.close_channel(news));
    for events in subscribers {
        assert_eq!(recv(&events), Err(news.id()));
    }
}

#[test]
fn node_lost_ends_subscriptions_on_both_sides() {
    let net = Net::new();
    let (there, here) = net.pair();
    let mine = open(&here, "mine");
    let theirs = open(&there, "theirs");
    let (_, lost) = subscriber(&here, theirs);
    let _far = subscriber(&there, mine);
    let (_, near) = subscriber(&here, mine);
    assert_eq!(deliver(&here, mine, "all", 2), Ok(2));
    assert_eq!(recv(&near), text("all"));
    there.stop();
    assert_eq!(recv(&lost), SubscriberEvent::Down(theirs.id(), Exit::NodeLost));
    assert_eq!(deliver(&here, mine, "left", 0), Ok(1));
    here.wait_for_counts("no relay", |counts| counts.channel_relays == 0);
}

#[test]
fn delivery_waits_for_subscribers_and_counts_them() {
    let (there, here) = Net::new().pair();
    let channel = open(&there, "news");
    for node in [&here, &there] {
        let few = recv(&delivering(node, channel, "early", 1, millis(50)));
        assert_eq!(few, Err(DeliverError::TooFew { subscribers: 0 }));
        assert_eq!(deliver(node, channel, "none", 0), Ok(0));
    }
    let waiting = delivering(&here, channel, "complete", 3, PATIENCE);
    let one = subscriber(&here, channel).1;
    let two = subscriber(&there, channel).1;
    let few = recv(&delivering(&there, channel, "incomplete", 3, millis(50)));
    assert_eq!(few, Err(DeliverError::TooFew { subscribers: 2 }));
    assert_eq!(waiting.try_recv(), Err(TryRecvError::Empty));
    let three = subscriber(&here, channel).1;
    assert_eq!(recv(&waiting), Ok(3));
    for events in [one, two, three] {
        assert_eq!(recv(&events), text("complete"), "a delivery with too few subscribers sends nothing");
    }
}

#[test]
fn channel_pending_deliveries_are_bounded() {
    let node = Net::new().static_node("alone", &[]);
    let channel = open(&node, "news");
    let (sender, results) = std::sync::mpsc::channel();
    node.spawn(move |cx, event| {
        match event {
            Event::Start => {
                for _ in 0..1025 {
                    cx.deliver_all(channel, String::new(), 1, secs(600), |done| done);
                }
            }
            Event::Message(done) => report(&sender, done),
            _ => {}
        }
        receive()
    });
    assert_eq!(recv(&results), Err(DeliverError::TooManyDeliveries));
    let _one = subscriber(&node, channel);
    (0..1024).for_each(|_| assert_eq!(recv(&results), Ok(1)));
    let waiting = delivering(&node, channel, "never", 9, PATIENCE);
    node.step(move |cx| cx.close_channel(channel));
    assert_eq!(recv(&waiting), Err(DeliverError::Refused(Undelivered::NoActor)));
}

#[test]
fn peer_pending_deliveries_are_bounded_separately() {
    let (there, here) = Net::new().pair();
    let channel = open(&there, "news");
    let (sender, results) = std::sync::mpsc::channel();
    here.spawn(move |cx, event| {
        match event {
            Event::Start => {
                for _ in 0..65 {
                    cx.deliver_all(channel, String::new(), 1, Duration::MAX, |done| done);
                }
            }
            Event::Message(done) => report(&sender, done),
            _ => {}
        }
        receive()
    });
    assert_eq!(recv(&results), Err(DeliverError::TooManyDeliveries));
    let own = delivering(&there, channel, "own", 1, Duration::MAX);
    assert_eq!(deliver(&there, channel, "at once", 0), Ok(0));
    let _one = subscriber(&there, channel);
    (0..64).for_each(|_| assert_eq!(recv(&results), Ok(1)));
    assert_eq!(recv(&own), Ok(1));
}

/// Local subscribers acknowledge at once, so their number is not limited by the bound of open receipts.
#[test]
fn delivery_reaches_any_number_of_local_subscribers() {
    const MANY: usize = 16_400;
    let node = Net::new().static_node("alone", &[]);
    let channel = open(&node, "news");
    node.step(move |cx| {
        for _ in 0..MANY {
            let actor = cx.spawn(|_cx, _event: Event<String>| receive());
            cx.subscribe(channel, actor);
        }
    });
    assert_eq!(deliver(&node, channel, "to all", MANY), Ok(MANY));
}

#[test]
fn transform_panic_drops_only_one_message() {
    let (there, here) = Net::new().pair();
    let channel = there.with(|node| {
        node.channel_with("loud", |name, text: String| match &*text {
            "drop" => None,
            // This panic does not call the panic hook, so nothing is written to standard error.
            "panic" => std::panic::resume_unwind(Box::new("on purpose")),
            _ => Some(format!("{name}: {}", text.to_uppercase())),
        })
    });
    let channel = channel.expect("the name is free");
    let (_, events) = subscriber(&here, channel);
    assert_eq!(deliver(&here, channel, "drop", 1), Ok(0));
    assert_eq!(deliver(&here, channel, "panic", 1), Ok(0));
    send(&here, channel, "drop");
    send(&here, channel, "panic");
    assert_eq!(deliver(&here, channel, "hello", 1), Ok(1));
    assert_eq!(recv(&events), text("loud: HELLO"));
    assert_eq!(there.log.lines("transform of a channel panicked").len(), 1, "the log is rate-limited");
    assert_eq!(there.stats().dead_letters_by_reason.dropped, 2);
    assert_eq!(events.try_recv(), Err(TryRecvError::Empty));
}

#[test]
fn subscriber_exit_during_delivery_ends_subscription() {
    let (there, here) = Net::new().pair();
    let channel = open(&there, "news");
    let subscribers: Vec<_> = [&here, &there, &here].map(|node| subscriber(node, channel)).into();
    for (node, (actor, _)) in [&there, &here].into_iter().zip(&subscribers[1..]) {
        let actor = *actor;
        node.step(move |cx| cx.terminate(actor));
    }
    // Some of these deliveries overlap with the exits. Each completes, and none counts a removed subscriber.
    wait_for("the exited subscribers to be removed", || {
        let count = deliver(&there, channel, "count", 0).expect("the delivery completes");
        assert!((1..=3).contains(&count));
        (count == 1).then_some(())
    });
    let few = recv(&delivering(&there, channel, "two", 2, millis(50)));
    assert_eq!(few, Err(DeliverError::TooFew { subscribers: 1 }));
}

#[test]
fn subscriber_on_third_node_receives_own_copy() {
    let net = Net::new();
    let there = net.static_node("there", &[]);
    let here = net.static_node("here", &[there.location]);
    let third = net.static_node("third", &[there.location, here.location]);
    third.wait_for_peers(2);
    let channel = open(&there, "news");
    let (actor, events) = listener(&third);
    // The address of the actor is sent to `here`, which subscribes it.
    let subscribing = here.spawn(move |cx: &mut Cx<Addr<String>>, event| {
        match event {
            Event::Start => cx.register("desk")?,
            Event::Message(actor) => cx.subscribe(channel, actor),
            _ => {}
        }
        receive()
    });
    let desk: Addr<Addr<String>> = third.find("desk");
    assert_eq!(desk.id(), subscribing.id());
    third.step(move |cx| cx.send(desk, actor).is_ok());
    assert_eq!(deliver(&here, channel, "far", 1), Ok(1));
    assert_eq!(recv(&events), text("far"));
    assert_eq!(here.counts().channel_relays + third.counts().channel_relays, 0);
    third.stop();
    wait_for("the subscriber to be removed", || {
        (deliver(&here, channel, "removed", 0) == Ok(0)).then_some(())
    });
}

#[test]
fn channel_names_are_separate_from_actor_names() {
    let (there, here) = Net::new().pair();
    let channel = open(&there, "name");
    let _actor = there.listener::<u64>("name");
    assert_eq!(locate(&here, "name"), Ok(channel));
    assert_eq!(here.find::<u64>("name").node(), channel.node());
    let wrong = LocateError::WrongType { expected: "u64".into(), found: "str".into() };
    assert_eq!(locate::<u64>(&here, "name"), Err(wrong.clone()));
    assert_eq!(locate::<u64>(&there, "name"), Err(wrong));
    let taken = RegisterError::Taken { name: "name".into() };
    assert_eq!(there.with(|node| node.channel::<u64>("name")), Err(taken.clone()));
    let actors = there.stats().actors;
    assert_eq!(there.step(|cx| cx.channel::<u64>("name").err()), Some(taken));
    assert_eq!(there.step(|cx| cx.channel::<u64>("").err()), Some(RegisterError::BadName));
    let not_owner = RegisterError::NotOwner { name: "name".into() };
    assert_eq!(there.step(|cx| cx.unregister_channel("name")), Err(not_owner.clone()));
    assert_eq!(there.step(|cx| cx.unregister("name")), Err(not_owner));
    let mine = there.step(|cx| {
        let mine = cx.channel::<u64>("mine").map_err(|reason| reason.to_string());
        (mine, cx.unregister_channel("mine"))
    });
    assert!(mine.0.is_ok() && mine.1.is_ok());
    let again = there.step(|cx| cx.channel::<u64>("mine"));
    there.step(move |cx| cx.close_channel(mine.0.expect("the channel was opened")));
    there.step(move |cx| cx.close_channel(again.expect("the name was free")));
    wait_for("the number of actors to be as before", || (there.stats().actors == actors).then_some(()));
}

#[test]
fn channel_in_message_arrives_unchanged() {
    let (there, here) = Net::new().pair();
    let channel = open(&there, "secret");
    let events = there.listener::<Channel<String>>("desk");
    let desk: Addr<Channel<String>> = here.find("desk");
    assert_eq!(here.deliver(desk, channel), Ok(()));
    assert_eq!(recv(&events), channel);
    assert_eq!(size_of::<Channel<String>>(), 24);
}

#[test]
fn channel_subscribed_to_channel_forwards_messages() {
    let (there, here) = Net::new().pair();
    let (top, middle, bottom) = (open(&there, "top"), open(&here, "middle"), open(&there, "bottom"));
    assert_eq!(subscribe(&here, top, middle), Ok(()));
    assert_eq!(subscribe(&here, middle, bottom), Ok(()));
    let events: Vec<_> = [top, middle, bottom].map(|channel| subscriber(&here, channel).1).into();
    assert_eq!(deliver(&here, top, "all", 3), Ok(3));
    assert_eq!(deliver(&here, middle, "two", 2), Ok(2));
    assert_eq!(deliver(&there, bottom, "one", 1), Ok(1));
    assert_eq!(recv(&events[0]), text("all"));
    assert_eq!((recv(&events[1]), recv(&events[1])), (text("all"), text("two")));
    assert_eq!(
        (recv(&events[2]), recv(&events[2]), recv(&events[2])),
        (text("all"), text("two"), text("one"))
    );
    here.step(move |cx| cx.unsubscribe(top, middle));
    wait_for("the unsubscription", || (deliver(&here, top, "top", 0) == Ok(1)).then_some(()));
    // Closing a channel does not close the channels that subscribe to it.
    here.step(move |cx| cx.close_channel(middle));
    assert_eq!(recv(&events[1]), SubscriberEvent::Down(middle.id(), Exit::Terminated));
    assert_eq!(deliver(&there, bottom, "open", 1), Ok(1));
}

#[test]
fn channel_cycle_is_refused() {
    let (there, here) = Net::new().pair();
    let three = [
        [(&here, "a0"), (&here, "b0"), (&here, "c0")],
        [(&there, "a1"), (&here, "b1"), (&there, "c1")],
        [(&there, "a2"), (&there, "b2"), (&here, "c2")],
    ];
    for nodes in three {
        let [a, b, c] = nodes.map(|(node, name)| open(node, name));
        let [of_a, of_b, of_c] = nodes.map(|(node, _)| node);
        assert_eq!(subscribe(&here, a, a), Err(SubscribeError::Cycle));
        assert_eq!(subscribe(of_a, a, b), Ok(()));
        assert_eq!(subscribe(&here, b, a), Err(SubscribeError::Cycle));
        assert_eq!(subscribe(of_b, b, c), Ok(()));
        assert_eq!(subscribe(&here, c, a), Err(SubscribeError::Cycle));
        assert_eq!(subscribe(&there, c, b), Err(SubscribeError::Cycle));
        let (_, events) = subscriber(&there, c);
        assert_eq!(deliver(&here, a, "through", 1), Ok(1));
        assert_eq!(recv(&events), text("through"));
        assert_eq!(
            events.recv_timeout(millis(20)),
            Err(RecvTimeoutError::Timeout),
            "the message arrives once"
        );
        // After the unsubscription, the other direction is no cycle.
        of_a.step(move |cx| cx.unsubscribe(a, b));
        wait_for("the unsubscription", || (deliver(&here, a, "x", 0) == Ok(0)).then_some(()));
        wait_for("the subscription in the other direction", || subscribe(of_c, c, a).is_ok().then_some(()));
    }
}

#[test]
fn channels_subscribing_mutually_form_no_cycle() {
    let (there, here) = Net::new().pair();
    for (a, b) in [("a0", "b0"), ("a1", "b1"), ("a2", "b2"), ("a3", "b3"), ("a4", "b4")] {
        let (a, b) = (open(&there, a), open(&here, b));
        let (_, events) = subscriber(&here, b);
        // Both nodes subscribe at the same time, each on the node of its channel.
        let pending = [start_subscribe(&there, a, b, PATIENCE), start_subscribe(&here, b, a, PATIENCE)];
        let joined: Vec<_> = pending.iter().map(recv).collect();
        assert!(joined.iter().any(Result::is_err), "{joined:?}");
        assert!(joined.iter().flat_map(|joined| joined.err()).all(|reason| reason == SubscribeError::Cycle));
        send(&here, b, "end");
        assert_eq!(recv(&events), text("end"));
        assert_eq!(
            events.recv_timeout(millis(10)),
            Err(RecvTimeoutError::Timeout),
            "the message does not circulate"
        );
    }
}

#[test]
fn subscriptions_and_failed_deliveries_leak_nothing() {
    let (there, here) = Net::new().pair();
    let channel = open(&there, "news");
    let closed = open(&there, "closed");
    there.step(move |cx| cx.close_channel(closed));
    let tables_of = |node: &TestNode| {
        let (stats, counts) = (node.stats(), node.counts());
        (
            stats.actors,
            stats.requests,
            stats.timers,
            stats.extras,
            counts.channel_relays,
            counts.monitors,
            counts.names,
        )
    };
    assert_eq!(subscribe(&here, closed, listener(&here).0), Err(SubscribeError::NoChannel));
    let rounds = |node: &TestNode, done: Sender<()>| {
        let mut left = 1000;
        node.spawn(move |cx: &mut Cx<Option<String>>, event| {
            match event {
                Event::Start => cx.push_self(None),
                Event::Message(None) if left == 0 => {
                    report(&done, ());
                    return stop();
                }
                Event::Message(None) => {
                    left -= 1;
                    // A subscriber that unsubscribes, subscribes to an open and a closed channel, and stops; and
                    // deliveries that fail.
                    let short = cx.spawn(|_: &mut Cx<String>, event| match event {
                        Event::Message(_) | Event::Down(_) => stop(),
                        _ => receive(),
                    });
                    cx.subscribe(channel, short);
                    cx.unsubscribe(channel, short);
                    cx.subscribe(channel, short);
                    cx.subscribe(closed, short);
                    cx.send(short, String::new())?;
                    cx.deliver_all(closed, String::new(), 1, millis(1), |_| Some(String::new()));
                    cx.deliver_all(channel, String::new(), 9_999, millis(1), |_| None);
                }
                _ => {}
            }
            receive()
        });
    };
    for node in [&here, &there] {
        let tables = (tables_of(&here), tables_of(&there));
        let (done, finished) = std::sync::mpsc::channel();
        rounds(node, done);
        finished.recv_timeout(secs(60)).expect("a thousand rounds finish within a minute");
        wait_for("the tables to be as before", || {
            let now = (tables_of(&here), tables_of(&there));
            (now == tables).then_some(())
        });
    }
}

/// The subscription and the monitor each send one `Down`.
#[test]
fn subscriber_that_monitors_gets_two_downs() {
    let node = Net::new().static_node("alone", &[]);
    let news = open(&node, "news");
    let (sender, events) = channel();
    node.spawn(move |cx: &mut Cx<String>, event| {
        match event {
            Event::Start => {
                cx.monitor(news);
                let me = cx.addr();
                cx.subscribe(news, me);
                cx.close_channel(news);
            }
            Event::Down(Down { actor, .. }) => report(&sender, actor),
            _ => {}
        }
        receive()
    });
    assert_eq!((recv(&events), recv(&events)), (news.id(), news.id()));
    assert_eq!(events.recv_timeout(millis(20)), Err(RecvTimeoutError::Timeout));
}

/// The subscribers of both nodes get the messages for which they have room, then the number of the others.
#[test]
fn subscriber_without_room_learns_what_it_missed() {
    const ROOM: u64 = 64;
    let (there, here) = pair_with_mailboxes(ROOM as usize);
    let channel = open(&there, "news");
    let subscribers = [&there, &here].map(|node| {
        let (actor, events) = suspended_listener(node);
        assert_eq!(subscribe(node, channel, actor), Ok(()));
        (node, actor, events)
    });
    for x in 0..100 {
        let counted = deliver(&here, channel, "text", 0);
        assert_eq!(counted, Ok(if x < ROOM { 2 } else { 0 }), "only deliveries into mailboxes count");
    }
    // The subscriber of the second node misses the message that is sent to check the first one.
    for (missed, (node, actor, events)) in (100 - ROOM..).zip(subscribers) {
        resume(node, actor);
        (0..ROOM).for_each(|_| assert_eq!(recv(&events), text("text")));
        assert_eq!(recv(&events), SubscriberEvent::Lagged(channel.id(), missed), "no message follows");
        assert!(deliver(node, channel, "next", 0).is_ok_and(|count| count > 0));
        assert_eq!(recv(&events), text("next"));
        assert_eq!(node.log.lines("misses messages of its channel").len(), 1, "the log is rate-limited");
        assert_eq!(node.stats().dead_letters_by_reason.full, 0, "a missed message is no dead letter");
    }
}

#[test]
fn subscription_that_ends_on_lag_sends_down() {
    const ROOM: usize = 64;
    let (there, here) = pair_with_mailboxes(ROOM);
    let channel = open(&there, "news");
    for node in [&there, &here] {
        let (actor, events) = suspended_listener(node);
        // The last of the two subscriptions decides.
        assert_eq!(subscribe(node, channel, actor), Ok(()));
        assert_eq!(subscribe(node, channel, EndOnLag(actor)), Ok(()));
        (0..ROOM).for_each(|_| assert_eq!(deliver(&there, channel, "text", 1), Ok(1)));
        assert_eq!(deliver(&there, channel, "missed", 1), Ok(0));
        wait_for("the end of the subscription", || {
            let few = recv(&delivering(&there, channel, "none", 1, Duration::ZERO));
            (few == Err(DeliverError::TooFew { subscribers: 0 })).then_some(())
        });
        resume(node, actor);
        (0..ROOM).for_each(|_| assert_eq!(recv(&events), text("text")));
        assert_eq!(recv(&events), SubscriberEvent::Down(channel.id(), Exit::Lagged));
        assert_eq!(subscribe(node, channel, actor), Ok(()));
        send(node, channel, "again");
        assert_eq!(recv(&events), text("again"));
        node.step(move |cx| cx.unsubscribe(channel, actor));
        wait_for("no subscriber", || (deliver(&there, channel, "late", 0) == Ok(0)).then_some(()));
    }
}

/// Each subscription causes an event of its own, up to twice the limit of the mailbox. The last one is reported later.
#[test]
fn subscriptions_of_full_actor_fill_bounded_mailbox() {
    const ROOM: usize = 64;
    let (node, _) = pair_with_mailboxes(ROOM);
    let channel = open(&node, "news");
    let (actor, events) = suspended_listener(&node);
    assert_eq!(subscribe(&node, channel, actor), Ok(()));
    (0..ROOM).for_each(|_| assert_eq!(deliver(&node, channel, "text", 1), Ok(1)));
    for _ in 0..3 * ROOM {
        node.step(move |cx| cx.unsubscribe(channel, actor));
        assert_eq!(subscribe(&node, channel, actor), Ok(()));
        assert_eq!(deliver(&node, channel, "missed", 1), Ok(0));
    }
    resume(&node, actor);
    (0..ROOM).for_each(|_| assert_eq!(recv(&events), text("text")));
    (0..=ROOM).for_each(|_| assert_eq!(recv(&events), SubscriberEvent::Lagged(channel.id(), 1)));
    assert_eq!(deliver(&node, channel, "next", 1), Ok(1));
    assert_eq!(recv(&events), text("next"), "the other subscriptions ended before");
}

/// A message whose clone panics.
#[derive(Debug)]
struct Unclonable;

impl Clone for Unclonable {
    fn clone(&self) -> Self {
        // This panic does not call the panic hook, so nothing is written to standard error.
        std::panic::resume_unwind(Box::new("on purpose"))
    }
}

impl Wire for Unclonable {
    fn name() -> std::borrow::Cow<'static, str> {
        "test.unclonable".into()
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        ().encode(out)
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        <()>::decode(from).map(|()| Self)
    }
}

#[test]
fn clone_panic_makes_subscribers_miss_message() {
    let (there, here) = Net::new().pair();
    let news: Channel<Unclonable> = there.with(|node| node.channel("news")).expect("the name is free");
    let (sender, events) = channel();
    for node in [&there, &here, &here] {
        let sender = sender.clone();
        let actor = node.spawn(move |_cx: &mut Cx<Unclonable>, event| {
            if let Event::Lagged { channel, missed } = event {
                report(&sender, (channel, missed));
            }
            receive()
        });
        assert_eq!(subscribe(node, news, actor), Ok(()));
    }
    there.step(move |cx| cx.send(news, Unclonable).is_ok());
    (0..3).for_each(|_| assert_eq!(recv(&events), (news.id(), 1)));
}

/// Copies of it take a while.
struct Heavy(u64);

impl Clone for Heavy {
    fn clone(&self) -> Self {
        let end = Instant::now() + Duration::from_micros(20);
        while Instant::now() < end {
            std::hint::spin_loop();
        }
        Self(self.0)
    }
}

impl Wire for Heavy {
    fn name() -> std::borrow::Cow<'static, str> {
        "heavy/1".into()
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.0.encode(out)
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        u64::decode(from).map(Self)
    }
}

/// While a message is on its way to very many subscribers, others run. All subscribers get all messages in order, and the
/// end of the channel behind them.
#[test]
fn messages_for_many_subscribers_take_turns() {
    const MANY: u64 = 2000;
    const MESSAGES: u64 = 3;
    let (there, here) = Net::new().pair();
    let news: Channel<Heavy> = there.with(|node| node.channel("news")).expect("the name is free");
    let (sender, events) = channel();
    let turns = Arc::new(AtomicU64::new(0));
    let seen = turns.clone();
    let closed = Arc::new(AtomicBool::new(false));
    there.step(move |cx| {
        for number in 0..MANY {
            let (sender, seen, closed) = (sender.clone(), seen.clone(), closed.clone());
            let mut next = 0;
            let actor = cx.spawn(move |cx, event: Event<Heavy>| match event {
                Event::Message(Heavy(message)) => {
                    // The termination comes while the last message is on its way.
                    if message + 1 == MESSAGES && !closed.swap(true, Ordering::SeqCst) {
                        cx.close_channel(news);
                    }
                    assert_eq!(message, next);
                    next += 1;
                    report(&sender, (number, Some(message), seen.load(Ordering::SeqCst)));
                    receive()
                }
                Event::Down(down) => {
                    assert_eq!(Exit::of(down), Exit::Terminated);
                    report(&sender, (number, None, seen.load(Ordering::SeqCst)));
                    stop()
                }
                _ => receive(),
            });
            cx.subscribe(news, actor);
        }
    });
    // It counts how often it can run.
    there.spawn(move |cx: &mut Cx<()>, _| {
        turns.fetch_add(1, Ordering::SeqCst);
        cx.push_self(());
        receive()
    });
    here.step(move |cx| {
        for number in 0..MESSAGES {
            cx.send(news, Heavy(number)).expect("the channel has room");
        }
    });
    let received: Vec<_> = (0..MANY * (MESSAGES + 1)).map(|_| recv(&events)).collect();
    for message in 0..MESSAGES {
        let turns = received.iter().filter(|event| event.1 == Some(message)).map(|event| event.2);
        assert_eq!(turns.clone().count() as u64, MANY);
        let parts = turns.collect::<BTreeSet<u64>>().len();
        assert!(parts > 10, "others ran only {parts} times while message {message} was on its way");
    }
    let ended = received.iter().filter(|event| event.1.is_none()).count();
    assert_eq!(ended as u64, MANY);
}

/// While a node takes nothing, so many messages wait for each of its very many subscribers as is their share. Each subscriber misses the
/// others, learns of them in their place, and gets what is sent later.
#[test]
fn subscribers_of_busy_node_share_its_queue() {
    const SUBSCRIBERS: u64 = 4096;
    const MESSAGES: u64 = 600;
    /// The bytes of the copies that may wait: 2^19, and those that are on their way.
    const QUEUED_MAX: u64 = (1 << 19) * 64 + (4 << 20);
    let (there, here) = Net::new().pair();
    let news: Channel<u64> = there.with(|node| node.channel("news")).expect("the name is free");
    let (sender, events) = channel();
    let actors: Vec<Addr<u64>> = here.step(move |cx| {
        let spawn = |_| {
            let sender = sender.clone();
            let (mut next, mut missed_in_all) = (0, 0);
            cx.spawn(move |_cx, event: Event<u64>| {
                match event {
                    Event::Message(number) => {
                        assert_eq!(number, next, "each message that is missed was reported before");
                        next += 1;
                        if number >= MESSAGES {
                            report(&sender, missed_in_all);
                        }
                    }
                    Event::Lagged { missed, .. } => {
                        next += missed;
                        missed_in_all += missed;
                        if next >= MESSAGES {
                            report(&sender, missed_in_all);
                        }
                    }
                    _ => {}
                }
                receive()
            })
        };
        (0..SUBSCRIBERS).map(spawn).collect()
    });
    // The channel's own node subscribes them, so each gets its own copy.
    let (all, subscribed) = channel();
    let mut left = SUBSCRIBERS;
    there.spawn(move |cx: &mut Cx<Addr<u64>>, event| {
        match event {
            Event::Start => cx.register("desk")?,
            Event::Message(actor) => {
                cx.subscribe(news, actor);
                left -= 1;
                if left == 0 {
                    report(&all, ());
                }
            }
            _ => {}
        }
        receive()
    });
    let desk: Addr<Addr<u64>> = here.find("desk");
    here.step(move |cx| actors.into_iter().for_each(|actor| assert!(cx.send(desk, actor).is_ok())));
    recv(&subscribed);
    there.step(move |cx| cx.send(news, 0).expect("the channel has room"));
    let (go_on, wait) = channel::<()>();
    let (is_busy, busy) = channel();
    here.spawn(move |_: &mut Cx<()>, _| {
        report(&is_busy, ());
        // Its node takes nothing meanwhile.
        recv(&wait);
        stop()
    });
    recv(&busy);
    let (sender, taken) = channel();
    let last = there.spawn(move |_: &mut Cx<u64>, event| {
        if matches!(event, Event::Message(number) if number + 1 == MESSAGES) {
            report(&sender, ());
        }
        receive()
    });
    there.step(move |cx| {
        cx.subscribe(news, last);
        (1..MESSAGES).for_each(|number| cx.send(news, number).expect("the channel has room"));
    });
    recv(&taken);
    let page = there.handle.peer_infos(None, PATIENCE).expect("the node runs");
    let queued: u64 = page.peers.iter().map(|peer| peer.queued_bytes).sum();
    assert!((1..=QUEUED_MAX).contains(&queued), "{queued} bytes wait");
    report(&go_on, ());
    let reported: Vec<u64> = (0..SUBSCRIBERS).map(|_| recv(&events)).collect();
    assert!(
        reported.iter().all(|missed| (1..MESSAGES).contains(missed)),
        "all have missed some, and none all"
    );
    there.step(move |cx| cx.send(news, MESSAGES).expect("the channel has room"));
    assert_eq!((0..SUBSCRIBERS).map(|_| recv(&events)).collect::<Vec<_>>().len() as u64, SUBSCRIBERS);
}
