//! The smaller machine: sessions with their connections, redialling, and actors that exchange messages.

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

/// The behaviour of an endpoint.
#[derive(Debug, Clone)]
pub struct EndpointConfig {
    /// The locations that it dials, and dials again when the connection ends.
    pub targets: Vec<SocketAddr>,
    /// The suite that protects its records.
    pub suite: Suite,
    /// Limits of its sessions.
    pub limits: Limits,
    /// The mean time between two batches of messages to all peers; zero for never.
    pub send_every: Duration,
    /// One in this many messages is large; 0 for none.
    pub large_once_in: u64,
    /// The receiver holds back the credit of one in this many frames; 0 for none.
    pub held_once_in: u64,
}

impl Default for EndpointConfig {
    fn default() -> EndpointConfig {
        EndpointConfig {
            targets: Vec::new(),
            suite: Suite::Plain,
            limits: Limits::default(),
            send_every: Duration::from_millis(5),
            large_once_in: 100,
            held_once_in: 50,
        }
    }
}

/// A session endpoint: dials its targets, accepts connections, keeps a session with each peer, and checks the messages
/// that it receives.
#[derive(Debug)]
pub struct SessionEndpoint {
    profile: Profile,
    config: EndpointConfig,
    rng: SimRng,
    epochs: Epochs,
    dials: Vec<EndpointDial>,
    conns: BTreeMap<SimConn, EndpointConn>,
    peers: BTreeMap<NodeId, EndpointPeer>,
    received: ReceivedLog,
    next_send: Option<Time>,
    sessions_ended: u64,
}

#[derive(Debug)]
struct EndpointDial {
    to: SocketAddr,
    conn: Option<SimConn>,
    again_at: Time,
    /// The peer that was last found there.
    node: Option<NodeId>,
    /// Whether to replace the connection to that peer.
    renew: bool,
}

impl EndpointDial {
    /// Dials again. The present connection stays until a new one is proven.
    fn request_renewal(&mut self) {
        (self.conn, self.renew) = (None, true);
    }

    /// Whether to dial: no dial is under way, and its peer has no connection or needs another.
    fn is_needed(&self, peers: &BTreeMap<NodeId, EndpointPeer>) -> bool {
        let peer = self.node.and_then(|node| peers.get(&node));
        self.conn.is_none() && peer.is_none_or(|peer| peer.conn.is_none() || self.renew)
    }
}

#[derive(Debug)]
struct EndpointConn {
    phase: EndpointPhase,
    input: Deframer,
    /// Whether a batch was written that has not left.
    is_writing: bool,
    started: Time,
}

#[derive(Debug)]
enum EndpointPhase {
    Dialling,
    Handshaking(Box<Handshake>),
    Session(NodeId),
}

#[derive(Debug)]
struct EndpointPeer {
    session: Session,
    conn: Option<SimConn>,
    workload: Workload,
}

impl SessionEndpoint {
    /// Makes an endpoint. Its incarnation and all its random choices come from `seed`.
    pub fn new(config: EndpointConfig, seed: u64) -> SessionEndpoint {
        let mut rng = SimRng::new(seed);
        let profile = Profile {
            node: NodeId::from_bits(rng.number()),
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
            again_at: Time::ZERO,
            node: None,
            renew: false,
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
            received: ReceivedLog::default(),
            next_send: None,
            sessions_ended: 0,
        }
    }

    /// The id of this incarnation.
    pub fn node(&self) -> NodeId {
        self.profile.node
    }

    /// Sends no more messages.
    pub fn stop_sending(&mut self) {
        self.config.send_every = Duration::ZERO;
        self.next_send = None;
    }

    /// Messages sent to a peer in its present session.
    pub fn sent_to(&self, peer: NodeId) -> Option<u64> {
        self.peers.get(&peer).map(|peer| peer.workload.sent())
    }

    /// Messages received from a peer in its last session that had any.
    pub fn received_from(&self, peer: NodeId) -> u64 {
        self.received.total(peer)
    }

    /// Sessions that were lost or replaced.
    pub fn sessions_ended(&self) -> u64 {
        self.sessions_ended
    }

    /// The number of sessions in which all frames are acknowledged, and the number of all sessions.
    pub fn settled(&self) -> (usize, usize) {
        let settled = self.peers.values().filter(|peer| peer.session.is_idle()).count();
        (settled, self.peers.len())
    }

