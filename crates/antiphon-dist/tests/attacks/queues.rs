//! Attacks by a member on the queues of a node: answers that it does not take, small messages for actors that sleep, pauses.

use std::collections::VecDeque;
use std::io;
use std::time::Instant;

use antiphon_dist::{Limits, PeerLimits};
use antiphon_sched::{Bytes, Wire, secs};
use antiphon_wire::frame::{
    Credit, Goodbye, GoodbyeReason, Lookup, LookupResult, Message, Monitor, NameSpace, Pause, Pong, Tag,
    Terminate, Unpause,
};
use antiphon_wire::{Frame, Key, Route, TagId};

use crate::attack_test::AttackTest;
use crate::bounds;
use crate::common::{Net, wait_for};
use crate::member::RawMember;
use crate::victim::{AskThere, HEAVY_ACTORS, SLEEPERS, Victim};

/// A member that keeps to the victim's credit, reads everything, and grants and acknowledges nothing.
struct Hoarder {
    member: RawMember,
    /// The position up to which it may send.
    granted: u64,
    sent: u64,
    /// The frames that have arrived, by kind.
    answers: usize,
    found: VecDeque<(Key, TagId)>,
}

impl Hoarder {
    fn join(net: &Net, victim: &Victim) -> Self {
        let member = RawMember::join(net, victim);
        let granted = u64::from(Limits::default().window_bytes);
        Self { member, granted, sent: 0, answers: 0, found: VecDeque::new() }
    }

    /// Reads what has arrived. It answers pings, so the victim does not take it for dead.
    fn read(&mut self) -> io::Result<()> {
        let mut pongs = Vec::new();
        let Self { member, granted, answers, found, .. } = self;
        member.read(|frame| match frame {
            Frame::Credit(credit) => *granted = credit.until.max(*granted),
            Frame::Ping(ping) => pongs.push(Frame::Pong(Pong { token: ping.token })),
            Frame::Found(answer) => {
                *answers += 1;
                if let LookupResult::Found { key, tag } = answer.result {
                    found.push_back((key, tag));
                }
            }
            Frame::Receipt(_) | Frame::Down(_) => *answers += 1,
            _ => {}
        })?;
        if pongs.is_empty() { Ok(()) } else { self.member.write(&pongs) }
    }

    /// Sends as many of these frames as the credit admits. Returns their number.
    fn send(&mut self, frames: &[Frame<'_>]) -> io::Result<usize> {
        let mut room = self.granted - self.sent;
        let fits = |frame: &&Frame<'_>| match room.checked_sub(frame.encoded_size()) {
            Some(left) => {
                room = left;
                true
            }
            None => false,
        };
        let count = frames.iter().take_while(fits).count();
        if count > 0 {
            self.sent = self.granted - room;
            self.member.write(&frames[..count])?;
        }
        Ok(count)
    }

