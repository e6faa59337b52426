//! A node of 1,000 actors with backlogs that stops, while connections are cut: its actors end in order, and no message of an
//! actor's last step is lost.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;

use antiphon_dist::{Config, LocateError, NetCx, PeerStatus, Status};
use antiphon_sched::{Actor, Addr, Cx, Event, Loop, SendError, Step, finishing, millis, receive, secs, stop};
use antiphon_sim::{Faults, Replay, SimNode, World, assert_covered, seeds};

const ACTORS: usize = 1000;
/// The letters to each actor that wait when the stop begins.
const BACKLOG: u64 = 5;
/// The sender of these letters.
const STARTER: usize = ACTORS + 1;
/// The number of a letter that an actor sends to itself: it has finished.
const FINISHED: u64 = u64::MAX;

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A message: its sender, its receiver, and a number of the sender.
type Letter = (usize, usize, u64);

/// The receiver of the letters to the other node.
const SINK: usize = ACTORS;

/// The observations of all actors.
#[derive(Default)]
struct Observed {
    /// Letters that `send` has accepted, of which each has to arrive: those to older actors and to the sink.
    accepted: BTreeSet<Letter>,
    received: BTreeSet<Letter>,
    repeated: usize,
    /// Letters of last steps to newer actors, which have ended.
    refused: usize,
    /// The actors in the order of their ends.
    ended: Vec<usize>,
    /// The other node has noticed the end: by the goodbye, or by the timeout if a cut took the goodbye.
    offline: bool,
    /// The letters that arrived after the stop had begun.
    late: usize,
    is_stopping: bool,
}

type Shared = Rc<RefCell<Observed>>;

impl Observed {
    fn receive(&mut self, letter: Letter) {
        self.repeated += usize::from(!self.received.insert(letter));
        self.late += usize::from(self.is_stopping);
    }
}

/// An actor of the stopping node. It passes on each letter that it receives to an older actor, and needs some steps and time to
/// finish.
struct Worker {
    me: usize,
    sink: Addr<Letter>,
    all: Rc<RefCell<Vec<Addr<Letter>>>>,
    next: u64,
    observed: Shared,
}

impl Worker {
    fn send(&mut self, cx: &mut Cx<'_, Letter>, to: usize) {
        let addr = if to == SINK { self.sink } else { self.all.borrow()[to] };
        let letter = (self.me, to, self.next);
        self.next += 1;
        let sent = cx.send(addr, letter);
        let mut observed = self.observed.borrow_mut();
        match sent {
            Ok(()) => drop(observed.accepted.insert(letter)),
            Err(SendError::NoActor(_)) => observed.refused += 1,
            Err(reason) => panic!("{} to {to}: {reason}", self.me),
        }
    }

    /// The last step: letters to an older actor, to a newer one, and to the other node.
    fn end(&mut self, cx: &mut Cx<'_, Letter>) {
        if self.me > 0 {
            let older = below(cx, self.me);
            self.send(cx, older);
        }
        if self.me + 1 < ACTORS {
            let refused = self.observed.borrow().refused;
            let newer = self.me + 1 + below(cx, ACTORS - self.me - 1);
            self.send(cx, newer);
            assert_eq!(self.observed.borrow().refused, refused + 1, "the newer actor has ended");
        }
        self.send(cx, SINK);
        self.observed.borrow_mut().ended.push(self.me);
    }
}

impl Actor<Letter> for Worker {
    fn step(&mut self, cx: &mut Cx<'_, Letter>, event: Event<Letter>) -> Step<Letter> {
        match event {
            Event::Message((_, _, FINISHED)) => {
                self.end(cx);
                stop()
            }
            Event::Message(letter) => {
                self.observed.borrow_mut().receive(letter);
                if self.me > 0 && cx.random().is_multiple_of(2) {
                    let older = below(cx, self.me);
                    self.send(cx, older);
                }
                receive()
            }
            Event::Terminate if self.me.is_multiple_of(10) => {
                cx.after(millis(10), (self.me, self.me, FINISHED)).expect("the limit is not reached");
                finishing(secs(1))
            }
            Event::Terminate => {
                self.end(cx);
                stop()
            }
            _ => receive(),
        }
    }
}

