//! The seam to other nodes: the transport, outbound messages, inbound delivery, and the encoding of messages.

#[cfg(feature = "serde")]
mod checked_serializer;
pub(crate) mod codec_context;
mod inbound;
mod local_actors;
mod loop_ref;
mod outbound;
mod transport;
pub(crate) mod wire;
#[cfg(feature = "serde")]
mod wire_crates;
#[cfg(feature = "serde")]
mod wire_serde;
#[cfg(feature = "serde")]
mod wire_std;

pub(crate) use codec_context::{
    EncodeMode, EncodedRefs, ExposedType, MESSAGE_BYTES_MAX, RequestPermit, decode_with_context,
    encode_with_context,
};
pub use codec_context::{Origin, origin, with_origin};
pub use local_actors::{Delivery, LocalActors, MailboxLoad, Mailboxes, Requests, Signals};
pub use loop_ref::{LoopRef, ServiceRef};
pub use outbound::EncodedMessage;
pub(crate) use outbound::{export, reach_wire};
pub use transport::{Destination, MonitorId, OutboundMessage, PayloadRules, QueueRoom, Signal, Transport};
pub use wire::{TYPE_NAME_MAX, Wire};
#[cfg(feature = "serde")]
pub use wire_serde::private as __private;
