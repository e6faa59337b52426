//! A member that knows the secret, and says to hidden actors what it likes: others keep their channels, functions and
//! places, and nobody is spoken for.

mod common;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use antiphon_dist::{Channel, Config, DeliverError, FileOptions, FileRefused, FileStat, NetCx, Stored};
use antiphon_sched::{
    ActorId, Addr, Bytes, Cx, DecodeError, EncodeError, Event, Key, NodeId, ReplyTo, Wire, millis, receive,
    secs, stop,
};
use common::{End, Net, PATIENCE, TestNode, heard, tell_test, wait_for};
use serde::{Deserialize, Serialize};

/// Bytes under the name of another type.
macro_rules! forged {
    ($type:ident, $name:literal) => {
        struct $type(Vec<u8>);

        impl Wire for $type {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed($name)
            }

            fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
                out.extend_from_slice(&self.0);
                Ok(())
            }

            fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
                Ok(Self(std::mem::take(from).to_vec()))
            }
        }
    };
}

forged!(ToHub, "antiphon.channel<str>");
forged!(ToFactory, "antiphon.call<u64,str>");

/// An actor's id as it is written.
type Bits = (u64, u64);

fn bits(id: ActorId) -> Bits {
    (id.node().to_bits(), id.key().to_bits())
}

fn packed(value: impl Wire) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.encode(&mut bytes).expect("it has an encoding");
    bytes
}

/// An address of whatever type.
fn believed<M: Wire>(id: ActorId) -> Addr<M> {
    Addr::decode_all(&packed(bits(id))).expect("an address")
}

/// Actors that a node is likely to have.
fn guesses(node: NodeId) -> impl Iterator<Item = ActorId> + Clone {
    let keys = (0..4_u64).flat_map(|generation| (0..100_u64).map(move |index| generation << 28 | index));
    keys.map(move |bits| ActorId::new(node, Key::from_bits(bits)))
}

/// Three nodes that know each other: one that has things, one that uses them, and one that is hostile.
struct Cast {
    there: TestNode,
    here: TestNode,
    hostile: TestNode,
}

impl Cast {
    fn new() -> Self {
        Self::with(|config| config)
    }

    fn with(adjust: impl FnOnce(Config) -> Config) -> Self {
        let net = Net::new();
        let there = TestNode::start(adjust(net.quiet("there", &[])));
        let here = net.quiet_node("here", &[there.location]);
        let hostile = net.quiet_node("hostile", &[there.location, here.location]);
        [&there, &here, &hostile].iter().for_each(|node| node.wait_for_peers(2));
        Self { there, here, hostile }
    }

    /// Sends forged messages, and waits until they are in the mailboxes of a node.
    fn forge<M: Wire + Send>(&self, to: &TestNode, messages: Vec<(Addr<M>, M)>) {
        self.hostile.step(move |cx| messages.into_iter().for_each(|(to, message)| cx.tell(to, message)));
        self.wait_behind(to);
    }

    /// Waits until what the hostile node has sent is there.
    fn wait_behind(&self, node: &TestNode) {
        let behind = self.behind(node);
        self.wait_until_heard(behind);
    }

    /// An actor that ends once it hears from the hostile node, which has found it.
    fn behind(&self, node: &TestNode) -> Addr<String> {
        let told = node.spawn(|cx: &mut Cx<String>, event| {
            if matches!(event, Event::Start) {
                cx.register("behind")?;
            }
            if matches!(event, Event::Message(_)) { stop() } else { receive() }
        });
        wait_for("the right one", || {
            Some(self.hostile.find::<String>("behind")).filter(|found| found.id() == told.id())
        })
    }

    fn wait_until_heard(&self, behind: Addr<String>) {
        assert_eq!(self.hostile.deliver(behind, String::new()), Ok(()));
    }
}

fn open(node: &TestNode) -> Channel<String> {
    node.with(|node| node.channel("news")).expect("the name is free")
}

