//! The loop: who runs next, and when to sleep.
//!
//! A round drains the inbox, fires timers, runs turns within a budget of turns and of time, lets unfinished
//! sources go on, and then looks at the sockets, without waiting while anything is runnable. So an actor that
//! sends to itself for ever starves neither sockets nor timers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use mio::{Events, Poll, Registry, Token};
use thiserror::Error;

use crate::actor::{Actor, FoldActor};
use crate::actor_table::Flag;
use crate::addr::{Addr, Target};
use crate::blocking_pool::BlockingPool;
use crate::core::{Core, TransportSlot};
use crate::cx::Cx;
use crate::dead_letter::DeadLetter;
use crate::dropped_replies::{self, DroppedReply};
use crate::error::SendError;
use crate::event::{Event, SystemEvent};
use crate::handle::{Handle, InboxItem, Shared};
use crate::id::ActorId;
use crate::id::NodeId;
use crate::join_handle::JoinHandle;
use crate::loop_ref::LoopRef;
use crate::panic_guard;
use crate::readiness::{EXTERNAL_TOKENS, Readiness, SIGNALS, WAKER};
use crate::step::{Fold, Step};
use crate::time::Time;
use crate::timers::DueTimer;
use crate::transport::Transport;
use crate::watchdog;
use crate::wire::Wire;

/// Mail taken from the inbox in one round.
const INBOX_A_ROUND: usize = 256;
/// Turns in one round.
const BATCHES_A_ROUND: usize = 1024;
/// Time for turns in one round.
const TIME_A_ROUND: Duration = Duration::from_micros(200);
/// Steps between two looks at the clock.
const STEPS_A_LOOK: u64 = 128;
/// Timers fired in one round.
const TIMERS_A_ROUND: usize = 4096;
/// A pause of the whole process, after which sockets are read before timers fire.
const PAUSE: Duration = Duration::from_secs(1);
/// How often memory that bursts left behind is freed.
const TRIM_EVERY: Duration = Duration::from_secs(1);
const EVENTS_MAX: usize = 1024;

/// What a loop is built on.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Park {
    /// The system: real time, sockets, threads.
    Mio,
    /// Nothing: time goes on when [`Loop::advance_to`] says so, and no descriptor is held.
    Virtual,
}

/// The settings of a loop.
#[derive(Clone, Debug)]
pub struct LoopConfig {
    /// What the loop is built on: [`Park::Mio`].
    pub park: Park,
    /// The incarnation; `None`, the default, draws it at random.
    pub node_id: Option<NodeId>,
    /// The seed of all that is random in the loop; `None`, the default, draws it.
    pub seed: Option<u64>,
    /// The most messages in one mailbox: 65,536.
    pub mailbox_max: usize,
    /// The most mail from other threads that waits: 65,536.
    pub inbox_max: usize,
    /// The most threads for blocking jobs: 4.
    pub blocking_threads_max: usize,
    /// The most blocking jobs that wait for a thread: 1,024.
    pub blocking_queue_max: usize,
    /// Steps that take longer than this, 10 ms, are told of; `None` does without the watchdog and its thread.
    pub watchdog: Option<Duration>,
    /// How long actors may take to end after `stop`: 5 s.
    pub stop_within: Duration,
}

impl Default for LoopConfig {
    fn default() -> Self {
        Self {
            park: Park::Mio,
            node_id: None,
            seed: None,
            mailbox_max: 65_536,
            inbox_max: 65_536,
            blocking_threads_max: 4,
            blocking_queue_max: 1024,
            watchdog: Some(Duration::from_millis(10)),
            stop_within: Duration::from_secs(5),
        }
    }
}

/// Why a loop could not be built or could not go on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoopError {
    /// The system gave no poll or waker.
    #[error("the system gives no event queue ({0}); raise the limit of open files")]
    Poll(#[source] io::Error),
    /// The system gave no random numbers.
    #[error("the system gives no random numbers; set `node_id` and `seed` yourself")]
    Random,
    /// Signals could not be watched.
    #[error("signals cannot be watched: {0}")]
    Signals(#[source] io::Error),
}

/// How a loop is doing: sizes of its tables, and counters since its start.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct LoopStats {
    /// Actors, and their further addresses.
    pub actors: usize,
    /// Actors with something to do.
    pub runnable: usize,
    /// Open requests.
    pub requests: usize,
    /// Running timers.
    pub timers: usize,
    /// Registered sources, those of sockets among them.
    pub sources: usize,
    /// Listeners, connections, UDP sockets, child processes.
    pub sockets: usize,
    /// Actors with watchers, names or a way in from the network.
    pub extras: usize,
    /// Steps taken.
    pub steps: u64,
    /// Steps that took longer than the watchdog's patience.
    pub slow_steps: u64,
    /// Dead letters.
    pub dead_letters: u64,
}

