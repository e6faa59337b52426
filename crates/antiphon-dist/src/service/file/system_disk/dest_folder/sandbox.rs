//! Opens folders beneath a root folder, and never one outside of it.
//!
//! Invariant: a returned descriptor belongs to a folder that is reached from the root by plain names only, through no
//! symlink. Linux checks the whole path in one call, which also refuses mount points. Without that call, each name is opened
//! by itself, relative to the descriptor of the folder above it; a mount point is then refused only when a file is moved
//! across it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{FileRefused, refused};

/// Whether to create a folder that is missing.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(super) enum MissingDir {
    Create,
    Refuse,
}

/// Why a folder could not be opened.
pub(super) enum OpenDirError {
    Missing,
    Refused(Errno),
}

impl From<Errno> for OpenDirError {
    fn from(reason: Errno) -> Self {
        if reason == Errno::NOENT { Self::Missing } else { Self::Refused(reason) }
    }
}

impl From<OpenDirError> for FileRefused {
    fn from(reason: OpenDirError) -> Self {
        match reason {
            OpenDirError::Missing => refused(Errno::NOENT),
            OpenDirError::Refused(reason) => refused(reason),
        }
    }
}

const FLAGS: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::RDONLY);

/// Opens the folder at a path of plain names.
pub(super) fn open_dir(
    root: &OwnedFd,
    names: &[String],
    missing: MissingDir,
) -> Result<OwnedFd, OpenDirError> {
    if missing == MissingDir::Refuse {
        return open_path(root, names);
    }
    match open_path(root, names) {
        Err(OpenDirError::Missing) => {
            create_path(root, names)?;
            open_path(root, names)
        }
        done => done,
    }
}

/// Opens the deepest existing folder of a path; returns true if it is the last one.
pub(super) fn open_deepest(root: &OwnedFd, names: &[String]) -> Result<(OwnedFd, bool), OpenDirError> {
    for depth in (0..=names.len()).rev() {
        match open_path(root, &names[..depth]) {
            Err(OpenDirError::Missing) => {}
            opened => return opened.map(|dir| (dir, depth == names.len())),
        }
    }
    Err(OpenDirError::Missing)
}

/// Opens all names in one call if the system can, else one by one.
fn open_path(root: &OwnedFd, names: &[String]) -> Result<OwnedFd, OpenDirError> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::ResolveFlags;
        let path = if names.is_empty() { ".".to_owned() } else { names.join("/") };
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        match rustix::fs::openat2(root, path, FLAGS, Mode::empty(), resolve) {
            // The kernel is too old, or a system call filter does not know the call.
            Err(Errno::NOSYS | Errno::PERM) => {}
            done => return Ok(done?),
        }
    }
    open_path_stepwise(root, names)
}

/// Opens the names one by one.
pub(super) fn open_path_stepwise(root: &OwnedFd, names: &[String]) -> Result<OwnedFd, OpenDirError> {
    let mut dir = root.as_fd().try_clone_to_owned().map_err(|_| OpenDirError::Refused(Errno::MFILE))?;
    for name in names {
        dir = rustix::fs::openat(&dir, name.as_str(), FLAGS, Mode::empty())?;
    }
    Ok(dir)
}

/// Creates the missing folders of a path.
fn create_path(root: &OwnedFd, names: &[String]) -> Result<(), OpenDirError> {
    for (depth, name) in names.iter().enumerate() {
        let parent = open_path(root, &names[..depth])?;
        match rustix::fs::mkdirat(&parent, name.as_str(), Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(reason) => return Err(OpenDirError::Refused(reason)),
        }
    }
    Ok(())
}
