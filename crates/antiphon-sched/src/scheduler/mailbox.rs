//! The mailbox of an actor: its messages and events in order of arrival, and the kind of event it waits for.
//!
//! Invariant: `first` is older than all of `rest.queue`. Messages and events share one order, so a `Down` never overtakes
//! the last message. Only while the actor scans for a message that a predicate admits, `rest.skipped` holds the messages
//! that it has refused, which are older than `first`. So the next message is always at the front.
//!
//! No method drops a message, a predicate or the maker of a timer, or calls one: it returns what the mailbox no longer needs. So no user
//! code runs while the mailbox is borrowed.

use std::collections::VecDeque;

use slab::Slab;

use crate::actor::Admit;
use crate::scheduler::budget::Permit;
use crate::scheduler::cell::RunState;
use crate::scheduler::inspection::MailboxInfo;
use crate::scheduler::panic_guard::{TableInUse, log_panic};
use crate::scheduler::system_event::SystemEvent;
use crate::scheduler::timers::TimerKey;
use antiphon_types::Time;

/// A mailbox is trimmed once it is empty, if the capacity of `rest` is over this number.
const TRIM_OVER: usize = 256;

/// The index of no request: the end of the list that `newest_request` begins.
pub(crate) const NO_REQUEST: u32 = u32::MAX;

pub(crate) struct Mailbox<M> {
    first: Option<Item<M>>,
    rest: Option<Box<Rest<M>>>,
    extras: Option<Box<MailboxExtras<M>>>,
    /// The newest open request of this actor: the head of a list in [`PendingRequests`](crate::request::PendingRequests).
    newest_request: u32,
    /// Open requests, timers and monitors, up to 65,535; those beyond are in `MailboxExtras::open_beyond`.
    open: u16,
    wait: Wait,
    #[cfg_attr(feature = "safe", expect(dead_code, reason = "only the unsafe cell uses it"))]
    pub(super) state: RunState,
}

/// All but the first of the waiting messages and events. It is boxed, for 8 bytes in each idle actor.
struct Rest<M> {
    queue: VecDeque<Item<M>>,
    /// The messages that the predicate of the present scan has refused.
    skipped: VecDeque<Item<M>>,
    /// An event that wakes a sleeping actor may be in the queue: it was pushed since a search has found none.
    may_wake: bool,
}

impl<M> Rest<M> {
    #[inline]
    fn len(&self) -> usize {
        self.queue.len() + self.skipped.len()
    }
}

/// State that few actors need: predicates, deadlines, timers with messages.
struct MailboxExtras<M> {
    admit: Option<Admit<M>>,
    /// When the present wait ends; `Time::MAX` without a deadline.
    until: Time,
    timer: Option<TimerKey>,
    timeout_due: bool,
    timers: Slab<PendingTimer<M>>,
    /// The number of timer slots that were emptied when the actor had exited.
    emptied: usize,
    /// Open requests, timers and monitors, in addition to 65,535.
    open_beyond: usize,
}

/// A timer with a message.
pub(crate) enum PendingTimer<M> {
    Once(TimerKey, M),
    Every {
        /// The key by which the actor knows the timer; `key` changes after each tick.
        first_key: TimerKey,
        key: TimerKey,
        period: std::time::Duration,
        make: Option<Make<M>>,
        queued: bool,
    },
    /// Cancelled while it was due, or while its tick waited in the mailbox. The slot stays in use until this many
    /// ticks have passed; otherwise they would count for the next timer in the slot.
    Cancelled(u8),
}

pub(crate) type Make<M> = Box<dyn FnMut() -> M>;

enum Item<M> {
    Message(M),
    SystemEvent(Box<SystemEvent>),
    /// One variant for all attachments: each variant costs plain messages an instruction or two.
    Attached(Box<(Attachment, M)>),
}

/// Data that waits in the mailbox together with a message.
enum Attachment {
    /// The slot of the timer of the message. The message was made before its step, for a predicate.
    Tick(u32),
    /// The part of a budget that the message uses until it is taken.
    Permit(Permit),
    /// The actor itself made the message: by a timer, or for itself.
    Own,
}

/// The kind of event that an actor waits for.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// Anything.
    Any,
    /// Not yet started.
    Start,
    /// Anything, until `MailboxExtras::until`.
    Within,
    /// A message that `MailboxExtras::admit` admits, or any event.
    If,
    /// As `If`, until `MailboxExtras::until`.
    IfWithin,
    /// Anything. The actor has received an event in the middle of a scan, and may go on with the scan.
    Scanned {
        /// The scan has a deadline.
        is_timed: bool,
    },
    /// The time `MailboxExtras::until`, or an event that wakes the actor.
    Sleep,
    /// The next batch. An event that wakes the actor comes before it, if nothing waits before that event.
    Turn,
    /// An event that wakes the actor.
    Suspend,
}

