//! The state of one loop, and its operations within a round: spawning, sending, running and ending actors.
//!
//! Invariant: user code never runs while a table of the core is borrowed; a step borrows the core only through its `Cx`. User code is also
//! what runs when a message, a predicate, a closure or a value is dropped. So tables return what they no longer need, and the caller
//! drops it. Debug builds check this: see `panic_guard`.

use std::any::{TypeId, type_name};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use tracing::level_filters::LevelFilter;

use crate::actor::{Actor, Addr, ExitReason, SendMode, Value};
use crate::error::{SendError, TooManyOpen, Undelivered};
use crate::event_loop::{LoopConfig, Readiness, ReadyTarget};
use crate::id::{ActorId, Key, NodeId};
use crate::remote::{Notice, PayloadRules, QueuedSignal, Signal, SignalKind, Wire, codec_context};
use crate::request::PendingRequests;
use crate::scheduler::actor_table::{ActorTable, Flag};
use crate::scheduler::batch::{BatchOutcome, drop_predicate};
use crate::scheduler::budget::Permit;
use crate::scheduler::cell::{ActorType, Cell};
use crate::scheduler::dead_letter::{DeadLetter, DeadLetters};
use crate::scheduler::ended_monitors::EndedMonitors;
use crate::scheduler::extras::ActorExtras;
use crate::scheduler::inbox::WaitingMessages;
use crate::scheduler::inspection::{ActivityTable, ObservedBatch};
use crate::scheduler::mailbox::{AnyMailbox, Fired, Mailbox, PendingTimer, Wait};
use crate::scheduler::mailbox_limit::MailboxAdmission;
use crate::scheduler::mailbox_waiters::MailboxWaiters;
use crate::scheduler::panic_guard::debug_assert_no_table_in_use;
use crate::scheduler::system_event::SystemEvent;
use crate::scheduler::termination::Terminations;
use crate::scheduler::timers::{TimerKey, TimerPurpose, TimerWheel};
use crate::scheduler::{catch_panic, log_panic};
use crate::socket::{FdReadiness, SocketTable, Sockets};
use crate::thread::{LoopPools, Shared};
use antiphon_types::Time;

pub(crate) struct Core {
    pub(super) actors: ActorTable,
    pub(super) node_id: NodeId,
    pub(super) now: Time,
    /// When the loop started; `None` if its time is virtual.
    clock: Option<Instant>,
    /// The time at which the current round should end.
    pub(super) round_end: Time,
    pub(super) mailbox_max: usize,
    /// The most open requests, timers and monitors of one actor.
    pub(super) requests_max: usize,
    pub(super) wheel: TimerWheel,
    pub(super) requests: PendingRequests,
    pub(super) extras: FxHashMap<u32, Box<ActorExtras>>,
    /// The number of open adapters of all actors.
    pub(super) adapters_open: usize,
    pub(super) last_monitor: u64,
    pub(super) ended_monitors: EndedMonitors,
    /// The number of replies that could not be delivered.
    undelivered_replies: u64,
    /// Actors that keep the loop running: all but daemons.
    live_actors: usize,
    pub(super) terminations: Terminations,
    /// Timers that are due, and wait for their turn.
    pub(super) timers_due: usize,
    /// The activity of actors, if the configuration asks for it.
    pub(super) activity: Option<ActivityTable>,
    /// Batches are recorded or logged.
    observes_batches: bool,
    pub(super) observed_batch: ObservedBatch,
    /// The actor whose step is running.
    pub(super) current: Option<Key>,
    pub(super) steps: u64,
    rng: fastrand::Rng,
    /// A message for a mailbox that drops messages was dropped.
    pub(super) has_discarded: bool,
    /// The permit of the message or event that is being pushed into a mailbox.
    pub(super) permit: Option<Permit>,
    /// The rules of the transport; `None` if the loop has none.
    pub(super) payload_rules: Option<PayloadRules>,
    /// Signals and notices for the transport.
    pub(super) signals: Vec<QueuedSignal>,
    scratch: Vec<u8>,
    type_names: FxHashMap<TypeId, &'static str>,
    pub(super) readiness: Readiness,
    pub(super) sockets: SocketTable,
    pub(super) pools: LoopPools,
    /// The number of steps after which the present batch looks at its limits.
    pub(super) batch_end: usize,
    /// Messages to other nodes since one of them made the clock due.
    outbound_sends: u32,
    /// Whether the round reads the clock after the present batch.
    pub(super) is_clock_due: bool,
    /// The last answer of [`Core::ends_round`] in virtual time.
    ends_virtual_round: bool,
    /// In a test loop: the actors that have failed without a monitor, and why.
    pub(super) failures: Option<Vec<String>>,
    pub(super) dead_letters: DeadLetters,
    mailboxes_to_trim: Vec<Key>,
    pub(super) mailbox_waiters: MailboxWaiters,
    /// Messages of handles that wait for room.
    pub(super) waiting_messages: WaitingMessages,
    pub(super) shared: Arc<Shared>,
}

