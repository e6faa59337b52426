//! Sending and receiving do not allocate after warm-up, and frames that wait occupy what they count. A counting allocator checks it.

#![expect(unsafe_code, reason = "the trait `GlobalAlloc` is unsafe")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use antiphon_wire::frame::{Down, DownReason, Message};
use antiphon_wire::{
    Deframer, Entropy, Handshake, HandshakeStep, HeldSession, Key, Keyring, Limits, NodeId, Profile,
    ResumeState, Route, Session, Suite, Time,
};

struct AllocationCounter;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static LIVE_BYTES: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: all calls are forwarded to the system's allocator, and the counter does not allocate.
unsafe impl GlobalAlloc for AllocationCounter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        LIVE_BYTES.set(LIVE_BYTES.get().wrapping_add(layout.size()));
        // SAFETY: the caller keeps the contract of the method.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.set(LIVE_BYTES.get().wrapping_sub(layout.size()));
        // SAFETY: the caller keeps the contract of the method.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: AllocationCounter = AllocationCounter;

fn profile(node: u64) -> Profile {
    Profile {
        node: NodeId::from_bits(node),
        name: String::new(),
        locations: Vec::new(),
        suites: vec![Suite::Aes128Gcm],
        keyring: Keyring::new(0, "key".into()),
        flags: 0,
        limits: Limits::default(),
    }
}

fn connected_sessions() -> (Session, Session) {
    let (here, there) = (profile(1), profile(2));
    let (mut to_a, mut to_b) = (Deframer::new(), Deframer::new());
    let (mut a, mut b) = (Vec::new(), Vec::new());
    // The two sides agree on the sum of their public keys.
    let entropy = |public: u8| {
        Entropy::new([public; 32], [public; 32], move |peer| Some([public.wrapping_add(peer[0]); 32]))
    };
    let mut dialler = Handshake::dial(&here, entropy(1), ResumeState::unknown(1), None, &mut a);
    let mut acceptor = Handshake::accept(None);
    to_b.push(&std::mem::take(&mut a));
    assert!(matches!(acceptor.advance(&there, &mut to_b, &mut b), Ok(HandshakeStep::Introduced)));
    acceptor.answer(&there, entropy(2), ResumeState::unknown(1), &mut b).expect("at this step");
    to_a.push(&std::mem::take(&mut b));
    assert!(matches!(dialler.advance(&here, &mut to_a, &mut a), Ok(HandshakeStep::Introduced)));
    dialler.prove(&here, HeldSession::nothing(), &mut a).expect("at this step");
    to_b.push(&a);
    assert!(matches!(acceptor.advance(&there, &mut to_b, &mut b), Ok(HandshakeStep::Proven)));
    let at_b = acceptor.confirm(&there, &HeldSession::nothing(), &mut b).expect("at this step");
    to_a.push(&b);
    let Ok(HandshakeStep::Done(at_a)) = dialler.advance(&here, &mut to_a, &mut a) else {
        panic!("the handshake is not done")
    };
    let mut sessions = [(&here, at_a), (&there, at_b)].map(|(profile, connection)| {
        let mut session = Session::begin(Time::ZERO, &profile.limits, profile.node, &connection);
        session.connected(Time::ZERO, connection).expect("the session begins");
        Some(session)
    });
    let mut take = |index: usize| sessions[index].take().expect("there are two");
    (take(0), take(1))
}

#[test]
fn warm_sessions_send_and_receive_without_allocation() {
    let (mut a, mut b) = connected_sessions();
    let (mut to_a, mut to_b) = (Deframer::new(), Deframer::new());
    let mut out = Vec::with_capacity(1 << 20);
    let mut before = 0;
    for round in 0..220 {
        if round == 20 {
            before = ALLOCATIONS.get();
        }
        for number in 0..500 {
            let tag = a.intern("bench.body/1").expect("room");
            let (to, from) = (Key::from_bits(number), Key::from_bits(1));
            let message = Message { to, from, tag, receipt: None, route: Route::NONE, body: &[7; 60] };
            a.send(&message.into()).expect("room");
        }
        transfer(&mut a, &mut b, &mut to_b, &mut out);
        transfer(&mut b, &mut a, &mut to_a, &mut out);
    }
    assert!(before > 0, "the warm-up allocates and is counted");
    // All messages, and one type tag.
    assert_eq!(b.frames_received(), 220 * 500 + 1);
    assert_eq!(ALLOCATIONS.get() - before, 0);
}

/// Each `Down` waits for a watcher of its own. SECURITY.md has the figure.
#[test]
fn waiting_downs_occupy_what_they_count() {
    const DOWNS: u64 = 65_536;
    for has_value in [false, true] {
        let (mut a, _b) = connected_sessions();
        let tag = a.intern("()").expect("room");
        let reason = if has_value { DownReason::Done(Some((tag, &[0xc0]))) } else { DownReason::Terminated };
        let mut send = |watchers: std::ops::Range<u64>| {
            for id in watchers {
                let (watcher, node) = (Key::from_bits(id), NodeId::from_bits(1));
                a.send(&Down { watcher, actor: Key::from_bits(1), node, id, reason }.into()).expect("room");
            }
            (LIVE_BYTES.get(), a.held_bytes())
        };
        // These use the credit.
        let (live, held) = send(0..DOWNS);
        let (live_after, held_after) = send(DOWNS..2 * DOWNS);
        let (occupied, counted) = ((live_after - live) as u64 / DOWNS, (held_after - held) / DOWNS);
        println!("a Down that waits occupies {occupied} bytes, and counts {counted}");
        assert!(occupied <= counted, "it occupies {occupied} bytes, and counts {counted}");
        assert!(counted <= 220, "it counts {counted} bytes");
    }
}

fn transfer(from: &mut Session, to: &mut Session, input: &mut Deframer, out: &mut Vec<u8>) {
    while from.poll_transmit(Time::ZERO, out) {}
    let mut rest = out.as_slice();
    while !rest.is_empty() {
        rest = &rest[input.push(rest)..];
        while let Some(mut frames) = to.next_record(Time::ZERO, input).expect("sound") {
            while to.next_frame(Time::ZERO, &mut frames).expect("sound").is_some() {}
            let unread = frames.unread();
            input.put_back(unread);
        }
    }
    out.clear();
}
