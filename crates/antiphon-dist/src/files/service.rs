//! The keeper of a node's files: a hidden actor that every node has, which starts a receiver for each file that is
//! offered, and has files deleted.
//!
//! Invariant: at most `transfers_max` receivers live at a time, and as many deletions are under way; one other node has at
//! most three quarters of either. Whose they are is known from the session, not from what the node says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use antiphon_sched::{
    ActorId, Cx, Down, Event, JobError, Loop, NodeId, ReplyTo, SignalPolicy, Step, receive,
};

use super::count_refusal;
use super::disk::Dest;
use super::messages::{DeleteAnswer, FILE_SERVICE, FileOffer, OfferAnswer, ToFileService};
use super::outcome::FileRefused;
use super::path::TargetPath;
use super::receiver::FileReceiver;
use crate::access::AccessPolicy;
use crate::cx::{allow, node_mut, register};
use crate::from_node::FromNode;
use crate::node::Space;
use crate::quota::QuotaUsage;

/// How often unfinished files that are too old are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// Receivers that end before unfinished files are looked at besides: each may have left one.
const ENDED_MAX: usize = 64;

/// What a keeper is told.
enum ServiceMessage {
    Peer(FromNode<ToFileService>),
    Deleted(Option<NodeId>, ReplyTo<DeleteAnswer>, Result<bool, FileRefused>),
    Sweep,
    Swept,
}

struct FileService {
    /// `None`: this node takes no files.
    dest: Option<Arc<Dest>>,
    transfer_permits: TransferPermits,
    receivers: BTreeMap<ActorId, Option<NodeId>>,
    deletions: TransferPermits,
    /// Receivers that have ended since unfinished files were looked at.
    ended: usize,
    sweeping: bool,
    access: AccessPolicy,
}

/// Starts the keeper of a node.
pub(crate) fn spawn(sched: &mut Loop, dest: Option<Dest>, transfers_max: usize, access: AccessPolicy) {
    let mut keeper = FileService {
        dest: dest.map(Arc::new),
        transfer_permits: TransferPermits::new(transfers_max),
        receivers: BTreeMap::new(),
        deletions: TransferPermits::new(transfers_max.max(1)),
        ended: 0,
        sweeping: false,
        access,
    };
    sched.spawn(move |cx, event| keeper.step(cx, event));
}

impl FileService {
    fn step(
        &mut self,
        cx: &mut Cx<'_, ServiceMessage>,
        event: Event<ServiceMessage>,
    ) -> Step<ServiceMessage> {
        match event {
            Event::Start => {
                cx.set_daemon(true);
                cx.set_name("keeper of files");
                cx.set_signal_policy(SignalPolicy::None);
                let own = cx.id();
                allow(cx.loop_ref(), own, self.access.clone())?;
                let me = cx.adapter(ServiceMessage::Peer);
                let tag = cx.loop_ref().tag_of::<FromNode<ToFileService>>();
                register(cx.loop_ref(), (Space::Service, FILE_SERVICE), me, tag, None)?;
                self.sweep(cx);
                cx.every(SWEEP_EVERY, || ServiceMessage::Sweep);
            }
            Event::Message(ServiceMessage::Peer(FromNode {
                what: ToFileService::Offer(offer, reply),
                by,
                ..
            })) => {
                self.on_offer(cx, by, offer, reply);
            }
            Event::Message(ServiceMessage::Peer(FromNode {
                what: ToFileService::Delete(path, reply),
                by,
                ..
            })) => {
                self.on_delete(cx, by, path, reply);
            }
            Event::Message(ServiceMessage::Deleted(by, reply, done)) => {
                self.deletions.leave(by);
                answer_deletion(cx, by, reply, done);
            }
            Event::Message(ServiceMessage::Sweep) => self.sweep(cx),
            Event::Message(ServiceMessage::Swept) => self.sweeping = false,
            Event::Down(down) => self.on_down(cx, &down),
            _ => {}
        }
        receive()
    }

    fn on_offer(
        &mut self,
        cx: &mut Cx<'_, ServiceMessage>,
        by: Option<NodeId>,
        offer: FileOffer,
        reply: ReplyTo<OfferAnswer>,
    ) {
        let whom = node_mut(cx.loop_ref()).map(|core| core.party_of(by)).unwrap_or_default();
        match self.take((cx.id().node(), by), offer, whom, reply) {
            Ok(receiver) => {
                self.transfer_permits.enter(by);
                let receiver = cx.spawn_actor(receiver);
                self.receivers.insert(receiver.id(), by);
                cx.monitor(receiver);
                if let Err(reason) = allow(cx.loop_ref(), receiver.id(), self.access.clone()) {
                    tracing::debug!(%reason, "a receiver ended before it began");
                }
            }
            Err((reply, reason)) => {
                count_refusal(cx.loop_ref(), by, &reason);
                cx.reply(reply, OfferAnswer::Refused(reason));
            }
        }
    }

