//! Wire names for types of the standard library, and for `Bytes`.
//!
//! A composed type uses the encoders of its parts, which need no serde. Each type has a name of its own, also where the bytes
//! are the same: within a loop a message is passed on as it is, and a `BTreeMap` is no `HashMap`.

use std::any::Any;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, Hash};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::error::{DecodeError, EncodeCause, EncodeError};
use crate::remote::codec_context;
use crate::remote::wire::Wire;
use crate::remote::wire_serde::private::{self, composed};
use crate::wire;

wire!(String, "str");
wire!(Bytes, "bytes");
wire!(char, "char");
wire!(u128, "u128");
wire!(i128, "i128");
wire!(Duration, "duration");
wire!(SystemTime, "system_time");
wire!(IpAddr, "ip");
wire!(Ipv4Addr, "ipv4");
wire!(Ipv6Addr, "ipv6");
wire!(SocketAddr, "socket_addr");
wire!(SocketAddrV4, "socket_addr_v4");
wire!(SocketAddrV6, "socket_addr_v6");

/// Numbers and `bool`, whose encoding cannot fail.
macro_rules! wire_scalar {
    ($($type:ty, $name:literal, $write:ident as $wide:ty;)*) => {$(
        impl Wire for $type {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed($name)
            }

            fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
                rmp::encode::$write(out, *self as $wide).map(drop).map_err(EncodeError::new)
            }

            fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
                private::decode(from)
            }

            fn decode_all(bytes: &[u8]) -> Result<Self, DecodeError> {
                private::decode_all(bytes)
            }

            fn decode_sound(bytes: &[u8]) -> Result<Self, DecodeError> {
                private::decode_sound(bytes)
            }
        }
    )*};
}
wire_scalar! {
    bool, "bool", write_bool as bool;
    u8, "u8", write_uint as u64;
    u16, "u16", write_uint as u64;
    u32, "u32", write_uint as u64;
    u64, "u64", write_uint as u64;
    usize, "usize", write_uint as u64;
    i8, "i8", write_sint as i64;
    i16, "i16", write_sint as i64;
    i32, "i32", write_sint as i64;
    i64, "i64", write_sint as i64;
    isize, "isize", write_sint as i64;
    f32, "f32", write_f32 as f32;
    f64, "f64", write_f64 as f64;
}

/// Owned texts that are encoded as a `String`.
macro_rules! wire_text {
    ($($type:ty, $name:literal;)*) => {$(
        impl Wire for $type {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed($name)
            }

            fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
                encode_text(self, out)
            }

            fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
                String::decode(from).map(Self::from)
            }
        }
    )*};
}
wire_text! {
    Box<str>, "str.box";
    Arc<str>, "str.arc";
    Cow<'static, str>, "str.cow";
}

fn encode_text(text: &str, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    rmp::encode::write_str(out, text).map_err(EncodeError::new)
}

/// Encoded as a text. A path that is not UTF-8 cannot be encoded.
impl Wire for PathBuf {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("path")
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let text = self.to_str().ok_or_else(|| {
            EncodeError::new(format_args!("the path {} is not UTF-8; send its bytes", self.display()))
        })?;
        encode_text(text, out)
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        String::decode(from).map(Self::from)
    }
}

/// Encoded as the value in the box.
impl<T: Wire> Wire for Box<T> {
    fn name() -> Cow<'static, str> {
        Cow::Owned(composed("box", &[T::name()]))
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        T::encode(self, out)
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        T::decode(from).map(Self::new)
    }

    fn decode_all(bytes: &[u8]) -> Result<Self, DecodeError> {
        T::decode_all(bytes).map(Self::new)
    }

    fn decode_sound(bytes: &[u8]) -> Result<Self, DecodeError> {
        T::decode_sound(bytes).map(Self::new)
    }
}

/// Encoded as an array of zero or one item, so that nested options stay distinct.
impl<T: Wire> Wire for Option<T> {
    fn name() -> Cow<'static, str> {
        Cow::Owned(composed("opt", &[T::name()]))
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        array_len(out, usize::from(self.is_some()))?;
        self.iter().try_for_each(|item| item.encode(out))
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        match read_array_len(from)? {
            0 => Ok(None),
            1 => T::decode(from).map(Some),
            len => Err(DecodeError::new(format_args!("an option of {len} items"))),
        }
    }
}

