//! What can go wrong, one enum a boundary; a message that could not go comes back inside.

use std::fmt;

use thiserror::Error;

/// Why a message was not taken. It comes back; nothing was queued.
#[non_exhaustive]
pub enum SendError<M> {
    /// The actor has ended, or never was.
    NoActor(M),
    /// The actor's mailbox is full.
    Full(M),
    /// Too many bytes wait for the actor's node.
    Busy(M),
    /// The actor takes messages of another type.
    WrongType(M),
    /// The actor's node cannot be reached from here.
    NoNode(M),
    /// The encoded message is over the limit of a message.
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

    /// The same reason, with another message inside.
    pub fn map<N>(self, turn: impl FnOnce(M) -> N) -> SendError<N> {
        match self {
            Self::NoActor(m) => SendError::NoActor(turn(m)),
            Self::Full(m) => SendError::Full(turn(m)),
            Self::Busy(m) => SendError::Busy(turn(m)),
            Self::WrongType(m) => SendError::WrongType(turn(m)),
            Self::NoNode(m) => SendError::NoNode(turn(m)),
            Self::TooLarge(m) => SendError::TooLarge(turn(m)),
            Self::Encode(m, reason) => SendError::Encode(turn(m), reason),
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
            Self::Encode(_, reason) => write!(f, "{}: {reason}", self.reason()),
            _ => self.reason().fmt(f),
        }
    }
}

impl<M> std::error::Error for SendError<M> {}

/// Why something did not reach its receiver: [`SendError`] without the message.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum Undelivered {
    /// The actor has ended, or never was.
    #[error("the actor has ended; locate it again, or monitor it to be told")]
    NoActor,
    /// The actor's mailbox is full.
    #[error("the actor's mailbox is full; send less, or ask and wait for its answers")]
    Full,
    /// Too many bytes wait for the actor's node; or that node has as many open requests of this one as it takes.
    #[error(
        "too many bytes or requests wait at or for the actor's node; use `try_send` and go on at `Event::Writable`, or when answers have come"
    )]
    Busy,
    /// The actor takes messages of another type.
    #[error("the actor takes messages of another type; check the type of the address")]
    WrongType,
    /// The actor's node cannot be reached from here.
    #[error(
        "the actor's node cannot be reached from here; is this loop part of a node, and does it know that peer?"
    )]
    NoNode,
    /// The encoded message is over the limit of a message.
    #[error("the message is too large when encoded; send it in parts, or as a file")]
    TooLarge,
    /// The message could not be encoded, or not be decoded where it arrived.
    #[error("the message does not encode or decode; check its serde attributes on both sides")]
    Encode,
}

/// Why a request has no answer. Nothing else will come for it.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum AskError {
    /// No answer within the time given; the request may still have arrived.
    #[error("no answer in time; the request may still have arrived")]
    TimedOut,
    /// The other side dropped the reply without answering, or ended.
    #[error("the reply was dropped without an answer; does every path of that actor answer?")]
    Dropped,
    /// The request did not go: the actor has ended, or never was.
    #[error("the actor has ended; locate it again")]
    NoActor,
    /// The request did not go: the actor's mailbox is full, or the loop's inbox.
    #[error("the mailbox is full; ask less at once")]
    Full,
    /// The actor never had the request: too many bytes wait for its node, or that node has as many open requests of this
    /// one as it takes.
    #[error(
        "too many bytes or requests wait at or for the actor's node; go on at `Event::Writable`, or when answers have come"
    )]
    Busy,
    /// The request did not go: the actor takes messages of another type, or its encoding failed.
    #[error("the request does not fit the actor; check the types on both sides")]
    WrongType,
    /// The node of the actor cannot be reached, or was lost before it answered.
    #[error("the actor's node was lost; wait until it is Online again")]
    NodeLost,
    /// The asker has 65,535 open requests already.
    #[error("too many open requests; wait for answers before asking more")]
    TooManyOpen,
    /// The loop has ended, or a blocking call was made on the loop's own thread.
    #[error("the loop cannot answer: it has ended, or this is its own thread, which must not block")]
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
        }
    }
}

/// Why waiting for an actor's end, from another thread, told nothing.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The actor had not ended in time.
    #[error("the actor has not ended in time; it goes on")]
    TimedOut,
    /// The actor ended, but not with a value of that type.
    #[error("the actor ended without a value: {0}")]
    Ended(String),
    /// The actor's value is of another type.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// The loop has ended, or this is its own thread.
    #[error("the loop cannot answer: it has ended, or this is its own thread, which must not block")]
    NoLoop,
    /// The loop's inbox is full; nothing was asked.
    #[error("the loop's inbox is full; try again later")]
    Full,
}

/// Why a value cannot be read as asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ValueError {
    /// It is of another type.
    #[error("the value is {found}, not {wanted}; read it as what was given")]
    WrongType {
        /// What was asked for.
        wanted: String,
        /// What it is.
        found: String,
    },
    /// It has the right name, and yet does not decode.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// It was given by `exit_local`, and came from another node.
    #[error("the value did not cross the wire; let the actor end with `exit` instead of `exit_local`")]
    Opaque,
}

/// Why a value could not be encoded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("cannot be encoded: {reason}")]
pub struct EncodeError {
    reason: String,
}

impl EncodeError {
    /// An error with the reason that `reason` prints.
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
    /// An error with the reason that `reason` prints.
    pub fn new(reason: impl fmt::Display) -> Self {
        Self { reason: reason.to_string() }
    }
}

/// What became of a blocking job that gave no value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JobError {
    /// The queue of the helper threads is full; the job did not run.
    #[error("the queue of the helper threads is full; run fewer jobs at once, or raise `blocking_queue_max`")]
    Full,
    /// The asker has too many open requests; the job did not run.
    #[error("too many open requests; wait for answers first")]
    TooManyOpen,
    /// The job panicked, with this text.
    #[error("the job panicked: {0}")]
    Panicked(String),
    /// No helper thread could be started; the job did not run.
    #[error("no helper thread could be started; raise the limit of threads of this process")]
    NoThread,
}
