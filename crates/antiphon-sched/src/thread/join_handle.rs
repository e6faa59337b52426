//! A handle that waits for the exit value of an actor.
//!
//! Invariant: the handle keeps the exit value from the moment the actor ends, however late `join` is called.

use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use crate::actor::ExitReason;
use crate::error::{JoinError, ValueError};
use crate::id::ActorId;
use crate::remote::Wire;
use crate::scheduler::Core;

/// Waits for the exit value of an actor, on any thread but the loop's. When `run` has returned, `join` with a timeout of zero
/// returns the value at once.
///
/// `spawn_joinable` and `join_handle` make it on the loop's thread, before the actor runs, so it always sees the actor end.
/// [`Handle::join`](crate::Handle::join) is too late for an actor that has already ended.
#[derive(Debug)]
pub struct JoinHandle<V> {
    result: Receiver<Result<V, JoinError>>,
}

impl<V: Wire + Send> JoinHandle<V> {
    pub(crate) fn of(core: &mut Core, actor: ActorId) -> Self {
        let (sender, result) = bounded(1);
        // It fails only when the handle was dropped.
        let report = move |reason: ExitReason| drop(sender.try_send(value_of(reason)));
        if actor.node() == core.node_id() {
            core.monitor_by_callback(actor.key(), Box::new(report));
        } else {
            report(ExitReason::NoActor);
        }
        Self { result }
    }

    /// Waits for the exit value of the actor.
    ///
    /// # Errors
    /// The actor exited without a value, or with a value of another type; it has not exited in time; or its loop
    /// was dropped before.
    pub fn join(self, timeout: Duration) -> Result<V, JoinError> {
        self.result.recv_timeout(timeout).unwrap_or_else(|error| match error {
            RecvTimeoutError::Timeout => Err(JoinError::TimedOut),
            RecvTimeoutError::Disconnected => Err(JoinError::NoLoop),
        })
    }
}

/// Converts an exit reason to the result of `join`.
pub(crate) fn value_of<V: Wire>(reason: ExitReason) -> Result<V, JoinError> {
    match reason {
        ExitReason::Done(value) => value.get::<V>().map_err(|reason: ValueError| reason.into()),
        ExitReason::Failed(_)
        | ExitReason::Panicked(_)
        | ExitReason::Terminated
        | ExitReason::NodeLost
        | ExitReason::NoActor
        | ExitReason::Refused
        | ExitReason::Lagged => Err(JoinError::NoValue(reason.to_string())),
    }
}
