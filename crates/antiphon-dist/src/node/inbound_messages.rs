//! Inbound messages: from the sessions into mailboxes, or into the backlog of their peer.
//!
//! When the mailbox of an actor is more than half full, or the actor uses half of its share of the byte budget, the peer is
//! asked to hold back its frames for that actor. A message for a full mailbox waits in the backlog of its peer. The free
//! places of a mailbox go in turn to all that wait for them.
//!
//! Invariant: a message is never refused because time passes while its session lasts.

use antiphon_sched::{
    ActorId, DeadLetter, Delivery, ExitReason, Key, NodeId, Origin, RoomMark, Turn, Undelivered, with_origin,
};
use antiphon_wire::Session;
use antiphon_wire::frame::{Message, Outcome, Receipt};

use super::NodeCore;
use super::backlog::{BacklogEntry, BacklogItem};
use super::driver::Driver;
use super::frames::InboundSignal;
use super::mailbox_budget::SharePart;
use super::payload_faults::{check_inbound, fault_of, send_refusal};
use super::peer_session::PeerSession;

/// The number of batches of an actor after which a paused peer may send to it again, even if its mailbox is still long.
const BATCHES_PAUSED: u8 = 8;

/// The ends of a message of a peer, and its type.
#[derive(Copy, Clone)]
struct MessageInfo<'a> {
    node: NodeId,
    from: Key,
    to: Key,
    tag: &'a str,
}

impl NodeCore {
    pub(super) fn on_message(
        &mut self,
        node: NodeId,
        peer_session: &mut PeerSession,
        message: &Message<'_>,
        driver: &mut impl Driver,
    ) {
        let (to, from, receipt) = (message.to, message.from, message.receipt);
        let is_open = self.check_reach(node, to);
        if is_open {
            self.learn_route(node, message.route);
        }
        let tag = peer_session.session.tag_name(message.tag);
        tracing::trace!(
            target: "antiphon::messages", %node, actor = %to, tag, bytes = message.body.len(), "a message from a peer"
        );
        let (delivery, is_check_due) = match check_inbound(tag, message.body) {
            _ if !is_open => (Delivery::NoActor, false),
            Ok(_) if self.has_backlog_for(node, to.actor()) => (Delivery::Full, false),
            Ok(tag) => self.deliver_here(node, to, (tag, message.body), driver),
            Err(reason) => (Delivery::Refused(reason), false),
        };
        if delivery == Delivery::Delivered && !is_check_due && receipt.is_none() {
            return;
        }
        if delivery == Delivery::Full {
            let Some(tag) = tag.map(Box::from) else { return };
            let item = BacklogItem::Message { to, from, tag, body: message.body.into(), receipt };
            return self.push_to_backlog(node, peer_session, to.actor(), item, driver);
        }
        let info = MessageInfo { node, from, to, tag: tag.unwrap_or("a message of an unknown type") };
        let is_logged = self.report_delivery(info, receipt.is_some(), &delivery, driver);
        send_outcome(&mut peer_session.session, (node, from, to), receipt, &delivery, is_logged);
        if delivery == Delivery::DeliveredOverHalf
            || (is_check_due && self.uses_too_much(node, to.actor(), SharePart::Half, driver))
        {
            self.pause(node, peer_session, to.actor(), driver);
        }
        if is_check_due {
            self.hold_credit(node, peer_session, to.actor(), driver);
        }
    }

