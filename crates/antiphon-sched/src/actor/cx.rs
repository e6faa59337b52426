//! What an actor can do during a step.

use std::any::type_name;
use std::io;
use std::marker::PhantomData;
use std::time::Duration;

use crate::actor::addr::{Addr, SendMode, Target};
use crate::actor::event::{Event, SwapOffer};
use crate::actor::step::{Fold, Step};
use crate::actor::value::Value;
use crate::actor::{Actor, FoldActor};
use crate::error::{AskError, JobError, SendError, TooManyAdapters, TooManyOpen, Undelivered};
use crate::event_loop::{Readiness, Source, SourceOwner};
use crate::id::{ActorId, Key};
use crate::remote::{EncodedValue, LoopRef, MonitorId, Signal, SignalKind, Wire, export};
use crate::request::{AskHandler, ReplyTo, RequestHandler, RequestId};
use crate::scheduler::{
    ActorCursor, ActorPage, Core, DeadLetter, LoopStats, MailboxLimit, PendingTimer, Permit, Scheduler,
    SignalPolicy, SystemEvent, TimerKey, log_panic,
};
use crate::thread;
use crate::thread::{Handle, JobPool};
use antiphon_types::Time;

/// An actor's access to its loop during one step. `M` is the type of the actor's messages.
pub struct Cx<'a, M> {
    loop_ref: LoopRef<'a>,
    me: Key,
    messages: PhantomData<fn(M)>,
}

/// A running timer.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Timer {
    /// Its slot in the mailbox of its actor.
    slot: u32,
    /// Its first key. That of a repeated timer changes with each tick.
    key: TimerKey,
}

/// A monitor that was set. Its actor receives one [`Down`](crate::Down) for it, unless it calls [`Cx::demonitor`].
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Monitor(MonitorId);

