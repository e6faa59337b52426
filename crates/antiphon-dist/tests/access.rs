//! Actors, names, channels, RCIs and files that are open to some peers and closed to others.

mod common;

use std::sync::mpsc::{Receiver, channel};

use antiphon_dist::{
    AccessError, AccessPolicy, CallError, Channel, Config, DeliverError, FileError, FileOptions, Fingerprint,
    LocateError, Named, NetCx, Node, NodeError, PeerError, Rci, Refusal, Stored, SubscribeError,
};
use antiphon_sched::{
    Actor, Addr, Cx, Event, LoopConfig, NodeId, Undelivered, exit, receive, secs, stop, suspend,
};
use common::certs::{Certs, Files};
use common::{End, Net, PATIENCE, TestNode, heard, tell_test};

/// A node that serves, and two members: one that is let in, and one that is not.
struct Club {
    net: Net,
    certs: Certs,
    host: TestNode,
    guest: TestNode,
    outsider: TestNode,
    guests: AccessPolicy,
}

impl Club {
    fn new() -> Self {
        Self::with(|_, config| config)
    }

    fn with(change: impl FnOnce(&AccessPolicy, Config) -> Config) -> Self {
        let (net, certs) = (Net::new(), Certs::new());
        let [host, guest, outsider] = ["host", "guest", "outsider"].map(|name| certs.node(name));
        let guests = AccessPolicy::certificates([Fingerprint::of_file(&guest.both).expect("it holds one")]);
        let pinned = vec![host.cert.clone(), guest.cert.clone(), outsider.cert.clone()];
        let config = |name, own: &Files| Config {
            certfile: Some(own.both.clone()),
            pinned: pinned.clone(),
            ..net.quiet(name, &[])
        };
        let host = TestNode::start(change(&guests, config("host", &host)));
        let of_host = |name, own| Config { peers: vec![host.location.into()], ..config(name, own) };
        let guest = TestNode::start(of_host("guest", &guest));
        let outsider = TestNode::start(of_host("outsider", &outsider));
        host.wait_for_peers(2);
        guest.wait_for_peers(1);
        outsider.wait_for_peers(1);
        Self { net, certs, host, guest, outsider, guests }
    }

    /// Waits until the host has refused somebody so often because of an audience.
    fn wait_for_refusals(&self, count: u64) {
        self.host.wait_for_counts("refusals", |counts| counts.refusals.access >= count);
    }
}

/// Looks for a name; what came of it is told.
fn seek<T: Named + Send>(node: &TestNode, name: &'static str) -> Receiver<Result<T, LocateError>> {
    ask(node, move |cx| cx.locate(name, PATIENCE, |found| found))
}

/// Has an actor ask something; the answer is told.
fn ask<M: Send + 'static>(node: &TestNode, act: impl FnOnce(&mut Cx<'_, M>) + Send + 'static) -> Receiver<M> {
    let (tell, told) = channel();
    let mut act = Some(act);
    node.spawn(move |cx: &mut Cx<M>, event| match event {
        Event::Message(answer) => {
            tell_test(&tell, answer);
            stop()
        }
        _ => {
            if let Some(act) = act.take() {
                act(cx);
            }
            receive()
        }
    });
    told
}

/// An actor that is open to some only, and registered as "listener".
fn open_listener(node: &TestNode, access: AccessPolicy) -> (Addr<String>, Receiver<String>) {
    let (tell, told) = channel();
    let (ready, registered) = channel();
    let actor = node.spawn(move |cx: &mut Cx<String>, event| {
        match event {
            Event::Start => {
                // In this order: what is said in one step holds before anybody hears of it.
                cx.register("listener")?;
                let me = cx.addr();
                cx.allow(me, access.clone())?;
                tell_test(&ready, ());
            }
            Event::Message(text) => tell_test(&tell, text),
            Event::Thrown(thrown) => drop(thrown.take()),
            _ => {}
        }
        receive()
    });
    heard(&registered);
    // As any node may use it that knows the number, however it came to know it.
    (Addr::of(actor.id()), told)
}

