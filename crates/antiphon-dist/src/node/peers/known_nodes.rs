//! The nodes without a session that this node remembers: those that peers have named, and incarnations whose sessions have ended.
//!
//! A peer names a node by the route of a message, or by its location. Nobody has proven that such a node exists, so each peer has
//! a quota of them. Beyond it, its oldest that is not in use gives way; in a full table, the oldest of the peer that has named most.
//! After [`NAMED_FOR`] each gives way. A named node is in use while something waits for a session with it.
//!
//! Names are cheap to make up, so a peer may name nodes at [`NAMING_RATE`] only. A node that is met then does not count, so that a peer
//! may introduce any number of nodes that exist. What a peer names beyond its rate is ignored, and may be named again later.
//!
//! An incarnation whose session has ended stays known for a while, so that addresses of its actors are still refused for the right
//! reason, and so that its location is dialled when something is sent to it.
//!
//! Invariant: each node of these tables is in the table of peers, which refers back to its place here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use antiphon_sched::{NodeId, Time};

use super::token_bucket::Rate;
use crate::node::discovery::dial_hints::DialCause;
use crate::node::peer::Peer;

/// The nodes that one peer may have named. Those of all peers that have gone count together.
pub(in crate::node) const NAMED_MAX: usize = 1024;
/// The nodes that one peer may name and that are not met: its whole quota at once, and then one of them replaces another.
pub(in crate::node) const NAMING_RATE: Rate =
    Rate { burst: NAMED_MAX as u32, refill_every: Duration::from_millis(10) };
/// The nodes of one route that are learned. The rest of it is ignored.
pub(in crate::node) const ROUTE_NODES_MAX: usize = NAMED_MAX;
/// How long a named node stays known that nobody uses or names again.
pub(in crate::node) const NAMED_FOR: Duration = Duration::from_secs(3600);
/// How long a node that was named is not moved to the end of the order of namings, however often it is named again.
pub(in crate::node) const RENEWED_EVERY: Duration = Duration::from_secs(1);
/// The ended incarnations that are remembered: those that never return, and as many that are only lost.
pub(in crate::node) const ENDED_MAX: usize = 256;
/// Entries that one step examines or removes.
pub(in crate::node) const STEP_MAX: usize = 8;

/// How a node has become known that was never met.
#[derive(Copy, Clone, Debug)]
pub(in crate::node) struct Naming {
    /// The peer that has named it; `None` if that one has gone.
    pub(in crate::node) by: Option<NodeId>,
    /// What dials of the node count for.
    pub(in crate::node) cause: DialCause,
    /// The place in the order of namings.
    pub(in crate::node) number: u64,
    pub(in crate::node) expires: Time,
    pub(in crate::node) in_use: bool,
}

impl Naming {
    /// Whether the peer that has named the node has named it last long enough ago for another place in the order.
    pub(in crate::node) fn is_renewed_by(&self, by: NodeId, now: Time) -> bool {
        self.by == Some(by) && now + NAMED_FOR >= self.expires + RENEWED_EVERY
    }
}

/// The nodes that peers have named and that were never met.
#[derive(Debug, Default)]
pub(in crate::node) struct NamedNodes {
    /// Those that are not in use, the oldest naming first.
    unused: BTreeMap<u64, NodeId>,
    /// All, by the peer that has named them. Peers that have gone are `None` together.
    by_peer: BTreeMap<Option<NodeId>, NamedByPeer>,
    /// The same peers by the number of nodes that are not in use.
    by_count: BTreeSet<(usize, Option<NodeId>)>,
    last_number: u64,
    /// When the timer fires, if it is set.
    pub(in crate::node) timer: Option<Time>,
}

#[derive(Debug, Default)]
struct NamedByPeer {
    unused: BTreeMap<u64, NodeId>,
    pub(in crate::node) in_use: BTreeMap<u64, NodeId>,
}

impl NamedByPeer {
    fn len(&self) -> usize {
        self.unused.len() + self.in_use.len()
    }
}

impl NamedNodes {
    /// The number of nodes that a peer has named.
    pub(in crate::node) fn named_by(&self, by: Option<NodeId>) -> usize {
        self.by_peer.get(&by).map_or(0, NamedByPeer::len)
    }

    /// The oldest node that a peer has named and that is not in use.
    pub(in crate::node) fn oldest_of(&self, by: Option<NodeId>) -> Option<NodeId> {
        self.by_peer.get(&by)?.unused.first_key_value().map(|(_, node)| *node)
    }

    /// The oldest named node that is not in use.
    pub(in crate::node) fn oldest(&self) -> Option<NodeId> {
        self.unused.first_key_value().map(|(_, node)| *node)
    }

    /// The oldest node that is not in use, of the peer that has named most of them.
    pub(in crate::node) fn oldest_of_most(&self) -> Option<NodeId> {
        self.by_count.last().and_then(|(_, by)| self.oldest_of(*by))
    }

    pub(in crate::node) fn add(&mut self, node: NodeId, naming: Naming) {
        let of_peer = self.by_peer.entry(naming.by).or_default();
        if naming.in_use {
            of_peer.in_use.insert(naming.number, node);
            return;
        }
        let before = of_peer.unused.len();
        of_peer.unused.insert(naming.number, node);
        self.unused.insert(naming.number, node);
        self.count(naming.by, before, before + 1);
    }

