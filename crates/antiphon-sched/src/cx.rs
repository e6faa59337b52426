//! What an actor can do during a step.

use std::any::type_name;
use std::io;
use std::marker::PhantomData;
use std::time::Duration;

use crate::actor::{Actor, FoldActor};
use crate::actor_extras::SignalPolicy;
use crate::actor_table::Flag;
use crate::adapter::Adapter;
use crate::addr::{Addr, SendMode, Target};
use crate::cell::Cell;
use crate::core::Core;
use crate::error::{AskError, JobError, SendError, Undelivered};
use crate::event::{Event, SwapOffer, SystemEvent};
use crate::handle::Handle;
use crate::id::{ActorId, Key};
use crate::loop_ref::LoopRef;
use crate::mailbox::{Mailbox, OPEN_MAX, Pending};
use crate::readiness::{Source, SourceOwner};
use crate::requests::{AskHandler, ReplyTo, RequestHandler, RequestId};
use crate::step::{Fold, Step};
use crate::time::Time;
use crate::timers::{DueTimer, TimerKey};
use crate::transport::{MonitorId, Signal};
use crate::value::Value;
use crate::wire::Wire;

/// An actor's own view of its loop, for one step. `M` is the type of its messages.
pub struct Cx<'a, M> {
    loop_ref: LoopRef<'a>,
    me: Key,
    messages: PhantomData<fn(M)>,
}

/// A running timer.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Timer {
    /// The place in its actor's mailbox.
    token: u32,
    name: TimerKey,
}

/// A monitor that was set; there will be one [`Down`](crate::Down) for it, unless it is taken back.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Monitor(MonitorId);

