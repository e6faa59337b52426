//! The decisions of PROTOCOL.md, "Sessions", as lines of sessions.txt.
//!
//! Node 1 dials, and node 2 accepts. If a node holds a half, the epochs of the session are 9 (node 1) and 5 (node 2). Without a
//! half, these are the epochs of their next halves.

use std::fmt::Write as _;

use antiphon_wire::{
    Deframer, Epochs, Handshake, HandshakeStep, HeldSession, NodeId, ProvenConnection, Refusal, ResumeState,
    Session, Suite, Time,
};

use crate::{entropy, profile};

const DIALLER: u64 = 1;
const ACCEPTOR: u64 = 2;
const SUITE: Suite = Suite::Hmac;
const NOW: Time = Time::ZERO;

/// A half: which node dialled its last connection, and with which ordinal.
#[derive(Copy, Clone)]
struct HalfState {
    ordinal: u32,
    dialled_by: u64,
    is_live: bool,
    is_firm: bool,
}

impl std::fmt::Display for HalfState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { ordinal, dialled_by, is_live, is_firm } = self;
        let firm = if *is_firm { "firm" } else { "loose" };
        match is_live {
            true => write!(f, "{firm}, live connection of ordinal {ordinal} dialled by {dialled_by}"),
            false => write!(f, "{firm}, no connection, last ordinal {ordinal}"),
        }
    }
}

pub(crate) fn text() -> String {
    let mut text = String::from(
        "# What a node does with a hello or a proof, by its half of the session. Suite 3, no node sends any frame.\n\
         # Node 1 dials, node 2 accepts. The epochs of the session are 9 (node 1) and 5 (node 2), also of a next half.\n\
         # dialler's hello | the half of node 2 | epoch known ordinal of node 1: node 2 answers with epoch known ordinal, or refuses\n\
         # acceptor's hello | the half of node 1, which has sent 9 5 4 (9 0 1 without a half) | epoch known ordinal of node 2: node 1\n\
         #   proves, or refuses\n\
         # dialler's proof | the half of node 2, after the hellos 9 5 4 and 5 9 3 | what node 1 proves: node 2 confirms, or refuses\n",
    );
    let live = HalfState { ordinal: 3, dialled_by: DIALLER, is_live: true, is_firm: true };
    let loose = HalfState { is_firm: false, ..live };
    let lost = HalfState { is_live: false, ..live };
    let opposite = HalfState { dialled_by: ACCEPTOR, ..live };
    let mut line = |what: &str, half: Option<HalfState>, sent: &str, done: String| {
        let half = half.map_or_else(|| "none".to_owned(), |half| half.to_string());
        let _infallible = writeln!(text, "{what} | {half} | {sent}: {done}");
    };
    for (half, hello) in [
        (None, (9, 0, 1)),
        (None, (9, 5, 4)),
        (Some(live), (8, 5, 4)),
        (Some(live), (10, 0, 1)),
        (Some(live), (9 + (1 << 32), 0, 1)),
        (Some(live), (10 + (1 << 32), 0, 1)),
        (Some(live), (9, 4, 4)),
        (Some(loose), (9, 4, 4)),
        (Some(live), (9, 5, 4)),
        (Some(live), (9, 0, 4)),
        (Some(live), (9, 5, 3)),
        (Some(live), (9, 5, 2)),
        (Some(loose), (9, 5, 3)),
        (Some(loose), (9, 5, 2)),
        (Some(opposite), (9, 5, 3)),
        (Some(opposite), (9, 5, 2)),
        (Some(lost), (9, 5, 3)),
        (Some(lost), (9, 5, 2)),
    ] {
        line("dialler's hello", half, &words(state(hello)), answer(half, state(hello)));
    }
    for (half, hello) in [
        (None, (5, 0, 0)),
        (Some(live), (5, 9, 3)),
        (Some(live), (5, 0, 3)),
        (Some(loose), (5, 9, 3)),
        (Some(live), (4, 9, 3)),
        (Some(live), (6, 0, 0)),
        (Some(live), (6 + (1 << 32), 0, 0)),
        (Some(HalfState { ordinal: 4, ..live }), (5, 9, 3)),
        (Some(HalfState { ordinal: 5, ..live }), (5, 9, 3)),
        (Some(HalfState { ordinal: 4, ..opposite }), (5, 9, 3)),
        (Some(lost), (5, 9, 3)),
    ] {
        line("acceptor's hello", half, &words(state(hello)), prove(half, state(hello)));
    }
    for half in [live, loose] {
        for claim in [ProvenClaim::Session, ProvenClaim::OtherSession, ProvenClaim::Nothing] {
            line("dialler's proof", Some(half), claim.text(), confirm(half, claim, false));
        }
        let done = confirm(half, ProvenClaim::Session, true);
        line(
            "dialler's proof",
            Some(half),
            "resumes = 1, but the half of node 2 has ended since its hello",
            done,
        );
    }
    text
}

