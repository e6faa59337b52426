//! A peer that knows the secret and sends forged messages to service actors. The tests check that other nodes keep
//! their channels, functions and quotas, and that the peer cannot act for another node.

mod common;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use antiphon_dist::{Channel, Config, DeliverError, FileOptions, FileRefused, FileStat, NetCx, Stored};
use antiphon_sched::{
    ActorId, Addr, Bytes, Cx, DecodeError, EncodeError, Event, Key, NodeId, ReplyTo, Wire, millis, receive,
    secs, stop,
};
use common::{Exit, Net, PATIENCE, TestNode, recv, report, wait_for};
use serde::{Deserialize, Serialize};

/// Defines a message of arbitrary bytes that has the wire name of another type.
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

forged!(ToTopic, "antiphon.channel<str>");
forged!(ToSpawnService, "antiphon.call<u64,str>");

/// The encoded form of an actor's id.
type Bits = (u64, u64);

fn bits(id: ActorId) -> Bits {
    (id.node().to_bits(), id.key().to_bits())
}

fn encoded(value: impl Wire) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.encode(&mut bytes).expect("the value has an encoding");
    bytes
}

/// An address with this id and any type of message.
fn forged_addr<M: Wire>(id: ActorId) -> Addr<M> {
    Addr::decode_all(&encoded(bits(id))).expect("the bytes are an address")
}

/// The ids that actors of a node, and their first adapters, are likely to have.
fn guessed_ids(node: NodeId) -> impl Iterator<Item = ActorId> + Clone {
    let actors = (0..4_u64).flat_map(|generation| (0..100_u64).map(move |index| generation << 25 | index));
    let keys = actors.flat_map(|actor| (0..2_u64).map(move |adapter| adapter << 46 | actor));
    keys.map(move |bits| ActorId::new(node, Key::from_bits(bits)))
}

/// Three connected nodes.
struct ThreeNodes {
    /// Has the channel, function or folder that is attacked.
    target: TestNode,
    /// Uses the services of the target.
    honest: TestNode,
    hostile: TestNode,
}

impl ThreeNodes {
    fn new() -> Self {
        Self::with(|config| config)
    }

    fn with(adjust: impl FnOnce(Config) -> Config) -> Self {
        let net = Net::new();
        let target = TestNode::start(adjust(net.static_config("target", &[])));
        let honest = net.static_node("honest", &[target.location]);
        let hostile = net.static_node("hostile", &[target.location, honest.location]);
        [&target, &honest, &hostile].iter().for_each(|node| node.wait_for_peers(2));
        Self { target, honest, hostile }
    }

    /// Sends messages from the hostile node, and waits until the other node has received them.
    fn forge<M: Wire + Send>(&self, to: &TestNode, messages: Vec<(Addr<M>, M)>) {
        self.hostile.step(move |cx| messages.into_iter().for_each(|(to, message)| cx.tell(to, message)));
        self.wait_until_received(to);
    }

    /// Waits until a node has received all messages of the hostile node.
    fn wait_until_received(&self, node: &TestNode) {
        let barrier = self.barrier(node);
        self.pass(barrier);
    }

    /// Starts an actor that the hostile node has located, and that stops at its first message.
    fn barrier(&self, node: &TestNode) -> Addr<String> {
        let barrier = node.spawn(|cx: &mut Cx<String>, event| {
            if matches!(event, Event::Start) {
                cx.register("barrier")?;
            }
            if matches!(event, Event::Message(_)) { stop() } else { receive() }
        });
        wait_for("the address of the new barrier", || {
            Some(self.hostile.find::<String>("barrier")).filter(|found| found.id() == barrier.id())
        })
    }

    /// Waits until a message of the hostile node has reached a barrier. Its earlier messages have arrived then.
    fn pass(&self, barrier: Addr<String>) {
        assert_eq!(self.hostile.deliver(barrier, String::new()), Ok(()));
    }
}

fn open_channel(node: &TestNode) -> Channel<String> {
    node.with(|node| node.channel("news")).expect("the name is free")
}

