//! Access policies of actors, names, channels, RCIs and files.

mod common;

use std::sync::mpsc::{Receiver, TryRecvError, channel};

use antiphon_dist::{
    AccessError, AccessPolicy, CallError, Channel, Config, DeliverError, FileError, FileOptions, Fingerprint,
    LocateError, Named, NetCx, Node, NodeError, PeerError, Rci, Refusal, Status, Stored, SubscribeError,
};
use antiphon_sched::{
    Actor, Addr, Cx, Event, LoopConfig, NodeId, Undelivered, exit, receive, secs, stop, suspend,
};
use common::certs::{Certs, Files};
use common::{Exit, Net, PATIENCE, TestNode, recv, recv_until, report, wait_for};

/// A server, a guest that its access policy allows, and an outsider that the policy excludes.
struct AccessTest {
    net: Net,
    certs: Certs,
    server: TestNode,
    guest: TestNode,
    outsider: TestNode,
    guests_only: AccessPolicy,
}

impl AccessTest {
    fn new() -> Self {
        Self::with(|_, config| config)
    }

    fn with(change: impl FnOnce(&AccessPolicy, Config) -> Config) -> Self {
        let (net, certs) = (Net::new(), Certs::new());
        let [server, guest, outsider] = ["server", "guest", "outsider"].map(|name| certs.node(name));
        let guests_only = AccessPolicy::certificates([
            Fingerprint::of_file(&guest.both).expect("the file holds a certificate")
        ]);
        let pinned = vec![server.cert.clone(), guest.cert.clone(), outsider.cert.clone()];
        let config = |name, own: &Files| Config {
            certfile: Some(own.both.clone()),
            pinned: pinned.clone(),
            ..net.static_config(name, &[])
        };
        let server = TestNode::start(change(&guests_only, config("server", &server)));
        let of_host = |name, own| Config { peers: vec![server.location.into()], ..config(name, own) };
        let guest = TestNode::start(of_host("guest", &guest));
        let outsider = TestNode::start(of_host("outsider", &outsider));
        server.wait_for_peers(2);
        guest.wait_for_peers(1);
        outsider.wait_for_peers(1);
        Self { net, certs, server, guest, outsider, guests_only }
    }

    /// Waits until the access policies of the server have refused this many requests.
    fn wait_for_refusals(&self, count: u64) {
        self.server.wait_for_counts("refusals", |counts| counts.refusals.access >= count);
    }
}

/// Locates a name; the receiver gets the result.
fn locate<T: Named + Send>(node: &TestNode, name: &'static str) -> Receiver<Result<T, LocateError>> {
    request(node, move |cx| cx.locate(name, PATIENCE, |found| found))
}

/// Opens a request in a new actor; the receiver gets the reply.
fn request<M: Send + 'static>(
    node: &TestNode,
    act: impl FnOnce(&mut Cx<'_, M>) + Send + 'static,
) -> Receiver<M> {
    let (sender, results) = channel();
    let mut act = Some(act);
    node.spawn(move |cx: &mut Cx<M>, event| match event {
        Event::Message(reply) => {
            report(&sender, reply);
            stop()
        }
        _ => {
            if let Some(act) = act.take() {
                act(cx);
            }
            receive()
        }
    });
    results
}

/// An actor with an access policy, registered as "listener". The receiver gets its messages.
fn open_listener(node: &TestNode, access: AccessPolicy) -> (Addr<String>, Receiver<String>) {
    let (sender, received) = channel();
    let (ready, registered) = channel();
    let actor = node.spawn(move |cx: &mut Cx<String>, event| {
        match event {
            Event::Start => {
                // Peers see the results of a step only after the step: the policy applies before they find the name.
                cx.register("listener")?;
                let me = cx.addr();
                cx.allow(me, access.clone())?;
                report(&ready, ());
            }
            Event::Message(text) => report(&sender, text),
            Event::Thrown(thrown) => drop(thrown.take()),
            _ => {}
        }
        receive()
    });
    recv(&registered);
    // An address that a node can build from the actor id alone.
    (Addr::of(actor.id()), received)
}

