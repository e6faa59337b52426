//! Nodes that talk by TLS: whom they let in, whom they refuse, and what they say of it.

mod common;

use std::process::Command;
use std::sync::mpsc::{Receiver, channel};

use antiphon_dist::{
    Config, Location, NetCx, Node, NodeError, PeerError, Refusal, Status, Tls, TlsConfig, TlsError, TlsFault,
};
use antiphon_sched::{Addr, Bytes, Cx, Event, Framing, SocketEvent, receive, stop};
use common::bare_tls;
use common::certs::{Certs, Files, set_mode};
use common::{Net, PATIENCE, TestNode, heard, heard_until, tell_test};

/// As TLS alone: no secret.
fn bare(net: &Net, name: &str, own: &Files) -> Config {
    Config { secret: None, certfile: Some(own.both.clone()), ..net.quiet(name, &[]) }
}

fn with_peer(config: Config, peer: &TestNode) -> Config {
    Config { peers: vec![peer.location.into()], ..config }
}

/// Sends a text from the second node to the first, and looks that it arrives.
fn talk(first: &TestNode, second: &TestNode) {
    let told = first.listener::<String>("listener");
    let addr: Addr<String> = second.find("listener");
    assert_eq!(second.deliver(addr, "by TLS".into()), Ok(()));
    assert_eq!(heard(&told), "by TLS");
}

/// What `peer` says of a location.
fn peer(node: &TestNode, at: impl Into<Location>) -> Result<Vec<Location>, PeerError> {
    let (tell, told) = channel();
    let at = at.into();
    node.spawn(move |cx, event| match event {
        Event::Start => {
            cx.peer(at, PATIENCE, |answer| answer);
            receive()
        }
        Event::Message(answer) => {
            tell_test(&tell, answer);
            stop()
        }
        _ => receive(),
    });
    heard(&told)
}

fn refused(fault: TlsFault) -> Result<Vec<Location>, PeerError> {
    Err(PeerError::Refused(Refusal::Tls(fault)))
}

/// Two nodes that refuse each other: the one says why, and the other that it was told so, whoever dials.
fn refuse_each_other(one: &TestNode, other: &TestNode, fault: TlsFault) {
    assert_eq!(peer(one, other.location), refused(fault));
    one.log.wait_for(&format!("refused the peer: {fault}"));
    other.log.wait_for(&format!("refused by the peer: {}", TlsFault::Rejected));
    assert_eq!(peer(other, one.location), refused(fault));
    assert_eq!((one.counts().peers, other.counts().peers), (0, 0));
}

#[test]
fn nodes_that_share_one_file_talk_with_a_secret_and_without() {
    let (net, certs) = (Net::new(), Certs::new());
    let shared = certs.node("shared");
    for secret in [None, Some(net.secret.clone())] {
        let config = |name| Config { secret: secret.clone(), ..bare(&net, name, &shared) };
        let first = TestNode::start(config("first"));
        // Also where the file is pinned by name: that of the node itself, with its key.
        let pinned =
            vec![certs.path().join("../").join(certs.path().file_name().expect("a name")).join("shared.pem")];
        let second = TestNode::start(with_peer(Config { pinned, ..config("second") }, &first));
        talk(&first, &second);
    }
}

#[test]
fn nodes_with_certificate_and_key_in_two_files_find_each_other_by_announcement() {
    let (net, certs) = (Net::new(), Certs::new());
    let Files { cert, key, .. } = certs.node("shared");
    let config =
        |name| Config { certfile: Some(cert.clone()), keyfile: Some(key.clone()), ..net.config(name) };
    talk(&TestNode::start(config("first")), &TestNode::start(config("second")));
}

/// The command of the chapter.
fn openssl(file: &str, folder: &std::path::Path) -> Option<std::process::Output> {
    let args = ["req", "-x509", "-newkey", "rsa:2048", "-keyout", file, "-nodes", "-out", file, "-sha256"];
    let rest = ["-days", "1000", "-subj", "/CN=antiphon"];
    Command::new("openssl").args(args).args(rest).current_dir(folder).output().ok()
}

#[test]
fn the_file_of_the_openssl_command_works_when_it_is_copied_to_each_peer() {
    let (net, certs) = (Net::new(), Certs::new());
    // What the command wrote, but for dates that outlive this program; and, where it is installed, what it writes now.
    let fixture = include_bytes!("fixtures/sskeycert.pem");
    let mut files = vec![certs.write("fixture.pem", fixture)];
    if let Some(done) = openssl("sskeycert.pem", certs.path()) {
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        files.push(certs.path().join("sskeycert.pem"));
    }
    for file in files {
        let net = Net { tls: Some(file), ..net.clone() };
        let (first, second) = net.pair();
        talk(&first, &second);
    }
}

