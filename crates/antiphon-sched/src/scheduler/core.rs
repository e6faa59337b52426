//! The state of one loop, and its operations within a round: spawning, sending, running and ending actors.
//!
//! Invariant: user code runs only while nothing of the core is borrowed, except through the `Cx` that it holds. Drops of messages and
//! predicates may run while their mailbox is borrowed, but they can reach no loop.

use std::any::{TypeId, type_name};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use rustc_hash::FxHashMap;

use tracing::level_filters::LevelFilter;

use crate::actor::{Actor, Addr, ExitReason, SendMode, Value};
use crate::error::{SendError, Undelivered};
use crate::event_loop::{LoopConfig, Readiness, ReadyTarget};
use crate::id::{ActorId, Key, NodeId};
use crate::remote::{PayloadRules, Signal, Wire, codec_context};
use crate::request::PendingRequests;
use crate::scheduler::actor_table::{ActorTable, Flag};
use crate::scheduler::batch::BatchOutcome;
use crate::scheduler::budget::Permit;
use crate::scheduler::cell::{ActorType, Cell};
use crate::scheduler::dead_letter::{DeadLetter, DeadLetters};
use crate::scheduler::ended_monitors::EndedMonitors;
use crate::scheduler::extras::ActorExtras;
use crate::scheduler::inbox::WaitingMessages;
use crate::scheduler::inspection::{ActivityTable, ObservedBatch};
use crate::scheduler::mailbox::{AnyMailbox, Fired, Mailbox, Wait};
use crate::scheduler::mailbox_limit::MailboxAdmission;
use crate::scheduler::mailbox_waiters::MailboxWaiters;
use crate::scheduler::system_event::SystemEvent;
use crate::scheduler::termination::Terminations;
use crate::scheduler::timers::{DueTimer, TimerWheel};
use crate::scheduler::{catch_panic, log_panic};
use crate::socket::SocketTable;
use crate::thread::{LoopPools, Shared};
use antiphon_types::Time;

