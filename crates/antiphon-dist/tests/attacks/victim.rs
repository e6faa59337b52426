//! The node under attack: a process of its own, whose log, counts and memory the test can see.

use std::fs;
use std::path::Path;

use antiphon_dist::node::NodeCore;
use antiphon_dist::{Config, Location, NetCx, Node, Suite};
use antiphon_sched::{Cx, Event, ReplyTo, receive};
use serde::{Deserialize, Serialize};

use crate::common::process::{self, Process, Role};
use crate::common::{Log, Net, PATIENCE, wait_for};

/// What a peer asks, again and again; the answer is the same number.
#[derive(Serialize, Deserialize)]
pub(crate) struct Echo(pub(crate) u64, pub(crate) ReplyTo<u64>);
antiphon_sched::wire!(Echo, "attack.echo/1");

/// Numbers that must come in order, each once; and how many have come.
#[derive(Serialize, Deserialize)]
pub(crate) enum Tally {
    Number(u64),
    Total(ReplyTo<u64>),
}
antiphon_sched::wire!(Tally, "attack.tally/1");

/// A function of the victim's, which starts an actor that lives on.
pub(crate) const CALLED: &str = "called";

/// The victim, as the test sees it.
pub(crate) struct Victim {
    process: Process,
    pub(crate) location: Location,
    pub(crate) log: Log,
}

/// What is particular about a victim.
#[derive(Clone, Copy, Default)]
pub(crate) struct Traits<'a> {
    /// It allows a weaker suite beside the best.
    pub(crate) is_lenient: bool,
    /// It takes files.
    pub(crate) dest_path: Option<&'a Path>,
    /// It dials only there what others tell of.
    pub(crate) dials_only: &'a str,
    /// Whom it dials.
    pub(crate) peer: Option<Location>,
}

const LENIENT: &str = "ANTIPHON_VICTIM_LENIENT";
const DEST_PATH: &str = "ANTIPHON_VICTIM_DEST_PATH";
const DIALS_ONLY: &str = "ANTIPHON_VICTIM_DIALS_ONLY";

impl Victim {
    pub(crate) fn start(net: &Net, traits: Traits<'_>) -> Self {
        let dest_path = traits.dest_path.map(|path| path.display().to_string()).unwrap_or_default();
        let lenient = if traits.is_lenient { "yes" } else { "" };
        let variables = [(LENIENT, lenient), (DEST_PATH, &dest_path), (DIALS_ONLY, traits.dials_only)];
        let (process, log) = Process::start_logged(net, "victim", traits.peer, &variables);
        let location = process.location();
        Self { process, location, log }
    }

    /// One of its counts, by the name of its field.
    pub(crate) fn count(&mut self, field: &str) -> u64 {
        self.process.say("counts");
        let counts = self.process.line();
        number_of(&counts, field)
    }

    /// One of a group of its counts.
    pub(crate) fn count_within(&mut self, group: &str, field: &str) -> u64 {
        self.process.say("counts");
        let counts = self.process.line();
        let inner = counts.split_once(&format!(" {group}: ")).map(|(_, rest)| rest);
        number_of(inner.unwrap_or_default(), field)
    }

    /// Waits until a count is so high.
    #[track_caller]
    pub(crate) fn wait_for_count(&mut self, field: &str, at_least: u64) -> u64 {
        let what = format!("{field} of {at_least}");
        wait_for(&what, || Some(self.count(field)).filter(|count| *count >= at_least))
    }

    /// Looks that a line with these words is in its log, once.
    #[track_caller]
    pub(crate) fn has_logged_once(&self, words: &str) {
        self.log.wait_for(words);
        let lines = self.log.lines(words);
        assert_eq!(lines.len(), 1, "{words:?} is to be logged once: {:?}", self.log.lines(""));
    }

    /// From now on, [`peak_bytes`](Victim::peak_bytes) tells what was used since.
    pub(crate) fn reset_peak(&self) {
        let refs = format!("/proc/{}/clear_refs", self.process.number());
        fs::write(refs, "5").expect("a parent may reset its child's peak");
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.status("VmRSS:")
    }

    pub(crate) fn peak_bytes(&self) -> u64 {
        self.status("VmHWM:")
    }

    fn status(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.process.number());
        let status = fs::read_to_string(path).expect("the victim lives");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("Linux tells it");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
        kib * 1024
    }
}

/// The number after the name of a field.
fn number_of(counts: &str, field: &str) -> u64 {
    let value = counts.split_once(&format!(" {field}: ")).map(|(_, rest)| rest);
    let digits = value.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
    let number = digits.and_then(|digits| digits.parse().ok());
    number.unwrap_or_else(|| panic!("there is no count {field} in {counts}"))
}

/// The victim's own part.
pub(crate) fn play(role: &Role) {
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
    node.spawn(|cx: &mut Cx<antiphon_sched::Bytes>, event| {
        if let Event::Start = event {
            cx.register("sleeper")?;
        }
        antiphon_sched::sleep(PATIENCE)
    });
    node.rci(CALLED, |_: u64| |_: &mut Cx<u64>, _| receive()).expect("it is the first of that name");
    process::say(node.location());
    let handle = node.handle();
    std::thread::spawn(move || {
        for _command in process::commands() {
            process::say(handle.ask(counts, PATIENCE, |reply| reply).expect("the node runs"));
        }
        handle.stop();
    });
    node.serve().expect("the node runs");
}

fn config(role: &Role) -> Config {
    let told = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
    let lenient = || [Suite::aead().to_vec(), vec![Suite::Hmac]].concat();
    let only = |network: String| {
        let (ip, bits) = network.split_once('/').expect("a network");
        vec![(ip.parse().expect("an address"), bits.parse().expect("a number"))]
    };
    Config {
        suites: told(LENIENT).map(|_| lenient()),
        dest_path: told(DEST_PATH).map(Into::into),
        dial_allow: told(DIALS_ONLY).map(only),
        ..role.config()
    }
}
