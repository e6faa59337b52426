//! What waits for an actor, in the order in which it came, and what the actor waits for.
//!
//! Invariant: `first` is older than all of `rest`; `rest` holds nothing while `first` is free and was not
//! just taken. Messages and events share one order, so a `Down` never overtakes the last message.

use std::collections::VecDeque;

use slab::Slab;

use crate::budget::Permit;
use crate::cell::RunState;
use crate::event::SystemEvent;
use crate::step::Admit;
use crate::time::Time;
use crate::timers::TimerKey;

/// The most open requests of one actor: questions, timers, monitors.
pub(crate) const OPEN_MAX: u16 = u16::MAX;

/// A mailbox whose `rest` grew over this many places is trimmed when it has been empty for a while.
const TRIM_OVER: usize = 256;

/// The index of no port: the end of the list that `request_ids` begins.
pub(crate) const NO_REQUEST: u32 = u32::MAX;

pub(crate) struct Mailbox<M> {
    first: Option<Item<M>>,
    #[expect(clippy::box_collection, reason = "8 bytes instead of 32 in each idle actor")]
    rest: Option<Box<VecDeque<Item<M>>>>,
    extra: Option<Box<Extra<M>>>,
    /// The newest open port of this actor; the ports hold the list.
    pub(crate) request_ids: u32,
    /// Open requests: each holds the place in which its answer will arrive.
    pub(crate) open: u16,
    wait: Wait,
    #[cfg_attr(feature = "safe", expect(dead_code, reason = "the unsafe cell's"))]
    pub(crate) state: RunState,
}

/// What few actors need: predicates, spans of waiting, timers with messages.
struct Extra<M> {
    admit: Option<Admit<M>>,
    /// How many messages the predicate has refused already.
    refused: usize,
    /// When the present waiting ends, if it does.
    until: Time,
    timer: Option<TimerKey>,
    timeout_due: bool,
    timers: Slab<Pending<M>>,
}

pub(crate) enum Pending<M> {
    Once(TimerKey, M),
    Every {
        /// The timer's name for its actor; `key` is another after each tick.
        name: TimerKey,
        key: TimerKey,
        period: std::time::Duration,
        make: Option<Make<M>>,
        queued: bool,
    },
    /// Taken back while it was due, or while its tick was waiting: the place is kept until so many came by,
    /// or they would be taken for the next tenant's.
    Cancelled(u8),
}

pub(crate) type Make<M> = Box<dyn FnMut() -> M>;

enum Item<M> {
    Message(M),
    SystemEvent(Box<SystemEvent>),
    /// With what belongs to it. One variant for both: plain messages pay for each, by an instruction or two.
    Laden(Box<(Load, M)>),
}

/// What lies in the mailbox beside a message.
enum Load {
    /// The place of the timer at whose tick it was made, to be shown to a predicate.
    Tick(u32),
    /// What somebody pays until it is taken.
    Permit(Permit),
}

/// What an actor waits for.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// Anything.
    Any,
    /// Not yet started.
    Start,
    /// Anything, until `Extra::until`.
    Within,
    /// A message that `Extra::admit` admits, or any event.
    If,
    /// `Extra::until`, or an event that wakes.
    Sleep,
    /// An event that wakes.
    Suspend,
}

/// What a mailbox gives its actor next.
pub(crate) enum Taken<M> {
    Message(M),
    SystemEvent(Box<SystemEvent>),
    Timeout,
    Nothing,
}

impl<M> Mailbox<M> {
    /// The first places of `rest`: a quarter KiB, or a few.
    const REST_MIN: usize = {
        let fit = 256 / size_of::<Item<M>>();
        if fit < 4 { 4 } else { fit }
    };

    pub(crate) fn new() -> Self {
        Self {
            first: None,
            rest: None,
            extra: None,
            request_ids: NO_REQUEST,
            open: 0,
            wait: Wait::Start,
            state: RunState::IDLE,
        }
    }

