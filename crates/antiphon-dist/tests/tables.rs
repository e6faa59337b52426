//! Operations that fail leave nothing behind: each is done a thousand times, and the tables of both nodes, their timers
//! and open requests, and the descriptors of this process are as before.
//!
//! To add one, give [`OPERATIONS`] a name and a function that begins it, and answers how to wait for its outcome.
//! One test by itself, since others in this process would open descriptors of their own.

mod common;

use std::fmt::Debug;
use std::sync::mpsc::{Receiver, channel};

use antiphon_dist::{
    CloseError, Config, Counts, DeliverError, FileError, FileOptions, Limits, LocateError, Location, NetCx,
    PeerAt, PeerError, RegisterError, Stored,
};
use antiphon_sched::{
    ActorId, Addr, AskError, Cx, Event, Key, NodeId, ReplyTo, SendError, Undelivered, millis, receive, secs,
    stop,
};
use common::{End, Net, TestNode, heard, tell_test, wait_for};

const ROUNDS: usize = 1_000;
/// So many are under way at once.
const BATCH: usize = 100;
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Two nodes that know each other, and what is wrong with them.
struct Place {
    here: TestNode,
    there: TestNode,
    /// Takes numbers, and is registered as "number".
    number: Addr<u64>,
    /// Takes texts, and is registered as "text".
    text: Addr<String>,
    /// Drops the replies that it gets.
    silent: Addr<ReplyTo<u64>>,
    /// Has ended.
    dead: Addr<String>,
    /// Nobody listens there.
    closed: Location,
}

