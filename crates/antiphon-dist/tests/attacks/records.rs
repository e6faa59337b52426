//! A man in the middle truncates, repeats, swaps, drops, damages, reflects and replaces records. Each change ends its
//! connection, and no message is lost.

use std::sync::mpsc::{Sender, channel};

use antiphon_dist::Limits;
use antiphon_sched::Addr;

use crate::attack_test::AttackTest;
use crate::bounds;
use crate::common::{PATIENCE, report, wait_for};
use crate::middle::{self, Forward, HANDSHAKE_PIECES, Piece};
use crate::victim::Tally;

/// The index of the record that is changed on each connection: an early one, after a few others.
const CHANGED: usize = HANDSHAKE_PIECES + 3;

#[derive(Copy, Clone, Debug)]
enum Tampering {
    Truncate,
    Repeat,
    /// The next record comes first.
    Swap,
    Drop,
    FlipInHeader,
    FlipInBody,
    FlipInTag,
    /// The record is replaced by one of the other side.
    Reflect,
    /// The record is replaced by that of the previous connection, with the same index and direction.
    Replace,
}

const TAMPERINGS: [Tampering; 9] = [
    Tampering::Truncate,
    Tampering::Repeat,
    Tampering::Swap,
    Tampering::Drop,
    Tampering::FlipInHeader,
    Tampering::FlipInBody,
    Tampering::FlipInTag,
    Tampering::Reflect,
    Tampering::Replace,
];

/// Applies each kind of tampering once in each direction, one on each connection.
struct Tamperer {
    /// The last record in each direction.
    last: [Vec<u8>; 2],
    /// The record at `CHANGED` of the previous connection, in each direction.
    previous: [Vec<u8>; 2],
    /// The record that `Swap` holds back.
    held: Vec<u8>,
    done: Sender<()>,
}

impl Tamperer {
    fn edit(&mut self, piece: Piece) -> Forward {
        let direction = piece.direction as usize;
        // The first connection only supplies records for the later ones.
        let round = piece.connection.checked_sub(1);
        let tampering = round.and_then(|round| TAMPERINGS.get(round / 2));
        let is_due = round.is_some_and(|round| round % 2 == direction) && piece.index >= CHANGED;
        let forward = match (round, tampering) {
            (None, _) if piece.index == CHANGED + 2 => Forward::Last(piece.bytes.clone()),
            (Some(_), Some(tampering)) if is_due => self.apply(*tampering, &piece),
            (Some(_), None) => {
                report(&self.done, ());
                Forward::Bytes(piece.bytes.clone())
            }
            (_, _) => Forward::Bytes(piece.bytes.clone()),
        };
        if piece.index == CHANGED {
            self.previous[direction] = piece.bytes.clone();
        }
        if piece.index >= HANDSHAKE_PIECES {
            self.last[direction] = piece.bytes;
        }
        forward
    }

    fn apply(&mut self, tampering: Tampering, piece: &Piece) -> Forward {
        let Piece { direction, index, bytes, .. } = piece;
        let (first, mut changed) = (*index == CHANGED, bytes.clone());
        match tampering {
            _ if !first && !matches!(tampering, Tampering::Swap) => {}
            Tampering::Truncate => return Forward::Last(bytes[..bytes.len() / 2].to_vec()),
            Tampering::Repeat => changed.extend_from_slice(bytes),
            Tampering::Swap if first => self.held = std::mem::take(&mut changed),
            Tampering::Swap => changed.append(&mut self.held),
            Tampering::Drop => changed.clear(),
            Tampering::FlipInHeader => changed[3] ^= 1,
            Tampering::FlipInBody => changed[4] ^= 1,
            Tampering::FlipInTag => *changed.last_mut().expect("a record has a tag") ^= 0x80,
            Tampering::Reflect => changed.clone_from(&self.last[1 - *direction as usize]),
            Tampering::Replace => changed.clone_from(&self.previous[*direction as usize]),
        }
        Forward::Bytes(changed)
    }
}

/// All messages arrive once and in order, although each tampering ends a connection.
pub(crate) fn record_tampered_with_costs_only_its_connection() {
    let mut attack = AttackTest::without_discovery();
    let (done, is_done) = channel();
    let mut tamperer =
        Tamperer { last: Default::default(), previous: Default::default(), held: Vec::new(), done };
    let middle = middle::start(attack.victim.location.addr(), move |piece| tamperer.edit(piece));
    let peer = attack.net.static_node("peer", &[middle.into()]);
    let tally: Addr<Tally> = peer.find("tally");
    let mut sent = 0;
    // There is traffic in both directions: after ten numbers comes a request for their count.
    wait_for("all kinds of tampering", || {
        for _ in 0..10 {
            peer.handle.send(tally, Tally::Number(sent)).expect("the node runs");
            sent += 1;
        }
        let total = peer.handle.ask(tally, PATIENCE, Tally::Total);
        assert_eq!(total, Ok(sent), "all numbers have arrived, once and in order");
        is_done.try_recv().ok()
    });
    let changes = 2 * TAMPERINGS.len() as u64;
    // The peer counts the changes in the other direction.
    attack.victim.wait_for_count("broken_connections", TAMPERINGS.len() as u64 - 1);
    attack.victim.has_logged_once("not authentic");
    assert!(attack.victim.log.lines("out of order").is_empty(), "{:?}", attack.victim.log.lines(""));
    println!("{changes} changed records, {sent} messages");
    attack.end("records", bounds::pending_connections(&Limits::default(), false));
}
