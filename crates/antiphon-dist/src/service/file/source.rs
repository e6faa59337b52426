//! Reads and hashes the file that is sent, chunk by chunk. All functions here block: they run in the blocking pool.
//!
//! Invariant: the hash covers exactly the first `offset` bytes, each read once, in order. A file that was changed during
//! the transfer gets no final hash.

use std::io::{self, Read, Seek};
use std::path::Path;

use blake3::Hasher;

use super::disk::{Disk, OpenFile};
use super::messages::CHUNK_BYTES;
use super::outcome::{FileStat, SourceError};

/// The most bytes that one job hashes, so that a job occupies its thread of the blocking pool only for a short time.
pub(super) const HASH_JOB_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// An open file, and the offset up to which it is read.
pub(crate) struct SourceFile {
    file: Box<dyn OpenFile>,
    hasher: Box<Hasher>,
    offset: u64,
    pub(super) stat: FileStat,
}

/// The next chunk of a file. The last one comes with the hash of the whole file.
pub(crate) struct FileChunk {
    pub(super) bytes: Vec<u8>,
    pub(super) hash: Option<[u8; 32]>,
}

impl SourceFile {
    /// Opens a plain file.
    pub(super) fn open(disk: &dyn Disk, path: &Path) -> Result<Self, SourceError> {
        let file = disk.open_file(path)?;
        let stat = file.stat()?;
        Ok(Self { file, hasher: Box::default(), offset: 0, stat })
    }

    /// Whether the whole file is read.
    pub(super) fn is_at_end(&self) -> bool {
        self.offset == self.stat.size
    }

    /// Hashes some of the bytes up to offset `to`; returns true when `to` is reached.
    pub(super) fn hash_towards(&mut self, to: u64) -> Result<bool, SourceError> {
        let count = (to - self.offset).min(HASH_JOB_BYTES_MAX);
        let copied = hash_some(&mut self.file, &mut self.hasher, count)
            .map_err(|reason| SourceError::from_io(&reason))?;
        self.offset += copied;
        if copied < count { Err(SourceError::Changed) } else { Ok(self.offset == to) }
    }

    /// Returns the hash of the bytes that are read so far.
    pub(super) fn hash(&self) -> [u8; 32] {
        self.hasher.finalize().into()
    }

    /// Starts again from the beginning of the file.
    pub(super) fn rewind(&mut self) -> Result<(), SourceError> {
        self.file.rewind().map_err(|reason| SourceError::from_io(&reason))?;
        self.hasher.reset();
        self.offset = 0;
        Ok(())
    }

    /// Reads the next chunk.
    pub(super) fn read(&mut self) -> Result<FileChunk, SourceError> {
        let count = (self.stat.size - self.offset).min(CHUNK_BYTES as u64);
        let mut bytes = Vec::with_capacity(count as usize);
        self.file
            .by_ref()
            .take(count)
            .read_to_end(&mut bytes)
            .map_err(|reason| SourceError::from_io(&reason))?;
        if bytes.len() as u64 != count {
            return Err(self.unexpected_end());
        }
        self.hasher.update(&bytes);
        self.offset += count;
        let hash = if self.is_at_end() { Some(self.final_hash()?) } else { None };
        Ok(FileChunk { bytes, hash })
    }

    /// Returns the hash of the whole file, if the file is unchanged since it was opened, and has no more bytes.
    fn final_hash(&mut self) -> Result<[u8; 32], SourceError> {
        let is_more = self.file.read(&mut [0]).map_err(|reason| SourceError::from_io(&reason))? > 0;
        if is_more || self.file.stat()? != self.stat { Err(self.unexpected_end()) } else { Ok(self.hash()) }
    }

    /// The error for a file that ends elsewhere than it has stated.
    fn unexpected_end(&self) -> SourceError {
        match self.file.stat() {
            Ok(stat) if stat == self.stat => SourceError::UnknownLength { stated: stat.size },
            Ok(_) => SourceError::Changed,
            Err(reason) => reason,
        }
    }
}

