//! The cases: each builds its networks, and starts its nodes.

use std::collections::BTreeSet;

use antiphon_dist::Secret;

use super::lab::{Lab, Net};
use super::player::Player;

/// The discovery port. No other process is in these networks.
pub(crate) const UDP_PORT: u16 = 51_350;

/// A case, and the tools that it needs.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) needs: &'static [&'static str],
    pub(crate) run: fn(),
}

pub(crate) const CASES: &[Case] = &[
    Case { name: "broadcast joins hosts of one network", needs: &["ip"], run: broadcast },
    Case { name: "multicast joins hosts where broadcast is filtered", needs: &["ip", "nft"], run: multicast },
    Case { name: "announcements follow a replaced interface", needs: &["ip"], run: replaced },
    Case { name: "announcements follow a changed network", needs: &["ip"], run: changed },
    Case { name: "multicast joins link-local addresses of IPv6", needs: &["ip"], run: link_local },
    Case { name: "multicast joins other addresses of IPv6", needs: &["ip"], run: ipv6 },
    Case { name: "all nodes of a host are found behind a router", needs: &["ip"], run: router },
    Case { name: "a relay announces a node behind a router", needs: &["ip"], run: announce_relay },
    Case { name: "a gateway's address reaches the node behind it", needs: &["ip", "nft"], run: gateway },
    Case { name: "a node that dials out of a gateway is reached", needs: &["ip", "nft"], run: dials_out },
    Case { name: "a node binds the addresses in its configuration", needs: &["ip", "ss"], run: bound },
];

const HIDE_BROADCAST: &str = "add table ip t; add chain ip t out { type filter hook output priority 0; }; \
    add rule ip t out fib daddr type broadcast drop";

fn secret() -> String {
    antiphon_dist::secret::generate().expect("the system has random numbers").reveal().to_owned()
}

/// Two hosts in one network.
fn pair(addresses: [&str; 2]) -> (Lab, Net) {
    let mut lab = Lab::new(&["a", "b"]);
    let net = lab.net();
    lab.plug("a", net, &[addresses[0]]);
    lab.plug("b", net, &[addresses[1]]);
    (lab, net)
}

/// Starts a node on each of two hosts. They find each other, and exchange texts. Returns their locations.
fn connect(lab: &Lab, [a, b]: [&str; 2]) -> [String; 2] {
    let secret = secret();
    let mut one = Player::start(lab, "a", &format!("ip={a} secret={secret}"));
    let mut two = Player::start(lab, "b", &format!("ip={b} secret={secret}"));
    let locations = [two.wait("Online a at "), one.wait("Online b at ")];
    one.send("b", "hello");
    assert_eq!(two.wait("received "), "hello");
    two.send("a", "good-day");
    assert_eq!(one.wait("received "), "good-day");
    locations
}

fn broadcast() {
    let (lab, net) = pair(["10.1.0.1/24", "10.1.0.2/24"]);
    ["a", "b"].iter().for_each(|host| lab.hide_multicast(host, net));
    let [a, b] = connect(&lab, ["10.1.0.1", "10.1.0.2"]);
    assert!(a.starts_with("10.1.0.1:") && b.starts_with("10.1.0.2:"), "{a} {b}");
}

fn multicast() {
    let (lab, _) = pair(["10.1.0.1/24", "10.1.0.2/24"]);
    ["a", "b"].iter().for_each(|host| lab.filter(host, HIDE_BROADCAST));
    connect(&lab, ["10.1.0.1", "10.1.0.2"]);
}

/// Starts a node on `a`, changes its interface, and then starts the node on `b`.
fn connect_after(lab: &Lab, [a, b]: [&str; 2], change: impl FnOnce()) {
    let secret = secret();
    let mut one = Player::start(lab, "a", &format!("ip={a} secret={secret}"));
    one.location();
    change();
    let mut two = Player::start(lab, "b", &format!("ip={b} secret={secret}"));
    two.wait("Online a at ");
    one.send("b", "hello");
    assert_eq!(two.wait("received "), "hello");
}

fn replaced() {
    // In IPv6, all announcements are multicast. The membership in the group ends with the interface.
    let (lab, net) = pair(["fd00:1::1/64", "fd00:1::2/64"]);
    connect_after(&lab, ["fd00:1::1", "fd00:1::2"], || {
        lab.on("a", "ip link del eth0");
        lab.plug("a", net, &["fd00:1::1/64"]);
    });
}

