//! The way from a peer's offer to the disk, for the fuzzer alone: only built with `--cfg fuzzing`.

use std::path::Path;
use std::sync::Arc;

use super::FileRules;
use super::disk::{Dest, Placed, Prepared};
use super::outcome::FileStat;
use super::path::TargetPath;

/// Takes a file as from a peer, to be stored beneath `dest` where the names say; whether it was stored.
///
/// # Panics
/// If `dest` is no folder that this process can write to.
pub fn store(dest: &Path, names: Vec<String>, content: &[u8], overwrite: bool) -> bool {
    let Ok(path) = TargetPath::checked(names) else { return false };
    let dest = Dest::open(dest, FileRules::default()).expect("a folder of the fuzzer's");
    let stat = FileStat { size: content.len() as u64, seconds: 0, nanos: 0, permissions: 0o600 };
    let Ok(Prepared::Open(partial)) = Arc::new(dest).prepare(&path, stat, overwrite, "") else {
        return false;
    };
    let Ok(partial) = partial.write(&[content.to_vec().into()]) else { return false };
    matches!(partial.place(blake3::hash(content).as_bytes()), Ok(Placed::Stored))
}

/// Deletes a file as a peer asks; whether there was one that could be.
///
/// # Panics
/// As [`store`].
pub fn delete(dest: &Path, names: Vec<String>) -> bool {
    let Ok(path) = TargetPath::checked(names) else { return false };
    let dest = Dest::open(dest, FileRules::default()).expect("a folder of the fuzzer's");
    dest.delete(&path) == Ok(true)
}
