//! Sessions that have ended, until everything that was open on them is reported. There may be millions of frames and
//! requests, so they are reported over several rounds of the loop.
//!
//! Invariant: each monitor, request, receipt and frame here is reported once. Meanwhile there may be another session with the same peer.
//! The numbers of requests and receipts are not used again, but a peer may set a monitor again: it stays.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use antiphon_sched::{ActorId, DeadLetter, Key, MonitorId, NodeId, RequestId, Time, Undelivered};
use antiphon_wire::{Frame, Session};

use super::NO_ACTOR;
use super::driver::Driver;
use super::peer::monitors::LocalWatchers;

/// About how many reports are made in one round of the loop.
pub(super) const REPORTS_A_ROUND: usize = 2_000;

/// The ended sessions with something to report, in the order in which they ended.
#[derive(Debug, Default)]
pub(super) struct EndedSessions {
    pub(super) sessions: VecDeque<EndedSession>,
    /// The monitors that the peers of these sessions have set.
    pub(super) remote_watchers: BTreeMap<NodeId, BTreeSet<(Key, MonitorId)>>,
}

/// What was open on a session when it ended.
#[derive(Debug)]
pub(super) struct EndedSession {
    pub(super) node: NodeId,
    /// Why the peer cannot be reached.
    pub(super) peer_lost: Undelivered,
    /// The local actors that have monitored actors of the peer.
    pub(super) local_watchers: LocalWatchers,
    /// When what waits for mailboxes becomes dead letters.
    pub(super) expires: Time,
    /// The requests that awaited a reply of the peer.
    pub(super) requests: VecDeque<RequestId>,
    /// The receipts that were awaited from the peer.
    pub(super) receipts: VecDeque<u64>,
    /// The session, with the frames that the peer has not acknowledged.
    pub(super) session: Session,
}

impl EndedSessions {
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    pub(super) fn add_watchers(&mut self, node: NodeId, mut watchers: BTreeSet<(Key, MonitorId)>) {
        if !watchers.is_empty() {
            self.remote_watchers.entry(node).or_default().append(&mut watchers);
        }
    }

    /// A peer sets a monitor in another session: it is not removed with one of an earlier session.
    pub(super) fn keep_watcher(&mut self, node: NodeId, target: Key, id: MonitorId) {
        if let Some(watchers) = self.remote_watchers.get_mut(&node) {
            watchers.remove(&(target, id));
        }
    }

    pub(super) fn pop_watcher(&mut self, node: NodeId) -> Option<(Key, MonitorId)> {
        let watchers = self.remote_watchers.get_mut(&node)?;
        let first = watchers.pop_first();
        if watchers.is_empty() {
            self.remote_watchers.remove(&node);
        }
        first
    }
}

impl EndedSession {
    /// Reports some of the frames that may not have arrived as dead letters. Returns whether none is left, and their number.
    pub(super) fn report_frames(&mut self, me: NodeId, driver: &mut impl Driver) -> (bool, usize) {
        let (mut dead_letters, mut frames) = (Vec::new(), 0);
        let is_over = !self.session.take_undelivered(|frame, _| {
            frames += 1;
            dead_letters.extend(dead_letter_of(frame).map(|dead| (dead, frame.tag())));
        });
        for (DeadFrame { from, to, what }, tag) in dead_letters {
            let type_name = tag.and_then(|tag| self.session.sent_tag_name(tag));
            let what = type_name.map_or(Cow::Borrowed(what), |name| Cow::Owned(name.to_owned()));
            let from = (from != NO_ACTOR).then(|| ActorId::new(me, from));
            let dead_letter = DeadLetter::new(ActorId::new(self.node, to), what, Undelivered::NoNode);
            driver.local().dead_letter(dead_letter.sent_by(from));
        }
        (is_over, frames)
    }
}

/// The sender and receiver of a frame that was lost with its session, and its kind.
pub(super) struct DeadFrame {
    pub(super) from: Key,
    pub(super) to: Key,
    pub(super) what: &'static str,
}

/// The dead letter for a frame that was in flight when its session ended. `None` if the sender learns of the loss
/// otherwise, by a receipt or a `Down`.
pub(super) fn dead_letter_of(frame: &Frame<'_>) -> Option<DeadFrame> {
    let dead = |from: Key, to: Key, what| DeadFrame { from, to, what };
    match frame {
        Frame::Message(message) if message.receipt.is_none() => {
            Some(dead(message.from, message.to, "message"))
        }
        // The receiver is a request, which has no address.
        Frame::Answer(answer) => Some(DeadFrame { from: answer.from, to: NO_ACTOR, what: "reply" }),
        Frame::Terminate(terminate) => Some(dead(terminate.from, terminate.target, "terminate")),
        Frame::Throw(throw) => Some(dead(throw.from, throw.target, "throw")),
        Frame::Resume(resume) => Some(dead(resume.from, resume.target, "resume")),
        Frame::Notify(notify) => Some(dead(notify.target, notify.watcher, "notify")),
        Frame::Message(_)
        | Frame::ReplyDropped(_)
        | Frame::PayloadRefused(_)
        | Frame::Receipt(_)
        | Frame::Monitor(_)
        | Frame::Demonitor(_)
        | Frame::Down(_)
        | Frame::Lookup(_)
        | Frame::CancelLookup(_)
        | Frame::Found(_)
        | Frame::NodeAt(_)
        | Frame::Goodbye(_)
        | Frame::AnnounceRelay(_)
        | Frame::Lagged(_)
        | Frame::Tag(_)
        | Frame::Fragment(_)
        | Frame::Ack(_)
        | Frame::Credit(_)
        | Frame::Ping(_)
        | Frame::Pong(_)
        | Frame::Pause(_)
        | Frame::Unpause(_)
        | Frame::Close(_)
        | Frame::IdleProposed(_)
        | Frame::IdleAgreed(_)
        | Frame::Begin(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monitor_set_again_outlasts_ended_session() {
        let (node, other) = (NodeId::from_bits(1), NodeId::from_bits(2));
        let watcher = |number| (Key::from_bits(number), MonitorId { origin: node, number });
        let mut ended = EndedSessions::default();
        ended.add_watchers(node, [watcher(1), watcher(2)].into());
        ended.add_watchers(node, [watcher(2), watcher(3)].into());
        ended.add_watchers(other, [watcher(2)].into());
        let (target, id) = watcher(2);
        ended.keep_watcher(node, target, id);
        let popped: Vec<_> = std::iter::from_fn(|| ended.pop_watcher(node)).collect();
        assert_eq!(popped, [watcher(1), watcher(3)]);
        assert_eq!(ended.pop_watcher(other), Some(watcher(2)));
        assert!(ended.remote_watchers.is_empty());
        ended.keep_watcher(node, target, id);
    }
}
