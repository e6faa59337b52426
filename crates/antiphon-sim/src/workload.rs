//! The messages that the actors of an endpoint exchange, and the promises that are checked at each message:
//! (1) messages from one actor to another arrive in the order sent; (2) a dropped connection loses and repeats nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use antiphon_wire::frame::Message;
use antiphon_wire::{Frame, HeldCredit, Key, NodeId, Route, Session, Time};

use crate::rng::SimRng;

/// The messages that one endpoint sends in one session, and the credit that it holds back.
#[derive(Debug)]
pub(crate) struct Workload {
    /// The number of the session, counted by the sending endpoint.
    session: u64,
    node: NodeId,
    /// Messages sent from one actor to another.
    sent: BTreeMap<(Key, Key), u64>,
    /// Credit, and when to release it.
    held: Vec<(Time, HeldCredit)>,
    /// Paused actors, and when each pause ends.
    paused: Vec<(Time, Key)>,
}

impl Workload {
    pub(crate) fn new(session: u64, node: NodeId) -> Workload {
        Workload { session, node, sent: BTreeMap::new(), held: Vec::new(), paused: Vec::new() }
    }

    /// Sends up to seven messages, each with its number among those of its sender and receiver.
    pub(crate) fn send(&mut self, session: &mut Session, rng: &mut SimRng, large_once_in: u64) {
        let tag = session.intern("sim.numbered/1").expect("one tag");
        for _ in 0..rng.below(8) {
            let (from, to) = (Key::from_bits(1 + rng.below(ACTORS)), Key::from_bits(1 + rng.below(ACTORS)));
            let number = self.sent.entry((from, to)).or_default();
            let filler =
                if rng.once_in(large_once_in) { 10_000 + rng.below(200_000) } else { rng.below(200) };
            let mut body = Vec::new();
            for field in [self.node.to_bits(), self.session, *number] {
                body.extend_from_slice(&field.to_le_bytes());
            }
            body.resize(body.len() + usize::try_from(filler).unwrap_or(0), 7);
            let message = Message { to, from, tag, receipt: None, route: Route::NONE, body: &body };
            // A message that the session refuses is not sent, so it takes no number.
            if session.send(&Frame::Message(message)).is_ok() {
                *number += 1;
            }
        }
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.values().sum()
    }

    /// Holds back the credit of a message for up to 100 ms; sometimes pauses its receiver.
    pub(crate) fn hold(&mut self, now: Time, session: &mut Session, frame: &Frame<'_>, rng: &mut SimRng) {
        let until = now + rng.span(Duration::from_millis(100));
        self.held.push((until, session.hold()));
        if let (Frame::Message(message), true) = (frame, rng.once_in(3)) {
            let is_paused = session.pause(message.to);
            assert!(is_paused, "a few actors are within the peer's limit");
            self.paused.push((until, message.to));
        }
    }

    /// Releases credit and resumes actors whose time has come.
    pub(crate) fn release_due(&mut self, now: Time, session: &mut Session) {
        for (_, credit) in self.held.extract_if(.., |(until, _)| *until <= now) {
            session.release(credit);
        }
        let due: Vec<(Time, Key)> = self.paused.extract_if(.., |(until, _)| *until <= now).collect();
        for (_, actor) in due {
            if self.paused.iter().all(|(_, paused)| *paused != actor) {
                session.unpause(actor);
            }
        }
    }

    /// When `release_due` is next needed.
    pub(crate) fn next_release(&self) -> Option<Time> {
        let held = self.held.iter().map(|(until, _)| *until);
        held.chain(self.paused.iter().map(|(until, _)| *until)).min()
    }
}

/// The messages received from all peers, over all sessions of one incarnation.
#[derive(Debug, Default)]
pub(crate) struct ReceivedLog {
    /// For each peer, sender and receiver: the last session, and the number of its next message.
    pairs: BTreeMap<(NodeId, Key, Key), (u64, u64)>,
    /// For each peer: the last session, and the number of its messages.
    totals: BTreeMap<NodeId, (u64, u64)>,
    sessions: u64,
}

impl ReceivedLog {
    /// Starts another session of this endpoint, and returns its number.
    pub(crate) fn next_session(&mut self) -> u64 {
        self.sessions += 1;
        self.sessions
    }

    /// Counts a message, and checks the promises.
    ///
    /// # Panics
    /// If one is broken.
    pub(crate) fn record(&mut self, node: NodeId, frame: &Frame<'_>) {
        let Frame::Message(message) = frame else { return };
        let field = |index: usize| {
            let bytes = message.body.get(index * 8..index * 8 + 8).expect("the body is whole");
            u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
        };
        let (sender, session, number) = (field(0), field(1), field(2));
        assert_eq!(sender, node.to_bits(), "a message comes from the node that sent it");
        assert!(message.body[24..].iter().all(|byte| *byte == 7), "a message arrives as it was sent");
        let (last, next) = self.pairs.entry((node, message.from, message.to)).or_insert((session, 0));
        assert!(session >= *last, "no message of an ended session arrives in a later one");
        if session > *last {
            (*last, *next) = (session, 0);
        }
        assert_eq!(number, *next, "promises 1 and 2: messages arrive in order, none lost, none repeated");
        *next += 1;
        let total = self.totals.entry(node).or_insert((session, 0));
        if session > total.0 {
            *total = (session, 0);
        }
        total.1 += 1;
    }

    /// Messages received from `node` in its last session.
    pub(crate) fn total(&self, node: NodeId) -> u64 {
        self.totals.get(&node).map_or(0, |(_, total)| *total)
    }
}

/// Actors at each endpoint.
const ACTORS: u64 = 4;
