//! `Wire` by serde and MessagePack: `wire!`, addresses and replies.
//!
//! Structs are encoded as maps and variants by name, so that fields and variants can be added later; `compact`
//! chooses arrays. The form is serde's human-readable one, with bytes as MessagePack binaries.

use std::borrow::Cow;

use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::actor::Addr;
use crate::error::{DecodeError, EncodeError};
use crate::id::{ActorId, Key, NodeId};
use crate::remote::codec_context::{self, EncodeMode, ExposedType};
use crate::remote::inbound::{deliver_as, expected_as, takes};
use crate::remote::outbound::reply_wire;
use crate::remote::wire::{Wire, check_type_name};
use crate::request::{ReplyTo, RequestId};

/// Gives a serde type its name on the wire, and so makes it [`Wire`](crate::Wire).
///
/// You choose and version the name; two programs identify a type by it. It is a constant expression, and the compiler checks
/// it: 1 to 200 bytes, none of `<>(),`.
///
/// `compact` is for structs and for enums without `tag`, `untagged`, `flatten` and skipped fields.
///
/// ```
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Point { x: f64, y: f64 }
/// antiphon_sched::wire!(Point, "acme.point/1");
///
/// #[derive(Serialize, Deserialize)]
/// struct Sample(u64, f32);
/// antiphon_sched::wire!(Sample, "acme.sample/1", compact); // arrays instead of maps: smaller, but fields cannot be added
///
/// #[derive(Serialize, Deserialize)]
/// struct Envelope<T> { to: String, content: T }
/// antiphon_sched::wire!(impl<T> Envelope<T>, "acme.envelope/1"); // "acme.envelope/1<f64>" for Envelope<f64>
/// ```
#[macro_export]
macro_rules! wire {
    (impl<$($param:ident),+ $(,)?> $type:ty, $name:expr $(, $compact:ident)?) => {
        const _: () = $crate::__private::check_name($name);
        impl<$($param),+> $crate::Wire for $type
        where
            $($param: $crate::Wire,)+
            $type: $crate::__private::Serialize + $crate::__private::DeserializeOwned,
        {
            fn name() -> ::std::borrow::Cow<'static, str> {
                const NAME: &str = $name;
                let parts = [$(<$param as $crate::Wire>::name()),+];
                ::std::borrow::Cow::Owned($crate::__private::composed(NAME, &parts))
            }
            $crate::wire!(@coding $($compact)?);
        }
    };
    ($type:ty, $name:expr $(, $compact:ident)?) => {
        const _: () = $crate::__private::check_name($name);
        impl $crate::Wire for $type {
            fn name() -> ::std::borrow::Cow<'static, str> {
                const NAME: &str = $name;
                ::std::borrow::Cow::Borrowed(NAME)
            }
            $crate::wire!(@coding $($compact)?);
        }
    };
    (@coding) => {
        $crate::wire!(@coding encode_named, decode, decode_all, decode_sound);
    };
    (@coding compact) => {
        $crate::wire!(@coding encode_compact, decode, decode_all, decode_sound);
    };
    (@coding $encode:ident, $decode:ident, $decode_all:ident, $decode_sound:ident) => {
        const IS_CHECKED: bool = true;
        fn encode(&self, out: &mut ::std::vec::Vec<u8>) -> ::std::result::Result<(), $crate::EncodeError> {
            $crate::__private::$encode(self, out)
        }
        fn decode(from: &mut &[u8]) -> ::std::result::Result<Self, $crate::DecodeError> {
            $crate::__private::$decode(from)
        }
        fn decode_all(bytes: &[u8]) -> ::std::result::Result<Self, $crate::DecodeError> {
            $crate::__private::$decode_all(bytes)
        }
        fn decode_sound(bytes: &[u8]) -> ::std::result::Result<Self, $crate::DecodeError> {
            $crate::__private::$decode_sound(bytes)
        }
    };
    (@coding $other:ident) => {
        ::std::compile_error!("only `compact` may follow the name");
    };
}

/// Functions that the expansion of `wire!` calls; not for direct use.
pub mod private {
    use super::{DecodeError, EncodeError, codec_context};
    use crate::remote::checked_serializer::{self, ByteSequences, DEPTH_MAX, Doubts, Layout};
    use std::borrow::Cow;

    pub use serde::Serialize;
    pub use serde::de::DeserializeOwned;

