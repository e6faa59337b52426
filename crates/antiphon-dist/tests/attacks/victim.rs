//! The node under attack, in a process of its own; the test reads its log, counts and memory.

use std::fs;
use std::path::Path;
use std::time::Duration;

use antiphon_dist::node::NodeCore;
use antiphon_dist::{Config, Location, NetCx, Node, Suite};
use antiphon_sched::{Addr, Bytes, Cx, Event, ExitReason, LoopConfig, ReplyTo, exit, receive, stop, suspend};
use serde::{Deserialize, Serialize};

use crate::common::bombs::Tree;
use crate::common::process::{self, Process, Role};
use crate::common::{Log, Net, PATIENCE, wait_for};
use crate::counting;

/// A request; the reply is the same number.
#[derive(Serialize, Deserialize)]
pub(crate) struct Echo(pub(crate) u64, pub(crate) ReplyTo<u64>);
antiphon_sched::wire!(Echo, "attack.echo/1");

/// Numbers, which must arrive in order and once each, and requests for their count.
#[derive(Serialize, Deserialize)]
pub(crate) enum Tally {
    Number(u64),
    Total(ReplyTo<u64>),
}
antiphon_sched::wire!(Tally, "attack.tally/1");

/// An order to ask the actor at the address for a [`Tree`]. The reply tells how that request ended.
#[derive(Serialize, Deserialize)]
pub(crate) struct AskThere(pub(crate) Addr<Question>, pub(crate) ReplyTo<String>);
antiphon_sched::wire!(AskThere, "attack.ask-there/1", compact);

/// A request of the victim, after an [`AskThere`].
#[derive(Serialize, Deserialize)]
pub(crate) struct Question(pub(crate) ReplyTo<Tree>);
antiphon_sched::wire!(Question, "attack.question/1", compact);

/// An order to monitor the actor at the address. The reply tells how its exit value reads.
#[derive(Serialize, Deserialize)]
pub(crate) struct WatchThere(Addr<Question>, ReplyTo<String>);
antiphon_sched::wire!(WatchThere, "attack.watch-there/1", compact);

/// The actors `sleeper-0` and so on, which take no messages.
pub(crate) const SLEEPERS: usize = 23;
/// The actors `heavy-0` and so on, which exit at their first message with a value of 1 MiB.
pub(crate) const HEAVY_ACTORS: usize = 100;
/// The name of a channel of the victim, of [`Bytes`].
pub(crate) const CROWD: &str = "crowd";
/// The name of a channel of the victim, of [`String`], to which actors subscribe that take no messages.
pub(crate) const ASLEEP: &str = "asleep";
/// The name of an RCI of the victim; its actors do not exit.
pub(crate) const CALLED: &str = "called";

/// The victim's process, as the test uses it.
pub(crate) struct Victim {
    process: Process,
    pub(crate) location: Location,
    pub(crate) log: Log,
}

/// The options of a victim.
#[derive(Clone, Copy, Default)]
pub(crate) struct VictimOptions<'a> {
    /// Whether it allows `Suite::Hmac` beside the best suites.
    pub(crate) allows_weak_suite: bool,
    /// The folder for received files; without one, it refuses files.
    pub(crate) dest_path: Option<&'a Path>,
    /// The one network in its `dial_allow`; the default, if empty.
    pub(crate) dial_allow: &'a str,
    /// The peer that it dials.
    pub(crate) peer: Option<Location>,
    /// The size of its mailboxes; the default, if 0.
    pub(crate) mailbox_max: usize,
    /// The limit on its open descriptors; that of this process, if 0.
    pub(crate) descriptors_max: usize,
}

/// The command for the bytes that are allocated. Each other one is for the counts.
const ALLOCATED: &str = "allocated";

const WEAK_SUITE: &str = "ANTIPHON_VICTIM_WEAK_SUITE";
const DEST_PATH: &str = "ANTIPHON_VICTIM_DEST_PATH";
const DIAL_ALLOW: &str = "ANTIPHON_VICTIM_DIAL_ALLOW";
const MAILBOX_MAX: &str = "ANTIPHON_VICTIM_MAILBOX_MAX";

