//! Attacks by a member on a channel: messages that the channel has to send to very many subscribers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use antiphon_dist::{Limits, PeerLimits};
use antiphon_sched::{Bytes, Wire, secs};
use antiphon_wire::frame::{Goodbye, GoodbyeReason, Message, NameSpace};
use antiphon_wire::{Frame, Key, Route, TagId};

use crate::attack_test::AttackTest;
use crate::bounds;
use crate::common::wait_for;
use crate::member::Member;
use crate::victim::{ASLEEP, CROWD};

/// A member that publishes to a channel, and whose actors subscribe to it.
struct Crowd {
    member: Member,
    channel: Key,
    tag: TagId,
    answers: u64,
}

impl Crowd {
    /// Joins, and subscribes so many actors.
    fn join(attack: &AttackTest, subscribers: u64) -> Self {
        Self::join_at::<Bytes>(attack, CROWD, subscribers)
    }

    fn join_at<T: Wire>(attack: &AttackTest, channel: &str, subscribers: u64) -> Self {
        let mut member = Member::join(&attack.net, &attack.victim);
        let (channel, _) = member.find(NameSpace::Channel, channel);
        let name = format!("antiphon.channel<{}>", T::name());
        let tag = member.session.intern(&name).expect("the session has room for a tag");
        let mut crowd = Self { member, channel, tag, answers: 0 };
        for actor in 0..subscribers {
            let body = [&[0x94, 2][..], &crowd.address(actor), &[0xc2, 0x90]].concat();
            crowd.send(&body);
        }
        crowd.wait_until_taken();
        crowd
    }

    /// The node of the member and a number, as an address or a reply of it.
    fn address(&self, number: u64) -> Vec<u8> {
        let node = self.member.node.to_bits().to_be_bytes();
        [&[0x92, 0xcf][..], &node, &[0xcf], &number.to_be_bytes()].concat()
    }

    /// Sends a body to the channel.
    fn send(&mut self, body: &[u8]) {
        let message = Message {
            to: self.channel,
            from: Key::from_bits(1),
            tag: self.tag,
            receipt: None,
            route: Route::NONE,
            body,
        };
        self.member.send(&message.into(), |_| ());
    }

    /// Publishes a message of so many bytes.
    fn publish(&mut self, bytes: usize) {
        self.publish_value(&Bytes::from(vec![7; bytes]));
    }

    fn publish_value(&mut self, value: &impl Wire) {
        let mut body = vec![0x93, 0, 0];
        value.encode(&mut body).expect("bytes have an encoding");
        self.send(&body);
    }

    /// Publishes a message, and returns how long it took until its own subscriber got it.
    #[track_caller]
    fn wait_for_own_message(&mut self, number: u64) -> Duration {
        let begun = Instant::now();
        let value = Bytes::from(number.to_be_bytes().to_vec());
        let mut body = Vec::new();
        value.encode(&mut body).expect("bytes have an encoding");
        // One that is missed is published again.
        while {
            self.publish_value(&value);
            !self.member.run_until(|frame| match frame {
                Frame::Message(message) if message.body == body => Some(true),
                Frame::Lagged(_) => Some(false),
                _ => None,
            })
        } {}
        begun.elapsed()
    }

    /// Leaves with a goodbye: then the victim keeps nothing for it.
    #[track_caller]
    fn leave(mut self) {
        self.member.send(&Goodbye { reason: GoodbyeReason::Leaving }.into(), |_| ());
        wait_for("the end of the session", || self.member.run_once(|_| ()).err());
    }

    /// Waits until the channel has taken all that was sent before: until it has answered to a last subscription.
    #[track_caller]
    fn wait_until_taken(&mut self) {
        self.answers += 1;
        let number = self.answers;
        let reply = [&[0x91][..], &self.address(number)].concat();
        let body = [&[0x94, 2][..], &self.address(0), &[0xc2], &reply].concat();
        self.send(&body);
        self.member.run_until(|frame| match frame {
            Frame::Answer(answer) if answer.to == Key::from_bits(number) => Some(()),
            _ => None,
        });
    }
}

