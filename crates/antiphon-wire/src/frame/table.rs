//! The table of all frames. PROTOCOL.md describes the same table in prose.
//!
//! Invariant: fields are declared in the order of their bytes. A field of type `&[u8]`, or one that contains such a field,
//! comes last.

use std::num::NonZeroU64;

use crate::address::{Locations, Route};
use crate::bytes::{Field, Malformed, Reader};
use crate::frame::codes::{
    CloseReason, DownReason, FragmentPart, GoodbyeReason, LookupResult, NameSpace, Outcome, PayloadFault,
    ReplyDroppedReason,
};
use crate::ids::{Key, NodeId, Pair, TagId};

/// Declares a struct for each frame, and the enum of all frames. `[from => to]` names the fields of the pair of actors
/// within which the frame keeps its order; `[from => request to]` those of an actor and a request.
macro_rules! frames {
    ($(
        $(#[$doc:meta])*
        $name:ident $(<$life:lifetime>)? = $kind:literal $([$($pair:tt)+])? {
            $( $(#[$field_doc:meta])* $field:ident: $type:ty, )*
        }
    )*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy, PartialEq)]
            pub struct $name $(<$life>)? {
                $( $(#[$field_doc])* pub $field: $type, )*
            }

            impl $(<$life>)? $name $(<$life>)? {
                /// The number of the kind.
                pub const KIND: u8 = $kind;
            }

            impl<'a> From<$name $(<$life>)?> for Frame<'a> {
                #[inline]
                fn from(frame: $name $(<$life>)?) -> Frame<'a> {
                    Frame::$name(frame)
                }
            }
        )*

        /// Any frame that this version knows, with a borrowed body.
        ///
        /// Exhaustive on purpose: code that receives frames names each of them, so the compiler finds every place that a
        /// new frame concerns.
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub enum Frame<'a> {
            $( $(#[$doc])* $name($name $(<$life>)?), )*
        }

        impl<'a> Frame<'a> {
            /// The number of the kind.
            #[inline]
            pub fn kind(&self) -> u8 {
                match self { $( Frame::$name(_) => $kind, )* }
            }

            /// The name of the kind, for logs.
            pub fn name(&self) -> &'static str {
                match self { $( Frame::$name(_) => stringify!($name), )* }
            }

            /// The pair of actors within which this frame keeps its order, if it names one.
            #[inline]
            pub fn pair(&self) -> Option<Pair> {
                match self { $( Frame::$name(_frame) => frames!(@pair _frame $($($pair)+)?), )* }
            }

            /// The type tag that this frame refers to, if any.
            #[inline]
            pub fn tag(&self) -> Option<TagId> {
                match self { $( Frame::$name(_frame) => None $( .or(_frame.$field.tag()) )*, )* }
            }

            /// Bytes of the payload.
            #[inline]
            pub fn payload_size(&self) -> usize {
                match self { $( Frame::$name(_frame) => 0 $( + _frame.$field.size() )*, )* }
            }

            pub(crate) fn fits(&self) -> bool {
                match self { $( Frame::$name(_frame) => true $( && _frame.$field.fits() )*, )* }
            }

            #[inline]
            pub(crate) fn put_payload(&self, _out: &mut Vec<u8>) {
                match self { $( Frame::$name(_frame) => { $( _frame.$field.put(_out); )* } )* }
            }

            /// Decodes a payload; `None` if the kind is unknown.
            ///
            /// # Errors
            /// [`Malformed`] if the payload does not fit its kind.
            #[inline]
            pub fn decode(kind: u8, payload: &'a [u8]) -> Result<Option<Frame<'a>>, Malformed> {
                let mut reader = Reader::new(payload);
                let frame = match kind {
                    $( $kind => Frame::$name($name { $( $field: Field::take(&mut reader)?, )* }), )*
                    _ => return Ok(None),
                };
                reader.finish("frame payload")?;
                Ok(Some(frame))
            }

            /// Every kind with its name, in order.
            pub const KINDS: &'static [(u8, &'static str)] = &[ $( ($kind, stringify!($name)), )* ];
        }
    };
    (@pair $frame:ident) => { None };
    (@pair $frame:ident $from:ident => request $to:ident) => {
        Some(Pair::to_request($frame.$from, $frame.$to))
    };
    (@pair $frame:ident $from:ident => $to:ident) => { Some(Pair::new($frame.$from, $frame.$to)) };
}

