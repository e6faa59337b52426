//! A member that offers files to places beyond the folder for them, and sends more than it was asked for.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use antiphon_dist::{Config, FileRefused, FileStat, Limits};
use antiphon_sched::{ActorId, Addr, Bytes, Cx, Event, NodeId, ReplyTo, receive};
use antiphon_wire::frame::NameSpace;
use serde::{Deserialize, Serialize};

use crate::bounds;
use crate::common::{Net, PATIENCE, TestNode, heard, tell_test};
use crate::member::Member;
use crate::siege::Siege;
use crate::victim::Traits;

/// What a keeper of files takes, as `src/files/messages.rs` has it: whoever speaks the protocol can send it.
#[derive(Serialize, Deserialize)]
enum ToFileService {
    HelloLimits(HelloLimits, ReplyTo<Answer>),
    Delete(Vec<String>, ReplyTo<Deleted>),
}
antiphon_sched::wire!(ToFileService, "antiphon.files.keeper/1");

#[derive(Serialize, Deserialize)]
struct HelloLimits {
    path: Vec<String>,
    stat: FileStat,
    overwrite: bool,
    sender: Addr<ToSender>,
}

#[derive(Serialize, Deserialize, Debug)]
enum Answer {
    AlreadyThere,
    Different(FileStat),
    Refused(FileRefused),
    Send { receiver: Addr<ToReceiver>, have: u64, hash: Bytes, window: u64 },
}
antiphon_sched::wire!(Answer, "antiphon.files.answer/1");

#[derive(Serialize, Deserialize, Debug)]
struct Deleted(Result<bool, FileRefused>);
antiphon_sched::wire!(Deleted, "antiphon.files.deleted/1");

#[derive(Serialize, Deserialize)]
enum ToReceiver {
    Begin(u64),
    Chunk(Bytes),
    End(Bytes),
    Abort(bool),
}
antiphon_sched::wire!(ToReceiver, "antiphon.files.receiver/1", compact);

#[derive(Serialize, Deserialize, Debug)]
enum ToSender {
    Written(u64),
    Stored,
    Different(FileStat),
    Failed(FileRefused),
}
antiphon_sched::wire!(ToSender, "antiphon.files.sender/1", compact);

/// A victim that takes files, and a member on 127.0.0.2 that has found its keeper.
struct Attack {
    siege: Siege,
    attacker: TestNode,
    keeper: Addr<ToFileService>,
}

impl Attack {
    fn begin(dest: &Path) -> Self {
        let traits = Traits { dest_path: Some(dest), ..Traits::default() };
        let siege = Siege::of(Net { udp_port: 0, ..Net::new() }, traits);
        let mut member = Member::join(&siege.net, &siege.victim);
        let (key, _) = member.find(NameSpace::Service, "files");
        let config = siege.net.quiet("attacker", &[siege.victim.location]);
        let attacker = TestNode::start(Config { ip: [127, 0, 0, 2].into(), ..config });
        attacker.wait_for_peers(1);
        let victim = NodeId::from_bits(member.session.peer().0);
        let keeper = Addr::of(ActorId::new(victim, antiphon_sched::Key::from_bits(key.0)));
        Self { siege, attacker, keeper }
    }

    fn offer(&self, path: Vec<String>, size: u64, sender: Addr<ToSender>) -> Answer {
        let stat = FileStat { size, seconds: 0, nanos: 0, permissions: 0o7777 };
        let offer = HelloLimits { path, stat, overwrite: true, sender };
        let answer =
            self.attacker.handle.ask(self.keeper, PATIENCE, |reply| ToFileService::HelloLimits(offer, reply));
        answer.expect("the keeper answers")
    }

    fn delete(&self, path: Vec<String>) -> Deleted {
        let answer =
            self.attacker.handle.ask(self.keeper, PATIENCE, |reply| ToFileService::Delete(path, reply));
        answer.expect("the keeper answers")
    }
}

/// Paths that lead out of a folder, or into what is not the sender's, or that no file has.
fn tricks() -> Vec<Vec<String>> {
    let long = "x".repeat(256);
    let deep = vec!["x"; 33];
    let mut tricks: Vec<&[&str]> = vec![
        &[],
        &[""],
        &["."],
        &[".."],
        &["..", "outside", "kept"],
        &["a", "..", "..", "outside", "kept"],
        &["../outside/kept"],
        &["a/b"],
        &["/"],
        &["/etc/passwd"],
        &["a", "", "b"],
        &["a\0b"],
        &["link", "kept"],
        &["link", "new"],
        &["link"],
        &["file", "beneath"],
        &["socket"],
        &[".antiphon"],
        &[".antiphon", "partial", "x"],
        &[".ANTIPHON", "record"],
    ];
    let long = [long.as_str()];
    tricks.extend([long.as_slice(), deep.as_slice()]);
    tricks.iter().map(|names| names.iter().map(|name| (*name).to_owned()).collect()).collect()
}

