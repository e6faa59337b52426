//! A loop, as other threads see it.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread::{self, ThreadId};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, TrySendError, bounded};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::actor::Actor;
use crate::addr::{Addr, SendMode, Target};
use crate::core::Core;
use crate::cx::Cx;
use crate::dropped_replies::DroppedReply;
use crate::error::{AskError, JoinError, SendError};
use crate::event::{Event, ExitReason};
use crate::id::{ActorId, Key, NodeId};
use crate::join_handle::value_of;
use crate::loop_ref::LoopRef;
use crate::requests::{ReplyTo, ThreadHandler};
use crate::step::Step;
use crate::transport::{MonitorId, Signal};
use crate::wake_flag::WakeFlag;
use crate::watchdog::StepClock;
use crate::wire::Wire;

/// Something that another thread wants done in the loop.
pub(crate) trait InboxItem: Send + Any {
    fn open(self: Box<Self>, core: &mut Core);
}

/// What a loop shares with other threads.
pub(crate) struct Shared {
    pub(crate) node_id: NodeId,
    pub(crate) wake_flag: WakeFlag,
    pub(crate) waker: Option<mio::Waker>,
    /// Bounded; its users are told when it is full.
    pub(crate) inbox: Sender<Box<dyn InboxItem>>,
    /// Answers and notices: as many as there are open requests, so they need no bound.
    pub(crate) urgent: Sender<Box<dyn InboxItem>>,
    pub(crate) stop: AtomicBool,
    closed: AtomicBool,
    /// The loop's own; a loop cannot leave the thread that built it.
    thread: ThreadId,
    pub(crate) names: Mutex<FxHashMap<Key, Box<str>>>,
    pub(crate) step_clock: StepClock,
}

