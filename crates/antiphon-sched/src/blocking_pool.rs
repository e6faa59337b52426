//! Pools of threads for jobs that block: bounded numbers of threads, which start when they are needed and end when they are
//! idle, and bounded queues of jobs.
//!
//! The jobs of users have a pool. Other kinds of jobs, such as name look-ups, have pools of their own, so that none of them holds
//! up the others. A virtual loop has no threads. It runs all jobs itself, between batches, in the order in which they were
//! queued.
//!
//! Invariant: while the lock is held, each queued job has an idle thread, or all threads are in use and their number is at its
//! maximum, or no more threads could be started.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::core::Core;
use crate::error::JobError;
use crate::handle::JobClosure;
use crate::panic_guard;
use crate::requests::RequestId;

type Work = Box<dyn FnOnce() + Send>;

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
struct ThreadPool {
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

    /// Queues a job, and starts a thread for it if none is idle.
    fn submit(&self, job: Work) -> Result<(), JobError> {
        let mut state = self.shared.state.lock();
        let has_idle = state.queue.len() < state.idle;
        if !has_idle && state.threads < self.threads_max {
            let shared = self.shared.clone();
            match thread::Builder::new().name(self.name.into()).spawn(move || shared.run_jobs()) {
                Ok(_) => (state.threads, state.idle) = (state.threads + 1, state.idle + 1),
                Err(_) if state.threads > 0 => {}
                Err(_) => return Err(JobError::NoThread),
            }
        }
        if state.queue.len() >= state.idle + self.queue_max {
            return Err(JobError::Full);
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
                MutexGuard::unlocked(&mut state, || panic_guard::log_panic(job));
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
pub(crate) struct LoopPools {
    users: ThreadPool,
    names: ThreadPool,
    files: ThreadPool,
    /// The queue of a virtual loop, which runs the jobs itself.
    inline: Option<Vec<Work>>,
    queue_max: usize,
}

impl LoopPools {
    pub(crate) fn new(threads_max: usize, queue_max: usize, is_virtual: bool) -> Self {
        Self {
            users: ThreadPool::new("antiphon-pool", threads_max, queue_max),
            names: ThreadPool::new("antiphon-names", NAME_THREADS_MAX, JOBS_QUEUED_MAX),
            files: ThreadPool::new("antiphon-files", FILE_THREADS_MAX, JOBS_QUEUED_MAX),
            inline: is_virtual.then(Vec::new),
            queue_max: queue_max.max(1),
        }
    }

    /// The number of threads in all pools.
    pub(crate) fn threads(&self) -> usize {
        [&self.users, &self.names, &self.files].map(ThreadPool::threads).iter().sum()
    }

    fn submit(&mut self, pool: JobPool, job: Work) -> Result<(), JobError> {
        match (&mut self.inline, pool) {
            (Some(queue), _) if queue.len() >= self.queue_max => Err(JobError::Full),
            (Some(queue), _) => {
                queue.push(job);
                Ok(())
            }
            (None, JobPool::Users) => self.users.submit(job),
            (None, JobPool::Names) => self.names.submit(job),
            (None, JobPool::Files) => self.files.submit(job),
        }
    }
}

/// The threads that look up host names.
const NAME_THREADS_MAX: usize = 32;
/// The threads that read and write files.
const FILE_THREADS_MAX: usize = 8;
/// The look-ups, and the jobs on files, that wait for a thread.
const JOBS_QUEUED_MAX: usize = 1024;

impl Core {
    /// Runs `job` in a pool; its result completes the request `request_id`.
    pub(crate) fn run_job<R: Send + 'static>(
        &mut self,
        pool: JobPool,
        request_id: RequestId,
        job: impl FnOnce() -> R + Send + 'static,
    ) {
        self.run_then(pool, job, move |core, result| {
            if let Err(reason) = core.complete_request(request_id, result) {
                tracing::debug!(%reason, "result of a blocking job dropped");
            }
        });
    }

    /// Runs `job` in a pool, then `then` in the loop with its result. If the job cannot be queued, runs `then` at once with
    /// the error.
    pub(crate) fn run_then<R: Send + 'static>(
        &mut self,
        pool: JobPool,
        job: impl FnOnce() -> R + Send + 'static,
        then: impl FnOnce(&mut Self, Result<R, JobError>) + Send + 'static,
    ) {
        let shared = self.shared.clone();
        // Taken back if the job is refused.
        let then = Arc::new(Mutex::new(Some(then)));
        let then_in_job = then.clone();
        let work: Work = Box::new(move || {
            let result = panic_guard::catch_panic(job).map_err(JobError::Panicked);
            let Some(then) = then_in_job.lock().take() else { return };
            shared.push_urgent(Box::new(JobClosure(move |core: &mut Self| then(core, result))));
        });
        if let Err(reason) = self.pools.submit(pool, work)
            && let Some(then) = then.lock().take()
        {
            then(self, Err(reason));
        }
    }

    /// Runs the queued jobs of a virtual loop; does nothing in another loop.
    pub(crate) fn run_inline_jobs(&mut self) {
        for work in self.pools.inline.as_mut().map(std::mem::take).unwrap_or_default() {
            work();
        }
    }
}
