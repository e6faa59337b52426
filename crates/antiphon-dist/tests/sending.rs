//! The way to another node: how much it takes, whom it holds back, and what becomes of the rest.

mod common;

use std::sync::mpsc::{Receiver, channel};

use antiphon_dist::{Config, DeliverError, Limits, NetCx, Status};
use antiphon_sched::{
    Addr, AskError, Bytes, Cx, Event, ExitReason, LoopConfig, ReplyTo, Undelivered, exit, fail, millis,
    receive, secs, stop,
};
use common::{End, Net, TestNode, heard, heard_until, tell_test};
use serde::{Deserialize, Serialize};

/// An actor elsewhere that takes numbers; every so many it tells how far it came.
fn counter(node: &TestNode, name: &'static str, each: u64) -> Receiver<u64> {
    let (tell, told) = channel();
    let (ready, registered) = channel();
    let mut next = 0;
    node.spawn(move |cx: &mut Cx<u64>, event| {
        match event {
            Event::Start => {
                cx.register(name)?;
                tell_test(&ready, ());
            }
            Event::Message(number) => {
                if number != next {
                    return fail(format!("{number} came where {next} was next"));
                }
                next += 1;
                if next % each == 0 {
                    tell_test(&tell, next);
                }
            }
            _ => {}
        }
        receive()
    });
    heard(&registered);
    told
}

#[test]
fn a_hundred_thousand_sends_in_a_naive_loop_all_arrive() {
    let (there, here) = Net::new().pair();
    let told = counter(&there, "counter", 100_000);
    let to: Addr<u64> = here.find("counter");
    let refused = here.step(move |cx| (0..100_000).filter(|n| cx.send(to, *n).is_err()).count());
    assert_eq!(refused, 0);
    assert_eq!(heard(&told), 100_000);
}

#[derive(Serialize, Deserialize)]
enum Where {
    Is(ReplyTo<Addr<u64>>),
}
antiphon_sched::wire!(Where, "test.where/1");

/// A node in the middle that knows both others, who do not know each other; and the address of an actor that
/// counts on the third, as the first was told it.
fn strangers(net: &Net, each: u64) -> (TestNode, TestNode, TestNode, Addr<u64>, Receiver<u64>) {
    strangers_within(net, each, Limits::default())
}

/// The same, with limits for the near one.
fn strangers_within(
    net: &Net,
    each: u64,
    limits: Limits,
) -> (TestNode, TestNode, TestNode, Addr<u64>, Receiver<u64>) {
    let hub = net.quiet_node("hub", &[]);
    let far = net.quiet_node("far", &[hub.location]);
    let near = TestNode::start(Config { limits, ..net.quiet("near", &[hub.location]) });
    let told = counter(&far, "counter", each);
    let counter: Addr<u64> = hub.find("counter");
    hub.spawn(move |cx: &mut Cx<Where>, event| {
        match event {
            Event::Start => cx.register("where")?,
            Event::Message(Where::Is(reply)) => cx.reply(reply, counter),
            _ => {}
        }
        receive()
    });
    let ask: Addr<Where> = near.find("where");
    let counter = near.handle.ask(ask, secs(10), Where::Is).expect("the hub answers");
    (hub, far, near, counter, told)
}

#[test]
fn a_hundred_thousand_sends_to_a_node_that_was_never_met_all_arrive() {
    let (_hub, _far, near, to, told) = strangers(&Net::new(), 100_000);
    let refused = near.step(move |cx| (0..100_000).filter(|n| cx.send(to, *n).is_err()).count());
    assert_eq!(refused, 0);
    assert_eq!(heard(&told), 100_000);
}

#[test]
fn signals_that_wait_for_a_node_have_a_bound_and_the_rest_are_dead_letters() {
    const CAP: u64 = 1024 * 1024;
    const EACH: usize = 64 * 1024;
    let limits =
        Limits { queue_bytes_cap: CAP, queue_bytes_high: CAP, queue_bytes_low: CAP / 4, ..Limits::default() };
    let (_hub, _far, near, to, told) = strangers_within(&Net::new(), 1, limits);
    let before = near.stats().dead_letters;
    near.step(move |cx| {
        for _ in 0..64 {
            cx.resume(to, Bytes(vec![0; EACH]));
        }
    });
    let lost = near.stats().dead_letters - before;
    let fit = CAP / EACH as u64;
    assert!((64 - fit..64).contains(&lost), "{lost} of 64 are dead letters, where {fit} fit");
    // The way is as open as before: what waited has gone out, and room is made.
    near.step(move |cx| cx.send(to, 0).is_ok());
    assert_eq!(heard(&told), 1);
}

