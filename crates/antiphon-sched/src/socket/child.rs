//! Child processes of actors: their pipes and their exit.
//!
//! A descriptor of the process (pidfd) reports the exit where the system has such descriptors; elsewhere the loop polls
//! for it. SIGCHLD is not used: it belongs to the program.
//!
//! Invariant: each started child is waited for, by its actor's loop, or by a thread if the actor ended first.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{self, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use mio::Interest;
use mio::unix::pipe::{Receiver, Sender};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::edge_triggered::{EdgeTriggered, FdReadiness};
use super::event_sink::EventSink;
use super::frame_reader::{FrameReader, Pulled};
use super::framing::Framing;
use super::send_buffer::{Flushed, SendBuffer};
use super::table::{FdEvents, FdRole, Served, SocketCx, SocketId, SocketKind, Sockets, watch_fd};
use super::{Conn, ProcessEvent};
use crate::event_loop::Source;
use crate::id::Key;
use crate::scheduler::Core;

/// How often the loop polls for the exit of a child, where the system does not report it.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// The largest capacity of a pipe, unless a superuser raised it. No more output than this can remain of a child that
/// has exited. Output beyond it comes from the child's own children, which may run for ever.
const PIPE_BYTES_MAX: usize = 1 << 20;

pub(crate) struct Child {
    /// `None` once a thread waits for the child, or `Ended` was sent.
    process: Option<process::Child>,
    /// Set once the child has exited and was waited for; an error if the program has waited for it already.
    status: Option<io::Result<ExitStatus>>,
    exit: Option<exit::ChildExit>,
    framing: Framing,
    sink: Rc<dyn EventSink<(Conn, ProcessEvent)>>,
    stdin: Option<(EdgeTriggered<Sender>, Source)>,
    send_buffer: SendBuffer,
    /// The actor has closed the input: the pipe is closed once all is written.
    closing: bool,
    outputs: [Option<ChildOutput>; 2],
    /// The output that is read first next time, so that a flood on one does not starve the other.
    next_output: usize,
    /// Why the loop killed the child.
    failure: Option<io::Error>,
    /// The child leads a process group, which ends with it.
    has_group: bool,
}

struct ChildOutput {
    pipe: EdgeTriggered<Receiver>,
    source: Source,
    role: FdRole,
    frame_reader: FrameReader,
}

