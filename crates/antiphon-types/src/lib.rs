//! Definitions that the scheduler and the wire protocol share: ids and time.

mod id;
pub use id::{Key, NodeId};

mod time;
pub use time::{Time, millis, secs};
