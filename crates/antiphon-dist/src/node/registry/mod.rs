//! Names: the registry of this node's names, and the open lookups.
//!
//! A node is the sole authority for its own names. A node that looks for a name sends a *lookup* to its peers. A peer
//! keeps the lookup and sends the result when the name is registered. The node cancels a lookup that is over. So the
//! memory use depends on the open lookups and not on the names of other nodes.
//!
//! Invariant: a lookup of this node completes once; a name belongs to a running actor.

pub(super) mod access_table;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::ops::Bound;
use std::time::Duration;

use antiphon_sched::{ActorId, Key, NodeId, RequestId, TYPE_NAME_MAX, Time, printable};
use antiphon_wire::frame::{CancelLookup, Found, Lookup, LookupResult, NameSpace};

use crate::error::{DialError, LocateError, RegisterError};
use crate::location::Location;
use crate::node::complete_if_open;
use crate::node::context::NodeCx;
use crate::node::driver::Driver;
use crate::node::inspection::NameInfo;
use crate::node::peer::Peer;
use crate::node::peers::Peers;
use crate::node::timers::{NodeTimer, TimerQueue};

/// Names of one node; also the limit of its own open lookups.
const NAMES_MAX: usize = 65_536;
const NAME_BYTES_MAX: usize = 255;
/// The answered lookups that are remembered, for a warning.
const ANSWERED_MAX: usize = 64;

/// The kind of thing that a name stands for. The same name may be registered once in each space.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
#[non_exhaustive]
pub enum Space {
    /// Actors.
    Actor,
    /// Channels.
    Channel,
    /// Functions that peers may call.
    Rci,
    /// Services: those of every node, such as its file service, and those that programs register by
    /// [`NodeRef`](crate::service::NodeRef).
    Service,
}

impl Space {
    fn to_wire(self) -> NameSpace {
        match self {
            Self::Actor => NameSpace::Actor,
            Self::Channel => NameSpace::Channel,
            Self::Rci => NameSpace::Rci,
            Self::Service => NameSpace::Service,
        }
    }

    fn from_wire(space: NameSpace) -> Self {
        match space {
            NameSpace::Actor => Self::Actor,
            NameSpace::Channel => Self::Channel,
            NameSpace::Rci => Self::Rci,
            NameSpace::Service => Self::Service,
        }
    }
}

/// The result of a successful lookup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FoundName {
    pub(crate) id: ActorId,
}

/// What a lookup looks for.
#[derive(Copy, Clone)]
pub(crate) struct WantedName<'a> {
    pub(crate) space: Space,
    pub(crate) name: &'a str,
    /// The wire name of the type of its messages.
    pub(crate) tag: &'static str,
    /// Only the node at this location is asked.
    pub(crate) at: Option<Location>,
}

/// The state of a new lookup.
pub(crate) enum LookupStart {
    Now(Result<FoundName, LocateError>),
    /// The request completes later.
    Later,
}

/// A name within its space.
type FullName = (Space, Box<str>);

#[derive(Debug, Default)]
pub(super) struct NameRegistry {
    registered: BTreeMap<FullName, Registration>,
    owned: BTreeMap<Key, BTreeSet<FullName>>,
    /// The lookups of this node.
    lookups: BTreeMap<u64, OpenLookup>,
    node_lookups: BTreeMap<u64, NodeLookup>,
    /// The lookups of peers, by name.
    peer_lookups: BTreeMap<FullName, BTreeSet<(NodeId, u64)>>,
    /// The same, by peer and lookup number.
    lookups_by_peer: BTreeMap<NodeId, BTreeMap<u64, FullName>>,
    /// Names that peers look for, and that were registered, or changed their access policy, since the last tick. The peers
    /// receive the results in the tick, so that an actor can register a name and set its policy in one step.
    pending: BTreeSet<FullName>,
    /// The last lookups of this node that a peer has answered, with their numbers, names and peers.
    answered: VecDeque<(u64, Box<str>, NodeId)>,
}

#[derive(Debug)]
struct Registration {
    key: Key,
    tag: &'static str,
    /// The actor that may unregister the name: the named actor, or the actor that opened the channel or RCI; `None` is the
    /// node.
    owner: Option<Key>,
}