    /// Fails the compilation for an empty name, one over 200 bytes, or one that looks composed.
    pub const fn check_name(name: &str) {
        let bytes = name.as_bytes();
        assert!(!bytes.is_empty() && bytes.len() <= 200, "a wire name has 1 to 200 bytes");
        let mut at = 0;
        while at < bytes.len() {
            let byte = bytes[at];
            assert!(
                !matches!(byte, b'<' | b'>' | b'(' | b')' | b','),
                "a wire name must not hold any of `<>(),` (they are for composed names)"
            );
            at += 1;
        }
    }

    /// The name of a type with parameters.
    pub fn composed(name: &str, parts: &[Cow<'_, str>]) -> String {
        format!("{name}<{}>", parts.join(","))
    }

    /// Encodes structs as maps, and variants by name.
    pub fn encode_named<T: Serialize + DeserializeOwned>(
        value: &T,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        encode_as(value, out, Layout::Named)
    }

    /// Encodes structs as arrays, and variants by name.
    pub fn encode_compact<T: Serialize + DeserializeOwned>(
        value: &T,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        encode_as(value, out, Layout::Compact)
    }

    fn encode_as<T: Serialize + DeserializeOwned>(
        value: &T,
        out: &mut Vec<u8>,
        layout: Layout,
    ) -> Result<(), EncodeError> {
        let start = out.len();
        let bytes_max = codec_context::bytes_max();
        let doubts = checked_serializer::encode(value, out, layout, ByteSequences::Bytes, bytes_max)?;
        if doubts.any() && !codec_context::is_revoking() {
            ensure_readable(value, out, start, layout, doubts)?;
        }
        Ok(())
    }

    /// Decodes the encoding of `value`, which begins at `start`. If its type does not read it, or reads another value,
    /// encodes it with numbers in place of bytes, which serde reads in more positions.
    #[cold]
    fn ensure_readable<T: Serialize + DeserializeOwned>(
        value: &T,
        out: &mut Vec<u8>,
        start: usize,
        layout: Layout,
        doubts: Doubts,
    ) -> Result<(), EncodeError> {
        let first = arrival_of::<T>(&out[start..], layout, ByteSequences::Bytes, doubts);
        codec_context::dedup_refs();
        if first == Ok(Arrival::Unchanged) {
            return Ok(());
        }
        if doubts.byte_sequences > 0 {
            let bytes = out.split_off(start);
            let bytes_max = codec_context::bytes_max();
            let encoded = checked_serializer::encode(value, out, layout, ByteSequences::Numbers, bytes_max);
            let second = encoded
                .as_ref()
                .ok()
                .map(|doubts| arrival_of::<T>(&out[start..], layout, ByteSequences::Numbers, *doubts));
            codec_context::dedup_refs();
            match (&first, second) {
                (_, Some(Ok(Arrival::Unchanged))) => return Ok(()),
                (Ok(Arrival::Unknown), _) => {
                    out.truncate(start);
                    out.extend_from_slice(&bytes);
                    return Ok(());
                }
                (_, Some(Ok(Arrival::Unknown))) => return Ok(()),
                // As numbers it might arrive, but there are too many.
                (_, None) => return encoded.map(drop),
                (_, Some(_)) => {}
            }
        }
        let reason = match first {
            Ok(Arrival::Unchanged | Arrival::Unknown) => return Ok(()),
            Ok(Arrival::Changed) => {
                "it would arrive as another variant, which reads the same bytes; choose another form of the enum"
            }
            Err(error) if doubts.wide_integers == 0 => {
                return Err(unreadable::<T>(error.reason(), "does its `Deserialize` fit its `Serialize`?"));
            }
            Err(error) => {
                let cure = "if a 128-bit integer is within `tag`, `untagged` or `flatten`: serde does not carry it there; \
                            send it as text, or choose another form of the enum";
                return Err(unreadable::<T>(error.reason(), cure));
            }
        };
        Err(EncodeError::new(format_args!("`{}`: {reason}", std::any::type_name::<T>())))
    }

    fn unreadable<T>(reason: &str, cure: &str) -> EncodeError {
        let type_name = std::any::type_name::<T>();
        EncodeError::new(format_args!("`{type_name}` could not be read again: {reason}; {cure}"))
    }

    /// How a value arrives, as far as its encoding shows.
    #[derive(Copy, Clone, PartialEq, Eq)]
    enum Arrival {
        Unchanged,
        /// With another encoding. Its type may bring values into another form.
        Unknown,
        /// With other kinds of parts.
        Changed,
    }

    /// Decodes `bytes`, and encodes the value again.
    fn arrival_of<T: Serialize + DeserializeOwned>(
        bytes: &[u8],
        layout: Layout,
        byte_sequences: ByteSequences,
        doubts: Doubts,
    ) -> Result<Arrival, DecodeError> {
        codec_context::try_decoding(
            || decode_sound::<T>(bytes),
            |arrived| {
                let mut again = Vec::with_capacity(bytes.len());
                let bytes_max = codec_context::bytes_max();
                match checked_serializer::encode(arrived, &mut again, layout, byte_sequences, bytes_max) {
                    Ok(found) if found != doubts => Arrival::Changed,
                    // The order of the entries of a map may differ.
                    Ok(_) if again == bytes || counts(&again) == counts(bytes) => Arrival::Unchanged,
                    Ok(_) | Err(_) => Arrival::Unknown,
                }
            },
        )
    }

    /// How often each byte occurs.
    fn counts(bytes: &[u8]) -> [usize; 256] {
        let mut counts = [0; 256];
        bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        counts
    }

    /// Takes one value off the front; reads structs as maps and as arrays.
    pub fn decode<T: DeserializeOwned>(from: &mut &[u8]) -> Result<T, DecodeError> {
        let len = value_bytes(from)?;
        let (value, rest) = from.split_at(len);
        *from = rest;
        decode_sound(value)
    }

    /// Decodes the one value that `bytes` hold.
    pub fn decode_all<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
        match bytes.len() - value_bytes(bytes)? {
            0 => decode_sound(bytes),
            more => Err(DecodeError::new(format_args!("{more} bytes are left over"))),
        }
    }

