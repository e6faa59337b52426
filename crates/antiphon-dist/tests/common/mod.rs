//! Shared parts of this crate's tests: networks, nodes on threads, child processes and logs.

#![allow(dead_code, reason = "each test program uses a part of this module")]

pub(crate) mod bare_tls;
pub(crate) mod bombs;
pub(crate) mod certs;
pub(crate) mod harness;
pub(crate) mod process;
pub(crate) mod proxy;

use std::fmt::Debug;
use std::io::Write;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use antiphon_dist::{
    Config, Counts, DeliverError, Location, NetCx, Node, NodeError, PeerAt, PeerError, Resolver, Secret,
    Status,
};
use antiphon_sched::{ActorId, Addr, Cx, Down, Event, ExitReason, Handle, LoopStats, Step, receive};

/// The limit for anything that must happen, on the slowest machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The settings that the nodes of one test share: a secret, and a UDP port that no other test uses.
#[derive(Clone)]
pub(crate) struct Net {
    pub(crate) secret: Secret,
    pub(crate) udp_port: u16,
    /// The file of the certificate that all nodes share, if they use TLS.
    pub(crate) tls: Option<PathBuf>,
}

impl Net {
    pub(crate) fn new() -> Self {
        let secret = antiphon_dist::secret::generate().expect("the system has random numbers");
        Self { secret, udp_port: antiphon_sched::testing::free_udp_port(), tls: None }
    }

    /// A node that finds its peers by announcements.
    pub(crate) fn config(&self, name: &str) -> Config {
        Config {
            name: Some(name.to_owned()),
            secret: Some(self.secret.clone()),
            udp_port: Some(self.udp_port),
            certfile: self.tls.clone(),
            ..Config::default()
        }
    }

    /// A node that connects only to these peers, without discovery.
    pub(crate) fn static_config(&self, name: &str, peers: &[Location]) -> Config {
        Config {
            discover_peers: false,
            peers: peers.iter().map(|at| PeerAt::from(*at)).collect(),
            ..self.config(name)
        }
    }

    pub(crate) fn node(&self, name: &str) -> TestNode {
        TestNode::start(self.config(name))
    }

    pub(crate) fn static_node(&self, name: &str, peers: &[Location]) -> TestNode {
        TestNode::start(self.static_config(name, peers))
    }

    /// Two connected nodes: the second has dialled the first.
    pub(crate) fn pair(&self) -> (TestNode, TestNode) {
        let first = self.static_node("first", &[]);
        let second = self.static_node("second", &[first.location]);
        second.wait_for_peers(1);
        first.wait_for_peers(1);
        (first, second)
    }
}

type Job = Box<dyn FnOnce(&mut Node) + Send>;

/// A node on a thread of its own.
pub(crate) struct TestNode {
    pub(crate) location: Location,
    pub(crate) handle: Handle,
    /// A message to this actor ends the wait of the node's loop.
    waker: Addr<()>,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    pub(crate) log: Log,
}

impl TestNode {
    pub(crate) fn start(config: Config) -> Self {
        Self::build(move || Node::new(config))
    }

    /// Starts a node with its own resolver of host names.
    pub(crate) fn resolving(config: Config, resolver: Resolver) -> Self {
        Self::build(move || Node::with_resolver(config, resolver))
    }

    fn build(build: impl FnOnce() -> Result<Node, NodeError> + Send + 'static) -> Self {
        let (started, starts) = channel();
        let (jobs, received_jobs) = channel::<Job>();
        let log = Log::default();
        let written = log.clone();
        let thread = std::thread::spawn(move || {
            let _logged = written.attach();
            let mut node = build().expect("a node can start");
            let waker = node.spawn(|cx: &mut Cx<()>, _| {
                cx.set_daemon(true);
                receive()
            });
            started.send((node.location(), node.handle(), waker)).expect("the test waits for the node");
            loop {
                match received_jobs.try_recv() {
                    Ok(job) => job(&mut node),
                    Err(std::sync::mpsc::TryRecvError::Empty) => {
                        node.run_once(None).expect("the system has an event queue")
                    }
                    Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
                }
            }
        });
        let (location, handle, waker) = starts.recv().expect("the node started");
        Self { location, handle, waker, jobs: Some(jobs), thread: Some(thread), log }
    }

    fn wake(&self) {
        self.handle.send(self.waker, ()).expect("the node runs");
    }