#[derive(Debug)]
struct OpenLookup {
    space: Space,
    name: Box<str>,
    tag: &'static str,
    at: Option<Location>,
    kind: LookupKind,
    until: Time,
    /// The peers that keep the lookup: it was sent in a session that still exists, and the peer has sent no result.
    peers: BTreeSet<NodeId>,
    /// A peer has refused the lookup, because it keeps too many of this node's.
    refused: bool,
    /// Why the last dial of `at` failed that had a known reason, since there was a session.
    unreachable: Option<DialError>,
}

#[derive(Debug)]
enum LookupKind {
    /// Completes with the first result.
    One(RequestId),
    /// Completes with all results until it times out.
    All(RequestId, Vec<FoundName>),
}

#[derive(Debug)]
struct NodeLookup {
    name: Box<str>,
    request_id: RequestId,
    until: Time,
}

impl NameRegistry {
    /// The registered names from `first` on.
    pub(super) fn registered_from(
        &self,
        first: Bound<FullName>,
        me: NodeId,
    ) -> impl Iterator<Item = NameInfo> {
        self.registered.range((first, Bound::Unbounded)).map(move |((space, name), registration)| NameInfo {
            space: *space,
            name: name.to_string(),
            type_name: registration.tag.to_owned(),
            actor: ActorId::new(me, registration.key),
        })
    }

    /// An access policy has changed: checks the peers' lookups of registered names again in the next tick.
    pub(super) fn recheck_peer_lookups(&mut self) {
        let registered = self.peer_lookups.keys().filter(|name| self.registered.contains_key(*name));
        self.pending.extend(registered.cloned());
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The number of names of actors, channels and RCIs.
    pub(super) fn user_names_len(&self) -> usize {
        self.registered.keys().filter(|(space, _)| *space != Space::Service).count()
    }

    pub(super) fn lookups_len(&self) -> usize {
        let of_peers: usize = self.peer_lookups.values().map(BTreeSet::len).sum();
        self.lookups.len() + self.node_lookups.len() + of_peers
    }

    /// Whether this node has an open lookup that the peer may answer, or the peer has one here.
    pub(super) fn has_lookups_with(&self, peer: NodeId) -> bool {
        !self.lookups.is_empty() || self.lookups_by_peer.get(&peer).is_some_and(|lookups| !lookups.is_empty())
    }

    pub(super) fn forget_lookup_of(&mut self, peer: NodeId, lookup_number: u64) {
        let Some(lookups) = self.lookups_by_peer.get_mut(&peer) else { return };
        if let Some(name) = lookups.remove(&lookup_number) {
            self.forget_by_name(&name, peer, lookup_number);
        }
    }

    pub(super) fn check(&self, timers: &TimerQueue) {
        for (name, lookups) in &self.peer_lookups {
            let is_mirrored = |(peer, lookup_number): &(NodeId, u64)| {
                self.lookups_by_peer.get(peer).and_then(|lookups| lookups.get(lookup_number)) == Some(name)
            };
            assert!(
                !lookups.is_empty() && lookups.iter().all(is_mirrored),
                "the two tables of peers' lookups differ"
            );
        }
        let of_peers: usize = self.peer_lookups.values().map(BTreeSet::len).sum();
        let by_peer: usize = self.lookups_by_peer.values().map(BTreeMap::len).sum();
        assert_eq!(of_peers, by_peer, "the two tables of peers' lookups differ");
        let owned: usize = self.owned.values().map(BTreeSet::len).sum();
        assert!(owned <= self.registered.len(), "a name has an owner but is not registered");
        let has_timer = |(lookup_number, lookup): (&u64, &OpenLookup)| {
            timers.has(lookup.until, NodeTimer::Lookup(*lookup_number))
        };
        assert!(self.lookups.iter().all(has_timer), "a lookup has no timer");
    }

    fn forget_by_name(&mut self, name: &FullName, peer: NodeId, lookup_number: u64) {
        if let Some(lookups) = self.peer_lookups.get_mut(name) {
            lookups.remove(&(peer, lookup_number));
            if lookups.is_empty() {
                self.peer_lookups.remove(name);
            }
        }
    }

    /// The peers that keep a lookup of this node.
    pub(super) fn asked_peers(&self) -> impl Iterator<Item = NodeId> {
        self.lookups.values().flat_map(|lookup| lookup.peers.iter().copied())
    }

    pub(super) fn forget_peer(&mut self, peer: NodeId) {
        for lookup in self.lookups.values_mut() {
            lookup.peers.remove(&peer);
        }
        for (lookup_number, name) in self.lookups_by_peer.remove(&peer).unwrap_or_default() {
            self.forget_by_name(&name, peer, lookup_number);
        }
    }
}

fn is_valid_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
}

