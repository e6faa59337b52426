//! Readiness sources: sockets, pipes and other descriptors that the loop watches for actors.
//!
//! Readiness is edge-triggered: an actor reads until `WouldBlock`. If it stops before, it calls
//! `cx.unfinished(source)`, and receives another event after the batches of the other actors.
//!
//! Invariant: a source has at most one event in its owner's mailbox; later readiness is added to that event.

use std::io;

use mio::{Interest, Registry, Token};

use crate::id::Key;
use crate::slots::{SlotKey, Slots};
use crate::socket::{FdReadiness, FdRole, SocketId};

/// Tokens from here on are for the program that embeds the loop, in [`Loop::registry`](crate::Loop::registry).
pub const EXTERNAL_TOKENS: usize = 1 << 48;

/// The tokens of the loop itself: its waker and its pipe of signals.
pub(crate) const WAKER: Token = Token(EXTERNAL_TOKENS - 1);
pub(crate) const SIGNALS: Token = Token(EXTERNAL_TOKENS - 2);

/// The id of a source that an actor registered.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Source(u64);

/// Readiness of a source. It is a hint: an operation may still return `WouldBlock`.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Ready {
    /// The source.
    pub source: Source,
    /// Reading will not block, also at the end of the stream.
    pub readable: bool,
    /// Writing will not block, also after an error.
    pub writable: bool,
}

/// The owner of a source.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum SourceOwner {
    /// An actor that registered it.
    Actor(Key),
    /// A socket of the loop's socket table.
    Socket(SocketId, FdRole),
}

/// The receiver of readiness.
pub(crate) enum ReadyTarget {
    /// An actor; the number is the index of its source.
    Actor(Key, u32),
    Socket(SocketId, FdRole),
}

struct SourceEntry {
    owner: SourceOwner,
    readable: bool,
    writable: bool,
    queued: bool,
}

pub(crate) struct Readiness {
    registry: Option<Registry>,
    entries: Slots<SourceEntry>,
    /// The generation of the last source.
    last_generation: u32,
    /// Sources that their owners left before `WouldBlock`.
    unfinished: Vec<Source>,
}

const INDEX_BITS: u32 = 24;
/// The generations of all sources follow each other, up to this one.
const GENERATION_MAX: u32 = 0x7f_ffff;

impl Source {
    fn of(key: SlotKey) -> Self {
        Self((u64::from(key.generation) << INDEX_BITS) | u64::from(key.index))
    }

    fn key(self) -> SlotKey {
        let index = (self.0 & ((1 << INDEX_BITS) - 1)) as u32;
        SlotKey { index, generation: (self.0 >> INDEX_BITS) as u32 }
    }
}

impl Readiness {
    pub(crate) fn new(registry: Option<Registry>) -> Self {
        Self { registry, entries: Slots::new(), last_generation: 0, unfinished: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn register(
        &mut self,
        owner: SourceOwner,
        source: &mut (impl mio::event::Source + ?Sized),
        interest: Interest,
    ) -> io::Result<Source> {
        let Some(registry) = &self.registry else { return Err(no_sockets()) };
        let index = self.entries.next_index();
        if index >= 1 << INDEX_BITS {
            return Err(io::Error::other("2^24 sources are registered; close some"));
        }
        let generation = (self.last_generation + 1) & GENERATION_MAX;
        self.last_generation = generation;
        let id = Source::of(SlotKey { index, generation });
        registry.register(source, Token(id.0 as usize), interest)?;
        let entry = SourceEntry { owner, readable: false, writable: false, queued: false };
        self.entries.insert(entry, |_| generation);
        Ok(id)
    }

    pub(crate) fn reregister(
        &mut self,
        id: Source,
        source: &mut (impl mio::event::Source + ?Sized),
        interest: Interest,
    ) -> io::Result<()> {
        match (&self.registry, self.get(id)) {
            (Some(registry), Some(_)) => registry.reregister(source, Token(id.0 as usize), interest),
            _ => Err(io::Error::new(io::ErrorKind::NotFound, "the source is not registered")),
        }
    }

    pub(crate) fn deregister(
        &mut self,
        id: Source,
        source: &mut (impl mio::event::Source + ?Sized),
    ) -> io::Result<()> {
        match (&self.registry, self.get(id)) {
            (Some(registry), Some(_)) => registry.deregister(source)?,
            _ => return Err(io::Error::new(io::ErrorKind::NotFound, "the source is not registered")),
        }
        self.entries.remove(id.key());
        Ok(())
    }

    fn get(&self, id: Source) -> Option<&SourceEntry> {
        self.entries.get(id.key())
    }

    /// Whether a source belongs to an actor.
    pub(crate) fn is_of(&self, id: Source, owner: Key) -> bool {
        self.get(id).is_some_and(|entry| entry.owner == SourceOwner::Actor(owner))
    }

    /// Checks that the loop can have sockets: that it is not virtual.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.registry.is_some() { Ok(()) } else { Err(no_sockets()) }
    }

    /// Deregisters a source of the socket table.
    pub(crate) fn deregister_socket(&mut self, id: Source, source: &mut (impl mio::event::Source + ?Sized)) {
        if let Err(reason) = self.deregister(id, source) {
            // The caller closes the descriptor next, which deregisters it too.
            tracing::debug!(%reason, "a socket was not registered");
            self.forget(Self::index_of(id));
        }
    }

    /// Removes the entry of a source after its owner has exited.
    pub(crate) fn forget(&mut self, index: u32) {
        if let Some(key) = self.entries.key_at(index) {
            self.entries.remove(key);
        }
    }

    /// Records readiness. Returns the receiver, or `None` if an event for it is already queued.
    pub(crate) fn note(&mut self, token: Token, readiness: FdReadiness) -> Option<ReadyTarget> {
        let id = Source(token.0 as u64);
        let entry = self.entries.get_mut(id.key())?;
        let owner = match entry.owner {
            SourceOwner::Actor(owner) => owner,
            SourceOwner::Socket(id, role) => return Some(ReadyTarget::Socket(id, role)),
        };
        entry.readable |= readiness.readable;
        entry.writable |= readiness.writable;
        let needs_event = !entry.queued;
        entry.queued = true;
        needs_event.then_some(ReadyTarget::Actor(owner, id.key().index))
    }

    /// Takes the recorded readiness of a source, for an event.
    pub(crate) fn take_ready(&mut self, index: u32, owner: Key) -> Option<Ready> {
        let key = self.entries.key_at(index)?;
        let entry = self.entries.get_mut(key).filter(|entry| entry.owner == SourceOwner::Actor(owner))?;
        entry.queued = false;
        let ready = Ready {
            source: Source::of(key),
            readable: std::mem::take(&mut entry.readable),
            writable: std::mem::take(&mut entry.writable),
        };
        // Neither: the event was for an earlier source with this index.
        (ready.readable || ready.writable).then_some(ready)
    }

    /// Records that the owner stopped before `WouldBlock`.
    pub(crate) fn unfinished(&mut self, id: Source) {
        if self.get(id).is_some() {
            self.unfinished.push(id);
        }
    }

    pub(crate) fn has_unfinished(&self) -> bool {
        !self.unfinished.is_empty()
    }

    pub(crate) fn take_unfinished(&mut self) -> Vec<Source> {
        std::mem::take(&mut self.unfinished)
    }

    pub(crate) fn token_of(id: Source) -> Token {
        Token(id.0 as usize)
    }

    pub(crate) fn index_of(id: Source) -> u32 {
        id.key().index
    }
}

fn no_sockets() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "a virtual loop has no sockets; simulate them as actors")
}
