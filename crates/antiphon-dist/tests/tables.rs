//! Operations that fail leak nothing. Each runs a thousand times. Then both nodes have no more table entries, timers
//! and open requests than before, and this process no more descriptors.
//!
//! To add an operation, add a name and a function to [`OPERATIONS`]. The function starts the operation and returns a
//! closure that waits for its outcome. This program has one test, because others would open descriptors of their own.

mod common;

use std::fmt::Debug;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use antiphon_dist::{
    CloseError, Config, DeleteError, DeliverError, DialError, FileError, FileOptions, FileRefused, Limits,
    LocateError, Location, NetCx, PeerAt, PeerError, RegisterError, Stored, UnknownNode, UnknownPeer,
};
use antiphon_sched::{
    ActorId, Addr, AskError, Cx, Event, Key, NodeId, PayloadError, ReplyTo, SendError, Undelivered, millis,
    receive, secs, stop,
};
use common::{Exit, Net, TestNode, recv, report};

const ROUNDS: usize = 1_000;
/// The number of operations that run at once.
const BATCH: usize = 100;
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Two connected nodes, and the addresses that the operations use.
struct Fixture {
    here: TestNode,
    there: TestNode,
    /// An actor that receives numbers. Its name is "number".
    number: Addr<u64>,
    /// An actor that receives texts. Its name is "text".
    text: Addr<String>,
    /// An actor that drops each `ReplyTo` that it receives.
    silent: Addr<ReplyTo<u64>>,
    /// An actor that has ended.
    dead: Addr<String>,
    /// A location at which no node listens.
    closed: Location,
}

