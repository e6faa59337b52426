//! The receiver of one file: a hidden actor, started for one offer, which ends with the transfer.
//!
//! Invariant: at most one job on the disk runs at a time, and it holds the partial file; so chunks are written in
//! order, and what waits in memory is at most the window.

use std::sync::Arc;
use std::time::Duration;

use antiphon_sched::{
    Actor, Addr, Bytes, Cx, Event, JobError, NodeId, ReplyTo, SignalPolicy, Step, receive, stop,
};

use super::count_refusal;
use super::disk::{Dest, Partial, Placed, Prepared};
use super::messages::{CHUNK_BYTES, Offer, OfferAnswer, ToReceiver, ToSender, WINDOW_BYTES};
use super::outcome::{FileRefused, FileStat};
use super::path::TargetPath;
use crate::from_node::FromNode;

/// In each such span a sender has to send a piece, or come to the end: it holds a place that others want.
const SILENCE_MAX: Duration = Duration::from_secs(600);
/// How much longer than the sender says that it has.
const GRACE: Duration = Duration::from_secs(5);

/// What a receiver is told.
pub(super) enum Note {
    Peer(FromNode<ToReceiver>),
    Prepared(Done<Prepared>),
    /// Some more of what was there is hashed; `true`: all.
    Hashed(Done<(Box<Partial>, bool)>),
    Written(Done<Box<Partial>>),
    Placed(Done<Placed>),
    Removed,
    /// Another span is over.
    Look,
    /// The sender's time is over.
    Late,
}

/// What became of a job.
type Done<T> = Result<T, FileRefused>;

pub(super) struct Receiver {
    dest: Arc<Dest>,
    path: TargetPath,
    stat: FileStat,
    overwrite: bool,
    sender: Addr<FromNode<ToSender>>,
    /// The sender's node, if it is another: nobody else is heard.
    by: Option<NodeId>,
    /// Who is charged for its bytes.
    whom: String,
    within: Option<Duration>,
    /// What had come when it was last looked at.
    seen: u64,
    state: State,
    /// Chunks that wait for the disk.
    queue: Vec<Bytes>,
    /// Bytes from the beginning that have come, and that are written.
    received: u64,
    written: u64,
    /// The hash of the whole file, when all of it has come.
    end: Option<Bytes>,
    /// The sender has gone, or has to; `true`: what came is of no use.
    leaving: Option<bool>,
}

enum State {
    /// A job looks at what is there, and hashes it; then the offer is answered.
    Preparing(ReplyTo<OfferAnswer>),
    /// Waits for `Begin`.
    Ready(Box<Partial>),
    /// Waits for chunks.
    Idle(Box<Partial>),
    /// A job holds the partial file.
    Busy,
}

impl Receiver {
    /// `whom` an offer came from is charged.
    pub(super) fn new(
        dest: Arc<Dest>,
        path: TargetPath,
        offer: &Offer,
        (by, whom): (Option<NodeId>, String),
        reply: ReplyTo<OfferAnswer>,
    ) -> Self {
        Self {
            dest,
            path,
            stat: offer.stat,
            overwrite: offer.overwrite,
            sender: offer.sender,
            by,
            whom,
            within: offer.within.map(Duration::from_millis),
            seen: 0,
            state: State::Preparing(reply),
            queue: Vec::new(),
            received: 0,
            written: 0,
            end: None,
            leaving: None,
        }
    }
}

impl Actor<Note> for Receiver {
    fn step(&mut self, cx: &mut Cx<'_, Note>, event: Event<Note>) -> Step<Note> {
        let done = match event {
            Event::Start => self.start(cx),
            Event::Message(note) => self.on_note(cx, note),
            Event::Down(down) if down.actor == self.sender.id() => self.leave(cx, false),
            _ => Ok(Goes::On),
        };
        match done {
            Ok(Goes::On) => receive(),
            Ok(Goes::Out) => stop(),
            Err(reason) => self.fail(cx, reason),
        }
    }
}

/// Whether the receiver goes on.
enum Goes {
    On,
    Out,
}

impl Receiver {
    fn start(&mut self, cx: &mut Cx<'_, Note>) -> Done<Goes> {
        cx.set_daemon(true);
        cx.set_name("receiver of a file");
        cx.set_signal_policy(SignalPolicy::None);
        cx.monitor(self.sender);
        cx.every(SILENCE_MAX, || Note::Look);
        if let Some(within) = self.within {
            cx.after(within.saturating_add(GRACE), Note::Late);
        }
        let (dest, path, stat, overwrite) = (self.dest.clone(), self.path.clone(), self.stat, self.overwrite);
        let whom = self.whom.clone();
        run(cx, move || dest.prepare(&path, stat, overwrite, &whom), Note::Prepared);
        Ok(Goes::On)
    }