/// Waits for the outcome of what was begun.
type Wait = Box<dyn FnOnce()>;
type Operation = (&'static str, fn(&Place) -> Wait);

const OPERATIONS: &[Operation] = &[
    ("locate a name that nobody has", |place| {
        let told = ask(&place.here, |cx| cx.locate::<Addr<String>>("nobody", millis(50), |found| found));
        expect(told, |found| *found == Err(LocateError::TimedOut))
    }),
    ("locate a name of another type", |place| {
        let told = ask(&place.here, |cx| cx.locate::<Addr<String>>("number", secs(20), |found| found));
        expect(told, |found| matches!(found, Err(LocateError::WrongType { .. })))
    }),
    ("locate a name that cannot be", |place| {
        let told =
            ask(&place.here, |cx| cx.locate::<Addr<String>>(&"x".repeat(256), secs(20), |found| found));
        expect(told, |found| *found == Err(LocateError::BadName))
    }),
    ("locate a name at a location where nobody is", |place| {
        let at = place.closed;
        let told = ask(&place.here, move |cx| {
            cx.locate_at::<Addr<String>>("text", at, millis(50), |found| found);
        });
        expect(told, |found| *found == Err(LocateError::TimedOut))
    }),
    ("locate all of a name that nobody has", |place| {
        let told = ask(&place.here, |cx| cx.locate_all::<Addr<String>>("nobody", millis(50), |found| found));
        expect(told, |found| found.as_ref().is_ok_and(Vec::is_empty))
    }),
    ("locate a node that is not there", |place| {
        let told = ask(&place.here, |cx| cx.locate_node("nobody", millis(50), |found| found));
        expect(told, |found| *found == Err(LocateError::TimedOut))
    }),
    ("send a file to a node that takes none", |place| {
        let at = place.there.location;
        expect(sending(place, at, env!("CARGO_MANIFEST_DIR").to_owned() + "/Cargo.toml"), Result::is_err)
    }),
    ("send a file that is not there", |place| {
        expect(sending(place, place.there.location, "/no/such/file".into()), Result::is_err)
    }),
    ("send a file to where nobody is", |place| {
        expect(
            sending(place, place.closed, env!("CARGO_MANIFEST_DIR").to_owned() + "/Cargo.toml"),
            Result::is_err,
        )
    }),
    ("delete a file at a node that takes none", |place| {
        let at = place.there.location;
        let told = ask(&place.here, move |cx| cx.del_file(at, "file", "", secs(20), |done| done));
        expect(told, Result::is_err)
    }),
    ("delete a file outside of the folder", |place| {
        let at = place.there.location;
        let told = ask(&place.here, move |cx| cx.del_file(at, "file", "../..", secs(20), |done| done));
        expect(told, Result::is_err)
    }),
    ("deliver to the dead", |place| {
        let told = place.here.delivering(place.dead, "hello".into(), secs(20));
        expect(told, |told| *told == Err(DeliverError::Refused(Undelivered::NoActor)))
    }),
    ("deliver what the receiver does not take", |place| {
        let wrong: Addr<String> = Addr::of(place.number.id());
        let told = place.here.delivering(wrong, "hello".into(), secs(20));
        expect(told, |told| *told == Err(DeliverError::Refused(Undelivered::WrongType)))
    }),
    ("deliver to a node that was never met", |place| {
        let nowhere: Addr<String> = Addr::of(ActorId::new(NodeId::from_bits(7), Key::from_bits(7)));
        let told = place.here.delivering(nowhere, "hello".into(), secs(20));
        expect(told, |told| *told == Err(DeliverError::Refused(Undelivered::NoNode)))
    }),
    ("wait for a receipt for no time at all", |place| {
        let told = place.here.delivering(place.text, String::new(), secs(0));
        expect(told, |told| matches!(told, Ok(()) | Err(DeliverError::TimedOut)))
    }),
    ("deliver nothing", |place| {
        expect(place.here.delivering(place.text, String::new(), secs(20)), |told| *told == Ok(()))
    }),
    ("send what is too large", |place| {
        let to = place.text;
        let told = ask(&place.here, move |cx| {
            let sent = cx.send(to, "x".repeat(2 * MESSAGE_BYTES_MAX));
            let me = cx.addr();
            cx.tell(me, sent.map_err(drop_message));
        });
        expect(told, |told| *told == Err(Undelivered::TooLarge))
    }),
    ("ask the dead", |place| {
        let dead: Addr<ReplyTo<u64>> = Addr::of(place.dead.id());
        let told = ask(&place.here, move |cx| cx.ask(dead, secs(20), |reply| reply, |answer| answer));
        expect(told, |told| *told == Err(AskError::NoActor))
    }),
    ("ask whom does not answer", |place| {
        let silent = place.silent;
        let told = ask(&place.here, move |cx| cx.ask(silent, secs(20), |reply| reply, |answer| answer));
        expect(told, |told| *told == Err(AskError::Dropped))
    }),
    ("monitor the dead", |place| {
        expect(watch_once(&place.here, place.dead.id()), |end| *end == End::NoActor)
    }),
    ("monitor whom is nowhere", |place| {
        let nowhere = ActorId::new(NodeId::from_bits(7), Key::from_bits(7));
        expect(watch_once(&place.here, nowhere), |end| *end == End::NodeLost)
    }),
    ("end while a living actor elsewhere is monitored", |place| {
        let living = place.text.id();
        done(place, move |cx| {
            cx.monitor(living);
        })
    }),
    ("terminate, throw to and resume the dead", |place| {
        let dead = place.dead;
        done(place, move |cx| {
            cx.terminate(dead);
            cx.throw(dead, 1u64);
            cx.resume(dead, 2u64);
        })
    }),
    ("register a name that is taken", |place| {
        let told = ask(&place.there, |cx: &mut Cx<'_, bool>| {
            let refused = cx.register("text");
            let me = cx.addr();
            cx.tell(me, matches!(refused, Err(RegisterError::Taken { .. })));
        });
        expect(told, |is_refused| *is_refused)
    }),
    ("unregister another's name", |place| {
        let told = ask(&place.there, |cx| {
            let refused = cx.unregister("text");
            let me = cx.addr();
            cx.tell(me, refused);
        });
        expect(told, |told| matches!(told, Err(RegisterError::NotOwner { .. })))
    }),
    ("end with a name", |place| {
        let told = ask(&place.there, |cx: &mut Cx<'_, u64>| {
            // Another round may have it just now.
            drop(cx.register("brief"));
            let me = cx.addr();
            cx.tell(me, 1);
        });
        expect(told, |told| *told == 1)
    }),
    ("contact a port that is closed", |place| {
        let at = place.closed;
        let told = ask(&place.here, move |cx| cx.peer(at, millis(50), |found| found));
        expect(told, |told| *told == Err(PeerError::NoAnswer))
    }),
    ("contact a host that there is not", |place| {
        let at = PeerAt::Host("nowhere.invalid".into(), 1);
        let told = ask(&place.here, move |cx| cx.peer(at.clone(), secs(20), |found| found));
        expect(told, |told| matches!(told, Err(PeerError::UnknownHost { .. })))
    }),
    ("close a peer that is none", |place| {
        let at = place.closed;
        let told = ask(&place.here, move |cx| cx.close_peer(at, secs(20), |closed| closed));
        expect(told, |told| matches!(told, Err(CloseError::Unknown(_))))
    }),
    ("keep the connection with a peer that is none", |place| {
        let at = place.closed;
        done(place, move |cx| assert!(cx.stream_send(at, true).is_err()))
    }),
    ("ask where a node is that was never met", |place| {
        done(place, |cx| assert!(cx.location_of(NodeId::from_bits(7)).is_err()))
    }),
    ("watch peers no longer", |place| {
        done(place, |cx| {
            let watch = cx.peer_status(|_| ());
            cx.unwatch(watch);
        })
    }),
];

fn drop_message<M>(error: SendError<M>) -> Undelivered {
    error.reason()
}

/// Begins something in an actor of its own, which tells what comes of it.
fn ask<R: Send + 'static>(
    node: &TestNode,
    begin: impl FnOnce(&mut Cx<'_, R>) + Send + 'static,
) -> Receiver<R> {
    let (tell, told) = channel();
    let mut begin = Some(begin);
    node.spawn(move |cx: &mut Cx<R>, event| match event {
        Event::Start => {
            if let Some(begin) = begin.take() {
                begin(cx);
            }
            receive()
        }
        Event::Message(outcome) => {
            tell_test(&tell, outcome);
            stop()
        }
        _ => receive(),
    });
    told
}