/// The next event that a mailbox returns to its actor.
pub(crate) enum Taken<M> {
    Message(M),
    SystemEvent(Box<SystemEvent>),
    Timeout,
    /// The message of a cancelled timer. The caller drops it, and takes again.
    Cancelled(M),
    /// The predicate of a scan that is over. The caller drops it, and takes again.
    EndedScan(Admit<M>),
    Nothing,
}

/// The next item of a scan.
pub(crate) enum Scanned<M> {
    /// User code must judge it.
    Question(Question<M>),
    /// The message of a cancelled timer. The caller drops it, and goes on.
    Cancelled(M),
    /// There is no scan, or nothing in it that user code must judge.
    Nothing,
}

/// A value that the mailbox of an ended actor holds.
enum LeftValue<M> {
    Item(Item<M>),
    Predicate(Admit<M>),
    Timer(PendingTimer<M>),
}

impl<M> Mailbox<M> {
    /// The initial capacity of `rest`: 256 bytes, but at least 4 items.
    const REST_MIN: usize = {
        let fit = 256 / size_of::<Item<M>>();
        if fit < 4 { 4 } else { fit }
    };

    pub(crate) fn new() -> Self {
        Self {
            first: None,
            rest: None,
            extras: None,
            newest_request: NO_REQUEST,
            open: 0,
            wait: Wait::Start,
            state: RunState::IDLE,
        }
    }

    #[cfg_attr(feature = "safe", expect(dead_code, reason = "only the unsafe cell uses it"))]
    pub(crate) fn take_all(&mut self) -> Self {
        std::mem::replace(self, Self::new())
    }

    #[inline]
    pub(crate) fn is_full(&self, max: usize) -> bool {
        let first = usize::from(self.first.is_some());
        match &self.rest {
            None => first >= max,
            Some(rest) => first + rest.len() >= max,
        }
    }

    /// The number of waiting messages and events.
    #[inline]
    pub(crate) fn waiting(&self) -> usize {
        let first = usize::from(self.first.is_some());
        match &self.rest {
            None => first,
            Some(rest) => first + rest.len(),
        }
    }

    /// The number of steps that would empty the mailbox.
    #[inline]
    pub(crate) fn due(&self) -> usize {
        self.waiting() + usize::from(self.wait == Wait::Start)
    }

    /// Whether a burst enlarged the mailbox.
    #[inline]
    pub(crate) fn needs_trim(&self) -> bool {
        let over = |rest: &Rest<M>| rest.queue.capacity().max(rest.skipped.capacity()) > TRIM_OVER;
        self.rest.as_deref().is_some_and(over)
    }

    /// Pushes a message. It is constructed in its place: a moved item is written in words and read in vectors, which
    /// stalls.
    #[inline]
    pub(crate) fn push(&mut self, message: M) {
        let _in_use = TableInUse::begin();
        if self.first.is_none() && self.rest.as_ref().is_none_or(|rest| rest.queue.is_empty()) {
            self.first = Some(Item::Message(message));
        } else {
            self.push_behind(Item::Message(message));
        }
    }

    /// As [`Mailbox::push`], with a permit that is held until the message is taken.
    pub(crate) fn push_with(&mut self, message: M, permit: Option<Permit>) {
        match permit {
            Some(permit) => self.push_item(Item::Attached(Box::new((Attachment::Permit(permit), message)))),
            None => self.push(message),
        }
    }

    /// Pushes a message that the actor itself made.
    pub(crate) fn push_own(&mut self, message: M) {
        self.push_item(Item::Attached(Box::new((Attachment::Own, message))));
    }

    /// Removes the oldest message that is neither a reply nor made by the actor itself.
    pub(crate) fn remove_oldest(&mut self) -> Option<M> {
        let _in_use = TableInUse::begin();
        let is_message = |item: &Item<M>| match item {
            Item::Message(_) => true,
            Item::Attached(attached) => matches!(attached.0, Attachment::Permit(_)),
            Item::SystemEvent(_) => false,
        };
        let skipped = self.rest.as_mut().map(|rest| &mut rest.skipped);
        let item = match skipped.and_then(|skipped| Some((skipped.iter().position(is_message)?, skipped))) {
            Some((at, skipped)) => skipped.remove(at),
            None if self.first.as_ref().is_some_and(is_message) => self.first.take(),
            None => {
                let queue = &mut self.rest.as_mut()?.queue;
                let at = queue.iter().position(is_message)?;
                queue.remove(at)
            }
        };
        match item? {
            Item::Message(message) => Some(message),
            Item::Attached(attached) => Some(attached.1),
            Item::SystemEvent(_) => None,
        }
    }

    /// All that waits, in no order.
    fn items(&self) -> impl Iterator<Item = &Item<M>> {
        let rest = self.rest.iter().flat_map(|rest| rest.queue.iter().chain(&rest.skipped));
        self.first.iter().chain(rest)
    }

