//! Receipts for the messages of a peer, and what describes a message in reports.

use antiphon_sched::{Delivery, Key, NodeId};
use antiphon_wire::Session;
use antiphon_wire::frame::{Outcome, Receipt};

use super::payload_faults::fault_of;

/// The number of batches of an actor after which a paused peer may send to it again, even if its mailbox is still long.
pub(in crate::node) const BATCHES_PAUSED: u8 = 8;

/// The ends of a message of a peer, and its type.
#[derive(Copy, Clone)]
pub(in crate::node) struct MessageInfo<'a> {
    pub(in crate::node) from: Key,
    pub(in crate::node) to: Key,
    pub(in crate::node) tag: &'a str,
}

pub(in crate::node) fn send_receipt(
    session: &mut Session,
    node: NodeId,
    receipt_number: u64,
    delivery: &Delivery,
) {
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
