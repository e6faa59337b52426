//! The path from a peer's offer to the disk, for the fuzzer: only built with `--cfg fuzzing`.

use std::path::Path;

use super::FileRules;
use super::disk::{Disk, Prepared};
use super::outcome::FileStat;
use super::partial::Placed;
use super::path::TargetPath;
use super::system_disk::SystemDisk;

/// Stores a file beneath `dest` as if a peer had sent it with these path names. Returns whether it was stored.
///
/// # Panics
/// Panics if `dest` is not a folder that this process can write to.
pub fn store(dest: &Path, names: Vec<String>, content: &[u8], overwrite: bool) -> bool {
    let Ok(path) = TargetPath::checked(names) else { return false };
    let dest =
        SystemDisk.open_dest(dest, FileRules::default()).expect("the folder of the fuzzer is writable");
    let stat = FileStat { size: content.len() as u64, seconds: 0, nanos: 0, permissions: 0o600 };
    let Ok(Prepared::Open(partial)) = dest.prepare(&path, stat, overwrite, "") else {
        return false;
    };
    let Ok(partial) = partial.write(&[content.to_vec().into()]) else { return false };
    matches!(partial.place(blake3::hash(content).as_bytes()), Ok(Placed::Stored))
}

/// Deletes a file as if a peer had asked for it. Returns whether it was deleted.
///
/// # Panics
/// Panics for the same reason as [`store`].
pub fn delete(dest: &Path, names: Vec<String>) -> bool {
    let Ok(path) = TargetPath::checked(names) else { return false };
    let dest =
        SystemDisk.open_dest(dest, FileRules::default()).expect("the folder of the fuzzer is writable");
    dest.delete(&path) == Ok(true)
}
