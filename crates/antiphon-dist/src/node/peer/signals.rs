//! Signals between actors of two nodes, in both directions: what each kind may do while it waits, or if it cannot be delivered.

use antiphon_sched::{
    ActorId, DeadLetter, EncodedValue, ExitReason, Key, Lag, Signal, SignalKind, Undelivered,
};

use crate::node::context::NodeCx;
use crate::node::driver::Driver;
use crate::node::{LoopAction, NO_ACTOR};

/// The bit in the number of a monitor in a frame that marks it as numbered by the node of the target, not of the watcher.
pub(in crate::node) const BY_TARGET: u64 = 1 << 63;

/// The rules for a kind of signal.
#[derive(Copy, Clone, Debug)]
pub(in crate::node) struct SignalRules {
    /// At the receiver: it overtakes messages that wait for the mailbox of the actor.
    pub(in crate::node) is_urgent: bool,
    /// At the receiver: it belongs to a monitor that was admitted before, and needs no further permission.
    pub(in crate::node) is_always_admitted: bool,
    /// At the receiver: it waits while the mailbox of the actor holds twice its maximum.
    pub(in crate::node) needs_room: bool,
    /// At the sender: it has no meaning after the end of a session with its peer.
    pub(in crate::node) ends_with_session: bool,
    /// At the sender: the limit against which its bytes count while it waits for a session.
    pub(in crate::node) budget: SignalBudget,
    /// What a dead letter for it says, if there is one.
    pub(in crate::node) dead_letter: Option<&'static str>,
}

/// The limit against which the bytes of a signal count while it waits for a session.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(in crate::node) enum SignalBudget {
    /// The share of the receiving actor.
    Actor,
    /// The reserve for replies and urgent signals.
    Reserve,
    /// None: the number of such signals is limited by the open operations of the peer.
    Unlimited,
}

impl SignalRules {
    /// It asks an actor for something that takes place later.
    const REQUEST: Self = Self {
        is_urgent: false,
        is_always_admitted: false,
        needs_room: false,
        ends_with_session: false,
        budget: SignalBudget::Actor,
        dead_letter: None,
    };
    /// It completes or ends something that a session holds open.
    const COMPLETION: Self = Self {
        is_always_admitted: true,
        ends_with_session: true,
        budget: SignalBudget::Unlimited,
        ..Self::REQUEST
    };
    /// It reaches an actor that takes no messages.
    const URGENT: Self = Self { is_urgent: true, budget: SignalBudget::Reserve, ..Self::REQUEST };

    pub(in crate::node) fn of(kind: &SignalKind) -> Self {
        match kind {
            SignalKind::Monitor(_) => Self::REQUEST,
            SignalKind::Notify(_) => Self { dead_letter: Some("notify"), ..Self::REQUEST },
            SignalKind::Demonitor(_) | SignalKind::Down(..) => Self::COMPLETION,
            SignalKind::Lagged { .. } => {
                Self { is_always_admitted: false, needs_room: true, ..Self::COMPLETION }
            }
            SignalKind::Terminate { .. } => Self { dead_letter: Some("terminate"), ..Self::URGENT },
            SignalKind::Throw(_) => Self { dead_letter: Some("throw"), ..Self::URGENT },
            SignalKind::Resume(_) => Self { dead_letter: Some("resume"), ..Self::URGENT },
        }
    }
}

/// The actor from which a signal comes.
pub(in crate::node) fn sender_of(signal: &Signal) -> Key {
    signal.from.map_or(NO_ACTOR, |from| from.key())
}

/// The size in bytes of the value or text of a signal.
pub(in crate::node) fn body_bytes(kind: &SignalKind) -> usize {
    match kind {
        SignalKind::Throw(value) | SignalKind::Resume(value) => bytes_of(value),
        SignalKind::Down(_, reason) => bytes_of_reason(reason),
        SignalKind::Monitor(_)
        | SignalKind::Demonitor(_)
        | SignalKind::Notify(_)
        | SignalKind::Terminate { .. }
        | SignalKind::Lagged { .. } => 0,
    }
}

impl NodeCx {
    /// Reports a signal that cannot be sent to its sender: by a `Down`, or as a dead letter. The receivers of the other signals have
    /// exited with their node.
    pub(in crate::node) fn report_failed_signal(&mut self, signal: Signal, reason: Undelivered) {
        if let Signal { from: Some(watcher), to, kind: SignalKind::Monitor(id) } = signal {
            let exit_reason =
                if reason == Undelivered::NoActor { ExitReason::NoActor } else { ExitReason::NodeLost };
            let watcher = watcher.key();
            self.loop_actions.push(LoopAction::Down { watcher, id, actor: to, reason: exit_reason });
        } else if let Some(what) = SignalRules::of(&signal.kind).dead_letter {
            let dead_letter = DeadLetter::new(signal.to, what, reason).sent_by(signal.from);
            self.loop_actions.push(LoopAction::DeadLetter(dead_letter));
        }
    }

    /// Delivers the number of messages that a subscriber has missed, or the end of its subscription.
    pub(in crate::node) fn deliver_lagged(
        &mut self,
        subscriber: Key,
        (channel, missed, ended): (ActorId, u64, bool),
        driver: &mut impl Driver,
    ) {
        let mut local = driver.local();
        let is_taken = if ended {
            local.signals().push_down(subscriber, channel, ExitReason::Lagged)
        } else {
            local.mailboxes().add_missed(subscriber, channel, missed, &mut Lag::default())
        };
        self.counts.refused_messages += u64::from(!is_taken);
    }

    /// Records a dead letter for a signal that had no room.
    pub(in crate::node) fn report_signal(
        &mut self,
        is_taken: bool,
        target: ActorId,
        what: &'static str,
        driver: &mut impl Driver,
    ) {
        if !is_taken {
            self.counts.refused_messages += 1;
            let is_alive = driver.local().is_alive(target.key().actor());
            let reason = if is_alive { Undelivered::Full } else { Undelivered::NoActor };
            driver.local().dead_letter(DeadLetter::new(target, what, reason));
        }
    }
}

/// The size in bytes of a value of a peer.
pub(in crate::node) fn bytes_of(value: &EncodedValue) -> usize {
    value.body().len()
}

/// The size in bytes of the value or text of an exit reason.
pub(in crate::node) fn bytes_of_reason(reason: &ExitReason<EncodedValue>) -> usize {
    match reason {
        ExitReason::Done(value) => bytes_of(value),
        ExitReason::Failed(text) | ExitReason::Panicked(text) => text.len(),
        ExitReason::Terminated
        | ExitReason::NodeLost
        | ExitReason::NoActor
        | ExitReason::Refused
        | ExitReason::Lagged => 0,
    }
}

/// The exit reason without its value or text.
pub(in crate::node) fn without_value(reason: ExitReason<EncodedValue>) -> ExitReason<EncodedValue> {
    match reason {
        ExitReason::Done(_) => ExitReason::Done(EncodedValue::Opaque),
        ExitReason::Failed(_) => ExitReason::Failed(String::new()),
        ExitReason::Panicked(_) => ExitReason::Panicked(String::new()),
        ExitReason::Terminated
        | ExitReason::NodeLost
        | ExitReason::NoActor
        | ExitReason::Refused
        | ExitReason::Lagged => reason,
    }
}
