//! Channels: what is sent to one reaches all subscribers, here and at peers, once and in order.

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use antiphon_dist::{Channel, DeliverError, LocateError, NetCx, RegisterError, SubscribeError, Subscriber};
use antiphon_sched::{
    ActorId, Addr, Cx, DecodeError, Down, EncodeError, Event, SendError, Undelivered, Wire, millis, receive,
    secs, stop,
};
use common::{End, Net, PATIENCE, TestNode, heard, heard_until, tell_test, wait_for};

/// What a subscriber tells the test.
#[derive(Debug, PartialEq)]
enum Heard {
    Text(String),
    Down(ActorId, End),
}

use Heard::Text;

fn text(text: impl ToString) -> Heard {
    Text(text.to_string())
}

fn open(node: &TestNode, name: &'static str) -> Channel<String> {
    node.with(move |node| node.channel(name)).expect("the name is free")
}

/// An actor that tells what it hears.
fn listener(node: &TestNode) -> (Addr<String>, Receiver<Heard>) {
    let (tell, told) = channel();
    let actor = node.spawn(move |_cx, event| {
        match event {
            Event::Message(text) => {
                if text == "stop" {
                    return stop();
                }
                tell_test(&tell, Text(text));
            }
            Event::Down(down) => tell_test(&tell, Heard::Down(down.actor, End::of(down))),
            _ => {}
        }
        receive()
    });
    (actor, told)
}

/// Subscribes, and answers what came of it.
fn join<T: Wire + Clone>(
    node: &TestNode,
    channel: Channel<T>,
    actor: impl Subscriber<T> + Send + 'static,
) -> Result<(), SubscribeError> {
    heard(&joining(node, channel, actor, PATIENCE))
}

fn joining<T: Wire + Clone>(
    node: &TestNode,
    to: Channel<T>,
    actor: impl Subscriber<T> + Send + 'static,
    timeout: Duration,
) -> Receiver<Result<(), SubscribeError>> {
    let (tell, told) = channel();
    node.spawn(move |cx, event| match event {
        Event::Start => {
            cx.subscribe_within(to, actor, timeout, |answer| answer);
            receive()
        }
        Event::Message(answer) => {
            tell_test(&tell, answer);
            stop()
        }
        _ => receive(),
    });
    told
}

/// An actor that has subscribed.
fn subscriber(node: &TestNode, channel: Channel<String>) -> (Addr<String>, Receiver<Heard>) {
    let (actor, told) = listener(node);
    assert_eq!(join(node, channel, actor), Ok(()));
    (actor, told)
}

type Outcome = Result<usize, DeliverError>;

fn delivering(
    node: &TestNode,
    to: Channel<String>,
    text: &'static str,
    n: usize,
    timeout: Duration,
) -> Receiver<Outcome> {
    let (tell, told) = channel();
    node.spawn(move |cx, event| match event {
        Event::Start => {
            cx.deliver_all(to, text.to_owned(), n, timeout, |answer| answer);
            receive()
        }
        Event::Message(answer) => {
            tell_test(&tell, answer);
            stop()
        }
        _ => receive(),
    });
    told
}

fn deliver(node: &TestNode, to: Channel<String>, text: &'static str, n: usize) -> Outcome {
    heard(&delivering(node, to, text, n, PATIENCE))
}

fn send(node: &TestNode, to: Channel<String>, text: impl ToString) {
    let text = text.to_string();
    node.step(move |cx| cx.send(to, text).map_err(|reason| reason.reason())).expect("it can be sent");
}

fn locate<T: Wire>(node: &TestNode, name: &'static str) -> Result<Channel<T>, LocateError> {
    let (tell, told) = channel();
    node.spawn(move |cx, event| match event {
        Event::Start => {
            cx.locate(name, PATIENCE, |found| found);
            receive()
        }
        Event::Message(found) => {
            tell_test(&tell, found);
            stop()
        }
        _ => receive(),
    });
    heard(&told)
}

