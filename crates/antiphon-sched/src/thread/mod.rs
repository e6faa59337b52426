//! Other threads: their handles, threads that wait for actors, and threads for blocking jobs.
//!
//! It owns the state that a loop shares with other threads, their channels into the loop, and the wake flag.
//! Must not import: `socket`, `testing`.

mod blocking_pool;
mod handle;
mod join_handle;
pub mod wake_flag;

pub use blocking_pool::JobPool;
pub(crate) use blocking_pool::{
    LoopPools, end_virtual_job, run_job, run_then, set_job_time, start_virtual_jobs,
};
pub use handle::Handle;
pub(crate) use handle::{LoopJob, LoopQueues, Shared};
pub use join_handle::JoinHandle;
