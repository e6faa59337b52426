//! Limits of what one peer can use of a node, and the errors that a peer gets above them.

mod common;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};

use antiphon_dist::{
    CallError, Channel, Config, FileError, FileOptions, FileRefused, LocateError, NetCx, PeerLimits,
    Refusals, Stored, SubscribeError,
};
use antiphon_sched::{
    ActorId, Addr, AskError, Cx, DecodeError, EncodeError, Event, PayloadError, ReplyTo, Wire, millis,
    receive, stop,
};
use common::{Exit, Net, PATIENCE, TestNode, recv, report, wait_for};
use tempfile::TempDir;

/// A node with these limits, and a peer of it.
fn pair(net: &Net, peer_limits: PeerLimits) -> (TestNode, TestNode) {
    let strict = TestNode::start(Config { peer_limits, ..net.static_config("strict", &[]) });
    let peer = net.static_node("peer", &[strict.location]);
    peer.wait_for_peers(1);
    strict.wait_for_peers(1);
    (strict, peer)
}

fn refusals(node: &TestNode) -> Refusals {
    node.counts().refusals
}

/// Checks that the log has one line with this text, which names the peer.
#[track_caller]
fn assert_logged_once(node: &TestNode, text: &str) {
    let lines = node.log.lines(text);
    assert!(lines.len() == 1 && lines[0].contains("peer"), "{lines:?}");
}

/// Starts an actor that runs `act`. The first message that it receives arrives on the returned receiver.
fn ask<M: Send + 'static>(node: &TestNode, act: impl FnOnce(&mut Cx<'_, M>) + Send + 'static) -> Receiver<M> {
    let (sender, answers) = channel();
    let mut act = Some(act);
    node.spawn(move |cx: &mut Cx<M>, event| match event {
        Event::Message(answer) => {
            report(&sender, answer);
            stop()
        }
        _ => {
            if let Some(act) = act.take() {
                act(cx);
            }
            receive()
        }
    });
    answers
}

type Found = Result<Addr<String>, LocateError>;

#[test]
fn peer_over_lookup_limit_is_refused() {
    let (strict, peer) = pair(&Net::new(), PeerLimits { lookups_max: 3, ..PeerLimits::default() });
    let seek = |name| ask::<Found>(&peer, move |cx| cx.locate(name, PATIENCE, |found| found));
    let open = ["one", "two", "three"].map(seek);
    strict.wait_for_counts("three lookups", |counts| counts.lookups == 3);
    let at = strict.location;
    let at_node = ask::<Found>(&peer, move |cx| cx.locate_at("four", at, PATIENCE, |found| found));
    assert_eq!(recv(&at_node), Err(LocateError::Refused), "at once, because no other node is asked");
    let anywhere = ask::<Found>(&peer, |cx| cx.locate("four", millis(100), |found| found));
    assert_eq!(
        recv(&anywhere),
        Err(LocateError::Refused),
        "at the timeout, because other nodes might have the name"
    );
    assert_eq!(refusals(&strict).lookups, 2);
    assert_logged_once(&strict, "looks for more names");
    // A lookup that completes makes room for another.
    let _one = strict.listener::<String>("one");
    assert!(recv(&open[0]).is_ok());
    let _four = strict.listener::<String>("four");
    assert!(recv(&seek("four")).is_ok());
}

#[test]
fn peer_over_monitor_limit_is_refused() {
    let (strict, peer) = pair(&Net::new(), PeerLimits { monitors_max: 2, ..PeerLimits::default() });
    let _messages = strict.listener::<String>("watched");
    let watched: Addr<String> = peer.find("watched");
    let exits = [peer.monitor(watched), peer.monitor(watched)];
    strict.wait_for_counts("two monitors", |counts| counts.monitors == 2);
    for _ in 0..2 {
        assert_eq!(recv(&peer.monitor(watched)), Exit::Refused);
    }
    assert_eq!(refusals(&strict).monitors, 2);
    assert_eq!((strict.counts().monitors, peer.counts().monitors), (2, 2));
    assert_logged_once(&strict, "has reached its limit of monitors");
    peer.step(move |cx| cx.terminate(watched));
    assert_eq!([recv(&exits[0]), recv(&exits[1])], [Exit::Terminated, Exit::Terminated]);
}

