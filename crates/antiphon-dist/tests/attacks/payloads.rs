//! Bodies that no node accepts, from a peer that has the secret: in replies, in values, and in messages for an actor whose
//! mailbox is full. [`members`](crate::members) sends them in other messages.

use antiphon_sched::Wire;
use antiphon_wire::frame::{Answer, Down, DownReason, Message, Monitor, NameSpace, Outcome, Resume, Throw};
use antiphon_wire::{Frame, Key, Route, TagId};

use crate::attack_test::AttackTest;
use crate::bounds;
use crate::common::Net;
use crate::common::bombs::{Bomb, Tree, bombs};
use crate::member::Member;
use crate::victim::{AskThere, VictimOptions, WatchThere};

/// The most bytes by which the victim may grow. The buffer of the largest body, which has 2.4 MB, grows by doubling; no
/// body is decoded.
pub(crate) const BOUND: u64 = 2 * (4 << 20) + bounds::SLACK;

/// An actor of the member, which the victim asks and monitors.
const ACTOR: Key = Key::from_bits(1);
/// A request of the member; the victim's reply tells what became of an order.
const ORDER: Key = Key::from_bits(2);

pub(crate) fn bombs_in_replies_fail_their_requests() {
    let mut attack = AttackTest::without_discovery();
    let mut member = Member::join(&attack.net, &attack.victim);
    let (asker, _) = member.find(NameSpace::Actor, "asker");
    let tag = member.tag_of::<Tree>();
    let mut refused = 0;
    for Bomb { what, body, .. } in &bombs() {
        give_order::<AskThere>(&mut member, asker);
        let request = request_of_victim(&mut member);
        let forged = Key::from_bits(request.to_bits() ^ 1 << 32);
        member.send(&answer(forged, tag, body), |_| ());
        member.send(&answer(request, tag, body), |_| ());
        let result = result_of_order(&mut member);
        let kinds = ["Err(Reply(Decode(", "Err(Reply(TooDeep {", "Err(Reply(TooManyValues {"];
        assert!(kinds.iter().any(|kind| result.starts_with(kind)), "{what}: {result}");
        refused += 2;
    }
    give_order::<AskThere>(&mut member, asker);
    let request = request_of_victim(&mut member);
    member.send(&answer(request, tag, &encoded(Tree::Leaf(7))), |_| ());
    assert_eq!(result_of_order(&mut member), "Ok(Leaf(7))");
    assert_eq!(attack.victim.count("refused_messages"), refused);
    attack.victim.has_logged_once("a reply from a peer was refused");
    assert_eq!(attack.victim.count("misbehaved"), 0, "the session continues");
    attack.end("malformed replies", BOUND);
}

pub(crate) fn bombs_as_exit_values_cannot_be_read() {
    let mut attack = AttackTest::without_discovery();
    let mut member = Member::join(&attack.net, &attack.victim);
    let (watcher, _) = member.find(NameSpace::Actor, "watcher");
    let tag = member.tag_of::<Tree>();
    let mut exit_with = |body: &[u8]| {
        give_order::<WatchThere>(&mut member, watcher);
        let monitor = member.run_until(|frame| match frame {
            Frame::Monitor(monitor) if monitor.target == ACTOR => Some(*monitor),
            _ => None,
        });
        let down = Down {
            watcher: monitor.watcher,
            actor: ACTOR,
            node: member.node,
            id: monitor.id,
            reason: DownReason::Done(Some((tag, body))),
        };
        member.send(&down.into(), |_| ());
        result_of_order(&mut member)
    };
    for Bomb { what, body, .. } in &bombs() {
        let result = exit_with(body);
        assert!(result.starts_with("Err("), "{what}: {result}");
    }
    assert_eq!(exit_with(&encoded(Tree::Leaf(7))), "Ok(Leaf(7))");
    assert_eq!(attack.victim.count("misbehaved"), 0, "the session continues");
    attack.end("malformed exit values", BOUND);
}

pub(crate) fn bombs_as_signals_reach_no_actor() {
    let mut attack = AttackTest::without_discovery();
    let mut member = Member::join(&attack.net, &attack.victim);
    let (target, _) = member.find(NameSpace::Actor, "patient");
    let tag = member.tag_of::<Tree>();
    let mut refused = 0;
    for Bomb { body, .. } in &bombs() {
        member.send(&Throw { from: ACTOR, target, tag, body }.into(), |_| ());
        member.send(&Resume { from: ACTOR, target, tag, body }.into(), |_| ());
        refused += 2;
    }
    member.run_until_acknowledged(|_| ());
    attack.victim.wait_for_count("refused_messages", refused);
    assert_eq!(wake_and_end(&mut member, target, tag), "resumed Ok(Leaf(7))");
    assert_eq!(attack.victim.count("refused_messages"), refused);
    assert_eq!(attack.victim.count("misbehaved"), 0, "the session continues");
    attack.end("malformed signals", BOUND);
}

