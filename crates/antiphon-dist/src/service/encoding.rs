//! The encoding of messages of service actors: one MessagePack array for each message. Each part has its own encoding.
//!
//! Invariant: a decoded array has exactly the number of parts that its header states.

use antiphon_sched::{DecodeError, EncodeError, Wire};

/// The MessagePack header of an array of up to 15 items.
const FIXED_ARRAY: u8 = 0x90;

/// Begins a message of 1 to 15 parts. The first part is the kind of the message.
pub(crate) fn begin(out: &mut Vec<u8>, parts: u8, kind: u8) -> Result<(), EncodeError> {
    debug_assert!((1..=15).contains(&parts), "a short array has 1 to 15 parts, not {parts}");
    out.push(FIXED_ARRAY | parts);
    kind.encode(out)
}

/// Reads the number of parts and the kind at the start of a message.
pub(crate) fn open(from: &mut &[u8]) -> Result<(u8, u8), DecodeError> {
    match from.split_first() {
        Some((first, rest)) if first & 0xf0 == FIXED_ARRAY => {
            *from = rest;
            Ok((first & 0x0f, u8::decode(from)?))
        }
        Some(_) | None => Err(DecodeError::new("expected an array of at most 15 items")),
    }
}

/// The error for a message of an unknown kind.
pub(crate) fn unknown<T>(message: &str, (parts, kind): (u8, u8)) -> Result<T, DecodeError> {
    Err(DecodeError::new(format_args!("there is no {message} of kind {kind} with {parts} parts")))
}
