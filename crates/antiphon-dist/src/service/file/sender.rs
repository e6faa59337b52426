//! The sender of one file: a service actor that `send_file` starts. It answers its caller once and stops.
//!
//! Invariant: at most one job runs at a time, and it owns the file; therefore chunks are sent in order. The bytes that are
//! sent and not yet written to the receiver's disk are at most the window that the receiver granted.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use antiphon_sched::{
    Actor, ActorId, Addr, AskError, Bytes, Cx, Event, JobError, JobPool, NodeId, PayloadError, Permit,
    ReplyTo, SendError, SignalPolicy, Step, Time, receive, stop,
};

use super::disk::Disk;
use super::messages::{
    CHUNK_BYTES, FILE_SERVICE, FileOffer, OfferAnswer, ToFileService, ToReceiver, ToSender,
};
use super::outcome::{FileError, FileRefused, Progress, SourceError, Stored};
use super::path::TargetPath;
use super::source::{FileChunk, SourceFile};
use super::state;
use crate::cx::NetCx;
use crate::error::LocateError;
use crate::location::Location;
use crate::service::{FromNode, ServiceAddr};

/// The most watchers of one transfer's progress; further ones are refused.
const WATCHERS_MAX: usize = 64;
/// The shortest interval between two reports of progress to one watcher.
const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// A message that the sender of a file handles.
pub(crate) enum SenderMessage {
    /// Starts the transfer; the caller of `send_file` waits for the reply.
    Begin(ReplyTo<Result<Stored, FileError>>),
    Opened(SourceResult<SourceFile>),
    Located(Result<ServiceAddr<ToFileService>, LocateError>),
    Answered(Result<OfferAnswer, AskError>),
    /// A job hashed some of the bytes that the receiver has; `true`: all of them.
    Hashed(SourceResult<(SourceFile, bool)>),
    Rewound(SourceResult<SourceFile>),
    Read(SourceResult<(SourceFile, FileChunk)>),
    Peer(FromNode<ToSender>),
    /// Adds a watcher of the progress, and its interval.
    Watch(Addr<Progress>, Duration),
    /// The interval of a watcher has passed.
    Report(Addr<Progress>),
    Cancel,
    TimedOut,
}

/// The result of a job that reads the file.
type SourceResult<T> = Result<T, SourceError>;

/// The arguments of one transfer.
pub(crate) struct SendOrder {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) file: PathBuf,
    pub(super) target: TargetPath,
    pub(super) overwrite: bool,
    pub(super) to: Location,
    pub(super) timeout: Duration,
    /// The actor that called `send_file`; the transfer ends with it.
    pub(super) caller: ActorId,
    /// Counts as one transfer of this node until it is dropped.
    #[expect(dead_code, reason = "held, not read")]
    pub(super) permit: Permit,
}

/// The actor that sends one file.
pub(crate) struct FileSender {
    order: SendOrder,
    reply_to: Option<ReplyTo<Result<Stored, FileError>>>,
    watchers: Vec<Addr<Progress>>,
    receiver: Option<Addr<FromNode<ToReceiver>>>,
    /// The receiving node, once its file service is located. Messages of other nodes are ignored.
    receiver_node: Option<NodeId>,
    state: SenderState,
    /// When the transfer times out.
    until: Time,
    /// The timeout has passed while the service was located.
    is_overdue: bool,
    progress: SendProgress,
}

enum SenderState {
    /// A job owns the file, or will open it.
    Busy,
    /// Waits for the address of the file service at the location.
    Locating(SourceFile),
    /// Waits for the answer to the offer.
    Offering(SourceFile),
    /// A job hashes the first `have` bytes, to compare them with those that the receiver has.
    Comparing { have: u64, hash: Bytes },
    /// The window is full; waits until the receiver has written more.
    WindowFull(SourceFile),
    /// The send queue of the node is full; waits until it is writable.
    QueueFull(SourceFile, FileChunk),
    /// The whole file is sent; waits for the result.
    Sent,
}

/// The progress of the transfer, in bytes from the beginning of the file.
#[derive(Default)]
struct SendProgress {
    size: u64,
    sent: u64,
    written: u64,
    resumed: u64,
    window: u64,
}

impl SendProgress {
    /// Whether another chunk may be sent. One chunk may be in flight even if the window is smaller.
    fn has_room(&self) -> bool {
        let chunk = (self.size - self.sent).min(CHUNK_BYTES as u64);
        self.sent == self.written || self.sent - self.written + chunk <= self.window
    }
}

