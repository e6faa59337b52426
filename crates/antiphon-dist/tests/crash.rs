//! A process that is killed, comes back, or stands still.

mod common;

use std::time::{Duration, Instant};

use antiphon_dist::{Config, DeliverError, Location, NetCx, Node, Status};
use antiphon_sched::{Addr, AskError, Cx, Event, ReplyTo, Undelivered, receive, secs};
use common::certs::Certs;
use common::process::{self, Process};
use common::{End, Net, TestNode, heard, heard_until, wait_for};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
enum Order {
    Echo(String, ReplyTo<String>),
    Keep(ReplyTo<String>),
    Text(String),
}
antiphon_sched::wire!(Order, "test.order/1");

#[test]
#[ignore = "a role of the other tests, not one by itself"]
fn the_other_process() {
    let Some(role) = process::role() else { return };
    let mut node = Node::new(role.config()).expect("a node can start");
    process::say(node.location());
    let mut kept = Vec::new();
    node.spawn(move |cx: &mut Cx<Order>, event| {
        match event {
            Event::Start => {
                cx.register("server")?;
                cx.peer_status(|status| Order::Text(format!("{} {:?}", status.name, status.status)));
            }
            Event::Message(Order::Echo(text, reply)) => cx.reply(reply, text),
            Event::Message(Order::Keep(reply)) => kept.push(reply),
            Event::Message(Order::Text(text)) => process::say(text),
            _ => {}
        }
        receive()
    });
    let ran = node.run_with(|handle| {
        process::commands().iter().for_each(drop);
        handle.stop();
    });
    ran.expect("the node runs");
}

/// Within which a peer that was killed is known to be gone.
const SOON: Duration = Duration::from_secs(2);

/// Kills the server in the middle of everything, and looks at what its client is told.
fn kill(server: &mut Process, client: &TestNode) -> Addr<Order> {
    let statuses = client.statuses();
    let addr: Addr<Order> = client.find("server");
    heard_until(&statuses, |told| *told == ("server".into(), Status::Online));
    let down = client.watch(addr);
    assert_eq!(client.deliver(addr, Order::Text("before".into())), Ok(()));
    while server.line() != "before" {}

    // It takes nothing more: what is sent from here on is under way when it is killed.
    server.freeze();
    let receipt = client.delivering(addr, Order::Text("never".into()), secs(60));
    let handle = client.handle.clone();
    let asked = std::thread::spawn(move || handle.ask(addr, secs(60), Order::Keep));
    wait_for("both to be sent", || (client.stats().requests == 2).then_some(()));
    let killed = Instant::now();
    server.kill();
    assert_eq!(heard(&receipt), Err(DeliverError::Unknown));
    assert_eq!(heard(&down), End::NodeLost);
    assert_eq!(heard(&statuses), ("server".into(), Status::Offline));
    assert_eq!(asked.join().expect("it only asks"), Err(AskError::NodeLost));
    assert!(killed.elapsed() < SOON, "it took {:?} to know", killed.elapsed());
    let counts = client.counts();
    assert_eq!((counts.receipts, counts.monitors), (0, 0));
    addr
}

/// Starts the server again at its port; it is found, and what was its address is nobody's.
fn come_back(net: &Net, at: Location, client: &TestNode, stale: Addr<Order>) {
    let port = at.addr().port();
    let server = Process::start_at(net, "server", port, (net.udp_port == 0).then_some(client.location));
    assert_eq!(server.location(), at);
    let addr: Addr<Order> = client.find("server");
    assert!(addr != stale);
    let echo = |reply| Order::Echo("again".into(), reply);
    assert_eq!(client.handle.ask(addr, secs(10), echo), Ok("again".to_owned()));
    let refused = client.deliver(stale, Order::Text("stale".into()));
    assert_eq!(refused, Err(DeliverError::Refused(Undelivered::NoActor)));
    assert_eq!(heard(&client.watch(stale)), End::NoActor);
}

#[test]
fn a_server_that_was_dialled_and_killed_is_lost_soon_and_found_again() {
    let net = Net { udp_port: 0, ..Net::new() };
    let mut server = Process::start(&net, "server");
    let at = server.location();
    let client = net.quiet_node("client", &[at]);
    let stale = kill(&mut server, &client);
    come_back(&net, at, &client, stale);
}

#[test]
fn a_server_that_was_dialled_by_tls_and_killed_is_lost_soon_and_found_again() {
    let certs = Certs::new();
    let net = Net { udp_port: 0, tls: Some(certs.node("shared").both), ..Net::new() };
    let mut server = Process::start(&net, "server");
    let at = server.location();
    let client = net.quiet_node("client", &[at]);
    let stale = kill(&mut server, &client);
    come_back(&net, at, &client, stale);
}

#[test]
fn a_server_that_has_dialled_and_is_killed_is_lost_soon_and_found_again() {
    let net = Net { udp_port: 0, ..Net::new() };
    let client = net.quiet_node("client", &[]);
    let mut server = Process::start_at(&net, "server", 0, Some(client.location));
    let at = server.location();
    let stale = kill(&mut server, &client);
    come_back(&net, at, &client, stale);
}

