//! Encoding of types that implement `Wire`, by `wire!` or as compositions.

use std::borrow::Cow;

use antiphon_sched::*;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

fn bytes_of<T: Wire>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.encode(&mut bytes).unwrap();
    bytes
}

/// Encodes `value`, then decodes it both alone and with more bytes behind it.
fn round_trip<T: Wire + PartialEq + std::fmt::Debug>(value: &T) {
    let mut bytes = bytes_of(value);
    assert_eq!(T::decode_all(&bytes).as_ref(), Ok(value));
    bytes.extend_from_slice(b"rest");
    let mut from = &bytes[..];
    assert_eq!(T::decode(&mut from).as_ref(), Ok(value));
    assert_eq!(from, b"rest", "the decoder reads exactly one value");
}

#[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
struct Point {
    x: i32,
    y: Option<String>,
}
wire!(Point, "test.point/1");

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Small(u64, u8);
wire!(Small, "test.small/1", compact);

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Pair<A, B> {
    a: A,
    b: B,
}
wire!(impl<A, B> Pair<A, B>, "test.pair/1");

#[derive(Serialize, Deserialize, PartialEq, Debug)]
enum Shape {
    Dot,
    Circle(f64),
    Path { points: Vec<(i32, i32)>, closed: bool },
}
wire!(Shape, "test.shape/1");

