//! Measures the time of one message between two sessions in memory: send, seal, deframe, open, decode.
//!
//! `cargo run --release -p antiphon-wire --example throughput`

use std::time::Instant;

use antiphon_wire::frame::Message;
use antiphon_wire::{
    Admission, Deframer, Entropy, Epochs, Frame, Handshake, HandshakeStep, HeldSession, Incoming, Key,
    Keyring, Limits, NodeId, Profile, ProvenConnection, ResumeState, Route, Secret, Session, Suite, Time,
    msgpack,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for suite in [Suite::Aes128Gcm, Suite::ChaCha20Poly1305, Suite::Hmac, Suite::Plain] {
        let best = (0..5).map(|_| measure(suite)).collect::<Result<Vec<_>, _>>()?;
        let best = best.into_iter().min_by(|a, b| (a.0 + a.1 + a.2).total_cmp(&(b.0 + b.1 + b.2)));
        let (send, seal, receive) = best.unwrap_or_default();
        let whole = send + seal + receive;
        println!(
            "{suite:?}: send {send:.1} + seal {seal:.1} + open and decode {receive:.1} = {whole:.1} ns per message"
        );
    }
    check_cost();
    Ok(())
}

const MESSAGES: u64 = 2_000_000;
const BURST: u64 = 2_000;

/// Measures the nanoseconds per message of 60 bytes for sending, transmitting and receiving.
fn measure(suite: Suite) -> Result<(f64, f64, f64), Box<dyn std::error::Error>> {
    let (mut a, mut b) = connected_sessions(suite)?;
    let now = Time::ZERO;
    let body = [7; 60];
    let (mut input, mut back) = (Deframer::new(), Deframer::new());
    let mut out = Vec::with_capacity(1 << 20);
    let (mut send, mut seal, mut receive) = (0.0, 0.0, 0.0);
    let mut received = 0;
    for _ in 0..MESSAGES / BURST {
        let start = clock();
        for number in 0..BURST {
            let tag = a.intern("bench.body/1")?;
            let message = Message {
                to: Key::from_bits(number),
                from: Key::from_bits(2),
                tag,
                receipt: None,
                route: Route::NONE,
                body: &body,
            };
            a.send(&Frame::Message(message))?;
        }
        send += nanos_since(start);
        let start = clock();
        while a.poll_transmit(now, &mut out) {}
        seal += nanos_since(start);
        let start = clock();
        received += receive_all(&mut b, &mut input, &out)?;
        out.clear();
        receive += nanos_since(start);
        while b.poll_transmit(now, &mut out) {}
        receive_all(&mut a, &mut back, &out)?;
        out.clear();
    }
    assert_eq!(received, MESSAGES + 1, "all messages and their tag arrive");
    let each = MESSAGES as f64;
    Ok((send / each, seal / each, receive / each))
}

fn receive_all(
    session: &mut Session,
    input: &mut Deframer,
    mut bytes: &[u8],
) -> Result<u64, Box<dyn std::error::Error>> {
    let mut received = 0;
    while !bytes.is_empty() {
        bytes = &bytes[input.push(bytes)..];
        while let Some(mut frames) = session.next_record(Time::ZERO, input)? {
            while let Some(incoming) = session.next_frame(Time::ZERO, &mut frames)? {
                if let Incoming::Frame(Frame::Message(message)) = &incoming {
                    std::hint::black_box(message.body);
                }
                received += 1;
            }
            let unread = frames.unread();
            input.put_back(unread);
        }
    }
    Ok(received)
}

fn connected_sessions(suite: Suite) -> Result<(Session, Session), Box<dyn std::error::Error>> {
    let profile = |node| Profile {
        node: NodeId::from_bits(node),
        name: "bench".to_owned(),
        locations: Vec::new(),
        suites: vec![suite],
        keyring: Keyring::new(0, Secret::from("bench")),
        flags: 0,
        limits: Limits::default(),
    };
    let (here, there) = (profile(1), profile(2));
    let (mut from_a, mut from_b) = (Vec::new(), Vec::new());
    let (mut to_a, mut to_b) = (Deframer::new(), Deframer::new());
    let mut dialler = Handshake::dial(&here, entropy(1), ResumeState::unknown(1), None, &mut from_a);
    let mut acceptor = Handshake::accept(None);
    let mut accepted = None;
    loop {
        to_b.push(&std::mem::take(&mut from_a));
        if accepted.is_none() {
            match acceptor.advance(&there, &mut to_b, &mut from_b)? {
                HandshakeStep::Introduced => {
                    acceptor.answer(&there, entropy(2), ResumeState::unknown(1), &mut from_b)?
                }
                HandshakeStep::Proven => {
                    accepted = Some(acceptor.confirm(&there, &HeldSession::nothing(), &mut from_b)?)
                }
                HandshakeStep::Wait | HandshakeStep::Done(_) => {}
            }
        }
        to_a.push(&std::mem::take(&mut from_b));
        match dialler.advance(&here, &mut to_a, &mut from_a)? {
            HandshakeStep::Introduced => dialler.prove(&here, HeldSession::nothing(), &mut from_a)?,
            HandshakeStep::Done(connection) => {
                let accepted = accepted.ok_or("the dialler is done before the acceptor")?;
                return Ok((session(&here, connection)?, session(&there, accepted)?));
            }
            HandshakeStep::Wait | HandshakeStep::Proven => {}
        }
    }
}

fn session(
    profile: &Profile,
    connection: Box<ProvenConnection>,
) -> Result<Session, Box<dyn std::error::Error>> {
    assert_eq!(Session::admit(None, &Epochs::default(), &connection), Admission::Begins);
    let mut session = Session::begin(Time::ZERO, &profile.limits, profile.node, &connection);
    session.connected(Time::ZERO, connection)?;
    Ok(session)
}

/// Measures the structural check of a small body: a map of two numbers and 48 bytes.
fn check_cost() {
    let mut body = vec![
        0x83, 0xa1, b'a', 0xcf, 0, 0, 0, 0, 0, 0, 0, 1, 0xa1, b'b', 0xce, 0, 0, 0, 1, 0xa1, b'c', 0xc4, 48,
    ];
    body.resize(body.len() + 48, 0);
    let limits = msgpack::BodyLimits::default();
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = clock();
        for _ in 0..1_000_000 {
            let checked = msgpack::check(std::hint::black_box(&body), &limits);
            assert_eq!(checked, Ok(()));
        }
        best = best.min(nanos_since(start) / 1e6);
    }
    println!("structural check: {best:.1} ns");
}

#[expect(clippy::disallowed_methods, reason = "a measurement needs a clock; the crate itself uses none")]
fn clock() -> Instant {
    Instant::now()
}

fn nanos_since(start: Instant) -> f64 {
    start.elapsed().as_nanos() as f64
}

/// The two sides agree on the sum of their public keys: the key agreement is not measured.
fn entropy(public: u8) -> Entropy {
    Entropy::new([public; 32], [public; 32], move |peer| Some([public.wrapping_add(peer[0]); 32]))
}
