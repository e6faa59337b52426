//! Findings of an adversary. Each test asserts what should hold; a failing test is a finding.
#![allow(missing_docs, clippy::all, clippy::pedantic, clippy::wildcard_enum_match_arm)]

mod common;

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use antiphon_dist::{Config, NetCx};
use antiphon_sched::{
    Addr, Bytes, Cx, Event, LoopConfig, ReplyTo, millis, receive, receive_if, secs, sleep, suspend,
};
use common::{Net, TestNode, recv, report};
use serde::{Deserialize, Serialize};

fn sized(net: &Net, name: &str, mailbox_max: usize) -> TestNode {
    let scheduler = LoopConfig { mailbox_max, ..LoopConfig::default() };
    TestNode::start(Config { scheduler, ..net.static_config(name, &[]) })
}

/// A selective receiver waits for one message. Its mailbox is a bit more than half full, so it has room.
#[test]
fn control_receive_if_gets_wanted_message_in_mailbox_below_half() {
    receive_if_gets_wanted(5);
}

#[test]
fn receive_if_gets_wanted_message_while_mailbox_has_room() {
    receive_if_gets_wanted(9);
}

fn receive_if_gets_wanted(before: u64) {
    let net = Net::new();
    let there = sized(&net, "there", 16);
    let here = net.static_node("here", &[there.location]);
    let (sender, received) = channel();
    there.spawn(move |cx: &mut Cx<u64>, event| match event {
        Event::Start => {
            cx.register("selective")?;
            receive_if(|n: &u64| *n == 99)
        }
        Event::Message(n) => {
            report(&sender, n);
            receive()
        }
        _ => receive(),
    });
    let to: Addr<u64> = here.find("selective");
    here.step(move |cx| (0..before).for_each(|n| cx.send(to, n).expect("room")));
    std::thread::sleep(millis(500));
    here.step(move |cx| cx.send(to, 99).expect("room"));
    let first = received.recv_timeout(secs(8));
    assert_eq!(first, Ok(99), "9 of 16 places are in use, and the message for which it waits is held back");
}

/// As before, with a `Down` that the actor waits for: its place is reserved, but the pause holds it back.
#[test]
fn control_receive_if_gets_down_in_mailbox_below_half() {
    receive_if_gets_down(5);
}

#[test]
fn receive_if_gets_down_while_mailbox_has_room() {
    receive_if_gets_down(9);
}

fn receive_if_gets_down(before: u64) {
    let net = Net::new();
    let there = sized(&net, "there", 16);
    let here = net.static_node("here", &[there.location]);
    let (sender, received) = channel();
    there.spawn(move |cx: &mut Cx<u64>, event| match event {
        Event::Start => {
            cx.register("selective")?;
            receive_if(|_: &u64| false)
        }
        Event::Down(_) => {
            report(&sender, ());
            receive()
        }
        _ => receive_if(|_: &u64| false),
    });
    let to: Addr<u64> = here.find("selective");
    let (stop_it, stops) = channel::<()>();
    let ended = here.spawn(move |cx: &mut Cx<()>, event| match event {
        Event::Start => {
            cx.notify(to);
            (0..before).for_each(|n| cx.send(to, n).expect("room"));
            receive()
        }
        Event::Message(()) => {
            let _ = stops.try_recv();
            antiphon_sched::stop()
        }
        _ => receive(),
    });
    std::thread::sleep(millis(500));
    drop(stop_it);
    here.step(move |cx| cx.tell(ended, ()));
    assert_eq!(received.recv_timeout(secs(8)), Ok(()), "the Down is held back");
}

/// An actor over its share of bytes is paused until its next batch. Others free the budget, but it runs no batch.
#[test]
fn receive_if_gets_wanted_message_after_budget_is_free() {
    let net = Net::new();
    let there = net.static_node("there", &[]);
    let here = net.static_node("here", &[there.location]);
    let (sender, received) = channel();
    there.spawn(move |cx: &mut Cx<Bytes>, event| match event {
        Event::Start => {
            cx.register("selective")?;
            receive_if(|bytes: &Bytes| bytes.0.len() < 100)
        }
        Event::Message(bytes) => {
            report(&sender, bytes.0.len());
            receive()
        }
        _ => receive(),
    });
    let to: Addr<Bytes> = here.find("selective");
    // 20 MiB wait in its mailbox: over half of its share (16 MiB) and over a quarter (8 MiB).
    here.step(move |cx| (0..10).for_each(|_| cx.send(to, Bytes(vec![0; 2 << 20])).expect("room")));
    std::thread::sleep(secs(2));
    here.step(move |cx| cx.send(to, Bytes(vec![0; 10])).expect("room"));
    assert_eq!(received.recv_timeout(secs(8)), Ok(10), "20 of 64 MiB and 10 of 65,536 places are in use");
}

