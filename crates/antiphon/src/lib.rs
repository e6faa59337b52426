//! Actors as state-machine closures that find each other by name, within a process and across machines.
//!
//! ```no_run
//! use antiphon::prelude::*;
//!
//! fn main() -> Result<(), Failure> {
//!     let mut node = Node::new(Config { secret: Some("key".into()), ..Config::default() })?;
//!     node.spawn(|cx: &mut Cx<String>, event| {
//!         match event {
//!             Event::Start => cx.register("greeter")?,
//!             Event::Message(name) => println!("hello, {name}"),
//!             _ => {}
//!         }
//!         receive()
//!     });
//!     Ok(node.serve()?) // until SIGINT or SIGTERM
//! }
//! ```
//!
//! Another process on the same machine finds `greeter` by `cx.locate("greeter", ..)`, and sends to the address in the
//! answer. This needs no further configuration; `Config` describes how to connect nodes on different machines.

#![forbid(unsafe_code)]

pub use antiphon_dist as dist;
pub use antiphon_sched as sched;

pub use antiphon_dist::{secret, service, testing};
pub use antiphon_sched::wire;

/// The types and functions that most programs need: `use antiphon::prelude::*;`.
pub mod prelude {
    pub use antiphon_dist::{
        AccessError, AccessPolicy, CallError, Channel, CloseError, Config, DeliverError, DialError, EndOnLag,
        Fingerprint, Ignored, IpNet, LocateError, Location, NetCx, NetHandle, Node, NodeError, PeerAt,
        PeerError, PeerLimits, PeerOptions, PeerStatus, Rci, RegisterError, ReloadError, Secret, Status,
        SubscribeError, Subscriber, UnknownNode, UnknownPeer, Watch,
    };
    // What a running node shows of itself.
    pub use antiphon_dist::{Counts, NameInfo, NamePage, PeerInfo, PeerPage, SessionInfo};
    pub use antiphon_dist::{
        DeleteError, FileError, FileOptions, FileRefused, FileStat, PathError, Progress, SourceError, Stored,
        Transfer,
    };
    // TLS on the sockets of actors.
    pub use antiphon_dist::{Tls, TlsAt, TlsConfig, TlsError, TlsFault};
    pub use antiphon_sched::{
        Actor, ActorId, Addr, AskError, Bytes, Cx, Down, Event, ExitReason, Failure, Fold, Handle, JobError,
        JoinError, JoinHandle, MailboxLimit, Monitor, NodeId, PayloadError, ReplyTo, SendError, Step, Time,
        Timer, TooManyOpen, Undelivered, Value, WhenFull, Wire, actor, exit, exit_local, fail, finishing,
        millis, receive, receive_again, receive_if, receive_if_within, receive_within, secs, sleep, stop,
        suspend, swap, swap_actor, to,
    };
    pub use antiphon_sched::{ActorInfo, ActorPage, ActorState, LoopStats};
    // A loop without a node, and the sockets and child processes of actors.
    pub use antiphon_sched::{
        Conn, Endpoint, Framing, Loop, LoopConfig, LoopError, ProcessEvent, SocketError, SocketEvent, Udp,
    };
}

/// Writes the `tracing` events of all crates to standard error: warnings and errors, or the events that `RUST_LOG`
/// selects.
///
/// Does nothing if the program has set a subscriber already.
#[cfg(feature = "log")]
pub fn log_to_stderr() {
    use std::io::{IsTerminal, stderr};
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let colours = stderr().is_terminal();
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(stderr);
    if subscriber.try_init().is_err() {
        // The program has set its own subscriber, which stays.
    }
}

/// Compiles the programs of the README.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub struct Readme;

/// Compiles and runs the programs of the guide.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guide.md")]
pub struct Guide;

/// Compiles and runs the programs of the page about tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/testing.md")]
pub struct Testing;

/// Compiles and runs the programs of the page for users of asyncoro.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/coming-from-asyncoro.md")]
pub struct ComingFromAsyncoro;
