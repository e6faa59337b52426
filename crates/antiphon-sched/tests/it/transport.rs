//! Two loops connected by a fake transport, which does the work of a node without sockets, sessions or names.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use antiphon_sched::*;
use serde::{Deserialize, Serialize};

use crate::common::*;

enum SentFrame {
    OutboundMessage { to: Destination, tag: &'static str, body: Vec<u8> },
    Signal(Signal),
    ReplyDropped { request_id: RequestId, reason: AskError },
}

/// Records what one loop hands to its transport, in order.
#[derive(Default)]
struct TransportRecord {
    /// The frames that have not reached the other loop yet.
    frames: VecDeque<SentFrame>,
    /// The errors with which the next messages are refused.
    refusals: VecDeque<Undelivered>,
    /// The nodes of the addresses in messages, and the number of replies in them.
    address_nodes: Vec<NodeId>,
    replies: usize,
    modes: Vec<SendMode>,
    senders: Vec<Option<Key>>,
    /// The watcher and the id of each monitor of a remote actor.
    monitors: Vec<(Key, MonitorId)>,
    /// Notices that concern only the tables of the own node.
    closed: Vec<RequestId>,
    exited: Vec<Key>,
    no_room_awaited: Vec<(Key, ActorId)>,
    /// The body of the last message.
    last_body: Vec<u8>,
    /// The requests that were withdrawn at their timeouts, because their actors are full.
    withdrawn: Vec<RequestId>,
    withdraws: bool,
}

struct FakeTransport(Rc<RefCell<TransportRecord>>);

impl Transport for FakeTransport {
    fn send(&mut self, _: Time, outbound: &OutboundMessage<'_>) -> Result<(), Undelivered> {
        let mut record = self.0.borrow_mut();
        if let Some(reason) = record.refusals.pop_front() {
            return Err(reason);
        }
        record.address_nodes.extend(outbound.nodes);
        record.replies += outbound.requests.len();
        record.modes.push(outbound.mode);
        record.senders.push(outbound.from);
        record.last_body = outbound.body.to_vec();
        let frame = SentFrame::OutboundMessage {
            to: outbound.to,
            tag: outbound.type_name,
            body: outbound.body.to_vec(),
        };
        record.frames.push_back(frame);
        Ok(())
    }

    fn check_room(
        &mut self,
        _: Time,
        _: Key,
        _: (ActorId, QueueRoom),
        _: SendMode,
    ) -> Result<(), Undelivered> {
        self.0.borrow_mut().refusals.pop_front().map_or(Ok(()), Err)
    }

    fn withdraw(&mut self, _: Time, request_id: RequestId) -> AskError {
        let mut record = self.0.borrow_mut();
        if !record.withdraws {
            return AskError::TimedOut;
        }
        record.withdrawn.push(request_id);
        AskError::Full
    }

    fn signal(&mut self, _: Time, signal: Signal) {
        let mut record = self.0.borrow_mut();
        if let Signal { from: Some(watcher), kind: SignalKind::Monitor(id), .. } = &signal {
            record.monitors.push((watcher.key(), *id));
        }
        record.frames.push_back(SentFrame::Signal(signal));
    }

