//! The receiver of one file: a service actor that the file service starts for one offer. It stops with the transfer.
//!
//! Invariant: at most one job runs at a time, and it owns the partial file; therefore chunks are written in order. The
//! chunks that wait in memory have at most as many bytes as the window.

use std::sync::Arc;
use std::time::Duration;

use antiphon_sched::{
    Actor, Addr, Bytes, Cx, Event, JobError, JobPool, NodeId, ReplyTo, SignalPolicy, Step, receive, stop,
};

use super::count_refusal;
use super::disk::{Dest, Prepared};
use super::messages::{CHUNK_BYTES, FileOffer, OfferAnswer, ToReceiver, ToSender, WINDOW_BYTES};
use super::outcome::{FileRefused, FileStat};
use super::partial::{Partial, Placed};
use super::path::TargetPath;
use crate::service::FromNode;

/// In each such interval a sender must send a chunk or end the transfer; otherwise it would occupy a permit without use.
const CHECK_INTERVAL: Duration = Duration::from_secs(600);
/// How much longer than its sender's timeout a receiver lives.
const GRACE: Duration = Duration::from_secs(5);

/// A message that the receiver of a file handles.
pub(super) enum ReceiverMessage {
    Peer(FromNode<ToReceiver>),
    Prepared(DiskResult<Prepared>),
    /// A job hashed some of the partial file; `true`: all of it.
    Hashed(DiskResult<(Box<Partial>, bool)>),
    Written(DiskResult<Box<Partial>>),
    Placed(DiskResult<Placed>),
    /// A job removed the partial file.
    Removed,
    /// Another [`CHECK_INTERVAL`] has passed.
    Check,
    /// The sender's timeout, and [`GRACE`], have passed.
    TimedOut,
}

/// The result of a job on the disk.
type DiskResult<T> = Result<T, FileRefused>;

/// The actor that receives one file.
pub(super) struct FileReceiver {
    dest: Arc<dyn Dest>,
    path: TargetPath,
    stat: FileStat,
    overwrite: bool,
    sender: Addr<FromNode<ToSender>>,
    /// The node of the sender; `None`: this node. Messages of other nodes are ignored.
    sender_node: Option<NodeId>,
    /// The quota account that is charged for the bytes.
    account: String,
    within: Option<Duration>,
    /// The value of `received` at the last check.
    received_at_check: u64,
    state: ReceiverState,
    /// Chunks that wait for the disk.
    queue: Vec<Vec<u8>>,
    /// The bytes from the beginning of the file that have been received.
    received: u64,
    /// The bytes from the beginning of the file that have been written.
    written: u64,
    /// The hash of the whole file, once all of it has been received.
    end: Option<Bytes>,
    /// Set when the transfer is aborted. `true`: the received bytes are discarded.
    aborted: Option<bool>,
}

enum ReceiverState {
    /// A job examines the target and hashes the partial file; then the offer is answered.
    Preparing(ReplyTo<OfferAnswer>),
    /// Waits for `Begin`.
    Ready(Box<Partial>),
    /// Waits for chunks.
    Idle(Box<Partial>),
    /// A job owns the partial file.
    Busy,
}

impl FileReceiver {
    /// Creates the receiver for an offer of node `sender_node`, whose bytes are charged to `account`.
    pub(super) fn new(
        dest: Arc<dyn Dest>,
        path: TargetPath,
        offer: &FileOffer,
        (sender_node, account): (Option<NodeId>, String),
        reply: ReplyTo<OfferAnswer>,
    ) -> Self {
        Self {
            dest,
            path,
            stat: offer.stat,
            overwrite: offer.overwrite,
            sender: offer.sender,
            sender_node,
            account,
            within: offer.within.map(Duration::from_millis),
            received_at_check: 0,
            state: ReceiverState::Preparing(reply),
            queue: Vec::new(),
            received: 0,
            written: 0,
            end: None,
            aborted: None,
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
            Event::Message(message) => self.on_message(cx, message),
            Event::Down(down) if down.actor == self.sender.id() => self.abort(cx, false),
            _ => Ok(ReceiverFlow::Continue),
        };
        match done {
            Ok(ReceiverFlow::Continue) => receive(),
            Ok(ReceiverFlow::Stop) => stop(),
            Err(reason) => self.fail(cx, reason),
        }
    }
}

