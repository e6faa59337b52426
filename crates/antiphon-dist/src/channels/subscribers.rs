//! The subscribers of a topic actor.
//!
//! Invariant: `total` is the number of actors in the table and behind its topics. The topic actor monitors each entry
//! once.

use std::any::type_name;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use antiphon_sched::{ActorId, Addr, Cx, Monitor, NodeId, Target, Wire};

use super::message::{ChannelMessage, DeliveryResult, SelfMessage, TopicAddr, self_message};
use crate::cx::{NetCx, may_log, node_mut};
use crate::error::SubscribeError;
use crate::from_node::FromNode;
use crate::panic_guard::{catch_panic, log_panic};
use crate::quota_usage::QuotaUsage;

/// The entries of one topic. Each costs a monitor; an actor can have 65,535 monitors and requests together.
pub(super) const ENTRIES_MAX: usize = 32_768;
/// The entries that all other nodes together may add. Each costs an answer of a delivery, so the limit leaves answers
/// for the deliveries of the channel's own node.
const ENTRIES_OF_PEERS_MAX: usize = 12_288;
/// The largest count that a downstream topic can report: more than there can be subscribers, and small enough that sums
/// do not overflow.
const COUNT_MAX: u64 = 1 << 40;
/// The fraction of the remaining time that a delivery gives to its subscribers, so that their answers arrive in time.
const TIME_FOR_SUBSCRIBERS: (u32, u32) = (7, 8);

type ChannelCx<'c, T> = Cx<'c, FromNode<ChannelMessage<T>>>;

/// The subscribers of one topic.
pub(super) struct Subscribers<T> {
    entries: BTreeMap<ActorId, SubscriberEntry<T>>,
    total: u64,
    /// The number of entries that each peer has added.
    by_peer: QuotaUsage<NodeId>,
}

struct SubscriberEntry<T> {
    recipient: Recipient<T>,
    monitor: Monitor,
    /// The quota that the entry uses; `None` if this node added it.
    quota: Option<SubscriberQuota>,
}

/// The quota that one subscriber uses: of its peer at this topic, and of its peer at all topics of this node.
pub(super) struct SubscriberQuota {
    peer: NodeId,
    /// The number of clones is the usage at all topics.
    _of_node: Arc<()>,
}

/// The actor behind an entry.
pub(super) enum Recipient<T> {
    Actor(Addr<T>),
    /// A downstream topic, and the number of subscribers that it reported.
    Topic(TopicAddr<T>, u64),
}

impl<T> Recipient<T> {
    fn weight(&self) -> u64 {
        match self {
            Self::Actor(_) => 1,
            Self::Topic(_, subscribers) => *subscribers,
        }
    }

    fn id(&self) -> ActorId {
        match self {
            Self::Actor(addr) => addr.id(),
            Self::Topic(addr, _) => addr.id(),
        }
    }
}

