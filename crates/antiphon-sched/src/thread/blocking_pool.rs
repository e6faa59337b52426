//! Pools of threads for jobs that block: bounded numbers of threads, which start when they are needed and end when they are
//! idle, and bounded queues of jobs.
//!
//! The jobs of users have a pool. Other kinds of jobs, such as name look-ups, have pools of their own, so that none of them holds
//! up the others. A virtual loop has no threads: it runs the jobs itself, between batches. Their results arrive when the virtual
//! time that they take has passed.
//!
//! Invariant: while the lock is held, each queued job has an idle thread, or all threads are in use and their number is at its
//! maximum, or no more threads could be started.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use slab::Slab;

use crate::error::JobError;
use crate::request::RequestId;
use crate::scheduler::{Core, Scheduler, TimerPurpose, catch_panic, log_panic};
use crate::thread::handle::{JobClosure, LoopJob};
use antiphon_types::Time;

/// Runs a job on a thread of a pool.
type Work = Box<dyn FnOnce() + Send>;

/// Runs a job, and returns what passes its result to the loop.
type VirtualWork = Box<dyn FnOnce() -> Option<Box<dyn LoopJob>>>;

/// The time after which an idle thread ends.
const IDLE_FOR: Duration = Duration::from_secs(10);

/// The kinds of blocking jobs. Each has threads of its own, so that none holds up another.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum JobPool {
    /// The jobs of [`Cx::blocking`](crate::Cx::blocking).
    Users,
    /// Look-ups of host names. A name server that does not answer holds each of their threads for some seconds.
    Names,
    /// Reads and writes of files.
    Files,
}

/// A pool of threads for blocking jobs. When it is dropped, its threads end after the jobs that are queued.
pub(crate) struct ThreadPool {
    name: &'static str,
    threads_max: usize,
    queue_max: usize,
    shared: Arc<PoolShared>,
}

#[derive(Default)]
struct PoolShared {
    state: Mutex<PoolState>,
    /// Wakes one idle thread for each job.
    wake: Condvar,
}

#[derive(Default)]
struct PoolState {
    /// The jobs that have not started yet.
    queue: VecDeque<Work>,
    /// All threads.
    threads: usize,
    /// Those that wait for a job, or have just been started.
    idle: usize,
    is_closed: bool,
}

impl ThreadPool {
    /// A pool without threads. `name` is the name of its threads. It has at most `threads_max` threads, and `queue_max` jobs
    /// wait for them; both are at least 1.
    fn new(name: &'static str, threads_max: usize, queue_max: usize) -> Self {
        let (threads_max, queue_max) = (threads_max.max(1), queue_max.max(1));
        Self { name, threads_max, queue_max, shared: Arc::default() }
    }

    fn threads(&self) -> usize {
        self.shared.state.lock().threads
    }

    /// Queues a job, and starts a thread for it if none is idle. A refused job comes back.
    fn submit(&self, job: Work) -> Result<(), (JobError, Work)> {
        let mut state = self.shared.state.lock();
        let has_idle = state.queue.len() < state.idle;
        if !has_idle && state.threads < self.threads_max {
            let shared = self.shared.clone();
            match thread::Builder::new().name(self.name.into()).spawn(move || shared.run_jobs()) {
                Ok(_) => (state.threads, state.idle) = (state.threads + 1, state.idle + 1),
                Err(_) if state.threads > 0 => {}
                Err(_) => return Err((JobError::NoThread, job)),
            }
        }
        if state.queue.len() >= state.idle + self.queue_max {
            return Err((JobError::Full, job));
        }
        state.queue.push_back(job);
        self.shared.wake.notify_one();
        Ok(())
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.state.lock().is_closed = true;
        self.shared.wake.notify_all();
    }
}

impl PoolShared {
    /// Runs jobs on a thread of the pool, until none comes for a while or the pool is closed.
    fn run_jobs(&self) {
        let mut state = self.state.lock();
        state.idle -= 1;
        loop {
            if let Some(job) = state.queue.pop_front() {
                MutexGuard::unlocked(&mut state, || log_panic(job));
                continue;
            }
            let is_over = state.is_closed || {
                state.idle += 1;
                let is_late = self.wake.wait_for(&mut state, IDLE_FOR).timed_out();
                state.idle -= 1;
                is_late && state.queue.is_empty()
            };
            if is_over {
                state.threads -= 1;
                return;
            }
        }
    }
}

