//! Secrets and certificates that are replaced while nodes run: by a handle, and by SIGHUP.

mod common;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, channel};

use antiphon_dist::{
    Config, DialError, FileFault, NetCx, NetHandle, Node, NodeError, PeerError, PeerStatus, Refusal,
    ReloadError, Secret, SecretError, Status, Suite, TlsFault,
};
use antiphon_sched::{Addr, AskError, Cx, Event, ReplyTo, millis, receive, secs};
use common::certs::{Certs, set_mode};
use common::harness::{self, tests};
use common::process::{self, Process, Role};
use common::{Net, PATIENCE, TestNode, recv, recv_until, report, wait_for};
#[cfg(unix)]
use rustix::process::Signal;

fn main() -> ExitCode {
    harness::run(
        run_member,
        tests![
            secrets_replaced_by_handle_lose_no_message,
            certificates_replaced_by_handle_lose_no_message,
            removed_secret_is_refused_after_timeout,
            removed_certificate_is_refused_after_timeout,
            configuration_that_cannot_be_reloaded_changes_nothing,
            secret_file_with_faults_is_refused,
            peer_accepted_again_is_reported_without_refusal,
            #[cfg(unix)]
            file_that_blocks_holds_up_no_actor,
            #[cfg(unix)]
            credentials_replaced_by_sighup_lose_no_message,
        ],
    )
}

const NAMES: [&str; 3] = ["a", "b", "c"];

/// The variable with the folder of a member's files.
const FOLDER: &str = "ANTIPHON_TEST_FOLDER";

/// The secrets of the steps of a change: the own one, and the accepted ones.
fn secret_steps(old: &Secret, new: &Secret) -> [Config; 3] {
    let config = |(key_id, own): (u32, &Secret), accepted: Option<(u32, &Secret)>| Config {
        secret: Some(own.clone()),
        key_id,
        other_secrets: accepted.into_iter().map(|(id, secret)| (id, secret.clone())).collect(),
        ..Config::default()
    };
    [config((1, old), Some((2, new))), config((2, new), Some((1, old))), config((2, new), None)]
}

fn new_secret() -> Secret {
    antiphon_dist::secret::generate().expect("the system has random numbers")
}

/// Checks that what arrives at an actor are the numbers from 0 on.
struct Sequence(u64);

impl Sequence {
    fn check(&mut self, number: u64) {
        assert_eq!(number, self.0, "each number arrives once, in order");
        self.0 += 1;
    }
}

/// Sends numbers from each node to each other one. The results report each number that has arrived in order.
fn start_flows(nodes: &[TestNode]) -> Vec<Receiver<u64>> {
    let mut flows = Vec::new();
    for (from, here) in nodes.iter().enumerate() {
        for (to, there) in nodes.iter().enumerate().filter(|(to, _)| *to != from) {
            let name: &'static str = NAMES_OF_FLOWS[from][to];
            let (sender, numbers) = channel();
            let mut sequence = Sequence(0);
            there.spawn(move |cx, event| {
                match event {
                    Event::Start => cx.register(name)?,
                    Event::Message(number) => {
                        sequence.check(number);
                        report(&sender, number);
                    }
                    _ => {}
                }
                receive()
            });
            let to: Addr<u64> = here.find(name);
            let mut next = 0;
            here.spawn(move |cx: &mut Cx<()>, event| {
                if let Event::Start | Event::Message(()) = event {
                    cx.send(to, next)?;
                    next += 1;
                    cx.after(millis(1), ())?;
                }
                receive()
            });
            flows.push(numbers);
        }
    }
    flows
}

const NAMES_OF_FLOWS: [[&str; 3]; 3] = [["", "ab", "ac"], ["ba", "", "bc"], ["ca", "cb", ""]];

/// Waits until each flow has delivered a number that was sent after this call.
#[track_caller]
fn wait_for_all(flows: &[Receiver<u64>]) {
    for flow in flows {
        let arrived = flow.try_iter().last().unwrap_or_default();
        // At most one number a millisecond is sent, so few are on their way.
        recv_until(flow, |number| *number > arrived + 20);
    }
}

