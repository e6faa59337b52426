//! Datagrams that are forged, replayed or contain false locations, and the replies to them.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use antiphon_dist::Secret;
use antiphon_sched::{millis, secs};
use antiphon_wire::{
    DATAGRAM_BYTES_MAX, Datagram, DatagramKey, Locations, NodeId, Presence, Probe, ProbeReply, Route,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::attack_test::AttackTest;
use crate::bounds;
use crate::common::{Net, PATIENCE, wait_for};
use crate::victim::VictimOptions;

/// The number of dials that datagrams may cause in a second.
const DIALS_A_SECOND: usize = 10;

fn attack(dial_allow: &str) -> AttackTest {
    AttackTest::on(Net::new(), VictimOptions { dial_allow, ..VictimOptions::default() })
}

/// Sends from 127.0.0.2 to the victim's discovery port.
struct Sender {
    socket: UdpSocket,
    to: SocketAddr,
}

impl Sender {
    fn new(net: &Net) -> Self {
        let socket = UdpSocket::bind("127.0.0.2:0").expect("a port is free");
        Self { socket, to: ([127, 0, 0, 1], net.udp_port).into() }
    }

    fn send(&self, bytes: &[u8]) {
        self.socket.send_to(bytes, self.to).expect("the datagram is sent");
    }
}

fn key(secret: &Secret) -> DatagramKey {
    DatagramKey::new(0, secret)
}

fn sealed(datagram: &Datagram<'_>, key: Option<&DatagramKey>) -> Vec<u8> {
    let mut bytes = Vec::new();
    datagram.encode(key, &mut bytes).expect("the datagram is small");
    bytes
}

fn announce(node: u64, locations: &[SocketAddr], key: Option<&DatagramKey>) -> Vec<u8> {
    let presence =
        Presence { node: NodeId::from_bits(node), name: "forged", locations: Locations::Plain(locations) };
    sealed(&Datagram::Announce(presence), key)
}

/// A location that counts the dials to it.
pub(crate) struct DialTrap(TcpListener);

impl DialTrap {
    pub(crate) fn at(ip: [u8; 4], port: u16) -> Self {
        let listener = TcpListener::bind(SocketAddr::from((ip, port))).expect("a port is free");
        listener.set_nonblocking(true).expect("an option can be set");
        Self(listener)
    }

    pub(crate) fn location(&self) -> SocketAddr {
        self.0.local_addr().expect("the listener is bound")
    }

    /// The number of dials since the last call; their connections are closed.
    pub(crate) fn take_all(&self) -> usize {
        std::iter::from_fn(|| self.0.accept().ok()).count()
    }
}

pub(crate) fn announcement_forged_is_counted_and_not_dialled() {
    let mut attack = attack("");
    let sender = Sender::new(&attack.net);
    let trap = DialTrap::at([127, 0, 0, 2], 0);
    let other = key(&antiphon_dist::secret::generate().expect("the system has random numbers"));
    let forged = announce(9, &[trap.location()], Some(&other));
    let unsigned = announce(9, &[trap.location()], None);
    let mut damaged = announce(9, &[trap.location()], Some(&key(&attack.net.secret)));
    damaged[20] ^= 1;
    for round in 1..=100 {
        for bytes in [&forged, &unsigned, &damaged] {
            (0..10).for_each(|_| sender.send(bytes));
        }
        // The victim reads each round before the next one, so that no datagram is lost.
        attack.victim.wait_for_count("refused_datagrams", 30 * round);
    }
    attack.victim.has_logged_once("another secret, or is damaged");
    attack.victim.has_logged_once("has key id None");
    assert_eq!(trap.take_all(), 0, "no forged location is dialled");
    attack.end("forged announcements", bounds::datagrams());
}

/// A socket that receives all announcements of a network.
fn eavesdropper(net: &Net) -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).expect("a descriptor is left");
    socket.set_reuse_address(true).expect("an option can be set");
    socket.set_reuse_port(true).expect("an option can be set");
    socket.bind(&SocketAddr::from(([127, 255, 255, 255], net.udp_port)).into()).expect("the port is shared");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    socket.into()
}

/// A replayed goodbye has no effect.
pub(crate) fn announcement_replayed_causes_ten_dials_a_second() {
    let mut attack = attack("");
    let listener = eavesdropper(&attack.net);
    let stopped = attack.net.node("stopped");
    let record = |kind: u8| {
        let mut bytes = [0; 2 * DATAGRAM_BYTES_MAX];
        wait_for("a datagram of the node that will stop", || {
            let (count, from) = listener.recv_from(&mut bytes).expect("datagrams arrive");
            (from.ip() == stopped.location.addr().ip() && bytes[5] == kind).then(|| bytes[..count].to_vec())
        })
    };
    let announcement = record(1);
    stopped.wait_for_peers(1);
    let at = stopped.location.addr();
    stopped.stop();
    let goodbye = {
        let mut bytes = [0; 2 * DATAGRAM_BYTES_MAX];
        wait_for("the goodbye", || {
            let (count, _) = listener.recv_from(&mut bytes).expect("datagrams arrive");
            (bytes[5] == 4).then(|| bytes[..count].to_vec())
        })
    };
    // The connection may end after the goodbye.
    attack.victim.wait_for_count_at_most("connections", 1);
    // Another socket listens at the location of the node that has stopped.
    let trap = DialTrap::at([127, 0, 0, 1], at.port());
    let sender = Sender::new(&attack.net);
    let (begun, mut dials) = (Instant::now(), 0);
    while begun.elapsed() < secs(2) {
        (0..20).for_each(|_| sender.send(&announcement));
        sender.send(&goodbye);
        dials += trap.take_all();
        std::thread::sleep(millis(5));
    }
    assert_dials_in(dials, begun.elapsed());
    assert_eq!(attack.victim.count("misbehaved"), 0);
    attack.end("a replayed announcement", bounds::datagrams());
}

