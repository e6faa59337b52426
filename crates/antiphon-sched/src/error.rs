//! The error types, one enum per boundary. A message that could not be sent comes back inside the error.

use std::fmt;

use thiserror::Error;

/// Why a message could not be sent. The message comes back; nothing was queued.
#[non_exhaustive]
pub enum SendError<M> {
    /// The actor has exited, or never existed.
    NoActor(M),
    /// The actor's mailbox is full, or others wait for room in it. After [`Cx::send`](crate::Cx::send) and
    /// [`Cx::try_send`](crate::Cx::try_send), [`Event::Writable`](crate::Event::Writable) follows.
    Full(M),
    /// Too many bytes wait for the actor, which is on another node. `Writable` follows as after `Full`.
    Busy(M),
    /// The actor receives messages of another type.
    WrongType(M),
    /// The actor's node cannot be reached from here.
    NoNode(M),
    /// The encoded message is larger than the limit of one message.
    TooLarge(M),
    /// The message could not be encoded.
    Encode(M, EncodeError),
}

impl<M> SendError<M> {
    /// The message that could not be sent.
    pub fn into_message(self) -> M {
        match self {
            Self::NoActor(m)
            | Self::Full(m)
            | Self::Busy(m)
            | Self::WrongType(m)
            | Self::NoNode(m)
            | Self::TooLarge(m)
            | Self::Encode(m, _) => m,
        }
    }

    /// The reason without the message.
    pub fn reason(&self) -> Undelivered {
        match self {
            Self::NoActor(_) => Undelivered::NoActor,
            Self::Full(_) => Undelivered::Full,
            Self::Busy(_) => Undelivered::Busy,
            Self::WrongType(_) => Undelivered::WrongType,
            Self::NoNode(_) => Undelivered::NoNode,
            Self::TooLarge(_) => Undelivered::TooLarge,
            Self::Encode(..) => Undelivered::Encode,
        }
    }

    /// The same error with another message: the result of `convert`.
    pub fn map<N>(self, convert: impl FnOnce(M) -> N) -> SendError<N> {
        match self {
            Self::NoActor(m) => SendError::NoActor(convert(m)),
            Self::Full(m) => SendError::Full(convert(m)),
            Self::Busy(m) => SendError::Busy(convert(m)),
            Self::WrongType(m) => SendError::WrongType(convert(m)),
            Self::NoNode(m) => SendError::NoNode(convert(m)),
            Self::TooLarge(m) => SendError::TooLarge(convert(m)),
            Self::Encode(m, reason) => SendError::Encode(convert(m), reason),
        }
    }
}

impl<M> fmt::Debug for SendError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.reason(), f)
    }
}

impl<M> fmt::Display for SendError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encode(_, reason) => write!(f, "the message {reason}; check its serde attributes"),
            _ => self.reason().fmt(f),
        }
    }
}

impl<M> std::error::Error for SendError<M> {}

/// Why something did not reach its receiver: [`SendError`] without the message.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum Undelivered {
    /// The actor has exited, or never existed.
    #[error("the actor has exited; locate it again, or monitor it to receive its `Down`")]
    NoActor,
    /// The actor's mailbox is full.
    #[error(
        "the actor's mailbox is full; continue at `Event::Writable`, or send requests and wait for the replies"
    )]
    Full,
    /// Too many bytes wait for the actor, which is on another node, or this node has too many open requests there.
    #[error(
        "too many bytes wait for the actor on its node, or too many requests for that node; continue at `Event::Writable`, or after replies arrive"
    )]
    Busy,
    /// The actor receives messages of another type.
    #[error("the actor receives messages of another type; check the type of the address")]
    WrongType,
    /// The actor's node cannot be reached from here.
    #[error(
        "the actor's node cannot be reached from here; check that this loop is part of a node, and that the node knows that peer"
    )]
    NoNode,
    /// The encoded message is larger than the limit of one message.
    #[error("the message is too large when encoded; send it in parts, or as a file")]
    TooLarge,
    /// The message could not be encoded, or the receiving node could not decode it.
    #[error("the message does not encode or decode; check its serde attributes on both sides")]
    Encode,
    /// Code that should pass the message on dropped it: the transform of a channel panicked, or the message came through
    /// too many channels.
    #[error("the code that should pass the message on dropped it; see the log")]
    Dropped,
}

