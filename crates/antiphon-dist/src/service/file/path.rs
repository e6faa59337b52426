//! The target of a file beneath a `dest_path`: a list of plain names.
//!
//! Invariant: a [`TargetPath`] holds only plain names, never `..`, an absolute path or the folder that the node reserves for
//! itself. Code that has a [`TargetPath`] need not check it again. The `disk` module makes sure that the path crosses no
//! symlink.

use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The folder beneath a `dest_path` that holds the state of the node.
pub(crate) const STATE_DIR: &str = ".antiphon";

/// The most names in a path: the folders, and the file.
const NAMES_MAX: usize = 32;
/// The most bytes of one name; most file systems have this limit.
const NAME_BYTES_MAX: usize = 255;
/// The most bytes of all names, with one separator each.
const PATH_BYTES_MAX: usize = 1024;

/// Why a path cannot be the target of a file.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum PathError {
    /// The path has no file name.
    #[error("the path names no file; append a file name")]
    Empty,
    /// The path begins at a root or a drive.
    #[error("the path is absolute; give one that is relative to the receiver's `dest_path`")]
    Absolute,
    /// The path contains `..`.
    #[error("the path holds `..`; give one without it")]
    Parent,
    /// A name is not UTF-8.
    #[error("the path is not UTF-8; set `FileOptions::name`")]
    NotUtf8,
    /// A name holds a separator or a zero byte, or is `.` or empty.
    #[error("the path holds a name that no file can have; use another name")]
    BadName,
    /// A name or the path is too long, or too deep.
    #[error("the path is too long: at most 255 bytes a name, 1,024 in all, 32 names")]
    TooLong,
    /// The path leads into the folder that nodes reserve for their state.
    #[error("`.antiphon` is reserved for the state of the node; use another name")]
    Reserved,
}

/// A checked path beneath a `dest_path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TargetPath {
    names: Vec<String>,
}

impl TargetPath {
    /// Builds the path of `file` in `dir`, both in the notation of this system.
    pub(crate) fn new(dir: &Path, file: &Path) -> Result<Self, PathError> {
        let mut names = Vec::new();
        for part in dir.components().chain(file.components()) {
            match part {
                Component::Normal(name) => names.push(name.to_str().ok_or(PathError::NotUtf8)?.to_owned()),
                Component::CurDir => {}
                Component::ParentDir => return Err(PathError::Parent),
                Component::RootDir | Component::Prefix(_) => return Err(PathError::Absolute),
            }
        }
        if file.file_name().is_none() {
            return Err(PathError::Empty);
        }
        Self::checked(names)
    }

    /// Checks a list of names that another node sent.
    pub(crate) fn checked(names: Vec<String>) -> Result<Self, PathError> {
        let Some(first) = names.first() else { return Err(PathError::Empty) };
        if first.eq_ignore_ascii_case(STATE_DIR) {
            return Err(PathError::Reserved);
        }
        names.iter().try_for_each(|name| check_name(name))?;
        let bytes: usize = names.iter().map(|name| name.len() + 1).sum();
        if names.len() > NAMES_MAX || bytes > PATH_BYTES_MAX {
            return Err(PathError::TooLong);
        }
        Ok(Self { names })
    }

    /// Returns the folders above the file, outermost first.
    pub(crate) fn dirs(&self) -> &[String] {
        self.names.split_last().map_or(&[], |(_, dirs)| dirs)
    }

    /// Returns the name of the file.
    pub(crate) fn name(&self) -> &str {
        self.names.last().expect("a checked path has a name")
    }

    /// Returns all names, as they are sent.
    pub(crate) fn into_names(self) -> Vec<String> {
        self.names
    }

    /// Returns the path as one text.
    pub(crate) fn text(&self) -> String {
        self.names.join("/")
    }

    /// Returns the file name under which the state of this path is stored. Different paths have different keys.
    pub(crate) fn key(&self) -> String {
        blake3::hash(self.text().as_bytes()).to_hex().to_string()
    }
}

