//! The file service: the service actor of a node that starts a receiver for each offered file, and deletes files.
//!
//! Invariant: at most `transfers_max` receivers and `transfers_max` deletions run at a time (but at least one deletion), and
//! at most three quarters of either for one other node. The session identifies that node, not the contents of its messages.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use antiphon_sched::{
    ActorId, Cx, Down, Event, JobError, JobPool, Loop, NodeId, OverBudget, Permit, ReplyTo, SignalPolicy,
    Step, actor, receive,
};

use super::count_refusal;
use super::disk::Dest;
use super::messages::{DeleteAnswer, FILE_SERVICE, FileOffer, OfferAnswer, ToFileService};
use super::outcome::FileRefused;
use super::path::TargetPath;
use super::receiver::FileReceiver;
use crate::Space;
use crate::access::AccessPolicy;

use crate::service::{FromNode, NodeRef, PeerQuota};

/// The interval at which partial files that are too old are removed.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// The number of ended receivers after which a sweep starts early: each may have left a partial file.
const ENDED_MAX: usize = 64;

/// A message that the file service handles.
enum ServiceMessage {
    Peer(FromNode<ToFileService>),
    Deleted(Option<NodeId>, ReplyTo<DeleteAnswer>, Result<bool, FileRefused>, Permit),
    Sweep,
    Swept,
}

struct FileService {
    /// `None`: this node accepts no files.
    dest: Option<Arc<dyn Dest>>,
    transfers: PeerQuota,
    receivers: BTreeMap<ActorId, Permit>,
    deletions: PeerQuota,
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
        transfers: shared_quota(transfers_max),
        receivers: BTreeMap::new(),
        deletions: shared_quota(transfers_max.max(1)),
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
                let tag = cx.loop_ref().service().type_name_of::<ToFileService>();
                let owner = Some(addr.id().key());
                NodeRef::of(cx.loop_ref()).register_as((Space::Service, FILE_SERVICE), addr, tag, owner)?;
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
            Event::Message(ServiceMessage::Deleted(by, reply, done, permit)) => {
                drop(permit);
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
            Ok((receiver, permit)) => {
                let receiver = cx.spawn_service(receiver);
                self.receivers.insert(receiver.id(), permit);
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

    /// Returns the receiver for an offer and its permit, or the reason to refuse it.
    fn accept(
        &mut self,
        (node_id, by): (NodeId, Option<NodeId>),
        offer: FileOffer,
        owner: String,
        reply: ReplyTo<OfferAnswer>,
    ) -> Result<(FileReceiver, Permit), (ReplyTo<OfferAnswer>, FileRefused)> {
        let Some(dest) = self.dest.clone() else { return Err((reply, FileRefused::NoDestPath)) };
        let permit = match take(&mut self.transfers, by) {
            Ok(permit) => permit,
            Err(reason) => return Err((reply, reason)),
        };
        // Otherwise an offer could direct the messages of its receiver to a third node.
        if offer.sender.node() != by.unwrap_or(node_id) {
            return Err((reply, FileRefused::Disorder));
        }
        match TargetPath::checked(offer.path.clone()) {
            Ok(path) => Ok((FileReceiver::new(dest, path, &offer, (by, owner), reply), permit)),
            Err(reason) => Err((reply, FileRefused::BadPath(reason))),
        }
    }

    /// Releases the permit of a receiver that has ended.
    fn on_down(&mut self, cx: &mut Cx<'_, ServiceMessage>, down: &Down) {
        if self.receivers.remove(&down.actor).is_none() {
            return;
        }
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
        let permitted = take(&mut self.deletions, by).and_then(|permit| Ok((permit, path?)));
        let (dest, permit, path) = match (self.dest.clone(), permitted) {
            (Some(dest), Ok((permit, path))) => (dest, permit, path),
            (None, _) => return answer_deletion(cx, by, reply, Err(FileRefused::NoDestPath)),
            (Some(_), Err(reason)) => return answer_deletion(cx, by, reply, Err(reason)),
        };
        let no_job = |reason: JobError| Err(FileRefused::Disk(reason.to_string()));
        let deleted = move |done: Result<_, JobError>| {
            ServiceMessage::Deleted(by, reply, done.unwrap_or_else(no_job), permit)
        };
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

/// The quota of the transfers or deletions that run here. If it is above one, no peer gets all of it.
fn shared_quota(max: usize) -> PeerQuota {
    let of_peer = if max > 1 { max - (max / 4).max(1) } else { max };
    PeerQuota::with_total(max, of_peer)
}

/// A permit for one more transfer or deletion of a peer, or of this node (`None`).
fn take(quota: &mut PeerQuota, by: Option<NodeId>) -> Result<Permit, FileRefused> {
    let permit = match by {
        Some(peer) => quota.take(peer),
        None => quota.take_own(),
    };
    permit.map_err(|OverBudget { max }| FileRefused::TooManyTransfers { max })
}
