//! Disconnects: this node ends the session with a peer, because an actor closes the peer or starts to ignore it.
//!
//! All frames that were sent before are acknowledged before the goodbye is sent. Afterwards neither side dials the other
//! by itself or acts on its announcements, until an actor of either side connects to the other again.
//!
//! Invariant: a disconnect ends by its deadline and completes each of its requests once. Messages that are sent meanwhile
//! wait for another session.

use std::time::Duration;

use antiphon_sched::{RequestId, Time};
use antiphon_wire::frame::GoodbyeReason;

use crate::error::CloseError;

/// The longest time that the disconnect of an ignored peer takes.
pub(in crate::node) const DISCONNECT_WITHIN: Duration = Duration::from_secs(5);

/// The disconnect of one session.
#[derive(Debug)]
pub(in crate::node) struct Disconnect {
    pub(in crate::node) reason: GoodbyeReason,
    /// Whether the goodbye was sent. Until then, earlier frames wait for their acknowledgement.
    pub(in crate::node) goodbye_sent: bool,
    pub(in crate::node) until: Time,
    /// The requests that complete with `outcome` when the session has ended, for whatever reason.
    pub(in crate::node) request_ids: Vec<RequestId>,
    pub(in crate::node) outcome: Result<(), CloseError>,
}
