//! The serializer of `wire!`: MessagePack by rmp-serde, with checks.
//!
//! It refuses at the sender what a receiver would refuse or would read as another value: too much nesting, too many
//! values, too many bytes, `Some` of a value that is encoded as nil, skipped fields of compact types, maps with equal
//! keys, and lengths that do not match. Its own recursion is bounded before the stack is. (serde copies the fields of some
//! variants within `tag` and `flatten` before it calls a serializer; nobody bounds that.)
//!
//! Invariant: if the whole value was serialized without an error, the bytes are one well-formed MessagePack value within
//! the limits. An error that the user's `Serialize` ignores fails the encoding nevertheless.

use std::any::type_name;
use std::fmt::{self, Display, Write as _};
use std::ops::Range;

use rmp::encode::ByteBuf;
use serde::ser::{
    Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use crate::error::{EncodeCause, EncodeError};

/// The deepest nesting of arrays and maps in a message.
pub(crate) const DEPTH_MAX: usize = 48;
/// The most values in a message. Each key and each value of a map counts.
pub(crate) const VALUES_MAX: u64 = 1_048_576;
/// The most nested calls of `serialize`. Options and newtypes count, which add no nesting to the bytes.
const NESTING_MAX: usize = 4 * DEPTH_MAX;
/// A `Vec<u8>` longer than this is encoded as bytes instead of an array of numbers.
const NUMBERS_MAX: usize = 4096;
/// MessagePack's nil.
const NIL: u8 = 0xc0;

/// How structs are encoded.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(crate) enum Layout {
    /// As maps from field names.
    Named,
    /// As arrays.
    Compact,
}

/// How a `Vec<u8>` that is longer than [`NUMBERS_MAX`] is encoded.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(crate) enum ByteSequences {
    /// As bytes. serde cannot read them in internally tagged, untagged and flattened types.
    Bytes,
    /// As an array of numbers, which serde reads everywhere.
    Numbers,
}

/// Why the type of a value may not read its bytes: serde reads some parts only in some positions, which a serializer cannot
/// see. Decode the bytes to find out.
#[derive(Copy, Clone, Default, PartialEq, Eq)]
pub(crate) struct Doubts {
    /// The number of sequences of `u8` that were written as bytes.
    pub(super) byte_sequences: usize,
    /// The number of 128-bit integers.
    pub(super) wide_integers: usize,
}

impl Doubts {
    pub(crate) fn any(self) -> bool {
        self != Self::default()
    }
}

/// Appends the encoding of `value` to `out`, which then has at most `bytes_max` bytes.
pub(crate) fn encode<T: Serialize + ?Sized>(
    value: &T,
    out: &mut Vec<u8>,
    layout: Layout,
    byte_sequences: ByteSequences,
    bytes_max: usize,
) -> Result<Doubts, EncodeError> {
    let mut serializer = CheckedSerializer {
        out: ByteBuf::from_vec(std::mem::take(out)),
        layout,
        byte_sequences,
        bytes_max,
        depth: 0,
        nesting: 0,
        values: 0,
        doubts: Doubts::default(),
        failed: None,
    };
    let result = value.serialize(&mut serializer).and_then(|()| serializer.check_room(0));
    *out = serializer.out.into_vec();
    let fault = match (result, serializer.failed) {
        (Ok(()), None) => return Ok(serializer.doubts),
        (Ok(()), Some(ignored)) => ignored.0,
        (Err(fault), _) => fault.0,
    };
    Err(fault.describe(type_name::<T>()))
}

/// A serializer that checks what it writes.
struct CheckedSerializer {
    out: ByteBuf,
    layout: Layout,
    byte_sequences: ByteSequences,
    bytes_max: usize,
    /// Arrays and maps that are open.
    depth: usize,
    /// Calls of `serialize` that are open.
    nesting: usize,
    values: u64,
    doubts: Doubts,
    /// The error of a part. The whole fails, even if the user's code goes on.
    failed: Option<Fault>,
}

/// Why a value is not encoded.
#[derive(Debug)]
struct Fault(Box<FaultAt>);

#[derive(Debug)]
struct FaultAt {
    cause: FaultCause,
    /// The way to the part, innermost step first.
    place: Vec<Step>,
}