    /// Decodes `bytes` that are known to hold exactly one value.
    pub fn decode_sound<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
        let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes).with_human_readable();
        T::deserialize(&mut deserializer).map_err(DecodeError::new)
    }

    /// The length of the MessagePack value at the front of `bytes`, without recursion. An error if it is nested deeper
    /// than an encoder nests values: the stack of a decoder may not suffice for it.
    fn value_bytes(bytes: &[u8]) -> Result<usize, DecodeError> {
        let mut at = 0;
        let mut missing = items_of_header(bytes, &mut at)?;
        if missing == 0 {
            return Ok(at);
        }
        // The numbers of values that are still missing in the outer arrays and maps.
        let mut outer = [0; DEPTH_MAX];
        let mut depth = 1;
        loop {
            while missing == 0 {
                depth -= 1;
                if depth == 0 {
                    return Ok(at);
                }
                missing = outer[depth];
            }
            missing -= 1;
            let items = items_of_header(bytes, &mut at)?;
            if items > 0 {
                if depth == DEPTH_MAX {
                    let text = format_args!("it is nested deeper than {DEPTH_MAX} arrays and maps");
                    return Err(DecodeError::new(text));
                }
                outer[depth] = missing;
                depth += 1;
                missing = items;
            }
        }
    }

    /// Advances `at` past a value, or past the header of an array or a map. Returns the number of values in that.
    fn items_of_header(bytes: &[u8], at: &mut usize) -> Result<u64, DecodeError> {
        let marker = *bytes.get(*at).ok_or_else(short)?;
        *at += 1;
        let (size, items) = match marker {
            0x00..=0x7f | 0xe0..=0xff | 0xc0..=0xc3 => (0, 0),
            0x80..=0x8f => (0, 2 * u64::from(marker & 0x0f)),
            0x90..=0x9f => (0, u64::from(marker & 0x0f)),
            0xa0..=0xbf => (usize::from(marker & 0x1f), 0),
            0xc4 | 0xd9 => (counted(bytes, at, 1)? as usize, 0),
            0xc5 | 0xda => (counted(bytes, at, 2)? as usize, 0),
            0xc6 | 0xdb => (counted(bytes, at, 4)? as usize, 0),
            0xc7 => (counted(bytes, at, 1)? as usize + 1, 0),
            0xc8 => (counted(bytes, at, 2)? as usize + 1, 0),
            0xc9 => (counted(bytes, at, 4)? as usize + 1, 0),
            0xcc | 0xd0 => (1, 0),
            0xcd | 0xd1 | 0xd4 => (2, 0),
            0xd5 => (3, 0),
            0xca | 0xce | 0xd2 => (4, 0),
            0xd6 => (5, 0),
            0xcb | 0xcf | 0xd3 => (8, 0),
            0xd7 => (9, 0),
            0xd8 => (17, 0),
            0xdc => (0, counted(bytes, at, 2)?),
            0xdd => (0, counted(bytes, at, 4)?),
            0xde => (0, 2 * counted(bytes, at, 2)?),
            0xdf => (0, 2 * counted(bytes, at, 4)?),
        };
        *at = at.checked_add(size).filter(|end| *end <= bytes.len()).ok_or_else(short)?;
        Ok(items)
    }

    fn counted(bytes: &[u8], at: &mut usize, width: usize) -> Result<u64, DecodeError> {
        let digits = bytes.get(*at..*at + width).ok_or_else(short)?;
        *at += width;
        Ok(digits.iter().fold(0, |count, digit| count << 8 | u64::from(*digit)))
    }

    fn short() -> DecodeError {
        DecodeError::new("the bytes end within a value")
    }
}

