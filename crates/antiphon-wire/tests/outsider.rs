//! Tests the protocol against an independent client, which uses nothing of this crate.

#[expect(dead_code, reason = "the other test uses the rest")]
#[path = "outsider/mod.rs"]
mod client;

use antiphon_wire::frame::Message;
use antiphon_wire::{
    Admission, Deframer, Entropy, Epochs, Frame, Handshake, HandshakeError, HandshakeStep, Key, Keyring,
    Limits, NodeId, Profile, ProvenConnection, Refusal, Route, Secret, Session, Suite, Time,
};
use client::{
    ClientEntropy, ClientHello, ClientRecords, derive, frame, frames, proof, take_message, transcript,
};
use x25519_dalek::{PublicKey, StaticSecret};

const NOW: Time = Time::ZERO;

/// A node of this crate, which accepts connections of the client.
struct NodeUnderTest {
    profile: Profile,
    epochs: Epochs,
    session: Option<Session>,
    input: Deframer,
}

/// The client's side of one connection.
struct ClientConnection {
    sealer: ClientRecords,
    opener: ClientRecords,
    resume_key: [u8; 32],
    resumed: bool,
    acceptor_epoch: u64,
}

fn node_with(suites: &[Suite]) -> NodeUnderTest {
    let profile = Profile {
        node: NodeId::from_bits(1),
        name: "node".to_owned(),
        locations: Vec::new(),
        suites: suites.to_vec(),
        keyring: Keyring::new(3, Secret::from("test")),
        flags: 0,
        limits: Limits::default(),
    };
    NodeUnderTest { profile, epochs: Epochs::default(), session: None, input: Deframer::new() }
}

/// The state by which the client resumes its session on the next connection.
#[derive(Default)]
struct ClientSession {
    ordinal: u32,
    known: u64,
    next: u64,
    resume_keys: Vec<[u8; 32]>,
}

/// The node's randomness, with a real key agreement.
fn x25519_entropy(private: [u8; 32]) -> Entropy {
    let private = StaticSecret::from(private);
    let public = PublicKey::from(&private).to_bytes();
    let agree = move |peer: &[u8; 32]| Some(private.diffie_hellman(&PublicKey::from(*peer)).to_bytes());
    Entropy::new([0x17; 32], public, agree)
}

/// Connects the client to the node: the client's own bytes on one side, a handshake of the crate on the other.
fn dial(
    node: &mut NodeUnderTest,
    suite: u8,
    secret: &str,
    session: &mut ClientSession,
) -> Result<ClientConnection, HandshakeError> {
    session.ordinal += 1;
    let entropy = ClientEntropy { private: [session.ordinal as u8; 32], nonce: [0x42; 32] };
    let hello =
        ClientHello { node: 99, epoch: 1, known: session.known, ordinal: session.ordinal, suite, key_id: 3 };
    let mine = client::hello(&hello, &entropy);
    node.input = Deframer::new();
    let mut handshake = Handshake::accept(None);
    let mut back = Vec::new();
    node.input.push(&mine);
    let step = handshake.advance(&node.profile, &mut node.input, &mut back)?;
    assert!(matches!(step, HandshakeStep::Introduced));
    let peer = handshake.peer().expect("introduced");
    assert_eq!((peer.name.as_str(), peer.locations.len()), ("outsider", 1));
    let resume_state = Session::answer_to(node.session.as_ref(), &node.epochs, peer).expect("not refused");
    let node_entropy = x25519_entropy([session.ordinal as u8 ^ 0xa5; 32]);
    handshake.answer(&node.profile, node_entropy, resume_state, &mut back)?;
    let (kind, theirs) = take_message(&mut back);
    assert_eq!(kind, 2);
    let answer = client::read_hello(&theirs);
    assert_eq!((answer.node, answer.suite), (1, suite));
    let hash = transcript(&mine, &theirs);
    let agreed = client::agree(&entropy.private, &answer.public);
    let key = |label| derive(secret, &agreed, label, &hash);
    let proof_key = key("antiphon proof");
    let resumes = session.known != 0;
    let keys = (suite != 5).then_some((&proof_key, session.resume_keys.as_slice()));
    node.input.push(&proof("antiphon dialler proves", &hash, resumes, session.next, keys));
    let step = handshake.advance(&node.profile, &mut node.input, &mut back)?;
    assert!(matches!(step, HandshakeStep::Proven));
    let held = Session::confirm_to(node.session.as_ref(), &mut node.epochs, &handshake).expect("not refused");
    let connection = handshake.confirm(&node.profile, &held, &mut back)?;
    let (kind, theirs) = take_message(&mut back);
    assert_eq!(kind, 4);
    let resumed = theirs[8] == 1;
    let next = u64::from_le_bytes(theirs[9..17].try_into().expect("eight bytes"));
    let matched: Vec<[u8; 32]> = if resumed { session.resume_keys.clone() } else { Vec::new() };
    let keys = (suite != 5).then_some((&proof_key, matched.as_slice()));
    assert_eq!(
        theirs,
        proof("antiphon acceptor proves", &hash, resumed, next, keys),
        "the acceptor sends its proof"
    );
    admit(node, connection);
    let records = |label| ClientRecords { suite, key: key(label), number: 0 };
    Ok(ClientConnection {
        sealer: records("antiphon dialler records"),
        opener: records("antiphon acceptor records"),
        resume_key: key("antiphon resume"),
        resumed,
        acceptor_epoch: answer.epoch,
    })
}