    /// Sends all these frames.
    #[track_caller]
    fn send_all(&mut self, mut frames: &[Frame<'_>]) {
        wait_for("credit", || {
            frames = &frames[self.send(frames).expect("the session continues")..];
            self.read().expect("the session continues");
            frames.is_empty().then_some(())
        });
    }

    /// Locates a name.
    #[track_caller]
    fn find(&mut self, name: &str) -> Key {
        self.send_all(&[Lookup { request: 1, space: NameSpace::Actor, all: false, name }.into()]);
        wait_for(name, || {
            self.read().expect("the session continues");
            self.found.pop_front()
        })
        .0
    }

    /// The first type tag of the member.
    #[track_caller]
    fn tag_of<T: Wire>(&mut self) -> TagId {
        self.send_all(&[Tag { id: TagId(0), name: &T::name() }.into()]);
        TagId(0)
    }

    /// Sends these frames again and again until the victim ends the session. Returns how many frames it has sent.
    #[track_caller]
    fn flood_until_closed(&mut self, frames: &[Frame<'_>]) -> u64 {
        let mut sent = 0;
        wait_for("the end of the session", || {
            let result = self.send(frames).and_then(|count| {
                sent += count as u64;
                self.read()
            });
            result.err()
        });
        sent
    }
}

/// Receipts for messages to nobody, and `Down`s of monitors on nobody.
pub(crate) fn answers_untaken_end_session() {
    let mut attack = AttackTest::without_discovery().measure_quiet();
    let mut member = Hoarder::join(&attack.net, &attack.victim);
    let tag = member.tag_of::<Bytes>();
    let (to, from, route) = (Key::from_bits(5), Key::from_bits(1), Route::NONE);
    let frames: Vec<Frame<'_>> = (0..500)
        .flat_map(|number| {
            let message = Message { to, from, tag, receipt: Some(number), route, body: &[0xc0] };
            [
                Frame::from(message),
                Monitor { watcher: Key::from_bits(3), target: Key::from_bits(5), id: number }.into(),
            ]
        })
        .collect();
    let begun = Instant::now();
    let sent = member.flood_until_closed(&frames);
    println!("{sent} frames, {} answers arrived in {:?}", member.answers, begun.elapsed());
    attack.victim.wait_for_count("unresponsive", 1);
    attack.victim.has_logged_once("takes none of the answers");
    attack.end("untaken answers", bounds::unread_session(&Limits::default()));
}

/// Exit values of 1 MiB, of more actors than the reserve has room for.
pub(crate) fn exit_values_untaken_stay_within_reserve() {
    let attack = AttackTest::without_discovery().measure_quiet();
    let mut member = Hoarder::join(&attack.net, &attack.victim);
    let tag = member.tag_of::<Bytes>();
    let actors: Vec<Key> = (0..HEAVY_ACTORS).map(|number| member.find(&format!("heavy-{number}"))).collect();
    for (id, actor) in (0..).zip(actors) {
        let message = Message {
            to: actor,
            from: Key::from_bits(1),
            tag,
            receipt: None,
            route: Route::NONE,
            body: &[0xc4, 0],
        };
        let monitor = Monitor { watcher: Key::from_bits(3), target: actor, id };
        member.send_all(&[monitor.into(), message.into()]);
    }
    let begun = Instant::now();
    while begun.elapsed() < secs(2) {
        member.read().expect("the session continues");
    }
    attack.end("untaken exit values", bounds::unread_session(&Limits::default()));
}

/// The end of an actor that many actors of many members monitor. The members read nothing, so the `Down`s wait, each for an actor of its
/// own.
pub(crate) fn monitors_of_ended_actor_leave_others_their_share() {
    const MEMBERS: u64 = 20;
    const MONITORS: u64 = 60_000;
    let mut attack = AttackTest::without_discovery().measure_quiet().with_replies_within(secs(1));
    let mut members: Vec<Hoarder> =
        (0..MEMBERS).map(|_| Hoarder::join(&attack.net, &attack.victim)).collect();
    let target = members[0].find("heavy-0");
    let begun = Instant::now();
    let monitors: Vec<Frame<'_>> =
        (0..MONITORS).map(|id| Monitor { watcher: Key::from_bits(id + 1), target, id }.into()).collect();
    members.iter_mut().for_each(|member| member.send_all(&monitors));
    attack.victim.wait_for_count("monitors", MEMBERS * MONITORS);
    println!("{} monitors were set in {:?}", MEMBERS * MONITORS, begun.elapsed());
    let begun = Instant::now();
    members[0].send_all(&[Terminate { from: Key::from_bits(1), target, grace: None }.into()]);
    attack.victim.wait_for_count_at_most("monitors", 0);
    println!("all had ended after {:?}", begun.elapsed());
    let each = bounds::monitors(&PeerLimits::default()) + u64::from(Limits::default().window_bytes);
    attack.end("monitors of an ended actor", MEMBERS * each + bounds::sessions(MEMBERS));
}

/// Messages of 1,000 bytes for many actors that take none. They stay in the mailboxes, also after the end of the session.
pub(crate) fn small_messages_for_sleepers_wait_at_sender() {
    let attack = AttackTest::without_discovery().measure_quiet().which_leaves(128 << 20);
    let mut member = Hoarder::join(&attack.net, &attack.victim);
    let tag = member.tag_of::<Bytes>();
    let actors: Vec<Key> = (0..SLEEPERS).map(|number| member.find(&format!("sleeper-{number}"))).collect();
    let mut body = vec![0xc5, 0x03, 0xe8];
    body.resize(3 + 1000, 7);
    let frames: Vec<Frame<'_>> = actors
        .iter()
        .map(|to| {
            Message { to: *to, from: Key::from_bits(1), tag, receipt: None, route: Route::NONE, body: &body }
                .into()
        })
        .collect();
    // The victim grants no more credit in the end.
    let (mut sent, mut last) = (0, Instant::now());
    while last.elapsed() < secs(2) {
        let count = member.send(&frames).expect("the session continues");
        if count > 0 {
            (sent, last) = (sent + count, Instant::now());
        }
        member.read().expect("the session continues");
    }
    println!("{sent} messages");
    assert!(sent < SLEEPERS * 65_000, "the victim took all messages");
    attack.end("small messages for sleepers", bounds::member(&Limits::default()));
}

/// Pauses of actors, while many frames wait for others; then the end of the session, with all that waits.
pub(crate) fn pauses_beside_long_queue_leave_others_their_share() {
    // The tables of actors, requests and timers keep room for the 20,000 actors that the victim had at a time.
    let mut attack = AttackTest::without_discovery().measure_quiet().which_leaves(6 << 20);
    let mut member = Hoarder::join(&attack.net, &attack.victim);
    let tag = member.tag_of::<AskThere>();
    let to = member.find("asker");
    let me = member.member.node.to_bits();
    // The victim asks an actor of this member, which it names: [address, reply].
    let bodies: Vec<Vec<u8>> = (0..20_000_u64)
        .map(|number| {
            let node = me.to_be_bytes();
            let key = (1000 + number).to_be_bytes();
            let at = |last: &[u8]| [&[0x92, 0xcf][..], &node, &[0xcf], last].concat();
            [&[0x92][..], &at(&key), &at(&key)].concat()
        })
        .collect();
    for body in &bodies {
        let message = Message { to, from: Key::from_bits(1), tag, receipt: None, route: Route::NONE, body };
        member.send_all(&[message.into()]);
    }
    attack.victim.wait_for_count("replies", bodies.len() as u64);
    let pauses: Vec<Frame<'_>> = (0..1000)
        .flat_map(|number| {
            let actor = Key::from_bits(1000 + number);
            [Frame::from(Pause { actor }), Unpause { actor }.into()]
        })
        .collect();
    let begun = Instant::now();
    while begun.elapsed() < secs(4) {
        member.member.write(&pauses).expect("the session continues");
        member.read().expect("the session continues");
    }
    member.send_all(&[Goodbye { reason: GoodbyeReason::Leaving }.into()]);
    attack.victim.wait_for_count_at_most("replies", 0);
    attack.end("pauses beside a long queue", bounds::member(&Limits::default()));
}

/// Credit without end, and no acknowledgement: what was sent is kept, up to a bound.
pub(crate) fn frames_unacknowledged_are_kept_within_bound() {
    let attack = AttackTest::without_discovery().measure_quiet();
    let mut member = Hoarder::join(&attack.net, &attack.victim);
    let tag = member.tag_of::<Bytes>();
    member.member.write(&[Credit { until: u64::MAX }.into()]).expect("the session continues");
    let (to, from, route) = (Key::from_bits(5), Key::from_bits(1), Route::NONE);
    let frames: Vec<Frame<'_>> = (0..1000)
        .map(|number| Message { to, from, tag, receipt: Some(number), route, body: &[0xc0] }.into())
        .collect();
    let begun = Instant::now();
    let mut is_closed = false;
    while begun.elapsed() < secs(10) && !is_closed {
        is_closed = member.send(&frames).and_then(|_| member.read()).is_err();
    }
    println!("{} answers in {:?}, closed: {is_closed}", member.answers, begun.elapsed());
    assert!(member.answers > 100_000, "only {} answers arrived", member.answers);
    attack.end("unacknowledged answers", bounds::unread_session(&Limits::default()));
}
