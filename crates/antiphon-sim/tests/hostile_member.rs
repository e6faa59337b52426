//! A member that sends whatever it likes, within its credit: after each of its records the node holds no more bytes for it than
//! the limits allow, and has done no more work than a record may cause.
//!
//! The node checks the first itself ([`SimNode::check_core`]).
//! Each seed chooses whether the member grants credit, acknowledges frames, and heeds pauses, and what it sends in which order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use antiphon_dist::{Channel, Config, NetCx, Refusals};
use antiphon_sched::{Addr, Bytes, Cx, Event, Loop, ReplyTo, exit, receive, suspend};
use antiphon_sim::{
    Machine, MachineInput, MachineOutput, MemoryDisk, Outputs, SimConn, SimNode, SimRng, assert_covered,
    seeds,
};
use antiphon_wire::frame::{
    Ack, Begin, Credit, Fragment, FragmentPart, IdleProposed, Lookup, LookupResult, Message, Monitor,
    NameSpace, Notify, Pause, Ping, Pong, RawFrame, Tag, Throw, Unpause,
};
use antiphon_wire::{
    Deframer, Entropy, Epochs, Frame, Handshake, HandshakeStep, Key, Keyring, Limits, NodeId, Profile,
    ResumeState, Route, Session, Suite, TagId, Time,
};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
enum Ask {
    /// Replies with so many bytes.
    Bytes(u32, ReplyTo<Bytes>),
    /// Keeps the reply.
    Keep(ReplyTo<Bytes>),
}
antiphon_sched::wire!(Ask, "test.hostile.ask/1", compact);

/// The moves of one seed.
const MOVES: usize = 100;
/// The most bytes of frames in a record.
const RECORD_BYTES: usize = 60_000;
/// The most steps that a record may cost: the frames in it, what waits for the member and moves, and the constant work of
/// a round.
const STEPS_MAX: u64 = 40_000;
const SLEEPERS: usize = 30;
const HEAVY: usize = 100;

/// The names under which the victim's actors are found, and the type tags that the member numbers.
const TAGS: [&str; 6] = [
    "bytes",
    "test.hostile.ask/1",
    "()",
    "antiphon.channel<bytes>",
    "antiphon.call<(),()>",
    "antiphon.files.service/1",
];

fn spawn_actors(sched: &mut Loop) {
    for number in 0..SLEEPERS {
        sched.spawn(move |cx: &mut Cx<Bytes>, event| {
            if let Event::Start = event {
                cx.register(&format!("sleeper-{number}"))?;
            }
            suspend()
        });
    }
    for number in 0..HEAVY {
        sched.spawn(move |cx: &mut Cx<Bytes>, event| match event {
            Event::Start => {
                cx.register(&format!("heavy-{number}"))?;
                receive()
            }
            _ => exit(Bytes::from(vec![0; 1 << 20])),
        });
    }
    let mut kept = Vec::new();
    sched.spawn(move |cx: &mut Cx<Ask>, event| {
        match event {
            Event::Start => cx.register("asked")?,
            Event::Message(Ask::Bytes(bytes, reply)) => {
                cx.reply(reply, Bytes::from(vec![0; (bytes as usize).min(1 << 20)]));
            }
            Event::Message(Ask::Keep(reply)) => kept.push(reply),
            _ => {}
        }
        receive()
    });
    sched.spawn(|cx: &mut Cx<()>, event| {
        if let Event::Start = event {
            cx.rci("function", |()| |_: &mut Cx<()>, _| suspend())?;
        }
        receive()
    });
    sched.spawn(|cx: &mut Cx<Bytes>, event| {
        if let Event::Start = event {
            let channel: Channel<Bytes> = cx.channel("channel")?;
            let addr: Addr<Bytes> = cx.addr();
            cx.subscribe(channel, addr);
        }
        receive()
    });
}

/// What a seed chooses for all moves.
#[derive(Debug)]
struct Habits {
    grants_credit: bool,
    acknowledges: bool,
}