/// Readiness of a source that is not the loop's.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct ExternalReadiness {
    /// The token it was registered with, from [`EXTERNAL_TOKENS`] on.
    pub token: Token,
    /// Reading will not block.
    pub readable: bool,
    /// Writing will not block.
    pub writable: bool,
    /// The other side has closed its half: what can be read ends there.
    pub closed: bool,
}

/// A scheduler on one thread. Build it, spawn actors, `run`.
pub struct Loop {
    core: Core,
    inbox: Receiver<Box<dyn InboxItem>>,
    urgent: Receiver<Box<dyn InboxItem>>,
    poll: Option<Poll>,
    events: Events,
    due: Vec<DueTimer>,
    due_next: usize,
    dropped: Vec<DroppedReply>,
    next_trim: Time,
    stop_within: Duration,
    stopping: Option<Time>,
    #[cfg(unix)]
    signals: Option<crate::signals::Signals>,
}

impl Loop {
    /// A loop without actors.
    ///
    /// # Errors
    /// The system refuses an event queue or random numbers.
    pub fn new(config: LoopConfig) -> Result<Self, LoopError> {
        let node_id = config.node_id.map_or_else(|| draw().map(NodeId::from_bits), Ok)?;
        let seed = config.seed.map_or_else(draw, Ok)?;
        let poll = match config.park {
            Park::Mio => Some(Poll::new().map_err(LoopError::Poll)?),
            Park::Virtual => None,
        };
        let (waker, registry) = match &poll {
            None => (None, None),
            Some(poll) => {
                let waker = mio::Waker::new(poll.registry(), WAKER).map_err(LoopError::Poll)?;
                let registry = poll.registry().try_clone().map_err(LoopError::Poll)?;
                (Some(waker), Some(registry))
            }
        };
        let (inbox_end, inbox) = crossbeam_channel::bounded(config.inbox_max.max(1));
        let (urgent_end, urgent) = crossbeam_channel::unbounded();
        let shared = Arc::new(Shared::new(node_id, waker, inbox_end, urgent_end));
        dropped_replies::open(node_id, &shared);
        if let (Park::Mio, Some(patience)) = (config.park, config.watchdog) {
            watchdog::start(&shared, patience);
        }
        let blocking_pool = BlockingPool::new(
            config.blocking_threads_max,
            config.blocking_queue_max,
            config.park == Park::Virtual,
        );
        let clock = poll.is_some().then(Instant::now);
        let core = Core::new(
            node_id,
            seed,
            clock,
            config.mailbox_max,
            shared,
            Readiness::new(registry),
            blocking_pool,
        );
        Ok(Self {
            core,
            inbox,
            urgent,
            events: Events::with_capacity(if poll.is_some() { EVENTS_MAX } else { 0 }),
            poll,
            due: Vec::new(),
            due_next: 0,
            dropped: Vec::new(),
            next_trim: Time::ZERO,
            stop_within: config.stop_within,
            stopping: None,
            #[cfg(unix)]
            signals: None,
        })
    }

    /// Starts an actor from a closure. What is no closure starts by [`Loop::spawn_actor`]: a struct with
    /// `impl Actor<M>`, a boxed actor. A closure that was kept in a variable first wants [`actor`](crate::actor())
    /// around it.
    pub fn spawn<M: 'static, F>(&mut self, actor: F) -> Addr<M>
    where
        F: FnMut(&mut Cx<'_, M>, Event<M>) -> Step<M> + 'static,
    {
        self.core.spawn(actor)
    }

    /// Starts an actor from anything that is one.
    pub fn spawn_actor<M: 'static>(&mut self, actor: impl Actor<M>) -> Addr<M> {
        self.core.spawn(actor)
    }

