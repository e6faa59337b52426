//! A message of hidden actors, with the node that it came from.
//!
//! What a message says of its sender, by an address, a reply or an id in it, is the sender's word. Which node sent it is
//! known from the session: rights and quotas go by that alone.
//!
//! Invariant: `by` is the node whose session brought the message; `None`: it never crossed nodes.

use std::borrow::Cow;

use antiphon_sched::{DecodeError, EncodeError, NodeId, Wire, origin};

/// A message, and who sent it.
pub struct FromNode<T> {
    pub(crate) what: T,
    pub(crate) by: Option<NodeId>,
    /// Bytes that it had on the way; 0 if it had none.
    pub(crate) bytes: usize,
}

impl<T> From<T> for FromNode<T> {
    fn from(what: T) -> Self {
        Self { what, by: None, bytes: 0 }
    }
}

/// On the wire it is the message.
impl<T: Wire> Wire for FromNode<T> {
    fn name() -> Cow<'static, str> {
        T::name()
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.what.encode(out)
    }

    fn decode(from: &mut &[u8]) -> Result<Self, DecodeError> {
        let before = from.len();
        let what = T::decode(from)?;
        Ok(Self { what, by: origin(), bytes: before - from.len() })
    }
}
