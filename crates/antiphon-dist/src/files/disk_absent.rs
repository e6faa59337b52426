//! Replaces `disk` on systems without directory descriptors: a node there sends files, and receives none.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::FileRules;
use super::outcome::{FileRefused, FileStat};
use super::path::TargetPath;

/// The folder of a node's `dest_path`; it cannot exist on this system.
#[derive(Debug)]
pub(crate) struct Dest(Infallible);

/// A partial file; it cannot exist on this system.
pub(crate) struct Partial(Infallible);

pub(crate) enum Prepared {
    AlreadyThere,
    Different(FileStat),
    Open(Box<Partial>),
}

pub(crate) enum Placed {
    Stored,
    Different(FileStat),
}

impl Dest {
    pub(crate) fn open(_: &Path, _: FileRules) -> io::Result<Self> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this system can send files but not receive them; leave `dest_path` unset",
        ))
    }

    pub(crate) fn prepare(
        self: &Arc<Self>,
        _: &TargetPath,
        _: FileStat,
        _: bool,
        _: &str,
    ) -> Result<Prepared, FileRefused> {
        match self.0 {}
    }

    pub(crate) fn delete(&self, _: &TargetPath) -> Result<bool, FileRefused> {
        match self.0 {}
    }

    pub(crate) fn sweep(&self) {
        match self.0 {}
    }
}

impl Partial {
    pub(crate) fn have(&self) -> u64 {
        match self.0 {}
    }

    pub(crate) fn written(&self) -> u64 {
        match self.0 {}
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self.0 {}
    }

    pub(crate) fn hash_some(&mut self) -> Result<bool, FileRefused> {
        match self.0 {}
    }

    pub(crate) fn hash(&self) -> [u8; 32] {
        match self.0 {}
    }

    pub(crate) fn restart(&mut self) -> Result<(), FileRefused> {
        match self.0 {}
    }

    pub(crate) fn write(self: Box<Self>, _: &[Vec<u8>]) -> Result<Box<Self>, FileRefused> {
        match self.0 {}
    }

    pub(crate) fn place(self, _: &[u8]) -> Result<Placed, FileRefused> {
        match self.0 {}
    }

    pub(crate) fn discard(self) {
        match self.0 {}
    }
}