/// Feeds up to `count` bytes to a hasher, and returns their number. It is smaller only at the end of the file.
pub(super) fn hash_some(file: &mut impl Read, hasher: &mut Hasher, count: u64) -> io::Result<u64> {
    let mut buffer = vec![0; 64 * 1024];
    let mut remaining = count;
    while remaining > 0 {
        let room = usize::try_from(remaining).unwrap_or(usize::MAX).min(buffer.len());
        match file.read(&mut buffer[..room]) {
            Ok(0) => break,
            Ok(read) => {
                hasher.update(&buffer[..read]);
                remaining -= read as u64;
            }
            Err(reason) if reason.kind() == io::ErrorKind::Interrupted => {}
            Err(reason) => return Err(reason),
        }
    }
    Ok(count - remaining)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::file::system_disk::SystemDisk;
    use std::fs::OpenOptions;
    use std::io::Write;

    fn read_all(source: &mut SourceFile) -> Result<(Vec<u8>, [u8; 32]), SourceError> {
        let mut all = Vec::new();
        loop {
            let chunk = source.read()?;
            all.extend(chunk.bytes);
            if let Some(hash) = chunk.hash {
                return Ok((all, hash));
            }
        }
    }

    #[test]
    fn source_is_hashed_whole_also_after_prefix() {
        let folder = tempfile::tempdir().expect("a temporary folder is created");
        let path = folder.path().join("f");
        let content: Vec<u8> = (0..3 * CHUNK_BYTES + 17).map(|n| n as u8).collect();
        std::fs::write(&path, &content).expect("the file is writable");
        let mut source = SourceFile::open(&SystemDisk, &path).expect("the file exists");
        assert_eq!(read_all(&mut source), Ok((content.clone(), blake3::hash(&content).into())));

        source.rewind().expect("the file is seekable");
        let prefix = CHUNK_BYTES as u64 + 1;
        assert_eq!(source.hash_towards(prefix), Ok(true));
        assert_eq!(source.hash(), *blake3::hash(&content[..prefix as usize]).as_bytes());
        let rest = content[prefix as usize..].to_vec();
        assert_eq!(read_all(&mut source), Ok((rest, blake3::hash(&content).into())));
    }

    #[test]
    fn source_resized_while_read_is_changed() {
        let folder = tempfile::tempdir().expect("a temporary folder is created");
        let path = folder.path().join("f");
        for grows in [true, false] {
            std::fs::write(&path, vec![1; 2 * CHUNK_BYTES]).expect("the file is writable");
            let mut source = SourceFile::open(&SystemDisk, &path).expect("the file exists");
            source.read().expect("the first chunk is readable");
            let mut file = OpenOptions::new().append(true).open(&path).expect("the file exists");
            if grows {
                file.write_all(b"more").expect("the file is writable");
            } else {
                file.set_len(CHUNK_BYTES as u64 + 9).expect("the file is writable");
            }
            assert_eq!(read_all(&mut source), Err(SourceError::Changed), "grows: {grows}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn source_of_unknown_length_is_refused() {
        let mut source =
            SourceFile::open(&SystemDisk, Path::new("/proc/self/status")).expect("the file exists");
        assert_eq!(read_all(&mut source), Err(SourceError::UnknownLength { stated: 0 }));
    }

    #[test]
    fn source_not_plain_file_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder is created");
        assert_eq!(SourceFile::open(&SystemDisk, folder.path()).err(), Some(SourceError::NotAFile));
        assert_eq!(
            SourceFile::open(&SystemDisk, &folder.path().join("none")).err(),
            Some(SourceError::NotFound)
        );
        #[cfg(target_os = "linux")]
        {
            let pipe = folder.path().join("pipe");
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0)
                .expect("the pipe is created");
            assert_eq!(SourceFile::open(&SystemDisk, &pipe).err(), Some(SourceError::NotAFile));
        }
    }
}