/// The messages to other nodes after which the clock is read: they take about as long as a round.
const SENDS_PER_READING: u32 = 256;

impl Core {
    pub(crate) fn new(
        node_id: NodeId,
        seed: u64,
        clock: Option<Instant>,
        config: &LoopConfig,
        shared: Arc<Shared>,
        readiness: Readiness,
        pools: LoopPools,
    ) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        Self {
            actors: ActorTable::new(),
            node_id,
            now: Time::ZERO,
            clock,
            round_end: Time::MAX,
            mailbox_max: config.mailbox_max,
            requests_max: config.requests_max,
            wheel: TimerWheel::new(clock.is_none()),
            requests: PendingRequests::new(rng.u64(..)),
            extras: FxHashMap::default(),
            adapters_open: 0,
            last_monitor: 0,
            ended_monitors: EndedMonitors::default(),
            undelivered_replies: 0,
            live_actors: 0,
            terminations: Terminations::default(),
            timers_due: 0,
            activity: config.actor_activity.then(ActivityTable::default),
            observes_batches: config.actor_activity,
            observed_batch: ObservedBatch::default(),
            current: None,
            steps: 0,
            rng,
            has_discarded: false,
            permit: None,
            payload_rules: None,
            signals: Vec::new(),
            scratch: Vec::new(),
            type_names: FxHashMap::default(),
            readiness,
            sockets: SocketTable::default(),
            pools,
            batch_end: 0,
            outbound_sends: 0,
            is_clock_due: false,
            ends_virtual_round: false,
            failures: None,
            dead_letters: DeadLetters::default(),
            mailboxes_to_trim: Vec::new(),
            mailbox_waiters: MailboxWaiters::default(),
            waiting_messages: WaitingMessages::default(),
            shared,
        }
    }

    /// The incarnation of this loop.
    #[inline]
    pub(crate) fn node_id(&self) -> NodeId {
        self.node_id
    }

    pub(crate) fn id(&self, key: Key) -> ActorId {
        ActorId::new(self.node_id, key)
    }

    /// The time of the present round.
    #[inline]
    pub(crate) fn now(&self) -> Time {
        self.now
    }

    /// A random number, from the generator that the loop's seed determines.
    pub(crate) fn random(&mut self) -> u64 {
        self.rng.u64(..)
    }

    /// The actor whose step is running: the sender of messages and signals.
    #[inline]
    pub(crate) fn current(&self) -> Option<Key> {
        self.current
    }

    pub(crate) fn set_current(&mut self, actor: Option<Key>) {
        self.current = actor;
    }

    /// Whether the actor has not exited. [`Core::actor_of`] answers this for the addresses of adapters.
    pub(crate) fn is_alive(&self, actor: Key) -> bool {
        self.actors.is_alive(actor)
    }

    /// Whether an actor is alive that keeps the loop running.
    pub(crate) fn has_live_actors(&self) -> bool {
        self.live_actors > 0
    }

    /// Whether anything of the core can run without waiting: the caller looks at the queues from other threads.
    pub(crate) fn is_runnable(&self) -> bool {
        self.actors.is_runnable()
            || self.readiness.has_unfinished()
            || self.sockets.is_busy()
            || self.waiting_messages.has_ready()
            || self.mailbox_waiters.has_unserved()
            || self.ended_monitors.is_waiting()
            || !self.signals.is_empty()
    }

    /// Whether waiters for room in mailboxes may have a turn.
    pub(crate) fn has_unserved_waiters(&self) -> bool {
        self.mailbox_waiters.has_unserved()
    }

    pub(crate) fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    pub(crate) fn readiness_mut(&mut self) -> &mut Readiness {
        &mut self.readiness
    }

    pub(crate) fn sockets(&self) -> &SocketTable {
        &self.sockets
    }

    pub(crate) fn sockets_mut(&mut self) -> &mut SocketTable {
        &mut self.sockets
    }

    pub(crate) fn pools_mut(&mut self) -> &mut LoopPools {
        &mut self.pools
    }

    pub(crate) fn requests(&self) -> &PendingRequests {
        &self.requests
    }

    pub(crate) fn requests_mut(&mut self) -> &mut PendingRequests {
        &mut self.requests
    }

    /// The open requests, and the head of the list of those of an actor; `None` if the actor has exited.
    pub(crate) fn requests_of(&mut self, owner: Key) -> Option<(&mut PendingRequests, &mut u32)> {
        let mailbox = self.actors.cell_mut(owner)?.any_mailbox();
        Some((&mut self.requests, mailbox.newest_request()))
    }

    /// Counts one more open request, timer or monitor of an actor; `None` if the actor has exited. Nothing else checks this limit.
    pub(crate) fn open_one(&mut self, owner: Key) -> Option<Result<(), TooManyOpen>> {
        let max = self.requests_max;
        let mailbox = self.any_mailbox(owner)?;
        Some(if mailbox.open_one(max) { Ok(()) } else { Err(TooManyOpen { max }) })
    }

    /// The state that other threads share with this loop.
    #[inline]
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The rules of the transport for bytes; `None` if the loop has no transport.
    #[inline]
    pub(crate) fn payload_rules(&self) -> Option<PayloadRules> {
        self.payload_rules
    }

    /// Takes the buffer into which messages are encoded. Give it back, so that its memory is used again.
    #[inline]
    pub(crate) fn take_scratch(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.scratch)
    }

    #[inline]
    pub(crate) fn give_back_scratch(&mut self, scratch: Vec<u8>) {
        self.scratch = scratch;
    }

    /// Counts a reply that could not be delivered. Returns the number of all of them.
    pub(crate) fn count_undelivered_reply(&mut self) -> u64 {
        self.undelivered_replies += 1;
        self.undelivered_replies
    }

    /// Starts a timer that is due after `span`.
    pub(crate) fn start_timer(&mut self, span: Duration, purpose: TimerPurpose) -> TimerKey {
        self.wheel.insert(self.now + span, purpose)
    }

    /// Changes when a timer is due, to `span` from now; false when it has fired or was cancelled.
    pub(crate) fn push_back_timer(&mut self, timer: TimerKey, span: Duration) -> bool {
        self.wheel.push_back(timer, self.now + span)
    }

    /// Cancels a timer; false when it has fired or was cancelled.
    pub(crate) fn cancel_timer(&mut self, timer: TimerKey) -> bool {
        self.wheel.cancel(timer).is_some()
    }

    /// When to call [`Core::take_due_timers`] next.
    pub(crate) fn next_timer_deadline(&self) -> Option<Time> {
        self.wheel.next_deadline()
    }

    /// Appends to `due` all timers that are due. The caller handles them, and reports by [`Core::set_timers_due`] how many are left.
    pub(crate) fn take_due_timers(&mut self, due: &mut Vec<TimerPurpose>) {
        self.wheel.advance(self.now, due);
    }

    pub(crate) fn set_timers_due(&mut self, left: usize) {
        self.timers_due = left;
    }

    /// Reads the clock, unless the time is virtual. The time of the loop never goes back.
    pub(crate) fn read_clock(&mut self) {
        if self.clock.is_some() {
            self.advance_to(self.time_by_clock());
        }
    }

    /// The time by the clock, without making it the time of the loop.
    pub(crate) fn time_by_clock(&self) -> Time {
        self.clock.map_or(self.now, |start| Time::ZERO + start.elapsed())
    }

    pub(crate) fn advance_to(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    /// Begins a round.
    pub(crate) fn begin_round(&mut self) {
        self.shared.step_clock().round_started();
        let traces = LevelFilter::current() >= LevelFilter::TRACE;
        self.observes_batches = self.activity.is_some() || traces;
    }

    /// Begins a part of the round that may take this time.
    pub(crate) fn begin_part(&mut self, span: Duration) {
        self.current = None;
        self.round_end = self.now + span;
    }

    /// The number of steps since the start of the loop.
    #[inline]
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// Whether the clock is due between two batches.
    #[inline]
    pub(crate) fn is_clock_due(&self) -> bool {
        self.is_clock_due
    }

    /// Reads the clock between two batches. Returns whether the present part of the round has used up its time.
    pub(crate) fn read_clock_between_batches(&mut self) -> bool {
        self.is_clock_due = false;
        self.read_clock();
        self.now >= self.round_end
    }

    /// Ends the batches of a round.
    pub(crate) fn end_batches(&mut self) {
        if self.observes_batches {
            self.observe_batch(None);
        }
        self.current = None;
    }

    /// Makes an actor a daemon, or a live actor again.
    pub(crate) fn set_daemon(&mut self, actor: Key, daemon: bool) {
        if self.actors.is_alive(actor) && self.actors.has(actor.index(), Flag::DAEMON) != daemon {
            self.actors.set(actor.index(), Flag::DAEMON, daemon);
            self.live_actors = if daemon { self.live_actors - 1 } else { self.live_actors + 1 };
        }
    }

    pub(crate) fn spawn<M: 'static>(&mut self, actor: impl Actor<M>) -> Addr<M> {
        self.add_actor(actor, false)
    }

    /// As [`Core::spawn`], for a service: a daemon that ends after all other actors when the loop stops.
    pub(crate) fn spawn_service<M: 'static>(&mut self, actor: impl Actor<M>) -> Addr<M> {
        self.add_actor(actor, true)
    }

    #[inline]
    fn add_actor<M: 'static>(&mut self, actor: impl Actor<M>, is_service: bool) -> Addr<M> {
        let key = self.actors.insert(Cell::new(Mailbox::<M>::new(), actor));
        if is_service {
            self.actors.set(key.index(), Flag::SERVICE, true);
            self.actors.set(key.index(), Flag::DAEMON, true);
        } else {
            self.live_actors += 1;
        }
        self.actors.enqueue(key.index());
        if self.is_stopping() {
            self.note_spawned(key);
        }
        if self.activity.is_some() || LevelFilter::current() >= LevelFilter::DEBUG {
            self.observe_start(key, type_name::<M>());
        }
        Addr::local(self.id(key))
    }

    #[inline]
    pub(crate) fn mailbox<M: 'static>(&mut self, key: Key) -> Option<&mut Mailbox<M>> {
        self.actors.cell_mut(key)?.mailbox::<M>()
    }

    pub(crate) fn any_mailbox(&mut self, key: Key) -> Option<&mut dyn AnyMailbox> {
        self.actors.cell_mut(key).map(Cell::any_mailbox)
    }

    /// Pushes a message into the mailbox of an actor of this loop.
    ///
    /// The result of the frequent case is returned as it is: to look at it here would copy it.
    #[inline]
    pub(crate) fn push_local<M: 'static>(
        &mut self,
        to: ActorId,
        message: M,
        mode: SendMode,
    ) -> Result<(), SendError<M>> {
        let key = to.key();
        if to.node() != self.node_id {
            return Err(SendError::NoNode(message));
        }
        let Some((cell, queued, contended)) = self.actors.receiver(key) else {
            return self.push_to_adapter(key, message, mode);
        };
        let Some(mailbox) = cell.mailbox::<M>() else {
            let expected = cell.any_mailbox().type_name();
            return Err(SendError::refused_type(message, expected));
        };
        if contended || mailbox.is_full(self.mailbox_max) {
            return self.push_to_full(key, message, mode);
        }
        mailbox.push(message);
        if !queued {
            self.actors.append(key.index());
        }
        Ok(())
    }

    /// As [`Core::push_local`], if the mailbox is full or contended.
    #[cold]
    #[inline(never)]
    fn push_to_full<M: 'static>(&mut self, key: Key, message: M, mode: SendMode) -> Result<(), SendError<M>> {
        match self.admit::<M>(key) {
            MailboxAdmission::Push => {}
            MailboxAdmission::Refuse => {
                self.after_refusal(self.id(key), mode);
                return Err(SendError::Full(message));
            }
            MailboxAdmission::Discard => {
                log_panic(|| drop(message));
                return Ok(());
            }
        }
        if let Some(mailbox) = self.mailbox::<M>(key) {
            mailbox.push(message);
            self.actors.enqueue(key.index());
        }
        Ok(())
    }

    /// Pushes a message that the actor itself made. The limit of its mailbox does not apply, as for a reply.
    pub(crate) fn push_own<M: 'static>(&mut self, owner: Key, message: M) {
        if let Some(mailbox) = self.mailbox::<M>(owner) {
            mailbox.push_own(message);
            self.actors.enqueue(owner.index());
        }
    }

    /// Pushes an event into the mailbox of an actor, by any of its addresses; false if there is no such address.
    pub(crate) fn push_system(&mut self, key: Key, system: SystemEvent) -> bool {
        let Some(mailbox) = self.any_mailbox_of(key) else { return false };
        mailbox.push_system(system);
        self.actors.enqueue(key.index());
        true
    }

    /// Makes the message of a reply with the requester's own code, and pushes it into the place reserved in its mailbox.
    pub(crate) fn push_reply<M: 'static>(&mut self, owner: Key, make: impl FnOnce() -> M) {
        match catch_panic(make) {
            Ok(message) => {
                let permit = self.permit.take();
                let is_plain = !self.drops_when_full(owner);
                if let Some(mailbox) = self.mailbox::<M>(owner) {
                    match is_plain {
                        true => mailbox.push_with(message, permit),
                        // It must not be dropped as a message.
                        false => mailbox.push_own(message),
                    }
                    self.actors.enqueue(owner.index());
                }
            }
            Err(text) => self.end_actor(owner, ExitReason::Panicked(text)),
        }
    }

    /// Records that a source is ready, and informs its owner.
    pub(crate) fn note_ready(&mut self, token: mio::Token, readiness: FdReadiness) {
        match self.readiness.note(token, readiness) {
            None => {}
            Some(ReadyTarget::Actor(owner, index)) => {
                self.push_system(owner, SystemEvent::Ready(index));
            }
            Some(ReadyTarget::Socket(id, part)) => self.sockets.note(id, part, readiness),
        }
    }

    /// The wire name of a type; always the same pointer.
    pub(crate) fn type_name_of<M: Wire>(&mut self) -> &'static str {
        match M::name() {
            Cow::Borrowed(name) => name,
            Cow::Owned(name) => {
                self.type_names.entry(TypeId::of::<M>()).or_insert_with(|| codec_context::intern(name))
            }
        }
    }

    /// Queues a signal for the transport.
    pub(crate) fn signal(&mut self, signal: Signal) {
        match self.payload_rules {
            Some(_) => self.signals.push(QueuedSignal::Signal(signal)),
            None => self.refuse_signal(signal),
        }
    }

    /// Queues a notice for the transport. Without a transport no other node has anything of this loop.
    pub(crate) fn notice(&mut self, notice: Notice) {
        if self.payload_rules.is_some() {
            self.signals.push(QueuedSignal::Notice(notice));
        }
    }

    /// Handles a signal in a loop without a transport: no other node is reachable.
    fn refuse_signal(&mut self, Signal { from, to, kind }: Signal) {
        match kind {
            SignalKind::Monitor(id) => {
                if let Some(watcher) = from {
                    self.down(watcher.key(), id, to, ExitReason::NodeLost);
                }
            }
            SignalKind::Terminate { .. } | SignalKind::Throw(_) | SignalKind::Resume(_) => {
                self.dead_signal(to, "signal", Undelivered::NoNode);
            }
            SignalKind::Demonitor(_)
            | SignalKind::Notify(_)
            | SignalKind::Down(..)
            | SignalKind::Lagged { .. } => {}
        }
    }

    #[inline]
    pub(crate) fn begin_batch(&mut self, key: Key, actor_type: ActorType) {
        self.current = Some(key);
        if self.observes_batches {
            self.observe_batch(Some(key));
        }
        self.shared.step_clock().batch_started(key, actor_type);
    }

    #[inline]
    pub(crate) fn begin_step(&mut self) {
        debug_assert_no_table_in_use();
        self.steps += 1;
        self.shared.step_clock().step_started(self.steps);
    }

    /// Counts a message to another node. Each takes as long as many steps, so after some the clock is read before the next step.
    pub(crate) fn note_outbound(&mut self) {
        self.outbound_sends += 1;
        if self.outbound_sends >= SENDS_PER_READING {
            (self.outbound_sends, self.is_clock_due, self.batch_end) = (0, true, 0);
        }
    }

    /// Whether the current round has used up its time.
    pub(crate) fn is_round_over(&self) -> bool {
        self.clock.is_some() && self.time_by_clock() >= self.round_end
    }

    /// As [`Core::is_round_over`], for work within a step. If so, neither the batch nor the round goes on after it. In virtual
    /// time it is so each second time, so that the simulator sees all work in parts.
    pub(crate) fn ends_round(&mut self) -> bool {
        let is_over = match self.clock {
            Some(_) => self.is_round_over(),
            None => {
                self.ends_virtual_round = !self.ends_virtual_round;
                self.ends_virtual_round
            }
        };
        if is_over {
            (self.is_clock_due, self.batch_end) = (true, 0);
        }
        is_over
    }

    /// Handles the outcome of a batch.
    #[inline]
    pub(super) fn after_batch(&mut self, key: Key, outcome: BatchOutcome) {
        match outcome {
            BatchOutcome::Idle => {}
            // An actor that was ended during its own step has no slot any more.
            BatchOutcome::More if self.actors.is_alive(key) => self.actors.enqueue(key.index()),
            other => self.end_batch(key, other),
        }
    }

    #[inline(never)]
    fn end_batch(&mut self, key: Key, outcome: BatchOutcome) {
        self.current = None;
        match outcome {
            BatchOutcome::Stopped => self.end_actor(key, ExitReason::Done(Value::unit())),
            BatchOutcome::Ended(reason) => self.end_actor(key, *reason),
            BatchOutcome::IdleAfterBurst => self.note_trim(key),
            BatchOutcome::Idle | BatchOutcome::More | BatchOutcome::Dead => {}
        }
    }

    /// Starts a timer with a message, which `pending` makes for the key of the timer. Returns also its slot in the mailbox.
    pub(crate) fn start_message_timer<M: 'static>(
        &mut self,
        owner: Key,
        span: Duration,
        pending: impl FnOnce(TimerKey) -> PendingTimer<M>,
    ) -> Result<(u32, TimerKey), TooManyOpen> {
        let Some(opened) = self.open_one(owner) else {
            // The actor was ended during this step. It gets a timer that has fired.
            let spent = self.start_timer(span, TimerPurpose::Wait(owner));
            self.cancel_timer(spent);
            return Ok((u32::MAX, spent));
        };
        opened?;
        let slot = self.mailbox::<M>(owner).map_or(u32::MAX, Mailbox::next_timer);
        let key = self.start_timer(span, TimerPurpose::Message(owner, slot));
        let pending = pending(key);
        if let Some(mailbox) = self.mailbox::<M>(owner) {
            mailbox.add_timer(pending);
        }
        Ok((slot, key))
    }

    /// Makes the actor wait for `span`. Moves its running wait timer, if it has one.
    pub(crate) fn await_until<M: 'static>(&mut self, me: Key, wait: Wait, span: Duration) {
        let until = self.now + span;
        let Some(mailbox) = self.mailbox::<M>(me) else { return };
        let (running, ended) = mailbox.await_until(wait, until);
        drop_predicate(ended);
        if running.is_some_and(|timer| self.wheel.push_back(timer, until)) {
            return;
        }
        let timer = self.wheel.insert(until, TimerPurpose::Wait(me));
        if let Some(mailbox) = self.mailbox::<M>(me) {
            mailbox.set_wait_timer(timer);
        }
    }

    /// Goes on with a scan of the actor's mailbox. Its timer may have fired while the actor did not wait.
    pub(crate) fn await_again<M: 'static>(&mut self, me: Key) {
        let Some(mailbox) = self.mailbox::<M>(me) else { return };
        let Some(until) = mailbox.await_again() else { return };
        let has_timer = mailbox.await_deadline(Wait::IfWithin, until).is_some();
        if !has_timer {
            let timer = self.wheel.insert(until, TimerPurpose::Wait(me));
            if let Some(mailbox) = self.mailbox::<M>(me) {
                mailbox.set_wait_timer(timer);
            }
        }
    }

    /// The time of a wait is over: of `receive_within` or `sleep`.
    pub(crate) fn fire_wait(&mut self, key: Key) {
        let now = self.now;
        let Some(mailbox) = self.any_mailbox(key) else { return };
        match mailbox.fire_wait(now) {
            Fired::Queued => self.actors.enqueue(key.index()),
            Fired::Again(until) => self.rearm_wait(key, until),
            Fired::Repeat(..) | Fired::Spent => {}
        }
    }

    /// A timer with a message is due.
    pub(crate) fn fire_message(&mut self, key: Key, slot: u32) {
        let Some(mailbox) = self.any_mailbox(key) else { return };
        match mailbox.fire_timer(slot) {
            Fired::Queued => self.actors.enqueue(key.index()),
            Fired::Repeat(period, queued) => self.repeat(key, slot, period, queued),
            Fired::Again(_) | Fired::Spent => {}
        }
    }

    fn rearm_wait(&mut self, key: Key, until: Time) {
        let current = self.any_mailbox(key).and_then(|mailbox| mailbox.wait_timer());
        if current.is_some_and(|timer| self.wheel.purpose(timer).is_some()) {
            // After this timer became due, a step of the actor set another one.
            return;
        }
        let timer = self.wheel.insert(until, TimerPurpose::Wait(key));
        if let Some(mailbox) = self.any_mailbox(key) {
            mailbox.set_wait_timer(timer);
        }
    }

    fn repeat(&mut self, key: Key, slot: u32, period: Duration, queued: bool) {
        let timer = self.wheel.insert(self.now + period, TimerPurpose::Message(key, slot));
        if let Some(mailbox) = self.any_mailbox(key) {
            mailbox.set_timer_key(slot, timer);
        }
        if queued {
            self.actors.enqueue(key.index());
        }
    }

    /// Ends an actor now: its address becomes stale, monitors receive a `Down`, and everything that it owns is dropped.
    pub(crate) fn end_actor(&mut self, key: Key, reason: ExitReason) {
        let Some(mut cell) = self.actors.remove(key) else {
            return log_panic(|| drop(reason));
        };
        let (index, actor_type) = (key.index(), cell.actor_type());
        let mailbox = cell.any_mailbox();
        let (timers, newest_request) = (mailbox.timers(), *mailbox.newest_request());
        for timer in timers {
            self.wheel.cancel(timer);
        }
        self.abandon_requests(newest_request);
        if !self.actors.has(index, Flag::DAEMON) {
            self.live_actors -= 1;
        }
        if self.actors.has(index, Flag::TERMINATING) {
            self.forget_termination(index);
        }
        let mut extras = if self.actors.has(index, Flag::EXTRAS) { self.extras.remove(&index) } else { None };
        self.dead_mailbox(key, cell.any_mailbox());
        self.actors.free(index);
        if self.mailbox_waiters.is_active() {
            let awaited_room = extras.as_mut().map(|extras| std::mem::take(&mut extras.awaited_room));
            self.end_waits(key, awaited_room.unwrap_or_default());
        }
        drop(cell);
        match extras {
            Some(extras) => self.drop_extras((key, actor_type), *extras, &reason),
            None => self.log_exit((key, actor_type), &reason, false),
        }
        // The exit value may be of a user's type, whose drop may panic.
        log_panic(|| drop(reason));
        self.terminate_next();
    }

    /// Records the messages in the mailbox of an actor that ends as dead letters.
    pub(crate) fn dead_mailbox(&mut self, key: Key, mailbox: &dyn AnyMailbox) {
        if mailbox.waiting() == 0 {
            return;
        }
        for _ in 0..mailbox.messages() {
            self.dead_letter(DeadLetter::new(self.id(key), mailbox.type_name(), Undelivered::NoActor));
        }
    }

    /// Drops all actors, requests and sockets of a loop that is being dropped.
    ///
    /// Values of user code are dropped one by one: two panics in one drop would abort the process.
    pub(crate) fn drop_all(&mut self) {
        for key in self.actors.keys().collect::<Vec<_>>() {
            if let Some(mut cell) = self.actors.remove(key) {
                self.dead_mailbox(key, cell.any_mailbox());
                drop(cell);
            }
        }
        self.drop_all_adapters();
        self.drop_ended_monitors();
        for handler in self.requests.take_all() {
            log_panic(|| drop(handler));
        }
        Sockets::of(self).drop_all();
        self.discard_waiting_messages();
    }

    /// Marks the mailbox of an actor after a burst, to be trimmed later.
    pub(crate) fn note_trim(&mut self, key: Key) {
        let index = key.index();
        if !self.actors.has(index, Flag::TRIM) {
            self.actors.set(index, Flag::TRIM, true);
            self.mailboxes_to_trim.push(key);
        }
    }

    /// Whether mailboxes have spare memory after a burst.
    pub(crate) fn has_mailboxes_to_trim(&self) -> bool {
        !self.mailboxes_to_trim.is_empty()
    }

    /// Frees the spare memory of the marked mailboxes.
    pub(crate) fn trim(&mut self) {
        for key in std::mem::take(&mut self.mailboxes_to_trim) {
            if let Some(mailbox) = self.any_mailbox(key) {
                mailbox.trim();
                self.actors.set(key.index(), Flag::TRIM, false);
            }
        }
    }
}