    /// Starts an actor from a state, and a fold that takes the state and gives the next.
    pub fn spawn_fsm<M: 'static, S: 'static, F>(&mut self, state: S, fold: F) -> Addr<M>
    where
        F: FnMut(&mut Cx<'_, M>, S, Event<M>) -> Fold<S, M> + 'static,
    {
        self.core.spawn(FoldActor::new(state, fold))
    }

    /// Sends from outside of all actors.
    ///
    /// # Errors
    /// The message comes back, with the reason.
    pub fn send<T: Target>(&mut self, to: T, message: T::Message) -> Result<(), SendError<T::Message>> {
        self.loop_ref().send(to, message)
    }

    /// The end of an actor of this loop, with the value that it will exit with; `()` for `stop`.
    pub fn join_handle<V: Wire + Send>(&mut self, actor: impl Into<ActorId>) -> JoinHandle<V> {
        JoinHandle::of(&mut self.core, actor.into())
    }

    /// A handle for other threads.
    pub fn handle(&self) -> Handle {
        Handle::of(&self.core.shared)
    }

    /// The loop, held for a moment.
    pub fn loop_ref(&mut self) -> LoopRef<'_> {
        LoopRef { core: &mut self.core }
    }

    /// The incarnation of this loop.
    pub fn node_id(&self) -> NodeId {
        self.core.node_id
    }

    /// The time of the present round.
    pub fn now(&self) -> Time {
        self.core.now
    }

    /// How the loop is doing.
    pub fn stats(&self) -> LoopStats {
        LoopStats {
            actors: self.core.actors.live(),
            runnable: self.core.actors.runnable(),
            requests: self.core.request_ids.len(),
            timers: self.core.wheel.len() + self.due.len() - self.due_next,
            sources: self.core.readiness.len(),
            sockets: self.core.sockets.len(),
            extras: self.core.extras.len(),
            steps: self.core.steps,
            slow_steps: self.core.shared.step_clock.slow(),
            dead_letters: self.core.dead_letters.count,
        }
    }

    /// Has `watch` see each dead letter; up to 1,024 a round, of more only the count tells.
    pub fn on_dead_letter(&mut self, watch: impl FnMut(&DeadLetter) + 'static) {
        self.core.dead_letters.watch = Some(Box::new(watch));
    }

    /// Where messages and signals for other nodes go from now on; what waited for it goes there at once.
    pub fn set_transport(&mut self, transport: Box<dyn Transport>) {
        self.core.transport = TransportSlot::Present(transport);
        for signal in std::mem::take(&mut self.core.queued_signals) {
            self.core.signal(signal);
        }
    }

    /// Takes the world outside out, to be put back by [`Loop::set_transport`]; signals wait meanwhile. `None`
    /// when there is none, or it is no `T`.
    pub fn take_transport<T: Transport>(&mut self) -> Option<Box<T>> {
        match std::mem::replace(&mut self.core.transport, TransportSlot::Taken) {
            TransportSlot::Present(transport) if (&*transport as &dyn std::any::Any).is::<T>() => {
                let transport: Box<dyn std::any::Any> = transport;
                transport.downcast().ok()
            }
            other => {
                self.core.transport = other;
                None
            }
        }
    }

    /// Where an embedder registers sources of its own, with tokens from [`EXTERNAL_TOKENS`] on; `None` for a
    /// virtual loop.
    pub fn registry(&self) -> Option<&Registry> {
        self.poll.as_ref().map(Poll::registry)
    }

    /// Whether an actor lives that is no daemon.
    pub fn has_live_actors(&self) -> bool {
        self.core.live_actors > 0
    }

    /// Whether anything can run right now.
    pub fn is_runnable(&self) -> bool {
        self.core.actors.is_runnable()
            || self.due_next < self.due.len()
            || self.core.readiness.has_unfinished()
            || self.core.sockets.is_busy()
            || !self.inbox.is_empty()
            || !self.urgent.is_empty()
            || dropped_replies::any(self.core.node_id)
            || self.stop_is_fresh()
    }

    /// When the loop has something to do again, as far as its timers know.
    pub fn next_deadline(&self) -> Option<Time> {
        if self.is_runnable() {
            return Some(self.core.now);
        }
        let timer = self.core.wheel.next_deadline();
        match self.stopping {
            Some(stop) => Some(timer.map_or(stop, |timer| timer.min(stop))),
            None => timer,
        }
    }

    /// Lets the time of a virtual loop go on.
    ///
    /// # Panics
    /// When the loop is not virtual: real time goes on by itself.
    pub fn advance_to(&mut self, now: Time) {
        assert!(self.poll.is_none(), "only the time of a virtual loop can be set");
        self.core.now = self.core.now.max(now);
    }

    fn read_clock(&mut self) {
        if let Some(start) = self.core.clock {
            let now = Time::ZERO + start.elapsed();
            self.core.now = self.core.now.max(now);
        }
    }