    /// Runs a closure with the node, on the node's thread.
    pub(crate) fn with<R: Send + 'static>(&self, job: impl FnOnce(&mut Node) -> R + Send + 'static) -> R {
        let (sender, results) = channel();
        let job = move |node: &mut Node| {
            report(&sender, job(node));
        };
        self.jobs.as_ref().expect("the node runs").send(Box::new(job)).expect("the node runs");
        self.wake();
        results.recv_timeout(PATIENCE).expect("the node's thread runs the job")
    }

    pub(crate) fn spawn<M: 'static, F>(&self, actor: F) -> Addr<M>
    where
        F: FnMut(&mut Cx<'_, M>, Event<M>) -> Step<M> + Send + 'static,
    {
        self.handle.spawn(actor).expect("the node runs")
    }

    /// Starts an actor that registers a name, and reports each message that it receives.
    pub(crate) fn listener<M: antiphon_sched::Wire + Send>(&self, name: &'static str) -> Receiver<M> {
        let (sender, messages) = channel();
        let (ready, registered) = channel();
        self.spawn(move |cx: &mut Cx<M>, event| {
            match event {
                Event::Start => {
                    cx.register(name)?;
                    report(&ready, ());
                }
                Event::Message(message) => report(&sender, message),
                _ => {}
            }
            receive()
        });
        registered.recv_timeout(PATIENCE).expect("the name is registered");
        messages
    }

    /// Locates a name, and waits until it is found.
    pub(crate) fn find<M: antiphon_sched::Wire>(&self, name: &'static str) -> Addr<M> {
        let (sender, results) = channel();
        self.spawn(move |cx, event| match event {
            Event::Start => {
                cx.locate(name, PATIENCE, |found| found);
                receive()
            }
            Event::Message(found) => {
                report(&sender, found);
                antiphon_sched::stop()
            }
            _ => receive(),
        });
        recv(&results).expect("an actor has the name")
    }

    pub(crate) fn counts(&self) -> Counts {
        self.with(|node| node.counts())
    }

    pub(crate) fn stats(&self) -> LoopStats {
        self.with(|node| node.stats())
    }

    /// Waits until the node has this number of peers.
    pub(crate) fn wait_for_peers(&self, count: usize) {
        let (sender, reached) = channel();
        self.spawn(move |cx: &mut Cx<()>, event| {
            if matches!(event, Event::Start) {
                cx.peer_status(|_| ()).expect("the limit is not reached");
            }
            if cx.peers().len() == count {
                report(&sender, ());
                return antiphon_sched::stop();
            }
            receive()
        });
        recv(&reached);
    }

    /// Reports each change of a peer's status, with the peer's name.
    pub(crate) fn statuses(&self) -> Receiver<(String, Status)> {
        let (sender, statuses) = channel();
        self.spawn(move |cx: &mut Cx<antiphon_dist::PeerStatus>, event| {
            match event {
                Event::Start => {
                    cx.set_daemon(true);
                    cx.peer_status(|status| status).expect("the limit is not reached");
                }
                Event::Message(status) => report(&sender, (status.name, status.status)),
                _ => {}
            }
            receive()
        });
        statuses
    }

    /// Waits until a predicate holds for the node's counts; `what` names it.
    pub(crate) fn wait_for_counts(&self, what: &str, wanted: impl Fn(&Counts) -> bool) -> Counts {
        wait_for(what, || Some(self.counts()).filter(|counts| wanted(counts)))
    }

    /// Stops the node, which sends a goodbye to its peers.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.jobs = None;
        // The node may have ended before.
        drop(self.handle.send(self.waker, ()));
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the node's thread panicked");
        }
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.end();
    }
}

/// Sends a value to the test, unless the test has dropped the receiver.
pub(crate) fn report<T>(to: &Sender<T>, value: T) {
    drop(to.send(value));
}

/// The next value of a channel. Panics when none arrives within [`PATIENCE`].
#[track_caller]
pub(crate) fn recv<T>(from: &Receiver<T>) -> T {
    match from.recv_timeout(PATIENCE) {
        Ok(value) => value,
        Err(reason) => panic!("waited {PATIENCE:?} for a value: {reason}"),
    }
}

