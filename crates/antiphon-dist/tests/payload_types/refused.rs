//! Values that must be refused, with a cause that names the type and the place, and without any effect on the other node.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use antiphon_sched::{Bytes, PayloadError, Wire, wire};
use serde::de::Error as _;
use serde::ser::{Error as _, SerializeMap, SerializeSeq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::carried::Carried;
use crate::routes::{Outcome, Path, Payload, Table};
use crate::types::*;

impl Table {
    /// Checks that a value is refused on all paths to the other node, with the same cause.
    fn refuse<T: Payload>(&self, value: T, is_wanted: impl Fn(&PayloadError) -> bool) {
        self.refuse_by(&Path::ALL, value, is_wanted);
    }

    fn refuse_by<T: Payload>(&self, paths: &[Path], value: T, is_wanted: impl Fn(&PayloadError) -> bool) {
        self.expect::<T>();
        let value = Carried::new(value);
        for path in paths {
            self.check::<T>(*path, &value, |outcome| match (path, outcome) {
                // Nothing is encoded.
                (Path::Local, Outcome::Arrived(arrived)) => *arrived == value,
                (Path::Throw | Path::Resume | Path::Channel, Outcome::DeadLetter(reason))
                | (
                    Path::Send
                    | Path::Deliver
                    | Path::Ask
                    | Path::Reply
                    | Path::Exit
                    | Path::Rci
                    | Path::Publish,
                    Outcome::Refused(reason),
                ) => is_wanted(reason),
                _ => false,
            });
        }
        self.expect_nothing_before_next::<T>();
    }

    /// Checks that a value is sent, and is refused by its receiver.
    fn refuse_at_receiver<T: Payload>(&self, paths: &[Path], value: T, part: &str) {
        self.expect::<T>();
        let value = Carried::new(value);
        for path in paths {
            self.check::<T>(*path, &value, |outcome| match (path, outcome) {
                (Path::Send | Path::Publish | Path::Channel, Outcome::DeadLetter(reason))
                | (
                    Path::Deliver
                    | Path::Ask
                    | Path::Reply
                    | Path::Exit
                    | Path::Throw
                    | Path::Resume
                    | Path::Rci,
                    Outcome::Refused(reason),
                ) => matches!(reason, PayloadError::Decode(error) if error.reason().contains(part)),
                _ => false,
            });
        }
        self.expect_nothing_before_next::<T>();
    }

    /// Checks that the next outcome is that of the next value.
    fn expect_nothing_before_next<T>(&self) {
        self.arrive_by(&[Path::Send, Path::Publish], [u64::MAX]);
        self.expect_nothing_more::<T>();
    }
}

/// Whether an error is of the kind `Encode`, and its text contains this part.
fn encode(part: &str) -> impl Fn(&PayloadError) -> bool {
    move |error| matches!(error, PayloadError::Encode(error) if error.reason().contains(part))
}

fn too_deep(part: &str) -> impl Fn(&PayloadError) -> bool {
    move |error| matches!(error, PayloadError::TooDeep { max: 48, place } if place.contains(part))
}

fn too_many(part: &str) -> impl Fn(&PayloadError) -> bool {
    move |error| matches!(error, PayloadError::TooManyValues { max: 1_048_576, place } if place.contains(part))
}

/// Whether an error is of the kind `TooLarge` with this size.
fn too_large(size: usize) -> impl Fn(&PayloadError) -> bool {
    move |error| *error == PayloadError::TooLarge { bytes: size as u64, max: BODY_MAX as u64 }
}

fn at_least(size: usize) -> impl Fn(&PayloadError) -> bool {
    move |error| {
        matches!(error, PayloadError::TooLarge { bytes, max }
            if *bytes >= size as u64 && *max == BODY_MAX as u64)
    }
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
struct Options {
    inner: Option<Option<u8>>,
    unit: Option<()>,
}
wire!(Options, "test.options/1");

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
enum Deeper {
    List(Vec<Options>),
    Fields { map: BTreeMap<u8, Options> },
}
wire!(Deeper, "test.deeper/1");

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
struct Patch {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    size: u8,
}
wire!(Patch, "test.patch/1", compact);

#[test]
fn nil_within_some_is_refused() {
    let table = Table::start();
    let none = Options { inner: Some(None), unit: None };
    table.refuse(none.clone(), encode("Options` at `.inner`: `Some` of a value that is encoded as nil"));
    table.refuse(Options { inner: None, unit: Some(()) }, encode("Options` at `.unit`: `Some`"));
    table.refuse(Json(Some(serde_json::Value::Null)), encode("Json`: `Some`"));
    table.refuse(MaybeUnit(Some(Nothing)), encode("MaybeUnit`: `Some`"));
    let list = Deeper::List(vec![Options { inner: None, unit: None }, none.clone()]);
    table.refuse(list, encode("Deeper` at `::List[1].inner`: `Some`"));
    let fields = Deeper::Fields { map: BTreeMap::from([(9, none)]) };
    table.refuse(fields, encode("Deeper` at `::Fields.map[value 0].inner`: `Some`"));
    table.finish();
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
struct Nothing;

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
struct MaybeUnit(Option<Nothing>);
wire!(MaybeUnit, "test.maybe_unit/1");

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
struct HasKind {
    size: u8,
    kind: String,
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(tag = "kind")]
enum TagAndField {
    Has(HasKind),
}
wire!(TagAndField, "test.tag_and_field/1");

#[test]
fn field_with_name_of_tag_is_refused() {
    let table = Table::start();
    let value = TagAndField::Has(HasKind { size: 1, kind: "x".to_owned() });
    table.refuse(value, encode("TagAndField` at `.kind`: two entries have the same key"));
    table.finish();
}

#[test]
fn skipped_field_of_compact_type_is_refused() {
    let table = Table::start();
    table.refuse(Patch { name: None, size: 1 }, encode("Patch` at `.name`: a skipped field would shift"));
    table.arrive([Patch { name: Some("x".to_owned()), size: 1 }]);
    table.finish();
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(tag = "kind")]
enum TaggedWide {
    Wide { number: u128 },
}
wire!(TaggedWide, "test.tagged_wide/1");

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(untagged)]
enum UntaggedWide {
    Wide(i128),
}
wire!(UntaggedWide, "test.untagged_wide/1");

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
struct FlatWide {
    #[serde(flatten)]
    inner: Wide,
}
wire!(FlatWide, "test.flat_wide/1");

#[test]
fn wide_integers_without_outer_tag_are_refused() {
    let table = Table::start();
    let is_refused = encode("could not be read again");
    for number in [0, u128::from(u64::MAX), u128::MAX] {
        table.refuse(TaggedWide::Wide { number }, &is_refused);
    }
    for number in [-1, i128::MAX] {
        table.refuse(UntaggedWide::Wide(number), &is_refused);
    }
    for large in [7, u128::MAX] {
        table.refuse(FlatWide { inner: Wide { small: 0, large, least: 0 } }, &is_refused);
    }
    table.finish();
}

/// Serialized as this many lists in each other.
#[derive(Clone, PartialEq, Debug)]
struct Deep(u32);
wire!(Deep, "test.deep/1");

impl Serialize for Deep {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        if self.0 > 0 {
            list.serialize_element(&Self(self.0 - 1))?;
        }
        list.end()
    }
}

/// Serialized as this many options in each other, which add no depth to the bytes.
#[derive(Clone, PartialEq, Debug)]
struct DeepOption(u32);
wire!(DeepOption, "test.deep_option/1");

impl Serialize for DeepOption {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 == 0 { 1.serialize(serializer) } else { serializer.serialize_some(&Self(self.0 - 1)) }
    }
}

