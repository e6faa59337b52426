//! The loop: the order of work in a round, and when its thread sleeps.
//!
//! A round drains the inbox, fires timers, handles sockets, runs batches and resumes unfinished sources.
//! A round limits its batches in number and time. Then the loop polls the sockets; it does not wait while anything
//! is runnable. So an actor that sends to itself for ever starves neither sockets nor timers.
//!
//! It owns the poll, the kind of table that holds the readiness of sources, the signals of the system and the watchdog.
//! Must not import: `testing`.

mod readiness;
#[cfg(unix)]
mod signals;
pub(crate) mod watchdog;

pub use readiness::{EXTERNAL_TOKENS, Ready, Source};
pub(crate) use readiness::{Readiness, ReadyTarget, SourceOwner};
pub(crate) use watchdog::StepClock;

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Registry, Token};
use thiserror::Error;

use crate::actor::{Actor, Addr, Cx, Event, ExitReason, Fold, FoldActor, Step, Target};
use crate::error::{SendError, SettingError};
use crate::id::{ActorId, NodeId};
use crate::remote::{LocalActors, LoopRef, Transport, Wire};
use crate::request::{DroppedReply, dropped};
use crate::scheduler::{
    ActorCursor, ActorPage, Core, DeadLetter, LoopStats, MailboxLimit, Scheduler, TimerPurpose, log_panic,
};
use crate::socket::{FdReadiness, Sockets};
use crate::thread;
use crate::thread::{Handle, JobPool, JoinHandle, LoopJob, LoopPools, LoopQueues, Shared};
use antiphon_types::{Time, millis, secs};
use readiness::{SIGNALS, WAKER};
#[cfg(unix)]
use signals::{ListenedSignal, Signals};

/// The most items taken from each queue of other threads in one round.
const INBOX_PER_ROUND: usize = 256;
/// The most batches in one round.
const BATCHES_PER_ROUND: usize = 1024;
/// The time for batches in one round.
const TIME_PER_ROUND: Duration = Duration::from_micros(200);
/// Steps between two readings of the clock.
const STEPS_PER_READING: u64 = 128;
/// The most reports of dropped replies in one round.
const DROPPED_REPLIES_PER_ROUND: usize = 1024;
/// The most timers fired in one round.
const TIMERS_PER_ROUND: usize = 4096;
/// After a pause of the whole process of at least this length, sockets are read before timers fire.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The interval at which mailboxes that a burst enlarged are trimmed.
const TRIM_INTERVAL: Duration = Duration::from_secs(1);
/// The most events of one poll.
const EVENTS_MAX: usize = 1024;

/// The platform that a loop runs on.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Platform {
    /// The operating system: real time, sockets, threads.
    System,
    /// No platform: time advances only by [`Loop::advance_to`], and the loop holds no descriptor.
    Virtual,
}

/// The settings of a loop.
#[derive(Clone, Debug)]
pub struct LoopConfig {
    /// The platform of the loop: [`Platform::System`].
    pub platform: Platform,
    /// The incarnation; `None`, the default, chooses it at random.
    pub node_id: Option<NodeId>,
    /// The seed of the loop's random numbers; `None`, the default, chooses it at random.
    pub seed: Option<u64>,
    /// The most messages in one mailbox: 65,536. At least 1.
    pub mailbox_max: usize,
    /// The most open requests of one actor: 1,000,000. Its timers and monitors count too.
    pub requests_max: usize,
    /// The most messages and requests of handles in the inbox: 65,536. Those that wait for room at their targets take up
    /// places in addition: both together are at most twice this, and the inbox takes at most half of the places that
    /// are left. So one target that takes nothing does not block the others. It is also the most jobs (`spawn`, `join`)
    /// that wait, which have a queue of their own.
    pub inbox_max: usize,
    /// The most threads for the jobs of [`Cx::blocking`]: 512. They start when they are needed, and end after 10 s without a
    /// job. Name look-ups and files have threads of their own.
    pub blocking_threads_max: usize,
    /// The most blocking jobs that wait for a thread: 1,024.
    pub blocking_queue_max: usize,
    /// A step that takes longer than this is logged: 10 ms. `None` disables the watchdog and its thread.
    pub watchdog: Option<Duration>,
    /// Whether the loop records the age, the steps and the busy time of each actor, which [`ActorInfo`](crate::ActorInfo) shows:
    /// `false`. It costs some memory for each actor, and some instructions for each batch.
    pub actor_activity: bool,
    /// The time that a stop takes at most: 10 s. An actor receives [`Event::Terminate`] when all that were spawned after it
    /// have ended; at half of this time all that remain receive it at once. Those that have not ended at the end of this time are
    /// ended, and logged.
    pub stop_within: Duration,
}

