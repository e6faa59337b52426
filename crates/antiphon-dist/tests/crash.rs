//! Processes that are killed, start again, or are stopped for a while.

mod common;

use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use antiphon_dist::{Config, DeliverError, Location, NetCx, Node, Status};
use antiphon_sched::{Addr, AskError, Cx, Event, ReplyTo, Undelivered, receive, secs};
use common::certs::Certs;
use common::harness::{self, tests};
use common::process::{self, Process, Role};
use common::{Exit, Net, TestNode, recv, recv_until, wait_for};
use serde::{Deserialize, Serialize};

fn main() -> ExitCode {
    harness::run(
        run_server,
        tests![
            dialled_server_killed_is_lost_and_found_again,
            tls_server_killed_is_lost_and_found_again,
            dialling_server_killed_is_lost_and_found_again,
            announced_server_killed_is_lost_and_found_again,
            server_behind_relay_lost_when_successor_connects,
            peer_frozen_is_suspect_then_online_or_offline,
            process_resumed_suspects_no_peer,
            node_blocked_by_actor_suspects_no_peer,
            node_stopped_is_offline_at_once,
            node_stopped_after_sending_loses_no_message,
        ],
    )
}

/// A message to the server.
#[derive(Serialize, Deserialize)]
enum Order {
    Echo(String, ReplyTo<String>),
    /// Keep the reply, and never send it.
    Keep(ReplyTo<String>),
    /// Send the text to the test.
    Text(String),
}
antiphon_sched::wire!(Order, "test.order/1");

