//! SIGINT and SIGTERM: the first stops all loops that listen, the second ends the process at once.
//!
//! A handler writes one byte into the pipe of each loop that listens. It does nothing else, except at the second signal:
//! then it restores the default action, which ends the process when the handler returns. So a step that never ends is no
//! obstacle.
//!
//! Invariant: while a loop listens, the handlers of this module are set; afterwards those of before are back. A pipe is
//! never closed: a handler may write to it at any time. The pipes are used again, so there are as many as loops have
//! listened at once.

#![expect(unsafe_code, reason = "the standard library cannot set and restore signal handlers")]

use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream as StdStream;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use libc::{SIGINT, SIGTERM, c_int, sigaction};
use mio::net::UnixStream;
use mio::{Interest, Registry};
use parking_lot::Mutex;

use crate::readiness::SIGNALS;

/// The most loops that listen at once.
const LISTENERS_MAX: usize = 64;
const NO_PIPE: c_int = -1;
const HANDLED: [c_int; 2] = [SIGINT, SIGTERM];

/// The ends of the pipes for the handler, those of loops that listen now.
static WRITERS: [AtomicI32; LISTENERS_MAX] = [const { AtomicI32::new(NO_PIPE) }; LISTENERS_MAX];
/// A signal was received since a loop began to listen.
static IS_STOPPING: AtomicBool = AtomicBool::new(false);
static LISTENERS: Mutex<Listeners> =
    Mutex::new(Listeners { listening: 0, pipes: [const { None }; LISTENERS_MAX], before: None });

struct Listeners {
    listening: usize,
    /// All pipes that were made: the end of the handler, and the end of the loop while no loop uses it.
    pipes: [Option<(c_int, Option<UnixStream>)>; LISTENERS_MAX],
    /// The handlers that were set before.
    before: Option<[sigaction; HANDLED.len()]>,
}

/// A loop that listens for signals, until this is dropped.
pub(crate) struct Signals {
    index: usize,
    /// `None` only while it is dropped.
    pipe: Option<UnixStream>,
    registry: Registry,
}

impl Signals {
    pub(crate) fn listen(registry: &Registry) -> io::Result<Self> {
        let registry = registry.try_clone()?;
        let mut listeners = LISTENERS.lock();
        let (index, mut pipe) = listeners.take_pipe()?;
        drain(&mut pipe);
        let registered = registry.register(&mut pipe, SIGNALS, Interest::READABLE);
        match registered.and_then(|()| listeners.begin(index)) {
            Ok(()) => Ok(Self { index, pipe: Some(pipe), registry }),
            Err(reason) => {
                listeners.give_back(index, pipe, &registry);
                Err(reason)
            }
        }
    }

    /// Empties the pipe.
    pub(crate) fn drain(&mut self) {
        if let Some(pipe) = &mut self.pipe {
            drain(pipe);
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let mut listeners = LISTENERS.lock();
        listeners.end(self.index);
        if let Some(pipe) = self.pipe.take() {
            listeners.give_back(self.index, pipe, &self.registry);
        }
    }
}

impl Listeners {
    /// Takes a pipe that no loop uses; makes one if there is none.
    fn take_pipe(&mut self) -> io::Result<(usize, UnixStream)> {
        for (index, slot) in self.pipes.iter_mut().enumerate() {
            match slot {
                Some((_, None)) => {}
                Some((_, free)) => {
                    if let Some(pipe) = free.take() {
                        return Ok((index, pipe));
                    }
                }
                None => {
                    let (pipe, writer) = StdStream::pair()?;
                    pipe.set_nonblocking(true)?;
                    writer.set_nonblocking(true)?;
                    *slot = Some((writer.into_raw_fd(), None));
                    return Ok((index, UnixStream::from_std(pipe)));
                }
            }
        }
        Err(io::Error::other(format!("{LISTENERS_MAX} loops of this process listen already")))
    }

    /// Keeps the pipe of a loop that does not listen any more.
    fn give_back(&mut self, index: usize, mut pipe: UnixStream, registry: &Registry) {
        if let Err(reason) = registry.deregister(&mut pipe) {
            tracing::debug!(%reason, "the pipe of signals was not registered");
        }
        if let Some((_, free)) = &mut self.pipes[index] {
            *free = Some(pipe);
        }
    }

    fn begin(&mut self, index: usize) -> io::Result<()> {
        let Some((writer, _)) = self.pipes[index] else { return Ok(()) };
        if self.listening == 0 {
            IS_STOPPING.store(false, Ordering::SeqCst);
            self.before = Some(set_handlers()?);
        }
        self.listening += 1;
        WRITERS[index].store(writer, Ordering::SeqCst);
        if IS_STOPPING.load(Ordering::SeqCst) {
            // The other loops are stopping: this one stops too.
            notify(writer);
        }
        Ok(())
    }

    fn end(&mut self, index: usize) {
        WRITERS[index].store(NO_PIPE, Ordering::SeqCst);
        self.listening -= 1;
        if self.listening == 0
            && let Some(before) = self.before.take()
        {
            restore_handlers(&before);
        }
    }
}

fn drain(pipe: &mut UnixStream) {
    let mut bytes = [0; 64];
    while matches!(pipe.read(&mut bytes), Ok(n) if n > 0) {}
}

/// Writes a byte into a pipe. It is called in the handler of a signal: it allocates nothing and takes no lock. The pipe is
/// empty, since a handler writes once, so `write` succeeds and leaves `errno` as it is.
fn notify(writer: c_int) {
    // SAFETY: the buffer is one byte long, and `write` may be called in a handler. The descriptor is never closed.
    unsafe { libc::write(writer, [0_u8].as_ptr().cast(), 1) };
}

extern "C" fn on_signal(signal: c_int) {
    if IS_STOPPING.swap(true, Ordering::SeqCst) {
        // SAFETY: both may be called in a handler. The signal is blocked until this handler returns; then it takes its
        // default action, which ends the process.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
        return;
    }
    for writer in &WRITERS {
        let writer = writer.load(Ordering::SeqCst);
        if writer != NO_PIPE {
            notify(writer);
        }
    }
}

/// Sets the handlers of this module, and returns those of before.
fn set_handlers() -> io::Result<[sigaction; HANDLED.len()]> {
    // SAFETY: all fields of `sigaction` are numbers or optional pointers, for which zero is valid.
    let mut action: sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = on_signal as extern "C" fn(c_int) as usize;
    // A system call that a signal interrupts continues: other threads are not disturbed.
    action.sa_flags = libc::SA_RESTART;
    let mut before = [action; HANDLED.len()];
    for (index, signal) in HANDLED.into_iter().enumerate() {
        // SAFETY: `action` is complete, and its handler calls only what a handler may call.
        if unsafe { sigaction(signal, &raw const action, &raw mut before[index]) } != 0 {
            let reason = io::Error::last_os_error();
            restore_handlers(&before[..index]);
            return Err(reason);
        }
    }
    Ok(before)
}

/// Sets the handlers of before, except for signals that other code has set its own handler for meanwhile.
fn restore_handlers(before: &[sigaction]) {
    for (signal, before) in HANDLED.into_iter().zip(before) {
        // SAFETY: as in `set_handlers`.
        let mut present: sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: `before` was returned by the system, and `present` is written only.
        unsafe {
            let is_read = sigaction(signal, null(), &raw mut present) == 0;
            if is_read && present.sa_sigaction == on_signal as extern "C" fn(c_int) as usize {
                sigaction(signal, before, null_mut());
            }
        }
    }
}
