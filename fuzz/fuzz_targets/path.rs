//! The paths of received files: with any names, files stay beneath the `dest_path` and pass through no symlink.

#![no_main]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use antiphon_dist::fuzzing;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

/// A name in a path.
#[derive(Arbitrary, Debug)]
enum Name {
    /// One of [`NAMES`].
    Known(u8),
    Any(String),
}

/// Names of existing entries, and names with a special meaning.
const NAMES: [&str; 16] = [
    "a",
    "b",
    "file",
    "..",
    ".",
    "",
    "up",
    "loop",
    "out",
    "dangling",
    ".antiphon",
    ".ANTIPHON",
    "partial",
    "received",
    "/",
    "fifo",
];

#[derive(Arbitrary, Debug)]
struct Case {
    deletes: bool,
    overwrite: bool,
    names: Vec<Name>,
}

fuzz_target!(|cases: Vec<Case>| {
    let world = TempDir::new().expect("the temporary folder is writable");
    let dest = set_up(world.path());
    let world_path = fs::canonicalize(world.path()).expect("the folder exists");
    let before = outside(&world_path);
    for case in cases.iter().take(8) {
        let names: Vec<String> = case
            .names
            .iter()
            .map(|name| match name {
                Name::Known(which) => NAMES[usize::from(*which) % NAMES.len()].to_owned(),
                Name::Any(name) => name.clone(),
            })
            .collect();
        let path = names.iter().fold(dest.clone(), |path, name| path.join(name));
        let existed = path.symlink_metadata().is_ok();
        if case.deletes {
            let is_deleted = fuzzing::delete(&dest, names.clone());
            assert!(!is_deleted || existed, "a file that did not exist was deleted");
        } else if fuzzing::store(&dest, names.clone(), b"from a peer", case.overwrite) {
            let there = fs::canonicalize(&path).expect("the file is stored at the path of its names");
            assert_eq!(there, path, "the path {names:?} leads through a symlink");
            assert_eq!(fs::read(&path).expect("the file is stored"), b"from a peer");
        }
        assert_eq!(outside(&world_path), before, "{names:?} changed a file outside of the dest_path");
    }
});

/// Makes a `dest_path` that holds files and symlinks of its owner, and beside it a folder that must not change.
fn set_up(world: &Path) -> PathBuf {
    let world = fs::canonicalize(world).expect("the folder exists");
    let dest = world.join("dest");
    fs::create_dir_all(dest.join("a/b")).expect("the temporary folder is writable");
    fs::create_dir(world.join("secret")).expect("the temporary folder is writable");
    fs::write(world.join("secret/file"), "secret").expect("the temporary folder is writable");
    fs::write(dest.join("a/file"), "the owner's").expect("the temporary folder is writable");
    for (link, to) in [
        ("up", ".."),
        ("loop", "loop"),
        ("out", "../secret"),
        ("a/out", "../../secret"),
        ("dangling", "../new"),
    ] {
        symlink(to, dest.join(link)).expect("the temporary folder is writable");
    }
    symlink(world.join("secret/file"), dest.join("b")).expect("the temporary folder is writable");
    dest
}

/// The contents of all files outside of the `dest_path`.
fn outside(world: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![world.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("the folder exists") {
            let path = entry.expect("the folder exists").path();
            if path.is_dir() && path != world.join("dest") {
                folders.push(path.clone());
            }
            found.insert(path.clone(), fs::read(&path).unwrap_or_default());
        }
    }
    found
}
