//! What the tests of this crate share: a network of their own, nodes on threads, and other processes.

#![allow(dead_code, reason = "each test file uses its part of this")]

pub(crate) mod bare_tls;
pub(crate) mod bombs;
pub(crate) mod certs;
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
    Config, Counts, DeliverError, Location, NetCx, Node, NodeError, PeerAt, Resolver, Secret, Status,
};
use antiphon_sched::{ActorId, Addr, Cx, Down, Event, ExitReason, Handle, LoopStats, Step, receive};

/// How long anything that must happen may take, on the slowest machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What the nodes of one test share: a secret and a UDP port that no other test has.
#[derive(Clone)]
pub(crate) struct Net {
    pub(crate) secret: Secret,
    pub(crate) udp_port: u16,
    /// The certificate that all share.
    pub(crate) tls: Option<PathBuf>,
}

impl Net {
    pub(crate) fn new() -> Self {
        let secret = Secret::generate().expect("the system has random numbers");
        Self { secret, udp_port: antiphon_sched::testing::free_udp_port(), tls: None }
    }

    /// A node that finds the others by announcements.
    pub(crate) fn config(&self, name: &str) -> Config {
        Config {
            name: Some(name.to_owned()),
            secret: Some(self.secret.clone()),
            udp_port: Some(self.udp_port),
            certfile: self.tls.clone(),
            ..Config::default()
        }
    }

    /// A node that knows these peers, and finds no others.
    pub(crate) fn quiet(&self, name: &str, peers: &[Location]) -> Config {
        Config {
            discover_peers: false,
            peers: peers.iter().map(|at| PeerAt::from(*at)).collect(),
            ..self.config(name)
        }
    }

    pub(crate) fn node(&self, name: &str) -> TestNode {
        TestNode::start(self.config(name))
    }

    pub(crate) fn quiet_node(&self, name: &str, peers: &[Location]) -> TestNode {
        TestNode::start(self.quiet(name, peers))
    }

    /// Two nodes that know each other: the second has dialled the first.
    pub(crate) fn pair(&self) -> (TestNode, TestNode) {
        let first = self.quiet_node("first", &[]);
        let second = self.quiet_node("second", &[first.location]);
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
    bell: Addr<()>,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    pub(crate) log: Log,
}

impl TestNode {
    pub(crate) fn start(config: Config) -> Self {
        Self::build(move || Node::new(config))
    }

    /// A node that looks hosts up in its own way.
    pub(crate) fn resolving(config: Config, resolver: Resolver) -> Self {
        Self::build(move || Node::with_resolver(config, resolver))
    }

    fn build(build: impl FnOnce() -> Result<Node, NodeError> + Send + 'static) -> Self {
        let (tell, told) = channel();
        let (jobs, todo) = channel::<Job>();
        let log = Log::default();
        let written = log.clone();
        let thread = std::thread::spawn(move || {
            let _logged = written.attach();
            let mut node = build().expect("a node can start");
            let bell = node.spawn(|cx: &mut Cx<()>, _| {
                cx.set_daemon(true);
                receive()
            });
            tell.send((node.location(), node.handle(), bell)).expect("the test waits for it");
            loop {
                match todo.try_recv() {
                    Ok(job) => job(&mut node),
                    Err(std::sync::mpsc::TryRecvError::Empty) => {
                        node.run_once(None).expect("the system has an event queue")
                    }
                    Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
                }
            }
        });
        let (location, handle, bell) = told.recv().expect("the node started");
        Self { location, handle, bell, jobs: Some(jobs), thread: Some(thread), log }
    }

    fn ring(&self) {
        self.handle.send(self.bell, ()).expect("the node runs");
    }

    /// Does something with the node, on its thread.
    pub(crate) fn with<R: Send + 'static>(&self, job: impl FnOnce(&mut Node) -> R + Send + 'static) -> R {
        let (tell, told) = channel();
        let job = move |node: &mut Node| {
            drop(tell.send(job(node)));
        };
        self.jobs.as_ref().expect("the node runs").send(Box::new(job)).expect("the node runs");
        self.ring();
        told.recv_timeout(PATIENCE).expect("the node's thread answers")
    }

