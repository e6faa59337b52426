//! What a peer can do that knows the secret: floods of questions, monitors, calls and values; and bombs.

use std::cell::Cell;
use std::sync::mpsc::channel;

use antiphon_dist::{CallError, Config, Limits, NetCx, PeerLimits, Rci};
use antiphon_sched::{Event, receive};
use antiphon_wire::frame::{
    DownReason, Fragment, FragmentPart, Goodbye, GoodbyeReason, Lookup, LookupResult, Message, Monitor,
    NameSpace, Outcome, Tag,
};
use antiphon_wire::{FRAGMENT_BYTES_MAX, Frame, Key, Route, TagId};

use crate::bounds;
use crate::common::bombs::bombs;
use crate::common::{PATIENCE, TestNode, heard, tell_test, wait_for};
use crate::member::Member;
use crate::siege::Siege;
use crate::victim::CALLED;

#[test]
fn bombs_of_messagepack_are_refused_and_the_session_goes_on() {
    let mut siege = Siege::quiet();
    let mut member = Member::join(&siege.net, &siege.victim);
    let (tally, _) = member.find(NameSpace::Actor, "tally");
    let tag = member.session.intern("attack.tally/1").expect("a tag");
    let mut request = 0;
    for _ in 0..20 {
        for (what, body) in bombs() {
            request += 1;
            let body: &[u8] = &body;
            let message =
                Message { to: tally, from: Key(1), tag, receipt: Some(request), route: Route::NONE, body };
            member.send(&message.into(), |_| ());
            let outcome = member.turn_until(|frame| match frame {
                Frame::Receipt(receipt) if receipt.request == request => Some(receipt.outcome),
                _ => None,
            });
            assert_eq!(outcome, Outcome::WrongType, "{what}");
        }
    }
    siege.victim.wait_for_count("refused_messages", request);
    siege.victim.has_logged_once("does not decode");
    assert_eq!(siege.victim.count("misbehaved"), 0, "its session goes on");
    siege.end("bombs", bounds::member(&Limits::default()));
}

#[test]
fn questions_for_names_are_kept_up_to_a_number_and_forgotten_with_their_peer() {
    let mut siege = Siege::quiet();
    let mut member = Member::join(&siege.net, &siege.victim);
    let limits = PeerLimits::default();
    let (most, refused) = (limits.lookups_max as u64, Cell::new(0));
    let asked = most + 10_000;
    let mut count = |frame: &Frame<'_>| {
        if matches!(frame, Frame::Found(found) if found.what == LookupResult::TooMany) {
            refused.set(refused.get() + 1);
        }
    };
    for request in 0..asked {
        let name = format!("{request:0>255}");
        member.send(&Lookup { request, space: NameSpace::Actor, all: false, name: &name }.into(), &mut count);
    }
    member.settle(&mut count);
    wait_for("all refusals", || {
        member.run_once(&mut count).expect("the victim stays");
        (refused.get() == asked - most).then_some(())
    });
    assert_eq!(siege.victim.count_within("refusals", "lookups"), asked - most);
    siege.victim.has_logged_once("looks for more names");
    assert_eq!(siege.victim.count("lookups"), most);
    member.send(&Goodbye { reason: GoodbyeReason::Leaving }.into(), |_| ());
    wait_for("the end of its session", || member.run_once(|_| ()).err());
    assert_eq!(siege.victim.count("lookups"), 0);
    siege.end("a flood of names", bounds::member(&Limits::default()) + bounds::names(&limits));
}

#[test]
fn monitors_are_kept_up_to_a_number_and_forgotten_with_their_peer() {
    let mut siege = Siege::quiet();
    let mut member = Member::join(&siege.net, &siege.victim);
    let (target, _) = member.find(NameSpace::Actor, "tally");
    let limits = PeerLimits::default();
    let (most, over) = (limits.monitors_max as u64, 10);
    for id in 0..most + over {
        member.send(&Monitor { watcher: Key(id % 7), target, id }.into(), |_| ());
    }
    member.settle(|_| ());
    wait_for("all refusals", || (siege.victim.count_within("refusals", "monitors") >= over).then_some(()));
    siege.victim.has_logged_once("has reached its limit of monitors");
    // Setting those again that stand makes no room for others.
    let later = most + over..most + over + 8;
    for id in (0..8).chain(later.clone()) {
        member.send(&Monitor { watcher: Key(id % 7), target, id }.into(), |_| ());
    }
    let mut told = 0;
    member.turn_until(|frame| {
        if let Frame::Down(down) = frame
            && later.contains(&down.id)
        {
            assert_eq!(down.reason, DownReason::Refused);
            told += 1;
        }
        (told == 8).then_some(())
    });
    assert_eq!(siege.victim.count("monitors"), most);
    member.send(&Goodbye { reason: GoodbyeReason::Leaving }.into(), |_| ());
    wait_for("the end of its session", || member.run_once(|_| ()).err());
    assert_eq!(siege.victim.count("monitors"), 0);
    siege.end("a flood of monitors", bounds::member(&Limits::default()) + bounds::monitors(&limits));
}

