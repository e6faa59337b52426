//! What crosses the wire, by `wire!` and by composition.

use std::borrow::Cow;

use antiphon_sched::*;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

fn bytes_of<T: Wire>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.encode(&mut bytes).unwrap();
    bytes
}

/// Encodes, decodes from the front of more, and as a whole.
fn there_and_back<T: Wire + PartialEq + std::fmt::Debug>(value: &T) {
    let mut bytes = bytes_of(value);
    assert_eq!(T::decode_all(&bytes).as_ref(), Ok(value));
    bytes.extend_from_slice(b"rest");
    let mut from = &bytes[..];
    assert_eq!(T::decode(&mut from).as_ref(), Ok(value));
    assert_eq!(from, b"rest", "the decoder takes its own value and no more");
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
fn names_are_given_or_composed() {
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
fn common_types_and_their_nests_go_there_and_back() {
    there_and_back(&"héllo".to_owned());
    there_and_back(&(true, 'ß', u8::MAX, i64::MIN, 1.5_f32, f64::MAX));
    there_and_back(&vec![Some(None), None, Some(Some(7_u32))]);
    there_and_back(&vec![vec![Vec::<u8>::new()], vec![]]);
    there_and_back(&((), ((),), Some(())));
    there_and_back(&Bytes(vec![0, 255, 3]));
    there_and_back(&ActorId::new(NodeId::from_bits(u64::MAX), Key::from_bits(7)));
    there_and_back(&Point { x: -1, y: Some("y".into()) });
    there_and_back(&vec![(Small(u64::MAX, 1), Pair { a: Shape::Dot, b: Shape::Circle(0.5) })]);
    there_and_back(&Shape::Path { points: vec![(1, -1)], closed: true });
}

#[test]
fn bytes_take_one_byte_each_and_compact_drops_the_names() {
    assert_eq!(bytes_of(&Bytes(vec![200; 100])).len(), 102);
    assert_eq!(bytes_of(&Small(1, 2)), [0x92, 1, 2]);
    let named = bytes_of(&Point { x: 1, y: None });
    assert!(named.windows(1).any(|byte| byte == b"x"), "a map, by name");
}

#[test]
fn structs_and_enums_may_grow_on_either_side() {
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
    assert_eq!(
        Point::decode_all(&bytes_of(&new)),
        Ok(old.clone()),
        "an old reader skips what it does not know"
    );
    assert_eq!(newer::Point::decode_all(&bytes_of(&old)), Ok(newer::Point { z: 0, ..new }));
    assert_eq!(Shape::decode_all(&bytes_of(&newer::Shape::Dot)), Ok(Shape::Dot), "variants go by name");
    assert!(Shape::decode_all(&bytes_of(&newer::Shape::Blob)).is_err());
}

#[test]
fn a_value_with_something_behind_it_or_cut_short_is_an_error() {
    fn refused<T: Wire + std::fmt::Debug>(value: &T) {
        let mut bytes = bytes_of(value);
        for len in 0..bytes.len() {
            assert!(T::decode_all(&bytes[..len]).is_err(), "{len} bytes of {value:?}");
        }
        bytes.push(0xc0);
        assert!(T::decode_all(&bytes).is_err(), "one byte more than {value:?}");
    }
    refused(&"text".to_owned());
    refused(&300_u32);
    refused(&Point { x: 1, y: Some("y".into()) });
    refused(&Small(1 << 40, 2));
    refused(&vec![Some((1_u8, "x".to_owned()))]);
    refused(&Bytes(vec![1, 2, 3]));
    refused(&());
}

#[test]
fn hostile_lengths_reserve_no_memory_and_are_errors() {
    // Arrays, maps, strings, binaries that declare 2^32 - 1 items, with nothing behind.
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
    // A big array of the smallest items: as many as there are bytes, and no more.
    let mut bytes = vec![0xdd, 0, 0, 0xff, 0xff];
    bytes.extend([0xc0; 1000]);
    assert!(<Vec<()>>::decode_all(&bytes).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        fn read<T: Wire>(bytes: &[u8]) {
            drop(T::decode_all(bytes));
            let mut from = bytes;
            drop(T::decode(&mut from));
            assert!(from.len() <= bytes.len());
        }
        read::<Vec<Option<(u8, String)>>>(&bytes);
        read::<Pair<Shape, Bytes>>(&bytes);
        read::<Addr<Point>>(&bytes);
        read::<ReplyTo<u8>>(&bytes);
        read::<Small>(&bytes);
    }

    #[test]
    fn nests_of_any_content_go_there_and_back(
        value in prop::collection::vec((any::<u64>(), any::<Option<i32>>(), ".{0,9}", any::<f64>()), 0..9),
    ) {
        there_and_back(&value);
    }
}

#[test]
fn an_address_or_reply_outside_of_a_message_does_not_encode() {
    let mut events = crate::common::virtual_loop();
    let addr = events.spawn(|_: &mut Cx<u32>, _| receive());
    let error = addr.encode(&mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("only be encoded in a message that is being sent"), "{error}");
    let id = bytes_of(&addr.id());
    assert_eq!(<Addr<u32>>::decode_all(&id).unwrap(), addr, "but it decodes anywhere");
    let error = <ReplyTo<u32>>::decode_all(&id).unwrap_err();
    assert!(error.to_string().contains("only be decoded by a loop"), "{error}");
}