    pub(crate) fn spawn<M: 'static, F>(&self, actor: F) -> Addr<M>
    where
        F: FnMut(&mut Cx<'_, M>, Event<M>) -> Step<M> + Send + 'static,
    {
        self.handle.spawn(actor).expect("the node runs")
    }

    /// Starts an actor that registers under a name, and tells what it receives.
    pub(crate) fn listener<M: antiphon_sched::Wire + Send>(&self, name: &'static str) -> Receiver<M> {
        let (tell, told) = channel();
        let (ready, registered) = channel();
        self.spawn(move |cx: &mut Cx<M>, event| {
            match event {
                Event::Start => {
                    cx.register(name)?;
                    tell_test(&ready, ());
                }
                Event::Message(message) => tell_test(&tell, message),
                _ => {}
            }
            receive()
        });
        registered.recv_timeout(PATIENCE).expect("the name is registered");
        told
    }

    /// Looks for a name until it is found.
    pub(crate) fn find<M: antiphon_sched::Wire>(&self, name: &'static str) -> Addr<M> {
        let (tell, told) = channel();
        self.spawn(move |cx, event| match event {
            Event::Start => {
                cx.locate(name, PATIENCE, |found| found);
                receive()
            }
            Event::Message(found) => {
                tell_test(&tell, found);
                antiphon_sched::stop()
            }
            _ => receive(),
        });
        heard(&told).expect("somebody has the name")
    }

    pub(crate) fn counts(&self) -> Counts {
        self.with(|node| node.counts())
    }

    pub(crate) fn stats(&self) -> LoopStats {
        self.with(|node| node.stats())
    }

    /// Waits until so many peers are there.
    pub(crate) fn wait_for_peers(&self, count: usize) {
        let (tell, told) = channel();
        self.spawn(move |cx: &mut Cx<()>, event| {
            if matches!(event, Event::Start) {
                cx.peer_status(|_| ());
            }
            if cx.peers().len() == count {
                tell_test(&tell, ());
                return antiphon_sched::stop();
            }
            receive()
        });
        heard(&told);
    }

    /// Tells of every change of a peer's status, by its name.
    pub(crate) fn statuses(&self) -> Receiver<(String, Status)> {
        let (tell, told) = channel();
        self.spawn(move |cx: &mut Cx<antiphon_dist::PeerStatus>, event| {
            match event {
                Event::Start => {
                    cx.set_daemon(true);
                    cx.peer_status(|status| status);
                }
                Event::Message(status) => tell_test(&tell, (status.name, status.status)),
                _ => {}
            }
            receive()
        });
        told
    }

    /// Waits until the node's counts are as wanted.
    pub(crate) fn wait_for_counts(&self, what: &str, wanted: impl Fn(&Counts) -> bool) -> Counts {
        wait_for(what, || Some(self.counts()).filter(|counts| wanted(counts)))
    }

    /// Ends the node, with goodbye.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.jobs = None;
        // It may have ended before.
        drop(self.handle.send(self.bell, ()));
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

/// Tells the test, if it still listens.
pub(crate) fn tell_test<T>(to: &Sender<T>, what: T) {
    // A test that has seen enough no longer listens.
    drop(to.send(what));
}

/// The next thing that an actor tells the test.
#[track_caller]
pub(crate) fn heard<T>(from: &Receiver<T>) -> T {
    match from.recv_timeout(PATIENCE) {
        Ok(value) => value,
        Err(reason) => panic!("waited {PATIENCE:?} to be told: {reason}"),
    }
}

/// Waits until `wanted` answers.
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

/// Waits for a value that `wanted` admits, and answers all that came before it, with it.
#[track_caller]
pub(crate) fn heard_until<T: Debug>(from: &Receiver<T>, mut wanted: impl FnMut(&T) -> bool) -> Vec<T> {
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
            Err(reason) => panic!("waited {PATIENCE:?}: {reason}; so far {all:?}"),
        }
    }
}

/// What one node logs.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Has the log of this thread written here.
    pub(crate) fn attach(&self) -> tracing::subscriber::DefaultGuard {
        self.attach_at(tracing::Level::WARN)
    }

    /// As `attach`, down to a level.
    pub(crate) fn attach_at(&self, level: tracing::Level) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(level)
            .with_writer(move || log.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    /// Waits for a line that holds `what`.
    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str) {
        wait_for(&format!("{what:?} in the log"), || (!self.lines(what).is_empty()).then_some(()));
    }

    /// The lines that hold `what`.
    pub(crate) fn lines(&self, what: &str) -> Vec<String> {
        let written = self.0.lock().expect("nobody panics while writing");
        let text = String::from_utf8_lossy(&written);
        text.lines().filter(|line| line.contains(what)).map(str::to_owned).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panics while writing").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl TestNode {
    /// Sends a message, and answers its receipt.
    #[track_caller]
    pub(crate) fn deliver<M: Send + 'static>(&self, to: Addr<M>, message: M) -> Result<(), DeliverError> {
        heard(&self.delivering(to, message, PATIENCE))
    }

    /// Sends a message; its receipt is told.
    pub(crate) fn delivering<M: Send + 'static>(
        &self,
        to: Addr<M>,
        message: M,
        timeout: Duration,
    ) -> Receiver<Result<(), DeliverError>> {
        let (tell, told) = channel();
        let mut message = Some(message);
        self.spawn(move |cx, event| match event {
            Event::Start => {
                if let Some(message) = message.take() {
                    cx.deliver(to, message, timeout, |receipt| receipt);
                }
                receive()
            }
            Event::Message(receipt) => {
                tell_test(&tell, receipt);
                antiphon_sched::stop()
            }
            _ => receive(),
        });
        told
    }

    /// Monitors an actor; how it ends is told.
    pub(crate) fn watch(&self, actor: impl Into<ActorId>) -> Receiver<End> {
        let (tell, told) = channel();
        let actor = actor.into();
        self.spawn(move |cx: &mut Cx<()>, event| {
            match event {
                Event::Start => {
                    cx.monitor(actor);
                }
                Event::Down(down) => tell_test(&tell, End::of(down)),
                _ => {}
            }
            receive()
        });
        told
    }

    /// Does something in a step of an actor.
    pub(crate) fn step<R: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Cx<'_, ()>) -> R + Send + 'static,
    ) -> R {
        let (tell, told) = channel();
        let mut act = Some(act);
        self.spawn(move |cx: &mut Cx<()>, _| {
            if let Some(act) = act.take() {
                tell_test(&tell, act(cx));
            }
            antiphon_sched::stop()
        });
        heard(&told)
    }
}

/// How an actor ended, in a form that a test can hold; values are texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    Value(String),
    Failed(String),
    Panicked(String),
    Terminated,
    NodeLost,
    NoActor,
    Refused,
}

impl End {
    pub(crate) fn of(down: Down) -> Self {
        match down.reason {
            ExitReason::Done(value) => value.get::<String>().map_or(Self::Done, Self::Value),
            ExitReason::Failed(text) => Self::Failed(text),
            ExitReason::Panicked(text) => Self::Panicked(text),
            ExitReason::Terminated => Self::Terminated,
            ExitReason::NodeLost => Self::NodeLost,
            ExitReason::NoActor => Self::NoActor,
            ExitReason::Refused => Self::Refused,
        }
    }
}