#[test]
fn what_one_sends_arrives_everywhere_once_and_in_order() {
    let (there, here) = Net::new().pair();
    let channel = open(&there, "news");
    assert_eq!(locate(&here, "news"), Ok(channel));
    let told: Vec<_> = [&here, &there, &here, &there].map(|node| subscriber(node, channel).1).into();
    for node in [&here, &there] {
        node.step(move |cx| (0..1000).try_for_each(|x| cx.send(channel, x.to_string())).is_ok());
        for told in &told {
            for x in 0..1000 {
                assert_eq!(heard(told), text(x));
            }
        }
    }
    for told in told {
        assert!(told.try_recv().is_err(), "nothing comes twice");
    }
}

/// Counts how often it is encoded.
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
fn one_copy_goes_to_a_node_with_many_subscribers() {
    let (there, here) = Net::new().pair();
    let news: Channel<Counted> = there.with(|node| node.channel("news")).expect("the name is free");
    let (tell, told) = channel();
    for _ in 0..20 {
        let tell = tell.clone();
        let actor = here.spawn(move |_cx: &mut Cx<Counted>, event| {
            if matches!(event, Event::Message(_)) {
                tell_test(&tell, ());
            }
            receive()
        });
        assert_eq!(join(&here, news, actor), Ok(()));
    }
    assert_eq!(here.counts().relays, 1);
    there.step(move |cx| (0..10).try_for_each(|_| cx.send(news, Counted)).is_ok());
    (0..200).for_each(|_| heard(&told));
    assert_eq!(ENCODED.load(Ordering::Relaxed), 10, "one copy of each message crossed");
}

#[test]
fn subscribing_twice_is_once_and_unsubscribing_ends_it() {
    let (there, here) = Net::new().pair();
    let channel = open(&there, "news");
    for node in [&here, &there] {
        let (actor, told) = subscriber(node, channel);
        assert_eq!(join(node, channel, actor), Ok(()));
        node.step(move |cx| cx.subscribe(channel, actor));
        assert_eq!(deliver(node, channel, "once", 1), Ok(1));
        assert_eq!(heard(&told), text("once"));
        node.step(move |cx| cx.unsubscribe(channel, actor));
        // Once the channel knows of it, nobody is there.
        wait_for("nobody to be there", || (deliver(node, channel, "late", 0) == Ok(0)).then_some(()));
        send(node, channel, "unheard");
        assert_eq!(join(node, channel, actor), Ok(()));
        send(node, channel, "heard");
        let last = heard_until(&told, |heard| *heard == text("heard"));
        assert!(
            !last.contains(&text("unheard"))
                && last.iter().filter(|what| **what == text("heard")).count() == 1
        );
        node.step(move |cx| cx.unsubscribe(channel, actor));
        assert!(told.recv_timeout(millis(20)).is_err(), "to unsubscribe is no end");
    }
    here.wait_for_counts("no relay", |counts| counts.relays == 0);
}

#[test]
fn closing_tells_each_subscriber_once() {
    let (there, here) = Net::new().pair();
    let channel = open(&there, "news");
    let told: Vec<_> = [&here, &there, &here].map(|node| subscriber(node, channel).1).into();
    here.step(move |cx| cx.close_channel(channel));
    for told in &told {
        assert_eq!(heard(told), Heard::Down(channel.id(), End::Terminated));
    }
    for node in [&here, &there] {
        wait_for("the end to be known", || {
            (join(node, channel, listener(node).0) == Err(SubscribeError::NoChannel)).then_some(())
        });
        assert_eq!(deliver(node, channel, "late", 0), Err(DeliverError::Refused(Undelivered::NoActor)));
        let (actor, plain) = listener(node);
        node.step(move |cx| cx.subscribe(channel, actor));
        assert_eq!(heard(&plain), Heard::Down(channel.id(), End::NoActor));
    }
    let back = there.step(move |cx| cx.send(channel, "mine".to_owned()));
    assert!(matches!(back, Err(SendError::NoActor(text)) if text == "mine"), "the message comes back");
    assert!(told.iter().all(|told| told.try_recv().is_err()), "there is one Down");
    here.wait_for_counts("no relay", |counts| counts.relays == 0);
    assert_eq!(there.counts().names, 0, "the name is free again");
    open(&there, "news");
}

