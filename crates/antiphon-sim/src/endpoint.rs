//! The first machine: sessions with their connections, redial, and actors that talk; the least that a node does.

mod handshake;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use antiphon_wire::{
    Deframer, Epochs, Handshake, Keyring, Limits, Liveness, NodeId, Profile, ResumeState, Secret, Session,
    SessionError, SessionEvent, Suite, Time,
};

use crate::machine::{Machine, MachineInput, MachineOutput, Outputs, SimConn};
use crate::rng::SimRng;
use crate::workload::{ReceivedLog, Workload};

/// How an endpoint behaves.
#[derive(Debug, Clone)]
pub struct EndpointConfig {
    /// Whom it dials, and dials again.
    pub targets: Vec<SocketAddr>,
    /// How it protects records.
    pub suite: Suite,
    /// Limits of its sessions.
    pub limits: Limits,
    /// It sends something about this often; zero for never.
    pub speaks_every: Duration,
    /// Of so many messages, one is large; 0 for none.
    pub large_once_in: u64,
    /// Of so many messages, the receiver parks one; 0 for none.
    pub parks_once_in: u64,
}

impl Default for EndpointConfig {
    fn default() -> EndpointConfig {
        EndpointConfig {
            targets: Vec::new(),
            suite: Suite::Plain,
            limits: Limits::default(),
            speaks_every: Duration::from_millis(5),
            large_once_in: 100,
            parks_once_in: 50,
        }
    }
}

/// A session endpoint: dials its targets, accepts others, keeps a session with each, and checks what it hears.
#[derive(Debug)]
pub struct SessionEndpoint {
    profile: Profile,
    config: EndpointConfig,
    rng: SimRng,
    epochs: Epochs,
    dials: Vec<EndpointDial>,
    conns: BTreeMap<SimConn, EndpointConn>,
    peers: BTreeMap<NodeId, EndpointPeer>,
    heard: ReceivedLog,
    speaks_at: Option<Time>,
    sessions_ended: u64,
}

#[derive(Debug)]
struct EndpointDial {
    to: SocketAddr,
    conn: Option<SimConn>,
    again_at: Time,
    /// Whom it met there last.
    node: Option<NodeId>,
    /// Whether the connection there is to be replaced.
    renews: bool,
}

impl EndpointDial {
    /// The present connection stays until a new one is proven.
    fn renew(&mut self) {
        (self.conn, self.renews) = (None, true);
    }

    /// Whether there is neither a dial under way nor a connection with whom it met there.
    fn is_wanted(&self, peers: &BTreeMap<NodeId, EndpointPeer>) -> bool {
        let peer = self.node.and_then(|node| peers.get(&node));
        self.conn.is_none() && peer.is_none_or(|peer| peer.conn.is_none() || self.renews)
    }
}

#[derive(Debug)]
struct EndpointConn {
    phase: EndpointPhase,
    input: Deframer,
    /// Whether something was written that has not left.
    is_full: bool,
    begun: Time,
}

#[derive(Debug)]
enum EndpointPhase {
    Dialling,
    Shaking(Box<Handshake>),
    Session(NodeId),
}

#[derive(Debug)]
struct EndpointPeer {
    session: Session,
    conn: Option<SimConn>,
    workload: Workload,
}

impl SessionEndpoint {
    /// One start of an endpoint: everything random, also its incarnation, from `seed`.
    pub fn new(config: EndpointConfig, seed: u64) -> SessionEndpoint {
        let mut rng = SimRng::new(seed);
        let profile = Profile {
            node: NodeId(rng.number()),
            name: "endpoint".to_owned(),
            locations: Vec::new(),
            suites: vec![config.suite],
            keyring: Keyring::new(1, Secret::from("key")),
            flags: 0,
            limits: config.limits,
        };
        let dial = |to: &SocketAddr| EndpointDial {
            to: *to,
            conn: None,
            again_at: Time::START,
            node: None,
            renews: false,
        };
        let dials = config.targets.iter().map(dial).collect();
        SessionEndpoint {
            profile,
            config,
            rng,
            epochs: Epochs::default(),
            dials,
            conns: BTreeMap::new(),
            peers: BTreeMap::new(),
            heard: ReceivedLog::default(),
            speaks_at: None,
            sessions_ended: 0,
        }
    }

    /// This incarnation.
    pub fn node(&self) -> NodeId {
        self.profile.node
    }

    /// No more messages.
    pub fn be_silent(&mut self) {
        self.config.speaks_every = Duration::ZERO;
        self.speaks_at = None;
    }

    /// Messages sent to a peer in the present session.
    pub fn sent_to(&self, peer: NodeId) -> Option<u64> {
        self.peers.get(&peer).map(|peer| peer.workload.sent())
    }

    /// Messages heard from a peer in its present session.
    pub fn heard_from(&self, peer: NodeId) -> u64 {
        self.heard.total(peer)
    }