/// These types are never decoded.
macro_rules! never_read {
    ($($name:ty),* $(,)?) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
                Err(D::Error::custom("it is never read"))
            }
        }
    )*};
}
never_read!(Deep, DeepOption, Odd, Pairs, Text);

#[test]
fn values_nested_too_deep_are_refused() {
    let table = Table::start();
    table.refuse(Nested::of_depth(49), too_deep("Nested` at `[0][0]"));
    table.refuse(Deep(100_000), too_deep("Deep` at `[0][0]"));
    table.refuse(DeepOption(100_000), too_deep("DeepOption`"));
    let lists = (0..1_000).fold(serde_json::json!([]), |inner, _| serde_json::json!([inner]));
    table.refuse(lists, too_deep("Value` at `[0]"));
    table.finish();
}

#[test]
fn deep_values_need_little_stack() {
    let encoded = || {
        for error in [Deep(100_000).encode(&mut vec![]), DeepOption(100_000).encode(&mut vec![])] {
            assert!(too_deep("Deep")(&error.expect_err("it is too deep").into()));
        }
        let mut bytes = Vec::new();
        let deepest = Nested::of_depth(48);
        deepest.encode(&mut bytes).expect("it keeps to the limit");
        assert_eq!(Nested::decode_all(&bytes), Ok(deepest));
    };
    let thread = std::thread::Builder::new().stack_size(512 * 1024).spawn(encoded);
    thread.expect("the system has threads").join().expect("the thread did not panic");
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
struct Lists {
    few: Vec<u32>,
    many: Vec<u32>,
}
wire!(Lists, "test.lists/1");

#[test]
fn too_many_values_are_refused() {
    let table = Table::start();
    let many = vec![1; 1_100_000];
    table.refuse(Numbers(many.clone()), too_many("Numbers` at `[1048575]`"));
    let lists = Lists { few: vec![1], many: many.clone() };
    table.refuse(lists, too_many("Lists` at `.many[1048570]`"));
    table.refuse(many, too_many("test.carried"));
    let bytes = vec![1; 2 << 20];
    table.refuse(TaggedBlob::Blob { bytes: bytes.clone() }, too_many("TaggedBlob` at `.bytes[1048"));
    table.refuse(UntaggedBlob::Blob { bytes }, too_many("UntaggedBlob` at `.bytes[1048"));
    table.finish();
}

/// The paths whose messages hold the value alone.
const ALONE: [Path; 6] = [Path::Send, Path::Deliver, Path::Reply, Path::Exit, Path::Throw, Path::Resume];

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
struct Bin(Bytes);
wire!(Bin, "test.bin/1");

#[test]
fn values_over_size_limit_are_refused() {
    let table = Table::start();
    let text = "x".repeat(BODY_MAX + 1);
    table.refuse(text.clone(), at_least(BODY_MAX + 1));
    // The header of a long text has five bytes.
    table.refuse_by(&ALONE, text[..BODY_MAX - 4].to_owned(), too_large(BODY_MAX + 1));
    table.refuse_by(&ALONE, Small(text[..BODY_MAX - 4].into()), too_large(BODY_MAX + 1));
    table.refuse_by(&ALONE, Box::<str>::from(&text[..BODY_MAX - 4]), too_large(BODY_MAX + 1));
    let bytes = Bytes::from(vec![1; BODY_MAX - 4]);
    table.refuse_by(&ALONE, bytes.clone(), too_large(BODY_MAX + 1));
    table.refuse_by(&ALONE, Bin(bytes.clone()), too_large(BODY_MAX + 1));
    table.refuse_by(&ALONE, bytes.to_vec(), too_large(BODY_MAX + 1));
    table.arrive_by(&ALONE, [bytes.slice(1..)]);
    table.finish();
}

/// Entries of a map as they are, also with equal keys.
#[derive(Clone, Debug)]
struct Pairs(Vec<(f64, u8)>);
wire!(Pairs, "test.pairs/1");

impl Serialize for Pairs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl PartialEq for Pairs {
    fn eq(&self, other: &Self) -> bool {
        self.0
            .iter()
            .map(|(key, value)| (key.to_bits(), value))
            .eq(other.0.iter().map(|(key, value)| (key.to_bits(), value)))
    }
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
struct Extended {
    name: String,
    #[serde(flatten)]
    rest: BTreeMap<String, u8>,
}
wire!(Extended, "test.extended/1");

#[test]
fn equal_keys_are_refused() {
    let table = Table::start();
    let is_refused = encode("two entries have the same key");
    table.refuse(Pairs(vec![(1.0, 1), (2.0, 2), (1.0, 3)]), &is_refused);
    table.refuse(Pairs(vec![(f64::NAN, 1), (f64::NAN, 2)]), &is_refused);
    let rest = BTreeMap::from([("name".to_owned(), 1)]);
    table.refuse(Extended { name: "x".to_owned(), rest }, &is_refused);
    table.finish();
}

/// A value with a faulty `Serialize`.
#[derive(Copy, Clone, PartialEq, Debug)]
enum Odd {
    FailsHalfway,
    Panics,
    Endless,
    EndlessBytes,
    TooShort,
    TooLong,
    IgnoresError,
    KeyWithoutValue,
    ValueWithoutKey,
    TwoKeys,
    TwoValues,
    ManyFields,
}
wire!(Odd, "test.odd/1");

/// Fails to serialize.
struct Failing;

impl Serialize for Failing {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(S::Error::custom("no number"))
    }
}

impl Serialize for Odd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::FailsHalfway => (1, Failing).serialize(serializer),
            Self::Panics => resume_unwind(Box::new("on purpose".to_owned())),
            Self::Endless => serializer.collect_seq(std::iter::from_fn(|| Some(1_u16))),
            Self::EndlessBytes => serializer.collect_seq(std::iter::from_fn(|| Some(1_u8))),
            Self::TooShort | Self::TooLong => {
                let mut list = serializer.serialize_seq(Some(2))?;
                for n in 0..if *self == Self::TooShort { 1 } else { 3 } {
                    list.serialize_element(&n)?;
                }
                list.end()
            }
            Self::IgnoresError => {
                let mut list = serializer.serialize_seq(Some(1))?;
                drop(list.serialize_element(&Failing));
                list.end()
            }
            Self::KeyWithoutValue => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_key("key")?;
                map.end()
            }
            Self::ValueWithoutKey => {
                let mut map = serializer.serialize_map(Some(0))?;
                map.serialize_value(&1)?;
                map.end()
            }
            Self::TwoKeys => {
                let mut map = serializer.serialize_map(None)?;
                map.serialize_key("one")?;
                map.serialize_key("two")?;
                map.end()
            }
            Self::TwoValues => {
                let mut map = serializer.serialize_map(None)?;
                map.serialize_entry("one", &1)?;
                map.serialize_value(&2)?;
                map.end()
            }
            Self::ManyFields => {
                let mut map = serializer.serialize_map(None)?;
                for n in 0..1_000_000 {
                    map.serialize_entry(&n, &n)?;
                }
                map.end()
            }
        }
    }
}