/// A number below `bound`.
fn below(cx: &mut Cx<'_, Letter>, bound: usize) -> usize {
    usize::try_from(cx.random() % bound as u64).expect("it is below a number of this type")
}

/// Starts the workers when the sink is found, fills their mailboxes, and stops the node.
fn start_workers(sched: &mut Loop, observed: &Shared) {
    let (observed, handle) = (observed.clone(), sched.handle());
    sched.spawn(move |cx: &mut Cx<Result<Addr<Letter>, LocateError>>, event| match event {
        Event::Start => {
            cx.locate("sink", secs(600), |found| found);
            receive()
        }
        Event::Message(found) => {
            let (sink, all) = (found?, Rc::new(RefCell::new(Vec::new())));
            for me in 0..ACTORS {
                let worker = Worker { me, sink, all: all.clone(), next: 0, observed: observed.clone() };
                let addr = cx.spawn_actor(worker);
                all.borrow_mut().push(addr);
                for number in 0..BACKLOG {
                    let letter = (STARTER, me, number);
                    cx.send(addr, letter)?;
                    observed.borrow_mut().accepted.insert(letter);
                }
            }
            observed.borrow_mut().is_stopping = true;
            handle.stop();
            receive()
        }
        _ => receive(),
    });
}

fn start_sink(sched: &mut Loop, observed: &Shared) {
    let seen = observed.clone();
    sched.spawn(move |cx: &mut Cx<Letter>, event| {
        match event {
            Event::Start => cx.register("sink")?,
            Event::Message(letter) => seen.borrow_mut().receive(letter),
            _ => {}
        }
        receive()
    });
    let observed = observed.clone();
    sched.spawn(move |cx: &mut Cx<PeerStatus>, event| {
        match event {
            Event::Start => drop(cx.peer_status(|status| status)?),
            Event::Message(peer) => observed.borrow_mut().offline |= peer.status == Status::Offline,
            _ => {}
        }
        receive()
    });
}

#[test]
fn stop_of_thousand_actors_loses_no_last_message() {
    let mut cuts = 0;
    for seed in seeds(3) {
        let _replay = Replay::new("stop_of_thousand_actors_loses_no_last_message", seed);
        let observed = Shared::default();
        let faults = Faults { cut_every: millis(100), jitter: millis(2), ..Faults::default() };
        let mut world = World::new(seed, faults);
        let config = Config { secret: Some("key".into()), ..Config::default() };
        for port in [1, 2] {
            let (config, observed) = (config.clone(), observed.clone());
            let set_up = if port == 1 { start_workers } else { start_sink };
            world.add(at(port), move |seed| {
                let mut node = SimNode::new(&config, at(port), seed, |sched| set_up(sched, &observed));
                node.set_neighbours([1, 2].map(at).to_vec());
                node
            });
        }
        world.run_for(secs(40));
        cuts += world.fault_counts().cuts;
        let observed = observed.borrow();
        let lost: Vec<_> = observed.accepted.difference(&observed.received).collect();
        assert_eq!(lost, Vec::<&Letter>::new(), "accepted letters were lost");
        assert_eq!(observed.repeated, 0);
        assert_eq!(observed.refused, ACTORS - 1, "each letter to a newer actor was refused");
        assert!(observed.ended.iter().rev().copied().eq(0..ACTORS), "the newest actor ends first");
        assert!(observed.late > ACTORS, "only {} letters arrived after the stop had begun", observed.late);
        assert!(observed.offline, "the other node has noticed the end");
    }
    assert_covered(cuts > 0, "no connection was cut");
}
