//! Attacks by members that name other nodes and locations, cause dials, or come and go: on the table of known nodes, and on the
//! descriptors of the victim.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use antiphon_dist::{Limits, NetCx};
use antiphon_sched::{Addr, Cx, Event, millis, receive, secs};
use antiphon_wire::frame::{Goodbye, GoodbyeReason, Message, NameSpace};
use antiphon_wire::{Frame, Key, NodeId, Route, TagId};
use socket2::{Domain, Socket, Type};

use crate::attack_test::AttackTest;
use crate::bounds;
use crate::caller::{connect, socket};
use crate::common::bombs::Tree;
use crate::common::{Net, PATIENCE, TestNode, wait_for};
use crate::datagrams::{DialTrap, assert_dials_in};
use crate::member::Member;
use crate::processors::give_way;
use crate::victim::{AskThere, Echo, Question, VictimOptions};

/// The nodes that the victim remembers of one peer, and those of all that have gone.
const NAMED_MAX: u64 = 1024;
/// The incarnations of each kind that it remembers after their sessions.
const ENDED_MAX: u64 = 256;

/// Two nodes whose requests the attacker must not hinder: the victim does not know the first, and the second names it.
struct Honest {
    _unknown: TestNode,
    introducer: TestNode,
    asker: Addr<AskThere>,
    question: Addr<Question>,
}

impl Honest {
    fn join(attack: &AttackTest) -> Self {
        let unknown = attack.net.static_node("unknown", &[]);
        unknown.spawn(|cx: &mut Cx<Question>, event| {
            match event {
                Event::Start => cx.register("question")?,
                Event::Message(Question(reply)) => cx.reply(reply, Tree::Leaf(7)),
                _ => {}
            }
            receive()
        });
        let peers = [unknown.location, attack.victim.location];
        let introducer = attack.net.static_node("introducer", &peers);
        let (asker, question) = (introducer.find("asker"), introducer.find("question"));
        Self { _unknown: unknown, introducer, asker, question }
    }

    /// Has the victim ask the node that it does not know. Returns how long that took.
    fn introduce(&self) -> Duration {
        let (begun, question) = (Instant::now(), self.question);
        let order = move |reply| AskThere(question, reply);
        let answer = self.introducer.handle.ask(self.asker, PATIENCE, order);
        assert_eq!(answer, Ok("Ok(Leaf(7))".to_owned()));
        begun.elapsed()
    }
}

/// An `Echo`, to which the victim replies at a node.
fn echo_for(node: u64) -> Vec<u8> {
    let mut body = vec![0x92, 7, 0x92, 0xcf];
    body.extend_from_slice(&node.to_be_bytes());
    body.push(1);
    body
}

/// A member that names nodes.
struct Namer {
    member: Member,
    to: Key,
    tag: TagId,
}

impl Namer {
    fn join(attack: &AttackTest) -> Self {
        let mut member = Member::join(&attack.net, &attack.victim);
        let (to, _) = member.find(NameSpace::Actor, "echo");
        let tag = member.tag_of::<Echo>();
        Self { member, to, tag }
    }

    fn send(&mut self, route: &[(NodeId, Vec<SocketAddr>)], body: &[u8]) {
        let message = Message {
            to: self.to,
            from: Key::from_bits(1),
            tag: self.tag,
            receipt: None,
            route: Route::Plain(route),
            body,
        };
        self.member.send(&message.into(), |_| ());
    }

    /// Names nodes without any use of them, and waits until the victim has received all.
    fn name(&mut self, nodes: std::ops::Range<u64>) {
        let body = echo_for(self.member.node.to_bits());
        let at = SocketAddr::from(([127, 0, 0, 2], 9));
        for first in nodes.clone().step_by(500) {
            let named = first..nodes.end.min(first + 500);
            let route: Vec<_> = named.map(|node| (NodeId::from_bits(node), vec![at])).collect();
            self.send(&route, &body);
        }
        self.member.run_until_acknowledged(|_| ());
    }

    /// Has the victim reply to a node that it does not know.
    fn cause_dial(&mut self, node: u64, at: SocketAddr) {
        self.send(&[(NodeId::from_bits(node), vec![at])], &echo_for(node));
    }
}