    /// Runs `handle` with the peer as the origin of the data, so that requests in it count against the peer's limit.
    pub(super) fn with_peer_origin<R>(&mut self, node: NodeId, handle: impl FnOnce(&mut Self) -> R) -> R {
        let known = self.peers.get_mut(&node).and_then(|peer| peer.origin.take());
        let origin = known.unwrap_or_else(|| Origin::new(node, self.cx.settings.peer_limits.requests_max));
        let (result, origin) = with_origin(origin, || handle(self));
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.origin = origin;
        }
        result
    }

    /// Whether messages or signals of a peer wait for an actor, so that later ones must wait behind them.
    pub(super) fn has_backlog_for(&self, node: NodeId, actor: Key) -> bool {
        !self.cx.work.backlogged.is_empty()
            && self.peers.get(&node).is_some_and(|peer| peer.backlog.has_entries_for(actor))
    }

    /// Queues a signal behind earlier messages for the same actor.
    pub(super) fn add_signal_to_backlog(
        &mut self,
        node: NodeId,
        peer_session: &mut PeerSession,
        signal: InboundSignal,
        driver: &mut impl Driver,
    ) {
        let actor = signal.receiver().actor();
        self.push_to_backlog(node, peer_session, actor, BacklogItem::Signal(signal), driver);
    }

    fn push_to_backlog(
        &mut self,
        node: NodeId,
        peer_session: &mut PeerSession,
        actor: Key,
        item: BacklogItem,
        driver: &mut impl Driver,
    ) {
        // The credit of a `Down` is returned at once, as that of all answers: PROTOCOL.md requires it.
        let is_answer = matches!(item, BacklogItem::Signal(InboundSignal::Down { .. }));
        self.add_entry(node, actor, item, None, driver);
        self.pause(node, peer_session, actor, driver);
        if !is_answer {
            self.hold_credit(node, peer_session, actor, driver);
        }
    }

    /// Adds an entry to the backlog of a peer, and registers the actor for room in its mailbox.
    pub(super) fn add_entry(
        &mut self,
        node: NodeId,
        actor: Key,
        item: BacklogItem,
        expires: Option<antiphon_sched::Time>,
        driver: &mut impl Driver,
    ) {
        let bytes = item.bytes();
        let permit = self.acquire_for(node, actor, bytes, driver);
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let is_first = !peer.backlog.has_entries_for(actor);
        peer.backlog.push(actor, BacklogEntry { item, bytes, permit, expires });
        self.cx.work.backlogged.insert(node);
        if is_first {
            let ticket = peer.backlog.ticket(actor);
            let ticket = driver.local().mailboxes().wait_for_room(actor, node, RoomMark::One, ticket);
            peer.backlog.set_ticket(actor, ticket);
        }
    }

    /// Asks a peer to hold back its frames for an actor, within the peer's limit.
    fn pause(&mut self, node: NodeId, peer_session: &mut PeerSession, actor: Key, driver: &mut impl Driver) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.backlog.is_paused(actor) || !peer_session.session.pause(actor) {
            return;
        }
        peer.backlog.set_paused(actor, true);
        if !peer.backlog.has_entries_for(actor) {
            let (mark, ticket) =
                (RoomMark::ThreeQuarters { batches: BATCHES_PAUSED }, peer.backlog.ticket(actor));
            let ticket = driver.local().mailboxes().wait_for_room(actor, node, mark, ticket);
            peer.backlog.set_ticket(actor, ticket);
        }
    }

    /// Whether an actor uses more than this part of its share of bytes; if it waits for a message that is not there, more
    /// than its whole share.
    fn uses_too_much(&self, node: NodeId, actor: Key, part: SharePart, driver: &mut impl Driver) -> bool {
        let part = if driver.local().mailboxes().is_idle(actor) { SharePart::All } else { part };
        self.uses_more_than(node, actor, part)
    }

    /// Holds the credit of the present frame if the peer uses too many bytes.
    fn hold_credit(
        &mut self,
        node: NodeId,
        peer_session: &mut PeerSession,
        actor: Key,
        driver: &mut impl Driver,
    ) {
        // What is counted for actors that have taken all is removed first.
        if self.must_hold_credit(node, Some(actor))
            && (!self.sweep_budgets(driver) || self.must_hold_credit(node, Some(actor)))
        {
            let credit = peer_session.session.hold();
            peer_session.held_credit.push(credit);
            self.cx.work.holding_credit.insert(node);
        }
    }

    /// Returns the credit that was held, to the peers that use fewer bytes again.
    fn release_credit(&mut self, driver: &mut impl Driver) {
        self.sweep_budgets(driver);
        for node in std::mem::take(&mut self.cx.work.holding_credit) {
            if self.must_hold_credit(node, None) {
                self.cx.work.holding_credit.insert(node);
                continue;
            }
            let Some(peer_session) = self.peers.get_mut(&node).and_then(|peer| peer.peer_session.as_mut())
            else {
                continue;
            };
            for credit in std::mem::take(&mut peer_session.held_credit) {
                peer_session.session.release(credit);
            }
            self.mark_dirty(node);
        }
    }

    /// Gives the free places of mailboxes to the messages of peers that wait for them, each in its turn.
    pub(super) fn take_turns(&mut self, driver: &mut impl Driver) {
        while let Some(turn) = driver.local().mailboxes().next_turn() {
            self.cx.steps += 1;
            self.take_turn(turn, driver);
        }
        if !self.cx.work.holding_credit.is_empty() {
            self.release_credit(driver);
        }
    }

    fn take_turn(&mut self, Turn { target, peer: node, .. }: Turn, driver: &mut impl Driver) {
        let Some(peer) = self.peers.get_mut(&node).filter(|peer| peer.backlog.is_registered(target)) else {
            return;
        };
        if !peer.backlog.has_entries_for(target) {
            return self.end_pause(node, target, driver);
        }
        let mut peer_session = peer.peer_session.take();
        self.with_peer_origin(node, |core| {
            core.deliver_first(node, target, peer_session.as_deref_mut(), driver);
        });
        let Some(peer) = self.peers.get_mut(&node) else { return };
        peer.peer_session = peer_session;
        let mark = if peer.backlog.has_entries_for(target) {
            RoomMark::One
        } else if peer.backlog.is_paused(target) {
            RoomMark::ThreeQuarters { batches: BATCHES_PAUSED }
        } else {
            return self.leave_backlog(node, target);
        };
        let ticket =
            driver.local().mailboxes().wait_for_room(target, node, mark, peer.backlog.ticket(target));
        peer.backlog.set_ticket(target, ticket);
        self.note_backlog_left(node);
        self.mark_dirty(node);
    }

    fn leave_backlog(&mut self, node: NodeId, actor: Key) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.backlog.remove_if_idle(actor);
        }
        self.note_backlog_left(node);
        self.mark_dirty(node);
    }

    fn note_backlog_left(&mut self, node: NodeId) {
        if self.peers.get(&node).is_none_or(|peer| !peer.backlog.has_entries()) {
            self.cx.work.backlogged.remove(&node);
        }
    }

    /// Lets a peer send to an actor again, for which nothing waits any more at this node.
    fn end_pause(&mut self, node: NodeId, actor: Key, driver: &mut impl Driver) {
        let is_over_share =
            driver.local().is_alive(actor) && self.uses_too_much(node, actor, SharePart::Quarter, driver);
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if is_over_share {
            let ticket = driver.local().mailboxes().wait_for_room(
                actor,
                node,
                RoomMark::NextBatch,
                peer.backlog.ticket(actor),
            );
            return peer.backlog.set_ticket(actor, ticket);
        }
        peer.backlog.set_paused(actor, false);
        if let Some(peer_session) = &mut peer.peer_session {
            peer_session.session.unpause(actor);
        }
        self.leave_backlog(node, actor);
    }

    /// Delivers the first message that waits for an actor, and the signals before and behind it.
    fn deliver_first(
        &mut self,
        node: NodeId,
        actor: Key,
        mut peer_session: Option<&mut PeerSession>,
        driver: &mut impl Driver,
    ) {
        let mut is_delivered = false;
        while let Some(mut entry) = self.peers.get_mut(&node).and_then(|peer| peer.backlog.pop(actor)) {
            if let BacklogItem::Signal(signal) = &entry.item
                && signal.needs_room()
                && driver.local().mailboxes().is_flooded(actor)
            {
                return self.put_back(node, actor, entry);
            }
            let BacklogItem::Message { to, from, tag, body, receipt } = &entry.item else {
                self.apply_entry(node, entry, driver);
                continue;
            };
            let (to, receipt) = (*to, receipt.filter(|_| entry.expires.is_none()));
            if is_delivered {
                self.put_back(node, actor, entry);
                return;
            }
            // The message counts once: in the mailbox from now on.
            entry.permit = None;
            // The access policy may have changed since the message arrived.
            let delivery = if self.may_reach(node, to) {
                self.deliver_in_turn(node, to, (tag, body), driver)
            } else {
                Delivery::NoActor
            };
            if delivery == Delivery::Full {
                entry.permit = self.acquire_for(node, actor, entry.bytes, driver);
                self.put_back(node, actor, entry);
                return;
            }
            is_delivered = matches!(delivery, Delivery::Delivered | Delivery::DeliveredOverHalf);
            let info = MessageInfo { node, from: *from, to, tag };
            let is_logged = self.report_delivery(info, receipt.is_some(), &delivery, driver);
            if let Some(peer_session) = peer_session.as_deref_mut() {
                send_outcome(&mut peer_session.session, (node, *from, to), receipt, &delivery, is_logged);
            }
        }
    }

    fn put_back(&mut self, node: NodeId, actor: Key, entry: BacklogEntry) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.backlog.put_back(actor, entry);
        }
    }

    /// Applies an entry that is not a message.
    fn apply_entry(&mut self, node: NodeId, entry: BacklogEntry, driver: &mut impl Driver) {
        let is_session_over = entry.expires.is_some();
        match entry.item {
            BacklogItem::NodeLost { watcher, id, actor } => {
                driver.local().signals().down(watcher, id, actor, ExitReason::NodeLost);
            }
            BacklogItem::Signal(signal) if is_session_over => self.apply_late_signal(node, signal, driver),
            BacklogItem::Signal(signal) => self.apply_signal(node, signal, driver),
            BacklogItem::Message { .. } => {}
        }
    }

    /// Turns the entries of ended sessions that have expired into dead letters.
    pub(super) fn on_backlog_due(&mut self, node: NodeId, driver: &mut impl Driver) {
        let now = self.cx.now;
        let Some(peer) = self.peers.get(&node) else { return };
        for actor in peer.backlog.expired_actors(now) {
            while let Some(entry) =
                self.peers.get_mut(&node).and_then(|peer| peer.backlog.pop_expired(actor, now))
            {
                if let BacklogItem::Message { to, from, tag, .. } = &entry.item {
                    let info = MessageInfo { node, from: *from, to: *to, tag };
                    self.report_delivery(info, false, &Delivery::Full, driver);
                } else {
                    self.apply_entry(node, entry, driver);
                }
            }
            let Some(peer) = self.peers.get_mut(&node) else { return };
            if !peer.backlog.has_entries_for(actor) && !peer.backlog.is_paused(actor) {
                driver.local().mailboxes().cancel_wait(actor, peer.backlog.ticket(actor));
                self.leave_backlog(node, actor);
            }
        }
    }

    /// Counts and logs an inbound message that was not delivered; without a receipt it becomes a dead letter. Returns whether
    /// the log has a line about its fault.
    fn report_delivery(
        &mut self,
        MessageInfo { node, from, to, tag }: MessageInfo<'_>,
        has_receipt: bool,
        delivery: &Delivery,
        driver: &mut impl Driver,
    ) -> bool {
        let mut is_logged = false;
        let reason = match delivery {
            // The scheduler has recorded a dead letter for a discarded message.
            Delivery::Delivered | Delivery::DeliveredOverHalf | Delivery::Discarded => return false,
            Delivery::Full => Undelivered::Full,
            Delivery::Refused(reason) => {
                is_logged = self.cx.may_log("refused", format_args!("{node} {to}"));
                if is_logged {
                    tracing::warn!(%node, %to, tag, %reason, "a message from a peer was refused (logged at most once an hour for each actor)");
                }
                Undelivered::Payload(reason.clone())
            }
            Delivery::OverQuota => {
                self.refuse_request(node);
                Undelivered::Busy
            }
            Delivery::NoActor | _ => Undelivered::NoActor,
        };
        self.cx.counts.refused_messages += 1;
        if !has_receipt {
            let dead_letter = DeadLetter::new(ActorId::new(self.cx.me, to), tag.to_owned(), reason);
            driver.local().dead_letter(dead_letter.sent_by(Some(ActorId::new(node, from))));
        }
        is_logged
    }
}