    /// Sessions that were lost or replaced.
    pub fn sessions_ended(&self) -> u64 {
        self.sessions_ended
    }

    /// Sessions whose every frame was acknowledged, and all sessions.
    pub fn settled(&self) -> (usize, usize) {
        let settled = self.peers.values().filter(|peer| peer.session.is_idle()).count();
        (settled, self.peers.len())
    }

    fn on_connected(&mut self, now: Time, conn: SimConn, out: &mut Outputs) {
        let Some(dial) = self.dials.iter().find(|dial| dial.conn == Some(conn)) else { return };
        let known = dial.node.and_then(|node| self.peers.get_mut(&node));
        let epoch = dial.node.map_or(self.epochs.of_strangers(), |node| self.epochs.of(node));
        let resume_state =
            known.map_or_else(|| ResumeState::unknown(epoch), |peer| peer.session.next_resume_state());
        let mut hello = Vec::new();
        let entropy = self.rng.entropy();
        let handshake = Handshake::dial(&self.profile, entropy, resume_state, None, &mut hello);
        self.begin(now, conn, handshake);
        out.push(MachineOutput::Write { conn, bytes: hello });
    }

    fn begin(&mut self, now: Time, conn: SimConn, handshake: Handshake) {
        let phase = EndpointPhase::Shaking(Box::new(handshake));
        self.conns.insert(conn, EndpointConn { phase, input: Deframer::new(), is_full: false, begun: now });
    }

    fn on_bytes(&mut self, now: Time, conn: SimConn, mut bytes: &[u8], out: &mut Outputs) {
        while !bytes.is_empty() {
            let Some(mut wire) = self.conns.remove(&conn) else { return };
            let count = wire.input.push(bytes);
            assert!(count > 0, "there is space once everything whole was taken");
            bytes = &bytes[count..];
            if self.advance(now, conn, &mut wire, out) {
                self.conns.insert(conn, wire);
            } else {
                self.hang_up(now, conn, out);
            }
        }
    }

    /// Takes everything whole; false if the connection is of no use any more.
    fn advance(&mut self, now: Time, conn: SimConn, wire: &mut EndpointConn, out: &mut Outputs) -> bool {
        if let EndpointPhase::Shaking(handshake) = &mut wire.phase {
            let mut reply = Vec::new();
            let shaken = self.shake(now, conn, handshake, &mut wire.input, &mut reply, out);
            if !reply.is_empty() {
                out.push(MachineOutput::Write { conn, bytes: reply });
            }
            match shaken {
                Ok(None) => return true,
                Ok(Some(node)) => wire.phase = EndpointPhase::Session(node),
                Err(_) => return false,
            }
        }
        match wire.phase {
            EndpointPhase::Session(node) => self.listen(now, conn, node, &mut wire.input),
            EndpointPhase::Dialling | EndpointPhase::Shaking(_) => true,
        }
    }

    /// Opens records and hears their frames; false if the connection is of no use any more.
    fn listen(&mut self, now: Time, conn: SimConn, node: NodeId, input: &mut Deframer) -> bool {
        let Some(peer) = self.peers.get_mut(&node).filter(|peer| peer.conn == Some(conn)) else {
            return false;
        };
        loop {
            let mut frames = match peer.session.next_record(now, input) {
                Ok(Some(frames)) => frames,
                Ok(None) => return true,
                Err(SessionError::Record(error)) => {
                    panic!("the network cuts streams, but changes no byte: {error}")
                }
                Err(error) => panic!("{error}"),
            };
            while let Some(incoming) =
                peer.session.next_frame(now, &mut frames).unwrap_or_else(|error| panic!("{error}"))
            {
                self.heard.hear(node, &incoming.frame());
                if self.rng.once_in(self.config.parks_once_in) {
                    peer.workload.park(now, &mut peer.session, &incoming.frame(), &mut self.rng);
                }
            }
        }
    }

    fn end_session(&mut self, node: NodeId, out: &mut Outputs) {
        let Some(peer) = self.peers.remove(&node) else { return };
        self.epochs.ended(node);
        self.sessions_ended += 1;
        if let Some(conn) = peer.conn {
            self.conns.remove(&conn);
            self.dials.iter_mut().filter(|dial| dial.conn == Some(conn)).for_each(|dial| dial.conn = None);
            out.push(MachineOutput::Close(conn));
        }
    }

    fn hang_up(&mut self, now: Time, conn: SimConn, out: &mut Outputs) {
        out.push(MachineOutput::Close(conn));
        self.on_closed(now, conn);
    }

    fn on_closed(&mut self, now: Time, conn: SimConn) {
        self.conns.remove(&conn);
        for peer in self.peers.values_mut().filter(|peer| peer.conn == Some(conn)) {
            peer.conn = None;
            peer.session.disconnected();
        }
        let again_at = now + Duration::from_millis(5) + self.rng.span(Duration::from_millis(20));
        for dial in self.dials.iter_mut().filter(|dial| dial.conn == Some(conn)) {
            (dial.conn, dial.again_at) = (None, again_at);
        }
    }