#[test]
fn no_path_of_an_offer_or_a_deletion_leads_out_of_the_folder() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (dest, outside) = (folder.path().join("dest"), folder.path().join("outside"));
    for path in [&dest, &outside] {
        fs::create_dir(path).expect("the folder is ours");
    }
    fs::write(outside.join("kept"), "kept").expect("the folder is ours");
    fs::write(dest.join("file"), "not from a peer").expect("the folder is ours");
    symlink(&outside, dest.join("link")).expect("the folder is ours");
    let _special = UnixListener::bind(dest.join("socket")).expect("the folder is ours");
    let mut attack = Attack::begin(&dest);
    let sender = attack.attacker.spawn(|_: &mut Cx<ToSender>, _| receive());
    let mut refused = 0;
    for path in tricks() {
        let answer = attack.offer(path.clone(), 10, sender);
        assert!(matches!(answer, Answer::Refused(_)), "{path:?} offered: {answer:?}");
        let deleted = attack.delete(path.clone());
        assert!(matches!(deleted, Deleted(Err(_) | Ok(false))), "{path:?} deleted: {deleted:?}");
        refused += 1 + u64::from(deleted.0.is_err());
    }
    let deleted = attack.delete(vec!["file".into()]);
    assert!(matches!(deleted, Deleted(Err(FileRefused::NotReceived))), "{deleted:?}");
    refused += 1;
    let names = |path: &Path| {
        let entries = fs::read_dir(path).expect("the folder is ours");
        let mut names: Vec<_> = entries.map(|entry| entry.expect("it is read").file_name()).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(names(folder.path()), ["dest", "outside"]);
    assert_eq!(names(&outside), ["kept"]);
    assert_eq!(fs::read(outside.join("kept")).expect("it is there"), b"kept");
    assert_eq!(fs::read(dest.join("file")).expect("it is there"), b"not from a peer");
    let answer = attack.offer(vec!["a".into(), "fine".into()], 10, sender);
    assert!(matches!(answer, Answer::Send { .. }), "what is in order is taken: {answer:?}");
    let counted = |name| attack.siege.victim.count_within("refusals", name);
    assert_eq!(["file_paths", "files"].map(counted), [refused, 0]);
    attack.siege.victim.has_logged_once("names files that no peer may write or delete");
    attack.siege.end("tricks with paths", bounds::member(&Limits::default()));
}

#[test]
fn whoever_sends_more_of_a_file_than_he_may_fills_neither_memory_nor_disk() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let mut attack = Attack::begin(folder.path());
    let (tell, told) = std::sync::mpsc::channel();
    let sender = attack.attacker.spawn(move |_: &mut Cx<ToSender>, event| {
        if let Event::Message(said) = event {
            tell_test(&tell, said);
        }
        receive()
    });
    // More than the window at a time; then more than the file has.
    for (name, size) in [("window", 1 << 30), ("size", 1 << 20)] {
        let Answer::Send { receiver, have, .. } = attack.offer(vec![name.into()], size, sender) else {
            panic!("the file is taken");
        };
        attack.attacker.handle.send(receiver, ToReceiver::Begin(have)).expect("the node runs");
        for _ in 0..256 {
            let chunk = ToReceiver::Chunk(Bytes(vec![7; 128 * 1024]));
            attack.attacker.handle.send(receiver, chunk).expect("the node runs");
        }
        let refused = loop {
            match heard(&told) {
                ToSender::Failed(reason) => break reason,
                ToSender::Written(_) => {}
                said @ (ToSender::Stored | ToSender::Different(_)) => panic!("{said:?}"),
            }
        };
        println!("{name}: {refused}");
        assert!(!folder.path().join(name).exists(), "nothing stands where the file would be");
    }
    // More of them than there are places for one: the two that were refused have left theirs.
    let offers = (0..64).map(|n| attack.offer(vec![format!("squat {n}")], 1, sender));
    let refused =
        offers.filter(|answer| matches!(answer, Answer::Refused(FileRefused::TooManyTransfers { max: 48 })));
    assert_eq!(refused.count(), 64 - 48);
    assert_eq!(attack.siege.victim.count_within("refusals", "files"), 2 + 64 - 48);
    attack.siege.victim.has_logged_once("sends files out of order, or more of them than it may");
    attack.siege.end("more of a file than was offered", bounds::member(&Limits::default()));
}