    fn push_item(&mut self, item: Item<M>) {
        let _in_use = TableInUse::begin();
        if self.waiting() == 0 {
            self.first = Some(item);
        } else {
            self.push_behind(item);
        }
    }

    #[inline]
    fn push_behind(&mut self, item: Item<M>) {
        match &mut self.rest {
            Some(rest) => rest.queue.push_back(item),
            None => self.push_second(item),
        }
    }

    #[cold]
    #[inline(never)]
    fn push_second(&mut self, item: Item<M>) {
        self.rest().queue.push_back(item);
    }

    fn rest(&mut self) -> &mut Rest<M> {
        self.rest.get_or_insert_with(|| {
            let queue = VecDeque::with_capacity(Self::REST_MIN);
            Box::new(Rest { queue, skipped: VecDeque::new(), may_wake: false })
        })
    }

    #[inline]
    fn pop_item(&mut self) -> Option<Item<M>> {
        match self.first.take() {
            Some(item) => Some(item),
            None => self.rest.as_mut()?.queue.pop_front(),
        }
    }

    /// Takes the next message, if the actor waits for anything and the next item is a message.
    #[inline]
    pub(crate) fn take_message(&mut self) -> Option<M> {
        let _in_use = TableInUse::begin();
        if self.wait != Wait::Any {
            return None;
        }
        match self.first.take() {
            Some(Item::Message(message)) => return Some(message),
            Some(other) => {
                self.first = Some(other);
                return None;
            }
            None => {}
        }
        match self.rest.as_mut()?.queue.pop_front()? {
            Item::Message(message) => Some(message),
            other => {
                // `first` is free, and the item is older than all of `rest`.
                self.first = Some(other);
                None
            }
        }
    }

    /// Converts `item` for the actor. Skips ticks of cancelled timers without a message, and then tries the next item.
    #[inline(never)]
    fn take_live(&mut self, mut item: Option<Item<M>>) -> Taken<M> {
        loop {
            match item {
                None => return Taken::Nothing,
                Some(Item::Message(message)) => return Taken::Message(message),
                Some(Item::Attached(attached)) => {
                    let (attachment, message) = *attached;
                    return self.take_attached(attachment, message);
                }
                Some(Item::SystemEvent(system)) => match *system {
                    SystemEvent::Tick(slot) if self.is_cancelled(slot) => self.count_cancelled_tick(slot),
                    _ => return Taken::SystemEvent(system),
                },
            }
            item = self.pop_item();
        }
    }

    /// Whether the actor must be started; true once.
    pub(crate) fn take_start(&mut self) -> bool {
        let starts = self.wait == Wait::Start;
        if starts {
            self.wait = Wait::Any;
        }
        starts
    }

    /// Takes the next event for the actor. After that the actor waits for anything, unless its step returns otherwise.
    pub(crate) fn take(&mut self) -> Taken<M> {
        let _in_use = TableInUse::begin();
        if matches!(self.wait, Wait::Scanned { .. })
            && let Some(predicate) = self.end_scan()
        {
            return Taken::EndedScan(predicate);
        }
        let taken = match self.wait {
            Wait::Any | Wait::Start | Wait::Within | Wait::Scanned { .. } => {
                let item = self.pop_item();
                match self.take_live(item) {
                    Taken::Nothing => self.take_timeout(),
                    taken => taken,
                }
            }
            Wait::If => self.take_event(),
            Wait::IfWithin => match self.take_event() {
                Taken::Nothing => self.take_timeout(),
                taken => taken,
            },
            Wait::Sleep | Wait::Suspend => match self.take_waking() {
                Some(system) => Taken::SystemEvent(system),
                None => self.take_timeout(),
            },
            Wait::Turn => self.take_first_waking().map_or(Taken::Timeout, Taken::SystemEvent),
        };
        // The wait continues when the actor gets no event: readiness may be of a removed source, socket events may concern
        // only the loop, and a termination may be repeated.
        let ends_wait = match &taken {
            Taken::Nothing | Taken::Cancelled(_) | Taken::EndedScan(_) => false,
            Taken::SystemEvent(system) => !matches!(
                **system,
                SystemEvent::Ready(_) | SystemEvent::SocketCloseHandled(_) | SystemEvent::Terminate
            ),
            Taken::Message(_) | Taken::Timeout => true,
        };
        if ends_wait {
            self.await_any();
        }
        taken
    }

    fn take_timeout(&mut self) -> Taken<M> {
        match &mut self.extras {
            Some(extras) if extras.timeout_due => {
                extras.until = Time::MAX;
                Taken::Timeout
            }
            Some(_) | None => Taken::Nothing,
        }
    }