    /// One round of work, without looking at sockets and without waiting.
    pub fn work(&mut self) {
        self.core.shared.wake_flag.disarm();
        self.read_clock();
        self.enter();
        self.core.shared.step_clock.wake();
        self.take_inbox();
        self.fire_timers();
        self.serve_sockets();
        self.run_batches();
        self.core.flush_sockets();
        self.resume_sources();
        self.tidy();
        self.core.shared.step_clock.rest();
    }

    fn enter(&mut self) {
        if self.stop_is_fresh() {
            self.stopping = Some(self.core.now + self.stop_within);
            self.core.stopping = true;
            for key in self.core.actors.keys() {
                // Further addresses end with their owners.
                if !self.core.actors.has(key.index(), Flag::ADAPTER) {
                    self.core.push_system(key, SystemEvent::Terminate);
                }
            }
        }
    }

    fn take_inbox(&mut self) {
        for _ in 0..INBOX_A_ROUND {
            let Ok(mail) = self.urgent.try_recv() else { break };
            self.run_inbox_item(mail);
        }
        for _ in 0..INBOX_A_ROUND {
            let Ok(mail) = self.inbox.try_recv() else { break };
            self.run_inbox_item(mail);
        }
    }

    fn run_inbox_item(&mut self, mail: Box<dyn InboxItem>) {
        self.core.current = None;
        let core = &mut self.core;
        panic_guard::log_panic(|| mail.open(core));
    }

    fn fire_timers(&mut self) {
        if self.due_next == self.due.len() {
            self.due.clear();
            self.due_next = 0;
            let now = self.core.now;
            self.core.wheel.advance(now, &mut self.due);
        }
        for _ in 0..TIMERS_A_ROUND {
            let Some(&due) = self.due.get(self.due_next) else { break };
            self.due_next += 1;
            self.core.fire(due);
        }
    }

    fn serve_sockets(&mut self) {
        if self.core.sockets.is_busy() {
            self.core.current = None;
            self.core.round_end = self.core.now + TIME_A_ROUND;
            self.core.serve_sockets();
            // The actors have a time of their own.
            self.read_clock();
        }
    }

    fn run_batches(&mut self) {
        self.core.round_end = self.core.now + TIME_A_ROUND;
        let mut look = self.core.steps + STEPS_A_LOOK;
        for _ in 0..BATCHES_A_ROUND {
            if !self.core.run_one() {
                break;
            }
            if self.core.steps >= look {
                look = self.core.steps + STEPS_A_LOOK;
                self.read_clock();
                if self.core.now >= self.core.round_end {
                    break;
                }
            }
        }
        self.core.current = None;
    }

    fn resume_sources(&mut self) {
        if !self.core.readiness.has_unfinished() {
            return;
        }
        for source in self.core.readiness.take_unfinished() {
            self.core.note_ready(Readiness::token_of(source), true, true);
        }
    }

    fn tidy(&mut self) {
        dropped_replies::take(self.core.node_id, &mut self.dropped);
        for dropped in self.dropped.drain(..) {
            self.core.reply_dropped(dropped);
        }
        self.core.run_inline_jobs();
        if !self.core.dead_letters.unreported.is_empty() {
            self.core.dead_letters.show();
        }
        if self.core.now >= self.next_trim {
            self.next_trim = self.core.now + TRIM_EVERY;
            self.core.trim();
        }
    }

    /// Looks at the sockets, and waits until one is ready, somebody wakes the loop, a timer is due, or
    /// `until`; not at all while anything is runnable. What belongs to the embedder is appended to `foreign`.
    ///
    /// # Errors
    /// The system's event queue fails.
    pub fn park(
        &mut self,
        until: Option<Time>,
        foreign: &mut Vec<ExternalReadiness>,
    ) -> Result<(), LoopError> {
        if self.poll.is_none() {
            return Ok(());
        }
        let wake_flag = !self.is_runnable() && {
            self.core.shared.wake_flag.arm();
            // Whoever pushed before it saw the flag is seen here.
            !self.is_runnable()
        };
        let timeout = if wake_flag { self.patience(until) } else { Some(Duration::ZERO) };
        let before = self.core.now;
        // It stays armed until it works again: an embedder may wait by the descriptor meanwhile.
        self.poll_once(timeout)?;
        self.read_clock();
        self.take_events(foreign);
        if self.core.now.since(before) > timeout.unwrap_or(Duration::ZERO) + PAUSE {
            // The process was stopped: what arrived meanwhile comes before the timeouts for it.
            self.poll_once(Some(Duration::ZERO))?;
            self.take_events(foreign);
        }
        Ok(())
    }

