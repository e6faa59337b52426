//! The byte form of fields: little endian, of fixed size where possible, borrowed where possible.
//!
//! Invariant: reading allocates no memory, does not recurse, and reads no byte twice.

use std::num::NonZeroU64;

use crate::ids::{Key, NodeId, TagId};

/// Why received bytes do not parse. The peer is at fault. The bytes have changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// The bytes end inside a field.
    #[error("{field} is cut off: {missing} bytes are missing")]
    Truncated {
        /// The field.
        field: &'static str,
        /// The number of missing bytes.
        missing: usize,
    },
    /// Bytes are left after the last field.
    #[error("{count} bytes are left over after the end of {within}")]
    Trailing {
        /// The structure that should end there.
        within: &'static str,
        /// The number of bytes that are left.
        count: usize,
    },
    /// A text field is not UTF-8.
    #[error("{field} is not UTF-8")]
    NotUtf8 {
        /// The field.
        field: &'static str,
    },
    /// A field holds a number without a meaning.
    #[error("{field} holds {value}, which has no meaning in this version")]
    Unknown {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A field is longer, or has more parts, than PROTOCOL.md allows.
    #[error("{field} has {value}, more than the {limit} allowed")]
    TooLarge {
        /// The field.
        field: &'static str,
        /// Its length or number of parts.
        value: u64,
        /// The largest allowed value.
        limit: u64,
    },
}

/// A value with exactly one byte form.
pub(crate) trait Field<'a>: Sized {
    /// The number of bytes that [`put`](Field::put) appends.
    fn size(&self) -> usize;
    fn put(&self, out: &mut Vec<u8>);
    fn take(reader: &mut Reader<'a>) -> Result<Self, Malformed>;
    /// Whether the length of the value fits its length field. Only payloads above 64 KiB hold values that do not fit.
    #[inline]
    fn fits(&self) -> bool {
        true
    }
    /// The type tag to which this field refers, if any.
    #[inline]
    fn tag(&self) -> Option<TagId> {
        None
    }
}

/// Reads fields from the front of a slice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    #[inline]
    pub(crate) fn slice(&mut self, field: &'static str, count: usize) -> Result<&'a [u8], Malformed> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return Err(Malformed::Truncated { field, missing: count - self.rest.len() });
        };
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Malformed> {
        let Some((taken, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(Malformed::Truncated { field, missing: N - self.rest.len() });
        };
        self.rest = rest;
        Ok(*taken)
    }

    #[inline]
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(crate) fn text(&mut self, field: &'static str, count: usize) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.slice(field, count)?).map_err(|_| Malformed::NotUtf8 { field })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    pub(crate) fn finish(self, within: &'static str) -> Result<(), Malformed> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(Malformed::Trailing { within, count }),
        }
    }
}

macro_rules! numbers {
    ($($number:ident),*) => {$(
        impl<'a> Field<'a> for $number {
            #[inline]
            fn size(&self) -> usize {
                size_of::<$number>()
            }

            #[inline]
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            #[inline]
            fn take(reader: &mut Reader<'a>) -> Result<$number, Malformed> {
                Ok($number::from_le_bytes(reader.array(stringify!($number))?))
            }
        }
    )*};
}
numbers!(u8, u16, u32, u64);

impl<'a> Field<'a> for NonZeroU64 {
    fn size(&self) -> usize {
        size_of::<u64>()
    }

    fn put(&self, out: &mut Vec<u8>) {
        self.get().put(out);
    }

    fn take(reader: &mut Reader<'a>) -> Result<NonZeroU64, Malformed> {
        NonZeroU64::new(u64::take(reader)?).ok_or(Malformed::Unknown { field: "request", value: 0 })
    }
}

macro_rules! ids {
    ($($name:ident),*) => {$(
        impl<'a> Field<'a> for $name {
            #[inline]
            fn size(&self) -> usize {
                size_of::<u64>()
            }

            #[inline]
            fn put(&self, out: &mut Vec<u8>) {
                self.to_bits().put(out);
            }

            #[inline]
            fn take(reader: &mut Reader<'a>) -> Result<$name, Malformed> {
                Ok($name::from_bits(u64::take(reader)?))
            }
        }
    )*};
}
ids!(NodeId, Key);

impl<'a> Field<'a> for TagId {
    #[inline]
    fn size(&self) -> usize {
        4
    }

    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }

    #[inline]
    fn take(reader: &mut Reader<'a>) -> Result<TagId, Malformed> {
        Ok(TagId(u32::take(reader)?))
    }

    #[inline]
    fn tag(&self) -> Option<TagId> {
        Some(*self)
    }
}

impl<'a> Field<'a> for bool {
    fn size(&self) -> usize {
        1
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn take(reader: &mut Reader<'a>) -> Result<bool, Malformed> {
        match u8::take(reader)? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(Malformed::Unknown { field: "bool", value: value.into() }),
        }
    }
}

/// A byte 0 or 1; after a 1, the value.
impl<'a, T: Field<'a>> Field<'a> for Option<T> {
    #[inline]
    fn size(&self) -> usize {
        1 + self.as_ref().map_or(0, Field::size)
    }

    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            None => out.push(0),
            Some(value) => {
                out.push(1);
                value.put(out);
            }
        }
    }

    #[inline]
    fn take(reader: &mut Reader<'a>) -> Result<Option<T>, Malformed> {
        Ok(if bool::take(reader)? { Some(T::take(reader)?) } else { None })
    }
}

/// The length in bytes as u16, then the text.
impl<'a> Field<'a> for &'a str {
    fn size(&self) -> usize {
        2 + self.len()
    }

    fn put(&self, out: &mut Vec<u8>) {
        let length = u16::try_from(self.len()).expect("the caller checks `fits` before it puts a text");
        length.put(out);
        out.extend_from_slice(self.as_bytes());
    }

    fn fits(&self) -> bool {
        u16::try_from(self.len()).is_ok()
    }

    fn take(reader: &mut Reader<'a>) -> Result<&'a str, Malformed> {
        let length = u16::take(reader)?;
        reader.text("text", length.into())
    }
}

/// All remaining bytes, so this is always the last field.
impl<'a> Field<'a> for &'a [u8] {
    #[inline]
    fn size(&self) -> usize {
        self.len()
    }

    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    #[inline]
    fn take(reader: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
        Ok(reader.rest())
    }
}

impl<'a, const N: usize> Field<'a> for [u8; N] {
    fn size(&self) -> usize {
        N
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn take(reader: &mut Reader<'a>) -> Result<[u8; N], Malformed> {
        reader.array("bytes")
    }
}
