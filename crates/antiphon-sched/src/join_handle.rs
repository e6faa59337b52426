//! The end of an actor, awaited from before it could happen.
//!
//! Invariant: the value waits here from the moment it is given, however late somebody asks for it.

use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use crate::core::Core;
use crate::error::{JoinError, ValueError};
use crate::event::ExitReason;
use crate::id::ActorId;
use crate::wire::Wire;

/// The end of an actor, to be awaited on any thread but the loop's; or asked for after `run`, with no time to wait.
///
/// Made by `join_handle`, on the loop's thread, before the actor runs: so it misses nothing, where
/// [`Handle::join`](crate::Handle::join) comes too late for an actor that has ended already.
#[derive(Debug)]
pub struct JoinHandle<V> {
    ended: Receiver<Result<V, JoinError>>,
}

impl<V: Wire + Send> JoinHandle<V> {
    pub(crate) fn of(core: &mut Core, actor: ActorId) -> Self {
        let (tell, ended) = bounded(1);
        // Nobody listens any more when the joiner was dropped.
        let watch = move |reason: ExitReason| drop(tell.try_send(value_of(reason)));
        if actor.node() == core.node_id {
            core.watch_by_callback(actor.key(), Box::new(watch));
        } else {
            watch(ExitReason::NoActor);
        }
        Self { ended }
    }

    /// Waits for the actor to end with a value.
    ///
    /// # Errors
    /// It ended otherwise, or with a value of another type; it has not ended in time; or its loop has, without it.
    pub fn join(self, timeout: Duration) -> Result<V, JoinError> {
        self.ended.recv_timeout(timeout).unwrap_or_else(|none| match none {
            RecvTimeoutError::Timeout => Err(JoinError::TimedOut),
            RecvTimeoutError::Disconnected => Err(JoinError::NoLoop),
        })
    }
}

/// What a thread is told of an actor's end.
pub(crate) fn value_of<V: Wire>(reason: ExitReason) -> Result<V, JoinError> {
    match reason {
        ExitReason::Done(value) => value.get::<V>().map_err(|reason: ValueError| reason.into()),
        ExitReason::Failed(_)
        | ExitReason::Panicked(_)
        | ExitReason::Terminated
        | ExitReason::NodeLost
        | ExitReason::NoActor
        | ExitReason::Refused => Err(JoinError::Ended(reason.to_string())),
    }
}
