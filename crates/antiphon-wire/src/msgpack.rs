//! The structural check of MessagePack, before any decoder sees a body.
//!
//! A decoder trusts what a body declares: nested enums use up its stack, nested array headers its memory, and bytes after the
//! value go unseen. This check walks the bytes once, in constant stack and without memory, and lets only sound ones pass.
//! (<https://github.com/msgpack/msgpack/blob/master/spec.md>)

/// What a body may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimits {
    /// Arrays and maps within one another; at most [`DEPTH_MAX`].
    pub depth_max: usize,
    /// Values in all, keys and values of maps each counted.
    pub items_max: u64,
}

impl Default for BodyLimits {
    fn default() -> BodyLimits {
        BodyLimits { depth_max: DEPTH_MAX, items_max: 1_048_576 }
    }
}

/// A body that no decoder should see. Its sender is at fault; the message is refused as being of the wrong type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MalformedBody {
    /// The bytes end within a value.
    #[error("the body ends within a value")]
    Truncated,
    /// An array or map declares more items than bytes are left.
    #[error("an array or map declares {declared} items, and {left} bytes are left")]
    Declares {
        /// Items that it declares.
        declared: u64,
        /// Bytes that are left.
        left: u64,
    },
    /// Arrays and maps too deep within one another.
    #[error("arrays and maps are nested deeper than {limit}; flatten the type")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// Too many values.
    #[error("the body has more than {limit} values; use bytes (`antiphon::Bytes`), or send less at a time")]
    TooMany {
        /// The limit.
        limit: u64,
    },
    /// Bytes after the value.
    #[error("{count} bytes are left over after the value")]
    Trailing {
        /// How many.
        count: usize,
    },
    /// The byte 0xc1, which MessagePack never uses.
    #[error("the byte 0xc1 begins no value")]
    Reserved,
}

/// The deepest nesting that any limit allows.
pub const DEPTH_MAX: usize = 48;

/// Checks that `body` is exactly one well-formed value within the limits.
///
/// Takes constant stack, no memory, and looks at each header once, or twice where the body is nested deeply: some 140
/// instructions for a struct of three numbers.
///
/// # Errors
/// [`MalformedBody`], at the first fault.
pub fn check(body: &[u8], limits: &BodyLimits) -> Result<(), MalformedBody> {
    match walk::<SHALLOW>(body, limits) {
        Err(MalformedBody::TooDeep { .. }) => walk::<DEPTH_MAX>(body, limits),
        checked => checked,
    }
}

/// Most bodies are no deeper, and to clear room for more of them costs as much as to look at one.
const SHALLOW: usize = 4;

/// As [`check`], within so many arrays and maps.
fn walk<const DEPTH: usize>(body: &[u8], limits: &BodyLimits) -> Result<(), MalformedBody> {
    let depth_max = limits.depth_max.min(DEPTH);
    // Values that are still to come at each depth; the body itself is one value.
    let mut open = [0_u64; DEPTH];
    let (mut depth, mut due, mut items) = (0, 1_u64, 0_u64);
    let mut rest = body;
    loop {
        while due == 0 {
            if depth == 0 {
                return match rest.len() {
                    0 => Ok(()),
                    count => Err(MalformedBody::Trailing { count }),
                };
            }
            depth -= 1;
            due = open[depth];
        }
        due -= 1;
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
        let declared = match shape(*header)? {
            Shape::Bytes { length, and } => {
                let count = take_number(&mut rest, length)?;
                let count = usize::try_from(count).unwrap_or(usize::MAX).saturating_add(and);
                rest = rest.get(count..).ok_or(MalformedBody::Truncated)?;
                continue;
            }
            Shape::Items(count) => count,
            Shape::Counted { length, each } => take_number(&mut rest, length)? * each,
        };
        let left = rest.len() as u64;
        if declared > left {
            return Err(MalformedBody::Declares { declared, left });
        }
        if declared > 0 {
            if depth >= depth_max {
                return Err(MalformedBody::TooDeep { limit: depth_max });
            }
            open[depth] = due;
            depth += 1;
            due = declared;
        }
    }
}

