//! A node without a secret, with actors of every kind, and attackers that finish an honest handshake and then send anything.
//!
//! Invariants: the node's own `check` holds after each input; when all attackers have disconnected, the node keeps no state
//! of theirs.

use std::net::SocketAddr;
use std::time::Duration;

use antiphon_dist::{Channel, Config, LocateError, NetCx, Rci};
use antiphon_sched::{Addr, Cx, Event, Loop, ReplyTo, millis, receive, secs, stop};
use antiphon_sim::{Machine, MachineInput, MachineOutput, Outputs, SimConn, SimNode, SimRng};
use antiphon_wire::frame::{Begin, Found, Lookup, LookupResult, NameSpace, RawFrame, Tag};
use antiphon_wire::{Deframer, Epochs, Frame, Handshake, HandshakeStep, ResumeState, Session, TagId, Time};
use serde::{Deserialize, Serialize};

use crate::crafted::{Crafted, Numbers};
use crate::{entropy, profile};

/// The node under attack.
pub struct Victim {
    node: SimNode,
    client: Addr<Client>,
    out: Outputs,
    now: Time,
    wake: Option<Time>,
    next_conn: u64,
    epoch: u64,
    conns: Vec<AttackerConn>,
    observed: ObservedNumbers,
}

/// An attacker's connection.
struct AttackerConn {
    conn: SimConn,
    /// The node and its end of the handshake, until the handshake is over.
    handshake: Option<(u64, Handshake)>,
    read: Deframer,
    /// Bytes received after the handshake that are not a whole record yet.
    records: Vec<u8>,
}

/// The numbers in the frames of the victim.
#[derive(Default)]
struct ObservedNumbers {
    victim: u64,
    numbers: Vec<u64>,
    actors: Vec<u64>,
}

impl Numbers for ObservedNumbers {
    fn actor(&self, which: u8) -> u64 {
        self.actors[usize::from(which) % self.actors.len()]
    }

    fn observed(&self, which: u8) -> u64 {
        let newest = self.numbers.len().checked_sub(1 + usize::from(which) % 64);
        newest.map_or(u64::from(which), |place| self.numbers[place])
    }

    fn node(&self, which: u8) -> u64 {
        match which % 4 {
            0 => self.victim,
            other => u64::from(other) + 1,
        }
    }
}

/// The seed of the victim.
const SEED: u64 = 0;
/// The types for which every attacker announces tags; the index is the tag.
pub(crate) const TAGS: [&str; 10] = [
    "str",
    "fuzz.ask/1",
    "antiphon.channel<str>",
    "antiphon.call<str,str>",
    "antiphon.spawned<str>",
    "antiphon.delivered",
    "antiphon.subscribed",
    "antiphon.no_messages",
    "antiphon.monitor_proxy<str>",
    "antiphon.files.service/1",
];
/// The virtual time after which every timeout is over, also the one of silent peers.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Serialize, Deserialize)]
enum Ask {
    Echo(String, ReplyTo<String>),
    Tell(Addr<String>),
    Keep(ReplyTo<String>),
    Forget,
}
antiphon_sched::wire!(Ask, "fuzz.ask/1");

enum Client {
    Tick,
    Actor(Result<Addr<Ask>, LocateError>),
    Channel(Result<Channel<String>, LocateError>),
    Rci(Result<Rci<String, String>, LocateError>),
    /// An answer, of which only the arrival matters.
    Ignored,
    Stop,
}

impl Victim {
    /// Starts a victim, and connects one attacker to it.
    pub fn new() -> Self {
        let location = SocketAddr::from(([127, 0, 0, 1], 4000));
        let config = Config { udp_port: Some(4000), ..Config::default() };
        let (mut client, mut actors) = (None, Vec::new());
        let node = SimNode::new(&config, location, SEED, |sched| {
            actors = vec![sink(sched), echo(sched), host(sched)];
            client = Some(spawn_client(sched));
        });
        let client = client.expect("the node spawned its client");
        actors.push(client.id().key().to_bits());
        let observed =
            ObservedNumbers { victim: SimRng::new(SEED).number(), actors, ..ObservedNumbers::default() };
        let (out, now) = (Outputs::new(1), Time::ZERO);
        let mut victim =
            Self { node, client, out, now, wake: None, next_conn: 2, epoch: 1, conns: Vec::new(), observed };
        victim.feed(MachineInput::Start);
        victim.connect(Some(1));
        victim
    }

