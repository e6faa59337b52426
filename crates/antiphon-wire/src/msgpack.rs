//! The structural check of a MessagePack body, which runs before a decoder reads the body.
//!
//! A decoder trusts the lengths that a body declares. Nested enums can exhaust its stack, nested array headers its
//! memory, and bytes after the value go unnoticed. This check walks the bytes with constant stack and without
//! allocation, and passes only well-formed bodies. The format:
//! <https://github.com/msgpack/msgpack/blob/master/spec.md>.

/// The limits of one body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimits {
    /// Levels of nested arrays and maps; at most [`DEPTH_MAX`].
    pub depth_max: usize,
    /// Values in the whole body. Each key and each value of a map counts.
    pub items_max: u64,
}

impl Default for BodyLimits {
    fn default() -> BodyLimits {
        BodyLimits { depth_max: DEPTH_MAX, items_max: 1_048_576 }
    }
}

/// Why a body is not passed to a decoder. The sender is at fault. The message is refused as one of the wrong type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MalformedBody {
    /// The bytes end within a value.
    #[error("the body ends within a value")]
    Truncated,
    /// An array or map declares more values than there are bytes left.
    #[error("an array or map declares {declared} values, but only {left} bytes are left")]
    Declares {
        /// The number of declared values.
        declared: u64,
        /// The number of bytes that are left.
        left: u64,
    },
    /// Arrays and maps are nested too deep.
    #[error("arrays and maps are nested deeper than {limit}; flatten the type")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// The body has too many values.
    #[error("the body has more than {limit} values; use bytes (`antiphon::Bytes`), or split the message")]
    TooMany {
        /// The limit.
        limit: u64,
    },
    /// Bytes follow the value.
    #[error("{count} bytes are left over after the value")]
    Trailing {
        /// The number of bytes.
        count: usize,
    },
    /// The byte 0xc1, which MessagePack never uses.
    #[error("the body contains the byte 0xc1, which begins no value")]
    Reserved,
}

/// The deepest nesting that any limit allows.
pub const DEPTH_MAX: usize = 48;

/// Checks that `body` is exactly one well-formed value within the limits.
///
/// The check uses constant stack and allocates nothing. It reads each header once, or twice if the body is nested
/// deeper than four levels. A struct of three numbers takes about 140 instructions.
///
/// # Errors
/// [`MalformedBody`] for the first fault.
pub fn check(body: &[u8], limits: &BodyLimits) -> Result<(), MalformedBody> {
    match walk::<SHALLOW>(body, limits) {
        Err(MalformedBody::TooDeep { .. }) => walk::<DEPTH_MAX>(body, limits),
        checked => checked,
    }
}

/// The depth of the first attempt. Few bodies are deeper, and clearing a larger array costs as much as checking a
/// small body.
const SHALLOW: usize = 4;

/// Does the work of [`check`], with at most `DEPTH` levels of nesting.
fn walk<const DEPTH: usize>(body: &[u8], limits: &BodyLimits) -> Result<(), MalformedBody> {
    let depth_max = limits.depth_max.min(DEPTH);
    // The number of values that are still missing, at the present depth and at each outer one. The body is one value.
    let mut outer = [0_u64; DEPTH];
    let (mut depth, mut missing, mut items) = (0, 1_u64, 0_u64);
    let mut rest = body;
    loop {
        while missing == 0 {
            if depth == 0 {
                return match rest.len() {
                    0 => Ok(()),
                    count => Err(MalformedBody::Trailing { count }),
                };
            }
            depth -= 1;
            missing = outer[depth];
        }
        missing -= 1;
        items += 1;
        if items > limits.items_max {
            return Err(MalformedBody::TooMany { limit: limits.items_max });
        }
        let (header, after) = rest.split_first().ok_or(MalformedBody::Truncated)?;
        rest = after;
        let size = SIZES[*header as usize];
        if size != VARIES {
            rest = rest.get(size as usize..).ok_or(MalformedBody::Truncated)?;
            continue;
        }
        let declared = match value_body(*header)? {
            ValueBody::Bytes { length_bytes, extra } => {
                let count = take_number(&mut rest, length_bytes)?;
                let count = usize::try_from(count).unwrap_or(usize::MAX).saturating_add(extra);
                rest = rest.get(count..).ok_or(MalformedBody::Truncated)?;
                continue;
            }
            ValueBody::Values(count) => count,
            ValueBody::Counted { count_bytes, values_each } => {
                take_number(&mut rest, count_bytes)? * values_each
            }
        };
        let left = rest.len() as u64;
        if declared > left {
            return Err(MalformedBody::Declares { declared, left });
        }
        if declared > 0 {
            if depth >= depth_max {
                return Err(MalformedBody::TooDeep { limit: depth_max });
            }
            outer[depth] = missing;
            depth += 1;
            missing = declared;
        }
    }
}

