//! Where peers' files go: whatever the names are, only beneath the `dest_path`, and never through a symlink.

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
    Of(u8),
    Any(String),
}

/// Names that lead somewhere, or try to.
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
    let world = TempDir::new().expect("there is room");
    let dest = set_up(world.path());
    let world_path = fs::canonicalize(world.path()).expect("it exists");
    let before = outside(&world_path);
    for case in cases.iter().take(8) {
        let names: Vec<String> = case
            .names
            .iter()
            .map(|name| match name {
                Name::Of(which) => NAMES[usize::from(*which) % NAMES.len()].to_owned(),
                Name::Any(name) => name.clone(),
            })
            .collect();
        let path = names.iter().fold(dest.clone(), |path, name| path.join(name));
        let existed = path.symlink_metadata().is_ok();
        if case.deletes {
            let is_gone = fuzzing::delete(&dest, names.clone());
            assert!(!is_gone || existed, "what was not there cannot be deleted");
        } else if fuzzing::store(&dest, names.clone(), b"from a peer", case.overwrite) {
            let there = fs::canonicalize(&path).expect("it was stored where the names say");
            assert_eq!(there, path, "through no symlink: {names:?}");
            assert_eq!(fs::read(&path).expect("it was stored"), b"from a peer");
        }
        assert_eq!(outside(&world_path), before, "nothing beside the dest_path changes: {names:?}");
    }
});

/// A `dest_path` with files and links of its owner's in it, and beside it what nobody may touch.
fn set_up(world: &Path) -> PathBuf {
    let world = fs::canonicalize(world).expect("it exists");
    let dest = world.join("dest");
    fs::create_dir_all(dest.join("a/b")).expect("there is room");
    fs::create_dir(world.join("secret")).expect("there is room");
    fs::write(world.join("secret/file"), "secret").expect("there is room");
    fs::write(dest.join("a/file"), "the owner's").expect("there is room");
    for (link, to) in [
        ("up", ".."),
        ("loop", "loop"),
        ("out", "../secret"),
        ("a/out", "../../secret"),
        ("dangling", "../new"),
    ] {
        symlink(to, dest.join(link)).expect("there is room");
    }
    symlink(world.join("secret/file"), dest.join("b")).expect("there is room");
    dest
}

/// All that lies beside the `dest_path`.
fn outside(world: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![world.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("it exists") {
            let path = entry.expect("it exists").path();
            if path.is_dir() && path != world.join("dest") {
                folders.push(path.clone());
            }
            found.insert(path.clone(), fs::read(&path).unwrap_or_default());
        }
    }
    found
}