/// A message of 15 MiB of each of two members, for as many subscribers of them as a member may have.
pub(crate) fn large_message_for_many_subscribers_takes_turns() {
    let attack = AttackTest::without_discovery().measure_quiet();
    let subscribers = PeerLimits::default().channel_subscriptions_max as u64;
    let mut crowds = [Crowd::join(&attack, subscribers), Crowd::join(&attack, subscribers)];
    let begun = Instant::now();
    for crowd in &mut crowds {
        crowd.publish(15 << 20);
    }
    for crowd in &mut crowds {
        crowd.wait_until_taken();
    }
    attack.victim.has_logged("misses messages of its channel");
    println!("two messages were taken after {:?}", begun.elapsed());
    crowds.into_iter().for_each(Crowd::leave);
    attack.end(
        "large messages for many subscribers",
        2 * bounds::member(&Limits::default()) + bounds::channel(&Limits::default()),
    );
}

/// Small messages for as many subscribers, of a member that publishes as fast as it may and then leaves.
pub(crate) fn small_messages_for_many_subscribers_end_with_member() {
    let attack = AttackTest::without_discovery().measure_quiet();
    let subscribers = PeerLimits::default().channel_subscriptions_max as u64;
    let mut crowd = Crowd::join(&attack, subscribers);
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < secs(4) {
        crowd.publish(0);
        sent += 1;
    }
    println!("{sent} messages");
    attack.victim.has_logged("misses messages of its channel");
    crowd.leave();
    attack.end(
        "small messages for many subscribers",
        bounds::member(&Limits::default()) + bounds::channel(&Limits::default()),
    );
}

/// Small messages for as many subscribers as all peers together may have. Their members read nothing, and then they vanish. Messages of another member
/// of the same channel arrive meanwhile.
pub(crate) fn silent_subscribers_leave_channel_to_others() {
    const REPLY_WITHIN: Duration = secs(3);
    let attack = AttackTest::without_discovery().measure_quiet();
    let subscribers = PeerLimits::default().channel_subscriptions_max as u64;
    let mut other = Crowd::join(&attack, 1);
    let silent = [(); 3].map(|()| Crowd::join(&attack, subscribers));
    let mut publisher = Crowd::join(&attack, 0);
    let is_over = Arc::new(AtomicBool::new(false));
    let over = is_over.clone();
    let flood = std::thread::spawn(move || {
        let mut sent = 0;
        while !over.load(Ordering::SeqCst) {
            publisher.publish(0);
            sent += 1;
        }
        sent
    });
    let mut waits = Vec::new();
    let mut measure = |other: &mut Crowd, span: Duration| {
        let begun = Instant::now();
        while begun.elapsed() < span {
            waits.push(other.wait_for_own_message(waits.len() as u64));
        }
    };
    measure(&mut other, secs(5));
    is_over.store(true, Ordering::SeqCst);
    let sent = flood.join().expect("the member can send");
    attack.victim.has_logged("misses messages of its channel");
    // Without a goodbye: what waits for them is kept.
    drop(silent);
    let ran_before = attack.victim.cpu_time();
    measure(&mut other, secs(5));
    let ran = attack.victim.cpu_time() - ran_before;
    let longest = waits.iter().max().copied().unwrap_or_default();
    println!(
        "{sent} messages; {} messages of another, which took at most {longest:?}; then {ran:?} of a processor in 5 s",
        waits.len()
    );
    assert!(longest < REPLY_WITHIN, "a message took {longest:?}");
    other.leave();
    attack.end(
        "small messages for silent subscribers",
        5 * bounds::member(&Limits::default()) + bounds::channel(&Limits::default()),
    );
}

