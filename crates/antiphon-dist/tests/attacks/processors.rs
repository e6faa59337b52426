//! Which processors the victim and the test use.
//!
//! A real attacker is on another machine. Here all share the processors. So the victim has one of its own, if there are two, and
//! a thread that floods it gives way to all others ([`give_way`]): then the round trips of the peer show what the victim does, and
//! not which thread the system prefers.

/// Gives the thread the lowest priority.
pub(crate) fn give_way() {
    rustix::process::nice(19).expect("any thread may lower its priority");
}

/// The main thread of the victim, which runs its loop, has the first processor. The threads that this thread starts have all others.
/// Ends when it is dropped.
#[cfg(target_os = "linux")]
pub(crate) struct Apart {
    before: rustix::thread::CpuSet,
}

#[cfg(target_os = "linux")]
impl Apart {
    /// `None` if there is only one processor, or if the system does not allow it.
    pub(crate) fn from(victim: u32) -> Option<Self> {
        use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
        let before = sched_getaffinity(None).ok()?;
        let mut usable = (0..CpuSet::MAX_CPU).filter(|cpu| before.is_set(*cpu));
        let (mut first, mut others) = (CpuSet::new(), CpuSet::new());
        first.set(usable.next()?);
        usable.for_each(|cpu| others.set(cpu));
        let victim = rustix::process::Pid::from_raw(i32::try_from(victim).ok()?)?;
        if others.count() == 0 || sched_setaffinity(Some(victim), &first).is_err() {
            return None;
        }
        sched_setaffinity(None, &others).ok()?;
        Some(Self { before })
    }
}

#[cfg(target_os = "linux")]
impl Drop for Apart {
    fn drop(&mut self) {
        let restored = rustix::thread::sched_setaffinity(None, &self.before);
        debug_assert!(restored.is_ok(), "the processors of before are usable");
    }
}

/// Elsewhere the tests do not run.
#[cfg(not(target_os = "linux"))]
pub(crate) struct Apart;

#[cfg(not(target_os = "linux"))]
impl Apart {
    pub(crate) fn from(_victim: u32) -> Option<Self> {
        None
    }
}