    /// In a scan: takes out the first item if user code must judge it; with it the predicate and, for the tick of a timer, the code
    /// that makes its message. Give it back by [`Mailbox::admit`], [`Mailbox::skip`] or [`Mailbox::put_back`].
    pub(crate) fn next_question(&mut self) -> Scanned<M> {
        let _in_use = TableInUse::begin();
        if !matches!(self.wait, Wait::If | Wait::IfWithin) {
            return Scanned::Nothing;
        }
        loop {
            let Self { first, rest, extras, .. } = self;
            let Some(extras) = extras.as_mut().filter(|extras| extras.admit.is_some()) else {
                return Scanned::Nothing;
            };
            let front = match first {
                Some(first) => Some(first),
                None => rest.as_mut().and_then(|rest| rest.queue.front_mut()),
            };
            let Some(item) = front else { return Scanned::Nothing };
            let question = match item {
                Item::Message(_) => Some(None),
                Item::Attached(attached) => match attached.0 {
                    Attachment::Tick(slot) => {
                        let timer = extras.timers.get(slot as usize);
                        matches!(timer, Some(PendingTimer::Every { .. })).then_some(None)
                    }
                    Attachment::Permit(_) | Attachment::Own => Some(None),
                },
                Item::SystemEvent(system) => match **system {
                    SystemEvent::Tick(slot) => match extras.timers.get_mut(slot as usize) {
                        Some(PendingTimer::Every { make, .. }) => make.take().map(|make| Some((slot, make))),
                        Some(_) | None => None,
                    },
                    _ => return Scanned::Nothing,
                },
            };
            if let Some(make) = question
                && let Some(admit) = extras.admit.take()
                && let Some(item) = self.pop_item()
            {
                return Scanned::Question(Question { admit, item, make });
            }
            // The tick of a cancelled timer.
            let stale = self.pop_item();
            if let Taken::Cancelled(message) = self.take_one(stale) {
                return Scanned::Cancelled(message);
            }
        }
    }

    /// Takes the message that the predicate has admitted.
    pub(crate) fn admit(&mut self, question: Question<M>) -> Taken<M> {
        let _in_use = TableInUse::begin();
        let item = self.end_question(question);
        let taken = self.take_one(Some(item));
        if matches!(taken, Taken::Message(_)) {
            self.await_any();
        }
        taken
    }

    /// Sets a message aside that the predicate has refused.
    pub(crate) fn skip(&mut self, question: Question<M>) {
        let _in_use = TableInUse::begin();
        let item = self.end_question(question);
        self.rest().skipped.push_back(item);
    }

    /// Puts an item back, because user code has panicked.
    pub(crate) fn put_back(&mut self, question: Question<M>) {
        let _in_use = TableInUse::begin();
        let item = self.end_question(question);
        if let Some(second) = self.first.replace(item) {
            self.rest().queue.push_front(second);
        }
    }

    fn end_question(&mut self, question: Question<M>) -> Item<M> {
        let Question { admit, item, make } = question;
        self.extras().admit = Some(admit);
        if let Some((slot, make)) = make {
            match self.pending_mut(slot) {
                Some(PendingTimer::Every { make: place, .. }) => *place = Some(make),
                _ => unreachable!("only the actor cancels its timers, and its predicate cannot"),
            }
        }
        item
    }

    /// In a scan: takes the first item if it is an event.
    fn take_event(&mut self) -> Taken<M> {
        let first = match &self.first {
            Some(first) => Some(first),
            None => self.rest.as_ref().and_then(|rest| rest.queue.front()),
        };
        match first {
            Some(Item::SystemEvent(_)) => {
                let item = self.pop_item();
                self.take_one(item)
            }
            Some(_) | None => Taken::Nothing,
        }
    }

    /// Ends a scan: the messages that its predicate has refused are back in their places. Returns the predicate.
    fn end_scan(&mut self) -> Option<Admit<M>> {
        self.wait = Wait::Any;
        self.rejoin();
        self.extras.as_mut()?.admit.take()
    }

    /// Puts the messages that were set aside before all others.
    fn rejoin(&mut self) {
        let Some(Rest { queue, skipped, .. }) = self.rest.as_deref_mut() else { return };
        if skipped.is_empty() {
            return;
        }
        let first = self.first.take();
        if skipped.len() < queue.len() {
            if let Some(first) = first {
                queue.push_front(first);
            }
            while let Some(item) = skipped.pop_back() {
                queue.push_front(item);
            }
        } else {
            skipped.extend(first);
            skipped.append(queue);
            std::mem::swap(queue, skipped);
        }
    }

    /// Converts an item for the actor; `Nothing` when it is the tick of a cancelled timer without a message.
    fn take_one(&mut self, item: Option<Item<M>>) -> Taken<M> {
        match item {
            Some(Item::Attached(attached)) => {
                let (attachment, message) = *attached;
                self.take_attached(attachment, message)
            }
            Some(Item::SystemEvent(system)) => match *system {
                SystemEvent::Tick(slot) => {
                    self.count_cancelled_tick(slot);
                    Taken::Nothing
                }
                _ => Taken::SystemEvent(system),
            },
            Some(Item::Message(message)) => Taken::Message(message),
            None => Taken::Nothing,
        }
    }

