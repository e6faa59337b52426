//! A node with actors of every kind, without a secret, and attackers who have met it honestly and then say what they like.
//!
//! Invariant: the node's own `check` holds after each input; and when all attackers have gone, nothing of them is left.

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
    links: Vec<Link>,
    seen: Seen,
}

/// An attacker's connection.
struct Link {
    conn: SimConn,
    /// Until the handshake is over, the attacker's end of it.
    handshake: Option<(u64, Handshake)>,
    read: Deframer,
    /// What came after the handshake, and is not a whole record yet.
    records: Vec<u8>,
}

/// Numbers that the victim's frames hold.
#[derive(Default)]
struct Seen {
    victim: u64,
    numbers: Vec<u64>,
    actors: Vec<u64>,
}

impl Numbers for Seen {
    fn actor(&self, which: u8) -> u64 {
        self.actors[usize::from(which) % self.actors.len()]
    }

    fn seen(&self, which: u8) -> u64 {
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

/// Of all of the victim's chance.
const SEED: u64 = 0;
/// Type tags that every attacker knows.
pub(crate) const TAGS: [&str; 10] = [
    "str",
    "fuzz.ask/1",
    "antiphon.channel<str>",
    "antiphon.call<str,str>",
    "antiphon.born<str>",
    "antiphon.delivered",
    "antiphon.subscribed",
    "antiphon.nobody",
    "antiphon.witness<str>",
    "antiphon.files.keeper/1",
];
/// How long all that waits may take until it is over: the longest of the timeouts, and the peers' silence.
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
    Again,
    Actor(Result<Addr<Ask>, LocateError>),
    Channel(Result<Channel<String>, LocateError>),
    Rci(Result<Rci<String, String>, LocateError>),
    /// What an answer was, nobody needs to know.
    Told,
    Stop,
}

impl Victim {
    /// One that runs, and has met one attacker.
    pub fn new() -> Self {
        let location = SocketAddr::from(([127, 0, 0, 1], 4000));
        let config = Config { udp_port: Some(4000), ..Config::default() };
        let (mut client, mut actors) = (None, Vec::new());
        let node = SimNode::new(&config, location, SEED, |sched| {
            actors = vec![sink(sched), echo(sched), host(sched)];
            client = Some(spawn_client(sched));
        });
        let client = client.expect("it was spawned");
        actors.push(client.id().key().to_bits());
        let seen = Seen { victim: SimRng::new(SEED).number(), actors, ..Seen::default() };
        let (out, now) = (Outputs::new(1), Time::START);
        let mut victim =
            Self { node, client, out, now, wake: None, next_conn: 2, epoch: 1, links: Vec::new(), seen };
        victim.give(MachineInput::Start);
        victim.connect(Some(1));
        victim
    }

