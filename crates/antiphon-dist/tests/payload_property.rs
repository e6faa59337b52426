//! Random values: what an encoder accepts is one well-formed MessagePack value, and decodes to an equal value.

use std::collections::BTreeMap;
use std::fmt;

use antiphon_sched::{Bytes, Wire, wire};
use antiphon_wire::msgpack::{self, BodyLimits};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_bytes::ByteBuf;

/// The deepest nesting of arrays and maps.
const DEPTH_MAX: usize = 48;

/// A value of the data model of MessagePack, without extensions.
#[derive(Clone, PartialEq, Debug)]
enum Any {
    Nil,
    Bool(bool),
    /// A number below zero.
    Negative(i64),
    Unsigned(u64),
    Float(Float),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Any>),
    Map(Vec<(Any, Any)>),
}
wire!(Any, "test.any/1");

/// A number that equals another if the bits do.
#[derive(Copy, Clone, Serialize, Deserialize, Debug)]
struct Float(f64);

impl PartialEq for Float {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Serialize for Any {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Nil => serializer.serialize_unit(),
            Self::Bool(value) => value.serialize(serializer),
            Self::Negative(number) => number.serialize(serializer),
            Self::Unsigned(number) => number.serialize(serializer),
            Self::Float(number) => number.serialize(serializer),
            Self::Text(text) => text.serialize(serializer),
            Self::Bytes(bytes) => serializer.serialize_bytes(bytes),
            Self::List(items) => items.serialize(serializer),
            Self::Map(entries) => serializer.collect_map(entries.iter().map(|(key, value)| (key, value))),
        }
    }
}

impl<'de> Deserialize<'de> for Any {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyVisitor)
    }
}

struct AnyVisitor;

