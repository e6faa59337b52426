//! The protocol tried from outside: a client that uses none of this crate talks to one of its sessions.

#[expect(dead_code, reason = "the vectors use the rest")]
#[path = "outsider/mod.rs"]
mod client;

use antiphon_wire::frame::Message;
use antiphon_wire::{
    Admission, Deframer, Entropy, Epochs, Frame, Handshake, HandshakeError, HandshakeStep, Key, Keyring,
    Limits, NodeId, Profile, ProvenConnection, Refusal, Route, Secret, Session, Suite, Time,
};
use client::{Chance, Hello, Records, derive, frame, frames, proof, take_message, transcript};

const NOW: Time = Time::START;

/// A node of this crate, as far as the outsider needs one.
struct Insider {
    profile: Profile,
    epochs: Epochs,
    session: Option<Session>,
    input: Deframer,
}

/// One connection of the outsider.
struct Line {
    sends: Records,
    receives: Records,
    resume_key: [u8; 32],
    resumed: bool,
    acceptor_epoch: u64,
}

fn insider(suites: &[Suite]) -> Insider {
    let profile = Profile {
        node: NodeId(1),
        name: "insider".to_owned(),
        locations: Vec::new(),
        suites: suites.to_vec(),
        keyring: Keyring::new(3, Secret::from("test")),
        flags: 0,
        limits: Limits::default(),
    };
    Insider { profile, epochs: Epochs::default(), session: None, input: Deframer::new() }
}

/// What the outsider remembers between two connections.
#[derive(Default)]
struct Memory {
    ordinal: u32,
    known: u64,
    next: u64,
    resume_keys: Vec<[u8; 32]>,
}

/// The outsider dials: its own bytes on one side, a handshake of the crate on the other.
fn dial(inside: &mut Insider, suite: u8, secret: &str, memory: &mut Memory) -> Result<Line, HandshakeError> {
    memory.ordinal += 1;
    let chance = Chance { private: [memory.ordinal as u8; 32], nonce: [0x42; 32] };
    let said = Hello { node: 99, epoch: 1, known: memory.known, ordinal: memory.ordinal, suite, key_id: 3 };
    let mine = client::hello(&said, &chance);
    inside.input = Deframer::new();
    let mut handshake = Handshake::accept(None);
    let mut back = Vec::new();
    inside.input.push(&mine);
    let step = handshake.advance(&inside.profile, &mut inside.input, &mut back)?;
    assert!(matches!(step, HandshakeStep::Introduced));
    let peer = handshake.peer().expect("introduced");
    assert_eq!((peer.name.as_str(), peer.locations.len()), ("outsider", 1));
    let resume_state = Session::answer_to(inside.session.as_ref(), &inside.epochs, peer).expect("welcome");
    let entropy = Entropy::system().expect("randomness");
    handshake.answer(&inside.profile, entropy, resume_state, &mut back)?;
    let (kind, theirs) = take_message(&mut back);
    assert_eq!(kind, 2);
    let met = client::read_hello(&theirs);
    assert_eq!((met.node, met.suite), (1, suite));
    let hash = transcript(&mine, &theirs);
    let agreed = client::agree(&chance.private, &met.public);
    let key = |label| derive(secret, &agreed, label, &hash);
    let proof_key = key("antiphon proof");
    let resumes = memory.known != 0;
    let keys = (suite != 5).then_some((&proof_key, memory.resume_keys.as_slice()));
    inside.input.push(&proof("antiphon dialler proves", &hash, resumes, memory.next, keys));
    let step = handshake.advance(&inside.profile, &mut inside.input, &mut back)?;
    assert!(matches!(step, HandshakeStep::Proven));
    let holding =
        Session::confirm_to(inside.session.as_ref(), &mut inside.epochs, &handshake).expect("still welcome");
    let connection = handshake.confirm(&inside.profile, &holding, &mut back)?;
    let (kind, theirs) = take_message(&mut back);
    assert_eq!(kind, 4);
    let resumed = theirs[8] == 1;
    let next = u64::from_le_bytes(theirs[9..17].try_into().expect("eight bytes"));
    let matched: Vec<[u8; 32]> = if resumed { memory.resume_keys.clone() } else { Vec::new() };
    let keys = (suite != 5).then_some((&proof_key, matched.as_slice()));
    assert_eq!(
        theirs,
        proof("antiphon acceptor proves", &hash, resumed, next, keys),
        "the acceptor proves it too"
    );
    take(inside, connection);
    let records = |label| Records { suite, key: key(label), number: 0 };
    Ok(Line {
        sends: records("antiphon dialler records"),
        receives: records("antiphon acceptor records"),
        resume_key: key("antiphon resume"),
        resumed,
        acceptor_epoch: met.epoch,
    })
}