/// Replaces the credentials of three nodes in steps, one node after another, while messages flow. The first step is that of
/// the start. No session ends.
#[track_caller]
fn replace_in_steps(net: &Net, first: &Config, steps: &[Config; 3]) -> Vec<TestNode> {
    let named = |name: &str, step: &Config| Config {
        name: Some(name.into()),
        udp_port: Some(net.udp_port),
        peer_timeout: secs(2),
        ..step.clone()
    };
    let nodes: Vec<TestNode> = NAMES.iter().map(|name| TestNode::start(named(name, first))).collect();
    nodes.iter().for_each(|node| node.wait_for_peers(2));
    let statuses: Vec<_> = nodes.iter().map(TestNode::statuses).collect();
    let flows = start_flows(&nodes);
    for step in steps {
        for (node, name) in nodes.iter().zip(NAMES) {
            node.handle.reload(&named(name, step)).expect("the credentials are valid");
            wait_for_all(&flows);
        }
    }
    // Longer than `peer_timeout`, after which a connection with the credentials of before is closed.
    std::thread::sleep(millis(2500));
    wait_for_all(&flows);
    for statuses in statuses {
        let others: Vec<_> = statuses.try_iter().filter(|(_, status)| *status != Status::Online).collect();
        assert_eq!(others, [], "no session ended, and no peer was silent");
    }
    nodes
}

fn secrets_replaced_by_handle_lose_no_message() {
    let (net, new) = (Net::new(), new_secret());
    let steps = secret_steps(&net.secret, &new);
    let first = Config { secret: Some(net.secret.clone()), key_id: 1, ..Config::default() };
    let nodes = replace_in_steps(&net, &first, &steps);
    let at = nodes[0].location;
    let start = |config: &Config| {
        TestNode::start(Config { discover_peers: false, udp_port: Some(net.udp_port), ..config.clone() })
    };
    assert_eq!(start(&first).connect(at, PATIENCE), Err(PeerError::Refused(Refusal::UnknownKey)));
    assert_eq!(start(&steps[2]).connect(at, PATIENCE), Ok(vec![at]));
}

fn certificates_replaced_by_handle_lose_no_message() {
    let (net, certs) = (Net::new(), Certs::new());
    let (old, new) = (certs.node("old"), certs.node("new"));
    let config = |own: &PathBuf, pinned: &[&PathBuf]| Config {
        certfile: Some(own.clone()),
        pinned: pinned.iter().map(|file| (*file).clone()).collect(),
        ..Config::default()
    };
    let first = config(&old.both, &[]);
    let steps = [
        config(&old.both, &[&old.cert, &new.cert]),
        config(&new.both, &[&old.cert, &new.cert]),
        config(&new.both, &[]),
    ];
    let nodes = replace_in_steps(&net, &first, &steps);
    let at = nodes[0].location;
    let start = |config: &Config| {
        TestNode::start(Config { discover_peers: false, udp_port: Some(net.udp_port), ..config.clone() })
    };
    assert_eq!(
        start(&first).connect(at, PATIENCE),
        Err(PeerError::Refused(Refusal::Tls(TlsFault::Untrusted)))
    );
    assert_eq!(start(&steps[2]).connect(at, PATIENCE), Ok(vec![at]));
}

/// Reports each status of the peers of a node.
fn full_statuses(node: &TestNode) -> Receiver<PeerStatus> {
    let (sender, statuses) = channel();
    node.spawn(move |cx: &mut Cx<PeerStatus>, event| {
        match event {
            Event::Start => drop(cx.peer_status(|status| status)?),
            Event::Message(status) => report(&sender, status),
            _ => {}
        }
        receive()
    });
    statuses
}

/// The credentials of one of two connected nodes are replaced, and the other node does not accept the new ones. Their session
/// ends, and what waits for the other node fails, with the reason.
#[track_caller]
fn replace_on_one_side(config: Config, other: Config, reason: Refusal) {
    let there =
        TestNode::start(Config { name: Some("there".into()), peer_timeout: secs(1), ..config.clone() });
    let peers = vec![there.location.into()];
    let here =
        TestNode::start(Config { name: Some("here".into()), peers, peer_timeout: secs(1), ..config.clone() });
    let _requests = there.listener::<ReplyTo<u32>>("requests");
    let addr: Addr<ReplyTo<u32>> = here.find("requests");
    let statuses = full_statuses(&here);
    assert_eq!(recv(&statuses).refusal, None);
    here.handle.reload(&Config { peer_timeout: secs(1), ..other }).expect("the credentials are valid");
    let refusal = Some(DialError::Refused(reason));
    let seen = recv_until(&statuses, |status| status.status == Status::Offline);
    assert_eq!(seen.last().and_then(|status| status.refusal), refusal, "{seen:?}");
    let refused = here.handle.ask(addr, PATIENCE, |reply| reply);
    let Err(AskError::NodeRefused(text)) = refused else { panic!("{refused:?}") };
    assert_eq!(*text, *DialError::Refused(reason).to_string());
    // The credentials of before work again.
    here.handle.reload(&Config { peer_timeout: secs(1), ..config }).expect("the credentials are valid");
    let seen = recv_until(&statuses, |status| status.status == Status::Online && status.refusal.is_none());
    assert_eq!(seen.last().map(|status| &*status.name), Some("there"));
}