fn admit(node: &mut NodeUnderTest, connection: Box<ProvenConnection>) {
    match Session::admit(node.session.as_ref(), &node.epochs, &connection) {
        Admission::Continues => {}
        Admission::Begins => {
            let profile = &node.profile;
            node.session = Some(Session::begin(NOW, &profile.limits, profile.node, &connection));
        }
        Admission::Refused(refusal) => panic!("{refusal}"),
    }
    node.session.as_mut().expect("a session").connected(NOW, connection).expect("admitted");
}

/// Passes the client's bytes to the node, in pieces of 7 bytes, and returns the received messages.
fn receive(node: &mut NodeUnderTest, bytes: &[u8]) -> Vec<String> {
    let mut received = Vec::new();
    let session = node.session.as_mut().expect("connected");
    let mut rest = bytes;
    while !rest.is_empty() {
        let count = node.input.push(&rest[..rest.len().min(7)]);
        rest = &rest[count..];
        while let Some(mut frames) = session.next_record(NOW, &mut node.input).expect("sound records") {
            while let Some(incoming) = session.next_frame(NOW, &mut frames).expect("sound frames") {
                if let Frame::Message(message) = incoming.frame() {
                    let tag = session.tag_name(message.tag).expect("a known tag");
                    let body: (u32, String) = rmp_serde::from_slice(message.body).expect("MessagePack");
                    received.push(format!("{tag} to {} {body:?}", message.to.to_bits()));
                }
            }
            let unread = frames.unread();
            node.input.put_back(unread);
        }
    }
    received
}

fn message_frame(to: u64, body: &(u32, &str)) -> Vec<u8> {
    let mut payload = to.to_le_bytes().to_vec();
    payload.extend(5_u64.to_le_bytes());
    payload.extend(0_u32.to_le_bytes());
    payload.push(0);
    payload.extend(0_u16.to_le_bytes());
    payload.extend(rmp_serde::to_vec(body).expect("serializes"));
    frame(0x22, &payload)
}

/// The client's first record: `Begin`, a type tag and a message.
fn first_record(connection: &mut ClientConnection) -> Vec<u8> {
    let mut body = frame(0x0a, &0_u64.to_le_bytes());
    let mut tag = 0_u32.to_le_bytes().to_vec();
    tag.extend(6_u16.to_le_bytes());
    tag.extend(b"out./1");
    body.extend(frame(0x20, &tag));
    body.extend(message_frame(7, &(1, "hello")));
    connection.sealer.seal(&body)
}

#[test]
fn client_exchanges_messages_under_every_suite() {
    for (number, suite) in
        [(1, Suite::Aes128Gcm), (2, Suite::ChaCha20Poly1305), (3, Suite::Hmac), (5, Suite::Plain)]
    {
        let mut node = node_with(&[suite]);
        let mut connection =
            dial(&mut node, number, "test", &mut ClientSession::default()).expect("connects");
        assert!(!connection.resumed);
        let mut bytes = first_record(&mut connection);
        bytes.extend(connection.sealer.seal(&message_frame(8, &(2, "again"))));
        assert_eq!(receive(&mut node, &bytes), ["out./1 to 7 (1, \"hello\")", "out./1 to 8 (2, \"again\")"]);
        for index in 3..300 {
            let bytes = connection.sealer.seal(&message_frame(8, &(index, "many")));
            assert_eq!(receive(&mut node, &bytes).len(), 1, "record {index}");
        }
        let mut out = send(&mut node, b"\xa5reply");
        let received = frames(&connection.opener.open(&mut out));
        let kinds: Vec<u8> = received.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [0x0a, 0x01, 0x02, 0x20, 0x22], "begin, ack, credit, tag, message");
        assert_eq!(received[0].1, 0_u64.to_le_bytes());
        assert_eq!(received[1].1, 300_u64.to_le_bytes(), "a tag and 299 messages");
        assert_eq!(received[4].1[23..], *b"\xa5reply");
        assert!(out.is_empty());
    }
}

