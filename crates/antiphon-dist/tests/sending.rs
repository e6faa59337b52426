//! Messages and signals to another node: bounds of the send queue, backpressure, and dead letters.

mod common;

use std::sync::mpsc::{Receiver, channel};

use antiphon_dist::{Config, DeliverError, Limits, NetCx, Status};
use antiphon_sched::{
    Addr, AskError, Bytes, Cx, Event, ExitReason, LoopConfig, PayloadError, ReplyTo, SendError, Undelivered,
    exit, fail, millis, receive, secs, stop, suspend,
};
use common::{Exit, Net, PATIENCE, TestNode, recv, recv_until, report, wait_for};
use serde::{Deserialize, Serialize};

/// An actor that receives consecutive numbers, and reports their count after every `each` numbers.
fn counter(node: &TestNode, name: &'static str, each: u64) -> Receiver<u64> {
    let (sender, received) = channel();
    let (ready, registered) = channel();
    let mut next = 0;
    node.spawn(move |cx: &mut Cx<u64>, event| {
        match event {
            Event::Start => {
                cx.register(name)?;
                report(&ready, ());
            }
            Event::Message(number) => {
                if number != next {
                    return fail(format!("received {number}, expected {next}"));
                }
                next += 1;
                if next % each == 0 {
                    report(&sender, next);
                }
            }
            _ => {}
        }
        receive()
    });
    recv(&registered);
    received
}

#[test]
fn sends_in_unchecked_loop_all_arrive() {
    let (there, here) = Net::new().pair();
    let received = counter(&there, "counter", 100_000);
    let to: Addr<u64> = here.find("counter");
    let refused = here.step(move |cx| (0..100_000).filter(|n| cx.send(to, *n).is_err()).count());
    assert_eq!(refused, 0);
    assert_eq!(recv(&received), 100_000);
}

#[derive(Serialize, Deserialize)]
enum AskForCounter {
    Is(ReplyTo<Addr<u64>>),
}
antiphon_sched::wire!(AskForCounter, "test.where/1");

/// Starts a middle node that is connected to a far and a near node, which are not connected to each other. The far node
/// runs a counter. The near node gets its address in a reply of the middle node.
fn unconnected_nodes(net: &Net, each: u64) -> (TestNode, TestNode, TestNode, Addr<u64>, Receiver<u64>) {
    unconnected_nodes_with(net, each, Limits::default())
}

/// As [`unconnected_nodes`], with limits for the near node.
fn unconnected_nodes_with(
    net: &Net,
    each: u64,
    limits: Limits,
) -> (TestNode, TestNode, TestNode, Addr<u64>, Receiver<u64>) {
    let middle = net.static_node("middle", &[]);
    let far = net.static_node("far", &[middle.location]);
    let near = TestNode::start(Config { limits, ..net.static_config("near", &[middle.location]) });
    let received = counter(&far, "counter", each);
    let counter: Addr<u64> = middle.find("counter");
    middle.spawn(move |cx: &mut Cx<AskForCounter>, event| {
        match event {
            Event::Start => cx.register("where")?,
            Event::Message(AskForCounter::Is(reply)) => cx.reply(reply, counter),
            _ => {}
        }
        receive()
    });
    let ask: Addr<AskForCounter> = near.find("where");
    let counter = near.handle.ask(ask, secs(10), AskForCounter::Is).expect("the middle node replies");
    (middle, far, near, counter, received)
}

#[test]
fn sends_to_unconnected_node_all_arrive() {
    let (_middle, _far, near, to, received) = unconnected_nodes(&Net::new(), 100_000);
    let refused = near.step(move |cx| (0..100_000).filter(|n| cx.send(to, *n).is_err()).count());
    assert_eq!(refused, 0);
    assert_eq!(recv(&received), 100_000);
}

#[test]
fn signals_over_queue_bound_become_dead_letters() {
    const CAP: u64 = 1024 * 1024;
    const EACH: usize = 64 * 1024;
    let limits =
        Limits { queue_bytes_cap: CAP, queue_bytes_high: CAP, queue_bytes_low: CAP / 4, ..Limits::default() };
    let (_middle, _far, near, to, received) = unconnected_nodes_with(&Net::new(), 1, limits);
    let before = near.stats().dead_letters;
    near.step(move |cx| {
        for _ in 0..64 {
            cx.resume(to, Bytes::from(vec![0; EACH]));
        }
    });
    let lost = near.stats().dead_letters - before;
    let fit = CAP / EACH as u64;
    assert!(
        (64 - fit..64).contains(&lost),
        "{lost} of 64 signals are dead letters, and {fit} fit into the queue"
    );
    // The queue accepts messages again after the queued signals are sent.
    assert_eq!(near.step(move |cx| cx.send(to, 0).map_err(|error| error.reason())), Ok(()));
    assert_eq!(recv(&received), 1);
}