#[test]
fn a_server_that_was_found_by_announcement_and_killed_is_found_again() {
    let net = Net::new();
    let client = net.node("client");
    let mut server = Process::start(&net, "server");
    let at = server.location();
    let stale = kill(&mut server, &client);
    come_back(&net, at, &client, stale);
}

#[test]
fn a_peer_that_hangs_for_a_while_is_suspected_and_then_there_again_and_one_that_is_killed_is_gone() {
    let net = Net { udp_port: 0, ..Net::new() };
    let mut there = Process::start(&net, "there");
    let at = there.location();
    // Silence is suspicious after a fifth of it.
    let config = Config { peer_timeout: secs(5), ..net.quiet("here", &[at]) };
    let here = TestNode::start(config);
    here.wait_for_peers(1);
    let watchers = [here.statuses(), here.statuses(), here.statuses()];
    let tell = |status| {
        for watcher in &watchers {
            assert_eq!(heard(watcher), ("there".into(), status));
        }
    };
    tell(Status::Online);
    there.freeze();
    tell(Status::Suspect);
    assert_eq!(here.step(|cx| cx.peers().len()), 1, "it may come back");
    there.thaw();
    tell(Status::Online);
    there.freeze();
    tell(Status::Suspect);
    tell(Status::Offline);
    assert_eq!(here.step(|cx| cx.peers().len()), 0);
    // It comes back to life, and is told that it was lost.
    there.thaw();
    tell(Status::Online);
    there.kill();
    tell(Status::Offline);
    assert!(watchers.iter().all(|watcher| watcher.try_recv().is_err()), "nothing else was told");
}

#[test]
fn a_process_that_is_stopped_for_a_while_accuses_nobody() {
    let net = Net::new();
    let here = net.node("here");
    let there = Process::start(&net, "there");
    there.location();
    let addr: Addr<Order> = here.find("server");
    assert_eq!(there.line(), "here Online");
    there.freeze();
    // It is the span that is tested; nothing can be waited for in a process that is stopped.
    std::thread::sleep(secs(4));
    there.thaw();
    // What it thinks of others is told before the text that was sent afterwards.
    assert_eq!(here.deliver(addr, Order::Text("awake".into())), Ok(()));
    assert_eq!(there.line(), "awake");
}

#[test]
fn an_actor_that_blocks_its_node_for_a_while_makes_it_accuse_nobody() {
    let net = Net::new();
    let (there, here) = net.pair();
    let statuses = here.statuses();
    assert_eq!(heard(&statuses), ("first".into(), Status::Online));
    let told = there.listener::<String>("listener");
    let addr: Addr<String> = here.find("listener");
    // Steps enough after the long one that the loop looks at its clock before it looks at its sockets.
    here.step(move |cx| {
        cx.spawn(|_: &mut Cx<()>, _| {
            std::thread::sleep(Duration::from_millis(4_000));
            antiphon_sched::stop()
        });
        for _ in 0..200 {
            cx.spawn(|_: &mut Cx<u32>, _| antiphon_sched::stop());
        }
    });
    assert_eq!(here.deliver(addr, "awake".into()), Ok(()));
    assert_eq!(heard(&told), "awake");
    assert_eq!(statuses.try_recv().ok(), None);
}

#[test]
fn a_node_that_is_dropped_is_offline_at_once() {
    let net = Net::new();
    let (first, second) = net.pair();
    let statuses = first.statuses();
    assert_eq!(heard(&statuses), ("second".into(), Status::Online));
    let _listening = second.listener::<String>("listener");
    let addr: Addr<String> = first.find("listener");
    let down = first.watch(addr);
    first.wait_for_counts("the monitor", |counts| counts.monitors == 1);
    let left = Instant::now();
    second.stop();
    assert_eq!(heard(&statuses), ("second".into(), Status::Offline));
    assert_eq!(heard(&down), End::NodeLost);
    assert!(left.elapsed() < secs(1), "it took {:?} to know", left.elapsed());
}

#[test]
fn a_client_that_sends_and_stops_at_once_loses_nothing() {
    let net = Net { udp_port: 0, ..Net::new() };
    let here = net.quiet_node("here", &[]);
    let told = here.listener::<String>("listener");
    let at = here.location;
    let config = net.quiet("brief", &[at]);
    std::thread::spawn(move || {
        let mut node = Node::new(config).expect("a node can start");
        node.spawn(|cx, event| match event {
            Event::Start => {
                cx.locate("listener", secs(10), |found| found);
                receive()
            }
            Event::Message(found) => {
                let to: Addr<String> = found?;
                for number in 0..10_000 {
                    cx.send(to, number.to_string())?;
                }
                antiphon_sched::stop()
            }
            _ => receive(),
        });
        node.run().expect("the node runs");
    });
    for number in 0..10_000 {
        assert_eq!(heard(&told), number.to_string());
    }
}
