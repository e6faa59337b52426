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
use super::messages::{CHUNK_BYTES, FileOffer, OfferAnswer, ToReceiver, ToSender, WINDOW_BYTES};
use super::outcome::{FileRefused, FileStat};
use super::path::TargetPath;
use crate::from_node::FromNode;

/// In each such span a sender has to send a piece, or come to the end: it holds a place that others want.
const SILENCE_MAX: Duration = Duration::from_secs(600);
/// How much longer than the sender says that it has.
const GRACE: Duration = Duration::from_secs(5);

/// What a receiver is told.
pub(super) enum ReceiverMessage {
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

pub(super) struct FileReceiver {
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
    state: ReceiverState,
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

enum ReceiverState {
    /// A job looks at what is there, and hashes it; then the offer is answered.
    Preparing(ReplyTo<OfferAnswer>),
    /// Waits for `Begin`.
    Ready(Box<Partial>),
    /// Waits for chunks.
    Idle(Box<Partial>),
    /// A job holds the partial file.
    Busy,
}

impl FileReceiver {
    /// `whom` an offer came from is charged.
    pub(super) fn new(
        dest: Arc<Dest>,
        path: TargetPath,
        offer: &FileOffer,
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
            state: ReceiverState::Preparing(reply),
            queue: Vec::new(),
            received: 0,
            written: 0,
            end: None,
            leaving: None,
        }
    }
}

impl Actor<ReceiverMessage> for FileReceiver {
    fn step(
        &mut self,
        cx: &mut Cx<'_, ReceiverMessage>,
        event: Event<ReceiverMessage>,
    ) -> Step<ReceiverMessage> {
        let done = match event {
            Event::Start => self.start(cx),
            Event::Message(note) => self.on_note(cx, note),
            Event::Down(down) if down.actor == self.sender.id() => self.leave(cx, false),
            _ => Ok(ReceiverFlow::On),
        };
        match done {
            Ok(ReceiverFlow::On) => receive(),
            Ok(ReceiverFlow::Out) => stop(),
            Err(reason) => self.fail(cx, reason),
        }
    }
}

/// Whether the receiver goes on.
enum ReceiverFlow {
    On,
    Out,
}

impl FileReceiver {
    fn start(&mut self, cx: &mut Cx<'_, ReceiverMessage>) -> Done<ReceiverFlow> {
        cx.set_daemon(true);
        cx.set_name("receiver of a file");
        cx.set_signal_policy(SignalPolicy::None);
        cx.monitor(self.sender);
        cx.every(SILENCE_MAX, || ReceiverMessage::Look);
        if let Some(within) = self.within {
            cx.after(within.saturating_add(GRACE), ReceiverMessage::Late);
        }
        let (dest, path, stat, overwrite) = (self.dest.clone(), self.path.clone(), self.stat, self.overwrite);
        let whom = self.whom.clone();
        run(cx, move || dest.prepare(&path, stat, overwrite, &whom), ReceiverMessage::Prepared);
        Ok(ReceiverFlow::On)
    }

    fn on_note(&mut self, cx: &mut Cx<'_, ReceiverMessage>, note: ReceiverMessage) -> Done<ReceiverFlow> {
        match note {
            ReceiverMessage::Peer(told) if told.by == self.by => self.on_peer(cx, told.what),
            ReceiverMessage::Peer(_) => Ok(ReceiverFlow::On),
            ReceiverMessage::Prepared(prepared) => self.on_prepared(cx, prepared?),
            ReceiverMessage::Hashed(hashed) => self.on_hashed(cx, hashed?),
            ReceiverMessage::Written(written) => self.on_written(cx, written?),
            ReceiverMessage::Placed(placed) => {
                let told = match placed? {
                    Placed::Stored => ToSender::Stored,
                    Placed::Different(there) => ToSender::Different(there),
                };
                cx.tell(self.sender, told.into());
                Ok(ReceiverFlow::Out)
            }
            ReceiverMessage::Removed => Ok(ReceiverFlow::Out),
            ReceiverMessage::Look => self.look(),
            ReceiverMessage::Late => self.leave(cx, false),
        }
    }