impl NameRegistry {
    /// Checks that a name can be registered now.
    pub(super) fn check_free(&self, space: Space, name: &str) -> Result<(), RegisterError> {
        if !is_valid_name(name) {
            return Err(RegisterError::BadName);
        }
        if self.registered.contains_key(&(space, Box::from(name))) {
            return Err(RegisterError::Taken { name: name.to_owned() });
        }
        if self.registered.len() >= NAMES_MAX { Err(RegisterError::TooMany) } else { Ok(()) }
    }

    /// Registers an actor of this node. Returns the requests of this node that the name completes. Peers receive the result
    /// in the next tick.
    pub(super) fn register(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        (space, name): (Space, &str),
        key: Key,
        tag: &'static str,
        owner: Option<Key>,
    ) -> Result<Vec<RequestId>, RegisterError> {
        if tag.len() > TYPE_NAME_MAX {
            return Err(RegisterError::TypeNameTooLong { bytes: tag.len() });
        }
        let full_name = (space, Box::from(name));
        if self.registered.get(&full_name).is_some_and(|own| own.key == key) {
            return Ok(Vec::new());
        }
        self.check_free(space, name)?;
        self.owned.entry(key).or_default().insert(full_name.clone());
        self.registered.insert(full_name.clone(), Registration { key, tag, owner });
        tracing::debug!(target: "antiphon::names", name, ?space, actor = %key, tag, "a name is registered");
        if self.peer_lookups.contains_key(&full_name) {
            self.pending.insert(full_name.clone());
        }
        Ok(self.take_own_lookups(cx, peers, &full_name, key, tag))
    }

    /// Removes this node's lookups that a new name completes, and returns their requests. Adds the name to the results of
    /// those that collect all.
    fn take_own_lookups(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        full_name: &FullName,
        key: Key,
        tag: &'static str,
    ) -> Vec<RequestId> {
        let id = ActorId::new(cx.me, key);
        let here = cx.settings.location;
        let fits = |lookup: &OpenLookup| {
            lookup.space == full_name.0
                && lookup.name == full_name.1
                && lookup.tag == tag
                && lookup.at.is_none_or(|at| at == here)
        };
        let fitting: Vec<u64> = self
            .lookups
            .iter()
            .filter(|(_, lookup)| fits(lookup))
            .map(|(lookup_number, _)| *lookup_number)
            .collect();
        let mut request_ids = Vec::new();
        for lookup_number in fitting {
            match self.lookups.get_mut(&lookup_number).map(|lookup| &mut lookup.kind) {
                Some(LookupKind::All(_, found)) => found.push(FoundName { id }),
                Some(LookupKind::One(request_id)) => {
                    request_ids.push(*request_id);
                    self.cancel_lookup(cx, peers, lookup_number);
                }
                None => {}
            }
        }
        request_ids
    }

    /// Unregisters a name for its owner. Returns the key of the actor that it stood for.
    pub(super) fn unregister(
        &mut self,
        space: Space,
        name: &str,
        owner: Option<Key>,
    ) -> Result<Key, RegisterError> {
        let full_name = (space, Box::from(name));
        let registered = self.registered.get(&full_name).filter(|registered| registered.owner == owner);
        let Some(key) = registered.map(|registered| registered.key) else {
            return Err(RegisterError::NotOwner { name: name.to_owned() });
        };
        self.registered.remove(&full_name);
        tracing::debug!(target: "antiphon::names", name, ?space, actor = %key, "a name is unregistered");
        if let Some(owned) = self.owned.get_mut(&key) {
            owned.remove(&full_name);
            if owned.is_empty() {
                self.owned.remove(&key);
            }
        }
        Ok(key)
    }

    /// Unregisters all names of an actor that has exited.
    pub(super) fn unregister_all(&mut self, key: Key) {
        for full_name in self.owned.remove(&key).unwrap_or_default() {
            self.registered.remove(&full_name);
            let (space, name) = full_name;
            tracing::debug!(target: "antiphon::names", name, ?space, actor = %key, "a name is unregistered, since its actor has ended");
        }
    }