    /// Advances the time by `span`, with the timers of the victim that are due by then.
    pub fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some(due) = self.wake.filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.wake = None;
            self.feed(MachineInput::Timer);
        }
        self.now = until;
        self.feed(MachineInput::Timer);
    }

    /// An attacker connects; with `node` it also starts a handshake as that node.
    pub fn connect(&mut self, node: Option<u8>) {
        let conn = SimConn(self.next_conn);
        self.next_conn += 2;
        let mut hello = Vec::new();
        let handshake = node.map(|node| {
            self.epoch += 1;
            let node = self.observed.node(node | 1);
            let resume_state = ResumeState::unknown(self.epoch);
            (node, Handshake::dial(&profile(node, false), entropy(), resume_state, None, &mut hello))
        });
        self.conns.push(AttackerConn { conn, handshake, read: Deframer::new(), records: Vec::new() });
        self.feed(MachineInput::Accepted { conn, from: SocketAddr::from(([127, 0, 0, 2], 5000)) });
        self.write(self.conns.len() - 1, &hello);
    }

    /// An attacker sends bytes.
    pub fn bytes(&mut self, which: u8, bytes: &[u8]) {
        if let Some(index) = self.pick(which) {
            self.write(index, bytes);
        }
    }

    /// An attacker sends a record of crafted frames.
    pub fn record(&mut self, which: u8, frames: &[Crafted]) {
        let Some(index) = self.pick(which) else { return };
        let mut body = Vec::new();
        frames.iter().for_each(|frame| frame.put(&self.observed, &mut body));
        body.truncate(60 * 1024);
        self.write_record(index, &body);
    }

    /// The connection of an attacker ends.
    pub fn close(&mut self, which: u8) {
        let Some(index) = self.pick(which) else { return };
        let AttackerConn { conn, .. } = self.conns.swap_remove(index);
        self.feed(MachineInput::Closed(conn));
    }

    /// A datagram arrives from the address 127.0.0.`from`.
    pub fn datagram(&mut self, from: u8, bytes: &[u8]) {
        self.feed(MachineInput::Datagram { from: SocketAddr::from(([127, 0, 0, from], 4000)), bytes });
    }

    /// All attackers disconnect, and the client stops. Checks that the node keeps no state of them.
    ///
    /// # Panics
    /// If the node keeps some.
    pub fn end(mut self) {
        while !self.conns.is_empty() {
            self.close(0);
        }
        self.node
            .sched()
            .send(self.client, Client::Stop)
            .expect("the client accepts messages until it stops");
        self.pass(PATIENCE);
        let counts = self.node.counts();
        let left =
            (counts.receipts, counts.replies, counts.monitors, counts.connections, counts.backlog_bytes);
        assert_eq!(left, (0, 0, 0, 0, 0), "{counts:?}");
        assert_eq!((counts.lookups, counts.channel_relays), (0, 0), "{counts:?}");
        // Attackers may stop actors, as any peer may, so there may be fewer names.
        assert!(counts.names <= 4, "{counts:?}");
    }

    fn pick(&self, which: u8) -> Option<usize> {
        usize::from(which).checked_rem(self.conns.len())
    }

    fn write_record(&mut self, index: usize, body: &[u8]) {
        let mut record = (body.len() as u16).to_le_bytes().to_vec();
        record.extend([1, 0]);
        record.extend(body);
        self.write(index, &record);
    }

    fn write(&mut self, index: usize, bytes: &[u8]) {
        let conn = self.conns[index].conn;
        if !bytes.is_empty() {
            self.feed(MachineInput::Bytes { conn, bytes });
        }
    }

    /// Passes one input to the victim, and performs its outputs.
    fn feed(&mut self, input: MachineInput<'_>) {
        self.node.handle(self.now, input, &mut self.out);
        for output in self.out.take() {
            match output {
                MachineOutput::Dial { conn, .. } => self.feed(MachineInput::DialFailed(conn)),
                MachineOutput::Write { conn, bytes } => {
                    self.feed(MachineInput::Writable(conn));
                    if let Some(index) = self.conns.iter().position(|attacker| attacker.conn == conn) {
                        self.receive(index, &bytes);
                    }
                }
                MachineOutput::Close(conn) => self.conns.retain(|attacker| attacker.conn != conn),
                MachineOutput::Datagram { .. } => {}
                MachineOutput::Wake(at) => self.wake = Some(at),
            }
        }
    }

    /// Handles bytes from the victim: continues the attacker's handshake; after it, collects the numbers in the records.
    fn receive(&mut self, index: usize, bytes: &[u8]) {
        let attacker = &mut self.conns[index];
        let Some((node, mut handshake)) = attacker.handshake.take() else {
            attacker.records.extend(bytes);
            return self.observe_records(index);
        };
        attacker.read.push(bytes);
        let (profile, mut answer) = (profile(node, false), Vec::new());
        loop {
            match handshake.advance(&profile, &mut attacker.read, &mut answer) {
                Ok(HandshakeStep::Introduced) => {
                    let holding = Session::prove_to(None, &mut Epochs::default(), &handshake);
                    let Ok(holding) = holding else { return };
                    if handshake.prove(&profile, holding, &mut answer).is_err() {
                        return;
                    }
                }
                Ok(HandshakeStep::Done(_)) => {
                    let first = first_record();
                    return self.write_record(index, &first);
                }
                Ok(HandshakeStep::Wait | HandshakeStep::Proven) => break,
                Err(_) => return,
            }
        }
        attacker.handshake = Some((node, handshake));
        self.write(index, &answer);
    }

    fn observe_records(&mut self, index: usize) {
        let records = &mut self.conns[index].records;
        while let Some(length) = records.get(..2).map(|two| usize::from(u16::from_le_bytes([two[0], two[1]])))
            && records.len() >= 4 + length
        {
            let mut body = &records[4..4 + length];
            while let Ok(Some(raw)) = RawFrame::take_from(&mut body) {
                if let Ok(Some(frame)) = raw.decode() {
                    self.observed.add(&frame);
                }
            }
            records.drain(..4 + length);
        }
    }
}