#[test]
fn nodes_with_a_certificate_each_talk_if_they_pin_each_other_and_refuse_a_third() {
    let (net, certs) = (Net::new(), Certs::new());
    let [a, b, c] = ["a", "b", "c"].map(|name| certs.node(name));
    let all = certs
        .write("all.pem", [&a, &b].map(|of| std::fs::read_to_string(&of.cert).expect("written")).concat());
    let first = TestNode::start(Config { pinned: vec![all.clone()], ..bare(&net, "first", &a) });
    let pins = Config { pinned: vec![b.cert.clone(), a.cert.clone()], ..bare(&net, "second", &b) };
    let second = TestNode::start(with_peer(pins, &first));
    talk(&first, &second);

    // It trusts them, and they do not trust it.
    let third = TestNode::start(Config { pinned: vec![all], ..bare(&net, "third", &c) });
    let statuses = first.statuses();
    heard_until(&statuses, |told| *told == ("second".into(), Status::Online));
    assert_eq!(peer(&third, first.location), refused(TlsFault::Rejected));
    first.log.wait_for(&format!("refused the peer: {}", TlsFault::Stranger));
    assert_eq!(peer(&first, third.location), refused(TlsFault::Stranger));
    third.log.wait_for(&format!("refused by the peer: {}", TlsFault::Rejected));
    assert_eq!(peer(&first, second.location), Ok(vec![second.location]), "nobody else noticed");
    assert_eq!(first.log.lines(&TlsFault::Stranger.to_string()).len(), 1, "{:?}", first.log.lines(""));
}

#[test]
fn nodes_with_two_certificates_of_their_own_refuse_each_other_whoever_dials() {
    let (net, certs) = (Net::new(), Certs::new());
    let [one, other] = ["one", "other"].map(|name| TestNode::start(bare(&net, name, &certs.node(name))));
    refuse_each_other(&one, &other, TlsFault::Stranger);
}

#[test]
fn nodes_whose_certificates_one_ca_has_signed_talk_and_refuse_those_of_another() {
    let (net, certs) = (Net::new(), Certs::new());
    let (ca, foreign) = (certs.ca("ca"), certs.ca("foreign"));
    let config = |name, signed_by| Config {
        ca_files: vec![ca.cert.clone()],
        ..bare(&net, name, &certs.signed(name, signed_by))
    };
    let first = TestNode::start(config("first", &ca));
    let second = TestNode::start(with_peer(config("second", &ca), &first));
    talk(&first, &second);
    let third = TestNode::start(config("third", &foreign));
    assert_eq!(peer(&first, third.location), refused(TlsFault::Stranger));
    assert_eq!(peer(&third, first.location), refused(TlsFault::Rejected));
    first.log.wait_for(&format!("refused the peer: {}", TlsFault::Stranger));
    // A member that has signed itself is none.
    let fourth =
        TestNode::start(Config { ca_files: vec![ca.cert.clone()], ..bare(&net, "fourth", &certs.node("4")) });
    assert_eq!(peer(&first, fourth.location), refused(TlsFault::Stranger));
}