/// Bodies that arrive while earlier messages wait for a full mailbox are refused at once, and the others arrive in order.
pub(crate) fn bombs_behind_full_mailbox_are_refused() {
    let net = Net { udp_port: 0, ..Net::new() };
    let mut attack = AttackTest::on(net, VictimOptions { mailbox_max: 16, ..VictimOptions::default() });
    let mut member = Member::join(&attack.net, &attack.victim);
    let (to, _) = member.find(NameSpace::Actor, "patient");
    let tag = member.tag_of::<Tree>();
    for number in 0..20 {
        member.send(&message(to, tag, None, &encoded(Tree::Leaf(number))), |_| ());
    }
    // The window has no room for larger ones.
    let bombs: Vec<Bomb> = bombs().into_iter().filter(|bomb| bomb.body.len() <= 60_000).collect();
    for (request, bomb) in (0..).zip(&bombs) {
        member.send(&message(to, tag, Some(request), &bomb.body), |_| ());
    }
    member.write_without_reading();
    let mut open = bombs.len();
    member.run_until(|frame| {
        if let Frame::Receipt(receipt) = frame {
            let what = bombs[receipt.request as usize].what;
            assert!(matches!(receipt.outcome, Outcome::Payload(_)), "{what}: {:?}", receipt.outcome);
            open -= 1;
        }
        (open == 0).then_some(())
    });
    assert!(attack.victim.count("backlog_bytes") > 0, "the last numbers still wait");
    let numbers = (0..20).map(|number| format!(", Leaf({number})")).collect::<String>();
    assert_eq!(wake_and_end(&mut member, to, tag), format!("resumed Ok(Leaf(7)){numbers}"));
    assert_eq!(attack.victim.count("refused_messages"), bombs.len() as u64);
    attack.victim.has_logged_once("was refused");
    assert_eq!(attack.victim.count("misbehaved"), 0, "the session continues");
    attack.end("malformed messages behind a full mailbox", BOUND);
}

fn message(to: Key, tag: TagId, receipt: Option<u64>, body: &[u8]) -> Frame<'_> {
    Message { to, from: ACTOR, tag, receipt, route: Route::NONE, body }.into()
}

fn answer(to: Key, tag: TagId, body: &[u8]) -> Frame<'_> {
    Answer { to, from: ACTOR, tag, route: Route::NONE, body }.into()
}

/// Gives an order to an actor of the victim, for [`ACTOR`].
fn give_order<T: Wire>(member: &mut Member, to: Key) {
    let (node, tag) = (member.node.to_bits(), member.tag_of::<T>());
    let body = &encoded(((node, ACTOR.to_bits()), (node, ORDER.to_bits())));
    member.send(&message(to, tag, None, body), |_| ());
}

/// What became of the last order.
fn result_of_order(member: &mut Member) -> String {
    member.run_until(|frame| match frame {
        Frame::Answer(answer) if answer.to == ORDER => {
            Some(String::decode_all(answer.body).expect("the reply is a text"))
        }
        _ => None,
    })
}

/// The id of the request that the victim sends after an order.
fn request_of_victim(member: &mut Member) -> Key {
    member.run_until(|frame| match frame {
        Frame::Message(message) if message.to == ACTOR => {
            let (_, request) = <(u64, u64)>::decode_all(message.body).expect("the message is a `ReplyTo`");
            Some(Key::from_bits(request))
        }
        _ => None,
    })
}

/// Resumes the patient actor, and ends it. Returns all that has reached it.
fn wake_and_end(member: &mut Member, target: Key, tag: TagId) -> String {
    let (value, end) = (&encoded(Tree::Leaf(7)), &encoded(Tree::Nodes(Vec::new())));
    member.send(&Resume { from: ACTOR, target, tag, body: value }.into(), |_| ());
    member.send(&Monitor { watcher: ACTOR, target, id: 1 }.into(), |_| ());
    member.send(&message(target, tag, None, end), |_| ());
    member.run_until(|frame| match frame {
        Frame::Down(Down { id: 1, reason: DownReason::Done(Some((_, text))), .. }) => {
            Some(String::decode_all(text).expect("the exit value is a text"))
        }
        Frame::Down(down) => panic!("the patient actor exited: {:?}", down.reason),
        _ => None,
    })
}

fn encoded(value: impl Wire) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.encode(&mut bytes).expect("the value has an encoding");
    bytes
}
