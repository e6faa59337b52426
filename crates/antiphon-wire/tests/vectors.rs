//! Checks that this crate writes and reads the bytes of the vectors in docs/vectors.
//!
//! After a change of the protocol, `ANTIPHON_WRITE_VECTORS=1 cargo test -p antiphon-wire --test vectors` rewrites
//! the vectors.

#[expect(dead_code, reason = "the other test uses the rest")]
#[path = "outsider/mod.rs"]
mod client;
#[path = "vectors/frames.rs"]
mod frames;
#[path = "vectors/hostile.rs"]
mod hostile;
#[path = "vectors/sessions.rs"]
mod sessions;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use antiphon_wire::frame::{Message, RawFrame};
use antiphon_wire::{
    Datagram, DatagramKey, Deframer, Entropy, Frame, Handshake, HandshakeStep, HeldSession, Key, Keyring,
    Limits, Locations, NodeId, Presence, Probe, ProbeReply, Profile, ProvenConnection, ResumeState, Route,
    Secret, Session, Suite, Time,
};
use x25519_dalek::{PublicKey, StaticSecret};

/// Asserts that a file of docs/vectors holds `expected`, after rewriting it on request.
fn assert_vectors(file: &str, expected: &str) {
    let path = vectors(file);
    if std::env::var_os("ANTIPHON_WRITE_VECTORS").is_some() {
        std::fs::write(&path, expected).expect("the folder exists");
    }
    let written = std::fs::read_to_string(&path).expect("the file exists");
    for (line, (written, expected)) in written.lines().zip(expected.lines()).enumerate() {
        assert_eq!(written, expected, "{file}, line {}", line + 1);
    }
    assert_eq!(written.lines().count(), expected.lines().count(), "number of lines of {file}");
}

fn vectors(file: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/vectors")).join(file)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).expect("ASCII"), 16).expect("hex")).collect()
}

fn locations() -> Vec<SocketAddr> {
    vec!["127.0.0.1:9705".parse().expect("v4"), "[2001:db8::1]:80".parse().expect("v6")]
}

#[test]
fn frames_match_vectors() {
    let locations = locations();
    let route_entries = [(NodeId::from_bits(0x1122_3344_5566_7788), locations.clone())];
    let mut text = String::from("# Whole frames, one of each kind and form: kind, flags, length, payload.\n");
    let mut kinds = Vec::new();
    for frame in frames::all_frames(&locations, &route_entries) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes).expect("small");
        let mut rest = bytes.as_slice();
        let raw = RawFrame::take_from(&mut rest).expect("a frame").expect("a frame");
        assert!(rest.is_empty());
        assert_eq!(raw.decode(), Ok(Some(frame)), "{} survives encoding", frame.name());
        for cut in 0..raw.payload.len() {
            let whole = Frame::decode(raw.kind, raw.payload).expect("sound");
            let decoded = Frame::decode(raw.kind, &raw.payload[..cut]);
            assert_ne!(decoded, Ok(whole), "{} cut at {cut}", frame.name());
        }
        kinds.push(frame.kind());
        let _infallible = writeln!(text, "{}: {}", frame.name(), hex(&bytes));
    }
    for (kind, name) in Frame::KINDS {
        assert!(kinds.contains(kind), "{name} has a vector");
    }
    assert_vectors("frames.txt", &text);
}

#[test]
fn handshakes_keys_and_first_records_match_vectors() {
    let mut text = String::from(
        "# Whole handshakes between node 1 (dialler) and node 2 (acceptor), and the first record of each side.\n\
         # secret: the text. private, nonce: the random inputs. transcript, agreed and keys: derived as in PROTOCOL.md.\n",
    );
    for suite in SUITES {
        let _infallible = write!(text, "{}", handshake(suite));
    }
    assert_vectors("handshake.txt", &text);
}

fn profile(node: u64, suite: Suite) -> Profile {
    Profile {
        node: NodeId::from_bits(node),
        name: format!("node {node}"),
        locations: if node == 1 { locations() } else { Vec::new() },
        suites: vec![suite],
        keyring: Keyring::new(7, Secret::from("test")),
        flags: 0,
        limits: Limits::default(),
    }
}

fn entropy(private: [u8; 32], nonce: [u8; 32]) -> Entropy {
    let secret = StaticSecret::from(private);
    let public = PublicKey::from(&secret).to_bytes();
    Entropy::new(nonce, public, move |peer| {
        let agreed = secret.diffie_hellman(&PublicKey::from(*peer));
        agreed.was_contributory().then(|| agreed.to_bytes())
    })
}

const SUITES: [Suite; 5] = [Suite::Aes128Gcm, Suite::ChaCha20Poly1305, Suite::Hmac, Suite::Tls, Suite::Plain];