    fn is_cancelled(&mut self, slot: u32) -> bool {
        matches!(self.pending_mut(slot), None | Some(PendingTimer::Cancelled(_)))
    }

    /// Counts a passed tick of a cancelled timer, and frees its slot after the last one.
    fn count_cancelled_tick(&mut self, slot: u32) {
        if let Some(PendingTimer::Cancelled(left)) = self.pending_mut(slot) {
            *left -= 1;
            if *left == 0 {
                self.remove_timer(slot);
            }
        }
    }

    /// Converts a message with an attachment, which it releases.
    fn take_attached(&mut self, attachment: Attachment, message: M) -> Taken<M> {
        match attachment {
            Attachment::Tick(slot) if !self.end_tick(slot) => Taken::Cancelled(message),
            Attachment::Tick(_) | Attachment::Permit(_) | Attachment::Own => Taken::Message(message),
        }
    }

    /// Lets the timer of a taken message tick again; false when the timer was cancelled meanwhile.
    fn end_tick(&mut self, slot: u32) -> bool {
        if let Some(PendingTimer::Every { queued, .. }) = self.pending_mut(slot) {
            *queued = false;
            return true;
        }
        self.count_cancelled_tick(slot);
        false
    }

    /// Takes the first event that wakes a sleeping actor.
    fn take_waking(&mut self) -> Option<Box<SystemEvent>> {
        if let Some(first) = self.take_first_waking() {
            return Some(first);
        }
        // It is searched for only if there may be one, since very many messages may wait.
        let rest = self.rest.as_mut().filter(|rest| rest.may_wake)?;
        let found =
            rest.queue.iter().position(|item| matches!(item, Item::SystemEvent(system) if wakes(system)));
        rest.may_wake = found.is_some();
        rest.queue.remove(found?).and_then(Item::system)
    }

    /// Takes the first event if it wakes a sleeping actor.
    fn take_first_waking(&mut self) -> Option<Box<SystemEvent>> {
        let wakes = matches!(&self.first, Some(Item::SystemEvent(system)) if wakes(system));
        if wakes { self.pop_item().and_then(Item::system) } else { None }
    }

    /// The actor has received an event, and waits for anything. After an event of a scan it may go on with the scan.
    pub(crate) fn await_any(&mut self) {
        self.wait = match self.wait {
            Wait::If => Wait::Scanned { is_timed: false },
            Wait::IfWithin => Wait::Scanned { is_timed: true },
            Wait::Any
            | Wait::Start
            | Wait::Within
            | Wait::Scanned { .. }
            | Wait::Sleep
            | Wait::Turn
            | Wait::Suspend => Wait::Any,
        };
        if let Some(extras) = &mut self.extras {
            extras.timeout_due = false;
        }
    }

    /// Waits for a message that `admit` admits: under the deadline that [`Mailbox::await_until`] has set, if it was called
    /// for `IfWithin` before. Returns the predicate of the scan before, if there was one.
    pub(crate) fn await_admitted(&mut self, admit: Admit<M>) -> Option<Admit<M>> {
        let _in_use = TableInUse::begin();
        let before = if self.wait == Wait::IfWithin { None } else { self.end_scan() };
        if self.wait != Wait::IfWithin {
            self.wait = Wait::If;
        }
        self.extras().admit = Some(admit);
        before
    }

    /// Goes on with a scan. Returns its deadline, if it has one; without a scan the actor waits for anything.
    pub(crate) fn await_again(&mut self) -> Option<Time> {
        let until = self.extras.as_ref().map_or(Time::MAX, |extras| extras.until);
        match self.wait {
            Wait::Scanned { is_timed: true } if until < Time::MAX => {
                self.wait = Wait::IfWithin;
                Some(until)
            }
            Wait::Scanned { .. } => {
                self.wait = Wait::If;
                None
            }
            Wait::Any
            | Wait::Start
            | Wait::Within
            | Wait::If
            | Wait::IfWithin
            | Wait::Sleep
            | Wait::Turn
            | Wait::Suspend => None,
        }
    }

    /// Waits for an event that wakes the actor. Returns the predicate of a scan that this ends.
    pub(crate) fn await_resume(&mut self) -> Option<Admit<M>> {
        let _in_use = TableInUse::begin();
        let ended = self.end_scan();
        self.wait = Wait::Suspend;
        ended
    }

    /// Waits until `until`; returns the timer that is already running, if any, and the predicate of a scan that this ends.
    pub(crate) fn await_until(&mut self, wait: Wait, until: Time) -> (Option<TimerKey>, Option<Admit<M>>) {
        let _in_use = TableInUse::begin();
        let ended = self.end_scan();
        (self.await_deadline(wait, until), ended)
    }

    /// As [`Mailbox::await_until`], in the present scan.
    pub(crate) fn await_deadline(&mut self, wait: Wait, until: Time) -> Option<TimerKey> {
        self.wait = wait;
        let extras = self.extras();
        extras.until = until;
        extras.timer
    }

