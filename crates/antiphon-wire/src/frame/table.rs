//! The table of all frames: this file is the list that PROTOCOL.md repeats in prose.
//!
//! Invariant: the fields stand in the order of their bytes; a field of type `&[u8]` or one that holds such comes last.

use crate::address::{Locations, Route};
use crate::bytes::{Field, Malformed, Reader};
use crate::frame::codes::{
    CloseReason, DownReason, FragmentPart, GoodbyeReason, LookupResult, NameSpace, Outcome,
};
use crate::ids::{Key, NodeId, Pair, TagId};

/// Declares one struct a frame and the enum of them all. `[from => to]` names the fields that put the frame in the order
/// of a pair of actors.
macro_rules! frames {
    ($(
        $(#[$doc:meta])*
        $name:ident $(<$life:lifetime>)? = $kind:literal $([$from:ident => $to:ident])? {
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

        /// Any frame that this version knows, its body borrowed.
        ///
        /// Exhaustive on purpose: a node names every frame that it takes, so a new one is seen wherever it matters.
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
                match self { $( Frame::$name(_frame) => frames!(@pair _frame $($from $to)?), )* }
            }

            /// The type tag that this frame refers to, if it does.
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

            /// Reads a payload; `None` if the kind is unknown.
            ///
            /// # Errors
            /// [`Malformed`] if the payload is not what its kind says.
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
    (@pair $frame:ident $from:ident $to:ident) => { Some(Pair { to: $frame.$to, from: $frame.$from }) };
}

frames! {
    // Control frames: no number, no credit, not repeated.

    /// All frames below `next` have arrived. Cumulative.
    Ack = 0x01 {
        /// The number of the next expected frame.
        next: u64,
    }
    /// Numbered frames may be sent up to this many bytes since the session began. Never falls.
    Credit = 0x02 {
        /// Bytes of numbered frames, headers included, since the session began.
        until: u64,
    }
    /// Asks for a [`Pong`].
    Ping = 0x03 {
        /// Comes back in the answer.
        token: u64,
    }
    /// Answers a [`Ping`].
    Pong = 0x04 {
        /// As in the question.
        token: u64,
    }
    /// Keep the frames for this actor until [`Unpause`]. Ends with the connection; its sender repeats it on the next one.
    Pause = 0x05 {
        /// An actor of the one who pauses.
        actor: Key,
    }
    /// Send the frames for this actor again.
    Unpause = 0x06 {
        /// An actor that was paused.
        actor: Key,
    }
    /// The last frame of this connection.
    Close = 0x07 {
        /// Why it ends.
        reason: CloseReason,
    }
    /// I have nothing to send and nothing open: let us close the connection and keep the session.
    IdleProposed = 0x08 {
        /// The number of frames that its sender has sent in this session; another one sent by either side cancels.
        sent: u64,
    }
    /// So have I: close the connection.
    IdleAgreed = 0x09 {
        /// As in the proposal.
        sent: u64,
    }

    /// The first frame of each connection, in each direction: which number the first numbered frame on it has. It is the one
    /// that the peer expects, or a later one that the peer has acknowledged meanwhile.
    Begin = 0x0a {
        /// The number.
        frame: u64,
    }

    // Numbered frames: in order, once, under credit, over any number of connections.

    /// Gives a type tag its number, before the first frame that uses it. Numbers are dense, from 0.
    Tag<'a> = 0x20 {
        /// The number.
        id: TagId,
        /// The tag: UTF-8, at most 255 bytes.
        name: &'a str,
    }
    /// A part of a frame whose payload exceeds 16 KiB. The parts of one stream arrive in order, others between them.
    Fragment<'a> = 0x21 {
        /// Which large frame, unique while it is under way.
        stream: u32,
        /// First or later.
        part: FragmentPart,
        /// At most 16 KiB of the large frame's payload. The frame is whole when `total` bytes have arrived.
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
        /// Asks for a [`Receipt`] with this request number.
        receipt: Option<u64>,
        /// Where the nodes are that the body's addresses name.
        route: Route<'a>,
        /// MessagePack.
        body: &'a [u8],
    }
    /// The answer to a question that carried a port.
    Answer<'a> = 0x23 [from => to] {
        /// The one-shot slot that waits at the asker's node; it stands where other frames name an actor.
        to: Key,
        /// The actor that answers.
        from: Key,
        /// The type of the body.
        tag: TagId,
        /// Where the nodes are that the body's addresses name.
        route: Route<'a>,
        /// MessagePack.
        body: &'a [u8],
    }
    /// The last copy of a reply was dropped without an answer.
    ReplyDropped = 0x24 {
        /// The slot that waits.
        request_id: Key,
    }
    /// What became of a message that asked for it.
    Receipt = 0x25 {
        /// As in the message.
        request: u64,
        /// What became of it.
        outcome: Outcome,
    }
    /// `watcher` wants to know of `target`'s end.
    Monitor = 0x26 [watcher => target] {
        /// An actor of the frame's sender.
        watcher: Key,
        /// An actor of the frame's receiver.
        target: Key,
        /// The watcher's number for this monitor.
        id: u64,
    }
    /// It no longer does.
    Demonitor = 0x27 [watcher => target] {
        /// As in the monitor.
        watcher: Key,
        /// As in the monitor.
        target: Key,
        /// As in the monitor.
        id: u64,
    }
    /// A monitored actor has ended.
    Down<'a> = 0x28 [actor => watcher] {
        /// The actor that is told; an actor of the frame's receiver.
        watcher: Key,
        /// What ended.
        actor: Key,
        /// The node of what ended: the frame's sender, or one that it lost.
        node: NodeId,
        /// As in the monitor.
        id: u64,
        /// How it ended.
        reason: DownReason<'a>,
    }
    /// `target`, an actor of the frame's sender, lets `watcher` monitor it.
    Notify = 0x29 [target => watcher] {
        /// An actor of the frame's receiver.
        watcher: Key,
        /// An actor of the frame's sender.
        target: Key,
        /// The target's number for this monitor.
        id: u64,
    }
    /// Ends an actor, which is told first.
    Terminate = 0x2a [from => target] {
        /// The actor that asks for it.
        from: Key,
        /// The actor that ends.
        target: Key,
    }
    /// Throws a value into an actor.
    Throw<'a> = 0x2b [from => target] {
        /// The actor that throws.
        from: Key,
        /// The actor that it hits.
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
        /// The actor that sleeps.
        target: Key,
        /// The type of the body.
        tag: TagId,
        /// MessagePack.
        body: &'a [u8],
    }
    /// I look for a name. Answered by [`Found`] or [`NodeAt`] now or when it appears.
    Lookup<'a> = 0x30 {
        /// The asker's number for it.
        request: u64,
        /// What kind of name.
        space: NameSpace,
        /// Whether the asker collects several answers.
        all: bool,
        /// The name.
        name: &'a str,
    }
    /// I no longer look for it.
    CancelLookup = 0x31 {
        /// As in the want.
        request: u64,
    }
    /// An answer to a [`Lookup`].
    Found = 0x32 {
        /// As in the want.
        request: u64,
        /// What was found.
        what: LookupResult,
    }
    /// An answer to a [`Lookup`] of a node or to a [`AnnounceRelay`], and a hint where another node is.
    NodeAt<'a> = 0x33 {
        /// As in the want, or in the relay; 0 if nobody asked.
        request: u64,
        /// The node.
        node: NodeId,
        /// Its name.
        name: &'a str,
        /// Where it can be dialled.
        locations: Locations<'a>,
    }
    /// The session ends after this frame.
    Goodbye = 0x34 {
        /// Why.
        reason: GoodbyeReason,
    }
    /// Announce me in your network, and tell me by a [`NodeAt`] each of your peers that wants to be found.
    AnnounceRelay = 0x35 {
        /// The asker's number for it; not 0.
        request: u64,
    }
}
