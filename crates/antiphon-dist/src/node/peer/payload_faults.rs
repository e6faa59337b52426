//! The check of outbound bodies, and payload errors in their form for frames.

use std::fmt::Display;

use antiphon_sched::{DecodeError, EncodeError, Key, NodeId, PayloadError, printable};
use antiphon_wire::Session;
use antiphon_wire::frame::{PayloadFault, PayloadRefused};
use antiphon_wire::msgpack::{self, BodyLimits, MalformedBody};

/// The number of bytes to which each text of a fault is truncated.
const TEXT_BYTES_MAX: usize = 512;
/// The number of bytes in the send queue to a peer above which faults have no texts. The frames with faults are queued in any
/// case: a peer that does not read must not make the queue grow faster than its own messages arrive.
const QUEUED_BYTES_WITH_TEXTS_MAX: u64 = 64 * 1024;
/// Replaces the texts of a fault that came without.
const NO_DETAILS: &str = "(the log of the other node has the details)";
/// The fault of a payload whose type has no number in the session.
pub(in crate::node) const TOO_MANY_TYPES: &str =
    "its type has no number in the session with that node: too many types were sent; use fewer type names";

pub(in crate::node) fn encode_error(reason: &str) -> PayloadError {
    PayloadError::Encode(EncodeError::new(reason))
}

/// Checks that a body is one MessagePack value within the limits. A peer refuses all others.
pub(crate) fn check_body(type_name: &str, body: &[u8], bytes_max: u64) -> Result<(), PayloadError> {
    check_size(body, bytes_max)?;
    check_structure(type_name, body, |malformed| {
        PayloadError::Encode(EncodeError::new(format_args!(
            "the encoder of `{type_name}` did not write one MessagePack value: {malformed}"
        )))
    })
}

/// Checks that a body is one MessagePack value within the limits of depth and number.
fn check_structure(
    type_name: &str,
    body: &[u8],
    otherwise: impl FnOnce(MalformedBody) -> PayloadError,
) -> Result<(), PayloadError> {
    let place = || format!("`{type_name}`").into();
    msgpack::check(body, &BodyLimits::default()).map_err(|malformed| match malformed {
        MalformedBody::TooDeep { limit } => PayloadError::TooDeep { max: limit as u64, place: place() },
        MalformedBody::TooMany { limit } => PayloadError::TooManyValues { max: limit, place: place() },
        MalformedBody::Truncated
        | MalformedBody::Declares { .. }
        | MalformedBody::Trailing { .. }
        | MalformedBody::Reserved
        | _ => otherwise(malformed),
    })
}

/// Checks that a body from a peer is exactly one MessagePack value within the limits, of a type that it has announced.
/// Returns the name of the type.
pub(in crate::node) fn check_inbound<'t>(
    type_name: Option<&'t str>,
    body: &[u8],
) -> Result<&'t str, PayloadError> {
    let type_name = type_name.ok_or_else(|| refused("its type was never announced in this session"))?;
    check_structure(type_name, body, refused)?;
    Ok(type_name)
}

fn refused(reason: impl Display) -> PayloadError {
    PayloadError::Decode(DecodeError::new(reason))
}

/// Checks the size of a body.
pub(in crate::node) fn check_size(body: &[u8], bytes_max: u64) -> Result<(), PayloadError> {
    let bytes = body.len() as u64;
    if bytes > bytes_max { Err(PayloadError::TooLarge { bytes, max: bytes_max }) } else { Ok(()) }
}

/// The form of an error for a frame of this session.
pub(in crate::node) fn fault_of<'e>(error: &'e PayloadError, session: &Session) -> PayloadFault<'e> {
    let has_texts = session.queued_bytes() <= QUEUED_BYTES_WITH_TEXTS_MAX;
    let text_bytes_max = if has_texts { TEXT_BYTES_MAX } else { 0 };
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
pub(in crate::node) fn error_of(fault: PayloadFault<'_>) -> PayloadError {
    let kept = |text| if str::is_empty(text) { NO_DETAILS } else { truncated(text, TEXT_BYTES_MAX) };
    // The peer has chosen the text.
    let truncated = |text| printable(kept(text));
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

/// Reports the refusal of a payload to the log of the node that sent it. Callers limit how often.
pub(in crate::node) fn send_refusal(
    session: &mut Session,
    node: NodeId,
    (from, to): (Key, Key),
    reason: &PayloadError,
) {
    let fault = fault_of(reason, session);
    let frame = PayloadRefused { from, to, fault };
    if let Err(error) = session.send(&frame.into()) {
        tracing::debug!(%node, %error, "the refusal of a payload was not reported");
    }
}

fn truncated(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}
