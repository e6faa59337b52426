//! Nodes with TLS: which peers they accept, which they refuse, and the errors and log lines of a refusal.

mod common;

use std::process::Command;
use std::sync::mpsc::{Receiver, channel};

use antiphon_dist::{
    Config, Location, NetCx, Node, NodeError, PeerError, Refusal, Status, Tls, TlsConfig, TlsError, TlsFault,
};
use antiphon_sched::{Addr, Bytes, Cx, Event, Framing, SocketEvent, receive};
use common::bare_tls;
use common::certs::{Certs, Files, set_mode};
use common::{Net, PATIENCE, TestNode, recv, recv_until, report};

/// A configuration with TLS and without a secret.
fn tls_only(net: &Net, name: &str, own: &Files) -> Config {
    Config { secret: None, certfile: Some(own.both.clone()), ..net.static_config(name, &[]) }
}

fn with_peer(config: Config, peer: &TestNode) -> Config {
    Config { peers: vec![peer.location.into()], ..config }
}

/// Delivers a text from the second node to the first, and checks that it arrives.
#[track_caller]
fn assert_delivers(first: &TestNode, second: &TestNode) {
    let messages = first.listener::<String>("listener");
    let addr: Addr<String> = second.find("listener");
    assert_eq!(second.deliver(addr, "by TLS".into()), Ok(()));
    assert_eq!(recv(&messages), "by TLS");
}

fn refused(fault: TlsFault) -> Result<Vec<Location>, PeerError> {
    Err(PeerError::Refused(Refusal::Tls(fault)))
}

/// Checks that two nodes refuse each other, whichever dials. The first logs the fault, the second logs the rejection.
#[track_caller]
fn assert_refuse_each_other(one: &TestNode, other: &TestNode, fault: TlsFault) {
    assert_eq!(one.connect(other.location, PATIENCE), refused(fault));
    one.log.wait_for(&format!("refused the peer: {fault}"));
    other.log.wait_for(&format!("refused by the peer: {}", TlsFault::Rejected));
    assert_eq!(other.connect(one.location, PATIENCE), refused(fault));
    assert_eq!((one.counts().peers, other.counts().peers), (0, 0));
}

#[test]
fn tls_shared_certificate_works_with_and_without_secret() {
    let (net, certs) = (Net::new(), Certs::new());
    let shared = certs.node("shared");
    for secret in [None, Some(net.secret.clone())] {
        let config = |name| Config { secret: secret.clone(), ..tls_only(&net, name, &shared) };
        let first = TestNode::start(config("first"));
        // The node's own file may be pinned too, although it contains the key.
        let pinned = vec![
            certs
                .path()
                .join("../")
                .join(certs.path().file_name().expect("the folder has a name"))
                .join("shared.pem"),
        ];
        let second = TestNode::start(with_peer(Config { pinned, ..config("second") }, &first));
        assert_delivers(&first, &second);
    }
}

#[test]
fn tls_separate_key_file_works_with_discovery() {
    let (net, certs) = (Net::new(), Certs::new());
    let Files { cert, key, .. } = certs.node("shared");
    let config =
        |name| Config { certfile: Some(cert.clone()), keyfile: Some(key.clone()), ..net.config(name) };
    assert_delivers(&TestNode::start(config("first")), &TestNode::start(config("second")));
}

/// Runs the `openssl` command of the guide. Returns `None` if it is not installed.
fn openssl(file: &str, folder: &std::path::Path) -> Option<std::process::Output> {
    let args = ["req", "-x509", "-newkey", "rsa:2048", "-keyout", file, "-nodes", "-out", file, "-sha256"];
    let rest = ["-days", "1000", "-subj", "/CN=antiphon"];
    Command::new("openssl").args(args).args(rest).current_dir(folder).output().ok()
}

#[test]
fn tls_file_of_openssl_command_is_accepted() {
    let (net, certs) = (Net::new(), Certs::new());
    // The fixture is an output of the command, with later dates. Where `openssl` is installed, a new output is tested too.
    let fixture = include_bytes!("fixtures/sskeycert.pem");
    let mut files = vec![certs.write("fixture.pem", fixture)];
    if let Some(done) = openssl("sskeycert.pem", certs.path()) {
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        files.push(certs.path().join("sskeycert.pem"));
    }
    for file in files {
        let net = Net { tls: Some(file), ..net.clone() };
        let (first, second) = net.pair();
        assert_delivers(&first, &second);
    }
}

