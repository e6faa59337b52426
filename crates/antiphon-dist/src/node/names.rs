//! Names: what is registered here, and who looks for what.
//!
//! A node is the sole authority for its own names. Who looks for one leaves a *want* with the peers, answered
//! now or when the name appears, and withdrawn in the end: memory follows open questions, not names.
//!
//! Invariant: a want of this node is answered once; a name belongs to a living actor.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use antiphon_sched::{ActorId, Key, NodeId, RequestId, TYPE_NAME_MAX, Time};
use antiphon_wire::frame::{CancelLookup, Found, Lookup, LookupResult, NameSpace};

use super::driver::Driver;
use super::peer_session::PeerSession;
use super::timers::{NodeTimer, TimerQueue};
use super::{NodeCore, sched_key, settle, wire_key};
use crate::error::{LocateError, RegisterError};
use crate::location::Location;

/// Names of one node, and its own open questions.
const NAMES_MAX: usize = 65_536;
const NAME_BYTES_MAX: usize = 255;

/// Which kind of thing a name stands for. Names of different spaces never meet.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub enum Space {
    /// Actors.
    Actor,
    /// Channels.
    Channel,
    /// Functions that peers may call.
    Rci,
    /// What every node has, such as the keeper of its files: nobody registers there by hand.
    Service,
}

impl Space {
    fn on_the_wire(self) -> NameSpace {
        match self {
            Self::Actor => NameSpace::Actor,
            Self::Channel => NameSpace::Channel,
            Self::Rci => NameSpace::Rci,
            Self::Service => NameSpace::Service,
        }
    }

    /// `None` for names that this version does not have.
    fn from_the_wire(space: NameSpace) -> Option<Self> {
        match space {
            NameSpace::Actor => Some(Self::Actor),
            NameSpace::Channel => Some(Self::Channel),
            NameSpace::Rci => Some(Self::Rci),
            NameSpace::Service => Some(Self::Service),
            NameSpace::Node => None,
        }
    }
}

/// What a name stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FoundName {
    pub(crate) id: ActorId,
}

/// The state of a question that was just put.
pub(crate) enum LookupStart {
    Now(Result<FoundName, LocateError>),
    /// The port will be answered.
    Later,
}

/// A name within its space.
type FullName = (Space, Box<str>);

#[derive(Debug, Default)]
pub(super) struct NameRegistry {
    registered: BTreeMap<FullName, Registration>,
    owned: BTreeMap<Key, BTreeSet<FullName>>,
    /// Questions of this node.
    lookups: BTreeMap<u64, OpenLookup>,
    node_lookups: BTreeMap<u64, NodeLookup>,
    /// Questions of peers, by name.
    asked: BTreeMap<FullName, BTreeSet<(NodeId, u64)>>,
    asked_by: BTreeMap<NodeId, BTreeMap<u64, FullName>>,
    /// Names that peers look for, and that came, or whose audience has changed, since the last tick: whoever registers one
    /// can say in the same step to whom it is open.
    fresh: BTreeSet<FullName>,
}

#[derive(Debug)]
struct Registration {
    key: Key,
    tag: &'static str,
    /// Who may take the name back: the actor itself, or who opened a channel or RCI; `None` is the node.
    owner: Option<Key>,
}

#[derive(Debug)]
struct OpenLookup {
    space: Space,
    name: Box<str>,
    tag: &'static str,
    at: Option<Location>,
    answer: LookupKind,
    until: Time,
    /// The peers with which it was left, in sessions that last, and which have not answered.
    asked: BTreeSet<NodeId>,
    /// Somebody who was asked keeps no more questions of this node's.
    refused: bool,
}

#[derive(Debug)]
enum LookupKind {
    /// The first answer wins.
    One(RequestId),
    /// All answers until the time is over.
    All(RequestId, Vec<FoundName>),
}

#[derive(Debug)]
struct NodeLookup {
    name: Box<str>,
    request_id: RequestId,
    until: Time,
}

