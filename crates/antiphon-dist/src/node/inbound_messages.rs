//! Inbound messages: from the sessions into mailboxes, or into the backlog of their peer.
//!
//! When the mailbox of an actor is more than half full, or the actor uses half of its share of the byte budget, the peer is
//! asked to hold back its frames for that actor. A message for a full mailbox waits in the backlog of its peer. The free
//! places of a mailbox go in turn to all that wait for them.
//!
//! Invariant: a message is never refused because time passes while its session lasts.

use antiphon_sched::{
    ActorId, DeadLetter, Delivery, ExitReason, Key, NodeId, Origin, RoomMark, Time, Turn, Undelivered,
    with_origin,
};
use antiphon_wire::Session;
use antiphon_wire::frame::{Message, Outcome, Receipt};

use super::NodeCore;
use super::backlog::{BacklogEntry, BacklogItem};
use super::context::NodeCx;
use super::driver::Driver;
use super::frames::InboundSignal;
use super::mailbox_budget::SharePart;
use super::payload_faults::{check_inbound, fault_of, send_refusal};
use super::peer::Peer;

/// The number of batches of an actor after which a paused peer may send to it again, even if its mailbox is still long.
const BATCHES_PAUSED: u8 = 8;

/// The ends of a message of a peer, and its type.
#[derive(Copy, Clone)]
struct MessageInfo<'a> {
    from: Key,
    to: Key,
    tag: &'a str,
}

impl Peer {
    pub(super) fn on_message(&mut self, cx: &mut NodeCx, message: &Message<'_>, driver: &mut impl Driver) {
        let (node, to, from, receipt) = (self.node, message.to, message.from, message.receipt);
        let is_open = self.check_reach(cx, to);
        let Some(peer_session) = &self.peer_session else { return };
        let tag = peer_session.session.tag_name(message.tag);
        tracing::trace!(
            target: "antiphon::messages", %node, actor = %to, tag, bytes = message.body.len(), "a message from a peer"
        );
        let (delivery, is_check_due) = match check_inbound(tag, message.body) {
            _ if !is_open => (Delivery::NoActor, false),
            Ok(_) if self.backlog.has_entries_for(to.actor()) => (Delivery::Full, false),
            Ok(tag) => self.budget.deliver(&cx.budgets, to, (tag, message.body), driver),
            Err(reason) => (Delivery::Refused(reason), false),
        };
        if delivery == Delivery::Delivered && !is_check_due && receipt.is_none() {
            return;
        }
        if delivery == Delivery::Full {
            let Some(tag) = tag.map(Box::from) else { return };
            let item = BacklogItem::Message { to, from, tag, body: message.body.into(), receipt };
            return self.push_to_backlog(cx, to.actor(), item, driver);
        }
        let info = MessageInfo { from, to, tag: tag.unwrap_or("a message of an unknown type") };
        let is_logged = self.report_delivery(cx, info, receipt.is_some(), &delivery, driver);
        self.send_outcome((from, to), receipt, &delivery, is_logged);
        if delivery == Delivery::DeliveredOverHalf
            || (is_check_due && self.uses_too_much(to.actor(), SharePart::Half, driver))
        {
            self.pause(to.actor(), driver);
        }
        if is_check_due {
            self.hold_credit(cx, to.actor(), driver);
        }
    }

    /// Takes the origin of its data, with which requests in it count against the peer's limit. [`Peer::set_origin`] follows.
    pub(super) fn take_origin(&mut self, cx: &NodeCx) -> Origin {
        let new = || Origin::new(self.node, cx.settings.peer_limits.requests_max);
        self.origin.take().unwrap_or_else(new)
    }

    /// Queues a signal behind earlier messages for the same actor.
    pub(super) fn add_signal_to_backlog(
        &mut self,
        cx: &mut NodeCx,
        signal: InboundSignal,
        driver: &mut impl Driver,
    ) {
        let actor = signal.receiver().actor();
        self.push_to_backlog(cx, actor, BacklogItem::Signal(signal), driver);
    }