/// A text by `Display`, which writes this many chunks of this many bytes.
#[derive(Clone, PartialEq, Debug)]
struct Text {
    chunks: usize,
    bytes: usize,
}
wire!(Text, "test.text/1");

impl Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chunk = "x".repeat(self.bytes);
        (0..self.chunks).try_for_each(|_| f.write_str(&chunk))
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[test]
fn faulty_serialize_is_refused() {
    let table = Table::start();
    table.refuse(Odd::FailsHalfway, encode("Odd` at `[1]`: no number"));
    table.refuse(Odd::Panics, encode("its encoder panicked: on purpose"));
    table.refuse(Odd::Endless, too_many("Odd` at `[1048575]`"));
    table.refuse(Odd::EndlessBytes, too_many("Odd` at `[1048575]`"));
    table.refuse(Odd::TooShort, encode("Odd`: its `Serialize` declared 2 parts and wrote 1"));
    table.refuse(Odd::TooLong, encode("Odd`: its `Serialize` declared 2 parts and wrote 3"));
    table.refuse(Odd::IgnoresError, encode("its `Serialize` ignored an error: no number"));
    for odd in [Odd::KeyWithoutValue, Odd::ValueWithoutKey, Odd::TwoKeys, Odd::TwoValues] {
        table.refuse(odd, encode("Odd`: "));
    }
    table.refuse(Odd::ManyFields, too_many("Odd` at `[value 524287]`"));
    table.refuse(Text { chunks: usize::MAX, bytes: 1 << 20 }, at_least(BODY_MAX + 1));
    table.refuse(Text { chunks: 1, bytes: BODY_MAX + 1 }, at_least(BODY_MAX + 1));
    table.finish();
}