impl NameRegistry {
    /// Who looks for a name that there is may be admitted now.
    pub(super) fn look_again(&mut self) {
        self.fresh.extend(self.asked.keys().filter(|name| self.registered.contains_key(*name)).cloned());
    }

    pub(super) fn has_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// Names that users gave: all but those of services.
    pub(super) fn given_len(&self) -> usize {
        self.registered.keys().filter(|(space, _)| *space != Space::Service).count()
    }

    pub(super) fn lookups_len(&self) -> usize {
        let asked: usize = self.asked.values().map(BTreeSet::len).sum();
        self.lookups.len() + self.node_lookups.len() + asked
    }

    /// Whether somebody here looks for a name that the peer might have, or there for one of this node's.
    pub(super) fn has_lookups_with(&self, peer: NodeId) -> bool {
        !self.lookups.is_empty() || self.asked_by.get(&peer).is_some_and(|lookups| !lookups.is_empty())
    }

    pub(super) fn forget_lookup_of(&mut self, peer: NodeId, request: u64) {
        let Some(lookups) = self.asked_by.get_mut(&peer) else { return };
        if let Some(name) = lookups.remove(&request) {
            self.forget_asked(&name, peer, request);
        }
    }

    pub(super) fn check(&self, timers: &TimerQueue) {
        for (name, askers) in &self.asked {
            let is_mirrored = |(peer, request): &(NodeId, u64)| {
                self.asked_by.get(peer).and_then(|lookups| lookups.get(request)) == Some(name)
            };
            assert!(
                !askers.is_empty() && askers.iter().all(is_mirrored),
                "both tables hold the same questions"
            );
        }
        let asked: usize = self.asked.values().map(BTreeSet::len).sum();
        let asked_by: usize = self.asked_by.values().map(BTreeMap::len).sum();
        assert_eq!(asked, asked_by, "both tables hold the same questions");
        let owned: usize = self.owned.values().map(BTreeSet::len).sum();
        assert!(owned <= self.registered.len(), "nobody owns a name that is not registered");
        let is_timed =
            |(lookup, wanted): (&u64, &OpenLookup)| timers.has(wanted.until, NodeTimer::Lookup(*lookup));
        assert!(self.lookups.iter().all(is_timed), "a question's time is on the agenda");
    }

    fn forget_asked(&mut self, name: &FullName, peer: NodeId, request: u64) {
        if let Some(askers) = self.asked.get_mut(name) {
            askers.remove(&(peer, request));
            if askers.is_empty() {
                self.asked.remove(name);
            }
        }
    }

    /// The peers with which a question of this node's stands.
    pub(super) fn asked_peers(&self) -> impl Iterator<Item = NodeId> {
        self.lookups.values().flat_map(|lookup| lookup.asked.iter().copied())
    }

    pub(super) fn forget_peer(&mut self, peer: NodeId) {
        for lookup in self.lookups.values_mut() {
            lookup.asked.remove(&peer);
        }
        for (request, name) in self.asked_by.remove(&peer).unwrap_or_default() {
            self.forget_asked(&name, peer, request);
        }
    }
}

fn check_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
}

impl NodeCore {
    /// Whether a name could be registered now.
    pub(crate) fn check_free(&self, space: Space, name: &str) -> Result<(), RegisterError> {
        if !check_name(name) {
            return Err(RegisterError::BadName);
        }
        if self.names.registered.contains_key(&(space, Box::from(name))) {
            return Err(RegisterError::Taken { name: name.to_owned() });
        }
        if self.names.registered.len() >= NAMES_MAX { Err(RegisterError::TooMany) } else { Ok(()) }
    }

