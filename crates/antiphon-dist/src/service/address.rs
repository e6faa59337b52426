//! The addresses of services: an [`Addr`] behind a type of its own, which can be located and sent in messages.

use antiphon_sched::{ActorId, Addr, LoopRef, NodeId, SendError, SendMode, Target, Wire};

use super::FromNode;
use crate::Space;

/// Implements for a tuple struct around an [`Addr`] what all addresses of services have in common: it is `Copy`, has an
/// encoding, and can be located by its name.
///
/// `space` is the namespace, `tag` the type on whose wire name both sides of a lookup agree, and `wire_name` the name of the
/// address inside messages.
macro_rules! service_address {
    ($address:ident<$($message:ident),+>, space: $space:expr, tag: $tag:ty, wire_name: $wire_name:expr) => {
        impl<$($message: antiphon_sched::Wire),+> $crate::cx::Named for $address<$($message),+> {
            const SPACE: $crate::Space = $space;

            fn tag(loop_ref: &mut antiphon_sched::LoopRef<'_>) -> &'static str {
                loop_ref.service().type_name_of::<$tag>()
            }

            fn from_id(id: antiphon_sched::ActorId) -> Self {
                Self(antiphon_sched::Addr::of(id))
            }
        }

        impl<$($message),+> $crate::cx::sealed::SealedName for $address<$($message),+> {}

        impl<$($message: antiphon_sched::Wire),+> antiphon_sched::Wire for $address<$($message),+> {
            fn name() -> std::borrow::Cow<'static, str> {
                $wire_name.into()
            }

            fn encode(&self, out: &mut Vec<u8>) -> Result<(), antiphon_sched::EncodeError> {
                self.0.encode(out)
            }

            fn decode(from: &mut &[u8]) -> Result<Self, antiphon_sched::DecodeError> {
                antiphon_sched::Addr::decode(from).map(Self)
            }
        }

        impl<$($message: antiphon_sched::Wire),+> serde::Serialize for $address<$($message),+> {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.0.serialize(serializer)
            }
        }

        impl<'de, $($message: antiphon_sched::Wire),+> serde::Deserialize<'de> for $address<$($message),+> {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                antiphon_sched::Addr::deserialize(deserializer).map(Self)
            }
        }

        impl<$($message),+> Copy for $address<$($message),+> {}

        impl<$($message),+> Clone for $address<$($message),+> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<$($message),+> PartialEq for $address<$($message),+> {
            fn eq(&self, other: &Self) -> bool {
                self.id() == other.id()
            }
        }

        impl<$($message),+> Eq for $address<$($message),+> {}

        impl<$($message),+> std::hash::Hash for $address<$($message),+> {
            fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
                self.id().hash(state);
            }
        }

        impl<$($message),+> From<$address<$($message),+>> for antiphon_sched::ActorId {
            fn from(address: $address<$($message),+>) -> Self {
                address.id()
            }
        }

        impl<$($message),+> std::fmt::Display for $address<$($message),+> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.id().fmt(f)
            }
        }

        impl<$($message),+> std::fmt::Debug for $address<$($message),+> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let types = [$(std::any::type_name::<$message>()),+].join(", ");
                write!(f, "{}<{types}>({})", stringify!($address), self.id())
            }
        }
    };
}

pub(super) use service_address;

/// The address of a service that takes messages of type `M`, as [`NetCx::locate`](crate::NetCx::locate) finds it.
///
/// A message is sent to it as to an address. It has 24 bytes and is `Copy`. Messages can contain it.
pub struct ServiceAddr<M>(Addr<FromNode<M>>);

impl<M> ServiceAddr<M> {
    /// The id of the service actor.
    pub const fn id(self) -> ActorId {
        self.0.id()
    }

    /// The node of the service.
    pub const fn node(self) -> NodeId {
        self.0.node()
    }

    /// The address of the service actor, for requests.
    pub const fn addr(self) -> Addr<FromNode<M>> {
        self.0
    }
}

service_address!(ServiceAddr<M>, space: Space::Service, tag: M, wire_name: format!("service<{}>", M::name()));

impl<M: Wire> Target for ServiceAddr<M> {
    type Message = M;

    fn put(self, loop_ref: &mut LoopRef<'_>, message: M, mode: SendMode) -> Result<(), SendError<M>> {
        self.0.put(loop_ref, message.into(), mode).map_err(|error| error.map(|unsent| unsent.message))
    }

    fn target_id(self) -> ActorId {
        self.id()
    }
}