/// Why a request has no reply. It is final: no reply follows.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum AskError {
    /// No reply arrived before the timeout. The actor may have received the request.
    #[error("no reply before the timeout; the actor may have received the request")]
    TimedOut,
    /// The actor dropped the `ReplyTo` without a reply, or exited.
    #[error("the request was dropped without a reply; make every path of the actor reply")]
    Dropped,
    /// The request was not sent: the actor has exited, or never existed.
    #[error("the actor has exited; locate it again")]
    NoActor,
    /// The actor did not receive the request: its mailbox or the loop's inbox is full, or its node held the request back
    /// until the timeout.
    #[error("the mailbox or inbox is full; send fewer requests at once")]
    Full,
    /// The actor did not receive the request, because too many bytes wait for it on its node, or this node has too many
    /// open requests there. Or the reply did not fit: too many bytes of replies wait.
    #[error(
        "too many bytes wait for the actor or in replies, or too many requests for its node; ask again after other replies arrive"
    )]
    Busy,
    /// The request was not sent: the actor receives messages of another type, or encoding the request failed.
    #[error("the request does not fit the actor; check the types on both sides")]
    WrongType,
    /// The actor's node cannot be reached, or was lost before the reply arrived.
    #[error(
        "the actor's node cannot be reached, or was lost before it replied; wait until it is Online again"
    )]
    NodeLost,
    /// The requesting actor has 65,535 open requests.
    #[error("too many open requests; wait for replies before sending more")]
    TooManyOpen,
    /// The loop has ended, or a blocking call was made on the loop's own thread.
    #[error("the loop cannot reply: it has ended, or this is its own thread, which must not block")]
    NoLoop,
}

impl From<Undelivered> for AskError {
    fn from(reason: Undelivered) -> Self {
        match reason {
            Undelivered::NoActor => Self::NoActor,
            Undelivered::Full => Self::Full,
            Undelivered::Busy => Self::Busy,
            Undelivered::WrongType | Undelivered::TooLarge | Undelivered::Encode => Self::WrongType,
            Undelivered::NoNode => Self::NodeLost,
            Undelivered::Dropped => Self::Dropped,
        }
    }
}

/// Why a thread that waited for an actor to exit got no exit value.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The actor did not exit before the timeout.
    #[error("the actor did not exit before the timeout; it is still running")]
    TimedOut,
    /// The actor exited without an exit value; the text is its exit reason.
    #[error("the actor exited without a value: {0}")]
    NoValue(String),
    /// The exit value has another type, or cannot be read.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// The loop has ended, or this is its own thread.
    #[error("the loop cannot reply: it has ended, or this is its own thread, which must not block")]
    NoLoop,
    /// The loop's inbox is full; the call had no effect.
    #[error("the loop's inbox is full; try again later")]
    Full,
}

/// Why a value cannot be read as the requested type.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ValueError {
    /// The value has another type.
    #[error("the value is {found}, not {wanted}; read it as {found}")]
    WrongType {
        /// The requested type.
        wanted: String,
        /// The type of the value.
        found: String,
    },
    /// The type name matches, but the bytes do not decode.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The actor on another node exited with `exit_local`, whose value is not sent to other nodes.
    #[error("the value did not cross the wire; let the actor exit with `exit` instead of `exit_local`")]
    Opaque,
}

/// Why a value could not be encoded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("cannot be encoded: {reason}")]
pub struct EncodeError {
    reason: String,
}

impl EncodeError {
    /// Makes an error with the text of `reason`.
    pub fn new(reason: impl fmt::Display) -> Self {
        Self { reason: reason.to_string() }
    }
}

/// Why bytes could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("cannot be decoded: {reason}")]
pub struct DecodeError {
    reason: String,
}

impl DecodeError {
    /// Makes an error with the text of `reason`.
    pub fn new(reason: impl fmt::Display) -> Self {
        Self { reason: reason.to_string() }
    }
}

/// Why a blocking job returned no value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JobError {
    /// The queue of the blocking pool is full; the job did not run.
    #[error("the queue of the blocking pool is full; run fewer jobs at once, or raise `blocking_queue_max`")]
    Full,
    /// The actor has too many open requests; the job did not run.
    #[error("too many open requests; wait for replies first")]
    TooManyOpen,
    /// The job panicked, with this text.
    #[error("the job panicked: {0}")]
    Panicked(String),
    /// The blocking pool could not start its first thread; the job did not run.
    #[error("no thread of the blocking pool could be started; raise the thread limit of this process")]
    NoThread,
}