    /// Registers an actor of this node. The ports of this node's own that looked for the name come back, to be
    /// answered; peers are told at the next tick.
    pub(crate) fn register(
        &mut self,
        (space, name): (Space, &str),
        key: Key,
        tag: &'static str,
        owner: Option<Key>,
    ) -> Result<Vec<RequestId>, RegisterError> {
        if tag.len() > TYPE_NAME_MAX {
            return Err(RegisterError::TypeNameTooLong { bytes: tag.len() });
        }
        let full = (space, Box::from(name));
        if self.names.registered.get(&full).is_some_and(|own| own.key == key) {
            return Ok(Vec::new());
        }
        self.check_free(space, name)?;
        self.names.owned.entry(key).or_default().insert(full.clone());
        self.names.registered.insert(full.clone(), Registration { key, tag, owner });
        if self.names.asked.contains_key(&full) {
            self.names.fresh.insert(full.clone());
        }
        Ok(self.settle_own_lookups(&full, key, tag))
    }

    /// The ports of this node's own questions that a new name answers.
    fn settle_own_lookups(&mut self, full: &FullName, key: Key, tag: &'static str) -> Vec<RequestId> {
        let id = ActorId::new(self.me, key);
        let here = self.settings.location;
        let fits = |lookup: &OpenLookup| {
            lookup.space == full.0
                && lookup.name == full.1
                && lookup.tag == tag
                && lookup.at.is_none_or(|at| at == here)
        };
        let fitting: Vec<u64> = self
            .names
            .lookups
            .iter()
            .filter(|(_, lookup)| fits(lookup))
            .map(|(request, _)| *request)
            .collect();
        let mut request_ids = Vec::new();
        for request in fitting {
            match self.names.lookups.get_mut(&request).map(|lookup| &mut lookup.answer) {
                Some(LookupKind::All(_, found)) => found.push(FoundName { id }),
                Some(LookupKind::One(request_id)) => {
                    request_ids.push(*request_id);
                    self.withdraw(request);
                }
                None => {}
            }
        }
        request_ids
    }

    /// Takes a name back from its owner. Answers for whom it stood.
    pub(crate) fn unregister(
        &mut self,
        space: Space,
        name: &str,
        owner: Option<Key>,
    ) -> Result<Key, RegisterError> {
        let full = (space, Box::from(name));
        let registered = self.names.registered.get(&full).filter(|registered| registered.owner == owner);
        let Some(key) = registered.map(|registered| registered.key) else {
            return Err(RegisterError::NotOwner { name: name.to_owned() });
        };
        self.names.registered.remove(&full);
        if let Some(owned) = self.names.owned.get_mut(&key) {
            owned.remove(&full);
            if owned.is_empty() {
                self.names.owned.remove(&key);
            }
        }
        Ok(key)
    }

    /// The owner of names has ended.
    pub(super) fn unregister_all(&mut self, key: Key) {
        for full in self.names.owned.remove(&key).unwrap_or_default() {
            self.names.registered.remove(&full);
        }
    }

    /// Looks for a name: here first, then wherever it may be, now or later.
    pub(crate) fn locate(
        &mut self,
        request_id: RequestId,
        (space, name): (Space, &str),
        tag: &'static str,
        at: Option<Location>,
        timeout: Duration,
    ) -> LookupStart {
        if let Some(refusal) = self.refuse_lookup(name, tag) {
            return LookupStart::Now(Err(refusal));
        }
        let full = (space, Box::from(name));
        if at.is_none_or(|at| at == self.settings.location)
            && let Some(registered) = self.names.registered.get(&full)
        {
            let id = ActorId::new(self.me, registered.key);
            return LookupStart::Now(fit(tag, registered.tag).map(|()| FoundName { id }));
        }
        self.add_lookup(full, tag, at, LookupKind::One(request_id), timeout);
        LookupStart::Later
    }

    /// Collects all that bear a name until the time is over.
    pub(crate) fn locate_all(
        &mut self,
        request_id: RequestId,
        (space, name): (Space, &str),
        tag: &'static str,
        timeout: Duration,
    ) -> Result<(), LocateError> {
        if let Some(refusal) = self.refuse_lookup(name, tag) {
            return Err(refusal);
        }
        let full = (space, Box::from(name));
        let here = self.names.registered.get(&full).filter(|registered| registered.tag == tag);
        let found = here.map(|registered| FoundName { id: ActorId::new(self.me, registered.key) });
        self.add_lookup(full, tag, None, LookupKind::All(request_id, found.into_iter().collect()), timeout);
        Ok(())
    }