const NOBODY: Result<(), DeliverError> = Err(DeliverError::Refused(Undelivered::NoActor));

#[test]
fn a_name_is_found_by_those_to_whom_its_actor_is_open_and_by_others_when_that_changes() {
    let club = Club::new();
    // Both ask before there is the name, and one again afterwards.
    let early = [&club.guest, &club.outsider].map(|node| seek::<Addr<String>>(node, "listener"));
    club.host.wait_for_counts("two questions", |counts| counts.lookups == 2);
    let (actor, _told) = open_listener(&club.host, club.guests.clone());
    assert_eq!(heard(&early[0]), Ok(actor));
    assert_eq!(heard(&seek(&club.guest, "listener")), Ok(actor));
    let late = seek::<Addr<String>>(&club.outsider, "listener");
    club.wait_for_refusals(2);
    assert!(early[1].try_recv().is_err() && late.try_recv().is_err(), "as if nobody had the name");
    assert_eq!(club.host.step(move |cx| cx.allow(actor, AccessPolicy::everybody())), Ok(()));
    assert_eq!([heard(&early[1]), heard(&late)], [Ok(actor), Ok(actor)]);
    let lines = club.host.log.lines("the access policy of an actor refuses a peer");
    assert!(lines.len() == 1 && lines[0].contains("outsider"), "{lines:?}");
}

#[test]
fn whatever_an_outsider_sends_to_a_guessed_address_reaches_nobody() {
    let club = Club::new();
    let (actor, told) = open_listener(&club.host, club.guests.clone());
    // The address reaches the outsider by another way than by its name: no search is needed to guess one.
    assert_eq!(club.outsider.deliver(actor, "let me in".into()), NOBODY);
    assert_eq!(heard(&club.outsider.watch(actor)), End::NoActor);
    club.outsider.step(move |cx| {
        cx.terminate(actor);
        cx.throw(actor, 1_u64);
        cx.resume(actor, 1_u64);
        drop(cx.send(actor, "and now?".into()));
    });
    club.wait_for_refusals(6);
    assert_eq!(club.guest.deliver(actor, "hello".into()), Ok(()));
    assert_eq!(heard(&told), "hello", "it lives, and heard nothing else");
    let counts = club.host.counts();
    assert_eq!(
        (counts.refusals.access, counts.refused_messages),
        (6, 5),
        "a monitor is answered: it is no message"
    );

    // Nobody but this node.
    assert_eq!(club.host.step(move |cx| cx.allow(actor, AccessPolicy::nobody())), Ok(()));
    assert_eq!(club.guest.deliver(actor, "again".into()), NOBODY);
    assert_eq!(club.host.deliver(actor, "at home".into()), Ok(()));
    assert_eq!(heard(&told), "at home");
    // It is forgotten with the actor, and its end is told to who watches it from here.
    let end = club.host.watch(actor);
    club.host.step(move |cx| cx.terminate(actor));
    assert_eq!(heard(&end), End::Terminated);
    assert_eq!(club.host.step(move |cx| cx.allow(actor, AccessPolicy::everybody())), Err(AccessError::Ended));
}

#[test]
fn further_addresses_of_an_actor_are_closed_with_it() {
    let club = Club::new();
    let (tell, told) = channel();
    let guests = club.guests.clone();
    club.host.spawn(move |cx: &mut Cx<u64>, event| {
        match event {
            Event::Start => {
                let adapter: Addr<String> = cx.adapter(|text: String| text.len() as u64);
                cx.allow(adapter, guests.clone())?;
                let me = cx.addr();
                cx.register("number")?;
                // It leaves this node only so.
                assert!(cx.loop_ref().expose(adapter));
                tell_test(&tell, Ok((Addr::<u64>::of(me.id()), Addr::<String>::of(adapter.id()))));
            }
            Event::Message(number) => tell_test(&tell, Err(number)),
            _ => {}
        }
        receive()
    });
    let Ok((me, adapter)) = heard(&told) else { panic!("the addresses come first") };
    assert_eq!(club.outsider.deliver(adapter, "four".into()), NOBODY);
    assert_eq!(club.outsider.deliver(me, 4), NOBODY);
    assert_eq!(club.guest.deliver(adapter, "four".into()), Ok(()));
    assert_eq!(club.guest.deliver(me, 5), Ok(()));
    assert_eq!([heard(&told).err(), heard(&told).err()], [Some(4), Some(5)]);
}

