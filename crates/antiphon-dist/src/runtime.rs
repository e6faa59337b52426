//! The node as its user sees it: a loop, a node core and a driver.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use antiphon_sched::{
    Actor, ActorId, Addr, Cx, DeadLetter, Event, ExitReason, Fold, Handle, JoinHandle, Loop, LoopStats,
    MailboxLimit, SendError, Step, Target, Wire, egress,
};

use tracing::Span;
use tracing::span::EnteredSpan;

use crate::access::{AccessError, AccessPolicy};
use crate::config::Config;
use crate::credentials::{self, Reloader};
use crate::error::{NodeError, RegisterError};
use crate::location::Location;
use crate::net::{NetDriver, Resolver};
use crate::node::{Counts, Input, NodeCore};
use crate::service::channel::{self, Channel};
use crate::service::rci::{self, Rci};
use crate::service::{self, NodeRef};

/// How long `run` waits at its end for peers to acknowledge all that was sent.
const FLUSH_WITHIN: Duration = Duration::from_secs(5);
/// How long the drop of a node waits for its goodbyes to be written.
const LEAVE_WITHIN: Duration = Duration::from_millis(500);

/// A loop of actors that exchanges messages with other nodes.
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
    config: Config,
    reloader: Reloader,
    span: Span,
}

impl Node {
    /// Creates a node and opens its ports. The node connects to peers once it runs.
    ///
    /// # Errors
    /// A port is in use, or the configuration is unsafe or invalid.
    pub fn new(config: Config) -> Result<Self, NodeError> {
        Self::with_resolver(config, resolve)
    }

    /// As [`Node::new`], with another resolver for host names.
    ///
    /// # Errors
    /// As [`Node::new`].
    pub fn with_resolver(config: Config, resolver: Resolver) -> Result<Self, NodeError> {
        service::check(&config)?;
        let mut sched = Loop::new(config.scheduler.clone())?;
        let (driver, location) =
            NetDriver::open(&credentials::with_secrets_of_file(&config)?, &mut sched, resolver)?;
        service::start(&config, &mut sched)?;
        let name = config.name_at(location);
        let reloader = Reloader::default();
        Ok(Self { sched, driver, location, name, started: false, config, reloader, span: Span::none() })
    }

    /// The location at which the node accepts connections.
    pub fn location(&self) -> Location {
        self.location
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A handle to the node for other threads.
    pub fn handle(&self) -> Handle {
        self.sched.handle()
    }

    /// Calls `set_up` with the loop of the node, to spawn its actors. A simulated node takes the same function
    /// (`SimNode::new` of the crate antiphon-sim), so a program and its tests start the same actors.
    pub fn set_up<R>(&mut self, set_up: impl FnOnce(&mut Loop) -> R) -> R {
        set_up(&mut self.sched)
    }

    /// Starts an actor from a closure.
    pub fn spawn<M: 'static, F>(&mut self, actor: F) -> Addr<M>
    where
        F: FnMut(&mut Cx<'_, M>, Event<M>) -> Step<M> + 'static,
    {
        self.sched.spawn(actor)
    }

    /// Starts an actor from a value that implements [`Actor`].
    pub fn spawn_actor<M: 'static>(&mut self, actor: impl Actor<M>) -> Addr<M> {
        self.sched.spawn_actor(actor)
    }

    /// Starts an actor from a state and a fold, which takes the state and returns the next one.
    pub fn spawn_fsm<M: 'static, S: 'static, F>(&mut self, state: S, fold: F) -> Addr<M>
    where
        F: FnMut(&mut Cx<'_, M>, S, Event<M>) -> Fold<S, M> + 'static,
    {
        self.sched.spawn_fsm(state, fold)
    }

    /// Opens a channel under a name until the node ends. The channel does not keep the node running: [`Node::run`]
    /// returns when only daemons are left, so use [`Node::serve`] if only other nodes use the channel. For the order of
    /// messages see [`NetCx::channel`](crate::NetCx::channel).
    ///
    /// # Errors
    /// The node has a channel of that name, the name is not valid, or there are too many names.
    pub fn channel<T: Wire + Clone>(&mut self, name: &str) -> Result<Channel<T>, RegisterError> {
        channel::open(&mut self.sched.loop_ref(), name, None, None)
    }

    /// As [`Node::channel`], with a transform: the channel sends what `transform` returns for each message, or drops the
    /// message if it returns `None`.
    ///
    /// # Errors
    /// As [`Node::channel`].
    pub fn channel_with<T: Wire + Clone>(
        &mut self,
        name: &str,
        transform: impl FnMut(&str, T) -> Option<T> + 'static,
    ) -> Result<Channel<T>, RegisterError> {
        channel::open(&mut self.sched.loop_ref(), name, None, Some(Box::new(transform)))
    }

    /// Starts an actor whose mailbox has a limit of its own: a capacity, and what happens to messages when it is full.
    pub fn spawn_with<M: 'static>(&mut self, limit: MailboxLimit, actor: impl Actor<M>) -> Addr<M> {
        self.sched.spawn_with(limit, actor)
    }

    /// Starts an actor, and returns a handle that keeps its exit value, however early it ends; `()` for `stop`.
    pub fn spawn_joinable<M: 'static, V: Wire + Send>(
        &mut self,
        actor: impl Actor<M>,
    ) -> (Addr<M>, JoinHandle<V>) {
        self.sched.spawn_joinable(actor)
    }