    fn refuse_lookup(&self, name: &str, tag: &str) -> Option<LocateError> {
        if !check_name(name) {
            return Some(LocateError::BadName);
        }
        if tag.len() > TYPE_NAME_MAX {
            return Some(LocateError::TypeNameTooLong { bytes: tag.len() });
        }
        let full = self.names.lookups.len() + self.names.node_lookups.len() >= NAMES_MAX;
        full.then_some(LocateError::TooManyOpen)
    }

    fn add_lookup(
        &mut self,
        (space, name): FullName,
        tag: &'static str,
        at: Option<Location>,
        answer: LookupKind,
        timeout: Duration,
    ) {
        let request = self.next_request();
        let until = self.now + timeout;
        self.timers.add(until, NodeTimer::Lookup(request));
        if let Some(at) = at
            && !self.is_connected_to(at.addr())
        {
            self.dial_once(at.addr(), until);
        }
        let asked = BTreeSet::new();
        let lookup = OpenLookup { space, name, tag, at, answer, until, asked, refused: false };
        self.names.lookups.insert(request, lookup);
        let nodes: Vec<NodeId> = self.peers.keys().copied().collect();
        for node in nodes {
            self.send_lookup(node, request);
        }
    }

    /// Leaves a question with a peer, if it concerns that peer.
    fn send_lookup(&mut self, node: NodeId, request: u64) {
        let Some(lookup) = self.names.lookups.get_mut(&request) else { return };
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let dialled = peer.peer_session.as_ref().and_then(|peer_session| peer_session.dialled);
        let concerned = lookup.at.is_none_or(|at| peer.is_at(at.addr()) || dialled == Some(at.addr()));
        let Some(peer_session) = peer.peer_session.as_mut().filter(|_| concerned) else { return };
        let all = matches!(lookup.answer, LookupKind::All(..));
        let frame = Lookup { request, space: lookup.space.on_the_wire(), all, name: &lookup.name };
        match peer_session.session.send(&frame.into()) {
            Ok(()) => {
                lookup.asked.insert(node);
            }
            Err(reason) => {
                tracing::debug!(%node, %reason, "a question for a name was not sent; it is repeated when they meet again");
            }
        }
        self.mark_dirty(node);
    }

    /// A session has begun: the new peer may know what is looked for.
    pub(super) fn repeat_lookups_to(&mut self, node: NodeId) {
        let requests: Vec<u64> = self.names.lookups.keys().copied().collect();
        for request in requests {
            self.send_lookup(node, request);
        }
    }

    /// Answers the peers that look for names that have come, if those are open to them.
    pub(super) fn answer_fresh(&mut self, driver: &mut impl Driver) {
        for full in std::mem::take(&mut self.names.fresh) {
            let Some(registered) = self.names.registered.get(&full) else { continue };
            let (key, tag) = (registered.key, registered.tag);
            for (peer, request) in self.names.asked.get(&full).cloned().unwrap_or_default() {
                if self.allows(peer, key, driver) {
                    self.answer_lookup(peer, request, key, tag);
                }
            }
        }
    }

