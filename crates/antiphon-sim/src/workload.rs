//! What actors of an endpoint say and hear, and the promises that are checked at each message:
//! (1) messages from one actor to another arrive in the order sent; (2) a dropped connection loses and repeats nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use antiphon_wire::frame::Message;
use antiphon_wire::{Frame, HeldCredit, Key, NodeId, Route, Session, Time};

use crate::rng::SimRng;

/// What is said in one session.
#[derive(Debug)]
pub(crate) struct Workload {
    /// The speaker's own number of the session.
    session: u64,
    node: NodeId,
    sent: BTreeMap<(Key, Key), u64>,
    backlog: Vec<(Time, HeldCredit)>,
    paused: Vec<(Time, Key)>,
}

impl Workload {
    pub(crate) fn new(session: u64, node: NodeId) -> Workload {
        Workload { session, node, sent: BTreeMap::new(), backlog: Vec::new(), paused: Vec::new() }
    }

    /// Sends some messages, each with its number within its pair.
    pub(crate) fn speak(&mut self, session: &mut Session, rng: &mut SimRng, large_once_in: u64) {
        let tag = session.intern("sim.numbered/1").expect("one tag");
        for _ in 0..rng.below(8) {
            let (from, to) = (Key(1 + rng.below(ACTORS)), Key(1 + rng.below(ACTORS)));
            let number = self.sent.entry((from, to)).or_default();
            let filler =
                if rng.once_in(large_once_in) { 10_000 + rng.below(200_000) } else { rng.below(200) };
            let mut body = Vec::new();
            for word in [self.node.0, self.session, *number] {
                body.extend_from_slice(&word.to_le_bytes());
            }
            body.resize(body.len() + usize::try_from(filler).unwrap_or(0), 7);
            let message = Message { to, from, tag, receipt: None, route: Route::NONE, body: &body };
            // A refused message was not sent, so it takes no number.
            if session.send(&Frame::Message(message)).is_ok() {
                *number += 1;
            }
        }
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.values().sum()
    }

    /// Holds back the credit of a message for a while; sometimes pauses its receiver.
    pub(crate) fn park(&mut self, now: Time, session: &mut Session, frame: &Frame<'_>, rng: &mut SimRng) {
        let until = now + rng.span(Duration::from_millis(100));
        self.backlog.push((until, session.hold()));
        if let (Frame::Message(message), true) = (frame, rng.once_in(3)) {
            session.pause(message.to);
            self.paused.push((until, message.to));
        }
    }

    pub(crate) fn unpark(&mut self, now: Time, session: &mut Session) {
        for (_, held) in self.backlog.extract_if(.., |(until, _)| *until <= now) {
            session.release(held);
        }
        let due: Vec<(Time, Key)> = self.paused.extract_if(.., |(until, _)| *until <= now).collect();
        for (_, actor) in due {
            if self.paused.iter().all(|(_, paused)| *paused != actor) {
                session.unpause(actor);
            }
        }
    }

    pub(crate) fn unparks_at(&self) -> Option<Time> {
        let backlog = self.backlog.iter().map(|(until, _)| *until);
        backlog.chain(self.paused.iter().map(|(until, _)| *until)).min()
    }
}

/// What was heard from everybody, over all sessions of one life.
#[derive(Debug, Default)]
pub(crate) struct ReceivedLog {
    pairs: BTreeMap<(NodeId, Key, Key), (u64, u64)>,
    /// The last session heard of each node, and its messages.
    totals: BTreeMap<NodeId, (u64, u64)>,
    sessions: u64,
}

impl ReceivedLog {
    /// The number of the next session of this side.
    pub(crate) fn next_session(&mut self) -> u64 {
        self.sessions += 1;
        self.sessions
    }

    /// Checks the promises.
    ///
    /// # Panics
    /// If one is broken.
    pub(crate) fn hear(&mut self, node: NodeId, frame: &Frame<'_>) {
        let Frame::Message(message) = frame else { return };
        let word = |index: usize| {
            let bytes = message.body.get(index * 8..index * 8 + 8).expect("the body is whole");
            u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
        };
        let (speaker, session, number) = (word(0), word(1), word(2));
        assert_eq!(speaker, node.0, "a message comes from the node that sent it");
        assert!(message.body[24..].iter().all(|byte| *byte == 7), "a message arrives as it was sent");
        let (last, next) = self.pairs.entry((node, message.from, message.to)).or_insert((session, 0));
        assert!(session >= *last, "nothing of an ended session arrives later");
        if session > *last {
            (*last, *next) = (session, 0);
        }
        assert_eq!(number, *next, "promises 1 and 2: in order, none lost, none repeated");
        *next += 1;
        let total = self.totals.entry(node).or_insert((session, 0));
        if session > total.0 {
            *total = (session, 0);
        }
        total.1 += 1;
    }

    pub(crate) fn total(&self, node: NodeId) -> u64 {
        self.totals.get(&node).map_or(0, |(_, total)| *total)
    }
}

/// Actors at each end.
const ACTORS: u64 = 4;