fn removed_secret_is_refused_after_timeout() {
    let net = Net::new();
    let config = Config { key_id: 1, ..net.static_config("", &[]) };
    let other = Config { secret: Some(new_secret()), key_id: 2, ..config.clone() };
    replace_on_one_side(config, other, Refusal::UnknownKey);
}

fn removed_certificate_is_refused_after_timeout() {
    let (net, certs) = (Net::new(), Certs::new());
    let (here, there) = (certs.node("here"), certs.node("there"));
    let both = vec![here.cert.clone(), there.cert];
    let config = Config {
        secret: None,
        certfile: Some(here.both.clone()),
        pinned: both.clone(),
        ..net.static_config("", &[])
    };
    // This node goes on accepting the peer, which refuses its new certificate.
    let other = Config { certfile: Some(certs.node("other").both), ..config.clone() };
    replace_on_one_side(config, other, Refusal::Tls(TlsFault::Rejected));
}

fn configuration_that_cannot_be_reloaded_changes_nothing() {
    let (net, certs) = (Net::new(), Certs::new());
    let (first, second) = net.pair();
    let config = net.static_config("first", &[]);
    let reload = |config: Config| first.handle.reload(&config).expect_err("the configuration is refused");
    let own = certs.node("own").both;
    // With named suites, the secret alone decides.
    let suites = Some(vec![Suite::Aes128Gcm]);
    let named = TestNode::start(Config { suites: suites.clone(), ..config.clone() });
    let without = Config { secret: None, suites, ..config.clone() };
    assert!(matches!(named.handle.reload(&without), Err(ReloadError::Protection)));
    for other in
        [Config { secret: None, ..config.clone() }, Config { certfile: Some(own.clone()), ..config.clone() }]
    {
        assert!(matches!(reload(other), ReloadError::Protection));
    }
    let absent = Config { certfile: Some("absent.pem".into()), ..config.clone() };
    assert!(matches!(reload(absent), ReloadError::Config(NodeError::Tls(_))));
    let same = Config { other_secrets: vec![(config.key_id, "other".into())], ..config.clone() };
    assert!(matches!(reload(same), ReloadError::Config(NodeError::SameKeyId { .. })));
    let bare = antiphon_sched::Loop::new(antiphon_sched::LoopConfig::default()).expect("a loop can start");
    assert!(matches!(bare.handle().reload(&config), Err(ReloadError::Loop(AskError::NoLoop))));
    let messages = first.listener::<String>("listener");
    let addr: Addr<String> = second.find("listener");
    assert_eq!(second.deliver(addr, "still connected".into()), Ok(()));
    assert_eq!(recv(&messages), "still connected");
}

fn secret_file_with_faults_is_refused() {
    let certs = Certs::new();
    let config = |file: &Path| Config {
        secret_file: Some(file.to_owned()),
        discover_peers: false,
        ..Config::default()
    };
    let fault = |config: Config| match Node::new(config).err() {
        Some(NodeError::SecretFile(SecretError::File { fault, .. })) => fault,
        other => panic!("{other:?}"),
    };
    let of = |text: &[u8]| fault(config(&certs.write("faulty", text)));
    assert!(matches!(of(b"# a comment\n\n"), FileFault::Empty));
    assert!(matches!(of(b"1 one\n\ntwo"), FileFault::BadLine { line: 3 }));
    assert!(matches!(of(b"x one"), FileFault::BadLine { line: 1 }));
    assert!(matches!(of(b"1 \xff"), FileFault::NotText));
    assert!(matches!(of(b"1 one # a comment"), FileFault::BadLine { line: 1 }));
    assert!(matches!(of(b"1 one\r2 two"), FileFault::BadLine { line: 1 }));
    let whole = new_secret().reveal().to_owned();
    let half = &whole[..whole.len() - 1];
    assert!(matches!(of(format!("1 {half}").as_bytes()), FileFault::Damaged));
    let alone = antiphon_dist::secret::from_file(certs.write("half", half)).expect_err("it is damaged");
    assert!(matches!(alone, SecretError::File { fault: FileFault::Damaged, .. }));
    assert!(matches!(fault(config(&certs.path().join("absent"))), FileFault::Unreadable(_)));
    let file = certs.write("secrets", "1 one\n2 two\n");
    let beside = Config { secret: Some("three".into()), ..config(&file) };
    assert!(matches!(Node::new(beside).err(), Some(NodeError::TwoSecretSources)));
    assert!(Node::new(config(&file)).is_ok());
    set_mode(&file, 0o644);
    #[cfg(unix)]
    assert!(matches!(fault(config(&file)), FileFault::Exposed { mode: 0o644 }));
    let same = certs.write("same", "1 one\n1 two\n");
    assert!(matches!(Node::new(config(&same)).err(), Some(NodeError::SameKeyId { id: 1 })));
}