    /// A peer looks for a name of this node's.
    pub(super) fn on_lookup(
        &mut self,
        node: NodeId,
        peer_session: &mut PeerSession,
        lookup: &Lookup<'_>,
        driver: &mut impl Driver,
    ) {
        let request = lookup.request;
        // Where this version has no such names, the question stays open, as for any name that nobody has.
        let Some(space) = Space::from_the_wire(lookup.space) else { return };
        let refusal = (!check_name(lookup.name)).then_some(LookupResult::BadName);
        let asked = self.names.asked_by.get(&node).map_or(0, BTreeMap::len);
        let too_many = asked >= self.settings.peer_limits.lookups_max;
        let refusal = refusal.or(too_many.then_some(LookupResult::TooMany));
        if let Some(what) = refusal {
            if too_many {
                self.counts.refusals.lookups += 1;
                self.log_refused(node, "wants", "looks for more names than it may");
            }
            return reply(peer_session, &Found { request, what });
        }
        let full: FullName = (space, lookup.name.into());
        if let Some(registered) = self.names.registered.get(&full) {
            let (key, tag) = (registered.key, registered.tag);
            if self.allows(node, key, driver) {
                return send_found(peer_session, request, key, tag);
            }
        }
        self.names.forget_lookup_of(node, request);
        self.names.asked.entry(full.clone()).or_default().insert((node, request));
        self.names.asked_by.entry(node).or_default().insert(request, full);
    }

    /// Answers a peer's question that was left here.
    fn answer_lookup(&mut self, node: NodeId, request: u64, key: Key, tag: &'static str) {
        self.names.forget_lookup_of(node, request);
        if let Some(peer_session) = self.peers.get_mut(&node).and_then(|peer| peer.peer_session.as_mut()) {
            send_found(peer_session, request, key, tag);
            self.mark_dirty(node);
        }
    }

    /// A peer has what this node looks for.
    pub(super) fn on_found(
        &mut self,
        node: NodeId,
        peer_session: &mut PeerSession,
        found: &Found,
        driver: &mut impl Driver,
    ) {
        let (key, tag) = match found.what {
            LookupResult::Here { key, tag } => (key, tag),
            LookupResult::TooMany | LookupResult::BadName => {
                return self.on_lookup_refused(node, found.request, driver);
            }
        };
        let Some(lookup) = self.names.lookups.get_mut(&found.request) else { return };
        let Some(told) = peer_session.session.tag_name(tag) else { return };
        let is_there = |at: Location| {
            let peer = self.peers.get(&node);
            peer_session.dialled == Some(at.addr()) || peer.is_some_and(|peer| peer.is_at(at.addr()))
        };
        if !lookup.at.is_none_or(is_there) {
            // Nobody asked this peer.
            return;
        }
        // It has answered, and so forgotten the question.
        lookup.asked.remove(&node);
        let id = ActorId::new(node, sched_key(key));
        let fits = fit(lookup.tag, told);
        match &mut lookup.answer {
            LookupKind::All(_, all) => {
                // A name stands for one thing at each node.
                if fits.is_ok() && !all.iter().any(|known| known.id.node() == node) {
                    all.push(FoundName { id });
                }
            }
            LookupKind::One(request_id) => {
                let request_id = *request_id;
                self.withdraw(found.request);
                tell(driver, request_id, fits.map(|()| FoundName { id }));
            }
        }
    }

    /// A peer that was asked keeps no more questions of this node's. Others may have the name, unless it was looked for there
    /// alone.
    fn on_lookup_refused(&mut self, node: NodeId, request: u64, driver: &mut impl Driver) {
        let Some(lookup) = self.names.lookups.get_mut(&request) else { return };
        if !lookup.asked.remove(&node) {
            return;
        }
        lookup.refused = true;
        if let (LookupKind::One(request_id), Some(_)) = (&lookup.answer, lookup.at) {
            let request_id = *request_id;
            self.withdraw(request);
            tell(driver, request_id, Err(LocateError::Refused));
        }
    }

    /// A question is over: the peers that were asked may forget it.
    fn withdraw(&mut self, request: u64) {
        let Some(lookup) = self.names.lookups.remove(&request) else { return };
        self.timers.remove(lookup.until, NodeTimer::Lookup(request));
        for node in lookup.asked {
            let Some(peer_session) = self.peers.get_mut(&node).and_then(|peer| peer.peer_session.as_mut())
            else {
                continue;
            };
            if let Err(reason) = peer_session.session.send(&CancelLookup { request }.into()) {
                tracing::debug!(%node, %reason, "a question was not withdrawn; it ends with the session");
            }
            self.mark_dirty(node);
        }
    }