    /// Goes on in the next batch. Returns the predicate of a scan that this ends.
    pub(crate) fn await_turn(&mut self) -> Option<Admit<M>> {
        let _in_use = TableInUse::begin();
        let ended = self.end_scan();
        self.wait = Wait::Turn;
        ended
    }

    pub(crate) fn set_wait_timer(&mut self, timer: TimerKey) {
        self.extras().timer = Some(timer);
    }

    fn extras(&mut self) -> &mut MailboxExtras<M> {
        self.extras.get_or_insert_with(|| {
            Box::new(MailboxExtras {
                admit: None,
                until: Time::MAX,
                timer: None,
                timeout_due: false,
                timers: Slab::new(),
                emptied: 0,
                open_beyond: 0,
            })
        })
    }

    /// The slot of the next timer of this mailbox.
    pub(crate) fn next_timer(&mut self) -> u32 {
        u32::try_from(self.extras().timers.vacant_key()).expect("fewer timers than 2^32 are open")
    }

    pub(crate) fn add_timer(&mut self, pending: PendingTimer<M>) {
        self.extras().timers.insert(pending);
    }

    pub(crate) fn remove_timer(&mut self, slot: u32) -> Option<PendingTimer<M>> {
        self.extras.as_mut()?.timers.try_remove(slot as usize)
    }

    /// The wheel's present key of a timer; `None` when the timer has fired or was cancelled.
    pub(crate) fn timer_key(&mut self, slot: u32, first_key: TimerKey) -> Option<TimerKey> {
        match self.pending_mut(slot)? {
            PendingTimer::Once(key, _) => (*key == first_key).then_some(*key),
            PendingTimer::Every { first_key: own, key, .. } => (*own == first_key).then_some(*key),
            PendingTimer::Cancelled(_) => None,
        }
    }

    /// Cancels a timer, and returns it; `running`: whether the timer wheel still held it.
    pub(crate) fn cancel_timer(&mut self, slot: u32, running: bool) -> Option<PendingTimer<M>> {
        let _in_use = TableInUse::begin();
        let pending = self.pending_mut(slot)?;
        let queued = matches!(pending, PendingTimer::Every { queued: true, .. });
        let taken = match u8::from(!running) + u8::from(queued) {
            0 => self.remove_timer(slot),
            left => Some(std::mem::replace(pending, PendingTimer::Cancelled(left))),
        };
        self.close_one();
        taken
    }

    /// Counts one more open request, timer or monitor; false if the actor has `max` of them.
    #[inline]
    pub(crate) fn open_one(&mut self, max: usize) -> bool {
        if usize::from(self.open) >= max {
            return false;
        }
        if self.open < u16::MAX {
            self.open += 1;
            return true;
        }
        self.open_one_beyond(max)
    }

    #[cold]
    fn open_one_beyond(&mut self, max: usize) -> bool {
        let extras = self.extras();
        let has_room = extras.open_beyond < max - usize::from(u16::MAX);
        extras.open_beyond += usize::from(has_room);
        has_room
    }

    /// Counts one less open request, timer or monitor.
    #[inline]
    pub(crate) fn close_one(&mut self) {
        match &mut self.extras {
            Some(extras) if self.open == u16::MAX && extras.open_beyond > 0 => extras.open_beyond -= 1,
            Some(_) | None => self.open -= 1,
        }
    }

    /// Takes one value out of the mailbox of an ended actor.
    fn pop_left(&mut self) -> Option<LeftValue<M>> {
        let _in_use = TableInUse::begin();
        self.rejoin();
        if let Some(item) = self.pop_item() {
            return Some(LeftValue::Item(item));
        }
        let extras = self.extras.as_mut()?;
        if let Some(admit) = extras.admit.take() {
            return Some(LeftValue::Predicate(admit));
        }
        while extras.emptied < extras.timers.capacity() {
            let pending = extras.timers.try_remove(extras.emptied);
            extras.emptied += 1;
            if let Some(pending) = pending {
                return Some(LeftValue::Timer(pending));
            }
        }
        None
    }

    pub(crate) fn pending_mut(&mut self, slot: u32) -> Option<&mut PendingTimer<M>> {
        self.extras.as_mut()?.timers.get_mut(slot as usize)
    }
}

/// An item of a scan, while user code judges it and nothing is borrowed.
pub(crate) struct Question<M> {
    admit: Admit<M>,
    item: Item<M>,
    /// The item is the tick of this timer, whose message is still to be made.
    make: Option<(u32, Make<M>)>,
}

impl<M> Question<M> {
    /// Whether the predicate admits the message.
    pub(crate) fn ask(&mut self) -> bool {
        if let Some((slot, make)) = &mut self.make {
            self.item = Item::Attached(Box::new((Attachment::Tick(*slot), make())));
        }
        match &self.item {
            Item::Message(message) => (self.admit)(message),
            Item::Attached(attached) => (self.admit)(&attached.1),
            Item::SystemEvent(_) => true,
        }
    }
}