/// Subscribes a new actor to a channel. The messages and exits that it receives arrive on the returned receiver.
fn subscriber(node: &TestNode, channel: Channel<String>) -> Receiver<Result<String, Exit>> {
    let (sender, messages) = std::sync::mpsc::channel();
    let (result_sender, results) = std::sync::mpsc::channel();
    let actor = node.spawn(move |_cx, event| {
        match event {
            Event::Message(text) => report(&sender, Ok(text)),
            Event::Down(down) => report(&sender, Err(Exit::of(down))),
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
            report(&result_sender, answer);
            stop()
        }
        _ => receive(),
    });
    assert_eq!(recv(&results), Ok(()));
    messages
}

/// Delivers a text to `n` subscribers of a channel. The result arrives on the returned receiver.
fn start_delivery(
    node: &TestNode,
    to: Channel<String>,
    (text, n): (String, usize),
    timeout: Duration,
) -> Receiver<Result<usize, DeliverError>> {
    let (sender, results) = channel();
    node.spawn(move |cx, event| match event {
        Event::Start => {
            cx.deliver_all(to, text.clone(), n, timeout, |answer| answer);
            receive()
        }
        Event::Message(answer) => {
            report(&sender, answer);
            stop()
        }
        _ => receive(),
    });
    results
}

/// The encoding of a message without a request.
const NO_REPLY: Option<Bits> = None;

/// The hostile node sends messages to a channel in the name of other nodes, and to its relay in the name of the channel.
#[test]
fn channel_and_relay_ignore_messages_of_other_nodes() {
    let nodes = ThreeNodes::new();
    let channel = open_channel(&nodes.target);
    let subscribers = [subscriber(&nodes.honest, channel), subscriber(&nodes.target, channel)];
    let (honest, hostile) = (nodes.honest.step(|cx| cx.id().node()), nodes.hostile.step(|cx| cx.id().node()));
    let topic = forged_addr(channel.id());
    let to_topic = guessed_ids(honest).chain(guessed_ids(channel.node())).flat_map(|actor| {
        let (unsubscribe, count) = (encoded((4_u8, bits(actor))), encoded((5_u8, bits(actor), 1000_u64)));
        [(topic, ToTopic(unsubscribe)), (topic, ToTopic(count))]
    });
    let unknown_actor = (hostile.to_bits(), 7_u64);
    let to_relay = guessed_ids(honest).flat_map(|relay| {
        let forged = [
            encoded((0_u8, 0_u8, "forged".to_owned())),
            encoded((1_u8, (0_u64, 1000_u64, 0_u8), unknown_actor, "forged".to_owned())),
            // A relay ends with its upstream topic actor. The one that is named here does not exist.
            encoded((6_u8, unknown_actor, vec![unknown_actor], NO_REPLY)),
            encoded((4_u8, unknown_actor)),
        ];
        forged.map(|bytes| (forged_addr(relay), ToTopic(bytes)))
    });
    nodes.forge(&nodes.target, to_topic.collect());
    nodes.forge(&nodes.honest, to_relay.collect());
    let few = start_delivery(&nodes.target, channel, ("few".to_owned(), 50), millis(50));
    assert_eq!(recv(&few), Err(DeliverError::TooFew { subscribers: 2 }));
    let sent = start_delivery(&nodes.hostile, channel, ("genuine".to_owned(), 2), PATIENCE);
    assert_eq!(recv(&sent), Ok(2));
    for messages in subscribers {
        assert_eq!(recv(&messages), Ok("genuine".to_owned()));
    }
}