impl<'de> Visitor<'de> for AnyVisitor {
    type Value = Any;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Any, E> {
        Ok(Any::Nil)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Any, E> {
        Ok(Any::Bool(value))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Any, E> {
        Ok(integer(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Any, E> {
        Ok(Any::Unsigned(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Any, E> {
        Ok(Any::Float(Float(number)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Any, E> {
        Ok(Any::Text(text.to_owned()))
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Any, E> {
        Ok(Any::Bytes(bytes.to_vec()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Any, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Any::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Any, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Any::Map(entries))
    }
}

fn integer(number: i128) -> Any {
    match (u64::try_from(number), i64::try_from(number)) {
        (Ok(number), _) => Any::Unsigned(number),
        (_, Ok(number)) => Any::Negative(number),
        _ => Any::Bytes(number.to_be_bytes().to_vec()),
    }
}

fn text(text: &str) -> Any {
    Any::Text(text.to_owned())
}

impl Any {
    /// Whether it keeps to the limits, below this many arrays and maps, and no map has equal keys.
    fn is_acceptable(&self, depth: usize) -> bool {
        match self {
            Self::List(items) => {
                (items.is_empty() || depth < DEPTH_MAX)
                    && items.iter().all(|item| item.is_acceptable(depth + 1))
            }
            Self::Map(entries) => {
                let is_first = |n: usize| !entries[..n].iter().any(|earlier| earlier.0 == entries[n].0);
                (entries.is_empty() || depth < DEPTH_MAX)
                    && (0..entries.len()).all(is_first)
                    && entries
                        .iter()
                        .all(|(key, value)| key.is_acceptable(depth + 1) && value.is_acceptable(depth + 1))
            }
            _ => true,
        }
    }

    /// What another implementation of MessagePack has read.
    fn read(value: rmpv::Value) -> Self {
        match value {
            rmpv::Value::Nil => Self::Nil,
            rmpv::Value::Boolean(value) => Self::Bool(value),
            rmpv::Value::Integer(number) => match number.as_u64() {
                Some(number) => Self::Unsigned(number),
                None => Self::Negative(number.as_i64().expect("it is no u64")),
            },
            rmpv::Value::F32(number) => Self::Float(Float(number.into())),
            rmpv::Value::F64(number) => Self::Float(Float(number)),
            rmpv::Value::String(text) => Self::Text(text.into_str().expect("the text is UTF-8")),
            rmpv::Value::Binary(bytes) => Self::Bytes(bytes),
            rmpv::Value::Array(items) => Self::List(items.into_iter().map(Self::read).collect()),
            rmpv::Value::Map(entries) => Self::Map(
                entries.into_iter().map(|(key, value)| (Self::read(key), Self::read(value))).collect(),
            ),
            rmpv::Value::Ext(kind, _) => panic!("no encoder writes an extension of kind {kind}"),
        }
    }
}

/// A value of derived types: enums, structs, tuples and options.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
enum Shape {
    Unit,
    Newtype(Box<Shape>),
    Tuple(i8, Option<Box<Shape>>),
    Struct { maybe: Option<Any>, list: Vec<Shape>, map: BTreeMap<String, Shape> },
    Any(Any),
    Wide(i128),
    Bytes(ByteBuf),
    Numbers(Vec<u8>),
    Inner(Inner),
}
wire!(Shape, "test.shape/1");

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
struct Inner {
    character: char,
    nothing: (),
    float: Float,
    option: Option<bool>,
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
struct CompactShape(Shape);
wire!(CompactShape, "test.compact_shape/1", compact);

/// The number of bytes from which an array of bytes is encoded as bytes.
const BYTES_FROM: usize = 4097;

impl Shape {
    /// What the encoding should be read as.
    fn to_any(&self, is_compact: bool) -> Any {
        let named = |fields: Vec<(&str, Any)>| {
            if is_compact {
                return Any::List(fields.into_iter().map(|(_, value)| value).collect());
            }
            Any::Map(fields.into_iter().map(|(name, value)| (text(name), value)).collect())
        };
        let variant = |name, content| Any::Map(vec![(text(name), content)]);
        match self {
            Self::Unit => text("Unit"),
            Self::Newtype(inner) => variant("Newtype", inner.to_any(is_compact)),
            Self::Tuple(number, inner) => {
                let inner = inner.as_ref().map_or(Any::Nil, |inner| inner.to_any(is_compact));
                variant("Tuple", Any::List(vec![integer((*number).into()), inner]))
            }
            Self::Struct { maybe, list, map } => {
                let list = list.iter().map(|item| item.to_any(is_compact)).collect();
                let map = map.iter().map(|(key, value)| (text(key), value.to_any(is_compact))).collect();
                let fields = vec![
                    ("maybe", maybe.clone().unwrap_or(Any::Nil)),
                    ("list", Any::List(list)),
                    ("map", Any::Map(map)),
                ];
                variant("Struct", named(fields))
            }
            Self::Any(any) => variant("Any", any.clone()),
            Self::Wide(number) => {
                let small = i64::try_from(*number).is_ok();
                let content =
                    if small { integer(*number) } else { Any::Bytes(number.to_be_bytes().to_vec()) };
                variant("Wide", content)
            }
            Self::Bytes(bytes) => variant("Bytes", Any::Bytes(bytes.to_vec())),
            Self::Numbers(numbers) if numbers.len() >= BYTES_FROM => {
                variant("Numbers", Any::Bytes(numbers.clone()))
            }
            Self::Numbers(numbers) => {
                let numbers = numbers.iter().map(|number| Any::Unsigned((*number).into()));
                variant("Numbers", Any::List(numbers.collect()))
            }
            Self::Inner(Inner { character, nothing: (), float, option }) => {
                let fields = vec![
                    ("character", text(&character.to_string())),
                    ("nothing", Any::Nil),
                    ("float", Any::Float(*float)),
                    ("option", option.map_or(Any::Nil, Any::Bool)),
                ];
                variant("Inner", named(fields))
            }
        }
    }

    /// Whether no part is `Some` of a nil.
    fn has_no_nil_in_some(&self) -> bool {
        match self {
            Self::Newtype(inner) => inner.has_no_nil_in_some(),
            Self::Tuple(_, inner) => inner.as_ref().is_none_or(|inner| inner.has_no_nil_in_some()),
            Self::Struct { maybe, list, map } => {
                *maybe != Some(Any::Nil) && list.iter().chain(map.values()).all(Self::has_no_nil_in_some)
            }
            _ => true,
        }
    }
}

fn any_float() -> impl Strategy<Value = Float> {
    prop_oneof![any::<f64>(), any::<u64>().prop_map(f64::from_bits), Just(f64::NAN)].prop_map(Float)
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![4 => any::<String>(), 1 => (0..70_000_usize).prop_map(|len| "x".repeat(len))]
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => vec(any::<u8>(), 0..40),
        1 => (0..70_000_usize, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]),
    ]
}

fn any_value() -> impl Strategy<Value = Any> {
    let leaf = prop_oneof![
        Just(Any::Nil),
        any::<bool>().prop_map(Any::Bool),
        any::<i64>().prop_map(|number| integer(number.into())),
        (-200..200_i64).prop_map(|number| integer(number.into())),
        any::<u64>().prop_map(Any::Unsigned),
        any_float().prop_map(Any::Float),
        any_text().prop_map(Any::Text),
        any_bytes().prop_map(Any::Bytes),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Any::List),
            vec((inner.clone(), inner), 0..4).prop_map(Any::Map),
        ]
    })
}

/// A value within many lists and maps, often too many.
fn any_deep_value() -> impl Strategy<Value = Any> {
    (any_value(), vec(any::<bool>(), 40..52)).prop_map(|(inner, levels)| {
        levels.into_iter().fold(inner, |inner, is_list| match is_list {
            true => Any::List(vec![inner]),
            false => Any::Map(vec![(Any::Nil, inner)]),
        })
    })
}

fn any_shape() -> impl Strategy<Value = Shape> {
    let inner = (any::<char>(), any_float(), any::<Option<bool>>());
    let leaf = prop_oneof![
        Just(Shape::Unit),
        any_value().prop_map(Shape::Any),
        any::<i128>().prop_map(Shape::Wide),
        any::<i64>().prop_map(|number| Shape::Wide(number.into())),
        any_bytes().prop_map(|bytes| Shape::Bytes(bytes.into())),
        any_bytes().prop_map(Shape::Numbers),
        inner.prop_map(|(character, float, option)| Shape::Inner(Inner {
            character,
            nothing: (),
            float,
            option
        })),
    ];
    leaf.prop_recursive(5, 30, 4, |inner| {
        let fields = (
            proptest::option::of(any_value()),
            vec(inner.clone(), 0..4),
            btree_map(any::<String>(), inner.clone(), 0..4),
        );
        prop_oneof![
            inner.clone().prop_map(|inner| Shape::Newtype(Box::new(inner))),
            (any::<i8>(), proptest::option::of(inner.prop_map(Box::new)))
                .prop_map(|(number, inner)| Shape::Tuple(number, inner)),
            fields.prop_map(|(maybe, list, map)| Shape::Struct { maybe, list, map }),
        ]
    })
}

/// Checks the encoding of a value, and returns what another implementation reads; `None` if the value is refused.
fn checked<T: Wire + PartialEq + fmt::Debug>(value: &T) -> Result<Option<Any>, TestCaseError> {
    let mut bytes = Vec::new();
    if value.encode(&mut bytes).is_err() {
        return Ok(None);
    }
    prop_assert_eq!(msgpack::check(&bytes, &BodyLimits::default()), Ok(()));
    for decoded in [T::decode_all(&bytes), T::decode_sound(&bytes)] {
        prop_assert_eq!(decoded.as_ref(), Ok(value));
    }
    let mut rest = bytes.as_slice();
    let read = rmpv::decode::read_value(&mut rest).expect("the check passed");
    prop_assert!(rest.is_empty());
    // Within other values, the value ends where it should.
    let len = bytes.len();
    bytes.push(0xc3);
    let mut rest = bytes.as_slice();
    let decoded = T::decode(&mut rest);
    prop_assert_eq!(decoded.as_ref(), Ok(value));
    prop_assert_eq!(rest.len() + len, bytes.len());
    Ok(Some(Any::read(read)))
}

/// Decodes bytes as values of many types. It must not panic.
fn decode_as_all(bytes: &[u8]) {
    drop((Any::decode_all(bytes), Shape::decode_all(bytes), CompactShape::decode_all(bytes)));
    drop((Composed::decode_all(bytes), String::decode_all(bytes), Bytes::decode_all(bytes)));
    drop((u128::decode_all(bytes), std::time::SystemTime::decode_all(bytes), <[u8; 4]>::decode_all(bytes)));
    drop((std::time::Duration::decode_all(bytes), chrono::NaiveTime::decode_all(bytes)));
    drop((time::OffsetDateTime::decode_all(bytes), time::Duration::decode_all(bytes)));
    drop((serde_json::Value::decode_all(bytes), uuid::Uuid::decode_all(bytes)));
}

/// A type that is composed of those of the standard library.
type Composed = BTreeMap<(u8, Option<String>), Vec<Result<Option<Option<i64>>, (Bytes, char, [u8; 3])>>>;

fn any_composed() -> impl Strategy<Value = Composed> {
    let error = (any_bytes().prop_map(Bytes::from), any::<char>(), any::<[u8; 3]>());
    let result = prop_oneof![any::<Option<Option<i64>>>().prop_map(Ok), error.prop_map(Err)];
    btree_map(any::<(u8, Option<String>)>(), vec(result, 0..4), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn accepted_values_are_well_formed(value in any_value()) {
        let read = checked(&value)?;
        prop_assert_eq!(read.is_some(), value.is_acceptable(0));
        prop_assert!(read.is_none_or(|read| read == value));
    }

    #[test]
    fn deep_values_are_accepted_up_to_limit(value in any_deep_value()) {
        let read = checked(&value)?;
        prop_assert_eq!(read.is_some(), value.is_acceptable(0));
        prop_assert!(read.is_none_or(|read| read == value));
    }

    #[test]
    fn derived_types_keep_their_structure(shape in any_shape()) {
        for is_compact in [false, true] {
            let wanted = shape.to_any(is_compact);
            let is_acceptable = wanted.is_acceptable(0) && shape.has_no_nil_in_some();
            let read = if is_compact { checked(&CompactShape(shape.clone()))? } else { checked(&shape)? };
            prop_assert_eq!(read.is_some(), is_acceptable);
            prop_assert!(read.is_none_or(|read| read == wanted));
        }
    }

    #[test]
    fn composed_standard_types_are_well_formed(value in any_composed()) {
        prop_assert!(checked(&value)?.is_some());
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..120)) {
        decode_as_all(&bytes);
    }

    #[test]
    fn damaged_encodings_never_panic(shape in any_shape(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = Vec::new();
        if shape.encode(&mut bytes).is_ok() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            decode_as_all(&bytes);
            bytes.truncate(at);
            decode_as_all(&bytes);
        }
    }
}

/// A node checks bodies before it decodes them; other callers of a decoder do not.
#[test]
fn deeply_nested_bytes_do_not_decode() {
    for header in [&[0x91][..], &[0x81, 0xc0], &[0x81, 0xa7, b'N', b'e', b'w', b't', b'y', b'p', b'e']] {
        let mut bytes = header.repeat(100_000);
        bytes.push(0x90);
        assert!(Any::decode_all(&bytes).is_err());
        decode_as_all(&bytes);
    }
}
