//! A member that offers files for paths outside of the victim's folder, and sends more of a file than it may.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use antiphon_dist::{Config, FileRefused, FileStat, Limits};
use antiphon_sched::{ActorId, Addr, Bytes, Cx, Event, ReplyTo, SendError, receive};
use antiphon_wire::frame::NameSpace;
use serde::{Deserialize, Serialize};

use crate::attack_test::AttackTest;
use crate::bounds;
use crate::common::{Net, PATIENCE, TestNode, recv, report, wait_for};
use crate::member::Member;
use crate::victim::VictimOptions;

/// A message to the file service, as `src/files/messages.rs` defines it. Any peer can send it.
#[derive(Serialize, Deserialize)]
enum ToFileService {
    Offer(OfferedFile, ReplyTo<OfferReply>),
    Delete(Vec<String>, ReplyTo<Deleted>),
}
antiphon_sched::wire!(ToFileService, "antiphon.files.service/1");

#[derive(Serialize, Deserialize)]
struct OfferedFile {
    path: Vec<String>,
    stat: FileStat,
    overwrite: bool,
    sender: Addr<ToSender>,
}

#[derive(Serialize, Deserialize, Debug)]
enum OfferReply {
    AlreadyThere,
    Different(FileStat),
    Refused(FileRefused),
    Send { receiver: Addr<ToReceiver>, have: u64, hash: Bytes, window: u64 },
}
antiphon_sched::wire!(OfferReply, "antiphon.files.answer/1");

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
antiphon_sched::wire!(ToReceiver, "antiphon.files.receiver/1");

#[derive(Serialize, Deserialize, Debug)]
enum ToSender {
    Written(u64),
    Stored,
    Different(FileStat),
    Failed(FileRefused),
}
antiphon_sched::wire!(ToSender, "antiphon.files.sender/1");

/// A victim that accepts files, and a member on 127.0.0.2 with the address of its file service.
struct FileAttacker {
    attack: AttackTest,
    node: TestNode,
    service: Addr<ToFileService>,
}

impl FileAttacker {
    fn start(dest: &Path) -> Self {
        let options = VictimOptions { dest_path: Some(dest), ..VictimOptions::default() };
        let attack = AttackTest::on(Net { udp_port: 0, ..Net::new() }, options);
        let mut member = Member::join(&attack.net, &attack.victim);
        let (key, _) = member.find(NameSpace::Service, "files");
        let config = attack.net.static_config("attacker", &[attack.victim.location]);
        let node = TestNode::start(Config { ip: [127, 0, 0, 2].into(), ..config });
        node.wait_for_peers(1);
        let victim = member.session.peer();
        let service = Addr::of(ActorId::new(victim, antiphon_sched::Key::from_bits(key.to_bits())));
        Self { attack, node, service }
    }

    fn offer(&self, path: Vec<String>, size: u64, sender: Addr<ToSender>) -> OfferReply {
        let stat = FileStat { size, seconds: 0, nanos: 0, permissions: 0o7777 };
        let offer = OfferedFile { path, stat, overwrite: true, sender };
        let reply = self.node.handle.ask(self.service, PATIENCE, |to| ToFileService::Offer(offer, to));
        reply.expect("the file service replies")
    }

    fn delete(&self, path: Vec<String>) -> Deleted {
        let reply = self.node.handle.ask(self.service, PATIENCE, |to| ToFileService::Delete(path, to));
        reply.expect("the file service replies")
    }
}

