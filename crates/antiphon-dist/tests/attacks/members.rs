//! Attacks by a peer that has the secret: floods of lookups, monitors, calls and messages, and malformed bodies.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::time::Instant;

use antiphon_dist::{CallError, Config, Limits, NetCx, PeerLimits, Rci, Suite};
use antiphon_sched::{Event, Wire, millis, receive, secs};
use antiphon_wire::frame::{
    Credit, DownReason, Fragment, FragmentPart, Goodbye, GoodbyeReason, IdleProposed, Lookup, LookupResult,
    Message, Monitor, NameSpace, Outcome, PayloadFault, Tag,
};
use antiphon_wire::{FRAGMENT_BYTES_MAX, Frame, Key, NodeId, Profile, Route, TagId};

use crate::attack_test::AttackTest;
use crate::bounds;
use crate::caller::{handshake, profile};
use crate::common::bombs::{Tree, bombs};
use crate::common::{PATIENCE, TestNode, recv, report, wait_for};
use crate::datagrams::{DialTrap, assert_dials_in};
use crate::member::{Member, RawMember};
use crate::payloads;
use crate::processors::give_way;
use crate::victim::{CALLED, Echo};

pub(crate) fn decoder_bomb_is_refused_and_session_continues() {
    let mut attack = AttackTest::without_discovery();
    let mut member = Member::join(&attack.net, &attack.victim);
    let (to, _) = member.find(NameSpace::Actor, "patient");
    let tag = member.tag_of::<Tree>();
    let mut request = 0;
    let mut outcome_of = |body: &[u8]| {
        request += 1;
        let message =
            Message { to, from: Key::from_bits(1), tag, receipt: Some(request), route: Route::NONE, body };
        member.send(&message.into(), |_| ());
        member.run_until(|frame| match frame {
            Frame::Receipt(receipt) if receipt.request == request => Some(match receipt.outcome {
                Outcome::Payload(
                    PayloadFault::Decode(_)
                    | PayloadFault::TooDeep { .. }
                    | PayloadFault::TooManyValues { .. },
                ) => Err(()),
                Outcome::Delivered => Ok(()),
                other => panic!("the outcome is {other:?}"),
            }),
            _ => None,
        })
    };
    let (mut refused, mut leaf) = (0, Vec::new());
    Tree::Leaf(1).encode(&mut leaf).expect("a leaf has an encoding");
    for _ in 0..20 {
        for bomb in &bombs() {
            assert_eq!(outcome_of(&bomb.body), Err(()), "{}", bomb.what);
            refused += 1;
        }
        assert_eq!(outcome_of(&leaf), Ok(()));
    }
    attack.victim.wait_for_count("refused_messages", refused);
    attack.victim.has_logged_once("was refused");
    assert_eq!(attack.victim.count("misbehaved"), 0, "the session continues");
    attack.end("decoder bombs", payloads::BOUND);
}

pub(crate) fn lookups_are_limited_and_dropped_with_their_peer() {
    let mut attack = AttackTest::without_discovery();
    let mut member = Member::join(&attack.net, &attack.victim);
    let limits = PeerLimits::default();
    let (most, refused) = (limits.lookups_max as u64, Cell::new(0));
    let sent = most + 10_000;
    let mut count = |frame: &Frame<'_>| {
        if matches!(frame, Frame::Found(found) if found.result == LookupResult::TooMany) {
            refused.set(refused.get() + 1);
        }
    };
    for request in 0..sent {
        let name = format!("{request:0>255}");
        member.send(&Lookup { request, space: NameSpace::Actor, all: false, name: &name }.into(), &mut count);
    }
    member.run_until_acknowledged(&mut count);
    wait_for("all refusals", || {
        member.run_once(&mut count).expect("the session continues");
        (refused.get() == sent - most).then_some(())
    });
    assert_eq!(attack.victim.count_within("refusals", "lookups"), sent - most);
    attack.victim.has_logged_once("looks for more names");
    assert_eq!(attack.victim.count("lookups"), most);
    member.send(&Goodbye { reason: GoodbyeReason::Leaving }.into(), |_| ());
    wait_for("the end of the session", || member.run_once(|_| ()).err());
    assert_eq!(attack.victim.count("lookups"), 0);
    attack.end("a flood of lookups", bounds::member(&Limits::default()) + bounds::lookups(&limits));
}

