//! A file between two processes on loopback, and what its transfer does to messages meanwhile.
//!
//! Contestants: ours, hashed, sealed and resumable; and by hand, the bytes of the file over one TCP connection into a file.
//! Both end with the file on disk, by fsync. A run compares the hashes of both files when the clock has stopped.

mod ours;
mod raw;

use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::group::{Better, Group, Metric, Workload};

/// How large the file is, in MiB: for the processes of one measurement.
pub(crate) const MIB: &str = "ANTIPHON_BENCH_MIB";

const fn micros(row: &'static str) -> Metric {
    Metric { row, unit: "us", better: Better::Less }
}

/// All workloads with files.
pub(crate) const GROUP: Group = Group {
    name: "files",
    workloads: &[
        Workload {
            name: "file",
            metrics: &[Metric { row: "file", unit: "MiB/s", better: Better::More }],
            contestants: &[("ours", ours::transfer), ("raw-copy", raw::transfer)],
        },
        Workload {
            name: "beside",
            metrics: &[micros("64 B p50 beside"), micros("64 B p99 beside")],
            contestants: &[("ours", ours::round_trips_beside), ("no-file", ours::round_trips_alone)],
        },
    ],
};

fn file_bytes() -> u64 {
    let mib: u64 = std::env::var(MIB).ok().and_then(|mib| mib.parse().ok()).unwrap_or(1024);
    mib << 20
}

/// The folder of the partner that listens there.
fn folder_of(at: SocketAddr) -> PathBuf {
    std::env::temp_dir().join(format!("antiphon-bench-{}", at.port()))
}

/// A file with a content of its own, on disk, and where it is to go; both are gone when this is.
struct Files {
    own: tempfile::TempDir,
    there: PathBuf,
}

impl Files {
    fn new(at: SocketAddr) -> Self {
        let files = Self { own: tempfile::tempdir().expect("there is room"), there: folder_of(at) };
        let mut file = File::create(files.source()).expect("the folder is ours");
        let mut left = file_bytes();
        let mut block = vec![0; 1 << 20];
        while left > 0 {
            // No two blocks are alike.
            blake3::Hasher::new().update(&left.to_le_bytes()).finalize_xof().fill(&mut block);
            let count = left.min(block.len() as u64);
            file.write_all(&block[..count as usize]).expect("there is room");
            left -= count;
        }
        file.sync_all().expect("there is room");
        files
    }

    fn source(&self) -> PathBuf {
        self.own.path().join("file")
    }

    fn mib_a_second(&self, seconds: f64) -> Vec<f64> {
        assert!(hash(&self.source()) == hash(&self.there.join("file")), "another file arrived");
        vec![file_bytes() as f64 / f64::from(1 << 20) / seconds]
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Err(reason) = std::fs::remove_dir_all(&self.there) {
            eprintln!("{} stays: {reason}", self.there.display());
        }
    }
}

fn hash(path: &Path) -> blake3::Hash {
    let mut file = File::open(path).expect("it is there");
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; 1 << 20];
    loop {
        match file.read(&mut block).expect("it can be read") {
            0 => return hasher.finalize(),
            count => hasher.update(&block[..count]),
        };
    }
}
