//! Two loops joined by a fake network: what a node does, without sockets, sessions or names.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use antiphon_sched::*;
use serde::{Deserialize, Serialize};

use crate::common::*;

enum Frame {
    OutboundMessage { to: Destination, tag: &'static str, body: Vec<u8> },
    Signal(Signal),
}

/// What leaves one loop, in order.
#[derive(Default)]
struct Wires {
    frames: VecDeque<Frame>,
    /// What the next parcels are answered with, instead of being taken.
    refusals: VecDeque<Undelivered>,
    /// Nodes and replies that parcels named.
    named: Vec<NodeId>,
    replies: usize,
    manners: Vec<SendMode>,
    senders: Vec<Option<Key>>,
    /// Signals that only the own node's tables are for.
    closed: Vec<RequestId>,
    gone: Vec<Key>,
    /// The last outbound.
    last: Vec<u8>,
}

struct Fake(Rc<RefCell<Wires>>);

impl Transport for Fake {
    fn send(&mut self, _: Time, outbound: &OutboundMessage<'_>) -> Result<(), Undelivered> {
        let mut wires = self.0.borrow_mut();
        if let Some(reason) = wires.refusals.pop_front() {
            return Err(reason);
        }
        wires.named.extend(outbound.nodes);
        wires.replies += outbound.replies.len();
        wires.manners.push(outbound.mode);
        wires.senders.push(outbound.from);
        wires.last = outbound.body.to_vec();
        let frame =
            Frame::OutboundMessage { to: outbound.to, tag: outbound.tag, body: outbound.body.to_vec() };
        wires.frames.push_back(frame);
        Ok(())
    }