    /// A mailbox that only holds `content`, and whose actor is never run.
    pub(crate) fn holding(content: M) -> Self {
        let mut mailbox = Self::new();
        mailbox.push(content);
        mailbox
    }

    /// What [`Mailbox::holding`] was given.
    pub(crate) fn held(&mut self) -> Option<&mut M> {
        match &mut self.first {
            Some(Item::Message(content)) => Some(content),
            Some(Item::SystemEvent(_) | Item::Laden(_)) | None => None,
        }
    }

    #[cfg_attr(feature = "safe", expect(dead_code, reason = "the unsafe cell's"))]
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

    /// How many things wait.
    #[inline]
    pub(crate) fn waiting(&self) -> usize {
        let first = usize::from(self.first.is_some());
        match &self.rest {
            None => first,
            Some(rest) => first + rest.len(),
        }
    }

    /// How many steps would empty it.
    #[inline]
    pub(crate) fn due(&self) -> usize {
        self.waiting() + usize::from(self.wait == Wait::Start)
    }

    /// Whether a burst left memory behind.
    #[inline]
    pub(crate) fn wants_trim(&self) -> bool {
        self.rest.as_ref().is_some_and(|rest| rest.capacity() > TRIM_OVER)
    }

    /// Made in its place: an item that is moved there is written by words, and then read by vectors.
    #[inline]
    pub(crate) fn push(&mut self, message: M) {
        if self.first.is_none() && self.rest.as_ref().is_none_or(|rest| rest.is_empty()) {
            self.first = Some(Item::Message(message));
        } else {
            self.push_behind(Item::Message(message));
        }
    }

    /// As [`Mailbox::push`], at somebody's cost.
    pub(crate) fn push_with(&mut self, message: M, permit: Option<Permit>) {
        match permit {
            Some(permit) => self.push_item(Item::Laden(Box::new((Load::Permit(permit), message)))),
            None => self.push(message),
        }
    }

    fn push_item(&mut self, item: Item<M>) {
        if self.waiting() == 0 {
            self.first = Some(item);
        } else {
            self.push_behind(item);
        }
    }

    #[inline]
    fn push_behind(&mut self, item: Item<M>) {
        match &mut self.rest {
            Some(rest) => rest.push_back(item),
            None => self.push_second(item),
        }
    }

    #[cold]
    #[inline(never)]
    fn push_second(&mut self, item: Item<M>) {
        let mut rest = Box::new(VecDeque::with_capacity(Self::REST_MIN));
        rest.push_back(item);
        self.rest = Some(rest);
    }

    #[inline]
    fn pop_item(&mut self) -> Option<Item<M>> {
        match self.first.take() {
            Some(item) => Some(item),
            None => self.rest.as_mut()?.pop_front(),
        }
    }

    /// The next message, if the actor waits for anything, and a message is what comes next.
    #[inline]
    pub(crate) fn take_message(&mut self) -> Option<M> {
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
        match self.rest.as_mut()?.pop_front()? {
            Item::Message(message) => Some(message),
            other => {
                // Its place is free, and it is older than all of `rest`.
                self.first = Some(other);
                None
            }
        }
    }

    /// What `item` is for the actor, or else the next; ticks of cancelled timers are nothing.
    #[inline(never)]
    fn take_live(&mut self, mut item: Option<Item<M>>) -> Taken<M> {
        loop {
            match item {
                None => return Taken::Nothing,
                Some(Item::Message(message)) => return Taken::Message(message),
                Some(Item::Laden(laden)) => {
                    let (load, message) = *laden;
                    if self.unload(load) {
                        return Taken::Message(message);
                    }
                }
                Some(Item::SystemEvent(system)) => match *system {
                    SystemEvent::Tick(token) if self.is_cancelled(token) => self.pass_cancelled(token),
                    _ => return Taken::SystemEvent(system),
                },
            }
            item = self.pop_item();
        }
    }