#[test]
fn values_without_encoding_are_refused() {
    let table = Table::start();
    let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
    table.refuse(before, encode("SystemTime`: SystemTime must be later than UNIX_EPOCH"));
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStringExt;
        let path = PathBuf::from(std::ffi::OsString::from_vec(vec![b'a', 255]));
        table.refuse(path, encode("is not UTF-8"));
    }
    table.finish();
}

/// Writes a text, and reads a number.
#[derive(Deserialize, Clone, PartialEq, Debug)]
struct Lopsided(u64);
wire!(Lopsided, "test.lopsided/1");

impl Serialize for Lopsided {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("text")
    }
}

/// Its `Deserialize` panics.
#[derive(Serialize, Clone, PartialEq, Debug)]
struct Trap;
wire!(Trap, "test.trap/1");

impl<'de> Deserialize<'de> for Trap {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        resume_unwind(Box::new("trapped".to_owned()))
    }
}

#[test]
fn values_that_do_not_decode_are_refused() {
    let table = Table::start();
    let remote = &Path::ALL[1..];
    table.refuse_at_receiver(remote, Lopsided(1), "wrong msgpack marker");
    let fields = AdjacentCompact::Fields { ip: [127, 0, 0, 1].into(), list: vec![], float: 0.0 };
    table.refuse_at_receiver(remote, fields, "invalid type: sequence");
    table.refuse_at_receiver(remote, AdjacentCompact::Unit, "invalid length 1");
    // The reader of a value of the others decodes it, and panics itself.
    let decoded =
        [Path::Send, Path::Deliver, Path::Ask, Path::Reply, Path::Rci, Path::Publish, Path::Channel];
    table.refuse_at_receiver(&decoded, Trap, "its decoder panicked: trapped");
    table.finish();
}