#[derive(Debug)]
enum FaultCause {
    TooDeep,
    TooManyValues,
    TooLarge { bytes: usize, max: usize },
    SomeOfNil,
    SkippedField,
    EqualKeys,
    KeyWithoutValue,
    WrongLength { declared: usize, written: usize },
    Custom(String),
}

/// One step from a value to a part of it.
#[derive(Copy, Clone, Debug)]
enum Step {
    Field(&'static str),
    Variant(&'static str),
    Item(usize),
    Key(usize),
    Value(usize),
}

impl From<FaultCause> for Fault {
    #[cold]
    fn from(cause: FaultCause) -> Self {
        Self(Box::new(FaultAt { cause, place: Vec::new() }))
    }
}

impl From<rmp_serde::encode::Error> for Fault {
    #[cold]
    fn from(error: rmp_serde::encode::Error) -> Self {
        FaultCause::Custom(error.to_string()).into()
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.cause.fmt(f)
    }
}

impl std::error::Error for Fault {}

impl serde::ser::Error for Fault {
    #[cold]
    fn custom<T: Display>(text: T) -> Self {
        FaultCause::Custom(text.to_string()).into()
    }
}

impl Display for FaultCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooDeep => write!(f, "nested deeper than {DEPTH_MAX} arrays and maps"),
            Self::TooManyValues => write!(f, "more than {VALUES_MAX} values"),
            Self::TooLarge { bytes, max } => write!(f, "at least {bytes} bytes, of {max}"),
            Self::SomeOfNil => f.write_str(
                "`Some` of a value that is encoded as nil would arrive as `None`; use an enum of your own \
                 in place of the option",
            ),
            Self::SkippedField => f.write_str(
                "a skipped field would shift the fields behind it, since the type is `compact`; remove \
                 `skip_serializing_if`, or remove `compact` from `wire!`",
            ),
            Self::EqualKeys => f.write_str(
                "two entries have the same key, so one would be lost; a field may have the name of the `tag`, or a \
                 flattened map a key with the name of a field",
            ),
            Self::KeyWithoutValue => {
                f.write_str("its `Serialize` writes a key without a value, or a value without a key")
            }
            Self::WrongLength { declared, written } => write!(
                f,
                "its `Serialize` declared {declared} parts and wrote {written}; correct the length that it passes"
            ),
            Self::Custom(text) => f.write_str(text),
        }
    }
}

impl FaultAt {
    /// The public form of the error, which names the type and the place in it.
    fn describe(mut self, type_name: &str) -> EncodeError {
        let mut place = format!("`{type_name}`");
        self.place.reverse();
        for (n, step) in self.place.iter().enumerate() {
            if n == 0 {
                place.push_str(" at `");
            }
            let written = match step {
                Step::Field(name) => write!(place, ".{name}"),
                Step::Variant(name) => write!(place, "::{name}"),
                Step::Item(index) => write!(place, "[{index}]"),
                Step::Key(index) => write!(place, "[key {index}]"),
                Step::Value(index) => write!(place, "[value {index}]"),
            };
            debug_assert!(written.is_ok(), "a String takes every text");
            if n == PLACE_STEPS_MAX {
                place.push_str("..");
                break;
            }
        }
        if !self.place.is_empty() {
            place.push('`');
        }
        EncodeError::because(match self.cause {
            FaultCause::TooDeep => EncodeCause::TooDeep { max: DEPTH_MAX as u64, place: place.into() },
            FaultCause::TooManyValues => EncodeCause::TooManyValues { max: VALUES_MAX, place: place.into() },
            FaultCause::TooLarge { bytes, max } => {
                EncodeCause::TooLarge { bytes: bytes as u64, max: max as u64 }
            }
            cause => EncodeCause::Other(format!("{place}: {cause}").into()),
        })
    }
}

/// The most steps of a place that an error shows.
const PLACE_STEPS_MAX: usize = 12;

impl CheckedSerializer {
    fn bytes(&self) -> &[u8] {
        self.out.as_slice()
    }

    #[inline]
    fn written(&self) -> usize {
        self.bytes().len()
    }

    /// Counts one more value.
    #[inline]
    fn count(&mut self) -> Result<(), Fault> {
        self.values += 1;
        if self.values > VALUES_MAX { Err(FaultCause::TooManyValues.into()) } else { Ok(()) }
    }