    /// A handle that waits for an actor of this node to exit, and returns its exit value; `()` for `stop`. Create it
    /// before [`Node::run`]: the values of actors that have exited are not kept.
    pub fn join_handle<V: Wire + Send>(&mut self, actor: impl Into<ActorId>) -> JoinHandle<V> {
        self.sched.join_handle(actor)
    }

    /// Registers an RCI: a function that makes an actor (a closure) from arguments. Actors on all nodes can call it; the
    /// new actor starts on this node. The RCI does not keep the node running, but the actors that it starts do:
    /// [`Node::run`] returns when only daemons are left, so use [`Node::serve`] if only other nodes call the RCI.
    ///
    /// # Errors
    /// The node has an RCI of that name, the name is not valid, or there are too many names.
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

    /// As [`Node::rci`], for all types that implement [`Actor`]: structs, boxes.
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

    /// Unregisters an RCI of the node. The actors that it started continue.
    ///
    /// # Errors
    /// There is no RCI of that name, or an actor has registered it.
    pub fn unregister_rci(&mut self, name: &str) -> Result<(), RegisterError> {
        rci::unregister(&mut self.sched.loop_ref(), name, None)
    }

    /// Sets which peers may reach an actor, a channel or an RCI of this node; see
    /// [`NetCx::allow`](crate::NetCx::allow).
    ///
    /// # Errors
    /// The actor is on another node or has exited, or the policy is by certificates and the node has no TLS.
    pub fn allow(&mut self, target: impl Into<ActorId>, access: AccessPolicy) -> Result<(), AccessError> {
        NodeRef::of(&mut self.sched.loop_ref()).allow(target, access)
    }

    /// Sends a message from code that is not an actor.
    ///
    /// # Errors
    /// The message was not sent. The error returns it, with the reason.
    pub fn send<T: Target>(&mut self, to: T, message: T::Message) -> Result<(), SendError<T::Message>> {
        self.sched.send(to, message)
    }

    /// Calls `hook` with each dead letter.
    pub fn on_dead_letter(&mut self, hook: impl FnMut(&DeadLetter) + 'static) {
        self.sched.on_dead_letter(hook);
    }

    /// The counters of the scheduler.
    pub fn stats(&self) -> LoopStats {
        self.sched.stats()
    }

    /// The counters of the node.
    pub fn counts(&mut self) -> Counts {
        self.sched.loop_ref().transport::<NodeCore>().map(|core| core.counts()).unwrap_or_default()
    }

    /// Runs until only daemons are left, or the node is stopped by a handle, SIGINT or SIGTERM. Then waits up to five seconds for peers to acknowledge
    /// all that was sent. It does not wait for file transfers, which end with their actor.
    ///
    /// An actor that fails is no error of the node: the result is `Ok`. To learn how an actor exited, for example for the
    /// exit code of the program, use its [`Node::join_handle`].
    ///
    /// # Errors
    /// The event queue of the system failed, or the handlers of the signals cannot be set.
    pub fn run(&mut self) -> Result<(), NodeError> {
        self.run_until(|sched| !sched.has_live_actors())
    }

    /// Runs until the node is stopped by a handle, SIGINT or SIGTERM, even if only daemons or no actors are left.
    ///
    /// # Errors
    /// The event queue of the system failed, or the handlers of the signals cannot be set.
    pub fn serve(&mut self) -> Result<(), NodeError> {
        self.run_until(|_| false)
    }

    /// Runs as [`Node::serve`] until `actor`, an actor of this node, has ended; then stops the node in order. Returns why the
    /// actor ended: with its exit value, if it has one.
    ///
    /// ```
    /// use antiphon_dist::{Config, Node};
    /// use antiphon_sched::{Cx, Event, ExitReason, exit, receive};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut node = Node::new(Config { discover_peers: false, ..Config::default() })?;
    /// let main = node.spawn(|_: &mut Cx<()>, event| match event {
    ///     Event::Start => exit(42_u32),
    ///     _ => receive(),
    /// });
    /// let ExitReason::Done(value) = node.serve_until(main)? else { panic!("it ends with a value") };
    /// assert_eq!(value.get::<u32>()?, 42);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Node::serve`].
    pub fn serve_until(&mut self, actor: impl Into<ActorId>) -> Result<ExitReason, NodeError> {
        let ended = self.sched.exit_of(actor);
        let handle = self.sched.handle();
        self.run_until(|sched| {
            if ended.borrow().is_some() && !sched.is_stopping() {
                handle.stop();
            }
            false
        })?;
        Ok(ended.take().unwrap_or(ExitReason::NoActor))
    }