/// A complete handshake between node 1, the dialler, and node 2.
struct CompleteHandshake {
    exporter: Option<[u8; 32]>,
    hello_a: Vec<u8>,
    hello_b: Vec<u8>,
    proof_a: Vec<u8>,
    proof_b: Vec<u8>,
    at_a: Box<ProvenConnection>,
    at_b: Box<ProvenConnection>,
}

const PRIVATE: ([u8; 32], [u8; 32]) = ([0x11; 32], [0x22; 32]);
const NONCE: ([u8; 32], [u8; 32]) = ([0x33; 32], [0x44; 32]);

fn complete_handshake(suite: Suite) -> CompleteHandshake {
    let (here, there) = (profile(1, suite), profile(2, suite));
    let exporter = (suite == Suite::Tls).then_some([0xee; 32]);
    let (mut to_a, mut to_b) = (Deframer::new(), Deframer::new());
    let mut hello_a = Vec::new();
    let mut dialler =
        Handshake::dial(&here, entropy(PRIVATE.0, NONCE.0), ResumeState::unknown(1), exporter, &mut hello_a);
    to_b.push(&hello_a);
    let mut acceptor = Handshake::accept(exporter);
    let mut hello_b = Vec::new();
    let step = acceptor.advance(&there, &mut to_b, &mut hello_b).expect("a sound hello");
    assert!(matches!(step, HandshakeStep::Introduced));
    let resume_state = ResumeState { epoch: 3, known: 0, ordinal: 0 };
    acceptor.answer(&there, entropy(PRIVATE.1, NONCE.1), resume_state, &mut hello_b).expect("at this step");
    to_a.push(&hello_b);
    let mut proof_a = Vec::new();
    let step = dialler.advance(&here, &mut to_a, &mut proof_a).expect("a sound hello");
    assert!(matches!(step, HandshakeStep::Introduced));
    dialler.prove(&here, HeldSession::nothing(), &mut proof_a).expect("at this step");
    to_b.push(&proof_a);
    let mut proof_b = Vec::new();
    let step = acceptor.advance(&there, &mut to_b, &mut proof_b).expect("a sound proof");
    assert!(matches!(step, HandshakeStep::Proven));
    let at_b = acceptor.confirm(&there, &HeldSession::nothing(), &mut proof_b).expect("at this step");
    to_a.push(&proof_b);
    let Ok(HandshakeStep::Done(at_a)) = dialler.advance(&here, &mut to_a, &mut Vec::new()) else {
        panic!("the handshake is not done")
    };
    CompleteHandshake { exporter, hello_a, hello_b, proof_a, proof_b, at_a, at_b }
}

/// One handshake as lines of the vectors.
fn handshake(suite: Suite) -> String {
    let (here, there) = (profile(1, suite), profile(2, suite));
    let CompleteHandshake { exporter, hello_a, hello_b, proof_a, proof_b, at_a, at_b } =
        complete_handshake(suite);
    let mut lines = String::new();
    let mut line = |name: &str, bytes: &[u8]| {
        let _infallible = writeln!(lines, "{suite:?} {name}: {}", hex(bytes));
    };
    line("secret", b"test");
    line("dialler private", &PRIVATE.0);
    line("dialler nonce", &NONCE.0);
    line("acceptor private", &PRIVATE.1);
    line("acceptor nonce", &NONCE.1);
    if let Some(exporter) = &exporter {
        line("exporter", exporter);
    }
    line("dialler hello", &hello_a);
    line("acceptor hello", &hello_b);

    // The independent client derives the same values from these bytes.
    let acceptor_bytes =
        [hello_b.as_slice(), exporter.as_ref().map_or(&[], |bytes| bytes.as_slice())].concat();
    let transcript = client::transcript(&hello_a, &acceptor_bytes);
    let agreed = client::agree(&PRIVATE.0, &client::public(&PRIVATE.1));
    let key = |label: &str| client::derive("test", &agreed, label, &transcript);
    if suite.is_proven() {
        line("transcript", &transcript);
        line("agreed", &agreed);
        for label in
            ["antiphon proof", "antiphon resume", "antiphon dialler records", "antiphon acceptor records"]
        {
            line(label, &key(label));
        }
    }
    let proof_key = key("antiphon proof");
    let keys = suite.is_proven().then_some((&proof_key, [].as_slice()));
    assert_eq!(proof_a, client::proof("antiphon dialler proves", &transcript, false, 0, keys), "{suite:?}");
    assert_eq!(proof_b, client::proof("antiphon acceptor proves", &transcript, false, 0, keys), "{suite:?}");
    line("dialler proof", &proof_a);
    line("acceptor proof", &proof_b);

    for (role, profile, connection) in [("dialler", &here, at_a), ("acceptor", &there, at_b)] {
        let mut record = first_record(profile, connection);
        line(&format!("{role} record"), &record);
        let label = format!("antiphon {role} records");
        let number =
            [Suite::Aes128Gcm, Suite::ChaCha20Poly1305, Suite::Hmac].iter().position(|known| *known == suite);
        let number = number.map_or(5, |index| index as u8 + 1);
        let mut records = client::ClientRecords { suite: number, key: key(&label), number: 0 };
        let body = records.open(&mut record);
        line(&format!("{role} record's body"), &body);
        let kinds: Vec<u8> = client::frames(&body).iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [0x0a, 0x02, 0x20, 0x22]);
    }
    lines
}

