//! Who receives what a channel or relay passes on.
//!
//! Invariant: `total` is the number of actors in the table and behind its branches; whoever is in it is monitored,
//! once.

use std::any::type_name;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use antiphon_sched::{ActorId, Addr, Cx, Monitor, NodeId, Target, Wire};

use super::message::{ChannelMessage, Delivered, SelfMessage, TopicAddr, own};
use crate::cx::{NetCx, may_log, node_mut};
use crate::error::SubscribeError;
use crate::from_node::FromNode;
use crate::panic_guard::{catch_panic, log_panic};
use crate::quota::QuotaUsage;

/// Entries of one channel: each costs a monitor, of which an actor has 65,535, with its requests.
pub(super) const ENTRIES_MAX: usize = 32_768;
/// Of these, how many all other nodes together may have brought: each costs an answer of a delivery, and the channel's own node
/// can then still deliver.
const ENTRIES_OF_PEERS_MAX: usize = 12_288;
/// What a branch may say that is behind it: more than there can be, and little enough to be added up.
const BELOW_MAX: u64 = 1 << 40;
/// Of the time that is left for a delivery, what is left for those below: so that their answers still arrive.
const SHARE_BELOW: (u32, u32) = (7, 8);

type ChannelCx<'c, T> = Cx<'c, FromNode<ChannelMessage<T>>>;

/// The receivers of one channel or relay.
pub(super) struct Subscribers<T> {
    entries: BTreeMap<ActorId, SubscriberEntry<T>>,
    total: u64,
    /// How many of them each peer has put here.
    brought: QuotaUsage<NodeId>,
}

struct SubscriberEntry<T> {
    receiver: Recipient<T>,
    monitor: Monitor,
    share: Option<SubscriberQuota>,
}

/// That a peer has put a receiver here: its part of this channel, and of all of this node.
pub(super) struct SubscriberQuota {
    by: NodeId,
    /// Counted by being there.
    _of_all: Arc<()>,
}

pub(super) enum Recipient<T> {
    Actor(Addr<T>),
    /// A relay or another channel, with so many receivers behind it.
    Relay(TopicAddr<T>, u64),
}

impl<T> Recipient<T> {
    fn weight(&self) -> u64 {
        match self {
            Self::Actor(_) => 1,
            Self::Relay(_, below) => *below,
        }
    }

    fn id(&self) -> ActorId {
        match self {
            Self::Actor(addr) => addr.id(),
            Self::Relay(addr, _) => addr.id(),
        }
    }
}