/// The child process: it sends numbers to the other members, which check them, and reads its files again at SIGHUP.
fn run_member(role: &Role) {
    let folder = PathBuf::from(std::env::var(FOLDER).expect("the test names the folder"));
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::WARN).init();
    let mut node = Node::new(Config {
        name: Some(role.name.clone()),
        udp_port: Some(role.net.udp_port),
        secret_file: Some(folder.join("secrets")),
        certfile: Some(folder.join("own.pem")),
        pinned: vec![folder.join("pinned.pem")],
        reload_on_hangup: true,
        peer_timeout: secs(2),
        ..Config::default()
    })
    .expect("a node can start");
    process::send_line(node.location());
    let name = role.name.clone();
    let mut sequences = [const { Sequence(0) }; NAMES.len()];
    node.spawn(move |cx: &mut Cx<(usize, u64)>, event| {
        match event {
            Event::Start => cx.register(&name)?,
            Event::Message((from, number)) => {
                sequences[from].check(number);
                if number % 20 == 0 {
                    process::send_line(format_args!("{number} from {}", NAMES[from]));
                }
            }
            _ => {}
        }
        receive()
    });
    node.spawn(|cx: &mut Cx<PeerStatus>, event| {
        match event {
            Event::Start => drop(cx.peer_status(|status| status)?),
            Event::Message(status) if status.status != Status::Online => {
                process::send_line(format_args!("{} is {:?}", status.name, status.status));
            }
            _ => {}
        }
        receive()
    });
    let me = NAMES.iter().position(|name| *name == role.name).expect("the role is a member");
    for other in NAMES.into_iter().filter(|other| *other != role.name) {
        node.spawn(flow(me, other));
    }
    let ran = node.run_with(|handle| {
        process::commands().iter().for_each(drop);
        handle.stop();
    });
    ran.expect("the node runs");
}

enum FlowEvent {
    Found(Addr<(usize, u64)>),
    Next,
}

/// Sends numbers to another member.
fn flow(
    me: usize,
    other: &'static str,
) -> impl FnMut(&mut Cx<'_, FlowEvent>, Event<FlowEvent>) -> antiphon_sched::Step<FlowEvent> {
    let (mut to, mut next) = (None, 0);
    move |cx, event| {
        match event {
            Event::Start => cx.locate(other, PATIENCE, |found| FlowEvent::Found(found.expect("it is found"))),
            Event::Message(FlowEvent::Found(addr)) => {
                to = Some(addr);
                cx.after(millis(1), FlowEvent::Next)?;
            }
            Event::Message(FlowEvent::Next) => {
                if let Some(to) = to {
                    cx.send(to, (me, next))?;
                    next += 1;
                }
                cx.after(millis(1), FlowEvent::Next)?;
            }
            _ => {}
        }
        receive()
    }
}

