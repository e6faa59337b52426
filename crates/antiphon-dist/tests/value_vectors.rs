//! Checks how the types with a wire name look in MessagePack against docs/vectors/values.txt.
//!
//! After a change of the protocol, `ANTIPHON_WRITE_VECTORS=1 cargo test -p antiphon-dist --test value_vectors` rewrites the
//! vectors.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::{Debug, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use antiphon_dist::Location;
use antiphon_sched::{ActorId, Bytes, Key, NodeId, Wire, wire};
use serde::{Deserialize, Serialize};

/// The lines of the file.
struct Vectors(String);

impl Vectors {
    /// Adds a value, which must survive its encoding.
    fn add<T: Wire + PartialEq + Debug>(&mut self, what: &str, value: T) {
        let mut bytes = Vec::new();
        value.encode(&mut bytes).expect("the value has an encoding");
        assert_eq!(T::decode_all(&bytes), Ok(value), "{what}");
        let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("a String takes every text");
            hex
        });
        writeln!(self.0, "{} | {what}: {hex}", T::name()).expect("a String takes every text");
    }
}

#[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
struct Point {
    x: i32,
    label: Option<String>,
}
wire!(Point, "test.point/1");

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Sample(u64, f32);
wire!(Sample, "test.sample/1", compact);

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Marker;
wire!(Marker, "test.marker/1");

#[derive(Serialize, Deserialize, PartialEq, Debug)]
enum Shape {
    Dot,
    Circle(f64),
    Line(i8, i8),
    Named { name: String },
}
wire!(Shape, "test.shape/1");

#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(tag = "kind")]
enum Joined {
    At { at: Location, ip: IpAddr },
}
wire!(Joined, "test.joined/1");

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Blob {
    bytes: Vec<u8>,
}
wire!(Blob, "test.blob/1");

#[test]
fn values_match_vectors() {
    let mut vectors = Vectors(
        "# Values of the types with a wire name. `name of the type | what: MessagePack`.\n".to_owned(),
    );
    add_plain_values(&mut vectors);
    add_composed_values(&mut vectors);
    add_values_of_std(&mut vectors);
    add_values_of_crates(&mut vectors);
    add_user_values(&mut vectors);
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/vectors/values.txt"));
    if std::env::var_os("ANTIPHON_WRITE_VECTORS").is_some() {
        std::fs::write(&path, &vectors.0).expect("the folder exists");
    }
    let written = std::fs::read_to_string(&path).expect("the file exists");
    for (line, (written, expected)) in written.lines().zip(vectors.0.lines()).enumerate() {
        assert_eq!(written, expected, "line {}", line + 1);
    }
    assert_eq!(written.lines().count(), vectors.0.lines().count(), "the number of lines");
}

fn add_plain_values(vectors: &mut Vectors) {
    vectors.add("unit", ());
    vectors.add("true", true);
    vectors.add("255", u8::MAX);
    vectors.add("65,535", u16::MAX);
    vectors.add("2^32 - 1", u32::MAX);
    vectors.add("2^64 - 1", u64::MAX);
    vectors.add("a small number takes one byte", 7_u64);
    vectors.add("2^32", 1_usize << 32);
    vectors.add("-128", i8::MIN);
    vectors.add("-32,768", i16::MIN);
    vectors.add("-2^31", i32::MIN);
    vectors.add("-2^63", i64::MIN);
    vectors.add("-1", -1_isize);
    vectors.add("7, as an integer", 7_u128);
    vectors.add("2^128 - 1, as 16 bytes", u128::MAX);
    vectors.add("-2^127, as 16 bytes", i128::MIN);
    vectors.add("1.5", 1.5_f32);
    vectors.add("minus infinity", f64::NEG_INFINITY);
    vectors.add("a character", 'ß');
    vectors.add("a text", "héllo".to_owned());
    vectors.add("bytes", Bytes::from_static(&[0, 255, 3]));
    vectors.add("an actor: node and key", ActorId::new(NodeId::from_bits(u64::MAX), Key::from_bits(7)));
}

