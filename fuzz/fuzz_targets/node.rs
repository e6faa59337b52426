//! A whole node, its real scheduler with it, and what attackers may do to it in any order: connect, meet, send frames with
//! wrong fields and right ones, break off, and let time pass.

#![no_main]

use std::time::Duration;

use antiphon_fuzz::crafted::Crafted;
use antiphon_fuzz::victim::Victim;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Move {
    Meet(u8),
    Connect,
    Record(u8, Vec<Crafted>),
    Bytes(u8, Vec<u8>),
    Close(u8),
    Datagram(u8, Vec<u8>),
    Pass(u16),
}

fuzz_target!(|moves: Vec<Move>| {
    let mut victim = Victim::new();
    for each in moves.iter().take(200) {
        match each {
            Move::Meet(node) => victim.connect(Some(*node)),
            Move::Connect => victim.connect(None),
            Move::Record(link, frames) => victim.record(*link, frames),
            Move::Bytes(link, bytes) => victim.bytes(*link, bytes),
            Move::Close(link) => victim.close(*link),
            Move::Datagram(from, bytes) => victim.datagram(*from, bytes),
            Move::Pass(millis) => victim.pass(Duration::from_millis((*millis).into())),
        }
    }
    victim.end();
});
