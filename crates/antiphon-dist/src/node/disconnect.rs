//! Sessions that this node ends although both sides live: peers that are closed, and those that are ignored from now on.
//!
//! What was sent goes first, and has arrived when the goodbye is said. Then neither side dials the other by itself, nor
//! heeds its announcements, until an actor of either contacts the other anew.
//!
//! Invariant: a parting ends by its time, and answers once; what is sent meanwhile waits for another session.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use antiphon_sched::{NodeId, RequestId, Time};
use antiphon_wire::frame::{Goodbye, GoodbyeReason};

use super::driver::Driver;
use super::peer_session::PeerSession;
use super::timers::NodeTimer;
use super::{NodeCore, settle};
use crate::error::{CloseError, UnknownPeer};
use crate::location::{Ignored, Location};

/// How long those that are ignored from now on are waited for.
const DISCONNECT_WITHIN: Duration = Duration::from_secs(5);

/// A session that is being ended.
#[derive(Debug)]
pub(super) struct Disconnect {
    reason: GoodbyeReason,
    /// Whether the goodbye is on its way; before that, whatever was sent earlier is.
    said: bool,
    until: Time,
    /// Whoever waits for it, and what they are told when the session has ended, however it did.
    request_ids: Vec<RequestId>,
    outcome: Result<(), CloseError>,
}

impl NodeCore {
    /// Ends the session with the peer at a location, for an actor: answered now, or by the port.
    pub(crate) fn close_peer(
        &mut self,
        request_id: RequestId,
        at: Location,
        timeout: Duration,
    ) -> Option<Result<(), CloseError>> {
        let there = if at.addr().port() == 0 { Vec::new() } else { self.nodes_at(at) };
        if there.is_empty() {
            return Some(Err(UnknownPeer { at }.into()));
        }
        let mut request_id = Some(request_id);
        for node in there {
            if self.start_disconnect(node, GoodbyeReason::Closed, timeout)
                && let Some(disconnect) = self.disconnect_of(node)
            {
                disconnect.request_ids.extend(request_id.take());
            }
        }
        request_id.map(|_| Ok(()))
    }

    /// From now on, these are ignored besides those of the configuration.
    pub(crate) fn ignore_peers(&mut self, whom: Ignored) {
        match whom {
            Ignored::None => {
                self.settings.ignored.clear();
                self.settings.ignores_strangers = false;
            }
            Ignored::UnknownNodes => self.settings.ignores_strangers = true,
            Ignored::At(these) => {
                for ip in these {
                    if !self.settings.ignores(ip) {
                        self.settings.ignored.push(ip);
                    }
                }
                self.disconnect_ignored();
            }
        }
    }

    fn disconnect_ignored(&mut self) {
        let mut ignored = Vec::new();
        for (node, peer) in &self.peers {
            let dialled = peer.peer_session.as_ref().and_then(|peer_session| peer_session.dialled);
            let all = peer.said.iter().chain(&peer.locations).chain(&peer.told).chain(&dialled);
            if all.map(SocketAddr::ip).any(|ip: IpAddr| self.settings.ignores(ip)) {
                ignored.push(*node);
            }
        }
        for node in ignored {
            self.start_disconnect(node, GoodbyeReason::Ignored, DISCONNECT_WITHIN);
        }
    }

    /// Begins to end a session; whether there is one.
    fn start_disconnect(&mut self, node: NodeId, reason: GoodbyeReason, within: Duration) -> bool {
        // A peer whose session rests is told, too: it would lose what it sends next.
        self.wake(node);
        self.keep_apart(node);
        let (now, until) = (self.now, self.now + within);
        let Some(peer_session) = self.peers.get_mut(&node).and_then(|peer| peer.peer_session.as_mut()) else {
            return false;
        };
        if peer_session.leaves {
            return false;
        }
        if peer_session.disconnect.is_none() {
            peer_session.disconnect =
                Some(Disconnect { reason, said: false, until, request_ids: Vec::new(), outcome: Ok(()) });
            self.timers.add(until, NodeTimer::Disconnect(node));
            // As soon as there is a world, in case that nothing is under way.
            self.timers.add(now, NodeTimer::Disconnect(node));
        }
        true
    }

    fn disconnect_of(&mut self, node: NodeId) -> Option<&mut Disconnect> {
        self.peers.get_mut(&node)?.peer_session.as_mut()?.disconnect.as_mut()
    }

    /// Neither side dials the other by itself any more.
    pub(super) fn keep_apart(&mut self, node: NodeId) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        peer.apart = true;
        let dialled = peer.peer_session.as_ref().and_then(|peer_session| peer_session.dialled);
        let all: Vec<SocketAddr> = peer.locations.iter().chain(&peer.told).chain(&dialled).copied().collect();
        let is_connected = peer.peer_session.is_some();
        all.into_iter().for_each(|at| self.give_up_dial(at, !is_connected));
    }

    pub(super) fn on_disconnect_due(&mut self, node: NodeId, driver: &mut impl Driver) {
        let now = self.now;
        let Some(disconnect) = self.disconnect_of(node) else { return };
        if now < disconnect.until {
            return self.advance_disconnect(node, driver);
        }
        disconnect.outcome = Err(CloseError::TimedOut);
        self.say_goodbye(node);
        self.transmit(driver);
        self.part(node, driver);
    }

    /// Something has arrived, perhaps an acknowledgement: says goodbye when all before it has arrived, and ends when
    /// the goodbye has.
    pub(super) fn advance_disconnect(&mut self, node: NodeId, driver: &mut impl Driver) {
        let Some(peer_session) = self.peers.get(&node).and_then(|peer| peer.peer_session.as_ref()) else {
            return;
        };
        let Some(disconnect) = peer_session.disconnect.as_ref().filter(|_| peer_session.session.is_idle())
        else {
            return;
        };
        if disconnect.said {
            self.part(node, driver);
        } else {
            self.say_goodbye(node);
        }
    }

    fn say_goodbye(&mut self, node: NodeId) {
        let Some(peer_session) = self.peers.get_mut(&node).and_then(|peer| peer.peer_session.as_mut()) else {
            return;
        };
        let PeerSession { session, disconnect: Some(disconnect), .. } = peer_session.as_mut() else { return };
        if std::mem::replace(&mut disconnect.said, true) {
            return;
        }
        if let Err(reason) = session.send(&Goodbye { reason: disconnect.reason }.into()) {
            tracing::debug!(%node, %reason, "a peer is left without goodbye");
        }
        self.mark_dirty(node);
    }

    /// The connection is gone; whether that was the answer to the goodbye.
    pub(super) fn disconnects_by_closing(&mut self, node: NodeId, driver: &mut impl Driver) -> bool {
        let is_over = self.disconnect_of(node).is_some_and(|disconnect| disconnect.said);
        if is_over {
            self.part(node, driver);
        }
        is_over
    }

    fn part(&mut self, node: NodeId, driver: &mut impl Driver) {
        self.lose(node, "this node has closed it", driver);
    }

    /// The session that was being ended has ended.
    pub(super) fn conclude_disconnect(
        &mut self,
        node: NodeId,
        disconnect: Disconnect,
        driver: &mut impl Driver,
    ) {
        self.timers.remove(disconnect.until, NodeTimer::Disconnect(node));
        for request_id in disconnect.request_ids {
            settle(&mut driver.loop_ref(), request_id, disconnect.outcome);
        }
        // What was sent meanwhile contacts it anew.
        self.dial_for_waiting(node);
    }
}