pub(crate) fn monitors_are_limited_and_dropped_with_their_peer() {
    let mut attack = AttackTest::without_discovery();
    let mut member = Member::join(&attack.net, &attack.victim);
    let (target, _) = member.find(NameSpace::Actor, "tally");
    let limits = PeerLimits::default();
    let (most, over) = (limits.monitors_max as u64, 10);
    for id in 0..most + over {
        member.send(&Monitor { watcher: Key::from_bits(id % 7), target, id }.into(), |_| ());
    }
    member.run_until_acknowledged(|_| ());
    wait_for("all refusals", || (attack.victim.count_within("refusals", "monitors") >= over).then_some(()));
    attack.victim.has_logged_once("has reached its limit of monitors");
    // A monitor that is set again frees no place for another one.
    let later = most + over..most + over + 8;
    for id in (0..8).chain(later.clone()) {
        member.send(&Monitor { watcher: Key::from_bits(id % 7), target, id }.into(), |_| ());
    }
    let mut refused = 0;
    member.run_until(|frame| {
        if let Frame::Down(down) = frame
            && later.contains(&down.id)
        {
            assert_eq!(down.reason, DownReason::Refused);
            refused += 1;
        }
        (refused == 8).then_some(())
    });
    assert_eq!(attack.victim.count("monitors"), most);
    member.send(&Goodbye { reason: GoodbyeReason::Leaving }.into(), |_| ());
    wait_for("the end of the session", || member.run_once(|_| ()).err());
    assert_eq!(attack.victim.count("monitors"), 0);
    attack.end("a flood of monitors", bounds::member(&Limits::default()) + bounds::monitors(&limits));
}

pub(crate) fn rci_calls_over_quota_are_refused() {
    let mut attack = AttackTest::without_discovery();
    let config = Config {
        ip: [127, 0, 0, 2].into(),
        ..attack.net.static_config("flooder", &[attack.victim.location])
    };
    let quota = config.rci_actors_max;
    let flooder = TestNode::start(config);
    let calls = 10 * quota;
    let (sender, results) = channel();
    enum Flood {
        Found(Rci<u64, u64>),
        Called(Result<(), CallError>),
    }
    flooder.spawn(move |cx, event| {
        match event {
            Event::Start => {
                cx.locate(CALLED, PATIENCE, |found| Flood::Found(found.expect("the victim offers the RCI")))
            }
            Event::Message(Flood::Found(rci)) => {
                for argument in 0..calls as u64 {
                    cx.call(rci, argument, PATIENCE, |called| Flood::Called(called.map(drop)));
                }
            }
            Event::Message(Flood::Called(called)) => report(&sender, called),
            _ => {}
        }
        receive()
    });
    let called: Vec<_> = (0..calls).map(|_| recv(&results)).collect();
    let started = called.iter().filter(|called| called.is_ok()).count();
    assert_eq!(started, quota);
    let refusal = Err(CallError::OverQuota { max: quota });
    assert_eq!(called.iter().filter(|called| **called == refusal).count(), calls - quota);
    assert_eq!(attack.victim.count_within("refusals", "rci_actors"), (calls - quota) as u64);
    attack.victim.has_logged_once("calls for more actors");
    attack.end("a flood of calls", bounds::member(&Limits::default()) + bounds::rci_actors(quota as u64));
}

/// Frames that need no credit get a share of the node's time, and no more.
pub(crate) fn control_flood_leaves_others_their_share() {
    let attack = AttackTest::without_discovery().measure_quiet();
    let flood = vec![Frame::from(Credit { until: 1 }); 20_000];
    let begun = Instant::now();
    let floods: Vec<_> = (0..2)
        .map(|_| {
            let mut member = RawMember::join(&attack.net, &attack.victim);
            let flood = flood.clone();
            std::thread::spawn(move || {
                give_way();
                let mut frames = 0;
                while begun.elapsed() < secs(6) {
                    for _ in 0..20 {
                        member.write(&flood).expect("the session continues");
                        frames += flood.len();
                    }
                    member.read(|_| ()).expect("the session continues");
                }
                frames
            })
        })
        .collect();
    let frames: usize = floods.into_iter().map(|flood| flood.join().expect("the session continues")).sum();
    println!("{frames} frames in {:?}", begun.elapsed());
    attack.end("a flood of control frames", bounds::member(&Limits::default()));
}