fn add_composed_values(vectors: &mut Vectors) {
    vectors.add("none", None::<u8>);
    vectors.add("some of none", Some(None::<u8>));
    vectors.add("ok", Ok::<u8, String>(7));
    vectors.add("an error", Err::<u8, String>("no".to_owned()));
    vectors.add("two numbers", vec![1_u32, 2]);
    vectors.add("bytes in a `Vec<u8>`", vec![1_u8, 2]);
    vectors.add("an array", [1_u16, 2]);
    vectors.add("bytes in a `[u8; 2]`", [1_u8, 2]);
    vectors.add("a deque", VecDeque::from([1_u32]));
    vectors.add("a map", BTreeMap::from([(7_u8, "seven".to_owned())]));
    vectors.add("a map", HashMap::<u8, String>::from([(7_u8, "seven".to_owned())]));
    vectors.add("a set", BTreeSet::from([7_u8]));
    vectors.add("a set", HashSet::<u8>::from([7_u8]));
    vectors.add("a tuple", (1_u8, true, "x".to_owned()));
    vectors.add("twelve parts", (1_u8, 2_u8, 3_u8, 4_u8, 5_u8, 6_u8, 7_u8, 8_u8, 9_u8, 10_u8, 11_u8, 12_u8));
    vectors.add("a box", Box::new(7_u8));
}

fn add_values_of_std(vectors: &mut Vectors) {
    let ip4 = Ipv4Addr::LOCALHOST;
    let ip6 = Ipv6Addr::LOCALHOST;
    vectors.add("a text in a box", Box::<str>::from("x"));
    vectors.add("a shared text", Arc::<str>::from("x"));
    vectors.add("a text, owned or not", Cow::<'static, str>::Borrowed("x"));
    vectors.add("a path", PathBuf::from("folder/file"));
    vectors.add("a second and a half", Duration::from_millis(1_500));
    vectors.add("a second after 1970 began", SystemTime::UNIX_EPOCH + Duration::from_secs(1));
    vectors.add("an IP address", IpAddr::V4(ip4));
    vectors.add("an IPv4 address", ip4);
    vectors.add("an IPv6 address", ip6);
    vectors.add("an IP address and a port", SocketAddr::from((ip6, 80)));
    vectors.add("an IPv4 address and a port", SocketAddrV4::new(ip4, 80));
    vectors.add("an IPv6 address and a port", SocketAddrV6::new(ip6, 80, 0, 0));
}

fn add_values_of_crates(vectors: &mut Vectors) {
    let utc = chrono::DateTime::from_timestamp(1_000_000_000, 5).expect("a time of chrono");
    vectors.add("a time", utc);
    vectors.add("a time and its zone", utc.fixed_offset());
    vectors.add("a time without a zone", utc.naive_utc());
    vectors.add("a date", utc.date_naive());
    vectors.add("a time of the day", utc.time());
    let moment = time::OffsetDateTime::from_unix_timestamp(1_000_000_000).expect("a time of time");
    vectors.add("a time and its zone", moment);
    vectors.add("a time without a zone", time::PrimitiveDateTime::new(moment.date(), moment.time()));
    vectors.add("a date", moment.date());
    vectors.add("a time of the day", moment.time());
    vectors.add("a span of time", time::Duration::milliseconds(-1_500));
    vectors.add("a UUID", uuid::Uuid::from_u128(0x1234_5678_9abc_def0_1234_5678_9abc_def0));
    vectors.add("JSON", serde_json::json!({"a": [1, null, 2.5]}));
}

fn add_user_values(vectors: &mut Vectors) {
    vectors.add("a struct: a map from its fields", Point { x: -1, label: Some("y".into()) });
    vectors.add("a field without a value", Point { x: 1, label: None });
    vectors.add("a compact struct", Sample(7, 0.5));
    vectors.add("a struct without fields", Marker);
    vectors.add("a variant without content", Shape::Dot);
    vectors.add("a variant with one value", Shape::Circle(0.5));
    vectors.add("a variant with two values", Shape::Line(1, -1));
    vectors.add("a variant with fields", Shape::Named { name: "n".into() });
    let at = "127.0.0.1:9705".parse().expect("a location");
    vectors.add("addresses are texts", Joined::At { at, ip: Ipv4Addr::LOCALHOST.into() });
    vectors.add("up to 4,096 bytes in a `Vec<u8>`: numbers", Blob { bytes: vec![1, 2] });
    let mut blob = Vectors(String::new());
    blob.add("more: bytes", Blob { bytes: vec![0; 4_097] });
    // Only the beginning of the long one.
    let line = blob.0.trim_end();
    writeln!(vectors.0, "# {}.. (then zeros)", &line[..line.len() - 2 * 4_096])
        .expect("a String takes every text");
}