    /// The receiver of a file, unless there are too many.
    fn take(
        &self,
        (node_id, by): (NodeId, Option<NodeId>),
        offer: FileOffer,
        whom: String,
        reply: ReplyTo<OfferAnswer>,
    ) -> Result<FileReceiver, (ReplyTo<OfferAnswer>, FileRefused)> {
        let Some(dest) = self.dest.clone() else { return Err((reply, FileRefused::NoDestPath)) };
        if let Err(max) = self.transfer_permits.check(by) {
            return Err((reply, FileRefused::TooManyTransfers { max: max as u64 }));
        }
        // Else somebody else would be told of what is not his.
        if offer.sender.node() != by.unwrap_or(node_id) {
            return Err((reply, FileRefused::Disorder));
        }
        match TargetPath::checked(offer.path.clone()) {
            Ok(path) => Ok(FileReceiver::new(dest, path, &offer, (by, whom), reply)),
            Err(reason) => Err((reply, FileRefused::BadPath(reason))),
        }
    }

    /// A receiver has ended.
    fn on_down(&mut self, cx: &mut Cx<'_, ServiceMessage>, down: &Down) {
        let Some(by) = self.receivers.remove(&down.actor) else { return };
        self.transfer_permits.leave(by);
        self.ended += 1;
        if self.ended >= ENDED_MAX {
            self.sweep(cx);
        }
    }

    fn on_delete(
        &mut self,
        cx: &mut Cx<'_, ServiceMessage>,
        by: Option<NodeId>,
        path: Vec<String>,
        reply: ReplyTo<DeleteAnswer>,
    ) {
        let path = TargetPath::checked(path).map_err(FileRefused::BadPath);
        let room = self.deletions.check(by).map_err(|max| FileRefused::TooManyTransfers { max: max as u64 });
        let (dest, path) = match (self.dest.clone(), room.and(path)) {
            (Some(dest), Ok(path)) => (dest, path),
            (None, _) => return answer_deletion(cx, by, reply, Err(FileRefused::NoDestPath)),
            (Some(_), Err(reason)) => return answer_deletion(cx, by, reply, Err(reason)),
        };
        self.deletions.enter(by);
        let no_job = |reason: JobError| Err(FileRefused::Disk(reason.to_string()));
        let deleted =
            move |done: Result<_, JobError>| ServiceMessage::Deleted(by, reply, done.unwrap_or_else(no_job));
        cx.blocking(move || dest.delete(&path), deleted);
    }

    /// Has what is too old or too much removed.
    fn sweep(&mut self, cx: &mut Cx<'_, ServiceMessage>) {
        self.ended = 0;
        if let Some(dest) = self.dest.clone()
            && !std::mem::replace(&mut self.sweeping, true)
        {
            cx.blocking(move || dest.sweep(), |_| ServiceMessage::Swept);
        }
    }
}

fn answer_deletion(
    cx: &mut Cx<'_, ServiceMessage>,
    by: Option<NodeId>,
    reply: ReplyTo<DeleteAnswer>,
    done: Result<bool, FileRefused>,
) {
    if let Err(reason) = &done {
        count_refusal(cx.loop_ref(), by, reason);
    }
    cx.reply(reply, DeleteAnswer(done));
}

/// Places for what nodes have under way here. Of several, one other node never has all.
struct TransferPermits {
    max: usize,
    taken: QuotaUsage<Option<NodeId>>,
}

impl TransferPermits {
    fn new(max: usize) -> Self {
        Self { max, taken: QuotaUsage::default() }
    }

    /// Whether a node may have one more; the error is how many there are for it.
    fn check(&self, by: Option<NodeId>) -> Result<(), usize> {
        let share = if self.max > 1 { self.max - (self.max / 4).max(1) } else { self.max };
        match () {
            () if self.taken.all() >= self.max => Err(self.max),
            () if by.is_some() && self.taken.of(&by) >= share => Err(share),
            () => Ok(()),
        }
    }

    fn enter(&mut self, by: Option<NodeId>) {
        self.taken.add(by, 1);
    }

    fn leave(&mut self, by: Option<NodeId>) {
        self.taken.take(&by, 1);
    }
}