    /// Whether the sender sends. A job may take its time.
    fn look(&mut self) -> Done<ReceiverFlow> {
        let is_waiting = matches!(self.state, ReceiverState::Ready(_) | ReceiverState::Idle(_));
        let moved = self.received - std::mem::replace(&mut self.seen, self.received);
        if is_waiting && moved < CHUNK_BYTES as u64 {
            return Err(FileRefused::Disorder);
        }
        Ok(ReceiverFlow::On)
    }

    fn on_peer(&mut self, cx: &mut Cx<'_, ReceiverMessage>, message: ToReceiver) -> Done<ReceiverFlow> {
        match message {
            _ if self.leaving.is_some() => Ok(ReceiverFlow::On),
            ToReceiver::Begin(from) => self.on_begin(cx, from),
            ToReceiver::Chunk(bytes) => self.on_chunk(cx, bytes),
            ToReceiver::End(hash) => self.on_end(cx, hash),
            ToReceiver::Abort(is_useless) => self.leave(cx, is_useless),
        }
    }

    fn on_prepared(&mut self, cx: &mut Cx<'_, ReceiverMessage>, prepared: Prepared) -> Done<ReceiverFlow> {
        let answer = match prepared {
            Prepared::AlreadyThere => OfferAnswer::AlreadyThere,
            Prepared::Different(there) => OfferAnswer::Different(there),
            Prepared::Open(partial) => return self.hash(cx, partial),
        };
        self.answer(cx, answer);
        Ok(ReceiverFlow::Out)
    }

    fn hash(&mut self, cx: &mut Cx<'_, ReceiverMessage>, mut partial: Box<Partial>) -> Done<ReceiverFlow> {
        if self.leaving.is_some() {
            return self.let_go(cx, partial);
        }
        run(cx, move || partial.hash_some().map(|is_all| (partial, is_all)), ReceiverMessage::Hashed);
        Ok(ReceiverFlow::On)
    }

    fn on_hashed(
        &mut self,
        cx: &mut Cx<'_, ReceiverMessage>,
        hashed: (Box<Partial>, bool),
    ) -> Done<ReceiverFlow> {
        let (partial, is_all) = hashed;
        if !is_all || self.leaving.is_some() {
            return self.hash(cx, partial);
        }
        let receiver = cx.adapter(ReceiverMessage::Peer);
        let (have, hash) = (partial.have(), partial.hash().to_vec().into());
        self.answer(cx, OfferAnswer::Send { receiver, have, hash, window: WINDOW_BYTES });
        self.state = ReceiverState::Ready(partial);
        Ok(ReceiverFlow::On)
    }

    fn answer(&mut self, cx: &mut Cx<'_, ReceiverMessage>, answer: OfferAnswer) {
        if let ReceiverState::Preparing(reply) = std::mem::replace(&mut self.state, ReceiverState::Busy) {
            cx.reply(reply, answer);
        }
    }

    fn on_begin(&mut self, cx: &mut Cx<'_, ReceiverMessage>, from: u64) -> Done<ReceiverFlow> {
        match std::mem::replace(&mut self.state, ReceiverState::Busy) {
            ReceiverState::Ready(partial) if from == partial.have() => {
                (self.received, self.written) = (from, from);
                self.state = ReceiverState::Idle(partial);
                self.advance(cx)
            }
            ReceiverState::Ready(mut partial) if from == 0 => {
                run(cx, move || partial.restart().map(|()| partial), ReceiverMessage::Written);
                Ok(ReceiverFlow::On)
            }
            ReceiverState::Preparing(_)
            | ReceiverState::Ready(_)
            | ReceiverState::Idle(_)
            | ReceiverState::Busy => Err(FileRefused::Disorder),
        }
    }