#[cfg(unix)]
fn credentials_replaced_by_sighup_lose_no_message() {
    let (net, certs, new) = (Net::new(), Certs::new(), new_secret());
    let [old_pem, new_pem] = ["old", "new"].map(|name| certs.node(name));
    let [old_cert, new_cert] =
        [&old_pem, &new_pem].map(|files| std::fs::read_to_string(&files.cert).expect("the file exists"));
    let both = format!("{old_cert}{new_cert}");
    let read = |file| std::fs::read_to_string(file).expect("the file exists");
    let (old_secret, new_secret) = (net.secret.reveal(), new.reveal());
    let steps = [
        (format!("1 {old_secret}\n"), read(&old_pem.both), old_cert.clone()),
        (format!("1 {old_secret}\n2 {new_secret}\n"), read(&old_pem.both), both.clone()),
        (format!("2 {new_secret}\n1 {old_secret}\n"), read(&new_pem.both), both),
        (format!("2 {new_secret}\n"), read(&new_pem.both), new_cert),
    ];
    let write = |name: &str, (secrets, own, pinned): &(String, String, String)| {
        certs.write(&format!("{name}/secrets"), secrets);
        certs.write(&format!("{name}/own.pem"), own);
        certs.write(&format!("{name}/pinned.pem"), pinned);
    };
    let mut at = Vec::new();
    let members = NAMES.map(|name| {
        let folder = certs.path().join(name);
        std::fs::create_dir(&folder).expect("the folder can be made");
        write(name, &steps[0]);
        let folder = folder.to_str().expect("the path is valid UTF-8").to_owned();
        let (member, log) = Process::start_logged(&[], &net, name, None, &[(FOLDER, &folder)]);
        at.push(member.location());
        (member, log)
    });
    // Each member receives from both others. Numbers that are out of order end a member, and a member reports each status
    // that is not `Online`.
    let wait_for_all = || {
        for (member, _) in &members {
            let sender =
                |line: String| line.split_once(" from ").expect("no peer is lost or silent").1.to_owned();
            member.lines().into_iter().map(sender).for_each(drop);
            let mut senders = std::collections::BTreeSet::new();
            while senders.len() < 2 {
                senders.insert(sender(member.line()));
            }
        }
    };
    wait_for_all();
    for step in &steps[1..] {
        for (name, (member, _)) in NAMES.into_iter().zip(&members) {
            write(name, step);
            member.signal(Signal::HUP);
            wait_for_all();
        }
    }
    // A file that cannot be used changes nothing.
    certs.write("a/secrets", "no secret");
    members[0].0.signal(Signal::HUP);
    members[0].1.wait_for("at SIGHUP the node keeps its secrets and certificates");
    // Longer than `peer_timeout`.
    std::thread::sleep(millis(2500));
    wait_for_all();
    let outsider = |key_id, secret: &Secret, files: &common::certs::Files| {
        let secret = Some(secret.clone());
        TestNode::start(Config {
            secret,
            key_id,
            certfile: Some(files.both.clone()),
            ..net.static_config("d", &[])
        })
    };
    for at in at {
        assert_eq!(outsider(2, &new, &new_pem).connect(at, PATIENCE), Ok(vec![at]));
        assert_eq!(
            outsider(1, &net.secret, &new_pem).connect(at, PATIENCE),
            Err(PeerError::Refused(Refusal::UnknownKey))
        );
    }
}

fn peer_accepted_again_is_reported_without_refusal() {
    let net = Net::new();
    let there = TestNode::start(Config { key_id: 1, ..net.static_config("there", &[]) });
    let config = Config { key_id: 1, peer_timeout: secs(2), ..net.static_config("here", &[there.location]) };
    let here = TestNode::start(config.clone());
    let statuses = full_statuses(&here);
    assert_eq!(recv(&statuses).refusal, None);
    let new = Config { secret: Some(new_secret()), key_id: 2, ..config };
    here.handle.reload(&new).expect("the credentials are valid");
    // The connection is closed after the timeout. The peer accepts the new secret before the session is lost.
    let seen = recv_until(&statuses, |status| status.refusal.is_some());
    assert_eq!(seen.last().map(|status| status.status), Some(Status::Online), "{seen:?}");
    there.handle.reload(&new).expect("the credentials are valid");
    let seen = recv_until(&statuses, |status| status.refusal.is_none());
    assert!(seen.iter().all(|status| status.status != Status::Offline), "{seen:?}");
}

#[cfg(unix)]
fn file_that_blocks_holds_up_no_actor() {
    let (certs, secret) = (Certs::new(), new_secret());
    let folder = certs.path().join("a");
    std::fs::create_dir(&folder).expect("the folder can be made");
    let own = certs.node("own");
    let read = |file| std::fs::read_to_string(file).expect("the file exists");
    certs.write("a/secrets", format!("1 {}", secret.reveal()));
    certs.write("a/own.pem", read(&own.both));
    certs.write("a/pinned.pem", read(&own.cert));
    let net = Net::new();
    let text = folder.to_str().expect("the path is valid UTF-8").to_owned();
    let (mut member, log) = Process::start_logged(&[], &net, "a", None, &[(FOLDER, &text)]);
    member.location();
    let secrets = folder.join("secrets");
    std::fs::remove_file(&secrets).expect("the file exists");
    let made = std::process::Command::new("mkfifo").arg(&secrets).status();
    assert!(made.expect("the system has `mkfifo`").success());
    set_mode(&secrets, 0o600);
    // No writer opens the other end, so the read never returns. A further signal shows that it has begun.
    wait_for("the warning", || {
        member.signal(Signal::HUP);
        (!log.lines("are still being read").is_empty()).then_some(())
    });
    member.signal(Signal::TERM);
    assert_eq!(member.wait().code(), Some(0), "the node stops in order");
}
