//! The processes of one demo: they are started, their output is collected, and they are killed at its end.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::keygen;

/// The longest wait for one condition; after it the demo fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// The processes of one demo. They share a UDP port, a secret and, if they use TLS, a certificate.
pub(super) struct Processes {
    udp_port: String,
    secret: String,
    certificate: Option<String>,
    programs: PathBuf,
    processes: Vec<Process>,
    lines: Receiver<OutputLine>,
    sender: Sender<OutputLine>,
}

/// One process.
struct Process {
    name: &'static str,
    child: Child,
    stdin: Option<ChildStdin>,
    printed: Vec<String>,
}

/// A process, by its index in [`Processes`].
#[derive(Copy, Clone, PartialEq, Eq)]
pub(super) struct ProcessId(usize);

struct OutputLine {
    id: usize,
    line: String,
    /// Printed on standard output; otherwise on standard error, which has the log.
    is_stdout: bool,
}

impl Processes {
    pub(super) fn new(certificate: Option<&Path>) -> Result<Self, String> {
        let secret = keygen::generate()?;
        let here = std::env::current_exe().map_err(|reason| reason.to_string())?;
        let folder = here.parent().ok_or("the path of this program has no folder")?;
        let (sender, lines) = channel();
        Ok(Self {
            udp_port: antiphon_sched::testing::free_udp_port().to_string(),
            secret: secret.reveal().to_owned(),
            certificate: certificate.map(|file| file.display().to_string()),
            programs: folder.join("examples"),
            processes: Vec::new(),
            lines,
            sender,
        })
    }

    /// Starts a program under examples/; the transcript shows it as `name`.
    pub(super) fn start(
        &mut self,
        name: &'static str,
        program: &str,
        arguments: &[&str],
    ) -> Result<ProcessId, String> {
        let secret = self.secret.clone();
        self.start_with_secret(name, program, &secret, arguments)
    }

    /// As [`Processes::start`], with a secret that is not the demo's.
    pub(super) fn start_with_secret(
        &mut self,
        name: &'static str,
        program: &str,
        secret: &str,
        arguments: &[&str],
    ) -> Result<ProcessId, String> {
        match self.certificate.clone() {
            None => self.start_node(name, program, secret, arguments),
            Some(file) => self.start_node(name, program, secret, &[&["--tls", &file], arguments].concat()),
        }
    }

    /// As [`Processes::start`], without a certificate even if the demo uses TLS.
    pub(super) fn start_without_tls(
        &mut self,
        name: &'static str,
        program: &str,
        arguments: &[&str],
    ) -> Result<ProcessId, String> {
        let secret = self.secret.clone();
        self.start_node(name, program, &secret, arguments)
    }

    fn start_node(
        &mut self,
        name: &'static str,
        program: &str,
        secret: &str,
        arguments: &[&str],
    ) -> Result<ProcessId, String> {
        let port = self.udp_port.clone();
        let node = ["--udp-port", &port, "--secret", secret];
        self.start_plain(name, program, &[&node, arguments].concat())
    }

    /// Whether the programs use TLS.
    pub(super) fn has_tls(&self) -> bool {
        self.certificate.is_some()
    }

    /// As [`Processes::start`], for a program that runs no node.
    pub(super) fn start_alone(
        &mut self,
        name: &'static str,
        program: &str,
        arguments: &[&str],
    ) -> Result<ProcessId, String> {
        match self.certificate.clone() {
            None => self.start_plain(name, program, arguments),
            Some(file) => self.start_plain(name, program, &[&["--tls", &file], arguments].concat()),
        }
    }

