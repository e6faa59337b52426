//! Datagrams that were forged, recorded, or lie about where a node is; and what a node says to them.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use antiphon_dist::Secret;
use antiphon_sched::{millis, secs};
use antiphon_wire::{
    DATAGRAM_BYTES_MAX, Datagram, DatagramKey, Locations, NodeId, Presence, Probe, ProbeReply, Route,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::bounds;
use crate::common::{Net, wait_for};
use crate::siege::Siege;
use crate::victim::Traits;

/// Dials that datagrams may cause in a second.
const DIALS_A_SECOND: usize = 10;

fn siege(dials_only: &str) -> Siege {
    Siege::of(Net::new(), Traits { dials_only, ..Traits::default() })
}

/// Sends from 127.0.0.2 to the victim's discovery port.
struct Sender {
    socket: UdpSocket,
    to: SocketAddr,
}

impl Sender {
    fn new(net: &Net) -> Self {
        let socket = UdpSocket::bind("127.0.0.2:0").expect("a free port");
        Self { socket, to: ([127, 0, 0, 1], net.udp_port).into() }
    }

    fn send(&self, bytes: &[u8]) {
        self.socket.send_to(bytes, self.to).expect("a datagram goes out");
    }
}

fn key(secret: &Secret) -> DatagramKey {
    DatagramKey::new(0, secret)
}

fn sealed(datagram: &Datagram<'_>, key: Option<&DatagramKey>) -> Vec<u8> {
    let mut bytes = Vec::new();
    datagram.encode(key, &mut bytes).expect("small");
    bytes
}

fn announce(node: u64, locations: &[SocketAddr], key: Option<&DatagramKey>) -> Vec<u8> {
    let presence = Presence { node: NodeId(node), name: "forged", locations: Locations::Plain(locations) };
    sealed(&Datagram::Announce(presence), key)
}

/// Somewhere that would notice a dial.
struct Trap(TcpListener);

impl Trap {
    fn at(ip: [u8; 4], port: u16) -> Self {
        let listener = TcpListener::bind(SocketAddr::from((ip, port))).expect("a free port");
        listener.set_nonblocking(true).expect("an option can be set");
        Self(listener)
    }

    fn location(&self) -> SocketAddr {
        self.0.local_addr().expect("it is bound")
    }

    /// Who has come since; each is closed at once.
    fn take_all(&self) -> usize {
        std::iter::from_fn(|| self.0.accept().ok()).count()
    }
}

#[test]
fn forged_announcements_are_counted_and_nobody_is_dialled() {
    let mut siege = siege("");
    let sender = Sender::new(&siege.net);
    let trap = Trap::at([127, 0, 0, 2], 0);
    let other = key(&Secret::generate().expect("the system has random numbers"));
    let forged = announce(9, &[trap.location()], Some(&other));
    let unsigned = announce(9, &[trap.location()], None);
    let mut damaged = announce(9, &[trap.location()], Some(&key(&siege.net.secret)));
    damaged[20] ^= 1;
    for round in 1..=100 {
        for bytes in [&forged, &unsigned, &damaged] {
            (0..10).for_each(|_| sender.send(bytes));
        }
        // No faster than they are read, so that all are counted.
        siege.victim.wait_for_count("refused_datagrams", 30 * round);
    }
    siege.victim.has_logged_once("another secret, or damaged");
    siege.victim.has_logged_once("under key id None");
    assert_eq!(trap.take_all(), 0, "nobody is dialled");
    siege.end("forged announcements", bounds::datagrams());
}

/// Hears all announcements of a net, as anybody on it can.
fn eavesdropper(net: &Net) -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).expect("a descriptor is left");
    socket.set_reuse_address(true).expect("an option can be set");
    socket.set_reuse_port(true).expect("an option can be set");
    socket.bind(&SocketAddr::from(([127, 255, 255, 255], net.udp_port)).into()).expect("it is shared");
    socket.set_read_timeout(Some(crate::common::PATIENCE)).expect("a timeout can be set");
    socket.into()
}

#[test]
fn a_replayed_announcement_costs_ten_dials_a_second_and_a_replayed_goodbye_nothing() {
    let mut siege = siege("");
    let adapter = eavesdropper(&siege.net);
    let ghost = siege.net.node("ghost");
    let record = |kind: u8| {
        let mut bytes = [0; 2 * DATAGRAM_BYTES_MAX];
        wait_for("a datagram of the ghost", || {
            let (count, from) = adapter.recv_from(&mut bytes).expect("datagrams come");
            (from.ip() == ghost.location.addr().ip() && bytes[5] == kind).then(|| bytes[..count].to_vec())
        })
    };
    let announcement = record(1);
    ghost.wait_for_peers(1);
    let at = ghost.location.addr();
    ghost.stop();
    let goodbye = {
        let mut bytes = [0; 2 * DATAGRAM_BYTES_MAX];
        wait_for("its goodbye", || {
            let (count, _) = adapter.recv_from(&mut bytes).expect("datagrams come");
            (bytes[5] == 4).then(|| bytes[..count].to_vec())
        })
    };
    let peers = siege.victim.count("connections");
    assert_eq!(peers, 1, "the bystander is left");
    // Whoever is there now is not the ghost.
    let trap = Trap::at([127, 0, 0, 1], at.port());
    let sender = Sender::new(&siege.net);
    let (begun, mut dials) = (Instant::now(), 0);
    while begun.elapsed() < secs(2) {
        (0..20).for_each(|_| sender.send(&announcement));
        sender.send(&goodbye);
        dials += trap.take_all();
        std::thread::sleep(millis(5));
    }
    assert_dials_in(dials, begun.elapsed());
    assert_eq!(siege.victim.count("misbehaved"), 0);
    siege.end("a replayed announcement", bounds::datagrams());
}