#[test]
fn address_in_exit_value_connects_when_used() {
    let net = Net::new();
    let (middle, _far, near, _, received) = unconnected_nodes(&net, 1);
    let counter: Addr<u64> = middle.find("counter");
    middle.spawn(move |cx: &mut Cx<()>, event| match event {
        Event::Start => {
            cx.register("leaver")?;
            receive()
        }
        Event::Message(()) => exit(counter),
        _ => receive(),
    });
    // No message has given the far node's address to this node.
    let other = net.static_node("other", &[middle.location]);
    let leaver: Addr<()> = other.find("leaver");
    other.spawn(move |cx: &mut Cx<()>, event| match event {
        Event::Start => {
            cx.monitor(leaver);
            cx.send(leaver, ())?;
            receive()
        }
        Event::Down(down) => {
            let ExitReason::Done(value) = down.reason else { return fail(down.reason) };
            cx.send(value.get::<Addr<u64>>()?, 0)?;
            stop()
        }
        _ => receive(),
    });
    assert_eq!(recv(&received), 1);
    drop(near);
}

/// Sends `count` numbers with `try_send`, and continues at each `Event::Writable`. The receiver gets how often the queue
/// was full.
fn try_all(node: &TestNode, to: Addr<u64>, count: u64) -> Receiver<u32> {
    let (sender, results) = channel();
    let (mut next, mut busy) = (0, 0);
    node.spawn(move |cx: &mut Cx<()>, event| {
        if !matches!(event, Event::Start | Event::Writable { .. }) {
            return receive();
        }
        while next < count {
            match cx.try_send(to, next) {
                Ok(()) => next += 1,
                Err(error) if error.reason() == Undelivered::Busy => {
                    busy += 1;
                    return receive();
                }
                Err(error) => return fail(error.to_string()),
            }
        }
        report(&sender, busy);
        stop()
    });
    results
}

#[test]
fn try_send_over_high_mark_continues_when_writable() {
    let (there, here) = Net::new().pair();
    let received = counter(&there, "counter", 200_000);
    let to = here.find("counter");
    let tried = try_all(&here, to, 200_000);
    assert!(recv(&tried) > 0, "the numbers exceed the high mark");
    assert_eq!(recv(&received), 200_000);
}

#[test]
fn try_send_to_unconnected_node_continues_when_connected() {
    let (_middle, _far, near, to, received) = unconnected_nodes(&Net::new(), 200_000);
    let tried = try_all(&near, to, 200_000);
    assert!(recv(&tried) > 0, "the numbers exceed the high mark");
    assert_eq!(recv(&received), 200_000);
}

#[test]
fn try_send_accepts_message_above_high_mark() {
    let (there, here) = Net::new().pair();
    let received = there.listener::<Bytes>("bytes");
    let to: Addr<Bytes> = here.find("bytes");
    let (sender, tried) = channel();
    let mut left = 3;
    here.spawn(move |cx: &mut Cx<()>, event| {
        while left > 0 && matches!(event, Event::Start | Event::Writable { .. }) {
            match cx.try_send(to, Bytes::from(vec![left; 3 << 20])) {
                Ok(()) => left -= 1,
                Err(error) if error.reason() == Undelivered::Busy => return receive(),
                Err(error) => return fail(error.to_string()),
            }
        }
        report(&sender, ());
        stop()
    });
    recv(&tried);
    for left in [3, 2, 1] {
        let bytes = recv(&received);
        assert!(bytes.len() == 3 << 20 && bytes.iter().all(|byte| *byte == left));
    }
}

#[test]
fn message_over_size_limit_is_returned() {
    let (there, here) = Net::new().pair();
    let _received = there.listener::<Bytes>("bytes");
    let to: Addr<Bytes> = here.find("bytes");
    let result = here.step(move |cx| cx.send(to, Bytes::from(vec![0; 17 << 20])));
    let Err(SendError::Payload(returned, reason)) = result else { panic!("the message is over the limit") };
    assert!(
        matches!(reason, PayloadError::TooLarge { bytes, max: 16_777_216 } if bytes >= 17 << 20),
        "{reason:?}"
    );
    assert_eq!(returned.len(), 17 << 20);
}