/// Encoded as serde does: a map with the key `Ok` or `Err`.
impl<T: Wire, E: Wire> Wire for Result<T, E> {
    fn name() -> Cow<'static, str> {
        Cow::Owned(composed("result", &[T::name(), E::name()]))
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        map_len(out, 1)?;
        match self {
            Ok(value) => {
                encode_text("Ok", out)?;
                value.encode(out)
            }
            Err(error) => {
                encode_text("Err", out)?;
                error.encode(out)
            }
        }
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        let len = read_map_len(from)?;
        if len != 1 {
            return Err(DecodeError::new(format_args!("a result of {len} entries")));
        }
        match String::decode(from)?.as_str() {
            "Ok" => T::decode(from).map(Ok),
            "Err" => E::decode(from).map(Err),
            other => Err(DecodeError::new(format_args!("a result with the key {other:?}"))),
        }
    }
}

/// Encoded as an array; a `Vec<u8>` as one MessagePack binary.
impl<T: Wire> Wire for Vec<T> {
    fn name() -> Cow<'static, str> {
        Cow::Owned(composed("vec", &[T::name()]))
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match (self as &dyn Any).downcast_ref::<Vec<u8>>() {
            Some(bytes) => encode_bytes(bytes, out),
            None => encode_items(self.len(), self, out),
        }
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        let mut items = Self::new();
        if let Some(bytes) = (&mut items as &mut dyn Any).downcast_mut::<Vec<u8>>() {
            *bytes = private::decode::<Vec<u8>>(from)?;
            return Ok(items);
        }
        decode_items(from, &mut items, |items, item| items.push(item))?;
        Ok(items)
    }
}

/// Encoded as an array; a `[u8; N]` as one MessagePack binary.
impl<T: Wire, const N: usize> Wire for [T; N] {
    fn name() -> Cow<'static, str> {
        Cow::Owned(composed("array", &[T::name(), Cow::Owned(N.to_string())]))
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match (self as &dyn Any).downcast_ref::<[u8; N]>() {
            Some(bytes) => encode_bytes(bytes, out),
            None => encode_items(N, self, out),
        }
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        let items = Vec::<T>::decode(from)?;
        let len = items.len();
        Self::try_from(items).map_err(|_| DecodeError::new(format_args!("{len} items instead of {N}")))
    }
}

/// Encoded as an array.
impl<T: Wire> Wire for VecDeque<T> {
    fn name() -> Cow<'static, str> {
        Cow::Owned(composed("vec_deque", &[T::name()]))
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        encode_items(self.len(), self, out)
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        let mut items = Self::new();
        decode_items(from, &mut items, |items, item| items.push_back(item))?;
        Ok(items)
    }
}

/// Encoded as an array. Two equal items do not decode.
impl<T: Wire + Ord> Wire for BTreeSet<T> {
    fn name() -> Cow<'static, str> {
        Cow::Owned(composed("btree_set", &[T::name()]))
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        encode_items(self.len(), self, out)
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        let mut items = Self::new();
        let len = decode_items(from, &mut items, |items, item| {
            items.insert(item);
        })?;
        check_distinct(len, items.len())?;
        Ok(items)
    }
}

/// Encoded as an array. Two equal items do not decode.
impl<T: Wire + Eq + Hash, S: BuildHasher + Default + 'static> Wire for HashSet<T, S> {
    fn name() -> Cow<'static, str> {
        Cow::Owned(composed("hash_set", &[T::name()]))
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        encode_items(self.len(), self, out)
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        let mut items = Self::default();
        let len = decode_items(from, &mut items, |items, item| {
            items.insert(item);
        })?;
        check_distinct(len, items.len())?;
        Ok(items)
    }
}

/// Encoded as a map. Two equal keys do not decode.
impl<K: Wire + Ord, V: Wire> Wire for BTreeMap<K, V> {
    fn name() -> Cow<'static, str> {
        Cow::Owned(composed("btree_map", &[K::name(), V::name()]))
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        encode_entries(self.len(), self, out)
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        let mut entries = Self::new();
        let len = decode_entries(from, |key, value| {
            entries.insert(key, value);
        })?;
        check_distinct(len, entries.len())?;
        Ok(entries)
    }
}

