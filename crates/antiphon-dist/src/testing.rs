//! Helpers for tests of programs.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Debug;
use std::rc::Rc;

use antiphon_sched::{Addr, Cx, Event, Loop, PayloadError, Wire, receive};
use antiphon_wire::Limits;
use thiserror::Error;

pub use antiphon_sched::testing::{ProbeActor, Stepped, SteppedActor, TestLoop, free_udp_port};

use crate::cx::NetCx;
use crate::node::check_body;
pub use crate::service::file::MemoryDisk;

/// Encodes a value as for another node, decodes it, and compares. Returns the copy that would arrive.
///
/// Use it in a test for each type of your messages. It finds what no encoder can see: an `untagged` variant that reads the
/// bytes of another one, a `Serialize` and a `Deserialize` that do not fit each other, fields that serde skips.
/// Test the message as a whole: a field by itself may be encoded in another way. A message that holds an address or a
/// `ReplyTo` cannot be tested so, but the types of its other fields can, inside a struct of `wire!`. A value with a NaN is not equal to itself.
///
/// ```
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, PartialEq, Debug)]
/// #[serde(untagged)]
/// enum Size { Small(u64), Large(f64) }
/// antiphon_sched::wire!(Size, "acme.size/1");
///
/// assert!(antiphon_dist::testing::round_trip(&Size::Small(7)).is_ok());
/// assert!(antiphon_dist::testing::round_trip(&Size::Large(7.5)).is_ok());
/// ```
///
/// # Errors
/// The value would be refused by this or by the other node, or another value would arrive.
pub fn round_trip<T: Wire + PartialEq + Debug>(value: &T) -> Result<T, RoundTripError> {
    let mut bytes = Vec::new();
    value.encode(&mut bytes).map_err(PayloadError::from)?;
    check_body(&T::name(), &bytes, Limits::default().message_bytes_max.into())?;
    let arrived = T::decode_sound(&bytes).map_err(PayloadError::from)?;
    if arrived == *value {
        return Ok(arrived);
    }
    Err(RoundTripError::Changed { sent: format!("{value:?}"), arrived: format!("{arrived:?}") })
}

/// An actor in the place of one that others locate by its name: on a node of the simulator, or on a node of this machine.
/// It keeps what it receives, or handles it by a function of the test.
///
/// All clones share what they keep. It outlives the node, which may start the actor anew.
///
/// ```
/// use antiphon_dist::testing::FakeActor;
/// use antiphon_sched::ReplyTo;
///
/// // Answers each question with the same number. It keeps nothing.
/// let worker = FakeActor::with("worker", |cx, reply: ReplyTo<u32>| {
///     cx.reply(reply, 7);
///     None
/// });
/// # let mut node = antiphon_dist::Node::new(antiphon_dist::Config::isolated())?;
/// node.set_up(|sched| worker.start(sched));
/// # Ok::<(), antiphon_dist::NodeError>(())
/// ```
pub struct FakeActor<M> {
    name: Rc<str>,
    handler: Rc<RefCell<FakeHandler<M>>>,
    kept: Rc<RefCell<VecDeque<M>>>,
}

type FakeHandler<M> = dyn FnMut(&mut Cx<'_, M>, M) -> Option<M>;

impl<M: Wire> FakeActor<M> {
    /// An actor that keeps all messages.
    pub fn new(name: &str) -> Self {
        Self::with(name, |_, message| Some(message))
    }

    /// An actor whose messages go to `handler`. The message that it returns is kept.
    pub fn with(name: &str, handler: impl FnMut(&mut Cx<'_, M>, M) -> Option<M> + 'static) -> Self {
        Self { name: name.into(), handler: Rc::new(RefCell::new(handler)), kept: Rc::default() }
    }

    /// Starts it in the loop of a node. It ends with a failure if its name is taken.
    pub fn start(&self, sched: &mut Loop) -> Addr<M> {
        let Self { name, handler, kept } = self.clone();
        sched.spawn(move |cx: &mut Cx<'_, M>, event| {
            match event {
                Event::Start => {
                    cx.set_daemon(true);
                    cx.register(&name)?;
                }
                Event::Message(message) => {
                    let keeps = (handler.borrow_mut())(cx, message);
                    kept.borrow_mut().extend(keeps);
                }
                _ => {}
            }
            receive()
        })
    }

    /// The number of messages that it keeps.
    pub fn count(&self) -> usize {
        self.kept.borrow().len()
    }

    /// Takes all messages that it keeps.
    pub fn take(&self) -> Vec<M> {
        self.kept.borrow_mut().drain(..).collect()
    }
}

impl<M> Clone for FakeActor<M> {
    fn clone(&self) -> Self {
        Self { name: self.name.clone(), handler: self.handler.clone(), kept: self.kept.clone() }
    }
}

impl<M> Debug for FakeActor<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeActor").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why a value does not survive [`round_trip`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RoundTripError {
    /// One of the two nodes refuses it.
    #[error(transparent)]
    Refused(#[from] PayloadError),
    /// Another value arrives.
    #[error(
        "another value arrives; look for `untagged` variants that read the same bytes, for skipped fields, and for a \
         `Deserialize` that does not fit its `Serialize`: {} arrives as {}",
        beginning(sent),
        beginning(arrived)
    )]
    Changed {
        /// The value that was sent, by its `Debug`.
        sent: String,
        /// The value that arrived, by its `Debug`.
        arrived: String,
    },
}

/// The beginning of a text that may be long.
fn beginning(text: &str) -> std::borrow::Cow<'_, str> {
    const BYTES_MAX: usize = 1024;
    match text.len() {
        0..=BYTES_MAX => text.into(),
        _ => format!("{}..", &text[..text.floor_char_boundary(BYTES_MAX)]).into(),
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    #[serde(untagged)]
    enum Name {
        Whole { name: String },
        WithTitle { name: String, title: String },
    }
    antiphon_sched::wire!(Name, "test.name/1");

    #[test]
    fn round_trip_finds_wrong_untagged_variant() {
        let whole = Name::Whole { name: "Ada".into() };
        assert_eq!(round_trip(&whole).as_ref(), Ok(&whole));
        let error = round_trip(&Name::WithTitle { name: "Ada".into(), title: "Countess".into() });
        assert!(matches!(error, Err(RoundTripError::Changed { .. })), "{error:?}");
    }

    #[test]
    fn round_trip_refuses_what_nodes_refuse() {
        let deep = (0..60).fold(serde_json::Value::Null, |value, _| serde_json::Value::Array(vec![value]));
        #[derive(Serialize, Deserialize, PartialEq, Debug)]
        struct Json(serde_json::Value);
        antiphon_sched::wire!(Json, "test.json/1");
        let error = round_trip(&Json(deep));
        assert!(
            matches!(error, Err(RoundTripError::Refused(PayloadError::TooDeep { max: 48, .. }))),
            "{error:?}"
        );
    }
}
