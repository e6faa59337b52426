//! A node in one of the networks, in a process of its own: it follows the commands of its input, and prints the results.

use std::fmt::Display;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::process::{Child, ChildStdin, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use antiphon_dist::{
    Config, DeliverError, LocateError, Location, NetCx, Node, PeerError, PeerOptions, PeerStatus, Secret,
};
use antiphon_sched::{Addr, Cx, Event, receive, secs, stop};

use super::lab::Lab;

/// The limit for anything that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node process on a host of a lab. It exits when its input ends.
pub(crate) struct Player {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// Lines that were received, and that no call of [`Player::wait`] has returned.
    received: Vec<String>,
}

impl Player {
    /// Starts a node with the name of its host; [`config`] reads the `settings`.
    pub(crate) fn start(lab: &Lab, host: &str, settings: &str) -> Self {
        let program = std::env::current_exe().expect("the system knows the program of this process");
        let mut command = lab.command(host, program.to_str().expect("the path is valid UTF-8"));
        command.args(["node", &format!("name={host}")]).args(settings.split_whitespace());
        // This is safe only here: the program has checked that it is in a namespace of its own.
        command.env("ANTIPHON_LOOPBACK_ONLY", "0").env_remove(super::INSIDE);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the tool exists");
        let stdout = BufReader::new(child.stdout.take().expect("the output is piped"));
        let stdin = child.stdin.take();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            stdout
                .lines()
                .map_while(Result::ok)
                .take_while(|line| sender.send(line.clone()).is_ok())
                .for_each(drop);
        });
        Self { child, stdin, lines, received: Vec::new() }
    }

    /// The location at which the node listens; its first line.
    #[track_caller]
    pub(crate) fn location(&mut self) -> String {
        self.wait("at ")
    }

    /// Sends a command to the node.
    pub(crate) fn command(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().expect("the input is open"), "{line}")
            .expect("the node reads its input");
    }

    /// Waits for a line with this prefix, and returns the rest of the line.
    #[track_caller]
    pub(crate) fn wait(&mut self, prefix: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(index) = self.received.iter().position(|line| line.starts_with(prefix)) {
                return self.received.remove(index)[prefix.len()..].to_owned();
            }
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => self.received.push(line),
                Err(reason) => {
                    panic!("waited for a line with {prefix:?} ({reason}), and received {:?}", self.received)
                }
            }
        }
    }

    /// Calls `peer`: returns the locations, or the error.
    #[track_caller]
    pub(crate) fn peer(&mut self, at: &str) -> String {
        self.command(&format!("peer {at}"));
        self.wait("peer ")
    }

    /// Delivers a text to the node with this name, which prints it.
    #[track_caller]
    pub(crate) fn send(&mut self, name: &str, text: &str) {
        self.command(&format!("send {name} {text}"));
        assert_eq!(self.wait("sent "), "in the mailbox");
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.stdin = None;
        // The node exits by itself, unless the test has failed.
        if std::thread::panicking() {
            drop(self.child.kill());
        }
        drop(self.child.wait());
    }
}

/// A message to the node's actor.
enum Input {
    Line(String),
    Status(PeerStatus),
    Connected(Result<Vec<Location>, PeerError>),
    Found(Result<Addr<String>, LocateError>, String),
    Sent(Result<(), DeliverError>),
}

/// Runs the node.
pub(crate) fn run() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::WARN).init();
    let config = config(std::env::args().skip(2));
    let name = config.name.clone().expect("the settings have a name");
    let mut node = match Node::new(config) {
        Ok(node) => node,
        Err(reason) => {
            println!("refused {reason}");
            return ExitCode::SUCCESS;
        }
    };
    println!("at {}", node.location());
    node.spawn(move |cx: &mut Cx<String>, event| {
        match event {
            Event::Start => {
                cx.set_daemon(true);
                cx.register(&name)?;
            }
            Event::Message(text) => println!("received {text}"),
            _ => {}
        }
        receive()
    });
    let player = node.spawn(move |cx, event| match event {
        Event::Start => {
            cx.peer_status(Input::Status).unwrap();
            receive()
        }
        Event::Message(Input::Line(line)) => run_command(cx, &line),
        Event::Message(result) => {
            print_result(cx, result);
            receive()
        }
        _ => receive(),
    });
    let done = node.run_with(move |handle| {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if handle.send(player, Input::Line(line)).is_err() {
                return;
            }
        }
        // The node may have stopped already.
        drop(handle.send(player, Input::Line("stop".into())));
    });
    done.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

fn run_command(cx: &mut Cx<'_, Input>, line: &str) -> antiphon_sched::Step<Input> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["peer", at, ref options @ ..] => {
            let options = PeerOptions { broadcast: options.contains(&"broadcast"), ..PeerOptions::default() };
            cx.peer_with(at.parse::<antiphon_dist::PeerAt>()?, options, secs(10), Input::Connected);
        }
        ["send", name, text] => {
            let text = text.to_owned();
            cx.locate(name, secs(10), move |found| Input::Found(found, text));
        }
        ["stop"] => return stop(),
        _ => println!("unknown command: {line}"),
    }
    receive()
}

fn print_result(cx: &mut Cx<'_, Input>, input: Input) {
    let text_of = |result: Result<&str, &dyn Display>| match result {
        Ok(text) => text.to_owned(),
        Err(reason) => reason.to_string(),
    };
    match input {
        Input::Line(_) => {}
        Input::Status(status) => println!("{:?} {} at {}", status.status, status.name, status.location),
        Input::Connected(Ok(all)) => {
            let all: Vec<String> = all.iter().map(Location::to_string).collect();
            println!("peer {}", all.join(" "));
        }
        Input::Connected(Err(reason)) => println!("peer {reason}"),
        Input::Found(Ok(addr), text) => cx.deliver(addr, text, secs(10), Input::Sent),
        Input::Found(Err(reason), _) => println!("sent {reason}"),
        Input::Sent(sent) => {
            println!(
                "sent {}",
                text_of(sent.as_ref().map(|()| "in the mailbox").map_err(|reason| reason as _))
            )
        }
    }
}

/// Reads the settings of a node, such as `ip=10.0.0.1`, `secret=..`, `no-discovery`.
fn config(words: impl Iterator<Item = String>) -> Config {
    let mut config = Config { udp_port: Some(super::cases::UDP_PORT), ..Config::default() };
    let ip = |text: &str| -> IpAddr { text.parse().expect("the address is valid") };
    for word in words {
        match word.split_once('=').unwrap_or((&word, "")) {
            ("name", name) => config.name = Some(name.to_owned()),
            ("ip", text) => config.ip = ip(text),
            ("ext", text) => config.ext_ip_addr = Some(ip(text)),
            ("tcp", port) => config.tcp_port = port.parse().expect("the port is a number"),
            ("secret", secret) => config.secret = Some(Secret::from(secret)),
            ("open", _) => config.open = true,
            ("no-discovery", _) => config.discover_peers = false,
            (other, _) => panic!("unknown setting {other}"),
        }
    }
    config
}