#[test]
fn peer_over_request_limit_is_refused_until_answered() {
    let (strict, peer) = pair(&Net::new(), PeerLimits { requests_max: 2, ..PeerLimits::default() });
    // This actor keeps each `ReplyTo` until a `None` arrives. Then it replies to the last one and drops the others.
    let mut kept = Vec::new();
    let (ready, registered) = channel();
    strict.spawn(move |cx: &mut Cx<Option<ReplyTo<u64>>>, event| {
        match event {
            Event::Start => {
                cx.register("holder")?;
                report(&ready, ());
            }
            Event::Message(Some(reply)) => kept.push(reply),
            Event::Message(None) => {
                if let Some(reply) = kept.pop() {
                    cx.reply(reply, 7);
                }
                kept.clear();
            }
            _ => {}
        }
        receive()
    });
    recv(&registered);
    let holder: Addr<Option<ReplyTo<u64>>> = peer.find("holder");
    let request = || ask(&peer, move |cx| cx.ask(holder, PATIENCE, Some, |answer: Result<u64, _>| answer));
    for _ in 0..3 {
        let open = [request(), request()];
        // The requests arrive in order.
        assert_eq!([recv(&request()), recv(&request())], [Err(AskError::Busy), Err(AskError::Busy)]);
        assert_eq!(peer.deliver(holder, None), Ok(()), "a message without a request is accepted");
        let mut answers = open.map(|answer| recv(&answer));
        answers.sort_by_key(Result::is_err);
        assert_eq!(answers, [Ok(7), Err(AskError::Dropped)]);
    }
    assert_eq!(refusals(&strict).requests, 6);
    assert_logged_once(&strict, "has reached its limit of open requests");
}

fn subscribe(node: &TestNode, to: Channel<String>, actor: ActorId) -> Result<(), SubscribeError> {
    let actor: Addr<String> = Addr::of(actor);
    recv(&ask(node, move |cx| cx.subscribe_within(to, actor, PATIENCE, |done| done)))
}

/// A peer has a quota of subscriptions at each channel, and one at all channels of a node.
#[test]
fn peer_over_subscription_quota_is_refused() {
    let limits = PeerLimits { channel_subscriptions_max: 2, subscriptions_max: 3, ..PeerLimits::default() };
    let (strict, peer) = pair(&Net::new(), limits);
    let [first, second]: [Channel<String>; 2] = ["first", "second"]
        .map(|name| strict.with(move |node| node.channel(name)).expect("the name is free"));
    // The peer subscribes actors of the channel's own node. Each is a subscription of its own.
    let actors = ["a", "b", "c", "d"].map(|name| {
        let messages = strict.listener::<String>(name);
        (peer.find::<String>(name).id(), messages)
    });
    let [a, b, c, d] = [0, 1, 2, 3].map(|index: usize| actors[index].0);
    assert_eq!([a, b, a].map(|actor| subscribe(&peer, first, actor)), [Ok(()); 3], "`a` counts once");
    assert_eq!(subscribe(&peer, first, c), Err(SubscribeError::OverQuota));
    assert_eq!(subscribe(&peer, second, c), Ok(()));
    assert_eq!(
        subscribe(&peer, second, d),
        Err(SubscribeError::OverQuota),
        "the quota of all channels is three"
    );
    assert_eq!(subscribe(&strict, first, c), Ok(()), "the node of the channel has no quota");
    assert_eq!(refusals(&strict).subscriptions, 2);
    assert_logged_once(&strict, "has more subscribers");
    // A subscription that ends makes room: by `unsubscribe`, or when its channel is closed.
    peer.step(move |cx| cx.unsubscribe(first, Addr::<String>::of(a)));
    assert_eq!(subscribe(&peer, first, d), Ok(()));
    strict.step(move |cx| cx.close_channel(first));
    wait_for("room in the quota", || subscribe(&peer, second, d).ok());
}

fn send_file(from: &TestNode, to: &TestNode, file: &Path) -> Result<Stored, FileError> {
    let (at, file) = (to.location, file.to_owned());
    let results = ask(from, move |cx| {
        cx.send_file(at, file, FileOptions::default(), PATIENCE, |done| done);
    });
    recv(&results)
}

/// A folder to store files in, a folder with files to send, and the paths of these files, which have 60 bytes each.
fn folders() -> (TempDir, TempDir, [PathBuf; 3]) {
    let [dest, source] = [(); 2].map(|()| TempDir::new().expect("a temporary folder can be created"));
    let files = ["a", "b", "c"].map(|name| {
        let file = source.path().join(name);
        std::fs::write(&file, name.repeat(60)).expect("a temporary file can be written");
        file
    });
    (dest, source, files)
}