impl Shared {
    pub(crate) fn new(
        node_id: NodeId,
        waker: Option<mio::Waker>,
        inbox: Sender<Box<dyn InboxItem>>,
        urgent: Sender<Box<dyn InboxItem>>,
    ) -> Self {
        Self {
            node_id,
            wake_flag: WakeFlag::new(),
            waker,
            inbox,
            urgent,
            stop: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            thread: thread::current().id(),
            names: Mutex::new(FxHashMap::default()),
            step_clock: StepClock::default(),
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// The loop ends; it must look into its inbox after this. A bounded channel keeps what nobody receives
    /// any more, and whoever waits for an answer to it would wait for ever.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    pub(crate) fn post_urgent(&self, item: Box<dyn InboxItem>) {
        // A loop that is gone has dropped its receiver, and needs no notices.
        if self.urgent.send(item).is_ok() {
            self.wake();
        }
    }

    pub(crate) fn wake(&self) {
        if self.wake_flag.take()
            && let Some(waker) = &self.waker
            && let Err(reason) = waker.wake()
        {
            tracing::error!(%reason, "the loop could not be woken; it goes on at its next timer");
        }
    }

    fn is_own_thread(&self) -> bool {
        self.thread == thread::current().id()
    }
}

/// A loop, as other threads see it: `Send`, `Sync` and cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(crate) fn of(shared: &Arc<Shared>) -> Self {
        Self { shared: shared.clone() }
    }

    /// The incarnation of the loop.
    pub fn node_id(&self) -> NodeId {
        self.shared.node_id
    }

    /// Sends a message through the loop's inbox. What then cannot be delivered is a dead letter.
    ///
    /// # Errors
    /// The message comes back: the inbox is full (`Full`), or the loop has ended (`NoNode`).
    pub fn send<T>(&self, to: T, message: T::Message) -> Result<(), SendError<T::Message>>
    where
        T: Target + Send + 'static,
        T::Message: Send + 'static,
    {
        self.post(InboxMessage { to, message }).map_err(|refused| match refused {
            PostRefused::Full(envelope) => SendError::Full(envelope.message),
            PostRefused::Closed(envelope) => SendError::NoNode(envelope.message),
        })
    }

    /// Asks, and waits for the answer. Not for the loop's own thread, which it would block.
    ///
    /// # Errors
    /// As [`Cx::ask`]; `NoLoop` when the loop has ended, or this is its own thread.
    pub fn ask<T, R>(
        &self,
        to: Addr<T>,
        timeout: Duration,
        request: impl FnOnce(ReplyTo<R>) -> T + Send + 'static,
    ) -> Result<R, AskError>
    where
        T: Send + 'static,
        R: Send + 'static,
    {
        let (answer, answered) = bounded(1);
        let question = move |core: &mut Core| {
            let request_id = core.open_ownerless_request(Box::new(ThreadHandler { answer }));
            core.set_request_timeout(request_id, timeout);
            let reply = ReplyTo::new(core.node_id, request_id);
            let mut loop_ref = LoopRef { core };
            if let Err(error) = to.put(&mut loop_ref, request(reply), SendMode::Send) {
                loop_ref.fail_request(request_id, error.reason().into());
            }
        };
        match self.call(question, timeout, &answered) {
            Ok(result) => result,
            Err(CallFailure::Full) => Err(AskError::Full),
            Err(CallFailure::TimedOut) => Err(AskError::TimedOut),
            Err(CallFailure::NoLoop) => Err(AskError::NoLoop),
        }
    }

    /// Waits for an actor of this loop to end with a value. Not for the loop's own thread.
    ///
    /// An actor that may have ended before is better watched from its birth: see [`JoinHandle`](crate::JoinHandle).
    ///
    /// # Errors
    /// It ended otherwise, or with a value of another type; or it has not ended in time, and then nobody
    /// watches it any more.
    pub fn join<V: Wire + Send>(&self, actor: impl Into<ActorId>, timeout: Duration) -> Result<V, JoinError> {
        let actor = actor.into();
        let (answer, answered) = bounded(1);
        let post = Arc::new(Mutex::new(JoinWatch::Asked));
        let posted = post.clone();
        let watch = move |core: &mut Core| {
            if matches!(*posted.lock(), JoinWatch::GivenUp) {
                return;
            }
            // A thread that waits no longer has been told `TimedOut`.
            let tell = move |reason: ExitReason| drop(answer.try_send(value_of(reason)));
            if actor.node() == core.node_id {
                let id = core.watch_by_callback(actor.key(), Box::new(tell));
                *posted.lock() = JoinWatch::Set(id);
            } else {
                tell(ExitReason::NoActor);
            }
        };
        match self.call(watch, timeout, &answered) {
            Ok(result) => result,
            Err(CallFailure::Full) => Err(JoinError::Full),
            Err(CallFailure::TimedOut) => {
                self.unwatch(actor, post);
                Err(JoinError::TimedOut)
            }
            Err(CallFailure::NoLoop) => Err(JoinError::NoLoop),
        }
    }

    /// Takes the watcher of a join that has timed out back, or has it not be set at all.
    fn unwatch(&self, actor: ActorId, post: Arc<Mutex<JoinWatch>>) {
        self.shared.post_urgent(Box::new(InboxJob(move |core: &mut Core| {
            let before = std::mem::replace(&mut *post.lock(), JoinWatch::GivenUp);
            if let JoinWatch::Set(id) = before {
                core.unwatch_local(actor.key(), id);
            }
        })));
    }

    /// Starts an actor from a closure, and waits until the loop has its address; structs and boxed actors start
    /// by [`Handle::spawn_actor`]. Not for the loop's own thread.
    ///
    /// # Errors
    /// The loop's inbox is full, or the loop has ended, or this is its own thread.
    pub fn spawn<M, F>(&self, actor: F) -> Result<Addr<M>, AskError>
    where
        M: 'static,
        F: FnMut(&mut Cx<'_, M>, Event<M>) -> Step<M> + Send + 'static,
    {
        self.spawn_actor(actor)
    }

    /// As [`Handle::spawn`], with anything that is an actor.
    ///
    /// # Errors
    /// As [`Handle::spawn`].
    pub fn spawn_actor<M: 'static>(&self, actor: impl Actor<M> + Send) -> Result<Addr<M>, AskError> {
        let (answer, answered) = bounded(1);
        let spawn = move |core: &mut Core| {
            let told = answer.try_send(core.spawn(actor));
            debug_assert!(told.is_ok(), "whoever spawns waits for ever");
        };
        match self.call(spawn, Duration::MAX, &answered) {
            Ok(addr) => Ok(addr),
            Err(CallFailure::Full) => Err(AskError::Full),
            Err(CallFailure::TimedOut | CallFailure::NoLoop) => Err(AskError::NoLoop),
        }
    }

    /// Ends the loop gracefully: every actor is terminated, also one that starts meanwhile, and `run` returns.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake();
    }

    /// Has the loop look around, if it sleeps.
    pub fn wake(&self) {
        self.shared.wake();
    }

    /// Has `job` run in the loop, and waits for what it sends.
    fn call<R>(
        &self,
        job: impl FnOnce(&mut Core) + Send + 'static,
        timeout: Duration,
        answered: &crossbeam_channel::Receiver<R>,
    ) -> Result<R, CallFailure> {
        if self.shared.is_own_thread() {
            return Err(CallFailure::NoLoop);
        }
        self.post(InboxJob(job)).map_err(|refused| match refused {
            PostRefused::Full(_) => CallFailure::Full,
            PostRefused::Closed(_) => CallFailure::NoLoop,
        })?;
        // Behind the push, and the fence of `wake`: either this sees the end, or the end sees the push.
        if self.shared.is_closed() {
            return Err(CallFailure::NoLoop);
        }
        let received = match timeout {
            Duration::MAX => answered.recv().map_err(|_| RecvTimeoutError::Disconnected),
            timeout => answered.recv_timeout(timeout),
        };
        received.map_err(|reason| match reason {
            RecvTimeoutError::Timeout => CallFailure::TimedOut,
            RecvTimeoutError::Disconnected => CallFailure::NoLoop,
        })
    }

    fn post<T: InboxItem>(&self, item: T) -> Result<(), PostRefused<T>> {
        if self.shared.is_closed() {
            return Err(PostRefused::Closed(item));
        }
        match self.shared.inbox.try_send(Box::new(item)) {
            Ok(()) => {
                self.shared.wake();
                Ok(())
            }
            Err(TrySendError::Full(item)) => Err(PostRefused::Full(unbox(item))),
            Err(TrySendError::Disconnected(item)) => Err(PostRefused::Closed(unbox(item))),
        }
    }
}