/// Sends the receipt of a message. Without a receipt the peer is informed of a fault that this node has logged.
fn send_outcome(
    session: &mut Session,
    (node, from, to): (NodeId, Key, Key),
    receipt: Option<u64>,
    delivery: &Delivery,
    is_logged: bool,
) {
    match (receipt, delivery) {
        (Some(receipt_number), _) => send_receipt(session, node, receipt_number, delivery),
        (None, Delivery::Refused(reason)) if is_logged => send_refusal(session, node, (from, to), reason),
        (None, _) => {}
    }
}

fn send_receipt(session: &mut Session, node: NodeId, receipt_number: u64, delivery: &Delivery) {
    let outcome = match delivery {
        Delivery::Delivered | Delivery::DeliveredOverHalf => Outcome::Delivered,
        Delivery::Full | Delivery::Discarded => Outcome::Full,
        Delivery::Refused(reason) => Outcome::Payload(fault_of(reason, session)),
        Delivery::OverQuota => Outcome::Busy,
        Delivery::NoActor | _ => Outcome::NoActor,
    };
    if let Err(reason) = session.send(&Receipt { request: receipt_number, outcome }.into()) {
        // The sender's request fails with `TimedOut`.
        tracing::debug!(%node, %reason, "a receipt was not sent");
    }
}
