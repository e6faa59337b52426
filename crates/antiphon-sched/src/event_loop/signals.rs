//! SIGINT and SIGTERM: the first stops all loops that listen, the second ends the process at once. SIGHUP is reported to
//! the loops that listen for it.
//!
//! A handler writes one byte into the pipe of each loop that listens. It does nothing else, except at the second SIGINT or
//! SIGTERM: then it restores the default action, which ends the process when the handler returns. So a step that never ends
//! is no obstacle.
//!
//! Invariant: while a loop listens for a signal, the handler of this module is set; afterwards that of before is back. A
//! pipe is never closed: a handler may write to it at any time. The pipes are used again, so there are as many as loops
//! have listened at once.

#![expect(unsafe_code, reason = "the standard library cannot set and restore signal handlers")]

use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream as StdStream;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use libc::{SIGHUP, SIGINT, SIGTERM, c_int, sigaction};
use mio::net::UnixStream;
use mio::{Interest, Registry};
use parking_lot::Mutex;

use crate::event_loop::readiness::SIGNALS;

/// The most loops that listen at once.
const LISTENERS_MAX: usize = 64;
const NO_PIPE: c_int = -1;

/// What a loop listens for.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum ListenedSignal {
    /// SIGINT and SIGTERM.
    Stop,
    /// SIGHUP.
    Hangup,
}

impl ListenedSignal {
    const ALL: [Self; 2] = [Self::Stop, Self::Hangup];

    fn signals(self) -> &'static [c_int] {
        match self {
            Self::Stop => &[SIGINT, SIGTERM],
            Self::Hangup => &[SIGHUP],
        }
    }
}

/// For each kind, the ends of the pipes for the handler: those of loops that listen now.
static WRITERS: [[AtomicI32; LISTENERS_MAX]; ListenedSignal::ALL.len()] =
    [const { [const { AtomicI32::new(NO_PIPE) }; LISTENERS_MAX] }; ListenedSignal::ALL.len()];
/// A signal to stop was received since a loop began to listen.
static IS_STOPPING: AtomicBool = AtomicBool::new(false);
/// For each loop, whether a SIGHUP was received that the loop has not taken yet.
static HANGUPS: [AtomicBool; LISTENERS_MAX] = [const { AtomicBool::new(false) }; LISTENERS_MAX];
static LISTENERS: Mutex<Listeners> = Mutex::new(Listeners {
    pipes: [const { None }; LISTENERS_MAX],
    kinds: [const { KindListeners { listening: 0, before: None } }; ListenedSignal::ALL.len()],
});

struct Listeners {
    /// All pipes that were made: the end of the handler, and the end of the loop while no loop uses it.
    pipes: [Option<(c_int, Option<UnixStream>)>; LISTENERS_MAX],
    kinds: [KindListeners; ListenedSignal::ALL.len()],
}

/// The loops that listen for one kind.
struct KindListeners {
    listening: usize,
    /// The handlers that were set before, one for each signal of the kind.
    before: Option<Vec<sigaction>>,
}

/// A loop that listens for signals, until this is dropped.
pub(crate) struct Signals {
    index: usize,
    /// Whether it listens for each kind.
    listens: [bool; ListenedSignal::ALL.len()],
    /// `None` only while it is dropped.
    pipe: Option<UnixStream>,
    registry: Registry,
}

impl Signals {
    /// Makes a loop ready to listen.
    pub(crate) fn new(registry: &Registry) -> io::Result<Self> {
        let registry = registry.try_clone()?;
        let mut listeners = LISTENERS.lock();
        let (index, mut pipe) = listeners.take_pipe()?;
        drain(&mut pipe);
        HANGUPS[index].store(false, Ordering::SeqCst);
        if let Err(reason) = registry.register(&mut pipe, SIGNALS, Interest::READABLE) {
            listeners.give_back(index, pipe, &registry);
            return Err(reason);
        }
        Ok(Self { index, listens: [false; ListenedSignal::ALL.len()], pipe: Some(pipe), registry })
    }

    pub(crate) fn listen(&mut self, kind: ListenedSignal) -> io::Result<()> {
        if !self.listens[kind as usize] {
            LISTENERS.lock().begin(self.index, kind)?;
            self.listens[kind as usize] = true;
        }
        Ok(())
    }