impl<T: Wire + Clone> Subscribers<T> {
    pub(super) fn new() -> Self {
        Self { entries: BTreeMap::new(), total: 0, by_peer: QuotaUsage::default() }
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Reserves quota for one more entry, for a peer or for this node (`None`). The entries of this node have no quota.
    pub(super) fn take_quota(
        &mut self,
        cx: &mut ChannelCx<'_, T>,
        peer: Option<NodeId>,
    ) -> Result<Option<SubscriberQuota>, SubscribeError> {
        let core = node_mut(cx.loop_ref()).ok_or(SubscribeError::NoNode)?;
        let quota = match peer {
            _ if self.entries.len() >= ENTRIES_MAX => Err(SubscribeError::TooMany),
            Some(_) if self.by_peer.all() >= ENTRIES_OF_PEERS_MAX => Err(SubscribeError::TooMany),
            None => return Ok(None),
            Some(peer) => {
                let of_node = core.take_subscription(peer, self.by_peer.of(&peer));
                of_node
                    .map(|of_node| SubscriberQuota { peer, _of_node: of_node })
                    .ok_or(SubscribeError::OverQuota)
            }
        };
        match &quota {
            Ok(quota) => self.by_peer.add(quota.peer, 1),
            Err(_) => {
                if let Some(peer) = peer {
                    core.refusals().subscriptions += 1;
                    core.log_refused(peer, "subscriptions", "has more subscribers than it may");
                }
            }
        }
        quota.map(Some)
    }

    /// Whether a peer has added this entry.
    pub(super) fn is_added_by(&self, actor: ActorId, peer: NodeId) -> bool {
        let quota = self.entries.get(&actor).and_then(|entry| entry.quota.as_ref());
        quota.is_some_and(|quota| quota.peer == peer)
    }

    /// Whether there is an entry of this kind that the peer, or this node (`None`), has added.
    pub(super) fn has_entry(&self, actor: ActorId, peer: Option<NodeId>, as_topic: bool) -> bool {
        self.entries.get(&actor).is_some_and(|entry| {
            let is_topic = matches!(entry.recipient, Recipient::Topic(..));
            is_topic == as_topic && entry.quota.as_ref().map(|quota| quota.peer) == peer
        })
    }

    pub(super) fn has(&self, actor: ActorId) -> bool {
        self.entries.contains_key(&actor)
    }

    /// The number of answers that one delivery waits for: from topics, and from actors on other nodes than `node_id`.
    pub(super) fn answers(&self, node_id: NodeId) -> usize {
        let answers = |recipient: &Recipient<T>| match recipient {
            Recipient::Actor(addr) => addr.node() != node_id,
            Recipient::Topic(..) => true,
        };
        self.entries.values().filter(|entry| answers(&entry.recipient)).count()
    }

    pub(super) fn topics(&self) -> impl Iterator<Item = TopicAddr<T>> {
        self.entries.values().filter_map(|entry| match &entry.recipient {
            Recipient::Topic(addr, _) => Some(*addr),
            Recipient::Actor(_) => None,
        })
    }

    pub(super) fn actors(&self) -> impl Iterator<Item = Addr<T>> {
        self.entries.values().filter_map(|entry| match &entry.recipient {
            Recipient::Actor(addr) => Some(*addr),
            Recipient::Topic(..) => None,
        })
    }

    /// Adds an entry. It replaces an entry with the same id.
    pub(super) fn insert(
        &mut self,
        cx: &mut ChannelCx<'_, T>,
        recipient: Recipient<T>,
        quota: Option<SubscriberQuota>,
    ) {
        let id = recipient.id();
        self.remove(cx, id);
        let monitor = cx.monitor(id);
        self.total += recipient.weight();
        self.entries.insert(id, SubscriberEntry { recipient, monitor, quota });
    }

    /// Removes an entry. Its actor may have exited.
    pub(super) fn remove(&mut self, cx: &mut ChannelCx<'_, T>, actor: ActorId) -> Option<Recipient<T>> {
        let SubscriberEntry { recipient, monitor, quota } = self.entries.remove(&actor)?;
        cx.demonitor(monitor);
        self.total -= recipient.weight();
        if let Some(quota) = &quota {
            self.by_peer.take(&quota.peer, 1);
        }
        Some(recipient)
    }

    /// Sets the number of subscribers behind a downstream topic.
    pub(super) fn set_count(&mut self, topic: ActorId, subscribers: u64) {
        let subscribers = subscribers.min(COUNT_MAX);
        if let Some(SubscriberEntry { recipient: Recipient::Topic(_, known), .. }) =
            self.entries.get_mut(&topic)
        {
            self.total = self.total - *known + subscribers;
            *known = subscribers;
        }
    }

    /// Sends a message to all subscribers. A message that cannot be sent becomes a dead letter.
    pub(super) fn send(&mut self, cx: &mut ChannelCx<'_, T>, message: T, hops: u8) {
        for SubscriberEntry { recipient, .. } in self.entries.values() {
            let Some(copy) = copy_of(cx, &message) else { break };
            match recipient {
                Recipient::Actor(addr) => cx.tell(*addr, copy),
                Recipient::Topic(addr, _) => {
                    cx.tell(*addr, ChannelMessage::Send { message: copy, hops }.into())
                }
            }
        }
        log_panic(|| drop(message));
    }

    /// Sends a message to all subscribers, and asks each for an acknowledgement under the number of a pending delivery.
    /// Returns how many actors have received the message already, and how many acknowledgements are still to come.
    pub(super) fn deliver(
        &mut self,
        cx: &mut ChannelCx<'_, T>,
        message: T,
        (delivery, hops, left): (u64, u8, Duration),
    ) -> (u64, usize) {
        let (mut received, mut open) = (0, 0);
        let node_id = cx.id().node();
        let within = left * TIME_FOR_SUBSCRIBERS.0 / TIME_FOR_SUBSCRIBERS.1;
        for SubscriberEntry { recipient, .. } in self.entries.values() {
            let Some(copy) = copy_of(cx, &message) else { break };
            match recipient {
                Recipient::Actor(addr) if addr.node() == node_id => {
                    received += u64::from(send_local(cx, *addr, copy));
                }
                Recipient::Actor(addr) => {
                    open += 1;
                    cx.deliver(*addr, copy, within, move |sent| {
                        acked(delivery, DeliveryResult::To(u64::from(sent.is_ok())))
                    });
                }
                Recipient::Topic(addr, _) => {
                    open += 1;
                    let request = move |reply| {
                        ChannelMessage::Deliver { message: copy, n: 0, within, hops, reply }.into()
                    };
                    cx.ask(*addr, within, request, move |answer: Result<DeliveryResult, _>| {
                        acked(delivery, answer.unwrap_or(DeliveryResult::To(0)))
                    });
                }
            }
        }
        log_panic(|| drop(message));
        (received, open)
    }
}

/// The message that a pending delivery got one acknowledgement.
pub(super) fn acked<T>(delivery: u64, outcome: DeliveryResult) -> FromNode<ChannelMessage<T>> {
    self_message(SelfMessage::Acked { delivery, outcome })
}

/// Sends a message to an actor of this node. Returns false if the message became a dead letter.
fn send_local<T: Wire>(cx: &mut ChannelCx<'_, T>, to: Addr<T>, message: T) -> bool {
    match cx.send(to, message) {
        Ok(()) => true,
        Err(error) => {
            cx.loop_ref().dead_letter(antiphon_sched::DeadLetter::new(to.target_id(), type_name::<T>(), error.reason()));
            log_panic(|| drop(error));
            false
        }
    }
}

/// Copies a message by the user's `Clone`; `None` if that panicked.
fn copy_of<T: Wire + Clone>(cx: &mut ChannelCx<'_, T>, message: &T) -> Option<T> {
    match catch_panic(|| message.clone()) {
        Ok(copy) => Some(copy),
        Err(text) => {
            if may_log(cx.loop_ref(), "clone", type_name::<T>()) {
                tracing::error!(
                    text,
                    "the `clone` of a channel's message panicked; the remaining subscribers do not receive it (logged at most once an hour)"
                );
            }
            None
        }
    }
}
