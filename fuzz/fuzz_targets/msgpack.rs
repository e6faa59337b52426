//! The structural check of bodies, with rmpv as oracle: a body passes exactly if it is one value within the limits.

#![no_main]

use antiphon_wire::msgpack::{BodyLimits, MalformedBody, check};
use libfuzzer_sys::fuzz_target;
use rmpv::ValueRef;

/// Deeper than the check allows, so that the check refuses a depth before the oracle does.
const ORACLE_DEPTH: usize = 256;

fuzz_target!(|body: &[u8]| {
    let mut rest = body;
    let value = rmpv::decode::read_value_ref_with_max_depth(&mut rest, ORACLE_DEPTH);
    let is_one_value = value.is_ok() && rest.is_empty();
    match check(body, &BodyLimits::default()) {
        Ok(()) => assert!(is_one_value, "{value:?}, {} bytes left", rest.len()),
        // The oracle reads the reserved byte 0xc1 as nil.
        Err(MalformedBody::Reserved) => {}
        Err(MalformedBody::TooDeep { limit }) => {
            assert!(value.as_ref().map_or(true, |value| depth(value) > limit) || !is_one_value);
        }
        Err(reason) => assert!(!is_one_value, "the body was refused ({reason}), but is {value:?}"),
    }
});

/// The nesting depth of arrays and maps; empty ones do not count.
fn depth(value: &ValueRef<'_>) -> usize {
    match value {
        ValueRef::Array(items) if !items.is_empty() => 1 + items.iter().map(depth).max().unwrap_or(0),
        ValueRef::Map(pairs) if !pairs.is_empty() => {
            1 + pairs.iter().flat_map(|(key, value)| [key, value]).map(depth).max().unwrap_or(0)
        }
        _ => 0,
    }
}