    /// Looks for a name: first on this node, then on its peers, or only at the location `at`.
    pub(super) fn locate(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        (request_id, asker): (RequestId, Key),
        wanted: WantedName<'_>,
        timeout: Duration,
    ) -> LookupStart {
        let WantedName { space, name, tag, at } = wanted;
        if let Some(refusal) = self.lookup_refusal(name, tag) {
            log_lookup(name, asker, &Err(refusal.clone()));
            return LookupStart::Now(Err(refusal));
        }
        let full_name = (space, Box::from(name));
        if at.is_none_or(|at| at == cx.settings.location)
            && let Some(registered) = self.registered.get(&full_name)
        {
            let id = ActorId::new(cx.me, registered.key);
            let found = check_type(tag, registered.tag).map(|()| FoundName { id });
            log_lookup(name, asker, &found);
            return LookupStart::Now(found);
        }
        self.add_lookup(cx, peers, wanted, LookupKind::One(request_id), timeout);
        LookupStart::Later
    }

    /// Collects the actors of all nodes that have a name, until the timeout.
    pub(super) fn locate_all(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        request_id: RequestId,
        wanted: WantedName<'_>,
        timeout: Duration,
    ) -> Result<(), LocateError> {
        let WantedName { space, name, tag, .. } = wanted;
        if let Some(refusal) = self.lookup_refusal(name, tag) {
            return Err(refusal);
        }
        let full_name = (space, Box::from(name));
        let here = self.registered.get(&full_name).filter(|registered| registered.tag == tag);
        let found = here.map(|registered| FoundName { id: ActorId::new(cx.me, registered.key) });
        let kind = LookupKind::All(request_id, found.into_iter().collect());
        self.add_lookup(cx, peers, wanted, kind, timeout);
        Ok(())
    }

    fn lookup_refusal(&self, name: &str, tag: &str) -> Option<LocateError> {
        if !is_valid_name(name) {
            return Some(LocateError::BadName);
        }
        if tag.len() > TYPE_NAME_MAX {
            return Some(LocateError::TypeNameTooLong { bytes: tag.len() });
        }
        let is_full = self.lookups.len() + self.node_lookups.len() >= NAMES_MAX;
        is_full.then_some(LocateError::TooManyOpen)
    }

    fn add_lookup(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        WantedName { space, name, tag, at }: WantedName<'_>,
        kind: LookupKind,
        timeout: Duration,
    ) {
        let lookup_number = cx.next_number();
        let until = cx.now + timeout;
        cx.timers.add(until, NodeTimer::Lookup(lookup_number));
        let lookup = OpenLookup {
            space,
            name: name.into(),
            tag,
            at,
            kind,
            until,
            peers: BTreeSet::new(),
            refused: false,
            unreachable: None,
        };
        self.lookups.insert(lookup_number, lookup);
        for node in peers.ids() {
            self.send_lookup(cx, peers, node, lookup_number);
        }
    }

    /// Sends a lookup to a peer, if it concerns that peer.
    fn send_lookup(&mut self, cx: &mut NodeCx, peers: &mut Peers, node: NodeId, lookup_number: u64) {
        let Some(lookup) = self.lookups.get_mut(&lookup_number) else { return };
        let Some(peer) = peers.get_mut(node) else { return };
        let dialled = peer.session().and_then(|peer_session| peer_session.dialled);
        let is_concerned = lookup.at.is_none_or(|at| peer.is_at(at.addr()) || dialled == Some(at.addr()));
        let Some(peer_session) = peer.session_mut().filter(|_| is_concerned) else { return };
        let all = matches!(lookup.kind, LookupKind::All(..));
        let frame = Lookup { request: lookup_number, space: lookup.space.to_wire(), all, name: &lookup.name };
        match peer_session.session.send(&frame.into()) {
            Ok(()) => {
                lookup.peers.insert(node);
                lookup.unreachable = None;
            }
            Err(reason) => {
                tracing::debug!(%node, %reason, "a lookup was not sent; it is sent again in the next session with the peer");
            }
        }
        peer.mark_dirty(cx);
    }

