//! The error types, one enum per boundary. A message that could not be sent comes back inside the error.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

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
    /// The actor's node cannot be reached from here.
    NoNode(M),
    /// The message itself is at fault: the actor takes another type, or the message cannot be encoded.
    Payload(M, PayloadError),
}

impl<M> SendError<M> {
    /// The error for a message that was not delivered.
    pub(crate) fn new(message: M, reason: Undelivered) -> Self {
        match reason {
            Undelivered::NoActor => Self::NoActor(message),
            Undelivered::Full => Self::Full(message),
            Undelivered::Busy => Self::Busy(message),
            Undelivered::NoNode
            | Undelivered::NodeRefused(_)
            | Undelivered::Dropped
            | Undelivered::Discarded => Self::NoNode(message),
            Undelivered::Payload(reason) => Self::Payload(message, reason),
        }
    }

    /// The error for a message to an actor that takes messages of the type `expected`.
    #[cold]
    pub(crate) fn refused_type(message: M, expected: &str) -> Self {
        Self::Payload(message, PayloadError::wrong_type(expected, std::any::type_name::<M>()))
    }

    /// The message that could not be sent.
    pub fn into_message(self) -> M {
        match self {
            Self::NoActor(m) | Self::Full(m) | Self::Busy(m) | Self::NoNode(m) | Self::Payload(m, _) => m,
        }
    }

    /// The reason without the message.
    pub fn reason(&self) -> Undelivered {
        match self {
            Self::NoActor(_) => Undelivered::NoActor,
            Self::Full(_) => Undelivered::Full,
            Self::Busy(_) => Undelivered::Busy,
            Self::NoNode(_) => Undelivered::NoNode,
            Self::Payload(_, reason) => Undelivered::Payload(reason.clone()),
        }
    }

    /// The same error with another message: the result of `convert`.
    pub fn map<N>(self, convert: impl FnOnce(M) -> N) -> SendError<N> {
        match self {
            Self::NoActor(m) => SendError::NoActor(convert(m)),
            Self::Full(m) => SendError::Full(convert(m)),
            Self::Busy(m) => SendError::Busy(convert(m)),
            Self::NoNode(m) => SendError::NoNode(convert(m)),
            Self::Payload(m, reason) => SendError::Payload(convert(m), reason),
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
        self.reason().fmt(f)
    }
}

impl<M> std::error::Error for SendError<M> {}

/// Why something did not reach its receiver: [`SendError`] without the message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Undelivered {
    /// The actor has exited, or never existed.
    #[error("the actor has exited; locate it again, or monitor it to receive its `Down`")]
    NoActor,
    /// The actor's mailbox is full.
    #[error(
        "the actor's mailbox is full; after `send` continue at `Event::Writable`, otherwise when replies or receipts arrive"
    )]
    Full,
    /// Too many bytes wait for the actor, which is on another node, or this node has too many open requests there.
    #[error(
        "too many bytes wait for the actor on its node, or too many requests for that node; after `send` continue at `Event::Writable`, otherwise when replies or receipts arrive"
    )]
    Busy,
    /// The actor's node cannot be reached from here.
    #[error(
        "the actor's node cannot be reached: it has left or was lost (see its peer status or the log), or it was never known here; check that this loop is part of a node"
    )]
    NoNode,
    /// One of the two nodes refuses the connection to the other, for this reason.
    #[error("the connection with the actor's node was refused: {0}")]
    NodeRefused(Arc<str>),
    /// The message itself is at fault: the actor takes another type, or the message does not encode or decode.
    #[error("the message was refused: {0}")]
    Payload(#[from] PayloadError),
    /// Code that should pass the message on dropped it: the transform of a channel panicked, or the message came through
    /// too many channels.
    #[error("the code that should pass the message on dropped it; see the log")]
    Dropped,
    /// The mailbox of the actor was full, and drops messages in that case.
    #[error(
        "the actor's mailbox was full, and drops messages when it is; give it a larger capacity, or let it refuse"
    )]
    Discarded,
}

/// Why a message, a reply or a value was refused for what it is. The same value is refused each time.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// It is larger than one message may be. `bytes` is its encoded size; if the encoding was stopped at the limit, what it
    /// would have had at least.
    #[error("it has {bytes} bytes when encoded, and {max} are allowed; send it in parts, or as a file")]
    TooLarge {
        /// Its encoded size.
        bytes: u64,
        /// The most bytes of one message.
        max: u64,
    },
    /// It holds too many values. Each key and each value of a map counts.
    #[error("{place} holds more than {max} values; use `Bytes` for bytes, or send it in parts")]
    TooManyValues {
        /// The most values of one message.
        max: u64,
        /// The type, and the place in it.
        place: Box<str>,
    },
    /// It is nested too deep.
    #[error(
        "{place} is nested deeper than {max} arrays and maps; flatten the type, for example to a list with indices"
    )]
    TooDeep {
        /// The deepest nesting of arrays and maps in one message.
        max: u64,
        /// The type, and the place in it.
        place: Box<str>,
    },
    /// It could not be encoded.
    #[error(transparent)]
    Encode(EncodeError),
    /// The receiver could not decode it.
    #[error(
        "{0}; check whether its type has changed under the same name, and its serde attributes on both sides"
    )]
    Decode(#[from] DecodeError),
    /// The receiver takes another type.
    #[error("the receiver takes `{expected}`, not `{found}`; check the types on both sides")]
    WrongType {
        /// The type that the receiver takes.
        expected: Box<str>,
        /// The type of the payload.
        found: Box<str>,
    },
}

