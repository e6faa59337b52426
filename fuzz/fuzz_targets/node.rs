//! A whole node with its real scheduler, under any sequence of moves of attackers: they connect, finish handshakes, send
//! frames with valid or invalid fields, disconnect, and let time pass.

#![no_main]

use std::time::Duration;

use antiphon_fuzz::crafted::Crafted;
use antiphon_fuzz::victim::Victim;
use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;

/// The most moves of one input.
const MOVES_MAX: usize = 200;
/// The most frames of one record.
const FRAMES_MAX: usize = 6;

#[derive(Arbitrary, Debug)]
enum Move {
    /// A connection with a handshake as this node.
    Handshake(u8),
    Connect,
    /// A record on this connection; its frames follow in the input.
    Record(u8),
    Bytes(u8, Vec<u8>),
    Close(u8),
    Datagram(u8, Vec<u8>),
    Pass(u16),
}

fuzz_target!(|bytes: &[u8]| {
    let mut victim = Victim::new();
    // The moves end where the bytes do, also within a move.
    let _end = run_moves(&mut victim, &mut Unstructured::new(bytes));
    victim.end();
});

/// Makes moves until the bytes end.
fn run_moves(victim: &mut Victim, bytes: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    for _ in 0..MOVES_MAX {
        if bytes.is_empty() {
            break;
        }
        // Most moves are records, so that sessions last long enough to reach deep states.
        let is_record = bytes.ratio(3, 4)?;
        match if is_record { Move::Record(bytes.arbitrary()?) } else { bytes.arbitrary()? } {
            Move::Handshake(node) => victim.connect(Some(node)),
            Move::Connect => victim.connect(None),
            Move::Record(conn) => {
                let count = bytes.int_in_range(1..=FRAMES_MAX)?;
                let frames: arbitrary::Result<Vec<Crafted>> = (0..count).map(|_| bytes.arbitrary()).collect();
                victim.record(conn, &frames?);
            }
            Move::Bytes(conn, bytes) => victim.bytes(conn, &bytes),
            Move::Close(conn) => victim.close(conn),
            Move::Datagram(from, bytes) => victim.datagram(from, &bytes),
            Move::Pass(millis) => victim.pass(Duration::from_millis((millis % 8192).into())),
        }
    }
    Ok(())
}
