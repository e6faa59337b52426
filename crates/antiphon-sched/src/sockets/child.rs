//! Child processes of actors: their pipes, and their end.
//!
//! The end is learnt from a descriptor of the process (pidfd) where the system has them, else by asking now and
//! then; never from SIGCHLD, which is the program's own.
//!
//! Invariant: a child that was started is waited for: by its actor's loop, or, killed with its actor, by a thread.

use std::io;
use std::process::{self, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use mio::Interest;
use mio::unix::pipe::{Receiver, Sender};

use super::event_sink::EventSink;
use super::frame_reader::{FrameReader, Pulled};
use super::framing::Framing;
use super::send_buffer::{Flushed, SendBuffer};
use super::table::{FdReadiness, FdRole, Served, SocketGuard, SocketId, SocketKind};
use super::{Conn, ProcessEvent};
use crate::core::Core;
use crate::id::Key;
use crate::readiness::Source;

/// How often a child is asked whether it has ended, where the system does not tell.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// What a pipe holds at most, unless a superuser made it larger: all that can be left of a child that has ended. What
/// follows is of its own children, who may never stop.
const PIPE_BYTES_MAX: usize = 1 << 20;

pub(crate) struct Child {
    /// `None` once a thread waits for it, or its end was told.
    process: Option<process::Child>,
    /// Told by the system: it has ended, and was waited for; or it cannot be, since somebody else has.
    status: Option<io::Result<ExitStatus>>,
    exit: Option<exit::ChildExit>,
    framing: Framing,
    sink: Rc<dyn EventSink<(Conn, ProcessEvent)>>,
    stdin: Option<(Sender, Source)>,
    send_buffer: SendBuffer,
    /// No more will be written: the pipe is closed when it is empty.
    closing: bool,
    outputs: [Option<ChildOutput>; 2],
    /// The output that is read first next time, so that a flood on one does not starve the other.
    first: usize,
    /// Why it was killed.
    failure: Option<io::Error>,
}

struct ChildOutput {
    pipe: Receiver,
    source: Source,
    part: FdRole,
    frame_reader: FrameReader,
}

impl Core {
    pub(crate) fn spawn_child(
        &mut self,
        owner: Key,
        command: &mut Command,
        framing: Framing,
        sink: Rc<dyn EventSink<(Conn, ProcessEvent)>>,
    ) -> io::Result<Conn> {
        self.readiness.check()?;
        let process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let id = self.sockets.next_conn();
        let mut child = Child {
            process: Some(process),
            status: None,
            exit: None,
            framing,
            sink,
            stdin: None,
            send_buffer: SendBuffer::new(true),
            closing: false,
            outputs: [None, None],
            first: 0,
            failure: None,
        };
        if let Err(reason) = child.watch(self, id) {
            child.leave(self);
            return Err(reason);
        }
        let is_told = child.exit.is_some();
        self.insert_socket(id, owner, SocketKind::Child(Box::new(child)));
        if !is_told {
            // Asks at once, and has itself woken again.
            self.sockets.note(id, FdRole::Exit, true, false);
        }
        Ok(Conn(id.0))
    }
}

impl Child {
    fn watch(&mut self, core: &mut Core, id: SocketId) -> io::Result<()> {
        let Some(process) = &mut self.process else { return Ok(()) };
        if let Some(stdin) = process.stdin.take() {
            let mut pipe = Sender::from(stdin);
            pipe.set_nonblocking(true)?;
            let source = core.watch_part(id, FdRole::Main, &mut pipe, Interest::WRITABLE)?;
            self.stdin = Some((pipe, source));
        }
        let stdout = process.stdout.take().map(Receiver::from);
        let stderr = process.stderr.take().map(Receiver::from);
        for (at, (pipe, part)) in [(stdout, FdRole::Stdout), (stderr, FdRole::Stderr)].into_iter().enumerate()
        {
            let Some(mut pipe) = pipe else { continue };
            pipe.set_nonblocking(true)?;
            let source = core.watch_part(id, part, &mut pipe, Interest::READABLE)?;
            self.outputs[at] =
                Some(ChildOutput { pipe, source, part, frame_reader: FrameReader::new(self.framing) });
        }
        self.exit = exit::ChildExit::watch(process, core, id)?;
        Ok(())
    }

    pub(crate) fn serve(
        &mut self,
        hold: &mut SocketGuard<'_>,
        events: FdReadiness,
        space: &mut [u8],
    ) -> Served {
        let Some(owner) = hold.owner else { return Served::Gone };
        self.send_buffer.writable |= events.is_writable(FdRole::Main);
        self.write(hold);
        for output in self.outputs.iter_mut().flatten() {
            output.frame_reader.readable |= events.is_readable(output.part);
        }
        self.look_for_end(hold);
        let (first, count) = (self.first, self.outputs.len());
        for turn in 0..count {
            let at = (first + turn) % count;
            match self.read(hold, owner, at, space) {
                Pulled::Dry => {}
                Pulled::Cut => {
                    self.first = (at + 1) % count;
                    return Served::Again;
                }
                Pulled::Full { fed } => {
                    // One that told nothing keeps its turn.
                    self.first = (at + usize::from(fed)) % count;
                    return Served::Full { fed };
                }
                Pulled::Ended(end) => {
                    self.end_output(hold.core, at);
                    if let Err(reason) = end {
                        self.fail(reason);
                    }
                }
            }
        }
        let Some(status) = self.status.take() else { return Served::Rest };
        // Nothing is left to be killed: its number may be another's by now.
        self.process = None;
        let end = self.failure.take().map_or(status, Err);
        self.sink.tell(hold.core, owner, (Conn(hold.id.0), ProcessEvent::Ended(end)));
        Served::Gone
    }

    fn look_for_end(&mut self, hold: &mut SocketGuard<'_>) {
        if self.status.is_some() {
            return;
        }
        let Some(process) = &mut self.process else { return };
        let status = match process.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) if self.exit.is_none() => return hold.time(ASK_EVERY),
            Ok(None) => return,
            // Somebody else has waited for it, or the program ignores SIGCHLD: it has ended, nobody knows how.
            Err(reason) => Err(reason),
        };
        self.status = Some(status);
        // What it printed is there; what its own children print later is not waited for.
        for output in self.outputs.iter_mut().flatten() {
            output.frame_reader.readable = true;
            output.frame_reader.limit(PIPE_BYTES_MAX);
        }
    }

    fn read(&mut self, hold: &mut SocketGuard<'_>, owner: Key, at: usize, space: &mut [u8]) -> Pulled {
        let Some(output) = &mut self.outputs[at] else { return Pulled::Dry };
        let (sink, conn, part) = (&self.sink, Conn(hold.id.0), output.part);
        let tell = move |core: &mut Core, frame| {
            let what = if part == FdRole::Stdout {
                ProcessEvent::Stdout(frame)
            } else {
                ProcessEvent::Stderr(frame)
            };
            sink.tell(core, owner, (conn, what));
        };
        let pulled = output.frame_reader.pull(hold.core, owner, &mut output.pipe, space, tell);
        if matches!(pulled, Pulled::Dry) && self.status.is_some() {
            output.frame_reader.end();
            return output.frame_reader.pull(hold.core, owner, &mut output.pipe, space, tell);
        }
        pulled
    }

    fn end_output(&mut self, core: &mut Core, at: usize) {
        if let Some(mut output) = self.outputs[at].take() {
            core.readiness.part_with(output.source, &mut output.pipe);
        }
    }

    fn fail(&mut self, reason: io::Error) {
        self.failure.get_or_insert(reason);
        self.kill();
    }

    /// Kills it; its end is told as any other.
    pub(crate) fn kill(&mut self) {
        if self.status.is_none()
            && let Some(process) = &mut self.process
            && let Err(reason) = process.kill()
        {
            tracing::warn!(%reason, "a child process could not be killed");
        }
    }

    pub(crate) fn push(&mut self, hold: &mut SocketGuard<'_>, data: &[u8]) -> Served {
        if self.stdin.is_some() && !self.closing {
            match self.send_buffer.push(self.framing, data) {
                Ok(()) => hold.writes_on = true,
                Err(reason) => self.fail(reason.into()),
            }
        }
        Served::Rest
    }

    /// Closes its standard input, when all is written.
    pub(crate) fn close(&mut self, hold: &mut SocketGuard<'_>) -> Served {
        self.closing = true;
        hold.writes_on = true;
        Served::Rest
    }

    pub(crate) fn flush(&mut self, hold: &mut SocketGuard<'_>) -> Served {
        self.write(hold);
        Served::Rest
    }

    fn write(&mut self, hold: &mut SocketGuard<'_>) {
        let Some((pipe, _)) = &mut self.stdin else { return };
        let is_over = match self.send_buffer.flush(pipe) {
            Flushed::All => self.closing,
            Flushed::Blocked => false,
            Flushed::Cut => {
                hold.writes_on = true;
                false
            }
            // It reads no more: its own choice, as that of `head`.
            Flushed::Failed(_) => true,
        };
        if self.send_buffer.take_relief()
            && let Some(owner) = hold.owner
        {
            self.sink.tell(hold.core, owner, (Conn(hold.id.0), ProcessEvent::Writable));
        }
        if is_over {
            self.end_input(hold.core);
        }
    }

    fn end_input(&mut self, core: &mut Core) {
        if let Some((mut pipe, source)) = self.stdin.take() {
            core.readiness.part_with(source, &mut pipe);
        }
    }

    pub(crate) fn unwritten(&self) -> usize {
        self.send_buffer.len()
    }

    pub(crate) fn leave(&mut self, core: &mut Core) {
        self.end_input(core);
        for at in 0..self.outputs.len() {
            self.end_output(core, at);
        }
        if let Some(exit) = self.exit.take() {
            exit.leave(core);
        }
    }
}

