//! The small enumerations inside frames.

use crate::bytes::{Field, Malformed, Reader};
use crate::ids::{Key, TagId};

/// Declares an enumeration of one byte.
macro_rules! codes {
    ($(
        $(#[$doc:meta])*
        $name:ident { $( $(#[$code_doc:meta])* $code:ident = $value:literal, )* }
    )*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $( $(#[$code_doc])* $code = $value, )*
        }

        impl<'a> Field<'a> for $name {
            fn size(&self) -> usize {
                1
            }

            fn put(&self, out: &mut Vec<u8>) {
                out.push(*self as u8);
            }

            fn take(reader: &mut Reader<'a>) -> Result<$name, Malformed> {
                match u8::take(reader)? {
                    $( $value => Ok($name::$code), )*
                    value => Err(Malformed::Unknown { field: stringify!($name), value: value.into() }),
                }
            }
        }
    )*};
}

codes! {
    /// Why a connection closes.
    CloseReason {
        /// Both sides agreed that nothing is open; the session stays.
        Idle = 0,
        /// The receiver of this reason broke the protocol; the session is over.
        Misbehaved = 1,
    }
    /// Why a session ends.
    GoodbyeReason {
        /// The node shuts down.
        Leaving = 0,
        /// The user of the node disconnected this peer.
        Closed = 1,
        /// The user of the node ignores this peer.
        Ignored = 2,
    }
    /// The kind of a name.
    NameSpace {
        /// An actor.
        Actor = 0,
        /// A channel.
        Channel = 1,
        /// A function that peers may call.
        Rci = 2,
        /// A service actor of a node.
        Service = 4,
    }
}

/// The outcome of a message that requested a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// The message is in the mailbox.
    Delivered,
    /// The actor does not exist, or has exited.
    NoActor,
    /// The mailbox stayed full for as long as the backlog keeps such a message.
    Full,
    /// The message itself is at fault.
    Payload(PayloadFault<'a>),
    /// The sender's node has reached its limit of open requests here.
    Busy,
}

impl<'a> Field<'a> for Outcome<'a> {
    fn size(&self) -> usize {
        match self {
            Outcome::Payload(fault) => 1 + fault.size(),
            Outcome::Delivered | Outcome::NoActor | Outcome::Full | Outcome::Busy => 1,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Outcome::Delivered => out.push(0),
            Outcome::NoActor => out.push(1),
            Outcome::Full => out.push(2),
            Outcome::Payload(fault) => {
                out.push(3);
                fault.put(out);
            }
            Outcome::Busy => out.push(4),
        }
    }

    fn fits(&self) -> bool {
        match self {
            Outcome::Payload(fault) => fault.fits(),
            Outcome::Delivered | Outcome::NoActor | Outcome::Full | Outcome::Busy => true,
        }
    }

    fn take(reader: &mut Reader<'a>) -> Result<Outcome<'a>, Malformed> {
        Ok(match u8::take(reader)? {
            0 => Outcome::Delivered,
            1 => Outcome::NoActor,
            2 => Outcome::Full,
            3 => Outcome::Payload(PayloadFault::take(reader)?),
            4 => Outcome::Busy,
            value => return Err(Malformed::Unknown { field: "Outcome", value: value.into() }),
        })
    }
}

/// Why a request gets no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyDroppedReason<'a> {
    /// The last `ReplyTo` of the request was dropped unused.
    Dropped,
    /// The reply did not fit the bytes that a node reserves for replies.
    Busy,
    /// The reply itself is at fault.
    Payload(PayloadFault<'a>),
}

impl<'a> Field<'a> for ReplyDroppedReason<'a> {
    fn size(&self) -> usize {
        match self {
            ReplyDroppedReason::Payload(fault) => 1 + fault.size(),
            ReplyDroppedReason::Dropped | ReplyDroppedReason::Busy => 1,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            ReplyDroppedReason::Dropped => out.push(0),
            ReplyDroppedReason::Busy => out.push(1),
            ReplyDroppedReason::Payload(fault) => {
                out.push(2);
                fault.put(out);
            }
        }
    }

    fn fits(&self) -> bool {
        match self {
            ReplyDroppedReason::Payload(fault) => fault.fits(),
            ReplyDroppedReason::Dropped | ReplyDroppedReason::Busy => true,
        }
    }

    fn take(reader: &mut Reader<'a>) -> Result<ReplyDroppedReason<'a>, Malformed> {
        Ok(match u8::take(reader)? {
            0 => ReplyDroppedReason::Dropped,
            1 => ReplyDroppedReason::Busy,
            2 => ReplyDroppedReason::Payload(PayloadFault::take(reader)?),
            value => return Err(Malformed::Unknown { field: "ReplyDroppedReason", value: value.into() }),
        })
    }
}

/// Why a message, a reply or a value was refused for what it is.
///
/// In bytes: a code (u8), then the fields in their order. Texts have a length (u16) each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadFault<'a> {
    /// Code 0: more bytes than a message may have.
    TooLarge {
        /// Its encoded size.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// Code 1: more values than a message may have.
    TooManyValues {
        /// The limit.
        max: u64,
        /// The type, and the place in it.
        place: &'a str,
    },
    /// Code 2: arrays and maps are nested too deep.
    TooDeep {
        /// The limit.
        max: u64,
        /// The type, and the place in it.
        place: &'a str,
    },
    /// Code 3: it could not be encoded.
    Encode(&'a str),
    /// Code 4: it could not be decoded.
    Decode(&'a str),
    /// Code 5: the receiver takes another type.
    WrongType {
        /// The type that the receiver takes.
        expected: &'a str,
        /// The type that it got.
        found: &'a str,
    },
}

impl<'a> Field<'a> for PayloadFault<'a> {
    fn size(&self) -> usize {
        1 + match self {
            PayloadFault::TooLarge { bytes, max } => bytes.size() + max.size(),
            PayloadFault::TooManyValues { max, place } | PayloadFault::TooDeep { max, place } => {
                max.size() + place.size()
            }
            PayloadFault::Encode(reason) | PayloadFault::Decode(reason) => reason.size(),
            PayloadFault::WrongType { expected, found } => expected.size() + found.size(),
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            PayloadFault::TooLarge { bytes, max } => {
                out.push(0);
                bytes.put(out);
                max.put(out);
            }
            PayloadFault::TooManyValues { max, place } => {
                out.push(1);
                max.put(out);
                place.put(out);
            }
            PayloadFault::TooDeep { max, place } => {
                out.push(2);
                max.put(out);
                place.put(out);
            }
            PayloadFault::Encode(reason) => {
                out.push(3);
                reason.put(out);
            }
            PayloadFault::Decode(reason) => {
                out.push(4);
                reason.put(out);
            }
            PayloadFault::WrongType { expected, found } => {
                out.push(5);
                expected.put(out);
                found.put(out);
            }
        }
    }

    fn fits(&self) -> bool {
        match self {
            PayloadFault::TooLarge { .. } => true,
            PayloadFault::TooManyValues { place: text, .. }
            | PayloadFault::TooDeep { place: text, .. }
            | PayloadFault::Encode(text)
            | PayloadFault::Decode(text) => text.fits(),
            PayloadFault::WrongType { expected, found } => expected.fits() && found.fits(),
        }
    }

    fn take(reader: &mut Reader<'a>) -> Result<PayloadFault<'a>, Malformed> {
        Ok(match u8::take(reader)? {
            0 => PayloadFault::TooLarge { bytes: u64::take(reader)?, max: u64::take(reader)? },
            1 => PayloadFault::TooManyValues { max: u64::take(reader)?, place: <&str>::take(reader)? },
            2 => PayloadFault::TooDeep { max: u64::take(reader)?, place: <&str>::take(reader)? },
            3 => PayloadFault::Encode(<&str>::take(reader)?),
            4 => PayloadFault::Decode(<&str>::take(reader)?),
            5 => PayloadFault::WrongType { expected: <&str>::take(reader)?, found: <&str>::take(reader)? },
            value => return Err(Malformed::Unknown { field: "PayloadFault", value: value.into() }),
        })
    }
}

/// The position of a fragment in its large frame.
///
/// In bytes: 0, then the kind of the large frame (u8) and the length of its payload (u32); or only 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FragmentPart {
    /// The first part.
    First {
        /// The large frame's kind: a numbered one, and not [`Fragment`](crate::frame::Fragment).
        kind: u8,
        /// Bytes of the large frame's payload.
        total: u32,
    },
    /// A later part.
    Next,
}

impl<'a> Field<'a> for FragmentPart {
    fn size(&self) -> usize {
        match self {
            FragmentPart::First { .. } => 6,
            FragmentPart::Next => 1,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            FragmentPart::First { kind, total } => {
                out.push(0);
                kind.put(out);
                total.put(out);
            }
            FragmentPart::Next => out.push(1),
        }
    }

    fn take(reader: &mut Reader<'a>) -> Result<FragmentPart, Malformed> {
        match u8::take(reader)? {
            0 => Ok(FragmentPart::First { kind: u8::take(reader)?, total: u32::take(reader)? }),
            1 => Ok(FragmentPart::Next),
            value => Err(Malformed::Unknown { field: "FragmentPart", value: value.into() }),
        }
    }
}

/// Why an actor exited, as a `Down` frame reports it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DownReason<'a> {
    /// The actor stopped; with its exit value, if the watcher can decode that.
    Done(Option<(TagId, &'a [u8])>),
    /// The actor stopped, and its exit value is at fault.
    DoneNotSent(PayloadFault<'a>),
    /// The actor failed with this text.
    Failed(&'a str),
    /// The actor panicked with this text.
    Panicked(&'a str),
    /// The actor was terminated.
    Terminated,
    /// The actor's node was lost.
    NodeLost,
    /// The actor did not exist.
    NoActor,
    /// The watcher's node has reached its limit of monitors here.
    Refused,
    /// The watcher was a subscriber that did not keep up with its channel, and its subscription ends in that case.
    Lagged,
}

impl<'a> Field<'a> for DownReason<'a> {
    fn size(&self) -> usize {
        match self {
            DownReason::Done(Some((tag, body))) => 1 + tag.size() + body.len(),
            DownReason::DoneNotSent(fault) => 1 + fault.size(),
            DownReason::Failed(text) | DownReason::Panicked(text) => 1 + text.len(),
            DownReason::Done(None)
            | DownReason::Terminated
            | DownReason::NodeLost
            | DownReason::NoActor
            | DownReason::Refused
            | DownReason::Lagged => 1,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            DownReason::Done(None) => out.push(0),
            DownReason::Done(Some((tag, body))) => {
                out.push(1);
                tag.put(out);
                body.put(out);
            }
            DownReason::Failed(text) => {
                out.push(2);
                text.as_bytes().put(out);
            }
            DownReason::Panicked(text) => {
                out.push(3);
                text.as_bytes().put(out);
            }
            DownReason::Terminated => out.push(4),
            DownReason::NodeLost => out.push(5),
            DownReason::NoActor => out.push(6),
            DownReason::Refused => out.push(7),
            DownReason::Lagged => out.push(8),
            DownReason::DoneNotSent(fault) => {
                out.push(9);
                fault.put(out);
            }
        }
    }

    fn fits(&self) -> bool {
        !matches!(self, DownReason::DoneNotSent(fault) if !fault.fits())
    }

    fn take(reader: &mut Reader<'a>) -> Result<DownReason<'a>, Malformed> {
        Ok(match u8::take(reader)? {
            0 => DownReason::Done(None),
            1 => DownReason::Done(Some((TagId::take(reader)?, reader.rest()))),
            2 => DownReason::Failed(rest_of_text(reader)?),
            3 => DownReason::Panicked(rest_of_text(reader)?),
            4 => DownReason::Terminated,
            5 => DownReason::NodeLost,
            6 => DownReason::NoActor,
            7 => DownReason::Refused,
            8 => DownReason::Lagged,
            9 => DownReason::DoneNotSent(PayloadFault::take(reader)?),
            value => return Err(Malformed::Unknown { field: "DownReason", value: value.into() }),
        })
    }

    fn tag(&self) -> Option<TagId> {
        match self {
            DownReason::Done(value) => value.map(|(tag, _)| tag),
            DownReason::DoneNotSent(_)
            | DownReason::Failed(_)
            | DownReason::Panicked(_)
            | DownReason::Terminated
            | DownReason::NodeLost
            | DownReason::NoActor
            | DownReason::Refused
            | DownReason::Lagged => None,
        }
    }
}

/// The result of a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupResult {
    /// The name is registered for this actor.
    Found {
        /// The actor. A channel, an RCI and a service are also reached through an actor.
        key: Key,
        /// The type of the messages that the actor accepts.
        tag: TagId,
    },
    /// The peer has reached its limit of open lookups here.
    TooMany,
    /// The name is invalid.
    BadName,
}

impl<'a> Field<'a> for LookupResult {
    fn size(&self) -> usize {
        match self {
            LookupResult::Found { key, tag } => 1 + key.size() + tag.size(),
            LookupResult::TooMany | LookupResult::BadName => 1,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            LookupResult::Found { key, tag } => {
                out.push(0);
                key.put(out);
                tag.put(out);
            }
            LookupResult::TooMany => out.push(1),
            LookupResult::BadName => out.push(2),
        }
    }

    fn take(reader: &mut Reader<'a>) -> Result<LookupResult, Malformed> {
        match u8::take(reader)? {
            0 => Ok(LookupResult::Found { key: Key::take(reader)?, tag: TagId::take(reader)? }),
            1 => Ok(LookupResult::TooMany),
            2 => Ok(LookupResult::BadName),
            value => Err(Malformed::Unknown { field: "LookupResult", value: value.into() }),
        }
    }

    fn tag(&self) -> Option<TagId> {
        match self {
            LookupResult::Found { tag, .. } => Some(*tag),
            LookupResult::TooMany | LookupResult::BadName => None,
        }
    }
}

fn rest_of_text<'a>(reader: &mut Reader<'a>) -> Result<&'a str, Malformed> {
    std::str::from_utf8(reader.rest()).map_err(|_| Malformed::NotUtf8 { field: "text" })
}
