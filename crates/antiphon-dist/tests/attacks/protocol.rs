//! Members that keep to the protocol at its edges, or do not: what the node answers is what PROTOCOL.md says.

use std::num::NonZeroU64;

use antiphon_wire::frame::{
    Ack, AnnounceRelay, Close, CloseReason, DownReason, Found, FragmentPart, Lookup, LookupResult, Monitor,
    NameSpace,
};
use antiphon_wire::{Frame, Key};

use crate::attack_test::AttackTest;
use crate::bounds;
use crate::common::{Net, wait_for};
use crate::member::{Member, RawMember};
use crate::victim::VictimOptions;

/// A key that no actor of the victim has.
const UNKNOWN: Key = Key::from_bits(1 << 40);

pub(crate) fn monitor_of_unknown_actor_names_target() {
    let mut attack = AttackTest::without_discovery();
    let mut member = Member::join(&attack.net, &attack.victim);
    let victim = member.session.peer();
    let watcher = Key::from_bits(7);
    for id in 1..=2 {
        member.send(&Monitor { watcher, target: Key::from_bits(UNKNOWN.to_bits() + id), id }.into(), |_| ());
        member.run_until(|frame| match frame {
            Frame::Down(down) => {
                assert_eq!(
                    (down.watcher, down.actor.to_bits(), down.id),
                    (watcher, UNKNOWN.to_bits() + id, id)
                );
                assert_eq!((down.node, down.reason), (victim, DownReason::NoActor));
                Some(())
            }
            _ => None,
        });
    }
    assert_eq!(attack.victim.count("monitors"), 0);
    attack.end("monitors of unknown actors", bounds::member(&antiphon_dist::Limits::default()));
}

pub(crate) fn lookup_with_used_number_replaces_earlier() {
    let mut attack = AttackTest::without_discovery();
    let mut member = Member::join(&attack.net, &attack.victim);
    let lookup = |name| Lookup { request: 1, space: NameSpace::Actor, all: false, name };
    member.send(&lookup("none of this name").into(), |_| ());
    member.send(&lookup("nor of this one").into(), |_| ());
    member.run_until_acknowledged(|_| ());
    assert_eq!(attack.victim.count("lookups"), 1);
    // A name that is found at once replaces the open lookup too.
    member.send(&lookup("echo").into(), |_| ());
    member.run_until(|frame| {
        matches!(frame, Frame::Found(Found { request: 1, result: LookupResult::Found { .. } })).then_some(())
    });
    assert_eq!(attack.victim.count("lookups"), 0);
    attack.end("lookups with one number", bounds::member(&antiphon_dist::Limits::default()));
}

/// A member asks to be announced many times at once: it is announced once in a second.
pub(crate) fn announce_relays_are_served_once_a_second() {
    let mut attack = AttackTest::on(Net::new(), VictimOptions::default());
    let mut member = Member::join(&attack.net, &attack.victim);
    let asked = (1..=100).filter_map(NonZeroU64::new);
    asked.for_each(|request| member.send(&AnnounceRelay { request }.into(), |_| ()));
    member.run_until_acknowledged(|_| ());
    // Two are served if a second ends between them.
    attack.victim.wait_for_count("refused_messages", 98);
    attack.end("announce relays", bounds::member(&antiphon_dist::Limits::default()));
}

/// A node says by its last frame that the member broke the protocol.
pub(crate) fn member_that_broke_protocol_receives_close() {
    let mut attack = AttackTest::without_discovery();
    let part = FragmentPart::Next;
    let faults: [Frame<'_>; 2] =
        [Ack { next: 1 << 40 }.into(), antiphon_wire::frame::Fragment { stream: 1, part, data: b"x" }.into()];
    for (number, fault) in faults.iter().enumerate() {
        let mut member = RawMember::join(&attack.net, &attack.victim);
        member.write(&[*fault]).expect("the victim reads");
        let mut last = None;
        wait_for("the end of the connection", || {
            member
                .read(|frame| {
                    last = match frame {
                        Frame::Close(close) => Some(close.reason),
                        _ => None,
                    }
                })
                .err()
        });
        assert_eq!(last, Some(CloseReason::Misbehaved), "{fault:?}");
        attack.victim.wait_for_count("misbehaved", number as u64 + 1);
    }
    attack.end("broken protocols", bounds::member(&antiphon_dist::Limits::default()));
}

pub(crate) fn peer_that_rejects_node_ends_session() {
    let mut attack = AttackTest::without_discovery();
    let online = attack.victim.count("online");
    let mut member = RawMember::join(&attack.net, &attack.victim);
    attack.victim.wait_for_count("online", online + 1);
    member.write(&[Close { reason: CloseReason::Misbehaved }.into()]).expect("the victim reads");
    wait_for("the end of the connection", || member.read(|_| ()).err());
    attack.victim.has_logged_once("in its view this node broke the protocol");
    wait_for("the end of the session", || (attack.victim.count("online") == online).then_some(()));
    assert_eq!(attack.victim.count("misbehaved"), 0);
    attack.end("a peer that rejects the node", bounds::member(&antiphon_dist::Limits::default()));
}