/// Waits for the outcome of an operation.
type Wait = Box<dyn FnOnce()>;
type Operation = (&'static str, fn(&Fixture) -> Wait);

const OPERATIONS: &[Operation] = &[
    ("locate a name that is not registered", |fixture| {
        let results =
            ask(&fixture.here, |cx| cx.locate::<Addr<String>>("missing", millis(50), |found| found));
        expect(results, |found| *found == Err(LocateError::TimedOut))
    }),
    ("locate a name of another type", |fixture| {
        let results = ask(&fixture.here, |cx| cx.locate::<Addr<String>>("number", secs(20), |found| found));
        expect(results, |found| matches!(found, Err(LocateError::WrongType { .. })))
    }),
    ("locate a name that is too long", |fixture| {
        let results =
            ask(&fixture.here, |cx| cx.locate::<Addr<String>>(&"x".repeat(256), secs(20), |found| found));
        expect(results, |found| *found == Err(LocateError::BadName))
    }),
    ("locate a name at a location without a node", |fixture| {
        let at = fixture.closed;
        let results = ask(&fixture.here, move |cx| {
            cx.locate_at::<Addr<String>>("text", at, millis(50), |found| found);
        });
        expect(results, |found| *found == Err(LocateError::Unreachable(DialError::ConnectionRefused)))
    }),
    ("locate all of a name that is not registered", |fixture| {
        let results =
            ask(&fixture.here, |cx| cx.locate_all::<Addr<String>>("missing", millis(50), |found| found));
        expect(results, |found| found.as_ref().is_ok_and(Vec::is_empty))
    }),
    ("locate a node that does not exist", |fixture| {
        let results = ask(&fixture.here, |cx| cx.locate_node("missing", millis(50), |found| found));
        expect(results, |found| *found == Err(LocateError::TimedOut))
    }),
    ("send a file to a node that accepts none", |fixture| {
        let at = fixture.there.location;
        expect(send_file(fixture, at, env!("CARGO_MANIFEST_DIR").to_owned() + "/Cargo.toml"), |stored| {
            *stored == Err(FileError::Refused(FileRefused::NoDestPath))
        })
    }),
    ("send a file that does not exist", |fixture| {
        expect(send_file(fixture, fixture.there.location, "/no/such/file".into()), |stored| {
            matches!(stored, Err(FileError::Source(_)))
        })
    }),
    ("send a file to a location without a node", |fixture| {
        expect(
            send_file(fixture, fixture.closed, env!("CARGO_MANIFEST_DIR").to_owned() + "/Cargo.toml"),
            |stored| *stored == Err(FileError::Unreachable(DialError::ConnectionRefused)),
        )
    }),
    ("delete a file at a node that accepts none", |fixture| {
        let at = fixture.there.location;
        let results = ask(&fixture.here, move |cx| cx.del_file(at, "file", "", secs(20), |done| done));
        expect(results, |done| *done == Err(DeleteError::Refused(FileRefused::NoDestPath)))
    }),
    ("delete a file outside of the folder", |fixture| {
        let at = fixture.there.location;
        let results = ask(&fixture.here, move |cx| cx.del_file(at, "file", "../..", secs(20), |done| done));
        expect(results, |done| matches!(done, Err(DeleteError::BadPath(_))))
    }),
    ("deliver to an actor that has ended", |fixture| {
        let receipts = fixture.here.delivering(fixture.dead, "hello".into(), secs(20));
        expect(receipts, |receipt| *receipt == Err(DeliverError::Refused(Undelivered::NoActor)))
    }),
    ("deliver a message of the wrong type", |fixture| {
        let wrong: Addr<String> = Addr::of(fixture.number.id());
        let receipts = fixture.here.delivering(wrong, "hello".into(), secs(20));
        expect(receipts, |receipt| match receipt {
            Err(DeliverError::Refused(Undelivered::Payload(PayloadError::WrongType { expected, found }))) => {
                (&**expected, &**found) == ("u64", "str")
            }
            _ => false,
        })
    }),
    ("deliver to an unknown node", |fixture| {
        let nowhere: Addr<String> = Addr::of(ActorId::new(NodeId::from_bits(7), Key::from_bits(7)));
        let receipts = fixture.here.delivering(nowhere, "hello".into(), secs(20));
        expect(receipts, |receipt| *receipt == Err(DeliverError::Refused(Undelivered::NoNode)))
    }),
    ("deliver with a timeout of zero", |fixture| {
        let receipts = fixture.here.delivering(fixture.text, String::new(), secs(0));
        expect(receipts, |receipt| matches!(receipt, Ok(()) | Err(DeliverError::TimedOut)))
    }),
    ("deliver an empty text", |fixture| {
        expect(fixture.here.delivering(fixture.text, String::new(), secs(20)), |receipt| *receipt == Ok(()))
    }),
    ("send a message that is too large", |fixture| {
        let to = fixture.text;
        let results = ask(&fixture.here, move |cx| {
            let sent = cx.send(to, "x".repeat(2 * MESSAGE_BYTES_MAX));
            let me = cx.addr();
            cx.tell(me, sent.map_err(drop_message));
        });
        expect(results, |result| {
            matches!(result, Err(Undelivered::Payload(PayloadError::TooLarge { max, .. }))
                if *max == MESSAGE_BYTES_MAX as u64)
        })
    }),
    ("ask an actor that has ended", |fixture| {
        let dead: Addr<ReplyTo<u64>> = Addr::of(fixture.dead.id());
        let results = ask(&fixture.here, move |cx| cx.ask(dead, secs(20), |reply| reply, |answer| answer));
        expect(results, |result| *result == Err(AskError::NoActor))
    }),
    ("ask an actor that drops the request", |fixture| {
        let silent = fixture.silent;
        let results = ask(&fixture.here, move |cx| cx.ask(silent, secs(20), |reply| reply, |answer| answer));
        expect(results, |result| *result == Err(AskError::Dropped))
    }),
    ("monitor an actor that has ended", |fixture| {
        expect(monitor_once(&fixture.here, fixture.dead.id()), |end| *end == Exit::NoActor)
    }),
    ("monitor an actor of an unknown node", |fixture| {
        let nowhere = ActorId::new(NodeId::from_bits(7), Key::from_bits(7));
        expect(monitor_once(&fixture.here, nowhere), |end| *end == Exit::NodeLost)
    }),
    ("end while a live remote actor is monitored", |fixture| {
        let living = fixture.text.id();
        run(fixture, move |cx| {
            cx.monitor(living);
        })
    }),
    ("terminate, throw to and resume an actor that has ended", |fixture| {
        let dead = fixture.dead;
        run(fixture, move |cx| {
            cx.terminate(dead);
            cx.throw(dead, 1u64);
            cx.resume(dead, 2u64);
        })
    }),
    ("register a name that is taken", |fixture| {
        let results = ask(&fixture.there, |cx: &mut Cx<'_, bool>| {
            let refused = cx.register("text");
            let me = cx.addr();
            cx.tell(me, matches!(refused, Err(RegisterError::Taken { .. })));
        });
        expect(results, |is_refused| *is_refused)
    }),
    ("unregister a name of another actor", |fixture| {
        let results = ask(&fixture.there, |cx| {
            let refused = cx.unregister("text");
            let me = cx.addr();
            cx.tell(me, refused);
        });
        expect(results, |result| matches!(result, Err(RegisterError::NotOwner { .. })))
    }),
    ("end with a registered name", |fixture| {
        let results = ask(&fixture.there, |cx: &mut Cx<'_, u64>| {
            // An actor of the same batch may have the name.
            drop(cx.register("brief"));
            let me = cx.addr();
            cx.tell(me, 1);
        });
        expect(results, |result| *result == 1)
    }),
    ("connect to a port that is closed", |fixture| {
        let at = fixture.closed;
        let results = ask(&fixture.here, move |cx| cx.peer(at, millis(50), |found| found));
        expect(results, |result| *result == Err(PeerError::Unreachable(DialError::ConnectionRefused)))
    }),
    ("connect to a host that does not exist", |fixture| {
        let at = PeerAt::Host("nowhere.invalid".into(), 1);
        let results = ask(&fixture.here, move |cx| cx.peer(at.clone(), secs(20), |found| found));
        expect(results, |result| matches!(result, Err(PeerError::UnknownHost { .. })))
    }),
    ("close an unknown peer", |fixture| {
        let at = fixture.closed;
        let results = ask(&fixture.here, move |cx| cx.close_peer(at, secs(20), |closed| closed));
        expect(results, |result| matches!(result, Err(CloseError::Unknown(_))))
    }),
    ("set `stream_send` for an unknown peer", |fixture| {
        let at = fixture.closed;
        run(fixture, move |cx| assert_eq!(cx.stream_send(at, true), Err(UnknownPeer { at })))
    }),
    ("get the location of an unknown node", |fixture| {
        let node = NodeId::from_bits(7);
        run(fixture, move |cx| assert_eq!(cx.location_of(node), Err(UnknownNode { node })))
    }),
    ("watch and unwatch peers", |fixture| {
        run(fixture, |cx| {
            let watch = cx.peer_status(|_| ()).expect("the limit is not reached");
            cx.unwatch(watch);
        })
    }),
];

