//! Threads for what blocks: a few, started when first needed, with a bounded queue.
//!
//! A virtual loop runs jobs itself, between turns, in the order in which they were given.

use std::thread;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::catch;
use crate::core::Core;
use crate::error::JobError;
use crate::handle::{Job, Shared};
use crate::ports::PortId;

type Work = Box<dyn FnOnce() + Send>;

pub(crate) struct Helpers {
    threads_max: usize,
    threads: usize,
    /// Jobs that were given and have not begun; it and `work` are ends of one channel.
    queue: Sender<Work>,
    work: Receiver<Work>,
    /// Of a virtual loop, which has no threads.
    inline: bool,
}

impl Helpers {
    pub(crate) fn new(threads_max: usize, queue_max: usize, inline: bool) -> Self {
        let (queue, work) = bounded(queue_max.max(1));
        Self { threads_max: threads_max.max(1), threads: 0, queue, work, inline }
    }

    fn submit(&mut self, work: Work) -> Result<(), JobError> {
        match self.queue.try_send(work) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => return Err(JobError::Full),
        }
        if !self.inline && self.threads < self.threads_max {
            self.start_thread()?;
        }
        Ok(())
    }

    fn start_thread(&mut self) -> Result<(), JobError> {
        let work = self.work.clone();
        let run = move || work.iter().for_each(|work| work());
        match thread::Builder::new().name("antiphon-helper".into()).spawn(run) {
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
    /// Has `job` run where it may block; its result answers `port`.
    pub(crate) fn run_job<R: Send + 'static>(
        &mut self,
        port: PortId,
        job: impl FnOnce() -> R + Send + 'static,
    ) {
        let shared = self.shared.clone();
        let work = move || {
            let result = catch::catching(job).map_err(JobError::Panicked);
            finish(&shared, port, result);
        };
        if let Err(why) = self.helpers.submit(Box::new(work)) {
            // The request is open: it was opened for this very job.
            let told = self.answer_port::<Result<R, JobError>>(port, Err(why));
            debug_assert!(told.is_ok());
        }
    }

    /// Runs the jobs of a virtual loop.
    pub(crate) fn run_inline_jobs(&mut self) {
        while self.helpers.inline
            && let Ok(work) = self.helpers.work.try_recv()
        {
            work();
        }
    }
}

fn finish<R: Send + 'static>(shared: &Shared, port: PortId, result: Result<R, JobError>) {
    let answer = move |core: &mut Core| match core.answer_port(port, result) {
        Ok(()) => {}
        Err(why) => tracing::debug!(%why, "nobody waits any more for the result of a job"),
    };
    shared.post_urgent(Box::new(Job(answer)));
}
