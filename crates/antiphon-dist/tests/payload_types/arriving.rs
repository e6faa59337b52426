//! Values that must arrive unchanged on all paths.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use antiphon_dist::Location;
use antiphon_sched::Bytes;

use crate::routes::{Nodes, Outcome, Path, Payload, Routes, Table};
use crate::types::*;

fn parsed<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("the text is of that type")
}

#[test]
fn numbers_and_texts_arrive_unchanged() {
    let table = Table::start();
    table.arrive([0_u8, 127, 128, u8::MAX]);
    table.arrive([0_u16, 256, u16::MAX]);
    table.arrive([0_u32, 65_536, u32::MAX]);
    table.arrive([0, 1 << 32, u64::MAX]);
    table.arrive([0, usize::MAX]);
    table.arrive([0, -1, i8::MIN, i8::MAX]);
    table.arrive([0, -129, i16::MIN, i16::MAX]);
    table.arrive([0, -32_769, i32::MIN, i32::MAX]);
    table.arrive([0, i64::MIN, i64::MAX]);
    table.arrive([isize::MIN, isize::MAX]);
    table.arrive([0, u128::from(u64::MAX), u128::from(u64::MAX) + 1, u128::MAX]);
    table.arrive([0, i128::from(i64::MIN) - 1, i128::from(u64::MAX), i128::MIN, i128::MAX]);
    table.arrive([0.0, 0.1_f32, f32::MIN_POSITIVE, f32::MAX, f32::NEG_INFINITY]);
    table.arrive([0.0, 0.1_f64, f64::MIN_POSITIVE, f64::MAX, f64::INFINITY, f64::NEG_INFINITY]);
    table.arrive([false, true]);
    table.arrive(['\0', 'a', 'ß', '\u{10ffff}']);
    table.arrive(["".to_owned(), "\0 ä 語".to_owned(), "x".repeat(70_000)]);
    table.arrive([Box::<str>::from("boxed")]);
    table.arrive([Arc::<str>::from("shared")]);
    table.arrive([Cow::Borrowed("borrowed"), Cow::Owned("owned".to_owned())]);
    table.arrive([PathBuf::from("/tmp/ä/../x"), PathBuf::new()]);
    table.arrive([Bytes::new(), Bytes::from(vec![255; 70_000])]);
    table.finish();
}

#[test]
fn composed_standard_types_arrive_unchanged() {
    let table = Table::start();
    table.arrive([()]);
    table.arrive([Box::new(7_u64)]);
    table.arrive([None, Some(None), Some(Some(0_u32))]);
    table.arrive([None, Some(())]);
    table.arrive([Ok(1_u32), Err("text".to_owned())]);
    table.arrive([Vec::new(), vec!["a".to_owned(), String::new()]]);
    table.arrive([Vec::new(), vec![0_u8; 10], vec![200; 100_000]]);
    table.arrive([[1_u16, 2, u16::MAX]]);
    table.arrive([[0_u8, 1, 255, 3]]);
    table.arrive([VecDeque::from([1_i64, -1]), VecDeque::new()]);
    table.arrive([BTreeSet::from([f("a"), f("b")]), BTreeSet::new()]);
    table.arrive([HashSet::from([u64::MAX, 0, 7])]);
    table.arrive([BTreeMap::from([((1_u8, true), 1_u8), ((1, false), 2)])]);
    table.arrive([HashMap::from([(i64::MIN, vec![1.5_f64]), (7, vec![])])]);
    table.arrive([BTreeMap::from([(false, ()), (true, ())])]);
    table.arrive([BTreeMap::from([(Colour::Red, 1_u8), (Colour::Other(3), 2)])]);
    table.arrive([(1_u8,)]);
    table.arrive([(
        1_u8,
        f("b"),
        'c',
        -4_i64,
        5.5_f64,
        true,
        (),
        Some(8_u8),
        [9_u8],
        vec![10_u16],
        11_u128,
        12_i8,
    )]);
    table.arrive([Duration::ZERO, Duration::MAX, Duration::new(1, 999_999_999)]);
    table
        .arrive([SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789)]);
    table.arrive([parsed::<IpAddr>("127.0.0.1"), parsed("fe80::1")]);
    table.arrive([Ipv4Addr::BROADCAST]);
    table.arrive([Ipv6Addr::LOCALHOST]);
    table.arrive([parsed::<SocketAddr>("127.0.0.1:80"), parsed("[fe80::1%3]:65535")]);
    table.arrive([parsed::<SocketAddrV4>("10.0.0.1:1")]);
    table.arrive([parsed::<SocketAddrV6>("[::1]:0")]);
    table.arrive([Location::new(parsed("127.0.0.1:4000"))]);
    table.finish();
}