/// Whether the receiver continues.
enum ReceiverFlow {
    Continue,
    Stop,
}

impl FileReceiver {
    fn start(&mut self, cx: &mut Cx<'_, ReceiverMessage>) -> DiskResult<ReceiverFlow> {
        cx.set_name("file receiver");
        cx.set_signal_policy(SignalPolicy::None);
        cx.monitor(self.sender);
        cx.every(CHECK_INTERVAL, || ReceiverMessage::Check)?;
        if let Some(within) = self.within {
            cx.after(within.saturating_add(GRACE), ReceiverMessage::TimedOut)?;
        }
        let (dest, path, stat, overwrite) = (self.dest.clone(), self.path.clone(), self.stat, self.overwrite);
        let account = self.account.clone();
        run(cx, move || dest.prepare(&path, stat, overwrite, &account), ReceiverMessage::Prepared);
        Ok(ReceiverFlow::Continue)
    }

    fn on_message(
        &mut self,
        cx: &mut Cx<'_, ReceiverMessage>,
        message: ReceiverMessage,
    ) -> DiskResult<ReceiverFlow> {
        match message {
            ReceiverMessage::Peer(message) if message.from == self.sender_node => {
                self.on_peer(cx, message.message)
            }
            ReceiverMessage::Peer(_) => Ok(ReceiverFlow::Continue),
            ReceiverMessage::Prepared(prepared) => self.on_prepared(cx, prepared?),
            ReceiverMessage::Hashed(hashed) => self.on_hashed(cx, hashed?),
            ReceiverMessage::Written(written) => self.on_written(cx, written?),
            ReceiverMessage::Placed(placed) => {
                let result = match placed? {
                    Placed::Stored => ToSender::Stored,
                    Placed::Different(there) => ToSender::Different(there),
                };
                cx.tell(self.sender, result.into());
                Ok(ReceiverFlow::Stop)
            }
            ReceiverMessage::Removed => Ok(ReceiverFlow::Stop),
            ReceiverMessage::Check => self.check_progress(),
            ReceiverMessage::TimedOut => self.abort(cx, false),
        }
    }

    /// Fails if the sender sent less than a chunk since the last check. A running job may take longer.
    fn check_progress(&mut self) -> DiskResult<ReceiverFlow> {
        let is_waiting = matches!(self.state, ReceiverState::Ready(_) | ReceiverState::Idle(_));
        let progress = self.received - std::mem::replace(&mut self.received_at_check, self.received);
        if is_waiting && progress < CHUNK_BYTES as u64 {
            return Err(FileRefused::Disorder);
        }
        Ok(ReceiverFlow::Continue)
    }

    fn on_peer(&mut self, cx: &mut Cx<'_, ReceiverMessage>, message: ToReceiver) -> DiskResult<ReceiverFlow> {
        match message {
            _ if self.aborted.is_some() => Ok(ReceiverFlow::Continue),
            ToReceiver::Begin(from) => self.on_begin(cx, from),
            ToReceiver::Chunk(bytes) => self.on_chunk(cx, bytes),
            ToReceiver::End(hash) => self.on_end(cx, hash),
            ToReceiver::Abort(is_discarded) => self.abort(cx, is_discarded),
        }
    }

    fn on_prepared(
        &mut self,
        cx: &mut Cx<'_, ReceiverMessage>,
        prepared: Prepared,
    ) -> DiskResult<ReceiverFlow> {
        let answer = match prepared {
            Prepared::AlreadyThere => OfferAnswer::AlreadyThere,
            Prepared::Different(there) => OfferAnswer::Different(there),
            Prepared::Open(partial) => return self.hash(cx, partial),
        };
        self.answer(cx, answer);
        Ok(ReceiverFlow::Stop)
    }

