//! The processes of one demo: started, heard, and gone when it is over.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use antiphon_wire::Secret;

/// How long any one thing may take before the demo has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// The processes of one demo, with a UDP port and a secret of their own, and a certificate if they talk by TLS.
pub(super) struct Cast {
    udp_port: String,
    secret: String,
    certificate: Option<String>,
    programs: PathBuf,
    actors: Vec<Process>,
    lines: Receiver<Heard>,
    tell: Sender<Heard>,
}

/// One process.
struct Process {
    name: &'static str,
    child: Child,
    stdin: Option<ChildStdin>,
    printed: Vec<String>,
}

/// Which process, by its place in the cast.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(super) struct Role(usize);

struct Heard {
    role: usize,
    line: String,
    /// What it printed, rather than what it logged.
    is_print: bool,
}

impl Cast {
    pub(super) fn new(certificate: Option<&Path>) -> Result<Self, String> {
        let secret = Secret::generate().map_err(|reason| reason.to_string())?;
        let here = std::env::current_exe().map_err(|reason| reason.to_string())?;
        let folder = here.parent().ok_or("this program is in no folder")?;
        let (tell, lines) = channel();
        Ok(Self {
            udp_port: antiphon_sched::testing::free_udp_port().to_string(),
            secret: secret.reveal().to_owned(),
            certificate: certificate.map(|file| file.display().to_string()),
            programs: folder.join("examples"),
            actors: Vec::new(),
            lines,
            tell,
        })
    }

    /// Starts a program under examples/, and calls it so in the transcript.
    pub(super) fn start(
        &mut self,
        name: &'static str,
        program: &str,
        arguments: &[&str],
    ) -> Result<Role, String> {
        let secret = self.secret.clone();
        self.start_with_secret(name, program, &secret, arguments)
    }

    /// As [`Cast::start`], with a secret that is not the demo's.
    pub(super) fn start_with_secret(
        &mut self,
        name: &'static str,
        program: &str,
        secret: &str,
        arguments: &[&str],
    ) -> Result<Role, String> {
        match self.certificate.clone() {
            None => self.start_node(name, program, secret, arguments),
            Some(file) => self.start_node(name, program, secret, &[&["--tls", &file], arguments].concat()),
        }
    }

    /// As [`Cast::start`], a node without a certificate, whatever the others have.
    pub(super) fn start_without_tls(
        &mut self,
        name: &'static str,
        program: &str,
        arguments: &[&str],
    ) -> Result<Role, String> {
        let secret = self.secret.clone();
        self.start_node(name, program, &secret, arguments)
    }

    fn start_node(
        &mut self,
        name: &'static str,
        program: &str,
        secret: &str,
        arguments: &[&str],
    ) -> Result<Role, String> {
        let port = self.udp_port.clone();
        let node = ["--udp-port", &port, "--secret", secret];
        self.start_plain(name, program, &[&node, arguments].concat())
    }

    /// Whether the programs talk by TLS.
    pub(super) fn has_tls(&self) -> bool {
        self.certificate.is_some()
    }

    /// As [`Cast::start`], a program that is no node.
    pub(super) fn start_alone(
        &mut self,
        name: &'static str,
        program: &str,
        arguments: &[&str],
    ) -> Result<Role, String> {
        match self.certificate.clone() {
            None => self.start_plain(name, program, arguments),
            Some(file) => self.start_plain(name, program, &[&["--tls", &file], arguments].concat()),
        }
    }