#[test]
fn tls_pinned_certificates_are_accepted_and_others_refused() {
    let (net, certs) = (Net::new(), Certs::new());
    let [a, b, c] = ["a", "b", "c"].map(|name| certs.node(name));
    let all = certs.write(
        "all.pem",
        [&a, &b].map(|of| std::fs::read_to_string(&of.cert).expect("the file can be read")).concat(),
    );
    let first = TestNode::start(Config { pinned: vec![all.clone()], ..tls_only(&net, "first", &a) });
    let pins = Config { pinned: vec![b.cert.clone(), a.cert.clone()], ..tls_only(&net, "second", &b) };
    let second = TestNode::start(with_peer(pins, &first));
    assert_delivers(&first, &second);

    // The third node trusts the other two, which do not trust it.
    let third = TestNode::start(Config { pinned: vec![all], ..tls_only(&net, "third", &c) });
    let statuses = first.statuses();
    recv_until(&statuses, |status| *status == ("second".into(), Status::Online));
    assert_eq!(third.connect(first.location, PATIENCE), refused(TlsFault::Rejected));
    first.log.wait_for(&format!("refused the peer: {}", TlsFault::Untrusted));
    assert_eq!(first.connect(third.location, PATIENCE), refused(TlsFault::Untrusted));
    third.log.wait_for(&format!("refused by the peer: {}", TlsFault::Rejected));
    assert_eq!(
        first.connect(second.location, PATIENCE),
        Ok(vec![second.location]),
        "the second node is still connected"
    );
    assert_eq!(first.log.lines(&TlsFault::Untrusted.to_string()).len(), 1, "{:?}", first.log.lines(""));
}

#[test]
fn tls_certificates_without_pins_are_refused() {
    let (net, certs) = (Net::new(), Certs::new());
    let [one, other] = ["one", "other"].map(|name| TestNode::start(tls_only(&net, name, &certs.node(name))));
    assert_refuse_each_other(&one, &other, TlsFault::Untrusted);
}

#[test]
fn tls_ca_accepts_its_certificates_and_refuses_others() {
    let (net, certs) = (Net::new(), Certs::new());
    let (ca, foreign) = (certs.ca("ca"), certs.ca("foreign"));
    let config = |name, signed_by| Config {
        ca_files: vec![ca.cert.clone()],
        ..tls_only(&net, name, &certs.signed(name, signed_by))
    };
    let first = TestNode::start(config("first", &ca));
    let second = TestNode::start(with_peer(config("second", &ca), &first));
    assert_delivers(&first, &second);
    let third = TestNode::start(config("third", &foreign));
    assert_eq!(first.connect(third.location, PATIENCE), refused(TlsFault::Untrusted));
    assert_eq!(third.connect(first.location, PATIENCE), refused(TlsFault::Rejected));
    first.log.wait_for(&format!("refused the peer: {}", TlsFault::Untrusted));
    // A node with a self-signed certificate is refused too.
    let fourth = TestNode::start(Config {
        ca_files: vec![ca.cert.clone()],
        ..tls_only(&net, "fourth", &certs.node("4"))
    });
    assert_eq!(first.connect(fourth.location, PATIENCE), refused(TlsFault::Untrusted));
}

