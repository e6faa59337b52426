//! Members that use the node id of another node, or state its location.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::Instant;

use antiphon_dist::{Limits, Location, Refusal, Status, Suite};
use antiphon_sched::{Addr, millis, secs};
use antiphon_wire::frame::{Close, CloseReason, Goodbye, GoodbyeReason, IdleProposed};
use antiphon_wire::{Frame, HandshakeError, NodeId, Profile};

use crate::attack_test::AttackTest;
use crate::bounds;
use crate::caller::{Failed, profile};
use crate::common::{Net, PATIENCE, TestNode, wait_for};
use crate::datagrams::DialTrap;
use crate::member::Member;
use crate::middle::{self, Forward};
use crate::victim::{Tally, VictimOptions};

/// How far above the known epoch of a node the next one may be.
const STEP: u64 = 1 << 32;

/// A node that sends the victim one number after another.
struct Honest {
    node: TestNode,
    statuses: Receiver<(String, Status)>,
    is_over: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    numbers: JoinHandle<u64>,
}

impl Honest {
    /// Starts the node, which dials `at`.
    fn start(net: &Net, at: Location) -> Self {
        let node = net.static_node("honest", &[at]);
        let tally: Addr<Tally> = node.find("tally");
        let statuses = node.statuses();
        let (is_over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (handle, over, count) = (node.handle.clone(), is_over.clone(), sent.clone());
        let numbers = std::thread::spawn(move || {
            while !over.load(Ordering::SeqCst) {
                handle.send(tally, Tally::Number(count.load(Ordering::SeqCst))).expect("the node runs");
                count.fetch_add(1, Ordering::SeqCst);
                // A stream that lasts as long as the attack.
                std::thread::sleep(millis(1));
            }
            let sent = count.load(Ordering::SeqCst);
            assert_eq!(handle.ask(tally, PATIENCE, Tally::Total), Ok(sent));
            sent
        });
        Self { node, statuses, is_over, sent, numbers }
    }

    /// Waits until it has sent 100 more numbers.
    fn send_more(&self) {
        let goal = self.sent.load(Ordering::SeqCst) + 100;
        wait_for("numbers to be sent", || (self.sent.load(Ordering::SeqCst) >= goal).then_some(()));
    }

    /// The profile of an impostor of this node.
    fn impostor(&self, net: &Net) -> Profile {
        Profile { node: self.node.handle.node_id(), ..profile(net, &Suite::aead()) }
    }

    /// All numbers have arrived, once and in order, in the session of the first.
    #[track_caller]
    fn end(self, attack: &AttackTest) {
        self.is_over.store(true, Ordering::SeqCst);
        let sent = self.numbers.join().expect("all numbers have arrived");
        assert!(attack.victim.log.lines("out of order").is_empty(), "{:?}", attack.victim.log.lines(""));
        let statuses: Vec<(String, Status)> = self.statuses.try_iter().collect();
        let is_ended = statuses.iter().any(|(_, status)| *status == Status::Offline);
        assert!(!is_ended, "its session has ended: {statuses:?}");
        println!("{sent} numbers have arrived meanwhile");
    }
}

fn refusal(joined: Result<Member, Failed>) -> Refusal {
    match joined {
        Err(Failed::Refused(HandshakeError::RefusedByPeer(refusal))) => refusal,
        Err(other) => panic!("no refusal has arrived: {other:?}"),
        Ok(_) => panic!("the victim has accepted an impostor"),
    }
}

/// A line to the victim that can be cut.
struct Line {
    at: Location,
    is_cut: Arc<AtomicBool>,
}

impl Line {
    fn to(victim: Location) -> Self {
        let is_cut = Arc::new(AtomicBool::new(false));
        let cut = is_cut.clone();
        let at = middle::start(victim.addr(), move |piece| {
            if cut.load(Ordering::SeqCst) { Forward::Last(Vec::new()) } else { Forward::Bytes(piece.bytes) }
        });
        Self { at: at.into(), is_cut }
    }

    fn set_cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::SeqCst);
    }
}

