//! All sockets of a loop: who is ready, who waits for room, who has something to write.
//!
//! A socket is taken out of the table while it is served, so that the loop is free for what it tells.
//!
//! Invariant: a socket with an owner stands in the owner's side entry; one without is being closed in good order,
//! and a timer ends it. `queued` and `stalled` say whether it is in those lists, at most once in each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::time::Duration;

use rustc_hash::FxHashMap;

#[cfg(unix)]
use super::child::Child;
use super::listener::Listener;
use super::tcp::Tcp;
use super::udp::UdpPort;
use crate::core::Core;
use crate::id::Key;
use crate::panic_guard;
use crate::readiness::{Source, SourceOwner};
use crate::timers::{DueTimer, TimerKey};

/// Sockets served in one round, unless the time is over before.
const SERVED_A_ROUND: usize = 1024;
/// Of them, connections that are being agreed on: a step of TLS may take milliseconds.
const NEGOTIATIONS_A_ROUND: usize = 2;
/// Read at once.
const SPACE_BYTES: usize = 64 << 10;
/// From here on numbers are of what is no `Conn`, so that those stay small.
const FIRST_UNSHOWN: u64 = 1 << 62;

/// A socket's number, used once in its loop.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct SocketId(pub(crate) u64);

/// Which descriptor of a socket; a child process has several.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[cfg_attr(not(unix), expect(dead_code, reason = "child processes need pipes"))]
pub(crate) enum FdRole {
    Main,
    Stdout,
    Stderr,
    Exit,
}

/// What a socket's descriptors are ready for since it was last served.
#[derive(Copy, Clone, Default, Debug)]
pub(crate) struct FdReadiness(u8);

impl FdReadiness {
    fn add(&mut self, part: FdRole, readable: bool, writable: bool) {
        self.0 |= (u8::from(readable) | u8::from(writable) << 1) << (2 * part as u8);
    }

    pub(crate) fn is_readable(self, part: FdRole) -> bool {
        self.0 >> (2 * part as u8) & 1 != 0
    }

    pub(crate) fn is_writable(self, part: FdRole) -> bool {
        self.0 >> (2 * part as u8) & 2 != 0
    }
}

struct SocketEntry {
    /// `None` once the actor has been told the end, or has ended itself.
    owner: Option<Key>,
    kind: SocketKind,
    timer: Option<TimerKey>,
    events: FdReadiness,
    queued: bool,
    stalled: bool,
    dirty: bool,
}

pub(crate) enum SocketKind {
    Listener(Listener),
    Tcp(Box<Tcp>),
    Udp(UdpPort),
    #[cfg(unix)]
    Child(Box<Child>),
}

/// A socket that is being served: it and its timer are out of the table.
pub(crate) struct SocketGuard<'a> {
    pub(crate) core: &'a mut Core,
    pub(crate) id: SocketId,
    pub(crate) owner: Option<Key>,
    timer: Option<TimerKey>,
    /// It has more to write, when the others had their turn.
    pub(crate) writes_on: bool,
}

/// How a socket was left.
pub(crate) enum Served {
    /// It says when it is ready.
    Rest,
    /// It was cut off by its share.
    Again,
    /// It waits for room in its actor's mailbox; whether it told something before.
    Full { fed: bool },
    /// The actor has nothing to do with it any more; it goes on by itself.
    Orphan,
    /// It has ended, and was told so.
    Gone,
}

/// Sockets that wait for room in one mailbox. Those that told nothing last time come first.
#[derive(Default)]
struct Stalled {
    starved: Vec<SocketId>,
    fed: Vec<SocketId>,
}

#[derive(Default)]
pub(crate) struct SocketTable {
    entries: FxHashMap<SocketId, SocketEntry>,
    ready: VecDeque<SocketId>,
    stalled: BTreeMap<Key, Stalled>,
    dirty: Vec<SocketId>,
    /// Where sockets are read to.
    space: Vec<u8>,
    conns: u64,
    unshown: u64,
}

