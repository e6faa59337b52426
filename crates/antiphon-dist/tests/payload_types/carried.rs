//! A value of any type of the tables as one type, so that the paths are compiled once instead of once for each type.
//!
//! Invariant: [`Carried`] encodes and decodes by the [`Wire`] of the value's own type, and adds no byte. The threads of both
//! nodes know that type from [`expect`].

use std::any::Any;
use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use antiphon_sched::{DecodeError, EncodeError, Wire};

use crate::routes::Payload;

/// A value of the type that is carried at present.
pub(crate) struct Carried(Box<dyn Carry>);

impl Carried {
    pub(crate) fn new<T: Payload>(value: T) -> Self {
        Self(Box::new(value))
    }
}

trait Carry: Any + Send {
    fn encode_value(&self, out: &mut Vec<u8>) -> Result<(), EncodeError>;
    fn clone_value(&self) -> Box<dyn Carry>;
    fn is_equal(&self, other: &dyn Any) -> bool;
    fn debug_value(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

impl<T: Payload> Carry for T {
    fn encode_value(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.encode(out)
    }

    fn clone_value(&self) -> Box<dyn Carry> {
        Box::new(self.clone())
    }

    fn is_equal(&self, other: &dyn Any) -> bool {
        other.downcast_ref::<T>() == Some(self)
    }

    fn debug_value(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt(f)
    }
}

impl Clone for Carried {
    fn clone(&self) -> Self {
        Self(self.0.clone_value())
    }
}

impl PartialEq for Carried {
    fn eq(&self, other: &Self) -> bool {
        let other: &dyn Carry = &*other.0;
        self.0.is_equal(other)
    }
}

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.debug_value(f)
    }
}

/// The decoders of a type.
#[derive(Copy, Clone)]
pub(crate) struct Decoders {
    decode: fn(&mut &[u8]) -> Result<Carried, DecodeError>,
    decode_all: fn(&[u8]) -> Result<Carried, DecodeError>,
    decode_sound: fn(&[u8]) -> Result<Carried, DecodeError>,
}

impl Decoders {
    pub(crate) fn of<T: Payload>() -> Self {
        Self {
            decode: |from| T::decode(from).map(Carried::new),
            decode_all: |bytes| T::decode_all(bytes).map(Carried::new),
            decode_sound: |bytes| T::decode_sound(bytes).map(Carried::new),
        }
    }
}

thread_local! {
    static EXPECTED: Cell<Option<Decoders>> = const { Cell::new(None) };
}

/// Lets this thread decode values of a type.
pub(crate) fn expect(decoders: Decoders) {
    EXPECTED.set(Some(decoders));
}

fn expected() -> Decoders {
    EXPECTED.get().expect("the test has set the type on both nodes")
}

impl Wire for Carried {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("test.carried")
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.0.encode_value(out)
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        (expected().decode)(from)
    }

    fn decode_all(bytes: &[u8]) -> Result<Self, DecodeError> {
        (expected().decode_all)(bytes)
    }

    fn decode_sound(bytes: &[u8]) -> Result<Self, DecodeError> {
        (expected().decode_sound)(bytes)
    }
}
