//! Access of a service to the node of its loop.

use std::fmt::Display;

use antiphon_sched::{Actor, ActorId, Addr, Key, LoopRef, NodeId, RequestId, Wire, printable};

use super::file::FILE_SERVICE;
use super::{FromNode, ServiceState};
use crate::access::{AccessError, AccessPolicy};
use crate::cx::Named;
use crate::error::{LocateError, RegisterError};
use crate::node::{FoundName, Space, complete_if_open, node_mut};

/// Access of a service to the node of its loop. In a loop without a node, each method returns an error, or does nothing.
pub struct NodeRef<'c, 'l> {
    loop_ref: &'c mut LoopRef<'l>,
}

impl<'c, 'l> NodeRef<'c, 'l> {
    /// The node of a loop.
    pub fn of(loop_ref: &'c mut LoopRef<'l>) -> Self {
        Self { loop_ref }
    }

    /// Registers an actor of this node as a service under a name, until the actor exits. Peers locate it as a
    /// [`ServiceAddr`](super::ServiceAddr). The names of services are apart from those of actors.
    ///
    /// # Errors
    /// The actor has ended or is on another node, the node has a service of that name, the name is not valid, or there are too many
    /// names.
    pub fn register<M: Wire>(&mut self, name: &str, actor: Addr<FromNode<M>>) -> Result<(), RegisterError> {
        // Programs may start before the file service of their node.
        if name == FILE_SERVICE {
            return Err(RegisterError::Taken { name: name.to_owned() });
        }
        let tag = self.loop_ref.service().type_name_of::<M>();
        self.register_as((Space::Service, name), actor, tag, Some(actor.id().key()))
    }

    /// Sets which peers may reach an actor of this node; see [`NetCx::allow`](crate::NetCx::allow).
    ///
    /// # Errors
    /// The actor is on another node or has exited, or the policy is by certificates and the node has no TLS.
    pub fn allow(&mut self, target: impl Into<ActorId>, access: AccessPolicy) -> Result<(), AccessError> {
        let target = target.into();
        let is_here = target.node() == self.loop_ref.node_id();
        node_mut(self.loop_ref).ok_or(AccessError::NoNode)?.check_access(&access)?;
        if !is_here {
            return Err(AccessError::Elsewhere);
        }
        if !self.loop_ref.is_alive(target.key()) {
            return Err(AccessError::Ended);
        }
        let actor = target.key().actor();
        if !access.allows_all() {
            self.loop_ref.service().report_exit(actor);
        }
        node_mut(self.loop_ref).ok_or(AccessError::NoNode)?.set_access(actor, access);
        Ok(())
    }

    /// The access policy of an actor of this node, for actors that a service starts.
    pub fn access_of(&mut self, actor: Key) -> AccessPolicy {
        node_mut(self.loop_ref).map(|core| core.access_of(actor)).unwrap_or_default()
    }

    /// Identifies the owner of a peer over its restarts: by its certificate, or without TLS by its IP address. Empty for
    /// this node (`None`).
    pub fn owner_of(&mut self, peer: Option<NodeId>) -> String {
        node_mut(self.loop_ref).map(|core| core.owner_of_peer(peer)).unwrap_or_default()
    }

    /// Whether a line may be logged now: at most one an hour of each `kind` and `about`. For lines that peers can cause.
    pub fn may_log(&mut self, kind: &'static str, about: impl Display) -> bool {
        // `about` may be code of a program, and of any length.
        let about = printable(about);
        node_mut(self.loop_ref).is_some_and(|core| core.may_log(kind, about))
    }

    /// Logs that a peer exceeds a limit, at most once an hour for each `kind` and peer. `what` is the predicate of the
    /// line's sentence, such as `has more subscribers than it may`.
    pub fn log_refused(&mut self, peer: NodeId, kind: &'static str, what: &'static str) {
        if let Some(core) = node_mut(self.loop_ref) {
            core.log_refused(peer, kind, what);
        }
    }

    /// The state of a service on this node; made at the first call. `None` in a loop without a node.
    pub(crate) fn state<S: ServiceState + Default>(self) -> Option<&'c mut S> {
        Some(node_mut(self.loop_ref)?.service_state())
    }

    /// Starts a service actor and registers it under a name of the space of `T`. `None` as `owner` is the node itself.
    pub(crate) fn open<T: Named, M: Wire>(
        &mut self,
        name: &str,
        owner: Option<Key>,
        access: AccessPolicy,
        actor: impl Actor<M>,
    ) -> Result<T, RegisterError> {
        node_mut(self.loop_ref).ok_or(RegisterError::NoNode)?.check_free(T::SPACE, name)?;
        let tag = T::tag(self.loop_ref);
        let actor = self.loop_ref.spawn_service(actor);
        if self.allow(actor, access).is_err() {
            // The configuration has checked the policy, so the actor has exited.
            return Err(RegisterError::NoNode);
        }
        if let Err(reason) = self.register_as((T::SPACE, name), actor, tag, owner) {
            self.loop_ref.terminate(actor);
            return Err(reason);
        }
        Ok(T::from_id(actor.id()))
    }

    /// Unregisters a name of `owner`. Returns the actor that it stood for.
    pub(crate) fn unregister(
        &mut self,
        space: Space,
        name: &str,
        owner: Option<Key>,
    ) -> Result<ActorId, RegisterError> {
        let key = node_mut(self.loop_ref).ok_or(RegisterError::NoNode)?.unregister(space, name, owner)?;
        Ok(ActorId::new(self.loop_ref.node_id(), key))
    }

    /// Registers an actor of this loop under a name, exposes it to peers, and completes the lookups of this node for the name.
    pub(crate) fn register_as<M: Wire>(
        &mut self,
        (space, name): (Space, &str),
        actor: Addr<M>,
        tag: &'static str,
        owner: Option<Key>,
    ) -> Result<(), RegisterError> {
        node_mut(self.loop_ref).ok_or(RegisterError::NoNode)?;
        // It fails also if the actor was terminated in this same step, or takes messages of another type.
        if !self.loop_ref.service().expose(actor) {
            return Err(RegisterError::NotHere);
        }
        let core = node_mut(self.loop_ref).ok_or(RegisterError::NoNode)?;
        let lookups = core.register((space, name), actor.id().key(), tag, owner)?;
        for request_id in lookups {
            let found: Result<FoundName, LocateError> = Ok(FoundName { id: actor.id() });
            complete_if_open(self.loop_ref.requests(), request_id, found);
        }
        Ok(())
    }

    /// The number of the last receipt that a request awaits.
    pub(crate) fn newest_receipt(&mut self, request_id: RequestId) -> Option<u64> {
        node_mut(self.loop_ref)?.newest_receipt(request_id)
    }

    /// Forgets a receipt whose request is closed.
    pub(crate) fn forget_receipt(&mut self, receipt_number: u64) {
        if let Some(core) = node_mut(self.loop_ref) {
            core.forget_receipt(receipt_number);
        }
    }
}
