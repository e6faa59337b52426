//! Helpers for tests and examples.

use std::any::type_name;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, UdpSocket};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::time::Duration;

use crate::actor_event::Event;
use crate::addr::Addr;
use crate::cx::Cx;
use crate::event_loop::{Loop, LoopConfig, Platform};
use crate::id::NodeId;
use crate::step::receive;
use crate::time::Time;

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