#[derive(Serialize, Deserialize)]
struct Forwarded {
    number: u64,
    reply: Option<ReplyTo<u64>>,
}
antiphon_sched::wire!(Forwarded, "adv.forwarded/1");

/// An actor forwards a request of another actor to a remote actor by `send`. The request times out while the forwarded
/// message is queued: the message that `send` accepted disappears, without a dead letter.
#[test]
fn forwarded_message_is_not_withdrawn_silently() {
    let net = Net::new();
    let there = sized(&net, "there", 4);
    let here = net.static_node("here", &[there.location]);
    let (sender, received) = channel();
    let gate = there.spawn(move |cx: &mut Cx<Forwarded>, event| match event {
        Event::Start => {
            cx.register("slow")?;
            suspend()
        }
        Event::Message(message) => {
            report(&sender, message.number);
            receive()
        }
        _ => receive(),
    });
    let to: Addr<Forwarded> = here.find("slow");
    // Fills the mailbox and pauses the actor.
    here.step(move |cx| (0..8).for_each(|number| cx.send(to, Forwarded { number, reply: None }).expect("room")));
    std::thread::sleep(millis(500));
    let before = here.stats().dead_letters + there.stats().dead_letters;
    let (accepted, accepts) = channel();
    let forwarder = here.spawn(move |cx: &mut Cx<Forwarded>, event| {
        if let Event::Message(message) = event {
            report(&accepted, cx.send(to, message).is_ok());
        }
        receive()
    });
    let (answered, answers) = channel();
    here.spawn(move |cx: &mut Cx<u8>, event| {
        match event {
            Event::Start => {
                cx.ask(
                    forwarder,
                    millis(300),
                    |reply| Forwarded { number: 8, reply: Some(reply) },
                    |answer: Result<u64, _>| u8::from(answer.is_ok()),
                );
            }
            Event::Message(is_ok) => report(&answered, is_ok),
            _ => {}
        }
        receive()
    });
    assert!(recv(&accepts), "the forwarder's `send` was accepted");
    assert_eq!(recv(&answers), 0, "the request has timed out");
    here.step(move |cx| cx.send(to, Forwarded { number: 9, reply: None }).expect("room"));
    there.step(move |cx| cx.resume(gate, ()));
    let got: Vec<u64> = (0..9).map(|_| recv(&received)).collect();
    let more = received.recv_timeout(secs(1));
    let dead = here.stats().dead_letters + there.stats().dead_letters - before;
    println!("{got:?} {more:?} dead letters: {dead}");
    assert!(got.contains(&8) || dead > 0, "the message that `send` accepted is lost without a dead letter: {got:?}");
    assert!(matches!(more, Ok(9) | Err(RecvTimeoutError::Timeout)));
}

