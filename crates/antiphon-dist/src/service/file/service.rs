//! The file service: the service actor of a node that starts a receiver for each offered file, and deletes files.
//!
//! Invariant: at most `transfers_max` receivers and `transfers_max` deletions run at a time (but at least one deletion), and
//! at most three quarters of either for one other node. The session identifies that node, not the contents of its messages.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use antiphon_sched::{
    ActorId, Cx, Down, Event, JobError, JobPool, Loop, NodeId, ReplyTo, SignalPolicy, Step, actor, receive,
};

use super::count_refusal;
use super::disk::Dest;
use super::messages::{DeleteAnswer, FILE_SERVICE, FileOffer, OfferAnswer, ToFileService};
use super::outcome::FileRefused;
use super::path::TargetPath;
use super::receiver::FileReceiver;
use crate::access::AccessPolicy;
use crate::service::quota_usage::QuotaUsage;
use crate::service::{FromNode, NodeRef};

/// The interval at which partial files that are too old are removed.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// The number of ended receivers after which a sweep starts early: each may have left a partial file.
const ENDED_MAX: usize = 64;

/// A message that the file service handles.
enum ServiceMessage {
    Peer(FromNode<ToFileService>),
    Deleted(Option<NodeId>, ReplyTo<DeleteAnswer>, Result<bool, FileRefused>),
    Sweep,
    Swept,
}

struct FileService {
    /// `None`: this node accepts no files.
    dest: Option<Arc<dyn Dest>>,
    transfer_permits: TransferPermits,
    receivers: BTreeMap<ActorId, Option<NodeId>>,
    deletion_permits: TransferPermits,
    /// The number of receivers that have ended since the last sweep.
    ended: usize,
    is_sweeping: bool,
    access: AccessPolicy,
}

/// Starts the file service of a node.
pub(crate) fn spawn(
    sched: &mut Loop,
    dest: Option<Arc<dyn Dest>>,
    transfers_max: usize,
    access: AccessPolicy,
) {
    let mut service = FileService {
        dest,
        transfer_permits: TransferPermits::new(transfers_max),
        receivers: BTreeMap::new(),
        deletion_permits: TransferPermits::new(transfers_max.max(1)),
        ended: 0,
        is_sweeping: false,
        access,
    };
    sched.loop_ref().spawn_service(actor(move |cx, event| service.step(cx, event)));
}