/// One member names 17,000 nodes; then twenty others name as many as they may, and go. Each time a node that another member names is
/// used.
pub(crate) fn routes_of_one_member_leave_others_theirs() {
    let mut attack = AttackTest::without_discovery().measure_quiet();
    let mut namer = Namer::join(&attack);
    namer.name(1_000..18_000);
    let known = attack.victim.count("peers");
    assert!((NAMED_MAX..NAMED_MAX + 8).contains(&known), "{known} nodes are known");
    assert_eq!(attack.victim.count_within("refusals", "routes"), 17_000 - NAMED_MAX);
    attack.victim.has_logged_once("names more nodes than it may");
    let taken = Honest::join(&attack).introduce();
    println!("the node that another member named was asked in {taken:?}");
    for nth in 1..=20 {
        let first = nth * 100_000;
        Namer::join(&attack).name(first..first + NAMED_MAX);
    }
    Honest::join(&attack).introduce();
    drop(namer);
    let most = NAMED_MAX + 2 * ENDED_MAX;
    wait_for("the end of their sessions", || (attack.victim.count("online") <= 1).then_some(()));
    let known = attack.victim.count("peers");
    assert!(known <= most, "{known} nodes are known");
    Honest::join(&attack).introduce();
    assert_eq!(attack.victim.count("misbehaved"), 0);
    attack.end("routes", bounds::routes());
}

/// A member names the same nodes again and again as fast as it can, and then new ones each time.
pub(crate) fn flood_of_routes_leaves_others_their_share() {
    let mut attack = AttackTest::without_discovery().measure_quiet();
    let mut namer = Namer::join(&attack);
    let [others, same] = std::thread::scope(|scope| {
        let flood = || {
            give_way();
            let (begun, mut same) = (Instant::now(), 0);
            while begun.elapsed() < secs(2) {
                (0..10).for_each(|_| namer.name(1_000_000..1_000_000 + NAMED_MAX));
                same += 10 * NAMED_MAX;
            }
            let mut others = 0;
            while begun.elapsed() < secs(6) {
                let first = 2_000_000 + others;
                namer.name(first..first + 10_000);
                others += 10_000;
            }
            [others, same]
        };
        scope.spawn(flood).join().expect("the session continues")
    });
    println!("{same} times the same nodes in 2 s, and {others} other ones in 4 s");
    let refused = attack.victim.count_within("refusals", "routes");
    assert_eq!(refused, others, "each node beyond the quota is refused, or replaces another");
    attack.victim.has_logged_once("names more nodes than it may");
    Honest::join(&attack).introduce();
    attack.end("a flood of routes", bounds::routes());
}

/// One member causes dials that do not succeed, without end. The dial that another one causes follows within seconds.
pub(crate) fn dials_of_one_member_leave_others_theirs() {
    let mut attack = AttackTest::without_discovery().measure_quiet();
    let honest = Honest::join(&attack);
    let mut namer = Namer::join(&attack);
    // They accept the connections, and are silent.
    let traps: Vec<DialTrap> = (0..100).map(|_| DialTrap::at([127, 0, 0, 2], 0)).collect();
    let begun = Instant::now();
    let mut node = 1_000;
    std::thread::scope(|scope| {
        let introduction = scope.spawn(|| {
            std::thread::sleep(secs(2));
            honest.introduce()
        });
        while !introduction.is_finished() {
            for trap in &traps {
                node += 1;
                namer.cause_dial(node, trap.location());
            }
            namer.member.run_once(|_| ()).expect("the session continues");
        }
        let taken = introduction.join().expect("the other member's node is dialled");
        println!("the node that another member named was asked in {taken:?}");
        assert!(taken < secs(5), "the dial for another member took {taken:?}");
    });
    let dials = traps.iter().map(DialTrap::take_all).sum();
    assert_dials_in(dials, begun.elapsed());
    assert!(attack.victim.count_within("refusals", "dials") > 0);
    attack.victim.has_logged_once("causes too many dials");
    attack.end("dials", bounds::member(&Limits::default()));
}

/// A location at which connections are never established: its queue of pending connections is full.
struct Tarpit {
    listener: Socket,
    _pending: Vec<Socket>,
}

impl Tarpit {
    fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor is left");
        listener.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).expect("a port is free");
        listener.listen(0).expect("the socket is bound");
        let at = listener.local_addr().expect("the socket is bound");
        let pending = std::iter::repeat_with(|| {
            let pending = socket();
            pending.connect_timeout(&at, millis(200)).map(|()| pending)
        });
        let pending = pending.map_while(Result::ok).collect();
        Self { listener, _pending: pending }
    }

    fn location(&self) -> SocketAddr {
        let at = self.listener.local_addr().expect("the socket is bound");
        at.as_socket().expect("it is an IP address")
    }
}

/// The victim has 64 descriptors, and dials that hang would need more.
pub(crate) fn hanging_dials_leave_descriptors_for_newcomers() {
    let options = VictimOptions { descriptors_max: 64, ..VictimOptions::default() };
    let mut attack = AttackTest::on(Net { udp_port: 0, ..Net::new() }, options);
    let tarpits: Vec<Tarpit> = (0..60).map(|_| Tarpit::new()).collect();
    let mut namer = Namer::join(&attack);
    let mut node = 1_000;
    wait_for("a dial that is not made", || {
        for tarpit in &tarpits {
            node += 1;
            namer.cause_dial(node, tarpit.location());
        }
        namer.member.run_once(|_| ()).expect("the session continues");
        (attack.victim.count("dials_without_descriptors") > 0).then_some(())
    });
    let connections = attack.victim.count("connections");
    assert!((20..50).contains(&connections), "{connections} connections");
    for _ in 0..3 {
        attack.connect_new_peer();
    }
    attack.victim.has_logged_once("keeps its last descriptors");
    attack.end("hanging dials", bounds::member(&Limits::default()));
}

