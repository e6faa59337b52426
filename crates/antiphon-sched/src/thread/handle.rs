//! The handle by which other threads reach a loop.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use std::thread::{self, ThreadId};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded, unbounded};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::actor::{Actor, Addr, Cx, Event, ExitReason, SendMode, Step, Target};
use crate::error::{AskError, JoinError, SendError, Undelivered};
use crate::event_loop::StepClock;
use crate::id::{ActorId, Key, NodeId};
use crate::remote::{LoopRef, MonitorId, Wire};
use crate::request::{DroppedReply, ReplyTo, RequestId, ThreadHandler};
use crate::scheduler::{
    ActorCursor, ActorPage, Core, DeadLetter, InboxMessage, InboxOutcome, InboxState, LoopStats,
    MailboxLimit, Scheduler,
};
use crate::thread::join_handle::{JoinHandle, value_of};
use crate::thread::wake_flag::WakeFlag;

/// Work that another thread sends to the loop, besides messages.
pub(crate) trait LoopJob: Send {
    fn run(self: Box<Self>, scheduler: &mut Scheduler);
}

/// A period in which a loop serves handles, which has an even number, or refuses them. It refuses them between two runs.
pub(crate) type Period = u32;
/// The period after the end of a loop.
const CLOSED: Period = Period::MAX;

/// The state that a loop shares with other threads.
pub(crate) struct Shared {
    node_id: NodeId,
    wake_flag: WakeFlag,
    waker: Option<mio::Waker>,
    /// Messages and requests; `inbox_state` bounds their number.
    inbox: Sender<Box<dyn InboxMessage>>,
    inbox_state: InboxState,
    /// Spawns and joins, with the period in which they were requested. Bounded; a push into a full queue is an error.
    jobs: Sender<(Period, Box<dyn LoopJob>)>,
    /// Replies and dropped replies. Their number is bounded by that of the open requests.
    urgent: Sender<Box<dyn LoopJob>>,
    stop: AtomicBool,
    period: AtomicU32,
    /// The thread of the loop; a loop cannot leave the thread that built it.
    thread: ThreadId,
    names: Mutex<FxHashMap<Key, Box<str>>>,
    step_clock: StepClock,
}

/// The queues from other threads to a loop, as the loop uses them.
pub(crate) struct LoopQueues {
    pub(crate) inbox: Receiver<Box<dyn InboxMessage>>,
    pub(crate) jobs: Receiver<(Period, Box<dyn LoopJob>)>,
    pub(crate) urgent: Receiver<Box<dyn LoopJob>>,
}

impl Shared {
    pub(crate) fn new(node_id: NodeId, waker: Option<mio::Waker>, inbox_max: usize) -> (Self, LoopQueues) {
        let (inbox, inbox_receiver) = unbounded();
        let (jobs, jobs_receiver) = bounded(inbox_max.max(1));
        let (urgent, urgent_receiver) = unbounded();
        let queues = LoopQueues { inbox: inbox_receiver, jobs: jobs_receiver, urgent: urgent_receiver };
        let shared = Self {
            node_id,
            wake_flag: WakeFlag::new(),
            waker,
            inbox,
            inbox_state: InboxState::new(inbox_max),
            jobs,
            urgent,
            stop: AtomicBool::new(false),
            period: AtomicU32::new(0),
            thread: thread::current().id(),
            names: Mutex::new(FxHashMap::default()),
            step_clock: StepClock::default(),
        };
        (shared, queues)
    }

    /// The incarnation of the loop.
    pub(crate) fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// The bounds of the inbox.
    pub(crate) fn inbox_state(&self) -> &InboxState {
        &self.inbox_state
    }

    /// The running step, which the watchdog reads.
    #[inline]
    pub(crate) fn step_clock(&self) -> &StepClock {
        &self.step_clock
    }

    /// The name that an actor has set.
    pub(crate) fn name_of(&self, actor: Key) -> Option<String> {
        self.names.lock().get(&actor).map(ToString::to_string)
    }