/// The session of a node that answers goes on, whatever epoch an impostor claims.
pub(crate) fn impostor_of_connected_node_is_refused() {
    let mut attack = AttackTest::without_discovery().measure_quiet();
    let honest = Honest::start(&attack.net, attack.victim.location);
    honest.send_more();
    let impostor = honest.impostor(&attack.net);
    let connected = attack.victim.count("online");
    let at = attack.victim.location.addr();
    let join = |epoch| Member::join_as(at, &impostor, epoch);
    for epoch in [u64::MAX, 1 << 63] {
        assert_eq!(refusal(join(epoch)), Refusal::Malformed, "the page does not allow {epoch}");
    }
    for epoch in [2 + STEP, 1 << 62, (1 << 63) - 1] {
        assert!(matches!(refusal(join(epoch)), Refusal::EpochTooHigh { known: 1, .. }), "{epoch}");
    }
    for epoch in [2, 1_000, 1 + STEP] {
        assert_eq!(refusal(join(epoch)), Refusal::NodeIdInUse, "{epoch}");
    }
    // Many at a time are decided by one ping.
    std::thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| {
                for epoch in [2, STEP] {
                    match join(epoch) {
                        // Others have taken its place before its proof.
                        Err(Failed::Silence) => {}
                        joined => assert_eq!(refusal(joined), Refusal::NodeIdInUse),
                    }
                }
            });
        }
    });
    assert_eq!(attack.victim.count("online"), connected);
    attack.victim.has_logged_once("another connection of this node id answers");
    honest.end(&attack);
    attack.end("an impostor of a connected node", bounds::pending_connections(&Limits::default(), false));
}

/// An impostor that comes while the node is away takes its place only within the bound, and only while it stays.
pub(crate) fn impostor_of_absent_node_leaves_and_it_returns() {
    let attack = AttackTest::without_discovery().measure_quiet();
    let line = Line::to(attack.victim.location);
    let honest = Honest::start(&attack.net, line.at);
    let impostor = honest.impostor(&attack.net);
    let at = attack.victim.location.addr();
    let join = |epoch| Member::join_as(at, &impostor, epoch);
    for _ in 0..3 {
        honest.send_more();
        line.set_cut(true);
        honest.send_more();
        for epoch in [2 + STEP, 1 << 62, (1 << 63) - 1] {
            assert!(matches!(refusal(join(epoch)), Refusal::EpochTooHigh { known: 1, .. }), "{epoch}");
        }
        line.set_cut(false);
    }
    honest.send_more();
    honest.end(&attack);

    // The second node's session ends, since nothing shows that the impostor is another one.
    let line = Line::to(attack.victim.location);
    let second = attack.net.static_node("second", &[line.at]);
    second.wait_for_peers(1);
    let mut impostor = profile(&attack.net, &Suite::aead());
    impostor.node = second.handle.node_id();
    line.set_cut(true);
    let mut member = loop {
        // The victim may not have noticed yet that the connection is cut.
        match Member::join_as(attack.victim.location.addr(), &impostor, 1 + STEP) {
            Ok(member) => break member,
            refused => assert_eq!(refusal(refused), Refusal::NodeIdInUse),
        }
    };
    line.set_cut(false);
    // While the impostor answers, it is the one that the victim knows.
    wait_for("the node to be refused", || {
        member.run_once(|_| ()).expect("the impostor stays connected");
        second.log.lines("another connection of this node id answers").first().cloned()
    });
    drop(member);
    let left = Instant::now();
    let tally: Addr<Tally> = second.find("tally");
    assert!(second.handle.ask(tally, PATIENCE, Tally::Total).is_ok());
    println!("the node was back {:?} after the impostor had left", left.elapsed());
    assert!(left.elapsed() < secs(8), "the node was back only after {:?}", left.elapsed());
    assert_eq!(second.log.lines("another program has used the id of this node").len(), 1);
    attack.end("an impostor of an absent node", bounds::pending_connections(&Limits::default(), false));
}

/// An impostor of a node that was never connected takes the highest epoch, lets its session rest, and leaves for ever. The node gets in
/// all the same: the victim asks whether the impostor is still there.
pub(crate) fn impostor_that_rests_and_leaves_frees_node_id() {
    let attack = AttackTest::without_discovery();
    let line = Line::to(attack.victim.location);
    line.set_cut(true);
    let late = attack.net.static_node("late", &[line.at]);
    let trap = DialTrap::at([127, 0, 0, 2], 0);
    let mut impostor = profile(&attack.net, &Suite::aead());
    (impostor.node, impostor.locations) = (late.handle.node_id(), vec![trap.location()]);
    let joined = Member::join_as(attack.victim.location.addr(), &impostor, (1 << 63) - 1);
    let mut member = joined.expect("the victim does not know the node");
    let proposal = IdleProposed { sent: member.session.frames_sent() };
    member.session.send_control(&proposal.into()).expect("there is a connection");
    member.run_until(|frame| matches!(frame, Frame::IdleAgreed(_)).then_some(()));
    member.session.send_control(&Close { reason: CloseReason::Idle }.into()).expect("there is a connection");
    let left = Instant::now();
    while member.run_once(|_| ()).is_ok() {}
    drop(member);
    line.set_cut(false);
    let tally: Addr<Tally> = late.find("tally");
    assert!(late.handle.ask(tally, PATIENCE, Tally::Total).is_ok());
    println!("the node got in {:?} after the impostor had left", left.elapsed());
    attack.end("an impostor that rests and leaves", bounds::member(&Limits::default()));
}