/// Calls `wanted` until it returns a value. Panics after [`PATIENCE`]; `what` names the value.
#[track_caller]
pub(crate) fn wait_for<R>(what: &str, mut wanted: impl FnMut() -> Option<R>) -> R {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = wanted() {
            return found;
        }
        assert!(Instant::now() < end, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Receives values up to the first for which `wanted` holds, and returns them all.
#[track_caller]
pub(crate) fn recv_until<T: Debug>(from: &Receiver<T>, mut wanted: impl FnMut(&T) -> bool) -> Vec<T> {
    let mut all = Vec::new();
    loop {
        match from.recv_timeout(PATIENCE) {
            Ok(value) => {
                let is_last = wanted(&value);
                all.push(value);
                if is_last {
                    return all;
                }
            }
            Err(reason) => panic!("waited {PATIENCE:?} for a value: {reason}; received {all:?}"),
        }
    }
}

/// The log of one node.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Writes the log of this thread here while the guard lives: warnings and errors.
    pub(crate) fn attach(&self) -> tracing::subscriber::DefaultGuard {
        self.attach_at(tracing::Level::WARN)
    }

    /// Like [`Log::attach`], from the given level up.
    pub(crate) fn attach_at(&self, level: tracing::Level) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(level)
            .with_writer(move || log.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    /// Like [`Log::attach`], for what this filter selects, written as in `RUST_LOG`.
    pub(crate) fn attach_filtered(&self, filter: &str) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_env_filter(filter)
            .with_writer(move || log.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    /// Waits for a line that contains `part`.
    #[track_caller]
    pub(crate) fn wait_for(&self, part: &str) {
        wait_for(&format!("{part:?} in the log"), || (!self.lines(part).is_empty()).then_some(()));
    }

    /// The lines that contain `part`.
    pub(crate) fn lines(&self, part: &str) -> Vec<String> {
        let written = self.0.lock().expect("no writer panics");
        let text = String::from_utf8_lossy(&written);
        text.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no writer panics").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl TestNode {
    /// Sends a message, waits for its receipt, and returns it.
    #[track_caller]
    pub(crate) fn deliver<M: Send + 'static>(&self, to: Addr<M>, message: M) -> Result<(), DeliverError> {
        recv(&self.delivering(to, message, PATIENCE))
    }

    /// Sends a message; the receipt arrives on the channel.
    pub(crate) fn delivering<M: Send + 'static>(
        &self,
        to: Addr<M>,
        message: M,
        timeout: Duration,
    ) -> Receiver<Result<(), DeliverError>> {
        let (sender, receipts) = channel();
        let mut message = Some(message);
        self.spawn(move |cx, event| match event {
            Event::Start => {
                if let Some(message) = message.take() {
                    cx.deliver(to, message, timeout, |receipt| receipt);
                }
                receive()
            }
            Event::Message(receipt) => {
                report(&sender, receipt);
                antiphon_sched::stop()
            }
            _ => receive(),
        });
        receipts
    }

    /// Connects to a peer, and returns the locations that were reached.
    #[track_caller]
    pub(crate) fn connect(
        &self,
        at: impl Into<PeerAt>,
        within: Duration,
    ) -> Result<Vec<Location>, PeerError> {
        let (sender, results) = channel();
        let at = at.into();
        self.spawn(move |cx, event| match event {
            Event::Start => {
                cx.peer(at.clone(), within, |found| found);
                receive()
            }
            Event::Message(found) => {
                report(&sender, found);
                antiphon_sched::stop()
            }
            _ => receive(),
        });
        recv(&results)
    }

    /// Monitors an actor; its exit reason arrives on the channel.
    pub(crate) fn monitor(&self, actor: impl Into<ActorId>) -> Receiver<Exit> {
        let (sender, exits) = channel();
        let actor = actor.into();
        self.spawn(move |cx: &mut Cx<()>, event| {
            match event {
                Event::Start => {
                    cx.monitor(actor);
                }
                Event::Down(down) => report(&sender, Exit::of(down)),
                _ => {}
            }
            receive()
        });
        exits
    }

    /// Runs a closure in a step of a new actor, and returns its result.
    pub(crate) fn step<R: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Cx<'_, ()>) -> R + Send + 'static,
    ) -> R {
        let (sender, results) = channel();
        let mut act = Some(act);
        self.spawn(move |cx: &mut Cx<()>, _| {
            if let Some(act) = act.take() {
                report(&sender, act(cx));
            }
            antiphon_sched::stop()
        });
        recv(&results)
    }
}

/// An exit reason that tests can compare; a value is kept if it is a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Done,
    Value(String),
    Failed(String),
    Panicked(String),
    Terminated,
    NodeLost,
    NoActor,
    Refused,
    Lagged,
}

impl Exit {
    pub(crate) fn of(down: Down) -> Self {
        match down.reason {
            ExitReason::Done(value) => value.get::<String>().map_or(Self::Done, Self::Value),
            ExitReason::Failed(text) => Self::Failed(text),
            ExitReason::Panicked(text) => Self::Panicked(text),
            ExitReason::Terminated => Self::Terminated,
            ExitReason::NodeLost => Self::NodeLost,
            ExitReason::NoActor => Self::NoActor,
            ExitReason::Refused => Self::Refused,
            ExitReason::Lagged => Self::Lagged,
        }
    }
}
