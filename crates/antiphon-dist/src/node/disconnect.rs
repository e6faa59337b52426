//! Disconnects: this node ends the session with a peer, because an actor closes the peer or starts to ignore it.
//!
//! All frames that were sent before are acknowledged before the goodbye is sent. Afterwards neither side dials the other
//! by itself or acts on its announcements, until an actor of either side connects to the other again.
//!
//! Invariant: a disconnect ends by its deadline and completes each of its requests once. Messages that are sent meanwhile
//! wait for another session.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use antiphon_sched::{NodeId, RequestId, Time};
use antiphon_wire::frame::{Goodbye, GoodbyeReason};

use super::driver::Driver;
use super::peer_session::PeerSession;
use super::timers::NodeTimer;
use super::{NodeCore, complete_if_open};
use crate::error::{CloseError, UnknownPeer};
use crate::location::{Ignored, Location};

/// The longest time that the disconnect of an ignored peer takes.
const DISCONNECT_WITHIN: Duration = Duration::from_secs(5);

/// The disconnect of one session.
#[derive(Debug)]
pub(super) struct Disconnect {
    reason: GoodbyeReason,
    /// Whether the goodbye was sent. Until then, earlier frames wait for their acknowledgement.
    goodbye_sent: bool,
    until: Time,
    /// The requests that complete with `outcome` when the session has ended, for whatever reason.
    request_ids: Vec<RequestId>,
    outcome: Result<(), CloseError>,
}

impl NodeCore {
    /// Ends the session with the peer at a location, for an actor. No peer is at port 0. Returns the result if it is
    /// known now; otherwise the request completes later.
    pub(crate) fn close_peer(
        &mut self,
        request_id: RequestId,
        at: Location,
        timeout: Duration,
    ) -> Option<Result<(), CloseError>> {
        let nodes = if at.addr().port() == 0 { Vec::new() } else { self.peers.nodes_at(at.addr()) };
        if nodes.is_empty() {
            return Some(Err(UnknownPeer { at }.into()));
        }
        self.give_up_dial(at.addr(), false);
        let mut request_id = Some(request_id);
        for node in nodes {
            if self.start_disconnect(node, GoodbyeReason::Closed, timeout)
                && let Some(disconnect) = self.disconnect_of(node)
            {
                disconnect.request_ids.extend(request_id.take());
            }
        }
        request_id.map(|_| Ok(()))
    }

    /// Ignores these peers, in addition to those of the configuration.
    pub(crate) fn ignore_peers(&mut self, peers: Ignored) {
        match peers {
            Ignored::None => {
                self.cx.settings.ignored_by_actors.clear();
                self.cx.settings.ignores_unknown_nodes = false;
            }
            Ignored::UnknownNodes => self.cx.settings.ignores_unknown_nodes = true,
            Ignored::At(addresses) => {
                for ip in addresses {
                    if !self.cx.settings.ignores(ip) {
                        self.cx.settings.ignored_by_actors.push(ip);
                    }
                }
                self.disconnect_ignored();
            }
        }
    }

    fn disconnect_ignored(&mut self) {
        let mut ignored = Vec::new();
        for peer in self.peers.iter() {
            let dialled = peer.peer_session.as_ref().and_then(|peer_session| peer_session.dialled);
            let all = peer
                .stated_locations
                .iter()
                .chain(&peer.locations)
                .chain(&peer.shown_location)
                .chain(&dialled);
            if all.map(SocketAddr::ip).any(|ip: IpAddr| self.cx.settings.ignores(ip)) {
                ignored.push(peer.node);
            }
        }
        for node in ignored {
            self.start_disconnect(node, GoodbyeReason::Ignored, DISCONNECT_WITHIN);
        }
    }

    /// Begins to end a session. `false` if there is none, or if the peer has already sent a goodbye.
    fn start_disconnect(&mut self, node: NodeId, reason: GoodbyeReason, within: Duration) -> bool {
        // An idle session without a connection needs the goodbye too: without it, the peer would lose the messages that
        // it sends next.
        self.reopen(node);
        self.stop_auto_dial(node);
        let (now, until) = (self.cx.now, self.cx.now + within);
        let Some(peer_session) = self.peers.get_mut(node).and_then(|peer| peer.peer_session.as_mut()) else {
            return false;
        };
        if peer_session.disconnect.is_none() {
            peer_session.disconnect = Some(Disconnect {
                reason,
                goodbye_sent: false,
                until,
                request_ids: Vec::new(),
                outcome: Ok(()),
            });
            self.cx.timers.add(until, NodeTimer::Disconnect(node));
            // Also now: without unacknowledged frames, no acknowledgement would advance the disconnect.
            self.cx.timers.add(now, NodeTimer::Disconnect(node));
        }
        true
    }