    /// Runs `main` on another thread, and the node until `main` returns; then runs as [`Node::run`].
    ///
    /// SIGINT and SIGTERM stop the node in order, as in [`Node::run`]. `main` is not interrupted: from then on its calls of the
    /// handle fail with `NoLoop`. `run_with` returns when `main` does.
    ///
    /// # Errors
    /// As [`Node::run`]; or the thread could not start, or `main` panicked.
    pub fn run_with<T: Send>(&mut self, main: impl FnOnce(Handle) -> T + Send) -> Result<T, NodeError> {
        let handle = self.sched.handle();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("antiphon-main".into()).spawn_scoped(scope, || {
                let _wake = WakeOnDrop { done: &done, handle: handle.clone() };
                main(handle.clone())
            });
            let thread = thread.map_err(|reason| NodeError::Thread(reason.to_string()))?;
            let ran = self.run_until(|sched| done.load(Ordering::Acquire) && !sched.has_live_actors());
            let value = thread.join().map_err(|payload| NodeError::Thread(panic_text(&*payload)))?;
            ran.map(|()| value)
        })
    }

    /// Runs one round: waits for events until `deadline` at most, runs actors, and writes to sockets. Use it to embed a
    /// node in another loop.
    ///
    /// # Errors
    /// The event queue of the system failed.
    pub fn run_once(&mut self, deadline: Option<antiphon_sched::Time>) -> Result<(), NodeError> {
        let _span = self.enter_span();
        self.start();
        self.driver.round(&mut self.sched, deadline)
    }

    /// Enters the span of the node's log lines. It is made when a subscriber first asks for it, which may be set late.
    fn enter_span(&mut self) -> EnteredSpan {
        if self.span.is_disabled() {
            let (id, location) = (self.sched.node_id(), self.location);
            self.span = tracing::info_span!(target: "antiphon::node", "node", %id, %location);
        }
        self.span.clone().entered()
    }

    fn start(&mut self) {
        if !std::mem::replace(&mut self.started, true) {
            tracing::info!(location = %self.location, name = self.name, "the node starts");
            self.driver.input(&mut self.sched, Input::Start);
        }
    }

    fn run_until(&mut self, is_done: impl Fn(&Loop) -> bool) -> Result<(), NodeError> {
        let _span = self.enter_span();
        let result = self.listen_for_signals().and_then(|()| self.run_rounds(is_done));
        // Also after an error: threads may wait for this loop.
        self.sched.refuse_handles();
        #[cfg(unix)]
        self.sched.release_signals();
        result
    }

    fn listen_for_signals(&mut self) -> Result<(), NodeError> {
        #[cfg(unix)]
        {
            if self.config.stop_on_signals {
                self.sched.stop_on_signals()?;
            }
            if self.config.reload_on_hangup {
                self.sched.report_hangups()?;
            }
        }
        Ok(())
    }

    fn run_rounds(&mut self, is_done: impl Fn(&Loop) -> bool) -> Result<(), NodeError> {
        self.start();
        self.sched.work();
        self.driver.flush(&mut self.sched);
        while !is_done(&self.sched) && !self.sched.has_stopped() {
            self.driver.round(&mut self.sched, None)?;
            self.reload_on_hangup();
        }
        self.sched.reset_stop();
        let flushed = self.flush(FLUSH_WITHIN);
        // A stop may have been requested meanwhile.
        self.sched.reset_stop();
        flushed
    }

    /// Reads the files with the secrets and certificates again, if SIGHUP was received.
    fn reload_on_hangup(&mut self) {
        #[cfg(unix)]
        if self.sched.take_hangup() {
            self.reloader.start(&self.config, self.sched.handle());
        }
    }

    /// Runs until peers have acknowledged all that was sent, for `within` at most.
    fn flush(&mut self, within: Duration) -> Result<(), NodeError> {
        let end = self.sched.now() + within;
        self.driver.flush(&mut self.sched);
        while self.sched.now() < end && !self.is_flushed() && !self.sched.is_stopping() {
            self.driver.round(&mut self.sched, Some(end))?;
        }
        Ok(())
    }

    fn is_flushed(&mut self) -> bool {
        self.sched.loop_ref().transport::<NodeCore>().is_none_or(|core| core.is_flushed())
    }
}

/// Wakes the loop when the thread of `run_with` ends, also by a panic.
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

fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    egress::allowed_name(host).map_err(io::Error::other)?;
    (host, port).to_socket_addrs().map(Iterator::collect)
}

impl Drop for Node {
    /// Sends goodbyes to the peers.
    fn drop(&mut self) {
        if !self.started || std::thread::panicking() {
            return;
        }
        let _span = self.enter_span();
        self.driver.input(&mut self.sched, Input::Leave);
        if let Err(reason) = self.flush(LEAVE_WITHIN) {
            tracing::debug!(%reason, "the goodbyes of the node were not all written");
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