    /// A session has begun: sends the peer all open lookups.
    pub(super) fn repeat_lookups_to(&mut self, cx: &mut NodeCx, peers: &mut Peers, node: NodeId) {
        let lookup_numbers: Vec<u64> = self.lookups.keys().copied().collect();
        for lookup_number in lookup_numbers {
            self.send_lookup(cx, peers, node, lookup_number);
        }
    }

    /// Completes the peers' lookups of the pending names, if the access policies of the actors allow these peers.
    pub(super) fn complete_pending_lookups(&mut self, cx: &mut NodeCx, peers: &mut Peers) {
        for full_name in std::mem::take(&mut self.pending) {
            let Some(registered) = self.registered.get(&full_name) else { continue };
            let (key, tag) = (registered.key, registered.tag);
            for (peer, lookup_number) in self.peer_lookups.get(&full_name).cloned().unwrap_or_default() {
                if peers.get(peer).is_some_and(|peer| peer.check_reach(cx, key)) {
                    self.complete_peer_lookup(cx, peers, peer, lookup_number, key, tag);
                }
            }
        }
    }

    /// A peer has sent a lookup. It replaces an open one with the same number.
    pub(super) fn on_lookup(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        node: NodeId,
        lookup: &Lookup<'_>,
    ) {
        let Some(peer) = peers.get_mut(node) else { return };
        let lookup_number = lookup.request;
        self.forget_lookup_of(node, lookup_number);
        let refusal = (!is_valid_name(lookup.name)).then_some(LookupResult::BadName);
        let open = self.lookups_by_peer.get(&node).map_or(0, BTreeMap::len);
        let too_many = open >= cx.settings.peer_limits.lookups_max;
        let refusal = refusal.or(too_many.then_some(LookupResult::TooMany));
        if let Some(result) = refusal {
            if too_many {
                cx.counts.refusals.lookups += 1;
                peer.log_refused(cx, "lookups", "looks for more names than it may");
            }
            return send_result(peer, &Found { request: lookup_number, result });
        }
        let full_name: FullName = (Space::from_wire(lookup.space), lookup.name.into());
        if let Some(registered) = self.registered.get(&full_name) {
            let (key, tag) = (registered.key, registered.tag);
            if peer.check_reach(cx, key) {
                return send_found(peer, lookup_number, key, tag);
            }
        }
        self.peer_lookups.entry(full_name.clone()).or_default().insert((node, lookup_number));
        self.lookups_by_peer.entry(node).or_default().insert(lookup_number, full_name);
    }

    /// Completes a peer's lookup that this node has kept.
    fn complete_peer_lookup(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        node: NodeId,
        lookup_number: u64,
        key: Key,
        tag: &'static str,
    ) {
        self.forget_lookup_of(node, lookup_number);
        if let Some(peer) = peers.get_mut(node).filter(|peer| peer.session().is_some()) {
            send_found(peer, lookup_number, key, tag);
            peer.mark_dirty(cx);
        }
    }

    /// A peer has sent the result of a lookup.
    pub(super) fn on_found(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        node: NodeId,
        found: &Found,
        driver: &mut impl Driver,
    ) {
        let (key, tag) = match found.result {
            LookupResult::Found { key, tag } => (key, tag),
            LookupResult::TooMany | LookupResult::BadName => {
                return self.on_lookup_refused(cx, peers, node, found.request, driver);
            }
        };
        let Some(lookup) = self.lookups.get_mut(&found.request) else {
            return self.warn_of_second_name(cx, peers, node, found.request);
        };
        let Some(peer) = peers.get(node) else { return };
        let Some(peer_session) = peer.session() else { return };
        let Some(found_tag) = peer_session.session.tag_name(tag) else { return };
        let is_at = |at: Location| peer.has_session_at(at.addr());
        if !lookup.at.is_none_or(is_at) {
            // The lookup is for another node.
            return;
        }
        // A peer that has sent a result no longer keeps the lookup.
        lookup.peers.remove(&node);
        let id = ActorId::new(node, key);
        let type_check = check_type(lookup.tag, found_tag);
        match &mut lookup.kind {
            LookupKind::All(_, all) => {
                // A name is registered at most once at each node.
                if type_check.is_ok() && !all.iter().any(|known| known.id.node() == node) {
                    all.push(FoundName { id });
                }
            }
            LookupKind::One(request_id) => {
                let request_id = *request_id;
                if self.answered.len() == ANSWERED_MAX {
                    self.answered.pop_front();
                }
                self.answered.push_back((found.request, lookup.name.clone(), node));
                let name = self.cancel_lookup(cx, peers, found.request);
                complete_lookup(driver, request_id, name, type_check.map(|()| FoundName { id }));
            }
        }
    }

