//! A limit on what each peer uses of a service.
//!
//! Invariant: the usage of a peer is the number of its permits that exist. A peer without permits has no entry.

use std::cell::RefCell;
use std::rc::Rc;

use antiphon_sched::NodeId;

use super::quota_usage::QuotaUsage;

/// Bounds how many things of a kind each peer has at a service: subscribers, for example. A peer is one incarnation of a
/// node.
#[derive(Debug)]
pub struct PeerQuota {
    max: usize,
    /// Shared with the permits: they are dropped where nobody has access to the quota, such as with an actor.
    usage: Rc<RefCell<QuotaUsage<NodeId>>>,
}

impl PeerQuota {
    /// A quota of `max` for each peer.
    pub fn new(max: usize) -> Self {
        Self { max, usage: Rc::default() }
    }

    /// A permit for one more thing of a peer; `None` if the peer has its maximum.
    pub fn take(&self, peer: NodeId) -> Option<QuotaPermit> {
        let mut usage = self.usage.borrow_mut();
        if usage.of(&peer) >= self.max {
            return None;
        }
        usage.add(peer, 1);
        Some(QuotaPermit { peer, usage: self.usage.clone() })
    }

    /// The number of permits of a peer.
    pub fn used_by(&self, peer: NodeId) -> usize {
        self.usage.borrow().of(&peer)
    }
}

/// A place in a [`PeerQuota`], which is free again when this value is dropped.
#[derive(Debug)]
pub struct QuotaPermit {
    peer: NodeId,
    usage: Rc<RefCell<QuotaUsage<NodeId>>>,
}

impl QuotaPermit {
    /// The peer that has the permit.
    pub fn peer(&self) -> NodeId {
        self.peer
    }
}

impl Drop for QuotaPermit {
    fn drop(&mut self) {
        self.usage.borrow_mut().take(&self.peer, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_over_quota_gets_no_permit() {
        let (quota, one, other) = (PeerQuota::new(2), NodeId::from_bits(1), NodeId::from_bits(2));
        let first = quota.take(one).expect("the peer has none");
        let second = quota.take(one).expect("the peer has one");
        assert!(quota.take(one).is_none());
        assert_eq!(quota.take(other).map(|permit| permit.peer()), Some(other));
        drop(first);
        assert_eq!((quota.used_by(one), quota.used_by(other)), (1, 0));
        assert!(quota.take(one).is_some());
        drop((quota, second));
    }
}