impl FileSender {
    pub(super) fn new(order: SendOrder) -> Self {
        Self {
            order,
            reply_to: None,
            watchers: Vec::new(),
            receiver: None,
            receiver_node: None,
            state: SenderState::Busy,
            until: Time::ZERO,
            is_overdue: false,
            progress: SendProgress::default(),
        }
    }
}

impl Actor<SenderMessage> for FileSender {
    fn step(&mut self, cx: &mut Cx<'_, SenderMessage>, event: Event<SenderMessage>) -> Step<SenderMessage> {
        let done = match event {
            Event::Start => self.start(cx),
            Event::Message(message) => self.on_message(cx, message),
            Event::Writable { .. } => self.on_writable(cx),
            Event::Down(down) if self.receiver.is_some_and(|receiver| receiver == down.actor) => {
                Err(FileError::NodeLost)
            }
            // The actor that called `send_file` has ended.
            Event::Down(down) if down.actor == self.order.caller => Err(FileError::Cancelled),
            _ => Ok(None),
        };
        match done {
            Ok(None) => receive(),
            Ok(Some(stored)) => self.end(cx, Ok(stored)),
            Err(reason) => self.end(cx, Err(reason)),
        }
    }
}

impl FileSender {
    fn start(&mut self, cx: &mut Cx<'_, SenderMessage>) -> Result<Option<Stored>, FileError> {
        cx.set_name("file sender");
        cx.set_signal_policy(SignalPolicy::None);
        cx.after(self.order.timeout, SenderMessage::TimedOut)?;
        self.until = cx.now() + self.order.timeout;
        cx.monitor(self.order.caller);
        Ok(None)
    }

    fn open(&mut self, cx: &mut Cx<'_, SenderMessage>, reply_to: ReplyTo<Result<Stored, FileError>>) {
        self.reply_to = Some(reply_to);
        let (disk, path) = (self.order.disk.clone(), self.order.file.clone());
        run(cx, move || SourceFile::open(&*disk, &path), SenderMessage::Opened);
    }

    fn on_message(
        &mut self,
        cx: &mut Cx<'_, SenderMessage>,
        message: SenderMessage,
    ) -> Result<Option<Stored>, FileError> {
        match message {
            SenderMessage::Begin(reply_to) => self.open(cx, reply_to),
            SenderMessage::Opened(source) => self.locate_service(cx, source?),
            SenderMessage::Located(found) => self.offer(cx, found)?,
            SenderMessage::Answered(answer) => return self.on_answer(cx, answer?),
            SenderMessage::Hashed(hashed) => self.on_hashed(cx, hashed?),
            SenderMessage::Rewound(source) => self.begin(cx, source?, 0),
            SenderMessage::Read(read) => {
                let (source, chunk) = read?;
                self.send(cx, source, chunk)?;
            }
            SenderMessage::Peer(message)
                if self.receiver_node == Some(message.from.unwrap_or(cx.id().node())) =>
            {
                return self.on_peer(cx, message.message);
            }
            SenderMessage::Peer(_) => {}
            SenderMessage::Watch(watcher, every) => self.watch(cx, watcher, every),
            SenderMessage::Report(watcher) => self.report(cx, watcher),
            SenderMessage::Cancel => return Err(FileError::Cancelled),
            // The lookup times out too, and knows the reason.
            SenderMessage::TimedOut if matches!(self.state, SenderState::Locating(_)) => {
                self.is_overdue = true;
            }
            SenderMessage::TimedOut => return Err(FileError::TimedOut),
        }
        Ok(None)
    }

    fn locate_service(&mut self, cx: &mut Cx<'_, SenderMessage>, source: SourceFile) {
        self.progress.size = source.stat.size;
        self.state = SenderState::Locating(source);
        let left = self.until.since(cx.now());
        cx.locate_at(FILE_SERVICE, self.order.to, left, SenderMessage::Located);
    }

    fn offer(
        &mut self,
        cx: &mut Cx<'_, SenderMessage>,
        found: Result<ServiceAddr<ToFileService>, LocateError>,
    ) -> Result<(), FileError> {
        let SenderState::Locating(source) = std::mem::replace(&mut self.state, SenderState::Busy) else {
            return Ok(());
        };
        let service = found.map_err(FileError::from_locate_error)?;
        if self.is_overdue {
            return Err(FileError::TimedOut);
        }
        let offer = FileOffer {
            path: self.order.target.clone().into_names(),
            stat: source.stat,
            overwrite: self.order.overwrite,
            sender: cx.adapter(SenderMessage::Peer)?,
            within: Some(u64::try_from(self.order.timeout.as_millis()).unwrap_or(u64::MAX)),
        };
        self.receiver_node = Some(service.node());
        self.state = SenderState::Offering(source);
        cx.ask(
            service.addr(),
            self.order.timeout,
            |reply| ToFileService::Offer(offer, reply).into(),
            SenderMessage::Answered,
        );
        Ok(())
    }