    fn notice(&mut self, _: Time, notice: Notice) {
        let mut record = self.0.borrow_mut();
        match notice {
            Notice::ReplyDropped { request_id, reason, .. } => {
                record.frames.push_back(SentFrame::ReplyDropped { request_id, reason });
            }
            Notice::RequestClosed { request_id } => record.closed.push(request_id),
            Notice::Exited { actor } => record.exited.push(actor),
            Notice::RoomNotAwaited { sender, address } => record.no_room_awaited.push((sender, address)),
        }
    }
}

/// Two nodes, the records of their transports, and the outcomes of deliveries.
struct TwoNodes {
    nodes: [Loop; 2],
    records: [Rc<RefCell<TransportRecord>>; 2],
    deliveries: Vec<Delivery>,
}

fn two_nodes() -> TwoNodes {
    two_nodes_with(virtual_config())
}

fn two_nodes_with(config: LoopConfig) -> TwoNodes {
    let records = [Rc::default(), Rc::default()];
    let nodes = [0, 1].map(|n| {
        let records: &[Rc<RefCell<TransportRecord>>; 2] = &records;
        let mut events = Loop::new(config.clone()).unwrap();
        events.set_transport(Box::new(FakeTransport(records[n].clone())));
        events
    });
    TwoNodes { nodes, records, deliveries: Vec::new() }
}

impl TwoNodes {
    /// Runs until both loops are idle and no frame is in transit.
    fn settle(&mut self) {
        loop {
            settle(&mut self.nodes[0]);
            settle(&mut self.nodes[1]);
            let mut moved = false;
            for from in 0..2 {
                while let Some(frame) = { self.records[from].borrow_mut().frames.pop_front() } {
                    moved = true;
                    let node_id = self.nodes[from].node_id();
                    let receiver = &mut self.nodes[1 - from];
                    let origin = Origin::new(node_id, 1_000);
                    let (delivery, _) =
                        with_origin(origin, || receive_frame(&mut receiver.local_actors(), frame));
                    self.deliveries.extend(delivery);
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// Runs `act` with the `Cx` of a new actor on `node`.
    fn act(&mut self, node: usize, act: impl FnOnce(&mut Cx<'_, ()>) + 'static) {
        with_cx(&mut self.nodes[node], act);
        self.settle();
    }

    /// Starts an exposed actor on node 1 that logs its events, and returns its address for node 0.
    fn remote_actor<M: Wire + std::fmt::Display>(&mut self, log: &Log) -> Addr<M> {
        let addr = spawn_logger::<M>(&mut self.nodes[1], log);
        assert!(self.nodes[1].loop_ref().service().expose(addr));
        Addr::of(addr.id())
    }

    /// Advances both loops by `span`.
    fn pass(&mut self, span: std::time::Duration) {
        self.settle();
        for node in 0..2 {
            pass(&mut self.nodes[node], span);
        }
        self.settle();
    }
}

/// Handles a frame of the other node. Returns the outcome of a delivery.
fn receive_frame(local: &mut LocalActors<'_>, frame: SentFrame) -> Option<Delivery> {
    match frame {
        SentFrame::OutboundMessage { to: Destination::Actor(id), tag, body } => {
            return Some(local.mailboxes().deliver(id.key(), tag, &body));
        }
        SentFrame::OutboundMessage { to: Destination::Request(node, request_id), tag, body } => {
            assert_eq!(node, local.node_id());
            let _ = local.requests().complete_encoded(request_id, tag, &body);
        }
        SentFrame::ReplyDropped { request_id, reason } => local.requests().fail(request_id, reason),
        SentFrame::Signal(signal) => {
            receive_signal(local, signal);
        }
    }
    None
}

/// Handles a signal of the other node. Whether it was of use.
fn receive_signal(local: &mut LocalActors<'_>, Signal { from, to, kind }: Signal) -> bool {
    let (mut signals, target, from) = (local.signals(), to.key(), || from.expect("an actor sent it"));
    match kind {
        SignalKind::Monitor(id) => signals.add_watcher(target, id, from()),
        SignalKind::Demonitor(id) => signals.remove_watcher(target, id),
        SignalKind::Notify(id) => return signals.expect_down(target, id, from()),
        SignalKind::Down(id, reason) => signals.down(target, id, from(), reason),
        SignalKind::Terminate { grace: Some(grace) } => signals.terminate_within(to, grace),
        SignalKind::Terminate { grace: None } => signals.kill(to),
        SignalKind::Throw(value) => return signals.throw(target, value),
        SignalKind::Resume(value) => return signals.resume(target, value),
        SignalKind::Lagged { .. } => panic!("no channel is in this test"),
    }
    true
}

#[derive(Serialize, Deserialize, Debug)]
enum ServerRequest {
    /// Replies with the number plus one. The server drops the reply for zero.
    Add(u32, ReplyTo<u32>),
    /// Sends the text to the address.
    SendTo(Addr<String>, String),
    Stop,
}
wire!(ServerRequest, "test.job/1");

/// Starts a server on node 1, and returns its address for node 0.
fn server(net: &mut TwoNodes) -> Addr<ServerRequest> {
    let server = net.nodes[1].spawn(|cx, event| {
        match event {
            Event::Message(ServerRequest::Add(0, reply)) => drop(reply),
            Event::Message(ServerRequest::Add(n, reply)) => cx.reply(reply, n + 1),
            Event::Message(ServerRequest::SendTo(actor, text)) => cx.send(actor, text)?,
            Event::Message(ServerRequest::Stop) => return exit("over".to_owned()),
            _ => {}
        }
        receive()
    });
    assert!(net.nodes[1].loop_ref().service().expose(server));
    Addr::of(server.id())
}

/// Starts an actor on node 0 that sends `Add(n, ..)` and logs the result.
fn ask(net: &mut TwoNodes, log: &Log, server: Addr<ServerRequest>, n: u32) -> Addr<Result<u32, AskError>> {
    let log = log.clone();
    let asker = net.nodes[0].spawn(move |cx, event: Event<Result<u32, AskError>>| {
        match event {
            Event::Start => {
                cx.ask(server, secs(1), move |reply| ServerRequest::Add(n, reply), |result| result)
            }
            Event::Message(result) => log.note(format!("{result:?}")),
            _ => {}
        }
        receive()
    });
    net.settle();
    asker
}

/// The id of the request whose `ReplyTo` ends an encoded message.
fn request_id_in(body: &[u8]) -> RequestId {
    let (_, number) = body.split_last_chunk().expect("the body ends with a request id of eight bytes");
    RequestId::from_bits(u64::from_be_bytes(*number))
}

#[test]
fn messages_cross_in_order_with_sender_and_mode() {
    let mut net = two_nodes();
    let log = Log::default();
    let far = net.remote_actor::<String>(&log);
    net.act(0, move |cx| {
        for n in 0..3 {
            cx.send(far, n.to_string()).unwrap();
        }
        cx.try_send(far, "try".into()).unwrap();
        cx.tell(far, "tell".into());
    });
    assert_eq!(log.take(), "start 0 1 2 try tell");
    let record = net.records[0].borrow();
    assert_eq!(record.modes, [SendMode::Send, SendMode::Send, SendMode::Send, SendMode::Try, SendMode::Once]);
    assert!(record.senders.iter().all(|sender| *sender == record.senders[0] && sender.is_some()));
    assert_eq!(net.deliveries, vec![Delivery::Delivered; 5]);
}

#[test]
fn request_and_reply_cross() {
    let mut net = two_nodes();
    let log = Log::default();
    let server = server(&mut net);
    ask(&mut net, &log, server, 41);
    assert_eq!(log.take(), "Ok(42)");
    assert_eq!((net.nodes[0].stats().requests, net.nodes[0].stats().timers), (0, 0));
    assert_eq!(net.records[0].borrow().replies, 1, "the transport sees the reply in the message");
    assert_eq!(net.records[0].borrow().closed.len(), 1, "the transport receives the end of the request");
    assert_eq!(net.nodes[0].stats().dead_letters + net.nodes[1].stats().dead_letters, 0);
}

#[test]
fn reply_dropped_on_peer_fails_request() {
    let mut net = two_nodes();
    let log = Log::default();
    let server = server(&mut net);
    ask(&mut net, &log, server, 0);
    assert_eq!(log.take(), "Err(Dropped)");
    assert_eq!(net.nodes[0].stats().requests, 0);
}

#[test]
fn refused_message_keeps_reply_usable() {
    let mut net = two_nodes();
    let log = Log::default();
    let server = server(&mut net);
    net.records[0].borrow_mut().refusals.push_back(Undelivered::Busy);
    let (out, refused) = (log.clone(), Rc::new(RefCell::new(None)));
    let slot = refused.clone();
    net.nodes[0].spawn(move |cx, event: Event<Result<u32, AskError>>| {
        match event {
            Event::Start => {
                // A local agent forwards the request, so it gets the refused message back.
                let slot = slot.clone();
                let agent = cx.spawn(move |cx: &mut Cx<ServerRequest>, event| {
                    if let Event::Message(request) = event {
                        let error = cx.send(server, request).unwrap_err();
                        assert!(matches!(error, SendError::Busy(_)), "{error:?}");
                        *slot.borrow_mut() = Some(error.into_message());
                    }
                    receive()
                });
                cx.ask(agent, secs(1), |reply| ServerRequest::Add(41, reply), |result| result);
            }
            Event::Message(result) => out.note(format!("{result:?}")),
            _ => {}
        }
        receive()
    });
    net.settle();
    assert_eq!(log.take(), "", "the request is still open");
    // The second attempt succeeds.
    let request = refused.take().unwrap();
    net.act(0, move |cx| cx.send(server, request).unwrap());
    assert_eq!(log.take(), "Ok(42)");
}

#[test]
fn request_refused_by_transport_fails_with_reason() {
    let mut net = two_nodes();
    let log = Log::default();
    let server = server(&mut net);
    for (refusal, result) in [
        (Undelivered::Busy, "Err(Busy)"),
        (
            Undelivered::Payload(PayloadError::TooLarge { bytes: 2, max: 1 }),
            "Err(Request(TooLarge { bytes: 2, max: 1 }))",
        ),
        (Undelivered::NoNode, "Err(NodeLost)"),
        (Undelivered::NoActor, "Err(NoActor)"),
    ] {
        net.records[0].borrow_mut().refusals.push_back(refusal);
        ask(&mut net, &log, server, 1);
        assert_eq!(log.take(), result);
    }
    assert_eq!((net.nodes[0].stats().requests, net.nodes[0].stats().timers), (0, 0));
}

/// Node 1 forwards the reply of node 0's request to an address that its transport refuses, and drops it.
#[test]
fn foreign_reply_dropped_after_refusal_fails_request() {
    let mut net = two_nodes();
    let log = Log::default();
    let node_id = net.nodes[0].node_id();
    let forwarder = net.nodes[1].spawn(move |cx: &mut Cx<ServerRequest>, event| {
        if let Event::Message(request) = event {
            let nowhere = Addr::<ServerRequest>::of(ActorId::new(node_id, Key::from_bits(77)));
            assert!(matches!(cx.send(nowhere, request), Err(SendError::Busy(_))));
        }
        receive()
    });
    assert!(net.nodes[1].loop_ref().service().expose(forwarder));
    net.records[1].borrow_mut().refusals.push_back(Undelivered::Busy);
    let forwarder = Addr::of(forwarder.id());
    ask(&mut net, &log, forwarder, 41);
    assert_eq!(log.take(), "Err(Dropped)");
}

#[test]
fn late_reply_from_peer_is_ignored() {
    let mut net = two_nodes();
    let log = Log::default();
    let replied = Rc::new(std::cell::Cell::new(0));
    let count = replied.clone();
    let slow = net.nodes[1].spawn(move |cx: &mut Cx<ServerRequest>, event| match event {
        Event::Start => sleep(secs(5)),
        Event::Message(ServerRequest::Add(n, reply)) => {
            count.set(count.get() + 1);
            cx.reply(reply, n + 1);
            receive()
        }
        _ => receive(),
    });
    assert!(net.nodes[1].loop_ref().service().expose(slow));
    let slow = Addr::of(slow.id());
    ask(&mut net, &log, slow, 41);
    net.pass(secs(2));
    assert_eq!((log.take().as_str(), replied.get()), ("Err(TimedOut)", 0));
    net.pass(secs(10));
    assert_eq!((log.take().as_str(), replied.get()), ("", 1));
    assert_eq!(net.records[1].borrow().modes.len(), 1, "the late reply crossed");
}

#[test]
fn reply_undecodable_fails_request() {
    for wrong_tag in [true, false] {
        let mut net = two_nodes();
        let log = Log::default();
        let server = server(&mut net);
        let seen = log.clone();
        net.nodes[0].spawn(move |cx, event: Event<Result<u32, AskError>>| {
            match event {
                Event::Start => {
                    cx.ask(server, secs(1), move |reply| ServerRequest::Add(1, reply), |result| result)
                }
                Event::Message(result) => seen.note(format!("{result:?}")),
                _ => {}
            }
            receive()
        });
        // The request is sent, but the reply is forged.
        settle(&mut net.nodes[0]);
        let Some(SentFrame::OutboundMessage { body, .. }) = net.records[0].borrow_mut().frames.pop_front()
        else {
            panic!("no request was sent")
        };
        let request_id = request_id_in(&body);
        assert!(
            net.nodes[0].loop_ref().requests().is_open(request_id),
            "the message contains the request id"
        );
        let (tag, body): (_, &[u8]) = if wrong_tag { ("str", b"\xa0") } else { ("u32", b"\xc1") };
        let result = net.nodes[0].loop_ref().requests().complete_encoded(request_id, tag, body);
        let expected = |reason: &PayloadError| match reason {
            PayloadError::WrongType { expected, found } => {
                wrong_tag && &**expected == "u32" && &**found == "str"
            }
            PayloadError::Decode(_) => !wrong_tag,
            _ => false,
        };
        assert!(matches!(&result, Err(Undelivered::Payload(reason)) if expected(reason)), "{result:?}");
        net.settle();
        let (error, kind) = (log.take(), if wrong_tag { "WrongType" } else { "Decode" });
        assert!(error.starts_with(&format!("Err(Reply({kind}")), "{error}");
        assert_eq!(
            net.nodes[0].loop_ref().requests().complete_encoded(request_id, "u32", b"\x01"),
            Err(Undelivered::NoActor)
        );
    }
}

#[test]
fn local_request_rejects_reply_from_peer() {
    let mut net = two_nodes();
    let log = Log::default();
    let seen = log.clone();
    let stored = Rc::new(std::cell::Cell::new(None));
    let slot = stored.clone();
    let local = net.nodes[0].spawn(move |_, event: Event<ReplyTo<u32>>| {
        if let Event::Message(reply) = event {
            slot.set(Some(reply));
        }
        receive()
    });
    net.nodes[0].spawn(move |cx, event: Event<Result<u32, AskError>>| {
        match event {
            Event::Start => cx.ask(local, secs(1), |reply| reply, |result| result),
            Event::Message(result) => seen.note(format!("{result:?}")),
            _ => {}
        }
        receive()
    });
    net.settle();
    let reply = stored.take().expect("the request arrived");
    let request_id = request_id_of(&reply);
    let refused = net.nodes[0].loop_ref().requests().complete_encoded(request_id, "u32", b"\x05");
    assert_eq!(refused, Err(Undelivered::NoActor));
    assert!(net.nodes[0].loop_ref().requests().is_open(request_id));
    net.settle();
    assert_eq!(log.take(), "");
}

#[test]
fn address_in_message_becomes_reachable() {
    let mut net = two_nodes();
    let log = Log::default();
    let server = server(&mut net);
    let near = spawn_logger::<String>(&mut net.nodes[0], &log);
    net.settle();
    let body = b"\xa5hello";
    assert_eq!(
        net.nodes[0].local_actors().mailboxes().deliver(near.id().key(), "str", body),
        Delivery::NoActor,
        "the address was never sent"
    );
    net.act(0, move |cx| cx.send(server, ServerRequest::SendTo(near, "hello".into())).unwrap());
    assert_eq!(log.take(), "start hello");
    assert_eq!(net.records[0].borrow().address_nodes, [net.nodes[0].node_id()]);
    assert_eq!(
        net.nodes[0].local_actors().mailboxes().deliver(near.id().key(), "str", body),
        Delivery::Delivered
    );
    net.settle();
    net.act(0, move |cx| cx.terminate(near));
    assert_eq!(net.records[0].borrow().exited, [near.id().key()], "the node can forget the address");
    assert_eq!(
        net.nodes[0].local_actors().mailboxes().deliver(near.id().key(), "str", body),
        Delivery::NoActor
    );
}

#[test]
fn adapter_address_in_message_becomes_reachable() {
    let mut net = two_nodes();
    let log = Log::default();
    let server = server(&mut net);
    let seen = log.clone();
    net.nodes[0].spawn(move |cx, event: Event<(u8, String)>| {
        match event {
            Event::Start => {
                let adapter = cx.adapter(|text: String| (7, text)).unwrap();
                cx.send(server, ServerRequest::SendTo(adapter, "hello".into()))?;
            }
            Event::Message((n, text)) => seen.note(format!("{n}{text}")),
            _ => {}
        }
        receive()
    });
    net.settle();
    assert_eq!(log.take(), "7hello");
}

/// The network reaches an adapter only by its own address, and only while it is open.
#[test]
fn exposed_adapter_is_unreachable_after_close() {
    let mut net = two_nodes();
    let log = Log::default();
    let seen = log.clone();
    let adapters = Rc::new(std::cell::Cell::new(None));
    let slot = adapters.clone();
    let owner = net.nodes[0].spawn(move |cx, event: Event<String>| {
        match event {
            Event::Start => {
                slot.set(Some([(); 2].map(|()| cx.adapter(|text: String| format!("+{text}")).unwrap())))
            }
            Event::Message(text) => seen.note(text),
            _ => {}
        }
        receive()
    });
    net.settle();
    let [open, hidden]: [Addr<String>; 2] = adapters.get().expect("the actor has started");
    let (there, events) = (net.nodes[1].node_id(), &mut net.nodes[0]);
    assert!(events.loop_ref().service().expose(open));
    let (owner, open, hidden) = (owner.id().key(), open.id().key(), hidden.id().key());
    let mut local = events.local_actors();
    assert_eq!(local.mailboxes().deliver(open, "str", b"\xa1a"), Delivery::Delivered);
    for key in [owner, hidden] {
        assert_eq!(local.mailboxes().deliver(key, "str", b"\xa1b"), Delivery::NoActor);
        assert!(local.is_alive(key) && !local.is_exposed(key));
    }
    let id = MonitorId { origin: there, number: 5 };
    local.signals().add_watcher(open, id, ActorId::new(there, Key::from_bits(7)));
    let actor = ActorId::new(local.node_id(), open);
    events.loop_ref().close_adapter(actor);
    let mut local = events.local_actors();
    assert_eq!(local.mailboxes().deliver(open, "str", b"\xa1c"), Delivery::NoActor);
    assert!(!local.is_alive(open) && !local.is_exposed(open));
    events.loop_ref().close_adapter(ActorId::new(actor.node(), hidden));
    events.work();
    assert_eq!(net.records[0].borrow().exited, [open], "the node does not know the other adapter");
    net.settle();
    assert_eq!(log.take(), "+a");
}

#[test]
fn refused_message_exposes_no_address() {
    let mut net = two_nodes();
    let server = server(&mut net);
    let near = spawn_logger::<String>(&mut net.nodes[0], &Log::default());
    net.records[0].borrow_mut().refusals.push_back(Undelivered::Busy);
    net.act(0, move |cx| {
        assert!(matches!(
            cx.send(server, ServerRequest::SendTo(near, String::new())),
            Err(SendError::Busy(_))
        ));
    });
    assert_eq!(
        net.nodes[0].local_actors().mailboxes().deliver(near.id().key(), "str", b"\xa0"),
        Delivery::NoActor
    );
}

#[test]
fn deliver_reports_each_failure() {
    let mut net = two_nodes_with(LoopConfig { mailbox_max: 2, ..virtual_config() });
    let events = &mut net.nodes[0];
    let log = Log::default();
    let hidden = spawn_logger::<String>(events, &Log::default());
    let open = spawn_logger::<String>(events, &log);
    events.loop_ref().service().expose(open);
    let (hidden, open) = (hidden.id().key(), open.id().key());
    let mut local = events.local_actors();
    let wrong_type = PayloadError::WrongType { expected: "str".into(), found: "bytes".into() };
    assert_eq!(local.mailboxes().deliver(open, "bytes", b"\xa1x"), Delivery::Refused(wrong_type));
    // The node has checked before that the bytes are exactly one value.
    for hostile in [&b"\xa1"[..], b"\x01", b"", b"\xdb\xff\xff\xff\xff"] {
        assert!(
            matches!(
                local.mailboxes().deliver(open, "str", hostile),
                Delivery::Refused(PayloadError::Decode(_))
            ),
            "{hostile:?}"
        );
    }
    assert_eq!(local.mailboxes().deliver(open, "str", b"\xa1a"), Delivery::Delivered);
    assert_eq!(local.mailboxes().has_room(open), Some(true));
    assert_eq!(local.mailboxes().deliver(open, "str", b"\xa1b"), Delivery::DeliveredOverHalf);
    assert_eq!(local.mailboxes().has_room(open), Some(false));
    assert_eq!(local.mailboxes().deliver(open, "str", b"\xa1c"), Delivery::Full);
    for bits in [open.to_bits() ^ (1 << 28), u64::MAX, 12345] {
        assert_eq!(local.mailboxes().deliver(Key::from_bits(bits), "str", b"\xa1x"), Delivery::NoActor);
        assert_eq!(local.mailboxes().has_room(Key::from_bits(bits)), None);
    }
    assert_eq!(local.mailboxes().deliver(hidden, "str", b"\xa1d"), Delivery::NoActor);
    for _ in 0..3 {
        let hidden = ActorId::new(local.node_id(), hidden);
        drop(local.send(Addr::<String>::of(hidden), String::new()));
    }
    assert_eq!(local.mailboxes().has_room(hidden), Some(false));
    assert_eq!(
        local.mailboxes().deliver(hidden, "str", b"\xa1d"),
        Delivery::NoActor,
        "an actor that is not exposed does not even report that it is full"
    );
    settle(events);
    assert_eq!(log.take(), "start a b");
}

#[test]
fn deliver_rejects_address_never_sent() {
    let mut net = two_nodes_with(virtual_config());
    let events = &mut net.nodes[0];
    let hidden = spawn_logger::<u32>(events, &Log::default());
    let exposed = spawn_logger::<u32>(events, &Log::default());
    events.loop_ref().service().expose(exposed);
    let received = Rc::new(std::cell::Cell::new(0));
    let count = received.clone();
    let relay = events.spawn(move |_: &mut Cx<Addr<u32>>, event| {
        if let Event::Message(_) = event {
            count.set(count.get() + 1);
        }
        receive()
    });
    events.loop_ref().service().expose(relay);
    let tag = events.loop_ref().service().type_name_of::<Addr<u32>>();
    let bytes = |id: ActorId| {
        let (node, key) = (id.node().to_bits(), id.key().to_bits());
        let mut bytes = vec![0x92, 0xcf];
        bytes.extend(node.to_be_bytes());
        bytes.push(0xcf);
        bytes.extend(key.to_be_bytes());
        bytes
    };
    let mut local = events.local_actors();
    assert!(matches!(
        local.mailboxes().deliver(relay.id().key(), tag, &bytes(hidden.id())),
        Delivery::Refused(PayloadError::Decode(_))
    ));
    assert_eq!(local.mailboxes().deliver(relay.id().key(), tag, &bytes(exposed.id())), Delivery::Delivered);
    let foreign = ActorId::new(NodeId::from_bits(1), hidden.id().key());
    assert_eq!(local.mailboxes().deliver(relay.id().key(), tag, &bytes(foreign)), Delivery::Delivered);
    assert!(!local.is_exposed(hidden.id().key()));
    settle(events);
    assert_eq!(received.get(), 2);
}

#[test]
fn peer_cannot_fail_local_request() {
    let mut net = two_nodes_with(virtual_config());
    let log = Log::default();
    let seen = log.clone();
    let request_id = Rc::new(std::cell::Cell::new(None));
    let slot = request_id.clone();
    let events = &mut net.nodes[0];
    events.spawn(move |cx: &mut Cx<u32>, event| {
        match event {
            Event::Start => slot.set(cx.open_request(|n: u32| n).ok()),
            Event::Message(n) => seen.note(n),
            _ => {}
        }
        receive()
    });
    settle(events);
    let request_id = request_id.get().expect("the actor has opened a request");
    events.loop_ref().requests().fail_from_peer(request_id, AskError::Dropped);
    assert!(events.loop_ref().requests().is_open(request_id), "its id was never sent to a peer");
    assert_eq!(events.loop_ref().requests().complete(request_id, 7_u32), Ok(()));
    settle(events);
    assert_eq!(log.take(), "7");
}

#[test]
fn adapter_of_full_actor_keeps_reply_open() {
    let mut net = two_nodes_with(LoopConfig { mailbox_max: 1, ..virtual_config() });
    let adapter = Rc::new(std::cell::Cell::new(None));
    let slot = adapter.clone();
    let owner = net.nodes[1].spawn(move |cx: &mut Cx<u32>, event| {
        if let Event::Start = event {
            slot.set(Some(cx.adapter(|_: ServerRequest| 1).unwrap()));
        }
        suspend()
    });
    net.settle();
    let adapter: Addr<ServerRequest> = adapter.get().unwrap();
    net.nodes[1].loop_ref().service().expose(adapter);
    net.nodes[1].send(owner, 0).unwrap();
    let log = Log::default();
    let adapter = Addr::of(adapter.id());
    ask(&mut net, &log, adapter, 5);
    assert_eq!(net.deliveries, [Delivery::Full], "the node delivers it again later");
    assert_eq!(log.take(), "", "the reply is not dropped");
    assert_eq!(net.nodes[1].local_actors().mailboxes().has_room(adapter.id().key()), Some(false));
}

#[test]
fn wire_panic_fails_only_its_value() {
    /// Panics when it is decoded, and if `true` also when it is encoded.
    struct PanickingWire(bool);
    impl Wire for PanickingWire {
        fn name() -> std::borrow::Cow<'static, str> {
            "test.rude/1".into()
        }
        fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
            assert!(!self.0, "the value refuses to encode");
            out.push(0xc0);
            Ok(())
        }
        fn decode(_: &mut &[u8]) -> Result<Self, DecodeError> {
            panic!("the value refuses to decode")
        }
    }
    impl std::fmt::Display for PanickingWire {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            Ok(())
        }
    }
    let mut net = two_nodes();
    let log = Log::default();
    let far = net.remote_actor::<PanickingWire>(&log);
    let seen = log.clone();
    net.act(0, move |cx| {
        seen.note(cx.send(far, PanickingWire(true)).unwrap_err());
        cx.send(far, PanickingWire(false)).unwrap();
    });
    assert!(matches!(&net.deliveries[..], [Delivery::Refused(PayloadError::Decode(error))]
            if error.reason() == "`test.rude/1`: its decoder panicked: the value refuses to decode"));
    let error = log.take();
    assert!(error.contains("its encoder panicked: the value refuses to encode"), "{error}");
    // The loop itself encodes the exit value for a remote watcher. That panic ends only the encoding.
    let victim = net.nodes[1].spawn(|_: &mut Cx<String>, event| match event {
        Event::Message(_) => exit(PanickingWire(true)),
        _ => receive(),
    });
    net.nodes[1].loop_ref().service().expose(victim);
    let far = Addr::<String>::of(victim.id());
    log_exit(&mut net.nodes[0], &log, far);
    net.settle();
    net.act(0, move |cx| cx.send(far, String::new()).unwrap());
    assert_eq!(log.take(), "[done]");
}

/// A type whose name has the maximal length. A name composed of it and another is too long.
struct LongestName;
impl Wire for LongestName {
    fn name() -> std::borrow::Cow<'static, str> {
        "x".repeat(TYPE_NAME_MAX).into()
    }
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.push(0xc0);
        Ok(())
    }
    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        <()>::decode(from).map(|()| LongestName)
    }
}