/// Encoded as a map. Two equal keys do not decode.
impl<K: Wire + Eq + Hash, V: Wire, S: BuildHasher + Default + 'static> Wire for HashMap<K, V, S> {
    fn name() -> Cow<'static, str> {
        Cow::Owned(composed("hash_map", &[K::name(), V::name()]))
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        encode_entries(self.len(), self, out)
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        let mut entries = Self::default();
        let len = decode_entries(from, |key, value| {
            entries.insert(key, value);
        })?;
        check_distinct(len, entries.len())?;
        Ok(entries)
    }
}

macro_rules! wire_tuple {
    ($($len:literal: $($part:ident $at:tt),+;)*) => {$(
        impl<$($part: Wire),+> Wire for ($($part,)+) {
            fn name() -> Cow<'static, str> {
                Cow::Owned(format!("({})", [$($part::name()),+].join(",")))
            }

            fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
                array_len(out, $len)?;
                $(self.$at.encode(out)?;)+
                Ok(())
            }

            fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
                match read_array_len(from)? {
                    $len => Ok(($($part::decode(from)?,)+)),
                    len => Err(DecodeError::new(format_args!("{len} items instead of {}", $len))),
                }
            }
        }
    )*};
}
wire_tuple! {
    1: A 0;
    2: A 0, B 1;
    3: A 0, B 1, C 2;
    4: A 0, B 1, C 2, D 3;
    5: A 0, B 1, C 2, D 3, E 4;
    6: A 0, B 1, C 2, D 3, E 4, F 5;
    7: A 0, B 1, C 2, D 3, E 4, F 5, G 6;
    8: A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7;
    9: A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8;
    10: A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9;
    11: A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10;
    12: A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11;
}

/// Stops an encoding that is too large already.
fn check_size(out: &[u8]) -> Result<(), EncodeError> {
    let (bytes, max) = (out.len(), codec_context::bytes_max());
    if bytes <= max {
        return Ok(());
    }
    Err(EncodeError::because(EncodeCause::TooLarge { bytes: bytes as u64, max: max as u64 }))
}

fn encode_bytes(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    rmp::encode::write_bin(out, bytes).map_err(EncodeError::new)
}

fn encode_items<'a, T: Wire>(
    len: usize,
    items: impl IntoIterator<Item = &'a T>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    array_len(out, len)?;
    items.into_iter().try_for_each(|item| {
        item.encode(out)?;
        check_size(out)
    })
}

fn encode_entries<'a, K: Wire, V: Wire>(
    len: usize,
    entries: impl IntoIterator<Item = (&'a K, &'a V)>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    map_len(out, len)?;
    entries.into_iter().try_for_each(|(key, value)| {
        key.encode(out)?;
        value.encode(out)?;
        check_size(out)
    })
}

/// Decodes the items of an array one by one. Returns their number.
fn decode_items<T: Wire, C>(
    from: &mut &[u8],
    items: &mut C,
    add: impl Fn(&mut C, T),
) -> Result<usize, DecodeError> {
    let len = read_array_len(from)?;
    for _ in 0..len {
        add(items, T::decode(from)?);
    }
    Ok(len)
}

fn decode_entries<K: Wire, V: Wire>(
    from: &mut &[u8],
    mut add: impl FnMut(K, V),
) -> Result<usize, DecodeError> {
    let len = read_map_len(from)?;
    for _ in 0..len {
        let key = K::decode(from)?;
        add(key, V::decode(from)?);
    }
    Ok(len)
}

fn check_distinct(declared: usize, distinct: usize) -> Result<(), DecodeError> {
    match declared - distinct {
        0 => Ok(()),
        equal => Err(DecodeError::new(format_args!("{equal} keys are there twice"))),
    }
}

fn array_len(out: &mut Vec<u8>, len: usize) -> Result<(), EncodeError> {
    let len = u32::try_from(len).map_err(EncodeError::new)?;
    rmp::encode::write_array_len(out, len).map(drop).map_err(EncodeError::new)
}

fn map_len(out: &mut Vec<u8>, len: usize) -> Result<(), EncodeError> {
    let len = u32::try_from(len).map_err(EncodeError::new)?;
    rmp::encode::write_map_len(out, len).map(drop).map_err(EncodeError::new)
}

fn read_array_len(from: &mut &[u8]) -> Result<usize, DecodeError> {
    rmp::decode::read_array_len(from).map(|len| len as usize).map_err(DecodeError::new)
}

fn read_map_len(from: &mut &[u8]) -> Result<usize, DecodeError> {
    rmp::decode::read_map_len(from).map(|len| len as usize).map_err(DecodeError::new)
}