fn changed() {
    let (lab, net) = pair(["10.1.0.1/30", "10.1.0.2/24"]);
    ["a", "b"].iter().for_each(|host| lab.hide_multicast(host, net));
    connect_after(&lab, ["10.1.0.1", "10.1.0.2"], || {
        // The broadcast address was 10.1.0.3, and is 10.1.0.255 now.
        lab.on("a", "ip addr add 10.1.0.1/24 dev eth0");
        lab.on("a", "ip addr del 10.1.0.1/30 dev eth0");
    });
}

fn link_local() {
    let (lab, _) = pair(["fe80::a/64", "fe80::b/64"]);
    let [a, b] = connect(&lab, ["fe80::a", "fe80::b"]);
    // Each location contains the interface by which the other host reaches it.
    assert!(a.starts_with("[fe80::a%") && b.starts_with("[fe80::b%"), "{a} {b}");
    // With the interface, the call `peer` reaches them too, by location and by host.
    let secret = secret();
    let mut there = Player::start(&lab, "b", &format!("ip=fe80::b secret={secret}"));
    let (interface, _) = b.rsplit_once(':').expect("a location has a port");
    let location = there.location();
    let (_, port) = location.rsplit_once(':').expect("a location has a port");
    let reached_at = format!("{interface}:{port}");
    let mut here = Player::start(&lab, "a", &format!("ip=fe80::a no-discovery secret={secret}"));
    assert_eq!(here.peer(&format!("{interface}:0")), reached_at);
    assert_eq!(here.peer(&reached_at), reached_at);
}

fn ipv6() {
    let (lab, _) = pair(["fd00:1::1/64", "fd00:1::2/64"]);
    let [a, _] = connect(&lab, ["fd00:1::1", "fd00:1::2"]);
    assert!(a.starts_with("[fd00:1::1]:"), "{a}");
}

/// Two networks, `a` in one, `b` and `c` in the other, and a router that forwards no broadcast.
fn routed() -> Lab {
    let mut lab = Lab::new(&["a", "b", "c", "r"]);
    let (near, far) = (lab.net(), lab.net());
    lab.plug("r", near, &["10.1.0.254/24"]);
    lab.plug("r", far, &["10.2.0.254/24"]);
    lab.forward("r");
    lab.plug("a", near, &["10.1.0.1/24"]);
    lab.plug("b", far, &["10.2.0.2/24"]);
    lab.plug("c", far, &["10.2.0.3/24"]);
    lab.route("a", "10.1.0.254");
    ["b", "c"].iter().for_each(|host| lab.route(host, "10.2.0.254"));
    lab
}

fn router() {
    let (lab, secret) = (routed(), secret());
    let settings = format!("ip=10.2.0.2 secret={secret}");
    let twin = format!("{settings} name=twin");
    let mut there = [Player::start(&lab, "b", &settings), Player::start(&lab, "b", &twin)];
    let mut locations: Vec<String> = there.iter_mut().map(Player::location).collect();
    locations.sort();
    let mut here = Player::start(&lab, "a", &format!("ip=10.1.0.1 secret={secret}"));
    // On a busy machine the reply of one of them may be late.
    let all = (0..20).find(|_| {
        let mut found: Vec<String> = here.peer("10.2.0.2").split(' ').map(str::to_owned).collect();
        found.sort();
        found == locations
    });
    all.expect("one call finds all nodes of the host");
    here.send("b", "hello");
    there.iter_mut().for_each(|node| {
        node.wait("Online a at 10.1.0.1:");
    });
}

fn announce_relay() {
    let (lab, secret) = (routed(), secret());
    let start = |host, ip| Player::start(&lab, host, &format!("ip={ip} secret={secret}"));
    let (mut relay, mut behind) = (start("b", "10.2.0.2"), start("c", "10.2.0.3"));
    relay.wait("Online c at ");
    let mut here = start("a", "10.1.0.1");
    assert_eq!(here.peer("10.2.0.2 broadcast"), relay.location());
    assert_eq!(here.wait("Online c at "), behind.location());
    behind.wait("Online a at 10.1.0.1:");
    behind.send("a", "hello");
    assert_eq!(here.wait("received "), "hello");
}

/// A network behind a gateway with `a` and `b`; `c` is outside, and has no route into the network.
fn behind_gateway(rules: &str) -> Lab {
    let mut lab = Lab::new(&["a", "b", "c", "g"]);
    let (inner, outer) = (lab.net(), lab.net());
    lab.plug("g", inner, &["192.168.7.254/24"]);
    lab.plug("g", outer, &["10.3.0.254/24"]);
    lab.forward("g");
    lab.plug("a", inner, &["192.168.7.1/24"]);
    lab.plug("b", inner, &["192.168.7.2/24"]);
    lab.plug("c", outer, &["10.3.0.3/24"]);
    ["a", "b"].iter().for_each(|host| lab.route(host, "192.168.7.254"));
    lab.filter(
        "g",
        &format!(
            "add table ip t; add chain ip t post {{ type nat hook postrouting priority 100; }}; \
             add rule ip t post oifname eth1 masquerade; \
             add chain ip t pre {{ type nat hook prerouting priority -100; }}; {rules}"
        ),
    );
    lab
}