    fn hash(
        &mut self,
        cx: &mut Cx<'_, ReceiverMessage>,
        mut partial: Box<Partial>,
    ) -> DiskResult<ReceiverFlow> {
        if self.aborted.is_some() {
            return self.release(cx, partial);
        }
        run(
            cx,
            move || partial.hash_some().map(|is_complete| (partial, is_complete)),
            ReceiverMessage::Hashed,
        );
        Ok(ReceiverFlow::Continue)
    }

    fn on_hashed(
        &mut self,
        cx: &mut Cx<'_, ReceiverMessage>,
        hashed: (Box<Partial>, bool),
    ) -> DiskResult<ReceiverFlow> {
        let (partial, is_complete) = hashed;
        if !is_complete || self.aborted.is_some() {
            return self.hash(cx, partial);
        }
        let receiver = cx.adapter(ReceiverMessage::Peer)?;
        let (have, hash) = (partial.have(), partial.hash().to_vec().into());
        self.answer(cx, OfferAnswer::Send { receiver, have, hash, window: WINDOW_BYTES });
        self.state = ReceiverState::Ready(partial);
        Ok(ReceiverFlow::Continue)
    }

    fn answer(&mut self, cx: &mut Cx<'_, ReceiverMessage>, answer: OfferAnswer) {
        if let ReceiverState::Preparing(reply) = std::mem::replace(&mut self.state, ReceiverState::Busy) {
            cx.reply(reply, answer);
        }
    }

    fn on_begin(&mut self, cx: &mut Cx<'_, ReceiverMessage>, from: u64) -> DiskResult<ReceiverFlow> {
        match std::mem::replace(&mut self.state, ReceiverState::Busy) {
            ReceiverState::Ready(partial) if from == partial.have() => {
                (self.received, self.written) = (from, from);
                self.state = ReceiverState::Idle(partial);
                self.advance(cx)
            }
            ReceiverState::Ready(mut partial) if from == 0 => {
                run(cx, move || partial.restart().map(|()| partial), ReceiverMessage::Written);
                Ok(ReceiverFlow::Continue)
            }
            ReceiverState::Preparing(_)
            | ReceiverState::Ready(_)
            | ReceiverState::Idle(_)
            | ReceiverState::Busy => Err(FileRefused::Disorder),
        }
    }

    fn on_chunk(&mut self, cx: &mut Cx<'_, ReceiverMessage>, bytes: Bytes) -> DiskResult<ReceiverFlow> {
        self.received += bytes.as_ref().len() as u64;
        if bytes.as_ref().is_empty() {
            // An empty chunk carries no bytes but would occupy memory in the queue.
            return Err(FileRefused::Disorder);
        }
        let has_begun = matches!(self.state, ReceiverState::Idle(_) | ReceiverState::Busy);
        if !has_begun || self.end.is_some() || self.received - self.written > WINDOW_BYTES {
            return Err(FileRefused::Disorder);
        }
        if self.received > self.stat.size {
            return Err(FileRefused::TooLarge { max: self.stat.size });
        }
        self.enqueue(bytes);
        self.advance(cx)
    }

    /// Queues a chunk for the disk. Small chunks are joined: a window of them would need many times its bytes of memory.
    fn enqueue(&mut self, bytes: Bytes) {
        match self.queue.last_mut() {
            Some(last) if last.len() + bytes.len() <= CHUNK_BYTES => last.extend_from_slice(&bytes),
            Some(_) | None => self.queue.push(bytes.into()),
        }
    }

    fn on_end(&mut self, cx: &mut Cx<'_, ReceiverMessage>, hash: Bytes) -> DiskResult<ReceiverFlow> {
        let has_begun = matches!(self.state, ReceiverState::Idle(_) | ReceiverState::Busy);
        if !has_begun || self.received != self.stat.size {
            return Err(FileRefused::Disorder);
        }
        self.end = Some(hash);
        self.advance(cx)
    }