    /// Checks that there is room for `more` bytes.
    #[inline]
    fn check_room(&self, more: usize) -> Result<(), Fault> {
        let bytes = self.written().saturating_add(more);
        if bytes <= self.bytes_max {
            return Ok(());
        }
        Err(FaultCause::TooLarge { bytes, max: self.bytes_max }.into())
    }

    /// Serializes a part of a value.
    #[inline]
    fn part<T: Serialize + ?Sized>(&mut self, part: &T, step: Option<Step>) -> Result<(), Fault> {
        if self.nesting == NESTING_MAX {
            return Err(self.record_failure(FaultCause::TooDeep.into(), step));
        }
        self.nesting += 1;
        let result = part.serialize(&mut *self);
        self.nesting -= 1;
        result.map_err(|fault| self.record_failure(fault, step))
    }

    /// Adds a step to the place of a fault, and notes that there was one.
    #[cold]
    fn record_failure(&mut self, mut fault: Fault, step: Option<Step>) -> Fault {
        fault.0.place.extend(step);
        if self.failed.is_none() {
            let text = fault.to_string();
            self.failed =
                Some(FaultCause::Custom(format!("its `Serialize` ignored an error: {text}")).into());
        }
        fault
    }

    /// Begins an array or a map.
    #[inline]
    fn begin(&mut self, kind: Kind, declared: Option<usize>) -> Result<Parts<'_>, Fault> {
        self.count()?;
        self.check_room(declared.unwrap_or_default())?;
        if self.depth == DEPTH_MAX && declared != Some(0) {
            return Err(FaultCause::TooDeep.into());
        }
        self.depth += 1;
        let header_at = self.written();
        if let Some(declared) = declared {
            kind.write_header(&mut self.out, declared)?;
        }
        let skips = self.layout == Layout::Named;
        Ok(Parts {
            header_at,
            kind,
            declared,
            written: 0,
            skips,
            first_name: None,
            keys: Vec::new(),
            serializer: self,
        })
    }

    /// Begins a map with the name of a variant as its only key.
    #[inline]
    fn begin_variant(&mut self, variant: &'static str) -> Result<(), Fault> {
        self.count()?;
        if self.depth == DEPTH_MAX {
            return Err(FaultCause::TooDeep.into());
        }
        self.depth += 1;
        Kind::Map.write_header(&mut self.out, 1)?;
        (&mut *self).serialize_str(variant)
    }
}

/// Whether parts form an array or a map.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Kind {
    Array,
    Map,
}

impl Kind {
    #[inline]
    fn write_header(self, out: &mut ByteBuf, len: usize) -> Result<(), Fault> {
        if len < 16 {
            out.as_mut_vec().push(if self == Self::Array { 0x90 } else { 0x80 } | len as u8);
            return Ok(());
        }
        let len = u32::try_from(len).map_err(|_| Fault::from(FaultCause::TooManyValues))?;
        let _infallible = match self {
            Self::Array => rmp::encode::write_array_len(out, len),
            Self::Map => rmp::encode::write_map_len(out, len),
        };
        Ok(())
    }
}

/// The parts of an array or a map that is being written.
struct Parts<'s> {
    serializer: &'s mut CheckedSerializer,
    kind: Kind,
    /// Where the header is, or where it belongs if the number of parts is not known yet.
    header_at: usize,
    declared: Option<usize>,
    written: usize,
    /// Whether fields may be skipped.
    skips: bool,
    /// The name of the first field of a struct.
    first_name: Option<&'static str>,
    /// Where the keys of a map are.
    keys: Vec<Range<usize>>,
}