#[derive(Serialize, Deserialize)]
enum AddressOrReply {
    Address(Addr<Option<LongestName>>),
    ReplyTo(ReplyTo<Option<LongestName>>),
}
wire!(AddressOrReply, "test.carrier/1");

#[test]
fn composed_type_name_over_limit_is_refused() {
    let mut net = two_nodes();
    let log = Log::default();
    let there = net.nodes[1].node_id();
    let far = ActorId::new(there, Key::from_bits(7));
    let here = net.nodes[0].spawn(|_: &mut Cx<Option<LongestName>>, _| receive());
    let seen = log.clone();
    net.act(0, move |cx| {
        cx.send(Addr::of(far), LongestName).unwrap();
        seen.note(cx.send(Addr::of(far), Some(LongestName)).unwrap_err());
        seen.note(cx.send(Addr::of(far), AddressOrReply::Address(here)).unwrap_err());
        let errors = seen.clone();
        cx.ask(Addr::of(far), secs(9), AddressOrReply::ReplyTo, move |result| {
            errors.note(result.err().unwrap())
        });
    });
    let errors = log.take();
    assert_eq!(errors.matches("has 260 bytes, but at most 255 are allowed").count(), 3, "{errors}");
    assert!(errors.contains("the request was refused: cannot be encoded"), "{errors}");
    assert_eq!(net.deliveries.len(), 1, "only the first message was sent");
}

