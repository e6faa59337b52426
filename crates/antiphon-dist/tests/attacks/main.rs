//! The attacker: a real node process is attacked with raw sockets from 127.0.0.2, while a peer on 127.0.0.1 goes on
//! asking it questions.
//!
//! Each attack is refused, counted, and logged once; the node's memory stays within what [`bounds`] computes from the
//! limits; the peer notices nothing; and a new peer still gets in. [`siege`] holds what all of them share.

// Memory is read from /proc, and all of 127.0.0.0/8 is this machine.
#![cfg(target_os = "linux")]

#[path = "../common/mod.rs"]
mod common;

mod bounds;
mod caller;
mod crowds;
mod datagrams;
mod files;
mod handshakes;
mod member;
mod members;
mod middle;
mod records;
mod siege;
mod tls;
mod victim;

#[test]
#[ignore = "a role of the other tests, not one by itself"]
fn the_other_process() {
    if let Some(role) = common::process::role() {
        victim::play(&role);
    }
}