    pub(crate) fn set_name(&self, actor: Key, name: &str) {
        self.names.lock().insert(actor, name.into());
    }

    pub(crate) fn forget_name(&self, actor: Key) {
        self.names.lock().remove(&actor);
    }

    /// Requests or forgets the stop of the loop. It does not wake the loop.
    pub(crate) fn set_stop_request(&self, stop: bool) {
        self.stop.store(stop, Ordering::Release);
    }

    /// Whether the loop is to stop.
    pub(crate) fn has_stop_request(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// From now on a push wakes the loop, which may sleep. Look for earlier pushes after this.
    pub(crate) fn begin_sleep(&self) {
        self.wake_flag.set();
    }

    /// The loop works: no push wakes it.
    pub(crate) fn end_sleep(&self) {
        self.wake_flag.clear();
    }

    /// Messages and requests of handles that are not delivered yet.
    pub(crate) fn inbox_len(&self) -> usize {
        self.inbox.len() + self.inbox_state.waiting()
    }

    /// Whether the loop has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.period.load(Ordering::Relaxed) == CLOSED
    }

    /// The present period; `None` if the loop does not serve handles.
    pub(crate) fn open_period(&self) -> Option<Period> {
        let period = self.period.load(Ordering::Relaxed);
        period.is_multiple_of(2).then_some(period)
    }

    /// Serves handles again. Only the loop calls this.
    #[inline]
    pub(crate) fn open(&self) {
        let period = self.period.load(Ordering::Relaxed);
        if !period.is_multiple_of(2) {
            self.period.store(period.wrapping_add(1) % (CLOSED - 1), Ordering::Relaxed);
        }
    }