/// A peer that has many pending deliveries at a channel leaves room for those of the channel's own node.
#[test]
fn peer_with_many_deliveries_leaves_room_for_owner() {
    let nodes = ThreeNodes::new();
    let channel = open_channel(&nodes.target);
    let topic = forged_addr(channel.id());
    // A relay that never acknowledges.
    let sink = nodes.hostile.listener::<ToTopic>("sink");
    let relay: Addr<ToTopic> = nodes.hostile.find("sink");
    nodes.forge(&nodes.target, vec![(topic, ToTopic(encoded((3_u8, bits(relay.id()), true, NO_REPLY))))]);
    for n in [9_u64, 0] {
        // One node sends all requests, each in the name of a different node.
        let deliver = |of: u64| encoded((1_u8, (n, 3_600_000_u64, 0_u8), (1000 + of, of), "much".to_owned()));
        nodes.forge(&nodes.target, (0..1100).map(|of| (topic, ToTopic(deliver(of)))).collect());
    }
    let own = start_delivery(&nodes.target, channel, ("own".to_owned(), 1), secs(4));
    let messages = subscriber(&nodes.target, channel);
    assert_eq!(recv(&own), Ok(1));
    assert_eq!(recv(&messages), Ok("own".to_owned()));
    drop(sink);
}

/// Of ten deliveries of 1 MiB each that wait for a subscriber, a channel accepts three from one peer.
#[test]
fn pending_deliveries_of_peer_are_bounded_in_bytes() {
    let (owner, peer) = Net::new().pair();
    let channel = open_channel(&owner);
    let deliveries: Vec<_> =
        (0..10).map(|_| start_delivery(&peer, channel, ("x".repeat(1 << 20), 1), PATIENCE)).collect();
    let (sender, results) = std::sync::mpsc::channel();
    let threads: Vec<_> = deliveries
        .into_iter()
        .map(|delivery| {
            let sender = sender.clone();
            std::thread::spawn(move || report(&sender, recv(&delivery)))
        })
        .collect();
    for _ in 0..7 {
        assert_eq!(recv(&results), Err(DeliverError::TooManyDeliveries));
    }
    let _messages = subscriber(&owner, channel);
    for _ in 0..3 {
        assert_eq!(recv(&results), Ok(1));
    }
    threads.into_iter().for_each(|thread| thread.join().expect("each delivery has a result"));
}

/// Only the nodes of two channels may subscribe one to the other.
#[test]
fn subscribe_channel_by_third_node_is_refused() {
    let nodes = ThreeNodes::new();
    let upstream = open_channel(&nodes.target);
    let downstream: Channel<String> =
        nodes.target.with(|node| node.channel("downstream")).expect("the name is free");
    let (sender, results) = channel();
    nodes.hostile.spawn(move |cx, event| match event {
        Event::Start => {
            cx.subscribe_within(upstream, downstream, PATIENCE, |answer| answer);
            receive()
        }
        Event::Message(answer) => {
            report(&sender, answer);
            stop()
        }
        _ => receive(),
    });
    assert_eq!(recv(&results), Err(antiphon_dist::SubscribeError::NotYours));
}

/// The hostile node subscribes an actor and a relay of another node. When their own node subscribes them too, the
/// hostile node cannot unsubscribe them any more.
#[test]
fn subscription_is_taken_over_by_subscribers_own_node() {
    let nodes = ThreeNodes::new();
    let channel = open_channel(&nodes.target);
    let topic: Addr<ToTopic> = forged_addr(channel.id());
    let subscribe = |actor| ToTopic(encoded((2_u8, bits(actor), false, NO_REPLY)));
    let actor_messages = nodes.honest.listener::<String>("actor");
    let relay_messages = nodes.honest.listener::<ToTopic>("relay");
    let actor = nodes.hostile.find::<String>("actor").id();
    let relay = nodes.hostile.find::<ToTopic>("relay").id();
    nodes.forge(&nodes.target, vec![(topic, subscribe(actor)), (topic, subscribe(relay))]);
    // The honest node subscribes the first as an actor, and attaches the second as a relay.
    let attach = ToTopic(encoded((3_u8, bits(relay), true, NO_REPLY)));
    let own = vec![(topic, subscribe(actor)), (topic, attach)];
    nodes.honest.step(move |cx| own.into_iter().for_each(|(to, message)| cx.tell(to, message)));
    wait_for("the count of the relay", || {
        let count = ToTopic(encoded((5_u8, bits(relay), 7_u64)));
        nodes.honest.step(move |cx| cx.tell(topic, count));
        let sent = start_delivery(&nodes.target, channel, ("few".to_owned(), 50), millis(1));
        (recv(&sent) == Err(DeliverError::TooFew { subscribers: 1 + 7 })).then_some(())
    });
    let unsubscribe = [actor, relay].map(|actor| (topic, ToTopic(encoded((4_u8, bits(actor))))));
    nodes.forge(&nodes.target, unsubscribe.into());
    nodes.target.step(move |cx| drop(cx.send(channel, "news".to_owned())));
    assert_eq!(recv(&actor_messages), "news");
    let ToTopic(forwarded) = recv(&relay_messages);
    assert_eq!(forwarded, encoded((0_u8, 1_u8, "news".to_owned())), "a relay gets a channel message");
}