    fn on_answer(
        &mut self,
        cx: &mut Cx<'_, SenderMessage>,
        answer: OfferAnswer,
    ) -> Result<Option<Stored>, FileError> {
        let SenderState::Offering(source) = std::mem::replace(&mut self.state, SenderState::Busy) else {
            return Ok(None);
        };
        match answer {
            OfferAnswer::AlreadyThere => Ok(Some(Stored::AlreadyThere)),
            OfferAnswer::Different(there) => Err(FileError::Different { there }),
            OfferAnswer::Refused(reason) => Err(reason.into()),
            OfferAnswer::Send { receiver, .. } if self.receiver_node != Some(receiver.node()) => {
                Err(FileError::Refused(FileRefused::Disorder))
            }
            OfferAnswer::Send { receiver, have, hash, window } => {
                self.receiver = Some(receiver);
                self.progress.window = window;
                cx.monitor(receiver);
                if have == 0 || have > self.progress.size {
                    self.begin(cx, source, 0);
                } else {
                    self.state = SenderState::Comparing { have, hash };
                    self.hash(cx, source, have);
                }
                Ok(None)
            }
        }
    }

    fn hash(&mut self, cx: &mut Cx<'_, SenderMessage>, mut source: SourceFile, to: u64) {
        run(
            cx,
            move || source.hash_towards(to).map(|is_complete| (source, is_complete)),
            SenderMessage::Hashed,
        );
    }

    fn on_hashed(&mut self, cx: &mut Cx<'_, SenderMessage>, (mut source, is_complete): (SourceFile, bool)) {
        match std::mem::replace(&mut self.state, SenderState::Busy) {
            SenderState::Comparing { have, hash } if !is_complete => {
                self.state = SenderState::Comparing { have, hash };
                self.hash(cx, source, have);
            }
            SenderState::Comparing { have, hash } if source.hash() == hash.as_ref() => {
                self.begin(cx, source, have);
            }
            // The receiver has bytes of a different file.
            _ => run(cx, move || source.rewind().map(|()| source), SenderMessage::Rewound),
        }
    }

    fn begin(&mut self, cx: &mut Cx<'_, SenderMessage>, source: SourceFile, from: u64) {
        self.progress =
            SendProgress { sent: from, written: from, resumed: from, ..std::mem::take(&mut self.progress) };
        if let Some(receiver) = self.receiver {
            cx.tell(receiver, ToReceiver::Begin(from).into());
        }
        self.read(cx, source);
    }

    fn read(&mut self, cx: &mut Cx<'_, SenderMessage>, mut source: SourceFile) {
        self.state = SenderState::Busy;
        run(cx, move || source.read().map(|chunk| (source, chunk)), SenderMessage::Read);
    }

    /// Sends a chunk if the send queue has room, and reads the next one if the window has room.
    fn send(
        &mut self,
        cx: &mut Cx<'_, SenderMessage>,
        source: SourceFile,
        chunk: FileChunk,
    ) -> Result<(), FileError> {
        let Some(receiver) = self.receiver else { return Ok(()) };
        let (hash, count) = (chunk.hash, chunk.bytes.len() as u64);
        if count > 0
            && let Err(error) = cx.try_send(receiver, ToReceiver::Chunk(chunk.bytes.into()).into())
        {
            return self.on_send_error(source, hash, error);
        }
        self.progress.sent += count;
        match hash {
            Some(hash) => {
                cx.tell(receiver, ToReceiver::End(hash.to_vec().into()).into());
                self.state = SenderState::Sent;
            }
            None if self.progress.has_room() => self.read(cx, source),
            None => self.state = SenderState::WindowFull(source),
        }
        Ok(())
    }

    /// Keeps a chunk that the send queue has no room for; other errors end the transfer.
    fn on_send_error(
        &mut self,
        source: SourceFile,
        hash: Option<[u8; 32]>,
        error: SendError<FromNode<ToReceiver>>,
    ) -> Result<(), FileError> {
        match error {
            SendError::Busy(FromNode { message: ToReceiver::Chunk(bytes), .. }) => {
                self.state = SenderState::QueueFull(source, FileChunk { bytes: bytes.into(), hash });
                Ok(())
            }
            // The receiver has ended; its `Down` arrives later.
            SendError::NoActor(_) | SendError::NoNode(_) => Ok(()),
            SendError::Payload(_, PayloadError::TooLarge { .. }) => Err(FileError::PieceTooLarge),
            other => Err(FileError::Unsent(other.reason())),
        }
    }