/// The child process: a server that also sends the test each change of a peer's status.
fn run_server(role: &Role) {
    let mut node = Node::new(role.config()).expect("a node can start");
    process::send_line(node.location());
    let mut kept = Vec::new();
    node.spawn(move |cx: &mut Cx<Order>, event| {
        match event {
            Event::Start => {
                cx.register("server")?;
                cx.peer_status(|status| Order::Text(format!("{} {:?}", status.name, status.status)))
                    .expect("the limit is not reached");
            }
            Event::Message(Order::Echo(text, reply)) => cx.reply(reply, text),
            Event::Message(Order::Keep(reply)) => kept.push(reply),
            Event::Message(Order::Text(text)) => process::send_line(text),
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

/// The limit for the time until the loss of a killed peer is reported.
const LOSS_WITHIN: Duration = Duration::from_secs(2);

/// Kills the server while a receipt, a reply and a `Down` are outstanding, and checks their outcomes. Returns the
/// server's address, which is stale now.
fn kill(server: &mut Process, client: &TestNode) -> Addr<Order> {
    let statuses = client.statuses();
    let addr: Addr<Order> = client.find("server");
    recv_until(&statuses, |status| *status == ("server".into(), Status::Online));
    let down = client.monitor(addr);
    assert_eq!(client.deliver(addr, Order::Text("before".into())), Ok(()));
    while server.line() != "before" {}

    // The server is stopped, so that the messages from here on are unacknowledged when it is killed.
    server.freeze();
    let receipt = client.delivering(addr, Order::Text("never".into()), secs(60));
    let handle = client.handle.clone();
    let asking = std::thread::spawn(move || handle.ask(addr, secs(60), Order::Keep));
    wait_for("both requests", || (client.stats().requests == 2).then_some(()));
    let killed = Instant::now();
    server.kill();
    assert_eq!(recv(&receipt), Err(DeliverError::Unknown));
    assert_eq!(recv(&down), Exit::NodeLost);
    assert_eq!(recv(&statuses), ("server".into(), Status::Offline));
    assert_eq!(asking.join().expect("the ask returns"), Err(AskError::NodeLost));
    assert!(killed.elapsed() < LOSS_WITHIN, "the loss was reported after {:?}", killed.elapsed());
    let counts = client.counts();
    assert_eq!((counts.receipts, counts.monitors), (0, 0));
    addr
}

/// Starts the server again at its port. It is found, and the stale address leads to no actor.
fn restart(net: &Net, at: Location, client: &TestNode, stale: Addr<Order>) {
    let port = at.addr().port();
    let server = Process::start_at(net, "server", port, (net.udp_port == 0).then_some(client.location));
    assert_eq!(server.location(), at);
    let addr: Addr<Order> = client.find("server");
    assert!(addr != stale);
    let echo = |reply| Order::Echo("again".into(), reply);
    assert_eq!(client.handle.ask(addr, secs(10), echo), Ok("again".to_owned()));
    let refused = client.deliver(stale, Order::Text("stale".into()));
    assert_eq!(refused, Err(DeliverError::Refused(Undelivered::NoActor)));
    assert_eq!(recv(&client.monitor(stale)), Exit::NoActor);
}

fn dialled_server_killed_is_lost_and_found_again() {
    let net = Net { udp_port: 0, ..Net::new() };
    let mut server = Process::start(&net, "server");
    let at = server.location();
    let client = net.static_node("client", &[at]);
    let stale = kill(&mut server, &client);
    restart(&net, at, &client, stale);
}

fn tls_server_killed_is_lost_and_found_again() {
    let certs = Certs::new();
    let net = Net { udp_port: 0, tls: Some(certs.node("shared").both), ..Net::new() };
    let mut server = Process::start(&net, "server");
    let at = server.location();
    let client = net.static_node("client", &[at]);
    let stale = kill(&mut server, &client);
    restart(&net, at, &client, stale);
}

fn dialling_server_killed_is_lost_and_found_again() {
    let net = Net { udp_port: 0, ..Net::new() };
    let client = net.static_node("client", &[]);
    let mut server = Process::start_at(&net, "server", 0, Some(client.location));
    let at = server.location();
    let stale = kill(&mut server, &client);
    restart(&net, at, &client, stale);
}

fn announced_server_killed_is_lost_and_found_again() {
    let net = Net::new();
    let client = net.node("client");
    let mut server = Process::start(&net, "server");
    let at = server.location();
    let stale = kill(&mut server, &client);
    restart(&net, at, &client, stale);
}

/// Carries the bytes of one connection to a node. It leaves the connection to the node open when the other side closes.
fn start_relay(to: Location) -> Location {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let at = listener.local_addr().expect("the listener is bound");
    std::thread::spawn(move || {
        let (dialler, _) = listener.accept().expect("the server dials");
        let node = TcpStream::connect(to.addr()).expect("the node listens");
        let halves = |stream: &TcpStream| stream.try_clone().expect("a socket can be cloned");
        let (mut from_node, mut to_dialler) = (halves(&node), halves(&dialler));
        std::thread::spawn(move || std::io::copy(&mut from_node, &mut to_dialler));
        // The copies end with an error or without one: the connection is cut.
        drop(std::io::copy(&mut &dialler, &mut &node));
        std::thread::sleep(secs(60));
        drop(node);
    });
    at.into()
}

fn server_behind_relay_lost_when_successor_connects() {
    let net = Net { udp_port: 0, ..Net::new() };
    let client = net.static_node("client", &[]);
    let mut server = Process::start_at(&net, "server", 0, Some(start_relay(client.location)));
    let at = server.location();
    let addr: Addr<Order> = client.find("server");
    let down = client.monitor(addr);
    assert_eq!(client.deliver(addr, Order::Text("before".into())), Ok(()));
    server.kill();
    let successor = Process::start_at(&net, "server", at.addr().port(), Some(client.location));
    assert_eq!(successor.location(), at);
    let started = Instant::now();
    assert_eq!(recv(&down), Exit::NodeLost);
    assert!(started.elapsed() < LOSS_WITHIN, "the loss was reported after {:?}", started.elapsed());
    let addr: Addr<Order> = client.find("server");
    let echo = |reply| Order::Echo("again".into(), reply);
    assert_eq!(client.handle.ask(addr, secs(10), echo), Ok("again".to_owned()));
}

/// A frozen peer becomes suspect. It is online again if it continues in time, and offline otherwise.
fn peer_frozen_is_suspect_then_online_or_offline() {
    let net = Net { udp_port: 0, ..Net::new() };
    let mut there = Process::start(&net, "there");
    let at = there.location();
    // A peer becomes suspect after a fifth of the timeout.
    let config = Config { peer_timeout: secs(5), ..net.static_config("here", &[at]) };
    let here = TestNode::start(config);
    here.wait_for_peers(1);
    let watchers = [here.statuses(), here.statuses(), here.statuses()];
    let expect = |status| {
        for watcher in &watchers {
            assert_eq!(recv(watcher), ("there".into(), status));
        }
    };
    expect(Status::Online);
    there.freeze();
    expect(Status::Suspect);
    assert_eq!(here.step(|cx| cx.peers().len()), 1, "a suspect peer stays a peer");
    there.thaw();
    expect(Status::Online);
    there.freeze();
    expect(Status::Suspect);
    expect(Status::Offline);
    assert_eq!(here.step(|cx| cx.peers().len()), 0);
    // The process continues, receives the news that its session has ended, and connects again.
    there.thaw();
    expect(Status::Online);
    there.kill();
    expect(Status::Offline);
    let next = watchers.each_ref().map(|watcher| watcher.try_recv());
    assert!(
        next.iter().all(|next| *next == Err(TryRecvError::Empty)),
        "no other status is reported: {next:?}"
    );
}

/// A process that was stopped for a while does not suspect its peers when it continues.
fn process_resumed_suspects_no_peer() {
    let net = Net::new();
    let here = net.node("here");
    let there = Process::start(&net, "there");
    there.location();
    let addr: Addr<Order> = here.find("server");
    assert_eq!(there.line(), "here Online");
    there.freeze();
    // The test is about this span, and a stopped process gives nothing to wait for.
    std::thread::sleep(secs(4));
    there.thaw();
    // A change of status would be reported before this text.
    assert_eq!(here.deliver(addr, Order::Text("running".into())), Ok(()));
    assert_eq!(there.line(), "running");
}

fn node_blocked_by_actor_suspects_no_peer() {
    let net = Net::new();
    let (there, here) = net.pair();
    let statuses = here.statuses();
    assert_eq!(recv(&statuses), ("first".into(), Status::Online));
    let messages = there.listener::<String>("listener");
    let addr: Addr<String> = here.find("listener");
    // After the long step come so many others that the loop reads its clock before it reads its sockets.
    here.step(move |cx| {
        cx.spawn(|_: &mut Cx<()>, _| {
            std::thread::sleep(Duration::from_millis(4_000));
            antiphon_sched::stop()
        });
        for _ in 0..200 {
            cx.spawn(|_: &mut Cx<u32>, _| antiphon_sched::stop());
        }
    });
    assert_eq!(here.deliver(addr, "running".into()), Ok(()));
    assert_eq!(recv(&messages), "running");
    assert_eq!(statuses.try_recv(), Err(TryRecvError::Empty));
}

fn node_stopped_is_offline_at_once() {
    let net = Net::new();
    let (first, second) = net.pair();
    let statuses = first.statuses();
    assert_eq!(recv(&statuses), ("second".into(), Status::Online));
    let _listening = second.listener::<String>("listener");
    let addr: Addr<String> = first.find("listener");
    let down = first.monitor(addr);
    first.wait_for_counts("the monitor", |counts| counts.monitors == 1);
    let stopped = Instant::now();
    second.stop();
    assert_eq!(recv(&statuses), ("second".into(), Status::Offline));
    assert_eq!(recv(&down), Exit::NodeLost);
    assert!(stopped.elapsed() < secs(1), "the loss was reported after {:?}", stopped.elapsed());
}

fn node_stopped_after_sending_loses_no_message() {
    let net = Net { udp_port: 0, ..Net::new() };
    let here = net.static_node("here", &[]);
    let messages = here.listener::<String>("listener");
    let at = here.location;
    let config = net.static_config("brief", &[at]);
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
        assert_eq!(recv(&messages), number.to_string());
    }
}