impl<'a, M: 'static> Cx<'a, M> {
    #[inline]
    pub(crate) fn new(core: &'a mut Core, me: Key) -> Self {
        Self { loop_ref: LoopRef { core }, me, messages: PhantomData }
    }

    fn core(&mut self) -> &mut Core {
        self.loop_ref.core
    }

    /// The loop, as whoever embeds it sees it: for crates that add verbs to `Cx`.
    pub fn loop_ref(&mut self) -> &mut LoopRef<'a> {
        &mut self.loop_ref
    }

    /// This actor's address.
    pub fn addr(&self) -> Addr<M> {
        Addr::local(self.id())
    }

    /// This actor, without the type of its messages.
    pub fn id(&self) -> ActorId {
        self.loop_ref.core.id(self.me)
    }

    /// This actor as a receiver of another type: what is sent there arrives as `turn` makes it.
    ///
    /// Each call makes a new address, which lives as long as this actor: make one in `Event::Start` and keep
    /// it, not one a message. Bind it first, since it borrows the `Cx` that the next call wants:
    ///
    /// ```
    /// # use antiphon_sched::{Addr, Cx, Event, Loop, LoopConfig, receive};
    /// enum Client { Heard(u32) }
    /// # let mut events = Loop::new(LoopConfig::default())?;
    /// # let station = events.spawn(|_: &mut Cx<Addr<u32>>, _| receive());
    /// events.spawn(move |cx, event| {
    ///     if let Event::Start = event {
    ///         let adapter = cx.adapter(Client::Heard);
    ///         cx.send(station, adapter)?;
    ///     }
    ///     receive()
    /// });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn adapter<T: 'static>(&mut self, turn: impl FnMut(T) -> M + 'static) -> Addr<T> {
        let me = self.me;
        let core = self.core();
        let adapter = Mailbox::holding(Adapter::new(me, turn));
        let never_run =
            |_: &mut Cx<'_, Adapter<T>>, _: Event<Adapter<T>>| -> Step<Adapter<T>> { crate::step::suspend() };
        let key = core.actors.insert(Cell::new(adapter, never_run));
        core.actors.set(key.index(), Flag::ADAPTER, true);
        match core.extras(me) {
            Some(extras) => {
                extras.adapters.push(key);
                if let Some(adapter) = core.extras(key) {
                    adapter.owner = Some(me);
                }
            }
            // It has ended itself in this very step.
            None => core.end_actor(key, crate::event::ExitReason::Terminated),
        }
        Addr::local(core.id(key))
    }

    /// The time of this turn; it stands still while the actor runs.
    pub fn now(&self) -> Time {
        self.loop_ref.core.now
    }

    /// A random number, from the loop's seed.
    pub fn random(&mut self) -> u64 {
        self.loop_ref.random()
    }

    /// A daemon does not keep the loop running.
    pub fn set_daemon(&mut self, daemon: bool) {
        let me = self.me;
        let core = self.core();
        if core.actors.is_alive(me) && core.actors.has(me.index(), Flag::DAEMON) != daemon {
            core.actors.set(me.index(), Flag::DAEMON, daemon);
            core.live_actors = if daemon { core.live_actors - 1 } else { core.live_actors + 1 };
        }
    }

    /// Says what actors of other nodes may do to this one, once they know its address, besides sending to it and
    /// monitoring it. By default whatever actors of its own node may.
    pub fn set_signal_policy(&mut self, signal_policy: SignalPolicy) {
        let me = self.me;
        self.core().set_signal_policy(me, signal_policy);
    }

    /// A name for logs and the watchdog; nobody is found by it.
    pub fn set_name(&mut self, name: &str) {
        let me = self.me;
        self.core().set_name(me, name);
    }

    /// Starts an actor from a closure. What is no closure starts by [`Cx::spawn_actor`]: a struct with
    /// `impl Actor<T>`, a boxed actor. A closure that was kept in a variable first wants [`actor`](crate::actor())
    /// around it.
    pub fn spawn<T: 'static, F>(&mut self, actor: F) -> Addr<T>
    where
        F: FnMut(&mut Cx<'_, T>, Event<T>) -> Step<T> + 'static,
    {
        self.core().spawn(actor)
    }

    /// Starts an actor from anything that is one.
    pub fn spawn_actor<T: 'static>(&mut self, actor: impl Actor<T>) -> Addr<T> {
        self.core().spawn(actor)
    }

    /// Starts an actor from a state, and a fold that takes the state and gives the next.
    pub fn spawn_fsm<T: 'static, S: 'static, F>(&mut self, state: S, fold: F) -> Addr<T>
    where
        F: FnMut(&mut Cx<'_, T>, S, Event<T>) -> Fold<S, T> + 'static,
    {
        self.core().spawn(FoldActor::new(state, fold))
    }

    /// Sends a message. To another node it goes up to the hard cap of the way there; then `Ok` means that it is
    /// queued, `NetCx::deliver` tells whether it arrived, and what reached nobody is a dead letter over there.
    ///
    /// # Errors
    /// The message comes back, with the reason.
    #[inline]
    pub fn send<T: Target>(&mut self, to: T, message: T::Message) -> Result<(), SendError<T::Message>> {
        to.put(&mut self.loop_ref, message, SendMode::Send)
    }

    /// Sends a message, but keeps to the high mark of the way to another node: after
    /// [`SendError::Busy`], [`Event::Writable`] tells when there is room again.
    ///
    /// # Errors
    /// The message comes back, with the reason.
    pub fn try_send<T: Target>(&mut self, to: T, message: T::Message) -> Result<(), SendError<T::Message>> {
        to.put(&mut self.loop_ref, message, SendMode::Try)
    }

    /// Sends a message; what cannot be taken is a dead letter, counted and observable.
    pub fn tell<T: Target>(&mut self, to: T, message: T::Message) {
        if let Err(error) = self.send(to, message) {
            self.loop_ref.dead_letter(to.target_id(), type_name::<T::Message>(), error.reason());
        }
    }

    /// Asks: sends what `request` makes of a reply, and has the answer arrive as `answer` makes it.
    ///
    /// There is exactly one answer: a value, or why there is none.
    pub fn ask<T, R: 'static>(
        &mut self,
        to: Addr<T>,
        timeout: Duration,
        request: impl FnOnce(ReplyTo<R>) -> T,
        answer: impl FnOnce(Result<R, AskError>) -> M + 'static,
    ) {
        let me = self.me;
        let core = &mut *self.loop_ref.core;
        if core.mailbox::<M>(me).is_none_or(|mailbox| mailbox.open == OPEN_MAX) {
            return core.push_reply(me, || answer(Err(AskError::TooManyOpen)));
        }
        let question = AskHandler { answer, types: PhantomData::<fn(R) -> M> };
        let Some(request_id) = core.open_request::<M>(me, Box::new(question)) else { return };
        core.set_request_timeout(request_id, timeout);
        let reply = ReplyTo::new(core.node_id, request_id);
        if let Err(error) = to.put(&mut self.loop_ref, request(reply), SendMode::Send) {
            self.loop_ref.fail_request(request_id, error.reason().into());
        }
    }

    /// Opens a request that some other part will answer, by its number, with an `R`: for crates that add
    /// verbs to `Cx`.
    ///
    /// # Errors
    /// `answer` comes back: this actor has too many open requests.
    pub fn open<R: 'static, F>(&mut self, answer: F) -> Result<RequestId, F>
    where
        F: FnOnce(R) -> M + 'static,
    {
        let me = self.me;
        let core = self.core();
        if core.mailbox::<M>(me).is_none_or(|mailbox| mailbox.open == OPEN_MAX) {
            return Err(answer);
        }
        let request = RequestHandler { answer, types: PhantomData::<fn(R) -> M> };
        Ok(core.open_request::<M>(me, Box::new(request)).expect("there is a mailbox with room"))
    }

    /// Puts a message into this actor's own mailbox, as an answer: it never meets a limit.
    pub fn push_self(&mut self, message: M) {
        let me = self.me;
        self.core().push_reply(me, || message);
    }

    /// Answers a request.
    pub fn reply<R>(&mut self, reply: ReplyTo<R>, value: R) {
        self.loop_ref.reply(reply, value);
    }

    /// Sends `message` to this actor after `span`.
    pub fn after(&mut self, span: Duration, message: M) -> Timer {
        self.add_timer(span, |key| Pending::Once(key, message))
    }

    /// Sends to this actor what `make` makes, each `period`, of one millisecond at least; a message that still
    /// waits is not doubled.
    ///
    /// It drifts: each period begins when the loop saw the one before end, which a busy loop does late. Who counts
    /// by the clock reads [`Cx::now`].
    pub fn every(&mut self, period: Duration, make: impl FnMut() -> M + 'static) -> Timer {
        let make = Some(Box::new(make) as crate::mailbox::Make<M>);
        // A period of zero would fire for ever within one round.
        let period = period.max(Duration::from_millis(1));
        self.add_timer(period, |key| Pending::Every { name: key, key, period, make, queued: false })
    }

    fn add_timer(&mut self, span: Duration, pending: impl FnOnce(TimerKey) -> Pending<M>) -> Timer {
        let me = self.me;
        let core = &mut *self.loop_ref.core;
        let until = core.now + span;
        let token = match core.mailbox::<M>(me) {
            Some(mailbox) if mailbox.open < OPEN_MAX => mailbox.next_timer(),
            Some(_) | None => {
                core.end_over_limit(me);
                let spent = core.wheel.insert(until, DueTimer::Wait(me));
                core.wheel.cancel(spent);
                return Timer { token: u32::MAX, name: spent };
            }
        };
        let key = core.wheel.insert(until, DueTimer::Message(me, token));
        if let Some(mailbox) = core.mailbox::<M>(me) {
            mailbox.open += 1;
            mailbox.add_timer(pending(key));
        }
        Timer { token, name: key }
    }

    /// Moves a timer: it fires `span` from now. To move it later costs next to nothing, which makes idle
    /// timeouts free. False when it has fired, or was cancelled.
    pub fn push_back(&mut self, timer: Timer, span: Duration) -> bool {
        let Some(key) = self.key_of(timer) else { return false };
        let core = self.core();
        let until = core.now + span;
        core.wheel.push_back(key, until)
    }

    /// Takes a timer back, with its message; false when it has fired.
    pub fn cancel(&mut self, timer: Timer) -> bool {
        let Some(key) = self.key_of(timer) else { return false };
        let me = self.me;
        let core = self.core();
        let running = core.wheel.cancel(key).is_some();
        // Dropped here, by the actor that gave it.
        let taken = core.mailbox::<M>(me).and_then(|mailbox| mailbox.cancel_timer(timer.token, running));
        taken.is_some()
    }

    /// The wheel's key of a timer of this actor's own, unless it has fired.
    fn key_of(&mut self, timer: Timer) -> Option<TimerKey> {
        let me = self.me;
        self.core().mailbox::<M>(me)?.timer_key(timer.token, timer.name)
    }

    /// Has this actor told, by one [`Event::Down`], when `actor` ends, or its node is lost; at once if it has
    /// ended already.
    pub fn monitor(&mut self, actor: impl Into<ActorId>) -> Monitor {
        let me = self.me;
        Monitor(self.core().monitor(me, actor.into()))
    }

    /// Takes a monitor back.
    pub fn demonitor(&mut self, monitor: Monitor) {
        let me = self.me;
        self.core().demonitor(me, monitor.0);
    }

    /// Has `watcher` told, by one [`Event::Down`], when this actor ends.
    pub fn notify(&mut self, watcher: impl Into<ActorId>) {
        let me = self.me;
        self.core().notify(watcher.into(), me);
    }

    /// Asks an actor to end, wherever it is: it gets [`Event::Terminate`], and ends after that step.
    pub fn terminate(&mut self, actor: impl Into<ActorId>) {
        self.loop_ref.terminate(actor);
    }

    /// Wakes an actor from `sleep` or `suspend`, wherever it is: it gets [`Event::Resumed`].
    pub fn resume(&mut self, actor: impl Into<ActorId>, value: impl Wire) {
        self.signal_value(actor.into(), Value::new(value), SystemEvent::Resumed, |from, target, value| {
            Signal::Resume { from: Some(from), target, value }
        });
    }

    /// Throws an exception into an actor, wherever it is: it gets [`Event::Thrown`], and fails unless it
    /// handles it.
    pub fn throw(&mut self, actor: impl Into<ActorId>, value: impl Wire) {
        self.signal_value(actor.into(), Value::new(value), SystemEvent::Thrown, |from, target, value| {
            Signal::Throw { from: Some(from), target, value }
        });
    }

    fn signal_value(
        &mut self,
        actor: ActorId,
        value: Value,
        here: impl FnOnce(Value) -> SystemEvent,
        there: impl FnOnce(Key, ActorId, Value) -> Signal,
    ) {
        let me = self.me;
        let core = self.core();
        if actor.node() != core.node_id {
            let value = core.export(value);
            core.signal(there(me, actor, value));
        } else if !core.push_system(actor.key(), here(value)) {
            core.dead_letters.note(actor, "resume or throw", Undelivered::NoActor);
        }
    }

    /// Offers an actor of this loop another behaviour: it gets [`Event::Swap`], and takes it or not.
    pub fn swap<T: 'static, F>(&mut self, actor: Addr<T>, next: F)
    where
        F: FnMut(&mut Cx<'_, T>, Event<T>) -> Step<T> + 'static,
    {
        let core = self.core();
        let fits = actor.node() == core.node_id && core.mailbox::<T>(actor.id().key()).is_some();
        if fits {
            let offer = SwapOffer::<T>(Box::new(next));
            core.push_system(actor.id().key(), SystemEvent::Swap(Box::new(offer)));
        } else {
            core.dead_letters.note(actor.id(), "swap", Undelivered::NoActor);
        }
    }

    /// Runs a job that may block on a helper thread; its result arrives as `answer` makes it.
    pub fn blocking<R: Send + 'static>(
        &mut self,
        job: impl FnOnce() -> R + Send + 'static,
        answer: impl FnOnce(Result<R, JobError>) -> M + 'static,
    ) {
        match self.open(answer) {
            Ok(request_id) => self.core().run_job(request_id, job),
            Err(answer) => self.push_self(answer(Err(JobError::TooManyOpen))),
        }
    }

    /// A handle of this loop, for other threads.
    pub fn handle(&self) -> Handle {
        Handle::of(&self.loop_ref.core.shared)
    }

    /// Has this actor told by [`Event::Ready`] when `source` is ready. The actor owns the source; when it
    /// drops the source without deregistering it, the registration ends with the actor.
    ///
    /// # Errors
    /// The system refuses the source, or this is a virtual loop.
    pub fn register_source(
        &mut self,
        source: &mut (impl mio::event::Source + ?Sized),
        interest: mio::Interest,
    ) -> io::Result<Source> {
        let me = self.me;
        let core = self.core();
        let id = core.readiness.register(SourceOwner::Actor(me), source, interest)?;
        match core.extras(me) {
            Some(extras) => extras.sources.push(crate::readiness::Readiness::index_of(id)),
            // It has ended itself in this very step.
            None => core.readiness.forget(crate::readiness::Readiness::index_of(id)),
        }
        Ok(id)
    }

    /// Changes what this actor wants to know of a source of its own.
    ///
    /// # Errors
    /// It is not registered, or the system refuses.
    pub fn reregister_source(
        &mut self,
        id: Source,
        source: &mut (impl mio::event::Source + ?Sized),
        interest: mio::Interest,
    ) -> io::Result<()> {
        self.own_source(id)?;
        self.core().readiness.reregister(id, source, interest)
    }

    /// Ends the registration of a source of this actor's.
    ///
    /// # Errors
    /// It is not registered, or the system refuses.
    pub fn deregister_source(
        &mut self,
        id: Source,
        source: &mut (impl mio::event::Source + ?Sized),
    ) -> io::Result<()> {
        self.own_source(id)?;
        let me = self.me;
        let core = self.core();
        core.readiness.deregister(id, source)?;
        if let Some(extras) = core.extras(me) {
            extras.sources.retain(|index| *index != crate::readiness::Readiness::index_of(id));
            core.drop_idle_extras(me);
        }
        Ok(())
    }

    fn own_source(&mut self, id: Source) -> io::Result<()> {
        if self.loop_ref.core.readiness.is_of(id, self.me) {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::NotFound, "the source is not registered by this actor"))
        }
    }

    /// This actor stopped reading or writing before `WouldBlock`, to let others run: it is told again in
    /// the next round.
    pub fn unfinished(&mut self, source: Source) {
        if self.own_source(source).is_ok() {
            self.core().readiness.unfinished(source);
        }
    }
}