fn take(inside: &mut Insider, connection: Box<ProvenConnection>) {
    match Session::admit(inside.session.as_ref(), &inside.epochs, &connection) {
        Admission::Takes => {}
        Admission::Begins => {
            let profile = &inside.profile;
            inside.session = Some(Session::begin(NOW, &profile.limits, profile.node, &connection));
        }
        Admission::Refused(refusal) => panic!("{refusal}"),
    }
    inside.session.as_mut().expect("there is one").connected(NOW, connection).expect("admitted");
}

/// What the insider makes of the outsider's bytes.
fn heard(inside: &mut Insider, bytes: &[u8]) -> Vec<String> {
    let mut heard = Vec::new();
    let session = inside.session.as_mut().expect("they have met");
    let mut rest = bytes;
    while !rest.is_empty() {
        let count = inside.input.push(&rest[..rest.len().min(7)]);
        rest = &rest[count..];
        while let Some(mut frames) = session.next_record(NOW, &mut inside.input).expect("sound records") {
            while let Some(incoming) = session.next_frame(NOW, &mut frames).expect("sound frames") {
                if let Frame::Message(message) = incoming.frame() {
                    let tag = session.tag_name(message.tag).expect("a known tag");
                    let body: (u32, String) = rmp_serde::from_slice(message.body).expect("MessagePack");
                    heard.push(format!("{tag} to {} {body:?}", message.to));
                }
            }
        }
    }
    heard
}

fn said(to: u64, body: &(u32, &str)) -> Vec<u8> {
    let mut payload = to.to_le_bytes().to_vec();
    payload.extend(5_u64.to_le_bytes());
    payload.extend(0_u32.to_le_bytes());
    payload.push(0);
    payload.extend(0_u16.to_le_bytes());
    payload.extend(rmp_serde::to_vec(body).expect("serializes"));
    frame(0x22, &payload)
}

fn first_words(line: &mut Line) -> Vec<u8> {
    let mut body = frame(0x0a, &0_u64.to_le_bytes());
    let mut tag = 0_u32.to_le_bytes().to_vec();
    tag.extend(6_u16.to_le_bytes());
    tag.extend(b"out./1");
    body.extend(frame(0x20, &tag));
    body.extend(said(7, &(1, "hello")));
    line.sends.seal(&body)
}

#[test]
fn an_outsider_speaks_and_is_answered_under_every_suite() {
    for (number, suite) in
        [(1, Suite::Aes128Gcm), (2, Suite::ChaCha20Poly1305), (3, Suite::Hmac), (5, Suite::Plain)]
    {
        let mut inside = insider(&[suite]);
        let mut line = dial(&mut inside, number, "test", &mut Memory::default()).expect("they meet");
        assert!(!line.resumed);
        let mut bytes = first_words(&mut line);
        bytes.extend(line.sends.seal(&said(8, &(2, "again"))));
        assert_eq!(heard(&mut inside, &bytes), ["out./1 to 7 (1, \"hello\")", "out./1 to 8 (2, \"again\")"]);
        for index in 3..300 {
            let bytes = line.sends.seal(&said(8, &(index, "many")));
            assert_eq!(heard(&mut inside, &bytes).len(), 1, "record {index}");
        }
        let mut out = answer(&mut inside, b"\xa5reply");
        let told = frames(&line.receives.open(&mut out));
        let kinds: Vec<u8> = told.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [0x0a, 0x01, 0x02, 0x20, 0x22], "begin, ack, credit, tag, message");
        assert_eq!(told[0].1, 0_u64.to_le_bytes());
        assert_eq!(told[1].1, 300_u64.to_le_bytes(), "a tag and 299 messages");
        assert_eq!(told[4].1[23..], *b"\xa5reply");
        assert!(out.is_empty());
    }
}

