//! Time and memory of this process.

use std::fs;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Processor time that this process, with all its threads, has used.
///
/// Not time on the wall: on a shared machine that would measure the neighbours. No workload but the timers
/// ever waits, so on a quiet machine the two are the same.
pub(crate) fn cpu_time() -> Duration {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    let nanos = u64::try_from(spent.tv_sec * 1_000_000_000 + spent.tv_nsec).expect("it begins at zero");
    Duration::from_nanos(nanos)
}

/// Memory of this process that is resident, in bytes.
pub(crate) fn resident_bytes() -> f64 {
    let kib = fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|text| text.split_once("VmRSS:")?.1.split_whitespace().next()?.parse::<f64>().ok())
        .expect("only Linux tells how much memory a process has");
    kib * 1024.0
}

/// Processor time between two looks.
pub(crate) struct Watch(Duration);

impl Watch {
    pub(crate) fn start() -> Self {
        Self(cpu_time())
    }

    /// How many of `n` things were done in a second.
    pub(crate) fn rate(&self, n: u64) -> f64 {
        n as f64 / self.seconds()
    }

    /// How many nanoseconds each of `n` things took.
    pub(crate) fn nanos(&self, n: u64) -> f64 {
        self.seconds() * 1e9 / n as f64
    }

    fn seconds(&self) -> f64 {
        (cpu_time() - self.0).as_secs_f64()
    }
}