/// Records without frames cost the node time as well, and need no credit.
pub(crate) fn empty_records_leave_others_their_share() {
    let attack = AttackTest::without_discovery().measure_quiet();
    let begun = Instant::now();
    let floods: Vec<_> = (0..2)
        .map(|_| {
            let mut member = RawMember::join(&attack.net, &attack.victim);
            std::thread::spawn(move || {
                give_way();
                let mut records = 0;
                while begun.elapsed() < secs(6) {
                    for _ in 0..20 {
                        member.write_empty_records(20_000).expect("the session continues");
                        records += 20_000;
                    }
                    member.read(|_| ()).expect("the session continues");
                }
                records
            })
        })
        .collect();
    let records: usize = floods.into_iter().map(|flood| flood.join().expect("the session continues")).sum();
    println!("{records} records in {:?}", begun.elapsed());
    attack.end("a flood of empty records", bounds::member(&Limits::default()));
}

/// A member proposes to close its connection as fast as it can, and reads none of the answers.
pub(crate) fn idle_proposals_unread_use_no_memory() {
    let attack = AttackTest::without_discovery().measure_quiet();
    let trap = DialTrap::at([127, 0, 0, 2], 0);
    let mut member = RawMember::join_from(&attack.net, &attack.victim, vec![trap.location()]);
    let proposal = Frame::from(IdleProposed { sent: 0 });
    let mut answers = 0;
    member.write(&[proposal]).expect("the session continues");
    wait_for("an agreement", || {
        member
            .read(|frame| answers += usize::from(matches!(frame, Frame::IdleAgreed(_))))
            .expect("the session continues");
        (answers > 0).then_some(())
    });
    let (flood, begun, mut frames) = (vec![proposal; 20_000], Instant::now(), 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            give_way();
            while begun.elapsed() < secs(6) {
                member.write(&flood).expect("the session continues");
                frames += flood.len();
            }
        });
    });
    println!("{frames} proposals in {:?}", begun.elapsed());
    attack.end("idle proposals", bounds::pending_connections(&Limits::default(), false));
}

/// A member has the victim reply to nodes that were never met, at locations that it chooses.
pub(crate) fn replies_to_unknown_nodes_cause_few_dials() {
    let mut attack = AttackTest::without_discovery();
    let mut member = Member::join(&attack.net, &attack.victim);
    let (to, _) = member.find(NameSpace::Actor, "echo");
    let tag = member.tag_of::<Echo>();
    let traps: Vec<DialTrap> = (0..100).map(|_| DialTrap::at([127, 0, 0, 2], 0)).collect();
    let far = SocketAddr::from(([10, 0, 0, 1], 9));
    let (begun, mut dials, mut node) = (Instant::now(), 0, 1_000_u64);
    while begun.elapsed() < secs(2) {
        for trap in &traps {
            node += 1;
            // The second location is outside of `dial_allow`.
            for at in [trap.location(), far] {
                node += 1;
                let route = [(NodeId::from_bits(node), vec![at])];
                // An Echo: a number, and a reply at that node.
                let mut body = vec![0x92, 7, 0x92, 0xcf];
                body.extend_from_slice(&node.to_be_bytes());
                body.push(1);
                let (from, route) = (Key::from_bits(1), Route::Plain(&route));
                member.send(&Message { to, from, tag, receipt: None, route, body: &body }.into(), |_| ());
            }
            dials += trap.take_all();
        }
        member.run_once(|_| ()).expect("the session continues");
    }
    dials += traps.iter().map(DialTrap::take_all).sum::<usize>();
    assert_dials_in(dials, begun.elapsed());
    assert_eq!(attack.victim.count("misbehaved"), 0);
    attack.end("replies to unknown nodes", bounds::member(&Limits::default()));
}