    /// A peer has sent a result for a lookup that another one has answered: both have the name. Names are unique on a node
    /// only, so this is allowed, but perhaps not intended.
    fn warn_of_second_name(&self, cx: &mut NodeCx, peers: &Peers, node: NodeId, lookup_number: u64) {
        let answered = self.answered.iter().find(|(number, ..)| *number == lookup_number);
        let Some((_, name, first)) = answered.filter(|(.., first)| *first != node) else { return };
        let (name, first) = (name.clone(), *first);
        if cx.may_log("second name", &name) {
            tracing::warn!(
                name, one = %describe_peer(peers, first), other = %describe_peer(peers, node),
                "two nodes have registered one name; a lookup finds the first that answers (logged at most once an hour)"
            );
        }
    }

    /// A peer has refused a lookup. It fails if it was for that peer alone; otherwise another peer may have the name.
    fn on_lookup_refused(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        node: NodeId,
        lookup_number: u64,
        driver: &mut impl Driver,
    ) {
        let Some(lookup) = self.lookups.get_mut(&lookup_number) else { return };
        if !lookup.peers.remove(&node) {
            return;
        }
        lookup.refused = true;
        if let (LookupKind::One(request_id), Some(_)) = (&lookup.kind, lookup.at) {
            let request_id = *request_id;
            let name = self.cancel_lookup(cx, peers, lookup_number);
            complete_lookup(driver, request_id, name, Err(LocateError::Refused));
        }
    }

    /// A dial of a location has failed: the lookups there fail with this reason, at once if it lasts.
    pub(super) fn fail_lookups_at(
        &mut self,
        cx: &mut NodeCx,
        at: SocketAddr,
        error: DialError,
        is_lasting: bool,
    ) {
        let lookups = self.lookups.iter_mut();
        for (number, lookup) in lookups.filter(|(_, lookup)| lookup.at.is_some_and(|own| own.addr() == at)) {
            if lookup.peers.is_empty() {
                lookup.unreachable = Some(error);
                if is_lasting {
                    cx.timers.remove(lookup.until, NodeTimer::Lookup(*number));
                    lookup.until = cx.now;
                    cx.timers.add(lookup.until, NodeTimer::Lookup(*number));
                }
            }
        }
    }

    /// Removes a lookup, and cancels it at the peers that keep it. Returns the name.
    fn cancel_lookup(&mut self, cx: &mut NodeCx, peers: &mut Peers, lookup_number: u64) -> Box<str> {
        let Some(lookup) = self.lookups.remove(&lookup_number) else { return Box::default() };
        cx.timers.remove(lookup.until, NodeTimer::Lookup(lookup_number));
        for node in lookup.peers {
            let Some(peer) = peers.get_mut(node) else { continue };
            let Some(peer_session) = peer.session_mut() else { continue };
            if let Err(reason) = peer_session.session.send(&CancelLookup { request: lookup_number }.into()) {
                tracing::debug!(%node, %reason, "the cancellation of a lookup was not sent; the lookup ends with the session");
            }
            peer.mark_dirty(cx);
        }
        lookup.name
    }

    pub(super) fn on_lookup_due(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        lookup_number: u64,
        driver: &mut impl Driver,
    ) {
        if let Some(lookup) = self.node_lookups.remove(&lookup_number) {
            let timed_out: Result<Location, LocateError> = Err(LocateError::TimedOut);
            return complete_if_open(driver.local().requests(), lookup.request_id, timed_out);
        }
        let open = self.lookups.get_mut(&lookup_number).map(|lookup| match &mut lookup.kind {
            LookupKind::One(request_id) => (*request_id, None),
            LookupKind::All(request_id, found) => (*request_id, Some(std::mem::take(found))),
        });
        let reason = match self.lookups.get(&lookup_number) {
            Some(OpenLookup { refused: true, .. }) => LocateError::Refused,
            Some(OpenLookup { unreachable: Some(error), .. }) => LocateError::Unreachable(*error),
            Some(_) | None => LocateError::TimedOut,
        };
        let name = self.cancel_lookup(cx, peers, lookup_number);
        match open {
            Some((request_id, None)) => complete_lookup(driver, request_id, name, Err(reason)),
            Some((request_id, Some(found))) => {
                let all: Result<Vec<FoundName>, LocateError> = Ok(found);
                complete_if_open(driver.local().requests(), request_id, all);
            }
            None => {}
        }
    }