#[test]
fn type_names_are_given_or_composed() {
    let names: [(Cow<'static, str>, &str); 12] = [
        (String::name(), "str"),
        (u32::name(), "u32"),
        (<()>::name(), "()"),
        (Bytes::name(), "bytes"),
        (Point::name(), "test.point/1"),
        (<Vec<Option<u32>>>::name(), "vec<opt<u32>>"),
        (<(u8, (String, bool))>::name(), "(u8,(str,bool))"),
        (<(char,)>::name(), "(char)"),
        (<Pair<u8, Vec<Point>>>::name(), "test.pair/1<u8,vec<test.point/1>>"),
        (<Addr<Point>>::name(), "addr<test.point/1>"),
        (<ReplyTo<()>>::name(), "reply<()>"),
        (ActorId::name(), "actor"),
    ];
    for (name, expected) in names {
        assert_eq!(name, expected);
    }
}

#[test]
fn values_of_common_and_nested_types_round_trip() {
    round_trip(&"héllo".to_owned());
    round_trip(&(true, 'ß', u8::MAX, i64::MIN, 1.5_f32, f64::MAX));
    round_trip(&vec![Some(None), None, Some(Some(7_u32))]);
    round_trip(&vec![vec![Vec::<u8>::new()], vec![]]);
    round_trip(&((), ((),), Some(())));
    round_trip(&Bytes::from(vec![0, 255, 3]));
    round_trip(&ActorId::new(NodeId::from_bits(u64::MAX), Key::from_bits(7)));
    round_trip(&Point { x: -1, y: Some("y".into()) });
    round_trip(&vec![(Small(u64::MAX, 1), Pair { a: Shape::Dot, b: Shape::Circle(0.5) })]);
    round_trip(&Shape::Path { points: vec![(1, -1)], closed: true });
}

#[test]
fn bytes_and_compact_structs_encode_small() {
    assert_eq!(bytes_of(&Bytes::from(vec![200; 100])).len(), 102);
    assert_eq!(bytes_of(&Small(1, 2)), [0x92, 1, 2]);
    let named = bytes_of(&Point { x: 1, y: None });
    assert_eq!(named, b"\x82\xa1x\x01\xa1y\xc0", "a map of two fields, by name");
}

#[test]
fn types_grown_on_one_side_still_decode() {
    mod newer {
        use super::*;
        #[derive(Serialize, Deserialize, PartialEq, Debug)]
        pub(super) struct Point {
            pub(super) x: i32,
            pub(super) y: Option<String>,
            #[serde(default)]
            pub(super) z: u8,
        }
        wire!(Point, "test.point/1");
        #[derive(Serialize, Deserialize, PartialEq, Debug)]
        pub(super) enum Shape {
            Blob,
            Dot,
        }
        wire!(Shape, "test.shape/1");
    }
    let old = Point { x: 3, y: None };
    let new = newer::Point { x: 3, y: None, z: 9 };
    assert_eq!(Point::decode_all(&bytes_of(&new)), Ok(old.clone()), "an older decoder skips unknown fields");
    assert_eq!(newer::Point::decode_all(&bytes_of(&old)), Ok(newer::Point { z: 0, ..new }));
    assert_eq!(
        Shape::decode_all(&bytes_of(&newer::Shape::Dot)),
        Ok(Shape::Dot),
        "variants are encoded by name"
    );
    let unknown = Shape::decode_all(&bytes_of(&newer::Shape::Blob)).unwrap_err();
    assert!(unknown.to_string().contains("Blob"), "{unknown}");
}

#[test]
fn value_cut_short_or_followed_is_refused() {
    fn refused<T: Wire + std::fmt::Debug>(value: &T) {
        let mut bytes = bytes_of(value);
        for len in 0..bytes.len() {
            assert!(T::decode_all(&bytes[..len]).is_err(), "{len} bytes of {value:?}");
        }
        bytes.push(0xc0);
        let error = T::decode_all(&bytes).unwrap_err();
        assert_eq!(error, DecodeError::new("1 bytes are left over"), "one byte more than {value:?}");
    }
    refused(&"text".to_owned());
    refused(&300_u32);
    refused(&Point { x: 1, y: Some("y".into()) });
    refused(&Small(1 << 40, 2));
    refused(&vec![Some((1_u8, "x".to_owned()))]);
    refused(&Bytes::from(vec![1, 2, 3]));
    refused(&());
}

/// A decoder that reserved memory by the declared length would allocate 32 GiB and more.
#[test]
fn hostile_lengths_are_refused() {
    // Arrays, maps, strings, binaries that declare 2^32 - 1 items, and end there.
    for marker in [0xdd_u8, 0xdf, 0xdb, 0xc6, 0xc9] {
        let bytes = [marker, 0xff, 0xff, 0xff, 0xff];
        assert!(<Vec<u64>>::decode_all(&bytes).is_err());
        assert!(<Vec<Vec<Point>>>::decode_all(&bytes).is_err());
        assert!(<Option<u8>>::decode_all(&bytes).is_err());
        assert!(<(u8, u8)>::decode_all(&bytes).is_err());
        assert!(String::decode_all(&bytes).is_err());
        assert!(Bytes::decode_all(&bytes).is_err());
        assert!(Point::decode_all(&bytes).is_err());
        assert!(Shape::decode_all(&bytes).is_err());
        assert!(ActorId::decode_all(&bytes).is_err());
    }
    // An array of 65,535 of the smallest items, of which only 1,000 are present.
    let mut bytes = vec![0xdd, 0, 0, 0xff, 0xff];
    bytes.extend([0xc0; 1000]);
    assert!(<Vec<()>>::decode_all(&bytes).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decoder_any_bytes_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        fn read<T: Wire>(bytes: &[u8]) {
            drop(T::decode_all(bytes));
            let mut from = bytes;
            drop(T::decode(&mut from));
            assert!(bytes.ends_with(from), "the decoder only advances");
        }
        read::<Vec<Option<(u8, String)>>>(&bytes);
        read::<Pair<Shape, Bytes>>(&bytes);
        read::<Addr<Point>>(&bytes);
        read::<ReplyTo<u8>>(&bytes);
        read::<Small>(&bytes);
    }

    #[test]
    fn nested_values_of_any_content_round_trip(
        value in prop::collection::vec((any::<u64>(), any::<Option<i32>>(), ".{0,9}", any::<f64>()), 0..9),
    ) {
        round_trip(&value);
    }
}

#[test]
fn address_or_reply_outside_message_is_refused() {
    let mut events = crate::common::virtual_loop();
    let addr = events.spawn(|_: &mut Cx<u32>, _| receive());
    let error = addr.encode(&mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("only be encoded in a message that is being sent"), "{error}");
    let id = bytes_of(&addr.id());
    assert_eq!(<Addr<u32>>::decode_all(&id).unwrap(), addr, "an address decodes without a loop");
    let error = <ReplyTo<u32>>::decode_all(&id).unwrap_err();
    assert!(error.to_string().contains("only be decoded by a loop"), "{error}");
}
