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
pub use actor::{Actor, actor};

mod actor_event;
pub use actor_event::{Down, Event, ExitReason, SwapOffer, Thrown};

mod actor_extras;
pub use actor_extras::SignalPolicy;

mod actor_table;
mod adapter;

mod addr;
pub use addr::{Addr, SendMode, Target};

mod batch;
mod blocking_pool;
pub use blocking_pool::JobPool;

mod budget;
pub use budget::{Budget, Permit};

#[cfg(not(feature = "safe"))]
mod cell;
#[cfg(feature = "safe")]
#[path = "cell_safe.rs"]
mod cell;

#[cfg(feature = "serde")]
mod checked_serializer;

mod codec_context;
pub use codec_context::{Origin, origin, with_origin};

mod core;

mod cx;
pub use cx::{Cx, Monitor, Timer};

mod dead_letter;
pub use dead_letter::{DeadLetter, DeadLetterCounts};

mod dropped_replies;
pub mod egress;
mod ended_monitors;

mod error;
pub use error::{
    AskError, DecodeError, EncodeError, JobError, JoinError, PayloadError, SendError, SettingError,
    TooManyAdapters, TooManyOpen, Undelivered, ValueError,
};

mod event_loop;
pub use event_loop::{ExternalReadiness, Loop, LoopConfig, LoopError, LoopStats, Platform};

mod handle;
pub use handle::Handle;

mod id;
pub use id::{ActorId, Key, NodeId};

mod inbox;

mod inspection;
pub use inspection::{ActorActivity, ActorCursor, ActorInfo, ActorPage, ActorState};

mod join_handle;
pub use join_handle::JoinHandle;

mod lag;
pub use lag::Lag;

mod loop_ref;
pub use loop_ref::{Delivery, LoopRef, MailboxLoad};

mod mailbox;

mod mailbox_limit;
pub use mailbox_limit::{MailboxLimit, WhenFull};

mod mailbox_waiters;
pub use mailbox_waiters::{RoomMark, Ticket, Turn};

mod panic_guard;

mod readiness;
pub use readiness::{EXTERNAL_TOKENS, Ready, Source};

mod remote;

mod requests;
pub use remote::EncodedMessage;
pub use requests::{ReplyTo, RequestId};

#[cfg(unix)]
mod signals;

mod sockets;
pub use sockets::{
    AcceptBackoff, Conn, Duplex, Endpoint, Framing, Host, Layer, Layered, ProcessEvent, SocketError,
    SocketEvent, Udp, site_of,
};

mod step;
pub use step::{
    Ends, Failure, Fold, In, Next, Step, exit, exit_local, fail, finishing, receive, receive_again,
    receive_if, receive_if_within, receive_within, sleep, stop, suspend, swap, swap_actor, to,
};

pub mod testing;

mod termination;

mod time;
pub use time::{Time, millis, secs};

mod timers;

mod transport;
pub use transport::{Destination, MonitorId, OutboundMessage, QueueRoom, Signal, Transport};

mod value;
pub use value::Value;

#[doc(hidden)]
pub mod wake_flag;
mod watchdog;

mod wire;
pub use wire::{TYPE_NAME_MAX, Wire};

#[cfg(feature = "serde")]
pub use bytes::Bytes;
#[cfg(feature = "serde")]
mod wire_crates;
#[cfg(feature = "serde")]
mod wire_serde;
#[cfg(feature = "serde")]
mod wire_std;
#[cfg(feature = "serde")]
#[doc(hidden)]
pub use wire_serde::private as __private;

pub use mio;
