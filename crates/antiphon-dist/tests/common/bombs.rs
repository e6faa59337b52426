//! Bodies of MessagePack that exhaust the memory or stack of a careless decoder, or that are malformed.

use antiphon_sched::PayloadError;
use serde::{Deserialize, Serialize};

/// The type under whose name the bodies are sent. It permits unlimited nesting.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(crate) enum Tree {
    Leaf(u64),
    Nodes(Vec<Tree>),
}
antiphon_sched::wire!(Tree, "test.tree/1", compact);

/// A body that no node accepts.
pub(crate) struct Bomb {
    pub(crate) what: &'static str,
    pub(crate) body: Vec<u8>,
    fault: Fault,
}

/// Why a body is not accepted.
#[derive(Clone, Copy)]
enum Fault {
    TooDeep,
    TooManyValues,
    Malformed,
}

impl Bomb {
    /// Whether this is the error with which a node refuses to send the body in a message or value of this type.
    pub(crate) fn is_refused_by_sender(&self, reason: &PayloadError, type_name: &str) -> bool {
        let is_fault = match self.fault {
            Fault::TooDeep => matches!(reason, PayloadError::TooDeep { max: 48, .. }),
            Fault::TooManyValues => matches!(reason, PayloadError::TooManyValues { max: VALUES_MAX, .. }),
            Fault::Malformed => matches!(reason, PayloadError::Encode(_)),
        };
        is_fault && reason.to_string().contains(&format!("`{type_name}`"))
    }
}

/// The number of values that a body may have.
const VALUES_MAX: u64 = 1 << 20;

/// The bodies. Those of `TooDeep` and `TooManyValues` that are trees would decode as such.
pub(crate) fn bombs() -> Vec<Bomb> {
    let bomb = |fault, what, body| Bomb { what, body, fault };
    // {"Nodes": [{"Nodes": [...
    let nested_enum: Vec<u8> = b"\x81\xa5Nodes\x91".iter().copied().cycle().take(8 * 7_500).collect();
    let deep_tree = [b"\x81\xa5Nodes\x91".repeat(24).as_slice(), LEAF].concat();
    // Each leaf has three values.
    let leaves = VALUES_MAX as u32 / 3;
    let large_tree =
        [b"\x81\xa5Nodes\xdd", &leaves.to_be_bytes()[..], &LEAF.repeat(leaves as usize)].concat();
    let claims: Vec<u8> = b"\xdd\xff\xff\xff\xff".iter().copied().cycle().take(8_000).collect();
    let maps: Vec<u8> = b"\xdf\xff\xff\xff\xff".iter().copied().cycle().take(8_000).collect();
    vec![
        bomb(Fault::TooDeep, "60 kB of nested enums", nested_enum),
        bomb(Fault::TooDeep, "60 kB of nested arrays", vec![0x91; 60_000]),
        bomb(Fault::TooDeep, "a megabyte of nested arrays", vec![0x91; 1 << 20]),
        bomb(Fault::TooDeep, "a tree that is nested one level too deep", deep_tree),
        bomb(Fault::TooManyValues, "a tree of too many leaves", large_tree),
        bomb(Fault::Malformed, "array headers that claim 2^32 items", claims),
        bomb(Fault::Malformed, "map headers that claim 2^32 items", maps),
        bomb(Fault::Malformed, "a text that claims 4 GiB", b"\xdb\xff\xff\xff\xffhello".to_vec()),
        bomb(Fault::Malformed, "bytes that claim 4 GiB", b"\xc6\xff\xff\xff\xffhello".to_vec()),
        bomb(Fault::Malformed, "an empty body", Vec::new()),
        bomb(Fault::Malformed, "a tree and a further byte", [LEAF, b"\xc0"].concat()),
        bomb(Fault::Malformed, "a code that MessagePack does not have", vec![0xc1]),
    ]
}

/// {"Leaf": 1}
const LEAF: &[u8] = b"\x81\xa4Leaf\x01";