impl PayloadError {
    pub(crate) fn wrong_type(expected: &str, found: &str) -> Self {
        Self::WrongType { expected: printable(expected).into(), found: printable(found).into() }
    }

    pub(crate) fn decode(reason: impl fmt::Display) -> Self {
        Self::Decode(DecodeError::new(reason))
    }
}

impl From<EncodeError> for PayloadError {
    fn from(error: EncodeError) -> Self {
        match error.cause {
            EncodeCause::TooLarge { bytes, max } => Self::TooLarge { bytes, max },
            EncodeCause::TooManyValues { max, place } => Self::TooManyValues { max, place },
            EncodeCause::TooDeep { max, place } => Self::TooDeep { max, place },
            EncodeCause::Other(_) => Self::Encode(error),
        }
    }
}

impl From<EncodeError> for Undelivered {
    fn from(error: EncodeError) -> Self {
        Self::Payload(error.into())
    }
}

/// Why a request has no reply. It is final: no reply follows.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
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
    /// The actor did not receive the request, since the request itself is at fault.
    #[error("the request was refused: {0}")]
    Request(PayloadError),
    /// The actor replied, and the reply itself is at fault.
    #[error("the reply was refused: {0}")]
    Reply(PayloadError),
    /// The actor's node cannot be reached, or was lost before the reply arrived.
    #[error(
        "the actor's node cannot be reached, or was lost before it replied; wait until it is Online again"
    )]
    NodeLost,
    /// There is no connection with the actor's node, and one of the two nodes refuses another, for this reason. The actor
    /// may have received the request before the connection ended.
    #[error("the connection with the actor's node was refused: {0}")]
    NodeRefused(Arc<str>),
    /// The loop did not run the call of a [`Handle`](crate::Handle) before the timeout: a long step blocks it, or it does not run
    /// yet. The call may still run later.
    #[error(
        "the loop did not run the call before the timeout: a long step blocks it (the watchdog logs the actor), or it does not run yet"
    )]
    LoopTimedOut,
    /// The requesting actor has as many open requests as [`requests_max`](crate::LoopConfig::requests_max) allows.
    #[error("{}", TOO_MANY_OPEN)]
    TooManyOpen,
    /// The loop has ended, or a blocking call was made on the loop's own thread.
    #[error("the loop cannot reply: it has ended, or this is its own thread, which must not block")]
    NoLoop,
}

impl AskError {
    /// The error of a request whose reply was not delivered for this reason.
    pub fn from_reply(reason: &Undelivered) -> Self {
        match reason {
            Undelivered::Busy => Self::Busy,
            Undelivered::Payload(reason) => Self::Reply(reason.clone()),
            Undelivered::NoActor
            | Undelivered::Full
            | Undelivered::NoNode
            | Undelivered::NodeRefused(_)
            | Undelivered::Dropped
            | Undelivered::Discarded => Self::Dropped,
        }
    }
}

impl From<Undelivered> for AskError {
    fn from(reason: Undelivered) -> Self {
        match reason {
            Undelivered::NoActor => Self::NoActor,
            Undelivered::Full => Self::Full,
            Undelivered::Busy => Self::Busy,
            Undelivered::Payload(reason) => Self::Request(reason),
            Undelivered::NoNode => Self::NodeLost,
            Undelivered::NodeRefused(reason) => Self::NodeRefused(reason),
            Undelivered::Dropped | Undelivered::Discarded => Self::Dropped,
        }
    }
}

/// A setting of a configuration is outside of its range.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the setting `{name}` is {value}; it must be at least {least} and at most {most}")]
pub struct SettingError {
    /// The name of the setting.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// Its least value.
    pub least: String,
    /// Its greatest value.
    pub most: String,
}

impl SettingError {
    /// Checks that a setting is within its range.
    ///
    /// # Errors
    /// It is not.
    pub fn check<T: PartialOrd + fmt::Debug>(
        name: &'static str,
        value: T,
        range: RangeInclusive<T>,
    ) -> Result<(), Self> {
        if range.contains(&value) {
            return Ok(());
        }
        let text = |value: &T| format!("{value:?}");
        Err(Self { name, value: text(&value), least: text(range.start()), most: text(range.end()) })
    }
}

/// The text of all errors at the limit of open requests.
const TOO_MANY_OPEN: &str = "the actor has as many open requests, timers and monitors as `requests_max` allows; wait for \
                             replies, or cancel what is not needed";