/// The pools of a loop.
pub(crate) enum LoopPools {
    /// In the order of [`JobPool`].
    Threads([ThreadPool; 3]),
    Virtual(VirtualPools),
}

impl LoopPools {
    pub(crate) fn new(threads_max: usize, queue_max: usize, is_virtual: bool) -> Self {
        let limits = [
            ("antiphon-pool", threads_max, queue_max),
            ("antiphon-names", NAME_THREADS_MAX, JOBS_QUEUED_MAX),
            ("antiphon-files", FILE_THREADS_MAX, JOBS_QUEUED_MAX),
        ];
        if is_virtual {
            let pools = limits.map(|(_, threads_max, queue_max)| VirtualPool::new(threads_max, queue_max));
            return Self::Virtual(VirtualPools { pools, running: Slab::new(), job_time: None, last_job: 0 });
        }
        Self::Threads(
            limits.map(|(name, threads_max, queue_max)| ThreadPool::new(name, threads_max, queue_max)),
        )
    }

    /// The number of threads in all pools.
    pub(crate) fn threads(&self) -> usize {
        match self {
            Self::Threads(pools) => pools.iter().map(ThreadPool::threads).sum(),
            Self::Virtual(_) => 0,
        }
    }
}

/// The pools of a virtual loop. A job has its effects when it starts; it occupies its pool until its time has passed.
pub(crate) struct VirtualPools {
    /// In the order of [`JobPool`].
    pools: [VirtualPool; 3],
    /// The running jobs: their pools, and what passes their results to the loop.
    running: Slab<(JobPool, Option<Box<dyn LoopJob>>)>,
    job_time: Option<JobTime>,
    /// The number of the last job.
    last_job: u64,
}

/// Returns how long a job takes that starts now.
type JobTime = Box<dyn FnMut(JobPool, Time) -> Duration>;

/// As many jobs as a [`ThreadPool`] has threads run at a time.
struct VirtualPool {
    threads_max: usize,
    queue_max: usize,
    running: usize,
    /// The jobs that have not started yet, with their numbers.
    queue: VecDeque<(u64, VirtualWork)>,
}

impl VirtualPool {
    fn new(threads_max: usize, queue_max: usize) -> Self {
        Self {
            threads_max: threads_max.max(1),
            queue_max: queue_max.max(1),
            running: 0,
            queue: VecDeque::new(),
        }
    }

    fn submit(&mut self, number: u64, job: VirtualWork) -> Result<(), (JobError, VirtualWork)> {
        if self.queue.len() >= self.threads_max - self.running + self.queue_max {
            return Err((JobError::Full, job));
        }
        self.queue.push_back((number, job));
        Ok(())
    }
}

impl VirtualPools {
    fn submit(&mut self, pool: JobPool, job: VirtualWork) -> Result<(), (JobError, VirtualWork)> {
        self.last_job += 1;
        self.pools[pool as usize].submit(self.last_job, job)
    }

    /// Takes the first job that may start, in the order in which they were submitted.
    fn next_job(&mut self) -> Option<(JobPool, VirtualWork)> {
        let pools = [JobPool::Users, JobPool::Names, JobPool::Files].into_iter().zip(&mut self.pools);
        let free = pools.filter(|(_, pool)| pool.running < pool.threads_max && !pool.queue.is_empty());
        let (kind, pool) = free.min_by_key(|(_, pool)| pool.queue.front().map(|(number, _)| *number))?;
        pool.queue.pop_front().map(|(_, job)| (kind, job))
    }

    /// Notes that a job runs; returns its number.
    fn begin(&mut self, pool: JobPool, result: Option<Box<dyn LoopJob>>) -> usize {
        self.pools[pool as usize].running += 1;
        self.running.insert((pool, result))
    }

    /// Ends a running job, and returns its result.
    fn end(&mut self, number: usize) -> Option<Box<dyn LoopJob>> {
        let (pool, result) = self.running.try_remove(number)?;
        self.pools[pool as usize].running -= 1;
        result
    }
}