    fn on_note(&mut self, cx: &mut Cx<'_, Note>, note: Note) -> Done<Goes> {
        match note {
            Note::Peer(told) if told.by == self.by => self.on_peer(cx, told.what),
            Note::Peer(_) => Ok(Goes::On),
            Note::Prepared(prepared) => self.on_prepared(cx, prepared?),
            Note::Hashed(hashed) => self.on_hashed(cx, hashed?),
            Note::Written(written) => self.on_written(cx, written?),
            Note::Placed(placed) => {
                let told = match placed? {
                    Placed::Stored => ToSender::Stored,
                    Placed::Different(there) => ToSender::Different(there),
                };
                cx.tell(self.sender, told.into());
                Ok(Goes::Out)
            }
            Note::Removed => Ok(Goes::Out),
            Note::Look => self.look(),
            Note::Late => self.leave(cx, false),
        }
    }

    /// Whether the sender sends. A job may take its time.
    fn look(&mut self) -> Done<Goes> {
        let is_waiting = matches!(self.state, State::Ready(_) | State::Idle(_));
        let moved = self.received - std::mem::replace(&mut self.seen, self.received);
        if is_waiting && moved < CHUNK_BYTES as u64 {
            return Err(FileRefused::Disorder);
        }
        Ok(Goes::On)
    }

    fn on_peer(&mut self, cx: &mut Cx<'_, Note>, message: ToReceiver) -> Done<Goes> {
        match message {
            _ if self.leaving.is_some() => Ok(Goes::On),
            ToReceiver::Begin(from) => self.on_begin(cx, from),
            ToReceiver::Chunk(bytes) => self.on_chunk(cx, bytes),
            ToReceiver::End(hash) => self.on_end(cx, hash),
            ToReceiver::Abort(is_useless) => self.leave(cx, is_useless),
        }
    }

    fn on_prepared(&mut self, cx: &mut Cx<'_, Note>, prepared: Prepared) -> Done<Goes> {
        let answer = match prepared {
            Prepared::AlreadyThere => OfferAnswer::AlreadyThere,
            Prepared::Different(there) => OfferAnswer::Different(there),
            Prepared::Open(partial) => return self.hash(cx, partial),
        };
        self.answer(cx, answer);
        Ok(Goes::Out)
    }

    fn hash(&mut self, cx: &mut Cx<'_, Note>, mut partial: Box<Partial>) -> Done<Goes> {
        if self.leaving.is_some() {
            return self.let_go(cx, partial);
        }
        run(cx, move || partial.hash_some().map(|is_all| (partial, is_all)), Note::Hashed);
        Ok(Goes::On)
    }

    fn on_hashed(&mut self, cx: &mut Cx<'_, Note>, hashed: (Box<Partial>, bool)) -> Done<Goes> {
        let (partial, is_all) = hashed;
        if !is_all || self.leaving.is_some() {
            return self.hash(cx, partial);
        }
        let receiver = cx.adapter(Note::Peer);
        let (have, hash) = (partial.have(), partial.hash().to_vec().into());
        self.answer(cx, OfferAnswer::Send { receiver, have, hash, window: WINDOW_BYTES });
        self.state = State::Ready(partial);
        Ok(Goes::On)
    }

    fn answer(&mut self, cx: &mut Cx<'_, Note>, answer: OfferAnswer) {
        if let State::Preparing(reply) = std::mem::replace(&mut self.state, State::Busy) {
            cx.reply(reply, answer);
        }
    }

    fn on_begin(&mut self, cx: &mut Cx<'_, Note>, from: u64) -> Done<Goes> {
        match std::mem::replace(&mut self.state, State::Busy) {
            State::Ready(partial) if from == partial.have() => {
                (self.received, self.written) = (from, from);
                self.state = State::Idle(partial);
                self.advance(cx)
            }
            State::Ready(mut partial) if from == 0 => {
                run(cx, move || partial.restart().map(|()| partial), Note::Written);
                Ok(Goes::On)
            }
            State::Preparing(_) | State::Ready(_) | State::Idle(_) | State::Busy => {
                Err(FileRefused::Disorder)
            }
        }
    }