/// The number of bytes after the first byte of a value, if the first byte alone determines it; else [`VARIES`].
static SIZES: [u8; 256] = {
    let mut sizes = [VARIES; 256];
    let mut header = 0;
    while header < 256 {
        sizes[header] = match header as u8 {
            // Small integers, nil, booleans.
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => 0,
            // Short texts.
            header @ 0xa0..=0xbf => header & 0x1f,
            // Floats, integers, extensions of a fixed size.
            0xcc | 0xd0 => 1,
            0xcd | 0xd1 | 0xd4 => 2,
            0xd5 => 3,
            0xca | 0xce | 0xd2 => 4,
            0xd6 => 5,
            0xcb | 0xcf | 0xd3 => 8,
            0xd7 => 9,
            0xd8 => 17,
            _ => VARIES,
        };
        header += 1;
    }
    sizes
};

/// Marks a first byte of values without a fixed size.
const VARIES: u8 = u8::MAX;

/// The part of a value after its first byte, if its size [varies](VARIES).
enum ValueBody {
    /// A length field of `length_bytes` bytes, then that many bytes and `extra` more.
    Bytes { length_bytes: usize, extra: usize },
    /// This number of values.
    Values(u64),
    /// A count field of `count_bytes` bytes, then `values_each` values for each counted item.
    Counted { count_bytes: usize, values_each: u64 },
}

#[inline]
fn value_body(header: u8) -> Result<ValueBody, MalformedBody> {
    Ok(match header {
        // Short maps, short arrays.
        0x80..=0x8f => ValueBody::Values(u64::from(header & 0x0f) * 2),
        0x90..=0x9f => ValueBody::Values(u64::from(header & 0x0f)),
        // Bytes and extensions with a length field. An extension has one more byte, its type.
        0xc4 => ValueBody::Bytes { length_bytes: 1, extra: 0 },
        0xc5 => ValueBody::Bytes { length_bytes: 2, extra: 0 },
        0xc6 => ValueBody::Bytes { length_bytes: 4, extra: 0 },
        0xc7 => ValueBody::Bytes { length_bytes: 1, extra: 1 },
        0xc8 => ValueBody::Bytes { length_bytes: 2, extra: 1 },
        0xc9 => ValueBody::Bytes { length_bytes: 4, extra: 1 },
        // Texts with a length field; arrays and maps with a count field.
        0xd9 => ValueBody::Bytes { length_bytes: 1, extra: 0 },
        0xda => ValueBody::Bytes { length_bytes: 2, extra: 0 },
        0xdb => ValueBody::Bytes { length_bytes: 4, extra: 0 },
        0xdc => ValueBody::Counted { count_bytes: 2, values_each: 1 },
        0xdd => ValueBody::Counted { count_bytes: 4, values_each: 1 },
        0xde => ValueBody::Counted { count_bytes: 2, values_each: 2 },
        0xdf => ValueBody::Counted { count_bytes: 4, values_each: 2 },
        _ => return Err(MalformedBody::Reserved),
    })
}