    fn on_chunk(&mut self, cx: &mut Cx<'_, ReceiverMessage>, bytes: Bytes) -> Done<ReceiverFlow> {
        self.received += bytes.as_ref().len() as u64;
        if bytes.as_ref().is_empty() {
            // Nobody sends nothing but to have it remembered.
            return Err(FileRefused::Disorder);
        }
        let begun = matches!(self.state, ReceiverState::Idle(_) | ReceiverState::Busy);
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

    fn on_end(&mut self, cx: &mut Cx<'_, ReceiverMessage>, hash: Bytes) -> Done<ReceiverFlow> {
        let begun = matches!(self.state, ReceiverState::Idle(_) | ReceiverState::Busy);
        if !begun || self.received != self.stat.size {
            return Err(FileRefused::Disorder);
        }
        self.end = Some(hash);
        self.advance(cx)
    }

    fn on_written(&mut self, cx: &mut Cx<'_, ReceiverMessage>, partial: Box<Partial>) -> Done<ReceiverFlow> {
        if self.leaving.is_some() {
            return self.let_go(cx, partial);
        }
        self.written = partial.written();
        cx.tell(self.sender, ToSender::Written(self.written).into());
        self.state = ReceiverState::Idle(partial);
        self.advance(cx)
    }

    /// Gives the disk what there is to do, if it has nothing.
    fn advance(&mut self, cx: &mut Cx<'_, ReceiverMessage>) -> Done<ReceiverFlow> {
        let ReceiverState::Idle(partial) = std::mem::replace(&mut self.state, ReceiverState::Busy) else {
            return Ok(ReceiverFlow::On);
        };
        if !self.queue.is_empty() {
            let chunks = std::mem::take(&mut self.queue);
            run(cx, move || partial.write(&chunks), ReceiverMessage::Written);
        } else if let Some(hash) = self.end.take() {
            run(cx, move || partial.place(hash.as_ref()), ReceiverMessage::Placed);
        } else {
            self.state = ReceiverState::Idle(partial);
        }
        Ok(ReceiverFlow::On)
    }

    /// The sender sends no more. What came is kept to be resumed, if it is of use.
    fn leave(&mut self, cx: &mut Cx<'_, ReceiverMessage>, is_useless: bool) -> Done<ReceiverFlow> {
        let is_useless = is_useless || self.leaving == Some(true);
        self.leaving = Some(is_useless);
        match std::mem::replace(&mut self.state, ReceiverState::Busy) {
            ReceiverState::Ready(partial) | ReceiverState::Idle(partial) => self.let_go(cx, partial),
            // The job comes back first.
            state @ (ReceiverState::Preparing(_) | ReceiverState::Busy) => {
                self.state = state;
                Ok(ReceiverFlow::On)
            }
        }
    }

    fn let_go(&mut self, cx: &mut Cx<'_, ReceiverMessage>, partial: Box<Partial>) -> Done<ReceiverFlow> {
        let is_useless = self.leaving == Some(true) || partial.is_empty();
        if !is_useless {
            return Ok(ReceiverFlow::Out);
        }
        cx.blocking(move || partial.discard(), |_| ReceiverMessage::Removed);
        Ok(ReceiverFlow::On)
    }

    /// Tells the sender, and ends.
    fn fail(&mut self, cx: &mut Cx<'_, ReceiverMessage>, reason: FileRefused) -> Step<ReceiverMessage> {
        count_refusal(cx.loop_ref(), self.by, &reason);
        match std::mem::replace(&mut self.state, ReceiverState::Busy) {
            ReceiverState::Preparing(reply) => cx.reply(reply, OfferAnswer::Refused(reason)),
            ReceiverState::Ready(_) | ReceiverState::Idle(_) | ReceiverState::Busy
                if self.leaving.is_none() =>
            {
                cx.tell(self.sender, ToSender::Failed(reason).into());
            }
            ReceiverState::Ready(_) | ReceiverState::Idle(_) | ReceiverState::Busy => {}
        }
        stop()
    }
}

/// Has a job run on a helper thread; where it cannot run, that is what became of it.
fn run<T: Send + 'static>(
    cx: &mut Cx<'_, ReceiverMessage>,
    job: impl FnOnce() -> Done<T> + Send + 'static,
    answer: impl FnOnce(Done<T>) -> ReceiverMessage + 'static,
) {
    let no_job = |reason: JobError| Err(FileRefused::Disk(reason.to_string()));
    cx.blocking(job, move |done| answer(done.unwrap_or_else(no_job)));
}

#[cfg(all(test, unix))]
#[path = "receiver_tests.rs"]
mod tests;
