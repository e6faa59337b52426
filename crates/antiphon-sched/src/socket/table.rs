//! All sockets of a loop: which are ready, which wait for room in a mailbox, which have data to write.
//!
//! A socket is taken out of the table while it is served, so that it can borrow the whole loop to deliver its events.
//!
//! Invariants:
//! - A socket with an owner is listed in the owner's `ActorExtras`. A socket without one is being closed gracefully,
//!   and a timer ends it.
//! - `queued`, `stalled` and `dirty` record whether the socket is in these lists; it is in each at most once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::time::Duration;

use rustc_hash::FxHashMap;

#[cfg(unix)]
use super::child::Child;
use super::edge_triggered::FdReadiness;
use super::listener::Listener;
use super::tcp::Tcp;
use super::udp::UdpPort;
use crate::event_loop::{Source, SourceOwner};
use crate::id::Key;
use crate::scheduler::{Core, TimerKey, TimerPurpose, log_panic};

/// Sockets served a round, unless the time of the round is over before.
const SERVED_PER_ROUND: usize = 1024;
/// Negotiating connections served a round: a step of TLS may take milliseconds.
const NEGOTIATIONS_PER_ROUND: usize = 2;
/// The largest number of bytes of one read.
const READ_BUFFER_BYTES: usize = 64 << 10;
/// Ids from here on belong to sockets that are not a `Conn`, so that the numbers of `Conn`s stay small.
const FIRST_INTERNAL: u64 = 1 << 62;

/// Identifies a socket; its loop never uses the number again.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct SocketId(pub(super) u64);

/// The role of one descriptor of a socket; a child process has several descriptors.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[cfg_attr(not(unix), expect(dead_code, reason = "child processes need pipes"))]
pub(crate) enum FdRole {
    Main,
    Stdout,
    Stderr,
    Exit,
}

/// The readiness of a socket's descriptors since the socket was last served.
#[derive(Copy, Clone, Default, Debug)]
pub(crate) struct FdEvents([FdReadiness; 4]);

impl FdEvents {
    pub(crate) fn of(self, role: FdRole) -> FdReadiness {
        self.0[role as usize]
    }
}

struct SocketEntry {
    /// `None` once the actor can no longer use the socket: its end was delivered, or the actor has exited.
    owner: Option<Key>,
    kind: SocketKind,
    timer: Option<TimerKey>,
    events: FdEvents,
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

/// Access to the loop for a socket that is being served. The socket and its timer are out of the table.
pub(crate) struct SocketCx<'a> {
    pub(super) core: &'a mut Core,
    pub(super) id: SocketId,
    pub(super) owner: Option<Key>,
    timer: Option<TimerKey>,
    /// The socket has data to write, after the other sockets are served.
    pub(super) has_output: bool,
}

/// The state in which a call left a socket.
pub(crate) enum Served {
    /// It waits for readiness.
    Idle,
    /// It has used its share, and goes on in the next round.
    Again,
    /// It waits for room in its actor's mailbox; `delivered` if it delivered an event before.
    Full { delivered: bool },
    /// It no longer belongs to the actor; the loop finishes closing it.
    Orphan,
    /// It has ended, and its last event, if it has one, was delivered.
    Ended,
}

/// The sockets that wait for room in one mailbox. Those that delivered nothing last time are served first.
#[derive(Default)]
struct Stalled {
    starved: Vec<SocketId>,
    delivered: Vec<SocketId>,
}

#[derive(Default)]
pub(crate) struct SocketTable {
    entries: FxHashMap<SocketId, SocketEntry>,
    ready: VecDeque<SocketId>,
    stalled: BTreeMap<Key, Stalled>,
    dirty: Vec<SocketId>,
    /// The buffer into which all sockets read.
    read_buffer: Vec<u8>,
    last_conn: u64,
    last_internal: u64,
}

impl SocketTable {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn next_conn(&mut self) -> SocketId {
        self.last_conn += 1;
        SocketId(self.last_conn)
    }

    pub(crate) fn next_internal(&mut self) -> SocketId {
        self.last_internal += 1;
        SocketId(FIRST_INTERNAL + self.last_internal)
    }

    /// Whether any socket can go on without waiting.
    pub(crate) fn is_busy(&self) -> bool {
        !self.ready.is_empty() || !self.dirty.is_empty()
    }

    /// Records the readiness of a descriptor.
    pub(crate) fn note(&mut self, id: SocketId, role: FdRole, readiness: FdReadiness) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.events.0[role as usize].add(readiness);
        self.queue(id);
    }

    fn queue(&mut self, id: SocketId) {
        if let Some(entry) = self.entries.get_mut(&id)
            && !std::mem::replace(&mut entry.queued, true)
        {
            self.ready.push_back(id);
        }
    }

    /// Marks a socket: its waiting bytes are written at the end of this round.
    pub(crate) fn mark_dirty(&mut self, id: SocketId) {
        if let Some(entry) = self.entries.get_mut(&id)
            && !std::mem::replace(&mut entry.dirty, true)
        {
            self.dirty.push(id);
        }
    }

    fn stall(&mut self, id: SocketId, delivered: bool) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let Some(owner) = entry.owner.filter(|_| !std::mem::replace(&mut entry.stalled, true)) else {
            return;
        };
        let stalled = self.stalled.entry(owner).or_default();
        if delivered { stalled.delivered.push(id) } else { stalled.starved.push(id) }
    }

    /// A socket, if it belongs to `owner`.
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
}