    fn on_connected(&mut self, now: Time, conn: SimConn, out: &mut Outputs) {
        let Some(dial) = self.dials.iter().find(|dial| dial.conn == Some(conn)) else { return };
        let known = dial.node.and_then(|node| self.peers.get_mut(&node));
        let epoch = dial.node.map_or(self.epochs.of_unknown_node(), |node| self.epochs.of(node));
        let resume_state =
            known.map_or_else(|| ResumeState::unknown(epoch), |peer| peer.session.next_resume_state());
        let mut hello = Vec::new();
        let entropy = self.rng.entropy();
        let handshake = Handshake::dial(&self.profile, entropy, resume_state, None, &mut hello);
        self.start_handshake(now, conn, handshake);
        out.push(MachineOutput::Write { conn, bytes: hello });
    }

    fn start_handshake(&mut self, now: Time, conn: SimConn, handshake: Handshake) {
        let phase = EndpointPhase::Handshaking(Box::new(handshake));
        self.conns
            .insert(conn, EndpointConn { phase, input: Deframer::new(), is_writing: false, started: now });
    }

    fn on_bytes(&mut self, now: Time, conn: SimConn, mut bytes: &[u8], out: &mut Outputs) {
        while !bytes.is_empty() {
            let Some(mut connection) = self.conns.remove(&conn) else { return };
            let count = connection.input.push(bytes);
            assert!(count > 0, "the deframer has space when all whole records are taken");
            bytes = &bytes[count..];
            if self.advance(now, conn, &mut connection, out) {
                self.conns.insert(conn, connection);
            } else {
                self.close(now, conn, out);
            }
        }
    }

    /// Takes all whole hellos and records; false if the connection has to be closed.
    fn advance(
        &mut self,
        now: Time,
        conn: SimConn,
        connection: &mut EndpointConn,
        out: &mut Outputs,
    ) -> bool {
        if let EndpointPhase::Handshaking(handshake) = &mut connection.phase {
            let mut reply = Vec::new();
            let proven = self.advance_handshake(now, conn, handshake, &mut connection.input, &mut reply, out);
            if !reply.is_empty() {
                out.push(MachineOutput::Write { conn, bytes: reply });
            }
            match proven {
                Ok(None) => return true,
                Ok(Some(node)) => connection.phase = EndpointPhase::Session(node),
                Err(_) => return false,
            }
        }
        match connection.phase {
            EndpointPhase::Session(node) => self.receive(now, conn, node, &mut connection.input),
            EndpointPhase::Dialling | EndpointPhase::Handshaking(_) => true,
        }
    }

