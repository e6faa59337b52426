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
    /// What became of a message.
    Outcome {
        /// It is in the mailbox.
        Delivered = 0,
        /// There is no such actor (any more).
        NoActor = 1,
        /// The mailbox took nothing for the time that such a message is parked.
        Full = 2,
        /// The actor takes another type, or the body is not of the type that its tag names.
        WrongType = 3,
    }
    /// Why a connection ends while its session goes on or has been ended.
    CloseReason {
        /// A newer connection of the session takes over.
        Superseded = 0,
        /// Both sides agreed that nothing is open.
        Idle = 1,
        /// The node leaves; the session is over.
        Leaving = 2,
        /// The peer broke the protocol; the session is over.
        Misbehaved = 3,
    }
    /// Why a session ends.
    GoodbyeReason {
        /// The node ends.
        Leaving = 0,
        /// The user closed this peer.
        Closed = 1,
        /// The user ignores this peer.
        Ignored = 2,
    }
    /// Which kind of name.
    NameSpace {
        /// An actor.
        Actor = 0,
        /// A channel.
        Channel = 1,
        /// A function that peers may call.
        Rci = 2,
        /// A node.
        Node = 3,
        /// What every node has, such as the keeper of its files.
        Service = 4,
    }
    /// What became of a subscription.
    SubscribeOutcome {
        /// The subscriber gets what is published from now on.
        Done = 0,
        /// There is no such channel (any more).
        NoChannel = 1,
        /// The channel carries another type.
        WrongType = 2,
        /// The subscription would close a circle of channels.
        Cycle = 3,
        /// The channel takes no more.
        Full = 4,
    }
    /// How a file's transfer or deletion ended.
    FileOutcome {
        /// Stored, or deleted.
        Done = 0,
        /// The same file is already there.
        Same = 1,
        /// Another file of that name is there, and `overwrite` was not set.
        Exists = 2,
        /// There is no such file.
        NotFound = 3,
        /// This node takes no files.
        NoFiles = 4,
        /// The name leads out of the folder, or is none.
        BadName = 5,
        /// The file is larger than this node takes.
        TooLarge = 6,
        /// The disk refused.
        Disk = 7,
        /// The bytes do not have the hash that was offered.
        Corrupt = 8,
        /// Given up by the frame's sender.
        Cancelled = 9,
        /// This file did not come by a transfer, so it is not deleted.
        NotOurs = 10,
        /// Too many transfers at a time.
        Busy = 11,
    }
}

