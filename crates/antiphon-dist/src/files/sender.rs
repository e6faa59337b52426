//! The sender of one file: a hidden actor, started by `send_file`, which answers once and ends.
//!
//! Invariant: at most one job on the file runs at a time, and it holds the file; so pieces are sent in order. What
//! is under way to the receiver's disk is at most the window that it granted.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use antiphon_sched::{
    Actor, ActorId, Addr, AskError, Bytes, Cx, Event, JobError, NodeId, ReplyTo, SendError, SignalPolicy,
    Step, receive, stop,
};

use super::messages::{
    CHUNK_BYTES, FILE_SERVICE, FileOffer, FileServiceName, OfferAnswer, ToFileService, ToReceiver, ToSender,
};
use super::outcome::{FileError, FileRefused, Progress, SourceError, Stored};
use super::path::TargetPath;
use super::source::{Piece, SourceFile};
use crate::cx::{NetCx, node_mut};
use crate::error::LocateError;
use crate::from_node::FromNode;
use crate::location::Location;

/// Who may be told of one transfer's progress; further ones are not.
const WATCHERS_MAX: usize = 64;
/// Progress is told no oftener.
const TELL_EVERY_LEAST: Duration = Duration::from_millis(10);

/// What a sender is told.
pub(crate) enum SenderMessage {
    /// Who sent the file waits for this answer.
    Begin(ReplyTo<Result<Stored, FileError>>),
    Opened(Done<SourceFile>),
    Located(Result<FileServiceName, LocateError>),
    Answered(Result<OfferAnswer, AskError>),
    /// Some more of what the receiver has is hashed; `true`: all.
    Hashed(Done<(SourceFile, bool)>),
    Rewound(Done<SourceFile>),
    Read(Done<(SourceFile, Piece)>),
    Peer(FromNode<ToSender>),
    Watch(Addr<Progress>, Duration),
    Tell(Addr<Progress>),
    Cancel,
    Late,
}

/// What became of a job.
type Done<T> = Result<T, SourceError>;

/// What is to be sent where.
pub(crate) struct SendOrder {
    pub(super) file: PathBuf,
    pub(super) target: TargetPath,
    pub(super) overwrite: bool,
    pub(super) to: Location,
    pub(super) timeout: Duration,
    /// Who wants it: the transfer ends with that actor.
    pub(super) asker: ActorId,
    /// Counts this transfer among those of its node, until it is dropped.
    #[expect(dead_code, reason = "held, not read")]
    pub(super) place: Arc<()>,
}

pub(crate) struct FileSender {
    order: SendOrder,
    answer: Option<ReplyTo<Result<Stored, FileError>>>,
    watchers: Vec<Addr<Progress>>,
    receiver: Option<Addr<FromNode<ToReceiver>>>,
    /// Where the file goes, once its service is found: nobody else is heard.
    node: Option<NodeId>,
    state: SenderState,
    flow: Flow,
}

enum SenderState {
    /// A job holds the file, or will open it.
    Busy,
    /// The service at the location is looked for.
    Looking(SourceFile),
    /// The offer was made.
    Offering(SourceFile),
    /// The receiver has some of the file; is it the same?
    Comparing { have: u64, hash: Bytes },
    /// The window is full.
    Waiting(SourceFile),
    /// The way to the node is full.
    Held(SourceFile, Piece),
    /// All is sent.
    Sent,
}

/// How far the transfer is, in bytes from the beginning.
#[derive(Default)]
struct Flow {
    size: u64,
    sent: u64,
    written: u64,
    resumed: u64,
    window: u64,
}

impl Flow {
    /// Whether another piece may be sent. One may always be under way.
    fn has_room(&self) -> bool {
        let piece = (self.size - self.sent).min(CHUNK_BYTES as u64);
        self.sent == self.written || self.sent - self.written + piece <= self.window
    }
}

impl FileSender {
    pub(super) fn new(order: SendOrder) -> Self {
        Self {
            order,
            answer: None,
            watchers: Vec::new(),
            receiver: None,
            node: None,
            state: SenderState::Busy,
            flow: Flow::default(),
        }
    }
}