fn check_name(name: &str) -> Result<(), PathError> {
    match name {
        "" | "." => Err(PathError::BadName),
        ".." => Err(PathError::Parent),
        name if name.len() > NAME_BYTES_MAX => Err(PathError::TooLong),
        name if name.contains(['/', '\0']) => Err(PathError::BadName),
        // On Windows these separate folders, drives and streams.
        name if cfg!(windows) && name.contains(['\\', ':']) => Err(PathError::BadName),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(of: &[&str]) -> Vec<String> {
        of.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn path_of_plain_names_is_accepted_others_refused() {
        let long = "x".repeat(256);
        let deep = vec!["d"; 33].join("/");
        let wide = vec!["y".repeat(200); 6].join("/");
        for (dir, file, want) in [
            ("", "f", Ok(names(&["f"]))),
            ("a/b", "f", Ok(names(&["a", "b", "f"]))),
            ("./a/./b/", "f", Ok(names(&["a", "b", "f"]))),
            ("a", "b/f", Ok(names(&["a", "b", "f"]))),
            ("a b", "..f", Ok(names(&["a b", "..f"]))),
            ("x/.antiphon", "f", Ok(names(&["x", ".antiphon", "f"]))),
            ("..", "f", Err(PathError::Parent)),
            ("a/../b", "f", Err(PathError::Parent)),
            ("a", "../f", Err(PathError::Parent)),
            ("a", "..", Err(PathError::Parent)),
            ("/a", "f", Err(PathError::Absolute)),
            ("a", "/etc/passwd", Err(PathError::Absolute)),
            ("a", "", Err(PathError::Empty)),
            ("a", ".", Err(PathError::Empty)),
            ("", &long, Err(PathError::TooLong)),
            (&deep, "f", Err(PathError::TooLong)),
            (&wide, "f", Err(PathError::TooLong)),
            (".antiphon", "f", Err(PathError::Reserved)),
            (".Antiphon/partial", "f", Err(PathError::Reserved)),
            ("", ".antiphon", Err(PathError::Reserved)),
            ("a\0b", "f", Err(PathError::BadName)),
        ] {
            let found = TargetPath::new(Path::new(dir), Path::new(file)).map(TargetPath::into_names);
            assert_eq!(found, want, "{dir:?} and {file:?}");
        }
    }

    #[test]
    fn received_names_are_checked_one_by_one() {
        for (sent, want) in [
            (names(&["a", "f"]), Ok(())),
            (names(&[]), Err(PathError::Empty)),
            (names(&[""]), Err(PathError::BadName)),
            (names(&["a", ""]), Err(PathError::BadName)),
            (names(&["a", ".", "f"]), Err(PathError::BadName)),
            (names(&["a", "..", "f"]), Err(PathError::Parent)),
            (names(&["..", "f"]), Err(PathError::Parent)),
            (names(&["/etc", "f"]), Err(PathError::BadName)),
            (names(&["a/../..", "f"]), Err(PathError::BadName)),
            (names(&["a\0", "f"]), Err(PathError::BadName)),
            (names(&[".ANTIPHON", "received"]), Err(PathError::Reserved)),
        ] {
            assert_eq!(TargetPath::checked(sent.clone()).map(drop), want, "{sent:?}");
        }
    }

    #[test]
    fn different_paths_have_different_keys() {
        let key = |of: &[&str]| TargetPath::checked(names(of)).expect("plain names").key();
        assert_eq!(key(&["a", "b"]), key(&["a", "b"]));
        assert_ne!(key(&["a", "b"]), key(&["ab"]));
        assert_ne!(key(&["a", "b"]), key(&["a", "c"]));
    }

    /// A refused path is no case of the test: each run has as many accepted paths as cases.
    fn refused() -> TestCaseError {
        TestCaseError::reject("the path is refused")
    }

    proptest! {
        #![proptest_config(ProptestConfig { max_global_rejects: 1 << 20, ..ProptestConfig::default() })]

        /// An accepted path, joined to a folder, stays beneath that folder.
        #[test]
        fn accepted_path_stays_beneath_its_folder(
            sent in prop::collection::vec("([.]{0,3}|[a-c/.\\\\\u{0}é]{0,4}|\\.[aA]ntiphon)", 0..6)
        ) {
            let Ok(path) = TargetPath::checked(sent.clone()) else { return Err(refused()) };
            let joined = Path::new("/dest").join(path.text());
            let parts: Vec<Component<'_>> = joined.components().collect();
            prop_assert_eq!(parts.len(), sent.len() + 2);
            prop_assert!(parts[1..].iter().all(|part| matches!(part, Component::Normal(_))));
            prop_assert!(!sent[0].eq_ignore_ascii_case(STATE_DIR));
            prop_assert_eq!(path.into_names(), sent);
        }

        /// The receiving node accepts each path that the sending node accepts.
        #[test]
        fn path_accepted_by_sender_is_accepted_by_receiver(dir in "[a-b./]{0,12}", file in "[a-b./]{0,6}") {
            let Ok(path) = TargetPath::new(Path::new(&dir), Path::new(&file)) else { return Err(refused()) };
            prop_assert_eq!(TargetPath::checked(path.clone().into_names()), Ok(path));
        }
    }
}