fn subscriber(node: &TestNode, channel: Channel<String>) -> Receiver<Result<String, End>> {
    let (tell, told) = std::sync::mpsc::channel();
    let (tell_done, done) = std::sync::mpsc::channel();
    let actor = node.spawn(move |_cx, event| {
        match event {
            Event::Message(text) => tell_test(&tell, Ok(text)),
            Event::Down(down) => tell_test(&tell, Err(End::of(down))),
            _ => {}
        }
        receive()
    });
    node.spawn(move |cx, event| match event {
        Event::Start => {
            cx.subscribe_within(channel, actor, PATIENCE, |answer| answer);
            receive()
        }
        Event::Message(answer) => {
            tell_test(&tell_done, answer);
            stop()
        }
        _ => receive(),
    });
    assert_eq!(heard(&done), Ok(()));
    told
}

fn delivering(
    node: &TestNode,
    to: Channel<String>,
    (text, n): (String, usize),
    timeout: Duration,
) -> Receiver<Result<usize, DeliverError>> {
    let (tell, told) = channel();
    node.spawn(move |cx, event| match event {
        Event::Start => {
            cx.deliver_all(to, text.clone(), n, timeout, |answer| answer);
            receive()
        }
        Event::Message(answer) => {
            tell_test(&tell, answer);
            stop()
        }
        _ => receive(),
    });
    told
}

/// Nobody's request.
const NO_REPLY: Option<Bits> = None;

#[test]
fn nobody_speaks_to_a_channel_for_another_node_nor_to_its_relay_for_the_channel() {
    let cast = Cast::new();
    let channel = open(&cast.there);
    let told = [subscriber(&cast.here, channel), subscriber(&cast.there, channel)];
    let (here, hostile) = (cast.here.step(|cx| cx.id().node()), cast.hostile.step(|cx| cx.id().node()));
    let hub = believed(channel.id());
    let to_hub = guesses(here).chain(guesses(channel.node())).flat_map(|actor| {
        let (actor, branch) = (packed((4_u8, bits(actor))), packed((5_u8, bits(actor), 1000_u64)));
        [(hub, ToHub(actor)), (hub, ToHub(branch))]
    });
    let stranger = (hostile.to_bits(), 7_u64);
    let to_relay = guesses(here).flat_map(|relay| {
        let forged = [
            packed((0_u8, 0_u8, "forged".to_owned())),
            packed((1_u8, (0_u64, 1000_u64, 0_u8), stranger, "forged".to_owned())),
            // Whoever is above a relay takes it along when it ends; this one does not even live.
            packed((6_u8, stranger, vec![stranger], NO_REPLY)),
            packed((4_u8, stranger)),
        ];
        forged.map(|bytes| (believed(relay), ToHub(bytes)))
    });
    cast.forge(&cast.there, to_hub.collect());
    cast.forge(&cast.here, to_relay.collect());
    let few = delivering(&cast.there, channel, ("few".to_owned(), 50), millis(50));
    assert_eq!(heard(&few), Err(DeliverError::TooFew { subscribers: 2 }));
    let sent = delivering(&cast.hostile, channel, ("genuine".to_owned(), 2), PATIENCE);
    assert_eq!(heard(&sent), Ok(2));
    for told in told {
        assert_eq!(heard(&told), Ok("genuine".to_owned()));
    }
}

#[test]
fn the_deliveries_of_one_member_leave_room_for_those_of_the_channels_own_node() {
    let cast = Cast::new();
    let channel = open(&cast.there);
    let hub = believed(channel.id());
    // A branch that never answers.
    let sink = cast.hostile.listener::<ToHub>("sink");
    let branch: Addr<ToHub> = cast.hostile.find("sink");
    cast.forge(&cast.there, vec![(hub, ToHub(packed((3_u8, bits(branch.id()), true, NO_REPLY))))]);
    for n in [9_u64, 0] {
        // The requests are of many nodes, by the word of one.
        let order = |of: u64| packed((1_u8, (n, 3_600_000_u64, 0_u8), (1000 + of, of), "much".to_owned()));
        cast.forge(&cast.there, (0..1100).map(|of| (hub, ToHub(order(of)))).collect());
    }
    let own = delivering(&cast.there, channel, ("own".to_owned(), 1), secs(4));
    let told = subscriber(&cast.there, channel);
    assert_eq!(heard(&own), Ok(1));
    assert_eq!(heard(&told), Ok("own".to_owned()));
    drop(sink);
}