const NO_ACTOR: Result<(), DeliverError> = Err(DeliverError::Refused(Undelivered::NoActor));

#[test]
fn locate_excluded_peer_completes_after_policy_change() {
    let test = AccessTest::new();
    // Both nodes locate the name before it is registered. The outsider locates it once more afterwards.
    let early = [&test.guest, &test.outsider].map(|node| locate::<Addr<String>>(node, "listener"));
    test.server.wait_for_counts("two lookups", |counts| counts.lookups == 2);
    let (actor, _received) = open_listener(&test.server, test.guests_only.clone());
    assert_eq!(recv(&early[0]), Ok(actor));
    assert_eq!(recv(&locate(&test.guest, "listener")), Ok(actor));
    let late = locate::<Addr<String>>(&test.outsider, "listener");
    test.wait_for_refusals(2);
    for open in [&early[1], &late] {
        assert_eq!(open.try_recv(), Err(TryRecvError::Empty), "the name looks unregistered to the outsider");
    }
    assert_eq!(test.server.step(move |cx| cx.allow(actor, AccessPolicy::all())), Ok(()));
    assert_eq!([recv(&early[1]), recv(&late)], [Ok(actor), Ok(actor)]);
    let lines = test.server.log.lines("the access policy of an actor refuses a peer");
    assert!(lines.len() == 1 && lines[0].contains("outsider"), "{lines:?}");
}

#[test]
fn guessed_address_from_excluded_peer_has_no_actor() {
    let test = AccessTest::new();
    let (actor, received) = open_listener(&test.server, test.guests_only.clone());
    // The outsider knows the address although it cannot locate the name.
    assert_eq!(test.outsider.deliver(actor, "let me in".into()), NO_ACTOR);
    assert_eq!(recv(&test.outsider.monitor(actor)), Exit::NoActor);
    test.outsider.step(move |cx| {
        cx.terminate(actor);
        cx.throw(actor, 1_u64);
        cx.resume(actor, 1_u64);
        drop(cx.send(actor, "and now?".into()));
    });
    test.wait_for_refusals(6);
    assert_eq!(test.guest.deliver(actor, "hello".into()), Ok(()));
    assert_eq!(recv(&received), "hello", "the actor still runs and received nothing from the outsider");
    let counts = test.server.counts();
    assert_eq!(
        (counts.refusals.access, counts.refused_messages),
        (6, 5),
        "a refused monitor is not counted as a message"
    );

    // No peer may reach the actor; its own node still may.
    assert_eq!(test.server.step(move |cx| cx.allow(actor, AccessPolicy::none())), Ok(()));
    assert_eq!(test.guest.deliver(actor, "again".into()), NO_ACTOR);
    assert_eq!(test.server.deliver(actor, "local".into()), Ok(()));
    assert_eq!(recv(&received), "local");
    // The policy is removed when the actor exits. Local monitors get its `Down`.
    let end = test.server.monitor(actor);
    test.server.step(move |cx| cx.terminate(actor));
    assert_eq!(recv(&end), Exit::Terminated);
    assert_eq!(test.server.step(move |cx| cx.allow(actor, AccessPolicy::all())), Err(AccessError::Ended));
}

#[test]
fn adapter_follows_access_policy_of_its_actor() {
    let test = AccessTest::new();
    let (sender, received) = channel();
    let guests_only = test.guests_only.clone();
    test.server.spawn(move |cx: &mut Cx<u64>, event| {
        match event {
            Event::Start => {
                let adapter: Addr<String> =
                    cx.adapter(|text: String| text.len() as u64).expect("the limit is not reached");
                cx.allow(adapter, guests_only.clone())?;
                let me = cx.addr();
                cx.register("number")?;
                // A peer can reach an adapter only once it is exposed.
                assert!(cx.loop_ref().service().expose(adapter));
                report(&sender, Ok((Addr::<u64>::of(me.id()), Addr::<String>::of(adapter.id()))));
            }
            Event::Message(number) => report(&sender, Err(number)),
            _ => {}
        }
        receive()
    });
    let Ok((me, adapter)) = recv(&received) else { panic!("the addresses come first") };
    assert_eq!(test.outsider.deliver(adapter, "four".into()), NO_ACTOR);
    assert_eq!(test.outsider.deliver(me, 4), NO_ACTOR);
    assert_eq!(test.guest.deliver(adapter, "four".into()), Ok(()));
    assert_eq!(test.guest.deliver(me, 5), Ok(()));
    assert_eq!([recv(&received).err(), recv(&received).err()], [Some(4), Some(5)]);
}

