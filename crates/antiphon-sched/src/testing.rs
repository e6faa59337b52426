//! Helpers for tests and examples.

use std::any::type_name;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::net::{Ipv4Addr, UdpSocket};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::time::Duration;

use crate::actor::{
    Actor, Addr, Admit, Cx, Event, ExitReason, Next, Step, Then, Thrown, Value, finishing, receive,
};
#[cfg(feature = "serde")]
use crate::error::{DecodeError, EncodeError};
use crate::event_loop::{Loop, LoopConfig, Platform};
use crate::id::NodeId;
#[cfg(feature = "serde")]
use crate::remote::{EncodeMode, MESSAGE_BYTES_MAX, Wire, decode_with_context, encode_with_context};
use crate::scheduler::{StepEffect, debug_assert_no_table_in_use};
use antiphon_types::Time;

/// Returns a UDP port that is free at the moment on 127.0.0.1, on 127.0.0.2 and on the broadcast address of
/// loopback.
///
/// # Panics
/// When the system has no free port.
pub fn free_udp_port() -> u16 {
    for _ in 0..64 {
        let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)) else { continue };
        let Ok(at) = socket.local_addr() else { continue };
        let others = [Ipv4Addr::new(127, 255, 255, 255), Ipv4Addr::new(127, 0, 0, 2)];
        if others.iter().all(|ip| UdpSocket::bind((*ip, at.port())).is_ok()) {
            return at.port();
        }
    }
    panic!("no free UDP port on loopback in 64 attempts");
}

/// Encodes a value as the loop `node` does for another node. Unlike [`Wire::encode`], it also encodes addresses and replies.
///
/// # Errors
/// The value has no encoding.
#[doc(hidden)]
#[cfg(feature = "serde")]
pub fn encode_as<T: Wire>(node: NodeId, value: &T) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = Vec::new();
    let encode = || value.encode(&mut bytes);
    let (encoded, _) = encode_with_context(node, MESSAGE_BYTES_MAX, EncodeMode::Send, encode);
    encoded.map(|()| bytes)
}

/// Decodes a value as the loop `node` does that has received it from another node.
///
/// # Errors
/// The bytes are no value of this type.
#[doc(hidden)]
#[cfg(feature = "serde")]
pub fn decode_as<T: Wire>(node: NodeId, bytes: &[u8]) -> Result<T, DecodeError> {
    let (value, decoded) = decode_with_context(node, || T::decode_all(bytes));
    decoded.accept(node);
    value
}

/// A loop on virtual time, for tests of actors: the time stands still until the test lets it pass.
///
/// ```
/// use antiphon_sched::testing::{ProbeActor, TestLoop};
/// use antiphon_sched::{Cx, Event, receive_within, secs, stop};
///
/// let mut test = TestLoop::new(1);
/// let probe = ProbeActor::start(&mut test);
/// let reports = probe.addr();
/// test.spawn(move |cx: &mut Cx<u32>, event| match event {
///     Event::Message(number) => {
///         cx.tell(reports, format!("received {number}"));
///         receive_within(secs(60))
///     }
///     Event::Timeout => {
///         cx.tell(reports, "nothing for a minute".to_owned());
///         stop()
///     }
///     _ => receive_within(secs(60)),
/// });
/// test.pass(secs(59));
/// assert_eq!(probe.take(), Vec::<String>::new());
/// test.pass(secs(1));
/// assert_eq!(probe.take(), ["nothing for a minute"]);
/// ```
#[derive(Debug)]
pub struct TestLoop {
    events: Loop,
}

/// Rounds without a pause after which a loop is regarded as endlessly busy.
const ROUNDS_MAX: u32 = 1_000_000;

impl TestLoop {
    /// A loop whose random numbers come from `seed`.
    pub fn new(seed: u64) -> Self {
        let virtual_loop = LoopConfig {
            platform: Platform::Virtual,
            seed: Some(seed),
            node_id: Some(NodeId::from_bits(seed)),
            ..LoopConfig::default()
        };
        let mut events = Loop::new(virtual_loop).expect("a virtual loop needs no resources of the system");
        events.keep_failures();
        Self { events }
    }

    /// The actors that have failed without a monitor, and why; at most 64.
    pub fn failures(&self) -> &[String] {
        self.events.failures()
    }