/// Both the dialling and the listening node refuse a pinned certificate that has expired or is not valid yet.
#[test]
fn tls_pinned_certificate_outside_validity_is_refused() {
    let (net, certs) = (Net::new(), Certs::new());
    let own = certs.node("own");
    let old = certs.node_with("old", |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let early = certs.node_with("early", |params| params.not_before = rcgen::date_time_ymd(3020, 1, 1));
    for (bad, fault) in [(old, TlsFault::Expired), (early, TlsFault::NotYetValid)] {
        let node = TestNode::start(Config { pinned: vec![bad.cert.clone()], ..tls_only(&net, "node", &own) });
        let server = bare_tls::serve(&bad);
        assert_eq!(node.connect(server, PATIENCE), refused(fault));
        let alert = bare_tls::refused_dial(node.location.addr(), Some(&bad));
        assert!(alert.contains("CertificateExpired"), "{alert}");
        node.log.wait_for(&fault.to_string());
        assert_eq!(node.counts().connections, 0);
    }
}

#[test]
fn tls_peer_without_certificate_or_key_is_refused() {
    let (net, certs) = (Net::new(), Certs::new());
    let own = certs.node("own");
    let node = TestNode::start(tls_only(&net, "node", &own));
    let alert = bare_tls::refused_dial(node.location.addr(), None);
    assert!(alert.contains("CertificateRequired"), "{alert}");
    node.log.wait_for(&TlsFault::Missing.to_string());

    // The thief has the pinned certificate, which is public, and another key.
    let thief = Files { key: certs.node("thief").key, ..own };
    let alert = bare_tls::refused_dial(node.location.addr(), Some(&thief));
    assert!(alert.contains("DecryptError") || alert.contains("BadCertificate"), "{alert}");
    node.log.wait_for(&TlsFault::Unusable.to_string());
    assert_eq!(node.connect(bare_tls::serve(&thief), PATIENCE), refused(TlsFault::Unusable));
    assert_eq!(node.counts().connections, 0);
}

/// A relay terminates TLS on both sides. It is refused with an unknown certificate, and also with one of the network.
#[test]
fn tls_relay_in_the_middle_is_refused() {
    let (net, certs) = (Net::new(), Certs::new());
    let (ca, own) = (certs.ca("ca"), certs.node("middle"));
    let config = |name| Config {
        ca_files: vec![ca.cert.clone()],
        secret: Some(net.secret.clone()),
        ..tls_only(&net, name, &certs.signed(name, &ca))
    };
    let first = TestNode::start(config("first"));
    let second = TestNode::start(config("second"));
    let unknown = bare_tls::relay(&own, first.location.addr());
    assert_eq!(second.connect(unknown, PATIENCE), refused(TlsFault::Untrusted));

    // With a certificate of the network, TLS succeeds on both sides. But the proofs contain the exported keying material,
    // which differs between the two.
    let member = bare_tls::relay(&certs.signed("member", &ca), first.location.addr());
    assert_eq!(second.connect(member, PATIENCE), Err(PeerError::Refused(Refusal::WrongSecret)));
    first.log.wait_for("the secrets differ");
    assert_eq!(
        second.connect(first.location, PATIENCE),
        Ok(vec![first.location]),
        "the nodes connect without the relay"
    );
}

#[test]
fn tls_node_and_plain_node_refuse_each_other() {
    let (net, certs) = (Net::new(), Certs::new());
    let tls =
        TestNode::start(Config { certfile: Some(certs.node("own").both), ..net.static_config("tls", &[]) });
    let plain = net.static_node("plain", &[]);
    assert_eq!(tls.connect(plain.location, PATIENCE), refused(TlsFault::OneSided));
    assert_eq!(plain.connect(tls.location, PATIENCE), refused(TlsFault::OneSided));
    for node in [&tls, &plain] {
        node.log.wait_for(&TlsFault::OneSided.to_string());
        assert_eq!(node.counts().connections, 0);
    }
}

#[test]
fn tls_hundred_thousand_messages_arrive_in_order() {
    let certs = Certs::new();
    let net = Net { tls: Some(certs.node("shared").both), ..Net::new() };
    let (first, second) = net.pair();
    let counts = counter(&first, 100_000);
    let addr: Addr<u64> = second.find("counter");
    let mut next = 0;
    second.spawn(move |cx: &mut Cx<()>, event| {
        if matches!(event, Event::Start | Event::Writable { .. }) {
            while next < 100_000 {
                match cx.try_send(addr, next) {
                    Ok(()) => next += 1,
                    // The actor continues at `Writable`.
                    Err(antiphon_sched::SendError::Busy(_)) => return receive(),
                    Err(error) => Err(error)?,
                }
            }
        }
        receive()
    });
    assert_eq!(recv(&counts), 100_000);
}

/// Starts an actor that counts numbers and fails if they are out of order. It reports when it has `wanted` of them.
fn counter(node: &TestNode, wanted: u64) -> Receiver<u64> {
    let (sender, counts) = channel();
    let mut next = 0;
    node.spawn(move |cx: &mut Cx<u64>, event| {
        match event {
            Event::Start => cx.register("counter")?,
            Event::Message(number) if number == next => next += 1,
            Event::Message(number) => return antiphon_sched::fail(format!("{number} instead of {next}")),
            _ => {}
        }
        if next == wanted {
            report(&sender, next);
        }
        receive()
    });
    counts
}

#[test]
fn tls_large_message_does_not_block_small_ones() {
    let certs = Certs::new();
    let net = Net { tls: Some(certs.node("shared").both), ..Net::new() };
    let (first, second) = net.pair();
    let (big, small) = (first.listener::<Bytes>("big"), first.listener::<String>("small"));
    let (to_big, to_small): (Addr<Bytes>, Addr<String>) = (second.find("big"), second.find("small"));
    // The limit of 16 MiB includes the headers of the frame and of the body.
    let body: Vec<u8> = (0..(16 << 20) - 1024).map(|at: usize| ((at * 31) >> 3) as u8).collect();
    let receipt = second.delivering(to_big, Bytes::from(body.clone()), PATIENCE);
    assert_eq!(second.deliver(to_small, "meanwhile".into()), Ok(()));
    assert_eq!(recv(&small), "meanwhile");
    assert_eq!(recv(&receipt), Ok(()));
    assert!(recv(&big) == body, "every byte is as it was sent");
}

#[test]
fn tls_without_secret_may_leave_loopback() {
    let certs = Certs::new();
    let beyond = Config {
        ip: [192, 0, 2, 1].into(),
        discover_peers: false,
        certfile: Some(certs.node("own").both),
        ..Config::default()
    };
    // The configuration is accepted. The next check confines tests to loopback.
    assert!(matches!(Node::new(beyond.clone()).err(), Some(NodeError::Egress(_))));
    let weak = Config { secret: Some("key".into()), ..beyond };
    assert!(matches!(Node::new(weak).err(), Some(NodeError::Egress(_))));
    let none = Config { ip: [192, 0, 2, 1].into(), ..Config::default() };
    let text = Node::new(none)
        .expect_err("the configuration has no secret, no certificate and no `open`")
        .to_string();
    for choice in ["`secret`", "`certfile`", "`open: true`"] {
        assert!(text.contains(choice), "{text}");
    }
}

/// A key file that other users may open is refused. The error names the file and the command that repairs it.
#[cfg(unix)]
#[test]
fn tls_key_readable_by_others_is_refused() {
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
            let reason = started.expect_err("other users may open the file");
            let is_exposed_key = matches!(
                &reason,
                NodeError::Tls(TlsError::ExposedKey { mode: exposed, .. }) if *exposed == mode
            );
            assert!(is_exposed_key, "{reason}");
            let text = reason.to_string();
            assert!(text.contains(&file.display().to_string()) && text.contains("chmod 600"), "{text}");
        }
    }
    set_mode(&own.both, 0o400);
    set_mode(&own.key, 0o600);
    set_mode(&own.cert, 0o644);
    assert!(start(&own.both, None).is_ok());
    assert!(start(&own.cert, Some(&own.key)).is_ok(), "a certificate without a key is public");
}