impl SocketTable {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn next_conn(&mut self) -> SocketId {
        self.conns += 1;
        SocketId(self.conns)
    }

    pub(crate) fn next_unshown(&mut self) -> SocketId {
        self.unshown += 1;
        SocketId(FIRST_UNSHOWN + self.unshown)
    }

    /// Whether any can go on right now.
    pub(crate) fn is_busy(&self) -> bool {
        !self.ready.is_empty() || !self.dirty.is_empty()
    }

    /// Notes readiness.
    pub(crate) fn note(&mut self, id: SocketId, part: FdRole, readable: bool, writable: bool) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.events.add(part, readable, writable);
        self.queue(id);
    }

    fn queue(&mut self, id: SocketId) {
        if let Some(entry) = self.entries.get_mut(&id)
            && !std::mem::replace(&mut entry.queued, true)
        {
            self.ready.push_back(id);
        }
    }

    /// Has what was written go out at the end of this round.
    pub(crate) fn mark_dirty(&mut self, id: SocketId) {
        if let Some(entry) = self.entries.get_mut(&id)
            && !std::mem::replace(&mut entry.dirty, true)
        {
            self.dirty.push(id);
        }
    }

    fn stall(&mut self, id: SocketId, fed: bool) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let Some(owner) = entry.owner.filter(|_| !std::mem::replace(&mut entry.stalled, true)) else {
            return;
        };
        let stalled = self.stalled.entry(owner).or_default();
        if fed { stalled.fed.push(id) } else { stalled.starved.push(id) }
    }

    /// A socket of an actor's.
    pub(crate) fn kind(&self, id: SocketId, owner: Key) -> Option<&SocketKind> {
        self.entries.get(&id).filter(|entry| entry.owner == Some(owner)).map(|entry| &entry.kind)
    }

    fn is_negotiating(&self, id: SocketId) -> bool {
        matches!(self.entries.get(&id), Some(SocketEntry { kind: SocketKind::Tcp(tcp), .. }) if tcp.is_negotiating())
    }

    /// A listener, unless it is being served.
    pub(crate) fn listener(&mut self, id: SocketId) -> Option<&mut Listener> {
        match &mut self.entries.get_mut(&id)?.kind {
            SocketKind::Listener(listener) => Some(listener),
            _ => None,
        }
    }

    /// The loop ends. Drops all, each in a catch of its own: constructors are the users'.
    pub(crate) fn drop_all(&mut self) {
        for (_, mut entry) in self.entries.drain() {
            panic_guard::log_panic(|| {
                if let SocketKind::Tcp(tcp) = &mut entry.kind {
                    tcp.say_end();
                }
                drop(entry);
            });
        }
    }
}

impl Core {
    /// Whether an actor lives, and its mailbox takes messages.
    pub(crate) fn has_room(&mut self, owner: Key) -> bool {
        let max = self.mailbox_max;
        self.any_mailbox(owner).is_some_and(|mailbox| !mailbox.is_full_of(max))
    }

    /// Puts a socket into the table; false when its actor has ended, in this very step.
    pub(crate) fn insert_socket(&mut self, id: SocketId, owner: Key, kind: SocketKind) -> bool {
        let entry = SocketEntry {
            owner: Some(owner),
            kind,
            timer: None,
            events: FdReadiness::default(),
            queued: false,
            stalled: false,
            dirty: false,
        };
        match self.extras(owner) {
            Some(extras) => {
                extras.sockets.insert(id);
                self.sockets.entries.insert(id, entry);
                true
            }
            None => {
                self.drop_socket(id, entry);
                false
            }
        }
    }

    /// Registers a descriptor of a socket's.
    pub(crate) fn watch_part(
        &mut self,
        id: SocketId,
        part: FdRole,
        source: &mut (impl mio::event::Source + ?Sized),
        interest: mio::Interest,
    ) -> io::Result<Source> {
        self.readiness.register(SourceOwner::SocketEvent(id, part), source, interest)
    }

