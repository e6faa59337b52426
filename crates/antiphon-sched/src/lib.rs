//! Actors as state-machine closures on a single-threaded event loop.
//!
//! The loop calls an actor with one event at a time; the actor returns what it waits for next. An actor owns
//! its state, never blocks the loop, and receives messages at its address. All actors of a loop run on one
//! thread. Other threads reach the loop through a [`Handle`].
//!
//! ```
//! use antiphon_sched::{Event, Loop, LoopConfig, receive, stop};
//!
//! let mut events = Loop::new(LoopConfig::default())?;
//! let mut sum = 0;
//! let adder = events.spawn(move |_cx, event| match event {
//!     Event::Message(0) => {
//!         println!("the sum is {sum}");
//!         stop()
//!     }
//!     Event::Message(n) => {
//!         sum += n;
//!         receive()
//!     }
//!     _ => receive(),
//! });
//! for n in [1_u32, 2, 3, 0] {
//!     events.send(adder, n)?;
//! }
//! events.run()?; // returns when only daemons are left
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The crate needs no network and, without the feature `serde`, no serde. A node of `antiphon-dist`
//! connects loops across machines: it is the loop's [`Transport`].

mod actor;
pub use actor::{
    Actor, Addr, Cx, Down, Ends, Event, ExitReason, Failure, Fold, In, Monitor, Next, SendMode, Step,
    SwapOffer, Target, Thrown, Timer, Value, actor, exit, exit_local, fail, finishing, receive,
    receive_again, receive_if, receive_if_within, receive_within, sleep, stop, suspend, swap, swap_actor, to,
};

mod error;
pub use error::{
    AskError, DecodeError, EncodeError, JobError, JoinError, PayloadError, SendError, SettingError,
    TooManyAdapters, TooManyOpen, Undelivered, ValueError, printable,
};

mod event_loop;
pub use event_loop::{
    EXTERNAL_TOKENS, ExternalReadiness, Loop, LoopConfig, LoopError, Platform, Ready, Source,
};

mod id;
pub use id::{ActorId, Key, NodeId};

mod remote;
#[cfg(feature = "serde")]
#[doc(hidden)]
pub use remote::__private;
pub use remote::{
    ActorSignals, Delivery, Destination, EncodedMessage, EncodedValue, LocalActors, LoopRef, MailboxLoad,
    Mailboxes, MonitorId, Notice, Origin, OutboundMessage, PayloadRules, QueueRoom, Requests, ServiceRef,
    Signal, SignalKind, TYPE_NAME_MAX, Transport, Wire, origin, with_origin,
};

mod request;
pub use request::{ReplyTo, RequestId};

mod scheduler;
mod slots;
pub use scheduler::{
    ActorActivity, ActorCursor, ActorInfo, ActorPage, ActorState, Budget, DeadLetter, DeadLetterCounts, Lag,
    LoopStats, MailboxLimit, OverBudget, Permit, RoomMark, SignalPolicy, Ticket, Turn, WhenFull,
};

mod socket;
pub use socket::{
    Acceptor, ByteStream, Conn, Duplex, Endpoint, FdReadiness, Framing, Host, Layer, Layered, ProcessEvent,
    SocketError, SocketEvent, Udp, egress, site_of,
};

pub mod testing;

mod thread;
#[doc(hidden)]
pub use thread::wake_flag;
pub use thread::{Handle, JobPool, JoinHandle};

pub use antiphon_types::{Time, millis, secs};

#[cfg(feature = "serde")]
pub use bytes::Bytes;

pub use mio;
