//! What one peer may have of a node, and that who goes over it is told so.

mod common;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};

use antiphon_dist::{
    CallError, Channel, Config, FileError, FileOptions, FileRefused, LocateError, NetCx, PeerLimits,
    Refusals, Stored, SubscribeError,
};
use antiphon_sched::{
    ActorId, Addr, AskError, Cx, DecodeError, EncodeError, Event, ReplyTo, Wire, millis, receive, stop,
};
use common::{End, Net, PATIENCE, TestNode, heard, tell_test, wait_for};
use tempfile::TempDir;

/// A node that admits little, and a peer of it.
fn pair(net: &Net, peer_limits: PeerLimits) -> (TestNode, TestNode) {
    let strict = TestNode::start(Config { peer_limits, ..net.quiet("strict", &[]) });
    let peer = net.quiet_node("peer", &[strict.location]);
    peer.wait_for_peers(1);
    strict.wait_for_peers(1);
    (strict, peer)
}

fn refusals(node: &TestNode) -> Refusals {
    node.counts().refusals
}

/// Whatever it does again and again, the log tells once of a peer.
fn is_logged_once(node: &TestNode, what: &str) {
    let lines = node.log.lines(what);
    assert!(lines.len() == 1 && lines[0].contains("peer"), "{lines:?}");
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

type Found = Result<Addr<String>, LocateError>;

#[test]
fn a_peer_that_looks_for_too_many_names_is_told_so() {
    let (strict, peer) = pair(&Net::new(), PeerLimits { lookups_max: 3, ..PeerLimits::default() });
    let seek = |name| ask::<Found>(&peer, move |cx| cx.locate(name, PATIENCE, |found| found));
    let open = ["one", "two", "three"].map(seek);
    strict.wait_for_counts("three questions", |counts| counts.lookups == 3);
    let at = strict.location;
    let there = ask::<Found>(&peer, move |cx| cx.locate_at("four", at, PATIENCE, |found| found));
    assert_eq!(heard(&there), Err(LocateError::Refused), "at once: nobody else was asked");
    let anywhere = ask::<Found>(&peer, |cx| cx.locate("four", millis(100), |found| found));
    assert_eq!(heard(&anywhere), Err(LocateError::Refused), "in the end: others might have had it");
    assert_eq!(refusals(&strict).lookups, 2);
    is_logged_once(&strict, "looks for more names");
    // One that is answered makes room for another.
    let _one = strict.listener::<String>("one");
    assert!(heard(&open[0]).is_ok());
    let _four = strict.listener::<String>("four");
    assert!(heard(&seek("four")).is_ok());
}

#[test]
fn a_peer_that_sets_too_many_monitors_is_told_so() {
    let (strict, peer) = pair(&Net::new(), PeerLimits { monitors_max: 2, ..PeerLimits::default() });
    let _told = strict.listener::<String>("watched");
    let watched: Addr<String> = peer.find("watched");
    let ends = [peer.watch(watched), peer.watch(watched)];
    strict.wait_for_counts("two monitors", |counts| counts.monitors == 2);
    for _ in 0..2 {
        assert_eq!(heard(&peer.watch(watched)), End::Refused);
    }
    assert_eq!(refusals(&strict).monitors, 2);
    assert_eq!((strict.counts().monitors, peer.counts().monitors), (2, 2));
    is_logged_once(&strict, "has reached its limit of monitors");
    peer.step(move |cx| cx.terminate(watched));
    assert_eq!([heard(&ends[0]), heard(&ends[1])], [End::Terminated, End::Terminated]);
}

#[test]
fn a_peer_with_too_many_open_requests_is_told_so_until_some_are_answered() {
    let (strict, peer) = pair(&Net::new(), PeerLimits { requests_max: 2, ..PeerLimits::default() });
    // Keeps replies until it has three and a `None`, by whichever way they are let go.
    let mut kept = Vec::new();
    let (ready, registered) = channel();
    strict.spawn(move |cx: &mut Cx<Option<ReplyTo<u64>>>, event| {
        match event {
            Event::Start => {
                cx.register("keeper")?;
                tell_test(&ready, ());
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
    heard(&registered);
    let keeper: Addr<Option<ReplyTo<u64>>> = peer.find("keeper");
    let question = || ask(&peer, move |cx| cx.ask(keeper, PATIENCE, Some, |answer: Result<u64, _>| answer));
    for _ in 0..3 {
        let open = [question(), question()];
        // They come in order.
        assert_eq!([heard(&question()), heard(&question())], [Err(AskError::Busy), Err(AskError::Busy)]);
        assert_eq!(peer.deliver(keeper, None), Ok(()), "what asks nothing is taken");
        let mut answers = open.map(|told| heard(&told));
        answers.sort_by_key(Result::is_err);
        assert_eq!(answers, [Ok(7), Err(AskError::Dropped)]);
    }
    assert_eq!(refusals(&strict).requests, 6);
    is_logged_once(&strict, "has reached its limit of open requests");
}

fn subscribe(node: &TestNode, to: Channel<String>, actor: ActorId) -> Result<(), SubscribeError> {
    let actor: Addr<String> = Addr::of(actor);
    heard(&ask(node, move |cx| cx.subscribe_within(to, actor, PATIENCE, |done| done)))
}

#[test]
fn a_peer_fills_only_its_share_of_a_channel_and_of_all() {
    let limits = PeerLimits { channel_subscriptions_max: 2, subscriptions_max: 3, ..PeerLimits::default() };
    let (strict, peer) = pair(&Net::new(), limits);
    let [first, second]: [Channel<String>; 2] =
        ["first", "second"].map(|name| strict.with(move |node| node.channel(name)).expect("it is free"));
    // It subscribes actors of the channel's own node: each costs an entry of its own.
    let whom = ["a", "b", "c", "d"].map(|name| {
        let told = strict.listener::<String>(name);
        (peer.find::<String>(name).id(), told)
    });
    let [a, b, c, d] = [0, 1, 2, 3].map(|place: usize| whom[place].0);
    assert_eq!([a, b, a].map(|actor| subscribe(&peer, first, actor)), [Ok(()); 3], "twice is once");
    assert_eq!(subscribe(&peer, first, c), Err(SubscribeError::OverQuota));
    assert_eq!(subscribe(&peer, second, c), Ok(()));
    assert_eq!(subscribe(&peer, second, d), Err(SubscribeError::OverQuota), "three of all channels");
    assert_eq!(subscribe(&strict, first, c), Ok(()), "its own node has no quota");
    assert_eq!(refusals(&strict).subscriptions, 2);
    is_logged_once(&strict, "has more subscribers");
    // What ends makes room: by an actor's end, or a channel's.
    peer.step(move |cx| cx.unsubscribe(first, Addr::<String>::of(a)));
    assert_eq!(subscribe(&peer, first, d), Ok(()));
    strict.step(move |cx| cx.close_channel(first));
    wait_for("room again", || subscribe(&peer, second, d).ok());
}

fn send_file(from: &TestNode, to: &TestNode, file: &Path) -> Result<Stored, FileError> {
    let (at, file) = (to.location, file.to_owned());
    let told = ask(from, move |cx| {
        cx.send_file(at, file, FileOptions::default(), PATIENCE, |done| done);
    });
    heard(&told)
}

/// A folder that takes files, and one with some of 60 bytes to send.
fn folders() -> (TempDir, TempDir, [PathBuf; 3]) {
    let [dest, source] = [(); 2].map(|()| TempDir::new().expect("a temporary folder can be made"));
    let files = ["a", "b", "c"].map(|name| {
        let file = source.path().join(name);
        std::fs::write(&file, name.repeat(60)).expect("a temporary file can be written");
        file
    });
    (dest, source, files)
}

#[test]
fn a_peer_sends_so_many_bytes_of_files_and_no_more() {
    let (net, (dest, _source, [a, b, c])) = (Net::new(), folders());
    let peer_limits = PeerLimits { file_bytes_max: Some(120), ..PeerLimits::default() };
    let config = Config { dest_path: Some(dest.path().to_owned()), peer_limits, ..net.quiet("strict", &[]) };
    let strict = TestNode::start(config);
    let peer = net.quiet_node("peer", &[strict.location]);
    peer.wait_for_peers(1);
    assert_eq!(send_file(&peer, &strict, &a), Ok(Stored::New));
    assert_eq!(send_file(&peer, &strict, &a), Ok(Stored::AlreadyThere), "nothing came");
    assert_eq!(send_file(&peer, &strict, &b), Ok(Stored::New));
    let refused = Err(FileError::Refused(FileRefused::OverQuota { max: 120 }));
    assert_eq!(send_file(&peer, &strict, &c), refused);
    // It is no use to be born again at the same address.
    let again = net.quiet_node("peer", &[strict.location]);
    assert_eq!(send_file(&again, &strict, &c), refused);
    assert_eq!(refusals(&strict).files, 2);
    assert_eq!(send_file(&strict, &strict, &c), Ok(Stored::New), "this node itself has no quota");
}

#[test]
fn all_files_of_peers_together_have_a_bound_that_outlives_the_node() {
    let (net, (dest, _source, [a, b, c])) = (Net::new(), folders());
    let start = || {
        let dest_path = Some(dest.path().to_owned());
        let strict =
            TestNode::start(Config { dest_path, dest_bytes_max: Some(120), ..net.quiet("strict", &[]) });
        let peer = net.quiet_node("peer", &[strict.location]);
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
    is_logged_once(&strict, "more of them than it may");
    // What somebody takes away makes room, without a word to the node.
    std::fs::rename(dest.path().join("a"), dest.path().join("mine")).expect("it is there");
    // It looks again, though not at each refusal.
    wait_for("another count", || send_file(&peer, &strict, &c).is_ok().then_some(()));
    assert_eq!(send_file(&peer, &strict, &a), refused);
    let at = strict.location;
    assert_eq!(heard(&ask(&peer, move |cx| cx.del_file(at, "c", "", PATIENCE, |done| done))), Ok(()));
    assert_eq!(send_file(&peer, &strict, &a), Ok(Stored::New));
}

/// A call of an RCI as somebody might write it who puts another's reply into it.
struct Forged(ReplyTo<Born>);

impl Wire for Forged {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("antiphon.call<u64,str>")
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend([0x94, 0, 0xc0]);
        self.0.encode(out)?;
        1_u64.encode(out)
    }

    fn decode(_: &mut &[u8]) -> Result<Self, DecodeError> {
        Err(DecodeError::new("nobody here takes it"))
    }
}

/// Which answer to a call it is: 0 for an actor, 1 for over quota.
#[derive(Debug, PartialEq)]
struct Born(u8);

impl Wire for Born {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("antiphon.born<str>")
    }

    fn encode(&self, _: &mut Vec<u8>) -> Result<(), EncodeError> {
        Err(EncodeError::new("it comes from elsewhere"))
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        let kind = from.get(1).copied().ok_or_else(|| DecodeError::new("too short"))?;
        *from = &[];
        Ok(Self(kind))
    }
}

#[test]
fn actors_are_charged_to_the_node_that_the_call_came_from_whoever_is_to_be_answered() {
    let net = Net::new();
    let there = TestNode::start(Config { rci_actors_max: 1, ..net.quiet("there", &[]) });
    let [liar, other] = ["liar", "other"].map(|name| net.quiet_node(name, &[there.location]));
    there.wait_for_peers(2);
    let rci = there.with(|node| node.rci("idle", |_: u64| |_cx: &mut Cx<String>, _| receive()));
    let rci = rci.expect("the name is free");
    // Another's reply comes into the liar's hands.
    let forge: Addr<Forged> = Addr::of(rci.id());
    let (ready, registered) = channel();
    liar.spawn(move |cx: &mut Cx<ReplyTo<Born>>, event| {
        match event {
            Event::Start => {
                cx.register("helpful")?;
                tell_test(&ready, ());
            }
            Event::Message(reply) => cx.tell(forge, Forged(reply)),
            _ => {}
        }
        receive()
    });
    heard(&registered);
    let at = liar.location;
    let introduced = heard(&ask(&other, move |cx| cx.peer(at, PATIENCE, |answer| answer)));
    assert_eq!(introduced, Ok(vec![at]));
    let helpful: Addr<ReplyTo<Born>> = other.find("helpful");
    let born = || heard(&ask(&other, move |cx| cx.ask(helpful, PATIENCE, |reply| reply, |born| born)));
    assert_eq!(born(), Ok(Born(0)), "the liar has one now");
    assert_eq!(born(), Ok(Born(1)), "and no more");
    let call = |node: &TestNode| heard(&ask(node, move |cx| cx.call(rci, 1, PATIENCE, |born| born)));
    assert!(call(&other).is_ok(), "it has its own still");
    assert_eq!(call(&liar), Err(CallError::OverQuota { max: 1 }));
    assert_eq!(refusals(&there).rci_actors, 2);
    let lines = there.log.lines("more actors than it may");
    assert!(lines.len() == 1 && lines[0].contains("liar"), "{lines:?}");
}

/// Says that it is a number.
struct Nonsense;

impl Wire for Nonsense {
    fn name() -> Cow<'static, str> {
        u64::name()
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.push(0xc0);
        Ok(())
    }

    fn decode(_: &mut &[u8]) -> Result<Self, DecodeError> {
        Err(DecodeError::new("nobody here takes it"))
    }
}

#[test]
fn what_a_peer_does_a_hundred_times_is_logged_once() {
    let (strict, peer) = Net::new().pair();
    let _told = strict.listener::<u64>("number");
    let number: Addr<u64> = peer.find("number");
    let nonsense: Addr<Nonsense> = Addr::of(number.id());
    peer.step(move |cx| (0..100).for_each(|_| cx.tell(nonsense, Nonsense)));
    strict.wait_for_counts("a hundred refusals", |counts| counts.refused_messages == 100);
    assert_eq!(strict.log.lines("does not decode").len(), 1);
}
