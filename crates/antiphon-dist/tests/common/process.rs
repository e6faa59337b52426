//! Other processes: this test program once more, in another role.
//!
//! A file that uses it has an ignored test named `the_other_process`, which calls [`role`] and plays it. It tells
//! by lines that begin with a mark, and ends when its input does.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStderr, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use antiphon_dist::{Config, Location, Secret};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::{Log, Net, heard};

const MARK: &str = "@@ ";
const ROLE: &str = "ANTIPHON_TEST_ROLE";

/// A child of this test, in a role; killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

/// What the child was told by its parent.
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
            0 => self.net.quiet(&self.name, &peers),
            _ => self.net.config(&self.name),
        };
        Config { tcp_port: self.tcp_port, ..config }
    }
}

impl Process {
    pub(crate) fn start(net: &Net, role: &str) -> Self {
        Self::start_at(net, role, 0, None)
    }

    /// Starts a child that listens on a port, and knows a peer; without a UDP port it finds no others.
    pub(crate) fn start_at(net: &Net, role: &str, tcp_port: u16, peer: Option<Location>) -> Self {
        Self::start_under(&[], net, role, tcp_port, peer)
    }

    /// As [`Process::start_at`], by another program that starts it.
    pub(crate) fn start_under(
        wrapper: &[&str],
        net: &Net,
        role: &str,
        tcp_port: u16,
        peer: Option<Location>,
    ) -> Self {
        let program = std::env::current_exe().expect("a test knows its program");
        let command = match wrapper {
            [] => Command::new(program),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        Self::launch(command, net, role, tcp_port, peer).0
    }

    /// As [`Process::start`], with variables of its own; what it logs is kept.
    pub(crate) fn start_logged(
        net: &Net,
        role: &str,
        peer: Option<Location>,
        variables: &[(&str, &str)],
    ) -> (Self, Log) {
        let mut command = Command::new(std::env::current_exe().expect("a test knows its program"));
        command.envs(variables.iter().copied()).stderr(Stdio::piped());
        let (process, child_log) = Self::launch(command, net, role, 0, peer);
        let mut stderr = child_log.expect("its errors are piped");
        let log = Log::default();
        let mut written = log.clone();
        std::thread::spawn(move || {
            // It ends with the child.
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
        command.args(["the_other_process", "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
        let peer = peer.map(|at| at.to_string()).unwrap_or_default();
        let tls = net.tls.as_ref().map(|file| file.display().to_string()).unwrap_or_default();
        let told = format!("{role},{},{},{tcp_port},{peer},{tls}", net.secret.reveal(), net.udp_port);
        command.env(ROLE, told).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the test program can be started again");
        let stdout = child.stdout.take().expect("its output is piped");
        let stdin = child.stdin.take();
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let told = line.find(MARK).map(|at| line[at + MARK.len()..].to_owned());
                if told.is_some_and(|told| tell.send(told).is_err()) {
                    return;
                }
            }
        });
        let stderr = child.stderr.take();
        (Self { child, stdin, lines }, stderr)
    }

    /// The child's number.
    pub(crate) fn number(&self) -> u32 {
        self.child.id()
    }

    /// The next line that the child tells.
    #[track_caller]
    pub(crate) fn line(&self) -> String {
        heard(&self.lines)
    }

    /// The next line, which is a location.
    #[track_caller]
    pub(crate) fn location(&self) -> Location {
        self.line().parse().expect("the child tells its location first")
    }

    /// Tells the child something.
    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().expect("it is not closed"), "{line}").expect("the child listens");
    }

    fn id(&self) -> Pid {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a child has an id")
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.id(), signal).expect("the child can be signalled");
    }

    /// SIGSTOP; waits until the child stands still.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
        let stopped = waitpid(Some(self.id()), WaitOptions::UNTRACED).expect("the child can be waited for");
        assert!(stopped.is_some_and(|(_, status)| status.stopped()), "the child stands still");
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the child can be killed");
        self.child.wait().expect("the child can be waited for");
    }

    /// Closes the child's input, and waits for its end.
    pub(crate) fn end(mut self) {
        self.stdin = None;
        let status = self.child.wait().expect("the child can be waited for");
        assert!(status.success(), "the child ended with {status}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Whatever the test came to, nobody is left behind.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// The role that this process was started in; `None` when it is no child of a test.
pub(crate) fn role() -> Option<Role> {
    let told = std::env::var(ROLE).ok()?;
    let parts: Vec<&str> = told.split(',').collect();
    let [name, secret, udp_port, tcp_port, peer, tls] = parts[..] else { panic!("a role has six parts") };
    Some(Role {
        name: name.to_owned(),
        net: Net {
            secret: Secret::from(secret),
            udp_port: udp_port.parse().expect("a port"),
            tls: (!tls.is_empty()).then(|| tls.into()),
        },
        tcp_port: tcp_port.parse().expect("a port"),
        peer: (!peer.is_empty()).then(|| peer.parse().expect("a location")),
    })
}

/// Tells the parent something.
pub(crate) fn say(what: impl std::fmt::Display) {
    println!("\n{MARK}{what}");
}

/// What the parent tells, until it says no more.
pub(crate) fn commands() -> Receiver<String> {
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if tell.send(line).is_err() {
                return;
            }
        }
    });
    told
}
