//! The node, as users hold it: a loop with a core and a driver.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use antiphon_sched::{
    Actor, ActorId, Addr, Cx, DeadLetter, Event, Fold, Handle, JoinHandle, Loop, LoopStats, SendError, Step,
    Target, Wire, egress,
};

use crate::access::{AccessError, AccessPolicy};
use crate::channels::{self, Channel};
use crate::config::Config;
use crate::cx::allow;
use crate::error::{NodeError, RegisterError};
use crate::files;
use crate::location::Location;
use crate::net::{NetDriver, Resolver};
use crate::node::{Counts, Input, NodeCore};
use crate::rci::{self, Rci};

/// How long `run` waits, at its end, until peers have acknowledged what was sent.
const FLUSH_WITHIN: Duration = Duration::from_secs(5);
/// How long a node that is dropped waits until its goodbyes are written.
const LEAVE_WITHIN: Duration = Duration::from_millis(500);

/// A loop of actors that talks to others like it.
///
/// ```
/// use antiphon_dist::{Config, NetCx, Node};
/// use antiphon_sched::{Cx, Event, receive, secs, stop};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut node = Node::new(Config { discover_peers: false, ..Config::default() })?;
/// node.spawn(|cx: &mut Cx<String>, event| match event {
///     Event::Start => {
///         cx.register("printer")?;
///         receive()
///     }
///     Event::Message(text) => {
///         println!("{text}");
///         stop()
///     }
///     _ => receive(),
/// });
/// node.spawn(|cx, event| match event {
///     Event::Start => {
///         cx.locate("printer", secs(5), |found| found);
///         receive()
///     }
///     Event::Message(printer) => {
///         let printer: antiphon_sched::Addr<String> = printer?;
///         cx.send(printer, "hello".to_owned())?;
///         stop()
///     }
///     _ => receive(),
/// });
/// node.run()?;
/// # Ok(())
/// # }
/// ```
pub struct Node {
    sched: Loop,
    driver: NetDriver,
    location: Location,
    name: String,
    started: bool,
}

impl Node {
    /// Opens the ports of a node. It finds its peers when it runs.
    ///
    /// # Errors
    /// A port is in use, or the configuration is unsafe or says what no node can do.
    pub fn new(config: Config) -> Result<Self, NodeError> {
        Self::with_resolver(config, look_up)
    }

    /// As [`Node::new`], with another way to look hosts up.
    ///
    /// # Errors
    /// As [`Node::new`].
    pub fn with_resolver(config: Config, resolver: Resolver) -> Result<Self, NodeError> {
        let mut sched = Loop::new(config.scheduler.clone())?;
        let (driver, location) = NetDriver::open(&config, &mut sched, resolver)?;
        files::start(&config, &mut sched)?;
        Ok(Self { sched, driver, location, name: config.name_at(location), started: false })
    }