#[test]
fn an_ear_subscribes_and_its_actor_is_told_of_the_end() {
    let (there, here) = Net::new().pair();
    let news = open(&there, "news");
    let mut all = Vec::new();
    for (count, node) in [(1, &here), (2, &there)] {
        let (tell, told) = channel();
        node.spawn(move |cx: &mut Cx<usize>, event| {
            match event {
                Event::Start => {
                    let adapter = cx.adapter(|text: String| text.len());
                    cx.subscribe(news, adapter);
                }
                Event::Message(len) => tell_test(&tell, Ok(len)),
                Event::Down(down) => tell_test(&tell, Err(down.actor)),
                _ => {}
            }
            receive()
        });
        assert_eq!(deliver(&there, news, "seven b", count), Ok(count));
        assert_eq!(heard(&told), Ok(7));
        all.push(told);
    }
    assert_eq!(heard(&all[0]), Ok(7));
    there.step(move |cx| cx.close_channel(news));
    for told in all {
        assert_eq!(heard(&told), Err(news.id()));
    }
}

#[test]
fn subscribers_of_a_lost_node_are_forgotten_and_those_to_one_are_told() {
    let net = Net::new();
    let (there, here) = net.pair();
    let mine = open(&here, "mine");
    let theirs = open(&there, "theirs");
    let (_, lost) = subscriber(&here, theirs);
    let _far = subscriber(&there, mine);
    let (_, near) = subscriber(&here, mine);
    assert_eq!(deliver(&here, mine, "all", 2), Ok(2));
    assert_eq!(heard(&near), text("all"));
    there.stop();
    assert_eq!(heard(&lost), Heard::Down(theirs.id(), End::NodeLost));
    assert_eq!(deliver(&here, mine, "who is left", 0), Ok(1));
    here.wait_for_counts("no relay", |counts| counts.relays == 0);
}

#[test]
fn a_delivery_waits_for_its_subscribers_and_counts_them() {
    let (there, here) = Net::new().pair();
    let channel = open(&there, "news");
    for node in [&here, &there] {
        let few = heard(&delivering(node, channel, "too early", 1, millis(50)));
        assert_eq!(few, Err(DeliverError::TooFew { subscribers: 0 }));
        assert_eq!(deliver(node, channel, "nobody", 0), Ok(0));
    }
    let waiting = delivering(&here, channel, "at last", 3, PATIENCE);
    let one = subscriber(&here, channel).1;
    let two = subscriber(&there, channel).1;
    let few = heard(&delivering(&there, channel, "too few", 3, millis(50)));
    assert_eq!(few, Err(DeliverError::TooFew { subscribers: 2 }));
    assert!(waiting.try_recv().is_err());
    let three = subscriber(&here, channel).1;
    assert_eq!(heard(&waiting), Ok(3));
    for told in [one, two, three] {
        assert_eq!(heard(&told), text("at last"), "what had too few was not delivered");
    }
}

#[test]
fn a_channel_has_so_many_deliveries_under_way_and_no_more() {
    let node = Net::new().quiet_node("alone", &[]);
    let channel = open(&node, "news");
    let (tell, told) = std::sync::mpsc::channel();
    node.spawn(move |cx, event| {
        match event {
            Event::Start => {
                for _ in 0..1025 {
                    cx.deliver_all(channel, String::new(), 1, secs(600), |answer| answer);
                }
            }
            Event::Message(answer) => tell_test(&tell, answer),
            _ => {}
        }
        receive()
    });
    assert_eq!(heard(&told), Err(DeliverError::TooManyDeliveries));
    let _one = subscriber(&node, channel);
    (0..1024).for_each(|_| assert_eq!(heard(&told), Ok(1)));
    let waiting = delivering(&node, channel, "never", 9, PATIENCE);
    node.step(move |cx| cx.close_channel(channel));
    assert_eq!(heard(&waiting), Err(DeliverError::Refused(Undelivered::NoActor)));
}