/// Connections without a handshake use all descriptors: meanwhile the victim serves its peers and does not spin, and later it
/// accepts again.
pub(crate) fn victim_without_descriptors_rests_and_recovers() {
    let options = VictimOptions { descriptors_max: 48, ..VictimOptions::default() };
    let attack = AttackTest::on(Net { udp_port: 0, ..Net::new() }, options);
    let at = attack.victim.location.addr();
    let idle: Vec<TcpStream> = (0..100).map(|_| connect(at)).collect();
    attack.victim.log.wait_for("accepting pauses");
    let (begun, before) = (Instant::now(), attack.victim.cpu_time());
    std::thread::sleep(secs(2));
    let (taken, used) = (begun.elapsed(), attack.victim.cpu_time() - before);
    println!("the victim ran for {used:?} of {taken:?}");
    assert!(used < taken / 2, "the victim ran for {used:?} of {taken:?}");
    drop(idle);
    attack.end("no descriptors", bounds::pending_connections(&Limits::default(), false));
}

/// Members claim locations, and are silent until they are suspected.
pub(crate) fn silent_members_cause_ten_dials_a_second() {
    let attack = AttackTest::without_discovery();
    let traps: Vec<DialTrap> = (0..100).map(|_| DialTrap::at([127, 0, 0, 2], 0)).collect();
    let join = |trap: &DialTrap| Member::join_from(&attack.net, &attack.victim, vec![trap.location()]);
    let _silent: Vec<Member> = traps.iter().map(join).collect();
    let mut dials = 0;
    wait_for("the first dial", || {
        dials = traps.iter().map(DialTrap::take_all).sum();
        (dials > 0).then_some(())
    });
    count_dials(&traps, dials);
    attack.end("silent members", bounds::sessions(100));
}

/// Members claim locations, and close their connections: their sessions wait for others.
pub(crate) fn closing_members_cause_ten_dials_a_second() {
    let attack = AttackTest::without_discovery();
    let traps: Vec<DialTrap> = (0..100).map(|_| DialTrap::at([127, 0, 0, 2], 0)).collect();
    let join = |trap: &DialTrap| Member::join_from(&attack.net, &attack.victim, vec![trap.location()]);
    let joined: Vec<Member> = traps.iter().map(join).collect();
    drop(joined);
    count_dials(&traps, 0);
    attack.end("closing members", bounds::sessions(100));
}

/// Counts the dials of three seconds.
fn count_dials(traps: &[DialTrap], mut dials: usize) {
    let begun = Instant::now();
    while begun.elapsed() < secs(3) {
        dials += traps.iter().map(DialTrap::take_all).sum::<usize>();
        std::thread::sleep(millis(5));
    }
    assert_dials_in(dials, begun.elapsed());
}

/// Short clients in a row: each connects, sends a request, gets its reply, says goodbye and goes.
const CLIENTS: u64 = 20_000;
const CLIENTS_BEFORE: u64 = 500;
/// By how much they may make the victim grow, after the first.
const CLIENTS_GROWTH: u64 = 2 << 20;

pub(crate) fn short_clients_leave_no_traces() {
    let mut attack = AttackTest::without_discovery();
    let begun = Instant::now();
    let mut before = 0;
    for nth in 1..=CLIENTS {
        let mut client = Namer::join(&attack);
        let body = echo_for(client.member.node.to_bits());
        client.send(&[], &body);
        client.member.run_until(|frame| matches!(frame, Frame::Answer(_)).then_some(()));
        client.member.send(&Goodbye { reason: GoodbyeReason::Leaving }.into(), |_| ());
        client.member.run_until_acknowledged(|_| ());
        if nth == CLIENTS_BEFORE {
            before = attack.victim.used_bytes();
        }
    }
    let after = attack.victim.used_bytes();
    println!(
        "{CLIENTS} clients in {:?}: {} KiB, and {} KiB after the first {CLIENTS_BEFORE}",
        begun.elapsed(),
        after / 1024,
        before / 1024
    );
    assert!(after <= before + CLIENTS_GROWTH, "the victim has grown from {before} to {after} bytes");
    let known = attack.victim.count("peers");
    assert!(known <= 2 * ENDED_MAX + 1, "{known} nodes are known");
    attack.end("short clients", bounds::sessions(500));
}