/// An invalid file is reported when the node is created. The error names the file.
#[test]
fn tls_invalid_files_are_reported_by_name() {
    let certs = Certs::new();
    let (one, other) = (certs.node("one"), certs.node("other"));
    let text = |file: &std::path::Path| std::fs::read_to_string(file).expect("the file can be read");
    let start = |certfile: &std::path::Path, keyfile: Option<&std::path::Path>| {
        let config = Config {
            certfile: Some(certfile.to_owned()),
            keyfile: keyfile.map(Into::into),
            discover_peers: false,
            ..Config::default()
        };
        match Node::new(config).expect_err("the file is invalid") {
            NodeError::Tls(reason) => reason,
            other => panic!("{other:?}"),
        }
    };
    let assert_names = |reason: &TlsError, file: &std::path::Path| {
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
            assert_names(&reason, $named);
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
    // Keys of each kind in a file of trusted certificates are refused.
    let with_key = |text: &str| {
        let cert = std::fs::read_to_string(&other.cert).expect("the file can be read");
        certs.write("stray.pem", format!("{cert}{text}"))
    };
    let keys = [&other.key, &modern, &ancient]
        .map(|key| std::fs::read_to_string(key).expect("the file can be read"));
    for key in keys {
        let stray = with_key(&key);
        for field in ["pinned", "ca_files"] {
            let mut config = Config { certfile: Some(one.both.clone()), ..Config::default() };
            if field == "pinned" {
                config.pinned = vec![stray.clone()]
            } else {
                config.ca_files = vec![stray.clone()]
            }
            let reason = Node::new(config).err();
            assert!(
                matches!(&reason, Some(NodeError::Tls(TlsError::StrayKey { file, field: named })) if *file == stray && *named == field),
                "{field}: {reason:?}"
            );
        }
    }
    let without_certfile = Config { ca_files: vec![one.cert], ..Config::default() };
    let reason = Node::new(without_certfile).err();
    assert!(matches!(reason, Some(NodeError::Tls(TlsError::NoCertfile { field: "ca_files" }))), "{reason:?}");
}

/// The two share a certificate, but negotiate different protocols by ALPN.
#[test]
fn tls_node_and_actor_socket_refuse_each_other() {
    let (net, certs) = (Net::new(), Certs::new());
    let shared = certs.node("shared");
    let node = TestNode::start(tls_only(&net, "node", &shared));
    let tls = Tls::new(&TlsConfig { certfile: shared.both.clone(), ..TlsConfig::default() })
        .expect("the files are valid");
    let (fault_sender, faults) = channel();
    let (listener_sender, listeners) = channel();
    let to = node.location.addr();
    node.spawn(move |cx: &mut Cx<SocketEvent>, event| {
        match event {
            Event::Start => {
                let framing = Framing::Lines { max: 1000 };
                let at = cx.listen(tls.at("127.0.0.1:0"), framing, |_, event| event)?;
                report(&listener_sender, at);
                cx.connect(tls.at(to), framing, PATIENCE, |_, event| event);
            }
            Event::Message(SocketEvent::Closed(reason)) => {
                report(&fault_sender, reason.as_ref().and_then(TlsFault::of));
            }
            _ => {}
        }
        receive()
    });
    assert_eq!(recv(&faults), Some(TlsFault::OtherProtocol));
    assert_eq!(node.connect(recv(&listeners), PATIENCE), refused(TlsFault::OtherProtocol));
    assert_eq!(node.counts().peers, 0);
}

/// The commands of the guide for a private CA. The last one adds the extension.
#[test]
fn tls_private_ca_of_openssl_is_accepted() {
    let (net, certs) = (Net::new(), Certs::new());
    let run = |line: &str| {
        let done = Command::new("openssl").args(line.split(' ')).current_dir(certs.path()).output();
        done.ok().map(|done| assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr)))
    };
    let ca =
        "req -x509 -newkey rsa:2048 -keyout ca.key -nodes -out ca.crt -sha256 -days 3650 -subj /CN=our-ca";
    if run(ca).is_none() {
        return println!("skipped: `openssl` is not installed");
    }
    certs.write("v3.ext", "basicConstraints=CA:FALSE\n");
    let sign = |name: &str, more: &str| {
        run(&format!("req -newkey rsa:2048 -keyout {name}.key -nodes -out {name}.csr -subj /CN={name}"));
        run(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out {name}.crt -days 1000 -sha256{more}"
        ));
        set_mode(&certs.path().join(format!("{name}.key")), 0o600);
        let file = |end: &str| certs.path().join(format!("{name}.{end}"));
        Config {
            secret: None,
            certfile: Some(file("crt")),
            keyfile: Some(file("key")),
            ca_files: vec![certs.path().join("ca.crt")],
            ..net.static_config(name, &[])
        }
    };
    let first = TestNode::start(sign("first", " -extfile v3.ext"));
    let second = TestNode::start(with_peer(sign("second", " -extfile v3.ext"), &first));
    assert_delivers(&first, &second);
    // OpenSSL up to 3.3 signs with version 1 if there is no extension.
    match Node::new(sign("third", "")).err() {
        None | Some(NodeError::Tls(TlsError::Version1 { .. })) => {}
        other => panic!("{other:?}"),
    }
}