/// A node whose connection is closed while it is idle is asked over another one.
pub(crate) fn impostor_of_resting_node_is_refused() {
    let attack = AttackTest::without_discovery();
    let config = attack.net.static_config("resting", &[attack.victim.location]);
    let resting = TestNode::start(antiphon_dist::Config { stream_send: false, ..config });
    let tally: Addr<Tally> = resting.find("tally");
    let ask = || resting.handle.ask(tally, PATIENCE, Tally::Total);
    assert_eq!(ask(), Ok(0));
    let mut impostor = profile(&attack.net, &Suite::aead());
    impostor.node = resting.handle.node_id();
    for epoch in 2..5 {
        resting.wait_for_counts("the idle close", |counts| counts.connections == 0);
        let joined = Member::join_as(attack.victim.location.addr(), &impostor, epoch);
        assert_eq!(refusal(joined), Refusal::NodeIdInUse, "{epoch}");
        assert_eq!(ask(), Ok(0));
    }
    assert!(resting.log.lines("another program has used the id").is_empty());
    attack.end("an impostor of a resting node", bounds::pending_connections(&Limits::default(), false));
}

/// A member that states the location of a node whose connection is cut does not end its session.
pub(crate) fn location_of_absent_node_ends_no_session() {
    let attack = AttackTest::without_discovery().measure_quiet();
    let line = Line::to(attack.victim.location);
    let honest = Honest::start(&attack.net, line.at);
    let locations = vec![honest.node.location.addr()];
    let claim = Profile { locations, ..profile(&attack.net, &Suite::aead()) };
    let mut members = Vec::new();
    for round in 0..5 {
        honest.send_more();
        line.set_cut(true);
        honest.send_more();
        for number in 0..3 {
            let node = NodeId::from_bits(claim.node.to_bits().wrapping_add(3 * round + number));
            let member =
                Member::join_as(attack.victim.location.addr(), &Profile { node, ..claim.clone() }, 1);
            let mut member = member.expect("it is a member like others");
            member.run_once(|_| ()).expect("the member stays connected");
            members.push(member);
        }
        line.set_cut(false);
        // The victim finds the node at its location meanwhile, or the node dials again.
        let until = Instant::now() + millis(300);
        while Instant::now() < until {
            members.retain_mut(|member| member.run_once(|_| ()).is_ok());
        }
    }
    honest.end(&attack);
    attack.end("the location of an absent node", bounds::pending_connections(&Limits::default(), false));
}

/// The victim dials its configured peer, although a member that is connected states that location.
pub(crate) fn stated_location_is_dialled_all_the_same() {
    let reserved = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let at = reserved.local_addr().expect("the listener is bound");
    drop(reserved);
    let net = Net { udp_port: 0, ..Net::new() };
    let options = VictimOptions { peer: Some(at.into()), ..VictimOptions::default() };
    let attack = AttackTest::on(net, options);
    let claim = Profile { locations: vec![at], ..profile(&attack.net, &Suite::aead()) };
    let to = attack.victim.location.addr();
    // After such a goodbye, a node does not dial the other one any more.
    let mut leaving = Member::join_as(to, &claim, 1).expect("it is a member like others");
    leaving.send(&Goodbye { reason: GoodbyeReason::Closed }.into(), |_| ());
    wait_for("the end of a session", || leaving.run_once(|_| ()).is_err().then_some(()));
    let claim = Profile { node: NodeId::from_bits(claim.node.to_bits().wrapping_add(1)), ..claim };
    let mut member = Member::join_as(to, &claim, 1).expect("it is a member like others");
    // The node there starts only when the victim has looked which node is there.
    let joined = Instant::now();
    while joined.elapsed() < secs(3) {
        member.run_once(|_| ()).expect("the member stays connected");
    }
    let config = attack.net.static_config("configured", &[]);
    let configured = TestNode::start(antiphon_dist::Config { tcp_port: at.port(), ..config });
    let handle = configured.handle.clone();
    let is_found = std::thread::spawn(move || configured.wait_for_peers(1));
    wait_for("the victim to dial its peer", || {
        member.run_once(|_| ()).expect("the member stays connected");
        is_found.is_finished().then_some(())
    });
    is_found.join().expect("the victim has dialled its peer");
    handle.stop();
    attack.end("a stated location", bounds::pending_connections(&Limits::default(), false));
}