#[test]
fn a_channel_is_open_to_some_only() {
    let club = Club::new();
    let news: Channel<String> = club.host.with(|node| node.channel("news")).expect("the name is free");
    let guests = club.guests.clone();
    assert_eq!(club.host.with(move |node| node.allow(news, guests)), Ok(()));
    assert_eq!(heard(&seek(&club.guest, "news")), Ok(news));

    let [(guest, told), (outsider, _)] = [&club.guest, &club.outsider].map(|node| {
        let (tell, told) = channel();
        let actor = node.spawn(move |_cx: &mut Cx<String>, event| {
            if let Event::Message(text) = event {
                tell_test(&tell, text);
            }
            receive()
        });
        (actor, told)
    });
    let subscribe = |node: &TestNode, actor| {
        heard(&ask(node, move |cx| cx.subscribe_within(news, actor, PATIENCE, |done| done)))
    };
    assert_eq!(subscribe(&club.guest, guest), Ok(()));
    assert_eq!(subscribe(&club.outsider, outsider), Err(SubscribeError::NoChannel));
    let deliver = |node: &TestNode| {
        heard(&ask(node, move |cx| cx.deliver_all(news, "hello".into(), 0, PATIENCE, |count| count)))
    };
    assert_eq!(deliver(&club.outsider), Err(DeliverError::Refused(Undelivered::NoActor)));
    assert_eq!(deliver(&club.guest), Ok(1));
    assert_eq!(heard(&told), "hello");
    assert!(told.try_recv().is_err(), "nothing else was passed on");
}

/// Ends with the text that it hears.
fn echo(_: u64) -> impl Actor<String> {
    antiphon_sched::actor(|_cx, event| match event {
        Event::Message(text) => exit(text),
        _ => receive(),
    })
}

fn call(node: &TestNode, rci: Rci<u64, String>) -> Result<Addr<String>, CallError> {
    heard(&ask(node, move |cx| cx.call(rci, 1, PATIENCE, |born| born)))
}

#[test]
fn an_rci_is_open_to_one_certificate_and_so_are_the_actors_that_it_starts() {
    let club = Club::new();
    let rci = club.host.with(|node| node.rci_actor("echo", echo)).expect("the name is free");
    let guests = club.guests.clone();
    assert_eq!(club.host.with(move |node| node.allow(rci, guests)), Ok(()));
    assert_eq!(heard(&seek(&club.guest, "echo")), Ok(rci));
    let asked = seek::<Rci<u64, String>>(&club.outsider, "echo");
    club.wait_for_refusals(1);
    assert!(asked.try_recv().is_err(), "nobody has told it the name");
    assert_eq!(call(&club.outsider, rci), Err(CallError::NotRegistered));
    let born = call(&club.guest, rci).expect("it is open to this one");
    assert_eq!(club.outsider.deliver(born, "steal".into()), NOBODY);
    let end = club.guest.watch(born);
    assert_eq!(club.guest.deliver(born, "mine".into()), Ok(()));
    assert_eq!(heard(&end), End::Value("mine".into()));
}