fn drop_message<M>(error: SendError<M>) -> Undelivered {
    error.reason()
}

/// Starts an actor that runs `start`. The first message that it receives arrives on the returned receiver.
fn ask<R: Send + 'static>(
    node: &TestNode,
    start: impl FnOnce(&mut Cx<'_, R>) + Send + 'static,
) -> Receiver<R> {
    let (sender, results) = channel();
    let mut start = Some(start);
    node.spawn(move |cx: &mut Cx<R>, event| match event {
        Event::Start => {
            if let Some(start) = start.take() {
                start(cx);
            }
            receive()
        }
        Event::Message(result) => {
            report(&sender, result);
            stop()
        }
        _ => receive(),
    });
    results
}

/// Runs an operation that has no result.
fn run(fixture: &Fixture, act: impl FnOnce(&mut Cx<'_, ()>) + Send + 'static) -> Wait {
    let results = ask(&fixture.here, move |cx: &mut Cx<'_, ()>| {
        act(cx);
        let me = cx.addr();
        cx.tell(me, ());
    });
    expect(results, |()| true)
}

/// Waits for a result, and checks it.
fn expect<R: Debug + 'static>(results: Receiver<R>, is_expected: fn(&R) -> bool) -> Wait {
    Box::new(move || {
        let result = recv(&results);
        assert!(is_expected(&result), "{result:?}");
    })
}

/// Monitors an actor until it exits.
fn monitor_once(node: &TestNode, actor: ActorId) -> Receiver<Exit> {
    let (sender, exits) = channel();
    node.spawn(move |cx: &mut Cx<()>, event| match event {
        Event::Start => {
            cx.monitor(actor);
            receive()
        }
        Event::Down(down) => {
            report(&sender, Exit::of(down));
            stop()
        }
        _ => receive(),
    });
    exits
}