struct World {
    node: SimNode,
    out: Outputs,
    now: Time,
    wake: Option<Time>,
    conn: Option<SimConn>,
    /// The member's end of the handshake, until it is over.
    handshake: Option<Handshake>,
    profile: Profile,
    input: Deframer,
    records: Vec<u8>,
    habits: Habits,
    rng: SimRng,
    /// The position up to which the member may send, and what it has sent.
    granted: u64,
    sent: u64,
    /// The numbered frames that have arrived.
    received: u64,
    /// The position up to which the victim may send.
    credit: u64,
    pongs: Vec<u64>,
    keys: BTreeMap<String, Key>,
    lookups: BTreeMap<u64, String>,
    next_number: u64,
    tags: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = SimRng::new(seed);
        let location = SocketAddr::from(([127, 0, 0, 1], 4000));
        let config = Config { udp_port: Some(4000), dest_path: Some("received".into()), ..Config::default() };
        let disk = MemoryDisk::new();
        let node = SimNode::on_disk(&config, location, rng.number(), &disk, spawn_actors);
        let habits = Habits { grants_credit: rng.once_in(2), acknowledges: rng.once_in(2) };
        let profile = Profile {
            node: NodeId::from_bits(rng.number()),
            name: "hostile".into(),
            locations: vec![([127, 0, 0, 1], 4001).into()],
            suites: vec![Suite::Plain],
            keyring: Keyring::default(),
            flags: 0,
            limits: Limits::default(),
        };
        let limits = Limits::default();
        let mut world = Self {
            node,
            out: Outputs::new(1),
            now: Time::ZERO,
            wake: None,
            conn: None,
            handshake: None,
            profile,
            input: Deframer::new(),
            records: Vec::new(),
            habits,
            rng,
            granted: limits.window_bytes.into(),
            sent: 0,
            received: 0,
            credit: limits.window_bytes.into(),
            pongs: Vec::new(),
            keys: BTreeMap::new(),
            lookups: BTreeMap::new(),
            next_number: 0,
            tags: TAGS.len() as u32,
        };
        world.feed(MachineInput::Start);
        world.join();
        world
    }

    /// The member connects, and looks up all actors.
    fn join(&mut self) {
        let (conn, mut hello) = (SimConn(2), Vec::new());
        let entropy = Entropy::new(self.rng.bytes(), self.rng.bytes(), |_| Some([5; 32]));
        self.handshake =
            Some(Handshake::dial(&self.profile, entropy, ResumeState::unknown(1), None, &mut hello));
        self.conn = Some(conn);
        self.feed(MachineInput::Accepted { conn, from: SocketAddr::from(([127, 0, 0, 1], 4001)) });
        self.write(&hello);
        assert!(self.handshake.is_none(), "the handshake is complete");
        self.send(&[Begin { frame: 0 }.into()]);
        let tags: Vec<Frame<'_>> =
            (0..).zip(TAGS).map(|(id, name)| Tag { id: TagId(id), name }.into()).collect();
        self.send(&tags);
        let sleepers = (0..SLEEPERS).map(|number| format!("sleeper-{number}"));
        let heavy = (0..HEAVY).map(|number| format!("heavy-{number}"));
        for name in sleepers.chain(heavy).chain(["asked".to_owned()]) {
            let request = self.number();
            self.lookups.insert(request, name.clone());
            self.send(&[Lookup { request, space: NameSpace::Actor, all: false, name: &name }.into()]);
        }
        let services =
            [(NameSpace::Channel, "channel"), (NameSpace::Rci, "function"), (NameSpace::Service, "files")];
        for (space, name) in services {
            let request = self.number();
            self.lookups.insert(request, name.to_owned());
            self.send(&[Lookup { request, space, all: false, name }.into()]);
        }
        assert_eq!(self.keys.len(), SLEEPERS + HEAVY + 4, "the member has found all actors");
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn key(&self, name: &str) -> Key {
        self.keys[name]
    }

    fn any_sleeper(&mut self) -> Key {
        let number = self.rng.below(SLEEPERS as u64);
        self.key(&format!("sleeper-{number}"))
    }

    /// Sends one record with as many of these frames as the credit admits.
    fn send(&mut self, frames: &[Frame<'_>]) {
        let mut body = Vec::new();
        for frame in frames {
            let bytes = frame.encoded_size();
            let is_numbered = frame.kind() >= 0x20;
            if body.len() as u64 + bytes > RECORD_BYTES as u64
                || (is_numbered && self.sent + bytes > self.granted)
            {
                break;
            }
            self.sent += if is_numbered { bytes } else { 0 };
            frame.encode(&mut body).expect("a small frame");
        }
        if self.conn.is_some() && !body.is_empty() {
            let mut record = (body.len() as u16).to_le_bytes().to_vec();
            record.extend([1, 0]);
            record.extend(&body);
            self.write(&record);
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        let Some(conn) = self.conn else { return };
        let steps = self.node.steps();
        self.feed(MachineInput::Bytes { conn, bytes });
        let steps = self.node.steps() - steps;
        assert!(steps <= STEPS_MAX, "{} bytes caused {steps} steps", bytes.len());
    }

    /// Time passes, with the timers of the victim.
    fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some(due) = self.wake.filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.wake = None;
            self.feed(MachineInput::Timer);
        }
        self.now = until;
        self.feed(MachineInput::Timer);
        let pongs: Vec<Frame<'_>> =
            std::mem::take(&mut self.pongs).into_iter().map(|token| Pong { token }.into()).collect();
        self.send(&pongs);
    }

    fn feed(&mut self, input: MachineInput<'_>) {
        self.node.handle(self.now, input, &mut self.out);
        self.node.check_core();
        for output in self.out.take() {
            match output {
                MachineOutput::Dial { conn, .. } => self.feed(MachineInput::DialFailed(conn)),
                MachineOutput::Write { conn, bytes } => {
                    self.feed(MachineInput::Writable(conn));
                    if self.conn == Some(conn) {
                        self.receive(&bytes);
                    }
                }
                MachineOutput::Close(conn) => self.conn = self.conn.filter(|other| *other != conn),
                MachineOutput::Datagram { .. } => {}
                MachineOutput::Wake(at) => self.wake = Some(at),
            }
        }
    }

    fn receive(&mut self, bytes: &[u8]) {
        let Some(mut handshake) = self.handshake.take() else {
            self.records.extend(bytes);
            return self.take_records();
        };
        self.input.push(bytes);
        let mut answer = Vec::new();
        loop {
            match handshake.advance(&self.profile, &mut self.input, &mut answer).expect("a valid handshake") {
                HandshakeStep::Introduced => {
                    let state = Session::prove_to(None, &mut Epochs::default(), &handshake);
                    let state = state.expect("there is no session yet");
                    handshake.prove(&self.profile, state, &mut answer).expect("a valid proof");
                }
                HandshakeStep::Done(_) => return,
                HandshakeStep::Wait | HandshakeStep::Proven => break,
            }
        }
        self.handshake = Some(handshake);
        self.write(&answer);
    }

    fn take_records(&mut self) {
        let records = std::mem::take(&mut self.records);
        let mut rest = records.as_slice();
        while let Some(length) = rest.get(..2).map(|two| usize::from(u16::from_le_bytes([two[0], two[1]])))
            && let Some(mut body) = rest.get(4..4 + length)
        {
            rest = &rest[4 + length..];
            while let Ok(Some(raw)) = RawFrame::take_from(&mut body) {
                if raw.is_numbered() {
                    self.received += 1;
                    self.credit += raw.bytes_len() as u64;
                }
                match raw.decode() {
                    Ok(Some(Frame::Credit(credit))) => self.granted = self.granted.max(credit.until),
                    Ok(Some(Frame::Ping(ping))) => self.pongs.push(ping.token),
                    Ok(Some(Frame::Found(found))) => {
                        let name = self.lookups.remove(&found.request);
                        if let (LookupResult::Found { key, .. }, Some(name)) = (found.result, name) {
                            self.keys.insert(name, key);
                        }
                    }
                    _ => {}
                }
            }
        }
        self.records = rest.to_vec();
    }

    /// One move: a record of some kind, or time.
    fn advance(&mut self) {
        if self.habits.grants_credit {
            self.send(&[Credit { until: self.credit }.into()]);
        }
        if self.habits.acknowledges {
            self.send(&[Ack { next: self.received }.into()]);
        }
        let first = self.number() * 10_000;
        self.next_number += 10_000;
        match self.rng.below(20) {
            0 => {
                let bytes = 1 + self.rng.below(900) as usize;
                self.send_to_sleepers(bytes);
            }
            1 => self.send_to_sleepers(14_000),
            2 => self.send_many(|number| {
                let (to, from, tag) = (Key::from_bits(5), Key::from_bits(1), TagId(0));
                Message { to, from, tag, receipt: Some(first + number), route: Route::NONE, body: &[0xc0] }
                    .into()
            }),
            3 => self.send_many(|number| {
                Monitor { watcher: Key::from_bits(3), target: Key::from_bits(number), id: first + number }
                    .into()
            }),
            4 => {
                let target = self.any_sleeper();
                self.send_many(|number| {
                    Monitor { watcher: Key::from_bits(3), target, id: first + number }.into()
                });
            }
            5 => self.send_many(|number| {
                let request = first + number;
                Lookup { request, space: NameSpace::Actor, all: false, name: "nobody" }.into()
            }),
            6 => self.send_many(|number| match number % 3 {
                0 => Ping { token: number }.into(),
                1 => IdleProposed { sent: number }.into(),
                _ => Credit { until: 1 }.into(),
            }),
            7 => self.send_many(|number| match number % 3 {
                0 => Unpause { actor: Key::from_bits(first + number - 2) }.into(),
                _ => Pause { actor: Key::from_bits(first + number) }.into(),
            }),
            8 => {
                let (to, at) = (self.key("asked"), vec![SocketAddr::from(([127, 0, 0, 9], 9))]);
                let routes: Vec<Vec<_>> = (0..1000)
                    .map(|number| {
                        vec![
                            (NodeId::from_bits(first + number), at.clone()),
                            (NodeId::from_bits(1), at.clone()),
                        ]
                    })
                    .collect();
                let (from, tag, body) = (Key::from_bits(1), TagId(0), &[0xc0]);
                let message = |route| Message { to, from, tag, receipt: None, route, body }.into();
                let frames: Vec<Frame<'_>> =
                    routes.iter().map(|route| message(Route::Plain(route))).collect();
                self.send(&frames);
            }
            9 => self.send_bodies(("asked", TagId(1)), first, 1000, |reply| {
                [&[0x81, 0xa4][..], b"Keep", reply].concat()
            }),
            10 => {
                let bytes = self.rng.below(1 << 20) as u32;
                self.send_bodies(("asked", TagId(1)), first, 1000, |reply| {
                    [&[0x81, 0xa5][..], b"Bytes", &[0x92, 0xce], &bytes.to_be_bytes(), reply].concat()
                });
            }
            11 => {
                let (from, target, tag) = (Key::from_bits(1), self.any_sleeper(), TagId(0));
                let body = bytes_body(900);
                self.send_many(|_| Throw { from, target, tag, body: &body }.into());
                self.send_many(|number| {
                    Notify { watcher: target, target: Key::from_bits(first + number), id: number }.into()
                });
            }
            12 => {
                let number = self.rng.below(HEAVY as u64);
                let to = self.key(&format!("heavy-{number}"));
                let message = Message {
                    to,
                    from: Key::from_bits(1),
                    tag: TagId(0),
                    receipt: None,
                    route: Route::NONE,
                    body: &[0xc4, 0],
                };
                self.send(&[
                    Monitor { watcher: Key::from_bits(3), target: to, id: first }.into(),
                    message.into(),
                ]);
            }
            13 => self.send_bodies(("channel", TagId(3)), first, 1000, |subscriber| {
                [&[0x94, 2][..], subscriber, &[0xc2, 0x90]].concat()
            }),
            14 => {
                let bytes = bytes_body(1 + self.rng.below(2000) as usize);
                self.send_bodies(("channel", TagId(3)), first, 20, |_| [&[0x93, 0, 0][..], &bytes].concat());
            }
            15 => {
                let bytes = bytes_body(1 + self.rng.below(2000) as usize);
                let n = self.rng.below(2) as u8;
                self.send_bodies(("channel", TagId(3)), first, 20, |reply| {
                    [&[0x94, 1, 0x93, n, 0xcd, 1, 0, 0][..], reply, &bytes].concat()
                });
            }
            16 => {
                let first = self.rng.below(1 + first / 10_000) * 10_000;
                self.send_bodies(("channel", TagId(3)), first, 200, |actor| [&[0x92, 4][..], actor].concat());
            }
            17 => self.send_bodies(("function", TagId(4)), first, 300, |reply| {
                [&[0x94, 0, 0xc0][..], reply, &[0xc0]].concat()
            }),
            18 => {
                let name = format!("{:06}", self.rng.below(100));
                self.send_bodies(("files", TagId(5)), first, 100, |reply| offer(&name, reply));
            }
            _ => {
                let part = FragmentPart::First { kind: 0x22, total: 1 << 20 };
                let data = [7; 10_000];
                let stream = self.rng.below(16) as u32 + first as u32;
                self.send(&[Fragment { stream, part, data: &data }.into()]);
                let id = TagId(self.tags);
                self.tags += 1;
                self.send(&[Tag { id, name: &format!("{first:0>255}") }.into()]);
            }
        }
        let millis = self.rng.below(200);
        self.pass(Duration::from_millis(millis));
    }

    /// Fills records with the frames of `make`.
    fn send_many<'f>(&mut self, make: impl Fn(u64) -> Frame<'f>) {
        let frames: Vec<Frame<'f>> = (0..3_000).map(make).collect();
        self.send(&frames);
    }

    fn send_to_sleepers(&mut self, bytes: usize) {
        let body = bytes_body(bytes);
        for _ in 0..40 {
            let to = self.any_sleeper();
            self.send_many(|_| {
                Message {
                    to,
                    from: Key::from_bits(1),
                    tag: TagId(0),
                    receipt: None,
                    route: Route::NONE,
                    body: &body,
                }
                .into()
            });
        }
    }

    /// Sends messages to an actor, with bodies that hold a new address, or reply, of the member each.
    fn send_bodies(
        &mut self,
        (name, tag): (&str, TagId),
        first: u64,
        count: u64,
        body: impl Fn(&[u8]) -> Vec<u8>,
    ) {
        let (to, node) = (self.key(name), self.profile.node.to_bits().to_be_bytes());
        let bodies: Vec<Vec<u8>> = (0..count)
            .map(|number| {
                let number = (first + number).to_be_bytes();
                body(&[&[0x92, 0xcf][..], &node, &[0xcf], &number].concat())
            })
            .collect();
        let frames: Vec<Frame<'_>> = bodies
            .iter()
            .map(|body| {
                Message { to, from: Key::from_bits(1), tag, receipt: None, route: Route::NONE, body }.into()
            })
            .collect();
        self.send(&frames);
    }
}