#[test]
fn peer_over_file_quota_is_refused() {
    let (net, (dest, _source, [a, b, c])) = (Net::new(), folders());
    let peer_limits = PeerLimits { file_bytes_max: Some(120), ..PeerLimits::default() };
    let config =
        Config { dest_path: Some(dest.path().to_owned()), peer_limits, ..net.static_config("strict", &[]) };
    let strict = TestNode::start(config);
    let peer = net.static_node("peer", &[strict.location]);
    peer.wait_for_peers(1);
    assert_eq!(send_file(&peer, &strict, &a), Ok(Stored::New));
    assert_eq!(send_file(&peer, &strict, &a), Ok(Stored::AlreadyThere), "no bytes were sent");
    assert_eq!(send_file(&peer, &strict, &b), Ok(Stored::New));
    let refused = Err(FileError::Refused(FileRefused::OverQuota { max: 120 }));
    assert_eq!(send_file(&peer, &strict, &c), refused);
    // A new incarnation at the same address has no new quota.
    let again = net.static_node("peer", &[strict.location]);
    assert_eq!(send_file(&again, &strict, &c), refused);
    assert_eq!(refusals(&strict).files, 2);
    assert_eq!(send_file(&strict, &strict, &c), Ok(Stored::New), "this node itself has no quota");
}

/// The limit of all bytes that peers store holds across restarts of the node.
#[test]
fn dest_limit_counts_files_across_restarts() {
    let (net, (dest, _source, [a, b, c])) = (Net::new(), folders());
    let start = || {
        let dest_path = Some(dest.path().to_owned());
        let strict = TestNode::start(Config {
            dest_path,
            dest_bytes_max: Some(120),
            ..net.static_config("strict", &[])
        });
        let peer = net.static_node("peer", &[strict.location]);
        peer.wait_for_peers(1);
        (strict, peer)
    };
    let (strict, peer) = start();
    assert_eq!(send_file(&peer, &strict, &a), Ok(Stored::New));
    drop((strict, peer));
    let (strict, peer) = start();
    assert_eq!(send_file(&peer, &strict, &b), Ok(Stored::New));
    let refused = Err(FileError::Refused(FileRefused::DestFull { max: 120 }));
    assert_eq!(send_file(&peer, &strict, &c), refused);
    assert_eq!(refusals(&strict).files, 1);
    assert_logged_once(&strict, "more of them than it may");
    // A file that another program moves makes room. The node is not notified.
    std::fs::rename(dest.path().join("a"), dest.path().join("mine")).expect("the file is stored");
    // The node counts the files again, though not at each refusal.
    wait_for("a new count of the files", || send_file(&peer, &strict, &c).is_ok().then_some(()));
    assert_eq!(send_file(&peer, &strict, &a), refused);
    let at = strict.location;
    assert_eq!(recv(&ask(&peer, move |cx| cx.del_file(at, "c", "", PATIENCE, |done| done))), Ok(()));
    assert_eq!(send_file(&peer, &strict, &a), Ok(Stored::New));
}

/// A forged call of an RCI, with a `ReplyTo` that belongs to another node.
struct ForgedCall(ReplyTo<SpawnReply>);

impl Wire for ForgedCall {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("antiphon.call<u64,str>")
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend([0x94, 0, 0xc0]);
        self.0.encode(out)?;
        1_u64.encode(out)
    }

    fn decode(_: &mut &[u8]) -> Result<Self, DecodeError> {
        Err(DecodeError::new("no actor of this test receives it"))
    }
}

/// The kind of the reply to a call: 0 if an actor was started, 1 if the caller is over its quota.
#[derive(Debug, PartialEq)]
struct SpawnReply(u8);

impl Wire for SpawnReply {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("antiphon.spawned<str>")
    }

    fn encode(&self, _: &mut Vec<u8>) -> Result<(), EncodeError> {
        Err(EncodeError::new("only the spawn service sends it"))
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        let kind = from.get(1).copied().ok_or_else(|| DecodeError::new("too short"))?;
        *from = &[];
        Ok(Self(kind))
    }
}