/// The threads that look up host names.
const NAME_THREADS_MAX: usize = 32;
/// The threads that read and write files.
const FILE_THREADS_MAX: usize = 8;
/// The look-ups, and the jobs on files, that wait for a thread.
const JOBS_QUEUED_MAX: usize = 1024;

/// Runs `job` in a pool; its result completes the request `request_id`.
pub(crate) fn run_job<R: Send + 'static>(
    core: &mut Core,
    pool: JobPool,
    request_id: RequestId,
    job: impl FnOnce() -> R + Send + 'static,
) {
    run_then(core, pool, job, move |core, result| {
        if let Err(reason) = core.complete_request(request_id, result) {
            tracing::debug!(%reason, "result of a blocking job dropped");
        }
    });
}

/// Runs `job` in a pool, then `then` in the loop with its result. If the job cannot be queued, runs `then` at once with
/// the error.
pub(crate) fn run_then<R: Send + 'static>(
    core: &mut Core,
    pool: JobPool,
    job: impl FnOnce() -> R + Send + 'static,
    then: impl FnOnce(&mut Core, Result<R, JobError>) + Send + 'static,
) {
    // Taken back if the job is refused.
    let then = Arc::new(Mutex::new(Some(then)));
    let then_in_job = then.clone();
    let work = move || -> Option<Box<dyn LoopJob>> {
        let result = catch_panic(job).map_err(JobError::Panicked);
        let then = then_in_job.lock().take()?;
        Some(Box::new(JobClosure(move |scheduler: &mut Scheduler| then(&mut scheduler.core, result))))
    };
    let shared = core.shared().clone();
    // A refused job is dropped while the pools are not borrowed.
    let refused = match core.pools_mut() {
        LoopPools::Virtual(pools) => match pools.submit(pool, Box::new(work)) {
            Ok(()) => None,
            Err((reason, job)) => {
                log_panic(|| drop(job));
                Some(reason)
            }
        },
        LoopPools::Threads(pools) => {
            let submitted = pools[pool as usize].submit(Box::new(move || {
                if let Some(result) = work() {
                    shared.push_urgent(result);
                }
            }));
            submitted.err().map(|(reason, job)| {
                log_panic(|| drop(job));
                reason
            })
        }
    };
    if let Some(reason) = refused
        && let Some(then) = then.lock().take()
    {
        then(core, Err(reason));
    }
}

/// Sets how long the jobs of a virtual loop take; does nothing in another loop.
pub(crate) fn set_job_time(core: &mut Core, job_time: impl FnMut(JobPool, Time) -> Duration + 'static) {
    let before = match core.pools_mut() {
        LoopPools::Virtual(pools) => pools.job_time.replace(Box::new(job_time)),
        LoopPools::Threads(_) => return,
    };
    log_panic(|| drop(before));
}

/// Starts the queued jobs of a virtual loop; does nothing in another loop.
pub(crate) fn start_virtual_jobs(core: &mut Core) {
    while let LoopPools::Virtual(pools) = core.pools_mut()
        && let Some((pool, work)) = pools.next_job()
    {
        // Nothing is borrowed while the code of the user runs.
        let result = work();
        let time = time_of_job(core, pool);
        let LoopPools::Virtual(pools) = core.pools_mut() else { return };
        if time.is_zero() {
            result.into_iter().for_each(|result| core.shared().push_urgent(result));
        } else {
            let number = pools.begin(pool, result);
            core.start_timer(time, TimerPurpose::VirtualJob(number));
        }
    }
}

/// How long a job of a virtual loop takes that starts now.
fn time_of_job(core: &mut Core, pool: JobPool) -> Duration {
    let LoopPools::Virtual(pools) = core.pools_mut() else { return Duration::ZERO };
    let Some(mut job_time) = pools.job_time.take() else { return Duration::ZERO };
    let time = job_time(pool, core.now());
    if let LoopPools::Virtual(pools) = core.pools_mut() {
        pools.job_time = Some(job_time);
    }
    time
}

/// Ends a job of a virtual loop whose time has passed.
pub(crate) fn end_virtual_job(core: &mut Core, number: usize) {
    if let LoopPools::Virtual(pools) = core.pools_mut()
        && let Some(result) = pools.end(number)
    {
        core.shared().push_urgent(result);
    }
}
