//! The file that is sent, read and hashed piece by piece: jobs for helper threads.
//!
//! Invariant: the hash covers exactly the first `at` bytes, each read once, in order; a file that was changed
//! meanwhile has no hash.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek};
use std::path::Path;
use std::time::SystemTime;

use blake3::Hasher;

use super::messages::CHUNK_BYTES;
use super::outcome::{FileStat, SourceError};

/// What one job hashes at most, so that it does not keep a helper thread from others.
pub(super) const HASHED_AT_ONCE: u64 = 8 * 1024 * 1024;

/// An open file, and how far it is read.
pub(crate) struct SourceFile {
    file: File,
    hasher: Box<Hasher>,
    at: u64,
    pub(super) stat: FileStat,
}

/// The next piece of a file; with the last one, the hash of all.
pub(crate) struct Piece {
    pub(super) bytes: Vec<u8>,
    pub(super) hash: Option<[u8; 32]>,
}

impl SourceFile {
    /// Opens a plain file.
    pub(super) fn open(path: &Path) -> Result<Self, SourceError> {
        let mut options = OpenOptions::new();
        options.read(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            // Or a pipe would wait for its writer.
            options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
        }
        let file = options.open(path).map_err(|reason| refused(&reason))?;
        let stat = stat_of(&file)?;
        Ok(Self { file, hasher: Box::default(), at: 0, stat })
    }

    /// Whether all is read.
    pub(super) fn is_at_end(&self) -> bool {
        self.at == self.stat.size
    }

    /// Hashes on towards `to`, without handing bytes out; true when it is there.
    pub(super) fn hash_towards(&mut self, to: u64) -> Result<bool, SourceError> {
        let count = (to - self.at).min(HASHED_AT_ONCE);
        let copied = hash_some(&mut self.file, &mut self.hasher, count).map_err(|reason| refused(&reason))?;
        self.at += copied;
        if copied < count { Err(SourceError::Changed) } else { Ok(self.at == to) }
    }

    /// The hash of what was read so far.
    pub(super) fn hash(&self) -> [u8; 32] {
        self.hasher.finalize().into()
    }

    /// Begins again.
    pub(super) fn rewind(&mut self) -> Result<(), SourceError> {
        self.file.rewind().map_err(|reason| refused(&reason))?;
        self.hasher.reset();
        self.at = 0;
        Ok(())
    }

    /// Reads the next piece.
    pub(super) fn read(&mut self) -> Result<Piece, SourceError> {
        let count = (self.stat.size - self.at).min(CHUNK_BYTES as u64);
        let mut bytes = Vec::with_capacity(count as usize);
        self.file.by_ref().take(count).read_to_end(&mut bytes).map_err(|reason| refused(&reason))?;
        if bytes.len() as u64 != count {
            return Err(SourceError::Changed);
        }
        self.hasher.update(&bytes);
        self.at += count;
        let hash = if self.is_at_end() { Some(self.final_hash()?) } else { None };
        Ok(Piece { bytes, hash })
    }

    /// The hash of a file that is as it was when it was opened.
    fn final_hash(&self) -> Result<[u8; 32], SourceError> {
        if stat_of(&self.file)? == self.stat { Ok(self.hash()) } else { Err(SourceError::Changed) }
    }
}

/// Feeds up to `count` bytes to a hasher; fewer only at the end of the file.
pub(super) fn hash_some(file: &mut File, hasher: &mut Hasher, count: u64) -> io::Result<u64> {
    let mut buffer = vec![0; 64 * 1024];
    let mut left = count;
    while left > 0 {
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        match file.read(&mut buffer[..room]) {
            Ok(0) => break,
            Ok(read) => {
                hasher.update(&buffer[..read]);
                left -= read as u64;
            }
            Err(reason) if reason.kind() == io::ErrorKind::Interrupted => {}
            Err(reason) => return Err(reason),
        }
    }
    Ok(count - left)
}

fn stat_of(file: &File) -> Result<FileStat, SourceError> {
    let meta = file.metadata().map_err(|reason| refused(&reason))?;
    if !meta.is_file() {
        return Err(SourceError::NotAFile);
    }
    let (seconds, nanos) = since_1970(meta.modified().map_err(|reason| refused(&reason))?);
    Ok(FileStat { size: meta.len(), seconds, nanos, permissions: permissions_of(&meta) })
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

fn refused(reason: &io::Error) -> SourceError {
    match reason.kind() {
        io::ErrorKind::NotFound => SourceError::NotFound,
        io::ErrorKind::IsADirectory => SourceError::NotAFile,
        _ => SourceError::Unreadable(reason.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn pieces(source: &mut SourceFile) -> Result<(Vec<u8>, [u8; 32]), SourceError> {
        let mut all = Vec::new();
        loop {
            let piece = source.read()?;
            all.extend(piece.bytes);
            if let Some(hash) = piece.hash {
                return Ok((all, hash));
            }
        }
    }

    #[test]
    fn a_file_is_read_in_pieces_and_hashed_whole_also_after_a_prefix() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("f");
        let content: Vec<u8> = (0..3 * CHUNK_BYTES + 17).map(|n| n as u8).collect();
        std::fs::write(&path, &content).expect("it is writable");
        let mut source = SourceFile::open(&path).expect("it is there");
        assert_eq!(pieces(&mut source), Ok((content.clone(), blake3::hash(&content).into())));

        source.rewind().expect("it is a file");
        let prefix = CHUNK_BYTES as u64 + 1;
        assert_eq!(source.hash_towards(prefix), Ok(true));
        assert_eq!(source.hash(), *blake3::hash(&content[..prefix as usize]).as_bytes());
        let rest = content[prefix as usize..].to_vec();
        assert_eq!(pieces(&mut source), Ok((rest, blake3::hash(&content).into())));
    }

    #[test]
    fn a_file_that_grows_or_shrinks_meanwhile_has_no_hash() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("f");
        for more in [true, false] {
            std::fs::write(&path, vec![1; 2 * CHUNK_BYTES]).expect("it is writable");
            let mut source = SourceFile::open(&path).expect("it is there");
            source.read().expect("the first half");
            let mut file = OpenOptions::new().append(true).open(&path).expect("it is there");
            match more {
                true => file.write_all(b"more").expect("it is writable"),
                false => file.set_len(CHUNK_BYTES as u64 + 9).expect("it is writable"),
            }
            assert_eq!(pieces(&mut source), Err(SourceError::Changed), "more: {more}");
        }
    }

    #[test]
    fn what_is_no_plain_file_is_refused_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(SourceFile::open(folder.path()).err(), Some(SourceError::NotAFile));
        assert_eq!(SourceFile::open(&folder.path().join("none")).err(), Some(SourceError::NotFound));
        #[cfg(target_os = "linux")]
        {
            let pipe = folder.path().join("pipe");
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).expect("a pipe");
            assert_eq!(SourceFile::open(&pipe).err(), Some(SourceError::NotAFile));
        }
    }
}
