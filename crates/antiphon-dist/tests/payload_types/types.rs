//! The user types of the tables.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use antiphon_dist::Location;
use antiphon_sched::{Bytes, wire};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The most bytes of a message.
pub(crate) const BODY_MAX: usize = 16 << 20;

fn ip() -> IpAddr {
    "fe80::1".parse().expect("the text is an address")
}

fn at() -> SocketAddr {
    "[2001:db8::1]:443".parse().expect("the text is an address")
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 123_456_789).expect("the time exists")
}

/// A struct of everything that serde treats in an unusual way.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub(crate) struct Named {
    pub(crate) ip: IpAddr,
    pub(crate) at: SocketAddr,
    pub(crate) location: Location,
    pub(crate) id: Uuid,
    pub(crate) when: DateTime<Utc>,
    pub(crate) short: Vec<u8>,
    pub(crate) long: Vec<u8>,
    pub(crate) bytes: Bytes,
    pub(crate) floats: Vec<f64>,
    pub(crate) large: u64,
    pub(crate) least: i64,
    pub(crate) maybe: Option<char>,
}
wire!(Named, "test.named/1");

impl Named {
    pub(crate) fn example() -> Self {
        Self {
            ip: ip(),
            at: at(),
            location: Location::new(at()),
            id: Uuid::from_u128(u128::MAX / 3),
            when: now(),
            short: vec![255; 10],
            long: vec![200; 100_000],
            bytes: Bytes::from(vec![1; 10_000]),
            floats: vec![f64::INFINITY, f64::NEG_INFINITY, 0.1, f64::MIN_POSITIVE],
            large: u64::MAX,
            least: i64::MIN,
            maybe: Some('語'),
        }
    }
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub(crate) struct Compact {
    parts: Named,
    list: Vec<(u8, Option<Named>)>,
}
wire!(Compact, "test.compact/1", compact);

impl Compact {
    pub(crate) fn example() -> Self {
        Self { parts: Named::example(), list: vec![(1, None), (2, Some(Named::example()))] }
    }
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub(crate) struct Newtype(pub(crate) String);
wire!(Newtype, "test.newtype/1");

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub(crate) struct UnitStruct;
wire!(UnitStruct, "test.unit/1");

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub(crate) struct Empty {}
wire!(Empty, "test.empty/1");

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub(crate) struct TupleStruct(pub(crate) u8, pub(crate) String, pub(crate) Option<u8>);
wire!(TupleStruct, "test.tuple_struct/1");

/// Unit structs where serde reads them from a copy of the bytes.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(untagged)]
pub(crate) enum Units {
    Newtype(UnitStruct),
    Field { unit: UnitStruct },
    Tuple(UnitStruct, u8),
    List(Vec<UnitStruct>),
}
wire!(Units, "test.units/1");

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub(crate) struct Generic<T> {
    pub(crate) item: T,
    pub(crate) items: Vec<T>,
}
wire!(impl<T> Generic<T>, "test.generic/1");

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
pub(crate) struct Defaults {
    #[serde(default)]
    number: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}
wire!(Defaults, "test.defaults/1");

impl Defaults {
    pub(crate) fn example() -> Self {
        Self { number: 7, text: Some(String::new()) }
    }
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Renamed {
    pub(crate) first_field: u8,
    #[serde(rename = "type", alias = "kind")]
    pub(crate) second_field: RenamedVariant,
}
wire!(Renamed, "test.renamed/1");

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RenamedVariant {
    TwoWords,
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub(crate) struct Flattened {
    name: String,
    #[serde(flatten)]
    place: Place,
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}
wire!(Flattened, "test.flattened/1");

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
struct Place {
    ip: IpAddr,
    at: SocketAddr,
    short: Vec<u8>,
    long: Vec<u8>,
    bytes: Bytes,
    large: u64,
    infinite: f64,
}

impl Flattened {
    pub(crate) fn example() -> Self {
        let Named { ip, at, short, long, bytes, large, .. } = Named::example();
        let place = Place { ip, at, short, long, bytes, large, infinite: f64::INFINITY };
        Self { name: "flat".to_owned(), place, rest: BTreeMap::from([("extra".to_owned(), json())]) }
    }
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub(crate) struct Skipping {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) list: Vec<u8>,
}
wire!(Skipping, "test.skipping/1");

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub(crate) struct Wide {
    pub(crate) small: i128,
    pub(crate) large: u128,
    pub(crate) least: i128,
}
wire!(Wide, "test.wide/1");

#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Colour {
    Red,
    Other(u8),
}
wire!(Colour, "test.colour/1");

/// Maps with keys that are not texts.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub(crate) struct Keyed {
    integers: HashMap<i64, u8>,
    tuples: BTreeMap<(u8, String), u8>,
    variants: BTreeMap<Colour, u8>,
    bools: BTreeMap<bool, u8>,
    options: BTreeMap<Option<u8>, u8>,
    addresses: BTreeMap<IpAddr, u8>,
}
wire!(Keyed, "test.keyed/1");

impl Keyed {
    pub(crate) fn example() -> Self {
        Self {
            integers: HashMap::from([(i64::MIN, 1), (0, 2), (i64::MAX, 3)]),
            tuples: BTreeMap::from([((1, "a".to_owned()), 1), ((1, "b".to_owned()), 2)]),
            variants: BTreeMap::from([(Colour::Red, 1), (Colour::Other(0), 2), (Colour::Other(1), 3)]),
            bools: BTreeMap::from([(true, 1), (false, 2)]),
            options: BTreeMap::from([(None, 1), (Some(0), 2)]),
            addresses: BTreeMap::from([(ip(), 1)]),
        }
    }
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub(crate) struct Tree {
    value: u32,
    children: Vec<Tree>,
}
wire!(Tree, "test.deep_tree/1");

impl Tree {
    pub(crate) fn of_depth(depth: u32) -> Self {
        let leaf = Self { value: 0, children: vec![] };
        (1..depth).fold(leaf.clone(), |child, value| Self { value, children: vec![child, leaf.clone()] })
    }
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub(crate) struct Shared {
    pub(crate) text: Box<str>,
    pub(crate) cow: Cow<'static, str>,
    pub(crate) boxed: Box<Option<u8>>,
}
wire!(Shared, "test.shared/1");

/// Variants of all kinds.
macro_rules! variants {
    ($($(#[$attribute:meta])* $name:ident, $wire:literal $(, $compact:ident)?;)*) => {$(
        #[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
        $(#[$attribute])*
        pub(crate) enum $name {
            Unit,
            Ip(IpAddr),
            At(SocketAddr),
            Location(Location),
            Id(Uuid),
            When(DateTime<Utc>),
            Float(f64),
            Large(u64),
            Least(i64),
            Bytes(Bytes),
            List(Vec<u8>),
            Pair(IpAddr, Option<u8>),
            None(),
            Fields { ip: IpAddr, list: Vec<u8>, float: f64 },
            Parts(Named),
            Maybe(Option<u8>),
            Wide(u128),
        }
        wire!($name, $wire $(, $compact)?);

        impl $name {
            pub(crate) fn examples() -> Vec<Self> {
                vec![
                    Self::Unit,
                    Self::Ip(ip()),
                    Self::At(at()),
                    Self::Location(Location::new(at())),
                    Self::Id(Uuid::nil()),
                    Self::When(now()),
                    Self::Float(f64::INFINITY),
                    Self::Float(f64::NEG_INFINITY),
                    Self::Large(u64::MAX),
                    Self::Least(i64::MIN),
                    Self::Bytes(Bytes::from(vec![3; 10])),
                    Self::List(vec![3; 10]),
                    Self::List(vec![3; 100_000]),
                    Self::Pair(ip(), None),
                    Self::Pair(ip(), Some(0)),
                    Self::None(),
                    Self::Fields { ip: ip(), list: vec![255; 100_000], float: 0.1 },
                    Self::Parts(Named::example()),
                    Self::Maybe(None),
                    Self::Maybe(Some(1)),
                    Self::Wide(7),
                ]
            }
        }
    )*};
}
variants! {
    External, "test.external/1";
    ExternalCompact, "test.external_compact/1", compact;
    #[serde(tag = "kind", content = "value")]
    Adjacent, "test.adjacent/1";
    #[serde(tag = "kind", content = "value")]
    AdjacentCompact, "test.adjacent_compact/1", compact;
}

/// Without tuple variants, which serde does not support there.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(tag = "kind")]
pub(crate) enum Internal {
    Unit,
    Fields { ip: IpAddr, at: SocketAddr, location: Location, id: Uuid, when: DateTime<Utc> },
    Numbers { infinite: f64, large: u64, least: i64, maybe: Option<i8> },
    Lists { short: Vec<u8>, long: Vec<u8>, bytes: Bytes },
    Parts(Named),
    Map(BTreeMap<String, IpAddr>),
    Empty(Empty),
}
wire!(Internal, "test.internal/1");

impl Internal {
    pub(crate) fn examples() -> Vec<Self> {
        let Named { ip, at, location, id, when, short, long, bytes, .. } = Named::example();
        vec![
            Self::Unit,
            Self::Fields { ip, at, location, id, when },
            Self::Numbers { infinite: f64::INFINITY, large: u64::MAX, least: i64::MIN, maybe: None },
            Self::Numbers { infinite: f64::NEG_INFINITY, large: 0, least: 0, maybe: Some(-1) },
            Self::Lists { short, long, bytes },
            Self::Parts(Named::example()),
            Self::Map(BTreeMap::from([("one".to_owned(), ip)])),
            Self::Empty(Empty {}),
        ]
    }
}

/// The variants are read in this order, so each has a form of its own.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(untagged)]
pub(crate) enum Untagged {
    Unit,
    Flag(bool),
    Large(u64),
    Least(i64),
    Float(f64),
    Location(Location),
    Ip(IpAddr),
    Id(Uuid),
    When(DateTime<Utc>),
    List(Vec<u8>),
    Pair(IpAddr, Vec<u8>),
    Parts(Named),
    Fields { ip: IpAddr, list: Vec<u8> },
    Map(BTreeMap<String, u8>),
}
wire!(Untagged, "test.untagged/1");

impl Untagged {
    pub(crate) fn examples() -> Vec<Self> {
        vec![
            Self::Unit,
            Self::Flag(true),
            Self::Large(u64::MAX),
            Self::Least(i64::MIN),
            Self::Float(f64::INFINITY),
            Self::Float(1.0),
            Self::Location(Location::new(at())),
            Self::Ip(ip()),
            Self::Id(Uuid::nil()),
            Self::When(now()),
            Self::List(vec![0; 10]),
            Self::List(vec![255; 100_000]),
            Self::Pair(ip(), vec![7; 100_000]),
            Self::Parts(Named::example()),
            Self::Fields { ip: ip(), list: vec![9; 100_000] },
            Self::Map(BTreeMap::from([("one".to_owned(), 1)])),
        ]
    }
}

/// Enums without an outer tag within a struct.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub(crate) struct Nest {
    pub(crate) inner: Vec<Internal>,
    pub(crate) untagged: Vec<Untagged>,
}
wire!(Nest, "test.nest/1");

/// Times that have no wire name of their own.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub(crate) struct Times {
    weekday: chrono::Weekday,
    local: DateTime<chrono::FixedOffset>,
    month: time::Month,
    offset: time::UtcOffset,
    duration: std::time::Duration,
    system: std::time::SystemTime,
    #[serde(with = "chrono::serde::ts_nanoseconds")]
    stamp: DateTime<Utc>,
}
wire!(Times, "test.times/1");

impl Times {
    pub(crate) fn example() -> Self {
        Self {
            weekday: chrono::Weekday::Sun,
            local: now().into(),
            month: time::Month::December,
            offset: time::UtcOffset::from_hms(1, 2, 3).expect("the offset exists"),
            duration: std::time::Duration::new(1, 2),
            system: std::time::SystemTime::UNIX_EPOCH,
            stamp: now(),
        }
    }
}

/// A value of `serde_json` with all its kinds.
pub(crate) fn json() -> serde_json::Value {
    serde_json::json!({
        "null": null, "bool": true, "large": u64::MAX, "least": i64::MIN, "float": 1.0, "small": 5e-324,
        "text": "ä", "list": [1, [], {}, "x"], "": {"inner": [null]},
    })
}

macro_rules! newtypes {
    ($($name:ident($type:ty), $wire:literal;)*) => {$(
        #[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
        pub(crate) struct $name(pub(crate) $type);
        wire!($name, $wire);
    )*};
}
newtypes! {
    Link(url::Url), "test.link/1";
    Amount(rust_decimal::Decimal), "test.amount/1";
    Small(smol_str::SmolStr), "test.small/1";
    Float(ordered_float::OrderedFloat<f64>), "test.float/1";
    Version(semver::Version), "test.version/1";
    Json(Option<serde_json::Value>), "test.json/1";
    Numbers(Vec<u32>), "test.numbers/1";
    Nested(Vec<Nested>), "test.nested/1";
}

impl Nested {
    /// This many lists around an empty one.
    pub(crate) fn of_depth(depth: usize) -> Self {
        (0..depth).fold(Self(vec![]), |inner, _| Self(vec![inner]))
    }
}

/// A map that keeps the order of its entries.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub(crate) struct Ordered(indexmap::IndexMap<String, u32>);
wire!(Ordered, "test.ordered/1");

impl Ordered {
    pub(crate) fn example() -> Self {
        Self(["z", "a", "m"].into_iter().zip(0..).map(|(key, n)| (key.to_owned(), n)).collect())
    }
}

impl PartialEq for Ordered {
    fn eq(&self, other: &Self) -> bool {
        self.0.iter().eq(other.0.iter())
    }
}

/// Bytes in the forms that crates offer.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub(crate) struct Buffers {
    bytes: Bytes,
    mutable: bytes::BytesMut,
    buffer: serde_bytes::ByteBuf,
    #[serde(with = "serde_bytes")]
    list: Vec<u8>,
}
wire!(Buffers, "test.buffers/1");

impl Buffers {
    pub(crate) fn example() -> Self {
        let list = vec![7; 10_000];
        Self {
            bytes: list.clone().into(),
            mutable: list.as_slice().into(),
            buffer: list.clone().into(),
            list,
        }
    }
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub(crate) struct Blob {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}
wire!(Blob, "test.blob/1");

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(tag = "kind")]
pub(crate) enum TaggedBlob {
    Blob { bytes: Vec<u8> },
}
wire!(TaggedBlob, "test.tagged_blob/1");

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(untagged)]
pub(crate) enum UntaggedBlob {
    Blob { bytes: Vec<u8> },
}
wire!(UntaggedBlob, "test.untagged_blob/1");