fn first_record(profile: &Profile, connection: Box<ProvenConnection>) -> Vec<u8> {
    let mut session = Session::begin(Time::ZERO, &profile.limits, profile.node, &connection);
    session.connected(Time::ZERO, connection).expect("the session begins");
    let tag = session.intern("str").expect("room");
    let body = b"\xa5hello";
    let message = Message {
        to: Key::from_bits(1),
        from: Key::from_bits(2),
        tag,
        receipt: None,
        route: Route::NONE,
        body,
    };
    session.send(&message.into()).expect("room");
    let mut out = Vec::new();
    assert!(session.poll_transmit(Time::ZERO, &mut out));
    out
}

#[test]
fn session_decisions_match_vectors() {
    assert_vectors("sessions.txt", &sessions::text());
}

#[test]
fn datagrams_match_vectors() {
    let locations = locations();
    let siblings = [(NodeId::from_bits(3), locations.clone())];
    let from = Presence { node: NodeId::from_bits(9), name: "nine", locations: Locations::Plain(&locations) };
    let all = [
        ("announce", Datagram::Announce(from)),
        ("probe", Datagram::Probe(Probe { from, reply_to: Some(locations[0]) })),
        ("answer", Datagram::ProbeReply(ProbeReply { from, siblings: Route::Plain(&siblings) })),
        ("bye", Datagram::Bye { node: NodeId::from_bits(9) }),
    ];
    let key = DatagramKey::new(7, &Secret::from("test"));
    let derived = client::datagram_key("test");
    let mut text =
        String::from("# Datagrams of node 9, without a key, and under key id 7 with the secret \"test\".\n");
    let _infallible = writeln!(text, "key: {}", hex(&derived));
    for (name, datagram) in all {
        let mut bytes = Vec::new();
        datagram.encode(None, &mut bytes).expect("small");
        assert_eq!(Datagram::decode(None, &bytes), Ok(datagram));
        let _infallible = writeln!(text, "plain {name}: {}", hex(&bytes));
        datagram.encode(Some(&key), &mut bytes).expect("small");
        let (signed, tag) = bytes.split_at(bytes.len() - 32);
        assert_eq!(client::mac(&derived, signed), tag);
        let _infallible = writeln!(text, "keyed {name}: {}", hex(&bytes));
    }
    // A receiver does not look at the padding.
    let probe = Datagram::Probe(Probe { from, reply_to: Some(locations[0]) });
    let mut bytes = Vec::new();
    probe.encode(None, &mut bytes).expect("small");
    let fields = bytes.iter().rposition(|byte| *byte != 0).expect("a header") + 1;
    bytes[fields..].fill(7);
    assert_eq!(Datagram::decode(None, &bytes), Ok(probe));
    let _infallible = writeln!(text, "plain probe, padded with 7s: {}", hex(&bytes));
    assert_vectors("datagrams.txt", &text);
}

#[test]
fn secrets_match_vectors() {
    let mut text = String::from("# 32 random bytes, and the strong secret that stands for them, as ASCII.\n");
    for bytes in [[0; 32], [0xff; 32], std::array::from_fn(|index| index as u8)] {
        let secret = Secret::from_random(bytes);
        assert!(secret.is_strong());
        let _infallible =
            writeln!(text, "random: {}\nsecret: {}", hex(&bytes), hex(secret.reveal().as_bytes()));
    }
    assert_vectors("secrets.txt", &text);
}

#[test]
fn hostile_bytes_are_refused_as_in_vectors() {
    let mut text = String::new();
    let mut refused = 0;
    for line in std::fs::read_to_string(vectors("hostile.txt")).expect("the file exists").lines() {
        let Some((name, bytes)) = line.rsplit_once(':').filter(|_| !line.starts_with('#')) else {
            let _infallible = writeln!(text, "{line}");
            continue;
        };
        let mut parts = name.split('|').map(str::trim);
        let (kind, reason) = (parts.next().expect("a kind"), parts.next_back().expect("a reason"));
        let refusal = hostile::refusal(kind, &unhex(bytes.trim()));
        let refusal = refusal.unwrap_or_else(|| panic!("{kind}: {reason}: the bytes were accepted"));
        let _infallible = writeln!(text, "{kind} | {refusal} | {reason}:{bytes}");
        refused += 1;
    }
    assert!(refused > 180, "{refused} lines");
    assert_vectors("hostile.txt", &text);
}