impl FileService {
    fn step(
        &mut self,
        cx: &mut Cx<'_, ServiceMessage>,
        event: Event<ServiceMessage>,
    ) -> Step<ServiceMessage> {
        match event {
            Event::Start => {
                cx.set_name("file service");
                cx.set_signal_policy(SignalPolicy::None);
                let own = cx.id();
                NodeRef::of(cx.loop_ref()).allow(own, self.access.clone())?;
                let addr = cx.adapter(ServiceMessage::Peer)?;
                NodeRef::of(cx.loop_ref()).register(FILE_SERVICE, addr)?;
                self.sweep(cx);
                cx.every(SWEEP_EVERY, || ServiceMessage::Sweep)?;
            }
            Event::Message(ServiceMessage::Peer(FromNode {
                message: ToFileService::Offer(offer, reply),
                from: by,
                ..
            })) => {
                self.on_offer(cx, by, offer, reply);
            }
            Event::Message(ServiceMessage::Peer(FromNode {
                message: ToFileService::Delete(path, reply),
                from: by,
                ..
            })) => {
                self.on_delete(cx, by, path, reply);
            }
            Event::Message(ServiceMessage::Deleted(by, reply, done)) => {
                self.deletion_permits.release(by);
                answer_deletion(cx, by, reply, done);
            }
            Event::Message(ServiceMessage::Sweep) => self.sweep(cx),
            Event::Message(ServiceMessage::Swept) => self.is_sweeping = false,
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
        let owner = NodeRef::of(cx.loop_ref()).owner_of(by);
        if by.is_some() && cx.loop_ref().is_stopping() {
            return cx.reply(reply, OfferAnswer::Refused(FileRefused::Stopping));
        }
        match self.accept((cx.id().node(), by), offer, owner, reply) {
            Ok(receiver) => {
                self.transfer_permits.acquire(by);
                let receiver = cx.spawn_service(receiver);
                self.receivers.insert(receiver.id(), by);
                cx.monitor(receiver);
                if let Err(reason) = NodeRef::of(cx.loop_ref()).allow(receiver.id(), self.access.clone()) {
                    tracing::debug!(%reason, "access policy not set: the receiver has ended");
                }
            }
            Err((reply, reason)) => {
                count_refusal(cx.loop_ref(), by, &reason);
                cx.reply(reply, OfferAnswer::Refused(reason));
            }
        }
    }

    /// Returns the receiver for an offer, or the reason to refuse it.
    fn accept(
        &self,
        (node_id, by): (NodeId, Option<NodeId>),
        offer: FileOffer,
        owner: String,
        reply: ReplyTo<OfferAnswer>,
    ) -> Result<FileReceiver, (ReplyTo<OfferAnswer>, FileRefused)> {
        let Some(dest) = self.dest.clone() else { return Err((reply, FileRefused::NoDestPath)) };
        if let Err(max) = self.transfer_permits.check(by) {
            return Err((reply, FileRefused::TooManyTransfers { max: max as u64 }));
        }
        // Otherwise an offer could direct the messages of its receiver to a third node.
        if offer.sender.node() != by.unwrap_or(node_id) {
            return Err((reply, FileRefused::Disorder));
        }
        match TargetPath::checked(offer.path.clone()) {
            Ok(path) => Ok(FileReceiver::new(dest, path, &offer, (by, owner), reply)),
            Err(reason) => Err((reply, FileRefused::BadPath(reason))),
        }
    }

    /// Releases the permit of a receiver that has ended.
    fn on_down(&mut self, cx: &mut Cx<'_, ServiceMessage>, down: &Down) {
        let Some(by) = self.receivers.remove(&down.actor) else { return };
        self.transfer_permits.release(by);
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
        let permitted =
            self.deletion_permits.check(by).map_err(|max| FileRefused::TooManyTransfers { max: max as u64 });
        let (dest, path) = match (self.dest.clone(), permitted.and(path)) {
            (Some(dest), Ok(path)) => (dest, path),
            (None, _) => return answer_deletion(cx, by, reply, Err(FileRefused::NoDestPath)),
            (Some(_), Err(reason)) => return answer_deletion(cx, by, reply, Err(reason)),
        };
        self.deletion_permits.acquire(by);
        let no_job = |reason: JobError| Err(FileRefused::Disk(reason.to_string()));
        let deleted =
            move |done: Result<_, JobError>| ServiceMessage::Deleted(by, reply, done.unwrap_or_else(no_job));
        cx.blocking_on(JobPool::Files, move || dest.delete(&path), deleted);
    }

    /// Removes partial files that are too old or too many.
    fn sweep(&mut self, cx: &mut Cx<'_, ServiceMessage>) {
        self.ended = 0;
        if let Some(dest) = self.dest.clone()
            && !std::mem::replace(&mut self.is_sweeping, true)
        {
            cx.blocking_on(JobPool::Files, move || dest.sweep(), |_| ServiceMessage::Swept);
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

/// Limits the transfers or deletions that run here. If the limit is above one, no other node gets all permits.
struct TransferPermits {
    max: usize,
    in_use: QuotaUsage<Option<NodeId>>,
}

impl TransferPermits {
    fn new(max: usize) -> Self {
        Self { max, in_use: QuotaUsage::default() }
    }

    /// Whether a node may have one more permit. The error is the limit that applies to the node.
    fn check(&self, by: Option<NodeId>) -> Result<(), usize> {
        let share = if self.max > 1 { self.max - (self.max / 4).max(1) } else { self.max };
        match () {
            () if self.in_use.all() >= self.max => Err(self.max),
            () if by.is_some() && self.in_use.of(&by) >= share => Err(share),
            () => Ok(()),
        }
    }

    fn acquire(&mut self, by: Option<NodeId>) {
        self.in_use.add(by, 1);
    }

    fn release(&mut self, by: Option<NodeId>) {
        self.in_use.take(&by, 1);
    }
}