/// Lets the node send one message, and returns the bytes for the client.
fn send(node: &mut NodeUnderTest, body: &[u8]) -> Vec<u8> {
    let session = node.session.as_mut().expect("connected");
    let tag = session.intern("in./1").expect("room");
    let message = Message {
        to: Key::from_bits(5),
        from: Key::from_bits(7),
        tag,
        receipt: None,
        route: Route::NONE,
        body,
    };
    session.send(&Frame::Message(message)).expect("room");
    let mut out = Vec::new();
    while session.poll_transmit(NOW, &mut out) {}
    out
}

#[test]
fn client_reconnected_resumes_and_receives_missed_messages() {
    for (number, suite) in [(1, Suite::Aes128Gcm), (5, Suite::Plain)] {
        let mut node = node_with(&[suite]);
        let mut session = ClientSession::default();
        let mut connection = dial(&mut node, number, "test", &mut session).expect("connects");
        let bytes = first_record(&mut connection);
        receive(&mut node, &bytes);
        let mut out = send(&mut node, b"\xa3one");
        assert_eq!(frames(&connection.opener.open(&mut out)).len(), 5);
        // The client has received two numbered frames: a tag and a message. The next ones are lost with the
        // connection.
        send(&mut node, b"\xa3two");
        send(&mut node, &[0xc4, 0]);
        (session.known, session.next) = (connection.acceptor_epoch, 2);
        session.resume_keys = if number == 5 { Vec::new() } else { vec![connection.resume_key] };
        let mut connection = dial(&mut node, number, "test", &mut session).expect("connects again");
        assert!(connection.resumed);
        let mut out = send(&mut node, b"\xa5three");
        let received = frames(&connection.opener.open(&mut out));
        assert_eq!(
            received[0],
            (0x0a, 2_u64.to_le_bytes().to_vec()),
            "the first frame is the next that the client expects"
        );
        let bodies: Vec<&[u8]> =
            received.iter().filter(|(kind, _)| *kind == 0x22).map(|(_, payload)| &payload[23..]).collect();
        assert_eq!(bodies, [b"\xa3two".as_slice(), &[0xc4, 0], b"\xa5three"]);
    }
}

#[test]
fn client_exchanges_large_messages_in_fragments() {
    let mut node = node_with(&[Suite::Aes128Gcm]);
    let mut connection = dial(&mut node, 1, "test", &mut ClientSession::default()).expect("connects");
    let bytes = first_record(&mut connection);
    receive(&mut node, &bytes);
    let large: Vec<u8> = (0..100_000_u32).map(|index| index as u8).collect();
    let mut out = send(&mut node, &large);
    let (mut payload, mut total) = (Vec::new(), 0);
    while !out.is_empty() {
        for (kind, fragment) in frames(&connection.opener.open(&mut out)) {
            if kind != 0x21 {
                continue;
            }
            let data = match fragment[4] {
                0 => {
                    assert_eq!(fragment[5], 0x22);
                    total = u32::from_le_bytes(fragment[6..10].try_into().expect("four bytes"));
                    &fragment[10..]
                }
                _ => &fragment[5..],
            };
            assert!(data.len() <= 16_384);
            payload.extend_from_slice(data);
        }
    }
    assert_eq!(payload.len(), total as usize);
    assert_eq!(payload[23..], large);

    let text = "x".repeat(40_000);
    let whole = message_frame(7, &(3, &text));
    // A frame of this length is sent in fragments, so only its payload is used.
    let mut payload = Vec::new();
    payload.extend_from_slice(&whole[4..]);
    let mut bytes = Vec::new();
    for (index, part) in payload.chunks(16_384).enumerate() {
        let mut fragment = 77_u32.to_le_bytes().to_vec();
        if index == 0 {
            fragment.extend([0, 0x22]);
            fragment.extend((payload.len() as u32).to_le_bytes());
        } else {
            fragment.push(1);
        }
        fragment.extend(part);
        bytes.extend(connection.sealer.seal(&frame(0x21, &fragment)));
    }
    assert_eq!(receive(&mut node, &bytes), [format!("out./1 to 7 {:?}", (3, text))]);
}

#[test]
fn client_with_wrong_secret_is_refused() {
    let mut node = node_with(&[Suite::Aes128Gcm]);
    let refused = dial(&mut node, 1, "guess", &mut ClientSession::default()).err();
    assert_eq!(refused, Some(HandshakeError::Refused(Refusal::WrongSecret)));
}