impl Default for Victim {
    fn default() -> Self {
        Self::new()
    }
}

impl ObservedNumbers {
    /// Collects the actors in a frame, and the numbers that an attacker could send back.
    fn add(&mut self, frame: &Frame<'_>) {
        match frame {
            Frame::Found(Found { result: LookupResult::Found { key, .. }, .. }) => {
                // A short list, so that a random index often hits the newest actor.
                self.actors.truncate(32);
                self.actors.push(key.to_bits());
            }
            Frame::Lookup(want) => self.numbers.push(want.request),
            Frame::Monitor(monitor) => self.numbers.extend([monitor.watcher.to_bits(), monitor.id]),
            Frame::Message(message) => {
                self.numbers.push(message.from.to_bits());
                self.numbers.extend(message.receipt);
                let marked = message.body.windows(9).filter(|nine| nine[0] == 0xcf);
                let number = |eight: &[u8]| u64::from_be_bytes(eight.try_into().expect("eight bytes"));
                self.numbers.extend(marked.map(|nine| number(&nine[1..])));
            }
            _ => {}
        }
        let surplus = self.numbers.len().saturating_sub(64);
        self.numbers.drain(..surplus);
    }
}

/// The first record of an attacker's connection: the start of the frame numbers, the type tags, and lookups of the names
/// of the victim.
fn first_record() -> Vec<u8> {
    let mut body = Vec::new();
    let mut put = |frame: Frame<'_>| frame.encode(&mut body).expect("a small frame");
    put(Begin { frame: 0 }.into());
    for (id, name) in TAGS.iter().enumerate() {
        put(Tag { id: TagId(id as u32), name }.into());
    }
    for (space, name) in
        [(NameSpace::Actor, "echo"), (NameSpace::Channel, "channel"), (NameSpace::Rci, "rci")]
    {
        put(Lookup { request: 1 + space as u64, space, all: false, name }.into());
    }
    body
}