    fn signal(&mut self, _: Time, signal: Signal) {
        let mut wires = self.0.borrow_mut();
        match signal {
            Signal::RequestClosed { request_id } => wires.closed.push(request_id),
            Signal::Exited { actor } => wires.gone.push(actor),
            signal => wires.frames.push_back(Frame::Signal(signal)),
        }
    }
}

/// Two nodes, and all that is between them.
struct Net {
    nodes: [Loop; 2],
    wires: [Rc<RefCell<Wires>>; 2],
    /// What became of each delivery.
    deliveries: Vec<Delivery>,
}

fn net() -> Net {
    net_of(virtual_config())
}

fn net_of(config: LoopConfig) -> Net {
    let wires = [Rc::default(), Rc::default()];
    let nodes = [0, 1].map(|n| {
        let wires: &[Rc<RefCell<Wires>>; 2] = &wires;
        let mut events = Loop::new(config.clone()).unwrap();
        events.set_transport(Box::new(Fake(wires[n].clone())));
        events
    });
    Net { nodes, wires, deliveries: Vec::new() }
}

impl Net {
    /// Until both loops rest and nothing is between them.
    fn settle(&mut self) {
        loop {
            settle(&mut self.nodes[0]);
            settle(&mut self.nodes[1]);
            let mut moved = false;
            for from in 0..2 {
                while let Some(frame) = { self.wires[from].borrow_mut().frames.pop_front() } {
                    moved = true;
                    let node_id = self.nodes[from].node_id();
                    let told = arrive(&mut self.nodes[1 - from].loop_ref(), node_id, frame);
                    self.deliveries.extend(told);
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn act(&mut self, node: usize, act: impl FnOnce(&mut Cx<'_, ()>) + 'static) {
        within(&mut self.nodes[node], act);
        self.settle();
    }

    /// An actor of node 1 that node 0 has an address of.
    fn far<M: Wire + std::fmt::Display>(&mut self, log: &Log) -> Addr<M> {
        let addr = scribe::<M>(&mut self.nodes[1], log);
        assert!(self.nodes[1].loop_ref().expose(addr));
        Addr::of(addr.id())
    }

    fn pass(&mut self, span: std::time::Duration) {
        self.settle();
        for node in 0..2 {
            pass(&mut self.nodes[node], span);
        }
        self.settle();
    }
}

/// What a node does with what arrives.
fn arrive(loop_ref: &mut LoopRef<'_>, from: NodeId, frame: Frame) -> Option<Delivery> {
    match frame {
        Frame::OutboundMessage { to: Destination::Actor(id), tag, body } => {
            return Some(loop_ref.deliver(id.key(), tag, &body));
        }
        Frame::OutboundMessage { to: Destination::Request(node, request_id), tag, body } => {
            assert_eq!(node, loop_ref.node_id());
            let _ = loop_ref.complete_request_encoded(request_id, tag, &body);
        }
        Frame::Signal(signal) => match signal {
            Signal::Monitor { target, id, watcher } => {
                loop_ref.watch(target.key(), id, ActorId::new(from, watcher))
            }
            Signal::Demonitor { target, id, .. } => loop_ref.unwatch(target.key(), id),
            Signal::Notify { watcher, id, actor } => {
                loop_ref.expect_down(watcher.key(), id, ActorId::new(from, actor));
            }
            Signal::Down { watcher, id, actor, reason } => loop_ref.down(watcher.key(), id, actor, reason),
            Signal::Terminate { target, .. } => loop_ref.terminate(target),
            Signal::Throw { target, value, .. } => drop(loop_ref.throw_here(target.key(), value)),
            Signal::Resume { target, value, .. } => drop(loop_ref.resume_here(target.key(), value)),
            Signal::ReplyDropped { request_id, .. } => loop_ref.fail_request(request_id, AskError::Dropped),
            other => panic!("not for another node: {other:?}"),
        },
    }
    None
}

#[derive(Serialize, Deserialize, Debug)]
enum Job {
    Add(u32, ReplyTo<u32>),
    /// Answer to a third party's address.
    TellTo(Addr<String>, String),
    Stop,
}
wire!(Job, "test.job/1");

/// A server on node 1, and its address on node 0.
fn server(net: &mut Net) -> Addr<Job> {
    let server = net.nodes[1].spawn(|cx, event| {
        match event {
            Event::Message(Job::Add(0, reply)) => drop(reply),
            Event::Message(Job::Add(n, reply)) => cx.reply(reply, n + 1),
            Event::Message(Job::TellTo(actor, text)) => cx.send(actor, text)?,
            Event::Message(Job::Stop) => return exit("over".to_owned()),
            _ => {}
        }
        receive()
    });
    assert!(net.nodes[1].loop_ref().expose(server));
    Addr::of(server.id())
}

/// An actor on node 0 that asks `n`, and logs the answer.
fn ask(net: &mut Net, log: &Log, server: Addr<Job>, n: u32) -> Addr<Result<u32, AskError>> {
    let log = log.clone();
    let asker = net.nodes[0].spawn(move |cx, event: Event<Result<u32, AskError>>| {
        match event {
            Event::Start => cx.ask(server, secs(1), move |reply| Job::Add(n, reply), |answer| answer),
            Event::Message(answer) => log.note(format!("{answer:?}")),
            _ => {}
        }
        receive()
    });
    net.settle();
    asker
}

/// The number of the request whose reply ends a message.
fn port_in(body: &[u8]) -> RequestId {
    let (_, number) = body.split_last_chunk().expect("eight bytes");
    RequestId::from_bits(u64::from_be_bytes(*number))
}

#[test]
fn messages_cross_in_order_with_sender_and_manner() {
    let mut net = net();
    let log = Log::default();
    let far = net.far::<String>(&log);
    net.act(0, move |cx| {
        for n in 0..3 {
            cx.send(far, n.to_string()).unwrap();
        }
        cx.try_send(far, "try".into()).unwrap();
        cx.tell(far, "tell".into());
    });
    assert_eq!(log.take(), "start 0 1 2 try tell");
    let wires = net.wires[0].borrow();
    assert_eq!(
        wires.manners,
        [SendMode::Send, SendMode::Send, SendMode::Send, SendMode::Try, SendMode::Send]
    );
    assert!(wires.senders.iter().all(|sender| *sender == wires.senders[0] && sender.is_some()));
    assert_eq!(net.deliveries, vec![Delivery::Delivered; 5]);
}

#[test]
fn a_request_and_its_answer_cross() {
    let mut net = net();
    let log = Log::default();
    let server = server(&mut net);
    ask(&mut net, &log, server, 41);
    assert_eq!(log.take(), "Ok(42)");
    assert_eq!((net.nodes[0].stats().requests, net.nodes[0].stats().timers), (0, 0));
    assert_eq!(net.wires[0].borrow().replies, 1, "the node knows whose answer is awaited from there");
    assert_eq!(net.wires[0].borrow().closed.len(), 1, "and that it is over");
    assert_eq!(net.nodes[0].stats().dead_letters + net.nodes[1].stats().dead_letters, 0);
}

#[test]
fn a_reply_dropped_elsewhere_answers_at_once_and_only_that_copy_counts() {
    let mut net = net();
    let log = Log::default();
    let server = server(&mut net);
    ask(&mut net, &log, server, 0);
    assert_eq!(log.take(), "Err(Dropped)");
    assert_eq!(net.nodes[0].stats().requests, 0);
}

#[test]
fn a_reply_in_a_message_that_was_refused_is_alive_again() {
    let mut net = net();
    let log = Log::default();
    let server = server(&mut net);
    net.wires[0].borrow_mut().refusals.push_back(Undelivered::Busy);
    let (out, back) = (log.clone(), Rc::new(RefCell::new(None)));
    let place = back.clone();
    net.nodes[0].spawn(move |cx, event: Event<Result<u32, AskError>>| {
        match event {
            Event::Start => {
                // The message takes the long way: through the hands of the asker, which is told Busy.
                let place = place.clone();
                let me = cx.addr();
                let agent = cx.spawn(move |cx: &mut Cx<Job>, event| {
                    if let Event::Message(job) = event {
                        let error = cx.send(server, job).unwrap_err();
                        assert!(matches!(error, SendError::Busy(_)), "{error:?}");
                        *place.borrow_mut() = Some(error.into_message());
                    }
                    receive()
                });
                let _ = me;
                cx.ask(agent, secs(1), |reply| Job::Add(41, reply), |answer| answer);
            }
            Event::Message(answer) => out.note(format!("{answer:?}")),
            _ => {}
        }
        receive()
    });
    net.settle();
    assert_eq!(log.take(), "", "nobody was told anything yet");
    // Sent again, it works as if nothing had been.
    let job = back.take().unwrap();
    net.act(0, move |cx| cx.send(server, job).unwrap());
    assert_eq!(log.take(), "Ok(42)");
}

#[test]
fn a_request_refused_on_its_way_out_is_answered_why_and_a_reply_dropped_after_a_refusal_is_told() {
    let mut net = net();
    let log = Log::default();
    let server = server(&mut net);
    for (refusal, told) in [
        (Undelivered::Busy, "Err(Busy)"),
        (Undelivered::TooLarge, "Err(WrongType)"),
        (Undelivered::NoNode, "Err(NodeLost)"),
        (Undelivered::NoActor, "Err(NoActor)"),
    ] {
        net.wires[0].borrow_mut().refusals.push_back(refusal);
        ask(&mut net, &log, server, 1);
        assert_eq!(log.take(), told);
    }
    assert_eq!((net.nodes[0].stats().requests, net.nodes[0].stats().timers), (0, 0));
}

/// Node 1 forwards the reply of node 0's request to where it cannot go, and drops it.
#[test]
fn a_foreign_reply_that_could_not_be_forwarded_still_tells_when_it_is_dropped() {
    let mut net = net();
    let log = Log::default();
    let node_id = net.nodes[0].node_id();
    let forwarder = net.nodes[1].spawn(move |cx: &mut Cx<Job>, event| {
        if let Event::Message(job) = event {
            let nowhere = Addr::<Job>::of(ActorId::new(node_id, Key::from_bits(77)));
            assert!(matches!(cx.send(nowhere, job), Err(SendError::Busy(_))));
        }
        receive()
    });
    assert!(net.nodes[1].loop_ref().expose(forwarder));
    net.wires[1].borrow_mut().refusals.push_back(Undelivered::Busy);
    let forwarder = Addr::of(forwarder.id());
    ask(&mut net, &log, forwarder, 41);
    assert_eq!(log.take(), "Err(Dropped)");
}

#[test]
fn a_late_answer_from_elsewhere_is_nothing() {
    let mut net = net();
    let log = Log::default();
    let slow = net.nodes[1].spawn(|_: &mut Cx<Job>, _| sleep(secs(5)));
    assert!(net.nodes[1].loop_ref().expose(slow));
    let slow = Addr::of(slow.id());
    ask(&mut net, &log, slow, 41);
    net.pass(secs(2));
    assert_eq!(log.take(), "Err(TimedOut)");
    net.pass(secs(10));
    assert_eq!(log.take(), "");
}

#[test]
fn an_answer_of_another_type_or_undecodable_is_refused_with_an_answer() {
    for wrong_tag in [true, false] {
        let mut net = net();
        let log = Log::default();
        let server = server(&mut net);
        let seen = log.clone();
        net.nodes[0].spawn(move |cx, event: Event<Result<u32, AskError>>| {
            match event {
                Event::Start => cx.ask(server, secs(1), move |reply| Job::Add(1, reply), |answer| answer),
                Event::Message(answer) => seen.note(format!("{answer:?}")),
                _ => {}
            }
            receive()
        });
        // The request goes out, but what comes back is forged.
        settle(&mut net.nodes[0]);
        let Some(Frame::OutboundMessage { body, .. }) = net.wires[0].borrow_mut().frames.pop_front() else {
            panic!("the request is on its way")
        };
        let request_id = port_in(&body);
        assert!(net.nodes[0].loop_ref().is_open(request_id), "its number travels in it");
        let (tag, body): (_, &[u8]) = if wrong_tag { ("str", b"\xa0") } else { ("u32", b"\xc1") };
        let result = net.nodes[0].loop_ref().complete_request_encoded(request_id, tag, body);
        assert_eq!(result, Err(if wrong_tag { Undelivered::WrongType } else { Undelivered::Encode }));
        net.settle();
        assert_eq!(log.take(), "Err(WrongType)");
        assert_eq!(
            net.nodes[0].loop_ref().complete_request_encoded(request_id, "u32", b"\x01"),
            Err(Undelivered::NoActor)
        );
    }
}

#[test]
fn a_request_whose_reply_never_left_cannot_be_answered_from_the_network() {
    let mut net = net();
    let log = Log::default();
    let seen = log.clone();
    let quiet = net.nodes[0].spawn(|_: &mut Cx<ReplyTo<u32>>, _| suspend());
    net.nodes[0].spawn(move |cx, event: Event<Result<u32, AskError>>| {
        match event {
            Event::Start => cx.ask(quiet, secs(1), |reply| reply, |answer| answer),
            Event::Message(answer) => seen.note(format!("{answer:?}")),
            _ => {}
        }
        receive()
    });
    net.settle();
    let refused = net.nodes[0].loop_ref().complete_request_encoded(RequestId::from_bits(0), "u32", b"\x05");
    assert_eq!(refused, Err(Undelivered::NoActor));
    net.settle();
    assert_eq!(log.take(), "");
}

#[test]
fn addresses_inside_messages_become_reachable_and_name_their_nodes() {
    let mut net = net();
    let log = Log::default();
    let server = server(&mut net);
    let near = scribe::<String>(&mut net.nodes[0], &log);
    net.settle();
    let body = b"\xa5hello";
    assert_eq!(
        net.nodes[0].loop_ref().deliver(near.id().key(), "str", body),
        Delivery::NoActor,
        "it never left"
    );
    net.act(0, move |cx| cx.send(server, Job::TellTo(near, "hello".into())).unwrap());
    assert_eq!(log.take(), "start hello");
    assert_eq!(net.wires[0].borrow().named, [net.nodes[0].node_id()]);
    assert_eq!(net.nodes[0].loop_ref().deliver(near.id().key(), "str", body), Delivery::Delivered);
    net.settle();
    net.act(0, move |cx| cx.terminate(near));
    assert_eq!(net.wires[0].borrow().gone, [near.id().key()], "the node can forget the address");
    assert_eq!(net.nodes[0].loop_ref().deliver(near.id().key(), "str", body), Delivery::NoActor);
}

#[test]
fn a_further_address_can_travel_too() {
    let mut net = net();
    let log = Log::default();
    let server = server(&mut net);
    let seen = log.clone();
    net.nodes[0].spawn(move |cx, event: Event<(u8, String)>| {
        match event {
            Event::Start => {
                let adapter = cx.adapter(|text: String| (7, text));
                cx.send(server, Job::TellTo(adapter, "hello".into()))?;
            }
            Event::Message((n, text)) => seen.note(format!("{n}{text}")),
            _ => {}
        }
        receive()
    });
    net.settle();
    assert_eq!(log.take(), "7hello");
}

#[test]
fn an_address_in_a_message_that_was_not_taken_exposes_nobody() {
    let mut net = net();
    let server = server(&mut net);
    let near = scribe::<String>(&mut net.nodes[0], &Log::default());
    net.wires[0].borrow_mut().refusals.push_back(Undelivered::Busy);
    net.act(0, move |cx| {
        assert!(matches!(cx.send(server, Job::TellTo(near, String::new())), Err(SendError::Busy(_))));
    });
    assert_eq!(net.nodes[0].loop_ref().deliver(near.id().key(), "str", b"\xa0"), Delivery::NoActor);
}

#[test]
fn deliver_tells_wrong_type_undecodable_full_and_nobody() {
    let mut net = net_of(LoopConfig { mailbox_max: 2, ..virtual_config() });
    let events = &mut net.nodes[0];
    let log = Log::default();
    let hidden = scribe::<String>(events, &Log::default());
    let open = scribe::<String>(events, &log);
    events.loop_ref().expose(open);
    let (hidden, open) = (hidden.id().key(), open.id().key());
    let mut loop_ref = events.loop_ref();
    assert_eq!(loop_ref.deliver(open, "bytes", b"\xa1x"), Delivery::WrongType);
    // That it is one value and no more has been checked before, by whoever takes bytes from a network.
    for hostile in [&b"\xa1"[..], b"\x01", b"", b"\xdb\xff\xff\xff\xff"] {
        assert!(matches!(loop_ref.deliver(open, "str", hostile), Delivery::Undecodable(_)), "{hostile:?}");
    }
    assert_eq!(loop_ref.deliver(open, "str", b"\xa1a"), Delivery::Delivered);
    assert_eq!(loop_ref.has_room(open), Some(true));
    assert_eq!(loop_ref.deliver(open, "str", b"\xa1b"), Delivery::Delivered);
    assert_eq!(loop_ref.has_room(open), Some(false));
    assert_eq!(loop_ref.deliver(open, "str", b"\xa1c"), Delivery::Full);
    for bits in [open.to_bits() ^ (1 << 28), u64::MAX, 12345] {
        assert_eq!(loop_ref.deliver(Key::from_bits(bits), "str", b"\xa1x"), Delivery::NoActor);
        assert_eq!(loop_ref.has_room(Key::from_bits(bits)), None);
    }
    assert_eq!(loop_ref.deliver(hidden, "str", b"\xa1d"), Delivery::NoActor);
    for _ in 0..3 {
        drop(loop_ref.send(Addr::<String>::of(ActorId::new(loop_ref.node_id(), hidden)), String::new()));
    }
    assert_eq!(loop_ref.has_room(hidden), Some(false));
    assert_eq!(loop_ref.deliver(hidden, "str", b"\xa1d"), Delivery::NoActor, "not even that it is full");
    settle(events);
    assert_eq!(log.take(), "start a b");
}

#[test]
fn bytes_that_name_an_actor_or_a_request_that_never_left_are_refused() {
    let mut net = net_of(virtual_config());
    let events = &mut net.nodes[0];
    let hidden = scribe::<u32>(events, &Log::default());
    let given = scribe::<u32>(events, &Log::default());
    events.loop_ref().expose(given);
    let taken = Rc::new(std::cell::Cell::new(0));
    let count = taken.clone();
    let relay = events.spawn(move |_: &mut Cx<Addr<u32>>, event| {
        if let Event::Message(_) = event {
            count.set(count.get() + 1);
        }
        receive()
    });
    events.loop_ref().expose(relay);
    let tag = events.loop_ref().tag_of::<Addr<u32>>();
    let bytes = |id: ActorId| {
        let (node, key) = (id.node().to_bits(), id.key().to_bits());
        let mut bytes = vec![0x92, 0xcf];
        bytes.extend(node.to_be_bytes());
        bytes.push(0xcf);
        bytes.extend(key.to_be_bytes());
        bytes
    };
    let mut loop_ref = events.loop_ref();
    assert!(matches!(loop_ref.deliver(relay.id().key(), tag, &bytes(hidden.id())), Delivery::Undecodable(_)));
    assert_eq!(loop_ref.deliver(relay.id().key(), tag, &bytes(given.id())), Delivery::Delivered);
    let elsewhere = ActorId::new(NodeId::from_bits(1), hidden.id().key());
    assert_eq!(loop_ref.deliver(relay.id().key(), tag, &bytes(elsewhere)), Delivery::Delivered);
    assert!(!loop_ref.is_exposed(hidden.id().key()));
    settle(events);
    assert_eq!(taken.get(), 2);
}

#[test]
fn another_node_closes_only_requests_whose_replies_left() {
    let mut net = net_of(virtual_config());
    let log = Log::default();
    let told = log.clone();
    let request_id = Rc::new(std::cell::Cell::new(None));
    let opened = request_id.clone();
    let events = &mut net.nodes[0];
    events.spawn(move |cx: &mut Cx<u32>, event| {
        match event {
            Event::Start => opened.set(cx.open(|n: u32| n).ok()),
            Event::Message(n) => told.note(n),
            _ => {}
        }
        receive()
    });
    settle(events);
    let request_id = request_id.get().expect("it was opened");
    events.loop_ref().fail_request_from_peer(request_id, AskError::Dropped);
    assert!(events.loop_ref().is_open(request_id), "its reply never left");
    assert_eq!(events.loop_ref().complete_request(request_id, 7_u32), Ok(()));
    settle(events);
    assert_eq!(log.take(), "7");
}

#[test]
fn a_full_owner_makes_its_further_address_full_without_dropping_the_reply_in_the_message() {
    let mut net = net_of(LoopConfig { mailbox_max: 1, ..virtual_config() });
    let place = Rc::new(std::cell::Cell::new(None));
    let told = place.clone();
    let owner = net.nodes[1].spawn(move |cx: &mut Cx<u32>, event| {
        if let Event::Start = event {
            told.set(Some(cx.adapter(|_: Job| 1)));
        }
        suspend()
    });
    net.settle();
    let adapter: Addr<Job> = place.get().unwrap();
    net.nodes[1].loop_ref().expose(adapter);
    net.nodes[1].send(owner, 0).unwrap();
    let log = Log::default();
    let adapter = Addr::of(adapter.id());
    ask(&mut net, &log, adapter, 5);
    assert_eq!(net.deliveries, [Delivery::Full], "it is to come again");
    assert_eq!(log.take(), "", "so nobody has dropped the reply");
    assert_eq!(net.nodes[1].loop_ref().has_room(adapter.id().key()), Some(false));
}

#[test]
fn a_message_that_panics_while_it_is_decoded_or_encoded_harms_nobody() {
    struct Rude(bool);
    impl Wire for Rude {
        fn name() -> std::borrow::Cow<'static, str> {
            "test.rude/1".into()
        }
        fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
            assert!(!self.0, "no encoding today");
            out.push(0xc0);
            Ok(())
        }
        fn decode(_: &mut &[u8]) -> Result<Self, DecodeError> {
            panic!("no decoding today")
        }
    }
    impl std::fmt::Display for Rude {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            Ok(())
        }
    }
    let mut net = net();
    let log = Log::default();
    let far = net.far::<Rude>(&log);
    let seen = log.clone();
    net.act(0, move |cx| {
        seen.note(cx.send(far, Rude(true)).unwrap_err());
        cx.send(far, Rude(false)).unwrap();
    });
    assert!(matches!(&net.deliveries[..], [Delivery::Undecodable(text)] if text == "no decoding today"));
    let told = log.take();
    assert!(told.contains("its encoder panicked: no encoding today"), "{told}");
    // Also where the loop itself encodes: a value that somebody elsewhere is to be told.
    let victim = net.nodes[1].spawn(|_: &mut Cx<String>, event| match event {
        Event::Message(_) => exit(Rude(true)),
        _ => receive(),
    });
    net.nodes[1].loop_ref().expose(victim);
    let far = Addr::<String>::of(victim.id());
    log_end(&mut net.nodes[0], &log, far);
    net.settle();
    net.act(0, move |cx| cx.send(far, String::new()).unwrap());
    assert_eq!(log.take(), "[done]");
}

/// Types whose own name has as many bytes as a name may have; composed with any other it has more.
struct Longest;
impl Wire for Longest {
    fn name() -> std::borrow::Cow<'static, str> {
        "x".repeat(TYPE_NAME_MAX).into()
    }
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.push(0xc0);
        Ok(())
    }
    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        <()>::decode(from).map(|()| Longest)
    }
}

