//! The disk of this machine.

#[cfg(unix)]
pub(super) mod dest_folder;

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::FileRules;
use super::disk::{Dest, Disk, OpenFile};
use super::outcome::{FileStat, SourceError};

/// The disk of this machine. On systems without directory descriptors it reads files, and has no folder for received ones.
#[derive(Debug)]
pub(crate) struct SystemDisk;

impl Disk for SystemDisk {
    fn open_file(&self, path: &Path) -> Result<Box<dyn OpenFile>, SourceError> {
        let mut options = OpenOptions::new();
        options.read(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            // Without this, opening a pipe would wait for its writer.
            options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
        }
        Ok(Box::new(options.open(path).map_err(|reason| SourceError::from_io(&reason))?))
    }

    #[cfg(unix)]
    fn open_dest(&self, path: &Path, rules: FileRules) -> io::Result<Arc<dyn Dest>> {
        Ok(Arc::new(dest_folder::DestFolder::open(path, rules)?))
    }

    #[cfg(not(unix))]
    fn open_dest(&self, _: &Path, _: FileRules) -> io::Result<Arc<dyn Dest>> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this system can send files but not receive them; leave `dest_path` unset",
        ))
    }
}

impl OpenFile for File {
    fn stat(&self) -> Result<FileStat, SourceError> {
        let meta = self.metadata().map_err(|reason| SourceError::from_io(&reason))?;
        if !meta.is_file() {
            return Err(SourceError::NotAFile);
        }
        let (seconds, nanos) = since_1970(meta.modified().map_err(|reason| SourceError::from_io(&reason))?);
        Ok(FileStat { size: meta.len(), seconds, nanos, permissions: permissions_of(&meta) })
    }
}

fn since_1970(time: SystemTime) -> (i64, u32) {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => (i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            let seconds = -i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            match before.subsec_nanos() {
                0 => (seconds, 0),
                nanos => (seconds - 1, 1_000_000_000 - nanos),
            }
        }
    }
}

#[cfg(unix)]
fn permissions_of(meta: &Metadata) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    meta.permissions().mode() & 0o777
}

#[cfg(not(unix))]
fn permissions_of(meta: &Metadata) -> u32 {
    if meta.permissions().readonly() { 0o444 } else { 0o644 }
}