/// Paths that lead out of the folder, name a file that no peer may write, or are not valid.
fn forbidden_paths() -> Vec<Vec<String>> {
    let long = "x".repeat(256);
    let deep = vec!["x"; 33];
    let mut paths: Vec<&[&str]> = vec![
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
    paths.extend([long.as_slice(), deep.as_slice()]);
    paths.iter().map(|names| names.iter().map(|name| (*name).to_owned()).collect()).collect()
}

/// Offers and deletions of these paths change nothing outside of the folder, nor any file that no peer has sent.
pub(crate) fn file_path_outside_dest_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (dest, outside) = (folder.path().join("dest"), folder.path().join("outside"));
    for path in [&dest, &outside] {
        fs::create_dir(path).expect("the test owns the folder");
    }
    fs::write(outside.join("kept"), "kept").expect("the test owns the folder");
    fs::write(dest.join("file"), "not from a peer").expect("the test owns the folder");
    symlink(&outside, dest.join("link")).expect("the test owns the folder");
    let _special = UnixListener::bind(dest.join("socket")).expect("the test owns the folder");
    let mut attacker = FileAttacker::start(&dest);
    let sender = attacker.node.spawn(|_: &mut Cx<ToSender>, _| receive());
    let mut refused = 0;
    for path in forbidden_paths() {
        let reply = attacker.offer(path.clone(), 10, sender);
        assert!(matches!(reply, OfferReply::Refused(_)), "{path:?} offered: {reply:?}");
        let deleted = attacker.delete(path.clone());
        assert!(matches!(deleted, Deleted(Err(_) | Ok(false))), "{path:?} deleted: {deleted:?}");
        refused += 1 + u64::from(deleted.0.is_err());
    }
    let deleted = attacker.delete(vec!["file".into()]);
    assert!(matches!(deleted, Deleted(Err(FileRefused::NotReceived))), "{deleted:?}");
    refused += 1;
    let names = |path: &Path| {
        let entries = fs::read_dir(path).expect("the test owns the folder");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("the entry can be read").file_name()).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(names(folder.path()), ["dest", "outside"]);
    assert_eq!(names(&outside), ["kept"]);
    assert_eq!(fs::read(outside.join("kept")).expect("the file exists"), b"kept");
    assert_eq!(fs::read(dest.join("file")).expect("the file exists"), b"not from a peer");
    let reply = attacker.offer(vec!["a".into(), "fine".into()], 10, sender);
    assert!(matches!(reply, OfferReply::Send { .. }), "a valid path is accepted: {reply:?}");
    let counted = |name| attacker.attack.victim.count_within("refusals", name);
    assert_eq!(["file_paths", "files"].map(counted), [refused, 0]);
    attacker.attack.victim.has_logged_once("names files that no peer may write or delete");
    attacker.attack.end("forbidden paths", bounds::member(&Limits::default()));
}

/// A sender that exceeds the window, the size of the file or its number of transfers uses neither memory nor disk.
pub(crate) fn file_sender_over_window_or_size_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let mut attacker = FileAttacker::start(folder.path());
    let (events, received) = std::sync::mpsc::channel();
    let sender = attacker.node.spawn(move |_: &mut Cx<ToSender>, event| {
        if let Event::Message(message) = event {
            report(&events, message);
        }
        receive()
    });
    // The first transfer exceeds the window; the second one exceeds the size of its file.
    for (name, size) in [("window", 1 << 30), ("size", 1 << 20)] {
        let OfferReply::Send { receiver, have, .. } = attacker.offer(vec![name.into()], size, sender) else {
            panic!("the victim refuses the file");
        };
        attacker.node.handle.send(receiver, ToReceiver::Begin(have)).expect("the node runs");
        for _ in 0..256 {
            // More chunks than may wait for one actor: the handle refuses them until some are sent.
            wait_for("room for a chunk", || {
                let chunk = ToReceiver::Chunk(Bytes::from(vec![7; 128 * 1024]));
                match attacker.node.handle.send(receiver, chunk) {
                    Err(SendError::Full(_)) => None,
                    Err(error) => panic!("{error}"),
                    Ok(()) => Some(()),
                }
            });
        }
        let refused = loop {
            match recv(&received) {
                ToSender::Failed(reason) => break reason,
                ToSender::Written(_) => {}
                other @ (ToSender::Stored | ToSender::Different(_)) => panic!("{other:?}"),
            }
        };
        println!("{name}: {refused}");
        assert!(!folder.path().join(name).exists(), "a refused file is not stored");
    }
    // One peer may have 48 transfers; the two that were refused have ended.
    let offers = (0..64).map(|n| attacker.offer(vec![format!("idle {n}")], 1, sender));
    let refused = offers
        .filter(|reply| matches!(reply, OfferReply::Refused(FileRefused::TooManyTransfers { max: 48 })));
    assert_eq!(refused.count(), 64 - 48);
    assert_eq!(attacker.attack.victim.count_within("refusals", "files"), 2 + 64 - 48);
    attacker.attack.victim.has_logged_once("sends files out of order, or more of them than it may");
    attacker.attack.end("more of a file than was offered", bounds::member(&Limits::default()));
}
