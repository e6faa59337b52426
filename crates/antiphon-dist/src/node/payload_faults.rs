//! The check of outbound bodies, and payload errors in their form for frames.

use std::fmt::Display;

use antiphon_sched::{DecodeError, EncodeError, PayloadError};
use antiphon_wire::frame::PayloadFault;
use antiphon_wire::msgpack::{self, BodyLimits, MalformedBody};

/// The number of bytes to which each text of a fault is truncated.
pub(super) const TEXT_BYTES_MAX: usize = 512;

/// Checks that a body is one MessagePack value within the limits. A peer refuses all others.
pub(crate) fn check_body(type_name: &str, body: &[u8], bytes_max: u64) -> Result<(), PayloadError> {
    check_size(body, bytes_max)?;
    msgpack::check(body, &BodyLimits::default()).map_err(|malformed| match malformed {
        MalformedBody::TooDeep { limit } => {
            PayloadError::TooDeep { max: limit as u64, place: place_of(type_name) }
        }
        MalformedBody::TooMany { limit } => {
            PayloadError::TooManyValues { max: limit, place: place_of(type_name) }
        }
        MalformedBody::Truncated
        | MalformedBody::Declares { .. }
        | MalformedBody::Trailing { .. }
        | MalformedBody::Reserved
        | _ => PayloadError::Encode(EncodeError::new(format_args!(
            "the encoder of `{type_name}` did not write one MessagePack value: {malformed}"
        ))),
    })
}

/// Checks that a body from a peer is exactly one MessagePack value within the limits, of a type that it has announced.
/// Returns the name of the type.
pub(super) fn check_inbound<'t>(type_name: Option<&'t str>, body: &[u8]) -> Result<&'t str, PayloadError> {
    let type_name = type_name.ok_or_else(|| refused("its type was never announced in this session"))?;
    msgpack::check(body, &BodyLimits::default()).map_err(refused)?;
    Ok(type_name)
}

fn refused(reason: impl Display) -> PayloadError {
    PayloadError::Decode(DecodeError::new(reason))
}

/// Checks the size of a body.
pub(super) fn check_size(body: &[u8], bytes_max: u64) -> Result<(), PayloadError> {
    let bytes = body.len() as u64;
    if bytes > bytes_max { Err(PayloadError::TooLarge { bytes, max: bytes_max }) } else { Ok(()) }
}

fn place_of(type_name: &str) -> Box<str> {
    format!("`{type_name}`").into()
}

/// The form of an error for a frame, with texts of at most `text_bytes_max` bytes.
pub(super) fn fault_of(error: &PayloadError, text_bytes_max: usize) -> PayloadFault<'_> {
    let truncated = |text| truncated(text, text_bytes_max);
    match error {
        PayloadError::TooLarge { bytes, max } => PayloadFault::TooLarge { bytes: *bytes, max: *max },
        PayloadError::TooManyValues { max, place } => {
            PayloadFault::TooManyValues { max: *max, place: truncated(place) }
        }
        PayloadError::TooDeep { max, place } => PayloadFault::TooDeep { max: *max, place: truncated(place) },
        PayloadError::Encode(error) => PayloadFault::Encode(truncated(error.reason())),
        PayloadError::Decode(error) => PayloadFault::Decode(truncated(error.reason())),
        PayloadError::WrongType { expected, found } => {
            PayloadFault::WrongType { expected: truncated(expected), found: truncated(found) }
        }
        _ => PayloadFault::Encode("for a reason that this version does not transmit"),
    }
}

/// The error that a frame reports.
pub(super) fn error_of(fault: PayloadFault<'_>) -> PayloadError {
    let truncated = |text| truncated(text, TEXT_BYTES_MAX);
    match fault {
        PayloadFault::TooLarge { bytes, max } => PayloadError::TooLarge { bytes, max },
        PayloadFault::TooManyValues { max, place } => {
            PayloadError::TooManyValues { max, place: truncated(place).into() }
        }
        PayloadFault::TooDeep { max, place } => PayloadError::TooDeep { max, place: truncated(place).into() },
        PayloadFault::Encode(reason) => PayloadError::Encode(EncodeError::new(truncated(reason))),
        PayloadFault::Decode(reason) => PayloadError::Decode(DecodeError::new(truncated(reason))),
        PayloadFault::WrongType { expected, found } => {
            PayloadError::WrongType { expected: truncated(expected).into(), found: truncated(found).into() }
        }
    }
}

fn truncated(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}
