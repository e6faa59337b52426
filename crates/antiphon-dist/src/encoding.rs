//! What the messages of hidden actors are made of on the wire: one MessagePack array each, its parts by their own
//! encoders.
//!
//! Invariant: what is unpacked has exactly as many parts as it says.

use antiphon_sched::{DecodeError, EncodeError, Wire};

/// MessagePack's array of up to 15 items.
const FIXED_ARRAY: u8 = 0x90;

/// Begins a message of so many parts, up to 15; a kind is its first part.
pub(crate) fn begin(out: &mut Vec<u8>, parts: u8, kind: u8) -> Result<(), EncodeError> {
    debug_assert!((1..=15).contains(&parts), "an array of {parts} is begun otherwise");
    out.push(FIXED_ARRAY | parts);
    kind.encode(out)
}

/// The number of parts and the kind with which a message begins.
pub(crate) fn open(from: &mut &[u8]) -> Result<(u8, u8), DecodeError> {
    match from.split_first() {
        Some((first, rest)) if first & 0xf0 == FIXED_ARRAY => {
            *from = rest;
            Ok((first & 0x0f, u8::decode(from)?))
        }
        Some(_) | None => Err(DecodeError::new("a short array was expected")),
    }
}

/// What a message of an unknown kind is answered.
pub(crate) fn unknown<T>(what: &str, (parts, kind): (u8, u8)) -> Result<T, DecodeError> {
    Err(DecodeError::new(format_args!("there is no {what} of kind {kind} with {parts} parts")))
}
