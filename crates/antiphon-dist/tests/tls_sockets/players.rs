//! Actors with sockets that do what a test says, and keep what they hear; all on one loop, which the test turns.

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

/// What was told of a connection; errors by what is inside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Told {
    Opened,
    Data(Vec<u8>),
    Writable,
    Closed,
    Tls(TlsFault),
    SocketEvent(SocketError),
    Error(io::ErrorKind),
}

pub(crate) enum Note {
    Net(Conn, SocketEvent),
    Do(Act),
}

type Act = Box<dyn FnOnce(&mut Cx<'_, Note>)>;

/// The loop, and what is logged on its thread, `debug` too.
pub(crate) struct Stage {
    pub(crate) events: Loop,
    pub(crate) log: Log,
    _logged: DefaultGuard,
}

#[derive(Clone)]
pub(crate) struct Player {
    pub(crate) addr: Addr<Note>,
    heard: Rc<RefCell<Vec<(Conn, Told)>>>,
    dozes: Rc<Cell<bool>>,
}

/// What a player does with what it hears, besides keeping it.
pub(crate) type Reaction = fn(&mut Cx<'_, Note>, Conn, &Told);

pub(crate) fn nothing(_: &mut Cx<'_, Note>, _: Conn, _: &Told) {}

/// Sends back what came.
pub(crate) fn echo(cx: &mut Cx<'_, Note>, conn: Conn, told: &Told) {
    if let Told::Data(data) = told {
        cx.write(conn, data);
    }
}

/// TLS with these files, letting in those of `pinned`.
pub(crate) fn tls(own: &Files, pinned: &[&Files]) -> Tls {
    let pinned = pinned.iter().map(|files| files.cert.clone()).collect();
    let config = TlsConfig { certfile: own.both.clone(), pinned, ..TlsConfig::default() };
    Tls::new(&config).expect("sound files")
}

pub(crate) fn data(text: impl AsRef<[u8]>) -> Told {
    Told::Data(text.as_ref().to_vec())
}

impl Told {
    fn of(what: SocketEvent) -> Self {
        match what {
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
        let error = reason.get_ref().and_then(|inner| inner.downcast_ref()).copied().map(Self::SocketEvent);
        fault.or(error).unwrap_or(Self::Error(reason.kind()))
    }

    pub(crate) fn is_end(&self) -> bool {
        !matches!(self, Self::Opened | Self::Data(_) | Self::Writable)
    }
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::with_mailboxes(65_536)
    }

    pub(crate) fn with_mailboxes(mailbox_max: usize) -> Self {
        let config = LoopConfig { mailbox_max, watchdog: None, ..LoopConfig::default() };
        let log = Log::default();
        let _logged = log.attach_at(tracing::Level::DEBUG);
        Self { events: Loop::new(config).expect("the system has an event queue"), log, _logged }
    }

    pub(crate) fn player(&mut self, react: Reaction) -> Player {
        let (heard, dozes) = (Rc::new(RefCell::new(Vec::new())), Rc::new(Cell::new(false)));
        let (notes, sleeps) = (heard.clone(), dozes.clone());
        let addr = self.events.spawn_actor(actor(move |cx: &mut Cx<Note>, event| {
            match event {
                Event::Message(Note::Net(conn, what)) => {
                    let told = Told::of(what);
                    react(cx, conn, &told);
                    notes.borrow_mut().push((conn, told));
                }
                Event::Message(Note::Do(act)) => act(cx),
                _ => {}
            }
            if sleeps.take() { suspend() } else { receive() }
        }));
        Player { addr, heard, dozes }
    }

    /// Has a player do something, and answers what that gives.
    pub(crate) fn act<R: 'static>(
        &mut self,
        player: &Player,
        act: impl FnOnce(&mut Cx<'_, Note>) -> R + 'static,
    ) -> R {
        let result = Rc::new(RefCell::new(None));
        let place = result.clone();
        let act = Note::Do(Box::new(move |cx| *place.borrow_mut() = Some(act(cx))));
        let mut act = Some(act);
        self.until("room for an act", |stage| {
            match act.take().map(|act| stage.events.send(player.addr, act)) {
                Some(Err(SendError::Full(back))) => act = Some(back),
                Some(Err(reason)) => panic!("the player lives: {reason}"),
                Some(Ok(())) | None => {}
            }
            act.is_none()
        });
        self.until("the player's act", |_| result.borrow().is_some());
        result.take().expect("it has just come")
    }

    pub(crate) fn listen(&mut self, player: &Player, at: impl Endpoint + 'static) -> SocketAddr {
        self.act(player, |cx| cx.listen(at, FRAMES, Note::Net)).expect("a free port")
    }

    pub(crate) fn connect(&mut self, player: &Player, to: impl Endpoint + 'static) -> Conn {
        self.act(player, |cx| cx.connect(to, FRAMES, PATIENCE, Note::Net))
    }

    pub(crate) fn write(&mut self, player: &Player, conn: Conn, data: impl AsRef<[u8]>) {
        let data = data.as_ref().to_vec();
        self.act(player, move |cx| cx.write(conn, data));
    }

    /// From now on the player takes nothing, until it is woken.
    pub(crate) fn doze(&mut self, player: &Player) {
        player.dozes.set(true);
        self.act(player, |_| ());
    }

    pub(crate) fn wake(&mut self, player: &Player) {
        let addr = player.addr;
        self.events.spawn(move |cx: &mut Cx<()>, _| {
            cx.resume(addr, ());
            antiphon_sched::stop()
        });
    }

    /// Turns the loop until a condition holds.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            assert!(begun.elapsed() < PATIENCE, "{what} never came: {:?}", self.events.stats());
            self.run_once(5);
        }
    }

    fn run_once(&mut self, most: u64) {
        let deadline = self.events.now() + millis(most);
        self.events.run_once(Some(deadline)).expect("the system has an event queue");
    }

    /// Turns until nothing is left to be done at once.
    pub(crate) fn settle(&mut self) {
        self.until("rest", |stage| {
            stage.run_once(0);
            !stage.events.is_runnable()
        });
    }

    /// Turns for some time, in which all could happen that is not to happen.
    pub(crate) fn linger(&mut self) {
        for _ in 0..100 {
            self.run_once(1);
        }
    }

    /// Turns until a player that dozes has a full mailbox, and whatever else can happen has happened.
    #[track_caller]
    pub(crate) fn until_full(&mut self, player: &Player) {
        let key = player.addr.id().key();
        self.until("a full mailbox", |stage| stage.events.loop_ref().has_room(key) == Some(false));
        self.linger();
    }

    /// Turns until a connection has ended, and answers all that was told of it.
    #[track_caller]
    pub(crate) fn until_ended(&mut self, player: &Player, conn: Conn) -> Vec<Told> {
        self.until("the end", |_| player.of(conn).last().is_some_and(Told::is_end));
        player.of(conn)
    }

    /// Turns until so many connections were told of, and answers the last.
    #[track_caller]
    pub(crate) fn until_accepted(&mut self, player: &Player, count: usize) -> Conn {
        self.until("a connection", |_| player.conns().len() >= count);
        player.conns()[count - 1]
    }

    /// Turns until a thread is done.
    #[track_caller]
    pub(crate) fn join<R>(&mut self, thread: std::thread::JoinHandle<R>) -> R {
        self.until("a peer's thread", |_| thread.is_finished());
        thread.join().expect("the peer does not panic")
    }

    /// Turns until the log says what was wrong.
    #[track_caller]
    pub(crate) fn until_logged(&mut self, fault: TlsFault) {
        let text = fault.to_string();
        self.until("a line of the log", |stage| !stage.log.lines(&text).is_empty());
    }

    /// Turns until so many sockets are left.
    #[track_caller]
    pub(crate) fn until_left(&mut self, sockets: usize) {
        self.until("the end of sockets", |stage| stage.events.stats().sockets == sockets);
    }
}

impl Player {
    /// All that was told of a connection.
    pub(crate) fn of(&self, conn: Conn) -> Vec<Told> {
        let heard = self.heard.borrow();
        heard.iter().filter(|(of, _)| *of == conn).map(|(_, told)| told.clone()).collect()
    }

    pub(crate) fn has(&self, conn: Conn, what: &Told) -> bool {
        self.heard.borrow().iter().any(|(of, told)| *of == conn && told == what)
    }

    /// The connections that were told of, in order.
    pub(crate) fn conns(&self) -> Vec<Conn> {
        let mut conns: Vec<Conn> = self.heard.borrow().iter().map(|(conn, _)| *conn).collect();
        conns.sort();
        conns.dedup();
        conns
    }

    pub(crate) fn has_heard_nothing(&self) -> bool {
        self.heard.borrow().is_empty()
    }

    /// How much was told.
    pub(crate) fn count(&self) -> usize {
        self.heard.borrow().len()
    }
}
