//! Open requests, the replies to them, and replies that were dropped.
//!
//! It owns the kind of table that holds open requests, and the ways to complete one: with a value, with bytes of another node, or with an
//! error. A request completes at most once, and not at all if its actor ends before.
//! Must not import: `event_loop`, `socket`, `testing`.

mod completion;
pub(crate) mod dropped;
mod pending;

pub(crate) use dropped::DroppedReply;
pub(crate) use pending::{AskHandler, ExpectedReply, PendingRequests, RequestHandler, ThreadHandler};
pub use pending::{ReplyTo, RequestId};
