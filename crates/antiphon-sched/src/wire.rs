//! What lets a type cross the wire: a name, an encoder, a decoder. Needs no serde.

use std::borrow::Cow;

use crate::error::{DecodeError, EncodeError};

/// The longest name of a type, in bytes.
pub const TYPE_NAME_MAX: usize = 255;

/// A type whose values can cross the wire, each as one MessagePack value.
///
/// A node refuses bytes that are not exactly one, before any decoder sees them.
///
/// Its name is its tag: sender and receiver agree on a type by it. The author chooses and versions the
/// name (`acme.calc/1`); it is at most [`TYPE_NAME_MAX`] bytes, and holds none of `<>(),`, which are for
/// composed names such as `vec<opt<u32>>`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot cross the wire: it has no wire name",
    label = "has no wire name",
    note = "give it one, beside its definition: write `antiphon::wire!({Self}, \"your.name/1\");` (it needs serde's Serialize and Deserialize)"
)]
pub trait Wire: Sized + 'static {
    /// The name of the type.
    fn name() -> Cow<'static, str>;

    /// Appends the value's bytes to `out`.
    ///
    /// # Errors
    /// The value has no encoding; `out` then holds what was written before.
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError>;

    /// Takes one value off the front of `from`, and advances it.
    ///
    /// # Errors
    /// The bytes are no such value; where `from` then points to is not specified.
    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError>;

    /// The value that `bytes` are, all of them; faster than [`Wire::decode`] where a type knows how.
    ///
    /// # Errors
    /// The bytes are no such value, or more than one.
    fn decode_all(mut bytes: &[u8]) -> Result<Self, DecodeError> {
        let value = Self::decode(&mut bytes)?;
        if bytes.is_empty() {
            Ok(value)
        } else {
            Err(DecodeError::new(format_args!("{} bytes are left over", bytes.len())))
        }
    }

    /// As [`Wire::decode_all`], for bytes that are known to be exactly one MessagePack value: those of messages and answers.
    /// Types that need not look for its end are faster so.
    ///
    /// # Errors
    /// The bytes are no such value.
    fn decode_sound(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_all(bytes)
    }
}

/// Whether a type's name fits its place on the wire. A given one does; one composed of many may not.
pub(crate) fn check_type_name(name: &str) -> Result<(), EncodeError> {
    if name.len() <= TYPE_NAME_MAX {
        return Ok(());
    }
    Err(EncodeError::new(format_args!(
        "the name of its type is composed of {} bytes, where {TYPE_NAME_MAX} are possible; wrap it in a type \
         with a name of its own",
        name.len()
    )))
}

/// MessagePack's nil.
const NIL: u8 = 0xc0;

impl Wire for () {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("()")
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.push(NIL);
        Ok(())
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        match from.split_first() {
            Some((&NIL, rest)) => {
                *from = rest;
                Ok(())
            }
            Some(_) | None => Err(DecodeError::new("nil was expected")),
        }
    }
}