#[test]
fn channel_policy_refuses_excluded_peer() {
    let test = AccessTest::new();
    let news: Channel<String> = test.server.with(|node| node.channel("news")).expect("the name is free");
    let guests_only = test.guests_only.clone();
    assert_eq!(test.server.with(move |node| node.allow(news, guests_only)), Ok(()));
    assert_eq!(recv(&locate(&test.guest, "news")), Ok(news));

    let [(guest, received), (outsider, _)] = [&test.guest, &test.outsider].map(|node| {
        let (sender, received) = channel();
        let actor = node.spawn(move |_cx: &mut Cx<String>, event| {
            if let Event::Message(text) = event {
                report(&sender, text);
            }
            receive()
        });
        (actor, received)
    });
    let subscribe = |node: &TestNode, actor| {
        recv(&request(node, move |cx| cx.subscribe_within(news, actor, PATIENCE, |done| done)))
    };
    assert_eq!(subscribe(&test.guest, guest), Ok(()));
    assert_eq!(subscribe(&test.outsider, outsider), Err(SubscribeError::NoChannel));
    let deliver = |node: &TestNode| {
        recv(&request(node, move |cx| cx.deliver_all(news, "hello".into(), 0, PATIENCE, |count| count)))
    };
    assert_eq!(deliver(&test.outsider), Err(DeliverError::Refused(Undelivered::NoActor)));
    assert_eq!(deliver(&test.guest), Ok(1));
    assert_eq!(recv(&received), "hello");
    assert_eq!(received.try_recv(), Err(TryRecvError::Empty), "the outsider's message was not delivered");
}

/// Exits with the first text that it receives.
fn echo(_: u64) -> impl Actor<String> {
    antiphon_sched::actor(|_cx, event| match event {
        Event::Message(text) => exit(text),
        _ => receive(),
    })
}

fn call(node: &TestNode, rci: Rci<u64, String>) -> Result<Addr<String>, CallError> {
    recv(&request(node, move |cx| cx.call(rci, 1, PATIENCE, |called| called)))
}

#[test]
fn rci_policy_applies_to_started_actors() {
    let test = AccessTest::new();
    let rci = test.server.with(|node| node.rci_actor("echo", echo)).expect("the name is free");
    let guests_only = test.guests_only.clone();
    assert_eq!(test.server.with(move |node| node.allow(rci, guests_only)), Ok(()));
    assert_eq!(recv(&locate(&test.guest, "echo")), Ok(rci));
    let located = locate::<Rci<u64, String>>(&test.outsider, "echo");
    test.wait_for_refusals(1);
    assert_eq!(located.try_recv(), Err(TryRecvError::Empty), "the name looks unregistered to the outsider");
    assert_eq!(call(&test.outsider, rci), Err(CallError::NotRegistered));
    let started = call(&test.guest, rci).expect("the policy allows the guest");
    assert_eq!(test.outsider.deliver(started, "steal".into()), NO_ACTOR);
    let end = test.guest.monitor(started);
    assert_eq!(test.guest.deliver(started, "mine".into()), Ok(()));
    assert_eq!(recv(&end), Exit::Value("mine".into()));
}

#[test]
fn rci_without_policy_uses_configured_access() {
    let test = AccessTest::with(|guests_only, config| Config { rci_access: guests_only.clone(), ..config });
    let rci = test.server.with(|node| node.rci_actor("echo", echo)).expect("the name is free");
    assert!(call(&test.guest, rci).is_ok(), "the configuration allows the guest");
    assert_eq!(call(&test.outsider, rci), Err(CallError::NotRegistered));
    assert_eq!(test.server.with(move |node| node.allow(rci, AccessPolicy::all())), Ok(()));
    let started = call(&test.outsider, rci).expect("the policy of the RCI now allows all peers");
    assert_eq!(
        test.guest.deliver(started, "to all".into()),
        Ok(()),
        "the started actor has the policy of the RCI"
    );
}