impl Default for LoopConfig {
    fn default() -> Self {
        Self {
            platform: Platform::System,
            node_id: None,
            seed: None,
            mailbox_max: 65_536,
            requests_max: 1_000_000,
            inbox_max: 65_536,
            blocking_threads_max: 512,
            blocking_queue_max: 1024,
            watchdog: Some(Duration::from_millis(10)),
            actor_activity: false,
            stop_within: Duration::from_secs(10),
        }
    }
}

impl LoopConfig {
    /// Checks that all settings are within their ranges.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(&self) -> Result<(), SettingError> {
        let (milli, hour, day) = (millis(1), secs(3600), secs(24 * 3600));
        SettingError::check("mailbox_max", self.mailbox_max, 1..=1 << 24)?;
        SettingError::check("requests_max", self.requests_max, 1..=1 << 30)?;
        SettingError::check("inbox_max", self.inbox_max, 1..=1 << 24)?;
        SettingError::check("blocking_threads_max", self.blocking_threads_max, 1..=4096)?;
        SettingError::check("blocking_queue_max", self.blocking_queue_max, 1..=1 << 20)?;
        SettingError::check("stop_within", self.stop_within, milli..=day)?;
        self.watchdog.map_or(Ok(()), |limit| SettingError::check("watchdog", limit, milli..=hour))
    }
}

/// Why a loop could not be built, or could not continue.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoopError {
    /// The system refused an event queue or a waker, or a poll failed.
    #[error("the system's event queue failed: {0}; if it reports too many open files, raise that limit")]
    Poll(#[source] io::Error),
    /// The system returned no random numbers.
    #[error("the system returned no random numbers; set `node_id` and `seed` in the configuration")]
    Random,
    /// A setting is outside of its range.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The loop could not register for SIGINT and SIGTERM.
    #[error("cannot register for SIGINT and SIGTERM: {0}")]
    Signals(#[source] io::Error),
}

/// Readiness of a source that belongs to the program that embeds the loop.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct ExternalReadiness {
    /// The token of the source, from [`EXTERNAL_TOKENS`] on.
    pub token: Token,
    /// The readiness.
    pub readiness: FdReadiness,
}

/// A scheduler on one thread. Build it, spawn actors, then call [`Loop::run`].
pub struct Loop {
    scheduler: Scheduler,
    queues: LoopQueues,
    poll: Option<Poll>,
    events: Events,
    due: Vec<TimerPurpose>,
    due_next: usize,
    dropped: Vec<DroppedReply>,
    dropped_next: usize,
    next_trim: Time,
    stop_within: Duration,
    #[cfg(unix)]
    signals: Option<Signals>,
    /// SIGHUP was received, and not taken.
    #[cfg(unix)]
    hangup: bool,
}

