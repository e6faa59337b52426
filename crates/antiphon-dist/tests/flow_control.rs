//! An actor that takes nothing holds back its senders on other nodes, and only them.

mod common;

use std::sync::mpsc::channel;

use antiphon_dist::{Channel, Config, DeliverError, NetCx, SubscribeError};
use antiphon_sched::{
    Addr, AskError, Cx, Event, LoopConfig, ReplyTo, SendError, Undelivered, millis, receive, receive_if,
    stop, suspend,
};
use common::{Net, TestNode, recv, report, wait_for};

/// A node whose mailboxes take 16 messages.
fn narrow(net: &Net) -> TestNode {
    let scheduler = LoopConfig { mailbox_max: 16, ..LoopConfig::default() };
    TestNode::start(Config { scheduler, ..net.static_config("narrow", &[]) })
}

/// Makes messages of 64 KiB: their number, and filler.
fn large(number: u32) -> (u32, String) {
    (number, "x".repeat(64 * 1024))
}

/// 128 MiB for a suspended actor. Its sender is refused, receives `Writable` when the actor is resumed, and continues.
/// Meanwhile another actor of the same node answers.
#[test]
fn suspended_actor_holds_back_its_sender_alone() {
    const MESSAGES: u32 = 2_000;
    let net = Net::new();
    let there = narrow(&net);
    let here = net.static_node("here", &[there.location]);
    let (number_sender, numbers) = channel();
    there.spawn(move |cx: &mut Cx<(u32, String)>, event| match event {
        Event::Start => {
            cx.register("suspended")?;
            suspend()
        }
        Event::Message((number, _)) => {
            report(&number_sender, number);
            receive()
        }
        _ => receive(),
    });
    there.spawn(|cx: &mut Cx<ReplyTo<u32>>, event| {
        match event {
            Event::Start => cx.register("idle")?,
            Event::Message(reply) => cx.reply(reply, 7),
            _ => {}
        }
        receive()
    });
    let to: Addr<(u32, String)> = here.find("suspended");
    let idle: Addr<ReplyTo<u32>> = here.find("idle");
    let (refusal_sender, refusals) = channel();
    let mut next = 0;
    here.spawn(move |cx: &mut Cx<()>, event| {
        if let Event::Writable { target } = event {
            assert_eq!(target, to.id());
        }
        while next < MESSAGES {
            match cx.send(to, large(next)) {
                Ok(()) => next += 1,
                Err(SendError::Busy(_)) => {
                    report(&refusal_sender, next);
                    return receive();
                }
                Err(reason) => panic!("{reason}"),
            }
        }
        stop()
    });
    let accepted = recv(&refusals);
    assert!((500..=MESSAGES / 2).contains(&accepted), "{accepted} messages of 64 KiB, for a share of 32 MiB");
    let (answer_sender, answers) = channel();
    here.spawn(move |cx: &mut Cx<Result<u32, AskError>>, event| match event {
        Event::Start => {
            cx.ask(idle, common::PATIENCE, |reply| reply, |answer| answer);
            receive()
        }
        Event::Message(answer) => {
            report(&answer_sender, answer);
            stop()
        }
        _ => receive(),
    });
    assert_eq!(recv(&answers), Ok(7));
    assert!(numbers.try_recv().is_err(), "the suspended actor has taken nothing");
    // The resume passes the pause and the full mailbox.
    here.step(move |cx| cx.resume(to, ()));
    for number in 0..MESSAGES {
        assert_eq!(recv(&numbers), number);
    }
    assert_eq!((here.stats().dead_letters, there.stats().dead_letters), (0, 0));
}

/// A message that still waits for transmission at its timeout is withdrawn, and never arrives.
#[test]
fn waiting_requests_are_withdrawn_at_their_timeout() {
    let net = Net::new();
    let there = narrow(&net);
    let here = net.static_node("here", &[there.location]);
    let (sender, taken) = channel();
    there.spawn(move |cx: &mut Cx<u32>, event| match event {
        Event::Start => {
            cx.register("suspended")?;
            suspend()
        }
        Event::Message(number) => {
            report(&sender, number);
            receive()
        }
        _ => receive(),
    });
    let to: Addr<u32> = here.find("suspended");
    here.step(move |cx| (0..100).for_each(|number| cx.tell(to, number)));
    there.wait_for_counts("a backlog", |counts| counts.backlog_bytes > 0);
    // Those that leave before the pause arrives are not withdrawn.
    let mut late = 0;
    wait_for("a message that is withdrawn", || match recv(&here.delivering(to, 1_000 + late, millis(50))) {
        Err(DeliverError::Refused(Undelivered::Full)) => Some(()),
        Err(DeliverError::TimedOut) => {
            late += 1;
            None
        }
        other => panic!("{other:?}"),
    });
    here.step(move |cx| {
        cx.tell(to, 2_000);
        cx.resume(to, ());
    });
    for number in (0..100).chain(1_000..1_000 + late).chain([2_000]) {
        assert_eq!(recv(&taken), number);
    }
}