impl Sockets<'_> {
    pub(crate) fn spawn_child(
        &mut self,
        owner: Key,
        (command, has_group): (&mut Command, bool),
        framing: Framing,
        sink: Rc<dyn EventSink<(Conn, ProcessEvent)>>,
    ) -> io::Result<Conn> {
        self.core.readiness_mut().check()?;
        if has_group {
            command.process_group(0);
        }
        let process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let id = self.core.sockets_mut().next_conn();
        let mut child = Child {
            process: Some(process),
            status: None,
            exit: None,
            framing,
            sink,
            stdin: None,
            send_buffer: SendBuffer::default(),
            closing: false,
            outputs: [None, None],
            next_output: 0,
            failure: None,
            has_group,
        };
        if let Err(reason) = child.watch(self.core, id) {
            child.release(self.core);
            return Err(reason);
        }
        let has_exit_fd = child.exit.is_some();
        self.insert_socket(id, owner, SocketKind::Child(Box::new(child)));
        if !has_exit_fd {
            // The first poll is now, and sets the timer for the next.
            self.core.sockets_mut().note(id, FdRole::Exit, FdReadiness::default());
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
            let source = watch_fd(core, (id, FdRole::Main), &mut pipe, Interest::WRITABLE)?;
            self.stdin = Some((EdgeTriggered::new(pipe), source));
        }
        let stdout = process.stdout.take().map(Receiver::from);
        let stderr = process.stderr.take().map(Receiver::from);
        for (at, (pipe, role)) in [(stdout, FdRole::Stdout), (stderr, FdRole::Stderr)].into_iter().enumerate()
        {
            let Some(mut pipe) = pipe else { continue };
            pipe.set_nonblocking(true)?;
            let source = watch_fd(core, (id, role), &mut pipe, Interest::READABLE)?;
            let (pipe, frame_reader) = (EdgeTriggered::new(pipe), FrameReader::new(self.framing));
            self.outputs[at] = Some(ChildOutput { pipe, source, role, frame_reader });
        }
        self.exit = exit::ChildExit::watch(process, core, id)?;
        Ok(())
    }

    pub(crate) fn serve(&mut self, cx: &mut SocketCx<'_>, events: FdEvents, buffer: &mut [u8]) -> Served {
        let Some(owner) = cx.owner else { return Served::Ended };
        if let Some((pipe, _)) = &mut self.stdin {
            pipe.note(events.of(FdRole::Main));
        }
        self.write(cx);
        for output in self.outputs.iter_mut().flatten() {
            output.pipe.note(events.of(output.role));
        }
        self.check_exit(cx);
        let (first, count) = (self.next_output, self.outputs.len());
        for offset in 0..count {
            let at = (first + offset) % count;
            match self.read(cx, owner, at, buffer) {
                Pulled::Empty => {}
                Pulled::ShareUsed => {
                    self.next_output = (at + 1) % count;
                    return Served::Again;
                }
                Pulled::Full { delivered } => {
                    // An output that delivered nothing comes first again.
                    self.next_output = (at + usize::from(delivered)) % count;
                    return Served::Full { delivered };
                }
                Pulled::Ended(end) => {
                    self.end_output(cx.core, at);
                    if let Err(reason) = end {
                        self.fail(reason);
                    }
                }
            }
        }
        let Some(status) = self.status.take() else { return Served::Idle };
        // The child must not be killed now: another process may have its id.
        self.process = None;
        let end = self.failure.take().map_or(status, Err);
        self.sink.emit(cx.core, owner, (Conn(cx.id.0), ProcessEvent::Ended(end)));
        Served::Ended
    }

    fn check_exit(&mut self, cx: &mut SocketCx<'_>) {
        if self.status.is_some() {
            return;
        }
        if self.has_group {
            self.kill_rest_of_group();
        }
        let Some(process) = &mut self.process else { return };
        let status = match process.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) if self.exit.is_none() => return cx.set_timer(POLL_EVERY),
            Ok(None) => return,
            // The program has waited for the child, or ignores SIGCHLD: it has exited, and its status is lost.
            Err(reason) => Err(reason),
        };
        self.status = Some(status);
        // All output of the child is in the pipes. Later output of its own children is not waited for.
        for output in self.outputs.iter_mut().flatten() {
            output.pipe.note(FdReadiness::READ_TO_END);
            output.frame_reader.limit(PIPE_BYTES_MAX);
        }
    }

    fn read(&mut self, cx: &mut SocketCx<'_>, owner: Key, at: usize, buffer: &mut [u8]) -> Pulled {
        let Some(output) = &mut self.outputs[at] else { return Pulled::Empty };
        let (sink, conn, role) = (&self.sink, Conn(cx.id.0), output.role);
        let deliver = move |core: &mut Core, frame| {
            let event = if role == FdRole::Stdout {
                ProcessEvent::Stdout(frame)
            } else {
                ProcessEvent::Stderr(frame)
            };
            sink.emit(core, owner, (conn, event));
        };
        let pulled = output.frame_reader.pull(cx.core, owner, &mut output.pipe, buffer, deliver);
        if matches!(pulled, Pulled::Empty) && self.status.is_some() {
            output.frame_reader.end();
            return output.frame_reader.pull(cx.core, owner, &mut output.pipe, buffer, deliver);
        }
        pulled
    }

    fn end_output(&mut self, core: &mut Core, at: usize) {
        if let Some(mut output) = self.outputs[at].take() {
            core.readiness_mut().deregister_socket(output.source, output.pipe.io_mut());
        }
    }

    fn fail(&mut self, reason: io::Error) {
        self.failure.get_or_insert(reason);
        self.kill();
    }

    /// Kills the child, or its group; `Ended` follows as after any exit.
    pub(crate) fn kill(&mut self) {
        let Some(process) = self.process.as_mut().filter(|_| self.status.is_none()) else { return };
        if self.has_group
            && let Err(reason) = kill_process_group(Pid::from_child(process), Signal::KILL)
        {
            // The child may have left the group, and be the only process that is left.
            tracing::debug!(%reason, "the process group of a child was not killed");
        }
        if let Err(reason) = process.kill() {
            tracing::warn!(%reason, "a child process could not be killed");
        }
    }

    /// Kills the processes of the child's group, if the child itself has exited. It has not been waited for, so no other
    /// group can have its id.
    fn kill_rest_of_group(&self) {
        let Some(process) = &self.process else { return };
        let pid = Pid::from_child(process);
        let without_waiting = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        if matches!(waitid(WaitId::Pid(pid), without_waiting), Ok(Some(_)))
            && let Err(reason) = kill_process_group(pid, Signal::KILL)
        {
            tracing::debug!(%reason, "the process group of a child was not killed");
        }
    }

    pub(crate) fn push(&mut self, cx: &mut SocketCx<'_>, data: &[u8]) -> Served {
        if self.stdin.is_some() && !self.closing {
            match self.send_buffer.push(self.framing, data) {
                Ok(()) => cx.has_output = true,
                Err(reason) => self.fail(reason.into()),
            }
        }
        Served::Idle
    }

    /// Closes the standard input once all is written.
    pub(crate) fn close(&mut self, cx: &mut SocketCx<'_>) -> Served {
        self.closing = true;
        cx.has_output = true;
        Served::Idle
    }

    pub(crate) fn flush(&mut self, cx: &mut SocketCx<'_>) -> Served {
        self.write(cx);
        Served::Idle
    }

    fn write(&mut self, cx: &mut SocketCx<'_>) {
        let Some((pipe, _)) = &mut self.stdin else { return };
        let is_done = match self.send_buffer.flush(pipe) {
            Flushed::All => self.closing,
            Flushed::Blocked => false,
            Flushed::ShareUsed => {
                cx.has_output = true;
                false
            }
            // The child reads no more, which is not an error: `head`, for example, does this.
            Flushed::Failed(_) => true,
        };
        if self.send_buffer.take_writable_event()
            && let Some(owner) = cx.owner
        {
            self.sink.emit(cx.core, owner, (Conn(cx.id.0), ProcessEvent::Writable));
        }
        if is_done {
            self.end_input(cx.core);
        }
    }

    fn end_input(&mut self, core: &mut Core) {
        if let Some((mut pipe, source)) = self.stdin.take() {
            core.readiness_mut().deregister_socket(source, pipe.io_mut());
        }
    }

    pub(crate) fn unwritten(&self) -> usize {
        self.send_buffer.len()
    }

    pub(crate) fn release(&mut self, core: &mut Core) {
        self.end_input(core);
        for at in 0..self.outputs.len() {
            self.end_output(core, at);
        }
        if let Some(exit) = self.exit.take() {
            exit.release(core);
        }
    }
}