#[test]
fn what_a_peer_has_waiting_for_subscribers_is_bounded_in_bytes() {
    let (there, here) = Net::new().pair();
    let channel = open(&there);
    let told: Vec<_> =
        (0..10).map(|_| delivering(&here, channel, ("x".repeat(1 << 20), 1), PATIENCE)).collect();
    let (tell, refused) = std::sync::mpsc::channel();
    let threads: Vec<_> = told
        .into_iter()
        .map(|told| {
            let tell = tell.clone();
            std::thread::spawn(move || tell_test(&tell, heard(&told)))
        })
        .collect();
    for _ in 0..7 {
        assert_eq!(heard(&refused), Err(DeliverError::TooManyDeliveries));
    }
    let _one = subscriber(&there, channel);
    for _ in 0..3 {
        assert_eq!(heard(&refused), Ok(1));
    }
    threads.into_iter().for_each(|thread| thread.join().expect("it was told"));
}

#[test]
fn channels_are_joined_by_the_nodes_of_either_and_by_nobody_else() {
    let cast = Cast::new();
    let above = open(&cast.there);
    let below: Channel<String> = cast.there.with(|node| node.channel("below")).expect("the name is free");
    let (tell, told) = channel();
    cast.hostile.spawn(move |cx, event| match event {
        Event::Start => {
            cx.subscribe_within(above, below, PATIENCE, |answer| answer);
            receive()
        }
        Event::Message(answer) => {
            tell_test(&tell, answer);
            stop()
        }
        _ => receive(),
    });
    assert_eq!(heard(&told), Err(antiphon_dist::SubscribeError::NotYours));
}

#[test]
fn whoever_others_have_subscribed_is_subscribed_anew_by_its_own_node() {
    let cast = Cast::new();
    let channel = open(&cast.there);
    let hub: Addr<ToHub> = believed(channel.id());
    let subscribe = |actor| ToHub(packed((2_u8, bits(actor), NO_REPLY)));
    let listens = cast.here.listener::<String>("actor");
    let relays = cast.here.listener::<ToHub>("branch");
    let actor = cast.hostile.find::<String>("actor").id();
    let branch = cast.hostile.find::<ToHub>("branch").id();
    cast.forge(&cast.there, vec![(hub, subscribe(actor)), (hub, subscribe(branch))]);
    // Now those nodes themselves: the one as what it is, the other as a relay.
    let attach = ToHub(packed((3_u8, bits(branch), true, NO_REPLY)));
    let own = vec![(hub, subscribe(actor)), (hub, attach)];
    cast.here.step(move |cx| own.into_iter().for_each(|(to, message)| cx.tell(to, message)));
    wait_for("a branch", || {
        let (tell, told) = (ToHub(packed((5_u8, bits(branch), 7_u64))), channel);
        cast.here.step(move |cx| cx.tell(hub, tell));
        let sent = delivering(&cast.there, told, ("few".to_owned(), 50), millis(1));
        (heard(&sent) == Err(DeliverError::TooFew { subscribers: 1 + 7 })).then_some(())
    });
    // Who brought them first has no say any more.
    let over = [actor, branch].map(|actor| (hub, ToHub(packed((4_u8, bits(actor))))));
    cast.forge(&cast.there, over.into());
    cast.there.step(move |cx| drop(cx.send(channel, "news".to_owned())));
    assert_eq!(heard(&listens), "news");
    let ToHub(passed_on) = heard(&relays);
    assert_eq!(passed_on, packed((0_u8, 1_u8, "news".to_owned())), "it comes as to a relay");
}

#[test]
fn what_a_member_claims_to_be_above_a_channel_keeps_no_actor_from_subscribing() {
    let cast = Cast::new();
    let channel = open(&cast.there);
    let hub: Addr<ToHub> = believed(channel.id());
    let _above = cast.hostile.listener::<ToHub>("above");
    let above = bits(cast.hostile.find::<ToHub>("above").id());
    let claimed: Vec<Bits> = (0..64).map(|n| (above.0, 1000 + n)).collect();
    cast.forge(&cast.there, vec![(hub, ToHub(packed((6_u8, above, claimed, NO_REPLY))))]);
    let told = [subscriber(&cast.here, channel), subscriber(&cast.there, channel)];
    let sent = delivering(&cast.here, channel, ("news".to_owned(), 2), PATIENCE);
    assert_eq!(heard(&sent), Ok(2));
    told.iter().for_each(|told| assert_eq!(heard(told), Ok("news".to_owned())));
    // A channel is kept from it: nobody knows what is above.
    let (tell, refused) = std::sync::mpsc::channel();
    let below: Channel<String> = cast.here.with(|node| node.channel("below")).expect("the name is free");
    cast.here.spawn(move |cx, event| match event {
        Event::Start => {
            cx.subscribe_within(channel, below, PATIENCE, |answer| answer);
            receive()
        }
        Event::Message(answer) => {
            tell_test(&tell, answer);
            stop()
        }
        _ => receive(),
    });
    assert_eq!(heard(&refused), Err(antiphon_dist::SubscribeError::TooMany));
}