impl Parts<'_> {
    #[inline]
    fn item<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), Fault> {
        let step = Step::Item(self.written);
        self.written += 1;
        self.serializer.part(item, Some(step))
    }

    #[inline]
    fn field<T: Serialize + ?Sized>(&mut self, name: &'static str, field: &T) -> Result<(), Fault> {
        self.written += 1;
        if self.kind == Kind::Map {
            // In an internally tagged enum the tag comes first, and a field may have the same name.
            let first_name = *self.first_name.get_or_insert(name);
            if self.written > 1 && first_name == name {
                return Err(self
                    .serializer
                    .record_failure(FaultCause::EqualKeys.into(), Some(Step::Field(name))));
            }
            let result = (&mut *self.serializer).serialize_str(name);
            result.map_err(|fault| self.serializer.record_failure(fault, Some(Step::Field(name))))?;
        }
        self.serializer.part(field, Some(Step::Field(name)))
    }

    fn skip(&mut self, name: &'static str) -> Result<(), Fault> {
        if self.skips {
            return Ok(());
        }
        Err(self.serializer.record_failure(FaultCause::SkippedField.into(), Some(Step::Field(name))))
    }

    /// Ends the array or map; `levels` are open.
    #[inline]
    fn end(self, levels: usize) -> Result<(), Fault> {
        self.serializer.depth -= levels;
        match self.declared {
            Some(declared) if declared == self.written => {}
            Some(declared) => {
                let cause = FaultCause::WrongLength { declared, written: self.written };
                return Err(self.serializer.record_failure(cause.into(), None));
            }
            None => return self.insert_header(),
        }
        Ok(())
    }

    /// Inserts the header in front of the parts, whose number is known now.
    fn insert_header(self) -> Result<(), Fault> {
        let mut header = ByteBuf::new();
        self.kind.write_header(&mut header, self.written)?;
        let at = self.header_at;
        self.serializer.out.as_mut_vec().splice(at..at, header.into_vec());
        Ok(())
    }

    /// Fails if the keys and values of a map do not alternate.
    fn check_alternation(&mut self, is_value: bool) -> Result<(), Fault> {
        if (self.keys.len() > self.written) == is_value {
            return Ok(());
        }
        Err(self.serializer.record_failure(FaultCause::KeyWithoutValue.into(), None))
    }

    /// Fails if two keys of a map are equal.
    fn check_keys(&mut self) -> Result<(), Fault> {
        let mut keys = std::mem::take(&mut self.keys);
        let bytes = self.serializer.bytes();
        let is_sorted = keys.is_sorted_by(|one, other| bytes[one.clone()] < bytes[other.clone()]);
        if is_sorted {
            return Ok(());
        }
        keys.sort_unstable_by(|one, other| bytes[one.clone()].cmp(&bytes[other.clone()]));
        if keys.windows(2).any(|two| bytes[two[0].clone()] == bytes[two[1].clone()]) {
            return Err(self.serializer.record_failure(FaultCause::EqualKeys.into(), None));
        }
        Ok(())
    }
}

macro_rules! scalars {
    ($($method:ident: $type:ty, $put:ident as $wide:ty;)*) => {$(
        #[inline]
        fn $method(self, value: $type) -> Result<(), Fault> {
            self.count()?;
            $put(self.out.as_mut_vec(), <$wide>::from(value));
            Ok(())
        }
    )*};
}

/// Appends a boolean.
fn put_bool(out: &mut Vec<u8>, value: bool) {
    out.push(0xc2 | u8::from(value));
}

fn put_f32(out: &mut Vec<u8>, value: f32) {
    let [a, b, c, d] = value.to_be_bytes();
    out.extend_from_slice(&[0xca, a, b, c, d]);
}

fn put_f64(out: &mut Vec<u8>, value: f64) {
    put_eight(out, 0xcb, value.to_be_bytes());
}

/// Appends an integer in its shortest form. It costs a third of rmp's, which appends the marker and the digits apart.
#[inline]
fn put_uint(out: &mut Vec<u8>, value: u64) {
    if value < 0x80 {
        out.push(value as u8);
    } else if let Ok(value) = u8::try_from(value) {
        out.extend_from_slice(&[0xcc, value]);
    } else if let Ok(value) = u16::try_from(value) {
        let [a, b] = value.to_be_bytes();
        out.extend_from_slice(&[0xcd, a, b]);
    } else if let Ok(value) = u32::try_from(value) {
        let [a, b, c, d] = value.to_be_bytes();
        out.extend_from_slice(&[0xce, a, b, c, d]);
    } else {
        put_eight(out, 0xcf, value.to_be_bytes());
    }
}