    /// Looks for a node by its name. Returns the result if it is known now; otherwise the request completes later.
    pub(super) fn locate_node(
        &mut self,
        cx: &mut NodeCx,
        peers: &Peers,
        request_id: RequestId,
        name: &str,
        timeout: Duration,
    ) -> Option<Result<Location, LocateError>> {
        if let Some(refusal) = self.lookup_refusal(name, "") {
            return Some(Err(refusal));
        }
        if cx.settings.name == name {
            return Some(Ok(cx.settings.location));
        }
        let known = peers.iter().find(|peer| peer.name == name && peer.is_online());
        if let Some(location) = known.and_then(|peer| peer.location()) {
            return Some(Ok(location));
        }
        let lookup_number = cx.next_number();
        let until = cx.now + timeout;
        cx.timers.add(until, NodeTimer::Lookup(lookup_number));
        self.node_lookups.insert(lookup_number, NodeLookup { name: name.into(), request_id, until });
        None
    }

    /// A session with a node has begun: completes the lookups of its name.
    pub(super) fn complete_node_lookups(
        &mut self,
        cx: &mut NodeCx,
        peers: &Peers,
        node: NodeId,
        driver: &mut impl Driver,
    ) {
        let Some((name, Some(location))) = peers.get(node).map(|peer| (peer.name.clone(), peer.location()))
        else {
            return;
        };
        let fitting: Vec<u64> =
            self.node_lookups.iter().filter(|(_, lookup)| *lookup.name == *name).map(|(id, _)| *id).collect();
        for lookup_number in fitting {
            if let Some(lookup) = self.node_lookups.remove(&lookup_number) {
                cx.timers.remove(lookup.until, NodeTimer::Lookup(lookup_number));
                let found: Result<Location, LocateError> = Ok(location);
                complete_if_open(driver.local().requests(), lookup.request_id, found);
            }
        }
    }
}

fn describe_peer(peers: &Peers, node: NodeId) -> String {
    let peer = peers.get(node);
    let location = peer.and_then(Peer::location).map(|at| at.to_string());
    let name = peer.map(|peer| &*peer.name).unwrap_or_default();
    format!("{} at {}", printable(name), location.unwrap_or_else(|| node.to_string()))
}

fn send_found(peer: &mut Peer, lookup_number: u64, key: Key, tag: &str) {
    let Some(peer_session) = peer.session_mut() else { return };
    match peer_session.session.intern(tag) {
        Ok(tag) => {
            let result = LookupResult::Found { key, tag };
            send_result(peer, &Found { request: lookup_number, result });
        }
        // The lookup at the peer times out.
        Err(reason) => tracing::debug!(%reason, "the type of a found name was not sent"),
    }
}

fn send_result(peer: &mut Peer, found: &Found) {
    let Some(peer_session) = peer.session_mut() else { return };
    if let Err(reason) = peer_session.session.send(&(*found).into()) {
        // The lookup at the peer times out.
        tracing::debug!(%reason, "the result of a lookup was not sent");
    }
}

fn check_type(wanted: &str, found: &str) -> Result<(), LocateError> {
    if wanted == found {
        Ok(())
    } else {
        Err(LocateError::WrongType { expected: wanted.to_owned(), found: printable(found) })
    }
}

fn complete_lookup(
    driver: &mut impl Driver,
    request_id: RequestId,
    name: Box<str>,
    found: Result<FoundName, LocateError>,
) {
    let mut local = driver.local();
    if let Some(asker) = local.requests().owner(request_id) {
        log_lookup(&name, asker, &found);
    }
    complete_if_open(local.requests(), request_id, found);
}

fn log_lookup(name: &str, asker: Key, found: &Result<FoundName, LocateError>) {
    match found {
        Ok(found) => {
            tracing::debug!(target: "antiphon::names", name, actor = %asker, found = %found.id, "a lookup has found its name")
        }
        Err(reason) => {
            tracing::debug!(target: "antiphon::names", name, actor = %asker, %reason, "a lookup has failed")
        }
    }
}