    /// Lets time pass; whatever the victim wants to be woken for happens.
    pub fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some(due) = self.wake.filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.wake = None;
            self.give(MachineInput::Timer);
        }
        self.now = until;
        self.give(MachineInput::Timer);
    }

    /// An attacker connects, and meets the victim as `node` if that is some.
    pub fn connect(&mut self, node: Option<u8>) {
        let conn = SimConn(self.next_conn);
        self.next_conn += 2;
        let mut hello = Vec::new();
        let handshake = node.map(|node| {
            self.epoch += 1;
            let node = self.seen.node(node | 1);
            let resume_state = ResumeState::unknown(self.epoch);
            (node, Handshake::dial(&profile(node, false), entropy(), resume_state, None, &mut hello))
        });
        self.links.push(Link { conn, handshake, read: Deframer::new(), records: Vec::new() });
        self.give(MachineInput::Accepted { conn, from: SocketAddr::from(([127, 0, 0, 2], 5000)) });
        self.say(self.links.len() - 1, &hello);
    }

    /// Bytes of an attacker.
    pub fn bytes(&mut self, which: u8, bytes: &[u8]) {
        if let Some(link) = self.pick(which) {
            self.say(link, bytes);
        }
    }

    /// A record of frames that an attacker has made up.
    pub fn record(&mut self, which: u8, frames: &[Crafted]) {
        let Some(link) = self.pick(which) else { return };
        let mut body = Vec::new();
        frames.iter().for_each(|frame| frame.put(&self.seen, &mut body));
        body.truncate(60 * 1024);
        self.say_record(link, &body);
    }

    /// An attacker's connection breaks.
    pub fn close(&mut self, which: u8) {
        let Some(link) = self.pick(which) else { return };
        let Link { conn, .. } = self.links.swap_remove(link);
        self.give(MachineInput::Closed(conn));
    }

    /// A datagram from somewhere.
    pub fn datagram(&mut self, from: u8, bytes: &[u8]) {
        self.give(MachineInput::Datagram { from: SocketAddr::from(([127, 0, 0, from], 4000)), bytes });
    }

    /// All attackers go, and the client; then nothing of them is left.
    ///
    /// # Panics
    /// If something is.
    pub fn end(mut self) {
        while !self.links.is_empty() {
            self.close(0);
        }
        self.node.sched().send(self.client, Client::Stop).expect("it takes messages until it stops");
        self.pass(PATIENCE);
        let counts = self.node.counts();
        let left =
            (counts.receipts, counts.replies, counts.monitors, counts.connections, counts.backlog_bytes);
        assert_eq!(left, (0, 0, 0, 0, 0), "{counts:?}");
        assert_eq!((counts.lookups, counts.relays), (0, 0), "{counts:?}");
        // Attackers may end actors, as any peer may.
        assert!(counts.names <= 4, "{counts:?}");
    }

    fn pick(&self, which: u8) -> Option<usize> {
        usize::from(which).checked_rem(self.links.len())
    }

    fn say_record(&mut self, link: usize, body: &[u8]) {
        let mut record = (body.len() as u16).to_le_bytes().to_vec();
        record.extend([1, 0]);
        record.extend(body);
        self.say(link, &record);
    }

    fn say(&mut self, link: usize, bytes: &[u8]) {
        let conn = self.links[link].conn;
        if !bytes.is_empty() {
            self.give(MachineInput::Bytes { conn, bytes });
        }
    }

    /// One input, and all that the victim does of it.
    fn give(&mut self, input: MachineInput<'_>) {
        self.node.handle(self.now, input, &mut self.out);
        for output in self.out.take() {
            match output {
                MachineOutput::Dial { conn, .. } => self.give(MachineInput::DialFailed(conn)),
                MachineOutput::Write { conn, bytes } => {
                    self.give(MachineInput::Writable(conn));
                    if let Some(link) = self.links.iter().position(|link| link.conn == conn) {
                        self.hear(link, &bytes);
                    }
                }
                MachineOutput::Close(conn) => self.links.retain(|link| link.conn != conn),
                MachineOutput::Datagram { .. } => {}
                MachineOutput::Wake(at) => self.wake = Some(at),
            }
        }
    }

    /// What the victim says: an attacker's end of the handshake, then records, of which the numbers are remembered.
    fn hear(&mut self, at: usize, bytes: &[u8]) {
        let link = &mut self.links[at];
        let Some((node, mut handshake)) = link.handshake.take() else {
            link.records.extend(bytes);
            return self.remember(at);
        };
        link.read.push(bytes);
        let (profile, mut answer) = (profile(node, false), Vec::new());
        loop {
            match handshake.advance(&profile, &mut link.read, &mut answer) {
                Ok(HandshakeStep::Introduced) => {
                    let holding = Session::prove_to(None, &mut Epochs::default(), &handshake);
                    let Ok(holding) = holding else { return };
                    if handshake.prove(&profile, holding, &mut answer).is_err() {
                        return;
                    }
                }
                Ok(HandshakeStep::Done(_)) => {
                    let begin = beginning();
                    return self.say_record(at, &begin);
                }
                Ok(HandshakeStep::Wait | HandshakeStep::Proven) => break,
                Err(_) => return,
            }
        }
        link.handshake = Some((node, handshake));
        self.say(at, &answer);
    }

    fn remember(&mut self, at: usize) {
        let records = &mut self.links[at].records;
        while let Some(length) = records.get(..2).map(|two| usize::from(u16::from_le_bytes([two[0], two[1]])))
            && records.len() >= 4 + length
        {
            let mut body = &records[4..4 + length];
            while let Ok(Some(raw)) = RawFrame::take_from(&mut body) {
                if let Ok(Some(frame)) = raw.decode() {
                    self.seen.note(&frame);
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

impl Seen {
    /// What a frame tells: actors, and numbers that may be told back.
    fn note(&mut self, frame: &Frame<'_>) {
        match frame {
            Frame::Found(Found { what: LookupResult::Here { key, .. }, .. }) => {
                // With so many picks as there are, the last ones are as likely as the first.
                self.actors.truncate(32);
                self.actors.push(key.0);
            }
            Frame::Lookup(want) => self.numbers.push(want.request),
            Frame::Monitor(monitor) => self.numbers.extend([monitor.watcher.0, monitor.id]),
            Frame::Message(message) => {
                self.numbers.push(message.from.0);
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

/// The first record of an attacker's connection: frames from 0 on, the type tags, and questions for what there is.
fn beginning() -> Vec<u8> {
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
                // Whoever it is may be gone, or nobody.
                drop(cx.send(to, "told".to_owned()));
            }
            Event::Message(Ask::Keep(reply)) => {
                kept.push(reply);
                if kept.len() > 8 {
                    kept.clear();
                }
                cx.after(secs(5), Ask::Forget);
            }
            Event::Message(Ask::Forget) => kept.clear(),
            _ => {}
        }
        receive()
    });
    echo.id().key().to_bits()
}

/// Opens a channel and a function.
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

/// Looks for what attackers may have, once a second, and uses what it finds.
fn spawn_client(sched: &mut Loop) -> Addr<Client> {
    sched.spawn(|cx: &mut Cx<Client>, event| {
        match event {
            Event::Start => {
                cx.peer_status(|_| Client::Told);
                cx.every(secs(1), || Client::Again);
            }
            Event::Message(Client::Again) => {
                cx.locate("far", secs(2), Client::Actor);
                cx.locate("far", secs(2), Client::Channel);
                cx.locate("far", secs(2), Client::Rci);
            }
            Event::Message(Client::Actor(Ok(far))) => {
                cx.monitor(far);
                cx.ask(far, secs(3), |reply| Ask::Echo("to you".to_owned(), reply), |_| Client::Told);
                cx.deliver(far, Ask::Tell(Addr::of(far.id())), secs(3), |_| Client::Told);
            }
            Event::Message(Client::Channel(Ok(far))) => {
                let adapter = cx.adapter(|_: String| Client::Told);
                cx.subscribe(far, adapter);
                cx.deliver_all(far, "to all".to_owned(), 1, millis(500), |_| Client::Told);
            }
            Event::Message(Client::Rci(Ok(far))) => {
                let me = cx.addr();
                cx.call_monitored(far, "from afar".to_owned(), me, secs(3), |_| Client::Told);
            }
            Event::Message(Client::Stop) => return stop(),
            _ => {}
        }
        receive()
    })
}
