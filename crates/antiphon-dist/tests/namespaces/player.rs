//! A node in one of the networks, as its own process: does what its input says, and tells what comes of it.

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

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node on a host of a lab; ends with its input.
pub(crate) struct Player {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// What was told and not yet asked for.
    told: Vec<String>,
}

impl Player {
    /// Starts a node that is named like its host; `settings` as [`config`] reads them.
    pub(crate) fn start(lab: &Lab, host: &str, settings: &str) -> Self {
        let program = std::env::current_exe().expect("a test knows its program");
        let mut command = lab.command(host, program.to_str().expect("a path of text"));
        command.args(["node", &format!("name={host}")]).args(settings.split_whitespace());
        // Only here: this program has made sure of the namespace that it is in.
        command.env("ANTIPHON_LOOPBACK_ONLY", "0").env_remove(super::INSIDE);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the tool was looked for before");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let stdin = child.stdin.take();
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            stdout
                .lines()
                .map_while(Result::ok)
                .take_while(|line| tell.send(line.clone()).is_ok())
                .for_each(drop);
        });
        Self { child, stdin, lines, told: Vec::new() }
    }

    /// Where it listens, which it tells first.
    #[track_caller]
    pub(crate) fn location(&mut self) -> String {
        self.wait("at ")
    }

    /// Has it do something.
    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().expect("it is not closed"), "{line}").expect("the node listens");
    }

    /// Waits for a line that begins so; the rest of it.
    #[track_caller]
    pub(crate) fn wait(&mut self, begin: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(place) = self.told.iter().position(|line| line.starts_with(begin)) {
                return self.told.remove(place)[begin.len()..].to_owned();
            }
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => self.told.push(line),
                Err(reason) => {
                    panic!("waited for a line with {begin:?} ({reason}), and heard {:?}", self.told)
                }
            }
        }
    }

    /// Contacts a peer: where it is, or why not.
    #[track_caller]
    pub(crate) fn peer(&mut self, at: &str) -> String {
        self.say(&format!("peer {at}"));
        self.wait("peer ")
    }

    /// Sends a line to the node of that name, which tells it.
    #[track_caller]
    pub(crate) fn send(&mut self, name: &str, text: &str) {
        self.say(&format!("send {name} {text}"));
        assert_eq!(self.wait("sent "), "in the mailbox");
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.stdin = None;
        // It ends by itself, when all is well.
        if std::thread::panicking() {
            drop(self.child.kill());
        }
        drop(self.child.wait());
    }
}

/// What the node's actor is told.
enum Told {
    Line(String),
    Status(PeerStatus),
    Contacted(Result<Vec<Location>, PeerError>),
    Found(Result<Addr<String>, LocateError>, String),
    Sent(Result<(), DeliverError>),
}

/// Plays a node.
pub(crate) fn play() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::WARN).init();
    let config = config(std::env::args().skip(2));
    let name = config.name.clone().expect("a player is named");
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
            Event::Message(text) => println!("heard {text}"),
            _ => {}
        }
        receive()
    });
    let player = node.spawn(move |cx, event| match event {
        Event::Start => {
            cx.peer_status(Told::Status);
            receive()
        }
        Event::Message(Told::Line(line)) => obey(cx, &line),
        Event::Message(told) => {
            tell(cx, told);
            receive()
        }
        _ => receive(),
    });
    let done = node.run_with(move |handle| {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if handle.send(player, Told::Line(line)).is_err() {
                return;
            }
        }
        // Nobody is left to hear of a node that has stopped.
        drop(handle.send(player, Told::Line("stop".into())));
    });
    done.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

fn obey(cx: &mut Cx<'_, Told>, line: &str) -> antiphon_sched::Step<Told> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["peer", at, ref options @ ..] => {
            let options = PeerOptions { broadcast: options.contains(&"broadcast"), ..PeerOptions::default() };
            cx.peer_with(at.parse::<antiphon_dist::PeerAt>()?, options, secs(10), Told::Contacted);
        }
        ["send", name, text] => {
            let text = text.to_owned();
            cx.locate(name, secs(10), move |found| Told::Found(found, text));
        }
        ["stop"] => return stop(),
        _ => println!("not understood: {line}"),
    }
    receive()
}

fn tell(cx: &mut Cx<'_, Told>, told: Told) {
    let or_why = |result: Result<&str, &dyn Display>| match result {
        Ok(text) => text.to_owned(),
        Err(reason) => reason.to_string(),
    };
    match told {
        Told::Line(_) => {}
        Told::Status(status) => println!("{:?} {} at {}", status.status, status.name, status.location),
        Told::Contacted(Ok(all)) => {
            let all: Vec<String> = all.iter().map(Location::to_string).collect();
            println!("peer {}", all.join(" "));
        }
        Told::Contacted(Err(reason)) => println!("peer {reason}"),
        Told::Found(Ok(addr), text) => cx.deliver(addr, text, secs(10), Told::Sent),
        Told::Found(Err(reason), _) => println!("sent {reason}"),
        Told::Sent(sent) => {
            println!(
                "sent {}",
                or_why(sent.as_ref().map(|()| "in the mailbox").map_err(|reason| reason as _))
            )
        }
    }
}

/// The settings of a node: words such as `ip=10.0.0.1`, `secret=..`, `quiet`.
fn config(words: impl Iterator<Item = String>) -> Config {
    let mut config = Config { udp_port: Some(super::cases::UDP_PORT), ..Config::default() };
    let ip = |text: &str| -> IpAddr { text.parse().expect("an address") };
    for word in words {
        match word.split_once('=').unwrap_or((&word, "")) {
            ("name", name) => config.name = Some(name.to_owned()),
            ("ip", text) => config.ip = ip(text),
            ("ext", text) => config.ext_ip_addr = Some(ip(text)),
            ("tcp", port) => config.tcp_port = port.parse().expect("a port"),
            ("secret", secret) => config.secret = Some(Secret::from(secret)),
            ("open", _) => config.open = true,
            ("quiet", _) => config.discover_peers = false,
            (other, _) => panic!("{other} is no setting"),
        }
    }
    config
}