/// Does something that has no answer.
fn done(place: &Place, act: impl FnOnce(&mut Cx<'_, ()>) + Send + 'static) -> Wait {
    let told = ask(&place.here, move |cx: &mut Cx<'_, ()>| {
        act(cx);
        let me = cx.addr();
        cx.tell(me, ());
    });
    expect(told, |()| true)
}

fn expect<R: Debug + 'static>(told: Receiver<R>, wanted: fn(&R) -> bool) -> Wait {
    Box::new(move || {
        let outcome = heard(&told);
        assert!(wanted(&outcome), "{outcome:?}");
    })
}

fn watch_once(node: &TestNode, actor: ActorId) -> Receiver<End> {
    let (tell, told) = channel();
    node.spawn(move |cx: &mut Cx<()>, event| match event {
        Event::Start => {
            cx.monitor(actor);
            receive()
        }
        Event::Down(down) => {
            tell_test(&tell, End::of(down));
            stop()
        }
        _ => receive(),
    });
    told
}

fn sending(place: &Place, at: Location, file: String) -> Receiver<Result<Stored, FileError>> {
    ask(&place.here, move |cx| {
        cx.send_file(at, &file, FileOptions::default(), millis(500), |done| done);
    })
}

/// What only grows when something leaks: counts of what was refused are left out.
#[derive(Debug, PartialEq, Eq)]
struct Tables {
    counts: Counts,
    actors: usize,
    requests: usize,
    timers: usize,
    sources: usize,
    sides: usize,
}

impl Tables {
    fn of(node: &TestNode) -> Self {
        let stats = node.stats();
        let counts = Counts {
            refused_handshakes: 0,
            refused_datagrams: 0,
            refused_messages: 0,
            cut_with_unacked: 0,
            ..node.counts()
        };
        Self {
            counts,
            actors: stats.actors,
            requests: stats.requests,
            timers: stats.timers,
            sources: stats.sources,
            sides: stats.extras,
        }
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

impl Place {
    fn new() -> Self {
        let net = Net::new();
        let limits = Limits { message_bytes_max: MESSAGE_BYTES_MAX as u32, ..Limits::default() };
        let there = TestNode::start(Config { limits, transfers_max: 2 * BATCH, ..net.quiet("there", &[]) });
        let here = TestNode::start(Config {
            limits,
            transfers_max: 2 * BATCH,
            ..net.quiet("here", &[there.location])
        });
        here.wait_for_peers(1);
        drop(there.listener::<u64>("number"));
        drop(there.listener::<String>("text"));
        drop(there.listener::<ReplyTo<u64>>("silent"));
        let (tell, ended) = channel();
        there.spawn(move |cx: &mut Cx<String>, event| match event {
            Event::Start => {
                tell_test(&tell, cx.register("mortal").is_ok());
                receive()
            }
            Event::Message(_) => stop(),
            _ => receive(),
        });
        assert!(heard(&ended));
        let dead: Addr<String> = here.find("mortal");
        assert_eq!(here.deliver(dead, "end".into()), Ok(()));
        assert_eq!(heard(&here.watch(dead)), End::NoActor);
        let gone = net.quiet_node("gone", &[]);
        let closed = gone.location;
        gone.stop();
        let (number, text, silent) = (here.find("number"), here.find("text"), here.find("silent"));
        Self { here, there, number, text, silent, dead, closed }
    }

    fn tables(&self) -> ([Tables; 2], usize) {
        ([Tables::of(&self.here), Tables::of(&self.there)], descriptors())
    }

    /// The tables when nothing is under way any more.
    fn at_rest(&self) -> ([Tables; 2], usize) {
        wait_for("rest", || {
            let tables = self.tables();
            let is_still = |tables: &Tables| {
                let Counts { lookups, receipts, connections, .. } = tables.counts;
                (lookups, receipts, connections, tables.requests) == (0, 0, 1, 0)
            };
            tables.0.iter().all(is_still).then_some(tables)
        })
    }

    fn repeat(&self, begin: fn(&Self) -> Wait, rounds: usize) {
        for _ in 0..rounds.div_ceil(BATCH) {
            let begun: Vec<Wait> = (0..rounds.min(BATCH)).map(|_| begin(self)).collect();
            begun.into_iter().for_each(|wait| wait());
        }
    }
}

#[test]
fn operations_that_fail_a_thousand_times_leave_nothing_behind() {
    let place = Place::new();
    for (name, begin) in OPERATIONS {
        // What is made once stays: helper threads, the room of a table.
        place.repeat(*begin, 1);
        let before = place.at_rest();
        place.repeat(*begin, ROUNDS);
        let mut now = place.tables();
        let end = std::time::Instant::now() + common::PATIENCE;
        while now != before && std::time::Instant::now() < end {
            std::thread::sleep(millis(2));
            now = place.tables();
        }
        assert_eq!(now, before, "{name}");
    }
}