impl Drop for Child {
    /// Its actor has ended before it: it is killed, and a thread waits for it, which may take the system a while.
    fn drop(&mut self) {
        self.kill();
        let Some(mut process) = self.process.take().filter(|_| self.status.is_none()) else { return };
        if !matches!(process.try_wait(), Ok(None)) {
            return;
        }
        let pid = process.id();
        let wait = move || drop(process.wait());
        if let Err(reason) = thread::Builder::new().name("antiphon-reaper".into()).spawn(wait) {
            tracing::error!(%reason, pid, "nobody waits for a killed child process");
        }
    }
}

#[cfg(target_os = "linux")]
mod exit {
    //! The end of a process as readiness of a descriptor.

    use std::io;
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::process::Child;

    use mio::Interest;
    use mio::unix::SourceFd;
    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::{Core, FdRole, SocketId, Source};

    pub(super) struct ChildExit {
        fd: OwnedFd,
        source: Source,
    }

    impl ChildExit {
        /// `None` where the kernel is too old for it.
        pub(super) fn watch(child: &Child, core: &mut Core, id: SocketId) -> io::Result<Option<Self>> {
            let Ok(fd) = pidfd_open(Pid::from_child(child), PidfdFlags::NONBLOCK) else { return Ok(None) };
            let source =
                core.watch_part(id, FdRole::Exit, &mut SourceFd(&fd.as_raw_fd()), Interest::READABLE)?;
            Ok(Some(Self { fd, source }))
        }

        pub(super) fn leave(self, core: &mut Core) {
            core.readiness.part_with(self.source, &mut SourceFd(&self.fd.as_raw_fd()));
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod exit {
    //! No descriptor tells the end of a process here: it is asked now and then.

    use std::io;
    use std::process::Child;

    use super::{Core, SocketId};

    pub(super) enum ChildExit {}

    impl ChildExit {
        pub(super) fn watch(_: &Child, _: &mut Core, _: SocketId) -> io::Result<Option<Self>> {
            Ok(None)
        }

        pub(super) fn leave(self, _: &mut Core) {
            match self {}
        }
    }
}