pub(crate) struct Core {
    pub(crate) actors: ActorTable,
    pub(crate) node_id: NodeId,
    pub(crate) now: Time,
    /// When the loop started; `None` if its time is virtual.
    pub(crate) clock: Option<Instant>,
    /// The time at which the current round should end.
    pub(crate) round_end: Time,
    pub(crate) mailbox_max: usize,
    /// The most open requests, timers and monitors of one actor.
    pub(crate) requests_max: usize,
    pub(crate) wheel: TimerWheel,
    pub(crate) requests: PendingRequests,
    pub(crate) extras: FxHashMap<u32, Box<ActorExtras>>,
    /// The number of open adapters of all actors.
    pub(crate) adapters_open: usize,
    pub(crate) last_monitor: u64,
    pub(crate) ended_monitors: EndedMonitors,
    /// The number of replies that could not be delivered.
    pub(crate) undelivered_replies: u64,
    /// Actors that keep the loop running: all but daemons.
    pub(crate) live_actors: usize,
    pub(crate) terminations: Terminations,
    /// Timers that are due, and wait for their turn.
    pub(crate) timers_due: usize,
    /// The activity of actors, if the configuration asks for it.
    pub(crate) activity: Option<ActivityTable>,
    /// Batches are recorded or logged.
    pub(crate) observes_batches: bool,
    pub(crate) observed_batch: ObservedBatch,
    /// The actor whose step is running.
    pub(crate) current: Option<Key>,
    pub(crate) steps: u64,
    pub(crate) rng: fastrand::Rng,
    /// A message for a mailbox that drops messages was dropped.
    pub(crate) has_discarded: bool,
    /// The permit of the message or event that is being pushed into a mailbox.
    pub(crate) permit: Option<Permit>,
    /// The rules of the transport; `None` if the loop has none.
    pub(crate) payload_rules: Option<PayloadRules>,
    /// Signals for the transport.
    pub(crate) signals: Vec<Signal>,
    pub(crate) scratch: Vec<u8>,
    type_names: FxHashMap<TypeId, &'static str>,
    pub(crate) readiness: Readiness,
    pub(crate) sockets: SocketTable,
    pub(crate) pools: LoopPools,
    /// The number of steps after which the present batch looks at its limits.
    pub(crate) batch_end: usize,
    /// Messages to other nodes since one of them made the clock due.
    outbound_sends: u32,
    /// Whether the round reads the clock after the present batch.
    pub(crate) is_clock_due: bool,
    /// The last answer of [`Core::ends_round`] in virtual time.
    ends_virtual_round: bool,
    /// In a test loop: the actors that have failed without a monitor, and why.
    pub(crate) failures: Option<Vec<String>>,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) mailboxes_to_trim: Vec<Key>,
    pub(crate) mailbox_waiters: MailboxWaiters,
    /// Messages of handles that wait for room.
    pub(crate) waiting_messages: WaitingMessages,
    pub(crate) shared: Arc<Shared>,
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

    pub(crate) fn id(&self, key: Key) -> ActorId {
        ActorId::new(self.node_id, key)
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
    pub(crate) fn note_ready(&mut self, token: mio::Token, readable: bool, writable: bool) {
        match self.readiness.note(token, readable, writable) {
            None => {}
            Some(ReadyTarget::Actor(owner, index)) => {
                self.push_system(owner, SystemEvent::Ready(index));
            }
            Some(ReadyTarget::Socket(id, part)) => self.sockets.note(id, part, readable, writable),
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
            Some(_) => self.signals.push(signal),
            None => self.refuse_signal(signal),
        }
    }

    /// Handles a signal in a loop without a transport: no other node is reachable.
    fn refuse_signal(&mut self, signal: Signal) {
        match signal {
            Signal::Monitor { target, id, watcher } => self.down(watcher, id, target, ExitReason::NodeLost),
            Signal::Terminate { target, .. }
            | Signal::Throw { target, .. }
            | Signal::Resume { target, .. } => {
                self.dead_signal(target, "signal", Undelivered::NoNode);
            }
            Signal::Demonitor { .. }
            | Signal::Notify { .. }
            | Signal::Down { .. }
            | Signal::ReplyDropped { .. }
            | Signal::Lagged { .. }
            | Signal::RequestClosed { .. }
            | Signal::RoomNotAwaited { .. }
            | Signal::Exited { .. } => {}
        }
    }

    #[inline]
    pub(crate) fn begin_batch(&mut self, key: Key, actor_type: ActorType) {
        self.current = Some(key);
        if self.observes_batches {
            self.observe_batch(Some(key));
        }
        self.shared.step_clock.batch_started(key, actor_type);
    }

    #[inline]
    pub(crate) fn begin_step(&mut self) {
        self.steps += 1;
        self.shared.step_clock.step_started(self.steps);
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
        self.clock.is_some_and(|start| Time::ZERO + start.elapsed() >= self.round_end)
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

    /// Makes the actor wait for `span`. Moves its running wait timer, if it has one.
    pub(crate) fn await_until<M: 'static>(&mut self, me: Key, wait: Wait, span: std::time::Duration) {
        let until = self.now + span;
        let Some(mailbox) = self.mailbox::<M>(me) else { return };
        let running = mailbox.await_until(wait, until);
        if running.is_some_and(|timer| self.wheel.push_back(timer, until)) {
            return;
        }
        let timer = self.wheel.insert(until, DueTimer::Wait(me));
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
            let timer = self.wheel.insert(until, DueTimer::Wait(me));
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
    pub(crate) fn fire_message(&mut self, key: Key, token: u32) {
        let Some(mailbox) = self.any_mailbox(key) else { return };
        match mailbox.fire_timer(token) {
            Fired::Queued => self.actors.enqueue(key.index()),
            Fired::Repeat(period, queued) => self.repeat(key, token, period, queued),
            Fired::Again(_) | Fired::Spent => {}
        }
    }

    fn rearm_wait(&mut self, key: Key, until: Time) {
        let current = self.any_mailbox(key).and_then(|mailbox| mailbox.wait_timer());
        if current.is_some_and(|timer| self.wheel.due(timer).is_some()) {
            // After this timer became due, a step of the actor set another one.
            return;
        }
        let timer = self.wheel.insert(until, DueTimer::Wait(key));
        if let Some(mailbox) = self.any_mailbox(key) {
            mailbox.set_wait_timer(timer);
        }
    }

    fn repeat(&mut self, key: Key, token: u32, period: std::time::Duration, queued: bool) {
        let timer = self.wheel.insert(self.now + period, DueTimer::Message(key, token));
        if let Some(mailbox) = self.any_mailbox(key) {
            mailbox.set_timer_key(token, timer);
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
        let (timers, mut head) = (mailbox.timers(), *mailbox.newest_request());
        for timer in timers {
            self.wheel.cancel(timer);
        }
        while let Some(request_id) = self.requests.first(head) {
            match self.requests.close(request_id) {
                Some((closed, next)) => {
                    self.after_request_closed(request_id, closed.timer, closed.is_remote);
                    log_panic(|| drop(closed.handler));
                    head = next.unwrap_or(crate::scheduler::mailbox::NO_REQUEST);
                }
                None => break,
            }
        }
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