#[test]
fn a_member_has_its_share_of_an_rci_whomever_its_calls_name_and_names_no_private_actor() {
    let cast = Cast::with(|config| Config { rci_actors_max: 2, ..config });
    let born = Arc::new(AtomicUsize::new(0));
    let count = born.clone();
    let rci = cast.there.with(move |node| {
        node.rci("start", move |lives: u64| {
            count.fetch_add(1, Ordering::Relaxed);
            move |_cx: &mut Cx<String>, _event| if lives == 0 { stop() } else { receive() }
        })
    });
    let rci = rci.expect("the name is free");
    let factory = believed(rci.id());
    let (tell, downs) = channel();
    let private = cast.there.spawn(move |_cx: &mut Cx<()>, event| {
        if let Event::Down(down) = event {
            tell_test(&tell, down.actor);
        }
        receive()
    });
    // Those that end at once make room for others: so the private one is named by one that lives for no time.
    let watched = packed((0_u8, bits(private.id()), (77_u64, 1_u64), 0_u64));
    cast.forge(&cast.there, vec![(factory, ToFactory(watched))]);
    wait_for("the first", || (born.load(Ordering::Relaxed) == 1).then_some(()));
    let call = |of: u64| ToFactory(packed((0_u8, (), (1000 + of, of), 1_u64)));
    cast.forge(&cast.there, (0..100).map(|of| (factory, call(of))).collect());
    let (tell, told) = channel();
    cast.here.spawn(move |cx, event| match event {
        Event::Start => {
            cx.call(rci, 1, PATIENCE, |born| born);
            receive()
        }
        Event::Message(born) => {
            tell_test(&tell, born.is_ok());
            receive()
        }
        _ => receive(),
    });
    assert!(heard(&told), "others have their own");
    let born = born.load(Ordering::Relaxed);
    assert!((3..=4).contains(&born), "{born} were started");
    assert!(downs.try_recv().is_err(), "nobody outside knows it");
}

#[test]
fn hidden_actors_are_not_ended_from_elsewhere() {
    let dest = tempfile::tempdir().expect("a folder");
    let cast = Cast::with(|config| Config { dest_path: Some(dest.path().to_owned()), ..config });
    let rci = cast.there.with(|node| node.rci("start", |_: u64| |_cx: &mut Cx<String>, _event| receive()));
    let rci = rci.expect("the name is free");
    let told = cast.there.watch(rci.id());
    let node = rci.node();
    // It has a name, so it may be ended: by a guess that arrives after it began, too.
    let behind = cast.behind(&cast.there);
    cast.hostile.step(move |cx| {
        for actor in guesses(node).filter(|actor| *actor != behind.id()) {
            cx.terminate(actor);
            cx.throw(actor, "away".to_owned());
        }
    });
    cast.wait_until_heard(behind);
    assert_eq!(send(&cast.here, &cast.there, "after"), Ok(Stored::New));
    assert!(told.try_recv().is_err());
}

fn send(from: &TestNode, to: &TestNode, name: &'static str) -> Result<Stored, antiphon_dist::FileError> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join(name);
    std::fs::write(&file, name).expect("it is ours");
    let (tell, told) = channel();
    let at = to.location;
    from.spawn(move |cx, event| match event {
        Event::Start => {
            cx.send_file(at, &file, FileOptions::default(), PATIENCE, |done| done);
            receive()
        }
        Event::Message(done) => {
            tell_test(&tell, done);
            stop()
        }
        _ => receive(),
    });
    heard(&told)
}

