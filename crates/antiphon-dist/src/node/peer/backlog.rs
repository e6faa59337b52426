//! The messages and signals of one peer that wait for mailboxes of this node.
//!
//! A message for a full mailbox waits here, and later messages and signals for the same actor wait behind it. The
//! backlog belongs to the peer and not to a session: after the end of a session, what it holds stays for the time of
//! `peer_timeout`.
//!
//! Invariant: an actor has an entry while messages wait for it, or while the peer is asked to hold back its frames for
//! it. Each entry is registered once at the scheduler, for room in the mailbox.

use std::collections::{BTreeMap, VecDeque};

use antiphon_sched::{ActorId, Key, MonitorId, Permit, Signal, Ticket, Time};

use super::signals::body_bytes;

/// The number of bytes that one entry counts in addition to its body.
pub(in crate::node) const BACKLOG_OVERHEAD: u64 = 64;

/// What waits for the actors of this node that take the messages of one peer more slowly than they arrive.
#[derive(Debug, Default)]
pub(in crate::node) struct Backlog {
    actors: BTreeMap<Key, SlowActor>,
    bytes: u64,
}

/// An actor that takes the messages of a peer more slowly than they arrive.
#[derive(Debug, Default)]
struct SlowActor {
    entries: VecDeque<BacklogEntry>,
    /// Whether the peer is asked to hold back its frames for the actor.
    is_paused: bool,
    /// Its registration for room in the mailbox.
    ticket: Ticket,
}

/// A message or signal that waits for an actor.
#[derive(Debug)]
pub(in crate::node) struct BacklogEntry {
    pub(in crate::node) item: BacklogItem,
    pub(in crate::node) bytes: u64,
    pub(in crate::node) permit: Option<Permit>,
    /// If the session that brought it has ended: when the entry becomes a dead letter.
    pub(in crate::node) expires: Option<Time>,
}

#[derive(Debug)]
pub(in crate::node) enum BacklogItem {
    Message {
        to: Key,
        from: Key,
        tag: Box<str>,
        body: Box<[u8]>,
        receipt: Option<u64>,
    },
    Signal(Signal),
    /// The watcher receives a `Down`: the session has ended, and with it the node of `actor` was lost.
    NodeLost {
        watcher: Key,
        id: MonitorId,
        actor: ActorId,
    },
}

impl BacklogItem {
    fn body_bytes(&self) -> usize {
        match self {
            Self::Message { body, .. } => body.len(),
            Self::Signal(signal) => body_bytes(&signal.kind),
            Self::NodeLost { .. } => 0,
        }
    }

    /// The number of bytes that it counts.
    pub(in crate::node) fn bytes(&self) -> u64 {
        self.body_bytes() as u64 + BACKLOG_OVERHEAD
    }
}

impl Backlog {
    pub(in crate::node) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether messages or signals wait. Actors that are only paused do not count.
    pub(in crate::node) fn has_entries(&self) -> bool {
        self.bytes > 0
    }

    /// Whether messages or signals wait for an actor, so that later ones must wait behind them.
    pub(in crate::node) fn has_entries_for(&self, actor: Key) -> bool {
        !self.actors.is_empty() && self.actors.get(&actor).is_some_and(|slow| !slow.entries.is_empty())
    }

    /// Whether the actor is registered for room.
    pub(in crate::node) fn is_registered(&self, actor: Key) -> bool {
        self.actors.contains_key(&actor)
    }

    /// Whether the peer is asked to hold back its frames for the actor.
    pub(in crate::node) fn is_paused(&self, actor: Key) -> bool {
        self.actors.get(&actor).is_some_and(|slow| slow.is_paused)
    }

    pub(in crate::node) fn set_paused(&mut self, actor: Key, is_paused: bool) {
        if is_paused {
            self.actors.entry(actor).or_default().is_paused = true;
        } else if let Some(slow) = self.actors.get_mut(&actor) {
            slow.is_paused = false;
        }
    }

    /// Adds an entry behind those of the same actor.
    pub(in crate::node) fn push(&mut self, actor: Key, entry: BacklogEntry) {
        self.bytes += entry.bytes;
        self.actors.entry(actor).or_default().entries.push_back(entry);
    }

    /// Puts back the entry that was taken last.
    pub(in crate::node) fn put_back(&mut self, actor: Key, entry: BacklogEntry) {
        self.bytes += entry.bytes;
        self.actors.entry(actor).or_default().entries.push_front(entry);
    }

    /// Takes the first entry of an actor.
    pub(in crate::node) fn pop(&mut self, actor: Key) -> Option<BacklogEntry> {
        let entry = self.actors.get_mut(&actor)?.entries.pop_front()?;
        self.bytes -= entry.bytes;
        Some(entry)
    }

    /// Removes the entry of an actor without messages that is not paused.
    pub(in crate::node) fn remove_if_idle(&mut self, actor: Key) {
        if self.actors.get(&actor).is_some_and(|slow| slow.entries.is_empty() && !slow.is_paused) {
            self.actors.remove(&actor);
        }
    }

    /// The registration of an actor. Meaningless if it is not registered.
    pub(in crate::node) fn ticket(&self, actor: Key) -> Ticket {
        self.actors.get(&actor).map(|slow| slow.ticket).unwrap_or_default()
    }

    pub(in crate::node) fn set_ticket(&mut self, actor: Key, ticket: Ticket) {
        if let Some(slow) = self.actors.get_mut(&actor) {
            slow.ticket = ticket;
        }
    }

    /// Ends all pauses at the end of a session. Its entries become dead letters at `expires`. Returns the actors for
    /// which nothing waits any more, with their registrations.
    pub(in crate::node) fn end_session(&mut self, expires: Time) -> Vec<(Key, Ticket)> {
        for slow in self.actors.values_mut() {
            slow.is_paused = false;
            for entry in &mut slow.entries {
                entry.expires = entry.expires.or(Some(expires));
            }
        }
        self.actors
            .extract_if(.., |_, slow| slow.entries.is_empty())
            .map(|(key, slow)| (key, slow.ticket))
            .collect()
    }

    /// The actors whose first entry has expired.
    pub(in crate::node) fn expired_actors(&self, now: Time) -> Vec<Key> {
        self.actors.keys().copied().filter(|actor| self.is_expired(*actor, now)).collect()
    }

    fn is_expired(&self, actor: Key, now: Time) -> bool {
        let first = self.actors.get(&actor).and_then(|slow| slow.entries.front());
        first.and_then(|entry| entry.expires).is_some_and(|expires| expires <= now)
    }

    /// Takes the first entry of an actor if it has expired.
    pub(in crate::node) fn pop_expired(&mut self, actor: Key, now: Time) -> Option<BacklogEntry> {
        if self.is_expired(actor, now) { self.pop(actor) } else { None }
    }

    pub(in crate::node) fn check(&self) {
        let entries = || self.actors.values().flat_map(|slow| &slow.entries);
        assert_eq!(
            self.bytes,
            entries().map(|entry| entry.bytes).sum::<u64>(),
            "the backlog counts its bytes"
        );
        for (actor, slow) in &self.actors {
            assert!(
                slow.is_paused || !slow.entries.is_empty(),
                "an actor without entries is paused: {actor}"
            );
        }
    }
}
