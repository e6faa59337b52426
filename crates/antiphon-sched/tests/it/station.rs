//! A loop with one actor that owns sockets: a test runs code in the actor and reads its log of socket events.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::rc::Rc;

use antiphon_sched::*;

use crate::common::*;

pub(crate) const LINES: Framing = Framing::Lines { max: 1000 };

/// The messages of a station's actor.
pub(crate) enum StationMessage {
    On(Conn, SocketEvent),
    Datagram(SocketAddr, Vec<u8>),
    Child(Conn, ProcessEvent),
    /// Code to run in a step of the actor.
    Run(StationCode),
}

type ReceivedDatagram = (SocketAddr, Vec<u8>);
type StationCode = Box<dyn FnOnce(&mut Cx<'_, StationMessage>)>;

/// The socket events that the actor received, by connection: `opened`, data as text, `writable`, `closed` and
/// its reason.
#[derive(Clone, Default)]
pub(crate) struct StationLog {
    entries: Rc<RefCell<BTreeMap<Conn, Vec<String>>>>,
    pub(crate) datagrams: Rc<RefCell<Vec<ReceivedDatagram>>>,
    /// Whether the actor suspends itself after the next message.
    suspends: Rc<Cell<bool>>,
}

pub(crate) struct Station {
    pub(crate) events: Loop,
    pub(crate) actor: Addr<StationMessage>,
    pub(crate) log: StationLog,
}

impl StationLog {
    fn note(&self, conn: Conn, text: String) {
        self.entries.borrow_mut().entry(conn).or_default().push(text);
    }

    fn note_socket(&self, conn: Conn, event: SocketEvent) {
        self.note(
            conn,
            match event {
                SocketEvent::Opened(_) => "opened".into(),
                SocketEvent::Data(data) => String::from_utf8_lossy(&data).into_owned(),
                SocketEvent::Writable => "writable".into(),
                SocketEvent::Closed(None) => "closed".into(),
                SocketEvent::Closed(Some(reason)) => format!("closed: {reason}"),
                event => panic!("unexpected event: {event:?}"),
            },
        );
    }

    fn note_child(&self, child: Conn, event: ProcessEvent) {
        self.note(
            child,
            match event {
                ProcessEvent::Stdout(data) => String::from_utf8_lossy(&data).into_owned(),
                ProcessEvent::Stderr(data) => format!("error: {}", String::from_utf8_lossy(&data)),
                ProcessEvent::Writable => "writable".into(),
                ProcessEvent::Ended(Ok(status)) => format!("ended: {status}"),
                ProcessEvent::Ended(Err(reason)) => format!("ended: {reason}"),
                event => panic!("unexpected event: {event:?}"),
            },
        );
    }

    /// All entries of a connection.
    pub(crate) fn of(&self, conn: Conn) -> Vec<String> {
        self.entries.borrow().get(&conn).cloned().unwrap_or_default()
    }

    /// All connections with at least one entry.
    pub(crate) fn conns(&self) -> Vec<Conn> {
        self.entries.borrow().keys().copied().collect()
    }

    pub(crate) fn has(&self, conn: Conn, text: &str) -> bool {
        self.of(conn).iter().any(|entry| entry == text)
    }

    /// Whether a connection or a child has ended.
    pub(crate) fn has_ended(&self, conn: Conn) -> bool {
        self.of(conn).iter().any(|entry| entry.starts_with("closed") || entry.starts_with("ended"))
    }

    /// All entries of a connection, separated by spaces.
    pub(crate) fn joined(&self, conn: Conn) -> String {
        let mut text = String::new();
        self.of(conn).iter().for_each(|entry| write!(text, "{entry} ").unwrap());
        text.trim_end().to_owned()
    }
}

/// Runs for each message, before the message is logged.
pub(crate) type Reaction = fn(&mut Cx<'_, StationMessage>, &StationMessage);

/// The behaviour of a station's actor: runs `react` for each message and logs it.
pub(crate) fn station_actor(log: &StationLog, react: Reaction) -> impl Actor<StationMessage> {
    let log = log.clone();
    actor(move |cx: &mut Cx<StationMessage>, event| {
        let message = match event {
            Event::Message(message) => message,
            Event::Swap(offer) => return swap_actor(offer),
            _ => return receive(),
        };
        react(cx, &message);
        match message {
            StationMessage::On(conn, event) => log.note_socket(conn, event),
            StationMessage::Datagram(from, data) => log.datagrams.borrow_mut().push((from, data)),
            StationMessage::Child(child, event) => log.note_child(child, event),
            StationMessage::Run(code) => code(cx),
        }
        if log.suspends.take() { suspend() } else { receive() }
    })
}

/// A reaction that does nothing.
pub(crate) fn nothing(_: &mut Cx<'_, StationMessage>, _: &StationMessage) {}

/// A reaction that writes received data back.
pub(crate) fn echo(cx: &mut Cx<'_, StationMessage>, message: &StationMessage) {
    if let StationMessage::On(conn, SocketEvent::Data(data)) = message {
        cx.write(*conn, data);
    }
}

impl Station {
    pub(crate) fn new(react: Reaction) -> Self {
        Self::on(real_loop(), react)
    }

    pub(crate) fn on(mut events: Loop, react: Reaction) -> Self {
        let log = StationLog::default();
        let actor = events.spawn_actor(station_actor(&log, react));
        Self { events, actor, log }
    }

    /// Runs `act` in a step of the actor, and returns its result.
    pub(crate) fn act<R: 'static>(
        &mut self,
        act: impl FnOnce(&mut Cx<'_, StationMessage>) -> R + 'static,
    ) -> R {
        let result = Rc::new(RefCell::new(None));
        let place = result.clone();
        let act = StationMessage::Run(Box::new(move |cx| *place.borrow_mut() = Some(act(cx))));
        assert!(self.events.send(self.actor, act).is_ok());
        for _ in 0..1_000_000 {
            if let Some(result) = result.borrow_mut().take() {
                return result;
            }
            self.events.work();
        }
        panic!("the actor has not run the code after 1,000,000 rounds of the loop");
    }

    /// Suspends the actor until it is resumed.
    pub(crate) fn suspend_actor(&mut self) {
        self.log.suspends.set(true);
        self.act(|_| ());
    }

    pub(crate) fn listen(&mut self, framing: Framing) -> SocketAddr {
        self.act(move |cx| cx.listen("127.0.0.1:0", framing, StationMessage::On).unwrap())
    }

    pub(crate) fn connect(&mut self, to: SocketAddr, framing: Framing) -> Conn {
        self.act(move |cx| cx.connect(to, framing, secs(20), StationMessage::On))
    }

    pub(crate) fn write(&mut self, conn: Conn, data: impl AsRef<[u8]> + 'static) {
        self.act(move |cx| cx.write(conn, data));
    }

    /// Runs the loop until a condition holds. Panics after 20 s, with `condition` as its name.
    pub(crate) fn until(&mut self, condition: &str, mut holds: impl FnMut(&Self) -> bool) {
        let begun = std::time::Instant::now();
        while !holds(self) {
            assert!(
                begun.elapsed() < secs(20),
                "timed out waiting for {condition}: {:?}",
                self.events.stats()
            );
            let deadline = self.events.now() + millis(20);
            self.events.run_once(Some(deadline)).unwrap();
        }
    }

    /// Runs the loop until a connection or child has ended, and returns its entries, separated by spaces.
    pub(crate) fn until_ended(&mut self, conn: Conn) -> String {
        self.until("the end", |station| station.log.has_ended(conn));
        self.log.joined(conn)
    }

    /// Runs the loop until a connection exists, and returns it.
    pub(crate) fn until_accepted(&mut self) -> Conn {
        self.until("a connection", |station| !station.log.conns().is_empty());
        self.log.conns()[0]
    }
}
