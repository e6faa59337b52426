//! Values that an actor ends with, or is resumed with: of any type, shared by those who are told.
//!
//! Invariant: a value that can cross the wire knows how, from the moment it is made.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;

use crate::codec_context::{self, EncodeMode};
use crate::error::{DecodeError, EncodeError, ValueError};
use crate::id::NodeId;
use crate::wire::Wire;

/// A value of a type known to giver and taker. Cloning shares it.
#[derive(Clone)]
pub struct Value {
    /// `None` is `()`, what a plain `stop` ends with. One pointer: events that carry a value stay small.
    held: Option<Box<Held>>,
}

#[derive(Clone)]
enum Held {
    Local {
        value: Rc<dyn Any>,
        type_name: &'static str,
        encode: Option<Encoder>,
    },
    Encoded {
        tag: Rc<str>,
        body: Rc<[u8]>,
        nodes: Rc<[NodeId]>,
    },
    /// Given by `exit_local`, elsewhere.
    Opaque,
}

#[derive(Copy, Clone)]
struct Encoder {
    tag: fn() -> Cow<'static, str>,
    encode: fn(&dyn Any, &mut Vec<u8>) -> Result<(), EncodeError>,
}

impl Held {
    fn new<T: Wire>(value: T) -> Self {
        let encoder = Encoder { tag: T::name, encode: encode_any::<T> };
        Self::Local { value: Rc::new(value), type_name: std::any::type_name::<T>(), encode: Some(encoder) }
    }
}

impl Value {
    /// A value that can be read here and on other nodes.
    pub fn new<T: Wire>(value: T) -> Self {
        Self::of(Held::new(value))
    }

    /// A value that can be read on this node only.
    pub fn local<T: Any>(value: T) -> Self {
        let type_name = std::any::type_name::<T>();
        Self::of(Held::Local { value: Rc::new(value), type_name, encode: None })
    }

    /// The value `()`.
    pub(crate) const fn unit() -> Self {
        Self { held: None }
    }

    fn of(held: Held) -> Self {
        Self { held: Some(Box::new(held)) }
    }

    fn into_held(self) -> Held {
        self.held.map_or_else(|| Held::new(()), |held| *held)
    }

    /// A value as it came over the wire: the name of its type, and its bytes.
    pub fn encoded(tag: &str, body: &[u8]) -> Self {
        Self::travelling(tag, body, &[])
    }

    /// An encoded value, with the nodes that addresses in it name.
    pub(crate) fn travelling(tag: &str, body: &[u8], nodes: &[NodeId]) -> Self {
        Self::of(Held::Encoded { tag: tag.into(), body: body.into(), nodes: nodes.into() })
    }

    /// A value that could not cross the wire.
    pub fn opaque() -> Self {
        Self::of(Held::Opaque)
    }

    /// The name and the bytes of an encoded value, and the nodes that addresses in it name; `None` for any
    /// other.
    pub fn as_encoded(&self) -> Option<(&str, &[u8], &[NodeId])> {
        match self.held.as_deref()? {
            Held::Encoded { tag, body, nodes } => Some((tag, body, nodes)),
            Held::Local { .. } | Held::Opaque => None,
        }
    }

    /// Reads the value, from whichever node it came.
    ///
    /// # Errors
    /// It is of another type, or does not decode.
    pub fn get<T: Wire>(self) -> Result<T, ValueError> {
        let (tag, body) = match self.into_held() {
            Held::Local { value, type_name, encode } => match value.downcast::<T>() {
                Ok(value) => match Rc::try_unwrap(value) {
                    Ok(value) => return Ok(value),
                    Err(shared) => return copy_of(&*shared),
                },
                Err(_) => {
                    let found = encode.map_or(Cow::Borrowed(type_name), |known| (known.tag)());
                    return Err(wrong_type::<T>(&found));
                }
            },
            Held::Encoded { tag, body, .. } => (tag, body),
            Held::Opaque => return Err(ValueError::Opaque),
        };
        if *tag != *T::name() {
            return Err(wrong_type::<T>(&tag));
        }
        T::decode_all(&body).map_err(ValueError::Decode)
    }

    /// Reads the value without copying it; only values of this node can be.
    ///
    /// # Errors
    /// It is of another type, or came from another node.
    pub fn get_local<T: Any>(self) -> Result<Rc<T>, ValueError> {
        match self.into_held() {
            Held::Local { value, type_name, .. } => value.downcast::<T>().map_err(|_| {
                ValueError::WrongType { wanted: std::any::type_name::<T>().into(), found: type_name.into() }
            }),
            Held::Encoded { .. } | Held::Opaque => Err(ValueError::Opaque),
        }
    }

    /// Appends the value's bytes to `out`, and answers the name of its type; `None` for a local one.
    ///
    /// # Errors
    /// The value's own encoding failed; `out` then holds what it wrote before.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<Option<Cow<'_, str>>, EncodeError> {
        let Some(held) = &self.held else { return Ok(Some(<()>::name())) };
        match &**held {
            Held::Local { encode: None, .. } | Held::Opaque => Ok(None),
            Held::Local { value, encode: Some(known), .. } => {
                (known.encode)(&**value, out)?;
                Ok(Some((known.tag)()))
            }
            Held::Encoded { tag, body, .. } => {
                out.extend_from_slice(body);
                Ok(Some(Cow::Borrowed(tag)))
            }
        }
    }
}

fn encode_any<T: Wire>(value: &dyn Any, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let value = value.downcast_ref::<T>().expect("the encoder was made with the value");
    value.encode(out)
}

fn copy_of<T: Wire>(shared: &T) -> Result<T, ValueError> {
    let mut bytes = Vec::new();
    // Addresses in it need a scope; that of no loop, since the copy stays on this node.
    let nobody = NodeId::from_bits(0);
    let (encoded, _) =
        codec_context::encode_with_context(nobody, EncodeMode::Value, || shared.encode(&mut bytes));
    encoded.map_err(|reason| ValueError::Decode(DecodeError::new(reason)))?;
    T::decode_all(&bytes).map_err(ValueError::Decode)
}

fn wrong_type<T: Wire>(found: &str) -> ValueError {
    ValueError::WrongType { wanted: T::name().into_owned(), found: found.to_owned() }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.held.as_deref() {
            None => f.write_str("Value(())"),
            Some(Held::Local { type_name, .. }) => write!(f, "Value({type_name})"),
            Some(Held::Opaque) => f.write_str("Value(opaque)"),
            Some(Held::Encoded { tag, body, .. }) => write!(f, "Value({tag}, {} bytes)", body.len()),
        }
    }
}