fn put_sint(out: &mut Vec<u8>, value: i64) {
    if let Ok(value) = u64::try_from(value) {
        return put_uint(out, value);
    }
    if let Ok(value) = i8::try_from(value) {
        let byte = value.to_be_bytes()[0];
        if value >= -32 { out.push(byte) } else { out.extend_from_slice(&[0xd0, byte]) }
    } else if let Ok(value) = i16::try_from(value) {
        let [a, b] = value.to_be_bytes();
        out.extend_from_slice(&[0xd1, a, b]);
    } else if let Ok(value) = i32::try_from(value) {
        let [a, b, c, d] = value.to_be_bytes();
        out.extend_from_slice(&[0xd2, a, b, c, d]);
    } else {
        put_eight(out, 0xd3, value.to_be_bytes());
    }
}

fn put_eight(out: &mut Vec<u8>, marker: u8, [a, b, c, d, e, f, g, h]: [u8; 8]) {
    out.extend_from_slice(&[marker, a, b, c, d, e, f, g, h]);
}

impl<'s> Serializer for &'s mut CheckedSerializer {
    type Ok = ();
    type Error = Fault;
    type SerializeSeq = Parts<'s>;
    type SerializeTuple = Parts<'s>;
    type SerializeTupleStruct = Parts<'s>;
    type SerializeTupleVariant = VariantParts<'s>;
    type SerializeMap = Parts<'s>;
    type SerializeStruct = Parts<'s>;
    type SerializeStructVariant = VariantParts<'s>;

    fn is_human_readable(&self) -> bool {
        true
    }

    scalars! {
        serialize_bool: bool, put_bool as bool;
        serialize_i8: i8, put_sint as i64;
        serialize_i16: i16, put_sint as i64;
        serialize_i32: i32, put_sint as i64;
        serialize_i64: i64, put_sint as i64;
        serialize_u8: u8, put_uint as u64;
        serialize_u16: u16, put_uint as u64;
        serialize_u32: u32, put_uint as u64;
        serialize_u64: u64, put_uint as u64;
        serialize_f32: f32, put_f32 as f32;
        serialize_f64: f64, put_f64 as f64;
    }

    fn serialize_char(self, value: char) -> Result<(), Fault> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_i128(self, value: i128) -> Result<(), Fault> {
        // serde cannot read even a small one in internally tagged, untagged and flattened types.
        self.doubts.wide_integers += 1;
        if let Ok(small) = i64::try_from(value) {
            return self.serialize_i64(small);
        }
        self.serialize_bytes(&value.to_be_bytes())
    }

    fn serialize_u128(self, value: u128) -> Result<(), Fault> {
        self.doubts.wide_integers += 1;
        if let Ok(small) = u64::try_from(value) {
            return self.serialize_u64(small);
        }
        self.serialize_bytes(&value.to_be_bytes())
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Result<(), Fault> {
        self.count()?;
        self.check_room(value.len())?;
        let _infallible = rmp::encode::write_str(&mut self.out, value);
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), Fault> {
        self.count()?;
        self.check_room(value.len())?;
        let _infallible = rmp::encode::write_bin(&mut self.out, value);
        Ok(())
    }

    #[inline]
    fn serialize_none(self) -> Result<(), Fault> {
        self.serialize_unit()
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Fault> {
        let at = self.written();
        self.part(value, None)?;
        if self.bytes().get(at) == Some(&NIL) {
            return Err(self.record_failure(FaultCause::SomeOfNil.into(), None));
        }
        Ok(())
    }

    #[inline]
    fn serialize_unit(self) -> Result<(), Fault> {
        self.count()?;
        let _infallible = rmp::encode::write_nil(&mut self.out);
        Ok(())
    }

    /// Nil, since serde reads a unit struct in untagged and flattened types only from that.
    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Fault> {
        self.serialize_unit()
    }

    #[inline]
    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), Fault> {
        self.serialize_str(variant)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Fault> {
        if name == rmp_serde::MSGPACK_EXT_STRUCT_NAME {
            // rmp-serde reads its tag and bytes, and writes a MessagePack extension.
            self.count()?;
            rmp_serde::Serializer::new(self.out.as_mut_vec()).serialize_newtype_struct(name, value)?;
            return self.check_room(0);
        }
        self.part(value, None)
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Fault> {
        self.begin_variant(variant)?;
        self.part(value, Some(Step::Variant(variant)))?;
        self.depth -= 1;
        Ok(())
    }

    #[inline]
    fn serialize_seq(self, len: Option<usize>) -> Result<Parts<'s>, Fault> {
        self.begin(Kind::Array, len)
    }

    #[inline]
    fn serialize_tuple(self, len: usize) -> Result<Parts<'s>, Fault> {
        self.begin(Kind::Array, Some(len))
    }

    #[inline]
    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<Parts<'s>, Fault> {
        self.begin(Kind::Array, Some(len))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<VariantParts<'s>, Fault> {
        self.begin_variant(variant)?;
        Ok(VariantParts { parts: self.begin(Kind::Array, Some(len))?, variant })
    }

