//! The processor time and memory of this process.

use std::fs;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The processor time that all threads of this process have used.
///
/// Wall-clock time would include other programs on a shared machine. Only the timer workloads wait, so on an idle machine
/// both times are equal.
pub(crate) fn cpu_time() -> Duration {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    let nanos =
        u64::try_from(spent.tv_sec * 1_000_000_000 + spent.tv_nsec).expect("processor time is not negative");
    Duration::from_nanos(nanos)
}

/// The resident memory of this process, in bytes.
pub(crate) fn resident_bytes() -> f64 {
    let kib = fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|text| text.split_once("VmRSS:")?.1.split_whitespace().next()?.parse::<f64>().ok())
        .expect("the memory of a process is known only on Linux");
    kib * 1024.0
}

/// Measures processor time from its start.
pub(crate) struct Stopwatch(Duration);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(cpu_time())
    }

    /// The rate of `n` operations since the start, per second.
    pub(crate) fn rate(&self, n: u64) -> f64 {
        n as f64 / self.seconds()
    }

    /// The mean duration of `n` operations since the start, in nanoseconds.
    pub(crate) fn nanos(&self, n: u64) -> f64 {
        self.seconds() * 1e9 / n as f64
    }

    fn seconds(&self) -> f64 {
        (cpu_time() - self.0).as_secs_f64()
    }
}
