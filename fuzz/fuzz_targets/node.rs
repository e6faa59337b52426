//! A whole node, its real scheduler with it, and what attackers may do to it in any order: connect, meet, send frames with
//! wrong fields and right ones, break off, and let time pass.

#![no_main]

use std::time::Duration;

use antiphon_fuzz::crafted::Crafted;
use antiphon_fuzz::victim::Victim;
use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;

/// Moves of one input, and frames of one record, at most.
const MOVES_MAX: usize = 200;
const FRAMES_MAX: usize = 6;

#[derive(Arbitrary, Debug)]
enum Move {
    Meet(u8),
    Connect,
    /// The frame that follows makes a record with those after it.
    Record(u8),
    Bytes(u8, Vec<u8>),
    Close(u8),
    Datagram(u8, Vec<u8>),
    Pass(u16),
}

fuzz_target!(|bytes: &[u8]| {
    let mut victim = Victim::new();
    // It ends where the bytes do, also in the middle of a move.
    let _end = play(&mut victim, &mut Unstructured::new(bytes));
    victim.end();
});

/// Makes moves as long as there are bytes for them.
fn play(victim: &mut Victim, bytes: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    for _ in 0..MOVES_MAX {
        if bytes.is_empty() {
            break;
        }
        // What ends sessions is rarer than what goes on in them.
        let is_record = bytes.ratio(3, 4)?;
        match if is_record { Move::Record(bytes.arbitrary()?) } else { bytes.arbitrary()? } {
            Move::Meet(node) => victim.connect(Some(node)),
            Move::Connect => victim.connect(None),
            Move::Record(link) => {
                let count = bytes.int_in_range(1..=FRAMES_MAX)?;
                let frames: arbitrary::Result<Vec<Crafted>> = (0..count).map(|_| bytes.arbitrary()).collect();
                victim.record(link, &frames?);
            }
            Move::Bytes(link, bytes) => victim.bytes(link, &bytes),
            Move::Close(link) => victim.close(link),
            Move::Datagram(from, bytes) => victim.datagram(from, &bytes),
            Move::Pass(millis) => victim.pass(Duration::from_millis((millis % 8192).into())),
        }
    }
    Ok(())
}