    /// Whether the actor is to be started; once.
    pub(crate) fn take_start(&mut self) -> bool {
        let starts = self.wait == Wait::Start;
        if starts {
            self.wait = Wait::Any;
        }
        starts
    }

    /// The next thing for the actor; it then waits for anything until it answers otherwise.
    pub(crate) fn take(&mut self) -> Taken<M> {
        let taken = match self.wait {
            Wait::Any | Wait::Start | Wait::Within => {
                let item = self.pop_item();
                match self.take_live(item) {
                    Taken::Nothing => self.take_timeout(),
                    taken => taken,
                }
            }
            Wait::If => self.take_admitted(),
            Wait::Sleep | Wait::Suspend => match self.take_waking() {
                Some(system) => Taken::SystemEvent(system),
                None => self.take_timeout(),
            },
        };
        // Readiness may turn out to be of a source that is gone, and what is for the loop is not told: then the
        // waiting goes on.
        let certain = match &taken {
            Taken::Nothing => false,
            Taken::SystemEvent(system) => {
                !matches!(**system, SystemEvent::Ready(_) | SystemEvent::SocketSeen(_))
            }
            Taken::Message(_) | Taken::Timeout => true,
        };
        if certain {
            self.await_any();
        }
        taken
    }

    fn take_timeout(&mut self) -> Taken<M> {
        match &mut self.extra {
            Some(extra) if extra.timeout_due => Taken::Timeout,
            Some(_) | None => Taken::Nothing,
        }
    }

    /// The first event, or the first message that the predicate admits.
    fn take_admitted(&mut self) -> Taken<M> {
        loop {
            let Some(extra) = &mut self.extra else { return Taken::Nothing };
            let Some(admit) = &mut extra.admit else { return Taken::Nothing };
            let item = match (extra.refused, &mut self.first, &mut self.rest) {
                (0, Some(first), _) => Some(first),
                (at, first, Some(rest)) => rest.get_mut(at - usize::from(first.is_some())),
                (_, _, None) => None,
            };
            let Some(item) = item else { return Taken::Nothing };
            if judge(admit, &mut extra.timers, item) == Verdict::Refused {
                extra.refused += 1;
                continue;
            }
            let at = extra.refused;
            let item = self.remove_item(at);
            let admitted = self.take_one(item);
            if !matches!(admitted, Taken::Nothing) {
                return admitted;
            }
        }
    }

    /// What an item is for the actor; `Nothing` when it is the tick of a cancelled timer.
    fn take_one(&mut self, item: Option<Item<M>>) -> Taken<M> {
        match item {
            Some(Item::Laden(laden)) => {
                let (load, message) = *laden;
                if self.unload(load) { Taken::Message(message) } else { Taken::Nothing }
            }
            Some(Item::SystemEvent(system)) => match *system {
                SystemEvent::Tick(token) => {
                    self.pass_cancelled(token);
                    Taken::Nothing
                }
                _ => Taken::SystemEvent(system),
            },
            Some(Item::Message(message)) => Taken::Message(message),
            None => Taken::Nothing,
        }
    }

    fn remove_item(&mut self, at: usize) -> Option<Item<M>> {
        match at.checked_sub(usize::from(self.first.is_some())) {
            None => self.first.take(),
            Some(at) => self.rest.as_mut()?.remove(at),
        }
    }

    fn is_cancelled(&mut self, token: u32) -> bool {
        matches!(self.pending_mut(token), None | Some(Pending::Cancelled(_)))
    }

    /// One less of what still spoke of a cancelled timer.
    fn pass_cancelled(&mut self, token: u32) {
        if let Some(Pending::Cancelled(left)) = self.pending_mut(token) {
            *left -= 1;
            if *left == 0 {
                self.remove_timer(token);
            }
        }
    }

    /// A message is taken from beside this; false when it is of a timer that was cancelled.
    fn unload(&mut self, load: Load) -> bool {
        match load {
            Load::Tick(token) => self.end_tick(token),
            Load::Permit(permit) => {
                drop(permit);
                true
            }
        }
    }

