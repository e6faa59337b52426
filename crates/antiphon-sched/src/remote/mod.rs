//! The seam to other nodes: the transport, messages to other nodes and from them, and their encoding.
//!
//! It owns the interfaces: what the transport gets (`transport`), what it may use of the loop (`local_actors`), and what a `Cx` is built
//! on (`loop_ref`). Messages and values reach the transport as bytes.
//! Must not import: `event_loop`, `socket`, `thread`, `testing`.

#[cfg(feature = "serde")]
mod checked_serializer;
pub(crate) mod codec_context;
mod encoded_value;
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

pub(crate) use codec_context::{EncodeMode, EncodedRefs, ExposedType, MESSAGE_BYTES_MAX};
pub use codec_context::{Origin, origin, with_origin};
#[cfg(feature = "serde")]
pub(crate) use codec_context::{decode_with_context, encode_with_context};
pub use encoded_value::EncodedValue;
pub use local_actors::{ActorSignals, Delivery, LocalActors, MailboxLoad, Mailboxes, Requests};
pub use loop_ref::{LoopRef, ServiceRef};
pub use outbound::EncodedMessage;
pub(crate) use outbound::{export, reach_wire};
pub(crate) use transport::QueuedSignal;
pub use transport::{
    Destination, MonitorId, Notice, OutboundMessage, PayloadRules, QueueRoom, Signal, SignalKind, Transport,
};
pub use wire::{TYPE_NAME_MAX, Wire};
#[cfg(feature = "serde")]
pub use wire_serde::private as __private;
