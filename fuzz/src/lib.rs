//! The code that the fuzz targets share. Run them with `cargo xtask fuzz`.

pub mod crafted;
pub mod victim;

use antiphon_wire::{Entropy, Keyring, Limits, NodeId, Profile, Suite};

/// The profile that a node presents in a handshake.
pub fn profile(node: u64, has_secret: bool) -> Profile {
    Profile {
        node: NodeId::from_bits(node),
        name: format!("node {node}"),
        locations: vec![([127, 0, 0, 1], 4000 + (node % 1000) as u16).into()],
        suites: if has_secret { Suite::aead().to_vec() } else { vec![Suite::Plain] },
        keyring: if has_secret {
            Keyring::new(0, "a secret of the fuzzer".into())
        } else {
            Keyring::default()
        },
        flags: 0,
        limits: Limits::default(),
    }
}

/// Constant entropy, so that the same input gives the same run.
pub fn entropy() -> Entropy {
    Entropy::new([7; 32], [9; 32], |_| Some([5; 32]))
}

/// Cuts an input into pieces whose sizes are in the input.
pub fn pieces(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let size = usize::from(*rest.first()?) + 1;
        let (piece, remaining) = rest.split_at(size.min(rest.len()));
        rest = remaining;
        Some(piece)
    })
}