    /// Empties the pipe, and calls `act` with each kind that was received.
    pub(crate) fn take(&mut self, mut act: impl FnMut(ListenedSignal)) {
        if let Some(pipe) = &mut self.pipe {
            drain(pipe);
        }
        if self.listens[ListenedSignal::Stop as usize] && IS_STOPPING.load(Ordering::SeqCst) {
            act(ListenedSignal::Stop);
        }
        if HANGUPS[self.index].swap(false, Ordering::SeqCst) {
            act(ListenedSignal::Hangup);
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let mut listeners = LISTENERS.lock();
        for kind in ListenedSignal::ALL.into_iter().filter(|kind| self.listens[*kind as usize]) {
            listeners.end(self.index, kind);
        }
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

    fn begin(&mut self, index: usize, kind: ListenedSignal) -> io::Result<()> {
        let Some((writer, _)) = self.pipes[index] else { return Ok(()) };
        let of_kind = &mut self.kinds[kind as usize];
        if of_kind.listening == 0 {
            if kind == ListenedSignal::Stop {
                IS_STOPPING.store(false, Ordering::SeqCst);
            }
            of_kind.before = Some(set_handlers(kind.signals())?);
        }
        of_kind.listening += 1;
        WRITERS[kind as usize][index].store(writer, Ordering::SeqCst);
        if kind == ListenedSignal::Stop && IS_STOPPING.load(Ordering::SeqCst) {
            // The other loops are stopping: this one stops too.
            notify(writer);
        }
        Ok(())
    }

    fn end(&mut self, index: usize, kind: ListenedSignal) {
        WRITERS[kind as usize][index].store(NO_PIPE, Ordering::SeqCst);
        let of_kind = &mut self.kinds[kind as usize];
        of_kind.listening -= 1;
        if of_kind.listening == 0
            && let Some(before) = of_kind.before.take()
        {
            restore_handlers(kind.signals(), &before);
        }
    }
}

fn drain(pipe: &mut UnixStream) {
    let mut bytes = [0; 64];
    while matches!(pipe.read(&mut bytes), Ok(n) if n > 0) {}
}

/// Writes a byte into a pipe. It is called in the handler of a signal: it allocates nothing and takes no lock. The pipe
/// holds two bytes at most, since a handler writes once for each kind, so `write` succeeds and leaves `errno` as it is.
fn notify(writer: c_int) {
    // SAFETY: the buffer is one byte long, and `write` may be called in a handler. The descriptor is never closed.
    unsafe { libc::write(writer, [0_u8].as_ptr().cast(), 1) };
}

extern "C" fn on_signal(signal: c_int) {
    if signal == SIGHUP {
        for (writer, is_pending) in WRITERS[ListenedSignal::Hangup as usize].iter().zip(&HANGUPS) {
            let writer = writer.load(Ordering::SeqCst);
            if writer != NO_PIPE && !is_pending.swap(true, Ordering::SeqCst) {
                notify(writer);
            }
        }
        return;
    }
    if IS_STOPPING.swap(true, Ordering::SeqCst) {
        // SAFETY: both may be called in a handler. The signal is blocked until this handler returns; then it takes its
        // default action, which ends the process.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
        return;
    }
    for writer in &WRITERS[ListenedSignal::Stop as usize] {
        let writer = writer.load(Ordering::SeqCst);
        if writer != NO_PIPE {
            notify(writer);
        }
    }
}

/// Sets the handler of this module for these signals, and returns those of before.
fn set_handlers(signals: &[c_int]) -> io::Result<Vec<sigaction>> {
    // SAFETY: all fields of `sigaction` are numbers or optional pointers, for which zero is valid.
    let mut action: sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = on_signal as extern "C" fn(c_int) as usize;
    // A system call that a signal interrupts continues: other threads are not disturbed.
    action.sa_flags = libc::SA_RESTART;
    let mut before = vec![action; signals.len()];
    for (index, signal) in signals.iter().enumerate() {
        // SAFETY: `action` is complete, and its handler calls only what a handler may call.
        if unsafe { sigaction(*signal, &raw const action, &raw mut before[index]) } != 0 {
            let reason = io::Error::last_os_error();
            restore_handlers(signals, &before[..index]);
            return Err(reason);
        }
    }
    Ok(before)
}

/// Sets the handlers of before, except for signals that other code has set its own handler for meanwhile.
fn restore_handlers(signals: &[c_int], before: &[sigaction]) {
    for (signal, before) in signals.iter().zip(before) {
        // SAFETY: as in `set_handlers`.
        let mut present: sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: `before` was returned by the system, and `present` is written only.
        unsafe {
            let is_read = sigaction(*signal, null(), &raw mut present) == 0;
            if is_read && present.sa_sigaction == on_signal as extern "C" fn(c_int) as usize {
                sigaction(*signal, before, null_mut());
            }
        }
    }
}