    /// The message of a tick is taken, and the next may come; false when the timer was cancelled meanwhile.
    fn end_tick(&mut self, token: u32) -> bool {
        if let Some(Pending::Every { queued, .. }) = self.pending_mut(token) {
            *queued = false;
            return true;
        }
        self.pass_cancelled(token);
        false
    }

    /// The first event that wakes a sleeper.
    fn take_waking(&mut self) -> Option<Box<SystemEvent>> {
        if matches!(&self.first, Some(Item::SystemEvent(system)) if wakes(system)) {
            return self.pop_item().and_then(Item::system);
        }
        let rest = self.rest.as_mut()?;
        let at = rest.iter().position(|item| matches!(item, Item::SystemEvent(system) if wakes(system)))?;
        rest.remove(at).and_then(Item::system)
    }

    pub(crate) fn await_any(&mut self) {
        self.wait = Wait::Any;
        if let Some(extra) = &mut self.extra {
            extra.timeout_due = false;
            extra.refused = 0;
            // Last: its drop may panic.
            extra.admit = None;
        }
    }

    pub(crate) fn await_admitted(&mut self, admit: Admit<M>) {
        self.extra().admit = Some(admit);
        self.wait = Wait::If;
    }

    pub(crate) fn await_resume(&mut self) {
        self.wait = Wait::Suspend;
    }

    /// Waits until `until`; answers the timer that runs already, if there is one.
    pub(crate) fn await_until(&mut self, wait: Wait, until: Time) -> Option<TimerKey> {
        self.wait = wait;
        let extra = self.extra();
        extra.until = until;
        extra.timer
    }

    pub(crate) fn set_wait_timer(&mut self, timer: TimerKey) {
        self.extra().timer = Some(timer);
    }

    fn extra(&mut self) -> &mut Extra<M> {
        self.extra.get_or_insert_with(|| {
            Box::new(Extra {
                admit: None,
                refused: 0,
                until: Time::MAX,
                timer: None,
                timeout_due: false,
                timers: Slab::new(),
            })
        })
    }

    /// The place that the next timer of this mailbox will take.
    pub(crate) fn next_timer(&mut self) -> u32 {
        u32::try_from(self.extra().timers.vacant_key()).expect("at most OPEN_MAX timers are open")
    }

    pub(crate) fn add_timer(&mut self, pending: Pending<M>) {
        self.extra().timers.insert(pending);
    }

    pub(crate) fn remove_timer(&mut self, token: u32) -> Option<Pending<M>> {
        self.extra.as_mut()?.timers.try_remove(token as usize)
    }

    /// The wheel's present key for a timer of this name; `None` when it has fired or was cancelled.
    pub(crate) fn timer_key(&mut self, token: u32, name: TimerKey) -> Option<TimerKey> {
        match self.pending_mut(token)? {
            Pending::Once(key, _) => (*key == name).then_some(*key),
            Pending::Every { name: own, key, .. } => (*own == name).then_some(*key),
            Pending::Cancelled(_) => None,
        }
    }

    /// Takes a timer back; `running` when the wheel still held it.
    pub(crate) fn cancel_timer(&mut self, token: u32, running: bool) -> Option<Pending<M>> {
        let pending = self.pending_mut(token)?;
        let queued = matches!(pending, Pending::Every { queued: true, .. });
        let taken = match u8::from(!running) + u8::from(queued) {
            0 => self.remove_timer(token),
            left => Some(std::mem::replace(pending, Pending::Cancelled(left))),
        };
        self.open -= 1;
        taken
    }

    pub(crate) fn pending_mut(&mut self, token: u32) -> Option<&mut Pending<M>> {
        self.extra.as_mut()?.timers.get_mut(token as usize)
    }
}

#[derive(PartialEq, Eq)]
enum Verdict {
    Refused,
    /// Or not worth keeping.
    Admitted,
}