    fn on_chunk(&mut self, cx: &mut Cx<'_, Note>, bytes: Bytes) -> Done<Goes> {
        self.received += bytes.as_ref().len() as u64;
        if bytes.as_ref().is_empty() {
            // Nobody sends nothing but to have it remembered.
            return Err(FileRefused::Disorder);
        }
        let begun = matches!(self.state, State::Idle(_) | State::Busy);
        if !begun || self.end.is_some() || self.received - self.written > WINDOW_BYTES {
            return Err(FileRefused::Disorder);
        }
        if self.received > self.stat.size {
            return Err(FileRefused::TooLarge { max: self.stat.size });
        }
        self.keep(bytes);
        self.advance(cx)
    }

    /// Has a chunk wait for the disk. Small ones are put together, or a window of them would cost many times its bytes.
    fn keep(&mut self, bytes: Bytes) {
        match self.queue.last_mut() {
            Some(last) if last.0.len() + bytes.0.len() <= CHUNK_BYTES => last.0.extend_from_slice(&bytes.0),
            Some(_) | None => self.queue.push(bytes),
        }
    }

    fn on_end(&mut self, cx: &mut Cx<'_, Note>, hash: Bytes) -> Done<Goes> {
        let begun = matches!(self.state, State::Idle(_) | State::Busy);
        if !begun || self.received != self.stat.size {
            return Err(FileRefused::Disorder);
        }
        self.end = Some(hash);
        self.advance(cx)
    }

    fn on_written(&mut self, cx: &mut Cx<'_, Note>, partial: Box<Partial>) -> Done<Goes> {
        if self.leaving.is_some() {
            return self.let_go(cx, partial);
        }
        self.written = partial.written();
        cx.tell(self.sender, ToSender::Written(self.written).into());
        self.state = State::Idle(partial);
        self.advance(cx)
    }

    /// Gives the disk what there is to do, if it has nothing.
    fn advance(&mut self, cx: &mut Cx<'_, Note>) -> Done<Goes> {
        let State::Idle(partial) = std::mem::replace(&mut self.state, State::Busy) else {
            return Ok(Goes::On);
        };
        if !self.queue.is_empty() {
            let chunks = std::mem::take(&mut self.queue);
            run(cx, move || partial.write(&chunks), Note::Written);
        } else if let Some(hash) = self.end.take() {
            run(cx, move || partial.place(hash.as_ref()), Note::Placed);
        } else {
            self.state = State::Idle(partial);
        }
        Ok(Goes::On)
    }

    /// The sender sends no more. What came is kept to be resumed, if it is of use.
    fn leave(&mut self, cx: &mut Cx<'_, Note>, is_useless: bool) -> Done<Goes> {
        let is_useless = is_useless || self.leaving == Some(true);
        self.leaving = Some(is_useless);
        match std::mem::replace(&mut self.state, State::Busy) {
            State::Ready(partial) | State::Idle(partial) => self.let_go(cx, partial),
            // The job comes back first.
            state @ (State::Preparing(_) | State::Busy) => {
                self.state = state;
                Ok(Goes::On)
            }
        }
    }

    fn let_go(&mut self, cx: &mut Cx<'_, Note>, partial: Box<Partial>) -> Done<Goes> {
        let is_useless = self.leaving == Some(true) || partial.is_empty();
        if !is_useless {
            return Ok(Goes::Out);
        }
        cx.blocking(move || partial.discard(), |_| Note::Removed);
        Ok(Goes::On)
    }

    /// Tells the sender, and ends.
    fn fail(&mut self, cx: &mut Cx<'_, Note>, reason: FileRefused) -> Step<Note> {
        count_refusal(cx.loop_ref(), self.by, &reason);
        match std::mem::replace(&mut self.state, State::Busy) {
            State::Preparing(reply) => cx.reply(reply, OfferAnswer::Refused(reason)),
            State::Ready(_) | State::Idle(_) | State::Busy if self.leaving.is_none() => {
                cx.tell(self.sender, ToSender::Failed(reason).into());
            }
            State::Ready(_) | State::Idle(_) | State::Busy => {}
        }
        stop()
    }
}

/// Has a job run on a helper thread; where it cannot run, that is what became of it.
fn run<T: Send + 'static>(
    cx: &mut Cx<'_, Note>,
    job: impl FnOnce() -> Done<T> + Send + 'static,
    answer: impl FnOnce(Done<T>) -> Note + 'static,
) {
    let no_job = |reason: JobError| Err(FileRefused::Disk(reason.to_string()));
    cx.blocking(job, move |done| answer(done.unwrap_or_else(no_job)));
}

#[cfg(all(test, unix))]
#[path = "receiver_tests.rs"]
mod tests;