impl Actor<SenderMessage> for FileSender {
    fn step(&mut self, cx: &mut Cx<'_, SenderMessage>, event: Event<SenderMessage>) -> Step<SenderMessage> {
        let done = match event {
            Event::Start => self.start(cx),
            Event::Message(note) => self.on_note(cx, note),
            Event::Writable(_) => self.on_writable(cx),
            Event::Down(down) if self.receiver.is_some_and(|receiver| receiver == down.actor) => {
                Err(FileError::NodeLost)
            }
            // Who wanted it has ended.
            Event::Down(down) if down.actor == self.order.asker => Err(FileError::Cancelled),
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
        cx.set_daemon(true);
        cx.set_name("sender of a file");
        cx.set_signal_policy(SignalPolicy::None);
        cx.after(self.order.timeout, SenderMessage::Late);
        cx.monitor(self.order.asker);
        Ok(None)
    }

    fn open(&mut self, cx: &mut Cx<'_, SenderMessage>, answer: ReplyTo<Result<Stored, FileError>>) {
        self.answer = Some(answer);
        let path = self.order.file.clone();
        run(cx, move || SourceFile::open(&path), SenderMessage::Opened);
    }

    fn on_note(
        &mut self,
        cx: &mut Cx<'_, SenderMessage>,
        note: SenderMessage,
    ) -> Result<Option<Stored>, FileError> {
        match note {
            SenderMessage::Begin(answer) => self.open(cx, answer),
            SenderMessage::Opened(source) => self.locate_service(cx, source?),
            SenderMessage::Located(found) => self.offer(cx, found)?,
            SenderMessage::Answered(answer) => return self.on_answer(cx, answer?),
            SenderMessage::Hashed(hashed) => self.on_hashed(cx, hashed?),
            SenderMessage::Rewound(source) => self.begin(cx, source?, 0),
            SenderMessage::Read(read) => {
                let (source, piece) = read?;
                self.send(cx, source, piece)?;
            }
            SenderMessage::Peer(told) if self.node == Some(told.by.unwrap_or(cx.id().node())) => {
                return self.on_peer(cx, told.what);
            }
            SenderMessage::Peer(_) => {}
            SenderMessage::Watch(watcher, every) => self.watch(cx, watcher, every),
            SenderMessage::Tell(watcher) => self.tell(cx, watcher),
            SenderMessage::Cancel => return Err(FileError::Cancelled),
            SenderMessage::Late => return Err(self.late()),
        }
        Ok(None)
    }

    /// What it means that the time is over.
    fn late(&self) -> FileError {
        match self.state {
            SenderState::Looking(_) => FileError::NoAnswer,
            _ => FileError::TimedOut,
        }
    }

    fn locate_service(&mut self, cx: &mut Cx<'_, SenderMessage>, source: SourceFile) {
        self.flow.size = source.stat.size;
        self.state = SenderState::Looking(source);
        cx.locate_at(FILE_SERVICE, self.order.to, self.order.timeout, SenderMessage::Located);
    }

    fn offer(
        &mut self,
        cx: &mut Cx<'_, SenderMessage>,
        found: Result<FileServiceName, LocateError>,
    ) -> Result<(), FileError> {
        let SenderState::Looking(source) = std::mem::replace(&mut self.state, SenderState::Busy) else {
            return Ok(());
        };
        let FileServiceName(service) = found.map_err(FileError::of_locating)?;
        let offer = FileOffer {
            path: self.order.target.clone().into_names(),
            stat: source.stat,
            overwrite: self.order.overwrite,
            sender: cx.adapter(SenderMessage::Peer),
            within: Some(u64::try_from(self.order.timeout.as_millis()).unwrap_or(u64::MAX)),
        };
        self.node = Some(service.node());
        self.state = SenderState::Offering(source);
        cx.ask(
            service,
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
            OfferAnswer::Send { receiver, .. } if self.node != Some(receiver.node()) => {
                Err(FileError::Refused(FileRefused::Disorder))
            }
            OfferAnswer::Send { receiver, have, hash, window } => {
                self.receiver = Some(receiver);
                self.flow.window = window;
                cx.monitor(receiver);
                if have == 0 || have > self.flow.size {
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
        run(cx, move || source.hash_towards(to).map(|is_all| (source, is_all)), SenderMessage::Hashed);
    }

    fn on_hashed(&mut self, cx: &mut Cx<'_, SenderMessage>, (mut source, is_all): (SourceFile, bool)) {
        match std::mem::replace(&mut self.state, SenderState::Busy) {
            SenderState::Comparing { have, hash } if !is_all => {
                self.state = SenderState::Comparing { have, hash };
                self.hash(cx, source, have);
            }
            SenderState::Comparing { have, hash } if source.hash() == hash.as_ref() => {
                self.begin(cx, source, have);
            }
            // What is there is of another file.
            _ => run(cx, move || source.rewind().map(|()| source), SenderMessage::Rewound),
        }
    }

    fn begin(&mut self, cx: &mut Cx<'_, SenderMessage>, source: SourceFile, from: u64) {
        self.flow = Flow { sent: from, written: from, resumed: from, ..std::mem::take(&mut self.flow) };
        if let Some(receiver) = self.receiver {
            cx.tell(receiver, ToReceiver::Begin(from).into());
        }
        self.read(cx, source);
    }

    fn read(&mut self, cx: &mut Cx<'_, SenderMessage>, mut source: SourceFile) {
        self.state = SenderState::Busy;
        run(cx, move || source.read().map(|piece| (source, piece)), SenderMessage::Read);
    }

    /// Sends a piece, if the way has room; and reads on, if the window has.
    fn send(
        &mut self,
        cx: &mut Cx<'_, SenderMessage>,
        source: SourceFile,
        piece: Piece,
    ) -> Result<(), FileError> {
        let Some(receiver) = self.receiver else { return Ok(()) };
        let (hash, count) = (piece.hash, piece.bytes.len() as u64);
        if count > 0
            && let Err(error) = cx.try_send(receiver, ToReceiver::Chunk(piece.bytes.into()).into())
        {
            return self.hold(source, hash, error);
        }
        self.flow.sent += count;
        match hash {
            Some(hash) => {
                cx.tell(receiver, ToReceiver::End(hash.to_vec().into()).into());
                self.state = SenderState::Sent;
            }
            None if self.flow.has_room() => self.read(cx, source),
            None => self.state = SenderState::Waiting(source),
        }
        Ok(())
    }

    /// A piece did not go: it waits, or the transfer has no end but this.
    fn hold(
        &mut self,
        source: SourceFile,
        hash: Option<[u8; 32]>,
        error: SendError<FromNode<ToReceiver>>,
    ) -> Result<(), FileError> {
        match error {
            SendError::Busy(FromNode { what: ToReceiver::Chunk(Bytes(bytes)), .. }) => {
                self.state = SenderState::Held(source, Piece { bytes, hash });
                Ok(())
            }
            // The receiver is gone, and its `Down` comes.
            SendError::NoActor(_) | SendError::NoNode(_) => Ok(()),
            SendError::TooLarge(_) => Err(FileError::PieceTooLarge),
            other => Err(FileError::Unsent(other.reason())),
        }
    }

    fn on_writable(&mut self, cx: &mut Cx<'_, SenderMessage>) -> Result<Option<Stored>, FileError> {
        match std::mem::replace(&mut self.state, SenderState::Busy) {
            SenderState::Held(source, piece) => self.send(cx, source, piece)?,
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
                self.flow.written = to.clamp(self.flow.written, self.flow.sent.max(self.flow.written));
                match std::mem::replace(&mut self.state, SenderState::Busy) {
                    SenderState::Waiting(source) if self.flow.has_room() => self.read(cx, source),
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
        if let Some(core) = node_mut(cx.loop_ref()) {
            core.send_slots().hear(watcher);
        }
        if self.watchers.len() >= WATCHERS_MAX {
            return cx.loop_ref().close_adapter(watcher);
        }
        self.watchers.push(watcher);
        cx.every(every.max(TELL_EVERY_LEAST), move || SenderMessage::Tell(watcher));
    }

    fn tell(&self, cx: &mut Cx<'_, SenderMessage>, watcher: Addr<Progress>) {
        let Flow { size, written, resumed, .. } = self.flow;
        let now = Progress { done: written, total: size, resumed };
        if let Err(reason) = cx.send(watcher, now) {
            tracing::debug!(%reason, "nobody is told of a transfer's progress");
        }
    }

    /// Answers, tells the receiver if it still waits, and ends.
    fn end(
        &mut self,
        cx: &mut Cx<'_, SenderMessage>,
        result: Result<Stored, FileError>,
    ) -> Step<SenderMessage> {
        if let Some(receiver) = self.receiver {
            let is_useless = matches!(result, Err(FileError::Source(SourceError::Changed)));
            if let Err(reason) = cx.send(receiver, ToReceiver::Abort(is_useless).into()) {
                tracing::debug!(%reason, "a receiver is not told that its sender has gone; it sees it");
            }
        }
        // What waits in the mailbox is not taken any more.
        let me = cx.addr();
        if let Some(core) = node_mut(cx.loop_ref()) {
            self.watchers.extend(core.send_slots().take_unheard(me));
        }
        for watcher in std::mem::take(&mut self.watchers) {
            if result == Ok(Stored::New) {
                self.flow.written = self.flow.size;
                self.tell(cx, watcher);
            }
            cx.loop_ref().close_adapter(watcher);
        }
        if let Some(answer) = self.answer.take() {
            cx.reply(answer, result);
        }
        stop()
    }
}

impl FileError {
    fn of_locating(reason: LocateError) -> Self {
        match reason {
            LocateError::TimedOut => Self::NoAnswer,
            LocateError::WrongType { .. } | LocateError::TypeNameTooLong { .. } => Self::Version,
            LocateError::TooManyOpen | LocateError::Refused => Self::TooManyOpen,
            LocateError::BadName | LocateError::NoNode => Self::NoNode,
        }
    }
}

/// The name under which a file is stored, if none is given.
pub(super) fn own_name(file: &Path) -> PathBuf {
    file.file_name().map(PathBuf::from).unwrap_or_default()
}

/// Has a job run on a helper thread; where it cannot run, that is what became of it.
fn run<T: Send + 'static>(
    cx: &mut Cx<'_, SenderMessage>,
    job: impl FnOnce() -> Done<T> + Send + 'static,
    answer: impl FnOnce(Done<T>) -> SenderMessage + 'static,
) {
    let no_job = |reason: JobError| Err(SourceError::Unreadable(reason.to_string()));
    cx.blocking(job, move |done| answer(done.unwrap_or_else(no_job)));
}
