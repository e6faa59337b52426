//! The session with a peer, the link that carries it, and what its frames mean for the node.
//!
//! Invariant: the connection of a session is established and belongs to no other session. When a session ends, each open
//! operation on it completes once, in `end_session`, and no result arrives later.

use std::net::SocketAddr;
use std::time::Duration;

use antiphon_sched::{NodeId, Time};
use antiphon_wire::frame::{AnnounceRelay, CancelLookup, Found, GoodbyeReason, IdleProposed, Lookup, NodeAt};
use antiphon_wire::{CONTROL_FRAMES_AT_ONCE, HeldCredit, Route, Session};

use super::disconnect::Disconnect;
use super::idle_close::IdleClose;
use crate::node::driver::ConnId;

/// The number of sealed bytes in a connection's buffer from which on no more records are sealed.
pub(in crate::node) const OUT_BYTES_MAX: usize = 256 * 1024;
/// How long the accepting side waits for the peer to dial again before it dials itself.
pub(in crate::node) const REDIAL_AFTER: Duration = Duration::from_secs(1);
/// How long a peer may take to answer when another one states its location, or uses its node id.
pub(in crate::node) const PREDECESSOR_WITHIN: Duration = Duration::from_secs(1);
/// The number of refusals of its epoch after which this node ends a session that the peer does not have any more, and how long it must
/// be without a connection before.
pub(in crate::node) const OLD_EPOCHS_MAX: u32 = 3;
pub(in crate::node) const OLD_EPOCHS_FOR: Duration = Duration::from_secs(1);
/// How long a closing connection may take to write its last bytes.
pub(in crate::node) const LINGER: Duration = Duration::from_secs(1);
/// The number of refused dials after which the session with a peer may end.
pub(in crate::node) const REFUSALS_MAX: u32 = 2;
/// How long a peer must be without a connection before refused dials end its session.
pub(in crate::node) const REFUSED_FOR: Duration = Duration::from_millis(100);

/// A session with a peer, and its state in this node.
#[derive(Debug)]
pub(in crate::node) struct PeerSession {
    pub(in crate::node) session: Session,
    pub(in crate::node) link: Link,
    pub(in crate::node) started: Time,
    /// When its last connection was proven.
    pub(in crate::node) connected_at: Time,
    /// The peer was asked whether it is still there, since another one may have taken its place.
    pub(in crate::node) inquiry: Option<Inquiry>,
    /// It has not answered this ping in time.
    pub(in crate::node) silent_since: Option<Time>,
    /// The location that this side dialled last for the session, if it did.
    pub(in crate::node) dialled: Option<SocketAddr>,
    /// The credit of frames that use too many bytes at this node.
    pub(in crate::node) held_credit: Vec<HeldCredit>,
    /// The session may have frames to transmit.
    pub(in crate::node) dirty: bool,
    pub(in crate::node) idle: IdleClose,
    /// The state of the disconnect, while this side ends the session.
    pub(in crate::node) disconnect: Option<Disconnect>,
    /// The time of the `Session` timer, if it is set.
    pub(in crate::node) timer: Option<Time>,
    /// The peer has been silent, but not long enough to be lost.
    pub(in crate::node) is_suspect: bool,
    /// The peer has sent a goodbye because its process ends.
    pub(in crate::node) peer_leaves: bool,
}

/// How a session is carried.
#[derive(Debug)]
pub(in crate::node) enum Link {
    /// By a connection.
    Up(ConnId),
    /// By none: another one is needed.
    Down(Outage),
    /// By none: both sides have closed the connection, because nothing needed it. The next frame needs another one.
    Resting,
}

/// A time in which a session needs a connection and has none.
#[derive(Debug)]
pub(in crate::node) struct Outage {
    /// When the last connection ended, or when the session was needed again after an idle close.
    pub(in crate::node) since: Time,
    /// The number of refused dials since then.
    pub(in crate::node) refused_dials: u32,
    /// The number of dials since then that the peer refused because of the epoch.
    pub(in crate::node) old_epochs: u32,
}

impl Outage {
    pub(in crate::node) fn new(since: Time) -> Self {
        Self { since, refused_dials: 0, old_epochs: 0 }
    }
}

/// A ping that a peer must answer within [`PREDECESSOR_WITHIN`].
#[derive(Debug)]
pub(in crate::node) struct Inquiry {
    pub(in crate::node) since: Time,
    /// The node that may be at a location of this peer.
    pub(in crate::node) successor: Option<Successor>,
}

/// What a timer of an inquiry has shown.
pub(in crate::node) enum InquiryEnd {
    /// The timer was that of an earlier inquiry: each has its own.
    Pending,
    /// Nothing is asked any more.
    Over {
        /// The node that may be at a location of the peer, which has not answered.
        unanswered: Option<Successor>,
    },
}

/// A node that states a location of another one, or was found there.
#[derive(Copy, Clone, Debug)]
pub(in crate::node) struct Successor {
    pub(in crate::node) node: NodeId,
    pub(in crate::node) at: SocketAddr,
    /// This node has dialled the location, and found the successor there.
    pub(in crate::node) is_there: bool,
}