    /// As [`Processes::start_alone`], with exactly these arguments: without TLS, unless they contain `--tls`.
    pub(super) fn start_plain(
        &mut self,
        name: &'static str,
        program: &str,
        arguments: &[&str],
    ) -> Result<ProcessId, String> {
        let mut command = Command::new(self.programs.join(program));
        command.args(arguments);
        command.env("ANTIPHON_LOOPBACK_ONLY", "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().map_err(|reason| format!("{program} could not be started: {reason}"))?;
        let id = self.processes.len();
        if let Some(stdout) = child.stdout.take() {
            self.read_lines(id, stdout, true);
        }
        if let Some(stderr) = child.stderr.take() {
            self.read_lines(id, stderr, false);
        }
        let stdin = child.stdin.take();
        self.processes.push(Process { name, child, stdin, printed: Vec::new() });
        Ok(ProcessId(id))
    }

    fn read_lines(&self, id: usize, from: impl Read + Send + 'static, is_stdout: bool) {
        let sender = self.sender.clone();
        thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                // The receiver is dropped when the demo ends.
                if sender.send(OutputLine { id, line, is_stdout }).is_err() {
                    return;
                }
            }
        });
    }

    /// Shows the output of the processes until `is_done` returns true.
    pub(super) fn wait_until(&mut self, what: &str, is_done: impl Fn(&Self) -> bool) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        while !is_done(self) {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(output) => self.show(output),
                Err(RecvTimeoutError::Timeout) => return Err(format!("waited {PATIENCE:?} for {what}")),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("all processes closed their output before {what}"));
                }
            }
        }
        Ok(())
    }

    fn show(&mut self, output: OutputLine) {
        let process = &mut self.processes[output.id];
        println!("{:>10} {} {}", process.name, if output.is_stdout { '|' } else { '!' }, output.line);
        if output.is_stdout {
            process.printed.push(output.line);
        }
    }

    /// The lines that a process has printed on standard output so far.
    pub(super) fn printed(&self, id: ProcessId) -> &[String] {
        &self.processes[id.0].printed
    }

    /// Writes a line to the standard input of a process.
    pub(super) fn type_line(&mut self, id: ProcessId, line: &str) -> Result<(), String> {
        let Process { name, stdin, .. } = &mut self.processes[id.0];
        let stdin = stdin.as_mut().ok_or_else(|| format!("{name}'s input has ended"))?;
        println!("{name:>10} > {line}");
        writeln!(stdin, "{line}").map_err(|reason| format!("{name} does not read its input: {reason}"))
    }

    /// Closes a process's input.
    pub(super) fn end_input(&mut self, id: ProcessId) {
        self.processes[id.0].stdin = None;
    }

    /// Kills a process by SIGKILL, which stands for a crash.
    pub(super) fn kill(&mut self, id: ProcessId) -> Result<(), String> {
        let child = &mut self.processes[id.0].child;
        child.kill().and_then(|()| child.wait()).map(drop).map_err(|reason| reason.to_string())
    }

    /// Waits for a process to exit with success, and shows the rest of its output.
    pub(super) fn wait_for_success(&mut self, id: ProcessId) -> Result<(), String> {
        let status = self.wait_for_exit(id)?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("{} exited with {status}", self.processes[id.0].name))
        }
    }

    /// Waits for a process to exit with a failure.
    pub(super) fn wait_for_failure(&mut self, id: ProcessId) -> Result<(), String> {
        let status = self.wait_for_exit(id)?;
        if status.success() {
            Err(format!("{} exited with success, but was to fail", self.processes[id.0].name))
        } else {
            Ok(())
        }
    }

    fn wait_for_exit(&mut self, id: ProcessId) -> Result<ExitStatus, String> {
        let name = self.processes[id.0].name;
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.try_wait(id)? {
                break status;
            }
            if Instant::now() >= end {
                return Err(format!("waited {PATIENCE:?} for {name} to exit"));
            }
            if let Ok(output) = self.lines.recv_timeout(Duration::from_millis(10)) {
                self.show(output);
            }
        };
        // Its pipes are closed: the output that is still in them arrives at once.
        while let Ok(output) = self.lines.recv_timeout(Duration::from_millis(50)) {
            self.show(output);
        }
        Ok(status)
    }

    fn try_wait(&mut self, id: ProcessId) -> Result<Option<ExitStatus>, String> {
        self.processes[id.0].child.try_wait().map_err(|reason| reason.to_string())
    }
}

impl Drop for Processes {
    /// Kills the processes that still run, also after a failure.
    fn drop(&mut self) {
        for process in &mut self.processes {
            if matches!(process.child.try_wait(), Ok(None)) {
                let ended = process.child.kill().and_then(|()| process.child.wait());
                if let Err(reason) = ended {
                    println!("{} could not be killed: {reason}", process.name);
                }
            }
        }
    }
}