#[test]
fn an_address_in_an_exit_value_is_dialled_when_it_is_used() {
    let net = Net::new();
    let (hub, _far, near, _, told) = strangers(&net, 1);
    let counter: Addr<u64> = hub.find("counter");
    hub.spawn(move |cx: &mut Cx<()>, event| match event {
        Event::Start => {
            cx.register("leaver")?;
            receive()
        }
        Event::Message(()) => exit(counter),
        _ => receive(),
    });
    // This one was never told of the third node by a message.
    let other = net.quiet_node("other", &[hub.location]);
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
    assert_eq!(heard(&told), 1);
    drop(near);
}

/// Tries to send so many numbers; goes on whenever it is told that there is room. Answers how often there was none.
fn try_all(node: &TestNode, to: Addr<u64>, count: u64) -> Receiver<u32> {
    let (tell, told) = channel();
    let (mut next, mut busy) = (0, 0);
    node.spawn(move |cx: &mut Cx<()>, event| {
        if !matches!(event, Event::Start | Event::Writable(_)) {
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
        tell_test(&tell, busy);
        stop()
    });
    told
}

#[test]
fn try_send_keeps_to_the_high_mark_and_goes_on_when_there_is_room() {
    let (there, here) = Net::new().pair();
    let told = counter(&there, "counter", 200_000);
    let to = here.find("counter");
    let tried = try_all(&here, to, 200_000);
    assert!(heard(&tried) > 0, "several MiB at once are more than the high mark");
    assert_eq!(heard(&told), 200_000);
}

#[test]
fn try_send_to_a_node_that_was_never_met_goes_on_when_it_is() {
    let (_hub, _far, near, to, told) = strangers(&Net::new(), 200_000);
    let tried = try_all(&near, to, 200_000);
    assert!(heard(&tried) > 0);
    assert_eq!(heard(&told), 200_000);
}

#[test]
fn a_message_above_the_high_mark_can_be_tried() {
    let (there, here) = Net::new().pair();
    let told = there.listener::<Bytes>("bytes");
    let to: Addr<Bytes> = here.find("bytes");
    let (tell, tried) = channel();
    let mut left = 3;
    here.spawn(move |cx: &mut Cx<()>, event| {
        while left > 0 && matches!(event, Event::Start | Event::Writable(_)) {
            if cx.try_send(to, Bytes(vec![left; 3 << 20])).is_err() {
                return receive();
            }
            left -= 1;
        }
        tell_test(&tell, ());
        stop()
    });
    heard(&tried);
    for left in [3, 2, 1] {
        let bytes = heard(&told);
        assert!(bytes.0.len() == 3 << 20 && bytes.0.iter().all(|byte| *byte == left));
    }
}

#[test]
fn a_message_over_the_limit_comes_back() {
    let (there, here) = Net::new().pair();
    let _told = there.listener::<Bytes>("bytes");
    let to: Addr<Bytes> = here.find("bytes");
    let error = here.step(move |cx| cx.send(to, Bytes(vec![0; 17 << 20])).map_err(|error| error.reason()));
    assert_eq!(error, Err(Undelivered::TooLarge));
}

#[test]
fn what_waits_for_a_node_that_was_restarted_is_answered_when_the_new_one_is_known() {
    let net = Net::new();
    let hub = net.quiet_node("hub", &[]);
    let server = net.quiet_node("server", &[]);
    let at = server.location;
    let client = net.quiet_node("client", &[hub.location]);
    let (tell, found) = channel();
    let _orders = server.listener::<String>("listener");
    client.spawn(move |cx, event| match event {
        Event::Start => {
            cx.locate_at("listener", at, secs(10), |found| found);
            receive()
        }
        Event::Message(addr) => {
            tell_test(&tell, addr);
            stop()
        }
        _ => receive(),
    });
    let stale: Addr<String> = heard(&found).expect("it is there");
    let statuses = client.statuses();
    server.stop();
    heard_until(&statuses, |told| *told == ("server".into(), Status::Offline));

    // Nobody is there now: these wait.
    let receipt = client.delivering(stale, "anybody?".into(), secs(60));
    let down = client.watch(stale);
    assert_eq!(receipt.recv_timeout(millis(200)).ok(), None);

    let server = TestNode::start(Config { tcp_port: at.addr().port(), ..net.quiet("server", &[]) });
    assert_eq!(heard(&receipt), Err(DeliverError::Refused(Undelivered::NoActor)));
    assert_eq!(heard(&down), End::NoActor);
    assert_eq!(client.deliver(stale, "still?".into()), Err(DeliverError::Refused(Undelivered::NoActor)));
    let asked = client.handle.ask(stale, secs(10), |_: ReplyTo<()>| "and now?".to_owned());
    assert!(matches!(asked, Err(AskError::NoActor | AskError::Dropped)), "{asked:?}");
    drop(server);
}

/// A node whose mailboxes hold few messages.
fn narrow(net: &Net, name: &str) -> TestNode {
    let scheduler = LoopConfig { mailbox_max: 16, ..LoopConfig::default() };
    TestNode::start(Config { scheduler, ..net.quiet(name, &[]) })
}

#[test]
fn what_finds_a_full_mailbox_waits_in_order_and_so_does_the_end() {
    let net = Net::new();
    let there = narrow(&net, "narrow");
    let here = net.quiet_node("here", &[there.location]);
    let (tell, told) = channel();
    there.spawn(move |cx: &mut Cx<u64>, event| {
        match event {
            Event::Start => cx.register("narrow")?,
            Event::Message(number) => tell_test(&tell, Ok(number)),
            Event::Down(down) => tell_test(&tell, Err(End::of(down))),
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
        assert_eq!(heard(&told), Ok(number));
    }
    assert_eq!(heard(&told), Err(End::Done));
}

#[test]
fn a_terminate_does_not_overtake_the_messages_before_it() {
    let net = Net::new();
    let there = narrow(&net, "narrow");
    let here = net.quiet_node("here", &[there.location]);
    let (tell, told) = channel();
    there.spawn(move |cx: &mut Cx<u64>, event| {
        match event {
            Event::Start => cx.register("narrow")?,
            Event::Message(number) => tell_test(&tell, Some(number)),
            Event::Terminate => tell_test(&tell, None),
            _ => {}
        }
        receive()
    });
    let to: Addr<u64> = here.find("narrow");
    here.step(move |cx| {
        for number in 0..1_000 {
            cx.tell(to, number);
        }
        cx.terminate(to);
    });
    for number in 0..1_000 {
        assert_eq!(heard(&told), Some(number));
    }
    assert_eq!(heard(&told), None);
}

#[test]
fn a_node_that_leaves_after_sending_to_a_full_mailbox_loses_nothing() {
    let net = Net::new();
    let there = narrow(&net, "narrow");
    let told = counter(&there, "counter", 20_000);
    let here = net.quiet_node("here", &[there.location]);
    let to: Addr<u64> = here.find("counter");
    here.step(move |cx| (0..20_000).for_each(|number| cx.tell(to, number)));
    here.with(|node| node.run()).expect("all is acknowledged");
    here.stop();
    assert_eq!(heard(&told), 20_000);
}

#[test]
fn a_slow_actor_holds_its_sender_back_and_nobody_else() {
    let net = Net::new();
    let there = narrow(&net, "narrow");
    let here = net.quiet_node("here", &[there.location]);
    let (go, gone) = channel::<()>();
    let mut is_free = false;
    let (tell, told) = channel();
    // It takes nothing until it is let go; the bytes that it is sent are more than the window.
    there.spawn(move |cx: &mut Cx<Bytes>, event| {
        match event {
            Event::Start => cx.register("slow")?,
            Event::Message(bytes) => tell_test(&tell, bytes.0.len()),
            _ => {}
        }
        is_free |= gone.try_recv().is_ok();
        if is_free { receive() } else { antiphon_sched::sleep(millis(5)) }
    });
    let quick = there.listener::<String>("quick");
    let slow: Addr<Bytes> = here.find("slow");
    let other: Addr<String> = here.find("quick");
    here.step(move |cx| (0..4_000).for_each(|_| cx.tell(slow, Bytes(vec![7; 1_000]))));
    there.wait_for_counts("messages to be parked", |counts| counts.backlog_bytes > 0);
    for _ in 0..20 {
        assert_eq!(here.deliver(other, "quick".into()), Ok(()));
        assert_eq!(heard(&quick), "quick");
    }
    let backlog = there.counts().backlog_bytes;
    assert!((1..=9 << 20).contains(&backlog), "{backlog} bytes are parked");
    assert!(told.try_iter().count() < 4_000, "the slow actor was done before the test began");
    go.send(()).expect("the actor lives");
    let mut left = 4_000;
    drop(heard_until(&told, |_| {
        left -= 1;
        left == 0
    }));
    there.wait_for_counts("the parking to be empty", |counts| counts.backlog_bytes == 0);
}