impl Loop {
    /// Builds a loop without actors.
    ///
    /// # Errors
    /// A setting is outside of its range; or the system refused an event queue, or returned no random numbers.
    pub fn new(config: LoopConfig) -> Result<Self, LoopError> {
        config.check()?;
        let node_id = config.node_id.map_or_else(|| random_bits().map(NodeId::from_bits), Ok)?;
        let seed = config.seed.map_or_else(random_bits, Ok)?;
        let poll = match config.platform {
            Platform::System => Some(Poll::new().map_err(LoopError::Poll)?),
            Platform::Virtual => None,
        };
        let (waker, registry) = match &poll {
            None => (None, None),
            Some(poll) => {
                let waker = mio::Waker::new(poll.registry(), WAKER).map_err(LoopError::Poll)?;
                let registry = poll.registry().try_clone().map_err(LoopError::Poll)?;
                (Some(waker), Some(registry))
            }
        };
        let (shared, queues) = Shared::new(node_id, waker, config.inbox_max);
        let shared = Arc::new(shared);
        dropped::open(node_id, &shared);
        if let (Platform::System, Some(limit)) = (config.platform, config.watchdog) {
            watchdog::start(&shared, limit, config.actor_activity);
        }
        let pools = LoopPools::new(
            config.blocking_threads_max,
            config.blocking_queue_max,
            config.platform == Platform::Virtual,
        );
        let clock = poll.is_some().then(Instant::now);
        let core = Core::new(node_id, seed, clock, &config, shared, Readiness::new(registry), pools);
        Ok(Self {
            scheduler: Scheduler::new(core),
            queues,
            events: Events::with_capacity(if poll.is_some() { EVENTS_MAX } else { 0 }),
            poll,
            due: Vec::new(),
            due_next: 0,
            dropped: Vec::new(),
            dropped_next: 0,
            next_trim: Time::ZERO,
            stop_within: config.stop_within,
            #[cfg(unix)]
            signals: None,
            #[cfg(unix)]
            hangup: false,
        })
    }

    /// Starts an actor from a closure.
    ///
    /// A struct with `impl Actor<M>` or a boxed actor starts by [`Loop::spawn_actor`]. A closure that was first
    /// stored in a variable needs [`actor`](crate::actor()) around it.
    pub fn spawn<M: 'static, F>(&mut self, actor: F) -> Addr<M>
    where
        F: FnMut(&mut Cx<'_, M>, Event<M>) -> Step<M> + 'static,
    {
        self.scheduler.core.spawn(actor)
    }

    /// Starts an actor from any value that implements [`Actor`].
    pub fn spawn_actor<M: 'static>(&mut self, actor: impl Actor<M>) -> Addr<M> {
        self.scheduler.core.spawn(actor)
    }

    /// Starts an actor from a state and a fold: a function that takes the state and returns the next one.
    pub fn spawn_fsm<M: 'static, S: 'static, F>(&mut self, state: S, fold: F) -> Addr<M>
    where
        F: FnMut(&mut Cx<'_, M>, S, Event<M>) -> Fold<S, M> + 'static,
    {
        self.scheduler.core.spawn(FoldActor::new(state, fold))
    }

    /// Sends a message from outside of all actors.
    ///
    /// # Errors
    /// The error returns the message, with the reason.
    pub fn send<T: Target>(&mut self, to: T, message: T::Message) -> Result<(), SendError<T::Message>> {
        self.loop_ref().send(to, message)
    }

    /// Starts an actor whose mailbox has a limit of its own.
    pub fn spawn_with<M: 'static>(&mut self, limit: MailboxLimit, actor: impl Actor<M>) -> Addr<M> {
        self.scheduler.core.spawn_with(limit, actor)
    }