    /// Runs the actors until none has anything to do. Time does not pass.
    ///
    /// # Panics
    /// If they go on for a million rounds.
    #[track_caller]
    pub fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            self.events.work();
            if !self.events.is_runnable() {
                return;
            }
        }
        panic!("the actors are still busy after {ROUNDS_MAX} rounds");
    }

    /// Lets `span` pass: timers fire at their times, and the actors handle what they cause.
    ///
    /// # Panics
    /// As [`TestLoop::settle`].
    #[track_caller]
    pub fn pass(&mut self, span: Duration) {
        let end = self.events.now() + span;
        self.run_until_time(end, |_| false);
    }

    /// Lets time pass until `condition` holds, at most for `within`. It is checked whenever no actor has anything to do.
    /// Returns whether it holds.
    ///
    /// # Panics
    /// As [`TestLoop::settle`].
    #[track_caller]
    pub fn run_until(&mut self, within: Duration, condition: impl FnMut(&mut Loop) -> bool) -> bool {
        let end = self.events.now() + within;
        self.run_until_time(end, condition)
    }

    #[track_caller]
    fn run_until_time(&mut self, end: Time, mut condition: impl FnMut(&mut Loop) -> bool) -> bool {
        loop {
            self.settle();
            if condition(&mut self.events) {
                return true;
            }
            match self.events.next_deadline().filter(|next| *next <= end) {
                Some(next) => self.events.advance_to(next),
                None if self.events.now() < end => self.events.advance_to(end),
                None => return false,
            }
        }
    }
}

impl Deref for TestLoop {
    type Target = Loop;

    fn deref(&self) -> &Loop {
        &self.events
    }
}

impl DerefMut for TestLoop {
    fn deref_mut(&mut self) -> &mut Loop {
        &mut self.events
    }
}

/// An actor that keeps what it receives, in the place of one that the program has. It is a daemon.
#[derive(Debug)]
pub struct ProbeActor<M> {
    addr: Addr<M>,
    received: Rc<RefCell<VecDeque<M>>>,
}

impl<M: 'static> ProbeActor<M> {
    /// Starts a probe in a loop.
    pub fn start(events: &mut Loop) -> Self {
        Self::start_with(events, |_| {})
    }

    /// Starts a probe that calls `begin` in its first step, for example to register a name.
    pub fn start_with(events: &mut Loop, begin: impl FnOnce(&mut Cx<'_, M>) + 'static) -> Self {
        let received = Rc::new(RefCell::new(VecDeque::new()));
        let (seen, mut begin) = (received.clone(), Some(begin));
        let addr = events.spawn(move |cx: &mut Cx<'_, M>, event| {
            match event {
                Event::Start => {
                    cx.set_daemon(true);
                    cx.set_name("probe");
                    if let Some(begin) = begin.take() {
                        begin(cx);
                    }
                }
                Event::Message(message) => seen.borrow_mut().push_back(message),
                _ => {}
            }
            receive()
        });
        Self { addr, received }
    }

    /// Its address.
    pub fn addr(&self) -> Addr<M> {
        self.addr
    }

    /// Takes all messages that it has received since the last call.
    pub fn take(&self) -> Vec<M> {
        self.received.borrow_mut().drain(..).collect()
    }

    /// Lets time pass until there is a message, and takes it.
    ///
    /// # Panics
    /// If none arrives within this time.
    #[track_caller]
    pub fn expect(&self, events: &mut TestLoop, within: Duration) -> M {
        let arrived = events.run_until(within, |_| !self.received.borrow().is_empty());
        assert!(
            arrived,
            "the probe has received no message of type {} within {within:?}; actors that have failed: {:?}",
            type_name::<M>(),
            events.failures()
        );
        self.received.borrow_mut().pop_front().expect("a message has arrived")
    }
}