#[test]
fn the_configuration_says_who_may_call_what_says_nothing_else() {
    let club = Club::with(|guests, config| Config { rci_access: guests.clone(), ..config });
    let rci = club.host.with(|node| node.rci_actor("echo", echo)).expect("the name is free");
    assert!(call(&club.guest, rci).is_ok());
    assert_eq!(call(&club.outsider, rci), Err(CallError::NotRegistered));
    assert_eq!(club.host.with(move |node| node.allow(rci, AccessPolicy::everybody())), Ok(()));
    let born = call(&club.outsider, rci).expect("it is open to all");
    assert_eq!(club.guest.deliver(born, "to all".into()), Ok(()), "and so is what it starts");
}

#[test]
fn files_are_taken_from_some_only() {
    let dest = tempfile::TempDir::new().expect("a temporary folder can be made");
    let path = dest.path().to_owned();
    let club = Club::with(move |guests, config| Config {
        files_access: guests.clone(),
        dest_path: Some(path),
        ..config
    });
    let file = club.certs.write("report.txt", "all is well");
    let send = |node: &TestNode| {
        let (at, file) = (club.host.location, file.clone());
        ask(node, move |cx| {
            cx.send_file(at, file, FileOptions::default(), secs(20), |done| done);
        })
    };
    let refused: Receiver<Result<Stored, FileError>> = send(&club.outsider);
    club.wait_for_refusals(1);
    assert_eq!(heard(&send(&club.guest)), Ok(Stored::New));
    assert!(refused.try_recv().is_err());
    assert_eq!(std::fs::read_to_string(dest.path().join("report.txt")).ok().as_deref(), Some("all is well"));
}

#[test]
fn without_tls_an_audience_is_by_names() {
    let net = Net::new();
    let (first, second) = net.pair();
    let third = net.quiet_node("third", &[first.location]);
    third.wait_for_peers(1);
    let (actor, told) = open_listener(&first, AccessPolicy::names(["second"]));
    assert_eq!(heard(&seek(&second, "listener")), Ok(actor));
    assert_eq!(second.deliver(actor, "by name".into()), Ok(()));
    assert_eq!(heard(&told), "by name");
    assert_eq!(third.deliver(actor, "by no name".into()), NOBODY);
    // A member calls itself what it likes.
    let liar = net.quiet_node("second", &[first.location]);
    liar.wait_for_peers(1);
    assert_eq!(liar.deliver(actor, "by another's name".into()), Ok(()));
}