    /// Starts an actor, and returns a handle that keeps its exit value, however early it ends; `stop` has the value `()`.
    pub fn spawn_joinable<M: 'static, V: Wire + Send>(
        &mut self,
        actor: impl Actor<M>,
    ) -> (Addr<M>, JoinHandle<V>) {
        let addr = self.scheduler.core.spawn(actor);
        (addr, self.join_handle(addr))
    }

    /// Returns a handle that waits for the exit value of an actor of this loop; `stop` has the value `()`.
    pub fn join_handle<V: Wire + Send>(&mut self, actor: impl Into<ActorId>) -> JoinHandle<V> {
        JoinHandle::of(&mut self.scheduler.core, actor.into())
    }

    /// A cell that holds the exit reason of an actor of this loop when it has ended.
    pub fn exit_of(&mut self, actor: impl Into<ActorId>) -> Rc<RefCell<Option<ExitReason>>> {
        let (actor, ended) = (actor.into(), Rc::new(RefCell::new(None)));
        let report = ended.clone();
        if actor.node() == self.scheduler.core.node_id() {
            self.scheduler.core.monitor_by_callback(
                actor.key(),
                Box::new(move |reason| *report.borrow_mut() = Some(reason)),
            );
        } else {
            *report.borrow_mut() = Some(ExitReason::NoActor);
        }
        ended
    }

    /// Returns a handle for other threads.
    pub fn handle(&self) -> Handle {
        Handle::of(self.scheduler.core.shared())
    }

    /// Access to the loop for the code that embeds or extends it.
    pub fn loop_ref(&mut self) -> LoopRef<'_> {
        LoopRef { scheduler: &mut self.scheduler }
    }

    /// The actors of the loop, as its transport reaches them.
    pub fn local_actors(&mut self) -> LocalActors<'_> {
        LocalActors::new(&mut self.scheduler.core, self.poll.as_ref().map(Poll::registry))
    }

    /// The incarnation of this loop.
    pub fn node_id(&self) -> NodeId {
        self.scheduler.core.node_id()
    }

    /// The time of the present round.
    pub fn now(&self) -> Time {
        self.scheduler.core.now()
    }

    /// The loop's sizes and counters.
    pub fn stats(&self) -> LoopStats {
        self.scheduler.core.stats()
    }

    /// Some of the loop's actors, from `from` on; see [`Handle::actors`].
    pub fn actors(&mut self, from: Option<ActorCursor>) -> ActorPage {
        self.scheduler.core.actors_from(from)
    }

    /// Calls `report` with each dead letter: at most 1,024 in a round. Further ones are only counted.
    pub fn on_dead_letter(&mut self, report: impl FnMut(&DeadLetter) + 'static) {
        self.scheduler.core.set_dead_letter_hook(Box::new(report));
    }

    /// Sets the transport for messages and signals to other nodes.
    pub fn set_transport(&mut self, transport: Box<dyn Transport>) {
        self.scheduler.set_transport(transport);
    }

    /// Calls `act` with the transport and what it may use of the loop meanwhile. Then the transport gets the signals that this has
    /// caused. `None` when there is no transport, or it is not a `T`.
    pub fn with_transport<T: Transport, R>(
        &mut self,
        act: impl FnOnce(&mut T, &mut LocalActors<'_>) -> R,
    ) -> Option<R> {
        let registry = self.poll.as_ref().map(Poll::registry);
        let (core, transport) = self.scheduler.parts()?;
        let transport = transport.as_a::<T>()?;
        let result = act(transport, &mut LocalActors::new(core, registry));
        self.scheduler.pass_signals();
        // What the transport has put into mailboxes, or did not, may have given turns to others.
        self.serve_waiters();
        Some(result)
    }

    /// The registry in which the program that embeds the loop registers its own sources, with tokens from
    /// [`EXTERNAL_TOKENS`] on; `None` for a virtual loop.
    pub fn registry(&self) -> Option<&Registry> {
        self.poll.as_ref().map(Poll::registry)
    }

    /// Whether the loop has an actor that is not a daemon.
    pub fn has_live_actors(&self) -> bool {
        self.scheduler.core.has_live_actors()
    }

    /// Whether anything can run right now.
    pub fn is_runnable(&self) -> bool {
        self.scheduler.core.is_runnable()
            || self.due_next < self.due.len()
            || !self.queues.inbox.is_empty()
            || !self.queues.jobs.is_empty()
            || !self.queues.urgent.is_empty()
            || !self.dropped.is_empty()
            || dropped::any(self.scheduler.core.node_id())
            || self.has_stop_request()
    }

    /// The time of the next work that the loop knows of: now if it is runnable, else that of its next timer.
    pub fn next_deadline(&self) -> Option<Time> {
        if self.is_runnable() {
            return Some(self.scheduler.core.now());
        }
        // In virtual time no memory is worth a round.
        let is_trim_due = self.poll.is_some() && self.scheduler.core.has_mailboxes_to_trim();
        let trim = is_trim_due.then_some(self.next_trim);
        [self.scheduler.core.next_timer_deadline(), trim].into_iter().flatten().min()
    }

    /// Advances the time of a virtual loop.
    ///
    /// # Panics
    /// When the loop is not virtual: real time advances by itself.
    pub fn advance_to(&mut self, now: Time) {
        assert!(self.poll.is_none(), "only the time of a virtual loop can be set");
        self.scheduler.core.advance_to(now);
    }

    /// Sets how long blocking jobs take in virtual time: `job_time` returns it for each job, when the job starts. A job has its
    /// effects at once, and its result arrives later. Without this call, jobs take no time.
    ///
    /// It has no effect on a loop that is not virtual.
    pub fn set_job_time(&mut self, job_time: impl FnMut(JobPool, Time) -> Duration + 'static) {
        thread::set_job_time(&mut self.scheduler.core, job_time);
    }

    /// From now on keeps the failures of actors that nobody monitors.
    pub(crate) fn keep_failures(&mut self) {
        self.scheduler.core.keep_failures();
    }

    pub(crate) fn failures(&self) -> &[String] {
        self.scheduler.core.failures()
    }

    /// Runs one round of work, without polling and without waiting.
    pub fn work(&mut self) {
        self.scheduler.core.shared().end_sleep();
        self.scheduler.core.shared().open();
        self.scheduler.core.read_clock();
        self.begin_stop();
        self.scheduler.core.begin_round();
        self.take_inbox();
        self.fire_timers();
        self.serve_sockets();
        self.serve_waiters();
        self.run_batches();
        Sockets::of(&mut self.scheduler.core).flush();
        self.resume_sources();
        self.finish_round();
        self.scheduler.core.shared().step_clock().round_ended();
    }

    fn begin_stop(&mut self) {
        if self.has_stop_request() {
            self.scheduler.core.begin_stop(self.stop_within);
        }
    }

    fn take_inbox(&mut self) {
        for _ in 0..INBOX_PER_ROUND {
            let Ok(job) = self.queues.urgent.try_recv() else { break };
            self.run_job(job);
        }
        for _ in 0..INBOX_PER_ROUND {
            let Ok((period, job)) = self.queues.jobs.try_recv() else { break };
            if self.scheduler.core.shared().open_period() == Some(period) {
                self.run_job(job);
            } else {
                // Its thread has got `NoLoop`.
                log_panic(|| drop(job));
            }
        }
        self.scheduler.send_ready_messages();
        for _ in 0..INBOX_PER_ROUND {
            let Ok(message) = self.queues.inbox.try_recv() else { break };
            self.scheduler.open_message(message);
        }
    }

    fn run_job(&mut self, job: Box<dyn LoopJob>) {
        self.scheduler.core.set_current(None);
        let scheduler = &mut self.scheduler;
        log_panic(|| job.run(scheduler));
    }

    /// Serves waiters of mailboxes that got room, or ended, outside of all batches.
    fn serve_waiters(&mut self) {
        if self.scheduler.core.has_unserved_waiters() {
            self.scheduler.core.set_current(None);
            self.scheduler.serve_waiters();
        }
    }

    fn fire_timers(&mut self) {
        if self.due_next == self.due.len() {
            self.due.clear();
            self.due_next = 0;
            self.scheduler.core.take_due_timers(&mut self.due);
        }
        for _ in 0..TIMERS_PER_ROUND {
            let Some(&due) = self.due.get(self.due_next) else { break };
            self.due_next += 1;
            self.fire(due);
        }
        self.scheduler.core.set_timers_due(self.due.len() - self.due_next);
    }

    fn fire(&mut self, due: TimerPurpose) {
        let core = &mut self.scheduler.core;
        match due {
            TimerPurpose::Wait(actor) => core.fire_wait(actor),
            TimerPurpose::Message(actor, slot) => core.fire_message(actor, slot),
            TimerPurpose::Request(request_id) => self.scheduler.time_out(request_id),
            TimerPurpose::Socket(id) => Sockets::of(core).on_timer(id),
            TimerPurpose::Termination(actor) => core.on_termination_due(actor),
            TimerPurpose::Stop => core.on_stop_due(),
            TimerPurpose::VirtualJob(number) => thread::end_virtual_job(core, number),
        }
    }

    fn serve_sockets(&mut self) {
        if self.scheduler.core.sockets().is_busy() {
            self.scheduler.core.begin_part(TIME_PER_ROUND);
            Sockets::of(&mut self.scheduler.core).serve();
            // This time does not count as time for batches.
            self.scheduler.core.read_clock();
        }
    }

    fn run_batches(&mut self) {
        self.scheduler.core.begin_part(TIME_PER_ROUND);
        let mut next_reading = self.scheduler.core.steps() + STEPS_PER_READING;
        for _ in 0..BATCHES_PER_ROUND {
            if !self.scheduler.run_one() {
                break;
            }
            if self.scheduler.core.steps() >= next_reading || self.scheduler.core.is_clock_due() {
                next_reading = self.scheduler.core.steps() + STEPS_PER_READING;
                if self.scheduler.core.read_clock_between_batches() {
                    break;
                }
            }
        }
        self.scheduler.core.end_batches();
    }

    fn resume_sources(&mut self) {
        if !self.scheduler.core.readiness().has_unfinished() {
            return;
        }
        for source in self.scheduler.core.readiness_mut().take_unfinished() {
            let both = FdReadiness { readable: true, writable: true, closed: false };
            self.scheduler.core.note_ready(Readiness::token_of(source), both);
        }
    }

    fn finish_round(&mut self) {
        self.scheduler.core.complete_ended_monitors();
        self.report_dropped_replies(DROPPED_REPLIES_PER_ROUND);
        thread::start_virtual_jobs(&mut self.scheduler.core);
        self.scheduler.pass_signals();
        self.scheduler.core.report_dead_letters();
        if self.scheduler.core.now() >= self.next_trim {
            self.next_trim = self.scheduler.core.now() + TRIM_INTERVAL;
            self.scheduler.core.trim();
        }
    }

    /// Reports dropped replies in order: those that are left of the last round first.
    fn report_dropped_replies(&mut self, most: usize) {
        if self.dropped.is_empty() {
            dropped::take(self.scheduler.core.node_id(), &mut self.dropped);
        }
        for _ in 0..most {
            let Some(&dropped) = self.dropped.get(self.dropped_next) else { break };
            self.dropped_next += 1;
            self.scheduler.core.reply_dropped(dropped);
        }
        if self.dropped_next == self.dropped.len() {
            self.dropped.clear();
            self.dropped_next = 0;
        }
    }

    /// Polls the sockets, and waits until one is ready, the loop is woken, a timer is due or `until` is reached.
    ///
    /// It does not wait while anything is runnable. Readiness of sources of the program that embeds the loop is
    /// appended to `external`.
    ///
    /// # Errors
    /// The system's event queue fails.
    pub fn park(
        &mut self,
        until: Option<Time>,
        external: &mut Vec<ExternalReadiness>,
    ) -> Result<(), LoopError> {
        if self.poll.is_none() {
            return Ok(());
        }
        let may_wait = !self.is_runnable() && {
            self.scheduler.core.shared().begin_sleep();
            // A push that did not see the flag is seen here.
            !self.is_runnable()
        };
        let timeout = if may_wait { self.poll_timeout(until) } else { Some(Duration::ZERO) };
        let before = self.scheduler.core.now();
        // The flag stays set until the next round: the embedding program may wait for the descriptor meanwhile.
        self.poll_once(timeout)?;
        self.scheduler.core.read_clock();
        self.take_events(external);
        if self.scheduler.core.now().since(before) > timeout.unwrap_or(Duration::ZERO) + PAUSE_MIN {
            // The process was paused: data that arrived meanwhile comes before the timeouts that wait for it.
            self.poll_once(Some(Duration::ZERO))?;
            self.take_events(external);
        }
        Ok(())
    }

    fn has_stop_request(&self) -> bool {
        !self.scheduler.core.is_stopping() && self.scheduler.core.shared().has_stop_request()
    }

    fn poll_timeout(&self, until: Option<Time>) -> Option<Duration> {
        let now = self.scheduler.core.time_by_clock();
        let own = self.next_deadline();
        let first = match (own, until) {
            (Some(own), Some(until)) => own.min(until),
            (own, until) => own.or(until)?,
        };
        Some(first.since(now))
    }

    fn poll_once(&mut self, timeout: Option<Duration>) -> Result<(), LoopError> {
        let Some(poll) = &mut self.poll else { return Ok(()) };
        match poll.poll(&mut self.events, timeout) {
            Err(reason) if reason.kind() == io::ErrorKind::Interrupted => {
                self.events.clear();
                Ok(())
            }
            result => result.map_err(LoopError::Poll),
        }
    }

    fn take_events(&mut self, external: &mut Vec<ExternalReadiness>) {
        for event in &self.events {
            let token = event.token();
            let closed = event.is_read_closed() || event.is_error();
            let readiness = FdReadiness {
                readable: event.is_readable() || closed,
                writable: event.is_writable() || event.is_write_closed() || event.is_error(),
                closed,
            };
            match token {
                WAKER => {}
                #[cfg(unix)]
                SIGNALS => {
                    // The pipe is emptied only here: a later signal causes another event.
                    let (shared, hangup) = (self.scheduler.core.shared(), &mut self.hangup);
                    if let Some(signals) = &mut self.signals {
                        signals.take(|kind| match kind {
                            ListenedSignal::Stop => shared.set_stop_request(true),
                            ListenedSignal::Hangup => *hangup = true,
                        });
                    }
                }
                Token(id) if id >= EXTERNAL_TOKENS => external.push(ExternalReadiness { token, readiness }),
                token => self.scheduler.core.note_ready(token, readiness),
            }
        }
        self.events.clear();
    }

    /// Runs one round: work, then a poll of the sockets that waits at most until `deadline`.
    ///
    /// # Errors
    /// The system's event queue fails.
    pub fn run_once(&mut self, deadline: Option<Time>) -> Result<(), LoopError> {
        self.work();
        let mut external = Vec::new();
        self.park(deadline, &mut external)
    }

    /// Whether a stop was requested, and has begun.
    pub fn is_stopping(&self) -> bool {
        self.scheduler.core.is_stopping()
    }

    /// Whether a requested stop is complete: all actors have ended, or `stop_within` has passed.
    pub fn has_stopped(&self) -> bool {
        self.scheduler.core.has_stopped()
    }

    /// Runs until only daemons are left, or a requested stop is complete.
    ///
    /// A virtual loop returns also when it has nothing to do before its time advances.
    ///
    /// # Errors
    /// The system's event queue fails.
    pub fn run(&mut self) -> Result<(), LoopError> {
        let mut external = Vec::new();
        loop {
            self.work();
            let is_finished =
                if self.scheduler.core.is_stopping() { self.has_stopped() } else { !self.has_live_actors() };
            if is_finished {
                break;
            }
            if self.poll.is_none() && !self.is_runnable() {
                return Ok(());
            }
            if let Err(reason) = self.park(None, &mut external) {
                self.refuse_handles();
                return Err(reason);
            }
            external.clear();
        }
        self.reset_stop();
        self.refuse_handles();
        Ok(())
    }

    /// Makes a stopped loop ready to run again. Ends all actors that are left, and sends all `Down`s that wait for their turn.
    pub fn reset_stop(&mut self) {
        if self.scheduler.core.is_stopping() {
            self.scheduler.core.end_stop();
            // Their actors have ended, so they become dead letters; messages to other nodes are sent.
            for _ in 0..self.queues.inbox.len() {
                let Ok(message) = self.queues.inbox.try_recv() else { break };
                self.scheduler.open_message(message);
            }
            self.scheduler.core.report_dead_letters();
            self.scheduler.core.shared().set_stop_request(false);
        }
        while self.scheduler.core.has_ended_monitors() {
            self.scheduler.core.complete_ended_monitors();
            self.scheduler.pass_signals();
        }
        while !self.dropped.is_empty() {
            self.report_dropped_replies(DROPPED_REPLIES_PER_ROUND);
            self.scheduler.pass_signals();
        }
        self.scheduler.pass_signals();
    }

    /// Refuses all that handles want, until the loop works again: threads that wait in [`Handle::ask`], [`Handle::join`] or
    /// [`Handle::spawn`] get `NoLoop` at once. [`Loop::run`] ends so. A [`JoinHandle`] goes on waiting: its actor may end in
    /// a later run.
    ///
    /// What was accepted before is not lost: messages are sent now, or wait for room at their targets.
    pub fn refuse_handles(&mut self) {
        self.scheduler.core.shared().pause();
        for _ in 0..self.queues.jobs.len() {
            log_panic(|| drop(self.queues.jobs.try_recv()));
        }
        for _ in 0..self.queues.inbox.len() {
            let Ok(message) = self.queues.inbox.try_recv() else { break };
            if message.is_request() {
                self.scheduler.core.discard_message(message);
            } else {
                self.scheduler.open_message(message);
            }
        }
        self.scheduler.core.fail_thread_requests();
        self.scheduler.core.discard_waiting_requests();
        self.scheduler.core.end_joins();
        self.scheduler.pass_signals();
    }

    /// From now on SIGINT and SIGTERM stop the loop, as [`Handle::stop`] does. A second signal ends the process at once.
    ///
    /// This holds until [`Loop::release_signals`], or until the loop is dropped. If several loops of a process listen, a signal
    /// stops them all.
    ///
    /// # Errors
    /// The system refused, 64 loops listen already, or the loop is virtual.
    #[cfg(unix)]
    pub fn stop_on_signals(&mut self) -> Result<(), LoopError> {
        self.listen_for(ListenedSignal::Stop)
    }

    /// From now on SIGHUP no longer ends the process: [`Loop::take_hangup`] reports it. It holds as long as
    /// [`Loop::stop_on_signals`].
    ///
    /// # Errors
    /// As [`Loop::stop_on_signals`].
    #[cfg(unix)]
    pub fn report_hangups(&mut self) -> Result<(), LoopError> {
        self.listen_for(ListenedSignal::Hangup)
    }

    /// Whether SIGHUP was received since the last call, after [`Loop::report_hangups`].
    #[cfg(unix)]
    pub fn take_hangup(&mut self) -> bool {
        std::mem::take(&mut self.hangup)
    }

    #[cfg(unix)]
    fn listen_for(&mut self, kind: ListenedSignal) -> Result<(), LoopError> {
        let Some(poll) = &self.poll else {
            return Err(LoopError::Signals(io::Error::new(
                io::ErrorKind::Unsupported,
                "the loop is virtual",
            )));
        };
        let mut signals = match self.signals.take() {
            Some(signals) => signals,
            None => Signals::new(poll.registry()).map_err(LoopError::Signals)?,
        };
        let listens = signals.listen(kind).map_err(LoopError::Signals);
        self.signals = Some(signals);
        listens
    }

    /// Ends [`Loop::stop_on_signals`] and [`Loop::report_hangups`]: when no loop listens any more, the handlers that were set before are back.
    #[cfg(unix)]
    pub fn release_signals(&mut self) {
        self.signals = None;
    }
}