/// What a dialler proves of the session.
#[derive(Copy, Clone)]
enum ProvenClaim {
    Session,
    OtherSession,
    Nothing,
}

impl ProvenClaim {
    fn text(self) -> &'static str {
        match self {
            Self::Session => "resumes = 1, with a proof of the session",
            Self::OtherSession => "resumes = 1, with a proof of another session",
            Self::Nothing => "resumes = 0",
        }
    }
}

fn state((epoch, known, ordinal): (u64, u64, u32)) -> ResumeState {
    ResumeState { epoch, known, ordinal }
}

fn words(state: ResumeState) -> String {
    format!("{} {} {}", state.epoch, state.known, state.ordinal)
}

fn refused(refusal: Refusal) -> String {
    // The code follows the header of eight bytes.
    format!("refuses {}", refusal.message()[8])
}

/// The epochs of a node whose next half with `peer` has this one.
fn epochs(peer: u64, next: u64) -> Epochs {
    let mut epochs = Epochs::default();
    assert!(epochs.raise(NodeId::from_bits(peer), next - 1));
    epochs
}

/// Both ends of a handshake, after the hellos.
struct Introduced {
    dialler: Handshake,
    acceptor: Handshake,
}

/// Exchanges the hellos of two nodes.
fn introduce(nodes: [u64; 2], seed: u8, hello: ResumeState, answer: ResumeState) -> Introduced {
    let profiles = nodes.map(|node| profile(node, SUITE));
    let (mut input, mut out) = (Deframer::new(), Vec::new());
    let mut dialler = Handshake::dial(&profiles[0], entropy([seed; 32], [seed; 32]), hello, None, &mut out);
    input.push(&out);
    out.clear();
    let mut acceptor = Handshake::accept(None);
    let step = acceptor.advance(&profiles[1], &mut input, &mut out).expect("a sound hello");
    assert!(matches!(step, HandshakeStep::Introduced));
    acceptor
        .answer(&profiles[1], entropy([seed + 1; 32], [seed; 32]), answer, &mut out)
        .expect("at this step");
    let mut input = Deframer::new();
    input.push(&out);
    let step = dialler.advance(&profiles[0], &mut input, &mut Vec::new()).expect("a sound hello");
    assert!(matches!(step, HandshakeStep::Introduced));
    Introduced { dialler, acceptor }
}

/// The connections of a new session, of both nodes.
fn connect(nodes: [u64; 2], seed: u8, hello: ResumeState, answer: ResumeState) -> [Box<ProvenConnection>; 2] {
    let profiles = nodes.map(|node| profile(node, SUITE));
    let Introduced { mut dialler, mut acceptor } = introduce(nodes, seed, hello, answer);
    let (mut input, mut out) = (Deframer::new(), Vec::new());
    dialler.prove(&profiles[0], HeldSession::nothing(), &mut out).expect("at this step");
    input.push(&out);
    out.clear();
    let step = acceptor.advance(&profiles[1], &mut input, &mut out).expect("a sound proof");
    assert!(matches!(step, HandshakeStep::Proven));
    let accepted = acceptor.confirm(&profiles[1], &HeldSession::nothing(), &mut out).expect("at this step");
    let mut input = Deframer::new();
    input.push(&out);
    match dialler.advance(&profiles[0], &mut input, &mut Vec::new()) {
        Ok(HandshakeStep::Done(dialled)) => [dialled, accepted],
        other => panic!("the handshake is not done: {other:?}"),
    }
}