/// An actor has as many open requests, timers and monitors as it may. Nothing was done.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Error)]
#[error("{}; the limit is {max}", TOO_MANY_OPEN)]
pub struct TooManyOpen {
    /// The limit: [`LoopConfig::requests_max`](crate::LoopConfig::requests_max).
    pub max: usize,
}

/// An actor has as many adapters as it may. Nothing was done.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "this actor has {max} adapters, as many as it may; make them in `Event::Start`, and close those that are not needed"
)]
pub struct TooManyAdapters {
    /// The limit.
    pub max: u32,
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
    #[error("the value is {found}, not {expected}; read it as {found}")]
    WrongType {
        /// The requested type.
        expected: String,
        /// The type of the value.
        found: String,
    },
    /// The type name matches, but the bytes do not decode.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The value could not be sent to this node.
    #[error("the value was not sent: {0}")]
    NotSent(PayloadError),
    /// The actor on another node exited with `exit_local`, whose value is not sent to other nodes.
    #[error("the value did not cross the wire; let the actor exit with `exit` instead of `exit_local`")]
    Opaque,
}

/// Why a value could not be encoded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{cause}")]
pub struct EncodeError {
    cause: EncodeCause,
}

/// The causes that have their own variant in [`PayloadError`], and all others as text.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[cfg_attr(not(feature = "serde"), expect(dead_code, reason = "only the serializer knows the limits"))]
pub(crate) enum EncodeCause {
    #[error("it has at least {bytes} bytes when encoded, and {max} are allowed")]
    TooLarge { bytes: u64, max: u64 },
    #[error("{place} holds more than {max} values")]
    TooManyValues { max: u64, place: Box<str> },
    #[error("{place} is nested deeper than {max} arrays and maps")]
    TooDeep { max: u64, place: Box<str> },
    #[error("cannot be encoded: {0}")]
    Other(Box<str>),
}

impl EncodeError {
    /// Makes an error with the text of `reason`.
    pub fn new(reason: impl fmt::Display) -> Self {
        Self { cause: EncodeCause::Other(printable(reason).into()) }
    }

    /// The reason, without the words before it.
    pub fn reason(&self) -> &str {
        match &self.cause {
            EncodeCause::Other(reason) => reason,
            EncodeCause::TooLarge { .. } => "it is too large",
            EncodeCause::TooManyValues { .. } => "it holds too many values",
            EncodeCause::TooDeep { .. } => "it is nested too deep",
        }
    }

    #[cfg_attr(
        not(feature = "serde"),
        expect(dead_code, reason = "only the encoders of serde types know the limits")
    )]
    pub(crate) fn because(cause: EncodeCause) -> Self {
        Self { cause }
    }
}

/// Why bytes could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("cannot be decoded: {reason}")]
pub struct DecodeError {
    reason: Box<str>,
}

impl DecodeError {
    /// Makes an error with the text of `reason`.
    pub fn new(reason: impl fmt::Display) -> Self {
        Self { reason: printable(reason).into() }
    }

    /// The reason, without the words before it.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// The most bytes of a text that [`printable`] keeps.
const PRINTABLE_BYTES_MAX: usize = 1024;

/// A text that a line of a log can hold: with at most 1,024 bytes, and with control characters escaped. Peers choose some of the texts
/// that are logged.
pub fn printable(text: impl fmt::Display) -> String {
    struct Printable(String);
    impl fmt::Write for Printable {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for char in text.chars() {
                let before = self.0.len();
                if char.is_control() {
                    self.0.extend(char.escape_default());
                } else {
                    self.0.push(char);
                }
                if self.0.len() > PRINTABLE_BYTES_MAX {
                    self.0.truncate(before);
                    return Err(fmt::Error);
                }
            }
            Ok(())
        }
    }
    let mut printable = Printable(String::new());
    if fmt::Write::write_fmt(&mut printable, format_args!("{text}")).is_err() {
        printable.0.push_str(" ..");
    }
    printable.0
}

/// Why a blocking job returned no value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JobError {
    /// The queue of the blocking pool is full; the job did not run.
    #[error("the queue of the blocking pool is full; run fewer jobs at once, or raise `blocking_queue_max`")]
    Full,
    /// The actor has too many open requests; the job did not run.
    #[error("{}", TOO_MANY_OPEN)]
    TooManyOpen,
    /// The job panicked, with this text.
    #[error("the job panicked: {0}")]
    Panicked(String),
    /// The blocking pool could not start its first thread; the job did not run.
    #[error("no thread of the blocking pool could be started; raise the thread limit of this process")]
    NoThread,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printable_text_is_one_bounded_line() {
        assert_eq!(printable("plain \u{fc} text"), "plain \u{fc} text");
        assert_eq!(printable("a\nb\u{1b}[2J"), "a\\nb\\u{1b}[2J");
        let long = printable("x".repeat(1 << 20));
        assert_eq!(long.len(), PRINTABLE_BYTES_MAX + 3);
        assert!(long.ends_with("x .."));
        assert_eq!(DecodeError::new("two\nlines").to_string(), "cannot be decoded: two\\nlines");
    }
}