    /// Where the node takes connections.
    pub fn location(&self) -> Location {
        self.location
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A handle for other threads.
    pub fn handle(&self) -> Handle {
        self.sched.handle()
    }

    /// Starts an actor from a closure.
    pub fn spawn<M: 'static, F>(&mut self, actor: F) -> Addr<M>
    where
        F: FnMut(&mut Cx<'_, M>, Event<M>) -> Step<M> + 'static,
    {
        self.sched.spawn(actor)
    }

    /// Starts an actor from anything that is one.
    pub fn spawn_actor<M: 'static>(&mut self, actor: impl Actor<M>) -> Addr<M> {
        self.sched.spawn_actor(actor)
    }

    /// Starts an actor from a state, and a fold that takes the state and gives the next.
    pub fn spawn_fsm<M: 'static, S: 'static, F>(&mut self, state: S, fold: F) -> Addr<M>
    where
        F: FnMut(&mut Cx<'_, M>, S, Event<M>) -> Fold<S, M> + 'static,
    {
        self.sched.spawn_fsm(state, fold)
    }

    /// Opens a channel under a name, for all of the node's life. It does not keep the node running: [`Node::run`]
    /// returns when only daemons are left, so use [`Node::serve`] where others are to find it. On order, see
    /// [`NetCx::channel`](crate::NetCx::channel).
    ///
    /// # Errors
    /// The node has a channel of that name, it is no name, or there are too many.
    pub fn channel<T: Wire + Clone>(&mut self, name: &str) -> Result<Channel<T>, RegisterError> {
        channels::open(&mut self.sched.loop_ref(), name, None, None)
    }

    /// As [`Node::channel`]; each message is passed on as `transform` makes it, or dropped if it answers `None`.
    ///
    /// # Errors
    /// As [`Node::channel`].
    pub fn channel_with<T: Wire + Clone>(
        &mut self,
        name: &str,
        transform: impl FnMut(&str, T) -> Option<T> + 'static,
    ) -> Result<Channel<T>, RegisterError> {
        channels::open(&mut self.sched.loop_ref(), name, None, Some(Box::new(transform)))
    }

    /// The end of an actor of this node, with the value that it will exit with; `()` for `stop`. Ask for it before
    /// [`Node::run`]: of an actor that has ended by then, nothing is kept.
    pub fn join_handle<V: Wire + Send>(&mut self, actor: impl Into<ActorId>) -> JoinHandle<V> {
        self.sched.join_handle(actor)
    }

    /// Registers a function from arguments to actors (closures), which callers on all nodes can have started here. It
    /// does not keep the node running, while the actors that it starts do: [`Node::run`] returns when only daemons are
    /// left, so use [`Node::serve`] where others are to call it.
    ///
    /// # Errors
    /// The node has an RCI of that name, it is no name, or there are too many.
    pub fn rci<A: Wire, T: Wire, F>(
        &mut self,
        name: &str,
        function: impl FnMut(A) -> F + 'static,
    ) -> Result<Rci<A, T>, RegisterError>
    where
        F: FnMut(&mut Cx<'_, T>, Event<T>) -> Step<T> + 'static,
    {
        self.rci_actor(name, function)
    }

    /// As [`Node::rci`], for anything that is an actor: structs, boxes.
    ///
    /// # Errors
    /// As [`Node::rci`].
    pub fn rci_actor<A: Wire, T: Wire, W: Actor<T>>(
        &mut self,
        name: &str,
        function: impl FnMut(A) -> W + 'static,
    ) -> Result<Rci<A, T>, RegisterError> {
        rci::open(&mut self.sched.loop_ref(), name, None, function)
    }

    /// Takes a function back that the node has registered; actors that it started go on.
    ///
    /// # Errors
    /// There is no RCI of that name, or an actor has registered it.
    pub fn unregister_rci(&mut self, name: &str) -> Result<(), RegisterError> {
        rci::unregister(&mut self.sched.loop_ref(), name, None)
    }

    /// Opens an actor, a channel or an RCI of this node to these peers, and to no others; see
    /// [`NetCx::allow`](crate::NetCx::allow).
    ///
    /// # Errors
    /// It lives elsewhere or has ended, or the audience is by certificates where there is no TLS.
    pub fn allow(&mut self, what: impl Into<ActorId>, access: AccessPolicy) -> Result<(), AccessError> {
        allow(&mut self.sched.loop_ref(), what.into(), access)
    }

    /// Sends from outside of all actors.
    ///
    /// # Errors
    /// The message comes back, with the reason.
    pub fn send<T: Target>(&mut self, to: T, message: T::Message) -> Result<(), SendError<T::Message>> {
        self.sched.send(to, message)
    }

    /// Has `watch` see each dead letter.
    pub fn on_dead_letter(&mut self, watch: impl FnMut(&DeadLetter) + 'static) {
        self.sched.on_dead_letter(watch);
    }

    /// How the scheduler is doing.
    pub fn stats(&self) -> LoopStats {
        self.sched.stats()
    }

    /// How the node is doing.
    pub fn counts(&mut self) -> Counts {
        self.sched.loop_ref().transport::<NodeCore>().map(|core| core.counts()).unwrap_or_default()
    }

    /// Runs until only daemons are left, or the node was stopped; then until what was sent has arrived, for
    /// five seconds at most. Files under way end with their actor, and are not waited for.
    ///
    /// That actors failed is no error of the node's: the answer is `Ok` also then. Where the program's exit code is to
    /// tell how an actor ended, ask its [`Node::join_handle`].
    ///
    /// # Errors
    /// The system's event queue fails.
    pub fn run(&mut self) -> Result<(), NodeError> {
        self.run_until(|sched| !sched.has_live_actors())
    }

    /// Runs until the node is stopped: by a handle, SIGINT or SIGTERM; also with daemons only, or no actor.
    ///
    /// # Errors
    /// The system's event queue fails, or signals cannot be watched.
    pub fn serve(&mut self) -> Result<(), NodeError> {
        #[cfg(unix)]
        self.sched.stop_on_signals()?;
        self.run_until(|_| false)
    }

    /// Runs `main` on a thread beside the node, and then as [`Node::run`].
    ///
    /// # Errors
    /// As [`Node::run`]; or `main` panicked.
    pub fn run_with<T: Send>(&mut self, main: impl FnOnce(Handle) -> T + Send) -> Result<T, NodeError> {
        let handle = self.sched.handle();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let beside = std::thread::Builder::new().name("antiphon-main".into()).spawn_scoped(scope, || {
                let _told = WakeOnDrop { done: &done, handle: handle.clone() };
                main(handle.clone())
            });
            let beside = beside.map_err(|reason| NodeError::Thread(reason.to_string()))?;
            let ran = self.run_until(|sched| done.load(Ordering::Acquire) && !sched.has_live_actors());
            let value = beside.join().map_err(|payload| NodeError::Thread(panic_text(&*payload)))?;
            ran.map(|()| value)
        })
    }

    /// One round: wait for what comes, at most until `deadline`; run; write. For those who embed a node in a
    /// loop of their own.
    ///
    /// # Errors
    /// The system's event queue fails.
    pub fn run_once(&mut self, deadline: Option<antiphon_sched::Time>) -> Result<(), NodeError> {
        self.start();
        self.driver.round(&mut self.sched, deadline)
    }

    fn start(&mut self) {
        if !std::mem::replace(&mut self.started, true) {
            tracing::info!(location = %self.location, name = self.name, "the node starts");
            self.driver.input(&mut self.sched, Input::Start);
        }
    }

    fn run_until(&mut self, over: impl Fn(&Loop) -> bool) -> Result<(), NodeError> {
        self.start();
        self.sched.work();
        self.driver.flush(&mut self.sched);
        while !over(&self.sched) && !self.sched.has_stopped() {
            self.driver.round(&mut self.sched, None)?;
        }
        self.sched.after_stop();
        self.flush(FLUSH_WITHIN)
    }

    /// Goes on until all that was sent is acknowledged.
    fn flush(&mut self, within: Duration) -> Result<(), NodeError> {
        let end = self.sched.now() + within;
        self.driver.flush(&mut self.sched);
        while self.sched.now() < end && !self.is_flushed() {
            self.driver.round(&mut self.sched, Some(end))?;
        }
        Ok(())
    }

    fn is_flushed(&mut self) -> bool {
        self.sched.loop_ref().transport::<NodeCore>().is_none_or(|core| core.is_flushed())
    }
}

/// Wakes the loop when the thread beside it ends, also by a panic.
struct WakeOnDrop<'a> {
    done: &'a AtomicBool,
    handle: Handle,
}

impl Drop for WakeOnDrop<'_> {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
        self.handle.wake();
    }
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic that carried no text").to_owned()
}

fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    egress::allowed_name(host).map_err(io::Error::other)?;
    (host, port).to_socket_addrs().map(Iterator::collect)
}

impl Drop for Node {
    /// Says goodbye to the peers.
    fn drop(&mut self) {
        if !self.started || std::thread::panicking() {
            return;
        }
        self.driver.input(&mut self.sched, Input::Leave);
        if let Err(reason) = self.flush(LEAVE_WITHIN) {
            tracing::debug!(%reason, "the node leaves without goodbye");
        }
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("name", &self.name)
            .field("location", &self.location)
            .finish_non_exhaustive()
    }
}