fn f(text: &str) -> String {
    text.to_owned()
}

#[test]
fn structs_of_all_kinds_arrive_unchanged() {
    let table = Table::start();
    table.arrive([Named::example()]);
    table.arrive([Compact::example()]);
    table.arrive([Newtype(f("inner"))]);
    table.arrive([UnitStruct]);
    table.arrive([Empty {}]);
    table.arrive([TupleStruct(1, f("two"), None), TupleStruct(1, f("two"), Some(3))]);
    table.arrive([
        Units::Newtype(UnitStruct),
        Units::Field { unit: UnitStruct },
        Units::Tuple(UnitStruct, 1),
    ]);
    table.arrive([Units::List(vec![UnitStruct, UnitStruct])]);
    table.arrive([Generic { item: 7_u64, items: vec![1, 2] }]);
    table.arrive([Generic { item: f("a"), items: vec![] }]);
    table.arrive([Defaults::example(), Defaults::default()]);
    table.arrive([Renamed { first_field: 1, second_field: RenamedVariant::TwoWords }]);
    table.arrive([Flattened::example()]);
    table.arrive([Skipping { name: None, list: vec![] }, Skipping { name: Some(f("x")), list: vec![1] }]);
    table.arrive([Wide { small: -1, large: u128::MAX, least: i128::MIN }]);
    table.arrive([Keyed::example()]);
    table.arrive([Tree::of_depth(20)]);
    table.arrive([Shared { text: "shared".into(), cow: Cow::Borrowed("cow"), boxed: Box::new(Some(1)) }]);
    table.finish();
}

#[test]
fn enums_of_all_representations_arrive_unchanged() {
    let table = Table::start();
    table.arrive(External::examples());
    table.arrive(ExternalCompact::examples());
    table.arrive(Adjacent::examples());
    // serde cannot read unit and struct variants with an adjacent tag from arrays.
    let is_readable =
        |value: &AdjacentCompact| !matches!(value, AdjacentCompact::Unit | AdjacentCompact::Fields { .. });
    table.arrive(AdjacentCompact::examples().into_iter().filter(is_readable));
    table.arrive(Internal::examples());
    table.arrive(Untagged::examples());
    table.arrive([Nest { inner: Internal::examples(), untagged: Untagged::examples() }]);
    table.finish();
}

#[test]
fn types_of_other_crates_arrive_unchanged() {
    let table = Table::start();
    arrive_times(&table);
    arrive_others(&table);
    table.finish();
}