frames! {
    // Control frames: no number, no credit, not repeated.

    /// Acknowledges all frames below `next`.
    Ack = 0x01 {
        /// The number of the next expected frame.
        next: u64,
    }
    /// Grants credit: the bytes of numbered frames that the receiver may send. Never falls.
    Credit = 0x02 {
        /// Bytes of numbered frames, headers included, since the session began.
        until: u64,
    }
    /// Requests a [`Pong`].
    Ping = 0x03 {
        /// The [`Pong`] repeats it.
        token: u64,
    }
    /// Answers a [`Ping`].
    Pong = 0x04 {
        /// As in the [`Ping`].
        token: u64,
    }
    /// Asks the receiver to keep its frames for this actor until [`Unpause`]; those for its adapters too. A pause ends with the [`Begin`] of the next connection; its sender
    /// repeats it on the next one.
    Pause = 0x05 {
        /// An actor of the frame's sender, never an adapter.
        actor: Key,
    }
    /// Asks the receiver to send the frames for this actor again.
    Unpause = 0x06 {
        /// The paused actor.
        actor: Key,
    }
    /// Closes the connection: the last frame on it.
    Close = 0x07 {
        /// Why it closes.
        reason: CloseReason,
    }
    /// Proposes to close the idle connection and to keep the session: the sender has nothing to send and nothing open.
    IdleProposed = 0x08 {
        /// The number of numbered frames that its sender has sent in this session. A further one from either side cancels
        /// the proposal.
        sent: u64,
    }
    /// Agrees to an [`IdleProposed`]: the connection can be closed.
    IdleAgreed = 0x09 {
        /// As in the proposal.
        sent: u64,
    }

    /// The first frame of each connection, in each direction: the number of the first numbered frame on it. The peer
    /// expects this number, or has acknowledged up to it meanwhile.
    Begin = 0x0a {
        /// The number.
        frame: u64,
    }

    // Numbered frames: in order, once, limited by credit, over any number of connections.

    /// Numbers a type tag, before the first frame that uses it. Numbers are consecutive, from 0.
    Tag<'a> = 0x20 {
        /// The number.
        id: TagId,
        /// The tag: UTF-8, at most 255 bytes.
        name: &'a str,
    }
    /// A part of a large frame: one with a payload above 16 KiB. The parts of one stream arrive in order; other frames
    /// may arrive between them.
    Fragment<'a> = 0x21 {
        /// Identifies the large frame; unique while that is incomplete.
        stream: u32,
        /// Whether this is the first part.
        part: FragmentPart,
        /// At most 16 KiB of the large frame's payload. The frame is complete when `total` bytes have arrived.
        data: &'a [u8],
    }
    /// A message from an actor to an actor.
    Message<'a> = 0x22 [from => to] {
        /// The receiver.
        to: Key,
        /// The sender.
        from: Key,
        /// The type of the body.
        tag: TagId,
        /// Requests a [`Receipt`] with this request number.
        receipt: Option<u64>,
        /// The locations of the nodes that the addresses in the body name.
        route: Route<'a>,
        /// MessagePack.
        body: &'a [u8],
    }
    /// The reply to a request.
    Answer<'a> = 0x23 [from => request to] {
        /// The request id at the asking node. It takes the place of the actor that other frames name here.
        to: Key,
        /// The actor that replies.
        from: Key,
        /// The type of the body.
        tag: TagId,
        /// The locations of the nodes that the addresses in the body name.
        route: Route<'a>,
        /// MessagePack.
        body: &'a [u8],
    }
    /// Reports that no reply will follow.
    ReplyDropped<'a> = 0x24 {
        /// The request id at the asking node.
        request_id: Key,
        /// Why.
        reason: ReplyDroppedReason<'a>,
    }
    /// Confirms a message that asked for a receipt.
    Receipt<'a> = 0x25 {
        /// As in the message.
        request: u64,
        /// Whether the message was delivered.
        outcome: Outcome<'a>,
    }
    /// `watcher` asks for a [`Down`] when `target` exits.
    Monitor = 0x26 [watcher => target] {
        /// An actor of the frame's sender.
        watcher: Key,
        /// An actor of the frame's receiver.
        target: Key,
        /// The watcher's number for this monitor.
        id: u64,
    }
    /// Cancels a [`Monitor`].
    Demonitor = 0x27 [watcher => target] {
        /// As in the monitor.
        watcher: Key,
        /// As in the monitor.
        target: Key,
        /// As in the monitor.
        id: u64,
    }
    /// Reports that a monitored actor has exited.
    Down<'a> = 0x28 [actor => watcher] {
        /// The actor that receives the report; an actor of the frame's receiver.
        watcher: Key,
        /// The actor that exited.
        actor: Key,
        /// The node of the actor that exited: the frame's sender, or a node that the sender lost.
        node: NodeId,
        /// As in the monitor.
        id: u64,
        /// Why it exited.
        reason: DownReason<'a>,
    }
    /// `target`, an actor of the frame's sender, asks that `watcher` receives a [`Down`] when `target` exits.
    Notify = 0x29 [target => watcher] {
        /// An actor of the frame's receiver.
        watcher: Key,
        /// An actor of the frame's sender.
        target: Key,
        /// The target's number for this monitor.
        id: u64,
    }
    /// Terminates an actor.
    Terminate = 0x2a [from => target] {
        /// The actor that requests it.
        from: Key,
        /// The actor to terminate.
        target: Key,
        /// The milliseconds that the actor has to end, after a termination event; without a time it ends at once.
        grace: Option<u64>,
    }
    /// Throws a value into an actor.
    Throw<'a> = 0x2b [from => target] {
        /// The actor that throws.
        from: Key,
        /// The actor that receives the value.
        target: Key,
        /// The type of the body.
        tag: TagId,
        /// MessagePack.
        body: &'a [u8],
    }
    /// Resumes a sleeping actor with a value.
    Resume<'a> = 0x2c [from => target] {
        /// The actor that resumes it.
        from: Key,
        /// The sleeping actor.
        target: Key,
        /// The type of the body.
        tag: TagId,
        /// MessagePack.
        body: &'a [u8],
    }
    /// Reports that a channel has dropped messages instead of sending them to a subscriber that was full. It arrives before
    /// the next message of the channel.
    Lagged = 0x2d [from => to] {
        /// The subscriber.
        to: Key,
        /// The channel: an actor of the frame's sender.
        from: Key,
        /// The number of dropped messages since the last report.
        missed: u64,
        /// Whether the subscription has ended for this reason.
        ended: bool,
    }
    /// Reports that the receiver of a payload did not accept it: the value does not decode, has another type, or exceeds a
    /// limit. It is for the log; what asked for an outcome gets it by another frame too.
    PayloadRefused<'a> = 0x2e {
        /// The actor that sent the payload; an actor of the frame's receiver.
        from: Key,
        /// The actor that the payload was for, or the id of the request that it answers.
        to: Key,
        /// What is wrong.
        fault: PayloadFault<'a>,
    }
    /// Looks up a name. The peer answers with [`Found`], now or when the name is registered. One with the number of an open
    /// lookup replaces it.
    Lookup<'a> = 0x30 {
        /// The sender's number for this lookup.
        request: u64,
        /// The kind of the name.
        space: NameSpace,
        /// Whether the sender collects several answers.
        all: bool,
        /// The name.
        name: &'a str,
    }
    /// Cancels a [`Lookup`].
    CancelLookup = 0x31 {
        /// As in the [`Lookup`].
        request: u64,
    }
    /// An answer to a [`Lookup`].
    Found = 0x32 {
        /// As in the [`Lookup`].
        request: u64,
        /// The result.
        result: LookupResult,
    }
    /// The locations of a node: an answer to an [`AnnounceRelay`], or unasked.
    NodeAt<'a> = 0x33 {
        /// As in the [`AnnounceRelay`]; 0 if it is unasked.
        request: u64,
        /// The node.
        node: NodeId,
        /// Its name: at most 255 bytes.
        name: &'a str,
        /// The locations at which it accepts connections.
        locations: Locations<'a>,
    }
    /// Ends the session: the last numbered frame in it.
    Goodbye = 0x34 {
        /// Why.
        reason: GoodbyeReason,
    }
    /// Asks the receiver to announce the sender on the receiver's network, and to send a [`NodeAt`] for each of its peers
    /// that can be discovered.
    AnnounceRelay = 0x35 {
        /// The sender's number for this request; 0 in a [`NodeAt`] means that no request asked for it.
        request: NonZeroU64,
    }
}
