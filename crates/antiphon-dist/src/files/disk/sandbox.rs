//! Folders beneath a folder, opened without ever leaving it.
//!
//! Invariant: the descriptor that comes back is of a folder that was reached by plain names from the root alone, through
//! no symlink and no mount point. Linux checks the whole way in one call; elsewhere each name is opened by itself,
//! from the descriptor of the folder above it, which amounts to the same.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{FileRefused, refuse};

/// What to do about a folder that is not there.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(super) enum Missing {
    Make,
    Refuse,
}

/// Why there is no folder.
pub(super) enum NoDir {
    Missing,
    Refused(Errno),
}

impl From<Errno> for NoDir {
    fn from(reason: Errno) -> Self {
        if reason == Errno::NOENT { Self::Missing } else { Self::Refused(reason) }
    }
}

impl From<NoDir> for FileRefused {
    fn from(reason: NoDir) -> Self {
        match reason {
            NoDir::Missing => refuse(Errno::NOENT),
            NoDir::Refused(reason) => refuse(reason),
        }
    }
}

const FLAGS: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::RDONLY);

/// Opens the folder that these names, each of them plain, lead to.
pub(super) fn open_dir(root: &OwnedFd, names: &[String], missing: Missing) -> Result<OwnedFd, NoDir> {
    if missing == Missing::Refuse {
        return open_way(root, names);
    }
    match open_way(root, names) {
        Err(NoDir::Missing) => {
            make_way(root, names)?;
            open_way(root, names)
        }
        done => done,
    }
}

/// Opens the innermost folder on that way that is there; true when it is the last.
pub(super) fn open_deepest(root: &OwnedFd, names: &[String]) -> Result<(OwnedFd, bool), NoDir> {
    for depth in (0..=names.len()).rev() {
        match open_way(root, &names[..depth]) {
            Err(NoDir::Missing) => {}
            opened => return opened.map(|dir| (dir, depth == names.len())),
        }
    }
    Err(NoDir::Missing)
}

/// All names at once where the system can, else one by one.
fn open_way(root: &OwnedFd, names: &[String]) -> Result<OwnedFd, NoDir> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::ResolveFlags;
        let path = if names.is_empty() { ".".to_owned() } else { names.join("/") };
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        match rustix::fs::openat2(root, path, FLAGS, Mode::empty(), resolve) {
            // An old kernel, or a sandbox that does not know the call.
            Err(Errno::NOSYS | Errno::PERM) => {}
            done => return Ok(done?),
        }
    }
    step_by_step(root, names)
}

/// One name after the other.
pub(super) fn step_by_step(root: &OwnedFd, names: &[String]) -> Result<OwnedFd, NoDir> {
    let mut dir = root.as_fd().try_clone_to_owned().map_err(|_| NoDir::Refused(Errno::MFILE))?;
    for name in names {
        dir = rustix::fs::openat(&dir, name.as_str(), FLAGS, Mode::empty())?;
    }
    Ok(dir)
}

/// Makes the folders that are missing.
fn make_way(root: &OwnedFd, names: &[String]) -> Result<(), NoDir> {
    for (depth, name) in names.iter().enumerate() {
        let parent = open_way(root, &names[..depth])?;
        match rustix::fs::mkdirat(&parent, name.as_str(), Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(reason) => return Err(NoDir::Refused(reason)),
        }
    }
    Ok(())
}