    /// Has `act` see a socket, which is out of the table meanwhile.
    fn with_socket(
        &mut self,
        id: SocketId,
        act: impl FnOnce(&mut SocketGuard<'_>, &mut SocketEntry) -> Served,
    ) {
        let Some(mut entry) = self.sockets.entries.remove(&id) else { return };
        let (owner, timer) = (entry.owner, entry.timer.take());
        let mut hold = SocketGuard { core: self, id, owner, timer, writes_on: false };
        let fate = act(&mut hold, &mut entry);
        let writes_on = hold.writes_on;
        entry.timer = hold.timer;
        match fate {
            Served::Gone => return self.drop_socket(id, entry),
            Served::Orphan => self.disown(id, &mut entry),
            Served::Rest | Served::Again | Served::Full { .. } => {}
        }
        self.sockets.entries.insert(id, entry);
        match fate {
            Served::Again | Served::Orphan => self.sockets.queue(id),
            Served::Full { fed } => self.sockets.stall(id, fed),
            Served::Rest | Served::Gone => {}
        }
        if writes_on {
            self.sockets.mark_dirty(id);
        }
        // What it told may have ended the actor, whose other sockets are gone already.
        if owner.is_some_and(|owner| !self.actors.is_alive(owner)) {
            self.close_sockets_of([id].into());
        }
    }

    fn drop_socket(&mut self, id: SocketId, mut entry: SocketEntry) {
        if let Some(timer) = entry.timer.take() {
            self.wheel.cancel(timer);
        }
        self.disown(id, &mut entry);
        match &mut entry.kind {
            SocketKind::Listener(listener) => listener.leave(self),
            SocketKind::Tcp(tcp) => tcp.leave(self, id),
            SocketKind::Udp(udp) => udp.leave(self),
            #[cfg(unix)]
            SocketKind::Child(child) => child.leave(self),
        }
        panic_guard::log_panic(|| drop(entry));
    }

    /// The actor has nothing to do with the socket any more.
    fn disown(&mut self, id: SocketId, entry: &mut SocketEntry) {
        if let Some(owner) = entry.owner.take()
            && self.actors.is_alive(owner)
            && let Some(extras) = self.extras.get_mut(&owner.index())
        {
            extras.sockets.remove(&id);
            self.drop_idle_extras(owner);
        }
    }

    /// Serves the sockets that are ready, within a share of the round.
    pub(crate) fn serve_sockets(&mut self) {
        let mut space = std::mem::take(&mut self.sockets.space);
        space.resize(SPACE_BYTES, 0);
        let mut agreeing = Vec::new();
        for _ in 0..self.sockets.ready.len().min(SERVED_A_ROUND) {
            let Some(id) = self.sockets.ready.pop_front() else { break };
            if self.sockets.is_negotiating(id) {
                agreeing.push(id);
                continue;
            }
            self.serve_socket(id, &mut space);
            if self.is_round_over() {
                break;
            }
        }
        // After the others, and few: a step of theirs may take longer than all that the others want.
        for (nth, id) in agreeing.into_iter().enumerate() {
            match nth < NEGOTIATIONS_A_ROUND {
                true => self.serve_socket(id, &mut space),
                false => self.sockets.ready.push_back(id),
            }
        }
        self.sockets.space = space;
    }

    fn serve_socket(&mut self, id: SocketId, space: &mut [u8]) {
        self.with_socket(id, |hold, entry| {
            entry.queued = false;
            let events = std::mem::take(&mut entry.events);
            match &mut entry.kind {
                SocketKind::Listener(listener) => listener.serve(hold, events),
                SocketKind::Tcp(tcp) => tcp.serve(hold, events, space),
                SocketKind::Udp(udp) => udp.serve(hold, events, space),
                #[cfg(unix)]
                SocketKind::Child(child) => child.serve(hold, events, space),
            }
        });
    }

    /// Writes what actors wrote in this round, and lets those go on whose actors have room again.
    pub(crate) fn flush_sockets(&mut self) {
        for id in std::mem::take(&mut self.sockets.dirty) {
            self.with_socket(id, |hold, entry| {
                entry.dirty = false;
                match &mut entry.kind {
                    SocketKind::Tcp(tcp) => tcp.flush(hold),
                    #[cfg(unix)]
                    SocketKind::Child(child) => child.flush(hold),
                    SocketKind::Listener(_) | SocketKind::Udp(_) => Served::Rest,
                }
            });
        }
        self.resume_stalled();
    }

    fn resume_stalled(&mut self) {
        let owners: Vec<Key> = self.sockets.stalled.keys().copied().collect();
        for owner in owners {
            if self.actors.is_alive(owner) && !self.has_room(owner) {
                continue;
            }
            let Some(stalled) = self.sockets.stalled.remove(&owner) else { continue };
            for id in stalled.starved.into_iter().chain(stalled.fed) {
                if let Some(entry) = self.sockets.entries.get_mut(&id) {
                    entry.stalled = false;
                }
                self.sockets.queue(id);
            }
        }
    }

    /// The timer of a socket has fired.
    pub(crate) fn socket_timer(&mut self, id: SocketId) {
        self.with_socket(id, |hold, entry| {
            hold.untime();
            match &mut entry.kind {
                SocketKind::Tcp(tcp) => tcp.on_timer(hold),
                SocketKind::Listener(_) | SocketKind::Udp(_) => Served::Again,
                #[cfg(unix)]
                SocketKind::Child(_) => Served::Again,
            }
        });
    }

    /// The actor has taken the end of a socket: it writes no more.
    pub(crate) fn socket_seen(&mut self, id: SocketId, owner: Key) {
        self.with_own_tcp(id, owner, |tcp, hold| tcp.on_seen(hold));
    }

    /// Ends a socket of which nobody was told.
    pub(crate) fn drop_untold(&mut self, id: SocketId) {
        self.with_socket(id, |_, _| Served::Gone);
    }

    /// Has `act` see a socket of an actor's.
    pub(crate) fn with_own_socket(
        &mut self,
        id: SocketId,
        owner: Key,
        act: impl FnOnce(&mut SocketGuard<'_>, &mut SocketKind) -> Served,
    ) {
        if self.sockets.kind(id, owner).is_some() {
            self.with_socket(id, |hold, entry| act(hold, &mut entry.kind));
        }
    }

    /// As [`Core::with_own_socket`], for a connection.
    pub(crate) fn with_own_tcp(
        &mut self,
        id: SocketId,
        owner: Key,
        act: impl FnOnce(&mut Tcp, &mut SocketGuard<'_>) -> Served,
    ) {
        self.with_own_socket(id, owner, |hold, kind| match kind {
            SocketKind::Tcp(tcp) => act(tcp, hold),
            _ => Served::Rest,
        });
    }

    /// An actor has ended: so do its sockets, but for those that are being closed.
    pub(crate) fn close_sockets_of(&mut self, ids: BTreeSet<SocketId>) {
        for id in ids {
            let Some(entry) = self.sockets.entries.get_mut(&id) else { continue };
            entry.owner = None;
            self.with_socket(id, |hold, entry| match &mut entry.kind {
                SocketKind::Tcp(tcp) => tcp.finish(hold),
                _ => Served::Gone,
            });
        }
    }
}

impl SocketGuard<'_> {
    /// Sets the one timer of the socket, or moves it.
    pub(crate) fn time(&mut self, span: Duration) {
        let until = self.core.now + span;
        if !self.timer.is_some_and(|timer| self.core.wheel.push_back(timer, until)) {
            self.timer = Some(self.core.wheel.insert(until, DueTimer::SocketEvent(self.id)));
        }
    }

    pub(crate) fn untime(&mut self) {
        if let Some(timer) = self.timer.take() {
            self.core.wheel.cancel(timer);
        }
    }

    pub(crate) fn is_timed(&self) -> bool {
        self.timer.is_some()
    }
}