impl<'a, M: 'static> Cx<'a, M> {
    #[inline]
    pub(crate) fn new(scheduler: &'a mut Scheduler, me: Key) -> Self {
        Self { loop_ref: LoopRef { scheduler }, me, messages: PhantomData }
    }

    fn core(&mut self) -> &mut Core {
        &mut self.loop_ref.scheduler.core
    }

    /// The loop as the code that embeds it uses it: for crates that add methods to `Cx`.
    pub fn loop_ref(&mut self) -> &mut LoopRef<'a> {
        &mut self.loop_ref
    }

    /// This actor's address.
    pub fn addr(&self) -> Addr<M> {
        Addr::local(self.id())
    }

    /// The id of this actor: its address without the type of its messages.
    pub fn id(&self) -> ActorId {
        self.loop_ref.scheduler.core.id(self.me)
    }

    /// Makes an adapter: a second address of this actor, for messages of type `T`. `convert` turns each of them into
    /// a message of this actor.
    ///
    /// Each call makes a new address, which stays valid until this actor exits, or until
    /// [`LoopRef::close_adapter`]. Make one in `Event::Start` and keep it; do not make one per message. Bind it to a variable
    /// first, since it borrows the `Cx` that the next call needs:
    ///
    /// ```
    /// # use antiphon_sched::{Addr, Cx, Event, Loop, LoopConfig, receive};
    /// enum Client { Report(u32) }
    /// # let mut events = Loop::new(LoopConfig::default())?;
    /// # let station = events.spawn(|_: &mut Cx<Addr<u32>>, _| receive());
    /// events.spawn(move |cx, event| {
    ///     if let Event::Start = event {
    ///         let adapter = cx.adapter(Client::Report)?;
    ///         cx.send(station, adapter)?;
    ///     }
    ///     receive()
    /// });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// This actor has 262,143 adapters. Closed ones do not count, except those whose address was sent to another node.
    pub fn adapter<T: 'static>(
        &mut self,
        convert: impl FnMut(T) -> M + 'static,
    ) -> Result<Addr<T>, TooManyAdapters> {
        let me = self.me;
        let core = self.core();
        let key = core.open_adapter(me, convert)?;
        Ok(Addr::local(core.id(key)))
    }

    /// The time of the loop. It does not change during a step.
    pub fn now(&self) -> Time {
        self.loop_ref.scheduler.core.now()
    }

    /// A random number, from the generator that the loop's seed determines.
    pub fn random(&mut self) -> u64 {
        self.loop_ref.random()
    }

    /// Makes this actor a daemon, or a live actor again. A daemon does not keep its loop running.
    pub fn set_daemon(&mut self, daemon: bool) {
        let me = self.me;
        self.core().set_daemon(me, daemon);
    }

    /// Sets which signals this actor accepts from actors of other nodes that know its address. They can always send
    /// messages to it and monitor it. The default is [`SignalPolicy::All`]: as from actors of its own node.
    pub fn set_signal_policy(&mut self, signal_policy: SignalPolicy) {
        let me = self.me;
        self.core().set_signal_policy(me, signal_policy);
    }

    /// Sets the name of this actor in logs and in reports of the watchdog. It cannot be located by this name.
    pub fn set_name(&mut self, name: &str) {
        let me = self.me;
        self.core().set_name(me, name);
    }

    /// Starts an actor from a closure. For a struct with `impl Actor<T>` or a boxed actor use [`Cx::spawn_actor`].
    /// A closure that is kept in a variable first needs [`actor`](crate::actor()) around it.
    pub fn spawn<T: 'static, F>(&mut self, actor: F) -> Addr<T>
    where
        F: FnMut(&mut Cx<'_, T>, Event<T>) -> Step<T> + 'static,
    {
        self.core().spawn(actor)
    }

    /// Starts an actor from a value that implements [`Actor`].
    pub fn spawn_actor<T: 'static>(&mut self, actor: impl Actor<T>) -> Addr<T> {
        self.core().spawn(actor)
    }

    /// Starts an actor whose mailbox has a limit of its own.
    pub fn spawn_with<T: 'static>(&mut self, limit: MailboxLimit, actor: impl Actor<T>) -> Addr<T> {
        self.core().spawn_with(limit, actor)
    }

    /// Starts an actor that serves others: a daemon that ends after all other actors when the loop stops.
    pub fn spawn_service<T: 'static>(&mut self, actor: impl Actor<T>) -> Addr<T> {
        self.core().spawn_service(actor)
    }

    /// Starts an actor from a state, and a function that takes the state and returns the next one.
    pub fn spawn_fsm<T: 'static, S: 'static, F>(&mut self, state: S, fold: F) -> Addr<T>
    where
        F: FnMut(&mut Cx<'_, T>, S, Event<T>) -> Fold<S, T> + 'static,
    {
        self.core().spawn(FoldActor::new(state, fold))
    }

    /// Sends a message.
    ///
    /// A message to another node is queued, up to the limit of the queue to its actor; `Ok` means that it is queued. A
    /// message that is not processed becomes a dead letter on the node that decides it. `NetCx::deliver` reports whether
    /// a message arrived.
    ///
    /// # Errors
    /// The message comes back with the reason. After [`SendError::Full`] and [`SendError::Busy`], this actor receives
    /// one [`Event::Writable`] when there is room for the message, or when the target has ended. It counts as an open
    /// request until then; at the limit of open requests there is none.
    #[inline]
    pub fn send<T: Target>(&mut self, to: T, message: T::Message) -> Result<(), SendError<T::Message>> {
        to.put(&mut self.loop_ref, message, SendMode::Send)
    }

    /// As [`Cx::send`], but queues a message to another node only while the queue to its actor is below its high-water
    /// mark: 1 MiB, or half of its limit if that is less.
    ///
    /// # Errors
    /// As [`Cx::send`].
    pub fn try_send<T: Target>(&mut self, to: T, message: T::Message) -> Result<(), SendError<T::Message>> {
        to.put(&mut self.loop_ref, message, SendMode::Try)
    }

    /// Sends a message. If it cannot be sent, it becomes a dead letter, which is counted and can be observed.
    pub fn tell<T: Target>(&mut self, to: T, message: T::Message) {
        if let Err(error) = to.put(&mut self.loop_ref, message, SendMode::Once) {
            let from = Some(self.id());
            let dead_letter = DeadLetter::new(to.target_id(), type_name::<T::Message>(), error.reason());
            self.loop_ref.dead_letter(dead_letter.sent_by(from));
        }
    }

    /// Sends a request. `request` makes the message from the [`ReplyTo`]; `answer` turns the reply into a message of
    /// this actor.
    ///
    /// There is exactly one such message: it holds the reply, or the reason why there is none.
    pub fn ask<T, R: 'static>(
        &mut self,
        to: Addr<T>,
        timeout: Duration,
        request: impl FnOnce(ReplyTo<R>) -> T,
        answer: impl FnOnce(Result<R, AskError>) -> M + 'static,
    ) {
        let me = self.me;
        let core = &mut self.loop_ref.scheduler.core;
        let request_id = match core.open_request(me, answer, AskHandler::<R, M, _>::boxed) {
            Ok(request_id) => request_id,
            Err(answer) => return core.push_reply(me, || answer(Err(AskError::TooManyOpen))),
        };
        core.set_request_timeout(request_id, timeout);
        let reply = ReplyTo::new(core.node_id(), request_id);
        if let Err(error) = to.put(&mut self.loop_ref, request(reply), SendMode::Ask) {
            self.core().fail_request(request_id, error.reason().into());
        }
    }

    /// As [`Cx::ask`], without a timeout and in a mode of the caller: for crates that add methods to `Cx`.
    /// [`Requests::fail`](crate::Requests::fail) ends the request without a reply.
    ///
    /// # Errors
    /// The request was not sent; `answer` is not called.
    pub fn ask_with_mode<T, R: 'static>(
        &mut self,
        to: Addr<T>,
        mode: SendMode,
        request: impl FnOnce(ReplyTo<R>) -> T,
        answer: impl FnOnce(Result<R, AskError>) -> M + 'static,
    ) -> Result<RequestId, AskError> {
        self.ask_by(request, answer, |loop_ref, request| to.put(loop_ref, request, mode))
    }

    /// As [`Cx::ask_with_mode`] for an actor of this loop. `permit` is kept with the request until the actor takes it.
    ///
    /// # Errors
    /// As [`Cx::ask_with_mode`].
    pub fn ask_with_permit<T: 'static, R: 'static>(
        &mut self,
        to: Addr<T>,
        permit: Permit,
        request: impl FnOnce(ReplyTo<R>) -> T,
        answer: impl FnOnce(Result<R, AskError>) -> M + 'static,
    ) -> Result<RequestId, AskError> {
        self.ask_by(request, answer, |loop_ref, request| {
            loop_ref.service().put_with_permit(to, request, permit)
        })
    }

    fn ask_by<T, R: 'static>(
        &mut self,
        request: impl FnOnce(ReplyTo<R>) -> T,
        answer: impl FnOnce(Result<R, AskError>) -> M + 'static,
        put: impl FnOnce(&mut LoopRef<'_>, T) -> Result<(), SendError<T>>,
    ) -> Result<RequestId, AskError> {
        let me = self.me;
        let core = &mut self.loop_ref.scheduler.core;
        let opened = core.open_request(me, answer, AskHandler::<R, M, _>::boxed);
        let request_id = opened.map_err(|_| AskError::TooManyOpen)?;
        let reply = ReplyTo::new(core.node_id(), request_id);
        match put(&mut self.loop_ref, request(reply)) {
            Ok(()) => Ok(request_id),
            Err(error) => {
                let reason = error.reason();
                self.core().abandon_request(request_id);
                log_panic(|| drop(error));
                Err(reason.into())
            }
        }
    }

    /// Opens a request that other code completes with an `R`, by its id: for crates that add methods to `Cx`.
    ///
    /// # Errors
    /// `answer` comes back if this actor has too many open requests.
    pub fn open_request<R: 'static, F>(&mut self, answer: F) -> Result<RequestId, F>
    where
        F: FnOnce(R) -> M + 'static,
    {
        let me = self.me;
        self.core().open_request(me, answer, RequestHandler::<R, M, _>::boxed)
    }

    /// Pushes a message into this actor's own mailbox. The mailbox limit does not apply, as for a reply.
    pub fn push_self(&mut self, message: M) {
        let me = self.me;
        self.core().push_own(me, message);
    }

    /// The sizes of the loop's tables, and its counters.
    pub fn stats(&self) -> LoopStats {
        self.loop_ref.stats()
    }

    /// Some of the loop's actors, from `from` on; see [`Handle::actors`](crate::Handle::actors).
    pub fn actors(&mut self, from: Option<ActorCursor>) -> ActorPage {
        self.loop_ref.actors(from)
    }

    /// Replies to a request. A reply that is not delivered is logged; [`Cx::try_reply`] returns the reason.
    pub fn reply<R>(&mut self, to: ReplyTo<R>, value: R) {
        self.loop_ref.reply(to, value);
    }

    /// As [`Cx::reply`], and returns why the reply was not delivered. The request has then failed, also at its asker.
    ///
    /// # Errors
    /// [`Undelivered::NoActor`] if the request is closed, for example by its timeout; [`Undelivered::Payload`] if the reply
    /// cannot be encoded for another node, or is too large.
    pub fn try_reply<R>(&mut self, to: ReplyTo<R>, value: R) -> Result<(), Undelivered> {
        self.loop_ref.try_reply(to, value)
    }

    /// Sends `message` to this actor after `span`.
    ///
    /// # Errors
    /// This actor has as many open requests, timers and monitors as it may; the message is dropped.
    pub fn after(&mut self, span: Duration, message: M) -> Result<Timer, TooManyOpen> {
        self.add_timer(span, |key| PendingTimer::Once(key, message))
    }

    /// Sends the message that `make` returns to this actor once per `period`, which is at least one millisecond. No
    /// second message is queued while the first one waits.
    ///
    /// The timer drifts: each period begins when the loop handles the end of the one before, which a busy loop does
    /// late. Code that needs exact times reads [`Cx::now`].
    ///
    /// # Errors
    /// This actor has as many open requests, timers and monitors as it may.
    pub fn every(
        &mut self,
        period: Duration,
        make: impl FnMut() -> M + 'static,
    ) -> Result<Timer, TooManyOpen> {
        let make = Some(Box::new(make) as crate::scheduler::Make<M>);
        // A period of zero would fire endlessly within one round.
        let period = period.max(Duration::from_millis(1));
        self.add_timer(period, |key| PendingTimer::Every { first_key: key, key, period, make, queued: false })
    }

    fn add_timer(
        &mut self,
        span: Duration,
        pending: impl FnOnce(TimerKey) -> PendingTimer<M>,
    ) -> Result<Timer, TooManyOpen> {
        let me = self.me;
        let (slot, key) = self.core().start_message_timer(me, span, pending)?;
        Ok(Timer { slot, key })
    }

    /// Moves a timer: it fires `span` from now. Moving it to a later time is cheap enough for an idle timeout that
    /// moves with each message. Returns false if it has fired or was cancelled.
    pub fn reset_timer(&mut self, timer: Timer, span: Duration) -> bool {
        let Some(key) = self.key_of(timer) else { return false };
        self.core().push_back_timer(key, span)
    }

    /// Cancels a timer and drops its message. Returns false if it has fired.
    pub fn cancel(&mut self, timer: Timer) -> bool {
        let Some(key) = self.key_of(timer) else { return false };
        let me = self.me;
        let core = self.core();
        let running = core.cancel_timer(key);
        // The message is dropped here, in the step of the actor that made it.
        let cancelled = core.mailbox::<M>(me).and_then(|mailbox| mailbox.cancel_timer(timer.slot, running));
        cancelled.is_some()
    }

    /// The key in the timer wheel of a timer of this actor; `None` if it has fired.
    fn key_of(&mut self, timer: Timer) -> Option<TimerKey> {
        let me = self.me;
        self.core().mailbox::<M>(me)?.timer_key(timer.slot, timer.key)
    }

    /// Monitors `actor`: this actor receives one [`Event::Down`] when `actor` exits or its node is lost, or at once if
    /// it has exited already, or if the monitor is refused ([`ExitReason::Refused`](crate::ExitReason::Refused)).
    pub fn monitor(&mut self, actor: impl Into<ActorId>) -> Monitor {
        let me = self.me;
        Monitor(self.core().monitor(me, actor.into()))
    }

    /// Removes a monitor.
    pub fn demonitor(&mut self, monitor: Monitor) {
        let me = self.me;
        self.core().demonitor(me, monitor.0);
    }

    /// Sends one [`Event::Down`] to `watcher` when this actor exits.
    pub fn notify(&mut self, watcher: impl Into<ActorId>) {
        let me = self.me;
        self.core().notify(watcher.into(), me);
    }

    /// Terminates an actor, on any node: it receives [`Event::Terminate`] behind what is in its mailbox, and exits after that
    /// step, or when it has finished its work. It has five seconds for all of this: see [`Cx::terminate_within`].
    pub fn terminate(&mut self, actor: impl Into<ActorId>) {
        self.loop_ref.terminate(actor);
    }

    /// As [`Cx::terminate`], with another grace time. At half of it, [`Event::Terminate`] overtakes the mailbox of the
    /// actor. At its end the actor ends in any case, and the log has a line with its name. If the actor is being
    /// terminated already, it gets no second event, and the shorter grace time holds.
    ///
    /// What is in the mailbox of an actor when it ends becomes dead letters. An actor that sleeps, is suspended, or waits
    /// for a message that is not there, receives the event at once.
    pub fn terminate_within(&mut self, actor: impl Into<ActorId>, grace: Duration) {
        self.loop_ref.terminate_within(actor, grace);
    }

    /// Ends an actor, on any node, without a further step. Its exit reason is [`ExitReason::Terminated`](crate::ExitReason).
    pub fn kill(&mut self, actor: impl Into<ActorId>) {
        self.loop_ref.kill(actor);
    }

    /// Resumes an actor, on any node, from `sleep` or `suspend`: it receives [`Event::Resumed`]. If the actor has exited, or
    /// the value cannot be encoded for another node, a dead letter is counted.
    pub fn resume(&mut self, actor: impl Into<ActorId>, value: impl Wire) {
        let (actor, value) = (actor.into(), Value::new(value));
        self.signal_value("resume", actor, value, SystemEvent::Resumed, SignalKind::Resume);
    }

    /// Throws an exception into an actor, on any node: it receives [`Event::Thrown`], and fails unless it handles the
    /// exception. If the actor has exited, or the value cannot be encoded for another node, a dead letter is counted.
    pub fn throw(&mut self, actor: impl Into<ActorId>, value: impl Wire) {
        let (actor, value) = (actor.into(), Value::new(value));
        self.signal_value("throw", actor, value, SystemEvent::Thrown, SignalKind::Throw);
    }

    fn signal_value(
        &mut self,
        what: &'static str,
        actor: ActorId,
        value: Value,
        to_event: impl FnOnce(Value) -> SystemEvent,
        to_kind: impl FnOnce(EncodedValue) -> SignalKind,
    ) {
        let me = self.me;
        let core = self.core();
        if actor.node() != core.node_id() {
            match export(core, value) {
                Ok(value) => {
                    core.signal(Signal { from: Some(core.id(me)), to: actor, kind: to_kind(value) });
                    // The transport bounds the bytes that wait.
                    self.loop_ref.scheduler.pass_signals();
                }
                Err(reason) => core.dead_signal(actor, what, reason.into()),
            }
        } else {
            let event = to_event(value);
            if !core.push_system(actor.key(), event) {
                core.dead_signal(actor, what, Undelivered::NoActor);
            }
        }
    }

    /// Offers another behaviour to an actor of this loop: it receives [`Event::Swap`], and accepts it or drops it.
    pub fn swap<T: 'static, F>(&mut self, actor: Addr<T>, next: F)
    where
        F: FnMut(&mut Cx<'_, T>, Event<T>) -> Step<T> + 'static,
    {
        let core = self.core();
        let fits = actor.node() == core.node_id() && core.mailbox::<T>(actor.id().key()).is_some();
        if fits {
            let offer = SwapOffer::<T>(Box::new(next));
            core.push_system(actor.id().key(), SystemEvent::Swap(Box::new(offer)));
        } else {
            core.dead_signal(actor.id(), "swap", Undelivered::NoActor);
        }
    }

    /// Runs a job that may block on a thread of the blocking pool. `answer` turns its result into a message of this actor.
    pub fn blocking<R: Send + 'static>(
        &mut self,
        job: impl FnOnce() -> R + Send + 'static,
        answer: impl FnOnce(Result<R, JobError>) -> M + 'static,
    ) {
        match self.open_request(answer) {
            Ok(request_id) => thread::run_job(self.core(), JobPool::Users, request_id, job),
            Err(answer) => self.push_self(answer(Err(JobError::TooManyOpen))),
        }
    }

    /// As [`Cx::blocking`], on a thread of another pool: for crates that add methods to `Cx`.
    pub fn blocking_on<R: Send + 'static>(
        &mut self,
        pool: JobPool,
        job: impl FnOnce() -> R + Send + 'static,
        answer: impl FnOnce(Result<R, JobError>) -> M + 'static,
    ) {
        match self.open_request(answer) {
            Ok(request_id) => thread::run_job(self.core(), pool, request_id, job),
            Err(answer) => self.push_self(answer(Err(JobError::TooManyOpen))),
        }
    }

    /// The handle by which other threads use this loop.
    pub fn handle(&self) -> Handle {
        Handle::of(self.loop_ref.scheduler.core.shared())
    }

    /// Registers a readiness source: this actor receives [`Event::Ready`] when `source` is ready. The actor owns the
    /// source. If it drops the source without deregistering it, the registration ends when the actor exits.
    ///
    /// # Errors
    /// The operating system refuses the source, or this is a virtual loop.
    pub fn register_source(
        &mut self,
        source: &mut (impl mio::event::Source + ?Sized),
        interest: mio::Interest,
    ) -> io::Result<Source> {
        let me = self.me;
        let core = self.core();
        let id = core.readiness_mut().register(SourceOwner::Actor(me), source, interest)?;
        if !core.add_source(me, Readiness::index_of(id)) {
            // The actor has been ended during this step.
            core.readiness_mut().forget(Readiness::index_of(id));
        }
        Ok(id)
    }

    /// Changes the interest in a source that this actor registered.
    ///
    /// # Errors
    /// This actor has not registered the source, or the operating system refuses.
    pub fn reregister_source(
        &mut self,
        id: Source,
        source: &mut (impl mio::event::Source + ?Sized),
        interest: mio::Interest,
    ) -> io::Result<()> {
        self.check_source(id)?;
        self.core().readiness_mut().reregister(id, source, interest)
    }

    /// Ends the registration of a source that this actor registered.
    ///
    /// # Errors
    /// This actor has not registered the source, or the operating system refuses.
    pub fn deregister_source(
        &mut self,
        id: Source,
        source: &mut (impl mio::event::Source + ?Sized),
    ) -> io::Result<()> {
        self.check_source(id)?;
        let me = self.me;
        let core = self.core();
        core.readiness_mut().deregister(id, source)?;
        core.remove_source(me, Readiness::index_of(id));
        Ok(())
    }

    fn check_source(&mut self, id: Source) -> io::Result<()> {
        if self.loop_ref.scheduler.core.readiness().is_of(id, self.me) {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::NotFound, "the source is not registered by this actor"))
        }
    }

    /// Reports that this actor stopped reading or writing before `WouldBlock`, to let other actors run. It receives
    /// [`Event::Ready`] again in the next round.
    pub fn unfinished(&mut self, source: Source) {
        if self.check_source(source).is_ok() {
            self.core().readiness_mut().unfinished(source);
        }
    }
}