/// How many bytes follow a value's first one, where that alone says it; else [`VARIES`].
static SIZES: [u8; 256] = {
    let mut sizes = [VARIES; 256];
    let mut header = 0;
    while header < 256 {
        sizes[header] = match header as u8 {
            // Small integers, nil, booleans.
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => 0,
            // Short texts.
            text @ 0xa0..=0xbf => text & 0x1f,
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

const VARIES: u8 = u8::MAX;

/// What follows the first byte of a value that [varies](VARIES).
enum Shape {
    /// A length of so many bytes, then as many bytes as it says `and` more.
    Bytes { length: usize, and: usize },
    /// So many values.
    Items(u64),
    /// A count of so many bytes, then as many values `each`.
    Counted { length: usize, each: u64 },
}

#[inline]
fn shape(header: u8) -> Result<Shape, MalformedBody> {
    Ok(match header {
        // Short maps and arrays.
        0x80..=0x8f => Shape::Items(u64::from(header & 0x0f) * 2),
        0x90..=0x9f => Shape::Items(u64::from(header & 0x0f)),
        // Bytes and extensions with a length.
        0xc4 => Shape::Bytes { length: 1, and: 0 },
        0xc5 => Shape::Bytes { length: 2, and: 0 },
        0xc6 => Shape::Bytes { length: 4, and: 0 },
        0xc7 => Shape::Bytes { length: 1, and: 1 },
        0xc8 => Shape::Bytes { length: 2, and: 1 },
        0xc9 => Shape::Bytes { length: 4, and: 1 },
        // Texts, arrays, maps with a length.
        0xd9 => Shape::Bytes { length: 1, and: 0 },
        0xda => Shape::Bytes { length: 2, and: 0 },
        0xdb => Shape::Bytes { length: 4, and: 0 },
        0xdc => Shape::Counted { length: 2, each: 1 },
        0xdd => Shape::Counted { length: 4, each: 1 },
        0xde => Shape::Counted { length: 2, each: 2 },
        0xdf => Shape::Counted { length: 4, each: 2 },
        _ => return Err(MalformedBody::Reserved),
    })
}

/// A number of 1, 2 or 4 bytes, big endian.
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
    fn what_a_serializer_writes_passes() {
        use std::collections::BTreeMap;
        let nested: BTreeMap<String, Vec<(u64, Option<f32>)>> =
            [("a".to_owned(), vec![(1, None), (u64::MAX, Some(0.5))]), ("b".repeat(300), vec![])].into();
        let bodies = [
            rmp_serde::to_vec_named(&nested).expect("serializes"),
            rmp_serde::to_vec(&vec![7_u8; 100_000]).expect("serializes"),
            rmp_serde::to_vec("text").expect("serializes"),
            rmp_serde::to_vec(&(-5_i64, 'x', (), [1_u16; 20])).expect("serializes"),
        ];
        for body in bodies {
            assert_eq!(checked(&body), Ok(()));
            assert!(checked(&body[..body.len() - 1]).is_err());
            let longer = [body.as_slice(), &[0]].concat();
            assert_eq!(checked(&longer), Err(MalformedBody::Trailing { count: 1 }));
        }
    }

    #[test]
    fn every_first_byte_passes_with_exactly_the_bytes_that_it_needs() {
        for header in 0_u8..=255 {
            let needed = (0..40).find(|count| checked(&[vec![header], vec![0; *count]].concat()).is_ok());
            match header {
                0xc1 => assert_eq!(needed, None),
                0xca | 0xd2 => assert_eq!(needed, Some(4)),
                0xd8 => assert_eq!(needed, Some(17)),
                0xc9 => assert_eq!(needed, Some(5), "ext 32 of no bytes: a length and a type"),
                0x93 => assert_eq!(needed, Some(3)),
                0x82 => assert_eq!(needed, Some(4)),
                _ => assert!(needed.is_some(), "{header:#x}"),
            }
        }
    }

    #[test]
    fn nesting_is_allowed_to_the_limit_and_no_deeper() {
        let nested = |depth| [vec![0x91; depth], vec![0xc0]].concat();
        assert_eq!(checked(&nested(48)), Ok(()));
        assert_eq!(checked(&nested(49)), Err(MalformedBody::TooDeep { limit: 48 }));
        assert_eq!(checked(&nested(1_000_000)), Err(MalformedBody::TooDeep { limit: 48 }));
        let flat = BodyLimits { depth_max: 1, ..BodyLimits::default() };
        assert_eq!(check(&[0x92, 0x90, 0x80], &flat), Ok(()), "empty ones hold nothing");
        assert_eq!(check(&[0x91, 0x91, 0xc0], &flat), Err(MalformedBody::TooDeep { limit: 1 }));
    }

    #[test]
    fn an_array_that_declares_more_than_is_there_is_refused_at_once() {
        let bomb = [0xdd, 0xff, 0xff, 0xff, 0xff].repeat(1000);
        assert_eq!(checked(&bomb), Err(MalformedBody::Declares { declared: u32::MAX.into(), left: 4995 }));
        assert_eq!(
            checked(&[0xde, 0, 3, 0, 0, 0, 0, 0]),
            Err(MalformedBody::Declares { declared: 6, left: 5 })
        );
    }

    #[test]
    fn a_length_beyond_the_end_is_refused() {
        assert_eq!(checked(&[0xc6, 0xff, 0xff, 0xff, 0xff, 1]), Err(MalformedBody::Truncated));
        assert_eq!(checked(&[0xd9]), Err(MalformedBody::Truncated));
        assert_eq!(checked(&[]), Err(MalformedBody::Truncated));
    }

    #[test]
    fn items_are_counted_over_the_whole_body() {
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
        fn what_passes_is_read_to_its_end_by_a_decoder(body in proptest::collection::vec(0_u8..=255, 1..12)) {
            if checked(&body).is_ok() {
                let mut rest = body.as_slice();
                let read = rmp_serde::decode::from_read::<_, serde::de::IgnoredAny>(&mut rest);
                proptest::prop_assert!(read.is_err() || rest.is_empty());
            }
        }
    }
}