fn judge<M>(admit: &mut Admit<M>, timers: &mut Slab<Pending<M>>, item: &mut Item<M>) -> Verdict {
    if let Item::SystemEvent(system) = item
        && let SystemEvent::Tick(token) = **system
        && let Some(Pending::Every { make: Some(make), .. }) = timers.get_mut(token as usize)
    {
        *item = Item::Laden(Box::new((Load::Tick(token), make())));
    }
    let admitted = match item {
        Item::Message(message) => admit(message),
        Item::Laden(laden) => {
            let is_stale = match &laden.0 {
                Load::Tick(token) => !matches!(timers.get(*token as usize), Some(Pending::Every { .. })),
                Load::Permit(_) => false,
            };
            is_stale || admit(&laden.1)
        }
        Item::SystemEvent(_) => true,
    };
    if admitted { Verdict::Admitted } else { Verdict::Refused }
}

fn wakes(system: &SystemEvent) -> bool {
    match system {
        SystemEvent::Terminate | SystemEvent::Resumed(_) | SystemEvent::Thrown(_) => true,
        SystemEvent::Metered(system, _) => wakes(system),
        SystemEvent::Down(_)
        | SystemEvent::Swap(_)
        | SystemEvent::Writable(_)
        | SystemEvent::Ready(_)
        | SystemEvent::SocketSeen(_)
        | SystemEvent::Tick(_) => false,
    }
}

impl<M> Item<M> {
    fn system(self) -> Option<Box<SystemEvent>> {
        match self {
            Self::SystemEvent(system) => Some(system),
            Self::Message(_) | Self::Laden(_) => None,
        }
    }
}

/// What becomes of a fired timer.
pub(crate) enum Fired {
    /// Something came into the mailbox.
    Queued,
    /// Wait on, until then.
    Again(Time),
    /// Repeat after this span; something came into the mailbox if `true`.
    Repeat(std::time::Duration, bool),
    /// Nobody waits for it any more.
    Spent,
}

/// A mailbox without the type of its messages.
pub(crate) trait AnyMailbox {
    fn push_system(&mut self, system: SystemEvent);
    fn is_full_of(&self, max: usize) -> bool;
    /// Messages and events that wait.
    fn waiting_in_all(&self) -> usize;
    /// The waiting of `receive_within` or `sleep` may be over.
    fn fire_wait(&mut self, now: Time) -> Fired;
    /// The timer in place `token` is due.
    fn fire_timer(&mut self, token: u32) -> Fired;
    fn set_timer_key(&mut self, token: u32, key: TimerKey);
    fn set_waiting_timer(&mut self, key: TimerKey);
    fn waiting_timer(&self) -> Option<TimerKey>;
    /// All timers that are still running.
    fn timers(&self) -> Vec<TimerKey>;
    /// Whether it holds nothing whose drop could panic.
    fn is_vacant(&self) -> bool;
    /// Takes one message out, and drops it; false when there is none. The drop may panic.
    fn drop_one(&mut self) -> bool;
    fn opened(&mut self) -> &mut u16;
    fn ports(&mut self) -> &mut u32;
    /// Frees memory that a burst left behind, if nothing waits.
    fn trim(&mut self);
}

impl<M> AnyMailbox for Mailbox<M> {
    fn push_system(&mut self, system: SystemEvent) {
        self.push_item(Item::SystemEvent(Box::new(system)));
    }

    fn is_full_of(&self, max: usize) -> bool {
        self.is_full(max)
    }

    fn waiting_in_all(&self) -> usize {
        self.waiting()
    }

    fn fire_wait(&mut self, now: Time) -> Fired {
        let waits = matches!(self.wait, Wait::Within | Wait::Sleep);
        let extra = self.extra();
        if !waits {
            extra.timer = None;
            return Fired::Spent;
        }
        if extra.until > now {
            return Fired::Again(extra.until);
        }
        extra.timer = None;
        extra.timeout_due = true;
        Fired::Queued
    }