impl Victim {
    pub(crate) fn start(net: &Net, options: VictimOptions<'_>) -> Self {
        let dest_path = options.dest_path.map(|path| path.display().to_string()).unwrap_or_default();
        let weak_suite = if options.allows_weak_suite { "yes" } else { "" };
        let mailbox_max =
            if options.mailbox_max > 0 { options.mailbox_max.to_string() } else { String::new() };
        let variables = [
            (WEAK_SUITE, weak_suite),
            (DEST_PATH, &dest_path),
            (DIAL_ALLOW, options.dial_allow),
            (MAILBOX_MAX, &mailbox_max),
        ];
        let limited = format!("ulimit -n {}; exec \"$0\"", options.descriptors_max);
        let wrapper = ["sh", "-c", limited.as_str()];
        let wrapper: &[&str] = if options.descriptors_max > 0 { &wrapper } else { &[] };
        let (process, log) = Process::start_logged(wrapper, net, "victim", options.peer, &variables);
        let location = process.location();
        Self { process, location, log }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// The count with this field name.
    pub(crate) fn count(&mut self, field: &str) -> u64 {
        self.process.send_line("counts");
        let counts = self.process.line();
        number_of(&counts, field)
    }

    /// The count with this field name, in a group.
    pub(crate) fn count_within(&mut self, group: &str, field: &str) -> u64 {
        self.process.send_line("counts");
        let counts = self.process.line();
        let inner = counts.split_once(&format!(" {group}: ")).map(|(_, rest)| rest);
        number_of(inner.unwrap_or_default(), field)
    }

    /// Waits until a count is at least this high.
    #[track_caller]
    pub(crate) fn wait_for_count(&mut self, field: &str, at_least: u64) -> u64 {
        let what = format!("{field} of {at_least}");
        wait_for(&what, || Some(self.count(field)).filter(|count| *count >= at_least))
    }

    /// Waits until a count is at most this high.
    #[track_caller]
    pub(crate) fn wait_for_count_at_most(&mut self, field: &str, most: u64) {
        let what = format!("{field} of at most {most}");
        wait_for(&what, || (self.count(field) <= most).then_some(()));
    }

    /// Waits until a line of the log contains this text.
    #[track_caller]
    pub(crate) fn has_logged(&self, text: &str) {
        self.log.wait_for(text);
    }

    /// Checks that exactly one line of the log contains this text.
    #[track_caller]
    pub(crate) fn has_logged_once(&self, text: &str) {
        self.log.wait_for(text);
        let lines = self.log.lines(text);
        assert_eq!(lines.len(), 1, "{text:?} must be logged once: {:?}", self.log.lines(""));
    }

    /// [`peak_bytes`](Victim::peak_bytes) is the peak since this call.
    pub(crate) fn reset_peak(&self) {
        let refs = format!("/proc/{}/clear_refs", self.process.id());
        fs::write(refs, "5").expect("a parent may reset its child's peak");
    }

    /// The bytes that it has allocated. Freed memory that its allocator keeps does not count.
    pub(crate) fn allocated_bytes(&mut self) -> u64 {
        self.process.send_line(ALLOCATED);
        self.process.line().parse().expect("the reply is a number")
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.status("VmRSS:")
    }

    pub(crate) fn peak_bytes(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// The time for which its threads have run.
    pub(crate) fn cpu_time(&self) -> Duration {
        let path = format!("/proc/{}/schedstat", self.process.id());
        let all = fs::read_to_string(path).expect("the victim runs");
        let nanos = all.split(' ').next().and_then(|nanos| nanos.parse().ok());
        Duration::from_nanos(nanos.expect("the first field is a number"))
    }

    fn status(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.process.id());
        let status = fs::read_to_string(path).expect("the victim runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("Linux has this field");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("the value is a number of KiB");
        kib * 1024
    }
}

/// The number after a field name.
fn number_of(counts: &str, field: &str) -> u64 {
    let value = counts.split_once(&format!(" {field}: ")).map(|(_, rest)| rest);
    let digits = value.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
    let number = digits.and_then(|digits| digits.parse().ok());
    number.unwrap_or_else(|| panic!("no count {field} in {counts}"))
}

/// Runs the victim, in the child process.
pub(crate) fn run(role: &Role) {
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::WARN)
        .with_writer(std::io::stderr)
        .init();
    let mut node = Node::new(config(role)).expect("a node can start");
    let counts = node.spawn(|cx: &mut Cx<ReplyTo<String>>, event| {
        if let Event::Message(reply) = event {
            let counts = cx.loop_ref().transport::<NodeCore>().map(|core| format!("{:?}", core.counts()));
            cx.reply(reply, counts.unwrap_or_default());
        }
        receive()
    });
    node.spawn(|cx: &mut Cx<Echo>, event| {
        match event {
            Event::Start => cx.register("echo")?,
            Event::Message(Echo(number, reply)) => cx.reply(reply, number),
            _ => {}
        }
        receive()
    });
    let mut total = 0;
    node.spawn(move |cx: &mut Cx<Tally>, event| {
        match event {
            Event::Start => cx.register("tally")?,
            Event::Message(Tally::Number(number)) if number == total => total += 1,
            Event::Message(Tally::Number(number)) => tracing::error!(number, total, "out of order"),
            Event::Message(Tally::Total(reply)) => cx.reply(reply, total),
            _ => {}
        }
        receive()
    });
    node.spawn(|cx: &mut Cx<Bytes>, event| {
        if let Event::Start = event {
            cx.register("sleeper")?;
        }
        antiphon_sched::sleep(PATIENCE)
    });
    for number in 0..SLEEPERS {
        node.spawn(move |cx: &mut Cx<Bytes>, event| {
            if let Event::Start = event {
                cx.register(&format!("sleeper-{number}"))?;
            }
            suspend()
        });
    }
    for number in 0..HEAVY_ACTORS {
        node.spawn(move |cx: &mut Cx<Bytes>, event| match event {
            Event::Start => {
                cx.register(&format!("heavy-{number}"))?;
                receive()
            }
            _ => exit(Bytes::from(vec![0; 1 << 20])),
        });
    }
    node.spawn(|cx: &mut Cx<AskThere>, event| {
        match event {
            Event::Start => cx.register("asker")?,
            Event::Message(AskThere(to, reply)) => ask_there(cx, to, reply),
            _ => {}
        }
        receive()
    });
    node.spawn(|cx: &mut Cx<WatchThere>, event| {
        match event {
            Event::Start => cx.register("watcher")?,
            Event::Message(WatchThere(to, reply)) => watch_there(cx, to, reply),
            _ => {}
        }
        receive()
    });
    // It takes no messages until it is resumed, and exits at the first tree without nodes with what has reached it.
    let mut reached = Vec::new();
    node.spawn(move |cx: &mut Cx<Tree>, event| {
        match event {
            Event::Start => {
                cx.register("patient")?;
                return suspend();
            }
            Event::Message(Tree::Nodes(nodes)) if nodes.is_empty() => return exit(reached.join(", ")),
            Event::Message(tree) => reached.push(format!("{tree:?}")),
            Event::Resumed(value) => reached.push(format!("resumed {:?}", value.get::<Tree>())),
            Event::Thrown(thrown) => reached.push(format!("thrown {:?}", thrown.take().get::<Tree>())),
            _ => {}
        }
        receive()
    });
    node.channel::<Bytes>(CROWD).expect("the name is free");
    let asleep = node.channel::<String>(ASLEEP).expect("the name is free");
    for _ in 0..SLEEPERS {
        node.spawn(move |cx: &mut Cx<String>, _| {
            cx.subscribe(asleep, cx.addr());
            suspend()
        });
    }
    node.rci(CALLED, |_: u64| |_: &mut Cx<u64>, _| receive()).expect("the name is free");
    process::send_line(node.location());
    let handle = node.handle();
    std::thread::spawn(move || {
        for command in process::commands() {
            if command == ALLOCATED {
                process::send_line(counting::live());
            } else {
                process::send_line(handle.ask(counts, PATIENCE, |reply| reply).expect("the node runs"));
            }
        }
        handle.stop();
    });
    node.serve().expect("the node runs");
}

/// Starts an actor that asks another one, and replies with what came of it.
fn ask_there(cx: &mut Cx<AskThere>, to: Addr<Question>, reply: ReplyTo<String>) {
    let mut reply = Some(reply);
    cx.spawn(move |cx: &mut Cx<String>, event| match event {
        Event::Start => {
            cx.ask(to, PATIENCE, Question, |tree| format!("{tree:?}"));
            receive()
        }
        Event::Message(result) => {
            if let Some(reply) = reply.take() {
                cx.reply(reply, result);
            }
            stop()
        }
        _ => receive(),
    });
}

/// Starts an actor that monitors another one, and replies with how its exit value reads.
fn watch_there(cx: &mut Cx<WatchThere>, actor: Addr<Question>, reply: ReplyTo<String>) {
    let mut reply = Some(reply);
    cx.spawn(move |cx: &mut Cx<()>, event| match event {
        Event::Start => {
            cx.monitor(actor);
            receive()
        }
        Event::Down(down) => {
            let value = match down.reason {
                ExitReason::Done(value) => format!("{:?}", value.get::<Tree>()),
                other => format!("no value: {other}"),
            };
            if let Some(reply) = reply.take() {
                cx.reply(reply, value);
            }
            stop()
        }
        _ => receive(),
    });
}

fn config(role: &Role) -> Config {
    let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
    let suites = || [Suite::aead().to_vec(), vec![Suite::Hmac]].concat();
    let only = |network: String| vec![network.parse().expect("it is a network")];
    let size = |text: String| text.parse().expect("the size of mailboxes is a number");
    let mailbox_max = variable(MAILBOX_MAX).map_or(LoopConfig::default().mailbox_max, size);
    Config {
        scheduler: LoopConfig { mailbox_max, ..LoopConfig::default() },
        suites: variable(WEAK_SUITE).map(|_| suites()),
        dest_path: variable(DEST_PATH).map(Into::into),
        dial_allow: variable(DIAL_ALLOW).map(only),
        ..role.config()
    }
}
