//! What a running node shows of itself: peers, names and counters, and the events in its log.

mod common;

use antiphon_dist::{Counts, NetCx, NetHandle, PeerInfo, Space, Status};
use antiphon_sched::{
    ActorState, Addr, Bytes, Cx, Event, Loop, LoopConfig, ReplyTo, millis, receive, secs, stop, suspend,
};
use common::certs::Certs;
use common::{Log, Net, PATIENCE, TestNode, recv, wait_for};

/// The peers of a node as its handle shows them.
fn peers(node: &TestNode) -> Vec<PeerInfo> {
    let page = node.handle.peer_infos(None, PATIENCE).expect("the node runs");
    assert_eq!(page.next, None);
    page.peers
}

#[test]
fn handle_shows_peers_with_their_sessions() {
    let certs = Certs::new();
    for tls in [None, Some(certs.node("shared").both)] {
        let net = Net { tls, ..Net::new() };
        let (first, second) = net.pair();
        let messages = first.listener::<String>("listener");
        let addr: Addr<String> = second.find("listener");
        assert_eq!(second.deliver(addr, "hello".into()), Ok(()));
        recv(&messages);
        let down = second.monitor(addr);
        second.wait_for_counts("the monitor", |counts| counts.monitors == 1);
        // The first call sends a ping.
        let peer = wait_for("a round-trip time", || {
            let [peer] = &peers(&second)[..] else { panic!("one peer is known") };
            peer.session.is_some_and(|session| session.round_trip.is_some()).then(|| peer.clone())
        });
        let session = peer.session.expect("the peer has a session");
        assert_eq!((peer.node, &*peer.name), (first.handle.node_id(), "first"));
        assert_eq!((peer.location, peer.status), (Some(first.location), Some(Status::Online)));
        assert_eq!((peer.certificate.is_some(), peer.monitors), (net.tls.is_some(), 1));
        assert_eq!((peer.queued_bytes, peer.inbound_bytes, peer.refusal), (0, 0, None));
        let suite = session.suite.expect("the peer is connected").to_string();
        assert_eq!(suite == "tls", net.tls.is_some(), "{suite}");
        assert!(session.round_trip < Some(secs(5)) && session.age < PATIENCE, "{session:?}");
        assert!(session.frames_sent > 0 && session.frames_received > 0, "{session:?}");
        let text = serde_json::to_string(&peer).expect("it can be serialized");
        assert!(text.contains(r#""status":"Online""#) && text.contains(&*suite), "{text}");
        first.stop();
        assert_eq!(recv(&down), common::Exit::NodeLost);
        let [peer] = &peers(&second)[..] else { panic!("the peer is known") };
        assert_eq!((peer.status, peer.session), (Some(Status::Offline), None));
    }
}

#[test]
fn handle_shows_bytes_that_wait() {
    let net = Net::new();
    let (first, second) = net.pair();
    // It never takes a message.
    first.spawn(|cx: &mut Cx<Bytes>, event| {
        if matches!(event, Event::Start) {
            cx.register("busy")?;
            cx.set_name("busy");
        }
        suspend()
    });
    let addr: Addr<Bytes> = second.find("busy");
    second.step(move |cx| (0..3).for_each(|_| cx.tell(addr, Bytes::from(vec![0; 10_000]))));
    let info = wait_for("three messages in the mailbox", || {
        let page = first.handle.actors(None, PATIENCE).expect("the node runs");
        page.actors.into_iter().find(|info| info.name == "busy" && info.mailbox == 3)
    });
    assert_eq!(info.state, ActorState::Suspended);
    assert!((30_000..31_000).contains(&info.peer_bytes), "{info:?}");
    let [peer] = &peers(&first)[..] else { panic!("one peer is known") };
    assert_eq!(peer.inbound_bytes, info.peer_bytes);
    assert!(first.handle.counts(PATIENCE).expect("the node runs").bytes_received > 30_000);
    assert!(second.handle.counts(PATIENCE).expect("the node runs").bytes_sent > 30_000);
}

#[test]
fn handle_shows_names_in_pages() {
    let net = Net::new();
    let node = net.static_node("node", &[]);
    let names: Vec<String> = (0..1500).map(|number| format!("name {number:04}")).collect();
    let own = names.clone();
    let (sender, registered) = std::sync::mpsc::channel();
    let actor = node.spawn(move |cx: &mut Cx<ReplyTo<u32>>, event| {
        if matches!(event, Event::Start) {
            own.iter().try_for_each(|name| cx.register(name))?;
            sender.send(())?;
        }
        receive()
    });
    recv(&registered);
    node.with(|node| node.channel::<u64>("a channel").map(|_| ()).expect("the name is free"));
    let (mut all, mut next) = (Vec::new(), None);
    loop {
        let page = node.handle.name_infos(next, PATIENCE).expect("the node runs");
        all.extend(page.names);
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    let of_space = |space| all.iter().filter(move |name| name.space == space);
    assert!(of_space(Space::Actor).map(|name| &name.name).eq(&names));
    assert!(
        of_space(Space::Actor).all(|name| name.actor == actor.id() && name.type_name == "reply<u32>"),
        "{:?}",
        all[0]
    );
    let channels: Vec<_> = of_space(Space::Channel).map(|name| &*name.name).collect();
    assert_eq!(channels, ["a channel"]);
    assert_eq!(node.handle.counts(PATIENCE).expect("the node runs").names, 1501);
}

#[test]
fn loop_without_node_has_no_peers() {
    let mut events = Loop::new(LoopConfig::default()).expect("a loop can start");
    let handle = events.handle();
    events.spawn(|cx: &mut Cx<()>, _| {
        assert_eq!((cx.counts(), cx.peer_infos(None).peers), (Counts::default(), Vec::new()));
        receive()
    });
    let asking = std::thread::spawn(move || {
        assert_eq!(handle.counts(PATIENCE), Ok(Counts::default()));
        assert_eq!(handle.name_infos(None, PATIENCE).map(|page| page.names), Ok(Vec::new()));
        handle.stop();
    });
    events.run().expect("the loop runs");
    asking.join().expect("the thread does not panic");
}

#[test]
fn log_reports_actors_names_and_messages() {
    let net = Net::new();
    let there = net.static_node("there", &[]);
    let messages = there.listener::<String>("listener");
    let log = Log::default();
    let (written, config) = (log.clone(), net.static_config("here", &[there.location]));
    let running = std::thread::spawn(move || {
        let _logged = written.attach_at(tracing::Level::TRACE);
        let mut node = antiphon_dist::Node::new(config).expect("a node can start");
        node.spawn(|cx: &mut Cx<Option<Addr<String>>>, event| match event {
            Event::Start => {
                cx.set_name("finder");
                cx.register("finder")?;
                cx.locate("listener", PATIENCE, Result::ok);
                receive()
            }
            Event::Message(found) => {
                cx.send(found.ok_or("it is not found")?, "hello".into())?;
                cx.locate::<Addr<String>>("nobody", millis(1), Result::ok);
                stop()
            }
            _ => receive(),
        });
        node.run().expect("the node runs");
    });
    assert_eq!(recv(&messages), "hello");
    running.join().expect("the node's thread does not panic");
    for (level, part) in [
        ("DEBUG", "antiphon::actors: an actor starts"),
        ("DEBUG", "a name is registered name=\"finder\" space=Actor"),
        ("INFO", "antiphon::peers: a peer has connected"),
        ("DEBUG", "a lookup has found its name"),
        ("TRACE", "antiphon::messages: a message to a peer node="),
        ("TRACE", "a batch of an actor has run"),
        ("DEBUG", "a name is unregistered, since its actor has ended"),
        ("DEBUG", "an actor has ended actor=finder"),
    ] {
        let lines = log.lines(part);
        assert!(lines.iter().any(|line| line.contains(level)), "{part:?} at {level}: {:#?}", log.lines(""));
    }
}

/// Two nodes of one process write to one log. The second is driven by `run_once`.
#[test]
fn log_lines_name_their_node_and_actor() {
    let net = Net::new();
    let log = Log::default();
    let running = ["first", "second"].map(|name| {
        let (written, config) = (log.clone(), net.static_config(name, &[]));
        std::thread::spawn(move || {
            let mut node = antiphon_dist::Node::new(config).expect("a node can start");
            // The program may set its subscriber after it has made the node.
            let _logged = written.attach_filtered("info,antiphon::actors[actor]=trace");
            node.spawn(move |cx: &mut Cx<()>, event| match event {
                Event::Start => {
                    cx.set_name(name);
                    cx.after(millis(1), ())?;
                    receive()
                }
                _ => {
                    tracing::info!(of = name, "a line of a user");
                    stop()
                }
            });
            let location = node.location();
            if name == "first" {
                node.run().expect("the node runs");
            } else {
                while written.lines("of=\"second\"").is_empty() {
                    node.run_once(None).expect("the node runs");
                }
            }
            format!("node{{id={} location={location}}}:", node.handle().node_id())
        })
    });
    let spans = running.map(|thread| thread.join().expect("the node's thread does not panic"));
    for (name, node_span) in ["first", "second"].into_iter().zip(spans) {
        let [line] = &log.lines(&format!("a line of a user of=\"{name}\""))[..] else {
            panic!("the actor logs one line: {:#?}", log.lines(""))
        };
        assert!(line.contains(&format!("INFO {node_span}actor{{id=")), "{line}");
        assert!(line.contains(&format!(" name=\"{name}\"}}: inspection: ")), "{line}");
        let starts = log.lines("the node starts");
        assert!(starts.iter().any(|line| line.contains(&format!("INFO {node_span} antiphon"))), "{starts:?}");
    }
    assert!(log.lines("a batch of an actor has run").is_empty(), "the filter selects the span alone");
}