/// The hostile node claims that 64 channels are upstream of a channel. Actors can still subscribe to it, but channels
/// cannot.
#[test]
fn forged_upstreams_block_only_channels() {
    let nodes = ThreeNodes::new();
    let channel = open_channel(&nodes.target);
    let topic: Addr<ToTopic> = forged_addr(channel.id());
    let _upstream = nodes.hostile.listener::<ToTopic>("upstream");
    let upstream = bits(nodes.hostile.find::<ToTopic>("upstream").id());
    let claimed: Vec<Bits> = (0..64).map(|n| (upstream.0, 1000 + n)).collect();
    nodes.forge(&nodes.target, vec![(topic, ToTopic(encoded((6_u8, upstream, claimed, NO_REPLY))))]);
    let subscribers = [subscriber(&nodes.honest, channel), subscriber(&nodes.target, channel)];
    let sent = start_delivery(&nodes.honest, channel, ("news".to_owned(), 2), PATIENCE);
    assert_eq!(recv(&sent), Ok(2));
    subscribers.iter().for_each(|messages| assert_eq!(recv(messages), Ok("news".to_owned())));
    // A channel is refused, because the forged list of upstreams is full.
    let (sender, results) = std::sync::mpsc::channel();
    let downstream: Channel<String> =
        nodes.honest.with(|node| node.channel("downstream")).expect("the name is free");
    nodes.honest.spawn(move |cx, event| match event {
        Event::Start => {
            cx.subscribe_within(channel, downstream, PATIENCE, |answer| answer);
            receive()
        }
        Event::Message(answer) => {
            report(&sender, answer);
            stop()
        }
        _ => receive(),
    });
    assert_eq!(recv(&results), Err(antiphon_dist::SubscribeError::TooMany));
}

/// The actors of forged calls count for the node that sends the calls, not for the nodes that they name. A forged call
/// cannot name a private actor as its watcher.
#[test]
fn rci_quota_counts_sender_of_forged_calls() {
    let nodes = ThreeNodes::with(|config| Config { rci_actors_max: 2, ..config });
    let started = Arc::new(AtomicUsize::new(0));
    let count = started.clone();
    let rci = nodes.target.with(move |node| {
        node.rci("start", move |stays: u64| {
            count.fetch_add(1, Ordering::Relaxed);
            move |_cx: &mut Cx<String>, _event| if stays == 0 { stop() } else { receive() }
        })
    });
    let rci = rci.expect("the name is free");
    let service = forged_addr(rci.id());
    let (sender, downs) = channel();
    let private = nodes.target.spawn(move |_cx: &mut Cx<()>, event| {
        if let Event::Down(down) = event {
            report(&sender, down.actor);
        }
        receive()
    });
    // The actor of this call ends at once, so that a `Down` is due, and it leaves the quota to the calls below.
    let watched = encoded((0_u8, bits(private.id()), (77_u64, 1_u64), 0_u64));
    nodes.forge(&nodes.target, vec![(service, ToSpawnService(watched))]);
    wait_for("the actor of the first call", || (started.load(Ordering::Relaxed) == 1).then_some(()));
    let call = |of: u64| ToSpawnService(encoded((0_u8, (), (1000 + of, of), 1_u64)));
    nodes.forge(&nodes.target, (0..100).map(|of| (service, call(of))).collect());
    let (sender, results) = channel();
    nodes.honest.spawn(move |cx, event| match event {
        Event::Start => {
            cx.call(rci, 1, PATIENCE, |spawned| spawned);
            receive()
        }
        Event::Message(spawned) => {
            report(&sender, spawned.map(drop));
            receive()
        }
        _ => receive(),
    });
    assert_eq!(recv(&results), Ok(()), "the honest node has its own quota");
    let started = started.load(Ordering::Relaxed);
    assert!((3..=4).contains(&started), "{started} were started");
    assert_eq!(downs.try_recv(), Err(TryRecvError::Empty), "no peer can name a private actor");
}