#[test]
fn calls_of_a_function_start_no_more_actors_than_its_quota() {
    let mut siege = Siege::quiet();
    let config = Config { ip: [127, 0, 0, 2].into(), ..siege.net.quiet("flooder", &[siege.victim.location]) };
    let quota = config.rci_actors_max;
    let flooder = TestNode::start(config);
    let calls = 10 * quota;
    let (tell, told) = channel();
    enum Flood {
        Found(Rci<u64, u64>),
        Born(Result<(), CallError>),
    }
    flooder.spawn(move |cx, event| {
        match event {
            Event::Start => cx.locate(CALLED, PATIENCE, |found| Flood::Found(found.expect("it is there"))),
            Event::Message(Flood::Found(function)) => {
                for argument in 0..calls as u64 {
                    cx.call(function, argument, PATIENCE, |born| Flood::Born(born.map(drop)));
                }
            }
            Event::Message(Flood::Born(born)) => tell_test(&tell, born),
            _ => {}
        }
        receive()
    });
    let born: Vec<_> = (0..calls).map(|_| heard(&told)).collect();
    let alive = born.iter().filter(|born| born.is_ok()).count();
    assert_eq!(alive, quota);
    let refusal = Err(CallError::OverQuota { max: quota });
    assert_eq!(born.iter().filter(|born| **born == refusal).count(), calls - quota);
    assert_eq!(siege.victim.count_within("refusals", "rci_actors"), (calls - quota) as u64);
    siege.victim.has_logged_once("calls for more actors");
    siege.end("a flood of calls", bounds::member(&Limits::default()) + bounds::called(quota as u64));
}

#[test]
fn large_messages_for_actors_that_sleep_stay_with_their_sender() {
    let mut siege = Siege::quiet();
    // What one peer has sent stays there when it goes, and others come.
    for _ in 0..6 {
        let mut member = Member::join(&siege.net, &siege.victim);
        let (to, _) = member.find(NameSpace::Actor, "sleeper");
        let tag = member.session.intern("bytes").expect("a tag");
        let mut body = vec![0xc6, 0, 0x10, 0, 0];
        body.resize(5 + (1 << 20), 7);
        let delivered = Cell::new(0);
        let mut count = |frame: &Frame<'_>| {
            if matches!(frame, Frame::Receipt(receipt) if receipt.outcome == Outcome::Delivered) {
                delivered.set(delivered.get() + 1);
            }
        };
        let before = siege.victim.count("backlog_bytes");
        let mut request = 0;
        wait_for("some of them to wait", || {
            if member.session.queued_bytes() < 8 << 20 {
                let (body, receipt) = (body.as_slice(), Some(request));
                let message = Message { to, from: Key(1), tag, receipt, route: Route::NONE, body };
                member.session.send(&message.into()).expect("there is room");
                request += 1;
            }
            member.run_once(&mut count).expect("the victim stays");
            (siege.victim.count("backlog_bytes") > before).then_some(())
        });
        assert!(delivered.get() <= 64, "{} of them are in the mailbox", delivered.get());
    }
    siege.end("large messages", bounds::member(&Limits::default()) + bounds::mailboxes());
}

#[test]
fn messages_that_are_never_whole_and_types_that_nobody_has_end_at_their_limits() {
    let mut siege = Siege::quiet();
    let limits = Limits::default();
    let mut member = Member::join(&siege.net, &siege.victim);
    for id in 0..limits.tags_max {
        let name = format!("{id:0>255}");
        member.send(&Tag { id: TagId(id), name: &name }.into(), |_| ());
    }
    // Each lacks its last byte.
    let (total, data) = (limits.message_bytes_max, [7; FRAGMENT_BYTES_MAX - 64]);
    let streams = limits.reassembly_bytes_max / total;
    for stream in 0..streams {
        let mut left = total as usize - 1;
        let mut part = FragmentPart::First { kind: MESSAGE, total };
        while left > 0 {
            let data = &data[..left.min(data.len())];
            left -= data.len();
            member.send(&Fragment { stream, part, data }.into(), |_| ());
            part = FragmentPart::Next;
        }
    }
    member.settle(|_| ());
    siege.let_a_new_peer_in();
    assert_eq!(siege.victim.count("misbehaved"), 0, "all of it is allowed");
    let used = siege.victim.used_bytes();
    let part = FragmentPart::First { kind: MESSAGE, total };
    member.send(&Fragment { stream: streams, part, data: &data }.into(), |_| ());
    wait_for("the end of its session", || member.run_once(|_| ()).err());
    siege.victim.wait_for_count("misbehaved", 1);
    siege.victim.has_logged_once("a peer broke the protocol");
    let kept = siege.victim.used_bytes();
    assert!(
        kept + u64::from(limits.reassembly_bytes_max) / 2 < used,
        "{kept} bytes of {used} are still used"
    );
    siege.end("messages that are never whole", bounds::member(&limits));
}

/// The kind of a message's frame.
const MESSAGE: u8 = 0x22;