fn arrive_times(table: &Table) {
    table.arrive([parsed::<chrono::DateTime<chrono::Utc>>("2024-02-29T23:59:59.123456789Z")]);
    table.arrive([parsed::<chrono::DateTime<chrono::FixedOffset>>("2024-02-29T23:59:60.5+05:30")]);
    table.arrive([chrono::NaiveDateTime::MIN, chrono::NaiveDateTime::MAX]);
    table.arrive([chrono::NaiveDate::MAX, parsed("2024-02-29")]);
    table.arrive([chrono::NaiveTime::MIN, parsed("23:59:59.999999999")]);
    let date = time::Date::from_calendar_date(2024, time::Month::February, 29).expect("2024 is a leap year");
    let time = time::Time::from_hms_nano(23, 59, 59, 999_999_999).expect("the time exists");
    let offset = time::UtcOffset::from_hms(-5, -30, 0).expect("the offset exists");
    table.arrive([date.with_time(time).assume_offset(offset), time::OffsetDateTime::UNIX_EPOCH]);
    table.arrive([date.with_time(time)]);
    table.arrive([date, time::Date::MIN, time::Date::MAX]);
    table.arrive([time, time::Time::MIDNIGHT]);
    table.arrive([time::Duration::MIN, time::Duration::MAX, time::Duration::new(-1, -500)]);
    table.arrive([Times::example()]);
}

fn arrive_others(table: &Table) {
    table.arrive([uuid::Uuid::nil(), uuid::Uuid::from_u128(0x1234_5678_9abc_def0_1122_3344_5566_7788)]);
    table.arrive([json()]);
    table.arrive([serde_json::Value::Null, serde_json::json!(u64::MAX), serde_json::json!(1.0)]);
    table.arrive([Link(parsed("https://user@example.org:8080/a%20b?q=1#f"))]);
    table.arrive([Amount(parsed("-79228162514264337593543950335")), Amount(parsed("0.10"))]);
    table.arrive([Small("short".into()), Small("long ".repeat(100).into())]);
    table.arrive([Ordered::example()]);
    table.arrive([Float(ordered_float::OrderedFloat(f64::NAN)), Float(ordered_float::OrderedFloat(-0.0))]);
    table.arrive([Version(parsed("1.2.3-rc.1+build.5"))]);
    table.arrive([Json(Some(json())), Json(None)]);
    table.arrive([Buffers::example()]);
}

const LARGE: usize = 2 << 20;

#[test]
fn large_byte_sequences_arrive_unchanged() {
    let table = Table::start();
    let bytes: Vec<u8> = (0..LARGE).map(|n| (n % 251) as u8).collect();
    table.arrive([bytes.clone()]);
    table.arrive([Bytes::from(bytes.clone())]);
    table.arrive([Blob { name: f("blob"), bytes: bytes.clone() }]);
    table.arrive([TaggedBlob::Blob { bytes: bytes[..1_000_000].to_vec() }]);
    table.arrive([UntaggedBlob::Blob { bytes: bytes[..1_000_000].to_vec() }]);
    table.arrive([Blob { name: f("blob"), bytes: bytes[..4_096].to_vec() }]);
    table.arrive([Blob { name: f("blob"), bytes: bytes[..4_097].to_vec() }]);
    table.finish();
}

#[test]
fn values_at_the_limits_arrive_unchanged() {
    let table = Table::start();
    // A text or bytes of this length have a header of five bytes.
    table.arrive_by(&[Path::Send, Path::Reply, Path::Exit], ["x".repeat(BODY_MAX - 5)]);
    table.arrive_by(&[Path::Send, Path::Throw], [Bytes::from(vec![1; BODY_MAX - 5])]);
    table.arrive_by(&[Path::Send, Path::Resume], [Numbers(vec![1; 1_048_575])]);
    table.arrive_by(&[Path::Send, Path::Deliver, Path::Exit], [Nested::of_depth(48)]);
    table.finish();
}

/// Without the carrier of the tables.
#[test]
fn typed_actors_receive_values_unchanged() {
    arrive_typed(Named::example());
    arrive_typed(Some(vec![1_u8; 10_000]));
}

fn arrive_typed<T: Payload>(value: T) {
    let routes = Routes::open(Nodes::start());
    for path in Path::ALL {
        let outcome = routes.carry(path, value.clone());
        assert!(outcome == Outcome::Arrived(value.clone()), "{path:?}: {}", outcome.summary());
    }
}