impl Drop for Child {
    /// The actor has exited before the child: the child is killed, and a thread waits for it, which may take a while.
    fn drop(&mut self) {
        self.kill();
        let Some(mut process) = self.process.take().filter(|_| self.status.is_none()) else { return };
        if !matches!(process.try_wait(), Ok(None)) {
            return;
        }
        let pid = process.id();
        let wait = move || drop(process.wait());
        if let Err(reason) = thread::Builder::new().name("antiphon-reaper".into()).spawn(wait) {
            tracing::error!(%reason, pid, "cannot start a thread that waits for a killed child process");
        }
    }
}

#[cfg(target_os = "linux")]
mod exit {
    //! The exit of a process, reported as readiness of a descriptor.

    use std::io;
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::process::Child;

    use mio::Interest;
    use mio::unix::SourceFd;
    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::{Core, FdRole, SocketId, Source, watch_fd};

    pub(super) struct ChildExit {
        fd: OwnedFd,
        source: Source,
    }

    impl ChildExit {
        /// `None` where the kernel is too old for pidfds.
        pub(super) fn watch(child: &Child, core: &mut Core, id: SocketId) -> io::Result<Option<Self>> {
            let Ok(fd) = pidfd_open(Pid::from_child(child), PidfdFlags::NONBLOCK) else { return Ok(None) };
            let source =
                watch_fd(core, (id, FdRole::Exit), &mut SourceFd(&fd.as_raw_fd()), Interest::READABLE)?;
            Ok(Some(Self { fd, source }))
        }

        pub(super) fn release(self, core: &mut Core) {
            core.readiness_mut().deregister_socket(self.source, &mut SourceFd(&self.fd.as_raw_fd()));
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod exit {
    //! This system has no descriptor that reports the exit of a process; the loop polls.

    use std::io;
    use std::process::Child;

    use super::{Core, SocketId};

    pub(super) enum ChildExit {}

    impl ChildExit {
        pub(super) fn watch(_: &Child, _: &mut Core, _: SocketId) -> io::Result<Option<Self>> {
            Ok(None)
        }

        pub(super) fn release(self, _: &mut Core) {
            match self {}
        }
    }
}
