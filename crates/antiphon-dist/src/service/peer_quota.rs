//! A limit on what each peer uses of a service, and on what all use together.

use std::collections::BTreeMap;

use antiphon_sched::{Budget, NodeId, OverBudget, Permit};

/// Bounds how many things of a kind each peer has at a service, and all together: subscribers, for example. A peer is one
/// incarnation of a node.
///
/// What a peer has is counted by [`Permit`]s, which may be dropped where nobody has access to the quota, such as with an actor.
#[derive(Debug)]
pub struct PeerQuota {
    all: Budget,
    each_max: u64,
    by_peer: BTreeMap<NodeId, Budget>,
    /// The number of peers at which those without permits are removed.
    sweep_at: usize,
}

/// The peers without permits that are kept in any case.
const PEERS_KEPT_MIN: usize = 16;

impl PeerQuota {
    /// A quota of `each_max` for each peer.
    pub fn new(each_max: usize) -> Self {
        Self::with_total(usize::MAX, each_max)
    }

    /// A quota of `each_max` for each peer, and of `all_max` for all together.
    pub fn with_total(all_max: usize, each_max: usize) -> Self {
        let all = Budget::with_max(all_max as u64);
        Self { all, each_max: each_max as u64, by_peer: BTreeMap::new(), sweep_at: PEERS_KEPT_MIN }
    }

    /// A permit for one more thing of a peer.
    ///
    /// # Errors
    /// The peer, or all together, have their maximum, which is in the error.
    pub fn take(&mut self, peer: NodeId) -> Result<Permit, OverBudget> {
        if self.by_peer.len() >= self.sweep_at && !self.by_peer.contains_key(&peer) {
            self.by_peer.retain(|_, budget| budget.used() > 0);
            self.sweep_at = PEERS_KEPT_MIN.max(self.by_peer.len() * 2);
        }
        let of_peer = self.by_peer.entry(peer);
        of_peer.or_insert_with(|| Budget::child_with_max(&self.all, self.each_max)).try_acquire(1)
    }

    /// A permit for one more thing of this node, which has no quota of its own.
    ///
    /// # Errors
    /// All together have their maximum, which is in the error.
    pub fn take_own(&self) -> Result<Permit, OverBudget> {
        self.all.try_acquire(1)
    }

    /// The number of permits of a peer.
    pub fn used_by(&self, peer: NodeId) -> u64 {
        self.by_peer.get(&peer).map_or(0, Budget::used)
    }

    /// The number of all permits.
    pub fn used(&self) -> u64 {
        self.all.used()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_over_quota_gets_no_permit() {
        let (mut quota, one, other) =
            (PeerQuota::with_total(3, 2), NodeId::from_bits(1), NodeId::from_bits(2));
        let first = quota.take(one).expect("the peer has none");
        let second = quota.take(one).expect("the peer has one");
        assert_eq!(quota.take(one).expect_err("the peer has two"), OverBudget { max: 2 });
        let third = quota.take(other).expect("another peer has none");
        drop(first);
        let fourth = quota.take(one).expect("the peer has one again");
        assert_eq!(quota.take(other).expect_err("all have three"), OverBudget { max: 3 });
        assert_eq!((quota.used_by(one), quota.used_by(other), quota.used()), (2, 1, 3));
        drop(quota);
        drop((second, third, fourth));
    }

    #[test]
    fn peers_without_permits_are_forgotten() {
        let mut quota = PeerQuota::new(1);
        let kept = quota.take(NodeId::from_bits(0)).expect("the peer has none");
        for number in 1..10_000 {
            drop(quota.take(NodeId::from_bits(number)).expect("the peer has none"));
        }
        assert!(quota.by_peer.len() <= 2 * PEERS_KEPT_MIN);
        assert!(quota.take(NodeId::from_bits(0)).is_err());
        drop(kept);
    }
}