    fn on_timer(&mut self, now: Time, out: &mut Outputs) {
        let stuck = |wire: &&EndpointConn| {
            !matches!(wire.phase, EndpointPhase::Session(_)) && wire.begun + HANDSHAKE_TIMEOUT <= now
        };
        let stuck: Vec<SimConn> =
            self.conns.iter().filter(|(_, wire)| stuck(wire)).map(|(conn, _)| *conn).collect();
        stuck.into_iter().for_each(|conn| self.hang_up(now, conn, out));
        let mut lost = Vec::new();
        for (node, peer) in &mut self.peers {
            peer.session.on_timeout(now);
            peer.workload.unpark(now, &mut peer.session);
            while let Some(event) = peer.session.poll_event() {
                match event {
                    SessionEvent::Liveness(Liveness::Lost) => lost.push(*node),
                    // A silent peer may live, and only the connection be dead.
                    SessionEvent::Renew | SessionEvent::Liveness(Liveness::Suspect) => {
                        self.dials
                            .iter_mut()
                            .filter(|dial| dial.node == Some(*node))
                            .for_each(EndpointDial::renew);
                    }
                    SessionEvent::Liveness(Liveness::Online) | SessionEvent::Writable => {}
                }
            }
        }
        lost.into_iter().for_each(|node| self.end_session(node, out));
        if self.speaks_at.is_some_and(|at| at <= now) {
            self.speak(now);
        }
        self.dial_again(now, out);
    }

    fn speak(&mut self, now: Time) {
        self.speaks_at = Some(now + self.rng.span(self.config.speaks_every * 2));
        for peer in self.peers.values_mut() {
            peer.workload.speak(&mut peer.session, &mut self.rng, self.config.large_once_in);
        }
    }

    fn dial_again(&mut self, now: Time, out: &mut Outputs) {
        for dial in &mut self.dials {
            if dial.again_at <= now && dial.is_wanted(&self.peers) {
                let conn = out.dial(dial.to);
                dial.conn = Some(conn);
                let phase = EndpointPhase::Dialling;
                self.conns
                    .insert(conn, EndpointConn { phase, input: Deframer::new(), is_full: false, begun: now });
            }
        }
    }

    /// Writes what each session has to say, a batch at a time.
    fn flush(&mut self, now: Time, out: &mut Outputs) {
        for peer in self.peers.values_mut() {
            let Some(conn) = peer.conn else { continue };
            let Some(wire) = self.conns.get_mut(&conn).filter(|wire| !wire.is_full) else { continue };
            let mut bytes = Vec::new();
            while bytes.len() < BATCH_BYTES && peer.session.poll_transmit(now, &mut bytes) {}
            if !bytes.is_empty() {
                wire.is_full = true;
                out.push(MachineOutput::Write { conn, bytes });
            }
        }
    }

    fn next_wake(&self, now: Time) -> Time {
        let sessions = self.peers.values().filter_map(|peer| peer.session.poll_timeout());
        let backlog = self.peers.values().filter_map(|peer| peer.workload.unparks_at());
        let wanted = self.dials.iter().filter(|dial| dial.is_wanted(&self.peers));
        let dials = wanted.map(|dial| dial.again_at);
        let soon = now + Duration::from_millis(50);
        sessions.chain(backlog).chain(self.speaks_at).chain(dials).fold(soon, Time::min)
    }
}

impl Machine for SessionEndpoint {
    fn handle(&mut self, now: Time, input: MachineInput<'_>, out: &mut Outputs) {
        match input {
            MachineInput::Start | MachineInput::Timer => self.on_timer(now, out),
            MachineInput::Accepted { conn, .. } => self.begin(now, conn, Handshake::accept(None)),
            MachineInput::Connected(conn) => self.on_connected(now, conn, out),
            MachineInput::DialFailed(conn) | MachineInput::Closed(conn) => self.on_closed(now, conn),
            MachineInput::Bytes { conn, bytes } => self.on_bytes(now, conn, bytes, out),
            MachineInput::Writable(conn) => {
                if let Some(wire) = self.conns.get_mut(&conn) {
                    wire.is_full = false;
                }
            }
            MachineInput::Datagram { .. } => {}
        }
        self.flush(now, out);
        out.push(MachineOutput::Wake(self.next_wake(now)));
    }

    fn stood_still(&mut self, _now: Time, span: Duration, _out: &mut Outputs) {
        self.peers.values_mut().for_each(|peer| peer.session.forgive(span));
    }

    fn check(&self) {
        for (node, peer) in &self.peers {
            peer.session.check();
            assert_eq!(peer.session.peer(), *node);
            assert_eq!(peer.session.is_connected(), peer.conn.is_some(), "a session's connection is known");
        }
    }
}

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const BATCH_BYTES: usize = 256 * 1024;
