//! The blocking pool: a bounded number of threads, started when first needed, with a bounded queue of jobs.
//!
//! A virtual loop has no threads. It runs the jobs itself, between batches, in the order in which they were queued.

use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::core::Core;
use crate::error::JobError;
use crate::handle::JobClosure;
use crate::panic_guard;
use crate::requests::RequestId;

type Work = Box<dyn FnOnce() + Send>;

pub(crate) struct BlockingPool {
    threads_max: usize,
    threads: usize,
    /// The jobs that have not started yet; `queue` and `work` are the ends of one channel.
    queue: Sender<Work>,
    work: Receiver<Work>,
    /// Whether the loop is virtual and runs the jobs itself.
    inline: bool,
}

impl BlockingPool {
    pub(crate) fn new(threads_max: usize, queue_max: usize, inline: bool) -> Self {
        let (queue, work) = bounded(queue_max.max(1));
        Self { threads_max: threads_max.max(1), threads: 0, queue, work, inline }
    }

    /// Makes sure that one more job can be queued.
    fn prepare(&mut self) -> Result<(), JobError> {
        if self.queue.is_full() {
            return Err(JobError::Full);
        }
        if !self.inline && self.threads < self.threads_max {
            self.start_thread()?;
        }
        Ok(())
    }

    fn start_thread(&mut self) -> Result<(), JobError> {
        let work = self.work.clone();
        let run = move || work.iter().for_each(|work| work());
        match thread::Builder::new().name("antiphon-pool".into()).spawn(run) {
            Ok(_) => {
                self.threads += 1;
                Ok(())
            }
            Err(_) if self.threads > 0 => Ok(()),
            Err(_) => Err(JobError::NoThread),
        }
    }
}

impl Core {
    /// Runs `job` in the blocking pool; its result completes the request `request_id`.
    pub(crate) fn run_job<R: Send + 'static>(
        &mut self,
        request_id: RequestId,
        job: impl FnOnce() -> R + Send + 'static,
    ) {
        self.run_then(job, move |core, result| {
            if let Err(reason) = core.complete_request(request_id, result) {
                tracing::debug!(%reason, "result of a blocking job dropped");
            }
        });
    }

    /// Runs `job` in the blocking pool, then `then` in the loop with its result. If the job cannot be queued, runs `then`
    /// at once with the error.
    pub(crate) fn run_then<R: Send + 'static>(
        &mut self,
        job: impl FnOnce() -> R + Send + 'static,
        then: impl FnOnce(&mut Self, Result<R, JobError>) + Send + 'static,
    ) {
        if let Err(reason) = self.blocking_pool.prepare() {
            return then(self, Err(reason));
        }
        let shared = self.shared.clone();
        let work = move || {
            let result = panic_guard::catch_panic(job).map_err(JobError::Panicked);
            shared.push_urgent(Box::new(JobClosure(move |core: &mut Self| then(core, result))));
        };
        let queued = self.blocking_pool.queue.try_send(Box::new(work));
        debug_assert!(queued.is_ok(), "`prepare` found room, and only the loop queues jobs");
    }

    /// Runs the queued jobs of a virtual loop; does nothing in another loop.
    pub(crate) fn run_inline_jobs(&mut self) {
        while self.blocking_pool.inline
            && let Ok(work) = self.blocking_pool.work.try_recv()
        {
            work();
        }
    }
}