/// The stuck actors of five peers fill the queues of a node. A stream to an actor of a sixth peer, which takes all, must
/// go on.
#[test]
fn stream_to_healthy_peer_goes_on_beside_full_queues() {
    const PEERS: usize = 5;
    const STUCK: usize = 7;
    let net = Net::new();
    let stuck: Vec<TestNode> = (0..PEERS).map(|n| net.static_node(&format!("stuck{n}"), &[])).collect();
    let healthy = net.static_node("healthy", &[]);
    let mut locations: Vec<_> = stuck.iter().map(|node| node.location).collect();
    locations.push(healthy.location);
    let here = net.static_node("here", &locations);
    here.wait_for_peers(PEERS + 1);
    let mut targets: Vec<Addr<Bytes>> = Vec::new();
    for (n, node) in stuck.iter().enumerate() {
        for m in 0..STUCK {
            let name: &'static str = format!("stuck.{n}.{m}").leak();
            node.spawn(move |cx: &mut Cx<Bytes>, event| {
                if matches!(event, Event::Start) {
                    cx.register(name)?;
                }
                suspend()
            });
            targets.push(here.find(name));
        }
    }
    let (sender, received) = channel();
    healthy.spawn(move |cx: &mut Cx<Bytes>, event| {
        match event {
            Event::Start => cx.register("healthy")?,
            Event::Message(_) => report(&sender, ()),
            _ => {}
        }
        receive()
    });
    let to: Addr<Bytes> = here.find("healthy");
    // Fills the queues until all are refused.
    let end = Instant::now() + secs(40);
    loop {
        let all = targets.clone();
        let sent = here.step(move |cx| {
            all.iter().filter(|to| cx.send(**to, Bytes(vec![0; 256 << 10])).is_ok()).count()
        });
        std::thread::sleep(millis(2));
        if sent == 0 || Instant::now() > end {
            println!("last round accepted {sent}");
            break;
        }
    }
    std::thread::sleep(secs(1));
    let progress = Arc::new(Mutex::new((0_u32, 0_u32, String::new())));
    let noted = progress.clone();
    here.spawn(move |cx: &mut Cx<()>, event| {
        let mut noted = noted.lock().unwrap();
        if matches!(event, Event::Writable { .. }) {
            noted.1 += 1;
        }
        while noted.0 < 2000 {
            match cx.send(to, Bytes(vec![0; 16 << 10])) {
                Ok(()) => noted.0 += 1,
                Err(error) => {
                    noted.2 = format!("{:?}", error.reason());
                    break;
                }
            }
        }
        receive()
    });
    let mut got = 0;
    while got < 2000 && received.recv_timeout(secs(6)).is_ok() {
        got += 1;
    }
    println!("received {got}; (sent, writables, last) = {:?}", progress.lock().unwrap());
    let again = here.step(move |cx| cx.send(to, Bytes(vec![0; 16 << 10])).is_ok());
    println!("another sender's message to the same actor is accepted meanwhile: {again}");
    assert_eq!(got, 2000, "the stream to the healthy peer stops for ever, though `send` would accept more");
    drop(sleep::<()>(Duration::ZERO));
}

#[test]
fn large_message_to_each_of_many_suspended_actors() {
    large_messages_then_stream(14, 15 << 20, 0);
}

#[test]
fn control_stream_to_healthy_actor_beside_few_suspended_actors() {
    large_messages_then_stream(6, 15 << 20, 1000);
}

/// Each of 14 suspended actors has one message of 15 MiB, which is always accepted. Then the session stalls for ever.
#[test]
fn stream_to_healthy_actor_beside_suspended_actors_with_one_large_message() {
    large_messages_then_stream(14, 15 << 20, 1000);
}

/// As before: 140 suspended actors with one message of 1 MiB each.
#[test]
fn stream_to_healthy_actor_beside_140_suspended_actors_with_one_mebibyte() {
    large_messages_then_stream(140, 1 << 20, 1000);
}