impl PeerSession {
    /// A session that begins now, without a connection.
    pub(in crate::node) fn new(session: Session, now: Time) -> Self {
        Self {
            session,
            link: Link::Down(Outage::new(now)),
            started: now,
            connected_at: now,
            inquiry: None,
            silent_since: None,
            dialled: None,
            held_credit: Vec::new(),
            dirty: false,
            idle: IdleClose::new(now),
            disconnect: None,
            timer: None,
            is_suspect: false,
            peer_leaves: false,
        }
    }

    /// The connection that carries the session.
    pub(in crate::node) fn conn(&self) -> Option<ConnId> {
        match self.link {
            Link::Up(conn) => Some(conn),
            Link::Down(_) | Link::Resting => None,
        }
    }

    /// A connection carries the session now. Returns the one before, if it is another one.
    pub(in crate::node) fn set_connected(&mut self, conn: ConnId) -> Option<ConnId> {
        match std::mem::replace(&mut self.link, Link::Up(conn)) {
            Link::Up(before) if before != conn => Some(before),
            Link::Up(_) | Link::Down(_) | Link::Resting => None,
        }
    }

    /// Its connection is lost: it needs another one.
    pub(in crate::node) fn lose_connection(&mut self, now: Time) {
        self.link = Link::Down(Outage::new(now));
        self.session.connection_lost();
    }

    /// Both sides have closed the connection, because nothing needs it.
    pub(in crate::node) fn rest(&mut self) {
        self.link = Link::Resting;
        self.session.connection_closed_idle();
    }

    /// It is needed again after a rest.
    pub(in crate::node) fn leave_rest(&mut self, now: Time) {
        self.idle.set_active(now);
        self.session.restart_keepalive(now);
        self.link = Link::Down(Outage::new(now));
    }

    pub(in crate::node) fn is_connected(&self) -> bool {
        matches!(self.link, Link::Up(_))
    }

    /// Whether the session was closed while idle, and is not needed since.
    pub(in crate::node) fn is_resting(&self) -> bool {
        matches!(self.link, Link::Resting)
    }

    /// Whether the session needs a connection and has none.
    pub(in crate::node) fn needs_connection(&self) -> bool {
        matches!(self.link, Link::Down(_))
    }

    /// The time without a connection, if the session needs one.
    pub(in crate::node) fn outage(&mut self) -> Option<&mut Outage> {
        match &mut self.link {
            Link::Down(outage) => Some(outage),
            Link::Up(_) | Link::Resting => None,
        }
    }

    /// Seals frames into a connection's buffer, until it holds [`OUT_BYTES_MAX`].
    pub(in crate::node) fn seal_into(&mut self, now: Time, out: &mut Vec<u8>) {
        while out.len() < OUT_BYTES_MAX && self.session.poll_transmit(now, out) {}
    }

    /// Whether the session has no data in transit, and is not about to end.
    pub(in crate::node) fn is_idle(&self) -> bool {
        self.session.is_idle() && self.disconnect.is_none()
    }
}

/// The frames that a session has received.
#[derive(Copy, Clone, Default)]
pub(in crate::node) struct ReceivedFrames {
    pub(in crate::node) numbered: u64,
    pub(in crate::node) control: u64,
}

/// Whether a connection that has had so many control frames in a round waits for the next one.
pub(crate) fn is_flood(control_frames: u64) -> bool {
    control_frames >= u64::from(CONTROL_FRAMES_AT_ONCE)
}

/// What a frame of a peer means beyond the peer.
#[derive(Copy, Clone, PartialEq, Debug)]
pub(in crate::node) enum FrameEffect<'f> {
    /// Nothing.
    Continue,
    /// The locations of the nodes that its addresses name are to be learned. The message is delivered already, but no actor has run.
    Learn(Route<'f>),
    /// The node handles it.
    Node(NodeFrame<'f>),
    /// The peer ends the session.
    Goodbye(GoodbyeReason),
    /// The peer ends the session, because this node broke the protocol in its view.
    Rejected,
}

impl<'f> FrameEffect<'f> {
    pub(in crate::node) fn of_route(route: Route<'f>) -> Self {
        if route.is_empty() { Self::Continue } else { Self::Learn(route) }
    }
}

/// A frame that concerns more than its peer.
#[derive(Copy, Clone, PartialEq, Debug)]
pub(in crate::node) enum NodeFrame<'f> {
    Lookup(Lookup<'f>),
    CancelLookup(CancelLookup),
    Found(Found),
    NodeAt(NodeAt<'f>),
    AnnounceRelay(AnnounceRelay),
    IdleProposed(IdleProposed),
}

/// How the records that have arrived were handled.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(in crate::node) enum Received {
    All,
    /// Frames are left for the next round, because very many of those before needed no credit.
    Unfinished,
    /// The peer ends the session.
    Goodbye(GoodbyeReason),
    /// The peer ends the session, because this node broke the protocol in its view.
    Rejected,
}