/// Takes a number of 1, 2 or 4 bytes, big endian.
fn take_number(rest: &mut &[u8], length: usize) -> Result<u64, MalformedBody> {
    let (bytes, after) = rest.split_at_checked(length).ok_or(MalformedBody::Truncated)?;
    *rest = after;
    Ok(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(body: &[u8]) -> Result<(), MalformedBody> {
        check(body, &BodyLimits::default())
    }

    #[test]
    fn serialized_values_pass_check() {
        use std::collections::BTreeMap;
        let nested: BTreeMap<String, Vec<(u64, Option<f32>)>> =
            [("a".to_owned(), vec![(1, None), (u64::MAX, Some(0.5))]), ("b".repeat(300), vec![])].into();
        let truncated = MalformedBody::Truncated;
        let declares = |declared, left| MalformedBody::Declares { declared, left };
        let bodies = [
            (rmp_serde::to_vec_named(&nested), truncated),
            (rmp_serde::to_vec(&vec![7_u8; 100_000]), declares(100_000, 99_999)),
            (rmp_serde::to_vec("text"), truncated),
            (rmp_serde::to_vec(&(-5_i64, 'x', (), [1_u16; 20])), declares(20, 19)),
        ];
        for (body, fault_when_cut) in bodies {
            let body = body.expect("serializes");
            assert_eq!(checked(&body), Ok(()));
            assert_eq!(checked(&body[..body.len() - 1]), Err(fault_when_cut));
            let longer = [body.as_slice(), &[0]].concat();
            assert_eq!(checked(&longer), Err(MalformedBody::Trailing { count: 1 }));
        }
    }

    #[test]
    fn first_byte_passes_with_bytes_it_needs() {
        for header in 0_u8..=255 {
            let needed = (0..40).find(|count| checked(&[vec![header], vec![0; *count]].concat()).is_ok());
            let low = usize::from(header);
            let expected = match header {
                0xc1 => None,
                0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => Some(0),
                0x80..=0x8f => Some((low & 0x0f) * 2),
                0x90..=0x9f => Some(low & 0x0f),
                0xa0..=0xbf => Some(low & 0x1f),
                0xc4 | 0xcc | 0xd0 | 0xd9 => Some(1),
                0xc5 | 0xc7 | 0xcd | 0xd1 | 0xd4 | 0xda | 0xdc | 0xde => Some(2),
                0xc8 | 0xd5 => Some(3),
                0xc6 | 0xca | 0xce | 0xd2 | 0xdb | 0xdd | 0xdf => Some(4),
                // An extension of no bytes: a length of four bytes and a type.
                0xc9 | 0xd6 => Some(5),
                0xcb | 0xcf | 0xd3 => Some(8),
                0xd7 => Some(9),
                0xd8 => Some(17),
            };
            assert_eq!(needed, expected, "{header:#x}");
        }
    }

    #[test]
    fn nesting_beyond_limit_is_refused() {
        let nested = |depth| [vec![0x91; depth], vec![0xc0]].concat();
        assert_eq!(checked(&nested(48)), Ok(()));
        assert_eq!(checked(&nested(49)), Err(MalformedBody::TooDeep { limit: 48 }));
        assert_eq!(checked(&nested(1_000_000)), Err(MalformedBody::TooDeep { limit: 48 }));
        let flat = BodyLimits { depth_max: 1, ..BodyLimits::default() };
        assert_eq!(check(&[0x92, 0x90, 0x80], &flat), Ok(()), "empty arrays and maps add no depth");
        assert_eq!(check(&[0x91, 0x91, 0xc0], &flat), Err(MalformedBody::TooDeep { limit: 1 }));
    }

    #[test]
    fn array_longer_than_body_is_refused() {
        let bomb = [0xdd, 0xff, 0xff, 0xff, 0xff].repeat(1000);
        assert_eq!(checked(&bomb), Err(MalformedBody::Declares { declared: u32::MAX.into(), left: 4995 }));
        assert_eq!(
            checked(&[0xde, 0, 3, 0, 0, 0, 0, 0]),
            Err(MalformedBody::Declares { declared: 6, left: 5 })
        );
    }

    #[test]
    fn length_beyond_end_is_refused() {
        assert_eq!(checked(&[0xc6, 0xff, 0xff, 0xff, 0xff, 1]), Err(MalformedBody::Truncated));
        assert_eq!(checked(&[0xd9]), Err(MalformedBody::Truncated));
        assert_eq!(checked(&[]), Err(MalformedBody::Truncated));
    }

    #[test]
    fn values_are_counted_over_whole_body() {
        let few = BodyLimits { items_max: 4, ..BodyLimits::default() };
        assert_eq!(check(&[0x92, 0x91, 0xc0, 0xc0], &few), Ok(()));
        assert_eq!(check(&[0x92, 0x91, 0xc0, 0x90, 0xc0], &few), Err(MalformedBody::Trailing { count: 1 }));
        assert_eq!(check(&[0x93, 0x91, 0xc0, 0x90, 0xc0], &few), Err(MalformedBody::TooMany { limit: 4 }));
    }

    proptest::proptest! {
        #[test]
        fn random_bytes_never_panic(body: Vec<u8>) {
            let _fault = checked(&body);
        }

        #[test]
        fn checked_body_is_decoded_to_its_end(body in proptest::collection::vec(0_u8..=255, 1..12)) {
            if checked(&body).is_ok() {
                let mut rest = body.as_slice();
                let read = rmp_serde::decode::from_read::<_, serde::de::IgnoredAny>(&mut rest);
                proptest::prop_assert!(read.is_ok() && rest.is_empty(), "{read:?}");
            }
        }
    }
}