#[test]
fn service_actors_ignore_terminate_and_throw_from_peers() {
    let dest = tempfile::tempdir().expect("a temporary folder can be created");
    let nodes = ThreeNodes::with(|config| Config { dest_path: Some(dest.path().to_owned()), ..config });
    let rci = nodes.target.with(|node| node.rci("start", |_: u64| |_cx: &mut Cx<String>, _event| receive()));
    let rci = rci.expect("the name is free");
    let exits = nodes.target.monitor(rci.id());
    let node = rci.node();
    assert!(guessed_ids(node).any(|actor| actor == rci.id()), "the attack reaches the spawn service");
    // The barrier is registered, so a peer may terminate it. The attack leaves it out.
    let barrier = nodes.barrier(&nodes.target);
    nodes.hostile.step(move |cx| {
        for actor in guessed_ids(node).filter(|actor| *actor != barrier.id()) {
            cx.terminate(actor);
            cx.throw(actor, "away".to_owned());
        }
    });
    nodes.pass(barrier);
    assert_eq!(send_file(&nodes.honest, &nodes.target, "after"), Ok(Stored::New));
    assert_eq!(exits.try_recv(), Err(TryRecvError::Empty));
}

/// Sends a small file with this name and content, and returns the result.
fn send_file(from: &TestNode, to: &TestNode, name: &'static str) -> Result<Stored, antiphon_dist::FileError> {
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let file = folder.path().join(name);
    std::fs::write(&file, name).expect("a temporary file can be written");
    let (sender, results) = channel();
    let at = to.location;
    from.spawn(move |cx, event| match event {
        Event::Start => {
            cx.send_file(at, &file, FileOptions::default(), PATIENCE, |done| done);
            receive()
        }
        Event::Message(done) => {
            report(&sender, done);
            stop()
        }
        _ => receive(),
    });
    recv(&results)
}

/// A peer sends 70,000 `notify` signals to an actor, which keeps free requests for its own timers.
#[test]
fn notify_flood_leaves_actor_its_own_requests() {
    let nodes = ThreeNodes::new();
    let (sender, messages) = channel();
    nodes.target.spawn(move |cx: &mut Cx<String>, event| {
        match event {
            Event::Start => cx.register("victim")?,
            // An actor without a free request would fail here.
            Event::Message(text) => {
                cx.after(secs(600), String::new()).expect("the limit is not reached");
                report(&sender, text);
            }
            _ => {}
        }
        receive()
    });
    let victim: Addr<String> = nodes.hostile.find("victim");
    nodes.hostile.spawn(move |cx: &mut Cx<()>, event| {
        if matches!(event, Event::Start) {
            (0..70_000).for_each(|_| cx.notify(victim));
        }
        receive()
    });
    nodes.wait_until_received(&nodes.target);
    assert_eq!(nodes.honest.deliver(nodes.honest.find::<String>("victim"), "alive".to_owned()), Ok(()));
    assert_eq!(recv(&messages), "alive");
}

// A peer that sends messages of the file protocol out of order.