    fn push_to_backlog(&mut self, cx: &mut NodeCx, actor: Key, item: BacklogItem, driver: &mut impl Driver) {
        // The credit of a `Down` is returned at once, as that of all answers: PROTOCOL.md requires it.
        let is_answer = matches!(item, BacklogItem::Signal(InboundSignal::Down { .. }));
        self.add_entry(cx, actor, item, None, driver);
        self.pause(actor, driver);
        if !is_answer {
            self.hold_credit(cx, actor, driver);
        }
    }

    /// Adds an entry to the backlog, and registers the actor for room in its mailbox.
    pub(super) fn add_entry(
        &mut self,
        cx: &mut NodeCx,
        actor: Key,
        item: BacklogItem,
        expires: Option<Time>,
        driver: &mut impl Driver,
    ) {
        let bytes = item.bytes();
        let permit = Some(self.budget.acquire_for(&cx.budgets, actor, bytes, driver));
        let is_first = !self.backlog.has_entries_for(actor);
        self.backlog.push(actor, BacklogEntry { item, bytes, permit, expires });
        if is_first {
            self.wait_for_room(actor, RoomMark::One, driver);
        }
    }

    /// Registers an actor for room in its mailbox, in the place of an earlier registration.
    fn wait_for_room(&mut self, actor: Key, mark: RoomMark, driver: &mut impl Driver) {
        let ticket = self.backlog.ticket(actor);
        let ticket = driver.local().mailboxes().wait_for_room(actor, self.node, mark, ticket);
        self.backlog.set_ticket(actor, ticket);
    }

    /// Asks the peer to hold back its frames for an actor, within its limit.
    fn pause(&mut self, actor: Key, driver: &mut impl Driver) {
        let Some(peer_session) = &mut self.peer_session else { return };
        if self.backlog.is_paused(actor) || !peer_session.session.pause(actor) {
            return;
        }
        self.backlog.set_paused(actor, true);
        if !self.backlog.has_entries_for(actor) {
            self.wait_for_room(actor, RoomMark::ThreeQuarters { batches: BATCHES_PAUSED }, driver);
        }
    }

    /// Whether an actor uses more than this part of its share of bytes; if it waits for a message that is not there, more
    /// than its whole share.
    fn uses_too_much(&self, actor: Key, part: SharePart, driver: &mut impl Driver) -> bool {
        let part = if driver.local().mailboxes().is_idle(actor) { SharePart::All } else { part };
        self.budget.uses_more_than(actor, part)
    }

    /// Holds the credit of the present frame if the peer uses too many bytes.
    fn hold_credit(&mut self, cx: &mut NodeCx, actor: Key, driver: &mut impl Driver) {
        if self.budget.must_hold_credit(&cx.budgets, Some(actor)) {
            // What is counted for actors that have taken all is removed first.
            self.budget.sweep_at_times(cx.now, driver);
        }
        if let Some(peer_session) = &mut self.peer_session
            && self.budget.must_hold_credit(&cx.budgets, Some(actor))
        {
            let credit = peer_session.session.hold();
            peer_session.held_credit.push(credit);
            cx.work.holding_credit.insert(self.node);
        }
    }

    /// Returns the credit that was held.
    fn release_credit(&mut self, cx: &mut NodeCx) {
        let Some(peer_session) = &mut self.peer_session else { return };
        for credit in std::mem::take(&mut peer_session.held_credit) {
            peer_session.session.release(credit);
        }
        self.mark_dirty(cx);
    }

