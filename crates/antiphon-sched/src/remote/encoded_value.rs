//! Values in their form for the wire, as they pass the seam between loop and node.
//!
//! Invariant: they hold bytes, names and numbers only. So a signal can pass to another thread.

use std::sync::Arc;

use crate::error::PayloadError;
use crate::id::NodeId;

/// A value that crosses the wire, or the reason why it does not. Clones share the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EncodedValue {
    /// It is encoded.
    Bytes {
        /// The name of its type.
        type_name: Arc<str>,
        /// The encoding: one MessagePack value.
        body: Arc<[u8]>,
        /// The nodes of the addresses in it, if this loop has encoded it: their locations must be sent along.
        nodes: Arc<[NodeId]>,
    },
    /// A local value, which does not cross the wire.
    Opaque,
    /// It could not be sent for this reason.
    NotSent(PayloadError),
}

impl EncodedValue {
    /// A value that arrived over the wire.
    pub fn new(type_name: &str, body: &[u8]) -> Self {
        Self::with_nodes(type_name, body, &[])
    }

    /// The value `()`.
    pub fn unit() -> Self {
        Self::new("()", &[0xc0])
    }

    pub(super) fn with_nodes(type_name: &str, body: &[u8], nodes: &[NodeId]) -> Self {
        Self::Bytes { type_name: type_name.into(), body: body.into(), nodes: nodes.into() }
    }

    /// The encoding; empty for a value that is not encoded.
    pub fn body(&self) -> &[u8] {
        match self {
            Self::Bytes { body, .. } => body,
            Self::Opaque | Self::NotSent(_) => &[],
        }
    }
}
