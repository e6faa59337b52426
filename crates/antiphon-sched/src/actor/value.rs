//! Values of any type that actors exit with, are resumed with, or throw. All receivers share one value.
//!
//! Invariant: a value that can cross the wire holds its encoder from the moment it is made.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;

use crate::error::{EncodeError, ValueError};
use crate::id::NodeId;
use crate::remote::{EncodeMode, EncodedValue, MESSAGE_BYTES_MAX, Wire, codec_context};

/// A value of a type that its sender and receiver agree on. Clones share it.
#[derive(Clone)]
pub struct Value {
    /// `None` is `()`, the exit value of `stop`. One pointer, so that events with a value stay small.
    content: Option<Box<ValueContent>>,
}

#[derive(Clone)]
enum ValueContent {
    Local {
        value: Rc<dyn Any>,
        type_name: &'static str,
        encode: Option<Encoder>,
    },
    /// A value of another node.
    Received(EncodedValue),
}

#[derive(Copy, Clone)]
struct Encoder {
    tag: fn() -> Cow<'static, str>,
    /// Whether the encoder keeps to the limits of a body.
    is_checked: bool,
    encode: fn(&dyn Any, &mut Vec<u8>) -> Result<(), EncodeError>,
}

impl ValueContent {
    fn new<T: Wire>(value: T) -> Self {
        let encoder = Encoder { tag: T::name, is_checked: T::IS_CHECKED, encode: encode_any::<T> };
        Self::Local { value: Rc::new(value), type_name: std::any::type_name::<T>(), encode: Some(encoder) }
    }
}

impl Value {
    /// Makes a value that can be read on this and on other nodes.
    pub fn new<T: Wire>(value: T) -> Self {
        Self::of(ValueContent::new(value))
    }

    /// Makes a value that can be read on this node only.
    pub fn local<T: Any>(value: T) -> Self {
        let type_name = std::any::type_name::<T>();
        Self::of(ValueContent::Local { value: Rc::new(value), type_name, encode: None })
    }

    /// The value `()`.
    pub(crate) const fn unit() -> Self {
        Self { content: None }
    }

    fn of(content: ValueContent) -> Self {
        Self { content: Some(Box::new(content)) }
    }

    fn into_content(self) -> ValueContent {
        self.content.map_or_else(|| ValueContent::new(()), |content| *content)
    }

    /// Whether the encoding of the value keeps to the limits of a body.
    pub(crate) fn is_checked(&self) -> bool {
        match self.content.as_deref() {
            None => true,
            Some(ValueContent::Local { encode, .. }) => encode.is_some_and(|encoder| encoder.is_checked),
            Some(ValueContent::Received(_)) => false,
        }
    }

    /// Reads the value; it may come from any node.
    ///
    /// # Errors
    /// The value is of another type, does not decode, could not be sent to this node, or is opaque.
    pub fn get<T: Wire>(self) -> Result<T, ValueError> {
        let (type_name, body) = match self.into_content() {
            ValueContent::Local { value, type_name, encode } => match value.downcast::<T>() {
                Ok(value) => match Rc::try_unwrap(value) {
                    Ok(value) => return Ok(value),
                    Err(shared) => return copy_of(&*shared),
                },
                Err(_) => {
                    let found = encode.map_or(Cow::Borrowed(type_name), |encoder| (encoder.tag)());
                    return Err(wrong_type::<T>(&found));
                }
            },
            ValueContent::Received(EncodedValue::Bytes { type_name, body, .. }) => (type_name, body),
            ValueContent::Received(EncodedValue::Opaque) => return Err(ValueError::Opaque),
            ValueContent::Received(EncodedValue::NotSent(reason)) => return Err(ValueError::NotSent(reason)),
        };
        if *type_name != *T::name() {
            return Err(wrong_type::<T>(&type_name));
        }
        T::decode_all(&body).map_err(ValueError::Decode)
    }

    /// Reads a value of this node without copying it.
    ///
    /// # Errors
    /// The value is of another type, or came from another node.
    pub fn get_local<T: Any>(self) -> Result<Rc<T>, ValueError> {
        match self.into_content() {
            ValueContent::Local { value, type_name, .. } => value.downcast::<T>().map_err(|_| {
                ValueError::WrongType { expected: std::any::type_name::<T>().into(), found: type_name.into() }
            }),
            ValueContent::Received(EncodedValue::NotSent(reason)) => Err(ValueError::NotSent(reason)),
            ValueContent::Received(EncodedValue::Bytes { .. } | EncodedValue::Opaque) => {
                Err(ValueError::Opaque)
            }
        }
    }

    /// Appends the value's bytes to `out`, and returns the name of its type; `None` for a local or opaque value, and for one
    /// that could not be sent.
    ///
    /// # Errors
    /// The encoder of the value failed; `out` then holds the bytes that it wrote before.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<Option<Cow<'_, str>>, EncodeError> {
        let Some(content) = &self.content else {
            ().encode(out)?;
            return Ok(Some(<()>::name()));
        };
        match &**content {
            ValueContent::Local { encode: None, .. } => Ok(None),
            ValueContent::Local { value, encode: Some(encoder), .. } => {
                (encoder.encode)(&**value, out)?;
                Ok(Some((encoder.tag)()))
            }
            ValueContent::Received(EncodedValue::Bytes { type_name, body, .. }) => {
                out.extend_from_slice(body);
                Ok(Some(Cow::Borrowed(type_name)))
            }
            ValueContent::Received(EncodedValue::Opaque | EncodedValue::NotSent(_)) => Ok(None),
        }
    }
}

/// The value as an actor of this node receives it.
impl From<EncodedValue> for Value {
    fn from(value: EncodedValue) -> Self {
        Self::of(ValueContent::Received(value))
    }
}

fn encode_any<T: Wire>(value: &dyn Any, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let value = value.downcast_ref::<T>().expect("the encoder was made with the value");
    value.encode(out)
}

fn copy_of<T: Wire>(shared: &T) -> Result<T, ValueError> {
    let mut bytes = Vec::new();
    // Addresses in it need a codec context; it is of no loop, since the copy stays on this node.
    let no_node = NodeId::from_bits(0);
    let (encoded, _) =
        codec_context::encode_with_context(no_node, MESSAGE_BYTES_MAX, EncodeMode::Value, || {
            shared.encode(&mut bytes)
        });
    encoded.map_err(|reason| ValueError::NotSent(reason.into()))?;
    T::decode_all(&bytes).map_err(ValueError::Decode)
}

fn wrong_type<T: Wire>(found: &str) -> ValueError {
    ValueError::WrongType { expected: T::name().into_owned(), found: found.to_owned() }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.content.as_deref() {
            None => f.write_str("Value(())"),
            Some(ValueContent::Local { type_name, .. }) => write!(f, "Value({type_name})"),
            Some(ValueContent::Received(EncodedValue::Opaque)) => f.write_str("Value(opaque)"),
            Some(ValueContent::Received(EncodedValue::NotSent(reason))) => {
                write!(f, "Value(not sent: {reason})")
            }
            Some(ValueContent::Received(EncodedValue::Bytes { type_name, body, .. })) => {
                write!(f, "Value({type_name}, {} bytes)", body.len())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_value_is_encoded_as_nil() {
        for value in [Value::unit(), Value::new(())] {
            let mut body = Vec::new();
            assert_eq!(value.encode(&mut body).as_ref().map(Option::as_deref), Ok(Some("()")));
            assert!(Value::from(EncodedValue::new("()", &body)).get::<()>().is_ok());
            assert_eq!(body, [0xc0]);
        }
    }
}
