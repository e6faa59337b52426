//! An actor with sockets that does what a test says, and keeps what it hears.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::rc::Rc;

use antiphon_sched::*;

use crate::common::*;

pub(crate) const LINES: Framing = Framing::Lines { max: 1000 };

pub(crate) enum Net {
    On(Conn, SocketEvent),
    Datagram(SocketAddr, Vec<u8>),
    Child(Conn, ProcessEvent),
    Do(Act),
}

type Datagram = (SocketAddr, Vec<u8>);
type Act = Box<dyn FnOnce(&mut Cx<'_, Net>)>;

/// What was heard, each connection's apart: `opened`, data as text, `writable`, `closed` with the reason.
#[derive(Clone, Default)]
pub(crate) struct Heard {
    texts: Rc<RefCell<BTreeMap<Conn, Vec<String>>>>,
    pub(crate) datagrams: Rc<RefCell<Vec<Datagram>>>,
    dozes: Rc<Cell<bool>>,
}

pub(crate) struct Station {
    pub(crate) events: Loop,
    pub(crate) actor: Addr<Net>,
    pub(crate) heard: Heard,
}

impl Heard {
    fn note(&self, conn: Conn, text: String) {
        self.texts.borrow_mut().entry(conn).or_default().push(text);
    }

    fn hear(&self, conn: Conn, what: SocketEvent) {
        self.note(
            conn,
            match what {
                SocketEvent::Opened(_) => "opened".into(),
                SocketEvent::Data(data) => String::from_utf8_lossy(&data).into_owned(),
                SocketEvent::Writable => "writable".into(),
                SocketEvent::Closed(None) => "closed".into(),
                SocketEvent::Closed(Some(reason)) => format!("closed: {reason}"),
                what => panic!("{what:?}"),
            },
        );
    }

    fn hear_child(&self, child: Conn, what: ProcessEvent) {
        self.note(
            child,
            match what {
                ProcessEvent::Stdout(data) => String::from_utf8_lossy(&data).into_owned(),
                ProcessEvent::Stderr(data) => format!("error: {}", String::from_utf8_lossy(&data)),
                ProcessEvent::Writable => "writable".into(),
                ProcessEvent::Ended(Ok(status)) => format!("ended: {status}"),
                ProcessEvent::Ended(Err(reason)) => format!("ended: {reason}"),
                what => panic!("{what:?}"),
            },
        );
    }

    /// All that was heard of a connection.
    pub(crate) fn of(&self, conn: Conn) -> Vec<String> {
        self.texts.borrow().get(&conn).cloned().unwrap_or_default()
    }

    /// All connections that were heard of.
    pub(crate) fn conns(&self) -> Vec<Conn> {
        self.texts.borrow().keys().copied().collect()
    }

    pub(crate) fn has(&self, conn: Conn, text: &str) -> bool {
        self.of(conn).iter().any(|heard| heard == text)
    }

    /// Whether a connection or a child has ended.
    pub(crate) fn has_ended(&self, conn: Conn) -> bool {
        self.of(conn).iter().any(|heard| heard.starts_with("closed") || heard.starts_with("ended"))
    }

    pub(crate) fn joined(&self, conn: Conn) -> String {
        let mut text = String::new();
        self.of(conn).iter().for_each(|heard| write!(text, "{heard} ").unwrap());
        text.trim_end().to_owned()
    }
}

/// What the station does with each message, besides keeping it.
pub(crate) type Reaction = fn(&mut Cx<'_, Net>, &Net);

pub(crate) fn actor_of(heard: &Heard, react: Reaction) -> impl Actor<Net> {
    let heard = heard.clone();
    actor(move |cx: &mut Cx<Net>, event| {
        let message = match event {
            Event::Message(message) => message,
            Event::Swap(offer) => return swap_actor(offer),
            _ => return receive(),
        };
        react(cx, &message);
        match message {
            Net::On(conn, what) => heard.hear(conn, what),
            Net::Datagram(from, data) => heard.datagrams.borrow_mut().push((from, data)),
            Net::Child(child, what) => heard.hear_child(child, what),
            Net::Do(act) => act(cx),
        }
        if heard.dozes.take() { suspend() } else { receive() }
    })
}

pub(crate) fn nothing(_: &mut Cx<'_, Net>, _: &Net) {}

/// Sends back what came.
pub(crate) fn echo(cx: &mut Cx<'_, Net>, message: &Net) {
    if let Net::On(conn, SocketEvent::Data(data)) = message {
        cx.write(*conn, data);
    }
}

impl Station {
    pub(crate) fn new(react: Reaction) -> Self {
        Self::on(real_loop(), react)
    }

    pub(crate) fn on(mut events: Loop, react: Reaction) -> Self {
        let heard = Heard::default();
        let actor = events.spawn_actor(actor_of(&heard, react));
        Self { events, actor, heard }
    }

    /// Has the actor do something, and answers what that gives.
    pub(crate) fn act<R: 'static>(&mut self, act: impl FnOnce(&mut Cx<'_, Net>) -> R + 'static) -> R {
        let result = Rc::new(RefCell::new(None));
        let place = result.clone();
        let act = Net::Do(Box::new(move |cx| *place.borrow_mut() = Some(act(cx))));
        assert!(self.events.send(self.actor, act).is_ok());
        for _ in 0..1_000_000 {
            if let Some(result) = result.borrow_mut().take() {
                return result;
            }
            self.events.work();
        }
        panic!("the actor does not come to it");
    }

    /// From now on the actor takes nothing, until it is resumed.
    pub(crate) fn doze(&mut self) {
        self.heard.dozes.set(true);
        self.act(|_| ());
    }

    pub(crate) fn listen(&mut self, framing: Framing) -> SocketAddr {
        self.act(move |cx| cx.listen("127.0.0.1:0", framing, Net::On).unwrap())
    }

    pub(crate) fn connect(&mut self, to: SocketAddr, framing: Framing) -> Conn {
        self.act(move |cx| cx.connect(to, framing, secs(20), Net::On))
    }

    pub(crate) fn write(&mut self, conn: Conn, data: impl AsRef<[u8]> + 'static) {
        self.act(move |cx| cx.write(conn, data));
    }

    /// Turns the loop until a condition holds.
    pub(crate) fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let begun = std::time::Instant::now();
        while !holds(self) {
            assert!(begun.elapsed() < secs(20), "{what} never came: {:?}", self.events.stats());
            let deadline = self.events.now() + millis(20);
            self.events.run_once(Some(deadline)).unwrap();
        }
    }

    /// Turns until a connection or child has ended, and answers what was heard of it.
    pub(crate) fn until_ended(&mut self, conn: Conn) -> String {
        self.until("the end", |station| station.heard.has_ended(conn));
        self.heard.joined(conn)
    }

    /// Turns until there is a connection, and answers it.
    pub(crate) fn until_accepted(&mut self) -> Conn {
        self.until("a connection", |station| !station.heard.conns().is_empty());
        self.heard.conns()[0]
    }
}