    /// As [`Cast::start_alone`], with these arguments and no others: without TLS, unless they ask for it.
    pub(super) fn start_plain(
        &mut self,
        name: &'static str,
        program: &str,
        arguments: &[&str],
    ) -> Result<Role, String> {
        let mut command = Command::new(self.programs.join(program));
        command.args(arguments);
        command.env("ANTIPHON_LOOPBACK_ONLY", "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().map_err(|reason| format!("{program} could not be started: {reason}"))?;
        let role = self.actors.len();
        if let Some(stdout) = child.stdout.take() {
            self.listen(role, stdout, true);
        }
        if let Some(stderr) = child.stderr.take() {
            self.listen(role, stderr, false);
        }
        let stdin = child.stdin.take();
        self.actors.push(Process { name, child, stdin, printed: Vec::new() });
        Ok(Role(role))
    }

    fn listen(&self, role: usize, from: impl Read + Send + 'static, is_print: bool) {
        let tell = self.tell.clone();
        thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                // Nobody listens any more when the demo is over.
                if tell.send(Heard { role, line, is_print }).is_err() {
                    return;
                }
            }
        });
    }

    /// Shows what the processes print, until `enough` has seen enough of it.
    pub(super) fn listen_until(&mut self, what: &str, enough: impl Fn(&Self) -> bool) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        while !enough(self) {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(heard) => self.show(heard),
                Err(RecvTimeoutError::Timeout) => return Err(format!("waited {PATIENCE:?} for {what}")),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("everybody went silent before {what}"));
                }
            }
        }
        Ok(())
    }

    fn show(&mut self, heard: Heard) {
        let process = &mut self.actors[heard.role];
        println!("{:>10} {} {}", process.name, if heard.is_print { '|' } else { '!' }, heard.line);
        if heard.is_print {
            process.printed.push(heard.line);
        }
    }

    /// All lines that a process has printed so far.
    pub(super) fn printed(&self, role: Role) -> &[String] {
        &self.actors[role.0].printed
    }

    /// Types a line into a process's input.
    pub(super) fn say(&mut self, role: Role, line: &str) -> Result<(), String> {
        let Process { name, stdin, .. } = &mut self.actors[role.0];
        let stdin = stdin.as_mut().ok_or_else(|| format!("{name}'s input has ended"))?;
        println!("{name:>10} > {line}");
        writeln!(stdin, "{line}").map_err(|reason| format!("{name} does not listen: {reason}"))
    }

    /// Closes a process's input.
    pub(super) fn end_input(&mut self, role: Role) {
        self.actors[role.0].stdin = None;
    }

    /// Kills a process, as a crash would.
    pub(super) fn kill(&mut self, role: Role) -> Result<(), String> {
        let child = &mut self.actors[role.0].child;
        child.kill().and_then(|()| child.wait()).map(drop).map_err(|reason| reason.to_string())
    }

    /// Waits until a process has ended well, and shows the rest of what it printed.
    pub(super) fn wait_for_end(&mut self, role: Role) -> Result<(), String> {
        let status = self.wait_for_any_end(role)?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("{} ended with {status}", self.actors[role.0].name))
        }
    }

    /// Waits until a process has ended as one that did not reach its goal.
    pub(super) fn wait_for_bad_end(&mut self, role: Role) -> Result<(), String> {
        let status = self.wait_for_any_end(role)?;
        if status.success() {
            Err(format!("{} ended as if all were well", self.actors[role.0].name))
        } else {
            Ok(())
        }
    }

    fn wait_for_any_end(&mut self, role: Role) -> Result<ExitStatus, String> {
        let name = self.actors[role.0].name;
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.try_wait(role)? {
                break status;
            }
            if Instant::now() >= end {
                return Err(format!("waited {PATIENCE:?} for the end of {name}"));
            }
            if let Ok(heard) = self.lines.recv_timeout(Duration::from_millis(10)) {
                self.show(heard);
            }
        };
        // Its pipes close with it: what is under way arrives at once.
        while let Ok(heard) = self.lines.recv_timeout(Duration::from_millis(50)) {
            self.show(heard);
        }
        Ok(status)
    }

    fn try_wait(&mut self, role: Role) -> Result<Option<ExitStatus>, String> {
        self.actors[role.0].child.try_wait().map_err(|reason| reason.to_string())
    }
}

impl Drop for Cast {
    /// Nobody is left behind, also when the demo has failed.
    fn drop(&mut self) {
        for process in &mut self.actors {
            if matches!(process.child.try_wait(), Ok(None)) {
                let ended = process.child.kill().and_then(|()| process.child.wait());
                if let Err(reason) = ended {
                    println!("{} could not be ended: {reason}", process.name);
                }
            }
        }
    }
}