    fn on_writable(&mut self, cx: &mut Cx<'_, SenderMessage>) -> Result<Option<Stored>, FileError> {
        match std::mem::replace(&mut self.state, SenderState::Busy) {
            SenderState::QueueFull(source, chunk) => self.send(cx, source, chunk)?,
            state => self.state = state,
        }
        Ok(None)
    }

    fn on_peer(
        &mut self,
        cx: &mut Cx<'_, SenderMessage>,
        message: ToSender,
    ) -> Result<Option<Stored>, FileError> {
        match message {
            ToSender::Written(to) => {
                self.progress.written =
                    to.clamp(self.progress.written, self.progress.sent.max(self.progress.written));
                match std::mem::replace(&mut self.state, SenderState::Busy) {
                    SenderState::WindowFull(source) if self.progress.has_room() => self.read(cx, source),
                    state => self.state = state,
                }
                Ok(None)
            }
            ToSender::Stored => {
                self.receiver = None;
                Ok(Some(Stored::New))
            }
            ToSender::Different(there) => {
                self.receiver = None;
                Err(FileError::Different { there })
            }
            ToSender::Failed(reason) => {
                self.receiver = None;
                Err(reason.into())
            }
        }
    }

    fn watch(&mut self, cx: &mut Cx<'_, SenderMessage>, watcher: Addr<Progress>, every: Duration) {
        if let Some(state) = state(cx.loop_ref()) {
            state.outgoing.remove_pending_watcher(watcher);
        }
        if self.watchers.len() >= WATCHERS_MAX {
            return cx.loop_ref().close_adapter(watcher);
        }
        self.watchers.push(watcher);
        let report = move || SenderMessage::Report(watcher);
        if let Err(reason) = cx.every(every.max(PROGRESS_INTERVAL_MIN), report) {
            tracing::warn!(%reason, "the progress of a transfer is not reported");
            self.watchers.pop();
            cx.loop_ref().close_adapter(watcher);
        }
    }

    fn report(&self, cx: &mut Cx<'_, SenderMessage>, watcher: Addr<Progress>) {
        let SendProgress { size, written, resumed, .. } = self.progress;
        let now = Progress { done: written, total: size, resumed };
        if let Err(reason) = cx.send(watcher, now) {
            tracing::debug!(%reason, "progress not reported");
        }
    }

    /// Aborts a receiver that still waits, answers the caller, and stops.
    fn end(
        &mut self,
        cx: &mut Cx<'_, SenderMessage>,
        result: Result<Stored, FileError>,
    ) -> Step<SenderMessage> {
        if let Some(receiver) = self.receiver {
            let discards = matches!(result, Err(FileError::Source(SourceError::Changed)));
            if let Err(reason) = cx.send(receiver, ToReceiver::Abort(discards).into()) {
                tracing::debug!(%reason, "abort not sent; the receiver monitors this sender");
            }
        }
        // `Watch` messages in the mailbox will not be handled: their watchers are closed here.
        let addr = cx.addr();
        if let Some(state) = state(cx.loop_ref()) {
            self.watchers.extend(state.outgoing.take_pending_watchers(addr));
        }
        for watcher in std::mem::take(&mut self.watchers) {
            if result == Ok(Stored::New) {
                self.progress.written = self.progress.size;
                self.report(cx, watcher);
            }
            cx.loop_ref().close_adapter(watcher);
        }
        if let Some(reply_to) = self.reply_to.take() {
            cx.reply(reply_to, result);
        }
        stop()
    }
}

impl FileError {
    fn from_locate_error(reason: LocateError) -> Self {
        match reason {
            LocateError::TimedOut => Self::NoAnswer,
            LocateError::Unreachable(error) => Self::Unreachable(error),
            LocateError::WrongType { .. } | LocateError::TypeNameTooLong { .. } => Self::Version,
            LocateError::TooManyOpen | LocateError::Refused => Self::TooManyOpen,
            LocateError::BadName | LocateError::NoNode => Self::NoNode,
        }
    }
}

/// Returns the name under which a file is stored if the options give none.
pub(super) fn default_name(file: &Path) -> PathBuf {
    file.file_name().map(PathBuf::from).unwrap_or_default()
}

/// Runs a job in the pool for files. If it cannot run, its result is an error.
fn run<T: Send + 'static>(
    cx: &mut Cx<'_, SenderMessage>,
    job: impl FnOnce() -> SourceResult<T> + Send + 'static,
    answer: impl FnOnce(SourceResult<T>) -> SenderMessage + 'static,
) {
    let no_job = |reason: JobError| Err(SourceError::Unreadable(reason.to_string()));
    cx.blocking_on(JobPool::Files, job, move |done| answer(done.unwrap_or_else(no_job)));
}