    fn disconnect_of(&mut self, node: NodeId) -> Option<&mut Disconnect> {
        self.peers.get_mut(node)?.peer_session.as_mut()?.disconnect.as_mut()
    }

    /// Marks a peer so that this node no longer dials it by itself. A location that it only states may be that of another node,
    /// whose dials go on.
    pub(super) fn stop_auto_dial(&mut self, node: NodeId) {
        let Some(peer) = self.peers.get_mut(node) else { return };
        peer.no_auto_dial = true;
        let dialled = peer.peer_session.as_ref().and_then(|peer_session| peer_session.dialled);
        let reached = dialled.into_iter().chain(peer.reached_at).chain(peer.found_at);
        let stated = peer.locations.iter().chain(&peer.shown_location).copied();
        let dialled_for_it = stated.filter(|at| self.discovery.dialer.node_at(*at) == Some(node));
        let all: Vec<SocketAddr> = reached.chain(dialled_for_it).collect();
        let is_connected = peer.peer_session.is_some();
        all.into_iter().for_each(|at| self.give_up_dial(at, !is_connected));
    }

    /// Stops dialling a location, even if it is configured. With `at_once`, also a dial that waits for its next attempt.
    fn give_up_dial(&mut self, at: SocketAddr, at_once: bool) {
        let is_requested = self.discovery.requests.are_open_for(at);
        self.discovery.dialer.give_up_dial(&self.cx, at, at_once, is_requested);
    }

    pub(super) fn on_disconnect_due(&mut self, node: NodeId, driver: &mut impl Driver) {
        let now = self.cx.now;
        let Some(disconnect) = self.disconnect_of(node) else { return };
        if now < disconnect.until {
            return self.advance_disconnect(node, driver);
        }
        disconnect.outcome = Err(CloseError::TimedOut);
        self.send_goodbye(node);
        self.transmit(driver);
        self.finish_disconnect(node, driver);
    }

    /// Frames have arrived, perhaps with an acknowledgement. Sends the goodbye when all earlier frames are acknowledged,
    /// and ends the session when the goodbye is.
    pub(super) fn advance_disconnect(&mut self, node: NodeId, driver: &mut impl Driver) {
        let Some(peer_session) = self.peers.get(node).and_then(|peer| peer.peer_session.as_ref()) else {
            return;
        };
        let Some(disconnect) = peer_session.disconnect.as_ref().filter(|_| peer_session.session.is_idle())
        else {
            return;
        };
        if disconnect.goodbye_sent {
            self.finish_disconnect(node, driver);
        } else {
            self.send_goodbye(node);
        }
    }

    fn send_goodbye(&mut self, node: NodeId) {
        let Some(peer_session) = self.peers.get_mut(node).and_then(|peer| peer.peer_session.as_mut()) else {
            return;
        };
        let PeerSession { session, disconnect: Some(disconnect), .. } = peer_session.as_mut() else { return };
        if std::mem::replace(&mut disconnect.goodbye_sent, true) {
            return;
        }
        if let Err(reason) = session.send(&Goodbye { reason: disconnect.reason }.into()) {
            tracing::debug!(%node, %reason, "the goodbye to a peer was not sent");
        }
        self.mark_dirty(node);
    }

    /// The connection is closed. Ends the session and returns `true` if the goodbye was sent before.
    pub(super) fn finish_disconnect_if_goodbye_sent(
        &mut self,
        node: NodeId,
        driver: &mut impl Driver,
    ) -> bool {
        let is_over = self.disconnect_of(node).is_some_and(|disconnect| disconnect.goodbye_sent);
        if is_over {
            self.finish_disconnect(node, driver);
        }
        is_over
    }

    fn finish_disconnect(&mut self, node: NodeId, driver: &mut impl Driver) {
        self.end_session(node, "this node closed the peer", driver);
    }

    /// A session with a disconnect has ended: completes its requests.
    pub(super) fn complete_close_requests(
        &mut self,
        node: NodeId,
        disconnect: Disconnect,
        driver: &mut impl Driver,
    ) {
        self.cx.timers.remove(disconnect.until, NodeTimer::Disconnect(node));
        for request_id in disconnect.request_ids {
            complete_if_open(driver.local().requests(), request_id, disconnect.outcome);
        }
        // The messages that were sent meanwhile need a new session.
        self.dial_for_waiting(node);
    }
}