#[test]
fn what_waits_for_a_full_mailbox_is_not_let_in_once_its_actor_is_closed_to_the_sender() {
    let net = Net::new();
    let scheduler = LoopConfig { mailbox_max: 4, ..LoopConfig::default() };
    let first = TestNode::start(Config { scheduler, ..net.quiet("first", &[]) });
    let second = net.quiet_node("second", &[first.location]);
    second.wait_for_peers(1);
    let (tell, told) = channel();
    let (ready, registered) = channel();
    let mut woken = false;
    // Takes nothing until it is woken.
    let actor = first.spawn(move |cx: &mut Cx<String>, event| {
        match event {
            Event::Start => {
                cx.register("sleeper")?;
                tell_test(&ready, ());
            }
            Event::Message(text) => tell_test(&tell, text),
            Event::Resumed(_) => woken = true,
            _ => {}
        }
        if woken { receive() } else { suspend() }
    });
    heard(&registered);
    let actor: Addr<String> = Addr::of(actor.id());
    assert_eq!(heard(&seek(&second, "sleeper")), Ok(actor));
    let mut receipts: Vec<_> = (0..10).map(|n| second.delivering(actor, n.to_string(), PATIENCE)).collect();
    let waiting = receipts.split_off(4);
    // They come in the order in which their actors were started.
    assert_eq!(receipts.iter().map(heard).collect::<Vec<_>>(), vec![Ok(()); 4]);
    first.wait_for_counts("six that wait", |counts| counts.backlog_bytes >= 6 * 64);
    assert_eq!(first.step(move |cx| cx.allow(actor, AccessPolicy::nobody())), Ok(()));
    first.step(move |cx| cx.resume(actor, 1_u64));
    assert_eq!(waiting.iter().map(heard).collect::<Vec<_>>(), vec![NOBODY; 6]);
    assert_eq!((0..4).map(|_| heard(&told)).collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    assert!(told.try_recv().is_err());
}

#[test]
fn an_audience_that_cannot_be_meant_is_refused() {
    let net = Net::new();
    let (first, second) = net.pair();
    let (actor, _told) = open_listener(&first, AccessPolicy::everybody());
    let somebody = || AccessPolicy::certificates([Fingerprint::from_bytes([7; 32])]);
    assert_eq!(first.step(move |cx| cx.allow(actor, somebody())), Err(AccessError::NoTls));
    assert_eq!(second.step(move |cx| cx.allow(actor, AccessPolicy::nobody())), Err(AccessError::Elsewhere));
    for config in [
        Config { rci_access: somebody(), ..net.quiet("third", &[]) },
        Config { files_access: somebody(), ..net.quiet("third", &[]) },
    ] {
        let reason = Node::new(config).expect_err("nobody could come");
        assert!(matches!(reason, NodeError::AccessPolicy(AccessError::NoTls)), "{reason}");
    }
}

#[test]
fn a_member_that_says_it_is_a_node_known_by_another_certificate_is_refused_and_nobody_notices() {
    let club = Club::new();
    let (actor, told) = open_listener(&club.host, club.guests.clone());
    assert_eq!(club.guest.deliver(actor, "first".into()), Ok(()));
    let claim = club.guest.handle.node_id();
    // It has the certificate of the outsider, the secret, and the number of the guest.
    let liar = club.liar(claim);
    let at = club.host.location;
    let answer = heard(&ask(&liar, move |cx| cx.peer(at, PATIENCE, |answer| answer)));
    assert_eq!(answer, Err(PeerError::Refused(Refusal::Certificate)));
    club.host.wait_for_counts("the refusal", |counts| counts.refusals.certificates >= 1);
    assert_eq!(club.guest.deliver(actor, "second".into()), Ok(()));
    assert_eq!([heard(&told), heard(&told)], ["first", "second"]);
    assert_eq!(club.host.counts().cut_with_unacked, 0);
}

impl Club {
    /// A member that has the outsider's certificate, and another's number.
    fn liar(&self, claim: NodeId) -> TestNode {
        let file = |name: &str| self.certs.path().join(name);
        TestNode::start(Config {
            certfile: Some(file("outsider.pem")),
            pinned: vec![file("host.crt")],
            scheduler: LoopConfig { node_id: Some(claim), ..LoopConfig::default() },
            ..self.net.quiet("guest", &[])
        })
    }
}

#[test]
fn an_audience_by_the_certificate_that_all_share_is_told_of_once() {
    let (net, certs) = (Net::new(), Certs::new());
    let [shared, own] = ["shared", "own"].map(|name| certs.node(name));
    let all = AccessPolicy::certificates([Fingerprint::of_file(&shared.cert).expect("it holds one")]);
    let words = "allows every peer";
    let config = |own: &Files| Config { certfile: Some(own.both.clone()), ..net.quiet("node", &[]) };
    let allow = |node: &TestNode, access: AccessPolicy| {
        let actor = node.spawn(|_: &mut Cx<()>, _| receive());
        assert_eq!(node.with(move |node| node.allow(actor, access)), Ok(()));
    };
    let node = TestNode::start(config(&shared));
    for access in [AccessPolicy::everybody(), AccessPolicy::nobody()] {
        allow(&node, access);
    }
    assert_eq!(node.log.lines(words), [""; 0]);
    [all.clone(), all.clone()].into_iter().for_each(|access| allow(&node, access));
    assert_eq!(node.log.lines(words).len(), 1, "{:?}", node.log.lines(""));
    // Where each has its own, it names some.
    let node = TestNode::start(Config { pinned: vec![shared.cert], ..config(&own) });
    allow(&node, all);
    assert_eq!(node.log.lines(words), [""; 0]);
}