    /// Opens records and counts their messages; false if the session has another connection.
    fn receive(&mut self, now: Time, conn: SimConn, node: NodeId, input: &mut Deframer) -> bool {
        let Some(peer) = self.peers.get_mut(&node).filter(|peer| peer.conn == Some(conn)) else {
            return false;
        };
        loop {
            let mut frames = match peer.session.next_record(now, input) {
                Ok(Some(frames)) => frames,
                Ok(None) => return true,
                Err(SessionError::Record(error)) => {
                    panic!("a record did not open, although the network changes no byte: {error}")
                }
                Err(error) => panic!("{error}"),
            };
            while let Some(incoming) =
                peer.session.next_frame(now, &mut frames).unwrap_or_else(|error| panic!("{error}"))
            {
                self.received.record(node, &incoming.frame());
                if self.rng.once_in(self.config.held_once_in) {
                    peer.workload.hold(now, &mut peer.session, &incoming.frame(), &mut self.rng);
                }
            }
            let unread = frames.unread();
            input.put_back(unread);
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

    fn close(&mut self, now: Time, conn: SimConn, out: &mut Outputs) {
        out.push(MachineOutput::Close(conn));
        self.on_closed(now, conn);
    }

    fn on_closed(&mut self, now: Time, conn: SimConn) {
        self.conns.remove(&conn);
        for peer in self.peers.values_mut().filter(|peer| peer.conn == Some(conn)) {
            peer.conn = None;
            peer.session.connection_lost();
        }
        let again_at = now + Duration::from_millis(5) + self.rng.span(Duration::from_millis(20));
        for dial in self.dials.iter_mut().filter(|dial| dial.conn == Some(conn)) {
            (dial.conn, dial.again_at) = (None, again_at);
        }
    }

    fn on_timer(&mut self, now: Time, out: &mut Outputs) {
        let is_overdue = |connection: &&EndpointConn| {
            !matches!(connection.phase, EndpointPhase::Session(_))
                && connection.started + HANDSHAKE_TIMEOUT <= now
        };
        let overdue = self.conns.iter().filter(|(_, connection)| is_overdue(connection));
        let overdue: Vec<SimConn> = overdue.map(|(conn, _)| *conn).collect();
        overdue.into_iter().for_each(|conn| self.close(now, conn, out));
        let mut lost = Vec::new();
        for (node, peer) in &mut self.peers {
            peer.session.on_timeout(now);
            peer.workload.release_due(now, &mut peer.session);
            while let Some(event) = peer.session.poll_event() {
                match event {
                    SessionEvent::Liveness(Liveness::Lost) | SessionEvent::Unresponsive => lost.push(*node),
                    // A silent peer may be running behind a dead connection.
                    SessionEvent::Renew | SessionEvent::Liveness(Liveness::Suspect) => {
                        self.dials
                            .iter_mut()
                            .filter(|dial| dial.node == Some(*node))
                            .for_each(EndpointDial::request_renewal);
                    }
                    SessionEvent::Liveness(Liveness::Online) | SessionEvent::Writable { .. } => {}
                }
            }
        }
        lost.into_iter().for_each(|node| self.end_session(node, out));
        if self.next_send.is_some_and(|at| at <= now) {
            self.send_to_all(now);
        }
        self.dial_again(now, out);
    }

    fn send_to_all(&mut self, now: Time) {
        self.next_send = Some(now + self.rng.span(self.config.send_every * 2));
        for peer in self.peers.values_mut() {
            peer.workload.send(&mut peer.session, &mut self.rng, self.config.large_once_in);
        }
    }

    fn dial_again(&mut self, now: Time, out: &mut Outputs) {
        for dial in &mut self.dials {
            if dial.again_at <= now && dial.is_needed(&self.peers) {
                let conn = out.dial(dial.to);
                dial.conn = Some(conn);
                let phase = EndpointPhase::Dialling;
                let connection =
                    EndpointConn { phase, input: Deframer::new(), is_writing: false, started: now };
                self.conns.insert(conn, connection);
            }
        }
    }

    /// Writes the frames that the sessions have to send, a batch for each connection at a time.
    fn flush(&mut self, now: Time, out: &mut Outputs) {
        for peer in self.peers.values_mut() {
            let Some(conn) = peer.conn else { continue };
            let connection = self.conns.get_mut(&conn).filter(|connection| !connection.is_writing);
            let Some(connection) = connection else { continue };
            let mut bytes = Vec::new();
            while bytes.len() < BATCH_BYTES && peer.session.poll_transmit(now, &mut bytes) {}
            if !bytes.is_empty() {
                connection.is_writing = true;
                out.push(MachineOutput::Write { conn, bytes });
            }
        }
    }

    fn next_wake(&self, now: Time) -> Time {
        let sessions = self.peers.values().filter_map(|peer| peer.session.poll_timeout());
        let releases = self.peers.values().filter_map(|peer| peer.workload.next_release());
        let needed = self.dials.iter().filter(|dial| dial.is_needed(&self.peers));
        let dials = needed.map(|dial| dial.again_at);
        let soon = now + Duration::from_millis(50);
        sessions.chain(releases).chain(self.next_send).chain(dials).fold(soon, Time::min)
    }
}

impl Machine for SessionEndpoint {
    fn handle(&mut self, now: Time, input: MachineInput<'_>, out: &mut Outputs) {
        match input {
            MachineInput::Start | MachineInput::Timer => self.on_timer(now, out),
            MachineInput::Accepted { conn, .. } => self.start_handshake(now, conn, Handshake::accept(None)),
            MachineInput::Connected(conn) => self.on_connected(now, conn, out),
            MachineInput::DialFailed(conn) | MachineInput::Closed(conn) => self.on_closed(now, conn),
            MachineInput::Bytes { conn, bytes } => self.on_bytes(now, conn, bytes, out),
            MachineInput::Writable(conn) => {
                if let Some(connection) = self.conns.get_mut(&conn) {
                    connection.is_writing = false;
                }
            }
            MachineInput::Datagram { .. } => {}
        }
        self.flush(now, out);
        out.push(MachineOutput::Wake(self.next_wake(now)));
    }

    fn on_stall(&mut self, _now: Time, span: Duration, _out: &mut Outputs) {
        self.peers.values_mut().for_each(|peer| peer.session.exclude_stall(span));
    }

    fn check(&self) {
        for (node, peer) in &self.peers {
            peer.session.check();
            assert_eq!(peer.session.peer(), *node);
            assert_eq!(
                peer.session.is_connected(),
                peer.conn.is_some(),
                "the session and the endpoint agree on whether there is a connection"
            );
        }
    }
}

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const BATCH_BYTES: usize = 256 * 1024;