    /// Gives the free place of a mailbox to the first message that waits for it.
    fn take_turn(&mut self, cx: &mut NodeCx, target: Key, driver: &mut impl Driver) {
        if !self.backlog.is_registered(target) {
            return;
        }
        if !self.backlog.has_entries_for(target) {
            return self.end_pause(cx, target, driver);
        }
        let origin = self.take_origin(cx);
        ((), self.origin) = with_origin(origin, || self.deliver_first(cx, target, driver));
        let mark = if self.backlog.has_entries_for(target) {
            RoomMark::One
        } else if self.backlog.is_paused(target) {
            RoomMark::ThreeQuarters { batches: BATCHES_PAUSED }
        } else {
            return self.leave_backlog(cx, target);
        };
        self.wait_for_room(target, mark, driver);
        self.mark_dirty(cx);
    }

    fn leave_backlog(&mut self, cx: &mut NodeCx, actor: Key) {
        self.backlog.remove_if_idle(actor);
        self.mark_dirty(cx);
    }

    /// Lets the peer send to an actor again, for which nothing waits any more at this node.
    fn end_pause(&mut self, cx: &mut NodeCx, actor: Key, driver: &mut impl Driver) {
        if driver.local().is_alive(actor) && self.uses_too_much(actor, SharePart::Quarter, driver) {
            return self.wait_for_room(actor, RoomMark::NextBatch, driver);
        }
        self.backlog.set_paused(actor, false);
        if let Some(peer_session) = &mut self.peer_session {
            peer_session.session.unpause(actor);
        }
        self.leave_backlog(cx, actor);
    }

    /// Delivers the first message that waits for an actor, and the signals before and behind it.
    fn deliver_first(&mut self, cx: &mut NodeCx, actor: Key, driver: &mut impl Driver) {
        let mut is_delivered = false;
        while let Some(mut entry) = self.backlog.pop(actor) {
            if let BacklogItem::Signal(signal) = &entry.item
                && signal.needs_room()
                && driver.local().mailboxes().is_flooded(actor)
            {
                return self.backlog.put_back(actor, entry);
            }
            let BacklogItem::Message { to, from, tag, body, receipt } = &entry.item else {
                self.apply_entry(cx, entry, driver);
                continue;
            };
            let (to, receipt) = (*to, receipt.filter(|_| entry.expires.is_none()));
            if is_delivered {
                return self.backlog.put_back(actor, entry);
            }
            // The message counts once: in the mailbox from now on.
            entry.permit = None;
            // The access policy may have changed since the message arrived.
            let delivery = if self.may_reach(cx, to) {
                self.budget.deliver_in_turn(&cx.budgets, to, (tag, body), driver)
            } else {
                Delivery::NoActor
            };
            if delivery == Delivery::Full {
                entry.permit = Some(self.budget.acquire_for(&cx.budgets, actor, entry.bytes, driver));
                return self.backlog.put_back(actor, entry);
            }
            is_delivered = matches!(delivery, Delivery::Delivered | Delivery::DeliveredOverHalf);
            let info = MessageInfo { from: *from, to, tag };
            let is_logged = self.report_delivery(cx, info, receipt.is_some(), &delivery, driver);
            self.send_outcome((*from, to), receipt, &delivery, is_logged);
        }
    }

    /// Applies an entry that is not a message.
    fn apply_entry(&mut self, cx: &mut NodeCx, entry: BacklogEntry, driver: &mut impl Driver) {
        let is_session_over = entry.expires.is_some();
        match entry.item {
            BacklogItem::NodeLost { watcher, id, actor } => {
                driver.local().signals().down(watcher, id, actor, ExitReason::NodeLost);
            }
            BacklogItem::Signal(signal) if is_session_over => self.apply_late_signal(cx, signal, driver),
            BacklogItem::Signal(signal) => self.apply_signal(cx, signal, driver),
            BacklogItem::Message { .. } => {}
        }
    }