/// The upstreams of a channel with as many relays as a member may have change, as often as another member can state it.
pub(crate) fn upstreams_reach_many_relays_in_parts() {
    let attack = AttackTest::without_discovery().measure_quiet();
    // One actor subscribes as well.
    let relays = PeerLimits::default().channel_subscriptions_max as u64 - 1;
    let mut crowd = Crowd::join(&attack, 0);
    for relay in 1..=relays {
        let body = [&[0x94, 3][..], &crowd.address(relay), &[0xc3, 0x90]].concat();
        crowd.send(&body);
    }
    crowd.wait_until_taken();
    let mut above = Crowd::join(&attack, 0);
    let state = |above: &mut Crowd, number: u64| {
        let (me, reply) = (above.address((1 << 20) | (number % 30)), above.address(number));
        above.send(&[&[0x94, 6][..], &me, &[0x91], &me, &[0x91], &reply].concat());
    };
    state(&mut above, 1);
    above.member.run_once(|_| ()).expect("the session continues");
    let mut asked = BTreeSet::new();
    crowd.member.run_until(|frame| {
        if let Frame::Message(message) = frame {
            assert!(message.body.starts_with(&[0x94, 6]), "the relays get nothing else");
            assert!(asked.insert(message.to.to_bits()), "each relay is asked once");
        }
        (asked.len() as u64 == relays).then_some(())
    });
    // They do not answer. What is stated meanwhile is refused, or begins again.
    let begun = Instant::now();
    let mut number = 1;
    while begun.elapsed() < secs(7) {
        number += 1;
        state(&mut above, number);
        crowd.member.run_once(|_| ()).expect("the session continues");
    }
    println!("{number} statements");
    crowd.leave();
    above.leave();
    attack.end(
        "upstreams of many relays",
        2 * bounds::member(&Limits::default()) + bounds::channel(&Limits::default()),
    );
}

/// Deliveries to actors and relays of a member that takes all, but answers none and sends no receipt.
pub(crate) fn deliveries_unanswered_leave_no_traces() {
    const SUBSCRIBERS: u64 = 400;
    const DELIVERIES: u64 = 200;
    let mut attack = AttackTest::without_discovery().measure_quiet();
    let mut crowd = Crowd::join(&attack, SUBSCRIBERS / 2);
    for relay in SUBSCRIBERS / 2..SUBSCRIBERS {
        let body = [&[0x94, 3][..], &crowd.address(relay), &[0xc3, 0x90]].concat();
        crowd.send(&body);
    }
    crowd.wait_until_taken();
    let first = crowd.answers + 1;
    let mut answered = 0;
    for number in first..first + DELIVERIES {
        // For one subscriber at least, in no time.
        let reply = crowd.address(number);
        let body = [&[0x94, 1, 0x93, 1, 0, 0][..], &reply, &[0xc4, 0]].concat();
        crowd.send(&body);
        answered += crowd.member.run_until(|frame| match frame {
            Frame::Answer(answer) if answer.to == Key::from_bits(number) => Some(1),
            _ => None,
        });
    }
    assert_eq!(answered, DELIVERIES);
    assert_eq!(attack.victim.count("receipts"), 0, "each receipt is forgotten with its request");
    crowd.leave();
    attack.end(
        "deliveries without answers",
        bounds::member(&Limits::default()) + bounds::channel(&Limits::default()),
    );
}

/// Messages of 1 MiB for subscribers on the victim that take none: each copy needs its own memory there.
pub(crate) fn large_messages_for_sleeping_subscribers_are_bounded() {
    let kept = bounds::channel(&Limits::default());
    let mut attack = AttackTest::without_discovery().measure_quiet().which_leaves(kept);
    let mut crowd = Crowd::join_at::<String>(&attack, ASLEEP, 0);
    let text = "x".repeat(1 << 20);
    for _ in 0..200 {
        crowd.publish_value(&text);
    }
    crowd.wait_until_taken();
    attack.victim.has_logged("misses messages of its channel");
    let held = attack.victim.allocated_bytes();
    assert!(held > 64 << 20, "the subscribers have got copies of {held} bytes");
    crowd.leave();
    attack.end(
        "large messages for sleeping subscribers",
        bounds::member(&Limits::default()) + bounds::channel(&Limits::default()),
    );
}