    fn stop_is_fresh(&self) -> bool {
        self.stopping.is_none() && self.core.shared.stop.load(Ordering::Acquire)
    }

    fn patience(&self, until: Option<Time>) -> Option<Duration> {
        let now = self.core.clock.map_or(self.core.now, |start| Time::ZERO + start.elapsed());
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

    fn take_events(&mut self, foreign: &mut Vec<ExternalReadiness>) {
        for event in &self.events {
            let token = event.token();
            let readable = event.is_readable() || event.is_read_closed() || event.is_error();
            let closed = event.is_read_closed() || event.is_error();
            let writable = event.is_writable() || event.is_write_closed() || event.is_error();
            match token {
                WAKER => {}
                #[cfg(unix)]
                SIGNALS => {
                    // Emptied only here: a signal that comes now is told by an event of its own.
                    if let Some(signals) = &mut self.signals {
                        signals.drain();
                    }
                    self.core.shared.stop.store(true, Ordering::Release);
                }
                Token(id) if id >= EXTERNAL_TOKENS => {
                    foreign.push(ExternalReadiness { token, readable, writable, closed })
                }
                token => {
                    self.core.note_ready(token, readable, writable);
                }
            }
        }
        self.events.clear();
    }

    /// One round: work, then a look at the sockets, waiting at most until `deadline`.
    ///
    /// # Errors
    /// The system's event queue fails.
    pub fn run_once(&mut self, deadline: Option<Time>) -> Result<(), LoopError> {
        self.work();
        let mut foreign = Vec::new();
        self.park(deadline, &mut foreign)
    }

    /// Whether the loop has been asked to stop, and all actors have ended since, or had their time.
    pub fn has_stopped(&self) -> bool {
        self.stopping.is_some_and(|end| self.core.actors.live() == 0 || self.core.now >= end)
    }

    /// Runs until only daemons are left, or the loop was stopped and all have ended, or had their time. A
    /// virtual loop runs until there is nothing to do before its time goes on.
    ///
    /// # Errors
    /// The system's event queue fails.
    pub fn run(&mut self) -> Result<(), LoopError> {
        let mut foreign = Vec::new();
        loop {
            self.work();
            let over = match self.stopping {
                Some(_) => self.has_stopped(),
                None => self.core.live_actors == 0,
            };
            if over {
                break;
            }
            if self.poll.is_none() && !self.is_runnable() {
                return Ok(());
            }
            self.park(None, &mut foreign)?;
            foreign.clear();
        }
        self.after_stop();
        Ok(())
    }

    /// Makes a loop that was stopped ready to run again.
    pub fn after_stop(&mut self) {
        if self.stopping.take().is_some() {
            self.core.stopping = false;
            self.core.shared.stop.store(false, Ordering::Release);
        }
    }

    /// Stops the loop gracefully at SIGINT and SIGTERM, as [`Handle::stop`] does.
    ///
    /// # Errors
    /// The system refuses; or the loop is virtual.
    #[cfg(unix)]
    pub fn stop_on_signals(&mut self) -> Result<(), LoopError> {
        let Some(poll) = &self.poll else {
            return Err(LoopError::Signals(io::Error::new(
                io::ErrorKind::Unsupported,
                "the loop is virtual",
            )));
        };
        if self.signals.is_none() {
            let signals = crate::signals::Signals::watch(poll.registry()).map_err(LoopError::Signals)?;
            self.signals = Some(signals);
        }
        Ok(())
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
        self.core.shared.close();
        for key in self.core.actors.keys() {
            if let Some(cell) = self.core.actors.remove(key) {
                drop(cell);
            }
        }
        // All that is user code's is dropped one by one: two panics of one drop would abort.
        self.core.request_ids.drop_all();
        self.core.sockets.drop_all();
        for _ in 0..self.urgent.len() {
            panic_guard::log_panic(|| drop(self.urgent.try_recv()));
        }
        for _ in 0..self.inbox.len() {
            panic_guard::log_panic(|| drop(self.inbox.try_recv()));
        }
        panic_guard::log_panic(|| drop(self.core.dead_letters.watch.take()));
        dropped_replies::close(self.core.node_id);
        watchdog::end(&self.core.shared);
    }
}

impl std::fmt::Debug for Loop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loop").field("home", &self.core.node_id).field("stats", &self.stats()).finish()
    }
}

fn draw() -> Result<u64, LoopError> {
    getrandom::u64().map_err(|_| LoopError::Random)
}