#[test]
fn a_pinned_certificate_that_has_expired_or_is_not_valid_yet_is_refused_from_both_sides() {
    let (net, certs) = (Net::new(), Certs::new());
    let own = certs.node("own");
    let old = certs.node_with("old", |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let early = certs.node_with("early", |params| params.not_before = rcgen::date_time_ymd(3020, 1, 1));
    for (bad, fault) in [(old, TlsFault::Expired), (early, TlsFault::NotYetValid)] {
        let node = TestNode::start(Config { pinned: vec![bad.cert.clone()], ..bare(&net, "node", &own) });
        let server = bare_tls::serve(&bad);
        assert_eq!(peer(&node, server), refused(fault));
        let alert = bare_tls::knock(node.location.addr(), Some(&bad));
        assert!(alert.contains("CertificateExpired"), "{alert}");
        node.log.wait_for(&fault.to_string());
        assert_eq!(node.counts().connections, 0);
    }
}

#[test]
fn a_peer_without_a_certificate_or_without_its_key_is_refused() {
    let (net, certs) = (Net::new(), Certs::new());
    let own = certs.node("own");
    let node = TestNode::start(bare(&net, "node", &own));
    let alert = bare_tls::knock(node.location.addr(), None);
    assert!(alert.contains("CertificateRequired"), "{alert}");
    node.log.wait_for(&TlsFault::Missing.to_string());

    // The pinned certificate, which is no secret, and another key.
    let thief = Files { key: certs.node("thief").key, ..own };
    let alert = bare_tls::knock(node.location.addr(), Some(&thief));
    assert!(alert.contains("DecryptError") || alert.contains("BadCertificate"), "{alert}");
    node.log.wait_for(&TlsFault::Unusable.to_string());
    assert_eq!(peer(&node, bare_tls::serve(&thief)), refused(TlsFault::Unusable));
    assert_eq!(node.counts().connections, 0);
}

#[test]
fn a_man_in_the_middle_is_refused_with_another_certificate_and_with_one_of_a_member() {
    let (net, certs) = (Net::new(), Certs::new());
    let (ca, own) = (certs.ca("ca"), certs.node("middle"));
    let config = |name| Config {
        ca_files: vec![ca.cert.clone()],
        secret: Some(net.secret.clone()),
        ..bare(&net, name, &certs.signed(name, &ca))
    };
    let first = TestNode::start(config("first"));
    let second = TestNode::start(config("second"));
    let stranger = bare_tls::relay(&own, first.location.addr());
    assert_eq!(peer(&second, stranger), refused(TlsFault::Stranger));

    // A member may speak TLS with both; but what TLS exports differs, and stands in the proofs.
    let member = bare_tls::relay(&certs.signed("member", &ca), first.location.addr());
    assert_eq!(peer(&second, member), Err(PeerError::Refused(Refusal::WrongSecret)));
    first.log.wait_for("the secrets differ");
    assert_eq!(peer(&second, first.location), Ok(vec![first.location]), "without the middle all is well");
}

#[test]
fn a_node_with_tls_and_one_without_refuse_each_other_and_say_why() {
    let (net, certs) = (Net::new(), Certs::new());
    let tls = TestNode::start(Config { certfile: Some(certs.node("own").both), ..net.quiet("tls", &[]) });
    let plain = net.quiet_node("plain", &[]);
    assert_eq!(peer(&tls, plain.location), refused(TlsFault::OneSided));
    assert_eq!(peer(&plain, tls.location), refused(TlsFault::OneSided));
    for node in [&tls, &plain] {
        node.log.wait_for(&TlsFault::OneSided.to_string());
        assert_eq!(node.counts().connections, 0);
    }
}

#[test]
fn a_hundred_thousand_messages_arrive_once_and_in_order() {
    let certs = Certs::new();
    let net = Net { tls: Some(certs.node("shared").both), ..Net::new() };
    let (first, second) = net.pair();
    let told = counter(&first, 100_000);
    let addr: Addr<u64> = second.find("counter");
    let mut next = 0;
    second.spawn(move |cx: &mut Cx<()>, event| {
        if matches!(event, Event::Start | Event::Writable(_)) {
            while next < 100_000 {
                match cx.try_send(addr, next) {
                    Ok(()) => next += 1,
                    // `Writable` follows.
                    Err(antiphon_sched::SendError::Busy(_)) => return receive(),
                    Err(error) => Err(error)?,
                }
            }
        }
        receive()
    });
    assert_eq!(heard(&told), 100_000);
}

/// Counts numbers, which must come in order; tells when there are `wanted`.
fn counter(node: &TestNode, wanted: u64) -> Receiver<u64> {
    let (tell, told) = channel();
    let mut next = 0;
    node.spawn(move |cx: &mut Cx<u64>, event| {
        match event {
            Event::Start => cx.register("counter")?,
            Event::Message(number) if number == next => next += 1,
            Event::Message(number) => return antiphon_sched::fail(format!("{number} instead of {next}")),
            _ => {}
        }
        if next == wanted {
            tell_test(&tell, next);
        }
        receive()
    });
    told
}

#[test]
fn the_largest_message_arrives_whole_while_small_ones_pass() {
    let certs = Certs::new();
    let net = Net { tls: Some(certs.node("shared").both), ..Net::new() };
    let (first, second) = net.pair();
    let (big, small) = (first.listener::<Bytes>("big"), first.listener::<String>("small"));
    let (to_big, to_small): (Addr<Bytes>, Addr<String>) = (second.find("big"), second.find("small"));
    // The header of the frame and of the body belong to the 16 MiB too.
    let body: Vec<u8> = (0..(16 << 20) - 1024).map(|at: usize| ((at * 31) >> 3) as u8).collect();
    let receipt = second.delivering(to_big, Bytes::from(body.clone()), PATIENCE);
    assert_eq!(second.deliver(to_small, "meanwhile".into()), Ok(()));
    assert_eq!(heard(&small), "meanwhile");
    assert_eq!(heard(&receipt), Ok(()));
    assert!(heard(&big) == Bytes::from(body), "every byte is as it was sent");
}

#[test]
fn tls_without_a_secret_may_leave_loopback() {
    let certs = Certs::new();
    let beyond = Config {
        ip: [192, 0, 2, 1].into(),
        discover_peers: false,
        certfile: Some(certs.node("own").both),
        ..Config::default()
    };
    // Tests stay on loopback: that is the next thing that is asked.
    assert!(matches!(Node::new(beyond.clone()).err(), Some(NodeError::Egress(_))));
    let weak = Config { secret: Some("key".into()), ..beyond };
    assert!(matches!(Node::new(weak).err(), Some(NodeError::Egress(_))));
    let none = Config { ip: [192, 0, 2, 1].into(), ..Config::default() };
    let said = Node::new(none).expect_err("nothing says who may come").to_string();
    for choice in ["`secret`", "`certfile`", "`open: true`"] {
        assert!(said.contains(choice), "{said}");
    }
}

#[cfg(unix)]
#[test]
fn a_key_that_others_may_open_is_refused_with_its_file_and_the_cure() {
    let certs = Certs::new();
    let own = certs.node("own");
    let start = |certfile: &std::path::Path, keyfile: Option<&std::path::Path>| {
        let (certfile, keyfile) = (Some(certfile.to_owned()), keyfile.map(Into::into));
        Node::new(Config { certfile, keyfile, discover_peers: false, ..Config::default() }).map(drop)
    };
    for mode in [0o640, 0o604, 0o620, 0o602] {
        set_mode(&own.both, mode);
        set_mode(&own.key, mode);
        for (started, file) in
            [(start(&own.both, None), &own.both), (start(&own.cert, Some(&own.key)), &own.key)]
        {
            let reason = started.expect_err("others may open it");
            let is_told =
                matches!(&reason, NodeError::Tls(TlsError::ExposedKey { mode: told, .. }) if *told == mode);
            assert!(is_told, "{reason}");
            let said = reason.to_string();
            assert!(said.contains(&file.display().to_string()) && said.contains("chmod 600"), "{said}");
        }
    }
    set_mode(&own.both, 0o400);
    set_mode(&own.key, 0o600);
    set_mode(&own.cert, 0o644);
    assert!(start(&own.both, None).is_ok());
    assert!(start(&own.cert, Some(&own.key)).is_ok(), "a certificate is no secret");
}

#[test]
fn what_is_wrong_with_a_file_is_said_by_its_name_before_anything_is_opened() {
    let certs = Certs::new();
    let (one, other) = (certs.node("one"), certs.node("other"));
    let text = |file: &std::path::Path| std::fs::read_to_string(file).expect("it was written");
    let start = |certfile: &std::path::Path, keyfile: Option<&std::path::Path>| {
        let config = Config {
            certfile: Some(certfile.to_owned()),
            keyfile: keyfile.map(Into::into),
            discover_peers: false,
            ..Config::default()
        };
        match Node::new(config).expect_err("the file is of no use") {
            NodeError::Tls(reason) => reason,
            other => panic!("{other:?}"),
        }
    };
    let said = |reason: &TlsError, file: &std::path::Path| {
        assert!(reason.to_string().contains(&file.display().to_string()), "{reason}");
    };
    let old = certs.node_with("old", |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1)).both;
    let early = certs.node_with("early", |params| params.not_before = rcgen::date_time_ymd(3020, 1, 1)).both;
    let missing = certs.path().join("missing.pem");
    let empty = certs.write("empty.pem", "");
    let damaged = certs.write("damaged.pem", text(&one.both).replacen("MI", "!!", 1));
    let cut = certs.write("cut.pem", &text(&one.cert)[..200]);
    let garbage =
        certs.write("garbage.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let modern = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let modern = certs.write("modern.key", modern);
    let ancient =
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: DES-EDE3-CBC,00\n\nAAAA\n";
    let ancient = certs.write("ancient.key", ancient);
    let bad_key = certs.write("bad.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    macro_rules! refused {
        ($cert:expr, $key:expr, $named:expr, $error:pat) => {{
            let reason = start($cert, $key);
            assert!(matches!(reason, $error), "{reason:?}");
            said(&reason, $named);
        }};
    }
    refused!(&old, None, &old, TlsError::Expired { .. });
    refused!(&early, None, &early, TlsError::NotYetValid { .. });
    refused!(&missing, None, &missing, TlsError::Unreadable { .. });
    refused!(&one.cert, Some(&missing), &missing, TlsError::Unreadable { .. });
    refused!(&empty, None, &empty, TlsError::NoCertificate { .. });
    refused!(&one.key, None, &one.key, TlsError::NoCertificate { .. });
    refused!(&one.cert, None, &one.cert, TlsError::NoKey { .. });
    refused!(&one.cert, Some(&empty), &empty, TlsError::NoKey { .. });
    refused!(&damaged, None, &damaged, TlsError::NotPem { .. });
    refused!(&cut, None, &cut, TlsError::NotPem { .. });
    refused!(&garbage, Some(&one.key), &garbage, TlsError::BadCertificate { .. });
    refused!(&one.cert, Some(&modern), &modern, TlsError::EncryptedKey { .. });
    refused!(&one.cert, Some(&ancient), &ancient, TlsError::EncryptedKey { .. });
    refused!(&one.cert, Some(&bad_key), &bad_key, TlsError::BadKey { .. });
    refused!(&one.cert, Some(&other.key), &other.key, TlsError::KeyMismatch { .. });
    let pinned =
        Config { certfile: Some(one.both.clone()), pinned: vec![empty.clone()], ..Config::default() };
    assert!(
        matches!(Node::new(pinned).err(), Some(NodeError::Tls(TlsError::NoCertificate { file })) if file == empty)
    );
    // Keys of others, of whatever kind, among what is trusted.
    let both = |text: &str| {
        let cert = std::fs::read_to_string(&other.cert).expect("it was written so");
        certs.write("stray.pem", format!("{cert}{text}"))
    };
    let keys =
        [&other.key, &modern, &ancient].map(|key| std::fs::read_to_string(key).expect("it was written so"));
    for key in keys {
        let stray = both(&key);
        for field in ["pinned", "ca_files"] {
            let mut config = Config { certfile: Some(one.both.clone()), ..Config::default() };
            if field == "pinned" {
                config.pinned = vec![stray.clone()]
            } else {
                config.ca_files = vec![stray.clone()]
            }
            let reason = Node::new(config).err();
            assert!(
                matches!(&reason, Some(NodeError::Tls(TlsError::StrayKey { file, field: told })) if *file == stray && *told == field),
                "{field}: {reason:?}"
            );
        }
    }
    let alone = Config { ca_files: vec![one.cert], ..Config::default() };
    let reason = Node::new(alone).err();
    assert!(matches!(reason, Some(NodeError::Tls(TlsError::NoCertfile { field: "ca_files" }))), "{reason:?}");
}

#[test]
fn a_node_and_a_socket_that_share_a_certificate_are_not_taken_for_one_another() {
    let (net, certs) = (Net::new(), Certs::new());
    let shared = certs.node("shared");
    let node = TestNode::start(bare(&net, "node", &shared));
    let tls =
        Tls::new(&TlsConfig { certfile: shared.both.clone(), ..TlsConfig::default() }).expect("sound files");
    let (tell, told) = channel();
    let (tell_place, place) = channel();
    let to = node.location.addr();
    node.spawn(move |cx: &mut Cx<SocketEvent>, event| {
        match event {
            Event::Start => {
                let framing = Framing::Lines { max: 1000 };
                let at = cx.listen(tls.at("127.0.0.1:0"), framing, |_, what| what)?;
                tell_test(&tell_place, at);
                cx.connect(tls.at(to), framing, PATIENCE, |_, what| what);
            }
            Event::Message(SocketEvent::Closed(reason)) => {
                tell_test(&tell, reason.as_ref().and_then(TlsFault::of));
            }
            _ => {}
        }
        receive()
    });
    assert_eq!(heard(&told), Some(TlsFault::OtherProtocol));
    assert_eq!(peer(&node, heard(&place)), refused(TlsFault::OtherProtocol));
    assert_eq!(node.counts().peers, 0);
}
