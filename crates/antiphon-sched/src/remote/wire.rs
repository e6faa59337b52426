//! The trait of types that can cross the wire: a name, an encoder and a decoder. It needs no serde.

use std::borrow::Cow;

use crate::error::{DecodeError, EncodeError};

/// The longest name of a type, in bytes.
pub const TYPE_NAME_MAX: usize = 255;

/// A type of values that can cross the wire, each as one MessagePack value.
///
/// A node refuses bytes that are not exactly one such value, before any decoder reads them.
///
/// The sender and the receiver identify a type by its name. The author chooses and versions the name
/// (`acme.calc/1`). It has at most [`TYPE_NAME_MAX`] bytes, and holds none of `<>(),`: these are for composed names
/// such as `vec<opt<u32>>`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot cross the wire: it has no wire name",
    label = "has no wire name",
    note = "for a type of your crate, write beside its definition: `antiphon::wire!({Self}, \"your.name/1\");` (it needs serde's Serialize and Deserialize)",
    note = "for a type of the crates chrono, serde_json, time or uuid, enable the feature of that name of antiphon",
    note = "for a type of another crate, wrap it in one of yours: `#[derive(Serialize, Deserialize)] struct Mine({Self});` and `antiphon::wire!(Mine, \"your.name/1\");`"
)]
pub trait Wire: Sized + 'static {
    /// The name of the type.
    fn name() -> Cow<'static, str>;

    /// Whether [`Wire::encode`] writes only bodies that keep to the limits. Then the node need not check them.
    #[doc(hidden)]
    const IS_CHECKED: bool = false;

    /// Appends the value's bytes to `out`.
    ///
    /// # Errors
    /// The value has no encoding; `out` then holds the bytes that were written before.
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError>;

    /// Takes one value off the front of `from`, and advances it.
    ///
    /// # Errors
    /// The bytes do not begin with such a value; the position of `from` is then unspecified.
    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError>;

    /// Decodes a value that fills all of `bytes`. Some types implement this faster than [`Wire::decode`].
    ///
    /// # Errors
    /// The bytes are not such a value, or more bytes follow it.
    fn decode_all(mut bytes: &[u8]) -> Result<Self, DecodeError> {
        let value = Self::decode(&mut bytes)?;
        if bytes.is_empty() {
            Ok(value)
        } else {
            Err(DecodeError::new(format_args!("{} bytes are left over", bytes.len())))
        }
    }

    /// As [`Wire::decode_all`], for bytes that are known to be exactly one MessagePack value: those of messages and
    /// replies. A type that need not look for the end of the value decodes faster so.
    ///
    /// # Errors
    /// The bytes are not such a value.
    fn decode_sound(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_all(bytes)
    }
}

/// Checks the length of a type name. A plain name always fits; a composed name may be too long.
pub(crate) fn check_type_name(name: &str) -> Result<(), EncodeError> {
    if name.len() <= TYPE_NAME_MAX {
        return Ok(());
    }
    Err(EncodeError::new(format_args!(
        "the composed name of its type has {} bytes, but at most {TYPE_NAME_MAX} are allowed; wrap it in a type \
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
            Some(_) | None => Err(DecodeError::new("expected nil")),
        }
    }
}