#[test]
fn request_to_restarted_node_gets_no_actor() {
    let net = Net::new();
    let middle = net.static_node("middle", &[]);
    let server = net.static_node("server", &[]);
    let at = server.location;
    let client = net.static_node("client", &[middle.location]);
    let (sender, found) = channel();
    let _listener = server.listener::<String>("listener");
    client.spawn(move |cx, event| match event {
        Event::Start => {
            cx.locate_at("listener", at, secs(10), |found| found);
            receive()
        }
        Event::Message(addr) => {
            report(&sender, addr);
            stop()
        }
        _ => receive(),
    });
    let stale: Addr<String> = recv(&found).expect("the name is registered");
    let statuses = client.statuses();
    server.stop();
    recv_until(&statuses, |status| *status == ("server".into(), Status::Offline));

    // The node has said goodbye, so it never returns.
    assert_eq!(client.deliver(stale, "first".into()), Err(DeliverError::Refused(Undelivered::NoNode)));
    assert_eq!(recv(&client.monitor(stale)), Exit::NodeLost);

    let server = TestNode::start(Config { tcp_port: at.addr().port(), ..net.static_config("server", &[]) });
    let (sender, connected) = channel();
    client.spawn(move |cx: &mut Cx<bool>, event| match event {
        Event::Start => {
            cx.peer(at, PATIENCE, |found| found.is_ok());
            receive()
        }
        Event::Message(is_connected) => {
            report(&sender, is_connected);
            stop()
        }
        _ => receive(),
    });
    assert!(recv(&connected));
    assert_eq!(client.deliver(stale, "second".into()), Err(DeliverError::Refused(Undelivered::NoActor)));
    let asked = client.handle.ask(stale, secs(10), |_: ReplyTo<()>| "third".to_owned());
    assert!(matches!(asked, Err(AskError::NoActor | AskError::Dropped)), "{asked:?}");
    drop(server);
}

/// A node with mailboxes of 16 messages.
fn narrow(net: &Net, name: &str) -> TestNode {
    let scheduler = LoopConfig { mailbox_max: 16, ..LoopConfig::default() };
    TestNode::start(Config { scheduler, ..net.static_config(name, &[]) })
}

#[test]
fn full_mailbox_keeps_messages_and_down_in_order() {
    let net = Net::new();
    let there = narrow(&net, "narrow");
    let here = net.static_node("here", &[there.location]);
    let (sender, received) = channel();
    there.spawn(move |cx: &mut Cx<u64>, event| {
        match event {
            Event::Start => cx.register("narrow")?,
            Event::Message(number) => report(&sender, Ok(number)),
            Event::Down(down) => report(&sender, Err(Exit::of(down))),
            _ => {}
        }
        receive()
    });
    let to: Addr<u64> = here.find("narrow");
    here.spawn(move |cx: &mut Cx<()>, _| {
        cx.notify(to);
        for number in 0..50_000 {
            cx.send(to, number)?;
        }
        stop()
    });
    for number in 0..50_000 {
        assert_eq!(recv(&received), Ok(number));
    }
    assert_eq!(recv(&received), Err(Exit::Done));
}

/// An actor that reports its messages, and then `None` when it is terminated.
fn spawn_terminated(there: &TestNode) -> Receiver<Option<u64>> {
    let (sender, received) = channel();
    there.spawn(move |cx: &mut Cx<u64>, event| {
        match event {
            Event::Start => cx.register("terminated")?,
            Event::Message(number) => report(&sender, Some(number)),
            Event::Terminate => report(&sender, None),
            _ => {}
        }
        receive()
    });
    received
}

/// Sends 1,000 messages and then `terminate`.
fn send_and_terminate(here: &TestNode) {
    let to: Addr<u64> = here.find("terminated");
    here.step(move |cx| {
        for number in 0..1_000 {
            cx.tell(to, number);
        }
        cx.terminate(to);
    });
}

#[test]
fn terminate_does_not_overtake_earlier_messages() {
    let net = Net::new();
    let there = net.static_node("there", &[]);
    let here = net.static_node("here", &[there.location]);
    let received = spawn_terminated(&there);
    send_and_terminate(&here);
    for number in 0..1_000 {
        assert_eq!(recv(&received), Some(number));
    }
    assert_eq!(recv(&received), None);
}