#[derive(Serialize, Deserialize)]
enum Carrier {
    Address(Addr<Option<Longest>>),
    ReplyTo(ReplyTo<Option<Longest>>),
}
wire!(Carrier, "test.carrier/1");

#[test]
fn a_type_whose_composed_name_is_too_long_is_refused_where_it_is_used() {
    let mut net = net();
    let log = Log::default();
    let there = net.nodes[1].node_id();
    let far = ActorId::new(there, Key::from_bits(7));
    let here = net.nodes[0].spawn(|_: &mut Cx<Option<Longest>>, _| receive());
    let seen = log.clone();
    net.act(0, move |cx| {
        cx.send(Addr::of(far), Longest).unwrap();
        seen.note(cx.send(Addr::of(far), Some(Longest)).unwrap_err());
        seen.note(cx.send(Addr::of(far), Carrier::Address(here)).unwrap_err());
        let noted = seen.clone();
        cx.ask(Addr::of(far), secs(9), Carrier::ReplyTo, move |answer| noted.note(answer.err().unwrap()));
    });
    let told = log.take();
    assert_eq!(told.matches("has 260 bytes, but at most 255 are allowed").count(), 2, "{told}");
    assert!(told.contains("the request does not fit the actor"), "{told}");
    assert_eq!(net.deliveries.len(), 1, "only the first was sent");
}

