//! Actors with sockets that run closures for a test and record their socket events. All run on one loop, which the test
//! drives.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use antiphon_dist::{Tls, TlsConfig, TlsFault};
use antiphon_sched::{
    Addr, Conn, Cx, Endpoint, Event, Framing, Loop, LoopConfig, SendError, SocketError, SocketEvent, actor,
    millis, receive, suspend,
};
use tracing::subscriber::DefaultGuard;

use crate::common::certs::Files;
use crate::common::{Log, PATIENCE};

pub(crate) const FRAMES: Framing = Framing::LengthPrefixed { max: 1 << 20 };

/// A socket event of a connection, in a form that tests can compare. An error is represented by its cause.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ConnEvent {
    Opened,
    Data(Vec<u8>),
    Writable,
    Closed,
    Tls(TlsFault),
    Socket(SocketError),
    Error(io::ErrorKind),
}

/// A message to a [`SocketActor`].
pub(crate) enum ActorInput {
    Socket(Conn, SocketEvent),
    /// A closure to run in a step of the actor.
    Run(Action),
}

type Action = Box<dyn FnOnce(&mut Cx<'_, ActorInput>)>;

/// The loop of a test, and the log of its thread down to the level `debug`.
pub(crate) struct SocketTest {
    pub(crate) event_loop: Loop,
    pub(crate) log: Log,
    _guard: DefaultGuard,
}

/// An actor with sockets, and the events that it has received.
#[derive(Clone)]
pub(crate) struct SocketActor {
    pub(crate) addr: Addr<ActorInput>,
    events: Rc<RefCell<Vec<(Conn, ConnEvent)>>>,
    /// Whether the actor suspends itself at the end of its current step.
    suspends: Rc<Cell<bool>>,
}

/// Handles an event of a connection after it is converted and before it is recorded.
pub(crate) type EventHandler = fn(&mut Cx<'_, ActorInput>, Conn, &ConnEvent);

pub(crate) fn ignore(_: &mut Cx<'_, ActorInput>, _: Conn, _: &ConnEvent) {}

/// Sends data back on its connection.
pub(crate) fn echo(cx: &mut Cx<'_, ActorInput>, conn: Conn, event: &ConnEvent) {
    if let ConnEvent::Data(data) = event {
        cx.write(conn, data);
    }
}

/// TLS with the certificate `own`, which accepts the certificates of `pinned`.
pub(crate) fn tls(own: &Files, pinned: &[&Files]) -> Tls {
    let pinned = pinned.iter().map(|files| files.cert.clone()).collect();
    let config = TlsConfig { certfile: own.both.clone(), pinned, ..TlsConfig::default() };
    Tls::new(&config).expect("the files are valid")
}

pub(crate) fn data(text: impl AsRef<[u8]>) -> ConnEvent {
    ConnEvent::Data(text.as_ref().to_vec())
}

impl ConnEvent {
    fn of(event: SocketEvent) -> Self {
        match event {
            SocketEvent::Opened(_) => Self::Opened,
            SocketEvent::Data(data) => Self::Data(data),
            SocketEvent::Writable => Self::Writable,
            SocketEvent::Closed(None) => Self::Closed,
            SocketEvent::Closed(Some(reason)) => Self::reason(&reason),
            other => panic!("{other:?}"),
        }
    }

    fn reason(reason: &io::Error) -> Self {
        let fault = TlsFault::of(reason).map(Self::Tls);
        let error = reason.get_ref().and_then(|inner| inner.downcast_ref()).copied().map(Self::Socket);
        fault.or(error).unwrap_or(Self::Error(reason.kind()))
    }

    /// Whether the connection has ended with this event.
    pub(crate) fn is_end(&self) -> bool {
        !matches!(self, Self::Opened | Self::Data(_) | Self::Writable)
    }
}

impl SocketTest {
    pub(crate) fn new() -> Self {
        Self::with_mailboxes(65_536)
    }

    pub(crate) fn with_mailboxes(mailbox_max: usize) -> Self {
        let config = LoopConfig { mailbox_max, watchdog: None, ..LoopConfig::default() };
        let log = Log::default();
        let _guard = log.attach_at(tracing::Level::DEBUG);
        Self { event_loop: Loop::new(config).expect("the system has an event queue"), log, _guard }
    }

    pub(crate) fn spawn(&mut self, handler: EventHandler) -> SocketActor {
        let (events, suspends) = (Rc::new(RefCell::new(Vec::new())), Rc::new(Cell::new(false)));
        let (recorded, suspends_now) = (events.clone(), suspends.clone());
        let addr = self.event_loop.spawn_actor(actor(move |cx: &mut Cx<ActorInput>, event| {
            match event {
                Event::Message(ActorInput::Socket(conn, event)) => {
                    let event = ConnEvent::of(event);
                    handler(cx, conn, &event);
                    recorded.borrow_mut().push((conn, event));
                }
                Event::Message(ActorInput::Run(action)) => action(cx),
                _ => {}
            }
            if suspends_now.take() { suspend() } else { receive() }
        }));
        SocketActor { addr, events, suspends }
    }

    /// Runs a closure in a step of an actor, and returns its result.
    pub(crate) fn run_step<R: 'static>(
        &mut self,
        actor: &SocketActor,
        action: impl FnOnce(&mut Cx<'_, ActorInput>) -> R + 'static,
    ) -> R {
        let result = Rc::new(RefCell::new(None));
        let slot = result.clone();
        let run = ActorInput::Run(Box::new(move |cx| *slot.borrow_mut() = Some(action(cx))));
        let mut run = Some(run);
        self.run_until("room in the actor's mailbox", |test| {
            match run.take().map(|run| test.event_loop.send(actor.addr, run)) {
                Some(Err(SendError::Full(message))) => run = Some(message),
                Some(Err(reason)) => panic!("the actor does not accept the closure: {reason}"),
                Some(Ok(())) | None => {}
            }
            run.is_none()
        });
        self.run_until("the step of the actor", |_| result.borrow().is_some());
        result.take().expect("the step has set the result")
    }

    pub(crate) fn listen(&mut self, actor: &SocketActor, at: impl Endpoint + 'static) -> SocketAddr {
        self.run_step(actor, |cx| cx.listen(at, FRAMES, ActorInput::Socket)).expect("a port is free")
    }

    pub(crate) fn connect(&mut self, actor: &SocketActor, to: impl Endpoint + 'static) -> Conn {
        self.run_step(actor, |cx| cx.connect(to, FRAMES, PATIENCE, ActorInput::Socket))
    }

    pub(crate) fn write(&mut self, actor: &SocketActor, conn: Conn, data: impl AsRef<[u8]>) {
        let data = data.as_ref().to_vec();
        self.run_step(actor, move |cx| cx.write(conn, data));
    }

    /// Suspends an actor. It handles no messages until it is resumed.
    pub(crate) fn suspend(&mut self, actor: &SocketActor) {
        actor.suspends.set(true);
        self.run_step(actor, |_| ());
    }

    pub(crate) fn resume(&mut self, actor: &SocketActor) {
        let addr = actor.addr;
        self.event_loop.spawn(move |cx: &mut Cx<()>, _| {
            cx.resume(addr, ());
            antiphon_sched::stop()
        });
    }

    /// Runs the loop until a condition holds. Panics after [`PATIENCE`]; `what` names the condition.
    #[track_caller]
    pub(crate) fn run_until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let started = Instant::now();
        while !holds(self) {
            assert!(
                started.elapsed() < PATIENCE,
                "waited {PATIENCE:?} for {what}: {:?}",
                self.event_loop.stats()
            );
            self.run_once(5);
        }
    }

    /// Runs the loop once, for at most this number of milliseconds.
    fn run_once(&mut self, millis_max: u64) {
        let deadline = self.event_loop.now() + millis(millis_max);
        self.event_loop.run_once(Some(deadline)).expect("the system has an event queue");
    }

    /// Runs the loop until no actor is runnable.
    pub(crate) fn run_until_idle(&mut self) {
        self.run_until("an idle loop", |test| {
            test.run_once(0);
            !test.event_loop.is_runnable()
        });
    }

    /// Runs the loop at least 100 times. A test calls this before it checks that something has not happened.
    pub(crate) fn run_for_a_while(&mut self) {
        for _ in 0..100 {
            self.run_once(1);
        }
    }

    /// Runs the loop until the mailbox of a suspended actor is full, and for a while longer.
    #[track_caller]
    pub(crate) fn run_until_full(&mut self, actor: &SocketActor) {
        let key = actor.addr.id().key();
        self.run_until("a full mailbox", |test| {
            test.event_loop.local_actors().mailboxes().has_room(key) == Some(false)
        });
        self.run_for_a_while();
    }

    /// Runs the loop until a connection has ended, and returns its events.
    #[track_caller]
    pub(crate) fn run_until_ended(&mut self, actor: &SocketActor, conn: Conn) -> Vec<ConnEvent> {
        self.run_until("the end of the connection", |_| {
            actor.events_of(conn).last().is_some_and(ConnEvent::is_end)
        });
        actor.events_of(conn)
    }

    /// Runs the loop until an actor has received events of `count` connections, and returns the last of these.
    #[track_caller]
    pub(crate) fn run_until_accepted(&mut self, actor: &SocketActor, count: usize) -> Conn {
        self.run_until("a connection", |_| actor.conns().len() >= count);
        actor.conns()[count - 1]
    }

    /// Runs the loop until a thread has finished, and returns its result.
    #[track_caller]
    pub(crate) fn run_until_finished<R>(&mut self, thread: std::thread::JoinHandle<R>) -> R {
        self.run_until("the end of the peer's thread", |_| thread.is_finished());
        thread.join().expect("the peer does not panic")
    }

    /// Runs the loop until the log contains the text of a fault.
    #[track_caller]
    pub(crate) fn run_until_logged(&mut self, fault: TlsFault) {
        let text = fault.to_string();
        self.run_until("the fault in the log", |test| !test.log.lines(&text).is_empty());
    }

    /// Runs the loop until it has this number of sockets.
    #[track_caller]
    pub(crate) fn run_until_sockets(&mut self, sockets: usize) {
        self.run_until("the number of sockets", |test| test.event_loop.stats().sockets == sockets);
    }
}

impl SocketActor {
    /// The events of a connection, in order.
    pub(crate) fn events_of(&self, conn: Conn) -> Vec<ConnEvent> {
        let events = self.events.borrow();
        events.iter().filter(|(of, _)| *of == conn).map(|(_, event)| event.clone()).collect()
    }

    pub(crate) fn has(&self, conn: Conn, event: &ConnEvent) -> bool {
        self.events.borrow().iter().any(|(of, recorded)| *of == conn && recorded == event)
    }

    /// The connections that have events, in order.
    pub(crate) fn conns(&self) -> Vec<Conn> {
        let mut conns: Vec<Conn> = self.events.borrow().iter().map(|(conn, _)| *conn).collect();
        conns.sort();
        conns.dedup();
        conns
    }

    pub(crate) fn has_no_events(&self) -> bool {
        self.events.borrow().is_empty()
    }

    /// The number of events of all connections.
    pub(crate) fn event_count(&self) -> usize {
        self.events.borrow().len()
    }
}