fn sink(sched: &mut Loop) -> u64 {
    let sink = sched.spawn(|cx: &mut Cx<String>, event| {
        if let Event::Start = event {
            cx.register("sink")?;
        }
        receive()
    });
    sink.id().key().to_bits()
}

fn echo(sched: &mut Loop) -> u64 {
    let mut kept = Vec::new();
    let echo = sched.spawn(move |cx: &mut Cx<Ask>, event| {
        match event {
            Event::Start => cx.register("echo")?,
            Event::Message(Ask::Echo(text, reply)) => cx.reply(reply, text),
            Event::Message(Ask::Tell(to)) => {
                cx.monitor(to);
                // The address may be invalid, or its actor may have ended.
                drop(cx.send(to, "told".to_owned()));
            }
            Event::Message(Ask::Keep(reply)) => {
                kept.push(reply);
                if kept.len() > 8 {
                    kept.clear();
                }
                cx.after(secs(5), Ask::Forget).unwrap();
            }
            Event::Message(Ask::Forget) => kept.clear(),
            _ => {}
        }
        receive()
    });
    echo.id().key().to_bits()
}

/// Spawns an actor that opens a channel and an RCI.
fn host(sched: &mut Loop) -> u64 {
    let host = sched.spawn(|cx: &mut Cx<String>, event| {
        if let Event::Start = event {
            let channel: Channel<String> = cx.channel("channel")?;
            cx.subscribe(channel, cx.addr());
            cx.rci("rci", |text: String| {
                move |_: &mut Cx<String>, event: Event<String>| match event {
                    Event::Message(_) => stop(),
                    Event::Start if text == "end" => stop(),
                    _ => receive(),
                }
            })?;
        }
        receive()
    });
    host.id().key().to_bits()
}

/// Spawns an actor that looks up the names of attackers once a second, and uses what it finds.
fn spawn_client(sched: &mut Loop) -> Addr<Client> {
    sched.spawn(|cx: &mut Cx<Client>, event| {
        match event {
            Event::Start => {
                cx.peer_status(|_| Client::Ignored).unwrap();
                cx.every(secs(1), || Client::Tick).unwrap();
            }
            Event::Message(Client::Tick) => {
                cx.locate("far", secs(2), Client::Actor);
                cx.locate("far", secs(2), Client::Channel);
                cx.locate("far", secs(2), Client::Rci);
            }
            Event::Message(Client::Actor(Ok(far))) => {
                cx.monitor(far);
                cx.ask(far, secs(3), |reply| Ask::Echo("to you".to_owned(), reply), |_| Client::Ignored);
                cx.deliver(far, Ask::Tell(Addr::of(far.id())), secs(3), |_| Client::Ignored);
            }
            Event::Message(Client::Channel(Ok(far))) => {
                let adapter = cx.adapter(|_: String| Client::Ignored).unwrap();
                cx.subscribe(far, adapter);
                cx.deliver_all(far, "to all".to_owned(), 1, millis(500), |_| Client::Ignored);
            }
            Event::Message(Client::Rci(Ok(far))) => {
                let me = cx.addr();
                cx.call_monitored(far, "from afar".to_owned(), me, secs(3), |_| Client::Ignored);
            }
            Event::Message(Client::Stop) => return stop(),
            _ => {}
        }
        receive()
    })
}
