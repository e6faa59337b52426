//! Requests of actors here whose replies went to other nodes: to be answered when such a node is lost.
//!
//! Invariant: both tables hold the same pairs.

use std::collections::BTreeSet;

use antiphon_sched::{NodeId, RequestId};

#[derive(Debug, Default)]
pub(super) struct Replies {
    by_node: BTreeSet<(NodeId, RequestId)>,
    by_port: BTreeSet<(RequestId, NodeId)>,
}

impl Replies {
    pub(super) fn len(&self) -> usize {
        self.by_port.len()
    }

    /// These replies have gone to a node.
    pub(super) fn add(&mut self, node: NodeId, ports: &[RequestId]) {
        self.by_node.extend(ports.iter().map(|port| (node, *port)));
        self.by_port.extend(ports.iter().map(|port| (*port, node)));
    }

    /// A request is over.
    pub(super) fn forget(&mut self, port: RequestId) {
        let nodes =
            self.by_port.range((port, NodeId::from_bits(0))..).take_while(|(other, _)| *other == port);
        for pair in nodes.copied().collect::<Vec<_>>() {
            self.by_port.remove(&pair);
            self.by_node.remove(&(pair.1, pair.0));
        }
    }

    /// Whether a request awaits an answer from a node.
    pub(super) fn awaits(&self, node: NodeId) -> bool {
        self.by_node.range((node, RequestId::from_bits(0))..).next().is_some_and(|(other, _)| *other == node)
    }

    /// A node will answer none of its requests any more.
    pub(super) fn take(&mut self, node: NodeId) -> Vec<RequestId> {
        let ports =
            self.by_node.range((node, RequestId::from_bits(0))..).take_while(|(other, _)| *other == node);
        let ports: Vec<RequestId> = ports.map(|(_, port)| *port).collect();
        for port in &ports {
            self.by_node.remove(&(node, *port));
            self.by_port.remove(&(*port, node));
        }
        ports
    }

    pub(super) fn check(&self) {
        let mirrored = self.by_port.iter().all(|(port, node)| self.by_node.contains(&(*node, *port)));
        assert!(mirrored && self.by_node.len() == self.by_port.len(), "both tables hold the same pairs");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_to_several_nodes_is_answered_once_by_each_and_forgotten_by_all() {
        let (one, other) = (NodeId::from_bits(1), NodeId::from_bits(2));
        let ports: Vec<RequestId> = (1..4).map(RequestId::from_bits).collect();
        let mut replies = Replies::default();
        replies.add(one, &ports);
        replies.add(other, &ports[..2]);
        replies.forget(ports[0]);
        replies.check();
        assert_eq!(replies.take(one), ports[1..]);
        assert_eq!(replies.take(one), []);
        assert_eq!([one, other].map(|node| replies.awaits(node)), [false, true]);
        assert_eq!(replies.take(other), ports[1..2]);
        replies.check();
        assert_eq!(replies.len(), 0);
    }
}