    fn on_written(
        &mut self,
        cx: &mut Cx<'_, ReceiverMessage>,
        partial: Box<Partial>,
    ) -> DiskResult<ReceiverFlow> {
        if self.aborted.is_some() {
            return self.release(cx, partial);
        }
        self.written = partial.written();
        cx.tell(self.sender, ToSender::Written(self.written).into());
        self.state = ReceiverState::Idle(partial);
        self.advance(cx)
    }

    /// Starts the next job, if none runs and there is one.
    fn advance(&mut self, cx: &mut Cx<'_, ReceiverMessage>) -> DiskResult<ReceiverFlow> {
        let ReceiverState::Idle(partial) = std::mem::replace(&mut self.state, ReceiverState::Busy) else {
            return Ok(ReceiverFlow::Continue);
        };
        if !self.queue.is_empty() {
            let chunks = std::mem::take(&mut self.queue);
            run(cx, move || partial.write(&chunks), ReceiverMessage::Written);
        } else if let Some(hash) = self.end.take() {
            run(cx, move || partial.place(hash.as_ref()), ReceiverMessage::Placed);
        } else {
            self.state = ReceiverState::Idle(partial);
        }
        Ok(ReceiverFlow::Continue)
    }

    /// Ends the transfer when the sender sends no more. The partial file is kept to be resumed, unless it is discarded.
    fn abort(&mut self, cx: &mut Cx<'_, ReceiverMessage>, is_discarded: bool) -> DiskResult<ReceiverFlow> {
        let is_discarded = is_discarded || self.aborted == Some(true);
        self.aborted = Some(is_discarded);
        match std::mem::replace(&mut self.state, ReceiverState::Busy) {
            ReceiverState::Ready(partial) | ReceiverState::Idle(partial) => self.release(cx, partial),
            // The running job ends first.
            state @ (ReceiverState::Preparing(_) | ReceiverState::Busy) => {
                self.state = state;
                Ok(ReceiverFlow::Continue)
            }
        }
    }

    /// Closes the partial file, and removes it if it is discarded.
    fn release(
        &mut self,
        cx: &mut Cx<'_, ReceiverMessage>,
        partial: Box<Partial>,
    ) -> DiskResult<ReceiverFlow> {
        let is_discarded = self.aborted == Some(true) || partial.is_empty();
        if !is_discarded {
            return Ok(ReceiverFlow::Stop);
        }
        cx.blocking_on(JobPool::Files, move || partial.discard(), |_| ReceiverMessage::Removed);
        Ok(ReceiverFlow::Continue)
    }

    /// Reports the reason to the sender, and stops.
    fn fail(&mut self, cx: &mut Cx<'_, ReceiverMessage>, reason: FileRefused) -> Step<ReceiverMessage> {
        count_refusal(cx.loop_ref(), self.sender_node, &reason);
        match std::mem::replace(&mut self.state, ReceiverState::Busy) {
            ReceiverState::Preparing(reply) => cx.reply(reply, OfferAnswer::Refused(reason)),
            ReceiverState::Ready(_) | ReceiverState::Idle(_) | ReceiverState::Busy
                if self.aborted.is_none() =>
            {
                cx.tell(self.sender, ToSender::Failed(reason).into());
            }
            ReceiverState::Ready(_) | ReceiverState::Idle(_) | ReceiverState::Busy => {}
        }
        stop()
    }
}

/// Runs a job in the pool for files. If it cannot run, its result is an error.
fn run<T: Send + 'static>(
    cx: &mut Cx<'_, ReceiverMessage>,
    job: impl FnOnce() -> DiskResult<T> + Send + 'static,
    answer: impl FnOnce(DiskResult<T>) -> ReceiverMessage + 'static,
) {
    let no_job = |reason: JobError| Err(FileRefused::Disk(reason.to_string()));
    cx.blocking_on(JobPool::Files, job, move |done| answer(done.unwrap_or_else(no_job)));
}

#[cfg(all(test, unix))]
#[path = "receiver_tests.rs"]
mod tests;