/// The MessagePack of an offer of a file of five bytes.
fn offer(name: &str, reply: &[u8]) -> Vec<u8> {
    let text = |text: &str| [&[0xa0 | text.len() as u8][..], text.as_bytes()].concat();
    let stat = ["size", "seconds", "nanos", "permissions"].map(|field| [&text(field)[..], &[5]].concat());
    [
        &[0x81][..],
        &text("Offer"),
        &[0x92, 0x85],
        &text("path"),
        &[0x91],
        &text(name),
        &text("stat"),
        &[0x84],
        &stat.concat(),
        &text("overwrite"),
        &[0xc2],
        &text("sender"),
        reply,
        &text("within"),
        &[0xc0],
        reply,
    ]
    .concat()
}

/// The MessagePack of so many bytes.
fn bytes_body(bytes: usize) -> Vec<u8> {
    let mut body = vec![0xc5];
    body.extend((bytes as u16).to_be_bytes());
    body.resize(3 + bytes, 7);
    body
}

#[test]
fn hostile_member_stays_within_bounds() {
    let (mut held_most, mut is_closed) = (0, 0);
    let mut refused = [0; 5];
    for seed in seeds(4) {
        let mut world = World::new(seed);
        for _ in 0..MOVES {
            world.advance();
            held_most = held_most.max(world.node.held_bytes(world.profile.node));
        }
        is_closed += u64::from(world.conn.is_none());
        // Everything of the member is forgotten when it has gone.
        if let Some(conn) = world.conn.take() {
            world.feed(MachineInput::Closed(conn));
        }
        world.pass(Duration::from_secs(120));
        let counts = world.node.counts();
        let left = (counts.replies, counts.receipts, counts.monitors, counts.lookups, counts.backlog_bytes);
        assert_eq!(left, (0, 0, 0, 0, 0), "{counts:?}, {:?}", world.habits);
        let Refusals { lookups, routes, subscriptions, rci_actors, files, .. } = counts.refusals;
        let of_seed = [lookups, routes, subscriptions, rci_actors, files];
        refused.iter_mut().zip(of_seed).for_each(|(all, of_seed)| *all += of_seed);
    }
    println!("refused: {refused:?}");
    assert_covered(
        refused.iter().all(|count| *count > 0),
        "lookups, routes, subscribers, calls and files over quota",
    );
    println!("at most {held_most} bytes are held; {is_closed} sessions were ended");
    assert!(held_most > 64 << 20, "the member reaches its limits");
}