#[cfg(unix)]
impl std::os::fd::AsRawFd for Loop {
    /// The descriptor that becomes readable when the loop has something to do besides its timers.
    ///
    /// # Panics
    /// When the loop is virtual.
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.poll.as_ref().expect("a virtual loop holds no descriptor").as_raw_fd()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.scheduler.core.shared().close();
        self.scheduler.core.drop_all();
        for _ in 0..self.queues.urgent.len() {
            log_panic(|| drop(self.queues.urgent.try_recv()));
        }
        for _ in 0..self.queues.jobs.len() {
            log_panic(|| drop(self.queues.jobs.try_recv()));
        }
        for _ in 0..self.queues.inbox.len() {
            if let Ok(message) = self.queues.inbox.try_recv() {
                self.scheduler.core.discard_message(message);
            }
        }
        self.scheduler.core.report_dead_letters();
        self.scheduler.core.drop_dead_letter_hook();
        dropped::close(self.scheduler.core.node_id());
        watchdog::end(self.scheduler.core.shared());
    }
}

impl std::fmt::Debug for Loop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loop")
            .field("node_id", &self.scheduler.core.node_id())
            .field("stats", &self.stats())
            .finish()
    }
}

fn random_bits() -> Result<u64, LoopError> {
    getrandom::u64().map_err(|_| LoopError::Random)
}