/// An actor that the test steps, with events that the test chooses. Its loop never runs it.
///
/// It has a place and an address in the loop, so its [`Cx`] works as in every other actor: it sends, asks, sets timers and
/// monitors. What arrives at its address is collected for [`SteppedActor::take_received`]. Its waits have no effect:
/// no [`Event::Timeout`] arrives by itself, and messages that a wait would leave in the mailbox are collected too.
///
/// ```
/// use antiphon_sched::testing::{ProbeActor, Stepped, SteppedActor, TestLoop};
/// use antiphon_sched::{Cx, Event, actor, receive_within, secs, stop};
///
/// let mut test = TestLoop::new(1);
/// let probe = ProbeActor::start(&mut test);
/// let reports = probe.addr();
/// let watch = actor(move |cx: &mut Cx<u32>, event| match event {
///     Event::Timeout => {
///         cx.tell(reports, "nothing for a minute".to_owned());
///         stop()
///     }
///     _ => receive_within(secs(60)),
/// });
///
/// let mut watch = SteppedActor::new(&mut test, watch);
/// assert_eq!(watch.step(&mut test, Event::Start), Stepped::ReceiveWithin(secs(60)));
/// assert_eq!(watch.step(&mut test, Event::Message(7)), Stepped::ReceiveWithin(secs(60)));
/// assert_eq!(watch.step(&mut test, Event::Timeout), Stepped::Stopped);
/// test.settle();
/// assert_eq!(probe.take(), ["nothing for a minute"]);
/// ```
pub struct SteppedActor<M> {
    addr: Addr<M>,
    actor: Box<dyn Actor<M>>,
    admitted: AdmittedMessages<M>,
    /// Filled by the collector that has the actor's place in the loop.
    received: Rc<RefCell<Vec<Event<M>>>>,
    /// Set by the loop when the actor ends.
    exit_reason: Rc<RefCell<Option<ExitReason>>>,
}

/// What a step of a [`SteppedActor`] returned.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Stepped {
    /// The result of [`receive`].
    Receive,
    /// The result of [`receive_within`](crate::receive_within), with its span.
    ReceiveWithin(Duration),
    /// The result of [`receive_if`](crate::receive_if). [`SteppedActor::admits`] calls its predicate.
    ReceiveIf,
    /// The result of [`receive_if_within`](crate::receive_if_within), with its span.
    ReceiveIfWithin(Duration),
    /// The result of [`receive_again`](crate::receive_again).
    ReceiveAgain,
    /// The result of [`sleep`](crate::sleep), with its span.
    Sleep(Duration),
    /// The result of [`suspend`](crate::suspend).
    Suspend,
    /// The result of [`finishing`], with its span.
    Finishing(Duration),
    /// The result of [`swap`](crate::swap) or [`swap_actor`](crate::swap_actor). The new behaviour is in place.
    Swapped,
    /// The actor has ended, by [`stop`](crate::stop), [`exit`](crate::exit) or [`exit_local`](crate::exit_local).
    /// [`SteppedActor::exit_reason`] has the exit value.
    Stopped,
    /// The actor has ended by a failure with this text, or because it did not handle an exception.
    Failed(String),
    /// The actor has ended, because it received [`Event::Terminate`] and needs no time to finish.
    Terminated,
}

/// Which messages the actor waits for.
enum AdmittedMessages<M> {
    All,
    None,
    If(Admit<M>),
}

/// Collects the events of a stepped actor, in its place in the loop.
struct Collector<M> {
    received: Rc<RefCell<Vec<Event<M>>>>,
}

impl<M: 'static> Actor<M> for Collector<M> {
    fn step(&mut self, _: &mut Cx<'_, M>, event: Event<M>) -> Step<M> {
        let collected = match event {
            Event::Start => return receive(),
            // The exception is for the stepped actor: here it is handled.
            Event::Thrown(thrown) => Event::Thrown(Thrown::new(thrown.take()).0),
            event => event,
        };
        let is_terminated = matches!(collected, Event::Terminate);
        self.received.borrow_mut().push(collected);
        if is_terminated { finishing(Duration::MAX) } else { receive() }
    }
}