impl<T: Wire + Clone> Subscribers<T> {
    pub(super) fn new() -> Self {
        Self { entries: BTreeMap::new(), total: 0, brought: QuotaUsage::default() }
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A place for one more, that this node or a peer wants.
    pub(super) fn take_share(
        &mut self,
        cx: &mut ChannelCx<'_, T>,
        by: Option<NodeId>,
    ) -> Result<Option<SubscriberQuota>, SubscribeError> {
        let core = node_mut(cx.loop_ref()).ok_or(SubscribeError::NoNode)?;
        let taken = match by {
            _ if self.entries.len() >= ENTRIES_MAX => Err(SubscribeError::TooMany),
            Some(_) if self.brought.all() >= ENTRIES_OF_PEERS_MAX => Err(SubscribeError::TooMany),
            None => return Ok(None),
            Some(by) => {
                let of_all = core.take_subscription(by, self.brought.of(&by));
                of_all.map(|of_all| SubscriberQuota { by, _of_all: of_all }).ok_or(SubscribeError::OverQuota)
            }
        };
        match &taken {
            Ok(share) => self.brought.add(share.by, 1),
            Err(_) => {
                if let Some(by) = by {
                    core.refusals().subscriptions += 1;
                    core.log_refused(by, "subscriptions", "subscribes more receivers than it may");
                }
            }
        }
        taken.map(Some)
    }

    /// Whether another node has brought somebody.
    pub(super) fn is_brought_by(&self, actor: ActorId, node: NodeId) -> bool {
        self.entries.get(&actor).and_then(|entry| entry.share.as_ref()).is_some_and(|share| share.by == node)
    }

    /// Whether somebody is here as an actor or as a branch, by the wish of this node or a peer.
    pub(super) fn is_held(&self, actor: ActorId, by: Option<NodeId>, as_relay: bool) -> bool {
        self.entries.get(&actor).is_some_and(|entry| {
            let is_branch = matches!(entry.receiver, Recipient::Relay(..));
            is_branch == as_relay && entry.share.as_ref().map(|share| share.by) == by
        })
    }

    pub(super) fn has(&self, actor: ActorId) -> bool {
        self.entries.contains_key(&actor)
    }

    /// The answers that one delivery waits for: of branches, and of actors elsewhere than at `node_id`.
    pub(super) fn answers(&self, node_id: NodeId) -> usize {
        let answers = |receiver: &Recipient<T>| match receiver {
            Recipient::Actor(addr) => addr.node() != node_id,
            Recipient::Relay(..) => true,
        };
        self.entries.values().filter(|entry| answers(&entry.receiver)).count()
    }

    pub(super) fn relays(&self) -> impl Iterator<Item = TopicAddr<T>> {
        self.entries.values().filter_map(|entry| match &entry.receiver {
            Recipient::Relay(addr, _) => Some(*addr),
            Recipient::Actor(_) => None,
        })
    }

    pub(super) fn actors(&self) -> impl Iterator<Item = Addr<T>> {
        self.entries.values().filter_map(|entry| match &entry.receiver {
            Recipient::Actor(addr) => Some(*addr),
            Recipient::Relay(..) => None,
        })
    }

    /// Takes somebody in, in the place of whatever was known of the same.
    pub(super) fn insert(
        &mut self,
        cx: &mut ChannelCx<'_, T>,
        receiver: Recipient<T>,
        share: Option<SubscriberQuota>,
    ) {
        let id = receiver.id();
        self.remove(cx, id);
        let monitor = cx.monitor(id);
        self.total += receiver.weight();
        self.entries.insert(id, SubscriberEntry { receiver, monitor, share });
    }

    /// Takes somebody out, who may have ended.
    pub(super) fn remove(&mut self, cx: &mut ChannelCx<'_, T>, actor: ActorId) -> Option<Recipient<T>> {
        let SubscriberEntry { receiver, monitor, share } = self.entries.remove(&actor)?;
        cx.demonitor(monitor);
        self.total -= receiver.weight();
        if let Some(share) = &share {
            self.brought.take(&share.by, 1);
        }
        Some(receiver)
    }

    /// So many are behind a branch now.
    pub(super) fn set_count(&mut self, relay: ActorId, below: u64) {
        let below = below.min(BELOW_MAX);
        if let Some(SubscriberEntry { receiver: Recipient::Relay(_, known), .. }) =
            self.entries.get_mut(&relay)
        {
            self.total = self.total - *known + below;
            *known = below;
        }
    }

    /// Passes a message on. What cannot be taken is a dead letter.
    pub(super) fn send(&mut self, cx: &mut ChannelCx<'_, T>, message: T, hops: u8) {
        for SubscriberEntry { receiver, .. } in self.entries.values() {
            let Some(copy) = copy_of(cx, &message) else { break };
            match receiver {
                Recipient::Actor(addr) => cx.tell(*addr, copy),
                Recipient::Relay(addr, _) => {
                    cx.tell(*addr, ChannelMessage::Send { message: copy, hops }.into())
                }
            }
        }
        log_panic(|| drop(message));
    }

    /// Passes a message on, and has everybody acknowledge it under the number of a wave. Answers how many have it
    /// already, and how many answers are to be waited for.
    pub(super) fn deliver(
        &mut self,
        cx: &mut ChannelCx<'_, T>,
        message: T,
        (delivery, hops, left): (u64, u8, Duration),
    ) -> (u64, usize) {
        let (mut have, mut open) = (0, 0);
        let node_id = cx.id().node();
        let within = left * SHARE_BELOW.0 / SHARE_BELOW.1;
        for SubscriberEntry { receiver, .. } in self.entries.values() {
            let Some(copy) = copy_of(cx, &message) else { break };
            match receiver {
                Recipient::Actor(addr) if addr.node() == node_id => have += u64::from(hand(cx, *addr, copy)),
                Recipient::Actor(addr) => {
                    open += 1;
                    cx.deliver(*addr, copy, within, move |sent| {
                        acked(delivery, Delivered::To(u64::from(sent.is_ok())))
                    });
                }
                Recipient::Relay(addr, _) => {
                    open += 1;
                    let order = move |reply| {
                        ChannelMessage::Deliver { message: copy, n: 0, within, hops, reply }.into()
                    };
                    cx.ask(*addr, within, order, move |answer: Result<Delivered, _>| {
                        acked(delivery, answer.unwrap_or(Delivered::To(0)))
                    });
                }
            }
        }
        log_panic(|| drop(message));
        (have, open)
    }
}

pub(super) fn acked<T>(delivery: u64, outcome: Delivered) -> FromNode<ChannelMessage<T>> {
    own(SelfMessage::Acked { delivery, outcome })
}

/// Puts a message into a mailbox of this node; false when it is a dead letter.
fn hand<T: Wire>(cx: &mut ChannelCx<'_, T>, to: Addr<T>, message: T) -> bool {
    match cx.send(to, message) {
        Ok(()) => true,
        Err(error) => {
            cx.loop_ref().dead_letter(to.target_id(), type_name::<T>(), error.reason());
            log_panic(|| drop(error));
            false
        }
    }
}

/// A copy by the user's own `Clone`; `None` when that panicked.
fn copy_of<T: Wire + Clone>(cx: &mut ChannelCx<'_, T>, message: &T) -> Option<T> {
    match catch_panic(|| message.clone()) {
        Ok(copy) => Some(copy),
        Err(text) => {
            if may_log(cx.loop_ref(), "clone", type_name::<T>()) {
                tracing::error!(
                    text,
                    "the `clone` of a channel's message panicked; it is not passed on any further (said once an hour)"
                );
            }
            None
        }
    }
}