    /// Refuses what handles want; the caller must empty the queues after this, as for [`Shared::close`].
    pub(crate) fn pause(&self) {
        if let Some(period) = self.open_period() {
            self.period.store(period + 1, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
    }

    /// Marks the loop as ended; the caller must empty the queues after this.
    ///
    /// A bounded channel keeps items without a receiver, and a thread that waits for a reply to one would wait
    /// for ever.
    pub(crate) fn close(&self) {
        self.period.store(CLOSED, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    pub(crate) fn push_urgent(&self, job: Box<dyn LoopJob>) {
        // A loop that has ended has dropped its receiver, and needs no replies.
        if self.urgent.send(job).is_ok() {
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

    /// Sends a message through the loop's inbox. Messages of one thread to one actor keep their order.
    ///
    /// A message that was accepted waits for room, if its target has none; messages to other targets pass it. It becomes
    /// a dead letter if its target has ended or ends before, does not receive its type, or is on another node for which it
    /// cannot be encoded.
    ///
    /// # Errors
    /// The error returns the message: the inbox is full, or messages of handles wait for room at the target (`Full`), or
    /// the loop has ended, or has returned from its run (`NoNode`).
    pub fn send<T>(&self, to: T, message: T::Message) -> Result<(), SendError<T::Message>>
    where
        T: Target + Send + 'static,
        T::Message: Send + 'static,
    {
        if self.shared.open_period().is_none() {
            return Err(SendError::NoNode(message));
        }
        if !self.shared.inbox_state.accept(to.target_id()) {
            return Err(SendError::Full(message));
        }
        match self.shared.inbox.send(Box::new(HandleMessage { to, message })) {
            Ok(()) => {
                self.shared.wake();
                Ok(())
            }
            Err(refused) => {
                let refused: Box<dyn Any> = refused.0;
                let refused = refused.downcast::<HandleMessage<T>>();
                Err(SendError::NoNode(refused.expect("a channel returns the item that it refused").message))
            }
        }
    }

    /// Sends a request, and waits for the reply. It fails on the loop's own thread, which it would block.
    ///
    /// The request keeps its place behind the messages that this thread has sent to the same actor. If it is still
    /// queued at its timeout, it is withdrawn: the actor does not receive it.
    ///
    /// # Errors
    /// As [`Cx::ask`]; `Full` when the inbox is full, messages of handles wait for room at the actor, or the
    /// request itself has waited for that until its timeout; `NoLoop` when the loop has ended or has returned
    /// from its run, or when this is its own thread.
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
        let Some(period) = self.shared.open_period().filter(|_| !self.shared.is_own_thread()) else {
            return Err(AskError::NoLoop);
        };
        if !self.shared.inbox_state.accept(to.id()) {
            return Err(AskError::Full);
        }
        let (sender, results) = bounded(1);
        let queued = Arc::new(QueuedRequest::new(RequestContent::Unopened { request, sender }));
        let sent = self.shared.inbox.send(Box::new(HandleAsk { to, timeout, queued: queued.clone() }));
        if sent.is_err() {
            return Err(AskError::NoLoop);
        }
        self.shared.wake();
        // After the push and the fence of `wake`: either this sees that the period is over, or the loop sees the push.
        if self.shared.open_period() != Some(period) {
            return results.try_recv().unwrap_or_else(|_| {
                queued.withdraw();
                Err(AskError::NoLoop)
            });
        }
        match receive_within(&results, timeout) {
            Ok(Err(AskError::TimedOut)) | Err(RecvTimeoutError::Timeout) => Err(queued.withdraw()),
            Ok(result) => result,
            Err(RecvTimeoutError::Disconnected) => Err(AskError::NoLoop),
        }
    }

    /// Waits for the exit value of an actor of this loop. It fails on the loop's own thread.
    ///
    /// Use [`Handle::spawn_joinable`] for an actor that may end before this call.
    ///
    /// # Errors
    /// The actor exited without a value, or with a value of another type; or it has not exited in time, and then
    /// its monitor is removed.
    pub fn join<V: Wire + Send>(&self, actor: impl Into<ActorId>, timeout: Duration) -> Result<V, JoinError> {
        let actor = actor.into();
        let (sender, receiver) = bounded(1);
        let state = Arc::new(Mutex::new(JoinMonitor::Requested));
        let state_in_loop = state.clone();
        let monitor = move |scheduler: &mut Scheduler| {
            let core = &mut scheduler.core;
            if matches!(*state_in_loop.lock(), JoinMonitor::Abandoned) {
                return;
            }
            // It fails only when `join` has already returned `TimedOut`.
            let report = move |reason: ExitReason| drop(sender.try_send(value_of(reason)));
            if actor.node() == core.node_id() {
                let id = core.join_by_callback(actor.key(), Box::new(report));
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
        self.shared.push_urgent(Box::new(JobClosure(move |scheduler: &mut Scheduler| {
            let before = std::mem::replace(&mut *state.lock(), JoinMonitor::Abandoned);
            if let JoinMonitor::Set(id) = before {
                scheduler.core.remove_watcher(actor.key(), id);
            }
        })));
    }

    /// Starts an actor from a closure, and waits for its address. It fails on the loop's own thread.
    ///
    /// Structs and boxed actors start by [`Handle::spawn_actor`].
    ///
    /// # Errors
    /// The queue of the loop's jobs is full, or the loop has ended, or this is its own thread.
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
        self.run(Duration::MAX, |loop_ref| loop_ref.scheduler.core.spawn(actor))
    }

    /// As [`Handle::spawn_actor`], for an actor whose mailbox has a limit of its own.
    ///
    /// # Errors
    /// As [`Handle::spawn`].
    pub fn spawn_with<M: 'static>(
        &self,
        limit: MailboxLimit,
        actor: impl Actor<M> + Send,
    ) -> Result<Addr<M>, AskError> {
        self.run(Duration::MAX, move |loop_ref| loop_ref.scheduler.core.spawn_with(limit, actor))
    }

    /// As [`Handle::spawn_actor`], and returns a [`JoinHandle`] that keeps the exit value of the actor, however early it ends.
    ///
    /// # Errors
    /// As [`Handle::spawn`].
    pub fn spawn_joinable<M: 'static, V: Wire + Send>(
        &self,
        actor: impl Actor<M> + Send,
    ) -> Result<(Addr<M>, JoinHandle<V>), AskError> {
        self.run(Duration::MAX, move |loop_ref| {
            let addr = loop_ref.scheduler.core.spawn(actor);
            (addr, JoinHandle::of(&mut loop_ref.scheduler.core, addr.id()))
        })
    }

    /// Runs a function on the loop's thread, between the steps of actors, and waits for its result; `Duration::MAX` waits
    /// without a limit. It fails on the loop's own thread. A function that does not return soon holds up all actors.
    ///
    /// # Errors
    /// As [`Handle::spawn`]; `LoopTimedOut` if the function has not run in time, and it may still run later: the loop is blocked by
    /// a long step, or does not run yet. `NoLoop` also if the function has panicked, which is logged.
    pub fn run<R: Send + 'static>(
        &self,
        timeout: Duration,
        function: impl FnOnce(&mut LoopRef<'_>) -> R + Send + 'static,
    ) -> Result<R, AskError> {
        let (sender, receiver) = bounded(1);
        let job = move |scheduler: &mut Scheduler| {
            // It fails only when this call has already returned `TimedOut`.
            drop(sender.try_send(function(&mut LoopRef { scheduler })));
        };
        self.call(job, timeout, &receiver).map_err(|failure| match failure {
            CallFailure::Full => AskError::Full,
            CallFailure::TimedOut => AskError::LoopTimedOut,
            CallFailure::NoLoop => AskError::NoLoop,
        })
    }

    /// The sizes of the loop's tables, and its counters.
    ///
    /// # Errors
    /// As [`Handle::run`].
    pub fn stats(&self, timeout: Duration) -> Result<LoopStats, AskError> {
        self.run(timeout, |loop_ref| loop_ref.stats())
    }

    /// Some of the loop's actors: at most 1,000. `from` is `None` for the first page, and [`ActorPage::next`] of the page before
    /// for each further one.
    ///
    /// ```
    /// use antiphon_sched::{Cx, Event, Loop, LoopConfig, receive, secs};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut events = Loop::new(LoopConfig::default())?;
    /// events.spawn(|cx: &mut Cx<u32>, event| {
    ///     if matches!(event, Event::Start) {
    ///         cx.set_name("worker");
    ///     }
    ///     receive()
    /// });
    /// let handle = events.handle();
    /// let watching = std::thread::spawn(move || {
    ///     let mut next = None;
    ///     loop {
    ///         let page = handle.actors(next, secs(5)).expect("the loop runs");
    ///         for actor in &page.actors {
    ///             println!("{} has {} messages", actor.name, actor.mailbox);
    ///         }
    ///         next = page.next;
    ///         if next.is_none() {
    ///             return handle.stop();
    ///         }
    ///     }
    /// });
    /// events.run()?;
    /// # watching.join().expect("no panic");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Handle::run`].
    pub fn actors(&self, from: Option<ActorCursor>, timeout: Duration) -> Result<ActorPage, AskError> {
        self.run(timeout, move |loop_ref| loop_ref.actors(from))
    }

    /// Stops the loop in order, and then `run` returns: each actor is terminated when all newer actors have ended, also
    /// one that starts meanwhile; see [`LoopConfig::stop_within`](crate::LoopConfig::stop_within).
    pub fn stop(&self) {
        self.shared.set_stop_request(true);
        self.shared.wake();
    }

    /// Wakes the loop if it sleeps.
    pub fn wake(&self) {
        self.shared.wake();
    }

    /// Runs `job` in the loop, and waits for the result that it sends.
    fn call<R>(
        &self,
        job: impl FnOnce(&mut Scheduler) + Send + 'static,
        timeout: Duration,
        results: &Receiver<R>,
    ) -> Result<R, CallFailure> {
        let Some(period) = self.shared.open_period().filter(|_| !self.shared.is_own_thread()) else {
            return Err(CallFailure::NoLoop);
        };
        self.shared.jobs.try_send((period, Box::new(JobClosure(job)))).map_err(|error| match error {
            TrySendError::Full(_) => CallFailure::Full,
            TrySendError::Disconnected(_) => CallFailure::NoLoop,
        })?;
        self.shared.wake();
        // After the push and the fence of `wake`: either this sees that the period is over, or the loop sees the push.
        if self.shared.open_period() != Some(period) {
            return results.try_recv().map_err(|_| CallFailure::NoLoop);
        }
        receive_within(results, timeout).map_err(|reason| match reason {
            RecvTimeoutError::Timeout => CallFailure::TimedOut,
            RecvTimeoutError::Disconnected => CallFailure::NoLoop,
        })
    }
}

/// Waits for a result of the loop; `Duration::MAX` waits without a limit.
fn receive_within<R>(results: &Receiver<R>, timeout: Duration) -> Result<R, RecvTimeoutError> {
    match timeout {
        Duration::MAX => results.recv().map_err(|_| RecvTimeoutError::Disconnected),
        timeout => results.recv_timeout(timeout),
    }
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

/// A message that a handle has accepted.
struct HandleMessage<T: Target> {
    to: T,
    message: T::Message,
}

impl<T> InboxMessage for HandleMessage<T>
where
    T: Target + Send + 'static,
    T::Message: Send + 'static,
{
    fn target(&self) -> ActorId {
        self.to.target_id()
    }

    fn send(self: Box<Self>, scheduler: &mut Scheduler) -> InboxOutcome {
        let Self { to, message } = *self;
        match to.put(&mut LoopRef { scheduler }, message, SendMode::Send) {
            Ok(()) => InboxOutcome::Sent,
            Err(error) => {
                let reason = error.reason();
                InboxOutcome::Refused(Box::new(Self { to, message: error.into_message() }), reason)
            }
        }
    }

    fn discard(self: Box<Self>, core: &mut Core, reason: Undelivered) {
        let what = std::any::type_name::<T::Message>();
        core.dead_letter(DeadLetter::new(self.target(), what, reason));
    }

    fn end_with_loop(self: Box<Self>, core: &mut Core) {
        self.discard(core, Undelivered::NoActor);
    }
}

/// The request of [`Handle::ask`], which the asking thread and the loop share.
struct QueuedRequest<F, T, R>(Mutex<RequestState<F, T, R>>);

enum RequestState<F, T, R> {
    Queued {
        content: RequestContent<F, T, R>,
        /// Its target has no room.
        is_waiting: bool,
    },
    /// The loop sends it, or has sent it.
    Taken,
    Withdrawn,
}

enum RequestContent<F, T, R> {
    Unopened {
        request: F,
        sender: Sender<Result<R, AskError>>,
    },
    /// The request is open, but its message was refused.
    Opened {
        request_id: RequestId,
        message: T,
    },
}

impl<F, T, R> QueuedRequest<F, T, R> {
    fn new(content: RequestContent<F, T, R>) -> Self {
        Self(Mutex::new(RequestState::Queued { content, is_waiting: false }))
    }

    /// Takes the content out, unless the request was withdrawn.
    fn take(&self) -> Option<RequestContent<F, T, R>> {
        let mut state = self.0.lock();
        match std::mem::replace(&mut *state, RequestState::Taken) {
            RequestState::Queued { content, .. } => Some(content),
            RequestState::Taken => None,
            RequestState::Withdrawn => {
                *state = RequestState::Withdrawn;
                None
            }
        }
    }

    /// Puts the content back after a refusal. Returns it if the request was withdrawn meanwhile.
    fn put_back(&self, content: RequestContent<F, T, R>) -> Result<(), RequestContent<F, T, R>> {
        let mut state = self.0.lock();
        if matches!(*state, RequestState::Withdrawn) {
            return Err(content);
        }
        *state = RequestState::Queued { content, is_waiting: false };
        Ok(())
    }

    fn note_waiting(&self) {
        if let RequestState::Queued { is_waiting, .. } = &mut *self.0.lock() {
            *is_waiting = true;
        }
    }

    /// Withdraws the request if it is still queued. Returns why it has no reply.
    fn withdraw(&self) -> AskError {
        let before = std::mem::replace(&mut *self.0.lock(), RequestState::Withdrawn);
        match before {
            RequestState::Queued { is_waiting: true, .. } => AskError::Full,
            RequestState::Queued { is_waiting: false, .. }
            | RequestState::Taken
            | RequestState::Withdrawn => AskError::TimedOut,
        }
    }
}

/// A request in the inbox, until it is sent.
struct HandleAsk<F, T, R> {
    to: Addr<T>,
    timeout: Duration,
    queued: Arc<QueuedRequest<F, T, R>>,
}

impl<F, T, R> InboxMessage for HandleAsk<F, T, R>
where
    F: FnOnce(ReplyTo<R>) -> T + Send + 'static,
    T: Send + 'static,
    R: Send + 'static,
{
    fn target(&self) -> ActorId {
        self.to.id()
    }

    fn note_waiting(&self) {
        self.queued.note_waiting();
    }

    fn is_request(&self) -> bool {
        true
    }

    fn send(self: Box<Self>, scheduler: &mut Scheduler) -> InboxOutcome {
        let core = &mut scheduler.core;
        if self.to.node() == core.node_id() {
            // The request is made only when there is room for it.
            let actor = self.to.id().key().actor();
            if !core.has_place(actor) {
                return InboxOutcome::Refused(self, Undelivered::Full);
            }
        }
        let (request_id, message) = match self.queued.take() {
            None => return InboxOutcome::Ended,
            Some(RequestContent::Opened { request_id, message }) => (request_id, message),
            Some(RequestContent::Unopened { request, sender }) => {
                let request_id = core.open_ownerless_request(ThreadHandler::boxed(sender));
                core.set_request_timeout(request_id, self.timeout);
                (request_id, request(ReplyTo::new(core.node_id(), request_id)))
            }
        };
        let Err(error) = self.to.put(&mut LoopRef { scheduler }, message, SendMode::Send) else {
            return InboxOutcome::Sent;
        };
        let reason = error.reason();
        let content = RequestContent::Opened { request_id, message: error.into_message() };
        match self.queued.put_back(content) {
            Ok(()) => InboxOutcome::Refused(self, reason),
            Err(withdrawn) => {
                scheduler.core.fail_request(request_id, AskError::TimedOut);
                drop(withdrawn);
                InboxOutcome::Ended
            }
        }
    }

    fn discard(self: Box<Self>, core: &mut Core, reason: Undelivered) {
        match self.queued.take() {
            // It fails only when `ask` has already returned.
            Some(RequestContent::Unopened { sender, .. }) => drop(sender.try_send(Err(reason.into()))),
            Some(RequestContent::Opened { request_id, .. }) => core.fail_request(request_id, reason.into()),
            None => {}
        }
    }

    fn end_with_loop(self: Box<Self>, _: &mut Core) {
        // The drop of the sender of the result wakes the asking thread.
        drop(self);
    }
}

impl<F, T, R> Drop for HandleAsk<F, T, R> {
    fn drop(&mut self) {
        // Otherwise the asking thread would keep the sender of its own result, and wait for it.
        drop(self.queued.take());
    }
}

pub(crate) struct JobClosure<F>(pub(super) F);

impl<F: FnOnce(&mut Scheduler) + Send> LoopJob for JobClosure<F> {
    fn run(self: Box<Self>, scheduler: &mut Scheduler) {
        (self.0)(scheduler);
    }
}

/// A `ReplyTo` that was dropped on another thread.
impl LoopJob for DroppedReply {
    fn run(self: Box<Self>, scheduler: &mut Scheduler) {
        scheduler.core.reply_dropped(*self);
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Handle({})", self.shared.node_id)
    }
}