impl<M: 'static> SteppedActor<M> {
    /// Gives the actor a place in the loop. Its first step is that of [`Event::Start`], if the test begins with it.
    pub fn new(test: &mut TestLoop, actor: impl Actor<M>) -> Self {
        let received = Rc::new(RefCell::new(Vec::new()));
        let addr = test.spawn_actor(Collector { received: received.clone() });
        let exit_reason = test.exit_of(addr);
        Self { addr, actor: Box::new(actor), admitted: AdmittedMessages::All, received, exit_reason }
    }

    /// Its address.
    pub fn addr(&self) -> Addr<M> {
        self.addr
    }

    /// Runs one step with `event`, and returns what the step returned. Neither the loop nor its time advances.
    ///
    /// The actor ends as in a loop: with `stop`, `exit` or a failure, after [`Event::Terminate`] unless it returns `finishing`,
    /// and after an exception that it does not handle. Then its monitors get a [`Down`](crate::Down).
    ///
    /// # Panics
    /// If the actor has ended, or if the step panics.
    #[track_caller]
    pub fn step(&mut self, test: &mut TestLoop, event: Event<M>) -> Stepped {
        assert_eq!(test.node_id(), self.addr.id().node(), "the stepped actor belongs to another loop");
        if let Some(reason) = self.exit_reason() {
            panic!("the stepped actor has ended ({reason}), so it takes no further step");
        }
        let (scheduler, key) = (test.loop_ref().scheduler, self.addr.id().key());
        let effect = StepEffect::of(&event);
        debug_assert_no_table_in_use();
        scheduler.core.set_current(Some(key));
        let step = self.actor.step(&mut Cx::new(scheduler, key), event);
        scheduler.core.set_current(None);
        let result = match effect.and_then(|effect| effect.exit_reason(&step)) {
            Some(reason) => Err(reason),
            None => self.follow(step),
        };
        result.unwrap_or_else(|reason| {
            let stepped = match &reason {
                ExitReason::Failed(text) => Stepped::Failed(text.clone()),
                ExitReason::Terminated => Stepped::Terminated,
                _ => Stepped::Stopped,
            };
            scheduler.core.end_actor(key, reason);
            stepped
        })
    }

    /// Applies the result of a step to this value. The error is why the actor ends.
    fn follow(&mut self, step: Step<M>) -> Result<Stepped, ExitReason> {
        let Next(then) = step.map_err(|failure| ExitReason::Failed(failure.into_text()))?;
        let (stepped, admitted) = match then {
            Then::Receive => (Stepped::Receive, AdmittedMessages::All),
            Then::Within(span) => (Stepped::ReceiveWithin(span), AdmittedMessages::All),
            Then::If(admit) => (Stepped::ReceiveIf, AdmittedMessages::If(admit)),
            Then::IfWithin(span, admit) => (Stepped::ReceiveIfWithin(span), AdmittedMessages::If(admit)),
            Then::Again => (Stepped::ReceiveAgain, self.admitted_again()),
            Then::Sleep(span) => (Stepped::Sleep(span), AdmittedMessages::None),
            Then::Suspend => (Stepped::Suspend, AdmittedMessages::None),
            Then::Finish(span) => (Stepped::Finishing(span), AdmittedMessages::All),
            Then::Swap(next) => {
                self.actor = next;
                (Stepped::Swapped, AdmittedMessages::All)
            }
            Then::Exit(value) => return Err(ExitReason::Done(value.map_or(Value::unit(), |value| *value))),
        };
        self.admitted = admitted;
        Ok(stepped)
    }

    /// The wait of `receive_again`: that of the last `receive_if`, if the actor has not waited in another way since.
    fn admitted_again(&mut self) -> AdmittedMessages<M> {
        match std::mem::replace(&mut self.admitted, AdmittedMessages::All) {
            AdmittedMessages::If(admit) => AdmittedMessages::If(admit),
            AdmittedMessages::All | AdmittedMessages::None => AdmittedMessages::All,
        }
    }

    /// Whether the wait of the last step admits this message: a predicate of [`receive_if`](crate::receive_if) is called, and
    /// `sleep` and `suspend` admit none.
    pub fn admits(&mut self, message: &M) -> bool {
        match &mut self.admitted {
            AdmittedMessages::All => true,
            AdmittedMessages::None => false,
            AdmittedMessages::If(admit) => admit(message),
        }
    }

    /// Runs the other actors until none has anything to do, and takes all events that have arrived at this actor since the last
    /// call. The test decides which of them to pass to [`SteppedActor::step`]. [`Event::Start`] and [`Event::Timeout`] never
    /// arrive.
    ///
    /// # Panics
    /// As [`TestLoop::settle`].
    #[track_caller]
    pub fn take_received(&mut self, test: &mut TestLoop) -> Vec<Event<M>> {
        test.settle();
        self.received.take()
    }

    /// Why the actor has ended, with its exit value; `None` as long as it has not.
    pub fn exit_reason(&self) -> Option<ExitReason> {
        self.exit_reason.borrow().clone()
    }
}

impl<M> fmt::Debug for SteppedActor<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SteppedActor").field("addr", &self.addr).finish_non_exhaustive()
    }
}