#[derive(Serialize, Deserialize)]
enum ToFileService {
    Offer(TestOffer, ReplyTo<OfferAnswer>),
    Delete(Vec<String>, ReplyTo<Deleted>),
}
antiphon_sched::wire!(ToFileService, "antiphon.files.service/1");

#[derive(Serialize, Deserialize)]
struct TestOffer {
    path: Vec<String>,
    stat: FileStat,
    overwrite: bool,
    sender: Addr<ToSender>,
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
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
antiphon_sched::wire!(ToReceiver, "antiphon.files.receiver/1");

#[derive(Serialize, Deserialize, Debug, PartialEq)]
enum ToSender {
    Written(u64),
    Stored,
    Different(FileStat),
    Failed(FileRefused),
}
antiphon_sched::wire!(ToSender, "antiphon.files.sender/1");

/// Finds the file service of a node: sends a request to every guessed id, and returns the first actor that answers.
fn find_file_service(from: &TestNode, at: NodeId) -> Addr<ToFileService> {
    let (sender, ids) = channel();
    from.spawn(move |cx, event| {
        match event {
            Event::Start => {
                for id in guessed_ids(at) {
                    let request = |reply| ToFileService::Delete(vec!["nothing".to_owned()], reply);
                    cx.ask(forged_addr(id), PATIENCE, request, move |answer| (id, answer.is_ok()));
                }
            }
            Event::Message((id, true)) => {
                report(&sender, id);
                return stop();
            }
            _ => {}
        }
        receive()
    });
    forged_addr(recv(&ids))
}

/// Offers a file. Returns the answer, and the messages that the offer's sender receives later.
fn offer(
    from: &TestNode,
    file_service: Addr<ToFileService>,
    (name, size): (String, u64),
) -> (Result<Addr<ToReceiver>, FileRefused>, Receiver<ToSender>) {
    let (answer_sender, answers) = channel();
    let (message_sender, messages) = channel();
    from.spawn(move |cx: &mut Cx<Result<OfferAnswer, ToSender>>, event| {
        match event {
            Event::Start => {
                let stat = FileStat { size, seconds: 1, nanos: 0, permissions: 0o644 };
                let offer = TestOffer {
                    path: vec![name.clone()],
                    stat,
                    overwrite: false,
                    sender: cx.adapter(Err).expect("the limit is not reached"),
                };
                cx.ask(
                    file_service,
                    PATIENCE,
                    |reply| ToFileService::Offer(offer, reply),
                    |answer| Ok(answer.expect("the file service answers")),
                );
            }
            Event::Message(Ok(OfferAnswer::Send { receiver, .. })) => report(&answer_sender, Ok(receiver)),
            Event::Message(Ok(OfferAnswer::Refused(reason))) => report(&answer_sender, Err(reason)),
            Event::Message(Ok(_)) => report(&answer_sender, Err(FileRefused::Corrupt)),
            Event::Message(Err(message)) => report(&message_sender, message),
            _ => {}
        }
        receive()
    });
    (recv(&answers), messages)
}

/// Three nodes of which the target accepts files, its file service, and the folder.
fn with_files(transfers_max: usize) -> (ThreeNodes, Addr<ToFileService>, tempfile::TempDir) {
    let dest = tempfile::tempdir().expect("a temporary folder can be created");
    let dest_path = Some(dest.path().to_owned());
    let nodes = ThreeNodes::with(|config| Config { dest_path, transfers_max, ..config });
    let node = nodes.target.step(|cx| cx.id().node());
    let file_service = find_file_service(&nodes.hostile, node);
    (nodes, file_service, dest)
}

/// A sender that does not follow the file protocol is refused, and another node's file is still stored.
#[test]
fn file_messages_out_of_order_are_refused() {
    let (nodes, file_service, dest) = with_files(8);
    let chunk = |bytes: usize| ToReceiver::Chunk(Bytes::from(vec![7; bytes]));
    let end = || ToReceiver::End(Bytes::from(vec![0; 32]));
    let disorder = || ToSender::Failed(FileRefused::Disorder);
    let cases: Vec<(Vec<ToReceiver>, ToSender)> = vec![
        (vec![chunk(1)], disorder()),
        (vec![end()], disorder()),
        (vec![ToReceiver::Begin(5)], disorder()),
        (vec![ToReceiver::Begin(0), ToReceiver::Begin(0)], disorder()),
        (vec![ToReceiver::Begin(0), chunk(0)], disorder()),
        (vec![ToReceiver::Begin(0), end()], disorder()),
        // One chunk exceeds the window. Of several chunks the first may be written before the last arrives.
        (vec![ToReceiver::Begin(0), chunk((1 << 20) + 1)], disorder()),
        (vec![ToReceiver::Begin(0), chunk(100), chunk(5_000_000)], disorder()),
    ];
    for (n, (messages, want)) in cases.into_iter().enumerate() {
        let (receiver, replies) = offer(&nodes.hostile, file_service, (format!("f{n}"), 4_000_000));
        let receiver = receiver.expect("the offer is accepted");
        nodes.hostile.step(move |cx| messages.into_iter().for_each(|message| cx.tell(receiver, message)));
        let replies = common::recv_until(&replies, |reply| !matches!(reply, ToSender::Written(_)));
        assert_eq!(replies.last(), Some(&want), "case {n}");
    }
    let too_large = || ToSender::Failed(FileRefused::TooLarge { max: 10 });
    let corrupt = || ToSender::Failed(FileRefused::Corrupt);
    let cases: Vec<(Vec<ToReceiver>, Vec<ToSender>)> = vec![
        // The content is longer than the offer.
        (vec![ToReceiver::Begin(0), chunk(11)], vec![too_large()]),
        // The content does not match its hash.
        (vec![ToReceiver::Begin(0), chunk(10), end()], vec![corrupt()]),
        // The messages after the end are out of order, and one byte too many. They may arrive after the hash is checked.
        (
            vec![ToReceiver::Begin(0), chunk(10), end(), chunk(1), end()],
            vec![corrupt(), disorder(), too_large()],
        ),
    ];
    for (n, (messages, accepted)) in (10..).zip(cases) {
        let (receiver, replies) = offer(&nodes.hostile, file_service, (format!("f{n}"), 10));
        let receiver = receiver.expect("the offer is accepted");
        nodes.hostile.step(move |cx| messages.into_iter().for_each(|message| cx.tell(receiver, message)));
        let replies = common::recv_until(&replies, |reply| matches!(reply, ToSender::Failed(_)));
        let reason = replies.last().expect("the last reply is a failure");
        assert!(accepted.contains(reason), "case {n}: {reason:?}");
    }
    assert_eq!(send_file(&nodes.honest, &nodes.target, "honest"), Ok(Stored::New));
    let names: Vec<_> = std::fs::read_dir(dest.path()).expect("the folder can be read").flatten().collect();
    assert_eq!(names.len(), 2, "the honest file, and the node's own folder: {names:?}");
}

#[test]
fn file_in_tiny_chunks_is_stored_whole() {
    let (nodes, file_service, dest) = with_files(8);
    let content: Vec<u8> = (0..20_000_u32).map(|n| n as u8).collect();
    let (receiver, replies) = offer(&nodes.hostile, file_service, ("tiny".to_owned(), content.len() as u64));
    let (receiver, bytes) = (receiver.expect("the offer is accepted"), content.clone());
    nodes.hostile.step(move |cx| {
        cx.tell(receiver, ToReceiver::Begin(0));
        bytes.iter().for_each(|byte| cx.tell(receiver, ToReceiver::Chunk(Bytes::from(vec![*byte]))));
        cx.tell(receiver, ToReceiver::End(Bytes::from(blake3::hash(&bytes).as_bytes().to_vec())));
    });
    let replies = common::recv_until(&replies, |reply| !matches!(reply, ToSender::Written(_)));
    assert_eq!(replies.last(), Some(&ToSender::Stored));
    assert_eq!(std::fs::read(dest.path().join("tiny")).expect("the file is stored"), content);
}

/// A receiver ignores the messages of other nodes, and an offer that names another node's actor as sender is refused.
#[test]
fn file_transfer_accepts_only_its_own_sender() {
    let (nodes, file_service, _dest) = with_files(8);
    let (receiver, replies) = offer(&nodes.hostile, file_service, ("mine".to_owned(), 3));
    let receiver = receiver.expect("the offer is accepted");
    // The third node uses the address of the same receiver.
    nodes.honest.step(move |cx| {
        cx.tell(receiver, ToReceiver::Abort(true));
        cx.tell(receiver, ToReceiver::End(Bytes::from(Vec::new())));
    });
    nodes.hostile.step(move |cx| {
        cx.tell(receiver, ToReceiver::Begin(0));
        cx.tell(receiver, ToReceiver::Chunk(Bytes::from(b"abc".to_vec())));
    });
    assert_eq!(recv(&replies), ToSender::Written(3));
    nodes.honest.step(move |cx| cx.tell(receiver, ToReceiver::Abort(true)));
    nodes.hostile.step(move |cx| {
        let hash = Bytes::from(blake3::hash(b"abc").as_bytes().to_vec());
        cx.tell(receiver, ToReceiver::End(hash));
    });
    assert_eq!(recv(&replies), ToSender::Stored);

    // An offer with another node's actor as sender.
    let victim = forged_addr(ActorId::new(nodes.honest.step(|cx| cx.id().node()), Key::from_bits(1)));
    let (sender, answers) = channel();
    nodes.hostile.spawn(move |cx, event| match event {
        Event::Start => {
            let stat = FileStat { size: 1, seconds: 1, nanos: 0, permissions: 0o644 };
            let offer = TestOffer { path: vec!["f".to_owned()], stat, overwrite: false, sender: victim };
            cx.ask(file_service, PATIENCE, |reply| ToFileService::Offer(offer, reply), |answer| answer);
            receive()
        }
        Event::Message(answer) => {
            report(&sender, answer);
            stop()
        }
        _ => receive(),
    });
    assert_eq!(recv(&answers), Ok(OfferAnswer::Refused(FileRefused::Disorder)));
}

/// A peer that offers files and never sends them occupies at most three quarters of the transfers.
#[test]
fn idle_file_offers_leave_room_for_others() {
    let (nodes, file_service, _dest) = with_files(8);
    let offers: Vec<_> =
        (0..8).map(|n| offer(&nodes.hostile, file_service, (format!("squat{n}"), 100))).collect();
    let taken = offers.iter().filter(|(answer, _)| answer.is_ok()).count();
    assert_eq!(taken, 6);
    assert_eq!(offers[7].0.as_ref().err(), Some(&FileRefused::TooManyTransfers { max: 6 }));
    assert_eq!(send_file(&nodes.honest, &nodes.target, "others"), Ok(Stored::New));
}

/// A flood of deletions is answered, and leaves threads of the blocking pool for the files of other peers.
#[test]
fn deletion_flood_leaves_room_for_other_peers() {
    let (nodes, file_service, _dest) = with_files(8);
    let (sender, outcomes) = channel();
    nodes.hostile.spawn(move |cx, event| {
        match event {
            Event::Start => {
                for n in 0..5000 {
                    let request = |reply| ToFileService::Delete(vec![format!("{n}")], reply);
                    cx.ask(file_service, PATIENCE, request, |answer| answer);
                }
            }
            Event::Message(answer) => match answer {
                Ok(Deleted(Ok(false))) => report(&sender, true),
                Ok(Deleted(Err(FileRefused::TooManyTransfers { max: 6 }))) => report(&sender, false),
                _ => {}
            },
            _ => {}
        }
        receive()
    });
    let answers: Vec<bool> = (0..5000).map(|_| recv(&outcomes)).collect();
    assert!(answers.contains(&true) && answers.contains(&false));
    assert_eq!(send_file(&nodes.honest, &nodes.target, "others"), Ok(Stored::New));
}