/// `terminate` overtakes messages that wait for a full mailbox. They become dead letters.
#[test]
fn terminate_overtakes_messages_for_full_mailbox() {
    let net = Net::new();
    let there = narrow(&net, "narrow");
    let here = net.static_node("here", &[there.location]);
    let received = spawn_terminated(&there);
    send_and_terminate(&here);
    let mut number = 0;
    while let Some(next) = recv(&received) {
        assert_eq!(next, number);
        number += 1;
    }
    assert!(number < 1_000, "it overtakes");
    wait_for("all others to be dead letters", || {
        (there.stats().dead_letters == 1_000 - number).then_some(())
    });
}

#[test]
fn node_exit_with_remote_backlog_loses_nothing() {
    let net = Net::new();
    let there = narrow(&net, "narrow");
    let received = counter(&there, "counter", 20_000);
    let here = net.static_node("here", &[there.location]);
    let to: Addr<u64> = here.find("counter");
    here.step(move |cx| (0..20_000).for_each(|number| cx.tell(to, number)));
    here.with(|node| node.run()).expect("the peer acknowledges all messages");
    here.stop();
    assert_eq!(recv(&received), 20_000);
}

#[test]
fn slow_actor_delays_only_its_own_messages() {
    let net = Net::new();
    let there = narrow(&net, "narrow");
    let here = net.static_node("here", &[there.location]);
    let (start, started) = channel::<()>();
    let mut is_started = false;
    let (sender, received) = channel();
    // The actor receives nothing until the test starts it. The messages to it exceed the window.
    there.spawn(move |cx: &mut Cx<Bytes>, event| {
        match event {
            Event::Start => cx.register("slow")?,
            Event::Message(bytes) => report(&sender, bytes.len()),
            _ => {}
        }
        is_started |= started.try_recv().is_ok();
        if is_started { receive() } else { antiphon_sched::sleep(millis(5)) }
    });
    let quick = there.listener::<String>("quick");
    let slow: Addr<Bytes> = here.find("slow");
    let other: Addr<String> = here.find("quick");
    here.step(move |cx| (0..4_000).for_each(|_| cx.tell(slow, Bytes::from(vec![7; 1_000]))));
    there.wait_for_counts("a backlog", |counts| counts.backlog_bytes > 0);
    for _ in 0..20 {
        assert_eq!(here.deliver(other, "quick".into()), Ok(()));
        assert_eq!(recv(&quick), "quick");
    }
    let backlog = there.counts().backlog_bytes;
    assert!((1..=9 << 20).contains(&backlog), "the backlog has {backlog} bytes");
    assert_eq!(received.try_iter().count(), 0, "the slow actor received messages before its start");
    start.send(()).expect("the actor runs");
    let mut left = 4_000;
    drop(recv_until(&received, |_| {
        left -= 1;
        left == 0
    }));
    there.wait_for_counts("an empty backlog", |counts| counts.backlog_bytes == 0);
}

/// While the mailbox is full, messages to the actor and to its adapter wait in one queue.
#[test]
fn full_mailbox_keeps_order_across_adapter() {
    let net = Net::new();
    let scheduler = LoopConfig { mailbox_max: 4, ..LoopConfig::default() };
    let there = TestNode::start(Config { scheduler, ..net.static_config("there", &[]) });
    let here = net.static_node("here", &[there.location]);
    here.wait_for_peers(1);
    let (made, adapters) = channel();
    let (sender, received) = channel();
    let mut is_resumed = false;
    // Receives no message until it is resumed.
    let actor = there.spawn(move |cx: &mut Cx<u64>, event| {
        match event {
            Event::Start => {
                let adapter: Addr<String> =
                    cx.adapter(|text: String| text.len() as u64).expect("the limit is not reached");
                let own = Addr::<u64>::of(cx.id());
                assert!(cx.loop_ref().service().expose(own) && cx.loop_ref().service().expose(adapter));
                report(&made, adapter.id());
            }
            Event::Message(number) => report(&sender, number),
            Event::Resumed(_) => is_resumed = true,
            _ => {}
        }
        if is_resumed { receive() } else { suspend() }
    });
    let (actor, adapter) = (Addr::<u64>::of(actor.id()), Addr::<String>::of(recv(&adapters)));
    assert_eq!(adapter.id().actor(), actor.id());
    here.step(move |cx| {
        for number in 0..20 {
            if number % 3 == 1 {
                cx.tell(adapter, "x".repeat(number));
            } else {
                cx.tell(actor, number as u64);
            }
        }
    });
    there.wait_for_counts("sixteen messages in the backlog", |counts| counts.backlog_bytes >= 16 * 64);
    there.step(move |cx| cx.resume(actor, ()));
    assert_eq!((0..20).map(|_| recv(&received)).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
}
