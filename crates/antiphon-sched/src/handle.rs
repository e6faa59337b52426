//! The handle by which other threads reach a loop.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread::{self, ThreadId};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, TrySendError, bounded};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::actor::Actor;
use crate::actor_event::{Event, ExitReason};
use crate::addr::{Addr, SendMode, Target};
use crate::core::Core;
use crate::cx::Cx;
use crate::dead_letter::DeadLetter;
use crate::dropped_replies::DroppedReply;
use crate::error::{AskError, JoinError, SendError};
use crate::id::{ActorId, Key, NodeId};
use crate::join_handle::value_of;
use crate::loop_ref::LoopRef;
use crate::requests::{ReplyTo, ThreadHandler};
use crate::step::Step;
use crate::transport::{MonitorId, Signal};
use crate::wake_flag::WakeFlag;
use crate::watchdog::StepClock;
use crate::wire::Wire;

/// Work that another thread sends to the loop.
pub(crate) trait InboxItem: Send + Any {
    fn open(self: Box<Self>, core: &mut Core);
}

/// The state that a loop shares with other threads.
pub(crate) struct Shared {
    pub(crate) node_id: NodeId,
    pub(crate) wake_flag: WakeFlag,
    pub(crate) waker: Option<mio::Waker>,
    /// Bounded; a push into a full inbox is an error.
    pub(crate) inbox: Sender<Box<dyn InboxItem>>,
    /// Replies and dropped replies. Their number is bounded by that of the open requests.
    pub(crate) urgent: Sender<Box<dyn InboxItem>>,
    pub(crate) stop: AtomicBool,
    closed: AtomicBool,
    /// The thread of the loop; a loop cannot leave the thread that built it.
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

    /// Marks the loop as ended; the caller must empty the inbox after this.
    ///
    /// A bounded channel keeps items without a receiver, and a thread that waits for a reply to one would wait
    /// for ever.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    pub(crate) fn push_urgent(&self, item: Box<dyn InboxItem>) {
        // A loop that has ended has dropped its receiver, and needs no replies.
        if self.urgent.send(item).is_ok() {
            self.wake();
        }
    }

    pub(crate) fn wake(&self) {
        if self.wake_flag.take()
            && let Some(waker) = &self.waker
            && let Err(reason) = waker.wake()
        {
            tracing::error!(%reason, "waking the loop failed; it continues at its next timer");
        }
    }

    fn is_own_thread(&self) -> bool {
        self.thread == thread::current().id()
    }
}