/// A call counts for the node that sends it, even if its `ReplyTo` belongs to another node.
#[test]
fn rci_quota_counts_sender_of_call() {
    let net = Net::new();
    let owner = TestNode::start(Config { rci_actors_max: 1, ..net.static_config("owner", &[]) });
    let [liar, other] = ["liar", "other"].map(|name| net.static_node(name, &[owner.location]));
    owner.wait_for_peers(2);
    let rci = owner.with(|node| node.rci("idle", |_: u64| |_cx: &mut Cx<String>, _| receive()));
    let rci = rci.expect("the name is free");
    // The liar receives a `ReplyTo` of the other node, and puts it into a call of its own.
    let forge: Addr<ForgedCall> = Addr::of(rci.id());
    let (ready, registered) = channel();
    liar.spawn(move |cx: &mut Cx<ReplyTo<SpawnReply>>, event| {
        match event {
            Event::Start => {
                cx.register("helpful")?;
                report(&ready, ());
            }
            Event::Message(reply) => cx.tell(forge, ForgedCall(reply)),
            _ => {}
        }
        receive()
    });
    recv(&registered);
    let at = liar.location;
    let connected = recv(&ask(&other, move |cx| cx.peer(at, PATIENCE, |answer| answer)));
    assert_eq!(connected, Ok(vec![at]));
    let helpful: Addr<ReplyTo<SpawnReply>> = other.find("helpful");
    let forged_call =
        || recv(&ask(&other, move |cx| cx.ask(helpful, PATIENCE, |reply| reply, |answer| answer)));
    assert_eq!(forged_call(), Ok(SpawnReply(0)), "the liar has one actor now");
    assert_eq!(forged_call(), Ok(SpawnReply(1)), "the liar is over its quota");
    let call = |node: &TestNode| recv(&ask(node, move |cx| cx.call(rci, 1, PATIENCE, |spawned| spawned)));
    assert!(call(&other).is_ok(), "the other node has its own quota");
    assert_eq!(call(&liar), Err(CallError::OverQuota { max: 1 }));
    assert_eq!(refusals(&owner).rci_actors, 2);
    let lines = owner.log.lines("more actors than it may");
    assert!(lines.len() == 1 && lines[0].contains("liar"), "{lines:?}");
}

/// A message that has the wire name of `u64`, and does not decode as one.
struct InvalidNumber;

impl Wire for InvalidNumber {
    fn name() -> Cow<'static, str> {
        u64::name()
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.push(0xc0);
        Ok(())
    }

    fn decode(_: &mut &[u8]) -> Result<Self, DecodeError> {
        Err(DecodeError::new("no actor of this test receives it"))
    }
}

#[test]
fn repeated_invalid_messages_are_logged_once() {
    let (strict, peer) = Net::new().pair();
    let _messages = strict.listener::<u64>("number");
    let number: Addr<u64> = peer.find("number");
    let number: Addr<InvalidNumber> = Addr::of(number.id());
    peer.step(move |cx| (0..100).for_each(|_| cx.tell(number, InvalidNumber)));
    strict.wait_for_counts("a hundred refusals", |counts| counts.refused_messages == 100);
    assert_eq!(strict.log.lines("a message from a peer was refused").len(), 1);
    peer.log.wait_for("a peer has refused");
    let lines = peer.log.lines("a peer has refused");
    assert!(lines.len() == 1 && lines[0].contains("cannot be decoded"), "{lines:?}");
}

#[test]
fn undecodable_reply_is_logged_at_both_nodes() {
    let (asker, replier) = Net::new().pair();
    replier.spawn(|cx: &mut Cx<ReplyTo<InvalidNumber>>, event| {
        if let Event::Start = event {
            cx.register("server").expect("the name is free");
        }
        if let Event::Message(reply) = event {
            cx.reply(reply, InvalidNumber);
        }
        receive()
    });
    let server: Addr<ReplyTo<u64>> = asker.find("server");
    for _ in 0..3 {
        let answer = asker.handle.ask(server, PATIENCE, |reply| reply);
        assert!(matches!(answer, Err(AskError::Reply(PayloadError::Decode(_)))), "{answer:?}");
    }
    assert_eq!(asker.log.lines("a reply from a peer was refused").len(), 1);
    replier.log.wait_for("a peer has refused");
    let lines = replier.log.lines("a peer has refused");
    assert!(lines.len() == 1 && lines[0].contains("cannot be decoded"), "{lines:?}");
}