/// Both halves of a session, of node 1 and of node 2, in this state.
fn halves(half: HalfState, seed: u8) -> [Session; 2] {
    let [first, second] = [state((9, 0, half.ordinal)), state((5, 0, half.ordinal))];
    let connections = if half.dialled_by == DIALLER {
        connect([DIALLER, ACCEPTOR], seed, first, second)
    } else {
        let [dialled, accepted] = connect([ACCEPTOR, DIALLER], seed, second, first);
        [accepted, dialled]
    };
    let mut node = 0;
    let mut sessions = connections.map(|connection| {
        node += 1;
        let limits = profile(node, SUITE).limits;
        let mut session = Session::begin(NOW, &limits, NodeId::from_bits(node), &connection);
        session.connected(NOW, connection).expect("the session begins");
        session
    });
    let [one, other] = &mut sessions;
    if half.is_firm {
        let records = [&mut *one, &mut *other].map(|session| {
            let mut out = Vec::new();
            assert!(session.poll_transmit(NOW, &mut out));
            out
        });
        for (session, record) in [(&mut *other, &records[0]), (&mut *one, &records[1])] {
            let mut input = Deframer::new();
            input.push(record);
            assert!(session.next_record(NOW, &mut input).is_ok_and(|frames| frames.is_some()));
        }
    }
    if !half.is_live {
        sessions.iter_mut().for_each(Session::connection_lost);
    }
    sessions
}

/// What node 2 does with the hello of node 1.
fn answer(half: Option<HalfState>, hello: ResumeState) -> String {
    let session = half.map(|half| {
        let [_, session] = halves(half, 1);
        session
    });
    let Introduced { acceptor, .. } = introduce([DIALLER, ACCEPTOR], 11, hello, ResumeState::unknown(1));
    let hello = acceptor.peer().expect("the hello has arrived");
    match Session::answer_to(session.as_ref(), &epochs(DIALLER, 5), hello) {
        Ok(answer) => format!("answers {}", words(answer)),
        Err(refusal) => refused(refusal),
    }
}

/// What node 1 does with the hello of node 2.
fn prove(half: Option<HalfState>, answer: ResumeState) -> String {
    let session = half.map(|half| {
        let [session, _] = halves(half, 1);
        session
    });
    let hello = state(if half.is_some() { (9, 5, 4) } else { (9, 0, 1) });
    let Introduced { mut dialler, .. } = introduce([DIALLER, ACCEPTOR], 11, hello, answer);
    match Session::prove_to(session.as_ref(), &mut epochs(ACCEPTOR, 9), &dialler) {
        Ok(held) => {
            let mut out = Vec::new();
            dialler.prove(&profile(DIALLER, SUITE), held, &mut out).expect("at this step");
            format!("proves resumes = {}", out[8])
        }
        Err(refusal) => refused(refusal),
    }
}

/// What node 2 does with the proof of node 1. `has_ended`: its half has ended after the hellos.
fn confirm(half: HalfState, claim: ProvenClaim, has_ended: bool) -> String {
    let [first, second] = halves(half, 1);
    let [other, _] = halves(half, 3);
    let (hello, sent) = (state((9, 5, 4)), state((5, 9, half.ordinal)));
    let Introduced { mut dialler, mut acceptor } = introduce([DIALLER, ACCEPTOR], 11, hello, sent);
    let mut epochs_of_dialler = epochs(ACCEPTOR, 9);
    let mut hold = |session| {
        Session::prove_to(Some(session), &mut epochs_of_dialler, &dialler)
            .expect("the dialler has the session")
    };
    let held = match claim {
        ProvenClaim::Session => hold(&first),
        ProvenClaim::OtherSession => hold(&other),
        ProvenClaim::Nothing => HeldSession::nothing(),
    };
    let mut out = Vec::new();
    dialler.prove(&profile(DIALLER, SUITE), held, &mut out).expect("at this step");
    let mut input = Deframer::new();
    input.push(&out);
    out.clear();
    let there = profile(ACCEPTOR, SUITE);
    assert!(matches!(acceptor.advance(&there, &mut input, &mut out), Ok(HandshakeStep::Proven)));
    let mut epochs = epochs(DIALLER, 5);
    if has_ended {
        epochs.ended(NodeId::from_bits(DIALLER));
    }
    match Session::confirm_to(Some(&second).filter(|_| !has_ended), &mut epochs, &acceptor) {
        Err(refusal) => refused(refusal),
        Ok(held) => match acceptor.confirm(&there, &held, &mut out) {
            Ok(_) => format!("confirms resumes = {}", out[8]),
            Err(_) => format!("refuses {}", out[8]),
        },
    }
}