#[test]
fn file_from_excluded_peer_is_not_stored() {
    let dest = tempfile::TempDir::new().expect("a temporary folder can be made");
    let path = dest.path().to_owned();
    let test = AccessTest::with(move |guests_only, config| Config {
        files_access: guests_only.clone(),
        dest_path: Some(path),
        ..config
    });
    let file = test.certs.write("report.txt", "all is well");
    let send = |node: &TestNode| {
        let (at, file) = (test.server.location, file.clone());
        request(node, move |cx| {
            cx.send_file(at, file, FileOptions::default(), secs(20), |done| done);
        })
    };
    let refused: Receiver<Result<Stored, FileError>> = send(&test.outsider);
    test.wait_for_refusals(1);
    assert_eq!(recv(&send(&test.guest)), Ok(Stored::New));
    assert_eq!(refused.try_recv(), Err(TryRecvError::Empty), "the outsider gets no reply");
    assert_eq!(std::fs::read_to_string(dest.path().join("report.txt")).ok().as_deref(), Some("all is well"));
}

#[test]
fn access_by_name_works_without_tls() {
    let net = Net::new();
    let (first, second) = net.pair();
    let third = net.static_node("third", &[first.location]);
    third.wait_for_peers(1);
    let (actor, received) = open_listener(&first, AccessPolicy::names(["second"]));
    assert_eq!(recv(&locate(&second, "listener")), Ok(actor));
    assert_eq!(second.deliver(actor, "by name".into()), Ok(()));
    assert_eq!(recv(&received), "by name");
    assert_eq!(third.deliver(actor, "another name".into()), NO_ACTOR);
    // Names are not authenticated: any member may use the same name.
    let namesake = net.static_node("second", &[first.location]);
    namesake.wait_for_peers(1);
    assert_eq!(namesake.deliver(actor, "by the same name".into()), Ok(()));
}