#[test]
fn an_exit_value_whose_types_name_is_too_long_arrives_opaque() {
    let mut net = net();
    let log = Log::default();
    let far = net.nodes[1].spawn(|_: &mut Cx<u32>, event| match event {
        Event::Message(_) => exit(Some(Longest)),
        _ => receive(),
    });
    net.nodes[1].loop_ref().expose(far);
    let there = Addr::<u32>::of(far.id());
    let seen = log.clone();
    net.nodes[0].spawn(move |cx: &mut Cx<()>, event| {
        match event {
            Event::Start => _ = cx.monitor(there),
            Event::Down(Down { reason: ExitReason::Done(value), .. }) => {
                seen.note(value.get::<Option<Longest>>().err().unwrap());
            }
            _ => {}
        }
        receive()
    });
    net.settle();
    net.act(0, move |cx| cx.send(there, 1).unwrap());
    assert!(log.take().contains("did not cross the wire"));
}

#[test]
fn monitors_across_nodes_tell_once_with_each_reason() {
    let mut net = net();
    let log = Log::default();
    let server = server(&mut net);
    let seen = log.clone();
    for _ in 0..2 {
        let seen = seen.clone();
        net.nodes[0].spawn(move |cx: &mut Cx<()>, event| {
            match event {
                Event::Start => {
                    cx.monitor(server);
                    let taken_back = cx.monitor(server);
                    cx.demonitor(taken_back);
                }
                Event::Down(Down { actor, reason: ExitReason::Done(value) }) => {
                    seen.note(format!("{} {}", actor == server.id(), value.get::<String>()?));
                }
                _ => {}
            }
            receive()
        });
    }
    net.settle();
    net.act(0, move |cx| cx.send(server, Job::Stop).unwrap());
    assert_eq!(log.take(), "true over true over");
    log_end(&mut net.nodes[0], &log, server);
    net.settle();
    assert_eq!(log.take(), "[no such actor]");
}

