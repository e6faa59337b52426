//! A core for unit tests: with a virtual loop and peers without connections, and without a network.

use antiphon_sched::{
    Actor, ActorId, Addr, EncodedValue, ExitReason, Key, LocalActors, Loop, LoopConfig, MonitorId, NodeId,
    Platform, Signal, SignalKind, Transport, Wire, millis,
};
use antiphon_wire as wire;
use antiphon_wire::{Deframer, Entropy, Handshake, HeldSession, ResumeState, Session};

use super::peer::Peer;
use super::peer::session::PeerSession;
use super::peer::state::PeerState;
use super::{Driver, NodeCore, Output};
use crate::config::Config;
use crate::location::Location;
use crate::peer_limits::PeerLimits;

/// A driver that records the outputs of the core.
pub(super) struct TestDriver {
    pub(super) sched: Loop,
    pub(super) outputs: Vec<Output>,
}

impl Driver for TestDriver {
    fn local(&mut self) -> LocalActors<'_> {
        self.sched.local_actors()
    }

    fn output(&mut self, output: Output) {
        self.outputs.push(output);
    }

    fn entropy(&mut self) -> Option<Entropy> {
        None
    }
}

/// A core outside of its loop, so that a test can call it. The signals of actors stay in the loop.
pub(super) struct TestCore {
    pub(super) core: NodeCore,
    pub(super) driver: TestDriver,
}

impl TestCore {
    pub(super) fn new() -> Self {
        Self::with(PeerLimits::default())
    }

    pub(super) fn with(peer_limits: PeerLimits) -> Self {
        let config = Config { peer_limits, ..Config::default() };
        let virtual_loop = LoopConfig {
            platform: Platform::Virtual,
            seed: Some(1),
            watchdog: None,
            ..LoopConfig::default()
        };
        let sched = Loop::new(virtual_loop).expect("a virtual loop uses no system resources");
        let location = Location::new(([127, 0, 0, 1], 7).into());
        let loopback = vec!["127.0.0.0/8".parse().expect("a network")];
        let core = NodeCore::simulated(&config, sched.node_id(), location, loopback);
        Self {
            core: core.expect("the configuration is valid"),
            driver: TestDriver { sched, outputs: Vec::new() },
        }
    }

    /// Adds a known peer without a location.
    pub(super) fn add_peer(&mut self, number: u64) -> NodeId {
        let node = NodeId::from_bits(number);
        self.core.peers.insert(Peer::new(node, "peer", Vec::new()));
        node
    }

    /// Begins a session with a known peer. It has no connection.
    pub(super) fn add_session(&mut self, node: NodeId) {
        // The two sides agree on the sum of their public keys.
        let entropy = |public: u8| {
            Entropy::new([public; 32], [public; 32], move |peer| Some([public.wrapping_add(peer[0]); 32]))
        };
        let here = &self.core.cx.settings.profile;
        let there = wire::Profile { node, ..here.clone() };
        let (mut to_here, mut to_there) = (Deframer::new(), Deframer::new());
        let (mut sent, mut received) = (Vec::new(), Vec::new());
        let mut dialler = Handshake::dial(here, entropy(1), ResumeState::unknown(1), None, &mut sent);
        let mut acceptor = Handshake::accept(None);
        to_there.push(&std::mem::take(&mut sent));
        acceptor.advance(&there, &mut to_there, &mut received).expect("the hello is sound");
        acceptor.answer(&there, entropy(2), ResumeState::unknown(1), &mut received).expect("at this step");
        to_here.push(&std::mem::take(&mut received));
        dialler.advance(here, &mut to_here, &mut sent).expect("the answer is sound");
        dialler.prove(here, HeldSession::nothing(), &mut sent).expect("at this step");
        to_there.push(&sent);
        acceptor.advance(&there, &mut to_there, &mut received).expect("the proof is sound");
        let connection =
            acceptor.confirm(&there, &HeldSession::nothing(), &mut received).expect("at this step");
        let (now, limits) = (self.core.cx.now, here.limits);
        let session = Session::begin(now, &limits, self.core.cx.me, &connection);
        let peer = self.core.peers.get_mut(node).expect("the peer is known");
        peer.state = PeerState::Met(Box::new(PeerSession::new(session, self.core.cx.now)));
    }

    /// Receives a signal of an actor of a peer.
    pub(super) fn apply_signal(&mut self, from: ActorId, to: Key, kind: SignalKind) {
        let to = ActorId::new(self.core.me(), to);
        self.apply(Signal { from: Some(from), to, kind });
    }

    /// Sends a signal of an actor of this node.
    pub(super) fn signal(&mut self, from: Key, to: ActorId, kind: SignalKind) {
        let from = Some(ActorId::new(self.core.me(), from));
        self.core.signal(self.core.cx.now, Signal { from, to, kind });
    }

    fn apply(&mut self, signal: Signal) {
        let node = signal.from.expect("it has a sender").node();
        let peer = self.core.peers.get_mut(node).expect("the peer is known");
        peer.apply_signal(&mut self.core.cx, signal, &mut self.driver);
    }

    /// Receives a `Down` of a peer.
    pub(super) fn receive_down(&mut self, node: NodeId, id: MonitorId, reason: ExitReason<EncodedValue>) {
        let peer = self.core.peers.get_mut(node).expect("the peer is known");
        if let Some(signal) = peer.end_monitor(&self.core.cx, id, reason) {
            self.apply(signal);
        }
    }

    /// Spawns an actor that is exposed to peers.
    pub(super) fn spawn<M: Wire>(&mut self, actor: impl Actor<M>) -> (Addr<M>, Key) {
        let addr = self.driver.sched.spawn_actor(actor);
        assert!(self.driver.sched.loop_ref().service().expose(addr));
        (addr, addr.id().key())
    }

    /// Advances the time by two milliseconds, so that a timer of one millisecond is due, and runs the loop.
    pub(super) fn advance(&mut self) {
        let later = self.driver.sched.now() + millis(2);
        self.driver.sched.advance_to(later);
        self.driver.sched.work();
        self.core.check();
    }
}