/// Each of some suspended actors has one message of 15 MiB. An idle actor of the same peer takes a stream of messages of
/// 4 KiB. Another one answers, and the suspended ones can be resumed.
#[allow(non_snake_case)]
fn large_messages_then_stream(STUCK: usize, bytes: usize, stream: usize) {
    let net = Net::new();
    let there = net.static_node("there", &[]);
    let here = net.static_node("here", &[there.location]);
    here.wait_for_peers(1);
    let (sender, received) = channel();
    let mut targets: Vec<Addr<Bytes>> = Vec::new();
    for n in 0..STUCK {
        let name: &'static str = format!("stuck.{n}").leak();
        let sender = sender.clone();
        there.spawn(move |cx: &mut Cx<Bytes>, event| {
            match event {
                Event::Start => cx.register(name)?,
                Event::Resumed(_) => return receive(),
                Event::Message(_) => report(&sender, n),
                _ => {}
            }
            suspend()
        });
        targets.push(here.find(name));
    }
    there.spawn(|cx: &mut Cx<Forwarded>, event| {
        match event {
            Event::Start => cx.register("idle")?,
            Event::Message(Forwarded { number, reply: Some(reply) }) => cx.reply(reply, number),
            _ => {}
        }
        receive()
    });
    let idle: Addr<Forwarded> = here.find("idle");
    let ask = |n| here.handle.ask(idle, secs(4), move |reply| Forwarded { number: n, reply: Some(reply) });
    assert_eq!(ask(1), Ok(1));
    for to in targets.clone() {
        let end = Instant::now() + secs(4);
        while !here.step(move |cx| cx.send(to, Bytes(vec![0; bytes])).is_ok()) && Instant::now() < end {
            std::thread::sleep(millis(20));
        }
    }
    std::thread::sleep(secs(3));
    let (sink_sender, sunk) = channel();
    there.spawn(move |cx: &mut Cx<Bytes>, event| {
        match event {
            Event::Start => cx.register("sink")?,
            Event::Message(_) => report(&sink_sender, ()),
            _ => {}
        }
        receive()
    });
    let sink: Addr<Bytes> = here.find("sink");
    let mut left = stream;
    here.spawn(move |cx: &mut Cx<()>, _| {
        while left > 0 && cx.send(sink, Bytes(vec![0; 4096])).is_ok() {
            left -= 1;
        }
        receive()
    });
    let mut taken = 0;
    while taken < stream && sunk.recv_timeout(secs(5)).is_ok() {
        taken += 1;
    }
    println!("{STUCK} stuck: the healthy actor took {taken} of {stream}");
    let answer = ask(2);
    println!("ask to the idle actor: {answer:?}");
    for to in targets {
        here.step(move |cx| cx.resume(to, ()));
    }
    let mut got = Vec::new();
    while let Ok(n) = received.recv_timeout(secs(5)) {
        got.push(n);
        if got.len() == STUCK {
            break;
        }
    }
    println!("resumed: {got:?}");
    let later = ask(3);
    println!("ask afterwards: {later:?}");
    assert_eq!((taken, answer, got.len()), (stream, Ok(2), STUCK));
}

/// Sends to a slow actor, by an actor and by a handle, over sessions that end by goodbyes of either side. Each message that was
/// accepted arrives once and in order, or is a dead letter.
#[test]
fn goodbyes_with_backlog_lose_nothing_silently() {
    for slow in [1, 6] {
        goodbyes(slow);
    }
}

fn goodbyes(slow: u64) {
    let net = Net::new();
    let there = sized(&net, "there", 4);
    let here = net.static_node("here", &[there.location]);
    let (sender, received) = channel();
    let target = there.spawn(move |cx: &mut Cx<u64>, event| match event {
        Event::Start => {
            cx.register("slow")?;
            receive()
        }
        Event::Message(number) => {
            report(&sender, number);
            if slow > 0 { sleep(millis(slow)) } else { receive() }
        }
        _ => receive(),
    });
    let to: Addr<u64> = here.find("slow");
    let handle = here.handle.clone();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_over = stop.clone();
    let by_handle = std::thread::spawn(move || {
        let mut accepted = 0;
        while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
            if handle.send(to, 1_000_000 + accepted).is_ok() {
                accepted += 1;
            }
            std::thread::sleep(millis(1));
        }
        accepted
    });
    let mut accepted = 0;
    for round in 0..8 {
        let start = accepted;
        accepted = here.step(move |cx| {
            let mut next = start;
            for _ in 0..200 {
                next += u64::from(cx.send(to, next).is_ok());
            }
            next
        });
        std::thread::sleep(millis(30));
        let (closer, at) = if round % 2 == 0 { (&here, there.location) } else { (&there, here.location) };
        closer.spawn(move |cx: &mut Cx<()>, event| match event {
            Event::Start => {
                cx.close_peer(at, millis(100), |_| ());
                receive()
            }
            Event::Message(()) => antiphon_sched::stop(),
            _ => receive(),
        });
        std::thread::sleep(millis(150));
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let handled = by_handle.join().unwrap();
    let mut got = [Vec::new(), Vec::new()];
    while let Ok(n) = received.recv_timeout(secs(17)) {
        got[usize::from(n >= 1_000_000)].push(n);
    }
    let (a, b) = (here.stats(), there.stats());
    let dead = a.dead_letters + b.dead_letters;
    let count = (got[0].len() + got[1].len()) as u64;
    println!("slow {slow}: accepted {accepted} + {handled}, received {count}, dead {dead}; here {:?} there {:?}", a.dead_letters_by_reason, b.dead_letters_by_reason);
    for numbers in &got {
        assert!(numbers.is_sorted_by(|a, b| a < b), "in order, once: {:?}", numbers.windows(2).find(|w| w[0] >= w[1]));
    }
    assert!(count + dead >= accepted + handled, "a message is lost without a dead letter");
    let _ = target;
}