#[test]
fn a_value_that_cannot_cross_arrives_opaque() {
    let mut net = net();
    let log = Log::default();
    let far = net.nodes[1].spawn(|_: &mut Cx<u32>, event| match event {
        Event::Message(_) => exit_local("secret"),
        _ => receive(),
    });
    net.nodes[1].loop_ref().expose(far);
    let there = Addr::<u32>::of(far.id());
    let seen = log.clone();
    net.nodes[0].spawn(move |cx: &mut Cx<()>, event| {
        match event {
            Event::Start => _ = cx.monitor(there),
            Event::Down(Down { reason: ExitReason::Done(value), .. }) => {
                seen.note(value.clone().get::<String>().unwrap_err());
                seen.note(value.get_local::<&str>().unwrap_err());
            }
            _ => {}
        }
        receive()
    });
    net.settle();
    net.act(0, move |cx| cx.send(there, 1).unwrap());
    assert_eq!(log.take().matches("did not cross the wire").count(), 2);
}

#[test]
fn an_exit_value_with_an_address_makes_it_reachable() {
    let mut net = net();
    let log = Log::default();
    let kept = scribe::<String>(&mut net.nodes[1], &log);
    let far = net.nodes[1].spawn(move |_: &mut Cx<u32>, event| match event {
        Event::Message(_) => exit(kept),
        _ => receive(),
    });
    net.nodes[1].loop_ref().expose(far);
    let there = Addr::<u32>::of(far.id());
    net.nodes[0].spawn(move |cx: &mut Cx<()>, event| {
        match event {
            Event::Start => _ = cx.monitor(there),
            Event::Down(Down { reason: ExitReason::Done(value), .. }) => {
                cx.send(value.get::<Addr<String>>()?, "found".into())?;
            }
            _ => {}
        }
        receive()
    });
    net.settle();
    net.act(0, move |cx| cx.send(there, 1).unwrap());
    assert_eq!(log.take(), "start found");
}