    pub(super) fn on_lookup_due(&mut self, request: u64, driver: &mut impl Driver) {
        if let Some(lookup) = self.names.node_lookups.remove(&request) {
            let nobody: Result<Location, LocateError> = Err(LocateError::TimedOut);
            return settle(&mut driver.loop_ref(), lookup.request_id, nobody);
        }
        let answer_to = self.names.lookups.get_mut(&request).map(|lookup| match &mut lookup.answer {
            LookupKind::One(request_id) => (*request_id, None),
            LookupKind::All(request_id, found) => (*request_id, Some(std::mem::take(found))),
        });
        let is_refused = self.names.lookups.get(&request).is_some_and(|lookup| lookup.refused);
        self.withdraw(request);
        match answer_to {
            Some((request_id, None)) if is_refused => tell(driver, request_id, Err(LocateError::Refused)),
            Some((request_id, None)) => tell(driver, request_id, Err(LocateError::TimedOut)),
            Some((request_id, Some(found))) => {
                let all: Result<Vec<FoundName>, LocateError> = Ok(found);
                settle(&mut driver.loop_ref(), request_id, all);
            }
            None => {}
        }
    }

    /// Looks for a node by its name.
    pub(crate) fn locate_node(
        &mut self,
        request_id: RequestId,
        name: &str,
        timeout: Duration,
    ) -> Option<Result<Location, LocateError>> {
        if let Some(refusal) = self.refuse_lookup(name, "") {
            return Some(Err(refusal));
        }
        if self.settings.name == name {
            return Some(Ok(self.settings.location));
        }
        let known = self.peers.values().find(|peer| peer.name == name && peer.is_online());
        if let Some(location) = known.and_then(|peer| peer.location()) {
            return Some(Ok(location));
        }
        let request = self.next_request();
        let until = self.now + timeout;
        self.timers.add(until, NodeTimer::Lookup(request));
        self.names.node_lookups.insert(request, NodeLookup { name: name.into(), request_id, until });
        None
    }

    /// A node has been met: somebody may be looking for it.
    pub(super) fn settle_node_lookups(&mut self, node: NodeId, driver: &mut impl Driver) {
        let Some((name, Some(location))) =
            self.peers.get(&node).map(|peer| (peer.name.clone(), peer.location()))
        else {
            return;
        };
        let fitting: Vec<u64> = self
            .names
            .node_lookups
            .iter()
            .filter(|(_, lookup)| *lookup.name == *name)
            .map(|(id, _)| *id)
            .collect();
        for request in fitting {
            if let Some(lookup) = self.names.node_lookups.remove(&request) {
                self.timers.remove(lookup.until, NodeTimer::Lookup(request));
                let found: Result<Location, LocateError> = Ok(location);
                settle(&mut driver.loop_ref(), lookup.request_id, found);
            }
        }
    }
}

fn send_found(peer_session: &mut PeerSession, request: u64, key: Key, tag: &str) {
    match peer_session.session.intern(tag) {
        Ok(tag) => {
            let what = LookupResult::Here { key: wire_key(key), tag };
            reply(peer_session, &Found { request, what });
        }
        // The asker is told `TimedOut`.
        Err(reason) => tracing::debug!(%reason, "a name's type cannot be told to a peer"),
    }
}

fn reply(peer_session: &mut PeerSession, found: &Found) {
    if let Err(reason) = peer_session.session.send(&(*found).into()) {
        // The asker is told `TimedOut`.
        tracing::debug!(%reason, "an answer to a question for a name was not sent");
    }
}

fn fit(wanted: &str, found: &str) -> Result<(), LocateError> {
    if wanted == found {
        Ok(())
    } else {
        Err(LocateError::WrongType { wanted: wanted.to_owned(), found: found.to_owned() })
    }
}

fn tell(driver: &mut impl Driver, request_id: RequestId, found: Result<FoundName, LocateError>) {
    settle(&mut driver.loop_ref(), request_id, found);
}
