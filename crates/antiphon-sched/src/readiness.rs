//! Sources of readiness that actors own: sockets, pipes, anything that mio can watch.
//!
//! Readiness is edge-triggered: an actor reads until `WouldBlock`, or says by `cx.unfinished(source)` that
//! it stopped before, and is told again after the others had their turns.
//!
//! Invariant: a source has at most one event in its owner's mailbox; readiness that comes meanwhile is added
//! to that event.

use std::io;

use mio::{Interest, Registry, Token};
use slab::Slab;

use crate::id::Key;
use crate::sockets::{FdRole, SocketId};

/// Tokens from here on are not the loop's: whoever embeds it may use them with [`Loop::registry`](crate::Loop::registry).
pub const EXTERNAL_TOKENS: usize = 1 << 48;

/// The loop's own tokens: its waker, and signals.
pub(crate) const WAKER: Token = Token(EXTERNAL_TOKENS - 1);
pub(crate) const SIGNALS: Token = Token(EXTERNAL_TOKENS - 2);

/// A source that an actor registered.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Source(u64);

/// A source is ready. What it is ready for is a hint: an operation may still answer `WouldBlock`.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Ready {
    /// Which source.
    pub source: Source,
    /// Reading will not block, also at the end of the stream.
    pub readable: bool,
    /// Writing will not block, also after an error.
    pub writable: bool,
}

/// Whose source it is.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum SourceOwner {
    /// An actor's own.
    Actor(Key),
    /// One that the loop keeps for an actor.
    SocketEvent(SocketId, FdRole),
}

/// Who is to be told of readiness.
pub(crate) enum ReadyTarget {
    /// An actor, of the source in this place.
    Actor(Key, u32),
    SocketEvent(SocketId, FdRole),
}

struct SourceEntry {
    owner: SourceOwner,
    generation: u32,
    readable: bool,
    writable: bool,
    queued: bool,
}

pub(crate) struct Readiness {
    registry: Option<Registry>,
    entries: Slab<SourceEntry>,
    generations: u32,
    /// Sources whose owners stopped before `WouldBlock`.
    unfinished: Vec<Source>,
}

const INDEX_BITS: u32 = 24;

impl Source {
    fn new(generation: u32, index: usize) -> Self {
        Self((u64::from(generation & 0x7f_ffff) << INDEX_BITS) | index as u64)
    }

    fn index(self) -> usize {
        (self.0 & ((1 << INDEX_BITS) - 1)) as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> INDEX_BITS) as u32
    }
}

impl Readiness {
    pub(crate) fn new(registry: Option<Registry>) -> Self {
        Self { registry, entries: Slab::new(), generations: 0, unfinished: Vec::new() }
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
        let entry = self.entries.vacant_entry();
        if entry.key() >= 1 << INDEX_BITS {
            return Err(io::Error::other("2^24 sources are registered; close some"));
        }
        self.generations = (self.generations + 1) & 0x7f_ffff;
        let id = Source::new(self.generations, entry.key());
        registry.register(source, Token(id.0 as usize), interest)?;
        entry.insert(SourceEntry {
            owner,
            generation: self.generations,
            readable: false,
            writable: false,
            queued: false,
        });
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
        self.entries.remove(id.index());
        Ok(())
    }

    fn get(&self, id: Source) -> Option<&SourceEntry> {
        self.entries.get(id.index()).filter(|entry| entry.generation == id.generation())
    }

    /// Whether an actor may do something with a source.
    pub(crate) fn is_of(&self, id: Source, owner: Key) -> bool {
        self.get(id).is_some_and(|entry| entry.owner == SourceOwner::Actor(owner))
    }

    /// Whether there are sockets at all.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.registry.is_some() { Ok(()) } else { Err(no_sockets()) }
    }

    /// Ends a registration of the loop's own.
    pub(crate) fn part_with(&mut self, id: Source, source: &mut (impl mio::event::Source + ?Sized)) {
        if let Err(reason) = self.deregister(id, source) {
            // Its descriptor is closed next, which ends it as well.
            tracing::debug!(%reason, "a socket was not watched");
            self.forget(Self::index_of(id));
        }
    }

    /// The owner is gone, and its socket with it.
    pub(crate) fn forget(&mut self, index: u32) {
        self.entries.try_remove(index as usize);
    }

    /// Notes readiness; answers who is to be told, unless that is told already.
    pub(crate) fn note(&mut self, token: Token, readable: bool, writable: bool) -> Option<ReadyTarget> {
        let id = Source(token.0 as u64);
        let entry = self.entries.get_mut(id.index()).filter(|entry| entry.generation == id.generation())?;
        let owner = match entry.owner {
            SourceOwner::Actor(owner) => owner,
            SourceOwner::SocketEvent(id, part) => return Some(ReadyTarget::SocketEvent(id, part)),
        };
        entry.readable |= readable;
        entry.writable |= writable;
        let tell = !entry.queued;
        entry.queued = true;
        tell.then_some(ReadyTarget::Actor(owner, id.index() as u32))
    }

    /// The readiness of a source, told now.
    pub(crate) fn take_ready(&mut self, index: u32, owner: Key) -> Option<Ready> {
        let entry =
            self.entries.get_mut(index as usize).filter(|entry| entry.owner == SourceOwner::Actor(owner))?;
        entry.queued = false;
        let ready = Ready {
            source: Source::new(entry.generation, index as usize),
            readable: std::mem::take(&mut entry.readable),
            writable: std::mem::take(&mut entry.writable),
        };
        // Neither: it was of a source that had this place before.
        (ready.readable || ready.writable).then_some(ready)
    }

    /// The owner stopped before `WouldBlock`.
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
        id.index() as u32
    }
}

fn no_sockets() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "a virtual loop has no sockets; simulate them as actors")
}