#[test]
fn notify_terminate_throw_and_resume_cross() {
    let mut net = net();
    let log = Log::default();
    let watcher = scribe::<String>(&mut net.nodes[1], &log);
    net.nodes[1].loop_ref().expose(watcher);
    let watcher = Addr::<String>::of(watcher.id());
    net.settle();
    assert_eq!(log.take(), "start");
    net.act(0, move |cx| cx.notify(watcher));
    assert_eq!(log.take(), "down:done", "whoever notified has ended");
    net.act(0, move |cx| cx.resume(watcher, 7_u32));
    assert_eq!(log.take(), "resumed");
    log_end(&mut net.nodes[0], &log, watcher);
    net.settle();
    net.act(0, move |cx| cx.throw(watcher, "stone".to_owned()));
    assert_eq!(log.take(), "thrown [failed: an exception was thrown into it, and not handled]");
    let other = net.far::<String>(&log);
    log_end(&mut net.nodes[0], &log, other);
    net.settle();
    net.act(0, move |cx| cx.terminate(other));
    assert_eq!(log.take(), "start terminate [terminated]");
}

#[test]
fn a_resumed_value_arrives_as_what_it_was() {
    let mut net = net();
    let log = Log::default();
    let seen = log.clone();
    let far = net.nodes[1].spawn(move |_: &mut Cx<u32>, event| {
        if let Event::Resumed(value) = event {
            seen.note(format!("{:?}", value.clone().get::<(u8, String)>().unwrap()));
            seen.note(value.get::<u32>().unwrap_err());
        }
        suspend()
    });
    net.nodes[1].loop_ref().expose(far);
    let far = Addr::<u32>::of(far.id());
    net.act(0, move |cx| cx.resume(far, (1_u8, "x".to_owned())));
    assert_eq!(log.take(), r#"(1, "x") the value is (u8,str), not u32; read it as (u8,str)"#);
}

#[test]
fn a_reply_inside_a_value_is_refused_and_told_as_dropped() {
    let mut net = net();
    let log = Log::default();
    let far = net.far::<String>(&Log::default());
    let seen = log.clone();
    net.nodes[0].spawn(move |cx, event: Event<Result<u32, AskError>>| {
        match event {
            Event::Start => {
                let agent = cx.spawn(move |cx: &mut Cx<ReplyTo<u32>>, event| {
                    if let Event::Message(reply) = event {
                        cx.resume(far, reply);
                    }
                    receive()
                });
                cx.ask(agent, secs(1), |reply| reply, |answer| answer);
            }
            Event::Message(answer) => seen.note(format!("{answer:?}")),
            _ => {}
        }
        receive()
    });
    net.settle();
    assert_eq!(log.take(), "Err(Dropped)");
}

#[test]
fn a_lost_node_ends_monitors_and_requests_once() {
    let mut net = net();
    let log = Log::default();
    let server = server(&mut net);
    log_end(&mut net.nodes[0], &log, server);
    ask(&mut net, &log, server, 0);
    log.take();
    let slow = net.nodes[1].spawn(|_: &mut Cx<Job>, _| suspend());
    net.nodes[1].loop_ref().expose(slow);
    let slow = Addr::of(slow.id());
    ask(&mut net, &log, slow, 1);
    // What a node does when its peer is lost: it answers all that is open, once.
    let asked = net.wires[0].borrow().last.clone();
    for _ in 0..2 {
        net.nodes[0].loop_ref().fail_request(port_in(&asked), AskError::NodeLost);
    }
    net.settle();
    assert_eq!(log.take(), "Err(NodeLost)");
}

#[test]
fn signals_wait_while_the_outside_is_away_and_messages_do_not() {
    let mut net = net();
    let log = Log::default();
    let far = net.far::<String>(&log);
    net.settle();
    log.take();
    let fake = net.nodes[0].take_transport::<Fake>().expect("it is there, and a fake");
    assert!(net.nodes[0].take_transport::<Fake>().is_none());
    let seen = log.clone();
    net.act(0, move |cx| {
        cx.terminate(far);
        seen.note(cx.send(far, "x".into()).is_err());
    });
    assert_eq!(log.take(), "true");
    net.nodes[0].set_transport(fake);
    net.settle();
    assert_eq!(log.take(), "terminate");
}

#[test]
fn an_outside_is_taken_only_as_what_it_is() {
    struct Other;
    impl Transport for Other {
        fn send(&mut self, _: Time, _: &OutboundMessage<'_>) -> Result<(), Undelivered> {
            Err(Undelivered::NoNode)
        }
        fn signal(&mut self, _: Time, _: Signal) {}
    }
    let mut net = net();
    assert!(net.nodes[0].take_transport::<Other>().is_none());
    assert!(net.nodes[0].loop_ref().transport::<Other>().is_none());
    assert!(net.nodes[0].loop_ref().transport::<Fake>().is_some());
    assert!(net.nodes[0].take_transport::<Fake>().is_some());
}

#[test]
fn writable_is_told_after_busy() {
    let mut net = net();
    let log = Log::default();
    let far = net.far::<String>(&Log::default());
    let there = far.node();
    let seen = log.clone();
    let sender = net.nodes[0].spawn(move |cx: &mut Cx<()>, event| {
        match event {
            Event::Start => {
                let refused = cx.try_send(far, "once".into());
                seen.note(format!("{refused:?}"));
            }
            Event::Writable(node) => {
                seen.note(node == there);
                cx.try_send(far, "again".into())?;
            }
            _ => {}
        }
        receive()
    });
    net.wires[0].borrow_mut().refusals.push_back(Undelivered::Busy);
    net.settle();
    net.nodes[0].loop_ref().writable(sender.id().key(), there);
    net.settle();
    assert_eq!(log.take(), "Err(Busy) true");
    assert_eq!(net.deliveries, [Delivery::Delivered]);
}

#[test]
fn what_is_charged_wakes_and_is_told_like_anything_else_and_costs_until_then() {
    let mut events = Loop::new(virtual_config()).unwrap();
    let log = Log::default();
    let out = log.clone();
    let sleeper = events.spawn(move |_: &mut Cx<String>, event| {
        match event {
            Event::Message(text) => out.note(text),
            Event::Resumed(value) => out.note(value.get::<String>().unwrap()),
            Event::Thrown(thrown) => {
                out.note(thrown.take().get::<String>().unwrap());
                return receive();
            }
            _ => {}
        }
        suspend()
    });
    assert!(events.loop_ref().expose(sleeper));
    settle(&mut events);
    let all = Budget::default();
    let [one, other] = [(); 2].map(|()| Budget::child_of(&all));
    let key = sleeper.id().key();
    let mut body = Vec::new();
    "told".to_owned().encode(&mut body).unwrap();
    let told =
        events.loop_ref().with_permit(Some(one.acquire(5)), |loop_ref| loop_ref.deliver(key, "str", &body));
    assert_eq!(told, Delivery::Delivered);
    settle(&mut events);
    assert_eq!((log.take().as_str(), all.bytes(), one.bytes()), ("", 5, 5));
    let value = |text: &str| Value::new(text.to_owned());
    let resume = |loop_ref: &mut LoopRef<'_>| loop_ref.resume_here(key, value("resumed"));
    assert!(events.loop_ref().with_permit(Some(other.acquire(7)), resume));
    assert_eq!(all.bytes(), 12);
    settle(&mut events);
    assert_eq!((log.take().as_str(), all.bytes(), other.bytes()), ("resumed", 5, 0));
    assert!(
        events
            .loop_ref()
            .with_permit(Some(one.acquire(9)), |loop_ref| loop_ref.throw_here(key, value("thrown")))
    );
    settle(&mut events);
    assert_eq!((log.take().as_str(), all.bytes()), ("thrown told", 0));
    // What is not put anywhere is not charged, nor what comes after it.
    let refused =
        events.loop_ref().with_permit(Some(one.acquire(5)), |loop_ref| loop_ref.deliver(key, "u64", &body));
    assert_eq!((refused, all.bytes()), (Delivery::WrongType, 0));
}

#[test]
fn the_ends_that_others_want_an_actor_told_of_leave_room_for_those_of_its_own_loop() {
    let mut events = Loop::new(virtual_config()).unwrap();
    let log = Log::default();
    let out = log.clone();
    let watcher = events.spawn(move |_: &mut Cx<()>, event| {
        if let Event::Down(down) = event {
            out.note(format!("{}", down.reason));
        }
        receive()
    });
    let key = watcher.id().key();
    let elsewhere = NodeId::from_bits(77);
    let want = |events: &mut Loop, number| {
        let id = MonitorId { origin: elsewhere, number };
        events.loop_ref().expect_down(key, id, ActorId::new(elsewhere, Key::from_bits(number)))
    };
    let admitted = (0..40_000).filter(|number| want(&mut events, *number)).count();
    assert_eq!(admitted, 32_767);
    settle(&mut events);
    assert_eq!(log.take().matches("no more monitors are admitted").count(), 40_000 - 32_767);
    // One of its own loop has room still.
    let brief = events.spawn(|_: &mut Cx<()>, _| stop());
    events.loop_ref().notify(brief.id().key(), watcher.id());
    settle(&mut events);
    assert_eq!(log.take(), "done");
    // Those are bounded by themselves, and what is over makes room.
    let lasting = events.spawn(|_: &mut Cx<()>, _| receive());
    (0..20_000).for_each(|_| events.loop_ref().notify(lasting.id().key(), watcher.id()));
    settle(&mut events);
    assert_eq!(log.take().matches("no more monitors are admitted").count(), 20_000 - 16_383);
    let id = MonitorId { origin: elsewhere, number: 1 };
    events.loop_ref().down(key, id, ActorId::new(elsewhere, Key::from_bits(1)), ExitReason::Terminated);
    assert!(want(&mut events, 50_000) && !want(&mut events, 50_001));
}