#[test]
fn the_ends_that_a_member_wants_an_actor_told_of_leave_it_requests_of_its_own() {
    let cast = Cast::new();
    let (tell, told) = channel();
    cast.there.spawn(move |cx: &mut Cx<String>, event| {
        match event {
            Event::Start => cx.register("victim")?,
            // One that has no request left is ended by it.
            Event::Message(text) => {
                cx.after(secs(600), String::new());
                tell_test(&tell, text);
            }
            _ => {}
        }
        receive()
    });
    let victim: Addr<String> = cast.hostile.find("victim");
    cast.hostile.spawn(move |cx: &mut Cx<()>, event| {
        if matches!(event, Event::Start) {
            (0..70_000).for_each(|_| cx.notify(victim));
        }
        receive()
    });
    cast.wait_behind(&cast.there);
    assert_eq!(cast.here.deliver(cast.here.find::<String>("victim"), "alive".to_owned()), Ok(()));
    assert_eq!(heard(&told), "alive");
}

// Files, by somebody who keeps no order.

#[derive(Serialize, Deserialize)]
enum ToFileService {
    HelloLimits(HelloLimits, ReplyTo<OfferAnswer>),
    Delete(Vec<String>, ReplyTo<Deleted>),
}
antiphon_sched::wire!(ToFileService, "antiphon.files.keeper/1");

#[derive(Serialize, Deserialize)]
struct HelloLimits {
    path: Vec<String>,
    stat: FileStat,
    overwrite: bool,
    sender: Addr<ToSender>,
}

#[derive(Serialize, Deserialize)]
enum OfferAnswer {
    AlreadyThere,
    Different(FileStat),
    Refused(FileRefused),
    Send { receiver: Addr<ToReceiver>, have: u64, hash: Bytes, window: u64 },
}
antiphon_sched::wire!(OfferAnswer, "antiphon.files.answer/1");

#[derive(Serialize, Deserialize)]
struct Deleted(Result<bool, FileRefused>);
antiphon_sched::wire!(Deleted, "antiphon.files.deleted/1");

#[derive(Serialize, Deserialize)]
enum ToReceiver {
    Begin(u64),
    Chunk(Bytes),
    End(Bytes),
    Abort(bool),
}
antiphon_sched::wire!(ToReceiver, "antiphon.files.receiver/1", compact);

#[derive(Serialize, Deserialize, Debug, PartialEq)]
enum ToSender {
    Written(u64),
    Stored,
    Different(FileStat),
    Failed(FileRefused),
}
antiphon_sched::wire!(ToSender, "antiphon.files.sender/1", compact);

/// The keeper of a node's files, which is found by asking whom it may be.
fn keeper(from: &TestNode, at: NodeId) -> Addr<ToFileService> {
    let (tell, told) = channel();
    from.spawn(move |cx, event| {
        match event {
            Event::Start => {
                for id in guesses(at) {
                    let question = |reply| ToFileService::Delete(vec!["nothing".to_owned()], reply);
                    cx.ask(believed(id), PATIENCE, question, move |answer| (id, answer.is_ok()));
                }
            }
            Event::Message((id, true)) => {
                tell_test(&tell, id);
                return stop();
            }
            _ => {}
        }
        receive()
    });
    believed(heard(&told))
}

/// Offers a file; the answer, and what its sender is told.
fn offer(
    from: &TestNode,
    keeper: Addr<ToFileService>,
    (name, size): (String, u64),
) -> (Result<Addr<ToReceiver>, FileRefused>, Receiver<ToSender>) {
    let (tell, told) = channel();
    let (tell_sender, heard_of) = channel();
    from.spawn(move |cx: &mut Cx<Result<OfferAnswer, ToSender>>, event| {
        match event {
            Event::Start => {
                let stat = FileStat { size, seconds: 1, nanos: 0, permissions: 0o644 };
                let offer =
                    HelloLimits { path: vec![name.clone()], stat, overwrite: false, sender: cx.adapter(Err) };
                cx.ask(
                    keeper,
                    PATIENCE,
                    |reply| ToFileService::HelloLimits(offer, reply),
                    |answer| Ok(answer.expect("it is answered")),
                );
            }
            Event::Message(Ok(OfferAnswer::Send { receiver, .. })) => tell_test(&tell, Ok(receiver)),
            Event::Message(Ok(OfferAnswer::Refused(reason))) => tell_test(&tell, Err(reason)),
            Event::Message(Ok(_)) => tell_test(&tell, Err(FileRefused::Corrupt)),
            Event::Message(Err(told)) => tell_test(&tell_sender, told),
            _ => {}
        }
        receive()
    });
    (heard(&told), heard_of)
}