    /// A peer has named a node again: it counts as named now.
    pub(in crate::node) fn renew(&mut self, node: NodeId, naming: &mut Naming, now: Time) {
        self.remove(*naming);
        (naming.number, naming.expires) = (self.next_number(), now + NAMED_FOR);
        self.add(node, *naming);
    }

    pub(in crate::node) fn remove(&mut self, naming: Naming) {
        let Some(of_peer) = self.by_peer.get_mut(&naming.by) else { return };
        let before = of_peer.unused.len();
        if naming.in_use {
            of_peer.in_use.remove(&naming.number);
        } else {
            of_peer.unused.remove(&naming.number);
            self.unused.remove(&naming.number);
        }
        let after = of_peer.unused.len();
        if of_peer.len() == 0 {
            self.by_peer.remove(&naming.by);
        }
        self.count(naming.by, before, after);
    }

    /// Removes a peer, and returns the nodes that it has named.
    pub(in crate::node) fn remove_peer(&mut self, by: NodeId) -> Vec<NodeId> {
        let Some(of_peer) = self.by_peer.remove(&Some(by)) else { return Vec::new() };
        self.count(Some(by), of_peer.unused.len(), 0);
        of_peer.unused.into_values().chain(of_peer.in_use.into_values()).collect()
    }

    fn count(&mut self, by: Option<NodeId>, before: usize, after: usize) {
        self.by_count.remove(&(before, by));
        if after > 0 {
            self.by_count.insert((after, by));
        }
    }

    pub(in crate::node) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    pub(in crate::node) fn check<'a>(&self, peers: impl Iterator<Item = (&'a NodeId, &'a Peer)>) {
        let mut in_use = 0;
        let mut unused = 0;
        for (node, naming) in peers.filter_map(|(node, peer)| Some((node, peer.naming?))) {
            in_use += usize::from(naming.in_use);
            if !naming.in_use {
                unused += 1;
                assert_eq!(self.unused.get(&naming.number), Some(node), "the order has each unused node");
            }
        }
        assert_eq!(unused, self.unused.len(), "the order has the unused nodes of the table only");
        assert_eq!(unused, self.by_peer.values().map(|of_peer| of_peer.unused.len()).sum::<usize>());
        assert_eq!(in_use, self.by_peer.values().map(|of_peer| of_peer.in_use.len()).sum::<usize>());
        assert!(self.by_count.iter().all(|(count, by)| self.by_peer[by].unused.len() == *count));
        assert_eq!(unused, self.by_count.iter().map(|(count, _)| count).sum::<usize>());
        for (by, of_peer) in &self.by_peer {
            // Those in use outlast the peer that has named them, for the time of a dial.
            let counted = if by.is_some() { of_peer.len() } else { of_peer.unused.len() };
            assert!(of_peer.len() > 0 && counted <= NAMED_MAX, "{by:?} has named {counted} nodes");
        }
        assert!(self.unused.is_empty() || self.timer.is_some(), "unused nodes expire");
    }
}

/// The place of an ended incarnation in its table.
#[derive(Copy, Clone, Debug)]
pub(in crate::node) struct Ended {
    returns_never: bool,
    pub(in crate::node) number: u64,
}

/// The incarnations whose sessions have ended, the first to end first.
#[derive(Debug, Default)]
pub(in crate::node) struct EndedNodes {
    /// They have left, or another incarnation has taken their place.
    never_return: BTreeMap<u64, NodeId>,
    /// They were lost, and may return.
    lost: BTreeMap<u64, NodeId>,
    last_number: u64,
}

impl EndedNodes {
    pub(in crate::node) fn table(&mut self, returns_never: bool) -> &mut BTreeMap<u64, NodeId> {
        if returns_never { &mut self.never_return } else { &mut self.lost }
    }

    pub(in crate::node) fn add(&mut self, node: NodeId, returns_never: bool) -> Ended {
        self.last_number += 1;
        let number = self.last_number;
        self.table(returns_never).insert(number, node);
        Ended { returns_never, number }
    }

    pub(in crate::node) fn remove(&mut self, ended: Ended) {
        self.table(ended.returns_never).remove(&ended.number);
    }

    /// Takes the first to end out of a table. The caller forgets it, or adds it again as the last.
    pub(in crate::node) fn pop(&mut self, returns_never: bool) -> Option<NodeId> {
        self.table(returns_never).pop_first().map(|(_, node)| node)
    }

    pub(in crate::node) fn check<'a>(&self, peers: impl Iterator<Item = (&'a NodeId, &'a Peer)>) {
        let mut count = 0;
        for (node, ended) in peers.filter_map(|(node, peer)| Some((node, peer.ended?))) {
            let table = if ended.returns_never { &self.never_return } else { &self.lost };
            assert_eq!(table.get(&ended.number), Some(node), "the table has each ended incarnation");
            count += 1;
        }
        assert_eq!(count, self.never_return.len() + self.lost.len(), "the tables have ended ones only");
    }
}