    #[inline]
    fn serialize_map(self, len: Option<usize>) -> Result<Parts<'s>, Fault> {
        self.begin(Kind::Map, len)
    }

    #[inline]
    fn serialize_struct(self, _: &'static str, len: usize) -> Result<Parts<'s>, Fault> {
        let kind = if self.layout == Layout::Named { Kind::Map } else { Kind::Array };
        self.begin(kind, Some(len))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<VariantParts<'s>, Fault> {
        self.begin_variant(variant)?;
        let kind = if self.layout == Layout::Named { Kind::Map } else { Kind::Array };
        Ok(VariantParts { parts: self.begin(kind, Some(len))?, variant })
    }

    /// Writes a long sequence of bytes, such as a `Vec<u8>`, as bytes.
    fn collect_seq<I>(self, items: I) -> Result<(), Fault>
    where
        I: IntoIterator,
        I::Item: Serialize,
    {
        let items = items.into_iter();
        let (least, most) = items.size_hint();
        let is_long = least > NUMBERS_MAX && self.byte_sequences == ByteSequences::Bytes;
        // A constant for each type. No other type has these names, and a wrong guess is an error and not another value.
        let are_bytes = matches!(type_name::<I::Item>(), "u8" | "&u8");
        if is_long && are_bytes {
            self.check_room(least)?;
            let mut bytes = Vec::with_capacity(least);
            for item in items {
                bytes.push(item.serialize(OneByte)?);
                if bytes.len() > least {
                    self.check_room(bytes.len())?;
                }
            }
            self.doubts.byte_sequences += 1;
            return self.serialize_bytes(&bytes);
        }
        let declared = (most == Some(least)).then_some(least);
        let mut parts = self.begin(Kind::Array, declared)?;
        for item in items {
            parts.item(&item)?;
        }
        parts.end(1)
    }

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<(), Fault> {
        let mut text = LimitedText { text: String::new(), max: self.bytes_max, refused: 0 };
        if write!(text, "{value}").is_err() {
            self.check_room(text.refused)?;
            return Err(FaultCause::Custom("its `Display` failed".to_owned()).into());
        }
        self.serialize_str(&text.text)
    }
}

/// A text with a limit, since a `Display` may yield text without end.
struct LimitedText {
    text: String,
    max: usize,
    /// The length that the text would have had.
    refused: usize,
}

impl fmt::Write for LimitedText {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let bytes = self.text.len().saturating_add(more.len());
        if bytes > self.max {
            self.refused = bytes;
            return Err(fmt::Error);
        }
        self.text.push_str(more);
        Ok(())
    }
}

impl SerializeSeq for Parts<'_> {
    type Ok = ();
    type Error = Fault;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), Fault> {
        self.item(item)
    }

    #[inline]
    fn end(self) -> Result<(), Fault> {
        Parts::end(self, 1)
    }
}

impl SerializeTuple for Parts<'_> {
    type Ok = ();
    type Error = Fault;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), Fault> {
        self.item(item)
    }

    #[inline]
    fn end(self) -> Result<(), Fault> {
        Parts::end(self, 1)
    }
}

impl SerializeTupleStruct for Parts<'_> {
    type Ok = ();
    type Error = Fault;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), Fault> {
        self.item(item)
    }

    #[inline]
    fn end(self) -> Result<(), Fault> {
        Parts::end(self, 1)
    }
}

