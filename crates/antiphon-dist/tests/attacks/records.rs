//! Records that somebody in the middle cuts, repeats, swaps, damages, reflects, or takes from elsewhere: each costs its
//! connection, and no message.

use std::sync::mpsc::{Sender, channel};

use antiphon_dist::Limits;
use antiphon_sched::Addr;

use crate::bounds;
use crate::common::{PATIENCE, tell_test, wait_for};
use crate::middle::{self, HANDSHAKE_PIECES, Passed, Piece};
use crate::siege::Siege;
use crate::victim::Tally;

/// The record of each connection that is meddled with: early, and after others.
const MEDDLED: usize = HANDSHAKE_PIECES + 3;

#[derive(Copy, Clone, Debug)]
enum Trick {
    CutShort,
    Repeat,
    /// The next one comes first.
    Swap,
    Lose,
    FlipInHeader,
    FlipInBody,
    FlipInTag,
    /// One that the other side sent.
    Reflect,
    /// One of the same place and direction, of the connection before.
    FromElsewhere,
}

const TRICKS: [Trick; 9] = [
    Trick::CutShort,
    Trick::Repeat,
    Trick::Swap,
    Trick::Lose,
    Trick::FlipInHeader,
    Trick::FlipInBody,
    Trick::FlipInTag,
    Trick::Reflect,
    Trick::FromElsewhere,
];

/// Plays each trick once in each direction, one a connection.
struct Meddler {
    /// The last whole records of each direction.
    seen: [Vec<u8>; 2],
    /// Of each direction, the record at `MEDDLED` of the connection before.
    elsewhere: [Vec<u8>; 2],
    held: Vec<u8>,
    done: Sender<()>,
}

impl Meddler {
    fn edit(&mut self, piece: Piece) -> Passed {
        let way = piece.way as usize;
        // The first connection only shows what records look like.
        let turn = piece.connection.checked_sub(1);
        let trick = turn.and_then(|turn| TRICKS.get(turn / 2));
        let is_due = turn.is_some_and(|turn| turn % 2 == way) && piece.index >= MEDDLED;
        let passed = match (turn, trick) {
            (None, _) if piece.index == MEDDLED + 2 => Passed::Last(piece.bytes.clone()),
            (Some(_), Some(trick)) if is_due => self.play(*trick, &piece),
            (Some(_), None) => {
                // The test may have heard enough.
                tell_test(&self.done, ());
                Passed::Bytes(piece.bytes.clone())
            }
            (_, _) => Passed::Bytes(piece.bytes.clone()),
        };
        if piece.index == MEDDLED {
            self.elsewhere[way] = piece.bytes.clone();
        }
        if piece.index >= HANDSHAKE_PIECES {
            self.seen[way] = piece.bytes;
        }
        passed
    }

    fn play(&mut self, trick: Trick, piece: &Piece) -> Passed {
        let Piece { way, index, bytes, .. } = piece;
        let (first, mut changed) = (*index == MEDDLED, bytes.clone());
        match trick {
            _ if !first && !matches!(trick, Trick::Swap) => {}
            Trick::CutShort => return Passed::Last(bytes[..bytes.len() / 2].to_vec()),
            Trick::Repeat => changed.extend_from_slice(bytes),
            Trick::Swap if first => self.held = std::mem::take(&mut changed),
            Trick::Swap => changed.append(&mut self.held),
            Trick::Lose => changed.clear(),
            Trick::FlipInHeader => changed[3] ^= 1,
            Trick::FlipInBody => changed[4] ^= 1,
            Trick::FlipInTag => *changed.last_mut().expect("a tag") ^= 0x80,
            Trick::Reflect => changed.clone_from(&self.seen[1 - *way as usize]),
            Trick::FromElsewhere => changed.clone_from(&self.elsewhere[*way as usize]),
        }
        Passed::Bytes(changed)
    }
}

#[test]
fn a_record_that_is_meddled_with_costs_its_connection_and_no_message() {
    let mut siege = Siege::quiet();
    let (done, is_done) = channel();
    let mut meddler =
        Meddler { seen: Default::default(), elsewhere: Default::default(), held: Vec::new(), done };
    let between = middle::between(siege.victim.location.addr(), move |piece| meddler.edit(piece));
    let peer = siege.net.quiet_node("peer", &[between.into()]);
    let tally: Addr<Tally> = peer.find("tally");
    let mut sent = 0;
    // Traffic both ways: each tenth number is asked back.
    wait_for("all tricks to be played", || {
        for _ in 0..10 {
            peer.handle.send(tally, Tally::Number(sent)).expect("the node runs");
            sent += 1;
        }
        let total = peer.handle.ask(tally, PATIENCE, Tally::Total);
        assert_eq!(total, Ok(sent), "all have arrived, once and in order");
        is_done.try_recv().ok()
    });
    let tricks = 2 * TRICKS.len() as u64;
    // The others are seen by the peer.
    siege.victim.wait_for_count("broken_connections", TRICKS.len() as u64 - 1);
    siege.victim.has_logged_once("not authentic");
    assert!(siege.victim.log.lines("out of order").is_empty(), "{:?}", siege.victim.log.lines(""));
    println!("{tricks} tricks, {sent} messages");
    siege.end("records", bounds::strangers(&Limits::default(), false));
}