/// A loop as other threads use it: `Send`, `Sync` and cheap to clone.
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

    /// Sends a message through the loop's inbox. If the loop cannot deliver it, it becomes a dead letter.
    ///
    /// # Errors
    /// The error returns the message: the inbox is full (`Full`), or the loop has ended (`NoNode`).
    pub fn send<T>(&self, to: T, message: T::Message) -> Result<(), SendError<T::Message>>
    where
        T: Target + Send + 'static,
        T::Message: Send + 'static,
    {
        self.push(InboxMessage { to, message }).map_err(|error| match error {
            PushError::Full(item) => SendError::Full(item.message),
            PushError::Closed(item) => SendError::NoNode(item.message),
        })
    }

    /// Sends a request, and waits for the reply. It fails on the loop's own thread, which it would block.
    ///
    /// # Errors
    /// As [`Cx::ask`]; `NoLoop` when the loop has ended, or when this is its own thread.
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
        let (sender, receiver) = bounded(1);
        let ask = move |core: &mut Core| {
            let request_id = core.open_ownerless_request(Box::new(ThreadHandler { sender }));
            core.set_request_timeout(request_id, timeout);
            let reply = ReplyTo::new(core.node_id, request_id);
            let mut loop_ref = LoopRef { core };
            if let Err(error) = to.put(&mut loop_ref, request(reply), SendMode::Send) {
                loop_ref.fail_request(request_id, error.reason().into());
            }
        };
        match self.call(ask, timeout, &receiver) {
            Ok(result) => result,
            Err(CallFailure::Full) => Err(AskError::Full),
            Err(CallFailure::TimedOut) => Err(AskError::TimedOut),
            Err(CallFailure::NoLoop) => Err(AskError::NoLoop),
        }
    }

    /// Waits for the exit value of an actor of this loop. It fails on the loop's own thread.
    ///
    /// Use a [`JoinHandle`](crate::JoinHandle) for an actor that may end before this call.
    ///
    /// # Errors
    /// The actor exited without a value, or with a value of another type; or it has not exited in time, and then
    /// its monitor is removed.
    pub fn join<V: Wire + Send>(&self, actor: impl Into<ActorId>, timeout: Duration) -> Result<V, JoinError> {
        let actor = actor.into();
        let (sender, receiver) = bounded(1);
        let state = Arc::new(Mutex::new(JoinMonitor::Requested));
        let state_in_loop = state.clone();
        let monitor = move |core: &mut Core| {
            if matches!(*state_in_loop.lock(), JoinMonitor::Abandoned) {
                return;
            }
            // It fails only when `join` has already returned `TimedOut`.
            let report = move |reason: ExitReason| drop(sender.try_send(value_of(reason)));
            if actor.node() == core.node_id {
                let id = core.monitor_by_callback(actor.key(), Box::new(report));
                *state_in_loop.lock() = JoinMonitor::Set(id);
            } else {
                report(ExitReason::NoActor);
            }
        };
        match self.call(monitor, timeout, &receiver) {
            Ok(result) => result,
            Err(CallFailure::Full) => Err(JoinError::Full),
            Err(CallFailure::TimedOut) => {
                self.demonitor(actor, state);
                Err(JoinError::TimedOut)
            }
            Err(CallFailure::NoLoop) => Err(JoinError::NoLoop),
        }
    }

    /// Removes the monitor of a `join` that has timed out, or prevents that it is set.
    fn demonitor(&self, actor: ActorId, state: Arc<Mutex<JoinMonitor>>) {
        self.shared.push_urgent(Box::new(InboxJob(move |core: &mut Core| {
            let before = std::mem::replace(&mut *state.lock(), JoinMonitor::Abandoned);
            if let JoinMonitor::Set(id) = before {
                core.remove_watcher(actor.key(), id);
            }
        })));
    }

    /// Starts an actor from a closure, and waits for its address. It fails on the loop's own thread.
    ///
    /// Structs and boxed actors start by [`Handle::spawn_actor`].
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

    /// As [`Handle::spawn`], for any value that implements [`Actor`].
    ///
    /// # Errors
    /// As [`Handle::spawn`].
    pub fn spawn_actor<M: 'static>(&self, actor: impl Actor<M> + Send) -> Result<Addr<M>, AskError> {
        let (sender, receiver) = bounded(1);
        let spawn = move |core: &mut Core| {
            let sent = sender.try_send(core.spawn(actor));
            debug_assert!(sent.is_ok(), "`spawn_actor` waits for the address without a limit");
        };
        match self.call(spawn, Duration::MAX, &receiver) {
            Ok(addr) => Ok(addr),
            Err(CallFailure::Full) => Err(AskError::Full),
            Err(CallFailure::TimedOut | CallFailure::NoLoop) => Err(AskError::NoLoop),
        }
    }

    /// Stops the loop gracefully: every actor is terminated, also one that starts meanwhile, and `run` returns.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake();
    }

    /// Wakes the loop if it sleeps.
    pub fn wake(&self) {
        self.shared.wake();
    }

    /// Runs `job` in the loop, and waits for the result that it sends.
    fn call<R>(
        &self,
        job: impl FnOnce(&mut Core) + Send + 'static,
        timeout: Duration,
        results: &crossbeam_channel::Receiver<R>,
    ) -> Result<R, CallFailure> {
        if self.shared.is_own_thread() {
            return Err(CallFailure::NoLoop);
        }
        self.push(InboxJob(job)).map_err(|error| match error {
            PushError::Full(_) => CallFailure::Full,
            PushError::Closed(_) => CallFailure::NoLoop,
        })?;
        // After the push and the fence of `wake`: either this sees that the loop is closed, or the loop sees the push.
        if self.shared.is_closed() {
            return Err(CallFailure::NoLoop);
        }
        let received = match timeout {
            Duration::MAX => results.recv().map_err(|_| RecvTimeoutError::Disconnected),
            timeout => results.recv_timeout(timeout),
        };
        received.map_err(|reason| match reason {
            RecvTimeoutError::Timeout => CallFailure::TimedOut,
            RecvTimeoutError::Disconnected => CallFailure::NoLoop,
        })
    }

    fn push<T: InboxItem>(&self, item: T) -> Result<(), PushError<T>> {
        if self.shared.is_closed() {
            return Err(PushError::Closed(item));
        }
        match self.shared.inbox.try_send(Box::new(item)) {
            Ok(()) => {
                self.shared.wake();
                Ok(())
            }
            Err(TrySendError::Full(item)) => Err(PushError::Full(unbox(item))),
            Err(TrySendError::Disconnected(item)) => Err(PushError::Closed(unbox(item))),
        }
    }
}

/// Why the inbox did not accept an item; it comes back.
enum PushError<T> {
    Full(T),
    Closed(T),
}

enum CallFailure {
    Full,
    TimedOut,
    NoLoop,
}

/// The monitor of a `join`. Only the loop's thread changes it; the lock satisfies the compiler.
enum JoinMonitor {
    Requested,
    Set(MonitorId),
    /// The joining thread no longer waits. The loop may learn this before the request arrives.
    Abandoned,
}

fn unbox<T: InboxItem>(item: Box<dyn InboxItem>) -> T {
    let item: Box<dyn Any> = item;
    *item.downcast::<T>().expect("a channel returns the item that it refused")
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
            let what = std::any::type_name::<T::Message>();
            loop_ref.dead_letter(DeadLetter::new(to.target_id(), what, error.reason()));
        }
    }
}

pub(crate) struct InboxJob<F>(pub(crate) F);

impl<F: FnOnce(&mut Core) + Send + 'static> InboxItem for InboxJob<F> {
    fn open(self: Box<Self>, core: &mut Core) {
        (self.0)(core);
    }
}

/// A `ReplyTo` that was dropped on another thread.
impl InboxItem for DroppedReply {
    fn open(self: Box<Self>, core: &mut Core) {
        core.reply_dropped(*self);
    }
}

impl Core {
    /// Handles a `ReplyTo` that was dropped in this loop without a reply.
    pub(crate) fn reply_dropped(&mut self, (node, request_id): DroppedReply) {
        if node == self.node_id {
            self.fail_request(request_id, AskError::Dropped);
        } else {
            self.signal(Signal::ReplyDropped { node, request_id, is_busy: false });
        }
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Handle({})", self.shared.node_id)
    }
}