fn wakes(system: &SystemEvent) -> bool {
    match system {
        SystemEvent::Terminate | SystemEvent::Resumed(_) | SystemEvent::Thrown(_) => true,
        SystemEvent::Metered(system, _) => wakes(system),
        SystemEvent::Down(_)
        | SystemEvent::Swap(_)
        | SystemEvent::Writable(_)
        | SystemEvent::Lagged(..)
        | SystemEvent::Ready(_)
        | SystemEvent::SocketCloseHandled(_)
        | SystemEvent::Tick(_) => false,
    }
}

impl<M> Item<M> {
    fn system(self) -> Option<Box<SystemEvent>> {
        match self {
            Self::SystemEvent(system) => Some(system),
            Self::Message(_) | Self::Attached(_) => None,
        }
    }
}

/// The result of a fired timer.
pub(crate) enum Fired {
    /// An event is now in the mailbox.
    Queued,
    /// The wait continues until this time.
    Again(Time),
    /// The timer repeats after this span; an event is now in the mailbox if `true`.
    Repeat(std::time::Duration, bool),
    /// The timer is no longer in use.
    Spent,
}

/// A mailbox without the type of its messages.
pub(crate) trait AnyMailbox {
    fn push_system(&mut self, system: SystemEvent);
    /// Pushes an event before all that waits. The wait of the actor must end with this event.
    fn push_system_first(&mut self, system: SystemEvent);
    fn is_full(&self, max: usize) -> bool;
    /// The number of waiting messages and events.
    fn waiting(&self) -> usize;
    /// The bytes of one item.
    fn item_bytes(&self) -> usize;
    /// The number of waiting messages, without those that the actor itself made.
    fn messages(&self) -> usize;
    /// The Rust type of the messages.
    fn type_name(&self) -> &'static str;
    /// What the mailbox shows of itself. It looks at all that waits.
    fn info(&self) -> MailboxInfo;
    /// Whether the actor waits for the end of a `sleep` or `suspend`.
    fn ignores_events(&self) -> bool;
    /// The timer of a wait has fired; a later deadline may have replaced its own.
    fn fire_wait(&mut self, now: Time) -> Fired;
    /// The timer in slot `slot` is due.
    fn fire_timer(&mut self, slot: u32) -> Fired;
    fn set_timer_key(&mut self, slot: u32, key: TimerKey);
    fn set_wait_timer(&mut self, key: TimerKey);
    fn wait_timer(&self) -> Option<TimerKey>;
    /// All timers that are still running.
    fn timers(&self) -> Vec<TimerKey>;
    /// Drops all values, one by one, when the actor has ended. The mailbox must be in no table any more.
    fn drop_all(&mut self);
    /// Counts one more open request, timer or monitor; false if the actor has `max` of them.
    fn open_one(&mut self, max: usize) -> bool;
    /// Counts one less open request, timer or monitor.
    fn close_one(&mut self);
    fn newest_request(&mut self) -> &mut u32;
    /// Frees the memory of a burst if the mailbox is empty.
    fn trim(&mut self);
}

impl<M> AnyMailbox for Mailbox<M> {
    fn push_system(&mut self, system: SystemEvent) {
        let wakes = wakes(&system);
        self.push_item(Item::SystemEvent(Box::new(system)));
        if wakes && let Some(rest) = &mut self.rest {
            rest.may_wake = true;
        }
    }

    fn push_system_first(&mut self, system: SystemEvent) {
        if !matches!(self.wait, Wait::If | Wait::IfWithin) {
            self.rejoin();
        }
        if let Some(first) = self.first.replace(Item::SystemEvent(Box::new(system))) {
            let rest = self.rest();
            rest.queue.push_front(first);
            rest.may_wake = true;
        }
    }

    fn is_full(&self, max: usize) -> bool {
        self.is_full(max)
    }

    fn item_bytes(&self) -> usize {
        size_of::<Item<M>>()
    }

    fn waiting(&self) -> usize {
        self.waiting()
    }

    fn messages(&self) -> usize {
        let is_message = |item: &&Item<M>| match item {
            Item::Message(_) => true,
            Item::Attached(attached) => matches!(attached.0, Attachment::Permit(_)),
            Item::SystemEvent(_) => false,
        };
        self.items().filter(is_message).count()
    }

    fn info(&self) -> MailboxInfo {
        let bytes = |item: &Item<M>| match item {
            Item::Attached(attached) => match &attached.0 {
                Attachment::Permit(permit) => permit.amount(),
                Attachment::Tick(_) | Attachment::Own => 0,
            },
            Item::Message(_) | Item::SystemEvent(_) => 0,
        };
        let beyond = self.extras.as_ref().map_or(0, |extras| extras.open_beyond);
        MailboxInfo {
            wait: self.wait,
            waiting: self.waiting(),
            peer_bytes: self.items().map(bytes).sum(),
            open: usize::from(self.open) + beyond,
        }
    }