/// The insider sends a message and a large one after it.
fn answer(inside: &mut Insider, body: &[u8]) -> Vec<u8> {
    let session = inside.session.as_mut().expect("they have met");
    let tag = session.intern("in./1").expect("room");
    let message = Message { to: Key(5), from: Key(7), tag, receipt: None, route: Route::NONE, body };
    session.send(&Frame::Message(message)).expect("room");
    let mut out = Vec::new();
    while session.poll_transmit(NOW, &mut out) {}
    out
}

#[test]
fn an_outsider_that_lost_its_connection_resumes_and_gets_what_it_missed() {
    for (number, suite) in [(1, Suite::Aes128Gcm), (5, Suite::Plain)] {
        let mut inside = insider(&[suite]);
        let mut memory = Memory::default();
        let mut line = dial(&mut inside, number, "test", &mut memory).expect("they meet");
        let bytes = first_words(&mut line);
        heard(&mut inside, &bytes);
        let mut out = answer(&mut inside, b"\xa3one");
        assert_eq!(frames(&line.receives.open(&mut out)).len(), 5);
        // Two numbered frames were heard: a tag and a message. The next ones are lost with the connection.
        answer(&mut inside, b"\xa3two");
        answer(&mut inside, &[0xc4, 0]);
        (memory.known, memory.next) = (line.acceptor_epoch, 2);
        memory.resume_keys = if number == 5 { Vec::new() } else { vec![line.resume_key] };
        let mut line = dial(&mut inside, number, "test", &mut memory).expect("they meet again");
        assert!(line.resumed);
        let mut out = answer(&mut inside, b"\xa5three");
        let told = frames(&line.receives.open(&mut out));
        assert_eq!(told[0], (0x0a, 2_u64.to_le_bytes().to_vec()), "it begins where the outsider stopped");
        let bodies: Vec<&[u8]> =
            told.iter().filter(|(kind, _)| *kind == 0x22).map(|(_, payload)| &payload[23..]).collect();
        assert_eq!(bodies, [b"\xa3two".as_slice(), &[0xc4, 0], b"\xa5three"]);
    }
}

#[test]
fn an_outsider_puts_a_large_message_together_and_sends_one() {
    let mut inside = insider(&[Suite::Aes128Gcm]);
    let mut line = dial(&mut inside, 1, "test", &mut Memory::default()).expect("they meet");
    let bytes = first_words(&mut line);
    heard(&mut inside, &bytes);
    let large: Vec<u8> = (0..100_000_u32).map(|index| index as u8).collect();
    let mut out = answer(&mut inside, &large);
    let (mut payload, mut total) = (Vec::new(), 0);
    while !out.is_empty() {
        for (kind, fragment) in frames(&line.receives.open(&mut out)) {
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
    let whole = said(7, &(3, &text));
    // `said` makes a small frame; only its payload counts here.
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
        bytes.extend(line.sends.seal(&frame(0x21, &fragment)));
    }
    assert_eq!(heard(&mut inside, &bytes), [format!("out./1 to 7 {:?}", (3, text))]);
}

#[test]
fn an_outsider_with_another_secret_is_told_so() {
    let mut inside = insider(&[Suite::Aes128Gcm]);
    let refused = dial(&mut inside, 1, "guess", &mut Memory::default()).err();
    assert_eq!(refused, Some(HandshakeError::Refused(Refusal::WrongSecret)));
}