/// A cast in which one node takes files, and its keeper.
fn with_files(transfers_max: usize) -> (Cast, Addr<ToFileService>, tempfile::TempDir) {
    let dest = tempfile::tempdir().expect("a folder");
    let dest_path = Some(dest.path().to_owned());
    let cast = Cast::with(|config| Config { dest_path, transfers_max, ..config });
    let node = cast.there.step(|cx| cx.id().node());
    let keeper = keeper(&cast.hostile, node);
    (cast, keeper, dest)
}

#[test]
fn a_sender_that_keeps_no_order_is_refused_and_costs_nobody_else_anything() {
    let (cast, keeper, dest) = with_files(8);
    let chunk = |bytes: usize| ToReceiver::Chunk(Bytes(vec![7; bytes]));
    let end = || ToReceiver::End(Bytes(vec![0; 32]));
    let disorder = || ToSender::Failed(FileRefused::Disorder);
    let cases: Vec<(Vec<ToReceiver>, ToSender)> = vec![
        (vec![chunk(1)], disorder()),
        (vec![end()], disorder()),
        (vec![ToReceiver::Begin(5)], disorder()),
        (vec![ToReceiver::Begin(0), ToReceiver::Begin(0)], disorder()),
        (vec![ToReceiver::Begin(0), chunk(0)], disorder()),
        (vec![ToReceiver::Begin(0), end()], disorder()),
        // More than the window, in one: of several the first may be written before the last is there.
        (vec![ToReceiver::Begin(0), chunk((1 << 20) + 1)], disorder()),
        (vec![ToReceiver::Begin(0), chunk(100), chunk(5_000_000)], disorder()),
    ];
    for (n, (messages, want)) in cases.into_iter().enumerate() {
        let (receiver, told) = offer(&cast.hostile, keeper, (format!("f{n}"), 4_000_000));
        let receiver = receiver.expect("there is room");
        cast.hostile.step(move |cx| messages.into_iter().for_each(|message| cx.tell(receiver, message)));
        let told = common::heard_until(&told, |told| !matches!(told, ToSender::Written(_)));
        assert_eq!(told.last(), Some(&want), "case {n}");
    }
    // Longer than it was offered, or something else than what its hash says.
    for (n, bytes, want) in [(10, 11, FileRefused::TooLarge { max: 10 }), (11, 10, FileRefused::Corrupt)] {
        let (receiver, told) = offer(&cast.hostile, keeper, (format!("f{n}"), 10));
        let receiver = receiver.expect("there is room");
        let messages = vec![ToReceiver::Begin(0), chunk(bytes), end(), chunk(1), end()];
        cast.hostile.step(move |cx| messages.into_iter().for_each(|message| cx.tell(receiver, message)));
        let told = common::heard_until(&told, |told| matches!(told, ToSender::Failed(_)));
        let reason = told.last().expect("one that failed");
        // What follows the end is out of order, and one byte too many.
        let too_large = ToSender::Failed(FileRefused::TooLarge { max: 10 });
        assert!([ToSender::Failed(want), disorder(), too_large].contains(reason), "{reason:?}");
    }
    assert_eq!(send(&cast.here, &cast.there, "honest"), Ok(Stored::New));
    let names: Vec<_> = std::fs::read_dir(dest.path()).expect("a folder").flatten().collect();
    assert_eq!(names.len(), 2, "the honest one, and the node's own folder: {names:?}");
}