#[test]
fn a_peer_has_a_few_deliveries_waiting_and_others_still_have_theirs() {
    let (there, here) = Net::new().pair();
    let channel = open(&there, "news");
    let (tell, told) = std::sync::mpsc::channel();
    here.spawn(move |cx, event| {
        match event {
            Event::Start => {
                for _ in 0..65 {
                    cx.deliver_all(channel, String::new(), 1, Duration::MAX, |answer| answer);
                }
            }
            Event::Message(answer) => tell_test(&tell, answer),
            _ => {}
        }
        receive()
    });
    assert_eq!(heard(&told), Err(DeliverError::TooManyDeliveries));
    let own = delivering(&there, channel, "own", 1, Duration::MAX);
    assert_eq!(deliver(&there, channel, "at once", 0), Ok(0));
    let _one = subscriber(&there, channel);
    (0..64).for_each(|_| assert_eq!(heard(&told), Ok(1)));
    assert_eq!(heard(&own), Ok(1));
}

#[test]
fn subscribers_of_the_channels_own_node_cost_a_delivery_no_answers() {
    const MANY: usize = 16_400;
    let node = Net::new().quiet_node("alone", &[]);
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
fn a_transform_changes_or_drops_and_its_panic_costs_one_message() {
    let (there, here) = Net::new().pair();
    let channel = there.with(|node| {
        node.channel_with("loud", |name, text: String| match &*text {
            "drop" => None,
            // Without a word on standard error.
            "panic" => std::panic::resume_unwind(Box::new("on purpose")),
            _ => Some(format!("{name}: {}", text.to_uppercase())),
        })
    });
    let channel = channel.expect("the name is free");
    let (_, told) = subscriber(&here, channel);
    assert_eq!(deliver(&here, channel, "drop", 1), Ok(0));
    assert_eq!(deliver(&here, channel, "panic", 1), Ok(0));
    send(&here, channel, "drop");
    send(&here, channel, "panic");
    assert_eq!(deliver(&here, channel, "hello", 1), Ok(1));
    assert_eq!(heard(&told), text("loud: HELLO"));
    assert_eq!(
        there.log.lines("transform of a channel panicked").len(),
        1,
        "of what may come again and again"
    );
    assert!(told.try_recv().is_err());
}

#[test]
fn the_ends_of_subscribers_end_their_subscriptions_also_under_way() {
    let (there, here) = Net::new().pair();
    let channel = open(&there, "news");
    let others: Vec<_> = [&here, &there, &here].map(|node| subscriber(node, channel)).into();
    for (node, (actor, _)) in [&there, &here].into_iter().zip(&others[1..]) {
        let actor = *actor;
        node.step(move |cx| cx.terminate(actor));
    }
    // Some of these find them dying; none hangs, and none counts the dead.
    wait_for("the dead to be forgotten", || {
        let count = deliver(&there, channel, "who is there", 0).expect("it is answered");
        assert!((1..=3).contains(&count));
        (count == 1).then_some(())
    });
    let few = heard(&delivering(&there, channel, "two", 2, millis(50)));
    assert_eq!(few, Err(DeliverError::TooFew { subscribers: 1 }));
}

#[test]
fn a_subscriber_on_a_third_node_receives_its_own_copy() {
    let net = Net::new();
    let there = net.quiet_node("there", &[]);
    let here = net.quiet_node("here", &[there.location]);
    let third = net.quiet_node("third", &[there.location, here.location]);
    third.wait_for_peers(2);
    let channel = open(&there, "news");
    let (actor, told) = listener(&third);
    third.spawn(move |cx: &mut Cx<Addr<String>>, event| match event {
        Event::Start => {
            cx.register("gate")?;
            receive()
        }
        _ => stop(),
    });
    // Its address travels to `here`, which subscribes it.
    let gate = here.spawn(move |cx: &mut Cx<Addr<String>>, event| {
        match event {
            Event::Start => cx.register("desk")?,
            Event::Message(actor) => cx.subscribe(channel, actor),
            _ => {}
        }
        receive()
    });
    let desk: Addr<Addr<String>> = third.find("desk");
    assert_eq!(desk.id(), gate.id());
    third.step(move |cx| cx.send(desk, actor).is_ok());
    assert_eq!(deliver(&here, channel, "far", 1), Ok(1));
    assert_eq!(heard(&told), text("far"));
    assert_eq!(here.counts().relays + third.counts().relays, 0);
    third.stop();
    wait_for("it is forgotten", || (deliver(&here, channel, "gone", 0) == Ok(0)).then_some(()));
}

#[test]
fn names_of_channels_are_a_space_of_their_own() {
    let (there, here) = Net::new().pair();
    let channel = open(&there, "name");
    let _actor = there.listener::<u64>("name");
    assert_eq!(locate(&here, "name"), Ok(channel));
    assert_eq!(here.find::<u64>("name").node(), channel.node());
    let wrong = LocateError::WrongType { wanted: "u64".into(), found: "str".into() };
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
    there.step(move |cx| cx.close_channel(mine.0.expect("it was opened")));
    there.step(move |cx| cx.close_channel(again.expect("the name was free")));
    wait_for("all to be as before", || (there.stats().actors == actors).then_some(()));
}

#[test]
fn a_channel_travels_in_messages() {
    let (there, here) = Net::new().pair();
    let channel = open(&there, "secret");
    let told = there.listener::<Channel<String>>("desk");
    let desk: Addr<Channel<String>> = here.find("desk");
    assert_eq!(here.deliver(desk, channel), Ok(()));
    assert_eq!(heard(&told), channel);
    assert_eq!(size_of::<Channel<String>>(), 24);
}

#[test]
fn channels_below_channels_pass_on_what_they_get() {
    let (there, here) = Net::new().pair();
    let (top, middle, bottom) = (open(&there, "top"), open(&here, "middle"), open(&there, "bottom"));
    assert_eq!(join(&here, top, middle), Ok(()));
    assert_eq!(join(&here, middle, bottom), Ok(()));
    let told: Vec<_> = [top, middle, bottom].map(|channel| subscriber(&here, channel).1).into();
    assert_eq!(deliver(&here, top, "all", 3), Ok(3));
    assert_eq!(deliver(&here, middle, "two", 2), Ok(2));
    assert_eq!(deliver(&there, bottom, "one", 1), Ok(1));
    assert_eq!(heard(&told[0]), text("all"));
    assert_eq!((heard(&told[1]), heard(&told[1])), (text("all"), text("two")));
    assert_eq!((heard(&told[2]), heard(&told[2]), heard(&told[2])), (text("all"), text("two"), text("one")));
    here.step(move |cx| cx.unsubscribe(top, middle));
    wait_for("the branch to be cut", || (deliver(&here, top, "top", 0) == Ok(1)).then_some(()));
    // A channel that ends takes nobody along.
    here.step(move |cx| cx.close_channel(middle));
    assert_eq!(heard(&told[1]), Heard::Down(middle.id(), End::Terminated));
    assert_eq!(deliver(&there, bottom, "alive", 1), Ok(1));
}

#[test]
fn cycles_of_channels_are_refused() {
    let (there, here) = Net::new().pair();
    let three = [
        [(&here, "a0"), (&here, "b0"), (&here, "c0")],
        [(&there, "a1"), (&here, "b1"), (&there, "c1")],
        [(&there, "a2"), (&there, "b2"), (&here, "c2")],
    ];
    for nodes in three {
        let [a, b, c] = nodes.map(|(node, name)| open(node, name));
        let [of_a, of_b, of_c] = nodes.map(|(node, _)| node);
        assert_eq!(join(&here, a, a), Err(SubscribeError::Cycle));
        assert_eq!(join(of_a, a, b), Ok(()));
        assert_eq!(join(&here, b, a), Err(SubscribeError::Cycle));
        assert_eq!(join(of_b, b, c), Ok(()));
        assert_eq!(join(&here, c, a), Err(SubscribeError::Cycle));
        assert_eq!(join(&there, c, b), Err(SubscribeError::Cycle));
        let (_, told) = subscriber(&there, c);
        assert_eq!(deliver(&here, a, "through", 1), Ok(1));
        assert_eq!(heard(&told), text("through"));
        assert!(told.recv_timeout(millis(20)).is_err(), "once");
        // When it is undone, the other direction is free.
        of_a.step(move |cx| cx.unsubscribe(a, b));
        wait_for("the channel to be free", || (deliver(&here, a, "x", 0) == Ok(0)).then_some(()));
        wait_for("the other direction", || join(of_c, c, a).is_ok().then_some(()));
    }
}

#[test]
fn two_that_subscribe_to_each_other_at_once_do_not_stay_so() {
    let (there, here) = Net::new().pair();
    for (a, b) in [("a0", "b0"), ("a1", "b1"), ("a2", "b2"), ("a3", "b3"), ("a4", "b4")] {
        let (a, b) = (open(&there, a), open(&here, b));
        let (_, told) = subscriber(&here, b);
        // Each is asked for on the channel's own node, at the same time.
        let answers = [joining(&there, a, b, PATIENCE), joining(&here, b, a, PATIENCE)];
        let joined: Vec<_> = answers.iter().map(heard).collect();
        assert!(joined.iter().any(Result::is_err), "{joined:?}");
        assert!(joined.iter().flat_map(|joined| joined.err()).all(|reason| reason == SubscribeError::Cycle));
        send(&here, b, "end");
        assert_eq!(heard(&told), text("end"));
        assert!(told.recv_timeout(millis(10)).is_err(), "nothing goes in circles");
    }
}

#[test]
fn after_a_thousand_rounds_all_tables_are_as_before() {
    let (there, here) = Net::new().pair();
    let channel = open(&there, "news");
    let closed = open(&there, "closed");
    there.step(move |cx| cx.close_channel(closed));
    let before = |node: &TestNode| {
        let (stats, counts) = (node.stats(), node.counts());
        (
            stats.actors,
            stats.requests,
            stats.timers,
            stats.extras,
            counts.relays,
            counts.monitors,
            counts.names,
        )
    };
    assert_eq!(join(&here, closed, listener(&here).0), Err(SubscribeError::NoChannel));
    let rounds = |node: &TestNode, done: Sender<()>| {
        let mut left = 1000;
        node.spawn(move |cx: &mut Cx<Option<String>>, event| {
            match event {
                Event::Start => cx.push_self(None),
                Event::Message(None) if left == 0 => {
                    tell_test(&done, ());
                    return stop();
                }
                Event::Message(None) => {
                    left -= 1;
                    // One that ends at once, one that is refused, one that unsubscribes, and failing deliveries.
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
        let (tables, others) = (before(&here), before(&there));
        let (done, told) = std::sync::mpsc::channel();
        rounds(node, done);
        told.recv_timeout(secs(60)).expect("a thousand rounds end");
        wait_for("tables as before", || {
            let now = (before(&here), before(&there));
            (now == (tables, others)).then_some(())
        });
    }
}

#[test]
fn a_down_of_a_channel_is_the_only_one() {
    // A subscriber that also monitors the channel has one Down of each.
    let node = Net::new().quiet_node("alone", &[]);
    let news = open(&node, "news");
    let (tell, told) = channel();
    node.spawn(move |cx: &mut Cx<String>, event| {
        match event {
            Event::Start => {
                cx.monitor(news);
                let me = cx.addr();
                cx.subscribe(news, me);
                cx.close_channel(news);
            }
            Event::Down(Down { actor, .. }) => tell_test(&tell, actor),
            _ => {}
        }
        receive()
    });
    assert_eq!((heard(&told), heard(&told)), (news.id(), news.id()));
    assert!(told.recv_timeout(millis(20)).is_err());
}