#[test]
fn exit_value_with_overlong_type_is_not_sent() {
    let mut net = two_nodes();
    let log = Log::default();
    let far = net.nodes[1].spawn(|_: &mut Cx<u32>, event| match event {
        Event::Message(_) => exit(Some(LongestName)),
        _ => receive(),
    });
    net.nodes[1].loop_ref().service().expose(far);
    let there = Addr::<u32>::of(far.id());
    let seen = log.clone();
    net.nodes[0].spawn(move |cx: &mut Cx<()>, event| {
        match event {
            Event::Start => _ = cx.monitor(there),
            Event::Down(Down { reason: ExitReason::Done(value), .. }) => {
                seen.note(value.get::<Option<LongestName>>().err().unwrap());
            }
            _ => {}
        }
        receive()
    });
    net.settle();
    net.act(0, move |cx| cx.send(there, 1).unwrap());
    let error = log.take();
    assert!(error.contains("was not sent") && error.contains("at most 255 are allowed"), "{error}");
}

#[test]
fn remote_monitors_fire_once_with_reason() {
    let mut net = two_nodes();
    let log = Log::default();
    let server = server(&mut net);
    let seen = log.clone();
    for _ in 0..2 {
        let seen = seen.clone();
        net.nodes[0].spawn(move |cx: &mut Cx<()>, event| {
            match event {
                Event::Start => {
                    cx.monitor(server);
                    let cancelled = cx.monitor(server);
                    cx.demonitor(cancelled);
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
    net.act(0, move |cx| cx.send(server, ServerRequest::Stop).unwrap());
    assert_eq!(log.take(), "true over true over");
    log_exit(&mut net.nodes[0], &log, server);
    net.settle();
    assert_eq!(log.take(), "[no such actor]");
}

thread_local! {
    static ENCODED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Counts how often it is encoded.
struct Counted;

impl Wire for Counted {
    fn name() -> std::borrow::Cow<'static, str> {
        "counted/1".into()
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        ENCODED.set(ENCODED.get() + 1);
        7_u64.encode(out)
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        u64::decode(from).map(|_| Self)
    }
}

#[test]
fn exit_value_is_encoded_once_for_all_watchers() {
    let mut net = two_nodes();
    let log = Log::default();
    let far = net.nodes[1].spawn(|_: &mut Cx<u32>, event| match event {
        Event::Message(_) => exit(Counted),
        _ => receive(),
    });
    net.nodes[1].loop_ref().service().expose(far);
    let there = Addr::<u32>::of(far.id());
    for _ in 0..3 {
        let seen = log.clone();
        net.nodes[0].spawn(move |cx: &mut Cx<()>, event| {
            match event {
                Event::Start => _ = cx.monitor(there),
                Event::Down(Down { reason: ExitReason::Done(value), .. }) => {
                    seen.note(value.get::<Counted>().is_ok());
                }
                _ => {}
            }
            receive()
        });
    }
    net.settle();
    net.act(0, move |cx| cx.send(there, 1).unwrap());
    assert_eq!((log.take().as_str(), ENCODED.get()), ("true true true", 1));
}

#[test]
fn local_exit_value_arrives_opaque() {
    let mut net = two_nodes();
    let log = Log::default();
    let far = net.nodes[1].spawn(|_: &mut Cx<u32>, event| match event {
        Event::Message(_) => exit_local("secret"),
        _ => receive(),
    });
    net.nodes[1].loop_ref().service().expose(far);
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
fn address_in_exit_value_becomes_reachable() {
    let mut net = two_nodes();
    let log = Log::default();
    let target = spawn_logger::<String>(&mut net.nodes[1], &log);
    let far = net.nodes[1].spawn(move |_: &mut Cx<u32>, event| match event {
        Event::Message(_) => exit(target),
        _ => receive(),
    });
    net.nodes[1].loop_ref().service().expose(far);
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
fn signals_cross_between_nodes() {
    let mut net = two_nodes();
    let log = Log::default();
    let watcher = spawn_logger::<String>(&mut net.nodes[1], &log);
    net.nodes[1].loop_ref().service().expose(watcher);
    let watcher = Addr::<String>::of(watcher.id());
    net.settle();
    assert_eq!(log.take(), "start");
    net.act(0, move |cx| cx.notify(watcher));
    assert_eq!(log.take(), "down:done", "the actor that called `notify` has stopped");
    net.act(0, move |cx| cx.resume(watcher, 7_u32));
    assert_eq!(log.take(), "resumed");
    log_exit(&mut net.nodes[0], &log, watcher);
    net.settle();
    net.act(0, move |cx| cx.throw(watcher, "exception".to_owned()));
    assert_eq!(log.take(), "thrown [failed: an exception was thrown into it, and not handled]");
    let other = net.remote_actor::<String>(&log);
    log_exit(&mut net.nodes[0], &log, other);
    net.settle();
    net.act(0, move |cx| cx.terminate(other));
    assert_eq!(log.take(), "start terminate [terminated]");
}

#[test]
fn resume_value_keeps_its_type() {
    let mut net = two_nodes();
    let log = Log::default();
    let seen = log.clone();
    let far = net.nodes[1].spawn(move |_: &mut Cx<u32>, event| {
        if let Event::Resumed(value) = event {
            seen.note(format!("{:?}", value.clone().get::<(u8, String)>().unwrap()));
            seen.note(value.get::<u32>().unwrap_err());
        }
        suspend()
    });
    net.nodes[1].loop_ref().service().expose(far);
    let far = Addr::<u32>::of(far.id());
    net.act(0, move |cx| cx.resume(far, (1_u8, "x".to_owned())));
    assert_eq!(log.take(), r#"(1, "x") the value is (u8,str), not u32; read it as (u8,str)"#);
}

#[test]
fn reply_in_resume_value_is_dropped() {
    let mut net = two_nodes();
    let log = Log::default();
    let far = net.remote_actor::<String>(&Log::default());
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
                cx.ask(agent, secs(1), |reply| reply, |result| result);
            }
            Event::Message(result) => seen.note(format!("{result:?}")),
            _ => {}
        }
        receive()
    });
    net.settle();
    assert_eq!(log.take(), "Err(Dropped)");
}

#[test]
fn lost_node_ends_monitors_and_requests_once() {
    let mut net = two_nodes();
    let log = Log::default();
    let server = server(&mut net);
    log_exit(&mut net.nodes[0], &log, server);
    ask(&mut net, &log, server, 0);
    log.take();
    let slow = net.nodes[1].spawn(|_: &mut Cx<ServerRequest>, _| suspend());
    net.nodes[1].loop_ref().service().expose(slow);
    let slow = Addr::of(slow.id());
    ask(&mut net, &log, slow, 1);
    // A node that loses its peer ends every open monitor and request. The second call does nothing.
    let request = net.records[0].borrow().last_body.clone();
    let monitors = net.records[0].borrow().monitors.clone();
    assert_eq!(monitors.len(), 1);
    for _ in 0..2 {
        let mut local = net.nodes[0].local_actors();
        for &(watcher, id) in &monitors {
            local.signals().down(watcher, id, server.id(), ExitReason::NodeLost);
        }
        local.requests().fail(request_id_in(&request), AskError::NodeLost);
    }
    net.settle();
    assert_eq!(log.take(), "[its node was lost] Err(NodeLost)");
}

/// The signals that a transport causes while it works reach it afterwards.
#[test]
fn signals_wait_while_transport_works() {
    let mut net = two_nodes();
    let log = Log::default();
    let far = net.remote_actor::<String>(&log).id();
    let near = net.nodes[0].spawn(move |cx: &mut Cx<()>, event| {
        if let Event::Start = event {
            cx.monitor(far);
        }
        receive()
    });
    net.settle();
    log.take();
    let seen = net.nodes[0].with_transport(|transport: &mut FakeTransport, local| {
        local.signals().kill(near);
        transport.0.borrow().frames.len()
    });
    assert_eq!(seen, Some(0), "the transport works");
    let frames = &net.records[0].borrow().frames;
    let only = (frames.len() == 1).then(|| &frames[0]);
    assert!(
        matches!(only, Some(SentFrame::Signal(Signal { kind: SignalKind::Demonitor(_), .. }))),
        "{} frames",
        frames.len()
    );
}

#[test]
fn transport_is_used_only_by_its_type() {
    struct OtherTransport;
    impl Transport for OtherTransport {
        fn send(&mut self, _: Time, _: &OutboundMessage<'_>) -> Result<(), Undelivered> {
            Err(Undelivered::NoNode)
        }
        fn check_room(
            &mut self,
            _: Time,
            _: Key,
            _: (ActorId, QueueRoom),
            _: SendMode,
        ) -> Result<(), Undelivered> {
            Ok(())
        }
        fn withdraw(&mut self, _: Time, _: RequestId) -> AskError {
            AskError::TimedOut
        }
        fn signal(&mut self, _: Time, _: Signal) {}

        fn notice(&mut self, _: Time, _: Notice) {}
    }
    let mut net = two_nodes();
    assert!(net.nodes[0].with_transport(|_: &mut OtherTransport, _| ()).is_none());
    assert!(net.nodes[0].loop_ref().transport::<OtherTransport>().is_none());
    assert!(net.nodes[0].loop_ref().transport::<FakeTransport>().is_some());
    assert!(net.nodes[0].with_transport(|_: &mut FakeTransport, _| ()).is_some());
}

#[test]
fn busy_sender_gets_writable_event() {
    let mut net = two_nodes();
    let log = Log::default();
    let far = net.remote_actor::<String>(&Log::default());
    let seen = log.clone();
    let sender = net.nodes[0].spawn(move |cx: &mut Cx<()>, event| {
        match event {
            Event::Start => {
                let refused = cx.try_send(far, "once".into());
                seen.note(format!("{refused:?}"));
            }
            Event::Writable { target } => {
                seen.note(target == far.id());
                cx.try_send(far, "again".into())?;
            }
            _ => {}
        }
        receive()
    });
    net.records[0].borrow_mut().refusals.push_back(Undelivered::Busy);
    net.settle();
    // A sender receives the event once, and only if it awaits it.
    for _ in 0..2 {
        net.nodes[0].local_actors().mailboxes().writable(Some(sender.id().key()), far.id());
    }
    net.settle();
    assert_eq!(log.take(), "Err(Busy) true");
    assert_eq!(net.deliveries, [Delivery::Delivered]);
}

#[test]
fn cancelled_wait_for_remote_room_is_reported() {
    let mut net = two_nodes();
    let far = net.remote_actor::<String>(&Log::default()).id();
    refuse_next(&net, 1);
    let to_node = Addr::<String>::of(far);
    net.act(0, move |cx| {
        let me = cx.id().key();
        assert!(matches!(cx.try_send(to_node, "once".into()), Err(SendError::Busy(_))));
        for _ in 0..2 {
            cx.loop_ref().service().cancel_await_room(me, far);
        }
    });
    let reported = std::mem::take(&mut net.records[0].borrow_mut().no_room_awaited);
    assert_eq!(reported.iter().map(|(_, address)| *address).collect::<Vec<_>>(), [far]);
    net.nodes[0].local_actors().mailboxes().writable(Some(reported[0].0), far);
    net.settle();
}

/// Refuses the next messages of node 0 with `Busy`.
fn refuse_next(net: &TwoNodes, times: usize) {
    net.records[0].borrow_mut().refusals.extend(vec![Undelivered::Busy; times]);
}

#[test]
fn busy_remote_target_holds_handle_messages() {
    let mut net = two_nodes();
    let log = Log::default();
    let (far, other) = (net.remote_actor::<u32>(&log), net.remote_actor::<u32>(&log));
    net.settle();
    log.take();
    let handle = net.nodes[0].handle();
    refuse_next(&net, 1);
    (0..4).for_each(|n| handle.send(far, n).unwrap());
    handle.send(other, 10).unwrap();
    net.settle();
    assert_eq!((log.take().as_str(), net.nodes[0].stats().inbox), ("10", 4));
    assert!(matches!(handle.send(far, 4), Err(SendError::Full(4))));
    // The node reports room; it accepts one message and refuses the next again.
    net.nodes[0].local_actors().mailboxes().writable(None, far.id());
    assert!(net.nodes[0].is_runnable());
    refuse_next(&net, 1);
    net.settle();
    assert_eq!((log.take().as_str(), net.nodes[0].stats().inbox), ("", 4));
    net.nodes[0].local_actors().mailboxes().writable(None, far.id());
    net.settle();
    assert_eq!((log.take().as_str(), net.nodes[0].stats().inbox), ("0 1 2 3", 0));
    handle.send(far, 5).unwrap();
    net.settle();
    assert_eq!((log.take().as_str(), net.nodes[0].stats().dead_letters), ("5", 0));
    let record = net.records[0].borrow();
    assert!(record.senders.iter().all(Option::is_none));
    assert!(record.modes.iter().all(|mode| *mode == SendMode::Send));
}

#[test]
fn lost_node_makes_waiting_messages_dead_letters() {
    let mut net = two_nodes();
    let far = net.remote_actor::<u32>(&Log::default());
    net.settle();
    let handle = net.nodes[0].handle();
    refuse_next(&net, 1);
    (0..3).for_each(|n| handle.send(far, n).unwrap());
    net.settle();
    assert_eq!((net.nodes[0].stats().inbox, net.nodes[0].stats().dead_letters), (3, 0));
    net.records[0].borrow_mut().refusals.extend([const { Undelivered::NoNode }; 3]);
    net.nodes[0].local_actors().mailboxes().writable(None, far.id());
    net.settle();
    assert_eq!(net.nodes[0].stats().inbox, 0);
    assert_eq!(net.nodes[0].stats().dead_letters_by_reason.no_node, 3);
}

#[test]
fn permit_is_held_until_event_is_handled() {
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
    assert!(events.loop_ref().service().expose(sleeper));
    settle(&mut events);
    let all = Budget::default();
    let [first, second] = [(); 2].map(|()| Budget::child_of(&all));
    let key = sleeper.id().key();
    let mut body = Vec::new();
    "sent".to_owned().encode(&mut body).unwrap();
    let delivery = events
        .local_actors()
        .with_permit(Some(first.acquire(5)), |local| local.mailboxes().deliver(key, "str", &body));
    assert_eq!(delivery, Delivery::Delivered);
    settle(&mut events);
    assert_eq!((log.take().as_str(), all.used(), first.used()), ("", 5, 5));
    let value = |text: &str| {
        let mut body = Vec::new();
        text.to_owned().encode(&mut body).unwrap();
        EncodedValue::new("str", &body)
    };
    let resume = |local: &mut LocalActors<'_>| local.signals().resume(key, value("resumed"));
    assert!(events.local_actors().with_permit(Some(second.acquire(7)), resume));
    assert_eq!(all.used(), 12);
    settle(&mut events);
    assert_eq!((log.take().as_str(), all.used(), second.used()), ("resumed", 5, 0));
    assert!(
        events
            .local_actors()
            .with_permit(Some(first.acquire(9)), |local| local.signals().throw(key, value("thrown")))
    );
    settle(&mut events);
    assert_eq!((log.take().as_str(), all.used()), ("thrown sent", 0));
    // A refused message releases its permit.
    let refused = events
        .local_actors()
        .with_permit(Some(first.acquire(5)), |local| local.mailboxes().deliver(key, "u64", &body));
    assert!(matches!(refused, Delivery::Refused(PayloadError::WrongType { .. })), "{refused:?}");
    assert_eq!(all.used(), 0);
}

#[test]
fn remote_notifies_leave_room_for_local_ones() {
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
    let remote = NodeId::from_bits(77);
    let expect_down = |events: &mut Loop, number| {
        let id = MonitorId { origin: remote, number };
        events.local_actors().signals().expect_down(key, id, ActorId::new(remote, Key::from_bits(number)))
    };
    let admitted = (0..40_000).filter(|number| expect_down(&mut events, *number)).count();
    assert_eq!(admitted, 32_767);
    settle(&mut events);
    assert_eq!(log.take().matches("no more monitors are admitted").count(), 40_000 - 32_767);
    // A local actor's `notify` still has room.
    let brief = events.spawn(|_: &mut Cx<()>, _| stop());
    events.loop_ref().notify(brief.id().key(), watcher.id());
    settle(&mut events);
    assert_eq!(log.take(), "done");
    // Local notifies have a limit of their own. A `Down` makes room for another remote one.
    let lasting = events.spawn(|_: &mut Cx<()>, _| receive());
    (0..20_000).for_each(|_| events.loop_ref().notify(lasting.id().key(), watcher.id()));
    settle(&mut events);
    assert_eq!(log.take().matches("no more monitors are admitted").count(), 20_000 - 16_383);
    let id = MonitorId { origin: remote, number: 1 };
    events.local_actors().signals().down(
        key,
        id,
        ActorId::new(remote, Key::from_bits(1)),
        ExitReason::Terminated,
    );
    assert!(expect_down(&mut events, 50_000) && !expect_down(&mut events, 50_001));
}

/// Two forms of a request, which serde tries in their order.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Lookup {
    ByKey { reply: ReplyTo<u32>, key: String },
    ByNumber { reply: ReplyTo<u32>, number: u32 },
    WithBytes { reply: ReplyTo<u32>, bytes: Vec<u8> },
}
wire!(Lookup, "test.lookup/1");

/// Asks an actor of node 1 from node 0, and returns the result.
fn ask_with<M: Wire>(
    net: &mut TwoNodes,
    to: Addr<M>,
    request: impl FnOnce(ReplyTo<u32>) -> M + 'static,
) -> String {
    let log = Log::default();
    let (seen, mut request) = (log.clone(), Some(request));
    net.nodes[0].spawn(move |cx, event: Event<Result<u32, AskError>>| {
        match event {
            Event::Start => cx.ask(to, secs(1), request.take().unwrap(), |result| result),
            Event::Message(result) => seen.note(format!("{result:?}")),
            _ => {}
        }
        receive()
    });
    net.settle();
    log.take()
}

#[test]
fn reply_in_untagged_request_stays_open() {
    let mut net = two_nodes();
    let server = net.nodes[1].spawn(|cx, event| {
        match event {
            Event::Message(Lookup::ByKey { reply, key }) => cx.reply(reply, key.len() as u32),
            Event::Message(Lookup::ByNumber { reply, number }) => cx.reply(reply, number),
            Event::Message(Lookup::WithBytes { reply, bytes }) => cx.reply(reply, bytes.len() as u32),
            _ => {}
        }
        receive()
    });
    net.nodes[1].loop_ref().service().expose(server);
    let to = Addr::<Lookup>::of(server.id());
    assert_eq!(ask_with(&mut net, to, |reply| Lookup::ByNumber { reply, number: 5 }), "Ok(5)");
    assert_eq!(ask_with(&mut net, to, |reply| Lookup::ByKey { reply, key: "four".into() }), "Ok(4)");
    // serde reads bytes in such an enum only as numbers, so the message is encoded twice.
    let bytes = vec![7; 5_000];
    assert_eq!(ask_with(&mut net, to, |reply| Lookup::WithBytes { reply, bytes }), "Ok(5000)");
    assert_eq!(net.records[0].borrow().replies, 3, "each message holds one reply");
    assert_eq!((net.nodes[0].stats().requests, net.nodes[1].stats().dead_letters), (0, 0));
}

/// A message that drops its reply while it is decoded.
#[derive(Serialize)]
struct Forgetful(ReplyTo<u32>, u32);

impl<'de> Deserialize<'de> for Forgetful {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (reply, number) = <(ReplyTo<u32>, u32)>::deserialize(deserializer)?;
        if number == 0 {
            return Err(serde::de::Error::custom("zero is refused"));
        }
        drop(reply);
        Ok(Self(
            ReplyTo::deserialize(serde::de::value::SeqDeserializer::<_, D::Error>::new(
                [1_u64, 2].into_iter(),
            ))?,
            number,
        ))
    }
}
wire!(Forgetful, "test.forgetful/1");

#[test]
fn request_without_surviving_reply_completes_as_dropped() {
    let mut net = two_nodes();
    let log = Log::default();
    let seen = log.clone();
    let mut kept = Vec::new();
    let server = net.nodes[1].spawn(move |_: &mut Cx<Forgetful>, event| {
        if let Event::Message(Forgetful(reply, number)) = event {
            seen.note(number);
            kept.push(reply);
        }
        receive()
    });
    net.nodes[1].loop_ref().service().expose(server);
    let to = Addr::<Forgetful>::of(server.id());
    assert_eq!(ask_with(&mut net, to, |reply| Forgetful(reply, 5)), "Err(Dropped)");
    assert_eq!(log.take(), "5", "the message arrived");
}

/// The request of a third node, in a message that does not decode, would otherwise wait for its timeout.
#[test]
fn refused_message_fails_requests_of_others() {
    let mut net = two_nodes();
    let log = Log::default();
    let target = spawn_logger_of_forgetful(&mut net.nodes[0], &log);
    net.nodes[0].loop_ref().service().expose(target);
    let target = Addr::<Forgetful>::of(target.id());
    // Node 1 passes the reply on to an actor of node 0, in a message that node 0 refuses.
    let relay = net.nodes[1].spawn(move |cx: &mut Cx<Lookup>, event| {
        if let Event::Message(Lookup::ByNumber { reply, number }) = event {
            cx.send(target, Forgetful(reply, number))?;
        }
        receive()
    });
    net.nodes[1].loop_ref().service().expose(relay);
    let to = Addr::<Lookup>::of(relay.id());
    assert_eq!(ask_with(&mut net, to, |reply| Lookup::ByNumber { reply, number: 0 }), "Err(Dropped)");
    assert_eq!(log.take(), "", "the message was refused");
}

fn spawn_logger_of_forgetful(events: &mut Loop, log: &Log) -> Addr<Forgetful> {
    let log = log.clone();
    events.spawn(move |_: &mut Cx<Forgetful>, event| {
        if let Event::Message(Forgetful(_, number)) = event {
            log.note(number);
        }
        receive()
    })
}

#[test]
fn unencodable_reply_names_cause_on_both_sides() {
    let mut net = two_nodes();
    let log = Log::default();
    let seen = log.clone();
    let server = net.nodes[1].spawn(move |cx: &mut Cx<NestedRequest>, event| {
        if let Event::Message(NestedRequest(reply)) = event {
            seen.note(cx.try_reply(reply, Nested(Some(None))).unwrap_err());
        }
        receive()
    });
    net.nodes[1].loop_ref().service().expose(server);
    let to = Addr::<NestedRequest>::of(server.id());
    let answers = Log::default();
    let errors = answers.clone();
    net.nodes[0].spawn(move |cx, event: Event<Result<Nested, AskError>>| {
        match event {
            Event::Start => cx.ask(to, secs(1), NestedRequest, |result| result),
            Event::Message(result) => errors.note(result.unwrap_err()),
            _ => {}
        }
        receive()
    });
    net.settle();
    let (there, here) = (log.take(), answers.take());
    for error in [&there, &here] {
        assert!(error.contains("Nested") && error.contains("would arrive as `None`"), "{error}");
    }
    assert!(here.starts_with("the reply was refused"), "{here}");
}

#[derive(Serialize, Deserialize, Debug)]
struct Nested(Option<Option<u8>>);
wire!(Nested, "test.nested/1");

#[derive(Serialize, Deserialize)]
struct NestedRequest(ReplyTo<Nested>);
wire!(NestedRequest, "test.nested_request/1");

/// The messages of a server that keeps a reply of its own node, and returns it within a reply that does not decode.
#[derive(Serialize, Deserialize)]
enum ReplyStore {
    Keep(ReplyTo<u32>),
    Give(ReplyTo<Forgetful>),
}
wire!(ReplyStore, "test.reply_store/1");

#[test]
fn refused_reply_fails_requests_within_it() {
    let mut net = two_nodes();
    let mut kept = None;
    let store = net.nodes[1].spawn(move |cx: &mut Cx<ReplyStore>, event| {
        match event {
            Event::Message(ReplyStore::Keep(reply)) => kept = Some(reply),
            // The other node refuses zero.
            Event::Message(ReplyStore::Give(reply)) => cx.reply(reply, Forgetful(kept.take().unwrap(), 0)),
            _ => {}
        }
        receive()
    });
    net.nodes[1].loop_ref().service().expose(store);
    let log = Log::default();
    let seen = log.clone();
    net.nodes[1].spawn(move |cx, event: Event<Result<u32, AskError>>| {
        match event {
            Event::Start => cx.ask(store, secs(60), ReplyStore::Keep, |result| result),
            Event::Message(result) => seen.note(format!("{result:?}")),
            _ => {}
        }
        receive()
    });
    net.settle();
    assert_eq!(log.take(), "", "the store has not replied yet");
    let to = Addr::<ReplyStore>::of(store.id());
    let refused = Log::default();
    let seen = refused.clone();
    net.nodes[0].spawn(move |cx, event: Event<Result<Forgetful, AskError>>| {
        match event {
            Event::Start => cx.ask(to, secs(60), ReplyStore::Give, |result| result),
            Event::Message(result) => seen.note(result.err().unwrap()),
            _ => {}
        }
        receive()
    });
    net.settle();
    assert!(refused.take().contains("zero is refused"));
    assert_eq!(log.take(), "Err(Dropped)");
}

#[test]
fn untagged_request_over_quota_is_refused() {
    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum AskOrPair {
        Ask(ReplyTo<u32>),
        Pair(u64, u64),
    }
    wire!(AskOrPair, "test.ask_or_pair/1");
    let mut net = two_nodes();
    let actor = net.nodes[0].spawn(|_: &mut Cx<AskOrPair>, event| match event {
        Event::Message(AskOrPair::Ask(_) | AskOrPair::Pair(..)) => panic!("it was delivered"),
        _ => receive(),
    });
    net.nodes[0].loop_ref().service().expose(actor);
    settle(&mut net.nodes[0]);
    let node = net.nodes[1].node_id();
    let tag = net.nodes[0].loop_ref().service().type_name_of::<AskOrPair>();
    // The bytes of a `ReplyTo` are those of two numbers.
    let (delivery, _) = with_origin(Origin::new(node, 0), || {
        net.nodes[0].local_actors().mailboxes().deliver(actor.id().key(), tag, b"\x92\x01\x02")
    });
    assert_eq!(delivery, Delivery::OverQuota);
}

/// A request whose own decoding, which its sender tries because of the 128-bit integer, panics.
#[derive(Serialize)]
struct Unreadable(ReplyTo<u32>, u128);

impl<'de> Deserialize<'de> for Unreadable {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let _parts = <(ReplyTo<u32>, u128)>::deserialize(deserializer)?;
        panic!("it cannot be read")
    }
}
wire!(Unreadable, "test.unreadable/1");

#[test]
fn panic_in_trial_decoding_affects_no_other_message() {
    let mut net = two_nodes();
    let log = Log::default();
    let server = server(&mut net);
    let to = Addr::<Unreadable>::of(server.id());
    let error = ask_with(&mut net, to, |reply| Unreadable(reply, 1));
    assert!(error.contains("its decoder panicked: it cannot be read"), "{error}");
    ask(&mut net, &log, server, 41);
    assert_eq!(log.take(), "Ok(42)");
    assert_eq!(net.nodes[0].stats().requests, 0);
}

/// Steps that send much to other nodes take long: the others need not wait for 64 of them.
#[test]
fn long_steps_end_their_batch_early() {
    let mut net = two_nodes_with(LoopConfig { watchdog: None, ..LoopConfig::default() });
    let log = Log::default();
    let remote = net.remote_actor::<u32>(&Log::default());
    let (busy_log, other_log) = (log.clone(), log.clone());
    let busy = net.nodes[0].spawn(move |cx: &mut Cx<u32>, event| {
        if let Event::Message(_) = event {
            busy_log.note("busy");
            (0..300).for_each(|number| cx.tell(remote, number));
            let begun = std::time::Instant::now();
            while begun.elapsed() < millis(1) {}
        }
        receive()
    });
    let other = net.nodes[0].spawn(move |_: &mut Cx<u32>, event| {
        if let Event::Message(_) = event {
            other_log.note("other");
        }
        receive()
    });
    settle(&mut net.nodes[0]);
    (0..64).for_each(|number| net.nodes[0].send(busy, number).unwrap());
    net.nodes[0].send(other, 1).unwrap();
    while !log.0.borrow().iter().any(|entry| entry == "other") {
        net.nodes[0].work();
    }
    assert!(log.take().starts_with("busy other"));
}

/// Adds monitors of actors on node 0 for an actor of node 1, as the node of the watchers requests them.
fn add_watchers(net: &mut TwoNodes, target: Key, numbers: std::ops::Range<u64>) {
    let origin = net.nodes[0].node_id();
    for number in numbers {
        let watcher = ActorId::new(origin, Key::from_bits(number));
        net.nodes[1].local_actors().signals().add_watcher(target, MonitorId { origin, number }, watcher);
    }
}

/// The numbers of the monitors whose `Down`s node 1 has sent since the last call.
fn take_downs(net: &TwoNodes) -> Vec<u64> {
    let frames = std::mem::take(&mut net.records[1].borrow_mut().frames);
    let number = |frame: SentFrame| match frame {
        SentFrame::Signal(Signal { kind: SignalKind::Down(id, _), .. }) => Some(id.number),
        _ => None,
    };
    frames.into_iter().filter_map(number).collect()
}

#[test]
fn remote_watchers_get_downs_in_parts() {
    let mut net = two_nodes();
    let target = net.remote_actor::<u32>(&Log::default()).id().key();
    net.settle();
    add_watchers(&mut net, target, 0..5000);
    let actor = ActorId::new(net.nodes[1].node_id(), target);
    net.nodes[1].with_transport(|_: &mut FakeTransport, local| local.signals().kill(actor));
    let mut sent = take_downs(&net);
    assert_eq!(net.records[1].borrow().exited, [target], "it is reported before the Downs that wait");
    // The Down of a monitor that its watcher removes meanwhile is never sent.
    for number in 4000..4500 {
        let id = MonitorId { origin: net.nodes[0].node_id(), number };
        net.nodes[1].local_actors().signals().remove_watcher(target, id);
    }
    // A monitor that is set again in another session has one Down.
    let id = MonitorId { origin: net.nodes[0].node_id(), number: 4500 };
    let watcher = ActorId::new(id.origin, Key::from_bits(4500));
    net.nodes[1].with_transport(|_: &mut FakeTransport, local| {
        local.signals().refuse_monitor(target, id, watcher, ExitReason::NoActor);
    });
    sent.extend(take_downs(&net));
    while net.nodes[1].is_runnable() {
        net.nodes[1].work();
        let part = take_downs(&net);
        assert!(part.len() <= 256, "a round sent {} Downs", part.len());
        sent.extend(part);
    }
    sent.sort_unstable();
    assert_eq!(sent, (0..4000).chain(4500..5000).collect::<Vec<u64>>());
    assert_eq!(net.records[1].borrow().exited, [target]);
}

#[test]
fn local_watcher_gets_down_before_remote_ones() {
    let mut net = two_nodes();
    let log = Log::default();
    let target = net.remote_actor::<u32>(&Log::default());
    for bits in [0, u64::MAX] {
        for number in 0..5000 {
            let origin = NodeId::from_bits(bits);
            let watcher = ActorId::new(origin, Key::from_bits(number));
            let id = MonitorId { origin, number };
            net.nodes[1].local_actors().signals().add_watcher(target.id().key(), id, watcher);
        }
    }
    log_exit(&mut net.nodes[1], &log, target);
    settle(&mut net.nodes[1]);
    net.nodes[1].local_actors().signals().kill(target);
    net.nodes[1].work();
    assert_eq!(log.take(), "[terminated]");
    settle(&mut net.nodes[1]);
    assert_eq!(take_downs(&net).len(), 10_000);
}

#[test]
fn loop_that_ends_sends_waiting_downs() {
    for is_stopped in [false, true] {
        let mut net = two_nodes();
        let target = net.nodes[1].spawn(|_: &mut Cx<u32>, event| match event {
            Event::Message(_) => stop(),
            _ => receive(),
        });
        settle(&mut net.nodes[1]);
        add_watchers(&mut net, target.id().key(), 0..5000);
        if is_stopped {
            net.nodes[1].handle().stop();
        } else {
            net.nodes[1].send(target, 1).unwrap();
        }
        net.nodes[1].run().unwrap();
        assert_eq!(take_downs(&net).len(), 5000, "stopped: {is_stopped}");
        assert!(!net.nodes[1].is_runnable());
    }
}

#[test]
fn exit_value_is_encoded_once_for_all_parts() {
    let mut net = two_nodes();
    let target = net.nodes[1].spawn(|_: &mut Cx<u32>, event| match event {
        Event::Message(_) => exit(Counted),
        _ => receive(),
    });
    settle(&mut net.nodes[1]);
    add_watchers(&mut net, target.id().key(), 0..1000);
    net.nodes[1].send(target, 1).unwrap();
    settle(&mut net.nodes[1]);
    assert_eq!((take_downs(&net).len(), ENCODED.get()), (1000, 1));
}