fn gateway() {
    let lab = behind_gateway(
        "add rule ip t pre iifname eth1 tcp dport 7777 dnat to 192.168.7.1; \
         add rule ip t pre iifname eth1 udp dport 51350 dnat to 192.168.7.1",
    );
    let secret = secret();
    let mut inside =
        Player::start(&lab, "a", &format!("ip=192.168.7.1 tcp=7777 ext=10.3.0.254 secret={secret}"));
    assert_eq!(inside.location(), "192.168.7.1:7777");
    // A node in the same network uses the inner address.
    let mut beside = Player::start(&lab, "b", &format!("ip=192.168.7.2 secret={secret}"));
    assert_eq!(beside.wait("Online a at "), "192.168.7.1:7777");
    let mut outside = Player::start(&lab, "c", &format!("ip=10.3.0.3 secret={secret}"));
    assert_eq!(outside.peer("10.3.0.254:7777"), "10.3.0.254:7777");
    outside.send("a", "hello");
    assert_eq!(inside.wait("received "), "hello");
    inside.send("c", "good-day");
    assert_eq!(outside.wait("received "), "good-day");
    // A further node finds it by the gateway's address alone.
    let mut asking =
        Player::start(&lab, "c", &format!("ip=10.3.0.3 name=asking no-discovery secret={secret}"));
    assert_eq!(asking.peer("10.3.0.254"), "10.3.0.254:7777");
}

fn dials_out() {
    let (lab, secret) = (behind_gateway(""), secret());
    let mut outside = Player::start(&lab, "c", &format!("ip=10.3.0.3 secret={secret}"));
    let mut inside = Player::start(&lab, "a", &format!("ip=192.168.7.1 secret={secret}"));
    let there = outside.location();
    assert_eq!(inside.peer("10.3.0.3"), there, "the reply passes the gateway");
    assert_eq!(inside.peer(&there), there);
    outside.wait("Online a at ");
    outside.send("a", "hello");
    assert_eq!(inside.wait("received "), "hello");
}

/// The addresses at which a host has open ports.
fn listening(lab: &Lab, host: &str) -> BTreeSet<String> {
    let done =
        lab.command(host, "ss").args(["-H", "-l", "-n", "-t", "-u"]).output().expect("the tool exists");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let locals = text.lines().filter_map(|line| line.split_whitespace().nth(4));
    locals.filter_map(|local| Some(local.rsplit_once(':')?.0.to_owned())).collect()
}

fn bound() {
    let (lab, _) = pair(["10.1.0.1/24", "10.1.0.2/24"]);
    let set =
        |addresses: &[&str]| -> BTreeSet<String> { addresses.iter().map(|&at| at.to_owned()).collect() };
    let on_loopback = set(&["127.0.0.1", "127.255.255.255", "[::1]"]);
    for settings in ["", &format!("secret={}", secret()), "secret=key"] {
        let mut node = Player::start(&lab, "a", settings);
        assert!(node.location().starts_with("127.0.0.1:"));
        assert_eq!(listening(&lab, "a"), on_loopback, "{settings:?}");
    }
    for (settings, reason) in
        [("ip=10.1.0.1", "neither a secret nor a certificate"), ("ip=10.1.0.1 secret=key", "is weak")]
    {
        let refused = Player::start(&lab, "a", settings).wait("refused ");
        assert!(refused.contains(reason), "{refused}");
    }
    let named = set(&["10.1.0.1", "10.1.0.255", "239.255.97.110", "127.255.255.255"]);
    for settings in [format!("ip=10.1.0.1 secret={}", secret()), "ip=10.1.0.1 open".to_owned()] {
        let mut node = Player::start(&lab, "a", &settings);
        assert!(node.location().starts_with("10.1.0.1:"));
        assert_eq!(listening(&lab, "a"), named, "{settings:?}");
    }
    // Nodes with the setting `open` connect beyond loopback without a secret.
    let (mut one, mut two) =
        (Player::start(&lab, "a", "ip=10.1.0.1 open"), Player::start(&lab, "b", "ip=10.1.0.2 open"));
    one.wait("Online b at ");
    two.wait("Online a at ");
}