/// A mailbox takes at most 64 of these messages; six members send them, one after another.
pub(crate) fn messages_for_sleeping_actors_wait_at_their_sender() {
    let attack = AttackTest::without_discovery();
    // The messages of a peer stay in the mailbox when its session ends, and those of the next peer come on top.
    for _ in 0..6 {
        let mut member = Member::join(&attack.net, &attack.victim);
        let (to, _) = member.find(NameSpace::Actor, "sleeper");
        let tag = member.session.intern("bytes").expect("the session has room for a tag");
        let mut body = vec![0xc6, 0, 0x10, 0, 0];
        body.resize(5 + (1 << 20), 7);
        let delivered = Cell::new(0);
        let mut count = |frame: &Frame<'_>| {
            if matches!(frame, Frame::Receipt(receipt) if receipt.outcome == Outcome::Delivered) {
                delivered.set(delivered.get() + 1);
            }
        };
        let mut request = 0;
        wait_for("a pause", || {
            if member.session.queued_bytes() < 8 << 20 {
                let (body, receipt) = (body.as_slice(), Some(request));
                let message = Message { to, from: Key::from_bits(1), tag, receipt, route: Route::NONE, body };
                member.session.send(&message.into()).expect("the send queue has room");
                request += 1;
            }
            member.run_once(&mut count).expect("the session continues");
            member.session.is_paused(to).then_some(())
        });
        assert!(delivered.get() <= 64, "{} messages are in the mailbox", delivered.get());
    }
    attack.end("large messages", bounds::member(&Limits::default()) + bounds::mailboxes());
}

/// Incomplete messages and unknown type tags use memory up to their limits; one more ends the session, which frees it.
pub(crate) fn fragments_and_tags_over_limits_end_session() {
    let mut attack = AttackTest::without_discovery();
    let limits = Limits::default();
    let mut member = Member::join(&attack.net, &attack.victim);
    for id in 0..limits.tags_max {
        let name = format!("{id:0>255}");
        member.send(&Tag { id: TagId(id), name: &name }.into(), |_| ());
    }
    // Each message lacks its last byte.
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
    member.run_until_acknowledged(|_| ());
    attack.connect_new_peer();
    assert_eq!(attack.victim.count("misbehaved"), 0, "nothing exceeds a limit");
    let used = attack.victim.used_bytes();
    let part = FragmentPart::First { kind: MESSAGE, total };
    member.send(&Fragment { stream: streams, part, data: &data }.into(), |_| ());
    wait_for("the end of the session", || member.run_once(|_| ()).err());
    attack.victim.wait_for_count("misbehaved", 1);
    attack.victim.has_logged_once("a peer broke the protocol");
    let kept = attack.victim.used_bytes();
    assert!(
        kept + u64::from(limits.reassembly_bytes_max) / 2 < used,
        "{kept} bytes of {used} are still used"
    );
    attack.end("incomplete messages", bounds::member(&limits));
}

/// The kind of a frame with a message.
const MESSAGE: u8 = 0x22;

/// Members claim locations at which others are connected, which answer nothing.
pub(crate) fn locations_of_members_cause_ten_dials_a_second() {
    let mut attack = AttackTest::without_discovery();
    let (net, at) = (attack.net.clone(), attack.victim.location.addr());
    let join = |trap: &DialTrap| {
        let profile = Profile { locations: vec![trap.location()], ..profile(&net, &Suite::aead()) };
        handshake(at, &profile, PATIENCE, |_, _| ()).expect("the victim accepts a member")
    };
    let traps: Vec<DialTrap> = (0..50).map(|_| DialTrap::at([127, 0, 0, 2], 0)).collect();
    let _silent: Vec<_> = traps.iter().map(join).collect();
    let (begun, mut dials, mut members, mut claiming) = (Instant::now(), 0, 0, Vec::new());
    // Silent members are suspected after three seconds, which causes a dial of each.
    while begun.elapsed() < millis(2500) {
        for trap in &traps {
            claiming.push(join(trap));
            members += 1;
            dials += trap.take_all();
        }
        claiming.clear();
    }
    assert_dials_in(dials, begun.elapsed());
    assert!(attack.victim.count("connections") <= 200, "connections that were closed are gone");
    println!("{members} members");
    let bound = bounds::lost_sessions(members) + bounds::pending_connections(&Limits::default(), false);
    attack.end("locations of members", bound);
}