    /// Turns the entries of ended sessions that have expired into dead letters.
    pub(super) fn on_backlog_due(&mut self, cx: &mut NodeCx, driver: &mut impl Driver) {
        for actor in self.backlog.expired_actors(cx.now) {
            while let Some(entry) = self.backlog.pop_expired(actor, cx.now) {
                if let BacklogItem::Message { to, from, tag, .. } = &entry.item {
                    let info = MessageInfo { from: *from, to: *to, tag };
                    self.report_delivery(cx, info, false, &Delivery::Full, driver);
                } else {
                    self.apply_entry(cx, entry, driver);
                }
            }
            if !self.backlog.has_entries_for(actor) && !self.backlog.is_paused(actor) {
                driver.local().mailboxes().cancel_wait(actor, self.backlog.ticket(actor));
                self.leave_backlog(cx, actor);
            }
        }
    }

    /// Counts and logs an inbound message that was not delivered; without a receipt it becomes a dead letter. Returns whether
    /// the log has a line about its fault.
    fn report_delivery(
        &self,
        cx: &mut NodeCx,
        MessageInfo { from, to, tag }: MessageInfo<'_>,
        has_receipt: bool,
        delivery: &Delivery,
        driver: &mut impl Driver,
    ) -> bool {
        let (mut is_logged, node) = (false, self.node);
        let reason = match delivery {
            // The scheduler has recorded a dead letter for a discarded message.
            Delivery::Delivered | Delivery::DeliveredOverHalf | Delivery::Discarded => return false,
            Delivery::Full => Undelivered::Full,
            Delivery::Refused(reason) => {
                is_logged = cx.may_log("refused", format_args!("{node} {to}"));
                if is_logged {
                    tracing::warn!(%node, %to, tag, %reason, "a message from a peer was refused (logged at most once an hour for each actor)");
                }
                Undelivered::Payload(reason.clone())
            }
            Delivery::OverQuota => {
                self.refuse_request(cx);
                Undelivered::Busy
            }
            Delivery::NoActor | _ => Undelivered::NoActor,
        };
        cx.counts.refused_messages += 1;
        if !has_receipt {
            let dead_letter = DeadLetter::new(ActorId::new(cx.me, to), tag.to_owned(), reason);
            driver.local().dead_letter(dead_letter.sent_by(Some(ActorId::new(node, from))));
        }
        is_logged
    }

    /// Sends the receipt of a message. Without a receipt the peer is informed of a fault that this node has logged.
    fn send_outcome(&mut self, ends: (Key, Key), receipt: Option<u64>, delivery: &Delivery, is_logged: bool) {
        let (node, Some(peer_session)) = (self.node, &mut self.peer_session) else { return };
        let session = &mut peer_session.session;
        match (receipt, delivery) {
            (Some(receipt_number), _) => send_receipt(session, node, receipt_number, delivery),
            (None, Delivery::Refused(reason)) if is_logged => send_refusal(session, node, ends, reason),
            (None, _) => {}
        }
    }
}

impl NodeCore {
    /// Gives the free places of mailboxes to the messages of peers that wait for them, each in its turn.
    pub(super) fn take_turns(&mut self, driver: &mut impl Driver) {
        while let Some(Turn { target, peer: node, .. }) = driver.local().mailboxes().next_turn() {
            self.cx.steps += 1;
            if let Some(peer) = self.peers.get_mut(node) {
                peer.take_turn(&mut self.cx, target, driver);
            }
        }
        if !self.cx.work.holding_credit.is_empty() {
            self.release_credit(driver);
        }
    }

    /// Returns the credit that was held, to the peers that use fewer bytes again.
    fn release_credit(&mut self, driver: &mut impl Driver) {
        let budgets = self.peers.iter_mut().map(|peer| &mut peer.budget);
        self.cx.budgets.sweep(self.cx.now, budgets, driver);
        for node in std::mem::take(&mut self.cx.work.holding_credit) {
            let Some(peer) = self.peers.get_mut(node) else { continue };
            if peer.budget.must_hold_credit(&self.cx.budgets, None) {
                self.cx.work.holding_credit.insert(node);
            } else {
                peer.release_credit(&mut self.cx);
            }
        }
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
