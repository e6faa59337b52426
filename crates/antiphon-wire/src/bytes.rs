//! How fields become bytes: little endian, fixed sizes, borrowed where they can be.
//!
//! Reading never reserves memory, never recurses, and looks at no byte twice.

use crate::ids::{Key, NodeId, TagId};

/// Why bytes are not what they claim to be. The peer is at fault; nothing was changed by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// The bytes end inside a field.
    #[error("{field} is cut off: {missing} bytes are missing")]
    Truncated {
        /// What was being read.
        field: &'static str,
        /// How many more bytes it takes.
        missing: usize,
    },
    /// Bytes are left after the last field.
    #[error("{count} bytes are left over after {within}")]
    Trailing {
        /// What should have ended.
        within: &'static str,
        /// How many bytes are left.
        count: usize,
    },
    /// A text is not UTF-8.
    #[error("{field} is not UTF-8")]
    NotUtf8 {
        /// Which text.
        field: &'static str,
    },
    /// A field holds a number that means nothing.
    #[error("{field} holds {value}, which means nothing in this version")]
    Unknown {
        /// Which field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// A field is longer, or has more parts, than PROTOCOL.md allows.
    #[error("{field} has {value}, more than the {limit} allowed")]
    TooLarge {
        /// Which field.
        field: &'static str,
        /// What it has.
        value: u64,
        /// What it may have.
        limit: u64,
    },
}

/// A value with one form in bytes.
pub(crate) trait Field<'a>: Sized {
    /// The bytes that [`put`](Field::put) will append.
    fn size(&self) -> usize;
    fn put(&self, out: &mut Vec<u8>);
    fn take(reader: &mut Reader<'a>) -> Result<Self, Malformed>;
    /// Whether the field can express its own length. Only a payload above 64 KiB can hold one that does not.
    #[inline]
    fn fits(&self) -> bool {
        true
    }
    /// The type tag that this field refers to, if it does.
    #[inline]
    fn tag(&self) -> Option<TagId> {
        None
    }
}

/// Reads fields off the front of a slice.
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

macro_rules! newtypes {
    ($($name:ident($number:ident)),*) => {$(
        impl<'a> Field<'a> for $name {
            #[inline]
            fn size(&self) -> usize {
                size_of::<$number>()
            }

            #[inline]
            fn put(&self, out: &mut Vec<u8>) {
                self.0.put(out);
            }

            #[inline]
            fn take(reader: &mut Reader<'a>) -> Result<$name, Malformed> {
                Ok($name($number::take(reader)?))
            }
        }
    )*};
}
newtypes!(NodeId(u64), Key(u64));

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

/// A byte 0 or 1, and after a 1 the value.
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

/// A u16 of its length, and the text.
impl<'a> Field<'a> for &'a str {
    fn size(&self) -> usize {
        2 + self.len()
    }

    fn put(&self, out: &mut Vec<u8>) {
        let length = u16::try_from(self.len()).expect("`fits` was asked before a text is put");
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

/// All the bytes that are left: always the last field.
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