impl SerializeMap for Parts<'_> {
    type Ok = ();
    type Error = Fault;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Fault> {
        self.check_alternation(false)?;
        let (at, step) = (self.serializer.written(), Step::Key(self.written));
        self.serializer.part(key, Some(step))?;
        self.keys.push(at..self.serializer.written());
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        self.check_alternation(true)?;
        let step = Step::Value(self.written);
        self.written += 1;
        self.serializer.part(value, Some(step))
    }

    fn end(mut self) -> Result<(), Fault> {
        self.check_alternation(false)?;
        self.check_keys()?;
        Parts::end(self, 1)
    }
}

impl SerializeStruct for Parts<'_> {
    type Ok = ();
    type Error = Fault;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, field: &T) -> Result<(), Fault> {
        self.field(name, field)
    }

    fn skip_field(&mut self, name: &'static str) -> Result<(), Fault> {
        self.skip(name)
    }

    #[inline]
    fn end(self) -> Result<(), Fault> {
        Parts::end(self, 1)
    }
}

/// The parts of an enum's variant, in a map with the name of the variant.
struct VariantParts<'s> {
    parts: Parts<'s>,
    variant: &'static str,
}

impl VariantParts<'_> {
    fn within<R>(&mut self, result: Result<R, Fault>) -> Result<R, Fault> {
        result.map_err(|fault| self.parts.serializer.record_failure(fault, Some(Step::Variant(self.variant))))
    }
}

impl SerializeTupleVariant for VariantParts<'_> {
    type Ok = ();
    type Error = Fault;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), Fault> {
        let result = self.parts.item(item);
        self.within(result)
    }

    fn end(self) -> Result<(), Fault> {
        self.parts.end(2)
    }
}

impl SerializeStructVariant for VariantParts<'_> {
    type Ok = ();
    type Error = Fault;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, field: &T) -> Result<(), Fault> {
        let result = self.parts.field(name, field);
        self.within(result)
    }

    fn skip_field(&mut self, name: &'static str) -> Result<(), Fault> {
        let result = self.parts.skip(name);
        self.within(result)
    }

    fn end(self) -> Result<(), Fault> {
        self.parts.end(2)
    }
}

/// Reads the one byte that a `u8` serializes; everything else is an error.
struct OneByte;

macro_rules! not_a_byte {
    ($($method:ident($($type:ty),*)),* $(,)?) => {$(
        fn $method(self, $(_: $type),*) -> Result<u8, Fault> {
            Err(not_a_byte())
        }
    )*};
}

#[cold]
fn not_a_byte() -> Fault {
    FaultCause::Custom("expected a byte".to_owned()).into()
}

impl Serializer for OneByte {
    type Ok = u8;
    type Error = Fault;
    type SerializeSeq = serde::ser::Impossible<u8, Fault>;
    type SerializeTuple = serde::ser::Impossible<u8, Fault>;
    type SerializeTupleStruct = serde::ser::Impossible<u8, Fault>;
    type SerializeTupleVariant = serde::ser::Impossible<u8, Fault>;
    type SerializeMap = serde::ser::Impossible<u8, Fault>;
    type SerializeStruct = serde::ser::Impossible<u8, Fault>;
    type SerializeStructVariant = serde::ser::Impossible<u8, Fault>;

    #[inline]
    fn serialize_u8(self, value: u8) -> Result<u8, Fault> {
        Ok(value)
    }

    not_a_byte! {
        serialize_bool(bool), serialize_i8(i8), serialize_i16(i16), serialize_i32(i32), serialize_i64(i64),
        serialize_u16(u16), serialize_u32(u32), serialize_u64(u64), serialize_f32(f32), serialize_f64(f64),
        serialize_char(char), serialize_str(&str), serialize_bytes(&[u8]), serialize_none(), serialize_unit(),
        serialize_unit_struct(&'static str), serialize_unit_variant(&'static str, u32, &'static str),
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<u8, Fault> {
        Err(not_a_byte())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, _: &T) -> Result<u8, Fault> {
        Err(not_a_byte())
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<u8, Fault> {
        Err(not_a_byte())
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, Fault> {
        Err(not_a_byte())
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Fault> {
        Err(not_a_byte())
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeTupleStruct, Fault> {
        Err(not_a_byte())
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Fault> {
        Err(not_a_byte())
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Fault> {
        Err(not_a_byte())
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, Fault> {
        Err(not_a_byte())
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Fault> {
        Err(not_a_byte())
    }
}