fn send_file(fixture: &Fixture, at: Location, file: String) -> Receiver<Result<Stored, FileError>> {
    ask(&fixture.here, move |cx| {
        cx.send_file(at, &file, FileOptions::default(), millis(500), |done| done);
    })
}

/// The sizes that grow only by a leak, with their names.
type Sizes = Vec<(String, u64)>;

/// The sizes of a node.
fn node_sizes(name: &str, node: &TestNode) -> Sizes {
    let stats = node.stats();
    let counts = node.counts();
    let sizes = [
        ("peers", counts.peers),
        ("names", counts.names),
        ("lookups", counts.lookups),
        ("channel relays", counts.channel_relays),
        ("receipts", counts.receipts),
        ("replies", counts.replies),
        ("monitors", counts.monitors),
        ("watchers", counts.watchers),
        ("connections", counts.connections),
        ("backlog bytes", counts.backlog_bytes as usize),
        ("misbehaved", counts.misbehaved as usize),
        ("broken connections", counts.broken_connections as usize),
        ("actors", stats.actors),
        ("requests", stats.requests),
        ("timers", stats.timers),
        ("sources", stats.sources),
        ("extras", stats.extras),
    ];
    sizes.map(|(size, value)| (format!("{name}: {size}"), value as u64)).into()
}

/// The number of open descriptors of this process, or 0 on systems without `/proc`.
fn descriptors() -> u64 {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as u64
}

impl Fixture {
    fn new() -> Self {
        let net = Net::new();
        let limits = Limits { message_bytes_max: MESSAGE_BYTES_MAX as u32, ..Limits::default() };
        let there =
            TestNode::start(Config { limits, transfers_max: 2 * BATCH, ..net.static_config("there", &[]) });
        let here = TestNode::start(Config {
            limits,
            transfers_max: 2 * BATCH,
            ..net.static_config("here", &[there.location])
        });
        here.wait_for_peers(1);
        drop(there.listener::<u64>("number"));
        drop(there.listener::<String>("text"));
        drop(there.listener::<ReplyTo<u64>>("silent"));
        let (sender, registered) = channel();
        there.spawn(move |cx: &mut Cx<String>, event| match event {
            Event::Start => {
                report(&sender, cx.register("mortal").is_ok());
                receive()
            }
            Event::Message(_) => stop(),
            _ => receive(),
        });
        assert!(recv(&registered));
        let dead: Addr<String> = here.find("mortal");
        assert_eq!(here.deliver(dead, "end".into()), Ok(()));
        assert_eq!(recv(&here.monitor(dead)), Exit::NoActor);
        let stopped = net.static_node("gone", &[]);
        let closed = stopped.location;
        stopped.stop();
        let (number, text, silent) = (here.find("number"), here.find("text"), here.find("silent"));
        Self { here, there, number, text, silent, dead, closed }
    }

    fn sizes(&self) -> Sizes {
        let mut sizes = node_sizes("here", &self.here);
        sizes.append(&mut node_sizes("there", &self.there));
        sizes.push(("descriptors".to_owned(), descriptors()));
        sizes
    }

    fn repeat(&self, start: fn(&Self) -> Wait, rounds: usize) {
        for _ in 0..rounds.div_ceil(BATCH) {
            let started: Vec<Wait> = (0..rounds.min(BATCH)).map(|_| start(self)).collect();
            started.into_iter().for_each(|wait| wait());
        }
    }
}

#[test]
fn failing_operations_leak_nothing() {
    let fixture = Fixture::new();
    for (name, start) in OPERATIONS {
        // The first run allocates what stays: threads of the blocking pool, and the memory of tables.
        fixture.repeat(*start, 1);
        let before = fixture.sizes();
        fixture.repeat(*start, ROUNDS);
        // `before` may hold what its operation released a moment later, such as the socket of a last dial. A leak would add
        // something in each of the rounds.
        let end = Instant::now() + common::PATIENCE;
        loop {
            let grown: Vec<_> = fixture.sizes().into_iter().zip(&before).filter(|(a, b)| a.1 > b.1).collect();
            if grown.is_empty() {
                break;
            }
            assert!(Instant::now() < end, "{name}: more than before: {grown:?}");
            std::thread::sleep(millis(2));
        }
    }
}