#[test]
fn backlog_is_refused_after_policy_change() {
    let net = Net::new();
    let scheduler = LoopConfig { mailbox_max: 4, ..LoopConfig::default() };
    let first = TestNode::start(Config { scheduler, ..net.static_config("first", &[]) });
    let second = net.static_node("second", &[first.location]);
    second.wait_for_peers(1);
    let (sender, received) = channel();
    let (ready, registered) = channel();
    let mut is_resumed = false;
    // Receives no message until it is resumed.
    let actor = first.spawn(move |cx: &mut Cx<String>, event| {
        match event {
            Event::Start => {
                cx.register("sleeper")?;
                report(&ready, ());
            }
            Event::Message(text) => report(&sender, text),
            Event::Resumed(_) => is_resumed = true,
            _ => {}
        }
        if is_resumed { receive() } else { suspend() }
    });
    recv(&registered);
    let actor: Addr<String> = Addr::of(actor.id());
    assert_eq!(recv(&locate(&second, "sleeper")), Ok(actor));
    second.step(move |cx| (0..10).for_each(|n| cx.tell(actor, n.to_string())));
    first.wait_for_counts("a backlog", |counts| counts.backlog_bytes > 0);
    assert_eq!(first.step(move |cx| cx.allow(actor, AccessPolicy::none())), Ok(()));
    first.step(move |cx| cx.resume(actor, 1_u64));
    assert_eq!((0..4).map(|_| recv(&received)).collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    wait_for("six dead letters", || {
        let counts = first.stats().dead_letters_by_reason;
        (counts.no_actor == 6 && counts.total() == 6).then_some(())
    });
    assert_eq!(received.try_recv(), Err(TryRecvError::Empty));
}

#[test]
fn access_policy_without_effect_is_refused() {
    let net = Net::new();
    let (first, second) = net.pair();
    let (actor, _received) = open_listener(&first, AccessPolicy::all());
    let by_certificate = || AccessPolicy::certificates([Fingerprint::from_bytes([7; 32])]);
    assert_eq!(first.step(move |cx| cx.allow(actor, by_certificate())), Err(AccessError::NoTls));
    assert_eq!(second.step(move |cx| cx.allow(actor, AccessPolicy::none())), Err(AccessError::Elsewhere));
    for config in [
        Config { rci_access: by_certificate(), ..net.static_config("third", &[]) },
        Config { files_access: by_certificate(), ..net.static_config("third", &[]) },
    ] {
        let reason = Node::new(config).expect_err("certificates need TLS");
        assert!(matches!(reason, NodeError::AccessPolicy(AccessError::NoTls)), "{reason}");
    }
}

#[test]
fn node_id_with_other_certificate_is_refused() {
    let test = AccessTest::new();
    let (actor, received) = open_listener(&test.server, test.guests_only.clone());
    assert_eq!(test.guest.deliver(actor, "first".into()), Ok(()));
    let claim = test.guest.handle.node_id();
    // The impostor has the secret, the certificate of the outsider, and the node id of the guest.
    let impostor = test.impostor(claim);
    let at = test.server.location;
    let reply = recv(&request(&impostor, move |cx| cx.peer(at, PATIENCE, |reply| reply)));
    assert_eq!(reply, Err(PeerError::Refused(Refusal::Certificate)));
    test.server.wait_for_counts("the refusal", |counts| counts.refusals.certificates >= 1);
    assert_eq!(test.guest.deliver(actor, "second".into()), Ok(()));
    assert_eq!([recv(&received), recv(&received)], ["first", "second"]);
    assert_eq!(test.server.counts().cut_with_unacked, 0);
    // Also without a session, the node id belongs to the certificate that it had.
    let statuses = test.server.statuses();
    test.guest.stop();
    recv_until(&statuses, |(name, status)| name == "guest" && *status == Status::Offline);
    let reply = recv(&request(&impostor, move |cx| cx.peer(at, PATIENCE, |reply| reply)));
    assert_eq!(reply, Err(PeerError::Refused(Refusal::Certificate)));
}

impl AccessTest {
    /// A member with the outsider's certificate and the given node id.
    fn impostor(&self, claim: NodeId) -> TestNode {
        let file = |name: &str| self.certs.path().join(name);
        TestNode::start(Config {
            certfile: Some(file("outsider.pem")),
            pinned: vec![file("server.crt")],
            scheduler: LoopConfig { node_id: Some(claim), ..LoopConfig::default() },
            ..self.net.static_config("guest", &[])
        })
    }
}

#[test]
fn access_by_shared_certificate_logs_one_warning() {
    let (net, certs) = (Net::new(), Certs::new());
    let [shared, own] = ["shared", "own"].map(|name| certs.node(name));
    let all = AccessPolicy::certificates([
        Fingerprint::of_file(&shared.cert).expect("the file holds a certificate")
    ]);
    let warning = "allows every peer";
    let config = |own: &Files| Config { certfile: Some(own.both.clone()), ..net.static_config("node", &[]) };
    let allow = |node: &TestNode, access: AccessPolicy| {
        let actor = node.spawn(|_: &mut Cx<()>, _| receive());
        assert_eq!(node.with(move |node| node.allow(actor, access)), Ok(()));
    };
    let node = TestNode::start(config(&shared));
    for access in [AccessPolicy::all(), AccessPolicy::none()] {
        allow(&node, access);
    }
    assert_eq!(node.log.lines(warning), [""; 0]);
    [all.clone(), all.clone()].into_iter().for_each(|access| allow(&node, access));
    assert_eq!(node.log.lines(warning).len(), 1, "{:?}", node.log.lines(""));
    // If each node has its own certificate, the policy distinguishes peers.
    let node = TestNode::start(Config { pinned: vec![shared.cert], ..config(&own) });
    allow(&node, all);
    assert_eq!(node.log.lines(warning), [""; 0]);
}