fn assert_dials_in(dials: usize, time: Duration) {
    println!("{dials} dials in {time:?}");
    assert!(dials > 0, "an announcement is heeded");
    let most = DIALS_A_SECOND * (time.as_secs() as usize + 2);
    assert!(dials <= most, "{dials} dials in {time:?}, where {most} are allowed");
}

#[test]
fn a_member_that_announces_nodes_everywhere_causes_ten_dials_a_second_and_ends_no_session() {
    let mut siege = siege("");
    let key = key(&siege.net.secret);
    let sender = Sender::new(&siege.net);
    let traps: Vec<Trap> = (0..200).map(|_| Trap::at([127, 0, 0, 2], 0)).collect();
    let (begun, mut dials, mut node) = (Instant::now(), 0, 100);
    let bystander = NodeId(siege.bystander());
    while begun.elapsed() < secs(2) {
        for trap in &traps {
            node += 1;
            sender.send(&announce(node, &[trap.location()], Some(&key)));
            sender.send(&sealed(&Datagram::Bye { node: bystander }, Some(&key)));
            dials += trap.take_all();
        }
        std::thread::sleep(millis(5));
    }
    dials += traps.iter().map(Trap::take_all).sum::<usize>();
    assert_dials_in(dials, begun.elapsed());
    let connections = siege.victim.count("connections");
    assert!(connections as usize <= 1 + 2 * DIALS_A_SECOND, "{connections} connections");
    siege.end("announcements of a member", bounds::datagrams());
}

#[test]
fn an_announcement_that_names_a_third_host_is_followed_only_where_the_configuration_allows() {
    let mut siege = siege("127.0.0.1/32");
    let key = key(&siege.net.secret);
    let sender = Sender::new(&siege.net);
    let (third, own, allowed) =
        (Trap::at([127, 0, 0, 3], 0), Trap::at([127, 0, 0, 2], 0), Trap::at([127, 0, 0, 1], 0));
    for node in 0..50 {
        sender.send(&announce(1_000 + node, &[third.location(), own.location()], Some(&key)));
    }
    // It comes after them, and is followed: so they were heard.
    wait_for("the dial that is allowed", || {
        sender.send(&announce(7, &[third.location(), allowed.location()], Some(&key)));
        (allowed.take_all() > 0).then_some(())
    });
    assert_eq!((third.take_all(), own.take_all()), (0, 0), "nobody else is dialled");
    assert_eq!(siege.victim.count("refused_datagrams"), 0);
    siege.end("a third host", bounds::datagrams());
}

#[test]
fn no_answer_by_datagram_is_longer_than_its_question_and_strangers_get_none() {
    let mut siege = siege("");
    let key = key(&siege.net.secret);
    let siblings = ["one", "two", "three"].map(|name| siege.net.node(name));
    siblings.iter().for_each(|node| node.wait_for_peers(3));
    let from = Presence { node: NodeId(9), name: "asker", locations: Locations::NONE };
    let probe = Datagram::Probe(Probe { from, reply_to: None });
    let unasked = Datagram::ProbeReply(ProbeReply { from, siblings: Route::NONE });
    let other = DatagramKey::new(0, &Secret::generate().expect("the system has random numbers"));
    let silent = [
        sealed(&probe, None),
        sealed(&probe, Some(&other)),
        sealed(&unasked, Some(&key)),
        sealed(&Datagram::Bye { node: NodeId(9) }, Some(&key)),
        sealed(&Datagram::Announce(from), Some(&key)),
        b"ANTU\x01\x02".to_vec(),
    ];
    let to_all = Sender { to: ([127, 255, 255, 255], siege.net.udp_port).into(), ..Sender::new(&siege.net) };
    to_all.socket.set_broadcast(true).expect("an option can be set");
    (0..10).for_each(|_| silent.iter().for_each(|bytes| to_all.send(bytes)));
    siege.victim.wait_for_count("refused_datagrams", 30);
    // What is answered comes after them.
    let asking = Sender::new(&siege.net);
    let question = sealed(&probe, Some(&key));
    asking.send(&question);
    let mut bytes = [0; 4 * DATAGRAM_BYTES_MAX];
    asking.socket.set_read_timeout(Some(crate::common::PATIENCE)).expect("a timeout can be set");
    for _ in 0..4 {
        // The victim and its siblings: each as long as it likes, up to the question.
        let (count, _) = asking.socket.recv_from(&mut bytes).expect("all four answer");
        assert!(count <= question.len(), "{count} bytes for {}", question.len());
    }
    to_all.socket.set_nonblocking(true).expect("an option can be set");
    assert!(to_all.socket.recv_from(&mut bytes).is_err(), "nothing is said to the others");
    drop(siblings);
    siege.end("questions", bounds::datagrams());
}