wire!(ActorId, "actor", compact);

impl Serialize for ActorId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.node().to_bits(), self.key().to_bits()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ActorId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (node, key) = Deserialize::deserialize(deserializer)?;
        Ok(Self::new(NodeId::from_bits(node), Key::from_bits(key)))
    }
}

const NO_CONTEXT: &str = "an address or reply can only be encoded in a message that is being sent to another node; \
                        store a name instead, and locate it again";

const REPLY_IN_VALUE: &str = "a reply cannot be part of an exit value, or of a value that an actor is resumed with or \
                              that is thrown into it; send it in a message";

/// Works only for an `M` that can cross the wire; makes the actor reachable from the network.
impl<M: Wire> Serialize for Addr<M> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let id = self.id();
        codec_context::with_encode_context(|node_id, _, refs| {
            if id.node() == node_id {
                let type_name = leaked_name::<M>()?;
                let exposed = ExposedType { type_name, decode: deliver_as::<M>, fits: takes::<M> };
                refs.exposed.push((id.key(), exposed));
            }
            add_node(&mut refs.nodes, id.node());
            Ok(())
        })
        .ok_or_else(|| S::Error::custom(NO_CONTEXT))?
        .map_err(|reason: EncodeError| S::Error::custom(reason.reason()))?;
        id.serialize(serializer)
    }
}

impl<'de, M: Wire> Deserialize<'de> for Addr<M> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let id = ActorId::deserialize(deserializer)?;
        codec_context::record_address(id.node(), id.key());
        Ok(Self::of(id))
    }
}

impl<M: Wire> Wire for Addr<M> {
    fn name() -> Cow<'static, str> {
        Cow::Owned(private::composed("addr", &[M::name()]))
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        private::encode_compact(self, out)
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        private::decode(from)
    }
}

/// Moves the permission to reply to the encoded copy; this copy no longer fails the request when it is dropped.
impl<R: Wire> Serialize for ReplyTo<R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        codec_context::with_encode_context(|node_id, mode, refs| match mode {
            EncodeMode::Value => Err(S::Error::custom(REPLY_IN_VALUE)),
            EncodeMode::Revoke => {
                self.set_holder(Some(node_id));
                Ok(())
            }
            EncodeMode::Send => {
                let type_name = leaked_name::<R>().map_err(|reason| S::Error::custom(reason.reason()))?;
                self.set_holder(None);
                refs.has_reply_to = true;
                if self.node() == node_id {
                    refs.requests.push((self.request_id(), expected_as::<R>(type_name)));
                }
                add_node(&mut refs.nodes, self.node());
                Ok(())
            }
        })
        .ok_or_else(|| S::Error::custom(NO_CONTEXT))??;
        (self.node().to_bits(), self.request_id().to_bits()).serialize(serializer)
    }
}

impl<'de, R: Wire> Deserialize<'de> for ReplyTo<R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (node, request_id) = Deserialize::deserialize(deserializer)?;
        let node_id = codec_context::decoding_node()
            .ok_or_else(|| D::Error::custom("a reply can only be decoded by a loop"))?;
        let (node, request_id) = (NodeId::from_bits(node), RequestId::from_bits(request_id));
        let permit = codec_context::request_permit().map_err(D::Error::custom)?;
        codec_context::record_reply(node, request_id);
        Ok(Self::received(node, request_id, node_id, permit, reply_wire::<R>))
    }
}

impl<R: Wire> Wire for ReplyTo<R> {
    fn name() -> Cow<'static, str> {
        Cow::Owned(private::composed("reply", &[R::name()]))
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        private::encode_compact(self, out)
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        private::decode(from)
    }
}

fn add_node(nodes: &mut smallvec::SmallVec<[NodeId; 2]>, node: NodeId) {
    if !nodes.contains(&node) {
        nodes.push(node);
    }
}

/// The name of a type; a composed name is leaked once for each type and thread.
fn leaked_name<T: Wire>() -> Result<&'static str, EncodeError> {
    let name = T::name();
    check_type_name(&name)?;
    Ok(match name {
        Cow::Borrowed(name) => name,
        Cow::Owned(name) => codec_context::intern(name),
    })
}