pub(crate) fn assert_dials_in(dials: usize, time: Duration) {
    println!("{dials} dials in {time:?}");
    assert!(dials > 0, "some dials are caused");
    let most = DIALS_A_SECOND * (time.as_secs() as usize + 2);
    assert!(dials <= most, "{dials} dials in {time:?}, and {most} are allowed");
}

/// The goodbyes that the member forges for another node end no session.
pub(crate) fn announcements_of_member_cause_ten_dials_a_second() {
    let mut attack = attack("");
    let key = key(&attack.net.secret);
    let sender = Sender::new(&attack.net);
    let traps: Vec<DialTrap> = (0..200).map(|_| DialTrap::at([127, 0, 0, 2], 0)).collect();
    let (begun, mut dials, mut node) = (Instant::now(), 0, 100);
    let bystander = NodeId::from_bits(attack.bystander());
    while begun.elapsed() < secs(2) {
        for trap in &traps {
            node += 1;
            sender.send(&announce(node, &[trap.location()], Some(&key)));
            sender.send(&sealed(&Datagram::Bye { node: bystander }, Some(&key)));
            dials += trap.take_all();
        }
        std::thread::sleep(millis(5));
    }
    dials += traps.iter().map(DialTrap::take_all).sum::<usize>();
    assert_dials_in(dials, begun.elapsed());
    let connections = attack.victim.count("connections");
    assert!(connections as usize <= 1 + 2 * DIALS_A_SECOND, "{connections} connections");
    attack.end("announcements of a member", bounds::datagrams());
}

pub(crate) fn announcement_outside_dial_allow_is_not_dialled() {
    let mut attack = attack("127.0.0.1/32");
    let key = key(&attack.net.secret);
    let sender = Sender::new(&attack.net);
    let (third, own, allowed) =
        (DialTrap::at([127, 0, 0, 3], 0), DialTrap::at([127, 0, 0, 2], 0), DialTrap::at([127, 0, 0, 1], 0));
    for node in 0..50 {
        sender.send(&announce(1_000 + node, &[third.location(), own.location()], Some(&key)));
    }
    // The victim handles datagrams in order: once it dials for a later one, it has handled those above.
    wait_for("the dial that is allowed", || {
        sender.send(&announce(7, &[third.location(), allowed.location()], Some(&key)));
        (allowed.take_all() > 0).then_some(())
    });
    assert_eq!((third.take_all(), own.take_all()), (0, 0), "no other location is dialled");
    assert_eq!(attack.victim.count("refused_datagrams"), 0);
    attack.end("a third host", bounds::datagrams());
}

/// Datagrams that are not authentic, and those that are no probes, get no reply.
pub(crate) fn datagram_reply_is_no_longer_than_its_probe() {
    let mut attack = attack("");
    let key = key(&attack.net.secret);
    let siblings = ["one", "two", "three"].map(|name| attack.net.node(name));
    siblings.iter().for_each(|node| node.wait_for_peers(3));
    let from = Presence { node: NodeId::from_bits(9), name: "prober", locations: Locations::NONE };
    let probe = Datagram::Probe(Probe { from, reply_to: None });
    let unasked = Datagram::ProbeReply(ProbeReply { from, siblings: Route::NONE });
    let other =
        DatagramKey::new(0, &antiphon_dist::secret::generate().expect("the system has random numbers"));
    let without_reply = [
        sealed(&probe, None),
        sealed(&probe, Some(&other)),
        sealed(&unasked, Some(&key)),
        sealed(&Datagram::Bye { node: NodeId::from_bits(9) }, Some(&key)),
        sealed(&Datagram::Announce(from), Some(&key)),
        b"ANTU\x01\x02".to_vec(),
    ];
    let to_all =
        Sender { to: ([127, 255, 255, 255], attack.net.udp_port).into(), ..Sender::new(&attack.net) };
    to_all.socket.set_broadcast(true).expect("an option can be set");
    (0..10).for_each(|_| without_reply.iter().for_each(|bytes| to_all.send(bytes)));
    attack.victim.wait_for_count("refused_datagrams", 30);
    // The probe that gets replies comes after them.
    let prober = Sender::new(&attack.net);
    let request = sealed(&probe, Some(&key));
    prober.send(&request);
    let mut bytes = [0; 4 * DATAGRAM_BYTES_MAX];
    prober.socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    for _ in 0..4 {
        // The victim and its siblings reply.
        let (count, _) = prober.socket.recv_from(&mut bytes).expect("all four nodes reply");
        assert!(count <= request.len(), "{count} bytes for {}", request.len());
    }
    to_all.socket.set_nonblocking(true).expect("an option can be set");
    let reply = to_all.socket.recv_from(&mut bytes).map_err(|reason| reason.kind());
    assert_eq!(reply, Err(ErrorKind::WouldBlock), "the other datagrams get no reply");
    drop(siblings);
    attack.end("probes", bounds::datagrams());
}