/// The sockets of a loop, and the core that they act on.
pub(crate) struct Sockets<'c> {
    pub(super) core: &'c mut Core,
}

impl<'c> Sockets<'c> {
    pub(crate) fn of(core: &'c mut Core) -> Self {
        Self { core }
    }
}

impl Sockets<'_> {
    /// Drops all sockets when the loop ends, each in a panic guard of its own, because the functions that make its events are
    /// user code.
    pub(crate) fn drop_all(&mut self) {
        for (_, mut entry) in std::mem::take(&mut self.core.sockets_mut().entries) {
            log_panic(|| {
                if let SocketKind::Tcp(tcp) = &mut entry.kind {
                    tcp.send_layer_end();
                }
                drop(entry);
            });
        }
    }

    /// Puts a socket into the table. Returns false, and drops the socket, if its actor has exited in this step.
    pub(crate) fn insert_socket(&mut self, id: SocketId, owner: Key, kind: SocketKind) -> bool {
        let entry = SocketEntry {
            owner: Some(owner),
            kind,
            timer: None,
            events: FdEvents::default(),
            queued: false,
            stalled: false,
            dirty: false,
        };
        let is_added = self.core.add_socket(owner, id);
        if is_added {
            self.core.sockets_mut().entries.insert(id, entry);
        } else {
            self.drop_socket(id, entry);
        }
        is_added
    }

    /// Calls `act` with a socket, which is out of the table meanwhile.
    fn with_socket(&mut self, id: SocketId, act: impl FnOnce(&mut SocketCx<'_>, &mut SocketEntry) -> Served) {
        let Some(mut entry) = self.core.sockets_mut().entries.remove(&id) else { return };
        let (owner, timer) = (entry.owner, entry.timer.take());
        let mut cx = SocketCx { core: self.core, id, owner, timer, has_output: false };
        let outcome = act(&mut cx, &mut entry);
        let has_output = cx.has_output;
        entry.timer = cx.timer;
        match outcome {
            Served::Ended => return self.drop_socket(id, entry),
            Served::Orphan => self.disown(id, &mut entry),
            Served::Idle | Served::Again | Served::Full { .. } => {}
        }
        self.core.sockets_mut().entries.insert(id, entry);
        match outcome {
            Served::Again | Served::Orphan => self.core.sockets_mut().queue(id),
            Served::Full { delivered } => self.core.sockets_mut().stall(id, delivered),
            Served::Idle | Served::Ended => {}
        }
        if has_output {
            self.core.sockets_mut().mark_dirty(id);
        }
        // A delivered event may have ended the actor, and with it its other sockets.
        if owner.is_some_and(|owner| !self.core.is_alive(owner)) {
            self.close_all([id].into());
        }
    }

    fn drop_socket(&mut self, id: SocketId, mut entry: SocketEntry) {
        if let Some(timer) = entry.timer.take() {
            self.core.cancel_timer(timer);
        }
        self.disown(id, &mut entry);
        match &mut entry.kind {
            SocketKind::Listener(listener) => listener.release(self.core),
            SocketKind::Tcp(tcp) => tcp.release(self.core, id),
            SocketKind::Udp(udp) => udp.release(self.core),
            #[cfg(unix)]
            SocketKind::Child(child) => child.release(self.core),
        }
        log_panic(|| drop(entry));
    }

    /// Separates a socket from its actor.
    fn disown(&mut self, id: SocketId, entry: &mut SocketEntry) {
        if let Some(owner) = entry.owner.take() {
            self.core.remove_socket(owner, id);
        }
    }

    /// Serves the sockets that are ready, within a share of the round.
    pub(crate) fn serve(&mut self) {
        let mut buffer = std::mem::take(&mut self.core.sockets_mut().read_buffer);
        buffer.resize(READ_BUFFER_BYTES, 0);
        let mut negotiating = Vec::new();
        for _ in 0..self.core.sockets_mut().ready.len().min(SERVED_PER_ROUND) {
            let Some(id) = self.core.sockets_mut().ready.pop_front() else { break };
            if self.core.sockets().is_negotiating(id) {
                negotiating.push(id);
                continue;
            }
            self.serve_socket(id, &mut buffer);
            if self.core.is_round_over() {
                break;
            }
        }
        // These are last and few: one of their steps may take longer than serving all the others.
        for (nth, id) in negotiating.into_iter().enumerate() {
            if nth < NEGOTIATIONS_PER_ROUND {
                self.serve_socket(id, &mut buffer);
            } else {
                self.core.sockets_mut().ready.push_back(id);
            }
        }
        self.core.sockets_mut().read_buffer = buffer;
    }

    fn serve_socket(&mut self, id: SocketId, buffer: &mut [u8]) {
        self.with_socket(id, |cx, entry| {
            entry.queued = false;
            let events = std::mem::take(&mut entry.events);
            match &mut entry.kind {
                SocketKind::Listener(listener) => listener.serve(cx, events),
                SocketKind::Tcp(tcp) => tcp.serve(cx, events, buffer),
                SocketKind::Udp(udp) => udp.serve(cx, events, buffer),
                #[cfg(unix)]
                SocketKind::Child(child) => child.serve(cx, events, buffer),
            }
        });
    }

    /// Writes the data that actors wrote in this round, and resumes stalled sockets for which there is room again.
    pub(crate) fn flush(&mut self) {
        for id in std::mem::take(&mut self.core.sockets_mut().dirty) {
            self.with_socket(id, |cx, entry| {
                entry.dirty = false;
                match &mut entry.kind {
                    SocketKind::Tcp(tcp) => tcp.flush(cx),
                    #[cfg(unix)]
                    SocketKind::Child(child) => child.flush(cx),
                    SocketKind::Listener(_) | SocketKind::Udp(_) => Served::Idle,
                }
            });
        }
        self.resume_stalled();
    }

    fn resume_stalled(&mut self) {
        let owners: Vec<Key> = self.core.sockets().stalled.keys().copied().collect();
        for owner in owners {
            if self.core.is_alive(owner) && !self.core.has_room(owner) {
                continue;
            }
            let Some(stalled) = self.core.sockets_mut().stalled.remove(&owner) else { continue };
            for id in stalled.starved.into_iter().chain(stalled.delivered) {
                if let Some(entry) = self.core.sockets_mut().entries.get_mut(&id) {
                    entry.stalled = false;
                }
                self.core.sockets_mut().queue(id);
            }
        }
    }

    /// Handles the expired timer of a socket.
    pub(crate) fn on_timer(&mut self, id: SocketId) {
        self.with_socket(id, |cx, entry| {
            cx.cancel_timer();
            match &mut entry.kind {
                SocketKind::Tcp(tcp) => tcp.on_timer(cx),
                SocketKind::Listener(_) | SocketKind::Udp(_) => Served::Again,
                #[cfg(unix)]
                SocketKind::Child(_) => Served::Again,
            }
        });
    }

    /// The actor has handled the end of a connection, and writes no more.
    pub(crate) fn on_close_handled(&mut self, id: SocketId, owner: Key) {
        self.with_own_tcp(id, owner, |tcp, cx| tcp.on_close_handled(cx));
    }

    /// Ends a pending connection without an event.
    pub(crate) fn drop_pending(&mut self, id: SocketId) {
        self.with_socket(id, |_, _| Served::Ended);
    }

    /// Calls `act` with a socket, if it belongs to `owner`.
    pub(crate) fn with_own_socket(
        &mut self,
        id: SocketId,
        owner: Key,
        act: impl FnOnce(&mut SocketCx<'_>, &mut SocketKind) -> Served,
    ) {
        if self.core.sockets().kind(id, owner).is_some() {
            self.with_socket(id, |cx, entry| act(cx, &mut entry.kind));
        }
    }

    /// As [`Sockets::with_own_socket`], for a TCP connection.
    pub(crate) fn with_own_tcp(
        &mut self,
        id: SocketId,
        owner: Key,
        act: impl FnOnce(&mut Tcp, &mut SocketCx<'_>) -> Served,
    ) {
        self.with_own_socket(id, owner, |cx, kind| match kind {
            SocketKind::Tcp(tcp) => act(tcp, cx),
            _ => Served::Idle,
        });
    }

    /// Ends the sockets of an actor that has exited, except for those that are being closed.
    pub(crate) fn close_all(&mut self, ids: BTreeSet<SocketId>) {
        for id in ids {
            let Some(entry) = self.core.sockets_mut().entries.get_mut(&id) else { continue };
            entry.owner = None;
            self.with_socket(id, |cx, entry| match &mut entry.kind {
                SocketKind::Tcp(tcp) => tcp.finish(cx),
                _ => Served::Ended,
            });
        }
    }
}

/// Registers a descriptor of a socket for readiness.
pub(super) fn watch_fd(
    core: &mut Core,
    (id, role): (SocketId, FdRole),
    source: &mut (impl mio::event::Source + ?Sized),
    interest: mio::Interest,
) -> io::Result<Source> {
    core.readiness_mut().register(SourceOwner::Socket(id, role), source, interest)
}

impl SocketCx<'_> {
    /// Sets the socket's only timer, or moves it.
    pub(crate) fn set_timer(&mut self, span: Duration) {
        if !self.timer.is_some_and(|timer| self.core.push_back_timer(timer, span)) {
            self.timer = Some(self.core.start_timer(span, TimerPurpose::Socket(self.id)));
        }
    }

    pub(crate) fn cancel_timer(&mut self) {
        if let Some(timer) = self.timer.take() {
            self.core.cancel_timer(timer);
        }
    }

    pub(crate) fn has_timer(&self) -> bool {
        self.timer.is_some()
    }
}
