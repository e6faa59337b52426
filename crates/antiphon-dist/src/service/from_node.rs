//! A message of service actors, together with the node that sent it.
//!
//! An address, a `ReplyTo` or an id inside a message can name any node. Only the session shows which node sent the
//! message, so access rights and quotas depend on the session alone.
//!
//! Invariant: `from` is the node of the session that brought the message; `None` if the message is from this node.

use std::borrow::Cow;

use antiphon_sched::{DecodeError, EncodeError, NodeId, Wire, origin};

/// A message, and the node that sent it. Programs make one from a message of their own by [`From`]; then it comes from this node.
#[derive(Debug)]
#[non_exhaustive]
pub struct FromNode<T> {
    /// The message.
    pub message: T,
    /// The node of the session that brought the message; `None` if it is from this node.
    pub from: Option<NodeId>,
    /// The length of the message on the wire: also if another service actor of this node has passed it on. 0 if no peer has sent it.
    pub wire_len: usize,
}

impl<T> From<T> for FromNode<T> {
    fn from(message: T) -> Self {
        Self { message, from: None, wire_len: 0 }
    }
}

/// Encodes as the message alone.
impl<T: Wire> Wire for FromNode<T> {
    fn name() -> Cow<'static, str> {
        T::name()
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.message.encode(out)
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let before = input.len();
        let message = T::decode(input)?;
        Ok(Self { message, from: origin(), wire_len: before - input.len() })
    }
}
