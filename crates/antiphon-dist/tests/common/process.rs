//! Child processes: the test program starts itself again, in a role.
//!
//! The program calls [`harness::run`](super::harness::run) with the function that plays the role. The child prints
//! lines that begin with a mark for its parent, and exits when its input ends.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStderr, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};

use antiphon_dist::{Config, Location, Secret};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::{Log, Net, recv, wait_for};

const MARK: &str = "@@ ";
const ROLE: &str = "ANTIPHON_TEST_ROLE";

/// A child of this test, in a role. It is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

/// The settings that the parent gave to the child.
pub(crate) struct Role {
    pub(crate) name: String,
    pub(crate) net: Net,
    pub(crate) tcp_port: u16,
    pub(crate) peer: Option<Location>,
}

impl Role {
    pub(crate) fn config(&self) -> Config {
        let peers: Vec<Location> = self.peer.into_iter().collect();
        let config = match self.net.udp_port {
            0 => self.net.static_config(&self.name, &peers),
            _ => self.net.config(&self.name),
        };
        Config { tcp_port: self.tcp_port, ..config }
    }
}

impl Process {
    pub(crate) fn start(net: &Net, role: &str) -> Self {
        Self::start_at(net, role, 0, None)
    }

    /// Starts a child that listens on a port and has a peer. Without a UDP port in `net` it uses no discovery.
    pub(crate) fn start_at(net: &Net, role: &str, tcp_port: u16, peer: Option<Location>) -> Self {
        Self::start_under(&[], net, role, tcp_port, peer)
    }

    /// Like [`Process::start_at`], with a command before the program, which starts it.
    pub(crate) fn start_under(
        wrapper: &[&str],
        net: &Net,
        role: &str,
        tcp_port: u16,
        peer: Option<Location>,
    ) -> Self {
        Self::launch(Self::command_under(wrapper), net, role, tcp_port, peer).0
    }

    fn command_under(wrapper: &[&str]) -> Command {
        let program = std::env::current_exe().expect("the system knows the program of this process");
        match wrapper {
            [] => Command::new(program),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        }
    }

    /// Like [`Process::start`], with a command before the program, with environment variables and with the child's log.
    pub(crate) fn start_logged(
        wrapper: &[&str],
        net: &Net,
        role: &str,
        peer: Option<Location>,
        variables: &[(&str, &str)],
    ) -> (Self, Log) {
        let mut command = Self::command_under(wrapper);
        command.envs(variables.iter().copied()).stderr(Stdio::piped());
        let (process, stderr) = Self::launch(command, net, role, 0, peer);
        let mut stderr = stderr.expect("the errors are piped");
        let log = Log::default();
        let mut written = log.clone();
        std::thread::spawn(move || {
            // The copy ends with the child.
            drop(std::io::copy(&mut stderr, &mut written));
        });
        (process, log)
    }

    fn launch(
        mut command: Command,
        net: &Net,
        role: &str,
        tcp_port: u16,
        peer: Option<Location>,
    ) -> (Self, Option<ChildStderr>) {
        let peer = peer.map(|at| at.to_string()).unwrap_or_default();
        let tls = net.tls.as_ref().map(|file| file.display().to_string()).unwrap_or_default();
        let settings = format!("{role},{},{},{tcp_port},{peer},{tls}", net.secret.reveal(), net.udp_port);
        command.env(ROLE, settings).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the test program can be started again");
        let stdout = child.stdout.take().expect("the output is piped");
        let stdin = child.stdin.take();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let marked = line.find(MARK).map(|at| line[at + MARK.len()..].to_owned());
                if marked.is_some_and(|text| sender.send(text).is_err()) {
                    return;
                }
            }
        });
        let stderr = child.stderr.take();
        (Self { child, stdin, lines }, stderr)
    }

    /// The child's process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line from the child.
    #[track_caller]
    pub(crate) fn line(&self) -> String {
        recv(&self.lines)
    }

    /// The lines that have come from the child, and were not returned before.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// The next line, which is a location.
    #[track_caller]
    pub(crate) fn location(&self) -> Location {
        self.line().parse().expect("the child sends its location")
    }

    /// Sends a line to the child.
    pub(crate) fn send_line(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().expect("the input is open"), "{line}")
            .expect("the child reads its input");
    }

    fn pid(&self) -> Pid {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("process ids are positive")
    }

    /// Sends a signal to the child.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the child can be signalled");
    }

    /// Stops the child by SIGSTOP, and waits until it has stopped.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
        let stopped = waitpid(Some(self.pid()), WaitOptions::UNTRACED).expect("the child can be waited for");
        assert!(stopped.is_some_and(|(_, status)| status.stopped()), "the child has stopped");
    }

    /// Continues the child by SIGCONT.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Closes the input of the child, and waits until the child has ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.stdin = None;
        wait_for("the end of the child", || self.child.try_wait().expect("the child can be waited for"))
    }

    /// Kills the child by SIGKILL, and waits for its end.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the child can be killed");
        self.child.wait().expect("the child can be waited for");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // No child outlives its test.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// The role of this process; `None` when it is not the child of a test.
pub(crate) fn role() -> Option<Role> {
    let settings = std::env::var(ROLE).ok()?;
    let parts: Vec<&str> = settings.split(',').collect();
    let [name, secret, udp_port, tcp_port, peer, tls] = parts[..] else {
        panic!("the settings of a role have six parts")
    };
    Some(Role {
        name: name.to_owned(),
        net: Net {
            secret: Secret::from(secret),
            udp_port: udp_port.parse().expect("the port is a number"),
            tls: (!tls.is_empty()).then(|| tls.into()),
        },
        tcp_port: tcp_port.parse().expect("the port is a number"),
        peer: (!peer.is_empty()).then(|| peer.parse().expect("the location is valid")),
    })
}

/// Sends a line to the parent.
pub(crate) fn send_line(line: impl std::fmt::Display) {
    println!("\n{MARK}{line}");
}

/// The lines from the parent, until it closes the input.
pub(crate) fn commands() -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