/// Which part of a large frame: a byte 0, and the kind of the large frame (u8) and the bytes of its payload (u32); or a byte 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FragmentPart {
    /// The first part.
    First {
        /// The large frame's kind: numbered, and not a fragment.
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

/// How an actor ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DownWhy<'a> {
    /// It ended by itself; with a value if the watcher can read it.
    Done(Option<(TagId, &'a [u8])>),
    /// It failed, and says why.
    Failed(&'a str),
    /// It panicked with this text.
    Panicked(&'a str),
    /// It was terminated.
    Terminated,
    /// Its node was lost.
    NodeLost,
    /// There was no such actor.
    NoActor,
}

impl<'a> Field<'a> for DownWhy<'a> {
    fn size(&self) -> usize {
        match self {
            DownWhy::Done(Some((tag, body))) => 1 + tag.size() + body.len(),
            DownWhy::Failed(text) | DownWhy::Panicked(text) => 1 + text.len(),
            DownWhy::Done(None) | DownWhy::Terminated | DownWhy::NodeLost | DownWhy::NoActor => 1,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            DownWhy::Done(None) => out.push(0),
            DownWhy::Done(Some((tag, body))) => {
                out.push(1);
                tag.put(out);
                body.put(out);
            }
            DownWhy::Failed(text) => {
                out.push(2);
                text.as_bytes().put(out);
            }
            DownWhy::Panicked(text) => {
                out.push(3);
                text.as_bytes().put(out);
            }
            DownWhy::Terminated => out.push(4),
            DownWhy::NodeLost => out.push(5),
            DownWhy::NoActor => out.push(6),
        }
    }

    fn take(reader: &mut Reader<'a>) -> Result<DownWhy<'a>, Malformed> {
        Ok(match u8::take(reader)? {
            0 => DownWhy::Done(None),
            1 => DownWhy::Done(Some((TagId::take(reader)?, reader.rest()))),
            2 => DownWhy::Failed(rest_of_text(reader)?),
            3 => DownWhy::Panicked(rest_of_text(reader)?),
            4 => DownWhy::Terminated,
            5 => DownWhy::NodeLost,
            6 => DownWhy::NoActor,
            value => return Err(Malformed::Unknown { field: "DownWhy", value: value.into() }),
        })
    }

    fn tag(&self) -> Option<TagId> {
        match self {
            DownWhy::Done(value) => value.map(|(tag, _)| tag),
            DownWhy::Failed(_)
            | DownWhy::Panicked(_)
            | DownWhy::Terminated
            | DownWhy::NodeLost
            | DownWhy::NoActor => None,
        }
    }
}

/// What a want found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundWhat {
    /// The name stands for this, which takes this type (of a function: its arguments).
    Here {
        /// The actor, channel or function.
        key: Key,
        /// The type that it takes.
        tag: TagId,
        /// The type of the actor that a function starts.
        starts: Option<TagId>,
    },
    /// The node answers no more wants.
    TooMany,
    /// The name cannot be one.
    BadName,
}

impl<'a> Field<'a> for FoundWhat {
    fn size(&self) -> usize {
        match self {
            FoundWhat::Here { key, tag, starts } => 1 + key.size() + tag.size() + starts.size(),
            FoundWhat::TooMany | FoundWhat::BadName => 1,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            FoundWhat::Here { key, tag, starts } => {
                out.push(0);
                key.put(out);
                tag.put(out);
                starts.put(out);
            }
            FoundWhat::TooMany => out.push(1),
            FoundWhat::BadName => out.push(2),
        }
    }

    fn take(reader: &mut Reader<'a>) -> Result<FoundWhat, Malformed> {
        match u8::take(reader)? {
            0 => Ok(FoundWhat::Here {
                key: Key::take(reader)?,
                tag: TagId::take(reader)?,
                starts: Field::take(reader)?,
            }),
            1 => Ok(FoundWhat::TooMany),
            2 => Ok(FoundWhat::BadName),
            value => Err(Malformed::Unknown { field: "FoundWhat", value: value.into() }),
        }
    }

    /// The larger of its tags: tags are numbered densely, so if that one is known both are.
    fn tag(&self) -> Option<TagId> {
        match self {
            FoundWhat::Here { tag, starts, .. } => Some(starts.map_or(*tag, |starts| starts.max(*tag))),
            FoundWhat::TooMany | FoundWhat::BadName => None,
        }
    }
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallOutcome<'a> {
    /// The new actor.
    Started(Key),
    /// There is no such function (any more).
    NoFunction,
    /// The arguments are not what the function takes.
    WrongType,
    /// The caller has started as many actors as it may.
    OverQuota,
    /// The function failed, and says why.
    Failed(&'a str),
}

impl<'a> Field<'a> for CallOutcome<'a> {
    fn size(&self) -> usize {
        match self {
            CallOutcome::Started(key) => 1 + key.size(),
            CallOutcome::Failed(text) => 1 + text.len(),
            CallOutcome::NoFunction | CallOutcome::WrongType | CallOutcome::OverQuota => 1,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            CallOutcome::Started(key) => {
                out.push(0);
                key.put(out);
            }
            CallOutcome::NoFunction => out.push(1),
            CallOutcome::WrongType => out.push(2),
            CallOutcome::OverQuota => out.push(3),
            CallOutcome::Failed(text) => {
                out.push(4);
                text.as_bytes().put(out);
            }
        }
    }

    fn take(reader: &mut Reader<'a>) -> Result<CallOutcome<'a>, Malformed> {
        Ok(match u8::take(reader)? {
            0 => CallOutcome::Started(Key::take(reader)?),
            1 => CallOutcome::NoFunction,
            2 => CallOutcome::WrongType,
            3 => CallOutcome::OverQuota,
            4 => CallOutcome::Failed(rest_of_text(reader)?),
            value => return Err(Malformed::Unknown { field: "CallOutcome", value: value.into() }),
        })
    }
}

/// What tells two versions of a file apart without reading them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStamp {
    /// Bytes.
    pub size: u64,
    /// Last modification, in nanoseconds since 1970; before it: 0.
    pub modified_nanos: u64,
    /// Permission bits as in POSIX, without special ones.
    pub mode: u32,
}

impl<'a> Field<'a> for FileStamp {
    fn size(&self) -> usize {
        20
    }

    fn put(&self, out: &mut Vec<u8>) {
        self.size.put(out);
        self.modified_nanos.put(out);
        self.mode.put(out);
    }

    fn take(reader: &mut Reader<'a>) -> Result<FileStamp, Malformed> {
        Ok(FileStamp {
            size: u64::take(reader)?,
            modified_nanos: u64::take(reader)?,
            mode: u32::take(reader)?,
        })
    }
}

fn rest_of_text<'a>(reader: &mut Reader<'a>) -> Result<&'a str, Malformed> {
    std::str::from_utf8(reader.rest()).map_err(|_| Malformed::NotUtf8 { field: "text" })
}