    fn fire_timer(&mut self, token: u32) -> Fired {
        match self.pending_mut(token) {
            None => Fired::Spent,
            Some(Pending::Cancelled(_)) => {
                self.pass_cancelled(token);
                Fired::Spent
            }
            Some(Pending::Once(..)) => {
                if let Some(Pending::Once(_, message)) = self.remove_timer(token) {
                    self.open -= 1;
                    self.push(message);
                }
                Fired::Queued
            }
            Some(Pending::Every { period, queued, .. }) => {
                let (period, fresh) = (*period, !*queued);
                *queued = true;
                if fresh {
                    self.push_system(SystemEvent::Tick(token));
                }
                Fired::Repeat(period, fresh)
            }
        }
    }

    fn set_timer_key(&mut self, token: u32, new: TimerKey) {
        match self.pending_mut(token) {
            Some(Pending::Once(key, _) | Pending::Every { key, .. }) => *key = new,
            Some(Pending::Cancelled(_)) | None => {}
        }
    }

    fn set_waiting_timer(&mut self, key: TimerKey) {
        self.set_wait_timer(key);
    }

    fn waiting_timer(&self) -> Option<TimerKey> {
        self.extra.as_ref()?.timer
    }

    fn timers(&self) -> Vec<TimerKey> {
        let Some(extra) = &self.extra else { return Vec::new() };
        let pending = extra.timers.iter().filter_map(|(_, pending)| match pending {
            Pending::Once(key, _) | Pending::Every { key, .. } => Some(*key),
            Pending::Cancelled(_) => None,
        });
        pending.chain(extra.timer).collect()
    }

    fn is_vacant(&self) -> bool {
        self.waiting() == 0 && self.extra.is_none()
    }

    fn drop_one(&mut self) -> bool {
        if let Some(item) = self.pop_item() {
            drop(item);
            return true;
        }
        let Some(extra) = &mut self.extra else { return false };
        if let Some(admit) = extra.admit.take() {
            extra.refused = 0;
            drop(admit);
            return true;
        }
        // Nobody waits any more: `refused` counts the places that were looked into.
        while extra.refused < extra.timers.capacity() {
            let pending = extra.timers.try_remove(extra.refused);
            extra.refused += 1;
            if pending.is_some() {
                return true;
            }
        }
        false
    }

    fn opened(&mut self) -> &mut u16 {
        &mut self.open
    }

    fn ports(&mut self) -> &mut u32 {
        &mut self.request_ids
    }

    fn trim(&mut self) {
        if self.first.is_none() && self.rest.as_ref().is_some_and(|rest| rest.is_empty()) {
            self.rest = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_mailbox_of_24_byte_messages_leaves_room_for_16_captured_bytes_within_80() {
        let captured = size_of::<[u64; 2]>();
        let size = size_of::<Mailbox<[u64; 3]>>() + captured;
        assert!(size <= 72 + 8, "{size} bytes");
        assert!(size_of::<Option<crate::cell::Cell>>() <= if cfg!(feature = "safe") { 32 } else { 16 });
    }

    #[test]
    fn a_mailbox_is_in_order_and_full_at_its_limit() {
        let mut mailbox = Mailbox::new();
        assert!(mailbox.take_start() && !mailbox.take_start(), "once");
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
    fn what_a_burst_leaves_behind_is_trimmed_when_nothing_waits() {
        let mut mailbox = Mailbox::new();
        assert!(mailbox.take_start());
        for n in 0..1000 {
            mailbox.push(n);
        }
        mailbox.trim();
        assert!(mailbox.wants_trim(), "it is in use");
        while matches!(mailbox.take(), Taken::Message(_)) {}
        mailbox.trim();
        assert!(!mailbox.wants_trim());
        mailbox.push(7);
        assert!(matches!(mailbox.take(), Taken::Message(7)));
    }
}