/// An actor that waits for one message gets it while its mailbox has room, although it is more than half full.
#[test]
fn selective_receiver_gets_messages_while_it_has_room() {
    let net = Net::new();
    let there = narrow(&net);
    let here = net.static_node("here", &[there.location]);
    let (sender, received) = channel();
    there.spawn(move |cx: &mut Cx<u32>, event| match event {
        Event::Start => {
            cx.register("selective")?;
            receive_if(|number: &u32| *number == 99)
        }
        Event::Message(number) => {
            report(&sender, number);
            receive()
        }
        _ => receive(),
    });
    let to: Addr<u32> = here.find("selective");
    // All but the last place.
    for number in 0..15 {
        assert_eq!(here.deliver(to, number), Ok(()));
    }
    assert_eq!(here.deliver(to, 99), Ok(()));
    for number in [99].into_iter().chain(0..15) {
        assert_eq!(recv(&received), number);
    }
}

/// A request that one actor forwards by `send` is not withdrawn when it times out: `send` has accepted the message.
#[test]
fn forwarded_request_is_not_withdrawn() {
    let net = Net::new();
    let there = narrow(&net);
    let here = net.static_node("here", &[there.location]);
    let (sender, received) = channel();
    there.spawn(move |cx: &mut Cx<Option<ReplyTo<u32>>>, event| match event {
        Event::Start => {
            cx.register("suspended")?;
            suspend()
        }
        Event::Message(reply) => {
            report(&sender, reply.is_some());
            receive()
        }
        _ => receive(),
    });
    let to: Addr<Option<ReplyTo<u32>>> = here.find("suspended");
    here.step(move |cx| (0..100).for_each(|_| cx.tell(to, None)));
    there.wait_for_counts("a backlog", |counts| counts.backlog_bytes > 0);
    let forwarder = here.spawn(move |cx: &mut Cx<ReplyTo<u32>>, event| {
        if let Event::Message(reply) = event {
            cx.tell(to, Some(reply));
        }
        receive()
    });
    let (answer_sender, answers) = channel();
    here.spawn(move |cx: &mut Cx<Result<u32, AskError>>, event| match event {
        Event::Start => {
            cx.ask(forwarder, millis(100), |reply| reply, |answer| answer);
            receive()
        }
        Event::Message(answer) => {
            report(&answer_sender, answer);
            stop()
        }
        _ => receive(),
    });
    assert_eq!(recv(&answers), Err(AskError::TimedOut));
    here.step(move |cx| cx.resume(to, ()));
    let forwarded = (0..101).filter(|_| recv(&received)).count();
    assert_eq!(forwarded, 1);
}

/// A message that the codec refuses if its second field is set.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Brittle(u32, #[serde(serialize_with = "refuse_if_set")] bool);

antiphon_sched::wire!(Brittle, "tests.brittle/1");

fn refuse_if_set<S: serde::Serializer>(is_set: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    if *is_set { Err(serde::ser::Error::custom("on purpose")) } else { serializer.serialize_bool(false) }
}

/// Messages that do not encode are missed by a subscriber of another node, which takes nothing. Its mailbox has twice as
/// many events as it may have messages; the other reports wait, and none is lost.
#[test]
fn reports_of_missed_messages_wait_for_full_mailbox() {
    const CHANNELS: u32 = 60;
    const MISSED: u64 = 1_000;
    let net = Net::new();
    let there = narrow(&net);
    let here = net.static_node("here", &[there.location]);
    let (sender, received) = channel();
    there.spawn(move |cx: &mut Cx<Brittle>, event| match event {
        Event::Start => {
            cx.register("suspended")?;
            suspend()
        }
        Event::Message(Brittle(number, _)) => {
            report(&sender, (number, 0));
            receive()
        }
        Event::Lagged { missed, .. } => {
            report(&sender, (u32::MAX, missed));
            receive()
        }
        _ => receive(),
    });
    let to: Addr<Brittle> = here.find("suspended");
    let (published_sender, published) = channel();
    here.spawn(move |cx: &mut Cx<(Channel<Brittle>, Result<(), SubscribeError>)>, event| {
        match event {
            Event::Start => {
                for number in 0..CHANNELS {
                    let opened = cx.channel::<Brittle>(&format!("brittle {number}"))?;
                    cx.subscribe_within(opened, to, common::PATIENCE, move |result| (opened, result));
                }
            }
            Event::Message((opened, result)) => {
                result?;
                (0..MISSED).for_each(|_| cx.tell(opened, Brittle(0, true)));
                cx.tell(opened, Brittle(7, false));
                report(&published_sender, ());
            }
            _ => {}
        }
        receive()
    });
    (0..CHANNELS).for_each(|_| recv(&published));
    there.wait_for_counts("a backlog", |counts| counts.backlog_bytes > 0);
    here.step(move |cx| cx.resume(to, ()));
    let (mut messages, mut missed) = (0, 0);
    while messages < CHANNELS || missed < u64::from(CHANNELS) * MISSED {
        let (number, newly_missed) = recv(&received);
        messages += u32::from(number == 7);
        missed += newly_missed;
    }
    assert_eq!((messages, missed), (CHANNELS, u64::from(CHANNELS) * MISSED));
}
