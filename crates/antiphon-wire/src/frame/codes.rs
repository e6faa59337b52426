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
    /// The outcome of a message that requested a receipt.
    Outcome {
        /// The message is in the mailbox.
        Delivered = 0,
        /// The actor does not exist, or has exited.
        NoActor = 1,
        /// The mailbox stayed full for as long as the backlog keeps such a message.
        Full = 2,
        /// The actor accepts another type, or the body is not of the type that its tag names.
        WrongType = 3,
        /// The sender's node has reached its limit of open requests here.
        Busy = 4,
    }
    /// Why a request gets no reply.
    ReplyDroppedReason {
        /// The last `ReplyTo` of the request was dropped unused.
        Dropped = 0,
        /// The reply did not fit the bytes that a node reserves for replies.
        Busy = 1,
    }
    /// Why a connection closes.
    CloseReason {
        /// A newer connection continues the session.
        Superseded = 0,
        /// Both sides agreed that nothing is open; the session stays.
        Idle = 1,
        /// The node shuts down; the session is over.
        Leaving = 2,
        /// The peer broke the protocol; the session is over.
        Misbehaved = 3,
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
        /// A node.
        Node = 3,
        /// A service actor of a node.
        Service = 4,
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
        }
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
            value => return Err(Malformed::Unknown { field: "DownReason", value: value.into() }),
        })
    }

    fn tag(&self) -> Option<TagId> {
        match self {
            DownReason::Done(value) => value.map(|(tag, _)| tag),
            DownReason::Failed(_)
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
