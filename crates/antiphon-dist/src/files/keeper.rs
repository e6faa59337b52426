//! The keeper of a node's files: a hidden actor that every node has, which starts a receiver for each file that is
//! offered, and has files deleted.
//!
//! Invariant: at most `transfers_max` receivers live at a time.

use std::sync::Arc;
use std::time::Duration;

use antiphon_sched::{Cx, Event, JobError, Loop, Reply, Step, receive};

use super::disk::Dest;
use super::messages::{DeleteAnswer, KEEPER, Offer, OfferAnswer, ToKeeper};
use super::outcome::FileRefused;
use super::path::TargetPath;
use super::receiver::Receiver;
use crate::audience::Audience;
use crate::cx::{node_behind, open_to, register};
use crate::node::Space;

/// How often unfinished files that are too old are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// What a keeper is told.
enum Note {
    Peer(ToKeeper),
    Deleted(Reply<DeleteAnswer>, Result<bool, FileRefused>),
    Sweep,
    Swept,
}

struct Keeper {
    /// `None`: this node takes no files.
    dest: Option<Arc<Dest>>,
    transfers_max: usize,
    receivers: usize,
    audience: Audience,
}

/// Starts the keeper of a node.
pub(crate) fn spawn(sched: &mut Loop, dest: Option<Dest>, transfers_max: usize, audience: Audience) {
    let mut keeper = Keeper { dest: dest.map(Arc::new), transfers_max, receivers: 0, audience };
    sched.spawn(move |cx, event| keeper.step(cx, event));
}

impl Keeper {
    fn step(&mut self, cx: &mut Cx<'_, Note>, event: Event<Note>) -> Step<Note> {
        match event {
            Event::Start => {
                cx.set_daemon(true);
                cx.set_name("keeper of files");
                let own = cx.id();
                open_to(cx.door(), own, self.audience.clone())?;
                let me = cx.me_as(Note::Peer);
                let tag = cx.door().tag_of::<ToKeeper>();
                register(cx.door(), (Space::Service, KEEPER), me, tag, None)?;
                self.sweep(cx);
                cx.every(SWEEP_EVERY, || Note::Sweep);
            }
            Event::Message(Note::Peer(ToKeeper::Offer(offer, reply))) => self.on_offer(cx, offer, reply),
            Event::Message(Note::Peer(ToKeeper::Delete(path, reply))) => self.on_delete(cx, path, reply),
            Event::Message(Note::Deleted(reply, done)) => cx.answer(reply, DeleteAnswer(done)),
            Event::Message(Note::Sweep) => self.sweep(cx),
            Event::Message(Note::Swept) => {}
            Event::Down(_) => self.receivers -= 1,
            _ => {}
        }
        receive()
    }

    fn on_offer(&mut self, cx: &mut Cx<'_, Note>, offer: Offer, reply: Reply<OfferAnswer>) {
        let whom = node_behind(cx.door()).map(|core| core.party_of(offer.from)).unwrap_or_default();
        match self.take(offer, whom, reply) {
            Ok(receiver) => {
                self.receivers += 1;
                let receiver = cx.spawn_actor(receiver);
                cx.monitor(receiver);
                if let Err(why) = open_to(cx.door(), receiver.id(), self.audience.clone()) {
                    tracing::debug!(%why, "a receiver ended before it began");
                }
            }
            Err((reply, why)) => cx.answer(reply, OfferAnswer::Refused(why)),
        }
    }

    /// The receiver of a file, unless there are too many.
    fn take(
        &self,
        offer: Offer,
        whom: String,
        reply: Reply<OfferAnswer>,
    ) -> Result<Receiver, (Reply<OfferAnswer>, FileRefused)> {
        let Some(dest) = self.dest.clone() else { return Err((reply, FileRefused::NoDestPath)) };
        if self.receivers >= self.transfers_max {
            return Err((reply, FileRefused::TooManyTransfers { max: self.transfers_max as u64 }));
        }
        match TargetPath::checked(offer.path.clone()) {
            Ok(path) => Ok(Receiver::new(dest, path, (&offer, whom), reply)),
            Err(why) => Err((reply, FileRefused::BadPath(why))),
        }
    }

    fn on_delete(&mut self, cx: &mut Cx<'_, Note>, path: Vec<String>, reply: Reply<DeleteAnswer>) {
        let path = TargetPath::checked(path).map_err(FileRefused::BadPath);
        let (dest, path) = match (self.dest.clone(), path) {
            (Some(dest), Ok(path)) => (dest, path),
            (None, _) => return cx.answer(reply, DeleteAnswer(Err(FileRefused::NoDestPath))),
            (Some(_), Err(why)) => return cx.answer(reply, DeleteAnswer(Err(why))),
        };
        let no_job = |why: JobError| Err(FileRefused::Disk(why.to_string()));
        let deleted = move |done: Result<_, JobError>| Note::Deleted(reply, done.unwrap_or_else(no_job));
        cx.blocking(move || dest.delete(&path), deleted);
    }

    fn sweep(&mut self, cx: &mut Cx<'_, Note>) {
        if let Some(dest) = self.dest.clone() {
            cx.blocking(move || dest.sweep(), |_| Note::Swept);
        }
    }
}