    fn type_name(&self) -> &'static str {
        std::any::type_name::<M>()
    }

    fn ignores_events(&self) -> bool {
        matches!(self.wait, Wait::Sleep | Wait::Suspend)
    }

    fn fire_wait(&mut self, now: Time) -> Fired {
        let waits = matches!(self.wait, Wait::Within | Wait::Sleep | Wait::IfWithin);
        let extras = self.extras();
        if !waits {
            extras.timer = None;
            return Fired::Spent;
        }
        if extras.until > now {
            return Fired::Again(extras.until);
        }
        extras.timer = None;
        extras.timeout_due = true;
        Fired::Queued
    }

    fn fire_timer(&mut self, slot: u32) -> Fired {
        let _in_use = TableInUse::begin();
        match self.pending_mut(slot) {
            None => Fired::Spent,
            Some(PendingTimer::Cancelled(_)) => {
                self.count_cancelled_tick(slot);
                Fired::Spent
            }
            Some(PendingTimer::Once(..)) => {
                if let Some(PendingTimer::Once(_, message)) = self.remove_timer(slot) {
                    self.close_one();
                    self.push_own(message);
                }
                Fired::Queued
            }
            Some(PendingTimer::Every { period, queued, .. }) => {
                let (period, needs_tick) = (*period, !*queued);
                *queued = true;
                if needs_tick {
                    self.push_system(SystemEvent::Tick(slot));
                }
                Fired::Repeat(period, needs_tick)
            }
        }
    }

    fn set_timer_key(&mut self, slot: u32, new: TimerKey) {
        match self.pending_mut(slot) {
            Some(PendingTimer::Once(key, _) | PendingTimer::Every { key, .. }) => *key = new,
            Some(PendingTimer::Cancelled(_)) | None => {}
        }
    }

    fn set_wait_timer(&mut self, key: TimerKey) {
        self.set_wait_timer(key);
    }

    fn wait_timer(&self) -> Option<TimerKey> {
        self.extras.as_ref()?.timer
    }

    fn timers(&self) -> Vec<TimerKey> {
        let Some(extras) = &self.extras else { return Vec::new() };
        let pending = extras.timers.iter().filter_map(|(_, pending)| match pending {
            PendingTimer::Once(key, _) | PendingTimer::Every { key, .. } => Some(*key),
            PendingTimer::Cancelled(_) => None,
        });
        pending.chain(extras.timer).collect()
    }

    fn drop_all(&mut self) {
        while let Some(value) = self.pop_left() {
            log_panic(|| match value {
                LeftValue::Item(item) => drop(item),
                LeftValue::Predicate(admit) => drop(admit),
                LeftValue::Timer(pending) => drop(pending),
            });
        }
    }

    fn open_one(&mut self, max: usize) -> bool {
        self.open_one(max)
    }

    fn close_one(&mut self) {
        self.close_one();
    }

    fn newest_request(&mut self) -> &mut u32 {
        &mut self.newest_request
    }

    fn trim(&mut self) {
        if self.first.is_none() && self.rest.as_ref().is_some_and(|rest| rest.len() == 0) {
            self.rest = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The actor has messages of 24 bytes, and its closure captures 16 bytes.
    #[test]
    fn idle_actor_fits_in_80_bytes() {
        let captured = size_of::<[u64; 2]>();
        let size = size_of::<Mailbox<[u64; 3]>>() + captured;
        assert!(size <= 72 + 8, "{size} bytes");
        assert!(
            size_of::<Option<crate::scheduler::cell::Cell>>() <= if cfg!(feature = "safe") { 40 } else { 16 }
        );
    }

    #[test]
    fn mailbox_keeps_order_and_is_full_at_limit() {
        let mut mailbox = Mailbox::new();
        assert!(mailbox.take_start() && !mailbox.take_start(), "an actor starts once");
        for n in 0..5 {
            assert!(!mailbox.is_full(5));
            mailbox.push(n);
        }
        assert!(mailbox.is_full(5));
        for expected in 0..5 {
            assert!(matches!(mailbox.take(), Taken::Message(n) if n == expected));
        }
        assert!(matches!(mailbox.take(), Taken::Nothing));
    }

    #[test]
    fn mailbox_is_trimmed_only_when_empty() {
        let mut mailbox = Mailbox::new();
        assert!(mailbox.take_start());
        for n in 0..1000 {
            mailbox.push(n);
        }
        mailbox.trim();
        assert!(mailbox.needs_trim(), "a mailbox with messages keeps its memory");
        while matches!(mailbox.take(), Taken::Message(_)) {}
        mailbox.trim();
        assert!(!mailbox.needs_trim());
        mailbox.push(7);
        assert!(matches!(mailbox.take(), Taken::Message(7)));
    }
}