#[test]
fn tiny_chunks_arrive_as_one_file() {
    let (cast, keeper, dest) = with_files(8);
    let content: Vec<u8> = (0..20_000_u32).map(|n| n as u8).collect();
    let (receiver, told) = offer(&cast.hostile, keeper, ("tiny".to_owned(), content.len() as u64));
    let (receiver, bytes) = (receiver.expect("there is room"), content.clone());
    cast.hostile.step(move |cx| {
        cx.tell(receiver, ToReceiver::Begin(0));
        bytes.iter().for_each(|byte| cx.tell(receiver, ToReceiver::Chunk(Bytes(vec![*byte]))));
        cx.tell(receiver, ToReceiver::End(Bytes(blake3::hash(&bytes).as_bytes().to_vec())));
    });
    let told = common::heard_until(&told, |told| !matches!(told, ToSender::Written(_)));
    assert_eq!(told.last(), Some(&ToSender::Stored));
    assert_eq!(std::fs::read(dest.path().join("tiny")).expect("it is there"), content);
}

#[test]
fn a_transfer_hears_its_sender_alone_and_is_offered_for_nobody_else() {
    let (cast, keeper, _dest) = with_files(8);
    let (receiver, told) = offer(&cast.hostile, keeper, ("mine".to_owned(), 3));
    let receiver = receiver.expect("there is room");
    // The third node's name for the same receiver.
    cast.here.step(move |cx| {
        cx.tell(receiver, ToReceiver::Abort(true));
        cx.tell(receiver, ToReceiver::End(Bytes(Vec::new())));
    });
    cast.hostile.step(move |cx| {
        cx.tell(receiver, ToReceiver::Begin(0));
        cx.tell(receiver, ToReceiver::Chunk(Bytes(b"abc".to_vec())));
    });
    assert_eq!(heard(&told), ToSender::Written(3));
    cast.here.step(move |cx| cx.tell(receiver, ToReceiver::Abort(true)));
    cast.hostile.step(move |cx| {
        let hash = Bytes(blake3::hash(b"abc").as_bytes().to_vec());
        cx.tell(receiver, ToReceiver::End(hash));
    });
    assert_eq!(heard(&told), ToSender::Stored);

    // An offer in the name of another node's actor.
    let victim = believed(ActorId::new(cast.here.step(|cx| cx.id().node()), Key::from_bits(1)));
    let (tell, answered) = channel();
    cast.hostile.spawn(move |cx, event| match event {
        Event::Start => {
            let stat = FileStat { size: 1, seconds: 1, nanos: 0, permissions: 0o644 };
            let offer = HelloLimits { path: vec!["f".to_owned()], stat, overwrite: false, sender: victim };
            cx.ask(keeper, PATIENCE, |reply| ToFileService::HelloLimits(offer, reply), |answer| answer);
            receive()
        }
        Event::Message(answer) => {
            tell_test(&tell, matches!(answer, Ok(OfferAnswer::Refused(FileRefused::Disorder))));
            stop()
        }
        _ => receive(),
    });
    assert!(heard(&answered));
}

#[test]
fn one_peer_that_offers_and_never_sends_leaves_places_for_others() {
    let (cast, keeper, _dest) = with_files(8);
    let offers: Vec<_> = (0..8).map(|n| offer(&cast.hostile, keeper, (format!("squat{n}"), 100))).collect();
    let taken = offers.iter().filter(|(answer, _)| answer.is_ok()).count();
    assert_eq!(taken, 6);
    assert_eq!(offers[7].0.as_ref().err(), Some(&FileRefused::TooManyTransfers { max: 6 }));
    assert_eq!(send(&cast.here, &cast.there, "others"), Ok(Stored::New));
}

#[test]
fn a_flood_of_deletions_is_answered_and_leaves_the_helpers_to_others() {
    let (cast, keeper, _dest) = with_files(8);
    let (tell, told) = channel();
    cast.hostile.spawn(move |cx, event| {
        match event {
            Event::Start => {
                for n in 0..5000 {
                    let question = |reply| ToFileService::Delete(vec![format!("{n}")], reply);
                    cx.ask(keeper, PATIENCE, question, |answer| answer);
                }
            }
            Event::Message(answer) => match answer {
                Ok(Deleted(Ok(false))) => tell_test(&tell, true),
                Ok(Deleted(Err(FileRefused::TooManyTransfers { max: 6 }))) => tell_test(&tell, false),
                _ => {}
            },
            _ => {}
        }
        receive()
    });
    let answers: Vec<bool> = (0..5000).map(|_| heard(&told)).collect();
    assert!(answers.contains(&true) && answers.contains(&false));
    assert_eq!(send(&cast.here, &cast.there, "others"), Ok(Stored::New));
}
