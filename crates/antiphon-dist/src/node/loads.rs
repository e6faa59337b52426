//! How many bytes of peers' messages wait in mailboxes.
//!
//! A mailbox is bounded in messages, which says nothing of their bytes: 65,536 of 16 MiB each would be any machine's end.
//! So large ones are counted by bytes as well, and what is too much waits as for a full mailbox: with the peer, in the end.
//!
//! Invariant: messages are taken in the order in which they came, so the large ones that wait for an actor are among the
//! last that came, and no more than all that wait for it. What is counted here is never less than what waits, but where an
//! actor picks messages by a predicate.

use std::collections::{BTreeMap, VecDeque};

use antiphon_sched::{Delivery, Door, Key, NodeId};

use super::NodeCore;
use super::world::World;

/// Bodies up to here are not counted: the bound on messages is enough.
const LIGHT_BYTES: usize = 1024;
/// Bytes of large messages of one peer that may wait in mailboxes; an actor for which nothing waits is sent one more.
const OF_PEER_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// What each has, however much of the others' waits.
const OF_PEER_BYTES_LEAST: u64 = 1024 * 1024;
/// And of all peers, those that are gone among them.
const OF_ALL_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Actors that are kept in mind before those that have ended are forgotten.
const SWEEP_FIRST: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Loads {
    /// For each actor, the large messages that may wait for it: whose, and how large; the oldest first.
    of_actors: BTreeMap<Key, VecDeque<(NodeId, u64)>>,
    of_peers: BTreeMap<NodeId, u64>,
    all: u64,
    /// So many actors, and it is time to look at all again.
    sweep_at: usize,
}

impl Loads {
    /// No more than so many messages wait for an actor.
    fn on_backlog(&mut self, actor: Key, waiting: usize) {
        let Some(bodies) = self.of_actors.get_mut(&actor) else { return };
        let taken = bodies.len().saturating_sub(waiting);
        for (node, bytes) in bodies.drain(..taken) {
            self.all -= bytes;
            if let Some(of_peer) = self.of_peers.get_mut(&node) {
                *of_peer -= bytes;
                if *of_peer == 0 {
                    self.of_peers.remove(&node);
                }
            }
        }
        if bodies.is_empty() {
            self.of_actors.remove(&actor);
        }
    }

    fn has_room_for(&self, node: NodeId, bytes: u64) -> bool {
        let of_peer = self.of_peers.get(&node).copied().unwrap_or(0);
        let is_small_share = of_peer + bytes <= OF_PEER_BYTES_LEAST;
        of_peer + bytes <= OF_PEER_BYTES_MAX && (is_small_share || self.all + bytes <= OF_ALL_BYTES_MAX)
    }

    fn add(&mut self, actor: Key, node: NodeId, bytes: u64) {
        self.of_actors.entry(actor).or_default().push_back((node, bytes));
        *self.of_peers.entry(node).or_default() += bytes;
        self.all += bytes;
    }

    /// Looks at all mailboxes again.
    fn sweep(&mut self, door: &mut Door<'_>) {
        let actors: Vec<Key> = self.of_actors.keys().copied().collect();
        for actor in actors {
            let waiting = door.backlog(actor).map_or(0, |(_, waiting)| waiting);
            self.on_backlog(actor, waiting);
        }
        self.sweep_at = (2 * self.of_actors.len()).max(SWEEP_FIRST);
    }

    pub(super) fn check(&self) {
        let sum = |bodies: &VecDeque<(NodeId, u64)>| bodies.iter().map(|(_, bytes)| bytes).sum::<u64>();
        assert_eq!(self.all, self.of_actors.values().map(sum).sum::<u64>(), "what waits is counted");
        assert_eq!(self.all, self.of_peers.values().sum::<u64>(), "and is somebody's");
        assert!(
            self.of_actors.values().all(|bodies| !bodies.is_empty()),
            "who waits for nothing is forgotten"
        );
    }
}

impl NodeCore {
    /// Puts a peer's message into a mailbox, unless that is full, or the peer has too much in mailboxes already.
    pub(super) fn deliver_here(
        &mut self,
        node: NodeId,
        to: Key,
        (tag, body): (&str, &[u8]),
        world: &mut impl World,
    ) -> Delivery {
        if body.len() > LIGHT_BYTES
            && world.door().backlog(to).is_some_and(|(_, waiting)| waiting > 0)
            && !self.has_room_here(node, to, body.len(), world)
        {
            return Delivery::Full;
        }
        let delivery = world.door().deliver(to, tag, body);
        if delivery == Delivery::Delivered {
            self.note_load(node, to, body.len(), world);
        }
        delivery
    }

    /// Whether so many bytes of a peer's may wait for an actor besides what does already.
    pub(super) fn has_room_here(
        &mut self,
        node: NodeId,
        to: Key,
        bytes: usize,
        world: &mut impl World,
    ) -> bool {
        if bytes <= LIGHT_BYTES {
            return true;
        }
        let (mut door, bytes) = (world.door(), bytes as u64);
        if let Some((actor, waiting)) = door.backlog(to) {
            self.loads.on_backlog(actor, waiting);
        }
        if !self.loads.has_room_for(node, bytes) || self.loads.of_actors.len() >= self.loads.sweep_at {
            self.loads.sweep(&mut door);
        }
        self.loads.has_room_for(node, bytes)
    }

    /// So many bytes of a peer's have been put into an actor's mailbox.
    pub(super) fn note_load(&mut self, node: NodeId, to: Key, bytes: usize, world: &mut impl World) {
        if bytes <= LIGHT_BYTES {
            return;
        }
        if let Some((actor, waiting)) = world.door().backlog(to) {
            self.loads.on_backlog(actor, waiting.saturating_sub(1));
            self.loads.add(actor, node, bytes as u64);
        }
    }
}