enum PostRefused<T> {
    Full(T),
    Closed(T),
}

enum CallFailure {
    Full,
    TimedOut,
    NoLoop,
}

/// The watcher of a join, as the loop knows it. It changes in the loop only; the lock is for the compiler.
enum JoinWatch {
    Asked,
    Set(MonitorId),
    /// Who joined waits no longer. The word of it may arrive before the question.
    GivenUp,
}

fn unbox<T: InboxItem>(item: Box<dyn InboxItem>) -> T {
    let item: Box<dyn Any> = item;
    *item.downcast::<T>().expect("a channel gives back the very mail that it refused")
}

struct InboxMessage<T: Target> {
    to: T,
    message: T::Message,
}

impl<T> InboxItem for InboxMessage<T>
where
    T: Target + Send + 'static,
    T::Message: Send + 'static,
{
    fn open(self: Box<Self>, core: &mut Core) {
        let Self { to, message } = *self;
        let mut loop_ref = LoopRef { core };
        if let Err(error) = loop_ref.send(to, message) {
            loop_ref.dead_letter(to.target_id(), std::any::type_name::<T::Message>(), error.reason());
        }
    }
}

pub(crate) struct InboxJob<F>(pub(crate) F);

impl<F: FnOnce(&mut Core) + Send + 'static> InboxItem for InboxJob<F> {
    fn open(self: Box<Self>, core: &mut Core) {
        (self.0)(core);
    }
}

/// A reply that was dropped on another thread.
impl InboxItem for DroppedReply {
    fn open(self: Box<Self>, core: &mut Core) {
        core.reply_dropped(*self);
    }
}

impl Core {
    /// A reply was dropped in this loop, without an answer.
    pub(crate) fn reply_dropped(&mut self, (node, request_id): DroppedReply) {
        if node == self.node_id {
            self.fail_request(request_id, AskError::Dropped);
        } else {
            self.signal(Signal::ReplyDropped { node, request_id });
        }
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Handle({})", self.shared.node_id)
    }
}
